"""explain(loss, W): the sum of products of the lecture notes, its factors and its terms, against the tape and against NumPy."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from test_rules import say

import tinygrad_seq as tg
from tinygrad_seq import bptt, nn
from tinygrad_seq.bptt import Derivation, explain
from tinygrad_seq.errors import GraphError
from tinygrad_seq.nn import functional as F

T, B, D, H = 3, 2, 3, 4
Case = tuple[tg.Tensor, dict[str, Any]]


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def layer(kind: Any, **how: Any) -> Callable[[], Case]:
    def make() -> Case:
        net = kind(D, H, dtype="float64", rng=1, **how)
        hs, _ = net(numbers(T, B, D))
        weight = numbers(*hs.shape, seed=1)
        return (hs * weight).sum(), dict(net.named_parameters())

    return make


def by_loop(kind: Any, outputs: bool) -> Callable[[], Case]:
    """A cell of nn in a loop of one's own, with a read-out and a loss at every step, or one at the end."""

    def make() -> Case:
        cell, V = kind(D, H, dtype="float64", rng=1), nn.Linear(H, 2, dtype="float64", rng=2)
        state: Any = None
        losses = []
        for x in tg.steps(numbers(T, B, D)):
            state = cell(x, state)
            h = state[0] if isinstance(state, tuple) else state
            losses.append(F.cross_entropy(V(h), np.array([0, 1])))
        return (sum(losses) if outputs else losses[-1]), dict(cell.named_parameters()) | {"V": V.weight}

    return make


def peepholes() -> Case:
    shapes = [(4 * H, D), (4 * H, H), (4 * H,), (4 * H,), (H, H), (H, H), (H, H)]
    names = ["w_ih", "w_hh", "b_ih", "b_hh", "w_ci", "w_cf", "w_co"]
    weights = [tg.Tensor(0.5 * numbers(*s, seed=k), requires_grad=True) for k, s in enumerate(shapes)]
    for w, name in zip(weights, names, strict=True):
        w.name = name
    h0, c0 = numbers(B, H, seed=8), numbers(B, H, seed=9)
    hs, _ = tg.scan(F.peephole_lstm_step, numbers(T, B, D), (h0, c0), weights)
    return (hs**2).sum(), dict(zip(names, weights, strict=True))


def tied() -> Case:
    """A weight that the state goes through and the loss of every step reads once more."""
    W, h, losses = tg.Tensor(0.5 * numbers(H, H), requires_grad=True), tg.Tensor(numbers(B, H, seed=1)), []
    for x in tg.steps(numbers(T, B, H, seed=2)):
        h = tg.tanh(x + h @ W)
        losses.append(((h @ W) ** 2).sum())
    return sum(losses), {"W": W}


def two_cells() -> Case:
    """One cell used twice in every step, on its own output."""
    cell = nn.RNNCell(H, H, dtype="float64", rng=3)
    h1 = h2 = tg.Tensor(numbers(B, H, seed=1))
    for x in tg.steps(numbers(T, B, H)):
        h1 = cell(x, h1)
        h2 = cell(h1, h2)
    return (h2**2).sum(), dict(cell.named_parameters())


def encoder_and_decoder() -> Case:
    encoder, decoder = nn.GRU(D, H, dtype="float64", rng=1), nn.GRU(D, H, dtype="float64", rng=2)
    _, h = encoder(numbers(T, B, D))
    ys, _ = decoder(numbers(2, B, D, seed=1), h)
    params = {f"{k}_{name}": p for k, net in (("in", encoder), ("out", decoder)) for name, p in net.named_parameters()}
    return (ys**2).sum(), params


def with_lengths() -> Case:
    net = nn.LSTM(D, H, dtype="float64", rng=1)
    hs, _ = net(numbers(T, B, D), lengths=np.array([3, 2]))
    return (hs**2).sum(), dict(net.named_parameters())


def without_a_batch() -> Case:
    W, h = tg.Tensor(0.5 * numbers(H, H), requires_grad=True), tg.Tensor(numbers(H, seed=1))
    for x in tg.steps(numbers(T, H, seed=2)):
        h = tg.tanh(W @ h + x)
    return (h**2).sum(), {"W": W}


