"""Words as vectors: a language model over a window of words (NPLM; Bengio et al. 2003), and what was left of it when only the vectors were wanted.

A word is one-hot, W in {0, 1}^V. All such vectors are equally long and equally far from each other, and use V of the 2^V corners of their cube. A
shared projection P makes them short and lets distances mean something. n-1 words are projected by the same P ("tied weights", a time delay network), so

    dL/dP = Σ_k dL/dP_k,   a term for each of its n-1 uses

    NPLM        x = [P W_(t-n+1), ..., P W_(t-1)]       p(W_t | ...) = softmax(U tanh(H x + d) + b)
    CBOW        p(W_t | W_(t-3), ..., W_(t+3)) = softmax(U m + b),   m = 1/6 Σ_k P W_(t+k),  k = ±1, ±2, ±3: where a word stands is ignored
    skip-gram   p(W_(t+k) | W_t) = softmax(U P W_t + b),  for k = ±1, ±2, ±3 with the same U                              (Mikolov et al. 2013)

- F3   The claims about one-hot vectors, counted.
- T15  A grammar of 35 words, whose own perplexity is known exactly: how near the NPLM comes to it; and whether the nearest neighbour of a word is one
       of its class (dogs near cats), which no model was told.
- T15b English, of Python's help pages, beside an interpolated trigram (Jelinek & Mercer 1980). Bengio et al. report 24 % less perplexity than the best
       n-gram on a million words. Here it is a tie on some eighty thousand: the NPLM is ahead on pages of new topics, the trigram on paragraphs whose
       neighbours it has read, and no gain is claimed. One token in six belongs to a ruler of stars or lines, so the perplexity of the tokens that
       do not repeat the one before them stands beside.

Sources: CMU 11-785 (2017), "Recurrent Networks", language models; Bengio, Ducharme, Vincent & Jauvin, JMLR 3 (2003); Mikolov et al. (2013).
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np

import tinygrad_seq as tg
from models.command_line import run_experiments
from models.experiment import Drawn, Experiment, Run, canvas, experiment, needed
from tinygrad_seq import data, nn, optim, training
from tinygrad_seq.nn import functional as F

# ---- The models ---------------------------------------------------------------------------------------------------------------------------


def projection(V: int, M: int, rng: np.random.Generator) -> nn.Embedding:
    """P: it begins small, so that where a word ends is decided by what was learned and not by where it began."""
    P = nn.Embedding(V, M, rng=rng)
    nn.init.normal_(P.weight, 0.0, 0.1, rng=rng)
    return P


class NPLM(nn.Module):
    """Bengio's network: n-1 words before (n-1, B) -> scores of the next (B, V)."""

    def __init__(self, V: int, M: int, H: int, n: int, *, dropout: float = 0.0, rng: np.random.Generator):
        self.P = projection(V, M, rng)
        self.hidden, self.score = nn.Linear((n - 1) * M, H, rng=rng), nn.Linear(H, V, rng=rng)
        self.drop = nn.Dropout(dropout, rng=rng)

    def forward(self, words: Any) -> Any:
        x = tg.concatenate([self.P(W) for W in tg.steps(words)], axis=-1)  # (B, (n-1) M): P is used once for each word
        return self.score(self.drop(tg.tanh(self.hidden(self.drop(x)))))


class CBOW(nn.Module):
    """The continuous bag of words: words around (6, B) -> scores of the one in the middle (B, V)."""

    def __init__(self, V: int, M: int, *, rng: np.random.Generator):
        self.P, self.score = projection(V, M, rng), nn.Linear(M, V, rng=rng)

    def forward(self, around: Any) -> Any:
        return self.score(self.P(around).mean(axis=0))


class SkipGram(nn.Module):
    """The word in the middle (B,) -> the scores of any word around it (B, V)."""

    def __init__(self, V: int, M: int, *, rng: np.random.Generator):
        self.P, self.score = projection(V, M, rng), nn.Linear(M, V, rng=rng)

    def forward(self, middle: Any) -> Any:
        return self.score(self.P(middle))


def nplm_loss(model: NPLM, window: Any) -> Any:
    """Of windows (B, n): the last word from those before."""
    return F.cross_entropy(model(window[:, :-1].T), window[:, -1])


