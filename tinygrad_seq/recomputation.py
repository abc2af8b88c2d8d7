"""Recomputation, also called gradient checkpointing: what a function computes inside is dropped, and computed again when needed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any

from . import random
from .autodiff import Targets, sweep
from .frames import enable_grad, mode, thread, tick
from .graph import MultiNode, Node, Output, Value, box, node_of, toposort
from .primitives import as_it_is_now, backward_of, primitive

Function = Callable[..., Any]


def recompute(f: Function) -> Function:
    """f, whose inside is not kept for the backward pass but computed a second time in it: memory for time.

    Over a sequence cut into pieces of k steps, T/k states and the inside of k steps are held instead of the inside of T. Gradients
    reach the arguments and whatever else f uses (the parameters of a module). Random numbers repeat, whichever generator
    they are drawn from, and running statistics are not updated a second time. Arguments and results may stand in nested tuples, lists and dicts. f must not depend on anything that changes in between:
    an argument or parameter that was overwritten is noticed, bare arrays among the arguments are copied.
    """

    @wraps(f)
    def call(*args: Any, **kwargs: Any) -> Any:
        start = tick()
        with random.watched() as drawn:
            result = f(*args, **kwargs)
        outs = list(_values(result))
        inner = [i for i, o in enumerate(outs) if o.node is not None and o.node.order > start]
        if not inner:
            return result
        node = _in_place_of([outs[i] for i in inner], start, list(_values((args, kwargs))))
        node.saved = (f, *_each(lambda x: x if isinstance(x, Value) else as_it_is_now(x), (args, kwargs)), drawn, inner, node.args)
        for index, i in enumerate(inner):
            outs[i] = box(outs[i]._data, node, index)
        left = iter(outs)
        return _each(lambda x: next(left) if isinstance(x, Value) else x, result)

    return call


def _in_place_of(inner: list[Value], start: int, given: list[Value]) -> MultiNode:
    """One node for all that was recorded since `start`; its arguments are what the recording reached back to."""
    reached: dict[tuple[Node, int], Any] = {}
    for node in toposort(inner, after=start):
        for source in node.args:
            origin = node_of(source)
            if origin is not None and origin.order < start:
                reached[origin, source.index if isinstance(source, Output) else 0] = source
    held = {(v.node, v.index): v._data for v in given}  # arrays that must not change: arguments and, below, leaves
    constants = [v for v in given if v.node is None]
    node = MultiNode()
    node.prim, node.params, node.notes, node.out = _again.primitive, {}, None, None
    node.args = [*reached.values(), *constants]
    node.raw = [origin.out if origin.prim is None else held.get((origin, i), source) for (origin, i), source in reached.items()]
    node.raw += [v._data for v in constants]
    node.shape, node.dtype = tuple(v._data.shape for v in inner), tuple(v._data.dtype for v in inner)
    node.order, node.frame, node.source = tick(), thread.modes.frame, None
    return node


def _values(nested: Any) -> Iterator[Value]:
    """The values in nested tuples, lists and dicts."""
    if isinstance(nested, Value):
        yield nested
    elif isinstance(nested, (tuple, list, dict)):
        for part in nested.values() if isinstance(nested, dict) else nested:
            yield from _values(part)


def _each(f: Function, nested: Any) -> Any:
    """The same nested tuples, lists and dicts of f(part) for every part."""
    if isinstance(nested, dict):
        return {key: _each(f, part) for key, part in nested.items()}
    if isinstance(nested, (tuple, list)):
        parts = [_each(f, part) for part in nested]
        return type(nested)(*parts) if hasattr(nested, "_fields") else type(nested)(parts)
    return f(nested)


@primitive(multiple=True, saves=True)
def _again(*inputs: Any) -> Any:
    raise AssertionError("never run: `recompute` makes its nodes from what a function recorded")


@backward_of(_again)
def _(g: Any, y: Any, saved: Any, *inputs: Any) -> list[Any]:
    """Run the function again, recorded this time, and sweep back to what the first run reached."""
    f, args, kwargs, drawn, inner, sources = saved
    create_graph = thread.modes.record
    with enable_grad(), mode("recomputing", True), random.again(drawn):
        result = f(*args, **kwargs)
    outs = list(_values(result))
    arrived = [(outs[i], part) for i, part in zip(inner, g, strict=True) if part is not None]
    targets: Targets = {}
    for source in sources:
        origin = node_of(source)
        if origin is not None:
            targets.setdefault(origin, {})[source.index if isinstance(source, Output) else 0] = None
    values, cotangents = zip(*arrived, strict=True)
    deque(sweep(values, cotangents, targets, through=False, create_graph=create_graph), maxlen=0)
    return [_found(targets, source) for source in sources]


def _found(targets: Targets, source: Any) -> Any:
    origin = node_of(source)
    return None if origin is None else targets[origin][source.index if isinstance(source, Output) else 0]
