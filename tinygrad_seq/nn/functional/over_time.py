"""The loss of a sequence: one loss for each time step, of those steps that a row really has."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ... import backend
from ...errors import ArgumentError, ShapeError, describe, message
from ...frames import frame, thread
from ...graph import raw
from ...ops import getitem, index_put, stack
from ...scan_checks import present
from .reduction import floats, known_reduction, reduced


def over_time(
    loss: Callable[..., Any], outputs: Any, targets: Any, lengths: Any = None, reduction: str = "mean", **options: Any
) -> Any:
    """The loss of a sequence from its losses at single time steps.

        L = Σ_t L_t / n          L_t = Σ_b loss(output of row b at time t, its target)          n: how many elements the losses have

    loss: any of `nn.functional` that takes outputs and targets; `options` go to it (over_time(F.cross_entropy, hs, ids, weight=w)).
    outputs, targets (T, B, ...) -> a scalar for "mean" and "sum", (T, B, ...) for reduction="none".

    lengths (B,): the length of each row. What stands behind it, even NaN or targets that do not exist, costs nothing, counts for nothing
    and gets gradient zero. The mean is over the real elements alike: class weights are not divided out, and a target that the loss itself
    ignores is a step that cost nothing.

    All steps are computed at once; inside `tg.unfolded()` one after another, each in a frame at its time t, so that a reader of the tape
    finds L_1 ... L_T.
    """
    known_reduction("over_time", reduction)
    if not callable(loss):
        raise ArgumentError(
            message(f"over_time: the loss {describe(loss)} is no function", expected="F.cross_entropy, F.mse_loss, ...")
        )
    targets = targets if hasattr(targets, "shape") else np.asarray(targets)
    shape, given = tuple(raw(floats("over_time", "the array of outputs", outputs)).shape), tuple(targets.shape)
    if len(shape) < 2 or given[:2] != shape[:2]:
        raise ShapeError(
            message(
                f"over_time: targets {given} do not fit outputs {shape}", expected="(T, B, ...) both: time first, then the rows"
            )
        )
    if options.get("axis", -1) >= 0:
        raise ArgumentError(message(f"over_time: axis = {options['axis']}", expected="counted from the end: a step has fewer axes"))
    real = np.ones(shape[:2], bool) if lengths is None else present("over_time", lengths, *shape[:2])

    def costs(o: Any, t: Any) -> Any:
        return loss(o, t, reduction="none", **options)

    if not thread.modes.unfolded:
        losses = costs(_those(real, outputs), _those(real, targets))
        return reduced(losses, reduction) if reduction != "none" or real.all() else _laid_out(losses, real)
    by_step: list[Any] = []
    with frame("over_time"):
        for t, now in enumerate(real):
            with frame("step", t + 1):
                losses = costs(_those(now, outputs[t]), _those(now, targets[t]))
                if reduction == "none":
                    by_step.append(losses if now.all() else _laid_out(losses, now))
                else:
                    n = int(real.sum()) * math.prod(losses.shape[1:]) if reduction == "mean" else 1
                    by_step.append(losses.sum() / n)
    together = stack(by_step)
    return together if reduction == "none" else together.sum()


def _those(real: Any, x: Any) -> Any:
    """The entries of x at the real steps, one after another; x itself where all are real."""
    return x if real.all() else getitem(x, _key(real, x))


def _laid_out(losses: Any, real: Any) -> Any:
    """The losses of the real steps at their places, 0 elsewhere."""
    array = raw(losses)
    return index_put(backend.array_module(array).zeros(real.shape + array.shape[1:], array.dtype), _key(real, losses), losses)


def _key(real: Any, x: Any) -> Any:
    """The mask as an index: itself on the host, as positions on a device, which would have to wait to count them."""
    return real if backend.array_module(raw(x)) is np else np.nonzero(real)
