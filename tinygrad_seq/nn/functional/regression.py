"""Losses of numbers: how far is a prediction from what came?

    d = x - t          x the outputs, t the targets, of one shape (...)

A loss averages over all elements (reduction="mean"), sums, or returns what each costs ("none"). Targets may be differentiated too.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ...errors import ArgumentError, ShapeError, describe, message
from ...graph import raw
from ...ops import abs, clip, exp, greater, log, square, where
from .reduction import constant, floats, known_reduction, reduced, targets_like


def mse_loss(outputs: Any, targets: Any, *, reduction: str = "mean", weight: Any = None) -> Any:
    """The squared error d². weight (...): what each element counts; the mean is divided by their sum."""
    return _weighted("mse_loss", square(_difference("mse_loss", outputs, targets)), weight, reduction)


def l1_loss(outputs: Any, targets: Any, *, reduction: str = "mean", weight: Any = None) -> Any:
    """The absolute error |d|. weight (...): what each element counts; the mean is divided by their sum."""
    return _weighted("l1_loss", abs(_difference("l1_loss", outputs, targets)), weight, reduction)


def huber_loss(outputs: Any, targets: Any, *, reduction: str = "mean", delta: float = 1.0, weight: Any = None) -> Any:
    """Huber's loss (1964): half the squared error where |d| <= delta, beyond it a line with the same slope.

        d²/2   or   delta (|d| - delta/2)          both are  c (d - c/2)  for  c = min(max(d, -delta), delta)

    weight (...): what each element counts; the mean is that of the weighted losses.
    """
    if not delta > 0:
        raise ArgumentError(message(f"huber_loss: delta = {delta}", expected="delta > 0"))
    losses = _huber(_difference("huber_loss", outputs, targets), delta)
    known_reduction("huber_loss", reduction)
    return reduced(losses if weight is None else losses * _fitting("huber_loss", weight, losses), reduction)


def smooth_l1_loss(outputs: Any, targets: Any, *, reduction: str = "mean", beta: float = 1.0) -> Any:
    """The absolute error with its kink rounded off: d²/(2 beta) where |d| < beta, else |d| - beta/2. It is `huber_loss` / beta."""
    if not beta >= 0:
        raise ArgumentError(message(f"smooth_l1_loss: beta = {beta}", expected="beta >= 0"))
    d = _difference("smooth_l1_loss", outputs, targets)
    known_reduction("smooth_l1_loss", reduction)
    return reduced(_huber(d, beta) / beta if beta else abs(d), reduction)


def gaussian_nll_loss(
    outputs: Any, targets: Any, var: Any, *, full: bool = False, eps: float = 1e-6, reduction: str = "mean"
) -> Any:
    """The surprise of a normal distribution with mean x and variance v at t: (log v + d²/v) / 2, with full=True + log(2π) / 2.

    outputs, targets (...), var a number or in their shape, where one axis may be 1 or the last be missing. v is at least eps; below
    that its gradient is the one at eps.
    """
    d = _difference("gaussian_nll_loss", outputs, targets)
    known_reduction("gaussian_nll_loss", reduction)
    v = _variance(var, d)
    v = v + raw(np.maximum(raw(v), eps) - raw(v))
    losses = 0.5 * (log(v) + square(d) / v)
    return reduced(losses + 0.5 * math.log(2 * math.pi) if full else losses, reduction)


def poisson_nll_loss(
    outputs: Any, targets: Any, *, log_input: bool = True, full: bool = False, eps: float = 1e-8, reduction: str = "mean"
) -> Any:
    """The surprise of a Poisson distribution at the count t, without the term log t! that no prediction changes.

        e^x - t x  for the logarithm x of the mean;  with log_input=False  x - t log(x + eps)  for the mean x

    full=True adds Stirling's approximation t log t - t + log(2π t)/2 of log t! where t > 1.
    """
    x = floats("poisson_nll_loss", "the array of outputs", outputs)
    t = targets_like("poisson_nll_loss", x, targets)
    known_reduction("poisson_nll_loss", reduction)
    losses = exp(x) - t * x if log_input else x - t * log(x + eps)
    if full:
        many = where(greater(t, 1), t, 1)
        losses = losses + where(greater(t, 1), many * log(many) - many + 0.5 * log(2 * math.pi * many), 0)
    return reduced(losses, reduction)


def _difference(who: str, outputs: Any, targets: Any) -> Any:
    x = floats(who, "the array of outputs", outputs)
    return x - targets_like(who, x, targets)


def _huber(d: Any, delta: float) -> Any:
    c = clip(d, -delta, delta)
    return c * (d - 0.5 * c)


def _weighted(who: str, losses: Any, weight: Any, reduction: str) -> Any:
    known_reduction(who, reduction)
    if weight is None:
        return reduced(losses, reduction)
    weight = _fitting(who, weight, losses)
    losses = losses * weight
    return losses.sum() / weight.sum() if reduction == "mean" else reduced(losses, reduction)


def _fitting(who: str, weight: Any, losses: Any) -> Any:
    weight = constant(weight, losses)
    if weight.shape != tuple(losses.shape):
        raise ShapeError(
            message(f"{who}: weight {describe(weight)} does not fit", expected=f"{tuple(losses.shape)}, one for each output")
        )
    return weight


def _variance(var: Any, d: Any) -> Any:
    if isinstance(var, (int, float)):
        var = constant(var, d)
    shape, whole = tuple(raw(var).shape), tuple(d.shape)
    values = raw(var)
    if isinstance(values, np.ndarray) and (values < 0).any():
        raise ArgumentError(message(f"gaussian_nll_loss: var has the entry {values.min():g}", expected="variances, not below 0"))
    if shape in ((), whole):
        return var
    if shape == whole[:-1]:
        return var[..., None]
    if len(shape) == len(whole) and all(n in (m, 1) for n, m in zip(shape, whole, strict=True)):
        return var
    raise ShapeError(message(f"gaussian_nll_loss: var {shape} does not fit outputs {whole}", expected=f"{whole} or {whole[:-1]}"))
