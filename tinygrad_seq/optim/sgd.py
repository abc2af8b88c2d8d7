"""Stochastic gradient descent, plain and with momentum."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np

from ..errors import ArgumentError, message
from .optimizer import Optimizer, Params


class SGD(Optimizer):
    """Gradient descent, with momentum (Polyak 1964) or Nesterov's (Sutskever et al. 2013) where asked.

        g <- g + weight_decay p
        v <- momentum v + (1 - dampening) g          the first v is g
        p <- p - lr v                                nesterov: p <- p - lr (g + momentum v)

    The simplest: it carries along the velocity v, or nothing.
    """

    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
    ):
        super().__init__(
            params,
            lr=lr,
            momentum=momentum,
            dampening=dampening,
            weight_decay=weight_decay,
            nesterov=nesterov,
            maximize=maximize,
        )

    def check(self, group: Mapping[str, Any]) -> None:
        """Within the limits, and Nesterov's momentum only with a momentum, undampened."""
        super().check(group)
        if group["nesterov"] and not group["momentum"]:
            raise ArgumentError(message("SGD: nesterov=True without momentum", do="give a momentum, for example 0.9"))
        if group["nesterov"] and group["dampening"]:
            raise ArgumentError(message("SGD: nesterov=True with dampening", expected="dampening=0"))

    def arrays(self, s: SimpleNamespace) -> dict[str, float]:
        """The velocity v, where there is momentum."""
        return {"v": 0.0} if s.momentum else {}

    def update(self, p: Any, g: Any, state: dict[str, Any], s: SimpleNamespace) -> None:
        g, change = self.decayed(p, g, s.weight_decay), self.scratch(p)
        if s.momentum:
            v = state["v"]
            v *= s.momentum
            v += np.multiply(g, 1 - s.dampening, out=change) if s.dampening and "moving" in state else g
            state["moving"] = True
            if s.nesterov:
                np.multiply(v, s.momentum, out=change)
                change += g
                g = change
            else:
                g = v
        p -= np.multiply(g, s.lr, out=change)
