"""Gradient flow: how large dL/dh_t is at every time, layer by layer, and for several networks on one scale.

A gradient that falls by the same factor at every step back vanishes along a straight line of this picture, one that grows explodes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..autodiff import grad
from ..backend import to_numpy
from ..errors import ArgumentError, message
from ..graph import Value, box
from .chains import Chain, no_loop
from .measures import frobenius, lines_of, short
from .states import chains_of, opened_with_states

WHO = "flow"


@dataclass(frozen=True, eq=False)
class FlowLine:
    """The norms of dL/dh_t of one part of the state of one loop.

    name: tells it from the others. place: the loop. part: h, c, ... times (T,), rising. norms (T,): over the whole batch. by_row (T, B): of
    each row. A state that the loss does not depend on has norm 0. from_end: the loop runs from the last time to the first.
    """

    name: str
    place: str
    part: str
    times: Any
    norms: Any
    by_row: Any
    from_end: bool = False

    @property
    def left(self) -> float:
        """What is left of the gradient when it has gone all the way back: its norm at the first step of the loop over that at the last."""
        first, last = (self.norms[-1], self.norms[0]) if self.from_end else (self.norms[0], self.norms[-1])
        with np.errstate(all="ignore"):
            return float(first / last)

    def __repr__(self) -> str:
        return f"FlowLine({self.name!r}, t = {self.times[0]} ... {self.times[-1]}, norm {short(self.norms[0])} ... {short(self.norms[-1])})"


@dataclass(frozen=True, eq=False, repr=False)
class GradientFlow:
    """Lines of gradient norms over time, to be compared on one scale: flow["layer 1, h"] is one of them, `lines` are all."""

    lines: tuple[FlowLine, ...]

    @property
    def names(self) -> list[str]:
        """The names of the lines."""
        return [line.name for line in self.lines]

    @property
    def times(self) -> Any:
        """All times at which there is a norm, rising."""
        return np.unique(np.concatenate([line.times for line in self.lines]))

    @property
    def scale(self) -> tuple[float, float]:
        """The smallest and the largest norm of all lines that is a positive number: the common scale. (nan, nan) where there is none."""
        every = np.concatenate([line.norms for line in self.lines])
        every = every[np.isfinite(every) & (every > 0)]
        return (float(every.min()), float(every.max())) if every.size else (math.nan, math.nan)

    def table(self, most: int = 24, width: int | None = None) -> str:
        """A line for every time: the norm of each line with a bar, all on one logarithmic scale; 0, inf and nan as such.

        most: so many times, those between are left out. width: of a bar.
        """
        low, high = self.scale
        width = max(0, min(12, 100 // len(self.lines) - 12)) if width is None else width
        times = self.times
        columns: dict[str, list[str]] = {}
        for line in self.lines:
            at = dict(zip(line.times.tolist(), line.norms.tolist(), strict=True))
            cells = [
                f"{short(at[t]):>9} {_bar(at[t], low, high, width):<{width}}" if t in at else " " * (10 + width)
                for t in times.tolist()
            ]
            columns[f"{line.name:<{10 + width}}"] = cells
        rows = lines_of("t", times, columns, most)
        ends = [f"{'left: ' + short(line.left):<{len(name)}}" for line, name in zip(self.lines, columns, strict=True)]
        rows.append("  ".join([" " * max(len(str(t)) for t in times.tolist()), *ends]).rstrip())
        scale = "no number to draw" if math.isnan(low) else f"bars: logarithmic, {short(low)} to {short(high)}"
        return "\n".join([f"norm of the gradient of the loss by each state; {scale}; left: first step over last", *rows])

    def __getitem__(self, name: str) -> FlowLine:
        found = [line for line in self.lines if line.name == name] or [line for line in self.lines if line.name.endswith(name)]
        if len(found) != 1:
            raise ArgumentError(
                message(
                    f"GradientFlow: {len(found) or 'no'} line{'s' * (len(found) > 1)} called {name!r}",
                    expected=f"one of {self.names}",
                )
            )
        return found[0]

    def __iter__(self) -> Iterator[FlowLine]:
        return iter(self.lines)

    def __len__(self) -> int:
        return len(self.lines)

    def __repr__(self) -> str:
        low, high = self.scale
        span = "" if math.isnan(low) else f", norms {short(low)} to {short(high)}"
        return f"GradientFlow({self.names}, t = {self.times[0]} ... {self.times[-1]}{span})"


def flow(loss: Value | Mapping[str, Value], states: Any = None, gradient: Any = None) -> GradientFlow:
    """How large dL/dh_t is at every time t, for every loop on the tape that carries a state: layers, directions, encoder and decoder.

        f = tg.bptt.flow(loss)                                         # of an LSTM both dL/dh_t and dL/dc_t
        print(f.table());  f["layer 0, c"].norms                       # (T,), by_row (T, B)
        tg.bptt.flow({"tanh": loss_1, "relu": loss_2})                 # several networks on one scale

    dL/dh_t counts all paths from h_t to the loss. A compiled loop is opened; no `.grad` is touched. The states before the first step count
    where they are on the tape, at t = 0.

    states: where a `for` loop carried them that neither calls a cell nor goes over tg.steps(xs), a list [h_1, ..., h_T] or [(h_1, c_1), ...], or a dictionary of such lists
    by name. gradient: the cotangent of a loss that is no scalar.

    Raises GraphError where the loss is a constant or no loop leads to it.
    """
    if isinstance(loss, Mapping):
        if not loss:
            raise ArgumentError(message(f"{WHO}: an empty dictionary", expected="losses by name"))
        lines = [
            replace(line, name=f"{name}, {line.name}")
            for name, one in loss.items()
            for line in flow(one, _of(states, name), _of(gradient, name))
        ]
        return GradientFlow(tuple(lines))
    if states is not None:
        return GradientFlow(tuple(_listed(loss, states, gradient)))
    values, tape = opened_with_states([loss], WHO)
    chains = chains_of(tape)
    if not chains:
        raise no_loop(WHO)
    sound = [chain for chain in chains if chain.problem is None]
    if not sound:
        raise chains[0].problem  # type: ignore[misc]
    labels = _short([chain.place for chain in sound])
    asked: list[tuple[Chain, str, str, list[tuple[int, Any]]]] = []
    for chain, label in zip(sound, labels, strict=True):
        for j, part in enumerate(chain.names):
            if part in chain.own:
                found = [(t, s[j]) for t, s in zip(chain.times, chain.states, strict=True) if isinstance(s[j], tuple)]
                asked.append((chain, part, f"{label}, {part}" if label else part, found))
    boxes = [box(None, node, index) for *_, found in asked for _, (node, index) in found]
    gradients = iter(grad(values, boxes, None if gradient is None else [gradient], allow_unused=True))
    return GradientFlow(
        tuple(
            _line(
                name,
                chain.place,
                part,
                [t for t, _ in found],
                [next(gradients) for _ in found],
                chain.shapes[chain.names.index(part)],
            )
            for chain, part, name, found in asked
        )
    )


def _short(places: list[str]) -> list[str]:
    """The places without what they all begin with; of a single one nothing is needed."""
    paths = [place.split(" > ") for place in places]
    while all(paths) and len({path[0] for path in paths}) == 1:
        paths = [path[1:] for path in paths]
    return [" > ".join(path) for path in paths]


def _of(by_name: Any, name: str) -> Any:
    return by_name.get(name) if isinstance(by_name, Mapping) else by_name


def _listed(loss: Any, states: Any, gradient: Any) -> Iterator[FlowLine]:
    """The lines of states that were given."""
    named = states if isinstance(states, Mapping) else {"": states}
    for name, given in named.items():
        rows = [tuple(s) if isinstance(s, (tuple, list)) else (s,) for s in given]
        if not rows or len({len(row) for row in rows}) > 1:
            raise ArgumentError(
                message(f"{WHO}: states of different forms, or none", expected="a list [h_1, ..., h_T] or [(h_1, c_1), ...]")
            )
        parts = ["h", "c"] if len(rows[0]) == 2 else ["h", *(f"s{i}" for i in range(1, len(rows[0])))]
        for part, tensors in zip(parts, zip(*rows, strict=True), strict=True):
            found = grad(loss, list(tensors), gradient, allow_unused=True)
            label = f"{name}, {part}" if name and len(parts) > 1 else name or part
            yield _line(label, name, part, list(range(1, len(rows) + 1)), list(found), tensors[0].shape)


def _line(name: str, place: str, part: str, times: list[int], gradients: list[Any], shape: Sequence[int]) -> FlowLine:
    """The norms of the gradients at these times, in the order of the loop; None is zero."""
    B = shape[0] if len(shape) > 1 else 1
    norms, by_row = np.zeros(len(times)), np.zeros((len(times), B))
    for k, g in enumerate(gradients):
        if g is not None:
            array = to_numpy(g._data).astype(np.float64)
            norms[k], by_row[k] = frobenius(array.reshape(1, -1)), frobenius(array.reshape(B, 1, -1))
    order = np.argsort(times)
    return FlowLine(name, place, part, np.array(times)[order], norms[order], by_row[order], from_end=times[0] > times[-1])


def _bar(x: float, low: float, high: float, width: int) -> str:
    """A bar from one mark for the smallest number to all of them for the largest."""
    if math.isinf(x):
        return "█" * width
    if not x > 0 or math.isnan(low):
        return ""
    return (
        "█" * max(1, round(width if high == low else 1 + (width - 1) * math.log(x / low) / math.log(high / low))) if width else ""
    )
