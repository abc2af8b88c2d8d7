"""Suite `cells`: cells as a user writes them, about as costly as an LSTM, over a sequence, forward and backward, in every framework.

A cell is the same code for all of them; `Ops` says how a framework spells its ops. Here it is given to `tg.scan`, in JAX to `lax.scan` under
jit; in PyTorch a Python loop calls it, eager or as a whole under torch.compile, which takes about a second for each time step, before
anything is timed. Asked for are the gradients of the inputs, of the initial state and of all weights.

The user's LSTM is what `nn.LSTM` computes, so beside it stands `nn.LSTM` on the same target: a cell of one's own should cost no more.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import targets
from bench import Case, Missing
from bench_layers import SIZES, TOLERANCE, Size

TITLE = "cells: a user's cells, one layer, forward + backward to inputs, initial state and weights, float32"


class Ops(NamedTuple):
    """What the cells are written with: the ops of a framework, named as in nn.functional."""

    linear: Callable[..., Any]  # x, weight (out, in), bias
    split: Callable[..., Any]  # z, n: the n equal parts of the last axis
    layer_norm: Callable[..., Any]  # z, gain, bias
    sigmoid: Callable[[Any], Any]
    tanh: Callable[[Any], Any]


# ---- The cells: x (B, D), the state (B, H) each, the weights -> the new state ------------------------------------------------------------


def lstm(F: Ops, x: Any, h: Any, c: Any, w: Any, u: Any, b: Any) -> tuple[Any, Any]:
    """An LSTM."""
    i, f, g, o = F.split(F.linear(x, w, b) + F.linear(h, u), 4)
    c = F.sigmoid(f) * c + F.sigmoid(i) * F.tanh(g)
    h = F.sigmoid(o) * F.tanh(c)
    return h, c


def layer_norm_lstm(F: Ops, x: Any, h: Any, c: Any, w: Any, u: Any, b: Any, *norms: Any) -> tuple[Any, Any]:
    """An LSTM with layer normalisation of both products and of the cell (Ba, Kiros & Hinton 2016)."""
    gain_x, gain_h, gain_c, bias_c = norms
    i, f, g, o = F.split(F.layer_norm(F.linear(x, w), gain_x, b) + F.layer_norm(F.linear(h, u), gain_h, None), 4)
    c = F.sigmoid(f) * c + F.sigmoid(i) * F.tanh(g)
    h = F.sigmoid(o) * F.tanh(F.layer_norm(c, gain_c, bias_c))
    return h, c


def minimal_gated(F: Ops, x: Any, h: Any, w_f: Any, u_f: Any, b_f: Any, w: Any, u: Any, b: Any) -> Any:
    """A minimal gated unit (Zhou et al. 2016): one gate forgets, resets and lets in."""
    f = F.sigmoid(F.linear(x, w_f, b_f) + F.linear(h, u_f))
    new = F.tanh(F.linear(x, w, b) + F.linear(f * h, u))
    return (1 - f) * h + f * new


def highway(F: Ops, x: Any, h: Any, w: Any, u: Any, b: Any, u2: Any, b2: Any) -> Any:
    """A recurrent highway network (Zilly et al. 2017) that is two layers deep in each step, carry and transform gate coupled."""
    new, gate = F.split(F.linear(x, w, b) + F.linear(h, u), 2)
    h = h + F.sigmoid(gate) * (F.tanh(new) - h)
    new, gate = F.split(F.linear(h, u2, b2), 2)
    return h + F.sigmoid(gate) * (F.tanh(new) - h)


class Cell(NamedTuple):
    """A cell, how many arrays its state is, and the rows of its weights in units of H: `w` reads x, `u` reads h, others are vectors."""

    step: Callable[..., Any]
    states: int
    weights: dict[str, int]


LSTM = "user's LSTM"
CELLS = {
    LSTM: Cell(lstm, 2, {"w": 4, "u": 4, "b": 4}),
    "layer-normalised LSTM": Cell(layer_norm_lstm, 2, {"w": 4, "u": 4, "b": 4, "gain_x": 4, "gain_h": 4, "gain_c": 1, "bias_c": 1}),
    "minimal gated unit": Cell(minimal_gated, 1, {"w_f": 1, "u_f": 1, "b_f": 1, "w": 1, "u": 1, "b": 1}),
    "highway": Cell(highway, 1, {"w": 2, "u": 2, "b": 2, "u2": 2, "b2": 2}),
}


class Problem(NamedTuple):
    """What is given: arrays all, g_hs = dL/dhs (T, B, H)."""

    step: Callable[..., Any]
    xs: Any
    state: tuple[Any, ...]
    weights: list[Any]
    g_hs: Any


def problem(name: str, size: Size) -> Problem:
    """Gains are about 0.3: with 1 the gradients of the normalised cell grow a thousandfold over 100 steps, and rounding with them."""
    (T, B, D, H), cell, rng = size, CELLS[name], np.random.default_rng(0)
    xs, g_hs, *state = (rng.standard_normal(shape, np.float32) for shape in ((T, B, D), *[(T, B, H)], *[(B, H)] * cell.states))
    weights = []
    for weight, rows in cell.weights.items():
        shape = {"w": (rows * H, D), "u": (rows * H, H)}.get(weight[0], (rows * H,))
        values = rng.uniform(-1, 1, shape) / np.sqrt(H) + 0.3 * weight.startswith("gain")
        weights.append(values.astype(np.float32))
    return Problem(cell.step, xs, tuple(0.5 * h for h in state), weights, g_hs)


def as_tuple(state: Any) -> tuple[Any, ...]:
    return state if isinstance(state, tuple) else (state,)


# ---- Adapters: set a problem up, return the call that is timed, which returns hs and the gradients -------------------------------------


def our_ops() -> Ops:
    import tinygrad_seq as tg
    from tinygrad_seq.nn import functional as F

    return Ops(F.linear, partial(tg.split, axis=-1), lambda z, *norm: F.layer_norm(z, z.shape[-1], *norm), tg.sigmoid, tg.tanh)


def tinygrad_seq(target: str, name: str, size: Size) -> Callable[[], list[Any]]:
    import tinygrad_seq as tg

    cell, xs, state, weights, g_hs = problem(name, size)
    x, *leaves = (tg.tensor(array, requires_grad=True) for array in (xs, *state, *weights))
    states, ws, g = leaves[: len(state)], leaves[len(state) :], tg.tensor(g_hs)
    start = tuple(states) if len(states) > 1 else states[0]
    step = partial(cell, our_ops())

    def call() -> list[Any]:
        for leaf in (x, *leaves):
            leaf.grad = None
        hs, _ = tg.scan(step, x, start, ws)
        hs.backward(g)
        return [hs.numpy(), *(leaf.grad.numpy() for leaf in (x, *leaves))]

    return targets.on(target, call, step, x[0], start, ws)


def layer(target: str, name: str, size: Size) -> Callable[[], list[Any]]:
    import tinygrad_seq as tg
    from tinygrad_seq import nn

    assert name == LSTM
    (_, _, D, H), (_, xs, state, (w, u, b), g_hs) = size, problem(name, size)
    module = nn.LSTM(D, H)
    module.load_state_dict(dict(zip(module.state_dict(), (w, u, b, 0 * b), strict=True)))
    x, h, c = (tg.tensor(array, requires_grad=True) for array in (xs, *(h[None] for h in state)))
    leaves, g = [x, h, c, *module.parameters()], tg.tensor(g_hs)

    def call() -> list[Any]:
        for leaf in leaves:
            leaf.grad = None
        hs, _ = module(x, (h, c))
        hs.backward(g)
        dx, dh, dc, *params, _ = (leaf.grad.numpy() for leaf in leaves)  # both biases have the same gradient
        return [hs.numpy(), dx, dh[0], dc[0], *params]

    return targets.on(target, call, module, x)


def pytorch(compiled: bool, name: str, size: Size) -> Callable[[], list[Any]]:
    import torch
    from torch.nn import functional as F

    ops = Ops(
        F.linear,
        lambda z, n: z.chunk(n, -1),
        lambda z, *norm: F.layer_norm(z, z.shape[-1:], *norm),
        torch.sigmoid,
        torch.tanh,
    )
    step, xs, states, weights, g_hs = problem(name, size)
    leaves = [torch.tensor(array, requires_grad=True) for array in (xs, *states, *weights)]
    g = torch.tensor(g_hs)

    def loop(x: Any, *rest: Any) -> Any:
        state, ws, hs = rest[: len(states)], rest[len(states) :], []
        for x_t in x.unbind(0):
            state = as_tuple(step(ops, x_t, *state, *ws))
            hs.append(state[0])
        return torch.stack(hs)

    if compiled:
        torch._dynamo.reset()  # what other cases compiled counts towards a limit
        loop = torch.compile(loop, fullgraph=True, dynamic=False)

    def call() -> list[Any]:
        for leaf in leaves:
            leaf.grad = None
        hs = loop(*leaves)
        hs.backward(g)
        return [hs.detach().numpy(), *(leaf.grad.numpy() for leaf in leaves)]

    if compiled:
        try:
            call()
        except Exception as why:  # no C++ compiler, or one that it cannot use
            raise Missing(f"{type(why).__name__}: {str(why).strip().partition(chr(10))[0]}") from why
    return call


def jax_scan(name: str, size: Size) -> Callable[[], list[Any]]:
    import jax
    import jax.numpy as jnp

    def layer_norm(z: Any, gain: Any, bias: Any) -> Any:
        centred = z - z.mean(-1, keepdims=True)
        y = centred * jax.lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + 1e-5) * gain
        return y if bias is None else y + bias

    def linear(x: Any, weight: Any, bias: Any = None) -> Any:
        y = x @ weight.T
        return y if bias is None else y + bias

    ops = Ops(linear, partial(jnp.split, axis=-1), layer_norm, jax.nn.sigmoid, jnp.tanh)
    step, *given = problem(name, size)
    given = jax.tree.map(jnp.asarray, given)

    def layer(xs: Any, state: Any, weights: Any) -> Any:
        def body(state: Any, x: Any) -> Any:
            new = as_tuple(step(ops, x, *state, *weights))
            return new, new[0]

        return jax.lax.scan(body, state, xs)[1]

    @jax.jit
    def run(xs: Any, state: Any, weights: Any, g_hs: Any) -> Any:
        hs, backward = jax.vjp(layer, xs, state, weights)
        return hs, backward(g_hs)

    return lambda: [np.asarray(array) for array in jax.tree.leaves(jax.block_until_ready(run(*given)))]


PEERS = {  # name in the table -> adapter, the module that it needs
    "PyTorch eager": (partial(pytorch, False), "torch"),
    "torch.compile": (partial(pytorch, True), "torch"),
    "JAX scan": (jax_scan, "jax"),
}


def cases() -> Iterator[Case]:
    """One case per cell and size, with every framework that is installed."""
    missing = targets.absent()
    for name, (_, module) in PEERS.items():
        try:
            importlib.import_module(module)
        except ImportError as why:
            missing[name] = str(why)
    yardsticks = {name: f"nn.LSTM {target}" for name, target in targets.OURS.items()}
    missing |= {yardsticks[name]: why for name, why in missing.items() if name in yardsticks}
    columns = {name: partial(tinygrad_seq, target) for name, target in targets.COLUMNS.items()}
    layers = {yardsticks[name]: partial(layer, target) for name, target in targets.OURS.items()}
    peers = {name: adapter for name, (adapter, _) in PEERS.items()}
    for cell in CELLS:
        adapters = columns | (layers if cell == LSTM else {}) | peers
        for size in SIZES[:5]:
            yield Case(
                "{} T={} B={} D={} H={}".format(cell, *size),
                {name: partial(adapter, cell, size) for name, adapter in adapters.items() if name not in missing},
                {name: why for name, why in missing.items() if name in adapters},
                TOLERANCE,
                group=cell,
                ours={name: (yardstick, targets.UNFOLDED, *PEERS) for name, yardstick in yardsticks.items()},
                optional=(targets.UNFOLDED,),
            )
