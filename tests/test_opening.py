"""Graphs opened for readers: the same numbers, leaves and gradients, with equations where fused nodes were, compiled time loops above all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tinygrad_seq as tg
from tinygrad_seq import nn, optim
from tinygrad_seq.errors import GraphError, InPlaceError
from tinygrad_seq.fusion import fused, opened
from tinygrad_seq.graph import Node, node_of
from tinygrad_seq.nn import functional as F
from tinygrad_seq.primitives import backward_of
from tinygrad_seq.scan import time_loop
from tinygrad_seq.viz import draw

T, B, D, H = 4, 2, 3, 5
LENGTHS = [2, 4]


def data(*shape: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape) / 2


def parameter(name: str, *shape: int, seed: int = 0) -> tg.Tensor:
    return tg.Tensor(data(*shape, seed=seed), requires_grad=True, name=name)


class Cell(nn.Module):
    """A cell with everything that a reader could lose: modules called twice, ops on weights alone, frames and names given inside."""

    hidden_size = H

    def __init__(self) -> None:
        self.x, self.h = nn.Linear(D, H, rng=0), nn.Linear(H, H, rng=1)
        self.decay = nn.Parameter(data(H))
        self.to(dtype="float64")

    def forward(self, x: Any, h: Any) -> Any:
        with tg.frame("candidate"):
            new = tg.tanh(self.x(x) + self.h(h))
        h = tg.exp(-tg.exp(self.decay)) * h + 0.5 * self.h(new)
        h.name = "h"
        return h


def transposing() -> Any:
    w, u, v = parameter("W", H, D), parameter("U", H, H), parameter("v", H)
    hs, h = tg.scan(lambda x, h: tg.tanh(x @ w.T + h @ u.T), tg.Tensor(data(T, B, D)), np.zeros((B, H)))
    hs.name = "hs"
    return ((hs * tg.exp(v)) ** 2).sum() + h.sum()


def own_cell(**options: Any) -> Any:
    hs, h = tg.scan(Cell(), tg.Tensor(data(T, B, D)), np.zeros((B, H)), name="mine", **options)
    return (hs * hs).mean() + h.sum()


def recurrent(kind: Callable[..., Any], lengths: Any = None, **options: Any) -> Any:
    hs, _ = kind(D, H, rng=0, dtype="float64", **options)(tg.Tensor(data(T, B, D)), lengths=lengths)
    return (hs**2).mean()


def encoder_and_decoder() -> Any:
    encoder, decoder = nn.GRU(D, H, rng=0, dtype="float64"), nn.GRU(H, H, rng=1, dtype="float64")
    hs, h = encoder(data(T, B, D))
    return decoder(hs, h)[0].sum()


GRAPHS: dict[str, Callable[[], Any]] = {
    "ops on weights alone": transposing,
    "a cell of one's own": own_cell,
    "backwards": lambda: own_cell(reverse=True),
    "lengths": lambda: own_cell(lengths=LENGTHS),
    "two layers": lambda: recurrent(nn.LSTM, num_layers=2),
    "both directions": lambda: recurrent(nn.GRU, LENGTHS, bidirectional=True),
    "two loops": encoder_and_decoder,
}
each_graph = pytest.mark.parametrize("graph", GRAPHS.values(), ids=GRAPHS)


def path(node: Node) -> list[tuple[Any, Any]]:
    frames = node.frame.path() if node.frame is not None else []
    return [(f.owner if isinstance(f.owner, str) else type(f.owner).__name__, f.step) for f in frames]


def told(value: Any) -> list[Any]:
    """All that a reader sees of the tape: ops in order with their arguments, frames, shapes and names."""
    tape = tg.toposort([value])
    at = {node: i for i, node in enumerate(tape)}
    return [
        (
            None if node.prim is None else node.prim.name,
            [at.get(node_of(a)) for a in node.args],
            path(node),
            node.shape,
            node.notes_of(0).name,
        )
        for node in tape
    ]


def loops(value: Any) -> int:
    return sum(map(time_loop, tg.toposort([value])))


# ---- Time loops ------------------------------------------------------------------------------------------------------------------------


@each_graph
def test_an_opened_graph_is_the_tape_that_the_unfolded_loop_leaves(graph: Callable[[], Any]):
    for _ in range(2):  # a loop traced now, and one found again
        loss = graph()
        assert loops(loss) > 0
        (found,) = opened([loss], time_loop)
        with tg.unfolded():
            expected = graph()
        assert loops(found) == 0 and told(found) == told(expected)


@each_graph
def test_a_compiled_loop_is_drawn_unfolded_in_time_with_the_same_gradients(graph: Callable[[], Any]):
    loss = graph()
    with tg.unfolded():
        expected = graph()
    assert draw(loss, shapes=True).dot == draw(expected, shapes=True).dot
    assert draw(loss, gradients=True).dot == draw(expected, gradients=True).dot
    assert "t = 4" in draw(loss).dot


@each_graph
def test_an_opened_graph_has_the_same_numbers_leaves_and_gradients_and_the_graph_given_stays_as_it_was(graph: Callable[[], Any]):
    loss = graph()
    before, nodes = told(loss), tg.toposort([loss])
    orders = [node.order for node in nodes]
    (found,) = opened([loss], time_loop)
    assert told(loss) == before and [node.order for node in nodes] == orders
    np.testing.assert_array_equal(found.numpy(), loss.numpy())
    leaves = [[n for n in tg.toposort([v]) if n.prim is None] for v in (found, loss)]
    assert leaves[0] == leaves[1]
    found.backward()
    once = [node.notes_of(0).grad.numpy().copy() for node in leaves[0]]
    loss.backward()
    for node, g in zip(leaves[0], once, strict=True):
        np.testing.assert_allclose(node.notes_of(0).grad.numpy(), 2 * g, rtol=1e-10, atol=1e-13)


def test_two_calls_of_one_module_within_a_step_stay_two_and_one_stays_one():
    cell, xs = Cell(), tg.Tensor(data(T, B, D))
    for _ in range(3):  # a loop traced, and found again
        hs, _ = tg.scan(cell, xs, np.zeros((B, H)))
        (found,) = opened([hs], time_loop)
        calls: dict[Any, set[Any]] = {}
        for node in tg.toposort([found]):
            for frame in node.frame.path() if node.frame else []:
                if frame.owner is cell.h or frame.owner is cell or frame.owner == "candidate":
                    calls.setdefault((frame.owner if frame.owner == "candidate" else id(frame.owner), node.frame.time), set()).add(
                        frame
                    )
        expected = {id(cell.h): 2, id(cell): 1, "candidate": 1}
        assert {key: len(frames) for key, frames in calls.items()} == {
            (k, t): n for k, n in expected.items() for t in range(1, T + 1)
        }
        with tg.unfolded():
            hs, _ = tg.scan(cell, xs, np.zeros((B, H)))
        assert told(found) == told(hs)


def test_cells_of_equal_equations_keep_their_own_frames():
    hs = tg.Tensor(data(T, B, H))
    cells = [Cell(), Cell()]
    found = []
    for cell in cells:
        cell.x = nn.Linear(H, H, rng=2).to(dtype="float64")
        hs, _ = tg.scan(cell, hs, np.zeros((B, H)))
    for node in tg.toposort(opened([hs], time_loop)):
        found += [f.owner for f in (node.frame.path() if node.frame else []) if isinstance(f.owner, Cell)]
    assert list(dict.fromkeys(map(id, found))) == list(map(id, cells))


def test_terms_of_a_transposed_weight_stand_at_their_times():
    loss = transposing()
    (found,) = opened([loss], time_loop)
    (u,) = (n for n in tg.toposort([loss]) if n.notes_of(0).name == "U")
    terms: dict[int, Any] = {}
    for node, _, contributions in tg.steps_of_backward(found, targets={u: {0: None}}):
        for argument, term in zip(node.args, contributions, strict=False):
            if argument is u:
                terms[node.frame.time] = term
    assert sorted(terms) == list(range(1, T + 1)) and (terms[1] == 0).all()
    loss.backward()
    np.testing.assert_allclose(sum(terms.values()), u.notes_of(0).grad.numpy(), rtol=1e-12, atol=1e-14)


def test_what_is_collected_and_what_is_handed_on_are_opened_too():
    w = parameter("w", H, H)

    def step(x: Any, h: Any, c: Any) -> Any:
        new = tg.tanh(x + h @ w)
        return new, c + new, (h, 2 * new)

    hs, last, more = tg.scan(step, data(T, B, H), (np.zeros((B, H)), tg.Tensor(np.ones((B, H)))), collect=True)
    values = [hs, *last, *more]
    for mine, theirs in zip(opened(values, time_loop), values, strict=True):
        np.testing.assert_array_equal(mine.numpy(), theirs.numpy())
        assert loops(mine) == 0 and tg.toposort([mine])


def test_hooks_and_names_of_the_outputs_go_along_and_see_the_same_gradients():
    def run(read: Callable[[Any], Any]) -> Any:
        w = parameter("w", H, H)
        hs, h = tg.scan(lambda x, h: tg.tanh(x + h @ w), data(T, B, H), np.zeros((B, H)))
        h.register_hook(lambda g: 10 * g)
        hs.name = "states"
        loss = read((hs * hs).sum() + h.sum())
        assert "states" in [n.notes_of(0).name for n in tg.toposort([loss])]
        return tg.grad(loss, w).numpy()

    np.testing.assert_allclose(run(lambda loss: opened([loss], time_loop)[0]), run(lambda loss: loss), rtol=1e-12)


def test_five_thousand_steps_are_opened_and_drawn_without_recursion():
    w = parameter("w", H, H)
    hs, _ = tg.scan(lambda x, h: tg.tanh(x + 0.1 * (h @ w.T)), data(5000, 1, H), np.zeros((1, H)))
    (found,) = opened([hs.sum()], time_loop)
    assert {node.frame.time for node in tg.toposort([found]) if node.frame and node.frame.time} == set(range(1, 5001))
    assert "in 5000 steps" in repr(draw(hs.sum(), gradients=True))


def test_a_loop_within_a_loop_opens_at_its_own_times():
    w = parameter("w", H, H)
    h = tg.zeros((B, H), dtype="float64")
    for _ in tg.steps(range(3)):
        _, h = tg.scan(lambda x, h: tg.tanh(x + h @ w), data(T, B, H), h)
    (found,) = opened([h.sum()], time_loop)
    times = [[s for _, s in path(n) if s is not None] for n in tg.toposort([found]) if n.prim is not None and n.prim.name == "tanh"]
    assert times == [[t, s] for t in range(1, 4) for s in range(1, T + 1)]


# ---- Any fused op ----------------------------------------------------------------------------------------------------------------------


def logits_and_loss() -> tuple[Any, Any]:
    w = parameter("w", D, H)
    logits = nn.LayerNorm(H).to(dtype="float64")(data(B, D) @ w)
    return w, F.cross_entropy(logits, np.array([1, 3]))


def test_by_default_every_fused_node_is_opened():
    w, loss = logits_and_loss()
    (found,) = opened([loss])
    assert not [n for n in tg.toposort([found]) if n.prim is not None and n.prim.equation is not None]
    assert [n.prim.name for n in tg.toposort([loss]) if n.prim is not None and n.prim.equation is not None]
    np.testing.assert_allclose(tg.grad(found, w).numpy(), tg.grad(loss, w).numpy(), rtol=1e-10, atol=1e-12)


def test_a_graph_without_fused_nodes_is_handed_back():
    y = tg.tensor([1.0, 2.0], requires_grad=True).sum()
    assert opened([y]) == [y] and opened([y])[0] is y


@pytest.fixture
def wrong() -> Any:
    @fused(equation=lambda x: x * 2)
    def wrong(x: Any) -> Any:
        return x * 3, None

    @backward_of(wrong)
    def _(g: Any, y: Any, saved: Any, x: Any) -> Any:
        return [g * 3]

    return wrong


def test_a_kernel_that_differs_from_its_equation_is_found_out(wrong: Any):
    y = tg.exp(wrong(tg.tensor([1.0], requires_grad=True)))
    with pytest.raises(GraphError, match=r"wrong: the kernel and its equation disagree(?s:.)*largest difference 1"):
        opened([y])
    assert opened([y], checked=False)[0].item() == y.item()


def test_overwritten_weights_are_no_numbers_to_open_a_graph_with_but_it_can_be_drawn():
    net = nn.RNN(D, H, rng=0)
    loss = net(data(T, B, D).astype("f4"))[0].sum()
    before = draw(loss).dot
    loss.backward()
    optim.SGD(net.parameters(), lr=0.1).step()
    with pytest.raises(InPlaceError, match="overwritten"):
        opened([loss], time_loop)
    assert draw(loss).dot == before


# ---- Loops that are not compiled ---------------------------------------------------------------------------------------------------------


class Counter:
    """A step that counts its calls, which no compiled loop would do."""

    def __init__(self, f: Callable[..., Any]) -> None:
        self.f, self.calls = f, 0

    def __call__(self, *args: Any) -> Any:
        self.calls += 1
        return self.f(*args)


STEPS: dict[str, Callable[..., Any]] = {
    "weights": lambda x, h, w: tg.tanh(x + h @ w),
    "constants": lambda x, h, w: tg.tanh(tg.exp(-x) * 0.5 + h @ w.T),
    "comparisons": lambda x, h, w: tg.where(x > 0, h @ w, h * (h > 0)),
    "several outputs": lambda x, h, w: sum(tg.split(h @ w + x, [2], axis=-1)[0].sum(axis=-1, keepdims=True) * h for _ in range(2)),
}


@pytest.mark.parametrize("tracked", [False, True])
@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
def test_the_first_step_of_a_loop_that_is_not_compiled_is_on_the_tape_as_all_others_are(step: Callable[..., Any], tracked: bool):
    def graph() -> Any:
        xs = tg.Tensor(data(T, B, H), requires_grad=tracked)
        counter = Counter(step)
        hs, h = tg.scan(counter, xs, np.ones((B, H)), [parameter("w", H, H)])
        assert counter.calls == T
        return (hs * hs).sum() + h.sum()

    loss = graph()
    with tg.unfolded():
        expected = graph()
    assert loops(loss) == 0 and told(loss) == told(expected)
    assert draw(loss, gradients=True).dot == draw(expected, gradients=True).dot
