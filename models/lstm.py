"""Long short-term memory (Hochreiter & Schmidhuber 1997), and the language model that it is famous for.

    f_t = σ(W_xf x_t + W_hf h_(t-1) + b_f)        forget gate: how much of the cell is kept          (CS540; CMU 11-785 writes C~ for g)
    i_t = σ(W_xi x_t + W_hi h_(t-1) + b_i)        input gate: how much of the pattern is written
    g_t = tanh(W_xg x_t + W_hg h_(t-1) + b_g)     the pattern
    o_t = σ(W_xo x_t + W_ho h_(t-1) + b_o)        output gate: how much is shown to the next step
    c_t = f_t ⊙ c_(t-1) + i_t ⊙ g_t               no weight and no squashing in the way of the memory
    h_t = o_t ⊙ tanh(c_t)

- D2   CMU builds the cell up from the constant error carousel. Here it is as five small cells, each with one part more: five recorded graphs, drawn.
- D5   The memory block of Graves: gates write, read and reset. A cell whose input gate is closed and whose forget gate is open holds its value for
       a thousand steps, to the last digit, and so does the gradient (D12: "for arbitrary durations"). Adding a small number to the bias of the
       forget gate does not make gradients vanish as multiplying by one does (C20).
- T16  A language model reads Python's standard library character by character (one-hot, so W_x x_t is a row of an embedding) and predicts the next
       one: P(w_t | w_1 ... w_(t-1)) = softmax(V h_t + b). It has to beat what counting n-grams does, and writes: each character is
       drawn from softmax(scores / temperature) and fed back. Temperature 1 is the model's own distribution, 0 takes the likeliest.

After a run of T16 its checkpoint writes more, without training again:

    python -m models.lstm --only T16 --resume --set prompt="class Queue:" --set temperature=0.5

D9, the GRU in the words of CMU ("don't separately maintain compressed and regular memories"), has no equations that survived: models/gru.py has those
of others. Slips of the notes, corrected here: CS540 writes one letter g for all activations (read: σ in gates, tanh for the pattern and the
cell). On the last backward slide of CMU o_(t+1) tanh' W_hi stands for i_(t+1) tanh' W_hC, and ∇_(h_t)C_(t+1) for ∇_(C_(t+1))Div;
`F.peephole_lstm_bptt` has the sum as it is right, and D2 compares it with the tape.

Not to be compared: Karpathy, Johnson & Fei-Fei (2015) reach 1.21 bits per character on the Linux kernel with a far larger network and text.
Sources: CMU 11-785 (2017), "Recurrent Networks"; CS540 and CS760 (Wisconsin); Graves, Supervised Sequence Labelling (2012), figure 4.3.
"""

from __future__ import annotations

import ast
import bz2
import math
import sys
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import tinygrad_seq as tg
from models.command_line import run_experiments
from models.experiment import Experiment, Run, experiment
from tinygrad_seq import data, errors, nn, optim, training
from tinygrad_seq.nn import functional as F

# ---- D2: the cell, part by part -----------------------------------------------------------------------------------------------------------

Weights = dict[str, Any]  # W_xf (D, H), W_hf (H, H), b_f (H,), and so for i, g and o


def affine(name: str, w: Weights, x: Any, h: Any = None) -> Any:
    """W_x x + b, and where a state is read W_h h as well."""
    of_input = x @ w[f"W_x{name}"]
    return (of_input if h is None else h @ w[f"W_h{name}"] + of_input) + w[f"b_{name}"]


def gate(name: str, w: Weights, x: Any, h: Any = None) -> Any:
    """σ of that, between 0 (closed) and 1 (open)."""
    return named(name, tg.sigmoid(affine(name, w, x, h)))


def pattern(w: Weights, x: Any, h: Any = None) -> Any:
    """What may be written, between -1 and 1."""
    return named("g", tg.tanh(affine("g", w, x, h)))


def named(name: str, value: Any) -> Any:
    """The value with its name on the drawing."""
    if isinstance(value, tg.Tensor):
        value.name = name
    return value


def carousel(w: Weights, x: Any, h: Any, c: Any) -> tuple[Any, Any]:
    """The constant error carousel: whatever comes in is added. dc_t/dc_(t-1) = 1."""
    c = c + affine("g", w, x)
    return c, c


def with_forget_gate(w: Weights, x: Any, h: Any, c: Any) -> tuple[Any, Any]:
    """Before that, a part is forgotten. dc_t/dc_(t-1) = f_t."""
    c = gate("f", w, x) * c + affine("g", w, x)
    return c, c


