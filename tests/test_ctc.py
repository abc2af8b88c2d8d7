"""CTC against the sum over all paths, PyTorch, central differences, and itself; decoding against all labellings."""

from __future__ import annotations

import contextlib
import itertools
import math

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

import tinygrad_seq as tg
from tinygrad_seq.errors import ArgumentError, IndexError_, ShapeError
from tinygrad_seq.nn import functional as F
from tinygrad_seq.testing import check_grads


def log_probs_of(rng, *shape):
    return F.log_softmax(rng.standard_normal(shape))


def over_all_paths(log_probs, target, blank=0):
    """-log of the sum of the probabilities of all paths that read as the target, each written out; and d/d log y."""
    T, C = log_probs.shape
    total, gradient = 0.0, np.zeros((T, C))
    for path in itertools.product(range(C), repeat=T):
        merged = [k for k, _ in itertools.groupby(path)]
        if [k for k in merged if k != blank] == list(target):
            p = math.exp(sum(log_probs[t, k] for t, k in enumerate(path)))
            total += p
            gradient[range(T), path] -= p
    return (-math.log(total), gradient / total) if total else (math.inf, gradient)


def batch(rng, T=9, B=5, C=6, S=4):
    """Rows of all kinds: long and short, empty, with repeats, just long enough, too short by one."""
    targets = rng.integers(1, C, (B, S))
    targets[3, :3], targets[4, :3] = 2, 3
    return log_probs_of(rng, T, B, C), targets, np.array([T, T - 2, 0, 5, 4]), np.array([S, 2, 0, 3, 3])


# ---- The sum over all paths ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", [[], [1], [2, 1], [1, 1], [2, 2, 2], [1, 2, 1], [1, 1, 1, 1]], ids=str)
@pytest.mark.parametrize("T", [1, 2, 3, 5, 6])
def test_it_is_the_sum_over_all_paths_and_so_is_its_gradient(T, target):
    y = log_probs_of(np.random.default_rng(T), T, 3)
    expected, gradient = over_all_paths(y, target)
    x = tg.tensor(y[:, None], requires_grad=True)
    loss = F.ctc_loss(x, np.array([target], int), [T], [len(target)], reduction="sum")
    loss.backward()
    np.testing.assert_allclose(loss.item(), expected, rtol=1e-12)
    np.testing.assert_allclose(x.grad.numpy()[:, 0], gradient, atol=1e-12)


@hypothesis.given(st.integers(1, 5), st.lists(st.integers(0, 1), max_size=4), st.integers(0, 2), st.integers(0, 2**32))
def test_whatever_the_blank_is(T, target, blank, seed):
    y = log_probs_of(np.random.default_rng(seed), T, 3)
    symbols = [k for k in range(3) if k != blank]
    target = [symbols[k] for k in target]
    loss = F.ctc_loss(y, np.array(target, int), T, len(target), blank=blank, reduction="none")
    np.testing.assert_allclose(loss, over_all_paths(y, target, blank)[0], rtol=1e-12)


def test_symbols_that_cannot_be_have_no_path():
    rng = np.random.default_rng(1)
    with np.errstate(divide="ignore"):
        y = np.log(rng.dirichlet(np.ones(3), 5) * (rng.random((5, 3)) < 0.6))
    expected, gradient = over_all_paths(y, [1, 2])
    assert math.isfinite(expected)
    x = tg.tensor(y, requires_grad=True)
    loss = F.ctc_loss(x, [1, 2], 5, 2, reduction="sum")
    loss.backward()
    np.testing.assert_allclose(loss.item(), expected, rtol=1e-12)
    np.testing.assert_allclose(x.grad.numpy(), gradient, atol=1e-12)


def test_at_every_moment_the_paths_through_all_symbols_sum_to_one():
    y, targets, T_b, S_b = batch(np.random.default_rng(2))
    x = tg.tensor(y, requires_grad=True)
    F.ctc_loss(x, targets, T_b, S_b, reduction="none")[[0, 1, 2, 3]].sum().backward()
    here = np.arange(len(y))[:, None] < T_b
    np.testing.assert_allclose(-x.grad.numpy().sum(axis=-1)[:, :4], here[:, :4], atol=1e-12)


