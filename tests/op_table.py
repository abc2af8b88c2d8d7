"""The op table: what a row says, how its arguments are drawn, and the rows of all `rows_*.py` beside this file.

A row is one line: the op's public name, a strategy for its arguments, the NumPy function it equals (default: the one of that name), and
how often it can be differentiated. `test_ops.py` does the rest, for every row on every back-end.

    Row("tanh", unary())
    Row("log", unary(positive))
    Row("stack", cases, listed=True)                  # called as stack([a, b], ...)
    Row("argsort", cases, order=0)                    # no gradient
    Row("linalg.inv", cases)                          # numpy.linalg.inv
    Row("sigmoid", unary(), lambda x: 1 / (1 + np.exp(-x)))
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, reduce
from pathlib import Path
from typing import Any, NamedTuple

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np

from tinygrad_seq import ops


class Case(NamedTuple):
    """Arguments of one call. Float64 arrays among `args` are differentiated; all else is passed as it is."""

    args: tuple[Any, ...]
    params: dict[str, Any] = {}  # noqa: RUF012 (never written to)


@dataclass(frozen=True)
class Row:
    """One public op: how to draw arguments for it, what it equals, how often it can be differentiated."""

    name: str  # in tinygrad_seq.ops; "linalg.inv" for what stands in ops.linalg
    cases: st.SearchStrategy[Case]
    reference: Callable[..., Any] | None = None  # NumPy's function of the same name
    order: int = 2  # 0: its result is a constant
    listed: bool = False  # the arrays come as one list
    waits: bool = False  # it has to wait for the device (the size of its result, or an error, depends on the numbers)
    label: str = ""  # tells several rows of one op apart

    def __str__(self) -> str:
        return f"{self.name}-{self.label}" if self.label else self.name

    @property
    def op(self) -> Callable[..., Any]:
        return reduce(getattr, self.name.split("."), ops)

    @property
    def numpy(self) -> Callable[..., Any]:
        return self.reference or reduce(getattr, self.name.split("."), np)

    def call(self, f: Callable[..., Any], case: Case) -> Any:
        return f(list(case.args), **case.params) if self.listed else f(*case.args, **case.params)


@cache
def rows() -> list[Row]:
    """The rows of every `rows_*.py`."""
    modules = (importlib.import_module(path.stem) for path in sorted(Path(__file__).parent.glob("rows_*.py")))
    return [row for module in modules for row in module.ROWS]


# ---- Numbers: functions (generator, shape) -> array, named after where they lie ---------------------------------------------------

Numbers = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]


def anywhere(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return np.asarray(rng.standard_normal(shape))


def positive(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return np.asarray(rng.uniform(0.2, 3.0, shape))


def nonzero(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return np.asarray(positive(rng, shape) * rng.choice([-1.0, 1.0], shape))


def inside_unit(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return np.asarray(rng.uniform(-0.9, 0.9, shape))


def above_one(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return np.asarray(rng.uniform(1.1, 3.0, shape))


def between_steps(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Far from integers and from halves."""
    return np.asarray(rng.integers(-3, 4, shape) + rng.choice([-1.0, 1.0], shape) * rng.uniform(0.1, 0.4, shape))


def apart(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Far from each other: no ties, and a small step changes no order."""
    size = int(np.prod(shape))
    return np.asarray((rng.permutation(size) - size / 2 + rng.uniform(-0.3, 0.3, size)).reshape(shape) / 2)


def with_zeros(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return np.asarray(rng.standard_normal(shape) * rng.integers(0, 2, shape))


def booleans(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return np.asarray(rng.integers(0, 2, shape) > 0)


def integers(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return np.asarray(rng.integers(-3, 4, shape))


# ---- Strategies -------------------------------------------------------------------------------------------------------------------

generators = st.integers(0, 2**32 - 1).map(np.random.default_rng)


def shapes(min_dims: int = 0, max_dims: int = 3, min_side: int = 1, max_side: int = 4) -> st.SearchStrategy[tuple[int, ...]]:
    return hnp.array_shapes(min_dims=min_dims, max_dims=max_dims, min_side=min_side, max_side=max_side)


@st.composite
def arrays(draw: st.DrawFn, shape: Any = None, numbers: Numbers = anywhere) -> np.ndarray:
    """An array of `shape` (a tuple or a strategy of tuples; default: any small one)."""
    shape = draw(shapes()) if shape is None else draw(shape) if isinstance(shape, st.SearchStrategy) else shape
    return numbers(draw(generators), shape)


@st.composite
def elementwise(draw: st.DrawFn, *numbers: Numbers, **params: st.SearchStrategy[Any]) -> Case:
    """One array for each kind of numbers, of shapes that broadcast against each other; sizes of 0 among them."""
    drawn = draw(hnp.mutually_broadcastable_shapes(num_shapes=len(numbers), max_dims=3, min_side=0, max_side=3))
    rng = draw(generators)  # one for all, so that no two arguments are equal
    args = tuple(kind(rng, shape) for kind, shape in zip(numbers, drawn.input_shapes, strict=True))
    return Case(args, {name: draw(strategy) for name, strategy in params.items()})


def unary(numbers: Numbers = anywhere, **params: st.SearchStrategy[Any]) -> st.SearchStrategy[Case]:
    return elementwise(numbers, **params)


def binary(a: Numbers = anywhere, b: Numbers = anywhere) -> st.SearchStrategy[Case]:
    return elementwise(a, b)


@st.composite
def over_axes(
    draw: st.DrawFn,
    numbers: Numbers = anywhere,
    *,
    several: bool = True,
    none: bool = True,
    min_dims: int = 0,
    min_side: int = 1,
    **params: Any,
) -> Case:
    """One array, and an `axis` of it: None, an int or (several=True) a tuple, negative ones among them; and further parameters."""
    x = draw(arrays(shapes(min_dims=min_dims if none else max(min_dims, 1), min_side=min_side), numbers))
    choices = [st.none()] if none else []
    if x.ndim:
        choices.append(st.integers(-x.ndim, x.ndim - 1))
        if several:
            choices.append(hnp.valid_tuple_axes(x.ndim, min_size=1))
    return Case((x,), {"axis": draw(st.one_of(choices)), **{name: draw(strategy) for name, strategy in params.items()}})
