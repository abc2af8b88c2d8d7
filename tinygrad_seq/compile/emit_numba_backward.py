"""The loop for Numba that runs back through time: the deltas of some steps, and then, with BLAS, what they add to the gradients of weights."""

from __future__ import annotations

from typing import Any

from .emit_numba_forward import Forward
from .emit_numba_loops import Loop, state_at
from .emit_numba_maps import Simpler
from .emit_numba_places import CODES, Array, Place, Sum
from .expressions import Op
from .plan import Plan
from .trace import Untraceable, why

ROWS = 512  # rows (t x B) of deltas from which gradients of weights are made at once


class Backward(Loop):
    """The loop that runs back through time."""

    def __init__(self, plan: Plan, weights: list[str], see: Simpler, forward: Forward):
        super().__init__("backward", plan, weights, see)
        step, steps, deferred = plan.step, self.steps, plan.deferred
        code = f"{CODES[self.dtype.name]}[:,:,::1]"
        self.given_back = forward.results
        self.give("hs", code, "hs")
        self.give("g_hs", code, "g_hs")
        steps.source(step.x, Place(Array("x", "xs[m]", 2, step.x.shape[1], self.dtype)))
        self.give("xs", code, "xs")
        for k in plan.kept.states:
            if k:
                self.give(f"s{k}", code, f"s{k}")
            old = Array(f"s{k}" if k else "h", state_at(plan, k, "before"), 2, step.states[k].shape[1], self.dtype)
            steps.source(step.states[k], Place(old))
        for k in plan.kept.states:
            if step.outputs[k].kind != "number" and see(step.outputs[k]) not in steps.sources:
                new = Array(f"s{k}_new" if k else "h_new", state_at(plan, k, "after"), 2, step.states[k].shape[1], self.dtype)
                steps.source(step.outputs[k], Place(new))
        for i, op in enumerate(plan.kept.saved, 1):
            self.give(f"kept{i}", f"{CODES[op.dtype.name]}[:,:,::1]", f"kept{i}")
            steps.source(op, Place(Array(f"kept{i}", f"kept{i}[m]", 2, op.shape[1] if op.ndim == 2 else 1, op.dtype)))
        n = len(step.states)
        for k, c in enumerate(step.cotangents):
            if k < n:
                self.stack(f"d{k}", step.states[k], "2")
            if c is not None and k < n:
                d = Place(Array(f"d{k}", f"d{k}[old]", 2, c.shape[1], c.dtype))
                steps.source(c, d, *([Place(Array("g_h", "g_h", 2, c.shape[1], c.dtype))] if k == 0 else []))
            elif c is not None:
                self.give(f"g{k}", f"{CODES[c.dtype.name]}[:,:,::1]", f"g{k}")
                steps.source(c, Place(Array(f"g{k}", f"g{k}[m]", 2, c.shape[1], c.dtype)))
        self.news = [Array(f"d{k}_new", f"d{k}[new]", 2, s.shape[1], s.dtype) for k, s in enumerate(step.states)]
        self.leaves: dict[Op, int] = {}  # what is gathered, by number
        self.rules: dict[str, Any] = {}  # what is done to sums over time
        self.tails = [(k, self._tail(op)) for k, op in deferred.each]
        for op in deferred.gathered:
            self.leaves.setdefault(op, len(self.leaves))
        self._sums()
        for k, g in enumerate(step.g_states):
            if g is not None and not any(total.array is self.news[k] for total in steps.sums):
                steps.sink(g, Place(self.news[k]))
        for op, i in self.leaves.items():
            self.stack(f"delta{i}", op, "chunk")
            steps.sink(op, Place(Array(f"delta{i}", f"delta{i}[m - lo]", 2, op.shape[1], op.dtype)))
        if deferred.x is not None:
            steps.sink(deferred.x, Place(Array("g_x", "g_xs[m]", 2, step.x.shape[1], self.dtype)))
        if deferred.x is not None or deferred.through:
            self.give("g_xs", code, "g_xs")
        for name in ["g_xs", *(f"delta{self.leaves[t.delta]}" for t in deferred.through)] if deferred.through else []:
            self.rows_of(name)
        self.through = [(self.leaves[t.delta], self.weight(self.matrix(t.w, t.transposed))) for t in deferred.through]
        for k, s in enumerate(step.states):
            self.stack(f"parked{k}", s, "")
            self.made.append(f"parked{k}[:] = 0")
        self.array("g_parked", "", (self.B, step.states[0].shape[1]), self.dtype)
        self.finish()

    def _sums(self) -> None:
        """Products that only a sum uses are added up in place: on what else there is, in the memory of a state's cotangent if it is one."""
        step, steps, see = self.plan.step, self.steps, self.see
        targets = [
            *(g for g in step.g_states if g is not None),
            *self.leaves,
            *([self.plan.deferred.x] if self.plan.deferred.x else []),
        ]
        uses: dict[Op, int] = {}
        order: list[Op] = []
        stack = [see(op) for op in targets]
        for op in stack:
            uses[op] = uses.get(op, 0) + 1
        while stack:
            op = stack.pop()
            if op in order or op in steps.sources:
                continue
            order.append(op)
            for a in map(see, op.args):
                uses[a] = uses.get(a, 0) + 1
                stack.append(a)
        homes = {
            see(g): self.news[k] for k, g in reversed(list(enumerate(step.g_states))) if g is not None and see(g).shape == g.shape
        }

        def summands(op: Op) -> list[Op]:
            return [
                part
                for a in map(see, op.args)
                for part in (summands(a) if a.kind == "map" and a.name == "add" and uses[a] == 1 and a.shape == op.shape else [a])
            ]

        taken: set[Op] = set()
        for op in sorted(order, key=lambda op: -op.number):
            if op in taken or op in steps.sources:
                continue
            parts = summands(op) if op.kind == "map" and op.name == "add" and op.ndim == 2 else [op]
            products = [a for a in parts if a.kind == "product" and (a is op or uses[a] == 1)]
            if not products:
                continue
            rest = [a for a in parts if a not in products]
            base = None
            for a in rest:
                base = a if base is None else see(step.make.map("add", base, a))
            if base is not None and base.shape != op.shape:
                continue
            taken.update(products)
            array = homes.get(op) or Array(f"sum{len(steps.sums) + 1}", f"sum{len(steps.sums) + 1}", 2, op.shape[1], op.dtype)
            if op not in homes:
                self.array(array.name, "", (self.B, op.shape[1]), op.dtype)
            terms = [(a.args[0], self.weight(self.matrix(a.args[1], a.params[0]))) for a in products]
            steps.sum(Sum(array, terms, base), {op: [Place(array)]})

    def _tail(self, op: Op) -> str:
        """A gradient that is no sum of outer products, computed of the sums over time of what it is linear in."""
        if op.linear and op.ndim == 2 and op.shape[0] == self.B and self._is_told(op):
            i = self.leaves.setdefault(op, len(self.leaves))
            return f"delta{i}[: hi - lo].sum(axis=0)"
        if not op.linear and op.kind == "number":
            return repr(op.params[0])
        if not op.linear and op.kind == "input" and op.params[0] == "static":
            return str(self.weights[op.params[1]])
        if not op.linear or op.fn is None:
            raise Untraceable(
                why(f"the gradient of a weight comes of {op.name} {op.shape}", expected="sums and products of rows for Numba")
            )
        name = f"rule{len(self.rules) + 1}"
        self.rules[name] = op.fn
        return f"{name}({', '.join(map(self._tail, op.args))})"

    def _is_told(self, op: Op) -> bool:
        """Whether the step can compute it."""
        try:
            self.see(op)
        except Untraceable:
            return False
        return True

    def loops(self) -> str:
        """The compiled module."""
        step = self.plan.step
        body = ["T, B, D = xs.shape", "for i in range(hi - lo):", "    m = lo + i if back else hi - 1 - i"]
        inner = ["before, after, old, new = m + back, m + 1 - back, m % 2, 1 - m % 2", "g_h = g_hs[m if len(g_hs) > 1 else 0]"]
        inner += ["if len(still):", "    put(g_h, g_parked)", "    g_h = g_parked", "    park(still[m], g_h, parked0)"]
        inner += [f"    park(still[m], d{k}[old], parked{k})" for k in range(len(step.states))]
        inner += [f"clear(d{k}[new])" for k, g in enumerate(step.g_states) if g is None]
        inner += self.step_lines(self.last_stage)
        inner.append("if len(still):")
        inner += [f"    release(still[m], parked{k}, d{k}[new])" for k in range(len(step.states))]
        body += ["    " + line for line in inner]
        if self.through:
            here, there = "g_xs_rows[lo * B : hi * B]", "_rows[: (hi - lo) * B]"
            body += [f"clear({here})"] if self.plan.deferred.x is None else []
            body += [f"product({w}, delta{i}{there}, {here})" for i, w in self.through]
        return self.text(self.function(["lo", "hi"], body))

    def rows(self, v: Op) -> str:
        """The rows of a value over the steps lo:hi, (t x B, width)."""
        if v in self.leaves:
            return f"delta{self.leaves[v]}[: hi - lo].reshape(-1, {v.shape[1]})"
        kept = self.plan.kept
        if v in kept.saved:
            return f"kept{kept.saved.index(v) + 1}[lo:hi].reshape(-1, {v.shape[1]})"
        if v.kind == "input" and v.params[0] == "x":
            return f"xs[lo:hi].reshape(-1, {v.shape[1]})"
        if v.kind == "input" and v.params[0] == "state":
            k = v.params[1]
            return f"{f's{k}' if k else 'hs'}[lo + back : hi + back].reshape(-1, {v.shape[1]})"
        if v.kind == "part":
            return f"{self.rows(v.args[0])}[:, {v.params[0]}:{v.params[1]}]"
        k = kept.news[v]
        return f"{f's{k}' if k else 'hs'}[lo + 1 - back : hi + 1 - back].reshape(-1, {v.shape[1]})"

    def driver(self) -> str:
        """The function that Python calls."""
        plan, step = self.plan, self.plan.step
        lines = [f"{', '.join(self.weights)}, = weights"] if self.weights else []
        lines += [f"{', '.join(self.given_back)}, = saved"] if self.given_back else []
        lines += ["back = runs_back(hs)", "xs, hs, g_hs = in_memory(xs, back), hs[::-1] if back else hs, in_memory(g_hs, back)"]
        lines += ["T = len(xs)", f"sizes = ({', '.join(map(str, self.sizes.values))},)"]
        lines += [f"still = rows_still(masks, T, {self.B}, back)", f"chunk = min(T, {max(1, ROWS // self.B)})"]
        lines += ["g_all, g_xs = g_xs, None if g_xs is None else room_for(g_xs, back)"] if "g_xs" in self.given else []
        for j, c in enumerate(step.cotangents[len(step.states) :]):
            if c is not None:
                lines.append(f"g{j + len(step.states)} = in_memory(g_more[{j}], back)")
        lines += self.made
        lines += [f"d{k}[0 if back else (T - 1) % 2] = g_last[{k}]" for k in range(len(step.states))]
        lines += [
            f"g{k}_total = zeros({self.weights[k]}.shape, {self.weights[k]}.dtype)"
            for k, g in enumerate(step.g_statics)
            if g is not None
        ]
        lines.append("for lo, hi in spans(T, chunk, back):")
        lines.append("    " + self.call(["lo", "hi"]))
        flush = [f"add_product(g{o.static}_total, {self.rows(o.left)}, {self.rows(o.right)})" for o in plan.deferred.outers]
        totals = dict.fromkeys(self.leaves[t.delta] for t in plan.deferred.totals)
        ops = {i: op for op, i in self.leaves.items()}
        flush += [f"total{i} = sum_of_rows({self.rows(ops[i])})" for i in totals]
        flush += [f"g{t.static}_total += total{self.leaves[t.delta]}" for t in plan.deferred.totals]
        flush += [f"g{k}_total += {tail}" for k, tail in self.tails]
        lines += ["    " + line for line in flush]
        if "g_xs" in self.given:
            lines.append("put_back(g_all, g_xs, back)")
        lines.append("new = T % 2 if back else 1")
        totals_ = ["None" if g is None else f"g{k}_total" for k, g in enumerate(step.g_statics)]
        states = ", ".join(f"d{k}[new]" for k in range(len(step.states)))
        lines.append(f"return ({states},), ({', '.join(totals_)}{',' if totals_ else ''})")
        return (
            "def backward(xs, hs, weights, masks, saved, g_hs, g_last, g_more, g_xs):\n"
            + "\n".join("    " + line for line in lines)
            + "\n"
        )
