"""How compiled loops are compiled: `pointwise` for loops over elements, `loop` for the time loop that calls them. Needs numba.

LLVM vectorises a loop only if it knows that what it writes is not what it reads next. The arrays that a `pointwise` function is given
never overlap: it may not read and write parts of one array, but may write several parts of one, or read several. Numba has no option
for that promise, so the compiler is given it here.
"""

from __future__ import annotations

from typing import Any

from numba import njit
from numba.core.compiler import Compiler

from .numba_math import FASTMATH

OPTIONS = {"fastmath": FASTMATH, "error_model": "numpy", "boundscheck": False}


class Apart(Compiler):  # type: ignore[misc]
    """Numba's compiler, told that no two array arguments share memory."""

    def __init__(self, typingctx: Any, targetctx: Any, library: Any, args: Any, return_type: Any, flags: Any, locals: Any):
        flags.noalias = True
        super().__init__(typingctx, targetctx, library, args, return_type, flags, locals)


def pointwise(function: Any) -> Any:
    """Compile a loop over elements, all of whose arrays lie apart."""
    return njit(**OPTIONS, pipeline_class=Apart)(function)


def loop(signature: str) -> Any:
    """Compile a loop over steps at once, for arguments of these types, and keep it on disk."""
    return njit(signature, **OPTIONS, cache=True, nogil=True)


# ---- What compiled loops call -----------------------------------------------------------------------------------------------------------


@njit(**{**OPTIONS, "fastmath": {*FASTMATH, "reassoc"}})
def total(a: Any, row: Any, first: Any, count: Any) -> Any:
    """The sum of some columns of a row, in any order."""
    sum_ = a[row, first]
    for k in range(1, count):
        sum_ += a[row, first + k]
    return sum_


@njit(**OPTIONS)
def largest(a: Any, row: Any, first: Any, count: Any) -> Any:
    """The largest of some columns of a row; NaN if one is."""
    top = a[row, first]
    for k in range(1, count):
        x = a[row, first + k]
        top = x if (x > top) | (x != x) else top
    return top


@njit(**OPTIONS)
def smallest(a: Any, row: Any, first: Any, count: Any) -> Any:
    """The smallest of some columns of a row; NaN if one is."""
    bottom = a[row, first]
    for k in range(1, count):
        x = a[row, first + k]
        bottom = x if (x < bottom) | (x != x) else bottom
    return bottom


@njit(**OPTIONS, cache=True)
def clear(a: Any) -> None:
    """Fill with zeros."""
    for b in range(a.shape[0]):
        for k in range(a.shape[1]):
            a[b, k] = 0


@njit(**OPTIONS, cache=True)
def hold(still: Any, old: Any, new: Any) -> None:
    """The rows that stand still stay as they were."""
    for b in range(len(still)):
        if still[b]:
            for k in range(new.shape[1]):
                new[b, k] = old[b, k]


@njit(**OPTIONS, cache=True)
def park(still: Any, d: Any, parked: Any) -> None:
    """Put the rows that stand still aside: what arrives there goes round the step."""
    for b in range(len(still)):
        if still[b]:
            for k in range(d.shape[1]):
                parked[b, k] += d[b, k]
                d[b, k] = 0


@njit(**OPTIONS, cache=True)
def put(a: Any, out: Any) -> None:
    """out = a."""
    for b in range(a.shape[0]):
        for k in range(a.shape[1]):
            out[b, k] = a[b, k]


@njit(**OPTIONS, cache=True)
def release(still: Any, parked: Any, d: Any) -> None:
    """What was put aside arrives before the step."""
    for b in range(len(still)):
        if still[b]:
            for k in range(d.shape[1]):
                d[b, k] = parked[b, k]
                parked[b, k] = 0
