"""A recorded graph as a picture, unfolded in time.

The picture is the tape, read for a human: every argument of every op is one edge (x * x has two), and only these things are
drawn together: a view of a leaf (W.T, xs[t]) with the leaf, a chain of additions outside the loop as one sum, an element of a stack as
the thing that was stacked, a number with its op (^ 2). In an unfolded graph every use of a leaf is a small copy of its own beside its use.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..graph import Node, Output, Value, node_of
from . import names
from .attention import draw_attention
from .bands import stack_directions
from .cards import dressed
from .cells import collapse as replaced
from .folded import check_alike, fold
from .loops import Loops
from .picture import OPS, Box, Edge, Picture, State, Use
from .places import place
from .scopes import Cell, Scopes

HEAD, TAIL, LONG = 3, 2, 12  # a loop longer than LONG shows its first and last steps


def read(
    outputs: Iterable[Value], *, full: bool = False, cells: bool = False, collapse: Any = (), open: Any = (), folded: bool = False
) -> Picture:
    """The picture of everything that the outputs were computed from. cells, collapse, open: which scopes are one box, see `Scopes`."""
    loops = Loops(list(outputs))
    if folded:
        check_alike(loops)
    steps, hidden = loops.steps, range(0)
    if not full and not folded and len(steps) > LONG:
        hidden = range(steps[HEAD], steps[-TAIL])
        steps = [*steps[: HEAD + 1], *steps[-TAIL:]]
    picture = Picture(columns=sorted({*steps, *loops.initial}), initial=loops.initial, hidden=hidden, states=loops.states)
    _Unfolding(loops, picture).draw()
    if cells or collapse or open:
        picture = grouped(picture, Scopes(loops, cells=cells, collapse=collapse, open=open))
    if folded:
        picture = fold(picture, loops)
    dressed(picture)
    stack_directions(picture)
    place(picture)
    return picture


def grouped(picture: Picture, scopes: Scopes) -> Picture:
    """The picture in which the ops of one scope are one box."""
    numbers: dict[Cell, str] = {}
    groups: dict[str, tuple[str, str]] = {}
    for box in picture.boxes.values():
        cell = scopes.cell_of.get(box.tape) if box.kind in OPS and box.tape is not None else None
        if cell is not None:
            id = numbers.setdefault(cell, f"cell{len(numbers)}")
            groups[box.id] = id, scopes.label(cell.frame)
    picture = replaced(picture, groups)
    draw_attention(picture)
    return dressed(picture)


class _Unfolding:
    """Turns ops, states and leaves into boxes, and arguments into edges."""

    def __init__(self, loops: Loops, picture: Picture):
        self.loops, self.picture = loops, picture
        self.made: dict[Any, str] = {}  # what is drawn only once
        self.hidden: dict[
            tuple[Node, str], tuple[str, int] | None
        ] = {}  # views of leaves in steps left out, and what they are called
        self.number_of = {id(state): number for number, state in enumerate(loops.states)}

    def draw(self) -> None:
        """Fill the picture."""
        loops, picture = self.loops, self.picture
        if picture.hidden:
            self._add(Box("more", "⋯", "more", picture.hidden.start))
        for node in loops.ops:
            if self._shown(node) and node not in loops.sums:
                self._op(node)
        for state in loops.states:
            self._circles(state)
        for node in loops.ops:
            self._arguments(node)
        if picture.hidden and all("more" not in (e.source, e.target) for e in picture.edges):
            del picture.boxes["more"]
        picture.below = self._prepared()

    # ---- Boxes ---------------------------------------------------------------------------------------------------------------------

    def _add(self, box: Box) -> str:
        self.picture.boxes[box.id] = box
        return box.id

    def _shown(self, node: Node) -> bool:
        time = self.loops.times.get(node)
        return time is None or time not in self.picture.hidden  # a range compares None with each of its numbers

    def _box(self, node: Node) -> str:
        """The id of an op's box; of those left out, the box that stands for all of them."""
        return f"n{self.loops.index[self.loops.sums.get(node, node)]}" if self._shown(node) else "more"

    def _op(self, node: Node) -> None:
        loops, given, time = self.loops, node.notes_of(0).name, self.loops.times.get(node)
        if given and time is not None and loops.named[loops.roles[node], given] > 1:
            given += names.below(time)  # y in every step is y₁, y₂, ...
        label = symbol = "Σ" if node in loops.totals else self._symbol(node)
        kind, after = "op", [user for user, _ in loops.users[node]]
        if node in loops.outputs:
            kind, label = "loss", f"{given or ('loss' if node.shape == () else 'y')} = {symbol}"
        elif node not in loops.producers:
            label = f"{given} = {symbol}" if given else symbol
            if time is not None and after and not any(user in loops.times for user in after):
                kind = "term"
        self._add(Box(self._box(node), label, kind, time, tape=node, shape=node.shape, shows=node))

    def _symbol(self, node: Node) -> str:
        """The sign of an op, and with it the number that it takes: ^ 2."""
        left, right = [*(self._number((node, i)) for i in range(len(self.loops.args[node]))), None, None][:2]
        return " ".join(part for part in (left, names.symbol(node), right) if part)

    def _number(self, use: Use) -> str | None:
        """A scalar constant that is written on its op; None for any other argument."""
        node, position = use
        arg = self.loops.args[node][position]
        if use in self.loops.state_of or len(self.loops.args[node]) != 2 or node in self.loops.sums or node in self.loops.totals:
            return None
        return names.value_of_constant(arg) if self.loops.names.given(arg) is None else None

    def _circles(self, state: State) -> None:
        """The state after every step, and before the first; a running total has none."""
        loops, picture, number = self.loops, self.picture, self.number_of[id(state)]
        given = {t: node.notes_of(0).name for t, node in state.producers.items()}
        base = next(iter(given.values())) if len(set(given.values())) == 1 else None  # one name for every step, or one for each
        if any(t in picture.hidden for t in state.producers):
            self._add(Box(f"s{number}_more", "⋯", "more", picture.hidden.start, number))
        if state.first is not None:
            column = picture.initial[0] if state.towards > 0 else picture.initial[-1]
            name = loops.names.given(loops.names.owner(state.first))
            value = names.value_of_constant(state.first) if state.kind == "sum" else None
            label = name or value or (base or state.name) + names.below(column)
            source = node_of(state.first)
            leaf = None if source is None or source in loops.args else loops.names.owner(state.first)
            self._add(
                Box(f"s{number}_first", label, "state", column, number, leaf, getattr(state.first, "shape", None), state.first)
            )
            if source is not None and source in loops.args:
                picture.edges.append(Edge(self._box(source), f"s{number}_first"))
        for time, node in state.producers.items() if state.kind != "sum" else ():
            if time not in picture.hidden:
                name = given[time] if base is None else None
                circle = Box(
                    f"s{number}_t{time}",
                    name or (base or state.name) + names.below(time),
                    "state",
                    time,
                    number,
                    node,
                    node.shape,
                    node,
                )
                self._add(circle)
                picture.edges.append(Edge(self._box(node), circle.id, "carry", number))

    def _leaf(self, arg: Any, use: Use) -> str:
        """The box of a leaf, a view of one, or a constant: a copy for this use, but one circle for the data of a step."""
        loops, (node, position) = self.loops, use
        time, key, source = loops.times.get(node), loops.sequence_key(arg), node_of(arg)
        box = Box(f"a{loops.index[node]}_{position}", "", "constant", time, shape=getattr(arg, "shape", None), shows=arg)
        once: Any = None
        if source is not None:
            box.tape = leaf = loops.names.owner(arg)
            view = self._view(arg, source)
            box.kind, box.family, box.label = "weight", loops.names.family(leaf), loops.names.of(leaf) + view
            once = None if self.picture.columns else (source, view)  # a graph without time shows a leaf once
        else:
            box.label = loops.names.of(arg)
        if time is not None and key is not None and key in loops.sequence:
            box.label = loops.sequence[key] + names.below(time)
            if not key[3]:  # a mask is a copy of its own beside its use
                box.kind, once = "input", (loops.same.get(key, key), time)
        if once is None:
            return self._add(box)
        if once not in self.made:
            self.made[once] = self._add(box)
        return self.made[once]

    def _view(self, arg: Any, source: Node) -> str:
        """What is written behind the name of a leaf."""
        view = self.loops.views[source].text if source in self.loops.views else ""
        return view + (f"[{arg.index}]" if isinstance(arg, Output) else "")

    def _hide(self, arg: Any, use: Use) -> None:
        """Remember a use of a weight in a step that is left out."""
        loops, source = self.loops, node_of(arg)
        assert source is not None
        leaf = loops.names.owner(arg)
        what = leaf, self._view(arg, source)
        if what not in self.hidden:  # data of a step is no weight
            key = loops.sequence_key(arg)
            label = loops.names.of(leaf) + what[1], loops.names.family(leaf)
            self.hidden[what] = None if key is not None and key in loops.sequence else label
        called = self.hidden[what]
        if called is not None:
            self.picture.unseen.setdefault(called, []).append(use)

    # ---- Edges ---------------------------------------------------------------------------------------------------------------------

    def _arguments(self, node: Node) -> None:
        """One edge for every argument of an op; of a hidden one, what meets the steps that are shown, and its weights."""
        loops, target = self.loops, self._box(node)
        if target == "more":
            for position, arg in enumerate(loops.args[node]):
                source, use = node_of(arg), (node, position)
                if use in loops.state_of:
                    self._take_state(loops.state_of[use], use, target)
                elif source in loops.sums:
                    continue
                elif source is not None and source not in loops.args:
                    self._hide(arg, use)
                elif source is not None and self._box(source) != target:
                    self._connect(Edge(self._box(source), target, "more"), once=True)
            return
        summed = node in loops.sums or node in loops.totals
        for position, arg in enumerate(loops.args[node]):
            source, use = node_of(arg), (node, position)
            folded = source in loops.sums or (summed and names.value_of_constant(arg) == "0")
            if arg is None or folded or self._number(use) is not None:
                continue
            if use in loops.state_of:
                self._take_state(loops.state_of[use], use, target)
            elif source is None or source not in loops.args:
                self._connect(Edge(self._leaf(arg, use), target, use=use))
            elif self._shown(source):
                times = {loops.times.get(node), loops.times.get(source)} - {None}
                self._connect(Edge(self._box(source), target, "jump" if len(times) > 1 else "plain", use=use))
            elif self._box(source) != target:
                self._connect(Edge(self._box(source), target, "more"), once=True)

    def _take_state(self, state: State, use: Use, target: str) -> None:
        loops, number, (node, position) = self.loops, self.number_of[id(state)], use
        source, more = node_of(loops.args[node][position]), f"s{number}_more"
        if source is None or source not in loops.times:
            circle = f"s{number}_first"
        elif not self._shown(source):
            circle = more
        else:
            circle = self._box(source) if state.kind == "sum" else f"s{number}_t{loops.times[source]}"
        kind = "sum" if state.kind == "sum" else "state"
        if self._shown(node):
            self._connect(Edge(circle, target, kind, number, use))
        elif circle != more:
            self._connect(Edge(circle, more, kind, number), once=True)

    def _connect(self, edge: Edge, once: bool = False) -> None:
        ends = edge.source, edge.target
        if not once or ends not in self.made:
            self.picture.edges.append(edge)
        if once:
            self.made[ends] = edge.target

    def _prepared(self) -> list[str]:
        """What is computed before the loop and read inside it."""
        loops = self.loops
        leads_to_steps: set[Node] = set()
        for node in reversed(loops.ops):
            if any(user in loops.times or user in leads_to_steps for user, _ in loops.users[node]):
                leads_to_steps.add(node)
        after: set[Node] = set()
        for node in loops.ops:
            if node in loops.times or any(n in after for n in map(node_of, loops.args[node])):
                after.add(node)
        return [self._box(n) for n in loops.ops if n in leads_to_steps and n not in after and n not in loops.sums]