def calls_of_a_cell() -> Case:
    """A `for` loop that says nothing of steps: they are the calls of the cell."""
    cell = nn.GRUCell(D, H, dtype="float64", rng=1)
    h = tg.zeros((B, H), dtype="float64")
    for x in numbers(T, B, D):
        h = cell(x, h)
    return (h**2).sum(), dict(cell.named_parameters())


def a_layer_called_twice() -> Case:
    net = nn.RNN(D, H, dtype="float64", rng=1)
    first, h = net(numbers(T, B, D))
    second, _ = net(numbers(T, B, D, seed=1), h)
    return (first**2).sum() + (second**3).sum(), dict(net.named_parameters())


def loops_in_a_loop() -> Case:
    """Sentences of words: the state of the inner loop begins with that of the outer."""
    words, sentences = nn.RNN(D, H, dtype="float64", rng=1), nn.RNNCell(H, H, dtype="float64", rng=2)
    h = tg.Tensor(numbers(B, H, seed=1))
    for xs in tg.steps(numbers(3, T, B, D)):
        _, end = words(xs, h[None])
        h = sentences(end[0], h)
    return (h**2).sum(), dict(words.named_parameters()) | {f"s_{k}": p for k, p in sentences.named_parameters()}


def embedded() -> Case:
    """Symbols through an embedding, all at once, before the loop that reads them."""
    table, net = nn.Embedding(7, D, dtype="float64", rng=1), nn.RNN(D, H, dtype="float64", rng=2)
    hs, _ = net(table(np.array([[1, 2], [3, 1], [0, 6]])))
    return (hs**2).sum(), {"table": table.weight} | dict(net.named_parameters())


class OwnCell(nn.Module):
    """z = σ(U x + W h), n = tanh(U x + W (z ⊙ h)), h' = z ⊙ h + (1 - z) ⊙ n."""

    def __init__(self) -> None:
        super().__init__()
        self.U, self.W = nn.Parameter(0.5 * numbers(H, D, seed=5)), nn.Parameter(0.5 * numbers(H, H, seed=6))

    def forward(self, x: Any, h: Any) -> Any:
        z = tg.sigmoid(x @ self.U.T + h @ self.W.T)
        return z * h + (1 - z) * tg.tanh(x @ self.U.T + (z * h) @ self.W.T)


def own_cell() -> Case:
    cell = OwnCell()
    hs, _ = tg.scan(cell, numbers(T, B, D), numbers(B, H, seed=1))
    return (hs**2).sum(), dict(cell.named_parameters())


def with_attention() -> Case:
    encoder, cell = nn.GRU(D, H, dtype="float64", rng=1), nn.GRUCell(H, H, dtype="float64", rng=2)
    hs, h = encoder(numbers(T, B, D))
    s, total = h[0], 0.0
    for _ in tg.steps(range(2)):
        context = F.scaled_dot_product_attention(s[:, None], hs.swapaxes(0, 1), hs.swapaxes(0, 1))[:, 0]
        s = cell(context, s)
        total = total + (s**2).sum()
    return total, dict(encoder.named_parameters()) | {f"out_{k}": p for k, p in cell.named_parameters()}


def one_weight_in(layers: bool) -> Callable[[], Case]:
    """Two layers, or an encoder and a decoder, of one weight: loops over tg.steps after each other."""

    def make() -> Case:
        W, V = (tg.Tensor(0.5 * numbers(H, H, seed=k), requires_grad=True) for k in (1, 2))
        zeros = tg.zeros((B, H), dtype="float64")
        h, hs, total = zeros, [], tg.tensor(0.0, dtype="float64")
        for x in tg.steps(numbers(T, B, H)):
            h = tg.tanh(x @ V + h @ W)
            hs.append(h)
        h = zeros if layers else h
        for x, y in tg.steps(list(zip(hs if layers else numbers(T, B, H, seed=4), numbers(T, B, H, seed=5), strict=True))):
            h = tg.tanh(x @ V + h @ W)
            total = total + ((h - y) ** 2).sum()
        return total, {"W": W, "V": V}

    return make


