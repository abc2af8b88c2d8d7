"""Cross entropy: its numbers, its derivation, and that no score is too large for it."""

from __future__ import annotations

import contextlib
import inspect
import math

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

import tinygrad_seq as tg
from tinygrad_seq import nn
from tinygrad_seq.errors import ArgumentError, IndexError_, ShapeError
from tinygrad_seq.fusion import expand
from tinygrad_seq.nn import functional as F
from tinygrad_seq.testing import check_grads

N, C = 6, 5


@pytest.fixture
def case() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.standard_normal((N, C)), rng.integers(0, C, N)


def test_cross_entropy_is_minus_the_log_of_the_softmax_at_the_target(case):
    logits, targets = case
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    losses = -np.log(p[np.arange(N), targets])
    np.testing.assert_allclose(F.cross_entropy(logits, targets, reduction="none"), losses, rtol=1e-13)
    np.testing.assert_allclose(F.cross_entropy(logits, targets, reduction="sum"), losses.sum(), rtol=1e-13)
    np.testing.assert_allclose(F.cross_entropy(logits, targets), losses.mean(), rtol=1e-13)


@pytest.mark.parametrize("scale", [1.0, 1e3])
def test_its_gradient_is_the_prediction_minus_the_truth_for_scores_of_any_size(case, scale: float):
    logits, targets = case
    o = tg.Tensor(scale * logits, requires_grad=True)
    loss = F.cross_entropy(o, targets, reduction="sum")
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
    flat = F.cross_entropy(logits.reshape(-1, C), targets.reshape(-1), reduction="none")
    np.testing.assert_array_equal(F.cross_entropy(logits, targets, reduction="none"), flat.reshape(4, 3))


def test_refilling_the_targets_after_the_loss_does_not_change_its_gradient(case):
    logits, targets = case
    o = tg.Tensor(logits, requires_grad=True)
    loss, kept = F.cross_entropy(o, targets, reduction="sum"), targets.copy()
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
    a = F.cross_entropy(ours, targets, reduction=reduction)
    b = torch.nn.functional.cross_entropy(theirs, torch.tensor(targets), reduction=reduction)
    np.testing.assert_allclose(a.numpy(), b.detach().numpy(), rtol=1e-12)
    a.sum().backward()
    b.sum().backward()
    np.testing.assert_allclose(ours.grad.numpy(), theirs.grad.numpy(), atol=1e-14)


@pytest.mark.parametrize(
    ("logits", "targets", "reduction", "error", "says"),
    [
        ((4, 3), [0, 1, 2], "mean", ShapeError, r"targets \(3,\) do not fit logits \(4, 3\)"),
        ((2, 3, 7), np.zeros((2, 7), int), "mean", ShapeError, "axis=1"),
        ((2, 3), [0, 3], "mean", IndexError_, "3 is out of range"),
        ((2, 3), [0, -1], "mean", IndexError_, "-1 is out of range"),
        ((2, 3), [0.0, 1.0], "mean", ArgumentError, "must be integers"),
        ((2, 3), [0, 1], "average", ArgumentError, "'mean', 'sum' or 'none'"),
        ((), 0, "mean", ShapeError, "scalar"),
    ],
)
def test_wrong_calls_say_what_was_expected(logits, targets, reduction, error, says):
    with pytest.raises(error, match=says):
        F.cross_entropy(np.zeros(logits), targets, reduction=reduction)


def test_softmax_is_a_distribution_for_scores_of_any_size():
    for scale in (1.0, 1e4):
        p = F.softmax(scale * np.random.default_rng(2).standard_normal((3, C)))
        np.testing.assert_allclose(p.sum(axis=-1), 1, rtol=1e-12)
        assert (p >= 0).all()


# ---- Against PyTorch -----------------------------------------------------------------------------------------------------------------


rng = np.random.default_rng(3)
B = 7
x, x2, x3, t = (rng.standard_normal((B, C)) for _ in range(4))
p, q = rng.uniform(0.05, 0.95, (B, C)), rng.uniform(0, 1, (B, C))
ids = rng.integers(0, C, B)
some_ignored, all_ignored = np.where(np.arange(B) % 3, ids, -100), np.full(B, -100)
weight, distribution = rng.uniform(0, 2, C), rng.dirichlet(np.ones(C), B)
signs, yes = np.where(rng.random((B, C)) < 0.5, 1, -1), (rng.random((B, C)) < 0.5).astype(float)
labels = np.array(
    [[1, 3, -1, 0, 0], [0, -1, 2, 2, 2], [-1] * 5, [4, 3, 2, 1, 0], [2, 1, -1, -1, -1], [4, -1, -1, -1, -1], [3, 0, -1, 1, 1]]
)
in_space = rng.standard_normal((3, C, 4, 2)), rng.integers(0, C, (3, 4, 2))