def with_input_gate(w: Weights, x: Any, h: Any, c: Any) -> tuple[Any, Any]:
    """What comes in is a pattern, and a gate decides how much of it is written."""
    c = gate("f", w, x) * c + gate("i", w, x) * pattern(w, x)
    return c, c


def with_compression(w: Weights, x: Any, h: Any, c: Any) -> tuple[Any, Any]:
    """The memory c and what is seen of it, h, are told apart; the gates of the next step see h."""
    c = gate("f", w, x, h) * c + gate("i", w, x, h) * pattern(w, x, h)
    return tg.tanh(c), c


def with_output_gate(w: Weights, x: Any, h: Any, c: Any) -> tuple[Any, Any]:
    """A gate decides how much is seen: long short-term memory."""
    c = gate("f", w, x, h) * c + gate("i", w, x, h) * pattern(w, x, h)
    return gate("o", w, x, h) * tg.tanh(c), c


CELLS = {
    "1 carousel": carousel,
    "2 forget gate": with_forget_gate,
    "3 input gate and pattern": with_input_gate,
    "4 compression": with_compression,
    "5 output gate": with_output_gate,
}


@dataclass(frozen=True)
class Parts:
    """The settings of D2 and D5: sizes of what is drawn and compared."""

    inputs: int = 3
    hidden: int = 4
    drawn: int = 3  # steps
    held: int = 1000  # steps
    felt: int = 100  # steps over which a gradient travels


def weights_of_parts(D: int, H: int, rng: np.random.Generator) -> Weights:
    """Weights for all four gates, of which the first cells use only some."""
    shapes = {"W_x": (D, H), "W_h": (H, H), "b_": (H,)}
    return {
        kind + name: tg.Tensor(0.7 * rng.standard_normal(shape), requires_grad=True, name=kind + name)
        for name in "ifgo"
        for kind, shape in shapes.items()
    }


@experiment(
    "D2", "From the carousel to the LSTM, drawn part by part", rows="C17, D1, D2, D3, D4",
    quick=Parts(), full=Parts(), seconds=(2, 2),
)  # fmt: skip
def parts(run: Run, config: Parts) -> None:
    """Five recorded graphs; the memory's gradient is the product of the forget gates; the fifth cell is `F.lstm_step`."""
    D, H, rng = config.inputs, config.hidden, run.rng("weights")
    w, xs = weights_of_parts(D, H, rng), tg.Tensor(rng.standard_normal((config.drawn, 1, D)))
    start = tg.Tensor(np.zeros((1, H)), requires_grad=True, name="c_0")
    for title, cell in CELLS.items():
        h, c = tg.zeros((1, H), dtype="float64"), start
        for x in tg.steps(xs):
            h, c = cell(w, x, h, c)
            named("c", c)
        C = named("C", (h**2).mean())
        run.figure(f"{title.replace(' ', '_')}.svg", lambda C=C, title=title: tg.draw(C, title=title))
        fs = np.prod([gate("f", w, x).numpy() for x in xs], axis=0) if cell is not carousel else np.ones((1, H))
        if cell in (carousel, with_forget_gate, with_input_gate):
            off = np.abs(tg.grad(c.sum(), start).numpy() - fs).max()
            run.result(f"{title}: dc_T/dc_0 against the product of the forget gates", off, at_most=1e-15)
    columns = [np.concatenate([w[kind + name].numpy() for name in "ifgo"], axis=-1).T for kind in ("W_x", "W_h", "b_")]
    h = c = np.zeros((1, H))
    for x in xs.numpy():
        mine, (h, c) = with_output_gate({name: p.numpy() for name, p in w.items()}, x, h, c), F.lstm_step(x, h, c, *columns)
        off = max(np.abs(mine[0] - h).max(), np.abs(mine[1] - c).max())
    run.result("5 output gate: against F.lstm_step", off, at_most=1e-14)

    lstm = nn.LSTM(D, H, peephole="full", rng=run.rng("peepholes"), dtype="float64")
    hs, _ = lstm(xs)
    (hs**2).sum().backward()
    by_hand = F.peephole_lstm_bptt(xs, np.zeros((1, H)), np.zeros((1, H)), *lstm.parameters(), 2 * hs)
    off = max(np.abs(mine - p.grad.numpy()).max() for mine, p in zip(by_hand[3:], lstm.parameters(), strict=True))
    run.result("peepholes: BPTT derived by hand against the tape, all ten arrays of weights", off, at_most=1e-13)


