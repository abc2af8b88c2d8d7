"""What a rendered SVG shows, read from its coordinates: overlapping boxes and labels, labels wider than their box, columns out of time order.

Graphviz groups what it draws: `<g class="node">` with a title, shapes and texts; so do `cluster` (a column is called cluster_<time>) and `edge`.
Widths of text are those of Helvetica, so a complaint about a label is an estimate to a tenth of a letter; boxes and columns are exact.

    assert complaints(drawing.svg) == []
"""

from __future__ import annotations

import re
import unicodedata
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import NamedTuple

_SVG = "{http://www.w3.org/2000/svg}"
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e-?\d+)?")
_WIDTHS = dict(  # of the letters of Helvetica, in thousandths of the font size
    zip(
        map(chr, range(32, 127)),
        map(
            int,
            "278 278 355 556 556 889 667 191 333 333 389 584 278 333 278 278 556 556 556 556 556 556 556 556 556 556 278 278 584 584 584 556 1015 "
            "667 667 722 722 667 611 778 722 278 500 667 556 833 722 778 667 778 722 667 611 722 667 944 667 667 611 278 278 278 469 556 333 "
            "556 556 500 556 556 278 556 556 222 222 500 222 833 556 556 556 556 333 500 278 556 500 722 500 500 500 334 260 334 584".split(),
        ),
        strict=True,
    )
)


class Rectangle(NamedTuple):
    """From the left to the right and from the top to the bottom; y grows downwards."""

    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: Rectangle, slack: float = 0.5) -> bool:
        """Whether the two share more than `slack` points in both directions."""
        return (
            min(self.right, other.right) - max(self.left, other.left) > slack
            and min(self.bottom, other.bottom) - max(self.top, other.top) > slack
        )

    def holds(self, other: Rectangle, slack: float) -> bool:
        """Whether the other lies inside, give or take `slack` points."""
        return (
            self.left - slack <= other.left
            and other.right <= self.right + slack
            and self.top - slack <= other.top
            and other.bottom <= self.bottom + slack
        )


class Label(NamedTuple):
    """One line of text, where it stands, and on what."""

    text: str
    place: Rectangle
    owner: str


class Thing(NamedTuple):
    """A node, a cluster or an edge: its title, the rectangle around its shapes, its lines of text, and its shapes as lists of points."""

    title: str
    place: Rectangle
    labels: list[Label]
    shapes: list[list[tuple[float, float]]]


class Seen(NamedTuple):
    """Everything that a picture shows."""

    nodes: list[Thing]
    clusters: list[Thing]
    edges: list[Thing]
    captions: list[Label]  # of the picture as a whole

    def columns(self) -> dict[int, Rectangle]:
        """The columns by time."""
        numbered = {re.fullmatch(r"cluster_(-?\d+)", c.title): c.place for c in self.clusters}
        return {int(found[1]): place for found, place in numbered.items() if found}


def width(text: str, size: float) -> float:
    """How wide a line of text is, in points."""
    return sum(map(_letter, text)) * size / 1000


def _letter(c: str) -> int:
    if unicodedata.combining(c):
        return 0
    wide = unicodedata.east_asian_width(c) in "WF"
    return _WIDTHS.get(c, 1000 if wide else 333 if unicodedata.category(c) in ("No", "Lm") else 584)


def read(svg: str) -> Seen:
    """What an SVG of Graphviz shows."""
    root = ET.fromstring(svg.encode())
    groups = [g for g in root.iter(f"{_SVG}g") if g.get("class") in ("node", "cluster", "edge")]
    kinds = {kind: [_thing(g) for g in groups if g.get("class") == kind] for kind in ("node", "cluster", "edge")}
    graph = next((g for g in root.iter(f"{_SVG}g") if g.get("class") == "graph"), root)
    return Seen(kinds["node"], kinds["cluster"], kinds["edge"], [*_labels(graph.findall(f"{_SVG}text"), "the picture")])


def _thing(group: ET.Element) -> Thing:
    title = group.findtext(f"{_SVG}title") or ""
    labels = [*_labels(group.iter(f"{_SVG}text"), title)]
    shapes = [points for shape in group.iter() if (points := _points(shape))]
    around = [Rectangle(x, y, x, y) for points in shapes for x, y in points]
    return Thing(title, _around(around or [label.place for label in labels]), labels, shapes)


def _around(places: Iterable[Rectangle]) -> Rectangle:
    lefts, tops, rights, bottoms = zip(*places, strict=True)
    return Rectangle(min(lefts), min(tops), max(rights), max(bottoms))


