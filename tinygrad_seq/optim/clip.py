"""Gradient clipping: against the rare steps on which a recurrent network's gradient explodes (Pascanu, Mikolov, Bengio 2013)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from .. import guards
from ..tensor import Tensor
from .optimizer import check_settings, parameter_list


def clip_grad_norm_(parameters: Iterable[Tensor], max_norm: float) -> float:
    """Scale all gradients together, in place, so that their common norm is at most `max_norm`; return the norm before.

        g <- g · min(1, max_norm / |g|)          |g|: over all parameters as one vector

    Directions stay, so it is still a descent step.
    """
    check_settings("clip_grad_norm_", max_norm=(max_norm, 0, math.inf))
    gradients = _gradients("clip_grad_norm_", parameters)
    squares = [(g * g).sum().astype("float64") for g in gradients]
    norm = math.sqrt(float(sum(squares)))  # summed where they are: one wait for the device, not one per parameter
    scale = max_norm / (norm + 1e-6)  # as PyTorch: no division by a norm of 0
    if scale < 1:
        for g in gradients:
            g *= scale
            guards.wrote(g)
    return norm


def clip_grad_value_(parameters: Iterable[Tensor], clip_value: float) -> None:
    """Limit every entry of every gradient, in place, to [-clip_value, clip_value]."""
    check_settings("clip_grad_value_", clip_value=(clip_value, 0, math.inf))
    for g in _gradients("clip_grad_value_", parameters):
        np.clip(g, -clip_value, clip_value, out=g)
        guards.wrote(g)


def _gradients(who: str, parameters: Iterable[Tensor]) -> list[Any]:
    return [p.grad._data for p in parameter_list(who, parameters) if p.grad is not None]
