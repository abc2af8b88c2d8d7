"""A table of a module: what each module within returned, and how many parameters it has. A reader: it changes nothing."""

from __future__ import annotations

import contextlib
import html
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from .. import random
from ..frames import no_grad
from .module import Module


class Row(NamedTuple):
    """One module of the table."""

    path: str
    layer: str
    shape: str  # of what it returned; "" where it was not called
    parameters: int  # its own, each counted where it stands first
    frozen: int
    depth: int
    tied: int = 0  # those that stand first in a module before it


class Summary:
    """The table: it prints as text, a notebook shows it in HTML, and its numbers are attributes.

    parameters, trainable, frozen: how many numbers; nbytes: their memory; buffer_nbytes: that of the buffers; rows: one for each module.
    """

    def __init__(self, rows: list[Row], module: Module):
        own = list(module.parameters())
        self.rows = rows
        self.parameters = sum(p.size for p in own)
        self.trainable = sum(p.size for p in own if p.requires_grad)
        self.frozen = self.parameters - self.trainable
        self.nbytes = sum(p.size * p.dtype.itemsize for p in own)
        self.buffer_nbytes = sum(b.size * b.dtype.itemsize for b in module.buffers())

    def _cells(self) -> list[list[str]]:
        shapes = any(row.shape for row in self.rows)
        lines = [["layer", *(["output"] if shapes else []), "parameters"]]
        for row in self.rows:
            name = f"{row.path}: {row.layer}" if row.path else row.layer
            frozen = " frozen" if row.frozen == row.parameters else f", {row.frozen:,} frozen" if row.frozen else ""
            counts = [f"{row.parameters:,}{frozen}" if row.parameters else "", f"{row.tied:,} tied" if row.tied else ""]
            lines.append(["  " * row.depth + name, *([row.shape] if shapes else []), ", ".join(filter(None, counts))])
        return lines

    def _total(self) -> str:
        buffers = f", buffers {_bytes(self.buffer_nbytes)}" if self.buffer_nbytes else ""
        return (
            f"{self.parameters:,} parameters: {self.trainable:,} trainable, {self.frozen:,} frozen; {_bytes(self.nbytes)}{buffers}"
        )

    def __str__(self) -> str:
        cells = self._cells()
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells]
        rule = "─" * max(map(len, lines))
        return "\n".join([lines[0], rule, *lines[1:], rule, self._total()])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        (head, *body) = [[html.escape(cell).replace("  ", "&emsp;") for cell in line] for line in self._cells()]
        heads = "".join(f'<th style="text-align:left">{cell}</th>' for cell in head)
        lines = "".join("<tr>" + "".join(f'<td style="text-align:left">{cell}</td>' for cell in line) + "</tr>" for line in body)
        return f"<table><thead><tr>{heads}</tr></thead><tbody>{lines}</tbody></table><p>{html.escape(self._total())}</p>"


def summarize(module: Module, inputs: tuple[Any, ...], keywords: Mapping[str, Any]) -> Summary:
    """The summary of a module, with what it does for these inputs where there are any."""
    outputs: dict[int, Any] = {}

    def first(m: Module, _: Any, y: Any) -> None:
        outputs.setdefault(id(m), y)

    if inputs or keywords:
        with _as_it_was(module), no_grad():
            for m in module.modules():
                m.register_forward_hook(first)
            module.eval()(*inputs, **keywords)
    rows, counted = [], set()
    for path, m in module.named_modules():
        here = list(m.parameters(recurse=False))
        own = [p for p in here if id(p) not in counted]
        tied = sum(p.size for p in here if id(p) in counted)
        counted |= {id(p) for p in own}
        shape = _shape(outputs[id(m)]) if id(m) in outputs else ""
        frozen = sum(p.size for p in own if not p.requires_grad)
        rows.append(Row(path, type(m).__name__, shape, sum(p.size for p in own), frozen, _depth(module, path), tied))
    return Summary(rows, module)


@contextlib.contextmanager
def _as_it_was(module: Module) -> Iterator[None]:
    """Whatever the body does to attributes, buffers and random numbers is undone."""
    modules = list(module.modules())
    attributes = [dict(vars(m)) for m in modules]
    buffers = [(b, b._data.copy()) for b in module.buffers()]
    names = [(p, p.name) for p in module.parameters()]
    generators = {id(g): g for g in (random.generator(), *(g for m in modules for g in vars(m).values()))}
    states = [(g, random.get_state(g)) for g in generators.values() if isinstance(g, np.random.Generator)]
    try:
        yield
    finally:
        for m, before in zip(modules, attributes, strict=True):
            vars(m).clear()
            vars(m).update(before)
        for b, data in buffers:
            b._data[...] = data
        for p, name in names:
            p.name = name
        for g, state in states:
            random.set_state(state, g)


def _depth(root: Module, path: str) -> int:
    """How many modules enclose the one at this path."""
    parts = path.split(".")
    known = dict(root.named_modules())
    return (path != "") + sum(".".join(parts[:n]) in known for n in range(1, len(parts)))


def _shape(y: Any) -> str:
    if hasattr(y, "shape"):
        return str(tuple(y.shape))
    if isinstance(y, Mapping):
        return ", ".join(f"{key}: {_shape(value)}" for key, value in y.items())
    if isinstance(y, (tuple, list)):
        return ", ".join(filter(None, map(_shape, y)))
    return "" if y is None else type(y).__name__


def _bytes(n: int) -> str:
    for unit in ("bytes", "KiB", "MiB"):
        if n < 1024:
            return f"{n:,} {unit}" if unit == "bytes" else f"{n:.1f} {unit}"
        n /= 1024  # type: ignore[assignment]
    return f"{n:.1f} GiB"
