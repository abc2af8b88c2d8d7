"""Pass 5, schedule: the lines of a loop, and where each of their results lives.

Values are computed in the order in which they are needed. A value goes straight to where it is kept, if it is kept, or into a register that is
free by then: its own argument's, if that is read for the last time, so most lines work in place.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence

from .expressions import Op
from .group import Group
from .storage import Buffer, Instruction, Place, stored


class Body:
    """The lines of one step, being written."""

    def __init__(self, prefix: str, owner: dict[Op, Group]):
        self.prefix, self.owner = prefix, owner  # owner: the group that computes an op
        self.place: dict[Op, Place] = {}
        self.given: set[Op] = set()  # what was there before
        self.reserved: set[Op] = set()  # joins that have room
        self.together: dict[Op, list[Op]] = {}  # ops that are written one after the other, so that one call does them all
        self.wanted: dict[Op, Place] = {}  # where a value should be computed, if that memory is free
        self.lines: list[Instruction] = []
        self.buffers: list[Buffer] = []  # all that are made for these lines
        self.registers: set[Buffer] = set()
        self.free: dict[object, list[Buffer]] = {}
        self.left: dict[tuple[Buffer, int], int] = {}  # how often what lies in a buffer, from a row on, will still be read
        self.total: dict[Buffer, int] = {}  # the same for all rows
        self.readers: dict[Op, int] = {}
        self.operand: dict[Group, tuple[Place, list[tuple[Op, Place]]]] = {}  # [v; 1], and where in it each v stands
        self.also: dict[Op, list[Place]] = {}  # where else a value stands from the beginning of a step
        self.kept: dict[Group, Place] = {}  # where the activations of a group are kept

    # ---- What is computed, and who reads it ----------------------------------------------------------------------------------------

    def order(self, outputs: Iterable[Op]) -> list[Op]:
        """What must be computed for the outputs, arguments first; of a group only the first block that is asked for."""
        done: dict[Op, None] = {}
        groups: set[Group] = set()
        stack = list(outputs)[::-1]
        while stack:
            op = stack[-1]
            if op in done or op in self.place or op.kind in ("input", "number"):
                stack.pop()
                continue
            group = self.owner.get(op)
            if group is not None and group in groups:
                done[op] = None
                stack.pop()
                continue
            missing = [a for a in self.arguments(op) if a not in done and a not in self.place and a.kind not in ("input", "number")]
            if missing:
                stack.extend(missing[::-1])
                continue
            if group is not None:
                groups.add(group)
            done[op] = None
            stack.pop()
        return list(done)

    def arguments(self, op: Op) -> Sequence[Op]:
        """What must be there before an op is computed."""
        return self.owner[op].inputs if op in self.owner else op.args

    def compute(self, outputs: Sequence[Op]) -> None:
        """Write the lines that compute the outputs, all of which are read once more behind them."""
        self.given = set(self.place)
        order = self.order(outputs)
        groups: set[Group] = set()
        for op in order:
            group = self.owner.get(op)
            if group is None or group not in groups:
                if group is not None:
                    groups.add(group)
                for a in () if op.kind == "part" and group is None else self.arguments(op):
                    self._count(a)
        for op in outputs:
            self._count(op)
        for op, place in self.place.items():
            self._read_later(place, self.readers.get(op, 0))
        for op in order:
            for each in self.together.get(op, (op,)):
                if each not in self.place:
                    self._write(each)

    def _count(self, op: Op) -> None:
        op = self._root(op)
        if op.kind != "number":
            self.readers[op] = self.readers.get(op, 0) + 1

    def _root(self, op: Op) -> Op:
        """What an op is a part of."""
        while op.kind == "part" and op not in self.owner and op not in self.given and op.ndim == 2:
            op = op.args[0]
        return op

    # ---- Memory ---------------------------------------------------------------------------------------------------------------------

    def new(self, name: str, shape: tuple[int, ...], dtype: object, time: str = "") -> Buffer:
        """A buffer."""
        buffer = Buffer(name, shape, dtype, time)
        self.buffers.append(buffer)
        return buffer

    def register(self, shape: tuple[int, ...], dtype: object) -> Place:
        """A buffer whose value is no longer needed, or a new one. The shape as it lies in memory."""
        waiting = self.free.get((shape, dtype))
        if waiting:
            return Place(waiting.pop())
        buffer = self.new(f"{self.prefix}{len(self.registers) + 1}", shape, dtype)
        self.registers.add(buffer)
        return Place(buffer)

    def target(self, op: Op) -> Place:
        """Where to compute a value: where it is wanted, unless what lies there is still read; else a register."""
        wanted = self.wanted.get(op)
        if wanted is not None and (wanted.when or not self.left.get((wanted.buffer, wanted.lo or 0))):
            return wanted
        return self.register(stored(op.shape), op.dtype)

    def settle(self, op: Op, place: Place) -> Place:
        """The value lies there from now on."""
        self.place[op] = place
        self._read_later(place, self.readers.get(op, 0))
        return place

    def _read_later(self, place: Place, times: int) -> None:
        key = (place.buffer, place.lo or 0)
        self.left[key] = self.left.get(key, 0) + times
        self.total[place.buffer] = self.total.get(place.buffer, 0) + times

    def used(self, op: Op) -> None:
        """A value was read once."""
        op = self._root(op)
        if op.kind == "number":
            return
        buffer, lo, *_ = self.place[op]
        self.left[buffer, lo or 0] -= 1
        self.total[buffer] -= 1
        self._release(buffer)

    def _release(self, buffer: Buffer) -> None:
        if not self.total[buffer] and buffer in self.registers:
            self.free.setdefault((buffer.shape, buffer.dtype), []).append(buffer)

    # ---- Lines ------------------------------------------------------------------------------------------------------------------------

    def line(self, do: str, name: str, out: object, args: Iterable[object], op: Op | None = None) -> None:
        """Write a line."""
        self.lines.append(Instruction(do, name, out, tuple(args), op))

    def copy(self, op: Op, place: Place) -> None:
        """The value must stand there, too."""
        if self.place[op] != place and place not in self.also.get(op, ()):
            self.line("copy", "", place, [self.place[op]], op)

    def _write(self, op: Op) -> None:
        if op in self.owner:
            self._multiply(self.owner[op])
        elif op.kind == "part" and op.ndim == 2:
            self.place[op] = self.place[op.args[0]].rows(*op.params)
        elif op.kind == "join" and op.ndim == 2:
            self._join(op)
        elif op.kind == "map":
            self._map(op)
        elif op.kind == "product":
            out = self.target(op)
            self.line("product", "", out, [self.place[op.args[0]]], op)
            self.used(op.args[0])
            self.settle(op, out)
        else:
            self._call(op)

    def _at(self, op: Op) -> object:
        return op.params[0] if op.kind == "number" else self.place[op]

    def _map(self, op: Op) -> None:
        args = [self._at(a) for a in op.args]
        out = self.target(op) if op.name == "where" else None
        for a in op.args:
            self.used(a)
        out = self.settle(op, out or self.target(op))
        self.line("map", op.name, out, args, op)

    def _call(self, op: Op) -> None:
        several = op.kind == "call" and bool(op.shape) and isinstance(op.shape[0], tuple)
        out = Place(Buffer(f"several{op.number}", (), None, "local")) if several else self.target(op)
        self.line("call", op.name, out, [self._at(a) for a in op.args], op)
        for a in () if several else op.args:  # several results may be views of an argument: its memory is not given to another
            self.used(a)
        self.settle(op, out)

    def reserve(self, join: Op, others: Container[Op] = (), behind: Sequence[Op] = (), time: str = "") -> None:
        """Make room for a join, so that each piece is computed in its place, but for those that `others` holds; and for what stands
        behind it. `time` is that of the buffer.
        """
        if join in self.reserved:
            return
        self.reserved.add(join)
        height, *others_axes = stored(join.shape)
        if join not in self.wanted:
            room = height + sum(b.shape[-1] for b in behind)
            buffer = self.new(f"joined{len(self.reserved)}", (room, *others_axes), join.dtype, time)
            whole = Place(buffer, when="t" if time else "")
            self.wanted[join] = whole.rows(0, height) if behind else whole
        at = 0
        for a in (*join.args, *behind):
            if a.kind in ("map", "product") and a not in self.owner and a not in others:
                self.wanted.setdefault(a, self.wanted[join].rows(at, at + a.shape[-1]))
            at += a.shape[-1]

    def _join(self, op: Op) -> None:
        self.reserve(op)
        whole, at = self.wanted[op], 0
        for a in op.args:
            self.copy(a, whole.rows(at, at + a.shape[-1]))
            at += a.shape[-1]
            self.used(a)
        self.settle(op, whole)

    def _multiply(self, group: Group) -> None:
        """The product of a group, and its activations."""
        operand, standing = self.operand[group]
        for v, place in standing:
            self.copy(v, place)
        z = self.register((group.height, group.blocks[0].op.shape[0]), group.dtype)
        self.line("product", "", z, [operand, group])
        for v in group.inputs:
            self.used(v)
        kept = self.kept.get(group, z)
        if group.activated:
            self.line("map", "tanh", kept.rows(0, group.activated), [z.rows(0, group.activated)])
            if group.sigmoids:
                self.line("half", "", kept.rows(0, group.sigmoids), [])
        self.total.setdefault(z.buffer, 0)
        for block in group.blocks:
            lo, hi = group.rows[block.op]
            if block.activation is not None:
                self.settle(block.activation, kept.rows(lo, hi))
            else:
                self.settle(block.op, z.rows(lo, hi))
        self._release(z.buffer)
