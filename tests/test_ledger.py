"""The gradient ledger: by use step and by loss step it adds up to `.grad`, and each entry is what perturbing that copy alone changes."""

from __future__ import annotations

import contextlib
import gc
import re
import tracemalloc
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from random_cells import Call, Cell, cells_and_calls
from test_compile_cells import over_time

import tinygrad_seq as tg
from tinygrad_seq import nn
from tinygrad_seq.autodiff import steps_of_backward
from tinygrad_seq.bptt import Use, copies, entries, ledger, terms
from tinygrad_seq.errors import ArgumentError, GraphError
from tinygrad_seq.nn import functional as F

T, B, D, H = 5, 3, 2, 4
EXACT = 1e-12
RNG = np.random.default_rng(0)
XS, WEIGHTS = RNG.standard_normal((T, B, D)), RNG.standard_normal((T, B, 2 * H))  # of the outputs in the loss


def relative(a: Any, b: Any) -> float:
    return float(np.abs(np.asarray(a) - np.asarray(b)).max() / max(np.abs(np.asarray(b)).max(), 1e-300))


# ---- Models ------------------------------------------------------------------------------------------------------------------------


class OwnCell(nn.Module):
    """A cell that nobody built in: h' = (1 - s) h + s tanh(W x + U h), s = σ(V [x, h])."""

    def __init__(self, D: int):
        self.hidden_size = H
        self.w, self.u = nn.Linear(D, H, dtype="float64"), nn.Linear(H, H, bias=False, dtype="float64")
        self.v = nn.Linear(D + H, H, dtype="float64")

    def forward(self, x: Any, h: Any) -> Any:
        s = tg.sigmoid(self.v(tg.concatenate([x, h], axis=-1)))
        return (1 - s) * h + s * tg.tanh(self.w(x) + self.u(h))


class Seq2Seq(nn.Module):
    """A recurrent encoder, a decoder that looks back at all its states (Luong et al. 2015), and a readout at each of its steps."""

    def __init__(self) -> None:
        self.encoder = nn.GRU(D, H, dtype="float64")
        self.decoder = nn.LSTMCell(D, H, dtype="float64")
        self.match, self.join = nn.Linear(H, H, bias=False, dtype="float64"), nn.Linear(2 * H, H, dtype="float64")

    def forward(self, xs: Any, ys: Any) -> list[Any]:
        hs, h = self.encoder(xs)  # (T, B, H)
        keys, state, outputs = self.match(hs), (h[0], h[0] * 0.5), []
        for y in tg.steps(ys):
            state = self.decoder(y, state)
            scores = (keys * state[0]).sum(axis=-1)  # (T, B)
            context = (F.softmax(scores, axis=0)[..., None] * hs).sum(axis=0)
            outputs.append(tg.tanh(self.join(tg.concatenate([state[0], context], axis=-1))))
        return outputs


def weighted(hs: Any) -> list[Any]:
    """A loss for each step."""
    return [(h * w[:, : h.shape[-1]]).sum() + 0.5 * (h * h).sum() for h, w in zip(hs, WEIGHTS, strict=False)]


def losses_of_layer(make: Callable[[], Any]) -> tuple[nn.Module, Callable[[Any], list[Any]]]:
    model = make()
    return model, lambda m: weighted(m(tg.tensor(XS))[0])


def losses_of_seq2seq() -> tuple[nn.Module, Callable[[Any], list[Any]]]:
    return Seq2Seq(), lambda m: weighted(m(tg.tensor(XS), tg.tensor(XS[::-1][:4].copy())))


def losses_with_lengths() -> tuple[nn.Module, Callable[[Any], list[Any]]]:
    padded = XS.copy()
    padded[2:, 1], padded[4:, 2] = np.nan, np.nan
    model = nn.GRU(D, H, num_layers=2, bidirectional=True, dtype="float64")
    return model, lambda m: weighted(m(tg.tensor(padded), lengths=[5, 2, 4])[0])


f64 = {"dtype": "float64"}
MODELS: dict[str, Callable[[], tuple[nn.Module, Callable[[Any], list[Any]]]]] = {
    "RNN": partial(losses_of_layer, lambda: nn.RNN(D, H, **f64)),
    "LSTM": partial(losses_of_layer, lambda: nn.LSTM(D, H, **f64)),
    "peephole LSTM": partial(losses_of_layer, lambda: nn.LSTM(D, H, peephole="full", **f64)),
    "GRU": partial(losses_of_layer, lambda: nn.GRU(D, H, **f64)),
    "bidirectional LSTM": partial(losses_of_layer, lambda: nn.LSTM(D, H, bidirectional=True, **f64)),
    "stacked GRU": partial(losses_of_layer, lambda: nn.GRU(D, H, num_layers=3, **f64)),
    "taps": partial(losses_of_layer, lambda: nn.RNN(D, H, taps=3, **f64)),
    "own cell": partial(losses_of_layer, lambda: nn.Recurrent(OwnCell(D))),
    "own cells, stacked and bidirectional": partial(
        losses_of_layer, lambda: nn.Recurrent(OwnCell, D, num_layers=2, bidirectional=True)
    ),
    "lengths": losses_with_lengths,
    "seq2seq with attention": losses_of_seq2seq,
}


