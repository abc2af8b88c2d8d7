"""Four roads to one gradient: against the BPTT that the lecture notes derive by hand and PyTorch, their laws of memory, and models that lie."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
from random_cells import arrays_of, random_call, random_cell

import tinygrad_seq as tg
from tinygrad_seq import bptt, nn
from tinygrad_seq.bptt import roads
from tinygrad_seq.bptt.plans import carried_out
from tinygrad_seq.bptt.recurrence import Recurrence, amount, peak_of
from tinygrad_seq.bptt.roads import real_time
from tinygrad_seq.errors import ArgumentError, GraphError, ShapeError
from tinygrad_seq.nn import functional as F

T, B, D, H = 4, 2, 2, 3
WAYS = ("BPTT", "real-time recurrent learning", "BPTT with recomputation", "central differences")


def array(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def weights_of(gates):
    return [0.5 * array(*shape, seed=i) for i, shape in enumerate([(gates * H, D), (gates * H, H), (gates * H,), (gates * H,)])]


def alike(road, expected, tolerance):
    for g, e in zip(road.gradients.values(), expected, strict=True):
        np.testing.assert_allclose(g, e, rtol=tolerance, atol=tolerance * max(1.0, np.abs(e).max()))


# ---- One gradient ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["rnn", "lstm", "gru"])
def test_all_four_are_the_gradient_derived_by_hand(kind):
    step, by_hand = getattr(F, f"{kind}_step"), getattr(F, f"{kind}_bptt")
    weights, xs, g_hs = weights_of({"rnn": 1, "lstm": 4, "gru": 3}[kind]), array(T, B, D), array(T, B, H, seed=9)
    state = (array(B, H, seed=7), array(B, H, seed=8)) if kind == "lstm" else array(B, H, seed=7)
    found = bptt.four_roads(step, xs, state, weights, lambda h, t: (h * g_hs[t - 1]).sum(), most=1000)
    hand = by_hand(xs, *(state if kind == "lstm" else (state,)), *weights, g_hs)
    expected = [getattr(hand, name) for name in ("w_ih", "w_hh", "b_ih", "b_hh")]
    assert found.check() is found and tuple(found.roads) == WAYS
    for name in WAYS[:3]:
        alike(found[name], expected, 1e-12)
    alike(found["central differences"], expected, 1e-7)


@pytest.mark.torch
def test_a_layer_of_two_is_that_of_pytorch():
    torch = pytest.importorskip("torch")
    ours = nn.LSTM(D, H, num_layers=2, dtype="float64", rng=0)
    theirs = torch.nn.LSTM(D, H, num_layers=2, dtype=torch.float64)
    theirs.load_state_dict({name: torch.tensor(a) for name, a in ours.state_dict().items()})
    xs = array(T, B, D)
    (0.5 * theirs(torch.tensor(xs))[0] ** 2).sum().backward()
    found = bptt.four_roads(ours, xs, most=10).check()
    for name in WAYS[:3]:
        alike(found[name], [p.grad.numpy() for p in theirs.parameters()], 1e-12)


class Mine(nn.Module):
    """A cell of one's own with two states and a read-out of its own, whose first state is learned."""

    def __init__(self):
        rng = np.random.default_rng(2)
        self.hidden_size = H
        self.first = nn.Parameter(0.3 * rng.normal(size=(B, H)))
        self.u, self.w = nn.Linear(H, H, rng=rng, dtype="float64"), nn.Linear(D, H, rng=rng, dtype="float64")

    def initial_state(self, batch_size):
        return self.first * 2, tg.zeros((batch_size, 1), dtype="float64")

    def forward(self, x, state):
        h, level = state
        h = tg.tanh(self.w(x) + self.u(h) * tg.sigmoid(level))
        return h, 0.5 * level + (h**2).sum(axis=1, keepdims=True)


class Model(nn.Module):
    """A model of embedding, layer and read-out: it reads token numbers."""

    def __init__(self):
        tg.seed(3)
        self.embed, self.rnn = nn.Embedding(5, D, dtype="float64"), nn.GRU(D, H, dtype="float64")
        self.out = nn.Linear(H, 5, dtype="float64")

    def forward(self, ids, state=None):
        hs, state = self.rnn(self.embed(ids), state)
        return self.out(hs), state


