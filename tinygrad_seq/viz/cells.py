"""Boxes drawn as one, and taken apart again: a picture becomes another picture, and no edge is lost on the way."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from itertools import pairwise

from .picture import LEAVES, OPS, Box, Edge, Picture

TIMELESS = frozenset({"state", "more"})


def collapse(picture: Picture, groups: Mapping[str, tuple[str, str]]) -> Picture:
    """The picture in which boxes of one group are one cell. groups: for the id of a box the id of its cell and what is written on it.

    Leaves that one cell alone reads, and the circles of states that it makes, go inside; so do the edges between what is inside. Edges from one
    cell to another are drawn as one, which keeps them as its bundle. What a cell hands on to the next step runs in a lane, on one line.
    """
    cell_of = {id: cell for id, (cell, _) in groups.items() if id in picture.boxes}
    labels = dict(groups.values())
    cell_of |= {e.target: cell_of[e.source] for e in picture.edges if e.kind == "carry" and e.source in cell_of}
    cell_of |= _alone(picture, cell_of)
    starts = _starts(picture, cell_of)
    new = _moved(picture, {**cell_of, **starts}, labels)
    _bundle(picture, new, {**cell_of, **starts}, set(cell_of.values()))
    new.lanes = _lanes(new, _makers(new))
    new.above = _stacked(new)
    return new


def expand(picture: Picture) -> Picture:
    """The picture with every cell taken apart."""
    boxes: dict[str, Box] = {}
    for box in picture.boxes.values():
        boxes |= {one.id: one for one in box.inside or [box]}
    return Picture(
        boxes, picture.all_edges(), picture.columns, picture.initial, picture.hidden, picture.states, below=picture.below
    )


def _alone(picture: Picture, cell_of: Mapping[str, str]) -> dict[str, str]:
    """Weights and constants that one cell alone reads."""
    readers: dict[str, set[str | None]] = defaultdict(set)
    for edge in picture.edges:
        if picture.boxes[edge.source].kind in LEAVES - {"input"}:
            readers[edge.source].add(cell_of.get(edge.target))
    return {id: cell for id, cells in readers.items() if len(cells) == 1 and (cell := next(iter(cells))) is not None}


def _starts(picture: Picture, cell_of: Mapping[str, str]) -> dict[str, str]:
    """Several states with which one cell begins, or that run on through the steps left out, are drawn as one."""
    meets: dict[str, set[str]] = defaultdict(set)
    for edge in picture.edges:
        for one, other in ((edge.source, edge.target), (edge.target, edge.source)):
            if picture.boxes[one].kind in TIMELESS and one not in cell_of and picture.boxes[one].id != "more":
                meets[one].add(cell_of.get(other, ""))
    groups: dict[tuple[str, frozenset[str]], list[str]] = defaultdict(list)
    for id, cells in meets.items():
        if "" not in cells:
            groups[picture.boxes[id].kind, frozenset(cells)].append(id)
    alike = [ids for ids in groups.values() if len(ids) > 1]
    return {id: f"start_{ids[0]}" for ids in alike for id in ids}


def _moved(picture: Picture, home: Mapping[str, str], labels: Mapping[str, str]) -> Picture:
    """The boxes of the new picture."""
    new = Picture(
        columns=picture.columns, initial=picture.initial, hidden=picture.hidden, states=picture.states, below=picture.below
    )
    new.unseen = picture.unseen
    for box in picture.boxes.values():
        at = home.get(box.id)
        if at is None:
            new.boxes[box.id] = box
            continue
        if at not in new.boxes:
            kind = "cell" if at in labels else "more" if box.kind == "more" else "start"
            new.boxes[at] = Box(at, labels.get(at, box.label), kind, box.column, box.family)
        new.boxes[at].inside.append(box)
    new.below = list(dict.fromkeys(home.get(id, id) for id in picture.below))
    return new


def _bundle(picture: Picture, new: Picture, home: Mapping[str, str], cells: set[str]) -> None:
    """The edges of the new picture."""
    circle_of = {e.source: picture.boxes[e.target] for e in picture.edges if e.kind == "carry"}
    bundles: dict[tuple[str, str, str], Edge] = {}
    for edge in picture.edges:
        source, target = home.get(edge.source, edge.source), home.get(edge.target, edge.target)
        if source == target:
            new.boxes[source].held.append(edge)
            continue
        if edge.source not in home and edge.target not in home:
            new.edges.append(edge)
            continue
        kind, family, label = edge.kind, edge.family, ""
        steps_on = new.boxes[source].column != new.boxes[target].column
        if kind == "state" and (steps_on or new.boxes[source].kind == "start"):
            kind = "lane"
        elif edge.source in circle_of and edge.source in home and kind in ("plain", "carry"):
            kind, family, label = "out", circle_of[edge.source].family, circle_of[edge.source].label
        key = source, target, kind
        if key not in bundles:
            bundles[key] = Edge(source, target, kind, family, edge.use, label=label)
            new.edges.append(bundles[key])
        bundles[key].bundle.append(edge)


def _makers(picture: Picture) -> set[str]:
    """The boxes that make a state, or stand for one."""
    producers = {node for state in picture.states for node in state.producers.values()}
    return {
        id
        for id, box in picture.boxes.items()
        if box.kind not in OPS or any(one.kind in OPS and one.tape in producers for one in box.inside or [box])
    }


def _lanes(picture: Picture, makers: set[str]) -> list[list[str]]:
    """Cells that hand on their state to each other, in the order of time; what only reads it stands elsewhere."""
    lane: dict[str, list[str]] = {}
    for edge in picture.edges:
        if edge.kind == "lane" and edge.target not in makers:
            edge.kind = "across"
        elif edge.kind == "lane":
            a, b = lane.setdefault(edge.source, [edge.source]), lane.setdefault(edge.target, [edge.target])
            if a is not b:
                a += b
                lane.update(dict.fromkeys(b, a))
    lanes = {id(ids): ids for ids in lane.values()}
    order = {column: k for k, column in enumerate(picture.columns)}
    for ids in lanes.values():
        ids.sort(key=lambda one: order.get(picture.boxes[one].column or 0, 0))
    return list(lanes.values())


def _stacked(picture: Picture) -> list[tuple[str, str]]:
    """Lanes that start from the same data stand one above the other: forwards below, backwards above."""
    number = {id: k for k, ids in enumerate(picture.lanes) for id in ids}
    columns: dict[int | None, list[str]] = defaultdict(list)
    for id, box in picture.boxes.items():
        if box.kind == "cell" and id in number:
            columns[box.column].append(id)
    return [pair for ids in columns.values() for pair in pairwise(ids)]
