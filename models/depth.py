"""Gradients along depth: a recurrent network is a deep one that uses the same weights again (CMU 11-785, "gradients of a deep network").

    x_(l+1) = f(W_l x_l)          dL/dx_l = W_l^T (f'(W_l x_l) ⊙ dL/dx_(l+1)): a factor W_l^T diag(f') for every layer on the way back

- C13  How large is dL/dW of a neuron, its incoming weights, by layer from the output back to the input, when training begins? Digits and 19 layers
       "1024 layers wide", as the notes have it, which are 1024 neurons. For sigmoids f' <= 1/4, and more than half a decade is lost in every layer;
       tanh, ReLU and ELU lose nothing where the weights start with a variance that keeps the norms (Xavier, He).

Nothing is trained here. The same along time: models/rnn.py, C1; what a matrix does over many steps: models/linear_systems.py.
Sources: CMU 11-785 (2017), "Recurrent Networks"; Glorot & Bengio, Understanding the difficulty of training deep feedforward neural networks (2010);
He et al., Delving deep into rectifiers (2015).
"""

from __future__ import annotations

import itertools
import sys
from dataclasses import dataclass
from typing import Any

import tinygrad_seq as tg
from models import digits
from models.command_line import run_experiments
from models.experiment import Experiment, Run, experiment
from tinygrad_seq import nn
from tinygrad_seq.nn import functional as F

# ---- C13: nineteen layers -----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Depth:
    """The settings of C13."""

    layers: int = 19
    width: int = 1024
    batch: int = 64


@experiment("C13", "Gradients in a deep network at its start", rows="C13", quick=Depth(width=256), full=Depth(), seconds=(3, 8))
def depth(run: Run, config: Depth) -> None:
    """Digits, cross entropy, no training: sigmoids lose more than half a decade in every layer, others nothing where the weights start rightly."""
    c, (train, _) = config, digits.load()
    found = {}
    kinds = {"sigmoid": (tg.sigmoid, nn.init.xavier_normal_), "tanh": (tg.tanh, nn.init.xavier_normal_)}
    kinds |= {"ReLU": (F.relu, nn.init.kaiming_normal_), "ELU": (F.elu, nn.init.kaiming_normal_)}
    for name, (f, start) in kinds.items():
        rng = run.rng(name)
        widths = [64, *[c.width] * (c.layers - 1), 10]
        layers = [nn.Linear(D, H, bias=False, rng=rng) for D, H in itertools.pairwise(widths)]
        for layer in layers:
            start(layer.weight, rng=rng)
        hidden = [layer.weight for layer in layers[1:-1]]  # those of equal shape

        def norms(rows: slice, f: Any = f, layers: Any = layers, hidden: Any = hidden) -> Any:
            x = train.flat[rows]
            for layer in layers[:-1]:
                x = f(layer(x))
            return tg.bptt.neuron_norms(F.cross_entropy(layers[-1](x), train.labels[rows]), hidden)

        found[name] = norms(slice(c.batch))
        bounds = {"at_least": 0.5} if name == "sigmoid" else {"at_least": -0.05, "at_most": 0.05}
        run.result(f"{name}: decades that the gradient loses in a layer", found[name].decades_lost, **bounds)
    found["ELU, 1 digit"] = norms(slice(1))
    run.figure("depth.png", lambda: tg.plot.depth(found))


# ---- The command --------------------------------------------------------------------------------------------------------------------------

EXPERIMENTS: list[Experiment] = [depth]


def main(argv: list[str] | None = None) -> int:
    """Run the experiment; `--help` names the options."""
    return run_experiments(__doc__, EXPERIMENTS, argv)


if __name__ == "__main__":
    sys.exit(main())
