"""An LSTM layer by hand, forward and backward over a whole sequence on bare NumPy arrays: what a compiled loop is held against.

It equals `F.lstm_step` and `F.lstm_bptt`, in 1.25 of the time that PyTorch takes for its LSTM (oneDNN; geometric mean of six sizes, one
thread of an AVX-512 Xeon: `python tools/bench.py layers --cases LSTM --only "hand-written kernel,PyTorch"`). What makes it fast:

- Feature-major. A gate of one step is (H, B), so all gates of a step lie one below the other, and one call takes several: `gates` is
  (T+1, 5, H, B) in the order i f o g c, c the old cell; the sigmoids are one block, and (i, f) times (g, c) is one call.
- σ(z) = tanh(z/2)/2 + 1/2. With the rows of i, f, o of the weights halved once, a single tanh serves all four gates.
- One product a step: z = [W_ih W_hh b] [x; h; 1]. Taking W_ih x out of the loop is faster by itself (one product instead of T), but it is
  written far away, and read back, in columns, just when the step waits for it: in all that costs more. `in_blocks` says how it is multiplied.
- Backward, all that multiplies dh and dc is known before either is, and is made for as many steps at once as stay in the cache:
  di = dc ⊙ [g i(1-i)], df = dc ⊙ [c f(1-f)], dg = dc ⊙ [i (1-g²)]; with P = tanh(c), do = dh ⊙ [P o(1-o)], dc += dh ⊙ [o (1-P²)]. That leaves
  six calls and a product for each step. Calls are what counts where B x H is small. P is made again: cheaper than to write and read it.
- The δ of ROWS rows (t x B) are gathered as columns of one matrix, then give all other gradients in one product each. Fewer rows add up
  large matrices too often, all at once take as much memory as the gates. PAD: columns at a power of two share few places in the cache.
- Every array is made before the loops and written with out=; a product goes into a small one, straight into far memory it takes longer.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from tinygrad_seq.nn.functional.lstm import LSTMGradients

ROWS = 1024
PAD = 16
CACHE = 1 << 16  # entries of all factors that are made at once

Array = Any


class Saved(NamedTuple):
    """What the backward pass needs of the forward pass."""

    xs: Array
    hs: Array  # (T+1, B, H), from h_0 on
    gates: Array  # (T+1, 5, H, B): i f o g of a step, and the c before it
    w_ih: Array
    w_hh: Array


def forward(xs: Array, h0: Array, c0: Array, w_ih: Array, w_hh: Array, b_ih: Array, b_hh: Array) -> tuple[Array, Any, Saved]:
    """xs (T, B, D), h0 and c0 (B, H), weights as in `F.lstm_step` -> hs (T, B, H), the last (h, c), what `backward` needs."""
    (T, B, D), H, dtype = xs.shape, h0.shape[1], xs.dtype
    i_f, g, o = np.split(np.concatenate([w_ih, w_hh, (b_ih + b_hh)[:, None]], axis=1), [2 * H, 3 * H])
    w = in_blocks(np.concatenate([0.5 * i_f, 0.5 * o, g]), B)
    hs, gates = np.empty((T + 1, B, H), dtype), np.empty((T + 1, 5, H, B), dtype)
    z, terms, seen = np.empty((4, H, B), dtype), np.empty((2, H, B), dtype), np.ones((D + H + 1, B), dtype)
    x, h, z_blocks = seen[:D], seen[D:-1], z.reshape(len(w), -1, B)
    hs[0], h[:], gates[0, 4] = h0, h0.T, c0.T
    for t in range(T):
        step, sigmoids, c = gates[t], gates[t, :3], gates[t + 1, 4]
        x[:] = xs[t].T
        np.matmul(w, seen, out=z_blocks)
        np.tanh(z, out=step[:4])
        np.multiply(sigmoids, 0.5, out=sigmoids)
        np.add(sigmoids, 0.5, out=sigmoids)
        np.multiply(step[:2], step[3:], out=terms)
        np.add(terms[0], terms[1], out=c)
        np.tanh(c, out=h)
        np.multiply(step[2], h, out=h)
        hs[t + 1] = h.T
    return hs[1:], (hs[T], gates[T, 4].T), Saved(xs, hs, gates, w_ih, w_hh)


def backward(saved: Saved, g_hs: Array, g_c: Array | None = None) -> LSTMGradients:
    """g_hs (T, B, H) the gradient of hs, g_c (B, H) that of the last c -> the gradients of all that `forward` took."""
    xs, hs, gates, w_ih, w_hh = saved
    (T, B, D), H, dtype = xs.shape, hs.shape[2], xs.dtype
    chunk, ahead = min(T, max(1, ROWS // B)), min(T, max(1, CACHE // (5 * H * B)))  # steps
    g_xs, g_w_ih, g_w_hh, g_b = np.empty_like(xs), np.zeros_like(w_ih), np.zeros_like(w_hh), np.zeros(4 * H, dtype)
    deltas, factors = np.empty((4 * H, chunk * B + PAD), dtype), np.empty((ahead, 5, H, B), dtype)
    products = np.empty((5, H, B), dtype)  # δ of i f g o, and what dh adds to dc
    delta, w = products[:4].reshape(4 * H, B), in_blocks(w_hh.T, B)
    dh, dc = np.zeros((H, B), dtype), np.zeros((H, B), dtype)
    dh_blocks = dh.reshape(len(w), -1, B)
    dc += 0 if g_c is None else g_c.T
    for t in reversed(range(T)):
        if t == T - 1 or t % ahead == ahead - 1:
            make_factors(gates[t - t % ahead : t + 2], factors[: t % ahead + 1])
        factor, column = factors[t % ahead], t % chunk * B
        np.add(dh, g_hs[t].T, out=dh)
        np.multiply(dh, factor[3:], out=products[3:])
        np.add(dc, products[4], out=dc)
        np.multiply(dc, factor[:3], out=products[:3])
        np.multiply(dc, gates[t, 1], out=dc)
        np.matmul(w, delta, out=dh_blocks)
        deltas[:, column : column + B] = delta
        if column == 0:
            x, h = xs[t : t + chunk].reshape(-1, D), hs[t : min(t + chunk, T)].reshape(-1, H)
            gathered = deltas[:, : len(x)]
            g_w_ih += gathered @ x
            g_w_hh += gathered @ h
            g_b += gathered.sum(axis=1)
            np.matmul(gathered.T, w_ih, out=g_xs[t : t + chunk].reshape(-1, D))
    return LSTMGradients(g_xs, dh.T, dc.T, g_w_ih, g_w_hh, g_b, g_b.copy())


def make_factors(gates: Array, factors: Array) -> None:
    """The brackets of the text above for some steps: those of δi, δf, δg, δo and of what dh adds to dc."""
    tanh_c, gates, slopes = np.tanh(gates[1:, 4], out=factors[:, 4]), gates[:-1], factors[:, :3]
    np.multiply(gates[:, :3], gates[:, :3], out=slopes)
    np.subtract(gates[:, :3], slopes, out=slopes)  # σ' of i f o
    np.multiply(tanh_c, slopes[:, 2], out=factors[:, 3])
    np.multiply(gates[:, 3:], slopes[:, :2], out=factors[:, :2])
    for tanh, gate, factor in ((gates[:, 3], gates[:, 0], factors[:, 2]), (tanh_c, gates[:, 2], factors[:, 4])):
        np.multiply(tanh, tanh, out=factor)
        np.subtract(1, factor, out=factor)
        np.multiply(factor, gate, out=factor)


def in_blocks(w: Array, B: int) -> Array:
    """The rows of w (M, K) as (n, M / n, K), so that a block times (K, B) is a small product: OpenBLAS copies w first in all others."""
    (M, K), n = w.shape, 1
    while M // n * K * B > 10**6 and M % (2 * n) == 0:
        n *= 2
    return w.reshape(n, M // n, K) if M // n >= 16 else w[None]