@pytest.mark.parametrize("name", MODELS)
def test_the_sum_of_the_ledger_is_the_gradient(name: str) -> None:
    tg.seed(3)
    model, losses_of = MODELS[name]()
    losses = losses_of(model)
    loss = sum(losses)
    loss.backward()
    totals = {}
    for which, W in model.named_parameters():
        led, split = ledger(loss, W), ledger(loss, W, losses=losses)
        assert led.terms.shape == (len(led.uses), *W.shape) and split.terms.shape == (len(losses), *led.terms.shape)
        assert relative(led.terms.sum(axis=0), W.grad.numpy()) <= EXACT, which
        assert relative(split.terms.sum(axis=(0, 1)), W.grad.numpy()) <= EXACT, which
        assert relative(split.by_use, led.terms) <= EXACT, which  # columns
        for t in (0, len(losses) - 1):
            assert relative(split.by_loss[t], tg.grad(losses[t], W).numpy()) <= EXACT, which  # rows
        assert led.check() <= EXACT and split.check() <= EXACT
        np.testing.assert_allclose([led.shares.sum(), split.shares.sum()], 1, rtol=1e-9)
        totals[which] = led.total

    rng = np.random.default_rng(5)
    for which, W in model.named_parameters():
        direction, eps = rng.standard_normal(W.shape), 1e-5
        old, ends = W.numpy().copy(), []
        for sign in (1, -1):
            with tg.no_grad():
                W[...] = old + sign * eps * direction
                ends.append(sum(losses_of(model)).item())
                W[...] = old
        numeric = (ends[0] - ends[1]) / (2 * eps)
        assert abs(np.vdot(totals[which], direction) - numeric) <= 1e-7 * max(1.0, abs(numeric)), which


# ---- Every single entry --------------------------------------------------------------------------------------------------------------


STEPS = {"RNN": (F.rnn_step, 1, 1), "LSTM": (F.lstm_step, 4, 2), "GRU": (F.gru_step, 3, 1)}


@pytest.mark.parametrize("cell", STEPS)
def test_an_entry_is_what_perturbing_one_copy_changes_in_one_loss(cell: str) -> None:
    """Central differences on bare arrays, where each step has a copy of W_hh of its own: no tape and no rule takes part."""
    step, gates, arrays = STEPS[cell]
    rng = np.random.default_rng(1)
    shapes = [(gates * H, D), (gates * H, H), (gates * H,), (gates * H,)]
    weights = [0.6 * rng.standard_normal(shape) for shape in shapes]
    start = [rng.standard_normal((B, H)) for _ in range(arrays)]

    def losses_of_copies(copies_of_w_hh: list[Any]) -> np.ndarray:
        state, losses = tuple(start), []
        for t in range(T):
            new = step(XS[t], *state, weights[0], copies_of_w_hh[t], *weights[2:])
            state = new if isinstance(new, tuple) else (new,)
            losses.append((state[0] * WEIGHTS[t, :, :H]).sum())
        return np.array(losses)

    w_hh = tg.tensor(weights[1], requires_grad=True)
    hs, _ = tg.scan(step, XS, tuple(start) if arrays > 1 else start[0], [weights[0], w_hh, *weights[2:]])
    losses = [(hs[t] * WEIGHTS[t, :, :H]).sum() for t in range(T)]
    led = ledger(sum(losses), w_hh, losses=losses)
    assert led.steps == led.loss_steps == [1, 2, 3, 4, 5]

    direction, eps = rng.standard_normal(weights[1].shape), 1e-6
    for k in range(T):
        moved = [[weights[1] + sign * eps * direction * (j == k) for j in range(T)] for sign in (1, -1)]
        numeric = (losses_of_copies(moved[0]) - losses_of_copies(moved[1])) / (2 * eps)
        np.testing.assert_allclose((led.terms[:, k] * direction).sum(axis=(1, 2)), numeric, rtol=1e-6, atol=1e-8)
    assert np.array_equal(led.reached, np.tril(np.ones((T, T), bool)))  # a loss sees no later copy


def test_a_linear_recursion_in_closed_form() -> None:
    """h_t = w h_(t-1) + x_t, L_t = c_t h_t: the entry (t, k) is c_t w^(t-k) h_(k-1)."""
    w, xs, c, h = 0.8, [0.5, -1.0, 2.0, 0.25], [1.0, -2.0, 0.5, 3.0], [0.7]
    for x in xs:
        h.append(w * h[-1] + x)
    W = tg.tensor(w, requires_grad=True, dtype="float64")
    state, losses = 0.7, []
    for x, weight in tg.steps(zip(xs, c, strict=True)):
        state = W * state + x
        losses.append(weight * state)
    by_hand = [[c[t - 1] * w ** (t - k) * h[k - 1] if k <= t else 0.0 for k in range(1, 5)] for t in range(1, 5)]
    led = ledger(sum(losses), W, losses=losses)
    np.testing.assert_allclose(led.terms, by_hand, rtol=1e-14)
    assert led.at(2, loss=4) == pytest.approx(c[3] * w**2 * h[1], rel=1e-14)
    assert led.at(2) == pytest.approx(sum(row[1] for row in by_hand), rel=1e-14)


def test_the_terms_are_those_of_the_notes() -> None:
    """dL/dW_hh = Σ_t outer(δ_t, h_(t-1)), δ_t = (1 - h_t²) ε_t, ε_t = g_t + W_hh^T δ_(t+1): by hand, in NumPy."""
    tg.seed(0)
    rnn = nn.RNN(D, H, bias=False, dtype="float64")
    hs, _ = rnn(tg.tensor(XS))
    g = WEIGHTS[..., :H]
    led = ledger((hs * g).sum(), rnn.weight_hh_l0)
    states, w_hh, delta = np.concatenate([np.zeros((1, B, H)), hs.numpy()]), rnn.weight_hh_l0.numpy(), np.zeros((B, H))
    for t in range(T, 0, -1):
        delta = (1 - states[t] ** 2) * (g[t - 1] + delta @ w_hh)
        np.testing.assert_allclose(led.terms[t - 1], delta.T @ states[t - 1], rtol=1e-12, atol=1e-15)
        np.testing.assert_allclose(led.at(t), led.terms[t - 1])


