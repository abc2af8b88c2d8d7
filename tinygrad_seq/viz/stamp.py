"""Long pictures: dot lays out a few columns, and those between are one of them again and again.

    columns of the picture    0 | 1 2 3 4 5 6 7 8 9 ... 256         a run of columns that are the same but for their numbers
    columns laid out          0 | 1 2 3 4 5 6 7 8 256               KEPT of them
    columns drawn             0 | 1 2 2 2 2 3 4 5 5 ... 6 7 256     where two neighbours lie alike (2 and 3, 5 and 6), copies fit between

An edge to what stands outside of the columns, as the sum over all steps does, is drawn straight. Where columns differ, or where no two
neighbours lie alike, nothing is copied, and dot lays out everything.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

from .picture import Box, Edge, Picture, Places

KEPT = 9  # columns of a run that are laid out
WORTH = 16  # columns that dot may lay out itself
_NUMBERS = re.compile(r"[\d₀-₉⁰¹²³⁴-⁹.,+−-]+")


class Run(NamedTuple):
    """Neighbouring columns that are the same but for their numbers, those in the middle left out."""

    columns: list[int]
    kept: list[int]


def placed(picture: Picture, layout: Callable[[Picture], str]) -> Places | None:
    """Where everything stands, with most columns of a long picture copied; None where the whole may as well be left to dot.

    A picture with rails is laid out apart from its rendering, too: formats differ in their metrics, and Graphviz 2 draws some edges twice.

    layout: lays out a picture and returns Graphviz's JSON.
    """
    places = None
    if len(picture.columns) > WORTH:
        columns = _Columns(picture)
        runs = columns.runs()
        if runs:
            short = _shortened(columns, runs)
            places = _Stamp(columns, runs, short, _read(layout(short), short)).places()
    if places is None and (picture.rails or any(edge.note for edge in picture.edges)):
        places = _read(layout(picture), picture)
    if places is not None:
        _straighten(picture, places)
    return places


def _straighten(picture: Picture, places: Places) -> None:
    """Draw anew what Graphviz 2 draws twice: some edges between neighbours of a rail, as two bows."""
    for number, (curve, _) in [*places.edges.items()]:
        if ";" in curve:
            edge = picture.edges[number]
            (x1, y1, w1, _), (x2, y2, w2, _) = places.nodes[edge.source], places.nodes[edge.target]
            right = 36.0 if x2 > x1 else -36.0
            places.lines[number] = [(x1 + right * w1, y1), (x2 - right * w2, y2)]
            del places.edges[number]


# ---- Which columns are the same ---------------------------------------------------------------------------------------------------


class _Columns:
    """The boxes and edges of a picture by column, and what tells one column from another."""

    def __init__(self, picture: Picture):
        self.picture = picture
        self.boxes: dict[int | None, list[str]] = defaultdict(list)
        for box in picture.boxes.values():
            self.boxes[box.column].append(box.id)
        self.role = {id: k for ids in self.boxes.values() for k, id in enumerate(ids)}
        self.edges: dict[int, list[int]] = defaultdict(list)  # by the later of the columns at their ends
        self.outside: list[int] = []  # edges with an end outside of the columns
        for number, edge in enumerate(picture.edges):
            ends = self.ends(edge)
            if None in ends:
                self.outside.append(number)
            else:
                self.edges[max(ends)].append(number)  # type: ignore[type-var, index]

    def ends(self, edge: Edge) -> tuple[int | None, int | None]:
        """The columns at the ends of an edge."""
        return self.picture.boxes[edge.source].column, self.picture.boxes[edge.target].column

    def runs(self) -> list[Run]:
        """The runs that are long enough to leave columns out."""
        lines = self._lines()
        found: list[list[int]] = []
        last: Any = None
        for column in self.picture.columns:
            looks = self._looks(column, lines)
            if looks is not None and looks == last:
                found[-1].append(column)
            else:
                found.append([column])
            last = looks
        runs = [run[1:] for run in found if len(run) > KEPT + 2]  # what a first column hands on is found in the second
        return [Run(run, run[:3] + run[-(KEPT - 3) :]) for run in runs]

    def _lines(self) -> dict[int, list[Any]]:
        """For every column what of it stands on which line."""
        picture, lines = self.picture, defaultdict(list)
        for name in ("rails", "rows", "beside", "above", "lanes"):
            for number, ids in enumerate(getattr(picture, name)):
                for id in ids:
                    column = picture.boxes[id].column
                    if column is not None:  # short rows are counted by their columns
                        lines[column].append((name, number if name in ("rails", "rows", "lanes") else 0, self.role[id]))
        return lines

    def _looks(self, column: int, lines: dict[int, list[Any]]) -> Any:
        """What a column must share with its neighbour; None where an edge comes from farther away than that."""
        picture, edges = self.picture, []
        for number in self.edges[column]:
            edge = picture.edges[number]
            source, target = self.ends(edge)
            assert source is not None and target is not None
            if abs(source - target) > 1:
                return None
            shape = edge.kind, edge.family, edge.spine, edge.flat, bool(edge.note), bool(edge.label)
            edges.append((self.role[edge.source], source - column, self.role[edge.target], target - column, shape))
        return [_kind(picture.boxes[id]) for id in self.boxes[column]], edges, lines[column], column in picture.initial


def _kind(box: Box) -> Any:
    inside = [(one.kind, one.family) for one in box.inside]
    return box.kind, box.family, _NUMBERS.sub("", box.label), len(box.notes), inside


# ---- The short picture ------------------------------------------------------------------------------------------------------------


def _shortened(columns: _Columns, runs: list[Run]) -> Picture:
    """The picture without the columns in the middle of every run, and with the widest labels of the run in those that stay."""
    picture = columns.picture
    left_out = {column for run in runs for column in run.columns if column not in run.kept}
    twin: dict[str, str] = {}  # the last column left out -> the last one before the gap
    boxes = {id: box for id, box in picture.boxes.items() if box.column not in left_out}
    for run in runs:
        before, gap = columns.boxes[run.kept[2]], columns.boxes[run.kept[3] - 1]
        twin |= dict(zip(gap, before, strict=True))
        for k in range(len(before)):
            widest = max((picture.boxes[columns.boxes[c][k]] for c in run.columns), key=_width)
            for id in (columns.boxes[c][k] for c in run.kept):
                if _width(boxes[id]) < _width(widest):
                    boxes[id] = replace(boxes[id], label=widest.label, notes=widest.notes)
    edges = []
    for edge in picture.edges:
        source, target = edge.source, edge.target
        if source in boxes and target in boxes:
            edges.append(edge)
        elif (source in boxes and twin.get(target) and _after(picture, source, target)) or (
            target in boxes and twin.get(source) and _after(picture, target, source)
        ):
            edges.append(replace(edge, source=twin.get(source, source), target=twin.get(target, target)))

    def kept(lines: Any) -> list[Any]:
        return [line for line in ([id for id in ids if id in boxes] for ids in lines) if line]

    return replace(
        picture,
        boxes=boxes,
        edges=edges,
        columns=[c for c in picture.columns if c not in left_out],
        rails=kept(picture.rails),
        rows=kept(picture.rows),
        beside=kept(picture.beside),
        lanes=kept(picture.lanes),
        above=[(a, b) for a, b in picture.above if a in boxes and b in boxes],
    )


def _after(picture: Picture, later: str, earlier: str) -> bool:
    after, before = picture.boxes[later].column, picture.boxes[earlier].column
    return after is not None and before is not None and after == before + 1


def _width(box: Box) -> int:
    return max(map(len, [*box.label.split("\n"), *box.notes]))


# ---- Places -------------------------------------------------------------------------------------------------------------------------


def _read(text: str, picture: Picture) -> Places:
    """What dot made of a picture."""
    data = json.loads(text)
    places = Places(bb=_floats(data["bb"]), label=_floats(data.get("lp", "")))
    for thing in data.get("objects", ()):
        column = re.fullmatch(r"cluster_(-?\d+)", thing["name"])
        if column and "bb" in thing:
            places.columns[int(column[1])] = _floats(thing["bb"]), _floats(thing.get("lp", ""))
        elif thing["name"] in picture.boxes and "pos" in thing:
            x, y = _floats(thing["pos"])
            places.nodes[thing["name"]] = x, y, float(thing["width"]), float(thing["height"])
    for thing in data.get("edges", ()):
        if "comment" in thing and "pos" in thing:
            places.edges[int(thing["comment"])] = thing["pos"], thing.get("lp", "")
    return places


def _floats(text: str) -> list[float]:
    return [float(x) for x in text.split(",")] if text else []


class _Stamp:
    """Copies the columns of a layout: for every column the one it looks like, and how far it is shifted."""

    def __init__(self, columns: _Columns, runs: list[Run], short: Picture, layout: Places):
        self.columns, self.runs, self.layout = columns, runs, layout
        self.short = _Columns(short)
        self.like: dict[int, tuple[int, float]] = {}
        self.pairs: dict[int, tuple[int, float]] = {}  # the same for what lies between a column and the one before

    def places(self) -> Places | None:
        """The place of everything; None where no two neighbours of a run lie alike."""
        if not self._match():
            return None
        picture, layout = self.columns.picture, self.layout
        shift = self._outside()
        places = Places()
        for column in picture.columns:
            like, by = self.like[column]
            for id, model in zip(self.columns.boxes[column], self.short.boxes[like], strict=True):
                x, y, w, h = layout.nodes[model]
                places.nodes[id] = x + by, y, w, h
            bb, lp = layout.columns[like]
            places.columns[column] = [bb[0] + by, bb[1], bb[2] + by, bb[3]], [lp[0] + by, lp[1]] if lp else []
            like, by = self.pairs[column]
            for number, model_edge in zip(self.columns.edges[column], self.short.edges[like], strict=True):
                places.edges[number] = _moved(layout.edges[model_edge], by)
        for id, by in shift.items():
            x, y, w, h = layout.nodes[id]
            places.nodes[id] = x + by, y, w, h
        if _overlap([places.nodes[id] for id in shift]):
            return None
        self._edges_outside(places, shift)
        wider = max(by for _, by in self.like.values())
        places.bb = [layout.bb[0], layout.bb[1], layout.bb[2] + wider, layout.bb[3]]
        places.label = [layout.label[0] + wider / 2, layout.label[1]] if layout.label else []
        return places

    def _match(self) -> bool:
        """Find for every column its model: in every run two neighbours that lie alike."""
        by, run_of = 0.0, {run.columns[0]: run for run in self.runs}
        left = list(self.columns.picture.columns)
        while left:
            run = run_of.get(left[0])
            if run is None:
                self.like[left[0]] = self.pairs[left[0]] = left[0], by
                left = left[1:]
                continue
            copies = self._copies(run)
            if copies is None:
                return False
            looks: list[tuple[int, float]] = []
            for k, column in enumerate(run.kept):
                stride = self._left(run.kept[k + 1]) - self._left(column) if k in copies else 0.0
                for _ in range(copies.get(k, 0) + 1):
                    looks.append((k, by))
                    by += stride
                by -= stride
            for j, (column, (k, shift)) in enumerate(zip(run.columns, looks, strict=True)):
                self.like[column] = self.pairs[column] = run.kept[k], shift
                if j and looks[j - 1][0] == k:  # between two copies it looks as between the two neighbours
                    self.pairs[column] = run.kept[k + 1], looks[j - 1][1]
            left = left[len(run.columns) :]
        return True

    def _copies(self, run: Run) -> dict[int, int] | None:
        """How many copies of which kept columns: half of them in either half of the run, since columns lean towards what they all give to."""
        missing, middle = len(run.columns) - len(run.kept), (len(run.kept) - 1) / 2
        alike = [k for k in range(len(run.kept) - 1) if self._offsets(run.kept[k]) == self._offsets(run.kept[k + 1])]
        if not alike:
            return None
        low = min(alike, key=lambda k: abs(k - middle / 2))
        high = min(alike, key=lambda k: abs(k - 1.5 * middle))
        return {low: missing} if low == high else {low: missing // 2, high: missing - missing // 2}

    def _left(self, column: int) -> float:
        return self.layout.columns[column][0][0]

    def _offsets(self, column: int) -> Any:
        (left, bottom, right, top), _ = self.layout.columns[column]
        nodes = [self.layout.nodes.get(id, (0.0,) * 4) for id in self.short.boxes[column]]
        return [(round(x - left), round(y), round(72 * w), round(72 * h)) for x, y, w, h in nodes], round(right - left), bottom, top

    # ---- Outside of the columns ------------------------------------------------------------------------------------------------

    def _outside(self) -> dict[str, float]:
        """How far the boxes outside of the columns are shifted: as what they are connected to on average."""
        picture = self.columns.picture
        shift: dict[str, float] = {}
        near: dict[str, list[str]] = defaultdict(list)
        for number in self.columns.outside:
            edge = picture.edges[number]
            near[edge.source].append(edge.target)
            near[edge.target].append(edge.source)
        waiting = list(self.columns.boxes[None])
        for _ in range(len(waiting)):
            for id in waiting:
                columns = [c for other in near[id] if (c := picture.boxes[other].column) is not None]
                moves = [self.like[c][1] for c in columns] + [shift[other] for other in near[id] if other in shift]
                if moves and (columns or id not in shift):
                    shift[id] = sum(moves) / len(moves)
            waiting = [id for id in waiting if id not in shift]
        middle = max(by for _, by in self.like.values()) / 2
        return {id: shift.get(id, middle) for id in self.columns.boxes[None]}

    def _edges_outside(self, places: Places, shift: dict[str, float]) -> None:
        picture = self.columns.picture
        model = {(e.source, e.target, e.use): n for n, e in enumerate(self.short.picture.edges)}
        for number in self.columns.outside:
            edge = picture.edges[number]
            same = model.get((edge.source, edge.target, edge.use))
            moves = [shift[end] if end in shift else self._own_shift(end) for end in (edge.source, edge.target)]
            if same is not None and same in self.layout.edges and moves[0] == moves[1] is not None:
                places.edges[number] = _moved(self.layout.edges[same], moves[0] or 0.0)
            else:
                places.lines[number] = _line(places.nodes[edge.source], places.nodes[edge.target])

    def _own_shift(self, id: str) -> float | None:
        """How far a box in a column is shifted that was itself laid out; None for the copies."""
        column = self.columns.picture.boxes[id].column
        assert column is not None
        like, by = self.like[column]
        return by if like == column else None


def _moved(curve: tuple[str, str], by: float) -> tuple[str, str]:
    """A curve and the place of its label, farther to the right."""
    if by == 0:
        return curve
    parts = (" ".join(_moved_point(p, by) for p in part.split(" ")) for part in curve[0].split(";"))
    return ";".join(parts), _moved_point(curve[1], by) if curve[1] else ""


def _moved_point(point: str, by: float) -> str:
    *which, x, y = point.split(",")
    return ",".join([*which, f"{float(x) + by:.1f}", y])


def _line(source: tuple[float, float, float, float], target: tuple[float, float, float, float]) -> list[tuple[float, float]]:
    """The ends of a straight line from the edge of one box to the edge of the other."""
    (x1, y1, _, h1), (x2, y2, w2, h2) = source, target
    up = 1.0 if y2 > y1 else -1.0
    start = x1, y1 + up * 36 * h1
    dx, dy = start[0] - x2, start[1] - y2
    scale = min((36 * w2 / abs(dx)) if dx else 9e9, (36 * h2 / abs(dy)) if dy else 9e9, 1.0)
    return [start, (x2 + scale * dx, y2 + scale * dy)]


def _overlap(nodes: list[tuple[float, float, float, float]]) -> bool:
    def pairs() -> Iterator[bool]:
        for k, (x1, y1, w1, h1) in enumerate(nodes):
            for x2, y2, w2, h2 in nodes[:k]:
                yield abs(x1 - x2) < 36 * (w1 + w2) and abs(y1 - y2) < 36 * (h1 + h2)

    return any(pairs())
