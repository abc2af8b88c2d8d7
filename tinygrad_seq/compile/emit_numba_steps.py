"""The loops over elements of one step: which values are computed in which loop, and which of them lie in arrays in between.

A step is a row of stages, with products in between: a product needs its argument as a whole. A stage is one function, for each row b one
phase after the other: a phase begins where the sum of a row, or another part of it, is needed. A phase is a loop over k for each width that
occurs. A value that is used in the loop that computes it is a number there and nothing else.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .emit_numba_maps import Simpler
from .emit_numba_places import Array, Node, Place, Sizes, Sum
from .emit_numba_stages import Stage
from .expressions import Op


class Steps:
    """Everything that happens in one step. Given are places of values that are there, sums of products and what is to be put where."""

    def __init__(self, prefix: str, see: Simpler, sizes: Sizes, dtype: Any):
        self.prefix, self.see, self.sizes, self.dtype = prefix, see, sizes, np.dtype(dtype)
        self.sources: dict[Op, list[Place]] = {}  # what is there: the sum of these
        self.sums: list[Sum] = []
        self.ordered: list[Sum] = []  # as they depend on each other
        self.of_sum: dict[Op, tuple[Sum, list[Place]]] = {}
        self.sinks: list[tuple[Op, Place]] = []
        self.places: dict[Op, Place] = {}  # where a value is found after it is computed
        self.nodes: list[Node] = []
        self.known: dict[Op, tuple[int, int]] = {}  # stage and phase of what is computed
        self.scratch: list[Array] = []
        self.joined: set[tuple[Op, Place]] = set()
        self.functions: list[tuple[str, list[Array], list[str]]] = []  # name, arguments, what is done to row b

    # ---- What there is ---------------------------------------------------------------------------------------------------------------

    def source(self, op: Op, *places: Place) -> None:
        """The value is there: the sum of what stands at these places."""
        simple = self.see(op)
        if simple.kind != "number" and simple not in self.sources:
            self.sources[simple] = list(places)
            if len(places) == 1:
                self.places[simple] = places[0]

    def sum(self, total: Sum, blocks: dict[Op, list[Place]]) -> None:
        """These ops are the sum's blocks: the product's columns plus what stands at the other places."""
        self.sums.append(total)
        for op, places in blocks.items():
            op = self.see(op)
            self.of_sum[op] = (total, places)
            if len(places) == 1:
                self.places[op] = places[0]

    def sink(self, op: Op, place: Place, readable: bool = True) -> None:
        """Put the value there."""
        self.sinks.append((op, place))
        simple = self.see(op)
        if readable and self.see.width(simple) == op.shape[-1]:
            self.places.setdefault(simple, place)

    def array_of(self, op: Op) -> Array:
        """The value as a whole array, for a product: scratch if it lies nowhere."""
        place = self.places.get(self.see(op))
        if place is not None and place.first == 0 and place.array.width == op.shape[-1] and place.array.ndim == 2:
            if place.array.scratch:
                place.array.single = False
            if not place.array.single:
                return place.array
        array = self._new(op.shape[-1], op.dtype)
        array.single = False
        self.sinks.append((op, Place(array)))
        self.places.setdefault(self.see(op), Place(array))
        return array

    def lies(self, op: Op) -> bool:
        """Whether it stands somewhere as it is, without a stage that computes it."""
        places = self.sources.get(op) or (self.of_sum[op][1] if op in self.of_sum else [])
        return len(places) == 1

    def is_part(self, op: Op) -> bool:
        """Whether it is read where the value is that it is a part of."""
        return op.kind == "part" and op not in self.sources and op not in self.of_sum

    def _new(self, width: int, dtype: Any) -> Array:
        name = f"scratch{len(self.scratch) + 1}"
        array = Array(name, name, 2, width, dtype, single=True)
        array.scratch = True
        self.scratch.append(array)
        return array

    # ---- When it is computed -----------------------------------------------------------------------------------------------------------

    def arrange(self) -> None:
        """Find stage and phase of everything that sinks and products need."""
        for total in self.sums:
            for v, _ in total.terms:
                known = {place.array for place in self.places.values()}
                array = self.array_of(v)
                total.arguments.append(array)
                total.waits.append(array not in known or not self.lies(self.see(v)))
            if total.base is not None:
                self.sink(total.base, Place(total.array, total.first), readable=False)
        done: set[int] = set()
        while len(done) < len(self.sinks):  # scratch comes in meanwhile
            for i, (op, place) in enumerate(list(self.sinks)):
                if i not in done:
                    done.add(i)
                    simple = self.see(op)
                    stage, phase = self._ready(simple)
                    if (simple, place) not in self.joined:
                        width = min(op.shape[-1] if op.ndim else 1, place.array.width)
                        self.nodes.append(Node(simple, stage, phase + (simple.kind == "join"), width, place))
            for op in self.of_sum:
                self._ready(op)
        self._cross()
        for stage in sorted({node.stage for node in self.nodes}):
            self.functions.append((f"{self.prefix}_{stage + 1}", *Stage(self, stage).written()))

    def _ready(self, op: Op) -> tuple[int, int]:
        """The stage and the phase from which on an element can be had, computed or read."""
        stack = [op]
        while stack:
            a = stack[-1]
            missing = [b for b in self._needs(a) if b not in self.known]
            if a in self.known or not missing:
                stack.pop()
                if a not in self.known:
                    self._place_in_time(a)
            else:
                stack += missing[::-1]
        return self.known[op]

    def _needs(self, op: Op) -> list[Op]:
        if op in self.sources or op.kind in ("input", "number"):
            if op.kind == "input" and op not in self.sources:
                raise AssertionError(f"{op} has no place")
            return []
        if op in self.of_sum:
            total = self.of_sum[op][0]
            return [self.see(v) for v, _ in total.terms] + ([self.see(total.base)] if total.base is not None else [])
        return [self.see(a) for a in op.args]

    def _place_in_time(self, op: Op) -> None:
        if op in self.sources or op.kind == "number":
            self.known[op] = (0, 0)
            if op in self.sources and len(self.sources[op]) > 1:
                self.nodes.append(Node(op, 0, 0, self.see.width(op)))
            return
        if op in self.of_sum:
            total, places = self.of_sum[op]
            stages = [self.known[self.see(v)][0] + waits for (v, _), waits in zip(total.terms, total.waits, strict=True)]
            if total.base is not None:
                stages.append(self.known[self.see(total.base)][0] + 1)
            if total.stage < 0:
                total.stage = max(stages, default=0)
                self.ordered.append(total)
            self.known[op] = (total.stage, 0)
            if len(places) > 1:
                self.nodes.append(Node(op, total.stage, 0, self.see.width(op)))
            return
        ready = [self._from(self.see(a), op.kind in ("part", "row")) for a in op.args if a.kind != "number"]
        stage = max((s for s, _ in ready), default=0)
        self.known[op] = (stage, max((p for s, p in ready if s == stage), default=0))
        if op.kind == "join":
            self._join(op)
        elif op.kind == "part":
            self._whole(self.see(op.args[0]))
        elif op.kind == "row":
            self._whole(self.see(op.args[0]))
            self.nodes.append(Node(op, *self.known[op], 1))
        else:
            self.nodes.append(Node(op, *self.known[op], self.see.width(op)))

    def _from(self, a: Op, whole: bool) -> tuple[int, int]:
        """From when on an argument can be read; whole: at other places than its own, or all of it."""
        stage, phase = self.known[a]
        computed = not (self.lies(a) or a.kind == "number" or self.is_part(a))
        return (stage, phase + 1) if computed and (whole or a.kind == "join") else (stage, phase)

    def _whole(self, op: Op) -> Place:
        """Where all of a value stands; it is put into scratch if it stands nowhere."""
        if self.is_part(op):
            v, first = self._whole(self.see(op.args[0]))
            return Place(v, first + op.params[0])
        if op not in self.places:
            self.places[op] = Place(self._new(self.see.width(op), op.dtype))
            if op.kind != "join":
                self.sinks.append((op, self.places[op]))
        return self.places[op]

    def _join(self, op: Op) -> None:
        """The pieces of a join are put side by side, wherever it is to stand."""
        self._whole(op)
        places = list(dict.fromkeys([self.places[op], *(place for o, place in self.sinks if self.see(o) is op)]))
        stage = self.known[op][0]
        for place in places:
            first = place.first
            self.joined.add((op, place))
            for a in op.args:
                piece = self.see(a)
                s, p = self.known[piece]
                p += piece.kind == "join"
                self.nodes.append(Node(piece, s, p, a.shape[-1], Place(place.array, first)))
                if s != stage:
                    place.array.single = False
                first += a.shape[-1]

    def _cross(self) -> None:
        """Values that another loop reads than the one that computes them are put into scratch."""
        at = {node.op: node for node in self.nodes if node.place is None}
        for node in list(self.nodes):
            for a in [node.op] if node.place is not None else self._read(node.op):
                maker = at.get(a)
                while self.is_part(a):
                    a = self.see(a.args[0])
                origin = self.known[a]
                if maker is None:
                    place = self.places.get(a)
                    if place is not None and place.array.scratch and origin[0] != node.stage:
                        place.array.single = False
                    continue
                here, there = (node.stage, node.phase, node.width), (maker.stage, maker.phase, maker.width)
                if here == there or (maker.width == 1 and maker.stage == node.stage):
                    continue
                if a not in self.places:
                    self.places[a] = Place(self._new(maker.width, a.dtype))
                    self.nodes.append(Node(a, *there, self.places[a]))
                elif not any(n.place == self.places[a] and n.op is a for n in self.nodes):
                    raise AssertionError(f"{a} is not where it should be")
                if maker.stage != node.stage and self.places[a].array.scratch:
                    self.places[a].array.single = False

    def _read(self, op: Op) -> list[Op]:
        """What a node reads, element by element or whole."""
        if op in self.sources or op in self.of_sum:
            return []
        return [self.see(a) for a in op.args]

    # ---- How it is written ---------------------------------------------------------------------------------------------------------------

    def text(self) -> str:
        """The functions, written out."""
        texts = []
        for name, arrays, body in self.functions:
            head = f"@pointwise\ndef {name}(sizes, {', '.join(a.name for a in arrays)}):"
            lines = [head, f"    {self.sizes.unpacked}", "    for b in range(B):", *("        " + line for line in body)]
            texts.append("\n".join(lines))
        return "\n\n\n".join(texts)

    def calls(self, stage: int) -> list[str]:
        """The call of a stage."""
        return [
            f"{name}(sizes, {', '.join(a.at for a in arrays)})"
            for name, arrays, _ in self.functions
            if name == f"{self.prefix}_{stage + 1}"
        ]