# ---- Three ways to write a loop ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", [nn.RNN, nn.LSTM, nn.GRU])
@pytest.mark.parametrize("which", ["weight_ih_l0", "weight_hh_l0", "bias_hh_l0"])
def test_compiled_unfolded_and_plain_loops_give_the_same_ledger(layer: Any, which: str) -> None:
    tg.seed(1)
    model = layer(D, H, dtype="float64")
    step = {nn.RNN: F.rnn_step, nn.LSTM: F.lstm_step, nn.GRU: F.gru_step}[layer]

    def plain(xs: Any) -> list[Any]:
        hs, state = [], (np.zeros((B, H)),) * (2 if layer is nn.LSTM else 1)
        for x in tg.steps(xs):
            new = step(x, *state, *model.weights(layer=0))
            state = new if isinstance(new, tuple) else (new,)
            hs.append(state[0])
        return hs

    found = []
    for run in (lambda xs: model(xs)[0], tg.unfolded()(lambda xs: model(xs)[0]), plain):
        losses = weighted(run(tg.tensor(XS)))
        found.append(ledger(sum(losses) / T, getattr(model, which), losses=losses))
    for other in found[1:]:
        assert other.steps == found[0].steps == [1, 2, 3, 4, 5] and other.loss_steps == found[0].loss_steps
        assert relative(other.terms, found[0].terms) <= EXACT
        assert np.array_equal(other.reached, found[0].reached)
    assert found[0].places[0] == found[1].places[0] == f"{layer.__name__} > layer 0" and found[2].places[0] == ""


@pytest.mark.parametrize("make", [lambda: nn.GRUCell(D, H, dtype="float64"), lambda: OwnCell(D)])
def test_a_plain_loop_over_a_cell_has_steps_without_saying_so(make: Callable[[], Any]) -> None:
    tg.seed(0)
    cell = make()
    read = nn.Linear(H, 2, dtype="float64")

    def losses_of(steps: Any) -> list[Any]:
        h, losses = tg.zeros((B, H), dtype="float64"), []
        for x in steps:
            h = cell(x, h)
            losses.append((read(h) ** 2).sum())
        return losses

    for W in (*cell.parameters(), *read.parameters()):
        told, silent = losses_of(tg.steps(XS)), losses_of(XS)
        one, other = ledger(sum(told), W, losses=told), ledger(sum(silent), W, losses=silent)
        assert one.uses == other.uses and one.steps == [1, 2, 3, 4, 5]
        assert relative(other.terms, one.terms) <= EXACT and other.check() <= EXACT
        assert np.array_equal(one.reached, other.reached)


def test_a_layer_that_runs_a_step_at_a_time_has_the_steps_of_the_loop_around_it() -> None:
    tg.seed(0)
    lstm, state, outs = nn.LSTM(D, H, num_layers=2, dtype="float64"), None, []
    for x in tg.steps(XS):
        hs, state = lstm(x[None], state)
        outs.append(hs[0])
    for W in lstm.parameters():
        one, whole = ledger(sum(weighted(outs)), W), ledger(sum(weighted(lstm(tg.tensor(XS))[0])), W)
        assert one.uses == whole.uses and relative(one.terms, whole.terms) <= EXACT


def test_a_plain_loop_before_another_counts_at_its_own_steps() -> None:
    """An encoder in a plain loop, a decoder that reads its last state at all of its steps."""
    tg.seed(0)
    encoder, decoder = nn.RNNCell(D, H, dtype="float64"), nn.RNNCell(H, H, dtype="float64")
    h = tg.zeros((B, H), dtype="float64")
    for x in XS:
        h = encoder(x, h)
    s = tg.zeros((B, H), dtype="float64")
    for _ in tg.steps(range(3)):
        s = decoder(h, s)
    led = ledger((s * s).sum(), encoder.weight_hh)
    assert led.uses == [Use(t, "RNNCell") for t in range(1, 6)] and led.check() <= EXACT and led.norms[0] == 0
    assert ledger((s * s).sum(), decoder.weight_ih).steps == [1, 2, 3]


def test_what_is_computed_from_a_weight_before_the_loop_counts_at_the_step_that_reads_it() -> None:
    rng = np.random.default_rng(2)
    w_in, w = (tg.tensor(rng.standard_normal(s), requires_grad=True) for s in ((H, D), (H, H)))

    def inside() -> Any:
        h = np.zeros((B, H))
        for x in tg.steps(XS):
            h = tg.tanh(x @ w_in.T + h @ (w / tg.sqrt((w * w).sum())).T)
        return (h * h).sum()

    def before() -> Any:
        h, projected, normed = np.zeros((B, H)), tg.tensor(XS) @ w_in.T, (w / tg.sqrt((w * w).sum())).T
        for p in tg.steps(projected):
            h = tg.tanh(p + h @ normed)
        return (h * h).sum()

    for W in (w_in, w):
        one, other = ledger(inside(), W), ledger(before(), W)
        assert one.steps == other.steps == [1, 2, 3, 4, 5]
        assert relative(other.terms, one.terms) <= EXACT and other.check() <= EXACT


def read_inside_and_outside(w: Any) -> tuple[Any, Any]:
    turned, h = w.T, np.ones((B, 3))
    for x in tg.steps([1.0, 2.0]):
        h = tg.tanh(h @ turned + x)
    return h.sum() + (turned**2).sum(), [1, 2, None]


def views_of_steps_stacked_outside(w: Any) -> tuple[Any, Any]:
    rows = [w[t] for t in tg.steps(range(3))]
    return (tg.stack(rows) ** 3).sum(), [1, 2, 3]


def a_view_as_the_loss(w: Any) -> tuple[Any, Any]:
    return w.reshape(-1)[4], [None]


def views_as_losses(w: Any) -> tuple[Any, Any]:
    losses = [w[t].reshape(-1)[t] for t in tg.steps(range(3))]
    return sum(losses), [1, 2, 3]


