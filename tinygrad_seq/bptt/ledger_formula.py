"""The gradient ledger as a formula: the sum, what its letters mean, and the norms of its terms."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from .copies import Use
from .ledger_text import loop_of, shown, step_of
from .norms import norm_of
from .notation import Writing, bracketed, escaped, symbol

if TYPE_CHECKING:
    from .ledger import Ledger


class _Group(NamedTuple):
    """The uses of one loop, or those outside every step of one place."""

    columns: list[int]
    k: str  # the index that tells them apart; none where there is but one
    note: str


def _groups(led: Ledger) -> list[_Group]:
    """The uses as the formula sums them, without those that only a rest of the loss reaches."""
    of_steps = [s for s, t in enumerate(led.loss_steps or ()) if t is not None]
    groups = []
    for (place, outside), columns in groupby(range(len(led.uses)), key=lambda k: (loop_of(led.uses[k]), led.uses[k].time is None)):
        members = list(columns)
        if led.loss_steps is None or led.reached[np.ix_(of_steps, members)].any():
            k = "" if led.uses[members[0]] == Use(None, place) else "k"
            groups.append(_Group(members, k, (place or "outside every module") + ", outside every step" * outside))
    return groups


def formula(led: Ledger, w: Writing) -> str:
    """The gradient as the sum of its terms, what the letters mean, and their norms."""
    W, double, chain, groups = symbol(led.name, w), led.loss_steps is not None, _triangular(led), _groups(led)
    terms = [(_sums(led, g, w) + f"{w.delta(g.k, double)} {w.ratio(_a(g.k), W, partial=True)}", g.note) for g in groups]
    meanings = {
        _a(g.k): (w.delta(g.k, double), w.ratio("L_t" if double else "L", _a(g.k)) + (f" = {_chain(w)}" if chain else ""))
        for g in groups
    }
    if led.loss_steps is not None and None in led.loss_steps:
        terms.append((w.ratio("R", W), "R: what L holds beside the losses of the steps"))
    terms = terms or [("0", "")]
    left, apart = w.ratio("L", W), len(terms) > 1
    norms = _norms(led, groups, w)
    if w.latex:
        body = [
            rf"{left if not i else ''} &{'=' if not i else '+'} {sums}" + (rf" && \text{{{escaped(note)}}}" if apart else "")
            for i, (sums, note) in enumerate(terms)
        ]
        body += [rf"{name} &= {value}" for name, value in (*meanings.values(), *norms)]
        return "\\begin{align*}\n" + " \\\\\n".join(body) + "\n\\end{align*}"
    wide = max(len(sums) for sums, _ in terms)
    lines = [
        f"{left if not i else ' ' * len(left)} {'=' if not i else '+'} {sums:<{wide}}" + (f"    [{note}]" if apart else "")
        for i, (sums, note) in enumerate(terms)
    ]
    lines += ["", *(" = ".join(meaning) for meaning in meanings.values())]
    lines += [f"{a}: what {'step k' if a == 'a_k' else 'that one use'} computes from {W}" for a in meanings]
    lines += ["L_t: the loss of step t, as it counts in L"] * double + ["h_j: all that step j hands on"] * chain
    lines += ["", *(f"{name} = {value}" for name, value in norms)]
    return "\n".join(line.rstrip() for line in lines)


def _a(k: str) -> str:
    return f"a_{k}" if k else "a"


def _sums(led: Ledger, group: _Group, w: Writing) -> str:
    """The sums over losses and uses of one group."""
    numbers = [led.uses[k].time or led.uses[k].call for k in group.columns]
    inner = _sum("k", numbers, w) if group.k else ""
    if led.loss_steps is None:
        return inner
    if _triangular(led):
        inner = w.sum("k", str(numbers[0]), "t")
    return _sum("t", [t for t in led.loss_steps if t is not None], w) + inner


def _sum(index: str, times: Sequence[int], w: Writing) -> str:
    if list(times) == list(range(times[0], times[-1] + 1)) and len(times) > 1:
        return w.sum(index, str(times[0]), str(times[-1]))
    return w.sum_over(index, [str(t) for t in times])


def _triangular(led: Ledger) -> bool:
    """Whether the loss of each step sees the uses up to its own step and no others: one chain of states that runs forward."""
    if led.loss_steps is None or len({loop_of(use) for use in led.uses}) > 1 or None in led.steps or len(led.uses) < 2:
        return False
    rows = [(t, led.reached[s]) for s, t in enumerate(led.loss_steps) if t is not None]
    return all(
        bool(reached[k]) == (use.time is not None and use.time <= t) for t, reached in rows for k, use in enumerate(led.uses)
    )


def _chain(w: Writing) -> str:
    """The product of what every step between does to a state."""
    if w.latex:
        return r"\frac{dL_t}{dh_t} \Bigl[\prod_{j=k+1}^{t} \frac{\partial h_j}{\partial h_{j-1}}\Bigr] \frac{\partial h_k}{\partial a_k}"
    return "dL_t/dh_t [Π_(j=k+1..t) ∂h_j/∂h_(j-1)] ∂h_k/∂a_k"


def _norms(led: Ledger, groups: list[_Group], w: Writing) -> list[tuple[str, str]]:
    """The norms of the terms by use (by loss and use there are too many to write), and of the sum."""
    name = symbol(led.name, w)
    dots, gap = (r"\dots", r" \qquad ") if w.latex else ("...", "    ")
    lines = []
    for columns, k, note in groups if led.loss_steps is None else ():
        norms = [float(led.norms[c]) for c in columns]
        listed = ", ".join(dots if i is None else w.number(norms[i]) for i in shown(len(norms), full=False, ends=4))
        ends = list(dict.fromkeys(step_of(led.uses[c]) for c in (columns[0], columns[-1])))
        span = f", {dots}, ".join(rf"\text{{{end}}}" if w.latex and not end.isdigit() else end for end in ends)
        told = [f"(k = {span})"] * bool(k) + ([rf"\text{{{escaped(note)}}}" if w.latex else f"[{note}]"] if len(groups) > 1 else [])
        a = f"{w.delta(k, losses=False)}" + (
            rf" \, \partial {_a(k)} / \partial {name}" if w.latex else f" ∂{_a(k)}/∂{bracketed(name)}"
        )
        lines.append((w.norm(a), gap.join([listed, *told])))
    return [*lines, (w.norm(w.ratio("L", name)), w.number(norm_of(led.total)))]
