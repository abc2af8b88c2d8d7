"""The first step of a loop that is not compiled after all: what the tracer recorded of it, as the loop itself would have recorded it.

A traced step computes on aliases of its arguments, so that every op shows; on the tape of the loop stand the arguments, and what comes of
constants alone is a constant.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..graph import MultiNode, Node, Output, Value, box, node_of, raw, toposort, value_of
from ..primitives import as_it_is_now


def as_recorded(outputs: Sequence[Any], aliases: Sequence[tuple[Any, Any]]) -> Callable[[Any], Any]:
    """Take the aliases, given beside the arguments that they stand for, out of the graph of a step. Returns what each of the outputs is then."""
    places: dict[Node, list[Any]] = {}  # what stands for each output of a node, as an argument
    for alias, original in aliases:
        if isinstance(alias, Value) and alias.node is not None:
            places[alias.node] = [_place(original, alias)]
    recorded = [v for v in outputs if isinstance(v, Value) and v.node is not None] if places else []
    for node in toposort(recorded, after=min((node.order for node in places), default=0)):
        if node in places or node.prim is None:
            continue
        args = tuple([_moved(a, places) for a in node.args])
        if node.prim.differentiable and any(node_of(a) is not None for a in args):
            node.args, node.raw = args, tuple([raw(_moved(x, places)) for x in node.raw])
        else:
            values = value_of(node)
            places[node] = [box(v, None) for v in (values if type(node) is MultiNode else (values,))]

    def at(v: Any) -> Any:
        if not isinstance(v, Value) or v.node not in places:
            return v
        place = places[v.node][v.index]
        node = node_of(place)
        return box(v._data, node, place.index if isinstance(place, Output) else None)

    return at


def _place(original: Any, alias: Any) -> Any:
    """An argument as an entry of `node.args`."""
    if not isinstance(original, Value):
        return as_it_is_now(alias._data)
    if original.node is None:
        return original
    return Output(original.node, original.index) if type(original.node) is MultiNode else original.node


def _moved(arg: Any, places: dict[Node, list[Any]]) -> Any:
    """What stands for an entry of `node.args` or `node.raw`."""
    node = node_of(arg)
    return places[node][arg.index if isinstance(arg, Output) else 0] if node in places else arg
