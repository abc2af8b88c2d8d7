"""The one time loop: what it computes, what it records, lengths, and that it is linear in time."""

from __future__ import annotations

import time
from typing import NamedTuple

import numpy as np
import pytest

import tinygrad_seq as tg
from tinygrad_seq.errors import ArgumentError, ShapeError
from tinygrad_seq.nn.functional import rnn_step
from tinygrad_seq.scan import scan

T, B, D, H = 5, 3, 2, 4


def arrays(seed: int, *shapes: tuple[int, ...]) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape) for shape in shapes]


def tensors(seed: int, *shapes: tuple[int, ...]) -> list[tg.Tensor]:
    return [tg.Tensor(a, requires_grad=True) for a in arrays(seed, *shapes)]


RNN = [(T, B, D), (B, H), (H, D), (H, H), (H,), (H,)]


def running_sum(x, h):
    return h + x


def test_scan_of_addition_is_the_running_sum():
    xs, h = arrays(0, (T, B), (B,))
    ys, last = scan(running_sum, xs, h)
    np.testing.assert_allclose(ys, h + np.cumsum(xs, axis=0), rtol=1e-15)
    np.testing.assert_array_equal(last, ys[-1])


def test_scan_equals_the_loop_written_out_in_values_and_every_gradient():
    loop, scanned = tensors(1, *RNN), tensors(1, *RNN)
    weight = arrays(2, (T, B, H))[0]

    xs, h, *ws = loop
    hs = []
    for t in range(T):
        h = rnn_step(xs[t], h, *ws)
        hs.append(h)
    ((tg.stack(hs) * weight).sum() + (h * h).sum()).backward()

    xs, h0, *ws = scanned
    ys, last = scan(rnn_step, xs, h0, ws)
    ((ys * weight).sum() + (last * last).sum()).backward()

    np.testing.assert_allclose(ys.numpy(), np.stack([h.numpy() for h in hs]), rtol=1e-12, atol=1e-14)
    for a, b in zip(loop, scanned, strict=True):
        np.testing.assert_allclose(a.grad.numpy(), b.grad.numpy(), rtol=1e-12, atol=1e-14)


def test_a_state_of_several_arrays_goes_in_and_out_as_a_tuple():
    xs, h, c = arrays(3, (T, B), (B,), (B,))
    ys, (h1, c1) = scan(lambda x, h, c: (c + x, h), xs, (h, c))
    a, b = h, c
    for x in xs:
        a, b = b + x, a
    np.testing.assert_allclose(h1, a)
    np.testing.assert_allclose(c1, b)
    np.testing.assert_allclose(ys[-1], a)


def test_reverse_runs_from_the_end_and_keeps_outputs_at_their_time():
    xs, h = arrays(4, (T, B), (B,))
    ys, last = scan(running_sum, xs, h, reverse=True)
    np.testing.assert_allclose(ys, h + np.cumsum(xs[::-1], axis=0)[::-1])
    np.testing.assert_array_equal(last, ys[0])


def test_arrays_in_arrays_out():
    ys, last = scan(running_sum, *arrays(5, (T, B), (B,)))
    assert type(ys) is type(last) is np.ndarray


# ---- The tape ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reverse", [False, True])
@tg.unfolded
def test_each_step_is_recorded_at_its_time_counted_from_1_inside_one_frame(reverse: bool):
    xs, h0, *ws = tensors(6, *RNN)
    ys, _ = scan(rnn_step, xs, h0, ws, reverse=reverse, name="layer 0")
    tanhs = [node for node in tg.toposort([ys]) if node.prim is not None and node.prim.name == "tanh"]
    order = list(range(1, T + 1))
    assert [node.frame.time for node in tanhs] == (order[::-1] if reverse else order)
    assert len({node.frame.parent for node in tanhs}) == 1
    assert tanhs[0].frame.parent.owner == "layer 0"
    assert tg.toposort([ys])[-1].frame is None  # the stack of the outputs belongs to no moment


