"""The chain rule: one reverse sweep over the tape, and the questions that it answers.

    g(x) = sum over the uses of x of  rule(g(y), y, ..., x, ...)        y: the result of the use

Nodes are visited from the youngest to the oldest, so a node has received everything before it sends anything. On bare arrays
the sweep makes no nodes; with create_graph=True the same rules run on values, and the gradient is itself a graph.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from heapq import heappop, heappush
from typing import Any, NamedTuple

import numpy as np

from . import backend, errors, guards
from .arrivals import Pending, arrive, settle, settled
from .errors import GraphError, ShapeError, message
from .frames import Frame, thread
from .graph import MultiNode, Node, Note, Output, Value, box, node_of, raw, require_recorded, toposort
from .primitives import Deferred

Targets = dict[Node, dict[int, Any]]  # node -> output index -> the gradient found (None: it never arrived)


class Step(NamedTuple):
    """One step of the reverse sweep: a node, the gradient that arrived, and what it sends to each of its arguments."""

    node: Node
    gradient: Any
    contributions: list[Any]  # beside node.args; None where no gradient is asked


def sweep(
    outputs: Sequence[Value],
    cotangents: Sequence[Any],
    targets: Targets | None = None,
    *,
    through: bool = True,
    create_graph: bool = False,
    watch: bool = False,
) -> Iterator[Step]:
    """Differentiate the outputs, weighted by their cotangents, in reverse.

    Without targets, gradients are added to the `.grad` of the leaves. With targets, only nodes on a path to one are visited, and
    each target's gradient is put into the dict; through=False ends the walk there. watch=True yields every step.
    """
    useful = None if targets is None else _on_a_path(outputs, targets, through)
    heap: list[tuple[int, Node]] = []  # youngest first
    grads: dict[Node, Any] = {}  # what has arrived so far
    ours: set[Node] = set()  # whose array in `grads` nobody else holds: it is added to in place
    frames: dict[Frame | None, Frame] = {}
    modes = thread.modes
    anomaly, ndarray = modes.anomaly, np.ndarray
    outer, paused = (modes.record, modes.frame), False
    modes.record = create_graph
    try:
        for value, cotangent in zip(outputs, cotangents, strict=True):
            assert value.node is not None
            if useful is None or value.node in useful:
                at = Output(value.node, value.index) if type(value.node) is MultiNode else value.node
                arrive(at, value.node, cotangent, grads, heap)
        while heap:
            # The youngest node has received all that it will: what arrived is its gradient.
            node = heappop(heap)[1]
            prim = node.prim
            g = arrived = grads.pop(node)
            if type(g) is not ndarray or g.dtype is not node.dtype:
                g = settle(node, g)
            if node.notes is not None and (through or targets is None or node not in targets):
                owned = type(g) is ndarray and (node in ours or g is not arrived)
                g = _notify(node, g, owned=owned, keep=targets is None, create_graph=create_graph)
            if targets is not None and node in targets:
                owned = type(g) is ndarray and (node in ours or g is not arrived)
                for index in targets[node]:
                    part = g[index] if isinstance(g, tuple) else g
                    targets[node][index] = part if part is None or owned or not through else _own(part, bare=not create_graph)
                if not through:
                    continue
            if prim is None:
                if watch:
                    (modes.record, modes.frame), paused = outer, True
                    yield Step(node, g, [])
                    modes, paused = thread.modes, False  # whoever asks for the next step may be in other modes, or another thread
                    outer, modes.record = (modes.record, modes.frame), create_graph
                continue

            # Its rule says what it sends to each of its arguments, on bare arrays or, to be differentiated again, on values.
            if node.order < guards.last_write:
                guards.check_unwritten(node)
            if create_graph:
                y, inputs = _as_values(node)
                if node.frame not in frames:
                    frames[node.frame] = _backward_twin(node.frame)
                modes.frame = frames[node.frame]
            else:
                y, inputs = (node if node.out is None else node.out), node.raw
            params, whole = node.params, (prim.recorded or prim.backward) if create_graph else prim.backward
            edge = prim.edge if create_graph else prim.raw_edge
            if whole is None:
                rows: Any = prim.rows or _no_rule(node)
            elif prim.saves:
                rows = whole(g, y, node.saved, *inputs, **params)
            else:
                rows = whole(g, y, *inputs, **params)
            contributions: list[Any] = []  # for the reader
            for a, row, x in zip(node.args, rows, node.raw):
                single = type(a) is Node
                q = a if single else node_of(a)
                if q is None or row is None or (useful is not None and q not in useful):
                    if watch:
                        contributions.append(None)
                    continue
                if whole is not None:
                    c = row
                else:
                    c = row(g, y, *inputs, **params) if params else row(g, y, *inputs)
                if edge is not None and c.shape != x.shape:
                    c = edge(c, x.shape)
                if watch:
                    c = c.write_out(x) if isinstance(c, Deferred) else c
                    contributions.append(c)
                if anomaly:
                    _check(node, a, g, c)
                if not (single and type(c) is ndarray):  # deferred, recorded, a number, or one of several outputs
                    pending = grads.get(q)
                    if type(pending) is Pending and type(c) is pending.kind and len(pending.parts) < pending.chunk:
                        pending.parts.append(c)
                    else:
                        arrive(a, q, c, grads, heap)
                elif q not in grads:
                    grads[q] = c
                    heappush(heap, (-q.order, q))
                    if prim.owns and whole is prim.backward:
                        ours.add(q)
                elif q in ours:
                    grads[q] += c
                else:
                    grads[q] = grads[q] + c
                    ours.add(q)
            if watch:  # the reader looks at the step in the modes outside the sweep
                (modes.record, modes.frame), paused = outer, True
                yield Step(node, g, contributions)
                modes, paused = thread.modes, False
                outer, modes.record = (modes.record, modes.frame), create_graph
    finally:
        if not paused:
            modes.record, modes.frame = outer


def _on_a_path(outputs: Sequence[Value], targets: Targets, through: bool) -> set[Node]:
    """The nodes between the outputs and a target, both included; unless `through`, those before the first target alone."""
    useful = set(targets)
    for node in toposort(outputs, after=min(node.order for node in targets), ends=() if through else targets):
        if any(node_of(a) in useful for a in node.args) and (node.prim is None or node.prim.differentiable):
            useful.add(node)
    return useful


def _as_values(node: Node) -> tuple[Any, Sequence[Any]]:
    """The output and the arguments of a node as values again, to record its derivative. What was dropped stays its node."""
    outs = node.out if type(node) is MultiNode else (node.out,)
    y = (
        node
        if node.out is None
        else tuple(box(o, node, i) for i, o in enumerate(outs))
        if type(node) is MultiNode
        else box(node.out, node)
    )
    inputs = []
    for a, x in zip(node.args, node.raw, strict=True):
        if x is a:  # a constant, or dropped
            inputs.append(x)
        elif isinstance(a, Output):
            inputs.append(box(x, a.node, a.index))
        else:
            inputs.append(box(x, a) if isinstance(a, Node) else a)
    return y, inputs


def _notify(node: Node, g: Any, *, owned: bool, keep: bool, create_graph: bool) -> Any:
    """Call the hooks of a node on what arrived, which they may replace, and keep it where somebody asked for it.

    Rules pass on the array that they got and the seed is the caller's, so hooks and `.grad` get arrays of their own.
    """
    notes = node.notes or {}
    if node.prim is None and type(g) is np.ndarray and not notes[0].hooks:  # a leaf, such as a parameter
        if keep and notes[0].keep:
            _keep(notes[0], g, node.shape, owned)
        return g
    parts = list(g) if isinstance(g, tuple) else [g]
    for index, note in notes.items():
        part = parts[index]
        if part is None:
            continue
        for hook in tuple(note.hooks.values()):
            answer = hook(_own(part))
            if answer is not None:
                check_cotangent("a gradient hook", answer, raw(part))
                answer = settled(answer if isinstance(answer, Value) else box(_like(answer, raw(part)), None), part.dtype)
                part, owned = (_own(answer) if create_graph else answer._data.copy()), False
        parts[index] = part
        if keep and note.keep:
            _keep(note, part, node.shape[index] if isinstance(g, tuple) else node.shape, owned)
    return tuple(parts) if isinstance(g, tuple) else parts[0]


def _keep(note: Note, g: Any, shape: tuple[int, ...], owned: bool) -> None:
    """Add what arrived at a value to its `.grad`."""
    guards.check_shape(g, shape)
    if note.grad is None:
        note.grad = box(g, None) if owned and (isinstance(g, Value) or g.flags.c_contiguous) else _own(g)
    else:
        note.grad = note.grad + g if isinstance(g, Value) else box(_array(note.grad._data + g), None)


def _own(g: Any, bare: bool = False) -> Any:
    """A gradient as a value (or bare) in memory of its own, connected as before."""
    if not isinstance(g, Value):
        return _array(g).copy() if bare else box(_array(g).copy(), None)
    return box(g._data.copy(), g.node, g.index if type(g.node) is MultiNode else None)


def _array(x: Any) -> Any:
    return x if backend.is_array(x) else np.asarray(x)


def _backward_twin(frame: Frame | None) -> Frame:
    """The frame of what a gradient records: the coordinates of the forward node, marked backward."""
    if frame is None:
        return Frame(None, None, backward=True)
    return Frame(frame.parent, frame.owner, frame.step, backward=True)


def _check(node: Node, a: Any, g: Any, c: Any) -> None:
    """Anomaly mode: the contribution just made to the argument `a` must be finite."""
    assert node.prim is not None
    label = next(label for label, b in zip(guards.labels(node.prim, node.args), node.args, strict=True) if b is a)
    incoming = [raw(part) for part in (g if isinstance(g, tuple) else (g,)) if part is not None]
    guards.check_backward(node, label, incoming, raw(c.write_out(a) if isinstance(c, Deferred) else c))


def _no_rule(node: Node) -> Sequence[Any]:
    assert node.prim is not None
    raise GraphError(
        message(
            f"{node.prim.name}: no derivative is defined for this op",
            where=str(node.frame or ""),
            do=f"state it: defvjp({node.prim.name}, lambda g, y, {', '.join(node.prim.names)}: ...), or call the op inside no_grad()",
        )
    )


# ---- The questions ----------------------------------------------------------------------------------------------------------------


def backward(outputs: Value | Sequence[Value], gradient: Any = None, *, create_graph: bool = False) -> None:
    """Add the derivative of the outputs to the `.grad` of every leaf that they depend on.

    gradient: the cotangent of a non-scalar output, of its shape (for several outputs a sequence). create_graph: record the gradients,
    to differentiate them again; a recorded `.grad` and its leaf then hold each other until the garbage collector comes, where `grad`
    makes no such cycle. The graph lives on as long as you hold it; calling twice adds twice.
    """
    values, cotangents = _prepare("backward", outputs, gradient, create_graph)
    deque(sweep(values, cotangents, create_graph=create_graph), maxlen=0)


def grad(
    outputs: Value | Sequence[Value],
    inputs: Value | Sequence[Value],
    cotangents: Any = None,
    *,
    create_graph: bool = False,
    allow_unused: bool = False,
) -> Any:
    """The derivative of the outputs with respect to the inputs, which may be leaves or intermediate tensors.

        grad(y, x, u) = u^T dy/dx

    Touches no `.grad` and visits only what lies between. One tensor for one input, a tuple for a sequence of them. An input that
    the outputs do not depend on is an error, or None with allow_unused=True.
    """
    values, seeds = _prepare("grad", outputs, cotangents, create_graph)
    several = isinstance(inputs, Sequence)
    wanted: Sequence[Value] = inputs if isinstance(inputs, Sequence) else [inputs]
    targets: Targets = {}
    for x in wanted:
        targets.setdefault(require_recorded(x, "grad: an input"), {})[x.index] = None
    if targets:
        deque(sweep(values, seeds, targets, create_graph=create_graph), maxlen=0)
    found = [targets[x.node][x.index] for x in wanted if x.node is not None]
    for position, (x, g) in enumerate(zip(wanted, found, strict=True)):
        if g is None and not allow_unused:
            raise GraphError(
                message(
                    f"grad: the outputs do not depend on input {position} ({x.name or errors.describe(x._data)})",
                    expected="inputs that the outputs were computed from",
                    do="leave it out, or pass allow_unused=True to get None for it",
                )
            )
    result = tuple(g if g is None or isinstance(g, Value) else box(g, None) for g in found)
    return result if several else result[0]


def steps_of_backward(outputs: Value | Sequence[Value], gradient: Any = None, *, targets: Targets | None = None) -> Iterator[Step]:
    """The reverse sweep as an iterator of (node, incoming gradient, contributions): the stream that readers consume.

    Touches no `.grad` unless it is exhausted; raw arrays throughout. Every contribution stands beside its argument in `node.args`.
    """
    values, cotangents = _prepare("steps_of_backward", outputs, gradient, False)
    return sweep(values, cotangents, targets, watch=True)


def _prepare(who: str, outputs: Any, cotangents: Any, create_graph: bool) -> tuple[list[Value], list[Any]]:
    """Outputs as a list, and a cotangent of the right shape and dtype for each."""
    backend.keep_freed_memory()
    several = isinstance(outputs, (list, tuple))
    values = list(outputs) if several else [outputs]
    given = [None] * len(values) if cotangents is None else list(cotangents) if several else [cotangents]
    if len(given) != len(values):
        raise ShapeError(message(f"{who}: {len(given)} cotangents for {len(values)} outputs", expected="one for each output"))
    seeds = []
    for value, cotangent in zip(values, given, strict=True):
        require_recorded(value, who)
        data = value._data
        if cotangent is None:
            if data.size != 1:
                raise GraphError(
                    message(
                        f"{who}: the output {errors.describe(data)} is no scalar",
                        expected="a scalar, such as a loss, or a cotangent of the output's shape",
                        do="sum() or mean() it first, or pass gradient=",
                    )
                )
            cotangent = np.ones_like(data)
        else:
            check_cotangent(who, cotangent, data)
        seed = cotangent if isinstance(cotangent, Value) else box(_like(cotangent, data), None)
        seeds.append(seed if create_graph else _like(seed._data, data))
    return values, seeds


def _like(x: Any, data: Any) -> Any:
    return x if backend.is_array(x) and x.dtype == data.dtype else backend.array_module(data).asarray(x, dtype=data.dtype)


def check_cotangent(who: str, cotangent: Any, data: Any) -> None:
    """Raise unless the cotangent fits the array that it is the gradient of, in shape and device."""
    array = raw(cotangent)
    shape = array.shape if backend.is_array(array) else np.shape(array)
    if shape != data.shape:
        raise ShapeError(
            message(f"{who}: the gradient has shape {shape}", expected=f"{data.shape}, the shape of what it is the gradient of")
        )
    if backend.is_array(array) and backend.array_module(array) is not backend.array_module(data):
        raise errors.DeviceError(
            message(
                f"{who}: the gradient lives on {backend.device_of(array)}, the output on {backend.device_of(data)}",
                do="move one of them: x.to(device)",
            )
        )
