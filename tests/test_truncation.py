"""Truncated BPTT in a graph that is there: against PyTorch with detach(), training on windows, and graphs recorded anew."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from random_cells import arrays_of, cells_and_calls

import tinygrad_seq as tg
from tinygrad_seq import bptt, nn, training
from tinygrad_seq.errors import ArgumentError, GraphError, ShapeError
from tinygrad_seq.nn import functional as F
from tinygrad_seq.testing import check_grads

try:
    import torch
except ImportError:
    torch = None

against_torch = pytest.mark.skipif(torch is None, reason="compares with PyTorch, which is not installed: pip install torch==2.13.0")

# ---- cut: the rows of a state --------------------------------------------------------------------------------------------------------


def test_cut_stops_the_gradient_of_the_rows_that_begin_anew_and_of_no_other():
    h = tg.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], requires_grad=True)
    c = tg.ones(3, requires_grad=True)
    state = training.cut((h, {"c": c}), rows=[True, False, True])
    assert state[0].tolist() == h.tolist() and state[1]["c"].tolist() == c.tolist()
    ((state[0] ** 2).sum() + 3 * state[1]["c"].sum()).backward()
    assert h.grad.tolist() == [[0, 0], [6, 8], [0, 0]] and c.grad.tolist() == [0, 3, 0]
    gradient = tg.grad((training.cut(h, rows=np.array([True, False, True])) ** 3).sum(), h, create_graph=True)
    assert tg.grad(gradient.sum(), h).tolist() == [[0, 0], [18, 24], [0, 0]]  # second derivatives of the row that goes on
    check_grads(lambda x: training.cut(x, rows=[False, False]) ** 2, [np.ones((2, 3))])


def test_cut_says_which_rows_it_wants():
    with pytest.raises(ShapeError, match="booleans"):
        training.cut(tg.ones(3), rows=[0, 2])
    with pytest.raises(ShapeError, match=r"no 2 rows"):
        training.cut(tg.ones((3, 2)), rows=[True, False])


# ---- The same model trained with detach at those places ------------------------------------------------------------------------------

T, B, D, H = 7, 3, 2, 4
KINDS = [nn.RNN, nn.LSTM, nn.GRU]


def data(seed=0, steps=T):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(steps, B, D)), rng.normal(size=(steps, B, H))


def made(kind, **keywords):
    tg.seed(1)
    return kind(D, H, dtype="float64", **keywords)


def detached(state, rows=None):
    def part(h):
        return h.detach() if rows is None else h.where(~torch.tensor(rows)[:, None], h.detach())

    return [tuple(part(a) for a in h) if isinstance(h, tuple) else part(h) for h in state]


def torch_model(net):
    """The layers as PyTorch's cells, one step at a time, and their weights in our order."""
    cells = []
    for layer in range(net.num_layers):
        kind = getattr(torch.nn, type(net).__name__ + "Cell")
        cell = kind(D if layer == 0 else H, H, dtype=torch.float64)
        with torch.no_grad():
            for name, p in cell.named_parameters():
                p.copy_(torch.tensor(getattr(net, f"{name}_l{layer}").numpy().copy()))
        cells.append(cell)

    def step(x, state):
        new = []
        for cell, h in zip(cells, state, strict=True):
            new.append(cell(x, h))
            x = new[-1][0] if isinstance(new[-1], tuple) else new[-1]
        return x, new

    names = [name.rsplit("_l", 1) for name, _ in net.named_parameters()]
    weights = [getattr(cells[int(layer)], name) for name, layer in names]
    zeros = torch.zeros(B, H, dtype=torch.float64)
    return step, [(zeros, zeros) if isinstance(net, nn.LSTM) else zeros for _ in cells], weights


