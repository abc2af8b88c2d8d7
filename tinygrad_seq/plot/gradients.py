"""Plots of gradients: the ledger, their flow over time and layers, what the past still does to the present, their size in a deep net."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from ..bptt import GatedPath, GradientFlow, Ledger, NeuronNorms, TemporalJacobians
from ..bptt import flow as flow_of
from ..errors import ArgumentError, message
from ..graph import Value
from . import style
from .style import Plot


def ledger(led: Ledger) -> Plot:
    """The terms of dL/dW: by loss step and use step as a heat map of norms, or, of a ledger without losses per step, by use step as lines.

        tg.plot.ledger(tg.bptt.ledger(loss, W, losses=losses)).save("ledger.svg")

    Row t is the loss of step t, column k the use of W at step k, darker is larger, on a logarithmic scale; white: nothing arrives, as before the
    loss was made. On the right and below stand the norms of the sums over the uses and over the losses. Each place that uses W has
    its own panel. Without losses: the norms of the terms, and the part of each in the sum, <term, dL/dW> / <dL/dW, dL/dW>; parts add up to 1.

    numbers: norms, shares, reached, steps, places, loss_steps, norms_by_use, norms_by_loss, as in the ledger.
    """
    if not isinstance(led, Ledger):
        raise ArgumentError(
            message(
                f"plot.ledger: cannot show {type(led).__name__}",
                expected="a ledger",
                do="tg.plot.ledger(tg.bptt.ledger(loss, W, losses=losses))",
            )
        )
    numbers = {name: np.array(getattr(led, name)) for name in ("norms", "shares", "reached", "norms_by_use", "places")}
    numbers["steps"] = np.array([np.nan if t is None else t for t in led.steps])
    groups: dict[tuple[str, int], list[int]] = {}
    for k, use in enumerate(led.uses):
        groups.setdefault((use.place, 0 if use.time is None else use.call), []).append(k)
    titles = {key: f"{place or 'outside every module'}{f' ({call})' if call else ''}" for key in groups for place, call in [key]}
    name = f"{led.symbol}{f', {led.name}' if led.name else ''}"
    if led.loss_steps is None:
        return _by_use(led, numbers, {titles[key]: columns for key, columns in groups.items()}, name)
    assert led.norms_by_loss is not None
    numbers |= {
        "loss_steps": np.array([np.nan if t is None else t for t in led.loss_steps]),
        "norms_by_loss": np.array(led.norms_by_loss),
    }
    S, K = led.norms.shape
    one = min(1.0, 9 / (K + 2))  # inches of a square
    side = float(np.clip(0.42 * one * 2, 0.05, 0.5))
    with style.styled("ledger") as library:
        figure = style.sheet(
            library, float(np.clip(1.9 + side * K + 0.6 * len(groups), 4.2, 11)), float(np.clip(1.5 + side * S, 3.0, 9))
        )
        widths = [*(max(len(columns), K / 12) for columns in groups.values()), max(1.0, K / 24)]
        grid = figure.subplots(
            2, len(widths), squeeze=False, sharey="row", width_ratios=widths, height_ratios=[max(S, 1), max(1.0, S / 24)]
        )
        colours = style.log_colours([led.norms, led.norms_by_use, led.norms_by_loss])
        few = max(S, K) <= 8
        seen: set[str] = set()
        for j, (group, columns) in enumerate(groups.items()):
            image, found = style.heat(grid[0, j], led.norms[:, columns], colours, ~led.reached[:, columns], write=few)
            _, summed = style.heat(grid[1, j], led.norms_by_use[None, columns], colours, write=few)
            seen |= found | summed
            grid[0, j].set_title(titles[group] if len(groups) > 1 else "", fontsize=8)
            grid[1, j].set_xlabel("k, the step that uses the weight")
            style.ticks(grid[1, j].xaxis, ["–" if (t := led.steps[k]) is None else t for k in columns])
            grid[0, j].tick_params(labelbottom=False)
            grid[0, j].set_xticks([])
        _, found = style.heat(grid[0, -1], led.norms_by_loss[:, None], colours, write=few)
        style.ticks(grid[0, 0].yaxis, ["rest" if t is None else t for t in led.loss_steps])
        grid[0, 0].set_ylabel("t, the step of the loss")
        style.ticks(grid[1, 0].yaxis, ["sum"])
        grid[0, -1].set_xticks([0], ["sum"])
        grid[1, -1].axis("off")
        figure.suptitle(f"norms of the terms of {name}", x=0.01, ha="left", fontsize=10)
        style.bar(figure, image, grid.ravel().tolist(), "Frobenius norm")
        style.key(figure, seen | found)
        return Plot(figure, numbers)


def _by_use(led: Ledger, numbers: dict[str, Any], groups: Mapping[str, list[int]], name: str) -> Plot:
    """Norms and shares of the terms as lines, one for each place."""
    with style.styled("ledger") as library:
        figure = style.sheet(library, 6.4 if len(groups) == 1 else 8.4, 4.2)
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 2])
        seen: set[str] = set()
        for n, (title, columns) in enumerate(groups.items()):
            steps = [led.steps[k] for k in columns]
            x = [0 if t is None else t for t in steps]
            seen |= style.log_line(above, x, led.norms[columns], title, style.look(n))
            below.plot(x, led.shares[columns], marker="o", markersize=2.6, **style.look(n))
        style.log_scale(above, seen)
        below.axhline(0, color=style.FAINT, linewidth=0.6)
        above.set_ylabel("norm of the term")
        below.set_ylabel("part in the sum")
        below.set_xlabel("k, the step that uses the weight" + (", 0: outside every step" if None in led.steps else ""))
        style.whole_numbers(below.xaxis)
        above.set_title(f"the terms of {name}")
        style.legend(figure, [above])
        return Plot(figure, numbers)


def flow(found: Any, *, heat: bool = False) -> Plot:
    """Norms of dL/dh_t over time: a line for each layer, direction and part of the state, several networks side by side on one scale.

        tg.plot.flow(loss)
        tg.plot.flow({"tanh": loss_1, "relu": loss_2}, heat=True)

    found: a loss, what `tg.bptt.flow` returned, or several of them by name. heat: layers as the rows of a heat map, darker is larger. Scales are
    logarithmic: a gradient that shrinks by the same factor at every step back is a straight line.

    numbers: for each line, as "network, layer, part", its norms (T,); times, from the first to the last.
    """
    networks = {
        name: one if isinstance(one, GradientFlow) else flow_of(one) if isinstance(one, Value) else _no_flow(one)
        for name, one in style.named(found, "losses or gradient flows").items()
    }
    times = np.unique(np.concatenate([one.times for one in networks.values()]))
    numbers: dict[str, Any] = {"times": times}
    for name, network in networks.items():
        for line in network:
            numbers[f"{name}, {line.name}" if name else line.name] = np.array(line.norms)
    most = max(len(one) for one in networks.values())
    with style.styled("flow") as library:
        size = (3.4, max(1.3, 0.8 + 0.32 * most)) if heat else (3.1, 2.9)
        if len(networks) == 1:
            size = (6.2, size[1])
        figure, parts = style.panels(library, len(networks), size, sharex=True, sharey=not heat)
        figure.set_figwidth(figure.get_figwidth() + 1.3)
        seen: set[str] = set()
        colours = style.log_colours([line.norms for one in networks.values() for line in one])
        looks = _looks(networks.values())
        states = " or ".join(f"dL/d{part}_t" for part in dict.fromkeys(line.part for one in networks.values() for line in one))
        for axes, (name, network) in zip(parts, networks.items(), strict=True):
            axes.set_title(name)
            if heat:
                image, extra = _flow_as_heat(axes, network, times, colours)
                seen |= extra
            else:
                strange: set[str] = set()
                for line in network:
                    strange |= style.log_line(axes, line.times, line.norms, line.name, looks[line.name])
                style.log_scale(axes, strange)
                style.whole_numbers(axes.xaxis)
        style.outer_labels(parts, "t, the step of the state", None if heat else f"norm of {states}")
        if heat:
            style.bar(figure, image, parts, "norm of the gradient" if " or " in states else f"norm of {states}")
            style.key(figure, seen, blank="no state at that step")
        else:
            style.legend(figure, parts)
        return Plot(figure, numbers)


def _looks(networks: Iterable[GradientFlow]) -> dict[str, dict[str, Any]]:
    """How a line of that name looks in every panel: the colour is that of its layer, the dashes those of the part of the state."""
    lines = {line.name: line for network in networks for line in network}
    owners = {name: name.removesuffix(line.part).removesuffix(", ") for name, line in lines.items()}
    layers, parts = list(dict.fromkeys(owners.values())), list(dict.fromkeys(line.part for line in lines.values()))
    if len(layers) == 1 or len(parts) == 1:
        return {name: style.look(k) for k, name in enumerate(lines)}
    dashes = {name: parts.index(line.part) + len(parts) * (layers.index(owners[name]) // 4) for name, line in lines.items()}
    return {name: style.look(layers.index(owners[name]), dashes[name]) for name in lines}


def _no_flow(one: Any) -> GradientFlow:
    raise ArgumentError(
        message(f"plot.flow: cannot show {type(one).__name__}", expected="a loss, a gradient flow, or a dictionary of them by name")
    )


def _flow_as_heat(axes: Any, network: GradientFlow, times: Any, colours: Any) -> tuple[Any, set[str]]:
    """A row for each line of the flow."""
    values, blank = np.zeros((len(network), len(times))), np.ones((len(network), len(times)), bool)
    for k, line in enumerate(network):
        at = np.searchsorted(times, line.times)
        values[k, at], blank[k, at] = line.norms, False
    image, seen = style.heat(axes, values, colours, blank, write=False)
    style.ticks(axes.xaxis, times.tolist())
    style.ticks(axes.yaxis, network.names)
    axes.invert_yaxis()  # the first layer below, as networks are drawn
    return image, seen


def jacobians(found: Any, t: int | None = None, *, of: str | None = None, by: str | None = None) -> Plot:
    """How much of every earlier state the last one, or that at time t, still feels: the spectral norm of dh_t/dh_s by s.

        tg.plot.jacobians({"LSTM": tg.bptt.temporal_jacobians(hs), "RNN": tg.bptt.temporal_jacobians(others)}, of="h")

    found: what `tg.bptt.temporal_jacobians` returned, or several by name, on one logarithmic scale. Lines are the median over the rows of
    the batch, the band around them reaches from the smallest to the largest. of, by: the parts of the state, as there.

    numbers: times (T+1,) and norms (T+1, B) by name.
    """
    networks = style.named(found, "temporal Jacobians")
    numbers: dict[str, Any] = {}
    with style.styled("jacobians") as library:
        figure = style.sheet(library, 5.4 if len(networks) == 1 else 6.8, 3.2)
        axes = figure.subplots()
        seen: set[str] = set()
        for k, (name, one) in enumerate(networks.items()):
            if not isinstance(one, TemporalJacobians):
                raise ArgumentError(
                    message(
                        f"plot.jacobians: cannot show {type(one).__name__}", expected="what tg.bptt.temporal_jacobians(hs) returns"
                    )
                )
            norms, order = one.norms(t, of, by, kind="spectral"), np.argsort(one.times)
            numbers[f"{name}, times" if name else "times"], numbers[f"{name}, norms" if name else "norms"] = one.times, norms
            seen |= style.log_line(axes, one.times[order], np.median(norms, axis=1)[order], name, style.look(k))
            ends = [np.where(x > 0, x, np.nan)[order] for x in (norms.min(axis=1), norms.max(axis=1))]
            axes.fill_between(one.times[order], *ends, color=style.look(k)["color"], alpha=0.18, linewidth=0)
        style.log_scale(axes, seen)
        style.whole_numbers(axes.xaxis)
        part = of or next(iter(one.parts))
        upper = "t" if t is not None else "T"
        axes.set_xlabel("s, the step of the earlier state")
        axes.set_ylabel(f"norm of d{part}_{upper}/d{by or part}_s")
        axes.set_title(f"what {part}_{upper} still feels of the past" + (f", {upper} = {t}" if t is not None else ""))
        style.legend(figure, [axes])
        return Plot(figure, numbers)


def gated_path(path: GatedPath, row: int = 0) -> Plot:
    """dc_t/dc_s by s, taken apart: the product of the gates alone, what takes other paths, and the share of the gates, of one row of the batch.

    path: `tg.bptt.temporal_jacobians(hs).gated_path()`. numbers: times, total, gated, rest, share, each (T+1,).
    """
    fields = ("total", "gated", "rest", "share")
    numbers = {"times": np.array(path.times), **{name: np.array(getattr(path, name)[:, row]) for name in fields}}
    order = np.argsort(path.times)
    with style.styled("gated_path") as library:
        figure = style.sheet(library, 7.2, 4.2)
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 2])
        seen: set[str] = set()
        for k, (name, label) in enumerate(zip(fields[:3], ("total", "gates alone", "other paths"), strict=True)):
            seen |= style.log_line(above, path.times[order], numbers[name][order], label, style.look(k))
        style.log_scale(above, seen)
        below.plot(path.times[order], numbers["share"][order], **style.look(0))
        below.set_ylim(0, 1.02)
        below.set_ylabel("share of the gates")
        below.set_xlabel("s, the step of the earlier cell")
        above.set_ylabel(f"norm of d{path.part}_{path.t}/d{path.part}_s")
        style.whole_numbers(below.xaxis)
        style.legend(figure, [above])
        return Plot(figure, numbers)


def depth(found: Any) -> Plot:
    """How large the gradient of a neuron's incoming weights is in every layer of a deep network, from the output to the input.

        tg.plot.depth({"sigmoid": tg.bptt.neuron_norms(loss_1, net_1), "relu": tg.bptt.neuron_norms(loss_2, net_2)})

    found: what `tg.bptt.neuron_norms` returned, or several of them by name, side by side on one logarithmic scale. The line is the median over
    the neurons of a layer, the dark band holds four fifths of them, the light one all.

    numbers: of each network the norms, a list of arrays (neurons,), from the input to the output; "..., decades lost": powers of ten a layer.
    """
    networks = style.named(found, "norms of neurons")
    numbers: dict[str, Any] = {}
    with style.styled("depth") as library:
        figure, parts = style.panels(library, len(networks), (2.9 if len(networks) > 1 else 5.0, 2.8), sharey=True)
        for axes, (name, one) in zip(parts, networks.items(), strict=True):
            if not isinstance(one, NeuronNorms):
                raise ArgumentError(
                    message(
                        f"plot.depth: cannot show {type(one).__name__}", expected="what tg.bptt.neuron_norms(loss, model) returns"
                    )
                )
            numbers[name or "norms"] = list(one.norms)
            numbers[f"{name}, decades lost" if name else "decades lost"] = one.decades_lost
            layers = np.arange(1, len(one.norms) + 1)
            seen = style.log_line(axes, layers, one.medians, "median", style.look(0))
            for low, high, alpha in ((0, 100, 0.12), (10, 90, 0.3)):
                ends = [[np.percentile(n[n > 0], q) if (n > 0).any() else np.nan for n in one.norms] for q in (low, high)]
                axes.fill_between(layers, *ends, color=style.LINES[0], alpha=alpha, linewidth=0)
            style.log_scale(axes, seen)
            axes.set_xlim(len(layers) + 0.5, 0.5)  # from the output to the input
            style.whole_numbers(axes.xaxis)
            axes.set_title(f"{name + ': ' if name else ''}{round(one.decades_lost, 2) + 0.0:.2f} decades lost a layer")
        style.outer_labels(parts, "layer, output → input", "norm of dL/dW of a neuron")
        return Plot(figure, numbers)
