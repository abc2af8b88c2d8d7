"""How the losses of single elements become one number, and what every loss asks of its arguments."""

from __future__ import annotations

from typing import Any

import numpy as np

from ... import backend
from ...errors import ArgumentError, ShapeError, describe, message
from ...graph import raw
from .linear import single


def reduced(losses: Any, reduction: str) -> Any:
    """All losses for "none", their mean or their sum."""
    return losses if reduction == "none" else losses.mean() if reduction == "mean" else losses.sum()


def known_reduction(who: str, reduction: str, *more: str) -> None:
    """Raise unless the reduction is one of PyTorch's, or of those that this loss has besides."""
    known = ("mean", "sum", "none", *more)
    if reduction not in known:
        expected = f"{', '.join(map(repr, known[:-1]))} or {known[-1]!r}"
        raise ArgumentError(message(f"{who}: reduction {reduction!r} is not known", expected=expected))


def floats(who: str, name: str, x: Any) -> Any:
    """x, which must be an array of floating-point numbers."""
    if not hasattr(single(who, x), "shape") or np.dtype(x.dtype).kind != "f":
        raise ArgumentError(
            message(
                f"{who}: {name} is {describe(raw(x))}", expected="an array of floating-point numbers", do="tg.tensor(x, tg.float32)"
            )
        )
    return x


def targets_like(who: str, x: Any, targets: Any) -> Any:
    """The targets as floating-point numbers where x is. They have its shape: silent broadcasting would compare all with all."""
    given = targets if hasattr(targets, "shape") else np.asarray(targets)
    if tuple(given.shape) != tuple(x.shape):
        column = len(given.shape) + 1 == len(x.shape) and (*given.shape, 1) == tuple(x.shape)
        raise ShapeError(
            message(
                f"{who}: targets {describe(raw(given))} do not fit outputs {describe(raw(x))}",
                expected="the same shape",
                do="targets[..., None], or outputs[..., 0]" if column else "tg.broadcast_to(targets, outputs.shape) if you mean it",
            )
        )
    return constant(given, x) if raw(given).dtype.kind != "f" else given


def constant(values: Any, like: Any) -> Any:
    """Numbers that are not learned (weights, labels), as an array in the dtype and on the device of `like`."""
    array, like = raw(values), raw(like)
    array = array if backend.is_array(array) else np.asarray(array)
    return backend.to_device(array, backend.device_of(like)).astype(like.dtype, copy=False)
