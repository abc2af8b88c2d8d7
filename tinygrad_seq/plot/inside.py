"""Plots of what goes on inside a network and its training: attention, gates, curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..backend import to_numpy
from ..errors import ArgumentError, message
from ..graph import raw
from . import style
from .style import Plot


def attention(weights: Any, queries: Sequence[str] | None = None, keys: Sequence[str] | None = None) -> Plot:
    """Which inputs are read for which output: row by row the weights of one query over all keys, darker is more.

        tg.plot.attention(weights[0], queries=target_words, keys=source_words)

    weights: (queries, keys) of one example, or (heads, queries, keys), a panel for each head, or several by name; rows add up to 1. queries,
    keys: what to write beside rows and columns; numbers from 1 otherwise. numbers: the weights by name, or as "weights".
    """
    found: dict[str, Any] = {}
    for name, given in style.named(weights, "weights").items():
        array = to_numpy(raw(given))
        if np.ndim(array) not in (2, 3):
            raise ArgumentError(
                message(
                    "plot.attention: not the weights of one example",
                    expected="(queries, keys) or (heads, queries, keys)",
                    got=f"shape {np.shape(array)}",
                    do="weights[0], the first of a batch; of time first weights[:, 0]",
                )
            )
        _check_rows(array)
        heads = array if array.ndim == 3 else array[None]
        for k, head in enumerate(heads):
            found[f"{name}{', ' if name else ''}head {k + 1}" if len(heads) > 1 else name] = head
    for what, labels, axis in (("queries", queries, 0), ("keys", keys, 1)):
        for one in found.values():
            if labels is not None and len(labels) != one.shape[axis]:
                raise ArgumentError(
                    message(
                        f"plot.attention: {len(labels)} {what}", expected=f"{one.shape[axis]}, one for each in weights {one.shape}"
                    )
                )
    M, N = next(iter(found.values())).shape
    rows = list(queries) if queries is not None else list(range(1, M + 1))
    columns = list(keys) if keys is not None else list(range(1, N + 1))
    with style.styled("attention") as library:
        side = float(np.clip(6 / max(M, N), 0.06, 0.34))
        size = (float(np.clip(1.0 + side * N, 2.0, 6)), float(np.clip(0.9 + side * M, 1.8, 6)))
        figure, parts = style.panels(library, len(found), size, most=4, sharex=True, sharey=True)
        figure.set_figwidth(figure.get_figwidth() + 0.9)
        colours = style.linear_colours(0, max(float(np.nanmax(one)) for one in found.values()))
        seen: set[str] = set()
        for axes, (name, one) in zip(parts, found.items(), strict=True):
            image, extra = style.heat(axes, one, colours, blank=one == 0, write=False)
            seen |= extra - {"blank"}
            axes.set_title(name)
            style.ticks(axes.xaxis, columns)
            style.ticks(axes.yaxis, rows)
            if keys is not None and max(map(len, map(str, columns))) > 2:
                axes.tick_params(axis="x", rotation=90)
            axes.set_xlabel("input" if keys is not None else "key")
        parts[0].set_ylabel("output" if queries is not None else "query")
        style.bar(figure, image, parts, "attention weight")
        style.key(figure, seen)
        numbers = {name or "weights": one for name, one in found.items()}
        return Plot(figure, numbers)


def _check_rows(array: Any) -> None:
    """Raise where columns add up to 1 and rows do not: the axes are swapped."""
    rows, columns = array.sum(axis=-1), array.sum(axis=-2)
    if np.allclose(columns, 1, atol=1e-3) and not np.allclose(rows[np.isfinite(rows) & (rows != 0)], 1, atol=1e-3):
        raise ArgumentError(
            message(
                "plot.attention: columns add up to 1, rows do not",
                expected="(queries, keys)",
                do="swap the last two axes: weights.T",
            )
        )


SIGNED = "gn"  # the new values among what LSTM and GRU return; their gates lie between 0 and 1


def gates(found: Any, *, layer: int = 0, row: int = 0, labels: Sequence[str] | None = None, start: int = 1) -> Plot:
    """What the gates of a layer do over time: a panel for each, a line of squares for each unit; light is closed, dark is open.

        hs, last, found = lstm(xs, return_gates=True)
        tg.plot.gates(found, labels=text)

    found: what `return_gates=True` returns, each field (L, T, B, H), of which one layer (or direction) and one row of the batch are shown; or by
    name arrays (T, H). What leaves 0 to 1, such as an LSTM's g and c, has a scale of its own, as far below 0 as above. labels: what
    was read at every step, such as characters. start: the time of the first step.

    numbers: by name (T, H).
    """
    fields = found._asdict() if hasattr(found, "_asdict") else found
    if not isinstance(fields, Mapping) or not fields:
        raise ArgumentError(
            message(
                f"plot.gates: cannot show {type(found).__name__}",
                expected="the gates by name",
                do="hs, last, found = lstm(xs, return_gates=True)",
            )
        )
    numbers = {str(name): _one(name, to_numpy(raw(given)), layer, row) for name, given in fields.items()}
    T, most_units = len(next(iter(numbers.values()))), max(values.shape[1] for values in numbers.values())
    if labels is not None and len(labels) != T:
        raise ArgumentError(message(f"plot.gates: {len(labels)} labels", expected=f"{T}, one for each step"))
    times = list(labels) if labels is not None else list(range(start, start + T))
    with style.styled("gates") as library:
        height = float(np.clip(0.09 * most_units, 0.7, 1.8))
        figure = style.sheet(library, float(np.clip(2.0 + 0.16 * T, 4.6, 11)), 0.8 + (height + 0.25) * len(numbers))
        parts = figure.subplots(len(numbers), 1, sharex=True, squeeze=False)[:, 0]
        seen: set[str] = set()
        for axes, (name, values) in zip(parts, numbers.items(), strict=True):
            inside = name not in SIGNED and np.nanmin(values) >= 0 and np.nanmax(values) <= 1
            most = 1.0 if inside or name in SIGNED else float(np.abs(values[np.isfinite(values)]).max(initial=0))
            colours = style.linear_colours(0 if inside else -most, most)
            image, extra = style.heat(axes, values.T, colours, write=False)
            seen |= extra
            axes.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=10, fontweight="bold")
            style.ticks(axes.yaxis, list(range(1, values.shape[1] + 1)))
            style.ticks(axes.xaxis, times)
            style.bar(figure, image, axes, "1: open" if inside else "value")
        parts[-1].set_xlabel("what was read, step by step" if labels is not None else "t, steps")
        figure.supylabel("unit", fontsize=9)
        style.key(figure, seen)
        return Plot(figure, numbers)


def _one(name: Any, array: Any, layer: int, row: int) -> Any:
    """(T, H) of one layer and one row."""
    if array.ndim == 4 and -len(array) <= layer < len(array) and -array.shape[2] <= row < array.shape[2]:
        return array[layer, :, row]
    if array.ndim == 2:
        return array
    raise ArgumentError(
        message(
            f"plot.gates: {name} has shape {array.shape}",
            expected=f"(L, T, B, H) with a layer {layer} and a row {row}" if array.ndim == 4 else "(L, T, B, H), or (T, H)",
        )
    )


def training(history: Any, *, smooth: int | None = None) -> Plot:
    """The loss by step, and beneath it the norm of the gradient and the learning rate where they were kept; runs by name on one scale.

        tg.plot.training(history);  tg.plot.training({"LSTM": one, "RNN": other})

    history: what `tg.training.fit` returns. Faint is the loss of every step, strong its mean over the last `smooth` steps (a tenth of the
    shortest run, and 50 at most, unless told), dots are evaluations.
    numbers: by name, or as they are: losses, smoothed, rates, norms, and with evaluations evaluated_steps, evaluated_losses.
    """
    runs = style.named(history, "histories")
    numbers: dict[str, Any] = {}
    for run in runs.values():
        if not hasattr(run, "losses"):
            raise ArgumentError(
                message(
                    f"plot.training: cannot show {type(run).__name__}", expected="a History", do="history = tg.training.fit(...)"
                )
            )
    smooth = smooth or min(50, max(1, min(len(run.losses) for run in runs.values()) // 10))
    for name, run in runs.items():
        for key, values in _curves(run, smooth).items():
            numbers[f"{name}, {key}" if name else key] = values

    def of(name: str, key: str) -> Any:
        return numbers.get(f"{name}, {key}" if name else key, np.zeros(0))

    below = [
        (key, label)
        for key, label in (("norms", "norm of the\ngradient"), ("rates", "learning\nrate"))
        if any(of(n, key).size for n in runs)
    ]
    with style.styled("training") as library:
        figure = style.sheet(library, 6.4 if len(runs) == 1 else 7.4, 3.0 + 1.0 * len(below))
        top, *others = figure.subplots(1 + len(below), 1, sharex=True, squeeze=False, height_ratios=[3, *[1] * len(below)])[:, 0]
        for k, name in enumerate(runs):
            kind, losses = style.look(k), of(name, "losses")
            steps = np.arange(1, len(losses) + 1)
            top.plot(steps, losses, color=kind["color"], alpha=0.25, linewidth=0.6)
            top.plot(steps, of(name, "smoothed"), label=f"{name + ', ' if name else ''}mean of the last {smooth}", **kind)
            if of(name, "evaluated_losses").size:
                top.plot(
                    of(name, "evaluated_steps"), of(name, "evaluated_losses"), marker="os^D"[k % 4], linestyle="none", color=kind["color"],
                    markerfacecolor=style.PAPER, label=f"{name + ', ' if name else ''}evaluated",
                )  # fmt: skip
            for axes, (key, _) in zip(others, below, strict=True):
                axes.plot(np.arange(1, len(of(name, key)) + 1), of(name, key), **{**kind, "linewidth": 1.0})
        for axes, (key, label) in zip(others, below, strict=True):
            axes.set_ylabel(label)
            if key == "norms" and any((of(n, key) > 0).any() for n in runs):
                style.log_scale(axes, set())
        top.set_ylabel("loss")
        (others or [top])[-1].set_xlabel("step of the optimizer")
        style.whole_numbers((others or [top])[-1].xaxis)
        style.legend(figure, [top])
        return Plot(figure, numbers)


def _curves(run: Any, smooth: int) -> dict[str, Any]:
    """The arrays of one run; the mean of what is a number among the last steps, of fewer at the beginning."""
    losses = np.asarray(run.losses, dtype=np.float64)
    sound, n = np.isfinite(losses), np.arange(1, len(losses) + 1)
    total, count = (np.concatenate([[0], np.cumsum(x)]) for x in (np.where(sound, losses, 0), sound))
    first = np.maximum(n - smooth, 0)
    with np.errstate(invalid="ignore"):
        found = {"losses": losses, "smoothed": (total[n] - total[first]) / (count[n] - count[first])}
    found |= {name: np.asarray(getattr(run, name, []), dtype=np.float64) for name in ("rates", "norms")}
    told = [e for e in getattr(run, "evaluations", []) if "loss" in e]
    if told:
        found |= {"evaluated_steps": np.array([e["step"] for e in told]), "evaluated_losses": np.array([e["loss"] for e in told])}
    return found
