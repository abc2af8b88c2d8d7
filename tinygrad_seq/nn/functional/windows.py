"""Windows: the places at which a kernel stands while it slides over an array. What convolution and pooling share.

Knows sizes and memory, no products and no maxima. Arrays have PyTorch's shape (N, C, *S), S the sizes of one or two axes of space; in
memory the channels come last, (N, *S, C), so that whatever a window reads lies in long runs. NumPy keeps that order through
elementwise ops, hence only the first layer pays for it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np

from ... import backend
from ...errors import ArgumentError, ShapeError, describe, message
from ...graph import raw
from ...ops import expand_dims, squeeze

Sizes = tuple[int, ...]
Margins = tuple[tuple[int, int], ...]  # before and after, for each axis of space; a negative margin cuts off

CACHE = {"cpu": 2**20, "device": 2**28}  # bytes to work on at a time: on a CPU what its second cache holds beside everything else


# ---- Sizes -------------------------------------------------------------------------------------------------------------------------


def per_axis(who: str, name: str, value: Any, axes: int, least: int = 1) -> Sizes:
    """One integer for each axis of space: those of `value`, or the same one for all."""
    several = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    several = several * axes if len(several) == 1 else several
    if len(several) != axes or any(isinstance(n, bool) or not isinstance(n, (int, np.integer)) or n < least for n in several):
        each = "an integer" if axes == 1 else f"one integer, or {axes}, one for each axis,"
        raise ArgumentError(message(f"{who}: {name} = {value!r}", expected=f"{each} from {least} on"))
    return tuple(map(int, several))


def places(size: Sizes, kernel: Sizes, stride: Sizes, margins: Margins, dilation: Sizes) -> Sizes:
    """At how many places along each axis the whole kernel lies within the array and its margins; less than 1 where it does not fit."""
    return tuple(
        (n + before + after - d * (k - 1) - 1) // s + 1
        for n, k, s, (before, after), d in zip(size, kernel, stride, margins, dilation, strict=True)
    )


def check_fits(who: str, size: Sizes, kernel: Sizes, stride: Sizes, margins: Margins, dilation: Sizes) -> None:
    """Raise where the kernel finds no place."""
    if min(places(size, kernel, stride, margins, dilation)) < 1:
        reach = tuple(d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True))
        whole = tuple(n + before + after for n, (before, after) in zip(size, margins, strict=True))
        raise ShapeError(
            message(
                f"{who}: the kernel does not fit into x",
                expected=f"at least {reach}: kernel {tuple(kernel)}, dilation {dilation}",
                got=f"{whole}: x {tuple(size)}, padding {margins}",
                do="more padding, a smaller kernel, or fewer layers that halve the size",
            )
        )


def with_batch(who: str, axes: int, x: Any) -> Any:
    """x with its batch axis, which the caller may have left out."""
    if x.ndim not in (axes + 1, axes + 2):
        shapes = "(N, C, L) or (C, L)" if axes == 1 else "(N, C, H, W) or (C, H, W)"
        raise ShapeError(message(f"{who}: x has {x.ndim} axes", expected=shapes, got=f"x {describe(raw(x))}"))
    return x if x.ndim == axes + 2 else expand_dims(x, 0)


def as_given(y: Any, x: Any) -> Any:
    """y without its batch axis, if x has none."""
    return y if y.ndim == x.ndim else squeeze(y, 0)


# ---- Memory ------------------------------------------------------------------------------------------------------------------------


def channels_last(x: Any) -> Any:
    """(N, C, *S) -> (N, *S, C), a view."""
    return x.transpose(0, *range(2, x.ndim), 1)


def channels_second(x: Any) -> Any:
    """(N, *S, C) -> (N, C, *S), a view."""
    return x.transpose(0, x.ndim - 1, *range(1, x.ndim - 1))


def padded(x: Any, margins: Margins, fill: float = 0, into: Any = None) -> Any:
    """x (N, *S, C) in contiguous memory, with margins of `fill` around it; `into` the memory of another x padded in the same way."""
    module = backend.array_module(x)
    if min(map(min, margins)) < 0:
        x = x[(slice(None), *(slice(max(-before, 0), n - max(-after, 0)) for n, (before, after) in zip(x.shape[1:-1], margins)))]
    if max(map(max, margins)) <= 0:
        return module.ascontiguousarray(x)
    starts = [max(before, 0) for before, _ in margins]
    whole = [n + start + max(after, 0) for n, start, (_, after) in zip(x.shape[1:-1], starts, margins)]
    shape = (x.shape[0], *whole, x.shape[-1])
    if into is not None:
        out = into[: len(x)]
    else:
        out = module.full(shape, fill, x.dtype) if fill else module.zeros(shape, x.dtype)
    out[(slice(None), *(slice(start, start + n) for n, start in zip(x.shape[1:-1], starts)))] = x
    return out


def windows(x: Any, kernel: Sizes, stride: Sizes, dilation: Sizes) -> Any:
    """Every window of x (N, *S, C), as a view (N, *places, *kernel, C) in which windows overlap: to read from only."""
    size, steps = x.shape[1:-1], x.strides[1:-1]
    shape = (x.shape[0], *places(size, kernel, stride, ((0, 0),) * len(size), dilation), *kernel, x.shape[-1])
    between = [step * s for step, s in zip(steps, stride, strict=True)]
    within = [step * d for step, d in zip(steps, dilation, strict=True)]
    return backend.array_module(x).lib.stride_tricks.as_strided(x, shape, (x.strides[0], *between, *within, x.strides[-1]))


def taps(x: Any, kernel: Sizes, stride: Sizes, dilation: Sizes, count: Sizes) -> Iterator[Any]:
    """For each entry of the kernel, row by row, the elements of x (N, *S, C) that it meets at the `count` places, as a view."""
    for offset in product(*map(range, kernel)):
        starts = [i * d for i, d in zip(offset, dilation, strict=True)]
        yield x[(slice(None), *(slice(a, a + s * (n - 1) + 1, s) for a, s, n in zip(starts, stride, count, strict=True)))]


def columns(
    x: Any, kernel: Sizes, stride: Sizes, margins: Margins, dilation: Sizes, groups: int
) -> Iterator[tuple[tuple[slice, slice], Any]]:
    """The windows of x (N, *S, C) as rows of matrices (groups, places, kernel * C/groups), for some places at a time.

    Each comes with the key of its places: some images, or some of the first places of one image, so many that whoever multiplies the
    rows finds them in the cache. The next ones take the same memory.
    """
    N, *size, C = x.shape
    first, *others = places(tuple(size), kernel, stride, margins, dilation)
    module, width = backend.array_module(x), math.prod((*others, *kernel, C))
    a_row = width * x.dtype.itemsize
    memory = module.empty(min(N * first * width, max(width, cache(x) // x.dtype.itemsize)), x.dtype)
    frame = None
    for some in pieces(N, first * a_row, x):
        within = padded(x[some], margins, into=frame)
        frame = within if frame is None else frame
        seen = windows(within, kernel, stride, dilation)  # (n, *places, *kernel, C)
        for rows in pieces(first, a_row, x):
            by_group = _by_group(seen[:, rows], groups)  # (groups, n, *places, *kernel, C/groups)
            if groups == C:  # runs of places are longer than runs of taps: the transpose is laid out
                by_group = by_group.transpose(0, *range(len(kernel) + 2, by_group.ndim), *range(1, len(kernel) + 2))
            matrix = memory[: by_group.size]
            matrix.reshape(by_group.shape)[...] = by_group
            summed = math.prod(kernel) * C // groups
            yield (
                (some, rows),
                (matrix.reshape(groups, summed, -1).swapaxes(1, 2) if groups == C else matrix.reshape(groups, -1, summed)),
            )


def as_rows(x: Any, groups: int) -> Any:
    """x (N, *places, groups * channels) as matrices (groups, N * places, channels), a view."""
    x = _by_group(x, groups)
    return x.reshape(groups, math.prod(x.shape[1:-1]), x.shape[-1])


def _by_group(x: Any, groups: int) -> Any:
    """(..., groups * channels) -> (groups, ..., channels), a view."""
    x = x.reshape(*x.shape[:-1], groups, x.shape[-1] // groups)
    return x.transpose(x.ndim - 2, *range(x.ndim - 2), x.ndim - 1)


def pieces(n: int, each: int, like: Any) -> Iterator[slice]:
    """0 ... n - 1 in pieces of nearly one size, none longer than the first, that the cache holds where one takes `each` bytes."""
    count = -(-n // max(1, cache(like) // max(1, each)))
    return (slice(-(-n * i // count), -(-n * (i + 1) // count)) for i in range(count))


def cache(like: Any) -> int:
    """How many bytes are worth working on at a time, where the array `like` is."""
    return CACHE["cpu" if type(like) is np.ndarray else "device"]
