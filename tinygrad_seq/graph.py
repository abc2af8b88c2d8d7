"""The tape: values, the nodes that made them, and the primitives that record them. Knows no formula and no array library.

A `Value` holds an array and points at the `Node` that made it; a node points at the nodes of its arguments and at the arrays that
its derivative will read, never at a value, so no reference cycle forms, a graph dies with the last value that needs it, and
what no derivative reads dies at once. Node orders come from one clock and are a topological order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from typing import Any, TypeVar, cast

import numpy as np
from numpy import ndarray

from . import backend, errors
from .errors import NOTHING, GraphError, message
from .frames import Frame, Modes, thread, tick
from .guards import check_forward, check_unwritten, explain, foreign, user_line
from .reads import reads

F = TypeVar("F", bound=Callable[..., Any])
_new = object.__new__


class Value:
    """An array and the node that made it (None: a constant). `tensor.Tensor` is the subclass that users meet."""

    __slots__ = ("__weakref__", "_data", "_index", "_name", "node")

    _data: Any
    _index: int  # which output of the node; unset where it has only one
    _name: str | None  # of a constant; what is recorded keeps its name on the tape
    node: Node | None

    boxes: type[Value]  # the class of every result: Tensor, once tensor.py is imported

    @property
    def index(self) -> int:
        """Which output of its node this value is."""
        return getattr(self, "_index", 0)

    @property
    def name(self) -> str | None:
        """The name given to this value (to a parameter by its module), which drawings and errors show; or None."""
        return getattr(self, "_name", None) if self.node is None else self.node.notes_of(self.index).name

    @name.setter
    def name(self, name: str | None) -> None:
        if name is not None and not isinstance(name, str):
            raise errors.ArgumentError(message(f"name: {name!r} is no name", expected="a str or None"))
        if self.node is None:
            self._name = name
        else:
            self.node.note(self.index).name = name


class Note:
    """What somebody said about one output of a node: its name, who wants its gradient, and the gradient kept."""

    __slots__ = ("grad", "hooks", "keep", "name")

    def __init__(self, keep: bool = False):
        self.name: str | None = None
        self.grad: Any = None  # a Value: what has been accumulated
        self.keep = keep
        self.hooks: dict[int, Callable[[Any], Any]] = {}


_NO_NOTE = Note()


class Node:
    """One recorded call: the primitive, its arguments, its output, when and where. A leaf has no primitive.

    args: beside each argument its node, an `Output` of a node with several, or the constant itself (a value or a bare number).
    raw: the same as arrays; where no derivative reads the array it is dropped, and the node stands there for its shape.
    out: the output array; None where no derivative reads it. shape, dtype: of the output, always.
    """

    __slots__ = ("__weakref__", "args", "dtype", "frame", "notes", "order", "out", "params", "prim", "raw", "saved", "shape", "source")

    prim: Primitive | None
    args: list[Any]
    raw: list[Any]
    params: dict[str, Any]
    out: Any
    shape: Any  # for several outputs a tuple of shapes, and `dtype` of dtypes
    dtype: Any
    order: int
    frame: Frame | None
    notes: dict[int, Note] | None
    saved: Any
    source: str | None  # in anomaly mode: the user's line

    def __repr__(self) -> str:
        return f"<{self.prim.name if self.prim else 'leaf'} {self.order}>"

    @property
    def ndim(self) -> int:
        """The number of axes of the output."""
        return len(self.shape)

    def note(self, index: int = 0) -> Note:
        """The note on output `index`, to write on."""
        if self.notes is None:
            self.notes = {}
        return self.notes.setdefault(index, Note())

    def notes_of(self, index: int = 0) -> Note:
        """The note on output `index`, to read."""
        return _NO_NOTE if self.notes is None else self.notes.get(index, _NO_NOTE)


class MultiNode(Node):
    """The node of a primitive with several outputs, whose `out`, `shape` and `dtype` are tuples."""

    __slots__ = ()


class Output:
    """One output of a node with several, as an argument of another."""

    __slots__ = ("index", "node")

    def __init__(self, node: Node, index: int):
        self.node, self.index = node, index

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of this output."""
        shape: tuple[int, ...] = self.node.shape[self.index]
        return shape

    @property
    def dtype(self) -> Any:
        """The dtype of this output."""
        return self.node.dtype[self.index]

    @property
    def ndim(self) -> int:
        """The number of axes of this output."""
        return len(self.shape)


