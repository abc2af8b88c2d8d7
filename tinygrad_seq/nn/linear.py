"""The affine layer, and the bilinear one."""

from __future__ import annotations

import math
from typing import Any

from ..errors import ShapeError, message
from ..random import Rng, generator
from . import functional as F
from . import init
from .module import Module


class Linear(Module):
    """An affine map y = x W^T + b of the last axis.

    x (..., in_features) -> (..., out_features). weight (out_features, in_features) and bias (out_features,) start uniform in
    ±1/sqrt(in_features), as in PyTorch.
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True, *, rng: Rng = None, dtype: Any = "float32"):
        init.check_sizes("Linear", in_features=in_features, out_features=out_features)
        rng = generator(rng)
        bound = 1 / math.sqrt(in_features)
        self.in_features, self.out_features = in_features, out_features
        self.weight = init.uniform((out_features, in_features), bound, rng=rng, dtype=dtype)
        self.bias = init.uniform((out_features,), bound, rng=rng, dtype=dtype) if bias else None

    def forward(self, x: Any) -> Any:
        """x (..., in_features) -> (..., out_features)."""
        return F.linear(x, self.weight, self.bias)

    def extra_repr(self) -> str:
        """The sizes."""
        return f"{self.in_features}, {self.out_features}" + ("" if self.bias is not None else ", bias=False")


class Bilinear(Module):
    """A bilinear map of two vectors, y_k = x1^T W_k x2 + b_k.

    weight (out_features, in1_features, in2_features) and bias (out_features,) start uniform in ±1/sqrt(in1_features), as in PyTorch.
    """

    def __init__(
        self,
        in1_features: int,
        in2_features: int,
        out_features: int,
        bias: bool = True,
        *,
        rng: Rng = None,
        dtype: Any = "float32",
    ):
        init.check_sizes("Bilinear", in1_features=in1_features, in2_features=in2_features, out_features=out_features)
        rng = generator(rng)
        bound = 1 / math.sqrt(in1_features)
        self.in1_features, self.in2_features, self.out_features = in1_features, in2_features, out_features
        self.weight = init.uniform((out_features, in1_features, in2_features), bound, rng=rng, dtype=dtype)
        self.bias = init.uniform((out_features,), bound, rng=rng, dtype=dtype) if bias else None

    def forward(self, x1: Any, x2: Any) -> Any:
        """x1 (..., in1_features), x2 (..., in2_features) -> (..., out_features)."""
        for name, x, size in (("x1", x1, self.in1_features), ("x2", x2, self.in2_features)):
            if tuple(x.shape[-1:]) != (size,):
                raise ShapeError(message(f"Bilinear: {name} is {tuple(x.shape)}", expected=f"{name} (..., {size})"))
        if tuple(x1.shape[:-1]) != tuple(x2.shape[:-1]):
            raise ShapeError(message(f"Bilinear: x1 {tuple(x1.shape)} and x2 {tuple(x2.shape)} differ in more than the last axis"))
        return F.bilinear(x1, x2, self.weight, self.bias)

    def extra_repr(self) -> str:
        """The sizes."""
        sizes = f"{self.in1_features}, {self.in2_features}, {self.out_features}"
        return sizes + ("" if self.bias is not None else ", bias=False")
