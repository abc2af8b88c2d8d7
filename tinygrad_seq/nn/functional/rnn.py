"""The simple recurrent network (Elman 1990): its equation, and back-propagation through time derived by hand beneath it.

Every lecture writes it in letters of its own:

               input   a_t    state   weights of input, state   f       output
    here       x_t     a_t    h_t     W_ih, W_hh, b             tanh    a layer of its own, `linear`
    CS760      x(t)    a(t)   s(t)    U, W, b                   tanh    o(t) = c + V s(t), ŷ(t) = softmax(o(t))
    CS540      x_t            a_t     w_x, w_a, b_a             g       o_t = g(w_o a_t + b_o)
    Graves     x_i^t   a_h^t  b_h^t   w_ih, w_h'h, no bias      θ_h     a_k^t = Σ_h w_hk b_h^t

Slips, read as meant: CS540 lets a state see x_(t+1) in one line and x_t in another (here the input of its own step); w_hh' and w_h'h
change places between Graves' slides (w_ij leads from unit i to unit j).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from ...errors import ArgumentError, ShapeError, message
from ...graph import raw
from ...ops import split, tanh
from .activation import relu
from .linear import linear

# f, and its derivative f'(a) through its own output h = f(a)
_NONLINEARITIES = {
    "tanh": (tanh, lambda h: 1 - h * h),
    "relu": (relu, lambda h: h > 0),
}


def nonlinearity_of(name: str, more: Mapping[str, Any] = MappingProxyType({})) -> Any:
    """The pair (f, f' through the output) of that name; `more`: further pairs to choose from."""
    known = {**_NONLINEARITIES, **more}
    if name not in known:
        raise ArgumentError(message(f"nonlinearity {name!r} is not known", expected=" or ".join(map(repr, known))))
    return known[name]


def blocks(who: str, names: str, a: Any, state: Any) -> Any:
    """The blocks of a that belong to the gates of these names, each as wide as the state."""
    G, H, rows = len(names), state.shape[-1], a.shape[-1]
    if rows != G * H:
        raise ShapeError(
            message(
                f"{who}: the weights have {rows} rows, and the state is H = {H} wide",
                expected=f"{G}H = {G * H} rows: the blocks {' '.join(names)}, one below the other",
            )
        )
    return split(a, G, axis=-1)


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

    The notes say the same. CS760 begins at the outputs o_t = V h_t + c of the loss L = Σ_t -log softmax(o_t)_y, y the class at t:

        dL/do_t = ŷ_t - 1[i = y]      g_t = dL/do_t V      dL/dV = Σ_t (dL/do_t)^T h_t      dL/dc = Σ_t dL/do_t

    and writes δ_(t+1) W_hh as ε_(t+1) dh_(t+1)/dh_t with the Jacobian diag(1 - h_(t+1)²) W_hh: gradients are rows there, but in its line for
    dL/dV columns. Graves has the two lines as one, with δ_k^t for dL/do_t:

        δ_h^t = θ'(a_h^t) (Σ_k δ_k^t w_hk + Σ_h' δ_h'^(t+1) w_hh')

    CS540 multiplies the recursion out, here for a loss C of the last state h_T:

        dC/dW_hh = Σ_k dC/dh_T [Π_(j=k+1..T) dh_j/dh_(j-1)] ∂h_k/∂W_hh            k = 1, ..., T

    where ∂h_k/∂W_hh takes h_(k-1) as given. Its k-th term is δ_k^T h_(k-1): what the use of W_hh at time k adds.

    xs (T, B, D), h0 (B, H), g_hs (T, B, H); add the gradient of the final state to g_hs[-1]. The weights as in `rnn_step`.
    """
    xs, h0, w_ih, w_hh, b_ih, b_hh, g_hs = map(raw, (xs, h0, w_ih, w_hh, b_ih, b_hh, g_hs))  # of Tensors their arrays
    _, slope = nonlinearity_of(nonlinearity)
    hs = [h0]  # h_0 ... h_T
    for x in xs:
        hs.append(rnn_step(x, hs[-1], w_ih, w_hh, b_ih, b_hh, nonlinearity=nonlinearity))

    g_xs, g_w_ih, g_w_hh, g_b = np.zeros_like(xs), np.zeros_like(w_ih), np.zeros_like(w_hh), np.zeros_like(w_ih[:, 0])
    delta = np.zeros_like(h0)
    for t in range(len(xs), 0, -1):
        epsilon = g_hs[t - 1] + delta @ w_hh
        delta = slope(hs[t]) * epsilon
        g_w_hh += delta.T @ hs[t - 1]
        g_w_ih += delta.T @ xs[t - 1]
        g_b += delta.sum(axis=0)
        g_xs[t - 1] = delta @ w_ih
    return RNNGradients(g_xs, delta @ w_hh, g_w_ih, g_w_hh, g_b, g_b.copy())
