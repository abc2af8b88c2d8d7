"""models/ctc.py: what it claims, on small settings."""

from __future__ import annotations

import itertools
from pathlib import Path

import killing
import numpy as np
import pytest

import tinygrad_seq as tg
from models import ctc
from models.experiment import perform
from tinygrad_seq import optim, training
from tinygrad_seq.nn import functional as F


def some(rng, rows=((3, 1, 3), (7,), (1, 2)), D=4):
    """Strings whose symbols can be seen: three frames each of a vector of its own, with an empty frame between."""
    codes = rng.normal(size=(10, D)) * 2
    return ctc.strings([(np.concatenate([np.vstack([codes[[k] * 3], np.zeros((1, D))]) for k in row]), row) for row in rows])


def test_the_loss_is_the_sum_over_all_paths_on_four_frames():
    assert ctc.against_all_paths(np.random.default_rng(1)) < 1e-12


def test_a_reader_overfits_a_handful_of_strings():
    rng = np.random.default_rng(0)
    batch = some(rng)
    assert batch.targets == [[4, 2, 4], [8], [2, 3]]
    reader = ctc.Reader(4, 8, 11, dropout=0.0, rng=rng)
    adam = optim.Adam(reader.parameters(), lr=5e-2)
    history = training.fit(reader, ctc.ctc, adam, [batch], steps=60, progress=False)
    assert history.losses[-1] < 0.05
    assert ctc.label_error_rate(reader, batch) == (0, 1)


def test_the_gradient_of_the_scores_is_y_minus_gamma_and_that_of_the_edit_distance_is_nothing():
    """With d/do the loss behind a log softmax; γ by its definition, from all paths of four frames."""
    rng = np.random.default_rng(2)
    scores, read = rng.normal(size=(4, 1, 3)), [2, 1]
    y = np.exp(F.log_softmax(scores))[:, 0]
    gamma = np.zeros((4, 3))
    for path in itertools.product(range(3), repeat=4):
        if F.collapse(path) == read:
            for t, k in enumerate(path):
                gamma[t, k] += np.prod([y[s, j] for s, j in enumerate(path)])
    o = tg.tensor(scores, requires_grad=True)
    F.ctc_loss(F.log_softmax(o), [read], [4], [2], reduction="sum").backward()
    np.testing.assert_allclose(o.grad.numpy()[:, 0], y - gamma / gamma.sum(axis=1, keepdims=True), atol=1e-12)

    def distance(scores):
        return F.edit_distance(F.ctc_greedy_decode(scores)[0], read)

    for place in np.ndindex(scores.shape):
        step = np.zeros_like(scores)
        step[place] = 1e-6
        assert distance(scores + step) == distance(scores - step) == distance(scores)


def test_what_a_row_reads_does_not_depend_on_the_padding_beside_it():
    rng = np.random.default_rng(3)
    batch = some(rng)
    reader = ctc.Reader(4, 5, 11, dropout=0.0, rng=rng)
    with training.evaluating(reader):
        together = reader(batch.xs, batch.frames).numpy()
        for b, n in enumerate(batch.frames):
            alone = reader(batch.xs[:n, b : b + 1], [n]).numpy()
            np.testing.assert_allclose(together[:n, b], alone[:, 0], rtol=1e-5, atol=1e-6)


def test_a_string_is_its_digits_and_gaps():
    rng = np.random.default_rng(4)
    source = ctc.digits.Digits(np.arange(1, 11, dtype="float32")[:, None, None] * np.ones((1, 8, 8), "float32"), np.arange(10))
    columns, labels = ctc.digit_string(source, 3, 2, rng, shifted=False)
    pixels = columns * 0.37 + 0.3
    full = pixels[pixels.any(axis=1) & (pixels.max(axis=1) > 0.5)]
    np.testing.assert_allclose(full, np.repeat(labels + 1, 8)[:, None] * np.ones(8), rtol=1e-5)
    assert 24 <= len(columns) <= 24 + 4 * 2


def test_a_pen_lifts_once_for_every_stroke_and_ends_where_the_letter_does():
    moves = ctc.written([ctc.LETTERS.index("H"), ctc.LETTERS.index("L")], 0.0, np.random.default_rng(5))
    assert moves[:, 2].sum() == 3 + 1
    assert np.all(moves[0, :2] == 0)
    places = moves[:, :2].cumsum(axis=0) / 4
    assert places[-1, 1] == pytest.approx(-1, abs=1e-5)  # from the top left of H to the foot of L


def test_reading_killed_and_resumed_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    killing.goes_on_to_the_same_bits(ctc.pen, ctc.Pen(hidden=4, steps=12, batch=2, test=3), tmp_path)


def test_digits_killed_and_resumed_go_on_to_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sklearn", reason="digits come from scikit-learn: pip install -e '.[models]'")
    monkeypatch.setattr(ctc, "told_where", lambda *_: 0.0)  # it takes longer than all the rest
    tiny = ctc.DigitStrings(hidden=4, steps=12, batch=2, test=4, searched=2, beam=2)
    killing.goes_on_to_the_same_bits(ctc.digit_strings, tiny, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ctc.EXPERIMENTS, ids=lambda kind: kind.task)
def test_the_quick_setting_reaches_what_it_has_to(kind, tmp_path: Path) -> None:
    pytest.importorskip("sklearn", reason="digits come from scikit-learn: pip install -e '.[models]'")
    report = perform(kind, quick=True, out=tmp_path)
    assert report.met, report.results
