"""The Kalman filter (Kalman 1960): a linear dynamical system whose state is hidden, and what can be known of it from what is seen.

    x_t = a x_(t-1) + w_t          y_t = x_t + v_t          w_t ~ N(0, q), v_t ~ N(0, r): the state goes on by itself, and is seen through noise

    K_t = P_t / (P_t + r)          the gain: how much of a surprise is believed                  P_t: variance of x_t before y_t is seen
    x̂_(t+1) = a (x̂_t + K_t (y_t - x̂_t))                  P_(t+1) = a² (1 - K_t) P_t + q          x̂_t = E[x_t | y_1 ... y_(t-1)]

P_t settles where P = a² (P - P²/(P + r)) + q (Riccati), and what nobody can know of y_t, the innovation y_t - x̂_t, then has variance P + r.

- T12  Of the models with memory in Graves' deck the linear dynamical system: the filter is exact, and it is a linear recurrent network, one of two
       weights, that can be learned; a few taps (AR) do not see enough, since all of the past tells something of x_t.

Sources: Graves' deck, "sequence labeling" 3; Kalman, A new approach to linear filtering and prediction problems (1960).
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import numpy as np

import tinygrad_seq as tg
from models.command_line import run_experiments
from models.experiment import Drawn, Experiment, Run, experiment
from tinygrad_seq import nn, optim, training
from tinygrad_seq.nn import functional as F
from tinygrad_seq.nn.functional import dynamics

# ---- The system, and the filter -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Hidden:
    """The settings of T12: x_t = a x_(t-1) + w_t, y_t = x_t + v_t with variances q of w and r of v."""

    a: float = 0.95
    q: float = 0.1
    r: float = 1.0
    T: int = 1000
    sequences: int = 1000
    steps: int = 400  # of training
    batch: int = 64


def observed(c: Hidden, T: int, B: int, rng: np.random.Generator) -> Any:
    """What is seen of B systems in their stationary state, (T, B, 1)."""
    start = rng.normal(0, np.sqrt(c.q / (1 - c.a**2)), (B, 1))
    noise = rng.normal(0, np.sqrt(c.q), (T, B, 1))
    return dynamics.linear_recursion(noise, start, np.eye(1), c.a * np.eye(1)) + rng.normal(0, np.sqrt(c.r), (T, B, 1))


def riccati(a: float, q: float, r: float) -> tuple[float, float]:
    """The variance P of what is not known of x_t before y_t is seen, in the long run, and the gain K.

        P = a² (P - P²/(P + r)) + q            K = P/(P + r)

    The innovations, what is not known of y_t, have variance P + r.
    """
    b = r * (1 - a**2) - q
    P = (-b + np.sqrt(b**2 + 4 * q * r)) / 2
    return P, P / (P + r)


def kalman(ys: Any, c: Hidden) -> Any:
    """The Kalman filter: the best prediction of each y_t from y_1 ... y_(t-1), (T, B, 1)."""
    x, P, predictions = np.zeros_like(ys[0]), c.q / (1 - c.a**2), []
    for y in ys:
        predictions.append(x)  # E[x_t | y_1 ... y_(t-1)], with variance P
        K = P / (P + c.r)
        x, P = c.a * (x + K * (y - x)), c.a**2 * (1 - K) * P + c.q
    return np.stack(predictions)


# ---- T12: the filter, known and learned ---------------------------------------------------------------------------------------------------


class Filter(nn.Module):
    """A linear recurrent network that predicts the next observation, ŷ_(t+1) = u ŷ_t + k y_t; the Kalman filter has k = aK and u = a(1 - K)."""

    def __init__(self) -> None:
        self.u, self.k = nn.Parameter(np.full((1, 1), 0.5)), nn.Parameter(np.full((1, 1), 0.1))

    def forward(self, ys: Any) -> Any:
        return dynamics.linear_recursion(ys[:-1], np.zeros((ys.shape[1], 1)), self.k, self.u)


@experiment("T12", "Kalman filter", rows="E6", quick=Hidden(sequences=300), full=Hidden(), seconds=(2, 4))
def hidden_state(run: Run, config: Hidden) -> None:
    """The innovations have the variance of the Riccati equation; a linear recurrent network learns the filter; a few taps do not see enough."""
    c, rng = config, run.rng("observations")
    ys, burn = observed(c, c.T, c.sequences, rng), 100
    P, K = riccati(c.a, c.q, c.r)
    run.result("Riccati: variance of the innovations", P + c.r, at_least=1.31745, at_most=1.31755)
    measured = ((ys - kalman(ys, c))[burn:] ** 2).mean()
    run.result("measured over it, Kalman filter", measured / (P + c.r), at_least=0.99, at_most=1.01)
    for p in (1, 4, 20):
        rows = np.stack([ys[burn - k : c.T - k].ravel() for k in range(1, p + 1)], axis=1)
        weights = np.linalg.lstsq(rows[::7], ys[burn:].ravel()[::7], rcond=None)[0]
        error = ((rows @ weights - ys[burn:].ravel()) ** 2).mean()
        run.result(f"AR({p}) over it", error / (P + c.r), **({"at_least": 1.15} if p == 1 else {}))

    def loss(model: nn.Module, ys: Any) -> Any:
        return F.mse_loss(model(ys)[20:], ys[21:])  # after the start, which the filter in its stationary form does not know

    model, batches = Filter(), Drawn(lambda rng: observed(c, 100, c.batch, rng), run.rng("batches"))
    adam = optim.Adam(model.parameters(), lr=2e-2)
    schedule = optim.lr_scheduler.CosineAnnealingLR(adam, c.steps)
    run.fit("filter", model, loss, adam, batches, steps=c.steps, schedule=schedule)
    with training.evaluating(model):
        predictions = model(ys).numpy()
    run.result("learned linear recurrent network over it", ((predictions - ys[1:])[burn:] ** 2).mean() / (P + c.r), at_most=1.01)
    run.result(
        "its weight of an observation over that of Kalman", float(model.k.numpy()[0, 0]) / (c.a * K), at_least=0.9, at_most=1.1
    )
    seen = np.concatenate([ys[1:80, 0], kalman(ys, c)[1:80, 0], predictions[:79, 0]], axis=1)
    run.figure(
        "filter.svg",
        lambda: labelled(tg.plot.trajectories(seen, labels=["observed", "Kalman: expected", "learned: expected"]), "y_t"),
    )


def labelled(plot: Any, label: str) -> Any:
    """A plot with another label of its ordinate."""
    plot.figure.axes[0].set_ylabel(label)
    return plot


# ---- The command --------------------------------------------------------------------------------------------------------------------------

EXPERIMENTS: list[Experiment] = [hidden_state]


def main(argv: list[str] | None = None) -> int:
    """Run the experiment; `--help` names the options."""
    return run_experiments(__doc__, EXPERIMENTS, argv)


if __name__ == "__main__":
    sys.exit(main())
