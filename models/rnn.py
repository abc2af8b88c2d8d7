"""Elman's recurrent network (Elman 1990), on tasks where the next output needs a summary of all inputs so far.

    h_t = tanh(W x_t + U h_(t-1) + b)          o_t = V h_t + c                   (CMU 11-785, CS760, CS540: one step, for all times)

- T1   Adding numbers of N bits, from the right to the left: x_t are the two bits of place t, o_t is the bit of the sum, and the state has to hold
       the carry. The notes: a multi-layer perceptron (MLP) needs very many examples and works for one N; a recurrent net learns the rule, for all N.
- T2   Running parity: o_t is the exclusive or of x_1 ... x_t. The notes: an MLP needs a hidden layer as wide as the sequence, a recurrent net one XOR.
       To have a solution is not to find it: LSTMs do from every start, tanh networks from some; that is what the experiment is about.
- T3   The embedded Reber grammar: which symbols may come next? The answer lies in the last symbols, but for one symbol that repeats the second one.
- C1   The same matrix at every step: dL/dh_t fades or grows exponentially on the way back, a straight line on a logarithmic scale.

Many-to-many: an output at every step. Many-to-one is the same network with o_T alone (T2 trains both). In all of it successive inputs depend on one
another: T3 also reads its strings with their symbols shuffled, and is surprised.
Known beforehand: T3 hardly tells an LSTM from an Elman network any more, as it did with the training methods of 1997. Of the tasks that the notes
list (E11), speech and its synthesis have no data here, and no file.
Sources: CMU 11-785 (2017), "Recurrent Networks", N-bit addition and parity; CS540; CS760; Graves' deck; Elman, Finding structure in time, Cognitive
Science 14 (1990); Hochreiter & Schmidhuber, Long short-term memory, Neural Computation 9 (1997).
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np

import tinygrad_seq as tg
from models.command_line import run_experiments
from models.experiment import Drawn, Experiment, Run, experiment
from tinygrad_seq import data, errors, nn, optim, training
from tinygrad_seq.nn import functional as F
from tinygrad_seq.nn.functional import dynamics

# ---- The model ----------------------------------------------------------------------------------------------------------------------------


class Elman(nn.Module):
    """Elman's network with scores at every step, (T, B, D) -> (T, B, outputs). kind: nn.LSTM puts gates and a cell in the same place."""

    def __init__(self, D: int, H: int, outputs: int = 1, kind: Any = nn.RNN, *, rng: np.random.Generator):
        self.rnn = kind(D, H, rng=rng)
        self.read = nn.Linear(H, outputs, rng=rng)

    def forward(self, xs: Any) -> Any:
        hs, _ = self.rnn(xs)  # (T, B, H)
        return self.read(hs)  # (T, B, outputs)


def bits_loss(model: nn.Module, batch: tuple[Any, Any]) -> Any:
    """Cross entropy of bits."""
    xs, targets = batch
    return F.binary_cross_entropy_with_logits(model(xs), targets)


def right(model: nn.Module, xs: Any, targets: Any) -> Any:
    """Which bits the model says rightly, of the shape of the targets."""
    with training.evaluating(model):
        return (model(xs).numpy() > 0) == (targets > 0.5)


# ---- T1: addition -------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Addition:
    """The settings of T1."""

    hidden: int = 6  # H of the recurrent net
    steps: int = 1500
    batch: int = 64
    learning_rate: float = 2e-2
    shortest: int = 4  # bits in training, from ...
    longest: int = 9  # ... to
    long: int = 64  # bits in the test
    mlp_bits: int = 6
    mlp_hidden: int = 48
    mlp_pairs: int = 50
    mlp_steps: int = 2000


def bits(numbers: Any, n: int) -> Any:
    """The n lowest binary digits of Python integers, the least significant first: (n, B)."""
    return np.array([[number >> place & 1 for number in numbers] for place in range(n)], dtype="float32")


def sums(a: list[int], b: list[int], n: int) -> tuple[Any, Any]:
    """Pairs of numbers of n bits and their sums: inputs (n+1, B, 2), targets (n+1, B, 1); the last step, for the last carry, reads zeros."""
    return np.stack([bits(a, n + 1), bits(b, n + 1)], axis=-1), bits([p + q for p, q in zip(a, b, strict=True)], n + 1)[..., None]


