"""scan: the one time loop. A step is its equations for one moment; scan carries the state, compiled as one op, or unfolded step by step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import repeat
from typing import Any

import numpy as np

from . import backend
from .compile import loop as compile_loop
from .compile.first_step import as_recorded
from .compile.loop import Compiled, Decision, Found, Unfit, difference, failed, find
from .compile.memory import key_of, remember, remembered
from .compile.opening import Origins, Step
from .compile.trace import Trace, Traced, outputs_of, run
from .frames import frame, mode, thread
from .fusion import fused
from .graph import Node, Value, box, raw
from .ops import stack, unstack, where
from .primitives import as_it_is_now, backward_of
from .scan_checks import check_arguments, check_collected, check_rows, check_sequence, checked, fitted, parted, steps_present


def scan(
    step: Callable[..., Any],
    xs: Any,
    state: Any,
    weights: Sequence[Any] = (),
    *,
    lengths: Any = None,
    reverse: bool = False,
    collect: bool = False,
    name: str = "scan",
) -> tuple[Any, ...]:
    """Run a recurrence over a sequence.

        h_t = step(x_t, h_(t-1), *weights)          t = 1, ..., T
        hs, h_T = scan(step, xs, h_0, weights)

    xs (T, ...) one entry per time step -> (hs (T, ...), the last state). The state is an array, or a tuple (h, c, ...) of them; then the
    step takes and returns them all, and the outputs are those of the first.

    lengths (B,): the length of each row of xs (T, B, ...). Past its end a row's state stands still and its output is zero; what the padding
    holds, even NaN, changes nothing, and its gradient is zero. A row may have length 0. reverse: run from t = T to 1, rows from their end.

    collect: the step returns one thing more behind the new state, an array or a (named) tuple of arrays, and scan (hs, h_T, all of them):
    each array stacked over time, (T, ...), zero past a row's end. So gates and other values of every moment can be looked at.

    The loop is compiled: forward and back through time are derived from the equations of the step, and the tape gets one node. So the
    step is called once or twice to be traced, not at every time, and must be a function of its arguments. A step that cannot be
    compiled runs at every time: `tg.explain_compile` says why; `tg.scan_target` chooses what loops are compiled for.

    Inside `tg.unfolded()`, and where a reader opens the node, each step is a frame at its time t, counted from 1, inside one frame called
    `name`. Time and memory are linear in T.
    """
    check_sequence(xs)
    several = isinstance(state, (tuple, list))
    states = tuple(state) if several else (state,)
    check_arguments(step, states, weights)
    there: Any = None if lengths is None else steps_present(lengths, xs)
    if there is not None:
        for h in states:
            check_rows("the initial state", h, there.shape[1])
        alive = backend.to_device(there, backend.device_of(raw(xs)))
        xs = where(fitted(alive, xs), xs, 0)
    loop = _Loop(step, xs, weights, several, collect, there, reverse, name)
    hs, states, more = loop.run(states)

    def as_asked(value: Any) -> Any:
        if there is None:
            return value
        check_rows("what the step returned", value[0], there.shape[1])
        return where(fitted(alive, value), value, 0)

    last = states if several else states[0]
    return (as_asked(hs), last, each(as_asked, more)) if collect else (as_asked(hs), last)


class _Loop:
    """One call of `scan`: compiled if it can be, unfolded otherwise."""

    def __init__(
        self, step: Any, xs: Any, weights: Sequence[Any], several: bool, collect: bool, there: Any, reverse: bool, name: str
    ):
        self.step, self.xs, self.weights, self.several, self.collect = step, xs, weights, several, collect
        self.there, self.reverse, self.name = there, reverse, name
        self.T = int(xs.shape[0])
        self.reason = ""  # why it is not compiled

    def run(self, states: tuple[Any, ...]) -> tuple[Any, tuple[Any, ...], Any]:
        """All states over time, the last ones, and what is collected."""
        modes, given = thread.modes, (self.xs, *states, *self.weights)
        values = [a for a in given if isinstance(a, Value)]
        if 0 < len(values) < len(given):  # then a step gets nothing else, compiled or not
            self.xs, *states = map(_as_value, (self.xs, *states))  # type: ignore[assignment]
            states, self.weights = tuple(states), [_as_value(w) for w in self.weights]
        self.tracked = bool([a for a in values if a.node is not None])
        if modes.unfolded or modes.anomaly:
            self.reason = f"it stands inside tg.{'unfolded' if modes.unfolded else 'detect_anomaly'}(), where every step is run"
            return self.unfolded(states)
        first = self.T - 1 if self.reverse else 0
        x = raw(self.xs)[first]
        key, self.known = key_of(self.step, x, states, self.weights)
        self.key = None if key is None else (key, self.several, self.collect)
        found = remembered(self.key, self.weights)
        return self.compiled(found, states) if found else self.unfolded(states, tracing=True)

    def unfolded(self, states: tuple[Any, ...], tracing: bool = False) -> tuple[Any, tuple[Any, ...], Any]:
        """Step by step; with `tracing` the first steps are looked at, and compiled if that can be done."""
        T, initial = self.T, states
        ys: list[Any] = [None] * T
        more: list[Any] = [None] * T
        moments = unstack(self.xs)
        before = None
        with frame(self.name):
            for t in reversed(range(T)) if self.reverse else range(T):
                with frame("step", t + 1) as here:
                    traced = run(self.step, moments[t], states, self.weights) if tracing else None
                    new = self.step(moments[t], *states, *self.weights) if traced is None or traced.new is None else traced.new
                    new, more[t] = self._parted(new, states, t)
                if traced is not None:
                    found, tracing, before = self._decided(traced, before, moments[t], states)
                    if found is not None:
                        break
                    new, more[t] = self._own(traced, (new, more[t]))
                if self.there is not None and not self.there[t].all():
                    alive = backend.to_device(self.there[t], backend.device_of(raw(self.xs)))
                    with mode("frame", here):
                        new = tuple(where(fitted(alive, h), h, old) for h, old in zip(new, states, strict=True))
                states = new
                ys[t] = states[0]
            else:
                found = None
        if found is not None:
            return self.compiled(found, initial)
        if self.reason:
            self._tell(None)
        return _stacked(*ys), states, each(_stacked, *more) if self.collect else None

    def _parted(self, new: Any, states: tuple[Any, ...], t: int) -> tuple[Any, Any]:
        """What the step returned, as the new state and what is collected."""
        more = None
        if self.collect:
            new, more = parted(new, states, self.several, t + 1)
        return checked(tuple(new) if isinstance(new, (tuple, list)) else (new,), states, t + 1), more

    def _decided(self, traced: Traced, before: Any, x: Any, states: Any) -> tuple[Found | None, bool, Any]:
        """After a step was traced: the compiled loop if there is one; whether to trace another step; what to compare that with."""
        if before is not None:  # the second step: only to see that it is like the first
            first, found = before
            return self._proven(first, found, traced), False, None
        try:
            found, new = find(traced, raw(x), states, self.weights)
            found.compiled.variant(self._wanted(found.statics))
        except Unfit as why:
            self.reason = str(why)
            return None, False, None
        except Exception as cause:
            if compile_loop.strict:
                raise
            self.reason = failed(cause)
            return None, False, None
        if new and not self.known and self.T > 1:
            return None, True, (traced, found)
        again = traced
        if new and not self.known:
            again = run(self.step, x, tuple(outputs_of(traced.new))[: len(states)], self.weights)
        return self._proven(traced, found, again), False, None

    def _proven(self, first: Traced, found: Found, second: Traced) -> Found | None:
        """The loop, if two steps were the same equations."""
        self.reason = difference(first, second)
        if self.reason:
            return None
        found.compiled.proven = True
        remember(self.key, found, first, self.weights)
        return found

    def _tell(self, found: Found | None) -> None:
        """Tell what became of this loop, if somebody asks (`explain_compile`)."""
        modes = thread.modes
        if modes.decisions is not None and modes.tracing is None:
            path = (
                [f.owner if isinstance(f.owner, str) else type(f.owner).__name__ for f in modes.frame.path()] if modes.frame else []
            )
            variant = found.compiled.variant(self._wanted(found.statics)) if found else None
            modes.decisions.append(
                Decision(" > ".join([*path, self.name]), found.compiled if found else None, variant, self.reason)
            )

    def _own(self, traced: Traced, new: Any) -> Any:
        """The results of a step that was only looked at, as the loop itself would have had them."""
        if traced.new is None or (thread.modes.record and (self.tracked or traced.tracked)):
            return new if traced.new is None else each(as_recorded(outputs_of(new), traced.aliases), new)
        return each(lambda a: box(a._data, None) if isinstance(a, Value) else a, new)

    def _wanted(self, statics: Sequence[Any]) -> tuple[bool, ...]:
        return tuple([isinstance(a, Value) and a.node is not None for a in (self.xs, *statics)])

    def compiled(self, found: Found, states: tuple[Any, ...]) -> tuple[Any, tuple[Any, ...], Any]:
        """All at once, as one op."""
        n, wanted = len(states), self._wanted(found.statics)
        self._tell(found)
        outs = _scan(
            self.xs,
            *states,
            *found.statics,
            compiled=found.compiled,
            trace=found.trace,
            count=n,
            wanted=wanted,
            there=self.there,
            reverse=self.reverse,
            name=self.name,
            target=thread.modes.target,
            records=thread.modes.record and (self.tracked or True in wanted),
        )
        hs, last, collected = outs[0], outs[1 : 1 + n], iter(outs[1 + n :])
        return hs, tuple(last), each(lambda _: next(collected), found.form[-1]) if self.collect else None


def _as_value(x: Any) -> Any:
    """A bare array as a constant, which its owner cannot change."""
    if isinstance(x, Value) or not backend.is_array(x):
        return x
    return box(as_it_is_now(x) if thread.modes.record else x, None)


def _stacked(*values: Any) -> Any:
    check_collected(values)
    return stack(values)


def _in_order(there: Any, reverse: bool) -> Any:
    """For each step in the order of the loop which rows stand still; None where all go on."""
    if there is None:
        return None
    present = there[::-1] if reverse else there
    return [None if row.all() else ~row for row in present]


def time_loop(node: Node) -> bool:
    """Whether a node is a compiled time loop, which `fusion.opened` opens into its steps."""
    return node.prim is _scan.primitive


def _equation(
    *arrays: Any, trace: Callable[[], Trace], count: int, there: Any, reverse: bool, name: str, **_: Any
) -> tuple[Any, ...]:
    """The loop that a compiled one equals, on the ops that it was traced from."""
    xs, states, statics = arrays[0], arrays[1 : 1 + count], arrays[1 + count :]
    origins = Origins(trace(), statics)

    def step(x: Any, *states: Any) -> tuple[Any, ...]:
        new = Step(origins, x, states).run()
        return (*new[:count], tuple(new[count:]))

    loop = _Loop(step, xs, (), True, True, there, reverse, name)
    hs, last, more = loop.unfolded(tuple(states))
    return (hs, *last, *more)


@fused(equation=_equation, multiple=True)
def _scan(
    *arrays: Any, compiled: Compiled, count: int, wanted: Any, there: Any, reverse: bool, records: bool, target: str, **_: Any
) -> Any:
    xs, states, statics = arrays[0], arrays[1 : 1 + count], arrays[1 + count :]
    T = len(xs)
    every = np.empty((T + 1, *states[0].shape), states[0].dtype)  # the first state before, between and after the steps
    in_loop, xs = (every[::-1], xs[::-1]) if reverse else (every, xs)
    in_loop[0] = states[0]
    masks = _in_order(there, reverse)
    forward = compiled.variant(wanted, target=target).forward
    if records:
        last, more, saved = forward(xs, in_loop, states, statics, masks or repeat(None, T))
    else:
        last, more, saved = _in_pieces(forward, xs, in_loop, states, statics, masks)
    hs = every[:T] if reverse else every[1:]
    more = tuple([m[::-1] for m in more]) if reverse else more
    return (hs, *last, *more), (in_loop, saved, masks or [None] * T)


def _in_pieces(forward: Any, xs: Any, hs: Any, states: Any, statics: Any, masks: Any, piece: int = 64) -> Any:
    """The forward loop a piece of the time after the other: what it keeps for a backward loop that nobody asks for is dropped behind it."""
    collected = []
    for t in range(0, len(xs), piece):
        end = min(t + piece, len(xs))
        states, more, _ = forward(xs[t:end], hs[t : end + 1], states, statics, masks[t:end] if masks else repeat(None, end - t))
        collected.append(more)
    return states, [np.concatenate(parts) for parts in zip(*collected, strict=True)], None


@backward_of(_scan, owns=True)
def _(g: Any, y: Any, saved: Any, *arrays: Any, **params: Any) -> list[Any]:
    return _through_time(g, saved, *arrays, **params)


def _through_time(
    g: Any, saved: Any, *arrays: Any, compiled: Compiled, count: int, wanted: Any, there: Any, reverse: bool, target: str, **_: Any
) -> list[Any]:
    xs, states, statics = arrays[0], arrays[1 : 1 + count], arrays[1 + count :]
    in_loop, kept, masks = saved
    xs = xs[::-1] if reverse else xs
    g_hs, g_last, g_more = g[0], g[1 : 1 + count], g[1 + count :]
    g_hs = np.broadcast_to(states[0].dtype.type(0), (len(xs), *states[0].shape)) if g_hs is None else g_hs
    g_last = [np.zeros(s.shape, s.dtype) if c is None else c for c, s in zip(g_last, states, strict=True)]
    arrived = tuple([c is not None for c in g_more])
    loops = compiled.variant(wanted, arrived, target)
    if True in arrived:  # what the usual loop kept may not be enough
        *_, kept = loops.forward(xs, in_loop, states, statics, masks)
    if reverse:
        g_hs, g_more = g_hs[::-1], [None if c is None else c[::-1] for c in g_more]
    g_xs = np.zeros(xs.shape, xs.dtype) if wanted[0] else None
    in_order = g_xs[::-1] if reverse and g_xs is not None else g_xs
    g_states, g_statics = loops.backward(xs, in_loop, statics, masks, kept, g_hs, g_last, g_more, in_order)
    return [g_xs, *g_states, *g_statics]


_scan.primitive.name = "scan"


def each(f: Callable[..., Any], *values: Any) -> Any:
    """f of the arrays that stand at the same place in each of the values, which are arrays or (named) tuples of one form.

    each(f, (h, c), (h2, c2)) = (f(h, h2), f(c, c2)): what is done to a state is done to every array of it.
    """
    form = values[0]
    if not isinstance(form, tuple):
        return f(*values)
    parts = [each(f, *places) for places in zip(*values, strict=True)]
    return type(form)(*parts) if hasattr(form, "_fields") else tuple(parts)
