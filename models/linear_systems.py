"""Linear systems, and what a nonlinearity does to them: why recurrent networks forget or blow up (CMU 11-785).

    y_t = Σ_k a_k x_(t-k)                      a finite response: a time delay network (TDNN) reads a window
    h_t = W h_(t-1) + V x_t                    a linear recursion reads everything, through the powers of W
    h_t = f(W h_(t-1) + V x_t)                 a recurrent network

- A14  What a TDNN and a recurrent network can know of the past, and whether bounded inputs give bounded outputs (C5).
- C2   A linear recursion is the sum of its responses to every single input.
- C3   The law of the largest eigenvalue: W^t h_0 grows or shrinks as abs(λ_1)^t. The notes say "Re(λ_max) > 1 blows up, otherwise it shrinks": the
       modulus decides. 0.9 ± 0.9i has a real part below 1 and blows up; λ = 1 does neither. Also panels of eigenvalues (C4), symmetric W (C8).
- C6   Saturation of one unit, sigmoid, tanh and ReLU; of many units (C7), where the notes ask why ReLU is "more prone to blowing up": it is
       the identity as long as nothing is negative, so that it takes weights of positive mean; and how long two starts can be told apart (C10, C11).
- C9   Lyapunov: a linear system is stable if and only if there is an energy that falls at every step.
- C12  Recursions with several taps, h_t = 0.5 h_(t-1) + 0.25 h_(t-5) (+ 0.1 h_(t-8)) + x_t, and their poles.

The figures of the eigenvalue panels are lost from the notes; they are drawn again from their captions. Nothing is trained here. The same along depth in
place of time: models/depth.py; linear systems whose state is hidden: models/kalman.py.
Source: CMU 11-785 (2017), "Recurrent Networks".
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import tinygrad_seq as tg
from models.command_line import run_experiments
from models.experiment import Experiment, Run, experiment
from tinygrad_seq import errors, nn
from tinygrad_seq.nn import functional as F
from tinygrad_seq.nn.functional import dynamics


@dataclass(frozen=True)
class Systems:
    """The settings of all of these."""

    N: int = 64  # units
    steps: int = 200
    draws: int = 20  # of random matrices


def matrix(N: int, radius: float, rng: np.random.Generator, mean: float = 0.0) -> Any:
    """A random matrix whose largest eigenvalue has that modulus; mean: of its entries, in their standard deviations before scaling."""
    w = rng.normal(mean, 1, (N, N))
    return w * radius / dynamics.spectral_radius(w)


def path(f: Callable[[Any], Any], w: Any, start: Any, steps: int) -> Any:
    """h_0, h_1 = f(W h_0), ...: (steps + 1, ...); w a matrix, or a number for all units."""
    start = np.asarray(start, dtype="float64")
    once: Callable[..., Any] = (lambda h, w: f(w @ h)) if np.ndim(w) else (lambda h, w: f(w * h))
    with np.errstate(over="ignore", invalid="ignore"):
        return np.concatenate([start[None], dynamics.unfold(once, start, theta=(np.asarray(w, "float64"),), steps=steps)])


def ones(N: int) -> Any:
    """The start (1, 1, ...) / √N of the notes."""
    return np.ones(N) / np.sqrt(N)


# ---- A14, C5: finite responses and recursions -------------------------------------------------------------------------------------------------


class TDNN(nn.Module):
    """A time delay network: hidden units that read `window` inputs, moved along time, (B, 1, T) -> (B, 1, T - window + 1)."""

    def __init__(self, window: int, H: int, *, rng: np.random.Generator):
        self.hidden, self.read = nn.Conv1d(1, H, window, rng=rng, dtype="float64"), nn.Conv1d(H, 1, 1, rng=rng, dtype="float64")

    def forward(self, xs: Any) -> Any:
        return self.read(tg.tanh(self.hidden(xs)))


@experiment("A14", "Finite responses, and bounded ones", rows="A14, C5", quick=Systems(), full=Systems(), seconds=(1, 1))
def finite_response(run: Run, config: Systems) -> None:
    """A TDNN knows its window, to the bit; a recurrent network everything. A linear recursion turns bounded inputs into unbounded states."""
    c, rng, window = config, run.rng("networks"), 8  # X(t) ... X(t+7), as in the figure of stock prices
    xs = rng.uniform(-1, 1, (1, 1, c.steps))
    other = xs.copy()
    other[..., 0] += 1
    tdnn, rnn = TDNN(window, 16, rng=rng), nn.RNN(1, c.N, recurrent_init="orthogonal", rng=rng, dtype="float64")
    moved = abs(tdnn(xs).numpy() - tdnn(other).numpy())[0, 0]
    run.result("TDNN: change of the output whose window holds the changed input", moved[0])
    run.result("TDNN: change of any other output", moved[1:].max(), at_most=0.0)
    states = [rnn(np.moveaxis(x, -1, 0))[0].numpy() for x in (xs, other)]
    run.result("recurrent network: change of the state 50 steps later", abs(states[0] - states[1])[50].max(), at_least=1e-12)

    xs, w, into = rng.uniform(-1, 1, (c.steps, 1, 1)), matrix(c.N, 1.1, rng), rng.normal(size=(c.N, 1))
    taps = dict(enumerate(rng.normal(size=window).tolist()))
    bound = sum(abs(a) for a in taps.values())
    run.result("finite response: largest output over its bound", abs(dynamics.finite_response(xs, taps)).max() / bound, at_most=1.0)
    linear = dynamics.linear_recursion(xs, np.zeros((1, c.N)), into, w)[:, 0]
    above = np.flatnonzero(abs(linear).max(axis=1) > 1e6)
    run.result(
        "linear recursion, abs(λ) = 1.1: steps until it passes a million", above[0] + 1 if len(above) else np.inf, at_most=200
    )
    tanh = dynamics.unfold(lambda h, x, w, into: tg.tanh(h @ w.T + x @ into.T), np.zeros((1, c.N)), xs, (w, into))[:, 0]
    run.result("the same with tanh: largest state", abs(tanh).max(), at_most=1.0)
    run.figure("bounded.svg", lambda: tg.plot.trajectories({"linear, |λ| = 1.1": linear[:100, :4], "tanh": tanh[:100, :4]}))


# ---- C2: superposition ------------------------------------------------------------------------------------------------------------------------


@experiment("C2", "Superposition", rows="C2", quick=Systems(), full=Systems(), seconds=(1, 1))
def superposition(run: Run, config: Systems) -> None:
    """The states of a linear recursion are the responses to its start and to every input, added up."""
    rng, T, N = run.rng("system"), 30, 4
    xs, h0, w_ih, w_hh = rng.normal(size=(T, 2, 3)), rng.normal(size=(2, N)), rng.normal(size=(N, 3)), matrix(N, 0.95, rng)
    states = dynamics.linear_recursion(xs, h0, w_ih, w_hh)
    off = abs(states - dynamics.superposition(xs, h0, w_ih, w_hh)).max()
    run.result("largest difference of the sum of responses to the simulation", off, at_most=1e-12)
    responses = dynamics.impulse_responses(w_ih, w_hh, T)[..., 0]
    run.figure("responses.svg", lambda: tg.plot.trajectories({"to input 1 at t = 0": responses, "to all": states[:, 0]}))


# ---- C3, C4, C8: eigenvalues --------------------------------------------------------------------------------------------------------------------


def slope(w: Any, start: Any, steps: int) -> float:
    """What the length of W^t h_0 is multiplied by at a step in the long run: from its second half."""
    lengths = np.linalg.norm(path(lambda h: h, w, start, steps), axis=1)
    return float((lengths[-1] / lengths[steps // 2]) ** (1 / (steps - steps // 2)))


@experiment("C3", "The law of the largest eigenvalue", rows="C3, C4, C8", quick=Systems(), full=Systems(), seconds=(2, 2))
def eigenvalues(run: Run, config: Systems) -> None:
    """The modulus of the largest eigenvalue that a start has a part of; its real part decides nothing."""
    rng, N = run.rng("matrices"), config.N
    symmetric = {radius: matrix(N, 1.0, rng) for radius in (0.9, 1.0, 1.1)}
    symmetric = {radius: (w + w.T) * radius / dynamics.spectral_radius(w + w.T) for radius, w in symmetric.items()}
    worst = max(abs(slope(w, ones(N), 1000) / radius - 1) for radius, w in symmetric.items())
    run.result("abs(λ_1) = 0.9, 1, 1.1: growth in a step over abs(λ_1), off 1 by at most", worst, at_most=0.01)
    modes = dynamics.modes(symmetric[1.1], ones(N))
    second = slope(symmetric[1.1], modes.vectors[:, 1], 20) / abs(modes.eigenvalues[1])
    run.result("started in the second eigenvector: growth over abs(λ_2), off 1 by", abs(second - 1), at_most=0.01)
    for name, (a, b), bound in (("0.9 ± 0.9i", (0.9, 0.9), 1e4), ("± 1.05i", (0, 1.05), 10.0)):
        length = np.linalg.norm(path(np.array, turning_of(a, b), [1, 0], 50)[-1])
        run.result(f"λ = {name}, real part below 1: length after 50 steps", length, at_least=bound)
    general = matrix(N, 1.0, rng)
    run.result(
        "symmetric W: largest imaginary part of an eigenvalue", abs(np.linalg.eigvals(symmetric[1.0]).imag).max(), at_most=0.0
    )
    run.result(
        "general W: share of eigenvalues off the real axis", (abs(np.linalg.eigvals(general).imag) > 1e-9).mean(), at_least=0.5
    )
    run.figure(
        "spectrum.svg", lambda: tg.plot.spectrum({"general": general, "symmetric": symmetric[1.1], "Re < 1": turning_of(0.9, 0.9)})
    )
    run.figure(
        "growth.svg",
        lambda: tg.plot.growth({"0.9 ± 0.9i": turning_of(0.9, 0.9), "1": np.diag([1, 0.5]), "0.9": 0.9 * np.eye(2)}, np.ones(2)),
    )
    panels = {f"λ = {r:g}, {s:g}": np.diag([r, s]) for s in (0.5, 0.1) for r in (0.9, 1, 1.1)}
    panels |= {f"|λ| = {r:g}, complex": turning_of(r * np.cos(0.4), r * np.sin(0.4)) for r in (0.9, 1, 1.1)}
    run.figure("panels.svg", lambda: tg.plot.trajectories({name: path(np.array, w, [1, 1], 40) for name, w in panels.items()}))


def turning_of(a: float, b: float) -> Any:
    """The real matrix with eigenvalues a ± bi."""
    return np.array([[a, -b], [b, a]])


# ---- C6, C7, C10, C11: saturation -----------------------------------------------------------------------------------------------------------------


def settled(states: Any, near: float = 1e-3) -> int:
    """After how many steps the last of several units is within `near` of where it ends."""
    away = (abs(states - states[-1]) > near).any(axis=tuple(range(1, np.ndim(states))))
    return int(np.flatnonzero(away)[-1] + 1) if away.any() else 0


@experiment("C6", "Saturation", rows="C6, C7, C10, C11", quick=Systems(), full=Systems(), seconds=(1, 1))
def saturation(run: Run, config: Systems) -> None:
    """Sigmoids forget at once, tanh by its weight, ReLU blows up or is silent; many ReLUs blow up if their weights have a positive mean."""
    c, starts = config, [-1, -0.1, 0.1, 1]
    slowest = max(settled(path(tg.sigmoid, w, starts, 400)) for w in (0.5, 0.9, 1, 1.1, 2, -0.9))
    run.result("one sigmoid: steps to within 0.001 of its end, the slowest of six weights", slowest, at_most=8)
    for w, bounds in ((0.5, {"at_most": 12}), (0.9, {}), (1.0, {"at_least": 350}), (1.1, {}), (2.0, {"at_most": 8})):
        run.result(
            f"one tanh, w = {w:g}: steps to within 0.001 of its end (of 400)", settled(path(np.tanh, w, starts, 400)), **bounds
        )
    relu = path(F.relu, 1.1, starts, c.steps)
    run.result(f"one ReLU, w = 1.1, from 0.1: state after {c.steps} steps", relu[-1, 2], at_least=1e6)
    run.result("one ReLU from negative starts: largest state after a step", abs(relu[1:, :2]).max(), at_most=0.0)
    for mean, bounds in ((0, {"at_most": 2}), (0.05, {}), (0.1, {}), (0.2, {"at_least": c.draws - 1})):
        rng, blown = run.rng(f"mean {mean}"), 0
        for _ in range(c.draws):
            blown += np.linalg.norm(path(F.relu, matrix(c.N, 1.1, rng, mean), ones(c.N), c.steps)[-1]) > 1e3
        run.result(f"{c.N} ReLUs, abs(λ_1) = 1.1, mean of W {mean:g} of its deviation: of {c.draws} blow up", blown, **bounds)
    rng, apart = run.rng("two starts"), {}
    pairs, randoms = rng.uniform(-1, 1, (c.N, 2)), [matrix(c.N, 1.0, rng) for _ in range(c.draws)]
    for name, f, radius in (("sigmoid", tg.sigmoid, 1.1), ("tanh, |λ| = 0.9", np.tanh, 0.9), ("tanh, |λ| = 1.1", np.tanh, 1.1)):
        states = np.stack([path(f, radius * random, pairs, 100) for random in randoms])  # (draws, 101, N, 2)
        apart[name] = np.linalg.norm(states[..., 0] - states[..., 1], axis=2).T
    of = f"of {c.draws} draws"
    run.result(f"{c.N} sigmoids: distance of two starts after 10 steps, the most {of}", apart["sigmoid"][10].max(), at_most=1e-4)
    run.result(f"{c.N} tanh, abs(λ_1) = 0.9: after 100 steps, the most {of}", apart["tanh, |λ| = 0.9"][100].max(), at_most=1e-3)
    run.result(f"{c.N} tanh, abs(λ_1) = 1.1: after 100 steps, median {of}", np.median(apart["tanh, |λ| = 1.1"][100]), at_least=1e-2)
    units = {
        f"{name}, w = {w:g}": path(f, w, starts, 40)
        for w in (0.9, 1.1)
        for name, f in (("sigmoid", tg.sigmoid), ("tanh", np.tanh), ("ReLU", F.relu))
    }
    run.figure("units.svg", lambda: tg.plot.trajectories(units, labels=[f"from {x}" for x in starts]))
    first = {name: distances[:, 0] for name, distances in apart.items()}
    run.figure("apart.svg", lambda: labelled(tg.plot.trajectories(first), "distance of two starts"))


def labelled(plot: Any, label: str) -> Any:
    """A plot with another label of its ordinate."""
    plot.figure.axes[0].set_ylabel(label)
    return plot


# ---- C9, C12: energy and poles ----------------------------------------------------------------------------------------------------------------------


@experiment("C9", "Lyapunov's energy", rows="C9", quick=Systems(), full=Systems(), seconds=(1, 1))
def energy(run: Run, config: Systems) -> None:
    """V(h) = h^T P h falls by norm(h)² at every step, though the length of h may rise for a while."""
    rng, N = run.rng("system"), 8
    w, start = matrix(N, 0.95, rng), rng.normal(size=N)
    P = dynamics.lyapunov(w)
    h = path(np.array, w, start, 100)
    V, lengths = np.einsum("ti,ij,tj->t", h, P, h), np.linalg.norm(h, axis=1)
    run.result("largest entry of W^T P W - P + I", abs(w.T @ P @ w - P + np.eye(N)).max(), at_most=1e-8)
    run.result("steps at which the length of h rises", (np.diff(lengths) > 0).sum())
    run.result("steps at which V rises", (np.diff(V) >= 0).sum(), at_most=0)
    try:
        dynamics.lyapunov(matrix(N, 1.05, rng))
    except errors.ArgumentError:
        refused = True
    else:
        refused = False
    run.result("abs(λ_1) = 1.05: there is no such energy (1: refused)", refused, at_least=1)
    run.figure(
        "energy.svg", lambda: labelled(tg.plot.trajectories({"V(h_t)": V[:60], "norm of h_t": lengths[:60]}), "energy, length")
    )


TAPS = {"lag 1": {1: 0.5}, "lags 1, 5": {1: 0.5, 5: 0.25}, "lags 1, 5, 8": {1: 0.5, 5: 0.25, 8: 0.1}}


@experiment("C12", "Several taps and their poles", rows="A13, C12", quick=Systems(), full=Systems(), seconds=(1, 1))
def taps(run: Run, config: Systems) -> None:
    """A second and a third tap hold an input ten thousand and a hundred thousand times better; the slowest pole says how long."""
    impulse = np.zeros(600)
    impulse[0] = 1
    for name, pole, at_20 in (("lag 1", 0.5, 0.5**20), ("lags 1, 5", 0.8930, 0.0354), ("lags 1, 5, 8", 0.9500, 0.1060)):
        weights = TAPS[name]
        response = dynamics.tapped_recursion(impulse, weights)
        run.result(f"{name}: slowest pole", abs(dynamics.poles(weights)[0]), at_least=pole - 1e-4, at_most=pole + 1e-4)
        run.result(f"{name}: what is left after 20 steps", response[20], at_least=0.99 * at_20, at_most=1.01 * at_20)
        run.result(
            f"{name}: sum of the response, off 1/(1 - Σ a) by", abs(response.sum() - 1 / (1 - sum(weights.values()))), at_most=1e-9
        )
    run.figure("taps.svg", lambda: tg.plot.taps(TAPS))


# ---- The command --------------------------------------------------------------------------------------------------------------------------

EXPERIMENTS: list[Experiment] = [finite_response, superposition, eigenvalues, saturation, energy, taps]


def main(argv: list[str] | None = None) -> int:
    """Run the experiments; `--help` names the options."""
    return run_experiments(__doc__, EXPERIMENTS, argv)


if __name__ == "__main__":
    sys.exit(main())
