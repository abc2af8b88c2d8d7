"""Lines of a loop as NumPy calls: how places are called, and what each instruction says.

A step's row of a stack comes from iterating over the stack, not from an index; `zip` walks all stacks in time.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any

import numpy as np

from .group import Group
from .storage import Buffer, Instruction, Place

SMALL = 10**6  # M x N x K of a product that OpenBLAS multiplies without copying its matrices first
FEWEST = 16  # rows of a block
NEAR = 2**17  # entries of a transposed matrix up to which it is cut into blocks, too: all of it stays in the cache
FAR = 2**20  # entries of one that is transposed once, before the loop, and then read along its rows


def blocks(M: int, K: int, B: int) -> int:
    """Into how many blocks of its rows w (M, K) is cut, so that each times (K, B) is a small product: OpenBLAS copies w first in all others."""
    n = 1
    while M // n * K * B > SMALL and M % (2 * n) == 0:
        n *= 2
    return n if M // n >= FEWEST else 1


@cache
def _name_of(dtype: Any) -> str:
    return "bool" if dtype.kind == "b" else f'"{dtype.name}"'


class Writer:
    """The text of one function."""

    def __init__(self, environment: dict[str, Any], weights: list[str]):
        self.environment, self.weights = environment, weights
        self.top: list[str] = []  # before the loop
        self.views: dict[Any, str] = {}  # made before the loop
        self.walked: dict[Any, tuple[str, str]] = {}  # of each step: name, and what is walked along

    # ---- Names -----------------------------------------------------------------------------------------------------------------------

    def name(self, place: Place) -> str:
        """How the loop calls a place, as it lies."""
        buffer, lo, hi, when = place
        whole = lo is None or (lo, hi) == (0, buffer.shape[0])
        rows = "" if whole else f"_{lo}_{hi}"
        if buffer.time == "local":
            return buffer.name
        if buffer.time == "static":
            return self._static(place, rows)
        if buffer.time == "":
            if whole:
                return buffer.name
            if place not in self.views:
                self.views[place] = f"{buffer.name}{rows}"
                self.top.append(f"{self.views[place]} = {buffer.name}[{lo}:{hi}]")
            return self.views[place]
        return self.walk(place, f"{buffer.name}{rows}{'_new' if when == 't+1' else '_t'}", self.along(place))

    def walk(self, key: Any, name: str, along: str) -> str:
        """The name of what each step takes of something that is walked along."""
        return self.walked.setdefault(key, (name, along))[0]

    def along(self, place: Place) -> str:
        """What is walked along for a place that changes with time."""
        buffer, lo, hi, when = place
        rows = "" if lo is None or (lo, hi) == (0, buffer.shape[0]) else f", {lo}:{hi}"
        if not buffer.shape:
            base = f"each_of({buffer.name})"
            return base if buffer.time != "t+1" else f"{base}[{'1:' if when == 't+1' else ':-1'}]"
        if buffer.time in ("xs", "g"):
            base = f"{buffer.name}.swapaxes(1, 2)" if len(buffer.shape) == 2 else buffer.name
            return f"{base}[:{rows}]" if rows else base
        if buffer.time == "t+1":
            return f"{buffer.name}[{'1:' if when == 't+1' else ':-1'}{rows}]"
        return f"{buffer.name}[:{rows}]" if rows else buffer.name

    def _static(self, place: Place, rows: str) -> str:
        """A static as it lies in the loop: a vector as a column, a matrix feature-major."""
        buffer = place.buffer
        base = self.weights[int(buffer.name[6:])] if buffer.name.startswith("weight") else buffer.name
        if len(buffer.shape) == 2:
            whole = Place(buffer)
            if whole not in self.views:
                self.views[whole] = f"{base}_columns"
                self.top.append(f"{base}_columns = ascontiguousarray({base}.T)")
            base = self.views[whole]
        return f"{base}[{place.lo}:{place.hi}]" if rows else base

    def operand(self, a: Any, ndim: int) -> str:
        """An argument of a map whose result has `ndim` axes: numbers as they are, vectors as columns."""
        if not isinstance(a, Place):
            return repr(a) if type(a) in (int, float, bool) and np.isfinite(a) else self.bind("number", a)
        name, own = self.name(a), len(a.buffer.shape)
        if ndim == 2:
            return f"{name}[:, None]" if own == 1 else name
        return f"{name}.T" if own == 2 else name

    def natural(self, a: Any) -> str:
        """An argument as the step has it."""
        if not isinstance(a, Place):
            return self.operand(a, 0)
        return f"{self.name(a)}.T" if len(a.buffer.shape) == 2 else self.name(a)

    def bind(self, name: str, value: Any) -> str:
        """A name for an object that the text cannot say."""
        k = 1
        while f"{name}{k}" in self.environment and self.environment[f"{name}{k}"] is not value:
            k += 1
        self.environment[f"{name}{k}"] = value
        return f"{name}{k}"

    # ---- Lines -----------------------------------------------------------------------------------------------------------------------

    def allocate(self, buffers: Iterable[Buffer]) -> None:
        """Make buffers."""
        for b in buffers:
            lead = {"": [], "t": ["T"], "t+1": ["T + 1"], "ahead": ["ahead"], "chunk": ["chunk"]}[b.time]
            shape = ", ".join([*lead, *map(str, b.shape)])
            self.top.append(f"{b.name} = empty(({shape}{',' if len(b.shape) + len(lead) == 1 else ''}), {self.dtype(b.dtype)})")

    def dtype(self, dtype: Any) -> str:
        """A dtype as the text says it."""
        return _name_of(np.dtype(dtype))

    def lines(self, lines: Iterable[Instruction]) -> list[str]:
        """The lines of a step."""
        return [text for run in self._runs(list(lines)) for text in (self._line(run[0]) if len(run) == 1 else self._stacked(run))]

    def _runs(self, lines: list[Instruction]) -> list[list[Instruction]]:
        """The lines one by one, but products of one value with factors that stand side by side together."""
        runs: list[list[Instruction]] = []
        for line in lines:
            last = runs[-1][-1] if runs else None
            if last is not None and _continues(last, line):
                runs[-1].append(line)
            else:
                runs.append([line])
        return runs

    def _stacked(self, run: list[Instruction]) -> list[str]:
        """Several products as one call on (how many, F, B)."""
        value, first = run[0].args
        height, B = (
            run[0].out.buffer.shape[0] if run[0].out.lo is None else run[0].out.hi - run[0].out.lo,
            run[0].out.buffer.shape[1],
        )
        shape = f"{len(run)}, {height}, {B}"
        out, factor = run[0].out._replace(hi=run[-1].out.hi), first._replace(hi=run[-1].args[1].hi)
        factors = self.walk(
            ("stacked", factor), f"{factor.buffer.name}_{factor.lo}_{factor.hi}_t", f"{self.along(factor)}.reshape(-1, {shape})"
        )
        return [f"multiply({self.name(value)}, {factors}, out={self._cut(out, 'each', shape)})"]

    def _line(self, line: Instruction) -> list[str]:
        if line.do == "map":
            return self._map(line)
        if line.do == "half":
            v = self.name(line.out)
            made = f"half = array(0.5, {self.dtype(line.out.buffer.dtype)})"
            self.top += [] if made in self.top else [made]
            return [f"multiply({v}, half, out={v})", f"add({v}, half, out={v})"]
        if line.do == "zero":
            return [f"{self.name(line.out)}.fill(0)"]
        if line.do == "copy":
            return [f"copyto({self.name(line.out)}, {self.name(line.args[0])})"]
        if line.do == "product":
            return self._product(line)
        return self._call(line)

    def _map(self, line: Instruction) -> list[str]:
        ndim = len(line.out.buffer.shape)
        out, args = self.name(line.out), [self.operand(a, ndim) for a in line.args]
        if line.name == "sigmoid":
            return [
                f"multiply({args[0]}, 0.5, out={out})",
                f"tanh({out}, out={out})",
                f"multiply({out}, 0.5, out={out})",
                f"add({out}, 0.5, out={out})",
            ]
        if line.name == "where":
            return [f"copyto({out}, {args[2]})", f"copyto({out}, {args[1]}, where={args[0]})"]
        if isinstance(getattr(np, line.name, None), np.ufunc):
            return [f"{line.name}({', '.join(args)}, out={out})"]
        assert line.op is not None
        return [f"copyto({out}, {self.bind(line.name, line.op.fn)}({', '.join(args)}))"]

    def _product(self, line: Instruction) -> list[str]:
        source = self.name(line.args[0])
        if line.op is None:
            weights = self.packed(line.args[1])
        else:
            k = line.op.args[1].params[1]
            weights = f"{self.weights[k]}{'' if line.op.params[0] else '.T'}"
        (M, B), K = (line.out.height, line.out.buffer.shape[1]), line.args[0].height
        if weights.endswith(".T") and M * K >= FAR:
            weights = self._by_rows(weights.removesuffix(".T"))
        n = 1 if weights.endswith(".T") and M * K > NEAR else blocks(M, K, B)
        if n == 1:
            return [f"dot({weights}, {source}, out={self.name(line.out)})"]
        return [
            f"matmul({self._in_blocks(weights, n, M, K)}, {source}, out={self._cut(line.out, 'blocks', f'{n}, {M // n}, {B}')})"
        ]

    def _by_rows(self, name: str) -> str:
        """The transposed of an array in memory of its own, made ahead of the loop."""
        key = ("transposed", name)
        if key not in self.views:
            self.views[key] = f"{name}_by_columns"
            self.top.append(f"{self.views[key]} = transposed({name})")
        return self.views[key]

    def _in_blocks(self, weights: str, n: int, M: int, K: int) -> str:
        """Weights (M, K) cut into n blocks of their rows, ahead of the loop."""
        key = ("blocks", weights, n)
        if key not in self.views:
            self.views[key] = f"{weights.replace('.', '_')}_blocks"
            self.top.append(f"{self.views[key]} = {weights}.reshape({n}, {M // n}, {K})")
        return self.views[key]

    def _cut(self, place: Place, what: str, shape: str) -> str:
        """A place in another shape, each of which has a name of its own."""
        key = ("cut", place, shape)
        if key in self.walked:
            return self.walked[key][0]
        if key not in self.views:
            others = sum(1 for k in (*self.views, *self.walked) if k[:2] == key[:2])
            rows = "" if place.lo is None else f"_{place.lo}_{place.hi}"
            name = f"{place.buffer.name}{rows}_t" if place.when else self.name(place)
            cut = f"{name}_{what}{others + 1 if others else ''}"
            if place.when:
                return self.walk(key, cut, f"{self.along(place)}.reshape(-1, {shape})")
            self.views[key] = cut
            self.top.append(f"{cut} = {name}.reshape({shape})")
        return self.views[key]

    def packed(self, group: Group) -> str:
        """The name of the weights of a group, laid out for its product; the two loops lay them out each in its own way."""
        raise NotImplementedError

    def _call(self, line: Instruction) -> list[str]:
        op = line.op
        assert op is not None
        if rows := self._over_rows(line):
            return rows
        args = [self.natural(a) for a in line.args]
        if op.kind == "pick":
            value = f"{args[0]}[{op.params[0]}]"
        elif op.kind == "part":
            value = f"{args[0]}[..., {op.params[0]}:{op.params[1]}]"
        elif op.kind == "join":
            value = f"concatenate(({', '.join(args)}), axis=-1)"
        elif op.kind == "product":
            raise AssertionError
        else:
            value = f"{self.bind(op.name, op.fn)}({', '.join(args)})"
        if line.out.buffer.time == "local":
            return [f"{line.out.buffer.name} = {value}"]
        return [f"copyto({self.natural(line.out)}, {value})"]

    def _over_rows(self, line: Instruction) -> list[str]:
        """A sum, mean or extreme over the last axis, or its transpose, as it lies: over the rows of (F, B)."""
        op, out = line.op, line.out
        if (
            op is None
            or op.kind != "call"
            or out.buffer.time == "local"
            or len(line.args) != 1
            or not isinstance(line.args[0], Place)
        ):
            return []
        source, words = line.args[0], getattr(op.fn, "keywords", {})
        if len(source.buffer.shape) != 2 or len(out.buffer.shape) != 2 or op.args[0].shape[0] != op.shape[0]:
            return []
        to, value = self.name(out), self.name(source)
        if op.name == "broadcast_to":
            return [f"copyto({to}, {value})"]
        over_last = op.shape[1] == 1 and (op.name == "sum_to" or (words.get("axis") in (-1, 1) and words.get("keepdims") is True))
        ufunc = {"sum": "add", "mean": "add", "sum_to": "add", "max": "maximum", "min": "minimum"}.get(op.name)
        if not over_last or ufunc is None or set(words) - {"axis", "keepdims", "shape"}:
            return []
        lines = [f"{ufunc}.reduce({value}, axis=0, keepdims=True, out={to})"]
        return [*lines, f"divide({to}, {op.args[0].shape[1]}, out={to})"] if op.name == "mean" else lines

    def zipped(self) -> str:
        """The head of the loop."""
        names, along = zip(*self.walked.values(), strict=True)
        return f"for {', '.join(names)}, in zip({', '.join(along)}):"


def masked(buffer: Buffer) -> str:
    """The mask of the rows that stand still, as it broadcasts over what lies in a buffer."""
    axes = len(buffer.shape)
    return "mask" if axes <= 2 else f"mask.reshape(-1{', 1' * (axes - 1)})"


def _continues(line: Instruction, after: Instruction) -> bool:
    """Whether two lines multiply one value with neighbours, into neighbours."""
    if not (line.do == after.do == "map" and line.name == after.name == "multiply"):
        return False
    (a, f), (b, g) = line.args, after.args
    places = all(isinstance(p, Place) for p in (a, b, f, g)) and a == b
    if not places or f.buffer is not g.buffer or f.buffer.time != "ahead" or line.out.buffer is not after.out.buffer:
        return False
    pairs = ((f, g), (line.out, after.out))
    return line.out.buffer.time in ("", "chunk") and all(
        p.hi is not None and p.hi == q.lo and p.hi - p.lo == q.hi - q.lo for p, q in pairs
    )
