"""What a graph holds, by time step: counted by hand, weighed by Python's own books. Plans of recomputation: against all there are."""

from __future__ import annotations

import gc
import tracemalloc
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygrad_seq as tg
from tinygrad_seq import bptt, nn, training
from tinygrad_seq.bptt.plans import carried_out, fewest
from tinygrad_seq.bptt.recurrence import Recurrence
from tinygrad_seq.errors import ArgumentError, GraphError, ShapeError
from tinygrad_seq.nn import functional as F

T, B, D, H = 6, 4, 3, 5
NUMBER = 8  # bytes


def array(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def weights_of(*shapes):
    return [tg.tensor(0.3 * array(*shape, seed=i), requires_grad=True) for i, shape in enumerate(shapes)]


# ---- held ------------------------------------------------------------------------------------------------------------------------------


def test_a_simple_network_holds_one_state_a_step():
    """The derivative of tanh reads its output, that of h U reads h: the same memory, held once. x W reads xs, which is data."""
    w, u = weights_of((D, H), (H, H))
    xs, h = array(T, B, D), tg.zeros((B, H), dtype="float64")
    xs.flags.writeable = False
    for x in tg.steps(tg.tensor(xs)):
        h = tg.tanh(x @ w + h @ u)
    found = bptt.held(h.sum())
    state = B * H * NUMBER
    assert found.steps.tolist() == [2 * state, *[state] * (T - 1)]  # and the zeros before the first step
    assert found.given == NUMBER * (D * H + H * H + T * B * D) and found.outside == 0 and found.total == (T + 1) * state


def test_what_one_step_alone_reads_is_of_that_step():
    (w,) = weights_of((H, H))
    h, masks = tg.ones((B, H), dtype="float64"), (array(T, B, H) > 0).astype("float64")
    for t in tg.steps(range(T), start=1):
        h = (h @ w) * masks[t - 1]
    found = bptt.held(h.sum()).steps / (B * H * NUMBER)
    assert found.tolist() == [3, *[2] * (T - 2), 1]  # mask and state, at first also the ones; nothing reads the last state


def allocated(make):
    """The bytes that Python and NumPy say they hold for what `make` returns."""
    make()
    gc.collect()
    tracemalloc.start()
    try:
        kept = make()
        gc.collect()
        return kept, tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("unfolded", [False, True])
@pytest.mark.parametrize("kind", [nn.RNN, nn.LSTM, nn.GRU])
def test_it_is_what_python_says_is_allocated(kind, unfolded):
    net, xs = kind(8, 32, num_layers=2, bidirectional=True, dtype="float64", rng=0), tg.tensor(array(12, 64, 8))

    def make():
        with tg.frames.mode("unfolded", unfolded):
            return (net(xs, lengths=np.arange(64) % 12 + 1)[0] ** 2).sum()

    loss, size = allocated(make)
    found = bptt.held(loss)
    assert size / 1.12 < found.total < size  # the objects around the arrays are the rest
    assert len(found.steps) == 12 and set(found.places) == {
        f"{kind.__name__} > layer {k}{r}" for k in (0, 1) for r in ("", "_reverse")
    }


def test_it_is_linear_in_the_length_and_constant_in_windows_with_the_state_cut():
    net = nn.LSTM(D, H, dtype="float64", rng=0)

    def total(steps):
        return bptt.held((net(array(steps, B, D))[0] ** 2).sum()).total

    assert total(80) - total(60) == 2 * (total(60) - total(50)) > 0

    def step(window, state):
        hs, state = net(window, state)
        return (hs**2).sum(), state

    windows = [bptt.held(loss).total for loss in training.tbptt(10)(step, array(40, B, D))]
    assert max(windows) < 1.1 * total(10) and windows[1:] == windows[1:2] * 3


def test_recomputation_holds_less():
    cell = nn.GRUCell(D, H, dtype="float64", rng=0)

    def run(k):
        def piece(xs, h):
            for x in xs:
                h = cell(x, h)
            return h

        h = tg.zeros((B, H), dtype="float64")
        for t, first in enumerate(tg.steps(range(0, 24, k))):
            with tg.frame("piece", t + 1):
                h = tg.recompute(piece)(tg.tensor(array(24, B, D)[first : first + k]), h)
        return h.sum()

    plain, pieces = (bptt.held(run(k)).total for k in (1, 6))
    whole = tg.zeros((B, H), dtype="float64")
    for x in tg.steps(array(24, B, D)):
        whole = cell(x, whole)
    assert pieces < plain < bptt.held(whole.sum()).total


def test_the_table_elides_the_middle_of_long_sequences():
    net = nn.GRU(D, H, num_layers=2, rng=0)
    found = bptt.held((net(array(30, B, D).astype("float32"))[0] ** 2).sum())
    text = found.table()
    assert text == repr(found) and "in 19 steps" in text and "t = 30" in text and "t = 15" not in text and "GRU > layer 1" in text
    assert "t = 15" in found.table(most=30)
    with pytest.raises(GraphError, match="held"):
        bptt.held(tg.ones(3))


# ---- Plans -----------------------------------------------------------------------------------------------------------------------------


@cache
def best(steps, states):
    """The fewest steps run again, over all places to keep the first state at."""
    if steps == 1:
        return 0
    if states == 0:
        return steps - 1 + best(steps - 1, 0)
    return min(m + best(m, states) + best(steps - m, states - 1) for m in range(1, steps))


def test_no_plan_with_so_many_states_runs_fewer_steps_again():
    for steps in range(1, 45):
        for states in range(6):
            found = bptt.plan(steps, "binomial", states)
            assert found.recomputed == best(steps, states) == fewest(steps, states)
            assert found.snapshots <= states and found.recorded == 1


@settings(max_examples=60)
@given(st.integers(1, 60), st.sampled_from(["all", "square root", "binomial", 1, 3, 7, 100, ("binomial", 0), ("binomial", 2)]))
def test_a_plan_reverses_every_step_once_from_states_that_are_there(steps, how):
    found = bptt.plan(steps, *how) if isinstance(how, tuple) else bptt.plan(steps, how)
    kept, reached, expected, most = {0}, 0, steps, 0
    for name, a, b in found.actions:
        if name == "advance":
            assert a in kept and a < b
            reached = b
        elif name == "keep":
            assert reached == b
            kept.add(b)
        elif name == "drop":
            kept.remove(b)
        else:
            assert b == expected and (a in kept or reached == a)
            expected = a
        most = max(most, len(kept) - 1)
    assert expected == 0 and kept == {0} and most == found.snapshots


def test_what_the_plans_cost():
    assert [bptt.plan(100, how).recomputed for how in ("all", 10, 30, "square root")] == [0, 90, 90, 90]
    assert [bptt.plan(100, how).snapshots for how in ("all", 10, 30, "square root")] == [0, 9, 3, 9]
    assert [bptt.plan(100, how).recorded for how in ("all", 10, 30, "square root")] == [100, 10, 30, 10]
    long = bptt.plan(5000)
    assert long.snapshots == 13 and long.recorded == 1 and long.recomputed < 5 * 5000
    assert bptt.plan(1).actions == (("reverse", 0, 1),) and "100 steps" in repr(bptt.plan(100))


class Learned(nn.Module):
    """A cell whose first state is learned, so that the gradient must arrive before the first step."""

    def __init__(self):
        self.hidden_size, rng = H, np.random.default_rng(0)
        self.first, self.u = nn.Parameter(0.5 * rng.normal(size=(B, H))), nn.Parameter(0.5 * rng.normal(size=(D + H, H)))

    def initial_state(self, batch_size):
        return self.first * 2

    def forward(self, x, h):
        return tg.tanh(tg.concatenate([tg.tensor(x), h], axis=1) @ self.u)


def cubes(y, t):
    """A loss at some of the steps."""
    return (y**3).sum() if t % 3 == 2 else 0.0


@pytest.mark.parametrize("make", [Learned, lambda: nn.LSTM(D, H, num_layers=2, dtype="float64", rng=0)])
def test_every_plan_leads_to_the_gradient_and_runs_as_many_steps_as_it_says(make):
    model, xs = make(), array(11, B, D)
    h, total = (model.initial_state(B) if isinstance(model, Learned) else None), 0.0
    for t, x in enumerate(xs, 1):
        y, h = (model(x, h),) * 2 if isinstance(model, Learned) else model(x[None], h)
        total = total + cubes(y, t)
    expected = tg.grad(total, list(model.parameters()))
    for how in ("all", 1, 3, "square root", "binomial", ("binomial", 0), ("binomial", 2)):
        recurrence = Recurrence("test", model, xs, None, None, cubes)
        plan = bptt.plan(11, *how) if isinstance(how, tuple) else bptt.plan(11, how)
        with tg.unfolded():
            found = carried_out(recurrence, plan)
        assert recurrence.steps_run == 11 + plan.recomputed
        for g, e in zip(found.values(), expected, strict=True):
            np.testing.assert_allclose(g, e.numpy(), rtol=1e-11, atol=1e-13)


def test_the_peak_is_as_predicted():
    cell, xs = nn.RNNCell(16, 128, rng=0), array(36, 48, 16).astype("float32")
    found = bptt.try_plans(cell, xs, plans=["all", 4, 12, "square root", "binomial", bptt.plan(36, "binomial", 2)])
    for trial in found:
        assert trial.recomputed == trial.plan.recomputed
        assert trial.predicted == pytest.approx(trial.measured, rel=0.15), found
    measured = [trial.measured for trial in found]
    assert measured[0] > 1.7 * measured[2] and measured[2] > 1.2 * measured[3] > 1.2 * measured[4]
    assert "binomial, 2 states" in found.table() and len(found) == 6
    assert bptt.try_plans(cell, xs[:3], plans=2)[0].plan.name == "every 2 steps"
    ys = array(1, 48, 128).astype("float32")  # no loss is asked for that is not there
    assert bptt.try_plans(cell, xs[:1], loss=lambda y, t: ((y - ys[t - 1]) ** 2).sum())[2].measured > 0


def test_wrong_plans_say_what_to_do():
    for wrong in (0, "sqrt", 2.5, None):
        with pytest.raises(ArgumentError, match="square root"):
            bptt.plan(10, wrong)
    with pytest.raises(ArgumentError, match="snapshots=3"):
        bptt.plan(10, 2, 3)
    with pytest.raises(ShapeError, match="1 or more"):
        bptt.plan(0)
    with pytest.raises(ShapeError, match="0 or more"):
        bptt.plan(5, "binomial", -1)
    with pytest.raises(ShapeError, match="6, the steps of xs"):
        bptt.try_plans(nn.GRUCell(D, H), array(T, B, D).astype("float32"), plans=[bptt.plan(5)])
    with pytest.raises(ArgumentError, match="step"):
        bptt.try_plans(F.rnn_step, array(T, B, D))
