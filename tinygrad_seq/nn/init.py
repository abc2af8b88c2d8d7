"""How parameters start. PyTorch's distributions, so that results compare.

Numbers are drawn on the host from `rng` (a generator, a seed, or None for the default that `tg.seed` sets), in the order in which
a module makes its parameters.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..random import Rng, generator
from .module import Parameter


def uniform(shape: tuple[int, ...], bound: float, *, rng: Rng = None, dtype: Any = np.float32) -> Parameter:
    """A parameter drawn uniformly from [-bound, bound)."""
    return Parameter(generator(rng).uniform(-bound, bound, shape), dtype)


def normal(shape: tuple[int, ...], std: float = 1.0, *, rng: Rng = None, dtype: Any = np.float32) -> Parameter:
    """A parameter drawn from a normal distribution with mean 0."""
    return Parameter(generator(rng).normal(0.0, std, shape), dtype)
