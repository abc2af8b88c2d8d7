"""The forward loop for Numba: what x alone contributes is multiplied for some steps at once, the rest step by step."""

from __future__ import annotations

from typing import Any

from .emit_numba_loops import Loop, state_at
from .emit_numba_maps import Simpler
from .emit_numba_places import CODES, Array, Place, Sum
from .group import Group, Term
from .plan import Plan
from .trace import Untraceable, why

AHEAD = 256  # rows (t x B) of products with x that are made at once: they stay in the cache


class Forward(Loop):
    """The forward loop."""

    def __init__(self, plan: Plan, weights: list[str], see: Simpler):
        super().__init__("forward", plan, weights, see)
        step, steps = plan.step, self.steps
        code = f"{CODES[self.dtype.name]}[:,:,::1]"
        self.give("xs", code, "xs")
        self.give("hs", code, "hs")
        steps.source(step.x, Place(Array("x", "xs[m]", 2, step.x.shape[1], self.dtype)))
        self.results: list[str] = []  # what is kept
        self.lasts: list[str] = []
        olds = []
        for k, s in enumerate(step.states):
            if k:
                self.stack(f"s{k}", s, "T + 1" if k in plan.kept.states else "2")
                self.results += [f"s{k}"] if k in plan.kept.states else []
            olds.append(Array(f"s{k}" if k else "h", state_at(plan, k, "before"), 2, s.shape[1], s.dtype))
            steps.source(s, Place(olds[k]))
        self.ahead: list[tuple[str, str]] = []  # packed weights, and the z that they add to
        for number, group in enumerate(plan.groups, 1):
            self._group(number, group)
        for i, op in enumerate(plan.kept.saved, 1):
            name = self.stack(f"kept{i}", op)
            self.results.append(name)
            steps.sink(op, Place(Array(name, f"{name}[m]", 2, op.shape[1] if op.ndim == 2 else 1, op.dtype)))
        self.news = []
        for k, s in enumerate(step.states):
            new = Array(f"s{k}_new" if k else "h_new", state_at(plan, k, "after"), 2, s.shape[1], s.dtype)
            self.news.append(new)
            steps.sink(step.outputs[k], Place(new))
        self.collected = []
        for j, op in enumerate(step.outputs[len(step.states) :]):
            if op.ndim != 2 or op.shape[0] != self.B:
                raise Untraceable(why(f"it collects {op.shape}", expected="values (B, width) for Numba"))
            name = self.stack(f"collected{j}", op)
            self.collected.append(name)
            steps.sink(op, Place(Array(name, f"{name}[m]", 2, op.shape[1], op.dtype)))
        self.finish()
        self.olds = olds

    def _group(self, number: int, group: Group) -> None:
        """The products of a group: those with x for some steps at once, those with states at each step."""
        blocks = sorted(group.blocks, key=lambda b: (b.affine.terms[0].w.number, b.affine.terms[0].lo))
        step = self.plan.step
        at_x = [i for i, term in enumerate(blocks[0].affine.terms) if term.v is step.x]
        z = Array(f"z{number}", f"z{number}[m - lo]" if at_x else f"u{number}", 2, group.height, group.dtype)
        self.array(f"z{number}" if at_x else f"u{number}", "chunk" if at_x else "", (self.B, group.height), group.dtype)
        terms = []
        for i, term in enumerate(blocks[0].affine.terms):
            w = self.weight(self._stacked([b.affine.terms[i] for b in blocks]))
            if i in at_x:
                self.ahead.append((w, self.rows_of(f"z{number}").removesuffix("_rows")))
                self.rows_of("xs")
            else:
                terms.append((term.v, w))
        bias = Array(f"bias{number}", f"bias{number}", 1, group.height, group.dtype) if group.has_bias else None
        places, first = {}, 0
        for block in blocks:
            places[block.op] = [Place(z, first), *([Place(bias, first)] if bias else [])]
            first += block.op.shape[1]
        if bias:
            self._bias(bias.name, group.height, [b.affine.biases for b in blocks], [p[0].first for p in places.values()])
        self.steps.sum(Sum(z, terms), places)

    def _bias(self, name: str, height: int, biases: list[Any], firsts: list[int]) -> None:
        """The static vectors that are added to a product: as they are, or cut into blocks."""
        self.give(name, f"{CODES[self.dtype.name]}[::1]", name)
        wholes = {b for block in biases for b, _, _ in block}
        pieces = [(b, lo, hi) for block in biases for b, lo, hi in block]
        aligned = all(lo == first for block, first in zip(biases, firsts, strict=True) for _, lo, _ in block)
        if aligned and len(pieces) == len(wholes) * len(biases) and all(b.shape == (height,) for b in wholes):
            whole = " + ".join(self.weights[b.params[1]] for b in sorted(wholes, key=lambda b: b.number))
            self.made.append(f"{name} = plain({whole})")
            return
        self.made.append(f'{name} = zeros({height}, "{self.dtype.name}")')
        for block, first in zip(biases, firsts, strict=True):
            for b, lo, hi in block:
                rows = "" if (lo, hi) == (0, b.shape[0]) else f"[{lo}:{hi}]"
                self.made.append(f"{name}[{first}:{first + hi - lo}] += {self.weights[b.params[1]]}{rows}")

    def _stacked(self, terms: list[Term]) -> str:
        """The rows of weights of some blocks, one below the other."""
        runs = [terms[0]]
        for term in terms[1:]:
            if (term.w, term.transposed, term.lo) == (runs[-1].w, runs[-1].transposed, runs[-1].hi):
                runs[-1] = runs[-1]._replace(hi=term.hi)
            else:
                runs.append(term)
        pieces = []
        for w, transposed, lo, hi in [term[1:] for term in runs]:
            whole = (lo, hi) == (0, w.shape[0 if transposed else 1])
            pieces.append(self.matrix(w, transposed) + ("" if whole else f"[{lo}:{hi}]"))
        return pieces[0] if len(pieces) == 1 else f"concatenate(({', '.join(pieces)}))"

    def loops(self) -> str:
        """The compiled module."""
        body = ["T, B, D = xs.shape", "for first in range(0, T, chunk):", "    n = min(chunk, T - first)"]
        body.append("    lo = T - first - n if back else first")
        filled = []
        for w, z in self.ahead:
            if z not in filled:
                filled.append(z)
                body.append(f"    clear({z}_rows[: n * B])")
            body.append(f"    product({w}, xs_rows[lo * B : (lo + n) * B], {z}_rows[: n * B])")
        body += ["    for t in range(first, first + n):", "        m = T - 1 - t if back else t"]
        body += ["        before, after = m + back, m + 1 - back"]
        body += ["        " + line for line in self.step_lines(self.last_stage)]
        body.append("        if len(still):")
        body += [f"            hold(still[m], {old.at}, {new.at})" for old, new in zip(self.olds, self.news, strict=True)]
        return self.text(self.function(["chunk"], body))

    def driver(self) -> str:
        """The function that Python calls."""
        step = self.plan.step
        lines = [f"{', '.join(self.weights)}, = weights"] if self.weights else []
        lines += ["back = runs_back(hs)", "xs, hs = in_memory(xs, back), hs[::-1] if back else hs", "T = len(xs)"]
        lines += [f"sizes = ({', '.join(map(str, self.sizes.values))},)", f"still = rows_still(masks, T, {self.B}, back)"]
        lines.append(f"chunk = {f'min(T, {max(1, AHEAD // self.B)})' if self.ahead else 'T'}")
        lines += self.made
        lines.append("first, last = (T, 0) if back else (0, T)")
        lasts = ["hs[last].copy()"]
        for k in range(1, len(step.states)):
            turn = "" if k in self.plan.kept.states else " % 2"
            lines.append(f"s{k}[first{turn}] = states[{k}]")
            lasts.append(f"s{k}[last{turn}].copy()")
        lines.append(self.call(["chunk"]))
        more = ", ".join(f"{name}[::-1] if back else {name}" for name in self.collected)
        kept = ", ".join(self.results)
        lines.append(f"return ({', '.join(lasts)},), ({more}{',' if more else ''}), ({kept}{',' if kept else ''})")
        return "def forward(xs, hs, states, weights, masks):\n" + "\n".join("    " + line for line in lines) + "\n"
