"""The gated recurrent unit (Cho et al. 2014): the conventions of the notes and of PyTorch, and what it knows beside a hidden Markov model.

    z_t, r_t = σ(W x_t + U h_(t-1) + b), each with weights of its own                     update gate, reset gate
    CS540      n_t = tanh(W_n x_t + U_n (r_t ⊙ h_(t-1)) + b_n)      h_t = (1 - z_t) ⊙ h_(t-1) + z_t ⊙ n_t        z weights the new value
    CS760      the same n_t                                         h_t = z_t ⊙ h_(t-1) + (1 - z_t) ⊙ n_t        u for z: it weights the old one
    PyTorch    n_t = tanh(W_n x_t + b_n + r_t ⊙ (U_n h_(t-1) + c_n))     h_t as in CS760

- D7   CS540 and CS760 are one network in two spellings: σ(-a) = 1 - σ(a), so negate the weights of the update gate, and both go through
       the same states, before and after training. PyTorch's is another network: r acts on the product, not on the state. The two agree where it makes
       no difference: where r is 1, and where U_n is diagonal without a bias c_n.
- T13  Symbols from a hidden Markov model (HMM): s_t from s_(t-1) by A, x_t from s_t by B. Who knows A and B, knows the chances of x_t
       given x_1 ... x_(t-1) by the forward algorithm, and nobody can predict better. Baum and Welch's algorithm finds A and B from the symbols;
       a GRU without any idea of states comes as close, if it reads enough of them: then its state tells what the HMM believes of s_t.
       The notes' "time cost to infer the distribution of the hidden state": all paths of states are S^T, the forward algorithm takes T S²
       steps, and a GRU with H units T H².

Slips of the notes, read as told here. CS540: one letter g for σ and tanh, and "w_G . r_t x h_(t-1)", read as U_n (r_t ⊙ h_(t-1)). CS760: gates that are
not defined and carry the index t-1, read as of step t; "σ_any", read as tanh. CMU 11-785 has fragments only ("don't separately maintain compressed and regular
memories"), its equations are lost: D9 is shown here by what the three have in common, one state in place of h and c.
Sources: CS540, CS760; CMU 11-785 (2017); Cho et al., Learning phrase representations using RNN encoder-decoder (2014); Rabiner, A tutorial on hidden
Markov models, Proceedings of the IEEE 77 (1989).
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

import tinygrad_seq as tg
from models.command_line import run_experiments
from models.experiment import Drawn, Experiment, Run, experiment
from tinygrad_seq import nn, optim, training
from tinygrad_seq.nn import functional as F

# ---- The model ----------------------------------------------------------------------------------------------------------------------------


class NextSymbol(nn.Module):
    """Scores of every symbol given those before it: (T, B) numbers below K -> (T, B, K). options: of `nn.GRU`."""

    def __init__(self, K: int, H: int, *, rng: np.random.Generator, **options: Any):
        self.gru = nn.GRU(K + 1, H, rng=rng, **options)
        self.read = nn.Linear(H, K, rng=rng, dtype=options.get("dtype", "float32"))

    def states(self, xs: Any) -> Any:
        """(T, B, H): the state of step t has read x_1 ... x_(t-1), and before them a sign for the beginning."""
        K = self.gru.input_size - 1
        before = np.concatenate([np.full_like(xs[:1], K), xs[:-1]])
        hs, _ = self.gru(np.eye(K + 1, dtype=self.read.weight.dtype)[before])
        return hs

    def forward(self, xs: Any) -> Any:
        return self.read(self.states(xs))


def next_loss(model: nn.Module, xs: Any) -> Any:
    """Cross entropy of every symbol given those before it, in nats."""
    return F.cross_entropy(model(xs), xs)


# ---- The hidden Markov model --------------------------------------------------------------------------------------------------------------


class HMM:
    """A hidden Markov model: start (S,), A (S, S) from row to column, B (S, K) from state to symbol. All rows add up to 1."""

    def __init__(self, start: Any, A: Any, B: Any):
        self.start, self.A, self.B = (np.asarray(p, dtype="float64") for p in (start, A, B))

    @classmethod
    def drawn(cls, S: int, K: int, rng: np.random.Generator) -> HMM:
        """One to begin Baum-Welch from: states that differ a little, and are left seldom."""
        return cls(np.full(S, 1 / S), 0.4 / S + 0.6 * np.eye(S), rng.dirichlet(np.full(K, 10.0), size=S))

    def sample(self, T: int, N: int, rng: np.random.Generator) -> Any:
        """N sequences of T symbols, (T, N)."""

        def one_of_each(p: Any) -> Any:
            return (p.cumsum(axis=1) < rng.random((len(p), 1))).sum(axis=1)

        s = one_of_each(np.tile(self.start, (N, 1)))
        xs = []
        for _ in range(T):
            xs.append(one_of_each(self.B[s]))
            s = one_of_each(self.A[s])
        return np.stack(xs)

    def forward(self, xs: Any) -> tuple[Any, Any]:
        """The forward algorithm, rescaled at every step: log P(x_t | x_1 ... x_(t-1)) (T, N), beliefs P(s_t | x_1 ... x_t) (T, N, S)."""
        chances, beliefs = [], []
        prior = np.tile(self.start, (xs.shape[1], 1))  # P(s_t | x_1 ... x_(t-1))
        for x in xs:
            joint = prior * self.B[:, x].T  # (N, S)
            chances.append(joint.sum(axis=1))
            beliefs.append(joint / chances[-1][:, None])
            prior = beliefs[-1] @ self.A
        return np.log(np.stack(chances)), np.stack(beliefs)

    def brute_force(self, x: Any) -> float:
        """log P(x_1 ... x_T) of one short sequence (T,): the sum over all S^T paths of states."""
        total = 0.0
        for path in itertools.product(range(len(self.start)), repeat=len(x)):
            steps = [self.A[s, t] for s, t in itertools.pairwise(path)]
            total += float(self.start[path[0]] * np.prod(steps) * np.prod(self.B[list(path), x]))
        return float(np.log(total))

    def improve(self, xs: Any) -> float:
        """One step of Baum-Welch; returns the mean negative log-likelihood that the model had before it.

        E   forward beliefs α_t as above; backward β_T = 1, β_t = A (B_x(t+1) ⊙ β_(t+1)) / P(x_(t+1) | x_1 ... x_t)
            γ_t = α_t ⊙ β_t        P(s_t | x_1 ... x_T)
        M   start = γ_1, A ~ the expected number of moves, B ~ the expected number of symbols; rows normalised
        """
        logs, alphas = self.forward(xs)
        moves, seen, beta = np.zeros_like(self.A), np.zeros_like(self.B), np.ones_like(alphas[0])
        for t in range(len(xs) - 1, -1, -1):
            gamma = alphas[t] * beta
            seen += gamma.T @ np.eye(self.B.shape[1])[xs[t]]
            if t:
                ahead = self.B[:, xs[t]].T * beta / np.exp(logs[t])[:, None]
                moves += self.A * (alphas[t - 1].T @ ahead)
                beta = ahead @ self.A.T
        self.start = gamma.mean(axis=0)
        self.A, self.B = (counts / counts.sum(axis=1, keepdims=True) for counts in (moves, seen))
        return float(-logs.mean())

    def ordered(self) -> HMM:
        """The same with its states in the order of how often each gives symbol 0; a model does not know how they were numbered."""
        order = np.argsort(-self.B[:, 0])
        return HMM(self.start[order], self.A[order][:, order], self.B[order])

    def state_dict(self) -> dict[str, Any]:
        """Its probabilities."""
        return {"start": self.start, "A": self.A, "B": self.B}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take them over."""
        self.start, self.A, self.B = (np.array(state[name]) for name in ("start", "A", "B"))