def a_form_of_a_form(w: Any) -> tuple[Any, Any]:
    normed, h = w / tg.sqrt((w * w).sum()), np.ones((B, 3))
    turned = normed.T
    for _ in tg.steps(range(2)):
        h = tg.tanh(h @ turned[:, ::-1] + normed[0])
    return h.sum() + normed.sum() + (w**2).sum(), [1, 2, None]


@pytest.mark.parametrize(
    "model", [read_inside_and_outside, views_of_steps_stacked_outside, a_view_as_the_loss, views_as_losses, a_form_of_a_form]
)
def test_every_way_to_read_a_weight_counts_once(model: Callable[[Any], Any]) -> None:
    w = tg.tensor(RNG.standard_normal((3, 3)), requires_grad=True)
    loss, steps = model(w)
    assert ledger(loss, w).steps == steps and ledger(loss, w).check() <= EXACT
    with_losses = ledger(loss * 2.0 + w.sum(), w, losses=[loss])
    assert with_losses.check() <= EXACT and with_losses.loss_steps == [1, None]
    assert relative(with_losses.by_loss[1], np.ones((3, 3))) <= EXACT


def test_a_view_that_is_a_loss_and_is_read_too_counts_once() -> None:
    """L = v + h_2, h_t = tanh(v² h_(t-1)), where v, a view of w, is itself the first loss: dL/dw = 1 + dh_2/dw."""
    w = tg.tensor([0.7], requires_grad=True, dtype="float64")
    v = w.reshape(())
    factor, h = v * v, 1.0
    for _ in tg.steps(range(2)):
        h = tg.tanh(factor * h)
    led = ledger(v + h, w, losses=[v, h])
    assert led.check() <= EXACT and relative(led.by_loss[0], [1.0]) <= EXACT
    assert relative(led.by_loss[1], tg.grad(h, w).numpy()) <= EXACT


def test_the_embedding_of_a_sequence_is_used_step_by_step() -> None:
    tg.seed(0)
    table, rnn = nn.Embedding(6, D, dtype="float64"), nn.RNN(D, H, dtype="float64")
    ids = np.array([[0, 1], [2, 1], [0, 3]])
    led = ledger((rnn(table(ids))[0] ** 2).sum(), table.weight)
    assert led.steps == [1, 2, 3] and led.check() <= EXACT
    for term, read in zip(led.terms, ids, strict=True):
        assert {int(i) for i in np.flatnonzero(term.any(axis=1))} == set(read.tolist())


# ---- Which copies --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", [nn.RNN, nn.LSTM, nn.GRU])
def test_copy_1_of_w_hh_has_a_zero_term_where_the_first_state_is_zero(layer: Any) -> None:
    tg.seed(0)
    model = layer(D, H, dtype="float64")
    led = ledger((model(tg.tensor(XS))[0] * WEIGHTS[..., :H]).sum(), model.weight_hh_l0)
    assert not led.terms[0].any() and led.reached[0]  # a gradient arrives, and is multiplied with h_0
    assert (led.norms[1:] > 0).all()
    h = tg.tensor(RNG.standard_normal((1, B, H)))
    state = (h, h) if layer is nn.LSTM else h
    assert (ledger((model(tg.tensor(XS), state)[0] * WEIGHTS[..., :H]).sum(), model.weight_hh_l0).norms > 0).all()


@pytest.mark.parametrize("steps", range(1, 9))
@pytest.mark.parametrize("many", [False, True])
def test_the_slider_exercise(steps: int, many: bool) -> None:
    """Which copies are used for dC/dw_x? All of w_x, those of w_o, and w_a from its second on: its first multiplies a_0, which w_x made not."""
    rng = np.random.default_rng(steps)
    w_x, w_a, w_o = (tg.tensor(rng.standard_normal(s), requires_grad=True) for s in ((H, D), (H, H), (1, H)))
    a, cost = tg.zeros((B, H), dtype="float64"), 0.0
    for t, x in enumerate(tg.steps(rng.standard_normal((steps, B, D))), 1):
        a = tg.tanh(x @ w_x.T + a @ w_a.T)
        if many or t == steps:
            cost = cost + ((a @ w_o.T) ** 2).sum()
    used = {name: [use.time for use in uses] for name, uses in copies(cost, w_x, [w_x, w_a, w_o]).items()}
    every = list(range(1, steps + 1))
    assert used == {"0": every, "1": every[1:], "2": every if many else [steps]}
    led = ledger(cost, w_a)
    assert led.norms[0] == 0 and led.check() <= EXACT and led.steps == every


def test_copies_behind_the_step_of_the_loss_are_not_used() -> None:
    """A loss of h_3 alone, out of a compiled loop of five steps: what comes later lies on no path."""
    tg.seed(0)
    rnn = nn.RNN(D, H, dtype="float64")
    hs, _ = rnn(tg.tensor(XS))
    used = copies((hs[2] ** 2).sum(), rnn.weight_ih_l0, [rnn.weight_ih_l0, rnn.weight_hh_l0])
    assert {name: [use.time for use in uses] for name, uses in used.items()} == {"weight_ih_l0": [1, 2, 3], "weight_hh_l0": [2, 3]}


