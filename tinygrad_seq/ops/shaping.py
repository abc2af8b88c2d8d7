"""Ops that move elements without changing them: each derivative moves them back."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..graph import backward_of, defvjp, primitive


@primitive(expects="a shape of as many elements, one of its sizes may be -1")
def reshape(x: Any, /, shape: int | tuple[int, ...]) -> Any:
    """The same elements in another shape; one size may be -1, to be worked out."""
    return np.reshape(x, shape)


defvjp(reshape, lambda g, y, x, shape: reshape(g, x.shape))


@primitive
def swapaxes(x: Any, /, axis1: int, axis2: int) -> Any:
    """Two axes exchanged."""
    return x.swapaxes(axis1, axis2)


defvjp(swapaxes, lambda g, y, x, axis1, axis2: swapaxes(g, axis1, axis2))


@primitive
def expand_dims(x: Any, /, axis: int | tuple[int, ...]) -> Any:
    """New axes of size 1 at the places that `axis` names in the result."""
    return np.expand_dims(x, axis)


defvjp(expand_dims, lambda g, y, x, axis: reshape(g, x.shape))


@primitive
def squeeze(x: Any, /, axis: int | tuple[int, ...] | None = None) -> Any:
    """Axes of size 1 removed: those that `axis` names, or all."""
    return np.squeeze(x, axis)


defvjp(squeeze, lambda g, y, x, axis=None: reshape(g, x.shape))


@primitive(expects="arrays that agree in every axis but the one that is joined")
def _concatenate(*arrays: Any, axis: int) -> Any:
    return np.concatenate(arrays, axis)


@backward_of(_concatenate)
def _(g: Any, y: Any, *arrays: Any, axis: int) -> Any:
    lead: tuple[slice, ...] = (slice(None),) * (axis % g.ndim)
    ends = np.cumsum([a.shape[axis] for a in arrays]).tolist()
    return [g[(*lead, slice(start, stop))] for start, stop in zip([0, *ends], ends, strict=False)]


def concatenate(arrays: Any, axis: int = 0) -> Any:
    """The arrays joined along an axis that they have."""
    return _concatenate(*arrays, axis=axis)
