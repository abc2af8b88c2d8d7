"""Recurrent layers of every kind and of one's own cell: layers, directions, lengths, dropout, gates; each against a loop written out."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygrad_seq as tg
from tinygrad_seq import backend, nn
from tinygrad_seq.errors import ArgumentError, ShapeError
from tinygrad_seq.nn import functional as F
from tinygrad_seq.scan import each, scan

T, B, D, H = 5, 4, 3, 4
LENGTHS = [3, 0, 5, 1]


class MyCell(nn.Module):
    """A simple network, as a student writes it."""

    def __init__(self, D: int, H: int, rng: Any = 0):
        self.hidden_size = H
        self.w, self.u = nn.Linear(D, H, rng=rng), nn.Linear(H, H, rng=rng)

    def forward(self, x, h):
        return tg.tanh(self.w(x) + self.u(h))


class MyTwoStates(nn.Module):
    """A cell with two arrays of different widths, and with something to show of every step."""

    def __init__(self, D: int, H: int, rng: Any = 0):
        self.state_sizes = (H, 2)
        self.w, self.u = nn.Linear(D + 2, H, rng=rng), nn.Linear(H, 2, rng=rng)

    def forward(self, x, state, return_gates=False):
        h, m = state
        h = tg.tanh(self.w(tg.concatenate([x, m], axis=-1))) + 0.5 * h
        gate = tg.sigmoid(self.u(h))
        new = h, gate * m + 1
        return (new, gate) if return_gates else new


KINDS: dict[str, Callable[..., Any]] = {
    "RNN": nn.RNN,
    "RNN with 3 taps": lambda *a, **k: nn.RNN(*a, taps=3, **k),
    "LSTM": nn.LSTM,
    "LSTM projected": lambda *a, **k: nn.LSTM(*a, proj_size=2, **k),
    "LSTM, diagonal peepholes": lambda *a, **k: nn.LSTM(*a, peephole="diagonal", **k),
    "LSTM, full peepholes": lambda *a, **k: nn.LSTM(*a, peephole="full", **k),
    "LSTM, coupled gates": lambda *a, **k: nn.LSTM(*a, coupled=True, **k),
    "GRU": nn.GRU,
    "GRU, reset before": lambda *a, **k: nn.GRU(*a, reset="before", **k),
    "GRU, z weights the new": lambda *a, **k: nn.GRU(*a, z_weights="new", **k),
    "NARX cell": lambda D, H, num_layers=1, rng=0, **k: own(narx, D, H, num_layers, rng, **k),
    "my cell": lambda D, H, num_layers=1, rng=0, **k: own(MyCell, D, H, num_layers, rng, **k),
    "my cell of two states": lambda D, H, num_layers=1, rng=0, **k: own(MyTwoStates, D, H, num_layers, rng, **k),
}
GATED = [kind for kind in KINDS if "LSTM" in kind or "GRU" in kind or "two states" in kind]


def own(cell: Any, D: int, H: int, num_layers: int, rng: Any, **options: Any) -> nn.Recurrent:
    rng, dtype = np.random.default_rng(rng), options.pop("dtype", "float32")
    return nn.Recurrent(lambda width: cell(width, H, rng), D, num_layers, **options).to(dtype=dtype)


def narx(D: int, H: int, rng: Any) -> nn.NARXCell:
    return nn.NARXCell(D, 6, H, taps=2, rng=rng)


def make(kind: str, **options: Any) -> Any:
    return KINDS[kind](D, H, **{"rng": 0, "dtype": "float64"} | options)


def parts(value: Any) -> list[Any]:
    """The arrays of nested tuples."""
    return [part for inner in value for part in parts(inner)] if isinstance(value, tuple) else [value]


def some_xs(seed: int = 0, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape or (T, B, D))


def some_state(net: Any, xs: Any, seed: int = 1) -> Any:
    """A state that is not zero, of the form that the network returns."""
    rng = np.random.default_rng(seed)
    return each(lambda a: tg.Tensor(rng.standard_normal(a.shape), requires_grad=True), net(xs)[1])


# ---- Lengths -----------------------------------------------------------------------------------------------------------------------


def batch_equals_single_runs(net: Any, T: int, lengths: list[int], gates: bool = False) -> None:
    """Outputs, last states, gates, and the gradients of everything: of the batch, and of each row alone, summed."""
    rng = np.random.default_rng(2)
    x = rng.standard_normal((T, len(lengths), D))
    together, alone = (tg.Tensor(x, requires_grad=True) for _ in range(2))
    state = some_state(net, x)

    def loss_and_gradients(run: Callable[[], Any], xs: tg.Tensor) -> list[np.ndarray]:
        leaves = [*net.parameters(), xs, *parts(state)]
        loss = run()
        found = tg.grad(loss, leaves, allow_unused=True)
        return [np.zeros(p.shape) if g is None else g.numpy() for p, g in zip(leaves, found, strict=True)]

    def weighted(values: list[Any]) -> Any:
        return sum((v * v).sum() + 0.3 * v.sum() for v in values)

    batch = net(together, state, lengths, **({"return_gates": True} if gates else {}))

    def of_rows() -> Any:
        loss = tg.zeros((), dtype="float64")
        for b, length in enumerate(lengths):
            h = each(lambda a, b=b: a[:, b : b + 1], state)
            last = h
            if length:
                hs, last, *shown = net(alone[:length, b : b + 1], h, **({"return_gates": True} if gates else {}))
                np.testing.assert_allclose(batch[0].numpy()[:length, b], hs.numpy()[:, 0], rtol=1e-12, atol=1e-12)
                for a, c in zip(parts(tuple(batch[2:])), parts(tuple(shown)), strict=True):
                    np.testing.assert_allclose(a.numpy()[:, :length, b], c.numpy()[:, :, 0], rtol=1e-12, atol=1e-12)
                loss = loss + weighted([hs, *parts(tuple(shown))])
            for a, c in zip(parts(batch[1]), parts(last), strict=True):
                np.testing.assert_allclose(a.numpy()[:, b], c.numpy()[:, 0], rtol=1e-12, atol=1e-12)
            loss = loss + weighted(parts(last))
            assert (batch[0].numpy()[length:, b] == 0).all()
            assert all((a.numpy()[:, length:, b] == 0).all() for a in parts(tuple(batch[2:])))
        return loss

    mine = loss_and_gradients(lambda: weighted(parts(batch)), together)
    theirs = loss_and_gradients(of_rows, alone)
    for a, b in zip(mine, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_with_lengths_is_the_sum_of_the_single_runs(kind: str, bidirectional: bool):
    batch_equals_single_runs(make(kind, num_layers=2, bidirectional=bidirectional), T, LENGTHS, gates=kind in GATED)


@settings(max_examples=25)
@given(st.sampled_from(list(KINDS)), st.data(), st.integers(1, 4), st.integers(1, 3), st.booleans())
def test_whatever_the_lengths_rows_do_not_know_of_one_another(kind, data, T, num_layers, bidirectional):
    lengths = data.draw(st.lists(st.integers(0, T), min_size=1, max_size=4))
    batch_equals_single_runs(make(kind, num_layers=num_layers, bidirectional=bidirectional), T, lengths)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_padding_is_never_looked_at_and_its_gradient_is_exactly_zero(kind: str, bidirectional: bool):
    net = make(kind, num_layers=2, bidirectional=bidirectional, batch_first=True)
    padding = np.arange(T) >= np.array(LENGTHS)[:, None]  # (B, T)

    def run(fill: float) -> list[np.ndarray]:
        x = some_xs(3, B, T, D)
        x[padding] = fill
        xs = tg.Tensor(x, requires_grad=True)
        out = net(xs, None, LENGTHS, **({"return_gates": True} if kind in GATED else {}))
        found = tg.grad(sum((p * p).sum() for p in parts(out)), [xs, *net.parameters()])
        assert (found[0].numpy()[padding] == 0).all()
        assert (found[0].numpy()[~padding] != 0).all()
        assert (out[0].numpy()[padding] == 0).all()
        return [a.numpy() for a in (*parts(out), *found)]

    for a, b in zip(run(np.nan), run(7.0), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("lengths", [LENGTHS, np.array(LENGTHS), tg.tensor(LENGTHS)], ids=["list", "array", "Tensor"])
def test_lengths_may_be_a_list_an_array_or_a_tensor(lengths):
    net, xs = make("GRU"), some_xs()
    np.testing.assert_array_equal(net(xs, lengths=lengths)[0].numpy(), net(xs, lengths=tuple(LENGTHS))[0].numpy())


# ---- Layers and directions --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_the_reverse_direction_is_the_forward_one_of_the_reversed_sequence(kind: str):
    net, xs = make(kind, bidirectional=True), some_xs()
    forward = make(kind)
    state = net.state_dict()
    if "cell" in kind:
        forward.load_state_dict({name.replace("cells.1.", "cells.0."): a for name, a in state.items() if "cells.1." in name})
    else:
        forward.load_state_dict({name.removesuffix("_reverse"): a for name, a in state.items() if name.endswith("_reverse")})
    hs, last = net(xs)
    turned, end = forward(xs[::-1])
    np.testing.assert_allclose(hs.numpy()[..., hs.shape[-1] // 2 :], turned.numpy()[::-1], rtol=1e-13, atol=1e-15)
    for a, b in zip(parts(last), parts(end), strict=True):
        np.testing.assert_allclose(a.numpy()[1:], b.numpy(), rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("kind", KINDS)
def test_an_output_of_one_direction_is_exactly_independent_of_what_comes_later(kind: str):
    net, xs = make(kind, num_layers=2), tg.Tensor(some_xs(), requires_grad=True)
    for t in range(1, T):
        changed = xs.numpy().copy()
        changed[t:] = np.random.default_rng(t).standard_normal((T - t, B, D)) * 100
        np.testing.assert_array_equal(net(changed)[0].numpy()[:t], net(xs)[0].numpy()[:t])
    (g,) = tg.grad(net(xs)[0][1].sum(), [xs])
    assert (g.numpy()[2:] == 0).all()
    assert (g.numpy()[:2] != 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_sequence_read_in_two_pieces_with_the_state_handed_on_is_the_sequence(kind: str):
    net, xs = make(kind, num_layers=2), some_xs()
    hs, last = net(xs)
    first, middle = net(xs[:2])
    second, end = net(xs[2:], middle)
    np.testing.assert_allclose(np.concatenate([first.numpy(), second.numpy()]), hs.numpy(), rtol=1e-14)
    for a, b in zip(parts(end), parts(last), strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-14)


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_one_sequence_without_a_batch_is_a_batch_of_one_without_its_axis(kind: str, batch_first: bool):
    net, xs = make(kind, num_layers=2, bidirectional=True, batch_first=batch_first), some_xs(4, T, D)
    options = {"return_gates": True} if kind in GATED else {}
    state = some_state(net, xs)
    one = net(xs, state, **options)
    batch = net(xs[None] if batch_first else xs[:, None], each(lambda a: a[:, None], state), **options)
    assert one[0].shape == (T, 2 * net(xs)[1][0].shape[-1] if not isinstance(net(xs)[1], tuple) else one[0].shape[-1])
    np.testing.assert_array_equal(one[0].numpy(), batch[0].numpy()[0 if batch_first else (slice(None), 0)])
    for a, b in zip(parts(one[1]), parts(batch[1]), strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy()[:, 0])
    for a, b in zip(parts(one[2:]), parts(batch[2:]), strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy()[:, 0] if batch_first else b.numpy()[:, :, 0])


@pytest.mark.parametrize("kind", KINDS)
def test_batch_first_moves_the_axes_of_sequences_and_gates_but_not_of_states(kind: str):
    xs = some_xs()
    options = {"return_gates": True} if kind in GATED else {}
    hs, last, *gates = make(kind)(xs, None, LENGTHS, **options)
    hs_b, last_b, *gates_b = make(kind, batch_first=True)(xs.swapaxes(0, 1), None, LENGTHS, **options)
    np.testing.assert_array_equal(hs.numpy(), hs_b.numpy().swapaxes(0, 1))
    for a, b in zip(parts(last), parts(last_b), strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())
    for a, b in zip(parts(tuple(gates)), parts(tuple(gates_b)), strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy().swapaxes(1, 2))


@pytest.mark.parametrize("kind", KINDS)
def test_float32_stays_float32_and_every_parameter_gets_a_gradient(kind: str):
    net = make(kind, num_layers=2, bidirectional=True, dtype="float32")
    out = net(some_xs().astype("float32"), None, LENGTHS, **({"return_gates": True} if kind in GATED else {}))
    sum(p.sum() for p in parts(out)).backward()
    assert {a.dtype for a in parts(out)} == {np.dtype("float32")}
    for name, p in net.named_parameters():
        assert p.grad is not None and p.grad.dtype == np.float32 and p.grad.shape == p.shape, name
        assert (p.grad.numpy() != 0).any(), name


@tg.unfolded
def test_every_layer_and_direction_has_its_own_times_on_the_tape():
    def found(net: Any, op: str) -> dict[str, list[int]]:
        times: dict[str, list[int]] = {}
        for node in tg.toposort([net(some_xs())[0]]):
            if node.prim is not None and node.prim.name == op:
                scan = next(frame for frame in node.frame.path() if str(frame.owner).startswith("layer"))
                times.setdefault(scan.owner, []).append(node.frame.time)
        return {name: list(dict.fromkeys(ts)) for name, ts in times.items()}

    up, down = list(range(1, T + 1)), list(range(T, 0, -1))
    expected = {"layer 0": up, "layer 0_reverse": down, "layer 1": up, "layer 1_reverse": down}
    for kind in ("RNN", "my cell"):
        assert found(make(kind, num_layers=2, bidirectional=True), "tanh") == expected


@pytest.mark.parametrize("kind", KINDS)
def test_a_pass_there_and_back_leaves_nothing_for_the_garbage_collector(kind: str):
    net, xs = make(kind, num_layers=2, bidirectional=True, dropout=0.1), some_xs()
    leaves, options = list(net.parameters()), {"return_gates": True} if kind in GATED else {}

    def once() -> None:
        tg.grad(sum((p * p).sum() for p in parts(net(xs, None, LENGTHS, **options))), leaves)

    once()
    gc.collect()
    gc.disable()
    try:
        once()
        assert gc.collect() == 0
    finally:
        gc.enable()


# ---- Gates --------------------------------------------------------------------------------------------------------------------------


def sigmoid(a: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-a))


def lstm_by_hand(xs, h, c, w_ih, w_hh, b_ih, b_hh) -> dict[str, np.ndarray]:
    seen: dict[str, list[np.ndarray]] = {name: [] for name in "ifgoch"}
    for x in xs:
        i, f, g, o = np.split(x @ w_ih.T + b_ih + h @ w_hh.T + b_hh, 4, axis=1)
        i, f, g, o = sigmoid(i), sigmoid(f), np.tanh(g), sigmoid(o)
        c = f * c + i * g
        h = o * np.tanh(c)
        for name, value in zip("ifgoch", (i, f, g, o, c, h), strict=True):
            seen[name].append(value)
    return {name: np.stack(values) for name, values in seen.items()}


def gru_by_hand(xs, h, w_ih, w_hh, b_ih, b_hh) -> dict[str, np.ndarray]:
    seen: dict[str, list[np.ndarray]] = {name: [] for name in "rznh"}
    for x in xs:
        (xr, xz, xn), (hr, hz, hn) = np.split(x @ w_ih.T + b_ih, 3, axis=1), np.split(h @ w_hh.T + b_hh, 3, axis=1)
        r, z = sigmoid(xr + hr), sigmoid(xz + hz)
        n = np.tanh(xn + r * hn)
        h = (1 - z) * n + z * h
        for name, value in zip("rznh", (r, z, n, h), strict=True):
            seen[name].append(value)
    return {name: np.stack(values) for name, values in seen.items()}


@pytest.mark.parametrize(("kind", "by_hand", "states"), [("LSTM", lstm_by_hand, 2), ("GRU", gru_by_hand, 1)])
def test_the_gates_of_every_layer_direction_and_moment_are_those_computed_by_hand(kind: str, by_hand, states: int):
    net, xs = make(kind, num_layers=2, bidirectional=True), some_xs()
    hs, last, gates = net(xs, return_gates=True)
    assert type(gates).__name__ == f"{kind}Gates"
    below = xs
    for layer in range(2):
        outputs = []
        for d, direction in enumerate(("", "_reverse")):
            order = slice(None, None, -1 if d else 1)
            weights = [w.numpy() for w in net.weights(layer, direction) if w is not None]
            seen = by_hand(below[order], *[np.zeros((B, H))] * states, *weights)
            for name in gates._fields:
                place = getattr(gates, name).numpy()[2 * layer + d]
                np.testing.assert_allclose(place, seen[name][order], rtol=1e-12, atol=1e-12)
            outputs.append(seen["h"][order])
        below = np.concatenate(outputs, axis=-1)
    np.testing.assert_allclose(hs.numpy(), below, rtol=1e-12, atol=1e-12)
    if kind == "LSTM":
        np.testing.assert_array_equal(last[1].numpy()[0], gates.c.numpy()[0, -1])
        np.testing.assert_array_equal(last[1].numpy()[1], gates.c.numpy()[1, 0])


def test_gates_of_the_variants_are_tied_as_their_equations_say():
    xs = some_xs()
    coupled = make("LSTM, coupled gates")(xs, return_gates=True)[2]
    np.testing.assert_allclose(coupled.i.numpy(), 1 - coupled.f.numpy(), rtol=1e-14)
    for kind in ("LSTM", "LSTM, diagonal peepholes", "LSTM, full peepholes", "LSTM, coupled gates"):
        hs, _, (i, f, g, o, c) = make(kind)(xs, return_gates=True)
        before = np.concatenate([np.zeros((1, B, H)), c.numpy()[0, :-1]])
        np.testing.assert_allclose(c.numpy()[0], f.numpy()[0] * before + i.numpy()[0] * g.numpy()[0], rtol=1e-13)
        np.testing.assert_allclose(hs.numpy(), o.numpy()[0] * np.tanh(c.numpy()[0]), rtol=1e-13)
    for z_weights, new in (("old", False), ("new", True)):
        hs, _, (_, z, n) = nn.GRU(D, H, z_weights=z_weights, rng=0, dtype="float64")(xs, return_gates=True)
        z = z.numpy()[0] if new else 1 - z.numpy()[0]
        before = np.concatenate([np.zeros((1, B, H)), hs.numpy()[:-1]])
        np.testing.assert_allclose(hs.numpy(), z * n.numpy()[0] + (1 - z) * before, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("kind", GATED)
def test_asking_for_the_gates_changes_no_number(kind: str):
    net, xs = make(kind, num_layers=2, bidirectional=True), some_xs()
    plain, asked = net(xs, lengths=LENGTHS), net(xs, lengths=LENGTHS, return_gates=True)
    for a, b in zip(parts(plain), parts(asked[:2]), strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-13, atol=1e-15)  # the loops that keep gates are others


# ---- Cells, and one's own -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize(
    ("layer", "cell", "options"),
    [
        (nn.RNN, nn.RNNCell, {"nonlinearity": "relu"}),
        (nn.RNN, nn.RNNCell, {"taps": 2}),
        (nn.LSTM, nn.LSTMCell, {}),
        (nn.LSTM, nn.LSTMCell, {"bias": False}),
        (nn.LSTM, nn.LSTMCell, {"proj_size": 2}),
        (nn.LSTM, nn.LSTMCell, {"peephole": "diagonal"}),
        (nn.LSTM, nn.LSTMCell, {"peephole": "full"}),
        (nn.LSTM, nn.LSTMCell, {"coupled": True}),
        (nn.GRU, nn.GRUCell, {}),
        (nn.GRU, nn.GRUCell, {"reset": "before", "z_weights": "new"}),
    ],
    ids=str,
)
def test_a_layer_is_its_cell_in_layers_and_directions(layer, cell, options, bidirectional: bool):
    built_in = layer(D, H, num_layers=2, bidirectional=bidirectional, rng=0, dtype="float64", **options)
    wrapped = nn.Recurrent(lambda D: cell(D, H, dtype="float64", **options), D, 2, bidirectional=bidirectional)
    directions = ["", "_reverse"][: 1 + bidirectional]
    suffixes = [f"_l{number}{direction}" for number in range(2) for direction in directions]
    names = {
        f"cells.{i}.{name}": f"{name}{suffix}"
        for i, suffix in enumerate(suffixes)
        for name in dict(wrapped.cells[i].named_parameters())
    }
    wrapped.load_state_dict({mine: built_in.state_dict()[theirs] for mine, theirs in names.items()})
    xs, options = some_xs(), {"return_gates": True} if layer is not nn.RNN else {}
    state = some_state(built_in, xs)
    a, b = (net(xs, state, LENGTHS, **options) for net in (built_in, wrapped))
    for x, y in zip(parts(a), parts(b), strict=True):
        np.testing.assert_array_equal(x.numpy(), y.numpy())
    for out in (a, b):
        sum((p * p).sum() for p in parts(out)).backward()
    mine, theirs = dict(wrapped.named_parameters()), dict(built_in.named_parameters())
    for name, other in names.items():
        np.testing.assert_allclose(mine[name].grad.numpy(), theirs[other].grad.numpy(), rtol=1e-12, atol=1e-14)


def test_a_cell_of_five_lines_is_the_built_in_network_of_the_same_equation():
    mine, built_in = make("my cell", num_layers=3, bidirectional=True), make("RNN", num_layers=3, bidirectional=True)
    for i, (layer, direction) in enumerate((layer, d) for layer in range(3) for d in ("", "_reverse")):
        w_ih, w_hh, b_ih, b_hh = (w.numpy() for w in built_in.weights(layer, direction))
        mine.cells[i].load_state_dict({"w.weight": w_ih, "u.weight": w_hh, "w.bias": b_ih, "u.bias": b_hh})
    xs = some_xs()
    for a, b in zip(mine(xs, None, LENGTHS), built_in(xs, None, LENGTHS), strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-14, atol=1e-15)


def test_a_narx_network_feeds_its_last_outputs_back():
    net = nn.Recurrent(nn.NARXCell(D, 6, 2, taps=3, rng=0, dtype="float64"))
    w_ih, w_yh, b_h, w_ho, b_o = (p.numpy() for p in net.parameters())
    xs, ys = some_xs(), [np.zeros((B, 2))] * 3
    for x in xs:
        hidden = sigmoid(x @ w_ih.T + sum(y @ w.T for y, w in zip(ys[:-4:-1], np.split(w_yh, 3, axis=1), strict=True)) + b_h)
        ys.append(hidden @ w_ho.T + b_o)
    out, last = net(xs)
    np.testing.assert_allclose(out.numpy(), np.stack(ys[3:]), rtol=1e-13)
    for y, expected in zip(last, ys[:-4:-1], strict=True):
        np.testing.assert_allclose(y.numpy()[0], expected, rtol=1e-13)


def test_the_state_from_which_a_network_starts_can_be_asked_for():
    xs = some_xs()
    for kind in KINDS:
        net = make(kind, num_layers=2, bidirectional=True)
        start = net.initial_state(B)
        assert [a.shape for a in parts(start)] == [a.shape for a in parts(net(xs)[1])]
        np.testing.assert_array_equal(net(xs, start)[0].numpy(), net(xs)[0].numpy())


@pytest.mark.parametrize(
    ("layer", "options", "step", "settings"),
    [
        (nn.RNN, {"nonlinearity": "relu"}, F.rnn_step, {"nonlinearity": "relu"}),
        (nn.RNN, {"taps": 2, "nonlinearity": "relu"}, F.taps_step, {"taps": 2, "nonlinearity": "relu"}),
        (nn.LSTM, {}, F.lstm_step, {}),
        (nn.LSTM, {"proj_size": 2}, F.lstm_step, {}),
        (nn.LSTM, {"peephole": "diagonal"}, F.peephole_lstm_step, {}),
        (nn.LSTM, {"peephole": "full"}, F.peephole_lstm_step, {}),
        (nn.LSTM, {"coupled": True}, F.coupled_lstm_step, {}),
        (nn.GRU, {}, F.gru_step, {}),
        (nn.GRU, {"z_weights": "new"}, F.gru_step, {"z_weights": "new"}),
        (nn.GRU, {"reset": "before"}, F.gru_reset_before_step, {}),
        (nn.GRU, {"reset": "before", "z_weights": "new"}, F.gru_reset_before_step, {"z_weights": "new"}),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_a_layer_is_the_scan_of_its_equation_with_the_weights_of_these_names(layer, options, step, settings):
    net, xs = layer(D, H, rng=0, dtype="float64", **options), some_xs()
    state = some_state(net, xs)
    names = {"weight": "w", "bias": "b"}
    weights = {f"{names[kind]}_{which}": p for name, p in net.named_parameters() for kind, which, _ in [name.split("_")]}
    positional = weights.values() if "taps" in options else ()  # behind the states, however many there are
    named = {} if "taps" in options else weights
    hs, last = net(xs, state)
    expected, end = scan(lambda *a: step(*a, *positional, **named, **settings), xs, each(lambda a: a[0], state))
    np.testing.assert_array_equal(hs.numpy(), expected.numpy())
    for a, b in zip(parts(last), parts(end), strict=True):
        np.testing.assert_array_equal(a.numpy()[0], b.numpy())


def test_one_cell_alone_is_wrapped_as_it_is():
    cell = MyCell(D, H).to(dtype="float64")
    net, xs = nn.Recurrent(cell), some_xs()
    hs, last = net(xs)
    h = tg.zeros((B, H), dtype="float64")
    for t in range(T):
        h = cell(xs[t], h)
        np.testing.assert_allclose(hs.numpy()[t], h.numpy(), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(last.numpy()[0], h.numpy(), rtol=1e-12, atol=1e-14)
    assert [name for name, _ in net.named_parameters()] == [
        "cells.0.w.weight",
        "cells.0.w.bias",
        "cells.0.u.weight",
        "cells.0.u.bias",
    ]


def test_a_cell_may_learn_the_state_that_it_starts_from():
    class Learned(MyCell):
        def __init__(self, D, H):
            super().__init__(D, H)
            self.first = nn.Parameter(np.full(H, 0.5))

        def initial_state(self, batch_size):
            return tg.broadcast_to(self.first, (batch_size, self.hidden_size))

    net = nn.Recurrent(lambda D: Learned(D, H), D, 2).to(dtype="float64")
    xs = some_xs()
    start = tg.stack([tg.broadcast_to(cell.first, (B, H)) for cell in net.cells])
    np.testing.assert_array_equal(net(xs)[0].numpy(), net(xs, start)[0].numpy())
    net(xs)[0].sum().backward()
    assert all((cell.first.grad.numpy() != 0).all() for cell in net.cells)


def test_a_cell_may_read_whatever_stands_at_a_moment_and_keep_a_state_of_any_shape():
    class Counter(nn.Module):
        """Counts how often each of five letters came: a state (B, 1, 5), no parameters."""

        def initial_state(self, batch_size):
            return tg.zeros((batch_size, 1, 5))

        def forward(self, ids, counts):
            return counts + tg.one_hot(ids, 5)[:, None]

    ids = np.random.default_rng(5).integers(0, 5, (T, B))
    hs, counts = nn.Recurrent(Counter())(ids, lengths=LENGTHS)
    assert hs.shape == (T, B, 1, 5)
    for b, length in enumerate(LENGTHS):
        np.testing.assert_array_equal(counts.numpy()[0, b, 0], np.bincount(ids[:length, b], minlength=5))


@pytest.mark.parametrize(
    "cell",
    [
        nn.RNNCell(D, H),
        nn.RNNCell(D, H, taps=2),
        nn.LSTMCell(D, H, proj_size=2),
        nn.GRUCell(D, H),
        nn.NARXCell(D, 6, H),
        nn.NARXCell(D, 6, H, 2),
    ],
    ids=repr,
)
def test_a_cell_without_a_batch_or_a_state_is_one_with_both(cell):
    x = some_xs(6, B, D).astype("float32")
    zeros = cell.initial_state(B)
    for a, b in zip(parts(cell(x)), parts(cell(x, zeros)), strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())
    state = each(lambda a: a + 0.5, zeros)
    for a, b in zip(
        parts(cell(x[1], each(lambda a: a[1], state))), parts(cell(x[1:2], each(lambda a: a[1:2], state))), strict=True
    ):
        np.testing.assert_array_equal(a.numpy(), b.numpy()[0])
    if isinstance(cell, (nn.LSTMCell, nn.GRUCell)):
        new, gates = cell(x, state, return_gates=True)
        assert len(parts(new)) == len(parts(state)) and gates[0].shape == (B, H)


# ---- Dropout ------------------------------------------------------------------------------------------------------------------------


def showing_its_mask(p: float, rng: Any, **options: Any) -> nn.RNN:
    """Two layers: the first puts out ones, the second what it reads: so the output is the mask of the dropout between them."""
    net = nn.RNN(1, 50, 2, nonlinearity="relu", dropout=p, rng=rng, **options)
    for p in net.parameters():
        nn.init.zeros_(p)
    nn.init.ones_(net.bias_ih_l0)
    nn.init.eye_(net.weight_ih_l1)
    return net


def test_dropout_between_layers_keeps_one_element_in_so_many_and_draws_anew_for_every_step():
    mask = showing_its_mask(0.4, 0)(np.zeros((60, 20, 1), "float32"))[0].numpy()
    kept = mask != 0
    np.testing.assert_allclose(mask[kept], 1 / 0.6, rtol=1e-6)
    assert kept.mean() == pytest.approx(0.6, abs=4 * np.sqrt(0.24 / kept.size))
    for axis in range(3):  # neighbours in time, batch and features are drawn apart: both kept with 0.36
        pairs = np.moveaxis(kept, axis, 0)
        both = (pairs[1:] & pairs[:-1]).mean()
        assert both == pytest.approx(0.36, abs=0.01)


def test_dropout_rests_in_evaluation_and_repeats_with_its_generator():
    xs = np.zeros((3, 2, 1), "float32")
    net = showing_its_mask(0.5, 7)
    np.testing.assert_array_equal(net.eval()(xs)[0].numpy(), np.ones((3, 2, 50)))
    first, second = (net.train()(xs)[0].numpy() for _ in range(2))
    assert (first != second).any()
    again = showing_its_mask(0.5, 7)
    np.testing.assert_array_equal(again(xs)[0].numpy(), first)
    net = showing_its_mask(0.5, None)
    drawn = []
    for seed in (3, 3, 4):
        tg.seed(seed)
        drawn.append(net(xs)[0].numpy())
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert (drawn[0] != drawn[2]).any()


@pytest.mark.parametrize("kind", KINDS)
def test_dropout_of_0_is_none_and_of_1_leaves_the_layers_above_without_input(kind: str):
    xs = some_xs()
    plain, none, all_ = (make(kind, num_layers=2, dropout=p) for p in (0.0, 0.0, 1.0))
    for a, b in zip(parts(plain(xs)), parts(none(xs)), strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())
    for a, b in zip(parts(plain(xs)), parts(all_.eval()(xs)), strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())
    (a, last), (b, _) = all_.train()(xs), all_(100 * xs)
    np.testing.assert_array_equal(a.numpy(), b.numpy())
    for mine, lowest in zip(parts(last), parts(plain(xs)[1]), strict=True):
        np.testing.assert_array_equal(mine.numpy()[0], lowest.numpy()[0])  # the lowest layer reads its input as it is
    assert (plain(100 * xs)[0].numpy() != plain(xs)[0].numpy()).any()


def test_the_last_layer_is_not_dropped_and_dropout_with_one_layer_warns():
    net = make("GRU", num_layers=2, dropout=0.9)
    assert (net(some_xs())[0].numpy() != 0).all()
    with pytest.warns(UserWarning, match=r"(?s)GRU: dropout=0.5 acts between layers.*num_layers=2") as told:
        nn.GRU(D, H, dropout=0.5)
    assert told[0].filename == __file__


# ---- How parameters start -----------------------------------------------------------------------------------------------------------


def test_an_identity_rnn_stands_still_until_an_input_moves_it():
    net = nn.RNN(D, H, nonlinearity="relu", recurrent_init="identity", rng=0, dtype="float64")
    h = np.abs(some_xs(7, 1, B, H))
    np.testing.assert_array_equal(net.weight_hh_l0.numpy(), np.eye(H))
    np.testing.assert_array_equal(net(np.zeros((100, B, D)), h)[0].numpy(), np.broadcast_to(h, (100, B, H)))
    h = tg.Tensor(h, requires_grad=True)
    (g,) = tg.grad(net(np.zeros((100, B, D)), h)[1].sum(), [h])
    np.testing.assert_array_equal(g.numpy(), np.ones((1, B, H)))  # and its gradient neither vanishes nor explodes


@pytest.mark.parametrize(("kind", "gates"), [("RNN", 1), ("LSTM", 4), ("LSTM, coupled gates", 3), ("GRU", 3)])
def test_each_gate_block_of_the_recurrent_weight_starts_orthogonal_or_as_the_identity(kind: str, gates: int):
    for how in ("orthogonal", "identity"):
        net = make(kind, num_layers=2, bidirectional=True, recurrent_init=how)
        found = [p.numpy() for name, p in net.named_parameters() if "weight_hh" in name]
        assert len(found) == 4
        blocks = [block for w in found for block in np.split(w, gates)]
        for block in blocks:
            np.testing.assert_allclose(block @ block.T, np.eye(H), atol=1e-14)
            assert how == "orthogonal" or (block == np.eye(H)).all()
        if how == "orthogonal":
            assert all((a != b).any() for i, a in enumerate(blocks) for b in blocks[:i])
        bias = {bool(p.numpy().any()) for name, p in net.named_parameters() if "bias" in name}
        assert bias == {how == "orthogonal"}


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "cell" not in kind])
def test_parameters_start_within_one_over_the_root_of_h(kind: str):
    net = KINDS[kind](30, 100, 2, rng=0)
    for name, p in net.named_parameters():
        assert np.abs(p.numpy()).max() <= 0.1, name
        assert p.numpy().std() == pytest.approx(0.1 / np.sqrt(3), rel=0.25), name


def test_variants_have_these_parameters():
    def names(**options: Any) -> dict[str, tuple[int, ...]]:
        net = nn.LSTM(D, H, **options)
        return {name: p.shape for name, p in net.named_parameters()}

    common = {"weight_ih_l0": (16, D), "weight_hh_l0": (16, H), "bias_ih_l0": (16,), "bias_hh_l0": (16,)}
    assert names() == common
    for kind, shape in (("diagonal", (H,)), ("full", (H, H))):
        assert names(peephole=kind) == common | dict.fromkeys(("weight_ci_l0", "weight_cf_l0", "weight_co_l0"), shape)
    assert names(coupled=True) == {"weight_ih_l0": (12, D), "weight_hh_l0": (12, H), "bias_ih_l0": (12,), "bias_hh_l0": (12,)}
    assert names(proj_size=2, bias=False) == {"weight_ih_l0": (16, D), "weight_hh_l0": (16, 2), "weight_hr_l0": (2, H)}
    assert nn.RNN(D, H, taps=3).weight_hh_l0.shape == (H, 3 * H)


# ---- Errors ---------------------------------------------------------------------------------------------------------------------------


class Silent(nn.Module):
    """A cell that does not tell its state."""

    def forward(self, x, h):
        return h


class Talkative(MyCell):
    """A cell that returns its output beside its state, as other frameworks have it."""

    def forward(self, x, h):
        return h, h


class Unpacking(MyCell):
    """A cell that takes its state apart and does not tell that it has two arrays."""

    def forward(self, x, state):
        h, c = state
        return h, c


class Narrow(MyCell):
    """A cell whose states are not as wide as it says."""

    def forward(self, x, h):
        return super().forward(x, h)[:, 1:]


xs = np.zeros((T, B, D), "float32")
WRONG = {
    "sizes": (lambda: nn.LSTM(3, 0), ArgumentError, "LSTM: hidden_size = 0"),
    "layers": (lambda: nn.GRU(3, 4, 0), ArgumentError, "GRU: num_layers = 0"),
    "dropout": (lambda: nn.LSTM(3, 4, 2, dropout=1.5), ArgumentError, "LSTM: dropout = 1.5|LSTM: p = 1.5"),
    "projection": (lambda: nn.LSTM(3, 4, proj_size=4), ArgumentError, "(?s)proj_size = 4.*less than hidden_size = 4"),
    "negative projection": (lambda: nn.LSTM(3, 4, proj_size=-1), ArgumentError, "proj_size = -1"),
    "two variants": (
        lambda: nn.LSTM(3, 4, peephole="full", coupled=True),
        ArgumentError,
        "(?s)peephole='full' with coupled=True.*one of them",
    ),
    "projected peephole": (lambda: nn.LSTMCell(3, 4, peephole="full", proj_size=2), ArgumentError, "LSTMCell: proj_size=2 with peephole"),
    "peephole": (lambda: nn.LSTM(3, 4, peephole=True), ArgumentError, "(?s)peephole = True.*None or 'diagonal' or 'full'"),
    "reset": (lambda: nn.GRU(3, 4, reset="never"), ArgumentError, "(?s)reset = 'never'.*'after' or 'before'"),
    "z": (lambda: nn.GRU(3, 4, z_weights=1), ArgumentError, "(?s)z_weights = 1.*'old' or 'new'"),
    "init": (lambda: nn.RNN(3, 4, recurrent_init="eye"), ArgumentError, "(?s)recurrent_init = 'eye'.*'identity'"),
    "taps": (lambda: nn.RNN(3, 4, taps=0), ArgumentError, "RNN: taps = 0"),
    "gates of an RNN": (lambda: nn.RNN(3, 4)(xs, return_gates=True), ArgumentError, "(?s)RNN: return_gates=True, but.*nn.LSTM"),
    "gates of a NARX cell": (lambda: nn.NARXCell(3, 4, 2)(xs[0], return_gates=True), ArgumentError, "NARXCell: return_gates=True"),
    "NARX": (lambda: nn.NARXCell(3, 4, 2, nonlinearity="elu"), ArgumentError, "(?s)nonlinearity = 'elu'.*'sigmoid' or 'tanh'"),
    "gates of a cell without": (
        lambda: nn.Recurrent(MyCell(3, 4))(xs, return_gates=True),
        ArgumentError,
        r"(?s)MyCell has none.*return_gates=False\), which returns \(state, gates\)",
    ),
    "half a state": (
        lambda: nn.LSTM(3, 4)(xs, tg.zeros((1, B, 4))),
        ArgumentError,
        r"(?s)LSTM: state is one Tensor.*a tuple of 2 arrays \(L, B, H\) = \(1, 4, 4\), \(1, 4, 4\)",
    ),
    "too much state": (lambda: nn.GRU(3, 4)(xs, (tg.zeros((1, B, 4)),) * 2), ArgumentError, "(?s)state is a tuple of 2.*an array"),
    "wrong second state": (
        lambda: nn.LSTM(3, 4, proj_size=2)(xs, (tg.zeros((1, B, 2)), tg.zeros((1, B, 2)))),
        ShapeError,
        r"state\[1\] must be \(L, B, H\) = \(1, 4, 4\), got \(1, 4, 2\)",
    ),
    "lengths as state": (lambda: nn.GRU(3, 4)(xs, [5, 0, 2, 1]), ArgumentError, r"(?s)state is \[5, 0, 2, 1\].*GRU\(xs, lengths="),
    "an array of lengths as state": (lambda: nn.LSTM(3, 4)(xs, np.array([5, 0, 2, 1])), ArgumentError, r"(?s)int64 \(4,\).*lengths="),
    "lengths for another axis": (
        lambda: nn.GRU(3, 4, batch_first=True)(np.ones((5, 4, 3)), lengths=[1, 2, 3, 4]),
        ShapeError,
        r"(?s)GRU: lengths \(4,\) do not fit xs \(5, 4, 3\).*\(B, T, D\) and \(B,\)",
    ),
    "a number as state": (lambda: nn.GRU(3, 4)(xs, 0.0), ArgumentError, "GRU: state is 0.0"),
    "state of a cell": (lambda: nn.GRUCell(3, 4)(xs[0], tg.zeros((B, 3))), ShapeError, r"GRUCell: state must be \(B, H\) = \(4, 4\), got \(4, 3\)"),
    "x of a cell": (lambda: nn.GRUCell(3, 4)(xs), ShapeError, r"GRUCell: x must be \(B, D\) or \(D,\) with D = 3, got \(5, 4, 3\)"),
    "the pair that a layer returned": (lambda: nn.GRUCell(3, 4)(nn.LSTM(3, 4)(xs)), ArgumentError, "(?s)GRUCell: got a tuple of 2"),
    "lengths": (lambda: nn.LSTM(3, 4)(xs, lengths=[5, 5]), ShapeError, "lengths"),
    "no cell": (lambda: nn.Recurrent(lambda D: 3, 3), ArgumentError, r"(?s)the cell is a int.*forward\(self, x, state\)"),
    "a step as a cell": (lambda: nn.Recurrent(lambda x, h: h, 3), ArgumentError, r"(?s)a function of the input size.*lambda D: MyCell\(D, 16\)"),
    "a class as a cell": (lambda: nn.Recurrent(MyCell, 3), ArgumentError, r"(?s)MyCell\(3\) failed.*'H'.*lambda D: MyCell\(D, 16\)"),
    "a silent cell": (lambda: nn.Recurrent(Silent()), ArgumentError, "(?s)Silent does not tell its state.*self.hidden_size"),
    "one cell for two layers": (
        lambda: nn.Recurrent(MyCell(3, 4), num_layers=2),
        ArgumentError,
        r"(?s)one MyCell for 2 layers.*lambda D: MyCell\(D, ...\)",
    ),
    "no input size": (lambda: nn.Recurrent(lambda D: MyCell(D, 4)), ArgumentError, "(?s)no input_size.*width of xs"),
    "an output beside the state": (lambda: nn.Recurrent(Talkative(3, 4))(xs), ArgumentError, "(?s)Talkative returned 2 arrays.*whose first array is the output"),
    "one array taken apart": (
        lambda: nn.Recurrent(Unpacking(3, 4))(xs),
        ArgumentError,
        r"(?s)Unpacking takes its state apart.*self.state_sizes = \(H, ...\)",
    ),
    "another width than told": (
        lambda: nn.Recurrent(Narrow(3, 4))(xs),
        ShapeError,
        r"(?s)changed the shape.*\(4, 4\).*\(4, 3\).*hidden_size",
    ),
    "another width": (lambda: nn.Recurrent(lambda D: MyCell(D, 4), 2)(xs), ShapeError, r"Recurrent: xs must be \(T, B, D\) with D = 2"),
    "cells of different widths": (
        lambda: nn.Recurrent(lambda D: MyCell(D, D + 1), 3, 2),
        ArgumentError,
        r"(?s)widths 4, 5.*the same",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_wrong_calls_say_what_was_expected(name: str):
    call, error, says = WRONG[name]
    with pytest.raises(error, match=says):
        call()


def test_layers_print_their_sizes_and_what_is_unusual():
    assert repr(nn.LSTM(3, 4)) == "LSTM(3, 4)"
    assert repr(nn.LSTM(3, 4, 2, dropout=0.5, peephole="full", rng=0)) == "LSTM(3, 4, num_layers=2, dropout=0.5, peephole='full')"
    assert repr(nn.GRU(3, 4, bias=False, reset="before")) == "GRU(3, 4, bias=False, reset='before')"
    assert repr(nn.RNN(3, 4, taps=2)) == "RNN(3, 4, taps=2)"
    assert repr(nn.RNN(3, 4, recurrent_init="identity")) == "RNN(3, 4, recurrent_init='identity')"
    assert repr(nn.GRUCell(3, 4)) == "GRUCell(3, 4)"
    assert repr(nn.Recurrent(lambda D: nn.GRUCell(D, 4), 3, 2)).startswith(
        "Recurrent(input_size=3, num_layers=2\n  (cells.0): GRUCell(3, 4)\n"
    )


# ---- On a device ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_forward_and_backward_on_a_device_are_those_of_the_host(device_xp, kind: str):
    device = next(name for name, module in backend._devices.items() if module is device_xp)

    def run(device: str) -> Iterator[np.ndarray]:
        net = make(kind, num_layers=2, bidirectional=True, dropout=0.5).to(device=device)
        xs = tg.tensor(some_xs(), device=device, requires_grad=True)
        state = each(lambda a: a * 2 + 1, net(xs)[1])
        out = net(xs, state, LENGTHS, **({"return_gates": True} if kind in GATED else {}))
        found = tg.grad(sum((p * p).sum() for p in parts(out)), [xs, *net.parameters()])
        return [backend.to_numpy(a.data) for a in (*parts(out), *found)]

    tg.seed(0)
    on_host = run("cpu")
    tg.seed(0)
    for a, b in zip(on_host, run(device), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-13)
