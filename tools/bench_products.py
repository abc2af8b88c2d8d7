"""Suite `products`: the matrix products of suite `eager` alone, in NumPy and in PyTorch. They are the floor under its times.

Forward x_t W and h U; backward dz U^T for the state, and x_t^T dz and h^T dz for the weights: the five products of a step, and none of
the rest. Where NumPy's take longer than a share s of PyTorch's whole eager step, no framework on NumPy can reach the ratio s.
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
    """The products of all steps on constant data; returned are those of the last step."""
    rng = np.random.default_rng(0)
    shapes = ((B, D), (B, H), (D, 4 * H), (H, 4 * H), (B, 4 * H))
    x, h, w, u, dz = (wrap(0.1 * rng.standard_normal(shape, np.float32)) for shape in shapes)

    def call() -> list[Any]:
        for _ in range(STEPS):
            out = [x @ w, h @ u, dz @ u.T, x.T @ dz, h.T @ dz]
        return [np.asarray(y) for y in out]

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
