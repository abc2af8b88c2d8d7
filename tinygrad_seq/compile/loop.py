"""A compiled time loop: the passes one after the other, the loops that come out, and the memory of those made before."""

from __future__ import annotations

import importlib.util
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..errors import describe, message
from ..frames import thread
from ..graph import Value, raw
from . import trace as tracing
from .names import name_buffers, parameters_of, static_names

if TYPE_CHECKING:
    from .plan import Plan

MOST = 256  # loops that are kept

strict = False  # whether an error within the compiler is raised; otherwise the loop runs unfolded and the error is the reason


class Unfit(Exception):
    """A step that cannot be compiled, and why."""


class Variant(NamedTuple):
    """Both loops, for one choice of gradients."""

    plan: Plan
    forward: Callable[..., Any]
    backward: Callable[..., Any]
    source: str
    wanted: tuple[bool, ...]  # the gradients of x and of the statics that it gives
    target: str = "numpy"
    instead: str = ""  # why it is not the target that was asked for


class Compiled:
    """The compiled loop of one step for arguments of one form. `source` is its text: that of `forward`, then that of `backward`."""

    def __init__(self, trace: tracing.Trace, x: Any, states: Sequence[Any], statics: Sequence[Any], names: Sequence[str]):
        self.trace, self.names = trace, list(names)
        self.letters: list[str] = []  # what the step calls its states
        self.x, *others = (np.broadcast_to(np.zeros((), a.dtype), a.shape) for a in (x, *states, *statics))  # forms without memory
        self.states, self.statics = others[: len(states)], others[len(states) :]
        self.variants: dict[Any, Variant] = {}
        self.refused: dict[Any, str] = {}  # why there is no such variant
        self.proven = False  # whether a second step was seen to have the same equations
        self.collected = len(trace.outputs) - len(states)

    def variant(self, wanted: tuple[bool, ...], collected: tuple[bool, ...] | None = None, target: str | None = None) -> Variant:
        """The loops that give the gradients of x and of the statics that are `wanted`, from cotangents of the state and of what is
        `collected` (usually none), for a `target` (that of `scan_target`).
        """
        collected, target = collected or (False,) * self.collected, target or thread.modes.target
        key = (wanted, collected, target)
        found = self.variants.get(key)
        if found is not None:
            return found
        if key in self.refused:
            raise Unfit(self.refused[key])
        from .adjoint import derive  # the passes are imported when the first loop is compiled
        from .plan import plan

        arrived = (True,) * len(self.states) + collected
        states, statics = [_some(s) for s in self.states], [_some(s) for s in self.statics]
        try:
            planned = plan(derive(self.trace, _some(self.x), states, statics, arrived, wanted))
        except tracing.Untraceable as why:
            self.refused[key] = str(why)
            raise Unfit(str(why)) from None
        name_buffers(planned, self.letters, self.names)
        self.variants[key] = emitted(planned, self.names, wanted, target)
        return self.variants[key]

    @property
    def source(self) -> str:
        """The text of the loops: forward, and backward through time."""
        if not self.variants:
            self.variant(self.everything)
        return next(iter(self.variants.values())).source

    @property
    def everything(self) -> tuple[bool, ...]:
        """The choice of all gradients that there are: of x and of all statics that are no integers."""
        return tuple(a.dtype.kind == "f" for a in (self.x, *self.statics))

    @property
    def forward(self) -> str:
        """The text of the forward loop."""
        return self.source.partition("def backward(")[0].rstrip() + "\n"

    @property
    def backward(self) -> str:
        """The text of the loop that runs back through time."""
        return "".join(self.source.partition("def backward(")[1:])

    def __repr__(self) -> str:
        """What it takes, how long it is; the text itself is `source`."""
        given = ", ".join(f"{name} {describe(s)}" for name, s in zip(self.names, self.statics, strict=True))
        lines = [len(text.splitlines()) for text in (self.forward, self.backward)]
        return message(
            f"a compiled time loop: {len(self.trace.calls)} ops a step; .forward has {lines[0]} lines, .backward {lines[1]}",
            x=describe(self.x),
            state=", ".join(map(describe, self.states)),
            weights=given,
            where="",
        )


