"""Long memory: tasks that only a network can learn whose gradient lives for fifty steps.

CMU 11-785 and CS760 ask for memory on demand ("PATTERN1 ... PATTERN2", Jane ... she). A recurrent network multiplies by W and f' at every step, and what
is left after fifty of them is tiny or huge; a gated cell, c_t = f_t ⊙ c_(t-1) + i_t ⊙ g_t, or a careful start of W, lets it through.

- T4  The adding problem (Hochreiter & Schmidhuber 1997): T numbers, two of them marked; the answer is the sum of those two. Who always says 1 has
      a mean squared error of 2/12 = 1/6. LSTM and GRU learn it; so does the IRNN, a plain network of rectifiers whose W begins as the identity and
      whose biases begin at zero (Le, Jaitly & Hinton 2015; C16, "initialising very carefully"); a plain tanh network after the same number
      of steps does not. One whose W begins orthogonal is printed beside.
- T5  Temporal order (Hochreiter & Schmidhuber 1997, task 2a): two of fifty symbols count, X or Y each, and the answer is which came and in
      which order. An honest negative: a tanh network whose W begins orthogonal learns it too. Here also two LSTM layers with a feed-forward
      layer between them (D10), and what the gates of a trained LSTM do (D6: i lets in, f throws away, o exposes to the next step).
- T6  Copy memory (Arjovsky, Shah & Bengio 2016): S symbols of K, D blanks, then a signal to say them again. Without memory the best is
      S ln K / (D + 2S) nats per step.
- T8  Peepholes (Gers, Schraudolph & Schmidhuber 2002): two spikes, F or F-1 steps apart; which? Gates that see the cell can count. An honest
      negative: at F = 15 the LSTM without them learns it too.

All train on sequences drawn anew, so there is nothing to learn by heart, and are tested on others; but in T8, of whose sequences there are but 2F,
which all are seen in training: there the question is whether a network can tell them apart at all.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import tinygrad_seq as tg
from models.command_line import run_experiments
from models.experiment import Drawn, Experiment, Run, experiment
from tinygrad_seq import nn, optim, training
from tinygrad_seq.nn import functional as F

# ---- The model ----------------------------------------------------------------------------------------------------------------------------


class Reader(nn.Module):
    """A recurrent network and a linear layer that reads its last state, or with every=True all of them: (T, B, D) -> (B, K) or (T, B, K)."""

    def __init__(self, recurrent: nn.Module, H: int, K: int, *, every: bool = False, rng: np.random.Generator):
        self.recurrent, self.every = recurrent, every
        self.read = nn.Linear(H, K, rng=rng)

    def forward(self, xs: Any) -> Any:
        hs, _ = self.recurrent(xs)
        return self.read(hs if self.every else hs[-1])


def remembering(layer: Any, span: int) -> Any:
    """An LSTM or GRU that begins by remembering for about `span` steps (Tallec & Ollivier 2018).

    What is kept of the old, f in the LSTM and z in the GRU, begins near 1 - 1/span, and what is written in the LSTM, i, near 1/span. A forget gate that
    begins open (Gers, Schmidhuber & Cummins 2000), as far as the task asks for it.
    """
    H = layer.hidden_size
    with tg.no_grad():
        layer.bias_ih_l0[H : 2 * H] = math.log(span)  # f of i f g o, z of r z n
        if isinstance(layer, nn.LSTM):
            layer.bias_ih_l0[:H] = -math.log(span)
    return layer


class Deep(nn.Module):
    """Two LSTM layers with a feed-forward layer between them."""

    def __init__(self, D: int, H: int, span: int, *, rng: np.random.Generator):
        self.lower, self.between = remembering(nn.LSTM(D, H, rng=rng), span), nn.Linear(H, H, rng=rng)
        self.upper = remembering(nn.LSTM(H, H, rng=rng), span)

    def forward(self, xs: Any) -> Any:
        hs, _ = self.lower(xs)
        return self.upper(tg.tanh(self.between(hs)))


Task = Callable[[int, np.random.Generator], tuple[Any, Any]]  # B sequences: inputs (T, B, D), and what is to be said of them


def train(run: Run, name: str, model: Reader, loss: Any, task: Task, c: Any, rate: float) -> training.History:
    """Adam on sequences drawn anew, its rate falling to 0 along a cosine."""
    adam = optim.Adam(model.parameters(), lr=rate)
    schedule = optim.lr_scheduler.CosineAnnealingLR(adam, c.steps)
    batches = Drawn(lambda rng: task(c.batch, rng), run.rng(f"{name}: sequences"))
    return run.fit(
        name,
        model,
        lambda model, batch: loss(model(batch[0]), batch[1]),
        adam,
        batches,
        steps=c.steps,
        schedule=schedule,
        clip_norm=1.0,
    )


def said(model: Reader, xs: Any) -> Any:
    """What the model answers, as an array."""
    with training.evaluating(model):
        return model(xs).numpy()


def losses_by_decades(histories: dict[str, training.History]) -> Any:
    """The courses of several trainings, the loss on a logarithmic scale: it falls by decades once a network has found what to remember."""
    plot = tg.plot.training(histories)
    plot.figure.axes[0].set_yscale("log")
    return plot


# ---- T4: adding ---------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Adding:
    """The settings of T4."""

    length: int = 50
    steps: int = 4000  # of every network
    batch: int = 32
    gated: int = 32  # H of LSTM and GRU
    plain: int = 64  # H of the others
    gated_rate: float = 1e-2
    plain_rate: float = 2e-3


def adding(T: int, B: int, rng: np.random.Generator) -> tuple[Any, Any]:
    """Numbers between 0 and 1, and marks: one in the first half, one in the second. (T, B, 2), and the sums of the marked ones (B, 1)."""
    numbers, marks, rows = rng.random((T, B), dtype="float32"), np.zeros((T, B), "float32"), np.arange(B)
    marks[rng.integers(0, T // 2, B), rows] = marks[rng.integers(T // 2, T, B), rows] = 1
    return np.stack([numbers, marks], axis=-1), (numbers * marks).sum(axis=0)[:, None]


@experiment(
    "T4", "The adding problem: fifty steps", rows="C15, C16, D12",
    quick=Adding(length=20, steps=700), full=Adding(), seconds=(7, 43),
)  # fmt: skip
def adding_problem(run: Run, config: Adding) -> None:
    """LSTM, GRU and IRNN learn to add; a plain tanh network with as many steps does not."""
    c = config

    def made(rng: np.random.Generator) -> dict[str, tuple[nn.Module, int, float]]:
        H = c.plain
        return {
            "LSTM": (remembering(nn.LSTM(2, c.gated, rng=rng), c.length), c.gated, c.gated_rate),
            "GRU": (remembering(nn.GRU(2, c.gated, rng=rng), c.length), c.gated, c.gated_rate),
            "IRNN": (nn.RNN(2, H, nonlinearity="relu", recurrent_init="identity", rng=rng), H, c.plain_rate),
            "tanh RNN": (nn.RNN(2, H, rng=rng), H, c.plain_rate),
            "tanh RNN, orthogonal": (nn.RNN(2, H, recurrent_init="orthogonal", rng=rng), H, c.plain_rate),
        }

    xs, sums = adding(c.length, 2000, run.rng("test"))
    bounds: dict[str, Any] = {
        "LSTM": {"at_most": 0.002, "quick": 0.02},
        "GRU": {"at_most": 0.002, "quick": 0.02},
        "IRNN": {"at_most": 0.002, "quick": 0.02},
        "tanh RNN": {"at_least": 0.02, "quick": 0.05},
    }
    run.result("always 1: mean squared error", ((sums - 1) ** 2).mean())
    histories = {}
    for name, (layer, H, rate) in made(run.rng("weights")).items():
        model = Reader(layer, H, 1, rng=run.rng(f"{name}: read"))
        histories[name] = train(run, name, model, F.mse_loss, lambda B, rng: adding(c.length, B, rng), c, rate)
        error = ((said(model, xs) - sums) ** 2).mean()
        run.result(f"{name}, H={H}: mean squared error", error, **bounds.get(name, {}))
    run.figure("adding.svg", lambda: losses_by_decades(histories))


# ---- T5: order ----------------------------------------------------------------------------------------------------------------------------

SYMBOLS = "abcdXYBE"  # four that mean nothing, two that count, begin and end


@dataclass(frozen=True)
class Order:
    """The settings of T5."""

    length: int = 50
    hidden: int = 16
    steps: int = 1500
    batch: int = 64
    rate: float = 5e-3


def order(T: int, B: int, rng: np.random.Generator) -> tuple[Any, Any]:
    """B, then symbols that mean nothing with an X or Y in 10-20 % and in 50-60 % of the time, then E: one-hot (T, B, 8); which of XX, XY, YX, YY."""
    ids, rows = rng.integers(0, 4, (T, B)), np.arange(B)
    ids[0], ids[-1] = SYMBOLS.index("B"), SYMBOLS.index("E")
    first, second = rng.integers(0, 2, (2, B))
    ids[rng.integers(T // 10, T // 5, B), rows] = SYMBOLS.index("X") + first
    ids[rng.integers(T // 2, T * 3 // 5, B), rows] = SYMBOLS.index("X") + second
    return np.eye(len(SYMBOLS), dtype="float32")[ids], 2 * first + second


@experiment(
    "T5", "Temporal order: which came first", rows="C15, D6, D10", quick=Order(length=20, steps=300), full=Order(), seconds=(2, 12)
)
def temporal_order(run: Run, config: Order) -> None:
    """An LSTM learns it; beside it two LSTM layers with one between them, and a plain network with an orthogonal start."""
    c, D, rng = config, len(SYMBOLS), run.rng("weights")
    networks = {
        "LSTM": remembering(nn.LSTM(D, c.hidden, rng=rng), c.length),
        "LSTM, feed-forward, LSTM": Deep(D, c.hidden, c.length, rng=rng),
        "tanh RNN, orthogonal": nn.RNN(D, c.hidden, recurrent_init="orthogonal", rng=rng),
    }
    xs, classes = order(c.length, 2000, run.rng("test"))
    histories = {}
    for name, network in networks.items():
        model = Reader(network, c.hidden, 4, rng=run.rng(f"{name}: read"))
        histories[name] = train(run, name, model, F.cross_entropy, lambda B, rng: order(c.length, B, rng), c, c.rate)
        right = (said(model, xs).argmax(axis=-1) == classes).mean()
        run.result(f"{name}, H={c.hidden}: right answers", right, **({"at_least": 0.99, "quick": 0.95} if name == "LSTM" else {}))
    run.note(
        "Temporal order hardly tells the LSTM from a plain network with an orthogonal W; the adding problem does. Two layers do not learn it with every seed."
    )
    run.figure("order.svg", lambda: losses_by_decades(histories))
    _, _, gates = networks["LSTM"](xs[:, :1], return_gates=True)
    panels = {
        name: gate.numpy()[0, :48, 0] for name, gate in gates._asdict().items()
    }  # of more letters the plot does not name each
    letters = [SYMBOLS[k] for k in xs[:48, 0].argmax(axis=-1)]
    run.figure("gates.svg", lambda: tg.plot.gates(panels, labels=letters))
    small = Reader(Deep(D, 4, 3, rng=rng), 4, 4, rng=rng)
    run.figure("deep.svg", lambda: tg.draw(F.cross_entropy(small(xs[:3, :1]), classes[:1]), level="cells"))


# ---- T6: copying --------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Copying:
    """The settings of T6."""

    symbols: int = 8  # K
    count: int = 5  # S
    delay: int = 20  # D
    hidden: int = 64
    steps: int = 2500
    batch: int = 64
    rate: float = 2e-2


def copying(c: Copying, B: int, rng: np.random.Generator) -> tuple[Any, Any]:
    """S symbols, D-1 blanks, the signal, S blanks: one-hot (D+2S, B, K+2); to be said: blank until the signal, then the symbols (D+2S, B)."""
    S, K, T = c.count, c.symbols, c.delay + 2 * c.count
    symbols = rng.integers(0, K, (S, B))
    read, say = np.full((T, B), K), np.full((T, B), K)  # K: blank, K+1: the signal
    read[:S], read[S + c.delay - 1], say[-S:] = symbols, K + 1, symbols
    return np.eye(K + 2, dtype="float32")[read], say


@experiment(
    "T6", "Copy memory: five symbols over twenty steps", rows="C15, D12",
    quick=Copying(symbols=4, count=2, delay=5, hidden=32, steps=600), full=Copying(), seconds=(3, 31),
)  # fmt: skip
def copy_memory(run: Run, config: Copying) -> None:
    """GRU and LSTM say five symbols again after twenty steps."""
    c = config
    xs, say = copying(c, 1000, run.rng("test"))
    S, T, rng = c.count, len(xs), run.rng("weights")
    memoryless = S * math.log(c.symbols) / T
    run.result("without memory: cross entropy", memoryless)
    networks = {
        "GRU": remembering(nn.GRU(c.symbols + 2, c.hidden, recurrent_init="orthogonal", rng=rng), T),
        "LSTM": remembering(nn.LSTM(c.symbols + 2, c.hidden, recurrent_init="orthogonal", rng=rng), T),
    }
    for name, network in networks.items():
        model = Reader(network, c.hidden, c.symbols + 2, every=True, rng=rng)
        train(run, name, model, F.cross_entropy, lambda B, rng: copying(c, B, rng), c, c.rate)
        scores = said(model, xs)
        run.result(f"{name}, H={c.hidden}: cross entropy", F.cross_entropy(scores, say), at_most=0.07)
        run.result(f"{name}: symbols right", (scores.argmax(axis=-1) == say)[-S:].mean(), at_least=0.85)


# ---- T8: peepholes ------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Spikes:
    """The settings of T8."""

    apart: int = 15  # F
    hidden: int = 4
    steps: int = 2500
    batch: int = 32
    rate: float = 2e-2


def spikes(apart: int, B: int, rng: np.random.Generator) -> tuple[Any, Any]:
    """Two spikes of 1 among zeros, F = apart or F-1 steps from each other, the first one anywhere: (2F, B, 1), and whether it was F (B,).

    Every first spike comes with both distances: then the small gradient that tells them apart does not drown in the chance that one is more frequent.
    """
    xs, rows = np.zeros((2 * apart, B, 1), "float32"), np.arange(B)
    first, far = np.repeat(rng.integers(0, apart, B // 2), 2), rows % 2
    xs[first, rows] = xs[first + apart - 1 + far, rows] = 1
    return xs, far


@experiment(
    "T8", "Peepholes: how far apart two spikes are", rows="D3", quick=Spikes(apart=8, steps=600), full=Spikes(), seconds=(2, 6)
)
def peepholes(run: Run, config: Spikes) -> None:
    """An LSTM whose gates see its cell tells F from F-1."""
    c, rng = config, run.rng("weights")
    xs, far = spikes(c.apart, 400, run.rng("test"))
    for name, kind, bounds in (("with peepholes", "diagonal", {"at_least": 1.0}), ("without", None, {})):
        lstm = remembering(nn.LSTM(1, c.hidden, peephole=kind, rng=rng), c.apart)
        model = Reader(lstm, c.hidden, 2, rng=rng)
        train(run, name, model, F.cross_entropy, lambda B, rng: spikes(c.apart, B, rng), c, c.rate)
        run.result(f"LSTM {name}, H={c.hidden}: right of 400", (said(model, xs).argmax(axis=-1) == far).mean(), **bounds)
        _, _, gates = lstm(xs[:, :1], return_gates=True)
        run.figure(f"gates_{name.replace(' ', '_')}.svg", lambda gates=gates: tg.plot.gates(gates))
    run.note(
        "Peepholes are no condition for it: the LSTM without them is printed beside, and with enough steps it mostly learns it as well."
    )


# ---- The command --------------------------------------------------------------------------------------------------------------------------

EXPERIMENTS: list[Experiment] = [adding_problem, temporal_order, copy_memory, peepholes]


def main(argv: list[str] | None = None) -> int:
    """Run the experiments; `--help` names the options."""
    return run_experiments(__doc__, EXPERIMENTS, argv)


if __name__ == "__main__":
    sys.exit(main())
