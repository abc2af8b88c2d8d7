"""Masks and padding in grey: which rows of a batch still run in a step, read from the masks that keep the state of the others."""

from __future__ import annotations

from typing import Any

from ..backend import to_numpy
from ..graph import Node, node_of, raw
from .norms import mix
from .picture import Picture

MASK, EDGE, COLUMN, ENDED = "#d4d8df", "#8f96a3", "#f8fafd", "#d4d8df"


def grey_masks(picture: Picture) -> None:
    """Paint masks grey, and every column as grey as the share of its rows that has ended; its heading counts those that run."""
    for box in picture.boxes.values():
        if box.kind in ("constant", "input") and (mask := _mask(box.shows)) is not None:
            box.look |= {"fillcolor": MASK, "color": EDGE}
            box.notes.append("mask" if box.label == str(mask.shape) else f"{int(mask.sum())} of {mask.size}")
    columns = {box.id: box.column for box in picture.all_boxes()}
    running: dict[int, tuple[int, int]] = {}
    for edge in picture.all_edges():
        found = _kept(*edge.use) if edge.kind == "state" and edge.use is not None else None
        column = columns.get(edge.target)
        if found is not None and column is not None:
            running[column] = found
    for column, (rows, of) in running.items():
        picture.fills[column] = mix(COLUMN, ENDED, 1 - rows / of)
        picture.heads[column] = f"{rows} of {of}"
    if running:
        picture.remarks.append("grey: rows of the batch that have ended, and the masks that say so")


def _mask(shown: Any) -> Any:
    """The array of a boolean constant; None for anything else."""
    array = None if node_of(shown) is not None else raw(shown)
    if str(getattr(array, "dtype", "")) != "bool" or not getattr(array, "shape", ()):
        return None
    return to_numpy(array)


def _kept(node: Node, position: int) -> tuple[int, int] | None:
    """Of an op that keeps the state of rows that have ended: how many rows go on, and of how many."""
    if node.prim is None or node.prim.name != "where" or position not in (1, 2):
        return None
    mask = _mask(node.args[0])
    if mask is None:
        return None
    return int(mask.sum() if position == 2 else (~mask).sum()), mask.size
