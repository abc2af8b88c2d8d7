"""Temporal Jacobians: against central differences, PyTorch, closed forms and the equations of the lecture notes."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from random import Random

import numpy as np
import pytest
from random_cells import Call, arrays_of, random_cell

import tinygrad_seq as tg
from tinygrad_seq import nn
from tinygrad_seq.bptt import temporal_jacobians
from tinygrad_seq.bptt.jacobians import CutTape
from tinygrad_seq.bptt.states import chains_of, opened_with_states
from tinygrad_seq.errors import ArgumentError, GraphError, ShapeError
from tinygrad_seq.nn import functional as F
from tinygrad_seq.nn.functional import dynamics as dy

T, B, D, H = 6, 3, 2, 4
NETS = {
    "RNN": lambda: nn.RNN(D, H, rng=1, dtype="float64"),
    "RNN, relu": lambda: nn.RNN(D, H, nonlinearity="relu", rng=1, dtype="float64"),
    "LSTM": lambda: nn.LSTM(D, H, rng=1, dtype="float64"),
    "LSTM, projected": lambda: nn.LSTM(D, H, proj_size=2, rng=1, dtype="float64"),
    "LSTM, peephole": lambda: nn.LSTM(D, H, peephole="full", rng=1, dtype="float64"),
    "LSTM, coupled": lambda: nn.LSTM(D, H, coupled=True, rng=1, dtype="float64"),
    "GRU": lambda: nn.GRU(D, H, rng=1, dtype="float64"),
    "GRU, reset before": lambda: nn.GRU(D, H, reset="before", z_weights="new", rng=1, dtype="float64"),
}
each_net = pytest.mark.parametrize("net", [pytest.param(make, id=name) for name, make in NETS.items()])


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def arrays(state) -> list[np.ndarray]:
    return [a.numpy() for a in (state if isinstance(state, tuple) else (state,))]


def runner(net, xs: np.ndarray) -> tuple[Callable, list[np.ndarray]]:
    """A function (flat state, s, t) -> flat state for one row of the batch, by the module's own step on bare arrays; and the flat states."""
    step, weights = net._equation(), net._weights_of("_l0")
    weights = [w if w is None else w.numpy() for w in weights]
    sizes = net.state_sizes if isinstance(net.state_sizes, tuple) else (net.state_sizes,)
    ends = np.cumsum(sizes)[:-1]

    def run(state, s, t, row):
        parts = np.split(state, ends)
        for x in xs[s:t, row : row + 1]:
            new = step(x, *(p[None] for p in parts), *weights)
            parts = [p[0] for p in (new if isinstance(new, tuple) else (new,))]
        return np.concatenate(parts)

    return run, [[run(np.zeros(sum(sizes)), 0, t, row) for row in range(xs.shape[1])] for t in range(len(xs) + 1)]


def central(f: Callable, at: np.ndarray, eps: float = 1e-6) -> np.ndarray:
    return np.stack([(f(at + eps * e) - f(at - eps * e)) / (2 * eps) for e in np.eye(len(at))], axis=1)


@each_net
def test_jacobians_of_steps_and_of_ranges_agree_with_central_differences_in_every_row(net: Callable) -> None:
    net, xs = net(), draw(T, B, D)
    J = temporal_jacobians(net(tg.tensor(xs))[0])
    run, states = runner(net, xs)
    assert J.times.tolist() == list(range(T + 1))
    for row in range(B):
        for t in range(1, T + 1):
            expected = central(lambda h, t=t, row=row: run(h, t - 1, t, row), states[t - 1][row])
            np.testing.assert_allclose(J.steps[t - 1, row], expected, atol=1e-8)
            np.testing.assert_allclose(J.step(t, "state")[row], J.steps[t - 1, row])
        for t, s in [(T, 0), (5, 2), (3, 3)]:
            expected = central(lambda h, t=t, s=s, row=row: run(h, s, t, row), states[s][row])
            np.testing.assert_allclose(J.between(t, s, "state")[row], expected, atol=1e-8)
    assert (J.between(2, 4) == 0).all()


def test_blocks_are_those_of_the_whole_product_and_not_products_of_blocks() -> None:
    net, xs = NETS["LSTM"](), draw(T, B, D)
    J = temporal_jacobians(net(tg.tensor(xs))[0])
    whole = J.between(5, 1, "state")
    assert list(J.parts) == ["h", "c"] and whole.shape == (B, 2 * H, 2 * H)
    np.testing.assert_array_equal(J.between(5, 1), whole[:, :H, :H])
    np.testing.assert_array_equal(J.between(5, 1, "c"), whole[:, H:, H:])
    np.testing.assert_array_equal(J.between(5, 1, "h", "c"), whole[:, :H, H:])
    alone = J.step(5) @ J.step(4) @ J.step(3) @ J.step(2)
    assert np.abs(alone - J.between(5, 1)).max() > 1e-3


