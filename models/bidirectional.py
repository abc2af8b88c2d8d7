"""The bidirectional recurrent network (Schuster & Paliwal 1997): two chains, one from the past and one from the future, feed every output.

    f_t = tanh(W_f x_t + U_f f_(t-1) + b_f)          forward, from f_0 = 0                               (CMU 11-785; Graves)
    b_t = tanh(W_b x_t + U_b b_(t+1) + b_b)          backward, from b_(T+1) = 0: what the notes call h_b(inf) is the state behind the last input
    o_t = V [f_t; b_t] + c

- T7   y_t is the majority of x_(t-1), x_t, x_(t+1). Who does not see x_(t+1) is right in 3 of 4 cases at most. And a trap: o_t is a function of past
       and present plus a function of present and future. Such a sum cannot be the exclusive or of x_(t-1) and x_(t+1), for any
       weights and any cell: its four values obey o(0,0) - o(0,1) - o(1,0) + o(1,1) = 0, so that at most three of the four have the right sign, and their
       mean cross entropy is at least ln 2, that of even odds. A hidden layer in the read-out does it.
- T7b  Handwritten digits, read as eight rows: an RNN, an LSTM, a GRU and a bidirectional LSTM, beside logistic regression and nearest neighbours that
       see all pixels at once. To read a picture this small row by row is no gain: three nearest neighbours need no training at all.
- D11  The output of one chain does not depend on later inputs, exactly; that of two does.

A bidirectional net needs the whole sequence before its first output: it labels what is there and cannot predict what comes.
Sources: CMU 11-785 (2017), "Recurrent Networks"; Graves, Supervised Sequence Labelling with Recurrent Neural Networks (2012), 3.2.4;
Schuster & Paliwal, Bidirectional recurrent neural networks, IEEE Transactions on Signal Processing 45 (1997).
"""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import tinygrad_seq as tg
from models import digits
from models.command_line import run_experiments
from models.experiment import Drawn, Experiment, Run, experiment, needed
from tinygrad_seq import data, nn, optim, training
from tinygrad_seq.nn import functional as F

# ---- The model ----------------------------------------------------------------------------------------------------------------------------


class Tagger(nn.Module):
    """A score for every step from one chain or from two, (T, B, D) -> (T, B). hidden: the width of a hidden layer in the read-out, 0 for none."""

    def __init__(self, D: int, H: int, *, bidirectional: bool, hidden: int = 0, rng: np.random.Generator):
        self.rnn = nn.RNN(D, H, bidirectional=bidirectional, rng=rng)
        width = 2 * H if bidirectional else H
        layers = [nn.Linear(width, hidden, rng=rng), nn.Tanh()] if hidden else []
        self.read = nn.Sequential(*layers, nn.Linear(hidden or width, 1, rng=rng))

    def forward(self, xs: Any) -> Any:
        hs, _ = self.rnn(xs)  # (T, B, H), of two chains (T, B, 2H)
        return self.read(hs)[..., 0]  # (T, B)


# ---- T7: majority, and a trap -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Neighbours:
    """The settings of T7."""

    hidden: int = 8  # H of each chain
    read_hidden: int = 8  # of the read-out that has a hidden layer
    length: int = 20
    steps: int = 600
    batch: int = 64
    learning_rate: float = 2e-2
    sequences: int = 4000  # in the test


Rule = Callable[[Any, Any, Any], Any]


def majority(before: Any, now: Any, after: Any) -> Any:
    """What at least two of three bits say."""
    return (before + now + after >= 2).astype("float32")


def either(before: Any, now: Any, after: Any) -> Any:
    """Exclusive or of the neighbours; the bit between them does not matter."""
    return (before != after).astype("float32")


def labelled(rule: Rule, T: int, B: int, rng: np.random.Generator) -> tuple[Any, Any]:
    """Bits (T, B, 1), and the rule of every three in a row, (T-2, B): the two ends have but one neighbour and no label."""
    x = rng.integers(0, 2, size=(T, B)).astype("float32")
    return x[..., None], rule(x[:-2], x[1:-1], x[2:])


