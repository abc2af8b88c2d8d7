"""Which time step a node belongs to: read from its frame, and where the loop said nothing, from the calls of its modules.

Knows nothing of drawing.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..frames import Frame
from ..graph import Node, node_of


def times_of(nodes: Iterable[Node]) -> dict[Node, int]:
    """The time step of every node that has one; `nodes` in topological order.

    An explicit step (`scan`, `tg.steps`) decides. Without one, the calls of a module with parameters within one parent frame are
    its steps 1, 2, ...: a plain `for` loop over a cell. An op outside every module goes with the one step that it reads,
    if other steps have an op like it (the squared error of each step, say, but not the mean after the last).
    """
    nodes = list(nodes)
    implicit = _calls(nodes)
    times: dict[Node, int] = {}
    known: dict[Frame | None, int | None] = {None: None}
    for node in nodes:
        if node.frame not in known:
            known[node.frame] = _time(node.frame, implicit)
        time = known[node.frame]
        if time is not None:
            times[node] = time
    return times | _companions(nodes, times)


def _time(frame: Frame | None, implicit: dict[Frame, tuple[int, int]]) -> int | None:
    if frame is None:
        return None
    if frame.time is not None:
        return frame.time
    calls = [implicit[f] for f in frame.path() if f in implicit]
    return max(calls, key=lambda call: call[0])[1] if calls else None  # the longest loop; of equals the outermost


def _calls(nodes: list[Node]) -> dict[Frame, tuple[int, int]]:
    """For every call of a module that was called several times in one parent: how many calls, and which of them this is."""
    repeated: dict[tuple[Frame | None, int], dict[Frame, None]] = {}
    with_parameters: set[Frame] = set()
    seen: set[Frame] = set()
    for node in nodes:
        uses_leaf = any(n is not None and n.prim is None for n in map(node_of, node.args))
        frame = node.frame
        while frame is not None and not (frame in seen and (not uses_leaf or frame in with_parameters)):
            seen.add(frame)
            if uses_leaf:
                with_parameters.add(frame)
            if not isinstance(frame.owner, str) and frame.owner is not None:
                repeated.setdefault((frame.parent, id(frame.owner)), {})[frame] = None
            frame = frame.parent
    calls: dict[Frame, tuple[int, int]] = {}
    for frames in repeated.values():
        if len(frames) > 1 and not with_parameters.isdisjoint(frames):
            for k, frame in enumerate(sorted(frames, key=lambda f: f.call), 1):
                calls[frame] = len(frames), k
    return calls


def _companions(nodes: list[Node], times: dict[Node, int]) -> dict[Node, int]:
    """Steps for the ops between the modules of a loop: those that read one step only and recur in others."""
    guesses: dict[Node, int] = {}
    counts: dict[tuple[int, str], int] = {}
    alike: dict[tuple[str, int], list[Node]] = {}
    for node in nodes:
        if node.prim is None or node in times:
            continue
        read: set[Any] = {guesses.get(n, times.get(n)) for n in map(node_of, node.args) if n is not None and n.prim is not None}
        if len(read) == 1 and None not in read:
            guesses[node] = step = read.pop()
            ordinal = counts[step, node.prim.name] = counts.get((step, node.prim.name), 0) + 1
            alike.setdefault((node.prim.name, ordinal), []).append(node)
    kept = {node for group in alike.values() if len(group) > 1 for node in group}
    return {node: step for node, step in guesses.items() if node in kept}
