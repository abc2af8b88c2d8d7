"""Rows of the op table: ops that move elements, join arrays and cut them apart."""

from __future__ import annotations

from typing import Any

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
from op_table import Case, Row, anywhere, arrays, generators, over_axes, shapes


def with_params(x: st.SearchStrategy[Any], choose: Any) -> st.SearchStrategy[Case]:
    """Arrays from x, each with the parameters that `choose(x)` draws."""
    return x.flatmap(lambda a: choose(a).map(lambda params: Case((a,), params)))


def some(min_dims: int = 0, min_side: int = 0, max_side: int = 3) -> st.SearchStrategy[Any]:
    return arrays(shapes(min_dims=min_dims, min_side=min_side, max_side=max_side))


def axis_of(x: Any, name: str = "axis") -> st.SearchStrategy[Any]:
    return st.fixed_dictionaries({name: st.integers(-x.ndim, x.ndim - 1)})


def permutation_of(x: Any) -> st.SearchStrategy[Any]:
    signs = st.tuples(*[st.booleans()] * x.ndim)
    mixed = st.tuples(st.permutations(range(x.ndim)), signs).map(
        lambda drawn: {"axes": tuple(a - x.ndim if negative else a for a, negative in zip(*drawn, strict=True))}
    )
    return st.one_of(st.just({}), mixed)