CASES = {  # name: (function, arguments, options)
    "cross_entropy": ("cross_entropy", (x, ids), {}),
    "cross_entropy of large scores": ("cross_entropy", (1e3 * x, ids), {}),
    "cross_entropy of one row": ("cross_entropy", (x[0], ids[0]), {}),
    "cross_entropy, weighted": ("cross_entropy", (x, ids), {"weight": weight}),
    "cross_entropy, some ignored": ("cross_entropy", (x, some_ignored), {}),
    "cross_entropy, a class ignored": ("cross_entropy", (x, ids), {"ignore_index": int(ids[0])}),
    "cross_entropy, some ignored, weighted": ("cross_entropy", (x, some_ignored), {"weight": weight}),
    "cross_entropy, smoothed": ("cross_entropy", (x, ids), {"label_smoothing": 0.1}),
    "cross_entropy, smoothed, weighted": ("cross_entropy", (x, ids), {"label_smoothing": 0.1, "weight": weight}),
    "cross_entropy, all smoothed": ("cross_entropy", (x, ids), {"label_smoothing": 1.0}),
    "cross_entropy, smoothed, weighted, some ignored": (
        "cross_entropy",
        (x, some_ignored),
        {"label_smoothing": 0.3, "weight": weight},
    ),
    "cross_entropy at probabilities": ("cross_entropy", (x, distribution), {}),
    "cross_entropy at probabilities, weighted, smoothed": (
        "cross_entropy",
        (x, distribution),
        {"weight": weight, "label_smoothing": 0.1},
    ),
    "cross_entropy in PyTorch's layout": ("cross_entropy", in_space[:2], {"axis": 1, "weight": weight, "label_smoothing": 0.1}),
    "cross_entropy at probabilities in PyTorch's layout": (
        "cross_entropy",
        (in_space[0], F.softmax(rng.standard_normal((3, C, 4, 2)), 1)),
        {"axis": 1, "weight": weight},
    ),
    "nll_loss": ("nll_loss", (x, ids), {}),
    "nll_loss, weighted, some ignored": ("nll_loss", (x, some_ignored), {"weight": weight}),
    "nll_loss in PyTorch's layout": ("nll_loss", in_space[:2], {"axis": 1}),
    "binary_cross_entropy": ("binary_cross_entropy", (p, q), {}),
    "binary_cross_entropy, weighted": ("binary_cross_entropy", (p, q), {"weight": weight}),
    "binary_cross_entropy_with_logits": ("binary_cross_entropy_with_logits", (x, q), {}),
    "binary_cross_entropy_with_logits of large scores": ("binary_cross_entropy_with_logits", (1e3 * x, yes), {}),
    "binary_cross_entropy_with_logits, weighted": (
        "binary_cross_entropy_with_logits",
        (x, q),
        {"weight": weight, "pos_weight": weight + 1},
    ),
    "multilabel_soft_margin_loss": ("multilabel_soft_margin_loss", (x, yes), {}),
    "multilabel_soft_margin_loss, weighted": ("multilabel_soft_margin_loss", (x, yes), {"weight": weight}),
    "kl_div": ("kl_div", (x, distribution), {}),
    "kl_div of logarithms": ("kl_div", (x, np.log(distribution)), {"log_target": True}),
    "mse_loss": ("mse_loss", (x, t), {}),
    "mse_loss, weighted": ("mse_loss", (x, t), {"weight": q}),
    "l1_loss": ("l1_loss", (x, np.where(q < 0.3, x, t)), {}),
    "l1_loss, weighted": ("l1_loss", (x, t), {"weight": q}),
    "smooth_l1_loss": ("smooth_l1_loss", (x, t), {}),
    "smooth_l1_loss, beta": ("smooth_l1_loss", (x, t), {"beta": 0.3}),
    "smooth_l1_loss without smoothing": ("smooth_l1_loss", (x, t), {"beta": 0.0}),
    "huber_loss": ("huber_loss", (x, t), {}),
    "huber_loss, delta, weighted": ("huber_loss", (x, t), {"delta": 0.4, "weight": q}),
    "gaussian_nll_loss": ("gaussian_nll_loss", (x, t, q + 0.1), {}),
    "gaussian_nll_loss of tiny variances": ("gaussian_nll_loss", (x, t, 1e-8 * q), {"full": True, "eps": 1e-3}),
    "gaussian_nll_loss of one variance a row": ("gaussian_nll_loss", (x, t, q[:, 0] + 0.1), {}),
    "gaussian_nll_loss of one variance a row, kept": ("gaussian_nll_loss", (x, t, q[:, :1] + 0.1), {}),
    "poisson_nll_loss": ("poisson_nll_loss", (x, 5 * q), {}),
    "poisson_nll_loss of means": ("poisson_nll_loss", (p, 5 * q), {"log_input": False, "full": True}),
    "cosine_similarity": ("cosine_similarity", (x, t), {}),
    "cosine_similarity along the first axis": ("cosine_similarity", (x, t[:, :1]), {"axis": 0, "eps": 1e-2}),
    "cosine_similarity of a zero vector": ("cosine_similarity", (x * (np.arange(B) > 1)[:, None], t), {}),
    "cosine_embedding_loss": ("cosine_embedding_loss", (x, t, signs[:, 0]), {}),
    "cosine_embedding_loss, margin": ("cosine_embedding_loss", (x, t, signs[:, 0]), {"margin": 0.3}),
    "hinge_embedding_loss": ("hinge_embedding_loss", (x, signs), {}),
    "hinge_embedding_loss, margin": ("hinge_embedding_loss", (x, signs), {"margin": 0.3}),
    "margin_ranking_loss": ("margin_ranking_loss", (x, t, signs), {}),
    "margin_ranking_loss, margin": ("margin_ranking_loss", (x, t, signs), {"margin": 0.7}),
    "soft_margin_loss": ("soft_margin_loss", (10 * x, signs), {}),
    "multi_margin_loss": ("multi_margin_loss", (x, ids), {}),
    "multi_margin_loss, squared, weighted": ("multi_margin_loss", (x, ids), {"p": 2, "margin": 0.4, "weight": weight}),
    "multi_margin_loss of one row": ("multi_margin_loss", (x[0], ids[0]), {}),
    "multilabel_margin_loss": ("multilabel_margin_loss", (x, labels), {}),
    "triplet_margin_loss": ("triplet_margin_loss", (x, x2, x3), {}),
    "triplet_margin_loss, swapped": ("triplet_margin_loss", (x, x2, x3), {"p": 1.5, "margin": 2.0, "swap": True}),
}


