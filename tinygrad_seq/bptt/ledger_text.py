"""The gradient ledger as aligned tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .copies import Use
from .norms import norm_of

if TYPE_CHECKING:
    from .ledger import Ledger

OUTSIDE = "outside"  # how the time None is written


# ---- Tables --------------------------------------------------------------------------------------------------------------------------


def table(led: Ledger, full: bool = False) -> str:
    """A ledger as a table: its terms one by one, or the norms by loss and use."""
    count = len(led.uses)
    head = (
        f"{led.symbol}{f', {led.name}' if led.name else ''} {tuple(led.total.shape)}: the terms of {count} use{'s' * (count != 1)}"
    )
    lines = [head, "", *(_list(led, full) if led.loss_steps is None else _matrix(led, full))]
    lines += ["", led.note] if led.note else []
    return "\n".join(line.rstrip() for line in lines)


def _list(led: Ledger, full: bool) -> list[str]:
    places = [loop_of(use) for use in led.uses]
    apart = len(set(places)) > 1
    largest = float(led.norms.max(initial=0.0))
    wide = max(map(len, places)) if apart else 0
    rows = [("step", "place" if apart else "", "norm", "share  ", "")]
    for k in shown(len(led.uses), full):
        if k is None:
            rows.append(("...", "", "", "", ""))
            continue
        norm = float(led.norms[k])
        note = _bar(norm / largest if largest else 0.0) if led.reached[k] else "nothing arrives"
        rows.append((step_of(led.uses[k]), places[k] if apart else "", _number(norm), f"{100 * led.shares[k]:8.2f} %", note))
    rows.append(("sum", "", _number(norm_of(led.total)), f"{100 * led.shares.sum():8.2f} %", ""))
    rows.append(("dL/dW", "", _number(norm_of(led.gradient)), "", f"relative difference {led.check():.1e}"))
    return [
        f"{step:>8}" + (f"  {place:<{wide}}" if apart else "") + f"  {norm:>11}  {share:>10}  {note}"
        for step, place, norm, share, note in rows
    ]


def _matrix(led: Ledger, full: bool) -> list[str]:
    assert led.loss_steps is not None and led.norms_by_loss is not None
    columns, losses = shown(len(led.uses), full, ends=5), shown(len(led.loss_steps), full)
    places = list(dict.fromkeys(map(loop_of, led.uses)))
    rows = [["t \\ k", *("..." if k is None else step_of(led.uses[k]) for k in columns), "sum"]]
    if len(places) > 1:
        rows.append(["", *("" if k is None else f"({places.index(loop_of(led.uses[k])) + 1})" for k in columns), ""])
    for s in losses:
        if s is None:
            rows.append(["...", *[""] * len(columns), ""])
            continue
        cells = ["" if k is None else _short(led.norms[s, k]) if led.reached[s, k] else "·" for k in columns]
        time = led.loss_steps[s]
        rows.append(["rest" if time is None else str(time), *cells, _short(led.norms_by_loss[s])])
    whole = _short(norm_of(led.total))
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


def loop_of(use: Use) -> str:
    """The place that a use shares with its neighbours: calls outside every step are columns of one place."""
    return use.place if use.time is None else _place(use)


def shown(count: int, full: bool, ends: int = 8) -> list[int | None]:
    """Which of so many are shown, so many at each end; None stands for those between."""
    if full or count <= 2 * ends + 1:
        return list(range(count))
    return [*range(ends), None, *range(count - ends, count)]


def step_of(use: Use) -> str:
    """The step of a use, or the number of its call."""
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
