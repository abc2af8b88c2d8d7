"""The picture as DOT text: a pure function. Its layout rules were each found by a drawing that was wrong without them.

- One cluster per step, the initial states among them, in the order of invisible points beneath them.
- An edge from step to step never decides a rank, and is spelled from right to left: Graphviz 2 draws the other spelling twice.
- A state that runs sideways has all its boxes on one rank; one that comes back down is spelled upside down.
- Colours have six digits: Graphviz 2 reads #fff as black.
- Labels are plain text with Unicode subscripts, which no renderer misreads. Unicode lacks those of many letters, so the h of W_h is
  small instead: SUB is drawn into the line below, and not lowered at all by browsers that know no baseline-shift.
"""

from __future__ import annotations

import html
import math
import re
import unicodedata
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import lru_cache

from .picture import LEAVES, OPS, Box, Edge, Picture, Places

INK, LINE, EDGE, PALE = "#2b3648", "#8a97ad", "#6b778c", "#cfd7e6"
RAILS = {"h": "#2f6fde", "c": "#d9822b", "sum": "#b0566a"}
STATES = {"h": "#d6e4ff", "c": "#fbe3cc", "sum": "#ffd9d9"}
FILLS = {"op": "#e9eef7", "input": "#d9f0dc", "constant": "#f1f2f5", "term": "#ffe6e6", "loss": "#ffd9d9", "more": "#ffffff"}
WEIGHTS = (
    "#ffe08a",
    "#b9e3d0",
    "#e3e0d6",
    "#d9c8f2",
    "#f7c6b4",
    "#bfe0f2",
    "#e4e9a6",
    "#f2c4de",
    "#c7d3ee",
    "#d8c9b0",
    "#a9ddd9",
    "#efd7a7",
)
EDGING = (
    "#c99a00",
    "#3c8d6c",
    "#8f8a78",
    "#7d5ab0",
    "#c0633c",
    "#3f86ad",
    "#8f9a2a",
    "#b0568c",
    "#5069ad",
    "#8a6d3f",
    "#2f8f88",
    "#b08838",
)


def dot_text(picture: Picture, *, numbered: bool = False) -> str:
    """The DOT text of a picture; numbered: every edge says in a comment which one it is."""
    early = bool(picture.rails) or any(state.towards < 0 for state in picture.states)  # see _ranks
    lines = _ranks(picture) if early else []
    columns = _by_column(picture)
    for column in picture.columns:
        lines += _cluster(picture, column, columns[column])
    lines += [_box(picture, box) for box in columns[None]]
    on_rails = {id for rail in picture.rails for id in rail}
    for number, edge in enumerate(picture.edges):
        lines.append(_edge(picture, edge, on_rails, {"comment": number} if numbered else {}))
    lines += _finer_ranks(picture) if early else _ranks(picture) + _finer_ranks(picture)
    still = " mclimit=0.001" if picture.lanes or (early and _between(picture)) else ""  # boxes stay in the order of these lines
    return _graph(picture, f"rankdir=BT newrank=true nodesep=0.16 ranksep=0.32{still}", lines)


def _between(picture: Picture) -> bool:
    """Whether something outside of the columns is read by steps and computed from steps."""
    after = {id for id, box in picture.boxes.items() if box.column is not None}
    for edge in picture.edges:  # in tape order
        if edge.source in after:
            after.add(edge.target)
    return any(
        picture.boxes[edge.source].column is None and edge.source in after and picture.boxes[edge.target].column is not None
        for edge in picture.edges
    )