def node_of(arg: Any) -> Node | None:
    """The node behind an entry of `node.args`; None for a constant."""
    return arg if isinstance(arg, Node) else arg.node if isinstance(arg, Output) else None


def leaf(data: Any) -> Node:
    """The node of a value that the user made and wants the gradient of."""
    node = Node()
    node.prim, node.args, node.raw, node.params = None, [], [], {}
    node.out, node.shape, node.dtype = data, data.shape, data.dtype
    node.order, node.frame, node.saved, node.source = tick(), None, None, None
    node.notes = {0: Note(keep=True)}
    return node


def box(out: Any, node: Node | None, index: int | None = None) -> Any:
    """A new value of the class that users meet, around a raw array."""
    value = _new(Value.boxes)
    value._data = out
    value.node = node
    if index is not None:
        value._index = index
    return value


def raw(x: Any) -> Any:
    """The array behind a value; anything else as it is."""
    return x._data if isinstance(x, Value) else x


def toposort(outputs: Iterable[Value], after: int = 0) -> list[Node]:
    """Every node that the outputs depend on and that is not older than `after`, arguments before their users. Iterative."""
    seen: set[Node] = set()
    stack = [v.node for v in outputs if v.node is not None]
    while stack:
        node = stack.pop()
        if node in seen or node.order < after:
            continue
        seen.add(node)
        stack.extend(n for n in map(node_of, node.args) if n is not None)
    return sorted(seen, key=lambda node: node.order)


def value_of(arg: Any) -> Any:
    """The array behind a node (a tuple for several outputs), an `Output` or a constant, computed again where it was dropped.

    For readers, which want numbers that no derivative needs. Iterative; recomputed arrays are kept only for this call.
    """
    if isinstance(arg, Output):
        return value_of(arg.node)[arg.index]
    if not isinstance(arg, Node):
        return raw(arg)
    known: dict[Node, Any] = {}
    stack = [arg]
    while stack:
        node = stack[-1]
        if node in known or node.out is not None:
            known.setdefault(node, node.out)
            stack.pop()
            continue
        missing = [n for x, n in zip(node.raw, map(node_of, node.args), strict=True) if isinstance(x, (Node, Output)) and n not in known]
        if missing:
            stack.extend(n for n in missing if n is not None)
            continue
        check_unwritten(node)
        assert node.prim is not None
        inputs = [
            known[x] if isinstance(x, Node) else known[x.node][x.index] if isinstance(x, Output) else x for x in node.raw
        ]
        out = node.prim.function(*inputs, **node.params)
        out = out[0] if node.prim.saves else out
        known[stack.pop()] = out if isinstance(out, tuple) or backend.is_array(out) else np.asarray(out)
    return known[arg]


class Deferred(tuple[Any, ...]):
    """A cotangent that is cheaper to sum than to write out: zero outside a slice, or a product not yet multiplied.

    The sweep collects the deferred cotangents of one value and sums them together, `chunk` of them at a time. Subclasses are the ops' own.
    """

    __slots__ = ()

    chunk = 2**62

    def write_out(self, like: Any) -> Any:
        """The cotangent alone, as an array or a value shaped like `like`."""
        return self.sum_of([self], like)

    @staticmethod
    def sum_of(parts: list[Any], like: Any) -> Any:
        """The sum of parts of this class, as an array or a value shaped like `like`."""
        raise NotImplementedError


# ---- Primitives: functions that record themselves -------------------------------------------------------------------------


