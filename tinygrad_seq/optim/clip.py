"""Gradient clipping: against the rare steps on which a recurrent network's gradient explodes (Pascanu, Mikolov, Bengio 2013)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from .. import guards
from ..errors import AnomalyError, message
from ..tensor import Tensor
from .optimizer import check_settings, parameter_list


def clip_grad_norm_(
    parameters: Tensor | Iterable[Tensor], max_norm: float, norm_type: float = 2.0, error_if_nonfinite: bool = False
) -> float:
    """Scale all gradients together, in place, so that their common norm is at most `max_norm`; return the norm before.

        g <- g · min(1, max_norm / |g|)          |g|: over all parameters as one vector

    Directions stay, so it is still a descent step. max_norm=math.inf clips nothing and tells the norm. norm_type: p of the p-norm, math.inf for the largest entry. A norm that is infinite or
    NaN makes gradients of 0 and NaN, or is an error where asked.
    """
    check_settings("clip_grad_norm_", max_norm=(0 if max_norm == math.inf else max_norm, 0, math.inf))
    gradients = _gradients("clip_grad_norm_", parameters)
    norm = _norm(gradients, norm_type)
    if error_if_nonfinite and not math.isfinite(norm):
        raise AnomalyError(
            message(
                f"clip_grad_norm_: the norm of the gradients is {norm}",
                expected="a finite one",
                do="tg.detect_anomaly() finds the first NaN or infinity; error_if_nonfinite=False clips regardless",
            )
        )
    scale = max_norm / (norm + 1e-6)  # as PyTorch: no division by a norm of 0
    if not scale >= 1:
        for g in gradients:
            with np.errstate(invalid="ignore"):  # infinity times 0
                g *= scale
            guards.wrote(g)
    return norm


def clip_grad_value_(parameters: Tensor | Iterable[Tensor], clip_value: float) -> None:
    """Limit every entry of every gradient, in place, to [-clip_value, clip_value]."""
    check_settings("clip_grad_value_", clip_value=(clip_value, 0, math.inf))
    for g in _gradients("clip_grad_value_", parameters):
        np.clip(g, -clip_value, clip_value, out=g)
        guards.wrote(g)


def _norm(gradients: list[Any], p: float) -> float:
    """The p-norm of all numbers as one vector; summed where they are: one wait for a device, not one per gradient."""
    check_settings("clip_grad_norm_", norm_type=(1 if p == math.inf else p, 1e-3, math.inf))
    if not gradients:
        return 0.0
    if p == math.inf:
        largest = abs(gradients[0]).max()
        for g in gradients[1:]:
            largest = np.maximum(largest, abs(g).max())
        return float(largest)
    wide = [g.astype("float32") if g.dtype == "float16" else g for g in gradients]  # the square of a half overflows at 256
    powers = [(g * g if p == 2 else abs(g) ** p).sum().astype("float64") for g in wide]
    return math.pow(float(sum(powers)), 1 / p)


def _gradients(who: str, parameters: Tensor | Iterable[Tensor]) -> list[Any]:
    several = [parameters] if isinstance(parameters, Tensor) else parameters
    return [p.grad._data for p in parameter_list(who, several) if p.grad is not None]
