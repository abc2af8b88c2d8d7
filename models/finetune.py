"""Fine-tuning: what was learned for one task is the start for another, and some of the layers stay as they are (frozen).

    pre-trained:  θ = (θ_1, ..., θ_L), θ_head          then for the new task:  θ_l <- θ_l - η dC/dθ_l  for the layers that are free alone

- T27  A transformer reads handwritten digits row by row and learns to tell 0, 1, 2, 3, 4 apart; then 5, 6, 7, 8, 9, from 10, 50 and all labels. Frozen
       are: all but a new head; the embedding of rows and the first block ("usually earlier layers", CS540); nothing; and one begins from random weights.

A frozen array stays as it is to the last bit, and no gradient is made for it: what needs none is not recorded, so the backward sweep ends at the first
layer that is free, and with it the memory for what that sweep would have read.

Honest negative, known beforehand: freezing hurts here. It saves work, and it saves a large model from forgetting; a small model with labels enough is better
off when every layer learns. Whether the first task helped at all is what the run from random weights says.

Sources: CS540 (Wisconsin-Madison), "Large language models"; Yosinski, Clune, Bengio & Lipson, How transferable are features in deep neural
networks? (2014).
"""

from __future__ import annotations

import copy
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

# ---- The model ----------------------------------------------------------------------------------------------------------------------------


class Reader(nn.Module):
    """Reads a picture row by row, top to bottom: rows (8, B, 8) -> scores of five classes (B, 5)."""

    def __init__(self, *, width: int, heads: int, rng: np.random.Generator):
        self.embed, self.position = nn.Linear(8, width, rng=rng), nn.LearnedPositions(8, width, rng=rng)
        self.first, self.second = (
            nn.TransformerEncoderLayer(width, heads, 2 * width, dropout=0.0, norm_first=True, rng=rng) for _ in range(2)
        )
        self.head = nn.Linear(8 * width, 5, rng=rng)

    def forward(self, rows: Any) -> Any:
        hs = self.second(self.first(self.position(self.embed(rows))))  # (8, B, width)
        return self.head(tg.moveaxis(hs, 1, 0).reshape(rows.shape[1], -1))


# The variants: which layers are frozen.
FROZEN = {
    "frozen: all but the head": ("embed", "position", "first", "second"),
    "frozen: embedding and first block": ("embed", "position", "first"),
    "frozen: nothing": (),
}
SCRATCH = "from random weights"


def freeze(model: Reader, names: tuple[str, ...]) -> dict[str, Any]:
    """Freeze these layers, and return the arrays in them."""
    for name in names:
        model.get_submodule(name).requires_grad_(False)
    return {name: p for name, p in model.named_parameters() if name.split(".")[0] in names}


# ---- T27: 0-4, then 5-9 -------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FineTuning:
    """The settings of T27."""

    width: int = 32
    heads: int = 2
    pretrain_steps: int = 400
    steps: int = 200
    batch: int = 50
    learning_rate: float = 3e-3
    weight_decay: float = 0.3  # of the first task: large weights are a bad start
    few: tuple[int, ...] = (10, 50)  # labels, besides all
    draws: int = 3  # of few labels, whose results are averaged


def rows_of(found: digits.Digits, wanted: Any) -> tuple[Any, Any]:
    """Digits of five classes as sequences of rows (8, N, 8), and labels 0 ... 4."""
    kept = np.isin(found.labels, wanted)
    return found.images[kept].transpose(1, 0, 2), found.labels[kept] - wanted[0]