def tags_loss(model: nn.Module, batch: tuple[Any, Any]) -> Any:
    """Cross entropy of the labels of all steps but the ends."""
    xs, labels = batch
    return F.binary_cross_entropy_with_logits(model(xs)[1:-1], labels)


def share_right(model: nn.Module, xs: Any, labels: Any) -> float:
    """The share of labels that a model gets right."""
    with training.evaluating(model):
        return float(((model(xs)[1:-1].numpy() > 0) == (labels > 0.5)).mean())


def best_without_future(rule: Rule) -> float:
    """The most that can be right where x_(t+1) is unknown: of each pair of cases that differ in it alone, the label that both have, or one of two."""
    cases = np.array(list(itertools.product([0, 1], repeat=3)))  # x_(t+1) is the last, and varies first
    labels = rule(*cases.T).reshape(4, 2)
    return float(np.maximum(labels.mean(axis=1), 1 - labels.mean(axis=1)).mean())


def of_four(model: nn.Module, xs: Any, t: int) -> Any:
    """The scores of step t when x_(t-1) and x_(t+1) are set to 00, 01, 10, 11 and all else is as in xs (T, B, 1): (4, B)."""
    scores = []
    for before, after in itertools.product([0, 1], repeat=2):
        changed = xs.copy()
        changed[t - 1], changed[t + 1] = before, after
        with training.evaluating(model):
            scores.append(model(changed)[t].numpy())
    return np.stack(scores)


