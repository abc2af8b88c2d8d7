"""Losses of answers, yes or no, in nats: how surprised is the prediction by what came?

Targets may be probabilities themselves, and differentiated.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...errors import ArgumentError, message
from ...graph import raw
from ...ops import equal, log, maximum, where
from ...ops.broadcast import elementwise
from ...primitives import defvjp
from .activation import logsigmoid
from .reduction import constant, floats, known_reduction, reduced, targets_like

EPS = 9.999999960041972e-13  # PyTorch's, 1e-12 as a float32 number


@elementwise
def _binary_surprise(p: Any, t: Any, /) -> Any:
    with np.errstate(divide="ignore"):
        return (t - 1) * np.maximum(np.log1p(-p), -100) - t * np.maximum(np.log(p), -100)


# The slope at p = 0 and 1, where the loss is cut at 100, is PyTorch's: large and finite.
defvjp(
    _binary_surprise,
    lambda g, y, p, t: g * (p - t) / maximum(p * (1 - p), EPS),
    lambda g, y, p, t: g * (_log_or_100(1 - p) - _log_or_100(p)),
)


def _log_or_100(p: Any) -> Any:
    """log p, not below -100."""
    return where(equal(p, 0), -100, maximum(log(where(equal(p, 0), 1, p)), -100))


def binary_cross_entropy(p: Any, targets: Any, weight: Any = None, *, reduction: str = "mean") -> Any:
    """The surprise of a probability p of yes at the answer t, which is 1, 0, or a probability itself.

        L = -weight (t log p + (1 - t) log(1 - p))          each logarithm at least -100

    p, targets (...), weight broadcasts to them -> a scalar, or (...) for reduction="none". From scores it is
    `binary_cross_entropy_with_logits` that is exact.
    """
    known_reduction("binary_cross_entropy", reduction)
    p = floats("binary_cross_entropy", "p", p)
    values = raw(p)
    if isinstance(values, np.ndarray) and values.size and not (values.min() >= 0 and values.max() <= 1):
        raise ArgumentError(
            message(
                f"binary_cross_entropy: p lies in {values.min():g} ... {values.max():g}",
                expected="probabilities, 0 ... 1",
                do="binary_cross_entropy_with_logits for scores",
            )
        )
    losses = _binary_surprise(p, targets_like("binary_cross_entropy", p, targets))
    return reduced(losses if weight is None else losses * constant(weight, p), reduction)


def binary_cross_entropy_with_logits(
    logits: Any, targets: Any, weight: Any = None, *, reduction: str = "mean", pos_weight: Any = None
) -> Any:
    """The surprise of a score o, a probability σ(o) of yes, at the answer t; exact for scores of any size.

        L = -weight (pos_weight t log σ(o) + (1 - t) log σ(-o))          dL/do = σ(o) - t  without weights

    logits, targets (...), weight and pos_weight broadcast to them -> a scalar, or (...) for reduction="none". pos_weight: how often a
    yes counts.
    """
    known_reduction("binary_cross_entropy_with_logits", reduction)
    o = floats("binary_cross_entropy_with_logits", "the array of logits", logits)
    t = targets_like("binary_cross_entropy_with_logits", o, targets)
    yes = 1 if pos_weight is None else (constant(pos_weight, o) - 1) * t + 1
    losses = (1 - t) * o - yes * logsigmoid(o)  # log σ(-o) = log σ(o) - o
    return reduced(losses if weight is None else losses * constant(weight, o), reduction)


def multilabel_soft_margin_loss(logits: Any, targets: Any, weight: Any = None, *, reduction: str = "mean") -> Any:
    """`binary_cross_entropy_with_logits` of C questions, averaged: L = -1/C sum_c weight_c (t_c log σ(o_c) + (1 - t_c) log σ(-o_c)).

    logits, targets (..., C), weight (C,) -> a scalar, or (...) for reduction="none".
    """
    losses = binary_cross_entropy_with_logits(logits, targets, weight, reduction="none").mean(axis=-1)
    known_reduction("multilabel_soft_margin_loss", reduction)
    return reduced(losses, reduction)
