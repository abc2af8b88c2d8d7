"""The gradient ledger: dL/dW split by the step that uses W and, given the loss of every step, by the step whose loss it is.

    dL/dW = Σ_k (what the use at step k adds) = Σ_t Σ_k (what loss t adds through the use at step k)

Rows and columns add up to `W.grad`. Knows nothing of how it is printed (`ledger_text`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from .. import backend
from ..autodiff import Step, Targets, grad, steps_of_backward, sweep
from ..errors import ArgumentError, GraphError, message
from ..graph import MultiNode, Node, Output, Value, box, node_of
from . import ledger_text, notation
from .copies import Use, columns_of
from .uses import Term, Uses, leaf_of, tape_of, time_of

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, repr=False)
class Ledger:
    """What `ledger` found. K uses of a weight; with losses per step S losses, and every array has the axis of the losses before that of the uses.

    name: of the weight, as it was given. uses: the K copies, by place and time. loss_steps: the S loss steps, None for what reaches L past
    all the losses given; None without losses. norms ([S,] K): the Frobenius norm of each term. shares ([S,] K): the part of each term in
    the sum, <term, dL/dW> / <dL/dW, dL/dW>; they add up to 1. reached ([S,] K): whether a gradient arrives at the use at all; where one does
    and the term is zero, what W is multiplied with is zero. norms_by_use (K,), norms_by_loss (S,): of the sums over the losses and over the
    uses. total: the sum of all terms. gradient: dL/dW as `tg.grad` finds it.
    """

    name: str
    uses: list[Use]
    loss_steps: list[int | None] | None
    norms: Array
    shares: Array
    reached: Array
    norms_by_use: Array
    norms_by_loss: Array | None
    total: Array
    gradient: Array
    note: str  # what a reader should know of the steps
    held: Array | None = None  # the terms, unless only their norms were asked for

    @property
    def steps(self) -> list[int | None]:
        """The time step of every use."""
        return [use.time for use in self.uses]

    @property
    def places(self) -> list[str]:
        """The modules and loops around every use."""
        return [use.place for use in self.uses]

    @property
    def terms(self) -> Array:
        """The terms: (K, *shape of W), or (S, K, *shape of W) with losses per step."""
        if self.held is None:
            raise ArgumentError(
                message("ledger: the terms were not kept, only their norms", do="ledger(loss, W) without norms=True keeps them")
            )
        return self.held

    @property
    def by_use(self) -> Array:
        """The terms by the use alone, (K, *shape of W): summed over the losses."""
        return self.terms if self.loss_steps is None else np.asarray(self.terms.sum(axis=0))

    @property
    def by_loss(self) -> Array:
        """The terms by the loss alone, (S, *shape of W): summed over the uses."""
        if self.loss_steps is None:
            raise ArgumentError(message("ledger: it was not split by losses", do="ledger(loss, W, losses=[one for each step])"))
        return np.asarray(self.terms.sum(axis=1))

    def at(self, step: int | None, *, loss: int | None = None, place: str | None = None) -> Array:
        """The term of the use at time `step`, of the loss at time `loss` (None: of all), summed over places unless one is named.

        Steps count from 1, as in the equations; None asks for the uses outside every step.
        """
        columns = [k for k, use in enumerate(self.uses) if use.time == step and place in (None, use.place)]
        if not columns:
            raise ArgumentError(
                message(
                    f"ledger: no use of {self.name or 'the weight'} at step {step}" + (f" in {place}" if place else ""),
                    expected=f"a step of {ledger_text.ranges(self.steps)}"
                    + (f", a place of {sorted(set(self.places))}" if place else ""),
                )
            )
        if loss is None:
            return np.asarray(self.by_use[columns].sum(axis=0))
        if self.loss_steps is None or loss not in self.loss_steps:
            known = "none: ledger(loss, W, losses=...)" if self.loss_steps is None else ledger_text.ranges(self.loss_steps)
            raise ArgumentError(message(f"ledger: no loss at step {loss}", expected=f"a loss step of {known}"))
        return np.asarray(self.terms[self.loss_steps.index(loss)][columns].sum(axis=0))

    def check(self) -> float:
        """How far the sum of all terms is from dL/dW as `tg.grad` finds it: the largest difference, relative to the largest entry."""
        same = (self.total == self.gradient) | (np.isnan(self.total) & np.isnan(self.gradient))
        difference = float(np.abs(self.total - self.gradient, where=~same, out=np.zeros_like(self.total)).max(initial=0.0))
        largest = float(np.abs(self.gradient).max(initial=0.0))
        return difference / largest if largest and np.isfinite(largest) else difference

    def table(self, full: bool = False) -> str:
        """The ledger as aligned text: norms and shares of every term, or the matrix of norms. Long ones show both ends; full=True all."""
        return ledger_text.table(self, full)

    def text(self) -> str:
        """The sum in the notation of the lecture notes, with the norm of every term beneath."""
        return notation.formula(self, notation.PLAIN)

    def latex(self) -> str:
        """The same in LaTeX: an align* environment."""
        return notation.formula(self, notation.LATEX)

    @property
    def symbol(self) -> str:
        """dL/dW, as it is written."""
        return notation.PLAIN.ratio("L", notation.symbol(self.name, notation.PLAIN))

    def __repr__(self) -> str:
        losses = "" if self.loss_steps is None else f"{len(self.loss_steps)} losses × "
        return f"<Ledger of {self.symbol}: {losses}{len(self.uses)} uses, sum {tuple(self.total.shape)}>"

    def __str__(self) -> str:
        return self.table()


def ledger(loss: Value, W: Value, losses: Sequence[Value] | Value | None = None, norms: bool = False) -> Ledger:
    """Split dL/dW by the uses of W and, with losses, by the step whose loss it is.

        led = tg.bptt.ledger(loss, model.rnn.weight_hh_l0)
        print(led.table())
        led.terms[t - 1]                                   # the term of step t; led.at(t) where W is used in several places

    losses: the losses whose sum (or mean, or any function) the loss is, one for each step, as a list or as a Tensor with time as its first
    axis; the entry (t, k) is what the loss of step t adds through the use of W at step k. What reaches the loss past all of them, such as a
    penalty on the weights, gets a row of its own. norms=True keeps norms and shares alone, so memory does not grow with the terms.

    Works on any recorded graph: a compiled loop is opened into its steps, `tg.steps` gives those of a plain `for` loop. Uses outside
    every step (a penalty, a readout of all steps at once) have the time None. Layers, directions and calls that share W are kept apart. What is computed from W
    outside the loop and read inside it (W.T, a normalized W, the embedding of a sequence) counts at the step that reads it.

    Cost: one reverse sweep, linear in T; with losses one sweep for each, from its loss back to the first use: T sweeps, T²/2 steps.
    Memory: the terms, T times W (T² / 2 with losses), or with norms=True a few times W.

    Touches no `.grad`. Raises GraphError where the loss does not depend on W, or not on one of the losses.
    """
    if not isinstance(W, Value):
        raise ArgumentError(
            message(
                f"ledger: W is a {type(W).__name__}",
                expected="a weight, a Tensor",
                do="a name goes through model.get_parameter(name)",
            )
        )
    split = [] if losses is None else _listed(losses)
    values = tape_of([loss, *(value for value in split)], "ledger")
    whole, parts = values[0], values[1:]
    leaf = leaf_of(W, [whole], "ledger")
    if loss._data.size != 1:
        raise GraphError(
            message(f"ledger: the loss has shape {loss._data.shape}", expected="a scalar", do="loss.sum() or loss.mean()")
        )
    uses = Uses(values, [leaf])
    columns, column_of = columns_of(uses)
    gradient = backend.to_numpy(grad(loss, W)._data)
    book = _Book(uses, leaf, column_of, len(columns), gradient, keep=not norms)
    sweep_of_all = partial(steps_of_backward, [whole], targets={leaf: {0: None}})
    if losses is None:
        row, loss_steps = book.row(sweep_of_all), None
        by_use, by_loss = row.norms, None
    else:
        rows, loss_steps = _by_loss(book, whole, parts, stacked=isinstance(losses, Value))
        row = _Row(*(np.stack(column) for column in zip(*rows, strict=True)))
        by_loss = row.total
        by_use = (
            np.array([np.linalg.norm(term) for term in row.terms.sum(axis=0)])
            if book.keep
            else _Book(uses, leaf, column_of, len(columns), gradient, keep=False).row(sweep_of_all).norms
        )
    held = row.terms if book.keep else None
    return Ledger(
        W.name or "",
        columns,
        loss_steps,
        row.norms,
        row.shares,
        row.reached,
        by_use,
        by_loss,
        book.total,
        gradient,
        _note(uses, leaf, columns, losses),
        held,
    )


def _note(uses: Uses, leaf: Node, columns: list[Use], losses: Any) -> str:
    """What a reader should know of the steps."""
    if any(node.prim and node.prim.name == "again" and leaf in map(node_of, node.args) for node in uses.tape):
        return "A function inside tg.recompute keeps its steps to itself: its uses of the weight stand as one."
    if any(use.time is not None or use.call for use in columns) or len(columns) > 1:
        return ""
    if all(time is None for time in uses.times.values()):
        return "No step was recorded. In a loop of your own, tg.steps tells them: for x in tg.steps(xs): ..."
    return (
        "" if losses is not None else "Used once for all steps: ledger(loss, W, losses=...) splits it by the step whose loss it is."
    )


def _listed(losses: Any) -> list[Value]:
    if isinstance(losses, Value):
        if losses._data.ndim == 0:
            raise GraphError(
                message("ledger: losses is one scalar", expected="one loss for each step: a list, or a Tensor (T, ...)")
            )
        return [losses]
    if not isinstance(losses, Iterable) or not (values := list(losses)):
        raise ArgumentError(
            message(f"ledger: losses is {losses!r}", expected="one loss for each step: a list, or a Tensor (T, ...)")
        )
    return values


def _by_loss(book: _Book, whole: Value, parts: list[Any], stacked: bool) -> tuple[list[_Row], list[int | None]]:
    """One row for each loss, and one for what reaches the whole past all of them."""
    targets: Targets = {book.leaf: {0: None}}
    for part in parts:
        targets.setdefault(part.node, {})[part.index] = None
    rest = book.row(partial(sweep, [whole], [np.ones_like(whole._data)], targets, through=False, watch=True))
    seeds = [targets[part.node][part.index] for part in parts]
    for k, seed in enumerate(seeds):
        if seed is None:
            which = "losses" if stacked else f"losses[{k}]"
            raise GraphError(
                message(
                    f"ledger: the loss was not computed from {which}",
                    expected="the very tensors that the loss was computed from",
                    do="losses = [...]; loss = sum(losses); then ledger(loss, W, losses=losses)",
                )
            )
    if stacked:
        (value,), (whole_seed,) = parts, seeds
        pairs, times = [(value, _only(whole_seed, t)) for t in range(len(whole_seed))], list(range(1, len(whole_seed) + 1))
    else:
        pairs = list(zip(parts, seeds, strict=True))
        own = [time_of(part.node) for part in parts]
        times = [t for t in own if t is not None]
        if len(set(times)) < len(parts):  # losses that no step made, or several of one step
            times = list(range(1, len(parts) + 1))
    gates = _gates(book.uses)
    rows = [book.row(*_from(v, seed, book, gates)) for v, seed in pairs]
    if rest.reached.any():
        return [*rows, rest], [*times, None]
    return rows, list(times)


def _gates(uses: Uses) -> list[tuple[Node, int]]:
    """What is made in a step and read outside: where the gradient of a loss comes in from a stack of all steps."""
    inside = {node for node in uses.tape if uses.times[node.frame] is not None}
    gates = {
        (source, arg.index if isinstance(arg, Output) else 0): None
        for node in uses.tape
        if node not in inside
        for arg in node.args
        if (source := node_of(arg)) in inside and source is not None
    }
    return list(gates)


def _from(
    value: Value, seed: Any, book: _Book, gates: list[tuple[Node, int]]
) -> tuple[Callable[[], Iterable[Step]], Iterable[Step]]:
    """The reverse sweep of one loss, in two parts: outside the steps, where many zeros may arrive, and on from where there are none.

    So the sweep begins at the step of its loss. The second part comes first, as it waits for the first.
    """
    of_leaf: Targets = {book.leaf: {0: None}}
    assert value.node is not None
    if book.uses.times[value.node.frame] is not None:
        return partial(steps_of_backward, [value], [seed], targets=of_leaf), ()
    targets: Targets = {book.leaf: {0: None}}
    for node, index in gates:
        targets.setdefault(node, {})[index] = None

    def onward() -> Iterable[Step]:
        found = [(node, index, targets[node][index]) for node, index in gates]
        alive = [(node, index, g) for node, index, g in found if g is not None and g.any()]
        values = [box(g, node, index if type(node) is MultiNode else None) for node, index, g in alive]
        return steps_of_backward(values, [g for *_, g in alive], targets=of_leaf) if alive else ()

    return onward, sweep([value], [seed], targets, through=False, watch=True)


def _only(g: Any, t: int) -> Any:
    """A cotangent of all losses, zero for all but one of them."""
    only = np.zeros_like(g)
    only[t] = g[t]
    return only


class _Row(NamedTuple):
    """What one sweep finds for each use: its norm, its share, whether a gradient arrived and, if they are kept, the terms; the norm of all."""

    norms: Array
    shares: Array
    reached: Array
    terms: Array
    total: Any


class _Book:
    """Adds up the terms of sweeps, column by column, and forgets each where only its norm is asked for."""

    def __init__(self, uses: Uses, leaf: Node, column_of: dict[Node, int], K: int, gradient: Array, keep: bool):
        self.uses, self.leaf, self.column_of, self.K, self.gradient, self.keep = uses, leaf, column_of, K, gradient, keep
        self.total = np.zeros_like(gradient)
        self.size = float(np.vdot(gradient, gradient))
        self.oldest: dict[int, int] = {}  # of each column the age of the first node that uses the weight there
        for node, column in column_of.items():
            self.oldest[column] = min(node.order, self.oldest.get(column, node.order))

    def row(self, steps: Callable[[], Iterable[Step]], before: Iterable[Step] = ()) -> _Row:
        """What one sweep finds: its steps, behind those that were made `before`."""
        norms, shares, reached = np.zeros(self.K), np.zeros(self.K), np.zeros(self.K, bool)
        terms = np.zeros((self.K, *self.gradient.shape) if self.keep else 0, self.gradient.dtype)
        total = np.zeros_like(self.gradient)
        unfinished: dict[int, Any] = {}
        for _, term in self.uses.among(self._noted(before, reached)):
            self._add(term, unfinished)
        for column, summed in self._summed(self.uses.among(self._noted(steps(), reached)), unfinished):
            norms[column] = np.linalg.norm(summed)
            shares[column] = float(np.vdot(summed, self.gradient)) / self.size if self.size else 0.0
            total += summed
            if self.keep:
                terms[column] = summed
        self.total += total
        return _Row(norms, shares, reached, terms, np.linalg.norm(total))

    def _noted(self, steps: Iterable[Step], reached: Array) -> Iterator[Step]:
        """The same steps; it is noted where a gradient arrives at a use."""
        for step in steps:
            column = self.column_of.get(step.node)
            if column is not None and not reached[column]:
                parts = step.gradient if isinstance(step.gradient, tuple) else (step.gradient,)
                reached[column] = any(part is not None and part.any() for part in parts)
            yield step

    def _summed(self, terms: Iterable[tuple[Node, Term]], unfinished: dict[int, Any]) -> Iterator[tuple[int, Array]]:
        """The columns, each when no older use can add to it."""
        for _, term in terms:
            for column in [c for c in unfinished if self.oldest[c] > term.node.order]:
                yield column, unfinished.pop(column)
            self._add(term, unfinished)
        yield from unfinished.items()

    def _add(self, term: Term, unfinished: dict[int, Any]) -> None:
        column, value = self.column_of[term.node], backend.to_numpy(term.value)
        unfinished[column] = value if column not in unfinished else unfinished[column] + value
