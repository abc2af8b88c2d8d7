"""The entries of a gradient ledger: sweeps whose terms are sorted into columns, one for each copy of a weight, and added up.

A sweep of the whole loss gives one row. With a loss for each step there is a sweep for each, weighted as that loss counts in the whole, and one of
what reaches the whole past all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import numpy as np

from .. import backend
from ..autodiff import Step, Targets, steps_of_backward, sweep
from ..errors import ArgumentError, GraphError, message
from ..graph import MultiNode, Node, Output, Value, box, node_of
from .copies import arrives
from .norms import norm_of, shares_of
from .uses import Term, Uses

Array = np.ndarray[Any, Any]


class Entries:
    """The entries in so many rows and columns, filled in row by row: norms, shares and what was reached, (rows, K), and the terms.

    gradient: dL/dW, whose parts the shares are. keep: whether the terms are kept, (rows, K, *shape), or forgotten as soon as their norm is known.
    by_row: the norm of the sum of every row; total: the sum of all.
    """

    def __init__(self, uses: Uses, leaf: Node, column_of: dict[Node, int], gradient: Array, rows: int, K: int, keep: bool):
        self.uses, self.leaf, self.column_of, self.gradient = uses, leaf, column_of, gradient
        self.norms, self.shares, self.reached = np.zeros((rows, K)), np.zeros((rows, K)), np.zeros((rows, K), bool)
        self.by_row = np.zeros(rows)
        self.terms = np.zeros((rows, K, *gradient.shape), gradient.dtype) if keep else None
        self.total = np.zeros_like(gradient)
        self.share = shares_of(gradient)
        self.oldest: dict[int, int] = {}  # of each column the age of the first node that uses the weight there
        for node, column in column_of.items():
            self.oldest[column] = min(node.order, self.oldest.get(column, node.order))

    def fill(self, row: int, steps: Callable[[], Iterable[Step]], before: Iterable[Step] = ()) -> None:
        """Fill in a row from the steps of a sweep, behind those that were made `before`."""
        reached, total = self.reached[row], np.zeros_like(self.gradient)
        unfinished: dict[int, Any] = {}
        for _, term in self.uses.among(self._noted(before, reached)):
            self._add(term, unfinished)
        for column, summed in self._summed(self.uses.among(self._noted(steps(), reached)), unfinished):
            self.norms[row, column] = norm_of(summed)
            self.shares[row, column] = self.share(summed)
            total += summed
            if self.terms is not None:
                self.terms[row, column] = summed
        self.total += total
        self.by_row[row] = norm_of(total)

    def _noted(self, steps: Iterable[Step], reached: Array) -> Iterator[Step]:
        """The same steps; it is noted where a gradient arrives at a use."""
        for step in steps:
            column = self.column_of.get(step.node)
            if column is not None and not reached[column]:
                reached[column] = arrives(step)
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


def fill_by_loss(entries: Entries, whole: Value, parts: list[Any], stacked: bool) -> list[int | None]:
    """Fill in one row for each loss, and a last one for what reaches the whole past all of them. The steps of the losses.

    parts: the losses, or (stacked) one value of all of them.
    """
    targets: Targets = {entries.leaf: {0: None}}
    for k, part in enumerate(parts):
        if part.index in targets.get(part.node, {}):
            raise ArgumentError(message(f"ledger: losses[{k}] stands there before, or is W", expected="each loss once"))
        targets.setdefault(part.node, {})[part.index] = None
    last = len(entries.norms) - 1
    entries.fill(last, partial(sweep, [whole], [np.ones_like(whole._data)], targets, through=False, watch=True))
    seeds = [targets[part.node][part.index] for part in parts]
    for k, seed in enumerate(seeds):
        if seed is None:
            which = "losses" if stacked else f"losses[{k}]"
            raise GraphError(
                message(
                    f"ledger: the loss was not computed from {which}",
                    expected="the very tensors that the loss was computed from",
                    do=f"loss = {'losses.sum()' if stacked else 'sum(losses)'}; then ledger(loss, W, losses=losses)",
                )
            )
    if stacked:
        seeds = [_only(seeds[0], t) for t in range(last)]
        parts = parts * last
    gates = _gates(entries.uses)
    for row, (part, seed) in enumerate(zip(parts, seeds, strict=True)):
        entries.fill(row, *_from(part, seed, entries, gates))
    times = [] if stacked else [entries.uses.times[part.node.frame] for part in parts]
    if None in times or len(set(times)) < last:  # losses that no step made, or several of one step
        times = list(range(1, last + 1))
    return [*times, None]


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
    value: Value, seed: Any, entries: Entries, gates: list[tuple[Node, int]]
) -> tuple[Callable[[], Iterable[Step]], Iterable[Step]]:
    """The reverse sweep of one loss, in two parts: outside the steps, where many zeros may arrive, and on from where there are none.

    So the sweep begins at the step of its loss. The second part comes first, as it waits for the first.
    """
    of_leaf: Targets = {entries.leaf: {0: None}}
    assert value.node is not None
    if entries.uses.times[value.node.frame] is not None:
        return partial(steps_of_backward, [value], [seed], targets=of_leaf), ()
    targets: Targets = {entries.leaf: {0: None}}
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
