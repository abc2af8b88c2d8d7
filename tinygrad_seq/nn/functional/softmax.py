"""Softmax: scores become a distribution.

A score of -inf gets probability 0. A row of nothing else has no distribution: NaN, as in PyTorch.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...ops import exp, sum
from ...primitives import defvjp, primitive


@primitive(expects="scores that have the axis")
def softmax(x: Any, axis: int = -1) -> Any:
    """The distribution of the scores along `axis`: positive, and it sums to 1.

        p_i = e^(x_i) / sum_j e^(x_j)

    x (...) -> (...).
    """
    with np.errstate(invalid="ignore"):
        p = np.exp(_below_the_largest(x, axis))  # e^x alone would overflow
        p /= p.sum(axis=axis, keepdims=True)
    return p


defvjp(softmax, lambda g, y, x, axis=-1: y * (g - sum(g * y, axis=axis, keepdims=True)))


@primitive(expects="scores that have the axis")
def log_softmax(x: Any, axis: int = -1) -> Any:
    """The logarithm of the softmax along `axis`, exact for scores of any size.

        log p_i = x_i - log sum_j e^(x_j)

    x (...) -> (...).
    """
    with np.errstate(invalid="ignore"):
        x = _below_the_largest(x, axis)
        return x - np.log(np.exp(x).sum(axis=axis, keepdims=True))


defvjp(log_softmax, lambda g, y, x, axis=-1: g - exp(y) * sum(g, axis=axis, keepdims=True))


def _below_the_largest(x: Any, axis: int) -> Any:
    return x - np.max(x, axis=axis, keepdims=True)
