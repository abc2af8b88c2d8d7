"""Broadcasting and its transpose: what an elementwise op stretches, its derivative sums back.

A cotangent that reaches an elementwise op has the shape of the broadcast result. `elementwise` sums it back to each argument's own
shape at the edge, once for all ops, so that their rules never mention it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ..backend import array_module
from ..primitives import defvjp, primitive

BROADCAST = "shapes that broadcast: counted from the right, each axis equal or 1"


@primitive(expects=BROADCAST)
def broadcast_to(x: Any, /, shape: tuple[int, ...]) -> Any:
    """The array stretched to `shape`: axes of size 1 repeat, missing axes on the left are new."""
    return np.broadcast_to(x, shape)


@primitive
def sum_to(x: Any, /, shape: tuple[int, ...]) -> Any:
    """The array summed down to `shape`, over the axes along which `shape` would be stretched to it."""
    added = x.ndim - len(shape)
    if added:
        x = _sum_of_leading(x, added)
    if x.shape == shape:
        return x
    stretched = tuple(i for i, (n, m) in enumerate(zip(x.shape, shape, strict=True)) if m == 1 and n != 1)
    return x.sum(axis=stretched, keepdims=True)


def _sum_of_leading(x: Any, axes: int) -> Any:
    """The sum over the first axes. Of many numbers, such as the gradient of a bias, as a product, since BLAS adds rows faster."""
    if x.size < 2**14 or x.dtype.char not in "fd" or not x.flags.c_contiguous:
        return x.sum(axis=tuple(range(axes)))
    rows = x.reshape(math.prod(x.shape[:axes]), -1)
    return array_module(x).ones(len(rows), x.dtype).dot(rows).reshape(x.shape[axes:])


defvjp(broadcast_to, lambda g, y, x, shape: sum_to(g, x.shape))
defvjp(sum_to, lambda g, y, x, shape: broadcast_to(g, x.shape))


def elementwise(f: Callable[..., Any] | None = None, *, differentiable: bool = True, expects: str = BROADCAST) -> Any:
    """A primitive that acts on each element alone, its arguments broadcast against each other."""
    if f is None:
        return lambda h: elementwise(h, differentiable=differentiable, expects=expects)
    call = primitive(f, differentiable=differentiable, expects=expects)
    call.primitive.edge, call.primitive.raw_edge = sum_to, sum_to.primitive.function
    return call
