"""Which step is which where nobody said so, and where loops stand in loops: truncated gradients against graphs with detach() written by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tinygrad_seq as tg
from tinygrad_seq import nn
from tinygrad_seq.bptt import copies, explain, flow, ledger, temporal_jacobians, truncate
from tinygrad_seq.errors import GraphError

T, B, H = 6, 3, 4
RNG = np.random.default_rng(0)
XS, YS = RNG.standard_normal((T, B, H)), RNG.standard_normal((T, B, H))
ZERO = np.zeros((B, H))

Stop = Callable[[Any, int], Any]


class Cell(nn.Module):
    """tanh(x U + h W)."""

    def __init__(self, seed: int = 0):
        rng = np.random.default_rng(seed)
        self.U, self.W = (nn.Parameter(0.5 * rng.standard_normal((H, H))) for _ in range(2))

    def forward(self, x: Any, h: Any) -> Any:
        return tg.tanh(x @ self.U + h @ self.W)


def detach_every(k: int) -> Stop:
    """What a user writes: the state before the steps k+1, 2k+1, ... is detached."""
    return lambda h, t: h.detach() if t > 1 and t % k == 1 % k and isinstance(h, tg.Tensor) else h


def never(h: Any, t: int) -> Any:
    return h


def residual(cell: Any, other: Any, stop: Stop) -> Any:
    """What is added between the calls is of the step before, that behind the last call too."""
    h, total = tg.tensor(XS[0]), 0.0
    for t in range(1, T + 1):
        h = stop(h, t)
        h = h + cell(XS[t - 1], h)
        total = total + ((h - YS[t - 1]) ** 2).sum()
    return total


def residual_in_two_lines(cell: Any, other: Any, stop: Stop) -> Any:
    h = tg.tensor(XS[0])
    for t in range(1, T + 1):
        h = stop(h, t)
        h = 0.5 * h + cell(XS[t - 1], h) * 0.5
    return (h**2).sum()


def two_sequences(cell: Any, other: Any, stop: Stop) -> Any:
    """One cell reads one sequence, then another: the steps of both begin at 1."""
    total = 0.0
    for xs in (XS, YS[:5]):
        h = tg.tensor(ZERO)
        for t, x in enumerate(xs, 1):
            h = cell(x, stop(h, t))
        total = total + (h**2).sum()
    return total


def side_by_side(cell: Any, other: Any, stop: Stop) -> Any:
    """One cell reads two sequences at once."""
    h, g = tg.tensor(ZERO), tg.tensor(ZERO)
    for t in range(1, T + 1):
        h, g = cell(XS[t - 1], stop(h, t)), cell(YS[t - 1], stop(g, t))
    return ((h - g) ** 2).sum()


def both_ways(cell: Any, other: Any, stop: Stop) -> Any:
    """One cell reads a sequence forward and backward."""
    ends = []
    for xs in (XS, XS[::-1]):
        h = tg.tensor(ZERO)
        for t, x in enumerate(xs, 1):
            h = cell(x, stop(h, t))
        ends.append(h)
    return (ends[0] * ends[1]).sum()


def detached_once(cell: Any, other: Any, stop: Stop) -> Any:
    """A state that was detached goes on, and no sequence begins."""
    h, total = tg.tensor(ZERO), 0.0
    for t in range(1, T + 1):
        h = stop(h, t).detach() if t == 4 else stop(h, t)
        h = cell(XS[t - 1], h)
        total = total + ((h - YS[t - 1]) ** 2).sum()
    return total


def sentences_and_words(cell: Any, other: Any, stop: Stop) -> Any:
    """A plain loop over sentences, and in it one over their words, each from zeros."""
    g = tg.tensor(ZERO)
    for s in range(1, 4):
        h = tg.tensor(ZERO)
        for t, x in enumerate(XS[:4], 1):
            h = cell(s * x, stop(h, t))
        g = other(h, stop(g, s))
    return (g**2).sum()


def layers_of_sentences(cell: Any, other: Any, stop: Stop) -> Any:
    """The words by a loop that tells its steps, the sentences by a plain one: these do not go on from the words."""
    g = tg.tensor(ZERO)
    for s in range(1, 4):
        h = tg.tensor(ZERO)
        for t, x in enumerate(tg.steps(XS[:4]), 1):
            h = cell(s * x, stop(h, t))
        g = other(h, stop(g, s))
    return (g**2).sum()


def told_in_told(cell: Any, other: Any, stop: Stop) -> Any:
    """A loop that begins with the state of the loop around it is a part of its steps."""
    g, total = tg.tensor(ZERO), 0.0
    for s, x in enumerate(tg.steps(XS), 1):
        h = g = stop(g, s)
        for part in tg.steps([x, x**2, x**3]):
            h = cell(part, h)
        g = g + other(h, g)
        total = total + ((g - YS[s - 1]) ** 2).sum()
    return total


def words_in_told_sentences(cell: Any, other: Any, stop: Stop) -> Any:
    """Loops over words within the steps of a loop over sentences that carries a state."""
    g = tg.tensor(ZERO)
    for s, x in enumerate(tg.steps(XS), 1):
        h = tg.tensor(ZERO)
        for part in tg.steps([x, x**2]):
            h = cell(part, h)
        g = other(h, stop(g, s))
    return (g**2).sum()


LOOPS = {f.__name__: f for f in (
    residual, residual_in_two_lines, two_sequences, side_by_side, both_ways, detached_once, sentences_and_words, layers_of_sentences,
    told_in_told, words_in_told_sentences,
)}  # fmt: skip


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("name", LOOPS)
def test_truncation_cuts_where_one_would_write_detach(name: str, k: int) -> None:
    weights = [*(cell := Cell()).parameters(), *(other := Cell(1)).parameters()]
    by_hand = tg.grad(LOOPS[name](cell, other, detach_every(k)), weights, allow_unused=True)
    used = {i: g for i, g in enumerate(by_hand) if g is not None}
    loss = LOOPS[name](cell, other, never)
    full = tg.grad(loss, [weights[i] for i in used])
    for (i, expected), g, f in zip(used.items(), truncate(loss, k).grads([weights[i] for i in used]), full, strict=True):
        np.testing.assert_allclose(g.numpy(), expected.numpy(), rtol=1e-12, atol=1e-13, err_msg=f"weight {i}")
        assert name in ("detached_once", "words_in_told_sentences") or np.abs(g.numpy() - f.numpy()).max() > 1e-6 or k == 3


def test_two_sequences_of_one_cell_have_a_column_for_each_of_their_steps() -> None:
    cell = Cell()
    led = ledger(two_sequences(cell, None, never), cell.W)
    assert [(use.time, use.call) for use in led.uses] == [*((t, 1) for t in range(1, T + 1)), *((t, 2) for t in range(1, 6))]
    for xs, call in ((XS, 1), (YS[:5], 2)):
        h, Ws = tg.tensor(ZERO), [tg.tensor(cell.W.numpy(), requires_grad=True) for _ in xs]
        for x, W in zip(xs, Ws, strict=True):
            h = tg.tanh(x @ cell.U + h @ W)
        expected = tg.grad((h**2).sum(), Ws)
        found = [led.terms[k] for k, use in enumerate(led.uses) if use.call == call]
        np.testing.assert_allclose(found, [g.numpy() for g in expected], rtol=1e-12, atol=1e-14)
    (passed,) = copies(two_sequences(cell, None, never), cell.U, [cell.W]).values()
    assert passed == [use for use in led.uses if use.time != 1]


@pytest.mark.parametrize("start", [0, -2, 7])
def test_steps_may_begin_anywhere(start: int) -> None:
    cell, h = Cell(), tg.tensor(ZERO)
    for x in tg.steps(XS, start):
        h = cell(x, h)
    loss = (h**2).sum()
    assert ledger(loss, cell.W).steps == list(range(start, start + T))
    assert [(cut.after, cut.before) for cut in truncate(loss, 2).cuts] == [(start + 1, start + 2), (start + 3, start + 4)]


def by_layers(cell: Any) -> Any:
    hs = list(XS)
    for _ in range(2):
        h = tg.tensor(ZERO)
        hs = [h := cell(x, h) for x in hs]
    return (h**2).sum()


def by_steps(cell: Any) -> Any:
    h, g = tg.tensor(ZERO), tg.tensor(ZERO)
    for x in XS:
        h = cell(x, h)
        g = cell(h, g)
    return (g**2).sum()


def a_tree(cell: Any) -> Any:
    leaves = [cell(x, ZERO) for x in XS[:4]]
    return cell(cell(leaves[0], leaves[1]), cell(leaves[2], leaves[3])).sum()


@pytest.mark.parametrize("run", [by_layers, by_steps, a_tree])
def test_calls_of_one_cell_that_could_be_time_or_depth_are_not_guessed(run: Any) -> None:
    cell = Cell()
    with pytest.raises(GraphError, match=r"which of it is time(.|\n)*tg\.steps"):
        truncate(run(cell), 2)
    led = ledger(run(cell), cell.W)  # every call is a column
    assert led.steps == list(range(1, len(led.uses) + 1)) and led.check() < 1e-12


@pytest.mark.parametrize("told", [False, True])
def test_states_that_are_changed_between_calls_are_the_states(told: bool) -> None:
    """A mask on the output of an LSTM, and what a residual network adds, in a plain loop and in one that tells its steps."""
    lstm, cell, masks = nn.LSTMCell(H, H, dtype="float64", rng=0), Cell(), RNG.random((T, B, H))
    (h, c), hs, cs = (tg.tensor(ZERO), tg.tensor(ZERO)), [], []
    for t in tg.steps(range(T), 0) if told else range(T):
        h, c = lstm(XS[t], (h, c))
        h = h * masks[t]
        hs.append(h)
        cs.append(c)
    loss = (h * YS[0]).sum()
    found = flow(loss)
    assert [line.part for line in found] == ["h", "c"]
    for line, states in zip(found, (hs, cs), strict=True):
        expected = [0.0 if g is None else np.linalg.norm(g.numpy()) for g in tg.grad(loss, states, allow_unused=True)]
        np.testing.assert_allclose(line.norms, expected, rtol=1e-12)

    h, hs = tg.tensor(XS[0]), []
    for t in tg.steps(range(T), 0) if told else range(T):
        h = 0.3 * h + cell(XS[t], h)
        hs.append(h)
    J = temporal_jacobians((h**2).sum())
    for t, s in ((T, 1), (4, 2)):
        expected = jacobian_of(hs[t - 1], hs[s - 1])
        np.testing.assert_allclose(J.between(t - told, s - told), expected, rtol=1e-12, atol=1e-15)


def jacobian_of(h: Any, by: Any) -> Any:
    """dh/dby for each row of the batch, one sweep for each number."""
    rows = []
    for i in range(H):
        seed = np.zeros((B, H))
        seed[:, i] = 1
        rows.append(tg.grad(h, by, seed).numpy())
    return np.stack(rows, axis=1)


def test_rows_that_trade_places_depend_on_each_other() -> None:
    """Whichever row it is: the last one keeps to itself."""
    cell, h = Cell(), tg.tensor(ZERO)
    for x in tg.steps(XS):
        h = cell(x, h)
        h = tg.concatenate([h[1:2], h[:1], h[2:]])
    with pytest.raises(GraphError, match="depends on another row"):
        temporal_jacobians((h**2).sum())
    derivation = explain((h**2).sum(), cell.W)
    assert derivation.loops[0].inexact and derivation.check() < 1e-12


def test_the_state_before_the_first_step_comes_one_before_it() -> None:
    """Also where the loop hands its state past a step in which nothing happens."""
    cell, h = Cell(), tg.tensor(ZERO)
    for t, x in enumerate(tg.steps(XS), 1):
        h = h if t % 2 == 0 else cell(x, h)
    assert temporal_jacobians((h**2).sum()).times.tolist() == [0, 1, 3, 5]


def test_attention_in_a_plain_loop_is_of_the_step_that_reads_it() -> None:
    """What a decoder attends to is not cut; what it asks with is a state, and is."""
    first, second = Cell(), Cell(1)

    def run(stop: Stop) -> Any:
        h, hs, total = tg.tensor(ZERO), [], 0.0
        for t, x in enumerate(XS, 1):
            h = first(x, stop(h, t))
            hs.append(h)
        keys = tg.stack(hs)
        for t, y in enumerate(YS, T + 1):
            h = stop(h, t)
            scores = tg.exp((keys * h).sum(axis=-1))
            h = second(((scores / scores.sum(axis=0))[..., None] * keys).sum(axis=0) + y, h)
            total = total + (h**2).sum()
        return total

    weights = [*first.parameters(), *second.parameters()]
    for k in (1, 2, 3):
        for g, expected in zip(truncate(run(never), k).grads(weights), tg.grad(run(detach_every(k)), weights), strict=True):
            np.testing.assert_allclose(g.numpy(), expected.numpy(), rtol=1e-11, atol=1e-13)


def test_a_model_called_for_many_sequences_has_the_steps_of_its_cell() -> None:
    """Also where it is called more often than a sequence has steps."""

    class Reader(nn.Module):
        def __init__(self) -> None:
            self.cell = Cell()

        def forward(self, xs: Any) -> Any:
            h = tg.tensor(ZERO)
            for x in xs:
                h = self.cell(x, h)
            return h

    reader = Reader()
    loss = sum((reader(n * XS[:4]) ** 2).sum() for n in range(1, 9))
    assert [(use.time, use.call) for use in ledger(loss, reader.cell.W).uses] == [(t, n) for n in range(1, 9) for t in range(1, 5)]
    assert truncate(loss, 2).steps == 4
