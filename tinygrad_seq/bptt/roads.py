"""Four roads to one gradient: the same model differentiated through time backward, forward, with recomputation, and by differences.

    L = Σ_t ℓ(y_t, t),      s_t = f(s_(t-1), x_t; θ)

    back-propagation through time     dL/ds_t = dL/ds_(t+1) ∂s_(t+1)/∂s_t + ∂ℓ_t/∂s_t,          dL/dθ = Σ_t dL/ds_t ∂s_t/∂θ
    real-time recurrent learning      J_t = ∂s_t/∂s_(t-1) J_(t-1) + ∂s_t/∂θ,                   dL/dθ = Σ_t dℓ_t/ds_(t-1) J_(t-1) + ∂ℓ_t/∂θ
    BPTT with recomputation           the first, with the inside of √T steps at a time on the tape
    central differences               dL/dθ_i = (L(θ_i + ε) - L(θ_i - ε)) / 2ε

(Williams & Zipser 1989; Werbos 1990; Chen et al. 2016.) ∂ is the immediate derivative, of one step alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import ceil, sqrt
from time import perf_counter
from typing import Any

import numpy as np

from ..autodiff import grad
from ..backend import array_module
from ..errors import GraphError, ShapeError, message
from ..frames import enable_grad, mode, no_grad
from ..graph import Value, raw
from ..recomputation import recompute
from .recurrence import Recurrence, amount, arrays_of, as_leaves, numbers, peak_of

LARGEST = 2**30  # bytes of the Jacobian that real-time recurrent learning carries


@dataclass(frozen=True)
class Road:
    """One way to the gradient: what it found, and what it took.

    gradients: by weight. seconds: of one run. peak: bytes, the most it held at one moment. laws: what time and memory grow with. difference:
    |g - g of BPTT| / |g of BPTT| over the numbers that it computed, `count` of them. agrees: whether that is rounding.
    """

    name: str
    gradients: dict[str, Any] = field(repr=False)
    seconds: float
    peak: int
    laws: tuple[str, str]
    difference: float
    count: int
    agrees: bool


@dataclass(frozen=True, repr=False)
class Roads:
    """The four roads side by side, and the model's sizes: T steps, N numbers in the state, P in the weights."""

    roads: dict[str, Road]
    loss: float
    T: int
    N: int
    P: int

    def __getitem__(self, name: str) -> Road:
        return self.roads[name]

    @property
    def agree(self) -> bool:
        """Whether all roads led to one gradient, up to rounding."""
        return all(road.agrees for road in self.roads.values())

    def check(self) -> Roads:
        """The same, if all roads agree; GraphError otherwise."""
        if not self.agree:
            raise GraphError(
                message(
                    "four_roads: the gradients differ",
                    got=", ".join(f"{road.name} by {road.difference:.2g}" for road in self.roads.values() if not road.agrees),
                    do="dropout and other chance must be off (model.eval()), weights float64, and no state detached, which differences do "
                    "not see; or else a derivative rule is wrong: tg.testing.check_grads",
                )
            )
        return self

    def table(self) -> str:
        """Time and memory of each road as text, and how far it is from BPTT."""
        lines = [
            f"L = {self.loss:.6g}: T = {self.T} steps, N = {self.N} numbers in the state, P = {self.P} in the weights",
            f"{'':<30}  {'time':>10}  {'grows with':<10}  {'peak memory':>11}  {'grows with':<13}  {'from BPTT':>9}",
        ]
        for road in self.roads.values():
            some = "" if road.count == self.P else f"  ({road.count} of {self.P} numbers)"
            differs = "" if road is next(iter(self.roads.values())) else f"{road.difference:9.1e}"
            verdict = "" if road.agrees else "  differs"
            lines.append(
                f"{road.name:<30}  {1000 * road.seconds:>7.1f} ms  {road.laws[0]:<10}  {amount(road.peak):>11}  {road.laws[1]:<13}"
                f"  {differs}{verdict}{some}".rstrip()
            )
        return "\n".join(lines)

    __repr__ = table


