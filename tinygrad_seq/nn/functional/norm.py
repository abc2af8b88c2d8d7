"""Normalisation: activations are centred and scaled by statistics of their own, then scaled and shifted by what is learned."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ...errors import ShapeError, describe, message
from ...fusion import fused
from ...graph import raw
from ...ops import mean, reshape, sqrt
from ...primitives import backward_of
from .linear import single

# ---- Layer normalisation -------------------------------------------------------------------------------------------------------


def _layer_norm_equation(x: Any, weight: Any, bias: Any, /, eps: float) -> Any:
    centred = x - mean(x, axis=-1, keepdims=True)
    y = centred / sqrt(mean(centred * centred, axis=-1, keepdims=True) + eps)
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


@fused(equation=_layer_norm_equation)
def _layer_norm(x: Any, weight: Any, bias: Any, /, eps: float) -> Any:
    x_hat = x - np.mean(x, axis=-1, keepdims=True)
    scale = 1 / np.sqrt(np.mean(x_hat * x_hat, axis=-1, keepdims=True) + eps)
    x_hat *= scale
    y = x_hat if weight is None else x_hat * weight
    return (y.copy() if y is x_hat else y) if bias is None else y + bias, (x_hat, scale)


@backward_of(_layer_norm)
def _(g: Any, y: Any, saved: Any, x: Any, weight: Any, bias: Any, eps: float) -> Any:
    x_hat, scale = saved
    rows = tuple(range(x.ndim - 1))
    product = g * x_hat
    g_weight = None if weight is None else product.sum(axis=rows)
    g_bias = None if bias is None else g.sum(axis=rows)
    if weight is not None:
        g, product = g * weight, product * weight
    g_x = scale * (g - g.mean(axis=-1, keepdims=True) - x_hat * product.mean(axis=-1, keepdims=True))
    return g_x, g_weight, g_bias


def layer_norm(x: Any, normalized_shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Any:
    """Layer normalisation (Ba, Kiros & Hinton 2016): the features of each element alone, over the last axes, `normalized_shape`.

        μ = mean(x)      σ² = mean((x - μ)²)      y = (x - μ) / sqrt(σ² + eps) ⊙ weight + bias

    x (..., *normalized_shape), weight and bias (*normalized_shape) -> the shape of x.
    """
    shape = (normalized_shape,) if isinstance(normalized_shape, (int, np.integer)) else tuple(normalized_shape)
    own = tuple(raw(single("layer_norm", x)).shape)
    if not shape or own[-len(shape) :] != shape:
        raise ShapeError(
            message(f"layer_norm: x {describe(raw(x))} does not end in {shape}", expected=f"x (..., {', '.join(map(str, shape))})")
        )
    if len(shape) == 1:
        return _layer_norm(x, weight, bias, eps=eps)
    size = math.prod(shape)
    flat = [None if p is None else reshape(p, (size,)) for p in (weight, bias)]
    return reshape(_layer_norm(reshape(x, (*own[: -len(shape)], size)), *flat, eps=eps), own)