def peers(name, reduction):
    """Our function and PyTorch's, with the options of a case."""
    import torch

    function, _, options = CASES[name]
    options = options if function == "cosine_similarity" else {**options, "reduction": reduction}

    def theirs(*arguments):
        dtype = arguments[0].dtype
        words = {k: torch.tensor(v, dtype=dtype) if isinstance(v, np.ndarray) else v for k, v in options.items() if k != "axis"}
        if function == "cosine_similarity":
            words["dim"] = options.get("axis", 1)
        if function == "kl_div" and reduction == "mean":  # PyTorch warns that it is no divergence
            return torch.nn.functional.kl_div(*arguments, **{**words, "reduction": "sum"}) / arguments[0].numel()
        return getattr(torch.nn.functional, function)(*arguments, **words)

    return lambda *arguments: getattr(F, function)(*arguments, **options), theirs


def inputs(name):
    return [np.asarray(a) for a in CASES[name][1]]


@pytest.mark.torch
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("name", CASES)
def test_every_loss_equals_pytorchs_in_value_and_gradients(name, reduction, dtype):
    pytest.importorskip("torch")
    from torch_peer import agrees

    ours, theirs = peers(name, reduction)
    agrees(ours, theirs, *inputs(name), dtype=dtype)


@pytest.mark.torch
@pytest.mark.parametrize("name", CASES)
def test_every_second_derivative_equals_pytorchs(name):
    torch = pytest.importorskip("torch")
    if name.startswith("multi_margin") or "zero vector" in name:
        return  # PyTorch has none of the one, and NaN for the other
    ours, theirs = peers(name, "sum")
    arrays = inputs(name)
    mine = [tg.tensor(a, requires_grad=a.dtype.kind == "f") for a in arrays]
    others = [torch.tensor(a, requires_grad=a.dtype.kind == "f") for a in arrays]
    f = [a for a in mine if a.requires_grad]
    h = [a for a in others if a.requires_grad]
    first = tg.grad(ours(*mine).sum(), f, create_graph=True)
    second = torch.autograd.grad(theirs(*others).sum(), h, create_graph=True)
    u = [rng.standard_normal(a.shape) for a in f]
    weighted = sum((g * w).sum() for g, w in zip(first, u, strict=True))
    if not weighted.requires_grad:
        return
    a = tg.grad(weighted, f, allow_unused=True)
    b = torch.autograd.grad(sum((g * torch.tensor(w)).sum() for g, w in zip(second, u, strict=True)), h, allow_unused=True)
    for m, o, at in zip(a, b, f, strict=True):
        m, o = np.zeros(at.shape) if m is None else m.numpy(), np.zeros(at.shape) if o is None else o.numpy(force=True)
        np.testing.assert_allclose(m, o, rtol=1e-9, atol=1e-9 * max(1, np.abs(o).max()))


