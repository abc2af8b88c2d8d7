"""Denoising diffusion (Ho, Jain & Abbeel 2020): noise is added step by step until nothing is left of a picture; a network learns the way back.

    forward    q(x_t | x_(t-1)) = N(√(1 - β_t) x_(t-1), β_t I)                                       t = 1, ..., T
    at once    q(x_t | x_0)     = N(√ᾱ_t x_0, (1 - ᾱ_t) I)               α_t = 1 - β_t,  ᾱ_t = α_1 α_2 ... α_t
    loss       |ε - ε_θ(√ᾱ_t x_0 + √(1 - ᾱ_t) ε, t)|²                    ε ~ N(0, I), t drawn evenly
    backward   x_(t-1) = (x_t - β_t / √(1 - ᾱ_t) ε_θ(x_t, t)) / √α_t + √β̃_t ε'       β̃_t = β_t (1 - ᾱ_(t-1)) / (1 - ᾱ_t)

The notes: gradually add noise, as an encoder would, and remove it, as a decoder would. The encoder has nothing to learn, and its code is as large as the
picture. β_t grows evenly, as in the paper, whose 1,000 steps from 0.0001 to 0.02 are here 100 from 0.001 to 0.2.

- I5   Adding noise t times is adding it once: mean and variance of the closed form equal those of the steps.
- T24  A multi-layer perceptron of x_t and t predicts the noise in held-out digits, and makes digits out of noise.

Sources: CS540 (University of Wisconsin-Madison), "Generative models"; the judge of pictures: models/digits.py.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np

import tinygrad_seq as tg
from models import digits
from models.command_line import run_experiments
from models.experiment import Drawn, Experiment, Run, experiment
from tinygrad_seq import nn, optim, training
from tinygrad_seq.nn import functional as F

# ---- Adding noise -------------------------------------------------------------------------------------------------------------------------


class Noise:
    """β_t, α_t and ᾱ_t for t = 0, ..., T; there is no noise at 0: β_0 = 0, ᾱ_0 = 1."""

    def __init__(self, T: int):
        self.T = T
        self.beta = np.concatenate(
            [[0.0], np.minimum(np.linspace(0.1, 20, T) / T, 0.999)]
        )  # at most: of few steps the last would go beyond
        self.alpha = 1 - self.beta
        self.alpha_bar = np.cumprod(self.alpha)

    def step(self, x: Any, t: int, rng: np.random.Generator) -> Any:
        """x_(t-1) -> x_t."""
        return math.sqrt(self.alpha[t]) * x + math.sqrt(self.beta[t]) * rng.normal(size=x.shape)

    def at_once(self, x: Any, t: Any, epsilon: Any) -> Any:
        """x_0 (N, D), t (N,), ε (N, D) -> x_t (N, D)."""
        kept = self.alpha_bar[t][:, None]
        return np.sqrt(kept) * x + np.sqrt(1 - kept) * epsilon

    def step_back(self, x: Any, predicted: Any, t: int) -> tuple[Any, float]:
        """Mean and variance of x_(t-1), from x_t and the noise that is supposed in it: those of q(x_(t-1) | x_t, x_0)."""
        mean = (x - self.beta[t] / math.sqrt(1 - self.alpha_bar[t]) * predicted) / math.sqrt(self.alpha[t])
        return mean, self.beta[t] * (1 - self.alpha_bar[t - 1]) / (1 - self.alpha_bar[t])


@dataclass(frozen=True)
class Chains:
    """The settings of I5."""

    T: int = 100
    chains: int = 20_000


@experiment("I5", "Noise step by step is noise at once", rows="I5", quick=Chains(chains=4000), full=Chains(), seconds=(1, 1))
def closed_form(run: Run, config: Chains) -> None:
    """Mean and variance of q(x_t | x_0) by the closed form, by the steps' recursion, and of chains that were drawn step by step."""
    c, noise, rng = config, Noise(config.T), run.rng("chains")
    x0 = np.array([-1.0, 0.0, 1.0])
    mean, variance, x = x0, 0.0, np.repeat(x0[None], c.chains, axis=0)
    far: dict[str, list[float]] = {"mean": [], "variance": [], "mean drawn": [], "variance drawn": []}
    for t in range(1, c.T + 1):
        mean, variance = math.sqrt(noise.alpha[t]) * mean, noise.alpha[t] * variance + noise.beta[t]
        x = noise.step(x, t, rng)
        kept, left = math.sqrt(noise.alpha_bar[t]), 1 - noise.alpha_bar[t]
        far["mean"].append(np.abs(mean - kept * x0).max())
        far["variance"].append(abs(variance - left))
        far["mean drawn"].append(np.abs(x.mean(0) - kept * x0).max() / math.sqrt(left / c.chains))
        far["variance drawn"].append(np.abs(x.var(0) - left).max() / (left * math.sqrt(2 / c.chains)))
    run.result("mean of the steps - closed form, largest over t", max(far["mean"]), at_most=1e-12)
    run.result("variance of the steps - closed form, largest over t", max(far["variance"]), at_most=1e-12)
    run.result(
        f"mean of {c.chains:,} chains - closed form, in standard errors, largest over t", max(far["mean drawn"]), at_most=5.0
    )
    run.result("variance of the chains - closed form, in standard errors, largest over t", max(far["variance drawn"]), at_most=5.0)
    run.result("share of a picture's amplitude that is left at T", math.sqrt(noise.alpha_bar[-1]), at_most=0.01)


# ---- Removing it --------------------------------------------------------------------------------------------------------------------------


