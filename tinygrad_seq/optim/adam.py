"""Adam (Kingma, Ba 2015), AMSGrad (Reddi, Kale, Kumar 2018) and AdamW (Loshchilov, Hutter 2019)."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np

from .optimizer import Optimizer, Params


class Adam(Optimizer):
    """RMSprop with momentum: steps of about lr in every coordinate, the mean of its gradients over their root mean square.

        g <- g + weight_decay p
        m <- β1 m + (1 - β1) g
        v <- β2 v + (1 - β2) g²
        p <- p - lr m / (1 - β1^t) / (sqrt(v / (1 - β2^t)) + eps)          t: the number of this step

    The denominators 1 - β^t make up for averages that began at zero. amsgrad: the greatest v so far in place of v.
    """

    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
    ):
        super().__init__(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, amsgrad=amsgrad, maximize=maximize)

    def arrays(self, s: SimpleNamespace) -> dict[str, float]:
        """The means m and v, and the greatest v where asked."""
        return {"m": 0.0, "v": 0.0} | ({"v_max": 0.0} if s.amsgrad else {})

    def update(self, p: Any, g: Any, state: dict[str, Any], s: SimpleNamespace) -> None:
        (beta1, beta2), t, m, v = s.betas, state["steps"], state["m"], state["v"]
        g, change = self.decayed(p, g, s.weight_decay), self.scratch(p)

        m *= beta1
        m += np.multiply(g, 1 - beta1, out=change)

        np.multiply(g, g, out=change)
        change *= 1 - beta2
        v *= beta2
        v += change

        np.sqrt(np.maximum(state["v_max"], v, out=state["v_max"]) if s.amsgrad else v, out=change)
        change /= math.sqrt(1 - beta2**t)
        change += s.eps
        np.divide(m, change, out=change)
        change *= s.lr / (1 - beta1**t)
        p -= change


class AdamW(Adam):
    """Adam whose weight decay does not pass through the averages: all weights shrink at the same rate.

    p <- (1 - lr weight_decay) p, then a step of Adam without weight decay
    """

    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
    ):
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad, maximize=maximize)

    def decayed(self, p: Any, g: Any, weight_decay: float) -> Any:
        """The gradient alone: the weights are decayed by themselves."""
        return g

    def update(self, p: Any, g: Any, state: dict[str, Any], s: SimpleNamespace) -> None:
        p *= 1 - s.lr * s.weight_decay
        super().update(p, g, state, s)
