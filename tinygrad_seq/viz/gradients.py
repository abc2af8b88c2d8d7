"""How much gradient flows along every edge of a picture: the norms of the terms that the reverse sweep adds up."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ..autodiff import steps_of_backward
from ..graph import Node, Value, node_of, toposort
from .picture import Box, Edge, Picture


@dataclass
class Flow:
    """Norms of gradients: of the term that every use of a value sends back, and of what arrives at a state from the next step."""

    uses: dict[tuple[Node, int], float]
    carried: dict[Node, float]
    terms: dict[str, float]  # of the copies of leaves, by the id of their box: of the sum of its terms where a box has several
    largest: float

    def share(self, norm: float) -> float:
        """A norm as a share of the largest."""
        return norm / self.largest if self.largest > 0 else 0.0

    def edge(self, edge: Edge, target: Box) -> float | None:
        """The norm on an edge; None where no gradient flows."""
        if edge.kind == "carry":
            return None if target.tape is None else self.carried.get(target.tape)
        return None if edge.use is None else self.uses.get(edge.use)


def flow_of(outputs: Iterable[Value], picture: Picture) -> Flow:
    """One reverse sweep, which touches no `.grad`."""
    outputs = list(outputs)
    leaves = {node: {0: None} for node in toposort(outputs) if node.prim is None}
    across = {edge.use for edge in picture.edges if edge.kind == "state"}
    copies = {edge.use: edge.source for edge in picture.edges if edge.use and picture.boxes[edge.source].kind == "weight"}
    drawn_for = Counter(copies.values())  # without time, one box stands for all uses of a weight
    uses: dict[tuple[Node, int], float] = {}
    arrived: dict[Node, Any] = {}
    sums: dict[str, Any] = {}
    for step in steps_of_backward(outputs, targets=leaves):
        for position, term in enumerate(step.contributions):
            if term is not None:
                uses[step.node, position] = _norm(term)
                copy = copies.get((step.node, position))
                if copy is not None and drawn_for[copy] > 1:
                    sums[copy] = term if copy not in sums else sums[copy] + term
                if (step.node, position) in across:
                    source = node_of(step.node.args[position])
                    assert source is not None
                    arrived[source] = term if source not in arrived else arrived[source] + term
    drawn = [edge for edge in picture.edges if edge.use in uses]
    terms = {copy: uses[use] for use, copy in copies.items() if use in uses} | {copy: _norm(g) for copy, g in sums.items()}
    carried = {node: _norm(g) for node, g in arrived.items()}
    shown = [*(uses[edge.use] for edge in drawn if edge.use), *carried.values(), *terms.values()]
    return Flow(uses, carried, terms, max(shown, default=0.0))


def _norm(x: Any) -> float:
    return math.sqrt(float((x * x).sum()))
