"""What can be written on the boxes of a picture beside their names: values, shapes, dtypes."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np

from ..graph import raw, value_of
from .cards import card
from .norms import number
from .picture import Box, Picture


def write_notes(picture: Picture, *, values: bool, shapes: bool, dtypes: bool) -> None:
    """Write under every box what is asked of it."""
    for box in picture.boxes.values():
        if box.kind not in ("more", "floor"):
            if shapes and box.shape and box.label != str(box.shape):  # a constant without a name shows its shape anyway
                box.notes.append(size_of(box.shape))
            if dtypes and box.shows is not None:
                box.notes.append(dtype_of(box.shows))
            if values and box.shows is not None:
                box.notes.append(value_text(value_of(box.shows)))


def finish(picture: Picture) -> None:
    """Give all circles that notes are written in one size, and write on the cards of cells what is written on their insides."""
    _one_gap(picture)
    room: dict[Any, int] = defaultdict(int)
    told = [box for box in picture.all_boxes() if box.kind in ("cell", "weight")]
    for box in told:
        room[box.kind, box.label] = max([room[box.kind, box.label], *map(len, box.notes)])
    for box in told:
        box.room = room[box.kind, box.label]
    for box in picture.boxes.values():
        if box.kind == "cell":
            box.look["label"] = card(picture, box)
    _even([box for box in picture.boxes.values() if box.kind in ("state", "input") and box.notes and len(box.label) <= 6])


def _one_gap(picture: Picture) -> None:
    """Among cells the steps that are left out are one sign for each lane: what else they give, the last of them gives."""
    gaps = [id for lane in picture.lanes for id in lane if picture.boxes[id].column in picture.hidden]
    if gaps and "more" in picture.boxes:
        for edge in picture.edges:
            edge.source = gaps[-1] if edge.source == "more" else edge.source
            edge.target = gaps[-1] if edge.target == "more" else edge.target
        del picture.boxes["more"]


def _even(circles: list[Box]) -> None:
    if not circles:
        return
    letters, lines = max(max(map(len, [*box.notes, box.label])) for box in circles), max(len(box.notes) for box in circles)
    width = max(0.46, 0.16 + 0.075 * letters, 0.3 + 0.14 * lines)
    look = {"shape": "circle", "fixedsize": "true", "width": f"{width:.2f}"} if letters <= 8 else {"shape": "box"}
    for box in circles:
        box.look |= look


def size_of(shape: Any) -> str:
    """A shape as text: 2×3; of an op with several results 4 of 2×3, or one after the other."""
    if shape and isinstance(shape[0], tuple):
        sizes = [size_of(part) for part in shape]
        return f"{len(sizes)} of {sizes[0]}" if len({*sizes}) == 1 else ", ".join(sizes)
    return "×".join(map(str, shape))


def dtype_of(held: Any) -> str:
    """The dtype of what a box shows."""
    kinds = getattr(held, "dtype", None) or type(held).__name__
    return ", ".join({str(kind): None for kind in kinds}) if isinstance(kinds, tuple) else str(kinds)


def value_text(value: Any) -> str:
    """A value in a few characters: up to three numbers as they are, of more the smallest and the largest."""
    if isinstance(value, tuple):
        return value_text(np.concatenate([np.ravel(part) for part in value])) if value else ""
    array = np.asarray(raw(value))
    if array.dtype.kind not in "fiub" or array.size == 0:
        return ""
    if array.size <= 3:
        return " ".join(_short(x) for x in array.ravel())
    with np.errstate(invalid="ignore"):
        low, high = array.min(), array.max()
    return f"all {_short(low)}" if low == high else f"{_short(low)} … {_short(high)}"


def _short(x: Any) -> str:
    if isinstance(x, (bool, np.bool_)):
        return str(bool(x))
    return number(float(x), 3)