def emitted(planned: Plan, names: list[str], wanted: tuple[bool, ...], target: str) -> Variant:
    """The loops of a plan for a target, or for NumPy, which can do everything, and why."""
    from .emit_numpy import emit

    instead = ""
    if target != "numpy":
        try:
            forward, backward, text = emit_for_numba(planned, names)
            return Variant(planned, forward, backward, text, wanted, "numba")
        except tracing.Untraceable as why:
            instead = str(why)
        except Exception as cause:
            if strict:
                raise
            instead = failed(cause)
    return Variant(planned, *emit(planned, names), wanted, "numpy", instead)


def emit_for_numba(planned: Plan, names: list[str]) -> Any:
    """The loops for Numba. Raises Untraceable where it cannot, or is not there."""
    if importlib.util.find_spec("numba") is None:
        raise tracing.Untraceable("Numba is not installed: pip install 'tinygrad_seq[fast]'")
    from .emit_numba import emit

    return emit(planned, names)


def _some(a: Any) -> Any:
    """An array of the same form with some numbers, no two alike: the sweep that derives the adjoint runs on them."""
    return (np.arange(a.size) * 0.6180339887 % 1 - 0.4).reshape(a.shape).astype(a.dtype)


class Decision(NamedTuple):
    """What became of one call of `scan`."""

    name: str  # modules and loops that it stands in, and its own name
    compiled: Compiled | None
    variant: Variant | None
    reason: str  # why it is not compiled


def failed(cause: Exception) -> str:
    """The reason where the compiler itself failed."""
    return tracing.why(
        f"the compiler failed: {type(cause).__name__}: {cause}",
        expected="to compile it: this is an error of the compiler, not of your step",
        do="nothing: the loop runs step by step, and is right; please report it with the step",
    )


# ---- Finding a loop ----------------------------------------------------------------------------------------------------------------------


class Found(NamedTuple):
    """A compiled loop and what it needs of the step at hand."""

    compiled: Compiled
    statics: list[Any]  # values, on the tape
    form: Any  # what the step returned, or something of its form
    trace: Callable[[], tracing.Trace]  # its equations in its own frames


_loops: OrderedDict[Any, Compiled] = OrderedDict()


def compile_step(step: Callable[..., Any], x: Any, states: Sequence[Any], weights: Sequence[Any], known: bool = False) -> Compiled:
    """The loop of a step on example arrays, with all gradients, made anew. known: the step needs no second look. Raises Unfit."""
    first = tracing.run(step, x, states, weights)
    if first.trace is None:
        raise Unfit(first.reason)
    arrays = _fitting(first, x, states)[1]
    if not known:
        again = tracing.run(step, x, tuple(tracing.outputs_of(first.new))[: len(states)], weights)
        if reason := difference(first, again):
            raise Unfit(reason)
    names = static_names(step, first.trace, first.given, len(states), weights)
    compiled = Compiled(first.trace, raw(x), [raw(s) for s in states], arrays, names)
    compiled.letters = parameters_of(step)[1 : 1 + len(states)]
    compiled.variant(compiled.everything)
    return compiled


