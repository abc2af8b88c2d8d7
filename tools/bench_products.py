"""Suite `products`: the matrix products of suite `eager` alone, in NumPy and in PyTorch. They are the floor under its times.

Forward x_t W and h U at every step; backward dz U^T at every step, and x^T dz and h^T dz for the weights, a thousand rows at a time, the
cheapest form that an eager framework has. None of the rest. Where NumPy's take the share s of PyTorch's whole eager step, a framework
that multiplies with the same kernels stays above the ratio s.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
from bench import Case
from bench_eager import SIZES, STEPS

TITLE = f"products: the matrix products alone of the LSTM of suite eager, forward + backward, T={STEPS}, float32"


def products(B: int, D: int, H: int, wrap: Callable[[Any], Any]) -> Callable[[], list[Any]]:
    """The products of all steps on constant data; returned are the last of each."""
    rng = np.random.default_rng(0)
    chunk = min(STEPS, max(1, 1024 // B))  # how many steps' rows make one product for the weights
    shapes = ((B, D), (B, H), (D, 4 * H), (H, 4 * H), (B, 4 * H), (chunk * B, D), (chunk * B, H), (chunk * B, 4 * H))
    x, h, w, u, dz, xs, hs, dzs = (wrap(0.1 * rng.standard_normal(shape, np.float32)) for shape in shapes)

    def call() -> list[Any]:
        for _ in range(STEPS):
            forward, backward = [x @ w, h @ u], dz @ u.T
        for start in range(0, STEPS, chunk):
            rows = min(chunk, STEPS - start) * B
            weights = [xs[:rows].T @ dzs[:rows], hs[:rows].T @ dzs[:rows]]
        return [np.asarray(y) for y in (*forward, backward, *weights)]

    return call


def cases() -> Iterator[Case]:
    """One case per size."""
    for B, D, H in SIZES:
        frameworks = {"NumPy": partial(products, B, D, H, np.asarray)}
        missing = {}
        try:
            import torch

            frameworks["PyTorch"] = partial(products, B, D, H, torch.from_numpy)
        except ImportError as why:
            missing["PyTorch"] = str(why)
        yield Case(f"B={B} D={D} H={H}", frameworks, missing, tolerance=1e-4)
