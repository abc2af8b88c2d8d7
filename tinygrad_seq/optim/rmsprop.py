"""RMSprop (Hinton, Tieleman 2012), centered (Graves 2013) and with momentum where asked."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from .optimizer import Optimizer, Params


class RMSprop(Optimizer):
    """Adagrad that forgets: the gradient over the root of a running mean of its squares.

    g <- g + weight_decay p
    s <- α s + (1 - α) g²
    m <- α m + (1 - α) g                                 centered; else m stays 0
    v <- momentum v + g / (sqrt(s - m²) + eps)
    p <- p - lr v
    """

    def __init__(
        self,
        params: Params,
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        centered: bool = False,
        *,
        maximize: bool = False,
    ):
        super().__init__(
            params,
            lr=lr,
            alpha=alpha,
            eps=eps,
            weight_decay=weight_decay,
            momentum=momentum,
            centered=centered,
            maximize=maximize,
        )

    def arrays(self, s: SimpleNamespace) -> dict[str, float]:
        """The mean s of squares; the mean m of gradients and the velocity v where asked."""
        return {"s": 0.0} | ({"m": 0.0} if s.centered else {}) | ({"v": 0.0} if s.momentum else {})

    def update(self, p: Any, g: Any, state: dict[str, Any], s: SimpleNamespace) -> None:
        g, change, squares = self.decayed(p, g, s.weight_decay), self.scratch(p), state["s"]
        np.multiply(g, g, out=change)
        change *= 1 - s.alpha
        squares *= s.alpha
        squares += change
        if s.centered:
            m = state["m"]
            m *= s.alpha
            m += np.multiply(g, 1 - s.alpha, out=change)
            np.multiply(m, m, out=change)
            np.subtract(squares, change, out=change)
            np.maximum(change, 0, out=change)  # a variance; rounding may leave it below
            np.sqrt(change, out=change)
        else:
            np.sqrt(squares, out=change)
        change += s.eps
        np.divide(g, change, out=change)
        if s.momentum:
            v = state["v"]
            v *= s.momentum
            v += change
            np.multiply(v, s.lr, out=change)
        else:
            change *= s.lr
        p -= change
