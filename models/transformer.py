"""Attention is all you need (Vaswani et al. 2017): an encoder and a decoder without recurrence, and what is exactly true of their parts.

    q_t = W_q a_t    k_s = W_k a_s    v_s = W_v a_s                      y_t = Σ_s w_ts v_s,    w_ts = softmax_s(q_t · k_s / √m)
    several heads: each in a space of its own, side by side, then W_o      encoder: all positions see all
    decoder: position t sees s <= t of its own, and all of the encoder      around each: x <- norm(x + f(x)), and W_2 relu(W_1 x) alike

- J1-J7  On random weights, in float64: all t at once is one by one; rows of weights sum to 1; keys and values may change places together; a causal mask
         keeps the past from the future to the last bit; h heads are h single heads; without positions the order of inputs means nothing; layer norm.
- J6     Sorting eight digits, and copying them. With positions (waves, added to the inputs) the encoder learns both. Without, it sees a bag of digits:
         to sort that is enough, to copy it is not. The decoder has positions in both cases.

Two slips of the notes, corrected: the mask is -inf "when s >= t", s the query and t the key. That hides the past and the position itself and leaves the
future; it has to be t > s. J1-J7 measures both. And the dot product is the cosine of the angle for vectors of length 1 alone.

Sources: CS540 (Wisconsin-Madison), "Transformers"; Vaswani, Shazeer, Parmar, Uszkoreit, Jones, Gomez, Kaiser & Polosukhin, Attention is all you need
(2017); Ba, Kiros & Hinton, Layer normalization (2016).
"""

from __future__ import annotations

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


class Transformer(nn.Module):
    """Encoder and decoder: a source (S, B) and what is written so far (T, B) -> scores of V symbols that come next, (T, B, V)."""

    def __init__(self, V: int, *, width: int, layers: int, heads: int, source_positions: bool, rng: np.random.Generator):
        self.embed_source, self.embed = nn.Embedding(V, width, rng=rng), nn.Embedding(V, width, rng=rng)
        self.source_position = nn.SinusoidalPositions(width) if source_positions else nn.Identity()
        self.position = nn.SinusoidalPositions(width)
        self.body = nn.Transformer(width, heads, layers, layers, 4 * width, dropout=0.0, rng=rng)
        self.score = nn.Linear(width, V, rng=rng)

    def encode(self, source: Any) -> Any:
        """What the encoder makes of a source, (S, B, width)."""
        return self.body.encoder(self.source_position(self.embed_source(source)))

    def forward(self, source: Any, written: Any) -> Any:
        y = self.body.decoder(self.position(self.embed(written)), self.encode(source), tgt_is_causal=True)
        return self.score(y)

    def write(self, source: Any, start: int, count: int) -> Any:
        """The likeliest symbols, one after the other: (count, B). Keys and values of what was written are kept."""
        written = [np.full((1, source.shape[1]), start)]
        with training.evaluating(self):
            memory, cache = self.encode(source), self.body.decoder.initial_cache(source.shape[1])
            for t in range(count):
                x = self.position(self.embed(written[-1]), t)
                y, cache = self.body.decoder(x, memory, tgt_is_causal=True, cache=cache)
                written.append(self.score(y).numpy().argmax(-1))
        return np.concatenate(written[1:])

    def looks(self, source: Any, written: Any) -> Any:
        """Where the last layer of the decoder looks in the source before each symbol: (B, heads, T, S)."""
        with training.evaluating(self):
            memory, x = self.encode(source), self.position(self.embed(written))
            for layer in self.body.decoder.layers:
                y = layer.norm1(x + layer.self_attn(x, x, x, is_causal=True)[0])
                weights = layer.multihead_attn(y, memory, memory, average_attn_weights=False)[1]
                x = layer(x, memory, tgt_is_causal=True)
        return weights.numpy()


# ---- J1-J7: what is exactly true ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Structure:
    """The settings of J1-J7."""

    length: int = 40
    edited: int = 20  # inputs from here on are changed
    width: int = 16
    heads: int = 4


def attention_by_hand(xs: Any, w_q: Any, w_k: Any, w_v: Any) -> Any:
    """One head, as a double loop over numbers of the notes: xs (T, E) -> (T, m)."""
    T, m = len(xs), len(w_q)
    ys = np.zeros((T, m))
    for t in range(T):
        scores = [float((w_q @ xs[t]) @ (w_k @ xs[s])) / np.sqrt(m) for s in range(T)]
        total = sum(np.exp(score) for score in scores)
        for s in range(T):
            ys[t] += np.exp(scores[s]) / total * (w_v @ xs[s])
    return ys


