"""Adam (Kingma and Ba 2015)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from ..tensor import Tensor
from .optimizer import Optimizer, check_settings


class Adam(Optimizer):
    """Steps of about lr in every coordinate: the mean of its gradients over their root mean square.

        g <- g + weight_decay p
        m <- β1 m + (1 - β1) g
        v <- β2 v + (1 - β2) g²
        p <- p - lr m / (1 - β1^t) / (sqrt(v / (1 - β2^t)) + eps)          t: the number of this step

    The denominators 1 - β^t make up for averages that began at zero.
    """

    options = ("lr", "betas", "eps", "weight_decay")
    slots = ("m", "v")

    def __init__(
        self,
        parameters: Iterable[Tensor],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ):
        check_settings("Adam", lr=(lr, 0, math.inf), eps=(eps, 0, math.inf), weight_decay=(weight_decay, 0, math.inf))
        check_settings("Adam", beta1=(betas[0], 0, 1), beta2=(betas[1], 0, 1))
        super().__init__(parameters)
        self.lr, self.betas, self.eps, self.weight_decay = lr, betas, eps, weight_decay

    def update(self, p: Any, g: Any, state: dict[str, Any]) -> None:
        """One step of the equations above."""
        (beta1, beta2), t, m, v = self.betas, state["steps"], state["m"], state["v"]
        if self.weight_decay:
            decayed = np.multiply(p, self.weight_decay, out=self.scratch(p, 1))
            decayed += g
            g = decayed
        change = self.scratch(p)

        m *= beta1
        m += np.multiply(g, 1 - beta1, out=change)

        np.multiply(g, g, out=change)
        change *= 1 - beta2
        v *= beta2
        v += change

        np.sqrt(v, out=change)
        change /= math.sqrt(1 - beta2**t)
        change += self.eps
        np.divide(m, change, out=change)
        change *= self.lr / (1 - beta1**t)
        p -= change
