"""Truncated back-propagation through time as an object: a recorded graph with some of its states cut, and what that does to the gradient.

    full:        dL/dθ = Σ over the losses ℓ_s and the uses of θ at the steps t <= s
    TBPTT:       the same without the uses before the window of ℓ_s

Nothing is recorded again and nothing in the graph changes: the cut graph is a copy of the tape whose cut arguments are constants, as if the
state had been `detach()`-ed there while the model ran. `training.tbptt` trains that way; this tells what it costs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from math import ceil
from typing import Any, NamedTuple

import numpy as np

from .. import guards
from ..autodiff import Targets, grad, sweep
from ..backend import to_numpy
from ..cut import stop_rows
from ..errors import ArgumentError, GraphError, ShapeError, message
from ..frames import enable_grad, tick
from ..graph import MultiNode, Node, Output, Value, box, node_of, raw, toposort, value_of
from .clock import Clock, Handed
from .uses import leaf_of, place_of, tape_of


def truncate(loss: Value, k1: int | None = None, k2: int | None = None, *, at: Any = None, rows: Any = None) -> Truncation:
    """Truncated BPTT in the graph of a loss, as it was recorded: every k1 steps the gradient goes back k2 steps (k1 unless told).

        truncate(loss, 20)            cut every 20 steps: chunks of 20
        truncate(loss, 1, 20)         a sliding window: the loss of each step goes back 20 steps, its own included
        truncate(loss, 10, 20)        TBPTT(10, 20): the losses of the steps 11 ... 20 go back to step 1, those of 21 ... 30 to step 11
        truncate(loss, at=[4, 9])     cut the state behind step 4 and behind step 9
        truncate(loss, at=ended)      booleans (T, B): cut the state behind step t in the rows b where ended[t-1, b]
        truncate(loss, 20, rows=[2])  in row 2 of the batch alone; also booleans (B,)

    The loss of step s is what reaches the total through step s first (through the last step where there is one loss at the end); a state that
    later steps hand on unchanged is of the step that made it. A last
    block of fewer than k1 steps ends where a whole one would. Every loop counts its steps as it runs, a reverse one from the end, and one
    that goes on from another (a decoder, the next piece of a sequence) counts on; a loop within the steps of one that carries a state is not
    cut by itself. Attention to all steps at once is not cut; from there a
    gradient goes back to the next cut of that sweep, in which windows that do not overlap go together: with attention, prefer chunks.

    Raises GraphError where the tape has no steps, where calls of one cell could be steps or layers, or where k2 > k1 and layers that run forward
    and backward read each other.
    """
    return Truncation(loss, k1, k2, at=at, rows=rows)


class Cut(NamedTuple):
    """One place where a gradient is stopped: argument `position` of `node` on the tape of `Truncation.tape`.

    after, before: the times between which it lies, as the loop tells them; after is None where ops outside of the steps lie between. place: the
    modules and loops around it. losses: the first and the last step whose losses stop here. rows: of the batch, None for all.
    """

    node: Node
    position: int
    after: int | None
    before: int | None
    place: str
    losses: tuple[int, int]
    rows: Any


class Truncation:
    """The work of `truncate`: the gradient of a graph with some of its states cut.

    tape: the loss on the tape that `cuts` speaks of, every time loop opened. steps: T, how many steps there are. windows: (first, last, from) of
    each block of losses, the steps of its losses and the first step that their gradient reaches.
    """

    def __init__(self, loss: Value, k1: int | None = None, k2: int | None = None, *, at: Any = None, rows: Any = None):
        k1, k2 = (int(k) if isinstance(k, np.integer) else k for k in (k1, k1 if k2 is None else k2))
        self.k1, self.k2, self.loss = k1, k2, loss
        (self.tape,) = tape_of(loss, "truncate")
        if loss._data.size != 1:
            raise ShapeError(message(f"truncate: the loss has the shape {loss._data.shape}", expected="a scalar", do="sum() it"))
        self._nodes = toposort([self.tape])
        self._clock = Clock(self._nodes)
        self.steps = self._clock.steps
        if not self.steps:
            raise GraphError(
                message(
                    "truncate: the graph of the loss has no time steps",
                    expected="a layer of nn, tg.scan, a cell called again and again, or a loop that says what a step is",
                    do="for x in tg.steps(xs): ...",
                )
            )
        if self._clock.unclear is not None:
            name = type(self._clock.unclear.owner).__name__
            raise GraphError(
                message(
                    f"truncate: {name} is called again and again, and some calls read not only the one before: which of it is time?",
                    expected="calls of which each reads the one before, or a loop that says what a step is",
                    do="for x in tg.steps(xs): ...; or a cell of its own for each layer",
                )
            )
        self._rows = None if rows is None else _mask_of(rows, self._clock.handed)
        self._boundaries = self._checked(at)  # of each block of losses: its first and last step, and behind which step it is cut
        self.windows = [(first, last, max(behind, default=0) + 1) for first, last, behind in self._boundaries]

    def _checked(self, at: Any) -> list[tuple[int, int, dict[int, Any]]]:
        k1, k2, T = self.k1, self.k2, self.steps
        if (at is None) == (k1 is None):
            raise ArgumentError(
                message(
                    "truncate: either k1 or at= says where to cut",
                    expected="truncate(loss, 20), truncate(loss, 1, 20) or at=[4, 9]",
                )
            )
        if at is not None:
            if k2 is not None:
                raise ArgumentError(message("truncate: k2 goes with k1", expected="at= alone"))
            behind = sorted(self._at(at).items())
            ends = [b for b, _ in behind]
            return [(a + 1, b, dict(cut)) for a, b, cut in zip([0, *ends], [*ends, T], [[], *([x] for x in behind)], strict=True)]
        if not (isinstance(k1, int) and isinstance(k2, int) and 1 <= k1 <= k2):
            raise ShapeError(
                message(
                    f"truncate: k1 = {k1!r}, k2 = {k2!r}", expected="1 <= k1 <= k2: an update every k1 steps, a gradient through k2"
                )
            )
        if k2 > k1 and self._clock.mixed:
            raise GraphError(
                message(
                    f"truncate: k1 = {k1}, k2 = {k2} where a layer reads one that runs the other way through time",
                    expected="k2 = k1: a window of such a network has no one direction to go back in",
                    do=f"truncate(loss, {k1}) or truncate(loss, at=[...])",
                )
            )
        blocks = range(ceil(T / k1))
        begins = [(m + 1) * k1 - k2 for m in blocks]
        return [(m * k1 + 1, min((m + 1) * k1, T), {b: self._rows} if b > 0 else {}) for m, b in zip(blocks, begins, strict=True)]

    def _at(self, at: Any) -> dict[int, Any]:
        """Behind which steps, and which rows there."""
        array = np.asarray(to_numpy(raw(at)))
        if array.dtype == bool and array.ndim == 2 and len(array) == self.steps and self._rows is None:
            return {t: None if some.all() else some for t, some in enumerate(array, 1) if some.any() and t < self.steps}
        if (array.dtype.kind not in "iu" and array.size) or array.ndim != 1 or not all(1 <= t < self.steps for t in array.tolist()):
            raise ShapeError(
                message(
                    f"truncate: at is {array.dtype} {array.shape}",
                    expected=f"steps between 1 and {self.steps - 1}, behind which the state is cut, or booleans ({self.steps}, B)",
                )
            )
        return dict.fromkeys(array.tolist(), self._rows)

    # ---- Where it is cut ---------------------------------------------------------------------------------------------------------

    @cached_property
    def cuts(self) -> list[Cut]:
        """Every place where the gradient of some losses is stopped, in tape order: where a picture draws its scissors."""
        found = []
        times = self._clock.times
        for first, last, behind in self._boundaries:
            for handed, rows in self._crossing(behind):
                if handed.after <= last:
                    source = node_of(handed.node.args[handed.position])
                    after = None if source is None else times.get(source)
                    losses = max(first, handed.after), last
                    found.append(Cut(handed.node, handed.position, after, times[handed.node], place_of(handed.node), losses, rows))
        return sorted(found, key=lambda cut: (cut.node.order, cut.position, cut.losses))

    def _crossing(self, behind: Mapping[int, Any]) -> Iterable[tuple[Handed, Any]]:
        """What is handed across the boundaries behind these steps, and in which rows it is cut (None: all)."""
        for handed in self._clock.handed if behind else ():
            masks = [rows for b, rows in behind.items() if handed.before <= b < handed.after]
            if masks:
                yield handed, None if any(mask is None for mask in masks) else np.logical_or.reduce(masks)

    # ---- Gradients ---------------------------------------------------------------------------------------------------------------

    def grads(self, params: Any = None) -> Any:
        """The truncated gradient, in the form of `params`: a Tensor, a sequence, a dict, or a module (then by the names of its parameters).

        Without params a dict of all leaves of the graph. Touches no `.grad`; to train with it, `p.grad = g`. A parameter that is reached
        only across cuts gets zeros.
        """
        names, leaves, rebuilt = self._wanted(params)
        on_tape = set(self._nodes)
        nodes = [leaf.node if leaf.node in on_tape else leaf_of(leaf, [self.loss], "truncate") for leaf in leaves]
        for name, node in zip(names, nodes, strict=True):
            if node.prim is not None:
                raise GraphError(message(f"truncate: {name} was computed by {node.prim.name}", expected="leaves of the graph"))
        for node in self._nodes:
            if node.order < guards.last_write:
                guards.check_unwritten(node)
        values, seeds, totals = self._first_arrivals(nodes)
        for chosen, cuts in self._sweeps():
            places = self._copied(cuts)
            outputs, arrived = [], []
            for (node, index), g in zip(values, seeds, strict=True):
                if self._clock.at[node] in chosen:
                    twin = places[node][index] if node in places else Output(node, index) if type(node) is MultiNode else node
                    outputs.append(box(g, node_of(twin), index if isinstance(twin, Output) else None))
                    arrived.append(g)
            for (node, _), g in _swept(outputs, arrived, [(node, 0) for node in nodes]).items():
                totals[node] = totals[node] + g if node in totals else g
        gradients = [
            box(totals[node] if node in totals else np.zeros_like(leaf._data), None)
            for node, leaf in zip(nodes, leaves, strict=True)
        ]
        return rebuilt(gradients)

    def _first_arrivals(self, leaves: Sequence[Node]) -> tuple[list[tuple[Node, int]], list[Any], dict[Node, Any]]:
        """The gradient where it first meets a step, and what reaches the leaves without meeting one."""
        steps = [(node, i) for node in self._clock.at for i in range(_outputs(node))]
        found = _swept([self.tape], [np.ones_like(self.tape._data)], [*steps, *((leaf, 0) for leaf in leaves)])
        met = [at for at in steps if at in found]
        return met, [found[at] for at in met], {leaf: found[leaf, 0] for leaf in leaves if (leaf, 0) in found}

    def _sweeps(self) -> Iterable[tuple[set[int], dict[tuple[Node, int], Any]]]:
        """Blocks whose windows do not overlap are swept together: the steps of their losses, and the arguments that are cut."""
        apart = 1 if self.k1 is None or self.k2 is None else ceil(self.k2 / self.k1)
        for r in range(min(apart, len(self._boundaries))):
            blocks = self._boundaries[r::apart]
            behind = {b: rows for _, _, some in blocks for b, rows in some.items()}
            chosen = {step for first, last, _ in blocks for step in range(first, last + 1)}
            yield chosen, {(h.node, h.position): rows for h, rows in self._crossing(behind)}

    def _copied(self, cuts: Mapping[tuple[Node, int], Any]) -> dict[Node, list[Any]]:
        """What lies behind a cut, copied: what stands for each output of a node. Cut arguments are constants."""
        places: dict[Node, list[Any]] = {}
        behind = {node for node, _ in cuts}
        for node in self._nodes:
            sources = [node_of(a) for a in node.args]
            if node not in behind and not any(source in places for source in sources):
                continue
            args: list[Any] = []
            for position, arg in enumerate(node.args):
                source, index = sources[position], arg.index if isinstance(arg, Output) else 0
                moved = places[source][index] if source in places else arg
                if (node, position) in cuts:
                    moved = _stopped(arg, moved, cuts[node, position])
                args.append(moved)
            twin = copy(node)
            twin.args, twin.order = tuple(args), tick()
            places[node] = [Output(twin, i) for i in range(len(node.shape))] if type(node) is MultiNode else [twin]
        return places

    # ---- What it costs -----------------------------------------------------------------------------------------------------------

    def bias(self, params: Any = None) -> Bias:
        """How far the truncated gradient is from that of full BPTT: angle and relative error, of every parameter and of all together."""
        names, leaves, _ = self._wanted(params)
        full = grad(self.loss, leaves, allow_unused=True)
        pairs = [
            (np.zeros(leaf._data.shape) if f is None else to_numpy(f._data), to_numpy(t._data))
            for leaf, f, t in zip(leaves, full, self.grads(leaves), strict=True)
        ]
        rows = {name: _compared(*pair) for name, pair in zip(names, pairs, strict=True)}
        return Bias(repr(self), rows, _compared(*(np.concatenate([p.ravel() for p in side]) for side in zip(*pairs, strict=True))))

    def _wanted(self, params: Any) -> tuple[list[str], list[Any], Any]:
        """The parameters by name, and how their gradients are given back."""
        if params is None:
            leaves = [box(node.out, node) for node in self._nodes if node.prim is None]
            names = _names(leaves)
            return names, leaves, lambda gradients: dict(zip(names, gradients, strict=True))
        if isinstance(params, Value):
            return _names([params]), [params], lambda gradients: gradients[0]
        if hasattr(params, "named_parameters"):
            on_tape = set(self._nodes)
            params = {name: p for name, p in params.named_parameters() if p.node in on_tape}
        if isinstance(params, Mapping):
            keys = list(params)
            return [str(k) for k in keys], list(params.values()), lambda gradients: dict(zip(keys, gradients, strict=True))
        leaves = list(params)
        return _names(leaves), leaves, tuple

    def table(self) -> str:
        """Which steps the gradient of which losses reaches, as text."""
        lines = [repr(self)]
        for first, last, begin in self.windows:
            losses = f"the loss of step {first}" if first == last else f"the losses of the steps {first} ... {last}"
            lines.append(f"  {losses} {'goes' if first == last else 'go'} back to step {begin}")
        return "\n".join(lines) + ("" if all(cut.rows is None for cut in self.cuts) else "\n  in the rows that are cut")

    def __repr__(self) -> str:
        how = f"k1={self.k1}, k2={self.k2}" if self.k1 is not None else f"at={[first - 1 for first, _, _ in self._boundaries[1:]]}"
        return f"Truncation({how}: {self.steps} steps, {len(self.cuts)} places cut)"


class Difference(NamedTuple):
    """The truncated gradient of a parameter beside the full one: the norms of both, cosine of the angle between, |difference| / |full|."""

    full: float
    truncated: float
    cosine: float
    relative_error: float


@dataclass(frozen=True, repr=False)
class Bias:
    """What truncation does to a gradient: `rows` by parameter, `total` of all of them as one vector."""

    of: str
    rows: dict[str, Difference]
    total: Difference

    @property
    def cosine(self) -> float:
        """The cosine of the angle between the truncated gradient and the full one: 1 where they point the same way."""
        return self.total.cosine

    @property
    def relative_error(self) -> float:
        """|truncated - full| / |full|: 0 where nothing was lost, 1 where everything was."""
        return self.total.relative_error

    def table(self) -> str:
        """Every parameter, and all together, as text."""
        width = max(len(name) for name in (*self.rows, "all together"))
        lines = [self.of, f"{'':<{width}}  |full|      |truncated|  cosine     relative error"]
        for name, d in (*self.rows.items(), ("all together", self.total)):
            lines.append(f"{name:<{width}}  {d.full:<10.4g}  {d.truncated:<11.4g}  {d.cosine:<9.6f}  {d.relative_error:.3g}")
        return "\n".join(lines)

    __repr__ = table


@np.errstate(all="ignore")  # what overflowed shows as inf and nan
def _compared(full: Any, truncated: Any) -> Difference:
    full, truncated = full.astype("float64"), truncated.astype("float64")
    size, left = float(np.linalg.norm(full)), float(np.linalg.norm(truncated))
    cosine = float((full / size * (truncated / left)).sum()) if size and left else 1.0 if size == left else float("nan")
    lost = float(np.linalg.norm(truncated - full))
    return Difference(size, left, cosine, lost / size if size else 0.0 if not lost else float("inf"))


def _names(leaves: Sequence[Any]) -> list[str]:
    """What each is called; without a name its shape, numbered where that is not enough."""
    names = [leaf.name or f"leaf {leaf._data.shape}" for leaf in leaves]
    numbers = {name: count(1) for name in names}
    return [name if names.count(name) == 1 else f"{name} #{next(numbers[name])}" for name in names]


def _mask_of(rows: Any, handed: Sequence[Handed]) -> Any:
    """Rows of a batch as booleans (B,); B is that of the states."""
    array = np.asarray(to_numpy(raw(rows)))
    shapes = [h.node.args[h.position].shape for h in handed]
    B = next((shape[0] for shape in shapes if shape), 0)
    if array.dtype == bool and array.shape == (B,):
        return array
    if array.ndim != 1 or array.dtype.kind not in "iu" or not ((array >= -B) & (array < B)).all():
        raise ShapeError(
            message(
                f"truncate: rows is {rows!r}", expected=f"numbers of rows below {B}, or {B} booleans, as the states have {B} rows"
            )
        )
    mask = np.zeros(B, bool)
    mask[array] = True
    return mask


def _stopped(arg: Any, moved: Any, rows: Any) -> Any:
    """What stands for an argument that is cut: nothing, or the argument with the gradient of some rows stopped."""
    if rows is None:
        return None
    with enable_grad():
        stopped = stop_rows(box(value_of(arg), node_of(moved), moved.index if isinstance(moved, Output) else None), rows)
    return stopped.node


def _swept(outputs: Sequence[Any], seeds: Sequence[Any], places: Iterable[tuple[Node, int]]) -> dict[tuple[Node, int], Any]:
    """What arrives at these outputs of nodes, not going on from there; places that nothing reaches are left out."""
    targets: Targets = {}
    for node, index in places:
        targets.setdefault(node, {})[index] = None
    if outputs and targets:
        deque(sweep(outputs, seeds, targets, through=False), maxlen=0)
    return {(node, i): g for node, found in targets.items() for i, g in found.items() if g is not None}


def _outputs(node: Node) -> int:
    return len(node.shape) if type(node) is MultiNode else 1
