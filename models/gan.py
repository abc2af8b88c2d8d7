"""Generative adversarial networks (Goodfellow et al. 2014): a generator makes pictures up, a discriminator tells them from real ones.

    fake:  G(z), z ~ N(0, I)                     the chance that x is real:  D(x) = σ(d(x))
    V(D, G) = E_x log D(x) + E_z log(1 - D(G(z)))                            min over G, max over D: a zero-sum game

A slip in the notes: they call C the discriminator's loss, which it minimises, and write min over w_G, max over w_D of C. The formula is right for
C = V, which is *minus* that loss. The loss, -V, is what is minimised and shown here.

For a given G, which makes x with density q where the data has p, the best D and the loss that it is left with are

    D*(x) = p(x) / (p(x) + q(x))                 -V = 2 ln 2 - 2 JS(p, q)    JS: the Jensen-Shannon divergence

so the game's equilibrium is q = p, D = 1/2 everywhere, and a loss of 2 ln 2 = 1.386.

Made to work by
- the generator's loss -E log D(G(z)) (Goodfellow et al. 2014): the same fixed point, and it learns where D is sure, too;
- a penalty on the discriminator's slope at real x, γ/2 E |∇_x d(x)|² (R1; Mescheder, Geiger & Nowozin 2018): without it the players circle around the
  equilibrium where data fill no volume, as pictures do. Its gradient is a second derivative: tg.grad with create_graph=True;
- pictures by a running mean of the generator's weights (Yazıcı et al. 2019).

- T22  Digits by a multi-layer perceptron (MLP), and by convolutions as in the notes: the generator "deconvolutional", the discriminator convolutional.
- I2   The equilibrium, where it can be computed: on the line, where data are normal, or all the same; with the penalty and without.

Fake faces (row I3) cannot be made here, as there is no data for them: digits instead.
Sources: CS540 (University of Wisconsin-Madison), "Generative adversarial networks"; the judge of pictures: models/digits.py.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

import tinygrad_seq as tg
from models import digits
from models.command_line import run_experiments
from models.experiment import Experiment, Run, canvas, experiment
from tinygrad_seq import nn, optim, training
from tinygrad_seq.nn import functional as F

# ---- The players --------------------------------------------------------------------------------------------------------------------------


def mlp_generator(Z: int, H: int, *, rng: np.random.Generator) -> nn.Module:
    """Noise (N, Z) -> pictures (N, 1, 8, 8), with two hidden layers."""
    return nn.Sequential(
        nn.Linear(Z, H, rng=rng), nn.LeakyReLU(0.2), nn.Linear(H, H, rng=rng), nn.LeakyReLU(0.2), nn.Linear(H, 64, rng=rng),
        nn.Sigmoid(), nn.Unflatten(1, (1, 8, 8)),
    )  # fmt: skip


def mlp_discriminator(H: int, *, rng: np.random.Generator) -> nn.Module:
    """Pictures (N, 1, 8, 8) -> scores d (N, 1), with two hidden layers."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, H, rng=rng), nn.LeakyReLU(0.2), nn.Linear(H, H, rng=rng), nn.LeakyReLU(0.2), nn.Linear(H, 1, rng=rng)
    )  # fmt: skip


def conv_generator(Z: int, C: int, *, rng: np.random.Generator) -> nn.Module:
    """Noise (N, Z) -> 2C maps of 2x2 -> C maps of 4x4 -> pictures (N, 1, 8, 8), by transposed convolutions of stride 2."""
    return nn.Sequential(
        nn.Linear(Z, 8 * C, rng=rng), nn.LeakyReLU(0.2), nn.Unflatten(1, (2 * C, 2, 2)),
        nn.ConvTranspose2d(2 * C, C, 4, stride=2, padding=1, rng=rng), nn.LeakyReLU(0.2),
        nn.ConvTranspose2d(C, 1, 4, stride=2, padding=1, rng=rng), nn.Sigmoid(),
    )  # fmt: skip