def test_layers_directions_loops_and_calls_that_share_a_weight_are_kept_apart() -> None:
    tg.seed(0)
    both = nn.RNN(H, H, num_layers=2, bidirectional=False, bias=False, dtype="float64")
    both.weight_hh_l1 = both.weight_hh_l0
    xs = tg.tensor(RNG.standard_normal((3, B, H)))
    led = ledger((both(xs)[0] ** 2).sum(), both.weight_hh_l0)
    assert led.uses == [Use(t, f"RNN > layer {layer}") for layer in (0, 1) for t in (1, 2, 3)] and led.check() <= EXACT

    turned = nn.RNN(H, H, bidirectional=True, bias=False, dtype="float64")
    turned.weight_hh_l0_reverse = turned.weight_hh_l0
    led = ledger((turned(xs)[0] ** 2).sum(), turned.weight_hh_l0)
    assert led.uses == [Use(t, f"RNN > layer 0{d}") for d in ("", "_reverse") for t in (1, 2, 3)] and led.check() <= EXACT
    assert led.norms[0] == 0 and led.norms[5] == 0  # each direction has a first step of its own

    siamese = nn.RNN(H, H, bias=False, dtype="float64")
    (one, _), (two, _) = siamese(xs), siamese(-xs[:2])
    led = ledger((one[-1] * two[-1]).sum(), siamese.weight_ih_l0)
    assert led.uses == [Use(t, "RNN > layer 0", call) for call, steps in ((1, 3), (2, 2)) for t in range(1, steps + 1)]
    alone = ledger((one[-1] * two[-1].detach()).sum(), siamese.weight_ih_l0)
    np.testing.assert_array_equal(led.terms[:3], alone.terms)

    w = tg.tensor(np.eye(H), requires_grad=True)  # one loop after the other, in no module
    h = xs[0]
    for _ in range(2):
        for x in tg.steps(xs):
            h = tg.tanh(h @ w + x)
    assert ledger(h.sum(), w).uses == [Use(t, "", call) for call in (1, 2) for t in (1, 2, 3)]


def test_uses_outside_every_step_have_rows_of_their_own() -> None:
    tg.seed(0)
    rnn, read = nn.RNN(D, H, dtype="float64"), nn.Linear(H, 2, dtype="float64")
    hs, _ = rnn(tg.tensor(XS))
    losses = [(read(h) ** 2).mean() for h in hs]
    penalty = 0.1 * (rnn.weight_hh_l0**2).sum()
    led = ledger(sum(losses) + penalty, rnn.weight_hh_l0)
    assert led.steps == [1, 2, 3, 4, 5, None] and led.check() <= EXACT
    np.testing.assert_allclose(led.at(None), 0.2 * rnn.weight_hh_l0.numpy(), rtol=1e-14)
    w, h = tg.tensor([2.0], requires_grad=True), 1.0
    before = (w * w).sum()
    for _ in tg.steps(range(2)):
        h = w * h
    assert ledger(before + h.sum(), w).steps == [1, 2, None]  # though the penalty stands first on the tape
    split = ledger(sum(losses) + penalty, rnn.weight_hh_l0, losses=losses)
    assert split.loss_steps == [1, 2, 3, 4, 5, None] and split.check() <= EXACT
    assert not split.reached[:5, 5].any() and split.reached[5].tolist() == [False] * 5 + [True]
    np.testing.assert_allclose(split.terms[5, 5], led.at(None), rtol=1e-14)
    readout = ledger(sum(losses), read.weight, losses=losses)
    assert readout.uses == [Use(None, "Linear", call) for call in range(1, 6)]
    assert np.array_equal(readout.reached, np.eye(5, dtype=bool))


def test_padding_adds_nothing() -> None:
    """The ledger of a padded batch is the sum of those of its rows, each as long as it is."""
    tg.seed(0)
    lstm, lengths = nn.LSTM(D, H, dtype="float64"), [5, 2, 0]
    padded = XS.copy()
    for row, length in enumerate(lengths):
        padded[length:, row] = np.nan
    led = ledger((lstm(tg.tensor(padded), lengths=lengths)[0] * WEIGHTS[..., :H]).sum(), lstm.weight_hh_l0)
    expected = np.zeros_like(led.terms)
    for row, length in enumerate(lengths[:2]):
        hs, _ = lstm(tg.tensor(XS[:length, row : row + 1]))
        expected[:length] += ledger((hs * WEIGHTS[:length, row : row + 1, :H]).sum(), lstm.weight_hh_l0).terms
    assert relative(led.terms, expected) <= EXACT
    short = ledger((lstm(tg.tensor(padded[:, 1:]), lengths=lengths[1:])[0] * 2).sum(), lstm.weight_hh_l0)
    assert short.norms[2:].tolist() == [0, 0, 0] and not short.reached[2:].any()


def test_what_a_recorded_gradient_uses_is_told_apart() -> None:
    """A penalty on the gradient of the inputs: W_hh is used in the forward pass and, from step 2 on, in the backward pass."""
    tg.seed(0)
    rnn, xs = nn.RNN(D, H, dtype="float64"), tg.tensor(XS, requires_grad=True)
    with tg.unfolded():
        hs, _ = rnn(xs)
        (g,) = tg.grad([(hs * hs).sum()], [xs], create_graph=True)
    led = ledger((g * g).sum(), rnn.weight_hh_l0)
    assert led.uses == [Use(t, "RNN > layer 0") for t in range(1, 6)] + [Use(t, "RNN > layer 0 > backward") for t in range(2, 6)]
    assert led.check() <= EXACT


def test_loops_in_loops_keep_their_own_times() -> None:
    w, h, outs = tg.tensor(np.eye(2), requires_grad=True), np.ones((1, 2)), []
    for _ in tg.steps(range(2)):
        for _ in tg.steps(range(3)):
            h = tg.tanh(h @ w)
        outs.append(h.sum())
    led = ledger(sum(outs), w, losses=outs)
    assert led.uses == [Use(t, f"steps t={outer}") for outer in (1, 2) for t in (1, 2, 3)] and led.check() <= EXACT
    assert led.reached.tolist() == [[True] * 3 + [False] * 3, [True] * 6] and led.loss_steps == [1, 2]


def test_recomputed_pieces_keep_their_steps_to_themselves_and_say_so() -> None:
    w = tg.tensor(0.5, requires_grad=True, dtype="float64")

    @tg.recompute
    def piece(h: Any) -> Any:
        for _ in tg.steps(range(3)):
            h = tg.tanh(w * h)
        return h

    led = ledger(piece(piece(tg.tensor(1.0, dtype="float64"))), w)
    assert led.steps == [None] and led.check() <= EXACT and "tg.recompute" in led.table()


