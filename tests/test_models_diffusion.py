"""models/diffusion.py: what it claims, on small settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import killing
import made_up_digits
import numpy as np
import pytest

from models import diffusion
from models.experiment import perform
from tinygrad_seq import optim

INSTALL = "the digits come with scikit-learn: pip install -e '.[models]'"


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_noise_at_once_is_noise_step_by_step() -> None:
    report = perform(diffusion.closed_form, diffusion.Chains(T=40, chains=2000))
    assert report.met or report["share of a picture's amplitude that is left at T"] > 0.01  # that needs more steps
    assert report["variance of the steps - closed form, largest over t"] < 1e-12


def test_a_step_back_is_the_posterior_by_bayes() -> None:
    """q(x_(t-1) | x_t, x_0), from q(x_t | x_(t-1)) q(x_(t-1) | x_0) on a grid, is what a step back draws when the noise is known."""
    noise, x0, x_t, t = diffusion.Noise(10), 0.7, -0.4, 4
    x = np.linspace(-8, 8, 40_001)
    log_density = -0.5 * (x_t - np.sqrt(noise.alpha[t]) * x) ** 2 / noise.beta[t]
    log_density -= 0.5 * (x - np.sqrt(noise.alpha_bar[t - 1]) * x0) ** 2 / (1 - noise.alpha_bar[t - 1])
    density = np.exp(log_density - log_density.max())
    density /= density.sum()
    true_mean = (density * x).sum()
    epsilon = (x_t - np.sqrt(noise.alpha_bar[t]) * x0) / np.sqrt(1 - noise.alpha_bar[t])
    mean, variance = noise.step_back(x_t, epsilon, t)
    assert mean == pytest.approx(true_mean, abs=1e-6)
    assert variance == pytest.approx((density * (x - true_mean) ** 2).sum(), abs=1e-6)


def test_the_last_step_back_draws_nothing_and_returns_the_picture_if_the_noise_is_known(rng: np.random.Generator) -> None:
    noise, x, epsilon = diffusion.Noise(10), rng.normal(size=(1, 3)), rng.normal(size=(1, 3))
    mean, variance = noise.step_back(noise.at_once(x, np.array([1]), epsilon), epsilon, 1)
    assert variance == 0
    np.testing.assert_allclose(mean, x, atol=1e-12)


def test_the_best_guess_of_the_noise_in_normal_data_makes_such_data(rng: np.random.Generator) -> None:
    """Data N(2, 0.5²): E[ε | x_t] is known, and sampling with it ends at that mean and that deviation."""
    noise, n = diffusion.Noise(200), 20_000
    x = rng.normal(size=n)
    for t in range(noise.T, 0, -1):
        kept = noise.alpha_bar[t]
        guess = np.sqrt(1 - kept) * (x - np.sqrt(kept) * 2) / (kept * 0.25 + 1 - kept)
        mean, variance = noise.step_back(x, guess, t)
        x = mean + np.sqrt(variance) * rng.normal(size=n)
    assert x.mean() == pytest.approx(2, abs=0.03)
    assert x.std() == pytest.approx(0.5, abs=0.03)


def test_it_overfits_two_pictures(rng: np.random.Generator) -> None:
    pictures, noise = np.sign(rng.normal(size=(2, 6))), diffusion.Noise(20)
    model = diffusion.Denoiser(6, 32, 1, 20, rng=rng)
    adam = optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(300):
        loss = diffusion.noise_loss(model, diffusion.with_noise(pictures[rng.integers(2, size=32)], noise, rng))
        model.zero_grad()
        loss.backward()
        adam.step()
    made = diffusion.sampled(model, noise, 50, rng)[-1]
    far = np.abs(made[:, None] - pictures).max(axis=2)
    assert np.median(far.min(axis=1)) < 0.3
    assert set(far.argmin(axis=1)) == {0, 1}


def test_killed_and_resumed_it_goes_on_to_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made_up_digits.instead(monkeypatch)
    killing.goes_on_to_the_same_bits(diffusion.pictures, diffusion.Pictures(T=4, hidden=8, blocks=1, steps=6, batch=4), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", diffusion.EXPERIMENTS, ids=lambda kind: kind.task)
def test_the_quick_setting_reaches_its_bounds(kind: Any, tmp_path: Path) -> None:
    pytest.importorskip("sklearn", reason=INSTALL)
    assert perform(kind, quick=True, out=tmp_path).met