def conv_discriminator(C: int, *, rng: np.random.Generator) -> nn.Module:
    """The generator backwards: pictures (N, 1, 8, 8) -> C maps of 4x4 -> 2C maps of 2x2 -> scores d (N, 1), by convolutions of stride 2."""
    return nn.Sequential(
        nn.Conv2d(1, C, 4, stride=2, padding=1, rng=rng), nn.LeakyReLU(0.2),
        nn.Conv2d(C, 2 * C, 4, stride=2, padding=1, rng=rng), nn.LeakyReLU(0.2),
        nn.Flatten(), nn.Linear(8 * C, 1, rng=rng),
    )  # fmt: skip


# ---- The game -----------------------------------------------------------------------------------------------------------------------------


def discriminator_loss(real: Any, fake: Any) -> Any:
    """-V: from the scores of real and of fake ones. -log σ(d) = softplus(-d), -log(1 - σ(d)) = softplus(d)."""
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def generator_loss(fake: Any) -> Any:
    """-E log D(G(z)), from the scores of fake ones."""
    return F.softplus(-fake).mean()


def slope_penalty(real: Any, xs: Any) -> Any:
    """E |∇_x d(x)|² / 2 of the scores of real xs; it can be differentiated again."""
    slopes = tg.grad(real.sum(), xs, create_graph=True)
    return 0.5 * (slopes**2).sum() / len(real)


class Game:
    """Two players, their optimizers, and the generator's mean: `step` is one update of each.

    penalty: γ. It is taken every `every` steps, so many times as strong: a second derivative costs as much as the rest of a step.
    """

    def __init__(self, players: Iterable[nn.Module], optimizers: Iterable[Any], *, penalty: float, every: int = 1, keep: float):
        self.generator, self.mean, self.discriminator = players
        self.generator_optimizer, self.discriminator_optimizer = optimizers
        self.penalty, self.every, self.keep = penalty, every, keep
        self.mean.load_state_dict(self.generator.state_dict())

    @property
    def parts(self) -> dict[str, Any]:
        """All that a step changes."""
        return {name: part for name, part in vars(self).items() if hasattr(part, "state_dict")}

    def step(self, n: int, real: Any, z: Any) -> dict[str, float]:
        """Update D by real examples and as many fake ones, then G by what D now says of the same fake ones. Returns their losses."""
        D, N, fake = self.discriminator, len(real), self.generator(z)
        penalised = self.penalty > 0 and n % self.every == 0
        xs = tg.tensor(np.concatenate([real, fake.numpy()]), requires_grad=penalised)
        scores = D(xs)
        loss = total = discriminator_loss(scores[:N], scores[N:])
        if penalised:
            total = loss + self.penalty * self.every * slope_penalty(scores[:N], xs)
        D.zero_grad()
        total.backward()
        self.discriminator_optimizer.step()

        D.requires_grad_(False)  # only the generator learns now
        its_loss = generator_loss(D(fake))
        self.generator.zero_grad()
        its_loss.backward()
        self.generator_optimizer.step()
        D.requires_grad_(True)
        with tg.no_grad():
            for mean, now in zip(self.mean.parameters(), self.generator.parameters(), strict=True):
                mean += (1 - self.keep) * (now - mean)
        return {"D": loss.item(), "G": its_loss.item()}


# ---- T22: digits --------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pictures:
    """The settings of T22."""

    noise: int = 32  # Z
    hidden: int = 192  # H of the MLP
    channels: int = 32  # C of the convolutions
    mlp_steps: int = 5000
    mlp_batch: int = 64
    mlp_rate: float = 1e-3
    conv_steps: int = 8000
    conv_batch: int = 32
    conv_rate: float = 2e-3
    penalty: float = 0.1  # γ
    every: int = 4
    keep: float = 0.998  # of the generator's mean, at every step