class Denoiser(nn.Module):
    """ε_θ: noisy pictures (N, D) and their times (N,) -> the noise in them (N, D). Blocks x + W SiLU(V LayerNorm(x) + time) of width H."""

    def __init__(self, D: int, H: int, blocks: int, T: int, *, rng: np.random.Generator):
        self.times = F.sinusoidal_positions(T + 1, 32)  # (T + 1, 32)
        self.into, self.out = nn.Linear(D, H, rng=rng), nn.Linear(H, D, rng=rng)
        self.clock = nn.ModuleList(nn.Linear(32, H, rng=rng) for _ in range(blocks))
        self.first = nn.ModuleList(nn.Sequential(nn.LayerNorm(H), nn.Linear(H, H, rng=rng)) for _ in range(blocks))
        self.second = nn.ModuleList(nn.Linear(H, H, rng=rng) for _ in range(blocks))

    def forward(self, x: Any, t: Any) -> Any:
        time, x = self.times[t], self.into(x)
        for clock, first, second in zip(self.clock, self.first, self.second, strict=True):
            x = x + second(F.silu(first(x) + clock(time)))
        return self.out(x)


@dataclass(frozen=True)
class Pictures:
    """The settings of T24."""

    T: int = 100
    hidden: int = 192
    blocks: int = 3
    steps: int = 5000
    batch: int = 128
    learning_rate: float = 2e-3


def with_noise(x: Any, noise: Noise, rng: np.random.Generator) -> tuple[Any, Any, Any]:
    """x_t, t and ε for each row of x, with t and ε drawn."""
    t, epsilon = rng.integers(1, noise.T + 1, size=len(x)), rng.normal(size=x.shape).astype("float32")
    return noise.at_once(x, t, epsilon).astype("float32"), t, epsilon


def noise_loss(model: Denoiser, batch: tuple[Any, Any, Any]) -> Any:
    """Mean square of ε - ε_θ(x_t, t)."""
    x, t, epsilon = batch
    return F.mse_loss(model(x, t), epsilon)


def sampled(model: Denoiser, noise: Noise, n: int, rng: np.random.Generator) -> Any:
    """n pictures at the times T, ..., 0: (T + 1, n, D), from noise to pictures."""
    xs = [rng.normal(size=(n, model.out.out_features))]
    with training.evaluating(model):
        for t in range(noise.T, 0, -1):
            predicted = model(xs[-1].astype("float32"), np.full(n, t)).numpy()
            mean, variance = noise.step_back(xs[-1], predicted, t)
            xs.append(mean + math.sqrt(variance) * rng.normal(size=mean.shape))
    return np.stack(xs)


@experiment("T24", "Digits out of noise", rows="I5", quick=Pictures(steps=1000), full=Pictures(), seconds=(8, 45))
def pictures(run: Run, config: Pictures) -> None:
    """The noise in held-out digits is predicted, and pictures made of noise pass for digits and are no copies."""
    c, noise = config, Noise(config.T)
    train, held_out = digits.load()
    x, unseen = 2 * train.flat - 1, 2 * held_out.flat - 1  # from -1 to 1, so that noise of variance 1 drowns them
    model = Denoiser(64, c.hidden, c.blocks, c.T, rng=run.rng("weights"))
    adam = optim.Adam(model.parameters(), lr=c.learning_rate)

    def drawn(rng: np.random.Generator) -> tuple[Any, Any, Any]:
        return with_noise(x[rng.integers(len(x), size=c.batch)], noise, rng)

    history = run.fit(
        "denoiser", model, noise_loss, adam, Drawn(drawn, run.rng("batches")), steps=c.steps,
        schedule=optim.lr_scheduler.CosineAnnealingLR(adam, c.steps),
    )  # fmt: skip

    rng, judge = run.rng("judged"), digits.Judge(train, held_out)
    noisy = with_noise(np.tile(unseen, (20, 1)), noise, rng)
    with training.evaluating(model):
        error = noise_loss(model, noisy).item()
    way = (sampled(model, noise, 500 if run.quick else 2000, rng) + 1) / 2
    found, real = judge(way[-1].clip(0, 1)), judge(held_out.images)
    run.result("predicting no noise: squared error, held-out digits", (noisy[2] ** 2).mean())
    run.result("predicted noise: squared error, held-out digits", error, at_most=0.17, quick=0.25)
    run.result("real digits, held out: confidence of the judge", real.confidence)
    run.result("made of noise: confidence of the judge", found.confidence, at_least=0.65, quick=0.6)
    run.result("made of noise: smallest share of a class", found.smallest_share, at_least=0.03)
    run.result("made of noise: Fréchet distance to held-out digits", found.frechet, at_most=0.6, quick=1.5)
    run.result("real digits, held out: median distance to the nearest", real.nearest)
    run.result("made of noise: median distance to the nearest", found.nearest, at_most=1.5, quick=2.0)
    run.result("the same over that of real digits: copies are at 0", found.nearest / real.nearest, at_least=0.8)

    run.figure("training.svg", lambda: tg.plot.training(history))
    run.figure("digits.png", lambda: digits.sheet(way[-1, :100].clip(0, 1)))
    times = [round(c.T * share) for share in (0, 0.3, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 1)]  # steps taken, from left to right
    run.figure("denoising.png", lambda: digits.sheet(way[times, :10].transpose(1, 0, 2).clip(0, 1)))


# ---- The command --------------------------------------------------------------------------------------------------------------------------

EXPERIMENTS: list[Experiment] = [closed_form, pictures]


def main(argv: list[str] | None = None) -> int:
    """Run the experiments; `--help` names the options."""
    return run_experiments(__doc__, EXPERIMENTS, argv)


if __name__ == "__main__":
    sys.exit(main())
