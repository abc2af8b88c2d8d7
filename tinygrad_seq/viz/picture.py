"""What a picture of a recorded graph shows: boxes in time columns, and the edges between them. Knows nothing of DOT.

The picture is the tape, read for a human: every argument of every op is one edge (x * x has two), and only these things are
drawn together: a view of a leaf (W.T, xs[t]) with the leaf, a chain of additions outside the loop as one sum, an element of a stack as
the thing that was stacked. In an unfolded graph every use of a leaf is a small copy of its own beside its use.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from ..graph import Node, Output, Value, node_of, toposort
from . import names
from .times import times_of

Use = tuple[Node, int]  # an argument of an op: the op and the position

OPS, LEAVES = frozenset({"op", "term", "loss"}), frozenset({"weight", "input", "constant"})
HEAD, TAIL, LONG = 3, 2, 12  # a loop longer than LONG shows its first and last steps


@dataclass
class Box:
    """One thing drawn. kind: op, weight, input, constant, state, term (of the loss), loss, or more (steps left out)."""

    id: str
    label: str
    kind: str
    column: int | None = None
    family: int = 0  # which parameter, or which state
    tape: Node | None = None
    shape: Any = None


@dataclass
class Edge:
    """One arrow. kind: plain; carry (an op to its state), state (a state to the next step), sum (a running total), jump, more."""

    source: str
    target: str
    kind: str = "plain"
    family: int = 0
    use: Use | None = None
    spine: bool = False  # from the op that its target waits for: these are drawn straight


@dataclass
class State:
    """A value that steps hand on: what makes it, and how it is drawn. kind: h (below), c (a rail through the ops), sum (a running total)."""

    producers: dict[int, Node]
    uses: list[Use]
    kind: str = "h"
    name: str = ""
    first: Any = None  # the argument that stands for it in the first step
    towards: int = 1  # 1: from t - 1 to t; -1: a loop that runs backwards in time
    steps_of_rail: dict[int, list[Node]] = field(default_factory=dict)


@dataclass
class Picture:
    """Boxes by id, edges in tape order, the columns from left to right, and which boxes stand on one line."""

    boxes: dict[str, Box] = field(default_factory=dict)
    edges: list[Edge] = field(default_factory=list)
    columns: list[int] = field(default_factory=list)
    initial: list[int] = field(default_factory=list)  # the columns of the initial states
    hidden: range = range(0)  # the steps left out; their column is the first of them
    states: list[State] = field(default_factory=list)
    rails: list[list[str]] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)  # the same, from left to right; the first is the bottom of all columns
    below: list[str] = field(default_factory=list)  # prepared outside the loop

    def counts(self) -> Counter[str]:
        """How many boxes there are of each kind."""
        return Counter(box.kind for box in self.boxes.values())


def read(outputs: Iterable[Value], *, full: bool = False) -> Picture:
    """The picture of everything that the outputs were computed from."""
    return _Reader(list(outputs), full).picture


class _Reader:
    def __init__(self, outputs: list[Value], full: bool):
        tape = toposort(outputs)
        self.index = {node: i for i, node in enumerate(tape)}
        self.outputs = {v.node for v in outputs if v.node is not None}
        self.times = times_of(tape)
        self.views = _views(tape, self.outputs)
        self.args: dict[Node, list[Any]] = {}
        self._resolve()
        self.ops = sorted(self.args, key=self.index.__getitem__)
        self._pull_slices()
        self.users: dict[Node, list[Use]] = defaultdict(list)
        for node in self.ops:
            for position, arg in enumerate(self.args[node]):
                source = node_of(arg)
                if source is not None:
                    self.users[source].append((node, position))
        self.sums = self._fold_sums()
        self.totals = {f"n{self.index[node]}" for node in self.sums.values()}
        self.roles = self._roles()
        self.names = names.Names(tape, self.views)
        self.picture = Picture()
        self.made: dict[Any, str] = {}
        self._columns(full)
        self._states()
        self._inputs()
        self._draw()

    # ---- Reading the tape ------------------------------------------------------------------------------------------------

    def _resolve(self) -> None:
        """The arguments of every op that is drawn: an element of a stack is the thing that was stacked."""
        stack = list(self.outputs)
        while stack:
            node = stack.pop()
            if node in self.args or node.prim is None:
                continue
            self.args[node] = args = [_unstacked(arg) for arg in node.args]
            stack.extend(n for n in map(node_of, args) if n is not None and n not in self.views)

    def _pull_slices(self) -> None:
        """A slice that one step reads belongs to that step."""
        readers: dict[Node, set[int | None]] = defaultdict(set)
        for node in self.ops:
            for source in map(node_of, self.args[node]):
                if source is not None:
                    readers[source].add(self.times.get(node))
        for node in self.ops:
            if node not in self.times and node.prim is not None and node.prim.name == "getitem" and len(readers[node]) == 1:
                (time,) = readers[node]
                if time is not None:
                    self.times[node] = time

    def _fold_sums(self) -> dict[Node, Node]:
        """Additions outside the loop that only feed the next addition -> the last of them, which is drawn as their sum."""

        def adds(node: Node | None) -> bool:
            return node is not None and node.prim is not None and node.prim.name == "add" and node not in self.times and node in self.args

        last: dict[Node, Node] = {}
        for node in reversed(self.ops):
            if adds(node):
                for source in map(node_of, self.args[node]):
                    if source is not None and adds(source) and len(self.users[source]) == 1 and source not in self.outputs:
                        last[source] = last.get(node, node)
        return last

    def _roles(self) -> dict[Node, Any]:
        """What an op is within its step: the k-th of its kind. The same role in another step is the same op of the loop."""
        counts: Counter[Any] = Counter()
        roles = {}
        for node in self.ops:
            if node in self.times and node.prim is not None:
                kind = self.times[node], node.prim.name
                roles[node] = (node.prim.name, counts[kind])
                counts[kind] += 1
        return roles

    # ---- Time ---------------------------------------------------------------------------------------------------------------

    def _columns(self, full: bool) -> None:
        steps = sorted({self.times[node] for node in self.ops if node in self.times})
        if not full and len(steps) > LONG:
            self.picture.hidden = range(steps[HEAD], steps[-TAIL])
            steps = [t for t in steps if t not in self.picture.hidden or t == self.picture.hidden.start]
        self.picture.columns = steps

    def _column(self, time: int | None) -> int | None:
        hidden = self.picture.hidden
        return hidden.start if time in hidden else time

    def _shown(self, node: Node) -> bool:
        return self.times.get(node) not in self.picture.hidden

    def _states(self) -> None:
        """The values that steps hand on: arguments made one step earlier."""
        by_role: dict[Any, State] = {}
        self.state_of: dict[Use, State] = {}
        for node in self.ops:
            for position, arg in enumerate(self.args[node]):
                source = node_of(arg)
                towards = self.times[node] - self.times[source] if source in self.times and node in self.times else 0
                if source in self.roles and abs(towards) == 1:
                    role = self.roles[source], (towards, arg.index if isinstance(arg, Output) else 0)
                    state = by_role.setdefault(role, State({}, [], towards=towards))
                    state.uses.append((node, position))
                    self.state_of[node, position] = state
        for node in self.ops:
            for (role, _), state in by_role.items() if node in self.roles else ():
                if role == self.roles[node]:
                    state.producers[self.times[node]] = node
        self.picture.states = states = sorted(by_role.values(), key=lambda s: self.index[s.uses[0][0]])
        for state in states:
            self._classify(state)
        _name_states(states)
        self._initial_states(states)

    def _classify(self, state: State) -> None:
        consumers = {node for node, _ in state.uses}
        producers = set(state.producers.values())
        inside = [u for p in producers for u, k in self.users[p] if u in self.times and self.state_of.get((u, k)) is not state]
        if consumers <= producers and not inside:
            state.kind = "sum"
            return
        if any(node.prim is not None and node.prim.name in names.PRODUCTS for node in consumers):
            return
        for time, producer in state.producers.items():
            rail = self._only_path({n for n in consumers if self.times[n] == time}, producer)
            if rail is None and any(self.times[n] == time for n in consumers):
                return
            state.steps_of_rail[time] = rail or [producer]
        first = min(state.producers) if state.towards > 0 else max(state.producers)
        longest = max((len(rail) for rail in state.steps_of_rail.values()), default=1)
        if first in state.steps_of_rail and longest > 1:  # the first step reads a constant, and has the same ops
            roles = [self.roles[n] for n in next(r for r in state.steps_of_rail.values() if len(r) == longest)]
            here = {self.roles[n]: n for n in self._inputs_of(state.producers[first])}
            state.steps_of_rail[first] = [here[r] for r in roles if r in here]
        state.kind = "c"

    def _inputs_of(self, node: Node) -> list[Node]:
        """The node and the ops of its own step among its arguments."""
        near = [n for n in map(node_of, self.args[node]) if n in self.args and self.times.get(n) == self.times[node]]
        return [*near, node]  # type: ignore[list-item]

    def _only_path(self, starts: set[Node], end: Node) -> list[Node] | None:
        """The one path of at most two ops from a start to `end` within a step; None where there is none or another."""
        near = self._inputs_of(end)
        on = [n for n in near if n in starts]
        if len(on) != 1 or (on[0] is not end and sum(n is on[0] for n in near) > 1):
            return None
        return on if on[0] is end else [on[0], end]

    def _initial_states(self, states: list[State]) -> None:
        """In the first step, the argument that later steps take from the step before is the initial state."""
        steps = self.picture.columns
        if not steps:
            return
        ends = {1: steps[0], -1: steps[-1]}
        first = {towards: {self.roles[n]: n for n in self.ops if self.times.get(n) == end} for towards, end in ends.items()}
        for state in states:
            for node, position in state.uses:
                twin = first[state.towards].get(self.roles[node])
                if twin is not None and position < len(self.args[twin]) and (twin, position) not in self.state_of:
                    arg = self.args[twin][position]
                    if arg is not None and node_of(arg) not in self.times:
                        state.first = arg if state.first is None else state.first
                        if state.first is arg:
                            self.state_of[twin, position] = state
        self.picture.initial = sorted({ends[s.towards] - s.towards for s in states if s.first is not None})
        self.picture.columns = sorted({*steps, *self.picture.initial})

    def _inputs(self) -> None:
        """Data that is another in every step -> (which sequence, its name); known by the constant or by the view of a leaf."""
        sequences: dict[Any, dict[int, Any]] = defaultdict(dict)
        for node in self.roles:
            for position, arg in enumerate(self.args[node]):
                if (node, position) not in self.state_of:
                    key = self._sequence_key(arg)
                    if key is not None:
                        sequences[self.roles[node], position][self.times[node]] = key
        self.sequence: dict[Any, str] = {}
        base: dict[Any, str] = {}
        for elements in sequences.values():
            if len(set(elements.values())) < 2 or len(set(elements.values())) < len(elements):
                continue
            known = next((self.sequence[key] for key in elements.values() if key in self.sequence), None)
            owner = next(iter(elements.values()))[0]  # of constants the first, whose name stands for all
            if known is None:
                known = base.get(owner) or names.singular(self.names.given(owner)) or "x" + "′" * sum(not b for b in base.values())
                base.setdefault(owner, "" if known[0] == "x" else known)
            for key in elements.values():
                self.sequence.setdefault(key, known)

    def _sequence_key(self, arg: Any) -> Any:
        """What tells one element of a sequence from another; None for what is no data."""
        view = self.views.get(node_of(arg)) if node_of(arg) is not None else None  # type: ignore[arg-type]
        if view is not None:
            return (view.leaf, view.text, arg.index if isinstance(arg, Output) else 0) if view.element or isinstance(arg, Output) else None
        if node_of(arg) is None and getattr(arg, "shape", None) is not None and names.value_of_constant(arg) is None:
            return names.identity(arg), "", 0
        return None

    # ---- Boxes and edges ----------------------------------------------------------------------------------------------------

    def _draw(self) -> None:
        picture = self.picture
        if picture.hidden:
            picture.boxes["more"] = Box("more", "⋯", "more", picture.hidden.start)
        for node in self.ops:
            if self._shown(node) and node not in self.sums:
                self._op(node)
        for state in picture.states:
            self._circles(state)
        for node in self.ops:
            self._arguments(node)
        if picture.hidden and all("more" not in (e.source, e.target) for e in picture.edges):
            del picture.boxes["more"]
        self._find_spines()
        self._find_rails()
        self._find_rows()
        prepared: dict[Node, bool] = {}
        for node in reversed(self.ops):
            if node not in self.times:
                prepared[node] = any(u in self.times or prepared.get(u, False) for u, _ in self.users[node])
        reads_steps: set[Node] = set()
        for node in self.ops:
            if node in self.times or any(n in reads_steps for n in map(node_of, self.args[node])):
                reads_steps.add(node)
        picture.below = [f"n{self.index[n]}" for n, p in prepared.items() if p and n not in reads_steps and n not in self.sums]

    def _op(self, node: Node) -> None:
        assert node.prim is not None
        given = node.notes_of(0).name
        total = f"n{self.index[node]}" in self.totals
        symbol = "Σ" if total else self._symbol(node)
        kind, label = "op", symbol
        if node in self.outputs:
            kind, label = "loss", f"{given or ('loss' if node.shape == () else 'y')} = {symbol}"
        elif node in self.times and self.users[node] and not any(u in self.times for u, _ in self.users[node]):
            kind, label = "term", f"{given} = {symbol}" if given else symbol
        elif given and not any(node in s.producers.values() for s in self.picture.states):
            label = f"{given} = {symbol}"
        self._add(Box(f"n{self.index[node]}", label, kind, self.times.get(node), tape=node, shape=node.shape))

    def _symbol(self, node: Node) -> str:
        """The sign of an op, and with it the number that it takes: ^ 2."""
        left, right = [*map(self._number, [(node, i) for i in range(len(self.args[node]))]), None, None][:2]
        return " ".join(part for part in (left, names.symbol(node), right) if part)

    def _number(self, use: Use) -> str | None:
        """A scalar constant that is written on its op; None for any other argument."""
        node, position = use
        if use in self.state_of or len(self.args[node]) != 2 or node in self.sums or f"n{self.index[node]}" in self.totals:
            return None
        return names.value_of_constant(self.args[node][position]) if self.names.given(self.args[node][position]) is None else None

    def _circles(self, state: State) -> None:
        """The state after every step, and before the first; a running total has none."""
        picture = self.picture
        number = picture.states.index(state)
        given = {t: node.notes_of(0).name for t, node in state.producers.items()}
        same = set(given.values())
        base = next(iter(same)) if len(same) == 1 else None
        if picture.hidden and any(t in picture.hidden for t in state.producers):
            self._add(Box(f"s{number}_more", "⋯", "more", picture.hidden.start, number))
        if state.first is not None:
            column = picture.initial[0] if state.towards > 0 else picture.initial[-1]
            name = self.names.given(self.names.owner(state.first))
            value = names.value_of_constant(state.first)
            label = name or (value if state.kind == "sum" and value else (base or state.name) + names.below(column))
            self._add(Box(f"s{number}_first", label, "state", column, number, shape=getattr(state.first, "shape", ())))
            source = node_of(state.first)
            if source in self.args:
                picture.edges.append(Edge(self._box(source), f"s{number}_first", "plain"))
        if state.kind == "sum":
            return
        for time, node in state.producers.items():
            if time not in picture.hidden:
                label = given[time] if given[time] and base is None else (base or state.name) + names.below(time)
                circle = Box(f"s{number}_t{time}", str(label), "state", time, number, node, node.shape)
                self._add(circle)
                picture.edges.append(Edge(f"n{self.index[node]}", circle.id, "carry", number))

    def _arguments(self, node: Node) -> None:
        """One edge for every argument of an op."""
        target = self._box(node)
        for position, arg in enumerate(self.args[node]):
            source, use = node_of(arg), (node, position)
            state = self.state_of.get(use)
            if arg is None or (source is not None and self.sums.get(source) is self.sums.get(node, node)):
                continue
            if state is not None:
                self._take_state(state, use, target)
            elif source is not None and source in self.args:
                here, there = self.times.get(node), self.times.get(source)
                jump = here is not None and there is not None and here != there
                if self._shown(node) and self._shown(source):
                    self._connect(Edge(self._box(source), target, "jump" if jump else "plain", use=use))
                elif self._box(source) != target:
                    self._connect(Edge(self._box(source), target, "more"), once=True)
            elif self._shown(node) and self._number(use) is None and not (target in self.totals and _is_zero(arg)):
                self._connect(Edge(self._leaf(arg, use), target, use=use))

    def _take_state(self, state: State, use: Use, target: str) -> None:
        number, node = self.picture.states.index(state), use[0]
        source = node_of(self.args[node][use[1]])
        if source is None or source not in self.times:
            circle = f"s{number}_first"
        elif not self._shown(source):
            circle = f"s{number}_more"
        else:
            circle = self._box(source) if state.kind == "sum" else f"s{number}_t{self.times[source]}"
        kind = "sum" if state.kind == "sum" else "state"
        if self._shown(node):
            self._connect(Edge(circle, target, kind, number, use))
        elif circle != f"s{number}_more":
            self._connect(Edge(circle, f"s{number}_more", kind, number), once=True)

    def _connect(self, edge: Edge, once: bool = False) -> None:
        if once:
            if (edge.source, edge.target) in self.made:
                return
            self.made[edge.source, edge.target] = edge.source
        self.picture.edges.append(edge)

    def _add(self, box: Box) -> str:
        self.picture.boxes[box.id] = box
        return box.id

    def _box(self, node: Node) -> str:
        return f"n{self.index[self.sums.get(node, node)]}" if self._shown(node) else "more"

    def _leaf(self, arg: Any, use: Use) -> str:
        """The box of a leaf, a view of one, or a constant: a copy for this use, but one circle for the data of a step."""
        node, position = use
        time, key = self.times.get(node), self._sequence_key(arg)
        box = Box(f"n{self.index[self.sums.get(node, node)]}_{self.index[node]}_{position}", "", "constant", time, shape=getattr(arg, "shape", None))
        source = node_of(arg)
        once: Any = None
        if time is not None and key is not None and key in self.sequence:
            box.kind, box.label, once = "input", self.sequence[key] + names.below(time), (key, time)
        elif source is not None:
            view = self.views.get(source)
            leaf = view.leaf if view else source
            suffix = (view.text if view else "") + (f"[{arg.index}]" if isinstance(arg, Output) else "")
            box.kind, box.family, box.tape, box.label = "weight", self.names.family(leaf), leaf, self.names.of(leaf) + suffix
            once = (source, suffix) if not self.picture.columns else None  # a plain graph shows a leaf once
        else:
            box.label = self.names.of(arg)
        if once is not None:
            return self.made.setdefault(once, box.id) if once in self.made else self.made.setdefault(once, self._add(box))
        return self._add(box)

    # ---- Where things stand ---------------------------------------------------------------------------------------------------

    def _find_spines(self) -> None:
        """From every op, the edge to the highest of its arguments."""
        level: dict[str, int] = {}
        longest: dict[str, Edge] = {}
        for edge in self.picture.edges:
            if edge.kind == "plain" and edge.use is not None and self.picture.boxes[edge.source].kind in OPS and self._same_column(edge):
                height = level.get(edge.source, 0) + 1
                if height > level.get(edge.target, 0):
                    level[edge.target], longest[edge.target] = height, edge
        for edge in longest.values():
            edge.spine = True
        self.level = level

    def _find_rows(self) -> None:
        """The rows that hold the columns in order: the bottom one, of leaves and states, and one for every state that enters higher up."""
        picture, boxes = self.picture, self.picture.boxes
        leaves: dict[str, list[str]] = defaultdict(list)
        for edge in picture.edges:
            source = boxes[edge.source]
            if source.kind in LEAVES and source.column is not None and edge.use is not None and edge.source not in leaves[edge.target]:
                leaves[edge.target].append(edge.source)
        entered: dict[int, set[str]] = defaultdict(set)
        for edge in picture.edges:
            if edge.kind == "state" and boxes[edge.target].kind in OPS:
                entered[edge.family].add(edge.target)
        on_rails = {id for rail in picture.rails for id in rail}
        height: dict[int, int] = {}
        rows: dict[int, dict[int, list[str]]] = defaultdict(lambda: defaultdict(list))  # height -> column -> ids
        for number, state in enumerate(picture.states):
            if state.kind == "h":
                height[number] = h = min(self.level.get(target, 0) for target in entered[number]) if entered[number] else 0
                for target in sorted(entered[number]):
                    column = boxes[target].column
                    if self.level.get(target, 0) == h and column is not None:
                        rows[h][column] += [id for id in leaves[target] if id not in rows[h][column]]
        for target, ids in leaves.items():
            column = boxes[target].column
            if self.level.get(target, 0) == 0 and target not in on_rails and column is not None:
                rows[0][column] += [id for id in ids if id not in rows[0][column]]
        for number, h in height.items():
            for id in (f"s{number}_first", f"s{number}_more", *(f"s{number}_t{t}" for t in picture.states[number].producers)):
                if id in boxes:
                    row = rows[h][boxes[id].column]  # type: ignore[index]
                    row.insert(0 if picture.states[number].towards < 0 else len(row), id)
        for column in picture.columns:
            rows[0][column] = rows[0][column] or [f"floor_{column}"]
        picture.rows = [[id for column in picture.columns for id in rows[h][column]] for h in sorted(rows)]

    def _same_column(self, edge: Edge) -> bool:
        boxes = self.picture.boxes
        return boxes[edge.source].column is not None and boxes[edge.source].column == boxes[edge.target].column

    def _find_rails(self) -> None:
        """A state that runs sideways: its ops and circles stand on one line over all columns."""
        for number, state in enumerate(self.picture.states):
            if state.kind == "h":
                continue
            rail = [f"s{number}_first", f"s{number}_more"]
            for time in state.producers:
                if time not in self.picture.hidden:
                    ops = state.steps_of_rail.get(time, [state.producers[time]])
                    rail += [f"n{self.index[n]}" for n in ops] + [f"s{number}_t{time}"]
            self.picture.rails.append([id for id in rail if id in self.picture.boxes])


def _unstacked(arg: Any) -> Any:
    """The thing that was stacked, for an element of a stack; else the argument itself."""
    while True:
        node = node_of(arg)
        if node is None or node.prim is None or node.prim.name not in ("getitem", "unstack"):
            return arg
        source = node_of(node.args[0])
        if source is None or source.prim is None or source.prim.name != "stack" or source.params.get("axis", 0) != 0:
            return arg
        at = node.params.get("key") if node.prim.name == "getitem" else arg.index if node.params.get("axis", 0) == 0 else None
        if type(at) is not int or not -len(source.args) <= at < len(source.args):
            return arg
        arg = source.args[at]


def _views(tape: list[Node], outputs: set[Node]) -> dict[Node, names.View]:
    """Views of leaves, which are drawn with them: W.T, W[:n], xs[t]."""
    views: dict[Node, names.View] = {}
    for node in tape:
        if node.prim is not None and node not in outputs and node.prim.name in names.VIEWS:
            source = node_of(node.args[0])
            text = names.view(node)
            if source is not None and text is not None and (source.prim is None or source in views):
                before = views.get(source, names.View(source, "", False))
                views[node] = names.View(before.leaf, before.text + text, before.element or names.picks(node))
    return views


def _is_zero(arg: Any) -> bool:
    return not isinstance(arg, Value) and node_of(arg) is None and getattr(arg, "shape", ()) == () and arg == 0


def _name_states(states: list[State]) -> None:
    """h for the states that products read (all of them where there is none), c for those that run through."""
    circled = [s for s in states if s.kind != "sum"]
    if circled and all(s.kind == "c" for s in circled):
        circled[0].name = "h"
    for kind in "hc":
        group = [s for s in circled if s.kind == kind and not s.name]
        for number, state in enumerate(group, 1):
            state.name = kind + (names.above(number) if len(group) > 1 else "")
