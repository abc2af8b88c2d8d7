"""What the emitted loops call besides NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np

SMALL = 10**6  # M x N x K of a product that OpenBLAS multiplies without copying its matrices first
FEWEST = 16  # rows of a block


def in_blocks(w: Any, B: int) -> Any:
    """The rows of w (M, K) as (n, M / n, K), so that a block times (K, B) is a small product: OpenBLAS copies w first in all others."""
    (M, K), n = w.shape, 1
    while M // n * K * B > SMALL and M % (2 * n) == 0:
        n *= 2
    return w.reshape(n, M // n, K) if M // n >= FEWEST else w[None]


def each_of(stack: Any) -> list[Any]:
    """The single numbers of a stack (T,), as arrays that can be written to."""
    return [stack[t, ...] for t in range(len(stack))]


def put_rows(a: Any, b: Any, out: Any, *, add: bool) -> None:
    """out (t, B, D) = the rows of a @ b, or += them."""
    if out.flags.c_contiguous and not add:
        np.matmul(a, b, out=out.reshape(-1, out.shape[-1]))
    elif add:
        out += (a @ b).reshape(out.shape)
    else:
        out[...] = (a @ b).reshape(out.shape)
