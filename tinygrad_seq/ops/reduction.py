"""Reductions: what is summed forward is spread backward."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..graph import defvjp, primitive
from .broadcast import broadcast_to
from .shaping import expand_dims

Axis = int | tuple[int, ...] | None


def _spread(g: Any, x: Any, axis: Axis, keepdims: bool) -> Any:
    """A gradient of the reduced shape, stretched back over the axes that were reduced."""
    if axis is not None and not keepdims:
        axes = axis if isinstance(axis, tuple) else (axis,)
        g = expand_dims(g, tuple(a % x.ndim for a in axes))
    return broadcast_to(g, x.shape)


@primitive
def sum(x: Any, /, axis: Axis = None, keepdims: bool = False) -> Any:
    """Sum over the axes that `axis` names, or over all."""
    return x.sum(axis=axis, keepdims=keepdims)


defvjp(sum, lambda g, y, x, axis=None, keepdims=False: _spread(g, x, axis, keepdims))
