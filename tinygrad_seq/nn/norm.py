"""Normalisation layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from . import functional as F
from . import init
from .module import Module, Parameter


class LayerNorm(Module):
    """Layer normalisation (Ba, Kiros & Hinton 2016) over the last axes, `normalized_shape`; the formula is in `F.layer_norm`.

    weight (*normalized_shape) starts at one, bias at zero; elementwise_affine=False has neither, bias=False the weight alone.
    """

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        *,
        dtype: Any = "float32",
    ):
        shape = (normalized_shape,) if isinstance(normalized_shape, (int, np.integer)) else tuple(normalized_shape)
        init.check_sizes("LayerNorm", **{f"normalized_shape[{i}]": size for i, size in enumerate(shape)})
        self.normalized_shape, self.eps, self.elementwise_affine = shape, eps, elementwise_affine
        self.weight = Parameter(np.ones(shape), dtype) if elementwise_affine else None
        self.bias = Parameter(np.zeros(shape), dtype) if elementwise_affine and bias else None

    def forward(self, x: Any) -> Any:
        """x (..., *normalized_shape) -> the same shape."""
        return F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        """The shape, and the settings that are not the usual ones."""
        bias = ", bias=False" if self.elementwise_affine and self.bias is None else ""
        affine = "" if self.elementwise_affine else ", elementwise_affine=False"
        return f"{self.normalized_shape}{'' if self.eps == 1e-5 else f', eps={self.eps}'}{affine}{bias}"
