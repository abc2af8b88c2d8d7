"""Rows of the op table: reductions, running reductions, norms, and broadcasting with its transpose."""

from __future__ import annotations

from typing import Any

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
from op_table import Case, Row, apart, arrays, booleans, integers, nonzero, over_axes, with_zeros

keepdims = st.booleans()
ORDS: list[Any] = [None, 0, 1, 2, 3, 2.5, 0.5, -1, np.inf, -np.inf]
MATRIX_ORDS: list[Any] = [None, "fro", 1, -1, np.inf, -np.inf]


def spread_out(draw: Any) -> Any:
    """More than one element to reduce, or a variance has no derivative to speak of."""
    return draw.filter(lambda case: all(n > 1 for n in case.args[0].shape) and case.args[0].ndim > 0)


@st.composite
def stretched(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """A shape, and one that it broadcasts to."""
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=3, max_side=3))
    target = draw(hnp.broadcastable_shapes(shape, min_dims=len(shape), max_side=3))
    return shape, np.broadcast_shapes(shape, target)


@st.composite
def broadcast(draw: st.DrawFn, *, back: bool) -> Case:
    small, large = draw(stretched())
    return Case((draw(arrays(large if back else small)),), {"shape": small if back else large})


def logsumexp(x: np.ndarray, axis: Any, keepdims: bool = False) -> np.ndarray:
    return np.log(np.sum(np.exp(x), axis=axis, keepdims=keepdims))


def sum_to(x: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """By definition: every element is added where its place in the small shape is."""
    y = np.zeros(shape, x.dtype)
    places = np.broadcast_to(np.arange(y.size).reshape(shape), x.shape)
    np.add.at(y.reshape(-1), places.reshape(-1), x.reshape(-1))
    return y


@st.composite
def matrix_axes(draw: st.DrawFn) -> Case:
    x = draw(arrays(hnp.array_shapes(min_dims=2, max_dims=3, max_side=3), apart))
    axes = draw(st.permutations(range(x.ndim)))[:2]
    return Case((x,), {"ord": draw(st.sampled_from(MATRIX_ORDS)), "axis": tuple(axes), "keepdims": draw(keepdims)})


ROWS = [
    Row("sum", over_axes(keepdims=keepdims)),
    Row("mean", over_axes(keepdims=keepdims)),
    Row("prod", over_axes(keepdims=keepdims)),
    Row("prod", over_axes(with_zeros, keepdims=keepdims), label="zeros"),
    Row("var", over_axes(keepdims=keepdims)),
    Row("var", spread_out(over_axes(keepdims=keepdims, ddof=st.integers(0, 1), min_dims=1)), label="ddof"),
    Row("std", spread_out(over_axes(keepdims=keepdims, ddof=st.integers(0, 1), min_dims=1))),
    Row("logsumexp", over_axes(keepdims=keepdims), logsumexp),
    Row("max", over_axes(apart, keepdims=keepdims)),
    Row("min", over_axes(apart, keepdims=keepdims)),
    Row("median", over_axes(apart, keepdims=keepdims)),
    Row("cumsum", over_axes(several=False)),
    Row("cumprod", over_axes(several=False)),
    Row("cumprod", over_axes(with_zeros, several=False), label="zeros"),
    *(Row(name, over_axes(min_side=0, several=False), label="empty") for name in ("sum", "prod", "cumsum", "cumprod")),
    Row("argmax", over_axes(with_zeros, several=False, keepdims=keepdims), order=0),
    Row("argmin", over_axes(with_zeros, several=False, keepdims=keepdims), order=0),
    Row("any", over_axes(booleans, keepdims=keepdims), order=0),
    Row("all", over_axes(booleans, keepdims=keepdims), order=0),
    *(
        Row(name, over_axes(integers, several=False), order=0, label="integers")
        for name in ("sum", "mean", "prod", "var", "std", "max", "min", "median", "cumsum", "cumprod", "any", "all")
    ),
    Row("logsumexp", over_axes(integers), logsumexp, order=0, label="integers"),
    *(Row(name, over_axes(booleans), order=0, label="booleans") for name in ("sum", "mean", "max")),
    Row("linalg.norm", over_axes(integers, several=False), order=0, label="integers"),
    Row("linalg.norm", over_axes(nonzero, several=False, none=False, keepdims=keepdims)),
    *(
        Row("linalg.norm", over_axes(nonzero, several=False, none=False, ord=st.just(p), keepdims=keepdims), label=f"ord {p}")
        for p in ORDS
    ),
    Row("linalg.norm", matrix_axes(), label="matrix"),
    Row("broadcast_to", broadcast(back=False)),
    Row("sum_to", broadcast(back=True), sum_to),
]