# ---- Extremes ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.torch
def test_certain_probabilities_cost_at_most_100_and_have_pytorchs_slope():
    torch = pytest.importorskip("torch")
    certain, answers = np.array([0.0, 1.0, 1.0, 0.0, 1e-60, 1 - 1e-16, 0.5]), np.array([0.0, 1.0, 0.0, 1.0, 1.0, 0.5, 0.3])
    a, b = tg.tensor(certain, requires_grad=True), torch.tensor(certain, requires_grad=True)
    ours = F.binary_cross_entropy(a, answers, reduction="none")
    theirs = torch.nn.functional.binary_cross_entropy(b, torch.tensor(answers), reduction="none")
    np.testing.assert_allclose(ours.numpy(), theirs.detach().numpy(), rtol=1e-12)
    assert ours.numpy()[2:5].tolist() == [100, 100, 100]
    ours.sum().backward()
    theirs.sum().backward()
    np.testing.assert_allclose(a.grad.numpy(), b.grad.numpy(), rtol=1e-9)
    t = tg.tensor(answers, requires_grad=True)  # where PyTorch says infinity: the loss is a line in t with a finite slope
    F.binary_cross_entropy(certain, t, reduction="sum").backward()
    assert np.isfinite(t.grad.numpy()).all() and t.grad.numpy()[0] == 100


@pytest.mark.torch
@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1}, {"weight": weight}], ids=str)
def test_nothing_but_ignored_targets_is_nan_in_the_mean_and_0_in_the_sum_as_in_pytorch(options):
    torch = pytest.importorskip("torch")
    words = {k: torch.tensor(v) if k == "weight" else v for k, v in options.items()}
    for reduction in ("mean", "sum"):
        a, b = tg.tensor(x, requires_grad=True), torch.tensor(x, requires_grad=True)
        theirs = torch.nn.functional.cross_entropy(b, torch.tensor(all_ignored), reduction=reduction, **words)
        with np.errstate(invalid="ignore"):
            ours = F.cross_entropy(a, all_ignored, reduction=reduction, **options)
        np.testing.assert_equal(ours.item(), theirs.item())
        assert math.isnan(ours.item()) is (reduction == "mean")
        ours.backward()
        theirs.backward()
        assert not a.grad.numpy().any()
        if not options.get("label_smoothing"):  # there PyTorch has 0/0
            assert not b.grad.numpy().any()


@pytest.mark.parametrize("unfold", [False, True], ids=["kernel", "equation"])
def test_an_ignored_row_costs_nothing_and_learns_nothing_whatever_it_holds(unfold):
    o = x.copy()
    o[some_ignored == -100] = np.nan
    o[0, :2] = np.nan
    a = tg.tensor(o, requires_grad=True)
    with tg.unfolded() if unfold else contextlib.nullcontext():
        loss = F.cross_entropy(a, some_ignored, weight=weight, label_smoothing=0.1)
    loss.backward()
    kept = some_ignored != -100
    assert math.isclose(loss.item(), float(F.cross_entropy(x[kept], ids[kept], weight=weight, label_smoothing=0.1)), rel_tol=1e-13)
    assert (a.grad.numpy()[~kept] == 0).all() and np.isfinite(a.grad.numpy()).all()


@pytest.mark.parametrize("unfold", [False, True], ids=["kernel", "equation"])
def test_an_impossible_class_costs_infinitely_much_only_as_the_target(unfold):
    o = np.array([[1.0, -np.inf, 2.0], [1.0, -np.inf, 2.0]])
    a = tg.tensor(o, requires_grad=True)
    with tg.unfolded() if unfold else contextlib.nullcontext():
        losses = F.cross_entropy(a, [0, 1], reduction="none")
    losses.sum().backward()
    np.testing.assert_allclose(losses.numpy(), [np.log(1 + np.e), np.inf], rtol=1e-13)
    p = np.array([1, 0, np.e]) / (1 + np.e)
    np.testing.assert_allclose(a.grad.numpy(), [p - [1, 0, 0], p - [0, 1, 0]], atol=1e-15)


def test_an_impossible_class_of_probability_0_costs_nothing():
    o, truth = tg.tensor([[1.0, -np.inf, 2.0]], requires_grad=True), tg.tensor([[0.25, 0.0, 0.75]], requires_grad=True)
    loss = F.cross_entropy(o, truth)
    loss.backward()
    possible = [0, 2]
    assert math.isclose(loss.item(), float(F.cross_entropy(o.numpy()[:, possible], truth.numpy()[:, possible])), rel_tol=1e-6)
    assert np.isfinite(o.grad.numpy()).all() and np.isfinite(truth.grad.numpy()).all() and o.grad.numpy()[0, 1] == 0


@pytest.mark.parametrize(
    "options", [{}, {"weight": weight}, {"label_smoothing": 0.2}, {"label_smoothing": 0.2, "weight": weight}], ids=str
)
@pytest.mark.parametrize("targets", [ids, some_ignored], ids=["all", "some"])
def test_the_kernel_equals_its_equation_to_second_order(targets, options):
    fast = F.cross_entropy(x, targets, reduction="none", **options)
    with tg.unfolded():
        np.testing.assert_allclose(fast, F.cross_entropy(x, targets, reduction="none", **options), rtol=1e-13)
    check_grads(lambda o: F.cross_entropy(o, targets, **options), [x])


