"""Which time step a node belongs to: read from its frame, and where the loop said nothing, from the calls of its modules.

Knows nothing of drawing.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any

from ..frames import Frame
from ..graph import Node, node_of
from .passing import unstacked


def times_of(nodes: Iterable[Node]) -> dict[Node, int]:
    """The time step of every node that has one; `nodes` in topological order.

    An explicit step (`scan`, `tg.steps`) decides. Without one, the calls of a module with parameters within one parent frame are
    its steps 1, 2, ...: a plain `for` loop over a cell. Loops share their steps, as stacked layers do, unless one starts from
    where another ended (encoder and decoder): then its time runs on. An op outside every module goes with the one step that it
    reads, if other steps have an op like it (the squared error of each step, say, but not the mean after the last).
    """
    nodes = list(nodes)
    moments = _moments(nodes)
    starts = _starts(nodes, moments)
    times = {node: time + starts[loop] for node, (loop, time) in moments.items()}
    return times | _companions(nodes, times)


def _moments(nodes: list[Node]) -> dict[Node, tuple[Any, int]]:
    """The loop that a node was recorded in, and its step there."""
    calls = _calls(nodes)
    known: dict[Frame | None, tuple[Any, int] | None] = {None: None}
    explicit: list[tuple[Frame, Frame]] = []  # frame of a node, frame of the step
    for node in nodes:
        frame = node.frame
        if frame not in known:
            assert frame is not None
            path = frame.path()
            step = next((f for f in reversed(path) if f.step is not None), None)
            if step is not None:
                explicit.append((frame, step))
            found = [calls[f] for f in path if f in calls]
            longest = max(found, key=lambda call: call[0], default=None)  # the longest loop; of equals the outermost
            known[frame] = None if longest is None else longest[1:]
    runs: dict[Any, tuple[int, int]] = {}  # loops of one parent follow each other: a new one begins where the step is not the next
    of_step: dict[Frame, tuple[Any, int]] = {}
    for step in sorted({step for _, step in explicit}, key=lambda f: f.call):
        assert step.step is not None
        run, last = runs.get(step.parent, (0, step.step - 1))
        run += abs(step.step - last) != 1
        runs[step.parent] = run, step.step
        of_step[step] = (step.parent, run), step.step
    known |= {frame: of_step[step] for frame, step in explicit}
    return {node: moment for node in nodes if (moment := known[node.frame]) is not None}


def _starts(nodes: list[Node], moments: dict[Node, tuple[Any, int]]) -> dict[Any, int]:
    """How far the steps of a loop lie behind those of the others.

    A loop whose every step reads the same step of another runs alongside; one that reads a later step of another starts after that has
    ended, and what runs alongside that, as the embedding of what a decoder reads, moves with it.
    """
    last: dict[Any, int] = {}
    for loop, time in moments.values():
        last[loop] = max(time, last.get(loop, time))
    reads = _reads(nodes, moments)
    steps_of = Counter(loop for loop, _ in {*moments.values()})
    alongside: dict[tuple[Any, Any], int] = {}  # how many steps ahead the other is, in its own steps
    for (loop, other), steps in reads.items():
        ahead = {there - here for here, there in steps}
        if len(ahead) == 1 and (ahead == {0} or len(steps) > 1 or steps_of[other] == 1):
            alongside[loop, other] = ahead.pop()
    starts = dict.fromkeys(last, 0)
    for _ in range(len(last)):
        before = dict(starts)
        for (loop, other), steps in reads.items():
            if (loop, other) in alongside:
                starts[loop] = max(starts[loop], starts[other] + alongside[loop, other])
            elif any(there + starts[other] > here + starts[loop] for here, there in steps):
                starts[loop] = max(starts[loop], last[other] + starts[other])
        for loop in last:  # what only one loop reads, step by step, stands with it
            readers = [pair[0] for pair in reads if pair[1] == loop]
            if readers and all((reader, loop) in alongside for reader in readers):
                starts[loop] = max(starts[loop], min(starts[reader] - alongside[reader, loop] for reader in readers))
        if starts == before:
            break
    return starts


def _reads(nodes: list[Node], moments: dict[Node, tuple[Any, int]]) -> dict[tuple[Any, Any], set[tuple[int, int]]]:
    """Of a loop and another: which step reads which, through ops outside of the loops too, unless those read several steps."""
    reads: dict[tuple[Any, Any], set[tuple[int, int]]] = defaultdict(set)
    carried: dict[Node, dict[Any, int]] = {}  # an op outside of the loops -> the step of each loop that it passes on; -1: several
    for node in nodes:
        steps: set[tuple[Any, int]] = set()
        for source in (node_of(unstacked(arg)) for arg in node.args):
            if source in moments:
                steps.add(moments[source])
            elif source in carried:
                steps |= carried[source].items()
        if node in moments:
            loop, time = moments[node]
            for other, there in steps:
                if other != loop and there >= 0:
                    reads[loop, other].add((time, there))
        elif steps:
            found = carried.setdefault(node, {})
            for other, there in steps:
                found[other] = there if found.get(other, there) == there else -1
    return reads


def _calls(nodes: list[Node]) -> dict[Frame, tuple[int, Any, int]]:
    """For every call of a module that was called several times in one parent: how many calls, of what, and which of them this is."""
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
            if not isinstance(frame.owner, str) and frame.owner is not None and not frame.backward:
                repeated.setdefault((frame.parent, id(frame.owner)), {})[frame] = None
            frame = frame.parent
    calls: dict[Frame, tuple[int, Any, int]] = {}
    for which, frames in repeated.items():
        if len(frames) > 1 and not with_parameters.isdisjoint(frames):
            for k, frame in enumerate(sorted(frames, key=lambda f: f.call), 1):
                calls[frame] = len(frames), which, k
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
    for node, step in _prepared(nodes, times | guesses).items():
        guesses[node] = step
        assert node.prim is not None
        ordinal = counts[step, node.prim.name] = counts.get((step, node.prim.name), 0) + 1
        alike.setdefault((node.prim.name, ordinal), []).append(node)
    kept = {node for group in alike.values() if len(group) > 1 for node in group}
    return {node: step for node, step in guesses.items() if node in kept}


def _prepared(nodes: list[Node], times: dict[Node, int]) -> dict[Node, int]:
    """What only one step reads and an earlier one has computed in part, as attention written by hand: the step that reads it."""
    readers: dict[Node, set[int | None]] = defaultdict(set)
    after: set[Node] = set()
    for node in nodes:
        sources = [source for source in map(node_of, node.args) if source is not None]
        if any(source in times or source in after for source in sources):
            after.add(node)
    found: dict[Node, int] = {}
    for node in reversed(nodes):
        if node.prim is not None and node not in times and node in after and len(readers[node]) == 1:
            (step,) = readers[node]
            if step is not None:
                found[node] = step
        for source in map(node_of, node.args):
            if source is not None:
                readers[source].add(times.get(node, found.get(node)))
    return dict(sorted(found.items(), key=lambda item: item[0].order))