@pytest.mark.torch
def test_step_jacobians_equal_those_of_pytorch() -> None:
    torch = pytest.importorskip("torch")
    xs = draw(T, B, D)
    for ours, theirs in [(NETS["LSTM"](), torch.nn.LSTMCell(D, H).double()), (NETS["GRU"](), torch.nn.GRUCell(D, H).double())]:
        theirs.load_state_dict({name.removesuffix("_l0"): torch.tensor(w.numpy()) for name, w in ours.named_parameters()})
        J = temporal_jacobians(ours(tg.tensor(xs))[0])
        several = isinstance(theirs, torch.nn.LSTMCell)
        state = torch.zeros(2 if several else 1, B, H, dtype=torch.float64)
        for t in range(1, T + 1):
            x = torch.tensor(xs[t - 1])
            for row in range(B):

                def step(flat, x=x, row=row, theirs=theirs, several=several):
                    parts = flat.reshape(-1, 1, H)
                    new = theirs(x[row : row + 1], (parts[0], parts[1]) if several else parts[0])
                    return torch.cat(new if several else (new,)).reshape(-1)

                expected = torch.autograd.functional.jacobian(step, state[:, row].reshape(-1))
                np.testing.assert_allclose(J.steps[t - 1, row], expected.numpy(), rtol=1e-10, atol=1e-13)
            new = theirs(x, (state[0], state[1]) if several else state[0])
            state = torch.stack(new if several else (new,)).detach()


# ---- Whatever tape ---------------------------------------------------------------------------------------------------------------------


@each_net
def test_a_compiled_loop_an_unfolded_one_and_loops_by_hand_have_the_same_jacobians(net: Callable) -> None:
    net, xs = net(), tg.tensor(draw(T, B, D))
    compiled = temporal_jacobians(net(xs)[0])
    with tg.unfolded():
        unfolded = temporal_jacobians(net(xs)[0])
    np.testing.assert_allclose(unfolded.steps, compiled.steps, atol=1e-15)

    step, weights = net._equation(), net._weights_of("_l0")
    sizes = net.state_sizes if isinstance(net.state_sizes, tuple) else (net.state_sizes,)

    def loop(over):
        state = [tg.zeros((B, n), dtype="float64").requires_grad_() for n in sizes]
        states = [tuple(state)]
        for x in over:
            new = step(x, *state, *weights)
            state = list(new) if isinstance(new, tuple) else [new]
            states.append(tuple(state))
        return states

    named = temporal_jacobians(loop(tg.steps(xs))[-1][0])
    listed = temporal_jacobians(loop(xs))
    assert named.times.tolist() == listed.times.tolist() == list(range(T + 1))
    parts = list(compiled.parts)
    for J in (named, listed):
        assert list(J.parts) == parts
        np.testing.assert_allclose(J.steps, compiled.steps, atol=1e-15)
    if len(sizes) == 1:
        np.testing.assert_allclose(temporal_jacobians([h for (h,) in loop(xs)]).steps, compiled.steps, atol=1e-15)


def test_a_loss_behind_the_loop_tells_the_same_and_nothing_is_changed() -> None:
    net, xs = NETS["LSTM"](), tg.tensor(draw(T, B, D))
    hs, (_, c) = net(xs)
    loss = (hs**2).sum() + c.sum()
    loss.backward()
    before = [p.grad.numpy().copy() for p in net.parameters()]
    np.testing.assert_array_equal(temporal_jacobians(loss).steps, temporal_jacobians(hs).steps)
    for p, g in zip(net.parameters(), before, strict=True):
        np.testing.assert_array_equal(p.grad.numpy(), g)


@pytest.mark.parametrize("unfolded", [False, True])
@pytest.mark.parametrize("name", ["RNN", "LSTM", "GRU"])
def test_rows_that_have_ended_stand_still(name: str, unfolded: bool) -> None:
    net, xs, lengths = NETS[name](), tg.tensor(draw(T, B, D)), np.array([T, 3, 1])
    alone = temporal_jacobians(net(xs)[0])
    with tg.enable_grad() if not unfolded else tg.unfolded():
        J = temporal_jacobians(net(xs, lengths=lengths)[0])
    S = J.steps.shape[-1]
    for row, length in enumerate(lengths):
        np.testing.assert_allclose(J.steps[:length, row], alone.steps[:length, row], atol=1e-15)
        if not unfolded or name != "LSTM":
            np.testing.assert_array_equal(J.steps[length:, row], np.broadcast_to(np.eye(S), (T - length, S, S)))
        else:  # c_T was computed, but nothing that is there was computed from it
            np.testing.assert_array_equal(J.steps[length:-1, row], np.broadcast_to(np.eye(S), (max(T - length - 1, 0), S, S)))
    np.testing.assert_array_equal(J.between(T, 3)[1], np.eye(H))


def test_a_step_that_chooses_by_where_is_told_from_rows_that_have_ended() -> None:
    w, xs = tg.tensor(draw(D, D, seed=1), requires_grad=True), draw(T, B, D)

    def step(x, h, c, w):
        new = tg.tanh(h @ w + c @ w + x)
        return tg.where(x > 0, new, h), new  # one part of the state is what the other was chosen from

    zeros = tg.zeros((B, D), dtype="float64")
    J = temporal_jacobians(tg.scan(step, tg.tensor(xs), (zeros, zeros), (w,))[0])
    before = np.zeros((B, 2, D))
    for t, x in enumerate(xs, 1):
        for row in range(B):
            expected = tg.jacobian(lambda s, x=x[row]: tg.stack(step(x, s[0], s[1], w)), before[row]).numpy()
            np.testing.assert_allclose(J.step(t, "state")[row], expected.reshape(2 * D, 2 * D), atol=1e-14)
        before = np.stack([a.numpy() for a in step(x, before[:, 0], before[:, 1], w)], axis=1)


