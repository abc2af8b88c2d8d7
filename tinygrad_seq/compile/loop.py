"""A compiled time loop: the passes one after the other, the loops that come out, and the memory of those made before."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from ..errors import describe
from ..graph import Value, raw
from . import trace as tracing
from .adjoint import derive
from .emit_numpy import emit
from .plan import Plan, plan

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


class Compiled:
    """The compiled loop of one step for arguments of one form. `source` is its text."""

    def __init__(self, trace: tracing.Trace, x: Any, states: Sequence[Any], statics: Sequence[Any], names: Sequence[str]):
        self.trace, self.names = trace, list(names)
        self.x, self.states, self.statics = _like(x), [_like(s) for s in states], [_like(s) for s in statics]
        self.variants: dict[Any, Variant] = {}
        self.collected = len(trace.outputs) - len(states)

    def variant(self, wanted: tuple[bool, ...], collected: tuple[bool, ...] | None = None) -> Variant:
        """The loops that give the gradients of x and of the statics that are `wanted`, from cotangents of the state and of what is
        `collected` (usually none).
        """
        collected = collected or (False,) * self.collected
        key = (wanted, collected)
        if key not in self.variants:
            arrived = (True,) * len(self.states) + collected
            statics = [s.copy() for s in self.statics]
            planned = plan(derive(self.trace, self.x.copy(), [s.copy() for s in self.states], statics, arrived, wanted))
            self.variants[key] = Variant(planned, *emit(planned, self.names))
        return self.variants[key]

    @property
    def source(self) -> str:
        """The text of the loops: forward, and backward through time."""
        if not self.variants:
            self.variant((True,) * (1 + len(self.statics)))
        return next(iter(self.variants.values())).source


def _like(a: Any) -> Any:
    """Ones in the form of an array, without its memory."""
    return np.broadcast_to(np.ones((), a.dtype), a.shape)


# ---- Finding a loop ----------------------------------------------------------------------------------------------------------------------


class Found(NamedTuple):
    """A compiled loop and what it needs of the step at hand."""

    compiled: Compiled
    statics: list[Any]  # values, on the tape
    form: Any  # what the step returned, or something of its form


_loops: OrderedDict[Any, Compiled] = OrderedDict()
_known: dict[Any, tuple[Compiled, list[int], Any]] = {}


def key_of(step: Callable[..., Any], x: Any, states: Sequence[Any], weights: Sequence[Any]) -> Any:
    """A key for a step that is known to depend on its arguments alone: one of `nn.functional`, perhaps with settings. None for all others,
    which are traced anew at every call: they may use what changes in between.
    """
    function, settings = (step.func, tuple(step.keywords.items())) if isinstance(step, partial) and not step.args else (step, ())
    if not str(getattr(function, "__module__", "")).startswith(f"{__package__.partition('.')[0]}.nn.functional."):
        return None
    if getattr(function, "__closure__", None):
        return None
    arrays = tuple(None if a is None else (raw(a).shape, raw(a).dtype) for a in (x, *states, *weights))
    key = (function, settings, arrays, len(states))
    try:
        hash(key)
    except TypeError:
        return None
    return key


def remembered(key: Any, weights: Sequence[Any]) -> Found | None:
    """The loop of a known step, if it was compiled before."""
    found = _known.get(key) if key is not None else None
    if found is None:
        return None
    compiled, sources, form = found
    return Found(compiled, tracing.compute_statics(compiled.trace, [weights[i] for i in sources]), form)


def find(traced: tracing.Traced, key: Any, x: Any, states: Sequence[Any], weights: Sequence[Any]) -> tuple[Found, bool]:
    """The loop of a step just traced, and whether it is new. Raises Unfit."""
    trace = traced.trace
    if trace is None:
        raise Unfit(traced.reason)
    check(x, states, traced.given)
    statics = tracing.compute_statics(trace, traced.given)
    arrays = [raw(s) for s in statics]
    if any(a.dtype != raw(states[0]).dtype and a.dtype.kind == "f" for a in arrays):
        raise Unfit("its arrays are of several dtypes")
    whole = (trace.key, x.shape, tuple((s.shape, s.dtype) for s in map(raw, states)))
    compiled = _loops.get(whole)
    new = compiled is None
    if compiled is None:
        compiled = Compiled(trace, raw(x), [raw(s) for s in states], arrays, [f"weight{k}" for k in range(len(arrays))])
        _loops[whole] = compiled
        if len(_loops) > MOST:
            _loops.popitem(last=False)
    else:
        _loops.move_to_end(whole)
    if key is not None:
        places = {id(w): i for i, w in enumerate(weights)}
        if all(id(g) in places for g in traced.given):
            _known[key] = (compiled, [places[id(g)] for g in traced.given], _hollow(traced.new))
    return Found(compiled, statics, traced.new), new


def _hollow(form: Any) -> Any:
    """The form of what a step returned, without its numbers."""
    if isinstance(form, tuple):
        parts = [_hollow(part) for part in form]
        return type(form)(*parts) if hasattr(form, "_fields") else tuple(parts)
    return None


def same_constants(first: tracing.Traced, second: tracing.Traced) -> bool:
    """Whether two steps were the same equations with the same constants: otherwise the step depends on something that the tape does not show."""
    if first.trace is None or second.trace is None or first.trace.key != second.trace.key:
        return False
    for a, b in zip(first.given, second.given, strict=True):
        if isinstance(a, Value) or isinstance(b, Value):
            if a is not b:
                return False
        elif not np.array_equal(raw(a), raw(b), equal_nan=raw(a).dtype.kind == "f"):
            return False
    return True


def check(x: Any, states: Sequence[Any], given: Sequence[Any]) -> None:
    """Raise Unfit unless the arrays are NumPy's, of one floating-point dtype."""
    arrays = [raw(a) for a in (x, *states)]
    dtype = arrays[-1].dtype
    for a in arrays:
        if type(a) is not np.ndarray:
            raise Unfit(f"{describe(a)} is not NumPy's")
        if a.dtype.char not in "fd":
            raise Unfit(f"it computes with {describe(a)}, not with float32 or float64")
        if a.dtype != dtype:
            raise Unfit("its arrays are of several dtypes")
        if a.size == 0:
            raise Unfit(f"{describe(a)} is empty")
    for g in given:
        if type(raw(g)) is not np.ndarray:
            raise Unfit(f"{describe(raw(g))} is not NumPy's")
