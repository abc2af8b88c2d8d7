"""How much gradient flows along every edge of a picture: the norms of the terms that the reverse sweep adds up, as width and shade.

A zero is thin and dashed, an infinite gradient violet, one that is no number black and dotted, both thick and with their sign beside them:
each is told apart in grey, too. An edge along which no gradient flows stays as it is, in pale.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from ..autodiff import Step, steps_of_backward
from ..bptt.norms import norm_of
from ..graph import Node, Value, node_of, toposort
from .attended import attended_by, attention_norms
from .norms import mix, number
from .picture import Box, Edge, Picture, Use

FAINT, FULL, INFINITE, NOT_A_NUMBER, NONE = "#f3c9cf", "#c62f4b", "#6a1b9a", "#000000", "#cfd7e6"


@dataclass
class Flow:
    """Norms of gradients: of the term that every use of a value sends back, and of what arrives at a state from the next step.

    terms: of the copies of leaves, by the id of their box; of the sum of its terms where a box has several. hidden: the same of the copies
    that are not drawn, by what is written on them, with their number. bundles: of edges that are drawn as one.
    """

    uses: dict[Use, float]
    carried: dict[Node, float]
    terms: dict[str, float]
    hidden: dict[tuple[str, int], tuple[int, float]]
    bundles: dict[int, float]
    largest: float

    def share(self, norm: float) -> float:
        """A norm as a share of the largest."""
        return 1.0 if not math.isfinite(norm) else norm / self.largest if self.largest > 0 else 0.0

    def edge(self, edge: Edge, source: Box, target: Box) -> float | None:
        """The norm on an edge; None where no gradient flows."""
        if edge.bundle or edge.kind == "attend":
            return self.bundles.get(id(edge))
        if edge.kind == "carry":
            return None if target.tape is None else self.carried.get(target.tape)
        if edge.use is None and edge.kind in ("state", "sum") and target.kind == "more":
            return None if source.tape is None else self.carried.get(source.tape)
        return None if edge.use is None else self.uses.get(edge.use)


def flow_of(outputs: Iterable[Value], picture: Picture) -> Flow:
    """One reverse sweep, which touches no `.grad`."""
    outputs = list(outputs)
    leaves = {node: {0: None} for node in toposort(outputs) if node.prim is None}
    across = {use for state in picture.states for use in state.uses}
    copies = copies_of(picture)
    drawn_for = Counter(copies.values())  # without time, one box stands for all uses of a weight
    hidden = {use: what for what, several in picture.unseen.items() for use in several}
    attended = attended_by(picture)
    together = {one.use: edge for edge in picture.edges for one in edge.bundle if one.use is not None}
    uses: dict[Use, float] = {}
    arrived: dict[Node, Any] = {}
    sums: dict[Any, Any] = {}

    def add(key: Any, term: Any) -> None:
        with np.errstate(all="ignore"):
            sums[key] = sums[key] + term if key in sums else term

    for step in _quietly(steps_of_backward(outputs, targets=leaves)):
        for position, term in enumerate(step.contributions):
            if term is not None:
                use, source = (step.node, position), node_of(step.node.args[position])
                if use in hidden:
                    add(hidden[use], term)
                else:
                    uses[use] = norm_of(term)
                if drawn_for[copies.get(use, "")] > 1:
                    add(copies[use], term)
                if use in attended:
                    add(attended[use], term)
                if use in together:
                    add((id(together[use]), source), term)
                if use in across:
                    assert source is not None
                    arrived[source] = arrived[source] + term if source in arrived else term
    terms = {copy: norm_of(sums[copy]) if copy in sums else uses[use] for use, copy in copies.items() if use in uses}
    carried = {node: norm_of(g) for node, g in arrived.items()}
    unseen = {what: (len(several), norm_of(sums[what])) for what, several in picture.unseen.items() if what in sums}
    circles = {box.id: box.tape for box in picture.all_boxes()}
    for edge in picture.edges:  # into the steps that are left out
        for one in edge.bundle:
            made_by = circles.get(one.source)
            if one.use is None and made_by in arrived:
                add((id(edge), one.source), arrived[made_by])
    bundles: dict[int, float] = {}
    wide = {id(edge) for edge in picture.edges if edge.bundle}
    for key, term in sums.items():
        if key[0] in wide:
            bundles[key[0]] = math.hypot(bundles.get(key[0], 0.0), norm_of(term))
    bundles |= attention_norms(picture, sums)
    flow = Flow(uses, carried, terms, unseen, bundles, 0.0)
    drawn = (flow.edge(edge, picture.boxes[edge.source], picture.boxes[edge.target]) for edge in picture.edges)
    shown = [norm for norm in (*drawn, *terms.values()) if norm is not None and math.isfinite(norm)]
    flow.largest = max(shown, default=0.0)
    return flow


def _quietly(steps: Iterator[Step]) -> Iterator[Step]:
    """A reverse sweep whose infinities and NaN are drawn, not warned of."""
    while True:
        with np.errstate(all="ignore"):
            step = next(steps, None)
        if step is None:
            return
        yield step


def copies_of(picture: Picture) -> dict[Use, str]:
    """For every use of a weight the box of its copy: in a cell one copy stands for all uses of the weight there."""
    chips: dict[str, str] = {}
    for box in picture.boxes.values():
        first: dict[tuple[int, str], str] = {}
        for one in box.inside:
            if one.kind == "weight":
                chips[one.id] = first.setdefault((one.family, one.label), one.id)
    kinds = {box.id: box.kind for box in picture.all_boxes()}
    drawn = (edge for edge in picture.all_edges() if edge.use is not None and kinds[edge.source] == "weight")
    return {edge.use: chips.get(edge.source, edge.source) for edge in drawn if edge.use is not None}


def show_gradients(picture: Picture, outputs: Iterable[Value], told_already: Container[str] = ()) -> None:
    """Write the gradients on a picture: edges run the way of the gradient, as wide and as dark as its norm; copies tell their terms.

    told_already: boxes on which a term is written.
    """
    flow = flow_of(outputs, picture)
    told: dict[str, list[float]] = {}  # boxes at which an infinite gradient arrives, or one that is no number
    for edge in picture.edges:
        norm = flow.edge(edge, picture.boxes[edge.source], picture.boxes[edge.target])
        if norm is not None:
            edge.back, edge.look = True, edge.look | look_of(norm, flow.share(norm))
            if not math.isfinite(norm):
                told.setdefault(edge.source, []).append(norm)
        elif edge.kind != "more":
            edge.look["color"] = NONE
    boxes = {box.id: box for box in picture.all_boxes()}
    for id, norms in told.items():
        if id not in flow.terms:
            picture.boxes[id].notes.append(f"∇ {number(max(norms, key=math.isnan))}")
    for id, norm in flow.terms.items():
        if id in told_already:
            continue
        box = boxes[id]
        box.notes.append(("∇ " if box.notes else "") + number(norm))
        box.look["penwidth"] = f"{1 + 2 * flow.share(norm):.2f}"
        box.look |= {} if math.isfinite(norm) else {"color": look_of(norm, 1.0)["color"]}
    for id in add_hidden_copies(picture, {what: [f"{n} copies", f"Σ {number(norm)}"] for what, (n, norm) in flow.hidden.items()}):
        if told_already and id not in told_already:  # something else is lit
            next(box for box in picture.all_boxes() if box.id == id).look |= {
                "fillcolor": "#f3f4f6",
                "color": "#c3cad6",
                "fontcolor": "#9aa3b0",
            }
    seen = {*flow.terms.values(), *(norm for _, norm in flow.hidden.values())} | {
        flow.uses[edge.use] for edge in picture.edges if edge.use in flow.uses
    }
    signs = [
        ("0", "dashed: zero", lambda n: n == 0),
        ("", "violet: infinite", math.isinf),
        ("", "dotted: not a number", math.isnan),
    ]
    picture.remarks = [text for text in picture.remarks if not text.startswith("green")]  # of attention, which is red now
    remark = f"red: the gradient that flows back, as wide and as dark as its norm (at most {number(flow.largest)})"
    picture.remarks.append("; ".join([remark, *(text for _, text, which in signs if any(map(which, seen)))]))


def look_of(norm: float, share: float) -> dict[str, object]:
    """How an edge looks along which a gradient of this norm flows."""
    if math.isnan(norm):
        return {"color": NOT_A_NUMBER, "penwidth": 4, "style": "dotted", "fontcolor": NOT_A_NUMBER}
    if math.isinf(norm):
        return {"color": INFINITE, "penwidth": 6, "style": "solid", "fontcolor": INFINITE}
    if norm == 0:
        return {"color": "#d98c9a", "penwidth": 1, "style": "dashed"}
    return {"color": mix(FAINT, FULL, share), "penwidth": f"{1 + 5 * share:.2f}"}


def add_hidden_copies(picture: Picture, notes: dict[tuple[str, int], list[str]]) -> list[str]:
    """One box for all copies of a weight in the steps that are left out, with these notes: a pile in the middle of their column.

    Returns the boxes; one that is there already keeps its notes.
    """
    column = picture.hidden.start
    if picture.lanes and notes:
        return _on_cards(picture, notes)
    there = {(b.label, b.family): id for id, b in picture.boxes.items() if b.column == column and b.kind == "weight"}
    made = []
    for label, family in notes:
        id = there.get((label, family), f"more_{len(there)}")
        there[label, family] = id
        made.append(id)
        if id not in picture.boxes:
            picture.boxes[id] = Box(id, label, "weight", column, family, notes=list(notes[label, family]))
    pile = [id for id, box in picture.boxes.items() if box.kind == "more" and picture.rows and id in picture.rows[0]]
    pile += [*there.values(), *["more"] * ("more" in picture.boxes)]
    picture.above += [pair for pair in pairwise(pile) if pair not in picture.above]
    return made


def _on_cards(picture: Picture, notes: dict[tuple[str, int], list[str]]) -> list[str]:
    """The same for cells: what stands for the hidden steps in a lane becomes a card with the weights of its cells."""
    made = []
    for lane in picture.lanes:
        families = {one.family for id in lane for one in picture.boxes[id].inside if one.kind == "weight"}
        for box in (picture.boxes[id] for id in lane if picture.boxes[id].column == picture.hidden.start):
            for (label, family), lines in notes.items():
                id = f"{box.id}_{family}_{label}"
                if family in families:
                    made.append(id)
                    if all(one.id != id for one in box.inside):
                        box.inside.append(Box(id, label, "weight", box.column, family, notes=lines[1:]))
            box.kind, box.label = "cell", f"{len(picture.hidden)} steps"
            box.look |= {"shape": "plain", "style": '""', "fillcolor": None, "color": None}
    return made