def placed_text(picture: Picture, places: Places) -> str:
    """The DOT text of a picture in which everything has its place: for the engine nop2, which lays out nothing."""
    lines, columns = [], _by_column(picture)
    for column in picture.columns:
        bb, label = places.columns[column]
        given = {"bb": _point(bb), "lp": _point(label)}
        lines += _cluster(
            picture,
            column,
            columns[column],
            given,
            [_placed(picture, box, places) for box in columns[column] if box.id in places.nodes],
        )
    lines += [_placed(picture, box, places) for box in columns[None] if box.id in places.nodes]
    taken = [(x, y, 72 * w, 72 * h) for x, y, w, h in places.nodes.values()]
    for number, edge in enumerate(picture.edges):
        if number in places.edges:
            curve, label_at = places.edges[number]
            look: dict[str, object] = {"pos": f'"{curve}"', "lp": f'"{label_at}"' if label_at else None}
            look |= _noted(edge, _points(curve), taken) if edge.note else {}
            lines.append(_edge(picture, edge, set(), look))
        elif number in places.lines:
            at, line = places.labels.get(number), places.lines[number]
            at_label: dict[str, object] = {"lp": quote(_point(at))} if at else {"label": None}
            lines.append(_edge(picture, edge, set(), at_label | (_noted(edge, line, taken) if edge.note else {}), line))
    heading = f'layout=nop2 bb="{_point(places.bb)}"' + (f' lp="{_point(places.label)}"' if places.label else "")
    return _graph(picture, heading, lines)


def _graph(picture: Picture, layout: str, body: list[str]) -> str:
    sized = " fixedsize=true" if "nop2" in layout else ""
    lines = [
        "digraph tape {",
        f'  graph [{layout} bgcolor="#ffffff" pad=0.15 fontname="Helvetica" fontsize=14 fontcolor="{INK}"'
        + _heading(picture)
        + "];",
        f'  node [shape=box style="rounded,filled" height=0.28 width=0.4 margin="0.08,0.03" fontname="Helvetica" fontsize=11 fontcolor="{INK}"{sized}'
        f' color="{LINE}" fillcolor="{FILLS["op"]}"];',
        f'  edge [color="{EDGE}" arrowsize=0.55 penwidth=1.1 fontname="Helvetica" fontsize=9 fontcolor="{INK}"];',
    ]
    return "\n".join([*lines, *body, "}", ""])


def _by_column(picture: Picture) -> dict[int | None, list[Box]]:
    columns: dict[int | None, list[Box]] = defaultdict(list)
    for box in picture.boxes.values():
        columns[box.column].append(box)
    return columns


def _point(numbers: Sequence[float]) -> str:
    return ",".join(f"{x:.2f}" for x in numbers)


def _heading(picture: Picture) -> str:
    if not picture.remarks:
        return f" labelloc=t label={quote(picture.title, None)}" if picture.title else ""
    lines = [f'<FONT POINT-SIZE="15"><B>{_with_indices(picture.title)}</B></FONT>'] if picture.title else []
    lines += [f'<FONT POINT-SIZE="10" COLOR="#5b6577">{_with_indices(remark)}</FONT>' for remark in picture.remarks]
    return f" labelloc=t label=<{'<BR/>'.join(lines)}<BR/> >"


LONGEST = 60  # characters of a label


def quote(text: str, longest: int | None = LONGEST) -> str:
    """A DOT string that shows exactly this text, whatever is in it."""
    return (
        '"' + _printable(text, longest).replace("&", "&amp;").replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
    )


def label_of(text: str, notes: Sequence[str] = ()) -> str:
    """A DOT label that shows this text; of a symbol with an index, as W_h or b_ih, the index small, and the notes small beneath it."""
    symbol = re.match(r"([^\W\d_])_([A-Za-z0-9]{1,3})(?![A-Za-z0-9_.])", text)
    if symbol is None and not notes:
        return quote(text)
    head, rest = (f'{symbol[1]}<FONT POINT-SIZE="8">{symbol[2]}</FONT>', text[symbol.end() :]) if symbol else ("", text)
    lines = [head + markup(rest), *(f'<FONT POINT-SIZE="9">{markup(note)}</FONT>' for note in notes)]
    return f"<{'<BR/>'.join(lines)}>"


def _with_indices(text: str) -> str:
    """A heading as a part of an HTML-like label, the indices of its symbols small."""
    return re.sub(
        r"(?<![\w.])([^\W\d_])_([A-Za-z0-9]{1,3})(?![A-Za-z0-9_])", r'\1<FONT POINT-SIZE="9">\2</FONT>', markup(text, None)
    )


def markup(text: str, longest: int | None = LONGEST) -> str:
    """Text as a part of an HTML-like label, which shows exactly this."""
    return html.escape(_printable(text, longest)).replace("\\", "\\\\").replace("\n", "<BR/>")


