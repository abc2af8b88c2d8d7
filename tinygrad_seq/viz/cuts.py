"""Truncated BPTT in a picture: scissors where a gradient is stopped."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from ..errors import GraphError, message
from ..graph import Node, Value, node_of, toposort
from .names import below
from .picture import Picture, Use

SCISSORS = "✂"
CUT = "#8a97ad"


def draw_cuts(picture: Picture, truncation: Any, cut: Iterable[Value], drawn: Iterable[Value]) -> None:
    """Draw scissors on the edges that `bptt.truncate(...)` cuts, or on a list of them: of an op, and the position of its argument.

    cut, drawn: the outputs on the tape that the cuts speak of, and on the one that is drawn, which may be a copy.

    Raises GraphError where the graph that is drawn has none of them.
    """
    found: dict[Use, list[Any]] = defaultdict(list)
    sliding = (getattr(truncation, "k2", None) or 0) > (getattr(truncation, "k1", None) or 0)
    copies = _copies(toposort(cut), toposort(drawn))
    for one in getattr(truncation, "cuts", truncation):
        found[copies.get(one[0], one[0]), one[1]].append(one)
    shown = [edge for edge in picture.all_edges() if edge.use in found]
    if found and not shown and not picture.hidden:
        raise GraphError(
            message(
                f"draw: none of {len(found)} cuts is in this graph",
                expected="truncation=tg.bptt.truncate(loss, ...) of the very loss that is drawn",
            )
        )
    made_by = {box.id: box.tape for box in picture.all_boxes()}
    entering = {node_of(node.args[position]): cuts for (node, position), cuts in found.items()}  # the steps that are left out
    told: set[int] = set()
    for edge in picture.edges:
        parts = edge.bundle or [edge]
        stopped = [cut for one in parts if one.use in found for cut in found[one.use]]
        if picture.boxes[edge.target].column == picture.hidden.start and picture.hidden:
            stopped += [cut for one in parts if one.use is None for cut in entering.get(made_by.get(one.source), [])]
        told |= {id(cut) for cut in stopped}
        if stopped:
            edge.note = SCISSORS + (_losses(stopped) if sliding else "")
            edge.look |= {"style": "dashed"} if sliding else {"style": "dashed", "color": CUT, "penwidth": 1.4}
    edges = f"{len(found)} edges" if len(found) > 1 else "one edge"
    remark = f"{SCISSORS} {edges} cut{_rows([cut for cuts in found.values() for cut in cuts])}: "
    remark += (
        "a gradient of the loss with that number stops there"
        if sliding
        else f"no gradient flows back through {'them' if len(found) > 1 else 'it'}"
    )
    rest = sum(all(id(cut) not in told for cut in cuts) for cuts in found.values())
    picture.remarks.append(remark + (f" ({rest} of them in the steps left out)" if rest else ""))


def _copies(old: list[Node], new: list[Node]) -> dict[Node, Node]:
    """For every node of a tape its copy on another: the op of the same kind in the same frame, in the same order."""
    copies = dict(_numbered(new))
    return {node: copies[place] for place, node in _numbered(old) if place in copies}


def _numbered(tape: list[Node]) -> Iterator[tuple[Any, Node]]:
    counts: Counter[Any] = Counter()
    for node in tape:
        kind = node.frame, node.prim
        yield (*kind, counts[kind]), node
        counts[kind] += 1


def _losses(cuts: list[Any]) -> str:
    """The steps whose losses are stopped, as a subscript."""
    first, last = min(cut.losses[0] for cut in cuts), max(cut.losses[1] for cut in cuts)
    return below(first) + ("…" + below(last) if last > first else "")


def _rows(cuts: list[Any]) -> str:
    """The rows of the batch that are cut, where it is not all of them."""
    rows = [cut.rows for cut in cuts if getattr(cut, "rows", None) is not None]
    if len(rows) < len(cuts):
        return ""
    which = [int(k) for k in np.flatnonzero(np.any(rows, axis=0))]
    return f" in row{'s' * (len(which) > 1)} " + ", ".join(map(str, which[:8])) + (" …" if len(which) > 8 else "")
