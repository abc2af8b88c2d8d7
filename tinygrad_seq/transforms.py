"""Derivatives of functions, built on the reverse sweep: vjp, jvp, Jacobians, Hessians and their products."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from . import backend, ops
from .autodiff import grad
from .errors import ArgumentError, ShapeError, describe, message
from .frames import enable_grad
from .graph import Value, box
from .primitives import defvjp, primitive
from .tensor import Tensor

Function = Callable[..., Any]


@primitive
def same(x: Any) -> Any:
    """The array itself, as a node of its own: a place to differentiate by in the middle of a graph."""
    return x


defvjp(same, lambda g, y, x: g)


def _inputs(who: str, args: Sequence[Any]) -> list[Any]:
    """The arguments as tensors to differentiate by: new leaves, or, inside another derivative, still connected to it."""
    fresh = []
    for x in args:
        if not isinstance(x, Value):
            x = Tensor(x)
        fresh.append(box(x._data, None).requires_grad_() if x.node is None else same(x))
    if not fresh:
        raise ArgumentError(message(f"{who}: no arguments", expected="at least one tensor to differentiate by"))
    return fresh


def _output(who: str, y: Any, *, scalar: bool = False) -> Any:
    if not isinstance(y, Value):
        raise ArgumentError(message(f"{who}: the function returned {type(y).__name__}", expected="one Tensor"))
    if scalar and y._data.size != 1:
        raise ShapeError(
            message(f"{who}: the function returned {describe(y._data)}", expected="a scalar", do="sum() it, or use jacobian")
        )
    return y


@enable_grad
def vjp(f: Function, *args: Any) -> tuple[Any, Callable[..., Any]]:
    """The value of f and its pullback, which takes a cotangent of the output to cotangents of the arguments.

        y, pullback = vjp(f, *args);   pullback(u) = (u^T dy/dx for every argument x)

    pullback(u, create_graph=True) records the cotangents. An argument that f does not use gets zeros.
    """
    inputs = _inputs("vjp", args)
    y = _output("vjp", f(*inputs))

    def pullback(cotangent: Any = None, *, create_graph: bool = False) -> tuple[Tensor, ...]:
        found = _grad(y, inputs, cotangent, create_graph)
        return tuple(_or_zeros(g, x) for g, x in zip(found, inputs, strict=True))

    return y, pullback


def _grad(y: Any, inputs: Sequence[Any], cotangent: Any, create_graph: bool) -> Sequence[Any]:
    """`grad`, and Nones for a y that depends on nothing."""
    if y.node is None:
        return [None] * len(inputs)
    return grad(y, inputs, cotangent, create_graph=create_graph, allow_unused=True)  # type: ignore[no-any-return]


def _zeros(x: Tensor) -> Tensor:
    return box(backend.array_module(x._data).zeros(x.shape, x.dtype), None)  # type: ignore[no-any-return]


def _or_zeros(g: Tensor | None, x: Tensor) -> Tensor:
    """A gradient; zeros where nothing arrived."""
    return _zeros(x) if g is None else g


@enable_grad
def jvp(f: Function, args: Sequence[Any], tangents: Sequence[Any]) -> tuple[Any, Any]:
    """The value of f and its derivative along tangents: (y, dy/dx v), by differentiating the pullback, which is linear in u.

    args, tangents: as many of one as of the other, of equal shapes.
    """
    if len(args) != len(tangents):
        raise ArgumentError(message(f"jvp: {len(tangents)} tangents for {len(args)} arguments", expected="one for each"))
    y, pullback = vjp(f, *args)
    u = _zeros(y).requires_grad_()
    pulled = pullback(u, create_graph=True)
    directions: list[Any] = [
        Tensor(v, dtype=p.dtype) if not isinstance(v, Value) else v for v, p in zip(tangents, pulled, strict=True)
    ]
    for position, (v, p) in enumerate(zip(directions, pulled, strict=True)):
        if v.shape != p.shape:
            raise ShapeError(message(f"jvp: tangent {position} has shape {v.shape}", expected=f"{p.shape}, its argument's"))
    used = [(p, v) for p, v in zip(pulled, directions, strict=True) if p.node is not None]
    if not used:
        return y, _zeros(y)
    found = grad([p for p, _ in used], [u], [v for _, v in used], create_graph=True, allow_unused=True)[0]
    return y, _or_zeros(found, y)


@enable_grad
def jacobian(f: Function, *args: Any, create_graph: bool = False) -> Any:
    """All first derivatives of f: for every argument an array of shape y.shape + x.shape, J[i..., j...] = dy_i / dx_j.

    One array for one argument, a tuple for several. One reverse sweep for every element of y.
    """
    y, pullback = vjp(f, *args)
    inputs: list[Any] = [x if isinstance(x, Value) else Tensor(x) for x in args]
    rows: list[tuple[Tensor, ...]] = []
    for i in range(y.size):
        u = _zeros(y)
        u._data.reshape(-1)[i] = 1
        rows.append(pullback(u, create_graph=create_graph))
    columns = [ops.stack(column) for column in zip(*rows, strict=True)] if rows else [_zeros(y)] * len(inputs)
    blocks = tuple(block.reshape((*y.shape, *x.shape)) for block, x in zip(columns, inputs, strict=True))
    return blocks[0] if len(blocks) == 1 else blocks


def hessian(f: Function, x: Any, create_graph: bool = False) -> Any:
    """All second derivatives of a scalar function of one argument: shape x.shape + x.shape."""

    def gradient(x: Any) -> Any:
        y = _output("hessian", f(x), scalar=True)
        return _or_zeros(_grad(y, [x], None, True)[0], x)

    return jacobian(gradient, x, create_graph=create_graph)


@enable_grad
def hvp(f: Function, x: Any, v: Any) -> Any:
    """The Hessian of a scalar function times a vector, H v, without forming H: two sweeps."""
    (x,) = _inputs("hvp", [x])
    y = _output("hvp", f(x), scalar=True)
    slope = _grad(y, [x], None, True)[0]
    if slope is None or slope.node is None:
        return _zeros(x)
    return _or_zeros(grad(slope, [x], v, create_graph=True, allow_unused=True)[0], x)
