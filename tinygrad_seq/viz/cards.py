"""How cells look: HTML tables with a title and the weights inside as coloured chips, and rails with a strand for each kind of state."""

from __future__ import annotations

import re
import unicodedata
from typing import NamedTuple

from .dot import FILLS, INK, LINE, RAILS, STATES, WEIGHTS, label_of, markup
from .picture import Box, Edge, Picture

NAME = re.compile(r"(?:.*\.)?(weight|bias)(?:_([a-z]{1,3}))?(?:_l\d+)?(?:_reverse)?(?![A-Za-z0-9_])(.*)", re.DOTALL)
INDEXED = re.compile(r"([^\W\d_])_([A-Za-z0-9]{1,3})(?![A-Za-z0-9_.])")
PER_ROW = 4
NOTE = 10  # points that a note adds to the height of a chip
WIDTHS = dict.fromkeys("iljtfI.,'|[]():; ", 0.36) | dict.fromkeys("mwMW@%∞", 0.95) | dict.fromkeys("₀₁₂₃₄₅₆₇₈₉₊₋⁰¹²³⁴⁵⁶⁷⁸⁹", 0.42)


class Chip(NamedTuple):
    """A weight inside a cell: which, what is written on it and beneath, with room for how many letters, and its colours."""

    family: int
    text: str
    notes: list[str]
    room: int
    fill: str
    ink: str


def dressed(picture: Picture) -> Picture:
    """Write the look of cells, and of the edges between them, on a picture."""
    for box in picture.boxes.values():
        if box.kind in ("cell", "start"):
            box.look |= {"shape": "plain", "style": '""', "label": card(picture, box), "fillcolor": None, "color": None}
        elif box.kind == "delay":
            box.look |= {
                "shape": "box",
                "style": "filled",
                "fillcolor": INK,
                "color": INK,
                "fontcolor": "#ffffff",
                "fontname": "Helvetica-Bold",
            }
    for edge in picture.edges:
        if edge.kind in ("delayed", "undelayed"):
            edge.look |= {"color": RAILS[picture.states[edge.family].kind], "penwidth": 2.2}
            edge.look |= {"constraint": "false"} if edge.kind == "undelayed" else {}
        if edge.kind in ("lane", "across", "out"):
            strands = strands_of(picture, edge)
            edge.look |= {"color": ":#ffffff:".join(strands), "penwidth": 1.8 if len(strands) > 1 else 2.2}
        if edge.kind == "out":
            edge.look |= {"weight": 20, "label": label_of(" " + edge.label) if edge.label else None}
    return picture


def strands_of(picture: Picture, edge: Edge) -> list[str]:
    """The colours of an edge, one for each kind of state that it carries."""
    families = [one.family for one in edge.bundle if one.kind == "state"] or [edge.family]
    return list(dict.fromkeys(RAILS[picture.states[family].kind] for family in sorted(families)))


def card(picture: Picture, box: Box) -> str:
    """The DOT label of a cell, or of the states that one begins with: a table, every field of which has a size."""
    if box.kind == "start":
        width = _start_width(box)
        rows = []
        for circle in box.inside:
            kind = picture.states[circle.family].kind
            style = f'STYLE="ROUNDED" BGCOLOR="{STATES[kind]}" COLOR="{RAILS[kind]}"'
            rows.append(f"<TR><TD {_sized(width, 22)} {style}>{markup(circle.label)}</TD></TR>")
        return f'<<TABLE BORDER="0" CELLBORDER="1" CELLSPACING="3" CELLPADDING="0">{"".join(rows)}</TABLE>>'
    chips, widths, title = chips_of(box), *_widths(box)
    fill, ink = _look_of_cell(box)
    span = f'COLSPAN="{max(len(widths), 1)}"'
    rows = [f'<TR><TD {span} {_sized(title, 18)}><FONT COLOR="{ink}"><B>{markup(box.label)}</B></FONT></TD></TR>']
    height = 16 + NOTE * _chip_notes(chips)
    fields = [
        f'<TD {_sized(widths[k % PER_ROW], height)} BGCOLOR="{chip.fill}"><FONT POINT-SIZE="9" COLOR="{chip.ink}">'
        + "<BR/>".join([chip_markup(chip.text), *(f'<FONT POINT-SIZE="8">{markup(note)}</FONT>' for note in chip.notes)])
        + "</FONT></TD>"
        for k, chip in enumerate(chips)
    ]
    rows += [f"<TR>{''.join(fields[k : k + PER_ROW])}</TR>" for k in range(0, len(fields), PER_ROW)]
    rows += [
        f'<TR><TD {span} {_sized(title, 12)}><FONT POINT-SIZE="9" COLOR="{ink}">{markup(note)}</FONT></TD></TR>'
        for note in box.notes
    ]
    look = f'BORDER="1" CELLBORDER="0" CELLSPACING="3" CELLPADDING="0" STYLE="ROUNDED" COLOR="{LINE}" BGCOLOR="{fill}"'
    return f"<<TABLE {look}>{''.join(rows)}</TABLE>>"


