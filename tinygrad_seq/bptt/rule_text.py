"""Tapes as formulas: what `compile.show` writes for the loops, with the parameters of ops, comparisons and shapes besides."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ..backend import is_array
from ..compile.expressions import Expressions, Op, used
from ..compile.show import formula
from ..graph import Value, raw, toposort
from ..transforms import same

LISTED = ("concatenate", "stack")  # which take their arrays as one list
COMPARISONS = {
    "equal": "=", "not_equal": "≠", "less": "<", "less_equal": "≤", "greater": ">", "greater_equal": "≥", "logical_and": "and",
    "logical_or": "or",
}  # fmt: skip
NUMBERS = {
    math.log(2): "log(2)", math.log(10): "log(10)", 2 / math.sqrt(math.pi): "(2/√π)", 1 / math.sqrt(2 * math.pi): "(1/√(2π))",
    math.sqrt(0.5): "√(1/2)",
}  # fmt: skip
GLOSSARY = {
    "÷": "as /, and 0 where it divides by 0",
    "add_at": "add_at(z, [key], g) is z with g added at z[key]; a place named twice receives both",
    "k": "indices that the rule works out",
    "sum_to": "the sum over the axes along which an array of that shape was stretched",
    "broadcast_to": "stretched to that shape: axes of size 1 repeat, missing ones on the left are new",
    "on_diagonal": "zeros with these numbers on the diagonal",
    "cofactors": "det(x) inv(x)^T, also where x is singular",
    "middle": "1 at the middle element; 1/2 at each of the middle two",
    "others": "the product of all other elements",
    "unpool": "zeros with each g added where the winner of its window stands",
    "winner": "which element of its window is the largest, the first of equals",
    "window_sum": "the sum of each window",
    "window_spread": "each g added to every element of its window",
    "conv_transpose": "each g added, times the weight, to every element that its window saw",
    "conv_weight": "the sum over all places of g times what the window saw",
    "sum_over_places": "the sum over all axes but the second",
    "normal_cdf": "Φ, the probability that a standard normal number is below x",
    "occupancy": "the share of the paths through (time, symbol) among all that collapse to the targets, weighted by their probability",
    "std_rows": "√(mean((x - mean(x))²) + eps) along the normalized axes",
}  # fmt: skip
BY_PLACE = (
    "reshape",
    "broadcast_to",
    "sum_to",
    "take",
    "astype",
    "expand_dims",
    "swapaxes",
)  # written without their parameters' names
TRIVIAL = {"stride": 1, "dilation": 1, "groups": 1, "padding": 0, "margins": 0}


def below(i: int) -> str:
    """A number as an index: ₁₂."""
    return "".join("₀₁₂₃₄₅₆₇₈₉"[int(d)] for d in str(i))


class Writer(Expressions):
    """Reads tapes into formulas. names: of the ops that have one; params: arrays by name; shapes: of the arguments."""

    def __init__(self, params: Mapping[str, Any], shapes: Mapping[str, Sequence[int]]):
        super().__init__()
        self.params, self.shapes = params, {tuple(s): name for name, s in reversed(list(shapes.items()))}
        self.names: dict[Op, str] = {}
        self.simple: dict[Op, Op] = {}
        self.rank: dict[Op, int] = {}  # of simplified ops, their place on the tape

    def follow(self, outputs: Sequence[Value], at: dict[Any, Any]) -> None:
        """Take up what the outputs were computed from; `same` is its argument."""
        for node in toposort(outputs):
            if node.prim is same.primitive:
                at[node] = at[node.args[0]]
            else:
                self.read([node], at)

    def constant(self, a: Any) -> Op:
        """What a rule computes with and the tape does not show: a number, an array."""
        return self._constant(a)

    def _constant(self, a: Any) -> Op:
        value = raw(a)
        if a is None:
            op = self.op("input", (), ("nothing", 0), (), float)
            self.names[op] = "None"
            return op
        if getattr(value, "ndim", 0) and value.size and not (value == value.flat[0]).all():
            known = next((k for k, c in enumerate(self.constants) if c is value or np.array_equal(c, value)), None)
            if known is None:
                known = len(self.constants)
                self.constants.append(value)
            op = self.input("constant", known, value)
            self.names.setdefault(op, "k")
            return op
        return super()._constant(a)

    # ---- Simpler ---------------------------------------------------------------------------------------------------------------------

    def simplified(self, op: Op) -> Op:
        """The same without what changes nothing: factors of 1, shapes that are there already, stretching that the next op does anyway."""
        for inner in used([op]):
            if inner not in self.simple:
                named = inner in self.names or not inner.args
                self.simple[inner] = inner if named else self._simpler(inner, [self.simple[a] for a in inner.args])
                self.rank.setdefault(self.simple[inner], inner.number)
        return self.simple[op]

    def _simpler(self, op: Op, args: list[Op]) -> Op:
        numbers = [a.params[0] if a.kind == "number" else None for a in args]
        if op.kind == "map" and len(args) == 2:
            shapes = [a.shape for a in args]
            args = [
                a.args[0] if _is(a, "broadcast_to") and op.shape == shapes[i ^ 1] and a.args[0].kind != "number" else a
                for i, a in enumerate(args)
            ]
        if op.name == "multiply" and 0 in numbers:
            return self.number(0)
        if op.name == "multiply" and 1 in numbers and args[numbers.index(1) ^ 1].shape == op.shape:
            return args[numbers.index(1) ^ 1]
        if op.name == "divide" and numbers[1] == 1:
            return args[0]
        if op.kind == "map" and [_is(a, "broadcast_to") for a, n in zip(args, numbers, strict=True) if n is None] == [True]:
            stretched = next(a for a in args if _is(a, "broadcast_to"))
            args = [stretched.args[0] if a is stretched else a for a in args]
            inner = self.op(op.kind, args, op.params, stretched.args[0].shape, op.dtype, op.fn)
            return self._again(stretched, [self._simpler(inner, args)])
        if _is(op, "reshape", "broadcast_to", "sum_to") and op.shape == args[0].shape:
            return args[0]
        if _is(op, "reshape") and _is(args[0], "reshape", "expand_dims"):
            return self._simpler(self._again(op, args[0].args), [*args[0].args])
        if _is(op, "transpose") and keywords(op).get("axes") == tuple(range(args[0].ndim)):
            return args[0]
        if _turns(op) and _turns(args[0]):
            return args[0].args[0]
        if _turns(op) and _is(args[0], "matmul") and op.ndim == 2:  # (a b)^T = b^T a^T
            b, a = (self.simplified(self._turned(x)) for x in reversed(args[0].args))
            return self.op("call", [b, a], args[0].params, op.shape, op.dtype, np.matmul)
        if _is(op, "matmul") and _turns(args[0]) and all(_is(a, "concatenate") for a in (args[0].args[0], args[1])):
            return self._of_rows(op, args[0].args[0].args, args[1].args)
        if _is(op, "inner") and args[1].ndim == 2:
            return self.op("call", [args[0], self._turned(args[1])], ("matmul", op.params[1]), op.shape, op.dtype, np.matmul)
        return self._again(op, args)

    def _of_rows(self, op: Op, left: Sequence[Op], right: Sequence[Op]) -> Op:
        """[a; b]^T [c; d] = a^T c + b^T d."""
        terms = []
        for a, b in zip(left, right, strict=True):
            terms.append(self.op("call", [self._turned(a), b], ("matmul", op.params[1]), op.shape, op.dtype, np.matmul))
        total = terms[0]
        for term in terms[1:]:
            total = self.map("add", total, term)
        return total

    def _turned(self, op: Op) -> Op:
        return self.op("call", [op], ("transpose", 0), op.shape[::-1], op.dtype, np.transpose)

    def _again(self, op: Op, args: Sequence[Op]) -> Op:
        return self.op(op.kind, args, op.params, op.shape, op.dtype, op.fn)

    # ---- Text ------------------------------------------------------------------------------------------------------------------------

    def text(self, op: Op, whole: bool = False) -> str:
        """The formula of an op; whole: even if it has a name itself."""
        if whole and op.args:
            op, own = self._simpler(op, [self.simplified(a) for a in op.args]), op
        else:
            op = own = self.simplified(op)
        names = dict(self.names)
        if whole:
            names.pop(op, None)
            names.pop(own, None)
        for inner in used([op]):
            if inner not in names and (written := self._written(inner, names)):
                names[inner] = written
        return _plain(formula(op, names)).replace(" + -", " - ")

    def abbreviated(self, outputs: Sequence[Op], letters: Callable[[Op], str | None] | None = None) -> dict[str, str]:
        """Letters for formulas that stand in these at least twice: what each letter is, in an order in which they can be read.

        letters: the letter of an op, None for none; without it those that are free, for long formulas.
        """
        uses = dict.fromkeys(used(outputs), 0)
        for argument in [a for op in uses for a in op.args]:
            uses[argument] += 1
        free = iter([letter for letter in "uvwpqrstabcde" if letter not in self.names.values()])
        where: dict[str, str] = {}
        for op, count in uses.items():
            block = letters is not None and op.kind == "join" and op.linear  # the gates side by side
            if (count > 1 or block) and op.kind in ("map", "call", "join") and op not in self.names:
                text = self.text(op)
                letter = letters(op) if letters else next(free, None) if len(text) > 16 else None
                if letter is not None:
                    where[letter] = text
                    self.names[op] = letter
        return where

    def _written(self, op: Op, names: Mapping[Op, str]) -> str:
        """What the formulas of loops leave out: parameters, comparisons, numbers with a name. Empty where they leave out nothing."""

        def of(k: int, tight: int = 0) -> str:
            return formula(op.args[k], names, tight=tight)

        if op.kind == "number":
            return next((name for number, name in NUMBERS.items() if op.params[0] == number), "")
        if op.kind == "part":
            return f"{of(0, 4)}[..., {op.params[0]}:{op.params[1]}]"
        if op.kind == "join":
            return f"concatenate(({', '.join(of(k) for k in range(len(op.args)))}), axis=-1)"
        if op.kind == "pick":
            return f"{of(0)}[{op.params[0]}]"
        if op.kind == "input":
            return "k" if op.params[0] == "constant" else ""
        if op.name in COMPARISONS:
            return f"({of(0)} {COMPARISONS[op.name]} {of(1)})"
        if op.name == "power" and op.args[1].kind == "number":
            n = op.args[1].params[0]
            return of(0, 4) + ("" if n == 1 else "²" if n == 2 else f"^{n:g}" if n >= 0 else f"^({n:g})")
        if op.name == "divide" and (divisor := _guarded(op.args[1])) is not None:
            return f"({of(0, 2)} ÷ {formula(divisor, names, tight=3)})"
        if _turns(op):
            return f"{of(0, 4)}^T"
        if op.kind != "call" or (op.name in ("transpose", "matmul", "sum_to") and not keywords(op)):
            return ""
        return self._call(op, names)

    def _call(self, op: Op, names: Mapping[Op, str]) -> str:
        """A call with its parameters."""
        params = {
            k: self.value(v[0] if k == "axis" and v == v[:1] else v) if isinstance(v, tuple) else self.value(v)
            for k, v in keywords(op).items()
        }
        if op.name == "on_diagonal" and [params.pop(k) for k in ("offset", "axis1", "axis2")] != ["0", "0", "1"]:
            params = {k: self.value(v) for k, v in keywords(op).items()}
        known = inspect.signature(getattr(op.fn, "func", op.fn)).parameters.values() if callable(op.fn) else ()
        called = [p.name for p in known] if all(p.kind is not p.VAR_POSITIONAL for p in known) else []
        arguments = [
            called[k] if names.get(a) == "k" and k < len(called) else _plain(formula(a, names)) for k, a in enumerate(op.args)
        ]
        if op.name == "getitem":
            return f"{formula(op.args[0], names, tight=4)}[{params['key'].strip('()')}]"
        if op.name == "sum_of_slices":
            text = f"zeros({params['shape']})"
            for g, key in zip(arguments, keywords(op)["keys"], strict=True):
                text = f"add_at({text}, [{self.value(key).strip('()')}], {g})"
            return text
        if op.name == "einsum":
            inputs, output = keywords(op).values()
            return f"einsum('{','.join(inputs)}->{output}', {', '.join(arguments)})"
        if op.name == "astype" and op.args[0].dtype == bool:
            return f"1[{arguments[0]}]"
        if op.name in LISTED:
            arguments = [f"({', '.join(arguments)})"]
        given = [v if op.name in BY_PLACE else f"{k}={v}" for k, v in params.items()]
        return f"{op.name}({', '.join([*arguments, *given])})"

    def value(self, value: Any) -> str:
        """A parameter as text: by its name if it is an array, by that of the argument whose shape it is."""
        if is_array(value):
            return next((name for name, given in self.params.items() if is_array(given) and np.array_equal(given, value)), "k")
        if isinstance(value, slice):
            return ":".join("" if v is None else str(v) for v in (value.start, value.stop)) + (
                f":{value.step}" if value.step else ""
            )
        if isinstance(value, tuple) and value and all(type(n) is int for n in value):
            return f"{self.shapes[value]}.shape" if value in self.shapes else repr(value)
        if isinstance(value, tuple) and any(isinstance(v, slice) or v is Ellipsis or is_array(v) for v in value):
            return f"({', '.join(self.value(v) for v in value)})"
        return "..." if value is Ellipsis else getattr(value, "name", None) or repr(value)


def keywords(op: Op) -> dict[str, Any]:
    """The parameters of an op that are not what they are by default, or do nothing."""
    given = getattr(op.fn, "keywords", None) or {}
    return stated(op.fn.func, given) if given and op.fn is not None else {}


def stated(function: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters without those that are at their default, or do nothing."""
    known = inspect.signature(function).parameters
    found = {k: v for k, v in given.items() if k not in known or known[k].default is not v}
    return {k: v for k, v in found.items() if k not in TRIVIAL or set(_flat(v)) != {TRIVIAL[k]}}