def test_a_loop_from_the_end_has_falling_times() -> None:
    net = nn.RNN(D, H, bidirectional=True, rng=1, dtype="float64")
    xs = tg.tensor(draw(T, B, D))
    hs, _ = net(xs)
    J = temporal_jacobians(hs, "layer 0_reverse")
    assert J.times.tolist() == [*range(T + 1, 0, -1)]
    h = hs.numpy()[..., H:]
    w = net.weight_hh_l0_reverse.numpy()
    for t in range(1, T + 1):
        np.testing.assert_allclose(J.step(t), (1 - h[t - 1] ** 2)[:, :, None] * w, atol=1e-14)
    np.testing.assert_allclose(J.between(2, 4), J.step(2) @ J.step(3), atol=1e-15)
    assert (J.between(4, 2) == 0).all()


def test_of_several_loops_one_is_chosen_by_its_place() -> None:
    net = nn.GRU(D, H, num_layers=2, rng=1, dtype="float64")
    xs = tg.tensor(draw(T, B, D))
    hs, _ = net(xs)
    with pytest.raises(ArgumentError, match="2 loops stand on the tape") as error:
        temporal_jacobians(hs)
    assert "'GRU > layer 0', 'GRU > layer 1'" in str(error.value)
    with pytest.raises(ArgumentError, match=r"no loop is called 'layer 2'"):
        temporal_jacobians(hs, "layer 2")
    below = nn.GRU(D, H, rng=1, dtype="float64")
    below.load_state_dict({name: p for name, p in net.state_dict().items() if name.endswith("l0")})
    np.testing.assert_allclose(temporal_jacobians(hs, "layer 0").steps, temporal_jacobians(below(xs)[0]).steps, atol=1e-15)
    assert temporal_jacobians(hs, "GRU > layer 1").place == "GRU > layer 1"


def test_cells_stacked_by_hand_are_one_state_with_a_number_for_each_cell() -> None:
    first, second = nn.LSTMCell(D, H, rng=0, dtype="float64"), nn.GRUCell(H, 3, rng=1, dtype="float64")
    low, high, loss = None, None, 0.0
    for x in tg.steps(tg.tensor(draw(T, B, D))):
        low = first(x, low)
        high = second(low[0], high)
        loss = loss + (high**2).sum()  # a sum over time is no state
    J = temporal_jacobians(loss)
    assert {name: part.stop - part.start for name, part in J.parts.items()} == {"h1": H, "c1": H, "h2": 3}
    assert (J.between(T, 2, "h2", "c1") != 0).any() and (J.between(T, 2, "c1", "h2") == 0).all()


def test_a_plain_loop_over_cells_has_the_calls_of_each_as_steps() -> None:
    xs, hs, tops = tg.tensor(draw(T, B, D)), [], []
    first, second, score = (
        nn.LSTMCell(D, H, rng=0, dtype="float64"),
        nn.GRUCell(H, 3, rng=1, dtype="float64"),
        nn.Linear(3, 1, dtype="float64"),
    )
    low, high, loss = None, None, 0.0
    for x in xs:
        low = first(x, low)
        high = second(low[0], high)
        loss = loss + (score(high) ** 2).sum()
        hs.append(low)
        tops.append(high)
    for place, states in [("LSTMCell", hs), ("GRUCell", tops)]:
        J, listed = temporal_jacobians(loss, place), temporal_jacobians(states)
        assert J.place == place and list(J.parts) == list(listed.parts) and J.times.tolist() == list(range(T + 1))
        np.testing.assert_array_equal(J.steps[1:], listed.steps)
    with pytest.raises(ArgumentError, match="2 loops stand on the tape"):
        temporal_jacobians(loss)


def test_a_loop_that_feeds_back_around_its_cell_is_refused() -> None:
    cell, back, h = nn.GRUCell(D, H, rng=0, dtype="float64"), nn.Linear(H, D, rng=1, dtype="float64"), None
    for x in tg.tensor(draw(T, B, D)):
        h = cell(x if h is None else x + back(h), h)
    with pytest.raises(GraphError, match=r"(?s)was not computed from the state before alone.*tg\.steps"):
        temporal_jacobians(h)


def test_a_cell_of_ones_own_and_a_read_out_between_the_steps() -> None:
    w, u = (tg.tensor(draw(H, H, seed=k) / 2, requires_grad=True) for k in (1, 2))
    h, outputs = tg.zeros((B, H), dtype="float64"), []
    for x in tg.steps(tg.tensor(draw(T, B, H))):
        h = tg.tanh(h @ w.T + x) + 0.5 * h
        outputs.append((h @ u.T).sum())
    J = temporal_jacobians(outputs[-1] + outputs[0])
    inner = (J.steps - 0.5 * np.eye(H)) @ np.linalg.inv(w.numpy())  # diag(1 - tanh²) is left
    assert np.abs(inner - inner * np.eye(H)).max() < 1e-13
    np.testing.assert_array_equal(J.gates["h"], np.full((len(J.steps), B, H), 0.5))


# ---- Closed forms and the lecture notes ------------------------------------------------------------------------------------------------


