"""The steps of a tape in the order in which its loops run, and what one step hands to a later one.

A step is what a loop says it is (`scan`, `tg.steps`); where no loop says anything, the k-th call of a cell that reads what its call before
made (`calls`). A loop counts its own steps, 1, 2, ..., so a layer that reads from the end counts from the end; one that starts from where
another ended (a decoder, the next piece of a sequence) counts on. A loop within the steps of one that carries a state is a part of these
steps. A running total, to which steps only add, is no state and has no time.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence, Set
from itertools import pairwise
from typing import NamedTuple

from ..frames import Frame
from ..graph import Node, node_of
from .calls import calls_of

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

    at: the step of a node, as the loops run; times: the same as the loop tells it. frames: of the steps, by node. between: the step of what is
    computed between the calls of a plain loop, without a frame of its own. handed: what steps hand to
    later ones. steps: how many there are. mixed: whether a loop reads one that runs the other way, as in a stack of bidirectional layers.
    unclear: a module whose calls share weights such that nobody can tell what is time and what is depth.
    """

    def __init__(self, tape: Sequence[Node]):
        self.tape = tape
        self.unclear: Frame | None = None
        self.between: dict[Node, int] = {}
        told, self.frames = self._steps_told(), dict[Node, Frame]()
        while True:
            self.loops: list[list[Frame]] = []  # the frames of their steps
            self._place: dict[Frame, tuple[int, int]] = {}  # frame of a step -> its loop, and the how-manieth of it
            self._number(told.values())
            self._here = {node: self._place[frame] for node, frame in told.items()}
            reads = self._reads()
            if not (inner := self._inner(reads)):
                break
            told = {node: inner.get(self._place[frame][0], {}).get(frame, frame) for node, frame in told.items()}
        silent = len(self.loops)
        self.frames = told | self._calls(told)
        self._here = {node: self._place[frame] for node, frame in self.frames.items()}
        for node in totals(tape, self._here):
            del self._here[node]
        reads = self._reads()
        recurrent = {self._here[node][0] for node, _, came in reads if self._here[node][0] in came}
        if len(self.loops) > silent:  # calls that read nothing of each other are no steps
            self._here = {node: (k, i) for node, (k, i) in self._here.items() if k < silent or k in recurrent}
            self.frames = {node: frame for node, frame in self.frames.items() if node in self._here}
            self._between({k for k in recurrent if k >= silent})
            reads = self._reads()
        self.mixed = any(self._turned(k, self._here[node][0]) for node, _, came in reads for k in came)
        self.starts = [0] * len(self.loops)  # how many steps were taken before a loop
        self.handed = self._handed(reads)
        self.at = {node: self.starts[loop] + i for node, (loop, i) in self._here.items()}
        self.times = {node: self._told(node, i) for node, (_, i) in self._here.items()}
        self.steps = max(self.at.values(), default=0)

    def loop_of(self, node: Node) -> int:
        """The number of the loop that a node is a step of."""
        return self._here[node][0]

    def _told(self, node: Node, i: int) -> int:
        step = self.frames[node].step if node in self.frames else None
        return i if step is None else step

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
        running: dict[Frame | None, int] = {}
        for frame in dict.fromkeys(frames):  # in tape order
            k = running.get(frame.parent)
            by = [] if k is None else [b.step - a.step for a, b in pairwise([*self.loops[k][-2:], frame])]  # type: ignore[operator]
            if k is None or abs(by[-1]) != 1 or by[0] != by[-1]:
                k = running[frame.parent] = len(self.loops)
                self.loops.append([])
            self.loops[k].append(frame)
            self._place[frame] = k, len(self.loops[k])

    def _inner(self, reads: Sequence[tuple[Node, int, Origins]]) -> dict[int, dict[Frame, Frame]]:
        """The loops that run within the steps of a loop with a state of its own: they are of these steps.

        By number the frames of their steps, each with the step around.
        """
        around = {
            loop: {self._place[f][0]: f for f in frames[0].path()[:-1] if f in self._place}
            for loop, frames in enumerate(self.loops)
        }
        states = set()
        for node, _, came in reads:
            loop, i = self._here[node]
            for k in came.keys() & {loop, *around[loop]}:
                if came[k][1] < (i if k == loop else self._place[around[loop][k]][1]):
                    states.add(k)
        outermost = {loop: next((f for k, f in outer.items() if k in states), None) for loop, outer in around.items()}
        return {loop: dict.fromkeys(self.loops[loop], f) for loop, f in outermost.items() if f is not None}

    def _calls(self, told: dict[Node, Frame]) -> dict[Node, Frame]:
        """For nodes outside of every step: the call of a module that was called again and again, and is a step if its calls read each other."""
        for calls in calls_of((node for node in self.tape if node not in told), set(told.values())):
            if not calls.recurrent:
                continue
            if not calls.clear:
                self.unclear = calls.steps[0][0]
            for i, step in enumerate(calls.steps, 1):
                self._place |= dict.fromkeys(step, (len(self.loops), i))
            self.loops.append([step[0] for step in calls.steps])
        found = {}
        for node in self.tape:
            steps = [f for f in node.frame.path() if f in self._place] if node not in told and node.frame else []
            if steps:
                found[node] = max(
                    steps, key=lambda f: len(self.loops[self._place[f][0]])
                )  # the longest loop, of equals the outermost
        return found

    def _between(self, silent: set[int]) -> None:
        """Give what is computed between the calls of a plain loop to a step, if a later one reads it: to that of the call before or behind.

        h_t = a h_(t-1) + cell(x_t, h_(t-1)) is of step t, and so is a h_(t-1), which step t alone needs. What the last step computes is told by
        the steps before it.
        """
        origins: dict[Node, Origins] = {}
        for node in self.tape:
            self._origins(node, origins)
        after = {node: came for node, came in origins.items() if node not in self._here and not silent.isdisjoint(came)}
        usual = {(k, node.prim, str(node.shape)) for node, (k, _) in self._placed(after, silent, set()).items()}
        placed = self._placed(after, silent, usual)
        self.between = {node: i for node, (_, i) in placed.items()}
        self._here |= placed

    def _placed(self, after: dict[Node, Origins], silent: set[int], usual: Set[object]) -> dict[Node, tuple[int, int]]:
        """The loops and steps of nodes between calls, by what was made before them.

        As late as their readers allow: with what is made of another loop, as by attention, that is the step that reads it, and else the step that it
        was computed from. In the first and the last step, where a node is such as others are.
        """
        needed: dict[Node, dict[int, int]] = {}
        placed: dict[Node, tuple[int, int]] = {}
        first: dict[Node, int] = {}  # what a first step reads that no step made
        for node in reversed(self.tape):
            came = after.get(node)
            if node in first and (first[node], node.prim, str(node.shape)) in usual:
                k, step = placed[node] = first[node], 1
            elif came is not None:
                asked = dict(needed.get(node, {}))
                if not asked and len(came) == 1:
                    ((k, (_, i)),) = came.items()
                    if i == len(self.loops[k]) and (k, node.prim, str(node.shape)) in usual:
                        asked = {k: i}
                if len(asked) != 1:
                    continue
                ((k, step),) = asked.items()
                placed[node] = k, step
            elif node in self._here:
                k, step = self._here[node]
            else:
                continue
            for source in map(node_of, node.args) if k in silent else ():
                if source is not None and source not in self._here and k not in after.get(source, ()) and step == 1:
                    first[source] = k
                if source is not None and source in after and k in after[source]:
                    last = after[source][k][1]
                    ready = max(last, step) if came is not None or len(after[source]) > 1 else last
                    by_loop = needed.setdefault(source, {})
                    by_loop[k] = min(ready, by_loop.get(k, ready))
        return placed

    # ---- What is handed on -------------------------------------------------------------------------------------------------------

    def _reads(self) -> list[tuple[Node, int, Origins]]:
        """What steps read that was computed from other steps, also where it goes through ops outside of the steps."""
        origins: dict[Node, Origins] = {}
        found = []
        for node in self.tape:
            self._origins(node, origins)
            for position, source in enumerate(map(node_of, node.args) if node in self._here else ()):
                came = origins.get(source) if source is not None else None
                if came is not None and came != origins[node]:
                    found.append((node, position, came))
        return found

    def _origins(self, node: Node, origins: dict[Node, Origins]) -> None:
        """Note what steps a node was computed from: it is of one, or stands outside of them and reads what others were computed from."""
        here = self._here.get(node)
        merged: Origins = {} if here is None else {here[0]: (here[1], here[1])}
        for source in map(node_of, node.args) if here is None else ():
            if source is not None and source in origins:
                _merge(merged, origins[source])
        if merged:
            origins[node] = merged

    def _handed(self, reads: Sequence[tuple[Node, int, Origins]]) -> list[Handed]:
        """What goes from step to step, within a loop or from the end of one to the loop that goes on from there.

        A loop goes on from another if its first step reads the last one of that, and none of its steps reads another; not if later steps
        read the ends of more loops, as over sentences whose words were read by loops.
        """
        singly: dict[tuple[int, int], set[int]] = defaultdict(set)
        begins: set[tuple[int, int]] = set()
        meets: dict[tuple[int, int], int] = {}  # the first step of a loop that reads another
        for node, _, came in reads:
            loop, i = self._here[node]
            for k, (first, last) in came.items():
                if first == last:
                    singly[k, loop].add(last)
                    begins |= {(k, loop)} if i == 1 else set()
                    meets[k, loop] = min(i, meets.get((k, loop), i))
        ends = {(a, b) for a, b in meets if a != b and singly[a, b] == {len(self.loops[a])} and not self._side_by_side(a, b)}
        fed = {b for a, b in ends if meets[a, b] > 1 and len(self.loops[a]) > 1}  # each step reads the end of a loop of its own
        on = {(a, b) for a, b in ends & begins if b not in fed}
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
