"""What arrives at a node: cotangents that add up, some of them deferred, each in its place among several outputs.

The sweep adds plain arrays by itself; everything else comes here.
"""

from __future__ import annotations

from heapq import heappush
from typing import Any

from .graph import MultiNode, Node, Output
from .primitives import Deferred


class Pending:
    """What has arrived at a value while some of it is deferred."""

    __slots__ = ("chunk", "kind", "like", "parts", "total")

    def __init__(self, total: Any, like: Any):
        self.total, self.like, self.kind, self.chunk = total, like, Deferred, 0
        self.parts: list[Deferred] = []

    def __add__(self, c: Any) -> Pending:
        if type(c) is not self.kind or len(self.parts) >= self.chunk:
            self.sum_up()
            if not isinstance(c, Deferred):
                self.total = c if self.total is None else self.total + c
                return self
            self.kind, self.chunk = type(c), c.chunk()
        self.parts.append(c)
        return self

    def sum_up(self) -> Any:
        """The sum so far, with every deferred part in it."""
        if self.parts:
            summed = self.kind.sum_of(self.parts, self.like)
            self.total = summed if self.total is None else self.total + summed
            self.parts = []
        return self.total


def arrive(at: Node | Output, node: Node, c: Any, grads: dict[Node, Any], heap: list[tuple[int, Node]]) -> None:
    """Add the cotangent `c` to what has arrived at `at`, an output of `node`: the general case, which the sweep shortens for arrays."""
    before = grads.get(node)
    if before is None:
        heappush(heap, (-node.order, node))
    if type(node) is MultiNode:
        assert isinstance(at, Output)
        slots = grads[node] = before or [None] * len(node.shape)
        slots[at.index] = _joined(slots[at.index], c, at)
    else:
        grads[node] = _joined(before, c, at)


def _joined(before: Any, c: Any, at: Node | Output) -> Any:
    if isinstance(c, Deferred) and type(before) is not Pending:
        return Pending(before, at) + c
    return c if before is None else before + c


def settle(node: Node, g: Any) -> Any:
    """What has arrived at a node, complete: one array or a tuple of them, in the dtype of the node's output."""
    if type(g) is list:
        return tuple(None if part is None else settled(part, dtype) for part, dtype in zip(g, node.dtype, strict=True))
    return settled(g, node.dtype)


def settled(g: Any, dtype: Any) -> Any:
    """One complete cotangent, in the dtype of what it is the gradient of."""
    if type(g) is Pending:
        g = g.sum_up()
    return g if g.dtype == dtype else g.astype(dtype)
