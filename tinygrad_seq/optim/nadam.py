"""NAdam (Dozat 2016): Adam with Nesterov's momentum."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np

from .optimizer import Optimizer, Params


class NAdam(Optimizer):
    """Adam that looks ahead: the step uses the momentum of the next step, which grows towards β1.

    g <- g + weight_decay p                                       decoupled_weight_decay: p <- (1 - lr weight_decay) p
    μ_t = β1 (1 - 0.96^(t momentum_decay) / 2)                    t: the number of this step
    m <- β1 m + (1 - β1) g
    v <- β2 v + (1 - β2) g²
    n = μ_(t+1) m / (1 - μ_1 ... μ_(t+1)) + (1 - μ_t) g / (1 - μ_1 ... μ_t)
    p <- p - lr n / (sqrt(v / (1 - β2^t)) + eps)
    """

    def __init__(
        self,
        params: Params,
        lr: float = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum_decay: float = 4e-3,
        decoupled_weight_decay: bool = False,
        *,
        maximize: bool = False,
    ):
        super().__init__(
            params,
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            momentum_decay=momentum_decay,
            decoupled_weight_decay=decoupled_weight_decay,
            maximize=maximize,
        )

    def arrays(self, s: SimpleNamespace) -> dict[str, float]:
        """The means m and v."""
        return {"m": 0.0, "v": 0.0}

    def update(self, p: Any, g: Any, state: dict[str, Any], s: SimpleNamespace) -> None:
        (beta1, beta2), t, m, v = s.betas, state["steps"], state["m"], state["v"]
        mu, mu_next = (beta1 * (1 - 0.5 * 0.96 ** (step * s.momentum_decay)) for step in (t, t + 1))
        product = state["mu_product"] = state.get("mu_product", 1.0) * mu
        if s.decoupled_weight_decay:
            p *= 1 - s.lr * s.weight_decay
        else:
            g = self.decayed(p, g, s.weight_decay)
        change, root = self.scratch(p), self.scratch(p, "root")

        m *= beta1
        m += np.multiply(g, 1 - beta1, out=change)

        np.multiply(g, g, out=change)
        change *= 1 - beta2
        v *= beta2
        v += change

        np.sqrt(v, out=root)
        root /= math.sqrt(1 - beta2**t)
        root += s.eps
        for mean, weight in ((m, mu_next / (1 - product * mu_next)), (g, (1 - mu) / (1 - product))):
            np.divide(mean, root, out=change)
            change *= s.lr * weight
            p -= change
