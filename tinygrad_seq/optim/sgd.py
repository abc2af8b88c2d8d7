"""Stochastic gradient descent, plain and with momentum."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from ..errors import ArgumentError, message
from ..tensor import Tensor
from .optimizer import Optimizer, check_settings


class SGD(Optimizer):
    """Gradient descent, with momentum (Polyak 1964) or Nesterov's where asked.

        g <- g + weight_decay p
        v <- momentum v + g
        p <- p - lr v                       nesterov: p <- p - lr (g + momentum v)

    lr, momentum and weight_decay are attributes: change them when you like.
    """

    options = ("lr", "momentum", "weight_decay", "nesterov")

    def __init__(
        self,
        parameters: Iterable[Tensor],
        lr: float = 1e-3,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
    ):
        check_settings("SGD", lr=(lr, 0, math.inf), momentum=(momentum, 0, math.inf), weight_decay=(weight_decay, 0, math.inf))
        if nesterov and not momentum:
            raise ArgumentError(message("SGD: nesterov=True without momentum", do="give a momentum, for example 0.9"))
        super().__init__(parameters)
        self.lr, self.momentum, self.weight_decay, self.nesterov = lr, momentum, weight_decay, nesterov
        self.slots = ("v",) if momentum else ()

    def update(self, p: Any, g: Any, state: dict[str, Any]) -> None:
        """One step of the equations above."""
        change = self.scratch(p)
        np.multiply(p, self.weight_decay, out=change)
        change += g
        if self.momentum:
            v = state["v"]
            v *= self.momentum
            v += change
            if self.nesterov:
                change += self.momentum * v
            else:
                change[...] = v
        change *= self.lr
        p -= change
