"""Pass 1, trace: run a step once, on values that record it, and read its equations off the tape.

The step runs like any step of the unfolded loop, on real numbers, within its frame; so what it returns can serve as that step where the
trace is of no use. What is recorded is cut in two: `statics`, which depend on weights alone and are computed once, on the tape, before the
loop; and `calls`, the ops of one moment. A step that leaves the tape cannot be followed and is refused with the reason.
"""

from __future__ import annotations

import linecache
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from .. import backend
from ..errors import describe, message
from ..frames import Frame, enable_grad, mode, thread, tick
from ..graph import MultiNode, Node, Output, Value, box, leaf, node_of, raw, toposort
from ..primitives import Primitive
from ..transforms import same
from .surroundings import Surroundings, changed, plain_key, rules_key

MOST = 2000  # ops of a step
LARGEST = 4096  # entries of an array that is the parameter of an op

Place = tuple[Any, ...]  # where an array comes from, see `Call`


_ON_ARRAYS = "it was given arrays, and cannot do with Tensors, which show its equations, what it does with them"
_OPS = "tg's ops, which take both"
_TENSORS = "tg.tanh(h) in place of np.tanh(h), tg.concatenate in place of h.tolist(), and so on"


class Untraceable(Exception):
    """A step that a trace cannot hold, and why."""


class Call(NamedTuple):
    """One op of a step. `args` are places: ("x", 0), ("state", k), ("static", k), ("call", j, output) or ("number", value)."""

    prim: Primitive
    args: tuple[tuple[Any, ...], ...]
    params: dict[str, Any]
    frame: tuple[Frame, ...] = ()  # the frames below that of the step
    names: tuple[tuple[int, str], ...] = ()  # of its outputs, where the step named them


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
    step: Any = None
    aliases: Sequence[tuple[Any, Any]] = ()  # what stood for the arguments, beside them


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

    def read(self, value: Value, *, detached: bool) -> None:
        """Numbers of a value left the tape; detached: as a constant, so that those of an older value are still seen."""
        of_step = value.node is not None and value.node.order >= self.start
        if of_step or not detached:
            prim = value.node.prim if of_step and value.node is not None else None
            made = (
                ", of before the step"
                if not of_step
                else ", an argument of the step"
                if prim is None or prim is same.primitive
                else f", which {prim.name} made"
            )
            self.refuse(
                "it reads the numbers of a Tensor, and the tape does not show what it does with them",
                expected="ops on Tensors from the arguments to what the step returns",
                got=f"{describe(value._data)}{made}, read as numbers: float(h), h.numpy(), `if h > 0`, detach() do that",
                do="choose with tg.where(h > 0, a, b) in place of `if`, and tg's functions in place of NumPy's",
            )

    def refuse(self, headline: str, **lines: str) -> None:
        """Note that the step does something that a trace cannot hold. It goes on: it is a step of the loop all the same."""
        self.reason = self.reason or why(headline, **lines, line=_line_of_step())


def why(headline: str, **lines: str) -> str:
    """A reason not to compile a step, of which "it" is said."""
    return message(headline, **lines, where="")


def _line_of_step() -> str:
    """The innermost line of the step that is its user's, if one is."""
    at = sys._getframe(1)
    while at.f_back is not None and at.f_code is not run.__code__:
        if str(at.f_globals.get("__name__", "")).partition(".")[0] != __package__.partition(".")[0]:
            text = linecache.getline(at.f_code.co_filename, at.f_lineno).strip()
            return f"{at.f_code.co_filename}:{at.f_lineno}" + (f": {text}" if text else "")
        at = at.f_back
    return ""


# ---- Running the step ------------------------------------------------------------------------------------------------------------------


