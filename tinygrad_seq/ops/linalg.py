"""Products of matrices and tensors, and what `numpy.linalg` knows of a square matrix."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..graph import Deferred, defvjp, primitive
from .broadcast import sum_to
from .shaping import concatenate, expand_dims, reshape, squeeze, swapaxes

# ---- Products ------------------------------------------------------------------------------------------------------------------


@primitive(expects="a (..., n, k) and b (..., k, m), or vectors (k,), leading axes broadcast")
def matmul(a: Any, b: Any) -> Any:
    """Matrix product a @ b: of vectors, matrices, or stacks of matrices whose leading axes broadcast."""
    return a @ b


class _Product(Deferred):
    """The cotangent p^T @ q, not yet multiplied. A weight that is used at T time steps receives T of them, summed as one product
    of the stacked rows, [p_1; ...; p_T]^T @ [q_1; ...; q_T], a chunk of time steps at a time.
    """

    __slots__ = ()

    chunk = 16

    @staticmethod
    def sum_of(parts: list[Any], like: Any) -> Any:
        p, q = (concatenate(rows) for rows in zip(*parts, strict=True)) if len(parts) > 1 else parts[0]
        return swapaxes(p, 0, 1) @ q


def _matmul_left(g: Any, y: Any, a: Any, b: Any) -> Any:
    """g @ b^T; a vector a was one row of a matrix, a vector b one column."""
    if b.ndim == 2 and a.ndim > 1:
        return g @ swapaxes(b, 0, 1)
    if b.ndim == 1:
        return sum_to(expand_dims(g, -1) * b, a.shape)
    g = g if a.ndim > 1 else expand_dims(g, -2)
    whole = g @ swapaxes(b, -1, -2)
    return sum_to(whole if a.ndim > 1 else squeeze(whole, -2), a.shape)


def _matmul_right(g: Any, y: Any, a: Any, b: Any) -> Any:
    """a^T @ g, under the same readings."""
    if b.ndim == 2:
        return _Product((a, g)) if a.ndim == 2 else _Product((reshape(a, (-1, b.shape[0])), reshape(g, (-1, b.shape[1]))))
    if a.ndim == 1:
        if b.ndim == 1:
            return g * a
        return sum_to(expand_dims(a, -1) * expand_dims(g, -2), b.shape)
    g = g if b.ndim > 1 else expand_dims(g, -1)
    whole = swapaxes(a, -1, -2) @ g
    return sum_to(whole if b.ndim > 1 else squeeze(whole, -1), b.shape)


defvjp(matmul, _matmul_left, _matmul_right)