def test_an_error_inside_a_step_names_the_moment():
    xs, h0, *ws = tensors(7, *RNN)
    with pytest.raises(ShapeError, match=r"time step t = 1"):
        scan(rnn_step, xs, h0, [ws[0], tg.zeros((H + 1, H + 1), dtype="float64"), *ws[2:]])


# ---- Lengths ---------------------------------------------------------------------------------------------------------------------

LENGTHS = [3, 0, 5]


def test_rows_with_lengths_equal_single_runs_of_each_row_in_values_and_gradients():
    together, alone = tensors(8, *RNN), tensors(8, *RNN)
    xs, h0, *ws = together
    ys, last = scan(rnn_step, xs, h0, ws, lengths=LENGTHS)
    ((ys * ys).sum() + 3 * (last * last).sum()).backward()

    loss = 0.0
    xs, h0, *ws = alone
    for b, length in enumerate(LENGTHS):
        h = h0[b : b + 1]
        if length:
            hs, h = scan(rnn_step, xs[:length, b : b + 1], h, ws)
            loss = loss + (hs * hs).sum()
            np.testing.assert_allclose(ys.numpy()[:length, b], hs.numpy()[:, 0], rtol=1e-12)
        np.testing.assert_allclose(last.numpy()[b], h.numpy()[0], rtol=1e-12)
        assert (ys.numpy()[length:, b] == 0).all()
        loss = loss + 3 * (h * h).sum()
    loss.backward()
    for a, b in zip(together, alone, strict=True):
        np.testing.assert_allclose(a.grad.numpy(), b.grad.numpy(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("padding", [0.0, 1e300, np.inf, np.nan])
def test_padding_changes_nothing_and_its_gradient_is_exactly_zero(padding: float, reverse: bool):
    def run(fill: float) -> list[np.ndarray]:
        x, h0, *ws = arrays(9, *RNN)
        for b, length in enumerate(LENGTHS):
            x[length:, b] = fill
        xs, h0, *ws = (tg.Tensor(a, requires_grad=True) for a in (x, h0, *ws))
        ys, last = scan(rnn_step, xs, h0, ws, lengths=LENGTHS, reverse=reverse)
        ((ys * ys).sum() + (last * last).sum()).backward()
        for b, length in enumerate(LENGTHS):
            assert (xs.grad.numpy()[length:, b] == 0).all()
        return [ys.numpy(), last.numpy(), *(t.grad.numpy() for t in (xs, h0, *ws))]

    for a, b in zip(run(padding), run(7.0), strict=True):
        np.testing.assert_array_equal(a, b)


def test_reverse_with_lengths_starts_each_row_at_its_own_end():
    xs, h0, *ws = arrays(10, *RNN)
    ys, last = scan(rnn_step, xs, h0, ws, lengths=LENGTHS, reverse=True)
    for b, length in enumerate(LENGTHS):
        if length:
            hs, h = scan(rnn_step, xs[:length, b : b + 1][::-1], h0[b : b + 1], ws)
            np.testing.assert_allclose(ys[:length, b], hs[::-1, 0], rtol=1e-12)
            np.testing.assert_allclose(last[b], h[0], rtol=1e-12)


def test_no_rows_have_no_lengths():
    hs, h = tg.scan(lambda x, h: x + h, np.zeros((3, 0, 2)), np.zeros((0, 2)), lengths=[])
    assert hs.shape == (3, 0, 2) and h.shape == (0, 2)


def test_full_lengths_change_nothing():
    args = arrays(11, *RNN)
    plain, masked = (scan(rnn_step, *args[:2], args[2:], lengths=lengths) for lengths in (None, [T] * B))
    np.testing.assert_array_equal(plain[0], masked[0])
    np.testing.assert_array_equal(plain[1], masked[1])


# ---- What else the step returns ----------------------------------------------------------------------------------------------


class Seen(NamedTuple):
    """What a test's step hands out besides its state."""

    before: object
    twice: object


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("lengths", [None, [3, 0, 5]])
def test_what_the_step_collects_is_stacked_over_time_in_its_own_form_and_zero_past_the_ends(lengths, reverse: bool):
    xs, h = arrays(14, (T, B), (B,))

    def step(x, h):
        return h + x, Seen(h, 2 * (h + x))

    plain = scan(running_sum, xs, h, lengths=lengths, reverse=reverse)
    ys, last, seen = scan(step, xs, h, lengths=lengths, reverse=reverse, collect=True)
    np.testing.assert_array_equal(ys, plain[0])
    np.testing.assert_array_equal(last, plain[1])
    assert type(seen) is Seen
    np.testing.assert_array_equal(seen.twice, 2 * ys)
    present = np.ones((T, B), bool) if lengths is None else np.arange(T)[:, None] < np.array(lengths)
    np.testing.assert_allclose(seen.before, np.where(present, ys - xs, 0), atol=1e-14)


def test_one_array_or_a_plain_tuple_is_collected_as_such_and_a_state_of_several_arrays_stays_one():
    xs, h, c = arrays(15, (T, B), (B,), (B,))
    _, _, one = scan(lambda x, h: (h + x, x * h), xs, h, collect=True)
    assert one.shape == (T, B)
    _, (h1, _), (a, b) = scan(lambda x, h, c: (c + x, h, (h, c)), xs, (h, c), collect=True)
    np.testing.assert_array_equal(a[0], h)
    np.testing.assert_array_equal(b[1], h)
    np.testing.assert_array_equal(h1, b[-1] + xs[-1])


def test_gradients_flow_through_what_is_collected():
    xs, h = tensors(16, (T, B), (B,))
    _, _, squares = scan(lambda x, h: (h + x, h * h), xs, h, collect=True, lengths=LENGTHS)
    squares.sum().backward()
    before = scan(lambda x, h: (h + x, h), xs.data, h.data, collect=True, lengths=LENGTHS)[2]
    np.testing.assert_allclose(h.grad.numpy(), 2 * before.sum(axis=0))
    later = np.cumsum(before[::-1], axis=0)[::-1] - before
    present = np.arange(T)[:, None] < np.array(LENGTHS)
    np.testing.assert_allclose(xs.grad.numpy(), 2 * later * present, atol=1e-14)


# ---- Errors ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: scan(running_sum, np.float64(1), np.zeros(3)), ShapeError, "no time axis"),
        (lambda: scan(running_sum, np.zeros((0, 3)), np.zeros(3)), ShapeError, "no time step"),
        (lambda: scan(lambda x, h: (h, h), np.zeros((2, 3)), (np.zeros(3),)), ShapeError, "returned 2 arrays at t = 1"),
        (
            lambda: scan(lambda x, h: (h, h), np.zeros((2, 3)), np.zeros(3)),
            ShapeError,
            "(?s)returned 2 arrays.*first array is the output",
        ),
        (
            lambda: scan(lambda x, h, c: h, np.zeros((2, 3)), (np.zeros(3),) * 2),
            ShapeError,
            "(?s)returned 1 array at t = 1.*2, as the",
        ),
        (lambda: scan(lambda x, h: 1.0, np.zeros((2, 3)), np.zeros(3)), ArgumentError, "returned 1.0 at t = 1"),
        (
            lambda: scan(running_sum, np.zeros((2, 3)), np.zeros(3), collect=True),
            ShapeError,
            r"(?s)collect.*tuple of 2.*float64 \(3,\)",
        ),
        (
            lambda: scan(lambda x, *s: s, np.zeros((2, 3)), (np.zeros(3),) * 2, collect=True),
            ShapeError,
            "(?s)no thing more at t = 1.*tuple of 3.*tuple of 2",
        ),
        (lambda: scan(running_sum, np.zeros((2, 3)), np.zeros(1)), ShapeError, "changed the shape of the state at t = 1"),
        (lambda: scan(running_sum, np.zeros((2, 3)), np.zeros(3), lengths=[1, 2]), ShapeError, "lengths"),
        (lambda: scan(running_sum, np.zeros((2, 3)), np.zeros(3), lengths=[1, 2, 3]), ShapeError, r"0 \.\.\. T = 2"),
        (lambda: scan(running_sum, np.zeros((2, 3)), np.zeros(3), lengths=[1, -1, 2]), ShapeError, "-1"),
        (lambda: scan(running_sum, np.zeros((2, 3)), np.zeros(3), lengths=[1.0, 1.0, 2.0]), ArgumentError, "integers"),
        (
            lambda: scan(lambda x, h: h, np.zeros((2, 3)), np.zeros(()), lengths=[1, 1, 2]),
            ShapeError,
            r"3 lengths, but the initial",
        ),
        (
            lambda: scan(lambda x, h: (h, h.sum()), np.zeros((2, 2)), np.zeros(2), collect=True, lengths=[1, 2]),
            ShapeError,
            r"(?s)2 lengths, but what the step returned is float64 \(\).*\(2, \.\.\.\)",
        ),
        (lambda: scan(lambda x, h: (h, None), np.zeros((2, 3)), np.zeros(3), collect=True), ArgumentError, "None to collect"),
        (lambda: scan(lambda x, h: (h, {"x": x}), np.zeros((2, 3)), np.zeros(3), collect=True), ArgumentError, "to collect"),
        (lambda: scan(lambda x, h, w: h, np.zeros((2, 3)), np.zeros(3), np.ones(2)), ArgumentError, r"(?s)weights.*\(w,\)"),
    ],
)
def test_wrong_calls_say_what_was_expected(call, error, says):
    with pytest.raises(error, match=says):
        call()


