"""models/rnn.py: what it claims, on small settings."""

from __future__ import annotations

from pathlib import Path

import killing
import numpy as np

from models import rnn


def test_the_sums_are_sums() -> None:
    xs, targets = rnn.sums(70, 5, np.random.default_rng(0))
    a, b, c = (sum(int(bit) << place for place, bit in enumerate(column)) for column in (xs[:, 3, 0], xs[:, 3, 1], targets[:, 3]))
    assert a + b == c
    assert a.bit_length() > 64 or b.bit_length() > 64


def test_addition_killed_and_resumed_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    killing.goes_on_to_the_same_bits(rnn.addition, rnn.Addition(steps=30, mlp_steps=30), tmp_path)


def test_the_mlp_overfits_its_pairs_and_rejects_one_bit_more(tmp_path: Path) -> None:
    report = killing.perform(rnn.addition, rnn.Addition(steps=5, mlp_steps=1500, long=8), out=tmp_path)
    assert report["MLP 12-48-7: the 50 pairs of 6 bits that it learned"] == 1
    assert report["MLP: rejects 7 bits (1: it raises an error of shape)"] == 1
