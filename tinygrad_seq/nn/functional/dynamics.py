"""Dynamic systems: a state that one function carries through time, and what becomes of it in the long run.

    unfold               s_t = f(s_(t-1), x_t; θ)                every system here, and every recurrent network
    linear_recursion     h_t = W_h h_(t-1) + W_x x_t             and superposition, eigenvalues and energy, which explain it
    tapped_recursion     h_t = Σ_k a_k h_(t-k) + x_t             and its poles
    carousel             c_t = f_t ⊙ c_(t-1) + v_t               and the gradient that it hands back unharmed

The lectures: dynamic systems CS760 and CS540, all else CMU 11-785. Arrays and Tensors pass alike; eigenvalues are numbers to look at, and
have no gradient. As everywhere x_t stands in xs[t - 1]; CS760 counts s(t+1) = f(s(t), x(t+1)), the same steps from t = 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ... import backend
from ...errors import ArgumentError, message
from ...graph import raw
from ...ops import concatenate, cumprod, flip, stack, swapaxes
from ...scan import scan
from .linear import linear


def unfold(f: Callable[..., Any], s0: Any, xs: Any = None, theta: Sequence[Any] = (), *, steps: int | None = None) -> Any:
    """A dynamic system unfolded in time: the same f and the same θ at every step.

        s_t = f(s_(t-1); θ)              autonomous:  unfold(f, s0, theta=θ, steps=T)
        s_t = f(s_(t-1), x_t; θ)         driven:      unfold(f, s0, xs, θ)

    s0 an array, xs (T, ...), theta a tuple of arrays -> s_1 ... s_T in one array (T, ...). A read-out y_t = f_o(s_t) reads them all at
    once: f_o(unfold(f_a, s0, xs)).
    """
    if (xs is None) == (steps is None):
        given = "neither xs nor steps" if xs is None else "xs and steps"
        raise ArgumentError(
            message(f"unfold: {given}", expected="xs, one entry for each step, or, for a system without inputs, steps=T")
        )
    if isinstance(s0, (tuple, list)):
        raise ArgumentError(message("unfold: s0 is a tuple or list", expected="one array", do="tg.scan carries several"))
    if xs is not None:
        return scan(lambda x, s, *theta: f(s, x, *theta), xs, s0, theta, name="unfold")[0]
    return scan(lambda _, s, *theta: f(s, *theta), np.zeros(steps or 0), s0, theta, name="unfold")[0]


# ---- Linear recursions: superposition, eigenvalues, energy -----------------------------------------------------------------------------


def linear_recursion(xs: Any, h0: Any, w_ih: Any, w_hh: Any) -> Any:
    """The states of a recurrent network without its nonlinearity.

        h_t = W_h h_(t-1) + W_x x_t

    xs (T, B, D), h0 (B, H), w_ih = W_x (H, D), w_hh = W_h (H, H) -> (T, B, H).
    """
    return unfold(lambda h, u, w: linear(h, w) + u, h0, linear(xs, w_ih), (w_hh,))


def impulse_responses(w_ih: Any, w_hh: Any, steps: int) -> Any:
    """What is left of a unit input after k = 0, 1, ..., steps-1 steps: W_h^k W_x, (steps, H, D)."""
    responses = [w_ih]
    for _ in range(steps - 1):
        responses.append(w_hh @ responses[-1])
    return stack(responses)


def superposition(xs: Any, h0: Any, w_ih: Any, w_hh: Any) -> Any:
    """The states of `linear_recursion` in closed form: the responses to the start and to every single input, added up.

        h_t = W_h^t h_0 + Σ_k W_h^(t-k) W_x x_k            k = 1, ..., t

    What an input does does not depend on the others; so how long it is remembered is a question about the powers of W_h (`modes`).
    """
    T = len(xs)
    of_start = impulse_responses(swapaxes(h0, -1, -2), w_hh, T + 1)  # (T + 1, H, B)
    of_input = impulse_responses(w_ih, w_hh, T)  # (T, H, D)
    return stack(
        [swapaxes(of_start[t], -1, -2) + sum(linear(xs[k - 1], of_input[t - k]) for k in range(1, t + 1)) for t in range(1, T + 1)]
    )


class Modes(NamedTuple):
    """A start h_0 along the eigenvectors u_i of W, the longest lived first: λ_i (H,), a_i (H,), and the u_i as columns (H, H)."""

    eigenvalues: Any
    amplitudes: Any
    vectors: Any

    def after(self, t: int) -> Any:
        """The state after t steps: W^t h_0 = Σ_i a_i λ_i^t u_i."""
        return (self.vectors @ (self.amplitudes * self.eigenvalues**t)).real


def modes(w: Any, h0: Any) -> Modes:
    """Take the start of h_t = W h_(t-1) apart along the eigenvectors of W.

        W^t h_0 = a_1 λ_1^t u_1 + ... + a_n λ_n^t u_n     →     a_m λ_m^t u_m,    m = argmax_i abs(λ_i) with a_m ≠ 0

    So in the long run a state grows or shrinks as abs(λ_1)^t, unless it starts with nothing along u_1. The notes ask whether Re(λ_1) > 1;
    the modulus decides: 0.9 ± 0.9i grows. With abs(λ_1) = 1 it does neither.

    w (H, H), h0 (H,), real.
    """
    w, h0 = (backend.to_numpy(raw(a)) for a in (w, h0))
    eigenvalues, vectors = np.linalg.eig(w)
    order = np.argsort(-np.abs(eigenvalues), kind="stable")
    eigenvalues, vectors = eigenvalues[order], vectors[:, order]
    if not eigenvalues.imag.any():  # NumPy gives complex numbers in any case from 2.5 on
        eigenvalues, vectors = eigenvalues.real, vectors.real
    if np.linalg.cond(vectors) > 0.01 / np.finfo(vectors.dtype).eps:
        raise ArgumentError(
            message("modes: W has no basis of eigenvectors", expected="a diagonalisable W", do="look at spectral_radius(W) alone")
        )
    return Modes(eigenvalues, np.linalg.solve(vectors, h0), vectors)


def spectral_radius(w: Any) -> float:
    """The largest abs(λ) of a square matrix: what every step multiplies a state by in the long run; above 1 a linear system blows up."""
    return float(np.abs(np.linalg.eigvals(backend.to_numpy(raw(w)))).max())


def lyapunov(w: Any) -> Any:
    """The energy V(h) = h^T P h that falls by norm(h)² at every step of h_t = W h_(t-1); it exists if and only if the system is stable.

        W^T P W - P = -I            P = Σ_k (W^k)^T W^k,   k = 0, 1, ...

    w (H, H) with spectral radius below 1 -> P (H, H), symmetric and positive definite. Every round doubles the terms of the sum.
    """
    radius = spectral_radius(w)
    if not radius < 1:
        raise ArgumentError(
            message("lyapunov: the system is not stable", expected="spectral_radius(W) < 1", got=f"{radius:.6g}: no energy falls")
        )
    p, power = backend.array_module(raw(w)).eye(len(w), dtype=w.dtype), w
    while True:
        later = swapaxes(power, -1, -2) @ p @ power
        p = p + later
        size, small = (float(np.abs(backend.to_numpy(raw(a))).max()) for a in (p, later))
        if small <= np.finfo(w.dtype).eps * size:
            return p
        power = power @ power


# ---- Several taps ------------------------------------------------------------------------------------------------------------------------


def tapped_recursion(xs: Any, taps: Mapping[int, Any]) -> Any:
    """A recursion through several past states.

        h_t = Σ_k a_k h_(t-k) + x_t             h_t = 0 for t <= 0

    xs (T, ...); taps, what each lag k >= 1 weighs: {1: 0.5, 5: 0.25} -> (T, ...). Its response to an impulse never ends, and sums up to
    1 / (1 - Σ a_k); how fast it fades say the `poles`. With nonlinearity and matrices: `taps_step`.
    """
    _check_lags("tapped_recursion", taps, least=1)

    def step(x: Any, *past: Any) -> tuple[Any, ...]:
        return (x + sum(a * past[k - 1] for k, a in taps.items()), *past[:-1])

    return scan(step, xs, (np.zeros_like(raw(xs)[0]),) * max(taps))[0]


def finite_response(xs: Any, taps: Mapping[int, Any]) -> Any:
    """A time delay network of one layer: it reads a window of its input, and nothing of itself.

        y_t = Σ_k a_k x_(t-k)                   x_t = 0 for t <= 0

    xs (T, ...); taps, what each lag k >= 0 weighs. Bounded input gives bounded output, abs(y) <= Σ abs(a_k) max abs(x), whatever the
    weights; of a recursion that holds only with all its poles inside the unit circle.
    """
    _check_lags("finite_response", taps, least=0)
    T, window = len(xs), max(taps)
    padded = concatenate([np.zeros_like(raw(xs)[:1])] * window + [xs])
    return sum(a * padded[window - k : window - k + T] for k, a in taps.items())


def companion(taps: Mapping[int, float]) -> Any:
    """The matrix C (p, p) that makes a recursion with p taps one with a single tap: (h_t ... h_(t-p+1)) = C (h_(t-1) ... h_(t-p))."""
    _check_lags("companion", taps, least=1)
    c = np.eye(max(taps), k=-1)
    for k, a in taps.items():
        c[0, k - 1] = a
    return c


def poles(taps: Mapping[int, float]) -> Any:
    """The z with z^p = Σ_k a_k z^(p-k), the slowest first: the eigenvalues of `companion`, and h_t decays as abs(z_1)^t."""
    found = np.linalg.eigvals(companion(taps))
    found = found if found.imag.any() else found.real
    return found[np.argsort(-np.abs(found), kind="stable")]


def _check_lags(who: str, taps: Mapping[int, Any], least: int) -> None:
    if not isinstance(taps, Mapping) or not taps or not all(isinstance(k, int) and k >= least for k in taps):
        raise ArgumentError(
            message(f"{who}: taps {taps!r}", expected=f"a dictionary from lags k >= {least} to weights, like {{1: 0.5, 5: 0.25}}")
        )


# ---- Gates in place of weights -----------------------------------------------------------------------------------------------------------


def carousel(fs: Any, vs: Any, c0: Any) -> Any:
    """The constant error carousel: a memory with no weight and no nonlinearity in its way, only gates (the cell of an LSTM).

        c_t = f_t ⊙ c_(t-1) + v_t             in the LSTM v_t = i_t ⊙ g_t

    fs and vs (T, ...), c0 (...) -> c_1 ... c_T, (T, ...). Open gates, f = 1, hold c for ever, and every gradient too.
    """
    return unfold(lambda c, fv: fv[0] * c + fv[1], c0, stack([fs, vs], axis=1))


def carousel_gradient(fs: Any) -> Any:
    """dc_T/dc_t for t = 0, ..., T, (T + 1, ...): the product of the gates in between, Π_(j=t+1..T) f_j, where an RNN has W and f'."""
    one = np.ones_like(raw(fs)[:1])
    return flip(cumprod(concatenate([one, flip(fs, axis=0)]), axis=0), axis=0)
