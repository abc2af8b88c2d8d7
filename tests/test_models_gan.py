"""models/gan.py and the judge of models/digits.py: what they claim, on small settings."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import killing
import made_up_digits
import numpy as np
import pytest

import tinygrad_seq as tg
from models import digits, gan
from models.experiment import Run, perform
from tinygrad_seq import nn, optim

INSTALL = "the digits come with scikit-learn: pip install -e '.[models]'"


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def normal(x: Any, mean: float, std: float) -> Any:
    return np.exp(-0.5 * ((x - mean) / std) ** 2) / (std * math.sqrt(2 * math.pi))


def test_the_loss_is_minus_the_value_of_the_game(rng: np.random.Generator) -> None:
    real, fake = rng.normal(size=(2, 50, 1))
    D = lambda scores: 1 / (1 + np.exp(-scores))  # noqa: E731
    value = np.log(D(real)).mean() + np.log(1 - D(fake)).mean()
    assert gan.discriminator_loss(real, fake) == pytest.approx(-value)
    assert gan.generator_loss(fake) == pytest.approx(-np.log(D(fake)).mean())
    assert gan.discriminator_loss(np.zeros((3, 1)), np.zeros((3, 1))) == pytest.approx(2 * math.log(2))


def test_the_best_discriminator_is_p_over_p_plus_q_and_its_loss_2_ln_2_less_twice_the_divergence() -> None:
    x = np.linspace(-6, 6, 241)[:, None]
    p, q = normal(x, 1, 1), normal(x, -1, 0.7)
    p, q = p / p.sum(), q / q.sum()
    scores = tg.tensor(np.zeros_like(x), requires_grad=True)
    adam = optim.Adam([scores], lr=0.2)
    for _ in range(400):
        # The loss of the model has means over examples; here are the means over two distributions, exactly.
        loss = (p * nn.functional.softplus(-scores)).sum() + (q * nn.functional.softplus(scores)).sum()
        scores.grad = None
        loss.backward()
        adam.step()
    seen = (p + q)[:, 0] > 1e-4
    np.testing.assert_allclose(tg.sigmoid(scores.numpy())[seen], (p / (p + q))[seen], atol=1e-3)
    m = (p + q) / 2
    divergence = 0.5 * (p * np.log(p / m)).sum() + 0.5 * (q * np.log(q / m)).sum()
    assert loss.item() == pytest.approx(2 * math.log(2) - 2 * divergence, abs=1e-3)


def test_the_slope_penalty_and_its_gradient_equal_those_of_a_formula(rng: np.random.Generator) -> None:
    D = gan.Polynomial(2, rng)
    real = rng.normal(size=(7, 1)).astype("float32")
    xs = tg.tensor(real, requires_grad=True)
    penalty = gan.slope_penalty(D(xs), xs)
    u, v, _ = D.coefficients()
    slopes = u + 2 * v * real  # d(x) = w + u x + v x²
    assert penalty.item() == pytest.approx(0.5 * (slopes**2).mean(), rel=1e-5)
    found = tg.grad(penalty, D.line.weight).numpy()[0]
    np.testing.assert_allclose(found, [slopes.mean(), (2 * real * slopes).mean()], rtol=1e-4)


@pytest.mark.parametrize("kind", ["MLP", "conv"])
def test_a_step_teaches_each_player_its_own_loss_and_nothing_else(kind: str, rng: np.random.Generator) -> None:
    c = gan.Pictures(noise=5, hidden=12, channels=4)
    three = gan.players(kind, c, rng)
    real, z = rng.random((6, 1, 8, 8)).astype("float32"), gan.noise(6, c.noise, rng)
    generator, _, D = three
    before = [p.numpy().copy() for p in D.parameters()]
    fake = generator(z)
    assert fake.shape == (6, 1, 8, 8) and D(fake).shape == (6, 1)
    by_hand = tg.grad(gan.discriminator_loss(D(real), D(fake.numpy())), list(D.parameters()))
    game = gan.Game(three, [optim.SGD(player.parameters(), lr=0.5) for player in (generator, D)], penalty=0.0, keep=0.5)
    start = [p.numpy().copy() for p in generator.parameters()]
    game.step(0, real, z)
    for p, was, g in zip(D.parameters(), before, by_hand, strict=True):
        np.testing.assert_allclose(p.numpy(), was - 0.5 * g.numpy(), atol=1e-6)
    for mean, was, now in zip(game.mean.parameters(), start, generator.parameters(), strict=True):
        np.testing.assert_allclose(mean.numpy(), (was + now.numpy()) / 2, atol=1e-6)
    assert all(p.requires_grad for p in D.parameters())


@pytest.mark.parametrize("kind", ["MLP", "conv"])
def test_a_generator_learns_the_one_picture_that_there_is(kind: str, rng: np.random.Generator) -> None:
    picture = np.repeat((rng.random((1, 8, 8)) < 0.4).astype("float32"), 4, axis=0)
    c = gan.Pictures(noise=4, hidden=32, channels=8, penalty=0.1, every=4, keep=0.9)
    generator, _ = gan.trained(Run(0), kind, c, picture, 100, 4, 1e-2)
    far = np.abs(gan.made(generator, gan.noise(20, 4, rng)) - picture[0]).mean()
    assert far < 0.1


def test_the_game_on_the_line_killed_and_resumed_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    killing.goes_on_to_the_same_bits(gan.equilibrium, gan.Line(steps=6, batch=8), tmp_path)


def test_the_game_of_pictures_killed_and_resumed_goes_on_to_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made_up_digits.instead(monkeypatch)
    config = gan.Pictures(noise=4, hidden=8, channels=2, mlp_steps=6, conv_steps=6, mlp_batch=4, conv_batch=4, every=3)
    killing.goes_on_to_the_same_bits(gan.pictures, config, tmp_path)


@pytest.mark.slow
def test_the_judge_knows_digits_from_noise_and_copies_from_both(rng: np.random.Generator) -> None:
    pytest.importorskip("sklearn", reason=INSTALL)
    train, held_out = digits.load()
    assert len(train.labels) == 1347 and len(held_out.labels) == 450
    judge = digits.Judge(train, held_out)
    real, noise, copies = judge(held_out.images), judge(rng.random((450, 64))), judge(train.images[:500])
    assert real.confidence > 0.85 > 0.7 > noise.confidence
    assert real.smallest_share > 0.08 > noise.smallest_share
    assert real.frechet == pytest.approx(0, abs=1e-6) and copies.frechet < 0.3 < 5 < noise.frechet
    assert copies.nearest < 1e-6 < 0.9 < real.nearest < 2 < noise.nearest


def test_the_frechet_distance_equals_its_formula_by_a_matrix_root(rng: np.random.Generator) -> None:
    a, b = rng.normal(size=(60, 5)), rng.normal(size=(80, 5)) @ rng.normal(size=(5, 5)) + 1
    values, vectors = np.linalg.eigh(np.cov(a.T))
    root = vectors @ np.diag(np.sqrt(values)) @ vectors.T  # tr (ΣΤ)^½ = tr (Σ^½ Τ Σ^½)^½, whose argument is symmetric
    cross = np.sqrt(np.linalg.eigvalsh(root @ np.cov(b.T) @ root)).sum()
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(np.cov(a.T)) + np.trace(np.cov(b.T)) - 2 * cross
    assert digits.frechet(a, b) == pytest.approx(expected)
    assert digits.frechet(a, a) == pytest.approx(0, abs=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("kind", gan.EXPERIMENTS, ids=lambda kind: kind.task)
def test_the_quick_setting_reaches_its_bounds(kind: Any, tmp_path: Path) -> None:
    pytest.importorskip("sklearn", reason=INSTALL)
    assert perform(kind, quick=True, out=tmp_path).met
