"""Layers that add to each vector of a sequence where it stands. The formula of the waves: `nn.functional.position`."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import backend
from ..errors import ShapeError, describe, message
from ..graph import raw
from ..ops import expand_dims
from ..random import Rng
from . import functional as F
from . import init
from .module import Module


class SinusoidalPositions(Module):
    """x_t + PE(t), waves of all lengths (Vaswani et al. 2017): nothing learned, no longest sequence."""

    def __init__(self, embedding_dim: int, batch_first: bool = False):
        init.check_sizes("SinusoidalPositions", embedding_dim=embedding_dim)
        self.embedding_dim, self.batch_first = embedding_dim, batch_first

    def forward(self, xs: Any, start: int = 0) -> Any:
        """xs (T, B, E), (T, E), or (B, T, E) with batch_first -> the same shape; `start`: the position of the first vector."""
        T = _steps("SinusoidalPositions", xs, self.embedding_dim, self.batch_first)
        waves = F.sinusoidal_positions(T, self.embedding_dim, start=start, dtype=np.dtype(xs.dtype))
        return xs + _beside(backend.to_device(waves, backend.device_of(raw(xs))), xs, self.batch_first)

    def extra_repr(self) -> str:
        """The sizes."""
        return f"{self.embedding_dim}{', batch_first=True' if self.batch_first else ''}"


class LearnedPositions(Module):
    """x_t + weight_t: a vector for each of max_len positions, learned (Gehring et al. 2017). weight starts normal(0, 0.02)."""

    def __init__(self, max_len: int, embedding_dim: int, batch_first: bool = False, *, rng: Rng = None, dtype: Any = "float32"):
        init.check_sizes("LearnedPositions", max_len=max_len, embedding_dim=embedding_dim)
        self.max_len, self.embedding_dim, self.batch_first = max_len, embedding_dim, batch_first
        self.weight = init.normal((max_len, embedding_dim), 0.02, rng=rng, dtype=dtype)

    def forward(self, xs: Any, start: int = 0) -> Any:
        """xs (T, B, E), (T, E), or (B, T, E) with batch_first -> the same shape; `start`: the position of the first vector."""
        T = _steps("LearnedPositions", xs, self.embedding_dim, self.batch_first)
        if not 0 <= start <= self.max_len - T:
            raise ShapeError(
                message(
                    f"LearnedPositions: there is no position {start + T - 1 if start >= 0 else start}",
                    expected=f"0 ... {self.max_len - 1}",
                    got=f"{T} positions from {start} on",
                )
            )
        return xs + _beside(self.weight[start : start + T], xs, self.batch_first)

    def extra_repr(self) -> str:
        """The sizes."""
        return f"{self.max_len}, {self.embedding_dim}{', batch_first=True' if self.batch_first else ''}"


def _steps(who: str, xs: Any, E: int, batch_first: bool) -> int:
    shape = tuple(getattr(xs, "shape", ()))
    if len(shape) not in (2, 3) or shape[-1] != E:
        expected = f"xs ({'B, T' if batch_first else 'T, B'}, {E}), or (T, {E})"
        raise ShapeError(message(f"{who}: got {describe(raw(xs))}", expected=expected))
    return int(shape[1 if batch_first and len(shape) == 3 else 0])


def _beside(positions: Any, xs: Any, batch_first: bool) -> Any:
    """Positions (T, E) so that they broadcast over the batch of xs."""
    return positions if len(xs.shape) == 2 or batch_first else expand_dims(positions, 1)
