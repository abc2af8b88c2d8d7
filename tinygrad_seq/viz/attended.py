"""Gradients along edges of attention: what a reader sends back to the states that it attends to, each its own part."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from ..bptt.norms import norm_of
from .picture import Edge, Picture, Use


def attended_by(picture: Picture) -> dict[Use, tuple[str, str]]:
    """For every use of states that were put together for attention: what reads them, and the box that holds them."""
    home = {one.id: box.id for box in picture.boxes.values() for one in (box, *box.inside)}
    memories = [box for box in picture.boxes.values() if box.kind == "memory"]
    return {
        e.use: (home[e.target], box.id) for box in memories for e in box.held if e.source == box.id and e.use and e.target in home
    }


def attention_norms(picture: Picture, sums: Mapping[Any, Any]) -> dict[int, float]:
    """The norm of what flows back along every edge of attention, by the `id` of the edge. sums: what flows from a reader to all of them."""
    edges: dict[str, list[Edge]] = defaultdict(list)
    for edge in picture.edges:
        if edge.kind == "attend":
            edges[edge.target].append(edge)
    norms: dict[int, float] = {}
    for reader, its in edges.items():
        its.sort(key=lambda edge: picture.boxes[edge.source].column or 0)
        for (one, _), whole in ((key, term) for key, term in sums.items() if isinstance(key, tuple) and len(key) == 2):
            if one == reader and len(whole) == len(its):
                norms |= {id(edge): norm_of(part) for edge, part in zip(its, whole, strict=True)}
    return norms
