"""Fused ops: a fast form that names the equation it equals.

The fast form runs by default. The equation takes over whenever a gradient must itself be differentiated, inside `unfolded()`, and when a
reader opens the node; so a kernel needs no hand-written second derivative, and it can be drawn.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, wraps
from typing import Any

import numpy as np

from .autodiff import grad
from .errors import GraphError, describe, message
from .frames import enable_grad, thread, unfolded
from .graph import Node, Value, box, leaf, value_of
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
    for mine, theirs in zip(outs if prim.multiple else (outs,), node.out if prim.multiple else (node.out,), strict=True):
        if theirs is not None and not np.allclose(mine._data, theirs, rtol=rtol, atol=atol):
            error = float(np.abs(mine._data - theirs).max())
            raise GraphError(
                message(
                    f"{prim.name}: the kernel and its equation disagree",
                    expected="the same numbers",
                    got=f"{describe(theirs)}, largest difference {error:.3g}",
                )
            )
    return inputs, outs
