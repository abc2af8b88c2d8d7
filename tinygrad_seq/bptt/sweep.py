"""The reverse sweep at walking pace: one op at a time, forth and back, with breakpoints.

    walk = tg.bptt.sweep(loss)
    walk.forth()                         the next op: what arrived, what it sends where, and how the sums grow
    walk.back()                          the one before, again
    walk.go(op="tanh", time=3)           on to the tanh of step 3
    walk.go(nan=True)                    on to where the first NaN or infinity stands

The walker is `autodiff.steps_of_backward`; here its steps are kept, named and printed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from .. import backend
from ..autodiff import Step, steps_of_backward
from ..errors import ArgumentError, message
from ..graph import MultiNode, Node, Output, Value, node_of, toposort
from .norms import norm_of
from .rule_text import below
from .rules import Rule, rule
from .uses import Uses, leaf_of, tape_of

SMALL = 6  # an array of so many numbers is printed whole
MANY = 8  # of more arguments, or lines of a rule, the first and the last are printed
LONG = 140  # characters of a line of a rule


class Sent(NamedTuple):
    """What an op sends to one of its arguments.

    argument: its name in the op. to: its node, and `output` which of several outputs of it. name: what it is called. value: the contribution.
    arrived, of: it is the arrived-th of so many that this value receives. so_far: of a leaf the norm of the sum of those.
    """

    argument: str
    to: Node
    output: int
    name: str
    value: Any
    arrived: int
    of: int
    so_far: float | None


@dataclass(frozen=True, eq=False)
class Move:
    """One step of the reverse sweep.

    number: counted from 1; of: how many nodes the tape has. node: the op, or a leaf. name: what it is called: the name it was given, its op, and
    its number in the order of the forward pass. time, place: where it was recorded. gradient: all that arrived, dL/dy (of several outputs a
    tuple). sent: what it sends to its arguments. `print(move)` also tells the rule that says so.
    """

    number: int
    of: int
    node: Node
    name: str
    time: int | None
    place: str
    gradient: Any
    sent: tuple[Sent, ...] = field(default=())

    @property
    def op(self) -> str:
        """The name of the op; "leaf" of a leaf."""
        return self.node.prim.name if self.node.prim else "leaf"

    @property
    def rule(self) -> Rule | None:
        """The derivative rule that was used, as text; None of a leaf."""
        return None if self.node.prim is None else rule(self.node)

    @property
    def arrays(self) -> list[Any]:
        """Every gradient of this step: what arrived, then what was sent."""
        parts = self.gradient if isinstance(self.gradient, tuple) else (self.gradient,)
        return [part for part in (*parts, *(sent.value for sent in self.sent)) if part is not None]

    @property
    def finite(self) -> bool:
        """Whether no gradient of this step holds a NaN or an infinity."""
        return all(bool(np.isfinite(a).all()) for a in self.arrays)

    @property
    def norm(self) -> float:
        """The largest norm of a gradient of this step; NaN where one holds a NaN."""
        return max((norm_of(a) for a in self.arrays), key=lambda n: np.inf if np.isnan(n) else n, default=0.0)

    def __repr__(self) -> str:
        where = (f" at t = {self.time}" if self.time is not None else "") + (f", in {self.place}" if self.place else "")
        title = f"step {self.number} of {self.of}: {self.name}{where}"
        parts = self.gradient if isinstance(self.gradient, tuple) else (self.gradient,)
        rows = []
        for i, part in enumerate(parts):
            if part is not None:
                y = "y" if len(parts) == 1 else f"y[{i}]"
                rows.append(("arrived", f"dL/d{y if self.node.prim else self.name}", _shown(part), ""))
        for sent in self.sent:
            whole = "complete" if sent.arrived == sent.of else f"{sent.arrived} of {sent.of}"
            sum_so_far = "" if sent.so_far is None else f", norm of the sum {sent.so_far:.4g}"
            rows.append(("sends", f"dL/d{sent.argument}", _shown(sent.value), f"to {sent.name} ({whole}{sum_so_far})"))
        widths = [max(len(row[i]) for row in rows) for i in range(3)]
        lines = ["    " + "  ".join(cell.ljust(w) for cell, w in zip(row, [*widths, 0], strict=True)).rstrip() for row in rows]
        return "\n".join([title, *_ends(lines)])

    def __str__(self) -> str:
        if self.node.prim is None:
            return f"{self!r}\n    a leaf: its gradient is complete"
        rule = [line if len(line) <= LONG else f"{line[:LONG]} ..." for line in str(self.rule).split("\n")]
        return f"{self!r}\n    rule     " + "\n         ".join(_ends(rule))


@dataclass(frozen=True)
class Break:
    """Where a walk stops: a step that fulfils all that is asked."""

    op: str | None = None
    time: int | None = None
    nan: bool = False
    norm: float | None = None
    into: Node | None = None
    when: Callable[[Move], bool] | None = None

    def __call__(self, move: Move) -> bool:
        """Whether a step fulfils all of it."""
        return (
            (self.op is None or move.op == self.op)
            and (self.time is None or move.time == self.time)
            and (not self.nan or not move.finite)
            and (self.norm is None or not move.norm <= self.norm)
            and (self.into is None or any(sent.to is self.into for sent in move.sent))
            and (self.when is None or bool(self.when(move)))
        )


class Sweep:
    """A reverse sweep to walk along. `position` is the number of the present step, 0 before the first; `here` is that step.

    Steps are computed when they are first reached and kept, so walking back costs nothing, and memory grows with what was sent so far.
    Iterating walks on from here: `for move in walk: ...`.
    """

    def __init__(self, outputs: Any, gradient: Any = None):
        several = isinstance(outputs, (list, tuple))
        self._values = tape_of(outputs, "sweep")
        self._tape = toposort(self._values)
        self._where = Uses(self._values, ())
        self._number = {node: i for i, node in enumerate(self._tape, 1)}
        self._leaves = [node for node in self._tape if node.prim is None]
        self._uses = Counter((n, _index(arg)) for node in self._tape for arg in node.args if (n := node_of(arg)) is not None)
        for value in self._values:
            self._uses[value.node, value.index] += 1  # what the sweep begins with
        self._arrived = Counter((value.node, value.index) for value in self._values)
        self._steps = steps_of_backward(
            self._values if several else self._values[0], gradient, targets={leaf: {0: None} for leaf in self._leaves}
        )
        self._moves: list[Move] = []
        self._terms: dict[Node, list[tuple[int, Any]]] = {leaf: [] for leaf in self._leaves}
        self._sums: dict[Node, Any] = {}  # of all that was computed, wherever one stands
        self._breaks: list[Break] = []
        self.position = 0

    # ---- Walking -------------------------------------------------------------------------------------------------------------------

    @property
    def here(self) -> Move | None:
        """The present step; None before the first."""
        return self._moves[self.position - 1] if self.position else None

    def forth(self, steps: int = 1) -> Move | None:
        """Walk so many steps on; the step reached, or None where the sweep had ended before."""
        for _ in range(steps):
            if self.position == len(self._moves) and not self._computed():
                return None
            self.position += 1
        return self.here

    def back(self, steps: int = 1) -> Move | None:
        """Walk so many steps back; the step reached, or None before the first."""
        self.position = max(self.position - steps, 0)
        return self.here

    def to(self, number: int) -> Move | None:
        """Walk to the step of that number, wherever it lies; None behind the last."""
        return self.back(self.position - number) if number <= self.position else self.forth(number - self.position)

    def go(self, *, backwards: bool = False, **asked: Any) -> Move | None:
        """Walk to the next step where all that is asked is fulfilled, or one of the breakpoints; None where there is none, at the end.

            op="tanh"          an op of that name ("leaf": where a gradient is complete)
            time=3             recorded at that time step
            nan=True           a NaN or an infinity arrives or is sent
            norm=100.0         the norm of what arrives or is sent is greater, or NaN
            into=W             something is sent to the Tensor W
            when=f             f(move) is true

        backwards: towards the first step.
        """
        stops = [*self._breaks, *([self._break(asked)] if asked else [])]
        while (move := self.back() if backwards else self.forth()) is not None:
            if any(stop(move) for stop in stops):
                return move
        return None

    def break_at(self, **asked: Any) -> Sweep:
        """Set a breakpoint for every `go` from now on, in the words of `go`; several of them are alternatives. Returns the walk."""
        if not asked:
            raise ArgumentError(message("sweep: a breakpoint on nothing", expected="op, time, nan, norm, into or when"))
        self._breaks.append(self._break(asked))
        return self

    def clear(self) -> None:
        """Forget all breakpoints."""
        self._breaks = []

    def __iter__(self) -> Iterator[Move]:
        while (move := self.forth()) is not None:
            yield move

    def _break(self, asked: dict[str, Any]) -> Break:
        unknown = sorted(set(asked) - set(Break.__dataclass_fields__))
        if unknown:
            raise ArgumentError(message(f"sweep: breakpoint on {', '.join(unknown)}", expected="op, time, nan, norm, into or when"))
        into = asked.get("into")
        if into is not None and not isinstance(into, Node):
            asked = {**asked, "into": leaf_of(into, self._values, "sweep")}
        return Break(**asked)

    def _computed(self) -> bool:
        """Compute one more step, if there is one."""
        step = next(self._steps, None)
        if step is None:
            return False
        number = len(self._moves) + 1
        node = step.node
        sent = tuple(self._sent(number, step))
        self._moves.append(
            Move(
                number,
                len(self._tape),
                node,
                self.name(node),
                self._where.times[node.frame],
                self._where.place(node),
                step.gradient,
                sent,
            )
        )
        return True

    def _sent(self, number: int, step: Step) -> Iterator[Sent]:
        prim = step.node.prim
        if prim is None:
            return
        names = prim.names if prim.arrays != float("inf") else [f"x{below(i + 1)}" for i in range(len(step.node.args))]
        for label, arg, c in zip(names, step.node.args, step.contributions, strict=False):
            node = node_of(arg)
            if c is not None and node is not None:
                use = node, _index(arg)
                self._arrived[use] += 1
                so_far = None
                if node in self._terms:
                    self._terms[node].append((number, c))
                    self._sums[node] = c if node not in self._sums else self._sums[node] + c
                    so_far = norm_of(self._sums[node])
                yield Sent(label, node, use[1], self.name(node, use[1]), c, self._arrived[use], self._uses[use], so_far)

    # ---- What it has found -----------------------------------------------------------------------------------------------------------

    def name(self, node: Node, index: int | None = None) -> str:
        """What a node is called: the name that somebody gave it, its op, and its number on the tape."""
        given = node.notes_of(index or 0).name
        if node.prim is None:
            return given or f"leaf #{self._number[node]}"
        output = f"[{index}]" if index is not None and type(node) is MultiNode else ""
        return f"{given} = " * bool(given) + f"{node.prim.name}{output} #{self._number[node]}"

    @property
    def sums(self) -> dict[str, Any]:
        """The running sum in the gradient of every leaf at this position, as an array; zeros where nothing has arrived yet."""
        return {self.name(leaf): self._sum(leaf) for leaf in self._leaves}

    def sum_of(self, leaf: Value) -> Any:
        """The running sum in the gradient of one leaf at this position."""
        return self._sum(leaf_of(leaf, self._values, "sweep"))

    def _sum(self, leaf: Node) -> Any:
        total = None
        for number, c in self._terms.get(leaf, ()):
            if number <= self.position:
                total = c if total is None else total + c
        return np.zeros(leaf.shape, leaf.dtype) if total is None else total

    def table(self) -> str:
        """The running sum of every leaf: how many of its uses have sent something, and its norm."""
        rows = []
        for leaf in self._leaves:
            count = sum(number <= self.position for number, _ in self._terms[leaf])
            rows.append((self.name(leaf), str(leaf.shape), f"{count} of {self._uses[leaf, 0]}", f"{norm_of(self._sum(leaf)):.6g}"))
        rows.insert(0, ("leaf", "shape", "terms", "norm of the sum so far"))
        widths = [max(len(row[i]) for row in rows) for i in range(4)]
        return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)

    def __repr__(self) -> str:
        head = f"Sweep over {len(self._tape)} nodes, "
        return head + ("before the first step" if self.here is None else f"at\n{self.here!r}")


def sweep(outputs: Value | Sequence[Value], gradient: Any = None) -> Sweep:
    """The reverse sweep of a recorded graph, to walk along step by step.

    Compiled loops are opened, so every op stands in its time step. gradient: the cotangent of an output that is no scalar (of several outputs a
    list). Touches no `.grad`; hooks are called, as in every sweep, and what they return goes on.
    """
    return Sweep(outputs, gradient)


def _index(arg: Any) -> int:
    return arg.index if isinstance(arg, Output) else 0


def _ends(lines: list[str]) -> list[str]:
    """The lines, of many the first and the last."""
    return lines if len(lines) <= MANY else [*lines[:4], f"    ... {len(lines) - 6} more", *lines[-2:]]


def _shown(a: Any) -> str:
    """A gradient as a reader sees it: shape and norm, few numbers as they are."""
    array = backend.to_numpy(a)
    if array.size <= SMALL:
        return np.array2string(array, separator=", ", formatter={"float_kind": lambda x: f"{x:.4g}"}).replace("\n", "")
    norm = norm_of(array)
    note = "" if np.isfinite(array).all() else f", {int(np.isnan(array).sum())} NaN, {int(np.isinf(array).sum())} infinite"
    return f"{array.shape}, norm {norm:.4g}{note}"
