"""Gated recurrent unit: the equations in the conventions of the lecture notes and of PyTorch, and BPTT derived by hand beneath them.

Two things differ from text to text, and both are options. Where the reset gate acts: on what the old state has become by the recurrent
product (`gru_step`), or on the old state before it (`gru_reset_before_step`). And what the update gate z weights: the old state or the
new value; which of the two is a renaming of z to 1 - z, that is, of its weights to their negatives.

    PyTorch, cuDNN         reset after,  z_weights="old"
    Cho et al. 2014        reset before, z_weights="old"
    CS760                  reset before, z_weights="old", with u for z; its gates carry the index t-1, one step late, and are read as of t
    CS540                  reset before, z_weights="new"; its product "w_G . r_t x h" is read as W_G (r_t ⊙ h_(t-1))
    CMU 11-785             only fragments are left: one memory, and gates that are tied; gates tied in an LSTM: `coupled_lstm_step`

The weights of the three gates are stacked r z n, as in PyTorch.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ...errors import ArgumentError, message
from ...graph import raw
from ...ops import sigmoid
from .linear import linear
from .rnn import blocks, nonlinearity_of


class GRUGates(NamedTuple):
    """What goes on inside a step, each (B, H): reset gate r, update gate z, the new value n."""

    r: Any
    z: Any
    n: Any


def gru_step(
    x: Any,
    h: Any,
    w_ih: Any,
    w_hh: Any,
    b_ih: Any = None,
    b_hh: Any = None,
    *,
    z_weights: str = "old",
    nonlinearity: str = "tanh",
    return_gates: bool = False,
) -> Any:
    """One step of a gated recurrent unit whose reset gate acts after the recurrent product (PyTorch, cuDNN).

        r_t = σ(W_xr x_t + b_xr + W_hr h_(t-1) + b_hr)               reset gate: how much the new value sees of the old state
        z_t = σ(W_xz x_t + b_xz + W_hz h_(t-1) + b_hz)               update gate
        n_t = tanh(W_xn x_t + b_xn + r_t ⊙ (W_hn h_(t-1) + b_hn))    the new value
        h_t = z_t ⊙ h_(t-1) + (1 - z_t) ⊙ n_t                        z_weights="new": (1 - z_t) ⊙ h_(t-1) + z_t ⊙ n_t

    x (B, D), h (B, H), w_ih (3H, D), w_hh (3H, H), b_ih and b_hh (3H,) -> the new h (B, H). nonlinearity: of n, tanh or relu.
    return_gates: a second item, `GRUGates`.
    """
    f, _ = nonlinearity_of(nonlinearity)
    x_r, x_z, x_n = blocks("gru_step", "rzn", linear(x, w_ih, b_ih), h)
    h_r, h_z, h_n = blocks("gru_step", "rzn", linear(h, w_hh, b_hh), h)
    r, z = sigmoid(x_r + h_r), sigmoid(x_z + h_z)
    n = f(x_n + r * h_n)
    h = _mixed(z, h, n, z_weights)
    return (h, GRUGates(r, z, n)) if return_gates else h


def gru_reset_before_step(
    x: Any,
    h: Any,
    w_ih: Any,
    w_hh: Any,
    b_ih: Any = None,
    b_hh: Any = None,
    *,
    z_weights: str = "old",
    nonlinearity: str = "tanh",
    return_gates: bool = False,
) -> Any:
    """One step of a gated recurrent unit whose reset gate acts on the old state (Cho et al. 2014; CS540, CS760).

        r_t = σ(W_xr x_t + b_xr + W_hr h_(t-1) + b_hr)
        z_t = σ(W_xz x_t + b_xz + W_hz h_(t-1) + b_hz)
        n_t = tanh(W_xn x_t + b_xn + W_hn (r_t ⊙ h_(t-1)) + b_hn)
        h_t = z_t ⊙ h_(t-1) + (1 - z_t) ⊙ n_t                        z_weights="new": (1 - z_t) ⊙ h_(t-1) + z_t ⊙ n_t

    The arguments as in `gru_step`.
    """
    f, _ = nonlinearity_of(nonlinearity)
    H = h.shape[-1]
    b_gates, b_n = (None, None) if b_hh is None else (b_hh[: 2 * H], b_hh[2 * H :])
    x_r, x_z, x_n = blocks("gru_reset_before_step", "rzn", linear(x, w_ih, b_ih), h)
    h_r, h_z = blocks("gru_reset_before_step", "rz", linear(h, w_hh[: 2 * H], b_gates), h)
    r, z = sigmoid(x_r + h_r), sigmoid(x_z + h_z)
    n = f(x_n + linear(r * h, w_hh[2 * H :], b_n))
    h = _mixed(z, h, n, z_weights)
    return (h, GRUGates(r, z, n)) if return_gates else h


def _mixed(z: Any, old: Any, new: Any, z_weights: str) -> Any:
    if z_weights == "old":
        return z * old + (1 - z) * new
    if z_weights == "new":
        return (1 - z) * old + z * new
    raise ArgumentError(message(f"gru: z_weights {z_weights!r} is not known", expected="'old' or 'new'"))


# ---- Back-propagation through time by hand -----------------------------------------------------------------------------------------


class GRUGradients(NamedTuple):
    """What `gru_bptt` returns: the gradient of the loss with respect to each of its arguments."""

    xs: Any
    h0: Any
    w_ih: Any
    w_hh: Any
    b_ih: Any
    b_hh: Any


def gru_bptt(xs: Any, h0: Any, w_ih: Any, w_hh: Any, b_ih: Any, b_hh: Any, g_hs: Any, *, z_weights: str = "old") -> GRUGradients:
    """Back-propagation through time by hand: the gradients of L(h_1 ... h_T) on bare arrays, no tape involved.

    Write ε_t = dL/dh_t, q_t = W_hn h_(t-1) + b_hn, and dr_t, dz_t, dn_t for the gradients before the activations. From
    h_t = z_t ⊙ h_(t-1) + (1 - z_t) ⊙ n_t (for z_weights="new" exchange z and 1 - z, which turns the sign of dz):

        dn_t = ε_t ⊙ (1 - z_t) ⊙ (1 - n_t²)
        dz_t = ε_t ⊙ (h_(t-1) - n_t) ⊙ z_t (1 - z_t)
        dq_t = dn_t ⊙ r_t
        dr_t = dn_t ⊙ q_t ⊙ r_t (1 - r_t)

    A state acts on the loss directly, through the carry z of the next step, and through its three products. With everything 0 at T+1,
    for t = T, ..., 1:

        ε_t = g_t + ε_(t+1) ⊙ z_(t+1) + W_hr^T dr_(t+1) + W_hz^T dz_(t+1) + W_hn^T dq_(t+1)            g_t: the direct part

    and every weight receives the sum over its uses; with γ_t = dr_t, dz_t, dq_t and δ_t = dr_t, dz_t, dn_t one below the other:

        dL/dW_hh = Σ_t γ_t h_(t-1)^T      dL/db_hh = Σ_t γ_t      dL/dW_ih = Σ_t δ_t x_t^T      dL/db_ih = Σ_t δ_t

    while dL/dx_t = W_ih^T δ_t.

    xs (T, B, D), h0 (B, H), g_hs (T, B, H); add the gradient of the final state to g_hs[-1]. The weights as in `gru_step`.
    """
    xs, h0, w_ih, w_hh, b_ih, b_hh, g_hs = map(raw, (xs, h0, w_ih, w_hh, b_ih, b_hh, g_hs))  # of Tensors their arrays
    hs, steps = [h0], []  # h_0 ... h_T, and what went on inside
    for x in xs:
        h, gates = gru_step(x, hs[-1], w_ih, w_hh, b_ih, b_hh, z_weights=z_weights, return_gates=True)
        hs.append(h)
        steps.append(gates)

    H = h0.shape[-1]
    g_xs, g_w_ih, g_w_hh = np.zeros_like(xs), np.zeros_like(w_ih), np.zeros_like(w_hh)
    g_b_ih, g_b_hh = np.zeros_like(w_ih[:, 0]), np.zeros_like(w_ih[:, 0])
    from_next = np.zeros_like(h0)
    for t in range(len(xs), 0, -1):
        (r, z, n), h = steps[t - 1], hs[t - 1]
        carry = z if z_weights == "old" else 1 - z
        epsilon = g_hs[t - 1] + from_next
        q = linear(h, w_hh[2 * H :], None if b_hh is None else b_hh[2 * H :])
        dn = epsilon * (1 - carry) * (1 - n * n)
        dz = epsilon * (h - n if z_weights == "old" else n - h) * z * (1 - z)
        dr = dn * q * r * (1 - r)
        delta = np.concatenate([dr, dz, dn], axis=-1)  # (B, 3H)
        gamma = np.concatenate([dr, dz, dn * r], axis=-1)
        g_w_hh += gamma.T @ h
        g_b_hh += gamma.sum(axis=0)
        g_w_ih += delta.T @ xs[t - 1]
        g_b_ih += delta.sum(axis=0)
        g_xs[t - 1] = delta @ w_ih
        from_next = epsilon * carry + gamma @ w_hh
    return GRUGradients(g_xs, from_next, g_w_ih, g_w_hh, g_b_ih, g_b_hh)


def gru_reset_before_bptt(
    xs: Any, h0: Any, w_ih: Any, w_hh: Any, b_ih: Any, b_hh: Any, g_hs: Any, *, z_weights: str = "old"
) -> GRUGradients:
    """Back-propagation through time by hand for the reset gate that acts on the old state: `gru_bptt` with s_t = r_t ⊙ h_(t-1).

        dn_t, dz_t as there
        ds_t = W_hn^T dn_t
        dr_t = ds_t ⊙ h_(t-1) ⊙ r_t (1 - r_t)

        ε_t = g_t + ε_(t+1) ⊙ z_(t+1) + ds_(t+1) ⊙ r_(t+1) + W_hr^T dr_(t+1) + W_hz^T dz_(t+1)

        dL/dW_hn = Σ_t dn_t s_t^T      dL/dW_hr = Σ_t dr_t h_(t-1)^T      dL/dW_hz = Σ_t dz_t h_(t-1)^T

    All else, and the arguments, as there.
    """
    xs, h0, w_ih, w_hh, b_ih, b_hh, g_hs = map(raw, (xs, h0, w_ih, w_hh, b_ih, b_hh, g_hs))  # of Tensors their arrays
    hs, steps = [h0], []
    for x in xs:
        h, gates = gru_reset_before_step(x, hs[-1], w_ih, w_hh, b_ih, b_hh, z_weights=z_weights, return_gates=True)
        hs.append(h)
        steps.append(gates)

    H = h0.shape[-1]
    g_xs, g_w_ih, g_w_hh, g_b = np.zeros_like(xs), np.zeros_like(w_ih), np.zeros_like(w_hh), np.zeros_like(w_ih[:, 0])
    from_next = np.zeros_like(h0)
    for t in range(len(xs), 0, -1):
        (r, z, n), h = steps[t - 1], hs[t - 1]
        carry = z if z_weights == "old" else 1 - z
        epsilon = g_hs[t - 1] + from_next
        dn = epsilon * (1 - carry) * (1 - n * n)
        dz = epsilon * (h - n if z_weights == "old" else n - h) * z * (1 - z)
        ds = dn @ w_hh[2 * H :]
        dr = ds * h * r * (1 - r)
        gates = np.concatenate([dr, dz], axis=-1)
        delta = np.concatenate([dr, dz, dn], axis=-1)
        g_w_hh[: 2 * H] += gates.T @ h
        g_w_hh[2 * H :] += dn.T @ (r * h)
        g_w_ih += delta.T @ xs[t - 1]
        g_b += delta.sum(axis=0)
        g_xs[t - 1] = delta @ w_ih
        from_next = epsilon * carry + ds * r + gates @ w_hh[: 2 * H]
    return GRUGradients(g_xs, from_next, g_w_ih, g_w_hh, g_b, g_b.copy())
