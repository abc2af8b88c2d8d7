"""Reading elements by position, and the transpose of it: adding to them.

The derivative of a slice is zero outside it. It travels as a `Deferred` and is added in place, so the gradient of T slices of one array
costs the elements that were read, not T arrays: BPTT over a sliced sequence is linear in T.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import backend
from ..graph import Deferred, backward_of, defvjp, primitive


@primitive(expects="slices, integers, integer arrays, boolean masks, ... and None")
def _getitem(x: Any, /, key: Any) -> Any:
    return x[key]


_ONCE = frozenset({int, slice, type(None), type(Ellipsis)})


def _reads_once(key: Any) -> bool:
    """Whether the key surely reads each element at most once: it is made of slices, integers, ellipsis, new axes."""
    return _ONCE.issuperset(map(type, key)) if type(key) is tuple else type(key) in _ONCE


class _Slice(Deferred):
    """The cotangent of x[key]: `g` there, zero elsewhere."""

    __slots__ = ()

    @staticmethod
    def sum_of(parts: list[Any], like: Any) -> Any:
        return _sum_of_slices(*[g for _, g in parts], keys=[key for key, _ in parts], like=like)


@primitive
def _sum_of_slices(*gs: Any, keys: list[Any], like: Any) -> Any:
    total = backend.array_module(gs[0]).zeros(like.shape, gs[0].dtype)
    for key, g in zip(keys, gs, strict=True):
        if _reads_once(key):
            total[key] += g
        else:
            np.add.at(total, key, g)
    return total


@backward_of(_sum_of_slices)
def _(g: Any, y: Any, *gs: Any, keys: list[Any], like: Any) -> Any:
    return [g[key] for key in keys]


defvjp(_getitem, lambda g, y, x, key: _Slice((key, g)))


def getitem(x: Any, key: Any) -> Any:
    """x[key] for slices, integers, integer arrays, boolean masks, ellipsis and None, as NumPy reads them."""
    return _getitem(x, key=key)
