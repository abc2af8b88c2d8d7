"""A model as a recurrence with a loss at every step: what the roads to its gradient, and the plans of recomputation, have in common.

state_t, y_t = model(x_t, state_(t-1); θ),        L = Σ_t ℓ(y_t, t)
"""

from __future__ import annotations

import gc
import inspect
import tracemalloc
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ..backend import array_module, is_array, to_numpy
from ..cut import each_part
from ..errors import ArgumentError, ShapeError, describe, message
from ..frames import frame
from ..graph import Value, box, leaf, raw
from ..tensor import Tensor


class Recurrence:
    """A step, a cell, a layer or a whole model, with the sequence that it reads.

        step(x, *state, *weights) -> the new state          a function; y is the first array of the state
        cell(x, state) -> the new state                     a module that tells its state (hidden_size, state_sizes or initial_state)
        model(xs, state) -> (ys, state)                     any other module: a layer of nn, a network around it; it reads one step at a time

    xs (T, B, ...), state None or that before the first step, weights the leaves to differentiate by (of a module: its parameters), as a
    sequence or by name. loss(y, t), t = 1 ... T, is a scalar; without one ½ |y|².
    """

    def __init__(self, who: str, model: Any, xs: Any, state: Any, weights: Any, loss: Callable[[Any, int], Any] | None):
        self.who, self.model, self.xs = who, model, raw(xs)
        self.steps_run = 0
        self.loss = loss if loss is not None else lambda y, t: 0.5 * (y * y).sum()
        if not is_array(self.xs) or self.xs.ndim < 1 or not len(self.xs):
            raise ShapeError(message(f"{who}: xs is {describe(xs)}", expected="an array (T, B, ...) of at least one step"))
        self.T = len(self.xs)
        _takes_two(who, self.loss)
        self.is_module = hasattr(model, "named_parameters")
        if not self.is_module and not (callable(model) and weights is not None and state is not None):
            raise ArgumentError(
                message(
                    f"{who}: {describe(model)} with state {describe(state)} and weights {describe(weights)}",
                    expected="a module, or a function step(x, *state, *weights) with its state and its weights",
                )
            )
        if getattr(model, "bidirectional", False) or getattr(model, "batch_first", False):
            raise ArgumentError(
                message(
                    f"{who}: {type(model).__name__}", expected="a model that reads xs (T, B, ...) step by step, in one direction"
                )
            )
        self.is_cell = self.is_module and not hasattr(model, "num_layers")
        self.is_cell = self.is_cell and any(hasattr(model, name) for name in ("hidden_size", "state_sizes", "initial_state"))
        self.weights = self._named(dict(model.named_parameters()) if weights is None else weights)
        self.given = state

    def _named(self, weights: Any) -> dict[str, Any]:
        if not isinstance(weights, Mapping):
            listed = [weights] if isinstance(weights, Value) else list(weights)
            weights = {getattr(w, "name", None) or f"weight {i}": w for i, w in enumerate(listed, 1)}
            if len(weights) < len(listed):
                weights = {f"{getattr(w, 'name', None) or 'weight'} #{i}": w for i, w in enumerate(listed, 1)}
        found = {name: w if isinstance(w, Value) else Tensor(w, requires_grad=True) for name, w in weights.items()}
        if not found:
            raise ArgumentError(
                message(f"{self.who}: nothing to differentiate by", expected="weights, or a module that has parameters")
            )
        for name, w in found.items():
            if w.node is None or w.node.prim is not None:
                raise ArgumentError(
                    message(
                        f"{self.who}: {name} {describe(raw(w))} is no leaf", expected="arrays, or Tensors with requires_grad=True"
                    )
                )
        return found

    @property
    def start(self) -> Any:
        """The state before the first step, computed now: it may depend on weights."""
        if self.given is not None or not self.is_cell:
            return self.given
        B, like = self.xs.shape[1], next(iter(self.weights.values()))._data
        if hasattr(self.model, "initial_state"):
            return self.model.initial_state(B)
        sizes = self.model.state_sizes if hasattr(self.model, "state_sizes") else self.model.hidden_size
        zeros = [
            box(array_module(like).zeros((B, size), like.dtype), None)
            for size in (sizes if isinstance(sizes, (tuple, list)) else (sizes,))
        ]
        return tuple(zeros) if isinstance(sizes, (tuple, list)) else zeros[0]

    def step(self, t: int, state: Any) -> tuple[Any, Any]:
        """The state after step t, and y_t."""
        self.steps_run += 1
        with frame("steps", t):
            if not self.is_module:
                before = tuple(state) if isinstance(state, (tuple, list)) else (state,)
                new = self.model(self.xs[t - 1], *before, *self.weights.values())
                new = tuple(new) if isinstance(state, (tuple, list)) else new
            elif self.is_cell:
                new = self.model(self.xs[t - 1], state)
            else:
                result = self.model(self.xs[t - 1 : t], state)
                if not isinstance(result, tuple) or len(result) != 2:
                    raise ArgumentError(
                        message(
                            f"{self.who}: the model returned {describe(raw(result))}", expected="(ys, state) from model(xs, state)"
                        )
                    )
                return result[1], result[0][0]
        return new, arrays_of(new)[0]

    def run(self, first: int, last: int, state: Any) -> tuple[Any, Any]:
        """The steps first ... last from a state: the sum of their losses, and the state behind them."""
        total: Any = 0.0
        for t in range(first, last + 1):
            state, y = self.step(t, state)
            with frame("steps", t):
                part = self.loss(y, t)
            if np.size(raw(part)) != 1:
                raise ShapeError(
                    message(f"{self.who}: the loss of step {t} is {describe(raw(part))}", expected="a scalar", do="sum() it")
                )
            total = part if t == first else total + part
        return total, state


def _takes_two(who: str, loss: Callable[..., Any]) -> None:
    """Raise unless a loss can be called as loss(y, t)."""
    try:
        inspect.signature(loss).bind(None, 1)
    except TypeError as cause:
        raise ArgumentError(
            message(f"{who}: loss(y, t): {cause}", expected="a function of the output y and the step t", do="lambda y, t: ...")
        ) from None
    except ValueError:  # a function that does not tell what it takes
        pass


def arrays_of(state: Any) -> list[Any]:
    """The arrays of a state, whatever it is nested in."""
    found: list[Any] = []
    each_part(lambda x: found.append(x) if is_array(raw(x)) else None, state)
    return found


def as_leaves(state: Any) -> Any:
    """The same numbers as leaves, to differentiate by."""
    return each_part(lambda x: box(raw(x), leaf(raw(x))) if is_array(raw(x)) else x, state)


def peak_of(f: Callable[[], Any]) -> int:
    """The most memory, in bytes, that running f takes at one moment beyond what was there before. Slow: every allocation is traced."""
    gc.collect()
    traced = tracemalloc.is_tracing()
    if not traced:
        tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        f()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        if not traced:
            tracemalloc.stop()


def amount(count: float) -> str:
    """A number of bytes as text: 512 B, 12.5 kB, 3.2 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            break
        count /= 1000
    return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.1f} {unit}"


def numbers(x: Any) -> Any:
    """A gradient as a NumPy array."""
    return to_numpy(raw(x))
