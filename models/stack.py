"""A stack in one number (Siegelmann & Sontag 1995): the mechanism behind "recurrent networks can compute whatever a Turing machine can".

    push b    s' = s/4 + (2b + 1)/4          top               neuron(4s - 2)                    neuron(z) = min(max(z, 0), 1)
    pop       s' = 4s - (2 top + 1)          something there   neuron(4s)

Two such stacks are the tape of a Turing machine, left and right of its head; here is one. Every bit takes two binary digits of s, a 3 or a 1 to the
base of 4, so s is never near a decision. But the 53 digits of a float64 are full with 26 bits.

- E10  A stack gives back what was put into it, and knows when it is empty: to 26 bits in float64, to any depth where the number is a fraction.
       The notes: a recurrent network is Turing complete ("potentially", CMU). That needs numbers without end; nothing here is trained.

Sources: CS760 (UW-Madison), "Recurrent Neural Networks"; CMU 11-785 (2017), "Recurrent Networks"; Siegelmann & Sontag, On the computational power of
neural nets, Journal of Computer and System Sciences 50 (1995).
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from models.command_line import run_experiments
from models.experiment import Experiment, Run, experiment

# ---- The stack ----------------------------------------------------------------------------------------------------------------------------


def neuron(z: Any) -> Any:
    """The saturated linear unit of Siegelmann & Sontag."""
    return min(max(z, 0), 1)


def goes_through(word: list[int], one: Any) -> bool:
    """Whether the stack takes the bits of a word and gives them back, and knows when it is empty. one: the number 1, of the kind to compute with."""
    s = 0 * one
    for bit in word:
        s = s / 4 + (2 * bit + 1) * one / 4
    for bit in reversed(word):
        top = neuron(4 * s - 2)
        if top != bit or neuron(4 * s) != 1:
            return False
        s = 4 * s - (2 * top + 1)
    return bool(neuron(4 * s) == 0)


# ---- E10: how deep it holds ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stack:
    """The settings of E10."""

    deep: int = 300  # bits on the stack of fractions
    words: int = 200  # tried at every depth


@experiment("E10", "A stack in one number", rows="E10", quick=Stack(), full=Stack(), seconds=(1, 1))
def stack(run: Run, config: Stack) -> None:
    """Push and pop are weights and a saturated unit: unlimited memory in a finite network, if numbers have unlimited digits."""

    def exact(depth: int, one: Any) -> bool:
        words = run.rng(f"depth {depth}").integers(0, 2, (config.words, depth)).tolist()
        return all(goes_through(word, one) for word in [*words, [0] * depth, [1] * depth])

    float_depth = next(depth for depth in range(1, 100) if not exact(depth, 1.0)) - 1
    run.result("float64: exact up to so many bits", float_depth, at_least=26, at_most=26)
    run.result(f"fractions: exact with {config.deep} bits", exact(config.deep, Fraction(1)), at_least=1)


# ---- The command --------------------------------------------------------------------------------------------------------------------------

EXPERIMENTS: list[Experiment] = [stack]


def main(argv: list[str] | None = None) -> int:
    """Run the experiment; `--help` names the options."""
    return run_experiments(__doc__, EXPERIMENTS, argv)


if __name__ == "__main__":
    sys.exit(main())
