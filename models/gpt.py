"""GPT, a generative pre-trained transformer (Radford et al. 2018, 2019): a stack of causal attention that says at every position what comes next.

    x_t = embed(id_t) + p_t        x <- x + attention(norm(x)), looking at s <= t alone        x <- x + W_2 relu(W_1 norm(x))
    p(id_(t+1) | id_1 ... id_t) = softmax(W norm(x)_t)           trained on all t at once; it writes one symbol after the other

- T25a  "4715908236>6328095174": ten digits, then the same ones backwards. The part before ">" is the prompt, the part after it what is written.
- T25b  "thursday, 12 march 1998>1998-03-12": a language model of whole lines. Given what stands before ">" it goes on with the date as ISO 8601
        writes it; given nothing it makes up lines of its own, and most of them are true.
- J11   Prompt engineering: "c5a1h5f0 ... a1" the weights stay as they are, and more context makes better answers. In each line letters stand for
        digits drawn anew, so nothing can be known by heart. After n examples a letter was seen with probability 1 - (1 - 1/8)^n, and no reader can do
        better than to answer then, and to guess 1 of 8 digits otherwise: the bound is exact, and stands beside the figures.

Generation reads every symbol once: keys and values of what was read are kept (`cache`), and a new query looks at them.

Two things of the notes cannot be shown here. Prompt injection: there is no model here that follows instructions, so none that could be given false ones.
Language models of companies (the notes link to some): they are services, not systems that could be built.

Sources: CS540 (Wisconsin-Madison), "Transformers" and "Large language models"; Radford, Wu, Child, Luan, Amodei & Sutskever, Language models are
unsupervised multitask learners (2019); Brown et al., Language models are few-shot learners (2020) for J11.
"""

from __future__ import annotations

import datetime
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np

import tinygrad_seq as tg
from models import dates
from models.command_line import run_experiments
from models.experiment import Drawn, Experiment, Run, experiment
from tinygrad_seq import data, nn, optim, training
from tinygrad_seq.nn import functional as F

# ---- The model ----------------------------------------------------------------------------------------------------------------------------


class GPT(nn.Module):
    """Scores of the next symbol: V symbols, lines of at most T; ids (T, B) -> (T, B, V)."""

    def __init__(self, V: int, T: int, *, width: int, layers: int, heads: int, rng: np.random.Generator):
        layer = nn.TransformerEncoderLayer(width, heads, 4 * width, dropout=0.0, norm_first=True, rng=rng)
        self.embed, self.position = nn.Embedding(V, width, rng=rng), nn.LearnedPositions(T, width, rng=rng)
        self.blocks, self.score = nn.TransformerEncoder(layer, layers, nn.LayerNorm(width)), nn.Linear(width, V, rng=rng)
        for p in self.blocks.parameters():
            if p.ndim > 1:
                nn.init.xavier_uniform_(p, rng=rng)  # the copies that a stack is made of start equal
        for p in (self.embed.weight, self.position.weight):
            nn.init.normal_(p, 0, 0.1, rng=rng)

    def forward(self, ids: Any, cache: Any = None, start: int = 0) -> Any:
        """With a cache, of what stands before `start`: (scores, the cache with these ids in it)."""
        x = self.position(self.embed(ids), start)
        if cache is None:
            return self.score(self.blocks(x, is_causal=True))
        x, cache = self.blocks(x, is_causal=True, cache=cache)
        return self.score(x), cache

    def write(self, prompt: Any, count: int, *, temperature: float = 0.0, rng: np.random.Generator | None = None) -> Any:
        """Go on from a prompt (T, B): `count` symbols, each the likeliest one, or drawn at that temperature -> (count, B)."""
        written: list[Any] = []
        ids, read = np.asarray(prompt), 0
        with training.evaluating(self):
            cache = self.blocks.initial_cache(ids.shape[1])
            while len(written) < count:
                scores, cache = self(ids, cache, start=read)
                read += len(ids)
                ids = chosen(scores.numpy()[-1], temperature, rng)[None]
                written.append(ids[0])
        return np.stack(written)


