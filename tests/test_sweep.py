"""Walking the reverse sweep: forth and back, the running sums, breakpoints, and what a step says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_seq as tg
from tinygrad_seq import nn
from tinygrad_seq.autodiff import steps_of_backward
from tinygrad_seq.bptt import sweep
from tinygrad_seq.errors import ArgumentError, GraphError

T, B, D, H = 3, 2, 3, 4
XS = np.random.default_rng(0).standard_normal((T, B, D))


def lstm() -> tuple[Any, Any]:
    tg.seed(0)
    model = nn.LSTM(D, H, dtype="float64")
    hs, _ = model(tg.tensor(XS))
    return model, (hs * hs).sum()


def scalar() -> tuple[Any, Any]:
    w, h = tg.tensor(2.0, requires_grad=True, dtype="float64"), 1.0
    w.name = "w"
    for x in tg.steps([1.0, 0.5]):
        h = tg.tanh(w * h + x)
    return w, h * h


# ---- Forth and back ----------------------------------------------------------------------------------------------------------------


def test_a_walk_is_the_reverse_sweep() -> None:
    tg.seed(0)
    model = nn.LSTM(D, H, dtype="float64")
    with tg.unfolded():
        hs, _ = model(tg.tensor(XS))
        loss = (hs * hs).sum()
    leaves = {p.node: {0: None} for p in model.parameters()}
    moves, steps = list(sweep(loss)), list(steps_of_backward(loss, targets=leaves))
    assert [m.node for m in moves] == [s.node for s in steps]
    for move, step in zip(moves, steps, strict=True):
        for mine, theirs in zip(np.atleast_1d(move.gradient), np.atleast_1d(step.gradient), strict=True):
            np.testing.assert_array_equal(mine, theirs)
        sent = [c for c in step.contributions if c is not None]
        assert len(sent) == len(move.sent)
        for mine, theirs in zip(move.sent, sent, strict=True):
            np.testing.assert_array_equal(mine.value, theirs)
    assert all(p.grad is None for p in model.parameters())


def test_at_the_end_the_sums_are_the_gradients_and_every_value_has_received_everything() -> None:
    model, loss = lstm()
    walk = sweep(loss)
    seen = {}
    for move in walk:
        assert all(seen.get((move.node, i), True) for i in range(4)), "an op sends only once it has received everything"
        seen.update({(sent.to, sent.output): sent.arrived == sent.of for sent in move.sent})
    for name, p in model.named_parameters():
        np.testing.assert_allclose(walk.sums[name], tg.grad(loss, p).numpy(), rtol=1e-12, atol=1e-15)
        np.testing.assert_array_equal(walk.sum_of(p), walk.sums[name])
    order = [move.op == "leaf" for move in walk._moves]
    assert order == sorted(order)  # first internal nodes, then parameters, as the notes say


@given(st.lists(st.integers(-12, 12), max_size=12))
def test_sums_depend_on_the_place_alone_and_not_on_the_way_there(ways: list[int]) -> None:
    model, loss = lstm()
    straight, walk, at = sweep(loss), sweep(loss), 0
    all_moves = list(straight)
    for way in ways:
        (walk.forth if way >= 0 else walk.back)(abs(way))
        at = min(max(at + way, 0), len(all_moves))
        assert walk.position == at
        assert (walk.here and walk.here.name) == (all_moves[at - 1].name if at else None)
        straight.to(at)
        for p in model.parameters():
            np.testing.assert_array_equal(walk.sum_of(p), straight.sum_of(p))


def test_running_sums_grow_term_by_term() -> None:
    model, loss = lstm()
    w, walk, expected = model.weight_hh_l0, sweep(loss), np.zeros((4 * H, H))
    assert not walk.sum_of(w).any()
    for count, t in enumerate((3, 2, 1), 1):
        move = walk.go(into=w)
        (sent,) = [s for s in move.sent if s.to is w.node]
        expected = expected + sent.value
        assert (move.time, move.op, sent.arrived, sent.of) == (t, "inner", count, 3)
        np.testing.assert_array_equal(walk.sum_of(w), expected)
        assert sent.so_far == pytest.approx(np.linalg.norm(expected), rel=1e-12)
    assert not move.sent[-1].value.any()  # the copy of step 1 meets h_0 = 0
    before = walk.sum_of(w)
    walk.back()
    assert walk.go(into=w) is move
    np.testing.assert_array_equal(walk.sum_of(w), before)
    assert "3 of 3" in walk.table()


def test_walking_back_shows_the_very_same_steps() -> None:
    _, loss = lstm()
    walk = sweep(loss)
    there = [walk.forth() for _ in range(10)]
    assert [walk.here, *(walk.back() for _ in range(9))] == there[::-1]
    assert walk.back() is None and walk.position == 0 and walk.here is None
    assert walk.to(4) is there[3] and walk.to(2) is there[1] and walk.forth(3) is there[4]
    assert walk.to(10**6) is None and walk.forth() is None and walk.position == walk.here.number


def test_others_may_record_and_differentiate_between_the_steps() -> None:
    model, loss = lstm()
    expected, walk = tg.grad(loss, model.weight_hh_l0).numpy(), sweep(loss)
    while walk.forth() is not None:
        y = (model(tg.tensor(XS))[0]).sum()
        assert y.node is not None and tg.grad(y, model.weight_hh_l0) is not None
    np.testing.assert_allclose(walk.sum_of(model.weight_hh_l0), expected, rtol=1e-12)


def test_several_outputs_and_cotangents() -> None:
    x = tg.tensor([1.0, 2.0, 3.0], requires_grad=True, dtype="float64")
    walk = sweep([tg.exp(x), x * x], [np.array([1.0, 0.0, 2.0]), np.array([1.0, 1.0, 0.0])])
    list(walk)
    np.testing.assert_allclose(walk.sum_of(x), np.exp(x.numpy()) * [1, 0, 2] + 2 * x.numpy() * [1, 1, 0], rtol=1e-15)
    y = x * 2.0
    first = next(iter(sweep([y, y * 3.0], [np.ones(3), np.ones(3)])))
    assert (first.sent[0].arrived, first.sent[0].of) == (2, 2)  # the output itself begins with its cotangent
    alone = sweep(tg.exp(x), np.array([0.0, 1.0, 0.0]))
    list(alone)
    np.testing.assert_allclose(alone.sum_of(x), np.exp(x.numpy()) * [0, 1, 0], rtol=1e-15)


# ---- Breakpoints -----------------------------------------------------------------------------------------------------------------------


def test_breakpoints_on_op_and_time() -> None:
    _, loss = lstm()
    walk, everything = sweep(loss), list(sweep(loss))
    expected = [m.number for m in everything if m.op == "tanh" and m.time == 2]
    assert len(expected) == 2
    assert [walk.go(op="tanh", time=2).number for _ in expected] == expected
    assert walk.go(op="tanh", time=2) is None and walk.position == len(everything)
    assert walk.go(time=3, backwards=True).number == max(m.number for m in everything if m.time == 3)
    assert walk.go(op="nothing", backwards=True) is None and walk.position == 0
    assert walk.go(when=lambda move: move.number == 7).number == 7


def test_a_plain_loop_over_a_cell_has_times_to_stop_at() -> None:
    cell, h = nn.RNNCell(D, H), tg.zeros((B, H))
    for x in XS.astype("float32"):
        h = cell(x, h)
    walk = sweep(h.sum())
    assert [walk.go(op="tanh").time for _ in range(T)] == [3, 2, 1]


def test_set_breakpoints_are_alternatives_until_they_are_forgotten() -> None:
    _, loss = lstm()
    walk = sweep(loss).break_at(op="stack").break_at(op="leaf")
    assert [walk.go().op for _ in range(3)] == ["stack", "leaf", "leaf"]
    walk.to(0)
    assert walk.go(op="sum").op == "sum" and walk.go(op="sum").op == "stack"
    walk.clear()
    assert walk.go() is None


def test_a_walk_stops_where_nan_arises() -> None:
    """sqrt has no derivative at 0: the first step that is not finite is the sqrt of step 2, not what later inherits it."""
    w, h = tg.tensor(1.0, requires_grad=True, dtype="float64"), 1.0
    with np.errstate(all="ignore"):
        for x in tg.steps([0.5, 0.0, 2.0]):
            h = tg.sqrt(w * x) + 0.5 * h
        walk = sweep(h)
        move = walk.go(nan=True)
    assert (move.op, move.time) == ("sqrt", 2) and np.isfinite(move.gradient) and not np.isfinite(move.sent[0].value)
    assert "inf" in repr(move) and not move.finite
    assert walk.back().finite


def test_a_walk_stops_where_the_gradient_explodes() -> None:
    w, h = tg.tensor(3.0, requires_grad=True, dtype="float64"), 1.0
    for _ in tg.steps(range(10)):
        h = w * h
    walk = sweep(h)
    move = walk.go(norm=1e3)
    sizes = [max(abs(float(a)) for a in m.arrays) for m in sweep(h)]
    assert move.number == next(i for i, size in enumerate(sizes, 1) if size > 1e3) and move.norm == sizes[move.number - 1]
    assert walk.go(norm=1e9) is None


@pytest.mark.parametrize(
    ("ask", "says"),
    [
        (lambda walk: walk.go(operation="tanh"), "operation"),
        (lambda walk: walk.break_at(), "nothing"),
        (lambda walk: walk.break_at(at=3), "at"),
    ],
)
def test_unknown_breakpoints_are_told(ask: Any, says: str) -> None:
    with pytest.raises(ArgumentError, match=says):
        ask(sweep(scalar()[1]))


def test_a_stranger_to_the_graph_is_told() -> None:
    with pytest.raises(GraphError, match="not computed from"):
        sweep(scalar()[1]).go(into=tg.tensor(1.0, requires_grad=True))
    with pytest.raises(GraphError, match="constant"):
        sweep(tg.tensor(1.0))


# ---- As text -------------------------------------------------------------------------------------------------------------------------


def test_a_step_says_what_arrived_and_what_it_sends_where() -> None:
    _, loss = scalar()
    walk = sweep(loss)
    assert repr(walk) == "Sweep over 8 nodes, before the first step"
    h1 = np.tanh(3.0)
    h2 = np.tanh(2 * h1 + 0.5)
    a2 = 2 * h2 * (1 - h2**2)  # dL/da_2
    assert repr(walk.to(4)).split("\n") == [
        "step 4 of 8: multiply #5 at t = 2",
        f"    arrived  dL/dy  {a2:.4g}",
        f"    sends    dL/da  {a2 * h1:.4g}  to w (1 of 2, norm of the sum {a2 * h1:.4g})",
        f"    sends    dL/db  {a2 * 2:.4g}    to tanh #4 (complete)",
    ]
    assert str(walk.here).endswith("rule     y = a ⊙ b;  dL/da = g ⊙ b;  dL/db = g ⊙ a")
    assert repr(walk).startswith("Sweep over 8 nodes, at\nstep 4 of 8")
    assert str(walk.go(op="leaf")).split("\n")[0] == "step 8 of 8: w" and "complete" in str(walk.here)
    assert walk.table().split("\n")[1].split() == ["w", "()", "2", "of", "2", f"{walk.sums['w']:.6g}"]


def test_both_edges_of_a_square_are_told() -> None:
    _, loss = scalar()
    first, second = sweep(loss).forth().sent
    assert first.to is second.to and (first.arrived, first.of) == (1, 2) and (second.arrived, second.of) == (2, 2)


def test_one_of_several_outputs_is_told() -> None:
    _, loss = lstm()
    walk = sweep(loss)
    sent = walk.go(when=lambda move: any(s.name.startswith("split[") for s in move.sent)).sent[0]
    assert sent.name == f"split[{sent.output}] #{walk._number[sent.to]}"
    assert "dL/dy[0]" in repr(walk.go(op="split"))


def test_an_op_of_many_arguments_is_told_in_a_few_lines() -> None:
    x = tg.tensor(np.ones(100), requires_grad=True, dtype="float64")
    move = sweep(tg.stack([x[i] for i in range(100)]).sum()).go(op="stack")
    assert len(move.sent) == 100 and len(repr(move).split("\n")) == 8 and len(str(move).split("\n")) < 18
    assert "x₁ " in repr(move) and "x₁₀₀ " in repr(move) and "95 more" in repr(move)


def test_given_names_are_told() -> None:
    x = tg.tensor(np.ones((2, 3)), requires_grad=True, dtype="float64")
    h = tg.tanh(x)
    h.name = "h"
    walk = sweep(h.sum())
    assert "h = tanh #2" in repr(walk.forth()) and "leaf #1" in repr(walk.forth())
    assert walk.here.time is None and " at t" not in repr(walk.here)


def test_arrays_of_a_device(device_xp: Any) -> None:
    x = tg.tensor(device_xp.asarray(np.arange(12.0).reshape(3, 4)), requires_grad=True)
    walk = sweep((x * x).sum())
    list(walk)
    assert "norm" in repr(walk) and walk.go(norm=1.0, backwards=True) is not None
    assert tg.Tensor(walk.sum_of(x)).numpy().tolist() == (2 * np.arange(12.0).reshape(3, 4)).tolist()
