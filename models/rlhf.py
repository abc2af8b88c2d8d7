"""Reinforcement learning from human feedback (RLHF): a model of what people prefer, and a language model that learns to please it.

    reward model r:   P(x is preferred to y) = σ(r(x) - r(y))                   from pairs, by maximum likelihood (Bradley & Terry 1952)
    policy π:         maximise  E_π [r(x)] - β KL(π || π_0),    KL = E_π [log π(x) - log π_0(x)],    π_0 the model before
    REINFORCE:        dE_π[R]/dθ = E_π [(R(x) - b) d log π(x)/dθ],    R(x) = r(x) - β (log π(x) - log π_0(x)),    b the mean of R  (Williams 1992)

- T28  In miniature: strings of twelve letters out of four; the "human" is a rule, who prefers the string with more "ab" in it (at most six). The reward
       model (a GRU) sees 600 pairs and never the rule. The policy (a GRU too) begins as π_0, for which all strings are equally likely.

Since the rule is simple the best that is possible can be computed: among all distributions with a given KL the greatest mean of the rule is reached
by π(x) ∝ π_0(x) exp(λ ab(x)), whose normaliser is a product of 2x2 matrices; its mean is the derivative of log Z by λ, by autodiff. The figure shows the
way of the policy beneath that frontier. A policy that gets there by a small β writes one and the same string in the end: the KL, and the number of
different strings, are part of the result.

Sources: CS540 (Wisconsin-Madison), "Large language models"; Christiano et al., Deep reinforcement learning from human preferences (2017); Ouyang et
al., Training language models to follow instructions with human feedback (2022).
"""

from __future__ import annotations

import copy
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np

import tinygrad_seq as tg
from models.command_line import run_experiments
from models.experiment import Drawn, Experiment, Run, experiment
from tinygrad_seq import nn, optim, training
from tinygrad_seq.nn import functional as F

LETTERS = "abcd"
START = len(LETTERS)

# ---- The models ---------------------------------------------------------------------------------------------------------------------------


class Policy(nn.Module):
    """A language model of strings, a GRU; before it learns every letter is equally likely."""

    def __init__(self, width: int, *, rng: np.random.Generator):
        self.embed, self.gru = nn.Embedding(START + 1, width, rng=rng), nn.GRU(width, width, rng=rng)
        self.score = nn.Linear(width, START, rng=rng)
        nn.init.zeros_(self.score.weight)
        nn.init.zeros_(self.score.bias)

    def forward(self, strings: Any) -> Any:
        """log π of whole strings, (T, B) -> (B,)."""
        read = np.concatenate([np.full_like(strings[:1], START), strings[:-1]])
        hs, _ = self.gru(self.embed(read))  # (T, B, width)
        return -F.cross_entropy(self.score(hs), strings, reduction="none").sum(axis=0)

    def draw(self, T: int, B: int, rng: np.random.Generator) -> Any:
        """B strings from π, letter by letter: (T, B)."""
        letters, h = [np.full((1, B), START)], None
        with training.evaluating(self):
            for _ in range(T):
                hs, h = self.gru(self.embed(letters[-1]), h)
                scores = self.score(hs).numpy()  # (1, B, 4)
                letters.append((scores + rng.gumbel(size=scores.shape)).argmax(-1))
        return np.concatenate(letters[1:])


class Reward(nn.Module):
    """What a string is worth: a GRU, and a number from its mean state. (T, B) -> (B,)."""

    def __init__(self, width: int, *, rng: np.random.Generator):
        self.embed, self.gru = nn.Embedding(START, width, rng=rng), nn.GRU(width, width, rng=rng)
        self.read = nn.Linear(width, 1, rng=rng)

    def forward(self, strings: Any) -> Any:
        hs, _ = self.gru(self.embed(strings))  # (T, B, width)
        return self.read(hs.mean(axis=0))[:, 0]


# ---- The rule, and the most that is possible ----------------------------------------------------------------------------------------------


def rule(strings: Any) -> Any:
    """The number of "ab" in each string, (T, B) -> (B,)."""
    return ((strings[:-1] == 0) & (strings[1:] == 1)).sum(axis=0)


def log_normaliser(length: int, strength: Any) -> Any:
    """log E exp(λ ab(x)) over all strings of that length, λ the strength: a product of matrices, for after an "a" and after another letter."""
    after_a, after_other = 0.25, 0.75  # E exp(λ ab) of the strings so far that end so
    for _ in range(length - 1):
        after_a, after_other = (
            0.25 * after_a + 0.25 * after_other,
            (0.5 + 0.25 * tg.exp(strength)) * after_a + 0.75 * after_other,
        )
    return tg.log(after_a + after_other)


def frontier(length: int, strengths: Any) -> tuple[Any, Any]:
    """The greatest means of the rule, and the KL in nats that each costs: mean = d log Z/dλ, KL = λ mean - log Z."""
    means, costs = [], []
    for strength in strengths:
        λ = tg.tensor(float(strength), dtype="float64", requires_grad=True)
        log_z = log_normaliser(length, λ)
        means.append(float(tg.grad(log_z, λ)))
        costs.append(float(strength) * means[-1] - float(log_z))
    return np.array(means), np.array(costs)


# ---- T28 ----------------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Feedback:
    """The settings of T28."""

    length: int = 12
    pairs: int = 600
    width: int = 32
    reward_steps: int = 300
    reward_batch: int = 64
    reward_rate: float = 1e-2
    steps: int = 300
    batch: int = 128
    rate: float = 1e-2
    beta: float = 0.3


