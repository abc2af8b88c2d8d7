"""Suite `conv`: a small stack of convolutions, forward and backward, in NumPy through this package and in PyTorch.

    Conv2d(C, out, 3, padding=1) -> ReLU -> Conv2d(out, out, 3, padding=1) -> ReLU -> MaxPool2d(2) -> mean of squares

`stack` is the same code for both, with the same weights; compared are the gradients of the input and of every weight and bias.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
from bench import Case

SIZES = ((16, 1, 16, 16), (32, 16, 16, 32), (16, 32, 32, 64))  # B, C, S, out: images of S x S
TITLE = "conv: two convolutions 3x3, ReLU, max pooling, forward + backward, float32"


def stack(x: Any, first: Any, second: Any, relu: Any, pool: Any) -> Any:
    """The mean of squares of what two convolutions and a pooling make of the images x (B, C, S, S)."""
    y = pool(relu(second(relu(first(x)))))
    return (y * y).mean()


def problem(B: int, C: int, S: int, out: int) -> tuple[Any, list[Any]]:
    """The images, and weight and bias of both convolutions, as float32 arrays."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((B, C, S, S), np.float32)
    shapes = ((out, C, 3, 3), (out,), (out, out, 3, 3), (out,))
    return x, [0.1 * rng.standard_normal(shape, np.float32) for shape in shapes]


# ---- Adapters: set a problem up, return the call that is timed, which returns the gradients ----------------------------------------------


def tinygrad_seq(size: tuple[int, int, int, int]) -> Callable[[], list[Any]]:
    import tinygrad_seq as tg
    from tinygrad_seq import nn
    from tinygrad_seq.nn import functional as F

    images, weights = problem(*size)
    _, C, _, out = size
    x, first, second, pool = tg.tensor(images, requires_grad=True), *_layers(nn, C, out)
    params = [first.weight, first.bias, second.weight, second.bias]
    with tg.no_grad():
        for p, array in zip(params, weights, strict=True):
            p[...] = array

    def call() -> list[Any]:
        for p in (x, *params):
            p.grad = None
        stack(x, first, second, F.relu, pool).backward()
        return [p.grad.numpy() for p in (x, *params)]

    return call


def pytorch(size: tuple[int, int, int, int]) -> Callable[[], list[Any]]:
    import torch

    images, weights = problem(*size)
    _, C, _, out = size
    x, first, second, pool = torch.tensor(images, requires_grad=True), *_layers(torch.nn, C, out)
    params = [first.weight, first.bias, second.weight, second.bias]
    with torch.no_grad():
        for p, array in zip(params, weights, strict=True):
            p.copy_(torch.tensor(array))

    def call() -> list[Any]:
        for p in (x, *params):
            p.grad = None
        stack(x, first, second, torch.relu, pool).backward()  # type: ignore[no-untyped-call]
        return [p.grad.numpy() for p in (x, *params)]

    return call


def _layers(nn: Any, C: int, out: int) -> tuple[Any, Any, Any]:
    return nn.Conv2d(C, out, 3, padding=1), nn.Conv2d(out, out, 3, padding=1), nn.MaxPool2d(2)


def cases() -> Iterator[Case]:
    """One case per size."""
    missing = {}
    try:
        import torch  # noqa: F401
    except ImportError as why:
        missing["PyTorch"] = str(why)
    for B, C, S, out in SIZES:
        frameworks = {name: partial(f, (B, C, S, out)) for name, f in FRAMEWORKS.items() if name not in missing}
        yield Case(f"B={B} C={C} S={S} out={out}", frameworks, missing, tolerance=1e-4)


FRAMEWORKS = {"tinygrad_seq": tinygrad_seq, "PyTorch": pytorch}
