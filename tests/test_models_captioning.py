"""models/captioning.py: what it claims, on small settings."""

from __future__ import annotations

import itertools
from pathlib import Path

import killing
import numpy as np
import pytest

from models import captioning, digits
from tinygrad_seq import optim


def made_up(seed: int = 0) -> digits.Digits:
    """Ten pictures that stand for digits, where those of scikit-learn are not needed."""
    return digits.Digits(np.random.default_rng(seed).random((10, 8, 8), dtype="float32"), np.arange(10))


def needs_digits() -> None:
    pytest.importorskip("sklearn", reason="the digits: pip install -e '.[models]'")


def test_two_digits_side_by_side_are_called_by_their_names_from_the_left() -> None:
    known = made_up()
    pictures, called = captioning.two_digits(known, 20, np.random.default_rng(1))
    for picture, text in zip(pictures, called, strict=True):
        a, b = (captioning.NAMES.index(word) for word in text.split())
        assert (picture == np.concatenate([known.images[a], known.images[b]], axis=1)).all()


def test_a_shifted_digit_moves_by_at_most_a_pixel() -> None:
    images = np.zeros((200, 8, 8), "float32")
    images[:, 4, 4] = 1
    places = np.argwhere(captioning.shifted(images, np.random.default_rng(2)))[:, 1:]
    assert len(places) == 200
    assert sorted({tuple(place) for place in places.tolist()}) == [(y, x) for y in (3, 4, 5) for x in (3, 4, 5)]


def test_the_decoder_starts_with_the_image_vector_and_knows_no_more_of_the_picture() -> None:
    model = captioning.Captioner(captioning.LETTERS, (8, 16), 3, 4, 6, rng=np.random.default_rng(5))
    pictures = np.random.default_rng(5).random((3, 8, 16), dtype="float32")
    ys, _ = captioning.encoded(["two one", "six", "nine"], captioning.LETTERS)
    vector = model.eye(pictures[:, None])
    assert vector.shape == (3, 6)
    assert (model.decode(ys, vector[None])[0].numpy() == model(pictures, ys).numpy()).all()


def test_it_learns_a_handful_of_pictures_by_heart() -> None:
    pictures, called = captioning.two_digits(made_up(), 5, np.random.default_rng(6))
    model = captioning.Captioner(captioning.LETTERS, (8, 16), 4, 8, 24, rng=np.random.default_rng(6))
    adam = optim.Adam(model.parameters(), lr=2e-2)
    for _ in range(160):
        adam.zero_grad()
        captioning.caption_loss(model, (pictures, *captioning.encoded(called, captioning.LETTERS))).backward()
        adam.step()
    assert captioning.captions(model, pictures) == called


def test_captioning_killed_and_resumed_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    needs_digits()
    tiny = captioning.TwoDigits(channels=2, embed=3, hidden=4, steps=6, batch=4, tested=5)
    killing.goes_on_to_the_same_bits(captioning.captioning, tiny, tmp_path)


def test_a_film_shows_its_digit_move_as_it_says() -> None:
    known = made_up()
    frames, told = captioning.films(known, 40, 4, 12, np.random.default_rng(3))
    assert {text.split()[2] for text in told} == set(captioning.MOVES)
    for n, text in enumerate(told):
        name, _, way = text.split()
        image = known.images[captioning.NAMES.index(name)]
        seen = [
            next((y, x) for y in range(5) for x in range(5) if (frame[y : y + 8, x : x + 8] == image).all())
            for frame in frames[:, n]
        ]
        assert all((b[0] - a[0], b[1] - a[1]) == captioning.MOVES[way] for a, b in itertools.pairwise(seen))


def test_the_mean_of_the_frames_is_blind_to_their_order_and_the_lstm_is_not() -> None:
    frames = np.random.default_rng(4).random((4, 3, 8, 8), dtype="float32")
    for order in (True, False):
        model = captioning.Narrator(8, 3, 4, 6, order=order, rng=np.random.default_rng(4))
        forward, backward = (model.encode(shown).numpy() for shown in (frames, frames[::-1].copy()))
        assert np.allclose(forward, backward, atol=1e-6) == (not order)


def test_video_killed_and_resumed_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    needs_digits()
    tiny = captioning.Moving(channels=2, embed=3, hidden=4, steps=6, batch=4, tested=5)
    killing.goes_on_to_the_same_bits(captioning.video, tiny, tmp_path)


@pytest.mark.slow
def test_the_quick_setting_of_the_video_reaches_its_bounds(tmp_path: Path) -> None:
    needs_digits()
    assert killing.perform(captioning.video, quick=True, out=tmp_path).met


@pytest.mark.slow
def test_the_quick_setting_of_captioning_reaches_its_bounds(tmp_path: Path) -> None:
    needs_digits()
    assert killing.perform(captioning.captioning, quick=True, out=tmp_path).met