def single_heads(xs: Any, attention: nn.MultiheadAttention) -> Any:
    """The heads of a multi-head attention one after the other, side by side, and W_o: (T, E) -> (T, E)."""
    E, m = attention.embed_dim, attention.embed_dim // attention.num_heads
    weight = attention.in_proj_weight.numpy()
    heads = [
        attention_by_hand(xs, *(weight[part * E + n * m : part * E + (n + 1) * m] for part in range(3)))
        for n in range(attention.num_heads)
    ]
    return np.concatenate(heads, axis=-1) @ attention.out_proj.weight.numpy().T


@experiment(
    "J1-J7",
    "Attention: what is exactly true",
    rows="J1, J2, J3, J4, J5, J6, J7",
    quick=Structure(),
    full=Structure(),
    seconds=(1, 1),
)
def structure(run: Run, config: Structure) -> None:
    """Nothing is learned here: each claim of the notes on random weights and inputs, and by how much it fails."""
    c, rng = config, run.rng("weights")
    T, E, cut = c.length, c.width, c.edited
    xs = rng.normal(size=(T, E))
    others = np.concatenate([xs[:cut], rng.normal(size=(T - cut, E))])  # the same before `cut`
    order = rng.permutation(T)
    attention = nn.MultiheadAttention(E, c.heads, rng=rng, dtype="float64")
    layer = nn.TransformerEncoderLayer(E, c.heads, 4 * E, dropout=0.0, rng=rng, dtype="float64")
    unit = nn.Sequential(nn.Linear(E, E, rng=rng, dtype="float64"), nn.Tanh())

    def far(a: Any, b: Any) -> float:
        return float(np.abs(a - b).max())

    def outputs(model: nn.Module, *inputs: Any, **options: Any) -> Any:
        with training.evaluating(model):
            found = model(*inputs, **options)
        return (found[0] if isinstance(found, tuple) else found).numpy()  # attention returns its weights too

    run.result(
        "J1  a_t = g(W x_t + b): all t at once, less one by one",
        far(outputs(unit, xs), np.stack([outputs(unit, x) for x in xs])),
        at_most=1e-12,
    )
    with training.evaluating(layer):
        cache, read = layer.initial_cache(1), []
        for x in xs:
            y, cache = layer(x[None, None], is_causal=True, cache=cache)
            read.append(y.numpy()[0, 0])
    causal = outputs(layer, xs, is_causal=True)
    run.result("J1  a causal layer: all t at once, less one by one with a cache", far(causal, np.stack(read)), at_most=1e-12)

    weights = attention(xs, xs, xs, average_attn_weights=False)[1].numpy()
    run.result("J3  rows of weights, less 1", far(weights.sum(-1), 1), at_most=1e-12)
    y = outputs(attention, xs, xs, xs)
    run.result("J2, J5  several heads, less double loops over q, k, v of each", far(y, single_heads(xs, attention)), at_most=1e-12)
    run.result("J3  keys and values in another order", far(y, outputs(attention, xs, xs[order], xs[order])), at_most=1e-12)

    changed = outputs(layer, others, is_causal=True)
    run.result(f"J4  inputs from {cut} on edited: change of outputs before", far(changed[:cut], causal[:cut]), at_most=0)
    run.result(f"J4  ... of outputs from {cut} on", far(changed[cut:], causal[cut:]), at_least=0.01)
    hidden = np.arange(T)[:, None] >= np.arange(T)[None]  # query s, key t, hidden where s >= t
    slip = [outputs(layer, each, src_mask=hidden)[:cut] for each in (xs, others)]
    run.result(f"J4  the mask of the notes: change of outputs before {cut}", far(*slip), at_least=0.01)
    run.result("J4  ... and queries that may look nowhere", int(hidden.all(axis=1).sum()), at_least=1)

    run.result(
        "J6  without positions: outputs of shuffled inputs, less shuffled outputs",
        far(outputs(layer, xs)[order], outputs(layer, xs[order])),
        at_most=1e-12,
    )
    waves = F.sinusoidal_positions(T, E, dtype="float64")
    run.result("J6  with positions", far(outputs(layer, xs + waves)[order], outputs(layer, xs[order] + waves)), at_least=0.01)
    normed = outputs(nn.LayerNorm(E, dtype="float64"), 7 + 5 * xs)
    run.result("J7  layer norm: mean", np.abs(normed.mean(-1)).max(), at_most=1e-5)
    run.result("J7  layer norm: variance, less 1", far(normed.var(-1), 1), at_most=1e-5)
    masks = {
        "key later than query: -inf": weights_under(attention, xs, None),
        "as in the notes": weights_under(attention, xs, hidden),
    }
    run.figure("masks.svg", lambda: tg.plot.attention(masks))
    run.figure("unfolded.svg", lambda: tg.draw(smallest()))


