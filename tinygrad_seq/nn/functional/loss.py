"""Losses: how far predictions are from what came."""

from __future__ import annotations

from typing import Any

from ...errors import ArgumentError, ShapeError, message
from ...graph import raw
from ...ops import expand_dims, logsumexp, one_hot, take_along_axis
from ...primitives import defvjp, primitive
from .linear import indices, single
from .softmax import softmax


@primitive(expects="logits (..., C), targets (...)")
def _surprisal(o: Any, /, targets: Any) -> Any:
    """-log p(target): what each target costs, in nats."""
    return logsumexp(o, axis=-1) - take_along_axis(o, targets[..., None], axis=-1)[..., 0]


defvjp(_surprisal, lambda g, y, o, targets: expand_dims(g, -1) * (softmax(o) - one_hot(targets, o.shape[-1]).astype(o.dtype)))


def cross_entropy(logits: Any, targets: Any, reduction: str = "mean") -> Any:
    """The surprise of a classifier at the true classes, in nats (divide by log 2 for bits).

        L = -log softmax(o)_y = log(sum_j e^(o_j)) - o_y          o: logits, y: target

    Its gradient is the prediction minus the truth:

        dL/do_i = e^(o_i) / sum_j e^(o_j) - 1[i = y] = softmax(o)_i - 1[i = y]

    logits (..., C), targets (...) class indices -> a scalar for "mean" and "sum", (...) for reduction="none". Classes are the last axis,
    whatever stands before it (time, batch); PyTorch has them second: move them with swapaxes(logits, 1, -1).
    """
    shape = raw(single("cross_entropy", logits)).shape
    if not shape:
        raise ShapeError(message("cross_entropy: the logits are a scalar", expected="logits (..., C), one score per class"))
    targets = indices("cross_entropy: targets", raw(targets), shape[-1], raw(logits))
    if targets.shape != shape[:-1]:
        second = len(shape) > 2 and targets.shape == (shape[0], *shape[2:])
        raise ShapeError(
            message(
                f"cross_entropy: targets {targets.shape} do not fit logits {shape}",
                expected=f"targets {shape[:-1]}: a class index for each row of logits",
                do="move the class axis last: swapaxes(logits, 1, -1)" if second else "",
            )
        )
    if reduction not in ("mean", "sum", "none"):
        raise ArgumentError(message(f"cross_entropy: reduction {reduction!r} is not known", expected="'mean', 'sum' or 'none'"))
    losses = _surprisal(logits, targets=targets.copy())  # a copy: the caller may refill the batch before backward
    return losses if reduction == "none" else losses.mean() if reduction == "mean" else losses.sum()
