"""models/attention.py: what it claims, on small settings."""

from __future__ import annotations

from pathlib import Path

import killing
import numpy as np
import pytest

import tinygrad_seq as tg
from models import attention, dates
from tinygrad_seq import data, optim

TINY = attention.DatesToISO(dates=60, held_out=10, embed=6, hidden=5, steps=6, batch=8, longer=1)


def translator(context: str, seed: int = 0) -> attention.Translator:
    """A network with random weights, and attention sharp enough to differ between letters."""
    model = attention.Translator(9, 7, 4, 3, context=context, rng=np.random.default_rng(seed))
    if model.attention is not None:
        with tg.no_grad():
            model.attention.weight *= 8
    return model


def needs_babel() -> None:
    pytest.importorskip("babel", reason="the formats of dates: pip install -e '.[models]'")


def test_a_context_is_the_sum_of_all_states_weighted_by_attention_that_adds_up_to_one() -> None:
    model, rng = translator("attention"), np.random.default_rng(1)
    source, lengths, ys = rng.integers(0, 9, (6, 3)), np.array([6, 2, 4]), rng.integers(0, 7, (5, 3))
    memory, last = model.encode(source, lengths)
    _, weights, _ = model.decode(ys, last, memory, lengths, last)
    e, a, W = memory.numpy(), weights.numpy(), model.attention.weight.numpy()
    ds = model.decoder(model.write(ys), last)[0]
    contexts = model.attention(ds, memory, lengths=lengths)[0].numpy()
    for t in range(5):
        for b, n in enumerate(lengths):
            scores = [float(ds.numpy()[t, b] @ W @ e[s, b]) for s in range(n)]
            by_hand = np.exp(scores) / np.exp(scores).sum()
            assert abs(a[t, b, :n] - by_hand).max() < 1e-5
            assert (a[t, b, n:] == 0).all()
            assert abs(a[t, b].sum() - 1) < 1e-6
            assert abs(contexts[t, b] - sum(by_hand[s] * e[s, b] for s in range(n))).max() < 1e-5


def test_without_attention_the_states_before_the_last_ones_do_not_matter() -> None:
    rng = np.random.default_rng(2)
    ys = rng.integers(0, 7, (5, 2))
    for context in ("attention", "none", "last"):
        model = translator(context)
        memory, last = model.encode(rng.integers(0, 9, (6, 2)), np.array([6, 5]))
        here, elsewhere = (model.decode(ys, last, m, np.array([6, 5]), last)[0].numpy() for m in (memory, 2 * memory))
        assert (here == elsewhere).all() == (context != "attention")


@pytest.mark.parametrize("context", ["attention", "none", "last"])
def test_letter_by_letter_it_computes_what_it_computes_over_a_whole_target(context: str) -> None:
    model, rng = translator(context), np.random.default_rng(3)
    source, lengths, ys = rng.integers(0, 9, (6, 3)), np.array([6, 2, 4]), rng.integers(0, 7, (5, 3))
    memory, last = model.encode(source, lengths)
    state, scores = last, []
    for y in ys:
        one, _, state = model.decode(y[None], state, memory, lengths, last)
        scores.append(one.numpy()[0])
    assert abs(np.array(scores) - model(source, lengths, ys).numpy()).max() < 1e-5


def test_it_learns_a_handful_of_sources_by_heart_and_stops_at_end() -> None:
    rng = np.random.default_rng(4)
    letters = data.Vocabulary("01234", start="<start>", end="<end>")
    texts = ["1", "20", "3142", "", "0000", "432"]
    source, lengths = data.pad([rng.integers(0, 9, 5) for _ in texts])
    ys, target_lengths = data.pad([letters.encode(text, start=True, end=True) for text in texts], value=1)
    assert (ys[-1] == 1).all()  # what is behind an <end> is <end>
    model = translator("attention")
    adam = optim.Adam(model.parameters(), lr=3e-2)
    for _ in range(80):
        adam.zero_grad()
        attention.letters_loss(model, (source, lengths, ys)).backward()
        adam.step()
    said, weights = attention.write(model, source, lengths, letters)
    assert said == texts
    assert weights.shape == (max(target_lengths) - 1, 6, 5)


@pytest.mark.parametrize(
    ("written", "month"),
    [
        ("thursday, 12 march 1998", "march"),
        ("3/12/98", "3"),
        ("12.03.1998", "03"),
        ("sat 1 aug 1987", "aug"),
        ("2001, 7 dec", "dec"),
    ],
)
def test_the_month_in_a_date(written: str, month: str) -> None:
    assert written[attention.month_in(written)] == month


def test_every_date_has_one_month_and_the_formats_are_eleven() -> None:
    needs_babel()
    known = dates.load(400, np.random.default_rng(5))
    assert len(set(zip(known.written, known.iso, strict=True))) == 400
    for written, iso in zip(known.written, known.iso, strict=True):
        month = written[attention.month_in(written)]
        names = "jan feb mar apr may jun jul aug sep oct nov dec".split()
        assert int(iso[5:7]) == (int(month) if month.isdigit() else names.index(month[:3]) + 1)
    assert len(dates.FORMATS) == 11


def test_the_drawing_shows_attention_of_every_step() -> None:
    drawing = attention.drawing(translator("attention"), np.array([[1], [2], [3], [4]]), np.array([[0], [1], [2], [3]]))
    assert drawing.dot.count("BilinearAttention") == 3


def test_dates_killed_and_resumed_go_on_to_the_same_bits(tmp_path: Path) -> None:
    needs_babel()
    killing.goes_on_to_the_same_bits(attention.dates_to_iso, TINY, tmp_path)


@pytest.mark.slow
def test_the_quick_setting_reaches_its_bounds(tmp_path: Path) -> None:
    needs_babel()
    assert killing.perform(attention.dates_to_iso, quick=True, out=tmp_path).met