@hypothesis.given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.data())
def test_classes_may_be_any_axis(shape, data):
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    draw = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    o = draw.standard_normal(shape)
    y = draw.integers(0, shape[axis], np.moveaxis(o, axis, -1).shape[:-1])
    a, b = tg.tensor(o, requires_grad=True), tg.tensor(o, requires_grad=True)
    losses = F.cross_entropy(a, y, reduction="none", axis=axis, label_smoothing=0.1)
    moved = F.cross_entropy(tg.moveaxis(b, axis, -1), y, reduction="none", label_smoothing=0.1)
    losses.sum().backward()
    moved.sum().backward()
    np.testing.assert_array_equal(losses.numpy(), moved.numpy())
    np.testing.assert_array_equal(a.grad.numpy(), b.grad.numpy())
    truth = np.moveaxis(np.eye(shape[axis])[y], -1, axis)
    np.testing.assert_allclose(
        F.cross_entropy(o, truth, reduction="none", axis=axis, label_smoothing=0.1), losses.numpy(), rtol=1e-12, atol=1e-14
    )


def test_a_fused_loss_can_be_opened():
    for targets in (ids, some_ignored):
        for reduction in ("mean", "none"):
            loss = F.cross_entropy(tg.tensor(x, requires_grad=True), targets, weight, label_smoothing=0.1, reduction=reduction)
            assert loss.op == "surprise"
            expand(loss.node)  # raises where kernel and equation disagree


def test_an_empty_batch_costs_nothing():
    nothing, none = np.zeros((0, C)), np.zeros(0, int)
    assert F.cross_entropy(nothing, none, reduction="sum") == 0 and F.cross_entropy(nothing, none, reduction="none").shape == (0,)
    with np.errstate(invalid="ignore"):
        assert math.isnan(F.cross_entropy(nothing, none))


def test_many_classes_are_worked_off_in_blocks():
    o, y = rng.standard_normal((50, 3000)).astype("float32"), rng.integers(0, 3000, 50)
    a = tg.tensor(o, requires_grad=True)
    F.cross_entropy(a, y).backward()
    p = np.exp(o - o.max(1, keepdims=True), dtype="float64")
    p /= p.sum(1, keepdims=True)
    p[np.arange(50), y] -= 1
    np.testing.assert_allclose(a.grad.numpy(), p / 50, rtol=2e-5, atol=1e-9)


# ---- The loss of a sequence ----------------------------------------------------------------------------------------------------------

T = 6
lengths = np.array([6, 0, 3, 1])
scores, words = rng.standard_normal((T, 4, C)), rng.integers(0, C, (T, 4))
SEQUENCES = {
    "cross_entropy": (F.cross_entropy, scores, words, {"label_smoothing": 0.1}),
    "cross_entropy, weighted": (F.cross_entropy, scores, words, {"weight": weight}),
    "nll_loss": (F.nll_loss, scores, words, {}),
    "mse_loss": (F.mse_loss, scores, rng.standard_normal((T, 4, C)), {}),
    "binary_cross_entropy_with_logits": (F.binary_cross_entropy_with_logits, scores[..., 0], rng.random((T, 4)), {}),
}
each_sequence = pytest.mark.parametrize("name", SEQUENCES)


@pytest.mark.parametrize("unfold", [False, True], ids=["at once", "step by step"])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@each_sequence
def test_the_loss_of_a_padded_batch_is_that_of_its_rows_and_padding_learns_nothing(name, reduction, unfold):
    loss, outputs, targets, options = SEQUENCES[name]
    padding = np.arange(T)[:, None] >= lengths
    outputs, targets = outputs.copy(), targets.copy()
    single = [loss(outputs[:n, b], targets[:n, b], reduction="none", **options) for b, n in enumerate(lengths)]
    count = sum(each.size for each in single)
    gradients = np.zeros_like(outputs)
    for b, n in enumerate(lengths):
        row = tg.tensor(outputs[:n, b], requires_grad=True)
        loss(row, targets[:n, b], reduction="none", **options).sum().backward()
        gradients[:n, b] = row.grad.numpy()
    outputs[padding], targets[padding] = np.nan, -7 if targets.dtype.kind == "i" else np.nan
    o = tg.tensor(outputs, requires_grad=True)
    with tg.unfolded() if unfold else contextlib.nullcontext():
        y = F.over_time(loss, o, targets, lengths, reduction, **options)
    y.sum().backward()
    if reduction == "none":
        for b, n in enumerate(lengths):
            np.testing.assert_allclose(y.numpy()[:n, b], single[b], rtol=1e-12)
            assert not y.numpy()[n:, b].any()
    else:
        total = sum(each.sum() for each in single)
        np.testing.assert_allclose(y.item(), total / count if reduction == "mean" else total, rtol=1e-12)
    np.testing.assert_allclose(o.grad.numpy(), gradients / count if reduction == "mean" else gradients, atol=1e-14)
    assert (o.grad.numpy()[padding] == 0).all()


