"""The affine layer."""

from __future__ import annotations

import math
from typing import Any

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