def _printable(text: str, longest: int | None) -> str:
    if not text.isprintable():
        text = "".join(c if c == "\n" or unicodedata.category(c) not in ("Cc", "Cs") else "�" for c in text)
    return text if longest is None or len(text) <= longest else text[: longest - 3] + "..."


def _attributes(given: Mapping[str, object]) -> str:
    return " ".join(f"{name}={_value(value)}" for name, value in given.items() if value is not None)


def _value(value: object) -> str:
    text = str(value)
    return text if text[:1] in ("<", '"') else _word(text)


@lru_cache
def _word(text: str) -> str:
    return text if re.fullmatch(r"[A-Za-z]\w*|-?\d+(\.\d+)?", text) else quote(text)


# ---- Boxes --------------------------------------------------------------------------------------------------------------------


def _cluster(
    picture: Picture, column: int, boxes: list[Box], given: Mapping[str, str] | None = None, body: list[str] | None = None
) -> list[str]:
    look = f'style="rounded,filled" color="{PALE}" fillcolor="{picture.fills.get(column, "#f8fafd")}"'
    label = "every step t" if picture.folded else " · ".join([f"t = {column}", *filter(None, [picture.heads.get(column)])])
    if column in picture.initial:
        look = f'style="rounded,dashed" color="{PALE}"'
    elif column in picture.hidden:
        look, label = f'style="rounded,dotted" color="{LINE}"', f"t = {picture.hidden.start} … {picture.hidden.stop - 1}"
    opening = f'  subgraph "cluster_{column}" {{ label={quote(label)}; labelloc=t; fontname="Helvetica-Bold"; fontsize=12; {look}; margin=10;'
    opening += "".join(f' {name}="{value}";' for name, value in (given or {}).items())
    body = [_box(picture, box) for box in boxes] if body is None else body
    return [opening, *(f"  {line}" for line in body), "  }"]


def _placed(picture: Picture, box: Box, places: Places) -> str:
    x, y, width, height = places.nodes[box.id]
    size = f"width={width + 5e-4:.3f} height={height + 5e-4:.3f}" if box.look.get("shape") != "plain" else "fixedsize=false"
    return _box(picture, box).removesuffix("];") + f' pos="{x:.1f},{y:.1f}" {size}];'


def _box(picture: Picture, box: Box) -> str:
    if box.kind == "floor":
        return f'  "{box.id}" [style=invis label="" width=0.3];'
    look: dict[str, object] = {}
    fill, line = FILLS.get(box.kind, FILLS["op"]), None
    if box.kind == "weight":
        fill, line = WEIGHTS[box.family % len(WEIGHTS)], EDGING[box.family % len(EDGING)]
    elif box.kind == "input":
        look, line = _round(box), "#5a9a63"
    elif box.kind == "state":
        kind = picture.states[box.family].kind
        fill, line, look = STATES[kind], RAILS[kind], _round(box)
    elif box.kind == "constant":
        look, line = {"fontsize": 9, "penwidth": 0.7}, "#b9c1cf"
    elif box.kind == "loss":
        look = {"fontname": "Helvetica-Bold"}
    elif box.kind == "more":
        look = {"shape": "plaintext", "style": '""', "fontsize": 14}
    if box.notes or "\n" in box.label:
        look["margin"] = "0.09,0.06"  # Graphviz 14 sets the first of two lines close to the edge
    return f'  "{box.id}" [{_attributes({"label": label_of(box.label, box.notes), **look, "fillcolor": fill, "color": line} | box.look)}];'


def _round(box: Box) -> dict[str, object]:
    """A circle, of one size for all times: what fits into it is written smaller."""
    if box.notes:
        return {"shape": "circle", "width": 0.46, "penwidth": 1.4} if len(box.label) <= 4 else {"penwidth": 1.4}
    size = {5: 9, 6: 8}.get(len(box.label)) if _NUMBERED.fullmatch(box.label) else None
    if len(box.label) > 4 and size is None:
        return {"penwidth": 1.4}
    return {"shape": "circle", "fixedsize": "true", "width": 0.46, "penwidth": 1.4, "fontsize": size}


