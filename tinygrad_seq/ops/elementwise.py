"""Smooth elementwise ops and their derivatives, one beneath the other. Those with kinks and jumps stand in `piecewise`.

g: the gradient that arrives, y: the output, then the arguments. Where the plain formula would round badly, overflow or divide
by zero, the rule says it another way.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .. import backend
from ..primitives import defvjp
from .broadcast import elementwise
from .comparison import equal, greater_equal, logical_and
from .piecewise import floor_divide, where

# ---- Arithmetic -----------------------------------------------------------------------------------------------------------------


@elementwise
def add(a: Any, b: Any) -> Any:
    """Sum a + b."""
    return np.add(a, b)  # not a + b, which joins lists


defvjp(add, lambda g, y, a, b: g, lambda g, y, a, b: g)


@elementwise
def subtract(a: Any, b: Any) -> Any:
    """Difference a - b."""
    return np.subtract(a, b)


defvjp(subtract, lambda g, y, a, b: g, lambda g, y, a, b: -g)


@elementwise
def multiply(a: Any, b: Any) -> Any:
    """Product a * b of each pair of elements."""
    return np.multiply(a, b)


defvjp(multiply, lambda g, y, a, b: g * b, lambda g, y, a, b: g * a)


@elementwise
def divide(a: Any, b: Any) -> Any:
    """Quotient a / b."""
    return np.divide(a, b)


defvjp(divide, lambda g, y, a, b: g / b, lambda g, y, a, b: -g * y / b)


@elementwise
def negative(x: Any) -> Any:
    """Negation -x."""
    return np.negative(x)


defvjp(negative, lambda g, y, x: -g)


@elementwise
def power(a: Any, b: Any) -> Any:
    """Power a ** b."""
    return a**b


# 0 ** 0 = 1 has slope 0 in a, and 0 ** b = 0 has slope 0 in b where b >= 0: the plain formulas give 0 * inf there.
def _power_base(g: Any, y: Any, a: Any, b: Any) -> Any:
    if isinstance(b, (int, float)):
        return g * (b * a ** (b - 1)) if b else g * 0
    return g * (b * where(logical_and(equal(a, 0), equal(b, 0)), 1, a) ** (b - 1))


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


defvjp(remainder, lambda g, y, a, b: g, lambda g, y, a, b: -g * floor_divide(a, b))


@elementwise
def hypot(a: Any, b: Any) -> Any:
    """Hypotenuse sqrt(a^2 + b^2), without overflow on the way. Where it is 0 its gradient is 0."""
    return np.hypot(a, b)


def over_or_0(g: Any, y: Any) -> Any:
    """The quotient g / y, and 0 where y is 0: the subgradient of a length at its kink."""
    return g / where(equal(y, 0), math.inf, y)


defvjp(hypot, lambda g, y, a, b: g * over_or_0(a, y), lambda g, y, a, b: g * over_or_0(b, y))

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


defvjp(expm1, lambda g, y, x: g * exp(x))  # not y + 1, which rounds e^x away for x << 0


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
    """log(e^a + e^b) without overflow; -inf where both are, and the gradient is 0 there."""
    return np.logaddexp(a, b)


def _ahead(y: Any, a: Any, b: Any) -> Any:
    """a - b, and -inf where both are -inf."""
    return a - where(equal(y, -math.inf), 0, b)


defvjp(logaddexp, lambda g, y, a, b: g * sigmoid(_ahead(y, a, b)), lambda g, y, a, b: g * sigmoid(_ahead(y, b, a)))

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


defvjp(arcsin, lambda g, y, x: g / sqrt((1 - x) * (1 + x)))


@elementwise
def arccos(x: Any) -> Any:
    """Inverse cosine, in radians."""
    return np.arccos(x)


defvjp(arccos, lambda g, y, x: -g / sqrt((1 - x) * (1 + x)))


@elementwise
def arctan(x: Any) -> Any:
    """Inverse tangent, in radians."""
    return np.arctan(x)


defvjp(arctan, lambda g, y, x: g / (1 + x * x))


@elementwise
def arctan2(a: Any, b: Any) -> Any:
    """Angle in radians of the point with ordinate a and abscissa b. At the origin the gradient is 0."""
    return np.arctan2(a, b)


def _swing(g: Any, leg: Any, radius: Any) -> Any:
    """g leg / radius^2, with no square on the way that overflows or vanishes."""
    return over_or_0(g * over_or_0(leg, radius), radius)


defvjp(arctan2, lambda g, y, a, b: _swing(g, b, hypot(a, b)), lambda g, y, a, b: -_swing(g, a, hypot(a, b)))


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


# g (1 - y²), written without the number 1: converting it takes NumPy as long as a product of small arrays.
defvjp(tanh, lambda g, y, x: g - g * y * y)


@elementwise
def arcsinh(x: Any) -> Any:
    """Inverse hyperbolic sine."""
    return np.arcsinh(x)


defvjp(arcsinh, lambda g, y, x: g / hypot(x, 1))


@elementwise
def arccosh(x: Any) -> Any:
    """Inverse hyperbolic cosine, for x >= 1."""
    return np.arccosh(x)


defvjp(arccosh, lambda g, y, x: g / sqrt((x - 1) * (x + 1)))


@elementwise
def arctanh(x: Any) -> Any:
    """Inverse hyperbolic tangent, for |x| < 1."""
    return np.arctanh(x)


defvjp(arctanh, lambda g, y, x: g / ((1 - x) * (1 + x)))


@elementwise
def sigmoid(x: Any) -> Any:
    """Logistic function 1 / (1 + e^-x)."""
    half = backend.half(x)
    y = np.tanh(half * x)  # not 1 / (1 + exp(-x)): exp overflows for x << 0
    y *= half
    y += half
    return y


defvjp(sigmoid, lambda g, y, x: g * (y - y * y))  # g y (1 - y)


@elementwise
def erf(x: Any) -> Any:
    """Error function 2/sqrt(pi) * integral of e^(-t^2) from 0 to x."""
    return backend.special(x).erf(x)


defvjp(erf, lambda g, y, x: g * (2 / math.sqrt(math.pi)) * exp(-x * x))
