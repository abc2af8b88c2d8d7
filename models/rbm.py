"""The restricted Boltzmann machine (RBM; Smolensky 1986): no connections within a layer, so a layer is drawn all at once, given the other.

    E(v, h) = -v·b - h·c - v^T w h          p(v, h) = exp(-E(v, h)) / Z                   v visible, h hidden units, 0 or 1
    F(v) = -log Σ_h exp(-E(v, h)) = -v·b - Σ_k log(1 + exp(c_k + v·w_k))
    p(h_k = 1 | v) = σ(c_k + v·w_k)          p(v_i = 1 | h) = σ(b_i + w_i·h)

The likelihood, -log p(v) = F(v) + log Z, needs Z, a sum over all states. Contrastive divergence (CD-1, Hinton 2002) has in place of the free machine the
picture v' that one step of Gibbs sampling makes of v:

    d(F(v) - F(v'))/dw = v' p(h|v')^T - v p(h|v)^T

F is written once, autodiff has its gradient, and this is shown to be that of the equations.

- T21  An RBM of 100 hidden units on handwritten digits, by CD-1: reconstruction; its hidden units as features for logistic regression, which does as
       well on the pixels themselves; the exact gradient of a tiny one.

Sources: CS540 (UW-Madison), "Boltzmann machines", which names them without equations; Hinton, Training products of experts by minimizing contrastive
divergence, Neural Computation 14 (2002), and A practical guide to training restricted Boltzmann machines (2010). With links within the layers:
models/boltzmann.py.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import numpy as np

import tinygrad_seq as tg
from models import digits
from models.command_line import run_experiments
from models.experiment import Drawn, Experiment, Run, canvas, experiment
from tinygrad_seq import nn, optim, training
from tinygrad_seq.nn import functional as F

# ---- The machine --------------------------------------------------------------------------------------------------------------------------


class RBM(nn.Module):
    """A restricted Boltzmann machine of H hidden units, which begins as the independent units of mean (V,).

    Visible values between 0 and 1 count as probabilities.
    """

    def __init__(self, mean: Any, H: int, *, rng: np.random.Generator):
        self.w = nn.Parameter(rng.normal(0, 0.1, (len(mean), H)).astype(mean.dtype))
        self.b, self.c = nn.Parameter(np.log(mean / (1 - mean))), nn.Parameter(np.zeros(H, mean.dtype))
        self.rng = rng

    def free_energy(self, v: Any) -> Any:
        """F(v) of (..., V): (...)."""
        return -(v @ self.b) - F.softplus(self.c + v @ self.w).sum(axis=-1)

    def hidden(self, v: Any) -> Any:
        """p(h = 1 | v): (..., V) -> (..., H)."""
        return tg.sigmoid(self.c + v @ self.w)

    def visible(self, h: Any) -> Any:
        """p(v = 1 | h): (..., H) -> (..., V)."""
        return tg.sigmoid(self.b + h @ self.w.T)

    def draw(self, p: Any) -> Any:
        """Units 0 or 1 as an array, 1 with probability p."""
        return (self.rng.random(p.shape) < p.numpy()).astype(p.dtype)

    def gibbs(self, v: Any) -> Any:
        """One step: hidden units are drawn, and p(v = 1 | h) is what they make of it, as an array (..., V)."""
        with tg.no_grad():
            return self.visible(self.draw(self.hidden(v))).numpy()


def contrast(rbm: RBM, v: Any) -> Any:
    """CD-1 as a loss, F(v) - F(v') averaged over data v (B, V); v' is no function of the weights here."""
    return (rbm.free_energy(v) - rbm.free_energy(rbm.gibbs(v))).mean()


def likelihood(rbm: RBM, v: Any) -> Any:
    """-log p(v) averaged over v (B, V), exactly: F(v) + log Z, Z being a sum over all 2^V states."""
    return rbm.free_energy(v).mean() + tg.logsumexp(-rbm.free_energy(all_states(v.shape[-1])), axis=-1)


def all_states(n: int) -> Any:
    """Every state of n units, 0 or 1: (2^n, n), the last unit changing fastest."""
    return (np.arange(2**n)[:, None] >> np.arange(n)[::-1] & 1).astype("float64")


# ---- T21: digits --------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Digits:
    """The settings of T21."""

    hidden: int = 100
    steps: int = 2000
    batch: int = 50
    learning_rate: float = 0.05
    momentum: float = 0.5
    chain: int = 1000  # steps of Gibbs sampling for pictures


@experiment("T21", "RBM on digits, by contrastive divergence", rows="H3", quick=Digits(steps=1000), full=Digits(), seconds=(3, 4))
def rbm(run: Run, config: Digits) -> None:
    """Reconstruction, features, filters, fantasies, and the gradient of a tiny machine."""
    c, (train, test), rng = config, digits.load(), run.rng("rbm")
    model = RBM(train.flat.mean(0).clip(0.01, 0.99), c.hidden, rng=rng)
    untrained = features_accuracy(model, train, test)
    sgd = optim.SGD(model.parameters(), lr=c.learning_rate, momentum=c.momentum)
    batches = Drawn(lambda rng: train.flat[rng.integers(len(train.flat), size=c.batch)], run.rng("batches"))
    run.fit("rbm", model, contrast, sgd, batches, steps=c.steps)

    run.result("held-out digits: squared error of the mean picture", ((test.flat - train.flat.mean(0)) ** 2).mean())
    run.result(
        "held-out digits: squared error of the reconstruction", ((test.flat - model.gibbs(test.flat)) ** 2).mean(), at_most=0.05
    )
    run.result("logistic regression on hidden units: accuracy", features_accuracy(model, train, test), at_least=0.95)
    run.result("on the hidden units of an untrained RBM", untrained)
    run.result("on pixels", accuracy(train.flat, train.labels, test.flat, test.labels))
    run.note("Its features are about as good as the pixels themselves, no better: the digits are nearly linearly separable.")

    tiny_rng = run.rng("tiny")
    v = tiny_rng.integers(0, 2, (5, 6)).astype("float64")
    tiny = RBM(v.mean(0).clip(0.1, 0.9), 3, rng=tiny_rng)
    exact = tg.grad(likelihood(tiny, v), tiny.w).numpy()
    run.result("tiny RBM: greatest |autodiff - <v h>_free + <v h>_held|", abs(exact - tiny_rule(tiny, v)).max(), at_most=1e-12)
    many_times = tg.grad(contrast(tiny, np.tile(v, (2000, 1))), tiny.w).numpy()
    run.result(
        "tiny RBM: cosine of CD-1, averaged, with the exact gradient",
        (exact * many_times).sum() / np.sqrt((exact**2).sum() * (many_times**2).sum()),
    )
    run.figure("filters.png", lambda: filters_figure(model))
    run.figure("fantasies.png", lambda: digits.sheet(fantasies(model, 40, c.chain, run.rng("fantasies"))))


def tiny_rule(rbm: RBM, v: Any) -> Any:
    """<v_i h_k>_free - <v_i h_k>_held by the equations, every state of v and h being summed over one by one: (V, H)."""
    w, b, c = (x.numpy() for x in (rbm.w, rbm.b, rbm.c))
    V, H = w.shape
    s = all_states(V + H)
    p = np.exp(((s[:, :V] @ w) * s[:, V:]).sum(1) + s[:, :V] @ b + s[:, V:] @ c)
    free = (s[:, :V].T * (p / p.sum())) @ s[:, V:]
    held = np.mean([np.outer(x, rbm.hidden(x).numpy()) for x in v], axis=0)
    return free - held


def features_accuracy(rbm: RBM, train: Any, test: Any) -> float:
    """The accuracy on held-out digits of logistic regression that sees p(h|v)."""
    with training.evaluating(rbm):
        return accuracy(rbm.hidden(train.flat).numpy(), train.labels, rbm.hidden(test.flat).numpy(), test.labels)


def accuracy(x: Any, y: Any, x_test: Any, y_test: Any) -> float:
    """The accuracy of scikit-learn's logistic regression."""
    classes = digits.logistic_regression(x, y)
    return float(classes.score(x_test, y_test))


def fantasies(rbm: RBM, count: int, steps: int, rng: np.random.Generator) -> Any:
    """Pictures (count, 64) after many steps of Gibbs sampling that begin with noise: p(v|h) of the last hidden units."""
    v = rng.random((count, 64)).astype("float32")
    for _ in range(steps):
        p = rbm.gibbs(v)
        v = (rng.random(p.shape) < p).astype("float32")
    return p


def filters_figure(rbm: RBM) -> Any:
    """The weights of every hidden unit as a picture; red excites, blue inhibits."""
    w = rbm.w.numpy().T
    drawn = canvas(5, 5 * -(-len(w) // 10) / 10, layout=None)
    for k, axes in enumerate(drawn.subplots(-(-len(w) // 10), 10, gridspec_kw={"wspace": 0.1, "hspace": 0.1}).flat):
        axes.set_axis_off()
        if k < len(w):
            axes.imshow(w[k].reshape(8, 8), cmap="RdBu_r", vmin=-1.5, vmax=1.5)
    drawn.subplots_adjust(0.01, 0.01, 0.99, 0.99)
    return drawn


# ---- The command --------------------------------------------------------------------------------------------------------------------------

EXPERIMENTS: list[Experiment] = [rbm]


def main(argv: list[str] | None = None) -> int:
    """Run the experiment; `--help` names the options."""
    return run_experiments(__doc__, EXPERIMENTS, argv)


if __name__ == "__main__":
    sys.exit(main())
