"""Cross entropy: its numbers, its derivation, and that no score is too large for it."""

from __future__ import annotations

import math

import numpy as np
import pytest

import tinygrad_seq as tg
from tinygrad_seq.errors import ArgumentError, IndexError_, ShapeError
from tinygrad_seq.nn import functional as F

N, C = 6, 5


@pytest.fixture
def case() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.standard_normal((N, C)), rng.integers(0, C, N)


def test_cross_entropy_is_minus_the_log_of_the_softmax_at_the_target(case):
    logits, targets = case
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    losses = -np.log(p[np.arange(N), targets])
    np.testing.assert_allclose(F.cross_entropy(logits, targets, "none"), losses, rtol=1e-13)
    np.testing.assert_allclose(F.cross_entropy(logits, targets, "sum"), losses.sum(), rtol=1e-13)
    np.testing.assert_allclose(F.cross_entropy(logits, targets), losses.mean(), rtol=1e-13)


@pytest.mark.parametrize("scale", [1.0, 1e3])
def test_its_gradient_is_the_prediction_minus_the_truth_for_scores_of_any_size(case, scale: float):
    logits, targets = case
    o = tg.Tensor(scale * logits, requires_grad=True)
    loss = F.cross_entropy(o, targets, "sum")
    loss.backward()
    assert math.isfinite(loss.item())
    np.testing.assert_allclose(o.grad.numpy(), F.softmax(scale * logits) - np.eye(C)[targets], atol=1e-15)


def test_the_derivation_step_by_step(case):
    # L = log(Σ_j e^o_j / e^o_y), so dL/do_i = ŷ_i + e^o_y · d/do_i (1 / e^o_y) = ŷ_i - 1[i = y]
    o, y = case[0][0], case[1][0]
    prediction = np.exp(o) / np.exp(o).sum()
    derivative_of_inverse = np.array([-np.exp(-o[y]) if i == y else 0.0 for i in range(C)])
    derived = prediction + np.exp(o[y]) * derivative_of_inverse
    x = tg.Tensor(o, requires_grad=True)
    F.cross_entropy(x, y).backward()
    np.testing.assert_allclose(x.grad.numpy(), derived, atol=1e-15)


def test_its_hessian_is_the_covariance_of_the_prediction(case):
    # d²L/do² = diag(ŷ) - ŷ ŷ^T
    o = tg.Tensor(case[0][0], requires_grad=True)
    g = tg.grad(F.cross_entropy(o, case[1][0]), o, create_graph=True)
    hessian = np.stack([tg.grad(g, o, np.eye(C)[i]).numpy() for i in range(C)])
    p = F.softmax(case[0][0])
    np.testing.assert_allclose(hessian, np.diag(p) - np.outer(p, p), atol=1e-15)


def test_classes_are_last_whatever_stands_before():
    rng = np.random.default_rng(1)
    logits, targets = rng.standard_normal((4, 3, C)), rng.integers(0, C, (4, 3))
    flat = F.cross_entropy(logits.reshape(-1, C), targets.reshape(-1), "none")
    np.testing.assert_array_equal(F.cross_entropy(logits, targets, "none"), flat.reshape(4, 3))


def test_refilling_the_targets_after_the_loss_does_not_change_its_gradient(case):
    logits, targets = case
    o = tg.Tensor(logits, requires_grad=True)
    loss, kept = F.cross_entropy(o, targets, "sum"), targets.copy()
    targets[:] = 0
    loss.backward()
    np.testing.assert_allclose(o.grad.numpy(), F.softmax(logits) - np.eye(C)[kept], atol=1e-15)


def test_float32_stays_float32(case):
    o = tg.Tensor(case[0].astype("float32"), requires_grad=True)
    loss = F.cross_entropy(o, case[1])
    loss.backward()
    assert loss.dtype == o.grad.dtype == np.float32


@pytest.mark.torch
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_it_equals_pytorch_in_value_and_gradient(case, reduction: str):
    torch = pytest.importorskip("torch", reason="compares with PyTorch")
    logits, targets = case
    ours, theirs = tg.Tensor(logits, requires_grad=True), torch.tensor(logits, requires_grad=True)
    a = F.cross_entropy(ours, targets, reduction)
    b = torch.nn.functional.cross_entropy(theirs, torch.tensor(targets), reduction=reduction)
    np.testing.assert_allclose(a.numpy(), b.detach().numpy(), rtol=1e-12)
    a.sum().backward()
    b.sum().backward()
    np.testing.assert_allclose(ours.grad.numpy(), theirs.grad.numpy(), atol=1e-14)


@pytest.mark.parametrize(
    ("logits", "targets", "reduction", "error", "says"),
    [
        ((4, 3), [0, 1, 2], "mean", ShapeError, r"targets \(3,\) do not fit logits \(4, 3\)"),
        ((2, 3, 7), np.zeros((2, 7), int), "mean", ShapeError, r"swapaxes\(logits, 1, -1\)"),
        ((2, 3), [0, 3], "mean", IndexError_, "3 is out of range"),
        ((2, 3), [0, -1], "mean", IndexError_, "-1 is out of range"),
        ((2, 3), [0.0, 1.0], "mean", ArgumentError, "must be integers"),
        ((2, 3), [0, 1], "average", ArgumentError, "'mean', 'sum' or 'none'"),
        ((), 0, "mean", ShapeError, "scalar"),
    ],
)
def test_wrong_calls_say_what_was_expected(logits, targets, reduction, error, says):
    with pytest.raises(error, match=says):
        F.cross_entropy(np.zeros(logits), targets, reduction)


def test_softmax_is_a_distribution_for_scores_of_any_size():
    for scale in (1.0, 1e4):
        p = F.softmax(scale * np.random.default_rng(2).standard_normal((3, C)))
        np.testing.assert_allclose(p.sum(axis=-1), 1, rtol=1e-12)
        assert (p >= 0).all()
