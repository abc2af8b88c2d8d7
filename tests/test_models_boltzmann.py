"""models/boltzmann.py: what it claims, on small settings."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import killing
import numpy as np
import pytest

import tinygrad_seq as tg
from models import boltzmann
from models.experiment import perform
from tinygrad_seq import optim


def machine(N: int, seed: int = 0) -> tuple[Any, Any]:
    """Weights of i < j and biases."""
    rng = np.random.default_rng(seed)
    return np.triu(rng.normal(size=(N, N)), 1), rng.normal(size=N)


def test_the_probabilities_are_those_of_sums_over_loops() -> None:
    w, b = machine(5)
    weight = {}
    for s in itertools.product([0, 1], repeat=5):
        energy = -sum(w[i, j] * s[i] * s[j] for i in range(5) for j in range(i + 1, 5)) - sum(b[i] * s[i] for i in range(5))
        weight[s] = math.exp(-energy)
    p = np.exp(boltzmann.log_p(w, b, 3))
    for s, x in weight.items():
        v, h = int("".join(map(str, s[:3])), 2), int("".join(map(str, s[3:])), 2)
        assert p[v, h] == pytest.approx(x / sum(weight.values()))


def test_the_gradient_is_free_minus_held_is_that_of_differences() -> None:
    w, b = machine(6)
    q = np.random.default_rng(1).dirichlet(np.ones(16))
    parts = [tg.tensor(x, requires_grad=True) for x in (w, b)]
    tape = [g.numpy() for g in tg.grad(boltzmann.divergence(*parts, q), parts)]
    rule = boltzmann.learning_rule(w, b, q)
    np.testing.assert_allclose(np.triu(tape[0], 1), rule[0], atol=1e-14)
    np.testing.assert_allclose(tape[1], rule[1], atol=1e-14)
    by_differences = boltzmann.differences(lambda x: boltzmann.divergence(w, x, q), b)
    np.testing.assert_allclose(by_differences, rule[1], atol=1e-8)


def test_noise_leaves_a_distribution_and_none_leaves_the_patterns() -> None:
    assert boltzmann.noisy_data(0.1).sum() == pytest.approx(1)
    v = boltzmann.all_states(8)
    np.testing.assert_array_equal(v[boltzmann.CODES], boltzmann.PATTERNS)
    assert set(np.flatnonzero(boltzmann.noisy_data(0))) == set(boltzmann.CODES)


def test_one_side_knows_of_the_other_only_through_hidden_units() -> None:
    links = np.triu(boltzmann.encoder_links(), 1)
    w, b = machine(10)
    p = np.exp(boltzmann.log_p(w * links, b, 8)).reshape(16, 16, 4)
    for h in range(4):
        given = p[..., h] / p[..., h].sum()
        np.testing.assert_allclose(given, np.outer(given.sum(1), given.sum(0)), atol=1e-14)


def test_a_machine_without_hidden_units_learns_two_patterns() -> None:
    model = boltzmann.Boltzmann(np.ones((3, 3)), np.full(3, 0.5), rng=np.random.default_rng(0))
    q = np.zeros(8)
    q[[0b110, 0b001]] = 0.5
    adam = optim.Adam(model.parameters(), lr=0.2)
    for _ in range(150):
        adam.zero_grad()
        model(q).backward()
        adam.step()
    assert model(q).item() < 0.01


def test_the_encoder_killed_and_resumed_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    killing.goes_on_to_the_same_bits(boltzmann.encoder, boltzmann.Encoder(machines=2, steps=6), tmp_path)


@pytest.mark.slow
def test_the_quick_setting_reaches_its_bounds(tmp_path: Path) -> None:
    assert perform(boltzmann.encoder, quick=True, out=tmp_path).met