def test_a_cell_of_ones_own_with_a_first_state_that_is_learned():
    found = bptt.four_roads(Mine(), array(T, B, D), most=1000).check()
    assert set(found["BPTT"].gradients) == {"first", "u.weight", "u.bias", "w.weight", "w.bias"}
    assert np.abs(found["real-time recurrent learning"].gradients["first"]).max() > 1e-3


def test_a_whole_model_with_a_loss_at_the_end_alone():
    model, ids = Model(), np.random.default_rng(0).integers(0, 5, (T, B))
    found = bptt.four_roads(model, ids, loss=lambda y, t: F.cross_entropy(y, ids[0]) if t == T else 0.0).check()
    expected = tg.grad(F.cross_entropy(model(ids)[0][-1], ids[0]), list(model.parameters()))
    alike(found["real-time recurrent learning"], [g.numpy() for g in expected], 1e-12)
    assert found.loss == pytest.approx(F.cross_entropy(model(ids)[0][-1], ids[0]).item(), rel=1e-14)


@pytest.mark.parametrize("seed", range(25))
def test_random_cells_have_one_gradient_too(seed):
    """Any number of states, weights that are not used, states that are handed on."""
    rng = Random(seed)
    cell, call = random_cell(rng, rng.randint(3, 12)), random_call(rng)._replace(lengths=None)
    xs, states, weights = arrays_of(cell, call)
    count = len(states)

    def step(x, *rest):
        new = cell(x, *rest)
        return new[:count] if isinstance(new, tuple) else (new,)

    model = Recurrence("test", step, xs, tuple(states), weights or [np.ones(1)], None)
    with tg.unfolded():
        found = [
            roads.bptt(model),
            real_time(model),
            roads.in_pieces(model, 2),
            carried_out(model, bptt.plan(call.T, "binomial", 1)),
        ]
    for name, g in found[0].items():
        for other in found[1:]:
            np.testing.assert_allclose(other[name], g, rtol=1e-10, atol=1e-12)


def test_float32_agrees_as_far_as_it_can():
    found = bptt.four_roads(nn.GRUCell(D, H, rng=0), array(T, B, D).astype("float32")).check()
    assert found["real-time recurrent learning"].difference < 1e-6 and found["central differences"].difference < 1e-2


# ---- What each takes -----------------------------------------------------------------------------------------------------------------------


def test_real_time_learning_holds_as_much_however_long_the_sequence():
    cell = nn.RNNCell(D, 16, dtype="float64", rng=0)

    def peak(way, steps):
        xs = array(steps, 2, D)
        return peak_of(lambda: way(Recurrence("test", cell, xs, None, None, None)))

    peak(roads.bptt, 2)
    real = [peak(real_time, steps) for steps in (15, 30)]  # Python keeps up to 2,000 tuples in reserve
    back = [peak(roads.bptt, steps) for steps in (20, 80)]
    pieces = [peak(lambda m: roads.in_pieces(m, round(m.T**0.5)), steps) for steps in (25, 100)]
    assert real[1] < 1.2 * real[0]
    assert 3.3 * back[0] < back[1] < 4.2 * back[0]  # BPTT: linear in T
    assert pieces[1] < 2.8 * pieces[0]  # √T: twice as much for four times the steps


def test_the_table_names_every_road_and_says_of_how_many_numbers():
    found = bptt.four_roads(nn.RNNCell(D, H, dtype="float64", rng=0), array(T, B, D), most=7)
    text = found.table()
    assert all(name in text for name in WAYS) and f"(7 of {found.P} numbers)" in text and repr(found) == text
    assert (found.T, found.N, found.P) == (T, B * H, H * (D + H + 2)) and found["central differences"].count == 7
    assert np.isfinite(np.concatenate([g.ravel() for g in found["central differences"].gradients.values()])).sum() == 7
    assert [amount(n) for n in (5, 12_500, 999_000, 3_200_000, 2e12)] == ["5 B", "12.5 kB", "999 kB", "3.2 MB", "2000 GB"]


# ---- Models that lie, and wrong calls ------------------------------------------------------------------------------------------------------


@tg.primitive
def crooked(x):
    return np.tanh(x)


tg.defvjp(crooked, lambda g, y, x: g * (1 - y))  # wrong: 1 - y²