_NUMBERED = re.compile("..?[₋₀-₉]+")


# ---- Edges --------------------------------------------------------------------------------------------------------------------


def _edge(
    picture: Picture, edge: Edge, on_rails: set[str], given: Mapping[str, object], line: Sequence[tuple[float, float]] = ()
) -> str:
    """An edge, spelled so that dot lays it out as meant; `backwards` says that the spelling runs against the arrow.

    given: more attributes. line: two points between which it is drawn straight.
    """
    look: dict[str, object] = {}
    backwards = False
    source, target = picture.boxes[edge.source], picture.boxes[edge.target]
    if edge.kind in ("carry", "state", "sum", "rail"):
        state = picture.states[edge.family]
        look = {"color": RAILS[state.kind], "penwidth": 2.2}
        if edge.kind in ("carry", "rail"):
            backwards = state.kind == "h" or state.towards < 0
        elif state.kind != "h" or target.kind == "more":
            backwards = state.towards > 0
            look["constraint"] = "false"
    elif edge.kind == "jump":
        backwards = (source.column or 0) < (target.column or 0)
        look = {"constraint": "false", "style": "dashed"}
    elif edge.kind == "across":
        backwards = (source.column or 0) < (target.column or 0)
        look["constraint"] = "false"
    elif edge.kind == "lane":  # Graphviz 2 draws no point on two strands that are spelled backwards
        look = {"weight": 5}
    elif edge.kind == "more":
        look = {"style": "dashed", "color": LINE}
    elif edge.spine:
        look = {"weight": 5 if edge.target in on_rails else 20}  # what slack there is, is below the rail
    elif edge.flat:
        backwards, look = True, {"minlen": 3}
    look |= edge.look
    look["dir"] = "back" if backwards != edge.back else None
    look["xlabel"] = quote(edge.note) if edge.note and not given else None
    ends = (edge.target, edge.source) if backwards else (edge.source, edge.target)
    if "pos" in given or line:  # laid out already
        look = {name: value for name, value in look.items() if name not in ("weight", "constraint", "minlen", "xlabel")}
    look |= given
    if line:
        look["pos"] = f'"{_straight(line[::-1] if backwards else line, at_end=backwards == edge.back)}"'
    text = _attributes(look)
    return f'  "{ends[0]}" -> "{ends[1]}"' + (f" [{text}];" if text else ";")


def _noted(edge: Edge, curve: Sequence[tuple[float, float]], taken: list[tuple[float, float, float, float]]) -> dict[str, object]:
    """The word beside an edge, in a gap of the line: as near to its middle as boxes and other words (centres and sizes) let it be."""
    gap = '<TABLE BORDER="0" CELLSPACING="0" CELLPADDING="0"><TR><TD BGCOLOR="#f8fafd">'
    label = f'<{gap}<FONT POINT-SIZE="14">{markup(edge.note)}</FONT></TD></TR></TABLE>>'
    width, height = 14.0 + 5 * (len(edge.note) - 1), 15.0
    places = [_along(curve, 0.5 + k * 0.04 * sign) for k in range(11) for sign in (1, -1)]
    free = [p for p in places if all(abs(p[0] - x) > (w + width) / 2 or abs(p[1] - y) > (h + height) / 2 for x, y, w, h in taken)]
    x, y = [*free, *places][0]
    taken.append((x, y, width, height))
    return {"label": label, "lp": f'"{_point((x, y))}"'}


def _points(curve: str) -> list[tuple[float, float]]:
    """The points of a curve as DOT spells it."""
    numbers = [p.split(",") for p in curve.split(";")[0].split(" ") if p[:1] not in ("e", "s")]
    return [(float(x), float(y)) for x, y in numbers]


def _along(points: Sequence[tuple[float, float]], share: float) -> tuple[float, float]:
    """A point of a spline, or of a line, some share of the way along."""
    pieces = (len(points) - 1) // 3
    if pieces == 0:
        (ax, ay), (dx, dy) = points[0], points[-1]
        return ax + share * (dx - ax), ay + share * (dy - ay)
    piece = min(int(share * pieces), pieces - 1)
    u = share * pieces - piece
    weights = (1 - u) ** 3, 3 * u * (1 - u) ** 2, 3 * u * u * (1 - u), u**3
    four = points[3 * piece : 3 * piece + 4]
    return sum(w * x for w, (x, _) in zip(weights, four, strict=True)), sum(w * y for w, (_, y) in zip(weights, four, strict=True))


