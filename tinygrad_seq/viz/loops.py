"""The tape read as loops: which arguments are drawn, what the steps hand on, which data they read. Knows nothing of boxes."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

from ..frames import Frame
from ..graph import Node, Output, Value, node_of, raw, toposort
from . import names
from .passing import unstacked
from .picture import State, Use
from .times import times_of


class Loops:
    """What a drawing asks of the tape.

    ops: the nodes that are drawn, in tape order; args: their arguments, users: their uses. times: their steps. views: of leaves.
    sums: additions folded into the last of them. states: what steps hand on; state_of: by the argument that takes it.
    sequence: the name of data that is another in every step, by what `sequence_key` says of an argument.
    """

    def __init__(self, outputs: list[Value]):
        tape = toposort(outputs)
        self.index = {node: i for i, node in enumerate(tape)}
        self.outputs = {v.node for v in outputs if v.node is not None}
        self.times = times_of(tape)
        self.views = _views(tape, self.outputs)
        self.names = names.Names(tape, self.views)
        self.args: dict[Node, list[Any]] = {}
        self._resolve()
        self.ops = sorted(self.args, key=self.index.__getitem__)
        self._pull_slices()
        self.users: dict[Node, list[Use]] = defaultdict(list)
        for node in self.ops:
            for position, arg in enumerate(self.args[node]):
                source = node_of(arg)
                if source is not None:
                    self.users[source].append((node, position))
        self.steps = sorted({self.times[node] for node in self.ops if node in self.times})
        self.sums = self._fold_sums()
        self.totals = set(self.sums.values())
        self.roles = self._roles()
        self.named = Counter((role, node.notes_of(0).name) for node, role in self.roles.items())
        self.state_of: dict[Use, State] = {}
        self.states = self._states()
        self.producers = {node for state in self.states for node in state.producers.values()}
        for state in self.states:
            self._classify(state)
        _name_states(self.states)
        self._initial_states()
        self.sequence: dict[Any, str] = {}
        self.same: dict[Any, Any] = {}  # of sequences with the same numbers: the entry of one for that of the other
        self.numbers: dict[Any, Any] = {}
        self._sequences()

    # ---- What is drawn ---------------------------------------------------------------------------------------------------------

    def _resolve(self) -> None:
        """The arguments of every op that is drawn: an element of a stack is the thing that was stacked."""
        stack = list(self.outputs)
        while stack:
            node = stack.pop()
            if node in self.args or node.prim is None:
                continue
            self.args[node] = args = [unstacked(arg) for arg in node.args]
            stack.extend(n for n in map(node_of, args) if n is not None and n not in self.views)

    def _pull_slices(self) -> None:
        """A slice that one step reads belongs to that step."""
        readers: dict[Node, set[int | None]] = defaultdict(set)
        for node in self.ops:
            for source in map(node_of, self.args[node]):
                if source is not None:
                    readers[source].add(self.times.get(node))
        for node in self.ops:
            if node not in self.times and node.prim is not None and node.prim.name == "getitem" and len(readers[node]) == 1:
                (time,) = readers[node]
                if time is not None:
                    self.times[node] = time

    def _fold_sums(self) -> dict[Node, Node]:
        """Additions outside the loop that only feed the next addition -> the last of them, which is drawn as their sum."""

        def adds(node: Node | None) -> bool:
            return (
                node is not None
                and node.prim is not None
                and node.prim.name == "add"
                and node not in self.times
                and node in self.args
            )

        last: dict[Node, Node] = {}
        for node in reversed(self.ops):
            if adds(node):
                for source in map(node_of, self.args[node]):
                    if source is not None and adds(source) and len(self.users[source]) == 1 and source not in self.outputs:
                        last[source] = last.get(node, node)
        return last

    def _roles(self) -> dict[Node, Any]:
        """What an op is within its step: the k-th of its kind in its scope. The same role in another step is the same op of the loop."""
        counts: Counter[Any] = Counter()
        places: dict[Frame | None, tuple[str, ...]] = {}
        roles = {}
        for node in self.ops:
            if node in self.times and node.prim is not None:
                place = places.setdefault(node.frame, _place(node.frame))
                kind = self.times[node], place, node.prim.name
                roles[node] = place, node.prim.name, counts[kind]
                counts[kind] += 1
        return roles

    # ---- What the steps hand on ------------------------------------------------------------------------------------------------

    def _states(self) -> list[State]:
        """The values that steps hand on: arguments made one step earlier."""
        handed_on: list[tuple[Use, Node, Any, Any]] = []  # the use, what made it, and what the two are within their steps
        groups = _Groups()
        for node in self.ops:
            for position, arg in enumerate(self.args[node]):
                source = node_of(arg)
                towards = self.times[node] - self.times[source] if source in self.times and node in self.times else 0
                if source in self.roles and abs(towards) == 1:
                    made = self.roles[source], arg.index if isinstance(arg, Output) else 0, towards
                    taken = self.roles[node], position, towards, ""
                    groups.join(made, taken)
                    handed_on.append(((node, position), source, made, taken))
        states: dict[Any, State] = {}
        roles: dict[Any, set[Any]] = defaultdict(set)
        for use, source, made, _ in handed_on:
            group = groups.of(made)
            state = states.setdefault(group, State({}, [], towards=made[-1]))
            state.uses.append(use)
            self.state_of[use] = state
            state.producers[self.times[source]] = source
            roles[group].add(made[0])
        made_at: dict[Any, Node] = {(self.roles[node], self.times[node]): node for node in self.roles}
        for group, state in states.items():
            self._last_producer(state, roles[group], made_at)
            state.producers = dict(sorted(state.producers.items()))
        return sorted(states.values(), key=lambda s: self.index[s.uses[0][0]])

    def _last_producer(self, state: State, roles: set[Any], made_at: dict[Any, Node]) -> None:
        """What makes the state in the last step, from which nobody takes it: the same op as before, or what corrects it afterwards."""
        before = max(state.producers) if state.towards > 0 else min(state.producers)
        end = before + state.towards
        candidates = [self.roles[state.producers[before]], *sorted(roles, key=str)]
        last = next((made_at[role, end] for role in candidates if (role, end) in made_at), None)
        for time in range(min(state.producers), max(state.producers)):  # what it hands on goes through ops outside of the loop
            gap = next((made_at[role, time] for role in candidates if (role, time) in made_at), None)
            if time not in state.producers and gap is not None:
                state.producers[time] = gap
        if last is not None:
            kept = (user for user, _ in self.users[last] if user.prim is not None and user.prim.name == "where")
            takes = {node for node, _ in state.uses}
            state.producers[end] = next((user for user in kept if user in takes and self.times.get(user) == end), last)

    def _classify(self, state: State) -> None:
        consumers = {node for node, _ in state.uses}
        producers = set(state.producers.values())
        inside = [u for p in producers for u, k in self.users[p] if u in self.times and self.state_of.get((u, k)) is not state]
        if consumers <= producers and not inside:
            state.kind = "sum"
            return
        if any(node.prim is not None and node.prim.name in names.PRODUCTS for node in consumers):
            return
        of_step: dict[int, set[Node]] = defaultdict(set)
        for node in consumers:
            of_step[self.times[node]].add(node)
        for time, producer in state.producers.items():
            rail = self._only_path(of_step[time], producer)
            if rail is None and of_step[time]:
                return
            state.rails[time] = rail or [producer]
        first = min(state.producers) if state.towards > 0 else max(state.producers)
        longest = max((len(rail) for rail in state.rails.values()), default=1)
        if first in state.rails and longest > 1:  # the first step reads a constant, and has the same ops
            roles = [self.roles[n] for n in next(r for r in state.rails.values() if len(r) == longest)]
            here = {self.roles[n]: n for n in self._inputs_of(state.producers[first])}
            state.rails[first] = [here[r] for r in roles if r in here]
        state.kind = "c"

    def _inputs_of(self, node: Node) -> list[Node]:
        """The node and the ops of its own step among its arguments."""
        near = [n for n in map(node_of, self.args[node]) if n in self.args and self.times.get(n) == self.times[node]]
        return [*near, node]

    def _only_path(self, starts: set[Node], end: Node) -> list[Node] | None:
        """The one path of at most two ops from a start to `end` within a step; None where there is none or another."""
        near = self._inputs_of(end)
        on = [n for n in near if n in starts]
        if len(on) != 1 or (on[0] is not end and sum(n is on[0] for n in near) > 1):
            return None
        return on if on[0] is end else [on[0], end]

    def _initial_states(self) -> None:
        """In the first step, the argument that later steps take from the step before is the initial state."""
        ends = {1: self.steps[0], -1: self.steps[-1]} if self.steps else {}
        first = {towards: {self.roles[n]: n for n in self.ops if self.times.get(n) == end} for towards, end in ends.items()}
        for state in self.states:
            for node, position in state.uses:
                twin = first[state.towards].get(self.roles[node])
                if twin is not None and position < len(self.args[twin]) and (twin, position) not in self.state_of:
                    arg = self.args[twin][position]
                    if arg is not None and node_of(arg) not in self.times:
                        state.first = arg if state.first is None else state.first
                        if state.first is arg:
                            self.state_of[twin, position] = state
        self.initial = sorted({ends[s.towards] - s.towards for s in self.states if s.first is not None})

    # ---- What the steps read ---------------------------------------------------------------------------------------------------

    def _sequences(self) -> None:
        """Data that is another in every step -> (which sequence, its name); known by the constant or by the view of a leaf."""
        sequences: dict[Any, dict[int, Any]] = defaultdict(dict)
        for node in self.roles:
            for position, arg in enumerate(self.args[node]):
                if (node, position) not in self.state_of:
                    key = self.sequence_key(arg)
                    if key is not None:
                        if node_of(arg) is None and getattr(arg, "size", 1 << 20) <= 4096:
                            self.numbers.setdefault(key, raw(arg))
                        sequences[self.roles[node], position][self.times[node]] = key
        base: dict[Any, str] = {}
        alike: dict[Any, dict[int, Any]] = {}
        for elements in (dict(sorted(elements.items())) for elements in sequences.values()):
            if len(set(elements.values())) < 2:
                continue
            numbers = tuple(self._numbers(key) for key in elements.values())
            twin = alike.setdefault(numbers, elements) if None not in numbers else elements
            if twin is not elements and list(twin) == list(elements):
                self.same |= {key: twin[time] for time, key in elements.items()}
            known = next((self.sequence[key] for key in (*elements.values(), *twin.values()) if key in self.sequence), None)
            owner = next(iter(elements.values()))[0]  # of constants the first, whose name stands for all
            if known is None and all(key[3] for key in elements.values()):
                known = "m"  # which rows there are
            if known is None:
                known = base.get(owner) or names.singular(self.names.given(owner)) or "x" + "′" * sum(not b for b in base.values())
                base.setdefault(owner, "" if known[0] == "x" else known)
            for key in elements.values():
                self.sequence.setdefault(key, known)

    def _numbers(self, key: Any) -> bytes | None:
        """What is in a small constant."""
        array = self.numbers.get(key)
        return bytes(array.tobytes()) if array is not None and hasattr(array, "tobytes") else None

    def sequence_key(self, arg: Any) -> Any:
        """What tells one element of a sequence from another; None for what is no data."""
        view = self.views.get(node_of(arg)) if node_of(arg) is not None else None  # type: ignore[arg-type]
        if view is not None:
            return (
                (view.leaf, view.text, arg.index if isinstance(arg, Output) else 0, False)
                if view.element or isinstance(arg, Output)
                else None
            )
        if node_of(arg) is None and getattr(arg, "shape", None) is not None and names.value_of_constant(arg) is None:
            return names.identity(arg), "", 0, str(getattr(arg, "dtype", "")) == "bool"
        return None


class _Groups:
    """Things that are joined, each group known by one of them."""

    def __init__(self) -> None:
        self.parent: dict[Any, Any] = {}

    def of(self, thing: Any) -> Any:
        """The one by which the group of a thing is known."""
        self.parent.setdefault(thing, thing)
        while self.parent[thing] != thing:
            self.parent[thing] = thing = self.parent[self.parent[thing]]
        return thing

    def join(self, one: Any, other: Any) -> None:
        """Put the groups of two things together."""
        self.parent[self.of(other)] = self.of(one)


def _place(frame: Frame | None) -> tuple[str, ...]:
    """The modules and loops around an op, by what they are called."""
    path = [] if frame is None else frame.path()
    return tuple(f.owner if isinstance(f.owner, str) else type(f.owner).__name__ for f in path if f.owner is not None)


def _views(tape: list[Node], outputs: set[Node]) -> dict[Node, names.View]:
    """Views of leaves, which are drawn with them: W.T, W[:n], xs[t]."""
    views: dict[Node, names.View] = {}
    for node in tape:
        if node.prim is not None and node not in outputs and node.prim.name in names.VIEWS:
            source = node_of(node.args[0])
            text = names.view(node)
            if source is not None and text is not None and (source.prim is None or source in views):
                before = views.get(source, names.View(source, "", False))
                views[node] = names.View(before.leaf, before.text + text, before.element or names.picks(node))
    return views


def _name_states(states: list[State]) -> None:
    """h for the states that products read (all of them where there is none), c for those that run through."""
    circled = [s for s in states if s.kind != "sum"]
    if circled and all(s.kind == "c" for s in circled):
        circled[0].name = "h"
    for kind in "hc":
        group = [s for s in circled if s.kind == kind and not s.name]
        for number, state in enumerate(group, 1):
            state.name = kind + (names.above(number) if len(group) > 1 else "")