def test_a_wrong_derivative_rule_is_found_out_by_the_differences():
    w = 0.5 * array(H, H)
    found = bptt.four_roads(lambda x, h, w: crooked(x + h @ w), array(T, B, H), np.zeros((B, H)), [w])
    assert not found.agree and [road.agrees for road in found.roads.values()] == [True, True, True, False]
    assert "differs" in found.table()
    with pytest.raises(GraphError, match="central differences by"):
        found.check()


def test_a_strongly_curved_loss_is_no_lie():
    norm, w = nn.LayerNorm(2, dtype="float64", eps=1e-3), 0.3 * array(2, 2)
    found = bptt.four_roads(lambda x, h, w: norm(h @ w + x), array(T, B, 2), np.zeros((B, 2)), [w]).check()
    assert 1e-10 < found["central differences"].difference < 6e-6


def test_chance_is_found_out_too():
    model = nn.GRU(D, H, num_layers=2, dropout=0.5, dtype="float64", rng=0)
    with pytest.raises(GraphError, match=r"model\.eval"):
        bptt.four_roads(model, array(3, 1, D), most=1).check()
    bptt.four_roads(model.eval(), array(3, 1, D), most=1).check()


def test_weights_and_graphs_that_hold_them_are_left_alone():
    cell, xs = nn.LSTMCell(D, H, dtype="float64", rng=0), array(T, B, D)
    before = {name: (id(p._data), p.numpy().copy()) for name, p in cell.named_parameters()}
    loss = (cell(xs[0])[0] ** 2).sum()
    bptt.four_roads(cell, xs, most=5)
    loss.backward()
    assert all(id(p._data) == before[name][0] and (p.numpy() == before[name][1]).all() for name, p in cell.named_parameters())
    assert np.abs(cell.weight_ih.grad.numpy()).max() > 0


def test_wrong_calls_say_what_to_do():
    xs = array(T, B, D)
    with pytest.raises(ArgumentError, match=r"step\(x, \*state, \*weights\)"):
        bptt.four_roads(F.rnn_step, xs)
    with pytest.raises(ArgumentError, match="one direction"):
        bptt.four_roads(nn.GRU(D, H, bidirectional=True), xs)
    with pytest.raises(ShapeError, match="at least one step"):
        bptt.four_roads(nn.GRUCell(D, H), xs[:0])
    with pytest.raises(ShapeError, match="fewer units"):
        bptt.four_roads(nn.LSTMCell(D, 200), array(T, 32, D))
    with pytest.raises(ArgumentError, match="nothing to differentiate by"):
        bptt.four_roads(F.rnn_step, xs, np.zeros((B, H)), [])
    cell = nn.GRUCell(D, H, dtype="float64")
    with pytest.raises(ArgumentError, match=r"loss\(y, t\)"):
        bptt.four_roads(cell, xs, loss=lambda y: y.sum())
    with pytest.raises(ShapeError, match=r"loss of step 1 is float64 \(2, 3\)"):
        bptt.four_roads(cell, xs, loss=lambda y, t: y)
    with pytest.raises(ArgumentError, match="no leaf"):
        bptt.four_roads(F.rnn_step, xs, np.zeros((B, H)), [tg.ones(3)])


def test_on_a_device_it_is_the_same(device_xp):
    model, xs = nn.LSTM(D, H, dtype="float64", rng=0), array(3, B, D)
    here = bptt.four_roads(model, xs, most=2).check()
    states, weights = array(B, H), weights_of(1)
    model.to(tg.backend.device_of(device_xp.zeros(1)))
    there = bptt.four_roads(model, device_xp.asarray(xs), most=2).check()
    for name in WAYS[:3]:
        alike(there[name], here["BPTT"].gradients.values(), 1e-12)
    own = bptt.four_roads(
        F.rnn_step, device_xp.asarray(xs), *(device_xp.asarray(states), [device_xp.asarray(w) for w in weights]), most=2
    )
    assert own.check().N == B * H
    (trial,) = bptt.try_plans(model, device_xp.asarray(xs), plans=2)
    np.testing.assert_allclose(trial.gradients["weight_hh_l0"], here["BPTT"].gradients["weight_hh_l0"], rtol=1e-12)
