"""NARX: nonlinear autoregression with exogenous inputs (CMU 11-785; Lin, Horne, Tiňo & Giles 1996), a recursion through the output with several taps.

    k_t = tanh(W x_t + Σ_j W_j y_(t-j) + b)            j = 1, ..., p taps; the notes draw sigmoids and a box for every number
    y_t = V k_t + c

- T9   A latch: the class is told in the first three steps, noise follows, the answer is due at step T. A gradient on its way back jumps p steps
       at a time, so it is multiplied T/p times instead of T: with several taps the same training holds a bit for longer.
- T10  Identification of a plant, y_t = y_(t-1) / (1 + y_(t-1)²) + u_t³ (Narendra & Parthasarathy 1990), from its inputs and outputs. What is fed
       back may be the plant's own past outputs, the network's past predictions, or its past errors: one word chooses.
- E12  The notes: such networks are often trained by simulated annealing. It needs no gradient, so none can vanish, and its cost may be a count.

Known beforehand: random guessing of weights solves latches as well (Hochreiter & Schmidhuber 1996), so that annealing does says little about tasks
with more weights. The notes show NARX networks that forecast solar power and hourly temperatures of 2002-2008 (E13): that data is not to be had
here; other weather and sunspots are in models/forecasting.py.
Sources: CMU 11-785 (2017), "Recurrent Networks", NARX; Lin et al., Learning long-term dependencies in NARX recurrent neural networks, IEEE Trans.
Neural Networks 7 (1996); Narendra & Parthasarathy, Identification and control of dynamical systems using neural networks, same journal 1 (1990);
Kirkpatrick, Gelatt & Vecchi, Optimization by simulated annealing, Science 220 (1983).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

import tinygrad_seq as tg
from models.command_line import run_experiments
from models.experiment import Drawn, Experiment, Run, experiment
from tinygrad_seq import nn, optim, training
from tinygrad_seq.nn import functional as F

# ---- T9: a latch ----------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Latch:
    """The settings of T9."""

    T: int = 40
    hidden: int = 6
    steps: int = 600
    batch: int = 32
    learning_rate: float = 1e-2
    starts: int = 4  # of each network
    taps: tuple[int, ...] = (1, 3, 6)


def signals(T: int, B: int, rng: np.random.Generator) -> tuple[Any, Any]:
    """Noise (T, B, 1), in whose first three steps the class stands as +1 or -1, and the classes (B,), 1 or 0."""
    classes = rng.integers(0, 2, B)
    xs = rng.normal(0, 0.1, (T, B, 1))
    xs[:3] += (2 * classes - 1)[:, None]
    return xs.astype("float32"), classes.astype("float32")


class AtTheEnd(nn.Module):
    """A NARX network whose last output is the score of a class, (T, B, 1) -> (B,)."""

    def __init__(self, H: int, taps: int, *, rng: np.random.Generator):
        self.net = nn.Recurrent(nn.NARXCell(1, H, 1, taps, "tanh", rng=rng))

    def forward(self, xs: Any) -> Any:
        ys, _ = self.net(xs)
        return ys[-1, :, 0]


class ElmanAtTheEnd(nn.Module):
    """The same of Elman's network: the recursion runs through the hidden units."""

    def __init__(self, H: int, *, rng: np.random.Generator):
        self.net, self.read = nn.RNN(1, H, rng=rng), nn.Linear(H, 1, rng=rng)

    def forward(self, xs: Any) -> Any:
        hs, _ = self.net(xs)
        return self.read(hs[-1])[:, 0]


def class_loss(model: nn.Module, batch: tuple[Any, Any]) -> Any:
    """Cross entropy of the class."""
    xs, classes = batch
    return F.binary_cross_entropy_with_logits(model(xs), classes)


def share_wrong(model: nn.Module, batch: tuple[Any, Any]) -> float:
    """The share of signals whose class is said wrongly."""
    xs, classes = batch
    with training.evaluating(model):
        return float(((model(xs).numpy() > 0) != (classes > 0.5)).mean())


@experiment(
    "T9", "A latch: memory by taps", rows="E12, A13, C15", quick=Latch(starts=2, taps=(1, 6)), full=Latch(), seconds=(5, 12)
)
def latch(run: Run, config: Latch) -> None:
    """As many steps for each: with six taps it learns to hold a bit for 40 steps, with one it does not."""
    c, test = config, signals(config.T, 500, run.rng("test"))
    flows, histories = {}, {}
    for name, taps in [*((f"{taps} tap{'s' * (taps > 1)}", taps) for taps in c.taps), ("Elman", 0)]:
        solved = 0
        for start in range(c.starts):
            rng = run.rng(f"{name} {start}")
            model = AtTheEnd(c.hidden, taps, rng=rng) if taps else ElmanAtTheEnd(c.hidden, rng=rng)
            if start == 0:
                flows[name] = tg.bptt.temporal_jacobians(model.net(test[0][:, :20])[0])
            adam = optim.Adam(model.parameters(), lr=c.learning_rate)
            batches = Drawn(lambda rng: signals(c.T, c.batch, rng), run.rng(f"{name} {start}: signals"))
            histories[name] = run.fit(f"{name} {start}", model, class_loss, adam, batches, steps=c.steps)
            solved += share_wrong(model, test) < 0.05
        bounds = {1: {"at_most": 0.25 * c.starts}, 6: {"at_least": 0.75 * c.starts}}.get(taps, {})
        what = f"NARX, {name}" if taps else "Elman's network"
        run.result(f"{what}: of {c.starts} starts so many hold a bit for {c.T} steps", solved, **bounds, quick=1)
    run.figure("training.svg", lambda: tg.plot.training(histories))
    run.figure("jacobians.svg", lambda: tg.plot.jacobians(flows))


