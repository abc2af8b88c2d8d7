"""The corpus, vocabularies, windows for truncated BPTT, and n-grams counted another way."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from tinygrad_seq import data
from tinygrad_seq.errors import ArgumentError, ShapeError, TinygradError


@pytest.fixture(scope="module")
def text() -> str:
    return data.standard_library_text()


def test_the_corpus_is_this_pythons_library_in_printable_ascii(text):
    assert len(text) > 1_000_000
    assert set(text) <= set("\t\n" + "".join(map(chr, range(32, 127))))
    assert "def dataclass(" in text and "class ArgumentParser(" in text


def test_the_corpus_is_the_same_each_time_and_in_the_order_of_file_names(text):
    assert data.standard_library_text() == text
    assert text.index("class Fraction(") < text.index("class Thread:")  # fractions.py before threading.py


def test_a_python_without_its_library_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    with pytest.raises(TinygradError, match=r"no \*\.py files"):
        data.standard_library_text()


def test_other_characters_are_left_out(tmp_path, monkeypatch):
    (tmp_path / "b.py").write_bytes("x = 'ä'\r\n\f".encode())
    (tmp_path / "a.py").write_bytes(b"\xff# \tfirst\n")
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    assert data.standard_library_text() == "# \tfirst\nx = ''\n"


# ---- Vocabulary ------------------------------------------------------------------------------------------------------------------------


def test_a_vocabulary_is_sorted_and_decodes_what_it_encoded(text):
    vocabulary = data.Vocabulary.of(text)
    assert vocabulary.tokens == sorted(set(text))
    piece = text[5000:9000]
    ids = vocabulary.encode(piece)
    assert ids.dtype == np.int64 and ids.shape == (4000,) and 0 <= ids.min() <= ids.max() < len(vocabulary)
    assert vocabulary.decode(ids) == piece


def test_an_unknown_token_is_an_error_or_stands_for_all_others():
    with pytest.raises(ShapeError, match="'z' is not among its 2 tokens"):
        data.Vocabulary("ab").encode("abz")
    vocabulary = data.Vocabulary("ab", unknown="?")
    assert vocabulary.encode("abz").tolist() == [0, 1, 2]
    assert vocabulary.decode(vocabulary.encode("abz")) == "ab?"
    assert "z" not in vocabulary and "a" in vocabulary and len(vocabulary) == 3


def test_tokens_may_be_words_and_stand_once():
    vocabulary = data.Vocabulary.of("to be or not to be".split())
    assert vocabulary.tokens == ["be", "not", "or", "to"]
    assert vocabulary.encode(["to", "be"]).tolist() == [3, 0]
    with pytest.raises(ArgumentError, match="twice"):
        data.Vocabulary("aa")


def test_the_split_is_by_position():
    ids = np.arange(1000)
    train, test = data.split(ids, held_out=0.05)
    assert train.tolist() == list(range(950)) and test.tolist() == list(range(950, 1000))
    with pytest.raises(ShapeError, match=r"held_out = 1\.5"):
        data.split(ids, 1.5)


# ---- Windows -----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("length", "batch", "steps"), [(101, 4, 5), (100, 3, 7), (50, 1, 10), (9, 8, 3)])
def test_windows_go_on_where_the_one_before_stopped(length, batch, steps):
    ids = np.arange(length)
    windows = list(data.batches_for_tbptt(ids, batch, steps))
    assert all(x.shape == y.shape and x.shape[1] == batch and x.shape[0] <= steps for x, y in windows)
    inputs, targets = (np.concatenate(parts) for parts in zip(*windows, strict=True))
    np.testing.assert_array_equal(targets, inputs + 1)  # the next token
    np.testing.assert_array_equal(inputs[1:], inputs[:-1] + 1)  # each column is one stream without a gap
    assert len(set(inputs.ravel())) == inputs.size > length - 1 - batch  # nothing twice, and hardly anything left out


def test_too_little_text_for_the_batch_says_so():
    with pytest.raises(ShapeError, match="4 tokens, batch = 4"):
        next(data.batches_for_tbptt(np.arange(4), 4, 2))


# ---- n-grams -----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_ngram_bits_equal_counting_with_a_dictionary(order):
    rng = np.random.default_rng(0)
    train, test = rng.choice(5, 400, p=[0.4, 0.3, 0.2, 0.05, 0.05]), rng.integers(0, 6, 60)  # token 5 was never seen
    delta, vocabulary = 0.3, 6
    grams = Counter(tuple(train[i : i + order]) for i in range(len(train) - order + 1))
    contexts: Counter = Counter()
    for gram, times in grams.items():
        contexts[gram[:-1]] += times
    bits = []
    for i in range(len(test) - order + 1):
        gram = tuple(test[i : i + order])
        bits.append(-np.log2((grams[gram] + delta) / (contexts[gram[:-1]] + delta * vocabulary)))
    assert data.ngram_bits(train, test, order, vocabulary, delta) == pytest.approx(np.mean(bits), rel=1e-12)


def test_an_ngram_is_a_distribution_over_the_next_token():
    train = np.random.default_rng(1).integers(0, 4, 200)
    p = [2 ** -data.ngram_bits(train, np.array([2, 1, x]), 3, 4) for x in range(4)]
    assert sum(p) == pytest.approx(1, rel=1e-12)


def test_longer_contexts_predict_the_library_better(text):
    vocabulary = data.Vocabulary.of(text)
    train, test = data.split(vocabulary.encode(text))
    bits = [data.ngram_bits(train, test, order, len(vocabulary)) for order in (1, 2, 3)]
    assert np.log2(len(vocabulary)) > bits[0] > bits[1] > bits[2] > 2


def test_an_order_that_the_text_does_not_have_says_so():
    with pytest.raises(ShapeError, match="order 0"):
        data.ngram_bits(np.arange(5), np.arange(5), 0, 5)
    with pytest.raises(ShapeError, match="order 6"):
        data.ngram_bits(np.arange(5), np.arange(9), 6, 9)