# ---- Long sequences ----------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_time_per_step_does_not_grow_with_the_length():
    xs, h0, *ws = tensors(12, (2000, B, D), *RNN[1:])
    best = dict.fromkeys((200, 2000), np.inf)
    for _ in range(7):
        for length in best:
            start = time.perf_counter()
            ys, _ = scan(rnn_step, xs[:length], h0, ws)
            (ys * ys).sum().backward()
            best[length] = min(best[length], (time.perf_counter() - start) / length)
    assert best[2000] < 1.3 * best[200]


@pytest.mark.slow
def test_a_hundred_thousand_steps_differentiate_and_equal_the_closed_form():
    # h_t = a h_(t-1) + x_t, so dh_T/da = Σ_t a^(T-t) h_(t-1): the tape must agree after 100,000 steps
    length, a = 100_000, tg.Tensor(np.float64(0.999), requires_grad=True)
    xs = tg.Tensor(np.random.default_rng(13).standard_normal((length, 1)), requires_grad=True)
    hs, last = scan(lambda x, h, a: a * h + x, xs, np.zeros(1), [a])
    last.sum().backward()
    powers = 0.999 ** np.arange(length - 1, -1, -1.0)
    before = np.concatenate([[0.0], hs.numpy()[:-1, 0]])
    np.testing.assert_allclose(xs.grad.numpy()[:, 0], powers, rtol=1e-9)
    np.testing.assert_allclose(a.grad.item(), powers @ before, rtol=1e-9)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: tg.scan(3, np.ones((2, 3)), np.ones(3)), "scan: the step 3 is no function"),
        (lambda: tg.scan(lambda x, h: h, np.ones((2, 3)), None), "scan: the initial state None is no array"),
        (lambda: next(tg.steps(3)), r"(?s)steps: 3 is no sequence.*range\(T\)"),
    ],
)
def test_what_is_no_step_no_state_and_no_sequence_is_told(call, says):
    with pytest.raises(ArgumentError, match=says):
        call()