@experiment(
    "T7",
    "Majority of past, present and future, and a trap",
    rows="D11",
    quick=Neighbours(),
    full=Neighbours(steps=1500),
    seconds=(4, 9),
)
def neighbours(run: Run, config: Neighbours) -> None:
    """Two chains see what one cannot; but what they see is added, and for an exclusive or a sum is not enough."""
    c = config
    histories = {}

    def trained(name: str, rule: Rule, **options: Any) -> tuple[nn.Module, float]:
        rng = run.rng(name)
        tagger = Tagger(1, c.hidden, rng=rng, **options)
        batches = Drawn(lambda rng: labelled(rule, c.length, c.batch, rng), rng)
        histories[name] = run.fit(
            name, tagger, tags_loss, optim.Adam(tagger.parameters(), lr=c.learning_rate), batches, steps=c.steps
        )
        return tagger, share_right(tagger, *labelled(rule, c.length, c.sequences, run.rng("test")))

    run.result("majority: the best that can be done without x_(t+1), counted", best_without_future(majority))
    _, two = trained("majority, two directions", majority, bidirectional=True)
    _, one = trained("majority, one direction", majority, bidirectional=False)
    run.result("majority, two directions: labels that are right", two, at_least=0.999)
    run.result("majority, one direction: labels that are right", one, at_least=0.70, at_most=0.76)

    summed, straight = trained("exclusive or, linear read-out", either, bidirectional=True)
    _, bent = trained("exclusive or, hidden layer", either, bidirectional=True, hidden=c.read_hidden)
    run.result("exclusive or, two directions, linear read-out: labels that are right", straight, at_most=0.76)
    xs, _ = labelled(either, c.length, 100, run.rng("four"))
    four = of_four(summed, xs, c.length // 2)
    apart = np.abs(four[0] - four[1] - four[2] + four[3]).max()
    run.result("   the greatest |o(0,0) - o(0,1) - o(1,0) + o(1,1)| after training", apart, at_most=1e-4)
    targets = np.array([0.0, 1.0, 1.0, 0.0])[:, None] + 0 * four
    run.result(
        "   its cross entropy over the four cases / ln 2",
        F.binary_cross_entropy_with_logits(four.astype("float64"), targets).mean() / math.log(2),
        at_least=1 - 1e-6,
    )
    run.result("exclusive or, two directions, hidden layer in the read-out: labels that are right", bent, at_least=0.999)
    run.note(
        "x_(t-1) xor x_(t+1) cannot be learned by concatenation and a linear read-out, in no number of steps: the scores of the four cases are a sum."
    )
    run.figure("training.svg", lambda: tg.plot.training(histories))


# ---- T7b: digits, row by row --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rows:
    """The settings of T7b."""

    hidden: int = 32  # H, of the bidirectional LSTM in each direction
    epochs: int = 60
    batch: int = 64
    learning_rate: float = 2e-2
    weight_decay: float = 0.05


class RowReader(nn.Module):
    """Reads a picture from above, a row a step, and with two directions from below as well; says what it is by the last state of each."""

    def __init__(self, kind: type[nn.RNN | nn.LSTM | nn.GRU], H: int, *, rng: np.random.Generator, **options: Any):
        self.layer: Any = kind(8, H, batch_first=True, rng=rng, **options)
        self.read = nn.Linear(H * len(self.layer.directions), 10, rng=rng)

    def forward(self, images: Any) -> Any:
        _, last = self.layer(images)  # (B, rows, columns)
        h = last[0] if isinstance(last, tuple) else last  # (layers x directions, B, H); of an LSTM (h, c)
        return self.read(tg.concatenate(list(h[-len(self.layer.directions) :]), axis=-1))  # of the top layer -> (B, 10)

    def after_each_row(self, images: Any) -> Any:
        """The scores of a net of one direction after every row: (B, rows, 10)."""
        hs, _ = self.layer(images)
        return self.read(hs)


def classes_loss(model: nn.Module, batch: tuple[Any, Any]) -> Any:
    """Cross entropy of the classes."""
    images, labels = batch
    return F.cross_entropy(model(images), labels)


@experiment("T7b", "Digits, read row by row", rows="D10, D11", quick=Rows(epochs=15), full=Rows(), seconds=(5, 16))
def rows(run: Run, config: Rows) -> None:
    """Five readers of rows, and two classifiers that see the whole picture."""
    c = config
    train, test = digits.load()
    steps = c.epochs * -(-len(train.labels) // c.batch)
    readers: dict[str, RowReader] = {}
    right, histories = {}, {}
    kinds: list[tuple[str, Any, dict[str, Any]]] = [
        ("RNN", nn.RNN, {}),
        ("LSTM", nn.LSTM, {}),
        ("GRU", nn.GRU, {}),
        ("deep LSTM", nn.LSTM, {"num_layers": 2}),
        ("BiLSTM", nn.LSTM, {"bidirectional": True}),
    ]
    for name, kind, options in kinds:
        rng = run.rng(name)
        readers[name] = reader = RowReader(kind, c.hidden, rng=rng, **options)
        adam = optim.AdamW(reader.parameters(), lr=c.learning_rate, weight_decay=c.weight_decay)
        batches = data.Loader((train.images, train.labels), c.batch, shuffle=True, rng=rng)
        falling = optim.lr_scheduler.CosineAnnealingLR(adam, steps)
        histories[name] = run.fit(name, reader, classes_loss, adam, batches, steps=steps, schedule=falling)
        with training.evaluating(reader):
            right[name] = float((reader(test.images).numpy().argmax(axis=1) == test.labels).mean())
    nearest = needed("sklearn.neighbors", "scikit-learn").KNeighborsClassifier(n_neighbors=3)
    run.result(
        "logistic regression on all pixels", digits.logistic_regression(train.flat, train.labels).score(test.flat, test.labels)
    )
    run.result("3 nearest neighbours", nearest.fit(train.flat, train.labels).score(test.flat, test.labels))
    run.result(f"RNN-{c.hidden}: test digits that are right", right["RNN"])
    run.result(f"LSTM-{c.hidden}: test digits that are right", right["LSTM"], at_least=0.95, quick=0.94)
    run.result(f"GRU-{c.hidden}: test digits that are right", right["GRU"])
    run.result(f"two layers of LSTM-{c.hidden}: test digits that are right", right["deep LSTM"], at_least=0.95, quick=0.94)
    run.result(f"bidirectional LSTM-{c.hidden}: test digits that are right", right["BiLSTM"], at_least=0.965, quick=0.95)
    run.note(
        "One test digit is 0.2 %: differences of less than a percent between the readers, and to 3 nearest neighbours, are no ranking."
    )
    run.figure("training.svg", lambda: tg.plot.training(histories, smooth=21))
    run.figure("row_by_row.svg", lambda: guesses(readers["LSTM"], test))


def guesses(reader: RowReader, test: digits.Digits) -> Any:
    """What the LSTM holds each of four digits for after every row."""
    chosen = {int(label): int(np.argmax(test.labels == label)) for label in (0, 3, 5, 7)}
    with training.evaluating(reader):
        scores = F.softmax(reader.after_each_row(test.images[list(chosen.values())]), axis=-1).numpy()
    named = {f"a {label}": one for label, one in zip(chosen, scores, strict=True)}
    plot = tg.plot.attention(named, queries=[f"row {k}" for k in range(1, 9)], keys=[str(k) for k in range(10)])
    return relabelled(plot, "it is a ...", "read so far", "probability")


def relabelled(plot: tg.plot.Plot, x: str, y: str, scale: str) -> tg.plot.Plot:
    """The same heat maps, of something that is not attention."""
    *parts, scale_axes = plot.figure.axes
    for axes in parts:
        axes.set_xlabel(x)
    parts[0].set_ylabel(y)
    scale_axes.set_ylabel(scale)
    return plot


# ---- D11: who depends on the future -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Directions:
    """The settings of D11: a net that is not trained."""

    hidden: int = 16
    length: int = 12


def sensitivity(tagger: Tagger, xs: Any) -> Any:
    """|do_t / dx_s| of the first sequence of xs (T, B, 1): (T, T), row t and column s."""
    leaf = tg.tensor(xs[:, :1], requires_grad=True)
    return np.stack([np.abs(tg.grad(score[0], leaf).numpy()[:, 0, 0]) for score in tg.steps(tagger(leaf))])


@experiment("D11", "What one chain sees, and what two see", rows="D11, A14", quick=Directions(), full=Directions(), seconds=(1, 1))
def directions(run: Run, config: Directions) -> None:
    """The output at t and the inputs after t: in one direction not even the last bit changes."""
    c = config
    T, half = c.length, c.length // 2
    xs = run.rng("xs").normal(size=(T, 32, 1)).astype("float32")
    other = xs.copy()
    other[half:] = run.rng("other").normal(size=(T - half, 32, 1))  # all inputs from this step on
    taggers = {
        name: Tagger(1, c.hidden, bidirectional=both, rng=run.rng(name))
        for name, both in [("one direction", False), ("two directions", True)]
    }
    maps = {name: sensitivity(tagger, xs) for name, tagger in taggers.items()}
    for name, tagger in taggers.items():
        with training.evaluating(tagger):
            moved = np.abs(tagger(xs).numpy() - tagger(other).numpy())[:half].max()
        later = maps[name][np.triu_indices(T, 1)]
        bounds: dict[str, float] = {"at_most": 0.0} if name == "one direction" else {"at_least": 1e-4}
        run.result(f"{name}: greatest change of an output, all later inputs changed", moved, **bounds)
        run.result(f"{name}: greatest |do_t/dx_s| with s > t", later.max(), **bounds)

    def heat() -> Any:
        shares = {name: one / one.sum(axis=1, keepdims=True) for name, one in maps.items()}
        return relabelled(tg.plot.attention(shares), "input x_s", "output o_t", "share of |do_t/dx_s| in its row")

    run.figure("sensitivity.svg", heat)
    run.figure("two_chains.svg", lambda: drawn(taggers["two directions"], xs[:4, :1]))


def drawn(tagger: Tagger, xs: Any) -> Any:
    """Two opposite chains, and above every step its output."""
    hs, _ = tagger.rnn(xs)
    return tg.draw([tagger.read(h) for h in tg.steps(hs)], level="cells")


# ---- The command --------------------------------------------------------------------------------------------------------------------------

EXPERIMENTS: list[Experiment] = [neighbours, rows, directions]


def main(argv: list[str] | None = None) -> int:
    """Run the experiments; `--help` names the options."""
    return run_experiments(__doc__, EXPERIMENTS, argv)


if __name__ == "__main__":
    sys.exit(main())
