"""Scopes: the calls of modules and the steps of loops that a picture can show as one box. Knows frames and patterns, and nothing of boxes."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from ..errors import ArgumentError, message
from ..frames import Frame
from ..graph import Node, node_of
from .loops import Loops
from .names import below

LAYER = re.compile(r"layer (\d+)(_reverse)?")


class Cell(NamedTuple):
    """One box: a call, as far as it belongs to one time step."""

    frame: Frame
    time: int | None


class Scopes:
    """Which ops are drawn together.

    An op stands in the scopes of its frames, the outermost first. A scope is drawn as one box where `collapse` names it. With cells=True
    so is the outermost scope of an op that lies within one step (the cell of a loop), and outside of all steps the innermost module. What
    `open` names is drawn open with everything in it, but for what `collapse` names inside of it. In a box of a loop step whose ops
    stand in no module are those from which the next state is reached; what is read from the state (an output, a loss) is not.
    """

    def __init__(self, loops: Loops, *, cells: bool = False, collapse: Any = (), open: Any = ()):
        self.loops, self.cells = loops, cells
        self.collapse, self.open = _wishes(collapse), _wishes(open)
        self.found: Counter[int] = Counter()  # how many scopes each wish names
        self.texts: dict[Frame, tuple[str, ...]] = {}
        self.labels: dict[Frame, str] = {}
        self.paths = _attributes({f.path()[0] for f in {n.frame for n in loops.ops} if f is not None})
        self.times: dict[Frame, set[int | None]] = defaultdict(set)
        for node in loops.ops:
            frame = node.frame
            while frame is not None and loops.times.get(node) not in self.times[frame]:
                self.times[frame].add(loops.times.get(node))
                frame = frame.parent
        modules = [f for f in self.times if f.owner is not None and not isinstance(f.owner, str)]
        self.containers = {g for f in modules for g in f.path()[:-1]}
        self.owners: dict[str, dict[int, None]] = defaultdict(dict)  # what has one name, in the order of the first calls
        for f in sorted(self.times, key=lambda f: f.call):
            self.owners[_owner(f)][id(f.owner)] = None
        self.layers = {f: _owner(f) for f in self.times if LAYER.fullmatch(_owner(f))}
        self.cell_of = self._cells()
        self._unnamed()

    # ---- Which ops are drawn together --------------------------------------------------------------------------------------------------

    def _cells(self) -> dict[Node, Cell]:
        loops = self.loops
        cell_of: dict[Node, Cell] = {}
        choice: dict[tuple[Frame, bool], tuple[Frame, bool] | None] = {}
        loose: set[Node] = set()  # stand in a step, and in no scope within it
        for node in loops.ops:
            if node.frame is None or node.frame.backward:
                continue
            time = loops.times.get(node)
            key = node.frame, time is None
            if key not in choice:
                choice[key] = self._choose(node.frame, time is None)
            chosen = choice[key]
            if chosen is not None:
                frame, asked = chosen
                cell_of[node] = Cell(frame, time)
                if not asked and frame.step is not None:
                    loose.add(node)
        around = {f for f in {cell.frame for cell in cell_of.values()} if f.step is None and len(self.times[f] - {None}) > 1}
        cores = self._cores()
        full = {cell_of[n].frame.parent for n in cores if n in cell_of and n not in loose}  # steps whose state a scope within makes
        for node, cell in list(cell_of.items()):
            outside = cell.time is None and cell.frame in around  # what surrounds a loop stays open
            if outside or (node in loose and (node not in cores or cell.frame in full)):
                del cell_of[node]
        if self.cells:
            self._absorb(cell_of)
        return cell_of

    def _choose(self, frame: Frame, timeless: bool) -> tuple[Frame, bool] | None:
        """The scope in whose box the ops of a frame are drawn, and whether a wish named it."""
        path = [f for f in frame.path() if f.owner is not None]
        default = self._default(path, timeless)
        for f in path:
            asked = self._asked(self.collapse, f, 0)
            if self._asked(self.open, f, len(self.collapse)):
                default = None
            elif asked or f is default:
                return f, asked
        return None

    def _default(self, path: list[Frame], timeless: bool) -> Frame | None:
        if not self.cells:
            return None
        if timeless:
            modules = [f for f in path if not isinstance(f.owner, str) and self.times[f] <= {None}]
            return modules[-1] if modules and modules[-1] not in self.containers else None
        step = next((k for k in reversed(range(len(path))) if path[k].step is not None), None)
        if step is not None:
            return path[step + 1] if step + 1 < len(path) else path[step]
        return next((f for f in path if len(self.times[f]) == 1), None)

    def _asked(self, wishes: list[Any], frame: Frame, offset: int) -> bool:
        hits = [k for k, wish in enumerate(wishes) if _fits(wish, self._names(frame), frame)]
        for k in hits:
            self.found[k + offset] += 1
        return bool(hits)

    def _cores(self) -> set[Node]:
        """The ops of each step from which its new state is reached."""
        loops = self.loops
        handed_on = {node for state in loops.states if state.kind != "sum" for node in state.producers.values()}
        core: set[Node] = set()
        steps = {f: _step(f) for f in {n.frame for n in loops.ops}}
        for node in reversed(loops.ops):
            if node in loops.times and (
                node in handed_on
                or any(
                    user in core and loops.times[user] == loops.times[node] and steps[user.frame] is steps[node.frame]
                    for user, _ in loops.users[node]
                )
            ):
                core.add(node)
        return core

    def _absorb(self, cell_of: dict[Node, Cell]) -> None:
        """What masks padding goes with the cell whose states, outputs or inputs it masks."""
        loops = self.loops
        masks = [n for n in loops.ops if n not in cell_of and n in loops.times and n.prim is not None and n.prim.name == "where"]
        for node in masks:
            near = {n for k, n in enumerate(map(node_of, loops.args[node])) if n in loops.args and (node, k) not in loops.state_of}
            self._follow(node, {cell_of.get(n) for n in near if n is not None}, cell_of)
        for node in reversed(masks):
            if node not in cell_of and len(loops.users[node]) == 1:
                self._follow(node, {cell_of.get(user) for user, _ in loops.users[node]}, cell_of)

    def _follow(self, node: Node, cells: set[Cell | None], cell_of: dict[Node, Cell]) -> None:
        (cell,) = cells if len(cells) == 1 else (None,)
        if cell is not None and cell.time == self.loops.times.get(node) and not self._opened(node):
            cell_of[node] = cell

    def _opened(self, node: Node) -> bool:
        path = [] if node.frame is None else node.frame.path()
        return any(_fits(wish, self._names(f), f) for f in path if f.owner is not None for wish in self.open)

    # ---- What scopes are called ----------------------------------------------------------------------------------------------------------

    def _names(self, frame: Frame) -> tuple[str, ...]:
        """Everything that a pattern may say for a scope."""
        if frame not in self.texts:
            path = [f for f in frame.path() if f.owner is not None]
            own = _owner(frame)
            names = [own, " > ".join(_owner(f) for f in path if f.step is None or f is frame)]
            attribute = self.paths.get(id(frame.owner))
            if attribute:
                names += [attribute, attribute.rpartition(".")[2]]
            if frame.step is not None:  # the step of a layer is drawn under the name of the layer
                names += [name for f in path[-3:-1] for name in self._names(f)] if own == "step" else []
            self.texts[frame] = tuple(names)
        return self.texts[frame]

    def _unnamed(self) -> None:
        """Refuse a wish that names nothing."""
        for k, wish in enumerate([*self.collapse, *self.open]):
            if not self.found[k]:
                scopes = sorted({self._names(f)[1] for f in self.times if f.owner is not None})
                raise ArgumentError(
                    message(
                        f"draw: {wish!r} names no scope of this graph",
                        expected="a module, or a pattern for its class, its path or its place: "
                        + (", ".join(scopes[:12]) or "the graph has no scopes"),
                        do='record inside a module, or inside `with tg.frame("name")`',
                    )
                )

    def label(self, frame: Frame) -> str:
        """What is written on the box: the class of the module, and which of several it is."""
        if frame not in self.labels:
            self.labels[frame] = self._label(frame)
        return self.labels[frame]

    def _label(self, frame: Frame) -> str:
        path = [f for f in frame.path() if f.owner is not None]
        layer = LAYER.fullmatch(_owner(path[-2])) if frame.step is not None and len(path) > 1 else None
        if layer is not None:
            around = [owner for f, owner in self.layers.items() if f.parent is path[-2].parent]
            return _numbered(_owner(path[-3]) if len(path) > 2 else "layer", layer, around)
        if frame.step is not None and _owner(frame) in ("step", "steps"):
            named = [_owner(f) for f in path[:-1] if _owner(f) not in ("scan", "step", "steps")]
            return named[-1] if named else "cell"
        own = _owner(frame)
        if isinstance(frame.owner, str):
            return own
        layers = [m for f in path if (m := LAYER.fullmatch(_owner(f)))]
        if layers:
            return _numbered(own, layers[-1], list(dict.fromkeys(self.layers.values())))
        alike = list(self.owners[own])
        if len(alike) == 1:
            return own
        attribute = self.paths.get(id(frame.owner), "").rpartition(".")[2]
        return f"{own} {attribute}" if attribute and not attribute.isdigit() else f"{own} {below(alike.index(id(frame.owner)) + 1)}"


def _numbered(name: str, layer: re.Match[str], around: Sequence[str]) -> str:
    """LSTM ₂ →: the layer where there are several, the direction where there are two."""
    several = len({LAYER.fullmatch(other)[1] for other in around}) > 1  # type: ignore[index]
    both = any(other.endswith("_reverse") for other in around)
    return name + (f" {below(int(layer[1]) + 1)}" if several else "") + (" ←" if layer[2] else " →" if both else "")


def _owner(frame: Frame) -> str:
    return frame.owner if isinstance(frame.owner, str) else type(frame.owner).__name__


def _attributes(roots: Iterable[Frame]) -> dict[int, str]:
    """The dotted path of every module within the outermost ones, by its id."""
    paths: dict[int, str] = {}
    for root in roots:
        for path, module in getattr(root.owner, "named_modules", tuple)():
            paths.setdefault(id(module), path)
    return paths


def _step(frame: Frame | None) -> Frame | None:
    """The innermost step of a loop around a frame."""
    while frame is not None and frame.step is None:
        frame = frame.parent
    return frame


def _wishes(given: Any) -> list[Any]:
    return list(given) if isinstance(given, (list, tuple, set, frozenset)) else [given]


def _fits(wish: Any, names: Sequence[str], frame: Frame) -> bool:
    """Whether a wish names a scope: a module or a frame itself, or a pattern for one of the names."""
    if isinstance(wish, str):
        return any(fnmatchcase(name, wish) for name in names)
    return wish is frame or wish is frame.owner
