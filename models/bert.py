"""BERT, a bidirectional encoder (Devlin, Chang, Lee & Toutanova 2019): a stack of attention that looks both ways and fills in what was hidden.

    x_t = embed(id_t) + p_t        x <- x + attention(norm(x)), looking at all s        x <- x + W_2 relu(W_1 norm(x))
    p(id_m | all but id_m) = softmax(W norm(x)_m) at the place m that reads [MASK]

- T26  Cloze: palindromes of twelve symbols, one of the first six hidden. "c a f b h [d] d h b f a c": what is hidden stands in the second half.
       Looking both ways it is known; looking back alone (the mask of a GPT: no key later than the query) it can only be guessed, since the first six
       are drawn independently: 1 of 8, exactly. Both get the same weights to begin with, the same lines and the same steps.

BERT hides 15 symbols of 100, some by [MASK] and some by another symbol; here one is hidden in every line, so that what can be known is exact.
What is learned like this and then used for something else: fine-tuning, models/finetune.py.
Sources: CS540 (Wisconsin-Madison), "Large language models"; Devlin et al., BERT: pre-training of deep bidirectional transformers (2019).
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

# ---- The model ----------------------------------------------------------------------------------------------------------------------------


class Encoder(nn.Module):
    """Scores of V symbols at every place, ids (T, B) -> (T, B, V). causal: each place sees those before it and itself alone, as in a GPT."""

    def __init__(self, V: int, T: int, *, width: int, layers: int, heads: int, causal: bool, rng: np.random.Generator):
        layer = nn.TransformerEncoderLayer(width, heads, 4 * width, dropout=0.0, norm_first=True, rng=rng)
        self.embed, self.position = nn.Embedding(V, width, rng=rng), nn.LearnedPositions(T, width, rng=rng)
        self.blocks, self.score = nn.TransformerEncoder(layer, layers, nn.LayerNorm(width)), nn.Linear(width, V, rng=rng)
        self.causal = causal
        for p in self.blocks.parameters():
            if p.ndim > 1:
                nn.init.xavier_uniform_(p, rng=rng)  # the copies that a stack is made of start equal
        for p in (self.embed.weight, self.position.weight):
            nn.init.normal_(p, 0, 0.1, rng=rng)

    def forward(self, ids: Any) -> Any:
        return self.score(self.blocks(self.position(self.embed(ids)), is_causal=self.causal))

    def attention(self, ids: Any) -> list[Any]:
        """What each layer looks at while it reads: (B, heads, queries, keys)."""
        weights = []
        with training.evaluating(self):
            x = self.position(self.embed(ids))
            for layer in self.blocks.layers:
                y = layer.norm1(x)
                weights.append(layer.self_attn(y, y, y, average_attn_weights=False, is_causal=self.causal)[1].numpy())
                x = layer(x, is_causal=self.causal)
        return weights


# ---- T26: palindromes -----------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cloze:
    """The settings of T26."""

    symbols: int = 8
    length: int = 12
    width: int = 32
    layers: int = 2
    heads: int = 2
    steps: int = 400
    batch: int = 64
    learning_rate: float = 5e-3


def palindromes(symbols: int, length: int, B: int, rng: np.random.Generator) -> tuple[Any, Any, Any]:
    """B palindromes (T, B) with one symbol of the first half replaced by [MASK], which is `symbols`; where it is (B,), and what it was (B,)."""
    half = rng.integers(symbols, size=(length // 2, B))
    ids, places, rows = np.concatenate([half, half[::-1]]), rng.integers(length // 2, size=B), np.arange(B)
    hidden = ids[places, rows]
    ids[places, rows] = symbols
    return ids, places, hidden


def cloze_loss(model: nn.Module, batch: tuple[Any, Any, Any]) -> Any:
    """Cross entropy of what was hidden."""
    ids, places, hidden = batch
    return F.cross_entropy(model(ids)[places, np.arange(len(places))], hidden)


def filled_in(model: nn.Module, batch: tuple[Any, Any, Any]) -> float:
    """The share of lines whose hidden symbol is found."""
    ids, places, hidden = batch
    with training.evaluating(model):
        return float((model(ids).numpy()[places, np.arange(len(places))].argmax(-1) == hidden).mean())


@experiment("T26", "Palindromes with a gap: looking both ways", rows="J9, J4", quick=Cloze(steps=150), full=Cloze(), seconds=(4, 9))
def cloze(run: Run, config: Cloze) -> None:
    """The encoder fills the gap; with a causal mask the same encoder guesses, however long it learns."""
    c = config
    bidirectional = Encoder(
        c.symbols + 1, c.length, width=c.width, layers=c.layers, heads=c.heads, causal=False, rng=run.rng("encoder")
    )
    causal = copy.deepcopy(bidirectional)
    causal.causal = True
    test = palindromes(c.symbols, c.length, 2000, run.rng("test"))
    histories = {}
    for name, model in (("bidirectional", bidirectional), ("causal", causal)):
        batches = Drawn(lambda rng: palindromes(c.symbols, c.length, c.batch, rng), run.rng("lines"))
        adam = optim.AdamW(model.parameters(), lr=c.learning_rate)
        schedule = optim.lr_scheduler.OneCycleLR(adam, c.learning_rate, total_steps=c.steps, pct_start=0.1)
        histories[name] = run.fit(name, model, cloze_loss, adam, batches, steps=c.steps, schedule=schedule, clip_norm=1.0)
    run.result("bidirectional: hidden symbols found, of 2,000", filled_in(bidirectional, test), at_least=0.99)
    run.result("causal, the same steps: hidden symbols found", filled_in(causal, test), at_most=0.2)
    run.result("causal: the most that is possible", 1 / c.symbols)
    run.result("causal: loss at the end, in nats", np.mean(histories["causal"].losses[-50:]))
    run.result(f"causal: ln {c.symbols}, the least that is possible", np.log(c.symbols))
    run.figure("training.svg", lambda: tg.plot.training(histories))
    run.figure("attention.svg", lambda: gaps(bidirectional, test))


def gaps(model: Encoder, batch: tuple[Any, Any, Any]) -> Any:
    """Where each head looks from the gap, on the average of lines with the gap at the same place."""
    ids, places, _ = batch
    T = len(ids)
    heads = {}
    for n, weights in enumerate(model.attention(ids)):
        from_gap = weights[np.arange(len(places)), :, places]  # (B, heads, keys)
        for k in range(weights.shape[1]):
            rows = [from_gap[places == place, k].mean(0) for place in range(T // 2)]
            heads[f"layer {n + 1}, head {k + 1}"] = np.stack(rows)
    plot = tg.plot.attention(heads, [f"gap at {place + 1}" for place in range(T // 2)], [str(t + 1) for t in range(T)])
    for axes in plot.figure.axes[: len(heads)]:
        axes.set(xlabel="looks at", ylabel="")
    return plot


# ---- The command --------------------------------------------------------------------------------------------------------------------------

EXPERIMENTS: list[Experiment] = [cloze]


def main(argv: list[str] | None = None) -> int:
    """Run the experiments; `--help` names the options."""
    return run_experiments(__doc__, EXPERIMENTS, argv)


if __name__ == "__main__":
    sys.exit(main())
