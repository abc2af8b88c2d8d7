"""The words of compiled loops: how each map reads for one element, and calls told in simpler ops. Knows nothing of loops and memory.

Numbers are written in the dtype of the loop: Numba would compute float32 with a Python float in float64.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .expressions import Expressions, Op
from .trace import Untraceable, why

BINARY = {
    "add": "+", "subtract": "-", "multiply": "*", "divide": "/", "equal": "==", "not_equal": "!=", "less": "<", "less_equal": "<=",
    "greater": ">", "greater_equal": ">=", "logical_and": "&", "logical_or": "|", "logical_xor": "^",
}  # fmt: skip
# An element of a map. NaN counts as NumPy counts it: it goes through a maximum, and fmax leaves it out.
MAPS = {
    **{name: f"{{0}} {sign} {{1}}" for name, sign in BINARY.items()},
    **{name: f"{name}({{0}})" for name in ("exp", "expm1", "log", "log1p", "sigmoid", "sqrt", "tanh")},
    **{
        name: f"np.{name}({{0}})"
        for name in "sin cos tan arcsin arccos arctan sinh cosh arcsinh arccosh arctanh exp2 log2 log10".split()
    },
    **{name: f"np.{name}({{0}})" for name in ("floor", "ceil", "trunc", "sign")},
    **{name: f"np.{name}({{0}}, {{1}})" for name in ("arctan2", "hypot", "logaddexp", "remainder", "floor_divide")},
    "negative": "-{0}",
    "abs": "abs({0})",
    "square": "{0} * {0}",
    "reciprocal": "one / {0}",
    "power": "{0} ** {1}",
    "erf": "erf({0})",
    "normal_cdf": "f(0.5) * (one + erf({0} * f(sqrt(0.5))))",
    "where": "{1} if {0} else {2}",
    "maximum": "{0} if ({0} >= {1}) | ({0} != {0}) else {1}",
    "minimum": "{0} if ({0} <= {1}) | ({0} != {0}) else {1}",
    "fmax": "{0} if ({0} >= {1}) | ({1} != {1}) else {1}",
    "fmin": "{0} if ({0} <= {1}) | ({1} != {1}) else {1}",
    "logical_not": "not {0}",
    "isnan": "{0} != {0}",
    "isinf": "abs({0}) == f(np.inf)",
    "isfinite": "abs({0}) < f(np.inf)",
    "relu": "{0} if {0} > zero else ({0} if {0} != {0} else zero)",
    "softplus": "{0} if {0} > f(20) else (({0} if {0} > zero else zero) + log1p(exp(-abs({0}))))",
    "logsigmoid": "({0} if {0} < zero else zero) - log1p(exp(-abs({0})))",
    "leaky_relu": "{0} if {0} > zero else f(0.01) * {0}",
    "elu": "{0} if {0} > zero else expm1({0} if {0} < zero else zero)",
}
POWERS = {2: "{0} * {0}", 3: "{0} * {0} * {0}", 1: "{0}", 0: "one", -1: "one / {0}", 0.5: "sqrt({0})", -2: "one / ({0} * {0})"}


def template(op: Op) -> str:
    """How an element of a map is computed of those of its arguments."""
    if op.name == "power" and op.args[1].kind == "number" and op.args[1].params[0] in POWERS:
        return POWERS[op.args[1].params[0]]
    if op.name == "clip":
        low, high = (a.kind == "number" and a.params[0] is None for a in op.args[1:])
        lower = "{0}" if low else "({1} if {0} < {1} else {0})"
        return lower if high else f"{{2}} if {lower} > {{2}} else {lower}"
    if op.name not in MAPS:
        raise Untraceable(why(f"Numba's loop has no {op.name}", expected="an op of which compiled loops know an element"))
    return MAPS[op.name]


def number(value: Any) -> str:
    """A number in the dtype of the loop."""
    if isinstance(value, (bool, np.bool_)):
        return str(bool(value))
    named = {0: "zero", 1: "one"}
    if value in named and not math.copysign(1, value) < 0:
        return named[value]
    plain = value.item() if isinstance(value, np.generic) else value
    if not isinstance(plain, (int, float)):
        raise Untraceable(why(f"it computes with {value!r}", expected="real numbers"))
    return f"f({plain!r})" if math.isfinite(plain) else f"f({'-' * (plain < 0)}np.{'nan' if math.isnan(plain) else 'inf'})"


def _is_number(op: Op) -> bool:
    return op.kind == "number" or (op.kind == "map" and all(map(_is_number, op.args)))


class Simpler:
    """Tells calls in maps and in reductions of rows ("row", (v,), (total or mean or largest or smallest,)); what only repeats a number
    along an axis is that number.
    """

    def __init__(self, make: Expressions, B: int, dtype: Any):
        self.make, self.B, self.dtype = make, B, dtype
        self.done: dict[Op, Op] = {}

    def __call__(self, op: Op) -> Op:
        """The op itself, or what stands for it."""
        if op not in self.done:
            self.done[op] = self._told(op)
        return self.done[op]

    def width(self, op: Op) -> int:
        """How many elements of a row it has; 1, if it is the same for a whole row."""
        op = self(op)
        if op.ndim > 2:
            raise Untraceable(why(f"one of its values is {op.shape}", expected="values (B, width) for Numba"))
        return int(op.shape[-1]) if op.ndim == 2 or (op.ndim == 1 and not self.moves(op)) else 1

    def moves(self, op: Op) -> bool:
        """Whether it changes from step to step."""
        stack, seen = [op], set[Op]()
        while stack:
            a = stack.pop()
            if a.kind == "input" and a.params[0] not in ("static", "constant"):
                return True
            stack += [b for b in a.args if b not in seen]
            seen.update(a.args)
        return False

    def _told(self, op: Op) -> Op:
        if op.kind == "map":
            self._check(op)
        elif op.kind == "input" and op.params[0] == "constant":
            return self.make.number(self.make.constants[op.params[1]].flat[0].item())
        elif op.kind == "part" and self.width(op.args[0]) == 1:
            return self(op.args[0])
        elif op.kind in ("call", "pick"):
            return self._call(op)
        return op

    def _check(self, op: Op) -> None:
        """Numba's loops compute each element at its place, in one dtype."""
        args = [a for a in op.args if not _is_number(a)]
        if args and any(dtype not in (self.dtype, np.dtype(bool)) for dtype in (op.dtype, *(a.dtype for a in args))):
            raise Untraceable(why(f"its op {op.name} makes {op.dtype}", expected=f"{self.dtype} or bool"))
        for a in op.args:
            if a.ndim == 1 and op.ndim == 2 and self.moves(a):
                raise Untraceable(why(f"its op {op.name} puts the rows {a.shape} along {op.shape}", expected="values (B, width)"))

    def _call(self, op: Op) -> Op:
        if op.kind == "pick" or not op.args:
            raise self._stranger(op)
        v, name = op.args[0], op.name
        settings = getattr(op.fn, "keywords", None) or {}
        rows = v.ndim == 2 and v.shape[0] == self.B
        if name in ("sum", "mean", "max", "min", "logsumexp") and rows and settings.get("axis") in (-1, 1, (1,), (-1,)):
            return self._reduced({"sum": "total", "max": "largest", "min": "smallest"}.get(name, name), v)
        if name == "sum_to" and rows and op.shape == (self.B, 1) and v.shape != op.shape:
            return self._reduced("total", v)
        if name in ("softmax", "log_softmax") and rows and settings.get("axis", -1) in (-1, 1):
            less = self.make.map("subtract", v, self._reduced("largest", v))
            raised = self._map("exp", less)
            total = self._reduced("total", raised)
            return self._map("divide", raised, total) if name == "softmax" else self._map("subtract", less, self._map("log", total))
        if name == "astype" and v.dtype == op.dtype:
            return self(v)
        if name == "astype" and v.dtype == bool and op.dtype == self.dtype:
            return self(self._map("where", v, self.make.number(1), self.make.number(0)))
        if name in ("broadcast_to", "expand_dims", "reshape", "squeeze") and self._repeats(v, op):
            return self(v)
        raise self._stranger(op)

    def _repeats(self, v: Op, op: Op) -> bool:
        """Whether the result has the same number at all places of a row, or the same row in all rows."""
        if op.ndim > 2 or (op.ndim == 1 and op.shape != (self.B,)) or (op.ndim == 2 and op.shape[0] != self.B):
            return False
        return self.width(v) == 1 or (op.name == "broadcast_to" and v.shape[-1] == op.shape[-1])

    def _reduced(self, how: str, v: Op) -> Op:
        if self.width(v) == 1:
            count = self.make.number(v.shape[1])
            if how == "total":
                return self._map("multiply", self(v), count)
            return self(v) if how != "logsumexp" else self._map("add", self(v), self._map("log", count))
        if how == "logsumexp":
            top = self._reduced("largest", v)
            finite = self._map(
                "where", self.make.op("map", [top], ("isfinite",), top.shape, np.dtype(bool)), top, self.make.number(0)
            )
            return self._map(
                "add", self._map("log", self._reduced("total", self._map("exp", self._map("subtract", v, finite)))), finite
            )
        return self.make.op("row", [v], (how,), (self.B, 1), v.dtype)

    def _map(self, name: str, *args: Op) -> Op:
        shape = np.broadcast_shapes(*(a.shape for a in args))
        return self.make.op("map", args, (name,), shape, self.dtype)

    def _stranger(self, op: Op) -> Untraceable:
        return Untraceable(
            why(
                f"its op {op.name} of {', '.join(str(a.shape) for a in op.args)} is nothing that Numba's loop does element by element",
                expected="maps, linear maps, slices and joins along the last axis, and sums, means and maxima of rows",
            )
        )
