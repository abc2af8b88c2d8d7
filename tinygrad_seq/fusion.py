"""Fused ops: a fast form that names the equation it equals.

The fast form runs by default. The equation takes over whenever a gradient must itself be differentiated, inside `unfolded()`, and when a
reader opens the node; so a kernel needs no hand-written second derivative, and it can be drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from functools import partial, wraps
from typing import Any

import numpy as np

from . import guards
from .autodiff import grad
from .errors import GraphError, describe, message
from .frames import enable_grad, mode, thread, tick, unfolded
from .graph import MultiNode, Node, Note, Output, Value, box, leaf, node_of, raw, toposort, value_of
from .primitives import primitive
from .transforms import same

Function = Callable[..., Any]


def fused(equation: Function, *, multiple: bool = False) -> Callable[[Function], Any]:
    """Make a kernel an op that equals `equation`, a composition of ops with the same arguments and outputs.

        @fused(equation=lstm)
        def lstm_kernel(xs, h, c, w, /):                # raw arrays -> (outputs, what the backward pass will need)
            ...

        @backward_of(lstm_kernel)
        def _(g, y, saved, xs, h, c, w):                # raw arrays -> a cotangent for every argument
            ...

    multiple: equation and kernel return a tuple of outputs.
    """

    def make(kernel: Function) -> Any:
        run = primitive(kernel, saves=True, multiple=multiple)
        run.primitive.equation = equation
        run.primitive.recorded = partial(_through_equation, equation)

        @wraps(kernel)
        def call(*args: Any, **params: Any) -> Any:
            return equation(*args, **params) if thread.modes.unfolded else run(*args, **params)

        call.primitive = run.primitive  # type: ignore[attr-defined]
        return call

    return make


def _through_equation(equation: Function, g: Any, y: Any, saved: Any, *args: Any, **params: Any) -> list[Any]:
    """The cotangents of a fused op as a graph: its equation is replayed on the same arguments and differentiated."""
    inputs = [same(a) if isinstance(a, Value) and a.node is not None else a for a in args]
    outs = equation(*inputs, **params)
    arrived = [(o, part) for o, part in zip(outs, g, strict=True) if part is not None] if isinstance(g, tuple) else [(outs, g)]
    wanted = [x for x in inputs if isinstance(x, Value) and x.node is not None]
    found = iter(grad([o for o, _ in arrived], wanted, [part for _, part in arrived], create_graph=True, allow_unused=True))
    return [next(found) if isinstance(x, Value) and x.node is not None else None for x in inputs]


def expand(node: Node, *, rtol: float = 1e-4, atol: float = 1e-5) -> tuple[list[Any], Any]:
    """Open a fused node: replay its equation, unfolded, on leaves of the values that it had. Returns (arguments, outputs).

    Raises GraphError where the node is not fused, or where equation and kernel disagree.
    """
    prim = node.prim
    if prim is None or prim.equation is None:
        raise GraphError(message(f"expand: {node!r} is not fused", expected="the node of a fused op"))
    arrays = [value_of(x) for x in node.raw]
    inputs = [box(x, leaf(x)) if getattr(getattr(x, "dtype", None), "kind", "") == "f" else x for x in arrays]
    with enable_grad(), unfolded():
        outs = prim.equation(*inputs, **node.params)
    _check_agreement(node, outs if prim.multiple else (outs,), rtol, atol)
    return inputs, outs


def _check_agreement(node: Node, mine: Sequence[Any], rtol: float, atol: float) -> None:
    """Raise unless the equation gave the numbers of the kernel, which runs again where the tape dropped them."""
    theirs = value_of(node)
    for a, b in zip(map(raw, mine), theirs if node.prim.multiple else (theirs,), strict=True):
        if not np.allclose(a, b, rtol=rtol, atol=atol, equal_nan=True):
            raise GraphError(
                message(
                    f"{node.prim.name}: the kernel and its equation disagree",
                    expected="the same numbers",
                    got=f"{describe(b)}, largest difference {float(np.abs(a - b).max()):.3g}",
                )
            )


# ---- Opening a graph ---------------------------------------------------------------------------------------------------------------


def is_fused(node: Node) -> bool:
    """Whether a node is that of a fused op."""
    return node.prim is not None and node.prim.equation is not None


def opened(
    outputs: Sequence[Value],
    which: Callable[[Node], bool] = is_fused,
    *,
    checked: bool = True,
    rtol: float = 1e-4,
    atol: float = 1e-5,
) -> list[Any]:
    """The same numbers on another tape, on which fused nodes are opened: as if they had been recorded inside `unfolded()`.

    Where `which` says so, the equation of a fused node is replayed on the node's own arguments, in the frame that it was recorded in; what
    was recorded later is copied. Leaves, with their names and their `.grad`, stay the very same, and the graph given is not changed.

    Raises GraphError where a kernel and its equation disagree, InPlaceError where an array was overwritten since; with checked=False,
    for a reader that asks for no numbers, neither.
    """
    tape = toposort(outputs)
    first = next((node.order for node in tape if which(node)), None)
    if first is None:
        return list(outputs)
    places: dict[Node, list[Any]] = {}  # what stands for each output of a node, as an argument
    for node in tape:
        if node.prim is None or node.order < first:
            continue
        if checked and node.order < guards.last_write:
            guards.check_unwritten(node)
        if not which(node):
            places[node] = _copied(node, places)
            continue
        values = _replayed(node, places)
        if checked:
            _check_agreement(node, values, rtol, atol)
        places[node] = [_place_of(v) for v in _annotated(node, values)]
    return [_boxed(v._data, places[v.node][v.index]) if v.node in places else v for v in outputs]


def _place_of(x: Any) -> Any:
    """A value as an entry of `node.args`."""
    if not isinstance(x, Value) or x.node is None:
        return x
    return Output(x.node, x.index) if type(x.node) is MultiNode else x.node


def _boxed(x: Any, place: Any) -> Any:
    """The array x as the value that an entry of `node.args` stands for."""
    node = node_of(place)
    return box(x, node, place.index if isinstance(place, Output) else None)


def _moved(arg: Any, places: dict[Node, list[Any]]) -> Any:
    """What stands for an entry of `node.args` or `node.raw` on the new tape."""
    node = node_of(arg)
    return places[node][arg.index if isinstance(arg, Output) else 0] if node in places else arg


def _copied(node: Node, places: dict[Node, list[Any]]) -> list[Any]:
    """A node once more, on the new tape."""
    twin = copy(node)
    twin.args = tuple([_moved(a, places) for a in node.args])
    twin.raw = tuple([raw(_moved(x, places)) for x in node.raw])
    twin.order = tick()
    twin.notes = None
    for index, note in (node.notes or {}).items():
        _write(note, twin.note(index))
    return [Output(twin, i) for i in range(len(node.shape))] if type(node) is MultiNode else [twin]


def _replayed(node: Node, places: dict[Node, list[Any]]) -> Sequence[Any]:
    """The outputs of a fused node's equation on what stands for its arguments."""
    inputs = []
    for a, x in zip(node.args, node.raw, strict=True):
        place = _moved(a, places)
        inputs.append(place if node_of(place) is None else _boxed(value_of(x), place))
    with enable_grad(), unfolded(), mode("frame", node.frame):
        outs = node.prim.equation(*inputs, **node.params)
    return outs if node.prim.multiple else (outs,)


def _annotated(node: Node, values: Sequence[Any]) -> list[Any]:
    """The outputs of an equation with the notes of those of its fused node.

    What is asked of the gradient of an output stands on a node of its own: the equation may use the output itself.
    """
    values = list(values)
    for index, note in (node.notes or {}).items():
        v = values[index]
        if isinstance(v, Value) and v.node is not None:
            if note.hooks or note.keep or v.node.order < node.order or v.node.notes:
                values[index] = v = same(v)
            _write(note, v.node.note(v.index))
    return values


def _write(note: Note, on: Note) -> None:
    """Say of one output what was said of another."""
    on.name, on.grad, on.keep, on.hooks = note.name, note.grad, note.keep, dict(note.hooks)
