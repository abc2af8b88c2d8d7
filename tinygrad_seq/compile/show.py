"""What the passes find, as formulas: for readers. No pass needs this file."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from . import trace as tracing
from .adjoint import Step, swept
from .emit_numba import texts_of
from .expressions import Op, used
from .loop import Compiled, _some
from .storage import Place

_SIGNS = {"add": (1, " + "), "subtract": (1, " - "), "multiply": (2, " ⊙ "), "divide": (2, " / ")}
_FUNCTIONS = {"sigmoid": "σ"}


def formula(op: Op, names: Mapping[Op, str], whole: bool = False, tight: int = 0) -> str:
    """The op as a formula of the ops that have names. whole: even if it has one itself; tight: what it stands in binds so tightly."""
    if op in names and not whole:
        return names[op]
    binds, text = _written(op, names)
    return f"({text})" if binds < tight else text


def _written(op: Op, names: Mapping[Op, str]) -> tuple[int, str]:
    """How tightly the formula of an op binds, and the formula."""

    def of(k: int, tight: int = 0) -> str:
        return formula(op.args[k], names, tight=tight)

    if op.kind == "number":
        return 4, f"{op.params[0]:g}"
    if op.kind == "input":
        return 4, f"{op.params[0]}{op.params[1]}"
    if op.kind == "product":
        return 3, f"{of(0, 3)} {of(1, 4)}{'^T' if op.params[0] else ''}"
    if op.kind == "part":
        return 4, f"{of(0, 4)}[{op.params[0]}:{op.params[1]}]"
    if op.kind == "join":
        return 4, f"[{' | '.join(of(k) for k in range(len(op.args)))}]"
    if op.kind == "pick":
        return 4, f"{of(0, 4)}.{op.params[0]}"
    if op.name in ("multiply", "square") and op.args[0] is op.args[-1]:
        return 4, f"{of(0, 4)}²"
    if op.name in _SIGNS:
        binds, sign = _SIGNS[op.name]
        return binds, f"{of(0, binds)}{sign}{of(1, binds + (op.name != 'add'))}"
    if op.name == "negative":
        return 2, f"-{of(0, 2)}"
    if op.name == "transpose":
        return 4, f"{of(0, 4)}^T"
    if op.name == "matmul":
        return 3, f"{of(0, 3)} {of(1, 4)}"
    if op.name == "sum_to":
        return 3, f"Σ {of(0, 3)}"
    return 4, f"{_FUNCTIONS.get(op.name, op.name)}({', '.join(of(k) for k in range(len(op.args)))})"


def table(rows: Iterable[tuple[str, str]], sign: str = "=") -> str:
    """Lines `left = right`, aligned."""
    rows = list(rows)
    width = max((len(left) for left, _ in rows), default=0)
    return "\n".join(f"{left:<{width}} {sign} {right}" for left, right in rows)


class Reading:
    """A compiled loop pass by pass, in letters of one's own.

        print(Reading(loop, ["h", "c"], gates="ifgo").factored())

    states: a letter for each array of the state. gates: letters for the first activations, in the order in which the step computes them.
    arriving: what the gradient is called that arrives at each new state; shared: gradients that several others are made of.
    """

    def __init__(
        self,
        loop: Compiled,
        states: Sequence[str],
        gates: Sequence[str] = (),
        arriving: Sequence[str] = (),
        shared: Sequence[str] = (),
    ):
        self.loop, self.states, self.gates, self.shared = loop, list(states), list(gates), list(shared)
        self.arriving = list(arriving) or [f"d{s}_t" for s in states]
        self.plan = loop.variant(loop.everything).plan

    # ---- Pass by pass ------------------------------------------------------------------------------------------------------------------

    def traced(self) -> str:
        """The ops of one step, as they were recorded."""
        trace, inputs = self.loop.trace, {"x": ["x_t"], "state": self._old(), "static": self.loop.names}

        def at(place: tracing.Place) -> str:
            kind, k, *output = place
            if kind == "number":
                return f"{k:g}"
            if kind != "call":
                return inputs[kind][k]
            return f"v{k + 1}" if trace.calls[k].prim.name != "split" else f"v{k + 1}.{output[0]}"

        rows = []
        for k, call in enumerate(trace.calls):
            params = [f"{name}={value}" for name, value in call.params.items()]
            rows.append((f"v{k + 1}", f"{call.prim.name}({', '.join([*map(at, call.args), *params])})"))
        new = [(f"{s}_t", at(place)) for s, place in zip(self.states, trace.outputs, strict=False)]
        return table([*rows, *new])

    def equations(self) -> str:
        """The step as formulas."""
        names = self._named(self.plan.step)
        ops = [op for op in used(self.plan.step.outputs) if op in names and op.kind != "input"]
        return table((names[op], formula(op, names, whole=True)) for op in sorted(ops, key=lambda op: op.number))

    def swept(self) -> str:
        """The gradients of one step as the reverse sweep gives them."""
        loop, n = self.loop, len(self.states)
        x, *others = (_some(a) for a in (loop.x, *loop.states, *loop.statics))
        arrived = (True,) * n + (False,) * loop.collected
        return self._adjoint(swept(loop.trace, x, others[:n], others[n:], arrived, loop.everything), [])

    def factored(self) -> str:
        """The same as products of what arrives and factors of the forward pass."""
        return self._adjoint(self.plan.step, self.shared)

    def grouped(self) -> str:
        """The products of a step, block by block of their rows."""
        names, lines = self._named(self.plan.step), []
        for group, number in zip(self.plan.groups, range(1, len(self.plan.groups) + 1), strict=True):
            seen = [f"{names[v]} ({v.shape[-1]})" if v in names else str(v.shape[-1]) for v in group.inputs]
            seen.insert(1, "1") if group.has_bias else None
            lines.append(f"z{number} ({group.height}) = W{number} [{'; '.join(seen)}]")
            for block in group.blocks:
                lo, hi = group.rows[block.op]
                term = block.affine.terms[0]
                what = (
                    formula(block.activation, {**names, block.op: f"z{number}"}, whole=True) if block.activation else f"z{number}"
                )
                name = names.get(block.activation or block.op)
                what = f"{name} = {what}" if name else what
                halved = ", halved" if block.activation and block.activation.name == "sigmoid" else ""
                lines.append(f"    rows {f'{lo}:{hi}':<7} {what:<14} W: rows {term.lo}:{term.hi} of the weights{halved}")
        return "\n".join(lines)

    def kept(self) -> str:
        """What the forward loop keeps for each step, what is made again of it, and the factors that are made for many steps at once."""
        kept, names = self.plan.kept, self._named(self.plan.step)
        rows = [("kept", formula(op, names)) for op in kept.saved]
        rows += [("kept", f"{self.states[k]}_0 ... {self.states[k]}_T") for k in kept.states]
        again = [op for op in kept.ahead if op in kept.forward]
        rows += [
            ("made again", f"{names[op]} = {formula(op, names, whole=True)}" if op in names else formula(op, names)) for op in again
        ]
        rows += [("factor", formula(op, names)) for op in kept.factors if op not in kept.forward and op.kind == "map"]
        return table(rows, " ")

    def deferred(self) -> str:
        """What is added up for about a thousand rows at once, from what each step left."""
        names = self._named(self.plan.step, backward=True)
        rows = [(f"dL/d{left}", f"Σ_t {right}") for left, right in self._sums()]
        for through in self.plan.deferred.through:
            rows.append(("dL/dx_t", f"{names[through.delta]} {names[through.w]}{'^T' if through.transposed else ''}"))
        return table(rows)

    def _sums(self) -> list[tuple[str, str]]:
        """Which weights receive what, summed over all moments."""
        names, deferred = self._named(self.plan.step, backward=True), self.plan.deferred
        rows = [(o.static, f"{formula(o.left, names, tight=4)}^T {formula(o.right, names, tight=4)}") for o in deferred.outers]
        rows += [(total.static, names[total.delta]) for total in deferred.totals]
        return [(self.loop.names[static], right) for static, right in rows]

    def places(self) -> str:
        """What the text of the loops calls each value: the array that it lies in, and the rows."""
        plan, names = self.plan, self._named(self.plan.step, backward=True)
        found: dict[str, dict[str, None]] = {}
        for body in (plan.forward.body, plan.backward.body):
            for op, place in body.place.items():
                if (op in names or op in plan.kept.factors) and place.buffer.time != "static":
                    rows = "" if place.lo is None else f"[{place.lo}:{place.hi}]"
                    found.setdefault(formula(op, names), {})[place.buffer.name + rows] = None
        return table(((name, ", ".join(at)) for name, at in found.items()), " ")

    def for_numba(self) -> str:
        """The loops over time as Numba gets them."""
        return "\n".join(text.partition("\n\n\n")[2] for text in texts_of(self.plan, self.loop.names).loops)

    def beside(self, notes: str) -> str:
        """Each line of a derivation by hand, `name = formula`, the same as derived, and the lines of the text that compute it."""
        step, names = self.plan.step, self._named(self.plan.step, backward=True)
        derived = {name: (op, formula(op, names, whole=True)) for op, name in names.items() if op.linear and op.kind != "input"}
        for k, (c, name) in enumerate(zip(step.cotangents, self.arriving, strict=False)):
            g = step.g_states[k]
            if c is not None and g is not None:
                derived[name] = c, " + ".join([*(["g_t"] if k == 0 else []), _a_step_later(formula(g, names, whole=True))])
        by_hand = dict(re.findall(r"(?m)^ +(\w+) += +(.*?)(?:  .*)?$", notes))
        blocks = []
        for name in [*(n for n in by_hand if n in derived), *(n for n in derived if n not in by_hand)]:
            op, text = derived[name]
            lines = [f"{name} = {text}"]
            if name in by_hand:
                lines.insert(0, f"{name} = {by_hand[name].strip()}")
            written = self._lines_of(op)
            blocks += ["\n".join([*lines, *(f"    {line}" for line in written)])] if written else []
        program = self.loop.backward.splitlines()
        for left, right in self._sums():
            k = self.loop.names.index(left)
            summed = [line.strip() for line in program if re.search(rf"\bg{k}_total \+=|out=g{k}_total\b", line)]
            blocks.append("\n".join([f"dL/d{left} = Σ_t {right}", *(f"    {line}" for line in summed)]))
        return "\n\n".join(blocks)

    def _lines_of(self, op: Op) -> list[str]:
        """The lines of the text of `backward` that make the factor of a gradient, then those that write to where the gradient lies."""
        body = self.plan.backward.body
        products = [op, *(a for a in op.args if a.linear and op.name in ("add", "subtract"))]
        factors = [a for product in products for a in product.args if a in self.plan.kept.factors and a.kind == "map"]
        lines = [line.strip() for line in self.loop.backward.splitlines() if ", out=" in line and "still" not in line]
        found = [line for factor in factors for line in _made_by(lines, body.place[factor])]
        return found + [line for line in lines if _writes(line, body.place[op])]

    # ---- Letters -------------------------------------------------------------------------------------------------------------------------

    def _old(self) -> list[str]:
        return [f"{s}_(t-1)" for s in self.states]

    def _named(self, step: Step, backward: bool = False) -> dict[Op, str]:
        """The letters of a step."""
        letters = zip([step.x, *step.states, *step.statics], ["x_t", *self._old(), *self.loop.names], strict=True)
        names = dict(letters)
        names |= {c: name for c, name in zip(step.cotangents, self.arriving, strict=False) if c is not None}
        names |= {op: f"{s}_t" for s, op in zip(self.states, step.outputs, strict=False) if op not in names}
        forward = sorted(used(step.outputs), key=lambda op: op.number)
        activations = [op for op in forward if op.kind == "map" and len(op.args) == 1 and op not in names]
        names |= dict(zip(activations, self.gates, strict=False))
        uses = _uses(step.outputs)
        rest = [op for op in forward if uses[op] > 1 and op not in names and not _is_plain(op, names)]
        names |= {op: f"z{k}" for k, op in enumerate(rest, 1)} if len(rest) > 1 else dict.fromkeys(rest, "z")
        return names | dict(self._gradients(step, names, self.shared)) if backward else names

    def _gradients(self, step: Step, names: Mapping[Op, str], shared: Sequence[str]) -> Iterator[tuple[Op, str]]:
        """Letters for gradients that several others are made of: those that were given, and δ for what the weights receive."""
        ends = [g for g in (step.g_x, *step.g_states, *step.g_statics) if g is not None]
        uses = _uses(ends)
        deltas = [a for g in step.g_statics if g is not None for a in _rows(g)]
        deltas = [op for op in dict.fromkeys(deltas) if op not in names]
        yield from ((op, "δ_t" if len(deltas) == 1 else f"δ{k}_t") for k, op in enumerate(deltas, 1))
        joins = [op for op in deltas if op.kind == "join" and len(op.args) == len(self.gates)]
        pieces = {a: f"d{name}" for op in joins[-1:] for a, name in zip(op.args, self.gates, strict=True)}
        yield from pieces.items()
        names = {**names, **pieces}
        several = [op for op in used(ends) if uses[op] > 1 and op.linear and op not in names and op not in deltas]
        several = [op for op in several if op.kind in ("map", "product")]
        yield from zip(several, [*shared, *(f"e{k}_t" for k in range(1, len(several) + 1))], strict=False)

    def _adjoint(self, step: Step, letters: Sequence[str]) -> str:
        names = self._named(step)
        shared = dict(self._gradients(step, names, letters))
        names |= shared
        rows = [(name, formula(op, names, whole=True)) for op, name in sorted(shared.items(), key=lambda item: item[0].number)]
        ends = [
            ("x_t", step.g_x),
            *zip(self._old(), step.g_states, strict=True),
            *zip(self.loop.names, step.g_statics, strict=True),
        ]
        rows += [(f"to {name}", formula(g, names)) for name, g in ends if g is not None]
        return table(rows)


def _out(line: str) -> str:
    return line.rpartition(", out=")[2].removesuffix(")")


def _covers(rows: tuple[str | None, ...], place: Place) -> bool:
    """Whether these rows of a buffer, as the text has them (None: all), contain a place."""
    height = place.buffer.shape[0] if place.buffer.shape else 1
    lo, hi = (height if row is None else int(row) for row in rows)
    return (rows[0] is None or lo <= (place.lo or 0)) and (height if place.hi is None else place.hi) <= hi


def _writes(line: str, place: Place) -> bool:
    """Whether a line of the innermost loop writes to a place."""
    found = re.fullmatch(rf"{place.buffer.name}(?:_(\d+)_(\d+))?(?:_t)?(?:_blocks|_each)?", _out(line))
    return found is not None and _covers(found.groups(), place)


def _made_by(lines: Sequence[str], place: Place) -> list[str]:
    """The lines that what lies at a place, for many moments, is made by: back from the last that writes there, to all that they read."""
    found: list[str] = []
    needed: set[str] = set()
    for line in reversed(lines):
        out = _out(line)
        rows = re.fullmatch(rf"{place.buffer.name}\[:[^],]*(?:, (\d+):(\d+))?\]", out)
        if out in needed or (rows and not found and _covers(rows.groups(), place)):
            read = re.findall(r"\w+\[[^]]*\]", line.rpartition(", out=")[0])
            needed = (needed - {out}) | set(read)
            found.append(line)
    return found[::-1]


def _a_step_later(text: str) -> str:
    return re.sub(r"_\(t-1\)|_t\b", lambda found: "_t" if "(" in found[0] else "_(t+1)", text)


def _uses(outputs: Sequence[Op]) -> dict[Op, int]:
    """How often each op is an argument, or is asked for."""
    uses: dict[Op, int] = dict.fromkeys(outputs, 1)
    for op in used(outputs):
        uses.setdefault(op, 0)
        for a in op.args:
            uses[a] = uses.get(a, 0) + 1
    return uses


def _is_plain(op: Op, names: Mapping[Op, str]) -> bool:
    """Whether the formula of an op is as good as a name."""
    return op.kind in ("input", "number") or (len(op.args) == 1 and (op.args[0] in names or _is_plain(op.args[0], names)))


def _rows(g: Op) -> Iterator[Op]:
    """The gradients of one moment that the gradient of a weight is made of: δ in δ^T v, and in Σ δ."""
    parts: tuple[Any, ...] = g.args if g.kind == "map" and g.name == "add" else (g,)
    for part in parts:
        if part.kind == "call" and part.name == "matmul" and part.args[0].name == "transpose":
            yield from (a for a in (part.args[0].args[0], part.args[1]) if a.linear)
        elif part.kind == "call" and part.name == "sum_to":
            yield part.args[0]
