"""Rows of the op table: reading and writing by position, and sorting."""

from __future__ import annotations

from typing import Any

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
from op_table import Case, Row, anywhere, apart, arrays, booleans, generators, over_axes, shapes


@st.composite
def mixed_keys(draw: st.DrawFn, shape: tuple[int, ...]) -> Any:
    """For some of the axes an integer, a slice or integers that broadcast against the others; perhaps an ellipsis and a new axis."""
    n = draw(st.integers(1, 2))
    key: list[Any] = []
    for size in shape[: draw(st.integers(1, len(shape)))]:
        places = st.lists(st.integers(-size, size - 1), min_size=n, max_size=n)
        whole = st.just(slice(None))
        key.append(draw(st.one_of(st.integers(-size, size - 1), whole, st.slices(size), places, places.map(np.array))))
    if draw(st.booleans()):
        key.insert(draw(st.integers(0, len(key))), None)
    if draw(st.booleans()):
        key.append(...)
    return tuple(key)


def keys(shape: tuple[int, ...]) -> st.SearchStrategy[Any]:
    """Every kind of key that NumPy takes for an array of this shape."""
    masks = hnp.arrays(bool, st.sampled_from([shape[:k] for k in range(1, len(shape) + 1)]))
    whole = hnp.integer_array_indices(shape, result_shape=hnp.array_shapes(min_dims=0, max_dims=2, max_side=3))
    return st.one_of(hnp.basic_indices(shape, allow_newaxis=True), whole, masks, mixed_keys(shape))


@st.composite
def reads(draw: st.DrawFn) -> Case:
    x = draw(arrays(shapes(min_dims=1)))
    return Case((x,), {"key": draw(keys(x.shape))})


@st.composite
def writes(draw: st.DrawFn, once: bool) -> Case:
    """x, a key, and values that broadcast to x[key]; once: the key names no place twice."""
    x = draw(arrays(shapes(min_dims=1)))
    key = draw(keys(x.shape))
    places = np.arange(x.size).reshape(x.shape)[key]
    if once and np.unique(places).size != places.size:
        key = slice(None)
        places = np.arange(x.size).reshape(x.shape)
    shape = draw(st.sampled_from([places.shape, places.shape[1:], tuple(1 for _ in places.shape), ()]))
    return Case((x, key, anywhere(draw(generators), shape)))


def put(x: Any, key: Any, v: Any) -> Any:
    out = x.copy()
    out[key] = v
    return out


def add(x: Any, key: Any, v: Any) -> Any:
    out = x.copy()
    np.add.at(out, key, v)
    return out


@st.composite
def takes(draw: st.DrawFn) -> Case:
    x = draw(arrays(shapes(min_dims=1)))
    axis = draw(st.one_of(st.none(), st.integers(-x.ndim, x.ndim - 1)))
    n = x.size if axis is None else x.shape[axis]
    indices = draw(hnp.arrays(np.int64, hnp.array_shapes(min_dims=0, max_dims=2, max_side=3), elements=st.integers(-n, n - 1)))
    return Case((x, draw(st.sampled_from([indices, indices.tolist()]))), {"axis": axis})


@st.composite
def along(draw: st.DrawFn) -> Case:
    x = draw(arrays(shapes(min_dims=1)))
    axis = draw(st.integers(-x.ndim, x.ndim - 1))
    shape = list(x.shape)
    if draw(st.booleans()) and x.ndim > 1:
        shape[(axis - 1) % x.ndim] = 1  # broadcasts
    shape[axis] = draw(st.integers(0, 3))
    n = x.shape[axis]
    return Case((x, draw(hnp.arrays(np.int64, tuple(shape), elements=st.integers(-n, n - 1)))), {"axis": axis})


@st.composite
def fills(draw: st.DrawFn) -> Case:
    drawn = draw(hnp.mutually_broadcastable_shapes(num_shapes=3, max_dims=3, min_side=0, max_side=3)).input_shapes
    rng = draw(generators)
    value = draw(st.sampled_from([anywhere(rng, drawn[2]), 2.5]))
    return Case((anywhere(rng, drawn[0]), booleans(rng, drawn[1]), value))


@st.composite
def classes(draw: st.DrawFn) -> Case:
    n = draw(st.integers(1, 4))
    return Case((draw(hnp.arrays(np.int64, shapes(), elements=st.integers(0, n - 1))),), {"num_classes": n})


@st.composite
def best(draw: st.DrawFn) -> Case:
    x = draw(arrays(shapes(min_dims=1), apart))
    axis = draw(st.integers(-x.ndim, x.ndim - 1))
    return Case((x, draw(st.integers(0, x.shape[axis]))), {"axis": axis, "largest": draw(st.booleans())})


def numpy_topk(x: Any, k: int, axis: int, largest: bool) -> Any:
    order = np.take(np.argsort(-x if largest else x, axis), np.arange(k), axis)
    return np.take_along_axis(x, order, axis), order


ROWS = [
    Row("getitem", reads(), lambda x, key: x[key], waits=True),
    Row("index_put", writes(once=True), put, waits=True),
    Row("index_add", writes(once=False), add, waits=True),
    Row("take", takes(), lambda x, indices, axis: np.take(x, indices, axis)),
    Row("take_along_axis", along()),
    Row("masked_fill", fills(), lambda x, mask, value: np.where(mask, value, x)),
    Row("one_hot", classes(), lambda i, num_classes: np.eye(num_classes, dtype=np.float32)[i], order=0, waits=True),
    Row("sort", over_axes(apart, several=False, none=False)),
    Row("argsort", over_axes(apart, several=False, none=False), order=0),
    Row("topk", best(), numpy_topk),
]