def preferences(length: int, number: int, rng: np.random.Generator) -> tuple[Any, Any]:
    """Pairs of random strings, the one that the rule prefers and the other; of equal ones nobody is asked. (T, pairs) each."""
    one, other = rng.integers(START, size=(2, length, 4 * number))
    unequal = np.flatnonzero(rule(one) != rule(other))[:number]
    one, other = one[:, unequal], other[:, unequal]
    first = rule(one) > rule(other)
    return np.where(first, one, other), np.where(first, other, one)


def preference_loss(model: nn.Module, batch: tuple[Any, Any]) -> Any:
    """-log σ(r(preferred) - r(other)), the mean."""
    preferred, other = batch
    return F.softplus(model(other) - model(preferred)).mean()


@experiment("T28", "RLHF: pleasing a reward model", rows="J12", quick=Feedback(steps=150), full=Feedback(), seconds=(5, 9))
def feedback(run: Run, config: Feedback) -> None:
    """A reward model from pairs; a policy that learns to be rewarded by it, judged by the rule, which neither has seen."""
    c = config
    preferred, other = preferences(c.length, c.pairs, run.rng("pairs"))
    reward = Reward(c.width, rng=run.rng("reward"))

    def drawn(rng: np.random.Generator) -> tuple[Any, Any]:
        chosen = rng.integers(preferred.shape[1], size=c.reward_batch)
        return preferred[:, chosen], other[:, chosen]

    adam = optim.Adam(reward.parameters(), lr=c.reward_rate)
    run.fit("reward", reward, preference_loss, adam, Drawn(drawn, run.rng("batches")), steps=c.reward_steps)

    def worth(strings: Any) -> Any:
        with training.evaluating(reward):
            return reward(strings).numpy()

    better, worse = preferences(c.length, 2000, run.rng("held out pairs"))
    run.result("reward model: the preferred one of a held out pair", (worth(better) > worth(worse)).mean(), at_least=0.9)

    before = Policy(c.width, rng=run.rng("policy"))
    run.result('before: mean number of "ab"', rule(before.draw(c.length, 2000, run.rng("before"))).mean())
    means, costs = frontier(c.length, np.linspace(0, 12, 200))
    ways = {}
    for name, beta in ((f"KL weighs {c.beta:g}", c.beta), ("KL weighs nothing", 0.0)):
        policy = copy.deepcopy(before)
        adam, rng = optim.Adam(policy.parameters(), lr=c.rate), run.rng("strings")

        def step(n: int, policy: Policy = policy, adam: Any = adam, rng: Any = rng, beta: float = beta) -> dict[str, float]:
            strings = policy.draw(c.length, c.batch, rng)
            log_p = policy(strings)
            found, kl = worth(strings), log_p.numpy() - log_probability(before, strings)
            rewarded = found - beta * kl
            loss = -((rewarded - rewarded.mean()) * log_p).mean()
            policy.zero_grad()
            loss.backward()
            optim.clip_grad_norm_(policy.parameters(), 1.0)
            adam.step()
            return {"reward": found.mean(), "rule": rule(strings).mean(), "kl": kl.mean()}

        ways[name] = run.loop(name, step, steps=c.steps, policy=policy, adam=adam, rng=rng)
        strings = policy.draw(c.length, 2000, run.rng("after"))
        mean = run.result(f'{name}: mean number of "ab", at most 6', rule(strings).mean(), at_least=4)
        run.result(f"{name}: KL, nats", (log_probability(policy, strings) - log_probability(before, strings)).mean())
        run.result(f"{name}: the least KL that such a mean costs", np.interp(mean, means, costs))
        run.result(f"{name}: different strings, of 2,000", len(np.unique(strings, axis=1).T))
        texts = ["".join(LETTERS[i] for i in column) for column in strings.T]
        run.write(f"{name.replace(' ', '_')}.txt", "\n".join(texts))
        run.show("  ".join(texts[:6]))
    run.result("one string alone: KL, nats", c.length * np.log(START))
    run.figure("frontier.svg", lambda: against_frontier(ways, means, costs))


def log_probability(model: Policy, strings: Any) -> Any:
    """log π of each string, a number."""
    with training.evaluating(model):
        return model(strings).numpy()


def against_frontier(ways: dict[str, list[dict[str, float]]], means: Any, costs: Any) -> Any:
    """A figure of the rule by the KL: the frontier, and where each policy was after each update."""
    plot = tg.plot.trajectories(np.zeros((1, 1)))
    axes = plot.figure.axes[0]
    axes.lines[0].set(xdata=costs, ydata=means, label="the most that is possible")
    for (name, way), look in zip(ways.items(), ({"color": "0.1", "marker": "x"}, {"color": "0.6", "marker": "."})):
        axes.plot([row["kl"] for row in way], [row["rule"] for row in way], linestyle="none", label=name, **look)
    axes.set(xlabel="KL to the model before, nats", ylabel='mean number of "ab"', xlim=(0, 17), ylim=(0, 6.2))
    axes.legend(loc="lower right", title="each update of a policy")
    return plot


# ---- The command --------------------------------------------------------------------------------------------------------------------------

EXPERIMENTS: list[Experiment] = [feedback]


def main(argv: list[str] | None = None) -> int:
    """Run the experiments; `--help` names the options."""
    return run_experiments(__doc__, EXPERIMENTS, argv)


if __name__ == "__main__":
    sys.exit(main())