def test_of_a_diagonal_linear_network_the_powers_of_its_weights() -> None:
    a = np.array([0.5, -0.9, 1.0, 1.1])
    w = tg.tensor(np.diag(a), requires_grad=True)
    J = temporal_jacobians(dy.linear_recursion(tg.tensor(draw(30, 1, D)), np.zeros((1, 4)), draw(4, D), w))
    for t, s in [(30, 0), (17, 4)]:
        np.testing.assert_allclose(J.between(t, s)[0], np.diag(a ** (t - s)), rtol=1e-12, atol=0)
    np.testing.assert_allclose(J.norms(kind="spectral")[:, 0], 1.1 ** np.arange(30.0, -1, -1), rtol=1e-12)
    np.testing.assert_allclose(J.norms()[0, 0], np.sqrt((a**60).sum()), rtol=1e-12)
    np.testing.assert_allclose(J.lyapunov_exponents()[0], np.sort(np.log(np.abs(a)))[::-1], atol=1e-13)
    np.testing.assert_allclose(J.singular_values()[5, 0], [1.1, 1.0, 0.9, 0.5], rtol=1e-13)
    np.testing.assert_allclose(J.singular_values(30, 28)[0], np.array([1.1, 1.0, 0.9, 0.5]) ** 2, rtol=1e-13)


def test_of_a_linear_network_the_responses_to_unit_impulses_and_its_eigenvalues() -> None:
    w = draw(5, 5, seed=3)
    w *= 0.95 / dy.spectral_radius(w)
    hs = dy.linear_recursion(tg.tensor(draw(400, 1, D)), np.zeros((1, 5)), draw(5, D), tg.tensor(w, requires_grad=True))
    J = temporal_jacobians(hs)
    powers = dy.impulse_responses(np.eye(5), w, 9)
    for lag, power in enumerate(powers):
        np.testing.assert_allclose(J.between(20, 20 - lag)[0], power, atol=1e-13)
    np.testing.assert_allclose(J.spectral_radius(), dy.spectral_radius(w), rtol=1e-12)
    np.testing.assert_allclose(J.eigenvalues()[7, 0], dy.modes(w, np.ones(5)).eigenvalues, rtol=1e-10)
    moduli = np.sort(np.log(np.abs(np.linalg.eigvals(w))))[::-1]
    np.testing.assert_allclose(J.lyapunov_exponents(skip=100)[0], moduli, atol=0.02)


def orthogonal(size: int, seed: int = 0) -> np.ndarray:
    return np.linalg.qr(draw(size, size, seed=seed))[0]


def network(w: np.ndarray, xs: np.ndarray, f: Callable = tg.tanh, start: float = 0.0):
    """The states of h_t = f(W h_(t-1) + x_t)."""
    weight = tg.tensor(w, requires_grad=True)
    return tg.scan(lambda x, h, weight: f(h @ weight.T + x), xs, np.full((1, len(w)), start), (weight,))[0]


def test_what_vanishes_what_explodes_and_what_saturation_hides() -> None:
    """Orthogonal W times 0.5, 1 and 1.5: the same matrix at every step, 100 steps."""
    xs, lag = draw(100, 1, 32) / 2, np.arange(100.0, -1, -1)
    for size in (0.5, 1.0, 1.5):
        linear = temporal_jacobians(network(size * orthogonal(32), xs, lambda a: 1.0 * a))
        np.testing.assert_allclose(linear.norms(kind="spectral")[:, 0], size**lag, rtol=1e-11)
        squashed = temporal_jacobians(network(size * orthogonal(32), xs))
        norms = squashed.norms(kind="spectral")[:, 0]
        assert (norms <= size**lag * (1 + 1e-12)).all() and norms[0] < 1e-4 * size**100
        assert (squashed.lyapunov_exponents() < np.log(size)).all()


def test_a_vector_of_relus_passes_w_on_where_all_is_positive_and_nothing_where_all_is_negative() -> None:
    w = np.abs(draw(6, 6, seed=2))
    w *= 1.1 / dy.spectral_radius(w)
    grows = temporal_jacobians(network(w, np.zeros((200, 1, 6)), F.relu, start=1.0))
    assert (grows.steps == w).all()
    np.testing.assert_allclose(grows.spectral_radius(), 1.1, rtol=1e-12)
    assert grows.lyapunov_exponents()[0, 0] == pytest.approx(np.log(1.1), abs=0.01) and grows.norms()[0] > 1e7
    silent = temporal_jacobians(network(w, np.zeros((20, 1, 6)), F.relu, start=-1.0))
    assert (silent.steps == 0).all() and np.isneginf(silent.lyapunov_exponents()).all()


def test_a_symmetric_matrix_does_not_turn() -> None:
    w = draw(5, 5, seed=4) / 4
    xs = draw(10, 1, 5)
    assert (temporal_jacobians(network(w + w.T, xs, lambda a: 1.0 * a)).eigenvalues().imag == 0).all()
    assert (temporal_jacobians(network(w - w.T, xs, lambda a: 1.0 * a)).eigenvalues()[..., 0].imag != 0).all()


@pytest.mark.parametrize("taps", [{1: 0.5, 5: 0.25}, {1: 0.5, 5: 0.25, 8: 0.1}, {3: 0.7}], ids=str)
def test_of_a_recursion_with_taps_the_companion_matrix_and_its_slowest_pole(taps: dict) -> None:
    xs = tg.tensor(draw(20), requires_grad=True)
    J = temporal_jacobians(dy.tapped_recursion(xs, taps))
    lags = max(taps)
    assert list(J.parts) == ["h", *(f"h(t-{d})" for d in range(1, lags))] and J.times[0] == lags
    for step in J.steps[:, 0]:
        np.testing.assert_array_equal(step, dy.companion(taps))
    np.testing.assert_allclose(J.spectral_radius(), np.abs(dy.poles(taps)[0]), rtol=1e-12)