def in_plain_loop(how: str) -> Callable[[], Case]:
    """A plain loop over a cell of nn, whose states are changed between the calls, or what it reads is computed in front of the loop."""

    def make() -> Case:
        E = tg.Tensor(0.5 * numbers(D, H, seed=3), requires_grad=True)
        cell: Any = nn.RNNCell(H, H, dtype="float64", rng=1) if how == "residual" else nn.LSTMCell(H, H, dtype="float64", rng=1)
        xs, h, c = tg.tensor(numbers(T, B, D)) @ E, tg.zeros((B, H), dtype="float64"), tg.zeros((B, H), dtype="float64")
        for t in range(T):
            if how == "residual":
                h = 0.5 * h + cell(xs[t], h)
            else:
                h, c = cell(xs[t], (h, c))
                h = h * numbers(B, H, seed=t) if how == "masked" else h
        return (h * numbers(B, H, seed=7)).sum(), {"E": E} | dict(cell.named_parameters())

    return make


def first_state_of_the_weight() -> Case:
    """The weight makes the first state, too."""
    W = tg.Tensor(0.5 * numbers(H, H, seed=1), requires_grad=True)
    h = tg.tanh(tg.tensor(numbers(B, H)) @ W)
    for x in tg.steps(numbers(T, B, H, seed=2)):
        h = tg.tanh(x + h @ W)
    return (h * numbers(B, H, seed=3)).sum(), {"W": W}


CASES: dict[str, Callable[[], Case]] = {
    "rnn": layer(nn.RNN), "lstm": layer(nn.LSTM), "gru": layer(nn.GRU), "relu": layer(nn.RNN, nonlinearity="relu"),
    "stacked": layer(nn.LSTM, num_layers=2), "bidirectional": layer(nn.GRU, bidirectional=True), "taps": layer(nn.RNN, taps=2),
    "rnn loop": by_loop(nn.RNNCell, True), "lstm loop": by_loop(nn.LSTMCell, False), "gru loop": by_loop(nn.GRUCell, True),
    "peepholes": peepholes, "tied": tied, "two cells": two_cells, "encoder, decoder": encoder_and_decoder, "lengths": with_lengths,
    "no batch": without_a_batch, "calls": calls_of_a_cell, "called twice": a_layer_called_twice, "loops in a loop": loops_in_a_loop,
    "own cell": own_cell, "embedded": embedded, "attention": with_attention,
    "embedded calls": in_plain_loop("embedded"), "changed between calls": in_plain_loop("masked"), "residual": in_plain_loop("residual"),
    "first state": first_state_of_the_weight,
    "layers of one weight": one_weight_in(layers=True), "one weight reads and writes": one_weight_in(layers=False),
}  # fmt: skip
each_case = pytest.mark.parametrize("case", CASES)


def of(loss: Any, params: dict[str, Any]) -> dict[str, Derivation]:
    return {name: explain(loss, p) for name, p in params.items()}


# ---- The sum -----------------------------------------------------------------------------------------------------------------------------


@each_case
def test_the_sum_of_products_is_the_gradient_of_the_tape(case: str) -> None:
    loss, params = CASES[case]()
    found = of(loss, params)
    assert all(p.grad is None for p in params.values())
    loss.backward()
    for name, derivation in found.items():
        largest = np.abs(params[name].grad.numpy()).max()
        assert np.abs(derivation.total - params[name].grad.numpy()).max() <= 1e-12 * (largest or 1), name
        assert derivation.check() <= 1e-12


@each_case
def test_every_term_is_what_the_uses_of_its_step_add(case: str) -> None:
    loss, params = CASES[case]()
    recurrent = 0
    for derivation in of(loss, params).values():
        for loop in derivation.loops:
            assert not loop.inexact
            for link in loop.links:
                through = link.of_tape - (0 if link.aside is None else link.aside)
                np.testing.assert_allclose(link.term, through, rtol=1e-10, atol=1e-13)
                recurrent += 1
    assert recurrent >= T


