"""Drawings of recorded graphs, unfolded in time. Readers on top of the tape: nothing else in the package knows of them."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from ..errors import ArgumentError, GraphError, message
from ..fusion import opened
from ..graph import Value, require_recorded
from ..scan import time_loop
from .cuts import draw_cuts
from .gates import shade, show_gates
from .gradients import show_gradients
from .lights import light_path, light_weight
from .masks import grey_masks
from .overlays import finish, write_notes
from .per_step import per_step
from .render import Drawing as Drawing
from .unfold import read

LEVELS = ("ops", "cells", "folded")


def draw(
    outputs: Value | Sequence[Value],
    *,
    level: str = "ops",
    collapse: Any = (),
    open: Any = (),
    full: bool = False,
    title: str | None = None,
    values: bool = False,
    shapes: bool = False,
    dtypes: bool = False,
    gradients: bool = False,
    light: Value | None = None,
    path: tuple[Value, Value] | None = None,
    truncation: Any = None,
    gates: bool = False,
    sensitivity: Any = None,
) -> Drawing:
    """Draw the graph that computed `outputs`: one column per time step, states on rails, a copy of a weight for every use.

    The steps are those of `tg.scan` and `tg.steps`, or the calls of a module in a plain `for` loop; a compiled `tg.scan` is opened, and drawn
    as it would be inside `tg.unfolded()`. A graph without steps is drawn as it is. Of more than 12 steps the first three and the last two are
    shown, with full=True all.

    What is written on the picture, one of them or several:

        values, shapes, dtypes    on every box; of more than three numbers the smallest and the largest
        gradients                 every edge is as wide and as dark as the norm of the gradient that flows back along it, every copy of a weight
                                  tells that of its term; a zero is dashed, an infinite one violet, one that is no number black and dotted
        light=W                   the copies of one weight, the term of each, and that they sum to its gradient
        path=(a, b)               every way from one value to another
        truncation                scissors where `tg.bptt.truncate(loss, ...)` stops the gradient; or a list of (op, position of the argument)
        gates                     which sigmoids are open (○) and which are closed (—), after Graves
        sensitivity=1             the states in grey, as much as they depend on the input of step 1; or on the value that is given

    Masks, and steps in which all rows have ended, are grey.

    level: "ops" draws every op. "cells" draws scopes as boxes with their weights as chips: the cell of every loop in every step, and the
    modules beside it. "folded" draws one step for all of them, with a delay square z⁻¹ for each state; steps that differ are refused.
    collapse, open: what else is one box, and what is drawn open after all: modules, frames, or patterns for a class ("LSTM"), a path
    ("encoder.*"), a place ("LSTM > layer 0") or a name given by `tg.frame`; "*" is everything.
    """
    if level not in LEVELS:
        raise ArgumentError(message(f"draw: there is no level {level!r}", expected="'ops', 'cells' or 'folded'"))
    given = {
        "values": values,
        "gradients": gradients,
        "light": light,
        "path": path,
        "truncation": truncation,
        "gates": gates,
        "sensitivity": sensitivity,
    }
    of_steps = [name for name, value in given.items() if value is not None and value is not False]
    if level == "folded" and of_steps:
        raise ArgumentError(
            message(
                f"draw: {of_steps[0]} of which step? A folded loop is drawn once for all of them", do="level='cells' or level='ops'"
            )
        )
    _check_given(light, path, truncation)
    drawn: list[Any] = list(outputs) if isinstance(outputs, (list, tuple)) else [outputs]
    for value in [*drawn, *(path or ())]:
        require_recorded(value, "draw")
    tape = cut = _cut_tape(drawn, truncation)
    numbers = values or gradients or gates or light is not None or sensitivity is not None
    with _no_collection():
        moved = per_step(opened([*tape, *(path or ())], time_loop, checked=numbers))
        tape, ends = moved[: len(tape)], moved[len(tape) :]
        picture = read(tape, full=full, cells=level != "ops", collapse=collapse, open=open, folded=level == "folded")
    if not picture.boxes:
        raise GraphError(
            message(
                "draw: nothing was computed yet", expected="results of ops", do="draw what was computed from it, such as a loss"
            )
        )
    picture.title = title or ""
    grey_masks(picture)
    write_notes(picture, values=values, shapes=shapes, dtypes=dtypes)
    lit = light_weight(picture, tape, light) if light is not None else set()
    if gradients:
        show_gradients(picture, tape, lit)
    if ends:
        light_path(picture, *ends)
    if truncation is not None:
        draw_cuts(picture, truncation, cut, tape)
    if gates:
        show_gates(picture)
    if sensitivity is not None:
        shade(picture, tape, sensitivity)
    finish(picture)
    steps = len(picture.columns) - len(picture.initial) + max(len(picture.hidden) - 1, 0)
    return Drawing(picture, steps)


@contextmanager
def _no_collection() -> Iterator[None]:
    """Without the garbage collector, which would look through the whole tape again and again for cycles that a tape has not."""
    on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if on:
            gc.enable()


def _check_given(light: Any, path: Any, truncation: Any) -> None:
    """Refuse what an overlay cannot speak of."""
    if light is not None and not isinstance(light, Value):
        raise ArgumentError(
            message(
                f"draw: light={light!r:.40} is no Tensor",
                expected="light=W",
                do="light=model.rnn.weight_hh_l0, the parameter itself",
            )
        )
    if path is not None and not (isinstance(path, (list, tuple)) and len(path) == 2):
        raise ArgumentError(message("draw: a path has two ends", expected="path=(a, b), two values that this graph computed"))
    if isinstance(truncation, (int, float, str)):
        raise ArgumentError(
            message(
                f"draw: truncation={truncation!r} says not of which loss",
                expected="draw(loss, truncation=tg.bptt.truncate(loss, 3)), or a list of (op, position of the argument)",
            )
        )


def _cut_tape(outputs: list[Any], truncation: Any) -> list[Any]:
    """The outputs on the tape that a truncation speaks of."""
    loss = getattr(truncation, "loss", None)
    if loss is None:
        return outputs
    if len(outputs) != 1 or outputs[0].node is not loss.node:
        raise GraphError(
            message("draw: the truncation is one of another loss", expected="draw(loss, truncation=tg.bptt.truncate(loss, ...))")
        )
    return [truncation.tape]