def chosen(scores: Any, temperature: float, rng: np.random.Generator | None) -> Any:
    """The likeliest symbols (..., V) -> (...), or ones drawn from softmax(scores / temperature): the greatest after Gumbel noise is such a draw."""
    if temperature == 0:
        return scores.argmax(-1)
    return (scores / temperature + tg.random.generator(rng).gumbel(size=scores.shape)).argmax(-1)


def next_symbol_loss(last: int | None = None) -> Any:
    """Cross entropy of the symbols that come next, in nats; of the last ones of each line alone if told how many."""

    def loss(model: nn.Module, ids: Any) -> Any:
        begin = 0 if last is None else -last
        return F.cross_entropy(model(ids[:-1])[begin:], ids[1:][begin:])

    return loss


def trained(run: Run, name: str, model: GPT, loss: Any, batches: Any, steps: int, learning_rate: float) -> training.History:
    """AdamW with a warm-up of a tenth of the steps, then a cosine down to nothing."""
    adam = optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.01)
    schedule = optim.lr_scheduler.OneCycleLR(adam, learning_rate, total_steps=steps, pct_start=0.1)
    return run.fit(name, model, loss, adam, batches, steps=steps, schedule=schedule, clip_norm=1.0)


def attention_weights(model: GPT, ids: Any) -> dict[str, Any]:
    """What every head looks at while the model reads one line (T,): its name -> (queries, keys)."""
    found = {}
    with training.evaluating(model):
        x = model.position(model.embed(np.asarray(ids)[:, None]))
        for n, layer in enumerate(model.blocks.layers):
            y = layer.norm1(x)
            heads = layer.self_attn(y, y, y, average_attn_weights=False, is_causal=True)[1].numpy()[0]
            found |= {f"layer {n + 1}, head {k + 1}": head for k, head in enumerate(heads)}
            x = layer(x, is_causal=True)
    return found


# ---- T25a: reversal -----------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reversal:
    """The settings of T25a."""

    digits: int = 10
    width: int = 48
    layers: int = 2
    heads: int = 4
    steps: int = 200
    batch: int = 64
    learning_rate: float = 5e-3


def reversals(n: int, B: int, rng: np.random.Generator) -> Any:
    """B lines of n digits, ">" (which is 10), and the digits backwards: (2n + 1, B)."""
    digits = rng.integers(10, size=(n, B))
    return np.concatenate([digits, np.full((1, B), 10), digits[::-1]])


@experiment("T25a", "GPT: ten digits backwards", rows="J8, J4", quick=Reversal(steps=100), full=Reversal(), seconds=(4, 6))
def reversal(run: Run, config: Reversal) -> None:
    """The model writes ten unseen digits backwards; with the cache it writes what it writes without."""
    c, n = config, config.digits
    gpt = GPT(11, 2 * n + 1, width=c.width, layers=c.layers, heads=c.heads, rng=run.rng("gpt"))
    batches = Drawn(lambda rng: reversals(n, c.batch, rng), run.rng("lines"))
    history = trained(run, "gpt", gpt, next_symbol_loss(n), batches, c.steps, c.learning_rate)

    lines = reversals(n, 500, run.rng("test"))
    prompt, answer = lines[: n + 1], lines[n + 1 :]
    written = gpt.write(prompt, n)
    run.result(f"GPT: {n} digits all written backwards, of 500 lines", (written == answer).all(axis=0).mean(), at_least=0.99)
    run.result("a single digit, guessed", 0.1)
    with training.evaluating(gpt):
        at_once = gpt(np.concatenate([prompt, written[:-1]])).numpy()[n:].argmax(-1)
    run.result("symbols that differ when the whole line is read again for each", (at_once != written).sum(), at_most=0)
    text = "".join("0123456789>"[i] for i in lines[:, 0])
    run.figure("training.svg", lambda: tg.plot.training(history))
    run.figure("attention.svg", lambda: tg.plot.attention(attention_weights(gpt, lines[:-1, 0]), list(text[:-1]), list(text[:-1])))


# ---- T25b: dates --------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DateLines:
    """The settings of T25b."""

    lines: int = 12000
    held_out: int = 500
    width: int = 48
    layers: int = 2
    heads: int = 4
    steps: int = 1000
    batch: int = 32
    learning_rate: float = 5e-3