@pytest.mark.parametrize("case", ["rnn", "lstm", "gru", "two cells"])
def test_unfolded_and_compiled_loops_are_derived_alike(case: str) -> None:
    compiled = of(*CASES[case]())
    with tg.unfolded():
        unfolded = of(*CASES[case]())
    for name, derivation in compiled.items():
        assert str(derivation) == str(unfolded[name])


def test_the_gradient_equals_central_differences() -> None:
    def loss_at(w: np.ndarray) -> Any:
        net = nn.GRU(D, H, dtype="float64", rng=1)
        with tg.no_grad():
            net.weight_hh_l0[...] = w
        hs, _ = net(numbers(T, B, D))
        return (hs**2).sum(), net.weight_hh_l0

    loss, W = loss_at(numbers(3 * H, H, seed=5))
    step = 1e-6 * numbers(3 * H, H, seed=6)
    plus, minus = (loss_at(W.numpy() + s * step)[0].item() for s in (1, -1))
    assert (explain(loss, W).total * step).sum() == pytest.approx((plus - minus) / 2, rel=1e-6)


# ---- The factors ---------------------------------------------------------------------------------------------------------------------------


def rnn_by_hand() -> tuple[Any, list[np.ndarray], np.ndarray, np.ndarray]:
    net = nn.RNN(D, H, dtype="float64", rng=1)
    xs = numbers(T, B, D)
    w_ih, w_hh, b_ih, b_hh = (p.numpy() for p in net.parameters())
    h = [np.zeros((B, H))]
    for x in xs:
        h.append(np.tanh(x @ w_ih.T + b_ih + h[-1] @ w_hh.T + b_hh))
    hs, _ = net(xs)
    return explain((hs[-1] ** 2).sum(), net.weight_hh_l0), h, w_hh, 2 * h[-1]


def test_the_factors_of_a_simple_network_are_those_of_the_notes() -> None:
    derivation, h, w_hh, at_the_end = rnn_by_hand()
    (loop,) = derivation.loops
    assert [link.time for link in loop.links] == [1, 2, 3] and loop.parts == {"h": slice(0, H)}
    arrived = at_the_end
    for t, link in zip((3, 2, 1), reversed(loop.links), strict=True):
        np.testing.assert_allclose(link.direct, at_the_end if t == 3 else 0 * at_the_end)
        np.testing.assert_allclose(link.arrived, arrived, rtol=1e-12)
        jacobian = np.stack([np.diag(1 - row**2) @ w_hh for row in h[t]])
        np.testing.assert_allclose(link.jacobian, jacobian, rtol=1e-12)
        np.testing.assert_allclose(link.term, (arrived * (1 - h[t] ** 2)).T @ h[t - 1], rtol=1e-11, atol=1e-14)
        # dh_t[b, i]/dW_hh[i, :] = (1 - h_t[b, i]²) h_(t-1)[b, :], and nothing for the other rows of W_hh
        immediate = np.einsum("bi,bj->bij", 1 - h[t] ** 2, h[t - 1])
        assert link.immediate == pytest.approx(np.linalg.norm(immediate), rel=1e-12)
        arrived = np.einsum("bi,bij->bj", arrived, jacobian)


def test_the_first_term_is_zero_where_the_first_state_is() -> None:
    derivation, *_ = rnn_by_hand()
    assert not derivation.loops[0].links[0].term.any() and derivation.loops[0].links[1].term.any()


def test_what_a_tied_weight_does_past_the_state_is_told_apart() -> None:
    loss, params = tied()
    derivation = explain(loss, params["W"])
    W = params["W"].numpy()
    h = [numbers(B, H, seed=1)]
    for x in numbers(T, B, H, seed=2):
        h.append(np.tanh(x + h[-1] @ W))
    for link, state in zip(derivation.loops[0].links, h[1:], strict=True):
        np.testing.assert_allclose(link.aside, 2 * state.T @ (state @ W), rtol=1e-12)
    assert "past the state" in str(derivation)


# ---- The equations: what they say is computed ------------------------------------------------------------------------------------------------


