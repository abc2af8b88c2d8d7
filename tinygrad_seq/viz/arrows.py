"""The arrows of a grid: straight where there is room, beside what they pass, in bows to what stands above all columns."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from .cards import text_width
from .picture import Box, Edge

if TYPE_CHECKING:
    from .grid import Grid

Point = tuple[float, float]

TIP = 5.5  # of an arrow; by that much a line without one is too short


class Arrows:
    """The curves of a grid whose boxes have their places."""

    def __init__(self, grid: Grid):
        self.grid = grid

    def draw(self) -> None:
        """Give every arrow its curve, and every label its place."""
        for number, edge in self.grid.edges:
            self.grid.places.lines[number] = line = self._line(number, edge)
            if edge.look.get("label"):
                self._set_label(number, edge, line)

    def _line(self, number: int, edge: Edge) -> list[Point]:
        """An arrow as a curve: two points of a straight line, or those of a Bézier spline."""
        (x1, y1, w1, h1), (x2, y2, w2, h2) = self.grid.places.nodes[edge.source], self.grid.places.nodes[edge.target]
        if edge.kind == "attend":
            return self._attention(edge)
        if edge.kind in ("delayed", "undelayed"):
            return self._delay(edge)
        if edge.kind == "across" or (edge.kind == "lane" and self.grid.row[edge.source] != self.grid.row[edge.target]):
            side, far = (36.0, 30.0) if x2 > x1 else (-36.0, -30.0)
            start, end = (x1 + side * w1, y1), (x2 - side * w2, y2)
            return [start, (start[0] + far, y1), (end[0] - far, y2), end]
        if self.grid.row[edge.source] == self.grid.row[edge.target]:
            side = 36.0 if x2 > x1 else -36.0
            if self.grid.alike.get((edge.target, edge.source)):  # one forwards, one backwards
                y1 = y2 = y1 + (8 if x2 > x1 else -8)
            return [(x1 + side * w1, y1), (x2 - side * w2, y2)]
        up = 36.0 if y2 > y1 else -36.0
        start, end = (x1, y1 + up * h1), (x2, y2 - up * h2)
        a, b = self.grid.boxes[edge.source].column, self.grid.boxes[edge.target].column
        if (
            a is not None
            and b is None
            and up > 0
            and (number in self.grid.channels or self.grid.row[edge.target] in self.grid.gathering)
        ):
            return self._rising(number, edge, start, end)
        if number in self.grid.channels:
            return self._past(number, edge, start, end)
        parallel = self.grid.alike[edge.source, edge.target]
        shift = 8.0 * (parallel.index(number) - (len(parallel) - 1) / 2)
        if a is not None and b is None and self.grid.row[edge.target] - self.grid.row[edge.source] > 0 and abs(x2 - x1) > 60:
            return self._to_above(start, (x2, y2, w2, h2))
        if abs(x1 - x2) > 1 and a == b:  # straight up where there is room for it
            x = _within(x1, x2, 36 * w2 - 9)
            if abs(x - x1) < 1e-6:
                return [(x1 + shift, start[1]), (x1 + shift, _touch(self.grid.boxes[edge.target], x1 + shift - x2, y2, w2, h2, up))]
            x = _within(x2, x1, 36 * w1 - 9)
            if abs(x - x2) < 1e-6:
                return [(x2 + shift, start[1]), (x2 + shift, end[1])]
        return [(start[0] + shift, start[1]), (end[0] + shift, end[1])]

    def _to_above(self, start: Point, node: tuple[float, float, float, float]) -> list[Point]:
        """To the side of what stands above all columns, in a flat bow."""
        (x1, y1), (x2, y2, w2, h2) = start, node
        side = -36.0 if x2 > x1 else 36.0
        spread = max(0.3, min(1.0, abs(x2 - x1) / max(self.grid.width, 1.0)))
        end = (x2 + side * w2, y2 + 10 * h2 - 20 * h2 * spread)
        return [(x1, y1), (x1 + 0.2 * (x2 - x1), y1 + 0.9 * (end[1] - y1)), (x1 + 0.55 * (end[0] - x1), end[1]), end]

    def _rising(self, number: int, edge: Edge, start: Point, end: Point) -> list[Point]:
        """Up beside the boxes of its column, and from its top to what stands above all columns: from below where others stand beside that."""
        column, row = self.grid.boxes[edge.source].column, self.grid.row[edge.source]
        points = [start]
        if number in self.grid.channels:
            above = [self.grid.row[id] for id in self.grid.members[column] if self.grid.row[id] > row]
            x, half = self.grid.middle[column] + self.grid.channels[number], self.grid.size[edge.source][0] / 2
            low, high = (self.grid.y[r] + s * self.grid.tall[r] / 2 for r, s in ((min(above), -1), (max(above), 1)))
            if abs(x - start[0]) < half - 6:
                points = [(x, start[1])]
            else:
                at = _towards(start[0], x, half)
                points = [(at, start[1]), (at, start[1] + 0.6 * (low - start[1])), (x, low - 0.6 * (low - start[1])), (x, low)]
            points += _straight(points[-1], (x, high))
        (x1, y1), w2 = points[-1], self.grid.size[edge.target][0]
        if self.grid.row[edge.target] not in self.grid.gathering:
            return points + self._to_above((x1, y1), self.grid.places.nodes[edge.target])[1:]
        peers = sorted(
            (e.source for _, e in self.grid.edges if e.target == edge.target), key=lambda id: self.grid.places.nodes[id][0]
        )
        port = (peers.index(edge.source) - (len(peers) - 1) / 2) * min(9.0, (w2 - 16) / len(peers))
        (x2, y2), tall = (end[0] + port, end[1]), end[1] - y1
        return points + [(x1 + 0.06 * (x2 - x1), y1 + 0.75 * tall), (x2 - 0.12 * (x2 - x1), y2 - 0.75 * tall), (x2, y2)]

    def _past(self, number: int, edge: Edge, start: Point, end: Point) -> list[Point]:
        """Up beside the boxes in between."""
        column = self.grid.boxes[edge.source].column
        x = self.grid.middle[column] + self.grid.channels[number]
        low, high = self.grid.row[edge.source] + 1, self.grid.row[edge.target] - 1
        (x1, y1), (x2, y2) = start, end
        w1, w2 = self.grid.size[edge.source][0] / 2, self.grid.size[edge.target][0] / 2
        y3 = self.grid.y[low] - self.grid.tall[low] / 2  # where the boxes in between begin and end
        y4 = self.grid.y[high] + self.grid.tall[high] / 2
        near1, near2 = abs(x - x1) < w1 - 6, abs(x - x2) < w2 - 6
        points: list[Point] = [(x, y1)] if near1 else [(_towards(x1, x, w1), y1)]
        if not near1:
            points += [(points[0][0], y1 + 0.6 * (y3 - y1)), (x, y3 - 0.6 * (y3 - y1)), (x, y3)]
        if near1 and near2:
            return [(x, y1), (x, y2)]
        last = (x, y2) if near2 else (x, y4)
        points += _straight(points[-1], last)
        if not near2:
            at = _towards(x2, x, w2)
            points += [(x, y4 + 0.6 * (y2 - y4)), (at, y2 - 0.6 * (y2 - y4)), (at, y2)]
        return points

    def _delay(self, edge: Edge) -> list[Point]:
        """Into the delay straight, and out of it in a bow over its far side."""
        into = edge.kind == "delayed"
        delay, cell = (edge.target, edge.source) if into else (edge.source, edge.target)
        (x1, y1, w1, h1), (x2, y2, w2, _) = self.grid.places.nodes[delay], self.grid.places.nodes[cell]
        up = 1.0 if self.grid.lift.get(delay, 0.0) > 0 else -1.0
        if cell != self.grid.behind.get(delay):
            start, end = (x1, y1 + 36 * h1 * (1 if y2 > y1 else -1)), (x2 + 36 * w2, y2)
            return [start, (x1, (start[1] + y2) / 2), (x1, y2), end]
        right, at = x2 + 36 * w2, y2 + _within(y1 - y2, 0, 8)
        if into:
            return [(right, at), (x1 - 36 * w1, at)]
        y, out = y1 + up * 36 * h1, max(abs(y1 - y2), 4) + 36 * h1 - 4
        edge_of = y2 + up * min(out, self.grid.size[cell][1] / 2 - 5)
        return [(x1, y), (x1, y + up * 14), (right + 24, edge_of + up * 8), (right, edge_of)]

    def _attention(self, edge: Edge) -> list[Point]:
        """In the gap between the row of the states and that of the attention."""
        (x1, y1, _, h1), (x2, y2, w2, h2) = self.grid.places.nodes[edge.source], self.grid.places.nodes[edge.target]
        up = 36.0 if y2 > y1 else -36.0
        right = 1.0 if x2 > x1 else -1.0
        peers = [e.source for _, e in self.grid.edges if e.kind == "attend" and e.target == edge.target]
        number = peers.index(edge.source) if right > 0 else len(peers) - 1 - peers.index(edge.source)
        port = 36 * w2 - 10 - number * min(7.0, 24 * w2 / len(peers))
        a, b = (x1, y1 + up * h1), (x2 - right * port, y2 - up * h2 + up / 36 * TIP)
        dx, dy = b[0] - a[0], b[1] - a[1]
        return [a, (a[0] + 0.06 * dx, a[1] + 0.75 * dy), (b[0] - 0.12 * dx, b[1] - 0.75 * dy), b]

    def _set_label(self, number: int, edge: Edge, line: list[Point]) -> None:
        """Beside the lower end of the arrow; of several arrows with one label, beside the first that passes nothing."""
        alike = self.grid.alike[edge.source, "label " + edge.label]
        if number != min(alike, key=lambda n: (n in self.grid.channels, n)):
            return
        (x1, y1), (x2, y2) = line[0], line[-1] if len(line) == 2 else line[3]
        half = text_width(edge.label, 9) / 2 + 5
        if len(line) == 4 and number not in self.grid.channels:  # a bow that leaves its column
            self.grid.places.labels[number] = x1 - half if x2 > x1 else x1 + half, y1 + 11
            return
        left = self.grid.channels.get(number, 0.0) < 0
        self.grid.places.labels[number] = (
            (x1 + x2) / 2 + (-half if left else half),
            y1 + (0.25 if left else 0.45) * min(y2 - y1, 40),
        )


def _within(x: float, middle: float, reach: float) -> float:
    return min(max(x, middle - reach), middle + reach)


def _towards(x: float, goal: float, half: float) -> float:
    """A place on the side of a box that looks towards the goal."""
    return x + (1 if goal > x else -1) * min(max(half - 9, 0), 16, abs(goal - x))


def _touch(box: Box, dx: float, y: float, w: float, h: float, up: float) -> float:
    """The height at which a vertical line meets a box from below; of a circle, its curve."""
    if box.kind in ("input", "state") and abs(w - h) < 1e-6:
        r = 36 * w
        return y - (1 if up > 0 else -1) * math.sqrt(max(r * r - dx * dx, 0.0))
    return y - up * h


def _straight(a: Point, b: Point) -> list[Point]:
    return [(a[0] + (b[0] - a[0]) * k / 3, a[1] + (b[1] - a[1]) * k / 3) for k in (1, 2, 3)]
