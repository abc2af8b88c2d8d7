"""Pass 6, plan: the lines of both loops, with a place for every value: in a stack over time, in the operand of a product, in a register."""

from __future__ import annotations

import math
from collections.abc import Container
from typing import NamedTuple

from .adjoint import Step
from .defer import Deferred, Kept
from .expressions import Op, used
from .group import Group, groups_of
from .schedule import Body
from .storage import Buffer, Place, stored

STACKED = 4096  # entries of the operand of a product up to which there is one for each step, and nothing is copied into it


class Forward:
    """The forward loop."""

    def __init__(self, step: Step, groups: list[Group], saved: list[Op], kept_states: list[int], exact: Container[Op]):
        self.step, self.groups = step, groups
        owner = {op: g for g in groups for b in g.blocks for op in (b.op, b.activation) if op is not None}
        self.body = body = Body("r", owner)
        self.stacks: dict[Op, Place] = {}  # of what is saved
        self.homes: list[list[Place]] = [[] for _ in step.states]  # where a state stands for the next step
        self.x_homes: list[Place] = []  # where x is put before the step
        self.operands: list[tuple[Buffer, list[Op | None]]] = []  # [x; 1; h; ...], None: the ones
        self.spans: dict[Group, tuple[int, int]] = {}  # rows of its operand
        for group in sorted(groups, key=lambda g: -len(g.inputs)):
            self._give_operand(group)
        for k, s in enumerate(step.states):
            self.homes[k].sort(key=lambda home: not home.when)
            if k in kept_states and not (self.homes[k] and self.homes[k][0].when):
                self.homes[k].insert(0, Place(body.new(f"s{k}", stored(s.shape), s.dtype, "t+1"), when="t+1"))
            if not self.homes[k]:
                self.homes[k].append(Place(body.new(f"s{k}", stored(s.shape), s.dtype)))
            first = self.homes[k][0]
            body.place[s] = first._replace(when="t") if first.when else first
            body.also[s] = [home._replace(when="t") if home.when else home for home in self.homes[k][1:]]
        x = step.x
        body.also[x] = self.x_homes[1:]
        body.place[x] = self.x_homes[0] if self.x_homes else Place(Buffer("xs", stored(x.shape), x.dtype, "xs"), when="t")
        for k, s in enumerate(step.statics):
            body.place[s] = Place(Buffer(f"weight{k}", stored(s.shape), s.dtype, "static"))
        body.place.update(constants(step))
        news = step.outputs[: len(step.states)]
        self._make_stacks(saved, owner, {new: k for k, new in enumerate(news) if new not in exact})
        for home, new in zip(self.homes, news, strict=True):
            if new.kind in ("map", "product", "call"):  # a join has memory of its own
                body.wanted.setdefault(new, home[0])
        for op in used(step.outputs):
            if op.kind == "join" and op.ndim == 2:
                body.reserve(op)
        body.compute([*step.outputs, *saved])
        for op in saved:
            if op in self.stacks:
                body.copy(op, self.stacks[op])
            else:
                self.stacks[op] = body.place[op]
        self.results = [body.place[new] for new in step.outputs]  # read before the state is put in place
        self.ready = len(body.lines)
        self._go_on(news)

    def _give_operand(self, group: Group) -> None:
        """The [x; 1; h; ...] of a group: part of one that is there, if its inputs stand side by side in it, or one of its own."""
        found = next((o for o in self.operands if _run(o[1], group)), None)
        if found is None:
            xs = [v for v in group.inputs if v is self.step.x]
            content = [*xs, *([None] if group.has_bias else []), *(v for v in group.inputs if v is not self.step.x)]
            height = sum(1 if v is None else v.shape[-1] for v in content)
            shape = height, group.inputs[0].shape[0]
            given = any(v is not None and v.kind == "input" for v in content)
            time = "t+1" if given and math.prod(shape) <= STACKED else ""
            found = (self.body.new(f"seen{len(self.operands) + 1}", shape, group.dtype, time), content)
            self.operands.append(found)
            self._stand(*found)
        buffer, content = found
        first, last = _run(content, group) or (0, 0)
        tops = [sum(1 if v is None else v.shape[-1] for v in content[:i]) for i in range(len(content) + 1)]
        self.spans[group] = tops[first], tops[last]
        group.columns = {
            v: (tops[i] - tops[first], tops[i + 1] - tops[first])
            for i, v in enumerate(content)
            if v is not None and first <= i < last
        }
        when = "t" if buffer.time else ""
        spans = [(v, tops[i], tops[i + 1]) for i, v in enumerate(content) if v is not None and first <= i < last]
        standing = [(v, Place(buffer, lo, hi, when)) for v, lo, hi in spans]
        self.body.operand[group] = (Place(buffer, *self.spans[group], when), standing)

    def _stand(self, buffer: Buffer, content: list[Op | None]) -> None:
        """Note what is put into an operand: x and the states before the step, all else when it is computed."""
        top = 0
        for v in content:
            height = 1 if v is None else v.shape[-1]
            place = Place(buffer, top, top + height, "t" if buffer.time else "")
            if v is not None and v.kind == "input" and v.params[0] == "state":
                self.homes[v.params[1]].append(place._replace(when=buffer.time))
            elif v is not None and v.kind == "input":
                self.x_homes.append(place)
            elif v is not None:
                self.body.wanted.setdefault(v, place)
            top += height

    def _make_stacks(self, saved: list[Op], owner: dict[Op, Group], news: dict[Op, int]) -> None:
        """A stack over time for everything that is saved; the activations of a group have one together. A single one that is the new state
        goes straight to where the next step reads it, if that is a stack.
        """
        body = self.body
        for number, group in enumerate(self.groups, 1):
            k = news.get(group.blocks[0].activation) if len(group.blocks) == 1 and group.blocks[0].activation else None
            if k is not None and self.homes[k][0].when:
                body.kept[group] = self.homes[k][0]
            elif any(b.activation in saved for b in group.blocks):
                shape = (group.activated, group.blocks[0].op.shape[0])
                body.kept[group] = Place(body.new(f"gates{number}", shape, group.dtype, "t"), 0, group.activated, "t")
        for op in saved:
            if op in owner and owner[op] in body.kept and op in {b.activation for b in owner[op].blocks}:
                continue
            self.stacks[op] = Place(body.new(f"v{op.number}", stored(op.shape), op.dtype, "t"), when="t")
            if op not in owner and op.kind not in ("part", "join"):
                body.wanted[op] = self.stacks[op]

    def _go_on(self, news: list[Op]) -> None:
        """Put the new state where the next step looks for it."""
        go_on(self.body, [(new, home) for new, homes in zip(news, self.homes, strict=True) for home in homes])


