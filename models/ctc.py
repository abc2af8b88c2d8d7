"""Reading a string when nobody says where its symbols stand: a bidirectional LSTM trained by CTC (Graves, Fernández, Gomez, Schmidhuber 2006).

A network names a symbol or the blank ∅ at each of T frames; B reads such a path π, B(a a ∅ a b) = a a b: repeats are merged, then blanks dropped.

    p(l | x) = Σ_(π: B(π) = l)  Π_t y_t(π_t)          L = -log p(l | x)          y_t = softmax(V h_t + c), h_t of both directions
    ∂L/∂o_t(k) = y_t(k) - γ_t(k)          γ_t(k): the probability that a path which reads as l is at k at time t

The sum has exponentially many terms; the recursion for α in `F.ctc_loss` takes T (2S + 1) of them.

- T14  Strings of handwritten digits (real ones, 8x8), put side by side with gaps at random. A frame is a column of 8 pixels, a target the digits
       alone. The notes (CMU 11-785): between input and desired output there is "often no clear synchrony", and what counts, the edit distance, is
       not differentiable: a small step of the weights leaves it as it is. CTC, which the notes do not name, answers both; the edit distance only
       judges, as label error rate: insertions, deletions and replacements per symbol.
       It is the layout of the notes' speech recognition, phonemes over X(t), where Python packages carry no recordings.
- E16  Online handwriting: the same network, reading pen movements (Δx, Δy, lifted?). Capitals in straight strokes, bent, slanted and scaled at random
       by rule. It shows the mechanism; how well a hand is read is another question, as no package carries pen data.

Known beforehand: at first the network says ∅ everywhere, the cheapest way to be seldom wrong, and the loss stays where it is for a while; how long
depends on the scale of the input. Pixels from 0 to 1 as they are: several times as long as with mean 0 and variance 1.
Sources: Graves et al., Connectionist temporal classification, ICML 2006; Graves, Supervised sequence labelling, 2012, chapter 7; Levenshtein 1966;
CMU 11-785 (2017), "Recurrent Networks"; CS540, applications of recurrent networks.
"""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

import tinygrad_seq as tg
from models import digits
from models.command_line import run_experiments
from models.experiment import Drawn, Experiment, Run, canvas, experiment
from tinygrad_seq import data, nn, optim, training
from tinygrad_seq.nn import functional as F

BLANK = 0  # class 0; symbol k of an alphabet is class k + 1


# ---- The model ----------------------------------------------------------------------------------------------------------------------------


class Reader(nn.Module):
    """A bidirectional LSTM, and log probabilities of C classes at every frame: (T, B, D) -> (T, B, C)."""

    def __init__(self, D: int, H: int, C: int, *, dropout: float, rng: np.random.Generator):
        self.lstm = nn.LSTM(D, H, bidirectional=True, rng=rng)
        self.drop = nn.Dropout(dropout, rng=rng)
        self.read = nn.Linear(2 * H, C, rng=rng)

    def forward(self, xs: Any, frames: Any) -> Any:
        hs, _ = self.lstm(xs, lengths=frames)  # (T, B, 2H): the way back begins at the last frame of each row
        return F.log_softmax(self.read(self.drop(hs)), axis=-1)


class Strings(NamedTuple):
    """B inputs xs (T, B, D) of so many frames each, and their classes (B, S), so many symbols each."""

    xs: Any
    frames: Any
    classes: Any
    symbols: Any

    @property
    def targets(self) -> list[list[int]]:
        """The classes as lists."""
        return [row[:n].tolist() for row, n in zip(self.classes, self.symbols, strict=True)]


def strings(pairs: list[tuple[Any, Any]]) -> Strings:
    """Pairs of an input (T_b, D) and its symbols, put side by side."""
    xs, symbols = zip(*pairs, strict=True)
    return Strings(*data.pad(xs), *data.pad([np.asarray(row) + 1 for row in symbols], batch_first=True))


def ctc(reader: nn.Module, batch: Strings) -> Any:
    """The surprise at the symbols, per symbol."""
    return F.ctc_loss(reader(batch.xs, batch.frames), batch.classes, batch.frames, batch.symbols, blank=BLANK)


