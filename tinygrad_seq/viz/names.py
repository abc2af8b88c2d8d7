"""What boxes are called: the symbols of ops, the names of leaves, and constants in a few characters."""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple

import numpy as np

from ..graph import Node, Value, node_of, raw

PRODUCTS = frozenset({"matmul", "inner", "einsum", "tensordot", "dot", "linear"})
VIEWS = frozenset({"getitem", "transpose", "swapaxes", "unstack"})

# fmt: off
SYMBOLS = {
    "add": "+", "subtract": "−", "multiply": "×", "divide": "÷", "negative": "−", "matmul": "@", "inner": "@ᵀ", "power": "^", "square": "□²",
    "sqrt": "√", "sigmoid": "σ", "sum": "Σ", "prod": "Π", "reciprocal": "1/□", "abs": "|□|", "maximum": "max", "minimum": "min",
    "swapaxes": "□ᵀ", "transpose": "□ᵀ", "concatenate": "concat", "broadcast_to": "broadcast", "sum_to": "Σ",
}
# fmt: on


class View(NamedTuple):
    """A view of a leaf: which leaf, what is written behind its name, and whether it is one element of a sequence."""

    leaf: Node
    text: str
    element: bool


def below(number: int) -> str:
    """A number as a subscript."""
    return str(number).translate(str.maketrans("0123456789-", "₀₁₂₃₄₅₆₇₈₉₋"))


def above(number: int) -> str:
    """A number as a superscript."""
    return str(number).translate(str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻"))


def symbol(node: Node) -> str:
    """The op of a node: its sign where mathematics has one, else its name."""
    assert node.prim is not None
    name = node.prim.name
    if name == "getitem":
        return key_text(node.params.get("key"))
    return str(SYMBOLS.get(name, name))


def view(node: Node) -> str | None:
    """What a view writes behind the name of a leaf; None where the key is an array, which is no view."""
    assert node.prim is not None
    if node.prim.name == "unstack":
        return ""
    if node.prim.name != "getitem":
        return "ᵀ"
    key = node.params.get("key")
    parts = key if isinstance(key, tuple) else (key,)
    return key_text(key) if all(p is None or p is Ellipsis or isinstance(p, (int, slice)) for p in parts) else None


def picks(node: Node) -> bool:
    """Whether a slice picks one element along an axis, as xs[t] and xs[:, t] do."""
    key = node.params.get("key")
    return any(type(part) is int for part in (key if isinstance(key, tuple) else (key,)))


def identity(constant: Any) -> Any:
    """What two uses of the same constant share: the memory. The tape copies bare arrays, so small ones are known by their numbers."""
    array = raw(constant)
    if not isinstance(array, np.ndarray):
        return id(constant)
    if isinstance(constant, Value) or array.nbytes > 65536:
        return array.ctypes.data, array.shape, array.strides
    return array.shape, array.dtype.str, array.tobytes()


def key_text(key: Any) -> str:
    """An index as it is written."""
    return "[" + ", ".join(_part(p) for p in (key if isinstance(key, tuple) else (key,))) + "]"


def _part(part: Any) -> str:
    if isinstance(part, slice):
        ends = [("" if end is None else str(end)) for end in (part.start, part.stop)]
        return ":".join(ends) + ("" if part.step is None else f":{part.step}")
    return "…" if part is Ellipsis else str(part) if part is None or isinstance(part, (int, np.integer)) else "·"


def singular(name: str | None) -> str | None:
    """The name of one element of a sequence: x of xs."""
    return name[:-1] if name and len(name) > 1 and name.endswith("s") and not name.endswith("ss") else name


def value_of_constant(arg: Any) -> str | None:
    """A scalar constant as a short number; None for an array, for what is no constant, and for an argument that was not given."""
    array = raw(arg)
    if arg is None or node_of(arg) is not None or getattr(array, "size", 1) != 1 or getattr(array, "ndim", 0) != 0:
        return None
    value = array.item() if hasattr(array, "item") else array
    return f"{value:.4g}".replace("-", "−") if isinstance(value, float) else str(value)


class Names:
    """The names of leaves and constants, and a number for every parameter, by which it is coloured."""

    def __init__(self, tape: list[Node], views: dict[Node, View]):
        self.views = views
        self.leaves = {node: i for i, node in enumerate(n for n in tape if n.prim is None)}
        given = [leaf.notes_of(0).name or "" for leaf in self.leaves]
        self.tails = Counter(end for name in given for end in {*_ends(name)})
        self.depths: dict[str, int] = {}  # module: which end of a name tells its parameters from all others
        for name in given:
            module = name.rpartition(".")[0]
            self.depths[module] = max(self.depths.get(module, 0), self._depth(name))

    def owner(self, arg: Any) -> Any:
        """The leaf behind a view, or the constant itself."""
        node = node_of(arg)
        return arg if node is None else self.views[node].leaf if node in self.views else node

    def given(self, owner: Any) -> str | None:
        """The name that somebody gave a leaf or a constant."""
        return owner.notes_of(0).name if isinstance(owner, Node) else owner.name if isinstance(owner, Value) else None

    def family(self, leaf: Node) -> int:
        """The number of a parameter."""
        return self.leaves[leaf]

    def of(self, owner: Any) -> str:
        """What to write on the box: the end of the name that tells the parameters of its module from others, a number, or a shape."""
        name = self.given(owner)
        if name:
            depth = max(self._depth(name), self.depths.get(name.rpartition(".")[0], 0))
            return _ends(name)[depth]
        if isinstance(owner, Node):
            return "θ" + (below(self.leaves[owner] + 1) if len(self.leaves) > 1 else "")
        return value_of_constant(owner) or str(tuple(getattr(owner, "shape", ())))

    def _depth(self, name: str) -> int:
        """Which of its ends is the first that no other leaf shares; the whole name where all are shared."""
        ends = _ends(name)
        return next((k for k, end in enumerate(ends) if end and self.tails[end] <= 1), len(ends) - 1)


def _ends(name: str) -> list[str]:
    """The ends of a dotted name, the shortest first: c, b.c, a.b.c."""
    parts = name.split(".")
    return [".".join(parts[k:]) for k in range(len(parts) - 1, -1, -1)]
