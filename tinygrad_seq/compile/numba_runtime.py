"""What Python does around the compiled loops of Numba: weights packed, masks laid out, gradients of weights added up by BLAS."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache
from itertools import islice
from typing import Any

import numpy as np


def runs_back(hs: Any) -> int:
    """1 if the steps run against the order of memory."""
    return int(hs.strides[0] < 0)


def in_memory(a: Any, back: int) -> Any:
    """An array (T, ...) in the order of memory, in one piece. The same row at all times stays one row."""
    if a.strides[0] == 0:
        a = a[:1]
    return plain(a[::-1] if back else a)


def plain(a: Any) -> Any:
    """The array in one piece and writable, as the compiled loops expect all of theirs; a copy where it is not."""
    return a if a.flags.carray else np.require(a, requirements=["C", "A", "W"])


def room_for(g: Any, back: int) -> Any:
    """The array itself in the order of memory, or one of its form where it is not in one piece."""
    g = g[::-1] if back else g
    return g if g.flags.c_contiguous else np.empty(g.shape, g.dtype)


def put_back(g: Any, found: Any, back: int) -> None:
    """Copy what was found, if it was found elsewhere."""
    if found is not g and not np.shares_memory(g, found):
        g[...] = found[::-1] if back else found


def rows_still(masks: Iterable[Any], T: int, B: int, back: int) -> Any:
    """(T, B): which rows stand still at which step, in the order of memory; (0, B) if none does."""
    rows = list(islice(masks, T))
    if {*map(type, rows)} == {type(None)}:
        return np.empty((0, B), bool)
    none = np.zeros(B, bool)
    still = np.stack([none if row is None else row for row in rows])
    return np.ascontiguousarray(still[::-1]) if back else still


def spans(T: int, chunk: int, back: int) -> Iterator[tuple[int, int]]:
    """Rows lo:hi of memory, some steps at once, the last first."""
    for lo in range(0, T, chunk) if back else reversed(range(0, T, chunk)):
        yield lo, min(lo + chunk, T)


def add_product(g: Any, left: Any, right: Any) -> None:
    """g += left^T right, without a copy of g: BLAS, which thinks in columns, sees g^T = right^T left."""
    _gemm(g.dtype.char)(1, right.T, left.T, 1, g.T, trans_b=1, overwrite_c=1)


@cache
def _gemm(kind: str) -> Any:
    from scipy.linalg import blas

    return {"f": blas.sgemm, "d": blas.dgemm}[kind]


def sum_of_rows(rows: Any) -> Any:
    """The sum over all rows, as a product."""
    return np.ones(len(rows), rows.dtype).dot(rows)


def environment(texts: list[str]) -> dict[str, Any]:
    """What the functions that call the loops refer to; the loops themselves are compiled, or found on disk."""
    from .numba_cache import load
    from .numba_products import pack

    names: dict[str, Any] = {name: getattr(np, name) for name in ("empty", "zeros", "concatenate", "ravel")}
    names |= {
        f.__name__: f for f in (runs_back, in_memory, plain, room_for, put_back, rows_still, spans, add_product, sum_of_rows, pack)
    }
    for text, name in zip(texts, ("forward_loop", "backward_loop"), strict=True):
        names[name] = getattr(load(text), name)
    return names