ISO = len("1998-03-12")
DAYS = (datetime.date(2025, 12, 31) - datetime.date(1970, 1, 1)).days + 1
WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


def date_lines(found: dates.Dates) -> tuple[data.Vocabulary, Any]:
    """Lines "written>iso" that end at the same place, with line breaks before them: their symbols, and ids (T, N)."""
    lines = [f"{written}>{iso}" for written, iso in zip(*found, strict=True)]
    T = max(map(len, lines)) + 1
    vocabulary = data.Vocabulary.of("\n" + "".join(lines))
    return vocabulary, np.stack([vocabulary.encode(line.rjust(T, "\n")) for line in lines], axis=1)


def is_true(line: str, weekday: bool = True) -> bool:
    """Whether a line says of a date, in one of the formats, how ISO writes it; the day of the week counts or does not."""
    written, _, iso = line.partition(">")
    try:
        day = datetime.date.fromisoformat(iso)
    except ValueError:
        return False

    def said(text: str) -> str:
        return text if weekday or text[:3] not in WEEKDAYS else text.partition(" ")[2]

    return len(iso) == ISO and any(said(dates.written(day, kind)) == said(written) for kind in dates.FORMATS)


@experiment("T25b", "GPT: dates, read and made up", rows="J8", quick=DateLines(steps=220), full=DateLines(), seconds=(7, 28))
def date_model(run: Run, config: DateLines) -> None:
    """The model turns held out dates into ISO 8601; its surprise stands beside that of n-grams; lines drawn from it are checked."""
    c = config
    vocabulary, lines = date_lines(dates.load(c.lines, run.rng("dates")))
    learned, held_out = lines[:, c.held_out :], lines[:, : c.held_out]
    gpt = GPT(len(vocabulary), len(lines), width=c.width, layers=c.layers, heads=c.heads, rng=run.rng("gpt"))
    batches = Drawn(lambda rng: learned[:, rng.integers(learned.shape[1], size=c.batch)], run.rng("lines"))
    history = trained(run, "gpt", gpt, next_symbol_loss(), batches, c.steps, c.learning_rate)

    prompt, answer = held_out[:-ISO], held_out[-ISO:]
    exact = (gpt.write(prompt, ISO) == answer).all(axis=0).mean()
    run.result(f"GPT: dates all right, of {c.held_out} held out", exact, at_least=0.95, quick=0.4)
    with training.evaluating(gpt):
        bits = float(F.cross_entropy(gpt(held_out[:-1]), held_out[1:])) * (len(lines) - 1) / np.log(2)
    run.result("GPT: bits per held out line, its place and length included", bits, at_most=21, quick=25)
    run.result("there are so many dates and formats, in bits", np.log2(DAYS * len(dates.FORMATS)))
    streams = [as_stream(part, vocabulary) for part in (learned, held_out)]
    for order in (3, 5, 7):
        each = data.ngram_bits(*streams, order, len(vocabulary)) * len(streams[1]) / c.held_out
        run.result(f"{order}-gram: bits per held out line", each)

    def drawn(temperature: float) -> list[str]:
        begin = np.full((1, 300), vocabulary.encode("\n")[0])
        ids = gpt.write(begin, len(lines) - 1, temperature=temperature, rng=run.rng("drawn"))
        return [vocabulary.decode(column).lstrip("\n") for column in ids.T]

    texts = drawn(1.0)
    agree, true = [np.mean([is_true(text, weekday) for text in texts]) for weekday in (False, True)]
    run.result("drawn at temperature 1: both sides of > agree, of 300", agree, at_least=0.8, quick=0.05)
    run.result("... and the day of the week is right", true)
    old = {vocabulary.decode(column).lstrip("\n") for column in learned.T}
    run.result("... and it was not learned from", np.mean([is_true(text) and text not in old for text in texts]))
    cool = np.mean([is_true(text, False) for text in drawn(0.5)])
    run.result("drawn at temperature 0.5: both sides of > agree", cool)
    run.note("Days of the week it guesses: on which one a date falls is a calculation that it has not learned.")
    run.write("drawn.txt", "\n".join(f"{'true ' if is_true(text) else 'FALSE'}  {text}" for text in texts))
    run.show("\n".join(texts[:5]))
    run.figure("training.svg", lambda: tg.plot.training(history))


