"""Gradient flow: norms of dL/dh_t against PyTorch, closed forms and the temporal Jacobians; and what the notes say of it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import tinygrad_seq as tg
from tinygrad_seq import nn
from tinygrad_seq.bptt import flow, neuron_norms, temporal_jacobians
from tinygrad_seq.errors import ArgumentError, GraphError
from tinygrad_seq.nn import functional as F
from tinygrad_seq.nn.functional import dynamics as dy

T, B, D, H = 7, 3, 2, 4


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def norms(gradients) -> np.ndarray:
    return np.array([np.sqrt((g**2).sum()) for g in gradients])


@pytest.mark.torch
def test_of_an_lstm_the_norms_are_those_that_pytorch_keeps_for_every_h_and_c() -> None:
    torch = pytest.importorskip("torch")
    net = nn.LSTM(D, H, rng=1, dtype="float64")
    cell = torch.nn.LSTMCell(D, H).double()
    cell.load_state_dict({name.removesuffix("_l0"): torch.tensor(w.numpy()) for name, w in net.named_parameters()})
    xs, weight = draw(T, B, D), draw(T, B, H, seed=5)
    states = [(torch.zeros(B, H, dtype=torch.float64), torch.zeros(B, H, dtype=torch.float64))]
    for x in torch.tensor(xs):
        h, c = cell(x, states[-1])
        h.retain_grad()
        c.retain_grad()
        states.append((h, c))
    (torch.stack([h for h, _ in states[1:]]) * torch.tensor(weight)).sum().backward()
    loss = (net(tg.tensor(xs))[0] * weight).sum()
    found = flow(loss)
    assert found.names == ["h", "c"]
    for j, part in enumerate("hc"):
        gradients = [s[j].grad.numpy() for s in states[1:]]
        np.testing.assert_allclose(found[part].norms, norms(gradients), rtol=1e-12)
        np.testing.assert_allclose(found[part].by_row, [np.linalg.norm(g, axis=1) for g in gradients], rtol=1e-12)
        assert found[part].times.tolist() == list(range(1, T + 1))


@pytest.mark.parametrize("make", [nn.RNN, nn.LSTM, nn.GRU])
def test_the_gradient_of_a_state_is_that_of_the_last_times_the_temporal_jacobian(make: Callable) -> None:
    net = make(D, H, rng=1, dtype="float64")
    hs, _, *gates = net(tg.tensor(draw(T, B, D)), **({"return_gates": True} if make is nn.LSTM else {}))
    weight = draw(B, 1, H, seed=3)
    found, J = flow((hs[-1] * weight[:, 0]).sum()), temporal_jacobians(hs)
    for t in range(1, T + 1):
        dh = weight @ J.between(T, t)
        np.testing.assert_allclose(found["h"].by_row[t - 1], np.linalg.norm(dh, axis=(1, 2)), rtol=1e-11)
        if gates:  # a Jacobian holds h_t fixed; the gradient of c_t counts what it does to h_t, too
            o, c = (a.numpy()[0, t - 1][:, None] for a in (gates[0].o, gates[0].c))
            dc = weight @ J.between(T, t, "h", "c") + dh * o * (1 - np.tanh(c) ** 2)
            np.testing.assert_allclose(found["c"].by_row[t - 1], np.linalg.norm(dc, axis=(1, 2)), rtol=1e-11)


def test_along_a_linear_network_it_changes_by_the_same_factor_at_every_step() -> None:
    for a in (0.5, 1.0, 1.5):
        hs = dy.linear_recursion(
            tg.tensor(draw(100, 1, D)), np.zeros((1, 3)), draw(3, D), tg.tensor(np.eye(3) * a, requires_grad=True)
        )
        found = flow(hs[-1].sum())
        np.testing.assert_allclose(found["h"].norms, np.sqrt(3) * a ** np.arange(99.0, -1, -1), rtol=1e-12)
        assert found["h"].left == pytest.approx(a**99)


def last_loss(net, xs):
    return (net(xs)[0][-1] ** 2).sum()


def test_an_open_forget_gate_keeps_the_gradient_that_a_closed_one_loses() -> None:
    """Adding small weights does not lead to vanishing gradients as multiplying by them does: dL/dc at lag 99 by the bias of f."""
    left = []
    for bias in (0.0, 1.0, 5.0):
        net = nn.LSTM(D, H, rng=1, dtype="float64")
        with tg.no_grad():
            net.bias_ih_l0[H : 2 * H] = bias
            net.bias_hh_l0[H : 2 * H] = 0.0
        left.append(flow(last_loss(net, tg.tensor(draw(100, B, D))))["c"].left)
    assert left[0] < 1e-15 and 1e-13 < left[1] < 1e-3 and left[2] > 0.1


# ---- Layers, directions, several networks ------------------------------------------------------------------------------------------------


def test_every_layer_and_direction_has_a_line() -> None:
    net = nn.LSTM(D, H, num_layers=2, bidirectional=True, rng=1, dtype="float64")
    xs = tg.tensor(draw(T, B, D))
    found = flow(net(xs)[0].sum())
    directions = [f"layer {layer}{way}, {part}" for layer in (0, 1) for way in ("", "_reverse") for part in "hc"]
    assert found.names == directions and [line.from_end for line in found][:4] == [False, False, True, True]

    below, above = (nn.LSTM(size, H, bidirectional=True, rng=1, dtype="float64") for size in (D, 2 * H))
    for k, one in enumerate((below, above)):
        one.load_state_dict({n.replace(f"l{k}", "l0"): p for n, p in net.state_dict().items() if f"l{k}" in n})
    middle = below(xs)[0]
    top = above(middle.detach().requires_grad_())[0]
    np.testing.assert_allclose(flow(top.sum())["layer 0_reverse, c"].norms, found["layer 1_reverse, c"].norms, rtol=1e-12)
    whole = flow(above(middle)[0].sum())
    np.testing.assert_allclose(whole.lines[0].norms, found["layer 0, h"].norms, rtol=1e-12)
    one_way = flow(nn.GRU(D, H, bidirectional=True, rng=1, dtype="float64")(xs)[0][0].sum())
    assert one_way["layer 0, h"].norms[1:].tolist() == [0.0] * (T - 1) and (one_way["layer 0_reverse, h"].norms > 0).all()
    back = one_way["layer 0_reverse, h"]  # which starts at t = T
    assert back.left == back.norms[-1] / back.norms[0] < 0.1


def test_an_encoder_and_a_decoder_are_two_loops() -> None:
    encoder, decoder = nn.GRU(D, H, rng=0, dtype="float64"), nn.GRU(D, H, rng=1, dtype="float64")
    xs, ys = tg.tensor(draw(T, B, D)), tg.tensor(draw(4, B, D, seed=2))
    _, h = encoder(xs)
    out, _ = decoder(ys, h)
    found = flow((out**2).sum())
    assert len(found) == 2 and [len(line.times) for line in found] == [T, 5]
    np.testing.assert_allclose(found.lines[1].norms[0], found.lines[0].norms[-1], rtol=1e-13)  # its h_0 is the encoder's last state
    assert found.lines[1].times[0] == 0 and found.lines[0].place != found.lines[1].place


def test_several_networks_stand_on_one_scale() -> None:
    xs = tg.tensor(draw(30, B, D))
    losses = {f: last_loss(nn.RNN(D, H, nonlinearity=f, rng=1, dtype="float64"), xs) for f in ("tanh", "relu")}
    losses["LSTM"] = last_loss(nn.LSTM(D, H, rng=1, dtype="float64"), xs)
    found = flow(losses)
    assert found.names == ["tanh, h", "relu, h", "LSTM, h", "LSTM, c"]
    for name, loss in losses.items():
        for line in flow(loss):
            np.testing.assert_array_equal(found[f"{name}, {line.name}"].norms, line.norms)
    every = np.concatenate([line.norms for line in found])
    assert found.scale == (every[every > 0].min(), every.max())
    text = found.table(width=10, most=99).splitlines()
    largest = max((line.norms.max(), line.name) for line in found)[1]
    assert sum(line.count("█" * 10) for line in text) >= 1 and largest in text[1]


# ---- Whatever tape -----------------------------------------------------------------------------------------------------------------------


def test_compiled_unfolded_and_hand_written_loops_agree_and_no_grad_changes() -> None:
    net, cell, xs = nn.LSTM(D, H, rng=1, dtype="float64"), nn.LSTMCell(D, H, rng=1, dtype="float64"), tg.tensor(draw(T, B, D))
    cell.load_state_dict({name.removesuffix("_l0"): p for name, p in net.state_dict().items()})
    loss = last_loss(net, xs)
    expected = flow(loss)
    with tg.unfolded():
        found = [flow(last_loss(net, xs))]
    for over in (tg.steps(xs), xs):
        states = []
        for x in over:
            states.append(cell(x, states[-1] if states else None))
        end = (states[-1][0] ** 2).sum()
        found += [flow(end, states), flow(end)]
    for other in found:
        assert other.names == ["h", "c"]
        for part in "hc":
            np.testing.assert_allclose(other[part].norms, expected[part].norms, rtol=1e-12)
    assert all(p.grad is None for p in [*net.parameters(), *cell.parameters()])
    one = flow(end, {"mine": [h for h, _ in states]})
    assert one.names == ["mine"]
    np.testing.assert_allclose(one["mine"].norms, expected["h"].norms, rtol=1e-12)


def test_rows_that_have_ended_get_nothing_behind_their_end() -> None:
    lengths = np.array([T, 3, 0])
    for unfolded in (False, True):
        with tg.unfolded() if unfolded else tg.enable_grad():
            hs, _ = nn.GRU(D, H, rng=1, dtype="float64")(tg.tensor(draw(T, B, D)), lengths=lengths)
        rows = flow((hs**2).sum())["h"].by_row
        for row, length in enumerate(lengths):
            assert (rows[:length, row] > 0).all() and (rows[length:, row] == 0).all()


def test_a_recorded_start_counts_at_time_0() -> None:
    h0 = tg.tensor(draw(1, B, H), requires_grad=True)
    loss = (nn.RNN(D, H, rng=1, dtype="float64")(tg.tensor(draw(T, B, D)), h0)[0] ** 2).sum()
    found = flow(loss)["h"]
    assert found.times.tolist() == list(range(T + 1))
    np.testing.assert_allclose(found.norms[0], np.linalg.norm(tg.grad(loss, h0).numpy()), rtol=1e-13)
    assert h0.grad is None


def test_a_loss_added_up_in_the_loop_and_one_that_is_no_scalar() -> None:
    cell, h, total, hs = nn.RNNCell(D, H, rng=1, dtype="float64"), None, 0.0, []
    for x in tg.steps(tg.tensor(draw(T, B, D))):
        h = cell(x, h)
        hs.append(h)
        total = total + (h**2).sum()
    expected = norms([g.numpy() for g in tg.grad(total, hs)])
    np.testing.assert_allclose(flow(total)["h"].norms, expected, rtol=1e-13)
    np.testing.assert_allclose(flow(tg.stack(hs), gradient=2 * np.stack([h.numpy() for h in hs]))["h"].norms, expected, rtol=1e-13)
    with pytest.raises(GraphError, match="no scalar"):
        flow(tg.stack(hs))


# ---- Texts and errors --------------------------------------------------------------------------------------------------------------------


def test_zero_infinity_and_nan_are_shown_as_such() -> None:
    def along(a: float, steps: int) -> tg.Tensor:
        w = tg.tensor(np.full((1, 1), a), requires_grad=True)
        return dy.linear_recursion(tg.tensor(np.zeros((steps, 1, 1))), np.zeros((1, 1)), np.ones((1, 1)), w)[-1].sum()

    with np.errstate(all="ignore"):
        found = flow({"zero": along(0.0, 5), "grows": along(1e100, 5), "nan": along(np.nan, 5)})
        text = found.table(width=4).splitlines()
    assert found["grows, h"].norms.tolist() == [np.inf, 1e300, 1e200, 1e100, 1.0]
    first, last = text[2].split(), text[6].split()
    assert first == ["1", "0", "inf", "████", "nan"] and last[:3] == ["5", "1.000e+00", "█"]
    assert found.scale == (1.0, 1e300)
    assert np.isnan(flow(along(np.nan, 3) * 0)["h"].norms[:2]).all()
    nothing = flow(along(1.0, 4) * 0.0)
    assert "no number to draw" in nothing.table() and np.isnan(nothing.scale).all() and (nothing["h"].norms == 0).all()


def test_tables_leave_out_the_middle_and_reprs_are_short() -> None:
    found = flow(last_loss(nn.LSTM(D, H, rng=1), tg.tensor(draw(200, B, D).astype("f"))))
    lines = found.table(most=8).splitlines()
    assert len(lines) == 1 + 1 + 8 + 1 + 1 and "(192 more)" in lines[6] and lines[-1].count("left:") == 2
    assert lines[-2].split()[0] == "200"
    assert repr(found).startswith("GradientFlow(['h', 'c'], t = 1 ... 200, norms ")
    assert repr(found["c"]).startswith("FlowLine('c', t = 1 ... 200, norm ")


def test_what_has_no_flow_is_refused_with_advice() -> None:
    xs = tg.tensor(draw(T, B, D))
    found = flow(last_loss(nn.RNN(D, H, rng=1, dtype="float64"), xs))
    for ask, kind, expected in [
        (lambda: flow(nn.Linear(D, H, dtype="float64")(xs).sum()), GraphError, r"(?s)flow: no loop with a state.*tg\.steps"),
        (lambda: flow(xs.sum()), GraphError, "is a constant"),
        (lambda: flow({}), ArgumentError, "an empty dictionary"),
        (lambda: flow(np.zeros(3)), ArgumentError, "is no Tensor"),
        (lambda: found["layer 3"], ArgumentError, r"(?s)no line called 'layer 3'.*\['h'\]"),
        (lambda: flow(last_loss(nn.RNN(D, H, dtype="float64"), xs), []), ArgumentError, "a list"),
    ]:
        with pytest.raises(kind, match=expected):
            ask()


# ---- Deep networks, neuron by neuron ---------------------------------------------------------------------------------------------------


def deep(activation: Callable, width: int, depth: int, gain: float):
    """Layers of equal width and the loss of a batch: weights normal with deviation gain / sqrt(width), Glorot's where gain = 1."""
    weights = [tg.tensor(draw(width, width, seed=k) * gain / np.sqrt(width), requires_grad=True) for k in range(depth)]
    f = tg.tensor(draw(16, width, seed=99))
    for w in weights:
        f = activation(f @ w.T)
    return (f * draw(16, width, seed=98)).sum(), weights


