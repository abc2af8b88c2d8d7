"""Plots: what they hand out and what their figures show are numbers that were computed another way; readable in grey, by everybody, anywhere."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tinygrad_seq as tg
from tinygrad_seq import nn
from tinygrad_seq.errors import ArgumentError, MissingDependencyError
from tinygrad_seq.nn import functional as F

matplotlib = pytest.importorskip("matplotlib", reason="plots need matplotlib: pip install 'tinygrad_seq[viz]'")
from tinygrad_seq.plot import style  # noqa: E402

T, B, D, H = 6, 2, 3, 4
RNG = np.random.default_rng(0)


def images(figure: Any) -> list[Any]:
    return [image for axes in figure.axes for image in axes.get_images()]


def shown(image: Any) -> np.ndarray:
    """The numbers of an image, NaN where it has no colour."""
    return np.ma.filled(np.ma.asarray(image.get_array(), dtype=float), np.nan)


def curve(axes: Any, label: str) -> np.ndarray:
    (line,) = [line for line in axes.get_lines() if line.get_label() == label]
    return np.asarray(line.get_ydata(), dtype=float)


def linear_network(w: float = 0.5, steps: int = T) -> tuple[Any, Any, list[Any], np.ndarray]:
    """h_t = w h_(t-1) + x_t, L_t = h_t, all scalars: its weight, the loss, the losses, and x."""
    xs = np.arange(1.0, steps + 1)
    W = tg.tensor(w, requires_grad=True)
    W.name = "w"
    h, losses = tg.tensor(0.0), []
    for x in tg.steps(xs):
        h = W * h + x
        losses.append(h * 1.0)
    return W, sum(losses), losses, xs


def network_with(kind: Any = nn.RNN, steps: int = T, **options: Any) -> Any:
    """All states of a layer."""
    hs, _ = kind(D, H, rng=0, dtype="float64", **options)(tg.tensor(np.random.default_rng(1).normal(size=(steps, B, D))))
    return hs


# ---- Ledgers -----------------------------------------------------------------------------------------------------------------------


def test_the_heat_map_of_a_ledger_shows_the_closed_form() -> None:
    W, loss, losses, xs = linear_network(0.5)
    figure, numbers = tg.plot.ledger(tg.bptt.ledger(loss, W, losses=losses))
    h = [0.0]
    for x in xs:
        h.append(0.5 * h[-1] + x)
    by_hand = np.array([[0.5 ** (t - k) * h[k - 1] if k <= t else 0.0 for k in range(1, T + 1)] for t in range(1, T + 1)])
    np.testing.assert_allclose(numbers["norms"], by_hand, rtol=1e-13)
    np.testing.assert_allclose(numbers["norms_by_use"], by_hand.sum(axis=0), rtol=1e-13)
    np.testing.assert_allclose(numbers["norms_by_loss"], by_hand.sum(axis=1), rtol=1e-13)
    assert numbers["steps"].tolist() == numbers["loss_steps"].tolist() == [1, 2, 3, 4, 5, 6]
    matrix, by_loss, by_use = (shown(image) for image in images(figure))
    np.testing.assert_allclose(matrix, np.where(by_hand > 0, by_hand, np.nan), rtol=1e-13)
    np.testing.assert_allclose(by_loss[1:, 0], by_hand.sum(axis=1)[1:], rtol=1e-13)
    np.testing.assert_allclose(by_use[0, 1:], by_hand.sum(axis=0)[1:], rtol=1e-13)
    assert len({image.norm.vmin for image in images(figure)} | {image.norm.vmax for image in images(figure)}) == 2, "one scale"
    written = {text.get_text() for text in figure.axes[0].texts}
    assert written == {f"{x:.2g}" for x in by_hand[by_hand > 0]}
    labels = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    assert labels == ["zero", "nothing arrives"]


def test_each_place_that_uses_a_weight_has_a_panel_on_the_same_scale() -> None:
    W = tg.tensor(np.eye(2) * 0.5, requires_grad=True)
    losses = []
    for name in ("first", "second"):
        with tg.frame(name):
            h = tg.ones((1, 2))
            for x in tg.steps(np.ones((3, 1, 2))):
                h = tg.tanh(h @ W + x)
                losses.append((h**2).sum())
    led = tg.bptt.ledger(sum(losses), W, losses=losses)
    figure, _ = tg.plot.ledger(led)
    first, second = (axes for axes in figure.axes if axes.get_title(loc="left"))
    assert [axes.get_title(loc="left") for axes in (first, second)] == ["first", "second"]
    for axes, columns in ((first, slice(0, 3)), (second, slice(3, 6))):
        expected = np.where(led.reached[:, columns], led.norms[:, columns], np.nan)
        np.testing.assert_array_equal(shown(axes.get_images()[0]), expected)


def test_a_ledger_without_losses_is_lines_of_norms_and_shares() -> None:
    hs = network_with()
    W = next(v for v in tg.toposort([hs]) if v.prim is None and v.notes_of(0).name == "weight_hh_l0")
    led = tg.bptt.ledger((hs[-1] ** 2).sum(), _value(W))
    figure, numbers = tg.plot.ledger(led)
    above, below = figure.axes
    (norms,) = [line.get_ydata() for line in above.get_lines() if len(line.get_ydata()) == T]
    np.testing.assert_array_equal(norms[1:], led.norms[1:])
    assert np.isnan(norms[0]) and led.norms[0] == 0, "zero has no place on the scale"
    assert [line.get_xdata().tolist() for line in above.get_lines() if line.get_marker() == "v"] == [[1]]
    assert "zero" in above.texts[0].get_text() and "infinite" not in above.texts[0].get_text()
    np.testing.assert_array_equal(below.get_lines()[0].get_ydata(), led.shares)
    assert numbers["shares"].sum() == pytest.approx(1)


def _value(node: Any) -> Any:
    from tinygrad_seq.graph import box, value_of

    return box(value_of(node), node)


def test_a_ledger_is_asked_for() -> None:
    with pytest.raises(ArgumentError, match=r"(?s)plot.ledger: cannot show list.*tg.bptt.ledger\(loss, W"):
        tg.plot.ledger([1])


# ---- Flow --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("heat", [False, True])
def test_flow_shows_powers_of_the_weight_of_networks_side_by_side_on_one_scale(heat: bool) -> None:
    weights = {"shrinks": 0.5, "grows": 1.5}
    flows = {name: linear_network(w)[2][-1] for name, w in weights.items()}
    figure, numbers = tg.plot.flow(flows, heat=heat)
    found = {name: next(x for key, x in numbers.items() if key.startswith(name)) for name in weights}
    for axes, (name, w) in zip(figure.axes, weights.items(), strict=False):
        assert axes.get_title(loc="left") == name
        expected = w ** np.arange(T - len(found[name]), T)[::-1].astype(float)
        np.testing.assert_allclose(found[name][-T:], expected[-T:], rtol=1e-13)
        drawn = shown(axes.get_images()[0])[0] if heat else axes.get_lines()[0].get_ydata()
        np.testing.assert_allclose(drawn[np.isfinite(drawn)], found[name], rtol=1e-13)
    if heat:
        assert len({(image.norm.vmin, image.norm.vmax) for image in images(figure)}) == 1
    else:
        assert figure.axes[0].get_ylim() == figure.axes[1].get_ylim() and figure.axes[0].get_yscale() == "log"


def test_a_layer_looks_the_same_in_every_panel() -> None:
    losses = {name: (network_with(kind, num_layers=2) ** 2).sum() for name, kind in (("RNN", nn.RNN), ("LSTM", nn.LSTM))}
    figure, numbers = tg.plot.flow(losses)
    rnn, lstm = ({line.get_label(): line for line in axes.get_lines() if line.get_label()[0] != "_"} for axes in figure.axes)
    assert set(rnn) == {"layer 0, h", "layer 1, h"} and set(lstm) == set(rnn) | {"layer 0, c", "layer 1, c"}
    for name, line in rnn.items():
        assert (line.get_color(), line.get_linestyle()) == (lstm[name].get_color(), lstm[name].get_linestyle())
    looks = {(line.get_color(), str(line._dash_pattern)) for line in lstm.values()}
    assert len(looks) == 4, "and no other line does"
    of_legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert sorted(of_legend) == sorted(lstm)
    for name in lstm:
        np.testing.assert_array_equal(curve(figure.axes[1], name), numbers[f"LSTM, {name}"])


def test_zeros_are_told_in_their_panel_alone_and_every_column_has_its_steps() -> None:
    loss = (network_with() ** 2).sum()
    first_only = (network_with()[0] ** 2).sum()  # no later state matters
    figure, _ = tg.plot.flow({"a": loss, "b": first_only, "c": loss, "d": loss})
    assert [[text.get_text() for text in axes.texts] for axes in figure.axes] == [[], ["▽ zero"], [], []]
    figure.draw_without_rendering()
    assert [bool(axes.get_xlabel()) for axes in figure.axes] == [False, True, True, True]
    assert [axes.xaxis.get_tick_params()["labelbottom"] for axes in figure.axes] == [False, True, True, True]
    assert [bool(axes.get_ylabel()) for axes in figure.axes] == [True, False, False, True]


def test_the_first_layer_is_the_lowest_row_of_a_heat_map() -> None:
    found = tg.bptt.flow((network_with(num_layers=2) ** 2).sum())
    figure, _ = tg.plot.flow(found, heat=True)
    axes = figure.axes[0]
    np.testing.assert_array_equal(shown(axes.get_images()[0]), [line.norms for line in found])
    low, high = axes.get_ylim()
    assert low < high, "row 0 is below"


def test_flow_wants_losses() -> None:
    with pytest.raises(ArgumentError, match="plot.flow: cannot show int"):
        tg.plot.flow({"a": 1})
    with pytest.raises(ArgumentError, match="empty dictionary"):
        tg.plot.flow({})


# ---- Jacobians, gated paths, deep networks -------------------------------------------------------------------------------------------


def test_jacobians_of_a_linear_recursion_are_powers() -> None:
    w = RNG.normal(size=(H, H)) / 3
    W = tg.tensor(w, requires_grad=True)
    h = tg.tensor(RNG.normal(size=(B, H)))
    for x in tg.steps(np.ones((T, B, H))):
        h = h @ W.T + x
    J = tg.bptt.temporal_jacobians(h)
    figure, numbers = tg.plot.jacobians(J)
    expected = [np.linalg.norm(np.linalg.matrix_power(w, T - s), 2) for s in J.times]
    np.testing.assert_allclose(numbers["norms"], np.repeat(np.array(expected)[:, None], B, axis=1), rtol=1e-12)
    np.testing.assert_allclose(figure.axes[0].get_lines()[0].get_ydata(), expected, rtol=1e-12)


def test_jacobians_side_by_side_have_a_legend_and_a_line_for_each() -> None:
    J = {kind.__name__: tg.bptt.temporal_jacobians(network_with(kind)) for kind in (nn.RNN, nn.GRU)}
    figure, numbers = tg.plot.jacobians(J)
    for name, one in J.items():
        np.testing.assert_array_equal(numbers[f"{name}, norms"], one.norms(kind="spectral"))
        np.testing.assert_array_equal(curve(figure.axes[0], name), np.median(one.norms(kind="spectral"), axis=1))
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["RNN", "GRU"]


def test_the_gated_path_is_the_product_of_the_forget_gates() -> None:
    hs, _, gates = nn.LSTM(D, H, rng=0, dtype="float64")(tg.tensor(RNG.normal(size=(T, B, D))), return_gates=True)
    path = tg.bptt.temporal_jacobians(hs).gated_path()
    figure, numbers = tg.plot.gated_path(path, row=1)
    f = gates.f.numpy()[0, :, 1]
    expected = [np.linalg.norm(np.prod(f[s:], axis=0)) for s in range(T + 1)][-len(numbers["gated"]) :]
    np.testing.assert_allclose(numbers["gated"], expected, rtol=1e-12)
    np.testing.assert_allclose(curve(figure.axes[0], "gates alone"), expected, rtol=1e-12)
    np.testing.assert_allclose(figure.axes[1].get_lines()[0].get_ydata(), numbers["gated"] / (numbers["gated"] + numbers["rest"]))


def test_a_deep_network_of_sigmoids_loses_half_a_decade_a_layer_and_one_of_tanh_none() -> None:
    losses = {name: deep_network(f) for name, f in (("sigmoid", tg.sigmoid), ("tanh", tg.tanh))}
    figure, numbers = tg.plot.depth({name: tg.bptt.neuron_norms(*found) for name, found in losses.items()})
    assert 0.8 > numbers["sigmoid, decades lost"] > 0.5 > 0.05 > abs(numbers["tanh, decades lost"])
    for axes, (name, (loss, ws)) in zip(figure.axes, losses.items(), strict=True):
        by_hand = [np.array([np.sqrt((row**2).sum()) for row in g.numpy()]) for g in tg.grad(loss, ws)]
        for ours, theirs in zip(numbers[name], by_hand, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-12)
        np.testing.assert_allclose(axes.get_lines()[0].get_ydata(), [np.median(n) for n in by_hand], rtol=1e-12)
        left, right = axes.get_xlim()
        assert left > right, "from the output to the input"
    assert figure.axes[0].get_ylim() == figure.axes[1].get_ylim()


def deep_network(activation: Any, depth: int = 8, width: int = 96) -> tuple[Any, list[Any]]:
    rng = np.random.default_rng(0)
    x, ws = tg.tensor(rng.normal(size=(32, width))), []
    for _ in range(depth):
        ws.append(tg.tensor(rng.normal(size=(width, width)) / np.sqrt(width), requires_grad=True))
        x = activation(x @ ws[-1].T)
    return (x**2).mean(), ws


def test_norms_of_neurons_are_asked_for() -> None:
    with pytest.raises(ArgumentError, match=r"(?s)plot.depth: cannot show list.*tg.bptt.neuron_norms\(loss, model\)"):
        tg.plot.depth([np.ones((2, 2))])


# ---- Systems -------------------------------------------------------------------------------------------------------------------------


def test_the_spectrum_fills_what_lies_outside_the_unit_circle() -> None:
    ws = {"grows": np.array([[0.9, -0.9], [0.9, 0.9]]), "dies": np.diag([0.5, -0.2])}
    figure, numbers = tg.plot.spectrum(ws)
    np.testing.assert_allclose(sorted(numbers["grows"], key=lambda z: z.imag), [0.9 - 0.9j, 0.9 + 0.9j])
    for axes, count in zip(figure.axes, (2, 0), strict=True):
        inside, outside = [line for line in axes.get_lines() if line.get_marker() == "o"]
        assert len(outside.get_xdata()) == count and len(inside.get_xdata()) == 2 - count
        assert outside.get_markerfacecolor() != inside.get_markerfacecolor()
        (circle,) = axes.patches
        assert (circle.center, circle.radius) == ((0, 0), 1) and axes.get_xlim()[1] >= 1
        assert axes.get_aspect() == 1
    assert figure.axes[0].get_xlim() == figure.axes[1].get_xlim()
    assert "1.27" in figure.axes[0].get_title(loc="left")
    with pytest.raises(ArgumentError, match="square"):
        tg.plot.spectrum(np.ones((2, 3)))


def test_growth_is_the_power_of_the_matrix_and_its_slope_the_largest_modulus() -> None:
    w, h0 = RNG.normal(size=(5, 5)), RNG.normal(size=5)
    figure, numbers = tg.plot.growth(w, h0, steps=40)
    expected = [np.linalg.norm(np.linalg.matrix_power(w, t) @ h0) for t in range(41)]
    np.testing.assert_allclose(numbers["norms"], expected, rtol=1e-10)
    np.testing.assert_allclose(figure.axes[0].get_lines()[0].get_ydata(), expected, rtol=1e-10)
    assert numbers["slope"] == pytest.approx(np.abs(np.linalg.eigvals(w)).max())
    law = figure.axes[0].get_lines()[1].get_ydata()
    np.testing.assert_allclose(law[1:] / law[:-1], numbers["slope"], rtol=1e-12)
    assert law[-1] == pytest.approx(expected[-1])


def test_trajectories_of_scalars_saturate_or_blow_up() -> None:
    starts = np.array([-1.0, 1.0])
    paths = {}
    for name, f in (("sigmoid", tg.sigmoid), ("relu", F.relu)):
        s, states = starts, [starts]
        for _ in range(400):
            s = f(1.1 * s)
            states.append(s)
        paths[name] = states
    figure, numbers = tg.plot.trajectories(paths, labels=["-1", "1"])
    assert np.ptp(numbers["sigmoid"][10]) < 1e-3 and numbers["relu"][50, 1] > 100 and numbers["relu"][1, 0] == 0
    for axes, name in zip(figure.axes, paths, strict=True):
        for k, label in enumerate(("-1", "1")):
            np.testing.assert_array_equal(curve(axes, label), numbers[name][:, k])


@pytest.mark.parametrize("modulus", [0.9, 1.0, 1.1])
def test_the_eigenvalue_panels_real_ones_do_not_oscillate_and_pairs_do(modulus: float) -> None:
    turn = np.array([[np.cos(0.4), -np.sin(0.4)], [np.sin(0.4), np.cos(0.4)]])
    systems = {"real": modulus * np.diag([1, 0.5]), "pair": modulus * turn}
    paths = {name: F.dynamics.unfold(lambda h, w: w @ h, np.ones(2), theta=(w,), steps=40) for name, w in systems.items()}
    figure, numbers = tg.plot.trajectories(paths, start=1)
    real, pair = (curve(axes, "unit 1") for axes in figure.axes)
    np.testing.assert_allclose(real, modulus ** np.arange(1, 41), rtol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(numbers["pair"], axis=1), np.sqrt(2) * modulus ** np.arange(1, 41), rtol=1e-12)
    assert (np.diff(np.sign(real)) != 0).sum() == 0 and (np.diff(np.sign(pair)) != 0).sum() == 5  # 40 steps of 0.4 are 2.5 turns
    _, spectra = tg.plot.spectrum(systems)
    np.testing.assert_allclose(np.abs(spectra["pair"]), modulus)
    assert spectra["pair"].imag.all() and not spectra["real"].imag.any()
    assert figure.axes[0].get_lines()[0].get_xdata()[0] == 1


def test_a_trajectory_that_leaves_all_numbers_is_told() -> None:
    with np.errstate(over="ignore"):
        path = 10.0 ** (np.arange(400.0)[:, None] * [1, 0.01])
    figure, _ = tg.plot.trajectories(path, log=True)
    assert "1 of 2 leave all numbers" in figure.axes[0].get_title(loc="left")
    assert figure.axes[0].get_yscale() == "symlog"
    figure.draw_without_rendering()


def test_taps_remember_as_their_slowest_pole_says() -> None:
    systems = {"five": {1: 0.5, 5: 0.25}, "eight": {1: 0.5, 5: 0.25, 8: 0.1}}
    figure, numbers = tg.plot.taps(systems, steps=300)
    for name, pole, total, at_20 in (("five", 0.8930, 4.0, 0.0354), ("eight", 0.9500, 6.667, 0.1060)):
        assert abs(numbers[f"{name}, poles"][0]) == pytest.approx(pole, abs=5e-5)
        assert numbers[name].sum() == pytest.approx(total, abs=1e-3) and numbers[name][20] == pytest.approx(at_20, abs=5e-5)
        np.testing.assert_array_equal(curve(figure.axes[0], name), numbers[name])
    figure, numbers = tg.plot.taps({1: 0.5}, steps=5)
    assert numbers["response"].tolist() == [1, 0.5, 0.25, 0.125, 0.0625]


# ---- Inside a network, and its training ----------------------------------------------------------------------------------------------


def test_attention_shows_the_weights_of_every_head_with_the_words() -> None:
    model = nn.ScaledDotProductAttention()
    _, weights = model(RNG.normal(size=(3, 1, 4)), RNG.normal(size=(5, 1, 4)), lengths=[4])
    heads = np.stack([weights[:, 0], weights[::-1, 0]])
    figure, numbers = tg.plot.attention(heads, queries=list("abc"), keys=["le", "petit", "chat", "dort", "."])
    for image, head, name in zip(images(figure), heads, ("head 1", "head 2"), strict=True):
        np.testing.assert_array_equal(numbers[name], head)
        np.testing.assert_array_equal(shown(image), np.where(head == 0, np.nan, head))
        assert np.isnan(shown(image)[:, 4]).all(), "what is masked is paper"
    axes = figure.axes[0]
    figure.draw_without_rendering()
    assert [label.get_text() for label in axes.get_xticklabels()] == ["le", "petit", "chat", "dort", "."]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b", "c"]


def test_attention_says_what_is_wrong() -> None:
    weights = np.array([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5]])
    with pytest.raises(ArgumentError, match="columns add up to 1"):
        tg.plot.attention(weights.T)
    with pytest.raises(ArgumentError, match=r"(?s)one example.*weights\[0\]"):
        tg.plot.attention(np.ones((2, 2, 3, 4)))
    with pytest.raises(ArgumentError, match="2 keys|2 queries"):
        tg.plot.attention(weights, queries=["a", "b"])


def test_gates_of_one_layer_and_row_on_the_scale_from_closed_to_open() -> None:
    hs, _, found = nn.LSTM(D, H, num_layers=2, rng=0)(RNG.normal(size=(T, B, D)).astype("f4"), return_gates=True)
    figure, numbers = tg.plot.gates(found, layer=1, row=1, labels="abcdef")
    assert list(numbers) == list("ifgoc")
    for name, image in zip("ifgoc", images(figure), strict=True):
        np.testing.assert_array_equal(numbers[name], getattr(found, name)[1, :, 1])
        np.testing.assert_array_equal(shown(image), numbers[name].T)
        most = np.abs(numbers["c"]).max() if name == "c" else 1
        assert (image.norm.vmin, image.norm.vmax) == pytest.approx((0, 1) if name in "ifo" else (-most, most))
    figure.draw_without_rendering()
    assert [label.get_text() for label in figure.axes[4].get_xticklabels()] == list("abcdef")
    with pytest.raises(ArgumentError, match=r"(?s)shape \(2, 6, 2, 4\).*layer 2 and a row 0"):
        tg.plot.gates(found, layer=2)
    with pytest.raises(ArgumentError, match="2 labels"):
        tg.plot.gates(found, labels="ab")
    with pytest.raises(ArgumentError, match="return_gates=True"):
        tg.plot.gates(hs)


def test_each_panel_of_gates_has_the_ticks_of_its_own_units() -> None:
    figure, _ = tg.plot.gates({"bits": np.zeros((5, 2)), "states": np.zeros((5, 4))})
    figure.draw_without_rendering()
    told = [[label.get_text() for label in axes.get_yticklabels()] for axes in figure.axes[:2]]
    assert told == [["1", "2"], ["1", "2", "3", "4"]]


def test_training_curves_are_means_of_the_last_steps() -> None:
    history = tg.training.History()
    history.losses = [5.0, 3.0, float("nan"), 1.0, 2.0, 6.0]
    history.norms = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    history.evaluations = [{"step": 3, "epoch": 1, "loss": 2.5}, {"step": 6, "epoch": 2, "loss": 1.5}]
    figure, numbers = tg.plot.training(history, smooth=2)
    np.testing.assert_allclose(numbers["smoothed"], [5, 4, 3, 1, 1.5, 4])
    top, below = figure.axes
    np.testing.assert_array_equal(curve(top, "mean of the last 2"), numbers["smoothed"])
    dots = next(line for line in top.get_lines() if line.get_label() == "evaluated")
    assert (dots.get_xdata().tolist(), dots.get_ydata().tolist()) == ([3, 6], [2.5, 1.5])
    assert below.get_lines()[0].get_ydata().tolist() == history.norms and below.get_yscale() == "log"
    figure, numbers = tg.plot.training({"a": history, "b": history})
    assert len(figure.legends[0].get_texts()) == 4 and "b, losses" in numbers
    for steps, of_the_last in ((40, 4), (2000, 50), (3, 1)):
        history.losses = [1.0] * steps
        figure, _ = tg.plot.training(history)
        assert f"mean of the last {of_the_last}" in [text.get_text() for text in figure.legends[0].get_texts()]
    with pytest.raises(ArgumentError, match="plot.training: cannot show list"):
        tg.plot.training([1.0])


# ---- Zero, infinity, NaN ---------------------------------------------------------------------------------------------------------------


def test_what_a_logarithmic_scale_has_no_place_for_stands_at_its_edges() -> None:
    with style.styled("test") as library:
        axes = style.sheet(library, 3, 3).subplots()
        seen = style.log_line(axes, np.arange(5), [1.0, 0.0, np.inf, np.nan, 2.0], "a", style.look(0))
        style.log_scale(axes, seen)
    line, *marks = axes.get_lines()
    np.testing.assert_array_equal(line.get_ydata(), [1, np.nan, np.nan, np.nan, 2])
    assert [(m.get_marker(), m.get_xdata().tolist(), m.get_ydata().tolist()) for m in marks] == [
        ("v", [1], [0]),
        ("^", [2], [1]),
        ("x", [3], [0]),
    ]
    assert axes.texts[0].get_text() == "▽ zero, △ infinite, × not a number"


def test_trajectories_of_float32_are_drawn() -> None:
    path = np.linspace(-1, 1, 8, dtype="float32")
    figure, numbers = tg.plot.trajectories(path)
    np.testing.assert_array_equal(figure.axes[0].get_lines()[0].get_ydata(), path)
    assert numbers["states"].dtype == np.float32


@pytest.mark.parametrize("factor", [1e-4, 1e4])
def test_lines_to_the_end_of_all_numbers_are_drawn(factor: float) -> None:
    figure, numbers = tg.plot.growth(np.eye(2) * factor, np.ones(2), steps=100)
    assert 0 in numbers["norms"] or np.inf in numbers["norms"]
    figure.draw_without_rendering()
    assert figure.axes[0].texts[0].get_text() == ("▽ zero" if factor < 1 else "△ infinite, × not a number")


def test_squares_without_a_colour_are_hatched_by_what_they_are() -> None:
    values = np.array([[1.0, 0.0, 0.0, np.inf], [np.nan, 2.0, 3.0, 4.0]])
    with style.styled("test") as library:
        axes = style.sheet(library, 3, 3).subplots()
        _, seen = style.heat(axes, values, style.log_colours([values]), blank=values == 4)
    hatched = {(p.get_hatch(), p.get_xy(), p.get_width()) for p in axes.patches}
    assert hatched == {("....", (0.5, -0.5), 2), ("xxxx", (2.5, -0.5), 1), ("////", (-0.5, 0.5), 1)}
    assert seen == {"0", "∞", "NaN", "blank"}
    assert style.log_colours([np.zeros(3)]).vmin < style.log_colours([np.zeros(3)]).vmax


# ---- The style -----------------------------------------------------------------------------------------------------------------------

# Machado, Oliveira & Fernandes (2009): what linear light looks like without one kind of cone.
BLINDNESS = {
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def colours(n: int = 64) -> np.ndarray:
    return style.colour_map()(np.linspace(0, 1, n))[:, :3]


def test_more_is_darker_in_even_steps() -> None:
    lightness = np.array([style.lightness(colour) for colour in colours()])
    steps = -np.diff(lightness)
    assert (steps > 0.6 * steps.mean()).all() and (steps < 1.6 * steps.mean()).all()
    assert lightness[0] < 95 < style.lightness((1, 1, 1)) and lightness[-1] < 20, (
        "nothing there is lighter than the smallest number"
    )


@pytest.mark.parametrize("kind", BLINDNESS)
def test_the_order_is_the_same_for_readers_without_one_kind_of_cone(kind: str) -> None:
    linear = np.where(colours() <= 0.04045, colours() / 12.92, ((colours() + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ np.array(BLINDNESS[kind]).T, 0, 1)
    back = np.where(seen <= 0.0031308, seen * 12.92, 1.055 * seen ** (1 / 2.4) - 0.055)
    assert (np.diff([style.lightness(colour) for colour in back]) < -0.4).all()


def test_lightness_is_that_of_the_standard() -> None:
    for colour, expected in [((0, 0, 0), 0), ((1, 1, 1), 100), ((0.5, 0.5, 0.5), 53.389), ((1, 0, 0), 53.241), ((0, 0, 1), 32.297)]:
        assert style.lightness(colour) == pytest.approx(expected, abs=0.01)


def test_lines_differ_in_lightness_and_sixteen_in_their_look() -> None:
    from matplotlib.colors import to_rgb

    lightness = [style.lightness(to_rgb(colour)) for colour in style.LINES]
    assert (np.diff(lightness) > 10).all() and lightness[-1] < 70, "and all stand out from paper"
    assert len({str(style.look(k)) for k in range(16)}) == 16


def test_text_on_a_square_is_read_on_every_colour() -> None:
    from matplotlib.colors import to_rgb

    for colour in colours():
        assert abs(style.lightness(to_rgb(style.ink(colour))) - style.lightness(colour)) > 35


def test_the_style_does_not_depend_on_the_users_settings_and_leaves_them() -> None:
    before = style_of_a_plot()
    with matplotlib.rc_context({"font.size": 31, "image.cmap": "jet", "axes.labelcolor": "red"}):
        assert style_of_a_plot() == before
        assert (matplotlib.rcParams["font.size"], matplotlib.rcParams["image.cmap"]) == (31, "jet")


def style_of_a_plot() -> tuple[Any, ...]:
    figure, _ = tg.plot.growth(np.eye(2), np.ones(2), steps=3)
    label = figure.axes[0].xaxis.label
    return label.get_size(), label.get_color(), figure.axes[0].get_lines()[0].get_linewidth()


def test_no_display_no_pyplot_and_no_matplotlib_before_the_first_plot() -> None:
    program = """