# ---- PyTorch ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.torch
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("form", ["padded", "joined", "one row"])
@pytest.mark.parametrize("zero_infinity", [True, False])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_it_equals_pytorchs(reduction, zero_infinity, form, dtype):
    pytest.importorskip("torch")
    import torch
    from torch_peer import agrees

    o, targets, T_b, S_b = batch(np.random.default_rng(3))
    if not zero_infinity:  # PyTorch's gradient of the row that is too short is NaN
        T_b[4] += 1
    if form == "joined":
        targets = np.concatenate([row[:n] for row, n in zip(targets, S_b)])
    if form == "one row":
        o, targets, T_b, S_b = o[:, 1], targets[1, : S_b[1]], T_b[1], S_b[1]

    def ours(o):
        return F.ctc_loss(F.log_softmax(o), targets, T_b, S_b, reduction=reduction, zero_infinity=zero_infinity)

    def theirs(o):
        lengths = torch.tensor(T_b), torch.tensor(S_b)
        y = o.log_softmax(-1)
        return torch.nn.functional.ctc_loss(y, torch.tensor(targets), *lengths, reduction=reduction, zero_infinity=zero_infinity)

    agrees(ours, theirs, o, dtype=dtype)


@pytest.mark.torch
def test_pytorchs_gradient_of_log_probs_is_that_of_the_scores_behind_them():
    torch = pytest.importorskip("torch")
    y, targets, T_b, S_b = batch(np.random.default_rng(4), B=5)
    T_b[:] = len(y)
    x, z = tg.tensor(y, requires_grad=True), torch.tensor(y, requires_grad=True)
    F.ctc_loss(x, targets, T_b, S_b, reduction="sum").backward()
    words = {"reduction": "sum"}
    torch.nn.functional.ctc_loss(z, torch.tensor(targets), torch.tensor(T_b), torch.tensor(S_b), **words).backward()
    np.testing.assert_allclose(x.grad.numpy() + np.exp(y), z.grad.numpy(), atol=1e-12)


# ---- Kernel, equation, derivatives -------------------------------------------------------------------------------------------------------


def test_the_kernel_equals_its_equation_to_second_order():
    y, targets, T_b, S_b = batch(np.random.default_rng(5), T=6, S=3)
    T_b, S_b = np.array([6, 4, 0, 5, 3]), np.array([3, 2, 0, 3, 1])
    for reduction in ("none", "mean"):
        x, z = tg.tensor(y, requires_grad=True), tg.tensor(y, requires_grad=True)
        fast = F.ctc_loss(x, targets, T_b, S_b, reduction=reduction)
        with tg.unfolded():
            slow = F.ctc_loss(z, targets, T_b, S_b, reduction=reduction)
        fast.sum().backward()
        slow.sum().backward()
        np.testing.assert_allclose(fast.numpy(), slow.numpy(), rtol=1e-13)
        np.testing.assert_allclose(x.grad.numpy(), z.grad.numpy(), atol=1e-13)
    check_grads(lambda y: F.ctc_loss(y, targets, T_b, S_b), [y])


def test_unfolded_every_step_of_alpha_is_at_its_time():
    y, targets, T_b, S_b = batch(np.random.default_rng(6))
    with tg.unfolded():
        loss = F.ctc_loss(tg.tensor(y, requires_grad=True), targets, T_b, S_b)
    times = {node.frame.time for node in tg.graph.toposort([loss]) if node.frame is not None}
    assert times - {None} == set(range(1, len(y) + 1))


@pytest.mark.parametrize("unfold", [False, True], ids=["kernel", "equation"])
def test_what_stands_behind_the_lengths_changes_nothing(unfold):
    y, targets, T_b, S_b = batch(np.random.default_rng(7))
    behind = np.arange(len(y))[:, None] >= T_b
    x = tg.tensor(np.where(behind[..., None], np.nan, y), requires_grad=True)
    other = np.where(np.arange(targets.shape[1]) < S_b[:, None], targets, -99)
    with tg.unfolded() if unfold else contextlib.nullcontext():
        loss = F.ctc_loss(x, other, T_b, S_b, reduction="sum", zero_infinity=True)
    loss.backward()
    np.testing.assert_allclose(loss.item(), F.ctc_loss(y, targets, T_b, S_b, reduction="sum", zero_infinity=True), rtol=1e-13)
    assert (x.grad.numpy()[behind] == 0).all() and np.isfinite(x.grad.numpy()).all()


