"""Long short-term memory: the equations of the notes, the hand-derived BPTT, the tape, central differences and PyTorch say the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tinygrad_seq as tg
from tinygrad_seq import nn
from tinygrad_seq.errors import ShapeError
from tinygrad_seq.nn import functional as F
from tinygrad_seq.scan import scan

T, B, D, H = 6, 3, 4, 5
NAMES = ("xs", "h0", "c0", "w_ih", "w_hh", "b_ih", "b_hh", "w_ci", "w_cf", "w_co")


def problem(peephole: str | None, seed: int = 0) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """The arguments of a step over time, and the weights of h_1 ... h_T and of c_T in the loss."""
    rng = np.random.default_rng(seed)
    shapes: list[tuple[int, ...]] = [(T, B, D), (B, H), (B, H), (4 * H, D), (4 * H, H), (4 * H,), (4 * H,)]
    if peephole:
        shapes += [(H,) if peephole == "diagonal" else (H, H)] * 3
    return [0.7 * rng.standard_normal(s) for s in shapes], rng.standard_normal((T, B, H)), rng.standard_normal((B, H))


VARIANTS: dict[str, tuple[str | None, Callable[..., Any], Callable[..., Any]]] = {
    "plain": (None, F.lstm_step, F.lstm_bptt),
    "diagonal peepholes": ("diagonal", F.peephole_lstm_step, F.peephole_lstm_bptt),
    "full peepholes": ("full", F.peephole_lstm_step, F.peephole_lstm_bptt),
}
each_variant = pytest.mark.parametrize("variant", VARIANTS)


def sig(a: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-a))


def loss_of_the_notes(args: list[np.ndarray], w_h: np.ndarray, w_c: np.ndarray) -> float:
    """The forward pass as the notes write it: columns, a matrix for each gate, written out in NumPy, one row of the batch at a time."""
    xs, h0, c0, w_ih, w_hh, b_ih, b_hh = args[:7]
    (W_xi, W_xf, W_xc, W_xo), (W_hi, W_hf, W_hc, W_ho) = np.split(w_ih, 4), np.split(w_hh, 4)
    b_i, b_f, b_c, b_o = np.split(b_ih + b_hh, 4)
    W_ci, W_cf, W_co = (np.diag(w) if w.ndim == 1 else w for w in args[7:]) if args[7:] else (np.zeros((H, H)),) * 3
    loss = 0.0
    for row in range(B):
        h, C = h0[row], c0[row]
        for t in range(T):
            x = xs[t, row]
            f = sig(W_xf @ x + W_hf @ h + W_cf @ C + b_f)
            i = sig(W_xi @ x + W_hi @ h + W_ci @ C + b_i)
            pattern = np.tanh(W_xc @ x + W_hc @ h + b_c)
            C = f * C + i * pattern
            o = sig(W_xo @ x + W_ho @ h + W_co @ C + b_o)
            h = o * np.tanh(C)
            loss += w_h[t, row] @ h
        loss += w_c[row] @ C
    return float(loss)


def of_the_tape(
    step: Callable[..., Any], args: list[np.ndarray], w_h: np.ndarray, w_c: np.ndarray
) -> tuple[float, list[np.ndarray]]:
    leaves = [tg.Tensor(a, requires_grad=True) for a in args]
    hs, (_, c) = scan(step, leaves[0], tuple(leaves[1:3]), leaves[3:])
    loss = (hs * w_h).sum() + (c * w_c).sum()
    loss.backward()
    return loss.item(), [leaf.grad.numpy() for leaf in leaves]


@each_variant
def test_a_step_is_the_equations_of_the_notes(variant: str) -> None:
    peephole, step, _ = VARIANTS[variant]
    args, w_h, w_c = problem(peephole)
    assert of_the_tape(step, args, w_h, w_c)[0] == pytest.approx(loss_of_the_notes(args, w_h, w_c), rel=1e-13)


@each_variant
def test_bptt_by_hand_equals_the_tape(variant: str) -> None:
    peephole, step, bptt = VARIANTS[variant]
    args, w_h, w_c = problem(peephole)
    by_hand, (_, tape) = bptt(*args, w_h, w_c), of_the_tape(step, args, w_h, w_c)
    assert by_hand._fields == NAMES[: len(args)]
    for name, a, b in zip(NAMES, by_hand, tape, strict=False):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12, err_msg=name)


@each_variant
def test_bptt_by_hand_reads_the_arrays_of_tensors(variant: str) -> None:
    peephole, _, bptt = VARIANTS[variant]
    args, w_h, w_c = problem(peephole)
    of_tensors = bptt(*(tg.Tensor(a, requires_grad=True) for a in (*args, w_h, w_c)))
    for name, a, b in zip(NAMES, bptt(*args, w_h, w_c), of_tensors, strict=False):
        assert type(b) is np.ndarray and (a == b).all(), name


@each_variant
def test_bptt_by_hand_equals_central_differences(variant: str) -> None:
    peephole, _, bptt = VARIANTS[variant]
    args, w_h, w_c = problem(peephole, 1)
    by_hand, rng, eps = bptt(*args, w_h, w_c), np.random.default_rng(2), 1e-6
    for place, name in enumerate(NAMES[: len(args)]):
        direction = rng.standard_normal(args[place].shape)
        up, down = ([a + s * direction if k == place else a for k, a in enumerate(args)] for s in (eps, -eps))
        slope = (loss_of_the_notes(up, w_h, w_c) - loss_of_the_notes(down, w_h, w_c)) / (2 * eps)
        assert (by_hand[place] * direction).sum() == pytest.approx(slope, rel=1e-6), name


def test_the_formulas_of_the_notes_in_their_own_notation() -> None:
    # CMU 11-785: peepholes by full matrices, one sequence, columns, t = T ... 1, everything at T+1 is 0
    args, w_h, w_c = problem("full", 3)
    xs, h0, c0, w_ih, w_hh, b_ih, b_hh, W_ci, W_cf, W_co = args
    (W_xi, W_xf, W_xc, W_xo), (W_hi, W_hf, W_hc, W_ho) = np.split(w_ih, 4), np.split(w_hh, 4)
    b_i, b_f, b_c, b_o = np.split(b_ih + b_hh, 4)
    row = 1
    h, C, i, f, pattern, o = [h0[row]], [c0[row]], [h0[row]], [h0[row]], [h0[row]], [h0[row]]
    for t in range(1, T + 1):
        x = xs[t - 1, row]
        f.append(sig(W_xf @ x + W_hf @ h[-1] + W_cf @ C[-1] + b_f))
        i.append(sig(W_xi @ x + W_hi @ h[-1] + W_ci @ C[-1] + b_i))
        pattern.append(np.tanh(W_xc @ x + W_hc @ h[-1] + b_c))
        C.append(f[-1] * C[-1] + i[-1] * pattern[-1])
        o.append(sig(W_xo @ x + W_ho @ h[-1] + W_co @ C[-1] + b_o))
        h.append(o[-1] * np.tanh(C[-1]))
    zero = np.zeros(H)
    d_f, d_i, d_g, d_o, d_C = zero, zero, zero, zero, zero
    f.append(zero)
    sums = dict.fromkeys(("W_xf", "W_hf", "W_cf", "W_ci", "W_co", "b_o"), 0.0)
    for t in range(T, 0, -1):
        d_h = w_h[t - 1, row] + W_hf.T @ d_f + W_hi.T @ d_i + W_hc.T @ d_g + W_ho.T @ d_o
        of_later = d_C * f[t + 1] + W_cf.T @ d_f + W_ci.T @ d_i
        d_o = d_h * np.tanh(C[t]) * o[t] * (1 - o[t])
        d_C = d_h * o[t] * (1 - np.tanh(C[t]) ** 2) + W_co.T @ d_o + of_later + (w_c[row] if t == T else 0)
        d_f = d_C * C[t - 1] * f[t] * (1 - f[t])
        d_i = d_C * pattern[t] * i[t] * (1 - i[t])
        d_g = d_C * i[t] * (1 - pattern[t] ** 2)
        sums["W_xf"] = sums["W_xf"] + np.outer(d_f, xs[t - 1, row])
        sums["W_hf"] = sums["W_hf"] + np.outer(d_f, h[t - 1])
        sums["W_cf"] = sums["W_cf"] + np.outer(d_f, C[t - 1])
        sums["W_ci"] = sums["W_ci"] + np.outer(d_i, C[t - 1])
        sums["W_co"] = sums["W_co"] + np.outer(d_o, C[t])
        sums["b_o"] = sums["b_o"] + d_o
    one = [a[:, row : row + 1] if a.ndim == 3 else a[row : row + 1] if a.shape == (B, H) else a for a in args]
    by_hand = F.peephole_lstm_bptt(*one, w_h[:, row : row + 1], w_c[row : row + 1])
    close = {"rtol": 1e-12, "atol": 1e-14}
    np.testing.assert_allclose(by_hand.w_ih[H : 2 * H], sums["W_xf"], **close)
    np.testing.assert_allclose(by_hand.w_hh[H : 2 * H], sums["W_hf"], **close)
    for name in ("cf", "ci", "co"):
        np.testing.assert_allclose(getattr(by_hand, f"w_{name}"), sums[f"W_{name}"], **close)
    np.testing.assert_allclose(by_hand.b_ih[3 * H :], sums["b_o"], **close)
    np.testing.assert_allclose(by_hand.h0[0], W_hf.T @ d_f + W_hi.T @ d_i + W_hc.T @ d_g + W_ho.T @ d_o, **close)
    np.testing.assert_allclose(by_hand.c0[0], d_C * f[1] + W_cf.T @ d_f + W_ci.T @ d_i, **close)


@each_variant
def test_bptt_by_hand_runs_on_a_device(device_xp: Any, variant: str) -> None:
    peephole, _, bptt = VARIANTS[variant]
    args, w_h, w_c = problem(peephole)
    on_device = bptt(*(device_xp.asarray(a) for a in (*args, w_h, w_c)))
    for name, a, b in zip(NAMES, bptt(*args, w_h, w_c), on_device, strict=False):
        np.testing.assert_allclose(a, b.get(), rtol=1e-12, atol=1e-14, err_msg=name)


@each_variant
def test_float32_stays_float32(variant: str) -> None:
    peephole, step, bptt = VARIANTS[variant]
    args, w_h, w_c = (
        [a.astype(np.float32) for a in part] if isinstance(part, list) else part.astype(np.float32) for part in problem(peephole)
    )
    assert {a.dtype for a in bptt(*args, w_h, w_c)} == {np.dtype(np.float32)} == {a.dtype for a in step(args[0][0], *args[1:])}


@each_variant
def test_absent_biases_are_biases_of_zero(variant: str) -> None:
    peephole, step, bptt = VARIANTS[variant]
    args, w_h, w_c = problem(peephole)
    absent, zero = [*args], [*args]
    for place in (5, 6):
        absent[place], zero[place] = None, np.zeros_like(args[place])
    for a, b in zip(bptt(*absent, w_h, w_c), bptt(*zero, w_h, w_c), strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(step(absent[0][0], *absent[1:]), step(zero[0][0], *zero[1:]), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.torch
def test_bptt_by_hand_equals_pytorch() -> None:
    torch = pytest.importorskip("torch")
    args, w_h, w_c = problem(None, 4)
    theirs = torch.nn.LSTM(D, H).double()
    with torch.no_grad():
        for p, a in zip(theirs.parameters(), args[3:], strict=True):
            p.copy_(torch.tensor(a))
    xs, h0, c0 = (torch.tensor(a, requires_grad=True) for a in args[:3])
    hs, (_, c) = theirs(xs, (h0[None], c0[None]))
    ((hs * torch.tensor(w_h)).sum() + (c[0] * torch.tensor(w_c)).sum()).backward()
    for name, a, p in zip(NAMES, F.lstm_bptt(*args, w_h, w_c), [xs, h0, c0, *theirs.parameters()], strict=False):
        np.testing.assert_allclose(a, p.grad.numpy(), rtol=1e-9, atol=1e-9, err_msg=name)


# ---- What the notes say of the cell ------------------------------------------------------------------------------------------------


def with_gates(biases: Any, h: Any, c: Any) -> tuple[Any, ...]:
    """A step whose gates are what we say at each time: the weights are zero, the biases (4,), for i f g o, are the input."""
    return F.lstm_step(np.zeros((1, 1)), h, c, np.zeros((4, 1)), np.zeros((4, 1)), biases)


def forced(gate: float) -> float:
    """The bias that opens a gate (1), or closes it (0), to the last digit."""
    return 1000.0 if gate else -1000.0


def test_a_cell_holds_its_value_for_a_thousand_steps_exactly_while_input_is_closed_and_forget_open() -> None:
    biases = np.tile([forced(0), forced(1), 0.3, forced(1)], (1000, 1))
    c0 = np.random.default_rng(0).standard_normal((1, 1))
    _, (_, c) = scan(with_gates, biases, (np.zeros((1, 1)), c0))
    assert c == c0


def test_the_carousel_passes_the_gradient_of_the_cell_times_its_forget_gates_and_nothing_else() -> None:
    rng = np.random.default_rng(1)
    biases = rng.standard_normal((7, 4))
    c0 = tg.tensor(rng.standard_normal((1, 1)), requires_grad=True)
    _, (_, c) = scan(with_gates, tg.tensor(biases), (np.zeros((1, 1)), c0))
    assert tg.grad(c.sum(), c0).item() == pytest.approx(np.prod(sig(biases[:, 1])), rel=1e-14)
    open_gates = biases.copy()
    open_gates[:, 1] = forced(1)
    _, (_, c) = scan(with_gates, tg.tensor(open_gates), (np.zeros((1, 1)), c0))
    assert tg.grad(c.sum(), c0).item() == 1.0


def test_gates_open_and_closed_preserve_the_sensitivity_to_the_first_input_as_graves_draws_it() -> None:
    # input gate open at t = 1, forget gate open at 2 ... 6 and closed at 7, output gate open at 4 and 6
    first = tg.tensor(np.zeros(()), requires_grad=True)  # the pattern's bias at t = 1, where tanh has slope 1
    h, c, cells, outputs = np.zeros((1, 1)), np.zeros((1, 1)), [], []
    for t in range(1, 8):
        gates = forced(t == 1), forced(2 <= t <= 6), 0.0, forced(t in (4, 6))
        pattern = first if t == 1 else 0.0 * first
        h, c = with_gates(np.array(gates) * [1, 1, 0, 1] + pattern * np.array([0, 0, 1, 0]), h, c)
        cells.append(tg.grad(c.sum(), first).item())
        outputs.append(tg.grad(h.sum(), first).item())
    assert cells == [1, 1, 1, 1, 1, 1, 0]
    assert outputs == [0, 0, 0, 1, 0, 1, 0]


def test_coupled_gates_write_where_they_forget() -> None:
    args, *_ = problem(None, 5)
    xs, h, c, w_ih, w_hh, b_ih, b_hh = args
    three = [a[H:] for a in (w_ih, w_hh, b_ih, b_hh)]  # f g o
    new_h, new_c, gates = F.coupled_lstm_step(xs[0], h, c, *three, return_gates=True)
    a = xs[0] @ w_ih.T + h @ w_hh.T + b_ih + b_hh
    f, g, o = sig(a[:, H : 2 * H]), np.tanh(a[:, 2 * H : 3 * H]), sig(a[:, 3 * H :])
    np.testing.assert_allclose(new_c, f * c + (1 - f) * g, rtol=1e-13)
    np.testing.assert_allclose(new_h, o * np.tanh(f * c + (1 - f) * g), rtol=1e-13)
    assert np.array_equal(gates.i, 1 - gates.f) and gates.c is new_c


def test_a_projection_multiplies_what_the_output_gate_shows() -> None:
    rng = np.random.default_rng(6)
    args, *_ = problem(None, 6)
    w_hr, w_hh, h = rng.standard_normal((2, H)), rng.standard_normal((4 * H, 2)), rng.standard_normal((B, 2))
    x, c, w_ih = args[0][0], args[2], args[3]
    projected, new_c = F.lstm_step(x, h, c, w_ih, w_hh, None, None, w_hr)
    assert projected.shape == (B, 2) and new_c.shape == (B, H)
    a = x @ w_ih.T + h @ w_hh.T
    np.testing.assert_allclose(projected, (sig(a[:, 3 * H :]) * np.tanh(new_c)) @ w_hr.T, rtol=1e-12)


def test_weights_of_another_cell_say_which_blocks_are_expected() -> None:
    args, *_ = problem(None)
    xs, h, c, w_ih, w_hh = args[:5]
    with pytest.raises(ShapeError, match=r"(?s)lstm_step: the weights have 15 rows.*H = 5 wide.*4H = 20 rows: the blocks i f g o"):
        F.lstm_step(xs[0], h, c, w_ih[:15], w_hh[:15])
    with pytest.raises(ShapeError, match=r"(?s)coupled_lstm_step: the weights have 20 rows.*3H = 15 rows: the blocks f g o"):
        F.coupled_lstm_step(xs[0], h, c, w_ih, w_hh)
    with pytest.raises(ShapeError, match="the state is H = 1 wide"):  # which would broadcast
        F.lstm_step(xs[0], h, c[:, :1], w_ih, w_hh)


def test_forget_bias_decides_how_much_of_the_gradient_survives_a_hundred_steps() -> None:
    norms = []
    for forget_bias in (0.0, 1.0, 5.0):
        net = nn.LSTM(4, 32, rng=0, dtype="float64")
        with tg.no_grad():
            net.bias_ih_l0[32:64] = forget_bias
            net.bias_hh_l0[32:64] = 0.0
        c0 = tg.zeros((1, 1, 32), dtype="float64", requires_grad=True)
        hs, _ = net(np.random.default_rng(1).standard_normal((100, 1, 4)), (tg.zeros((1, 1, 32), dtype="float64"), c0))
        norms.append(float(np.linalg.norm(tg.grad((hs[-1] * hs[-1]).sum() / 2, c0).numpy())))
    assert norms[0] < 1e-15 and norms[0] < 1e-8 * norms[1] < 1e-12 * norms[2] and norms[2] > 1e-2, norms