def drawn_sums(n: int, B: int, rng: np.random.Generator) -> tuple[Any, Any]:
    """The sums of B pairs that are drawn."""
    a, b = ([int.from_bytes(rng.bytes(n // 8 + 1), "big") % 2**n for _ in range(B)] for _ in range(2))
    return sums(a, b, n)


@experiment("T1", "N-bit addition: a rule against a table", rows="E1, A15", quick=Addition(), full=Addition(), seconds=(5, 5))
def addition(run: Run, config: Addition) -> None:
    """The recurrent net adds 64 bits after training on up to 9; the MLP fails on pairs that it has not seen, and cannot read one bit more."""
    c, N = config, config.mlp_bits

    def drawn(rng: np.random.Generator) -> tuple[Any, Any]:
        return drawn_sums(int(rng.integers(c.shortest, c.longest + 1)), c.batch, rng)

    def trained(name: str, batches: Any) -> tuple[Elman, float]:
        elman = Elman(2, c.hidden, rng=run.rng(name))
        run.fit(name, elman, bits_loss, optim.Adam(elman.parameters(), lr=c.learning_rate), batches, steps=c.steps)
        return elman, float(right(elman, *long).all(axis=(0, 2)).mean())

    long = drawn_sums(c.long, 200, run.rng("long sums"))
    elman, share = trained("rnn", Drawn(drawn, run.rng("sums")))
    run.result(f"RNN, H={c.hidden}: {c.long}-bit sums all of whose bits are right", share, at_least=1.0)

    a, b = (x.tolist() for x in np.divmod(run.rng("pairs").permutation(4**N), 2**N))  # every pair once, in some order
    _, share = trained("rnn of few", [sums(a[: c.mlp_pairs], b[: c.mlp_pairs], N)])
    run.result(f"RNN that has seen but {c.mlp_pairs} pairs of {N} bits: {c.long}-bit sums", share, at_least=0.2)
    xs, targets = sums(a, b, N)
    xs, targets = np.concatenate([xs[:N, :, 0], xs[:N, :, 1]]).T, targets[..., 0].T  # the same for an MLP: all bits side by side
    seen, unseen = slice(c.mlp_pairs), slice(c.mlp_pairs, None)
    mlp = perceptron(2 * N, c.mlp_hidden, N + 1, rng=run.rng("mlp"))
    run.fit("mlp", mlp, bits_loss, optim.Adam(mlp.parameters(), lr=1e-2), [(xs[seen], targets[seen])], steps=c.mlp_steps)
    all_right = right(mlp, xs, targets).all(axis=1)
    run.result(f"MLP {2 * N}-{c.mlp_hidden}-{N + 1}: the {c.mlp_pairs} pairs of {N} bits that it learned", all_right[seen].mean())
    run.result(f"MLP: all other pairs of {N} bits", all_right[unseen].mean(), at_most=0.2)
    run.result(f"MLP: rejects {N + 1} bits (1: it raises an error of shape)", rejects(mlp, 2 * (N + 1)), at_least=1.0)
    run.figure("carry.svg", lambda: what_it_keeps(elman, *drawn_sums(24, 1, run.rng("shown"))))


def what_it_keeps(elman: Elman, xs: Any, targets: Any) -> Any:
    """A sum, its carries, and the states while it is made."""
    with training.evaluating(elman):
        hs, _ = elman.rnn(xs)
    summands, total = xs[:, 0], targets[:, 0]
    into = (
        summands.sum(axis=1) + total[:, 0]
    ) % 2  # a bit of the sum is 1 where an odd number of ones meets: two bits and the carry
    plot = tg.plot.gates({"the two bits": summands, "carry into the place": into[:, None], "states": hs.numpy()[:, 0]})
    for bar in plot.figure.axes[-3:]:
        bar.set_ylabel("")
    return plot


def perceptron(D: int, H: int, outputs: int, *, rng: np.random.Generator) -> nn.Sequential:
    """One hidden layer, (B, D) -> (B, outputs)."""
    return nn.Sequential(nn.Linear(D, H, rng=rng), nn.Tanh(), nn.Linear(H, outputs, rng=rng))


def rejects(model: nn.Module, width: int) -> bool:
    """Whether a model refuses an input of that width."""
    try:
        model(np.zeros((1, width), "float32"))
    except errors.ShapeError:
        return True
    return False


# ---- T2: parity ---------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Parity:
    """The settings of T2."""

    hidden: int = 8
    steps: int = 1500
    batch: int = 64
    shortest: int = 2  # of the sequences to learn from; 1 where the last step alone is taught: it finds out first what one bit says
    longest: int = 12
    long: int = 100  # of those in the test
    starts: int = 5  # of the tanh network
    mlp_bits: int = 10
    mlp_steps: int = 1000


def parities(T: int, B: int, rng: np.random.Generator) -> tuple[Any, Any]:
    """Bits (T, B, 1), and the parity of all so far, at every step."""
    xs = rng.integers(0, 2, (T, B, 1)).astype("float32")
    return xs, xs.cumsum(axis=0) % 2


@experiment(
    "T2", "Running parity", rows="E2, A7", quick=Parity(steps=1200, starts=2, mlp_steps=300), full=Parity(), seconds=(5, 12)
)
def parity(run: Run, config: Parity) -> None:
    """Solutions set by hand are exact; an LSTM finds one from every start, also where it hears only about the last step; tanh from some."""
    c = config
    long = parities(c.long, 200, run.rng("long"))

    def trained(name: str, kind: Any, learning_rate: float, last_only: bool = False) -> tuple[Elman, training.History]:
        model, out = Elman(1, c.hidden, kind=kind, rng=run.rng(name)), slice(-1, None) if last_only else slice(None)
        adam = optim.Adam(model.parameters(), lr=learning_rate)
        shortest = 1 if last_only else c.shortest
        batches = Drawn(lambda rng: parities(int(rng.integers(shortest, c.longest + 1)), c.batch, rng), run.rng(f"{name}: bits"))

        def loss(model: nn.Module, batch: tuple[Any, Any]) -> Any:
            xs, targets = batch
            return F.binary_cross_entropy_with_logits(model(xs)[out], targets[out])

        return model, run.fit(name, model, loss, adam, batches, steps=c.steps, clip_norm=1.0)

    lstm, history = trained("lstm", nn.LSTM, 2e-2)
    T, steps = c.long, f"right at every step, length {c.long}"
    run.result(f"LSTM, H={c.hidden}, taught at every step: {steps}", right(lstm, *long).mean(), at_least=1.0)
    one, _ = trained("lstm of the last", nn.LSTM, 2e-2, last_only=True)
    run.result(f"LSTM taught at the last step only: right at step {T}", right(one, *long)[-1].mean(), at_least=0.95)
    histories, shares = {"LSTM": history}, []
    for n in range(c.starts):
        elman, histories[f"tanh, start {n + 1}"] = trained(f"tanh {n + 1}", nn.RNN, 1e-2)
        shares.append(float(right(elman, *long).mean()))
        run.result(f"tanh, H={c.hidden}, start {n + 1}: {steps}", shares[-1])
    run.result("tanh: starts that end without a mistake", sum(share == 1 for share in shares), at_least=1, quick=False)
    xs, targets = parities(1000, 200, run.rng("very long"))
    run.result(
        "tanh, 2 hidden units and an output set by hand: length 1000", right(parity_by_hand(), xs, targets).mean(), at_least=1.0
    )

    N = c.mlp_bits
    xs = bits(range(2**N), N).T
    targets = xs.sum(axis=1, keepdims=True) % 2
    shown, hidden = np.split(run.rng("table").permutation(2**N), 2)
    mlp = perceptron(N, N, 1, rng=run.rng("mlp"))
    run.fit("mlp", mlp, bits_loss, optim.Adam(mlp.parameters(), lr=1e-2), [(xs[shown], targets[shown])], steps=c.mlp_steps)
    run.result(
        f"MLP {N}-{N}-1: the half of all sequences of {N} bits that it learned", right(mlp, xs[shown], targets[shown]).mean()
    )
    run.result("MLP: the other half", right(mlp, xs[hidden], targets[hidden]).mean())
    run.result(f"MLP {N}-{N}-1 set by hand: all of them", right(table_by_hand(N), xs, targets).mean(), at_least=1.0)
    few = {name: histories[name] for name in list(histories)[:4]}
    run.figure("training.svg", lambda: tg.plot.training(few))
    run.figure("many_to_many.svg", lambda: tg.draw(outputs(), level="cells", title="many-to-many"))
    run.figure("many_to_one.svg", lambda: tg.draw(outputs()[-1], level="cells", title="many-to-one"))


def outputs(steps: int = 4) -> list[Any]:
    """o_1 ... o_T of a small network, recorded one after another, to be drawn."""
    elman = Elman(2, 3, rng=np.random.default_rng(0))
    with tg.unfolded():
        hs, _ = elman.rnn(np.zeros((steps, 1, 2), "float32"))
        return [elman.read(h) for h in tg.steps(hs)]


def parity_by_hand(gain: float = 10.0) -> Elman:
    """An XOR: the units say whether x_t + y_(t-1) is at least 1, and at least 2, as +1 or -1; y_t is half the difference."""
    model = Elman(1, 2, rng=np.random.default_rng(0))
    zero = {name: np.zeros(p.shape, "float32") for name, p in model.named_parameters()}
    w_hh = gain * np.array([[0.5, -0.5], [0.5, -0.5]])
    b = gain * np.array([-0.5, -1.5])
    mine = {"rnn.weight_ih_l0": gain * np.ones((2, 1)), "rnn.weight_hh_l0": w_hh, "rnn.bias_ih_l0": b}
    model.load_state_dict({**zero, **mine, "read.weight": np.array([[0.5, -0.5]]), "read.bias": np.array([-0.5])})
    return model


def table_by_hand(N: int, gain: float = 10.0) -> nn.Sequential:
    """The MLP of the notes: hidden unit j = 1 ... N says whether there are at least j ones; the output adds them with alternating signs."""
    mlp = perceptron(N, N, 1, rng=np.random.default_rng(0))
    j = np.arange(1, N + 1)
    half = -0.5 * (-1.0) ** j  # of units that say +1 or -1
    first = {"0.weight": gain * np.ones((N, N)), "0.bias": gain * (0.5 - j)}
    mlp.load_state_dict({**first, "2.weight": half[None], "2.bias": np.array([half.sum() - 0.5])})
    return mlp


# ---- T3: embedded Reber grammar -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reber:
    """The settings of T3."""

    hidden: int = 12
    steps: int = 2000
    batch: int = 32
    learning_rate: float = 2e-2
    strings: int = 256  # in the test


SYMBOLS = "BTPSXVE"
# Reber's automaton: at each of its places two symbols may come, and each leads to the place behind it; 5 is the end.
GRAMMAR = ("T1", "P2"), ("S1", "X3"), ("T2", "V4"), ("X2", "S5"), ("P3", "V5")


def reber_string(rng: np.random.Generator) -> tuple[str, list[set[str]]]:
    """An embedded Reber string, B outer B ... E outer E with outer T or P, and after each of its symbols but the last which ones may come."""
    outer, place = "TP"[int(rng.integers(2))], 0
    said, legal = f"B{outer}B", [{"T", "P"}, {"B"}]
    while place != 5:
        legal.append({way[0] for way in GRAMMAR[place]})
        symbol, to = GRAMMAR[place][int(rng.integers(2))]
        said, place = said + symbol, int(to)
    return f"{said}E{outer}E", [*legal, {"E"}, {outer}, {"E"}]


def reber_strings(B: int, rng: np.random.Generator) -> tuple[Any, Any, list[list[set[str]]]]:
    """B strings: their symbols (T, B), their lengths (B,), and what was legal."""
    strings, legal = zip(*(reber_string(rng) for _ in range(B)), strict=True)
    ids, lengths = data.pad([np.array([SYMBOLS.index(symbol) for symbol in string]) for string in strings])
    return ids, lengths, list(legal)


def next_symbol_loss(model: nn.Module, batch: tuple[Any, ...]) -> Any:
    """Cross entropy of the next symbol."""
    ids, lengths, *_ = batch
    return F.over_time(F.cross_entropy, model(tg.one_hot(ids[:-1], len(SYMBOLS), dtype="float32")), ids[1:], lengths - 1)


def knows_the_grammar(model: nn.Module, batch: tuple[Any, ...]) -> tuple[float, float]:
    """The shares of strings in which all legal symbols, and no others, are ranked on top at every step; and in which the outer symbol is right."""
    ids, _, legal = batch
    with training.evaluating(model):
        scores = model(tg.one_hot(ids[:-1], len(SYMBOLS), dtype="float32")).numpy()
    top = [
        [{SYMBOLS[k] for k in (-scores[t, b]).argsort()[: len(s)]} == s for t, s in enumerate(sets)] for b, sets in enumerate(legal)
    ]
    return float(np.mean([all(rows) for rows in top])), float(np.mean([rows[-2] for rows in top]))


@experiment("T3", "Embedded Reber grammar", rows="A16, C15, E11", quick=Reber(steps=1200), full=Reber(), seconds=(5, 9))
def reber(run: Run, config: Reber) -> None:
    """The LSTM knows the grammar in the end, a plain network from most starts; shuffled strings surprise it: what it has learned is their order."""
    c, test = config, reber_strings(config.strings, run.rng("test"))
    histories: dict[str, training.History] = {}
    for name, kind in (("LSTM", nn.LSTM), ("tanh", nn.RNN)):
        model = Elman(len(SYMBOLS), c.hidden, len(SYMBOLS), kind, rng=run.rng(name))
        if kind is nn.LSTM:
            with tg.no_grad():
                model.rnn.bias_ih_l0[c.hidden : 2 * c.hidden] = 1  # the forget gate begins open (Gers, Schmidhuber & Cummins 2000)
        adam = optim.Adam(model.parameters(), lr=c.learning_rate)
        falling = optim.lr_scheduler.CosineAnnealingLR(adam, c.steps)
        batches = Drawn(lambda rng: reber_strings(c.batch, rng), run.rng(f"{name}: strings"))
        histories[name] = run.fit(name, model, next_symbol_loss, adam, batches, steps=c.steps, schedule=falling, clip_norm=1.0)
        legal, outer = knows_the_grammar(model, test)
        bounds = {"at_least": 1.0} if kind is nn.LSTM else {}
        run.result(f"{name}, H={c.hidden}: strings with all legal symbols on top, at every step", legal, **bounds)
        run.result(f"{name}: strings whose outer symbol it remembers", outer, **bounds)
        if kind is nn.LSTM:
            shuffled = test[0].copy()
            for b, length in enumerate(test[1]):
                shuffled[:length, b] = run.rng(f"shuffle {b}").permutation(shuffled[:length, b])
            with training.evaluating(model):
                in_order, out_of_order = (float(next_symbol_loss(model, (ids, test[1]))) for ids in (test[0], shuffled))
            run.result("LSTM: nats a symbol", in_order)
            run.result("LSTM: the same symbols shuffled, so many times worse", out_of_order / in_order, at_least=2)
    run.note(
        "The Reber grammar hardly tells gated from plain networks where both are trained by Adam with clipping: from most starts both learn it."
    )
    run.figure("training.svg", lambda: tg.plot.training(histories))
    run.figure("next_symbol.svg", lambda: expectations(model, test[0][: test[1][0], :1]))


def expectations(model: nn.Module, ids: Any) -> Any:
    """What a network holds likely after every symbol of one string."""
    with training.evaluating(model):
        p = F.softmax(model(tg.one_hot(ids[:-1], len(SYMBOLS), dtype="float32")), axis=-1).numpy()[:, 0]
    plot = tg.plot.attention(p, queries=[f"after {SYMBOLS[k]}" for k in ids[:-1, 0]], keys=list(SYMBOLS))
    squares, bar = plot.figure.axes
    squares.set(xlabel="the next symbol", ylabel="the string so far")
    bar.set_ylabel("probability")
    return plot


# ---- C1: vanishing and exploding gradients ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Flow:
    """The settings of C1."""

    hidden: int = 32
    steps: int = 100  # T


@experiment("C1", "Gradients on their way back", rows="C1, C14", quick=Flow(), full=Flow(), seconds=(1, 1))
def gradient_flow(run: Run, config: Flow) -> None:
    """W_hh = s Q with Q orthogonal: without tanh the gradient falls or grows as s^(T-t), exactly; with tanh it is the smaller, the more is saturated."""
    H, T, rng = config.hidden, config.steps, run.rng("network")
    rnn = nn.RNN(3, H, recurrent_init="orthogonal", rng=rng, dtype="float64")
    Q, xs, flows, worst = rnn.weight_hh_l0.numpy().copy(), rng.normal(size=(T, 4, 3)), {}, 0.0
    for s in (0.5, 1.0, 1.5):
        with tg.no_grad():
            rnn.weight_hh_l0[:] = s * Q
        linear = tg.bptt.flow((dynamics.linear_recursion(xs, np.zeros((4, H)), rnn.weight_ih_l0, rnn.weight_hh_l0)[-1] ** 2).sum())
        plain = tg.bptt.flow((rnn(xs)[0][-1] ** 2).sum())
        flows |= {f"linear, s = {s:g}": linear, f"tanh, s = {s:g}": plain}
        worst = max(worst, abs(math.log10(linear.lines[0].left) - (T - 1) * math.log10(s)))
        bound = {0.5: {"at_most": 1e-25}, 1.5: {"at_most": 1e6}}.get(s, {})
        run.result(f"tanh, s = {s:g}: dL/dh_1 over dL/dh_{T}", plain.lines[0].left, **bound)
    run.result(f"linear: decades that dL/dh_1 is off from s^{T - 1}, at most", worst, at_most=1e-9)
    run.note("With s = 1.5 tanh is saturated, and its derivative hides the explosion that the linear network shows.")
    run.figure("flow.svg", lambda: tg.plot.flow({name: flows[name] for name in sorted(flows)}))


# ---- The command --------------------------------------------------------------------------------------------------------------------------

EXPERIMENTS: list[Experiment] = [addition, parity, reber, gradient_flow]


def main(argv: list[str] | None = None) -> int:
    """Run the experiments; `--help` names the options."""
    return run_experiments(__doc__, EXPERIMENTS, argv)


if __name__ == "__main__":
    sys.exit(main())