class Primitive:
    """What the tape knows of an op: how to run it, its derivative rules, and how its errors read."""

    __slots__ = (
        "arrays", "backward", "differentiable", "edge", "equation", "expects", "function", "multiple", "name", "names", "plans",
        "raw_edge", "recorded", "rows", "saves",
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
        self.rows: tuple[Callable[..., Any] | None, ...] = ()
        self.backward: Callable[..., Any] | None = None
        self.recorded: Callable[..., Any] | None = None  # the same for a gradient that is recorded, where it differs
        self.equation: Callable[..., Any] | None = None  # what a fused op equals
        self.edge: Callable[[Any, tuple[int, ...]], Any] | None = None  # fits a cotangent to its argument's shape,
        self.raw_edge: Callable[[Any, tuple[int, ...]], Any] | None = None  # a bare one
        self.plans: list[tuple[bool, tuple[int, ...]] | None] = [None] * 2 ** int(min(self.arrays, 8))  # see `plan`

    def plan(self, tracked: int) -> tuple[bool, tuple[int, ...]]:
        """Whether the derivative reads the output, and which arguments it does not read, given which need one (a bit mask)."""
        rules = [self.backward] if self.backward else [row for i, row in enumerate(self.rows) if tracked >> i & 1 and row]
        read = set().union(*(reads(rule, saves=self.saves) for rule in rules))
        needed = range(8) if not rules or "*" in read or self.recorded else read
        plan = (not rules or "y" in read, tuple(i for i in range(8) if tracked >> i & 1 and i not in needed))
        self.plans[tracked] = plan
        return plan


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
        dispatch = {1: _unary, 2: _binary if len(prim.names) == 2 else _general}.get(prim.arrays, _general)
    call = wraps(f)(dispatch(prim))
    call.primitive = prim  # type: ignore[attr-defined]
    return call


def _general(prim: Primitive) -> Callable[..., Any]:
    """The call of a primitive: take the arrays out of the values, run, record."""
    run, arrays, names, here, array_types = prim.function, prim.arrays, prim.names, thread, backend.array_types

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
                bare = bare or type(a) in array_types or isinstance(a, (list, tuple))
                inputs.append(a)
                sources.append(a)
            bit = bit << 1 & 255 or 128  # the arguments of a variadic op from the eighth on share a bit
        try:
            out = run(*inputs, **params)
        except Exception as cause:
            raise explain(prim, args, inputs, params, cause) from (cause if foreign(prim) else None)
        if not traced:
            return out[0] if prim.saves else out
        modes = here.modes
        if modes.anomaly:
            check_forward(prim, args, inputs, out[0] if prim.saves else out)
        if not (tracked and modes.record and prim.differentiable):
            return _constant(prim, out[0] if prim.saves else out)
        if bare:
            for i, source in enumerate(sources):
                if source is inputs[i]:
                    inputs[i] = sources[i] = _as_it_is_now(source)
        keep_out, unread = prim.plans[tracked] or prim.plan(tracked)
        for i in range(len(inputs)) if unread and arrays > 8 else unread:
            inputs[i] = sources[i] if isinstance(sources[i], (Node, Output)) else inputs[i]
        record = _record_several if prim.multiple or prim.saves else _record
        return record(prim, sources, inputs, params, out, keep_out, modes)

    return call


def _unary(prim: Primitive) -> Callable[..., Any]:
    """`_general` for one array, without its loops."""
    run, plans, general, here = prim.function, prim.plans, _general(prim), thread

    def call(a: Any = NOTHING, *others: Any, **params: Any) -> Any:
        if others or not isinstance(a, Value):
            return general(**params) if a is NOTHING else general(a, *others, **params)
        x, node = a._data, a.node
        try:
            out = run(x, **params)
        except Exception as cause:
            raise explain(prim, [a], [x], params, cause) from (cause if foreign(prim) else None)
        modes = here.modes
        if modes.anomaly:
            check_forward(prim, [a], [x], out)
        if node is None or not modes.record:
            return _constant(prim, out)
        sources = [node if type(node) is Node else Output(node, a._index)]
        keep_out, unread = plans[1] or prim.plan(1)
        return _record(prim, sources, sources if unread else [x], params, out, keep_out, modes)

    return call


def _binary(prim: Primitive) -> Callable[..., Any]:
    """`_general` for two arrays and no parameters, without its loops."""
    run, plans, general, here = prim.function, prim.plans, _general(prim), thread

    def call(a: Any = NOTHING, b: Any = NOTHING, *others: Any, **params: Any) -> Any:
        if others or params or not (isinstance(a, Value) or isinstance(b, Value)):
            return general(a, b, *others, **params)
        x, y, left, right, tracked = a, b, a, b, 0
        if isinstance(a, Value):
            x = a._data
            if a.node is not None:
                tracked, left = 1, a.node
                if type(left) is not Node:
                    left = Output(left, a._index)
        if isinstance(b, Value):
            y = b._data
            if b.node is not None:
                tracked, right = tracked | 2, b.node
                if type(right) is not Node:
                    right = Output(right, b._index)
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
            x = left = _as_it_is_now(x)
        elif y is right:
            y = right = _as_it_is_now(y)
        keep_out, unread = plans[tracked] or prim.plan(tracked)
        sources = [left, right]
        inputs = sources if len(unread) == 2 else [left if 0 in unread else x, right if 1 in unread else y]
        return _record(prim, sources, inputs, params, out, keep_out, modes)

    return call


def _as_it_is_now(x: Any) -> Any:
    """A bare array that its owner may write to, copied: the tape needs it as it is now. A list as an array, a number as it is."""
    if type(x) is ndarray:
        return x.copy() if x.flags.writeable else x
    if isinstance(x, (list, tuple)):
        return np.array(x)
    return x.copy() if type(x) in backend.array_types else x


def _constant(prim: Primitive, out: Any) -> Any:
    """The result of a primitive that is not recorded, as a value."""
    return tuple([box(o, None) for o in out]) if prim.multiple else box(_array(out), None)


def _record(
    prim: Primitive, sources: list[Any], inputs: list[Any], params: dict[str, Any], out: Any, keep_out: bool, modes: Modes
) -> Any:
    """The result of a primitive as a value, with the node that made it."""
    node = Node()
    node.prim = prim
    node.args = sources
    node.raw = inputs
    node.params = params
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
    value = _new(Value.boxes)
    value._data = out
    value.node = node
    return value


def _record_several(
    prim: Primitive, sources: list[Any], inputs: list[Any], params: dict[str, Any], out: Any, keep_out: bool, modes: Modes
) -> Any:
    """The same for a primitive with several outputs, or one that saves something for its rule."""
    saved = None
    if prim.saves:
        out, saved = out
    node = MultiNode() if prim.multiple else Node()
    node.prim, node.args, node.raw, node.params, node.saved = prim, sources, inputs, params, saved
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
    """A NumPy scalar, which reductions return, as the 0-d array that it means."""
    return out if backend.is_array(out) else np.asarray(out)


def defvjp(f: Callable[..., Any], *rows: Callable[..., Any] | None) -> None:
    """State the derivative of a primitive: one row `(g, y, *args, **params) -> cotangent` per array argument.

    A row serves raw arrays and values alike, so it calls operators and ops only, never NumPy. None: no gradient.
    A row may return a `Deferred`. A row whose argument needs no gradient is never called, and an array that no row reads is not kept:
    say `x.shape`, not `x`, to a helper that needs only the shape.
    """
    prim: Primitive = f.primitive  # type: ignore[attr-defined]
    if len(rows) != prim.arrays:
        raise TypeError(f"defvjp({prim.name}): {len(rows)} rows for {prim.arrays} array arguments {prim.names}")
    prim.rows = rows
    prim.plans[:] = [None] * len(prim.plans)


def backward_of(f: Callable[..., Any]) -> Callable[[F], F]:
    """State the derivative of a primitive by one rule that returns all cotangents: for variadic ops and shared work.

    The rule is `(g, y, *args, **params) -> sequence of cotangents`; g is a tuple, None where nothing arrived, if the primitive has
    several outputs; a primitive that saves passes `saved` after y.
    """

    def state(rule: F) -> F:
        f.primitive.backward = rule  # type: ignore[attr-defined]
        return rule

    return state


def require_recorded(value: Any, who: str) -> Node:
    """The node of a value; an error that says what to do where there is none."""
    if not isinstance(value, Value):
        raise errors.ArgumentError(message(f"{who}: {type(value).__name__} is no Tensor", expected="a Tensor"))
    if value.node is None:
        raise GraphError(
            message(
                f"{who}: {value.name or 'the tensor'} {errors.describe(value._data)} is a constant, nothing was recorded",
                expected="a tensor that requires a gradient, or was computed from one outside no_grad()",
                do="create it with requires_grad=True",
            )
        )
    return value.node
