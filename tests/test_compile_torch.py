"""Compiled loops against PyTorch: its layers at sizes that fill more than one block, cells as one writes them there, products with a Hessian."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from compiled import TOLERANCE, agree, compiled, each_target, mostly_numpy, on, parts

import tinygrad_seq as tg
from tinygrad_seq import nn
from tinygrad_seq.nn import functional as F
from tinygrad_seq.scan import scan

torch = pytest.importorskip("torch", reason="compares with PyTorch")
pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")]

KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "RNN tanh": ("RNN", {}),
    "RNN relu": ("RNN", {"nonlinearity": "relu"}),
    "LSTM": ("LSTM", {}),
    "LSTM projected": ("LSTM", {"proj_size": 2}),
    "GRU": ("GRU", {}),
}
SIZES = [(1, 1, 1, 3), (2, 7, 3, 3), (33, 1, 4, 5), (50, 16, 8, 8), (9, 70, 33, 17), (70, 32, 6, 40)]  # T, B, D, H
both = [False, True]


def compare(outputs: Any, theirs: Any, mine: dict[str, Any], others: dict[str, Any], tolerance: float) -> None:
    """The outputs, and the gradients of a random weighting of them with respect to leaves by name."""
    y, z = parts(outputs), parts(theirs)
    weights = [np.random.default_rng(i).standard_normal(tuple(a.shape)).astype(a.dtype) for i, a in enumerate(y)]
    found = tg.grad(sum((a * w).sum() for a, w in zip(y, weights, strict=True)), list(mine.values()))
    theirs_loss = sum((a * torch.tensor(w)).sum() for a, w in zip(z, weights, strict=True))
    expected = torch.autograd.grad(theirs_loss, list(others.values()))
    agree(
        {f"output {i}": a.numpy() for i, a in enumerate(y)}, {f"output {i}": a.detach().numpy() for i, a in enumerate(z)}, tolerance
    )
    agree(
        {f"d {name}": g.numpy() for name, g in zip(mine, found, strict=True)},
        {f"d {name}": g.numpy() for name, g in zip(others, expected, strict=True)},
        tolerance,
    )


def twins(shapes: dict[str, tuple[int, ...]], dtype: str, scale: float = 0.5) -> tuple[dict[str, Any], dict[str, Any]]:
    """The same random leaves here and there."""
    rng = np.random.default_rng(4)
    arrays = {name: (scale * rng.standard_normal(shape)).astype(dtype) for name, shape in shapes.items()}
    return (
        {name: tg.tensor(a, requires_grad=True) for name, a in arrays.items()},
        {name: torch.tensor(a, requires_grad=True) for name, a in arrays.items()},
    )


# ---- Layers ------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
@mostly_numpy
def test_layers_are_those_of_pytorch_at_sizes_that_fill_blocks(kind: str, size: tuple[int, ...], dtype: str, target: str):
    (name, options), (T, B, D, H) = KINDS[kind], size
    ours = getattr(nn, name)(D, H, rng=0, dtype=dtype, **options)
    theirs = getattr(torch.nn, name)(D, H, dtype=getattr(torch, dtype), **options)
    theirs.load_state_dict({key: torch.tensor(a) for key, a in ours.state_dict().items()})
    mine, others = twins({"xs": (T, B, D), **{f"state {i}": a.shape for i, a in enumerate(parts(ours.initial_state(B)))}}, dtype)
    state = [tuple(list(leaves.values())[1:]) if name == "LSTM" else leaves["state 0"] for leaves in (mine, others)]
    with on(target):
        outputs = ours(mine["xs"], state[0])
    compiled(outputs)
    mine |= dict(ours.named_parameters())
    others |= {key: theirs.get_parameter(key) for key, _ in ours.named_parameters()}
    compare(outputs, theirs(others["xs"], state[1]), mine, others, TOLERANCE[dtype] * (10 if dtype == "float32" else 1))


@pytest.mark.parametrize("bidirectional", both)
@pytest.mark.parametrize("kind", KINDS)
@each_target
def test_packed_sequences_of_two_layers_are_those_of_pytorch(kind: str, bidirectional: bool, target: str):
    name, options = KINDS[kind]
    T, D, H, lengths = 11, 3, 4, [11, 1, 6, 6, 10]
    settings = {"num_layers": 2, "bidirectional": bidirectional, **options}
    ours, theirs = (
        getattr(nn, name)(D, H, rng=0, dtype="float64", **settings),
        getattr(torch.nn, name)(D, H, dtype=torch.float64, **settings),
    )
    theirs.load_state_dict({key: torch.tensor(a) for key, a in ours.state_dict().items()})
    mine, others = twins({"xs": (T, len(lengths), D)}, "float64")
    with on(target):
        outputs = ours(mine["xs"], None, lengths)
    compiled(outputs, loops=2 * (1 + bidirectional))
    packed = torch.nn.utils.rnn.pack_padded_sequence(others["xs"], torch.tensor(lengths), enforce_sorted=False)
    hs, last = theirs(packed)
    padded = torch.nn.utils.rnn.pad_packed_sequence(hs, total_length=T)[0]
    mine |= dict(ours.named_parameters())
    others |= {key: theirs.get_parameter(key) for key, _ in ours.named_parameters()}
    compare(outputs, (padded, last), mine, others, TOLERANCE["float64"])


# ---- Cells -----------------------------------------------------------------------------------------------------------------------------

D, H = 3, 4


def highway(x, h, w, u, b, w_t, u_t, c):
    gate = tg.sigmoid(F.linear(x, w_t, c) + F.linear(h, u_t))
    return gate * tg.tanh(F.linear(x, w, b) + F.linear(h, u)) + (1 - gate) * h


def highway_there(x, h, w, u, b, w_t, u_t, c):
    gate = torch.sigmoid(x @ w_t.T + c + h @ u_t.T)
    return gate * torch.tanh(x @ w.T + b + h @ u.T) + (1 - gate) * h


def minimal(x, h, w_f, b_f, w_h, b_h):
    f = tg.sigmoid(F.linear(tg.concatenate([h, x], axis=-1), w_f, b_f))
    return (1 - f) * h + f * tg.tanh(F.linear(tg.concatenate([f * h, x], axis=-1), w_h, b_h))


def minimal_there(x, h, w_f, b_f, w_h, b_h):
    f = torch.sigmoid(torch.cat([h, x], dim=-1) @ w_f.T + b_f)
    return (1 - f) * h + f * torch.tanh(torch.cat([f * h, x], dim=-1) @ w_h.T + b_h)


def normalised(x, h, c, w, u, g_x, g_h, b, g_c, b_c):
    z = F.layer_norm(F.linear(x, w), 4 * H, g_x) + F.layer_norm(F.linear(h, u), 4 * H, g_h, b)
    i, f, g, o = tg.split(z, 4, axis=-1)
    c = tg.sigmoid(f) * c + tg.sigmoid(i) * tg.tanh(g)
    return tg.sigmoid(o) * tg.tanh(F.layer_norm(c, H, g_c, b_c)), c


def normalised_there(x, h, c, w, u, g_x, g_h, b, g_c, b_c):
    norm = torch.nn.functional.layer_norm
    z = norm(x @ w.T, (4 * H,), g_x) + norm(h @ u.T, (4 * H,), g_h, b)
    i, f, g, o = z.chunk(4, dim=-1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(norm(c, (H,), g_c, b_c)), c


def attending(x, h, w, u, memory):
    weights = F.softmax((memory * F.linear(h, u)).sum(axis=-1, keepdims=True), axis=0)
    return tg.tanh(F.linear(x, w) + (weights * memory).sum(axis=0))


def attending_there(x, h, w, u, memory):
    weights = torch.softmax((memory * (h @ u.T)).sum(dim=-1, keepdim=True), dim=0)
    return torch.tanh(x @ w.T + (weights * memory).sum(dim=0))


def peephole_there(x, h, c, w, u, b, b2, w_ci, w_cf, w_co):
    i, f, g, o = (x @ w.T + b + h @ u.T + b2).chunk(4, dim=-1)
    i, f = torch.sigmoid(i + c @ w_ci.T), torch.sigmoid(f + c @ w_cf.T)
    c = f * c + i * torch.tanh(g)
    return torch.sigmoid(o + c @ w_co.T) * torch.tanh(c), c


def reset_before_there(x, h, w, u, b, b2):
    r, z, n = (x @ w.T + b).split(H, dim=-1)
    r, z = torch.sigmoid(r + h @ u[:H].T + b2[:H]), torch.sigmoid(z + h @ u[H : 2 * H].T + b2[H : 2 * H])
    return z * h + (1 - z) * torch.tanh(n + (r * h) @ u[2 * H :].T + b2[2 * H :])


def rectified(x, h, w, u, v):
    return F.relu(F.linear(x, w) + v * h) - 0.1 * F.softplus(F.linear(h, u)).mean(axis=-1, keepdims=True)


def rectified_there(x, h, w, u, v):
    return torch.relu(x @ w.T + v * h) - 0.1 * torch.nn.functional.softplus(h @ u.T).mean(dim=-1, keepdim=True)


def clipped(x, h, w, u, v):
    a = tg.maximum(F.linear(x, w), F.linear(h, u)) / tg.sqrt(1 + h * h)
    return tg.where(a > v, tg.clip(a, -0.5, 0.7), tg.exp(-a * a) * (h + v))


def clipped_there(x, h, w, u, v):
    a = torch.maximum(x @ w.T, h @ u.T) / torch.sqrt(1 + h * h)
    return torch.where(a > v, torch.clip(a, -0.5, 0.7), torch.exp(-a * a) * (h + v))


# name -> step here, step there, number of states, shapes of the weights for a batch of B
CELLS: dict[str, tuple[Callable[..., Any], Callable[..., Any], int, Callable[[int], list[tuple[int, ...]]]]] = {
    "highway": (highway, highway_there, 1, lambda B: [(H, D), (H, H), (H,)] * 2),
    "minimal gated unit": (minimal, minimal_there, 1, lambda B: [(H, H + D), (H,)] * 2),
    "layer-normalised LSTM": (
        normalised, normalised_there, 2, lambda B: [(4 * H, D), (4 * H, H), (4 * H,), (4 * H,), (4 * H,), (H,), (H,)],
    ),
    "attention": (attending, attending_there, 1, lambda B: [(H, D), (H, H), (6, B, H)]),
    "full peepholes": (
        F.peephole_lstm_step, peephole_there, 2, lambda B: [(4 * H, D), (4 * H, H), (4 * H,), (4 * H,), (H, H), (H, H), (H, H)],
    ),
    "GRU reset before": (F.gru_reset_before_step, reset_before_there, 1, lambda B: [(3 * H, D), (3 * H, H), (3 * H,), (3 * H,)]),
    "rectified": (rectified, rectified_there, 1, lambda B: [(H, D), (H, H), (H,)]),
    "clipped": (clipped, clipped_there, 1, lambda B: [(H, D), (H, H), (H,)]),
}  # fmt: skip


def there(step: Callable[..., Any], xs: Any, states: list[Any], weights: list[Any]) -> tuple[Any, ...]:
    """The loop in PyTorch."""
    state, hs = tuple(states), []
    for x in xs:
        new = step(x, *state, *weights)
        state = new if isinstance(new, tuple) else (new,)
        hs.append(state[0])
    return torch.stack(hs), *state


def problem(name: str, T: int, B: int, dtype: str = "float64") -> tuple[dict[str, Any], dict[str, Any]]:
    _, _, states, shapes = CELLS[name]
    given = {"xs": (T, B, D), **{f"state {i}": (B, H) for i in range(states)}, **{f"w{i}": s for i, s in enumerate(shapes(B))}}
    return twins(given, dtype)


def here(name: str, leaves: list[Any]) -> tuple[Any, ...]:
    step, _, states, _ = CELLS[name]
    xs, *rest = leaves
    hs, last = scan(step, xs, tuple(rest[:states]) if states > 1 else rest[0], rest[states:])
    return (hs, *parts(last))


@pytest.mark.parametrize("size", [(1, 1), (6, 5), (90, 20)], ids=str)
@pytest.mark.parametrize("name", CELLS)
@mostly_numpy
def test_cells_are_those_written_in_pytorch(name: str, size: tuple[int, int], target: str):
    _, step_there, states, _ = CELLS[name]
    mine, others = problem(name, *size)
    with on(target):
        outputs = here(name, list(mine.values()))
    compiled(*outputs)
    xs, *rest = others.values()
    compare(outputs, there(step_there, xs, rest[:states], rest[states:]), mine, others, TOLERANCE["float64"])


@pytest.mark.parametrize("name", [name for name in CELLS if name != "clipped"])
@mostly_numpy
def test_products_with_the_hessian_are_those_of_pytorch(name: str, target: str):
    _, step_there, states, _ = CELLS[name]
    mine, others = problem(name, 4, 3)
    directions = [np.random.default_rng(i).standard_normal(a.shape) for i, a in enumerate(mine.values())]

    def loss(outputs: Any) -> Any:
        hs, *last = outputs
        return (hs**3).sum() + sum((a**2).sum() for a in last)

    with on(target):
        leaves = list(mine.values())
        first = tg.grad(loss(here(name, leaves)), leaves, create_graph=True)
        second = tg.grad(sum((g * v).sum() for g, v in zip(first, directions, strict=True)), leaves)
    leaves = list(others.values())
    first = torch.autograd.grad(
        loss(there(step_there, leaves[0], leaves[1 : 1 + states], leaves[1 + states :])), leaves, create_graph=True
    )
    expected = torch.autograd.grad(sum((g * torch.tensor(v)).sum() for g, v in zip(first, directions, strict=True)), leaves)
    agree(
        {key: a.numpy() for key, a in zip(mine, second, strict=True)},
        {key: a.numpy() for key, a in zip(mine, expected, strict=True)},
        1e-9,
    )
