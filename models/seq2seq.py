"""Encoder and decoder (Sutskever, Vinyals & Le 2014; Cho et al. 2014): one recurrent net reads a sequence, another writes one.

    e_s = LSTM(x_s, e_(s-1))         s = 1 ... S       x_S = <end>: here the encoding ends                                (encoder)
    d_t = LSTM(y_(t-1), d_(t-1))     d_0 = e_S         y_0 = <start>; the decoding ends when y_t = <end> is generated     (decoder)
    P(y_t | y_1 ... y_(t-1), x) = softmax(V d_t + v)

All input is encoded in the last state e_S, whatever its length: a bottleneck ("difficult", say the notes). Greedy decoding takes the most probable
y_t each time; beam search keeps the K most probable beginnings, and finds texts that begin worse and end better.

- G8  Machine translation in miniature: numbers as English writes them to digits, "twelve thousand and seven" -> "12007", word by word to digit by digit.
- G2  The bottleneck: strings of letters to be written in reverse. As they get longer the share of strings that are right falls, the sooner the
      narrower the state; the encoder-decoder has to hold all letters at once.

Sources: the two papers above; CS760, "Seq2seq"; for attention, which does away with the bottleneck, see attention.py.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

import tinygrad_seq as tg
from models.command_line import run_experiments
from models.experiment import Drawn, Experiment, Run, canvas, experiment, needed
from tinygrad_seq import data, nn, optim, training
from tinygrad_seq.nn import functional as F

# ---- The model ----------------------------------------------------------------------------------------------------------------------------


class Seq2Seq(nn.Module):
    """An encoder, and a decoder that knows of the source what the encoder's last state tells."""

    def __init__(self, source: int, target: int, E: int, H: int, *, rng: np.random.Generator):
        self.read, self.encoder = nn.Embedding(source, E, rng=rng), nn.LSTM(E, H, rng=rng)
        self.write, self.decoder = nn.Embedding(target, E, rng=rng), nn.LSTM(E, H, rng=rng)
        self.score = nn.Linear(H, target, rng=rng)

    def encode(self, source: Any, lengths: Any = None) -> Any:
        """Tokens (S, B) -> the last state, an LSTM's h and c, each (1, B, H)."""
        return self.encoder(self.read(source), lengths=lengths)[1]

    def decode(self, ys: Any, state: Any) -> tuple[Any, Any]:
        """Tokens written (T, B) -> scores of the tokens that follow them (T, B, V), and the state to go on from."""
        ds, state = self.decoder(self.write(ys), state)
        return self.score(ds), state

    def forward(self, source: Any, lengths: Any, ys: Any) -> Any:
        """The scores of a whole target at once, each token told what stood before it ("teacher forcing")."""
        return self.decode(ys, self.encode(source, lengths))[0]


def sequence_loss(model: Seq2Seq, batch: Any) -> Any:
    """-log P(target | source), the mean over all tokens of all targets, their <end> among them."""
    source, lengths, ys, target_lengths = batch
    return F.over_time(F.cross_entropy, model(source, lengths, ys[:-1]), ys[1:], target_lengths - 1)


# ---- Decoding -----------------------------------------------------------------------------------------------------------------------------


class Written(NamedTuple):
    """What a decoder wrote: tokens, the last of them <end> unless it went on for too long, and log P(tokens | source)."""

    tokens: list[int]
    log_p: float


def greedy(model: Seq2Seq, source: Any, lengths: Any, start: int, end: int, longest: int) -> list[Written]:
    """For every source of a batch (S, B) always the most probable token, until it is <end>."""
    with training.evaluating(model):
        state, ys = model.encode(source, lengths), np.full((1, source.shape[1]), start)
        tokens, log_ps = [], []
        while len(tokens) < longest and not (np.array(tokens) == end).any(axis=0).all():
            scores, state = model.decode(ys, state)
            log_p = F.log_softmax(scores, axis=-1).numpy()[0]  # (B, V)
            ys = log_p.argmax(axis=-1)[None]
            tokens.append(ys[0])
            log_ps.append(log_p.max(axis=-1))
    ends = [(row.tolist() + [end]).index(end) + 1 for row in np.array(tokens).T]
    return [Written([int(y[b]) for y in tokens[:n]], float(sum(p[b] for p in log_ps[:n]))) for b, n in enumerate(ends)]


