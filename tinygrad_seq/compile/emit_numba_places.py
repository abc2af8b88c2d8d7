"""What a step in Numba's loops is made of: arrays and places in them, sums of products, what loops do, and sizes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from .expressions import Op

CODES = {"float32": "f4", "float64": "f8", "bool": "b1"}


class Array:
    """An array that stages read or write. name: in a stage; at: what the loop over time hands over."""

    def __init__(self, name: str, at: str, ndim: int, width: int, dtype: Any, single: bool = False):
        self.name, self.at, self.ndim, self.width, self.dtype = name, at, ndim, width, np.dtype(dtype)
        self.single = single  # whether its one row serves all rows
        self.scratch = False  # made by a stage, for itself or for a later one

    def __repr__(self) -> str:
        return f"{self.name} = {self.at}"


class Place(NamedTuple):
    """Columns of an array, from `first` on."""

    array: Array
    first: int = 0


class Sum:
    """A value that products add up to, before a stage: blocks of `array`, which begins as `base` or as zero."""

    def __init__(self, array: Array, terms: list[tuple[Op, Any]], base: Op | None = None, base_first: int = 0):
        self.array, self.terms, self.base, self.first = array, terms, base, base_first
        self.arguments: list[Array] = []  # of the terms, as whole arrays
        self.waits: list[bool] = []  # whether an argument is put there by a stage
        self.stage = -1


class Node:
    """What a loop does: compute an op, or (place is set) put it somewhere."""

    __slots__ = ("op", "phase", "place", "stage", "width")

    def __init__(self, op: Op, stage: int, phase: int, width: int, place: Place | None = None):
        self.op, self.stage, self.phase, self.width, self.place = op, stage, phase, width, place


class Sizes:
    """The numbers that depend on sizes: a loop serves all sizes, so it is handed them. B is the first."""

    def __init__(self, B: int, widths: Iterable[int]):
        self.values: list[int] = [B]
        self.names: list[str] = ["B"]
        self.widths = set(widths)

    def __call__(self, value: int) -> str:
        """The name of a size."""
        if value in (0, 1):
            return str(value)
        known = self.values[1:]
        if value not in known:
            self.values.append(value)
            self.names.append(f"n{len(self.values) - 1}")
        return self.names[1:][self.values[1:].index(value)]

    @property
    def unpacked(self) -> str:
        """The line that takes them apart, once all are known."""
        return f"{', '.join(self.names)}, = sizes"