def test_random_cells() -> None:
    """For every leaf of a random loop the ledger adds up, compiled and unfolded, from either end and with lengths."""
    compared = []

    @settings(max_examples=25)
    @given(cells_and_calls())
    def check(drawn: tuple[Cell, Call]) -> None:
        runs = []
        for how in (contextlib.nullcontext(), tg.unfolded()):
            with how:
                outputs, leaves = over_time(*drawn)
            runs.append(((outputs["hs"] * outputs["hs"]).sum(axis=tuple(range(1, outputs["hs"].ndim))), leaves))
        for name in runs[1][1]:
            losses, leaves = runs[1]
            if losses.node is None or leaves[name].node not in tg.toposort([losses]):  # nothing that the loss sees depends on it
                continue
            found = []
            for losses, leaves in runs:
                led = ledger(losses.sum(), leaves[name], losses=losses)
                assert np.abs(led.total - led.gradient).max() <= EXACT * max(1.0, np.abs(led.gradient).max()), name
                assert np.allclose(led.by_use, ledger(losses.sum(), leaves[name]).terms, rtol=1e-10, atol=1e-13), name
                found.append(led)
            assert found[0].steps == found[1].steps and np.allclose(found[0].terms, found[1].terms, rtol=1e-10, atol=1e-13), name
            compared.append(len(found[0].uses))

    check()
    assert len(compared) > 40 and max(compared) >= 5


# ---- Losses ----------------------------------------------------------------------------------------------------------------------------


def test_losses_come_as_a_list_or_as_a_tensor_and_count_as_they_do_in_the_loss() -> None:
    tg.seed(0)
    gru = nn.GRU(D, H, dtype="float64")
    hs, _ = gru(tg.tensor(XS))
    per_step = (hs * WEIGHTS[..., :H]).sum(axis=-1)  # (T, B)
    part = np.arange(1.0, T + 1)[:, None]
    loss = (per_step * part).mean()
    stacked = ledger(loss, gru.weight_hh_l0, losses=per_step)
    listed_losses = list(per_step)  # (B,) each
    listed = ledger(
        sum((p * w).sum() for p, w in zip(listed_losses, part, strict=True)) / (T * B), gru.weight_hh_l0, losses=listed_losses
    )
    assert relative(listed.terms, stacked.terms) <= EXACT and stacked.check() <= EXACT
    alone = tg.grad(per_step[3].sum(), gru.weight_hh_l0).numpy()
    np.testing.assert_allclose(stacked.by_loss[3], 4 / (T * B) * alone, rtol=1e-12)


def test_losses_that_read_each_other_are_split_at_the_ones_given() -> None:
    """A loss computed from another: what flows through the other counts as the later one's, and nothing counts twice."""
    w = tg.tensor(0.5, requires_grad=True, dtype="float64")
    first = w * 2.0
    second = first * first
    led = ledger(first + 3.0 * second, w, losses=[first, second])
    np.testing.assert_allclose(led.by_loss, [2.0, 3 * 2 * 1.0 * 2.0])
    assert led.check() <= EXACT


def test_the_times_of_losses_are_those_of_their_steps() -> None:
    w, h, losses = tg.tensor(0.5, requires_grad=True), 1.0, []
    for t, x in enumerate(tg.steps([1.0, 2.0, 3.0, 4.0]), 1):
        h = tg.tanh(w * h + x)
        if t % 2 == 0:
            losses.append(h * h)
    assert ledger(sum(losses), w, losses=losses).loss_steps == [2, 4]


def test_the_sweep_of_a_loss_begins_at_its_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """T sweeps are T²/2 steps: what arrives from a stack of all states is zero but for one, and is not followed."""
    visited = []

    def counting(*args: Any, **kwargs: Any) -> Any:
        visited.append(0)
        for step in steps_of_backward(*args, **kwargs):
            visited[-1] += step.node.prim is not None and step.node.prim.name == "tanh"
            yield step

    monkeypatch.setattr(entries, "steps_of_backward", counting)
    rnn = nn.RNN(D, H, dtype="float64")
    per_step = (rnn(tg.tensor(XS))[0] ** 2).sum(axis=(1, 2))
    ledger(per_step.sum(), rnn.weight_hh_l0, losses=per_step)
    assert visited == [1, 2, 3, 4, 5]


# ---- Norms -----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", [False, True])
def test_norms_alone_are_the_norms_of_the_terms(split: bool) -> None:
    tg.seed(0)
    model = nn.LSTM(D, H, num_layers=2, bidirectional=True, dtype="float64")
    losses = weighted(model(tg.tensor(XS))[0])
    for W in model.parameters():
        led = ledger(sum(losses), W, losses=losses if split else None)
        alone = ledger(sum(losses), W, losses=losses if split else None, norms=True)
        axes = tuple(range(-W.ndim, 0))
        expected = np.sqrt((led.terms**2).sum(axis=axes))
        for found in (led, alone):
            np.testing.assert_allclose(found.norms, expected, rtol=1e-12)
            np.testing.assert_allclose(
                found.shares, (led.terms * led.total).sum(axis=axes) / (led.total**2).sum(), rtol=1e-9, atol=1e-12
            )
            np.testing.assert_allclose(found.norms_by_use, np.sqrt((led.by_use**2).sum(axis=axes)), rtol=1e-12)
            if split:
                np.testing.assert_allclose(found.norms_by_loss, np.sqrt((led.by_loss**2).sum(axis=axes)), rtol=1e-12)
        assert alone.check() <= EXACT and np.array_equal(alone.reached, led.reached)
        with pytest.raises(ArgumentError, match="only their norms"):
            _ = alone.terms


