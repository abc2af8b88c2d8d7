"""What `numpy.linalg` knows of square matrices, each with its derivative; every op takes stacks of matrices (..., n, n).

`tg.linalg` is this module; the products (`matmul`, `einsum`, ...) and `norm` are here under the same roof.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import backend
from ..errors import LinearAlgebraError, message
from ..graph import raw
from ..primitives import backward_of, defvjp, primitive
from .broadcast import broadcast_to, sum_to
from .einsum import einsum as einsum
from .joining import as_array
from .products import dot as dot
from .products import matmul as matmul
from .products import outer as outer
from .products import tensordot as tensordot
from .products import trace as trace
from .reduction import norm as norm
from .reduction import sum
from .shaping import diagonal as diagonal
from .shaping import expand_dims, squeeze, swapaxes, tril

SQUARE = "square matrices (..., n, n)"


def _transposed(x: Any) -> Any:
    return swapaxes(x, -1, -2)


@primitive(expects=SQUARE)
def inv(x: Any) -> Any:
    """The inverse matrix: x^-1 x = 1."""
    return np.linalg.inv(x)


defvjp(inv, lambda g, y, x: -matmul(matmul(_transposed(y), g), _transposed(y)))


@primitive(expects="a (..., n, n) and b (..., n, k), or one vector b (n,)")
def solve(a: Any, b: Any) -> Any:
    """The solution x of a x = b, for the columns of b, or for b itself where it has one axis."""
    a, b = as_array(a), as_array(b)
    columns = _columns(b, b.ndim)
    lead = np.broadcast_shapes(a.shape[:-2], columns.shape[:-2])
    x = np.linalg.solve(np.broadcast_to(a, lead + a.shape[-2:]), np.broadcast_to(columns, lead + columns.shape[-2:]))
    return x if b.ndim > 1 else x[..., 0]


def _columns(x: Any, b_ndim: int) -> Any:
    """x as columns, if b was one vector."""
    return x if b_ndim > 1 else expand_dims(x, -1)


@backward_of(solve)
def _(g: Any, y: Any, a: Any, b: Any) -> Any:
    to_b = solve(_transposed(a), _columns(g, b.ndim))
    to_a = -matmul(to_b, _transposed(_columns(y, b.ndim)))
    return [sum_to(to_a, a.shape), sum_to(to_b if b.ndim > 1 else squeeze(to_b, -1), b.shape)]


@primitive(expects=SQUARE)
def det(x: Any) -> Any:
    """The determinant. Its derivative is the matrix of cofactors, also where x is singular."""
    return np.linalg.det(x)


defvjp(det, lambda g, y, x: expand_dims(g, (-2, -1)) * _cofactors(x))


@primitive(expects=SQUARE)
def _cofactors(x: Any) -> Any:
    """C[i, j] = (-1)^(i+j) det(x without row i and column j). By the singular values s of x = U diag(s) V^T,

        C = det(U V^T) U diag(product of the other s) V^T

    which, unlike det(x) x^-T, needs no inverse.
    """
    u, s, vt = np.linalg.svd(x)
    others = s[..., None, :] + 0 * s[..., :, None]
    i = backend.array_module(x).arange(s.shape[-1])
    others[..., i, i] = 1
    turn = np.linalg.det(u @ vt)
    return turn[..., None, None] * (u * others.prod(-1)[..., None, :]) @ vt


@backward_of(_cofactors)
def _(g: Any, y: Any, x: Any) -> Any:
    """From C = det(x) x^-T: the second derivative of the determinant, where x is regular."""
    d = expand_dims(det(x), (-2, -1))
    if not bool((raw(d) != 0).all()):
        raise LinearAlgebraError(
            message("det: its second derivative at a singular matrix is not known here", expected="a regular matrix")
        )
    return [(sum(g * y, (-2, -1), keepdims=True) * y - matmul(matmul(y, _transposed(g)), y)) / d]


@primitive(multiple=True, expects=SQUARE)
def slogdet(x: Any) -> tuple[Any, Any]:
    """The sign of the determinant and the logarithm of its absolute value, which cannot overflow. The sign has no gradient."""
    module = backend.array_module(x)
    sign, logarithm = np.linalg.slogdet(x)
    return module.asarray(sign), module.asarray(logarithm)


@backward_of(slogdet)
def _(g: Any, y: Any, x: Any) -> Any:
    to_sign, to_logarithm = g
    if to_logarithm is None:
        return [broadcast_to(expand_dims(0 * to_sign, (-2, -1)), x.shape)]
    return [expand_dims(to_logarithm, (-2, -1)) * _transposed(inv(x))]


@primitive(expects="symmetric, positive definite matrices (..., n, n)")
def cholesky(x: Any) -> Any:
    """The lower triangular L with a positive diagonal and L L^T = x. Only the lower triangle of x is read.

    Its gradient is symmetric, as x is (PyTorch's convention).
    """
    return np.linalg.cholesky(x)


@backward_of(cholesky)
def _(g: Any, y: Any, x: Any) -> Any:
    """S = L^-T P L^-1 made symmetric, P the lower triangle of L^T g with half of its diagonal."""
    p = matmul(_transposed(y), g)
    p = (tril(p) + tril(p, -1)) / 2
    upper = _transposed(y)
    s = _transposed(solve(upper, _transposed(solve(upper, p))))
    return [(s + _transposed(s)) / 2]
