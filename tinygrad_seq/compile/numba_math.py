"""exp, expm1, log, log1p, sigmoid and tanh that LLVM vectorises: what compiled loops call for each element. Needs numba.

A call of the C library stops a loop from being vectorised, and so does a branch. These are straight lines of arithmetic, for float32
and float64, and LLVM writes them into the loop that calls them. Errors in units in the last place, float32 and float64 alike: exp 1.1,
expm1 2, sigmoid, tanh, log and log1p 3 (`tests/test_numba_math.py`). NaN stays NaN, infinities give what the functions' limits are.

Exponentials: x = n ln 2 + r with |r| <= ln 2 / 2, e^x = 2^n e^r. Adding MAGIC = 1.5 * 2^(bits of the mantissa) rounds x / ln 2 to an
integer and leaves n in the lowest bits of the sum; moved up into the exponent, they are 2^n. ln 2 = HIGH + LOW, where n * HIGH is exact
(Cody & Waite 1980). e^r - 1 is its Taylor series: kept apart from the 1, it loses nothing where r is small.
Logarithms: x = 2^n m with m in [√½, √2), log m = 2 artanh(s), s = (m-1) / (m+1).

Code that calls them may be compiled with `FASTMATH`, no more: "reassoc" would cancel MAGIC, "nnan" and "ninf" would lose NaN and inf.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic, overload

FASTMATH = {"contract", "nsz"}  # a * b + c in one rounding; -0 may be 0
INLINE = {"forceinline": True, "fastmath": FASTMATH, "error_model": "numpy", "boundscheck": False}


def exp(x: Any) -> Any:
    """e^x."""
    raise NotImplementedError("for compiled code only")


def expm1(x: Any) -> Any:
    """e^x - 1, without loss where x is small."""
    raise NotImplementedError("for compiled code only")


def log(x: Any) -> Any:
    """The natural logarithm."""
    raise NotImplementedError("for compiled code only")


def log1p(x: Any) -> Any:
    """log(1 + x), without loss where x is small."""
    raise NotImplementedError("for compiled code only")


def sigmoid(x: Any) -> Any:
    """1 / (1 + e^-x)."""
    raise NotImplementedError("for compiled code only")


def tanh(x: Any) -> Any:
    """Hyperbolic tangent: e / (e + 2) with e = e^2x - 1."""
    raise NotImplementedError("for compiled code only")


# ---- Bits ---------------------------------------------------------------------------------------------------------------------------


def layout(x: Any) -> tuple[Any, int, int]:
    """The integer type as wide as a float type, the bits of its mantissa, the bias of its exponent."""
    return (ir.IntType(32), 23, 127) if x == types.float32 else (ir.IntType(64), 52, 1023)


@intrinsic
def power_of_two(typing_context: Any, shifted: Any) -> Any:
    """2^n from n + MAGIC."""
    integer, mantissa, bias = layout(shifted)

    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        n = builder.bitcast(args[0], integer)
        return builder.bitcast(builder.shl(builder.add(n, integer(bias)), integer(mantissa)), args[0].type)

    return shifted(shifted), build


def split(which: int) -> Any:
    """One of n and m in x = 2^n m, m in [√½, √2), for a normal x > 0."""

    @intrinsic
    def part(typing_context: Any, x: Any) -> Any:
        integer, mantissa, _ = layout(x)
        one, root = (np.array(value, str(x)).view(f"i{integer.width // 8}").item() for value in (1, math.sqrt(0.5)))

        def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            bits = builder.add(builder.bitcast(args[0], integer), integer(one - root))
            n = builder.sub(builder.ashr(bits, integer(mantissa)), integer(one >> mantissa))
            if which == 0:
                return builder.sitofp(n, args[0].type)
            fraction = builder.add(builder.and_(bits, integer((1 << mantissa) - 1)), integer(root))
            return builder.bitcast(fraction, args[0].type)

        return x(x), build

    return part


exponent_of, mantissa_of = split(0), split(1)


# ---- The functions of one type --------------------------------------------------------------------------------------------------------


def polynomial(coefficients: list[Any]) -> Callable[[Any], Any]:
    """Coefficients from the lowest power on -> their sum by Horner's rule, written out."""
    names = [f"c{k}" for k in range(len(coefficients))]
    text = names[-1]
    for name in reversed(names[:-1]):
        text = f"({text}) * x + {name}"
    scope = {"__name__": __name__, **dict(zip(names, coefficients))}  # Numba's cache finds functions by their module
    exec(f"def horner(x):\n    return {text}", scope)
    return njit(**INLINE)(scope["horner"])  # type: ignore[no-any-return]