def label_error_rate(reader: nn.Module, test: Strings) -> tuple[float, float]:
    """Of greedy decoding: the label error rate, and the share of strings without any error."""
    with training.evaluating(reader):
        read = F.ctc_greedy_decode(reader(test.xs, test.frames), test.frames, BLANK)
    return F.label_error_rate(read, test.targets), float(np.mean([a == b for a, b in zip(read, test.targets, strict=True)]))


def learn(run: Run, name: str, reader: nn.Module, draw: Callable[[np.random.Generator], Strings], steps: int, rate: float) -> None:
    """Train by Adam on strings drawn anew for every step, the learning rate up to `rate` and down again."""
    adam = optim.Adam(reader.parameters(), lr=rate)
    cycle = optim.lr_scheduler.OneCycleLR(adam, rate, total_steps=steps, pct_start=0.1)
    history = run.fit(name, reader, ctc, adam, Drawn(draw, run.rng(f"{name}: strings")), steps=steps, schedule=cycle, clip_norm=1.0)
    run.figure(f"{name}_training.svg", lambda: tg.plot.training(history))


# ---- T14: strings of digits ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DigitStrings:
    """The settings of T14."""

    hidden: int = 64  # of each direction
    dropout: float = 0.2
    steps: int = 1500
    batch: int = 32
    learning_rate: float = 1e-2
    longest: int = 5  # digits in training, from 1 on
    gap: int = 3  # empty columns between digits, at most
    test: int = 400  # strings of `longest` digits
    searched: int = 100  # of these by beam search
    beam: int = 8


def digit_string(source: digits.Digits, n: int, gap: int, rng: np.random.Generator, *, shifted: bool) -> tuple[Any, Any]:
    """n digits with gaps, column by column (T, 8), standardised, and their labels (n,). shifted: each up or down by up to a pixel."""
    chosen = rng.integers(len(source.labels), size=n)
    columns = [np.zeros((rng.integers(gap + 1), 8), "float32")]
    for image in source.images[chosen]:
        up = int(rng.integers(3)) if shifted else 1
        columns += [np.pad(image, ((1, 1), (0, 0)))[up : up + 8].T, np.zeros((rng.integers(gap + 1), 8), "float32")]
    return (np.concatenate(columns) - 0.3) / 0.37, source.labels[chosen]  # the mean and deviation of the digits' pixels