@each_sequence
def test_unfolded_there_is_one_loss_for_each_step_and_they_add_up(name):
    loss, outputs, targets, options = SEQUENCES[name]
    o = tg.tensor(outputs, requires_grad=True)
    at_once = F.over_time(loss, o, targets, **options)
    with tg.unfolded():
        total = F.over_time(loss, o, targets, **options)
    (stacked,) = [node for node in tg.graph.toposort([total]) if node.prim is not None and node.prim.name == "stack"]
    steps = stacked.args
    assert [node.frame.time for node in steps] == list(range(1, T + 1))
    assert {node.frame.parent.owner for node in steps} == {"over_time"}
    each = [float(tg.graph.value_of(node)) for node in steps]
    np.testing.assert_allclose(sum(each), at_once.item(), rtol=1e-12)
    count = loss(outputs, targets, reduction="none", **options).size
    np.testing.assert_allclose(each, [loss(a, b, reduction="sum", **options) / count for a, b in zip(outputs, targets)], rtol=1e-12)


@pytest.mark.parametrize("unfold", [False, True], ids=["at once", "step by step"])
def test_rows_of_any_length_learn_what_they_would_alone(unfold):
    """A padded batch through a recurrent layer: loss and every gradient are the sums over its rows."""
    rnn, out = nn.LSTM(3, 4, dtype="float64"), nn.Linear(4, C, dtype="float64")
    xs, parameters = rng.standard_normal((T, 4, 3)), [*rnn.parameters(), *out.parameters()]
    alone = [
        F.cross_entropy(out(rnn(tg.tensor(xs[:n, [b]]))[0]), words[:n, [b]], reduction="sum") for b, n in enumerate(lengths) if n
    ]
    expected = tg.grad(sum(alone), parameters)
    padded, targets = xs.copy(), words.copy()
    behind = np.arange(T)[:, None] >= lengths
    padded[behind], targets[behind] = np.nan, 99
    with tg.unfolded() if unfold else contextlib.nullcontext():
        loss = F.over_time(F.cross_entropy, out(rnn(tg.tensor(padded), lengths=lengths)[0]), targets, lengths, "sum")
    np.testing.assert_allclose(loss.item(), sum(each.item() for each in alone), rtol=1e-12)
    for g, e in zip(tg.grad(loss, parameters), expected, strict=True):
        np.testing.assert_allclose(g.numpy(), e.numpy(), rtol=1e-12, atol=1e-12)


def test_the_gradient_at_each_moment_is_the_prediction_minus_the_truth():
    # dL/dL(t) = 1, dL/do_i(t) = ŷ_i(t) - 1[i = y(t)]
    with tg.unfolded():
        moments = [tg.tensor(o, requires_grad=True) for o in scores]
        F.over_time(F.cross_entropy, tg.stack(moments), words, reduction="sum").backward()
    for o, y in zip(moments, words, strict=True):
        np.testing.assert_allclose(o.grad.numpy(), F.softmax(o.numpy()) - np.eye(C)[y], atol=1e-15)


def test_without_lengths_it_is_the_loss_itself():
    assert F.over_time(F.cross_entropy, scores, words) == F.cross_entropy(scores, words)
    np.testing.assert_array_equal(F.over_time(F.mse_loss, scores, 0 * scores, reduction="none"), scores**2)


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: F.over_time(F.cross_entropy, scores, words[:3]), ShapeError, r"targets \(3, 4\) do not fit outputs \(6, 4, 5\)"),
        (lambda: F.over_time(F.cross_entropy, scores, words, [1, 2]), ShapeError, "one for each row"),
        (lambda: F.over_time(F.cross_entropy, scores, words, [1, 2, 3, 7]), ShapeError, r"0 \.\.\. T = 6"),
        (lambda: F.over_time(F.cross_entropy, scores, words, axis=1), ArgumentError, "from the end"),
        (lambda: F.over_time("cross_entropy", scores, words), ArgumentError, "no function"),
        (lambda: F.over_time(F.cross_entropy, scores, words, reduction="average"), ArgumentError, "'mean', 'sum' or 'none'"),
    ],
)
def test_a_wrong_call_of_over_time_says_what_was_expected(call, error, says):
    with pytest.raises(error, match=says):
        call()


# ---- Modules -------------------------------------------------------------------------------------------------------------------------