def _fitting(traced: tracing.Traced, x: Any, states: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """The statics of a trace, on the tape and as arrays, if all arrays are of the right kind. Raises Unfit."""
    check(x, states, traced.given)
    assert traced.trace is not None
    statics = tracing.compute_statics(traced.trace, traced.given)
    arrays = [raw(s) for s in statics]
    if other := [a for a in arrays if a.dtype != raw(states[0]).dtype and a.dtype.kind == "f"]:
        raise Unfit(_several(raw(states[0]), "a weight", other[0]))
    new = [raw(a) for a in tracing.outputs_of(traced.new)[: len(states)]]
    if other := [a for a in new if a.dtype != raw(states[0]).dtype]:
        raise Unfit(_several(raw(states[0]), "the new state", other[0]))
    return statics, arrays


def find(traced: tracing.Traced, x: Any, states: Sequence[Any], weights: Sequence[Any]) -> tuple[Found, bool]:
    """The loop of a step just traced, and whether a second step must be looked at: one that is proven to repeat, and that brings no arrays
    of its own, need not. Raises Unfit.
    """
    trace = traced.trace
    if trace is None:
        raise Unfit(traced.reason)
    statics, arrays = _fitting(traced, x, states)
    whole = (trace.key, x.shape, tuple((s.shape, s.dtype) for s in map(raw, states)))
    compiled = _loops.get(whole)
    if compiled is None:
        names = static_names(traced.step, trace, traced.given, len(states), weights)
        compiled = Compiled(tracing.without_frames(trace), raw(x), [raw(s) for s in states], arrays, names)
        compiled.letters = parameters_of(traced.step)[1 : 1 + len(states)]
        _loops[whole] = compiled
        if len(_loops) > MOST:
            _loops.popitem(last=False)
    else:
        with suppress(KeyError):  # another thread may have dropped it just now
            _loops.move_to_end(whole)
    places = {id(w): i for i, w in enumerate(weights)}
    brought = any(id(g) not in places and not isinstance(g, Value) for g in traced.given)
    return Found(compiled, statics, traced.new, lambda: trace), brought or not compiled.proven


def difference(first: tracing.Traced, second: tracing.Traced) -> str:
    """Why the equations of one step do not stand for those of another: they, or their constants, differ by something that the tape does
    not show. Empty if they are the same.
    """
    if second.trace is None:
        return second.reason
    what = ""
    if first.trace is None or first.trace.key != second.trace.key:
        calls = [[_told(call) for call in t.trace.calls] if t.trace else [] for t in (first, second)]
        differ = next(((a, b) for a, b in zip(*calls, strict=False) if a != b), None)
        told = f"{differ[0]}, then {differ[1]}" if differ else f"{len(calls[0])} ops, then {len(calls[1])}"
        what = f"the equations of its second step are others: {told}"
    else:
        for a, b in zip(first.given, second.given, strict=True):
            if isinstance(a, Value) or isinstance(b, Value):
                same = a is b
            else:
                same = np.array_equal(raw(a), raw(b), equal_nan=raw(a).dtype.kind == "f")
            if not same:
                what = f"it computes with {describe(raw(a))} from outside, whose numbers are others at its second step"
                break
    return what and tracing.why(
        what,
        expected="a step whose equations depend on its arguments alone",
        do="let what changes with time come in through xs or the state: a counter as a number of the state, noise as part of xs",
    )


def _told(call: tracing.Call) -> str:
    """An op with what stands in it besides values."""
    numbers = [repr(a[1]) for a in call.args if a[0] == "number"]
    return f"{call.prim.name}({', '.join([*numbers, *(f'{k}={v!r}' for k, v in call.params.items())])})"


def check(x: Any, states: Sequence[Any], given: Sequence[Any]) -> None:
    """Raise Unfit unless the arrays are NumPy's, of one floating-point dtype."""
    arrays = [raw(a) for a in (x, *states)]
    dtype = arrays[-1].dtype
    for a in arrays:
        if type(a) is not np.ndarray:
            raise Unfit(_foreign(a))
        if a.dtype.char not in "fd":
            what = "x" if a is arrays[0] else "a state"
            raise Unfit(
                tracing.why(
                    f"{what} is {describe(a)}",
                    expected="float32 or float64, in one dtype",
                    do="look symbols up before the loop, xs = embedding(symbols) or tg.one_hot(symbols, V); x.astype('float32')",
                )
            )
        if a.dtype != dtype:
            raise Unfit(_several(arrays[-1], "x" if a is arrays[0] else "another state", a))
        if a.size == 0:
            raise Unfit(tracing.why(f"{describe(a)} is empty", expected="at least one row and one column"))
    for g in given:
        if type(raw(g)) is not np.ndarray:
            raise Unfit(_foreign(raw(g)))


def _foreign(a: Any) -> str:
    return tracing.why(
        f"its arrays are {type(a).__module__.partition('.')[0]}'s, {describe(a)}",
        expected="NumPy's: loops are compiled for the processor alone",
        do="nothing: on another device the loop runs step by step, and is right; x.to('cpu') and module.to('cpu') bring it back",
    )


def _several(state: Any, what: str, a: Any) -> str:
    return tracing.why(
        f"its arrays are of several dtypes: the state is {describe(state)}, {what} {describe(a)}",
        expected="one dtype, float32 or float64",
        do="x.astype('float32') for arrays, module.to(dtype='float32') for weights; a state made by NumPy is float64 unless told",
    )
