"""Losses of comparisons: two things should be near or far, one score above another by a margin.

A loss averages over all comparisons (reduction="mean"), sums, or returns what each costs ("none").
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ... import backend
from ...errors import ArgumentError, ShapeError, describe, message
from ...graph import raw
from ...ops import clip, equal, expand_dims, linalg, maximum, minimum, not_equal, sqrt, square, sum, take_along_axis, where
from .activation import logsigmoid, relu
from .linear import indices
from .reduction import constant, floats, known_reduction, reduced, targets_like

# ---- Vectors -------------------------------------------------------------------------------------------------------------------------


def cosine_similarity(a: Any, b: Any, axis: int = 1, eps: float = 1e-8) -> Any:
    """The cosine of the angle between vectors: a·b / (max(|a|, eps) max(|b|, eps)).

    a, b broadcast against each other, the vectors lie along `axis` -> their shape without it. (PyTorch's default, axis=1, suits (B, D).)
    """
    a, b = floats("cosine_similarity", "a", a), floats("cosine_similarity", "b", b)
    return sum(_unit(a, axis, eps) * _unit(b, axis, eps), axis=axis)


def _unit(a: Any, axis: int, eps: float) -> Any:
    return a / maximum(linalg.norm(a, axis=axis, keepdims=True), eps)


def cosine_embedding_loss(a: Any, b: Any, targets: Any, margin: float = 0.0, *, reduction: str = "mean") -> Any:
    """Vectors of like things (t = 1) should point the same way, of unlike things (t = -1) at least apart as the margin says.

        L = 1 - cos(a, b)   for t = 1          max(0, cos(a, b) - margin)   for t = -1

    a, b (..., D), targets (...) -> a scalar, or (...) for reduction="none".
    """
    a, b = floats("cosine_embedding_loss", "a", a), floats("cosine_embedding_loss", "b", b)
    known_reduction("cosine_embedding_loss", reduction)
    eps = 1e-12  # PyTorch's
    cos = sum(a * b, axis=-1) / sqrt((sum(square(a), axis=-1) + eps) * (sum(square(b), axis=-1) + eps))
    t = _signs("cosine_embedding_loss", cos, targets)
    return reduced(where(equal(t, 1), 1 - cos, where(equal(t, -1), clip(cos - margin, 0), 0)), reduction)


def triplet_margin_loss(
    anchor: Any,
    positive: Any,
    negative: Any,
    margin: float = 1.0,
    p: float = 2.0,
    eps: float = 1e-6,
    swap: bool = False,
    *,
    reduction: str = "mean",
) -> Any:
    """An anchor should be nearer to what is like it than to what is not, by a margin (Schroff, Kalenichenko & Philbin 2015).

        L = max(0, d(anchor, positive) - d(anchor, negative) + margin)          d(a, b) = |a - b + eps|_p

    anchor, positive, negative (..., D) -> a scalar, or (...) for reduction="none". swap: the negative's distance is the smaller one of
    those to anchor and positive.
    """
    known_reduction("triplet_margin_loss", reduction)
    if not margin > 0:
        raise ArgumentError(message(f"triplet_margin_loss: margin = {margin}", expected="margin > 0"))
    a, b, c = (
        floats("triplet_margin_loss", name, x) for name, x in (("anchor", anchor), ("positive", positive), ("negative", negative))
    )
    near, far = linalg.norm(a - b + eps, p, axis=-1), linalg.norm(a - c + eps, p, axis=-1)
    if swap:
        far = minimum(far, linalg.norm(b - c + eps, p, axis=-1))
    return reduced(clip(near - far + margin, 0), reduction)


# ---- Margins -------------------------------------------------------------------------------------------------------------------------


def hinge_embedding_loss(x: Any, targets: Any, margin: float = 1.0, *, reduction: str = "mean") -> Any:
    """A distance x should be small for like things (t = 1), at least the margin for unlike ones (t = -1).

        L = x   for t = 1          max(0, margin - x)   for t = -1

    x, targets (...) -> a scalar, or (...) for reduction="none".
    """
    x = floats("hinge_embedding_loss", "x", x)
    known_reduction("hinge_embedding_loss", reduction)
    t = _signs("hinge_embedding_loss", x, targets)
    return reduced(where(not_equal(t, 1), clip(margin - x, 0), 0) + where(not_equal(t, -1), x, 0), reduction)


def margin_ranking_loss(a: Any, b: Any, targets: Any, margin: float = 0.0, *, reduction: str = "mean") -> Any:
    """Score a should be above b (t = 1), or below (t = -1), by a margin: max(0, margin - t (a - b)).

    a, b, targets (...) -> a scalar, or (...) for reduction="none".
    """
    a = floats("margin_ranking_loss", "a", a)
    b = targets_like("margin_ranking_loss", a, b)
    known_reduction("margin_ranking_loss", reduction)
    return reduced(clip(margin - _signs("margin_ranking_loss", a, targets) * (a - b), 0), reduction)


def soft_margin_loss(x: Any, targets: Any, *, reduction: str = "mean") -> Any:
    """The surprise of a score at a sign t = ±1: log(1 + e^(-t x)). x, targets (...)."""
    x = floats("soft_margin_loss", "x", x)
    known_reduction("soft_margin_loss", reduction)
    return reduced(-logsigmoid(_signs("soft_margin_loss", x, targets) * x), reduction)


def multi_margin_loss(
    scores: Any, targets: Any, p: int = 1, margin: float = 1.0, weight: Any = None, *, reduction: str = "mean"
) -> Any:
    """The score of the true class y should be above every other by a margin (Crammer & Singer 2001, summed over the classes).

        L = weight_y / C  sum_(i != y) max(0, margin - x_y + x_i)^p

    scores (..., C), targets (...) class indices, weight (C,) -> a scalar, or (...) for reduction="none".
    """
    x = floats("multi_margin_loss", "the array of scores", scores)
    known_reduction("multi_margin_loss", reduction)
    if p not in (1, 2):
        raise ArgumentError(message(f"multi_margin_loss: p = {p!r}", expected="1 or 2"))
    *rows, C = raw(x).shape
    y = indices("multi_margin_loss: targets", raw(targets), C, raw(x))
    if y.shape != tuple(rows):
        raise ShapeError(
            message(f"multi_margin_loss: targets {y.shape} do not fit scores {(*rows, C)}", expected=f"targets {tuple(rows)}")
        )
    others = y[..., None] != backend.array_module(y).arange(C)
    short = where(others, relu(margin - take_along_axis(x, y[..., None], axis=-1) + x), 0)
    losses = sum(short if p == 1 else square(short), axis=-1) / C
    if weight is not None:
        losses = losses * constant(weight, x)[y]
    return reduced(losses, reduction)


def multilabel_margin_loss(scores: Any, targets: Any, *, reduction: str = "mean") -> Any:
    """The score of every true class should be above that of every other by 1: sum_(y true, i not) max(0, 1 - x_y + x_i) / C.

    scores (..., C), targets (..., C) class indices, of which those before the first -1 count -> a scalar, or (...) for reduction="none".
    """
    x = floats("multilabel_margin_loss", "the array of scores", scores)
    known_reduction("multilabel_margin_loss", reduction)
    C = raw(x).shape[-1]
    given = raw(targets) if backend.is_array(raw(targets)) else np.asarray(raw(targets))
    if given.shape != tuple(x.shape):
        raise ShapeError(
            message(
                f"multilabel_margin_loss: targets {describe(given)} do not fit scores {describe(raw(x))}",
                expected="one shape",
                do="fill up the rows of targets with -1",
            )
        )
    counts = np.cumsum(given < 0, axis=-1) == 0  # (..., C): before the first -1
    y = indices("multilabel_margin_loss: targets", where(counts, given, 0), C, raw(x))
    counts = backend.to_device(counts, backend.device_of(raw(x)))
    true = (counts[..., None] & (y[..., None] == backend.array_module(y).arange(C))).any(axis=-2)  # (..., C)
    short = relu(1 - expand_dims(take_along_axis(x, y, axis=-1), -1) + expand_dims(x, -2))  # (..., true class, other class)
    losses = sum(where(counts[..., None] & ~true[..., None, :], short, 0), axis=(-2, -1)) / C
    return reduced(losses, reduction)


def _signs(who: str, x: Any, targets: Any) -> Any:
    """The targets, 1 or -1, in the shape and dtype of x."""
    t = targets_like(who, x, targets)
    values = raw(t)
    if isinstance(values, np.ndarray) and not (np.abs(values) == 1).all():
        raise ArgumentError(
            message(f"{who}: targets {describe(values)} are not signs", expected="1 or -1", do="2 * t - 1 for 0 and 1")
        )
    return constant(values, x)
