"""The cut of truncated back-propagation: the numbers go on, the gradient stops; for all rows of a state, or for some.

`training` cuts a state as it goes on from window to window, `bptt.truncate` in a graph that was recorded whole.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from . import backend
from .errors import ShapeError, message
from .graph import Value, raw
from .ops import where
from .primitives import defvjp, primitive
from .tensor import Tensor


def cut(state: Any, rows: Any = None) -> Any:
    """The same state with nothing flowing back through it: h, (h, c), or any nesting of tuples, lists and dicts.

        cut(h)[b] = h[b],        d cut(h)[b] / d h[b] = 0  for the rows b that are cut, 1 for the others

    rows: booleans (B,), True where a row begins anew; without them all rows are cut, and the state is one of constants. The rows are the first
    axis of every array of the state, (B, ...).
    """
    if rows is None:
        return each_part(lambda x: x.detach() if isinstance(x, Tensor) else x, state)
    begin = np.asarray(backend.to_numpy(raw(rows)))
    if begin.dtype != bool or begin.ndim != 1:
        raise ShapeError(
            message(f"cut: rows is {begin.dtype} {begin.shape}", expected="booleans (B,), one for each row of the state")
        )
    return each_part(lambda x: stop_rows(x, begin) if isinstance(x, Value) else x, state)


def stop_rows(x: Any, rows: Any) -> Any:
    """x (B, ...) with the gradient of the rows stopped, booleans (B,)."""
    if not x.ndim or x.shape[0] != len(rows):
        raise ShapeError(message(f"cut: a state of shape {x.shape} has no {len(rows)} rows", expected=f"({len(rows)}, ...)"))
    stopped = backend.to_device(rows.reshape(-1, *(1,) * (x.ndim - 1)), backend.device_of(raw(x)))
    return _stop_rows(x, stopped=stopped)


@primitive
def _stop_rows(x: Any, /, *, stopped: Any) -> Any:
    return x


defvjp(_stop_rows, lambda g, y, x, stopped: where(stopped, 0, g))


def each_part(f: Callable[[Any], Any], tree: Any) -> Any:
    """f of everything that is no tuple, list or dict, in the same nesting."""
    if isinstance(tree, Mapping):
        return {key: each_part(f, part) for key, part in tree.items()}
    if isinstance(tree, (tuple, list)):
        parts = [each_part(f, part) for part in tree]
        return type(tree)(*parts) if hasattr(tree, "_fields") else type(tree)(parts)
    return f(tree)
