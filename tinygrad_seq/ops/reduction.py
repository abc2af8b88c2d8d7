"""Reductions and running reductions: what is combined forward is shared out backward.

A reduction with one sensible derivative is a primitive; `norm` chooses among compositions. axis: an int, a tuple of ints, or None for
all axes; negative ones count from the end.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..errors import ShapeError, message
from ..primitives import defvjp, primitive
from .broadcast import broadcast_to
from .comparison import equal, not_equal
from .elementwise import exp, over_or_0
from .joining import as_array, concatenate
from .piecewise import abs, sign, where
from .shaping import expand_dims, flip, reshape, squeeze, swapaxes, transpose

Axis = int | tuple[int, ...] | None


def _axes(ndim: int, axis: Axis) -> tuple[int, ...]:
    """The axes that a reduction goes over, counted from the front."""
    if axis is None:
        return tuple(range(ndim))
    return tuple(a % ndim for a in (axis if isinstance(axis, tuple) else (axis,)))


def _count(shape: tuple[int, ...], axis: Axis) -> int:
    """How many elements are reduced to one."""
    return math.prod(shape[a] for a in _axes(len(shape), axis))


def _keep(g: Any, shape: tuple[int, ...], axis: Axis, keepdims: bool) -> Any:
    """A reduced array with the axes that `shape` was reduced over put back, of length 1: it broadcasts to `shape`."""
    return g if keepdims or axis is None else expand_dims(g, _axes(len(shape), axis))


def _spread(g: Any, shape: tuple[int, ...], axis: Axis, keepdims: bool) -> Any:
    """A reduced array stretched back over the axes that `shape` was reduced over."""
    return broadcast_to(_keep(g, shape, axis, keepdims), shape)


# ---- Sums and moments -----------------------------------------------------------------------------------------------------------


@primitive
def sum(x: Any, /, axis: Axis = None, keepdims: bool = False) -> Any:
    """Sum over the axes that `axis` names, or over all."""
    return np.sum(x, axis=axis, keepdims=keepdims)


defvjp(sum, lambda g, y, x, axis=None, keepdims=False: _spread(g, x.shape, axis, keepdims))


@primitive
def mean(x: Any, /, axis: Axis = None, keepdims: bool = False) -> Any:
    """Arithmetic mean over the axes that `axis` names, or over all."""
    return np.mean(x, axis=axis, keepdims=keepdims)


defvjp(mean, lambda g, y, x, axis=None, keepdims=False: _spread(g / _count(x.shape, axis), x.shape, axis, keepdims))


@primitive
def var(x: Any, /, axis: Axis = None, ddof: int = 0, keepdims: bool = False) -> Any:
    """Variance: the mean squared distance from the mean, sum (x - mean)^2 / (n - ddof)."""
    return np.var(x, axis=axis, ddof=ddof, keepdims=keepdims)


@primitive
def std(x: Any, /, axis: Axis = None, ddof: int = 0, keepdims: bool = False) -> Any:
    """Standard deviation, the square root of `var`. Where it is 0 its gradient is 0."""
    return np.std(x, axis=axis, ddof=ddof, keepdims=keepdims)


def _var_rule(g: Any, y: Any, x: Any, axis: Axis = None, ddof: int = 0, keepdims: bool = False) -> Any:
    distance = x - mean(x, axis=axis, keepdims=True)  # that the mean moves too cancels: the distances sum to 0
    return _keep(g, x.shape, axis, keepdims) * distance * 2 / (_count(x.shape, axis) - ddof)


def _std_rule(g: Any, y: Any, x: Any, axis: Axis = None, ddof: int = 0, keepdims: bool = False) -> Any:
    return _var_rule(over_or_0(g, 2 * y), y, x, axis, ddof, keepdims)


defvjp(var, _var_rule)
defvjp(std, _std_rule)


@primitive
def logsumexp(x: Any, /, axis: Axis = None, keepdims: bool = False) -> Any:
    """log(sum(exp(x))) for x of any size; -inf where every x is -inf, and the gradient is 0 there."""
    top = np.max(x, axis=axis, keepdims=True)
    total = np.exp(x - where(np.isfinite(top), top, 0)).sum(axis=axis, keepdims=True)
    y = np.log(total + (total == 0)) + top  # a total of 0 means that top is -inf, and so will be the sum
    return y if keepdims else y.reshape(()) if axis is None else y.squeeze(axis)


def _logsumexp_rule(g: Any, y: Any, x: Any, axis: Axis = None, keepdims: bool = False) -> Any:
    """g softmax(x): y, which is rounded, keeps exp in range, and the division by the total undoes its rounding."""
    y = _keep(y, x.shape, axis, keepdims)
    share = exp(x - where(equal(y, -math.inf), 0, y))  # 0, not exp(-inf - -inf), where all are -inf
    return share * over_or_0(_keep(g, x.shape, axis, keepdims), sum(share, axis=axis, keepdims=True))


defvjp(logsumexp, _logsumexp_rule)

# ---- Products -------------------------------------------------------------------------------------------------------------------


@primitive
def prod(x: Any, /, axis: Axis = None, keepdims: bool = False) -> Any:
    """Product over the axes that `axis` names, or over all."""
    return np.prod(x, axis=axis, keepdims=keepdims)


def _before(x: Any) -> Any:
    """The product of all elements before each, along the last axis."""
    return concatenate((x[..., :1] ** 0, cumprod(x[..., :-1], axis=-1)), axis=-1)


def _prod_rule(g: Any, y: Any, x: Any, axis: Axis = None, keepdims: bool = False) -> Any:
    """The product of all other elements; not y / x, which fails where an element is 0."""
    axes = _axes(x.ndim, axis)
    order = tuple(a for a in range(x.ndim) if a not in axes) + axes
    moved = transpose(x, order)
    rows = reshape(moved, (*moved.shape[: x.ndim - len(axes)], _count(x.shape, axis)))
    others = _before(rows) * _before(rows[..., ::-1])[..., ::-1]
    back = tuple(order.index(a) for a in range(x.ndim))
    return _keep(g, x.shape, axis, keepdims) * transpose(reshape(others, moved.shape), back)


defvjp(prod, _prod_rule)


@primitive
def cumsum(x: Any, /, axis: int | None = None) -> Any:
    """Running sum along an axis, or of all elements in order (axis=None)."""
    return np.cumsum(x, axis=axis)


@primitive
def cumprod(x: Any, /, axis: int | None = None) -> Any:
    """Running product along an axis, or of all elements in order (axis=None)."""
    return np.cumprod(x, axis=axis)


def _cumsum_rule(g: Any, y: Any, x: Any, axis: int | None = None) -> Any:
    """An element is in its own sum and in all later ones."""
    axis = axis or 0
    return reshape(flip(cumsum(flip(g, axis), axis=axis), axis), x.shape)


def _cumprod_rule(g: Any, y: Any, x: Any, axis: int | None = None) -> Any:
    """What stands before x_k, times what comes back to it: r_k = g_k + x_{k+1} r_{k+1}. Without a division, for zeros.

    The recurrence is solved by doubling: a round makes r_k reach twice as many terms, with carry_k = x_{k+1} ... x_{k+reach}.
    """
    flat = axis is None or not x.ndim
    rows, r = (reshape(x, (-1,)), g) if flat else (swapaxes(x, axis, -1), swapaxes(g, axis, -1))
    before, carry, reach = _before(rows), rows[..., 1:], 1
    while reach < rows.shape[-1]:
        r = concatenate((r[..., :-reach] + carry * r[..., reach:], r[..., -reach:]), axis=-1)
        carry = carry[..., :-reach] * carry[..., reach:]
        reach *= 2
    return reshape(before * r, x.shape) if flat else swapaxes(before * r, axis, -1)


defvjp(cumsum, _cumsum_rule)
defvjp(cumprod, _cumprod_rule)

# ---- Selections -----------------------------------------------------------------------------------------------------------------


@primitive
def max(x: Any, /, axis: Axis = None, keepdims: bool = False) -> Any:
    """The largest element over the axes that `axis` names, or over all. Equal ones share the gradient evenly."""
    return np.max(x, axis=axis, keepdims=keepdims)


@primitive
def min(x: Any, /, axis: Axis = None, keepdims: bool = False) -> Any:
    """The smallest element over the axes that `axis` names, or over all. Equal ones share the gradient evenly."""
    return np.min(x, axis=axis, keepdims=keepdims)


def _chosen(g: Any, y: Any, x: Any, axis: Axis = None, keepdims: bool = False) -> Any:
    hit = equal(x, _keep(y, x.shape, axis, keepdims)).astype(g.dtype)
    return _keep(g, x.shape, axis, keepdims) * hit / sum(hit, axis=axis, keepdims=True)


defvjp(max, _chosen)
defvjp(min, _chosen)


@primitive
def median(x: Any, /, axis: Axis = None, keepdims: bool = False) -> Any:
    """The middle element, or the mean of the middle two, over the axes that `axis` names, or over all; they get the gradient."""
    return np.median(x, axis=axis, keepdims=keepdims)


@primitive(differentiable=False)
def _middle(x: Any, /, axis: Axis) -> Any:
    """The weight of each element in the median: 1 or 1/2 in the middle, else 0."""
    axes = _axes(x.ndim, axis)
    order = tuple(a for a in range(x.ndim) if a not in axes) + axes
    moved = x.transpose(order)
    n = _count(x.shape, axis)
    rank = moved.reshape(*moved.shape[: x.ndim - len(axes)], n).argsort(axis=-1).argsort(axis=-1)
    weight = 0.5 * ((rank == (n - 1) // 2).astype(x.dtype) + (rank == n // 2))
    return weight.reshape(moved.shape).transpose(tuple(order.index(a) for a in range(x.ndim)))


defvjp(median, lambda g, y, x, axis=None, keepdims=False: _keep(g, x.shape, axis, keepdims) * _middle(x, axis=axis))


@primitive(differentiable=False)
def argmax(x: Any, /, axis: int | None = None, keepdims: bool = False) -> Any:
    """The index of the largest element along an axis, or in the flattened array; of equal ones the first."""
    return np.argmax(x, axis=axis, keepdims=keepdims)


@primitive(differentiable=False)
def argmin(x: Any, /, axis: int | None = None, keepdims: bool = False) -> Any:
    """The index of the smallest element along an axis, or in the flattened array; of equal ones the first."""
    return np.argmin(x, axis=axis, keepdims=keepdims)


@primitive(differentiable=False)
def any(x: Any, /, axis: Axis = None, keepdims: bool = False) -> Any:
    """Whether any element is true."""
    return np.any(x, axis=axis, keepdims=keepdims)


@primitive(differentiable=False)
def all(x: Any, /, axis: Axis = None, keepdims: bool = False) -> Any:
    """Whether every element is true."""
    return np.all(x, axis=axis, keepdims=keepdims)


# ---- Norms: public as `linalg.norm` ---------------------------------------------------------------------------------------------


@primitive
def _norm(x: Any, /, axis: Axis, keepdims: bool) -> Any:
    return np.sqrt((x * x).sum(axis=axis, keepdims=keepdims))


@primitive
def _norm_p(x: Any, /, p: float, axis: Axis, keepdims: bool) -> Any:
    return (np.abs(x) ** p).sum(axis=axis, keepdims=keepdims) ** (1 / p)


def _norm_rule(g: Any, y: Any, x: Any, axis: Axis, keepdims: bool) -> Any:
    return x * _keep(over_or_0(g, y), x.shape, axis, keepdims)


def _norm_p_rule(g: Any, y: Any, x: Any, p: float, axis: Axis, keepdims: bool) -> Any:
    """sign(x) (|x| / y)^(p - 1), and 0 where x is 0."""
    y = _keep(y, x.shape, axis, keepdims)
    ratio = where(equal(x, 0), 1, abs(x)) / where(equal(y, 0), 1, y)
    return _keep(g, x.shape, axis, keepdims) * sign(x) * ratio ** (p - 1)


defvjp(_norm, _norm_rule)
defvjp(_norm_p, _norm_p_rule)


def norm(x: Any, ord: float | str | None = None, axis: Axis = None, keepdims: bool = False) -> Any:
    """The length of vectors or matrices; where it is 0 its gradient is 0.

        vector, along one axis:  None, 2: sqrt(sum x^2)   1: sum |x|   inf, -inf: max, min |x|   0: how many are not 0   p: (sum |x|^p)^(1/p)
        matrix, two axes:        None, "fro": sqrt(sum x^2)   1, -1: max, min of the column sums of |x|   inf, -inf: of the row sums

    axis=None: all axes (with an `ord` x must have one or two). Spectral and nuclear norms of matrices are not supported.
    """
    x = as_array(x)
    if x.dtype.kind != "f":
        x = x.astype(np.float64)
    if axis is None:
        if ord is None:
            return _norm(x, axis=None, keepdims=keepdims)
        axis = tuple(range(x.ndim))
    axes = axis if isinstance(axis, tuple) else (axis,)
    if len(axes) == 1 and not isinstance(ord, str):
        return _vector_norm(x, ord, axes[0], keepdims)
    if len(axes) == 2 and ord in (None, "fro"):
        return _norm(x, axis=axes, keepdims=keepdims)
    if len(axes) == 2 and ord in (1, -1, math.inf, -math.inf):
        inner, outer = axes if ord in (1, -1) else axes[::-1]
        sums = sum(abs(x), axis=inner, keepdims=True)
        y = max(sums, axis=outer, keepdims=True) if ord > 0 else min(sums, axis=outer, keepdims=True)
        return y if keepdims else squeeze(y, axis=axes)
    raise ShapeError(
        message(
            f"norm: no ord={ord!r} over {len(axes)} axes",
            expected="one axis: None, inf, -inf or a number; two axes: None, 'fro', 1, -1, inf or -inf; more: None with axis=None",
        )
    )


def _vector_norm(x: Any, ord: float | None, axis: int, keepdims: bool) -> Any:
    if ord is None or ord == 2:
        return _norm(x, axis=axis, keepdims=keepdims)
    if ord == 0:
        return sum(not_equal(x, 0).astype(x.dtype), axis=axis, keepdims=keepdims)
    if ord == 1:
        return sum(abs(x), axis=axis, keepdims=keepdims)
    if ord == math.inf:
        return max(abs(x), axis=axis, keepdims=keepdims)
    if ord == -math.inf:
        return min(abs(x), axis=axis, keepdims=keepdims)
    return _norm_p(x, p=ord, axis=axis, keepdims=keepdims)
