"""Ops that move elements without changing them: each derivative moves them back.

Where an op copies an element to several places, its derivative adds what comes back from them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from .. import backend
from ..errors import ArgumentError, ShapeError, describe, message
from ..graph import Value, box, raw
from ..primitives import defvjp, primitive
from .broadcast import sum_to
from .indexing import Slice, take
from .joining import as_array, place

Axis = int | tuple[int, ...] | None


# ---- Axes ----------------------------------------------------------------------------------------------------------------------


@primitive(expects="a shape of as many elements, one of its sizes may be -1")
def reshape(x: Any, /, shape: int | tuple[int, ...]) -> Any:
    """The same elements in another shape; one size may be -1, to be worked out."""
    return np.reshape(x, shape)


defvjp(reshape, lambda g, y, x, shape: reshape(g, x.shape))


def ravel(x: Any) -> Any:
    """The same elements in one row, the last axis fastest."""
    return reshape(x, (-1,))


@primitive(expects="a permutation of all axes")
def transpose(x: Any, /, axes: Sequence[int] | None = None) -> Any:
    """The axes permuted: axis i of the result is axis `axes[i]` of x. Without `axes` their order is reversed."""
    return np.transpose(x, axes)


def _transpose_back(g: Any, y: Any, x: Any, axes: Sequence[int] | None = None) -> Any:
    if axes is None:
        return transpose(g)
    back = [0] * g.ndim
    for i, axis in enumerate(axes):
        back[axis] = i
    return transpose(g, tuple(back))


defvjp(transpose, _transpose_back)


@primitive
def swapaxes(x: Any, /, axis1: int, axis2: int) -> Any:
    """Two axes exchanged."""
    return np.swapaxes(x, axis1, axis2)


defvjp(swapaxes, lambda g, y, x, axis1, axis2: swapaxes(g, axis1, axis2))


@primitive
def moveaxis(x: Any, /, source: int | tuple[int, ...], destination: int | tuple[int, ...]) -> Any:
    """The axes `source` moved to the places `destination`; the others keep their order."""
    return np.moveaxis(x, source, destination)


defvjp(moveaxis, lambda g, y, x, source, destination: moveaxis(g, destination, source))


@primitive
def expand_dims(x: Any, /, axis: int | tuple[int, ...]) -> Any:
    """New axes of size 1 at the places that `axis` names in the result."""
    return x[None] if axis == 0 and type(x) is np.ndarray else np.expand_dims(x, axis)


defvjp(expand_dims, lambda g, y, x, axis: reshape(g, x.shape))


@primitive(expects="axes of size 1")
def squeeze(x: Any, /, axis: Axis = None) -> Any:
    """Axes of size 1 removed: those that `axis` names, or all."""
    return np.squeeze(x, axis)


defvjp(squeeze, lambda g, y, x, axis=None: reshape(g, x.shape))

# ---- Repeating -----------------------------------------------------------------------------------------------------------------


@primitive
def tile(x: Any, /, reps: int | tuple[int, ...]) -> Any:
    """x laid side by side with itself, `reps[i]` times along axis i. Missing axes, and missing reps, are added on the left."""
    return np.tile(x, reps)


def _tile_back(g: Any, y: Any, x: Any, reps: int | tuple[int, ...]) -> Any:
    times = tuple(reps) if isinstance(reps, Iterable) else (reps,)
    times = (1,) * (g.ndim - len(times)) + times
    shape = (1,) * (g.ndim - x.ndim) + tuple(x.shape)
    laid = reshape(g, tuple(n for pair in zip(times, shape, strict=True) for n in pair))
    return reshape(sum_to(laid, tuple(m for n in shape for m in (1, n))), x.shape)


defvjp(tile, _tile_back)


@primitive
def _repeat(x: Any, /, repeats: int, axis: int) -> Any:
    return np.repeat(x, repeats, axis)


def _repeat_back(g: Any, y: Any, x: Any, repeats: int, axis: int) -> Any:
    axis %= x.ndim
    before, n, after = x.shape[:axis], x.shape[axis], x.shape[axis + 1 :]
    return reshape(sum_to(reshape(g, (*before, n, repeats, *after)), (*before, n, 1, *after)), x.shape)


defvjp(_repeat, _repeat_back)


def repeat(x: Any, repeats: int | Sequence[int], axis: int | None = None) -> Any:
    """Each element `repeats` times, one after the other, along an axis; without an axis those of x in one row.

    repeats: one number, or one for each place along the axis.
    """
    x = as_array(x)
    if axis is None:
        x, axis = ravel(x), 0
    counts = np.asarray(backend.to_numpy(raw(repeats)))
    if counts.dtype.kind not in "iub":
        raise ArgumentError(message(f"repeat: {describe(repeats)} does not count repeats", expected="integers"))
    if counts.size == 1:
        return _repeat(x, int(counts.reshape(())), axis)
    n = x.shape[place("repeat", axis, x.ndim)]
    if counts.shape != (n,):
        raise ShapeError(message(f"repeat: {counts.size} numbers of repeats", expected=f"one, or {n}, the size of axis {axis}"))
    return take(x, np.repeat(np.arange(n), counts), axis)


# ---- Order ---------------------------------------------------------------------------------------------------------------------


@primitive
def flip(x: Any, /, axis: Axis = None) -> Any:
    """The order of the elements reversed along the axes that `axis` names, or along all."""
    return np.flip(x, axis)


defvjp(flip, lambda g, y, x, axis=None: flip(g, axis))


@primitive
def roll(x: Any, /, shift: int | tuple[int, ...], axis: Axis = None) -> Any:
    """The elements moved on by `shift` places along an axis, the last ones coming in at the front; without an axis, in one row."""
    return np.roll(x, shift, axis)


def _back(shift: int | tuple[int, ...]) -> int | tuple[int, ...]:
    return tuple(-s for s in shift) if isinstance(shift, Iterable) else -shift


defvjp(roll, lambda g, y, x, shift, axis=None: roll(g, _back(shift), axis))

# ---- Padding -------------------------------------------------------------------------------------------------------------------


@primitive
def _pad(x: Any, /, widths: tuple[tuple[int, int], ...], value: Any) -> Any:
    return np.pad(x, widths, mode="constant", constant_values=value)


def _inner(widths: tuple[tuple[int, int], ...], shape: tuple[int, ...]) -> tuple[slice, ...]:
    return tuple(slice(before, before + n) for (before, _), n in zip(widths, shape, strict=True))


defvjp(_pad, lambda g, y, x, widths, value: g[_inner(widths, x.shape)])


@primitive
def _pad_from_inside(x: Any, /, widths: tuple[tuple[int, int], ...], mode: Any) -> Any:
    return np.pad(x, widths, mode=mode)


def _sources(widths: tuple[tuple[int, int], ...], shape: tuple[int, ...], mode: Any, module: Any) -> tuple[Any, ...]:
    """Which element of x stands where in the padded array, for each axis: an open mesh."""
    places = [np.pad(np.arange(n), width, mode=mode) for n, width in zip(shape, widths, strict=True)]
    return tuple(module.asarray(i) for i in np.ix_(*places))


defvjp(
    _pad_from_inside,
    lambda g, y, x, widths, mode: Slice((_sources(widths, x.shape, mode, backend.array_module(raw(g))), g)),
)


def pad(x: Any, pad_width: Any, mode: str = "constant", constant_values: Any = 0) -> Any:
    """x with a margin of `pad_width` elements around it.

    pad_width: one number for every side, (before, after) for every axis, or such a pair for each axis.
    mode: "constant", or what x itself continues with: "edge", "reflect", "symmetric", "wrap".
    """
    x = as_array(x)
    try:
        given = np.asarray(pad_width)
        widths = tuple((int(before), int(after)) for before, after in np.broadcast_to(given, (x.ndim, 2)))
        fits = given.dtype.kind in "iu" and not (given < 0).any()
    except (TypeError, ValueError):
        fits = False
    if not fits:
        raise ShapeError(
            message(
                f"pad: pad_width {pad_width!r} does not fit an array of {x.ndim} axes",
                expected="n, (before, after), or ((before, after), ...) for each axis: integers, none negative",
            )
        )
    if mode == "constant":
        if isinstance(constant_values, Value):
            raise ArgumentError(
                message("pad: constant_values is a Tensor", expected="a number", do="join it on with tg.concatenate")
            )
        return _pad(x, widths, constant_values)
    if mode not in ("edge", "reflect", "symmetric", "wrap"):
        raise ArgumentError(message(f"pad: mode {mode!r} is not known", expected="constant, edge, reflect, symmetric or wrap"))
    return _pad_from_inside(x, widths, mode)


# ---- Diagonals and triangles ---------------------------------------------------------------------------------------------------


@primitive(expects="at least two axes")
def diagonal(x: Any, /, offset: int = 0, axis1: int = 0, axis2: int = 1) -> Any:
    """The elements x[i, i + offset] of the matrices that two axes span; they make the last axis of the result."""
    return np.diagonal(x, offset, axis1, axis2).copy()


@primitive
def _on_diagonal(x: Any, /, shape: tuple[int, ...], offset: int, axis1: int, axis2: int) -> Any:
    out = backend.array_module(x).zeros(shape, x.dtype)
    i = backend.array_module(x).arange(x.shape[-1])
    np.moveaxis(out, (axis1, axis2), (-2, -1))[..., i + max(-offset, 0), i + max(offset, 0)] = x
    return out


defvjp(diagonal, lambda g, y, x, offset=0, axis1=0, axis2=1: _on_diagonal(g, x.shape, offset, axis1, axis2))
defvjp(_on_diagonal, lambda g, y, x, shape, offset, axis1, axis2: diagonal(g, offset, axis1, axis2))


def diag(x: Any, k: int = 0) -> Any:
    """The matrix with the vector x on its k-th diagonal, or the k-th diagonal of the matrix x."""
    x = as_array(x)
    if x.ndim == 1:
        n = x.shape[0] + abs(k)
        return _on_diagonal(x, (n, n), k, 0, 1)
    if x.ndim != 2:
        raise ShapeError(
            message(f"diag: x has {x.ndim} axes", expected="a vector or a matrix", do="tg.diagonal takes stacks of matrices")
        )
    return diagonal(x, k)


@primitive(expects="at least two axes")
def tril(x: Any, /, k: int = 0) -> Any:
    """The lower triangle of each matrix, up to its k-th diagonal; zero above."""
    return np.tril(_matrices(x), k)


@primitive(expects="at least two axes")
def triu(x: Any, /, k: int = 0) -> Any:
    """The upper triangle of each matrix, from its k-th diagonal on; zero below."""
    return np.triu(_matrices(x), k)


def _matrices(x: Any) -> Any:
    if np.ndim(x) < 2:
        raise ShapeError(f"x has {np.ndim(x)} axes")
    return x


defvjp(tril, lambda g, y, x, k=0: tril(g, k))
defvjp(triu, lambda g, y, x, k=0: triu(g, k))

# ---- The same elements in other memory --------------------------------------------------------------------------------------------


@primitive
def _astype(x: Any, /, dtype: Any) -> Any:
    return x.astype(dtype)


defvjp(_astype, lambda g, y, x, dtype: _astype(g, x.dtype))


def astype(x: Any, dtype: Any) -> Any:
    """The numbers in another dtype. Between floating-point types the gradient passes; integers and booleans are constants."""
    try:
        target = np.dtype(dtype)
    except TypeError:
        target = np.dtype(object)
    if target.kind not in "fiub":
        raise ArgumentError(
            message(f"astype: {dtype!r} is no dtype of a Tensor", expected="a floating-point, integer or boolean dtype")
        )
    if target.kind != "f" and isinstance(x, Value):
        return box(x._data.astype(target), None)
    return _astype(as_array(x), target)


@primitive
def copy(x: Any, /) -> Any:
    """The same numbers in memory of their own."""
    return np.copy(x)


defvjp(copy, lambda g, y, x: g)


@primitive
def _to_device(x: Any, /, device: str, source: str) -> Any:
    return backend.to_device(x, device)


defvjp(_to_device, lambda g, y, x, device, source: _to_device(g, source, device))


def to_device(x: Any, device: str) -> Any:
    """The array on another device: 'cpu', 'cuda', 'cuda:N'. The gradient travels back to where x is."""
    source = backend.device_of(raw(x))
    return x if device in (source, source.partition(":")[0]) else _to_device(x, device, source)
