"""Pooling: the largest number, or the mean, of what a window sees.

Both choose from or add up a window's elements, so the derivative of each lays a gradient back to where those came from, and the derivative
of laying back is the same choice, or sum, again. At a tie the first maximum of a window, row by row, wins; NaN is larger than all.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from ... import backend
from ...errors import ArgumentError, ShapeError, describe, message
from ...graph import Value, box, raw
from ...ops import expand_dims, mean, reshape, squeeze, sum, take, take_along_axis, where
from ...ops.joining import as_array
from ...primitives import defvjp, primitive
from .windows import Margins, Sizes, channels_last, channels_second, check_fits, padded, per_axis, places, taps


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


def adaptive_avg_pool1d(x: Any, output_size: Any) -> Any:
    """The means of `output_size` windows that cover the axis: window i goes from floor(i L / n) to ceil((i + 1) L / n).

    x (N, C, L) or (C, L) -> (N, C, output_size) or (C, output_size).
    """
    return _adaptive_avg("adaptive_avg_pool1d", 1, x, output_size)


def adaptive_avg_pool2d(x: Any, output_size: Any) -> Any:
    """The means of windows that cover both axes, as in `adaptive_avg_pool1d`; an output size of None keeps that axis.

    x (N, C, H, W) or (C, H, W) -> (N, C, *output_size) or (C, *output_size).
    """
    return _adaptive_avg("adaptive_avg_pool2d", 2, x, output_size)


def adaptive_max_pool1d(x: Any, output_size: Any, return_indices: bool = False) -> Any:
    """The largest numbers of `output_size` windows that cover the axis: window i goes from floor(i L / n) to ceil((i + 1) L / n).

    x (N, C, L) or (C, L) -> (N, C, output_size) or (C, output_size); with return_indices=True also where they stand.
    """
    return _adaptive_max("adaptive_max_pool1d", 1, x, output_size, return_indices)


def adaptive_max_pool2d(x: Any, output_size: Any, return_indices: bool = False) -> Any:
    """The largest numbers of windows that cover both axes, as in `adaptive_max_pool1d`; an output size of None keeps that axis.

    x (N, C, H, W) or (C, H, W) -> (N, C, *output_size) or (C, *output_size); indices count row by row.
    """
    return _adaptive_max("adaptive_max_pool2d", 2, x, output_size, return_indices)


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
    g, module = channels_last(g), backend.array_module(g)
    x = module.zeros((len(g), *_whole(size, margins), g.shape[-1]), g.dtype)
    for tap, place in enumerate(taps(x, kernel, stride, dilation, g.shape[1:-1])):
        place += g * (winner == tap)
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
    batch = _batch(who, axes, x)
    y = _max_pool(batch, **how)
    if not indices:
        return _as_given(y, x)
    return _as_given(y, x), _as_given(_winning_places(batch, y, **how), x)


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
    total = _window_sum(_batch(who, axes, x), kernel=kernel, stride=stride, margins=margins)
    counts: Any = np.ones((), np.int64)
    for n, k, s, (before, _), count in zip(x.shape[-axes:], kernel, stride, margins, total.shape[2:], strict=True):
        start = np.arange(count) * s - before
        end = np.minimum(start + k, n + before)  # beyond its padding, where ceil_mode may reach, nothing is counted
        counts = np.multiply.outer(counts, end - start if with_padding else np.minimum(end, n) - np.maximum(start, 0))
    if divisor is None and counts.min() == counts.max():
        divisor = counts.max()
    by = int(divisor) if divisor is not None else backend.array_module(raw(x)).asarray(counts.astype(raw(total).dtype))
    return _as_given(total / by, x)


# ---- Windows that cover the axis ------------------------------------------------------------------------------------------------------


def _adaptive_avg(who: str, axes: int, x: Any, output_size: Any) -> Any:
    x = as_array(x)
    y, size, count = _batch(who, axes, x), x.shape[-axes:], _output_size(who, axes, x, output_size)
    if all(n % m == 0 for n, m in zip(size, count, strict=True)):  # windows of one size, side by side
        cut = reshape(y, (*y.shape[:2], *(part for n, m in zip(size, count, strict=True) for part in (m, n // m))))
        return _as_given(mean(cut, axis=tuple(range(3, cut.ndim, 2))), x)
    module = backend.array_module(raw(x))
    for axis, (n, m) in enumerate(zip(size, count, strict=True), 2):
        start, end = _windows_that_cover(n, m)
        at = start[:, None] + np.arange((end - start).max())  # (places, taps)
        after = (1,) * (axes + 1 - axis)
        inside = module.asarray((at < end[:, None]).reshape(*at.shape, *after))
        lengths = module.asarray((end - start).astype(raw(x).dtype).reshape(-1, *after))
        y = sum(where(inside, take(y, np.minimum(at, n - 1), axis), 0), axis=axis + 1) / lengths
    return _as_given(y, x)


def _adaptive_max(who: str, axes: int, x: Any, output_size: Any, indices: bool) -> Any:
    x = as_array(x)
    batch, size, count = _batch(who, axes, x), x.shape[-axes:], _output_size(who, axes, x, output_size)
    seen = np.zeros((1, 1), np.int64)  # (places, taps): the axes of space counted in one row
    for n, m in zip(size, count, strict=True):
        start, end = _windows_that_cover(n, m)
        at = np.minimum(start[:, None] + np.arange((end - start).max()), end[:, None] - 1)  # one seen twice is no larger
        seen = (seen[:, None, :, None] * n + at[None, :, None, :]).reshape(len(seen) * m, -1)
    row = reshape(batch, (*batch.shape[:2], math.prod(size)))
    module = backend.array_module(raw(x))
    seen = module.asarray(seen)
    winner = raw(row)[..., seen].argmax(-1)  # (N, C, places)
    found = seen[module.arange(len(seen)), winner]
    y = reshape(take_along_axis(row, found, -1), (*batch.shape[:2], *count))
    if not indices:
        return _as_given(y, x)
    return _as_given(y, x), _as_given(_like(found.reshape(y.shape), x), x)


def _windows_that_cover(n: int, count: int) -> tuple[Any, Any]:
    """Where `count` windows begin and end that cover n elements."""
    i = np.arange(count)
    return i * n // count, -(-(i + 1) * n // count)


# ---- What the caller said ------------------------------------------------------------------------------------------------------------


def _batch(who: str, axes: int, x: Any) -> Any:
    """x with its batch axis, which it may lack."""
    if x.ndim not in (axes + 1, axes + 2):
        shapes = "(N, C, L) or (C, L)" if axes == 1 else "(N, C, H, W) or (C, H, W)"
        raise ShapeError(message(f"{who}: x has {x.ndim} axes", expected=shapes, got=f"x {describe(raw(x))}"))
    return x if x.ndim == axes + 2 else expand_dims(x, 0)


def _as_given(y: Any, x: Any) -> Any:
    """y without its batch axis, if x has none."""
    return y if y.ndim == x.ndim else squeeze(y, 0)


def _settings(
    who: str, axes: int, x: Any, kernel: Any, stride: Any, padding: Any, dilation: Sizes, ceil: bool
) -> tuple[Sizes, Sizes, Margins]:
    """Kernel, stride and margins, for each axis."""
    _batch(who, axes, x)
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


def _output_size(who: str, axes: int, x: Any, output_size: Any) -> Sizes:
    _batch(who, axes, x)
    several = tuple(output_size) if isinstance(output_size, (tuple, list)) else (output_size,) * axes
    if len(several) == axes:
        several = tuple(n if m is None else m for n, m in zip(x.shape[-axes:], several, strict=True))
    return per_axis(who, "output_size", several, axes)


def _like(found: Any, x: Any) -> Any:
    """Indices, as a constant Tensor where x is a Tensor."""
    return box(found, None) if isinstance(x, Value) else found


def _whole(size: Sizes, margins: Margins) -> Sizes:
    return tuple(n + before + after for n, (before, after) in zip(size, margins, strict=True))


def _inner(x: Any, size: Sizes, margins: Margins) -> Any:
    """x (N, *whole, C) without its margins, a view."""
    return x[(slice(None), *(slice(before, before + n) for n, (before, _) in zip(size, margins, strict=True)))]