import sys, numpy as np, tinygrad_seq as tg
tg.plot.growth
assert "matplotlib" not in sys.modules
tg.plot.growth(np.eye(2), np.ones(2)).save(sys.argv[1])
print("matplotlib.pyplot" in sys.modules)
"""
    import os
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "a.png")
        environment = {key: x for key, x in os.environ.items() if key not in ("DISPLAY", "MPLBACKEND")}
        done = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, env=environment)
        assert done.stdout.strip() == "False", done.stderr
        assert os.path.getsize(path) > 1000


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingDependencyError, match=r"(?s)plot.spectrum: matplotlib is not.*pip install 'tinygrad_seq\[viz\]'"):
        tg.plot.spectrum(np.eye(2))


def test_a_plot_is_saved_in_the_same_bytes_and_shows_itself(tmp_path: Any) -> None:
    def plot() -> Any:
        return tg.plot.spectrum({"a": np.diag([0.5, 2.0])})

    for ending, start in (("svg", b"<?xml"), ("pdf", b"%PDF"), ("png", b"\x89PNG")):
        one, other = plot().save(tmp_path / f"one.{ending}"), plot().save(tmp_path / f"other.{ending}")
        assert one.read_bytes() == other.read_bytes() and one.read_bytes().startswith(start)
    assert plot()._repr_png_().startswith(b"\x89PNG")
    assert repr(plot()) == "<Plot of a (2,)>"
    figure, numbers = plot()
    assert figure.axes and numbers["a"].tolist() == [2, 0.5]
    with pytest.raises(ArgumentError, match=r"(?s)'a.gif' names no format.*\.png, \.svg or \.pdf"):
        plot().save(tmp_path / "a.gif")


def test_a_printed_heat_map_is_darker_where_the_number_is_larger(tmp_path: Any) -> None:
    from matplotlib.image import imread

    weights = np.array([[0.1, 0.2, 0.7], [0.5, 0.4, 0.1]])
    figure, _ = plot = tg.plot.attention(weights)
    pixels = imread(plot.save(tmp_path / "a.png"))[..., :3]
    axes = figure.axes[0]
    found = []
    for (row, column), x in np.ndenumerate(weights):
        across, down = axes.transData.transform((column, row)) * pixels.shape[1] / figure.bbox.width
        found.append((x, style.lightness(pixels[int(pixels.shape[0] - down), int(across)])))
    ordered = [lightness for _, lightness in sorted(found)]
    assert (np.diff(ordered) <= 0.5).all() and ordered[0] - ordered[-1] > 50


# ---- The page of plots -----------------------------------------------------------------------------------------------------------------


def test_the_page_of_plots_is_the_one_that_its_tool_writes_and_its_code_runs() -> None:
    root = Path(__file__).resolve().parent.parent
    tool = runpy.run_path(str(root / "tools" / "plots.py"))
    assert (root / "docs" / "plots.md").read_text(encoding="utf-8") == tool["page"](
        tool["HEAD"], tool["SETUP"], tool["ENTRIES"], "plots/{}.png"
    )
    figures = sorted(path.name for path in (root / "docs" / "plots").iterdir())
    assert figures == sorted(f"{entry.name}.png" for entry in tool["ENTRIES"])
    assert sum((root / "docs" / "plots" / name).stat().st_size for name in figures) < 700_000
    scope: dict[str, Any] = {}
    exec(tool["SETUP"], scope)
    used = {type(tool["made"](entry, scope)) for entry in tool["ENTRIES"]}
    assert used == {tg.plot.Plot}
    code = "".join(entry.code for entry in tool["ENTRIES"])
    assert {name for name in tg.plot.__all__ if f"tg.plot.{name}(" not in code} == {"Plot"}, "and every plot stands there"