@pytest.mark.parametrize("lengths", [None, np.array([9, 9, 4])])
def test_of_a_network_with_taps_a_block_for_each(lengths) -> None:
    net = nn.RNN(D, H, taps=3, rng=1, dtype="float64")
    hs, _ = net(tg.tensor(draw(9, B, D)), lengths=lengths)
    J = temporal_jacobians(hs)
    w = net.weight_hh_l0.numpy()
    slopes = 1 - hs.numpy() ** 2
    for t in range(4, 10):
        for row in range(B):
            alive = lengths is None or t <= lengths[row]
            expected = np.eye(3 * H)
            if alive:
                expected = np.zeros((3 * H, 3 * H))
                expected[:H] = slopes[t - 1, row][:, None] * w
                expected[H:, : 2 * H] = np.eye(2 * H)
            np.testing.assert_allclose(J.steps[t - 4, row], expected, atol=1e-14)


@pytest.mark.parametrize("weights", ["old", "new"])
def test_open_gates_carry_the_error_unharmed_and_others_multiply(weights: str) -> None:
    gates = np.random.default_rng(0).uniform(0.2, 1, (T, B, H))
    gates[:, 0] = 1
    J = temporal_jacobians(dy.carousel(tg.tensor(gates, requires_grad=True), draw(T, B, H), draw(B, H)))
    assert (J.between(T, 0)[0] == np.eye(H)).all()
    for row in range(B):
        for t, s in [(T, 0), (T, 2), (4, 1)]:
            np.testing.assert_allclose(J.between(t, s)[row], np.diag(gates[s:t, row].prod(axis=0)), rtol=1e-15)
    path = J.gated_path()
    np.testing.assert_allclose(path.product, dy.carousel_gradient(gates))
    assert (path.share == 1).all() and (path.rest == 0).all()


def test_an_lstm_whose_forget_gate_is_open_holds_its_cell() -> None:
    net = nn.LSTM(D, H, rng=1, dtype="float64")
    with tg.no_grad():
        net.weight_hh_l0[...] = 0.0
        net.weight_ih_l0[H : 2 * H] = 0.0
        net.bias_ih_l0[H : 2 * H] = 800.0  # sigmoid(800) = 1
    J = temporal_jacobians(net(tg.tensor(draw(40, B, D)))[0])
    assert (J.between(40, 0, "c") == np.eye(H)).all() and (J.gated_path().share == 1).all()


def test_deep_chain_the_product_of_explicit_jacobians_equals_the_gradients_of_the_layers() -> None:
    """grad_(f_k) Div = grad D . grad f_N . W_(N-1) . grad f_(N-1) ... grad f_(k+1) . W_k."""
    N = 5
    W = [tg.tensor(draw(H, H, seed=k), requires_grad=True) for k in range(N)]
    f = [tg.tensor(draw(1, H, seed=9), requires_grad=True)]
    z = []
    for w in W:
        z.append(f[-1] @ w.T)
        f.append(tg.tanh(z[-1]))
    loss = (f[-1] ** 3).sum()
    J = temporal_jacobians(f)
    by_layer = tg.grad(loss, f)
    for k in range(N + 1):
        row = 3 * f[-1].numpy() ** 2
        for i in range(N, k, -1):
            row = row @ np.diag(1 - np.tanh(z[i - 1].numpy()[0]) ** 2) @ W[i - 1].numpy()
        np.testing.assert_allclose(row, by_layer[k].numpy(), rtol=1e-12)
        np.testing.assert_allclose(3 * f[-1].numpy() ** 2 @ J.between(N, k)[0], row, rtol=1e-12)


@pytest.mark.parametrize(("f", "bound"), [(tg.sigmoid, 0.25), (tg.tanh, 1.0), (F.relu, 1.0)])
def test_the_jacobian_of_an_activation_is_diagonal_and_bounded(f: Callable, bound: float) -> None:
    z = tg.tensor(np.linspace(-4, 4, 81)[None], requires_grad=True)
    (step,) = temporal_jacobians([z, f(z)]).steps[:, 0]
    diagonal = np.diag(step)
    assert (step - np.diag(diagonal) == 0).all()
    assert diagonal.max() == pytest.approx(bound, abs=1e-15) and diagonal.min() >= 0


def test_of_a_plain_network_the_jacobian_is_the_slope_times_the_weights() -> None:
    """ds(t+1)/ds(t) = diag(1 - s(t+1)²) W; and the sum of norms falls as the notes say it does."""
    net = NETS["RNN"]()
    hs, _ = net(tg.tensor(draw(T, B, D)))
    J = temporal_jacobians(hs)
    for t in range(1, T + 1):
        np.testing.assert_allclose(J.step(t), (1 - hs.numpy()[t - 1] ** 2)[:, :, None] * net.weight_hh_l0.numpy(), atol=1e-15)
    assert (J.step_norms() <= np.linalg.norm(net.weight_hh_l0.numpy(), 2) + 1e-12).all()