def four_roads(
    model: Any, xs: Any, state: Any = None, weights: Any = None, loss: Callable[[Any, int], Any] | None = None, *, most: int = 100
) -> Roads:
    """The gradient of one model by BPTT, real-time recurrent learning, BPTT with recomputation and central differences, with what each takes.

        print(four_roads(nn.LSTMCell(3, 8, dtype="float64"), xs))
        four_roads(F.rnn_step, xs, h0, (w_ih, w_hh, b_ih, b_hh), lambda h, t: ((h - ys[t - 1]) ** 2).sum()).check()

    model: a function step(x, *state, *weights) -> the new state, a cell, a layer of nn, or a module model(xs, state) -> (ys, state). xs (T,
    B, ...); weights: the leaves to differentiate by, of a module its parameters unless told (name those of a read-out in the loss, too).
    loss(y, t): the loss of step t = 1 ... T, a scalar; ½ |y|² unless told. y is the first array of a cell's state, the output of a model.

    Real-time recurrent learning carries dh/dθ forward, N x P numbers; no rule is written for it: the rows come from one recorded step at a
    time by the ops' own rules. Differences are taken by at most `most` weights, spread evenly. Every step runs as its equations, in no
    compiled loop. float64 shows the agreement; in float32 differences mean little.

    Raises ShapeError where N x P numbers would be more than a gigabyte.
    """
    model = Recurrence("four_roads", model, xs, state, weights, loss)
    with no_grad():
        states = arrays_of(model.step(1, model.start)[0])
    N, P = sum(np.size(raw(s)) for s in states), sum(w._data.size for w in model.weights.values())
    if N * P * 8 > LARGEST:
        raise ShapeError(
            message(
                f"four_roads: real-time recurrent learning would carry {N} x {P} numbers, {amount(N * P * 8)}",
                expected=f"less than {amount(LARGEST)}",
                do="fewer units, or a smaller batch: it carries the derivative of every number of the state by every weight",
            )
        )
    spread = np.unique(np.linspace(0, P - 1, min(P, most)).astype(int))
    k = ceil(sqrt(model.T))
    ways: list[tuple[str, tuple[str, str], Callable[[], Any], Callable[[], Any]]] = [  # the last is run to see the memory
        ("BPTT", ("T", "T"), lambda: bptt(model), lambda: bptt(model)),
        ("real-time recurrent learning", ("N T", "N P, not T"), lambda: real_time(model), lambda: real_time(model)),
        ("BPTT with recomputation", ("2 T", "√T"), lambda: in_pieces(model, k), lambda: in_pieces(model, k)),
        (
            "central differences",
            ("2 P T", "none of them"),
            lambda: differences(model, spread),
            lambda: differences(model, spread[:1]),
        ),
    ]
    roads: dict[str, Road] = {}
    with enable_grad(), mode("unfolded", True):
        value = _value(model)
        reference = _flat(model, bptt(model))
        for name, laws, way, alike in ways:
            began = perf_counter()
            gradients = way()
            seconds = perf_counter() - began
            at = spread if way is ways[-1][2] else np.arange(P)
            apart, allowed = _compared(model, _flat(model, gradients)[at], reference[at], value, exact=way is not ways[-1][2])
            roads[name] = Road(name, gradients, seconds, peak_of(alike), laws, apart, at.size, apart <= allowed)
    return Roads(roads, value, model.T, N, P)


def _compared(model: Recurrence, found: Any, expected: Any, value: float, *, exact: bool) -> tuple[float, float]:
    """How far a gradient is from the expected one, relative to that, and how far rounding may take it."""
    epsilon = max(float(np.finfo(w._data.dtype).eps) for w in model.weights.values())
    size = float(np.linalg.norm(expected)) or 1.0
    noise = epsilon ** (1 / 3) + 30 * epsilon ** (2 / 3) * abs(value) * sqrt(found.size) / size  # of a difference of two losses
    return float(np.linalg.norm(found - expected)) / size, epsilon**0.7 if exact else noise


# ---- The roads -------------------------------------------------------------------------------------------------------------------------


def bptt(model: Recurrence) -> dict[str, Any]:
    """All steps on the tape, then one sweep back."""
    total, _ = model.run(1, model.T, model.start)
    return _gradients(model, total)


