"""models/gru.py: what it claims, on small settings."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import killing
import numpy as np
import pytest

from models import gru
from models.experiment import perform
from tinygrad_seq import optim, training
from tinygrad_seq.nn import functional as F


def sigmoid(a: Any) -> Any:
    return 1 / (1 + np.exp(-a))


def as_the_notes_have_it(name: str, net: Any, xs: Any) -> Any:
    """The states by a loop over times and gates, in the letters of CS540 and CS760."""
    (W_r, W_z, W_n), (U_r, U_z, U_n) = (np.split(w.numpy(), 3) for w in (net.weight_ih_l0, net.weight_hh_l0))
    b_r, b_z, b_n = np.split(net.bias_ih_l0.numpy() + net.bias_hh_l0.numpy(), 3)
    h, hs = np.zeros((xs.shape[1], net.hidden_size)), []
    for x in xs:
        r, z = sigmoid(x @ W_r.T + h @ U_r.T + b_r), sigmoid(x @ W_z.T + h @ U_z.T + b_z)
        g = np.tanh(x @ W_n.T + (r * h) @ U_n.T + b_n)
        h = (1 - z) * h + z * g if name == "CS540" else z * h + (1 - z) * g
        hs.append(h)
    return np.stack(hs)


@pytest.mark.parametrize("name", ["CS540", "CS760"])
def test_a_spelling_is_the_equations_of_its_notes(name: str) -> None:
    rng = np.random.default_rng(0)
    model, xs = gru.NextSymbol(3, 5, rng=rng, dtype="float64", **gru.SPELLINGS[name]), rng.normal(size=(7, 2, 4))
    np.testing.assert_allclose(model.gru(xs)[0].numpy(), as_the_notes_have_it(name, model.gru, xs), rtol=0, atol=1e-14)


def test_what_is_the_same_network_and_what_is_not(tmp_path: Path) -> None:
    assert killing.goes_on_to_the_same_bits(gru.conventions, gru.Conventions(hidden=4, length=6, batch=3, steps=20), tmp_path).met


def test_the_state_of_a_step_has_read_the_symbols_before_it_alone() -> None:
    rng = np.random.default_rng(0)
    model, xs = gru.NextSymbol(3, 5, rng=rng), rng.integers(0, 3, size=(9, 4))
    other = xs.copy()
    other[4:] = (xs[4:] + 1) % 3
    a, b = model.states(xs).numpy(), model.states(other).numpy()
    assert (a[:5] == b[:5]).all()
    assert (a[5:] != b[5:]).any(axis=-1).all()


def test_it_overfits_three_sequences() -> None:
    rng = np.random.default_rng(0)
    model, xs = gru.NextSymbol(3, 16, rng=rng), rng.integers(0, 3, size=(8, 3))
    xs[0] = [0, 1, 2]  # which of the three it is
    adam = optim.Adam(model.parameters(), lr=3e-2)
    training.fit(model, lambda model, xs: F.cross_entropy(model(xs)[1:], xs[1:]), adam, [xs], steps=120, progress=False)
    assert (model(xs).numpy()[1:].argmax(axis=-1) == xs[1:]).all()


# ---- The hidden Markov model --------------------------------------------------------------------------------------------------------------


def random_model(S: int = 3, K: int = 4, seed: int = 0) -> gru.HMM:
    rng = np.random.default_rng(seed)
    return gru.HMM(rng.dirichlet(np.ones(S)), rng.dirichlet(np.ones(S), size=S), rng.dirichlet(np.ones(K), size=S))


def of_all_paths(model: gru.HMM, x: Any) -> dict[tuple[int, ...], float]:
    """P(path, x) of every path of states."""
    found = {}
    for path in itertools.product(range(len(model.start)), repeat=len(x)):
        p = model.start[path[0]] * model.B[path[0], x[0]]
        for t in range(1, len(x)):
            p *= model.A[path[t - 1], path[t]] * model.B[path[t], x[t]]
        found[path] = p
    return found


def test_the_forward_algorithm_is_the_sum_over_all_paths() -> None:
    model = random_model()
    xs = model.sample(6, 4, np.random.default_rng(1))
    logs, beliefs = model.forward(xs)
    for n, x in enumerate(xs.T):
        paths = of_all_paths(model, x)
        assert logs[:, n].sum() == pytest.approx(np.log(sum(paths.values())), abs=1e-12)
        assert model.brute_force(x) == pytest.approx(np.log(sum(paths.values())), abs=1e-12)
        for s in range(3):
            share = sum(p for path, p in paths.items() if path[-1] == s) / sum(paths.values())
            assert beliefs[-1, n, s] == pytest.approx(share, abs=1e-12)


def test_a_step_of_baum_welch_counts_what_all_paths_count() -> None:
    model, before = random_model(), random_model()
    xs = model.sample(5, 3, np.random.default_rng(2))
    start, moves, seen = np.zeros(3), np.zeros((3, 3)), np.zeros((3, 4))
    for x in xs.T:
        paths = of_all_paths(before, x)
        total = sum(paths.values())
        for path, p in paths.items():
            start[path[0]] += p / total
            for t in range(5):
                seen[path[t], x[t]] += p / total
                if t:
                    moves[path[t - 1], path[t]] += p / total
    model.improve(xs)
    np.testing.assert_allclose(model.start, start / 3, atol=1e-12)
    np.testing.assert_allclose(model.A, moves / moves.sum(axis=1, keepdims=True), atol=1e-12)
    np.testing.assert_allclose(model.B, seen / seen.sum(axis=1, keepdims=True), atol=1e-12)


def test_baum_welch_never_makes_the_symbols_less_likely() -> None:
    xs = gru.TRUE.sample(30, 20, np.random.default_rng(3))
    model = random_model(2, 3, seed=4)
    nats = [model.improve(xs) for _ in range(30)]
    assert (np.diff(nats) < 1e-12).all()
    assert nats[-1] < nats[0]


def test_samples_have_the_frequencies_of_the_model() -> None:
    xs = gru.TRUE.sample(50, 2000, np.random.default_rng(5))
    start, A, B = gru.TRUE.start, gru.TRUE.A, gru.TRUE.B
    np.testing.assert_allclose(start @ A, start, atol=1e-12)  # so that all times are alike
    np.testing.assert_allclose(np.bincount(xs.ravel()) / xs.size, start @ B, atol=0.01)
    pairs = np.zeros((3, 3))
    np.add.at(pairs, (xs[:-1].ravel(), xs[1:].ravel()), 1)
    np.testing.assert_allclose(pairs / pairs.sum(), B.T @ np.diag(start) @ A @ B, atol=0.01)


def test_markov_killed_and_resumed_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    small = gru.Markov(hidden=3, sequences=20, length=12, rounds=10, steps=20, batch=8)
    killing.goes_on_to_the_same_bits(gru.markov, small, tmp_path)


@pytest.mark.slow
def test_the_quick_setting_reaches_what_it_has_to(tmp_path: Path) -> None:
    assert perform(gru.markov, quick=True, out=tmp_path).met