def beam(model: Seq2Seq, source: Any, start: int, end: int, longest: int, width: int) -> list[Written]:
    """Beam search for one source (S, 1): the texts that it found, the most probable first.

    Of all beginnings, each with each next token, the `width` most probable go on; those that wrote <end> are done. It stops when no
    beginning is more probable than the best that is done: a text can only become less probable.
    """
    with training.evaluating(model):
        state, begun, done = model.encode(source), [Written([], 0.0)], []
        for _ in range(longest):
            ys = np.array([[text.tokens[-1] if text.tokens else start for text in begun]])
            scores, state = model.decode(ys, state)
            log_p = np.array([[text.log_p] for text in begun]) + F.log_softmax(scores, axis=-1).numpy()[0]  # (beginnings, V)
            best = np.argsort(-log_p, axis=None, kind="stable")[:width]
            rows, tokens = np.unravel_index(best, log_p.shape)
            going_on = tokens != end
            texts = [Written([*begun[k].tokens, int(y)], float(log_p[k, y])) for k, y in zip(rows, tokens, strict=True)]
            done += [text for text, more in zip(texts, going_on, strict=True) if not more]
            begun = [text for text, more in zip(texts, going_on, strict=True) if more]
            if not begun or (done and max(done, key=lambda text: text.log_p).log_p >= begun[0].log_p):
                break
            state = tuple(x[:, rows[going_on]] for x in state)
    return sorted(done or begun, key=lambda text: -text.log_p)


# ---- G8: numbers in words to digits -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class NumberWords:
    """The settings of G8."""

    numbers: int = 10_000  # to learn from
    held_out: int = 500
    embed: int = 32  # E
    hidden: int = 96  # H
    steps: int = 1000
    batch: int = 64
    learning_rate: float = 5e-3
    width: int = 4  # of the beam


def number_words(count: int, rng: np.random.Generator) -> list[tuple[str, str]]:
    """Different numbers below a million, as many of few digits as of many as far as there are: ("twelve thousand and seven", "12007")."""
    num2words = needed("num2words", "num2words").num2words
    numbers: dict[int, None] = {}
    while len(numbers) < count:
        numbers[int(rng.integers(10 ** int(rng.integers(1, 7))))] = None
    return [(num2words(n).replace("-", " ").replace(",", ""), str(n)) for n in numbers]


@experiment(
    "G8",
    "Translation: numbers in words to digits",
    rows="G1, G8",
    quick=NumberWords(numbers=3000, held_out=100, steps=300),
    full=NumberWords(),
    seconds=(5, 15),
)
def translation(run: Run, config: NumberWords) -> None:
    """Greedy decoding, and a beam."""
    c = config
    pairs = number_words(c.numbers + c.held_out, run.rng("numbers"))
    words = data.Vocabulary.of(" ".join(text for text, _ in pairs), kind="words", padding="<pad>", end="<end>")
    digits = data.Vocabulary("0123456789", padding="<pad>", start="<start>", end="<end>")
    encoded = [(words.encode(text, end=True), digits.encode(number, start=True, end=True)) for text, number in pairs]
    known, new = encoded[: c.numbers], encoded[c.numbers :]

    rng = run.rng("model")
    model = Seq2Seq(len(words), len(digits), c.embed, c.hidden, rng=rng)
    adam = optim.Adam(model.parameters(), lr=c.learning_rate)
    batches = data.Loader(known, c.batch, shuffle=True, collate=padded, lengths=[len(text) for text, _ in known], rng=rng)
    schedule = optim.lr_scheduler.OneCycleLR(adam, c.learning_rate, total_steps=c.steps)
    history = run.fit("model", model, sequence_loss, adam, batches, steps=c.steps, schedule=schedule, clip_norm=1.0)

    start, end = digits.encode([digits.start, digits.end])
    source, lengths, _, _ = padded(new)
    said = greedy(model, source, lengths, start, end, longest=12)
    beams = [beam(model, text[:, None], start, end, longest=12, width=c.width)[0] for text, _ in new]

    def right(texts: list[Written]) -> float:
        return float(np.mean([text.tokens == target[1:].tolist() for text, (_, target) in zip(texts, new, strict=True)]))

    run.result(f"numbers right of {c.held_out} held out, greedy", right(said), at_least=0.9, quick=0.3)
    run.result(f"numbers right, beam of {c.width}", right(beams), at_least=0.9, quick=0.3)
    run.result("share of texts that <end> ends, greedy", np.mean([text.tokens[-1] == end for text in said]), at_least=0.99)
    run.result("mean log-probability of what was written, greedy", np.mean([text.log_p for text in said]))
    run.result(f"the same, beam of {c.width}", np.mean([text.log_p for text in beams]))
    texts = [[digits.decode(text.tokens, specials=False) for text in found] for found in (said, beams)]
    rows = [(number, *both, source) for (source, number), *both in zip(pairs[c.numbers :], *texts, strict=True)]
    lines = [f"{a:>6}  {b:>6}  {d:>6}  {source}" for a, b, d, source in [("number", "greedy", "beam", "in words"), *rows]]
    run.write("numbers.txt", "\n".join(lines) + "\n")
    run.show("\n".join(["", *lines[:6], ""]))
    run.figure("training.svg", lambda: tg.plot.training(history))


def padded(pairs: list[Any]) -> tuple[Any, Any, Any, Any]:
    """Sources and targets side by side: tokens (S, B), lengths (B,), tokens (T, B), lengths (B,)."""
    return *data.pad([source for source, _ in pairs]), *data.pad([target for _, target in pairs])


