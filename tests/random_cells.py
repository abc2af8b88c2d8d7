"""Random step functions out of the ops that the scan compiler knows, from a generator: one with a seed, or one that hypothesis plays.

A cell is a list of lines, each an op applied to earlier values. Every value is (B, width), so what broadcasts is a column (B, 1), a vector
(H,) or a scalar. Bounds are carried along: nothing grows over time, so that a tolerance means the same for every cell.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any, NamedTuple

import numpy as np
from hypothesis import strategies as st

import tinygrad_seq as tg
from tinygrad_seq.nn import functional as F

STEEPEST = 8.0  # no value is larger: beyond, tanh is so near to 1 that ties are decided by rounding


class Line(NamedTuple):
    """One op: value number `makes` (or several from there on) of earlier values, weights by their places, and settings."""

    op: str
    of: tuple[int, ...]
    weights: tuple[int, ...] = ()
    settings: tuple[Any, ...] = ()


class Cell(NamedTuple):
    """A step function: called as cell(x, *states, *weights) it returns the new states, and, if it collects, something more."""

    D: int
    widths: tuple[int, ...]
    shapes: tuple[tuple[int, ...], ...]  # of the weights
    lines: tuple[Line, ...]
    returned: tuple[int, ...]  # for each state the value that it becomes
    collected: tuple[int, ...]

    def __call__(self, x: Any, *rest: Any) -> Any:
        states, weights = rest[: len(self.widths)], rest[len(self.widths) :]
        values = [x, *states]
        for op, of, ws, settings in self.lines:
            made = OPS[op](*(values[i] for i in of), *(weights[i] for i in ws), *settings)
            values += made if isinstance(made, tuple) else [made]
        new = tuple(values[i] for i in self.returned)
        if self.collected:
            return *new, tuple(values[i] for i in self.collected)
        return new if len(new) > 1 else new[0]

    def __repr__(self) -> str:
        """The cell as it would be written: x is v0, the states follow."""
        lines, made = [], 1 + len(self.widths)
        for op, of, ws, settings in self.lines:
            several = 2 if op == "split" else 1
            names = ", ".join(f"v{made + i}" for i in range(several))
            made += several
            lines.append(f"{names} = {op}({', '.join([*(f'v{i}' for i in of), *(f'w{i}' for i in ws), *map(repr, settings)])})")
        end = f"return {', '.join(f'v{i}' for i in self.returned)}; collect {', '.join(f'v{i}' for i in self.collected)}"
        return "\n    ".join([f"Cell of x {self.D}, states {self.widths}, weights {self.shapes}:", *lines, end])


def layer_norm_written_out(a: Any) -> Any:
    centred = a - tg.mean(a, axis=-1, keepdims=True)
    return centred / tg.sqrt(tg.mean(centred * centred, axis=-1, keepdims=True) + 0.1)


def choose_where_greater(a: Any, b: Any, c: Any, d: Any) -> Any:
    return tg.where(a > b, c, d)


OPS: dict[str, Callable[..., Any]] = {
    "linear": F.linear,
    "matmul": tg.matmul,
    "add": tg.add,
    "subtract": tg.subtract,
    "subtract_from": lambda a, b: b - a,
    "multiply": tg.multiply,
    "divide": lambda a, b: a / (1 + tg.square(b)),
    "maximum": tg.maximum,
    "minimum": tg.minimum,
    "where_greater": choose_where_greater,
    "where_less_equal": lambda a, b, c, d: tg.where(a <= b, c, d),
    "negative": tg.negative,
    "tanh": tg.tanh,
    "sigmoid": tg.sigmoid,
    "relu": F.relu,
    "softplus": F.softplus,
    "exp_of_tanh": lambda a: tg.exp(tg.tanh(a)),
    "root": lambda a: tg.sqrt(1 + a * a),
    "clip": lambda a, low, high: tg.clip(a, low, high),
    "slice": lambda a, first, end: a[..., first:end],
    "split": lambda a: tuple(tg.split(a, 2, axis=-1)),
    "concatenate": lambda *parts: tg.concatenate(parts, axis=-1),
    "sum": lambda a: tg.sum(a, axis=-1, keepdims=True),
    "mean": lambda a: tg.mean(a, axis=-1, keepdims=True),
    "max": lambda a: tg.max(a, axis=-1, keepdims=True),
    "softmax": F.softmax,
    "layer_norm": layer_norm_written_out,
}
OF_TWO = ("add", "subtract", "subtract_from", "multiply", "divide", "maximum", "minimum")


class _Builder:
    """A cell under construction: its values with their widths and bounds."""

    def __init__(self, rng: Random, D: int, widths: tuple[int, ...], visible: list[int]):
        self.rng = rng
        self.widths = [D, *widths]
        self.bounds = [1.0] * len(self.widths)
        self.lines: list[Line] = []
        self.shapes: list[tuple[int, ...]] = []
        self.visible = visible  # the values that may be read
        self.unread = list(visible)

    def value(self, widths: set[int] | None = None) -> int:
        """One of the values of these widths, rather one that nothing has read yet."""
        fitting = [[i for i in among if widths is None or self.widths[i] in widths] for among in (self.unread, self.visible)]
        i = self.rng.choice(fitting[0] if fitting[0] and self.rng.random() < 0.7 else fitting[1])
        if i in self.unread:
            self.unread.remove(i)
        return i

    def weight(self, *shape: int) -> int:
        """A new weight, or one that is there already."""
        known = [i for i, other in enumerate(self.shapes) if other == shape]
        if known and self.rng.random() < 0.3:
            return self.rng.choice(known)
        self.shapes.append(shape)
        return len(self.shapes) - 1

    def add(self, line: Line, *made: tuple[int, float]) -> int:
        """Append a line that makes values of these (width, bound), squashed where they could grow."""
        self.lines.append(line)
        for width, bound in made:
            self.widths.append(width)
            self.bounds.append(bound)
            self.visible.append(len(self.widths) - 1)
            self.unread.append(len(self.widths) - 1)
        last = len(self.widths) - 1
        if self.bounds[last] > STEEPEST:
            self.unread.remove(last)
            return self.add(Line("tanh", (last,)), (self.widths[last], 1.0))
        return last

    def second(self, width: int) -> tuple[tuple[int, ...], tuple[int, ...], tuple[Any, ...], int, float]:
        """What stands beside a value of this width: another, a vector, a scalar or a number; the width of both together; its bound."""
        kind = self.rng.randrange(6)
        if kind < 3:
            i = self.value(None if width == 1 else {1, width})
            return (i,), (), (), max(width, self.widths[i]), self.bounds[i]
        if kind < 5:
            return (), (self.weight(*(() if kind == 4 else (width,))),), (), width, 1.0
        number = self.rng.choice([1, 0.3, -1.7])
        return (), (), (number,), width, abs(number)

    def line(self, op: str) -> None:
        """Append a line of this op."""
        i = self.value()
        width, bound = self.widths[i], self.bounds[i]
        if op in ("linear", "matmul"):
            out = self.rng.randint(1, 4)
            shape = (out, width) if op == "linear" else (width, out)
            biased = op == "linear" and self.rng.random() < 0.5
            weights = (self.weight(*shape), *([self.weight(out)] if biased else []))
            self.add(Line(op, (i,), weights), (out, width * bound + 1))
        elif op in OF_TWO:
            values, weights, numbers, width, other = self.second(width)
            grown = {"multiply": bound * other, "divide": bound}.get(op, bound + other)
            self.add(Line(op, (i, *values), weights, numbers), (width, grown))
        elif op.startswith("where"):
            others = [self.value({1, width}) for _ in range(3)]
            self.add(Line(op, (i, *others)), (width, max(self.bounds[j] for j in others)))
        elif op == "clip":
            self.add(Line(op, (i,), (), (-0.4, 0.6)), (width, 0.6))
        elif op == "slice":
            first = self.rng.randrange(width)
            end = self.rng.randint(first + 1, width)
            self.add(Line(op, (i,), (), (first, end)), (end - first, bound))
        elif op == "split":
            if even := {w for w in {self.widths[j] for j in self.visible} if w % 2 == 0}:
                i = self.value(even)
                half = self.widths[i] // 2
                self.add(Line(op, (i,)), (half, self.bounds[i]), (half, self.bounds[i]))
        elif op == "concatenate":
            joined = (i, *(self.value() for _ in range(self.rng.randint(1, 2))))
            self.add(Line(op, joined), (sum(self.widths[j] for j in joined), max(self.bounds[j] for j in joined)))
        elif op in ("sum", "mean", "max"):
            self.add(Line(op, (i,)), (1, bound * width if op == "sum" else bound))
        else:
            bounds = {
                "negative": bound, "relu": bound, "softplus": bound + 1, "exp_of_tanh": 3.0, "root": bound + 1, "layer_norm": width**0.5,
            }  # fmt: skip
            self.add(Line(op, (i,)), (width, bounds.get(op, 1.0)))

    def state(self, width: int, given: int) -> int:
        """What a state becomes: a value of its width that cannot grow, now and then one of those given; else one made for it."""
        fitting = [i for i in range(1, len(self.widths)) if self.widths[i] == width and self.bounds[i] <= 1]
        made = [i for i in fitting if i > given]
        if fitting and self.rng.random() < 0.15:
            return self.rng.choice(fitting)
        if made and self.rng.random() < 0.5:
            return self.rng.choice(made)
        i = self.value()
        out = self.add(Line("linear", (i,), (self.weight(width, self.widths[i]),)), (width, self.widths[i] * self.bounds[i]))
        return out if self.bounds[out] <= 1 else self.add(Line("tanh", (out,)), (width, 1.0))


def random_cell(rng: Random, count: int) -> Cell:
    """A cell of so many drawn ops with one to three states; some do not see x, or an old state, or leave a weight unread."""
    D, widths = rng.randint(1, 4), tuple(rng.randint(1, 4) for _ in range(rng.randint(1, 3)))
    visible = list(range(len(widths) + 1))
    if rng.random() < 0.25:
        visible.remove(rng.choice(visible))
    builder = _Builder(rng, D, widths, visible)
    for _ in range(count):
        builder.line(rng.choice(list(OPS)))
    if rng.random() < 0.2:
        builder.shapes.append((2, 3))
    returned = tuple(builder.state(width, len(widths)) for width in widths)
    collected = tuple(rng.randrange(len(builder.widths)) for _ in range(rng.randint(1, 2))) if rng.random() < 0.4 else ()
    return Cell(D, widths, tuple(builder.shapes), tuple(builder.lines), returned, collected)


class Call(NamedTuple):
    """How a cell is run over time, and by what it is differentiated."""

    T: int
    B: int
    reverse: bool
    lengths: tuple[int, ...] | None
    xs_wanted: bool
    states_wanted: bool
    weights_wanted: bool


def random_call(rng: Random) -> Call:
    """T in 1 ... 5, B in 1 ... 4, either way round, of full or of drawn lengths."""
    T, B = rng.randint(1, 5), rng.randint(1, 4)
    lengths = tuple(rng.randint(0, T) for _ in range(B)) if rng.random() < 0.5 else None
    wanted = rng.choice([(True, True, True)] * 3 + [(False, True, True), (True, False, True), (True, True, False)])
    return Call(T, B, rng.random() < 0.5, lengths, *wanted)


@st.composite
def cells_and_calls(draw: Callable[..., Any]) -> tuple[Cell, Call]:
    """A cell and how to run it. The ops come from a generator, so that cells differ; where one fails, hypothesis looks for a shorter one."""
    count, seed = draw(st.integers(3, 12)), draw(st.integers(0, 2**32 - 1))
    rng = Random(seed)
    call = random_call(rng)
    return random_cell(rng, count), call


def arrays_of(cell: Cell, call: Call) -> tuple[np.ndarray, list[np.ndarray], list[np.ndarray]]:
    """xs with NaN in its padding, initial states and weights, all in ±1."""
    rng = np.random.default_rng(0)
    xs = rng.uniform(-1, 1, (call.T, call.B, cell.D))
    if call.lengths is not None:
        xs[np.arange(call.T)[:, None] >= np.array(call.lengths)] = np.nan
    states = [rng.uniform(-1, 1, (call.B, width)) for width in cell.widths]
    return xs, states, [rng.uniform(-1, 1, shape) for shape in cell.shapes]
