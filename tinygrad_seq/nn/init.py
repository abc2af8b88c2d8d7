"""How parameters start. PyTorch's distributions, so that results compare.

Numbers are drawn on the host from `rng` (a generator, a seed, or None for the default that `tg.seed` sets), in the order in which
a module makes its parameters.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import ArgumentError, message
from ..random import Rng, generator
from .module import Parameter


def check_sizes(who: str, **sizes: int) -> None:
    """Raise unless every size, named as its argument is, is a positive integer."""
    for name, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, (int, np.integer)) or size < 1:
            raise ArgumentError(message(f"{who}: {name} = {size!r}", expected="a positive integer"))


def uniform(shape: tuple[int, ...], bound: float, *, rng: Rng = None, dtype: Any = np.float32) -> Parameter:
    """A parameter drawn uniformly from [-bound, bound)."""
    return Parameter(generator(rng).uniform(-bound, bound, shape), dtype)


def normal(shape: tuple[int, ...], std: float = 1.0, *, rng: Rng = None, dtype: Any = np.float32) -> Parameter:
    """A parameter drawn from a normal distribution with mean 0."""
    return Parameter(generator(rng).normal(0.0, std, shape), dtype)