def functions(dtype: Any) -> dict[str, Callable[[Any], Any]]:
    """All functions for one float type."""
    f, single = dtype, dtype is np.float32
    MAGIC = f(1.5 * 2**23 if single else 1.5 * 2**52)
    HIGH = f(0.693359375 if single else 0.693147180369123816490)
    LOW = f(-2.12194440e-4 if single else 1.90821492927058770002e-10)
    LOWEST, HIGHEST, SATURATED = (f(v) for v in ((-104, 89, 20) if single else (-746, 710, 40)))  # e^x is 0, is inf; tanh is ±1
    TINY, LIFT, LIFTED = f(np.finfo(f).tiny), f(2.0**64), f(64)
    PER_LN2, HALF, ZERO, ONE, TWO = f(1 / math.log(2)), f(0.5), f(0), f(1), f(2)
    INF, NAN = f(np.inf), f(np.nan)
    tail = polynomial([f(1 / math.factorial(k)) for k in range(2, 8 if single else 14)])  # (e^r - 1 - r) / r²
    artanh_tail = polynomial([f(2 / (2 * k + 1)) for k in range(1, 5 if single else 11)])  # (2 artanh(s) / s - 2) / s²

    @njit(**INLINE)
    def reduced(x: Any) -> Any:
        shifted = x * PER_LN2 + MAGIC
        n = shifted - MAGIC
        r = (x - n * HIGH) - n * LOW
        return shifted, n, r + r * r * tail(r)

    @njit(**INLINE)
    def exp(x: Any) -> Any:
        x = HIGHEST if x > HIGHEST else x  # as it stands, a NaN goes on
        x = LOWEST if x < LOWEST else x
        _, n, series = reduced(x)
        half = n * HALF + MAGIC
        rest = (n - (half - MAGIC)) + MAGIC
        return (ONE + series) * power_of_two(half) * power_of_two(rest)  # 2^n alone may be no number where e^x is one

    @njit(**INLINE)
    def expm1(x: Any) -> Any:
        y = LOWEST if x < LOWEST else x
        y = HIGHEST if y > HIGHEST else y
        _, n, series = reduced(y)
        half = n * HALF + MAGIC
        rest = (n - (half - MAGIC)) + MAGIC
        a, b = power_of_two(half), power_of_two(rest)
        return (a * series + (a - ONE / b)) * b

    @njit(**INLINE)
    def sigmoid(x: Any) -> Any:
        return ONE / (ONE + exp(-x))

    @njit(**INLINE)
    def tanh(x: Any) -> Any:
        x = SATURATED if x > SATURATED else x
        x = -SATURATED if x < -SATURATED else x
        shifted, _, series = reduced(TWO * x)
        scale = power_of_two(shifted)
        e = scale * series + (scale - ONE)
        return e / (e + TWO)

    @njit(**INLINE)
    def log(x: Any) -> Any:
        y = x * LIFT if x < TINY else x
        n = exponent_of(y) - (LIFTED if x < TINY else ZERO)
        m = mantissa_of(y)
        s = (m - ONE) / (m + ONE)
        s2 = s * s
        y = n * HIGH + (n * LOW + (TWO * s + s * s2 * artanh_tail(s2)))
        y = x if x == INF else y
        y = -INF if x == ZERO else y
        return y if x >= ZERO else NAN

    @njit(**INLINE)
    def log1p(x: Any) -> Any:
        u = ONE + x
        lost = x - (u - ONE)
        y = log(u) + lost / (ONE if u == ZERO else u)
        return y if u < INF and u > ZERO else log(u)

    return {"exp": exp, "expm1": expm1, "sigmoid": sigmoid, "tanh": tanh, "log": log, "log1p": log1p}


BY_TYPE = {types.float32: functions(np.float32), types.float64: functions(np.float64)}


def offer(function: Callable[[Any], Any]) -> None:
    """Let compiled code call a function of this module by its name, whatever float it is given."""
    name = function.__name__

    def choose(x: Any) -> Any:
        if x not in BY_TYPE:
            return None
        kernel = BY_TYPE[x][name]

        def call(x: Any) -> Any:  # numba wants the parameters of both alike, annotations too
            return kernel(x)

        return call

    overload(function, jit_options=INLINE)(choose)


for function in (exp, expm1, log, log1p, sigmoid, tanh):
    offer(function)