def test_norms_alone_take_no_memory_for_terms() -> None:
    tg.seed(0)
    rnn, steps = nn.RNN(4, 64), 150
    hs, _ = rnn(tg.tensor(RNG.standard_normal((steps, 2, 4)).astype("float32")))
    loss = (hs * hs).sum()

    def peak(**options: Any) -> int:
        gc.collect()
        tracemalloc.start()
        ledger(loss, rnn.weight_hh_l0, **options)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    terms_alone = steps * 64 * 64 * 4
    assert peak() > terms_alone
    assert peak(norms=True) < 0.7 * terms_alone


# ---- A reader ------------------------------------------------------------------------------------------------------------------------


def test_nothing_is_touched() -> None:
    tg.seed(0)
    rnn = nn.RNN(D, H, dtype="float64")
    hs, _ = rnn(tg.tensor(XS))
    loss = (hs * hs).sum()
    tape = [(node, node.order, node.frame) for node in tg.toposort([loss])]
    losses = (hs * hs).sum(axis=(1, 2))
    ledger(loss, rnn.weight_hh_l0)
    ledger(losses.sum(), rnn.weight_hh_l0, losses=losses)
    assert [(node, node.order, node.frame) for node in tg.toposort([loss])] == tape
    assert all(p.grad is None for p in rnn.parameters())
    loss.backward()
    assert ledger(loss, rnn.weight_hh_l0).check() <= EXACT


def test_terms_of_several_leaves_in_tape_order() -> None:
    tg.seed(0)
    gru = nn.GRU(D, H, bidirectional=True, dtype="float64")
    loss = (gru(tg.tensor(XS))[0] ** 2).sum()
    unused = tg.tensor([1.0], requires_grad=True)
    found = terms(loss, [*gru.parameters(), unused])
    assert found[unused.node] == []
    for W in gru.parameters():
        uses = found[W.node]
        assert [u.node.order for u in uses] == sorted(u.node.order for u in uses)
        assert [u.time for u in uses] == ([5, 4, 3, 2, 1] if "reverse" in (W.name or "") else [1, 2, 3, 4, 5])
        assert all(u.node.args[u.position] is W.node for u in uses)
        assert relative(sum(u.value for u in uses), tg.grad(loss, W).numpy()) <= EXACT


def test_arrays_of_a_device_come_back_as_numpys(device_xp: Any) -> None:
    w = tg.tensor(device_xp.asarray(np.eye(H)), requires_grad=True)
    h = tg.tensor(device_xp.asarray(RNG.standard_normal((B, H))))
    for _ in tg.steps(range(3)):
        h = tg.tanh(h @ w)
    per_row = (h * h).sum(axis=1)
    for losses in (None, per_row):
        led = ledger(per_row.sum(), w, losses=losses)
        assert type(led.terms) is np.ndarray and led.check() <= EXACT and led.steps == [1, 2, 3]


def test_infinite_and_missing_numbers_are_shown_as_such() -> None:
    w, h = tg.tensor(1e200, requires_grad=True, dtype="float64"), 1.0
    with np.errstate(all="ignore"):
        for _ in tg.steps(range(3)):
            h = w * h
        led = ledger(h, w)
        assert "inf" in led.table() and "infty" in led.latex() and "inf" in led.text()


@pytest.mark.parametrize(("dtype", "tiny"), [("float32", 1e-30), ("float64", 1e-250), ("float64", 1e250), ("float32", 1e30)])
def test_the_smallest_and_the_largest_gradients_have_norms_and_shares(dtype: str, tiny: float) -> None:
    """Squares of such numbers vanish, or overflow."""
    w = tg.tensor(np.ones((2, 2)), requires_grad=True, dtype=dtype)
    loss = sum((w * (tiny * x)).sum() for x in tg.steps([1.0, 3.0]))
    for norms in (False, True):
        led = ledger(loss, w, norms=norms)
        np.testing.assert_allclose(led.norms, [2 * tiny, 6 * tiny], rtol=1e-6)
        np.testing.assert_allclose(led.shares, [0.25, 0.75], rtol=1e-6)
        assert "25.00 %" in led.table() and f"{8 * tiny:.6g}"[:2] in led.table()


# ---- As text ---------------------------------------------------------------------------------------------------------------------------


def known() -> tuple[Any, Any, list[Any]]:
    w, h, losses = tg.tensor(2.0, requires_grad=True, dtype="float64"), 1.0, []
    w.name = "w_a"
    for x in tg.steps([1.0, 0.5, 0.0]):
        h = w * h + x  # 3, 6.5, 13
        losses.append(h)
    return w, losses[-1], losses


def test_the_table_shows_every_term_and_the_sum() -> None:
    w, loss, losses = known()  # w² h_0, w h_1, h_2
    lines = ledger(loss, w).table().split("\n")
    assert lines[0] == "dL/dw_a, w_a (): the terms of 3 uses"
    assert [line.split()[:4] for line in lines[3:7]] == [
        ["1", "4", "24.24", "%"],
        ["2", "6", "36.36", "%"],
        ["3", "6.5", "39.39", "%"],
        ["sum", "16.5", "100.00", "%"],
    ]
    assert str(ledger(loss, w)) == "\n".join(lines)
    matrix = ledger(sum(losses), w, losses=losses).table()
    rows = [line.split() for line in matrix.split("\n")]
    assert ["1", "1", "·", "·", "1"] in rows and ["2", "2", "3", "·", "5"] in rows and ["3", "4", "6", "6.5", "16.5"] in rows
    assert ["sum", "7", "9", "6.5", "22.5"] in rows


