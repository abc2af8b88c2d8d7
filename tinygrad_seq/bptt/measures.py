"""Sizes of matrices, of which some may hold NaN or infinity, and numbers as text."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np


def frobenius(m: Any) -> Any:
    """The root of the sum of squares of each matrix; of large ones without overflow."""
    size = np.abs(m).max(axis=(-2, -1), keepdims=True)
    scale = np.where((size > 0) & np.isfinite(size), size, 1)
    with np.errstate(invalid="ignore"):
        return np.sqrt(((m / scale) ** 2).sum(axis=(-2, -1))) * scale[..., 0, 0]


def spectral(m: Any) -> Any:
    """The largest singular value of each matrix."""
    return svd(m)[..., 0]


def svd(m: Any) -> Any:
    """The singular values of each matrix, the largest first; NaN where it holds NaN, inf where it holds infinity."""
    return finite_only(lambda a: np.linalg.svd(a, compute_uv=False), m, m.shape[:-2])


def finite_only(f: Callable[[Any], Any], m: Any, lead: tuple[int, ...]) -> Any:
    """f of each matrix, which it could not answer for one that is not finite."""
    m = m.astype(np.float64)
    finite = np.isfinite(m).all(axis=(-2, -1))
    values = np.asarray(f(np.where(finite[..., None, None], m, 0)))
    bad = np.where(np.isnan(m).any(axis=(-2, -1)), np.nan, np.inf)
    return np.where(finite[..., None], values, bad[..., None]).reshape(*lead, values.shape[-1])


# ---- Text ------------------------------------------------------------------------------------------------------------------------------


def largest(x: Any) -> Any:
    """The largest number of each line; NaN where there is one."""
    return np.asarray(x).max(axis=-1)


def short(x: float) -> str:
    """A number in a few characters: 0, inf and nan as such."""
    return f"{x:.3e}" if math.isfinite(x) and x else f"{x:g}"


def lines_of(name: str, times: Any, columns: dict[str, list[str]], most: int) -> list[str]:
    """Aligned lines, one for each time; where there are more than `most`, those in the middle are left out."""
    T = len(times)
    head = [name, *columns]
    body = [[str(t), *(column[k] for column in columns.values())] for k, t in enumerate(times)]
    widths = [max(len(line[i]) for line in [head, *body]) for i in range(len(head))]
    lines = ["  ".join(f"{cell:>{width}}" for cell, width in zip(line, widths, strict=True)).rstrip() for line in [head, *body]]
    if most < T:
        top = (most + 1) // 2
        dots = f"{'...':>{widths[0]}}  ({T - most} more)"
        return [*lines[: 1 + top], dots, *lines[1 + T - (most - top) :]]
    return lines