def _straight(line: Sequence[tuple[float, float]], at_end: bool) -> str:
    """A straight line as a curve of DOT, with its arrow at the end or at the start."""
    if len(line) > 2:
        return _bent(line, at_end)
    (x1, y1), (x2, y2) = line
    length = max(math.hypot(x2 - x1, y2 - y1), 1e-9)
    dx, dy = (5.5 / length * (x2 - x1), 5.5 / length * (y2 - y1))  # the arrowhead
    tip = f"e,{x2:.2f},{y2:.2f}" if at_end else f"s,{x1:.2f},{y1:.2f}"
    (x1, y1), (x2, y2) = ((x1, y1), (x2 - dx, y2 - dy)) if at_end else ((x1 + dx, y1 + dy), (x2, y2))
    points = [(x1 + (x2 - x1) * k / 3, y1 + (y2 - y1) * k / 3) for k in range(4)]
    return " ".join([tip, *(f"{x:.2f},{y:.2f}" for x, y in points)])


def _bent(line: Sequence[tuple[float, float]], at_end: bool) -> str:
    """The points of a Bézier spline as a curve of DOT, shortened by its arrow."""
    points = list(line) if at_end else list(line)[::-1]
    (x1, y1), (x2, y2) = points[-2:]
    length = max(math.hypot(x2 - x1, y2 - y1), 1e-9)
    points[-1] = x2 - 5.5 / length * (x2 - x1), y2 - 5.5 / length * (y2 - y1)
    tip = f"{'e' if at_end else 's'},{x2:.2f},{y2:.2f}"
    return " ".join([tip, *(f"{x:.2f},{y:.2f}" for x, y in (points if at_end else points[::-1]))])


# ---- Ranks --------------------------------------------------------------------------------------------------------------------


def _ranks(picture: Picture) -> list[str]:
    """The bottom row and the rails. dot starts from the order in which it meets the boxes: rails and loops that run backwards keep
    their order only if it meets these lines first; elsewhere the order of the boxes themselves draws better.
    """
    rails = ["  { rank=same; " + " ".join(f'"{id}";' for id in rail) + " }" for rail in picture.rails if len(rail) > 1]
    return _order(picture) + _chains(picture.rows[:1]) + rails


def _finer_ranks(picture: Picture) -> list[str]:
    lines = _chains(picture.rows[1:] + picture.beside)
    lines += [f'  {{ rank=same; "{edge.target}"; "{edge.source}"; }}' for edge in picture.edges if edge.flat]
    lines += [f'  "{low}" -> "{high}" [style=invis];' for low, high in picture.above]
    return lines + [f'  "{id}" -> "{picture.rows[0][0]}" [style=invis];' for id in picture.below if picture.columns]


def _chains(rows: list[list[str]]) -> list[str]:
    return ["  { rank=same; " + " -> ".join(f'"{id}"' for id in row) + " [style=invis]; }" for row in rows if len(row) > 1]


def _order(picture: Picture) -> list[str]:
    """Columns in the order of time: dot heeds an order among points outside the clusters, and follows it to avoid crossings."""
    if len(picture.columns) < 2:
        return []
    points = " -> ".join(f'"order_{column}"' for column in picture.columns)
    lines = [f'  {{ rank=same; node [shape=point style=invis width=0 height=0 label=""]; {points} [style=invis]; }}']
    held = list(picture.rows[0])
    loose = {*picture.columns} - {picture.boxes[id].column for id in held if picture.boxes[id].kind in LEAVES}
    if not picture.rails and loose - {
        *picture.initial,
        *picture.hidden,
    }:  # a bottom row without leaves holds no column in its place
        held += {box.column: box.id for box in picture.boxes.values() if box.kind in OPS and box.column is not None}.values()
    for id in held:
        lines.append(f'  "order_{picture.boxes[id].column}" -> "{id}" [style=invis weight=0];')
    return lines
