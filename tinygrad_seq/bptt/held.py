"""Memory on the axis of time: the bytes that a graph holds for its backward pass, step by step.

BPTT needs what every step computed, so the bytes grow with T ("more efficient in time, though not in memory"). A graph holds the arrays that
its derivative rules will read: outputs, arguments, what kernels saved. Each piece of memory is counted once, at the step that made it;
weights and data, which would be there without the graph, are counted apart. `plan` says what recomputation would make of it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..backend import is_array
from ..frames import Frame
from ..graph import Node, Value, node_of, raw, require_recorded, toposort
from ..guards import owner
from ..scan import time_loop
from .clock import Clock
from .recurrence import amount
from .uses import place_of


@dataclass(frozen=True, repr=False)
class Held:
    """What a graph holds, in bytes.

    steps (T,): at each step, the steps counted as the loops run; places: the same by module and loop, each (T,). outside: what stands
    outside of the steps, such as a read-out of all of them at once. given: weights and data. total: steps and outside.
    """

    places: dict[str, Any]
    outside: int
    given: int

    @property
    def steps(self) -> Any:
        """The bytes of each step (T,)."""
        T = max(map(len, self.places.values()), default=0)
        return sum((np.pad(b, (0, T - len(b))) for b in self.places.values()), np.zeros(T))

    @property
    def total(self) -> int:
        """All that would be free without the graph."""
        return round(float(self.steps.sum())) + self.outside

    def table(self, most: int = 12) -> str:
        """The bytes of every step, of the first and last ones where there are more than `most`, as text."""
        steps = self.steps
        T, width = len(steps), 40
        shown = list(range(T)) if most >= T else [*range(most // 2), -1, *range(T - most // 2 + 1, T)]
        lines = [f"held for the backward pass: {amount(self.total)} (weights and data apart: {amount(self.given)})"]
        for t in shown:
            if t < 0:
                rest = steps[most // 2 : T - most // 2 + 1]
                lines.append(f"{'...':>9}  {amount(rest.sum()):>8}  in {len(rest)} steps")
            else:
                bar = "█" * round(width * steps[t] / max(steps.max(), 1))
                lines.append(f"{f't = {t + 1}':>9}  {amount(steps[t]):>8}  {bar}".rstrip())
        if len(self.places) > 1:
            lines += [f"{amount(b.sum()):>19}  {place or 'without a module'}" for place, b in self.places.items()]
        lines.append(f"{'outside':>9}  {amount(self.outside):>8}")
        return "\n".join(lines)

    __repr__ = table


def held(outputs: Value | Sequence[Value]) -> Held:
    """The bytes that the graph of the outputs holds, by time step.

        print(held(loss))

    The graph is read as it is: a compiled time loop holds stacks over time, which are shared out among its steps; one recorded inside
    `tg.unfolded()` holds the arrays of every op. What a Python object takes beside its array, about a kilobyte for an op, is not counted.

    Raises GraphError where nothing was recorded, ArgumentError where an output is no Tensor.
    """
    values: list[Any] = list(outputs) if isinstance(outputs, (list, tuple)) else [outputs]
    for value in values:
        require_recorded(value, "held")
    tape = toposort(values)
    clock = Clock(tape)
    books = _Books(clock)
    for node in tape:
        books.enter(node)
    return books.balanced()


class _Books:
    """Whose memory is whose."""

    def __init__(self, clock: Clock):
        self.clock = clock
        self.made: dict[
            int, tuple[Any, Node | None]
        ] = {}  # id of the owner of memory -> it, and the node that made it (None: given)
        self.read: dict[
            int, tuple[Any, set[int | None], Node]
        ] = {}  # constants: the steps that read them, the first node that does
        self.stacks: dict[int, Node] = {}  # what a compiled loop keeps of all its steps
        self.labels: dict[Frame | None, str] = {}

    def enter(self, node: Node) -> None:
        """Note all memory that the node holds."""
        for array in _arrays((node.out, getattr(node, "saved", None) if node.prim is not None and node.prim.saves else None)):
            memory = owner(array)
            self.made.setdefault(id(memory), (memory, None if node.prim is None else node))
            if time_loop(node):
                self.stacks.setdefault(id(memory), node)
        for arg, x in zip(node.args, node.raw, strict=True):
            source = node_of(arg)
            for array in _arrays(x):
                memory = owner(array)
                if id(memory) in self.made:
                    continue
                if source is not None:
                    self.made[id(memory)] = memory, None if source.prim is None else source
                else:
                    self._constant(memory, node)
        for array in _arrays(node.params):
            if id(owner(array)) not in self.made:
                self._constant(owner(array), node)

    def _constant(self, memory: Any, node: Node) -> None:
        _, times, _ = self.read.setdefault(id(memory), (memory, set(), node))
        times.add(self.clock.at.get(node))

    def balanced(self) -> Held:
        """The bytes by place and step. A constant that one step alone reads, such as a mask, is of that step."""
        places: dict[str, Any] = defaultdict(lambda: np.zeros(self.clock.steps))
        given = outside = 0
        for key, (memory, times, node) in self.read.items():
            if key not in self.made:
                self.made[key] = memory, node if len(times) == 1 and None not in times else None
        for key, (memory, maker) in self.made.items():
            if maker is None:
                given += memory.nbytes
            elif key in self.stacks:
                node = self.stacks[key]
                T = node.shape[0][0]
                place = " > ".join(part for part in (self._place(node), node.params.get("name")) if part)
                if memory.shape and memory.shape[0] in (T, T + 1):
                    row = memory.nbytes // len(memory)
                    outside += row * (len(memory) - T)  # the state before the first step
                    before = places[place]
                    before = before if len(before) >= T else np.pad(before, (0, T - len(before)))
                    before[:T] += row
                    places[place] = before
                else:
                    outside += memory.nbytes
            elif maker in self.clock.at:
                places[self._place(maker)][self.clock.at[maker] - 1] += memory.nbytes
            else:
                outside += memory.nbytes
        return Held(dict(places), int(outside), int(given))

    def _place(self, node: Node) -> str:
        if node.frame not in self.labels:
            self.labels[node.frame] = place_of(node)
        return self.labels[node.frame]


def _arrays(nested: Any) -> Iterator[Any]:
    """The arrays in tuples, lists and dicts, those behind values among them."""
    stack = [nested]
    while stack:
        x = raw(stack.pop())
        if is_array(x):
            yield x
        elif isinstance(x, (tuple, list)):
            stack.extend(x)
        elif isinstance(x, dict):
            stack.extend(x.values())