def shape_for(x: Any) -> st.SearchStrategy[Any]:
    n = x.size
    known = [(n,), (1, n), (n, 1, 1)] + [(-1,), (n // 2, -1)] * (n > 0 and n % 2 == 0) + [(-1, 2)] * (n % 2 == 0)
    return st.sampled_from([{"shape": shape} for shape in known])


def moves_of(x: Any) -> st.SearchStrategy[Any]:
    order = st.permutations(range(-x.ndim, 0))
    return st.tuples(st.integers(1, x.ndim), order, order).map(
        lambda d: {"source": tuple(d[1][: d[0]]), "destination": tuple(d[2][: d[0]])}
    )


def cuts_of(x: Any) -> st.SearchStrategy[Any]:
    places = st.lists(st.integers(0, 4), max_size=3).map(sorted)
    return st.tuples(places, st.integers(-x.ndim, x.ndim - 1)).map(lambda d: {"indices_or_sections": d[0], "axis": d[1]})


def sections_of(x: Any) -> st.SearchStrategy[Any]:
    return st.tuples(st.integers(1, 5), st.integers(-x.ndim, x.ndim - 1)).map(lambda d: {"indices_or_sections": d[0], "axis": d[1]})


def divisors_of(x: Any) -> st.SearchStrategy[Any]:
    every = [
        {"indices_or_sections": k, "axis": axis} for axis in range(-x.ndim, x.ndim) for k in range(1, 4) if x.shape[axis] % k == 0
    ]
    return st.sampled_from(every)


def widths_of(x: Any) -> st.SearchStrategy[Any]:
    each = st.tuples(st.integers(0, 3), st.integers(0, 3))
    every = st.tuples(*[each] * x.ndim)
    mode = st.sampled_from(["constant", "edge", "reflect", "symmetric", "wrap"])
    return st.tuples(st.one_of(st.integers(0, 3), each, every), mode).map(lambda d: {"pad_width": d[0], "mode": d[1]})


def repeats_of(x: Any) -> st.SearchStrategy[Any]:
    def counts(axis: int | None) -> st.SearchStrategy[Any]:
        n = x.size if axis is None else x.shape[axis]
        one_each = st.lists(st.integers(0, 3), min_size=n, max_size=n)
        return st.one_of(st.integers(0, 3), one_each).map(lambda repeats: {"repeats": repeats, "axis": axis})

    return st.one_of(st.none(), st.integers(-x.ndim, x.ndim - 1)).flatmap(counts)


def rolls_of(x: Any) -> st.SearchStrategy[Any]:
    one = st.tuples(st.integers(-4, 4), st.one_of(st.none(), st.integers(-x.ndim, x.ndim - 1)))
    two = st.tuples(st.tuples(st.integers(-4, 4), st.integers(-4, 4)), st.just((0, -1)))
    return st.one_of(one, two).map(lambda d: {"shift": d[0], "axis": d[1]})


def diagonals_of(x: Any) -> st.SearchStrategy[Any]:
    order = st.permutations(range(-x.ndim, 0))
    return st.tuples(st.integers(-2, 2), order).map(lambda d: {"offset": d[0], "axis1": d[1][0], "axis2": d[1][1]})


@st.composite
def alike(draw: st.DrawFn, joined: bool) -> Case:
    """One to three arrays of one shape, and an axis; joined: one that they have, along which their sizes may differ."""
    shape = draw(shapes(min_dims=int(joined), min_side=0, max_side=3))
    axis = draw(st.integers(-len(shape), len(shape) - 1)) if joined else draw(st.integers(-len(shape) - 1, len(shape)))
    rng = draw(generators)
    args = []
    for _ in range(draw(st.integers(1, 3))):
        own = list(shape)
        if joined:
            own[axis] = draw(st.integers(0, 3))
        args.append(anywhere(rng, tuple(own)))
    return Case(tuple(args), {"axis": axis})


def places(name: str) -> Any:
    return lambda x: st.integers(-2, 2).map(lambda k: {name: k})


ROWS = [
    Row("reshape", with_params(some(), shape_for)),
    Row("ravel", some().map(lambda x: Case((x,)))),
    Row("transpose", with_params(some(), permutation_of)),
    Row("swapaxes", some(1).flatmap(lambda x: axis_of(x, "axis1").map(lambda one: Case((x,), {**one, "axis2": -1})))),
    Row("moveaxis", with_params(some(1), moves_of)),
    Row(
        "expand_dims",
        with_params(some(), lambda x: st.sampled_from([{"axis": 0}, {"axis": -1}, {"axis": (0, -1)}, {"axis": x.ndim}])),
    ),
    Row("squeeze", with_params(arrays((1, 2, 1)), lambda x: st.sampled_from([{}, {"axis": 0}, {"axis": -1}, {"axis": (0, 2)}]))),
    Row("concatenate", alike(joined=True), listed=True),
    Row("stack", alike(joined=False), listed=True),
    Row("split", with_params(some(1), cuts_of), lambda x, **p: tuple(np.split(x, **p)), label="places"),
    Row("split", with_params(some(1), divisors_of), lambda x, **p: tuple(np.split(x, **p)), label="sections"),
    Row("array_split", with_params(some(1), sections_of), lambda x, **p: tuple(np.array_split(x, **p))),
    Row("unstack", with_params(some(1, min_side=1), axis_of), lambda x, axis: tuple(np.moveaxis(x, axis, 0))),
    Row(
        "tile",
        with_params(some(), lambda x: st.sampled_from([{"reps": r} for r in (2, (2,), (2, 3), (1, 2, 1), (2, 1, 1, 2), (0, 1))])),
    ),
    Row("repeat", with_params(some(1, min_side=1), repeats_of)),
    Row("flip", over_axes(min_dims=1)),
    Row("roll", with_params(some(2, min_side=1), rolls_of)),
    Row("pad", with_params(some(1, min_side=1), widths_of)),
    Row("pad", with_params(some(1), lambda x: st.just({"pad_width": 1, "constant_values": -2.5})), label="values"),
    Row("diag", with_params(arrays(hnp.array_shapes(min_dims=1, max_dims=2, max_side=4)), places("k"))),
    Row("diagonal", with_params(some(2), diagonals_of)),
    Row("tril", with_params(some(2), places("k"))),
    Row("triu", with_params(some(2), places("k"))),
    Row("astype", some().map(lambda x: Case((x,), {"dtype": np.float64})), lambda x, dtype: x.astype(dtype)),
    Row("copy", some().map(lambda x: Case((x,)))),
    Row("to_device", some().map(lambda x: Case((x,), {"device": "cpu"})), lambda x, device: x),
]
