"""models/linear_systems.py: what it claims, on small settings, against what is computed another way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import killing
import numpy as np
import pytest
import scipy.linalg

from models import linear_systems as systems
from models.experiment import perform
from tinygrad_seq import optim, training
from tinygrad_seq.nn import functional as F

# ---- Pieces ---------------------------------------------------------------------------------------------------------------------------------


def test_a_path_is_the_power_of_its_matrix_and_of_a_number_for_every_start() -> None:
    w = np.random.default_rng(0).normal(size=(3, 3))
    states = systems.path(np.array, w, [1, 2, 3], 5)
    np.testing.assert_allclose(states[5], np.linalg.matrix_power(w, 5) @ [1, 2, 3])
    np.testing.assert_allclose(systems.path(np.tanh, 0.5, [1, -2], 2)[2], np.tanh(0.5 * np.tanh(0.5 * np.array([1, -2]))))


def test_settled_counts_the_steps_until_all_stay_near_their_end() -> None:
    assert systems.settled(np.array([[1.0, 0], [0.5, 0], [0.0005, 0.2], [0, 0], [0, 0]])) == 3
    assert systems.settled(np.zeros((4, 2))) == 0


def test_turning_has_the_eigenvalues_that_it_names() -> None:
    np.testing.assert_allclose(sorted(np.linalg.eigvals(systems.turning_of(0.9, 0.9)), key=np.imag), [0.9 - 0.9j, 0.9 + 0.9j])


def test_a_tdnn_is_its_window_moved_along_time() -> None:
    rng = np.random.default_rng(0)
    tdnn, xs = systems.TDNN(3, 4, rng=rng), rng.normal(size=(1, 1, 9))
    ys = tdnn(xs).numpy()[0, 0]
    w, b, v, c = (p.numpy() for p in tdnn.parameters())
    expected = [v[0, :, 0] @ np.tanh(w[:, 0] @ xs[0, 0, t : t + 3] + b) + c[0] for t in range(7)]
    np.testing.assert_allclose(ys, expected, rtol=1e-12)


# ---- The Kalman filter ------------------------------------------------------------------------------------------------------------------------


def test_the_variance_of_riccati_is_that_of_scipy() -> None:
    P, K = systems.riccati(0.95, 0.1, 1.0)
    expected = scipy.linalg.solve_discrete_are([[0.95]], [[1.0]], [[0.1]], [[1.0]])[0, 0]
    assert abs(P - expected) < 1e-12 and abs(K - expected / (expected + 1)) < 1e-12
    assert round(P + 1.0, 4) == 1.3175


def test_the_filter_is_the_mean_of_a_normal_distribution_given_what_was_seen() -> None:
    """Brute force: x and y of all times are jointly normal, so E[y_t | y_1 ... y_(t-1)] is a projection."""
    c, T = systems.Hidden(a=0.8, q=0.3, r=0.7), 7
    ys = systems.observed(c, T, 3, np.random.default_rng(0))
    found = systems.kalman(ys, c)
    t = np.arange(T)
    covariance = c.q / (1 - c.a**2) * c.a ** abs(t[:, None] - t) + c.r * np.eye(T)
    for now in range(1, T):
        weights = np.linalg.solve(covariance[:now, :now], covariance[:now, now])
        np.testing.assert_allclose(found[now, :, 0], weights @ ys[:now, :, 0], rtol=1e-10, atol=1e-12)
    assert not found[0].any()


def test_what_is_observed_has_the_moments_of_the_model() -> None:
    c = systems.Hidden()
    ys = systems.observed(c, 3, 200_000, np.random.default_rng(0))[..., 0]
    inside = c.q / (1 - c.a**2)
    assert abs(ys.var(axis=1) / (inside + c.r) - 1).max() < 0.02
    assert abs(np.mean(ys[0] * ys[2]) / (inside * c.a**2) - 1) < 0.03


def test_the_learned_filter_with_the_weights_of_kalman_is_the_filter_in_the_long_run() -> None:
    c = systems.Hidden()
    ys, model = systems.observed(c, 120, 2, np.random.default_rng(0)), systems.Filter()
    _, K = systems.riccati(c.a, c.q, c.r)
    model.load_state_dict({"u": np.array([[c.a * (1 - K)]]), "k": np.array([[c.a * K]])})
    np.testing.assert_allclose(model(ys).numpy()[100:], systems.kalman(ys, c)[101:], atol=1e-6)


def test_the_filter_overfits_a_handful_of_observations() -> None:
    model, ys = systems.Filter(), systems.observed(systems.Hidden(), 6, 1, np.random.default_rng(0))

    def loss(model: Any, ys: Any) -> Any:
        return F.mse_loss(model(ys)[:2], ys[1:3])  # two numbers for two predictions

    history = training.fit(model, loss, optim.Adam(model.parameters(), lr=5e-2), [ys], steps=400, progress=False)
    assert history.losses[-1] < 1e-6


# ---- Experiments --------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind",
    [systems.finite_response, systems.superposition, systems.eigenvalues, systems.energy, systems.taps],
    ids=lambda kind: kind.task,
)
def test_what_needs_no_training_holds(kind: Any) -> None:
    assert perform(kind, systems.Systems(N=24), seed=1).met


def test_saturation_holds_with_a_few_draws() -> None:
    assert perform(systems.saturation, systems.Systems(draws=3), seed=1).met


def test_sigmoids_lose_the_gradient_in_depth() -> None:
    pytest.importorskip("sklearn", reason="digits: pip install -e '.[models]'")
    report = perform(systems.depth, systems.Depth(layers=8, width=64, batch=32))
    assert report["sigmoid: decades that the gradient loses in a layer"] > 0.4
    assert abs(report["ReLU: decades that the gradient loses in a layer"]) < 0.2


def test_killed_and_resumed_it_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    killing.goes_on_to_the_same_bits(systems.hidden_state, systems.Hidden(T=150, sequences=5, steps=20, batch=4), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", systems.EXPERIMENTS, ids=lambda kind: kind.task)
def test_the_quick_setting_reaches_its_bounds(kind: Any, tmp_path: Path) -> None:
    if kind is systems.depth:
        pytest.importorskip("sklearn", reason="digits: pip install -e '.[models]'")
    assert perform(kind, quick=True, out=tmp_path).met