# ---- D5: how long it holds ----------------------------------------------------------------------------------------------------------------


def told(gates: Any, pattern: Any) -> tuple[nn.LSTM, Any]:
    """A cell whose gates i, f, o are 0 or 1 as told at every step, gates (T, 3), and the inputs that tell it, with the pattern (T,)."""
    lstm = nn.LSTM(4, 1, dtype="float64")
    i, f, o = np.asarray(gates, float).T
    with tg.no_grad():
        lstm.weight_ih_l0[...], lstm.weight_hh_l0[...] = np.diag([2000.0, 2000, 1, 2000]), 0
        lstm.bias_ih_l0[...], lstm.bias_hh_l0[...] = [-1000.0, -1000, 0, -1000], 0
    return lstm, tg.Tensor(np.stack([i, f, pattern, o], axis=-1)[:, None], requires_grad=True)


@experiment("D5", "Gates hold a memory, and its gradient", rows="C19, C20, D5, D12", quick=Parts(), full=Parts(), seconds=(3, 3))
def memory(run: Run, config: Parts) -> None:
    """Write closed and keep open: nothing changes. Figure 4.3 of Graves; and the bias of the forget gate decides what is left of a gradient."""
    T, rng = config.held, run.rng("held")
    lstm, xs = told([[0, 1, 1]] * T, rng.standard_normal(T))
    start = tg.Tensor(rng.standard_normal((1, 1, 1)), requires_grad=True)
    _, (_, c) = lstm(xs, (np.zeros((1, 1, 1)), start))
    run.result(f"cell after {T} steps of noise, minus the cell before", float(abs(c - start).item()), at_most=0)
    run.result(f"dc_T/dc_0 over {T} steps", tg.grad(c.sum(), start).item(), at_least=1, at_most=1)

    gates = [[t == 1, 2 <= t <= 6, t in (4, 6)] for t in range(1, 8)]  # i at 1; f at 2 ... 6; o at 4 and 6
    lstm, xs = told(gates, [0, -1, 1, 0.3, -0.4, 0.8, 0.2])
    felt = []
    for t in range(1, 8):
        hs, (_, c) = lstm(xs[:t])
        felt.append([tg.grad(state.sum(), xs)[0, 0, 2].item() for state in (c, hs[-1])])
    wanted = [[1, 0], [1, 0], [1, 0], [1, 1], [1, 0], [1, 1], [0, 0]]
    off = np.abs(np.array(felt) - wanted).max()
    run.result("Graves, figure 4.3: what cell and output feel of input 1, minus 1111110 and 0001010", off, at_most=0)
    run.figure("graves_4_3.svg", lambda: tg.draw((lstm(xs)[0] ** 2).sum(), level="cells", gates=True, sensitivity=1))

    losses, T = {}, config.felt
    for bias in (0.0, 1.0, 5.0):
        lstm = nn.LSTM(4, 32, rng=run.rng("swept"), dtype="float64")
        with tg.no_grad():
            lstm.bias_ih_l0[32:64], lstm.bias_hh_l0[32:64] = bias, 0
        start = tg.zeros((1, 1, 32), dtype="float64", requires_grad=True)
        hs, _ = lstm(run.rng("inputs").standard_normal((T, 1, 4)), (tg.zeros((1, 1, 32), dtype="float64"), start))
        losses[f"forget bias {bias:g}"] = L = (hs[-1] ** 2).sum() / 2
        bound = {0.0: {"at_most": 1e-15}, 5.0: {"at_least": 1e-2}}.get(bias, {})
        run.result(f"norm of dL/dc over {T} steps, forget bias {bias:g}", np.linalg.norm(tg.grad(L, start).numpy()), **bound)
    run.figure("forget_bias.svg", lambda: tg.plot.flow(losses))


# ---- T16: a language model ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Language:
    """The settings of T16. characters: how much of the text, 0 for all of it."""

    characters: int = 0
    embedding: int = 64
    hidden: int = 256
    batch: int = 32  # streams of text, side by side
    window: int = 32  # steps of an update; the state goes on to the next one
    steps: int = 2400
    learning_rate: float = 1.2e-2
    # not in its repr, by which a resumed run knows itself: a trained model may go on from another prompt
    prompt: str = field(default="def ", repr=False)
    temperature: float = field(default=0.6, repr=False)
    length: int = field(default=1500, repr=False)  # characters of the sample
    judged: int = 500  # characters of each of 32 samples whose lines are parsed


