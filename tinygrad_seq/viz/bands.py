"""The two directions of a bidirectional layer, drawn op by op: two chains, one above the other."""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise

from ..graph import Node
from .picture import LEAVES, OPS, Box, Picture


def stack_directions(picture: Picture) -> None:
    """Put the ops of a loop that runs backwards above those of the loop forwards that it has nothing from, in every column."""
    towards = {node: state.towards for state in picture.states for node in state.producers.values()}
    groups: dict[int | None, dict[object, list[str]]] = defaultdict(lambda: defaultdict(list))
    for id, box in picture.boxes.items():
        step = _step(box) if box.kind in OPS and box.column is not None else None
        if step is not None:
            groups[box.column][step].append(id)
    sizes = {tuple(len(ids) for ids in loops.values() if _signs(picture, ids, towards)) for loops in groups.values()}
    for loops in groups.values() if len(sizes) == 1 else ():  # where padding is masked, steps have no common height
        signed = [(ids, signs) for ids in loops.values() if (signs := _signs(picture, ids, towards))]
        for (low, forwards), (high, backwards) in pairwise(signed):
            if forwards == {1} and backwards == {-1} and not _flows(picture, low, high):
                _above(picture, low, high)


def _signs(picture: Picture, ids: list[str], towards: dict[Node, int]) -> set[int]:
    """The directions of the states that some ops make."""
    return {towards[tape] for id in ids if (tape := picture.boxes[id].tape) is not None and tape in towards}


def _step(box: Box) -> object:
    """The step of the loop that an op was recorded in."""
    frame = box.tape.frame if box.tape is not None else None
    return next((f for f in reversed(frame.path()) if f.step is not None), None) if frame is not None else None


def _flows(picture: Picture, low: list[str], high: list[str]) -> bool:
    """Whether something computed below is read above, within the step."""
    column = picture.boxes[low[0]].column
    after: dict[str, list[str]] = defaultdict(list)
    for edge in picture.edges:
        if picture.boxes[edge.source].column == picture.boxes[edge.target].column == column:
            after[edge.source].append(edge.target)
    found, stack = set(low), list(low)
    while stack:
        new = [id for id in after[stack.pop()] if id not in found]
        found.update(new)
        stack += new
    return not found.isdisjoint(high)


def _above(picture: Picture, low: list[str], high: list[str]) -> None:
    inside = [(e.source, e.target) for e in picture.edges if e.kind == "plain"]
    ends = set(low) - {a for a, b in inside if a in low and b in low}
    starts = set(high) - {b for a, b in inside if a in high and b in high}
    beneath = {a for a, b in inside if b in starts and picture.boxes[a].kind in LEAVES - {"input"}}
    for top in sorted(ends, key=low.index):
        picture.above += [(top, id) for id in picture.boxes if id in starts or id in beneath]
