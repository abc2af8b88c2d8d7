"""The gradient ledger: dL/dW split by the step that uses W and, given the loss of every step, by the step whose loss it is.

    dL/dW = Σ_k (what the use at step k adds) = Σ_t Σ_k (what loss t adds through the use at step k)

Rows and columns add up to `W.grad`. Knows nothing of how it is printed (`ledger_text`, `ledger_formula`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from .. import backend
from ..autodiff import grad, steps_of_backward
from ..errors import ArgumentError, GraphError, message
from ..graph import Node, Value, node_of
from . import ledger_formula, ledger_text, notation
from .copies import Use, columns_of
from .entries import Entries, fill_by_loss
from .norms import norm_of
from .uses import Uses, leaf_of, tape_of

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, repr=False, eq=False)
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
        return ledger_formula.formula(self, notation.PLAIN)

    def latex(self) -> str:
        """The same in LaTeX: an align* environment."""
        return ledger_formula.formula(self, notation.LATEX)

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

    Works on any recorded graph: a compiled loop is opened into its steps, `tg.steps` gives those of a plain `for` loop. Uses outside every step
    (a penalty, a readout of all steps at once) have the time None. Layers, directions and calls that share W are kept apart. What is
    computed from W outside the loop and read inside it (W.T, a normalized W, the embedding of a sequence) counts at the step that reads it.

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
    of_all = partial(steps_of_backward, [whole], targets={leaf: {0: None}})
    empty = partial(Entries, uses, leaf, column_of, gradient, K=len(columns))
    rows: Any = 0
    if losses is None:
        entries, loss_steps, by_loss = empty(rows=1, keep=not norms), None, None
        entries.fill(0, of_all)
        by_use = entries.norms[0]
    else:
        stacked = isinstance(losses, Value)
        entries = empty(rows=1 + (len(split[0]._data) if stacked else len(split)), keep=not norms)
        loss_steps = fill_by_loss(entries, whole, parts, stacked)
        rows = slice(None if entries.reached[-1].any() else -1)
        loss_steps, by_loss = loss_steps[rows], entries.by_row[rows]
        by_use = _norms_by_use(entries, of_all, empty)
    return Ledger(
        name=W.name or "",
        uses=columns,
        loss_steps=loss_steps,
        norms=entries.norms[rows],
        shares=entries.shares[rows],
        reached=entries.reached[rows],
        norms_by_use=by_use,
        norms_by_loss=by_loss,
        total=entries.total,
        gradient=gradient,
        note=_note(uses, leaf, columns, losses),
        held=None if entries.terms is None else entries.terms[rows],
    )


def _norms_by_use(entries: Entries, of_all: Any, empty: Any) -> Array:
    """The norms of the columns: where the terms were not kept, by one more sweep."""
    if entries.terms is not None:
        return np.array([norm_of(term) for term in entries.terms.sum(axis=0)])
    alone = empty(rows=1, keep=False)
    alone.fill(0, of_all)
    return np.asarray(alone.norms[0])


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
