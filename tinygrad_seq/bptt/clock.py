"""The steps of a tape in the order in which its loops run, and what one step hands to a later one.

A step is what a loop says it is (`scan`, `tg.steps`); where no loop says anything, the k-th call of a cell that reads what its call before
made. A loop counts its own steps, 1, 2, ..., so a layer that reads from the end counts from the end; one that starts from where another
ended (a decoder, the next piece of a sequence) counts on. A running total, to which steps only add, is no state and has no time.
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
]  # loop -> the first and the last of its steps that something was computed from without a step between


class Handed(NamedTuple):
    """An argument that brings something from an earlier step: argument `position` of `node`, made in step `before`, read in `after`."""

    node: Node
    position: int
    before: int
    after: int


class Clock:
    """The loops of a tape, given in topological order.

    at: the step of a node, as the loops run; times: the same as the loop tells it. handed: what steps hand to later ones. steps: how many
    there are. mixed: whether a loop reads one that runs the other way, as in a stack of bidirectional layers.
    """

    def __init__(self, tape: Sequence[Node]):
        self.tape = tape
        self.loops: list[list[Frame]] = []  # the frames of their steps
        self._place: dict[Frame, tuple[int, int]] = {}  # frame of a step -> its loop, and the how-manieth of it
        told = self._steps_told()
        self._number(told.values())
        silent = len(self.loops)
        frames = told | self._calls(told)
        self._here = {node: self._place[frame] for node, frame in frames.items()}
        for node in totals(tape, self._here):
            del self._here[node]
        reads = self._reads()
        recurrent = {self._here[node][0] for node, _, came in reads if self._here[node][0] in came}
        if len(self.loops) > silent:  # calls that read nothing of each other are no steps
            self._here = {node: (k, i) for node, (k, i) in self._here.items() if k < silent or k in recurrent}
            reads = self._reads()
        self.mixed = any(self._turned(k, self._here[node][0]) for node, _, came in reads for k in came)
        self.starts = [0] * len(self.loops)  # how many steps were taken before a loop
        self.handed = self._handed(reads)
        self.at = {node: self.starts[loop] + i for node, (loop, i) in self._here.items()}
        self.times = {node: frames[node].step or i for node, (_, i) in self._here.items()}
        self.steps = max(self.at.values(), default=0)

    # ---- Steps -------------------------------------------------------------------------------------------------------------------

    def _steps_told(self) -> dict[Node, Frame]:
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
            loop = running.get(frame.parent, [])
            by = [b.step - a.step for a, b in pairwise([*loop[-2:], frame])]  # type: ignore[operator]
            if not by or abs(by[-1]) != 1 or by[0] != by[-1]:
                loop = running[frame.parent] = []
                self.loops.append(loop)
            loop.append(frame)
            self._place[frame] = len(self.loops) - 1, len(loop)

    def _calls(self, told: dict[Node, Frame]) -> dict[Node, Frame]:
        """For nodes outside of every step: the call of a module that was called again and again, and is a step if its calls read each other.

        Modules of one loop are called in turn: the k-th calls of all of them are step k. A call with steps inside of it is none.
        """
        around = {outer for step in set(told.values()) for outer in step.path()}
        calls: dict[tuple[Frame | None, int], dict[Frame, None]] = defaultdict(dict)
        paths: dict[Frame, list[Frame]] = {}
        for node in self.tape:
            if node not in told and node.frame is not None and node.frame not in paths:
                paths[node.frame] = node.frame.path()
                for f in paths[node.frame]:
                    if f.owner is not None and not isinstance(f.owner, str) and not f.backward and f not in around:
                        calls[f.parent, id(f.owner)][f] = None
        loops = [sorted(frames, key=lambda f: f.call) for frames in calls.values() if len(frames) > 1]
        known: dict[tuple[Frame | None, int], list[tuple[int, list[Frame]]]] = defaultdict(list)
        for loop in sorted(loops, key=lambda loop: loop[0].call):
            alike = known[loop[0].parent, len(loop)]
            k = next((k for k, other in alike if _in_turn(other, loop)), None)
            if k is None:
                k = len(self.loops)
                self.loops.append(loop)
                alike.append((k, loop))
            for i, f in enumerate(loop, 1):
                self._place[f] = k, i
        found = {}
        for node in self.tape:
            steps = [f for f in paths.get(node.frame, ()) if f in self._place] if node not in told and node.frame else []
            if steps:
                found[node] = max(
                    steps, key=lambda f: len(self.loops[self._place[f][0]])
                )  # the longest loop, of equals the outermost
        return found

    # ---- What is handed on -------------------------------------------------------------------------------------------------------

    def _reads(self) -> list[tuple[Node, int, Origins]]:
        """What steps read that was computed from other steps, also where it goes through ops outside of the steps."""
        origins: dict[Node, Origins] = {}
        found = []
        for node in self.tape:
            here = self._here.get(node)
            if here is not None:
                origins[node] = {here[0]: (here[1], here[1])}
            merged: Origins = {}
            for position, source in enumerate(map(node_of, node.args)):
                came = origins.get(source) if source is not None else None
                if came is not None and here is None:
                    _merge(merged, came)
                elif came is not None and came != origins[node]:
                    found.append((node, position, came))
            if merged:
                origins[node] = merged
        return found

    def _handed(self, reads: Sequence[tuple[Node, int, Origins]]) -> list[Handed]:
        """What goes from step to step, within a loop or from the end of one to the loop that goes on from there.

        A loop goes on from another if its first step reads the last one of that, and none of its steps reads another.
        """
        singly: dict[tuple[int, int], set[int]] = defaultdict(set)
        begins: set[tuple[int, int]] = set()
        for node, _, came in reads:
            loop, i = self._here[node]
            for k, (first, last) in came.items():
                if first == last:
                    singly[k, loop].add(last)
                    begins |= {(k, loop)} if i == 1 else set()
        on = {(a, b) for a, b in begins if a != b and singly[a, b] == {len(self.loops[a])} and not self._side_by_side(a, b)}
        found = []
        for node, position, came in reads:
            loop, i = self._here[node]
            if all(first == last and ((k, loop) in on or (k == loop and last < i)) for k, (first, last) in came.items()):
                for k in came.keys() - {loop}:
                    self.starts[loop] = max(self.starts[loop], self.starts[k] + len(self.loops[k]))
                found.append((node, position, came))
        handed = []
        for node, position, came in found:
            loop, i = self._here[node]
            before = max(self.starts[k] + last for k, (_, last) in came.items())
            handed.append(Handed(node, position, before, self.starts[loop] + i))
        return handed

    def _side_by_side(self, a: int, b: int) -> bool:
        """Whether these are layers that read a single step, one the other."""
        return len(self.loops[a]) == 1 and _around(self.loops[a][0]) is _around(self.loops[b][0])

    def _turned(self, a: int, b: int) -> bool:
        """Whether two loops run through time in opposite directions; one of a single step runs in none."""
        ways = {(loop[-1].step or 0) >= (loop[0].step or 0) for loop in (self.loops[a], self.loops[b]) if len(loop) > 1}
        return len(ways) == 2


def _in_turn(a: Sequence[Frame], b: Sequence[Frame]) -> bool:
    """Whether b is called after each call of a and before the next."""
    return all(x.call < y.call for x, y in zip(a, b, strict=True)) and all(y.call < x.call for x, y in zip(a[1:], b))


def _around(step: Frame) -> Frame | None:
    """Where the loop of a step stands."""
    return step.parent.parent if step.parent is not None and step.owner == "step" else step.parent


def _merge(into: Origins, more: Origins) -> None:
    for loop, (first, last) in more.items():
        a, b = into.get(loop, (first, last))
        into[loop] = min(a, first), max(b, last)


def totals(tape: Sequence[Node], here: dict[Node, tuple[int, int]]) -> set[Node]:
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
