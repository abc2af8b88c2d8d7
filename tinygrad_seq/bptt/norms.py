"""The size of a gradient, however small or large it is."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .. import backend


def norm_of(x: Any) -> float:
    """The Euclidean norm of all numbers of an array, also where their squares would vanish or overflow."""
    a = backend.to_numpy(x).astype(np.float64, copy=False).ravel()
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        squares = float(a @ a)
        if 1e-290 < squares < math.inf:
            return math.sqrt(squares)
        largest = float(abs(a).max(initial=0.0))
        if largest == 0 or not math.isfinite(largest):
            return largest
        scaled = a / largest
        return largest * math.sqrt(float(scaled @ scaled))


def shares_of(total: Any) -> Any:
    """A function that tells the part of a term in a total, <term, total> / <total, total>; the parts of all terms add up to 1."""
    wide = backend.to_numpy(total).astype(np.float64)
    largest = float(abs(wide).max(initial=0.0))
    with np.errstate(all="ignore"):
        direction = wide / largest if largest else wide
        direction = direction / np.vdot(direction, direction) if largest else direction

    def share(term: Any) -> float:
        with np.errstate(all="ignore"):
            return float(np.vdot(term / largest, direction)) if largest else 0.0

    return share
