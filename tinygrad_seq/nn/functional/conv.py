"""Convolution: one small set of weights, used at every place as a recurrent layer uses its weights at every time.

With a weight w on every tap k of the kernel, the cross-correlation that layers call convolution is

    y[n, o, i] = Σ_c Σ_k w[o, c, k] x[n, c, s i + d k - p]          stride s, dilation d, padding p

A causal convolution over time (padding on the left alone) is the time-delay network, a system with a finite response: y_t depends on
x_t, x_(t-1), ..., x_(t-K+1) and on nothing before.

Weighted by any g and summed, Σ g[n, o, i] y[n, o, i] = T(x, w, g) is linear in each of the three. Its derivatives by g, x and w are
the three primitives here: the convolution, the transposed convolution (the gradient of the input) and the gradient of the weight. Each
one's derivatives are the other two, so any order of derivative follows.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ... import backend
from ...errors import ArgumentError, ShapeError, describe, message
from ...graph import raw
from ...ops import broadcast_to, expand_dims, reshape, squeeze
from ...ops.joining import as_array
from ...primitives import defvjp, primitive
from . import depthwise
from .windows import Margins, Sizes, as_rows, channels_last, channels_second, check_fits, columns, per_axis, pieces, places, taps


def conv1d(x: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1) -> Any:
    """Convolution over one axis.

        y[n, o, i] = b[o] + Σ_c Σ_k w[o, c, k] x[n, c, s i + d k - p]

    x (N, C, L) or (C, L), weight (O, C/groups, K), bias (O,) -> (N, O, L') or (O, L'), L' = (L + 2p - d (K - 1) - 1) // s + 1.
    padding: zeros on both sides; "valid" is none, "same" keeps the size at stride 1. groups: the channels are cut into so many groups, and
    each makes its own share of the outputs.
    """
    return _convolve("conv1d", 1, x, weight, bias, stride, padding, dilation, groups)


def conv2d(x: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1) -> Any:
    """Convolution over two axes.

        y[n, o, i, j] = b[o] + Σ_c Σ_k Σ_l w[o, c, k, l] x[n, c, s i + d k - p, s j + d l - p]

    x (N, C, H, W) or (C, H, W), weight (O, C/groups, K, L), bias (O,) -> (N, O, H', W'). stride, padding and dilation are one number
    or one for each axis; the rest as in `conv1d`.
    """
    return _convolve("conv2d", 2, x, weight, bias, stride, padding, dilation, groups)


def conv_transpose1d(
    x: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Any:
    """Transposed convolution over one axis: every input lays a copy of the kernel into the output, where copies overlap they add up.

        y[n, c, s i + d k - p] = b[c] + Σ_o Σ_k w[o, c, k] x[n, o, i]

    x (N, O, L) or (O, L), weight (O, C/groups, K), bias (C,) -> (N, C, L'), L' = (L - 1) s - 2p + d (K - 1) + output_padding + 1.
    It is the gradient of `conv1d` with respect to its input, so <conv1d(u, w), x> = <u, conv_transpose1d(x, w)>. Several sizes of u
    give one size of x where s > 1: output_padding chooses among them.
    """
    return _transpose("conv_transpose1d", 1, x, weight, bias, stride, padding, output_padding, groups, dilation)


def conv_transpose2d(
    x: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Any:
    """Transposed convolution over two axes, the gradient of `conv2d` with respect to its input.

        y[n, c, s i + d k - p, s j + d l - p] = b[c] + Σ_o Σ_k Σ_l w[o, c, k, l] x[n, o, i, j]

    x (N, O, H, W) or (O, H, W), weight (O, C/groups, K, L), bias (C,) -> (N, C, H', W'); the rest as in `conv_transpose1d`.
    """
    return _transpose("conv_transpose2d", 2, x, weight, bias, stride, padding, output_padding, groups, dilation)


# ---- The three derivatives of T(x, w, g) ----------------------------------------------------------------------------------------------


@primitive
def _conv(x: Any, w: Any, b: Any, /, stride: Sizes, padding: Margins, dilation: Sizes, groups: int) -> Any:
    """dT/dg, and a bias: x (N, C, *S), w (O, C/groups, *K), b (O,) or None -> (N, O, *places)."""
    return _correlate(x, _grouped(w, groups), b, stride, padding, dilation)


@primitive
def _conv_transpose(g: Any, w: Any, /, size: Sizes, stride: Sizes, padding: Margins, dilation: Sizes, groups: int) -> Any:
    """dT/dx: g (N, O, *places), w (O, C/groups, *K) -> (N, C, *size)."""
    w = _grouped(w, groups)
    if max(stride) > 1:
        return _lay(g, w, size, stride, padding, dilation)
    # Without strides it is the convolution of g with the kernel turned round: one product, where `_lay` adds once for each tap.
    turned = np.flip(w, tuple(range(3, w.ndim))).swapaxes(1, 2)
    margins = [
        (d * (k - 1) - before, n - m + before)
        for n, m, k, d, (before, _) in zip(size, g.shape[2:], w.shape[3:], dilation, padding, strict=True)
    ]
    return _correlate(g, turned, None, stride, tuple(margins), dilation)


@primitive
def _conv_weight(x: Any, g: Any, /, kernel: Sizes, stride: Sizes, padding: Margins, dilation: Sizes, groups: int) -> Any:
    """dT/dw: x (N, C, *S), g (N, O, *places) -> (O, C/groups, *kernel), the convolution of x with g."""
    module = backend.array_module(x)
    x, g = channels_last(x), module.ascontiguousarray(channels_last(g))
    inputs, outputs = x.shape[-1] // groups, g.shape[-1] // groups
    if groups > 1 and inputs == outputs == 1:
        return depthwise.weight_gradient(x, g, kernel, stride, padding, dilation)
    w = module.zeros((groups, math.prod(kernel) * inputs, outputs), np.result_type(x.dtype, g.dtype))
    for part, rows in columns(x, kernel, stride, padding, dilation, groups):
        w += rows.swapaxes(1, 2) @ as_rows(g[part], groups)
    return channels_second(w.swapaxes(1, 2).reshape(groups * outputs, *kernel, inputs))


defvjp(
    _conv,
    lambda g, y, x, w, b, **how: _conv_transpose(g, w, size=x.shape[2:], **how),
    lambda g, y, x, w, b, **how: _conv_weight(x, g, kernel=w.shape[2:], **how),
    lambda g, y, x, w, b, **how: _sum_over_places(g),
)
defvjp(
    _conv_transpose,
    lambda h, y, g, w, size, **how: _conv(h, w, None, **how),
    lambda h, y, g, w, size, **how: _conv_weight(h, g, kernel=w.shape[2:], **how),
)
defvjp(
    _conv_weight,
    lambda h, y, x, g, kernel, **how: _conv_transpose(g, h, size=x.shape[2:], **how),
    lambda h, y, x, g, kernel, **how: _conv(x, h, None, **how),
)


@primitive
def _sum_over_places(g: Any, /) -> Any:
    """dT/db: g (N, O, *places) -> (O,)."""
    rows = as_rows(channels_last(g), 1)[0]
    return backend.array_module(g).ones(len(rows), g.dtype) @ rows  # a product, since BLAS adds rows faster than `sum`


defvjp(_sum_over_places, lambda h, y, g: broadcast_to(reshape(h, (-1,) + (1,) * (g.ndim - 2)), g.shape))

# ---- As products of matrices, a piece at a time ------------------------------------------------------------------------------------------


def _grouped(w: Any, groups: int) -> Any:
    """(O, C/groups, *K) -> (groups, O/groups, C/groups, *K), a view."""
    return w.reshape(groups, w.shape[0] // groups, *w.shape[1:])


def _matrix(w: Any) -> Any:
    """(groups, outputs, inputs, *K) -> (groups, K * inputs, outputs)."""
    return w.transpose(0, *range(3, w.ndim), 2, 1).reshape(w.shape[0], -1, w.shape[1])


def _correlate(x: Any, w: Any, b: Any, stride: Sizes, padding: Margins, dilation: Sizes) -> Any:
    """x (N, C, *S), w (groups, outputs, inputs, *K) -> (N, groups * outputs, *places). The product reads its columns from the cache."""
    (groups, outputs), kernel, x = w.shape[:2], w.shape[3:], channels_last(x)
    if groups > 1 and w.shape[1:3] == (1, 1):
        return channels_second(depthwise.correlate(x, w, b, stride, padding, dilation))
    count = places(x.shape[1:-1], kernel, stride, padding, dilation)
    y = backend.array_module(x).empty((len(x), *count, groups * outputs), np.result_type(x.dtype, w.dtype))
    matrix = _matrix(w)
    for part, rows in columns(x, kernel, stride, padding, dilation, groups):
        np.matmul(rows, matrix, out=as_rows(y[part], groups))
        if b is not None:
            y[part] += b
    return channels_second(y)


def _lay(g: Any, w: Any, size: Sizes, stride: Sizes, padding: Margins, dilation: Sizes) -> Any:
    """g (N, O, *places), w (groups, outputs, inputs, *K) -> (N, C, *size): each place adds its copies of the kernel to the output."""
    groups, _, inputs, *kernel = w.shape
    N, *count, _ = (g := backend.array_module(g).ascontiguousarray(channels_last(g))).shape
    whole = [n + before + max(after, 0) for n, (before, after) in zip(size, padding, strict=True)]
    x = backend.array_module(g).zeros((N, *whole, groups, inputs), np.result_type(g.dtype, w.dtype))
    matrix = _matrix(w).swapaxes(1, 2)  # (groups, outputs, K * inputs)
    to = list(taps(x, tuple(kernel), stride, dilation, tuple(count)))
    for some in pieces(N, math.prod((*count, groups, inputs, *kernel)) * x.dtype.itemsize, x):
        laid = (as_rows(g[some], groups) @ matrix).reshape(groups, -1, *count, len(to), inputs)
        for tap, place in enumerate(to):
            place[some] += np.moveaxis(laid[..., tap, :], 0, -2)
    inner = (slice(before, before + n) for n, (before, _) in zip(size, padding, strict=True))
    return channels_second(x.reshape(N, *whole, groups * inputs)[(slice(None), *inner)])


# ---- What the caller said ------------------------------------------------------------------------------------------------------------


def _convolve(who: str, axes: int, x: Any, weight: Any, bias: Any, stride: Any, padding: Any, dilation: Any, groups: int) -> Any:
    x, weight = as_array(x), as_array(weight)
    batched = _check(who, axes, x, weight, bias, groups, inputs=weight.shape[1] * groups if weight.ndim > 1 else 0)
    stride, dilation = per_axis(who, "stride", stride, axes), per_axis(who, "dilation", dilation, axes)
    kernel = weight.shape[2:]
    margins = _margins(who, padding, kernel, stride, dilation)
    check_fits(who, x.shape[-axes:], kernel, stride, margins, dilation)
    how = {"stride": stride, "padding": margins, "dilation": dilation, "groups": groups}
    return _conv(x, weight, bias, **how) if batched else squeeze(_conv(expand_dims(x, 0), weight, bias, **how), 0)


def _transpose(
    who: str, axes: int, x: Any, weight: Any, bias: Any, stride: Any, padding: Any, output_padding: Any, groups: int, dilation: Any
) -> Any:
    x, weight = as_array(x), as_array(weight)
    batched = _check(
        who, axes, x, weight, bias, groups, inputs=len(weight), outputs=weight.shape[1] * groups if weight.ndim > 1 else 0
    )
    stride, dilation = per_axis(who, "stride", stride, axes), per_axis(who, "dilation", dilation, axes)
    padding, extra = per_axis(who, "padding", padding, axes, 0), per_axis(who, "output_padding", output_padding, axes, 0)
    if any(e >= max(s, d) for e, s, d in zip(extra, stride, dilation, strict=True)):
        raise ShapeError(
            message(
                f"{who}: output_padding = {extra}",
                expected="less than the stride or the dilation, on each axis",
                got=f"stride {stride}, dilation {dilation}",
            )
        )
    # What it is the gradient of is a convolution of the output, whose last `output_padding` places no kernel may need.
    margins = tuple((p, p - e) for p, e in zip(padding, extra, strict=True))
    size = tuple(
        (n - 1) * s + d * (k - 1) + 1 - before - after
        for n, s, d, k, (before, after) in zip(x.shape[-axes:], stride, dilation, weight.shape[2:], margins, strict=True)
    )
    if min(size) < 1:
        raise ShapeError(
            message(
                f"{who}: nothing is left of the output, its size would be {size}",
                got=f"x {describe(raw(x))}, weight {describe(raw(weight))}, padding {padding}",
                do="less padding, or a longer input",
            )
        )
    how = {"size": size, "stride": stride, "padding": margins, "dilation": dilation, "groups": groups}
    y = _conv_transpose(x, weight, **how) if batched else squeeze(_conv_transpose(expand_dims(x, 0), weight, **how), 0)
    return y if bias is None else y + reshape(bias, (-1,) + (1,) * axes)


def _margins(who: str, padding: Any, kernel: Sizes, stride: Sizes, dilation: Sizes) -> Margins:
    """Zeros before and after each axis: as given; none; or so many that the size stays, the odd one after."""
    if padding == "same":
        if max(stride) > 1:
            raise ArgumentError(
                message(f'{who}: padding = "same" with stride {stride}', expected="stride 1", do="padding = an integer")
            )
        whole = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        return tuple((n // 2, n - n // 2) for n in whole)
    if isinstance(padding, str) and padding != "valid":
        raise ArgumentError(message(f"{who}: padding = {padding!r}", expected='integers, "same" or "valid"'))
    return tuple((p, p) for p in per_axis(who, "padding", 0 if padding == "valid" else padding, len(kernel), 0))


def _check(who: str, axes: int, x: Any, weight: Any, bias: Any, groups: int, inputs: int, outputs: int | None = None) -> bool:
    """Raise unless the shapes fit each other; whether x has a batch axis."""
    space = ("L",) if axes == 1 else ("H", "W")
    shape = f"({', '.join(('N', 'C', *space))}) or ({', '.join(('C', *space))})"
    given = f"x {describe(raw(x))}, weight {describe(raw(weight))}"
    if weight.ndim != axes + 2:
        raise ShapeError(message(f"{who}: the weight has {weight.ndim} axes", expected=f"{axes + 2}, {WEIGHT[axes]}", got=given))
    if x.ndim not in (axes + 1, axes + 2):
        raise ShapeError(message(f"{who}: x has {x.ndim} axes", expected=shape, got=given))
    if isinstance(groups, bool) or not isinstance(groups, (int, np.integer)) or groups < 1 or len(weight) % groups:
        raise ShapeError(
            message(f"{who}: groups = {groups!r}", expected=f"a positive divisor of {len(weight)}, the first size of the weight")
        )
    channels = x.shape[-axes - 1]
    if channels != inputs:
        raise ShapeError(
            message(
                f"{who}: x has {channels} channels, the weight reads {inputs}", expected=f"x {shape} with C = {inputs}", got=given
            )
        )
    outputs = len(weight) if outputs is None else outputs
    if bias is not None and tuple(raw(bias).shape) != (outputs,):
        raise ShapeError(
            message(f"{who}: bias {describe(raw(bias))}", expected=f"({outputs},), one number for each output channel", got=given)
        )
    return bool(x.ndim == axes + 2)


WEIGHT = {1: "(outputs, inputs / groups, K)", 2: "(outputs, inputs / groups, K, L)"}