def spelled(text: str) -> str:
    return text.replace("_(t-1)", "_old").replace("_(t+1)", "_old")


@pytest.mark.parametrize("kind", [nn.RNN, nn.LSTM, nn.GRU])
def test_the_equations_of_a_step_say_what_the_step_computes_and_sends_back(kind: Any) -> None:
    net = kind(D, H, dtype="float64", rng=1)
    hs, _ = net(numbers(T, B, D))
    (loop,) = explain((hs**2).sum(), net.weight_hh_l0).loops
    cell = {nn.RNN: F.rnn_step, nn.LSTM: F.lstm_step, nn.GRU: F.gru_step}[kind]
    x, old = numbers(B, D, seed=3), [numbers(B, H, seed=4 + k) for k in range(len(loop.parts))]
    leaves = [tg.Tensor(a, requires_grad=True) for a in old]
    new = cell(x, *leaves, *net.parameters())
    new = new if isinstance(new, tuple) else (new,)
    letters = {"x_t": x} | {f"{part}_old": a for part, a in zip(loop.parts, old, strict=True)}
    letters |= dict(zip(("W_ih", "W_hh", "b_ih", "b_hh"), (p.numpy() for p in net.parameters()), strict=True))
    for left, right in loop.forward:
        letters[left] = say(spelled(right), letters)
    for part, theirs in zip(loop.parts, new, strict=True):
        np.testing.assert_allclose(letters[f"{part}_t"], theirs.numpy(), rtol=1e-12)

    arriving = [numbers(B, H, seed=7 + k) for k in range(len(new))]
    found = tg.grad(list(new), [*leaves, net.weight_hh_l0], arriving)
    letters |= {f"d{part}_t": g for part, g in zip(loop.parts, arriving, strict=True)}
    sent = {}
    for left, right in loop.backward:
        value = say(spelled(right), letters)
        value = np.concatenate(value, axis=-1) if isinstance(value, tuple) else value
        letters[left], sent[left] = value, value
    for end, theirs in zip([*(f"to {part}_(t-1)" for part in loop.parts), "to W_hh"], found, strict=True):
        np.testing.assert_allclose(sent[end], theirs.numpy(), rtol=1e-11, atol=1e-14, err_msg=end)


def test_a_simple_network_reads_as_the_lecture_notes() -> None:
    text = str(rnn_by_hand()[0])
    for line in (
        "h_t = tanh(x_t W_ih^T + b_ih + h_(t-1) W_hh^T + b_hh)",
        "so dh_t/dh_(t-1) = diag(1 - h_t²) W_hh",
        "dL/dW_hh = Σ_(k=1..3) ∂L/∂h_3 [Π_(j=k+1..3) dh_j/dh_(j-1)] ∂h_k/∂W_hh",
        "3   ∂L/∂h_3 ∂h_3/∂W_hh",
        "2   ∂L/∂h_3 dh_3/dh_2 ∂h_2/∂W_hh",
        "1   ∂L/∂h_3 dh_3/dh_2 dh_2/dh_1 ∂h_1/∂W_hh",
        "(2, 4)       (2, 4, 4)     (2, 4)   (2, 4, 4, 4)",
    ):
        assert line in text, line


def test_an_lstm_says_which_states_carry_and_sends_back_what_the_notes_derive() -> None:
    loss, params = CASES["lstm"]()
    text = str(explain(loss, params["weight_hh_l0"]))
    for line in (
        "s_t = (h_t, c_t) carries from step to step (h 4, c 4 numbers in each of 2 rows)",
        "c_t = f_t ⊙ c_(t-1) + i_t ⊙ g_t",
        "h_t = o_t ⊙ tanh(c_t)",
        "to c_(t-1) = ε_t ⊙ f_t",
        "δ_t        = (δi_t, δf_t, δg_t, δo_t)",
        "to W_hh    = δ_t^T h_(t-1)",
        "1   (∂L/∂s_1 + ∂L/∂s_2 ds_2/ds_1 + ∂L/∂s_3 ds_3/ds_2 ds_2/ds_1) ∂s_1/∂W_hh",
    ):
        assert line in text, line


