"""Where a value is used, when, and what each use adds to its gradient: the tape read along the axis of time.

    dL/dW = Σ over the uses of W of what the use sends back          in the notes: dL/dW = Σ_t (term of step t)

Everything here is a pure function of a recorded graph: no `.grad` changes, no graph changes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ..autodiff import Step, Targets, steps_of_backward
from ..errors import GraphError, message
from ..frames import Frame
from ..fusion import opened
from ..graph import MultiNode, Node, Output, Value, box, node_of, require_recorded, toposort
from ..scan import time_loop
from .clock import Clock

# Ops that only show a value in another way: their result is used where the next op uses it.
VIEWS = frozenset("getitem transpose swapaxes moveaxis reshape expand_dims squeeze unstack broadcast_to astype copy same".split())


class Term(NamedTuple):
    """What one use of a value adds to its gradient.

    node, position: the op that uses it, and which of its arguments it is. time: the step of the use; None outside every step. path: the
    modules and loops around the use. value: the term, an array of the shape of the gradient.
    """

    node: Node
    position: int
    time: int | None
    path: str
    value: Any


def tape_of(outputs: Value | Sequence[Value], who: str = "bptt") -> list[Any]:
    """The outputs on a tape on which every compiled time loop is opened into its steps; on their own one where there is none.

    Leaves stay the very same. Raises GraphError where nothing was recorded, ArgumentError where an output is no Tensor.
    """
    values: list[Any] = list(outputs) if isinstance(outputs, (list, tuple)) else [outputs]
    for value in values:
        require_recorded(value, who)
    return opened(values, time_loop)


def time_of(node: Node) -> int | None:
    """The time step in which a node was recorded: that of the innermost loop around it, as the loop told it. None outside every step."""
    return None if node.frame is None else node.frame.time


def place_of(node: Node) -> str:
    """Where a node was recorded, but for its time step: the modules and loops around it, as in "Encoder > LSTM > layer 0_reverse".

    The steps of outer loops belong to the place: "steps t=2 > layer 0". What a gradient recorded (create_graph=True) ends in "backward". Empty
    at the top.
    """
    return "" if node.frame is None else _place(node.frame, _step_of(node.frame, {}))


def _place(frame: Frame, step: Frame | None) -> str:
    """The names around a frame, without that of its step and of steps inside it."""
    path = frame.path()
    inner = path[path.index(step) :] if step is not None else []
    names = [_label(f) for f in path if f.owner is not None and (f not in inner or f.step is None)]
    return " > ".join(names + ["backward"] * frame.backward)


def _step_of(frame: Frame, counts: Mapping[Frame | None, int]) -> Frame | None:
    """The innermost step around a frame, but for a loop of a single step within another."""
    steps = [f for f in reversed(frame.path()) if f.step is not None]
    return next((f for f in steps if counts.get(f.parent, 2) > 1), steps[0] if steps else None)


def _label(frame: Frame) -> str:
    name = frame.owner if isinstance(frame.owner, str) else type(frame.owner).__name__
    return name if frame.step is None else f"{name} t={frame.step}"


def terms(outputs: Value | Sequence[Value], leaves: Value | Sequence[Value], cotangents: Any = None) -> dict[Node, list[Term]]:
    """What each use of the leaves adds to their gradients, in tape order, by the node of the leaf; a leaf without uses has no terms.

    A view of a leaf (W.T, W[:H]), and what is computed from it outside every step and read inside one (a weight that was normalized, the
    embedding of a whole sequence), is the leaf in another form: it is used where the form is. cotangents: of outputs that are no scalars.
    """
    wanted = [leaves] if isinstance(leaves, Value) else list(leaves)
    nodes = [require_recorded(leaf, "bptt") for leaf in wanted]
    found: dict[Node, list[Term]] = {node: [] for node in nodes}
    for leaf, term in stream(tape_of(outputs), nodes, cotangents):
        found[leaf].append(term)
    return {leaf: sorted(uses, key=lambda term: (term.node.order, term.position)) for leaf, uses in found.items()}


def stream(values: Sequence[Value], leaves: Sequence[Node], cotangents: Any = None) -> Iterator[tuple[Node, Term]]:
    """The terms of several leaves as the reverse sweep finds them, the youngest use first; nothing is kept. `values` from `tape_of`."""
    uses = Uses(values, leaves)
    if uses.leaves:
        yield from uses.among(steps_of_backward(list(values), cotangents, targets={leaf: {0: None} for leaf in uses.leaves}))


class Uses:
    """Which nodes of a tape use one of the leaves, and when.

    steps: the step around every frame that has one, times: its time. forms: views of leaves, and what is computed from leaves outside every
    step and read inside one, with the leaves behind them. calls: of a plain loop over a cell the steps, and their loops. users: what uses a leaf or a form of one, and is none itself; there a contribution is
    counted, and pulled back to its leaf. whole: of the tape of which this one is a part or a copy, and which knows the steps.
    """

    def __init__(self, values: Sequence[Value], leaves: Iterable[Node], whole: Uses | None = None):
        self.tape = toposort(values)
        self.outputs = {value.node for value in values}
        on_tape = set(self.tape)
        self.leaves = {leaf: None for leaf in leaves if leaf in on_tape}
        self.steps: dict[Frame, Frame] = {}
        self.times: dict[Frame | None, int | None] = {}
        self.calls: dict[Frame, int] = {}  # the number of the loop of a call that is a step
        if whole is not None:
            self.steps, self.times, self.calls = whole.steps, whole.times, whole.calls
        else:
            self._find_steps()
        self.forms = self._forms()
        known = {**self.leaves, **self.forms}
        self.users = {node: None for node in self.tape if node not in self.forms and any(n in known for n in _sources(node))}
        self.places: dict[Frame | None, str] = {}

    def _find_steps(self) -> None:
        """The step around every frame, and its time."""
        frames = dict.fromkeys(node.frame for node in self.tape)
        counts = Counter(f.parent for f in {f for frame in frames if frame for f in frame.path() if f.step is not None})
        self.steps = {frame: step for frame in frames if frame is not None and (step := _step_of(frame, counts)) is not None}
        self.times = {frame: self.steps[frame].step if frame in self.steps else None for frame in frames}
        self._silent_loops()

    def _silent_loops(self) -> None:
        """Times for a plain `for` loop over a cell, which says none: the calls of the cell are its steps."""
        frames = {f for frame in self.times if frame is not None and frame not in self.steps for f in frame.path()}
        calls = Counter((f.parent, id(f.owner)) for f in frames if f.owner is not None and not isinstance(f.owner, str))
        if max(calls.values(), default=0) < 2:
            return
        found: dict[Frame | None, set[int]] = {}
        clock = Clock(self.tape)
        loops: dict[Frame | None, int] = {}
        for node in clock.frames.keys() & clock.times.keys():
            if self.times[node.frame] is None:
                loops[node.frame] = clock.loop_of(node)
                found.setdefault(node.frame, set()).add(clock.times[node])
        told = {frame: times for frame, times in found.items() if len(times) == 1 and frame is not None}
        inside: dict[Frame, set[int]] = {}
        for frame, times in told.items():
            for outer in frame.path():
                inside.setdefault(outer, set()).update(times)
        for frame, times in told.items():
            self.times[frame] = min(times)
            self.steps[frame] = step = next(outer for outer in frame.path() if len(inside[outer]) == 1)
            self.calls[step] = loops[frame]

    def _forms(self) -> dict[Node, frozenset[Node]]:
        timed, origins, read = self._candidates()
        readers: dict[Node, list[Node]] = {}
        for node in self.tape:
            for source in _sources(node):
                if source in origins:
                    readers.setdefault(source, []).append(node)
        for node in reversed(self.tape):  # what a step reads, directly or through another form
            if node in read and node in origins and node not in timed:
                read.update(_sources(node))
        forms: dict[Node, frozenset[Node]] = {}
        for node, leaves in origins.items():
            known = all(n in self.leaves or n in forms for n in _sources(node) if n in origins)
            if not known or node in self.leaves or node in self.outputs:
                continue
            if _is_view(node) and node in timed:
                used = all(self.times[reader.frame] is not None for reader in readers.get(node, ()))
            else:
                used = node in read or _is_view(node)
            if used:
                forms[node] = leaves
        return forms

    def _candidates(self) -> tuple[set[Node], dict[Node, frozenset[Node]], set[Node]]:
        """What steps have a part in; what is computed from leaves and constants alone, with those leaves; what steps read."""
        timed: set[Node] = set()
        origins: dict[Node, frozenset[Node]] = {}
        read: set[Node] = set()
        for node in self.tape:
            sources = _sources(node)
            if node in self.leaves:
                origins[node] = frozenset([node])
                continue
            if self.times[node.frame] is not None:
                timed.add(node)
                read.update(sources)
            elif not timed.isdisjoint(sources):
                timed.add(node)
            if node not in timed or _is_view(node):
                leaves = frozenset().union(*(origins[n] for n in sources if n in origins))
                if leaves:
                    origins[node] = leaves
        return timed, origins, read

    def of(self, arg: Any) -> Iterable[Node]:
        """The leaves that an argument is, or is a form of."""
        node = node_of(arg)
        return () if node is None else (node,) if node in self.leaves else self.forms.get(node, ())

    def among(self, steps: Iterable[Step]) -> Iterator[tuple[Node, Term]]:
        """The uses among the steps of a reverse sweep: the leaf, and what the use adds to its gradient."""
        for node, _, contributions in steps:
            if node not in self.users:
                continue
            for position, (arg, c) in enumerate(zip(node.args, contributions, strict=False)):
                if c is not None:
                    for leaf in self.of(arg):
                        yield leaf, Term(node, position, self.times[node.frame], self.place(node), self._pulled(arg, c, leaf))

    def place(self, node: Node) -> str:
        """`place_of`, where a loop of a single step within another is no step, and remembered."""
        frame = node.frame
        if frame not in self.places:
            step = self.steps.get(frame) if frame is not None else None
            silent = step is not None and step.step is None
            self.places[frame] = "" if frame is None else _place(frame, None if silent else step)
        return self.places[frame]

    def _pulled(self, arg: Any, c: Any, leaf: Node) -> Any:
        """What a contribution to a form of a leaf is to the leaf itself."""
        node = node_of(arg)
        if node is leaf or node is None:
            return c
        targets: Targets = {leaf: {0: None}}
        form = box(c, node, arg.index if type(node) is MultiNode and isinstance(arg, Output) else None)
        for _ in steps_of_backward([form], [c], targets=targets):
            pass
        return targets[leaf][0]


def _sources(node: Node) -> list[Node]:
    return [n for n in map(node_of, node.args) if n is not None]


def _is_view(node: Node) -> bool:
    return node.prim is not None and node.prim.name in VIEWS


def leaf_of(weight: Any, values: Sequence[Value], who: str) -> Node:
    """The node of a weight that the values were computed from; an error that says what to do where it is none."""
    node = require_recorded(weight, who)
    if node not in set(toposort(values)):
        name = weight.name or "the weight"
        raise GraphError(
            message(
                f"{who}: the loss was not computed from {name}"
                + ("" if node.prim is None else f", the result of {node.prim.name}"),
                expected="a leaf that the loss depends on: a Parameter, or a Tensor made with requires_grad=True",
                do="model.named_parameters() lists the parameters of a model",
            )
        )
    return node