TRUE = HMM([2 / 3, 1 / 3], [[0.9, 0.1], [0.2, 0.8]], [[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]])


# ---- T13: a net that knows of no states beside the model that made the data -----------------------------------------------------------------


@dataclass(frozen=True)
class Markov:
    """The settings of T13."""

    hidden: int = 8
    sequences: int = 400  # that Baum-Welch learns from, and as many in the test
    length: int = 50
    rounds: int = 150  # of Baum-Welch
    steps: int = 1500
    batch: int = 100
    learning_rate: float = 1e-2


@experiment(
    "T13", "A hidden Markov model and a GRU", rows="E7, E8", quick=Markov(rounds=60, steps=250), full=Markov(), seconds=(3, 9)
)
def markov(run: Run, config: Markov) -> None:
    """The forward algorithm is exact, Baum-Welch finds the model, a GRU predicts as well as the model that made the symbols."""
    c, K = config, TRUE.B.shape[1]
    test = TRUE.sample(c.length, c.sequences, run.rng("test"))
    logs, beliefs = TRUE.forward(test)
    short = test[:10]
    by_paths = np.array([TRUE.brute_force(x) for x in short.T[:5]])
    apart = np.abs(TRUE.forward(short[:, :5])[0].sum(axis=0) - by_paths).max()
    run.result("forward algorithm against the sum over all 1,024 paths: greatest difference", apart, at_most=1e-12)

    few = TRUE.sample(c.length, c.sequences, run.rng("sequences"))
    found = HMM.drawn(2, K, run.rng("start"))
    rounds = run.loop("baum welch", lambda n: {"nats": found.improve(few)}, steps=c.rounds, hmm=found)
    found = found.ordered()
    worst = max(np.abs(found.A - TRUE.A).max(), np.abs(found.B - TRUE.B).max())
    run.result("Baum-Welch: greatest error in A and B", worst, at_most=0.05, quick=0.1)
    run.result(
        "   the greatest rise of the negative log-likelihood in a round", np.diff([r["nats"] for r in rounds]).max(), at_most=1e-12
    )

    def trained(name: str, batches: Any, **options: Any) -> tuple[NextSymbol, float]:
        model = NextSymbol(K, c.hidden, rng=run.rng(name))
        adam = optim.Adam(model.parameters(), lr=c.learning_rate)
        falling = optim.lr_scheduler.CosineAnnealingLR(adam, c.steps)
        run.fit(name, model, next_loss, adam, batches, steps=c.steps, schedule=falling, clip_norm=1.0, **options)
        with training.evaluating(model):
            return model, float(next_loss(model, test))

    endless = Drawn(lambda rng: TRUE.sample(c.length, c.batch, rng), run.rng("endless"))
    gru, nats = trained("gru", endless)
    own, held = few[:, : -c.sequences // 5], few[:, -c.sequences // 5 :]
    batches = [own[:, n : n + c.batch] for n in range(0, own.shape[1], c.batch)]
    best = {"evaluate": lambda model: float(next_loss(model, held)), "every": max(1, c.steps // 30)}
    _, nats_of_few = trained("gru of few", batches, patience=5, restore_best=True, **best)
    shares = np.bincount(few.ravel(), minlength=K) / few.size
    true = run.result("test, nats per symbol: the model that made the symbols", -logs.mean())
    run.result("   shares of the symbols, no memory", -np.log(shares)[test].mean())
    run.result("   Baum-Welch", -found.forward(test)[0].mean())
    run.result(f"   GRU-{c.hidden} that learned from the same {c.sequences} sequences, stopped at its best", nats_of_few)
    run.result("   above the model that made the symbols", nats_of_few - true, at_most=0.005, quick=0.015)
    run.result(f"   GRU-{c.hidden} that learned from {c.steps * c.batch:,} sequences", nats)
    run.result("   the latter above the model that made the symbols", nats - true, at_most=0.005, quick=0.015)

    with training.evaluating(gru):
        hs = gru.states(test).numpy()[1:]  # after x_1 ... x_(T-1)
    belief = beliefs[:-1, :, 0]
    read = linear_reading(hs, belief)
    half = slice(belief.shape[1] // 2, None)  # of the sequences that the reading was not fitted to
    unread = ((read - belief)[:, half] ** 2).mean() / belief[:, half].var()
    run.result(
        "   share of the variance of P(s_t | x_1 ... x_t) that a linear reading of its state tells",
        1 - unread,
        at_least=0.95,
        quick=0.9,
    )
    run.note("Of the sequences that Baum-Welch had, the GRU holds back a fifth, to stop before it knows the others by heart.")
    run.note("No model is better than the one that made the symbols, on average; on one test it may be, by chance.")
    run.figure("belief.svg", lambda: beliefs_plot(belief[:, -1], read[:, -1]))


def beliefs_plot(of_hmm: Any, of_gru: Any) -> tg.plot.Plot:
    """The beliefs about one sequence, side by side."""
    lines = {"the first hidden state, given the symbols so far": np.stack([of_hmm, of_gru], axis=1)}
    plot = tg.plot.trajectories(lines, labels=["HMM, exact", "read from the GRU's state"], start=1)
    plot.figure.axes[0].set_ylabel("probability")
    return plot


def linear_reading(hs: Any, target: Any) -> Any:
    """A linear function of states (T, B, H) for a target (T, B): the one that comes closest to it in the first half of the sequences."""
    features, half = np.concatenate([hs, np.ones_like(hs[..., :1])], axis=-1).astype("float64"), hs.shape[1] // 2
    weights, *_ = np.linalg.lstsq(features[:, :half].reshape(-1, features.shape[-1]), target[:, :half].ravel(), rcond=None)
    return features @ weights


# ---- D7: the same network in two spellings, and another one -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Conventions:
    """The settings of D7."""

    hidden: int = 16
    length: int = 30
    batch: int = 20
    steps: int = 100
    learning_rate: float = 1e-2


SPELLINGS: dict[str, dict[str, str]] = {
    "CS540": {"reset": "before", "z_weights": "new"},
    "CS760": {"reset": "before", "z_weights": "old"},
    "PyTorch": {"reset": "after", "z_weights": "old"},
}


def in_spelling(name: str, model: NextSymbol, *, negate_z: bool = False) -> NextSymbol:
    """A model with the weights of another in a given spelling; negate_z: those of the update gate turned to their negatives."""
    K, H = model.read.weight.shape
    same = NextSymbol(K, H, rng=np.random.default_rng(0), dtype="float64", **SPELLINGS[name])
    weights = {key: np.array(value) for key, value in model.state_dict().items()}
    for key in weights:
        if negate_z and key.startswith("gru."):
            weights[key][H : 2 * H] *= -1  # blocks r z n
    same.load_state_dict(weights)
    return same


@experiment("D7", "Three spellings of a GRU", rows="D7, D8, D9", quick=Conventions(), full=Conventions(), seconds=(1, 1))
def conventions(run: Run, config: Conventions) -> None:
    """Which differences are names, and which are networks."""
    c = config
    xs = TRUE.sample(c.length, c.batch, run.rng("xs"))
    cs540 = NextSymbol(3, c.hidden, rng=run.rng("weights"), dtype="float64", **SPELLINGS["CS540"])

    def apart(a: NextSymbol, b: NextSymbol) -> float:
        with training.evaluating(a), training.evaluating(b):
            return float(np.abs(a.states(xs).numpy() - b.states(xs).numpy()).max())

    cs760 = in_spelling("CS760", cs540, negate_z=True)
    pytorch = in_spelling("PyTorch", cs760)
    run.result("CS540 and CS760, weights of z negated: greatest difference of the states", apart(cs540, cs760), at_most=1e-12)
    run.result("CS540 and CS760, the same weights", apart(cs540, in_spelling("CS760", cs540)), at_least=0.01)
    run.result("CS760 and PyTorch, the same weights", apart(cs760, pytorch), at_least=0.01)
    run.figure("cs760.svg", lambda: drawn(cs760, xs))
    run.figure("pytorch.svg", lambda: drawn(pytorch, xs))

    for name, change in [("r held at 1", hold_open), ("U_n diagonal, c_n = 0", make_diagonal)]:
        before = in_spelling("CS760", cs760)
        change(before.gru)
        run.result(f"CS760 and PyTorch, {name}", apart(before, in_spelling("PyTorch", before)), at_most=1e-12)

    for name, model in [("cs540", cs540), ("cs760", cs760)]:
        batches = Drawn(lambda rng: TRUE.sample(c.length, c.batch, rng), run.rng("the same batches"))
        run.fit(name, model, next_loss, optim.Adam(model.parameters(), lr=c.learning_rate), batches, steps=c.steps)
    run.result(f"CS540 and CS760 after {c.steps} steps of training from such weights", apart(cs540, cs760), at_most=1e-9)


def hold_open(gru: nn.GRU) -> None:
    """A bias of the reset gate at which σ is 1 to the last digit."""
    with tg.no_grad():
        gru.bias_ih_l0[: gru.hidden_size] = 50.0


def make_diagonal(gru: nn.GRU) -> None:
    """U_n keeps its diagonal alone, and c_n is 0: then U_n (r ⊙ h) = r ⊙ (U_n h)."""
    n = slice(2 * gru.hidden_size, None)
    with tg.no_grad():
        gru.weight_hh_l0[n] = np.diag(np.diag(gru.weight_hh_l0.numpy()[n]))
        gru.bias_hh_l0[n] = 0.0


def drawn(model: NextSymbol, xs: Any) -> Any:
    """Two steps of the cell, op by op."""
    return tg.draw((model.states(xs[:2, :1]) ** 2).mean())


# ---- The command --------------------------------------------------------------------------------------------------------------------------

EXPERIMENTS: list[Experiment] = [conventions, markov]


def main(argv: list[str] | None = None) -> int:
    """Run the experiments; `--help` names the options."""
    return run_experiments(__doc__, EXPERIMENTS, argv)


if __name__ == "__main__":
    sys.exit(main())
