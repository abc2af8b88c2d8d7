"""The same layer or function in PyTorch, with the same numbers: outputs and every gradient must agree. Imports PyTorch when called."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import tinygrad_seq as tg

TOLERANCE = {"float64": 1e-9, "float32": 1e-4}  # relative to the largest entry of an array; per type


def module_agrees(ours: Any, theirs: Any, *inputs: Any, dtype: str = "float64", call: dict[str, Any] | None = None) -> None:
    """Both modules get the state dict of ours and the same inputs (arrays, None, nested tuples); keywords `call` go to both.

    Compares all outputs, and the gradients of a random weighting of them with respect to float inputs and every parameter by name.
    """
    import torch

    ours.to(dtype=dtype)
    theirs = theirs.to(getattr(torch, dtype))
    state = ours.state_dict()
    theirs.load_state_dict({name: torch.tensor(array) for name, array in state.items()})
    assert list(theirs.state_dict()) == list(state), "the same names in the same order"
    names = [name for name, _ in ours.named_parameters()]
    mine = dict(ours.named_parameters())
    others = dict(theirs.named_parameters())
    for p in mine.values():
        p.grad = None
    agrees(ours, theirs, *inputs, dtype=dtype, call=call, also=[(f"parameter {name}", mine[name], others[name]) for name in names])
    if mine_buffers := dict(ours.named_buffers()):
        for name, theirs_buffer in theirs.named_buffers():
            if name in mine_buffers:
                close(mine_buffers[name].numpy(), theirs_buffer.numpy(), dtype, f"buffer {name}")


def agrees(
    ours: Callable[..., Any],
    theirs: Callable[..., Any],
    *inputs: Any,
    dtype: str = "float64",
    call: dict[str, Any] | None = None,
    also: Sequence[tuple[str, Any, Any]] = (),
) -> None:
    """Call both functions on the same inputs and compare outputs and gradients; `also`: further (label, our leaf, their leaf)."""
    import torch

    leaves: list[tuple[str, Any, Any]] = list(also)

    def pair(x: Any, label: str) -> tuple[Any, Any]:
        if isinstance(x, (tuple, list)):
            pairs = [pair(part, f"{label}[{i}]") for i, part in enumerate(x)]
            return tuple(a for a, _ in pairs), tuple(b for _, b in pairs)
        if not isinstance(x, np.ndarray):
            return x, x
        if x.dtype.kind == "f":
            x = x.astype(dtype)
            a, b = tg.tensor(x, requires_grad=True), torch.tensor(x, requires_grad=True)
            leaves.append((label, a, b))
            return a, b
        return x, torch.tensor(x)

    pairs = [pair(x, f"input {i}") for i, x in enumerate(inputs)]
    words = {name: pair(x, name) for name, x in (call or {}).items()}
    y = flat(ours(*[a for a, _ in pairs], **{k: a for k, (a, _) in words.items()}))
    z = flat(theirs(*[b for _, b in pairs], **{k: b for k, (_, b) in words.items()}))
    assert len(y) == len(z), f"{len(y)} outputs, PyTorch has {len(z)}"
    rng = np.random.default_rng(0)
    mine, others = None, None
    for i, (a, b) in enumerate(zip(y, z, strict=True)):
        close(a.numpy(), b.detach().numpy(), dtype, f"output {i}")
        if b.requires_grad:
            w = rng.standard_normal(a.shape).astype(dtype)
            mine = (a * w).sum() if mine is None else mine + (a * w).sum()
            others = (b * torch.tensor(w)).sum() if others is None else others + (b * torch.tensor(w)).sum()
    if mine is None:
        return
    mine.backward()
    others.backward()
    for label, a, b in leaves:
        assert (a.grad is None) == (b.grad is None) or not np.any((b.grad if a.grad is None else a.grad).numpy()), label
        if a.grad is not None and b.grad is not None:
            close(a.grad.numpy(), b.grad.numpy(), dtype, f"gradient of {label}")


def flat(y: Any) -> list[Any]:
    """Nested tuples as one list, without None."""
    if isinstance(y, (tuple, list)):
        return [part for x in y for part in flat(x)]
    return [] if y is None else [y]


def close(a: np.ndarray, b: np.ndarray, dtype: str, label: str) -> None:
    assert a.shape == tuple(b.shape), f"{label}: shape {a.shape}, PyTorch has {tuple(b.shape)}"
    if a.size:
        scale = max(1.0, float(np.nanmax(np.abs(np.where(np.isfinite(b), b, 0)), initial=0)))
        np.testing.assert_allclose(a, b, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype] * scale, err_msg=label)
