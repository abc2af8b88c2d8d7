"""Where the boxes of a picture stand: straight spines, rails across the columns, and the rows that keep columns in order."""

from __future__ import annotations

from collections import Counter, defaultdict
from itertools import pairwise

from .picture import LEAVES, OPS, Box, Edge, Picture


def place(picture: Picture) -> None:
    """Find the lines of a picture: its spines, rails, rows and short rows, in place."""
    level = _raised(picture, _spines(picture))
    _rails(picture)
    heights = _rows(picture, level)
    picture.rails += picture.lanes
    _beside(picture, {id for id in picture.boxes if level.get(id, 0) + 1 in heights}, level)


def _inside(picture: Picture) -> list[Edge]:
    """The edges between ops of one column, or outside all of them."""
    boxes = picture.boxes
    ops = [e for e in picture.edges if e.kind in ("plain", "out") and boxes[e.source].kind in OPS and boxes[e.target].kind in OPS]
    return [e for e in ops if boxes[e.source].column == boxes[e.target].column]


def _spines(picture: Picture) -> dict[str, int]:
    """Mark for every op the edge from the highest of its arguments; the level of every op, 0 for those that read none of their column."""
    level: dict[str, int] = {}
    longest: dict[str, Edge] = {}
    lower: dict[str, list[str]] = defaultdict(list)
    for low, high in picture.above:
        lower[high].append(low)
    for edge in _inside(picture):
        if edge.source in lower:  # by now all is known of what stands below it
            level[edge.source] = max(level.get(edge.source, 0), *(level.get(low, 0) + 2 for low in lower[edge.source]))
        height = level.get(edge.source, 0) + 1
        if height > level.get(edge.target, 0):
            level[edge.target], longest[edge.target] = height, edge
    after: dict[str, list[Edge]] = defaultdict(list)
    for edge in picture.edges:
        if edge.kind in ("plain", "out") and picture.boxes[edge.target].column is None and picture.boxes[edge.source].kind in OPS:
            after[edge.target].append(edge)
    longest |= {id: edges[0] for id, edges in after.items() if len(edges) == 1}  # what follows one step stands above it
    for edge in longest.values():
        edge.spine = True
    return level


def _raised(picture: Picture, level: dict[str, int]) -> dict[str, int]:
    """Levels in which what a step computes from its leaves alone stands directly below its only use."""
    inside = _inside(picture)
    uses = Counter(e.source for e in inside)
    target = {e.source: e.target for e in inside}
    lower = {low for low, _ in picture.above}
    branches: set[str] = set()  # and what is computed from them; edges are in tape order
    for edge in inside:
        if uses[edge.source] > 1 or edge.source in branches:
            branches.add(edge.target)
    for id in reversed(picture.boxes):
        if uses[id] == 1 and id not in branches and id not in lower:
            level[id] = max(level.get(id, 0), level.get(target[id], 0) - 1)
    return level


def _rails(picture: Picture) -> None:
    """A state that runs sideways: its ops and circles stand on one line over all columns."""
    box_of = {box.tape: id for id, box in picture.boxes.items() if box.kind in OPS}
    along: dict[tuple[str, str], int] = {}
    for number, state in enumerate(picture.states):
        if state.kind != "h":
            rail = [f"s{number}_first", f"s{number}_more"]
            for time, producer in state.producers.items():
                ops = [box_of.get(node, "") for node in state.rails.get(time, [producer])]
                rail += [*ops, f"s{number}_t{time}"]
                along |= dict.fromkeys(pairwise(ops), number)
            picture.rails.append([id for id in rail if id in picture.boxes])
    for edge in picture.edges:
        if (edge.source, edge.target) in along:
            edge.kind, edge.family = "rail", along[edge.source, edge.target]


def _rows(picture: Picture, level: dict[str, int]) -> set[int]:
    """The bottom row, of leaves and states, and one for every height at which a state enters; each from left to right. The heights."""
    boxes = picture.boxes
    leaves = _leaves_of(picture)
    on_rails = {id for rail in picture.rails for id in rail}
    rows: dict[int, dict[int, dict[str, None]]] = defaultdict(lambda: defaultdict(dict))  # height -> column -> ids
    entered: dict[int, list[str]] = defaultdict(list)
    for edge in picture.edges:
        if edge.kind == "state" and boxes[edge.target].kind in OPS:
            entered[edge.family].append(edge.target)
    in_lanes = {id for lane in picture.lanes for id in lane}
    height: dict[int, int] = {}
    for number, state in enumerate(picture.states):
        if state.kind == "h":
            height[number] = min((level.get(target, 0) for target in entered[number]), default=0)
            for target in entered[number]:  # what meets the state stands on the left
                column = boxes[target].column
                if column is not None and level.get(target, 0) == height[number]:
                    rows[height[number]][column] |= dict.fromkeys(leaves[target])
    for target, ids in leaves.items():
        column = boxes[target].column
        if column is not None and level.get(target, 0) == 0 and target not in on_rails:
            rows[0][column] |= dict.fromkeys(ids)
    for number, h in height.items():
        for id in (f"s{number}_first", f"s{number}_more", *(f"s{number}_t{t}" for t in picture.states[number].producers)):
            column = boxes[id].column if id in boxes and id not in in_lanes else None
            if column is not None:
                row = rows[h][column]
                rows[h][column] = row | {id: None} if picture.states[number].towards > 0 else {id: None} | row
    for column in picture.columns:
        if not rows[0][column]:
            boxes[f"floor_{column}"] = Box(f"floor_{column}", "", "floor", column)
            rows[0][column][f"floor_{column}"] = None
    picture.rows = [[id for column in picture.columns for id in rows[h][column]] for h in sorted(rows)]
    return set(rows)


def _beside(picture: Picture, in_rows: set[str], level: dict[str, int]) -> None:
    """Leaves stand to the right of the op that their own op waits for; on its left where a state turns down on the right."""
    boxes = picture.boxes
    on_rails = {id for rail in picture.rails for id in rail}
    turning = {e.source for e in picture.edges if e.kind == "carry" and picture.states[e.family].towards > 0}
    uses = Counter(e.source for e in picture.edges)
    leaves = _leaves_of(picture)
    near: dict[str, list[str]] = {}  # what stands beside which op
    above: set[str] = set()  # the first ops above a column: their leaves would stand outside of it, so they stand beside them
    for edge in picture.edges:
        ids = [id for id in leaves[edge.target] if uses[id] == 1]
        far = level.get(edge.target, 0) - level.get(edge.source, 0) > 1 and bool(picture.above)
        if edge.spine and ids and not far and not {edge.source, edge.target} & on_rails:
            if boxes[edge.source].column == boxes[edge.target].column:
                near.setdefault(edge.source, ids)
            else:
                above.add(edge.target)
    for op, others in near.items():
        picture.beside.append([*others, op] if op in turning - in_rows else [op, *others])
    for edge in picture.edges:
        edge.flat = edge.target in above and uses[edge.source] == 1 and boxes[edge.source].kind in LEAVES


def _leaves_of(picture: Picture) -> dict[str, list[str]]:
    """The leaves that every op reads."""
    leaves: dict[str, list[str]] = defaultdict(list)
    for edge in picture.edges:
        if picture.boxes[edge.source].kind in LEAVES and edge.source not in leaves[edge.target]:
            leaves[edge.target].append(edge.source)
    return leaves
