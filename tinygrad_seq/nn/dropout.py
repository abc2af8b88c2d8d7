"""Dropout layers: noise while training, nothing in evaluation."""

from __future__ import annotations

from typing import Any

from ..random import Rng, generator
from . import functional as F
from .functional.dropout import check_probability
from .module import Module


class Dropout(Module):
    """Dropout (Srivastava et al. 2014): while training each element is zeroed with probability p, the others grow by 1/(1 - p).

    The numbers come from `rng`: a generator, a seed, or None for the default one.
    """

    def __init__(self, p: float = 0.5, *, rng: Rng = None):
        check_probability(type(self).__name__, p)
        self.p = p
        self.rng = None if rng is None else generator(rng)

    def forward(self, x: Any) -> Any:
        """x of any shape -> the same."""
        return F.dropout(x, self.p, self.training, rng=self.rng)

    def extra_repr(self) -> str:
        """The probability."""
        return str(self.p)
