"""The functions of compiled loops: as accurate as they say, in both precisions, right at the ends, and vectorised."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

pytest.importorskip("numba", reason="numba is an extra")

from numba import njit

from tinygrad_seq.compile import numba_math
from tinygrad_seq.compile.numba_math import FASTMATH

TRUE = {  # the same in more digits, and the error allowed, in units in the last place
    "exp": (np.exp, 1.1),
    "expm1": (np.expm1, 2),
    "sigmoid": (lambda x: 1 / (1 + np.exp(-x)), 3),
    "tanh": (np.tanh, 3),
    "log": (np.log, 3),
    "log1p": (np.log1p, 3),
}
ENDS = {  # at -inf, -1000, -1, 0, 1000, inf, nan
    "exp": [0, 0, np.exp(-1), 1, np.inf, np.inf, np.nan],
    "expm1": [-1, -1, np.expm1(-1), 0, np.inf, np.inf, np.nan],
    "sigmoid": [0, 0, 1 / (1 + np.e), 0.5, 1, 1, np.nan],
    "tanh": [-1, -1, np.tanh(-1), 0, 1, 1, np.nan],
    "log": [np.nan, np.nan, np.nan, -np.inf, np.log(1000), np.inf, np.nan],
    "log1p": [np.nan, np.nan, -np.inf, 0, np.log(1001), np.inf, np.nan],
}
each = pytest.mark.parametrize("name", TRUE)
both = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def loop_of(name: str) -> Any:
    function = getattr(numba_math, name)

    @njit(fastmath=FASTMATH, error_model="numpy", boundscheck=False)
    def loop(x: Any, y: Any) -> None:
        for k in range(x.size):
            y[k] = function(x[k])

    return loop


def values(name: str, x: Any) -> Any:
    y = np.empty_like(x)
    loop_of(name)(x, y)
    return y


def arguments(name: str, dtype: Any) -> Any:
    """Where the result is a normal number: all over the range, dense around 0 and 1, and very small."""
    small = np.geomspace(np.finfo(dtype).tiny, 1, 20001)
    if name.startswith("log"):
        x = np.concatenate([small, np.linspace(0.4, 3, 20001), np.geomspace(1, np.finfo(dtype).max / 2, 20001)])
        return (np.concatenate([x, -small[small < 0.999]]) if name == "log1p" else x).astype(dtype)
    most = 86 if dtype is np.float32 else 707
    return np.concatenate([np.linspace(-most, most, 40001), np.linspace(-3, 3, 40001), small, -small]).astype(dtype)


@each
@both
@pytest.mark.skipif(np.finfo(np.longdouble).nmant < 63, reason="long double is no longer than double here")
def test_errors_are_as_small_as_the_module_says(name: str, dtype: Any) -> None:
    x, (true, allowed) = arguments(name, dtype), TRUE[name]
    expected = true(x.astype(np.longdouble))
    unit = np.spacing(np.maximum(np.abs(expected).astype(dtype), np.finfo(dtype).tiny))
    errors = np.abs(values(name, x) - expected) / unit
    assert errors.max() <= allowed, x[errors.argmax()]


@each
@both
def test_at_the_ends_of_the_range(name: str, dtype: Any) -> None:
    x = np.array([-np.inf, -1000, -1, 0, 1000, np.inf, np.nan], dtype)
    np.testing.assert_allclose(values(name, x), np.array(ENDS[name], dtype), rtol=1e-6)


@each
@both
def test_loops_that_call_it_are_vectorised(name: str, dtype: Any) -> None:
    loop = loop_of(name)
    loop(np.ones(1, dtype), np.ones(1, dtype))
    (code,) = loop.inspect_llvm().values()
    assert re.search(rf"fmul.* <\d+ x {'float' if dtype is np.float32 else 'double'}>", code)


@both
def test_exp_overflows_and_vanishes_where_it_should(dtype: Any) -> None:
    edge = np.log(np.finfo(dtype).max)
    inside, outside = values("exp", np.array([edge * (1 - 1e-5), edge * (1 + 1e-5)], dtype))
    assert np.isfinite(inside) and np.isinf(outside)
    smallest = np.log(np.finfo(dtype).smallest_subnormal)
    inside, outside = values("exp", np.array([smallest + 0.1, smallest - 2], dtype))
    assert inside > 0 and outside == 0


@both
def test_log_of_subnormal_numbers(dtype: Any) -> None:
    x = np.array([np.finfo(dtype).smallest_subnormal, np.finfo(dtype).tiny / 3], dtype)
    np.testing.assert_allclose(values("log", x), np.log(x.astype(np.longdouble)).astype(dtype), rtol=4 * np.finfo(dtype).eps)


def test_they_are_for_compiled_code_and_floats() -> None:
    with pytest.raises(NotImplementedError, match="compiled code"):
        numba_math.tanh(1.0)
    with pytest.raises(Exception, match="No implementation"):
        loop_of("tanh")(np.ones(1, int), np.ones(1))
