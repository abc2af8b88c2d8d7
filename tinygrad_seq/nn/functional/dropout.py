"""Dropout: noise that keeps units from relying on one another. What is random is drawn outside the op and is its argument."""

from __future__ import annotations

from typing import Any

import numpy as np

from ... import backend
from ...errors import ArgumentError, message
from ...graph import raw
from ...ops.broadcast import elementwise
from ...primitives import defvjp
from ...random import Rng, generator
from .linear import single


@elementwise
def _dropout(x: Any, mask: Any) -> Any:
    """x times a mask that was drawn before."""
    return np.multiply(x, mask)


defvjp(_dropout, lambda g, y, x, mask: g * mask, None)


def dropout(x: Any, p: float = 0.5, training: bool = True, *, rng: Rng = None) -> Any:
    """Dropout (Srivastava et al. 2014): each element is zeroed with probability p, the others grow by 1/(1 - p).

        y = x ⊙ m / (1 - p)          m: independent, 1 with probability 1 - p

    So the expectation of y is x, and nothing happens with training=False. x of any shape -> the same.
    """
    check_probability("dropout", p)
    return _dropout(x, _mask(raw(single("dropout", x)), raw(x).shape, p, rng)) if training and p > 0 else x


def check_probability(who: str, p: float) -> None:
    """Raise unless p is a probability."""
    if not isinstance(p, (int, float)) or isinstance(p, bool) or not 0 <= p <= 1:
        raise ArgumentError(message(f"{who}: p = {p!r}", expected="a probability, 0 <= p <= 1"))


def _mask(like: Any, shape: tuple[int, ...], p: float, rng: Rng) -> Any:
    """A mask of that shape, of the dtype and device of the array `like`: 0 with probability p, else 1/(1 - p)."""
    dtype = getattr(like, "dtype", np.dtype("float64"))
    kept = generator(rng).random(shape, dtype=np.float32) >= p
    mask = np.multiply(kept, 1 / (1 - p) if p < 1 else 0, dtype=dtype)
    mask.flags.writeable = False  # so the tape keeps it without a copy
    return backend.to_device(mask, backend.device_of(like))