MODULES = {  # name: (its options, what it is called with)
    "CrossEntropyLoss": ({"weight": weight, "label_smoothing": 0.1, "ignore_index": 2}, (x, ids)),
    "NLLLoss": ({"weight": weight, "ignore_index": 2}, (x, ids)),
    "BCELoss": ({"weight": weight}, (p, q)),
    "BCEWithLogitsLoss": ({"weight": weight, "pos_weight": weight}, (x, q)),
    "MultiLabelSoftMarginLoss": ({"weight": weight}, (x, yes)),
    "KLDivLoss": ({"log_target": True}, (x, np.log(distribution))),
    "MSELoss": ({}, (x, t)),
    "L1Loss": ({}, (x, t)),
    "SmoothL1Loss": ({"beta": 0.3}, (x, t)),
    "HuberLoss": ({"delta": 0.3}, (x, t)),
    "GaussianNLLLoss": ({"full": True, "eps": 0.2}, (x, t, q)),
    "PoissonNLLLoss": ({"log_input": False, "full": False, "eps": 0.1}, (p, q)),
    "CosineEmbeddingLoss": ({"margin": 0.3}, (x, t, signs[:, 0])),
    "HingeEmbeddingLoss": ({"margin": 0.3}, (x, signs)),
    "MarginRankingLoss": ({"margin": 0.3}, (x, t, signs)),
    "SoftMarginLoss": ({}, (x, signs)),
    "MultiMarginLoss": ({"p": 2, "margin": 0.3, "weight": weight}, (x, ids)),
    "MultiLabelMarginLoss": ({}, (x, labels)),
    "TripletMarginLoss": ({"margin": 0.3, "p": 3.0, "eps": 0.1, "swap": True}, (x, x2, x3)),
    "CTCLoss": ({"blank": 2, "zero_infinity": True}, (scores, np.array([[0, 1], [1, 1], [3, 4], [4, 0]]), lengths, [2, 1, 2, 0])),
}


def test_every_loss_module_is_here():
    assert set(MODULES) | {"CosineSimilarity"} == {
        name
        for name, cls in vars(nn.loss).items()
        if inspect.isclass(cls) and issubclass(cls, nn.Module) and cls.__module__ == nn.loss.__name__ and name[0] != "_"
    }


@pytest.mark.torch
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("name", MODULES)
def test_every_module_has_pytorchs_name_options_buffers_and_numbers(name, reduction):
    torch = pytest.importorskip("torch")
    from torch_peer import agrees, module_agrees

    options, arguments = MODULES[name]
    if name == "KLDivLoss" and reduction == "mean":
        reduction = "batchmean"
    theirs = {k: torch.tensor(v) if isinstance(v, np.ndarray) else v for k, v in options.items()}
    theirs = getattr(torch.nn, name)(**theirs, reduction=reduction)
    ours = getattr(nn, name)(**options, reduction=reduction)
    if name == "CTCLoss":  # PyTorch's gradient is that of the scores behind the log softmax
        pair = lambda o, *a: ours(F.log_softmax(o), *a), lambda o, *a: theirs(o.log_softmax(-1), *a)
        agrees(*pair, *(np.asarray(a) for a in arguments))
    else:
        module_agrees(ours, theirs, *arguments)
    usual = {
        n for n, parameter in inspect.signature(getattr(torch.nn, name)).parameters.items() if n not in ("size_average", "reduce")
    }
    assert usual <= set(inspect.signature(getattr(nn, name)).parameters), "every option of PyTorch's"


def test_a_module_prints_what_is_unusual_about_it():
    assert repr(nn.CrossEntropyLoss()) == "CrossEntropyLoss()"
    assert repr(nn.CrossEntropyLoss(ignore_index=0, reduction="sum")) == "CrossEntropyLoss(ignore_index=0, reduction='sum')"
    assert repr(nn.TripletMarginLoss(2.0, swap=True)) == "TripletMarginLoss(margin=2.0, swap=True)"


def test_weights_move_and_are_saved_with_the_module():
    loss = nn.CrossEntropyLoss([1.0, 2.0])
    assert list(loss.state_dict()) == ["weight"] and not list(loss.parameters())
    assert loss.to(dtype="float64").weight.dtype == np.float64


# ---- Every back-end, and what wrong calls say ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_every_loss_on_every_backend(name, xp):
    function, arguments, options = CASES[name]
    here = {k: xp.asarray(v) if isinstance(v, np.ndarray) else v for k, v in options.items()}
    results = []
    for library, words in ((xp, here), (np, options)):
        tensors = [tg.tensor(library.asarray(a), requires_grad=np.asarray(a).dtype.kind == "f") for a in map(np.asarray, arguments)]
        y = getattr(F, function)(*tensors, **words)
        y.sum().backward()
        results.append([tg.backend.to_numpy(a) for a in (y.data, *(s.grad.data for s in tensors if s.requires_grad))])
        assert tg.backend.array_module(y.data) is library
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14)


def test_over_time_on_every_backend(xp):
    for loss, outputs, targets, options in SEQUENCES.values():
        words = {k: xp.asarray(v) if isinstance(v, np.ndarray) else v for k, v in options.items()}
        for reduction in ("mean", "none"):
            o = tg.tensor(xp.asarray(outputs), requires_grad=True)
            y = F.over_time(loss, o, xp.asarray(targets), lengths, reduction, **words)
            y.sum().backward()
            np.testing.assert_allclose(
                tg.backend.to_numpy(y.data), F.over_time(loss, outputs, targets, lengths, reduction, **options), rtol=1e-12
            )


