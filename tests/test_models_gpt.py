"""models/gpt.py: what it claims, on small settings."""

from __future__ import annotations

import datetime
import itertools
from collections import Counter
from pathlib import Path

import killing
import numpy as np
import pytest

from models import gpt
from tinygrad_seq import optim, training


def small(V: int = 11, T: int = 13, seed: int = 0) -> gpt.GPT:
    return gpt.GPT(V, T, width=8, layers=2, heads=2, rng=np.random.default_rng(seed))


def test_with_the_cache_it_writes_what_it_writes_by_reading_all_again() -> None:
    model, prompt = small(), np.random.default_rng(0).integers(11, size=(5, 4))
    ids = prompt
    with training.evaluating(model):
        for _ in range(8):
            ids = np.concatenate([ids, model(ids).numpy()[-1:].argmax(-1)])
    assert np.array_equal(model.write(prompt, 8), ids[5:])


def test_symbols_to_come_do_not_change_what_is_said_before_by_a_bit() -> None:
    model, rng = small(T=40).to(dtype="float64"), np.random.default_rng(0)
    ids = rng.integers(11, size=(40, 3))
    others = np.concatenate([ids[:20], rng.integers(11, size=(20, 3))])
    with training.evaluating(model):
        one, other = model(ids).numpy(), model(others).numpy()
    assert np.array_equal(one[:20], other[:20])
    assert not np.array_equal(one[20:], other[20:])


def test_drawn_symbols_have_the_probabilities_of_the_softmax() -> None:
    scores = np.array([0.0, 1.0, -1.0])
    drawn = gpt.chosen(np.tile(scores, (40_000, 1)), 0.5, np.random.default_rng(0))
    p = np.exp(scores / 0.5) / np.exp(scores / 0.5).sum()
    assert np.abs(np.bincount(drawn, minlength=3) / 40_000 - p).max() < 0.01
    assert gpt.chosen(scores, 0.0, None) == 1
    assert len({int(gpt.chosen(scores, 1.0, None)) for _ in range(50)}) > 1


def test_the_weights_of_a_figure_are_those_of_causal_attention() -> None:
    heads = gpt.attention_weights(small(), np.arange(7))
    assert list(heads) == [f"layer {n}, head {k}" for n in (1, 2) for k in (1, 2)]
    for weights in heads.values():
        assert weights.shape == (7, 7)
        assert np.allclose(weights.sum(-1), 1, atol=1e-6)
        assert (np.triu(weights, 1) == 0).all()


def test_it_learns_a_handful_of_lines_by_heart() -> None:
    lines, model = gpt.reversals(4, 6, np.random.default_rng(0)), small(T=9)
    adam = optim.AdamW(model.parameters(), lr=2e-2)
    training.fit(model, gpt.next_symbol_loss(4), adam, [lines], steps=80, progress=False)
    assert np.array_equal(model.write(lines[:5], 4), lines[5:])


def test_lines_are_reversed() -> None:
    for line in gpt.reversals(10, 20, np.random.default_rng(0)).T.tolist():
        assert line[10] == 10
        assert line[:10] == line[:10:-1]


def test_a_made_up_line_is_judged_by_the_calendar() -> None:
    pytest.importorskip("babel", reason="formats of dates: pip install -e '.[models]'")
    assert gpt.is_true("thursday, march 12, 1998>1998-03-12")
    assert not gpt.is_true("friday, march 12, 1998>1998-03-12")
    assert gpt.is_true("friday, march 12, 1998>1998-03-12", weekday=False)
    for false in (
        "march 12, 1998>1998-03-13",
        "march 12, 1998>19980312",
        "march 12, 1998",
        "30 feb 1998>1998-02-30",
        ">1998-03-12",
    ):
        assert not gpt.is_true(false, weekday=False)
    found = gpt.dates.load(200, np.random.default_rng(0))
    assert all(gpt.is_true(f"{written}>{iso}") for written, iso in zip(*found, strict=True))
    assert {datetime.date.fromisoformat(iso).year for iso in found.iso} <= set(range(1970, 2026))


def test_lines_of_dates_end_at_one_place_and_are_one_text() -> None:
    found = gpt.dates.Dates(["3/12/98", "12 mar 1998"], ["1998-03-12", "1998-03-12"])
    vocabulary, lines = gpt.date_lines(found)
    assert vocabulary.decode(lines[:, 0]) == "\n" * 5 + "3/12/98>1998-03-12"
    assert vocabulary.decode(gpt.as_stream(lines, vocabulary)) == "\n3/12/98>1998-03-12\n12 mar 1998>1998-03-12"


def test_no_reader_of_examples_can_do_better_than_the_bound() -> None:
    K, n = 3, 2
    answers: dict[object, Counter[int]] = {}  # what was read -> how often each answer is right, over all lines that there are
    for meaning in itertools.product(range(K), repeat=K):
        for letters in itertools.product(range(K), repeat=n):
            for asked in range(K):
                read = tuple((letter, meaning[letter]) for letter in letters), asked
                answers.setdefault(read, Counter())[meaning[asked]] += 1
    best = sum(max(found.values()) for found in answers.values()) / sum(found.total() for found in answers.values())
    seen = 1 - (1 - 1 / K) ** n
    assert best == pytest.approx(seen + (1 - seen) / K)


def test_examples_show_what_the_answer_is() -> None:
    lines = gpt.lookups(8, 16, 500, np.random.default_rng(0))
    shown, asked, answer = lines[:-2], lines[-2] - 64, lines[-1] - 72
    for column in range(500):
        values = {int(pair) % 8 for pair in shown[:, column] if pair // 8 == asked[column]}
        assert values <= {int(answer[column])}


def test_killed_and_resumed_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    killing.goes_on_to_the_same_bits(gpt.reversal, gpt.Reversal(digits=3, width=8, layers=1, steps=10, batch=4), tmp_path / "a")
    killing.goes_on_to_the_same_bits(gpt.prompting, gpt.Lookup(width=8, layers=1, steps=10, batch=4), tmp_path / "b")


def test_dates_killed_and_resumed_go_on_to_the_same_bits(tmp_path: Path) -> None:
    pytest.importorskip("babel", reason="formats of dates: pip install -e '.[models]'")
    tiny = gpt.DateLines(lines=60, held_out=10, width=8, layers=1, heads=2, steps=10, batch=4)
    killing.goes_on_to_the_same_bits(gpt.date_model, tiny, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [gpt.reversal, gpt.prompting], ids=lambda kind: kind.task)
def test_the_quick_setting_reaches_its_bounds(kind: killing.Experiment, tmp_path: Path) -> None:
    assert killing.perform(kind, quick=True, out=tmp_path).met


@pytest.mark.slow
def test_the_quick_setting_of_dates_reaches_its_bounds(tmp_path: Path) -> None:
    pytest.importorskip("babel", reason="formats of dates: pip install -e '.[models]'")
    assert killing.perform(gpt.date_model, quick=True, out=tmp_path).met
