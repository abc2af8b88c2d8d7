"""Dropout: its distribution, its gradient, one mask for all time steps, and where the random numbers come from."""

from __future__ import annotations

import numpy as np
import pytest

import tinygrad_seq as tg
from tinygrad_seq import nn
from tinygrad_seq.errors import ArgumentError, ShapeError
from tinygrad_seq.nn import functional as F
from tinygrad_seq.nn.functional.dropout import _kept

LAYERS = [nn.Dropout, nn.VariationalDropout, nn.Dropout1d]
each_layer = pytest.mark.parametrize("layer", LAYERS)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_elements_vanish_with_probability_p_and_the_others_grow(p):
    y = F.dropout(np.ones((400, 500)), p, rng=0)
    assert set(np.unique(y)) == {0, 1 / (1 - p)}
    n = y.size
    assert abs((y == 0).mean() - p) < 4 * np.sqrt(p * (1 - p) / n)  # four standard deviations
    assert abs(y.mean() - 1) < 4 * np.sqrt(p / (1 - p) / n)


def test_the_mask_is_independent_between_places_and_calls():
    rng = np.random.default_rng(0)
    a, b = (F.dropout(np.ones(100_000), rng=rng) - 1 for _ in range(2))
    for x, y in [(a, b), (a[1:], a[:-1]), (a[4:], a[:-4])]:
        assert abs((x * y).mean()) < 4 / np.sqrt(len(x))


class Bits:
    """A generator whose bits are chosen."""

    def __init__(self, words, numbers=()):
        self.words, self.numbers = words, numbers

    def integers(self, *_):
        return np.array(self.words, np.uint16).view(np.uint64)

    def random(self, count):
        assert count == len(self.numbers)
        return np.array(self.numbers)


def test_sixteen_bits_that_do_not_decide_ask_for_more(monkeypatch):
    # p = (100 + 1/4) / 2^16: below 100 dropped, above kept, at 100 dropped one time in four
    monkeypatch.setitem(_kept.__globals__, "generator", lambda rng: rng)
    kept = _kept([2, 4], 100.25 / 2**16, Bits([0, 99, 100, 101, 100, 65535, 100, 7], [0.2, 0.3, 0.24]))
    assert kept.tolist() == [[False, False, False, True], [True, True, False, False]]


@pytest.mark.parametrize("p", [1e-7, 1 - 1e-7])
def test_probabilities_near_0_and_1_are_met_too(p):
    kept = _kept([2_000_000], p, 0).mean()
    assert kept == pytest.approx(1 - p, abs=4 * np.sqrt(p * (1 - p) / 2e6))


@each_layer
def test_the_gradient_passes_through_the_same_mask_and_is_linear(layer):
    x = tg.tensor(np.random.default_rng(0).standard_normal((5, 4, 3)), requires_grad=True)
    y = layer(0.4, rng=0)(x)
    (g,) = tg.grad((y * y).sum(), [x], create_graph=True)
    mask = y.numpy() / x.numpy()
    np.testing.assert_allclose(g.numpy(), 2 * mask**2 * x.numpy(), rtol=1e-12)
    np.testing.assert_allclose(tg.grad(g.sum(), [x])[0].numpy(), 2 * mask**2, rtol=1e-12)


def test_one_number_alone_is_dropped_or_not():
    drawn = [F.dropout(tg.tensor(2.0), 0.5, rng=seed).item() for seed in range(20)]
    assert set(drawn) == {0.0, 4.0}


def test_a_probability_may_be_a_number_of_numpys():
    x = np.ones((3, 4), "float32")
    y = F.dropout(x, np.float32(0.5), rng=0)
    assert y.dtype == np.float32
    np.testing.assert_array_equal(y, F.dropout(x, 0.5, rng=0))


def test_recomputing_draws_the_same_mask():
    x = tg.tensor(np.ones((30, 30)), requires_grad=True)
    y = tg.recompute(nn.Dropout())(x)
    y.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), y.numpy())


