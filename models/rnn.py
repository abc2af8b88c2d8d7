"""Elman's recurrent network (Elman 1990), on tasks where the next output needs a summary of all inputs so far.

    h_t = tanh(W x_t + U h_(t-1) + b)          o_t = V h_t + c                   (CMU 11-785, CS760, CS540: one step, for all times)

- T1  Adding numbers of N bits, from the right to the left: x_t are the two bits of place t, o_t is the bit of the sum, and the state has to hold the
      carry. The notes: a multi-layer perceptron (MLP) needs very many examples and works for one N; a recurrent net learns the rule, for all N.

Many-to-many: an output at every step. Many-to-one is the same network with o_T alone.
Sources: CMU 11-785 (2017), "Recurrent Networks", N-bit addition and parity; Elman, Finding structure in time, Cognitive Science 14 (1990).
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import numpy as np

from models.experiment import Drawn, Experiment, Run, experiment, run_experiments
from tinygrad_seq import errors, nn, optim, training
from tinygrad_seq.nn import functional as F

# ---- The model ----------------------------------------------------------------------------------------------------------------------------


class Elman(nn.Module):
    """Elman's network: a score for every step, (T, B, D) -> (T, B)."""

    def __init__(self, D: int, H: int, *, rng: np.random.Generator):
        self.rnn = nn.RNN(D, H, rng=rng)
        self.read = nn.Linear(H, 1, rng=rng)

    def forward(self, xs: Any) -> Any:
        hs, _ = self.rnn(xs)  # (T, B, H)
        return self.read(hs)[..., 0]  # (T, B)


# ---- T1: addition -------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Addition:
    """The settings of T1."""

    hidden: int = 6  # H of the recurrent net
    steps: int = 1500
    batch: int = 64
    learning_rate: float = 2e-2
    shortest: int = 4  # bits in training, from ...
    longest: int = 9  # ... to
    long: int = 64  # bits in the test
    mlp_bits: int = 6
    mlp_hidden: int = 48
    mlp_pairs: int = 50
    mlp_steps: int = 2000


def bits(numbers: Any, n: int) -> Any:
    """The n lowest binary digits of Python integers, the least significant first: (n, B)."""
    return np.array([[number >> place & 1 for number in numbers] for place in range(n)], dtype="float32")


def sums(n: int, B: int, rng: np.random.Generator) -> tuple[Any, Any]:
    """B pairs of numbers of n bits, and their sums: inputs (n+1, B, 2), targets (n+1, B); the last step, for the last carry, reads zeros."""
    a, b = bits_of = [[int.from_bytes(rng.bytes(n // 8 + 1), "big") % 2**n for _ in range(B)] for _ in range(2)]
    xs = np.stack([bits(numbers, n + 1) for numbers in bits_of], axis=-1)
    return xs, bits([p + q for p, q in zip(a, b, strict=True)], n + 1)


def whole_sums_right(model: nn.Module, xs: Any, targets: Any) -> float:
    """The share of sums all of whose bits are right; xs and targets have the batch in axis 1."""
    with training.evaluating(model):
        said = model(xs).numpy() > 0
    return float((said == (targets > 0.5)).all(axis=0).mean())


@experiment("T1", "N-bit addition: a rule against a table", rows="E1, A15", quick=Addition(), full=Addition(), seconds=(3, 3))
def addition(run: Run, config: Addition) -> None:
    """The recurrent net adds 64 bits after training on up to 9; the MLP fails on pairs that it has not seen, and cannot read one bit more."""
    c, rng = config, run.rng("rnn")
    elman = Elman(2, c.hidden, rng=rng)
    adam = optim.Adam(elman.parameters(), lr=c.learning_rate)

    def drawn(rng: np.random.Generator) -> tuple[Any, Any]:
        return sums(int(rng.integers(c.shortest, c.longest + 1)), c.batch, rng)

    run.fit("rnn", elman, bits_loss, adam, Drawn(drawn, rng), steps=c.steps)
    long = sums(c.long, 200, run.rng("long sums"))
    run.result(f"RNN, H={c.hidden}: {c.long}-bit sums all of whose bits are right", whole_sums_right(elman, *long), at_least=1.0)

    a, b = np.divmod(run.rng("pairs").permutation(4**c.mlp_bits), 2**c.mlp_bits)  # every pair once, in some order
    xs = np.concatenate([bits(a.tolist(), c.mlp_bits), bits(b.tolist(), c.mlp_bits)]).T
    targets = bits((a + b).tolist(), c.mlp_bits + 1).T
    seen, unseen = slice(c.mlp_pairs), slice(c.mlp_pairs, None)
    mlp_rng = run.rng("mlp")
    mlp = nn.Sequential(
        nn.Linear(2 * c.mlp_bits, c.mlp_hidden, rng=mlp_rng), nn.Tanh(), nn.Linear(c.mlp_hidden, c.mlp_bits + 1, rng=mlp_rng)
    )
    run.fit("mlp", mlp, bits_loss, optim.Adam(mlp.parameters(), lr=1e-2), [(xs[seen], targets[seen])], steps=c.mlp_steps)

    def right(part: slice) -> float:
        with training.evaluating(mlp):
            return float(((mlp(xs[part]).numpy() > 0) == (targets[part] > 0.5)).all(axis=1).mean())

    run.result(f"MLP 12-{c.mlp_hidden}-7: the {c.mlp_pairs} pairs of 6 bits that it learned", right(seen))
    run.result("MLP: all other pairs of 6 bits", right(unseen), at_most=0.2)
    run.result("MLP: rejects 7 bits (1: it raises an error of shape)", rejects(mlp, 2 * (c.mlp_bits + 1)), at_least=1.0)


def bits_loss(model: nn.Module, batch: tuple[Any, Any]) -> Any:
    """Cross entropy of the bits."""
    xs, targets = batch
    return F.binary_cross_entropy_with_logits(model(xs), targets)


def rejects(model: nn.Module, width: int) -> bool:
    """Whether a model refuses an input of that width."""
    try:
        model(np.zeros((1, width), "float32"))
    except errors.ShapeError:
        return True
    return False


# ---- The command --------------------------------------------------------------------------------------------------------------------------

EXPERIMENTS: list[Experiment] = [addition]


def main(argv: list[str] | None = None) -> int:
    """Run the experiments; `--help` names the options."""
    return run_experiments(__doc__, EXPERIMENTS, argv)


if __name__ == "__main__":
    sys.exit(main())