# ---- G2: the bottleneck -------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reversal:
    """The settings of G2."""

    letters: int = 10
    longest: int = 16  # letters in training, from 1 to this; in the test, too
    narrow: int = 16  # H of one network
    wide: int = 128  # and of the other
    embed: int = 16  # E
    steps: int = 1500
    batch: int = 64
    learning_rate: float = 5e-3
    tested: int = 200  # strings of each length


def reversed_strings(lengths: Any, letters: int, rng: np.random.Generator) -> tuple[Any, Any, Any, Any]:
    """Random strings of these lengths, each with <end>, and the same in reverse between <start> and <end>, as `padded` gives them.

    Token 0 is padding, 1 <start>, 2 <end>; the letters are 3, 4, ...
    """
    strings = [rng.integers(3, 3 + letters, n) for n in lengths]
    return padded([(np.append(string, 2), np.concatenate([[1], string[::-1], [2]])) for string in strings])


@experiment(
    "G2",
    "The bottleneck: strings in reverse, by length",
    rows="G1, G2",
    quick=Reversal(longest=8, narrow=8, wide=64, steps=500, tested=100),
    full=Reversal(),
    seconds=(8, 41),
)
def bottleneck(run: Run, config: Reversal) -> None:
    """A narrow state and a wide one, the same strings and the same steps."""
    c = config

    def drawn(rng: np.random.Generator) -> Any:
        return reversed_strings(rng.integers(1, c.longest + 1, c.batch), c.letters, rng)

    right: dict[int, list[float]] = {}
    for H in (c.narrow, c.wide):
        model = Seq2Seq(3 + c.letters, 3 + c.letters, c.embed, H, rng=run.rng(f"H={H}"))
        adam = optim.Adam(model.parameters(), lr=c.learning_rate)
        schedule = optim.lr_scheduler.OneCycleLR(adam, c.learning_rate, total_steps=c.steps)
        batches = Drawn(drawn, run.rng("strings"))
        run.fit(f"H={H}", model, sequence_loss, adam, batches, steps=c.steps, schedule=schedule, clip_norm=1.0)
        right[H] = [share_in_reverse(model, n, c, run.rng(f"{n} letters")) for n in range(1, c.longest + 1)]
        run.show(f"  H={H}, right of 1, 2, ... letters: " + " ".join(f"{share:.2f}" for share in right[H]))

    def length_held(H: int) -> int:
        return next((n for n, share in enumerate(right[H]) if share < 0.9), c.longest)

    run.result(f"H={c.narrow}: up to so many letters 90 % of all strings are right", length_held(c.narrow), at_most=5)
    run.result(f"H={c.wide}: up to so many", length_held(c.wide), at_least=8, quick=3)
    run.result(f"H={c.narrow}: strings of {c.longest} letters right", right[c.narrow][-1], at_most=0.05)
    run.result(f"H={c.wide}: strings of {c.longest} letters right", right[c.wide][-1])
    run.figure("by_length.svg", lambda: by_length(right))
    run.figure("unfolded.svg", lambda: drawing(model))


def share_in_reverse(model: Seq2Seq, n: int, c: Reversal, rng: np.random.Generator) -> float:
    """The share of strings of n letters that the model writes in reverse without an error, and ends there."""
    source, lengths, ys, _ = reversed_strings([n] * c.tested, c.letters, rng)
    said = greedy(model, source, lengths, start=1, end=2, longest=n + 2)
    return float(np.mean([text.tokens == target.tolist() for text, target in zip(said, ys[1:].T, strict=True)]))


def by_length(right: dict[int, list[float]]) -> Any:
    """The share of strings that are right over their length, a line for each width of the state: a matplotlib Figure."""
    drawn = canvas(5, 3)
    axes = drawn.add_subplot(xlabel="letters", ylabel="strings right", ylim=(-0.03, 1.03))
    for (H, shares), line in zip(right.items(), ("--", "-"), strict=True):
        axes.plot(range(1, len(shares) + 1), shares, line, color="black", label=f"H = {H}")
    axes.legend()
    return drawn


def drawing(model: Seq2Seq) -> Any:
    """The encoder-decoder unfolded over three letters and <end>: all that the decoder knows of them passes from one LSTM to the other."""
    source, _, ys, _ = reversed_strings([3], 10, np.random.default_rng(0))
    (h, c), losses = (x[0] for x in model.encode(source)), []
    cell = nn.LSTMCell(model.decoder.input_size, model.decoder.hidden_size)  # the decoder, called step by step
    cell.load_state_dict({name.removesuffix("_l0"): weight for name, weight in model.decoder.state_dict().items()})
    for y, target in zip(tg.steps(ys[:-1]), ys[1:], strict=True):
        h, c = cell(model.write(y), (h, c))
        losses.append(F.cross_entropy(model.score(h), target))
    return tg.draw(sum(losses), level="cells")


# ---- The command --------------------------------------------------------------------------------------------------------------------------

EXPERIMENTS: list[Experiment] = [translation, bottleneck]


def main(argv: list[str] | None = None) -> int:
    """Run the experiments; `--help` names the options."""
    return run_experiments(__doc__, EXPERIMENTS, argv)


if __name__ == "__main__":
    sys.exit(main())