def test_the_henon_map_has_the_lyapunov_exponents_of_the_literature() -> None:
    a = tg.tensor(1.4, requires_grad=True, dtype="float64")

    def henon(_, x, y):
        return 1 - a * x * x + y, 0.3 * x

    xs = np.zeros(1000)
    states, _ = tg.scan(henon, xs, (np.array([0.1]), np.array([0.1])))
    J = temporal_jacobians(states)
    first, second = J.lyapunov_exponents(skip=100)[0]
    assert first == pytest.approx(0.419, abs=0.04)
    assert first + second == pytest.approx(np.log(0.3), abs=1e-9)  # the area that one step leaves
    running = J.lyapunov_exponents(skip=100, running=True)
    np.testing.assert_array_equal(running[-1, 0], [first, second])


# ---- The gated path --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["LSTM", "LSTM, projected", "LSTM, peephole", "LSTM, coupled"])
def test_the_gates_of_an_lstm_are_its_forget_gates(name: str) -> None:
    net, xs = NETS[name](), tg.tensor(draw(T, B, D))
    hs, _, gates = net(xs, return_gates=True)
    J = temporal_jacobians(hs)
    f = gates.f.numpy()[0]
    assert list(J.gates) == ["c"]
    np.testing.assert_allclose(J.gates["c"], f, atol=1e-15)
    path = J.gated_path(5)
    assert path.part == "c" and path.t == 5
    for s in range(6):
        diagonal = f[s:5].prod(axis=0)
        np.testing.assert_allclose(path.product[s], diagonal, atol=1e-15)
        total = J.between(5, s, "c")
        rest = total - np.eye(H) * diagonal[:, None, :]
        np.testing.assert_allclose(path.total[s], np.linalg.norm(total, axis=(1, 2)), atol=1e-14)
        np.testing.assert_allclose(path.gated[s], np.linalg.norm(diagonal, axis=1), atol=1e-14)
        np.testing.assert_allclose(path.rest[s], np.linalg.norm(rest, axis=(1, 2)), atol=1e-14)
    assert (path.total[6] == 0).all() and (path.product[6] == 0).all() and np.isnan(path.share[6]).all()
    assert ((path.share[:4] > 0) & (path.share[:4] < 1)).all() and (path.share[5] == 1).all()
    assert ((path.share[4] == 1) == (net.peephole is None)).all()  # in one step the gate is all, but for what peepholes see


@pytest.mark.parametrize("reset", ["after", "before"])
@pytest.mark.parametrize("z_weights", ["old", "new"])
def test_the_gate_of_a_gru_is_z_or_1_minus_z_by_its_convention(reset: str, z_weights: str) -> None:
    net = nn.GRU(D, H, reset=reset, z_weights=z_weights, rng=1, dtype="float64")
    hs, _, gates = net(tg.tensor(draw(T, B, D)), return_gates=True)
    z = gates.z.numpy()[0]
    np.testing.assert_allclose(temporal_jacobians(hs).gates["h"], z if z_weights == "old" else 1 - z, atol=1e-15)


def test_without_recurrent_weights_the_gates_are_all_there_is() -> None:
    net = NETS["GRU"]()
    with tg.no_grad():
        net.weight_hh_l0[...] = 0.0
    path = temporal_jacobians(net(tg.tensor(draw(T, B, D)))[0]).gated_path()
    assert (path.share == 1).all() and (path.rest == 0).all()


def test_a_network_without_gates_has_no_gated_path() -> None:
    J = temporal_jacobians(NETS["RNN"]()(tg.tensor(draw(T, B, D)))[0])
    assert J.gates == {}
    with pytest.raises(ArgumentError, match=r"(?s)no part of the state is handed on times a gate.*LSTM or a GRU"):
        J.gated_path()


# ---- Numbers that are none, texts, errors ----------------------------------------------------------------------------------------------


def linear_loop(w: np.ndarray, steps: int):
    return dy.linear_recursion(
        tg.tensor(np.zeros((steps, 1, 1))), np.ones((1, len(w))), np.ones((len(w), 1)), tg.tensor(w, requires_grad=True)
    )


def test_zero_infinity_and_nan_are_shown_as_such() -> None:
    with np.errstate(all="ignore"):
        grown = temporal_jacobians(linear_loop(np.eye(2) * 1e60, 8))
        assert np.isinf(grown.norms()[0, 0]) and np.isinf(grown.norms(kind="spectral")[0, 0])
        assert grown.norms()[4, 0] == pytest.approx(np.sqrt(2) * 1e240)  # whose square is no number
        gone = temporal_jacobians(linear_loop(np.diag([0.0, 0.5]), 8))
        assert gone.lyapunov_exponents()[0].tolist() == [pytest.approx(np.log(0.5)), -np.inf]
        assert (temporal_jacobians(linear_loop(np.zeros((2, 2)), 8)).norms()[:-1] == 0).all()
        odd = temporal_jacobians(linear_loop(np.array([[np.nan, 0], [0, 1]]), 3))
    assert np.isnan(odd.step_norms()).all() and np.isnan(odd.spectral_radius()).all() and np.isnan(odd.singular_values()).all()
    assert (
        " inf" in grown.table()
        and " nan" in odd.table()
        and temporal_jacobians(linear_loop(np.zeros((2, 2)), 8)).table().splitlines()[2].endswith(" 0")
    )