def test_the_formula_is_that_of_the_notes() -> None:
    w, loss, losses = known()
    text = ledger(loss, w).text()
    assert text.startswith("dL/dw_a = Σ_(k=1..3) δ_k ∂a_k/∂w_a\n") and "‖δ_k ∂a_k/∂w_a‖ = 4, 6, 6.5    (k = 1, ..., 3)" in text
    split = ledger(sum(losses), w, losses=losses)
    assert split.text().startswith("dL/dw_a = Σ_(t=1..3) Σ_(k=1..t) δ_k^t ∂a_k/∂w_a\n")
    assert "δ_k^t = dL_t/da_k = dL_t/dh_t [Π_(j=k+1..t) ∂h_j/∂h_(j-1)] ∂h_k/∂a_k" in split.text()
    latex = split.latex()
    assert latex.startswith(
        "\\begin{align*}\n\\frac{dL}{dw_{a}} &= \\sum_{t=1}^{3} \\sum_{k=1}^{t} \\delta_k^t \\frac{\\partial a_k}{\\partial w_{a}} \\\\\n"
    )
    assert r"\prod_{j=k+1}^{t} \frac{\partial h_j}{\partial h_{j-1}}" in latex and latex.endswith("\\end{align*}")


def test_the_chain_of_products_is_claimed_only_where_states_run_forward() -> None:
    tg.seed(0)
    for options in ({"bidirectional": True}, {"num_layers": 2}):
        model = nn.RNN(D, H, dtype="float64", **options)
        losses = weighted(model(tg.tensor(XS))[0])
        led = ledger(sum(losses), list(model.parameters())[-1], losses=losses)
        assert ("Π" in led.text()) == ("num_layers" in options)


@pytest.mark.parametrize(
    ("name", "plain", "latex"),
    [
        ("rnn.weight_hh_l0", "W_hh", "W_{hh}"),
        ("weight_ih_l1_reverse", "W_ih^l1←", r"W_{ih}^{l1\leftarrow}"),
        ("bias_hh_l2", "b_hh^l2", "b_{hh}^{l2}"),
        ("score.weight", "(score.weight)", r"\mathtt{score.weight}"),
        ("weight", "W", "W"),
        ("W_hh", "W_hh", "W_{hh}"),
        ("U", "U", "U"),
        ("a{b}_%", "(a{b}_%)", r"\mathtt{a\{b\}\_\%}"),
        ("\\input{x}", "(\\input{x})", r"\mathtt{\textbackslash{}input\{x\}}"),
    ],
)
def test_weights_are_written_as_in_the_notes(name: str, plain: str, latex: str) -> None:
    w = tg.tensor(2.0, requires_grad=True)
    w.name = name
    led = ledger(w * w, w)
    assert f"dL/d{plain}" in led.text() and rf"\frac{{dL}}{{d{latex}}}" in led.latex()
    unescaped = re.sub(r"\\[{}]", "", led.latex())
    assert unescaped.count("{") == unescaped.count("}")


def test_a_weight_that_no_gradient_reaches_is_written_too() -> None:
    w = tg.tensor(np.ones(2), requires_grad=True)
    losses = [(tg.maximum(w - 5.0, 0.0) * x).sum() for x in tg.steps([1.0, 2.0])]
    led = ledger(sum(losses), w, losses=losses)
    assert not led.norms.any() and led.check() == 0 and led.shares.tolist() == [[0, 0], [0, 0]]
    assert "dL/dW" in led.table() and "dL/dW" in led.text() and "align" in led.latex()


def test_long_ledgers_are_shortened_and_told_in_full() -> None:
    w, h = tg.tensor(0.9, requires_grad=True, dtype="float64"), 1.0
    for _ in tg.steps(range(40)):
        h = w * h
    led = ledger(h, w)
    assert "..." in led.table() and len(led.table().split("\n")) < 25
    assert "..." not in led.table(full=True) and len(led.table(full=True).split("\n")) > 40


def test_a_loop_without_steps_is_told_how_to_get_them() -> None:
    w, h = tg.tensor(0.9, requires_grad=True), 1.0
    for _ in range(3):
        h = w * h
    assert ledger(h, w).uses == [Use(None, "")] and "tg.steps" in ledger(h, w).table()


@pytest.mark.parametrize(
    ("ask", "kind", "says"),
    [
        (lambda loss, w, losses: ledger(loss, "weight_hh_l0"), ArgumentError, "W is a str"),
        (lambda loss, w, losses: ledger(loss, tg.tensor(1.0, requires_grad=True)), GraphError, "not computed from"),
        (lambda loss, w, losses: ledger(loss, tg.tensor(1.0)), GraphError, "constant"),
        (lambda loss, w, losses: ledger(loss, w, losses=[*losses[:2], losses[2] * 1.0]), GraphError, r"losses\[2\]"),
        (lambda loss, w, losses: ledger(loss, w, losses=[*losses, losses[0]]), ArgumentError, r"losses\[3\] stands there before"),
        (lambda loss, w, losses: ledger(loss, w, losses=3.0), ArgumentError, "losses is 3.0"),
        (lambda loss, w, losses: ledger(loss, w, losses=[]), ArgumentError, r"losses is \[\]"),
        (lambda loss, w, losses: ledger(loss, w, losses=losses[0]), GraphError, "one scalar"),
        (lambda loss, w, losses: ledger(tg.stack(losses), w), GraphError, "scalar"),
        (lambda loss, w, losses: ledger(loss, w).at(9), ArgumentError, "step 9"),
        (lambda loss, w, losses: ledger(loss, w).at(1, loss=1), ArgumentError, "no loss"),
        (lambda loss, w, losses: ledger(loss, w).by_loss, ArgumentError, "not split"),
    ],
)
def test_errors_say_what_to_do(ask: Callable[..., Any], kind: type[Exception], says: str) -> None:
    w, _, losses = known()
    with pytest.raises(kind, match=says):
        ask(sum(losses), w, losses)
