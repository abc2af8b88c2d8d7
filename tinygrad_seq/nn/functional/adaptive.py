"""Adaptive pooling: as many windows as are asked for, which cover the axis. Window i goes from floor(i L / n) to ceil((i + 1) L / n)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ... import backend
from ...graph import Value, box, raw
from ...ops import mean, reshape, sum, take, take_along_axis, where
from ...ops.joining import as_array
from .windows import Sizes, as_given, per_axis, with_batch


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


def _adaptive_avg(who: str, axes: int, x: Any, output_size: Any) -> Any:
    x = as_array(x)
    y, size, count = with_batch(who, axes, x), x.shape[-axes:], _output_size(who, axes, x, output_size)
    if all(n % m == 0 for n, m in zip(size, count, strict=True)):  # windows of one size, side by side
        cut = reshape(y, (*y.shape[:2], *(part for n, m in zip(size, count, strict=True) for part in (m, n // m))))
        return as_given(mean(cut, axis=tuple(range(3, cut.ndim, 2))), x)
    module = backend.array_module(raw(x))
    for axis, (n, m) in enumerate(zip(size, count, strict=True), 2):
        start, end = _windows_that_cover(n, m)
        at = start[:, None] + np.arange((end - start).max())  # (places, taps)
        after = (1,) * (axes + 1 - axis)
        inside = module.asarray((at < end[:, None]).reshape(*at.shape, *after))
        lengths = module.asarray((end - start).astype(raw(x).dtype).reshape(-1, *after))
        y = sum(where(inside, take(y, np.minimum(at, n - 1), axis), 0), axis=axis + 1) / lengths
    return as_given(y, x)


def _adaptive_max(who: str, axes: int, x: Any, output_size: Any, indices: bool) -> Any:
    x = as_array(x)
    batch, size, count = with_batch(who, axes, x), x.shape[-axes:], _output_size(who, axes, x, output_size)
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
        return as_given(y, x)
    return as_given(y, x), as_given(_like(found.reshape(y.shape), x), x)


def _windows_that_cover(n: int, count: int) -> tuple[Any, Any]:
    """Where `count` windows begin and end that cover n elements."""
    i = np.arange(count)
    return i * n // count, -(-(i + 1) * n // count)


def _output_size(who: str, axes: int, x: Any, output_size: Any) -> Sizes:
    with_batch(who, axes, x)
    several = tuple(output_size) if isinstance(output_size, (tuple, list)) else (output_size,) * axes
    if len(several) == axes:
        several = tuple(n if m is None else m for n, m in zip(x.shape[-axes:], several, strict=True))
    return per_axis(who, "output_size", several, axes)


def _like(found: Any, x: Any) -> Any:
    """Indices, as a constant Tensor where x is a Tensor."""
    return box(found, None) if isinstance(x, Value) else found
