"""Adagrad (Duchi, Hazan, Singer 2011)."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from .optimizer import Optimizer, Params


class Adagrad(Optimizer):
    """Each coordinate has its own rate, which falls with the sum of its squared gradients: rare features learn fast, and for long.

    g <- g + weight_decay p
    s <- s + g²                                          the first s is initial_accumulator_value
    p <- p - lr / (1 + (t - 1) lr_decay) g / (sqrt(s) + eps)          t: the number of this step
    """

    def __init__(
        self,
        params: Params,
        lr: float = 1e-2,
        lr_decay: float = 0.0,
        weight_decay: float = 0.0,
        initial_accumulator_value: float = 0.0,
        eps: float = 1e-10,
        *,
        maximize: bool = False,
    ):
        super().__init__(
            params,
            lr=lr,
            lr_decay=lr_decay,
            weight_decay=weight_decay,
            initial_accumulator_value=initial_accumulator_value,
            eps=eps,
            maximize=maximize,
        )

    def arrays(self, s: SimpleNamespace) -> dict[str, float]:
        """The sum s of squares."""
        return {"s": s.initial_accumulator_value}

    def update(self, p: Any, g: Any, state: dict[str, Any], s: SimpleNamespace) -> None:
        g, change = self.decayed(p, g, s.weight_decay), self.scratch(p)
        squares = state["s"]
        squares += np.multiply(g, g, out=change)
        np.sqrt(squares, out=change)
        change += s.eps
        np.divide(g, change, out=change)
        change *= s.lr / (1 + (state["steps"] - 1) * s.lr_decay)
        p -= change