def test_tables_and_reprs_tell_what_they_are_and_stay_short() -> None:
    hs, _ = nn.LSTM(D, H, rng=1)(tg.tensor(draw(100, B, D).astype("f")))
    J = temporal_jacobians(hs)
    assert repr(J) == "TemporalJacobians('LSTM > layer 0', t = 0 ... 100, state (h 4, c 4), steps (100, 3, 8, 8))"
    lines = J.table(most=10).splitlines()
    assert lines[0].endswith("the largest of 3 rows") and len(lines) == 13 and "(91 more)" in lines[7]
    assert "1.000e+00" in lines[-1] and lines[-1].split()[0] == "100"
    assert J.table(row=1).splitlines()[0].endswith("row 1")
    path = J.gated_path()
    assert path.table(most=4).splitlines()[0] == "dc_100/dc_s, Frobenius norms, row 0"
    assert path.table(most=200).splitlines()[-1].split() == ["100", "2.000e+00", "2.000e+00", "0", "100.0%"]
    assert repr(path).startswith("GatedPath(dc_100/dc_s, s = 0 ... 100, share at s = 0: [")


def test_rows_of_the_batch_can_be_chosen() -> None:
    hs, _ = NETS["RNN"]()(tg.tensor(draw(T, B, D)))
    every = temporal_jacobians(hs).steps
    np.testing.assert_array_equal(temporal_jacobians(hs, rows=[2, 0]).steps, every[:, [2, 0]])
    np.testing.assert_array_equal(temporal_jacobians(hs, rows=-1).steps, every[:, [2]])
    with pytest.raises(ArgumentError, match="rows of a batch of 3"):
        temporal_jacobians(hs, rows=3)


def test_parts_can_be_renamed() -> None:
    hs, _ = NETS["LSTM"]()(tg.tensor(draw(T, B, D)))
    assert list(temporal_jacobians(hs, names={"c": "memory"}).parts) == ["h", "memory"]
    assert list(temporal_jacobians(hs, names=["a", "b"]).parts) == ["a", "b"]
    with pytest.raises(ArgumentError, match=r"2 different ones, for the parts \['h', 'c'\]"):
        temporal_jacobians(hs, names=["a"])


def test_questions_that_have_no_answer_say_what_can_be_asked() -> None:
    hs, _ = NETS["LSTM"]()(tg.tensor(draw(T, B, D)))
    J = temporal_jacobians(hs)
    for ask, expected in [
        (lambda: J.between(9, 2), r"(?s)no state at t = 9.*from 0 to 6"),
        (lambda: J.step(0), "nothing comes before t = 0"),
        (lambda: J.between(3, 2, "z"), r"(?s)'z' is no part of the state.*'h' or 'c' or 'state'"),
        (lambda: J.norms(kind="max"), "'frobenius' or 'spectral'"),
        (lambda: J.singular_values(3), "one time"),
        (lambda: J.lyapunov_exponents(skip=6), "0 <= skip < 6"),
        (lambda: J.gated_path(part="h"), r"(?s)no part of the state called 'h'.*\['c'\]"),
    ]:
        with pytest.raises(ArgumentError, match=expected):
            ask()


def test_what_is_no_recurrence_is_refused_with_advice() -> None:
    net, xs = NETS["LSTM"](), tg.tensor(draw(T, B, D))
    hs, _ = net(xs)
    with pytest.raises(GraphError, match=r"(?s)no loop with a state.*tg\.steps"):
        temporal_jacobians(nn.Linear(D, H, dtype="float64")(xs))
    with pytest.raises(GraphError, match=r"(?s)no state was computed from the one before.*of a layer give.*copies"):
        temporal_jacobians([hs[t] for t in range(T)])
    with pytest.raises(ArgumentError, match="at least two"):
        temporal_jacobians([hs])
    with pytest.raises(ArgumentError, match=r"(?s)of different lengths.*hs, _ = lstm\(xs\)"):
        temporal_jacobians(net(xs))
    with pytest.raises(ArgumentError, match=r"(?s)is no Tensor.*hs, _ = lstm\(xs\)"):
        temporal_jacobians(net)
    with pytest.raises(ArgumentError, match=r"(?s)loop=0.*a name.*LSTM > layer 0"):
        temporal_jacobians(hs, 0)
    with pytest.raises(GraphError, match="is a constant"):
        temporal_jacobians(hs.detach())
    with pytest.raises(GraphError, match=r"(?s)state 0.*is a constant.*requires_grad_"):
        temporal_jacobians([tg.zeros((B, H)), hs[0]])
    with pytest.raises(ShapeError, match=r"(?s)state 1 has the shapes.*one layer at a time"):
        temporal_jacobians([hs, hs[0]])
    with pytest.raises(ArgumentError, match="a list is a loop of its own"):
        temporal_jacobians([hs, hs], "layer 0")
    with pytest.raises(ArgumentError, match="is no Tensor"):
        temporal_jacobians(np.zeros((T, B, H)))


def test_a_list_that_leaves_out_half_of_the_state_is_refused() -> None:
    cell, h, hs = nn.LSTMCell(D, H, rng=1), None, []
    for x in tg.tensor(draw(T, B, D).astype("f")):
        h = cell(x, h)
        hs.append(h)
    assert list(temporal_jacobians(hs).parts) == ["h", "c"]
    with pytest.raises(
        GraphError, match=r"(?s)h at t = 3 was not computed from the state before alone.*made at t = 1.*\(h_1, c_1\)"
    ):
        temporal_jacobians([h for h, _ in hs])