def cbow_loss(model: CBOW, window: Any) -> Any:
    """Of windows (B, 7): the fourth word from the others."""
    return F.cross_entropy(model(np.delete(window, 3, axis=1).T), window[:, 3])


def skip_gram_loss(model: SkipGram, window: Any) -> Any:
    """Of windows (B, 7): the others from the fourth, the mean over them; one softmax serves all six."""
    scores = model(window[:, 3])
    return F.cross_entropy(scores, tg.one_hot(np.delete(window, 3, axis=1), scores.shape[-1]).mean(axis=1))


def windows(ids: Any, size: int, batch: int, rng: np.random.Generator) -> Drawn:
    """Batches (batch, size) from anywhere in a text."""
    every = np.lib.stride_tricks.sliding_window_view(ids, size)
    return Drawn(lambda rng: every[rng.integers(len(every), size=batch)], rng)


# ---- F3: one-hot --------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class OneHot:
    """The settings of F3."""

    words: int = 35


@experiment(
    "F3", "One-hot vectors: what they assume, what they waste", rows="F3, F4", quick=OneHot(), full=OneHot(), seconds=(0, 0)
)
def one_hot(run: Run, config: OneHot) -> None:
    """Lengths, distances, and how much of the space is used."""
    V = config.words
    W = tg.one_hot(np.arange(V), V, dtype="float64")
    distances = np.sqrt(((W[:, None] - W) ** 2).sum(-1))[~np.eye(V, dtype=bool)]
    run.result(f"one-hot, V={V}: greatest difference between two lengths", np.ptp(np.sqrt((W**2).sum(-1))), at_most=0)
    run.result("greatest difference between two distances", np.ptp(distances), at_most=0)
    run.result("the distance of any two words (√2)", distances[0], at_least=2**0.5, at_most=2**0.5)
    run.result("share of the 2^V corners of the cube that are words, V / 2^V", V / 2**V)
    run.result("the same after a projection to 8 numbers, V / 2^8", V / 2**8)


# ---- T15: a grammar -----------------------------------------------------------------------------------------------------------------------

CLASSES = {name: words.split() for name, words in {
    "determiner": "the a this every", "adjective": "big small old young white", "animal": "cat dog horse bird mouse",
    "person": "man woman girl boy king", "food": "bread cheese soup rice fish", "eats": "eats cooks buys wants", "sees": "sees likes follows",
    "steals": "steals hides finds", "end": ".",
}.items()}  # fmt: skip
GRAMMAR = {  # after what: with what chance a word of which class comes, and what that leads to; within a class all words are alike
    "end": [(1.0, "determiner", "subject")],
    "subject": [(0.6, "adjective", "old subject"), (0.2, "animal", "animal"), (0.2, "person", "person")],
    "old subject": [(0.5, "animal", "animal"), (0.5, "person", "person")],
    "animal": [(0.5, "steals", "steals"), (0.5, "sees", "sees")],
    "person": [(0.6, "eats", "eats"), (0.4, "sees", "sees")],
    "eats": [(0.3, "adjective", "old food"), (0.7, "food", "full stop")],
    "old food": [(1.0, "food", "full stop")],
    "steals": [(1.0, "determiner", "booty")],
    "booty": [(0.3, "adjective", "old food"), (0.7, "food", "full stop")],
    "sees": [(1.0, "determiner", "object")],
    "object": [(0.5, "animal", "full stop"), (0.5, "person", "full stop")],
    "full stop": [(1.0, "end", "end")],
}
WORDS = [word for words in CLASSES.values() for word in words]
CLASS_OF = np.array([k for k, words in enumerate(CLASSES.values()) for _ in words])


def process_perplexity() -> float:
    """The perplexity of the grammar, exactly: the exponential of the entropy of its steps, each state counted as often as it is visited."""
    names = list(GRAMMAR)
    move, entropy = np.zeros((len(names), len(names))), np.zeros(len(names))
    for k, arcs in enumerate(GRAMMAR.values()):
        for p, name, state in arcs:
            move[k, names.index(state)] += p
            entropy[k] -= p * np.log(p / len(CLASSES[name]))
    balance = np.vstack([move.T - np.eye(len(names)), np.ones(len(names))])  # visits = visits move, and they sum to 1
    visits = np.linalg.lstsq(balance, np.append(np.zeros(len(names)), 1.0), rcond=None)[0]
    return float(np.exp(visits @ entropy))


