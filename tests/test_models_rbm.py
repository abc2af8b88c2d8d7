"""models/rbm.py: what it claims, on small settings, beside the machine of models/boltzmann.py, which may have all links."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import killing
import numpy as np
import pytest

import tinygrad_seq as tg
from models import boltzmann
from models import rbm as machines
from models.experiment import perform
from tinygrad_seq import optim


def tiny(seed: int = 0) -> tuple[Any, Any]:
    """A machine of 4 and 3 units, and data."""
    rng = np.random.default_rng(seed)
    model = machines.RBM(rng.uniform(0.2, 0.8, 4), 3, rng=rng)
    return model, rng.integers(0, 2, (5, 4)).astype("float64")


def test_a_restricted_machine_is_a_machine_without_links_in_a_layer() -> None:
    rbm, _ = tiny()
    w = np.zeros((7, 7))
    w[:4, 4:] = rbm.w.numpy()
    joint = np.exp(boltzmann.log_p(w, np.concatenate([rbm.b.numpy(), rbm.c.numpy()]), 4))
    v, h = machines.all_states(4), machines.all_states(3)
    weight = np.exp(-rbm.free_energy(v).numpy())
    np.testing.assert_allclose(joint.sum(1), weight / weight.sum())  # exp(-F(v)) is what a sum over h gives
    np.testing.assert_allclose(joint @ h / joint.sum(1, keepdims=True), rbm.hidden(v).numpy())
    np.testing.assert_allclose(joint.T @ v / joint.sum(0)[:, None], rbm.visible(h).numpy())
    p = rbm.hidden(v).numpy()[:, None]
    np.testing.assert_allclose(
        joint / joint.sum(1, keepdims=True), np.where(h == 1, p, 1 - p).prod(-1)
    )  # independent of each other


def test_the_gradient_of_the_likelihood_of_a_tiny_one_is_exact() -> None:
    rbm, v = tiny()
    exact = tg.grad(machines.likelihood(rbm, v), rbm.w).numpy()
    np.testing.assert_allclose(exact, machines.tiny_rule(rbm, v), atol=1e-14)
    c = rbm.c.numpy()

    def by_array(w: Any) -> float:
        free, states = (-(x @ rbm.b.numpy()) - np.log1p(np.exp(c + x @ w)).sum(1) for x in (v, machines.all_states(4)))
        return float(free.mean() + np.log(np.exp(-states).sum()))

    np.testing.assert_allclose(boltzmann.differences(by_array, rbm.w.numpy()), exact, atol=1e-8)


def test_the_gradient_of_contrastive_divergence_is_that_of_its_equation() -> None:
    rbm, v = tiny()
    state = tg.random.get_state(rbm.rng)
    tape = tg.grad(machines.contrast(rbm, v), rbm.w).numpy()
    tg.random.set_state(state, rbm.rng)
    made = rbm.gibbs(v)
    np.testing.assert_allclose(tape, (made.T @ rbm.hidden(made).numpy() - v.T @ rbm.hidden(v).numpy()) / len(v), atol=1e-14)


def test_a_restricted_machine_learns_a_handful_by_heart() -> None:
    rng = np.random.default_rng(0)
    v = rng.integers(0, 2, (4, 16)).astype("float32")
    rbm = machines.RBM(np.full(16, 0.5, "float32"), 20, rng=rng)
    sgd = optim.SGD(rbm.parameters(), lr=0.2, momentum=0.5)
    for _ in range(250):
        sgd.zero_grad()
        machines.contrast(rbm, v).backward()
        sgd.step()
    assert ((rbm.gibbs(v) > 0.5) == v).all()


@pytest.mark.slow
def test_the_restricted_machine_killed_and_resumed_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    pytest.importorskip("sklearn", reason="scikit-learn carries the digits: pip install -e '.[models]'")
    killing.goes_on_to_the_same_bits(machines.rbm, machines.Digits(hidden=5, steps=12, batch=10, chain=2), tmp_path)


@pytest.mark.slow
def test_the_quick_setting_reaches_its_bounds(tmp_path: Path) -> None:
    pytest.importorskip("sklearn", reason="scikit-learn carries the digits: pip install -e '.[models]'")
    assert perform(machines.rbm, quick=True, out=tmp_path).met
