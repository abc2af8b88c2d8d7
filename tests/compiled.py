"""What the tests of compiled time loops share: the targets, the sign that a loop was compiled, and the comparison with the unfolded one."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
import pytest

import tinygrad_seq as tg
from tinygrad_seq.graph import Value

TOLERANCE = {"float64": 1e-10, "float32": 1e-4}  # absolute up to 1, relative to the largest entry of an array beyond


NUMBA = [pytest.mark.skipif(importlib.util.find_spec("numba") is None, reason="Numba is not installed")]
numba = pytest.param("numba", marks=NUMBA)
slow_numba = pytest.param("numba", marks=[*NUMBA, pytest.mark.slow])  # where many cells are compiled, each in a second or so
each_target = pytest.mark.parametrize("target", ["numpy", numba])
mostly_numpy = pytest.mark.parametrize("target", ["numpy", slow_numba])


class Run(NamedTuple):
    """What a run gave: outputs by name, each an array or nested tuples of them, and the leaves that gradients are asked of."""

    outputs: dict[str, Any]
    leaves: dict[str, tg.Tensor]


def on(target: str) -> contextlib.AbstractContextManager[Any]:
    """A `with` block whose loops are compiled for this target."""
    return tg.scan_target(target)


def compiled(*outputs: Any, loops: int = 1) -> None:
    """Assert that behind the outputs stand as many fused nodes as loops, and no node of a single time step: the tape has no length.

    A loop of one step is that step.
    """
    nodes = tape(outputs)
    if times(nodes) == {1}:
        return
    fused = [node for node in nodes if node.prim is not None and node.prim.equation is not None]
    assert len(fused) == loops, f"{len(fused)} fused nodes for {loops} loops among {nodes}"
    assert not times(nodes), f"single steps were recorded: {[node for node in nodes if node.frame and node.frame.time]}"


def tape(outputs: Any) -> list[Any]:
    """All nodes that the outputs depend on."""
    return tg.toposort([part for part in parts(outputs) if isinstance(part, Value) and part.node is not None])


def times(nodes: Iterable[Any]) -> set[int]:
    """The time steps at which nodes were recorded."""
    return {node.frame.time for node in nodes if node.frame is not None and node.frame.time is not None}


def parts(value: Any) -> list[Any]:
    """The arrays of nested tuples and dicts."""
    if isinstance(value, dict):
        value = tuple(value.values())
    return [part for inner in value for part in parts(inner)] if isinstance(value, (tuple, list)) else [value]


def numbers(run: Run) -> dict[str, np.ndarray]:
    """All outputs, and the gradients of every leaf, of a random weighting of all outputs together and of those of each name alone."""
    named = {f"{name}[{i}]": part for name, value in run.outputs.items() for i, part in enumerate(parts(value))}
    found = {name: part.numpy() if isinstance(part, Value) else np.asarray(part) for name, part in named.items()}
    losses = {"everything": list(named), **{name: [k for k in named if k.startswith(f"{name}[")] for name in run.outputs}}
    if len(run.outputs) == 1:
        del losses["everything"]
    weights = {name: np.random.default_rng(7).standard_normal(a.shape).astype(a.dtype) for name, a in found.items()}
    for loss_of, names in losses.items():
        terms = [(named[k] * weights[k]).sum() for k in names if named[k].dtype.kind == "f"]
        loss = sum(terms[1:], start=terms[0]) if terms else None
        recorded = isinstance(loss, Value) and loss.node is not None
        gradients = tg.grad(loss, list(run.leaves.values()), allow_unused=True) if recorded else [None] * len(run.leaves)
        for (name, leaf), g in zip(run.leaves.items(), gradients, strict=True):
            found[f"d {loss_of} / d {name}"] = np.zeros(leaf.shape, leaf.dtype) if g is None else g.numpy()
    return found


def agree(mine: dict[str, np.ndarray], theirs: dict[str, np.ndarray], tolerance: float) -> None:
    """Assert the same names, shapes, dtypes and, within the tolerance, numbers."""
    assert list(mine) == list(theirs)
    for name, a in mine.items():
        b = theirs[name]
        assert (a.shape, a.dtype) == (b.shape, b.dtype), name
        scale = max(1.0, float(np.abs(np.where(np.isfinite(b), b, 0)).max(initial=0))) if b.size else 1.0
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * scale, err_msg=name)


def same_as_unfolded(
    run: Callable[[], Run], target: str = "numpy", *, tolerance: float = 1e-10, loops: int | None = 1
) -> dict[str, np.ndarray]:
    """Assert that a run gives the same compiled and step by step, and that it was compiled (loops=None: it need not be). Returns the numbers."""
    with on(target):
        mine = run()
    if loops is not None and tape(mine.outputs):
        compiled(mine.outputs, loops=loops)
    with tg.unfolded():
        theirs = run()
    found, expected = numbers(mine), numbers(theirs)
    agree(found, expected, tolerance)
    return found
