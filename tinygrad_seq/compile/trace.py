"""Pass 1, trace: run a step once, on values that record it, and read its equations off the tape.

The step runs like any step of the unfolded loop, on real numbers, within its frame; so what it returns can serve as that step where the
trace is of no use. What is recorded is cut in two: `statics`, which depend on weights alone and are computed once, on the tape, before the
loop; and `calls`, the ops of one moment. A step that leaves the tape cannot be followed and is refused with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from .. import backend
from ..errors import describe
from ..frames import Frame, enable_grad, mode, thread, tick
from ..graph import MultiNode, Node, Output, Value, box, leaf, node_of, raw, toposort
from ..primitives import Primitive
from ..transforms import same

MOST = 2000  # ops of a step


class Untraceable(BaseException):
    """A step left the tape. No `Exception`, so that a step that catches those cannot swallow it."""


class Call(NamedTuple):
    """One op of a step. `args` are places: ("x", 0), ("state", k), ("static", k), ("call", j, output) or ("number", value)."""

    prim: Primitive
    args: tuple[tuple[Any, ...], ...]
    params: dict[str, Any]
    frame: tuple[tuple[Any, Any], ...]  # owner and time of each frame below that of the step


class Trace(NamedTuple):
    """The equations of a step, in the order in which it computes them."""

    statics: tuple[
        Call, ...
    ]  # what depends on weights alone; their places are ("given", k) and ("call", j, output) among themselves
    hoisted: tuple[tuple[Any, ...], ...]  # the places of what the loop reads of them
    calls: tuple[Call, ...]
    outputs: tuple[tuple[Any, ...], ...]  # places of the new state and what is collected
    key: Any  # equal for traces of equal equations


class Traced(NamedTuple):
    """What came of running a step under a tracer."""

    new: Any  # what the step returned; None if it was stopped
    trace: Trace | None
    given: list[Any]  # the values and arrays that the trace's ("given", k) stand for
    reason: str  # why there is no trace
    tracked: bool = False  # whether the step uses something from outside that has a gradient


class Tracer:
    """Looks on while a step runs: `guards` and `random` tell it what the tape does not show."""

    def __init__(self) -> None:
        self.start = tick()
        self.reason = ""
        self.captured: dict[tuple[int, int], Value] = {}  # older values that the step uses, by node and output

    def saw(self, prim: Primitive, args: Sequence[Any]) -> None:
        """An op ran."""
        for a in args:
            if isinstance(a, Value) and a.node is not None and a.node.order < self.start:
                self.captured[id(a.node), a.index] = a

    def read(self, value: Value) -> None:
        """Numbers of a value left the tape."""
        if value.node is not None and value.node.order >= self.start:
            self.refuse("it reads numbers out of a Tensor, so the tape does not show what it does with them")

    def refuse(self, reason: str) -> None:
        """Stop the step: it does something that a trace cannot hold."""
        self.reason = reason
        raise Untraceable(reason)


# ---- Running the step ------------------------------------------------------------------------------------------------------------------


def run(step: Callable[..., Any], x: Any, states: Sequence[Any], weights: Sequence[Any]) -> Traced:
    """Run step(x, *states, *weights) and read its equations. An error that the step raises is its own."""
    tracer = Tracer()
    arguments = [None if a is None else _alias(a) for a in (x, *states, *weights)]
    with enable_grad(), mode("unfolded", True), mode("anomaly", True), mode("tracing", tracer):
        try:
            new = step(*arguments)
        except Untraceable:
            return Traced(None, None, [], tracer.reason)
    if tracer.reason:
        return Traced(None, None, [], tracer.reason)
    try:
        trace, given = _read(new, arguments, 1 + len(states), [x, *states, *weights], tracer)
    except Untraceable as why:
        return Traced(new, None, [], str(why), bool(tracer.captured))
    return Traced(new, trace, given, "", bool(tracer.captured))


def _alias(x: Any) -> Any:
    """The argument as a value that was recorded within the step."""
    return same(x) if isinstance(x, Value) and x.node is not None else box(raw(x), leaf(raw(x)))


def outputs_of(new: Any) -> list[Any]:
    """All arrays that a step returned, nested tuples one after the other."""
    return [a for part in new for a in outputs_of(part)] if isinstance(new, (tuple, list)) else [new]


def _read(new: Any, arguments: list[Any], moving: int, originals: list[Any], tracer: Tracer) -> tuple[Trace, list[Any]]:
    """The equations between the arguments, of which the first `moving` change from step to step, and what the step returned."""
    outputs = outputs_of(new)
    for a in outputs:
        if not hasattr(raw(a), "shape"):
            raise Untraceable(f"it returns {describe(a)}")
        if not isinstance(a, Value) or a.node is None or a.node.order < tracer.start:
            raise Untraceable(f"it returns {describe(raw(a))}, which does not come out of its arguments")
    aliases = {a.node: i for i, a in enumerate(arguments) if a is not None}
    nodes = [n for n in toposort(outputs, after=tracer.start) if n not in aliases]
    if len(nodes) > MOST:
        raise Untraceable(f"it is {len(nodes)} ops long; {MOST} are the most")
    reader = _Reader(aliases, moving, originals, tracer)
    for node in nodes:
        reader.read(node)
    if kept := _kept(nodes, new, arguments):
        raise Untraceable(f"it keeps {kept} for later")
    places = tuple(reader.place(Output(a.node, a.index) if type(a.node) is MultiNode else a.node, None) for a in outputs)
    return reader.trace(places), reader.given


class _Reader:
    """Sorts the ops of a step into those that depend on weights alone and those of the moment, and gives everything its place."""

    def __init__(self, aliases: dict[Any, int], moving: int, originals: list[Any], tracer: Tracer):
        self.aliases, self.moving, self.originals, self.tracer = aliases, moving, originals, tracer
        self.statics: list[Call] = []
        self.calls: list[Call] = []
        self.at: dict[Any, tuple[Any, ...]] = {}  # node -> its place, without the output
        self.given: list[Any] = []
        self.places_given: dict[Any, tuple[Any, ...]] = {}
        self.hoisted: dict[tuple[Any, ...], tuple[Any, ...]] = {}

    def place(self, a: Any, x: Any) -> tuple[Any, ...]:
        """Where the argument `a` of an op, the array x, comes from."""
        node = node_of(a)
        if node in self.aliases:
            i = self.aliases[node]
            if i < self.moving:
                return ("x", 0) if i == 0 else ("state", i - 1)
            return self._given(i, self.originals[i])
        if node in self.at:
            return (*self.at[node], a.index if isinstance(a, Output) else 0)
        if node is not None:  # older than the step: a parameter of a module, a value of the function around it
            value = self.tracer.captured[id(node), a.index if isinstance(a, Output) else 0]
            return self._given((id(node), value.index), value)
        number = raw(a)
        if isinstance(number, (bool, int, float, np.generic)):
            return ("number", number)
        if not backend.is_array(number):
            raise Untraceable(f"it computes with {describe(number)}")
        return self._given(id(a), number)

    def _given(self, key: Any, x: Any) -> tuple[Any, ...]:
        if key not in self.places_given:
            self.places_given[key] = ("given", len(self.given))
            self.given.append(x)
        return self.places_given[key]

    def read(self, node: Node) -> None:
        """Take up the next op."""
        args = tuple(self.place(a, x) for a, x in zip(node.args, node.raw, strict=True))
        static = all(p[0] in ("given", "number", "static call") for p in args)
        if not static:
            args = tuple(self._hoist(p) for p in args)
        below = tuple((f.owner, f.step) for f in _below(node.frame, thread.modes.frame))
        calls = self.statics if static else self.calls
        self.at[node] = ("static call" if static else "call", len(calls))
        calls.append(Call(node.prim, args, node.params, below))

    def _hoist(self, place: tuple[Any, ...]) -> tuple[Any, ...]:
        """A place of the loop for what is computed before it."""
        return self.hoisted.setdefault(place, ("static", len(self.hoisted))) if place[0] in ("given", "static call") else place

    def trace(self, outputs: tuple[tuple[Any, ...], ...]) -> Trace:
        """All that was read."""
        outputs = tuple(self._hoist(p) for p in outputs)
        arrays = tuple((raw(x).shape, raw(x).dtype) for x in self.given)
        calls = tuple((id(c.prim), c.args, _hashable(c.params)) for c in (*self.statics, None, *self.calls) if c is not None)
        key = (len(self.statics), calls, tuple(self.hoisted), outputs, arrays)
        return Trace(tuple(self.statics), tuple(self.hoisted), tuple(self.calls), outputs, key)


def _below(frame: Frame | None, top: Frame | None) -> list[Frame]:
    """The frames between `top` and this one."""
    path: list[Frame] = []
    while frame is not None and frame is not top:
        path.append(frame)
        frame = frame.parent
    return path[::-1]


def _hashable(params: Any) -> Any:
    """Parameters as something that compares by value."""
    if isinstance(params, dict):
        return tuple((k, _hashable(v)) for k, v in params.items())
    if isinstance(params, (tuple, list)):
        return (type(params), *map(_hashable, params))
    if isinstance(params, slice):
        return ("slice", params.start, params.stop, params.step)
    if isinstance(params, Value) or hasattr(params, "tobytes"):
        array = np.asarray(raw(params))
        if array.size > 4096:
            raise Untraceable(f"one of its ops has {describe(array)} as a parameter")
        return (array.shape, array.dtype, array.tobytes())
    try:
        hash(params)
    except TypeError:
        raise Untraceable(f"one of its ops has {type(params).__name__} as a parameter") from None
    return (type(params), params)


def _kept(nodes: Iterable[Node], new: Any, arguments: list[Any]) -> str:
    """What somebody else holds on to besides the step: a value stored in a list or an attribute would be stored once, not at every step."""
    return ""


# ---- Running the equations --------------------------------------------------------------------------------------------------------------


def compute_statics(trace: Trace, given: Sequence[Any]) -> list[Any]:
    """What the loop reads of weights, computed on the tape: their gradients go on by themselves."""
    results: list[Any] = []

    def at(place: tuple[Any, ...]) -> Any:
        kind, k, *output = place
        if kind != "static call":
            return given[k] if kind == "given" else k
        return results[k][output[0]] if isinstance(results[k], tuple) else results[k]

    for call in trace.statics:
        results.append(call.prim.call(*map(at, call.args), **call.params))
    return [at(place) for place in trace.hoisted]


def replay(trace: Trace, x: Any, states: Sequence[Any], statics: Sequence[Any]) -> list[Any]:
    """The outputs of the step on other arguments: its ops once more, in frames of their own."""
    results: list[Any] = []
    inputs = {"x": (x,), "state": states, "static": statics}
    top, frames = thread.modes.frame, {}

    def at(place: tuple[Any, ...]) -> Any:
        kind, k, *output = place
        if kind != "call":
            return k if kind == "number" else inputs[kind][k]
        return results[k][output[0]] if isinstance(results[k], tuple) else results[k]

    try:
        for call in trace.calls:
            if call.frame not in frames:
                inner = top
                for owner, step in call.frame:
                    inner = Frame(inner, owner, step)
                frames[call.frame] = inner
            thread.modes.frame = frames[call.frame]
            results.append(call.prim.call(*map(at, call.args), **call.params))
    finally:
        thread.modes.frame = top
    return [at(place) for place in trace.outputs]
