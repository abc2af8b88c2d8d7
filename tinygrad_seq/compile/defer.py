"""Pass 4, defer: what of the backward step waits for later, and what of the forward step must be kept for it.

The gradient of a weight is a sum over time of outer products δ v^T: the loop only gathers the δ, and multiplies those of about a thousand rows
at once. So it is with a bias, the sum of the δ, and with dL/dx = W^T δ. What is left to compute step by step are the δ and what comes
back to the state.

Of the forward pass the factors need some values. Kept are the activations of the gates, states, and what no map makes; what maps make out of these
costs little more than its reading, and is made again (tanh(c)), for several steps at once.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .adjoint import Step
from .expressions import Op, used
from .group import Group


class Outer(NamedTuple):
    """A part of the gradient of a static: Σ left^T right over all rows (B and time), one of the two a δ."""

    static: int
    left: Op
    right: Op


class Total(NamedTuple):
    """A part of the gradient of a static: the sum of δ over all rows."""

    static: int
    delta: Op


class Through(NamedTuple):
    """A part of the gradient of x: δ through a weight, δ w^T if transposed, else δ w."""

    delta: Op
    w: Op
    transposed: bool


class Deferred:
    """The backward step, told apart into what is deferred and what is computed at each step."""

    def __init__(self, step: Step):
        self.B = step.states[0].shape[0] if step.states[0].ndim == 2 else -1  # how many rows can be gathered
        self.outers: list[Outer] = []
        self.totals: list[Total] = []
        self.through: list[Through] = []
        self.each: list[tuple[int, Op]] = []  # parts of gradients of statics, added up step by step
        self.x: Op | None = None  # the part of the gradient of x that the step computes
        for k, g in enumerate(step.g_statics):
            for term in _terms(g):
                self._defer(k, term)
        self._defer_x(step)
        self.gathered = list(
            dict.fromkeys(
                [*(self._delta(o) for o in self.outers), *(t.delta for t in self.totals), *(t.delta for t in self.through)]
            )
        )
        states = [g for g in step.g_states if g is not None]
        each = [*(op for _, op in self.each), *([] if self.x is None else [self.x])]
        read = {a for op in used([*self.gathered, *each, *states]) if op.linear for a in op.args}
        self.gathered.sort(key=lambda op: op not in read)  # first what the step itself goes on with
        self.alone = [op for op in self.gathered if op not in read]
        self.targets = [*self.gathered, *each, *states]  # the states last: they take the place of the cotangents

    def _defer(self, k: int, term: Op) -> None:
        left: Any = term.args[0] if term.args else None
        right: Any = term.args[-1] if len(term.args) > 1 else None
        if term.kind == "call" and term.name == "matmul" and left.kind == "call" and left.name == "transpose" and right.ndim == 2:
            inner = left.args[0]
            if inner.linear != right.linear and self._is_row(inner) and self._is_row(right):
                self.outers.append(Outer(k, inner, right))
                return
        if (
            term.kind == "call"
            and term.name == "sum_to"
            and left.ndim == 2
            and term.shape == left.shape[1:]
            and left.linear
            and self._is_row(left)
        ):
            self.totals.append(Total(k, left))
            return
        self.each.append((k, term))

    def _is_row(self, op: Op) -> bool:
        """Whether the op is of one moment, a row for each of the batch."""
        return op.ndim == 2 and op.shape[0] == self.B and not (op.kind == "input" and op.params[0] in ("static", "constant"))

    def _delta(self, outer: Outer) -> Op:
        return outer.left if outer.left.linear else outer.right

    def _defer_x(self, step: Step) -> None:
        rest = []
        for term in _terms(step.g_x):
            if term.kind == "product" and self._is_row(step.x):
                v, w = term.args
                self.through.append(Through(v, w, term.params[0]))
            else:
                rest.append(term)
        for term in rest:
            self.x = term if self.x is None else step.make.map("add", self.x, term)

    def values(self) -> list[Op]:
        """What of the forward pass the deferred products multiply."""
        return list(dict.fromkeys(o.right if o.left.linear else o.left for o in self.outers))


def _terms(g: Op | None) -> list[Op]:
    """The summands of a gradient."""
    if g is None:
        return []
    return (
        [t for a in g.args for t in _terms(a)]
        if g.kind == "map" and g.name == "add" and all(a.shape == g.shape for a in g.args)
        else [g]
    )


def _is_tame(op: Op) -> bool:
    """Whether the op makes finite numbers of any finite ones."""
    return op.kind == "map" and op.name in ("add", "subtract", "multiply", "negative", "square", "tanh", "sigmoid")


class Kept:
    """What the forward loop keeps for the backward loop, and what is made again of it."""

    def __init__(self, step: Step, groups: list[Group], deferred: Deferred):
        self.forward = set(used(step.outputs))
        self.news = {new: k for k, new in reversed(list(enumerate(step.outputs[: len(step.states)]))) if new.kind != "input"}
        self.activations = {b.activation for g in groups for b in g.blocks if b.activation}
        self.blocks = {b.op for g in groups for b in g.blocks if not b.activation}
        self.states: list[int] = []
        self.saved: list[Op] = []
        self.ahead: dict[Op, bool] = {}  # backward values of the forward pass: whether they are made for many steps at once
        linear = [op for op in used(deferred.targets) if op.linear]
        needs = list(dict.fromkeys(a for op in linear for a in op.args if not a.linear))
        closure = [op for op in used(needs) if op not in self.forward]
        for op in [*closure, *linear]:
            for a in op.args:
                if a.kind == "input" and a.params[0] == "state":
                    self._keep_state(a.params[1])
        wanted = sorted({*needs, *(a for op in closure for a in op.args)}, key=lambda op: op.number)
        compared = {a for op in closure if op.dtype == np.bool_ for a in op.args}  # made again it might differ by a rounding
        self.fragile = {a for op in [*closure, *linear] if not _is_tame(op) for a in op.args}
        self.saved += [new for new in self.news if new in self.fragile]  # a row that stands still has its old state there
        for op in wanted:
            if op in self.forward:
                self._provide(op, op in compared)
        for op in closure:
            self.ahead[op] = op.kind == "map" and op.ndim == 2 and all(self._is_ahead(a) for a in op.args)
        for v in deferred.values():
            self._provide_rows(v)
        self.factors = [op for op in needs if self.ahead.get(op)]
        self.late = [op for op in closure if not self.ahead[op]]
        self.factors += [a for op in self.late for a in op.args if self.ahead.get(a) and a not in self.factors]
        self.factors = list(dict.fromkeys(self.factors))

    def _keep_state(self, k: int) -> None:
        if k not in self.states:
            self.states.append(k)

    def _provide(self, op: Op, exactly: bool = False) -> None:
        """Make a value of the forward pass available in the backward loop; exactly: not made again but kept."""
        if op.kind in ("number",) or op in self.saved or op in self.ahead:
            return
        if op.kind == "input":
            if op.params[0] == "state":
                self._keep_state(op.params[1])
        elif op in self.activations or op in self.blocks:
            self.saved.append(op)
        elif self.news.get(op) in self.states and op in self.news:
            return
        elif op.kind == "part" and op.ndim == 2:
            self._provide(op.args[0], exactly)
        elif not exactly and self._is_cheap(op):
            for a in op.args:
                self._provide(a)
            self.ahead[op] = True
        elif op in self.news and op.ndim == 2:
            self._keep_state(self.news[op])
        else:
            self.saved.append(op)

    def _is_cheap(self, op: Op) -> bool:
        """Whether maps make the value out of what is there anyway."""
        there = op.kind == "map" and op.ndim == 2 and all(self._is_there(a) or self._is_cheap(a) for a in op.args)
        return there and (_is_tame(op) or not any(a in self.news for a in op.args))

    def _is_there(self, op: Op) -> bool:
        if op.kind == "input":
            return op.params[0] == "static" or (op.params[0] == "state" and op.params[1] in self.states)
        return op.kind == "number" or op in self.saved or op in self.ahead or (op in self.news and self.news[op] in self.states)

    def _is_ahead(self, op: Op) -> bool:
        """Whether the value is there for many steps at once."""
        if op.kind == "number":
            return True
        if op.kind == "input":
            return op.ndim <= 2 and (op.params[0] != "x" or op.ndim == 2)
        if op.kind == "part" and op not in self.saved:
            return op.ndim == 2 and self._is_ahead(op.args[0])
        return op.ndim == 2 and (op in self.saved or self.ahead.get(op, False) or op in self.news)

    def _provide_rows(self, v: Op) -> None:
        """A value that a weight multiplies: x and the first state are there as rows."""
        if v.kind == "input" and (v.params[0] == "x" or v.params[:2] == ("state", 0)):
            return
        if v.kind == "input" and v.params[0] == "state":
            self._keep_state(v.params[1])
        elif (v in self.news and self.news[v] in self.states) or v in self.saved:
            return
        elif v.kind == "part":
            self._provide_rows(v.args[0])
        else:
            self.saved.append(v)
            self.ahead.pop(v, None)
