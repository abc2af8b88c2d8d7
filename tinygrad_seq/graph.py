"""The tape: values, and the nodes that made them. Knows no formula and no array library.

A `Value` holds an array and points at the `Node` that made it; a node points at the nodes of its arguments and at the arrays that
its derivative will read, never at a value, so no reference cycle forms, a graph dies with the last value that needs it, and
what no derivative reads dies at once. Node orders come from one clock and are a topological order.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Sequence
from typing import Any

import numpy as np

from . import backend, errors
from .errors import GraphError, message
from .frames import Frame, tick
from .guards import check_unwritten

new = object.__new__


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
        return self._index if type(self.node) is MultiNode else 0

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

    __slots__ = (
        "__weakref__",
        "args",
        "dtype",
        "frame",
        "notes",
        "order",
        "out",
        "params",
        "prim",
        "raw",
        "saved",
        "shape",
        "source",
    )

    prim: Any  # the Primitive; None: a leaf
    args: Sequence[Any]
    raw: Sequence[Any]
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
    node.prim, node.args, node.raw, node.params = None, (), (), {}
    node.out, node.shape, node.dtype = data, data.shape, data.dtype
    node.order, node.frame, node.saved, node.source = tick(), None, None, None
    node.notes = {0: Note(keep=True)}
    return node


def box(out: Any, node: Node | None, index: int | None = None) -> Any:
    """A new value of the class that users meet, around a raw array."""
    value = new(Value.boxes)
    value._data = out
    value.node = node
    if index is not None:
        value._index = index
    return value


def raw(x: Any) -> Any:
    """The array behind a value; anything else as it is."""
    return x._data if isinstance(x, Value) else x


def toposort(outputs: Iterable[Value], after: int = 0, ends: Container[Node] = ()) -> list[Node]:
    """Every node that the outputs depend on and that is not older than `after`, arguments before their users. Iterative.

    What only `ends` depend on is left out.
    """
    seen: set[Node] = set()
    stack = [v.node for v in outputs if v.node is not None]
    while stack:
        node = stack.pop()
        if node in seen or node.order < after:
            continue
        seen.add(node)
        if node in ends:
            continue
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
        missing = [
            n for x, n in zip(node.raw, map(node_of, node.args), strict=True) if isinstance(x, (Node, Output)) and n not in known
        ]
        if missing:
            stack.extend(n for n in missing if n is not None)
            continue
        assert node.prim is not None
        inputs = [known[x] if isinstance(x, Node) else known[x.node][x.index] if isinstance(x, Output) else x for x in node.raw]
        check_unwritten(node, inputs)
        out = node.prim.function(*inputs, **node.params)
        out = out[0] if node.prim.saves else out
        known[stack.pop()] = out if isinstance(out, tuple) or backend.is_array(out) else np.asarray(out)
    return known[arg]


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
