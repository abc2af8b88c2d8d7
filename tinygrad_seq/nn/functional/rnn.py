"""The simple recurrent network (Elman 1990): its equation, and back-propagation through time derived by hand beneath it."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ...errors import ArgumentError, message
from ...ops import tanh
from .activation import relu
from .linear import linear

# f, and its derivative f'(a) through its own output h = f(a)
_NONLINEARITIES = {
    "tanh": (tanh, lambda h: 1 - h * h),
    "relu": (relu, lambda h: h > 0),
}


def nonlinearity_of(name: str) -> Any:
    """The pair (f, f' through the output) of that name."""
    if name not in _NONLINEARITIES:
        raise ArgumentError(message(f"rnn: nonlinearity {name!r} is not known", expected=" or ".join(map(repr, _NONLINEARITIES))))
    return _NONLINEARITIES[name]


def rnn_step(x: Any, h: Any, w_ih: Any, w_hh: Any, b_ih: Any = None, b_hh: Any = None, *, nonlinearity: str = "tanh") -> Any:
    """One step of a simple recurrent network.

        a_t = x_t W_ih^T + b_ih + h_(t-1) W_hh^T + b_hh
        h_t = f(a_t)                                        f: tanh or relu

    x (B, D), h (B, H), w_ih (H, D), w_hh (H, H), b_ih and b_hh (H,) -> the new h (B, H).
    """
    f, _ = nonlinearity_of(nonlinearity)
    return f(linear(x, w_ih, b_ih) + linear(h, w_hh, b_hh))


class RNNGradients(NamedTuple):
    """What `rnn_bptt` returns: the gradient of the loss with respect to each of its arguments."""

    xs: Any
    h0: Any
    w_ih: Any
    w_hh: Any
    b_ih: Any
    b_hh: Any


def rnn_bptt(
    xs: Any, h0: Any, w_ih: Any, w_hh: Any, b_ih: Any, b_hh: Any, g_hs: Any, *, nonlinearity: str = "tanh"
) -> RNNGradients:
    """Back-propagation through time by hand: the gradients of L(h_1 ... h_T) on bare arrays, no tape involved.

    Write δ_t = dL/da_t and ε_t = dL/dh_t. A state acts on the loss directly, and through the next activation, in which
    da_(t+1)/dh_t = W_hh. So with δ_(T+1) = 0, for t = T, ..., 1:

        ε_t = g_t + δ_(t+1) W_hh              g_t: the direct part of dL/dh_t
        δ_t = f'(a_t) ⊙ ε_t                   tanh: f'(a_t) = 1 - h_t²

    and every parameter, used once per step, receives the sum over its uses:

        dL/dW_hh = Σ_t δ_t^T h_(t-1)      dL/dW_ih = Σ_t δ_t^T x_t      dL/db = Σ_t δ_t

    while dL/dx_t = δ_t W_ih and dL/dh_0 = δ_1 W_hh.

    xs (T, B, D), h0 (B, H), g_hs (T, B, H); add the gradient of the final state to g_hs[-1]. The weights as in `rnn_step`.
    """
    _, slope = nonlinearity_of(nonlinearity)
    hs = [h0]  # h_0 ... h_T
    for x in xs:
        hs.append(rnn_step(x, hs[-1], w_ih, w_hh, b_ih, b_hh, nonlinearity=nonlinearity))

    g_xs, g_w_ih, g_w_hh, g_b = np.zeros_like(xs), np.zeros_like(w_ih), np.zeros_like(w_hh), np.zeros_like(b_ih)
    delta = np.zeros_like(h0)
    for t in range(len(xs), 0, -1):
        epsilon = g_hs[t - 1] + delta @ w_hh
        delta = slope(hs[t]) * epsilon
        g_w_hh += delta.T @ hs[t - 1]
        g_w_ih += delta.T @ xs[t - 1]
        g_b += delta.sum(axis=0)
        g_xs[t - 1] = delta @ w_ih
    return RNNGradients(g_xs, delta @ w_hh, g_w_ih, g_w_hh, g_b, g_b.copy())
