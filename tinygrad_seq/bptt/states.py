"""The loops of a tape and the states that they carry from step to step: what one step makes and a later one reads.

Nothing has to be declared: a compiled loop, an unfolded one and a `for x in tg.steps(xs)` loop leave frames with time steps, a plain `for`
loop over a cell those of its calls, and whatever crosses from one to the next is the state.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from heapq import heappop, heappush
from typing import Any

import numpy as np

from ..errors import GraphError, message
from ..frames import Frame
from ..graph import Node, Value, box, node_of, raw, require_recorded, toposort
from ..ops import where
from ..scan import time_loop
from .calls import calls_of
from .chains import Chain as Chain
from .chains import Key, dtype_of, key_of, shape_of
from .clock import Clock, totals
from .uses import _label, tape_of


def opened_with_states(outputs: Sequence[Value], who: str) -> tuple[list[Any], list[Node]]:
    """The outputs on an opened tape, and that tape with all states of the loops that were opened: also those that no output was computed from."""
    for value in outputs:
        require_recorded(value, who)
    loops = [node for node in toposort(outputs) if time_loop(node)]
    last = [box(None, node, i) for node in loops for i in range(1 + node.params["count"])]
    values = tape_of([*outputs, *last], who)
    return values[: len(outputs)], toposort(values)


class _Loop:
    """One loop: its nodes, step by step, and what crosses from one to another."""

    def __init__(self, parent: Frame | None, owner: Any):
        self.parent, self.owner = parent, owner
        self.times: list[int] = []
        self.nodes: list[list[Node]] = []
        self.inner: dict[Node, Frame | None] = {}  # the call of a module that a node belongs to, within the step
        self.made: dict[Node, int] = {}  # the step of each node
        self.read: dict[
            Key, list[tuple[Node, int, int]]
        ] = {}  # who reads a value in a later step: an op, which argument, which step
        self.within: set[Key] = set()  # what is read in its own step
        self.kept: dict[Node, Key] = {}  # a `where` that keeps the rows that have ended, and what it keeps the others of
        self.uses: dict[Key, list[tuple[Node, int, int]]] = {}  # `read` by origin
        self.frames: list[Frame] = []
        self.between: dict[int, int] = {}  # the step of a node that has no frame, by its order
        self.versions: dict[Key, list[Key]] = {}  # of an origin, in tape order, what such `where`s made of it

    def add(self, node: Node, p: int, inner: Frame | None) -> None:
        """Take up a node of step p, the next in tape order."""
        self.nodes[p].append(node)
        self.made[node], self.inner[node] = p, inner
        for position, arg in enumerate(node.args):
            key = key_of(arg)
            if key is not None and self.made.get(key[0], p) < p and np.dtype(dtype_of(key)).kind == "f":
                self.read.setdefault(key, []).append((node, position, p))
            elif key is not None:
                self.within.add(key)

    def finish(self) -> None:
        """When all nodes are there: tell a `where` that keeps the rows that have ended, which not every step has, from what a step computes."""
        last, steps = len(self.times) - 1, [node for node in self.made if node.prim is where.primitive]
        computed = [node for node in steps if self.made[node] < last and not self._keeps(node)]
        known = {formula for p in {self.made[n] for n in computed} for n, formula in _formulas(self, p).items() if n in computed}
        at_last = _formulas(self, last) if computed else {}  # whose results nobody reads: told by the other steps
        for node in steps:
            if self._keeps(node) and at_last.get(node) not in known:
                self.kept[node] = new = key_of(node.args[1])  # type: ignore[assignment]
                self.versions.setdefault(self.origin(new), []).append((node, 0))  # type: ignore[arg-type]
        for key, uses in self.read.items():
            self.uses.setdefault(self.origin(key), []).extend(uses)

    def _keeps(self, node: Node) -> bool:
        """Whether a `where` takes some rows of a new value, which later steps do not read, and the others of an old one."""
        new, old = key_of(node.args[1]), key_of(node.args[2])
        if key_of(node.args[0]) is not None or (node, 0) in self.within or new is None or new[0] not in self.made:
            return False
        p = self.made[node]
        apart = all(q <= p for *_, q in self.read.get(new, ()))
        return apart and shape_of(new) == node.shape and (old is None or self.made.get(old[0]) != p)

    def origin(self, key: Key) -> Key:
        """What a value was before the rows that have ended were kept; itself where there is no such thing."""
        while key[0] in self.kept:
            key = self.kept[key[0]]
        return key

    def version(self, origin: Key, p: int) -> Key:
        """What has become of a value by the end of step p."""
        return next((key for key in reversed(self.versions.get(origin, ())) if self.made[key[0]] <= p), origin)

    def ops(self, p: int) -> list[Node]:
        """The ops of a step without those that only keep what has ended."""
        return [node for node in self.nodes[p] if node not in self.kept]


def chains_of(tape: Sequence[Node]) -> list[Chain]:
    """A chain for every loop on an opened tape that carries a state, outer loops and earlier ones first."""
    loops = _loops(tape)
    stacks = [node for node in tape if node.prim is not None and node.prim.name == "stack"]
    chains = [chain for loop in loops if (chain := _chain(loop, stacks)) is not None]
    seen: Counter[str] = Counter()
    for chain in chains:
        seen[chain.place] += 1
        if seen[chain.place] > 1:
            chain.place += f" ({seen[chain.place]})"
    return chains


def _loops(tape: Sequence[Node]) -> list[_Loop]:
    """The loops that the frames of a tape tell of, with what crosses from step to step."""
    steps: dict[Frame, None] = {}
    paths: dict[Frame | None, list[Frame]] = {None: []}
    for node in tape:
        if node.frame not in paths:
            assert node.frame is not None
            path = node.frame.path()
            paths[node.frame] = path = [] if any(f.backward for f in path) else path
            steps.update(dict.fromkeys(f for f in path if f.step is not None))
    at: dict[Frame, tuple[_Loop, int]] = {}
    running: dict[tuple[Frame | None, str], _Loop] = {}
    loops: list[_Loop] = []
    for step in sorted(steps, key=lambda f: f.call):
        assert step.step is not None
        name = (step.parent, step.owner if isinstance(step.owner, str) else type(step.owner).__name__)
        loop = running.get(name)
        if loop is None or _begins_anew(loop.times, step.step):
            loop = running[name] = _Loop(step.parent, step.owner)
            loops.append(loop)
        at[step] = loop, len(loop.times)
        loop.frames.append(step)
        loop.times.append(step.step)
        loop.nodes.append([])
    told = len(loops)
    for together in calls_of(tape, steps):
        for calls in zip(*together.steps, strict=True):
            loop = _Loop(calls[0].parent, calls[0].owner)
            loops.append(loop)
            for p, call in enumerate(calls):
                at[call] = loop, p
                loop.frames.append(call)
                loop.times.append(p + 1)
                loop.nodes.append([])
    steps_of = {node: at[found[-1]] for node in tape if (found := [f for f in paths[node.frame] if f in at])}
    sums = totals(tape, {node: (id(loop), p) for node, (loop, p) in steps_of.items()})
    between = Clock(tape).between if len(loops) > told else {}
    last: dict[Node, set[_Loop]] = {}  # outside of every call, those that a node was computed from
    for node in tape:
        path = paths[node.frame]
        last[node] = {at[f][0] for f in path if f in at} or {loop for n in map(node_of, node.args) if n for loop in last[n]}
        if node in between:
            for loop in last[node]:
                loop.add(node, between[node] - 1, None)
                loop.between[node.order] = between[node] - 1
        for depth, frame in enumerate(path):
            if frame not in at or node.prim is None:
                continue
            loop, p = at[frame]
            if node in sums:
                continue
            loop.add(node, p, path[depth + 1] if depth + 1 < len(path) else None)
    for loop in loops:
        loop.finish()
    return loops


def _begins_anew(times: list[int], t: int) -> bool:
    """Whether step t belongs to another loop than the steps before it."""
    sign = 1 if len(times) < 2 else np.sign(times[1] - times[0])
    return bool((t - times[-1]) * sign <= 0) if len(times) > 1 else t == times[-1]


def _chain(loop: _Loop, stacks: Sequence[Node]) -> Chain | None:
    """The states of a loop; None where nothing goes from one step to the next."""
    T = len(loop.times)
    made: list[list[Key]] = [[] for _ in range(T)]  # what each step hands on
    for key in sorted(loop.uses, key=lambda key: (key[0].order, key[1])):
        made[loop.made[key[0]]].append(key)
    forms = [tuple((shape_of(key), str(dtype_of(key))) for key in keys) for keys in made]
    counts = Counter(reversed(forms[: T - 1]))
    usual = max(counts, key=lambda form: (counts[form], len(form)), default=())
    if not usual:
        return None
    like = next(p for p in reversed(range(T)) if forms[p] == usual)
    roles: list[list[Any]] = [
        list(keys) if form == usual else _alike(loop, p, like, made[like])
        for p, (keys, form) in enumerate(zip(made, forms, strict=True))
    ]
    _complete(roles, loop, stacks)
    around = [_label(f) for f in (loop.parent.path() if loop.parent else []) if f.owner is not None]
    if not isinstance(loop.owner, str):
        around.append(type(loop.owner).__name__)
    place = " > ".join(around or [loop.owner])
    chain = Chain(place, loop.times, [], [], [], dtype_of(made[like][0]))
    odd = next((p for p in range(1, T - 1) if None in roles[p]), None)
    if odd is not None:
        chain.problem = _not_alike(loop, odd, forms)
        return chain
    last = T if any(roles[-1]) else T - 1  # the state after the last step may not be told from what else is there
    first = 1 if None in roles[0] else 0
    order, names = _named(loop, roles, like, stacks)
    lags = [max(p - q for q, row in enumerate(roles) for _, _, p in loop.uses.get(row[r], ())) for r in order]
    first += max(lags) - 1
    if first >= last - 1:
        chain.problem = _not_alike(loop, T - 1, forms)
        return chain
    parts = [
        (r, d, name if not d else f"{name}(t-{d})") for r, lag, name in zip(order, lags, names, strict=True) for d in range(lag)
    ]
    parts.sort(key=lambda part: part[1])
    states = [[roles[p - d][r] and loop.version(roles[p - d][r], p) for r, d, _ in parts] for p in range(first, last)]
    chain.times, chain.names, chain.states = loop.times[first:last], [name for *_, name in parts], states
    chain.shapes = [usual[r][0] for r, _, _ in parts]
    chain.frames = dict(zip(loop.frames[first:last], chain.times, strict=True))
    chain.between = {order: loop.times[p] for order, p in loop.between.items() if first <= p < last}
    for k in range(len(states) - 1):
        for j, (r, d, _) in enumerate(parts):
            for node, position, p in loop.uses.get(roles[first + k - d][r], ()):
                if p == first + k + 1:
                    chain.reads[node, position] = k, j
    if first == 0 and max(lags) == 1:
        _begin(chain, loop)
    return chain


def _alike(loop: _Loop, p: int, like: int, keys: Sequence[Key]) -> list[Key | None]:
    """What step p computed as the step `like` computed these, whatever else it did; None where there is no such thing."""
    mine, theirs = _formulas(loop, p), _formulas(loop, like)
    places: dict[int, list[Node]] = {}
    for node, formula in mine.items():
        places.setdefault(formula, []).append(node)
    found: list[Key | None] = []
    for node, index in keys:
        nth = [other for other, formula in theirs.items() if formula == theirs[node]].index(node)
        same = places.get(theirs[node], [])
        found.append((same[nth], index) if nth < len(same) else None)
    return found


def _formulas(loop: _Loop, p: int) -> dict[Node, int]:
    """For each op of a step a number that says how it was computed: the same for the same ops of the same kinds of arguments."""
    formulas: dict[Node, int] = {}
    for node in loop.ops(p):
        args: list[Any] = []
        for arg in node.args:
            key = key_of(arg)
            if key is None or loop.made.get(key[0], p) < p:  # a state, which may be a constant before the first step
                args.append(np.shape(raw(arg)) if key is None else shape_of(key))
            elif key[0] in formulas:
                args.append((formulas[key[0]], key[1]))
            else:
                args.append(id(key[0]) if key[0].prim is None else (key[0].prim.name, shape_of(key)))
        formulas[node] = hash((node.prim, str(node.shape), tuple(args)))
    return formulas


def _complete(roles: list[list[Any]], loop: _Loop, stacks: Sequence[Node]) -> None:
    """Fill in states that `stack` put one behind the other for the outputs of the loop."""
    for r in range(len(roles[0])):
        known = [row[r] for row in roles]
        for stack in stacks if None in known and any(known) else ():
            stacked = [key and loop.origin(key) for key in map(key_of, stack.args)]
            for order in (stacked, stacked[::-1]):
                if len(stacked) == len(known) and all(a is None or a == b for a, b in zip(known, order, strict=True)):
                    for row, key in zip(roles, order, strict=True):
                        row[r] = key


def _named(loop: _Loop, roles: Sequence[Sequence[Any]], like: int, stacks: Sequence[Node]) -> tuple[list[int], list[str]]:
    """The order of the parts of a state, and their names: h what the loop puts out, else what is made last; c what else there is.

    Several modules in one step have a number each: h1, c1, h2, c2.
    """
    keys = roles[like]
    outputs: set[Any] = set()
    for stack in stacks:
        these = {key and loop.origin(key) for key in map(key_of, stack.args)}
        if not these.isdisjoint(keys):
            outputs = these
            break
    groups: dict[Frame | None, list[int]] = {}
    for r, key in enumerate(keys):
        groups.setdefault(_call_of(loop, key[0]), []).append(r)
    order: list[int] = []
    names: list[str] = []
    for number, group in enumerate(groups.values(), 1):
        main = next((r for r in group if keys[r] in outputs), group[-1])
        others = [r for r in group if r != main]
        count = str(number) if len(groups) > 1 else ""
        order += [main, *others]
        names += [
            "h" + count,
            *("c" + count if len(others) == 1 else f"s{count}{'_' * bool(count)}{i + 1}" for i in range(len(others))),
        ]
    return order, names


def _call_of(loop: _Loop, node: Node) -> Frame | None:
    """The call of a module that made a value, or the youngest one in the step that it was computed from; None where there is none."""
    p, heap, seen = loop.made[node], [(-node.order, node)], {node}
    while heap:
        _, node = heappop(heap)
        if loop.inner[node] is not None:
            return loop.inner[node]
        for source in map(node_of, node.args):
            if source is not None and source not in seen and loop.made.get(source) == p:
                seen.add(source)
                heappush(heap, (-source.order, source))
    return None


def _begin(chain: Chain, loop: _Loop) -> None:
    """Put the state before the first step in front: what its ops read where those of the second step read the state."""
    begin: list[Any] = [None] * len(chain.names)
    reads: dict[tuple[Node, int], tuple[int, int]] = {}
    states = zip(chain.states[1], chain.states[0], strict=True)
    pairs = [(loop.origin(later)[0], loop.origin(first)[0]) for later, first in states if later and first]
    seen: set[Node] = set()
    while pairs:
        later, first = pairs.pop()
        if later in seen:
            continue
        seen.add(later)
        if later.prim is not first.prim or later.shape != first.shape:
            return
        for position, (a, b) in enumerate(zip(later.args, first.args, strict=True)):
            use, inner, outer = chain.reads.get((later, position)), key_of(a), key_of(b)
            if use is not None:
                found = outer or raw(b)
                if begin[use[1]] is not None and not _equal(begin[use[1]], found):
                    return
                begin[use[1]] = found
                reads[first, position] = 0, use[1]
            elif inner is not None and loop.made.get(inner[0]) == 1:
                if outer is None or loop.made.get(outer[0]) != 0:
                    return
                pairs.append((inner[0], outer[0]))
    if any(
        b is None or tuple(shape_of(b) if isinstance(b, tuple) else np.shape(b)) != s
        for b, s in zip(begin, chain.shapes, strict=True)
    ):
        return
    for j, key in enumerate(chain.states[0]):
        if loop.origin(key) != key:
            reads[key[0], 2] = 0, j
    chain.reads = reads | {use: (k + 1, j) for use, (k, j) in chain.reads.items()}
    chain.begun = True
    chain.states.insert(0, begin)
    chain.times.insert(0, loop.times[0] - int(np.sign(loop.times[1] - loop.times[0])))


def _equal(a: Any, b: Any) -> bool:
    return (
        a == b if isinstance(a, tuple) or isinstance(b, tuple) else a is b or (np.shape(a) == np.shape(b) and bool(np.all(a == b)))
    )


def _not_alike(loop: _Loop, p: int, forms: Sequence[Any]) -> GraphError:
    def shown(form: Any) -> str:
        return ", ".join(f"{dtype} {shape}" for shape, dtype in form) or "nothing"

    q = p - 1 if p else 1
    return GraphError(
        message(
            f"bptt: the steps of the loop hand on different states: t = {loop.times[p]} and t = {loop.times[q]}",
            expected="a state of one form: the same arrays at every step",
            got=f"{shown(forms[p])} after {shown(forms[q])}",
            do="name the states yourself: a list [h_1, h_2, ...] or [(h_1, c_1), ...] in place of the tensor",
        )
    )
