"""Attention: what reads all states of an encoder at once gets an edge from every one of them, as wide as the weight that it gives it."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..graph import raw, value_of
from .norms import mix
from .picture import Box, Edge, Picture

PASSING = frozenset({"stack", "concatenate"})
LEAST, MOST = "#d3dce2", "#0f766e"


def draw_attention(picture: Picture) -> None:
    """Draw the stacked states of one loop that the steps of another read as an edge from every state to every reader."""
    widest: list[tuple[Edge, float]] = []
    for last in [box for box in picture.boxes.values() if _passes(box)]:
        memory = _memory(picture, last.id) if last.id in picture.boxes and picture.boxes[last.id] is last else {}
        into = [e for e in picture.edges if e.target in memory and e.source not in memory]
        out = [e for e in picture.edges if e.source == last.id]
        within = [e for e in picture.edges if e.source in memory and e.target in memory]
        sources = list(dict.fromkeys(e.source for e in into))
        readers = list(dict.fromkeys(e.target for e in out))
        steps: list[Any] = sorted({picture.boxes[id].column or 0 for id in sources})
        if not out or not sources or None in {picture.boxes[id].column for id in (*sources, *readers)}:
            continue
        if len(steps) < 2 or {*steps} & {picture.boxes[id].column for id in readers}:
            continue  # a layer that reads the whole sequence below it
        for reader in readers:
            weights = weights_of(picture.boxes[reader], len(steps))
            for source in sources:
                edge = Edge(source, reader, "attend", way=True, look={"arrowhead": "none", "color": LEAST, "penwidth": 0.8})
                picture.edges.append(edge)
                widest += [] if weights is None else [(edge, float(weights[steps.index(picture.boxes[source].column)]))]
        parts = (*into, *within, *out)
        held = [one for edge in parts for one in edge.bundle or [edge]]
        hidden = Box(last.id, last.label, "memory", inside=[picture.boxes[id] for id in memory], held=held)
        gone = {id(edge) for edge in parts}
        picture.boxes = {
            key: hidden if key == last.id else box for key, box in picture.boxes.items() if key not in memory or key == last.id
        }
        picture.edges = [edge for edge in picture.edges if id(edge) not in gone]
    most = max((weight for _, weight in widest), default=0.0)
    for edge, weight in widest:
        edge.look |= {"color": mix(LEAST, MOST, min(1.0, weight**0.6)), "penwidth": f"{0.4 + 5 * weight:.2f}"}
    if widest:
        picture.remarks.append(f"green: attention, as wide and as dark as its weight (at most {most:.2f})")


def _passes(box: Box) -> bool:
    """Whether a box outside of all steps only puts together what it is given."""
    return box.kind == "op" and box.column is None and box.tape is not None and box.tape.prim.name in PASSING


def _memory(picture: Picture, last: str) -> dict[str, None]:
    """The boxes that put together what is attended to, up to the last of them: all states stacked, those of two directions beside each other."""
    memory = {last: None}
    stack = [last]
    while stack:
        here = stack.pop()
        for source in [e.source for e in picture.edges if e.target == here]:
            targets = {e.target for e in picture.edges if e.source == source}
            if source not in memory and _passes(picture.boxes[source]) and targets <= memory.keys():
                memory[source] = None
                stack.append(source)
    return memory


def weights_of(reader: Box, count: int) -> Any:
    """How much a box attends to each of `count` states, on average over a batch: what in it sums to 1 over them; None where nothing does."""
    for one in [reader, *reader.inside]:
        if one.tape is None or one.tape.prim is None or one.kind not in ("op", "term") or count not in one.tape.shape:
            continue
        if one.tape.prim.name == "softmax" or one.tape.prim.name == "divide":
            values = np.asarray(raw(value_of(one.tape)), dtype="f8")
            for axis in (k for k, n in enumerate(values.shape) if n == count):
                if (values >= 0).all() and np.allclose(values.sum(axis=axis), 1, atol=1e-4):
                    return np.moveaxis(values, axis, 0).reshape(count, -1).mean(axis=1)
    return None
