"""Elementwise ops with kinks, ties and jumps, where a subgradient must be chosen: PyTorch's.

At a kink the gradient is the one in the middle, at a tie it is shared or goes to the first, at a jump it is 0.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import backend
from ..errors import ArgumentError, message
from ..primitives import defvjp
from .broadcast import elementwise
from .comparison import equal, greater, greater_equal, isnan, less, less_equal, logical_and, logical_not, logical_or


@elementwise
def abs(x: Any) -> Any:
    """Absolute value."""
    return np.abs(x)


defvjp(abs, lambda g, y, x: g * sign(x))


@elementwise
def maximum(a: Any, b: Any) -> Any:
    """The larger of each pair; NaN where one is NaN. At a tie each argument gets half of the gradient."""
    return np.maximum(a, b)


@elementwise
def minimum(a: Any, b: Any) -> Any:
    """The smaller of each pair; NaN where one is NaN. At a tie each argument gets half of the gradient."""
    return np.minimum(a, b)


def _won(g: Any, better: Any, tied: Any) -> Any:
    """The share of g for an argument that is better in some elements and tied in others."""
    return where(tied, 0.5 * g, where(better, g, 0))


defvjp(
    maximum,
    lambda g, y, a, b: _won(g, greater(a, b), equal(a, b)),
    lambda g, y, a, b: _won(g, less(a, b), equal(a, b)),
)
defvjp(
    minimum,
    lambda g, y, a, b: _won(g, less(a, b), equal(a, b)),
    lambda g, y, a, b: _won(g, greater(a, b), equal(a, b)),
)


@elementwise
def fmax(a: Any, b: Any) -> Any:
    """The larger of each pair, a number before a NaN. At a tie the gradient goes to a."""
    return np.fmax(a, b)


@elementwise
def fmin(a: Any, b: Any) -> Any:
    """The smaller of each pair, a number before a NaN. At a tie the gradient goes to a."""
    return np.fmin(a, b)


defvjp(
    fmax,
    lambda g, y, a, b: where(logical_or(greater_equal(a, b), isnan(b)), g, 0),
    lambda g, y, a, b: where(logical_or(greater_equal(a, b), isnan(b)), 0, g),
)
defvjp(
    fmin,
    lambda g, y, a, b: where(logical_or(less_equal(a, b), isnan(b)), g, 0),
    lambda g, y, a, b: where(logical_or(less_equal(a, b), isnan(b)), 0, g),
)


@elementwise
def where(condition: Any, a: Any, b: Any) -> Any:
    """a where the condition holds, b elsewhere."""
    if _is_zero(b) and _is_long(a, condition):
        return _kept(a, np.negative(condition.view(np.int8)))
    if _is_zero(a) and _is_long(b, condition):
        return _kept(b, condition.view(np.int8) - np.int8(1))
    return backend.array_module(condition, a, b).where(condition, a, b)


defvjp(where, None, lambda g, y, condition, a, b: where(condition, g, 0), lambda g, y, condition, a, b: where(condition, 0, g))

# Many numbers, or zero: not a choice at each, which a processor guesses wrong half the time, but a mask of bits. That is faster than
# np.where, and as fast as a product with the condition, which would make NaN of 0 times infinity.

_BITS = {np.dtype("float16"): np.int16, np.dtype("float32"): np.int32, np.dtype("float64"): np.int64}


def _is_zero(x: Any) -> bool:
    return type(x) is int and x == 0


def _is_long(x: Any, condition: Any) -> bool:
    if not type(x) is np.ndarray is type(condition):
        return False
    return x.size > 2**11 and x.shape == condition.shape and x.dtype in _BITS and condition.dtype == np.bool_


def _kept(x: Any, bits: Any) -> Any:
    """x where all bits are set (-1), 0 where none is."""
    integers = _BITS[x.dtype]
    kept: Any = np.bitwise_and(x.view(integers), bits, dtype=integers)
    return kept.view(x.dtype)


@elementwise
def _clip(x: Any, low: Any, high: Any) -> Any:
    return np.clip(x, low, high)


def _above(x: Any, low: Any) -> Any:
    return True if low is None else greater_equal(x, low)


def _below(x: Any, high: Any) -> Any:
    return True if high is None else less_equal(x, high)


defvjp(
    _clip,
    lambda g, y, x, low, high: where(logical_and(_above(x, low), _below(x, high)), g, 0),
    lambda g, y, x, low, high: where(logical_and(less(x, low), _below(low, high)), g, 0),
    lambda g, y, x, low, high: where(logical_or(greater(x, high), logical_not(_above(high, low))), g, 0),
)


def clip(x: Any, min: Any = None, max: Any = None) -> Any:
    """The nearest number within [min, max]; a limit of None is none. The gradient passes where min <= x <= max."""
    if min is None and max is None:
        raise ArgumentError(message("clip: min and max are both None", expected="at least one limit"))
    return _clip(x, min, max)


@elementwise
def sign(x: Any) -> Any:
    """-1, 0 or 1."""
    return np.sign(x)


@elementwise
def floor(x: Any) -> Any:
    """The largest integer that is not above x."""
    return np.floor(x)


@elementwise
def ceil(x: Any) -> Any:
    """The smallest integer that is not below x."""
    return np.ceil(x)


@elementwise
def round(x: Any, decimals: int = 0) -> Any:
    """x rounded to `decimals` digits, half to even."""
    return np.round(x, decimals)


@elementwise
def trunc(x: Any) -> Any:
    """x without its fractional part."""
    return np.trunc(x)


for _step in (sign, floor, ceil, round, trunc):
    defvjp(_step, lambda g, y, x, **_: g * 0)


@elementwise(differentiable=False)
def floor_divide(a: Any, b: Any) -> Any:
    """The largest integer that is not above a / b. It is constant between jumps: no gradient."""
    return np.floor_divide(a, b)
