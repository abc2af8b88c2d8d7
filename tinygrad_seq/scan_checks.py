"""What `scan` is given, and what a step returns, checked; and which rows of a batch are present at which time."""

from __future__ import annotations

from typing import Any

import numpy as np

from . import backend
from .errors import ArgumentError, ShapeError, describe, message
from .graph import raw


def check_sequence(xs: Any) -> None:
    """Raise unless xs has a time axis and a time step."""
    shape = tuple(raw(xs).shape) if hasattr(raw(xs), "shape") else None
    if not shape:
        raise ShapeError(message("scan: xs has no time axis", expected="an array (T, ...): time first", got=describe(raw(xs))))
    if shape[0] == 0:
        raise ShapeError(message("scan: xs has no time step", expected="T >= 1", got=describe(raw(xs))))


def check_arguments(step: Any, states: tuple[Any, ...], weights: Any) -> None:
    """Raise unless the step is a function, and the states and weights are arrays."""
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


def steps_present(lengths: Any, xs: Any) -> Any:
    """(T, B): whether row b of xs is still within its length at time t."""
    if len(xs.shape) < 2:
        raise ShapeError(
            message(f"scan: lengths do not fit xs {tuple(xs.shape)}", expected="xs (T, B, ...) and lengths (B,), one for each row")
        )
    return present("scan", lengths, *xs.shape[:2])


def check_rows(what: str, x: Any, B: int) -> None:
    """Raise unless the array has a row for each length."""
    if tuple(x.shape[:1]) != (B,):
        raise ShapeError(
            message(
                f"scan: there are {B} lengths, but {what} is {describe(raw(x))}", expected=f"({B}, ...): one row for each length"
            )
        )


def fitted(mask: Any, x: Any) -> Any:
    """The mask with trailing axes, so that it broadcasts over x."""
    return mask.reshape(mask.shape + (1,) * (len(x.shape) - mask.ndim))


def parted(new: Any, before: tuple[Any, ...], several: bool, t: int) -> tuple[Any, Any]:
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


def check_collected(values: tuple[Any, ...]) -> None:
    """Raise unless what is collected is arrays."""
    for value in values:
        if not hasattr(raw(value), "shape"):
            raise ArgumentError(message(f"scan: the step returned {describe(value)} to collect", expected="arrays"))


def checked(new: tuple[Any, ...], before: tuple[Any, ...], t: int) -> tuple[Any, ...]:
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
