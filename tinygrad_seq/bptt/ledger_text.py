"""The gradient ledger as text: aligned tables, and the sum in the notation of the lecture notes, plain and in LaTeX."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .copies import Use

if TYPE_CHECKING:
    from .ledger import Ledger

OUTSIDE = "outside"  # how the time None is written


# ---- Tables --------------------------------------------------------------------------------------------------------------------------


def table(led: Ledger, full: bool = False) -> str:
    """A ledger as a table: its terms one by one, or the norms by loss and use."""
    head = f"dL/d{symbol(led.name, PLAIN)}" + (f", {led.name}" if symbol(led.name, PLAIN) != led.name and led.name else "")
    head += f" {tuple(led.total.shape)}: the terms of {len(led.uses)} use{'s' * (len(led.uses) != 1)}"
    lines = [head, ""] + (_list(led, full) if led.loss_steps is None else _matrix(led, full))
    if led.steps == [None]:
        told = "used once for all steps: ledger(loss, W, losses=...) splits it by the step whose loss it is"
        lines += ["", f"{symbol(led.name, PLAIN)} is {told}."] if led.in_time and led.loss_steps is None else []
        lines += (
            []
            if led.in_time
            else ["", "No step was recorded. In a loop of your own, tg.steps tells them: for x in tg.steps(xs): ..."]
        )
    return "\n".join(line.rstrip() for line in lines)


def _list(led: Ledger, full: bool) -> list[str]:
    places = [_loop(use) for use in led.uses]
    apart = len(set(places)) > 1
    largest = float(led.norms.max(initial=0.0))
    wide = max(map(len, places)) if apart else 0
    rows = [("step", "place" if apart else "", "norm", "share  ", "")]
    for k in _shown(len(led.uses), full):
        if k is None:
            rows.append(("...", "", "", "", ""))
            continue
        norm = float(led.norms[k])
        note = _bar(norm / largest if largest else 0.0) if led.reached[k] else "nothing arrives"
        rows.append((_step(led.uses[k]), places[k] if apart else "", _number(norm), f"{100 * led.shares[k]:8.2f} %", note))
    rows.append(("sum", "", _number(np.linalg.norm(led.total)), f"{100 * led.shares.sum():8.2f} %", ""))
    rows.append(("dL/dW", "", _number(np.linalg.norm(led.gradient)), "", f"relative difference {led.check():.1e}"))
    return [
        f"{step:>8}" + (f"  {place:<{wide}}" if apart else "") + f"  {norm:>11}  {share:>10}  {note}"
        for step, place, norm, share, note in rows
    ]


def _matrix(led: Ledger, full: bool) -> list[str]:
    assert led.loss_steps is not None and led.norms_by_loss is not None
    columns, losses = _shown(len(led.uses), full, ends=5), _shown(len(led.loss_steps), full)
    places = list(dict.fromkeys(map(_loop, led.uses)))
    rows = [["t \\ k", *("..." if k is None else _step(led.uses[k]) for k in columns), "sum"]]
    if len(places) > 1:
        rows.append(["", *("" if k is None else f"({places.index(_loop(led.uses[k])) + 1})" for k in columns), ""])
    for s in losses:
        if s is None:
            rows.append(["...", *[""] * len(columns), ""])
            continue
        cells = ["" if k is None else _short(led.norms[s, k]) if led.reached[s, k] else "·" for k in columns]
        time = led.loss_steps[s]
        rows.append(["rest" if time is None else str(time), *cells, _short(led.norms_by_loss[s])])
    whole = _short(np.linalg.norm(led.total))
    rows.append(["sum", *("" if k is None else _short(led.norms_by_use[k]) for k in columns), whole])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    out = ["Norms. Row t: the loss of step t. Column k: the use at step k. ·: nothing arrives there.", ""]
    out += ["  ".join(f"{cell:>{w}}" for cell, w in zip(row, widths, strict=True)) for row in rows]
    if len(places) > 1:
        out += ["", *(f"({number}) {place or 'outside every module'}" for number, place in enumerate(places, 1))]
    return [*out, "", f"Norms do not add up; the terms do: ‖Σ‖ = {whole}, relative difference from dL/dW {led.check():.1e}"]


def _place(use: Use) -> str:
    """The place of a use, with the number of the call."""
    return f"{use.place} ({use.call})".lstrip() if use.call else use.place


def _loop(use: Use) -> str:
    """The place that a use shares with its neighbours: calls outside every step are columns of one place."""
    return use.place if use.time is None else _place(use)


def _shown(count: int, full: bool, ends: int = 8) -> list[int | None]:
    """Which of so many are shown, so many at each end; None stands for those between."""
    if full or count <= 2 * ends + 1:
        return list(range(count))
    return [*range(ends), None, *range(count - ends, count)]


def _step(use: Use) -> str:
    return str(use.time) if use.time is not None else f"call {use.call}" if use.call else OUTSIDE


def _number(x: Any) -> str:
    return f"{x:.6g}"


def _short(x: Any) -> str:
    return f"{x:.3g}"


def _bar(part: float, width: int = 24) -> str:
    """A bar of that part of the width; what is not zero shows."""
    return "" if not np.isfinite(part) else "█" * max(round(part * width), int(part > 0))


def ranges(steps: Sequence[int | None]) -> str:
    """Steps as they are told: 1..5, or 2, 4, 6, outside."""
    times = sorted({t for t in steps if t is not None})
    even = len(times) > 2 and times == list(range(times[0], times[-1] + 1))
    told = [f"{times[0]}..{times[-1]}"] if even else [str(t) for t in times]
    return ", ".join(told + [OUTSIDE] * (None in steps))


# ---- The sum in the notation of the lecture notes ----------------------------------------------------------------------------------------


class Writing(NamedTuple):
    """How a formula is written: plain, or in LaTeX."""

    latex: bool

    def sum(self, index: str, first: str, last: str) -> str:
        """Σ over a range."""
        return rf"\sum_{{{index}={first}}}^{{{last}}} " if self.latex else f"Σ_({index}={first}..{last}) "

    def sum_over(self, index: str, members: Sequence[str]) -> str:
        """Σ over a set."""
        if len(members) > 6:
            members = [*members[:3], r"\dots" if self.latex else "...", members[-1]]
        listed = ", ".join(members)
        return rf"\sum_{{{index} \in \{{{listed}\}}}} " if self.latex else f"Σ_({index} in {{{listed}}}) "

    def ratio(self, of: str, by: str, partial: bool = False) -> str:
        """A derivative."""
        if self.latex:
            d = r"\partial " if partial else "d"
            return rf"\frac{{{d}{of}}}{{{d}{by}}}"
        return f"∂{of}/∂{by}" if partial else f"d{of}/d{by}"

    def delta(self, k: str, losses: bool) -> str:
        """What arrives before the nonlinearity, at step k if it has one; of the loss t."""
        return (r"\delta" if self.latex else "δ") + (f"_{k}" if k else "") + ("^t" if losses else "")

    def norm(self, of: str) -> str:
        """A norm."""
        return rf"\lVert {of} \rVert" if self.latex else f"‖{of}‖"

    def number(self, x: float) -> str:
        """A number of three digits."""
        if self.latex and not np.isfinite(x):
            return r"\text{nan}" if np.isnan(x) else r"\infty"
        mantissa, _, exponent = f"{x:.3g}".partition("e")
        return rf"{mantissa} \cdot 10^{{{int(exponent)}}}" if exponent and self.latex else f"{x:.3g}"


PLAIN, LATEX = Writing(latex=False), Writing(latex=True)


def formula(led: Ledger, w: Writing) -> str:
    """The gradient as the sum of its terms, what the letters mean, and their norms."""
    W, double, chain = symbol(led.name, w), led.loss_steps is not None, _triangular(led)
    terms: list[tuple[str, str]] = []
    meanings: dict[str, tuple[str, str]] = {}  # of a, with the index k or without: what δ is, and what a is
    by_losses = led.reached[[t is not None for t in led.loss_steps]] if led.loss_steps is not None else None
    for place, group in groupby(range(len(led.uses)), key=lambda k: (_loop(led.uses[k]), led.uses[k].time is None)):
        columns = list(group)
        if by_losses is None or by_losses[:, columns].any():
            k, where = "k" if led.uses[columns[0]] != Use(None, place[0]) else "", place[0] or "outside every module"
            a, delta = f"a_{k}" if k else "a", w.delta(k, double)
            terms.append(
                (_sums(led, columns, w) + f"{delta} {w.ratio(a, W, partial=True)}", where + ", outside every step" * place[1])
            )
            meanings[a] = delta, w.ratio("L_t" if double else "L", a) + (f" = {_chain(w)}" if chain else "")
    if led.loss_steps is not None and None in led.loss_steps:
        terms.append((w.ratio("R", W), "R: what L holds beside the losses of the steps"))
    left, apart = w.ratio("L", W), len(terms) > 1
    norms = _norms(led, w)
    if w.latex:
        body = [
            rf"{left if not i else ''} &{'=' if not i else '+'} {sums}" + (rf" && \text{{{_escaped(note)}}}" if apart else "")
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


def _sums(led: Ledger, columns: Sequence[int], w: Writing) -> str:
    """The sums over losses and uses of one place."""
    numbers = [led.uses[k].time or led.uses[k].call for k in columns]
    inner = _sum("k", numbers, w) if numbers != [0] else ""
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
    if led.loss_steps is None or len(set(led.places)) > 1 or None in led.steps or len(led.uses) < 2:
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


def _norms(led: Ledger, w: Writing) -> list[tuple[str, str]]:
    """The norms of the terms by use (by loss and use too many to write), and of the sum."""
    name = symbol(led.name, w)
    lines = []
    if led.loss_steps is None:
        dots = r"\dots" if w.latex else "..."
        listed = ", ".join(dots if k is None else w.number(float(led.norms[k])) for k in _shown(len(led.uses), full=False, ends=4))
        ends = list(dict.fromkeys(_step(led.uses[k]) for k in (0, -1)))
        span = f", {dots}, ".join(rf"\text{{{end}}}" if w.latex and not end.isdigit() else end for end in ends)
        k = "" if led.steps == [None] else "_k"
        term = rf"\delta{k} \, \partial a{k} / \partial {name}" if w.latex else f"δ{k} ∂a{k}/∂{name}"
        told = f"(k = {span})" if k else "" if w.latex else "(outside every step)"
        lines.append((w.norm(term), f"{listed}" + (r" \qquad " if w.latex else "    ") + told))
    lines.append((w.norm(w.ratio("L", name)), w.number(float(np.linalg.norm(led.total)))))
    return lines


_PYTORCH = re.compile(r"(weight|bias)_([a-z]+)(?:_l(\d+))?(_reverse)?$")


def symbol(name: str, w: Writing) -> str:
    """How a weight is written: weight_hh_l0 is W_hh, weight_hh_l1_reverse W_hh of layer 1, backwards; other names as they are."""
    if name in ("", "weight", "bias"):
        return "b" if name == "bias" else "W"
    last = name.rpartition(".")[2]
    match = _PYTORCH.search(last)
    if match:
        kind, which, layer, reverse = match.groups()
        letter, above = (
            "W" if kind == "weight" else "b",
            (f"l{layer}" if layer not in (None, "0") else "") + ("←" if reverse else ""),
        )
        if w.latex:
            above = above.replace("←", r"\leftarrow")
            return f"{letter}_{{{which}}}" + (f"^{{{above}}}" if above else "")
        return f"{letter}_{which}" + (f"^{above}" if above else "")
    if not w.latex:
        return last if last not in ("weight", "bias") else name
    simple = re.fullmatch(r"([A-Za-z])_?([A-Za-z0-9]+)?", last)
    if simple and last not in ("weight", "bias"):
        return simple[1] + (f"_{{{simple[2]}}}" if simple[2] else "")
    return rf"\mathtt{{{_escaped(last if last not in ('weight', 'bias') else name)}}}"


def _escaped(text: str) -> str:
    """Text for LaTeX."""
    special = {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
    }
    return "".join(special.get(c, f"\\{c}" if c in "#$%&_{}" else c) for c in text)