def _points(shape: ET.Element) -> list[tuple[float, float]]:
    """The corners of a shape; of a curve its ends and the points that pull it."""
    kind = shape.tag.removeprefix(_SVG)
    if kind == "ellipse":
        cx, cy, rx, ry = (float(shape.get(name, "0")) for name in ("cx", "cy", "rx", "ry"))
        return [(cx - rx, cy - ry), (cx + rx, cy + ry)]
    text = {"polygon": shape.get("points"), "polyline": shape.get("points"), "path": shape.get("d")}.get(kind)
    numbers = [float(n) for n in _NUMBER.findall(text or "")]
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def _labels(texts: Iterable[ET.Element], owner: str) -> Iterator[Label]:
    for text in texts:
        content, size = "".join(text.itertext()).replace("\xa0", " "), float(text.get("font-size", "14"))
        if content.strip():
            x, y, w = float(text.get("x", "0")), float(text.get("y", "0")), width(content, size)
            left = x - {"middle": w / 2, "end": w}.get(text.get("text-anchor", "start"), 0.0)
            yield Label(content, Rectangle(left, y - 0.72 * size, left + w, y + 0.1 * size), owner)


# ---- What can be wrong ------------------------------------------------------------------------------------------------------------


def complaints(svg: str) -> list[str]:
    """All that is wrong with a picture: boxes on boxes, labels on labels or on other boxes, labels wider than their box, columns."""
    seen = read(svg)
    return overlapping_boxes(seen) + overlapping_labels(seen) + labels_outside(seen) + out_of_order(seen)


def _pairs(things: list[tuple[Rectangle, str]]) -> Iterator[tuple[str, str]]:
    """The names of all pairs of rectangles that meet: from left to right, so long pictures take no longer than they must."""
    near: list[tuple[Rectangle, str]] = []
    for place, name in sorted(things):
        near = [(p, n) for p, n in near if p.right > place.left]
        yield from ((n, name) for p, n in near if p.meets(place))
        near.append((place, name))


def overlapping_boxes(seen: Seen) -> list[str]:
    """Nodes that stand on each other."""
    return [f"boxes {a} and {b} overlap" for a, b in _pairs([(node.place, node.title) for node in seen.nodes])]


def overlapping_labels(seen: Seen) -> list[str]:
    """Lines of text that cover each other, and labels of edges, columns and the picture that stand on a box."""
    loose = [label for thing in seen.clusters + seen.edges for label in thing.labels] + seen.captions
    labels = loose + [label for node in seen.nodes for label in node.labels]
    shown = [(label.place, f"{label.text!r} of {label.owner}") for label in labels]
    on_boxes = _pairs(
        [(label.place, f"label {label.text!r}") for label in loose] + [(n.place, f"box {n.title}") for n in seen.nodes]
    )
    return [f"labels {a} and {b} overlap" for a, b in _pairs(shown)] + [
        f"{a} and {b} overlap" for a, b in on_boxes if a.startswith("label ") != b.startswith("label ")
    ]


def labels_outside(seen: Seen) -> list[str]:
    """Labels that reach beyond their own box, or beyond their column."""
    return [
        f"label {label.text!r} reaches beyond {thing.title}"
        for thing in seen.nodes + seen.clusters
        for label in thing.labels
        if thing.shapes and not thing.place.holds(label.place, slack=3.0)
    ]


def out_of_order(seen: Seen) -> list[str]:
    """Columns that do not stand side by side in the order of time."""
    columns = seen.columns()
    return [
        f"column t = {b} does not stand to the right of t = {a}"
        for a, b in pairwise(sorted(columns))
        if columns[a].right > columns[b].left
    ]


def through_boxes(seen: Seen) -> list[str]:
    """Edges that run through a box that they do not touch."""
    boxes = sorted((node.place, node.title) for node in seen.nodes)
    found = []
    for edge in seen.edges:
        ends = {*re.split(r"(?:->|--)", edge.title)}
        near = [(place, title) for place, title in boxes if title not in ends and place.meets(edge.place, -1.0)]
        if near:
            curve = [point for points in edge.shapes for point in _along(points)]
            for place, title in near:
                if any(place.left + 2 < x < place.right - 2 and place.top + 2 < y < place.bottom - 2 for x, y in curve):
                    found.append(f"edge {edge.title} runs through {title}")
    return found


def _along(points: list[tuple[float, float]]) -> Iterator[tuple[float, float]]:
    """Points along a path of cubic curves: those of SVG's M and C."""
    for k in range(0, len(points) - 3, 3):
        (ax, ay), (bx, by), (cx, cy), (dx, dy) = points[k : k + 4]
        for i in range(17):
            u, v = i / 16, 1 - i / 16
            yield (
                v**3 * ax + 3 * v * v * u * bx + 3 * v * u * u * cx + u**3 * dx,
                v**3 * ay + 3 * v * v * u * by + 3 * v * u * u * cy + u**3 * dy,
            )