def _look_of_cell(box: Box) -> tuple[str, str]:
    """The fill of a cell, which is that of its state where an overlay has given it one, and the colour of its text."""
    shaded = [one.look for one in box.inside if one.kind == "state" and "fillcolor" in one.look]
    look = min(shaded, key=lambda look: str(look["fillcolor"]), default={})  # the darkest
    return str(look.get("fillcolor", FILLS["op"])), str(look.get("fontcolor", INK))


def _chip_notes(chips: list[Chip]) -> int:
    return max((len(chip.notes) for chip in chips), default=0)


def _sized(width: float, height: float) -> str:
    return f'FIXEDSIZE="TRUE" WIDTH="{width:.0f}" HEIGHT="{height:.0f}"'


def _start_width(box: Box) -> float:
    return max(26.0, *(text_width(one.label, 11) + 8 for one in box.inside))


def _widths(box: Box) -> tuple[list[float], float]:
    """The widths of the columns of chips, and of the title above them."""
    chips = [max([chip_width(chip.text) + 7, text_width("0", 8) * chip.room + 5, 18.0]) // 1 for chip in chips_of(box)]
    widths = [max(chips[k::PER_ROW]) for k in range(min(len(chips), PER_ROW))]
    title = max([text_width(box.label, 11) * 1.1 + 12, text_width("0", 9) * box.room + 4]) // 1
    if widths and sum(widths) < title:
        widths = [width + (title - sum(widths)) / len(widths) // 1 + 1 for width in widths]
    return widths, sum(widths) or max(title, 36.0)


def size_of(box: Box) -> tuple[float, float]:
    """The width and the height of a box, in points."""
    lines, size = box.label.split("\n"), 11.0
    if box.kind == "cell":
        chips = chips_of(box)
        rows = -(-len(chips) // PER_ROW)
        widths, title = _widths(box)
        height = 26.0 + (19 + NOTE * _chip_notes(chips)) * rows + 15 * len(box.notes)
        return title + 3 * max(len(widths) - 1, 0) + 8, height
    if box.kind == "start":
        return _start_width(box) + 6, 25.0 * len(box.inside) + 3
    if box.kind == "delay":
        return 26.0, 22.0
    if box.kind == "more":
        return 22.0, 14.0
    if box.look.get("shape") == "circle":  # of the size that makes room for its notes
        width = 72 * float(str(box.look["width"]))
        return width, width
    if box.kind in ("input", "state") and len(box.label) <= 4 and not box.notes:
        return 33.0, 33.0
    if box.kind == "constant":
        size = 9.0
    widest = max([*(text_width(line, size) for line in lines), *(text_width(note, 9) for note in box.notes)])
    return max(widest * (1.1 if box.kind == "loss" else 1) + 14, 29.0), 20.0 + 13 * (len(lines) - 1) + 11 * len(box.notes)


def text_width(text: str, size: float) -> float:
    """About how wide a text is, in the widest of the usual fonts without serifs."""
    return size * sum(
        WIDTHS.get(c, 0.72 if c.isupper() else 1.0 if unicodedata.east_asian_width(c) in "WF" else 0.62) for c in text
    )


def chip_width(text: str) -> float:
    """The width of the letters of a chip."""
    symbol = INDEXED.match(text)
    return text_width(text, 9) if symbol is None else text_width(symbol[1] + text[symbol.end() :], 9) + text_width(symbol[2], 7)


def chips_of(box: Box) -> list[Chip]:
    """The weights of a cell, with how often each is used where that is more than once."""
    uses: dict[tuple[int, str], list[Box]] = {}
    for one in box.inside:
        if one.kind == "weight":
            uses.setdefault((one.family, one.label), []).append(one)
    chips = []
    for (family, label), several in uses.items():
        look = several[0].look
        fill, ink = str(look.get("fillcolor", chip_colour(family))), str(look.get("fontcolor", INK))
        times = f" ×{len(several)}" if len(several) > 1 else ""
        chips.append(Chip(family, chip_text(label) + times, several[0].notes, several[0].room, fill, ink))
    return chips


def chip_colour(family: int) -> str:
    """The fill of a parameter."""
    return WEIGHTS[family % len(WEIGHTS)]


def chip_text(label: str) -> str:
    """A weight in a few letters: W_ih for weight_ih_l0."""
    found = NAME.fullmatch(label)
    if found is None:
        return label
    return {"weight": "W", "bias": "b"}[found[1]] + (f"_{found[2]}" if found[2] else "") + found[3]


def chip_markup(text: str) -> str:
    """The letters of a chip, with the index small."""
    symbol = INDEXED.match(text)
    if symbol is None:
        return markup(text)
    rest = text[symbol.end() :]
    return f'{symbol[1]}<FONT POINT-SIZE="7">{symbol[2]}</FONT>' + (markup(rest) if rest else "")