def players(kind: str, c: Pictures, rng: np.random.Generator) -> list[nn.Module]:
    """A generator, another that will hold its mean, and a discriminator."""
    if kind == "MLP":
        return [*(mlp_generator(c.noise, c.hidden, rng=rng) for _ in range(2)), mlp_discriminator(c.hidden, rng=rng)]
    return [*(conv_generator(c.noise, c.channels, rng=rng) for _ in range(2)), conv_discriminator(c.channels, rng=rng)]


def trained(
    run: Run, kind: str, c: Pictures, images: Any, steps: int, batch: int, rate: float
) -> tuple[nn.Module, list[dict[str, float]]]:
    """The mean generator after the game with these images (N, 8, 8), and the losses of both at every step."""
    rng = run.rng(kind)
    three = players(kind, c, run.rng(f"{kind}: weights"))
    adams = [optim.Adam(player.parameters(), lr=rate, betas=(0.0, 0.99)) for player in (three[0], three[2])]
    game = Game(three, adams, penalty=c.penalty, every=c.every, keep=c.keep)

    def step(n: int) -> dict[str, float]:
        return game.step(n, images[rng.integers(len(images), size=batch), None], noise(batch, c.noise, rng))

    losses = run.loop(kind, step, steps=steps, rng=rng, **game.parts)
    return game.mean, losses


def noise(n: int, Z: int, rng: np.random.Generator) -> Any:
    """What a generator begins with, (n, Z)."""
    return rng.normal(size=(n, Z)).astype("float32")


def made(generator: nn.Module, z: Any) -> Any:
    """Its pictures, (N, 8, 8)."""
    with training.evaluating(generator):
        return generator(z).numpy()[:, 0]


@experiment(
    "T22", "Adversarial networks draw digits", rows="I1", full=Pictures(), seconds=(8, 76),
    quick=Pictures(hidden=128, mlp_steps=1300, conv_steps=300, penalty=0.3, keep=0.98),
)  # fmt: skip
def pictures(run: Run, config: Pictures) -> None:
    """Both kinds make pictures that a judge of real digits takes for digits, of all ten sorts, and that are no copies."""
    c = config
    train, held_out = digits.load()
    judge, rng = digits.Judge(train, held_out), run.rng("baselines")
    real = train.flat[rng.permutation(len(train.flat))[:500]]
    normal = rng.multivariate_normal(train.flat.mean(0), np.cov(train.flat.T), 2000)
    held, learned = judge(held_out.images), judge(real)
    run.result("real digits, held out: confidence of the judge", held.confidence)
    run.result("real digits, held out: smallest share of a class", held.smallest_share)
    run.result("real digits, 500 to learn from: Fréchet distance", learned.frechet)
    run.result("real digits, held out: median distance to the nearest", held.nearest)
    for name, found in [("noise", rng.random((2000, 64))), ("normal distribution", normal.clip(0, 1))]:
        report(run, name, judge(found), bounded=False)

    z, games = noise(2000, c.noise, run.rng("judged")), {}
    settings = {"MLP": (c.mlp_steps, c.mlp_batch, c.mlp_rate), "conv": (c.conv_steps, c.conv_batch, c.conv_rate)}
    for kind, setting in settings.items():
        generator, games[kind] = trained(run, kind, c, train.images, *setting)
        found = made(generator, z)
        report(run, kind, judge(found), bounded=True)
        run.figure(f"{kind}.png", lambda found=found: digits.sheet(found[:100]))  # type: ignore[misc]
    run.figure("real.png", lambda: digits.sheet(real[:100]))
    run.figure("normal.png", lambda: digits.sheet(normal[:100].clip(0, 1)))
    run.figure("losses.svg", lambda: losses_plot(games))
    run.figure("players.svg", lambda: players_drawn(run.rng("drawing")))
    run.note(
        "a high confidence, all classes and a small Fréchet distance count together: the normal distribution is near in pixels, yet no digits."
    )


def players_drawn(rng: np.random.Generator) -> Any:
    """The graph of the generator's loss: noise z, the generator G, on top of it the discriminator D."""
    G, _, D = players("conv", Pictures(noise=2, channels=1), rng)
    for who, player in (("G", G), ("D", D)):
        for name, p in player.named_parameters():
            p.name = f"{who}.{name}"
    z = tg.tensor(noise(1, 2, rng))
    z.name = "z"
    return tg.draw(generator_loss(D(G(z))))


