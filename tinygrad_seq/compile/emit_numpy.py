"""Pass 7, emit, for NumPy: the plan as two plain Python functions. Nearly every line is one call that writes into memory made before it."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from . import runtime
from .expressions import Op
from .group import Group
from .numpy_lines import Writer, masked
from .plan import STACKED, Plan
from .schedule import Body
from .storage import Place

ROWS = 1024  # rows (t x B) of deltas that are multiplied at once
CACHE = 1 << 18  # entries of all factors that are made at once
PAD = 16  # columns more than are gathered: rows that lie a power of two apart share few places in the cache


def _merged(pieces: list[list[Any]]) -> list[list[Any]]:
    """The pieces, those that continue one another as one."""
    merged: list[list[Any]] = []
    for piece in pieces:
        at, _, *same, lo, hi = piece
        before = next((p for p in merged if p[1] == at and p[2:6] == same and p[7] == lo), None)
        late = merged[merged.index(before) + 1 :] if before and before[3] else []  # what is added comes behind what is put there
        if before is None or any(not p[3] and p[2] == same[0] and p[0] <= at < p[1] for p in late):
            merged.append(piece)
        else:
            before[1], before[7] = piece[1], hi
    return merged


class ForwardWriter(Writer):
    """Writes the forward loop."""

    def __init__(self, plan: Plan, environment: dict[str, Any], weights: list[str]):
        super().__init__(environment, weights)
        self.plan = plan
        self.packings: dict[Group, str] = {}

    def packed(self, group: Group) -> str:
        """The weights of a group, stacked, the rows that go into σ halved; a single matrix as it is."""
        if group in self.packings:
            return self.packings[group]
        first = group.blocks[0].affine.terms[0]
        lo, hi = self.plan.forward.spans[group]
        name = self.packings[group] = f"w{len(self.packings) + 1}"
        alone = len(group.blocks) == 1 and len(group.blocks[0].affine.terms) == 1 and not group.has_bias and not group.sigmoids
        if alone:
            self.top.append(f"{name} = {self._rows(first.w, first.transposed, first.lo, first.hi)}")
            return name
        self.top.append(f"{name} = empty(({group.height}, {hi - lo}), {self.dtype(group.dtype)})")
        ones = next(i for i in range(hi - lo) if all(not a <= i < b for a, b in group.columns.values())) if group.has_bias else -1
        pieces: list[
            list[Any]
        ] = []  # rows, columns, whether they add to what is there, and what stands there: a matrix and its rows
        for block in group.blocks:
            at, end = group.rows[block.op]
            filled: set[Any] = set()
            parts: list[Any] = [("{}:{}".format(*group.columns[t.v]), t.w, t.transposed, t.lo, t.hi) for t in block.affine.terms]
            parts += [(str(ones), bias, True, b, e) for bias, b, e in block.affine.biases]
            parts += [(str(ones), None, True, 0, 0)] if group.has_bias and not block.affine.biases else []
            for columns, w, transposed, low, high in parts:
                pieces.append([at, end, columns, columns in filled, w, transposed, low, high])
                filled.add(columns)
        self.top += [self._piece(name, *piece) for piece in _merged(pieces)]
        if group.sigmoids:
            self.top.append(f"{name}[:{group.sigmoids}] *= 0.5")
        return name

    def _piece(
        self, name: str, at: int, end: int, columns: str, adds: bool, w: Op | None, transposed: bool, lo: int, hi: int
    ) -> str:
        """Put rows of a weight, or of a bias, into the stacked weights."""
        value = "0" if w is None else self._rows(w, transposed, lo, hi)
        return f"{name}[{at}:{end}, {columns}] {'+=' if adds else '='} {value}"

    def _rows(self, w: Op, transposed: bool, lo: int, hi: int) -> str:
        name = self.weights[w.params[1]] + ("" if transposed else ".T")
        return name if (lo, hi) == (0, w.shape[0 if transposed else 1]) else f"{name}[{lo}:{hi}]"

    def text(self) -> str:
        """The function."""
        plan = self.plan.forward
        body, step = plan.body, self.plan.step
        n = len(step.states)
        head = ["T = len(xs)", f"{', '.join(self.weights)}, = weights"] if self.weights else ["T = len(xs)"]
        self.allocate(body.buffers)
        for buffer, content in plan.operands:
            at = 0
            for v in content:
                if v is None:
                    self.top.append(f"{buffer.name}[{':, ' if buffer.time else ''}{at}] = 1")
                at += 1 if v is None else v.shape[-1]
        starts = []
        for k, s in enumerate(step.states):
            for home in plan.homes[k]:
                rows = "" if home.lo is None else f"{home.lo}:{home.hi}"
                target = f"{home.buffer.name}[{', '.join(filter(None, ('0' if home.when else '', rows))) or '...'}]"
                starts.append(f"{target} = states[{k}]{'.T' if s.ndim == 2 else ''}")
        text = []
        for home in plan.x_homes:
            if home.when:
                starts.append(f"{home.buffer.name}[:T, {home.lo}:{home.hi}] = {_as_it_lies('xs', step.x.ndim)}")
            else:
                x_t = self.walk(("x", ""), "x_t", _walkable("xs", step.x.ndim))
                text.append(f"copyto({self.name(home)}, {x_t})")
        keeps = [(f"keep{k}_{i}", home) for k in range(n) for i, home in enumerate(plan.homes[k])]
        before = [f"copyto({keep}, {self.name(home)})" for keep, home in keeps if not home.when]
        computed = self.lines(body.lines[: plan.ready])
        first, h, ends = plan.results[0], plan.homes[0][0], []
        if h.when:  # the states of all times stand there, and are put out at once
            rows = "" if h.lo is None else f", {h.lo}:{h.hi}"
            ends.append(f"copyto({_as_it_lies('hs[1:]', step.states[0].ndim)}, {h.buffer.name}[1:{rows}])")
        else:
            h_t = self.walk(("h", ""), "h_t", _walkable("hs[1:]", step.states[0].ndim))
            computed.append(f"copyto({h_t}, {self.name(first)})")
        more = []
        for j, (op, place) in enumerate(zip(step.outputs[n:], plan.results[n:], strict=True)):
            c_t = self.walk(("c", j), f"collected{j}_t", _walkable(f"collected{j}", op.ndim))
            computed.append(f"copyto({c_t}, {self.name(place)})")
            shape = ", ".join(["T", *map(str, op.shape)])
            self.top.append(f"collected{j} = empty(({shape},), {self.dtype(op.dtype)})")
            more.append(f"collected{j}")
        computed += self.lines(body.lines[plan.ready :])
        after = []
        for keep, home in keeps:
            old = self.name(home._replace(when="t")) if home.when else keep
            after.append(f"copyto({self.name(home)}, {old}, where={masked(home.buffer)})")
        if not ends:
            after.append(f"copyto({h_t}, {self.name(h)})")
        mask = self.walk(("mask", ""), "mask", "masks")
        loop = text
        if before:
            loop += [f"if {mask} is not None:", *("    " + line for line in before)]
        loop += [*computed, f"if {mask} is not None:", *("    " + line for line in after)]
        kept = [f"{keep} = empty_like({self.name(home)})" for keep, home in keeps if not home.when]
        saved = self.plan.saved()
        lasts = []
        for k, s in enumerate(step.states):
            home = plan.homes[k][0]
            rows = "" if home.lo is None else f", {home.lo}:{home.hi}"
            source = f"{home.buffer.name}[T{rows}]" if home.when else self.name(home)
            lasts.append(f"{source}{'.T' if s.ndim == 2 else ''}.copy()")
        lines = [*head, *self.top, *starts, *kept, self.zipped(), *("    " + line for line in loop), *ends]
        lines.append(
            f"return ({', '.join(lasts)},), ({', '.join(more)}{',' if more else ''}), ({', '.join(saved)}{',' if saved else ''})"
        )
        return "def forward(xs, hs, states, weights, masks):\n" + "\n".join("    " + line for line in lines) + "\n"


class BackwardWriter(Writer):
    """Writes the backward loop."""

    def __init__(self, plan: Plan, environment: dict[str, Any], weights: list[str]):
        super().__init__(environment, weights)
        self.plan = plan

    def rows(self, v: Op) -> str:
        """The rows of a value over the steps lo:hi, (t x B, F)."""
        news, states = self.plan.kept.news, self.plan.kept.states
        if v.kind == "part" and v not in self.plan.forward.stacks and news.get(v) not in states:
            return f"{self.rows(v.args[0])}[:, {v.params[0]}:{v.params[1]}]"
        if v.kind == "input" and v.params[0] == "x":
            return f"xs[lo:hi].reshape(-1, {v.shape[1]})"
        if v.kind == "input" and v.params == ("state", 0):
            return f"hs[lo:hi].reshape(-1, {v.shape[1]})"
        if v.kind == "input":
            place = self.plan.forward.homes[v.params[1]][0]._replace(when="t")
        elif v in self.plan.forward.stacks:
            place = self.plan.forward.stacks[v]
        else:
            place = self.plan.forward.homes[news[v]][0]
        buffer, low, high, when = place
        times = "lo + 1:hi + 1" if when == "t+1" else "lo:hi"
        rows = "" if low is None else f", {low}:{high}"
        return f"{buffer.name}[{times}{rows}].swapaxes(1, 2).reshape(-1, {v.shape[1]})"

    def text(self) -> str:
        """The function."""
        plan, step, back = self.plan, self.plan.step, self.plan.backward
        body, ahead, deferred = back.body, back.ahead, plan.deferred
        B = max(1, deferred.B)
        saved = plan.saved()
        head = ["T = len(xs)"]
        head += [f"{', '.join(self.weights)}, = weights"] if self.weights else []
        head += [f"{', '.join(saved)}, = saved"] if saved else []
        entries = sum(int(np.prod(b.shape)) for b in ahead.buffers)
        head.append(f"chunk = min(T, {max(1, ROWS // B)})")
        head.append(f"ahead = min(chunk, {max(1, CACHE // max(1, entries))})" if entries else "ahead = chunk")
        self.allocate([*ahead.buffers, *body.buffers])
        for k, g in enumerate(step.g_statics):
            if g is not None:
                w = step.statics[k]
                self.top.append(f"g{k}_total = zeros({w.shape}, {self.dtype(w.dtype)})")
        for k, s in enumerate(step.states):
            turned = ".T" if s.ndim == 2 else ""
            self.top.append(f"d{k}[...] = g_last[{k}]{turned}")
        for j, c in enumerate(step.cotangents[len(step.states) :]):
            if c is not None:
                self.top.append(f"g{j + len(step.states)} = g_more[{j}]")
        for i, op in enumerate(back.gathered):
            self.top.append(f"gathered{i} = empty(({op.shape[1]}, chunk * {B} + {PAD}), {self.dtype(op.dtype)})")
        arrived: list[str] = []  # before the moments of a chunk
        h = step.states[0]
        if h.ndim == 2 and np.prod(h.shape) <= STACKED:  # laid out as the loop needs it, for all of them at once
            self.top.append(f"arrived0 = empty((chunk, {h.shape[1]}, {h.shape[0]}), {self.dtype(h.dtype)})")
            arrived.append("copyto(arrived0[:hi - lo], g_hs[lo:hi].swapaxes(1, 2))")
            g_t = self.walk(("g", "chunk"), "g_t", "arrived0")
        else:
            g_t = self.walk(("g", ""), "g_t", _walkable("g_hs", h.ndim))
        loop = [f"add(d0, {g_t}, out=d0)"]
        before, after = [], []
        for k, home in enumerate(back.homes):
            mask = masked(home.buffer)
            before += [f"still{k}.fill(0)", f"copyto(still{k}, d{k}, where={mask})", f"copyto(d{k}, 0, where={mask})"]
            after.append(f"add(d{k}, still{k}, out=d{k})")
        mask = self.walk(("mask", ""), "mask", "masks")
        loop += [f"if {mask} is not None:", *("    " + line for line in before)]
        loop += self.lines(body.lines[: back.ready])
        for k, op in deferred.each:
            loop.append(f"add(g{k}_total, {self.natural(back.results[op])}, out=g{k}_total)")
        if deferred.x is not None:
            x_t = self.walk(("g_x", ""), "g_x_t", _walkable("g_xs", step.x.ndim))
            loop.append(f"copyto({x_t}, {self.name(back.results[deferred.x])})")
        elif not deferred.through and step.g_x is not None:
            raise AssertionError
        loop += self.lines(body.lines[back.ready :])
        loop += [f"if {mask} is not None:", *("    " + line for line in after)]
        still = [f"still{k} = empty({h.buffer.shape}, {self.dtype(h.buffer.dtype)})" for k, h in enumerate(back.homes)]
        program = self._factors(ahead)
        walk = self._walk()
        flush = self._flush()
        lines = [*head, *self.top, *still]
        lines += ["for lo in reversed(range(0, T, chunk)):", "    hi = min(lo + chunk, T)"]
        lines += ["    " + line for line in arrived]
        if entries:
            lines += ["    for first in reversed(range(lo, hi, ahead)):", "        last = min(first + ahead, hi)"]
            lines += ["        " + text for text in program]
        else:
            lines += ["    for first, last in ((lo, hi),):"]
        lines += ["        " + line for line in walk]
        lines += ["            " + line for line in loop]
        lines += ["    " + line for line in flush]
        states = [f"d{k}{'.T' if s.ndim == 2 else ''}" for k, s in enumerate(step.states)]
        totals = ["None" if g is None else f"g{k}_total" for k, g in enumerate(step.g_statics)]
        lines.append(f"return ({', '.join(states)},), ({', '.join(totals)}{',' if totals else ''})")
        return (
            "def backward(xs, hs, weights, masks, saved, g_hs, g_last, g_more, g_xs):\n"
            + "\n".join("    " + line for line in lines)
            + "\n"
        )

    def _factors(self, ahead: Body) -> list[str]:
        """The factors of the steps first:last, all at once."""
        writer = _Chunk(self)
        return writer.lines(ahead.lines)

    def _walk(self) -> list[str]:
        """The head of the loop over the steps first:last, from the last on."""
        names, along = [], []
        for key, (name, what) in self.walked.items():
            names.append(name)
            place = key if isinstance(key, Place) else key[1] if key[0] in ("cut", "stacked") else None
            time = place.buffer.time if place else key[1]
            if time == "chunk":
                cut = "first - lo:last - lo"
            elif time == "ahead":
                cut = ":last - first"
            elif isinstance(key, Place) and key.buffer.time == "t+1" and not key.buffer.shape:
                what, cut = f"each_of({key.buffer.name})", "first + 1:last + 1" if key.when == "t+1" else "first:last"
            elif isinstance(key, Place) and key.buffer.time == "t+1":
                buffer, low, high, when = key
                rows = "" if low is None else f", {low}:{high}"
                what, cut = buffer.name, f"{'first + 1:last + 1' if when == 't+1' else 'first:last'}{rows}"
            elif isinstance(key, Place) and what.endswith("]"):
                base, _, rows = what.rpartition("[:")
                what, cut = base, f"first:last{rows[:-1]}"
            else:
                cut = "first:last"
            along.append(f"{what}[{cut}][::-1]")
        return [f"for {', '.join(names)}, in zip({', '.join(along)}):"]

    def _flush(self) -> list[str]:
        deferred, back = self.plan.deferred, self.plan.backward
        B = max(1, deferred.B)
        number = {op: i for i, op in enumerate(back.gathered)}
        lines = []
        for i, place in enumerate(back.gathered.values()):
            lo, hi = place.lo or 0, place.buffer.shape[0] if place.hi is None else place.hi
            rows = "" if (lo, hi) == (0, place.buffer.shape[0]) else f", {lo}:{hi}"
            lines.append(f"delta{i} = gathered{i}[:, :(hi - lo) * {B}]")
            lines.append(f"copyto(delta{i}.reshape({hi - lo}, -1, {B}), {place.buffer.name}[:hi - lo{rows}].swapaxes(0, 1))")
        for outer in deferred.outers:
            if outer.left.linear:
                lines.append(f"g{outer.static}_total += delta{number[outer.left]} @ {self.rows(outer.right)}")
            else:
                lines.append(f"g{outer.static}_total += {self.rows(outer.left)}.T @ delta{number[outer.right]}.T")
        for i in dict.fromkeys(number[t.delta] for t in deferred.totals):
            lines.append(f"total{i} = delta{i}.sum(axis=1)")
        lines += [f"g{t.static}_total += total{number[t.delta]}" for t in deferred.totals]
        for j, through in enumerate(deferred.through):
            w = self.weights[through.w.params[1]] + (".T" if through.transposed else "")
            add = j > 0 or deferred.x is not None
            lines.append(f"put_rows(delta{number[through.delta]}.T, {w}, g_xs[lo:hi], add={add})")
        return lines


class _Chunk(Writer):
    """Writes the lines that make factors, which have an axis of time in front."""

    def __init__(self, outer: Writer):
        super().__init__(outer.environment, outer.weights)
        self.top, self.views = outer.top, outer.views

    def name(self, place: Place) -> str:
        buffer, lo, hi, when = place
        rows = "" if lo is None or (lo, hi) == (0, buffer.shape[0]) else f", {lo}:{hi}"
        if buffer.time == "static":
            return super().name(place)
        if buffer.time == "ahead":
            return f"{buffer.name}[:last - first{rows}]"
        if buffer.time == "xs":
            return "xs[first:last].swapaxes(1, 2)" + (f"[:{rows}]" if rows else "")
        return f"{buffer.name}[{'first + 1:last + 1' if when == 't+1' else 'first:last'}{rows}]"


def _walkable(name: str, ndim: int) -> str:
    """What is walked along to get the moments of an array, as they lie in the loop."""
    return f"each_of({name})" if ndim == 0 else _as_it_lies(name, ndim)


def _as_it_lies(name: str, ndim: int) -> str:
    """An array over time with the axes that its moments have in the loop."""
    return f"{name}.swapaxes(1, 2)" if ndim == 2 else name


@cache
def _environment() -> dict[str, Any]:
    """What the text calls by name."""
    names = [name for name in dir(np) if isinstance(getattr(np, name), np.ufunc)]
    names += ["array", "empty", "zeros", "empty_like", "copyto", "dot", "ascontiguousarray", "concatenate"]
    ours = {f.__name__: f for f in (runtime.put_rows, runtime.transposed, runtime.each_of)}
    return {name: getattr(np, name) for name in names} | ours


def emit(plan: Plan, weights: list[str]) -> tuple[Any, Any, str]:
    """The functions forward and backward, and their text."""
    environment = dict(_environment())
    environment |= {f"constant{k}": array for k, array in enumerate(plan.step.make.constants)}
    text = ForwardWriter(plan, environment, weights).text() + "\n\n" + BackwardWriter(plan, environment, weights).text()
    exec(compile(text, "<scan>", "exec"), environment)
    return environment["forward"], environment["backward"], text
