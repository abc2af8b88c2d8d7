"""Pictures of cells laid out as a grid: a column for every step, a row for every layer and direction, all columns alike.

    row 3            C₁         C₂               a row is as high as it must be for every arrow inside a column to point upwards;
    row 2     →   LSTM ₂  →  LSTM ₂              what hands its state on from step to step shares one row
    row 1     →   LSTM ₁  →  LSTM ₁
    row 0            x₁         x₂               arrows that pass a box keep to its side; those of attention, to the gap between two rows

All sizes are this file's own, so every place is known before anything is rendered.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from itertools import pairwise

from .arrows import Arrows
from .cards import size_of
from .picture import LEAVES, Edge, Picture, Places

ROW_GAP, GATHERING_GAP, ATTENTION_GAP, COLUMN_GAP, INSIDE, BESIDE, FOOT = 32.0, 72.0, 92.0, 12.0, 12.0, 16.0, 27.0
ASIDE = 14.0  # how far two cells that nothing connects stand from the middle of their column, to let arrows pass
UNSEEN = frozenset({"memory", "floor"})


def fits(picture: Picture) -> bool:
    """Whether a picture is one of cells: no loop is drawn open."""
    return bool(picture.lanes or picture.folded) and not any(edge.kind in ("carry", "state", "rail") for edge in picture.edges)


def grid(picture: Picture) -> Places:
    """The place of everything."""
    return Grid(picture).places


class Grid:
    """A picture in rows and columns. places: where everything stands; row, y, x: of a box its row, of a row its height, of a box its distance
    from the middle of its column; channels: for the arrows that pass a box, at which distance they do.
    """

    def __init__(self, picture: Picture):
        self.picture = picture
        self.boxes = {id: box for id, box in picture.boxes.items() if box.kind not in UNSEEN}
        self.edges = [(n, e) for n, e in enumerate(picture.edges) if e.source in self.boxes and e.target in self.boxes]
        self.size = {id: size_of(box) for id, box in self.boxes.items()}
        self.in_lanes = {id for lane in picture.lanes for id in lane}
        self.over = set(picture.above)
        self.highs = {high for _, high in picture.above}
        self.beside = self._leaves()
        self.behind = {e.target: e.source for _, e in self.edges if e.kind == "delayed"}  # a delay -> what makes its state
        self.lift: dict[str, float] = {}
        self.row = self._rows()
        self.x = dict.fromkeys(self.boxes, 0.0)  # within the column
        self.channels: dict[int, float] = {}  # the edges that pass a box -> where
        self.members: dict[int | None, list[str]] = defaultdict(list)  # of every column
        self.within: dict[int | None, list[tuple[int, Edge]]] = defaultdict(list)
        self.leaving: dict[int | None, list[tuple[int, Edge]]] = defaultdict(list)  # the arrows to what stands above all columns
        self.gathering: set[int] = set()  # rows above all columns in which several boxes take from many columns
        self.alike: dict[tuple[str, str], list[int]] = defaultdict(list)  # edges from one box to another, or with one label
        for id, box in self.boxes.items():
            self.members[box.column].append(id)
        for number, edge in self.edges:
            if self.boxes[edge.source].column == self.boxes[edge.target].column:
                self.within[self.boxes[edge.source].column].append((number, edge))
            elif self.boxes[edge.target].column is None and self.row[edge.target] > self.row[edge.source]:
                self.leaving[self.boxes[edge.source].column].append((number, edge))
            self.alike[edge.source, edge.target].append(number)
            if edge.label:
                self.alike[edge.source, "label " + edge.label].append(number)
        for column in picture.columns:
            self._arrange(column)
        takers: dict[int, set[str]] = defaultdict(set)
        for _, edge in (pair for pairs in self.leaving.values() for pair in pairs):
            takers[self.row[edge.target]].add(edge.target)
        self.gathering = {row for row, ids in takers.items() if len(ids) > 1}
        self.places = Places()
        self._set_columns()
        self._set_rows()
        self._set_nodes()
        Arrows(self).draw()

    # ---- Rows ----------------------------------------------------------------------------------------------------------------------

    def _leaves(self) -> dict[str, str]:
        """Weights and constants that one op alone reads stand beside it."""
        readers: dict[str, list[str]] = defaultdict(list)
        for _, edge in self.edges:
            readers[edge.source].append(edge.target)
        return {
            id: readers[id][0]
            for id, box in self.boxes.items()
            if box.kind in LEAVES - {"input"} and len(set(readers[id])) == 1 and self.boxes[readers[id][0]].kind != "cell"
        }

    def _upwards(self) -> list[tuple[str, str]]:
        """What stands above what: arrows within a column, or from and to what stands outside of all."""
        pairs = []
        for _, edge in self.edges:
            a, b = self.boxes[edge.source], self.boxes[edge.target]
            near = a.column == b.column or a.column is None or b.column is None
            if edge.kind in ("delayed", "undelayed"):
                continue
            if edge.kind == "attend" or (near and edge.kind not in ("lane", "sum")):
                pairs.append((a.id, b.id))
        return pairs + self.picture.above

    def _rows(self) -> dict[str, int]:
        unit = {id: id for id in self.boxes}
        lines = [*self._lanes(), *_joined((e.source, e.target) for _, e in self.edges if e.kind == "sum")]
        for number, ids in enumerate(lines):
            unit |= dict.fromkeys((id for id in ids if id in unit), f"row {number}")
        after: dict[str, set[str]] = defaultdict(set)
        before: dict[str, set[str]] = defaultdict(set)
        for a, b in self._upwards():
            if unit[a] != unit[b] and a not in self.beside:
                after[unit[a]].add(unit[b])
                before[unit[b]].add(unit[a])
        height = _longest(list(dict.fromkeys(unit.values())), before, after)
        row = {id: height[unit[id]] for id in self.boxes}
        rails: dict[int | None, set[int]] = defaultdict(set)
        for id in (id for ids in lines for id in ids if id in row):
            rails[self.boxes[id].column].add(row[id])
        for id, box in self.boxes.items():  # what is read from the outside stands as high as it can
            if not before[unit[id]] and after[unit[id]] and unit[id] == id and box.kind in LEAVES:
                row[id] = min(height[u] for u in after[id]) - 1
                while row[id] in rails[box.column] and row[id] > 0:
                    row[id] -= 1
        row |= {id: row[op] for id, op in (self.beside | self.behind).items()}
        if "more" in row:  # the steps left out stand beside the others
            takers = {e.target for _, e in self.edges if e.source == "more"}
            peers = [row[e.source] for _, e in self.edges if e.target in takers and self.boxes[e.source].column is not None]
            row["more"] = max(peers)
        return self._outside(row)

    def _lanes(self) -> list[list[str]]:
        """The lanes; a decoder stands above its encoder where it attends to it before it takes its step."""
        found: list[list[str]] = []
        after: dict[str, set[str]] = defaultdict(set)
        for _, e in self.edges:
            if self.boxes[e.source].column == self.boxes[e.target].column and e.kind != "attend":
                after[e.source].add(e.target)
        for lane in self.picture.lanes:
            on = set(lane)
            stack = [e.target for _, e in self.edges if e.kind == "attend" and e.source in on]
            above = set(stack)
            while stack:
                new = after[stack.pop()] - above
                above |= new
                stack += new
            first = next((k for k, id in enumerate(lane) if id in above), 0)
            found += [lane[:first], lane[first:]] if first else [lane]
        return found

    def _outside(self, row: dict[str, int]) -> dict[str, int]:
        """What stands outside of the columns is above those that it reads, or below all of them."""
        sources: dict[str, list[str]] = defaultdict(list)
        for _, edge in self.edges:
            sources[edge.target].append(edge.source)
        top: dict[int | None, int] = defaultdict(int)
        for id, box in self.boxes.items():
            top[box.column] = max(top[box.column], row[id])
        below = [id for id in self.picture.below if id in self.boxes]
        depth: dict[str, int] = {}
        for id in below:
            depth[id] = max((depth[s] + 1 for s in sources[id] if s in depth), default=0)
        row |= {id: depth[id] - max(depth.values()) - 1 for id in below}
        for id, box in self.boxes.items():
            if box.column is None and id not in self.beside and id not in depth:
                for one in (self.boxes[s] for s in sources[id] if s not in self.beside):
                    row[id] = max(row[id], 1 + (row[one.id] if one.column is None else top[one.column]))
        row |= {id: row[op] for id, op in self.beside.items()}
        return row

    # ---- Columns -------------------------------------------------------------------------------------------------------------------

    def _arrange(self, column: int) -> None:
        """Where the boxes of one column stand, from its middle, and at which side arrows pass them."""
        ids, inside = self.members[column], self.within[column]
        rows: dict[int, list[str]] = defaultdict(list)
        for id in ids:
            if id not in self.beside and id not in self.behind:
                rows[self.row[id]].append(id)
        connected = {(e.source, e.target) for _, e in inside}
        fixed: dict[str, float] = {}
        for low, high in pairwise(id for id in ids if id in self.in_lanes):
            if (low, high) in self.over and not _reaches(connected, low, high):
                fixed |= {low: -ASIDE, high: ASIDE}
        lanes = self.in_lanes
        for height in sorted(rows):
            for id in rows[height]:
                sources = [e.source for _, e in inside if e.target == id and e.source not in self.beside]
                near = max((self.row[s] for s in sources), default=0)
                nearest = [self.x[s] for s in sources if self.row[s] == near]
                self.x[id] = fixed.get(id, 0.0 if id in lanes or not nearest else sum(nearest) / len(nearest))
            self._spread(rows[height])
        for height in sorted(rows, reverse=True):  # what only gives stands below what takes it
            for id in rows[height]:
                if not any(e.target == id for _, e in inside) and id not in lanes:
                    takers = [self.x[e.target] for _, e in inside if e.source == id]
                    self.x[id] = sum(takers) / len(takers) if takers else 0.0
            self._spread(rows[height])
        left = {id: self.x[id] - self.size[id][0] / 2 for id in ids}
        for leaf in (id for id in ids if id in self.beside):
            op = self.beside[leaf]
            self.x[leaf] = left[op] - BESIDE - self.size[leaf][0] / 2
            left[op] -= BESIDE + self.size[leaf][0]
        for delay in (id for id in ids if id in self.behind):
            cell = self.behind[delay]
            alike = [id for id in ids if self.behind.get(id) == cell]
            self.lift[delay] = 32.0 * ((len(alike) - 1) / 2 - alike.index(delay))
            self.x[delay] = self.x[cell] + self.size[cell][0] / 2 + 34 + self.size[delay][0] / 2
        for number, edge in inside:
            if edge.kind not in ("delayed", "undelayed"):
                self._pass(number, edge, ids)
        for number, edge in self.leaving[column]:
            self._rise(number, edge, ids)

    def _spread(self, ids: list[str]) -> None:
        """Boxes of one row side by side, as near to where they want to be as they can."""
        ids = sorted(ids, key=lambda id: self.x[id])
        if len(ids) < 2:
            return
        wanted = sum(self.x[id] for id in ids) / len(ids)
        for a, b in pairwise(ids):
            room = 64.0 if a in self.behind.values() else 0.0
            self.x[b] = max(self.x[b], self.x[a] + (self.size[a][0] + self.size[b][0]) / 2 + BESIDE + room)
        off = sum(self.x[id] for id in ids) / len(ids) - wanted
        for id in ids:
            self.x[id] -= off

    def _pass(self, number: int, edge: Edge, ids: list[str]) -> None:
        """Lead an arrow past the boxes between its ends, at the side that is nearer."""
        low, high = self.row[edge.source], self.row[edge.target]
        between = [id for id in ids if low < self.row[id] < high]
        x1, x2 = self.x[edge.source], self.x[edge.target]
        a, b = min(x1, x2) - 4, max(x1, x2) + 4
        blocking = [id for id in between if self.x[id] - self.size[id][0] / 2 < b and self.x[id] + self.size[id][0] / 2 > a]
        if blocking:
            left = min(self.x[id] - self.size[id][0] / 2 for id in between) - 9
            right = max(self.x[id] + self.size[id][0] / 2 for id in between) + 9
            taken = sum(n in self.channels for n, _ in self.within[self.boxes[edge.target].column])
            middle = (x1 + x2) / 2
            side = left if middle - left <= right - middle - 1e-6 else right
            if edge.target in self.highs and abs(x1) < 1e-6:
                side = right
            self.channels[number] = side + (-3 if side == left else 3) * (taken % 2)

    def _rise(self, number: int, edge: Edge, ids: list[str]) -> None:
        """Lead an arrow out of its column past the boxes above its source, at the side that is nearer."""
        x, above = self.x[edge.source], [id for id in ids if self.row[id] > self.row[edge.source]]
        if any(abs(self.x[id] - x) < self.size[id][0] / 2 + 4 for id in above):
            left = min(self.x[id] - self.size[id][0] / 2 for id in above) - 9
            right = max(self.x[id] + self.size[id][0] / 2 for id in above) + 9
            self.channels[number] = left if x - left <= right - x + 1e-6 else right

    # ---- Places --------------------------------------------------------------------------------------------------------------------

    def _set_columns(self) -> None:
        """Columns from left to right."""
        self.middle: dict[int | None, float] = {}
        self.edge_of: dict[int, tuple[float, float]] = {}
        x = 0.0
        for column in self.picture.columns:
            ids = self.members[column]
            ends = [self.x[id] + s * self.size[id][0] / 2 for id in ids for s in (-1, 1)]
            ends += [self.channels[n] for n, _ in self.within[column] + self.leaving[column] if n in self.channels]
            least = 22.0 if column not in self.picture.hidden else 46.0
            left, right = min([-least, *ends]) - INSIDE, max([least, *ends]) + INSIDE
            self.middle[column] = x - left
            self.edge_of[column] = x, x + right - left
            x += right - left + COLUMN_GAP
        self.width = x - COLUMN_GAP

    def _set_rows(self) -> None:
        tall: dict[int, float] = defaultdict(float)
        for id in self.boxes:
            tall[self.row[id]] = max(tall[self.row[id]], self.size[id][1])
        attended = {min(self.row[e.source], self.row[e.target]) for _, e in self.edges if e.kind == "attend"}
        self.y: dict[int, float] = {}
        self.tall = tall
        y = 0.0
        for row in sorted(tall):
            y += tall[row] / 2
            self.y[row] = y
            gap = GATHERING_GAP if row + 1 in self.gathering else ROW_GAP
            y += tall[row] / 2 + (ATTENTION_GAP if row in attended else gap + (FOOT if row == -1 else 0))
        self.height = y - ROW_GAP

    def _set_nodes(self) -> None:
        places, picture = self.places, self.picture
        for id, box in self.boxes.items():
            if box.column is not None:
                places.nodes[id] = self._node(id, self.middle[box.column] + self.x[id])
        self._set_outside()
        for column in picture.columns:
            ids = self.members[column]
            low = self.y[0] - self.tall[0] / 2 - FOOT if 0 in self.y else 0.0
            high = max((self.y[self.row[id]] + self.tall[self.row[id]] / 2 for id in ids), default=low + FOOT) + INSIDE - 2
            left, right = self.edge_of[column]
            places.columns[column] = [left, low, right, high], [(left + right) / 2, low + 13]
        tops = [y + 36 * h for _, y, _, h in places.nodes.values()] + [bb[3] for bb, _ in places.columns.values()]
        lows = [y - 36 * h for _, y, _, h in places.nodes.values()] + [bb[1] for bb, _ in places.columns.values()]
        ends = [x + s * 36 * w for x, _, w, _ in places.nodes.values() for s in (-1, 1)]
        heading = 22.0 * bool(picture.title) + 15.0 * len(picture.remarks) + (8 if picture.title or picture.remarks else 0)
        places.bb = [min([0.0, *ends]), min(lows), max([self.width, *ends]), max(tops) + heading]
        places.label = [(places.bb[0] + places.bb[2]) / 2, places.bb[3] - heading / 2] if heading else []

    def _node(self, id: str, x: float) -> tuple[float, float, float, float]:
        w, h = self.size[id]
        return x, self.y[self.row[id]] + self.lift.get(id, 0.0), w / 72, h / 72

    def _set_outside(self) -> None:
        """What stands outside of the columns is above the middle of what it is connected to."""
        nodes, rows = self.places.nodes, defaultdict(list)
        near: dict[str, list[str]] = defaultdict(list)
        for _, edge in self.edges:
            near[edge.target].append(edge.source)
        for id, box in self.boxes.items():
            if box.column is None and id not in self.beside:
                xs = [nodes[other][0] for other in near[id] if other in nodes]
                nodes[id] = self._node(id, sum(xs) / len(xs) if xs else self.width / 2)
                rows[self.row[id]].append(id)
        for ids in rows.values():
            self.x |= {id: nodes[id][0] for id in ids}
            self._spread(ids)
            nodes.update({id: self._node(id, self.x[id]) for id in ids})
        left = {op: nodes[op][0] - 36 * nodes[op][2] for op in self.beside.values()}
        for leaf, op in self.beside.items():
            if self.boxes[leaf].column is None:
                nodes[leaf] = self._node(leaf, left[op] - BESIDE - self.size[leaf][0] / 2)
                left[op] -= BESIDE + self.size[leaf][0]


def _joined(pairs: Iterable[tuple[str, str]]) -> list[list[str]]:
    """What is connected, together."""
    groups: dict[str, list[str]] = {}
    for a, b in pairs:
        one, other = groups.setdefault(a, [a]), groups.setdefault(b, [b])
        if one is not other:
            one += other
            groups.update(dict.fromkeys(other, one))
    return list({id(group): group for group in groups.values()}.values())


def _longest(units: list[str], before: dict[str, set[str]], after: dict[str, set[str]]) -> dict[str, int]:
    """The length of the longest way to every unit; where there is a circle, it is entered at the unit that comes first."""
    waits = {unit: len(before[unit]) for unit in units}
    height = dict.fromkeys(units, 0)
    ready = [unit for unit in units if not waits[unit]]
    done: set[str] = set()
    while len(done) < len(units):
        if not ready:
            ready = [next(unit for unit in units if unit not in done)]
        unit = ready.pop()
        if unit in done:
            continue
        done.add(unit)
        for other in sorted(after[unit]):
            if other not in done:
                height[other] = max(height[other], height[unit] + 1)
                waits[other] -= 1
                if not waits[other]:
                    ready.append(other)
    return height


def _reaches(edges: set[tuple[str, str]], start: str, end: str) -> bool:
    """Whether a way leads from one box to another."""
    found, stack = {start}, [start]
    while stack:
        here = stack.pop()
        new = {b for a, b in edges if a == here} - found
        found |= new
        stack += new
    return end in found