def go_on(body: Body, moves: list[tuple[Op, Place]]) -> None:
    """Copy values to where the next step looks for them; what one copy would overwrite before another reads it is put aside first."""
    moves = [(new, home) for new, home in moves if not _same(body.place[new], home)]
    aside: dict[Op, Place] = {}
    for new, _ in moves:
        if new not in aside and any(_overlap(body.place[new], home) for _, home in moves):
            aside[new] = body.register(stored(new.shape), new.dtype)
            body.line("copy", "", aside[new], [body.place[new]], new)
    for new, home in moves:
        body.line("copy", "", home, [aside.get(new, body.place[new])], new)


def _span(place: Place) -> tuple[int, float]:
    return (place.lo or 0, float("inf") if place.hi is None else place.hi)


def _same(a: Place, b: Place) -> bool:
    whole = (0, a.buffer.shape[0]) if a.buffer.shape else (0, 0)
    spans = [whole if p.lo is None else (p.lo, p.hi) for p in (a, b)]
    return a.buffer is b.buffer and a.when == b.when and spans[0] == spans[1]


def _overlap(a: Place, b: Place) -> bool:
    """Whether two places share memory."""
    (lo, hi), (low, high) = _span(a), _span(b)
    return a.buffer is b.buffer and a.when == b.when and lo < high and low < hi


def _run(content: list[Op | None], group: Group) -> tuple[int, int] | None:
    """Where in the content of an operand the inputs of a group, and the ones if it has a bias, stand side by side."""
    need = {*group.inputs, *([None] if group.has_bias else [])}
    for i in range(len(content) - len(need) + 1):
        if set(content[i : i + len(need)]) == need:
            return i, i + len(need)
    return None


