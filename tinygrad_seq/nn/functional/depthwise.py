"""Convolution of each channel with one kernel of its own (groups = channels): nothing to multiply as matrices.

The sum over taps is written as it stands, each tap a product of whole rows of channels, instead of one tiny matrix product for
every group. Takes and returns raw arrays, channels last; the derivative rules are in `conv`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from ... import backend
from .windows import Margins, Sizes, padded, pieces, places, taps


def correlate(x: Any, w: Any, b: Any, stride: Sizes, margins: Margins, dilation: Sizes) -> Any:
    """y[n, i, c] = b[c] + Σ_k w[c, k] x[n, s i + d k - p, c]: x (N, *S, C), w (C, 1, 1, *K), b (C,) or None -> (N, *places, C)."""
    kernel = w.shape[3:]
    count = places(x.shape[1:-1], kernel, stride, margins, dilation)
    y = backend.array_module(x).empty((len(x), *count, len(w)), np.result_type(x.dtype, w.dtype))
    y[...] = 0 if b is None else b
    weights = w.reshape(len(w), -1).T.copy()  # (taps, C)
    for some, seen in _seen(x, kernel, stride, margins, dilation, count):
        part = y[some]
        for tap, weight in zip(seen, weights, strict=True):
            part += tap * weight
    return y


def weight_gradient(x: Any, g: Any, kernel: Sizes, stride: Sizes, margins: Margins, dilation: Sizes) -> Any:
    """w[c, k] = Σ_n Σ_i g[n, i, c] x[n, s i + d k - p, c]: x (N, *S, C), g (N, *places, C) -> (C, 1, *kernel)."""
    module, C = backend.array_module(x), x.shape[-1]
    w = module.zeros((math.prod(kernel), C), np.result_type(x.dtype, g.dtype))
    for some, seen in _seen(x, kernel, stride, margins, dilation, g.shape[1:-1]):
        part = g[some]
        ones = module.ones(part.size // C, part.dtype)
        for k, tap in enumerate(seen):
            w[k] += ones @ (tap * part).reshape(-1, C)
    return w.T.reshape(C, 1, *kernel)


def _seen(
    x: Any, kernel: Sizes, stride: Sizes, margins: Margins, dilation: Sizes, count: Sizes
) -> Iterator[tuple[slice, Iterator[Any]]]:
    """For some images at a time, which the cache holds, what each tap sees."""
    for some in pieces(len(x), 4 * x.nbytes // max(1, len(x)), x):  # beside it stand y, or g, and their product
        yield some, taps(padded(x[some], margins), kernel, stride, dilation, count)
