"""Joining arrays and cutting them apart, each the derivative of the other: concatenate and split, stack and unstack.

However many pieces, each is one op: the stack of T states, and its derivative, cost what the elements cost.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from operator import index
from typing import Any

import numpy as np

from .. import backend
from ..errors import ArgumentError, AxisError, ShapeError, describe, message
from ..graph import Value, raw
from ..primitives import backward_of, primitive


@primitive(expects="arrays that agree in every axis but the one that is joined")
def join(*arrays: Any, axis: int) -> Any:
    """`concatenate` of arrays that were looked at already."""
    return np.concatenate(arrays, axis)


join.primitive.name = "concatenate"  # what the user called


@backward_of(join)
def _(g: Any, y: Any, *arrays: Any, axis: int) -> Any:
    return _split(g, _ends(a.shape[axis] for a in arrays)[:-1], axis)


def concatenate(arrays: Iterable[Any], axis: int = 0) -> Any:
    """The arrays joined along an axis that they have."""
    return join(*_some("concatenate", arrays), axis=axis)


@primitive(expects="arrays of one shape")
def _stack(*arrays: Any, axis: int) -> Any:
    return np.stack(arrays, axis)


@backward_of(_stack)
def _(g: Any, y: Any, *arrays: Any, axis: int) -> Any:
    return unstack(g, axis)


def stack(arrays: Iterable[Any], axis: int = 0) -> Any:
    """The arrays, all of one shape, joined along a new axis.

    T arrays (B, H) -> (T, B, H). The derivative hands each array a view of the gradient.
    """
    return _stack(*_some("stack", arrays), axis=axis)


def _some(who: str, arrays: Iterable[Any]) -> list[Any]:
    if not isinstance(arrays, Iterable):
        raise ArgumentError(message(f"{who}: {describe(arrays)} is no sequence of arrays", expected="a list or a tuple of arrays"))
    several = [as_array(x) for x in arrays]
    if not several:
        raise ShapeError(message(f"{who}: no arrays", expected="at least one"))
    return several


@primitive(multiple=True)
def unstack(x: Any, /, axis: int = 0) -> tuple[Any, ...]:
    """The slices of x along an axis, as a tuple of views without that axis. One op, however many there are."""
    moved = np.moveaxis(x, axis, 0)
    return tuple(moved[i, ...] for i in range(moved.shape[0]))


@backward_of(unstack)
def _(g: Any, y: Any, x: Any, axis: int = 0) -> Any:
    return [stack(_arrived(g, y.shape), axis)]


@primitive(multiple=True)
def _split(x: Any, /, ends: tuple[int, ...], axis: int) -> tuple[Any, ...]:
    lead = (slice(None),) * (axis % x.ndim)
    return tuple(x[(*lead, slice(start, end))] for start, end in zip((0, *ends), (*ends, None), strict=True))


@backward_of(_split)
def _(g: Any, y: Any, x: Any, ends: tuple[int, ...], axis: int) -> Any:
    return [concatenate(_arrived(g, y.shape), axis)]


def split(x: Any, indices_or_sections: int | Sequence[int], axis: int = 0) -> tuple[Any, ...]:
    """x cut along an axis into equal sections, or at the given places: a tuple of views.

    3 -> three sections of one length; (2, 5) -> x[:2], x[2:5], x[5:].
    """
    x = as_array(x)
    n = x.shape[place("split", axis, x.ndim)]
    if isinstance(indices_or_sections, (int, np.integer)) and indices_or_sections > 0 and n % indices_or_sections:
        raise ShapeError(
            message(
                f"split: axis {axis} of size {n} does not divide into {indices_or_sections} equal sections",
                got=f"x of shape {x.shape}",
                do="tg.array_split allows sections that differ by one",
            )
        )
    return _cut("split", x, indices_or_sections, axis, n)


def array_split(x: Any, indices_or_sections: int | Sequence[int], axis: int = 0) -> tuple[Any, ...]:
    """As `split`, but the first sections may be longer by one than the last."""
    x = as_array(x)
    return _cut("array_split", x, indices_or_sections, axis, x.shape[place("array_split", axis, x.ndim)])


def _cut(who: str, x: Any, places: int | Sequence[int], axis: int, n: int) -> tuple[Any, ...]:
    if isinstance(places, (int, np.integer)):
        if places < 1:
            raise ShapeError(message(f"{who}: {places} sections", expected="at least one"))
        each, more = divmod(n, int(places))
        ends = _ends(each + (i < more) for i in range(places))[:-1]
    else:
        try:
            given = [index(i) for i in places]
        except TypeError:
            whole = "a number of sections, or the places to cut at, which are integers"
            raise ArgumentError(message(f"{who}: cannot cut at {places!r}", expected=whole)) from None
        ends = tuple(min(max(i + n if i < 0 else i, 0), n) for i in given)
        if list(ends) != sorted(ends):
            raise ShapeError(message(f"{who}: the places {list(places)} to cut at do not ascend", expected=f"0 <= ... <= {n}"))
    return _split(x, ends, axis)  # type: ignore[no-any-return]


def _ends(lengths: Iterable[int]) -> tuple[int, ...]:
    """Where consecutive pieces of these lengths end."""
    return tuple(np.cumsum(list(lengths)).tolist())


def _arrived(gs: Sequence[Any], shapes: Sequence[tuple[int, ...]]) -> list[Any]:
    """The gradients of all outputs, zero where none arrived."""
    known = next(raw(g) for g in gs if g is not None)
    zero = backend.array_module(known).zeros((), known.dtype)
    zeros = cache(lambda shape: np.broadcast_to(zero, shape))
    return [zeros(shape) if g is None else g for g, shape in zip(gs, shapes, strict=True)]


def as_array(x: Any) -> Any:
    """x itself if it is an array or a value; a number or a nested list as NumPy's array of it."""
    return x if isinstance(x, Value) or backend.is_array(x) else np.asarray(x)


def place(who: str, axis: int, ndim: int) -> int:
    """The axis counted from the left."""
    if not -ndim <= axis < ndim:
        raise AxisError(
            message(f"{who}: axis {axis} is out of bounds", expected=f"-{ndim} <= axis < {ndim} for an array of {ndim} axes")
        )
    return axis % ndim