def smallest() -> Any:
    """The loss of the smallest transformer for three digits to be sorted: the figure of the paper, op by op."""
    model = Transformer(START + 1, width=4, layers=1, heads=1, source_positions=True, rng=np.random.default_rng(0))
    source = np.array([[3], [1], [2]])
    target = np.sort(source, axis=0)
    return F.cross_entropy(model(source, shifted(target)), target)


def weights_under(attention: nn.MultiheadAttention, xs: Any, hidden: Any) -> Any:
    """Weights of the first twelve positions under a mask, or causally."""
    xs, hidden = xs[:12], None if hidden is None else hidden[:12, :12]
    return attention(xs, xs, xs, attn_mask=hidden, is_causal=hidden is None)[1].numpy()


# ---- J6: sorting and copying ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sorting:
    """The settings of J6."""

    digits: int = 8
    width: int = 32
    layers: int = 1
    heads: int = 2
    steps: int = 500
    batch: int = 64
    learning_rate: float = 5e-3


START = 10  # what the decoder reads first


def digits(n: int, B: int, rng: np.random.Generator) -> Any:
    """B rows of n digits, (n, B)."""
    return rng.integers(10, size=(n, B))


def shifted(target: Any) -> Any:
    """What the decoder has read before each symbol: START, and all but the last."""
    return np.concatenate([np.full((1, target.shape[1]), START), target[:-1]])


@experiment(
    "J6",
    "Sorting needs no positions, copying does",
    rows="J3, J4, J5, J6",
    quick=Sorting(steps=130),
    full=Sorting(),
    seconds=(7, 20),
)
def sorting(run: Run, config: Sorting) -> None:
    """Four transformers: to sort or to copy, with positions of the source or without."""
    c = config
    test = digits(c.digits, 500, run.rng("test"))
    histories = {}
    for task, answer in (("sort", lambda source: np.sort(source, axis=0)), ("copy", lambda source: source)):
        for positions in (True, False):
            name = f"{task} {'with' if positions else 'without'} positions"
            model = Transformer(
                START + 1, width=c.width, layers=c.layers, heads=c.heads, source_positions=positions, rng=run.rng("weights")
            )

            def loss(model: Any, source: Any, answer: Any = answer) -> Any:
                target = answer(source)
                return F.cross_entropy(model(source, shifted(target)), target)

            adam = optim.AdamW(model.parameters(), lr=c.learning_rate)
            schedule = optim.lr_scheduler.OneCycleLR(adam, c.learning_rate, total_steps=c.steps, pct_start=0.1)
            batches = Drawn(lambda rng: digits(c.digits, c.batch, rng), run.rng("lines"))
            histories[name] = run.fit(name, model, loss, adam, batches, steps=c.steps, schedule=schedule, clip_norm=1.0)
            right = (model.write(test, START, c.digits) == answer(test)).all(axis=0).mean()
            bound = {"at_most": 0.05} if name == "copy without positions" else {"at_least": 0.95, "quick": 0.8}
            run.result(f"{name}: {c.digits} digits all right, of 500 rows", right, **bound)
            if positions:
                run.figure(
                    f"{task}.svg", lambda model=model, answer=answer: where_it_looks(model, test[:, :1], answer(test[:, :1]))
                )
    run.figure("training.svg", lambda: tg.plot.training(histories))


def where_it_looks(model: Transformer, source: Any, target: Any) -> Any:
    """A heat map of one row: what is written downwards, what is read to the right."""
    heads = model.looks(source, shifted(target))[0]
    return tg.plot.attention(heads, [str(digit) for digit in target[:, 0]], [str(digit) for digit in source[:, 0]])


# ---- The command --------------------------------------------------------------------------------------------------------------------------

EXPERIMENTS: list[Experiment] = [structure, sorting]


def main(argv: list[str] | None = None) -> int:
    """Run the experiments; `--help` names the options."""
    return run_experiments(__doc__, EXPERIMENTS, argv)


if __name__ == "__main__":
    sys.exit(main())
