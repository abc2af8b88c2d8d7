"""Long short-term memory: the equations of its variants, and back-propagation through time derived by hand beneath them.

The weights of the four gates are stacked i f g o, as in PyTorch: w_ih holds W_xi W_xf W_xg W_xo one below the other, w_hh the W_h?. The
lecture notes write C for the cell c and C~ for the pattern g.

    CS540           the plain cell, `lstm_step`; its one letter g for every activation is read as σ in the gates, tanh in g and c
    CMU 11-785      built up from the constant error carousel dc_t/dc_(t-1) = f_t; with peepholes by full matrices, `peephole_lstm_step`
    Graves          peepholes by one number per cell (diagonal): the same function, told by the shape of its weights
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ...graph import raw
from ...ops import sigmoid, tanh
from .linear import linear
from .rnn import blocks


class LSTMGates(NamedTuple):
    """What goes on inside a step, each (B, H): gates i, f, o, the pattern g that i lets in, and the new cell c."""

    i: Any
    f: Any
    g: Any
    o: Any
    c: Any


def lstm_step(
    x: Any,
    h: Any,
    c: Any,
    w_ih: Any,
    w_hh: Any,
    b_ih: Any = None,
    b_hh: Any = None,
    w_hr: Any = None,
    *,
    return_gates: bool = False,
) -> tuple[Any, ...]:
    """One step of a long short-term memory (Hochreiter & Schmidhuber 1997; forget gate: Gers, Schmidhuber & Cummins 2000).

        i_t = σ(W_xi x_t + W_hi h_(t-1) + b_i)              input gate: how much of the new is written
        f_t = σ(W_xf x_t + W_hf h_(t-1) + b_f)              forget gate: how much of the old is kept
        g_t = tanh(W_xg x_t + W_hg h_(t-1) + b_g)           the new
        o_t = σ(W_xo x_t + W_ho h_(t-1) + b_o)              output gate: how much is shown to the next step
        c_t = f_t ⊙ c_(t-1) + i_t ⊙ g_t
        h_t = o_t ⊙ tanh(c_t)                               with a projection: W_hr (o_t ⊙ tanh(c_t))  (Sak et al. 2014)

    x (B, D), h (B, H), c (B, H), w_ih (4H, D), w_hh (4H, H), b_ih and b_hh (4H,) -> the new h and c (B, H). With w_hr (P, H) h is (B, P)
    and w_hh (4H, P). return_gates: a third item, `LSTMGates`.
    """
    i, f, g, o = blocks("lstm_step", "ifgo", linear(x, w_ih, b_ih) + linear(h, w_hh, b_hh), c)
    i, f, g, o = sigmoid(i), sigmoid(f), tanh(g), sigmoid(o)
    c = f * c + i * g
    h = o * tanh(c)
    if w_hr is not None:
        h = linear(h, w_hr)
    return (h, c, LSTMGates(i, f, g, o, c)) if return_gates else (h, c)


def peephole_lstm_step(
    x: Any,
    h: Any,
    c: Any,
    w_ih: Any,
    w_hh: Any,
    b_ih: Any,
    b_hh: Any,
    w_ci: Any,
    w_cf: Any,
    w_co: Any,
    *,
    return_gates: bool = False,
) -> tuple[Any, ...]:
    """One step of an LSTM whose gates see the cell (Gers & Schmidhuber 2000); the output gate sees the new one.

        i_t = σ(W_xi x_t + W_hi h_(t-1) + W_ci c_(t-1) + b_i)
        f_t = σ(W_xf x_t + W_hf h_(t-1) + W_cf c_(t-1) + b_f)
        g_t = tanh(W_xg x_t + W_hg h_(t-1) + b_g)
        c_t = f_t ⊙ c_(t-1) + i_t ⊙ g_t
        o_t = σ(W_xo x_t + W_ho h_(t-1) + W_co c_t + b_o)
        h_t = o_t ⊙ tanh(c_t)

    As `lstm_step`; w_ci, w_cf and w_co are (H,), diagonal: each gate sees its own cell (Gers, Graves), or (H, H): all cells (CMU 11-785).
    """
    i, f, g, o = blocks("peephole_lstm_step", "ifgo", linear(x, w_ih, b_ih) + linear(h, w_hh, b_hh), c)
    i, f, g = sigmoid(i + _peep(c, w_ci)), sigmoid(f + _peep(c, w_cf)), tanh(g)
    c = f * c + i * g
    o = sigmoid(o + _peep(c, w_co))
    h = o * tanh(c)
    return (h, c, LSTMGates(i, f, g, o, c)) if return_gates else (h, c)


def coupled_lstm_step(
    x: Any, h: Any, c: Any, w_ih: Any, w_hh: Any, b_ih: Any = None, b_hh: Any = None, *, return_gates: bool = False
) -> tuple[Any, ...]:
    """One step of an LSTM that writes where it forgets, and only there: i = 1 - f (Greff et al. 2017).

        f_t, g_t, o_t as in `lstm_step`
        c_t = f_t ⊙ c_(t-1) + (1 - f_t) ⊙ g_t
        h_t = o_t ⊙ tanh(c_t)

    As `lstm_step`, with three blocks f g o: w_ih (3H, D), w_hh (3H, H), b_ih and b_hh (3H,).
    """
    f, g, o = blocks("coupled_lstm_step", "fgo", linear(x, w_ih, b_ih) + linear(h, w_hh, b_hh), c)
    f, g, o = sigmoid(f), tanh(g), sigmoid(o)
    i = 1 - f
    c = f * c + i * g
    h = o * tanh(c)
    return (h, c, LSTMGates(i, f, g, o, c)) if return_gates else (h, c)


def _peep(c: Any, w: Any) -> Any:
    """What a gate sees of the cell: W c, for a diagonal W given by its diagonal."""
    return c * w if w.ndim == 1 else linear(c, w)


# ---- Back-propagation through time by hand -----------------------------------------------------------------------------------------


class LSTMGradients(NamedTuple):
    """What `lstm_bptt` returns: the gradient of the loss with respect to each of its arguments."""

    xs: Any
    h0: Any
    c0: Any
    w_ih: Any
    w_hh: Any
    b_ih: Any
    b_hh: Any


def lstm_bptt(xs: Any, h0: Any, c0: Any, w_ih: Any, w_hh: Any, b_ih: Any, b_hh: Any, g_hs: Any, g_c: Any = None) -> LSTMGradients:
    """Back-propagation through time by hand: the gradients of L(h_1 ... h_T, c_T) on bare arrays, no tape involved.

    Write dh_t, dc_t for dL/dh_t, dL/dc_t, and di_t, df_t, dg_t, do_t for the gradients before the activations of the gates. By the
    derivatives σ' = σ(1 - σ) and tanh' = 1 - tanh²,

        do_t = dh_t ⊙ tanh(c_t) ⊙ o_t (1 - o_t)
        df_t = dc_t ⊙ c_(t-1) ⊙ f_t (1 - f_t)
        di_t = dc_t ⊙ g_t ⊙ i_t (1 - i_t)
        dg_t = dc_t ⊙ i_t ⊙ (1 - g_t²)

    A state h_t acts on the loss directly, and through the four gates of the next step; a cell c_t through h_t, and through c_(t+1), where
    the factor is f_(t+1) and nothing else: no weight, no squashing (the constant error carousel). So with everything 0 at T+1,
    for t = T, ..., 1:

        dh_t = g_t + W_hi^T di_(t+1) + W_hf^T df_(t+1) + W_hg^T dg_(t+1) + W_ho^T do_(t+1)            g_t: the direct part
        dc_t = dh_t ⊙ o_t ⊙ (1 - tanh²(c_t)) + dc_(t+1) ⊙ f_(t+1)

    and every weight, used once per step, receives the sum over its uses; with δ_t = di_t, df_t, dg_t, do_t one below the other:

        dL/dW_hh = Σ_t δ_t h_(t-1)^T      dL/dW_ih = Σ_t δ_t x_t^T      dL/db = Σ_t δ_t

    while dL/dx_t = W_ih^T δ_t, dL/dh_0 = W_hh^T δ_1 and dL/dc_0 = dc_1 ⊙ f_1.

    xs (T, B, D), h0 and c0 (B, H), g_hs (T, B, H), g_c (B, H) or None: the direct part of dL/dc_T; add that of the last h to g_hs[-1].
    The weights as in `lstm_step`, without a projection.
    """
    xs, h0, c0, g_hs, g_c, *weights = map(raw, (xs, h0, c0, g_hs, g_c, w_ih, w_hh, b_ih, b_hh))  # of Tensors their arrays
    w_ih, w_hh, *_ = weights
    hs, cs, steps = [h0], [c0], []  # h_0 ... h_T, c_0 ... c_T, and what went on inside
    for x in xs:
        h, c, gates = lstm_step(x, hs[-1], cs[-1], *weights, return_gates=True)
        hs.append(h)
        cs.append(c)
        steps.append(gates)

    g_xs, g_w_ih, g_w_hh, g_b = np.zeros_like(xs), np.zeros_like(w_ih), np.zeros_like(w_hh), np.zeros_like(w_ih[:, 0])
    from_next, carried = np.zeros_like(h0), np.zeros_like(c0) if g_c is None else g_c  # W_hh^T δ_(t+1), dc_(t+1) ⊙ f_(t+1)
    for t in range(len(xs), 0, -1):
        i, f, g, o, c = steps[t - 1]
        dh = g_hs[t - 1] + from_next
        dc = dh * o * (1 - np.tanh(c) ** 2) + carried
        do = dh * np.tanh(c) * o * (1 - o)
        df = dc * cs[t - 1] * f * (1 - f)
        di = dc * g * i * (1 - i)
        dg = dc * i * (1 - g * g)
        delta = np.concatenate([di, df, dg, do], axis=-1)  # (B, 4H)
        g_w_hh += delta.T @ hs[t - 1]
        g_w_ih += delta.T @ xs[t - 1]
        g_b += delta.sum(axis=0)
        g_xs[t - 1] = delta @ w_ih
        from_next, carried = delta @ w_hh, dc * f
    return LSTMGradients(g_xs, from_next, carried, g_w_ih, g_w_hh, g_b, g_b.copy())


class PeepholeLSTMGradients(NamedTuple):
    """What `peephole_lstm_bptt` returns: the gradient of the loss with respect to each of its arguments."""

    xs: Any
    h0: Any
    c0: Any
    w_ih: Any
    w_hh: Any
    b_ih: Any
    b_hh: Any
    w_ci: Any
    w_cf: Any
    w_co: Any


def peephole_lstm_bptt(
    xs: Any,
    h0: Any,
    c0: Any,
    w_ih: Any,
    w_hh: Any,
    b_ih: Any,
    b_hh: Any,
    w_ci: Any,
    w_cf: Any,
    w_co: Any,
    g_hs: Any,
    g_c: Any = None,
) -> PeepholeLSTMGradients:
    """Back-propagation through time by hand, with peepholes: `lstm_bptt` and what the gates see of the cell.

    A cell c_t now also acts through the output gate of its own step and the input and forget gates of the next:

        dc_t = dh_t ⊙ o_t ⊙ (1 - tanh²(c_t)) + W_co^T do_t
               + dc_(t+1) ⊙ f_(t+1) + W_cf^T df_(t+1) + W_ci^T di_(t+1)

        dL/dW_ci = Σ_t di_t c_(t-1)^T      dL/dW_cf = Σ_t df_t c_(t-1)^T      dL/dW_co = Σ_t do_t c_t^T

    (diagonal: Σ_t di_t ⊙ c_(t-1), and so on), all else as there. The slides of CMU 11-785 build the same sum term by term; on the last of
    them o_(t+1) stands for i_(t+1), W_hi for W_hg, and dc_(t+1) is written as a gradient of c_(t+1).

    The arguments as in `lstm_bptt` and `peephole_lstm_step`.
    """
    xs, h0, c0, g_hs, g_c, *weights = map(raw, (xs, h0, c0, g_hs, g_c, w_ih, w_hh, b_ih, b_hh, w_ci, w_cf, w_co))
    w_ih, w_hh, _, _, w_ci, w_cf, w_co = weights
    hs, cs, steps = [h0], [c0], []
    for x in xs:
        h, c, gates = peephole_lstm_step(x, hs[-1], cs[-1], *weights, return_gates=True)
        hs.append(h)
        cs.append(c)
        steps.append(gates)

    g_xs, g_w_ih, g_w_hh, g_b = np.zeros_like(xs), np.zeros_like(w_ih), np.zeros_like(w_hh), np.zeros_like(w_ih[:, 0])
    g_w_ci, g_w_cf, g_w_co = np.zeros_like(w_ci), np.zeros_like(w_cf), np.zeros_like(w_co)
    from_next, carried = np.zeros_like(h0), np.zeros_like(c0) if g_c is None else g_c
    for t in range(len(xs), 0, -1):
        i, f, g, o, c = steps[t - 1]
        dh = g_hs[t - 1] + from_next
        do = dh * np.tanh(c) * o * (1 - o)
        dc = dh * o * (1 - np.tanh(c) ** 2) + _seen(do, w_co) + carried
        df = dc * cs[t - 1] * f * (1 - f)
        di = dc * g * i * (1 - i)
        dg = dc * i * (1 - g * g)
        delta = np.concatenate([di, df, dg, do], axis=-1)
        g_w_ci += _uses(di, cs[t - 1], w_ci)
        g_w_cf += _uses(df, cs[t - 1], w_cf)
        g_w_co += _uses(do, c, w_co)
        g_w_hh += delta.T @ hs[t - 1]
        g_w_ih += delta.T @ xs[t - 1]
        g_b += delta.sum(axis=0)
        g_xs[t - 1] = delta @ w_ih
        from_next, carried = delta @ w_hh, dc * f + _seen(df, w_cf) + _seen(di, w_ci)
    return PeepholeLSTMGradients(g_xs, from_next, carried, g_w_ih, g_w_hh, g_b, g_b.copy(), g_w_ci, g_w_cf, g_w_co)


def _seen(delta: Any, w: Any) -> Any:
    """W^T δ: back from a gate to the cell that it saw."""
    return delta * w if w.ndim == 1 else delta @ w


def _uses(delta: Any, c: Any, w: Any) -> Any:
    """δ c^T, summed over the batch; of a diagonal W its diagonal."""
    return (delta * c).sum(axis=0) if w.ndim == 1 else delta.T @ c