def speak(count: int, rng: np.random.Generator) -> Any:
    """That many words of the grammar, as numbers."""
    ids, state = [], "end"
    for arc_draw, word_draw in rng.random((count, 2)):
        arcs = GRAMMAR[state]
        chosen = int(np.searchsorted(np.cumsum([p for p, _, _ in arcs])[:-1], arc_draw, side="right"))
        words, state = CLASSES[arcs[chosen][1]], arcs[chosen][2]
        ids.append(WORDS.index(words[int(word_draw * len(words))]))
    return np.array(ids)


def cosines(model: nn.Module) -> Any:
    """The cosine of any two words, (V, V)."""
    P = model.P.weight.numpy()
    direction = P / np.linalg.norm(P, axis=1, keepdims=True)
    return direction @ direction.T


def neighbours_in_class(model: nn.Module) -> float:
    """The share of words whose nearest neighbour by the cosine is of their own class; "." is alone in its, and does not count."""
    nearest = (cosines(model) - 2 * np.eye(len(WORDS))).argmax(axis=1)
    return float((CLASS_OF[nearest] == CLASS_OF)[:-1].mean())


def in_parts(ids: Any, n: int) -> list[Any]:
    """All windows of a text in its order, (B, n) each."""
    every = np.lib.stride_tricks.sliding_window_view(ids, n)
    return np.array_split(every, len(every) // 512 + 1)


def perplexity(model: NPLM, ids: Any, n: int, where: Any = slice(None)) -> float:
    """exp of the mean surprise at every word of a text that has n-1 before it, or at some of them."""
    with training.evaluating(model):
        surprises = [F.cross_entropy(model(part[:, :-1].T), part[:, -1], reduction="none").numpy() for part in in_parts(ids, n)]
    return float(np.exp(np.concatenate(surprises)[where].mean(dtype="float64")))


@dataclass(frozen=True)
class Grammar:
    """The settings of T15."""

    n: int = 5  # the NPLM sees n-1 words
    vector: int = 16  # M
    hidden: int = 48
    words: int = 100_000
    held_out: int = 50_000
    steps: int = 1500
    vector_steps: int = 1000  # of CBOW and skip-gram
    batch: int = 256
    learning_rate: float = 5e-3


@experiment(
    "T15", "NPLM, CBOW and skip-gram on a grammar", rows="F4, F5, F6, F7, F8",
    quick=Grammar(words=40_000, held_out=20_000, steps=1000, vector_steps=500), full=Grammar(), seconds=(5, 7),
)  # fmt: skip
def grammar(run: Run, config: Grammar) -> None:
    """Perplexity beside that of the process, neighbours, and the gradient of P as the sum over its uses."""
    c, V, exact = config, len(WORDS), process_perplexity()
    train, test = speak(c.words, run.rng("train")), speak(c.held_out, run.rng("test"))
    nplm = NPLM(V, c.vector, c.hidden, c.n, rng=run.rng("nplm"))
    cbow, skip_gram = CBOW(V, c.vector, rng=run.rng("cbow")), SkipGram(V, c.vector, rng=run.rng("skip-gram"))
    found = {}
    for name, model, loss, size, steps in [
        ("NPLM", nplm, nplm_loss, c.n, c.steps), ("CBOW", cbow, cbow_loss, 7, c.vector_steps),
        ("skip-gram", skip_gram, skip_gram_loss, 7, c.vector_steps),
    ]:  # fmt: skip
        adam = optim.Adam(model.parameters(), lr=c.learning_rate)
        schedule = optim.lr_scheduler.CosineAnnealingLR(adam, steps)
        found[name] = run.fit(
            name, model, loss, adam, windows(train, size, c.batch, run.rng(f"{name} windows")), steps=steps, schedule=schedule
        )

    run.result("the grammar: perplexity, exactly", exact)
    counts = np.bincount(train, minlength=V) / len(train)
    run.result("a model of single words", np.exp(-np.log(counts[test]).mean()))
    ours = run.result(f"NPLM, {c.n - 1} words before: perplexity of held-out words", perplexity(nplm, test, c.n), at_most=5.35)
    run.result("in proportion to the grammar's", ours / exact, at_most=1.0235)
    models = {"NPLM": nplm, "CBOW": cbow, "skip-gram": skip_gram}
    for name, model in models.items():
        bound = 0.8 if name == "NPLM" else 0.95
        run.result(f"{name}: nearest neighbour is of the same class", neighbours_in_class(model), at_least=bound)

    few = np.lib.stride_tricks.sliding_window_view(test, c.n)[:3]
    lines = tg.bptt.ledger(nplm_loss(nplm, few), nplm.P.weight)
    run.result("NPLM: uses of P in one step of training", len(lines.uses), at_least=c.n - 1, at_most=c.n - 1)
    run.result("greatest difference of the sum over its uses from dL/dP, relative", lines.check(), at_most=1e-6)
    run.figure("similar.svg", lambda: similar_figure(models))
    run.figure("training.svg", lambda: tg.plot.training(found))
    run.figure("uses_of_P.svg", lambda: tg.draw(nplm_loss(nplm, few), light=nplm.P.weight))


def similar_figure(models: Any) -> Any:
    """The cosine of any two words, class by class."""
    drawn = canvas(5 * len(models), 5)
    for axes, (name, model) in zip(np.atleast_1d(drawn.subplots(1, len(models))), models.items(), strict=True):
        image = axes.imshow(cosines(model), cmap="RdBu_r", vmin=-1, vmax=1)
        axes.set_xticks(range(len(WORDS)), WORDS, rotation=90, fontsize=6)
        axes.set_yticks(range(len(WORDS)), WORDS, fontsize=6)
        axes.set_title(name)
    drawn.colorbar(image, ax=drawn.axes, shrink=0.7, label="cosine")
    return drawn


# ---- T15b: English ------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class English:
    """The settings of T15b."""

    n: int = 5
    vocabulary: int = 2000
    vector: int = 64
    hidden: int = 128
    dropout: float = 0.3
    steps: int = 2000
    batch: int = 128
    learning_rate: float = 3e-3
    paragraphs_too: bool = True  # hold out paragraphs of all pages as well as the last pages


def help_pages() -> list[list[str]]:
    """Paragraphs of Python's help pages as words and marks, each once: many stand there twice or more, which an n-gram would know by heart."""
    topics = needed("pydoc_data.topics", "pydoc_data of the standard library").topics
    paragraphs = (" ".join(text.split()) for page in topics.values() for text in re.split(r"\n\s*\n", page))
    return [[*data.words(text.lower()), "¶"] for text in dict.fromkeys(paragraphs)]


def split(paragraphs: list[list[str]], tenth: bool) -> list[list[str]]:
    """Tokens to learn from, to choose by and to test on: 85, 5 and 10 % of the paragraphs. tenth: in turn, from all pages; else the last ones."""
    N = len(paragraphs)
    place = [n % 20 if tenth else 20 * n // N for n in range(N)]  # 0 ... 19
    return [
        [word for p, text in zip(place, paragraphs, strict=True) if p in part for word in text]
        for part in (range(17), [17], [18, 19])
    ]


def trigram(train: Any, valid: Any, test: Any, V: int) -> tuple[Any, Any]:
    """p(word | two before) of every word of test but the first two, interpolated, and the weights λ, which EM fits to valid.

    p = λ_0 1/V + λ_1 count(w) / N + λ_2 count(v w) / count(v) + λ_3 count(u v w) / count(u v)
    """
    learned = np.lib.stride_tricks.sliding_window_view(train, 3)

    def code(triples: Any, first: int, last: int) -> Any:
        return triples[:, first:last] @ V ** np.arange(last - first)  # these words as one number

    def count(asked: Any, first: int, last: int) -> Any:
        seen, times = np.unique(code(learned, first, last), return_counts=True)
        keys = code(asked, first, last)
        at = np.searchsorted(seen, keys).clip(max=len(seen) - 1)
        return np.where(seen[at] == keys, times[at], 0)

    def parts(ids: Any) -> Any:
        asked = np.lib.stride_tricks.sliding_window_view(ids, 3)
        shares = [count(asked, first, 3) / np.maximum(count(asked, first, 2), 1) for first in (2, 1, 0)]
        return np.stack([np.full(len(asked), 1 / V), *shares], axis=1)

    weights, of_valid = np.full(4, 0.25), parts(valid)
    for _ in range(50):
        share = of_valid * weights
        weights = (share / share.sum(axis=1, keepdims=True)).mean(axis=0)
    return parts(test) @ weights, weights


@experiment(
    "T15b", "NPLM on English, beside a trigram", rows="F5",
    quick=English(steps=500, paragraphs_too=False), full=English(), seconds=(6, 38),
)  # fmt: skip
def english(run: Run, config: English) -> None:
    """Perplexities, with and without the tokens that repeat the one before; neighbours of some words."""
    c, pages = config, help_pages()
    run.result("tokens, every paragraph once", sum(map(len, pages)))
    held_out = {"the last pages": split(pages, tenth=False)}
    if c.paragraphs_too:
        held_out["paragraphs of all pages"] = split(pages, tenth=True)
    curves = {}
    for where, parts in held_out.items():
        frequent = [word for word, _ in Counter(parts[0]).most_common(c.vocabulary - 1)]
        vocabulary = data.Vocabulary(frequent, unknown="<other>", kind="words")
        train, valid, test = (np.array(vocabulary.encode(part)) for part in parts)
        V = len(vocabulary)
        model = NPLM(V, c.vector, c.hidden, c.n, dropout=c.dropout, rng=run.rng(where))
        adam = optim.AdamW(model.parameters(), lr=c.learning_rate, weight_decay=1e-2)
        curves[where] = run.fit(
            f"NPLM {where}", model, nplm_loss, adam, windows(train, c.n, c.batch, run.rng(f"{where}: windows")), steps=c.steps, restore_best=True,
            schedule=optim.lr_scheduler.CosineAnnealingLR(adam, c.steps), evaluate=in_parts(valid, c.n), every=max(1, c.steps // 10),
        )  # fmt: skip

        single = np.bincount(train, minlength=V) / len(train)
        three = trigram(train, valid, test, V)[0][c.n - 3 :]  # the words that the NPLM is asked for too
        new = test[c.n - 1 :] != test[c.n - 2 : -1]
        run.result(f"{where}: single words, V={V}: perplexity", np.exp(-np.log(single[test[c.n - 1 :]]).mean()))
        theirs = run.result(f"{where}: interpolated trigram", np.exp(-np.log(three).mean()))
        bound = 40 if where == "the last pages" else None
        ours = run.result(f"{where}: NPLM, {c.n - 1} words before", perplexity(model, test, c.n), at_most=bound)
        run.result(f"{where}: NPLM in proportion to the trigram", ours / theirs, at_most=1.25, quick=1.4)
        run.result(f"{where}: trigram, tokens that do not repeat the one before", np.exp(-np.log(three[new]).mean()))
        run.result(f"{where}: NPLM, the same", perplexity(model, test, c.n, new))
        if where == "the last pages":
            run.write("neighbours.txt", neighbours(model, vocabulary))
    run.note("No win over the trigram is claimed: who is ahead depends on what was held out.")
    run.figure("english.svg", lambda: tg.plot.training(curves))


def neighbours(model: NPLM, vocabulary: data.Vocabulary) -> str:
    """The five nearest words of some frequent ones."""
    nearest = np.argsort(-cosines(model), axis=1)[:, 1:6]
    chosen = [word for word in "is the function class two list string integer raises must".split() if word in vocabulary.index]
    return "".join(f"{word:10} {vocabulary.decode(nearest[vocabulary.index[word]])}\n" for word in chosen)


# ---- The command --------------------------------------------------------------------------------------------------------------------------

EXPERIMENTS: list[Experiment] = [one_hot, grammar, english]


def main(argv: list[str] | None = None) -> int:
    """Run the experiments; `--help` names the options."""
    return run_experiments(__doc__, EXPERIMENTS, argv)


if __name__ == "__main__":
    sys.exit(main())
