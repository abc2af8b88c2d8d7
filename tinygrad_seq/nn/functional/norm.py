"""Normalisation: activations are centred and scaled by statistics of their own, then scaled and shifted by what is learned.

With x̂ = (x - μ)/σ, where μ and σ are statistics over the same axes, both depend on every x, and the derivative has three terms:

    dL/dx = (g - mean(g) - x̂ mean(g ⊙ x̂)) / σ            g = dL/dx̂

the second because μ moves, the third because σ does. What is not centred (`rms_norm`) lacks the second.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import wraps
from typing import Any

import numpy as np

from ... import backend, guards
from ...errors import ArgumentError, ShapeError, describe, message
from ...frames import thread
from ...fusion import fused
from ...graph import raw
from ...ops import mean, reshape, sqrt, square
from ...primitives import backward_of
from .linear import single

# ---- Over the features of each element ---------------------------------------------------------------------------------------------


def _wide(f: Any) -> Any:
    """f in float32 for halves, whose squares overflow at 256; the result is of halves again."""

    @wraps(f)
    def call(x: Any, *args: Any, **settings: Any) -> Any:
        if getattr(x, "dtype", None) != np.float16:
            return f(x, *args, **settings)
        return f(x.astype(np.float32), *args, **settings).astype(np.float16)

    return call


@_wide
def layer_norm(x: Any, normalized_shape: int | Sequence[int], weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Any:
    """Layer normalisation (Ba, Kiros & Hinton 2016): over the features of each element, the last axes, `normalized_shape`.

        μ = mean(x)      σ² = mean((x - μ)²) + eps      y = (x - μ)/σ ⊙ weight + bias

    x (..., *normalized_shape), weight and bias (*normalized_shape) -> the shape of x.
    """
    return _over_last_axes("layer_norm", _layer_norm, x, normalized_shape, (weight, bias), eps)


@_wide
def rms_norm(x: Any, normalized_shape: int | Sequence[int], weight: Any = None, eps: float | None = None) -> Any:
    """Root mean square normalisation (Zhang & Sennrich 2019): layer normalisation that does not centre.

        σ² = mean(x²) + eps      y = x/σ ⊙ weight             eps None: the smallest step of the dtype above 1, halves: of float32

    x (..., *normalized_shape), weight (*normalized_shape) -> the shape of x.
    """
    check_floats("rms_norm", x)
    if eps is None:
        eps = float(np.finfo(raw(x).dtype).eps)
    return _over_last_axes("rms_norm", _rms_norm, x, normalized_shape, (weight,), eps)


def _over_last_axes(who: str, kernel: Any, x: Any, normalized_shape: Any, learned: tuple[Any, ...], eps: float | None) -> Any:
    """The kernel over the last axis, into which the axes of `normalized_shape` are joined."""
    check_floats(who, x)
    over = sizes(normalized_shape)
    shape = tuple(x.shape)
    if not over or shape[-len(over) :] != over or 0 in over:
        expected = f"x (..., {', '.join(map(str, over))})"
        raise ShapeError(message(f"{who}: x {describe(raw(x))} does not end in {over}", expected=expected))
    for name, p in zip(("weight", "bias"), learned, strict=False):
        if p is not None and tuple(p.shape) != over:
            raise ShapeError(message(f"{who}: {name} {describe(raw(p))} does not fit", expected=f"the shape {over}"))
    if len(over) == 1:
        return kernel(x, *learned, eps=eps)
    learned = tuple(None if p is None else reshape(p, (-1,)) for p in learned)
    return reshape(kernel(reshape(x, (*shape[: -len(over)], math.prod(over))), *learned, eps=eps), shape)


def sizes(shape: int | Sequence[int]) -> tuple[int, ...]:
    """A shape given as one size or several."""
    return tuple(shape) if isinstance(shape, (tuple, list)) else (shape,)  # type: ignore[return-value]


def _layer_norm_equation(x: Any, weight: Any, bias: Any, /, eps: float) -> Any:
    centred = x - mean(x, axis=-1, keepdims=True)
    x_hat = centred / sqrt(mean(square(centred), axis=-1, keepdims=True) + eps)
    return _affine(x_hat, weight, bias)


def _rms_norm_equation(x: Any, weight: Any, /, eps: float) -> Any:
    return _affine(x / sqrt(mean(square(x), axis=-1, keepdims=True) + eps), weight, None)


def _affine(x_hat: Any, weight: Any, bias: Any) -> Any:
    y = x_hat if weight is None else x_hat * weight
    return y if bias is None else y + bias


@fused(equation=_layer_norm_equation)
def _layer_norm(x: Any, weight: Any, bias: Any, /, eps: float) -> Any:
    rows = x.reshape(-1, x.shape[-1])
    return _scaled_rows(rows - _row_means(rows), True, weight, bias, eps, x.shape)


@fused(equation=_rms_norm_equation)
def _rms_norm(x: Any, weight: Any, /, eps: float) -> Any:
    return _scaled_rows(x.reshape(-1, x.shape[-1]), False, weight, None, eps, x.shape)


@backward_of(_layer_norm)
def _(g: Any, y: Any, saved: Any, x: Any, weight: Any, bias: Any, eps: float) -> Any:
    return _gradients_of_rows(g, saved, weight, bias, centred=True)


@backward_of(_rms_norm)
def _(g: Any, y: Any, saved: Any, x: Any, weight: Any, eps: float) -> Any:
    return _gradients_of_rows(g, saved, weight, None, centred=False)[:2]


# Rows are summed as products with a vector: BLAS does it faster than np.sum.


def _row_means(rows: Any) -> Any:
    N = rows.shape[1]
    return rows.dot(backend.array_module(rows).full(N, 1 / N, rows.dtype))[:, None]


def _scaled_rows(rows: Any, mine: bool, weight: Any, bias: Any, eps: float, shape: Any) -> Any:
    """(rows / σ ⊙ weight + bias, (x̂, 1/σ)); `mine`: the rows may be overwritten."""
    mean_squares = np.einsum("ij,ij->i", rows, rows)[:, None] / rows.shape[1]
    scale = 1 / np.sqrt(mean_squares + eps)
    x_hat = np.multiply(rows, scale, out=rows if mine else None)
    y = x_hat if weight is None else x_hat * weight
    if bias is not None:
        y = np.add(y, bias, out=None if weight is None else y)
    return y.reshape(shape), (x_hat, scale)


def _gradients_of_rows(g: Any, saved: Any, weight: Any, bias: Any, centred: bool) -> Any:
    """The three terms of the head of this file, in as few passes over the rows as there are."""
    x_hat, scale = saved
    shape, (R, N) = g.shape, x_hat.shape
    g = g.reshape(R, N)
    xp = backend.array_module(x_hat)
    ones = xp.ones(R, x_hat.dtype)
    mean_of = xp.full(N, 1 / N, x_hat.dtype) if weight is None else weight / N  # row @ mean_of = mean(row ⊙ weight)
    product = g * x_hat
    g_x = g.copy() if weight is None else g * weight
    if centred:
        g_x -= g.dot(mean_of)[:, None]
    g_weight = None if weight is None else ones.dot(product)
    g_x -= np.multiply(x_hat, product.dot(mean_of)[:, None], out=product)
    g_x *= scale
    return g_x.reshape(shape), g_weight, None if bias is None else ones.dot(g)


# ---- Over the batch, and over groups of channels -------------------------------------------------------------------------------------


@_wide
def batch_norm(
    x: Any,
    running_mean: Any,
    running_var: Any,
    weight: Any = None,
    bias: Any = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Any:
    """Batch normalisation (Ioffe & Szegedy 2015): each channel over the batch and all places.

        μ_c = mean(x_c)      σ_c² = mean((x_c - μ_c)²) + eps      y_c = (x_c - μ_c)/σ_c · weight_c + bias_c

    x (B, C, ...), the others (C,) or None -> the shape of x. While training, μ and σ are those of x, and the running statistics, where
    given, move towards them in place: r <- (1 - momentum) r + momentum s, with the variance divided by n - 1 instead of n. In
    evaluation the running statistics stand for μ and σ².
    """
    check_floats("batch_norm", x)
    shape = tuple(x.shape)
    if len(shape) < 2:
        raise ShapeError(message(f"batch_norm: x {describe(raw(x))} has no channels", expected="x (B, C) or (B, C, ...)"))
    columns = (1, shape[1]) + (1,) * (len(shape) - 2)  # how the channels stand in x
    parts = {"running_mean": running_mean, "running_var": running_var, "weight": weight, "bias": bias}
    for name, p in parts.items():
        if p is not None and tuple(p.shape) != shape[1:2]:
            raise ShapeError(
                message(
                    f"batch_norm: x {describe(raw(x))} has {shape[1]} channels, {name} is {describe(raw(p))}",
                    expected=f"x (B, {p.shape[0]}, ...)" if len(p.shape) == 1 else f"{name} ({shape[1]},)",
                    do="channels are axis 1: swapaxes(x, 1, -1)" if tuple(p.shape) == shape[-1:] else "",
                )
            )
    weight, bias = (None if p is None else reshape(p, columns) for p in (weight, bias))
    if not training:
        if running_mean is None or running_var is None:
            raise ArgumentError(message("batch_norm: no running statistics to evaluate with", do="training=True"))
        centred = x - raw(running_mean).reshape(columns)
        return _affine(centred / np.sqrt(raw(running_var).reshape(columns) + eps), weight, bias)
    n = math.prod(shape) // max(shape[1], 1)
    if n < 2:
        raise ShapeError(
            message(
                f"batch_norm: x {describe(raw(x))} has {n} value per channel", expected="at least 2 while training", do="eval()"
            )
        )
    x_hat, mu, var = _standardized(x, axes=(0, *range(2, len(shape))), eps=eps)
    for running, now in ((running_mean, raw(mu)), (running_var, raw(var) * (n / (n - 1)))):
        if running is not None and not thread.modes.recomputing:
            array = raw(running)
            array *= 1 - momentum
            array += momentum * now.reshape(-1)
            guards.wrote(array)
    return _affine(x_hat, weight, bias)


@_wide
def group_norm(x: Any, num_groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Any:
    """Group normalisation (Wu & He 2018): each example alone, over all places of a group of channels.

        μ = mean(x)      σ² = mean((x - μ)²) + eps      y_c = (x_c - μ)/σ · weight_c + bias_c

    x (B, C, ...), weight and bias (C,) -> the shape of x; the C channels form `num_groups` groups of neighbours.
    """
    check_floats("group_norm", x)
    shape = tuple(x.shape)
    if len(shape) < 2 or num_groups < 1 or shape[1] % num_groups:
        raise ShapeError(
            message(
                f"group_norm: x {describe(raw(x))} does not split into {num_groups} groups of channels", expected="x (B, C, ...)"
            )
        )
    size = math.prod(shape[1:]) // num_groups
    x_hat, _, _ = _standardized(reshape(x, (shape[0], num_groups, size)), axes=(2,), eps=eps)
    columns = (shape[1],) + (1,) * (len(shape) - 2)
    return _affine(reshape(x_hat, shape), *(None if p is None else reshape(p, columns) for p in (weight, bias)))


def _standardized_equation(x: Any, /, axes: tuple[int, ...], eps: float) -> Any:
    mu = mean(x, axis=axes, keepdims=True)
    var = mean(square(x - mu), axis=axes, keepdims=True)
    return (x - mu) / sqrt(var + eps), mu, var


@fused(equation=_standardized_equation, multiple=True)
def _standardized(x: Any, /, axes: tuple[int, ...], eps: float) -> Any:
    mu = np.mean(x, axis=axes, keepdims=True)
    x_hat = x - mu
    var = np.mean(np.square(x_hat), axis=axes, keepdims=True)
    scale = 1 / np.sqrt(var + eps)
    x_hat *= scale
    return (x_hat, mu, var), scale


@backward_of(_standardized)
def _(g: Any, y: Any, scale: Any, x: Any, axes: tuple[int, ...], eps: float) -> Any:
    return (_gradient_of_standardized(g[0], y[0], scale, axes),)  # nobody differentiates the statistics: they leave as bare arrays


def _gradient_of_standardized(g: Any, x_hat: Any, scale: Any, axes: tuple[int, ...]) -> Any:
    product = g * x_hat
    g_x = g - np.mean(g, axis=axes, keepdims=True)
    g_x -= np.multiply(x_hat, np.mean(product, axis=axes, keepdims=True), out=product)
    g_x *= scale
    return g_x


def check_floats(who: str, x: Any) -> None:
    """Raise unless x is an array of floating-point numbers."""
    if getattr(getattr(single(who, x), "dtype", None), "kind", "") != "f":
        raise ArgumentError(
            message(f"{who}: x is {describe(raw(x))}", expected="an array of floating-point numbers", do="tg.tensor(x, tg.float32)")
        )
