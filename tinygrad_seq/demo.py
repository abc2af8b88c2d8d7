"""The demonstration: a character network learns this Python's standard library, and its gradient is taken apart in time.

Six stations, each a function below that prints what it does: the text, learning, the comparison with counted n-grams, a sample, the graph,
and the sum that back-propagation through time is.
"""

from __future__ import annotations

import copy
import csv
import math
import platform
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from . import bptt, data, nn, optim
from .autodiff import grad
from .errors import MissingDependencyError
from .frames import no_grad
from .nn import functional as F


@dataclass(frozen=True)
class Settings:
    """How large, how long, how fast. The defaults take about a minute on two cores."""

    seed: int = 0
    steps: int = 1500  # of the optimizer
    embedding: int = 64  # E
    hidden: int = 256  # H
    batch: int = 32  # B: streams of text read side by side
    window: int = 64  # T: the steps of time that one gradient goes back
    learning_rate: float = 3e-3  # falls to 0 along a line
    clip: float = 1.0
    corpus: int | None = None  # characters; None: all of the standard library
    temperature: float = 0.6
    sample: int = 1500  # characters
    prompt: str = "def "
    drawn: str = "def f"  # the text of the graph
    explained: str = "import numpy"  # the text whose gradient is taken apart


QUICK = Settings(steps=400, embedding=16, hidden=64, batch=16, window=32, learning_rate=1e-2, corpus=300_000, sample=300)


NGRAMS = ("unigram", "bigram", "trigram", "4-gram", "5-gram")


class CharRNN(nn.Module):
    """A character language model: each character's vector, a simple recurrent network, and a score for each next character."""

    def __init__(self, vocabulary_size: int, embedding: int, hidden: int, *, rng: np.random.Generator):
        self.embed = nn.Embedding(vocabulary_size, embedding, rng=rng)
        self.rnn = nn.RNN(embedding, hidden, rng=rng)
        self.score = nn.Linear(hidden, vocabulary_size, rng=rng)

    def forward(self, ids: Any, h: Any = None) -> tuple[Any, Any]:
        """Read ids (T, B) from the state h (1, B, H): the scores of what comes next (T, B, V), and the last state."""
        hs, h = self.rnn(self.embed(ids), h)
        return self.score(hs), h


def demo(out: str | Path, settings: Settings = Settings()) -> list[Path]:
    """Run all of it, write the files into the folder `out`, and return their paths."""
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(settings.seed)
    station("tinygrad_seq demo")
    say(
        "A recurrent network learns to predict the next character of Python source, on a framework whose tape",
        "knows about time; then we look inside: the graph unfolded in time, and one gradient term by term.",
    )
    vocabulary, train, test = read_text(settings)
    model = CharRNN(len(vocabulary), settings.embedding, settings.hidden, rng=rng)
    learn(model, train, settings)
    compare(model, train, test, len(vocabulary), settings)
    files = [
        write_sample(out, model, vocabulary, settings, rng),
        *draw_graph(out, model, vocabulary, settings),
        *explain_gradient(out, model, vocabulary, settings),
    ]
    station("Files")
    meanings = {
        "sample.txt": "text that the network wrote",
        "graph.dot": "its graph unfolded in time, as Graphviz text",
        "graph.svg": "the same as a picture: open it in a browser",
        "bptt_terms.txt": "one gradient as a sum over time",
        "bptt_terms.csv": "the same numbers for a spreadsheet",
    }
    width = max(len(str(path)) for path in files)
    say(*(f"{path!s:<{width}}   {meanings[path.name]}" for path in files))
    return files


# ---- 1 and 2: read and learn ----------------------------------------------------------------------------------------------------


def read_text(settings: Settings) -> tuple[data.Vocabulary, Any, Any]:
    """The corpus, its vocabulary, and its characters as numbers: to learn from, and to test on."""
    text = data.standard_library_text()[: settings.corpus]
    vocabulary = data.Vocabulary.of(text)
    train, test = data.split(vocabulary.encode(text))
    station("1  The text")
    say(
        f"The standard library of Python {platform.python_version()}: {len(text):,} characters, {len(vocabulary)} different ones.",
        f"We learn from the first 95 % and test on the last 5 % ({len(test):,} characters that are never learned from).",
    )
    return vocabulary, train, test


def learn(model: CharRNN, train: Any, settings: Settings) -> None:
    """Truncated back-propagation through time: the state goes on from window to window, the gradient stops at its edge."""
    T, B = settings.window, settings.batch
    station("2  Learning")
    say(
        *f"{model!r}".split("\n"),
        "",
        f"{sum(p.size for p in model.parameters()):,} numbers to learn. Each of {settings.steps} steps reads {T} characters of {B} places in the",
        f"text at once and goes back {T} steps in time (truncated BPTT); Adam, gradient norm clipped to {settings.clip:g}.",
    )
    adam = optim.Adam(model.parameters(), lr=settings.learning_rate)
    windows = _forever(train, B, T)
    average = math.log(model.score.out_features)
    h: Any = None
    with _progress_bar(settings.steps) as progress:
        for step in range(settings.steps):
            inputs, targets, first = next(windows)
            scores, h = model(inputs, None if first else h.detach())
            loss = F.cross_entropy(scores, targets)
            adam.zero_grad()
            loss.backward()
            optim.clip_grad_norm_(model.parameters(), settings.clip)
            adam.lr = settings.learning_rate * (1 - step / settings.steps)
            adam.step()
            average += (loss.item() - average) * max(0.02, 1 / (step + 1))
            progress.set_postfix_str(f"{average / math.log(2):.3f} bits per character", refresh=False)
            progress.update()


