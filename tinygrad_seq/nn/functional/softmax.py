"""Softmax: scores become a distribution."""

from __future__ import annotations

from typing import Any

from ...ops import exp, logsumexp


def log_softmax(x: Any, axis: int = -1) -> Any:
    """The logarithm of the softmax along `axis`, exact for scores of any size.

        log p_i = x_i - log sum_j e^(x_j)

    x (...) -> (...).
    """
    return x - logsumexp(x, axis=axis, keepdims=True)


def softmax(x: Any, axis: int = -1) -> Any:
    """The distribution p_i = e^(x_i) / sum_j e^(x_j) along `axis`: positive, and it sums to 1."""
    return exp(log_softmax(x, axis=axis))