def test_a_reverse_chain_reads_from_the_end_to_the_beginning() -> None:
    loss, params = CASES["bidirectional"]()
    text = str(explain(loss, params["weight_hh_l0_reverse"]))
    assert "t = 3..1, backwards" in text
    assert "Σ_(t=1..3) Σ_(k=t..3) ∂L/∂h_t [Π_(j=t..k-1) dh_j/dh_(j+1)] ∂h_k/∂W_hh^←" in text


def test_a_weight_outside_every_state_is_the_sum_of_its_uses() -> None:
    loss, params = CASES["rnn loop"]()
    derivation = explain(loss, params["V"])
    assert not derivation.loops and [term.time for term in derivation.rest] == [1, 2, 3]
    assert "y = a b^T, b the weight: dL/db = g^T a" in str(derivation)


# ---- Long, large, wrong --------------------------------------------------------------------------------------------------------------------


def long_lstm() -> Derivation:
    net = nn.LSTM(D, H, dtype="float64", rng=1)
    hs, _ = net(numbers(200, B, D))
    return explain((hs**2).sum(), net.weight_hh_l0)


def test_a_use_beside_others_names_the_right_argument() -> None:
    w = tg.Tensor(numbers(B, H), requires_grad=True)
    loss = (tg.where(numbers(B, H, seed=1) > 0, w, 0.0) * numbers(B, H, seed=2)).sum()
    assert "a the weight: dL/da = where(condition, g, 0)" in str(explain(loss, w))


def test_two_hundred_steps_are_elided_and_add_up() -> None:
    derivation = long_lstm()
    lines = str(derivation).split("\n")
    assert derivation.check() < 1e-12 and len(derivation.loops[0].links) == 200
    assert len(lines) < 70 and max(map(len, lines)) < 130
    terms = [line.split()[0] for line in lines if re.match(r" +\S+ +\(?∂L/∂s_", line)]
    assert [t for t in terms if t.isdigit()] == ["200", "199", "198", "3", "2", "1"]
    assert sum("⋯" in line for line in lines) > 4
    assert len(derivation.text(full=True).split("\n")) > 400


@pytest.mark.parametrize("case", ["rnn", "lstm", "gru", "bidirectional", "stacked", "rnn loop", "two cells"])
def test_latex_is_ascii_balanced_and_has_one_superscript_at_a_time(case: str) -> None:
    for derivation in of(*CASES[case]()).values():
        text = derivation.latex()
        assert text.isascii() and text.startswith("\\begin{align*}") and text.endswith("\\end{align*}")
        depth = 0
        for sign in re.findall(r"(?<!\\)[{}]", text):
            depth += 1 if sign == "{" else -1
            assert depth >= 0
        assert depth == 0 and text.count(r"\Bigl") == text.count(r"\Bigr")
        assert not re.search(r"\^(\{[^{}]*\}|\w)\^", text)
        assert all(line.count("&") >= 1 for line in text.split("\n")[1:-1])


@pytest.mark.parametrize("name", ["attn_in_proj", "a b", "{", "x_{", "日本", "50%", "\\\\end", "W_hh_new", "weight"])
def test_latex_of_weights_with_other_names(name: str) -> None:
    W, h = tg.Tensor(0.5 * numbers(H, H), requires_grad=True), tg.Tensor(numbers(B, H, seed=1))
    W.name = name
    for x in tg.steps(numbers(T, B, H, seed=2)):
        h = tg.tanh(x + h @ W)
    derivation = explain((h**2).sum(), W)
    text = derivation.latex()
    assert derivation.check() < 1e-12
    assert len(re.findall(r"(?<!\\){", text)) == len(re.findall(r"(?<!\\)}", text))
    assert not re.search(r"_\{?\w+\}?_", text.replace(r"\_", "")) and not re.search(r"(?<!\\)%", text)


def test_latex_of_a_simple_network() -> None:
    text = rnn_by_hand()[0].latex()
    assert r"\sum_{k=1}^{3} \frac{\partial L}{\partial h_{3}} \Bigl[\prod_{j=k+1}^{3} \frac{dh_{j}}{dh_{j-1}}\Bigr]" in text
    assert r"W_{hh}^{\top}" in text and r"\frac{\partial h_{k}}{\partial W_{hh}}" in text


