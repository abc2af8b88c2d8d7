"""models/kalman.py: what it claims, on small settings, against what is computed another way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import killing
import numpy as np
import pytest
import scipy.linalg

from models import kalman
from models.experiment import perform
from tinygrad_seq import optim, training
from tinygrad_seq.nn import functional as F


def test_the_variance_of_riccati_is_that_of_scipy() -> None:
    P, K = kalman.riccati(0.95, 0.1, 1.0)
    expected = scipy.linalg.solve_discrete_are([[0.95]], [[1.0]], [[0.1]], [[1.0]])[0, 0]
    assert abs(P - expected) < 1e-12 and abs(K - expected / (expected + 1)) < 1e-12
    assert round(P + 1.0, 4) == 1.3175


def test_the_filter_is_the_mean_of_a_normal_distribution_given_what_was_seen() -> None:
    """Brute force: x and y of all times are jointly normal, so E[y_t | y_1 ... y_(t-1)] is a projection."""
    c, T = kalman.Hidden(a=0.8, q=0.3, r=0.7), 7
    ys = kalman.observed(c, T, 3, np.random.default_rng(0))
    found = kalman.kalman(ys, c)
    t = np.arange(T)
    covariance = c.q / (1 - c.a**2) * c.a ** abs(t[:, None] - t) + c.r * np.eye(T)
    for now in range(1, T):
        weights = np.linalg.solve(covariance[:now, :now], covariance[:now, now])
        np.testing.assert_allclose(found[now, :, 0], weights @ ys[:now, :, 0], rtol=1e-10, atol=1e-12)
    assert not found[0].any()


def test_what_is_observed_has_the_moments_of_the_model() -> None:
    c = kalman.Hidden()
    ys = kalman.observed(c, 3, 200_000, np.random.default_rng(0))[..., 0]
    inside = c.q / (1 - c.a**2)
    assert abs(ys.var(axis=1) / (inside + c.r) - 1).max() < 0.02
    assert abs(np.mean(ys[0] * ys[2]) / (inside * c.a**2) - 1) < 0.03


def test_the_learned_filter_with_the_weights_of_kalman_is_the_filter_in_the_long_run() -> None:
    c = kalman.Hidden()
    ys, model = kalman.observed(c, 120, 2, np.random.default_rng(0)), kalman.Filter()
    _, K = kalman.riccati(c.a, c.q, c.r)
    model.load_state_dict({"u": np.array([[c.a * (1 - K)]]), "k": np.array([[c.a * K]])})
    np.testing.assert_allclose(model(ys).numpy()[100:], kalman.kalman(ys, c)[101:], atol=1e-6)


def test_the_filter_overfits_a_handful_of_observations() -> None:
    model, ys = kalman.Filter(), kalman.observed(kalman.Hidden(), 6, 1, np.random.default_rng(0))

    def loss(model: Any, ys: Any) -> Any:
        return F.mse_loss(model(ys)[:2], ys[1:3])  # two numbers for two predictions

    history = training.fit(model, loss, optim.Adam(model.parameters(), lr=5e-2), [ys], steps=400, progress=False)
    assert history.losses[-1] < 1e-6


def test_killed_and_resumed_it_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    killing.goes_on_to_the_same_bits(kalman.hidden_state, kalman.Hidden(T=150, sequences=5, steps=20, batch=4), tmp_path)


@pytest.mark.slow
def test_the_quick_setting_reaches_its_bounds(tmp_path: Path) -> None:
    assert perform(kalman.hidden_state, quick=True, out=tmp_path).met
