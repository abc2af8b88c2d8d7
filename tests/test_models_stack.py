"""models/stack.py: what it claims."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from models import stack
from models.experiment import perform


def test_a_float64_holds_26_bits_and_a_fraction_any_number() -> None:
    assert stack.goes_through([1] * 26, 1.0) and stack.goes_through([0] * 26, 1.0)
    assert not stack.goes_through([1] * 27, 1.0)  # 53 digits, two for each bit
    word = np.random.default_rng(0).integers(0, 2, 500).tolist()
    assert stack.goes_through(word, Fraction(1))
    assert not stack.goes_through(word, 1.0)


@pytest.mark.parametrize("one", [1.0, Fraction(1)], ids=["float64", "fractions"])
def test_a_unit_that_does_not_saturate_gives_nothing_back(one: object, monkeypatch: pytest.MonkeyPatch) -> None:
    assert stack.goes_through([1, 0, 1], one)
    monkeypatch.setattr(stack, "neuron", lambda z: z)
    assert not stack.goes_through([1, 0, 1], one)


def test_the_experiment_reaches_its_bounds() -> None:
    assert perform(stack.stack, quick=True, seed=1).met
