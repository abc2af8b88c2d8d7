"""Losses of classifiers, in nats: how surprised is the prediction by the class that came?

A loss averages over everything that it is given (reduction="mean"), sums, or returns what each element costs ("none").
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ... import backend
from ...errors import ArgumentError, ShapeError, describe, message
from ...fusion import fused
from ...graph import raw
from ...ops import equal, exp, expand_dims, isinf, log, logical_and, logsumexp, moveaxis, sum, take_along_axis, where
from ...primitives import backward_of
from .linear import indices
from .reduction import constant, floats, known_reduction, reduced, targets_like
from .softmax import log_softmax

BLOCK = 2**16  # scores that are worked on at a time: they stay in the cache of a core


# ---- One class of several ----------------------------------------------------------------------------------------------------------


def cross_entropy(
    logits: Any,
    targets: Any,
    weight: Any = None,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    axis: int = -1,
) -> Any:
    """The surprise of a classifier at the true classes, in nats (divide by log 2 for bits).

        L = -log softmax(o)_y = log(sum_j e^(o_j)) - o_y          o: logits, y: target

    Its gradient is the prediction minus the truth:

        dL/do_i = e^(o_i) / sum_j e^(o_j) - 1[i = y] = softmax(o)_i - 1[i = y]

    logits (..., C), targets (...) class indices -> a scalar for "mean" and "sum", (...) for reduction="none". Classes are the last axis,
    whatever stands before it (time, batch); PyTorch has them second, (N, C, ...): that is axis=1.

    A target of `ignore_index` costs nothing, whatever its logits hold. weight (C,): class c costs weight_c times as much, and the mean
    is divided by the weights of the targets. label_smoothing ε (Szegedy et al. 2016) moves that much of the truth to all classes evenly:
    the truth is then t = (1 - ε) 1[i = y] + ε/C, and L = -sum_i weight_i t_i log softmax(o)_i. Targets may also be such truths themselves,
    probabilities in the shape of the logits; the mean is then over the rows.
    """
    _check_options("cross_entropy", logits, weight, reduction)
    if not 0 <= label_smoothing <= 1:
        raise ArgumentError(message(f"cross_entropy: label_smoothing = {label_smoothing}", expected="0 ... 1"))
    logits, axis, shape = _classes_last("cross_entropy", logits, axis)
    weight = _class_weights("cross_entropy", weight, logits)
    if _are_probabilities(targets, shape):
        if axis != len(shape) - 1:
            targets = moveaxis(targets, axis, -1)
        return reduced(_surprise_at_probabilities(logits, targets, weight, label_smoothing), reduction)
    targets, kept = _class_targets("cross_entropy", targets, shape, axis, logits, ignore_index)
    return _surprise(logits, targets, weight, kept, smoothing=label_smoothing, reduction=reduction)


def nll_loss(
    log_probs: Any, targets: Any, weight: Any = None, *, ignore_index: int = -100, reduction: str = "mean", axis: int = -1
) -> Any:
    """The negative log likelihood of the true classes: `cross_entropy` for logarithms of probabilities, -weight_y log p_y.

    log_probs (..., C), targets (...) class indices -> a scalar for "mean" and "sum", (...) for reduction="none".
    """
    _check_options("nll_loss", log_probs, weight, reduction)
    log_probs, axis, shape = _classes_last("nll_loss", log_probs, axis)
    weight = _class_weights("nll_loss", weight, log_probs)
    targets, kept = _class_targets("nll_loss", targets, shape, axis, log_probs, ignore_index)
    losses = -take_along_axis(log_probs, targets[..., None], axis=-1)[..., 0]
    if weight is not None:
        losses = losses * weight[targets]
    return _weighted_mean_or(reduction, losses if kept is None else where(kept, losses, 0), targets, weight, kept)


def _surprise_equation(o: Any, targets: Any, weight: Any, kept: Any, /, smoothing: float, reduction: str) -> Any:
    if kept is not None:
        o = where(kept[..., None], o, 0)
    total = logsumexp(o, axis=-1)
    losses = total - take_along_axis(o, targets[..., None], axis=-1)[..., 0]
    if weight is not None:
        losses = losses * weight[targets]
    if smoothing:
        of_all = expand_dims(total, -1) - o
        evenly = sum(of_all if weight is None else of_all * weight, axis=-1)
        losses = (1 - smoothing) * losses + (smoothing / o.shape[-1]) * evenly
    return _weighted_mean_or(reduction, losses if kept is None else where(kept, losses, 0), targets, weight, kept)


@fused(equation=_surprise_equation)
def _surprise(o: Any, targets: Any, weight: Any, kept: Any, /, smoothing: float, reduction: str) -> Any:
    """The kernel. Of e^o only the largest score and the sum of each row are kept: computing it again is as fast as reading it."""
    C = o.shape[-1]
    rows, y = o.reshape(-1, C), targets.reshape(-1)
    xp = backend.array_module(o)
    N = len(rows)
    each, ones = xp.arange(N), xp.ones(C, o.dtype)
    top = rows[each, rows.argmax(axis=1)]  # np.max takes twice as long over short rows
    total, below = xp.empty(N, o.dtype), xp.empty(N, o.dtype)
    blocks = _blocks(rows)
    scratch = xp.empty((min(N, blocks[0].stop) if blocks else 0, C), o.dtype)
    with np.errstate(invalid="ignore"):  # a row of -inf alone has no distribution: NaN
        for part in blocks:
            shifted = np.subtract(rows[part], top[part, None], out=scratch[: len(rows[part])])
            if smoothing:
                below[part] = shifted.dot(ones if weight is None else weight)
            total[part] = np.exp(shifted, out=shifted).dot(ones)
        log_total = np.log(total)
        losses = log_total + (top - rows[each, y])
        if weight is not None:
            losses *= weight[y]
        if smoothing:
            evenly = log_total * (C if weight is None else weight.sum()) - below
            losses = (1 - smoothing) * losses + (smoothing / C) * evenly
    if kept is not None:
        losses = where(kept.reshape(-1), losses, 0)
    return _weighted_mean_or(reduction, losses.reshape(targets.shape), targets, weight, kept), (top, total)


@backward_of(_surprise)
def _(g: Any, y: Any, saved: Any, o: Any, targets: Any, weight: Any, kept: Any, smoothing: float, reduction: str) -> Any:
    top, total = saved
    return _prediction_minus_truth(g, top, total, o, targets, weight, kept, smoothing, reduction), None, None, None


def _prediction_minus_truth(
    g: Any, top: Any, total: Any, o: Any, targets: Any, weight: Any, kept: Any, smoothing: float, reduction: str
) -> Any:
    """g (softmax(o) sum_i a_i - a) for the truth a_i = weight_i ((1 - smoothing) 1[i = y] + smoothing/C); g (...), or one number."""
    C = o.shape[-1]
    rows, y = o.reshape(-1, C), targets.reshape(-1)
    xp = backend.array_module(o)
    N = len(rows)
    if reduction == "mean":
        with np.errstate(divide="ignore", invalid="ignore"):  # where nothing is kept
            g = g / _divisor(targets, weight, kept, o.dtype)
    g = np.broadcast_to(g, targets.shape).reshape(-1)
    if kept is not None:
        g = where(kept.reshape(-1), g, 0)
    of_target = g if weight is None else g * weight[y]
    of_target = (1 - smoothing) * of_target if smoothing else of_target
    scale = of_target
    if smoothing:
        evenly = xp.full(C, smoothing / C, o.dtype) if weight is None else weight * (smoothing / C)
        scale = of_target + g * evenly.sum()
    scale = scale / total
    out = xp.empty(rows.shape, o.dtype)
    with np.errstate(invalid="ignore"):
        for part in _blocks(rows):
            p = np.subtract(rows[part], top[part, None], out=out[part])
            p = np.exp(p, out=p)
            p *= scale[part, None]
            if smoothing:
                p -= g[part, None] * evenly
    out[xp.arange(N), y] -= of_target
    if kept is not None:  # 0, even where the logits hold NaN
        out = where(kept.reshape(-1, 1), out, 0)
    return out.reshape(o.shape)


def _blocks(rows: Any) -> list[slice]:
    """The rows in pieces of about BLOCK numbers; on a device all at once."""
    N, C = rows.shape
    step = max(1, BLOCK // max(C, 1)) if backend.array_module(rows) is np else max(N, 1)
    return [slice(start, start + step) for start in range(0, N, step)]


def _surprise_at_probabilities(o: Any, targets: Any, weight: Any, smoothing: float) -> Any:
    """-sum_i weight_i t_i log softmax(o)_i, where what cannot happen (t_i = 0, o_i = -inf) costs nothing."""
    if smoothing:
        targets = (1 - smoothing) * targets + smoothing / o.shape[-1]
    log_p = log_softmax(o)
    log_p = where(logical_and(equal(targets, 0), isinf(log_p)), 0, log_p)
    terms = targets * log_p
    return -sum(terms if weight is None else terms * weight, axis=-1)


def _check_options(who: str, scores: Any, weight: Any, reduction: str) -> None:
    floats(who, "the array of scores", scores)
    if isinstance(weight, str):
        raise ArgumentError(
            message(f"{who}: weight = {weight!r}", expected="one weight for each class", do=f"reduction={weight!r}")
        )
    known_reduction(who, reduction)
    if not raw(scores).shape:
        raise ShapeError(message(f"{who}: the logits are a scalar", expected="logits (..., C), one score per class"))


def _classes_last(who: str, scores: Any, axis: int) -> tuple[Any, int, tuple[int, ...]]:
    """The scores with classes last, the axis where they stood counted from the front, and the shape they had."""
    shape = tuple(raw(scores).shape)
    if not -len(shape) <= axis < len(shape):
        raise ShapeError(
            message(f"{who}: the logits {describe(raw(scores))} have no axis {axis}", expected="the axis of the classes")
        )
    axis %= len(shape)
    return (scores if axis == len(shape) - 1 else moveaxis(scores, axis, -1)), axis, shape


def _class_weights(who: str, weight: Any, scores: Any) -> Any:
    if weight is None:
        return None
    weight, C = constant(weight, scores), raw(scores).shape[-1]
    if weight.shape != (C,):
        raise ShapeError(message(f"{who}: weight {describe(weight)} does not fit", expected=f"({C},), one weight for each class"))
    return weight


def _are_probabilities(targets: Any, shape: tuple[int, ...]) -> bool:
    return getattr(getattr(targets, "dtype", None), "kind", "") == "f" and tuple(targets.shape) == shape


def _class_targets(who: str, targets: Any, shape: tuple[int, ...], axis: int, like: Any, ignore_index: int) -> tuple[Any, Any]:
    """Class indices with 0 in place of those to ignore, and where they are not to be ignored; None where on the host all are kept."""
    targets = raw(targets) if backend.is_array(raw(targets)) else np.asarray(raw(targets))
    if targets.dtype.kind not in "iu":
        probabilities = f", or probabilities {shape}" if who == "cross_entropy" else ""
        raise ArgumentError(
            message(f"{who}: targets must be integers, got {describe(targets)}", expected=f"0 ... {shape[axis] - 1}{probabilities}")
        )
    rows = shape[:axis] + shape[axis + 1 :]
    if targets.shape != rows:
        elsewhere = [a for a in range(len(shape)) if shape[:a] + shape[a + 1 :] == targets.shape]
        raise ShapeError(
            message(
                f"{who}: targets {targets.shape} do not fit logits {shape}",
                expected=f"targets {rows}: a class index for each row of logits",
                do=f"axis={elsewhere[0]}, if the classes are that axis, as in PyTorch" if elsewhere == [1] else
                f"axis={elsewhere[-1]}, if the classes are that axis" if elsewhere else "",
            )
        )  # fmt: skip
    kept = targets != ignore_index
    if isinstance(targets, np.ndarray) and kept.all():
        kept = None
    else:
        targets = where(kept, targets, 0)
    found = indices(f"{who}: targets", targets, shape[axis], raw(like))
    return found, kept if kept is None else backend.to_device(kept, backend.device_of(raw(like)))


def _weighted_mean_or(reduction: str, losses: Any, targets: Any, weight: Any, kept: Any) -> Any:
    """The losses reduced; their mean is divided by the weights of the targets that are kept."""
    if reduction != "mean":
        return reduced(losses, reduction)
    return losses.sum() / _divisor(targets, weight, kept, raw(losses).dtype)


def _divisor(targets: Any, weight: Any, kept: Any, dtype: Any) -> Any:
    if weight is None:
        return targets.size if kept is None else kept.sum().astype(dtype)
    return (weight[targets] if kept is None else where(kept, weight[targets], 0)).sum()


# ---- Distributions -------------------------------------------------------------------------------------------------------------------


def kl_div(log_probs: Any, targets: Any, *, reduction: str = "mean", log_target: bool = False) -> Any:
    """The Kullback-Leibler divergence of a prediction q from the truth p, element by element: p (log p - log q).

    log_probs: log q; targets: p, or log p with log_target=True; one shape (...). reduction="batchmean" divides the sum by the size of the
    first axis: for (B, C) that is the divergence; "mean" divides by the number of all elements.
    """
    known_reduction("kl_div", reduction, "batchmean")
    log_q = floats("kl_div", "log_probs", log_probs)
    p = targets_like("kl_div", log_q, targets)
    losses = exp(p) * (p - log_q) if log_target else p * log(where(equal(p, 0), 1, p)) - p * log_q
    return losses.sum() / log_q.shape[0] if reduction == "batchmean" else reduced(losses, reduction)