def test_the_norms_of_a_neuron_are_those_of_its_rows_of_the_gradient() -> None:
    model = nn.Sequential(nn.Linear(3, 5, rng=0, dtype="float64"), nn.Tanh(), nn.Linear(5, 2, rng=1, dtype="float64"))
    loss = (model(tg.tensor(draw(4, 3))) ** 2).sum()
    found = neuron_norms(loss, model)
    assert all(p.grad is None for p in model.parameters())
    loss.backward()
    assert found.names == ("0.weight", "2.weight")
    for norms_, weight in zip(found.norms, (model[0].weight, model[2].weight), strict=True):
        np.testing.assert_allclose(norms_, np.linalg.norm(weight.grad.numpy(), axis=1), rtol=1e-13)
    listed = neuron_norms(loss, [model[0].weight, model[2].weight])
    np.testing.assert_array_equal(listed.medians, found.medians)
    assert neuron_norms(loss, {"unused": tg.ones((2, 2), requires_grad=True)}).norms[0].tolist() == [0.0, 0.0]


def test_sigmoids_lose_the_gradient_layer_by_layer_and_tanh_relu_and_elu_do_not() -> None:
    """The pictures of the deck: with sigmoids 0.6 powers of ten in a layer are lost, the slope 1/4; with the others next to nothing."""
    lost = {
        name: neuron_norms(*deep(f, 128, 19, gain)).decades_lost
        for name, f, gain in [
            ("sigmoid", tg.sigmoid, 1.0),
            ("tanh", tg.tanh, 1.0),
            ("relu", F.relu, np.sqrt(2)),
            ("elu", F.elu, 1.2),
        ]
    }
    assert 0.55 < lost.pop("sigmoid") < 0.7
    assert max(map(abs, lost.values())) < 0.06, lost


def test_of_a_linear_chain_the_norm_changes_by_the_same_factor_in_every_layer() -> None:
    weights = [tg.tensor(np.eye(3) * 0.1, requires_grad=True) for _ in range(6)]
    f = x = tg.tensor(draw(1, 3))
    for w in weights:
        f = f @ w.T
    found = neuron_norms(f.sum(), weights)
    for norms_ in found.norms:  # dL/dW_k = (0.1^(N-k) 1)^T (0.1^(k-1) x), the same in every layer
        np.testing.assert_allclose(norms_, 1e-5 * np.linalg.norm(x.numpy()), rtol=1e-12)
    assert found.decades_lost == pytest.approx(0, abs=1e-12)
    text = found.table().splitlines()
    assert text[1].split() == ["layer", "smallest", "median", "largest", "neurons"] and text[2].split()[0] == "5"
    assert neuron_norms((f * 0).sum() + weights[-1].sum(), weights).decades_lost == np.inf
    with np.errstate(all="ignore"):
        assert "nan" in neuron_norms((f * np.nan).sum(), weights).table()
    with pytest.raises(ArgumentError, match=r"(?s)no matrix.*\(out, in\)"):
        neuron_norms(f.sum(), tg.ones(3, requires_grad=True))
