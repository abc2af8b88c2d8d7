"""Pooling: the largest number, or the mean, of what a window sees.

Both choose from or add up a window's elements, so the derivative of each lays a gradient back to where those came from, and the derivative
of laying back is the same choice, or sum, again. At a tie the first maximum of a window, row by row, wins; NaN is larger than all.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ... import backend
from ...errors import ArgumentError, ShapeError, message
from ...graph import raw
from ...ops.joining import as_array
from ...primitives import defvjp, primitive
from .windows import (
    Margins,
    Sizes,
    as_given,
    channels_last,
    channels_second,
    check_fits,
    padded,
    per_axis,
    places,
    taps,
    with_batch,
)


def max_pool1d(
    x: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """The largest number in each window over one axis.

        y[n, c, i] = max_k x[n, c, s i + d k - p]

    x (N, C, L) or (C, L) -> (N, C, L') or (C, L'). The stride is the kernel's size unless told; padding counts as -inf. ceil_mode: also
    a last window that only begins within x. return_indices: also where each maximum stands, counted along the axes of space in one row.
    """
    return _max_pool_over("max_pool1d", 1, x, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


def max_pool2d(
    x: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """The largest number in each window over two axes.

        y[n, c, i, j] = max_k max_l x[n, c, s i + d k - p, s j + d l - p]

    x (N, C, H, W) or (C, H, W) -> (N, C, H', W'); the rest as in `max_pool1d`.
    """
    return _max_pool_over("max_pool2d", 2, x, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


def avg_pool1d(
    x: Any, kernel_size: Any, stride: Any = None, padding: Any = 0, ceil_mode: bool = False, count_include_pad: bool = True
) -> Any:
    """The mean of each window over one axis.

        y[n, c, i] = 1/K Σ_k x[n, c, s i + k - p]

    x (N, C, L) or (C, L) -> (N, C, L') or (C, L'). count_include_pad=False: the mean of what stands within x, without the padding's zeros.
    """
    return _avg_pool_over("avg_pool1d", 1, x, kernel_size, stride, padding, ceil_mode, count_include_pad, None)


def avg_pool2d(
    x: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Any:
    """The mean of each window over two axes, or its sum divided by `divisor_override`.

        y[n, c, i, j] = 1/(K L) Σ_k Σ_l x[n, c, s i + k - p, s j + l - p]

    x (N, C, H, W) or (C, H, W) -> (N, C, H', W'); the rest as in `avg_pool1d`.
    """
    return _avg_pool_over("avg_pool2d", 2, x, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)


# ---- Maxima ------------------------------------------------------------------------------------------------------------------------


@primitive
def _max_pool(x: Any, /, kernel: Sizes, stride: Sizes, margins: Margins, dilation: Sizes) -> Any:
    """x (N, C, *S) -> (N, C, *places)."""
    first, *others = _seen(x, kernel, stride, margins, dilation, -np.inf)
    y = first.copy()
    for tap in others:
        np.maximum(y, tap, out=y)
    return channels_second(y)


@primitive
def _unpool(g: Any, winner: Any, /, size: Sizes, kernel: Sizes, stride: Sizes, margins: Margins, dilation: Sizes) -> Any:
    """Each g (N, C, *places) added where the winner of its window stands: (N, C, *size)."""
    g = channels_last(g)
    x = backend.array_module(g).zeros((len(g), *_whole(size, margins), g.shape[-1]), g.dtype)
    for tap, place in enumerate(taps(x, kernel, stride, dilation, g.shape[1:-1])):
        place += g * (winner == tap)  # a product, since `where` guesses at every element
    return channels_second(_inner(x, size, margins))


@primitive
def _at_winners(x: Any, winner: Any, /, kernel: Sizes, stride: Sizes, margins: Margins, dilation: Sizes) -> Any:
    """The elements of x (N, C, *S) where the winners stand: (N, C, *places)."""
    y: Any = 0
    for tap, values in enumerate(_seen(x, kernel, stride, margins, dilation, 0)):
        y = backend.array_module(x).where(winner == tap, values, y)
    return channels_second(y)


defvjp(_max_pool, lambda g, y, x, **how: _unpool(g, _winners(raw(x), raw(y), **how), size=x.shape[2:], **how))
defvjp(_unpool, lambda h, y, g, winner, size, **how: _at_winners(h, winner, **how), None)
defvjp(_at_winners, lambda h, y, x, winner, **how: _unpool(h, winner, size=x.shape[2:], **how), None)


def _winners(x: Any, y: Any, kernel: Sizes, stride: Sizes, margins: Margins, dilation: Sizes) -> Any:
    """Which tap of its window each maximum is, (N, *places, C): the first that equals it; the last NaN, where that is the maximum."""
    seen, y, module = _seen(x, kernel, stride, margins, dilation, np.nan), channels_last(y), backend.array_module(x)
    winner = module.zeros(y.shape, np.min_scalar_type(len(seen)))
    for left, values in zip(range(len(seen), 0, -1), seen, strict=True):  # taps left to see: most at the first that equals y
        np.maximum(winner, (values == y) * winner.dtype.type(left), out=winner)
    winner = len(seen) - winner
    unseen = winner == len(seen)  # a NaN equals nothing
    if type(x) is not np.ndarray or unseen.any():
        for tap, values in enumerate(_seen(x, kernel, stride, margins, dilation, 0)):
            winner = module.where(unseen & (values != values), winner.dtype.type(tap), winner)
    return winner


@primitive(differentiable=False)
def _winning_places(x: Any, y: Any, /, kernel: Sizes, stride: Sizes, margins: Margins, dilation: Sizes) -> Any:
    """Where in x each maximum stands, (N, C, *places), the axes of space counted in one row."""
    module, axes = backend.array_module(x), len(kernel)
    tap = _winners(x, y, kernel, stride, margins, dilation).astype(np.int64)
    found, step = module.zeros(tap.shape, np.int64), 1
    for axis in reversed(range(axes)):
        start = module.arange(tap.shape[1 + axis]) * stride[axis] - margins[axis][0]
        place = start.reshape(-1, *[1] * (axes - axis)) + tap % kernel[axis] * dilation[axis]
        found, tap, step = found + place * step, tap // kernel[axis], step * x.shape[2 + axis]
    return channels_second(found)


def _max_pool_over(
    who: str, axes: int, x: Any, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil: bool, indices: bool
) -> Any:
    x = as_array(x)
    dilation = per_axis(who, "dilation", dilation, axes)
    kernel, stride, margins = _settings(who, axes, x, kernel, stride, padding, dilation, ceil)
    how = {"kernel": kernel, "stride": stride, "margins": margins, "dilation": dilation}
    batch = with_batch(who, axes, x)
    y = _max_pool(batch, **how)
    if not indices:
        return as_given(y, x)
    return as_given(y, x), as_given(_winning_places(batch, y, **how), x)


def _seen(x: Any, kernel: Sizes, stride: Sizes, margins: Margins, dilation: Sizes, fill: float) -> list[Any]:
    """For each tap of the kernel what it sees at every place, (N, *places, C), of x (N, C, *S) within margins of `fill`."""
    x = channels_last(x)
    if any(map(any, margins)):
        x = padded(x, margins, fill)
    count = places(x.shape[1:-1], kernel, stride, ((0, 0),) * len(kernel), dilation)
    return list(taps(x, kernel, stride, dilation, count))


# ---- Sums --------------------------------------------------------------------------------------------------------------------------


@primitive
def _window_sum(x: Any, /, kernel: Sizes, stride: Sizes, margins: Margins) -> Any:
    """The sum of each window, one axis after the other: x (N, C, *S) -> (N, C, *places)."""
    x = padded(channels_last(x), margins) if any(map(any, margins)) else channels_last(x)
    for axis, k in enumerate(kernel, 1):
        along = _along(x, axis, k, stride[axis - 1])
        x = next(along).copy()
        for tap in along:
            x += tap
    return channels_second(x)


@primitive
def _window_spread(g: Any, /, size: Sizes, kernel: Sizes, stride: Sizes, margins: Margins) -> Any:
    """Each g (N, C, *places) added to every element of its window: (N, C, *size)."""
    g = channels_last(g)
    for axis, n in reversed(list(enumerate(_whole(size, margins), 1))):
        x = backend.array_module(g).zeros((*g.shape[:axis], n, *g.shape[axis + 1 :]), g.dtype)
        for tap in _along(x, axis, kernel[axis - 1], stride[axis - 1], g.shape[axis]):
            tap += g
        g = x
    return channels_second(_inner(g, size, margins))


defvjp(_window_sum, lambda g, y, x, **how: _window_spread(g, size=x.shape[2:], **how))
defvjp(_window_spread, lambda h, y, g, size, **how: _window_sum(h, **how))


def _along(x: Any, axis: int, k: int, stride: int, count: int | None = None) -> Iterator[Any]:
    """For each of k taps what it sees of x along one axis, at every place."""
    count = (x.shape[axis] - k) // stride + 1 if count is None else count
    lead = (slice(None),) * axis
    return (x[(*lead, slice(tap, tap + stride * (count - 1) + 1, stride))] for tap in range(k))


def _avg_pool_over(
    who: str, axes: int, x: Any, kernel: Any, stride: Any, padding: Any, ceil: bool, with_padding: bool, divisor: int | None
) -> Any:
    x = as_array(x)
    kernel, stride, margins = _settings(who, axes, x, kernel, stride, padding, (1,) * axes, ceil)
    if divisor is not None and (isinstance(divisor, bool) or not isinstance(divisor, (int, np.integer)) or not divisor):
        raise ArgumentError(message(f"{who}: divisor_override = {divisor!r}", expected="an integer other than 0, or None"))
    total = _window_sum(with_batch(who, axes, x), kernel=kernel, stride=stride, margins=margins)
    counts: Any = np.ones((), np.int64)
    for n, k, s, (before, _), count in zip(x.shape[-axes:], kernel, stride, margins, total.shape[2:], strict=True):
        start = np.arange(count) * s - before
        end = np.minimum(start + k, n + before)  # beyond its padding, where ceil_mode may reach, nothing is counted
        counts = np.multiply.outer(counts, end - start if with_padding else np.minimum(end, n) - np.maximum(start, 0))
    if divisor is None and counts.min() == counts.max():
        divisor = counts.max()
    by = int(divisor) if divisor is not None else backend.array_module(raw(x)).asarray(counts.astype(raw(total).dtype))
    return as_given(total / by, x)


# ---- What the caller said ------------------------------------------------------------------------------------------------------------


def _settings(
    who: str, axes: int, x: Any, kernel: Any, stride: Any, padding: Any, dilation: Sizes, ceil: bool
) -> tuple[Sizes, Sizes, Margins]:
    """Kernel, stride and margins, for each axis."""
    with_batch(who, axes, x)
    kernel = per_axis(who, "kernel_size", kernel, axes)
    stride = kernel if stride is None else per_axis(who, "stride", stride, axes)
    padding = per_axis(who, "padding", padding, axes, 0)
    if any(p > (d * (k - 1) + 1) // 2 for p, k, d in zip(padding, kernel, dilation, strict=True)):
        raise ShapeError(
            message(
                f"{who}: padding = {padding}",
                expected="at most half of the kernel, or a window would see nothing else",
                got=f"kernel_size {kernel}",
            )
        )
    size, margins = tuple(x.shape[-axes:]), tuple((p, p) for p in padding)
    if ceil:
        margins = tuple(
            (p, max(p, _ceil(n, k, s, p, d))) for n, k, s, p, d in zip(size, kernel, stride, padding, dilation, strict=True)
        )
    check_fits(who, size, kernel, stride, margins, dilation)
    return kernel, stride, margins


def _ceil(n: int, k: int, s: int, p: int, d: int) -> int:
    """The margin after an axis within which the last window that begins in x, or before it, ends."""
    reach = d * (k - 1) + 1
    last = -(-(n + 2 * p - reach) // s) * s
    return (last if last < n + p else last - s) + reach - n - p


def _whole(size: Sizes, margins: Margins) -> Sizes:
    return tuple(n + before + after for n, (before, after) in zip(size, margins, strict=True))


def _inner(x: Any, size: Sizes, margins: Margins) -> Any:
    """x (N, *whole, C) without its margins, a view."""
    return x[(slice(None), *(slice(before, before + n) for n, (before, _) in zip(size, margins, strict=True)))]
