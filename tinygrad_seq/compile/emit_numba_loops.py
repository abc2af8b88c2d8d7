"""What both loops for Numba have in common: the step between them and Python, what is handed over, and the text around it."""

from __future__ import annotations

from typing import Any

import numpy as np

from .emit_numba_maps import Simpler
from .emit_numba_places import CODES, Array, Place, Sizes
from .emit_numba_steps import Steps
from .expressions import Op
from .plan import Plan

HEAD = '''"""A compiled time loop of tinygrad_seq."""

import numpy as np
from math import erf, sqrt

from tinygrad_seq.compile.numba_loops import clear, hold, largest, loop, park, pointwise, put, release, smallest, total
from tinygrad_seq.compile.numba_math import exp, expm1, log, log1p, sigmoid, tanh
from tinygrad_seq.compile.numba_products import product

f = np.{dtype}
zero, one = f(0), f(1)
'''


class Loop:
    """One of both loops: its step, what the compiled function is given, and how Python calls it."""

    def __init__(self, name: str, plan: Plan, weights: list[str], see: Simpler):
        self.name, self.plan, self.weights, self.see = name, plan, weights, see
        step = plan.step
        self.B, self.dtype = step.states[0].shape[0], step.states[0].dtype
        every = [step.x, *step.states, *(s for s in step.outputs if s.ndim)]
        self.sizes = Sizes(self.B, {see.width(op) for op in every} | {n for s in step.statics for n in s.shape})
        self.steps = Steps(name, see, self.sizes, self.dtype)
        self.given: dict[str, tuple[str, str]] = {}  # parameter of the compiled function -> its type, what Python hands over
        self.made: list[str] = []  # lines of Python before the loop
        self.packed: dict[str, str] = {}
        for k, s in enumerate(step.statics):
            if s.ndim <= 2 and (s.dtype == self.dtype or s.dtype == bool):
                array = self._static(k, s)
                self.steps.source(s, Place(array))

    def _static(self, k: int, s: Op) -> Array:
        single = s.ndim == 2 and s.shape[0] == 1
        if s.ndim == 2 and s.shape[0] not in (1, self.B):
            return Array(f"weight{k}", f"weight{k}", 2, s.shape[1], s.dtype)  # of products alone
        return Array(f"weight{k}", f"weight{k}", max(1, s.ndim), s.shape[-1] if s.ndim else 1, s.dtype, single)

    def give(self, name: str, code: str, expression: str) -> str:
        """Hand something over to the compiled function."""
        self.given[name] = (code, expression)
        return name

    def array(self, name: str, lead: str, shape: tuple[int, ...], dtype: Any) -> str:
        """Make an array (lead, *shape) before the loop, and hand it over."""
        whole = ", ".join([*([lead] if lead else []), *map(str, shape)])
        self.made.append(f'{name} = empty(({whole}), "{np.dtype(dtype).name}")')
        return self.give(name, f"{CODES[np.dtype(dtype).name]}[{':,' * (len(shape) - 1 + bool(lead))}::1]", name)

    def stack(self, name: str, op: Op, lead: str = "T") -> str:
        """A stack over time of values (B, width)."""
        return self.array(name, lead, (self.B, op.shape[1] if op.ndim == 2 else 1), op.dtype)

    def rows_of(self, name: str) -> str:
        """Hand over a stack (T, B, width) as its rows (T x B, width) once more."""
        return self.give(f"{name}_rows", f"{CODES[self.dtype.name]}[:,::1]", f"{name}.reshape(-1, {name}.shape[-1])")

    def weight(self, expression: str) -> str:
        """A packed weight, (M, K) as it stands in v w^T."""
        if expression not in self.packed:
            self.packed[expression] = f"packed{len(self.packed) + 1}"
            name = self.packed[expression]
            self.made.append(f"{name} = pack({expression})")
            self.give(name, f"{CODES[self.dtype.name]}[:,:,::1]", name)
        return self.packed[expression]

    def matrix(self, w: Op, transposed: bool) -> str:
        """A static as the w of v w^T."""
        return f"{self.weights[w.params[1]]}{'' if transposed else '.T'}"

    def finish(self) -> None:
        """Arrange the step, and hand over what its stages use."""
        self.steps.arrange()
        for array in self.steps.scratch:
            self.array(array.name, "", (1 if array.single else self.B, array.width), array.dtype)
        for array in dict.fromkeys(a for _, arrays, _ in self.steps.functions for a in arrays):
            if array.name.startswith("weight"):
                name = self.weights[int(array.name[6:])]
                shaped = f"plain(ravel({name}))" if array.ndim == 1 else f"plain({name})"
                self.give(array.name, f"{CODES[array.dtype.name]}[{':,' * (array.ndim - 1)}::1]", shaped)

    def step_lines(self, last: int) -> list[str]:
        """What happens in a step: products and stages in turn."""
        lines = []
        for stage in range(last + 1):
            for total in self.steps.ordered:
                if total.stage == stage:
                    if total.base is None and not total.array.at.startswith("z"):
                        lines.append(f"clear({total.array.at})")
                    for array, (_, w) in zip(total.arguments, total.terms, strict=True):
                        lines.append(f"product({w}, {array.at}, {total.array.at})")
            lines += self.steps.calls(stage)
        return lines

    @property
    def last_stage(self) -> int:
        """The number of the last stage, or of the last product."""
        return max([node.stage for node in self.steps.nodes] + [total.stage for total in self.steps.sums], default=0)

    def function(self, scalars: list[str], body: list[str]) -> str:
        """The compiled function."""
        names = ["sizes", "still", "back", *scalars, *self.given]
        codes = [f"UniTuple(u4, {len(self.sizes.values)})", "b1[:,::1]", *["i8"] * (1 + len(scalars))]
        codes += [code for code, _ in self.given.values()]
        head = f'@loop("void({", ".join(codes)})")\ndef {self.name}_loop({", ".join(names)}):'
        return "\n".join([head, *("    " + line for line in body)])

    def call(self, scalars: list[str]) -> str:
        """How Python calls it."""
        return f"{self.name}_loop(sizes, still, back, {', '.join([*scalars, *(e for _, e in self.given.values())])})"

    def text(self, body: str) -> str:
        """The module that is compiled."""
        return HEAD.format(dtype=self.dtype.name) + "\n\n" + "\n\n\n".join(t for t in (self.steps.text(), body) if t) + "\n"


def state_at(plan: Plan, k: int, when: str) -> str:
    """How the loop calls a state before or after the step: it has a stack of its own, or two places in turn."""
    if k == 0:
        return f"hs[{when}]"
    return f"s{k}[{when}]" if k in plan.kept.states else f"s{k}[({when}) % 2]"
