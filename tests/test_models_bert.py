"""models/bert.py: what it claims, on small settings."""

from __future__ import annotations

from pathlib import Path

import killing
import numpy as np
import pytest

from models import bert
from tinygrad_seq import optim, training


def small(causal: bool = False) -> bert.Encoder:
    return bert.Encoder(9, 12, width=8, layers=2, heads=2, causal=causal, rng=np.random.default_rng(0))


def lines(B: int = 40) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return bert.palindromes(8, 12, B, np.random.default_rng(1))


def test_lines_are_palindromes_with_one_gap_in_the_first_half() -> None:
    ids, places, hidden = lines()
    rows = np.arange(40)
    assert ((ids == 8).sum(axis=0) == 1).all()
    assert (ids[places, rows] == 8).all()
    assert (places < 6).all()
    ids[places, rows] = hidden
    assert np.array_equal(ids, ids[::-1])


def test_the_causal_encoder_cannot_know_what_the_other_can() -> None:
    ids, places, _ = lines()
    rows = np.arange(40)
    others = ids.copy()
    others[11 - places, rows] = (ids[11 - places, rows] + 1) % 8  # the mirror image of the gap, always after it
    for causal in (True, False):
        model = small(causal).to(dtype="float64")
        with training.evaluating(model):
            one, other = (model(each).numpy()[places, rows] for each in (ids, others))
        assert np.array_equal(one, other) == causal


def test_before_the_gap_all_symbols_are_equally_likely_whatever_was_read() -> None:
    ids, places, hidden = lines(40_000)
    joint = np.zeros((8, 8))
    np.add.at(joint, (ids[0][places == 1], hidden[places == 1]), 1)
    assert np.abs(joint / joint.sum() - 1 / 64).max() < 0.01  # so 1/8 is the most that a causal encoder can reach


def test_weights_are_those_that_the_layers_use() -> None:
    ids, _, _ = lines(3)
    for causal in (True, False):
        for weights in small(causal).attention(ids):
            assert weights.shape == (3, 2, 12, 12)
            assert np.allclose(weights.sum(-1), 1, atol=1e-6)
            assert (np.triu(weights, 1) == 0).all() == causal


def test_it_learns_a_handful_of_lines_by_heart() -> None:
    model, batch = small(), lines(8)
    adam = optim.AdamW(model.parameters(), lr=2e-2)
    training.fit(model, bert.cloze_loss, adam, [batch], steps=60, progress=False)
    assert bert.filled_in(model, batch) == 1


def test_killed_and_resumed_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    killing.goes_on_to_the_same_bits(bert.cloze, bert.Cloze(width=8, layers=1, steps=10, batch=4), tmp_path)


@pytest.mark.slow
def test_the_quick_setting_reaches_its_bounds(tmp_path: Path) -> None:
    assert killing.perform(bert.cloze, quick=True, out=tmp_path).met
