"""The networks that commands draw and take apart: small ones that are built in, with random weights, and whatever a user's function computes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import nn, steps, tensor
from ..errors import ArgumentError, GraphError, message
from ..graph import box, toposort, value_of
from ..nn import functional as F
from ..ops import concatenate
from . import own

TARGETS = 2  # numbers that a built-in network predicts


@dataclass(frozen=True)
class Recorded:
    """What was computed: the values, among them the losses of the steps where there are several, and which weight is the first to look at."""

    name: str
    outputs: list[Any]
    weight: str | None = None

    @property
    def loss(self) -> Any:
        """One scalar: what was returned, or the sum of the losses; GraphError where there are none."""
        shapes = [tuple(value.shape) for value in self.outputs]
        if any(shape not in ((), (1,)) for shape in shapes):
            raise GraphError(
                message(
                    f"{self.name}: it returned {', '.join(map(str, shapes))}",
                    expected="a loss, which is a scalar, or the losses of all steps",
                    do="return hs.sum(), say, or [loss of step 1, loss of step 2, ...]",
                )
            )
        if len(self.outputs) == 1:
            return self.outputs[0]
        loss = sum(self.outputs)
        loss.name = "L"
        return loss

    @property
    def losses(self) -> list[Any] | None:
        """The losses of the steps, if there are several."""
        return self.outputs if len(self.outputs) > 1 else None

    def weights(self) -> dict[str, Any]:
        """The leaves by name, numbered where they have none; those that need a gradient."""
        leaves = [node for node in toposort(self.outputs) if node.prim is None]
        names = [leaf.notes_of(0).name or f"leaf {k}" for k, leaf in enumerate(leaves, 1)]
        return {name: box(value_of(leaf), leaf) for name, leaf in zip(names, leaves, strict=True)}

    def weight_called(self, name: str | None, option: str = "--weight") -> Any:
        """The weight of that name, or of one that ends so; without a name the one that is worth the first look."""
        known = self.weights()
        name = name or self.weight or (next(iter(known)) if len(known) == 1 else None)
        found = [key for key in known if key == name] or [key for key in known if name and key.endswith(f".{name}")]
        if len(found) != 1:
            told = "which weight?" if name is None else f"{len(found) or 'no'} weight{'s' * (len(found) > 1)} called {name!r}"
            raise ArgumentError(
                message(
                    f"{self.name}: {told}",
                    expected=f"one of {', '.join(known)}" if known else "a graph with weights",
                    do=f"{option} {next(iter(known))}"
                    if known
                    else "Tensors made with requires_grad=True, or a module's parameters",
                )
            )
        return known[found[0]]


def recorded(name: str, defaults: dict[str, Any], given: dict[str, Any]) -> Recorded:
    """The graph of a network that is built in, or of a user's function."""
    if ":" in name:
        if given:
            raise ArgumentError(
                message(
                    f"{name}: --{next(iter(given))} is for the networks that are built in",
                    do="leave it out: the function itself says how large its network is",
                )
            )
        return Recorded(name, own.outputs_of(name))
    sizes = defaults | given
    losses, weight = _built_in(name, **sizes)
    return Recorded(name, losses, weight)


def _built_in(
    name: str, *, steps: int, layers: int, inputs: int, hidden: int, batch: int, seed: int, loss: str
) -> tuple[list[Any], str]:
    """The losses of a network, and the name of its recurrent weight."""
    rng = np.random.default_rng(seed)
    model: Any = Seq2Seq(inputs, hidden, layers, rng) if name == "seq2seq" else Tagger(name, inputs, hidden, layers, rng)
    xs, ys = (tensor(rng.standard_normal((steps, batch, inputs))) for _ in range(2))
    ds = rng.standard_normal((steps, batch, TARGETS))
    losses = model(xs, ys, ds) if name == "seq2seq" else model(xs, ds, last=loss == "last")
    losses = losses[-1:] if loss == "last" else losses
    for one in losses:
        one.name = "C"
    return losses, "encoder.weight_hh_l0" if name == "seq2seq" else "rnn.weight_hh_l0"


class Tagger(nn.Module):
    """Recurrent layers and a readout: a squared error at every step, or at the last."""

    def __init__(self, kind: str, inputs: int, hidden: int, layers: int, rng: np.random.Generator):
        known: dict[str, tuple[Any, dict[str, Any]]] = {
            "rnn": (nn.RNN, {}),
            "rnn-relu": (nn.RNN, {"nonlinearity": "relu"}),
            "lstm": (nn.LSTM, {}),
            "peephole": (nn.LSTM, {"peephole": "full"}),
            "gru": (nn.GRU, {}),
            "bidirectional": (nn.RNN, {"bidirectional": True}),
        }
        make, options = known[kind]
        self.rnn = make(inputs, hidden, layers, rng=rng, dtype="float64", **options)
        self.readout = nn.Linear(hidden * len(self.rnn.directions), TARGETS, rng=rng, dtype="float64")

    def forward(self, xs: Any, ds: Any, last: bool) -> list[Any]:
        """xs (T, B, D), ds (T, B, TARGETS) -> the losses."""
        hs, _ = self.rnn(xs)
        if last:
            return [F.mse_loss(self.readout(hs[-1]), ds[-1])]
        return [F.mse_loss(self.readout(h), d) for h, d in zip(steps(hs), ds, strict=True)]


class Seq2Seq(nn.Module):
    """An encoder, and a decoder that attends to all states of it (Luong, Pham & Manning 2015)."""

    def __init__(self, inputs: int, hidden: int, layers: int, rng: np.random.Generator):
        options: dict[str, Any] = {"rng": rng, "dtype": "float64"}
        self.encoder = nn.GRU(inputs, hidden, layers, **options)
        self.decoder = nn.GRUCell(inputs, hidden, **options)
        self.attention = nn.BilinearAttention(hidden, hidden, **options)
        self.readout = nn.Linear(2 * hidden, TARGETS, **options)

    def forward(self, xs: Any, ys: Any, ds: Any) -> list[Any]:
        """xs (T, B, D), ys (T, B, D), ds (T, B, TARGETS) -> the losses of the decoder's steps."""
        hs, _ = self.encoder(xs)
        h, losses = hs[-1], []
        for y, d in zip(steps(ys), ds, strict=True):
            h = self.decoder(y, h)
            context, _ = self.attention(h, hs)
            losses.append(F.mse_loss(self.readout(concatenate([h, context], axis=-1)), d))
        return losses
