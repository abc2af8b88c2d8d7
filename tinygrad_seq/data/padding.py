"""Sequences of different lengths as one array, and batches of similar lengths, so that little of it is padding."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from .. import backend
from ..errors import ArgumentError, ShapeError, describe, message
from ..graph import raw
from ..random import Rng, generator
from ..tensor import Tensor
from .vocabulary import Ids


def pad(sequences: Iterable[Any], value: Any = 0, *, batch_first: bool = False) -> tuple[Any, Ids]:
    """Put sequences side by side into one array, filled up with `value`, and say how long each is.

    B sequences, each (length, ...) -> xs (T, B, ...) with T the greatest length, and lengths (B,); batch_first: xs (B, T, ...).
    Give the lengths to a recurrent layer, and the padding changes nothing.
    """
    given = list(sequences)
    for i, x in enumerate(given):
        if isinstance(x, Tensor) and x.requires_grad:
            raise ArgumentError(
                message(f"pad: sequence {i} is a Tensor whose gradient would be lost", expected="data", do="x.detach()")
            )
    if not given:
        raise ShapeError(message("pad: there are no sequences", expected="at least one"))
    kept = [raw(x) for x in given]
    xp = backend.array_module(*(x for x in kept if backend.is_array(x)))
    arrays = [x if backend.is_array(x) else xp.asarray(x) for x in kept]
    telling = [a for a, x in zip(arrays, kept, strict=True) if backend.is_array(x) or a.size] or arrays[:1]  # [] has no dtype
    for i, a in enumerate(arrays):
        if a.ndim == 0 or (a.shape[1:] != telling[0].shape[1:] and a.size):
            raise ShapeError(
                message(
                    f"pad: sequence {i} is {describe(a)}",
                    expected=f"(length{''.join(f', {n}' for n in telling[0].shape[1:]) or ','}), as the others"
                    if telling[0].ndim
                    else "time first: (length, ...)",
                )
            )
    lengths = np.array([len(a) for a in arrays], np.int64)
    T, B = int(lengths.max()), len(arrays)
    xs = xp.full((T, B, *telling[0].shape[1:]), value, np.result_type(*(a.dtype for a in telling)))
    for b, a in enumerate(arrays):
        if len(a):
            xs[: len(a), b] = a
    return (xp.ascontiguousarray(xs.swapaxes(0, 1)) if batch_first else xs), lengths


def unpad(xs: Any, lengths: Any, *, batch_first: bool = False) -> list[Any]:
    """The way back from `pad`: xs (T, B, ...), lengths (B,) -> B sequences, each (length, ...). Of a Tensor, with its gradient."""
    ends = np.asarray(backend.to_numpy(raw(lengths)))
    shape = tuple(xs.shape)
    T, B = (shape[1], shape[0]) if batch_first and len(shape) > 1 else (*shape, 0, 0)[:2]
    if len(shape) < 2 or ends.shape != (B,) or ends.dtype.kind not in "iu" or (B and not 0 <= ends.min() <= ends.max() <= T):
        raise ShapeError(
            message(
                f"unpad: lengths {describe(ends)} do not fit xs {shape}",
                expected=f"xs {'(B, T, ...)' if batch_first else '(T, B, ...)'} and integers (B,) between 0 and T",
            )
        )
    return [xs[b, : int(n)] if batch_first else xs[: int(n), b] for b, n in enumerate(ends)]


def buckets(
    lengths: Any,
    batch_size: int,
    *,
    shuffle: bool = True,
    pool: int = 100,
    drop_last: bool = False,
    rng: Rng = None,
) -> list[Ids]:
    """Batches of sequences of similar lengths, so that little is padded: for each batch the numbers of its sequences.

    The sequences are shuffled and taken in pools of `pool` batches; each pool is sorted by length and cut into batches; then the
    batches are shuffled. A larger pool pads less, a smaller one mixes more. Without shuffling, all are sorted and the order is fixed.
    """
    sizes = np.asarray(lengths)
    if sizes.ndim != 1 or (sizes.size and sizes.dtype.kind not in "iu"):
        raise ShapeError(message(f"buckets: lengths {describe(sizes)}", expected="integers (N,), one for each sequence"))
    check_size("buckets", "batch_size", batch_size)
    check_size("buckets", "pool", pool)
    source = generator(rng) if shuffle else None
    order = source.permutation(len(sizes)) if source else np.arange(len(sizes))
    reach = pool * batch_size if source else max(len(sizes), 1)
    batches: list[Ids] = []
    for start in range(0, len(order), reach):
        near = order[start : start + reach]
        near = near[np.argsort(sizes[near], kind="stable")]
        batches += [near[i : i + batch_size] for i in range(0, len(near), batch_size)]
    if drop_last:
        batches = [batch for batch in batches if len(batch) == batch_size]
    return [batches[i] for i in source.permutation(len(batches))] if source else batches


def padding_share(lengths: Any, batches: Sequence[Any]) -> float:
    """The part of the padded batches that is padding: 0 where all lengths of a batch are equal."""
    sizes = np.asarray(lengths)
    filled = sum(int(sizes[batch].sum()) for batch in batches if len(batch))
    whole = sum(int(sizes[batch].max()) * len(batch) for batch in batches if len(batch))
    return 1 - filled / whole if whole else 0.0


def check_size(who: str, name: str, value: Any, least: int = 1) -> None:
    """Raise unless value is an integer of at least `least`."""
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < least:
        raise ArgumentError(message(f"{who}: {name} = {describe(value)}", expected=f"an int of at least {least}"))
