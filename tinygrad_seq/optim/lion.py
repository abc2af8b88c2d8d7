"""Lion (Chen et al. 2023), an optimizer that was found by a search over programs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from .optimizer import Optimizer, Params


class Lion(Optimizer):
    """Steps of lr in every coordinate, up or down: the sign of a mean of gradients. One array per parameter, where Adam has two.

        c = β1 m + (1 - β1) g
        p <- p - lr (sign(c) + weight_decay p)
        m <- β2 m + (1 - β2) g

    The paper takes an lr three to ten times smaller than Adam's, and a weight decay as many times larger. PyTorch has no Lion.
    """

    def __init__(
        self,
        params: Params,
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
    ):
        super().__init__(params, lr=lr, betas=betas, weight_decay=weight_decay, maximize=maximize)

    def arrays(self, s: SimpleNamespace) -> dict[str, float]:
        """The mean m."""
        return {"m": 0.0}

    def update(self, p: Any, g: Any, state: dict[str, Any], s: SimpleNamespace) -> None:
        (beta1, beta2), m, change, part = s.betas, state["m"], self.scratch(p), self.scratch(p, "part")
        np.multiply(m, beta1, out=change)
        change += np.multiply(g, 1 - beta1, out=part)
        np.sign(change, out=change)
        change *= s.lr
        p *= 1 - s.lr * s.weight_decay
        p -= change
        m *= beta2
        m += np.multiply(g, 1 - beta2, out=part)