def test_a_row_that_is_too_short_costs_infinity_and_teaches_nothing():
    y, targets, T_b, S_b = batch(np.random.default_rng(8))
    x = tg.tensor(y, requires_grad=True)
    losses = F.ctc_loss(x, targets, T_b, S_b, reduction="none")
    losses.sum().backward()
    assert np.isinf(losses.numpy()).tolist() == [False, False, False, False, True]  # [3, 3, 3] needs 5 moments, and has 4
    assert not x.grad.numpy()[:, 4].any() and np.isfinite(x.grad.numpy()).all()


def test_thousands_of_moments_are_no_problem_in_float32():
    rng = np.random.default_rng(9)
    y = log_probs_of(rng, 2000, 1, 5).astype("float32")
    targets = rng.integers(1, 5, (1, 300))
    x = tg.tensor(y, requires_grad=True)
    loss = F.ctc_loss(x, targets, [2000], [300], reduction="sum")
    loss.backward()
    assert loss.dtype == x.grad.dtype == np.float32
    np.testing.assert_allclose(loss.item(), F.ctc_loss(y.astype("float64"), targets, [2000], [300], reduction="sum"), rtol=1e-5)
    np.testing.assert_allclose(x.grad.numpy().sum(axis=-1), -1, atol=2e-2)


def test_on_every_backend(xp):
    y, targets, T_b, S_b = batch(np.random.default_rng(10))
    x, z = tg.tensor(xp.asarray(y), requires_grad=True), tg.tensor(y, requires_grad=True)
    for given in (targets, xp.asarray(targets)):
        x.grad = z.grad = None
        ours = F.ctc_loss(x, given, T_b, xp.asarray(S_b), zero_infinity=True)
        host = F.ctc_loss(z, targets, T_b, S_b, zero_infinity=True)
        ours.backward()
        host.backward()
        np.testing.assert_allclose(tg.backend.to_numpy(ours.data), host.numpy(), rtol=1e-13)
        np.testing.assert_allclose(tg.backend.to_numpy(x.grad.data), z.grad.numpy(), atol=1e-14)


# ---- Decoding ----------------------------------------------------------------------------------------------------------------------------


def test_the_best_path_reads_without_repeats_and_blanks():
    path = [0, 1, 1, 0, 1, 2, 2, 0, 0, 3]
    assert F.collapse(path) == [1, 1, 2, 3]
    scores = np.stack([np.eye(4)[path], np.eye(4)[path[::-1]]], axis=1)
    assert F.ctc_greedy_decode(scores) == [[1, 1, 2, 3], [3, 2, 1, 1]]
    assert F.ctc_greedy_decode(scores, [4, 0]) == [[1], []]
    assert F.ctc_greedy_decode(tg.tensor(scores), blank=1)[0] == [0, 0, 2, 0, 3]


def test_a_wide_beam_finds_every_labelling_with_its_probability():
    y = log_probs_of(np.random.default_rng(11), 4, 1, 3)
    ((*found,),) = F.ctc_beam_search(y, beam_width=1000)
    labellings = [labelling for n in range(5) for labelling in itertools.product((1, 2), repeat=n)]
    expected = {labelling: -over_all_paths(y[:, 0], labelling)[0] for labelling in labellings}
    expected = {labelling: log_p for labelling, log_p in expected.items() if log_p > -math.inf}
    assert {tuple(labelling) for labelling, log_p in found if log_p > -math.inf} == set(expected)
    for labelling, log_p in found:
        np.testing.assert_allclose(log_p, expected.get(tuple(labelling), -math.inf), rtol=1e-12)
    assert [p for _, p in found] == sorted((p for _, p in found), reverse=True)
    np.testing.assert_allclose(sum(math.exp(p) for _, p in found), 1, rtol=1e-12)
    assert F.ctc_beam_search(y, beam_width=8)[0][0][0] == found[0][0]


