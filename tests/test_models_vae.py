"""models/vae.py: what it claims, on small settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import killing
import made_up_digits
import numpy as np
import pytest

import tinygrad_seq as tg
from models import vae
from models.experiment import perform
from tinygrad_seq import optim

INSTALL = "the digits come with scikit-learn: pip install -e '.[models]'"


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_the_divergence_equals_its_integral() -> None:
    z = np.linspace(-12, 12, 100_001)
    for mean, log_variance in [(0.0, 0.0), (1.5, -2.0), (-0.3, 1.0)]:
        q = np.exp(-0.5 * (z - mean) ** 2 / np.exp(log_variance)) / np.sqrt(2 * np.pi * np.exp(log_variance))
        p = np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi)
        integral = np.sum(q * np.log(np.maximum(q, 1e-300) / p)) * (z[1] - z[0])
        cloud = vae.Cloud(np.array([[mean]]), np.array([[log_variance]]))
        assert vae.divergence(cloud)[0] == pytest.approx(integral, abs=1e-6)


def test_the_clouds_are_drawn_with_their_means_and_variances(rng: np.random.Generator) -> None:
    model = vae.VAE(6, 2, 8, rng=rng)
    model.decoder = lambda z: z  # its input is what was drawn
    x = np.repeat(rng.random((1, 6)).astype("float32"), 40_000, axis=0)
    drawn, q = model(x)
    np.testing.assert_allclose(drawn.numpy().mean(0), q.mean.numpy()[0], atol=0.03)
    np.testing.assert_allclose(drawn.numpy().var(0), np.exp(q.log_variance.numpy()[0]), rtol=0.03)


def test_the_bound_is_above_the_likelihood_and_meets_it_at_the_true_posterior(rng: np.random.Generator) -> None:
    """The linear model, where -log p(x) is known: p(x) = N(0, W W^T + s² I)."""
    D, K, variance = 5, 2, 0.3
    model = vae.LinearAutoencoder(D, K, rng=rng).to(dtype="float64")
    W = np.linalg.qr(rng.normal(size=(D, K)))[0] * [2.0, 1.2]  # orthogonal columns: the posterior's variances are those of its axes
    model.load_state_dict({
        "decoder.weight": W,
        "encoder.weight": np.linalg.inv(W.T @ W + variance * np.eye(K)) @ W.T,
        "log_variance": np.log(variance / ((W**2).sum(0) + variance)),
    })  # fmt: skip
    x = rng.normal(size=(9, D))
    C = W @ W.T + variance * np.eye(D)
    exact = 0.5 * (np.einsum("nd,de,ne->n", x, np.linalg.inv(C), x).mean() + np.linalg.slogdet(2 * np.pi * C)[1])
    constants = 0.5 * D * np.log(2 * np.pi * variance)
    bound = vae.linear_negative_elbo(model, x, variance).item() + constants
    assert bound == pytest.approx(exact, abs=1e-9)
    model.load_state_dict({**model.state_dict(), "log_variance": np.zeros(K)})
    assert vae.linear_negative_elbo(model, x, variance).item() + constants > exact + 0.1


def test_principal_angles_are_those_of_planes_that_were_turned(rng: np.random.Generator) -> None:
    Q = np.linalg.qr(rng.normal(size=(6, 4)))[0]
    a = Q[:, :2]
    b = np.stack([np.cos(0.3) * Q[:, 0] + np.sin(0.3) * Q[:, 2], np.cos(1e-5) * Q[:, 1] + np.sin(1e-5) * Q[:, 3]], axis=1)
    np.testing.assert_allclose(vae.principal_angles(a, b @ rng.normal(size=(2, 2))), [1e-5, 0.3], rtol=1e-6)


def test_principal_axes_are_eigenvectors_of_the_covariance(rng: np.random.Generator) -> None:
    x = rng.normal(size=(200, 4)) * [3, 2, 1, 0.5] + 7
    vectors = np.linalg.eigh(np.cov(x.T))[1][:, ::-1][:, :2]
    np.testing.assert_allclose(np.abs((vae.principal_axes(x, 2) * vectors).sum(0)), 1, atol=1e-9)


def test_a_linear_autoencoder_finds_the_plane_of_its_data(rng: np.random.Generator) -> None:
    x = (rng.normal(size=(100, 8)) * [3, 2, *[0.3] * 6]) @ np.linalg.qr(rng.normal(size=(8, 8)))[0]
    x -= x.mean(0)
    model = vae.LinearAutoencoder(8, 2, rng=rng).to(dtype="float64")
    adam = optim.Adam(model.parameters(), lr=0.03)
    for _ in range(400):
        loss = vae.squared_error(model, x)
        model.zero_grad()
        loss.backward()
        adam.step()
    assert vae.principal_angles(model.decoder.weight.numpy(), vae.principal_axes(x, 2)).max() < 0.01


def test_it_overfits_four_pictures(rng: np.random.Generator) -> None:
    model, x = vae.VAE(16, 3, 32, rng=rng), (rng.random((4, 16)) < 0.5).astype("float32")
    adam = optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(250):
        loss = vae.negative_elbo(model, x)
        model.zero_grad()
        loss.backward()
        adam.step()
    with tg.no_grad():
        back = model.decode(model.encode(x).mean).numpy()
    assert np.abs(back - x).max() < 0.1
    assert loss.item() > np.log(4) - 0.1  # four pictures cannot cost less, on average, than telling which one


@pytest.mark.parametrize(
    "kind, config",
    [(vae.pictures, vae.Latent(hidden=8, steps=6, batch=4)), (vae.linear, vae.Linear(steps=6))],
    ids=["pictures", "linear"],
)
def test_killed_and_resumed_it_goes_on_to_the_same_bits(
    kind: Any, config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_up_digits.instead(monkeypatch)
    killing.goes_on_to_the_same_bits(kind, config, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", vae.EXPERIMENTS, ids=lambda kind: kind.task)
def test_the_quick_setting_reaches_its_bounds(kind: Any, tmp_path: Path) -> None:
    pytest.importorskip("sklearn", reason=INSTALL)
    assert perform(kind, quick=True, out=tmp_path).met
