"""models/word_vectors.py: what it claims, on small settings."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import killing
import numpy as np
import pytest

import tinygrad_seq as tg
from models import word_vectors
from models.experiment import perform
from tinygrad_seq import nn, optim
from tinygrad_seq.nn import functional as F


def sentences(state: str = "end", p: float = 1.0, length: int = 0) -> Any:
    """Every way through the grammar from one full stop to the next, as (its chance, the chance of its words, its length)."""
    for chance, name, after in word_vectors.GRAMMAR[state]:
        words = len(word_vectors.CLASSES[name])
        if after == "end":
            yield p * chance, p * chance / words, length + 1
        else:
            for way, each, total in sentences(after, p * chance, length + 1):
                yield way, each / words, total


def test_the_perplexity_of_the_grammar_is_that_of_all_its_sentences() -> None:
    ways = list(sentences())
    assert sum(way for way, _, _ in ways) == pytest.approx(1)
    surprise = sum(-way * math.log(each) for way, each, _ in ways)
    length = sum(way * total for way, _, total in ways)
    assert word_vectors.process_perplexity() == pytest.approx(math.exp(surprise / length))
    assert len(word_vectors.WORDS) == 35


def test_what_is_spoken_follows_the_grammar() -> None:
    ids, state, states = word_vectors.speak(3000, np.random.default_rng(0)), "end", []
    names = list(word_vectors.CLASSES)
    for k in ids:
        arcs = {name: after for _, name, after in word_vectors.GRAMMAR[state]}
        states.append(state)
        state = arcs[names[word_vectors.CLASS_OF[k]]]
    subject = word_vectors.CLASS_OF[ids[np.array(states) == "subject"]]
    assert (subject == names.index("adjective")).mean() == pytest.approx(0.6, abs=0.06)


def test_a_look_up_is_the_product_of_a_one_hot_vector_with_P() -> None:
    P = word_vectors.projection(7, 3, np.random.default_rng(0))
    ids = np.array([4, 0, 4])
    np.testing.assert_array_equal(P(ids).numpy(), tg.one_hot(ids, 7) @ P.weight.numpy())


def test_the_claims_about_one_hot_vectors_hold() -> None:
    assert perform(word_vectors.one_hot).met


def test_the_gradient_of_P_is_the_sum_of_those_of_separate_tables() -> None:
    rng = np.random.default_rng(0)
    model = word_vectors.NPLM(7, 3, 5, 4, rng=rng)
    window = rng.integers(0, 7, (6, 4))
    lines = tg.bptt.ledger(word_vectors.nplm_loss(model, window), model.P.weight)
    assert lines.steps == [1, 2, 3]
    tables = [tg.tensor(model.P.weight.numpy(), requires_grad=True) for _ in range(3)]
    x = tg.concatenate([F.embedding(window[:, k], table) for k, table in enumerate(tables)], axis=-1)
    apart = tg.grad(F.cross_entropy(model.score(tg.tanh(model.hidden(x))), window[:, 3]), tables)
    for term, table in zip(lines.by_use, apart, strict=True):
        np.testing.assert_allclose(term, table.numpy(), rtol=1e-5, atol=1e-8)
    np.testing.assert_allclose(lines.gradient, sum(table.numpy() for table in apart), rtol=1e-5, atol=1e-8)


def test_cbow_ignores_the_order_of_words_and_the_nplm_does_not() -> None:
    rng = np.random.default_rng(0)
    cbow, nplm = word_vectors.CBOW(9, 4, rng=rng), word_vectors.NPLM(9, 4, 5, 7, rng=rng)
    around = np.array([[1], [5], [2], [7], [3], [3]])
    np.testing.assert_allclose(cbow(around).numpy(), cbow(around[::-1].copy()).numpy(), rtol=1e-6)
    assert abs(nplm(around).numpy() - nplm(around[::-1].copy()).numpy()).max() > 1e-3


def test_skip_gram_and_cbow_are_their_equations() -> None:
    rng = np.random.default_rng(0)
    window = rng.integers(0, 9, (3, 7))
    skip, cbow = word_vectors.SkipGram(9, 4, rng=rng), word_vectors.CBOW(9, 4, rng=rng)
    P, U, b = (p.numpy() for p in skip.parameters())
    losses = []
    for row in window:
        p = np.exp(U @ P[row[3]] + b)
        losses += [-np.log(p[row[k]] / p.sum()) for k in (0, 1, 2, 4, 5, 6)]
    assert word_vectors.skip_gram_loss(skip, window).item() == pytest.approx(np.mean(losses), rel=1e-5)
    P, U, b = (p.numpy() for p in cbow.parameters())
    p = np.exp((P[window[:, [0, 1, 2, 4, 5, 6]]].mean(1)) @ U.T + b)
    expected = -np.log(p[range(3), window[:, 3]] / p.sum(1)).mean()
    assert word_vectors.cbow_loss(cbow, window).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", ["nplm", "cbow"])
def test_a_handful_of_windows_is_learned_by_heart(name: str) -> None:
    rng = np.random.default_rng(0)
    window = np.concatenate([rng.permutation(9)[:, None], rng.integers(0, 9, (9, 6))], axis=1)
    model: nn.Module = word_vectors.NPLM(9, 8, 16, 7, rng=rng) if name == "nplm" else word_vectors.CBOW(9, 8, rng=rng)
    loss = {"nplm": word_vectors.nplm_loss, "cbow": word_vectors.cbow_loss}[name]
    adam = optim.Adam(model.parameters(), lr=0.05)
    for _ in range(150):
        adam.zero_grad()
        loss(model, window).backward()
        adam.step()
    assert loss(model, window).item() < 0.05


def test_the_trigram_counts_and_its_probabilities_sum_to_one() -> None:
    rng, V = np.random.default_rng(0), 4
    train, valid = rng.integers(0, V, 60), rng.integers(0, V, 30)
    u, v = 2, 1
    asked = np.array([x for w in range(V) for x in (u, v, w)])
    p, weights = word_vectors.trigram(train, valid, asked, V)
    of_uv = p[::3]  # the triples (u, v, w) for every w
    assert of_uv.sum() == pytest.approx(1, abs=0.05)  # a context at the very end of the text is counted once less
    triples = list(zip(train[:-2], train[1:-1], train[2:], strict=True))
    for w in range(V):
        shares = [
            1 / V,
            sum(t[2] == w for t in triples) / len(triples),
            sum(t[1:] == (v, w) for t in triples) / sum(t[1] == v for t in triples),
            sum(t == (u, v, w) for t in triples) / max(1, sum(t[:2] == (u, v) for t in triples)),
        ]
        assert of_uv[w] == pytest.approx(weights @ shares)
    assert weights.sum() == pytest.approx(1)


def test_grammar_killed_and_resumed_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    tiny = word_vectors.Grammar(words=300, held_out=100, steps=5, vector_steps=3, batch=8, vector=4, hidden=4)
    killing.goes_on_to_the_same_bits(word_vectors.grammar, tiny, tmp_path)


@pytest.mark.slow
def test_english_killed_and_resumed_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    tiny = word_vectors.English(vocabulary=40, vector=4, hidden=4, steps=10, batch=8, paragraphs_too=False)
    killing.goes_on_to_the_same_bits(word_vectors.english, tiny, tmp_path)


@pytest.mark.slow
def test_the_quick_settings_reach_their_bounds(tmp_path: Path) -> None:
    assert perform(word_vectors.grammar, quick=True, out=tmp_path).met
    assert perform(word_vectors.english, quick=True, out=tmp_path).met
