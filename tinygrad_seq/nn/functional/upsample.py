"""Upsampling: an array read at finer places than it has, from the nearest element or from the two around it.

Every axis is read by itself. Place i of the output is place a(i) of the input:

    a(i) = (i + 1/2) / s - 1/2              s = sizes' ratio, or scale_factor: elements are squares, whose corners meet
    a(i) = i (n - 1) / (m - 1)              align_corners=True: elements are points, the outermost of which meet
    a(i) = floor(i / s)                     mode "nearest"
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ... import backend
from ...errors import ArgumentError, ShapeError, describe, message
from ...graph import raw
from ...ops import repeat, take
from ...ops.joining import as_array
from .adaptive import adaptive_avg_pool1d, adaptive_avg_pool2d
from .windows import per_axis

LINEAR = {"linear": 1, "bilinear": 2}  # mode -> how many axes of space it is for
MODES = ("nearest", "nearest-exact", "linear", "bilinear", "area")


def interpolate(
    x: Any,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
) -> Any:
    """x read at finer (or coarser) places: of `size`, or `scale_factor` times as many along each axis of space.

        nearest           y[i] = x[floor(i / s)]              "nearest-exact": x[floor((i + 1/2) / s)], the middle of place i
        linear, bilinear  y[i] = (1 - t) x[j] + t x[j + 1]    j + t = a(i), the outermost elements going on for ever
        area              the mean of what place i covers, as `adaptive_avg_pool2d`

    x (N, C, L) -> (N, C, L') or (N, C, H, W) -> (N, C, H', W'); two axes one after the other. recompute_scale_factor=True: s is the
    ratio of the sizes, also where scale_factor is given and L' was rounded down.
    """
    x = as_array(x)
    axes = x.ndim - 2
    _check(x, mode, align_corners)
    sizes, scales = _sizes(x.shape[2:], size, scale_factor)
    if mode == "area":
        return (adaptive_avg_pool1d if axes == 1 else adaptive_avg_pool2d)(x, sizes)
    if recompute_scale_factor or scales is None:
        scales = (None,) * axes
    for axis, (m, scale) in enumerate(zip(sizes, scales, strict=True), 2):
        n = x.shape[axis]
        if mode in LINEAR:
            x = _between(x, _places(n, m, scale, bool(align_corners), raw(x).dtype), axis)
        elif m % n == 0 and (scale is None or scale * n == m):
            x = repeat(x, m // n, axis)
        else:
            x = take(x, _nearest(n, m, scale, 0.5 if mode == "nearest-exact" else 0.0), axis)
    return x


def _places(n: int, m: int, scale: float | None, align_corners: bool, dtype: Any) -> Any:
    """a(i), in the precision of x, within [0, n - 1]."""
    dtype = np.promote_types(dtype, np.float32)
    i = np.arange(m).astype(dtype)
    if align_corners:
        return i * dtype.type((n - 1) / (m - 1) if m > 1 else 0.0)
    step = dtype.type(n / m if scale is None else 1 / scale)
    return np.clip((i + dtype.type(0.5)) * step - dtype.type(0.5), 0, None)


def _between(x: Any, at: Any, axis: int) -> Any:
    """x at places that may lie between two elements along an axis."""
    n = x.shape[axis]
    before = np.minimum(at.astype(np.int64), n - 1)
    share = (at - before).astype(raw(x).dtype).clip(0, 1).reshape(-1, *[1] * (x.ndim - axis - 1))
    share = backend.array_module(raw(x)).asarray(share)
    return (1 - share) * take(x, before, axis) + share * take(x, np.minimum(before + 1, n - 1), axis)


def _nearest(n: int, m: int, scale: float | None, middle: float) -> Any:
    """floor((i + middle) / s), in float32 as PyTorch counts, whatever x is."""
    step = np.float32(n / m if scale is None else 1 / scale)
    return np.minimum(((np.arange(m).astype(np.float32) + np.float32(middle)) * step).astype(np.int64), n - 1)


def _sizes(given: tuple[int, ...], size: Any, scale_factor: Any) -> tuple[tuple[int, ...], tuple[Any, ...] | None]:
    """The sizes of the output, and the factors where they were what the caller said."""
    if (size is None) == (scale_factor is None):
        raise ArgumentError(
            message(
                "interpolate: " + ("neither size nor scale_factor" if size is None else "both size and scale_factor"),
                expected="one of the two",
            )
        )
    if size is not None:
        return per_axis("interpolate", "size", size, len(given)), None
    factors = tuple(scale_factor) if isinstance(scale_factor, (tuple, list)) else (scale_factor,) * len(given)
    if len(factors) != len(given) or not all(isinstance(s, (int, float, np.number)) and s > 0 for s in factors):
        raise ArgumentError(
            message(f"interpolate: scale_factor = {scale_factor!r}", expected=f"a positive number, or {len(given)}")
        )
    sizes = tuple(int(n * float(s)) for n, s in zip(given, factors, strict=True))
    if min(sizes) < 1:
        raise ShapeError(message(f"interpolate: nothing is left of {given} times {scale_factor}", do="a larger scale_factor"))
    return sizes, tuple(map(float, factors))


def _check(x: Any, mode: str, align_corners: bool | None) -> None:
    axes = x.ndim - 2
    if axes not in (1, 2):
        raise ShapeError(
            message(f"interpolate: x has {x.ndim} axes", expected="(N, C, L) or (N, C, H, W)", got=f"x {describe(raw(x))}")
        )
    if mode not in MODES:
        raise ArgumentError(message(f"interpolate: mode = {mode!r}", expected=", ".join(MODES)))
    if LINEAR.get(mode, axes) != axes:
        right = next(name for name, known in LINEAR.items() if known == axes)
        raise ArgumentError(
            message(f"interpolate: mode {mode!r} and x {describe(raw(x))}", expected=f"mode {right!r} for {axes} axes of space")
        )
    if align_corners is not None and mode not in LINEAR:
        raise ArgumentError(message(f"interpolate: align_corners with mode {mode!r}", expected="mode 'linear' or 'bilinear'"))
