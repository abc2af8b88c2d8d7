"""Boltzmann machines: networks like Hopfield's with hidden units and with chance, which learn a distribution (Ackley, Hinton, Sejnowski 1985).

    E(s) = -Σ_(i<j) w_ij s_i s_j - Σ_i b_i s_i           s = (v, h) of units 0 or 1, visible and hidden
    p(s) = exp(-E(s)) / Z          p(v) = Σ_h p(v, h)    Z = Σ_s exp(-E(s))

Learning lowers the divergence of p(v) from the data q(v). Its gradient: what two units do together when the machine is free, minus what they do when
data are held fast at the visible units,

    L = Σ_v q(v) log q(v) / p(v)          dL/dw_ij = <s_i s_j>_free - <s_i s_j>_held          <s_i s_j>_held = Σ_v q(v) Σ_h p(h|v) s_i s_j

The energy is written once, autodiff has its gradient, and this is shown to be that of the equation. Without connections within a layer, which makes it
quick enough for pictures: models/rbm.py.

- T29  The encoder 4-2-4: one of four visible units is on, and the same one of four others; two hidden units between them have to find a code of two
       bits. All 1,024 states are summed over, so nothing is estimated. As Ackley et al. did, the data are noisy at first, lest weights grow before codes
       are found. Still many machines end where two patterns share a code, a local optimum; the best of five is taken, all five are printed.

Sources: CS540 (UW-Madison), "Boltzmann machines", which names them without equations; Ackley, Hinton & Sejnowski, A learning algorithm for Boltzmann
machines, Cognitive Science 9 (1985).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import tinygrad_seq as tg
from models.command_line import run_experiments
from models.experiment import Experiment, Run, canvas, experiment
from tinygrad_seq import nn, optim
from tinygrad_seq.nn import functional as F

# ---- The machine, exactly -----------------------------------------------------------------------------------------------------------------


def all_states(n: int) -> Any:
    """Every state of n units, 0 or 1: (2^n, n), the last unit changing fastest."""
    return (np.arange(2**n)[:, None] >> np.arange(n)[::-1] & 1).astype("float64")


def energy(s: Any, w: Any, b: Any) -> Any:
    """E(s) of states (..., N), with w_ij of i < j alone: (...)."""
    return -((s @ w) * s).sum(axis=-1) - s @ b


def log_p(w: Any, b: Any, V: int) -> Any:
    """log p(v, h) of all states, the first V units being visible: (2^V, 2^H)."""
    minus = -energy(all_states(len(b)), w, b)
    return (minus - tg.logsumexp(minus, axis=-1)).reshape(2**V, -1)


def divergence(w: Any, b: Any, q: Any) -> Any:
    """Σ_v q(v) log q(v) / p(v) of data q (2^V,)."""
    return F.kl_div(tg.logsumexp(log_p(w, b, len(q).bit_length() - 1), axis=-1), q, reduction="sum")


def learning_rule(w: Any, b: Any, q: Any) -> tuple[Any, Any]:
    """The gradient of the divergence by its equations, with arrays alone: dL/dw (N, N), of which i < j counts, and dL/db (N,)."""
    s, p = all_states(len(b)), np.exp(log_p(w, b, len(q).bit_length() - 1))
    free, held = p, q[:, None] * p / p.sum(axis=1, keepdims=True)  # p(v, h) and q(v) p(h|v)
    change = (free - held).ravel()
    return np.triu((s.T * change) @ s, 1), change @ s


def differences(f: Callable[[Any], Any], x: Any, eps: float = 1e-5) -> Any:
    """df/dx by central differences, one number of x after the other."""
    found = np.zeros(x.shape)
    for at in np.ndindex(x.shape):
        step = np.zeros(x.shape)
        step[at] = eps
        found[at] = (f(x + step) - f(x - step)) / (2 * eps)
    return found


class Boltzmann(nn.Module):
    """A Boltzmann machine. links (N, N): which i < j are connected; mean (N,): how often its units are on at first, nearly."""

    def __init__(self, links: Any, mean: Any, *, rng: np.random.Generator):
        self.links = np.triu(links, 1).astype("float64")
        self.w = nn.Parameter(rng.normal(0, 0.1, links.shape))
        self.b = nn.Parameter(np.log(mean / (1 - mean)) + rng.normal(0, 0.1, len(links)))

    def forward(self, q: Any) -> Any:
        """Its divergence from data q (2^V,)."""
        return divergence(self.w * self.links, self.b, q)

    def p(self, V: int) -> Any:
        """p(v, h) as an array (2^V, 2^H)."""
        with tg.no_grad():
            return np.exp(log_p(self.w * self.links, self.b, V).numpy())


# ---- T29: the encoder ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Encoder:
    """The settings of T29."""

    machines: int = 5
    steps: int = 600
    learning_rate: float = 0.1
    noise: float = (
        0.1  # the chance, at first, that the unit that should be on is off; those that should be off are on with a third of it
    )


PATTERNS = np.hstack([np.eye(4), np.eye(4)])  # (4, 8)
CODES = (PATTERNS @ 2.0 ** np.arange(8)[::-1]).astype(int)  # the rows of all_states(8) that are the patterns


def encoder_links() -> Any:
    """Who is connected in 4-2-4: units of one side with each other, both sides with the hidden units, the only way from one to the other."""
    links = np.ones((10, 10), bool)
    links[:4, 4:8] = links[8, 9] = False
    return links


def noisy_data(noise: float) -> Any:
    """q(v) of all 256 visible states: the four patterns, each unit of which may be wrong."""
    v = all_states(8)
    right = np.where(PATTERNS == 1, 1 - noise, 1 - noise / 3)  # (4, 8)
    return np.where(v[:, None] == PATTERNS, right, 1 - right).prod(axis=-1).mean(axis=-1)


@experiment("T29", "Boltzmann machine: the encoder 4-2-4", rows="H2", quick=Encoder(), full=Encoder(), seconds=(4, 4))
def encoder(run: Run, config: Encoder) -> None:
    """Five machines, each with its divergence and its number of codes; the gradient three ways."""
    c = config
    q, links, mean = noisy_data(0), encoder_links(), np.append(PATTERNS.mean(0), [0.5, 0.5])
    machines, curves = [], {}
    for k in range(c.machines):
        machine = Boltzmann(links, mean, rng=run.rng(f"machine {k}"))
        adam = optim.Adam(machine.parameters(), lr=c.learning_rate)

        def step(n: int, machine: Boltzmann = machine, adam: Any = adam) -> dict[str, float]:
            adam.zero_grad()
            loss = machine(noisy_data(c.noise * max(0.0, 1 - n / (0.7 * c.steps))))
            loss.backward()
            adam.step()
            return {"divergence": loss.item()}

        curves[f"machine {k}"] = [
            row["divergence"] for row in run.loop(f"machine {k}", step, steps=c.steps, machine=machine, adam=adam)
        ]
        machines.append(machine)

    found = [float(machine(q).numpy()) for machine in machines]
    for k, (machine, nats) in enumerate(zip(machines, found, strict=True)):
        run.result(f"machine {k}: divergence in nats, with {codes(machine)} codes", nats)
    best = machines[int(np.argmin(found))]
    run.result(f"the best of {c.machines}: divergence in nats", min(found), at_most=0.05)
    run.result("its distinct codes", codes(best), at_least=4)
    run.result("it is shown one side: probability of the right other side", completion(best), at_least=0.9)

    rng = run.rng("gradient")
    w, b = np.triu(rng.normal(size=(10, 10)), 1), rng.normal(size=10)
    weights = tg.tensor(w, requires_grad=True)
    tape = np.triu(tg.grad(divergence(weights, b, q), weights).numpy(), 1)
    run.result("greatest |autodiff - <s s>_free + <s s>_held|", abs(tape - learning_rule(w, b, q)[0]).max(), at_most=1e-12)
    error = abs(differences(lambda x: divergence(np.triu(x, 1), b, q), w) - tape).max()
    run.result("greatest |autodiff - central differences|", error, at_most=1e-8)
    caught = sum(nats > 0.05 for nats in found)
    run.note(f"Of the {c.machines} machines {caught} ended in a local optimum, where two patterns have one code.")
    run.figure("encoder.svg", lambda: encoder_figure(curves, best))


def codes(machine: Boltzmann) -> int:
    """The number of different hidden states that are the most probable ones of the four patterns."""
    return len(set(machine.p(8)[CODES].argmax(axis=1).tolist()))


def completion(machine: Boltzmann) -> float:
    """The mean over the patterns of p(right side is right | left side)."""
    p = machine.p(8).sum(axis=1).reshape(16, 16)  # left, right
    one = [8, 4, 2, 1]  # which of the 16 states of a side has one unit on
    return float((p[one, one] / p[one].sum(axis=1)).mean())


def encoder_figure(curves: Any, machine: Boltzmann) -> Any:
    """The curves of all machines; codes and weights of the best."""
    drawn = canvas(10, 3)
    left, middle, right = drawn.subplots(1, 3, width_ratios=[3, 2, 4])
    for name, values in curves.items():
        left.plot(values, label=name)
    left.set(xlabel="step", ylabel="divergence in nats", yscale="log", title="the data are noisy at first")
    left.legend(frameon=False, fontsize=7)
    p = machine.p(8)[CODES]
    middle.imshow(p / p.sum(axis=1, keepdims=True), cmap="gray_r", vmin=0, vmax=1)
    middle.set(
        xticks=range(4), xticklabels=["00", "01", "10", "11"], yticks=range(4), yticklabels=range(1, 5), xlabel="hidden units", ylabel="pattern",
        title="p(h|v) of the best",
    )  # fmt: skip
    w = (machine.w.numpy() * machine.links)[:8, 8:].T
    image = right.imshow(w, cmap="RdBu_r", vmin=-abs(w).max(), vmax=abs(w).max())
    right.set(
        yticks=[0, 1],
        yticklabels=["h1", "h2"],
        xticks=range(8),
        xticklabels=[1, 2, 3, 4] * 2,
        xlabel="visible units of both sides",
        title="weights",
    )
    drawn.colorbar(image, ax=right, shrink=0.5)
    return drawn


# ---- The command --------------------------------------------------------------------------------------------------------------------------

EXPERIMENTS: list[Experiment] = [encoder]


def main(argv: list[str] | None = None) -> int:
    """Run the experiment; `--help` names the options."""
    return run_experiments(__doc__, EXPERIMENTS, argv)


if __name__ == "__main__":
    sys.exit(main())
