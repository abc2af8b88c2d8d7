"""models/linear_systems.py: what it claims, on small settings, against what is computed another way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models import linear_systems as systems
from models.experiment import perform

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


@pytest.mark.slow
@pytest.mark.parametrize("kind", systems.EXPERIMENTS, ids=lambda kind: kind.task)
def test_the_quick_setting_reaches_its_bounds(kind: Any, tmp_path: Path) -> None:
    assert perform(kind, quick=True, out=tmp_path).met