def run(step: Callable[..., Any], x: Any, states: Sequence[Any], weights: Sequence[Any]) -> Traced:
    """Run step(x, *states, *weights) and read its equations. An error that the step raises is its own."""
    tracer = Tracer()
    originals = [x, *states, *weights]
    before = Surroundings(step)
    if before.goes_on:
        reason = why(
            "it refers to an iterator, which gives something else at every step",
            expected="a step whose equations depend on its arguments alone",
            do="let what changes with time come in through xs: scan(step, xs, ...) hands it over moment by moment",
        )
        return Traced(None, None, [], reason)
    with enable_grad(), mode("unfolded", True):
        arguments = [None if a is None else _alias(a) for a in originals]
        try:
            with mode("anomaly", True), mode("tracing", tracer):
                new = step(*arguments)
        except Exception:
            if all(a is None or isinstance(a, Value) for a in originals):
                raise
            return Traced(None, None, [], why(_ON_ARRAYS, expected=_OPS, do=_TENSORS))  # perhaps it does not fail on these
    after = Surroundings(step)
    if after.key != before.key:
        name = changed(step, before.key, after.key)
        tracer.refuse(
            f"it changes {f'`{name}`' if name else 'something'} outside itself: a counter, a list, an attribute, a generator of random numbers",
            expected="a step that does nothing but return its new state: compiled, it runs but once, not at every step",
            do="count in the state, return what is to be kept with scan(..., collect=True), draw numbers before the loop as part of xs",
        )
    aliases = list(zip(arguments, originals, strict=True))
    if tracer.reason:
        return Traced(new, None, [], tracer.reason, bool(tracer.captured), step, aliases)
    try:
        trace, given = _read(new, arguments, 1 + len(states), originals, tracer)
    except Untraceable as cause:
        return Traced(new, None, [], str(cause), bool(tracer.captured), step, aliases)
    return Traced(new, trace, given, "", bool(tracer.captured), step, aliases)


def _alias(x: Any) -> Any:
    """The argument as a value that was recorded within the step."""
    if isinstance(x, Value) and x.node is not None:
        return same(x)
    array = raw(x)
    return box(array, leaf(array)) if backend.is_array(array) else x  # a number is a number


def outputs_of(new: Any) -> list[Any]:
    """All arrays that a step returned, nested tuples one after the other."""
    return [a for part in new for a in outputs_of(part)] if isinstance(new, (tuple, list)) else [new]


def _read(new: Any, arguments: list[Any], moving: int, originals: list[Any], tracer: Tracer) -> tuple[Trace, list[Any]]:
    """The equations between the arguments, of which the first `moving` change from step to step, and what the step returned."""
    outputs = outputs_of(new)
    for a in outputs:
        if not hasattr(raw(a), "shape"):
            raise Untraceable(why(f"it returns {describe(a)}", expected="arrays: the new state"))
        if not isinstance(a, Value) or a.node is None or a.node.order < tracer.start:
            raise Untraceable(
                why(
                    f"it returns {describe(raw(a))}, which does not come out of its arguments",
                    expected="what ops make of x, the state and the weights",
                    do="hand a fixed array in among the weights and return it plus 0 * h; compute outside no_grad() and NumPy",
                )
            )
    aliases = {a.node: i for i, a in enumerate(arguments) if isinstance(a, Value)}
    nodes = [n for n in toposort(outputs, after=tracer.start) if n not in aliases]
    if len(nodes) > MOST:
        raise Untraceable(
            why(
                f"it is {len(nodes)} ops long",
                expected=f"at most {MOST} in one step",
                do="stack what the same op is done to and do it once; an inner loop over time belongs into the sequence",
            )
        )
    reader = _Reader(aliases, moving, originals, tracer)
    for node in nodes:
        reader.read(node)
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
            raise Untraceable(why(f"it computes with {describe(number)}", expected="Tensors, arrays and numbers"))
        return self._given(id(a), number)

    def _given(self, key: Any, x: Any) -> tuple[Any, ...]:
        if key not in self.places_given:
            self.places_given[key] = ("given", len(self.given))
            self.given.append(x)
        return self.places_given[key]

    def read(self, node: Node) -> None:
        """Take up the next op."""
        if node.notes is not None and any(note.hooks or note.keep for note in node.notes.values()):
            raise Untraceable(why("it sets hooks or keeps gradients inside", do="register them inside tg.unfolded()"))
        if node.prim.saves:
            raise Untraceable(
                why(
                    f"its op {node.prim.name} keeps something for its derivative that is no value of the tape",
                    expected="ops whose derivatives read their arguments and results",
                    do="call it before or after the loop; recompute goes around the whole loop",
                )
            )
        args = tuple(self.place(a, x) for a, x in zip(node.args, node.raw, strict=True))
        static = all(p[0] in ("given", "number", "static call") for p in args)
        if not static:
            args = tuple(self._hoist(p) for p in args)
        names = tuple((i, note.name) for i, note in (node.notes or {}).items() if note.name is not None)
        calls = self.statics if static else self.calls
        self.at[node] = ("static call" if static else "call", len(calls))
        calls.append(Call(node.prim, args, node.params, _below(node.frame, thread.modes.frame), names))

    def _hoist(self, place: tuple[Any, ...]) -> tuple[Any, ...]:
        """A place of the loop for what is computed before it."""
        return self.hoisted.setdefault(place, ("static", len(self.hoisted))) if place[0] in ("given", "static call") else place

    def trace(self, outputs: tuple[tuple[Any, ...], ...]) -> Trace:
        """All that was read."""
        outputs = tuple(self._hoist(p) for p in outputs)
        arrays = tuple((raw(x).shape, raw(x).dtype) for x in self.given)
        calls = tuple(
            (c.prim, rules_key(c.prim), tuple(map(_place_key, c.args)), _parameters(c)) for c in (*self.statics, *self.calls)
        )
        key = (len(self.statics), calls, tuple(self.hoisted), outputs, arrays)
        return Trace(tuple(self.statics), tuple(self.hoisted), tuple(self.calls), outputs, key)