def report(run: Run, name: str, found: digits.Judgement, *, bounded: bool) -> None:
    """The four figures of the judge, with or without bounds."""
    run.result(f"{name}: confidence of the judge", found.confidence, at_least=0.806 if bounded else None, quick=0.62)
    run.result(f"{name}: smallest share of a class", found.smallest_share, at_least=0.062 if bounded else None, quick=0.03)
    run.result(f"{name}: Fréchet distance to held-out digits", found.frechet, at_most=0.33 if bounded else None, quick=1.2)
    run.result(f"{name}: median distance to the nearest", found.nearest, at_least=0.9 if bounded else None)


# ---- I2: the equilibrium ------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Line:
    """The settings of I2: data N(0, 1), or 0; the generator begins with N(-2, 1/4), or -2."""

    steps: int = 1000
    batch: int = 256
    rate: float = 0.1
    penalty: float = 0.3


class Polynomial(nn.Module):
    """d(x) = w + u x + v x². The log of the ratio of two normal densities is one of these, so the best D is; of degree 1, v is 0."""

    def __init__(self, degree: int, rng: np.random.Generator):
        self.powers = np.arange(1, degree + 1)
        self.line = nn.Linear(degree, 1, rng=rng)

    def forward(self, xs: Any) -> Any:
        return self.line(xs**self.powers)

    def coefficients(self) -> list[float]:
        """u, v, w."""
        u, v = np.pad(self.line.weight.numpy()[0], (0, 2 - len(self.powers))).tolist()
        return [u, v, self.line.bias.item()]


class Sides(NamedTuple):
    """Where a game on the line stands: G(z) = scale z + mean, d(x) = u x + v x² + w."""

    scale: float
    mean: float
    u: float
    v: float
    w: float

    def chance(self, x: Any) -> Any:
        """D(x), the chance that x is real."""
        return tg.sigmoid(self.u * x + self.v * x**2 + self.w)


def on_the_line(run: Run, name: str, c: Line, std: float, penalty: float) -> list[dict[str, float]]:
    """Both losses at every step of the game of a linear generator and the simplest discriminator, and where it then stood."""
    rng, weights = run.rng("line"), run.rng("line: weights")
    three = [nn.Linear(1, 1, rng=weights), nn.Linear(1, 1, rng=weights), Polynomial(2 if std else 1, weights)]
    three[0].load_state_dict({"weight": np.full((1, 1), 0.5), "bias": np.full(1, -2.0)})
    gradient_descent = [optim.SGD(player.parameters(), lr=c.rate) for player in (three[0], three[2])]
    game = Game(three, gradient_descent, penalty=penalty, keep=0.0)

    def step(n: int) -> dict[str, float]:
        real, z = noise(c.batch, 1, rng), noise(c.batch, 1, rng)
        losses = game.step(n, std * real, z if std else 0 * z)
        where = Sides(game.generator.weight.item(), game.generator.bias.item(), *game.discriminator.coefficients())
        return losses | where._asdict()

    return run.loop(name, step, steps=c.steps, rng=rng, **game.parts)


