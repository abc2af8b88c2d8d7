"""Suite `layers`: one layer of RNN, LSTM or GRU over a sequence, forward and backward, with the same weights here and in PyTorch.

Everything that a layer can learn from is asked for: the gradients of the inputs, of the initial state and of all four parameters. Ours
are the targets of the scan compiler, compiled before anything is timed. "unfolded" runs the same layer step by step on the tape, where
asked for: `--only unfolded,PyTorch`. "hand-written kernel" is `tests/lstm_kernel.py`, the LSTM as bare NumPy can do it, without a tape.
"products alone" is the floor under what multiplies with NumPy's kernels: its matrix products (`--only "products alone,PyTorch"`).
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import targets
from bench import Case

LAYERS = {"RNN": 1, "LSTM": 2, "GRU": 1}  # and how many arrays their state is
PRODUCTS = "products alone"
SIZES = (  # T, B, D, H
    (50, 1, 32, 64),
    (20, 16, 16, 32),
    (100, 16, 64, 128),
    (50, 32, 128, 256),
    (100, 64, 256, 512),
    (64, 32, 512, 1024),
)
TITLE = "layers: RNN (tanh), LSTM, GRU, one layer, forward + backward to inputs, initial state and parameters, float32"

# Relative to the largest entry of an array. A gradient of a weight sums T x B products, up to 6400, and those of the first steps have come
# through all the later ones: an error of sqrt(6400) roundings of 6e-8 each is 5e-6; a wrong formula is off by 1e-2 and more.
TOLERANCE = 1e-4

Size = tuple[int, int, int, int]


def problem(layer: str, size: Size) -> tuple[Any, tuple[Any, ...], Any, dict[str, Any]]:
    """The inputs xs (T, B, D), the initial state (1, B, H) each, dL/dhs (T, B, H), and the layer's state dict."""
    from tinygrad_seq import nn

    T, B, D, H = size
    rng = np.random.default_rng(0)
    xs, g_hs = (rng.standard_normal(shape, np.float32) for shape in ((T, B, D), (T, B, H)))
    state = tuple(0.5 * rng.standard_normal((1, B, H), np.float32) for _ in range(LAYERS[layer]))
    return xs, state, g_hs, getattr(nn, layer)(D, H, rng=0).state_dict()


# ---- Adapters: set a problem up, return the call that is timed, which returns hs and the gradients -------------------------------------


def tinygrad_seq(target: str, layer: str, size: Size) -> Callable[[], list[Any]]:
    import tinygrad_seq as tg
    from tinygrad_seq import nn

    (_, _, D, H), (xs, state, g_hs, weights) = size, problem(layer, size)
    module = getattr(nn, layer)(D, H)
    module.load_state_dict(weights)
    x, *s = (tg.tensor(array, requires_grad=True) for array in (xs, *state))
    g = tg.tensor(g_hs)
    leaves = [x, *s, *module.parameters()]

    def call() -> list[Any]:
        for leaf in leaves:
            leaf.grad = None
        hs, _ = module(x, tuple(s) if len(s) > 1 else s[0])
        hs.backward(g)
        return [hs.numpy(), *(leaf.grad.numpy() for leaf in leaves)]

    return targets.on(target, call, module, x)


def hand_written(layer: str, size: Size) -> Callable[[], list[Any]]:
    sys.path.append(str(Path(__file__).resolve().parent.parent / "tests"))
    import lstm_kernel

    assert layer == "LSTM"
    xs, state, g_hs, weights = problem(layer, size)
    arguments = [xs, *(array[0] for array in state), *weights.values()]

    def call() -> list[Any]:
        hs, _, saved = lstm_kernel.forward(*arguments)
        x, h0, c0, *params = lstm_kernel.backward(saved, g_hs)
        return [hs, x, h0[None], c0[None], *params]

    return call


def products_alone(layer: str, size: Size) -> Callable[[], list[Any]]:
    """Only the matrix products of a layer, in NumPy: the floor under every target that multiplies with the same kernels."""
    T, B, D, H = size
    answer = tinygrad_seq("numpy", layer, size)()
    blocks = {"RNN": 1, "LSTM": 4, "GRU": 3}[layer]
    rng = np.random.default_rng(0)
    rows = min(T, max(1, 1024 // B)) * B  # of the deltas that are multiplied at once
    shapes = ((blocks * H, D + 1 + H), (D + 1 + H, B), (H, blocks * H), (blocks * H, B), (blocks * H, rows), (rows, D), (rows, H))
    w, seen, back, delta, deltas, xs, hs = (0.1 * rng.standard_normal(shape, np.float32) for shape in shapes)
    z, d = np.empty((blocks * H, B), np.float32), np.empty((H, B), np.float32)
    w_ih = np.ascontiguousarray(w[:, :D])

    def call() -> list[Any]:
        for _ in range(T):
            np.dot(w, seen, out=z)
            np.dot(back, delta, out=d)
        for start in range(0, T * B, rows):
            n = min(rows, T * B - start)
            deltas[:, :n] @ xs[:n], deltas[:, :n] @ hs[:n], deltas[:, :n].T @ w_ih
        return answer

    return call


def pytorch(layer: str, size: Size) -> Callable[[], list[Any]]:
    import torch

    (_, _, D, H), (xs, state, g_hs, weights) = size, problem(layer, size)
    module = getattr(torch.nn, layer)(D, H)
    module.load_state_dict({name: torch.tensor(array) for name, array in weights.items()})
    x, *s = (torch.tensor(array, requires_grad=True) for array in (xs, *state))
    g = torch.tensor(g_hs)
    leaves = [x, *s, *module.parameters()]

    def call() -> list[Any]:
        for leaf in leaves:
            leaf.grad = None
        hs, _ = module(x, tuple(s) if len(s) > 1 else s[0])
        hs.backward(g)
        return [hs.detach().numpy(), *(leaf.grad.numpy() for leaf in leaves)]

    return call


FRAMEWORKS = {  # name in the table -> adapter, the module that it needs, the layers that it has
    **{name: (partial(tinygrad_seq, target), "tinygrad_seq", tuple(LAYERS)) for name, target in targets.COLUMNS.items()},
    "hand-written kernel": (hand_written, "numpy", ("LSTM",)),
    PRODUCTS: (products_alone, "numpy", tuple(LAYERS)),
    "PyTorch": (pytorch, "torch", tuple(LAYERS)),
}


def cases(sizes: Sequence[Size] = SIZES) -> Iterator[Case]:
    """One case per layer and size, with every framework that is installed."""
    missing = targets.absent()
    for name, (_, module, _) in FRAMEWORKS.items():
        try:
            importlib.import_module(module)
        except ImportError as why:
            missing[name] = str(why)
    for layer in LAYERS:
        for size in sizes:
            present = {name: f for name, (f, _, layers) in FRAMEWORKS.items() if name not in missing and layer in layers}
            yield Case(
                "{} T={} B={} D={} H={}".format(layer, *size),
                {name: partial(adapter, layer, size) for name, adapter in present.items()},
                missing,
                TOLERANCE,
                group=layer,
                ours=dict.fromkeys((*targets.OURS, PRODUCTS), ()),
                optional=(targets.UNFOLDED, PRODUCTS),
            )