class CharLSTM(nn.Module):
    """A score for every character that may come next, and the state: (T, B) -> (T, B, V), (h, c)."""

    def __init__(self, V: int, E: int, H: int, *, rng: np.random.Generator):
        self.embed = nn.Embedding(V, E, rng=rng)
        self.lstm = nn.LSTM(E, H, rng=rng)
        self.score = nn.Linear(H, V, rng=rng)
        with tg.no_grad():
            self.lstm.bias_ih_l0[H : 2 * H] = 1  # the forget gate begins open (Gers, Schmidhuber & Cummins 2000)

    def forward(self, ids: Any, state: Any = None) -> tuple[Any, Any]:
        hs, state = self.lstm(self.embed(ids), state)
        return self.score(hs), state


def next_character_loss(model: CharLSTM, window: tuple[Any, Any], state: Any) -> tuple[Any, Any]:
    """Cross entropy of the next characters of a window, in nats, and the state to go on from."""
    scores, state = model(window[0], state)
    return F.cross_entropy(scores, window[1]), state


def bits_per_character(model: CharLSTM, ids: Any) -> float:
    """The bits that the model needs for each character of a text, read as 32 streams side by side."""
    nats, count, state = 0.0, 0, None
    with training.evaluating(model):
        for inputs, targets in data.Streams(ids, 32, 256):
            scores, state = model(inputs, state)
            nats += F.cross_entropy(scores, targets, reduction="sum").item()
            count += targets.size
    return nats / count / math.log(2)


def drawn(scores: Any, temperature: float, rng: np.random.Generator) -> Any:
    """Draw from softmax(scores / temperature), row by row, (B, V) -> (B,); temperature 0: the likeliest."""
    if temperature == 0:
        return scores.argmax(axis=-1)
    heights = F.softmax(scores.astype("float64") / temperature, axis=-1).cumsum(axis=-1)
    return (heights < rng.random((len(scores), 1)) * heights[:, -1:]).sum(axis=-1)


def written(model: CharLSTM, prompt: Any, length: int, temperature: float, rng: np.random.Generator, rows: int = 1) -> Any:
    """Go on from a prompt (ids): draw a character, feed it back, and so on, in several rows at once: (rows, length)."""
    ids = np.tile(np.asarray(prompt)[:, None], rows)
    with training.evaluating(model):
        scores, state = model(ids)
        for _ in range(length):
            ids = np.concatenate([ids, drawn(scores.numpy()[-1], temperature, rng)[None]])
            scores, state = model(ids[-1:], state)
    return ids[len(prompt) :].T


def written_by_counting(train: Any, prompt: Any, length: int, rng: np.random.Generator, rows: int, order: int = 5) -> Any:
    """The same by an n-gram model: what followed some earlier place with the same order-1 characters: (rows, length)."""
    V = int(train.max()) + 1
    ring = np.concatenate([train, train[: order - 1]])  # the beginning stands behind the end: something follows every context

    def code(columns: Any) -> Any:
        return sum(column * V**k for k, column in enumerate(columns))

    contexts = code([ring[k : k + len(train)] for k in range(order - 1)])
    places = np.argsort(contexts, kind="stable")
    ids = list(np.tile(np.asarray(prompt)[1 - order :, None], rows))
    for _ in range(length):
        now = code(ids[1 - order :])
        first, last = (np.searchsorted(contexts, now, side, sorter=places) for side in ("left", "right"))
        ids.append(ring[places[rng.integers(first, last)] + order - 1])
    return np.array(ids[order - 1 :]).T


def share_that_parses(text: str) -> float:
    """The share of lines of code that Python's parser accepts, each by itself; empty lines and comments are none. A block gets a body."""
    lines = [line.strip() for line in text.splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]

    def accepted(line: str) -> bool:
        for whole in (line, line + " pass"):
            try:
                ast.parse(whole)
                return True
            except (SyntaxError, ValueError):
                pass
        return False

    return sum(map(accepted, lines)) / max(1, len(lines))


def place_in_the_line(text: str) -> dict[str, Any]:
    """What a reader of code has to remember at each character: its place in the line, how far the line is indented, whether it is in quotes."""
    befores = [line[: k + 1] for line in text.splitlines(keepends=True) for k in range(len(line))]
    return {
        "place in the line": np.array([len(before) for before in befores]),
        "inside quotes": np.array([before.count('"') % 2 or before.count("'") % 2 for before in befores]),
        "indentation": np.array([len(before) - len(before.lstrip(" ")) for before in befores]),
    }


