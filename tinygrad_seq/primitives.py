"""Primitives: functions of raw arrays that record themselves, and the derivative rules that belong to them.

The dispatch is the hottest code of the package: beside the general one stand two without loops, for one array and for two.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, TypeVar

import numpy as np
from numpy import ndarray

from . import backend
from .errors import NOTHING, ArgumentError, message
from .frames import Modes, thread, tick
from .graph import MultiNode, Node, Output, Value, box, new
from .guards import check_forward, explain, foreign, user_line
from .reads import reads

F = TypeVar("F", bound=Callable[..., Any])
NO_PARAMS: dict[str, Any] = {}  # of every node without parameters
_CHANGEABLE = frozenset({list, dict, set, ndarray})  # a parameter of these types is copied when it is recorded


class Primitive:
    """What the tape knows of an op: how to run it, its derivative rules, and how its errors read."""

    __slots__ = (
        "arrays", "backward", "call", "differentiable", "edge", "equation", "expects", "function", "multiple", "name", "names", "owns",
        "plans", "raw_edge", "recorded", "rows", "saves",
    )  # fmt: skip

    def __init__(self, function: Callable[..., Any], differentiable: bool, multiple: bool, saves: bool, expects: str):
        code = function.__code__
        positional = code.co_varnames[: code.co_argcount]
        self.function, self.name = function, function.__name__.lstrip("_")
        self.differentiable, self.multiple, self.saves, self.expects = differentiable, multiple, saves, expects
        if code.co_flags & 0x04:  # *arrays
            self.arrays: float = float("inf")
        else:
            self.arrays = code.co_posonlyargcount or code.co_argcount - len(function.__defaults__ or ())
        self.names = positional
        self.call: Callable[..., Any] = function  # that takes values too
        self.rows: tuple[Callable[..., Any] | None, ...] = ()
        self.backward: Callable[..., Any] | None = None
        self.recorded: Callable[..., Any] | None = None  # the same for a gradient that is recorded, where it differs
        self.equation: Callable[..., Any] | None = None  # what a fused op equals
        self.edge: Callable[[Any, tuple[int, ...]], Any] | None = None  # fits a cotangent to its argument's shape,
        self.raw_edge: Callable[[Any, tuple[int, ...]], Any] | None = None  # a bare one
        self.owns = False  # whether the arrays that `backward` returns are its own, held by nobody else
        self.plans: list[tuple[bool, int] | None] = [None] * 2 ** int(min(self.arrays, 8))  # see `plan`

    def plan(self, tracked: int) -> tuple[bool, int]:
        """Whether the derivative reads the output, and which arguments it does not, given which need one. Both are bit masks."""
        # The arguments from the eighth on share a bit: what one of them needs, all of them do.
        rules = [self.backward] if self.backward else [row for i, row in enumerate(self.rows) if tracked >> min(i, 7) & 1 and row]
        read = {i if isinstance(i, str) else min(i, 7) for rule in rules for i in reads(rule, saves=self.saves)}
        if not rules or "*" in read or self.recorded:
            read |= {"y", *range(8)} if not rules else set(range(8))
        unread = sum(1 << i for i in range(8) if tracked >> i & 1 and i not in read)
        self.plans[tracked] = plan = ("y" in read, unread)
        return plan


# ---- Dispatch ------------------------------------------------------------------------------------------------------------


def primitive(
    f: F | None = None, *, differentiable: bool = True, multiple: bool = False, saves: bool = False, expects: str = ""
) -> Any:
    """Make a function of raw arrays one that also takes values, and then records itself on the tape.

    The arguments before the slash (without a slash: those that have no default) are arrays, the others parameters. Raw arrays
    in, raw array out; with a `Value` among the arrays the result is one, recorded where a gradient can be asked of it.

    differentiable=False: never recorded (comparisons, indices). multiple: returns a tuple of arrays. saves: returns
    (outputs, saved), and `saved` is kept for the rule. expects: the shapes it takes, for error messages.
    """
    if f is None:
        return lambda g: primitive(g, differentiable=differentiable, multiple=multiple, saves=saves, expects=expects)
    prim = Primitive(f, differentiable, multiple, saves, expects)
    dispatch = _general
    if differentiable and not (multiple or saves):
        dispatch = _unary if prim.arrays == 1 else _binary if prim.arrays == 2 == len(prim.names) else _general
    call = wraps(f)(dispatch(prim))
    call.primitive, prim.call = prim, call  # type: ignore[attr-defined]
    return call


def _general(prim: Primitive) -> Callable[..., Any]:
    """The call of a primitive: take the arrays out of the values, run, record."""
    run, arrays, names, here = prim.function, prim.arrays, prim.names, thread

    def call(*args: Any, **params: Any) -> Any:
        if len(args) > arrays:  # parameters given by position
            params.update(zip(names[int(arrays) :], args[int(arrays) :], strict=False))
            args = args[: int(arrays)]
        traced, bare, tracked, bit = False, False, 0, 1
        inputs: list[Any] = []
        sources: list[Any] = []
        for a in args:
            if isinstance(a, Value):
                traced = True
                inputs.append(a._data)
                node = a.node
                if node is None:
                    sources.append(a)
                else:
                    tracked |= bit
                    sources.append(node if type(node) is Node else Output(node, a._index))
            else:
                bare = True
                inputs.append(a)
                sources.append(a)
            bit = bit << 1 & 255 or 128  # the arguments from the eighth on share a bit, see `plan`
        try:
            out = run(*inputs, **params)
        except Exception as cause:
            raise explain(prim, args, inputs, params, cause) from (cause if foreign(prim) else None)
        if not traced:
            return out[0] if prim.saves else out
        modes = here.modes
        if modes.anomaly:
            check_forward(prim, args, inputs, out[0] if prim.saves else out)
        if not (tracked and modes.record and (prim.differentiable or modes.tracing is not None)):
            return _constant(prim, out[0] if prim.saves else out)
        if bare:
            for i, source in enumerate(sources):
                if source is inputs[i]:
                    inputs[i] = sources[i] = as_it_is_now(source)
        keep_out, unread = prim.plans[tracked] or prim.plan(tracked)
        if unread:
            for i, source in enumerate(sources):
                if unread >> min(i, 7) & 1 and isinstance(source, (Node, Output)):
                    inputs[i] = source
        record = _record_several if prim.multiple or prim.saves else _record
        return record(prim, sources, inputs, params, out, keep_out, modes)

    return call


def _unary(prim: Primitive) -> Callable[..., Any]:
    """`_general` for one array, without its loops."""
    run, plans, general, here = prim.function, prim.plans, _general(prim), thread
    second = prim.names[1] if len(prim.names) > 1 else ""

    def call(a: Any = NOTHING, *others: Any, **params: Any) -> Any:
        if others and second and len(others) == 1 and second not in params:  # a parameter given by position
            params[second], others = others[0], ()
        if others or not isinstance(a, Value):
            return general(**params) if a is NOTHING else general(a, *others, **params)
        x, source = a._data, a.node
        try:
            out = run(x, **params) if params else run(x)
        except Exception as cause:
            raise explain(prim, [a], [x], params, cause) from (cause if foreign(prim) else None)
        modes = here.modes
        if modes.anomaly:
            check_forward(prim, [a], [x], out)
        if source is None or not modes.record:
            return _constant(prim, out)
        sources = (source if type(source) is Node else Output(source, a._index),)
        keep_out, unread = plans[1] or prim.plan(1)
        return _record(prim, sources, sources if unread else (x,), params, out, keep_out, modes)

    return call


def _binary(prim: Primitive) -> Callable[..., Any]:
    """`_general` for two arrays and no parameters, without its loops."""
    run, plans, general, here = prim.function, prim.plans, _general(prim), thread

    def call(a: Any = NOTHING, b: Any = NOTHING, *others: Any, **params: Any) -> Any:
        is_value_a, is_value_b = isinstance(a, Value), isinstance(b, Value)
        if others or params or not (is_value_a or is_value_b):
            return general(a, b, *others, **params)
        x = left = a
        y = right = b
        tracked = 0
        if is_value_a:
            x, node = a._data, a.node
            if node is not None:
                tracked = 1
                left = node if type(node) is Node else Output(node, a._index)
        if is_value_b:
            y, node = b._data, b.node
            if node is not None:
                tracked |= 2
                right = node if type(node) is Node else Output(node, b._index)
        try:
            out = run(x, y)
        except Exception as cause:
            raise explain(prim, [a, b], [x, y], params, cause) from (cause if foreign(prim) else None)
        modes = here.modes
        if modes.anomaly:
            check_forward(prim, [a, b], [x, y], out)
        if not (tracked and modes.record):
            return _constant(prim, out)
        if x is left:
            x = left = as_it_is_now(x)
        elif y is right:
            y = right = as_it_is_now(y)
        keep_out, unread = plans[tracked] or prim.plan(tracked)
        sources = (left, right)
        inputs = sources if unread == 3 else (x, y) if not unread else (left, y) if unread == 1 else (x, right)
        return _record(prim, sources, inputs, params, out, keep_out, modes)

    return call


def as_it_is_now(x: Any) -> Any:
    """A bare array that its owner may write to, copied: the tape needs it as it is now. A list as an array, a number as it is."""
    kind = type(x)
    if kind is float or kind is int:
        return x
    if kind is ndarray:
        return x.copy() if x.flags.writeable or x.base is not None else x  # one may write to the base of a read-only view
    if kind in backend.array_types:
        return x.copy()
    foreign_array = hasattr(x, "__array__") and not isinstance(x, np.generic)  # np.memmap, an array of another library
    return np.array(x, subok=False) if foreign_array or isinstance(x, (list, tuple)) else x


def _own(params: dict[str, Any]) -> dict[str, Any]:
    """The parameters, those copied that their owner may change: the rule needs them as they were."""
    for name, value in params.items():
        if type(value) in _CHANGEABLE:
            params[name] = value.copy()
    return params


def _constant(prim: Primitive, out: Any) -> Any:
    """The result of a primitive that is not recorded, as a value."""
    return tuple([box(o, None) for o in out]) if prim.multiple else box(_array(out), None)


def _record(
    prim: Primitive, sources: Sequence[Any], inputs: Sequence[Any], params: dict[str, Any], out: Any, keep_out: bool, modes: Modes
) -> Any:
    """The result of a primitive as a value, with the node that made it."""
    node = Node()
    node.prim = prim
    node.args = sources
    node.raw = inputs
    node.params = _own(params) if params else NO_PARAMS
    node.order = tick()
    node.frame = modes.frame
    node.notes = None
    if modes.anomaly:
        node.source = user_line()
    if type(out) is not ndarray:
        out = _array(out)
    node.out = out if keep_out else None
    node.shape = out.shape
    node.dtype = out.dtype
    value = new(Value.boxes)
    value._data = out
    value.node = node
    return value


def _record_several(
    prim: Primitive, sources: Sequence[Any], inputs: Sequence[Any], params: dict[str, Any], out: Any, keep_out: bool, modes: Modes
) -> Any:
    """The same for a primitive with several outputs, or one that saves something for its rule."""
    saved = None
    if prim.saves:
        out, saved = out
    node = MultiNode() if prim.multiple else Node()
    node.prim, node.args, node.raw, node.params, node.saved = prim, sources, inputs, _own(params), saved
    node.order, node.frame, node.notes = tick(), modes.frame, None
    if modes.anomaly:
        node.source = user_line()
    if not prim.multiple:
        out = _array(out)
        node.out, node.shape, node.dtype = out if keep_out else None, out.shape, out.dtype
        return box(out, node)
    node.out = out if keep_out else None
    node.shape, node.dtype = tuple([o.shape for o in out]), tuple([o.dtype for o in out])
    return tuple([box(o, node, i) for i, o in enumerate(out)])


def _array(out: Any) -> Any:
    """A NumPy scalar, which reductions return, as the 0-d array that it means; np.matrix and the like as the plain array."""
    if isinstance(out, np.ma.MaskedArray):
        raise ArgumentError(message("a masked array would lose its mask", do="x.filled(value), or tg.where(mask, a, b)"))
    return np.asarray(out) if isinstance(out, ndarray) or not backend.is_array(out) else out


# ---- Derivative rules ----------------------------------------------------------------------------------------------------


class Deferred(tuple[Any, ...]):
    """A cotangent that is cheaper to sum than to write out: zero outside a slice, or a product not yet multiplied.

    The sweep collects the deferred cotangents of one value and sums them together. Subclasses are the ops' own.
    """

    __slots__ = ()

    def chunk(self) -> int:
        """How many such parts the sweep gathers before it sums them."""
        return 2**62

    def write_out(self, like: Any) -> Any:
        """The cotangent alone, as an array or a value shaped like `like`."""
        return self.sum_of([self], like)

    @staticmethod
    def sum_of(parts: list[Any], like: Any) -> Any:
        """The sum of parts of this class, as an array or a value shaped like `like`."""
        raise NotImplementedError


def defvjp(f: Callable[..., Any], *rows: Callable[..., Any] | None) -> None:
    """State the derivative of a primitive: one row `(g, y, *args, **params) -> cotangent` per array argument.

    A row serves raw arrays and values alike, so it calls operators and ops only, never NumPy. None: no gradient.
    A row may return a `Deferred`. A row whose argument needs no gradient is never called, and an array that no row reads is not kept:
    say `x.shape`, not `x`, to a helper that needs only the shape.
    """
    prim: Primitive = f.primitive  # type: ignore[attr-defined]
    if len(rows) != prim.arrays:
        raise TypeError(f"defvjp({prim.name}): {len(rows)} rows for {prim.arrays} array arguments {prim.names}")
    prim.rows, prim.backward = rows, None
    prim.plans[:] = [None] * len(prim.plans)


def backward_of(f: Callable[..., Any], *, owns: bool = False) -> Callable[[F], F]:
    """State the derivative of a primitive by one rule that returns all cotangents: for variadic ops and shared work.

    The rule is `(g, y, *args, **params) -> sequence of cotangents`; g is a tuple, None where nothing arrived, if the primitive has
    several outputs; a primitive that saves passes `saved` after y. owns: all that the rule returns are new arrays, which the sweep may
    keep without a copy.
    """

    def state(rule: F) -> F:
        prim: Primitive = f.primitive  # type: ignore[attr-defined]
        prim.backward, prim.owns = rule, owns
        prim.plans[:] = [None] * len(prim.plans)
        return rule

    return state