@each_layer
def test_evaluation_and_p_0_are_the_identity_and_draw_nothing(layer):
    x, rng = tg.tensor(np.ones((5, 4, 3))), np.random.default_rng(0)
    before = rng.bit_generator.state
    assert layer(0.4, rng=rng).eval()(x) is x
    assert layer(0.0, rng=rng)(x) is x
    assert rng.bit_generator.state == before


def test_p_1_leaves_nothing():
    x = tg.tensor(np.ones((5, 4)), requires_grad=True)
    y = F.dropout(x, 1)
    y.sum().backward()
    assert not y.numpy().any() and not x.grad.numpy().any()


@pytest.mark.parametrize(("batch_first", "time"), [(False, 0), (True, 1)])
def test_variational_dropout_has_one_mask_for_all_steps_and_another_for_each_row(batch_first, time):
    y = nn.VariationalDropout(0.5, batch_first, rng=0)(np.ones((6, 7, 50)))
    steps = np.moveaxis(y, time, 0)
    assert (steps == steps[0]).all()
    assert len(np.unique(steps[0], axis=0)) == len(steps[0])


def test_dropout_of_channels_takes_whole_ones():
    y = nn.Dropout2d(rng=0)(np.ones((6, 7, 3, 4)))
    assert (y == y[:, :, :1, :1]).all() and 0.2 < (y[:, :, 0, 0] == 0).mean() < 0.8
    y = nn.Dropout1d(rng=0)(np.ones((7, 3)))
    assert (y == y[:, :1]).all()


def test_numbers_come_from_the_rng_or_the_default_one():
    x = np.ones((30, 30))
    np.testing.assert_array_equal(F.dropout(x, rng=3), F.dropout(x, rng=3))
    layer = nn.Dropout(rng=3)
    first = layer(x)
    assert (layer(x) != first).any(), "the next call draws on"
    assert isinstance(layer.rng, np.random.Generator) and nn.Dropout().rng is None
    tg.seed(5)
    one = nn.Dropout()(x)
    tg.seed(5)
    np.testing.assert_array_equal(nn.Dropout()(x), one)


def test_two_dropouts_given_one_generator_draw_different_masks():
    rng = np.random.default_rng(0)
    a, b = nn.Dropout(rng=rng), nn.Dropout(rng=rng)
    assert (a(np.ones(100)) != b(np.ones(100))).any()


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_the_dtype_stays(dtype):
    x = tg.tensor(np.ones((3, 4), dtype), requires_grad=True)
    y = F.dropout(x, 0.3)
    y.sum().backward()
    assert y.dtype == x.grad.dtype == np.dtype(dtype)


def test_the_same_numbers_on_every_library(xp):
    x = np.random.default_rng(0).standard_normal((5, 4, 3)).astype("float32")
    for f in (F.dropout, F.variational_dropout, F.dropout1d):
        a = tg.Tensor(xp.asarray(x), requires_grad=True)
        y = f(a, 0.4, rng=0)
        y.sum().backward()
        np.testing.assert_array_equal(tg.backend.to_numpy(y._data), f(x, 0.4, rng=0))
        np.testing.assert_array_equal(tg.backend.to_numpy(a.grad._data), f(np.ones_like(x), 0.4, rng=0))


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: nn.Dropout(1.5), ArgumentError, r"Dropout: p = 1\.5"),
        (lambda: F.dropout(np.ones(3), True), ArgumentError, "p = True"),
        (lambda: F.dropout(np.arange(3)), ArgumentError, "x is int64"),
        (lambda: nn.VariationalDropout()(np.ones((3, 4))), ShapeError, r"(?s)float64 \(3, 4\).*xs \(T, B, H\)"),
        (lambda: nn.Dropout2d()(np.ones((3, 4))), ShapeError, r"\(B, C, H, W\) or \(C, H, W\)"),
        (lambda: nn.Dropout()((np.ones(3), np.ones(3))), ArgumentError, "got a tuple"),
    ],
)
def test_wrong_calls_say_what_was_expected(call, error, says):
    with pytest.raises(error, match=says):
        call()


def test_layers_print_their_probability():
    assert repr(nn.Dropout(0.3)) == "Dropout(0.3)"
    assert repr(nn.VariationalDropout(0.3, batch_first=True)) == "VariationalDropout(0.3, batch_first=True)"