def _flat(value: Any) -> list[Any]:
    return [x for v in value for x in _flat(v)] if isinstance(value, (tuple, list)) else [value]


def _is(op: Op, *names: str) -> bool:
    return op.kind == "call" and op.name in names


def _turns(op: Op) -> bool:
    """Whether an op exchanges the last two axes: ^T."""
    if _is(op, "swapaxes"):
        return {a % op.ndim for a in keywords(op).values()} == {op.ndim - 1, op.ndim - 2}
    return _is(op, "transpose") and op.ndim == 2 and "axes" not in keywords(op)


def _guarded(op: Op) -> Op | None:
    """The divisor y of a quotient that is 0 where y is: where(y = 0, inf, y)."""
    if op.kind == "map" and op.name == "where" and op.args[0].name == "equal" and op.args[1].params[:1] == (math.inf,):
        y, zero = op.args[0].args
        return y if zero.kind == "number" and zero.params[0] == 0 and op.args[2] is y else None
    return None


def _plain(text: str) -> str:
    """Without brackets that nobody needs: around a whole text, around an argument."""
    text = _unwrapped(text)
    pieces, at = [], 0
    for found in re.finditer(r"(?<=[a-z0-9_]\()\(|(?<=, )\(|(?<=\[)\(", text):
        if found.start() < at:
            continue
        end = _closing(text, found.start())
        inner = text[found.start() + 1 : end]
        if text[end + 1 : end + 2] in (",", ")", "]") and not _has_comma(inner):
            pieces += [text[at : found.start()], _plain(inner)]
            at = end + 1
    return "".join([*pieces, text[at:]])


def _unwrapped(text: str) -> str:
    while text.startswith("(") and _closing(text, 0) == len(text) - 1 and not _has_comma(text[1:-1]):
        text = text[1:-1]
    return text


def _closing(text: str, start: int) -> int:
    depth = 0
    for k in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[k], 0)
        if depth == 0:
            return k
    return len(text)


def _has_comma(text: str) -> bool:
    """Whether the text is a tuple: a comma outside of inner brackets."""
    depth = 0
    for letter in text:
        depth += {"(": 1, "[": 1, ")": -1, "]": -1}.get(letter, 0)
        if letter == "," and depth == 0:
            return True
    return False
