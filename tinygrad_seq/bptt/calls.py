"""Steps that nobody told: the calls of the modules of a plain `for` loop.

The k-th calls of modules that are called in turn are one step, and a sequence is steps of which each reads the one before. A call that reads
none of those before begins another sequence, unless it is given the numbers that one ended with: a state that was detached. Where a step reads
two sequences of the same modules, or one in its middle, as layers do that share a cell, nobody can tell what is time and what is depth.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..backend import is_array
from ..errors import GraphError
from ..frames import Frame
from ..graph import MultiNode, Node, node_of, value_of

MOST = 4  # sequences that go on side by side, of which one may have been detached


@dataclass
class Calls:
    """One loop: for each step the calls in it, of every module one.

    clear: whether each of its steps reads the one before, and no other sequence. recurrent: whether steps read each other at all.
    """

    steps: list[list[Frame]]
    clear: bool = True
    recurrent: bool = True


def calls_of(tape: Iterable[Node], told: Iterable[Frame]) -> list[Calls]:
    """The loops of calls on a tape outside of the steps that were `told`, in the order of their first calls.

    A module counts that was called several times in one place; a call with told steps inside of it does not.
    """
    tape = list(tape)
    around = {outer for step in told for outer in step.path()}
    groups: dict[tuple[Frame | None, int], dict[Frame, None]] = defaultdict(dict)
    paths: dict[Frame | None, list[Frame]] = {None: []}
    for node in tape:
        if node.frame is not None and node.frame not in paths:
            path = node.frame.path()
            outside = all(f.step is None and not f.backward for f in path)
            paths[node.frame] = path if outside else []
            for f in paths[node.frame]:
                if f.owner is not None and not isinstance(f.owner, str) and f not in around:
                    groups[f.parent, id(f.owner)][f] = None
    several = [sorted(frames, key=lambda f: f.call) for frames in groups.values() if len(frames) > 1]
    joined: list[list[list[Frame]]] = []
    alike: dict[tuple[Frame | None, int], list[list[list[Frame]]]] = defaultdict(list)
    for calls in sorted(several, key=lambda calls: calls[0].call):
        known = alike[calls[0].parent, len(calls)]
        steps = next((steps for steps in known if _in_turn([step[-1] for step in steps], calls)), None)
        if steps is None:
            known.append([[call] for call in calls])
            joined.append(known[-1])
        else:
            for step, call in zip(steps, calls, strict=True):
                step.append(call)
    place = {call: (k, i) for k, steps in enumerate(joined) for i, step in enumerate(steps) for call in step}
    reads = _reads(tape, paths, place, len(joined))
    inside: list[dict[int, list[Node]]] = [defaultdict(list) for _ in joined]
    for node in tape:
        for f in paths[node.frame]:
            if f in place:
                inside[place[f][0]][place[f][1]].append(node)
    return [loop for steps, read, nodes in zip(joined, reads, inside, strict=True) for loop in _sequences(steps, read, nodes)]


def _in_turn(a: Sequence[Frame], b: Sequence[Frame]) -> bool:
    """Whether b is called after each call of a and before the next."""
    return all(x.call < y.call for x, y in zip(a, b, strict=True)) and all(y.call < x.call for x, y in zip(a[1:], b))


def _reads(
    tape: Sequence[Node], paths: dict[Frame | None, list[Frame]], place: dict[Frame, tuple[int, int]], loops: int
) -> list[dict[int, set[int]]]:
    """For every loop, which of its earlier steps a step reads, directly or through what is computed outside of them: of each way the latest."""
    found: list[dict[int, set[int]]] = [defaultdict(set) for _ in range(loops)]
    latest: dict[Node, dict[int, int]] = {}
    for node in tape:
        here = dict(place[f] for f in paths[node.frame] if f in place)
        came: dict[int, int] = {}
        for source in map(node_of, node.args):
            for k, i in latest.get(source, {}).items() if source is not None else ():
                if k not in here:
                    came[k] = max(i, came.get(k, i))
                elif i < here[k]:
                    found[k][here[k]].add(i)
        if here or came:
            latest[node] = came | here
    return found


def _sequences(steps: list[list[Frame]], reads: dict[int, set[int]], inside: dict[int, list[Node]]) -> list[Calls]:
    """The steps of one loop as sequences; as a single one where nothing is handed on, or where it is not clear what follows what."""
    if not reads:
        return [Calls(steps, recurrent=False)]
    run_of: list[int] = []
    runs: list[list[int]] = []
    for i in range(len(steps)):
        read = {run_of[j] for j in reads[i]} if i in reads else set()
        if not read:
            detached = (run for run in range(len(runs))[: -1 - MOST : -1] if _given(inside[i], inside[runs[run][-1]]))
            run = next(detached, len(runs))
            if run == len(runs):
                runs.append([])
        elif len(read) > 1 or runs[min(read)][-1] not in reads[i]:
            return [Calls(steps, clear=False)]
        else:
            run = min(read)
        run_of.append(run)
        runs[run].append(i)
    return [Calls([steps[i] for i in run]) for run in runs]


def _given(step: Sequence[Node], before: Sequence[Node]) -> bool:
    """Whether a step is given, as a constant, an array of numbers that an earlier one computed."""
    given = [x for node in step for arg, x in zip(node.args, node.raw, strict=True) if node_of(arg) is None and is_array(x)]
    given = [x for x in given if x.dtype.kind == "f" and x.ndim and x.any()]
    shapes = {x.shape for x in given}
    try:
        for node in before:
            forms = node.shape if isinstance(node, MultiNode) else (node.shape,)
            if node.prim is not None and not shapes.isdisjoint(map(tuple, forms)):
                value = value_of(node)
                made = value if isinstance(node, MultiNode) else (value,)
                if any(x.shape == y.shape and bool((x == y).all()) for x in given for y in made):
                    return True
    except GraphError:  # what it was computed from was overwritten
        return False
    return False
