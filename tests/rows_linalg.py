"""Rows of the op table: products of vectors and matrices, einsum, and tg.linalg."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import hypothesis.strategies as st
import numpy as np
from op_table import Case, Row, anywhere, arrays, generators, shapes

sides = st.integers(1, 4)


@st.composite
def of_shapes(draw: st.DrawFn, *choices: tuple[str, ...], min_side: int = 1, **params: st.SearchStrategy[Any]) -> Case:
    """Arrays whose axes are named by letters, one size drawn for each letter: "nk km" is a matrix product; "1" is an axis of size 1."""
    terms = draw(st.sampled_from(choices))
    size = {letter: draw(st.integers(min_side, 4)) for letter in sorted(set("".join(terms)))} | {"1": 1}
    rng = draw(generators)
    args = tuple(anywhere(rng, tuple(size[letter] for letter in term)) for term in terms)
    return Case(args, {name: draw(strategy) for name, strategy in params.items()})


PRODUCTS = (
    ("k", "k"), ("nk", "k"), ("k", "km"), ("nk", "km"), ("bnk", "km"), ("nk", "bkm"), ("bnk", "bkm"), ("b1nk", "ckm"), ("1nk", "bkm"),
    ("k", "bkm"), ("bnk", "k"), ("bcnk", "km"), ("bcnk", "ckm"),
)  # fmt: skip
SPECS = (
    "i,i", "i,j", "ij,jk", "ij,jk->ik", "ij,kj->ki", "bij,bjk->bik", "bhqd,bhkd->bhqk", "i,j,k->kij", "ab,bc,cd->ad", "ab,bc,ca",
    "ii", "ii->i", "iij->ij", "iii", "iij,jj->i", "ij->", "ij,k->k", "ij->ji", "i,i->i", "ij,ij->ij", "ij,ij", "ji,ij->j", ",i", ",->",
)  # fmt: skip
DOTTED = (
    ("...ij,...jk->...ik", "bij", "jk"),
    ("...ij,...jk", "1ij", "bjk"),
    ("i...->...", "ibc"),
    ("...i,...i", "bi", "1i"),
    ("...,...", "bi", "i"),
)


@st.composite
def einsums(draw: st.DrawFn) -> Case:
    """A specification and its operands, some of them with an axis of size 1 that broadcasts."""
    if draw(st.booleans()):
        spec, *terms = draw(st.sampled_from(DOTTED))
    else:
        spec = draw(st.sampled_from(SPECS))
        terms = spec.partition("->")[0].split(",")
    case = draw(of_shapes(tuple(terms)))
    return Case((spec, *case.args))


CONTRACTIONS: tuple[tuple[tuple[str, str], Any], ...] = (
    (("ij", "kl"), 0), (("ij", "jk"), 1), (("ijk", "jkl"), 2), (("ij", "ij"), 2), (("ijk", "kli"), ([0, -1], [2, 0])),
    (("ij", "kj"), (1, -1)), (("i", "i"), (0, 0)),
)  # fmt: skip


@st.composite
def tensordots(draw: st.DrawFn) -> Case:
    terms, axes = draw(st.sampled_from(CONTRACTIONS))
    return Case(draw(of_shapes(terms)).args, {"axes": axes})


@st.composite
def squares(draw: st.DrawFn) -> Any:
    """Well-conditioned matrices, or stacks of them."""
    n = draw(sides)
    x = draw(arrays((*draw(shapes(0, 2, max_side=2)), n, n)))
    return x / 4 + draw(st.sampled_from([-1, 1])) * np.diag(1 + np.arange(n) / 2)


@st.composite
def systems(draw: st.DrawFn) -> Case:
    a = draw(squares())
    lead, n, rng = a.shape[:-2], a.shape[-1], draw(generators)
    shape = draw(st.sampled_from([(n,), (n, 2), (*lead, n, 1), (3, *[1] * len(lead), n, 2)]))
    return Case((a, anywhere(rng, shape)))


@st.composite
def traces(draw: st.DrawFn) -> Case:
    x = draw(arrays(shapes(min_dims=2)))
    axis1, axis2 = draw(st.permutations(range(-x.ndim, 0)))[:2]
    return Case((x,), {"offset": draw(st.integers(-2, 2)), "axis1": axis1, "axis2": axis2})


@dataclass(frozen=True)
class OfSymmetric(Row):
    """An op of symmetric, positive definite matrices only: of x x^T."""

    def call(self, f: Callable[..., Any], case: Case) -> Any:
        (x,) = case.args
        return f(x @ x.swapaxes(-1, -2))


ROWS = [
    Row("matmul", of_shapes(*PRODUCTS)),
    Row("matmul", of_shapes(("nk", "km"), ("bnk", "km"), ("bnk", "bkm"), min_side=0), label="empty"),
    Row("dot", of_shapes(*PRODUCTS[:5], ("bnk", "ckm"), ("k", "bkm"), ("", "nk"), ("n", ""), ("bnk", "k"))),
    Row(
        "inner",
        of_shapes(("k", "k"), ("nk", "k"), ("k", "mk"), ("nk", "mk"), ("bnk", "mk"), ("bnk", "cmk"), ("", "mk"), ("nk", "")),
    ),
    Row("outer", of_shapes(("n", "m"), ("nk", "m"), ("", "m"))),
    Row("inner", of_shapes(("nk", "mk"), ("bnk", "mk"), ("k", "mk"), ("k", "k"), ("nk", "bmk"), ("", "nk"), ("n", ""))),
    Row("tensordot", tensordots()),
    Row("einsum", einsums()),
    Row("trace", traces()),
    Row("linalg.inv", squares().map(lambda x: Case((x,)))),
    Row("linalg.det", squares().map(lambda x: Case((x,))), waits=True),
    Row("linalg.slogdet", squares().map(lambda x: Case((x,)))),
    Row("linalg.solve", systems()),
    OfSymmetric("linalg.cholesky", squares().map(lambda x: Case((x,)))),
]
