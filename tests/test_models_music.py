"""models/music.py: what it claims, on small settings."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from xml.etree import ElementTree

import killing
import numpy as np
import pytest

from models import music
from models.experiment import perform
from tinygrad_seq import data, errors, optim, training

TINY = music.Music(hidden=6, embed=4, steps=12, batch=4)


@pytest.fixture
def without_music21(monkeypatch):
    def missing(*_):
        raise errors.MissingDependencyError("music21 is not installed")

    monkeypatch.setattr(music, "needed", missing)


def test_a_composer_overfits_a_handful_of_melodies():
    rng = np.random.default_rng(0)
    batch = data.pad([music.encoded(song) for song in music.by_rule(3, rng)])
    composer = music.Composer(24, 8, dropout=0.0, rng=rng)
    history = training.fit(
        composer, music.nats, optim.Adam(composer.parameters(), lr=3e-2), [batch], steps=120, clip_norm=1.0, progress=False
    )
    assert history.losses[0] > 3 and history.losses[-1] < 0.15


def test_the_chain_rule_gives_a_distribution_over_melodies():
    """The probabilities of the ends and of all first and second intervals add up to 1."""
    composer = music.Composer(5, 3, dropout=0.0, rng=np.random.default_rng(1))
    total = 0.0
    with training.evaluating(composer):
        for first in range(music.V):
            melody = np.array([[first]])
            if first == music.END:
                total += math.exp(-float(music.nats(composer, (melody, [1]))))
                continue
            both = [np.array([[first], [second]]) for second in range(music.V)]
            total += sum(math.exp(-2 * float(music.nats(composer, (melody, [2])))) for melody in both)
    assert total == pytest.approx(1, abs=1e-5)


def test_an_n_gram_is_a_distribution_and_the_one_that_is_written_in_its_equation():
    train = [np.array([3, 4, 3, music.END]), np.array([3, music.END])]
    kappa, V = 2.0, music.V

    def p(i, context):  # by its recursion
        shorter = p(i, context[1:]) if context else 1 / V
        padded = [[music.END] * len(context) + melody.tolist() for melody in train]
        grams = [tuple(row[t : t + len(context) + 1]) for row in padded for t in range(len(row) - len(context))]
        of_context = sum(gram[:-1] == tuple(context) for gram in grams)
        return (sum(gram == (*context, i) for gram in grams) + kappa * shorter) / (of_context + kappa)

    assert sum(p(i, [4, 3]) for i in range(V)) == pytest.approx(1)
    for order, test in itertools.product((1, 2, 3), ([3, 4, 5, music.END], [7, music.END])):
        padded = [music.END] * (order - 1) + test
        expected = -np.mean([math.log(p(padded[t + order - 1], padded[t : t + order - 1])) for t in range(len(test))])
        assert music.ngram_nats(train, [np.array(test)], order, kappa) == pytest.approx(expected)


def test_the_first_part_of_a_score_is_read_without_ties_chords_and_ornaments():
    def note(step, octave, alter="", extra=""):
        pitch = f"<pitch><step>{step}</step>{f'<alter>{alter}</alter>' if alter else ''}<octave>{octave}</octave></pitch>"
        return f"<note>{extra}{pitch}</note>"

    first = note("G", 4) + note("F", 4, "1") + note("F", 4, "1", '<tie type="stop"/>') + "<note><rest/></note>"
    first += note("A", 4, "", "<grace/>") + note("B", 4, "-1") + note("E", 4, "", "<chord/>")
    score = ElementTree.fromstring(f"<score-partwise><part>{first}</part><part>{note('C', 3)}</part></score-partwise>")
    assert music.soprano(score) == [67, 66, 70]
    np.testing.assert_array_equal(music.encoded([67, 66, 70, 90]), [11, 16, 24, music.END])


def test_a_composed_melody_is_the_same_for_the_same_seed_and_ends():
    composer = music.Composer(5, 3, dropout=0.5, rng=np.random.default_rng(2))
    songs = [music.compose(composer, np.random.default_rng(seed), 1.0) for seed in (0, 0, 1)]
    assert songs[0] == songs[1] != songs[2]
    assert all(1 <= len(song) <= 120 for song in songs)


def test_abc_names_octaves():
    assert music.abc("x", [48, 60, 61, 71, 74, 86]).splitlines()[5] == "C, C ^C B D' D''"


def test_after_a_sharp_abc_says_natural():
    assert music.abc("x", [60, 61, 60, 62, 72, 61, 63, 62]).splitlines()[5] == "C ^C =C D =C' ^C ^D =D"


@pytest.mark.slow
def test_chorales_are_different_tunes_of_one_voice():
    pytest.importorskip("music21", reason="chorales come with music21: pip install -e '.[music]'")
    songs = music.chorales()
    assert len(songs) > 150 and all(len(song) > 15 for song in songs)
    assert len({tuple(np.diff(song)[:6].tolist()) for song in songs}) == len(songs)
    assert 60 <= np.median(np.concatenate(songs)) <= 75  # sopranos


def test_composing_killed_and_resumed_goes_on_to_the_same_bits(tmp_path: Path, without_music21) -> None:
    report = killing.goes_on_to_the_same_bits(music.melodies, TINY, tmp_path)
    assert any("music21 is not installed" in note for note in report.notes)
    assert (tmp_path / "whole" / "composed.abc").read_text() == (tmp_path / "killed" / "composed.abc").read_text()


@pytest.mark.slow
def test_melodies_by_rule_are_less_surprising_to_the_network_too(tmp_path: Path, without_music21) -> None:
    assert perform(music.melodies, quick=True, out=tmp_path).met


@pytest.mark.slow
def test_the_quick_setting_reaches_what_it_has_to(tmp_path: Path) -> None:
    pytest.importorskip("music21", reason="chorales come with music21: pip install -e '.[music]'")
    report = perform(music.melodies, quick=True, out=tmp_path)
    assert report.met, report.results
