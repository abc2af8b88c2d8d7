"""Expressions: the values of one step and how each comes from others, equal ones being one. What the passes read and rewrite."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from .. import ops
from ..graph import MultiNode, Node, Output, raw
from ..ops.broadcast import sum_to
from ..ops.indexing import _getitem, _sum_of_slices
from ..ops.joining import join
from ..ops.products import _inner
from .trace import Untraceable

_INNER, _MATMUL, _JOIN, _SUM_TO = _inner.primitive, ops.matmul.primitive, join.primitive, sum_to.primitive
_TRANSPOSE, _GETITEM, _BROADCAST = ops.transpose.primitive, _getitem.primitive, ops.broadcast_to.primitive
_SUM_OF_SLICES = _sum_of_slices.primitive


class Op:
    """One value of a step.

    kind        args, params
    "input"     (), (role, k): x, state, static, cotangent, constant
    "number"    (), (value,)
    "map"       its arguments, element by element; (name,)
    "product"   v (B, K) and a static w; (transposed,): v w^T if transposed, else v w
    "part"      v; (lo, hi): v[..., lo:hi]
    "join"      several, one beside the other along the last axis
    "pick"      a call with several results; (which,)
    "call"      anything else; (name, serial)
    """

    __slots__ = ("args", "dtype", "fn", "kind", "linear", "number", "params", "shape")

    def __init__(self, kind: str, args: tuple[Op, ...], params: tuple[Any, ...], shape: Any, dtype: Any, fn: Any, number: int):
        self.kind, self.args, self.params, self.shape, self.dtype, self.fn = kind, args, params, shape, dtype, fn
        self.number = number  # an op is younger than its arguments
        self.linear: bool = any(a.linear for a in args)  # whether it depends on a cotangent

    @property
    def name(self) -> str:
        """What it does, in a word."""
        return str(self.params[0]) if self.kind in ("map", "call", "input") else self.kind

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.shape)

    def __repr__(self) -> str:
        return f"%{self.number} {self.kind} {self.params} {[a.number for a in self.args]} {self.shape}"


class Expressions:
    """Makes ops, each once."""

    def __init__(self) -> None:
        self.known: dict[Any, Op] = {}
        self.constants: list[Any] = []  # arrays that rules make, such as the zeros where no gradient arrived
        self.count = 0

    def op(
        self, kind: str, args: Sequence[Op], params: tuple[Any, ...], shape: Any, dtype: Any, fn: Callable[..., Any] | None = None
    ) -> Op:
        """The op of these arguments."""
        key = (kind, tuple(a.number for a in args), params, shape, dtype)
        found = self.known.get(key)
        if found is None:
            self.count += 1
            found = self.known[key] = Op(kind, tuple(args), params, shape, dtype, fn, self.count)
            if kind == "input" and params[0] == "cotangent":
                found.linear = True
        return found

    def input(self, role: str, k: int, array: Any) -> Op:
        """Something that the step is given."""
        return self.op("input", (), (role, k), tuple(array.shape), array.dtype)

    def map(self, name: str, *args: Op) -> Op:
        """A map that the compiler itself puts in, simplified where nothing is left to compute."""
        a = args[0]
        if name == "multiply":
            a, b = args
            if a.kind == "number":
                a, b = b, a
            if b.kind == "number" and b.params[0] == 1:
                return a
            if b.kind == "number" and b.params[0] == -1:
                return self.map("negative", a)
            args = (a, b)
        elif name == "negative" and a.kind == "map" and a.name == "negative":
            return a.args[0]
        elif name == "negative" and a.kind == "map" and a.name == "subtract":
            return self.map("subtract", *a.args[::-1])
        elif name == "negative" and a.kind == "number":
            return self.number(-a.params[0])
        elif name == "add" and args[1].kind == "map" and args[1].name == "negative":
            return self.map("subtract", a, args[1].args[0])
        elif name == "add" and a.kind == "map" and a.name == "negative":
            return self.map("subtract", args[1], a.args[0])
        shape = np.broadcast_shapes(*(x.shape for x in args))
        if all(
            x.kind == "number" and type(x.params[0]) in (bool, int, float) for x in args
        ):  # a number again, of no dtype of its own
            return self.number(np.asarray(getattr(ops, name).primitive.function(*(x.params[0] for x in args))).item())
        dtype = np.result_type(*[x.dtype for x in args if x.kind != "number"] or [float])
        return self.op("map", args, (name,), shape, dtype, getattr(ops, name).primitive.function)

    def number(self, value: Any) -> Op:
        """A number."""
        return self.op("number", (), (value, type(value)), (), np.asarray(value).dtype)

    # ---- From the tape -----------------------------------------------------------------------------------------------------------

    def read(self, nodes: Iterable[Node], at: dict[Any, Any]) -> None:
        """Add the ops that these nodes record; `at` has the op of each node, a list of them for several outputs."""

        def of(a: Any) -> Op:
            if isinstance(a, Output):
                return at[a.node][a.index]  # type: ignore[no-any-return]
            return at[a] if isinstance(a, Node) else self._constant(a)

        for node in nodes:
            if node not in at:
                at[node] = self._lowered(node, [of(a) for a in node.args])

    def _constant(self, a: Any) -> Op:
        """A number that stands in a rule."""
        value = raw(a)
        if getattr(value, "ndim", 0):
            if value.size and not (value == value.flat[0]).all():
                raise Untraceable("the derivative of one of its ops computes with numbers that the tape does not show")
            known = [c for c in self.constants if c.shape == value.shape and c.dtype == value.dtype and (c == value).all()]
            self.constants += [] if known else [value]
            k = next(k for k, c in enumerate(self.constants) if c is (known or [value])[0])
            return self.input("constant", k, value)
        return self.number(value.item() if getattr(value, "shape", None) == () and not isinstance(value, np.generic) else value)

    def _lowered(self, node: Node, args: list[Op]) -> Any:
        prim, params, shape, dtype, fn = node.prim, node.params, node.shape, node.dtype, node.prim.function
        first: Any = args[0] if args else None
        last = params.get("axis", 0) in (-1, len(shape) - 1)
        if prim.edge is not None and not params:
            return self.op("map", args, (prim.name,), shape, dtype, fn)
        if prim is _JOIN and last and len(shape) > 0:
            return self.op("join", args, (), shape, dtype)
        if prim.name == "split" and params.get("axis") in (-1, first.ndim - 1):
            bounds = (0, *params["ends"], first.shape[-1])[: len(shape) + 1]
            return [self.part(first, lo, hi) for lo, hi in pairwise(bounds)]
        if prim is _GETITEM and (span := _last_axis_only(params["key"], first.shape)):
            return self.part(first, *span)
        if prim is _SUM_OF_SLICES and (order := _side_by_side(params["keys"], shape)):
            return self.op("join", [args[k] for k in order], (), shape, dtype)
        if prim is _INNER or prim is _MATMUL:
            v, w = args
            if v.ndim == w.ndim == 2 and _is_static(w):
                return self.product(v, w, prim is _INNER)
            if v.ndim == 2 and w.kind == "call" and w.name == "transpose" and w.ndim == 2 and _is_static(w.args[0]):
                return self.product(v, w.args[0], prim is _MATMUL)
        if (prim is _BROADCAST and first.shape == shape) or (prim is _SUM_TO and first.shape == shape):
            return first
        if prim is _TRANSPOSE and len(shape) == 2 and params.get("axes") in (None, (1, 0)):
            return self.op("call", args, ("transpose", 0), shape, dtype, np.transpose)
        bound = _bound(fn, params, prim.saves)
        name = (prim.name, "shape" if prim is _SUM_TO else node.order)
        if type(node) is MultiNode:
            whole = self.op("call", args, name, shape, dtype, bound)
            return [self.op("pick", [whole], (i,), s, d) for i, (s, d) in enumerate(zip(shape, dtype, strict=True))]
        return self.op("call", args, name, shape, dtype, bound)

    def part(self, v: Op, lo: int, hi: int) -> Op:
        """v[..., lo:hi]."""
        if (lo, hi) == (0, v.shape[-1]):
            return v
        if v.kind == "part":
            return self.part(v.args[0], v.params[0] + lo, v.params[0] + hi)
        return self.op("part", [v], (lo, hi), (*v.shape[:-1], hi - lo), v.dtype)

    def product(self, v: Op, w: Op, transposed: bool) -> Op:
        """v w^T, or v w."""
        return self.op("product", [v, w], (transposed,), (v.shape[0], w.shape[0 if transposed else 1]), v.dtype)


def _is_static(op: Op) -> bool:
    return op.kind == "input" and op.params[0] == "static"


def _bound(fn: Callable[..., Any], params: dict[str, Any], saves: bool) -> Callable[..., Any]:
    """The function of arrays alone."""
    if saves:
        return lambda *args: fn(*args, **params)[0]
    return partial(fn, **params) if params else fn


def _last_axis_only(key: Any, shape: tuple[int, ...]) -> tuple[int, int] | None:
    """The bounds that a key has for the last axis, if it takes all of the others and is a plain slice."""
    parts = key if isinstance(key, tuple) else (key,)
    if len(parts) == 2 and parts[0] is Ellipsis:
        parts = (slice(None),) * (len(shape) - 1) + (parts[1],)
    if len(parts) != len(shape) or not all(isinstance(p, slice) for p in parts):
        return None
    if any(p != slice(None) for p in parts[:-1]):
        return None
    lo, hi, step = parts[-1].indices(shape[-1])
    return (lo, hi) if step == 1 and hi > lo else None


def _side_by_side(keys: Sequence[Any], shape: tuple[int, ...]) -> list[int]:
    """The order in which slices of the last axis lie beside one another, if together they are all of it, and each place is in one; else []."""
    spans = [_last_axis_only(key, shape) for key in keys]
    if None in spans:
        return []
    order = sorted(range(len(spans)), key=lambda k: spans[k] or (0, 0))
    edges = [0, *(edge for k in order for edge in spans[k] or ()), shape[-1]]
    return order if edges[::2] == edges[1::2] else []


def used(outputs: Iterable[Op]) -> list[Op]:
    """The ops that the outputs depend on, arguments before their users, depth first."""
    order: dict[Op, None] = {}
    for output in outputs:
        stack = [output]
        while stack:
            op = stack[-1]
            missing = [a for a in op.args if a not in order]
            if op in order or not missing:
                order.setdefault(op)
                stack.pop()
            else:
                stack.extend(reversed(missing))
    return list(order)
