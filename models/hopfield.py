"""Hopfield's network (Hopfield 1982): units of -1 and +1, all connected to all, that fall into what was stored. An associative memory.

    E(a) = -1/2 Σ_ij w_ij a_i a_j - Σ_i b_i a_i          w_ij = w_ji,  w_ii = 0
    recall:   pick a unit i at random;   a_i ← +1 if Σ_j w_ij a_j + b_i > 0, else -1        (CS540)
    storing:  w_ij = Σ_memories a_i a_j  for i ≠ j;  the biases stay                        (Hebb's rule)

An update changes E by -(new a_i - old a_i) (Σ_j w_ij a_j + b_i), which is never positive, so E falls until no unit wants to change: a local minimum.
The notes compare that with stochastic gradient descent, and call w_ij a_j + b_i the derivative: its sum and its sign are missing. It is

    dE/da_i = -(Σ_j w_ij a_j + b_i)

- T30  How much it holds: N = 500 units recall αN random memories up to α = 0.138, and hardly any beyond (Amit, Gutfreund, Sompolinsky 1985, 1987).
       Their theory for N → ∞, where m is the overlap of what is recalled with the memory:

           m = erf(y)      2 α = (erf(y) / y - 2/√π e^(-y²))²

       E, in whole numbers and so without any rounding, never rises in 10^5 updates of single units.
- H1   A noisy digit is recalled. Hebb's rule stores a few digits; all ten are too much alike for it. The continuous Hopfield network (Ramsauer et al.
       2020) holds them, and its update ξ - dE/dξ is attention, the query being the noisy digit, keys and values the memories X:

           E(ξ) = 1/2 ξ·ξ - 1/β log Σ_μ exp(β x_μ·ξ)        ξ - dE/dξ = X^T softmax(β X ξ)

Sources: CS540 (UW-Madison), "Hopfield networks"; Hopfield, PNAS 79 (1982); Amit, Gutfreund & Sompolinsky, Annals of Physics 173 (1987); Ramsauer et
al., Hopfield networks is all you need (2020). Nothing is trained here, so there is nothing to resume.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import numpy as np

import tinygrad_seq as tg
from models import digits
from models.command_line import run_experiments
from models.experiment import Experiment, Run, canvas, experiment
from tinygrad_seq.nn import functional as F

# ---- The model ----------------------------------------------------------------------------------------------------------------------------


def store(memories: Any) -> Any:
    """Hebb's rule: memories (K, N) of -1 and +1 -> w (N, N), symmetric, with a diagonal of zeros."""
    w = memories.T @ memories
    np.fill_diagonal(w, 0)
    return w


def energy(a: Any, w: Any, b: Any = 0) -> Any:
    """E(a) of states (..., N), arrays or Tensors: a multiple of 1/2 where w and b are whole numbers, so exact."""
    return -0.5 * ((a @ w) * a).sum(axis=-1) - (a * b).sum(axis=-1)


def update(a: Any, i: int, w: Any, b: Any) -> None:
    """Unit i looks at its field, in all states (..., N), in place."""
    a[..., i] = np.where(a @ w[i] + b[i] > 0, 1, -1)


def recall(a: Any, w: Any, b: Any = None, *, rng: np.random.Generator, sweeps: int = 50) -> Any:
    """Update one unit after the other, in an order drawn anew for every sweep, until a sweep changes nothing: (..., N) -> (..., N)."""
    a, b = np.array(a), np.zeros(len(w), w.dtype) if b is None else b
    for _ in range(sweeps):
        before = a.copy()
        for i in rng.permutation(len(w)):
            update(a, i, w, b)
        if (a == before).all():
            break
    return a


# ---- T30: capacity ------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Capacity:
    """The settings of T30."""

    units: int = 500  # N
    draws: int = 3  # of sets of memories for each load
    updates: int = 100_000  # of single units, watched by their energy
    starts: int = 20  # random states that these updates begin from


LOADS = (0.02, 0.06, 0.10, 0.12, 0.138, 0.15, 0.17, 0.20, 0.25, 0.30)


def signs(rng: np.random.Generator, *shape: int, dtype: Any = "float64") -> Any:
    """Units -1 or +1 by the toss of a coin. Whole numbers up to 2^53 are exact in float64, and products of matrices are fast."""
    return rng.choice(np.array([-1, 1], dtype), shape)


def overlap_after_recall(N: int, load: float, rng: np.random.Generator) -> float:
    """The mean of m = 1/N Σ_i a_i x_i over all memories x, where a is what the network makes of x itself."""
    memories = signs(rng, round(load * N), N)
    return float((recall(memories, store(memories), rng=rng) * memories).mean())