# ---- T10: a plant ---------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plant:
    """The settings of T10."""

    hidden: int = 24
    taps: int = 1
    T: int = 20  # steps of a sequence in training
    batch: int = 32
    steps: int = 4000
    learning_rate: float = 5e-2
    test: int = 500  # steps


def plant(us: Any) -> Any:
    """The outputs of the plant, (T, B, 1) -> (T, B, 1), from y_0 = 0."""
    y, ys = np.zeros_like(us[0]), []
    for u in us:
        y = y / (1 + y**2) + u**3
        ys.append(y)
    return np.stack(ys)


class NARX(nn.Module):
    """Predictions ŷ_t of the outputs of a plant from its inputs and what is fed back, j = 1, ..., p steps late:

        feed = "true"         y_(t-j)               what the plant really said: good for one step ahead
        feed = "predicted"    ŷ_(t-j)               what the network said: it runs free, and lives with its mistakes
        feed = "errors"       y_(t-j) - ŷ_(t-j)     how wrong it was

    us, ys (T, B, 1) -> (T, B, 1).
    """

    def __init__(self, H: int, taps: int, *, rng: np.random.Generator):
        self.taps, self.cell = taps, nn.NARXCell(1, H, 1, taps, "tanh", rng=rng)

    def forward(self, us: Any, ys: Any, feed: str = "true") -> Any:
        taps = self.taps

        def step(uy: Any, *past_and_weights: Any) -> tuple[Any, ...]:
            past, weights = past_and_weights[:taps], past_and_weights[taps:]
            u, y = uy[:, :1], uy[:, 1:]
            said, *_ = F.narx_step(u, *past, *weights, taps=taps, nonlinearity="tanh")
            fed = y if feed == "true" else said if feed == "predicted" else y - said
            return (fed, *past[:-1], said)

        both = tg.concatenate([us, ys], axis=-1)
        *_, said = tg.scan(step, both, (np.zeros_like(us[0]),) * taps, tuple(self.cell.parameters()), collect=True)
        return said


def drawn_plant(T: int, B: int, rng: np.random.Generator) -> tuple[Any, Any]:
    """Inputs drawn evenly between -2 and 2, and what the plant answers."""
    us = rng.uniform(-2, 2, (T, B, 1)).astype("float32")
    return us, plant(us)


def two_sines(T: int) -> tuple[Any, Any]:
    """The input of the test, and the answer."""
    t = np.arange(1, T + 1)[:, None, None]
    us = (np.sin(2 * np.pi * t / 25) + np.sin(2 * np.pi * t / 10)).astype("float32")
    return us, plant(us)


def nrmse(said: Any, ys: Any) -> float:
    """Root of the mean square error, in standard deviations of the outputs."""
    return float(np.sqrt(((said - ys) ** 2).mean()) / ys.std())


def linear_prediction(train: tuple[Any, Any], test: tuple[Any, Any]) -> Any:
    """ARX: y_t = a y_(t-1) + b u_t + c by least squares, one step ahead."""

    def rows(us: Any, ys: Any) -> Any:
        late = np.concatenate([np.zeros_like(ys[:1]), ys[:-1]])
        return np.stack([late.ravel(), us.ravel(), np.ones(us.size)], axis=1)

    weights = np.linalg.lstsq(rows(*train), train[1].ravel(), rcond=None)[0]
    return (rows(*test) @ weights).reshape(test[1].shape)


