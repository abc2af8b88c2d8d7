"""models/hopfield.py: what it claims, on small settings."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tinygrad_seq as tg
from models import hopfield
from models.experiment import perform
from tinygrad_seq.testing import check_grads


def integers(N: int, seed: int = 0) -> tuple[Any, Any, Any]:
    """Symmetric weights with a diagonal of zeros, biases, and all 2^N states."""
    rng = np.random.default_rng(seed)
    w = np.triu(rng.integers(-3, 4, (N, N)), 1)
    states = 2 * (np.arange(2**N)[:, None] >> np.arange(N) & 1) - 1
    return w + w.T, rng.integers(-2, 3, N), states


def test_hebbs_rule_and_the_energy_are_their_sums() -> None:
    memories = hopfield.signs(np.random.default_rng(0), 3, 6, dtype="int64")
    w, b = hopfield.store(memories), np.arange(6)
    for i in range(6):
        for j in range(6):
            assert w[i, j] == (sum(a[i] * a[j] for a in memories) if i != j else 0)
    a = memories[0]
    pairs = sum(w[i, j] * a[i] * a[j] for i in range(6) for j in range(6))
    assert hopfield.energy(a, w, b) == -pairs / 2 - sum(b * a)


def test_no_update_of_any_state_raises_the_energy_and_every_fall_is_the_change_times_the_field() -> None:
    w, b, states = integers(8)
    energies, ties = hopfield.energy(states, w, b), 0
    for i in range(8):
        after = states.copy()
        hopfield.update(after, i, w, b)
        field = states @ w[i] + b[i]
        np.testing.assert_array_equal(hopfield.energy(after, w, b) - energies, -(after[:, i] - states[:, i]) * field)
        assert (hopfield.energy(after, w, b) <= energies).all()
        ties += int((field == 0).sum())
    assert ties  # fields of zero are among them: there a unit may change, and the energy does not


def test_weights_that_are_not_symmetric_may_raise_it() -> None:
    w, b, states = integers(8)
    w[0] = -w[0]
    after = states.copy()
    for i in range(8):
        hopfield.update(after, i, w, b)
    assert (hopfield.energy(after, w, b) > hopfield.energy(states, w, b)).any()


def test_recall_ends_where_no_unit_wants_to_change() -> None:
    w, b, states = integers(8)
    found = hopfield.recall(states, w, b, rng=np.random.default_rng(0))
    field = found @ w + b
    assert (np.where(field > 0, 1, -1) == found).all()


def test_recall_mends_a_memory() -> None:
    rng = np.random.default_rng(0)
    memories = hopfield.signs(rng, 4, 100)
    seen = np.where(rng.random((4, 100)) < 0.1, -memories, memories)
    assert (seen != memories).any()
    np.testing.assert_array_equal(hopfield.recall(seen, hopfield.store(memories), rng=rng), memories)


def test_the_theory_is_the_fixed_point_of_its_equations() -> None:
    load, m = hopfield.theory()
    assert load[-1] == pytest.approx(0.1379, abs=1e-4)
    alpha, overlap, r = 0.1, 1.0, 1.0
    for _ in range(200):  # the other memories are noise of variance α r, each unit's own field is m
        slope = np.sqrt(2 / (np.pi * alpha * r)) * np.exp(-(overlap**2) / (2 * alpha * r))
        overlap, r = math.erf(overlap / np.sqrt(2 * alpha * r)), 1 / (1 - slope) ** 2
    assert np.interp(alpha, load, m) == pytest.approx(overlap, abs=1e-6)


def test_the_derivative_of_the_energy_has_a_sum_and_a_minus() -> None:
    w, b, states = integers(8)
    a = tg.tensor(states[77].astype("float64"), requires_grad=True)
    slope = tg.grad(hopfield.energy(a, w.astype("float64"), b), a).numpy()
    np.testing.assert_array_equal(slope, -np.array([sum(w[i, j] * states[77, j] for j in range(8)) + b[i] for i in range(8)]))
    check_grads(lambda a: hopfield.energy(a, w.astype("float64"), b), [np.random.default_rng(0).normal(size=8)])


def test_attention_is_a_step_down_the_continuous_energy() -> None:
    rng = np.random.default_rng(1)
    X, xi = rng.normal(size=(5, 7)), rng.normal(size=(3, 7))
    once = hopfield.attend(xi, X, 0.8)
    for query, found in zip(xi, once, strict=True):
        p = np.exp(0.8 * X @ query)
        np.testing.assert_allclose(found, X.T @ (p / p.sum()))
    before, after = (hopfield.continuous_energy(x, X, 0.8) for x in (xi, once))
    assert (after < before).all()


@pytest.mark.slow
def test_digits_are_recalled_and_ten_of_them_only_by_attention(tmp_path: Path) -> None:
    pytest.importorskip("sklearn", reason="scikit-learn carries the digits: pip install -e '.[models]'")
    report = perform(hopfield.noisy_digits, quick=True, out=tmp_path)
    assert report.met
    assert report["all ten digits, Hebb's rule: recalled whole"] < 0.2


@pytest.mark.slow
def test_the_quick_setting_of_the_capacity_reaches_its_bounds(tmp_path: Path) -> None:
    assert perform(hopfield.capacity, quick=True, out=tmp_path).met