def theory() -> tuple[Any, Any]:
    """The loads α and overlaps m of states of recall for N → ∞: from an empty network to the greatest load that has one."""
    y = np.linspace(8, 0.5, 20_000)
    load = 0.5 * (tg.erf(y) / y - 2 / np.sqrt(np.pi) * np.exp(-(y**2))) ** 2
    some = slice(int(load.argmax()) + 1)
    return load[some], tg.erf(y)[some]


def rises(w: Any, b: Any, starts: Any, updates: int, rng: np.random.Generator) -> tuple[int, int, Any]:
    """Update one random unit at a time, from each start (n, N) in turn: how many updates raised E, how many units changed, E of the last run.

    All are integers, and E is computed anew, from its definition, whenever a unit has changed.
    """
    raised = changed = 0
    for start in starts:
        a = start.copy()
        energies = [energy(a, w, b)]
        for i in rng.integers(len(w), size=updates // len(starts)):
            before = a[i]
            update(a, i, w, b)
            if a[i] != before:
                energies.append(energy(a, w, b))
        raised += int((np.diff(energies) > 0).sum())
        changed += len(energies) - 1
    return raised, changed, energies


@experiment(
    "T30", "Hopfield: capacity, and an energy that never rises", rows="H1",
    quick=Capacity(units=300, draws=1, updates=20_000, starts=5), full=Capacity(), seconds=(2, 7),
)  # fmt: skip
def capacity(run: Run, config: Capacity) -> None:
    """Overlap against load, beside the theory; the energy over many updates."""
    c, rng = config, run.rng("memories")
    measured = [[overlap_after_recall(c.units, load, rng) for _ in range(c.draws)] for load in LOADS]
    mean = dict(zip(LOADS, np.mean(measured, axis=1), strict=True))
    load, m = theory()
    run.result(f"N={c.units}: overlap with the memory at load .10", mean[0.10], at_least=0.97)
    run.result("overlap at load .138", mean[0.138])
    run.result("overlap at load .15", mean[0.15])
    run.result("overlap at load .20", mean[0.20], at_most=0.75, quick=0.85)
    run.result("theory for N → ∞: overlap at load .10", np.interp(0.10, load, m))
    run.result("theory: the greatest load that is recalled", load[-1], at_least=0.1375, at_most=0.1385)

    rng = run.rng("energy")
    memories = signs(rng, c.units // 10, c.units, dtype="int64")
    w, b = store(memories), rng.integers(-20, 21, c.units)
    raised, changed, energies = rises(w, b, signs(rng, c.starts, c.units, dtype="int64"), c.updates, rng)
    run.result(f"updates that raised the energy, of {c.updates:,} in integers", raised, at_most=0)
    run.result("units that changed in them", changed, at_least=c.units)
    a = tg.tensor(signs(rng, c.units), requires_grad=True)
    slope = tg.grad(energy(a, w.astype("float64"), b), a).numpy()
    run.result("autodiff: greatest |dE/da_i + Σ_j w_ij a_j + b_i|", abs(slope + w @ a.numpy() + b).max(), at_most=0)
    run.figure("capacity.svg", lambda: capacity_figure(c, measured, energies))


def capacity_figure(config: Capacity, measured: Any, energies: Any) -> Any:
    """Measured overlaps on the curve of the theory, and the energy falling from a random state."""
    drawn = canvas(8, 3)
    left, right = drawn.subplots(1, 2)
    load, m = theory()
    left.plot(load, m, color="black", label="theory, N → ∞")
    left.axvline(load[-1], color="gray", linestyle=":", label=f"α = {load[-1]:.3f}")
    left.plot(np.repeat(LOADS, config.draws), np.ravel(measured), "o", fillstyle="none", label=f"N = {config.units}")
    left.set(xlabel="load α: memories per unit", ylabel="overlap after recall", ylim=(0, 1.05), xlim=(0, None))
    left.legend(frameon=False)
    right.step(range(len(energies)), energies, where="post", color="black")
    right.set(xlabel="units that have changed", ylabel="energy E(a)")
    return drawn


# ---- H1: digits ---------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Recall:
    """The settings of H1."""

    few: int = 3  # digits that Hebb's rule stores
    noise: float = 0.1  # share of pixels that are flipped
    copies: int = 100  # noisy copies of each digit
    beta: float = 1.0  # how sharp the attention of the continuous network is


def prototypes() -> tuple[Any, Any]:
    """One digit of each class, the one nearest to its mean, as -1 and +1 (10, 64); and the classes, those first that are alike least.

    Ink is what is darker than 0.3: two fifths of the pixels. With less, all memories would be much the same paper.
    """
    train, _ = digits.load()
    means = np.stack([train.flat[train.labels == k].mean(0) for k in range(10)])
    nearest = [int(((train.flat - mean) ** 2).sum(1).argmin()) for mean in means]
    x = np.where(train.flat[nearest] > 0.3, 1, -1)
    alike = abs(x @ x.T)
    chosen = [int(k) for k in divmod(int((alike + alike.max() * np.eye(10)).argmin()), 10)]
    while len(chosen) < 10:
        rest = [k for k in range(10) if k not in chosen]
        chosen.append(min(rest, key=lambda k: alike[k, chosen].max()))
    return x, chosen


def attend(xi: Any, X: Any, beta: float) -> Any:
    """The update of the continuous network, X^T softmax(β X ξ): (..., N) -> (..., N). It is attention."""
    return F.scaled_dot_product_attention(xi, X, X, scale=beta)


def continuous_energy(xi: Any, X: Any, beta: float) -> Any:
    """1/2 ξ·ξ - 1/β log Σ_μ exp(β x_μ·ξ) of queries (..., N): (...)."""
    return 0.5 * (xi * xi).sum(axis=-1) - tg.logsumexp(beta * (xi @ X.T), axis=-1) / beta


@experiment("H1", "Hopfield: noisy digits are recalled", rows="H1", quick=Recall(copies=20), full=Recall(), seconds=(2, 2))
def noisy_digits(run: Run, config: Recall) -> None:
    """A few digits by Hebb's rule; all ten by it, which fails; all ten by the continuous network."""
    c, rng = config, run.rng("noise")
    x, chosen = prototypes()
    few = x[chosen[: c.few]]

    def noisy(memories: Any) -> Any:
        """Copies (copies, K, N) with pixels flipped."""
        flipped = rng.random((c.copies, *memories.shape)) < c.noise
        return np.where(flipped, -memories, memories)

    def whole(recalled: Any, memories: Any) -> float:
        return float((recalled == memories).all(axis=-1).mean())

    seen = noisy(few)
    found = recall(seen, store(few), rng=rng)
    names = ", ".join(str(k) for k in sorted(chosen[: c.few]))
    run.result(f"digits {names}, {c.noise:.0%} of the pixels flipped: recalled whole", whole(found, few), at_least=0.9)
    all_seen = noisy(x)
    run.result("all ten digits, Hebb's rule: recalled whole", whole(recall(all_seen, store(x), rng=rng), x))
    xi = all_seen.astype("float64")
    once = attend(xi, x.astype("float64"), c.beta)
    run.result("all ten, one step of attention: recalled whole", whole(np.where(once > 0, 1, -1), x), at_least=0.9)
    query = tg.tensor(xi[0], requires_grad=True)
    slope = tg.grad(continuous_energy(query, x, c.beta).sum(), query).numpy()
    run.result("continuous network: greatest |ξ - dE/dξ - attention|", abs(xi[0] - slope - once[0]).max(), at_most=1e-12)
    run.note(
        "Hebb's rule stores memories that are unlike each other: ten digits of 64 pixels, most of them paper in all, run into one another."
    )
    rows = [few, seen[0], found[0]]
    run.figure("recall.png", lambda: recall_figure(rows, [x, all_seen[0], recall(all_seen[0], store(x), rng=rng), once[0]]))


def recall_figure(hebb: Any, all_ten: Any) -> Any:
    """Rows of digits: what was stored, what was seen, what was recalled; to the left a few digits, to the right all of them."""
    names = ["stored", "seen", "recalled by\nHebb's rule", "by attention"]
    columns = len(hebb[0]) + 1 + len(all_ten[0])
    drawn = canvas(0.62 * columns, 0.66 * 4)
    for k, axes in enumerate(drawn.subplots(4, columns).flat):
        row, column = divmod(k, columns)
        part, at = (hebb, column) if column < len(hebb[0]) else (all_ten, column - len(hebb[0]) - 1)
        if column == 0:
            axes.set_ylabel(names[row], rotation=0, ha="right", va="center", fontsize=8)
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
        if at >= 0 and row < len(part):
            axes.imshow(part[row][at].reshape(8, 8), cmap="gray_r", vmin=-1, vmax=1)
    return drawn


# ---- The command --------------------------------------------------------------------------------------------------------------------------

EXPERIMENTS: list[Experiment] = [capacity, noisy_digits]


def main(argv: list[str] | None = None) -> int:
    """Run the experiments; `--help` names the options."""
    return run_experiments(__doc__, EXPERIMENTS, argv)


if __name__ == "__main__":
    sys.exit(main())