def of_each(labels: Any, number: int, rng: np.random.Generator) -> Any:
    """So many examples, as many of each class."""
    return np.concatenate([rng.permutation(np.flatnonzero(labels == k))[: number // 5] for k in range(5)])


def classes_loss(model: nn.Module, batch: tuple[Any, Any]) -> Any:
    """Cross entropy of the classes."""
    rows, labels = batch
    return F.cross_entropy(model(rows), labels)


def right(model: nn.Module, rows: Any, labels: Any) -> float:
    """The share of digits that are recognised."""
    with training.evaluating(model):
        return float((model(rows).numpy().argmax(-1) == labels).mean())


@experiment(
    "T27",
    "Fine-tuning with frozen layers",
    rows="J10",
    quick=FineTuning(pretrain_steps=150, steps=80, draws=1),
    full=FineTuning(),
    seconds=(7, 24),
)
def finetuning(run: Run, config: FineTuning) -> None:
    """Frozen arrays keep every bit and get no gradient; what freezing costs is measured."""
    c, (train, test) = config, digits.load()
    old, old_test = rows_of(train, np.arange(5)), rows_of(test, np.arange(5))
    (rows, labels), new_test = rows_of(train, np.arange(5, 10)), rows_of(test, np.arange(5, 10))
    model = Reader(width=c.width, heads=c.heads, rng=run.rng("weights"))

    def batches(rows: Any, labels: Any) -> Drawn:
        def drawn(rng: np.random.Generator) -> tuple[Any, Any]:
            chosen = rng.integers(len(labels), size=min(c.batch, len(labels)))
            return rows[:, chosen], labels[chosen]

        return Drawn(drawn, run.rng("batches"))

    adam = optim.AdamW(model.parameters(), lr=c.learning_rate, weight_decay=c.weight_decay)
    run.fit("0-4", model, classes_loss, adam, batches(*old), steps=c.pretrain_steps)
    run.result("0-4, which it learned first: right, of those held out", right(model, *old_test))

    numbers = (*c.few, len(labels))
    found, changed, gradients = {}, 0, 0
    for number in numbers:
        for name in (*FROZEN, SCRATCH):
            scores = []
            for draw in range(c.draws if number in c.few else 1):
                chosen = of_each(labels, number, run.rng(f"labels {draw}")) if number in c.few else np.arange(len(labels))
                tuned = copy.deepcopy(model)
                tuned.head = nn.Linear(8 * c.width, 5, rng=run.rng("head"))
                if name == SCRATCH:
                    tuned = Reader(width=c.width, heads=c.heads, rng=run.rng(f"other weights {draw}"))
                frozen = freeze(tuned, FROZEN.get(name, ()))
                before = {key: p.numpy().tobytes() for key, p in frozen.items()}
                adam = optim.Adam([p for p in tuned.parameters() if p.requires_grad], lr=c.learning_rate)
                batched = batches(rows[:, chosen], labels[chosen])
                run.fit(f"{number} labels {draw}, {name}", tuned, classes_loss, adam, batched, steps=c.steps)
                changed += sum(p.numpy().tobytes() != before[key] for key, p in frozen.items())
                gradients += sum(p.grad is not None for p in frozen.values())
                scores.append(right(tuned, *new_test))
            found[number, name] = float(np.mean(scores))
            bound = {"at_least": 0.9} if (number, name) == (len(labels), "frozen: embedding and first block") else {}
            run.result(f"5-9 from {number} labels, {name}", found[number, name], **bound)
    run.result("frozen arrays that changed", changed, at_most=0)
    run.result("frozen arrays that have a gradient", gradients, at_most=0)
    free, first, head = (f"{found[len(labels), name]:.1%}" for name in reversed(FROZEN))
    run.note(
        f"With all {len(labels)} labels {free} are right if nothing is frozen, {first} with the first block frozen, {head} with all but the head."
    )
    gained = ", ".join(f"{100 * (found[n, 'frozen: nothing'] - found[n, SCRATCH]):+.1f}" for n in numbers)
    run.note(
        f"What the first task brought where nothing is frozen, in points of 100: {gained}. Draws of 10 labels differ by several points."
    )
    run.figure("labels.svg", lambda: by_labels(found, numbers))


def by_labels(found: dict[tuple[int, str], float], numbers: tuple[int, ...]) -> Any:
    """A figure of what is right by the number of labels."""
    names = [*FROZEN, SCRATCH]
    plot = tg.plot.trajectories(np.array([[found[n, name] for name in names] for n in numbers]), labels=names)
    axes = plot.figure.axes[0]
    axes.set(xlabel="labels of 5-9", ylabel="right, of those held out", ylim=(0.5, 1))
    axes.set_xticks(range(len(numbers)), [str(n) for n in numbers])
    return plot


# ---- The command --------------------------------------------------------------------------------------------------------------------------

EXPERIMENTS: list[Experiment] = [finetuning]


def main(argv: list[str] | None = None) -> int:
    """Run the experiments; `--help` names the options."""
    return run_experiments(__doc__, EXPERIMENTS, argv)


if __name__ == "__main__":
    sys.exit(main())
