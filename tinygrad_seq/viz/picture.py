"""What a picture is: boxes in time columns, the edges between them, and which boxes stand on one line. Knows neither tape nor DOT."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from ..graph import Node

Use = tuple[Node, int]  # an argument of an op: the op and the position

OPS, LEAVES = frozenset({"op", "term", "loss", "cell"}), frozenset({"weight", "input", "constant"})


@dataclass
class Box:
    """One thing drawn. kind: op, weight, input, constant, state, term (of the loss), loss, more (steps left out), floor (invisible, in
    a column whose bottom row is empty), cell (a scope that is drawn as one), start (the states that a cell begins with), or
    delay (of a folded loop). inside, held: the boxes and edges that a cell or a start hides. shows: what it stands for, as an entry of
    `node.args`: `graph.value_of(shows)` is its value. Overlays write notes, small lines beneath the label, and look, attributes of DOT.
    """

    id: str
    label: str
    kind: str
    column: int | None = None
    family: int = 0  # which parameter, or which state
    tape: Node | None = None
    shape: Any = None
    shows: Any = None
    notes: list[str] = field(default_factory=list)
    look: dict[str, object] = field(default_factory=dict)
    room: int = 0  # letters that notes take, in this and in the same box of other steps
    inside: list[Box] = field(default_factory=list)
    held: list[Edge] = field(default_factory=list)


@dataclass
class Edge:
    """One arrow. kind: plain; carry (an op to its state), state (a state to the next step), sum (a running total), jump, more;
    lane (states from cell to cell), across (to what else reads them in the next step), out (a state that a cell hands upwards). bundle: the edges that are drawn as this one; empty: itself.
    Overlays write back, the arrow points to the source, as a gradient flows; note, a word beside it; look, attributes of DOT.
    """

    source: str
    target: str
    kind: str = "plain"
    family: int = 0
    use: Use | None = None
    spine: bool = False  # from the op that its target waits for: these are drawn straight
    flat: bool = False  # from a leaf that stands on the right of its op
    back: bool = False
    note: str = ""
    look: dict[str, object] = field(default_factory=dict)
    label: str = ""
    bundle: list[Edge] = field(default_factory=list)
    way: bool = False  # stands for edges that a box holds: those of attention, which are as wide as their weight


@dataclass
class State:
    """A value that steps hand on: what makes it, and how it is drawn. kind: h (below), c (a rail through the ops), sum (a running total)."""

    producers: dict[int, Node]
    uses: list[Use]
    kind: str = "h"
    name: str = ""
    first: Any = None  # the argument that stands for it in the first step
    towards: int = 1  # 1: from t - 1 to t; -1: a loop that runs backwards in time
    rails: dict[int, list[Node]] = field(default_factory=dict)


@dataclass
class Places:
    """Where everything stands, in points, y upwards. nodes: centre, and width and height in inches; edges: curves as DOT spells them, and
    where their labels are; columns: their corners, and where their labels are; lines: edges that are straight from one point to another,
    or the points of a Bézier spline; labels: where the labels of lines are.
    """

    nodes: dict[str, tuple[float, float, float, float]] = field(default_factory=dict)
    edges: dict[int, tuple[str, str]] = field(default_factory=dict)
    columns: dict[int, tuple[list[float], list[float]]] = field(default_factory=dict)
    bb: list[float] = field(default_factory=list)
    label: list[float] = field(default_factory=list)
    lines: dict[int, list[tuple[float, float]]] = field(default_factory=dict)
    labels: dict[int, tuple[float, float]] = field(default_factory=dict)


@dataclass
class Picture:
    """Boxes by id, edges in tape order, the columns from left to right, and which boxes stand on one line."""

    boxes: dict[str, Box] = field(default_factory=dict)
    edges: list[Edge] = field(default_factory=list)
    columns: list[int] = field(default_factory=list)
    initial: list[int] = field(default_factory=list)  # the columns of the initial states
    hidden: range = range(0)  # the steps left out; their column is the first of them
    states: list[State] = field(default_factory=list)
    rails: list[list[str]] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)  # the same, from left to right; the first is the bottom of all columns
    beside: list[list[str]] = field(default_factory=list)  # short rows within a column
    below: list[str] = field(default_factory=list)  # prepared outside the loop
    unseen: dict[tuple[str, int], list[Use]] = field(default_factory=dict)  # uses of weights in hidden steps, by label and family
    fills: dict[int, str] = field(default_factory=dict)  # colours of columns, where an overlay gives them one,
    heads: dict[int, str] = field(default_factory=dict)  # and what it adds to their headings
    title: str = ""
    remarks: list[str] = field(default_factory=list)  # lines beneath the title
    folded: bool = False  # the one column stands for every step
    lanes: list[list[str]] = field(default_factory=list)  # cells that hand on their state to each other
    above: list[tuple[str, str]] = field(
        default_factory=list
    )  # the second stands above the first, though nothing flows between them

    def all_edges(self) -> list[Edge]:
        """Every argument of every op, whether it is drawn as an edge of its own, in a bundle, or hidden in a cell."""
        drawn = [one for edge in self.edges if not edge.way for one in edge.bundle or [edge]]
        return drawn + [edge for box in self.boxes.values() for edge in box.held]

    def all_boxes(self) -> list[Box]:
        """Every box, those that a cell hides after it."""
        return [one for box in self.boxes.values() for one in (box, *box.inside)]

    def counts(self) -> Counter[str]:
        """How many boxes there are of each kind."""
        return Counter(box.kind for box in self.boxes.values() if box.kind not in ("floor", "memory"))