class Backward:
    """The backward loop."""

    def __init__(self, step: Step, forward: Forward, deferred: Deferred, kept: Kept):
        self.step, self.deferred, self.kept = step, deferred, kept
        places: dict[Op, Place] = {}  # what the forward loop left
        places.update({s: forward.body.place[s] for s in step.statics})
        places.update(constants(step))
        for k in kept.states:
            place = forward.homes[k][0]
            places[step.states[k]], places[step.outputs[k]] = place._replace(when="t"), place
        places[step.x] = Place(Buffer("xs", stored(step.x.shape), step.x.dtype, "xs"), when="t")
        places.update(forward.stacks)
        self.ahead = ahead = Body("f", {})
        ahead.place.update(places)
        runs = self._side_by_side(ahead, deferred, kept)
        ahead.compute([op for op in kept.factors if op.kind == "map"])
        for buffer in ahead.buffers:
            buffer.time = "ahead"
        self.body = body = Body("q", {})
        body.place.update(places)
        body.place.update({op: ahead.place[op]._replace(when="t") for op in kept.factors})
        self.homes = [Place(body.new(f"d{k}", stored(s.shape), s.dtype)) for k, s in enumerate(step.states)]
        for k, c in enumerate(step.cotangents):
            if c is not None and k < len(self.homes):
                body.place[c] = self.homes[k]
            elif c is not None:
                body.place[c] = Place(Buffer(f"g{k}", stored(c.shape), c.dtype, "g"), when="t")
        for g, home in zip(step.g_states, self.homes, strict=True):
            if g is not None and g.kind in ("map", "product", "call"):
                body.wanted.setdefault(g, home)
        linear = [op for op in used(deferred.targets) if op.linear]
        body.together = {op: run for _, run, _ in runs for op in run}
        for op in linear:
            if op.kind == "join" and op.ndim == 2 and op not in deferred.alone:
                time = "chunk" if op in deferred.gathered else ""
                body.reserve(op, behind=[b for join, _, behind in runs if join is op for b in behind], time=time)
        for i, op in enumerate(deferred.gathered):
            if op.kind != "input" and op not in body.wanted:  # computed where it is gathered
                body.wanted[op] = Place(body.new(f"deltas{i}", stored(op.shape), op.dtype, "chunk"), when="t")
            if op.kind == "join" and op in deferred.alone:  # but for what others read, too
                body.reserve(op, {a for other in linear if other is not op for a in other.args} | set(deferred.gathered))
        body.compute(deferred.targets)
        self.gathered: dict[Op, Place] = {}  # where the rows of a chunk stand that are multiplied at once
        for i, op in enumerate(deferred.gathered):
            self.gathered[op] = body.place[op]
            if body.place[op].buffer.time != "chunk":
                self.gathered[op] = Place(body.new(f"deltas{i}", stored(op.shape), op.dtype, "chunk"), when="t")
                body.copy(op, self.gathered[op])
        self.ready = len(body.lines)
        self.results = {op: body.place[op] for op in deferred.targets}
        go_on(body, [(g, home) for g, home in zip(step.g_states, self.homes, strict=True) if g is not None])
        for g, home in zip(step.g_states, self.homes, strict=True):
            if g is None:
                body.line("zero", "", home, [])

    def _side_by_side(self, ahead: Body, deferred: Deferred, kept: Kept) -> list[tuple[Op, list[Op], list[Op]]]:
        """Let factors of one cotangent stand side by side where their products do: one call then multiplies them all.

        Returns for each such run the join that it stands in, its products, and those of them that stand behind the join.
        """
        linear = [op for op in used(deferred.targets) if op.linear]
        joins = [op for op in linear if op.kind == "join" and op.ndim == 2 and op not in deferred.alone]
        pieces = {a for op in linear if op.kind == "join" for a in op.args}
        found = []
        for join in joins:
            runs: list[list[Op]] = [[]]
            for a in join.args:
                fits = _scales(a, kept) and a.args[1] not in ahead.wanted and all(a.args[1] is not b.args[1] for b in runs[-1])
                if not fits or (runs[-1] and (runs[-1][0].args[0] is not a.args[0] or runs[-1][0].shape != a.shape)):
                    runs.append([])
                if fits:
                    runs[-1].append(a)
            for run in runs:
                behind = []
                if run and run[-1] is join.args[-1]:
                    like = (b for b in linear if _scales(b, kept) and b.args[0] is run[0].args[0] and b.shape == run[0].shape)
                    behind = [b for b in like if b not in pieces and b not in deferred.targets and b.args[1] not in ahead.wanted]
                    pieces.update(behind)
                run = run + behind
                if len(run) > 1:
                    height, B = stored(run[0].shape)
                    whole = Place(ahead.new(f"factors{len(ahead.buffers) + 1}", (len(run) * height, B), run[0].dtype))
                    ahead.wanted.update({a.args[1]: whole.rows(i * height, (i + 1) * height) for i, a in enumerate(run)})
                    found.append((join, run, behind))
        return found


def _scales(op: Op, kept: Kept) -> bool:
    """Whether the op is a cotangent times a factor that is there for many steps."""
    return (
        op.kind == "map"
        and op.name == "multiply"
        and op.args[1] in kept.factors
        and op.args[1].shape == op.shape == op.args[0].shape
    )


def constants(step: Step) -> dict[Op, Place]:
    """The places of the arrays that never change."""
    make = step.make
    ops = [make.input("constant", k, array) for k, array in enumerate(make.constants)]
    return {op: Place(Buffer(f"constant{k}", stored(op.shape), op.dtype, "static")) for k, op in enumerate(ops)}


class Plan(NamedTuple):
    """Everything that an emitter prints."""

    step: Step
    groups: list[Group]
    deferred: Deferred
    kept: Kept
    forward: Forward
    backward: Backward

    def saved(self) -> list[str]:
        """The arrays that the forward loop leaves to the backward loop."""
        read = {place.buffer for place in self.forward.stacks.values()}
        read |= {self.forward.homes[k][0].buffer for k in self.kept.states}
        return [b.name for b in self.forward.body.buffers if b in read]


def plan(step: Step) -> Plan:
    """The plan of a step and its adjoint."""
    deferred = Deferred(step)
    gradients = [g for g in (step.g_x, *step.g_states, *step.g_statics) if g is not None]
    groups = groups_of(step.outputs, [*step.outputs, *gradients])
    kept = Kept(step, groups, deferred)
    forward = Forward(step, groups, kept.saved, kept.states, kept.fragile)
    return Plan(step, groups, deferred, kept, forward, Backward(step, forward, deferred, kept))
