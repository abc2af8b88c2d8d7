"""What the emitted loops call besides NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np


def each_of(stack: Any) -> list[Any]:
    """The single numbers of a stack (T,), as arrays that can be written to."""
    return [stack[t, ...] for t in range(len(stack))]


def transposed(w: Any) -> Any:
    """w.T (K, M) in memory of its own, some rows of w at a time: as a whole, every number would be fetched from another line of memory."""
    out = np.empty(w.shape[::-1], w.dtype)
    for i in range(0, len(w), 64):
        out[:, i : i + 64] = w[i : i + 64].T
    return out


def put_rows(a: Any, b: Any, out: Any, *, add: bool) -> None:
    """out (t, B, D) = the rows of a @ b, or += them."""
    if out.flags.c_contiguous and not add:
        np.matmul(a, b, out=out.reshape(-1, out.shape[-1]))
    elif add:
        out += (a @ b).reshape(out.shape)
    else:
        out[...] = (a @ b).reshape(out.shape)
