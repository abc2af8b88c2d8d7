"""models/bidirectional.py: what it claims, on small settings."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import killing
import numpy as np
import pytest

import tinygrad_seq as tg
from models import bidirectional
from models.experiment import perform
from tinygrad_seq import nn, optim, training
from tinygrad_seq.nn import functional as F


def test_the_labels_are_what_the_rules_say() -> None:
    for rule, said in [
        (bidirectional.majority, lambda a, b, c: sorted([a, b, c])[1]),
        (bidirectional.either, lambda a, b, c: int(a) ^ int(c)),
    ]:
        xs, labels = bidirectional.labelled(rule, 6, 5, np.random.default_rng(0))
        assert xs.shape == (6, 5, 1)
        for t, b in np.ndindex(4, 5):
            assert labels[t, b] == said(*xs[t : t + 3, b, 0])


def test_the_best_without_the_future() -> None:
    assert bidirectional.best_without_future(bidirectional.majority) == 0.75
    assert bidirectional.best_without_future(bidirectional.either) == 0.5


def test_two_chains_are_two_loops() -> None:
    rng = np.random.default_rng(0)
    tagger, xs = bidirectional.Tagger(2, 3, bidirectional=True, rng=rng), rng.normal(size=(5, 4, 2)).astype("float32")
    w = {name: array.numpy().astype("float64") for name, array in tagger.named_parameters()}

    def chain(xs: Any, ending: str) -> Any:
        h, hs = np.zeros((4, 3)), []
        for x in xs:
            inputs = x @ w[f"rnn.weight_ih_l0{ending}"].T + w[f"rnn.bias_ih_l0{ending}"]
            h = np.tanh(inputs + h @ w[f"rnn.weight_hh_l0{ending}"].T + w[f"rnn.bias_hh_l0{ending}"])
            hs.append(h)
        return np.stack(hs)

    both = np.concatenate([chain(xs, ""), chain(xs[::-1], "_reverse")[::-1]], axis=-1)
    (v, c) = (array.numpy() for array in tagger.read.parameters())
    np.testing.assert_allclose(tagger(xs).numpy(), (both @ v.T + c)[..., 0], atol=1e-6)


def test_one_direction_does_not_depend_on_the_future_to_the_last_bit() -> None:
    report = perform(bidirectional.directions, bidirectional.Directions(hidden=4, length=6))
    assert report.met
    assert report["one direction: greatest change of an output, all later inputs changed"] == 0


@pytest.mark.parametrize("kind", [nn.RNN, nn.LSTM, nn.GRU])
@pytest.mark.parametrize("hidden", [0, 5])
def test_past_and_future_are_only_added_unless_the_read_out_has_a_hidden_layer(kind: Any, hidden: int) -> None:
    rng = np.random.default_rng(hidden)
    tagger = bidirectional.Tagger(1, 6, bidirectional=True, hidden=hidden, rng=rng)
    tagger.rnn = kind(1, 6, bidirectional=True, rng=rng)
    with tg.no_grad():
        for weight in tagger.parameters():
            weight[...] = 3 * weight.numpy()  # far from linear
    xs, _ = bidirectional.labelled(bidirectional.either, 8, 20, rng)
    four = bidirectional.of_four(tagger, xs, 4)
    apart = np.abs(four[0] - four[1] - four[2] + four[3]).max()
    assert apart > 1e-3 if hidden else apart < 1e-5


def test_a_sum_is_right_in_three_of_four_cases_at_most_and_no_better_than_even_odds() -> None:
    rng = np.random.default_rng(0)
    f, g = rng.normal(size=(2, 5000, 2)) * 4
    scores = np.stack([f[:, a] + g[:, b] for a, b in itertools.product([0, 1], repeat=2)])  # (4, 5000)
    targets = np.array([0.0, 1.0, 1.0, 0.0])[:, None] + 0 * scores
    assert ((scores > 0) == (targets > 0.5)).sum(axis=0).max() == 3
    losses = F.binary_cross_entropy_with_logits(scores, targets, reduction="none").mean(axis=0)
    assert losses.min() >= math.log(2)


def test_it_overfits_a_handful_of_sequences() -> None:
    rng = np.random.default_rng(0)
    tagger = bidirectional.Tagger(1, 16, bidirectional=True, hidden=16, rng=rng)
    xs = rng.integers(0, 2, size=(8, 4, 1)).astype("float32")
    labels = rng.integers(0, 2, size=(6, 4)).astype("float32")  # no rule at all
    adam = optim.Adam(tagger.parameters(), lr=3e-2)
    training.fit(tagger, bidirectional.tags_loss, adam, [(xs, labels)], steps=150, progress=False)
    assert bidirectional.share_right(tagger, xs, labels) == 1


@pytest.mark.parametrize(("kind", "both"), [(nn.RNN, False), (nn.GRU, False), (nn.LSTM, True)])
def test_a_reader_of_rows_overfits_a_handful_of_pictures(kind: Any, both: bool) -> None:
    rng = np.random.default_rng(0)
    images, labels = rng.random((6, 8, 8)).astype("float32"), np.arange(6)
    reader = bidirectional.RowReader(kind, 16, bidirectional=both, rng=rng)
    adam = optim.Adam(reader.parameters(), lr=3e-2)
    training.fit(reader, bidirectional.classes_loss, adam, [(images, labels)], steps=80, progress=False)
    assert (reader(images).numpy().argmax(axis=1) == labels).all()
    if not both:
        assert (reader.after_each_row(images).numpy()[:, -1] == reader(images).numpy()).all()


def test_majority_killed_and_resumed_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    small = bidirectional.Neighbours(hidden=3, length=6, steps=20, batch=4, sequences=20)
    killing.goes_on_to_the_same_bits(bidirectional.neighbours, small, tmp_path)


@pytest.mark.slow
def test_majority_reaches_what_it_has_to_in_the_quick_setting(tmp_path: Path) -> None:
    assert perform(bidirectional.neighbours, quick=True, out=tmp_path).met


@pytest.mark.slow
def test_rows_killed_and_resumed_go_on_to_the_same_bits(tmp_path: Path) -> None:
    pytest.importorskip("sklearn", reason="scikit-learn: pip install -e '.[models]'")
    killing.goes_on_to_the_same_bits(bidirectional.rows, bidirectional.Rows(hidden=4, epochs=1), tmp_path)


@pytest.mark.slow
def test_rows_reach_what_they_have_to_in_the_quick_setting(tmp_path: Path) -> None:
    pytest.importorskip("sklearn", reason="scikit-learn: pip install -e '.[models]'")
    assert perform(bidirectional.rows, quick=True, out=tmp_path).met