def test_rows_that_act_on_each_other_are_refused() -> None:
    w, h, hs = tg.tensor(draw(H, H), requires_grad=True), tg.zeros((B, H), dtype="float64"), []
    for x in tg.tensor(draw(T, B, H)):
        h = tg.tanh(h @ w + x)
        h = h - h.mean(axis=0)
        hs.append(h)
    with pytest.raises(GraphError, match="a row of the batch depends on another row"):
        temporal_jacobians(hs)


def test_steps_that_hand_on_different_things_are_refused() -> None:
    w = tg.tensor(draw(H, 1), requires_grad=True)
    h = tg.zeros((B, 1), dtype="float64")
    for x in tg.steps(tg.tensor(draw(T, B, H))):
        h = tg.concatenate([h, x @ w], axis=1)  # a memory that grows
    with pytest.raises(GraphError, match=r"(?s)hand on different states: t = \d and t = \d.*a state of one form.*a list"):
        temporal_jacobians(h)
    past = [tg.zeros((B, H), dtype="float64")]
    for x in tg.steps(tg.tensor(draw(T, B, H))):
        past.append(tg.tanh(sum(past) @ tg.tensor(np.eye(H), requires_grad=True) + x))  # a step that reads all the past
    with pytest.raises(GraphError, match="hand on different states"):
        temporal_jacobians(past[-1])


def test_a_graph_that_was_cut_passes_nothing_on() -> None:
    cell = nn.RNNCell(D, H, rng=1, dtype="float64")
    h, hs = None, []
    for t, x in enumerate(tg.tensor(draw(T, B, D))):
        h = cell(x, h.detach() if t == 3 else h)
        hs.append(h)
    J = temporal_jacobians(hs)
    assert (J.step(4) == 0).all() and (J.step(3) != 0).any() and (J.between(6, 4) != 0).any() and (J.between(6, 3) == 0).all()


def test_what_would_not_fit_into_memory_is_refused_before_it_is_tried() -> None:
    w = tg.tensor(np.ones(2000, "f"), requires_grad=True)
    hs, _ = tg.scan(lambda x, h, w: h * w, np.zeros(4), tg.zeros((100, 2000)), (w,))
    with pytest.raises(ArgumentError, match=r"(?s)4 Jacobians \(2000, 2000\) of 100 rows take 6 GiB.*rows=\[0\]"):
        temporal_jacobians(hs)


def test_on_a_device_they_are_those_of_the_host(device_xp) -> None:
    device = "strict" if "strict" in device_xp.__name__ else "cuda"
    net, xs = NETS["LSTM"](), tg.tensor(draw(T, B, D))
    here = temporal_jacobians(net(xs)[0])
    with tg.unfolded():
        there = temporal_jacobians(net.to(device)(xs.to(device))[0])
    np.testing.assert_allclose(there.steps, here.steps, atol=1e-14)
    np.testing.assert_allclose(there.gates["c"], here.gates["c"], atol=1e-14)


def test_the_time_it_takes_is_linear_in_the_length_of_the_sequence() -> None:
    """Counted in ops of the sweeps: so many for a step, however many steps there are."""
    counts = []
    for steps in (20, 40):
        hs, _ = NETS["GRU"]()(tg.tensor(draw(steps, B, D)))
        _, tape = opened_with_states([hs], "test")
        (chain,) = chains_of(tape)
        counts.append(len(CutTape(chain, tape, np).twins))
    assert counts[1] - counts[0] == 20 * (counts[0] // 20) and counts[0] % 20 in (0, 1)


@pytest.mark.parametrize("seed", range(24))
def test_of_random_cells_the_jacobians_are_those_of_the_step(seed: int) -> None:
    rng = Random(seed)
    cells = (random_cell(rng, rng.randint(3, 10)) for _ in range(99))
    cell = next(c for c in cells if len({*c.returned}) == len(c.widths) < min(c.returned))  # states that it computes, each its own
    xs, states, weights = arrays_of(cell, Call(3, B, False, None, True, True, True))
    weights, ends = [tg.tensor(w, requires_grad=True) for w in weights], np.cumsum([0, *cell.widths])

    def step(state, x):
        new = cell(x, *state, *weights)[: len(state)] if cell.collected or len(state) > 1 else (cell(x, *state, *weights),)
        return tuple(s if isinstance(s, tg.Tensor) and s.node else tg.tensor(s, requires_grad=True) for s in new)

    chain = [tuple(tg.tensor(s, requires_grad=True) for s in states)]
    for x in xs:
        chain.append(step(chain[-1], tg.tensor(x)))
    try:
        J = temporal_jacobians(chain)
    except GraphError as error:  # a cell that does not look back
        assert "no state was computed from the one before" in str(error)
        J = None
    for t, x in enumerate(xs):
        for row in range(B):
            before = np.concatenate([s.numpy()[row] for s in chain[t]])

            def flat(v, x=x, row=row):
                parts = [v[int(a) : int(b)][None] for a, b in pairwise(ends)]
                return tg.concatenate([s[0] for s in step(parts, tg.tensor(x[row : row + 1]))])

            expected = tg.jacobian(flat, before).numpy()
            np.testing.assert_allclose(J.steps[t, row] if J else 0 * expected, expected, rtol=1e-9, atol=1e-12)
