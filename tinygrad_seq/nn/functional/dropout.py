"""Dropout: noise that keeps units from relying on one another. What is random is drawn outside the op and is its argument."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ... import backend
from ...errors import ArgumentError, ShapeError, describe, message
from ...graph import raw
from ...ops.broadcast import elementwise
from ...primitives import defvjp
from ...random import Rng, generator
from .linear import single


@elementwise
def _dropout(x: Any, mask: Any) -> Any:
    return np.multiply(x, mask)


defvjp(_dropout, lambda g, y, x, mask: g * mask, None)


def dropout(x: Any, p: float = 0.5, training: bool = True, *, rng: Rng = None) -> Any:
    """Dropout (Srivastava et al. 2014): each element is zeroed with probability p, the others grow by 1/(1 - p).

        y = x ⊙ m / (1 - p)          m: independent, 1 with probability 1 - p

    So the expectation of y is x; nothing happens with training=False. x of any shape -> the same.
    """
    return _masked("dropout", x, p, training, rng, shared=())


def variational_dropout(xs: Any, p: float = 0.5, training: bool = True, *, batch_first: bool = False, rng: Rng = None) -> Any:
    """Dropout of a sequence with one mask for all time steps (Gal & Ghahramani 2016): a feature is missing throughout, or not at all.

        y_t = x_t ⊙ m / (1 - p)      m: independent, 1 with probability 1 - p

    xs (T, B, H), or (B, T, H) with batch_first -> the same.
    """
    _check_axes("variational_dropout", xs, {3: "xs (B, T, H)" if batch_first else "xs (T, B, H)"})
    return _masked("variational_dropout", xs, p, training, rng, shared=(1,) if batch_first else (0,))


def dropout1d(x: Any, p: float = 0.5, training: bool = True, *, rng: Rng = None) -> Any:
    """Dropout of whole channels (Tompson et al. 2015): neighbouring places say much the same. x (B, C, L) or (C, L) -> the same."""
    _check_axes("dropout1d", x, {3: "x (B, C, L)", 2: "(C, L)"})
    return _masked("dropout1d", x, p, training, rng, shared=(-1,))


def dropout2d(x: Any, p: float = 0.5, training: bool = True, *, rng: Rng = None) -> Any:
    """Dropout of whole channels (Tompson et al. 2015). x (B, C, H, W) or (C, H, W) -> the same."""
    _check_axes("dropout2d", x, {4: "x (B, C, H, W)", 3: "(C, H, W)"})
    return _masked("dropout2d", x, p, training, rng, shared=(-2, -1))


def check_probability(who: str, p: float) -> None:
    """Raise unless p is a probability."""
    if isinstance(p, bool) or not isinstance(p, (int, float, np.integer, np.floating)) or not 0 <= p <= 1:
        raise ArgumentError(message(f"{who}: p = {p!r}", expected="a probability, 0 <= p <= 1"))


def _check_axes(who: str, x: Any, axes: dict[int, str]) -> None:
    if len(getattr(single(who, x), "shape", ())) not in axes:
        raise ShapeError(message(f"{who}: got {describe(raw(x))}", expected=" or ".join(axes.values())))


def _masked(who: str, x: Any, p: float, training: bool, rng: Rng, shared: tuple[int, ...]) -> Any:
    """x times a new mask, one number of which stands for all places along the `shared` axes."""
    check_probability(who, p)
    if not training or p == 0:
        return single(who, x)
    array = raw(single(who, x))
    if np.dtype(getattr(array, "dtype", float)).kind != "f":
        raise ArgumentError(message(f"{who}: x is {describe(array)}", expected="floating-point numbers"))
    shape = list(np.shape(array))
    for axis in shared:
        shape[axis] = 1
    mask = np.asarray(np.multiply(_kept(shape, p, rng), 1 / (1 - p) if p < 1 else 0, dtype=getattr(array, "dtype", np.float64)))
    mask.flags.writeable = False  # so that the tape keeps it without a copy
    return _dropout(x, backend.to_device(mask, backend.device_of(array)))


def _kept(shape: list[int], p: float, rng: Rng) -> Any:
    """Booleans, True with probability 1 - p: 16 random bits each, four from every draw, and more where 16 do not decide."""
    rng, count = generator(rng), math.prod(shape)
    bits = rng.integers(0, 2**64, -(-count // 4), np.uint64).view(np.uint16)[:count]
    threshold = int(p * 2**16)
    kept = bits > threshold
    undecided = np.flatnonzero(bits == threshold)
    kept[undecided] = rng.random(len(undecided)) >= p * 2**16 - threshold
    return kept.reshape(shape)
