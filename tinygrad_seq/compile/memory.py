"""Which loop belongs to a step: remembered as long as nothing around the step has changed, so that most calls need no trace."""

from __future__ import annotations

import inspect
import weakref
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from types import FunctionType
from typing import Any, NamedTuple

import numpy as np

from ..frames import Frame
from ..graph import Value
from . import trace as tracing
from .loop import Compiled, Found
from .surroundings import Surroundings

MOST = 256  # steps that are remembered
_HOME = f"{__package__.partition('.')[0]}.nn.functional."


class Entry(NamedTuple):
    """What is remembered of a step; nothing here keeps a model alive."""

    compiled: Compiled
    sources: list[Any]  # of what the trace calls given: which weight, or a reference to a value around the step
    form: Any  # of what the step returned
    owners: list[Any]  # of the frames of its ops, each once: references
    frames: list[list[tuple[int, Any, int]]]  # of each op, from the outermost: which owner, at which time, and which frame it is


_steps: OrderedDict[Any, Entry] = OrderedDict()


def key_of(step: Callable[..., Any], x: Any, states: Sequence[Any], weights: Sequence[Any]) -> tuple[Any, bool]:
    """A key that is equal for equal steps on arguments of one form (None: there is none), and whether the step is one of
    `nn.functional`, which depends on its arguments alone.
    """
    arrays = tuple([_form(a._data if isinstance(a, Value) else a) for a in (x, *states, *weights)])
    key: Any
    function, settings = (step.func, tuple(step.keywords.items())) if isinstance(step, partial) and not step.args else (step, ())
    if _is_known(function) and not [value for _, value in settings if not isinstance(value, (bool, int, float, str, type(None)))]:
        key, known = (function, settings, arrays, len(states), _alike(weights)), True
    else:
        around = Surroundings(step)
        if not around.certain or around.goes_on:
            return None, False
        key, known = (around.key, arrays, len(states), _alike([*around.values, *weights])), False
    try:
        hash(key)
    except TypeError:
        return None, False
    return key, known


def _form(a: Any) -> Any:
    return (a.shape, a.dtype) if type(a) is np.ndarray else (type(a), a.shape, a.dtype) if hasattr(a, "shape") else a


_known: weakref.WeakKeyDictionary[Any, bool] = weakref.WeakKeyDictionary()


def _is_known(function: Any) -> bool:
    """Whether a function is one of `nn.functional`, with nothing around it."""
    if type(function) is FunctionType and function.__closure__ and "__wrapped__" not in function.__dict__:
        return False
    try:
        known = _known.get(function)
    except TypeError:  # no reference can be made to it
        return False
    if known is None:
        inner = inspect.unwrap(function)
        homes = [str(getattr(f, "__globals__", {}).get("__name__", "")) for f in (function, inner)]  # __module__ may be copied
        ours = homes[0].partition(".")[0] == _HOME.partition(".")[0] and homes[1].startswith(_HOME)
        known = _known[function] = ours and not getattr(inner, "__closure__", None)
    return known


def _alike(values: Sequence[Any]) -> tuple[int, ...]:
    """Which of the values are one and the same: the trace takes the place of one for that of the other."""
    first: dict[int, int] = {}
    return tuple([first.setdefault(id(v), i) for i, v in enumerate(values)])


def remembered(key: Any, weights: Sequence[Any]) -> Found | None:
    """The loop of a step that was compiled before."""
    entry = _steps.get(key) if key is not None else None
    if entry is None:
        return None
    trace = entry.compiled.trace
    given = [weights[s] if type(s) is int else s() for s in entry.sources]
    owners = [o() if type(o) is weakref.ref else o for o in entry.owners]
    if [g for g in given if g is None] or [o for o in owners if o is None]:
        _steps.pop(key, None)
        return None
    if len(_steps) > MOST // 2:  # soon the eldest will be dropped
        with suppress(KeyError):  # another thread may have dropped it just now
            _steps.move_to_end(key)
    in_frames = partial(_in_frames, trace, owners, entry.frames)  # which only a reader asks for
    return Found(entry.compiled, tracing.compute_statics(trace, given), entry.form, in_frames)


def remember(key: Any, found: Found, traced: tracing.Traced, weights: Sequence[Any]) -> None:
    """Keep the loop for the next call, unless the step brings arrays of its own, whose numbers anybody may change."""
    places = {id(w): i for i, w in enumerate(weights) if w is not None}
    sources: list[Any] = []
    for g in traced.given:
        if id(g) in places:
            sources.append(places[id(g)])
        elif isinstance(g, Value):
            sources.append(weakref.ref(g))
        else:
            return
    if key is not None:
        trace = found.trace()
        at: dict[int, int] = {}
        owners: list[Any] = []
        frames = []
        for call in (*trace.statics, *trace.calls):
            for f in call.frame:
                if id(f.owner) not in at:
                    at[id(f.owner)] = len(owners)
                    owners.append(_reference(f.owner))
            frames.append([(at[id(f.owner)], f.step, f.call) for f in call.frame])
        _steps[key] = Entry(found.compiled, sources, _hollow(traced.new), owners, frames)
        if len(_steps) > MOST:
            _steps.popitem(last=False)


def _reference(owner: Any) -> Any:
    try:
        return owner if isinstance(owner, str) else weakref.ref(owner)
    except TypeError:
        return owner


def _in_frames(trace: tracing.Trace, owners: list[Any], frames: list[list[tuple[int, Any, int]]]) -> tracing.Trace:
    """The trace with the frames of its ops."""
    made: dict[int, Frame] = {}
    calls: list[tracing.Call] = []
    for call, path in zip((*trace.statics, *trace.calls), frames, strict=True):
        inner: list[Frame] = []
        for owner, step, k in path:
            if k not in made:
                made[k] = Frame(inner[-1] if inner else None, owners[owner], step)
            inner.append(made[k])
        calls.append(call._replace(frame=tuple(inner)))
    n = len(trace.statics)
    return trace._replace(statics=tuple(calls[:n]), calls=tuple(calls[n:]))


def _hollow(form: Any) -> Any:
    """The form of what a step returned, without its numbers."""
    if isinstance(form, tuple):
        parts = [_hollow(part) for part in form]
        return type(form)(*parts) if hasattr(form, "_fields") else tuple(parts)
    return None
