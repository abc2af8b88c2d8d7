"""Activations that NumPy has no name for."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ...errors import ArgumentError, message
from ...ops import erf, greater, tanh, where
from ...ops.broadcast import elementwise
from ...primitives import defvjp


@elementwise
def relu(x: Any) -> Any:
    """Rectifier max(x, 0). At the kink x = 0 the gradient is 0."""
    return np.maximum(x, 0)


defvjp(relu, lambda g, y, x: where(greater(y, 0), g, 0))


def gelu(x: Any, approximate: str = "none") -> Any:
    """Gaussian error linear unit (Hendrycks & Gimpel 2016): x times the probability that a standard normal number is below x.

    y = x Φ(x) = x (1 + erf(x / √2)) / 2
    approximate="tanh":  y = x (1 + tanh(√(2/π) (x + 0.044715 x³))) / 2
    """
    if approximate == "none":
        return 0.5 * x * (1 + erf(x * math.sqrt(0.5)))
    if approximate == "tanh":
        return 0.5 * x * (1 + tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)))
    raise ArgumentError(message(f"gelu: approximate = {approximate!r} is not known", expected="'none' or 'tanh'"))
