"""Gated recurrent unit: the conventions of the notes and of PyTorch, the hand-derived BPTT, the tape and central differences agree."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

import tinygrad_seq as tg
from tinygrad_seq.errors import ArgumentError, ShapeError
from tinygrad_seq.nn import functional as F
from tinygrad_seq.scan import scan

T, B, D, H = 6, 3, 4, 5
NAMES = F.GRUGradients._fields
CONVENTIONS: dict[str, tuple[Callable[..., Any], Callable[..., Any], str]] = {
    f"{reset}, z weights the {which}": (step, bptt, which)
    for reset, step, bptt in [("after", F.gru_step, F.gru_bptt), ("before", F.gru_reset_before_step, F.gru_reset_before_bptt)]
    for which in ("old", "new")
}
each_convention = pytest.mark.parametrize("convention", CONVENTIONS)


def problem(seed: int = 0) -> tuple[list[np.ndarray], np.ndarray]:
    rng = np.random.default_rng(seed)
    shapes = [(T, B, D), (B, H), (3 * H, D), (3 * H, H), (3 * H,), (3 * H,)]
    return [0.7 * rng.standard_normal(s) for s in shapes], rng.standard_normal((T, B, H))


def sig(a: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-a))


def loss_written_out(args: list[np.ndarray], weight: np.ndarray, convention: str) -> float:
    """Columns, a matrix for each gate, one row of the batch at a time."""
    xs, h0, w_ih, w_hh, b_ih, b_hh = args
    (U_r, U_z, U_n), (W_r, W_z, W_n) = np.split(w_ih, 3), np.split(w_hh, 3)
    (a_r, a_z, a_n), (b_r, b_z, b_n) = np.split(b_ih, 3), np.split(b_hh, 3)
    loss = 0.0
    for row in range(B):
        h = h0[row]
        for t in range(T):
            x = xs[t, row]
            r, z = sig(U_r @ x + a_r + W_r @ h + b_r), sig(U_z @ x + a_z + W_z @ h + b_z)
            seen = W_n @ (r * h) + b_n if convention.startswith("before") else r * (W_n @ h + b_n)
            n = np.tanh(U_n @ x + a_n + seen)
            h = z * h + (1 - z) * n if convention.endswith("old") else (1 - z) * h + z * n
            loss += weight[t, row] @ h
    return float(loss)


def of_the_tape(args: list[np.ndarray], weight: np.ndarray, convention: str) -> tuple[float, list[np.ndarray]]:
    step, _, which = CONVENTIONS[convention]
    leaves = [tg.Tensor(a, requires_grad=True) for a in args]
    hs, _ = scan(partial(step, z_weights=which), leaves[0], leaves[1], leaves[2:])
    loss = (hs * weight).sum()
    loss.backward()
    return loss.item(), [leaf.grad.numpy() for leaf in leaves]


@each_convention
def test_a_step_is_its_equations(convention: str) -> None:
    args, weight = problem()
    assert of_the_tape(args, weight, convention)[0] == pytest.approx(loss_written_out(args, weight, convention), rel=1e-13)


@each_convention
def test_bptt_by_hand_equals_the_tape(convention: str) -> None:
    _, bptt, which = CONVENTIONS[convention]
    args, weight = problem(1)
    for name, a, b in zip(NAMES, bptt(*args, weight, z_weights=which), of_the_tape(args, weight, convention)[1], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12, err_msg=name)


@each_convention
def test_bptt_by_hand_reads_the_arrays_of_tensors(convention: str) -> None:
    _, bptt, which = CONVENTIONS[convention]
    args, weight = problem()
    of_tensors = bptt(*(tg.Tensor(a, requires_grad=True) for a in (*args, weight)), z_weights=which)
    for name, a, b in zip(NAMES, bptt(*args, weight, z_weights=which), of_tensors, strict=True):
        assert type(b) is np.ndarray and (a == b).all(), name


@each_convention
def test_bptt_by_hand_equals_central_differences(convention: str) -> None:
    _, bptt, which = CONVENTIONS[convention]
    args, weight = problem(2)
    by_hand, rng, eps = bptt(*args, weight, z_weights=which), np.random.default_rng(3), 1e-6
    for place, name in enumerate(NAMES):
        direction = rng.standard_normal(args[place].shape)
        up, down = ([a + s * direction if k == place else a for k, a in enumerate(args)] for s in (eps, -eps))
        slope = (loss_written_out(up, weight, convention) - loss_written_out(down, weight, convention)) / (2 * eps)
        assert (by_hand[place] * direction).sum() == pytest.approx(slope, rel=1e-6), name


@each_convention
def test_bptt_by_hand_runs_on_a_device_and_without_biases(device_xp: Any, convention: str) -> None:
    _, bptt, which = CONVENTIONS[convention]
    (xs, h0, w_ih, w_hh, *_), weight = problem()
    on_device = bptt(*(device_xp.asarray(a) for a in (xs, h0, w_ih, w_hh)), None, None, device_xp.asarray(weight), z_weights=which)
    zero = np.zeros(3 * H)
    for name, a, b in zip(NAMES, bptt(xs, h0, w_ih, w_hh, zero, zero, weight, z_weights=which), on_device, strict=True):
        np.testing.assert_allclose(a, b.get(), rtol=1e-12, atol=1e-14, err_msg=name)


@each_convention
def test_float32_stays_float32(convention: str) -> None:
    step, bptt, which = CONVENTIONS[convention]
    args, weight = problem()
    single = [a.astype(np.float32) for a in args]
    assert {a.dtype for a in bptt(*single, weight.astype(np.float32), z_weights=which)} == {np.dtype(np.float32)}
    assert step(single[0][0], *single[1:], z_weights=which).dtype == np.float32


@pytest.mark.torch
def test_bptt_by_hand_equals_pytorch() -> None:
    torch = pytest.importorskip("torch")
    args, weight = problem(4)
    theirs = torch.nn.GRU(D, H).double()
    with torch.no_grad():
        for p, a in zip(theirs.parameters(), args[2:], strict=True):
            p.copy_(torch.tensor(a))
    xs, h0 = (torch.tensor(a, requires_grad=True) for a in args[:2])
    hs, _ = theirs(xs, h0[None])
    (hs * torch.tensor(weight)).sum().backward()
    for name, a, p in zip(NAMES, F.gru_bptt(*args, weight), [xs, h0, *theirs.parameters()], strict=True):
        np.testing.assert_allclose(a, p.grad.numpy(), rtol=1e-9, atol=1e-9, err_msg=name)


def test_weighting_the_old_state_or_the_new_value_is_a_change_of_sign_in_the_update_gate() -> None:
    (xs, h, *weights), _ = problem(5)
    turned = [w.copy() for w in weights]
    for w in turned:
        w[H : 2 * H] *= -1
    for step in (F.gru_step, F.gru_reset_before_step):
        a, b = step(xs[0], h, *weights, z_weights="old"), step(xs[0], h, *turned, z_weights="new")
        assert np.abs(a - b).max() < 5e-16


def test_where_the_reset_gate_acts_matters() -> None:
    (xs, h, *weights), _ = problem(6)
    assert np.abs(F.gru_step(xs[0], h, *weights) - F.gru_reset_before_step(xs[0], h, *weights)).max() > 0.05


def test_the_gates_are_told() -> None:
    (xs, h, *weights), _ = problem(7)
    new, (r, z, n) = F.gru_step(xs[0], h, *weights, return_gates=True)
    np.testing.assert_allclose(new, z * h + (1 - z) * n, rtol=1e-15)
    assert r.shape == z.shape == n.shape == (B, H) and r.min() > 0 and z.max() < 1


def test_an_unknown_convention_says_which_there_are() -> None:
    (xs, h, *weights), _ = problem()
    with pytest.raises(ArgumentError, match="'old' or 'new'"):
        F.gru_step(xs[0], h, *weights, z_weights="both")


def test_weights_of_another_cell_say_which_blocks_are_expected() -> None:
    x, h, w_ih, w_hh = np.zeros((B, D)), np.zeros((B, H)), np.zeros((4 * H, D)), np.zeros((4 * H, H))
    for step in (F.gru_step, F.gru_reset_before_step):
        with pytest.raises(ShapeError, match=r"(?s)the weights have 20 rows.*H = 5 wide.*3H = 15 rows: the blocks r z n"):
            step(x, h, w_ih, w_hh)
