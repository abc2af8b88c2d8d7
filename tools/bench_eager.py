"""Suite `eager`: one LSTM written with primitive ops, unfolded over 50 steps, forward and backward, in every framework.

`lstm` is the same code for all of them; an adapter says how a framework wraps an array, spells tanh and sigmoid, and differentiates.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
from bench import Case

STEPS = 50
SIZES = ((4, 8, 16), (16, 32, 64), (64, 128, 256))  # B, D, H
TITLE = f"eager: an LSTM written with primitive ops, forward + backward, T={STEPS}, float32"


def lstm(xs: Any, h: Any, c: Any, w: Any, u: Any, b: Any, tanh: Callable[[Any], Any], sigmoid: Callable[[Any], Any]) -> Any:
    """The sum of squares of the last state of an LSTM: xs (T, B, D), h and c (B, H), w (D, 4H), u (H, 4H), b (4H,)."""
    H = h.shape[-1]
    for t in range(STEPS):
        z = xs[t] @ w + h @ u + b  # (B, 4H)
        i, f = sigmoid(z[:, :H]), sigmoid(z[:, H : 2 * H])
        g, o = tanh(z[:, 2 * H : 3 * H]), sigmoid(z[:, 3 * H :])
        c = f * c + i * g
        h = o * tanh(c)
    return (h * h).sum()


def problem(B: int, D: int, H: int) -> tuple[list[Any], list[Any]]:
    """The constants xs, h, c and the weights w, u, b, as float32 arrays."""
    rng = np.random.default_rng(0)
    xs, w, u, b = (0.1 * rng.standard_normal(shape, np.float32) for shape in ((STEPS, B, D), (D, 4 * H), (H, 4 * H), (4 * H,)))
    state = np.zeros((B, H), np.float32)
    return [xs, state, state], [w, u, b]


# ---- Adapters: set a problem up, return the call that is timed, which returns the gradients of the weights ------------------------------


def tinygrad_seq(size: tuple[int, int, int]) -> Callable[[], list[Any]]:
    import tinygrad_seq as tg

    constants, weights = problem(*size)
    xs, h, c = (tg.tensor(x) for x in constants)
    params = [tg.tensor(x, requires_grad=True) for x in weights]

    def call() -> list[Any]:
        for p in params:
            p.grad = None
        lstm(xs, h, c, *params, tg.tanh, tg.sigmoid).backward()
        return [p.grad.numpy() for p in params]

    return call


def pytorch(size: tuple[int, int, int]) -> Callable[[], list[Any]]:
    import torch

    constants, weights = problem(*size)
    xs, h, c = (torch.tensor(x) for x in constants)
    params = [torch.tensor(x, requires_grad=True) for x in weights]

    def call() -> list[Any]:
        for p in params:
            p.grad = None
        lstm(xs, h, c, *params, torch.tanh, torch.sigmoid).backward()  # type: ignore[no-untyped-call]
        return [p.grad.numpy() for p in params]  # type: ignore[union-attr]

    return call


def hips_autograd(size: tuple[int, int, int], from_tanh: bool = False) -> Callable[[], list[Any]]:
    """Its sigmoid is SciPy's expit, one op, the fastest that it has; its own examples build one from tanh: from_tanh."""
    import autograd
    import autograd.numpy as anp
    from autograd.scipy.special import expit

    constants, weights = problem(*size)
    sigmoid = (lambda x: 0.5 * (anp.tanh(0.5 * x) + 1)) if from_tanh else expit
    gradient = autograd.grad(lambda params: lstm(*constants, *params, anp.tanh, sigmoid))
    return lambda: list(gradient(weights))


def mygrad(size: tuple[int, int, int]) -> Callable[[], list[Any]]:
    import mygrad as mg
    from mygrad.nnet.activations import sigmoid

    constants, weights = problem(*size)
    xs, h, c = (mg.tensor(x, constant=True) for x in constants)
    params = [mg.tensor(x) for x in weights]

    def call() -> list[Any]:
        for p in params:
            p.null_grad()
        lstm(xs, h, c, *params, mg.tanh, sigmoid).backward()
        return [p.grad for p in params]

    return call


FRAMEWORKS = {  # name in the table -> adapter, module that it needs
    "tinygrad_seq": (tinygrad_seq, "tinygrad_seq"),
    "PyTorch": (pytorch, "torch"),
    "HIPS autograd": (hips_autograd, "autograd"),
    "HIPS autograd, sigmoid from tanh": (partial(hips_autograd, from_tanh=True), "autograd"),
    "MyGrad": (mygrad, "mygrad"),
}


def cases() -> Iterator[Case]:
    """One case per size, with every framework that is installed."""
    missing = {}
    for name, (adapter, module) in FRAMEWORKS.items():
        try:
            importlib.import_module(module)
        except ImportError as why:
            if adapter is tinygrad_seq:
                raise
            missing[name] = str(why)
    for B, D, H in SIZES:
        frameworks = {name: partial(adapter, (B, D, H)) for name, (adapter, _) in FRAMEWORKS.items() if name not in missing}
        yield Case(f"B={B} D={D} H={H}", frameworks, missing, tolerance=1e-4)
