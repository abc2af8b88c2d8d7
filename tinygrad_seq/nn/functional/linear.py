"""The affine map of a layer, and the lookup of embedding vectors."""

from __future__ import annotations

from typing import Any

import numpy as np

from ... import backend
from ...errors import ArgumentError, IndexError_, ShapeError, describe, message
from ...graph import raw
from ...ops import expand_dims, inner, matmul, reshape, swapaxes, take, where
from ...primitives import defvjp, primitive


def linear(x: Any, weight: Any, bias: Any = None) -> Any:
    """The affine map of a layer.

        y = x W^T + b

    x (..., D), weight (K, D), bias (K,) -> y (..., K).
    """
    array = raw(single("linear", x))
    if getattr(array, "shape", None) == () or isinstance(array, (int, float)):
        raise ShapeError(message(f"linear: x {describe(array)} has no features", expected=f"x (..., {raw(weight).shape[-1]})"))
    if getattr(array, "dtype", weight.dtype).kind in "biu":  # NumPy would make float64 of it
        raise ArgumentError(
            message(
                f"linear: x is {describe(array)}",
                expected="floating-point numbers",
                do=f"x.astype('{weight.dtype}'), or nn.Embedding where they name symbols",
            )
        )
    try:
        y = inner(x, weight)
    except ShapeError:
        name = getattr(weight, "name", None) or "the weight"
        raise ShapeError(
            message(
                f"linear: x {describe(raw(x))} does not fit {name} {describe(raw(weight))}",
                expected=f"x (..., {raw(weight).shape[-1]})",
            )
        ) from None
    return y if bias is None else y + bias


def bilinear(x1: Any, x2: Any, weight: Any, bias: Any = None) -> Any:
    """The bilinear map of two vectors.

        y_k = x1^T W_k x2 + b_k

    x1 (..., I), x2 (..., J), weight (K, I, J), bias (K,) -> y (..., K).
    """
    K, I, J = weight.shape  # noqa: E741
    z = linear(x1, reshape(swapaxes(weight, 1, 2), (K * J, I)))
    y = matmul(reshape(z, (*z.shape[:-1], K, J)), expand_dims(x2, -1))[..., 0]
    return y if bias is None else y + bias


def embedding(ids: Any, weight: Any, padding_idx: int | None = None) -> Any:
    """The rows of `weight` that the ids name: one_hot(ids) @ weight, without the product.

    ids integers of any shape (...), weight (V, E) -> (..., E). A row named twice receives both gradients; the row `padding_idx` none.
    """
    V = raw(weight).shape[0]
    ids = indices("embedding: ids", raw(ids), V, raw(weight))
    rows = take(weight, ids, axis=0)
    return rows if padding_idx is None else _learned(rows, expand_dims(ids != row_of("embedding", padding_idx, V), -1))


def row_of(who: str, padding_idx: int, count: int) -> int:
    """The row of a table of `count` that padding_idx names, which may count from the end."""
    if not hasattr(padding_idx, "__index__"):
        raise ArgumentError(message(f"{who}: padding_idx = {padding_idx!r}", expected="an integer"))
    if not -count <= padding_idx < count:
        raise IndexError_(message(f"{who}: padding_idx {padding_idx} is out of range", expected=f"0 ... {count - 1}"))
    return padding_idx % count


@primitive
def _learned(rows: Any, /, learned: Any) -> Any:
    """The rows as they are; a gradient passes only where they are learned."""
    return rows


defvjp(_learned, lambda g, y, rows, learned: where(learned, g, 0))


def single(who: str, x: Any) -> Any:
    """x itself, unless it is all that a recurrent layer returned."""
    if isinstance(x, tuple) and any(hasattr(part, "shape") for part in x):
        raise ArgumentError(
            message(
                f"{who}: got a tuple of {len(x)}", expected="one array", do="a recurrent layer returns two things: hs, h = rnn(xs)"
            )
        )
    return x


def indices(who: str, ids: Any, count: int, like: Any) -> Any:
    """The ids as integers in 0 ... count-1, where the array `like` is. Ids already on a device are taken on trust: looking would wait."""
    if not backend.is_array(ids):
        ids = np.asarray(ids)
        ids = ids if ids.size else ids.astype(np.int64)  # of an empty list NumPy makes floats
    if ids.dtype.kind not in "iu":
        raise ArgumentError(
            message(f"{who} must be integers, got {describe(ids)}", expected=f"0 ... {count - 1}", do="ids.astype('int64')")
        )
    if isinstance(ids, np.ndarray) and ids.size and not (int(ids.min()) >= 0 and int(ids.max()) < count):
        worst = int(ids.min()) if ids.min() < 0 else int(ids.max())
        raise IndexError_(message(f"{who}: {worst} is out of range", expected=f"0 ... {count - 1}", got=describe(ids)))
    return backend.to_device(ids, backend.device_of(like))
