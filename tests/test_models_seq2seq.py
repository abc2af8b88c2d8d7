"""models/seq2seq.py: what it claims, on small settings."""

from __future__ import annotations

import itertools
from pathlib import Path

import killing
import numpy as np
import pytest

import tinygrad_seq as tg
from models import seq2seq
from tinygrad_seq import optim


def small(seed: int = 0, sharp: float = 6.0) -> seq2seq.Seq2Seq:
    """Random weights, whose scores differ enough for texts of several lengths to compete."""
    model = seq2seq.Seq2Seq(6, 5, 4, 5, rng=np.random.default_rng(seed))
    with tg.no_grad():
        model.score.weight *= sharp
    return model


def log_p(model: seq2seq.Seq2Seq, source: np.ndarray, text: list[int]) -> float:
    """log P(text | source) from the scores of the whole text at once."""
    scores = model(source, None, np.array([[1, *text[:-1]]]).T).numpy()[:, 0].astype("float64")
    chances = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    return float(sum(np.log(chances[t, y]) for t, y in enumerate(text)))


@pytest.mark.parametrize("seed", range(4))
def test_a_beam_as_wide_as_everything_finds_the_most_probable_of_all_texts(seed: int) -> None:
    model, source = small(seed), np.random.default_rng(seed).integers(0, 6, (5, 1))
    texts = [[*before, 2] for n in range(4) for before in itertools.product([0, 1, 3, 4], repeat=n)]
    best = max(texts, key=lambda text: log_p(model, source, text))
    found = seq2seq.beam(model, source, start=1, end=2, longest=4, width=5**4)[0]
    assert found.tokens == best
    assert abs(found.log_p - log_p(model, source, best)) < 1e-4


def test_a_beam_of_one_is_greedy_and_both_know_how_probable_their_text_is() -> None:
    sources = np.random.default_rng(1).integers(0, 6, (5, 8))
    model = small(1)
    said = seq2seq.greedy(model, sources, None, start=1, end=2, longest=6)
    for b, text in enumerate(said):
        found = seq2seq.beam(model, sources[:, b : b + 1], start=1, end=2, longest=6, width=1)[0]
        assert found.tokens == text.tokens
        assert text.tokens.count(2) <= 1  # <end>, if at all, is the last
        assert 2 not in text.tokens[:-1]
        assert abs(found.log_p - text.log_p) < 1e-4
        assert abs(text.log_p - log_p(model, sources[:, b : b + 1], text.tokens)) < 1e-4


def test_all_that_the_decoder_knows_of_the_source_is_the_last_state() -> None:
    model, rng = small(2), np.random.default_rng(2)
    source, lengths, ys = rng.integers(0, 6, (7, 3)), np.array([7, 3, 5]), rng.integers(0, 5, (4, 3))
    state = model.encode(source, lengths)
    assert [x.shape for x in state] == [(1, 3, 5), (1, 3, 5)]  # of one size, whatever the length of the source
    assert (model.decode(ys, state)[0].numpy() == model(source, lengths, ys).numpy()).all()
    padding = np.where(np.arange(7)[:, None] < lengths, source, 5 - source)
    assert (model(padding, lengths, ys).numpy() == model(source, lengths, ys).numpy()).all()  # encoding ends at <end>


def test_it_learns_a_handful_of_strings_by_heart() -> None:
    batch = seq2seq.reversed_strings([1, 3, 4, 2, 4], 5, np.random.default_rng(3))
    model = seq2seq.Seq2Seq(8, 8, 8, 24, rng=np.random.default_rng(3))
    adam = optim.Adam(model.parameters(), lr=2e-2)
    for _ in range(120):
        adam.zero_grad()
        seq2seq.sequence_loss(model, batch).backward()
        adam.step()
    source, lengths, ys, target_lengths = batch
    said = seq2seq.greedy(model, source, lengths, start=1, end=2, longest=8)
    assert [text.tokens for text in said] == [ys[1:n, b].tolist() for b, n in enumerate(target_lengths)]


def test_strings_are_reversed_and_have_their_ends() -> None:
    source, lengths, ys, target_lengths = seq2seq.reversed_strings([3, 1], 4, np.random.default_rng(4))
    assert source[lengths - 1, [0, 1]].tolist() == [2, 2]
    assert ys[0].tolist() == [1, 1]
    assert ys[1:4, 0].tolist() == source[2::-1, 0].tolist()
    assert (ys[target_lengths - 1, [0, 1]] == 2).all()


def test_numbers_are_different_and_written_in_plain_words() -> None:
    num2words = pytest.importorskip("num2words", reason="numbers in words: pip install -e '.[models]'").num2words
    pairs = seq2seq.number_words(300, np.random.default_rng(5))
    assert len({number for _, number in pairs}) == 300
    assert all(text.isascii() and text.replace(" ", "").isalpha() for text, _ in pairs)
    text, number = max(pairs, key=lambda pair: len(pair[0]))
    assert text.split() == num2words(int(number)).replace(",", "").replace("-", " ").split()


def test_the_drawing_has_the_encoder_then_the_decoder() -> None:
    text = seq2seq.drawing(seq2seq.Seq2Seq(13, 13, 4, 5, rng=np.random.default_rng(6))).dot
    assert text.count("LSTMCell") == 4


def test_translation_killed_and_resumed_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    pytest.importorskip("num2words", reason="numbers in words: pip install -e '.[models]'")
    tiny = seq2seq.NumberWords(numbers=40, held_out=5, embed=5, hidden=6, steps=6, batch=8, width=2)
    killing.goes_on_to_the_same_bits(seq2seq.translation, tiny, tmp_path)
    head, *lines = (tmp_path / "killed" / "numbers.txt").read_text().splitlines()
    assert head.split() == ["number", "greedy", "beam", "in", "words"] and len(lines) == tiny.held_out
    assert lines == (tmp_path / "whole" / "numbers.txt").read_text().splitlines()[1:]


def test_the_bottleneck_killed_and_resumed_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    tiny = seq2seq.Reversal(longest=3, narrow=3, wide=5, embed=4, steps=6, batch=4, tested=5)
    killing.goes_on_to_the_same_bits(seq2seq.bottleneck, tiny, tmp_path)


@pytest.mark.slow
def test_the_quick_setting_of_the_translation_reaches_its_bounds(tmp_path: Path) -> None:
    pytest.importorskip("num2words", reason="numbers in words: pip install -e '.[models]'")
    assert killing.perform(seq2seq.translation, quick=True, out=tmp_path).met


@pytest.mark.slow
def test_the_quick_setting_of_the_bottleneck_reaches_its_bounds(tmp_path: Path) -> None:
    assert killing.perform(seq2seq.bottleneck, quick=True, out=tmp_path).met
