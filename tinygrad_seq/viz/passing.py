"""Ops that only pass a value on: an element of a stack is the thing that was stacked."""

from __future__ import annotations

from typing import Any

from ..graph import Node, node_of


def unstacked(arg: Any) -> Any:
    """The thing that was stacked, for an element of a stack; else the argument itself."""
    while True:
        node = node_of(arg)
        if node is None or node.prim is None or node.prim.name not in ("getitem", "unstack"):
            return arg
        source = node_of(node.args[0])
        if source is not None and _is_one_row(source) and node.params.get("key") == 0:
            arg = source.args[0]
            continue
        if source is None or source.prim is None or source.prim.name != "stack" or source.params.get("axis", 0) != 0:
            return arg
        at = node.params.get("key") if node.prim.name == "getitem" else arg.index if node.params.get("axis", 0) == 0 else None
        if type(at) is not int or not -len(source.args) <= at < len(source.args):
            return arg
        arg = source.args[at]


def _is_one_row(node: Node) -> bool:
    """Whether an op only puts an axis of length 1 in front, as the last state of a single layer has one."""
    return node.prim is not None and node.prim.name == "expand_dims" and node.params.get("axis") == 0
