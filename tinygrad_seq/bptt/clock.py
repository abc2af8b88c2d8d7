"""The steps of a tape in the order in which its loops run, and what one step hands to a later one.

A loop counts its own steps, 1, 2, ..., so a layer that reads from the end counts from the end. A loop that starts from where another ended (a
decoder, the next piece of a sequence) counts on. What steps only add to, such as a running sum of losses, is no state and has no time.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

from ..frames import Frame
from ..graph import Node, node_of

Origins = dict[
    int, tuple[int, int]
]  # loop -> the first and the last of its steps that something outside of the steps was computed from


class Handed(NamedTuple):
    """An argument that brings something from an earlier step: argument `position` of `node`, made in step `before`, read in `after`."""

    node: Node
    position: int
    before: int
    after: int


class Clock:
    """The loops of a tape, given in topological order.

    at: the step of a node, as the loops run. handed: what steps hand to later ones. steps: how many there are. mixed: whether a loop
    reads one that runs the other way, as in a stack of bidirectional layers.
    """

    def __init__(self, tape: Sequence[Node]):
        self.tape = tape
        self.loops: list[list[Frame]] = []  # the frames of their steps
        self._place: dict[Frame, tuple[int, int]] = {}  # frame of a step -> its loop, and the how-manieth of it
        steps = self._frames_of_steps()
        self._number(steps.values())
        self._here = {node: self._place[frame] for node, frame in steps.items()}
        for node in _totals(tape, self._here):
            del self._here[node]
        self.starts = [0] * len(self.loops)  # how many steps were taken before a loop
        self.mixed = False
        self.handed: list[Handed] = []
        self._follow()
        self.at = {node: self.starts[loop] + i for node, (loop, i) in self._here.items()}
        self.steps = max((self.starts[k] + len(loop) for k, loop in enumerate(self.loops)), default=0)

    # ---- Steps -------------------------------------------------------------------------------------------------------------------

    def _frames_of_steps(self) -> dict[Node, Frame]:
        """The innermost step around every node, but for loops of a single step within another; between two steps of `scan` the one before."""
        paths: dict[Frame, list[Frame]] = {}
        counts: dict[Frame | None, set[Frame]] = defaultdict(set)
        for node in self.tape:
            if node.frame is not None and node.frame not in paths:
                paths[node.frame] = found = [f for f in reversed(node.frame.path()) if f.step is not None]
                for step in found:
                    counts[step.parent].add(step)
        chosen = {
            frame: next((step for step in found if len(counts[step.parent]) > 1), found[0])
            for frame, found in paths.items()
            if found
        }
        of_scan = {parent for parent, steps in counts.items() if {step.owner for step in steps} == {"step"}}
        latest: dict[Frame | None, Frame] = {}
        result = {}
        for node in self.tape:
            frame = node.frame
            if frame in of_scan and frame in latest:  # where rows that have ended keep their state
                result[node] = latest[frame]
            elif frame in chosen:
                result[node] = chosen[frame]
                latest[paths[frame][0].parent] = chosen[frame]
        return result

    def _number(self, frames: Iterable[Frame]) -> None:
        """Sort the frames of steps into loops: within one parent, a loop begins where a step is not the next."""
        running: dict[Frame | None, list[Frame]] = {}
        for frame in dict.fromkeys(frames):  # in tape order
            assert frame.step is not None
            loop = running.get(frame.parent, [])
            by = [b.step - a.step for a, b in pairwise([*loop[-2:], frame])]  # type: ignore[operator]
            if not by or abs(by[-1]) != 1 or by[0] != by[-1]:
                loop = running[frame.parent] = []
                self.loops.append(loop)
            loop.append(frame)
            self._place[frame] = len(self.loops) - 1, len(loop)

    # ---- What is handed on -------------------------------------------------------------------------------------------------------

    def _follow(self) -> None:
        """Find what steps read of earlier ones, also where it goes through ops outside of the steps, and which loop follows which."""
        origins: dict[Node, Origins] = {}
        found: list[tuple[Node, int, Origins]] = []
        for node in self.tape:
            here = self._here.get(node)
            if here is None:
                merged: Origins = {}
                for source in map(node_of, node.args):
                    _merge(merged, origins.get(source) if source is not None else None)
                if merged:
                    origins[node] = merged
                continue
            loop, i = here
            origins[node] = {loop: (i, i)}
            for position, source in enumerate(map(node_of, node.args)):
                came = origins.get(source) if source is not None else None
                if came is None or came == origins[node]:
                    continue
                self.mixed |= any(self._turned(k, loop) for k in came)
                if all(first == last and self._hands(k, last, loop, i) for k, (first, last) in came.items()):
                    found.append((node, position, came))
                    for k in came:
                        if k != loop:
                            self.starts[loop] = max(self.starts[loop], self.starts[k] + len(self.loops[k]))
        for node, position, came in found:
            loop, i = self._here[node]
            before = max(self.starts[k] + last for k, (_, last) in came.items())
            self.handed.append(Handed(node, position, before, self.starts[loop] + i))

    def _hands(self, source: int, last: int, loop: int, i: int) -> bool:
        """Whether step i of a loop goes on from step `last` of another, its last one, or of itself."""
        if source == loop:
            return last < i
        ended, begun = self.loops[source], self.loops[loop]
        side_by_side = len(ended) == 1 and _around(ended[0]) is _around(begun[0])  # layers that read one step
        return source < loop and last == len(ended) and not side_by_side

    def _turned(self, a: int, b: int) -> bool:
        """Whether two loops run through time in opposite directions; one of a single step runs in none."""
        ways = {(loop[-1].step or 0) > (loop[0].step or 0) for loop in (self.loops[a], self.loops[b]) if len(loop) > 1}
        return len(ways) == 2


def _around(step: Frame) -> Frame | None:
    """Where the loop of a step stands."""
    return step.parent.parent if step.parent is not None and step.owner == "step" else step.parent


def _merge(into: Origins, more: Origins | None) -> None:
    for loop, (first, last) in (more or {}).items():
        a, b = into.get(loop, (first, last))
        into[loop] = min(a, first), max(b, last)


def _totals(tape: Sequence[Node], here: dict[Node, tuple[int, int]]) -> set[Node]:
    """The additions of running totals: each adds to the one of an earlier step, which nothing else reads."""
    users: dict[Node, int] = defaultdict(int)
    for node in tape:
        for source in map(node_of, node.args):
            if source is not None:
                users[source] += 1

    def adds(node: Node | None) -> bool:
        return node in here and node.prim is not None and node.prim.name == "add"

    found: set[Node] = set()
    for node in tape:
        for source in map(node_of, node.args) if adds(node) else ():
            if source is not None and adds(source) and users[source] == 1 and here[source] != here[node]:
                found |= {source, node}
    return found
