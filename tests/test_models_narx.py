"""models/narx.py: what it claims, on small settings."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import killing
import numpy as np
import pytest

import tinygrad_seq as tg
from models import narx
from models.experiment import perform
from tinygrad_seq import nn, optim, training
from tinygrad_seq.nn import functional as F


def test_signals_tell_their_class_in_three_steps_and_are_noise_then() -> None:
    xs, classes = narx.signals(30, 400, np.random.default_rng(0))
    assert xs.shape == (30, 400, 1) and set(classes) == {0, 1}
    assert ((xs[:3, :, 0].mean(axis=0) > 0) == (classes == 1)).all()
    assert abs(xs[3:].mean()) < 0.01 and abs(xs[3:].std() - 0.1) < 0.01


def test_the_plant_and_what_is_fed_back_are_those_of_a_loop() -> None:
    """The three modes against scalars, written out."""
    us, ys = narx.drawn_plant(7, 1, np.random.default_rng(0))
    y = 0.0
    for t in range(7):
        y = y / (1 + y**2) + float(us[t, 0, 0]) ** 3
        assert abs(float(ys[t, 0, 0]) - y) < 1e-4
    model = narx.NARX(3, 2, rng=np.random.default_rng(1))
    w, v, b, o, c = (p.numpy().astype("float64") for p in model.cell.parameters())
    for feed in ("true", "predicted", "errors"):
        past, expected = [0.0, 0.0], []
        for t in range(7):
            said = float(o[0] @ np.tanh(w[:, 0] * us[t, 0, 0] + v @ past + b) + c[0])
            fed = {"true": ys[t, 0, 0], "predicted": said, "errors": ys[t, 0, 0] - said}[feed]
            past, expected = [fed, past[0]], [*expected, said]
        np.testing.assert_allclose(model(us, ys, feed).numpy()[:, 0, 0], expected, rtol=1e-4, atol=1e-5)


def test_feeding_the_truth_breaks_the_recursion_and_feeding_predictions_does_not_look_at_it() -> None:
    us, ys = narx.drawn_plant(6, 1, np.random.default_rng(0))
    other = ys.copy()
    other[0] += 1
    model = narx.NARX(3, 1, rng=np.random.default_rng(1))
    moved = {
        feed: (model(us, ys, feed).numpy() != model(us, other, feed).numpy())[:, 0, 0] for feed in ("true", "predicted", "errors")
    }
    assert moved["true"].tolist() == [False, True, False, False, False, False]  # y_1 reaches one step far
    assert not moved["predicted"].any()
    assert not moved["errors"][0] and moved["errors"][1:3].all()


def test_an_arx_model_is_exact_for_a_linear_plant() -> None:
    us, y, ys = np.random.default_rng(0).uniform(-2, 2, (50, 1, 1)), 0.0, []
    for u in us[:, 0, 0]:
        y = 0.7 * y - 0.4 * u
        ys.append(y)
    data = us, np.reshape(ys, (50, 1, 1))
    assert narx.nrmse(narx.linear_prediction(data, data), data[1]) < 1e-12


@pytest.mark.parametrize("seed", range(3))
def test_before_training_several_taps_feel_the_first_input_and_one_tap_does_not(seed: int) -> None:
    xs = tg.tensor(narx.signals(40, 1, np.random.default_rng(0))[0], dtype="float64", requires_grad=True)
    felt = []
    for taps in (1, 6):
        model = narx.AtTheEnd(6, taps, rng=np.random.default_rng(seed)).to("float64")
        felt.append(float(abs(tg.grad(model(xs).sum(), xs))[0].sum()))
    assert felt[1] > 1e6 * felt[0]


def test_it_overfits_a_handful_of_signals() -> None:
    few, model = narx.signals(6, 4, np.random.default_rng(0)), narx.AtTheEnd(6, 2, rng=np.random.default_rng(1))
    training.fit(model, narx.class_loss, optim.Adam(model.parameters(), lr=3e-2), [few], steps=150, progress=False)
    assert float(narx.class_loss(model, few)) < 0.05 and narx.share_wrong(model, few) == 0


def test_it_overfits_a_handful_of_answers() -> None:
    few, model = narx.drawn_plant(6, 2, np.random.default_rng(0)), narx.NARX(12, 1, rng=np.random.default_rng(1))
    fitted = training.fit(
        model,
        lambda model, batch: F.mse_loss(model(*batch), batch[1]),
        optim.Adam(model.parameters(), lr=3e-2),
        [few],
        steps=400,
        progress=False,
    )
    assert fitted.losses[-1] < 0.01


def test_annealing_keeps_what_is_better_takes_back_what_is_worse_and_accepts_rises_as_often_as_it_should() -> None:
    model = nn.Linear(1, 1, rng=np.random.default_rng(0))
    frozen = narx.Annealer(model, lambda model: float(abs(model.weight.numpy()).sum()), np.random.default_rng(1))
    costs = [frozen.step(0.1, temperature=0.0) for _ in range(200)]
    assert all(later <= sooner for sooner, later in itertools.pairwise(costs))
    assert costs[-1] == float(abs(model.weight.numpy()).sum()) < 0.1

    rising, kept = narx.Annealer(model, lambda model: 0.5, np.random.default_rng(2)), 0
    for _ in range(2000):
        rising.now = 0.0
        kept += rising.step(0.0, temperature=0.5) == 0.5
    assert abs(kept / 2000 - np.exp(-1)) < 0.04


@pytest.mark.parametrize(
    "kind, config",
    [
        (narx.latch, narx.Latch(T=8, steps=20, starts=1, taps=(2,))),
        (narx.identification, narx.Plant(steps=20, test=20)),
        (narx.annealing, narx.Annealing(T=8, steps=40)),
    ],
    ids=lambda x: getattr(x, "task", ""),
)
def test_killed_and_resumed_it_goes_on_to_the_same_bits(kind: Any, config: Any, tmp_path: Path) -> None:
    killing.goes_on_to_the_same_bits(kind, config, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", narx.EXPERIMENTS, ids=lambda kind: kind.task)
def test_the_quick_setting_reaches_its_bounds(kind: Any, tmp_path: Path) -> None:
    assert perform(kind, quick=True, out=tmp_path).met
