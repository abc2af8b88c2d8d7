"""Positions: the closed form of the waves, both layouts, and what wrong calls say."""

from __future__ import annotations

import math

import numpy as np
import pytest

import tinygrad_seq as tg
from tinygrad_seq import nn
from tinygrad_seq.errors import ArgumentError, ShapeError
from tinygrad_seq.nn import functional as F

rng = np.random.default_rng(0)


def test_the_waves_are_those_of_the_paper():
    waves = F.sinusoidal_positions(50, 8, dtype="float64")
    for t in (0, 1, 7, 49):
        for i in range(4):
            angle = t / 10000 ** (2 * i / 8)
            np.testing.assert_allclose(waves[t, 2 * i : 2 * i + 2], [math.sin(angle), math.cos(angle)], rtol=1e-12)


@pytest.mark.parametrize("k", [1, 5, 100])
def test_a_step_of_k_is_the_same_rotation_everywhere(k):
    E, T = 12, 200
    waves = F.sinusoidal_positions(T, E, dtype="float64")
    rotation = np.zeros((E, E))
    for i in range(0, E, 2):
        c, s = math.cos(k * 10000 ** (-i / E)), math.sin(k * 10000 ** (-i / E))
        rotation[i : i + 2, i : i + 2] = [[c, s], [-s, c]]
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(E), atol=1e-15)
    np.testing.assert_allclose(waves[: T - k] @ rotation.T, waves[k:], atol=1e-12)


def test_a_later_start_and_an_odd_width():
    waves = F.sinusoidal_positions(10, 6)
    np.testing.assert_array_equal(F.sinusoidal_positions(4, 6, start=6), waves[6:])
    assert F.sinusoidal_positions(10, 5).shape == (10, 5) and waves.dtype == np.float32
    np.testing.assert_allclose(F.sinusoidal_positions(10, 5)[:, 4], np.sin(np.arange(10) * 10000 ** (-4 / 5)), rtol=1e-6)


LAYERS = {"waves": lambda **w: nn.SinusoidalPositions(6, **w), "learned": lambda **w: nn.LearnedPositions(9, 6, **w)}
each_layer = pytest.mark.parametrize("name", LAYERS)


@each_layer
def test_both_layouts_and_a_single_sequence(name):
    xs = rng.standard_normal((5, 3, 6)).astype("float32")
    ours, batch_first = LAYERS[name](), LAYERS[name](batch_first=True)
    batch_first.load_state_dict(ours.state_dict())
    ys = np.asarray(ours(xs))
    table = F.sinusoidal_positions(9, 6) if name == "waves" else ours.weight.numpy()
    np.testing.assert_allclose(ys, xs + table[:5, None], rtol=1e-6)
    np.testing.assert_array_equal(np.asarray(batch_first(xs.swapaxes(0, 1))), ys.swapaxes(0, 1))
    np.testing.assert_array_equal(np.asarray(ours(xs[:, 0])), ys[:, 0])
    np.testing.assert_array_equal(np.asarray(batch_first(xs[:, 0])), ys[:, 0])
    np.testing.assert_allclose(np.asarray(ours(xs, start=4)), xs + table[4:9, None], rtol=1e-6)
    assert ys.dtype == np.float32


@each_layer
def test_positions_on_every_library(name, xp):
    layer = LAYERS[name]()
    layer.to(tg.backend.device_of(xp.zeros(1)))
    x = tg.Tensor(xp.asarray(rng.standard_normal((5, 3, 6)).astype("float32")), requires_grad=True)
    (layer(x, start=2) ** 2).sum().backward()
    assert x.grad.dtype == np.float32
    for p in layer.parameters():  # only the positions that were there receive a gradient, summed over the batch
        g = tg.backend.to_numpy(p.grad._data)
        assert not g[:2].any() and not g[7:].any()
        np.testing.assert_allclose(g[2:7], tg.backend.to_numpy(x.grad._data).sum(axis=1), rtol=1e-5)


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: nn.LearnedPositions(9, 6)(np.zeros((10, 3, 6))), ShapeError, r"(?s)no position 9.*0 \.\.\. 8"),
        (lambda: nn.LearnedPositions(9, 6)(np.zeros((5, 3, 6)), start=5), ShapeError, "5 positions from 5 on"),
        (lambda: nn.SinusoidalPositions(6)(np.zeros((5, 3, 7))), ShapeError, r"xs \(T, B, 6\)"),
        (lambda: nn.SinusoidalPositions(6, batch_first=True)(np.zeros((5, 3, 7))), ShapeError, r"xs \(B, T, 6\)"),
        (lambda: nn.SinusoidalPositions(0), ArgumentError, "embedding_dim = 0"),
        (lambda: F.sinusoidal_positions(-1, 6), ArgumentError, "T = -1"),
    ],
)
def test_wrong_calls_say_what_was_expected(call, error, says):
    with pytest.raises(error, match=says):
        call()


def test_layers_print_their_settings():
    assert repr(nn.SinusoidalPositions(6)) == "SinusoidalPositions(6)"
    assert repr(nn.LearnedPositions(9, 6, batch_first=True)) == "LearnedPositions(9, 6, batch_first=True)"
