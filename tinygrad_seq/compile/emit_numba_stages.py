"""The text of one stage of a step: for each row its phases, in each phase a loop for each width, in each loop the values that it computes."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from .emit_numba_maps import number, template
from .emit_numba_places import Array, Node, Place
from .expressions import Op

if TYPE_CHECKING:
    from .emit_numba_steps import Steps

SHORT = 60  # letters of an expression that stands within another
ATOM = re.compile(r"[\w.]+(\[[^]]*\])?|[\w.]+\([^()]*\)")  # what needs no parentheses

CALL = re.compile(r"[\w.]+\((\{\d\}(, )?)+\)")  # a map that is a function


def bare(text: str) -> str:
    """An expression without the parentheses around all of it."""
    depth = 0
    for i, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if depth == 0 and i < len(text) - 1:
            return text
    return text[1:-1] if text.startswith("(") else text


class Stage:
    """The text of one stage."""

    def __init__(self, steps: Steps, number: int):
        self.steps, self.see = steps, steps.see
        self.nodes = [node for node in steps.nodes if node.stage == number]
        self.arrays: dict[Array, None] = {}
        self.rows: dict[Op, str] = {}  # what is known of the row
        self.uses: dict[Op, int] = {}  # of the loop that is being written
        self.count = 0

    def written(self) -> tuple[list[Array], list[str]]:
        """The arrays that it takes, and what it does to row b."""
        body: list[str] = []
        for phase in sorted({node.phase for node in self.nodes}):
            nodes = [node for node in self.nodes if node.phase == phase]
            self._loop([n for n in nodes if n.width == 1], 1, body)
            for width in dict.fromkeys(n.width for n in nodes if n.width > 1):
                inner: list[str] = []
                self._loop([n for n in nodes if n.width == width], width, inner, body)
                body += [f"for k in range({self.steps.sizes(width)}):", *("    " + line for line in inner)]
        return list(self.arrays), body

    def _loop(self, nodes: list[Node], width: int, lines: list[str], before: list[str] | None = None) -> None:
        names: dict[Op, str] = {}
        outer = lines if before is None else before
        self.uses = self._counted(nodes) if width > 1 else {}
        for node in nodes:
            if node.place is None:
                text = self._computed(node.op, width, names, lines, outer)
                target = self.rows if width == 1 else names
                target[node.op] = self._named(node.op, text, lines) if width > 1 else self._row(text, lines)
        for node in nodes:
            if node.place is not None:
                value = self._value(node.op, width, names, lines, outer)
                lines.append(f"{self._element(node.place, width)} = {bare(value)}")

    def _counted(self, nodes: list[Node]) -> dict[Op, int]:
        """How often a loop reads each value."""
        uses: dict[Op, int] = {}
        for node in nodes:
            told = [] if node.op in self.steps.sources or node.op in self.steps.of_sum or node.place else node.op.args
            for i, a in enumerate(map(self.see, told)):
                uses[a] = uses.get(a, 0) + template(node.op).count(f"{{{i}}}")
            if node.place is not None:
                uses[node.op] = uses.get(node.op, 0) + 1
        return uses

    def _named(self, op: Op, text: str, lines: list[str]) -> str:
        """A name for a value; what is read once and short stands where it is read."""
        if self.uses.get(op) == 1 and len(text) < SHORT:
            return text if ATOM.fullmatch(text) else f"({text})"
        self.count += 1
        lines.append(f"v{self.count} = {text}")
        return f"v{self.count}"

    def _row(self, text: str, lines: list[str]) -> str:
        """A name for a number of the whole row."""
        self.count += 1
        lines.append(f"v{self.count} = {text}")
        return f"v{self.count}"

    def _computed(self, op: Op, width: int, names: dict[Op, str], lines: list[str], outer: list[str]) -> str:
        if op in self.steps.sources or op in self.steps.of_sum:
            places = self.steps.sources.get(op) or self.steps.of_sum[op][1]
            return " + ".join(self._element(place, width) for place in places)
        if op.kind == "row":
            place = self._place(self.see(op.args[0]))
            self.arrays.setdefault(place.array)
            size = self.steps.sizes(op.args[0].shape[-1])
            row = "0" if place.array.single else "b"
            how = "total" if op.params[0] == "mean" else op.params[0]
            text = f"{how}({place.array.name}, {row}, {self.steps.sizes(place.first)}, {size})"
            return f"{text} / f({size})" if op.params[0] == "mean" else text
        how = template(op)
        values = [self._value(self.see(a), width, names, lines, outer) for a in op.args]
        return how.format(*(map(bare, values) if CALL.fullmatch(how) else values))

    def _value(self, op: Op, width: int, names: dict[Op, str], lines: list[str], outer: list[str]) -> str:
        """An element of a value within a loop."""
        if op.kind == "number":
            value = op.params[0]
            return (
                f"f({self.steps.sizes(value)})"
                if type(value) is int and value > 2 and value in self.steps.sizes.widths
                else number(value)
            )
        if op in names:
            return names[op]
        if op in self.rows:
            return self.rows[op]
        own = self.see.width(op)
        text = self._element(self._place(op), own)
        if own == 1:
            self.rows[op] = self._row(text, outer if width > 1 else lines)
            return self.rows[op]
        names[op] = self._named(op, text, lines)
        return names[op]

    def _place(self, op: Op) -> Place:
        if self.steps.is_part(op):
            array, first = self._place(self.see(op.args[0]))
            return Place(array, first + op.params[0])
        return self.steps.places[op]

    def _element(self, place: Place, width: int) -> str:
        array, first = place
        self.arrays.setdefault(array)
        start = self.steps.sizes(first)
        column = (start if width == 1 else "k" if first == 0 else f"{start} + k") if array.width > 1 or width > 1 else "0"
        if array.ndim == 1:
            return f"{array.name}[{column if array.width > 1 else 0}]"
        return f"{array.name}[{0 if array.single else 'b'}, {column if array.width > 1 else 0}]"
