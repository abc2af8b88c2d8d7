"""Recursions with several taps: what a step reads of the past is more than the last state.

A path from t back to s may then take strides of up to p steps, so it is at least p times shorter, and gradients live longer.
"""

from __future__ import annotations

from typing import Any

from ...errors import ArgumentError, message
from ...ops import concatenate, sigmoid
from .linear import linear
from .rnn import nonlinearity_of


def taps_step(x: Any, *past_and_weights: Any, taps: int, nonlinearity: str = "tanh") -> tuple[Any, ...]:
    """One step of a simple recurrent network that reads its last p states: taps_step(x, h_1, ..., h_p, w_ih, w_hh, b_ih, b_hh, taps=p).

        h_t = f(W x_t + Σ_k U_k h_(t-k) + b)            k = 1, ..., p;  f: tanh or relu

    x (B, D), h_k = h_(t-k) (B, H), w_ih (H, D), w_hh (H, pH) = U_1 ... U_p side by side, b_ih and b_hh (H,) or absent -> the state of the
    next step (h_t, h_(t-1), ..., h_(t-p+1)).
    """
    past, (w_ih, w_hh, b_ih, b_hh) = _parted("taps_step", past_and_weights, taps, ("w_ih", "w_hh", "b_ih", "b_hh"), optional=2)
    f, _ = nonlinearity_of(nonlinearity)
    h = f(linear(x, w_ih, b_ih) + linear(concatenate(past, axis=-1), w_hh, b_hh))
    return (h, *past[:-1])


def narx_step(x: Any, *past_and_weights: Any, taps: int, nonlinearity: str = "sigmoid") -> tuple[Any, ...]:
    """One step of a nonlinear autoregression with exogenous inputs (Lin, Horne, Tiňo & Giles 1996): the recursion runs through the output.

        k_t = f(W_xk x_t + Σ_j W_j y_(t-j) + b_k)       j = 1, ..., p;  f: sigmoid, tanh or relu
        y_t = W_ky k_t + b_y

    Called as narx_step(x, y_1, ..., y_p, w_ih, w_yh, b_h, w_ho, b_o, taps=p): x (B, D), y_j = y_(t-j) (B, O), w_ih (K, D),
    w_yh (K, pO) = W_1 ... W_p side by side, w_ho (O, K), biases b_h (K,), b_o (O,) -> (y_t, y_(t-1), ..., y_(t-p+1)). The past outputs may
    be the model's own, or, taught by force, the true ones: who calls it says which.
    """
    names = ("w_ih", "w_yh", "b_h", "w_ho", "b_o")
    past, (w_ih, w_yh, b_h, w_ho, b_o) = _parted("narx_step", past_and_weights, taps, names)
    f, _ = nonlinearity_of(nonlinearity, {"sigmoid": (sigmoid, None)})
    k = f(linear(x, w_ih, b_h) + linear(concatenate(past, axis=-1), w_yh))
    return (linear(k, w_ho, b_o), *past[:-1])


def _parted(
    who: str, given: tuple[Any, ...], taps: int, names: tuple[str, ...], optional: int = 0
) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """The last states, and the weights by their order; the last `optional` of them may be left out."""
    weights = given[taps:]
    if taps < 1 or not len(names) - optional <= len(weights) <= len(names):
        raise ArgumentError(
            message(
                f"{who}: {len(given)} arrays after x",
                expected=f"{taps} past states, the newest first, then {', '.join(names)}",
            )
        )
    return given[:taps], weights + (None,) * (len(names) - len(weights))
