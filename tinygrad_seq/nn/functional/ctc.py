"""Connectionist temporal classification (Graves, Fernández, Gomez & Schmidhuber 2006): a loss for targets that say what, not when.

A path π = π_1 ... π_T names a symbol or the blank ∅ at each of T moments. It reads as a labelling by the map B: repeats are merged, then
blanks dropped, B(a a ∅ a b) = a a b. The probability of a labelling is that of all paths that read as it,

    p(l) = Σ_(π: B(π) = l)  Π_t y_t(π_t)          L = -log p(l)          y_t(k): the probability of symbol k at time t

The sum goes over exponentially many paths, but they all walk through the states of l' = ∅ l_1 ∅ l_2 ∅ ... l_S ∅, of which there are 2S + 1:
a path stays, goes one on, or skips a blank between two different symbols. With α_t(s) the sum over the beginnings of paths that are in
state s at time t,

    α_t(s) = y_t(l'_s) (α_(t-1)(s) + α_(t-1)(s-1) [+ α_(t-1)(s-2)  if l'_s is neither blank nor l'_(s-2)])
    p(l)   = α_T(2S) + α_T(2S-1)                   states counted from 0; a path begins in state 0 or 1

and everything in logarithms, where products of a thousand probabilities stay numbers.

The gradient. β_t(s), the sum over the ends of paths from state s at time t on, is the α of the same string read backwards. Both contain
y_t(l'_s), so α_t(s) β_t(s) / y_t(l'_s) is the probability of all paths through s at t, and for every t these sum to p(l) over s. A path
has one factor y_t(k) for each t, so

    ∂p/∂log y_t(k) = Σ_(s: l'_s = k) α_t(s) β_t(s) / y_t(l'_s)          ∂L/∂log y_t(k) = -(the same) / p(l) =: -γ_t(k)

γ_t(k) is the probability that a path which reads as l is at k at time t. Behind a log softmax of scores o the derivative becomes
∂L/∂o_t(k) = y_t(k) - γ_t(k): the prediction minus the truth as far as it is known.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ... import backend
from ...errors import ArgumentError, ShapeError, describe, message
from ...frames import frame
from ...fusion import fused
from ...graph import raw
from ...ops import concatenate, expand_dims, isinf, logaddexp, take_along_axis, unstack, where
from ...primitives import backward_of
from .linear import indices
from .reduction import floats, known_reduction, reduced

NOTHING, LEAST = -1e30, -1e25  # in the kernel log 0 is a number: NOTHING - NOTHING = 0, and no sum of LEASTs comes near it


def ctc_loss(
    log_probs: Any,
    targets: Any,
    input_lengths: Any,
    target_lengths: Any,
    blank: int = 0,
    reduction: str = "mean",
    zero_infinity: bool = False,
) -> Any:
    """The surprise -log p(l) at the labellings l, summed over all alignments in time.

    log_probs (T, B, C): logarithms of the probabilities of C symbols, one of them the blank. targets (B, S) symbols, padded with anything,
    or all rows joined in one (S_1 + ... + S_B,). input_lengths, target_lengths (B,): T_b <= T and S_b <= S. Without B: (T, C), (S,) and
    two numbers. -> for reduction="none" (B,), "sum" their sum; "mean" divides each by its S_b (by 1 where that is 0) and averages.

    A row too short for its target (T_b < S_b + the repeats in it) costs infinity, with gradient 0; zero_infinity makes that 0.
    """
    known_reduction("ctc_loss", reduction)
    shape = tuple(raw(floats("ctc_loss", "log_probs", log_probs)).shape)
    if len(shape) == 2:
        log_probs, targets = expand_dims(log_probs, 1), _host(targets).reshape(1, -1)
        input_lengths, target_lengths = _host(input_lengths).reshape(-1), _host(target_lengths).reshape(-1)
    elif len(shape) != 3:
        raise ShapeError(message(f"ctc_loss: log_probs {shape}", expected="(T, B, C), or (T, C) for a single row"))
    T, B, C = log_probs.shape
    if not 0 <= blank < C:
        raise ArgumentError(message(f"ctc_loss: blank = {blank}", expected=f"0 ... {C - 1}, one of the symbols"))
    T_b = _lengths("input_lengths", input_lengths, B, T)
    S_b = _lengths("target_lengths", target_lengths, B, None)
    labels = _with_blanks(_padded(_host(targets), S_b, C, blank), S_b, blank)
    skips = np.zeros(labels.shape, bool)
    skips[:, 2:] = (labels[:, 2:] != blank) & (labels[:, 2:] != labels[:, :-2])
    device = backend.device_of(raw(log_probs))
    here = [backend.to_device(x, device) for x in (labels, skips, T_b, S_b)]
    losses = _ctc(log_probs, *here)
    if zero_infinity:
        losses = where(isinf(losses), 0, losses)
    if len(shape) == 2:
        losses = losses[0]
    if reduction != "mean":
        return reduced(losses, reduction)
    symbols = backend.to_device(np.maximum(S_b, 1).astype(raw(losses).dtype), device)
    return (losses / symbols.reshape(losses.shape)).mean()


def _ctc_equation(log_probs: Any, labels: Any, skips: Any, T_b: Any, S_b: Any, /) -> Any:
    """-log p(l) by the recursion for α, one step after another."""
    moments = unstack(take_along_axis(log_probs, labels[None], axis=-1))  # T times (B, 2S + 1)
    xp = backend.array_module(labels)
    states = xp.arange(labels.shape[1])
    nothing = xp.full((labels.shape[0], 2), -math.inf, moments[0].dtype)
    alpha = None
    with frame("ctc"):
        for t, y in enumerate(moments, 1):
            with frame("step", t):
                if alpha is None:
                    now = where(states < 2, y, -math.inf)
                    alpha = where((T_b >= 1)[:, None], now, where(states == 0, 0, -math.inf).astype(y.dtype))
                    continue
                before = concatenate((nothing, alpha), axis=1)
                skipped = where(skips, before[:, :-2], -math.inf)
                now = y + logaddexp(logaddexp(before[:, 2:], before[:, 1:-1]), skipped)
                alpha = where((T_b >= t)[:, None], now, alpha)
    last = take_along_axis(alpha, 2 * S_b[:, None], axis=1)[:, 0]
    symbol = take_along_axis(alpha, xp.maximum(2 * S_b[:, None] - 1, 0), axis=1)[:, 0]
    return -logaddexp(last, where(S_b > 0, symbol, -math.inf))


@fused(equation=_ctc_equation)
def _ctc(log_probs: Any, labels: Any, skips: Any, T_b: Any, S_b: Any, /) -> Any:
    xp = backend.array_module(log_probs)
    y = np.take_along_axis(log_probs, labels[None], axis=-1)  # (T, B, 2S + 1)
    states, rows = xp.arange(labels.shape[1]), xp.arange(len(T_b))
    alpha = _alphas(y, skips, xp.zeros(len(T_b), int), (states < 2)[None])
    last = where(T_b > 0, alpha[T_b - 1, rows, 2 * S_b], where(S_b > 0, NOTHING, 0))
    symbol = where((T_b > 0) & (S_b > 0), alpha[T_b - 1, rows, xp.maximum(2 * S_b - 1, 0)], NOTHING)
    log_p = np.logaddexp(last, symbol).astype(y.dtype)
    log_p = where(log_p > NOTHING / 2, log_p, -math.inf)
    return -log_p, (alpha, log_p)


@backward_of(_ctc)
def _(g: Any, loss: Any, saved: Any, log_probs: Any, labels: Any, skips: Any, T_b: Any, S_b: Any) -> Any:
    alpha, log_p = saved
    return _minus_occupancy(g, alpha, log_p, log_probs, labels, skips, T_b, S_b), None, None, None, None


def _alphas(y: Any, skips: Any, begins: Any, first: Any) -> Any:
    """log α_t(s) for all moments, of rows that begin at the moments `begins` (B,), in their states `first` (B or 1, 2S + 1).

    y (T, B, 2S + 1) log probabilities -> the same shape. Before a row begins there is nothing in it, or NaN where y has that.
    """
    T, B, states = y.shape
    xp = backend.array_module(y)
    alpha = xp.full((T, B, states + 2), NOTHING, y.dtype)  # two states of nothing before the first
    y, barred = xp.maximum(y, LEAST), where(skips, 0, NOTHING).astype(y.dtype)
    beginning = begins == xp.arange(T)[:, None]  # (T, B)
    some_begin = [True] * T if xp is not np else beginning.any(axis=1).tolist()
    ways, top = xp.empty((3, B, states), y.dtype), xp.empty((B, states), y.dtype)
    for t in range(T):
        now = alpha[t, :, 2:]
        if t > 0:  # log(e^a + e^b + e^c) = top + log(e^(a - top) + e^(b - top) + e^(c - top))
            before = alpha[t - 1]
            np.add(before[:, :-2], barred, out=ways[2])
            np.maximum(before[:, 2:], before[:, 1:-1], out=top)
            np.maximum(top, ways[2], out=top)
            np.subtract(before[:, 2:], top, out=ways[0])
            np.subtract(before[:, 1:-1], top, out=ways[1])
            np.subtract(ways[2], top, out=ways[2])
            np.exp(ways, out=ways)
            np.add(ways[0], ways[1], out=now)
            now += ways[2]
            np.log(now, out=now)
            now += top
            now += y[t]
        if some_begin[t]:
            now[...] = where(beginning[t, :, None], where(first, y[t], NOTHING), now)
    return alpha[:, :, 2:]


def _minus_occupancy(g: Any, alpha: Any, log_p: Any, log_probs: Any, labels: Any, skips: Any, T_b: Any, S_b: Any) -> Any:
    """-g γ_t(k), where β is the α of the mirror image: row b begins at its last moment, in its last state or the one before."""
    T, B, C = log_probs.shape
    states = labels.shape[1]
    xp = backend.array_module(log_probs)
    rows, state = xp.arange(B), xp.arange(states)
    y = np.take_along_axis(log_probs, labels[None], axis=-1)
    mirrored = xp.zeros(skips.shape, bool)
    mirrored[:, 2:] = skips[:, :1:-1]  # who may skip into s from s - 2 may skip from s to s - 2
    ends = (state == 2 * S_b[:, None]) | (state == 2 * S_b[:, None] - 1)
    beta = _alphas(y[::-1, :, ::-1], mirrored, T - T_b, ends[:, ::-1])[::-1, :, ::-1]
    inside = (xp.arange(T)[:, None] < T_b)[:, :, None] & (state <= 2 * S_b[:, None]) & (log_p > -math.inf)[:, None]
    occupancy = alpha + beta
    occupancy -= xp.maximum(y, LEAST)
    occupancy -= where(log_p > -math.inf, log_p, 0)[:, None]
    occupancy = np.exp(where(inside, occupancy, -math.inf), out=occupancy)
    occupancy *= -g[:, None]
    out = xp.zeros((T, B, C), log_probs.dtype)
    out[:, rows, labels[:, 0]] = occupancy[:, :, 0::2].sum(axis=2)  # the blanks
    for s in range(1, states, 2):  # (b, l'_s) names each place once
        out[:, rows, labels[:, s]] += occupancy[:, :, s]
    return out


# ---- Labels and lengths --------------------------------------------------------------------------------------------------------------


def _host(x: Any) -> Any:
    return np.asarray(backend.to_numpy(raw(x)))


def _lengths(name: str, given: Any, B: int, most: int | None) -> Any:
    lengths = _host(given)
    if lengths.shape != (B,) or lengths.dtype.kind not in "iu":
        turned = most is not None and lengths.shape == (most,)
        raise ShapeError(
            message(
                f"ctc_loss: {name} {describe(lengths)} do not fit {B} rows",
                expected=f"integers ({B},), one for each row",
                do="log_probs.swapaxes(0, 1): they are (T, B, C), the batch second" if turned else "",
            )
        )
    if lengths.size and not (lengths.min() >= 0 and (most is None or lengths.max() <= most)):
        most_said = "" if most is None else f" ... T = {most}"
        raise ShapeError(message(f"ctc_loss: {name} lie in {lengths.min()} ... {lengths.max()}", expected=f"0{most_said}"))
    return lengths.astype(np.int64)


def _padded(targets: Any, S_b: Any, C: int, blank: int) -> Any:
    """The targets as (B, S), blanks behind the end of a row."""
    S = int(S_b.max(initial=0))
    if targets.ndim == 1:
        if len(targets) != S_b.sum():
            raise ShapeError(message(f"ctc_loss: {len(targets)} targets in one row", expected=f"sum(target_lengths) = {S_b.sum()}"))
        places = (np.cumsum(S_b) - S_b)[:, None] + np.arange(S)
    elif targets.ndim == 2 and targets.shape[0] == len(S_b) and targets.shape[1] >= S:
        places = np.arange(len(S_b))[:, None] * targets.shape[1] + np.arange(S)
    else:
        raise ShapeError(
            message(
                f"ctc_loss: targets {targets.shape} do not fit",
                expected=f"({len(S_b)}, {S}), as many as the largest of target_lengths, or all joined in one row",
                do="targets.T: (B, S), the batch first" if targets.shape == (S, len(S_b)) else "",
            )
        )
    real = np.arange(S) < S_b[:, None]
    symbols = targets.reshape(-1)[np.where(real, places, 0)] if real.any() else np.zeros(real.shape, np.int64)
    indices("ctc_loss: targets", symbols[real], C, symbols)
    if (symbols[real] == blank).any():
        raise ArgumentError(
            message(f"ctc_loss: a target is {blank}, the blank", expected="symbols; the paths between them have blanks")
        )
    return np.where(real, symbols, blank).astype(np.int64)


def _with_blanks(symbols: Any, S_b: Any, blank: int) -> Any:
    labels = np.full((symbols.shape[0], 2 * symbols.shape[1] + 1), blank)
    labels[:, 1::2] = symbols
    return labels
