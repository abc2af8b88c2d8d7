"""Random numbers: one default generator that `seed` sets, and `rng=` everywhere to use another.

Numbers are always drawn on the host by NumPy, so a run gives the same numbers on every device.
"""

from __future__ import annotations

import numpy as np

from .errors import ArgumentError, message

_default = np.random.default_rng()


def seed(value: int) -> None:
    """Start the default generator anew, so that everything drawn from it repeats."""
    global _default
    _default = np.random.default_rng(value)


def generator(rng: np.random.Generator | int | None = None) -> np.random.Generator:
    """The generator to draw from: `rng` itself, a new one seeded with an int, or the default one."""
    if rng is None:
        return _default
    if isinstance(rng, np.random.Generator):
        return rng
    if isinstance(rng, (int, np.integer)) and not isinstance(rng, bool):
        return np.random.default_rng(int(rng))
    raise ArgumentError(message(f"rng: {rng!r} is no generator", expected="a numpy.random.Generator, an int seed, or None"))