def test_on_a_device_cross_entropy_does_not_wait(device_xp):
    import strict_cupy

    if device_xp is not strict_cupy.xp:
        pytest.skip("only the double counts its waits")
    o, y = tg.tensor(device_xp.asarray(x), requires_grad=True), device_xp.asarray(some_ignored)
    with strict_cupy.no_syncs():
        F.cross_entropy(o, y, label_smoothing=0.1).backward()


@pytest.mark.parametrize("name", CASES)
def test_every_loss_keeps_float32(name):
    function, arguments, options = CASES[name]
    arrays = [np.asarray(a) for a in arguments]
    tensors = [tg.tensor(a.astype("float32"), requires_grad=True) if a.dtype.kind == "f" else a for a in arrays]
    y = getattr(F, function)(*tensors, **options)  # weights in float64
    y.sum().backward()
    assert y.dtype == np.float32 and all(a.grad.dtype == np.float32 for a in tensors if isinstance(a, tg.Tensor))


@pytest.mark.parametrize("name", CASES)
def test_arrays_in_arrays_out(name):
    function, arguments, options = CASES[name]
    y = getattr(F, function)(*arguments, **options)
    tensors = [tg.tensor(np.asarray(a)) for a in arguments]
    assert not isinstance(y, tg.Tensor)
    np.testing.assert_array_equal(y, getattr(F, function)(*tensors, **options).numpy())


WRONG = [
    (lambda: F.cross_entropy(x, ids, "sum"), ArgumentError, "reduction='sum'"),
    (lambda: F.cross_entropy(x, ids, weight[:2]), ShapeError, r"\(5,\), one weight for each class"),
    (lambda: F.cross_entropy(x, ids, label_smoothing=1.5), ArgumentError, r"0 \.\.\. 1"),
    (lambda: F.cross_entropy(x, distribution[:2]), ArgumentError, r"or probabilities \(7, 5\)"),
    (lambda: F.cross_entropy(x, ids, axis=2), ShapeError, "no axis 2"),
    (lambda: F.cross_entropy(ids, ids), ArgumentError, "floating-point"),
    (lambda: F.cross_entropy(x.T, ids), ShapeError, "axis=0"),
    (lambda: F.cross_entropy(x, np.where(ids == 0, -1, ids)), IndexError_, "-1 is out of range"),
    (lambda: F.nll_loss(x, distribution), ArgumentError, "must be integers"),
    (lambda: F.binary_cross_entropy(x, q), ArgumentError, "binary_cross_entropy_with_logits"),
    (lambda: F.binary_cross_entropy(p, q[:, :1]), ShapeError, "the same shape"),
    (lambda: F.mse_loss(x[:, :1], t[:, 0]), ShapeError, r"targets\[\.\.\., None\]"),
    (lambda: F.mse_loss(x, t[0]), ShapeError, "tg.broadcast_to"),
    (lambda: F.mse_loss(ids, ids), ArgumentError, "floating-point"),
    (lambda: F.mse_loss(x, t, weight=weight), ShapeError, "one for each output"),
    (lambda: F.l1_loss(x, t, reduction="batchmean"), ArgumentError, "'mean', 'sum' or 'none'"),
    (lambda: F.kl_div(x, t, reduction="median"), ArgumentError, "'none' or 'batchmean'"),
    (lambda: F.huber_loss(x, t, delta=0.0), ArgumentError, "delta > 0"),
    (lambda: F.smooth_l1_loss(x, t, beta=-1.0), ArgumentError, "beta >= 0"),
    (lambda: F.gaussian_nll_loss(x, t, -q), ArgumentError, "not below 0"),
    (lambda: F.gaussian_nll_loss(x, t, q[:2]), ShapeError, r"\(7, 5\) or \(7,\)"),
    (lambda: F.hinge_embedding_loss(x, yes), ArgumentError, "2 \\* t - 1"),
    (lambda: F.margin_ranking_loss(x, t[:, 0], signs), ShapeError, "the same shape"),
    (lambda: F.multi_margin_loss(x, ids[:3]), ShapeError, r"targets \(7,\)"),
    (lambda: F.multi_margin_loss(x, ids, p=3), ArgumentError, "1 or 2"),
    (lambda: F.multilabel_margin_loss(x, ids), ShapeError, "-1"),
    (lambda: F.triplet_margin_loss(x, x2, x3, margin=0.0), ArgumentError, "margin > 0"),
    (lambda: nn.MSELoss(reduction="average"), ArgumentError, "MSELoss: reduction"),
    (lambda: nn.CrossEntropyLoss("sum"), ArgumentError, "reduction='sum'"),
    (lambda: nn.CrossEntropyLoss(dim=1), ArgumentError, "axis="),
    (lambda: nn.L1Loss(size_average=True), ArgumentError, "reduction='mean'"),
]


@pytest.mark.parametrize(("call", "error", "says"), WRONG, ids=lambda part: part if isinstance(part, str) else "")
def test_a_wrong_call_of_a_loss_says_what_was_expected(call, error, says):
    with pytest.raises(error, match=says):
        call()
