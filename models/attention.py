"""Attention (Bahdanau, Cho & Bengio 2015; Luong, Pham & Manning 2015): a decoder that looks at all that was read, at each letter anew.

    e_1 ... e_S = BiLSTM(x_1 ... x_S)               the source, read from the left and from the right             (encoder)
    d_1 ... d_T = LSTM(y_0 ... y_(T-1))             the target, y_0 = <start>; it starts with the last states     (decoder)
                                                    of the encoder, both directions side by side
    a_ts = softmax_s(d_t^T W e_s)                   how much letter t looks at letter s; a_t1 + ... + a_tS = 1    ("general" attention)
    c_t  = a_t1 e_1 + ... + a_tS e_S                what it sees there                                            (context)
    o_t  = V tanh(U [c_t; d_t] + u) + v             the scores of letter t

Without attention there is no c_t: all input is encoded in the last states ("difficult", say the notes) with which the decoder starts.
As a_t depends on no earlier c (Luong's order), the decoder runs over a whole target at once while it learns.

- T18 Dates as people write them, in eleven ways, to ISO 8601: "thursday, 12 march 1998" -> "1998-03-12". With attention at least 99 % of 500 dates
      that were held out are right in every letter; the same network without it, after the same steps, fails. The letters of the month look at the
      month in the source; nobody told them where it is.

Known beforehand: difficult is not impossible. That the network without attention fails is a claim about a narrow state and few steps, H = 16 and 550:
a wider state and the same steps bring far more, and so do more steps, or another way to use the last states, as a context c that is the same for all
letters (Cho et al. 2014). These three stand in the table, with nothing to reach.
The 500 dates are lines that were not learned from; of many of them the same day was, written in another way.
Sources: the two papers above; Cho et al., Learning phrase representations using RNN encoder-decoder, 2014; CS760, "Seq2seq", "Attention".
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np

import tinygrad_seq as tg
from models import dates
from models.command_line import run_experiments
from models.experiment import Experiment, Run, experiment
from tinygrad_seq import data, nn, optim, training
from tinygrad_seq.nn import functional as F

# ---- The model ----------------------------------------------------------------------------------------------------------------------------


class Translator(nn.Module):
    """An encoder and a decoder. context: "attention", "none", or "last", the last states for all letters."""

    def __init__(self, source: int, target: int, E: int, H: int, *, context: str, rng: np.random.Generator):
        self.context = context
        self.read, self.write = nn.Embedding(source, E, rng=rng), nn.Embedding(target, E, rng=rng)
        self.encoder, self.decoder = nn.LSTM(E, H, bidirectional=True, rng=rng), nn.LSTM(E, 2 * H, rng=rng)
        self.attention = nn.BilinearAttention(2 * H, 2 * H, rng=rng) if context == "attention" else None
        self.combine = nn.Linear(2 * H if context == "none" else 4 * H, 2 * H, rng=rng)
        self.score = nn.Linear(2 * H, target, rng=rng)

    def encode(self, source: Any, lengths: Any) -> tuple[Any, Any]:
        """Letters (S, B) -> all states (S, B, 2H), and the last of both directions: h and c, (1, B, 2H)."""
        memory, last = self.encoder(self.read(source), lengths=lengths)
        return memory, tuple(tg.concatenate([x[:1], x[1:]], axis=-1) for x in last)

    def decode(self, ys: Any, state: Any, memory: Any, lengths: Any, last: Any) -> tuple[Any, Any, Any]:
        """Letters written so far (T, B) -> scores of the next ones (T, B, V), attention (T, B, S) or None, and the state to go on from."""
        ds, state = self.decoder(self.write(ys), state)
        weights = None
        if self.attention is not None:
            context, weights = self.attention(ds, memory, lengths=lengths)
            ds = tg.concatenate([context, ds], axis=-1)
        elif self.context == "last":
            ds = tg.concatenate([tg.broadcast_to(last[0], ds.shape), ds], axis=-1)
        return self.score(tg.tanh(self.combine(ds))), weights, state

    def forward(self, source: Any, lengths: Any, ys: Any) -> Any:
        """The scores of a whole target at once, each letter told what stood before it ("teacher forcing")."""
        memory, last = self.encode(source, lengths)
        return self.decode(ys, last, memory, lengths, last)[0]


def write(model: Translator, source: Any, lengths: Any, letters: data.Vocabulary, longest: int = 16) -> tuple[list[str], Any]:
    """Always the most probable letter, until every row has written <end>: the texts, and the attention of each letter (T, B, S)."""
    start, end = letters.encode([letters.start, letters.end])
    with training.evaluating(model):
        memory, last = model.encode(source, lengths)
        state, ids, looks = last, [np.full(source.shape[1], start)], []
        while len(ids) <= longest and not (np.array(ids) == end).any(axis=0).all():
            scores, weights, state = model.decode(ids[-1][None], state, memory, lengths, last)
            ids.append(scores[0].numpy().argmax(axis=-1))
            looks.append(None if weights is None else weights[0].numpy())
    texts = [letters.decode(row).split(str(letters.end))[0] for row in np.array(ids[1:]).T]
    return texts, None if model.attention is None else np.array(looks)


# ---- T18: dates ---------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DatesToISO:
    """The settings of T18."""

    dates: int = 12_000
    held_out: int = 500
    embed: int = 32  # E
    hidden: int = 16  # H of each direction of the encoder; the decoder has 2H
    steps: int = 550
    batch: int = 128
    learning_rate: float = 1e-2
    longer: int = 3  # so many times the steps, for the network without attention
    wider: int = 64  # H of one more network without attention


MONTH = re.compile(r"(jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*|^\d+(?=/)|(?<=\.)\d+(?=\.)")


def month_in(written: str) -> slice:
    """Where the month stands in a date: "12 march 1998", "3/12/98" or "12.03.1998"."""
    found = MONTH.search(written)
    assert found is not None, written
    return slice(*found.span())


def letters_loss(model: Translator, batch: Any) -> Any:
    """Cross entropy of every letter of the target, given those before it."""
    source, lengths, ys = batch
    return F.cross_entropy(model(source, lengths, ys[:-1]), ys[1:])


@experiment(
    "T18",
    "Dates to ISO 8601, with attention and without",
    rows="G1, G2, G3, G4, G8",
    quick=DatesToISO(dates=3000, held_out=200, hidden=24, steps=250, batch=64, longer=1, wider=0),
    full=DatesToISO(),
    seconds=(9, 40),
)
def dates_to_iso(run: Run, config: DatesToISO) -> None:
    """Three networks that differ in what their decoder sees of the source, with the same steps."""
    c = config
    known = dates.load(c.dates + c.held_out, run.rng("dates"))
    sources = data.Vocabulary.of("".join(known.written), padding="<pad>", end="<end>")
    letters = data.Vocabulary("0123456789-", start="<start>", end="<end>")
    pairs = [
        (sources.encode(written, end=True), letters.encode(iso, start=True, end=True))
        for written, iso in zip(known.written, known.iso, strict=True)
    ]

    def side_by_side(items: list[Any]) -> tuple[Any, Any, Any]:
        source, lengths = data.pad([source for source, _ in items])
        return source, lengths, np.stack([target for _, target in items], axis=1)

    def trained(context: str, steps: int, hidden: int = c.hidden) -> Translator:
        name = f"{context}, {steps}" if hidden == c.hidden else f"{context}, {steps}, H={hidden}"
        rng = run.rng(name)
        model = Translator(len(sources), len(letters), c.embed, hidden, context=context, rng=rng)
        adam = optim.Adam(model.parameters(), lr=c.learning_rate)
        lengths = [len(source) for source, _ in pairs[: c.dates]]
        batches = data.Loader(pairs[: c.dates], c.batch, shuffle=True, collate=side_by_side, lengths=lengths, rng=rng)
        schedule = optim.lr_scheduler.OneCycleLR(adam, c.learning_rate, total_steps=steps)
        run.fit(name.replace(",", ""), model, letters_loss, adam, batches, steps=steps, schedule=schedule, clip_norm=1.0)
        return model

    written, iso = known.written[c.dates :], known.iso[c.dates :]
    source, lengths, _ = side_by_side(pairs[c.dates :])

    def right(model: Translator) -> float:
        return float(np.mean([said == true for said, true in zip(write(model, source, lengths, letters)[0], iso, strict=True)]))

    attentive = trained("attention", c.steps)
    run.result(f"with attention: dates right of {c.held_out} held out", right(attentive), at_least=0.99, quick=0.6)
    run.result(f"without attention, the same {c.steps} steps", right(trained("none", c.steps)), at_most=0.5)
    run.result("without, the last states told to every letter", right(trained("last", c.steps)))
    if c.longer > 1:
        run.result(f"without, {c.longer} times the steps", right(trained("none", c.longer * c.steps)))
    if c.wider > c.hidden:
        run.result(f"without, the same steps, H={c.wider}", right(trained("none", c.steps, c.wider)))

    said, weights = write(attentive, source, lengths, letters)
    run.result("attention: how far its rows are from adding up to 1", abs(weights.sum(axis=-1) - 1).max(), at_most=1e-5)
    on_month = np.mean([weights[5:7, b, month_in(text)].sum(axis=-1).mean() for b, text in enumerate(written)])
    by_chance = np.mean([len(text[month_in(text)]) / (len(text) + 1) for text in written])
    run.result("attention of the two digits of the month on the month in the source", on_month, at_least=0.5, quick=0.4)
    run.result("the same if it were even", by_chance)
    rows = [("read", "written", "right"), *zip(written, said, iso, strict=True)]
    run.write("dates.txt", "".join(f"{text:32} {one:10}  {true}\n" for text, one, true in rows))

    for name, kind in (("alignment.svg", "full"), ("alignment_of_numbers.svg", "/")):
        b = next(b for b, text in enumerate(written) if (kind in text if kind == "/" else re.match("[a-z]+, [a-z]+", text)))
        run.figure(name, lambda b=b: alignment(weights[:, b], said[b], written[b]))
    short, its = sources.encode("3/98", end=True)[:, None], letters.encode("199", start=True)[:, None]
    run.figure("unfolded.svg", lambda: drawing(attentive, short, its))


def alignment(weights: Any, said: str, written: str) -> Any:
    """The heat map of one date: a row for each letter that was written, a column for each that was read."""
    rows, columns = [*said, "<end>"], [*written.replace(" ", "␣"), "<end>"]
    return tg.plot.attention(weights[: len(rows), : len(columns)], queries=rows, keys=columns)


def drawing(model: Translator, source: Any, ys: Any) -> Any:
    """The network unfolded: an edge of attention is as wide as its weight. source (S, 1), ys (T, 1), of which the first is <start>."""
    E, H = model.decoder.input_size, model.decoder.hidden_size
    cell = nn.LSTMCell(E, H)  # the decoder, called step by step
    cell.load_state_dict({name.removesuffix("_l0"): weight for name, weight in model.decoder.state_dict().items()})
    memory, (h, c) = model.encode(source, None)
    state, losses = (h[0], c[0]), []
    for y, target in zip(tg.steps(ys[:-1]), ys[1:], strict=True):
        state = cell(model.write(y), state)
        context, _ = model.attention(state[0], memory)
        combined = tg.tanh(model.combine(tg.concatenate([context, state[0]], axis=-1)))
        losses.append(F.cross_entropy(model.score(combined), target))
    return tg.draw(sum(losses), level="cells")


# ---- The command --------------------------------------------------------------------------------------------------------------------------

EXPERIMENTS: list[Experiment] = [dates_to_iso]


def main(argv: list[str] | None = None) -> int:
    """Run the experiments; `--help` names the options."""
    return run_experiments(__doc__, EXPERIMENTS, argv)


if __name__ == "__main__":
    sys.exit(main())
