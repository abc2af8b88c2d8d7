"""Where values live: buffers that are made before the loop, and places in them.

A value (B, F) of a step lies feature-major, as (F, B): then a block of rows is one contiguous piece, and a product with the weights needs no
transposed copy. All others lie as they are. A place says which rows of which buffer, at which time.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from .expressions import Op


class Buffer:
    """An array that is made before the loop; its shape is that of one step.

    time: "" one array for all steps; "t" one for each step; "t+1" one more, the state before each step and that after the last;
    "ahead" one for each of the few steps whose factors are made at once; "chunk" one for each of the steps whose rows are multiplied at once;
    "xs", "g" and "static" arrays that the loop is given; "local" a name of the step itself.
    """

    __slots__ = ("dtype", "name", "shape", "time")

    def __init__(self, name: str, shape: tuple[int, ...], dtype: Any, time: str = ""):
        self.name, self.shape, self.dtype, self.time = name, shape, dtype, time

    def __repr__(self) -> str:
        return f"{self.name}{self.shape}{self.time}"


class Place(NamedTuple):
    """Rows lo:hi of a buffer (None: all of it), at `when`: "" its only time, "t" this step, "t+1" after it."""

    buffer: Buffer
    lo: int | None = None
    hi: int | None = None
    when: str = ""

    def rows(self, lo: int, hi: int) -> Place:
        """Some of its rows."""
        at = self.lo or 0
        return self._replace(lo=at + lo, hi=at + hi)

    @property
    def height(self) -> int:
        """How many rows these are."""
        return self.buffer.shape[0] if self.lo is None or self.hi is None else self.hi - self.lo


def stored(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape in which a value of this shape lies in memory."""
    return shape[::-1] if len(shape) == 2 else shape


class Instruction(NamedTuple):
    """One line of a loop.

    do          what it does
    "map"       out = name(*args), element by element
    "half"      out = out/2 + 1/2
    "product"   out = W @ args[0], W that of the group args[1] or of the op
    "copy"      out = args[0]
    "zero"      out = 0
    "call"      out = op.fn(*args), with its arguments and its result as the step has them, not as they lie
    """

    do: str
    name: str
    out: Any
    args: tuple[Any, ...]
    op: Op | None = None