def as_stream(lines: Any, vocabulary: data.Vocabulary) -> Any:
    """Lines (T, N) one after the other, one line break before each."""
    return vocabulary.encode("".join("\n" + vocabulary.decode(column).lstrip("\n") for column in lines.T))


# ---- J11: examples in the prompt ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Lookup:
    """The settings of J11."""

    kinds: int = 8  # letters, and digits
    examples: int = 16  # at most, in training
    width: int = 32
    layers: int = 2
    heads: int = 2
    steps: int = 600
    batch: int = 128
    learning_rate: float = 5e-3


COUNTS = (0, 1, 2, 4, 8, 16)  # of examples in a prompt of the test


def lookups(kinds: int, examples: int, B: int, rng: np.random.Generator) -> Any:
    """B lines: so many examples (one symbol for each pair of a letter and its digit), a letter that is asked for, its digit.

    What letters stand for is drawn anew in each line. (examples + 2, B); symbols: kinds² pairs, then kinds letters, then kinds digits.
    """
    meaning = rng.integers(kinds, size=(kinds, B))
    letters, asked = rng.integers(kinds, size=(examples, B)), rng.integers(kinds, size=(1, B))
    shown = letters * kinds + np.take_along_axis(meaning, letters, 0)
    return np.concatenate([shown, kinds**2 + asked, kinds**2 + kinds + np.take_along_axis(meaning, asked, 0)])


@experiment(
    "J11", "A prompt with more examples, the same weights", rows="J11", quick=Lookup(steps=400), full=Lookup(), seconds=(6, 9)
)
def prompting(run: Run, config: Lookup) -> None:
    """More examples in the prompt give better answers, as good as they can be, and no weight changes."""
    c = config
    gpt = GPT(c.kinds * (c.kinds + 2), c.examples + 2, width=c.width, layers=c.layers, heads=c.heads, rng=run.rng("gpt"))

    def drawn(rng: np.random.Generator) -> Any:
        return lookups(c.kinds, int(rng.integers(c.examples + 1)), c.batch, rng)

    trained(run, "gpt", gpt, next_symbol_loss(1), Drawn(drawn, run.rng("lines")), c.steps, c.learning_rate)

    before, right, possible = gpt.state_dict(), [], []
    for n in COUNTS:
        lines = lookups(c.kinds, n, 2000, run.rng(f"{n} examples"))
        right.append(float((gpt.write(lines[:-1], 1) == lines[-1:]).mean()))
        seen = 1 - (1 - 1 / c.kinds) ** n
        possible.append(seen + (1 - seen) / c.kinds)
        examples = "1 example" if n == 1 else f"{n} examples"
        run.result(f"{examples}: right answers, of 2,000", right[-1])
        run.result(f"{examples}: the most that can be expected", possible[-1])
    run.result("furthest below the most that can be expected", np.max(np.subtract(possible, right)), at_most=0.05, quick=0.1)
    run.result("smallest gain from one prompt to the next longer one", np.diff(right).min(), at_least=0.05)
    changed = sum(array.tobytes() != before[name].tobytes() for name, array in gpt.state_dict().items())
    run.result("arrays of weights that changed by prompting", changed, at_most=0)
    run.note("What can be expected is exact on average; of 2,000 answers one or two in a hundred more may be right by chance.")
    run.figure(
        "examples.svg", lambda: curve(np.stack([right, possible], axis=1), ["right answers", "the most that can be expected"])
    )


def curve(lines: Any, labels: list[str]) -> Any:
    """A figure of answers by the number of examples."""
    plot = tg.plot.trajectories(lines, labels=labels)
    axes = plot.figure.axes[0]
    axes.set(xlabel="examples in the prompt", ylabel="right", ylim=(0, 1))
    axes.set_xticks(range(len(COUNTS)), [str(n) for n in COUNTS])
    return plot


# ---- The command --------------------------------------------------------------------------------------------------------------------------

EXPERIMENTS: list[Experiment] = [reversal, date_model, prompting]


def main(argv: list[str] | None = None) -> int:
    """Run the experiments; `--help` names the options."""
    return run_experiments(__doc__, EXPERIMENTS, argv)


if __name__ == "__main__":
    sys.exit(main())
