"""Plots of dynamic systems: where the eigenvalues lie, how long a state lasts, where it goes, what several taps remember.

The numbers are those of `tg.nn.functional.dynamics`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..backend import to_numpy
from ..errors import ArgumentError, message
from ..graph import raw
from ..nn.functional import dynamics
from . import style
from .style import Plot


def spectrum(ws: Any) -> Plot:
    """The eigenvalues of a matrix in the complex plane, with the unit circle: inside it modes die out, outside they grow; off the real axis
    they oscillate. Those outside are filled.

        tg.plot.spectrum({"uniform": rnn.weight_hh_l0, "orthogonal": other.weight_hh_l0})

    ws: a square matrix, or several by name, side by side on one scale. The modulus decides, not the real part: 0.9 ± 0.9i grows.
    numbers: the eigenvalues by name, the largest modulus first.
    """
    numbers = {name: _eigenvalues(w) for name, w in style.named(ws, "square matrices").items()}
    with style.styled("spectrum") as library:
        figure, parts = style.panels(library, len(numbers), (2.9, 3.1), sharex=True, sharey=True)
        for axes, (name, found) in zip(parts, numbers.items(), strict=True):
            _plane(axes, found, "λ")
            axes.set_title(f"{name + ': ' if name else ''}max |λ| = {abs(found[0]):.3g}")
        return Plot(figure, numbers if list(numbers) != [""] else {"eigenvalues": numbers[""]})


def _eigenvalues(w: Any) -> Any:
    found = np.linalg.eigvals(_matrix("spectrum", w)).astype(complex)
    return found[np.argsort(-np.abs(found), kind="stable")]


def _matrix(who: str, w: Any) -> Any:
    matrix = to_numpy(raw(w))
    if np.ndim(matrix) != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ArgumentError(message(f"plot.{who}: no square matrix", expected="W (H, H)", got=f"shape {np.shape(matrix)}"))
    return matrix


def _plane(axes: Any, found: Any, letter: str) -> None:
    """Points of the complex plane and the unit circle."""
    from matplotlib.patches import Circle

    axes.add_patch(Circle((0, 0), 1, fill=False, color=style.FAINT, linewidth=0.9))
    axes.axhline(0, color=style.FAINT, linewidth=0.4)
    axes.axvline(0, color=style.FAINT, linewidth=0.4)
    outside = np.abs(found) > 1 + 1e-9
    for where, face in ((~outside, style.PAPER), (outside, style.LINES[0])):
        axes.plot(
            found.real[where], found.imag[where], "o", color=style.LINES[0], markerfacecolor=face, markeredgewidth=1, markersize=4.5
        )
    reach = max(1.15, 1.08 * float(np.abs(found).max(initial=0)))
    low, high = axes.get_xlim()
    reach = max(reach, high if axes.get_shared_x_axes().get_siblings(axes)[1:] and -low == high else 0)
    axes.set_xlim(-reach, reach)
    axes.set_ylim(-reach, reach)
    axes.set_aspect("equal")
    axes.set_xlabel(f"real part of {letter}")
    axes.set_ylabel(f"imaginary part of {letter}")


def growth(ws: Any, h0: Any, steps: int = 50) -> Plot:
    """The length of h_t = W^t h_0 on a logarithmic scale, and beside it the slope abs(λ_1)^t that it takes in the long run.

        tg.plot.growth({"0.9": 0.9 * Q, "1.1": 1.1 * Q}, h0)

    ws: a square matrix, or several by name. A start with nothing along the first eigenvector keeps another slope: that of the first mode it has.
    numbers: by name the norms (steps + 1,); "..., slope": abs(λ_1).
    """
    numbers: dict[str, Any] = {}
    start, ts = to_numpy(raw(h0)), np.arange(steps + 1)
    with style.styled("growth") as library:
        given = style.named(ws, "square matrices")
        figure = style.sheet(library, 5.2 if len(given) == 1 else 6.4, 3.2)
        axes = figure.subplots()
        seen: set[str] = set()
        for k, (name, w) in enumerate(given.items()):
            matrix = _matrix("growth", w)
            if start.shape != matrix.shape[:1]:
                raise ArgumentError(message("plot.growth: h0 and W do not fit", expected="h0 (H,), W (H, H)", got=f"{start.shape}, {matrix.shape}"))  # fmt: skip
            with np.errstate(over="ignore", invalid="ignore"):  # what leaves all numbers is shown as such
                h = dynamics.unfold(lambda s, w: w @ s, start, theta=(matrix,), steps=steps)
                norms = np.linalg.norm(np.concatenate([start[None], h]), axis=1)
            slope = dynamics.spectral_radius(matrix)
            numbers[name or "norms"], numbers[f"{name}, slope" if name else "slope"] = norms, slope
            seen |= style.log_line(axes, ts, norms, f"{name + ', ' if name else ''}|λ₁| = {slope:.3g}", style.look(k))
            with np.errstate(all="ignore"):
                law = norms[-1] * slope ** (ts - steps)
            axes.plot(ts, np.where(np.isfinite(law) & (law > 0), law, np.nan), color=style.FAINT, linewidth=0.8, zorder=1)
        style.log_scale(axes, seen)
        style.whole_numbers(axes.xaxis)
        axes.set_xlabel("t, steps")
        axes.set_ylabel("norm of h_t")
        axes.set_title("norm of W^t h_0; thin: |λ₁|^t through its end")
        style.legend(figure, [axes])
        return Plot(figure, numbers)


def trajectories(states: Any, *, log: bool = False, labels: Sequence[str] = (), start: int = 0) -> Plot:
    """Where a state goes: every number of it as a line over time.

        tg.plot.trajectories({"sigmoid": hs_1, "tanh": hs_2, "relu": hs_3})

    states: (T, ...) from the first to the last; all axes but the first are lines. Several by name stand side by side, each on its own scale,
    since some may blow up where others settle. log: of what changes by orders of magnitude, linear around 0. labels: of the lines, such
    as the starts they come from. start: the time of the first state.

    numbers: by name the states, (T, lines).
    """
    given = style.named(states, "states")
    numbers = {}
    for name, array in given.items():
        values = np.asarray(
            to_numpy(raw(array)) if not isinstance(array, (list, tuple)) else np.stack([to_numpy(raw(a)) for a in array])
        )
        if values.ndim == 0:
            raise ArgumentError(message("plot.trajectories: one number", expected="states (T, ...)"))
        numbers[name or "states"] = values.reshape(len(values), -1)
    with style.styled("trajectories") as library:
        figure, parts = style.panels(library, len(numbers), (3.0 if len(numbers) > 1 else 5.0, 2.5), sharex=True)
        for axes, (name, lines) in zip(parts, numbers.items(), strict=True):
            many = lines.shape[1] > 8
            for k, line in enumerate(lines.T):
                shown = np.where(np.isfinite(line), line, np.nan)
                kind = {"color": style.LINES[0], "linewidth": 0.7, "alpha": 0.4} if many else style.look(k)
                axes.plot(start + np.arange(len(line)), shown, label=labels[k] if k < len(labels) else f"unit {k + 1}", **kind)
            if style.near_the_end(axes):
                axes.set_ymargin(0)
            if log:
                axes.set_yscale("symlog", linthresh=1.0)
            lost = int((~np.isfinite(lines)).any(axis=0).sum())
            axes.set_title((name if name in given else "") + (f" ({lost} of {lines.shape[1]} leave all numbers)" if lost else ""))
            axes.axhline(0, color=style.FAINT, linewidth=0.5)
            style.whole_numbers(axes.xaxis)
        style.outer_labels(parts, "t, steps", "state h_t")
        if all(lines.shape[1] <= 8 for lines in numbers.values()):
            style.legend(figure, parts)
            figure.set_figwidth(figure.get_figwidth() + 1.0)
        return Plot(figure, numbers)


def taps(systems: Any, steps: int = 60) -> Plot:
    """What a recursion through several past states answers to one unit input, and its poles; the slowest says how fast it is forgotten.

        h_t = Σ_k a_k h_(t-k) + x_t                   tg.plot.taps({"two": {1: 0.5, 5: 0.25}, "one": {1: 0.5}})

    systems: taps, as a dictionary from lags to weights, or several of them by name. numbers: by name the response (steps,), t = 0, 1, ...;
    "..., poles": the slowest first.
    """
    single = isinstance(systems, dict) and all(isinstance(lag, int) for lag in systems)
    given = {"": systems} if single else style.named(systems, "taps")
    impulse = np.zeros(steps)
    impulse[:1] = 1
    numbers: dict[str, Any] = {}
    for name, one in given.items():
        numbers[name or "response"] = dynamics.tapped_recursion(impulse, one)
        numbers[f"{name}, poles" if name else "poles"] = dynamics.poles(one).astype(complex)
    with style.styled("taps") as library:
        figure = style.sheet(library, 4.2 + 2.7 * len(given), 3.1)
        axes, *planes = figure.subplots(1, 1 + len(given), width_ratios=[1.5, *[1] * len(given)])
        seen: set[str] = set()
        for k, (name, plane) in enumerate(zip(given, planes, strict=True)):
            found = numbers[f"{name}, poles" if name else "poles"]
            seen |= style.log_line(axes, np.arange(steps), np.abs(numbers[name or "response"]), name, style.look(k))
            _plane(plane, found, "z")
            plane.set_title(f"{name + ': ' if name else ''}slowest {abs(found[0]):.4f}")
        style.log_scale(axes, seen)
        style.whole_numbers(axes.xaxis)
        axes.set_xlabel("t, steps after the input")
        axes.set_ylabel("|h_t|, the answer to 1 at t = 0")
        if len(given) > 1:
            axes.legend(loc="lower left")
        return Plot(figure, numbers)
