"""scan: the one time loop. A step is its equations for one moment; scan carries the state and leaves the tape unfolded in time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from . import backend
from .errors import ArgumentError, ShapeError, describe, message
from .frames import frame
from .graph import raw
from .ops import stack, unstack, where


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

    On the tape each step is a frame at its time t, counted from 1, inside one frame called `name`. Time and memory are linear in T.
    """
    T = _length_of(xs)
    several = isinstance(state, (tuple, list))
    states = tuple(state) if several else (state,)
    _check_arguments(step, states, weights)
    there: Any = None if lengths is None else _steps_present(lengths, xs)
    if there is not None:
        for h in states:
            _check_rows("the initial state", h, there.shape[1])
        alive, everyone = backend.to_device(there, backend.device_of(raw(xs))), there.all(axis=1).tolist()
        xs = where(_fitted(alive, xs), xs, 0)

    ys: list[Any] = [None] * T
    more: list[Any] = [None] * T
    moments = unstack(xs)
    with frame(name):
        for t in reversed(range(T)) if reverse else range(T):
            with frame("step", t + 1):
                new = step(moments[t], *states, *weights)
                if collect:
                    new, more[t] = _parted(new, states, several, t + 1)
                new = _checked(tuple(new) if isinstance(new, (tuple, list)) else (new,), states, t + 1)
                if there is not None and not everyone[t]:
                    new = tuple(where(_fitted(alive[t], h), h, before) for h, before in zip(new, states, strict=True))
                states = new
                ys[t] = states[0]

    def over_time(*values: Any) -> Any:
        _check_collected(values)
        stacked = stack(values)
        if there is None:
            return stacked
        _check_rows("what the step returned", values[0], there.shape[1])
        return where(_fitted(alive, stacked), stacked, 0)

    last = states if several else states[0]
    return (over_time(*ys), last, each(over_time, *more)) if collect else (over_time(*ys), last)


def each(f: Callable[..., Any], *values: Any) -> Any:
    """f of the arrays that stand at the same place in each of the values, which are arrays or (named) tuples of one form.

    each(f, (h, c), (h2, c2)) = (f(h, h2), f(c, c2)): what is done to a state is done to every array of it.
    """
    form = values[0]
    if not isinstance(form, tuple):
        return f(*values)
    parts = [each(f, *places) for places in zip(*values, strict=True)]
    return type(form)(*parts) if hasattr(form, "_fields") else tuple(parts)


def _length_of(xs: Any) -> int:
    shape = tuple(raw(xs).shape) if hasattr(raw(xs), "shape") else None
    if not shape:
        raise ShapeError(message("scan: xs has no time axis", expected="an array (T, ...): time first", got=describe(raw(xs))))
    if shape[0] == 0:
        raise ShapeError(message("scan: xs has no time step", expected="T >= 1", got=describe(raw(xs))))
    return int(shape[0])


def _check_arguments(step: Any, states: tuple[Any, ...], weights: Any) -> None:
    if not callable(step):
        raise ArgumentError(
            message(f"scan: the step {describe(step)} is no function", expected="step(x, state, *weights) -> the new state")
        )
    if hasattr(raw(weights), "shape"):
        raise ArgumentError(
            message(f"scan: the weights are one array, {describe(raw(weights))}", expected="a tuple of arrays", do="(w,)")
        )
    for h in states:
        if not hasattr(raw(h), "shape"):
            raise ArgumentError(
                message(f"scan: the initial state {describe(h)} is no array", expected="an array, or a tuple of them")
            )


def present(who: str, lengths: Any, T: int, B: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """(T, B): whether row b is still within its length at time t. `who` asks, for the error that tells what lengths (B,) must be."""
    given = np.asarray(backend.to_numpy(raw(lengths)))
    if isinstance(lengths, (list, tuple)) and not lengths:
        given = given.astype(np.int64)  # of an empty list NumPy makes floats
    if given.shape != (B,):
        raise ShapeError(message(f"{who}: lengths {given.shape} do not fit {B} rows", expected=f"lengths ({B},), one for each row"))
    if given.dtype.kind not in "iu":
        raise ArgumentError(message(f"{who}: lengths must be integers, got {given.dtype}"))
    if given.size and not (given.min() >= 0 and given.max() <= T):
        raise ShapeError(message(f"{who}: lengths lie in {given.min()} ... {given.max()}", expected=f"0 ... T = {T}"))
    return np.asarray(np.arange(T)[:, None] < given)


def _steps_present(lengths: Any, xs: Any) -> Any:
    if len(xs.shape) < 2:
        raise ShapeError(
            message(f"scan: lengths do not fit xs {tuple(xs.shape)}", expected="xs (T, B, ...) and lengths (B,), one for each row")
        )
    return present("scan", lengths, *xs.shape[:2])


def _check_rows(what: str, x: Any, B: int) -> None:
    if tuple(x.shape[:1]) != (B,):
        raise ShapeError(
            message(
                f"scan: there are {B} lengths, but {what} is {describe(raw(x))}", expected=f"({B}, ...): one row for each length"
            )
        )


def _fitted(mask: Any, x: Any) -> Any:
    """The mask with trailing axes, so that it broadcasts over x."""
    return mask.reshape(mask.shape + (1,) * (len(x.shape) - mask.ndim))


def _parted(new: Any, before: tuple[Any, ...], several: bool, t: int) -> tuple[Any, Any]:
    """What a step with `collect` returned, as the new state and the thing more."""
    if not isinstance(new, tuple) or len(new) != len(before) + 1:
        got = f"a tuple of {len(new)}" if isinstance(new, tuple) else describe(raw(new))
        raise ShapeError(
            message(
                f"scan: collect=True, but the step returned no thing more at t = {t}",
                expected=f"a tuple of {len(before) + 1}: the arrays of the state, then what to collect",
                got=got,
            )
        )
    return new[:-1] if several else new[0], new[-1]


def _check_collected(values: tuple[Any, ...]) -> None:
    for value in values:
        if not hasattr(raw(value), "shape"):
            raise ArgumentError(message(f"scan: the step returned {describe(value)} to collect", expected="arrays"))


def _checked(new: tuple[Any, ...], before: tuple[Any, ...], t: int) -> tuple[Any, ...]:
    """What the step returned: as many arrays as the state has, of the same shapes."""
    if len(new) != len(before):
        raise ShapeError(
            message(
                f"scan: the step returned {len(new)} {'array' if len(new) == 1 else 'arrays'} at t = {t}",
                expected=f"{len(before)}, as the state has",
                do="return the new state and nothing else: its first array is the output" if len(new) > len(before) else "",
            )
        )
    for i, (h, old) in enumerate(zip(new, before, strict=True)):
        if not hasattr(raw(h), "shape"):
            raise ArgumentError(message(f"scan: the step returned {describe(h)} at t = {t}", expected="arrays"))
        if h.shape != old.shape:
            raise ShapeError(
                message(
                    f"scan: the step changed the shape of the state at t = {t}",
                    expected=f"{tuple(old.shape)}, as state {i} came in",
                    got=str(tuple(h.shape)),
                    do="give an initial state of the shape that the step returns; a cell tells it as hidden_size or state_sizes",
                )
            )
    return new
