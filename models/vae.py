"""Variational autoencoders (Kingma & Welling 2014): a picture as a cloud in a space of few dimensions, and back.

    encoder   q(z | x) = N(μ(x), diag σ(x)²)                       decoder   p(x | z), with z ~ N(0, I) beforehand
    z = μ + σ ⊙ ε,  ε ~ N(0, I)                                    so the gradient reaches μ and σ through z
    -log p(x) <= -ELBO = E_q[-log p(x | z)] + KL(q(z | x) | N(0, I))          KL = ½ Σ (μ² + σ² - 1 - log σ²)

The notes: an encoder to a low-dimensional space and a decoder back, "similar to PCA" (principal component analysis). What that means exactly:

- I4   With nothing but linear maps it *is* the space of PCA. A linear autoencoder that minimises |x - W V x|² ends with the columns of W spanning the
       first K principal axes (Baldi & Hornik 1989). So does a linear VAE with p(x | z) = N(W z, s² I), which is probabilistic PCA (Tipping & Bishop
       1999; Lucas et al. 2019), as long as the K-th variance is above s². Both find the space; which axes within it, only the VAE says.
- T23  With hidden layers in between, 8 numbers per digit keep more than the first 8 principal components do.

-log p(x | z) is the binary cross entropy of the grey values, summed over pixels, in nats. It is never 0, since a grey value of 0.5 is not certain of
itself: the entropy of the grey values is its floor, and the decoder that ignores z, saying the mean picture, is what must be beaten.
Sources: CS540 (University of Wisconsin-Madison), "Generative models"; the papers named above.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

import tinygrad_seq as tg
from models import digits
from models.command_line import run_experiments
from models.experiment import Drawn, Experiment, Run, canvas, experiment
from tinygrad_seq import nn, optim, training
from tinygrad_seq.nn import functional as F

# ---- The model ----------------------------------------------------------------------------------------------------------------------------


class Cloud(NamedTuple):
    """q(z | x) of each row: μ and log σ², (N, K)."""

    mean: Any
    log_variance: Any


def divergence(q: Cloud) -> Any:
    """KL(q(z | x) | N(0, I)) of each row, in nats: (N,)."""
    return 0.5 * (q.mean**2 + tg.exp(q.log_variance) - 1 - q.log_variance).sum(axis=-1)


class VAE(nn.Module):
    """Pictures as rows (N, D) -> scores of their pixels (N, D), and the clouds in K dimensions that these were drawn from."""

    def __init__(self, D: int, K: int, H: int, *, rng: np.random.Generator):
        self.K, self.rng = K, rng  # it draws ε, also after a checkpoint
        self.encoder = nn.Sequential(
            nn.Linear(D, H, rng=rng), nn.SiLU(), nn.Linear(H, H, rng=rng), nn.SiLU(), nn.Linear(H, 2 * K, rng=rng)
        )
        self.decoder = nn.Sequential(
            nn.Linear(K, H, rng=rng), nn.SiLU(), nn.Linear(H, H, rng=rng), nn.SiLU(), nn.Linear(H, D, rng=rng)
        )

    def encode(self, x: Any) -> Cloud:
        """x (N, D) -> q(z | x)."""
        both = self.encoder(x)
        return Cloud(both[..., : self.K], both[..., self.K :])

    def decode(self, z: Any) -> Any:
        """z (N, K) -> grey values between 0 and 1, (N, D)."""
        return tg.sigmoid(self.decoder(z))

    def forward(self, x: Any) -> tuple[Any, Cloud]:
        q = self.encode(x)
        epsilon = self.rng.normal(size=q.mean.shape).astype("float32")
        return self.decoder(q.mean + tg.exp(0.5 * q.log_variance) * epsilon), q


def negative_elbo(model: VAE, x: Any) -> Any:
    """-ELBO of the rows x, their mean, in nats."""
    scores, q = model(x)
    return F.binary_cross_entropy_with_logits(scores, x, reduction="sum") / len(x) + divergence(q).mean()


# ---- T23: digits --------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Latent:
    """The settings of T23."""

    dimensions: int = 8  # K
    hidden: int = 192
    steps: int = 4000
    batch: int = 64
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2


@experiment("T23", "Digits through eight numbers", rows="I4", quick=Latent(steps=700), full=Latent(), seconds=(4, 15))
def pictures(run: Run, config: Latent) -> None:
    """Below the bound of the mean picture, and closer to held-out digits than as many principal components."""
    c, rng = config, run.rng("vae")
    train, held_out = digits.load()
    model = VAE(64, c.dimensions, c.hidden, rng=rng)
    adam = optim.AdamW(model.parameters(), lr=c.learning_rate, weight_decay=c.weight_decay)

    def drawn(rng: np.random.Generator) -> Any:
        return train.flat[rng.integers(len(train.flat), size=c.batch)]

    history = run.fit(
        "vae", model, negative_elbo, adam, Drawn(drawn, run.rng("batches")), steps=c.steps,
        schedule=optim.lr_scheduler.CosineAnnealingLR(adam, c.steps),
    )  # fmt: skip
    x, center = held_out.flat, train.flat.mean(0)
    with training.evaluating(model):
        bound = np.mean([negative_elbo(model, x).item() for _ in range(20)])  # of 20 draws of ε
        q = model.encode(x)
        mean, cost, back = q.mean.numpy(), divergence(q).numpy(), model.decode(q.mean).numpy()
        invented = model.decode(run.rng("prior").normal(size=(2000, c.dimensions)).astype("float32")).numpy()
    axes = principal_axes(train.flat, c.dimensions)
    flat_back = center + (x - center) @ axes @ axes.T

    run.result("mean picture for all: cross entropy of held-out digits, nats", cross_entropy(np.broadcast_to(center, x.shape), x))
    run.result("their grey values themselves: cross entropy, the floor, nats", cross_entropy(x, x))
    run.result("VAE: -ELBO of held-out digits, nats", bound, at_most=25.0, quick=26.5)
    run.result("VAE: of which KL, nats", cost.mean())
    pca = run.result(f"PCA, {c.dimensions} components: squared error per pixel of held-out digits", ((flat_back - x) ** 2).mean())
    ours = run.result("VAE: squared error per pixel of held-out digits", ((back - x) ** 2).mean(), at_most=pca, quick=0.035)
    judged = digits.Judge(train, held_out)(invented)
    run.result("VAE, z from N(0, I): confidence of the judge", judged.confidence)
    run.result("VAE, z from N(0, I): Fréchet distance to held-out digits", judged.frechet)

    if ours > pca:
        run.note(f"After {c.steps:,} steps PCA still keeps more of a digit than the VAE does; the full setting has more steps.")
    run.note("what it invents is blurred: a decoder says the mean of all the pictures that its z may stand for.")

    run.figure("training.svg", lambda: tg.plot.training(history))
    some = np.array([np.flatnonzero(held_out.labels == label)[0] for label in range(10)])
    run.figure("reconstructions.png", lambda: digits.sheet(np.concatenate([x[some], back[some], flat_back[some]])))
    run.figure("invented.png", lambda: digits.sheet(invented[:100]))
    ways = [mean[a] + (mean[b] - mean[a]) * share for a, b in zip(some, np.roll(some, -1)) for share in np.linspace(0, 1, 10)]
    with training.evaluating(model):
        between = model.decode(np.array(ways)).numpy()
    run.figure("between.png", lambda: digits.sheet(between))
    run.figure("latent.png", lambda: map_of(mean, held_out.labels))


def cross_entropy(p: Any, x: Any) -> float:
    """Of grey values x under chances p, summed over pixels, the mean over rows, in nats."""
    p = np.clip(p, 1e-7, 1 - 1e-7)
    return float(F.binary_cross_entropy(p, x, reduction="sum") / len(x))


def map_of(mean: Any, labels: Any) -> Any:
    """The digits where their clouds lie, seen along the two principal axes of all."""
    drawn = canvas(5.4, 5)
    axes = drawn.subplots()
    places = (mean - mean.mean(0)) @ principal_axes(mean, 2)
    for label in range(10):
        axes.scatter(*places[labels == label].T, marker=f"${label}$", s=28, linewidths=0.4, color=f"C{label}")
    axes.set(xlabel="first principal axis of μ", ylabel="second")
    return drawn


# ---- I4: linear maps ----------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Linear:
    """The settings of I4."""

    dimensions: int = 4  # K
    steps: int = 1500
    learning_rate: float = 2e-2
    variance: float = 0.1  # s² of the linear VAE's p(x | z)


class LinearAutoencoder(nn.Module):
    """x (N, D) -> z = V x (N, K) -> W z (N, D); for the VAE also the log of σ², the same for all x."""

    def __init__(self, D: int, K: int, *, rng: np.random.Generator):
        self.encoder, self.decoder = nn.Linear(D, K, bias=False, rng=rng), nn.Linear(K, D, bias=False, rng=rng)
        self.log_variance = nn.Parameter(np.zeros(K), "float32")

    def forward(self, x: Any) -> Any:
        return self.decoder(self.encoder(x))


def squared_error(model: LinearAutoencoder, x: Any) -> Any:
    """|x - W V x|², the mean over rows."""
    return ((x - model(x)) ** 2).sum() / len(x)


def linear_negative_elbo(model: LinearAutoencoder, x: Any, variance: float) -> Any:
    """-ELBO of p(x | z) = N(W z, s² I), less its constants: z is normal, so E|x - W z|² = |x - W μ|² + Σ_k σ_k² |w_k|² needs no draws."""
    z = model.encoder(x)
    spread = (tg.exp(model.log_variance) * (model.decoder.weight**2).sum(axis=0)).sum()
    return 0.5 / variance * (squared_error(model, x) + spread) + divergence(Cloud(z, model.log_variance)).mean()


def principal_axes(x: Any, K: int) -> Any:
    """The K orthonormal directions of the greatest variance of the rows x (N, D): (D, K)."""
    return np.linalg.svd(x - x.mean(0), full_matrices=False)[2][:K].T


def principal_angles(a: Any, b: Any) -> Any:
    """The angles between the spaces that the columns of a and of b span, from the smallest: cos θ are singular values of Q_a^T Q_b."""
    q, r = np.linalg.qr(a)[0], np.linalg.qr(b)[0]
    return np.arcsin(np.clip(np.linalg.svd(q - r @ (r.T @ q))[1], 0, 1))[::-1]  # by sines: cosines are blind to small angles


@experiment("I4", "Linear autoencoders find the space of PCA", rows="I4", quick=Linear(), full=Linear(), seconds=(3, 3))
def linear(run: Run, config: Linear) -> None:
    """Both span the space of the first principal axes; within it only the VAE's columns turn, slowly, to these axes one by one."""
    c = config
    x = digits.load()[0].flat
    x = x - x.mean(0)
    axes = principal_axes(x, c.dimensions)
    losses = {"autoencoder": squared_error, "VAE": lambda model, x: linear_negative_elbo(model, x, c.variance)}
    columns = {}
    for name, loss in losses.items():
        model = LinearAutoencoder(64, c.dimensions, rng=run.rng(name))
        adam = optim.Adam(model.parameters(), lr=c.learning_rate)
        run.fit(name, model, loss, adam, [x], steps=c.steps, schedule=optim.lr_scheduler.CosineAnnealingLR(adam, c.steps))
        columns[name] = W = model.decoder.weight.numpy()
        run.result(f"linear {name}: largest principal angle to PCA's space", principal_angles(W, axes).max(), at_most=0.05)
        alike = np.abs((W / np.linalg.norm(W, axis=0)).T @ axes).max(axis=0)  # of each principal axis, the column nearest to it
        run.result(
            f"linear {name}: largest angle between a principal axis and the nearest column", np.arccos(np.minimum(alike, 1)).max()
        )
    start = run.rng("random space").normal(size=axes.shape)
    run.result("random space: largest principal angle", principal_angles(start, axes).max())
    rows = np.concatenate([columns["autoencoder"].T, columns["VAE"].T, axes.T])
    run.figure("axes.png", lambda: digits.sheet(0.5 + 0.5 * rows / np.abs(rows).max(axis=1, keepdims=True), columns=c.dimensions))


# ---- The command --------------------------------------------------------------------------------------------------------------------------

EXPERIMENTS: list[Experiment] = [pictures, linear]


def main(argv: list[str] | None = None) -> int:
    """Run the experiments; `--help` names the options."""
    return run_experiments(__doc__, EXPERIMENTS, argv)


if __name__ == "__main__":
    sys.exit(main())
