"""models/control.py: what it claims, on small settings."""

from __future__ import annotations

from pathlib import Path

import killing
import numpy as np
import pytest

import tinygrad_seq as tg
from models import control
from models.experiment import perform
from tinygrad_seq import nn, optim

# ---- Claims of structure --------------------------------------------------------------------------------------------------------------------


def test_the_pole_moves_by_the_equations_of_its_docstring_and_the_gradient_goes_through_them() -> None:
    rng = np.random.default_rng(0)
    pole = control.Pole(3, rng=rng)
    gusts = rng.normal(size=(6, 1, 1)).astype("float32")
    angle, speed, h = 0.1, -0.2, np.zeros(3)
    w, u, bw, bu, v, c = (p.numpy().astype("float64") for p in pole.parameters())
    path = []
    for gust in gusts[:, 0, 0]:
        h = np.tanh(w[:, 0] * angle + u @ h + bw + bu)
        speed += 0.05 * (10 * np.sin(angle) + 10 * float(v[0] @ h + c[0]) + gust)
        angle += 0.05 * speed
        path.append(angle)
    start = (np.full((1, 1, 1), 0.1, "float32"), np.full((1, 1, 1), -0.2, "float32"), np.zeros((1, 1, 3), "float32"))
    angles, _ = nn.Recurrent(pole, 1)(gusts, start)
    np.testing.assert_allclose(angles.numpy()[:, 0, 0], path, rtol=1e-4)
    (angles[-1] ** 2).sum().backward()
    assert all(abs(p.grad.numpy()).max() > 0 for p in pole.parameters())


def test_a_push_that_knows_the_angle_alone_cannot_damp() -> None:
    """A step of angle and speed keeps areas, its determinant is 1, where the push is a function of the angle: whatever the function."""
    for seed in range(3):
        rng = np.random.default_rng(seed)
        pole = control.Pole(3, remembers=False, rng=rng).to(dtype="float64")

        def step(state, pole=pole):
            angle, speed, _ = pole(np.zeros((1, 1)), (state[:1, None], state[1:, None], np.full((1, 3), 0.5)))
            return tg.concatenate([angle, speed], axis=0)[:, 0]

        J = tg.jacobian(step, 0.2 * rng.normal(size=2))
        assert np.linalg.det(np.asarray(J)) == pytest.approx(1, abs=1e-12)


# ---- Training -------------------------------------------------------------------------------------------------------------------------------


def test_it_learns_a_handful_of_gusts_by_heart() -> None:
    rng = np.random.default_rng(1)
    model = nn.Recurrent(control.Pole(8, rng=rng), 1)
    start = (*rng.uniform(-0.2, 0.2, (2, 1, 4, 1)).astype("float32"), np.zeros((1, 4, 8), "float32"))
    gusts = rng.normal(size=(30, 4, 1)).astype("float32")
    adam, losses = optim.Adam(model.parameters(), lr=1e-2), []
    for _ in range(200):
        loss = (model(gusts, start)[0] ** 2).mean()
        adam.zero_grad()
        loss.backward()
        optim.clip_grad_norm_(model.parameters(), 1.0)
        adam.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 100  # untrained, the poles fall


def test_killed_and_resumed_it_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    killing.goes_on_to_the_same_bits(control.control, control.Control(steps=20, long=20), tmp_path)


@pytest.mark.slow
def test_the_quick_setting_reaches_its_bounds(tmp_path: Path) -> None:
    assert perform(control.control, quick=True, out=tmp_path).met