def in_pieces(model: Recurrence, k: int) -> dict[str, Any]:
    """k steps at a time, whose inside is dropped and computed again on the way back."""
    state, total = model.start, 0.0
    for first in range(1, model.T + 1, k):

        def piece(state: Any, first: int = first) -> Any:
            return model.run(first, min(first + k - 1, model.T), state)

        part, state = recompute(piece)(state)
        total = total + part
    return _gradients(model, total)


def real_time(model: Recurrence) -> dict[str, Any]:
    """Forward in time: beside the state its derivative by every weight, J (N, P), from one step to the next; no step is kept.

    A step is recorded, and one sweep through it for every number of the new state gives a row of ∂s_t/∂s_(t-1) and of ∂s_t/∂θ.
    """
    weights = list(model.weights.values())
    widths = [w._data.size for w in weights]
    total, state = np.zeros(sum(widths)), model.start
    J = _rows(arrays_of(state), weights)  # of a state that is computed from weights
    for t in range(1, model.T + 1):
        before = as_leaves(state)
        inputs = [*arrays_of(before), *weights]
        part, after = model.run(t, t, before)
        split = sum(s._data.size for s in arrays_of(before))
        row = _rows([part], inputs)[0]
        total += row[:split] @ J + row[split:]
        rows = _rows(arrays_of(after), inputs)
        J = rows[:, :split] @ J + rows[:, split:]
        state = after
    pieces = np.split(total, np.cumsum(widths)[:-1])
    return {name: piece.reshape(w._data.shape) for (name, w), piece in zip(model.weights.items(), pieces, strict=True)}


def _rows(outputs: Any, inputs: Any) -> Any:
    """The derivatives of every number of the outputs by every number of the inputs: one reverse sweep for each row."""
    columns = np.cumsum([0, *(x._data.size for x in inputs)])
    found = np.zeros((sum(np.size(raw(y)) for y in outputs), columns[-1]))
    i = 0
    for y in outputs:
        for j in range(np.size(raw(y))):
            if isinstance(y, Value) and y.node is not None:
                one = array_module(y._data).zeros(y._data.size, y._data.dtype)
                one[j] = 1
                for k, g in enumerate(grad(y, inputs, one.reshape(y._data.shape), allow_unused=True)):
                    if g is not None:
                        found[i, columns[k] : columns[k + 1]] = numbers(g).ravel()
            i += 1
    return found


def differences(model: Recurrence, at: Any) -> dict[str, Any]:
    """(L(θ_i + ε) - L(θ_i - ε)) / 2ε for the numbers i of all weights in a row; NaN for the others.

    The weights are moved in copies of their arrays, so that a graph that holds them is not disturbed.
    """
    found, begin = {}, 0
    for name, w in model.weights.items():
        size, original = w._data.size, w._data
        g = np.full(size, np.nan)
        try:
            w._data = moved = original.copy()
            for i in at[(at >= begin) & (at < begin + size)] - begin:
                place = np.unravel_index(i, original.shape)
                middle = float(original[place])
                step = float(np.finfo(original.dtype).eps) ** (1 / 3) * max(1.0, abs(middle))
                values, points = [], []
                for target in (middle + step, middle - step):
                    moved[place] = target
                    points.append(float(moved[place]))
                    values.append(_value(model))
                moved[place] = original[place]
                g[i] = (values[0] - values[1]) / (points[0] - points[1])
        finally:
            w._data = original
        found[name] = g.reshape(original.shape)
        begin += size
    return found


@no_grad
def _value(model: Recurrence) -> float:
    """The loss."""
    return float(numbers(model.run(1, model.T, model.start)[0]))


def _gradients(model: Recurrence, total: Any) -> dict[str, Any]:
    """What a sweep back from the loss finds; zeros for a weight that the loss does not depend on."""
    weights = list(model.weights.values())
    recorded = isinstance(total, Value) and total.node is not None
    found = grad(total, weights, allow_unused=True) if recorded else [None] * len(weights)
    return {
        name: np.zeros(w._data.shape) if g is None else numbers(g)
        for (name, w), g in zip(model.weights.items(), found, strict=True)
    }


def _flat(model: Recurrence, gradients: dict[str, Any]) -> Any:
    return np.concatenate([np.ravel(gradients[name]) for name in model.weights])
