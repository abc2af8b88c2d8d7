"""Products of vectors, matrices and tensors. Each is a matrix product in the end, and so is its derivative."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from operator import index
from typing import Any

import numpy as np

from ..errors import ArgumentError, ShapeError, message
from ..primitives import Deferred, defvjp, primitive
from .broadcast import sum_to
from .elementwise import multiply
from .joining import as_array, join, place
from .reduction import sum
from .shaping import diagonal, expand_dims, reshape, squeeze, swapaxes, transpose


@primitive(expects="a (..., n, k) and b (..., k, m), or vectors (k,), leading axes broadcast")
def matmul(a: Any, b: Any) -> Any:
    """Matrix product a @ b: of vectors, matrices, or stacks of matrices whose leading axes broadcast."""
    axes, others = getattr(a, "ndim", 0), getattr(b, "ndim", 0)  # a list has none
    if axes > 2 and others == 2:  # one product of all rows in the stack
        return a.reshape(math.prod(a.shape[:-1]), a.shape[-1]).dot(b).reshape(*a.shape[:-1], b.shape[1])
    if 1 <= axes <= 2 and 1 <= others <= 2:
        return a.dot(b)  # as @, without its look at the floating-point flags, which were seen raised by products of finite numbers
    return a @ b if axes else np.matmul(a, b)


class _Product(Deferred):
    """The cotangent p^T @ q, not yet multiplied. A weight that is used at T time steps receives T of them, summed as one product
    of the stacked rows, [p_1; ...; p_T]^T @ [q_1; ...; q_T], about a thousand rows at a time: fast, and little is held on to.
    """

    __slots__ = ()

    def chunk(self) -> int:
        return 1 + 1024 // (1 + len(self[0]))

    @staticmethod
    def sum_of(parts: list[Any], like: Any) -> Any:
        p, q = (join(*rows, axis=0) for rows in zip(*parts)) if len(parts) > 1 else parts[0]
        return p.T.dot(q)


def _matmul_left(g: Any, y: Any, a: Any, b: Any) -> Any:
    """g @ b^T; a vector a was one row of a matrix, a vector b one column."""
    if a.ndim == b.ndim == 2:
        return g.dot(b.T)
    if b.ndim == 1:
        return sum_to(expand_dims(g, -1) * b, a.shape)
    if a.ndim > 1:
        return sum_to(matmul(g, swapaxes(b, -1, -2)), a.shape)
    return sum_to(squeeze(matmul(expand_dims(g, -2), swapaxes(b, -1, -2)), -2), a.shape)


def _matmul_right(g: Any, y: Any, a: Any, b: Any) -> Any:
    """a^T @ g, under the same readings."""
    if b.ndim == 2:
        if a.ndim == 2:
            return _Product((a, g))
        rows = math.prod(a.shape[:-1])
        return _Product((reshape(a, (rows, b.shape[0])), reshape(g, (rows, b.shape[1]))))
    if b.ndim == 1:
        return sum_to(expand_dims(g, -1) * a, b.shape)
    if a.ndim == 1:
        return sum_to(expand_dims(a, -1) * expand_dims(g, -2), b.shape)
    return sum_to(matmul(swapaxes(a, -1, -2), g), b.shape)


defvjp(matmul, _matmul_left, _matmul_right)


@primitive(expects="a (..., k) and b (m, k)")
def _inner(a: Any, b: Any) -> Any:
    if a.ndim > 2:  # a stack of matrices against one matrix is one product of all their rows
        return a.reshape(math.prod(a.shape[:-1]), a.shape[-1]).dot(b.T).reshape(*a.shape[:-1], b.shape[0])
    return a.dot(b.T)


def _rows(x: Any) -> Any:
    return x if x.ndim == 2 else reshape(x, (math.prod(x.shape[:-1]), x.shape[-1]))


defvjp(_inner, lambda g, y, a, b: matmul(g, b), lambda g, y, a, b: _Product((_rows(g), _rows(a))))


def inner(a: Any, b: Any) -> Any:
    """Sum over the last axes of both: every row of a with every row of b; a number just scales.

    (..., k) and (m, k) -> (..., m): the a @ b^T of a layer with the weight b, whose uses over time are multiplied as one product.
    """
    a, b = as_array(a), as_array(b)
    if not a.ndim or not b.ndim:
        return multiply(a, b)
    return _inner(a, b) if b.ndim == 2 else tensordot(a, b, (-1, -1))


def dot(a: Any, b: Any) -> Any:
    """Sum over the last axis of a and the last but one of b (or its only one); a number just scales.

    (..., n, k) . (..., k, m) -> (..., n, ..., m), so for matrices and vectors it is `matmul`.
    """
    a, b = as_array(a), as_array(b)
    if not a.ndim or not b.ndim:
        return multiply(a, b)
    return matmul(a, b) if b.ndim <= 2 else tensordot(a, b, (-1, -2))


def outer(a: Any, b: Any) -> Any:
    """Every element of a times every element of b: y[i, j] = a[i] b[j], both read in one row."""
    return reshape(a, (-1, 1)) * reshape(b, (1, -1))


def tensordot(a: Any, b: Any, axes: int | Sequence[int | Sequence[int]] = 2) -> Any:
    """Sum over pairs of axes, one of a and one of b; what remains of a comes first, then what remains of b.

    axes: how many of the last axes of a meet as many of the first of b; or (axes of a, axes of b).
    """
    a, b = as_array(a), as_array(b)
    left, right = ([place("tensordot", i, x.ndim) for i in given] for x, given in zip((a, b), _pairs(axes, a, b), strict=True))
    if [a.shape[i] for i in left] != [b.shape[i] for i in right]:
        raise ShapeError(
            message(
                "tensordot: the axes to sum over do not match",
                expected="pairs of axes of one size",
                got=f"a {a.shape} over axes {left}, b {b.shape} over axes {right}",
            )
        )
    rows, columns = [i for i in range(a.ndim) if i not in left], [i for i in range(b.ndim) if i not in right]
    n, m = [a.shape[i] for i in rows], [b.shape[i] for i in columns]
    k = math.prod(a.shape[i] for i in left)
    y = matmul(
        reshape(transpose(a, (*rows, *left)), (math.prod(n), k)),
        reshape(transpose(b, (*right, *columns)), (k, math.prod(m))),
    )
    return reshape(y, (*n, *m))


def _pairs(axes: int | Sequence[int | Sequence[int]], a: Any, b: Any) -> list[list[int]]:
    """The axes of a and those of b, each a list."""
    try:
        if isinstance(axes, Iterable):
            of_a, of_b = ([index(i) for i in (given if isinstance(given, Iterable) else (given,))] for given in axes)
            return [of_a, of_b]
        count = index(axes)
    except (TypeError, ValueError):
        expected = "how many axes to sum over, or (axes of a, axes of b), which are integers"
        raise ArgumentError(message(f"tensordot: axes={axes!r}", expected=expected)) from None
    if not 0 <= count <= min(a.ndim, b.ndim):
        raise ShapeError(message(f"tensordot: no {count} axes to sum over", got=f"a {a.shape}, b {b.shape}"))
    return [[*range(a.ndim - count, a.ndim)], [*range(count)]]


def trace(x: Any, offset: int = 0, axis1: int = 0, axis2: int = 1) -> Any:
    """The sum of the diagonal of the matrices that two axes span."""
    return sum(diagonal(x, offset, axis1, axis2), axis=-1)
