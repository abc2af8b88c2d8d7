"""Control (CS540 names it among the tasks of recurrent networks): a pole on end, balanced by a network that is trained through the physics.

    h_t = tanh(W angle_(t-1) + U h_(t-1) + b)                                        an Elman network (Elman 1990), which sees the angle alone
    speed_t = speed_(t-1) + Δ (10 sin angle_(t-1) + 10 (V h_t + c) + gust_t)         Δ = 0.05
    angle_t = angle_(t-1) + Δ speed_t

The simulator is a recurrent network of its own, with the state (angle, speed, h). The loss is how far the pole leans over time, and its gradient goes
back through both, step by step: no reward, no critic, no policy gradient, as one would need where the physics is not known.

- E17  A push that depends on the angle alone cannot damp (a pendulum without friction swings on); the speed has to be told from two angles, so the
       controller needs a memory. The same network without its h, for the same number of steps, stands beside it, and so does nobody at all.

Sources: CS540 (UW-Madison), "Recurrent Networks"; Elman, Finding structure in time, Cognitive Science 14 (1990). The simulator is made by rule.
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

# ---- The model ----------------------------------------------------------------------------------------------------------------------------


class Pole(nn.Module):
    """The pole and its controller as one recurrent cell with the state (angle, speed, h): (B, 1), (B, 1), (B, H).

    The controller sees the angle only. remembers=False takes its h away before every step.
    """

    def __init__(self, H: int, remembers: bool = True, *, rng: np.random.Generator):
        self.state_sizes, self.remembers = (1, 1, H), remembers
        self.controller, self.push = nn.RNNCell(1, H, rng=rng), nn.Linear(H, 1, rng=rng)

    def forward(self, gust: Any, state: tuple[Any, Any, Any]) -> tuple[Any, Any, Any]:
        angle, speed, h = state
        h = self.controller(angle, h if self.remembers else 0 * h)
        speed = speed + 0.05 * (10 * tg.sin(angle) + 10 * self.push(h) + gust)
        return angle + 0.05 * speed, speed, h


# ---- E17: a pole on end -------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Control:
    """The settings of E17."""

    hidden: int = 8
    steps: int = 300
    batch: int = 32
    duration: int = 60  # steps of simulation in training
    long: int = 400  # in the test


@experiment("E17", "A pole balanced by its angle alone", rows="E17", quick=Control(), full=Control(), seconds=(1, 1))
def control(run: Run, config: Control) -> None:
    """The loss is the angle over time, and its gradient goes through the physics. A push that knows the angle alone cannot damp: what swings goes on."""
    c = config

    def drawn(rng: np.random.Generator, T: int = c.duration, B: int = c.batch) -> tuple[Any, Any]:
        start = (*rng.uniform(-0.2, 0.2, (2, 1, B, 1)).astype("float32"), np.zeros((1, B, c.hidden), "float32"))
        return rng.normal(size=(T, B, 1)).astype("float32"), start

    def loss(model: nn.Module, batch: tuple[Any, Any]) -> Any:
        angles, _ = model(*batch)
        return F.smooth_l1_loss(angles, np.zeros(angles.shape, "float32"))

    test, paths = drawn(run.rng("test"), c.long, 100), {}
    for name, remembers, steps in (("nobody", False, 0), ("no memory", False, c.steps), ("Elman", True, c.steps)):
        pole = Pole(c.hidden, remembers, rng=run.rng(name))
        if not steps:
            pole.push.load_state_dict({"weight": np.zeros((1, c.hidden)), "bias": np.zeros(1)})
        model = nn.Recurrent(pole, 1)
        if steps:
            adam = optim.Adam(model.parameters(), lr=1e-2)
            run.fit(name, model, loss, adam, Drawn(drawn, run.rng(f"{name}: gusts")), steps=steps, clip_norm=1.0)
        with training.evaluating(model):
            paths[name] = model(*test)[0].numpy()[..., 0]  # (T, B)
    swing = {name: np.sqrt((path[c.long // 2 :] ** 2).mean()) for name, path in paths.items()}
    run.result("nobody pushes: poles within half a radian all the time", (abs(paths["nobody"]).max(axis=0) < 0.5).mean())
    run.result(
        "pushed by an Elman network: poles within half a radian", (abs(paths["Elman"]).max(axis=0) < 0.5).mean(), at_least=1.0
    )
    run.result("Elman: angle in the second half, root of mean square", swing["Elman"], at_most=0.06)
    run.result("the same without memory", swing["no memory"], at_least=0.1)
    poles = {name: paths[name][:200, :4] for name in ("no memory", "Elman")}
    run.figure("angles.svg", lambda: angles(poles))


def angles(poles: dict[str, Any]) -> Any:
    """The angles of some poles over time, (T, poles) by the name of who pushes, all on one scale."""
    plot = tg.plot.trajectories(poles, labels=[f"pole {k}" for k in range(1, 5)])
    most = 1.05 * max(abs(path).max() for path in poles.values())
    for axes in plot.figure.axes:
        axes.set_ylim(-most, most)
    plot.figure.axes[0].set_ylabel("angle, radians")
    return plot


# ---- The command --------------------------------------------------------------------------------------------------------------------------

EXPERIMENTS: list[Experiment] = [control]


def main(argv: list[str] | None = None) -> int:
    """Run the experiment; `--help` names the options."""
    return run_experiments(__doc__, EXPERIMENTS, argv)


if __name__ == "__main__":
    sys.exit(main())
