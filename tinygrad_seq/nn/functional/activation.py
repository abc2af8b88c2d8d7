"""Activations that NumPy has no name for."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...ops import greater, where
from ...ops.broadcast import elementwise
from ...primitives import defvjp


@elementwise
def relu(x: Any) -> Any:
    """Rectifier max(x, 0). At the kink x = 0 the gradient is 0."""
    return np.maximum(x, 0)


defvjp(relu, lambda g, y, x: where(greater(y, 0), g, 0))
