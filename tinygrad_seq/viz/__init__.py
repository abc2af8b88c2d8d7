"""Drawings of recorded graphs, unfolded in time. Readers on top of the tape: nothing else in the package knows of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..errors import GraphError, message
from ..fusion import opened
from ..graph import Value, require_recorded
from ..scan import time_loop
from .gradients import show_gradients
from .overlays import write_notes
from .render import Drawing as Drawing
from .unfold import read


def draw(
    outputs: Value | Sequence[Value], *, full: bool = False, shapes: bool = False, gradients: bool = False, title: str | None = None
) -> Drawing:
    """Draw the graph that computed `outputs`: one column per time step, states on rails, a copy of a weight for every use.

    The steps are those of `tg.scan` and `tg.steps`, or the calls of a module in a plain `for` loop; a compiled `tg.scan` is opened, and drawn
    as it would be inside `tg.unfolded()`. A graph without steps is drawn as it is. Of more than 12 steps the first three and the last two are shown, with full=True all. shapes=True writes shapes. gradients=True
    lets every edge show the norm of the gradient that flows back along it, and every copy of a weight the norm of its term.
    """
    values: list[Any] = list(outputs) if isinstance(outputs, (list, tuple)) else [outputs]
    for value in values:
        require_recorded(value, "draw")
    values = opened(values, time_loop, checked=gradients)
    picture = read(values, full=full)
    if not picture.boxes:
        raise GraphError(
            message(
                "draw: nothing was computed yet", expected="results of ops", do="draw what was computed from it, such as a loss"
            )
        )
    picture.title = title or ""
    write_notes(picture, values=False, shapes=shapes, dtypes=False)
    if gradients:
        show_gradients(picture, values)
    steps = len(picture.columns) - len(picture.initial) + max(len(picture.hidden) - 1, 0)
    return Drawing(picture, steps)