QUICK = Language(characters=300_000, embedding=32, hidden=96, batch=16, steps=600, length=300, judged=100)


@experiment(
    "T16", "A language model of Python's standard library", rows="D6, F1, F2, F9, F10, F11",
    quick=QUICK, full=Language(), seconds=(6, 68),
)  # fmt: skip
def language(run: Run, config: Language) -> None:
    """It learns, writes, and is compared with n-grams and bz2 on the last 5 % of the text, which nobody learned from."""
    c, rng = config, run.rng("model")
    text = data.standard_library_text()[: c.characters or None]
    vocabulary = data.Vocabulary.of(text)
    train, test = data.split(vocabulary.encode(text))
    V, prompt = len(vocabulary), vocabulary.encode(c.prompt)  # before it trains: a letter may not be among them
    if not c.prompt or c.temperature < 0:
        raise errors.ArgumentError("the sample: expected a prompt of one character at least, and a temperature from 0 on")
    model = CharLSTM(V, c.embedding, c.hidden, rng=rng)
    adam = optim.Adam(model.parameters(), lr=c.learning_rate)
    cycle = optim.lr_scheduler.OneCycleLR(adam, c.learning_rate, c.steps, pct_start=0.1, cycle_momentum=False)
    history = run.fit(
        "lstm", model, next_character_loss, adam, data.Streams(train, c.batch, c.window), tbptt=training.tbptt(c.window),
        steps=c.steps, epochs=c.steps, schedule=cycle, clip_norm=1.0,
    )  # fmt: skip

    sample = c.prompt + vocabulary.decode(written(model, prompt, c.length, c.temperature, run.rng("sample"))[0])
    run.write("sample.txt", sample + "\n")
    run.show(f"\n{sample}\n")

    bits = run.result(f"LSTM, H={c.hidden}: bits per character", bits_per_character(model, test), at_most=2.2, quick=2.1)
    counted = [run.result(f"{n}-gram, 0.01 added to every count", data.ngram_bits(train, test, n, V)) for n in range(1, 6)]
    run.result("LSTM: bits over the best of them", bits - min(counted), at_most=0.0, quick=False)
    held_out = vocabulary.decode(test)
    run.result("bz2 of the held-out text alone", 8 * len(bz2.compress(held_out.encode())) / len(held_out))
    run.result("bz2 of the whole text", 8 * len(bz2.compress(text.encode())) / len(text))

    end, judge = train[-100:], run.rng("judged")  # all go on from where the text to learn from ends
    run.result("lines that parse: of the held-out text", share_that_parses(held_out))
    samples = {
        "of the LSTM, temperature 1": written(model, end, c.judged, 1.0, judge, 32),
        f"of the LSTM, temperature {c.temperature:g}": written(model, end, c.judged, c.temperature, judge, 32),
        "of the 5-gram": written_by_counting(train, end, c.judged, judge, 32),
    }
    for of, rows in samples.items():
        run.result(f"lines that parse: {of}", share_that_parses("\n".join(map(vocabulary.decode, rows))))

    read = test[:3000]
    with training.evaluating(model):
        _, _, gates = model.lstm(model.embed(read[:, None]), return_gates=True)
    cells = tg.tanh(gates.c).numpy()[0, :, 0]  # (T, H)
    tellers = []
    for what, wanted in place_in_the_line(vocabulary.decode(read)).items():
        a, b = cells - cells.mean(axis=0), wanted - wanted.mean()
        telling = np.abs(b @ a) / (np.linalg.norm(a, axis=0) * np.linalg.norm(b) + 1e-12)  # of every cell
        tellers.append(int(telling.argmax()))
        run.result(f"correlation of the cell that best tells: {what}", telling.max())
    shown = slice(len(read) // 2, len(read) // 2 + 48)
    panels = {name: getattr(gates, name).numpy()[0, shown, 0][:, tellers] for name in "ifo"} | {"c": cells[shown][:, tellers]}
    run.figure("gates.svg", lambda: tg.plot.gates(panels, labels=[repr(x)[1:-1] for x in vocabulary.decode(read[shown])]))
    run.figure("training.svg", lambda: tg.plot.training(history))


# ---- The command --------------------------------------------------------------------------------------------------------------------------

EXPERIMENTS: list[Experiment] = [parts, memory, language]


def main(argv: list[str] | None = None) -> int:
    """Run the experiments; `--help` names the options."""
    return run_experiments(__doc__, EXPERIMENTS, argv)


if __name__ == "__main__":
    sys.exit(main())
