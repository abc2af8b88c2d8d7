"""Elementwise ops and their derivatives, one beneath the other.

g: the gradient that arrives, y: the output, then the arguments. Subgradients at kinks and ties are PyTorch's.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .. import backend
from ..errors import ArgumentError, message
from ..graph import defvjp
from .broadcast import elementwise
from .comparison import equal, greater, greater_equal, isnan, less, less_equal, logical_and, logical_not, logical_or

# ---- Arithmetic -----------------------------------------------------------------------------------------------------------------


@elementwise
def add(a: Any, b: Any) -> Any:
    """Sum a + b."""
    return a + b


defvjp(add, lambda g, y, a, b: g, lambda g, y, a, b: g)


@elementwise
def subtract(a: Any, b: Any) -> Any:
    """Difference a - b."""
    return a - b


defvjp(subtract, lambda g, y, a, b: g, lambda g, y, a, b: -g)


@elementwise
def multiply(a: Any, b: Any) -> Any:
    """Product a * b of each pair of elements."""
    return a * b


defvjp(multiply, lambda g, y, a, b: g * b, lambda g, y, a, b: g * a)


@elementwise
def divide(a: Any, b: Any) -> Any:
    """Quotient a / b."""
    return a / b


defvjp(divide, lambda g, y, a, b: g / b, lambda g, y, a, b: -g * y / b)


@elementwise
def negative(x: Any) -> Any:
    """Negation -x."""
    return -x


defvjp(negative, lambda g, y, x: -g)


@elementwise
def power(a: Any, b: Any) -> Any:
    """Power a ** b."""
    return a**b


# 0 ** 0 = 1 has slope 0 in a, and 0 ** b = 0 has slope 0 in b where b >= 0: the plain formulas give 0 * inf there.
def _power_base(g: Any, y: Any, a: Any, b: Any) -> Any:
    if isinstance(b, (int, float)):
        return g * (b * a ** (b - 1)) if b else g * 0
    return g * where(equal(b, 0), 0, b * a ** where(equal(b, 0), 1, b - 1))


defvjp(
    power,
    _power_base,
    lambda g, y, a, b: g * y * log(where(logical_and(equal(a, 0), greater_equal(b, 0)), 1, a)),
)


@elementwise
def square(x: Any) -> Any:
    """Square x * x."""
    return np.square(x)


defvjp(square, lambda g, y, x: 2 * g * x)


@elementwise
def sqrt(x: Any) -> Any:
    """Square root."""
    return np.sqrt(x)


defvjp(sqrt, lambda g, y, x: g / (2 * y))


@elementwise
def reciprocal(x: Any) -> Any:
    """Reciprocal 1 / x."""
    return 1 / x


defvjp(reciprocal, lambda g, y, x: -g * y * y)


@elementwise
def remainder(a: Any, b: Any) -> Any:
    """Remainder a - b * floor(a / b), with the sign of b."""
    return np.remainder(a, b)


defvjp(remainder, lambda g, y, a, b: g, lambda g, y, a, b: -g * floor(a / b))


@elementwise
def hypot(a: Any, b: Any) -> Any:
    """Hypotenuse sqrt(a^2 + b^2), without overflow on the way."""
    return np.hypot(a, b)


defvjp(hypot, lambda g, y, a, b: g * a / y, lambda g, y, a, b: g * b / y)

# ---- Exponentials and logarithms --------------------------------------------------------------------------------------------------


@elementwise
def exp(x: Any) -> Any:
    """Exponential e^x."""
    return np.exp(x)


defvjp(exp, lambda g, y, x: g * y)


@elementwise
def exp2(x: Any) -> Any:
    """Power of two 2^x."""
    return np.exp2(x)


defvjp(exp2, lambda g, y, x: g * y * math.log(2))


@elementwise
def expm1(x: Any) -> Any:
    """e^x - 1, exact near 0."""
    return np.expm1(x)


defvjp(expm1, lambda g, y, x: g * (y + 1))


@elementwise
def log(x: Any) -> Any:
    """Natural logarithm."""
    return np.log(x)


defvjp(log, lambda g, y, x: g / x)


@elementwise
def log2(x: Any) -> Any:
    """Logarithm to base 2."""
    return np.log2(x)


defvjp(log2, lambda g, y, x: g / (x * math.log(2)))


@elementwise
def log10(x: Any) -> Any:
    """Logarithm to base 10."""
    return np.log10(x)


defvjp(log10, lambda g, y, x: g / (x * math.log(10)))


@elementwise
def log1p(x: Any) -> Any:
    """log(1 + x), exact near 0."""
    return np.log1p(x)


defvjp(log1p, lambda g, y, x: g / (1 + x))


@elementwise
def logaddexp(a: Any, b: Any) -> Any:
    """log(e^a + e^b) without overflow."""
    return np.logaddexp(a, b)


defvjp(logaddexp, lambda g, y, a, b: g * sigmoid(a - b), lambda g, y, a, b: g * sigmoid(b - a))

# ---- Trigonometric and hyperbolic ---------------------------------------------------------------------------------------------------


@elementwise
def sin(x: Any) -> Any:
    """Sine, x in radians."""
    return np.sin(x)


defvjp(sin, lambda g, y, x: g * cos(x))


@elementwise
def cos(x: Any) -> Any:
    """Cosine, x in radians."""
    return np.cos(x)


defvjp(cos, lambda g, y, x: -g * sin(x))


@elementwise
def tan(x: Any) -> Any:
    """Tangent, x in radians."""
    return np.tan(x)


defvjp(tan, lambda g, y, x: g * (1 + y * y))


@elementwise
def arcsin(x: Any) -> Any:
    """Inverse sine, in radians."""
    return np.arcsin(x)


defvjp(arcsin, lambda g, y, x: g / sqrt(1 - x * x))


@elementwise
def arccos(x: Any) -> Any:
    """Inverse cosine, in radians."""
    return np.arccos(x)


defvjp(arccos, lambda g, y, x: -g / sqrt(1 - x * x))


@elementwise
def arctan(x: Any) -> Any:
    """Inverse tangent, in radians."""
    return np.arctan(x)


defvjp(arctan, lambda g, y, x: g / (1 + x * x))


@elementwise
def arctan2(a: Any, b: Any) -> Any:
    """Angle in radians of the point with ordinate a and abscissa b."""
    return np.arctan2(a, b)


defvjp(arctan2, lambda g, y, a, b: g * b / (a * a + b * b), lambda g, y, a, b: -g * a / (a * a + b * b))


@elementwise
def sinh(x: Any) -> Any:
    """Hyperbolic sine."""
    return np.sinh(x)


defvjp(sinh, lambda g, y, x: g * cosh(x))


@elementwise
def cosh(x: Any) -> Any:
    """Hyperbolic cosine."""
    return np.cosh(x)


defvjp(cosh, lambda g, y, x: g * sinh(x))


@elementwise
def tanh(x: Any) -> Any:
    """Hyperbolic tangent."""
    return np.tanh(x)


defvjp(tanh, lambda g, y, x: g * (1 - y * y))


@elementwise
def arcsinh(x: Any) -> Any:
    """Inverse hyperbolic sine."""
    return np.arcsinh(x)


defvjp(arcsinh, lambda g, y, x: g / sqrt(x * x + 1))


@elementwise
def arccosh(x: Any) -> Any:
    """Inverse hyperbolic cosine, for x >= 1."""
    return np.arccosh(x)


defvjp(arccosh, lambda g, y, x: g / sqrt(x * x - 1))


@elementwise
def arctanh(x: Any) -> Any:
    """Inverse hyperbolic tangent, for |x| < 1."""
    return np.arctanh(x)


defvjp(arctanh, lambda g, y, x: g / (1 - x * x))


@elementwise
def sigmoid(x: Any) -> Any:
    """Logistic function 1 / (1 + e^-x)."""
    y = np.tanh(0.5 * x)  # not 1 / (1 + exp(-x)): exp overflows for x << 0
    y *= 0.5
    y += 0.5
    return y


defvjp(sigmoid, lambda g, y, x: g * (y * (1 - y)))


@elementwise
def erf(x: Any) -> Any:
    """Error function 2/sqrt(pi) * integral of e^(-t^2) from 0 to x."""
    return backend.special(x).erf(x)


defvjp(erf, lambda g, y, x: g * (2 / math.sqrt(math.pi)) * exp(-x * x))

# ---- Choices and kinks: at a tie the gradient is shared, at a jump it is 0 --------------------------------------------------------------


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
    return g * where(tied, 0.5, better).astype(g.dtype)


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
    return backend.array_module(condition, a, b).where(condition, a, b)


defvjp(where, None, lambda g, y, condition, a, b: where(condition, g, 0), lambda g, y, condition, a, b: where(condition, 0, g))


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