def test_jacobians_that_are_too_large_are_left_out_and_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    exact = rnn_by_hand()[0]
    monkeypatch.setattr("tinygrad_seq.bptt.derivation.LARGEST", 10)
    derivation = rnn_by_hand()[0]
    assert derivation.check() < 1e-12 and derivation.loops[0].links[-1].jacobian is None
    for one, other in zip(derivation.loops[0].links, exact.loops[0].links, strict=True):
        np.testing.assert_allclose(one.arrived, other.arrived, rtol=1e-12)
    assert "too large to be made: dL/dh_t was pulled back step by step" in str(derivation)


def test_rows_that_depend_on_each_other_have_no_jacobians_of_their_own() -> None:
    W, h = tg.Tensor(0.5 * numbers(H, H), requires_grad=True), tg.Tensor(numbers(B, H, seed=1))
    for x in tg.steps(numbers(T, B, H, seed=2)):
        a = x + h @ W
        h = tg.tanh(a - a.mean(axis=0))
    derivation = explain((h**2).sum(), W)
    assert derivation.check() < 1e-12 and "A row of the batch depends on another row" in str(derivation)
    np.testing.assert_allclose(derivation.loops[0].links[-1].arrived, 2 * h.numpy())


def test_what_cannot_be_derived_says_what_to_do() -> None:
    loss, params = CASES["rnn"]()
    with pytest.raises(GraphError, match="not computed from"):
        explain(loss, nn.RNN(D, H, dtype="float64").weight_hh_l0)
    with pytest.raises(GraphError, match="nothing was recorded"):
        explain(tg.tensor(1.0), params["weight_hh_l0"])
    with pytest.raises(GraphError, match="no scalar"):
        explain(loss * np.ones(2), params["weight_hh_l0"])
    with pytest.raises(GraphError, match=r"(?s)W was computed by transpose.*explain\(loss, parameter\)"):
        explain(loss, params["weight_hh_l0"].T)


def test_a_loop_over_calls_of_a_cell_reads_as_one_over_steps() -> None:
    loss, params = calls_of_a_cell()
    text = str(explain(loss, params["weight_hh"]))
    assert "GRUCell, t = 1..3" in text and "∂L/∂h_3 dh_3/dh_2 dh_2/dh_1 ∂h_1/∂W_hh" in text


def test_what_a_weight_before_the_loop_gets_comes_through_the_input_of_a_step() -> None:
    loss, params = embedded()
    (loop,) = explain(loss, params["table"]).loops
    assert dict(loop.backward)["to x_t"] == "δ_t W_ih"
    (loop,) = explain(loss, params["bias_hh_l0"]).loops
    assert dict(loop.backward)["to b_hh"] == "Σ_rows δ_t"


def test_the_lines_of_a_cell_of_ones_own() -> None:
    loss, params = own_cell()
    (loop,) = explain(loss, params["W"]).loops
    assert loop.forward[0] == ("a_t", "σ(x_t U^T + h_(t-1) W^T)")
    assert dict(loop.backward)["to W"] == "δ_t^T b_t + ε_t^T h_(t-1)"


def test_the_package_exposes_it() -> None:
    assert tg.bptt.explain is bptt.explain
    assert "print it" in repr(rnn_by_hand()[0])


def test_a_step_inside_recompute_has_numbers_and_no_equations() -> None:
    W, h = tg.Tensor(0.5 * numbers(H, H), requires_grad=True), tg.zeros((B, H), dtype="float64")
    step = tg.recompute(lambda x, h: tg.tanh(x + h @ W))
    for x in tg.steps(numbers(T, B, H)):
        h = step(x, h)
    derivation = explain((h**2).sum(), W)
    assert derivation.check() < 1e-12 and len(derivation.loops[0].links) == T and "sum of all terms" in str(derivation)
    assert derivation.loops[0].forward == [] and derivation.latex()