@experiment("I2", "The equilibrium of an adversarial game", rows="I2", quick=Line(), full=Line(), seconds=(3, 3))
def equilibrium(run: Run, config: Line) -> None:
    """D ends at 1/2 everywhere, at a loss of 2 ln 2, and G at the data; where these are a point, only the penalty ends the circling."""
    c, games = config, {}
    x = np.linspace(-3, 3, 121)
    for data, std in [("N(0, 1)", 1.0), ("a point", 0.0)]:
        for penalty in (c.penalty, 0.0):
            name = f"{data}, {f'γ = {penalty:g}' if penalty else 'no penalty'}"
            games[name] = path = on_the_line(run, name, c, std, penalty)
            late = path[-len(path) // 10 :]  # where it stays, not where it happened to pass at the last step
            sides = [Sides(*(row[field] for field in Sides._fields)) for row in late]
            far = float(np.mean([abs(side.mean) for side in sides]))
            if std:
                chance = np.mean([abs(side.chance(x) - 0.5).max() for side in sides])
                loss = abs(np.mean([row["D"] for row in late]) - 2 * math.log(2))
                wide = np.mean([abs(abs(side.scale) - 1) for side in sides])
                run.result(f"{name}: largest |D(x) - 1/2| within 3 σ", chance, at_most=0.05 if penalty else None)
                run.result(f"{name}: |loss of D - 2 ln 2|", loss, at_most=0.005 if penalty else None)
                run.result(f"{name}: distance of G's mean", far, at_most=0.05 if penalty else None)
                run.result(f"{name}: distance of G's standard deviation", wide, at_most=0.05 if penalty else None)
            elif penalty:
                run.result(f"{name}: distance of G", far, at_most=0.05)
            else:
                run.result(f"{name}: distance of G after as many steps", far, at_least=0.05)
    run.figure("path.svg", lambda: path_plot(games))


# ---- Figures ------------------------------------------------------------------------------------------------------------------------------


def path_plot(games: dict[str, list[dict[str, float]]]) -> Any:
    """Data, generator and discriminator at four times; and the ways of both players where the data are a point."""
    drawn = canvas(12, 2.8)
    *times, plane = drawn.subplots(1, 5)
    x, path = np.linspace(-4, 4, 200), next(iter(games.values()))

    def density(mean: float, std: float) -> Any:
        return np.exp(-0.5 * ((x - mean) / std) ** 2) / (std * math.sqrt(2 * math.pi))

    for axes, n in zip(times, [0, 15, 40, len(path) - 1], strict=True):
        side = Sides(*(path[min(n, len(path) - 1)][field] for field in Sides._fields))
        axes.plot(x, density(0, 1), color="0.7", linewidth=3, label="data")
        axes.plot(x, density(side.mean, abs(side.scale)), color="black", linestyle="--", label="generator")
        axes.plot(x, side.chance(x), color="tab:blue", label="D(x)")
        axes.set(title=f"after step {n + 1}", xlabel="x", ylim=(0, 1.02))
    times[0].legend(fontsize=8)
    for name, colour in zip(list(games)[2:], ["black", "tab:orange"], strict=True):
        plane.plot([row["mean"] for row in games[name]], [row["u"] for row in games[name]], color=colour, linewidth=0.8, label=name)
    plane.set(title="the data are a point, 0", xlabel="generator", ylabel="slope of d at 0")
    plane.legend(fontsize=8)
    return drawn


def losses_plot(games: dict[str, list[dict[str, float]]], smooth: int = 50) -> Any:
    """The losses of both players, means of `smooth` steps, and the discriminator's at equilibrium."""
    drawn = canvas(8, 2.8)
    for axes, (kind, path) in zip(drawn.subplots(1, len(games), sharey=True), games.items(), strict=True):
        for player, style in [("D", "-"), ("G", "--")]:
            blocks = [[row[player] for row in path[n : n + smooth]] for n in range(0, len(path) - smooth + 1, smooth)]
            axes.plot(
                np.arange(1, len(blocks) + 1) * smooth, [np.mean(block) for block in blocks], style, color="black", label=player
            )
        axes.axhline(2 * math.log(2), color="0.6", label="2 ln 2")
        axes.set(title=kind, xlabel="step", ylabel="loss")
        axes.legend(fontsize=8)
    return drawn


# ---- The command --------------------------------------------------------------------------------------------------------------------------

EXPERIMENTS: list[Experiment] = [pictures, equilibrium]


def main(argv: list[str] | None = None) -> int:
    """Run the experiments; `--help` names the options."""
    return run_experiments(__doc__, EXPERIMENTS, argv)


if __name__ == "__main__":
    sys.exit(main())