def _forever(ids: Any, batch: int, steps: int) -> Iterator[tuple[Any, Any, bool]]:
    """The windows of the text again and again, and whether each is the first of a reading."""
    while True:
        for number, (inputs, targets) in enumerate(data.Streams(ids, batch, steps)):
            yield inputs, targets, number == 0


def _progress_bar(steps: int) -> Any:
    from tqdm import tqdm

    terminal = sys.stderr.isatty()
    return tqdm(
        total=steps,
        ascii=None if terminal else True,
        mininterval=0.1 if terminal else 10,  # a log file wants few lines
        bar_format="   {percentage:3.0f}% |{bar}| {elapsed}, {remaining} to go{postfix}",  # the bar takes what the terminal leaves
    )


# ---- 3: compare -----------------------------------------------------------------------------------------------------------------


@no_grad
def bits_per_character(model: CharRNN, ids: Any, streams: int = 64, window: int = 128) -> float:
    """How many bits the model needs for a character of the text, on average: read as `streams` parts side by side."""
    h, nats, count = None, 0.0, 0
    for inputs, targets in data.Streams(ids, min(streams, len(ids) // 2), window):
        scores, h = model(inputs, h)
        nats += F.cross_entropy(scores, targets, reduction="sum").item()
        count += targets.size
    return nats / count / math.log(2)


def compare(model: CharRNN, train: Any, test: Any, vocabulary_size: int, settings: Settings) -> None:
    """Print the bits per character of the network beside those of models that count."""
    station("3  How well does it predict?")
    say(
        "Bits per character on the held-out text: how many yes-no questions the next character is worth; less is better.",
        "An n-gram counts which character follows each n-1 others (0.01 is added to every count), in the same text.",
        "",
    )
    rows = [
        ("guessing", math.log2(vocabulary_size)),
        *((name, data.ngram_bits(train, test, n, vocabulary_size)) for n, name in enumerate(NGRAMS, 1)),
        ("this network", bits_per_character(model, test)),
    ]
    for name, bits in rows:
        say(f"{name:>13}  {bits:6.3f}  {bar(bits / rows[0][1], 50)}")


# ---- 4: write -------------------------------------------------------------------------------------------------------------------


@no_grad
def generate(model: CharRNN, prompt: Any, length: int, temperature: float, rng: np.random.Generator) -> list[int]:
    """Continue the prompt (ids): draw the next character from softmax(scores / temperature), feed it back, and so on.

    Temperature 1 is the model's own distribution; lower ones stay with what is likely, 0 takes the likeliest.
    """
    ids = list(prompt)
    scores, h = model(np.array(ids)[:, None])
    while len(ids) < len(prompt) + length:
        last = scores.numpy()[-1, 0].astype(np.float64)
        drawn = rng.choice(last.size, p=F.softmax(last / temperature)) if temperature else last.argmax()
        ids.append(int(drawn))
        scores, h = model(np.array([[drawn]]), h)
    return ids


def write_sample(out: Path, model: CharRNN, vocabulary: data.Vocabulary, settings: Settings, rng: np.random.Generator) -> Path:
    """Let the network write."""
    station("4  It writes")
    say(
        f"Beginning with {settings.prompt!r}, each character drawn from the prediction (temperature {settings.temperature:g}) and fed back:",
        "",
    )
    ids = generate(model, vocabulary.encode(settings.prompt), settings.sample, settings.temperature, rng)
    text = vocabulary.decode(ids)
    path = out / "sample.txt"
    path.write_text(text + "\n", encoding="utf-8")
    lines = text.split("\n")[:14]
    say(*(f"  | {line.expandtabs(4)[:100]}" for line in lines), f"  ... {len(text):,} characters in sample.txt")
    return path


# ---- 5: draw --------------------------------------------------------------------------------------------------------------------


def loss_of(model: CharRNN, ids: Any) -> Any:
    """The loss of reading a text and predicting each of its characters from those before: the sum over time, in nats."""
    scores, _ = model(ids[:-1, None])
    return F.cross_entropy(scores, ids[1:, None], reduction="sum")


def draw_graph(out: Path, model: CharRNN, vocabulary: data.Vocabulary, settings: Settings) -> list[Path]:
    """Draw what the tape recorded for a short text."""
    from .viz import draw

    station("5  The graph, unfolded in time")
    say(
        f"Reading {settings.drawn[:-1]!r} and predicting {settings.drawn[1:]!r}: every operation that was recorded, one column for each moment,",
        "and a copy of each weight wherever it is used.",
    )
    drawing = draw(loss_of(model, vocabulary.encode(settings.drawn)))
    files = []
    for name in ("graph.dot", "graph.svg"):
        try:
            drawing.save(out / name)
            files.append(out / name)
        except MissingDependencyError as missing:
            say(f"No {name}:", *str(missing).split("\n"))
    return files


# ---- 6: explain -----------------------------------------------------------------------------------------------------------------


def bptt_terms(loss: Any, weight: Any) -> dict[int, Any]:
    """The terms of dL/dW by the time step at which W was used, read off the reverse sweep.

        dL/dW_hh = Σ_t δ_t^T h_(t-1)          δ_t = dL/da_t: how the loss reacts to the activation at time t

    The tape wrote on every operation when it happened, so the terms need only be sorted (`tg.bptt.ledger`); a compiled time loop is opened
    first. No `.grad` changes.
    """
    led = bptt.ledger(loss, weight)
    return {t: term for t, term in zip(led.steps, led.terms, strict=True) if t is not None}


def explain_gradient(out: Path, model: CharRNN, vocabulary: data.Vocabulary, settings: Settings) -> list[Path]:
    """Print the terms of dL/dW_hh, their sum, W_hh.grad, and the gradient derived by hand; keep the table in files."""
    text = settings.explained
    ids = vocabulary.encode(text)
    exact = copy.deepcopy(model).to(dtype="float64")  # so that rounding hides nothing
    exact.zero_grad()
    w_hh = exact.rnn.weight_hh_l0

    terms = bptt_terms(loss_of(exact, ids), w_hh)
    summed = sum(terms.values())

    loss_of(exact, ids).backward()
    assert w_hh.grad is not None
    of_tape = w_hh.grad.numpy()

    xs = exact.embed(ids[:-1, None])
    hs, _ = exact.rnn(xs)
    g_hs = grad(F.cross_entropy(exact.score(hs), ids[1:, None], reduction="sum"), hs)
    weights = [w.numpy() for w in exact.rnn.weights(layer=0)]
    arguments = [xs.numpy(), np.zeros(hs.shape[1:]), *weights, g_hs.numpy()]
    by_hand = F.rnn_bptt(*arguments).w_hh

    i, j = (int(place) for place in np.unravel_index(np.abs(of_tape).argmax(), of_tape.shape))
    norms = {t: float(np.linalg.norm(term)) for t, term in terms.items()}
    entry = f"entry [{i}, {j}]"

    def row(name: str, term: Any, note: str = "") -> str:
        return f"{name:<21}  {np.linalg.norm(term):12.6f}  {term[i, j]:+18.12f}   {note}"

    table = [
        f" t  reads  predicts           norm  {entry:>18}",
        *(
            row(f"{t:2}  {text[t - 1]!r:>5}  {text[t]!r:>8}", term, bar(norms[t] / max(norms.values()), 30))
            for t, term in terms.items()
        ),
        "",
        row(f"sum of the {len(terms)} terms", summed),
        row("W_hh.grad", of_tape, f"largest difference of any entry: {np.abs(summed - of_tape).max():.1e}"),
        row("derived by hand", by_hand, f"largest difference of any entry: {np.abs(summed - by_hand).max():.1e}"),
    ]
    about = [
        f"Reading {text[:-1]!r}, the network uses its recurrent weight W_hh (rnn.weight_hh_l0) {len(terms)} times. It is one matrix of",
        f"{w_hh.size:,} numbers, so its gradient is a sum of one term for each use:",
        "",
        "    dL/dW_hh = sum over t of (dL/da_t)^T h_(t-1)          a_t: the activation at time t, h_t = tanh(a_t)",
        "",
        "The terms are read off the reverse sweep and sorted by the time that the tape wrote on each operation. W_hh.grad is what",
        "loss.backward() found, and the last line what the equations of BPTT give in plain NumPy (nn.functional.rnn_bptt).",
        "The first term is zero because h_0 is. All in float64.",
        "",
    ]
    station("6  Where a gradient comes from")
    say(*about, *table)

    txt, spreadsheet = out / "bptt_terms.txt", out / "bptt_terms.csv"
    txt.write_text("\n".join(line.rstrip() for line in [*about, *table]) + "\n", encoding="utf-8")
    with spreadsheet.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["t", "reads", "predicts", "norm", entry])
        for t, term in terms.items():
            rows.writerow([t, text[t - 1], text[t], norms[t], float(term[i, j])])
    return [txt, spreadsheet]


# ---- How it prints ----------------------------------------------------------------------------------------------------------------


def say(*lines: str) -> None:
    """Print lines, indented beneath the heading of their station."""
    print(*(f"   {line}".rstrip() for line in lines), sep="\n", flush=True)


def station(title: str) -> None:
    """Print the heading of a station."""
    print(f"\n{title}\n", flush=True)


def bar(part: float, width: int) -> str:
    """A bar of that part of the width."""
    block = "█" if "utf" in (sys.stdout.encoding or "").lower() else "#"
    return block * max(round(part * width), int(part > 0))
