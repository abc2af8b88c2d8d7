"""models/forecasting.py: what it claims, on small settings. The series are made up where the real ones are not needed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import killing
import numpy as np
import pytest

from models import forecasting
from models.experiment import Experiment, perform
from tinygrad_seq import nn, optim, training
from tinygrad_seq.nn.functional import dynamics


def test_windows_hold_the_terms_before_each_term_and_nothing_later() -> None:
    series = np.arange(40.0).reshape(20, 2)
    found = forecasting.windows(series, 3)
    assert found.shape == (17, 3, 2)
    for n in range(17):
        assert (found[n] == series[n : n + 3]).all()  # before term n + 3
    assert (forecasting.windows(series[:, 0], 3) == found[..., :1]).all()


def test_least_squares_finds_the_weights_that_made_a_series() -> None:
    shocks = np.random.default_rng(0).normal(size=5000)
    series = dynamics.tapped_recursion(shocks, {1: 1.2, 2: -0.7, 5: 0.1})
    weights, said = forecasting.least_squares(forecasting.windows(series, 5), series[5:], np.arange(4995) < 4000)
    np.testing.assert_allclose(weights, [0.1, 0, 0, -0.7, 1.2, 0], atol=0.06)  # the oldest first, the constant last
    np.testing.assert_allclose((series[5:] - said).var(), shocks.var(), rtol=0.02)  # what is left are the shocks


def test_a_cycle_of_eleven_years_is_read_off_the_poles_of_ar_2() -> None:
    series = 50 + 20 * np.sin(2 * np.pi * np.arange(100) / 11)
    weights, said = forecasting.least_squares(forecasting.windows(series, 2), series[2:], np.arange(98) < 60)
    np.testing.assert_allclose(said, series[2:], atol=1e-9)
    pole = dynamics.poles({1: weights[1], 2: weights[0]})[0]
    assert 2 * np.pi / abs(np.angle(pole)) == pytest.approx(11)


def test_a_linear_net_on_taps_is_an_ar_model_and_a_tanh_net_is_none() -> None:
    rng = np.random.default_rng(0)
    xs = rng.normal(size=(50, 6, 1))
    for linear in (True, False):
        net = forecasting.Taps(6, 1, 3, linear=linear, rng=rng, dtype="float64")
        weights, constant = forecasting.folded(net)
        apart = np.abs(net(xs).numpy() - xs[..., 0] @ weights - constant).max()
        assert apart < 1e-14 if linear else apart > 1e-2


def test_no_member_of_a_committee_sees_what_another_does() -> None:
    rng = np.random.default_rng(0)
    xs, ys = rng.normal(size=(20, 4, 1)), rng.normal(size=20)
    nets: list[nn.Module] = [forecasting.Taps(4, 1, 3, rng=rng, dtype="float64") for _ in range(3)]
    forecasting.squares(forecasting.Committee(nets), (xs, ys)).backward()
    together = [[p.grad.numpy().copy() for p in net.parameters()] for net in nets]
    for net, found in zip(nets, together, strict=True):
        net.zero_grad()
        forecasting.squares(net, (xs, ys)).backward()
        for p, of_all in zip(net.parameters(), found, strict=True):
            np.testing.assert_allclose(of_all, p.grad.numpy() / 3, atol=1e-15)


@pytest.mark.parametrize("kind", ["taps", "rnn", "gru"])
def test_each_net_overfits_a_handful_of_windows(kind: str) -> None:
    rng = np.random.default_rng(0)
    xs, ys = rng.normal(size=(6, 5, 2)).astype("float32"), rng.normal(size=6).astype("float32")
    net = (
        forecasting.Taps(5, 2, 12, rng=rng)
        if kind == "taps"
        else forecasting.Reader(nn.RNN if kind == "rnn" else nn.GRU, 2, 12, rng=rng)
    )
    adam = optim.Adam(net.parameters(), lr=2e-2)
    history = training.fit(net, forecasting.squares, adam, [(xs, ys)], steps=200, progress=False)
    assert history.losses[-1] < 1e-3 < history.losses[0]


def made_up_sunspots() -> tuple[Any, Any]:
    years = np.arange(1700, 2009)
    return years, 50 + 40 * np.sin(years * 2 * np.pi / 11) + np.random.default_rng(0).normal(size=len(years)) * 10


def made_up_weather() -> tuple[Any, Any]:
    days = np.arange(np.datetime64("2013-01-01"), np.datetime64("2016-01-01"))
    return days, 10 + np.random.default_rng(0).normal(size=(len(days), 4)).cumsum(axis=0) / 10


def made_up_stocks() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {name: 100 * np.exp(rng.normal(size=400).cumsum() / 20) for name in ("A", "B")}


@pytest.mark.parametrize(
    ("kind", "name", "made_up"),
    [
        (forecasting.sunspot_numbers, "sunspots", made_up_sunspots),
        (forecasting.temperature, "weather", made_up_weather),
        (forecasting.share_prices, "stocks", made_up_stocks),
    ],
)
def test_killed_and_resumed_it_goes_on_to_the_same_bits(
    kind: Experiment, name: str, made_up: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forecasting, name, made_up)
    small = replace(kind.quick, nets=2, hidden=2, steps=10, **({"linear_steps": 10} if name == "sunspots" else {}))
    killing.goes_on_to_the_same_bits(kind, small, tmp_path)


def test_nothing_beats_the_last_price_where_prices_are_a_random_walk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forecasting, "stocks", made_up_stocks)
    assert perform(forecasting.share_prices).met


@pytest.mark.slow
def test_sunspots_reach_what_they_have_to() -> None:
    pytest.importorskip("statsmodels", reason="statsmodels: pip install -e '.[models]'")
    assert perform(forecasting.sunspot_numbers, quick=True).met


@pytest.mark.slow
@pytest.mark.parametrize("kind", [forecasting.temperature, forecasting.share_prices])
def test_weather_and_stocks_reach_what_they_have_to(kind: Experiment) -> None:
    pytest.importorskip("vega_datasets", reason="vega_datasets: pip install -e '.[models]'")
    assert perform(kind, quick=True).met
