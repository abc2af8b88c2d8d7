"""Gradients along the depth of a network: for every neuron the norm of dL/dW of its incoming weights, layer by layer (CMU 11-785).

What `flow` shows along time. A network at its start whose norms fall by the same factor in every layer loses its gradient before it learns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..autodiff import grad
from ..backend import to_numpy
from ..errors import ArgumentError, message
from ..graph import Value
from .measures import frobenius, lines_of, short

WHO = "neuron_norms"


@dataclass(frozen=True, eq=False, repr=False)
class NeuronNorms:
    """names: of the layers, from the input to the output. norms: for each layer the norm for each of its neurons, (neurons,)."""

    names: tuple[str, ...]
    norms: tuple[Any, ...]

    @property
    def medians(self) -> Any:
        """The median over the neurons of each layer, (L,)."""
        return np.array([np.median(norms) for norms in self.norms])

    @property
    def decades_lost(self) -> float:
        """How many powers of ten the gradient loses in a layer, from the output to the input, by a straight line through the medians' logarithms.

        inf where it is 0 in some layer but not in all; NaN where a norm is NaN or there is one layer only.
        """
        with np.errstate(divide="ignore", invalid="ignore"):
            logs = np.log10(self.medians)
        if np.isfinite(logs).all() and len(logs) > 1:
            return float(np.polyfit(np.arange(len(logs)), logs, 1)[0])
        return float("inf") if np.isneginf(logs).any() and np.isfinite(logs).any() and not np.isnan(logs).any() else float("nan")

    def table(self, most: int = 24) -> str:
        """A line for every layer, the output first: the smallest, the median and the largest norm of its neurons."""
        measures = {"smallest": [n.min() for n in self.norms], "median": self.medians, "largest": [n.max() for n in self.norms]}
        columns = {name: [short(float(x)) for x in values[::-1]] for name, values in measures.items()}
        columns["neurons"] = [str(len(norms)) for norms in self.norms[::-1]]
        head = f"norm of dL/dW for each neuron; {short(self.decades_lost)} decades lost in a layer"
        return "\n".join([head, *lines_of("layer", self.names[::-1], columns, most)])

    def __repr__(self) -> str:
        return f"NeuronNorms({len(self.names)} layers, {short(self.decades_lost)} decades lost in a layer)"


def neuron_norms(loss: Value, weights: Any) -> NeuronNorms:
    """The norm of dL/dW of the incoming weights of every neuron, layer by layer.

        n = tg.bptt.neuron_norms(loss, model)          # its matrices, in their order
        n.norms[0], n.medians, n.decades_lost; print(n.table())

    weights: a module, a dictionary of names and Tensors, or a list of Tensors, from the input to the output; a neuron is a row of W (out, ...).
    Of a weight that the loss does not depend on the norms are 0. No `.grad` is touched.
    """
    if hasattr(weights, "named_parameters"):
        named = {name: p for name, p in weights.named_parameters() if p.ndim > 1}
    else:
        named = (
            dict(weights)
            if isinstance(weights, Mapping)
            else {str(i): w for i, w in enumerate(weights if isinstance(weights, Sequence) else [weights])}
        )
    if not named or not all(isinstance(w, Value) and w._data.ndim > 1 for w in named.values()):
        raise ArgumentError(
            message(f"{WHO}: no weights, or one that is no matrix", expected="a module, or Tensors (out, in) by name or as a list")
        )
    tensors = list(named.values())
    found = grad(loss, tensors, allow_unused=True)
    norms = [
        np.zeros(len(w._data)) if g is None else frobenius(to_numpy(g._data).reshape(len(w._data), 1, -1).astype(np.float64))
        for w, g in zip(tensors, found, strict=True)
    ]
    return NeuronNorms(tuple(named), tuple(norms))
