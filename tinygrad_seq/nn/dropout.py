"""Dropout layers: noise while training, nothing in evaluation. The formulas are in `nn.functional.dropout`.

The numbers come from `rng`: a generator, a seed, or None for the default one.
"""

from __future__ import annotations

from typing import Any

from ..random import Rng, generator
from . import functional as F
from .functional.dropout import check_probability
from .module import Module


class _Dropout(Module):
    """What the dropout layers share: a probability, and where their random numbers come from."""

    def __init__(self, p: float = 0.5, *, rng: Rng = None):
        check_probability(type(self).__name__, p)
        self.p = p
        self.rng = None if rng is None else generator(rng)

    def extra_repr(self) -> str:
        """The probability."""
        return str(self.p)


class Dropout(_Dropout):
    """Dropout (Srivastava et al. 2014): while training each element is zeroed with probability p, the others grow by 1/(1 - p)."""

    def forward(self, x: Any) -> Any:
        """x of any shape -> the same."""
        return F.dropout(x, self.p, self.training, rng=self.rng)


class VariationalDropout(_Dropout):
    """Dropout with one mask for all time steps of a sequence (Gal & Ghahramani 2016), drawn anew at each call."""

    def __init__(self, p: float = 0.5, batch_first: bool = False, *, rng: Rng = None):
        super().__init__(p, rng=rng)
        self.batch_first = batch_first

    def forward(self, xs: Any) -> Any:
        """xs (T, B, H), or (B, T, H) with batch_first -> the same."""
        return F.variational_dropout(xs, self.p, self.training, batch_first=self.batch_first, rng=self.rng)

    def extra_repr(self) -> str:
        """The probability, and the layout where it is not the usual one."""
        return f"{self.p}{', batch_first=True' if self.batch_first else ''}"


class Dropout1d(_Dropout):
    """Dropout of whole channels (Tompson et al. 2015)."""

    def forward(self, x: Any) -> Any:
        """x (B, C, L) or (C, L) -> the same."""
        return F.dropout1d(x, self.p, self.training, rng=self.rng)


class Dropout2d(_Dropout):
    """Dropout of whole channels (Tompson et al. 2015)."""

    def forward(self, x: Any) -> Any:
        """x (B, C, H, W) or (C, H, W) -> the same."""
        return F.dropout2d(x, self.p, self.training, rng=self.rng)
