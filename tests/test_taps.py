"""Recursions with several taps: equal to the sums written out; shorter paths, and errors that tell the order of the arguments."""

from __future__ import annotations

import numpy as np
import pytest

import tinygrad_seq as tg
from tinygrad_seq.errors import ArgumentError
from tinygrad_seq.nn import functional as F
from tinygrad_seq.scan import scan

T, B, D, H, P = 7, 2, 3, 4, 3
OUT = 2


def draw(*shapes: tuple[int, ...], seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [0.6 * rng.standard_normal(shape) for shape in shapes]


def test_a_recursion_with_taps_is_its_sum_over_the_past() -> None:
    xs, *past, w_ih, w_hh, b = draw((T, B, D), *[(B, H)] * P, (H, D), (H, P * H), (H,))
    hs, last = scan(lambda *a: F.taps_step(*a, taps=P), xs, tuple(past), (w_ih, w_hh, b, None))
    U = [w_hh[:, k * H : (k + 1) * H] for k in range(P)]
    before = list(past)
    for t in range(T):
        h = np.tanh(xs[t] @ w_ih.T + b + sum(h_k @ U_k.T for h_k, U_k in zip(before, U, strict=True)))
        np.testing.assert_allclose(hs[t], h, rtol=1e-12)
        before = [h, *before[:-1]]
    for a, b in zip(last, before, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)


def test_one_tap_is_the_simple_network() -> None:
    xs, h, *weights = draw((T, B, D), (B, H), (H, D), (H, H), (H,), (H,), seed=1)
    (with_taps,) = F.taps_step(xs[0], h, *weights, taps=1)
    np.testing.assert_array_equal(with_taps, F.rnn_step(xs[0], h, *weights))


def test_narx_feeds_its_outputs_back() -> None:
    xs, *past, w_ih, w_yh, b_h, w_ho, b_o = draw((T, B, D), *[(B, OUT)] * P, (H, D), (H, P * OUT), (H,), (OUT, H), (OUT,), seed=2)
    ys, _ = scan(lambda *a: F.narx_step(*a, taps=P), xs, tuple(past), (w_ih, w_yh, b_h, w_ho, b_o))
    before = list(past)
    for t in range(T):
        hidden = 1 / (1 + np.exp(-(xs[t] @ w_ih.T + b_h + np.concatenate(before, axis=-1) @ w_yh.T)))
        y = hidden @ w_ho.T + b_o
        np.testing.assert_allclose(ys[t], y, rtol=1e-12)
        before = [y, *before[:-1]]


def test_taps_shorten_the_way_back() -> None:
    # a linear recursion with weights 1/10: back over 6 steps the one tap carries 0.1^6; the third tap of three carries 0.1^2 and more
    x = np.zeros((6, 1, 1))
    for taps, survives in ((1, 0.1**6), (3, None)):
        h0 = tg.tensor(np.ones((1, 1)), requires_grad=True)
        past = (h0, *[np.zeros((1, 1))] * (taps - 1))
        w_hh = np.full((1, taps), 0.1)
        hs, _ = scan(lambda *a, n=taps: F.taps_step(*a, taps=n, nonlinearity="relu"), x, past, (np.ones((1, 1)), w_hh))
        slope = tg.grad(hs[-1].sum(), h0).item()
        assert slope == pytest.approx(survives) if survives else slope > 0.1**3


def test_a_wrong_number_of_arrays_tells_their_order() -> None:
    x, h, w_ih, w_hh = draw((B, D), (B, H), (H, D), (H, 2 * H))
    with pytest.raises(ArgumentError, match="2 past states, the newest first, then w_ih, w_hh, b_ih, b_hh"):
        F.taps_step(x, h, w_ih, w_hh, taps=2)
    with pytest.raises(ArgumentError, match="then w_ih, w_yh, b_h, w_ho, b_o"):
        F.narx_step(x, h, w_ih, w_hh, taps=1)


def test_an_unknown_nonlinearity_says_which_there_are() -> None:
    x, y, w_ih, w_yh, b_h, w_ho, b_o = draw((B, D), (B, OUT), (H, D), (H, OUT), (H,), (OUT, H), (OUT,))
    with pytest.raises(ArgumentError, match="'tanh' or 'relu' or 'sigmoid'"):
        F.narx_step(x, y, w_ih, w_yh, b_h, w_ho, b_o, taps=1, nonlinearity="step")
    with pytest.raises(ArgumentError, match="'tanh' or 'relu'$"):
        F.taps_step(x, y, w_ih[:OUT], w_yh[:OUT], taps=1, nonlinearity="sigmoid")
