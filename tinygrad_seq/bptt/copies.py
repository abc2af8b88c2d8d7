"""The copies of a weight in the unfolded network: one for each step, place and call that uses it, and the paths that run through them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from ..autodiff import Step, steps_of_backward
from ..frames import Frame
from ..graph import Node, Value, node_of
from .uses import Uses, leaf_of, tape_of


class Use(NamedTuple):
    """One copy of a weight in the unfolded network.

    time: the step that uses it; None outside every step. place: the modules and loops around. call: which of several calls of the same
    place, counted from 1; 0 where there is but one.
    """

    time: int | None
    place: str
    call: int = 0


def columns_of(uses: Uses) -> tuple[list[Use], dict[Node, int]]:
    """The copies of the weight, and to which of them every node that uses it belongs: by the loop, the place within its step, and the time."""
    runs = _runs(uses)
    keys: dict[Node, tuple[Any, int | None]] = {}
    places: dict[Any, str] = {}
    for node in uses.users:
        where = _where(node.frame, uses, runs)
        keys[node] = where, uses.times[node.frame]
        places.setdefault(where, uses.place(node))
    alike, seen = Counter(places.values()), Counter[str]()
    calls: dict[Any, int] = {}
    for where, place in places.items():
        seen[place] += 1
        calls[where] = seen[place] if alike[place] > 1 else 0
    rank = {where: number for number, where in enumerate(places)}
    copies = sorted(set(keys.values()), key=lambda key: (key[1] is None, rank[key[0]], key[1] or 0))
    number = {key: column for column, key in enumerate(copies)}
    return [Use(time, places[where], calls[where]) for where, time in copies], {node: number[key] for node, key in keys.items()}


def _runs(uses: Uses) -> dict[Frame, Any]:
    """For every step the number of its loop among those that follow each other in one frame: a step that was there before begins another."""
    seen: dict[Frame | None, set[int | None]] = {}
    count: Counter[Frame | None] = Counter()
    runs: dict[Frame, Any] = {step: ("calls", loop) for step, loop in uses.calls.items()}
    for step in sorted(set(uses.steps.values()) - uses.calls.keys(), key=lambda frame: frame.call):
        if step.step is not None and step.step in seen.setdefault(step.parent, set()):
            seen[step.parent] = set()
            count[step.parent] += 1
        seen.setdefault(step.parent, set()).add(step.step)
        runs[step] = count[step.parent]
    return runs


def _where(frame: Frame | None, uses: Uses, runs: dict[Frame, Any]) -> Any:
    """What tells the copies of a weight apart but for their time: the loop and the modules within its step, or else the call."""
    if frame is None or frame not in uses.steps:
        return frame
    step, path = uses.steps[frame], frame.path()
    inside = path[path.index(step) + (step.step is not None) :]  # a cell that is called in a plain loop is the step itself
    return step.parent, runs[step], tuple(f.owner if isinstance(f.owner, str) else id(f.owner) for f in inside)


def copies(loss: Value, W: Value, others: Sequence[Value]) -> dict[str, list[Use]]:
    """Which copies of other weights the gradient dL/dW runs through: the uses that lie on a path from the loss back to W.

    others: weights, W itself among them if you like. By name (by number where one has none) the copies, as in `Ledger.uses`. A copy whose
    factor is a constant, as W_hh at step 1 before which h_0 = 0 stands, lies on no path to W_xh.
    """
    values = tape_of([loss], "copies")
    leaf = leaf_of(W, values, "copies")
    on_path = {step.node for step in steps_of_backward(values, targets={leaf: {0: None}}) if arrives(step)}
    found: dict[str, list[Use]] = {}
    for number, other in enumerate(others):
        uses = Uses(values, [leaf_of(other, values, "copies")])
        columns, column_of = columns_of(uses)
        passed = {column for node, column in column_of.items() if node in on_path and _carries(node, uses, leaf, on_path)}
        name = other.name or str(number)
        found[name if name not in found else f"{name} ({number})"] = [columns[column] for column in sorted(passed)]
    return found


def arrives(step: Step) -> bool:
    """Whether a gradient that is not zero arrives: from a stack of all steps, zeros come for those that the loss does not see."""
    parts = step.gradient if isinstance(step.gradient, tuple) else (step.gradient,)
    return any(part is not None and bool(part.any()) for part in parts)


def _carries(node: Node, uses: Uses, leaf: Node, on_path: set[Node]) -> bool:
    """Whether a use of one weight passes the gradient of another on: an argument beside it leads there, or is that weight."""
    return leaf in uses.leaves or any(
        n in on_path or n is leaf for a in node.args for n in [node_of(a)] if n is not None and not any(True for _ in uses.of(a))
    )