@experiment("T10", "Identification of a plant", rows="E12, E14", quick=Plant(steps=1200), full=Plant(), seconds=(4, 10))
def identification(run: Run, config: Plant) -> None:
    """One step ahead and running free the network is the plant; fed its errors alone it cannot be, since they do not tell where the plant is."""
    c, test, said = config, two_sines(config.test), {}
    linear = linear_prediction(drawn_plant(c.T, 500, run.rng("linear")), test)
    run.result("linear ARX, one step ahead: NRMSE", nrmse(linear, test[1]), at_least=0.3)
    models = {}
    for feed in ("true", "errors"):
        models[feed] = model = NARX(c.hidden, c.taps, rng=run.rng(feed))
        adam = optim.Adam(model.parameters(), lr=c.learning_rate)
        schedule = optim.lr_scheduler.CosineAnnealingLR(adam, c.steps)
        batches = Drawn(lambda rng: drawn_plant(c.T, c.batch, rng), run.rng(f"{feed}: inputs"))

        def loss(model: nn.Module, batch: tuple[Any, Any], feed: str = feed) -> Any:
            return F.mse_loss(model(*batch, feed), batch[1])

        run.fit(feed, model, loss, adam, batches, steps=c.steps, schedule=schedule)
    for name, trained, feed in (
        ("true, true", "true", "true"),
        ("true, predicted", "true", "predicted"),
        ("errors", "errors", "errors"),
    ):
        with training.evaluating(models[trained]):
            said[name] = models[trained](*test, feed).numpy()
    run.result("NARX fed the true outputs, one step ahead: NRMSE", nrmse(said["true, true"], test[1]), at_most=0.01, quick=0.04)
    run.result(
        "the same network fed its predictions, running free", nrmse(said["true, predicted"], test[1]), at_most=0.02, quick=0.06
    )
    run.result("a network trained on and fed its errors, the same steps", nrmse(said["errors"], test[1]), at_least=0.05)
    shown = {"the plant": test[1], "running free": said["true, predicted"], "linear": linear, "fed errors": said["errors"]}
    lines = np.concatenate([np.asarray(line)[:100, 0] for line in shown.values()], axis=1)
    run.figure("answers.svg", lambda: answers(lines, list(shown)))


def answers(lines: Any, labels: list[str]) -> Any:
    """The plant's output over time, and what each network takes it to be."""
    plot = tg.plot.trajectories(lines, labels=labels, start=1)
    plot.figure.axes[0].set(ylabel="output y_t", title="")
    return plot


# ---- E12: simulated annealing -------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Annealing:
    """The settings of E12."""

    T: int = 40
    hidden: int = 6
    taps: int = 1
    steps: int = 1500
    signals: int = 64
    size: float = 0.2  # of a step of the weights
    temperature: float = 0.02  # at the start, in shares of wrong signals


class Annealer:
    """Simulated annealing (Kirkpatrick et al. 1983): a random step of all weights is kept if the cost falls, or else with probability

        exp(-rise / temperature)

    which falls to 0 on the way. The cost is any function of the model.
    """

    def __init__(self, model: nn.Module, cost: Any, rng: np.random.Generator):
        self.model, self.cost, self.rng, self.now = model, cost, rng, float(cost(model))

    def step(self, size: float, temperature: float) -> float:
        """One step; returns the cost."""
        before = self.model.state_dict()
        self.model.load_state_dict({k: w + size * self.rng.normal(size=w.shape).astype(w.dtype) for k, w in before.items()})
        new = float(self.cost(self.model))
        if new <= self.now or self.rng.random() < math.exp((self.now - new) / max(temperature, 1e-12)):
            self.now = new
        else:
            self.model.load_state_dict(before)
        return self.now

    def state_dict(self) -> dict[str, Any]:
        """What it needs to go on: where its generator stands, and the cost."""
        return {"rng": dict(tg.random.get_state(self.rng)), "now": self.now}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        tg.random.set_state(state["rng"], self.rng)
        self.now = state["now"]


@experiment("E12", "Training by simulated annealing", rows="E12", quick=Annealing(), full=Annealing(), seconds=(1, 1))
def annealing(run: Run, config: Annealing) -> None:
    """The latch of T9 with a single tap, whose gradient vanishes: annealing counts wrong signals and needs no gradient."""
    c = config
    model, few = AtTheEnd(c.hidden, c.taps, rng=run.rng("model")), signals(c.T, c.signals, run.rng("signals"))
    test = signals(c.T, 500, run.rng("test"))
    run.result("before training: share of wrong signals", share_wrong(model, test))
    annealer = Annealer(model, lambda model: share_wrong(model, few), run.rng("annealing"))

    def step(n: int) -> dict[str, float]:
        return {"wrong": annealer.step(c.size, c.temperature * (1 - n / c.steps))}

    costs = run.loop("annealing", step, steps=c.steps, model=model, annealer=annealer)
    run.result(f"wrong on the {c.signals} signals that it learned", costs[-1]["wrong"])
    run.result("wrong on others", share_wrong(model, test), at_most=0.05)
    run.note(f"So few weights, {sum(p.size for p in model.parameters())}, can be found by chance: no claim about larger networks.")
    run.figure("annealing.svg", lambda: course([cost["wrong"] for cost in costs]))


def course(costs: list[float]) -> Any:
    """The cost over the steps of the annealing."""
    plot = tg.plot.trajectories(costs)
    plot.figure.axes[0].set(xlabel="step of the annealing", ylabel="share of wrong signals")
    plot.figure.legends.clear()
    return plot


# ---- The command --------------------------------------------------------------------------------------------------------------------------

EXPERIMENTS: list[Experiment] = [latch, identification, annealing]


def main(argv: list[str] | None = None) -> int:
    """Run the experiments; `--help` names the options."""
    return run_experiments(__doc__, EXPERIMENTS, argv)


if __name__ == "__main__":
    sys.exit(main())
