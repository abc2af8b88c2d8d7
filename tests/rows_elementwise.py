"""Rows of the op table: elementwise ops, smooth and piecewise, comparisons and logic."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import numpy as np
import scipy.special
from op_table import (
    Case,
    Row,
    above_one,
    anywhere,
    between_steps,
    binary,
    booleans,
    elementwise,
    inside_unit,
    integers,
    nonzero,
    positive,
    unary,
    with_zeros,
)


def with_number(a: Any, number: float, *, first: bool = False) -> st.SearchStrategy[Case]:
    """An array and a Python number, which stands first or second."""
    return unary(a).map(lambda case: Case((number, *case.args) if first else (*case.args, number)))


def limits(low: Any, high: Any) -> st.SearchStrategy[Case]:
    return unary().map(lambda case: Case((*case.args, low, high)))


ARITHMETIC = [
    Row("add", binary()),
    Row("add", with_number(anywhere, 2), label="number"),
    Row("subtract", binary()),
    Row("subtract", with_number(anywhere, 0.5, first=True), label="number"),
    Row("multiply", binary()),
    Row("multiply", with_number(anywhere, 2.5), label="number"),
    Row("divide", binary(anywhere, nonzero)),
    Row("divide", with_number(nonzero, 3, first=True), label="number"),
    Row("negative", unary()),
    Row("power", binary(positive, anywhere)),
    *(Row("power", with_number(nonzero, n), label=str(n)) for n in (0, 1, 2, 3, -1, -2)),
    *(Row("power", with_number(positive, n), label=str(n)) for n in (0.5, -1.5, 2.0)),
    Row("power", with_number(anywhere, 2.0, first=True), label="base-2"),
    Row("power", elementwise(nonzero, integers), label="integers"),
    Row("square", unary()),
    Row("sqrt", unary(positive)),
    Row("reciprocal", unary(nonzero)),
    Row("remainder", binary(between_steps, positive)),
    Row("remainder", with_number(between_steps, -1), label="number"),
    Row("hypot", binary(nonzero, nonzero)),
]
SMOOTH = [
    Row("exp", unary()),
    Row("exp2", unary()),
    Row("expm1", unary()),
    Row("log", unary(positive)),
    Row("log2", unary(positive)),
    Row("log10", unary(positive)),
    Row("log1p", unary(positive)),
    Row("logaddexp", binary()),
    Row("sin", unary()),
    Row("cos", unary()),
    Row("tan", unary(inside_unit)),
    Row("arcsin", unary(inside_unit)),
    Row("arccos", unary(inside_unit)),
    Row("arctan", unary()),
    Row("arctan2", binary(nonzero, nonzero)),
    Row("sinh", unary()),
    Row("cosh", unary()),
    Row("tanh", unary()),
    Row("arcsinh", unary()),
    Row("arccosh", unary(above_one)),
    Row("arctanh", unary(inside_unit)),
    Row("sigmoid", unary(), scipy.special.expit),
    Row("erf", unary(), scipy.special.erf),
]
PIECEWISE = [
    Row("abs", unary(nonzero)),
    Row("maximum", binary()),
    Row("maximum", with_number(nonzero, 0), label="number"),
    Row("minimum", binary()),
    Row("fmax", binary()),
    Row("fmin", binary()),
    Row("where", elementwise(booleans, anywhere, anywhere)),
    Row("where", unary(booleans).map(lambda case: Case((*case.args, 1.5, -2.0))), label="numbers"),
    Row("clip", elementwise(anywhere, lambda rng, shape: -positive(rng, shape), positive)),
    Row("clip", elementwise(anywhere, anywhere, anywhere), label="crossed"),
    Row("clip", limits(-0.5, 1), label="numbers"),
    Row("clip", limits(None, 0.5), label="max"),
    Row("clip", limits(0.1, None), label="min"),
    Row("sign", unary(nonzero)),
    Row("floor", unary(between_steps)),
    Row("ceil", unary(between_steps)),
    Row("trunc", unary(between_steps)),
    Row("round", unary(between_steps)),
    Row("round", unary(anywhere, decimals=st.integers(-1, 1)), label="decimals"),
    Row("floor_divide", binary(between_steps, positive), order=0),
]
CONSTANT = [
    *(
        Row(name, elementwise(with_zeros, with_zeros), order=0)
        for name in ("equal", "not_equal", "less", "less_equal", "greater", "greater_equal")
    ),
    *(Row(name, elementwise(booleans, with_zeros), order=0) for name in ("logical_and", "logical_or", "logical_xor")),
    Row("logical_not", unary(booleans), order=0),
    *(
        Row(name, unary(lambda rng, shape: rng.choice([0.0, -1.0, np.nan, np.inf, -np.inf], shape)), order=0)
        for name in ("isnan", "isinf", "isfinite")
    ),
]
INTEGERS = [
    *(
        Row(name, elementwise(integers, integers), order=0, label="integers")
        for name in ("add", "subtract", "multiply", "maximum", "minimum", "fmax", "hypot", "less", "logical_and")
    ),
    *(
        Row(name, unary(integers), order=0, label="integers")
        for name in ("negative", "square", "abs", "sign", "floor", "exp", "sin", "tanh", "round", "isfinite")
    ),
    Row("sigmoid", unary(integers), scipy.special.expit, order=0, label="integers"),
    Row("add", elementwise(booleans, integers), order=0, label="booleans"),
    Row("power", with_number(integers, 2), order=0, label="integer"),
    Row("clip", elementwise(integers, integers, integers), order=0, label="integers"),
]
ROWS = [*ARITHMETIC, *SMOOTH, *PIECEWISE, *CONSTANT, *INTEGERS]
