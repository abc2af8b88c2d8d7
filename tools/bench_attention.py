"""Suite `attention`: one transformer encoder layer, forward and backward, with the same weights here and in PyTorch.

The layer is in training mode without dropout, so that PyTorch takes its ordinary path; the input has a gradient, as inside a stack.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
from bench import Case

SIZES = ((8, 32, 64, 4), (16, 64, 128, 4), (8, 256, 256, 8))  # B, T, E, heads
TITLE = "attention: a transformer encoder layer (dim_feedforward 4E, relu, batch first), forward + backward, float32"

Size = tuple[int, int, int, int]


def problem(size: Size) -> tuple[Any, Any, dict[str, Any]]:
    """The input xs (B, T, E), the weighting of the outputs in the loss, and the layer's state dict."""
    from tinygrad_seq import nn

    B, T, E, heads = size
    rng = np.random.default_rng(0)
    xs, weighting = (rng.standard_normal((B, T, E), np.float32) for _ in range(2))
    return xs, weighting, nn.TransformerEncoderLayer(E, heads, 4 * E, 0.0, batch_first=True, rng=0).state_dict()


def tinygrad_seq(size: Size) -> Callable[[], list[Any]]:
    import tinygrad_seq as tg
    from tinygrad_seq import nn

    (_, _, E, heads), (xs, weighting, state) = size, problem(size)
    layer = nn.TransformerEncoderLayer(E, heads, 4 * E, 0.0, batch_first=True)
    layer.load_state_dict(state)
    x, w = tg.tensor(xs, requires_grad=True), tg.tensor(weighting)
    params = [x, *layer.parameters()]

    def call() -> list[Any]:
        for p in params:
            p.grad = None
        (layer(x) * w).sum().backward()
        return [p.grad.numpy() for p in params]

    return call


def pytorch(size: Size) -> Callable[[], list[Any]]:
    import torch

    (_, _, E, heads), (xs, weighting, state) = size, problem(size)
    layer = torch.nn.TransformerEncoderLayer(E, heads, 4 * E, 0.0, batch_first=True)
    layer.load_state_dict({name: torch.tensor(array) for name, array in state.items()})
    x, w = torch.tensor(xs, requires_grad=True), torch.tensor(weighting)
    params = [x, *layer.parameters()]

    def call() -> list[Any]:
        for p in params:
            p.grad = None
        (layer(x) * w).sum().backward()
        return [p.grad.numpy() for p in params]  # type: ignore[union-attr]

    return call


def cases() -> Iterator[Case]:
    """One case per size."""
    missing = {}
    try:
        import torch  # noqa: F401
    except ImportError as why:
        missing["PyTorch"] = str(why)
    for size in SIZES:
        frameworks = {name: partial(f, size) for name, f in FRAMEWORKS.items() if name not in missing}
        yield Case("B={} T={} E={} heads={}".format(*size), frameworks, missing, tolerance=1e-3)


FRAMEWORKS = {"tinygrad_seq": tinygrad_seq, "PyTorch": pytorch}