def _place_key(place: Place) -> Any:
    return ("number", plain_key(place[1])) if place[0] == "number" else place


def _below(frame: Frame | None, top: Frame | None) -> tuple[Frame, ...]:
    """The frames between `top` and this one."""
    path: list[Frame] = []
    while frame is not None and frame is not top:
        path.append(frame)
        frame = frame.parent
    return tuple(path[::-1])


def _parameters(call: Call) -> Any:
    """The parameters of an op as something that compares by value."""
    try:
        return _hashable(call.params)
    except Untraceable as cause:
        raise Untraceable(
            why(
                f"its op {call.prim.name} has {cause} as a parameter",
                expected=f"numbers, slices, tuples of them and arrays of at most {LARGEST} entries: they stand in the loop itself",
                do="hand the array in among the weights, or compute with it before the loop",
            )
        ) from None


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
        if array.size > LARGEST:
            raise Untraceable(describe(array))
        return (array.shape, array.dtype, array.tobytes())
    try:
        hash(params)
    except TypeError:
        raise Untraceable(f"an object of the type {type(params).__name__}") from None
    return (type(params), params)


# ---- Running the equations --------------------------------------------------------------------------------------------------------------


def without_frames(trace: Trace) -> Trace:
    """The equations alone: frames hold modules, and modules hold their weights."""
    statics, calls = (tuple(c._replace(frame=()) for c in calls) for calls in (trace.statics, trace.calls))
    return trace._replace(statics=statics, calls=calls)


def compute_statics(trace: Trace, given: Sequence[Any]) -> list[Any]:
    """What the loop reads of weights, computed on the tape: their gradients go on by themselves."""
    if not trace.statics:
        return [given[k] if kind == "given" else k for kind, k, *_ in trace.hoisted]
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
    """The outputs of the step on other arguments: its ops once more."""
    results: list[Any] = []
    inputs = {"x": (x,), "state": states, "static": statics}

    def at(place: tuple[Any, ...]) -> Any:
        kind, k, *output = place
        if kind != "call":
            return k if kind == "number" else inputs[kind][k]
        return results[k][output[0]] if isinstance(results[k], tuple) else results[k]

    for call in trace.calls:
        results.append(call.prim.call(*map(at, call.args), **call.params))
    return [at(place) for place in trace.outputs]
