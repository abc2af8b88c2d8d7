"""Plans of recomputation: which states of a sequence are kept and which steps are run again, predicted, then measured.

    all kept        no step twice, the inside of T steps on the tape
    every k         ⌈T/k⌉ states, the inside of k steps; each step but those of the last piece twice
    square root     every ⌈√T⌉: the least of both together, O(√T) (Chen et al. 2016)
    binomial        s states and the inside of one step; the fewest steps run again that s states allow, r T - C(s+1+r, r-1) with the least r
                    for which C(s+1+r, r) >= T (Griewank & Walther 2000, whose count includes the first state)

A plan is a list of actions on states, which anything can carry out; here a model is run step by step on the tape.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, comb, sqrt
from typing import Any, NamedTuple

import numpy as np

from ..autodiff import grad
from ..errors import ArgumentError, ShapeError, message
from ..frames import enable_grad, mode, no_grad
from ..graph import Value, box, raw
from .recurrence import Recurrence, amount, arrays_of, as_leaves, numbers, peak_of


class Action(NamedTuple):
    """One thing to do. A state is named by its step, 0 the one before the first.

    advance a b     run the steps a+1 ... b from the kept state a, recording nothing
    keep b          keep the state that was reached
    reverse a b     run the steps a+1 ... b recorded, from state a, kept or just reached, and sweep back through them
    drop b          let a kept state go
    """

    name: str
    first: int
    last: int


@dataclass(frozen=True)
class Plan:
    """What is kept and what is run again over T steps: actions in order, and what follows from them.

    snapshots: how many states are kept at most, the first one apart. recorded: how many steps are on the tape at most. recomputed: how many
    steps are run beyond the T of plain BPTT.
    """

    name: str
    T: int
    actions: tuple[Action, ...]

    @property
    def recomputed(self) -> int:
        """How many steps are run beyond the T that BPTT runs."""
        return sum(a.last - a.first for a in self.actions if a.name == "advance")

    @property
    def recorded(self) -> int:
        """How many steps are on the tape at most."""
        return max(a.last - a.first for a in self.actions if a.name == "reverse")

    @property
    def pieces(self) -> int:
        """How often steps are recorded and swept."""
        return sum(a.name == "reverse" for a in self.actions)

    @property
    def snapshots(self) -> int:
        """How many states are kept at most, the first one apart."""
        return max(kept for kept, _, _ in self.levels())

    def levels(self) -> list[tuple[int, int, int]]:
        """While each action goes on: how many states are kept, how many are held beside them, how many steps are on the tape.

        Beside them are the state that a piece begins with where it was only reached, and what arrives at and leaves a piece in the sweep.
        """
        kept, found, several = {0}, [], self.pieces > 1
        for name, first, last in self.actions:
            if name == "keep":
                kept.add(last)
            elif name == "drop":
                kept.discard(last)
            reverse = name == "reverse"
            found.append((len(kept) - 1, 2 * (reverse and several) + (reverse and first not in kept), (last - first) * reverse))
        return found

    def peak(self, state: float, inside: Callable[[int], float], gradient: float = 0) -> float:
        """The most bytes held at one moment: a state takes `state`, n steps recorded and swept inside(n).

        Where there are several pieces, the gradient found so far, `gradient` bytes, is there while the next piece is swept.
        """
        held = max((kept + beside) * state + (inside(steps) if steps else 0.0) for kept, beside, steps in self.levels())
        return held + (gradient if self.pieces > 1 else 0)

    def __repr__(self) -> str:
        return f"Plan({self.name}: {self.T} steps, {self.snapshots} states kept, {self.recorded} steps on the tape, {self.recomputed} run again)"


def plan(T: int, how: Any = "binomial", snapshots: int | None = None) -> Plan:
    """A plan for T steps: "all" kept, every k steps (an int), "square root", or "binomial" with so many states (⌈log₂ T⌉ unless told)."""
    if not isinstance(T, int) or T < 1:
        raise ShapeError(message(f"plan: T = {T!r}", expected="a number of steps, 1 or more"))
    if how == "binomial":
        s = max(1, ceil(np.log2(T))) if snapshots is None else snapshots
        if not isinstance(s, int) or s < 0:
            raise ShapeError(message(f"plan: snapshots = {snapshots!r}", expected="how many states may be kept, 0 or more"))
        return Plan(f"binomial, {s} states", T, tuple(_binomial(T, s)))
    k = {"all": T, "square root": ceil(sqrt(T))}.get(how) if isinstance(how, str) else how
    if not isinstance(k, int) or k < 1 or snapshots is not None:
        raise ArgumentError(
            message(
                f"plan: {how!r}" + ("" if snapshots is None else f" with snapshots={snapshots}"),
                expected='"all", an int k for every k steps, "square root", or "binomial" with snapshots=',
            )
        )
    k = min(k, T)
    return Plan("all kept" if k == T else f"every {k} steps" + (" (√T)" if how == "square root" else ""), T, tuple(_every(T, k)))


def _every(T: int, k: int) -> list[Action]:
    begins = range(0, T, k)
    forward = [a for b in begins[:-1] for a in (Action("advance", b, b + k), Action("keep", b + k, b + k))]
    back = [Action("reverse", begins[-1], T)]
    for b in reversed(begins[:-1]):
        back += [Action("drop", b + k, b + k), Action("reverse", b, b + k)]
    return forward + back


def _binomial(T: int, s: int) -> list[Action]:
    """The steps a+1 ... b are reversed from the kept state a: go on to m, keep it, reverse behind m with one state fewer, then before m."""
    actions: list[Action] = []
    todo: list[tuple[int, int, int] | Action] = [(0, T, s)]
    while todo:
        item = todo.pop()
        if isinstance(item, Action):
            actions.append(item)
            continue
        a, b, s = item
        if b - a == 1 or s == 0:
            for i in range(b - 1, a - 1, -1):
                actions += [Action("advance", a, i)] if i > a else []
                actions.append(Action("reverse", i, i + 1))
            continue
        m = a + split(b - a, s)
        actions += [Action("advance", a, m), Action("keep", m, m)]
        todo += [(a, m, s), Action("drop", m, m), (m, b, s - 1)]
    return actions


def split(T: int, s: int) -> int:
    """How far to go on before the first of s more states is kept, such that the fewest of T steps are run again."""
    r = repetitions(T, s)
    return max(1, min(comb(s + r, s + 1), T - comb(s + r - 1, s)))


def repetitions(T: int, s: int) -> int:
    """How often a step is run again at most: the least r with which s states beside the first reach C(s+1+r, r) >= T steps."""
    r = 0
    while comb(s + 1 + r, r) < T:
        r += 1
    return r


def fewest(T: int, s: int) -> int:
    """The fewest steps that must be run again where s states are kept beside the first: r T - C(s+1+r, r-1), r the `repetitions`."""
    r = repetitions(T, s)
    return r * T - comb(s + 1 + r, s + 2)


# ---- Carried out -------------------------------------------------------------------------------------------------------------------------


def carried_out(model: Recurrence, plan: Plan) -> dict[str, Any]:
    """The gradient by weight, found by following the plan: pieces are recorded, swept and forgotten from the last to the first."""
    weights = list(model.weights.values())
    totals: list[Any] = [None] * len(weights)
    kept, reached, arrived = {0: model.start}, (0, model.start), None
    for name, a, b in plan.actions:
        if name == "advance":
            with no_grad():
                state = kept[a]
                for t in range(a + 1, b + 1):
                    state, _ = model.step(t, state)
            reached = b, state
        elif name == "keep":
            kept[b] = reached[1]
        elif name == "drop":
            del kept[b]
        else:
            begin = kept[a] if a in kept else reached[1]
            inputs = begin if a == 0 else as_leaves(begin)
            leaves = [] if a == 0 else arrays_of(inputs)
            total, state = model.run(a + 1, b, inputs)
            found = _swept(total, arrays_of(state), arrived, [*leaves, *weights])
            arrived = found[: len(leaves)]
            _add(totals, found[len(leaves) :])
            del total, state, inputs, leaves, found
    return {
        name: np.zeros(w._data.shape) if g is None else numbers(g)
        for (name, w), g in zip(model.weights.items(), totals, strict=True)
    }


def _add(totals: list[Any], found: Sequence[Any]) -> None:
    """Add gradients to their totals, in the memory of the totals."""
    for i, g in enumerate(found):
        if g is not None and totals[i] is not None:
            totals[i]._data += g._data
        elif g is not None:
            totals[i] = g


def _swept(total: Any, state: Sequence[Any], arrived: Any, inputs: Sequence[Any]) -> list[Any]:
    """The gradient of the losses of a piece, and of what arrives at the state behind it."""
    pairs = [(total, None), *zip(state, arrived or [None] * len(state), strict=True)]
    pairs = [
        (y, box(np.ones_like(y._data), None) if g is None else g)
        for y, g in pairs
        if isinstance(y, Value) and y.node is not None and (g is not None or y is total)
    ]
    if not pairs:
        return [None] * len(inputs)
    return list(grad([y for y, _ in pairs], inputs, [g for _, g in pairs], allow_unused=True))


# ---- Predicted, then measured ------------------------------------------------------------------------------------------------------------


class Trial(NamedTuple):
    """A plan on a model: the bytes and the steps run again that were predicted, and those that were measured."""

    plan: Plan
    predicted: float
    measured: int
    recomputed: int
    gradients: dict[str, Any]


@dataclass(frozen=True, repr=False)
class Trials:
    """Plans side by side. state, inside: the bytes of a state, and of some numbers of steps recorded and swept: what predictions start from."""

    trials: tuple[Trial, ...]
    state: int
    inside: dict[int, int]

    def __iter__(self) -> Any:
        return iter(self.trials)

    def __len__(self) -> int:
        return len(self.trials)

    def __getitem__(self, i: int) -> Trial:
        return self.trials[i]

    def table(self) -> str:
        """What was predicted and what was measured, as text."""
        lines = [
            f"a state takes {amount(self.state)}; steps on the tape: {', '.join(f'{n}: {amount(size)}' for n, size in self.inside.items())}",
            f"{'T = ' + str(self.trials[0].plan.T):<22}  {'states':>6}  {'on the tape':>11}  {'peak predicted':>14}  {'measured':>9}"
            f"  {'run again':>9}  {'measured':>8}",
        ]
        for p, predicted, measured, again, _ in self.trials:
            lines.append(
                f"{p.name:<22}  {p.snapshots:>6}  {p.recorded:>11}  {amount(predicted):>14}  {amount(measured):>9}"
                f"  {p.recomputed:>9}  {again:>8}"
            )
        return "\n".join(lines)

    __repr__ = table


def try_plans(
    model: Any,
    xs: Any,
    state: Any = None,
    weights: Any = None,
    loss: Callable[[Any, int], Any] | None = None,
    *,
    plans: Any = ("all", "square root", "binomial"),
) -> Trials:
    """Plans of recomputation on a model: the peak of memory and the steps run again as predicted, then as measured.

        print(try_plans(nn.LSTMCell(64, 64), xs, plans=["all", 10, "square root", ("binomial", 4), plan(200, "binomial", 2)]))

    The model, xs, state, weights and loss(y, t) as in `four_roads`. plans: one or a list of what `plan` takes, a pair
    for a number of states, or a Plan.
    Predictions come from the size of a state and from sweeps over 1, 2, 4 ... at most 64 steps; measured is the whole of each plan.
    """
    recurrence = Recurrence("try_plans", model, xs, state, weights, loss)
    T = recurrence.T
    made = [_as_plan(T, how) for how in ([plans] if isinstance(plans, (str, int, Plan)) else plans)]
    with enable_grad(), mode("unfolded", True):
        with no_grad():
            after, _ = recurrence.step(1, recurrence.start)
        bytes_of_state = sum(raw(a).nbytes for a in arrays_of(after))
        carried_out(recurrence, plan(T, "square root"))  # what Python keeps from a first run is there
        some = [2**i for i in range(7) if 2**i <= max(p.recorded for p in made)]
        inside = {n: peak_of(lambda n=n: carried_out(recurrence, plan(n, "all"))) for n in some}  # type: ignore[misc]
        gradient = sum(w._data.nbytes for w in recurrence.weights.values())
        trials = []
        for p in made:
            found: list[dict[str, Any]] = []
            before = recurrence.steps_run
            measured = peak_of(lambda p=p, found=found: found.append(carried_out(recurrence, p)))  # type: ignore[misc]
            again = recurrence.steps_run - before - T
            trials.append(Trial(p, p.peak(bytes_of_state, lambda n: _between(inside, n), gradient), measured, again, found[0]))
    return Trials(tuple(trials), bytes_of_state, inside)


def _between(known: dict[int, int], n: int) -> float:
    """The value at n on straight lines through what is known, the last of which goes on."""
    if n in known:
        return known[n]
    points = sorted(known)
    right = next((k for k in points if k > n), points[-1])
    left = points[points.index(right) - 1]
    return known[left] + (known[right] - known[left]) * (n - left) / (right - left)


def _as_plan(T: int, how: Any) -> Plan:
    if isinstance(how, Plan):
        if how.T != T:
            raise ShapeError(message(f"try_plans: a plan for {how.T} steps", expected=f"{T}, the steps of xs"))
        return how
    return plan(T, *how) if isinstance(how, tuple) else plan(T, how)