def largest_difference(ours, theirs):
    return max(float(np.abs(a.numpy() - np.asarray(b)).max()) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.torch
@against_torch
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layers", [1, 2])
def test_chunks_are_pytorch_with_the_state_detached(kind, layers):
    net, (xs, ys) = made(kind, num_layers=layers), data()
    loss = ((net(xs)[0] - ys) ** 2).sum()
    for k in (1, 3):
        step, state, weights = torch_model(net)
        total = 0
        for t in range(T):
            state = detached(state) if t % k == 0 else state
            h, state = step(torch.tensor(xs[t]), state)
            total = total + ((h - torch.tensor(ys[t])) ** 2).sum()
        total.backward()
        assert largest_difference(bptt.truncate(loss, k).grads(list(net.parameters())), [w.grad for w in weights]) < 1e-12


@pytest.mark.torch
@against_torch
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("k1", "k2"), [(1, 1), (1, 3), (2, 3), (3, 5)])
def test_windows_are_pytorch_run_anew_from_a_detached_state_for_each_block_of_losses(kind, k1, k2):
    net, (xs, ys) = made(kind, num_layers=2), data()
    loss = ((net(xs)[0] - ys) ** 2).sum()
    step, start, weights = torch_model(net)
    for end in range(k1, T + k1, k1):
        state = start
        for t in range(min(end, T)):
            state = detached(state) if t <= end - k2 else state
            h, state = step(torch.tensor(xs[t]), state)
            if t >= end - k1:
                ((h - torch.tensor(ys[t])) ** 2).sum().backward(retain_graph=True)
    truncation = bptt.truncate(loss, k1, k2)
    assert largest_difference(truncation.grads(list(net.parameters())), [w.grad for w in weights]) < 1e-12
    assert truncation.windows[-1] == ((T - 1) // k1 * k1 + 1, T, max((T - 1) // k1 * k1 + k1 - k2, 0) + 1)


@pytest.mark.torch
@against_torch
@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_the_batch_are_cut_where_their_sequences_end(kind):
    net, (xs, ys) = made(kind, num_layers=2), data()
    loss = ((net(xs)[0] - ys) ** 2).sum()
    ended = np.random.default_rng(3).random((T, B)) < 0.4
    step, state, weights = torch_model(net)
    total = 0
    for t in range(T):
        state = detached(state, ended[t - 1]) if t else state
        h, state = step(torch.tensor(xs[t]), state)
        total = total + ((h - torch.tensor(ys[t])) ** 2).sum()
    total.backward()
    assert ended[:-1].any() and not ended[:-1].all()
    assert largest_difference(bptt.truncate(loss, at=ended).grads(list(net.parameters())), [w.grad for w in weights]) < 1e-12


def test_some_rows_alone_and_all_rows_by_their_numbers():
    net, (xs, _) = made(nn.GRU), data()
    row_losses = [(net(xs)[0][:, b] ** 2).sum() for b in range(B)]
    loss = (net(xs)[0] ** 2).sum()
    weights = list(net.parameters())
    cut, whole = (bptt.truncate(row_losses[1], 2).grads(weights), [tg.grad(row_losses[b], weights) for b in (0, 2)])
    expected = [a.numpy() + b.numpy() + c.numpy() for a, b, c in zip(cut, *whole, strict=True)]
    assert largest_difference(bptt.truncate(loss, 2, rows=[1]).grads(weights), expected) < 1e-12
    assert largest_difference(bptt.truncate(loss, 2, rows=[False, True, False]).grads(weights), expected) < 1e-12
    everyone = bptt.truncate(loss, 2, rows=range(B)).grads(weights)
    assert largest_difference(everyone, [g.numpy() for g in bptt.truncate(loss, 2).grads(weights)]) < 1e-12


# ---- Training on windows, and closed forms -------------------------------------------------------------------------------------------


@settings(max_examples=15)
@given(st.integers(1, 9), st.integers(1, 5), st.integers(0, 5), st.sampled_from(KINDS))
def test_it_is_the_gradient_that_tbptt_trains_with(steps, k1, more, kind):
    net, batch = made(kind), data(steps=steps)

    def step(window, state):
        hs, state = net(window[0], state)
        return ((hs - window[1]) ** 2).sum(), state

    weights = list(net.parameters())
    parts = [tg.grad(loss, weights) for loss in training.tbptt(k1, k1 + more)(step, batch)]
    expected = [sum(g.numpy() for g in column) for column in zip(*parts, strict=True)]
    truncation = bptt.truncate(step(batch, None)[0], k1, k1 + more)
    assert largest_difference(truncation.grads(weights), expected) < 1e-11


@pytest.mark.parametrize("k", range(1, 8))
def test_a_linear_network_keeps_the_last_terms_of_its_sum(k):
    """h_t = w h_(t-1) + x_t: dh_T/dw = Σ_t w^(T-t) h_(t-1), of which the last k terms stay."""
    xs, number = np.arange(1.0, 8), 0.9
    w = tg.tensor(number, dtype="float64", requires_grad=True, name="w")
    h, hs = tg.zeros((), dtype="float64"), [0.0]
    for x in tg.steps(xs):
        h = w * h + x
        hs.append(h.item())
    terms = [number ** (7 - t) * hs[t - 1] for t in range(1, 8)]
    truncation = bptt.truncate(h, 1, k)
    assert truncation.grads(w).item() == pytest.approx(sum(terms[-k:]), rel=1e-14)
    difference = truncation.bias(w).total
    assert (difference.full, difference.truncated) == pytest.approx((sum(terms), sum(terms[-k:])), rel=1e-14)
    assert difference.relative_error == pytest.approx(sum(terms[:-k]) / sum(terms), abs=1e-14) and difference.cosine == 1


def manual(xs, ys, cell, out, k):
    """A loop of one's own, whose state is detached every k steps."""
    h, total = tg.zeros((B, H), dtype="float64"), 0.0
    for t, (x, y) in enumerate(tg.steps(list(zip(xs, ys, strict=True)))):
        h = cell(x, h.detach() if k and t % k == 0 else h)
        total = total + ((out(h) - y) ** 2).sum() / T
    return total


@pytest.mark.parametrize("k", [1, 2, 5])
def test_a_running_sum_of_losses_is_not_cut(k):
    cell, out = made(nn.GRUCell), nn.Linear(H, H, dtype="float64", rng=0)
    weights = [*cell.parameters(), *out.parameters()]
    expected = tg.grad(manual(*data(), cell, out, k), weights)
    assert largest_difference(bptt.truncate(manual(*data(), cell, out, 0), k).grads(weights), expected) < 1e-13


def test_a_sequence_read_in_pieces_is_one_sequence():
    """Every piece starts from the state of the one before, as where a state is carried from batch to batch."""
    net, (xs, _) = made(nn.LSTM, num_layers=2), data(steps=6)
    weights = list(net.parameters())
    whole = (net(xs)[0] ** 2).sum()
    pieces, state = 0.0, None
    for a, b in ((0, 2), (2, 3), (3, 6)):
        hs, state = net(xs[a:b], state)
        pieces = pieces + (hs**2).sum()
    one_by_one, state = 0.0, None
    for x in tg.steps(xs):  # as text is generated
        hs, state = net(x[None], state)
        one_by_one = one_by_one + (hs**2).sum()
    for k1, k2 in ((2, 2), (4, 4), (1, 3)):
        expected = [g.numpy() for g in bptt.truncate(whole, k1, k2).grads(weights)]
        for loss in (pieces, one_by_one):
            truncation = bptt.truncate(loss, k1, k2)
            assert truncation.steps == 6 and largest_difference(truncation.grads(weights), expected) < 1e-13


def test_a_decoder_counts_on_from_its_encoder_and_attention_is_not_cut():
    encoder, decoder, (xs, ys) = made(nn.GRUCell), made(nn.GRUCell), data()
    weights = [*encoder.parameters(), *decoder.parameters()]

    def run(k):
        h, hs, total = tg.zeros((B, H), dtype="float64"), [], 0.0
        for t, x in enumerate(tg.steps(xs)):
            h = encoder(x, h.detach() if k and t % k == 0 else h)
            hs.append(h)
        memory = tg.stack(hs)
        for t, y in enumerate(tg.steps(ys[:4]), T):
            h = decoder(y[:, :D], h.detach() if k and t % k == 0 else h)
            scores = tg.exp((memory * h).sum(-1))
            total = total + ((memory * (scores / scores.sum(0))[..., None]).sum(0) ** 2).sum() + (h**2).sum()
        return total

    for k in (3, 7):
        truncation = bptt.truncate(run(0), k)
        assert truncation.steps == T + 4 and largest_difference(truncation.grads(weights), tg.grad(run(k), weights)) < 1e-13
    assert {(cut.after, cut.before, cut.losses) for cut in bptt.truncate(run(0), 7).cuts} == {(7, 1, (8, 11))}


def test_a_layer_hands_its_last_state_to_a_decoder():
    encoder, decoder, (xs, ys) = made(nn.GRU), made(nn.GRUCell), data()
    weights = [*encoder.parameters(), *decoder.parameters()]

    def run(begin):
        h, total = begin(encoder(xs)[1][0]), 0.0
        for y in tg.steps(ys[:4]):
            h = decoder(y[:, :D], h)
            total = total + (h**2).sum()
        return total

    truncation = bptt.truncate(run(lambda h: h), 7)
    expected = tg.grad(run(lambda h: h.detach()), weights, allow_unused=True)
    found = truncation.grads(weights)
    assert all(not g.numpy().any() if e is None else np.allclose(g, e, rtol=1e-13) for g, e in zip(found, expected, strict=True))
    assert {(cut.after, cut.before) for cut in truncation.cuts} == {(None, 1)} and truncation.bias().cosine < 1


def plain(xs, ys, k, cell, out, inside):
    """Plain loops that say nothing of time, one after the other; the read-out inside of them or in a loop of its own."""
    h, total, count = tg.zeros((B, H), dtype="float64"), 0.0, 0
    for _ in range(2):
        hs = []
        for x in xs:
            h = cell(tg.tensor(x), h.detach() if k and count and count % k == 0 else h)
            hs.append(h)
            count += 1
            total = total + (out(h) ** 2).sum() if inside else total
        for h, y in zip(hs, ys, strict=True) if not inside else ():
            total = total + ((out(h) - y) ** 2).sum()
    return total


@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("k", [2, 3, 7])
def test_a_plain_loop_over_a_cell_has_steps_too(k, inside):
    cell, out, batch = made(nn.GRUCell), nn.Linear(H, H, dtype="float64", rng=0), data()
    weights = [*cell.parameters(), *out.parameters()]
    truncation = bptt.truncate(plain(*batch, 0, cell, out, inside), k)
    assert truncation.steps == 2 * T and {cut.before - cut.after for cut in truncation.cuts} == {1}
    assert largest_difference(truncation.grads(weights), tg.grad(plain(*batch, k, cell, out, inside), weights)) < 1e-13


def test_a_plain_loop_over_layers_that_make_up_a_cell():
    inner, outer = nn.Linear(D, H, dtype="float64", rng=0), nn.Linear(H, H, dtype="float64", rng=1)
    embed, (xs, _) = nn.Linear(D, D, dtype="float64", rng=2), data()
    weights = [*inner.parameters(), *outer.parameters(), *embed.parameters()]

    def run(k):
        h, both = tg.zeros((B, H), dtype="float64"), [embed(xs), embed(xs[::-1])]  # called twice, and no step for that
        for t in range(T):
            h = tg.tanh(inner(both[0][t] + both[1][t]) + outer(h.detach() if k and t % k == 0 else h))
        return (h**2).sum()

    for k in (2, 3):
        assert largest_difference(bptt.truncate(run(0), k).grads(weights), tg.grad(run(k), weights)) < 1e-13
    assert bptt.truncate(run(0), 3).steps == T


def test_a_layer_over_the_states_of_a_loop_does_not_go_on_from_it():
    lower, upper, (xs, _) = made(nn.GRUCell), nn.GRUCell(H, H, dtype="float64", rng=0), data()
    weights = [*lower.parameters(), *upper.parameters()]

    def run(k, order):
        h, hs, total = tg.zeros((B, H), dtype="float64"), [], 0.0
        for t, x in enumerate(tg.steps(xs)):
            h = lower(x, h.detach() if k and t % k == 0 else h)
            hs.append(h)
        h = tg.zeros((B, H), dtype="float64")
        for t, x in enumerate(tg.steps(hs[::order])):
            h = upper(x, h.detach() if k and t % k == 0 else h)
            total = total + (h**2).sum()
        return total

    for order in (1, -1):
        truncation = bptt.truncate(run(0, order), 3)
        assert truncation.steps == T
        assert largest_difference(truncation.grads(weights), tg.grad(run(3, order), weights)) < 1e-13


def test_both_directions_are_cut_as_they_run():
    net, (xs, ys) = made(nn.RNN, bidirectional=True), data(steps=5)
    loss = ((net(xs)[0][..., :H] - ys[:5]) ** 2).sum() + ((net(xs)[0][..., H:] - ys[:5]) ** 2).sum()
    weights = dict(net.named_parameters())

    def chain(order, suffix, k):
        h, total = tg.zeros((B, H), dtype="float64"), 0.0
        w = [weights[f"{name}_l0{suffix}"] for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
        for i, t in enumerate(order):
            h = F.rnn_step(xs[t], h.detach() if i % k == 0 else h, *w)
            total = total + ((h - ys[t]) ** 2).sum()
        return total

    for k in (2, 3):
        both = chain(range(5), "", k) + chain(range(4, -1, -1), "_reverse", k)
        found = bptt.truncate(loss, k).grads(weights)
        expected = tg.grad(both, list(weights.values()))
        assert largest_difference(found.values(), expected) < 1e-12
    afters = {(c.after, c.before) for c in bptt.truncate(loss, 2).cuts if "reverse" in c.place}
    assert afters == {(4, 3), (2, 1)}


def test_rows_of_different_lengths_and_states_that_stand_still():
    net, (xs, _) = made(nn.LSTM, num_layers=2), data()
    lengths = [7, 2, 5]
    weights = list(net.parameters())
    loss = (net(xs, lengths=lengths)[0] ** 2).sum()
    singles = [(net(xs[:n, b : b + 1])[0] ** 2).sum() for b, n in enumerate(lengths)]
    for k1, k2 in ((2, 2), (1, 3)):
        expected = [sum(g.numpy() for g in column) for column in zip(*(bptt.truncate(s, k1, k2).grads(weights) for s in singles))]
        assert largest_difference(bptt.truncate(loss, k1, k2).grads(weights), expected) < 1e-12


def test_a_state_of_several_steps_ago_is_cut_too():
    net, (xs, _) = made(nn.RNN, taps=3), data()
    w = list(net.parameters())

    def run(k):
        past, total = [tg.zeros((B, H), dtype="float64")] * 3, 0.0
        for t, x in enumerate(tg.steps(xs)):
            past = [h.detach() for h in past] if k and t % k == 0 else past
            past = [F.taps_step(x, *past, *w, taps=3)[0], *past[:2]]
            total = total + (past[0] ** 2).sum()
        return total

    expected = tg.grad(run(3), w)
    assert largest_difference(bptt.truncate(run(0), 3).grads(w), expected) < 1e-13
    assert largest_difference(bptt.truncate((net(xs)[0] ** 2).sum(), 3).grads(w), expected) < 1e-13


# ---- What it says, and what it leaves alone ------------------------------------------------------------------------------------------


def test_the_cuts_are_edges_of_the_tape_between_two_steps():
    net, (xs, _) = made(nn.LSTM, num_layers=2), data()
    truncation = bptt.truncate((net(xs)[0] ** 2).sum(), 3)
    on_tape = set(tg.toposort([truncation.tape]))
    assert {(c.after, c.before, c.losses) for c in truncation.cuts} == {(3, 4, (4, 6)), (6, 7, (7, 7))}
    assert {c.place for c in truncation.cuts} == {"LSTM > layer 0", "LSTM > layer 1"}
    assert all(c.node in on_tape and c.node.args[c.position] in on_tape for c in truncation.cuts)
    assert len(truncation.cuts) == 2 * 2 * 2  # h and c, two layers, two places
    sliding = bptt.truncate((net(xs)[0] ** 2).sum(), 2, 4)
    assert {(c.after, c.losses) for c in sliding.cuts} == {(2, (5, 6)), (4, (7, 7))}
    assert sliding.windows == [(1, 2, 1), (3, 4, 1), (5, 6, 3), (7, 7, 5)]
    assert sliding.table().splitlines()[3:] == [
        "  the losses of the steps 5 ... 6 go back to step 3",
        "  the loss of step 7 goes back to step 5",
    ]


def test_through_all_steps_nothing_is_lost_and_bias_names_every_parameter():
    net, (xs, _) = made(nn.GRU), data()
    bias = bptt.truncate((net(xs)[0] ** 2).sum(), T).bias()
    assert bias.cosine == pytest.approx(1, abs=1e-12) and bias.relative_error < 1e-14
    assert list(bias.rows) == [name for name, _ in net.named_parameters()]
    cut = bptt.truncate((net(xs)[0] ** 2).sum(), 1).bias(net)
    full, left = (np.concatenate([g.numpy().ravel() for g in gs]) for gs in (full_and_cut(net, xs)))
    assert cut.cosine == pytest.approx(full @ left / np.linalg.norm(full) / np.linalg.norm(left), rel=1e-12)
    assert cut.relative_error == pytest.approx(np.linalg.norm(full - left) / np.linalg.norm(full), rel=1e-12)
    assert "weight_hh_l0" in cut.table() and "all together" in repr(cut)


def test_parameters_of_one_name_are_told_apart():
    cell, outs, (xs, _) = made(nn.RNNCell), [nn.Linear(H, 2, bias=False, dtype="float64", rng=i) for i in (0, 1)], data()
    h = tg.zeros((B, H), dtype="float64")
    for x in tg.steps(xs):
        h = cell(x, h)
    truncation = bptt.truncate((outs[0](h) * outs[1](h)).sum(), np.int64(2))
    names = ["weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight #1", "weight #2"]
    assert sorted(truncation.bias().rows) == sorted(truncation.grads()) == sorted(names)
    first, second = (truncation.grads()[f"weight #{i}"].numpy() for i in (1, 2))
    expected = tg.grad((outs[0](h) * outs[1](h)).sum(), [o.weight for o in outs])
    assert largest_difference(expected, [first, second]) < 1e-14


def full_and_cut(net, xs):
    loss = (net(xs)[0] ** 2).sum()
    return tg.grad(loss, list(net.parameters())), bptt.truncate(loss, 1).grads(list(net.parameters()))


def test_it_reads_and_changes_nothing():
    net, (xs, _) = made(nn.LSTM), data()
    loss = (net(xs)[0] ** 2).sum()
    tape = [(node, list(node.args), node.order) for node in tg.toposort([loss])]
    before = [g.numpy().copy() for g in tg.grad(loss, list(net.parameters()))]
    truncation = bptt.truncate(loss, 1, 3)
    truncation.grads(), truncation.bias()
    assert [(node, list(node.args), node.order) for node in tg.toposort([loss])] == tape
    assert all(p.grad is None for p in net.parameters())
    assert largest_difference(tg.grad(loss, list(net.parameters())), before) == 0
    again = truncation.grads(net)
    assert largest_difference(again.values(), [g.numpy() for g in truncation.grads(list(net.parameters()))]) == 0


def test_wrong_calls_say_what_to_do():
    net, (xs, _) = made(nn.GRU), data()
    hs = net(xs)[0]
    with pytest.raises(ShapeError, match="1 <= k1 <= k2"):
        bptt.truncate(hs.sum(), 3, 2)
    with pytest.raises(ShapeError, match="sum"):
        bptt.truncate(hs, 3)
    with pytest.raises(ArgumentError, match="at="):
        bptt.truncate(hs.sum())
    with pytest.raises(ShapeError, match=r"between 1 and 6"):
        bptt.truncate(hs.sum(), at=[7])
    with pytest.raises(ShapeError, match="3 booleans"):
        bptt.truncate(hs.sum(), 2, rows=[5]).grads()
    with pytest.raises(GraphError, match=r"tg\.steps"):
        bptt.truncate((nn.Linear(2, 2)(np.ones((1, 2), "float32"))).sum(), 2)
    with pytest.raises(GraphError, match="not computed from"):
        bptt.truncate(hs.sum(), 2).grads(tg.ones(2, requires_grad=True))
    stacked = made(nn.GRU, num_layers=2, bidirectional=True)
    loss = stacked(xs)[0].sum()
    assert len(bptt.truncate(loss, 2).grads()) == 16
    with pytest.raises(GraphError, match="runs the other way"):
        bptt.truncate(loss, 1, 2)


def test_on_a_device_it_is_the_same(device_xp):
    net, (xs, _) = made(nn.GRU), data()

    def ask(xs):
        with tg.unfolded():  # as loops run on a device
            loss = (net(xs)[0] ** 2).sum()
        ended = np.zeros((T, B), bool)
        ended[3, 1] = True
        return [bptt.truncate(loss, *k, at=at).bias().total for k, at in (((2,), None), ((1, 3), None), ((), ended))], bptt.held(
            loss
        ).total

    here = ask(xs)
    net.to(tg.backend.device_of(device_xp.zeros(1)))
    there = ask(device_xp.asarray(xs))
    assert here[1] == there[1] and np.allclose(here[0], there[0], rtol=1e-12)


@settings(max_examples=40)
@given(cells_and_calls(), st.integers(1, 4))
def test_random_cells_in_chunks_are_as_run_in_chunks(drawn, k):
    """Any number of states, from either end, rows of any length: the whole graph cut, and chunk by chunk from detached states."""
    cell, call = drawn
    assume(
        cell.returned[0] > len(cell.widths)
    )  # what a step hands on unchanged was made by an earlier step, of which it is an output
    xs, states, weights = arrays_of(cell, call)
    weights = [tg.tensor(a, requires_grad=True) for a in weights]
    times = list(range(call.T))

    def run(chunks, begin):
        state, total = tuple(map(tg.tensor, states)), 0.0
        for a, b in chunks:
            lengths = None if call.lengths is None else np.clip(np.array(call.lengths) - a, 0, b - a)
            state = begin(state if isinstance(state, tuple) else (state,))
            hs, state, *_ = tg.scan(
                cell,
                xs[a:b],
                state if len(state) > 1 else state[0],
                weights,
                lengths=lengths,
                reverse=call.reverse,
                collect=bool(cell.collected),
            )
            total = total + (hs * hs).sum()
        return total

    chunks = [(a, min(a + k, call.T)) for a in times[::k]]
    if call.reverse:
        chunks = [(call.T - b, call.T - a) for a, b in chunks]
    loss = run([(0, call.T)], lambda h: h)
    if getattr(loss, "node", None) is None:
        return
    expected = tg.grad(run(chunks, training.cut), weights, allow_unused=True)
    used = set(tg.toposort(bptt.tape_of(loss)))
    for w, e in zip(weights, expected, strict=True):
        if w.node in used:
            found = bptt.truncate(loss, k).grads(w).numpy()
            assert np.allclose(found, 0 if e is None else e.numpy(), rtol=1e-9, atol=1e-11), cell
