"""The corpus, vocabularies, padding, windows for truncated BPTT, and n-grams counted another way."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_seq as tg
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


def test_words_are_split_from_punctuation_and_joined_by_spaces():
    text = "It's late, isn't it?\n\tWell-known words: 3."
    assert data.words(text) == ["It's", "late", ",", "isn't", "it", "?", "Well-known", "words", ":", "3", "."]
    vocabulary = data.Vocabulary.of(text, kind="words")
    ids = vocabulary.encode(text)
    assert vocabulary.decode(ids) == "It's late , isn't it ? Well-known words : 3 ."
    assert vocabulary.encode(["late", "it"]).tolist() == [vocabulary.index["late"], vocabulary.index["it"]]


@given(st.text(max_size=60))
def test_decoding_loses_nothing_of_characters_and_of_words_only_the_spaces(text):
    characters = data.Vocabulary.of(text)
    assert characters.decode(characters.encode(text)) == text
    words = data.Vocabulary.of(text, kind="words")
    assert data.words(words.decode(words.encode(text))) == data.words(text)


def test_rare_tokens_are_left_out_and_counted_for_the_unknown_one():
    text = "a" * 5 + "b" * 3 + "c" * 3 + "d"
    assert data.Vocabulary.of(text, "?", min_count=2).tokens == ["a", "b", "c", "?"]
    vocabulary = data.Vocabulary.of(text, "?", max_size=4, padding="_")
    assert vocabulary.tokens == ["_", "a", "b", "?"]
    assert vocabulary.counts == {"_": 0, "a": 5, "b": 3, "?": 4}
    assert vocabulary.decode(vocabulary.encode("abcd")) == "ab??"
    with pytest.raises(ShapeError, match="room for the 2 special tokens"):
        data.Vocabulary.of(text, "?", max_size=1, padding="_")


def test_special_tokens_stand_first_and_can_be_put_around_and_left_out():
    vocabulary = data.Vocabulary.of("to be or not", "<unknown>", kind="words", padding="<pad>", start="<start>", end="<end>")
    assert vocabulary.tokens == ["<pad>", "<start>", "<end>", "be", "not", "or", "to", "<unknown>"]
    ids = vocabulary.encode("to see", start=True, end=True)
    assert ids.tolist() == [1, 6, 7, 2] and ids.dtype == np.int64
    assert vocabulary.decode([*ids, 0, 0], specials=False) == "to <unknown>"
    assert vocabulary.decode([*ids, 0]) == "<start> to <unknown> <end> <pad>"
    with pytest.raises(ArgumentError, match='it has no end token(?s:.*)end="<end>"'):
        data.Vocabulary("ab").encode("a", end=True)


def test_a_vocabulary_survives_json_and_a_file(tmp_path):
    vocabulary = data.Vocabulary.of("to be or not to be", "?", kind="words", min_count=2, padding="_")
    assert data.Vocabulary.from_dict(json.loads(json.dumps(vocabulary.to_dict()))) == vocabulary
    tg.save(vocabulary.to_dict(), tmp_path / "words.safetensors")
    again = data.Vocabulary.from_dict(tg.load(tmp_path / "words.safetensors"))
    assert again == vocabulary != data.Vocabulary("ab")
    assert again.encode("be not").tolist() == vocabulary.encode("be not").tolist()
    with pytest.raises(ArgumentError, match=r"what to_dict\(\) gave"):
        data.Vocabulary.from_dict({"tokens": []})


def test_what_a_vocabulary_does_not_have_says_so():
    with pytest.raises(ArgumentError, match="'characters' or 'words'"):
        data.Vocabulary("ab", kind="letters")
    with pytest.raises(ArgumentError, match="'characters' or 'words'"):
        data.Vocabulary.of("ab", kind="letters")
    for wrong in (2, -1):
        with pytest.raises(ShapeError, match=f"no token {wrong}"):
            data.Vocabulary("ab").decode([wrong])


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
    windows = list(data.Streams(ids, batch, steps))
    assert all(x.shape == y.shape and x.shape[1] == batch and x.shape[0] <= steps for x, y in windows)
    inputs, targets = (np.concatenate(parts) for parts in zip(*windows, strict=True))
    np.testing.assert_array_equal(targets, inputs + 1)  # the next token
    np.testing.assert_array_equal(inputs[1:], inputs[:-1] + 1)  # each column is one stream without a gap
    assert len(set(inputs.ravel())) == inputs.size > length - 1 - batch  # nothing twice, and hardly anything left out


def test_too_little_text_for_the_batch_says_so():
    with pytest.raises(ShapeError, match="4 tokens, batch = 4"):
        data.Streams(np.arange(4), 4, 2)


def test_streams_may_have_vectors_and_targets_of_their_own():
    xs, ys = np.arange(40.0).reshape(20, 2), np.arange(20) * 10
    streams = data.Streams(xs, 2, 4, targets=ys)
    assert len(streams) == 3
    inputs, targets = (np.concatenate(parts) for parts in zip(*streams, strict=True))
    assert inputs.shape == (10, 2, 2)
    np.testing.assert_array_equal(inputs[:, 1], xs[10:])
    np.testing.assert_array_equal(targets[:, 0], ys[:10])
    with pytest.raises(ShapeError, match="20 moments and 3 targets"):
        data.Streams(xs, 2, 4, targets=ys[:3])


@given(st.integers(5, 40), st.integers(1, 4), st.integers(1, 6), st.integers(0, 12))
def test_streams_go_on_from_every_position(length, batch, steps, stop):
    def run(streams, epochs):
        for _ in range(epochs):
            for x, y in streams:
                yield x.tolist(), y.tolist(), json.dumps(streams.state_dict())
            yield streams.epoch, None, json.dumps(streams.state_dict())

    whole = list(run(data.Streams(np.arange(length), batch, steps), 3))
    stop = min(stop, len(whole) - 2)
    resumed = data.Streams(np.arange(length), batch, steps)
    resumed.load_state_dict(json.loads(whole[stop][2]))
    rest = whole[stop + 1 :]
    assert list(run(resumed, 3))[: len(rest)] == rest


def test_streams_read_numbers():
    with pytest.raises(ArgumentError, match=r"vocabulary\.encode\(text\)"):
        data.Streams("she sells sea shells", 2, 4)
    assert [x.tolist() for x, _ in data.Streams(range(5), 2, 4)] == [[[0, 2], [1, 3]]]


def test_streams_left_early_begin_at_the_front():
    streams = data.Streams(list(range(9)), 2, 1)
    first = [next(iter(streams))[0].tolist() for _ in range(2)]
    assert first == [[[0, 4]]] * 2 and streams.epoch == 1
    with pytest.raises(ArgumentError, match="is no position"):
        streams.load_state_dict({"position": 99, "epoch": 0})
    with pytest.raises(ArgumentError, match="of other streams"):
        streams.load_state_dict({**streams.state_dict(), "position": 99})
    for other in (data.Streams(range(20), 4, 5), data.Streams(range(20), 2, 4), data.Streams(range(30), 2, 5)):
        with pytest.raises(ArgumentError, match=r"(?s)expected: batch=2, length=9, steps=5.*got: +batch="):
            data.Streams(range(20), 2, 5).load_state_dict(other.state_dict())


# ---- Padding and buckets -------------------------------------------------------------------------------------------------------------------


@given(
    st.lists(st.integers(0, 6), min_size=1, max_size=6),
    st.sampled_from([(), (2,), (2, 3)]),
    st.booleans(),
    st.sampled_from(["int64", "float32"]),
)
def test_unpad_is_the_way_back_from_pad(lengths, trailing, batch_first, dtype):
    rng = np.random.default_rng(0)
    sequences = [(rng.normal(size=(n, *trailing)) * 9).astype(dtype) for n in lengths]
    xs, found = data.pad(sequences, -1, batch_first=batch_first)
    T, B = max(lengths), len(lengths)
    assert xs.shape == ((B, T) if batch_first else (T, B)) + trailing and xs.dtype == dtype
    assert found.tolist() == lengths
    assert (xs == -1).reshape(-1).sum() >= (T * B - sum(lengths)) * int(np.prod(trailing))
    for n, b in zip(lengths, range(B), strict=True):
        assert ((xs[b, n:] if batch_first else xs[n:, b]) == -1).all()
    back = data.unpad(xs, found, batch_first=batch_first)
    assert all(np.array_equal(a, b) and a.dtype == b.dtype for a, b in zip(back, sequences, strict=True))


def test_lists_are_padded_and_an_empty_one_changes_no_dtype():
    xs, lengths = data.pad([[3, 4], [], [5]])
    assert xs.tolist() == [[3, 0, 5], [4, 0, 0]] and xs.dtype == np.int64 and lengths.tolist() == [2, 0, 1]
    assert data.pad([[], []])[0].shape == (0, 2)


def test_padding_stays_on_its_device(xp):
    xs, lengths = data.pad([xp.ones((2, 3)), xp.ones((4, 3))])
    assert type(xs) is type(xp.ones(1)) and xs.shape == (4, 2, 3) and type(lengths) is np.ndarray
    assert [x.shape for x in data.unpad(tg.Tensor(xs), lengths)] == [(2, 3), (4, 3)]


def test_unpadded_outputs_keep_their_gradient():
    x = tg.ones((3, 2), requires_grad=True)
    first, second = data.unpad(x, [1, 3])
    (first.sum() + 2 * second.sum()).backward()
    assert x.grad.tolist() == [[1, 2], [0, 2], [0, 2]]


def test_sequences_that_do_not_fit_say_so():
    with pytest.raises(ShapeError, match=r"sequence 1 is float64 \(2, 4\)(?s:.*)\(length, 3\)"):
        data.pad([np.zeros((2, 3)), np.zeros((2, 4))])
    with pytest.raises(ShapeError, match="time first"):
        data.pad([1.0, 2.0])
    with pytest.raises(ShapeError, match="no sequences"):
        data.pad([])
    with pytest.raises(ArgumentError, match=r"x\.detach\(\)"):
        data.pad([tg.ones(2, requires_grad=True)])
    for xs, lengths in ((np.zeros((3, 2)), [1, 4]), (np.zeros((3, 2)), [1]), (np.zeros(3), [1]), (np.zeros((3, 2)), [1.0, 2.0])):
        with pytest.raises(ShapeError, match="do not fit xs"):
            data.unpad(xs, lengths)


@given(st.lists(st.integers(0, 20), max_size=60), st.integers(1, 7), st.booleans(), st.integers(1, 5), st.booleans())
def test_buckets_part_the_data(lengths, batch_size, shuffle, pool, drop_last):
    batches = data.buckets(lengths, batch_size, shuffle=shuffle, pool=pool, drop_last=drop_last, rng=0)
    seen = [int(i) for batch in batches for i in batch]
    assert len(set(seen)) == len(seen)
    assert len(seen) == (len(lengths) // batch_size * batch_size if drop_last else len(lengths))
    assert all(0 < len(batch) <= batch_size for batch in batches)
    again = data.buckets(lengths, batch_size, shuffle=shuffle, pool=pool, drop_last=drop_last, rng=0)
    assert [b.tolist() for b in batches] == [b.tolist() for b in again]


def test_buckets_pad_little_and_mix_all_the_same():
    lengths = np.random.default_rng(0).integers(1, 100, 1000)
    at_random = np.random.default_rng(1).permutation(1000).reshape(-1, 20)
    one, two = (data.buckets(lengths, 20, rng=rng) for rng in (1, 2))
    assert data.padding_share(lengths, at_random) > 0.4
    assert data.padding_share(lengths, one) < 0.03
    small = data.buckets(lengths, 20, pool=5, rng=1)
    assert data.padding_share(lengths, one) < data.padding_share(lengths, small) < 0.2
    assert [b.tolist() for b in one] != [b.tolist() for b in two]
    longest = [lengths[batch].max() for batch in one]
    assert longest != sorted(longest)
    assert data.padding_share([2, 4], [[0, 1]]) == 0.25 and data.padding_share([], []) == 0


def test_buckets_of_what_is_no_length_say_so():
    with pytest.raises(ShapeError, match=r"integers \(N,\)"):
        data.buckets([1.5, 2.0], 2)
    with pytest.raises(ArgumentError, match="batch_size = 0"):
        data.buckets([1, 2], 0)


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