def test_beam_search_finds_what_the_best_path_misses():
    # two moments, each blank .6, a .4: the best path is all blank (.36), the best labelling is a (.64)
    y = np.log(np.array([[[0.6, 0.4]], [[0.6, 0.4]]]))
    assert F.ctc_greedy_decode(y) == [[]]
    (labelling, log_p), *_ = F.ctc_beam_search(y, [2])[0]
    assert labelling == [1] and math.isclose(log_p, math.log(0.64))


@hypothesis.given(st.text("ab", max_size=5), st.text("abc", max_size=5))
def test_edit_distance_is_the_shortest_way(a, b):
    def shortest(a, b):
        if not a or not b:
            return len(a) + len(b)
        return min(shortest(a[1:], b) + 1, shortest(a, b[1:]) + 1, shortest(a[1:], b[1:]) + (a[0] != b[0]))

    assert F.edit_distance(a, b) == shortest(a, b) == F.edit_distance(b, a)


def test_the_label_error_rate_is_errors_per_symbol():
    assert F.label_error_rate([[1, 2], [3]], [[1, 2, 2], [4]]) == 0.5
    with pytest.raises(ShapeError, match="no symbols"):
        F.label_error_rate([[1]], [[]])
    with pytest.raises(ShapeError, match="1 predictions, 2 targets"):
        F.label_error_rate([[1]], [[1], [2]])


# ---- Wrong calls -------------------------------------------------------------------------------------------------------------------------


def wrong(**changes):
    call = {
        "log_probs": np.zeros((5, 2, 3)),
        "targets": np.array([[1, 2], [2, 0]]),
        "input_lengths": [5, 4],
        "target_lengths": [2, 1],
    }
    return F.ctc_loss(**{**call, **changes})


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"log_probs": np.zeros(5)}, ShapeError, r"\(T, B, C\)"),
        ({"log_probs": np.zeros((5, 2, 3), int)}, ArgumentError, "floating-point"),
        ({"targets": np.array([[1, 2]])}, ShapeError, r"targets \(1, 2\) do not fit"),
        ({"targets": np.array([[1], [2]])}, ShapeError, r"\(2, 2\), as many as the largest of target_lengths"),
        ({"targets": np.array([1, 2])}, ShapeError, r"sum\(target_lengths\) = 3"),
        ({"targets": np.zeros((3, 2), int), "target_lengths": [3, 1]}, ShapeError, r"do: +targets\.T"),
        ({"log_probs": np.zeros((2, 5, 3))}, ShapeError, r"do: +log_probs\.swapaxes\(0, 1\)"),
        ({"targets": np.array([[1, 3], [2, 0]])}, IndexError_, "3 is out of range"),
        ({"targets": np.array([[1, 0], [2, 0]])}, ArgumentError, "0, the blank"),
        ({"targets": np.array([[1.0, 2.0], [2.0, 0.0]])}, ArgumentError, "must be integers"),
        ({"input_lengths": [5]}, ShapeError, "one for each row"),
        ({"input_lengths": [5.0, 4.0]}, ShapeError, "integers"),
        ({"input_lengths": [6, 4]}, ShapeError, r"0 \.\.\. T = 5"),
        ({"target_lengths": [2, -1]}, ShapeError, "target_lengths lie in -1"),
        ({"blank": 3}, ArgumentError, r"0 \.\.\. 2"),
        ({"reduction": "average"}, ArgumentError, "'mean', 'sum' or 'none'"),
    ],
)
def test_a_wrong_call_says_what_was_expected(changes, error, says):
    wrong()
    with pytest.raises(error, match=says):
        wrong(**changes)


def test_a_wrong_call_of_the_decoders_says_what_was_expected():
    with pytest.raises(ShapeError, match=r"log_probs\[:, None\]"):
        F.ctc_greedy_decode(np.zeros((5, 3)))
    with pytest.raises(ShapeError, match="from 0 to T = 5"):
        F.ctc_beam_search(np.zeros((5, 1, 3)), [6])
    with pytest.raises(ArgumentError, match="at least 1"):
        F.ctc_beam_search(np.zeros((5, 1, 3)), beam_width=0)
