"""Pass 2, adjoint: the backward step of a step, derived by the reverse sweep from the ops' own rules.

The sweep runs once, with create_graph, over the tape of one step, so the gradient is itself a graph of ops; there is no second set of
derivatives here. What it leaves is then told apart into what is linear in the cotangents and what is not:

    dL/dz = dc ⊙ ((g ⊙ i) ⊙ (1 - i))    becomes    dL/dz = dc ⊙ F,   F = g ⊙ (i - i²)

The factors F come of the forward pass alone. They are known before any cotangent is, so the loop can make them for many steps at once, and
what is left to do at each step is one product of numbers per path.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..autodiff import grad
from ..frames import enable_grad, mode
from ..graph import box, leaf, raw, toposort
from . import trace as tracing
from .expressions import Expressions, Op, used


class Step(NamedTuple):
    """The equations of one step and of its adjoint."""

    make: Expressions
    x: Op
    states: list[Op]
    statics: list[Op]
    outputs: list[Op]  # the new state, then what is collected
    cotangents: list[Op | None]  # of each output; None where none arrives
    g_x: Op | None
    g_states: list[Op | None]
    g_statics: list[Op | None]


def derive(
    trace: tracing.Trace, x: Any, states: list[Any], statics: list[Any], arrived: tuple[bool, ...], wanted: tuple[bool, ...]
) -> Step:
    """The forward step as ops, and its gradients: `arrived`, which outputs have cotangents; `wanted`, which of x and the statics need one.

    x, states, statics: arrays of the right shapes; their numbers do not matter.
    """
    return factored(swept(trace, x, states, statics, arrived, wanted))


def factored(step: Step) -> Step:
    """The same gradients as sums of (cotangent ⊙ factor)."""
    gradients = [step.g_x, *step.g_states, *step.g_statics]
    forms = _Linear(step.make, [g for g in gradients if g is not None])
    g_x, *others = (None if g is None else forms.rewritten(g) for g in gradients)
    n = len(step.states)
    return step._replace(g_x=g_x, g_states=others[:n], g_statics=others[n:])


def swept(
    trace: tracing.Trace, x: Any, states: list[Any], statics: list[Any], arrived: tuple[bool, ...], wanted: tuple[bool, ...]
) -> Step:
    """The forward step and its gradients as the reverse sweep finds them."""
    make = Expressions()
    arrays = [raw(a) for a in (x, *states, *statics)]
    roles = [("x", 0), *(("state", k) for k in range(len(states))), *(("static", k) for k in range(len(statics)))]
    tracer = tracing.Tracer()
    leaves = [box(a, leaf(a)) for a in arrays]
    with enable_grad(), mode("unfolded", True), mode("anomaly", True), mode("tracing", tracer), np.errstate(all="ignore"):
        outputs = tracing.replay(trace, leaves[0], leaves[1 : 1 + len(states)], leaves[1 + len(states) :])
        at: dict[Any, Any] = {v.node: make.input(*role, a) for v, role, a in zip(leaves, roles, arrays, strict=True)}
        make.read(toposort(outputs), at)
        seeds = [box(o._data, leaf(o._data)) if there else None for o, there in zip(outputs, arrived, strict=True)]
        cotangents = [None if s is None else make.input("cotangent", k, s._data) for k, s in enumerate(seeds)]
        at.update({s.node: c for s, c in zip(seeds, cotangents, strict=True) if s is not None})
        reached = [o for o, s in zip(outputs, seeds, strict=True) if s is not None]
        asked = [True if 1 <= i <= len(states) else wanted[i if i == 0 else i - len(states)] for i in range(len(leaves))]
        asked = [want and a.dtype.kind == "f" for want, a in zip(asked, arrays, strict=True)]
        targets = [v for v, want in zip(leaves, asked, strict=True) if want]
        with mode("anomaly", False):
            gradients = iter(
                grad(reached, targets, [s for s in seeds if s is not None], create_graph=True, allow_unused=True) if reached else ()
            )
        found = [next(gradients, None) if want else None for want in asked]
        make.read(toposort([g for g in found if g is not None and g.node is not None]), at)

    if tracer.reason:
        raise tracing.Untraceable(f"the derivative of one of its ops cannot be traced: {tracer.reason}")

    def of(v: Any) -> Op:
        ops = at[v.node]
        return ops[v.index] if isinstance(ops, list) else ops  # type: ignore[no-any-return]

    values = [None if g is None or g.node is None else of(g) for g in found]
    outs = [of(o) for o in outputs]
    n = 1 + len(states)
    inputs = [at[v.node] for v in leaves]
    return Step(make, inputs[0], inputs[1:n], inputs[n:], outs, cotangents, values[0], values[1:n], values[n:])


class _Linear:
    """Rewrites what depends on cotangents as sums of (cotangent ⊙ factor), in which a cotangent is one that must be computed anyway."""

    def __init__(self, make: Expressions, outputs: list[Op]):
        self.make = make
        self.uses: dict[Op, int] = dict.fromkeys(outputs, 1)
        for op in used(outputs):
            for a in op.args:
                self.uses[a] = self.uses.get(a, 0) + 1
        self.forms: dict[Op, dict[Op, Op | None]] = {}
        self.done: dict[Op, Op] = {}
        for op in used(outputs):
            if op.linear:
                self.forms[op] = self._form(op)

    def _form(self, op: Op) -> dict[Op, Op | None]:
        """Which cotangents, each with its factor (None: 1), add up to op. Its own, if it is no such sum."""
        make = self.make
        if op.kind == "map":
            a, b = op.args[0], op.args[-1]
            full = [x.linear and x.shape == op.shape for x in op.args]
            if op.name == "negative":
                return {c: make.map("negative", f or make.number(1)) for c, f in self._of(a).items()}
            if op.name in ("add", "subtract") and all(full):
                form = dict(self._of(a))
                for c, f in self._of(b).items():
                    f = f if op.name == "add" else make.map("negative", f or make.number(1))
                    form[c] = f if c not in form else make.map("add", form[c] or make.number(1), f or make.number(1))
                return form
            if op.name == "multiply" and full[0] != full[1] and a.linear != b.linear:
                linear, factor = (a, b) if a.linear else (b, a)
                return {c: factor if f is None else make.map("multiply", f, factor) for c, f in self._of(linear).items()}
            if op.name == "divide" and full[0] and not b.linear:
                return {c: make.map("divide", f or make.number(1), b) for c, f in self._of(a).items()}
        return {op: None}

    def _of(self, op: Op) -> dict[Op, Op | None]:
        """The form of an argument: kept whole if it is a sum that others use, too."""
        form = self.forms[op]
        return form if len(form) == 1 or self.uses[op] == 1 else {op: None}

    def rewritten(self, op: Op) -> Op:
        """The op in terms of its form."""
        for a in used([op]):
            if a not in self.done:
                self.done[a] = self._rewritten(a) if a.linear else a
        return self.done[op]

    def _rewritten(self, op: Op) -> Op:
        form = self.forms[op]
        if form == {op: None}:
            return self.make.op(op.kind, [self.done[a] for a in op.args], op.params, op.shape, op.dtype, op.fn)
        total: Op | None = None
        for c, f in form.items():
            term = self.done[c] if f is None else self.make.map("multiply", self.done[c], f)
            if total is None:
                total = term
            elif term.kind == "map" and term.name == "negative":
                total = self.make.map("subtract", total, term.args[0])
            else:
                total = self.make.map("add", total, term)
        assert total is not None
        return total