@experiment("T14", "Strings of digits, unsegmented: CTC", rows="E15, G7", quick=DigitStrings(steps=300, test=200, searched=20), full=DigitStrings(), seconds=(8, 30))  # fmt: skip
def digit_strings(run: Run, config: DigitStrings) -> None:
    """A bidirectional LSTM reads strings of five digits, of which it was never told where one ends."""
    c = config
    run.result("CTC on 4 frames, 3 classes: largest difference from the sum over all 81 paths", against_all_paths(run.rng("paths")), at_most=1e-12)  # fmt: skip
    train, test = digits.load()

    def drawn(rng: np.random.Generator) -> Strings:
        n = int(rng.integers(1, c.longest + 1))
        return strings([digit_string(train, n, c.gap, rng, shifted=True) for _ in range(c.batch)])

    def unseen(n: int, number: int) -> Strings:
        rng = run.rng(f"test strings of {n}")
        return strings([digit_string(test, n, c.gap, rng, shifted=False) for _ in range(number)])

    reader = Reader(8, c.hidden, 11, dropout=c.dropout, rng=run.rng("reader"))
    learn(run, "reader", reader, drawn, c.steps, c.learning_rate)

    five = unseen(c.longest, c.test)
    errors, whole = label_error_rate(reader, five)
    run.result(
        f"BiLSTM-{c.hidden}, CTC: label error rate on strings of {c.longest} unseen digits", errors, at_most=0.05, quick=0.25
    )
    run.result("the same: strings without an error", whole)
    run.result("the same on strings of 10, longer than any in training", label_error_rate(reader, unseen(10, c.test // 2))[0])
    run.result("logistic regression that is given each digit cut out: error rate", told_where(train, test))

    few = Strings(five.xs[:, : c.searched], five.frames[: c.searched], five.classes[: c.searched], five.symbols[: c.searched])
    with training.evaluating(reader):
        log_probs = reader(few.xs, few.frames)
    found = F.ctc_beam_search(log_probs, few.frames, BLANK, c.beam)
    run.result(
        f"the first {c.searched} of 5: greedy", F.label_error_rate(F.ctc_greedy_decode(log_probs, few.frames, BLANK), few.targets)
    )
    run.result(f"the first {c.searched} of 5: beam of {c.beam}", F.label_error_rate([rows[0][0] for rows in found], few.targets))
    run.note(
        "A beam sums the paths of a labelling. Where the network is sure of itself, one path has nearly all of it, and greedy reads the same."
    )
    run.figure(
        "unfolded.svg",
        lambda: tg.draw(Reader(2, 3, 3, dropout=0.0, rng=run.rng("unfolded"))(np.zeros((4, 1, 2)), None), level="cells"),
    )
    run.figure("alignment.svg", lambda: alignment(few.xs[: few.frames[0], 0], np.exp(log_probs.numpy()[: few.frames[0], 0])))


def against_all_paths(rng: np.random.Generator) -> float:
    """The largest difference between the CTC loss on 4 frames and its definition: every path written out, read, and summed."""
    log_y = F.log_softmax(rng.normal(size=(4, 3)))
    p: dict[tuple[int, ...], float] = {}
    for path in itertools.product(range(3), repeat=4):
        read = tuple(k for k, _ in itertools.groupby(path) if k != BLANK)
        p[read] = p.get(read, 0.0) + math.exp(sum(log_y[t, k] for t, k in enumerate(path)))
    return max(abs(float(F.ctc_loss(log_y, list(read), 4, len(read), reduction="sum")) + math.log(p[read])) for read in p)


def told_where(train: digits.Digits, test: digits.Digits) -> float:
    """The share of errors of a classifier of single digits, which needs no CTC."""
    model = digits.logistic_regression(train.flat, train.labels)
    return float((model.predict(test.flat) != test.labels).mean())


def alignment(columns: Any, y: Any) -> Any:
    """The probabilities y (T, 11) of the classes, above the picture (T, 8) that they were read from."""
    drawn = canvas(8, 3)
    above, below = drawn.subplots(2, 1, sharex=True, height_ratios=(2, 1.2))
    above.plot(y[:, BLANK], color="0.7", linestyle=":")
    above.annotate("∅", (0, y[0, BLANK]), (0, 3), textcoords="offset points", ha="center", color="0.5")
    for k in range(1, y.shape[1]):
        if y[:, k].max() > 0.2:
            above.plot(y[:, k], color="#00224e")
            for t in range(len(y)):
                if y[t, k] > 0.2 and y[t, k] == y[max(0, t - 3) : t + 4, k].max():
                    above.annotate(str(k - 1), (t, y[t, k]), (0, 3), textcoords="offset points", ha="center")
    above.set(ylim=(0, 1.2), yticks=[0, 0.5, 1], ylabel="probability")  # above 1 is room for the names
    below.imshow(columns.T, cmap="gray_r", aspect="auto", interpolation="nearest")
    below.set_yticks([])
    below.set_xlabel("column")
    return drawn


# ---- E16: online handwriting --------------------------------------------------------------------------------------------------------------

# Strokes from point to point in a box of 1 by 1; between strokes the pen is lifted.
CAPITALS = {
    "A": (((0, 0), (0.5, 1), (1, 0)), ((0.2, 0.4), (0.8, 0.4))),
    "E": (((1, 1), (0, 1), (0, 0), (1, 0)), ((0, 0.5), (0.8, 0.5))),
    "F": (((0, 0), (0, 1), (1, 1)), ((0, 0.5), (0.8, 0.5))),
    "H": (((0, 1), (0, 0)), ((1, 1), (1, 0)), ((0, 0.5), (1, 0.5))),
    "L": (((0, 1), (0, 0), (1, 0)),),
    "M": (((0, 0), (0, 1), (0.5, 0.4), (1, 1), (1, 0)),),
    "N": (((0, 0), (0, 1), (1, 0), (1, 1)),),
    "T": (((0, 1), (1, 1)), ((0.5, 1), (0.5, 0))),
    "V": (((0, 1), (0.5, 0), (1, 1)),),
    "Z": (((0, 1), (1, 1), (0, 0), (1, 0)),),
}
LETTERS = "".join(CAPITALS)


@dataclass(frozen=True)
class Pen:
    """The settings of E16."""

    hidden: int = 32
    steps: int = 400
    batch: int = 24
    learning_rate: float = 2e-2
    longest: int = 4  # letters
    wobble: float = 0.06  # how far a point is off, in heights of a letter
    test: int = 200


def written(symbols: Any, wobble: float, rng: np.random.Generator) -> Any:
    """A word as a hand writes it: the movements (T, 3) between points of the pen, Δx, Δy and whether it was lifted, in one size, slant and speed."""
    slant, width, stride = rng.normal(0, 0.2), rng.uniform(0.5, 0.9), rng.uniform(0.2, 0.35)
    points = []  # x, y, lifted on the way there?
    for place, symbol in enumerate(symbols):
        for stroke in CAPITALS[LETTERS[symbol]]:
            corners = np.array(stroke) + rng.normal(0, wobble, (len(stroke), 2))
            points.append((place * 1.4 + corners[0, 0], corners[0, 1], 1.0))
            for a, b in itertools.pairwise(corners):
                n = max(1, round(math.dist(a, b) / stride))
                points += [(place * 1.4 + x, y, 0.0) for x, y in a + (b - a) * np.arange(1, n + 1)[:, None] / n]
    path = np.array(points)
    path[:, 0] = path[:, 0] * width + slant * path[:, 1]
    path[:, :2] += rng.normal(0, wobble / 3, (len(path), 2))
    moves = np.diff(path[:, :2], axis=0, prepend=path[:1, :2])
    return np.column_stack([4 * moves, path[:, 2]]).astype("float32")


@experiment("E16", "Online handwriting, from strokes made by rule", rows="E16", quick=Pen(), full=Pen(), seconds=(7, 7))
def pen(run: Run, config: Pen) -> None:
    """The same network reads words from the movements of a pen."""
    c = config

    def words(n: int, number: int, rng: np.random.Generator) -> Strings:
        symbols = rng.integers(len(LETTERS), size=(number, n))
        return strings([(written(row, c.wobble, rng), row) for row in symbols])

    reader = Reader(3, c.hidden, len(LETTERS) + 1, dropout=0.0, rng=run.rng("pen reader"))
    learn(run, "pen", reader, lambda rng: words(int(rng.integers(1, c.longest + 1)), c.batch, rng), c.steps, c.learning_rate)
    errors, whole = label_error_rate(reader, words(c.longest, c.test, run.rng("test words")))
    run.result(f"BiLSTM-{c.hidden}, CTC: label error rate on words of {c.longest} letters", errors, at_most=0.02)
    run.result("the same: words without an error", whole)
    run.note("The strokes follow a rule. Real hands join letters, and write them in several ways.")
    run.figure(
        "words.svg",
        lambda: handwriting([written(map(LETTERS.index, word), c.wobble, run.rng(word)) for word in ("HALT", "MEAN", "ZEFA")]),
    )


def handwriting(words: list[Any]) -> Any:
    """Words (T, 3) as ink."""
    drawn = canvas(4 * len(words), 1.6)
    for axes, word in zip(drawn.subplots(1, len(words)), words, strict=True):
        places = word[:, :2].cumsum(axis=0)
        for stroke in np.split(places, np.flatnonzero(word[:, 2])):
            axes.plot(*stroke.T, color="#00224e", marker=".", markersize=3, linewidth=1.5)
        axes.set_aspect("equal")
        axes.set_axis_off()
    return drawn


# ---- The command --------------------------------------------------------------------------------------------------------------------------

EXPERIMENTS: list[Experiment] = [digit_strings, pen]


def main(argv: list[str] | None = None) -> int:
    """Run the experiments; `--help` names the options."""
    return run_experiments(__doc__, EXPERIMENTS, argv)


if __name__ == "__main__":
    sys.exit(main())
