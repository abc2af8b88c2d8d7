"""Pass 3, group: one matrix product for all gates that see the same things.

What a cell calls its gates is, on the tape, a sum of products and biases cut into blocks, or several such sums. Here each block becomes what it
is, rows of one affine map,

    z = [W_1 W_2 ... b] [v_1; v_2; ...; 1]

and the blocks that see the same v are stacked into one product per step. The logistic function is σ(z) = tanh(z/2)/2 + 1/2: the rows of blocks
that go into σ come first and are halved once, in the weights, so that a single tanh serves σ and tanh gates together.
"""

from __future__ import annotations

from typing import NamedTuple

from .expressions import Op, used


class Term(NamedTuple):
    """Rows lo:hi of the product of v and w."""

    v: Op
    w: Op
    transposed: bool  # w has the rows as its rows (v w^T); otherwise as its columns
    lo: int
    hi: int


class Affine(NamedTuple):
    """A sum of terms and of static vectors (vector, lo, hi)."""

    terms: tuple[Term, ...]
    biases: tuple[tuple[Op, int, int], ...]

    def rows(self, lo: int, hi: int) -> Affine:
        """Some rows of it."""
        terms = tuple(t._replace(lo=t.lo + lo, hi=t.lo + hi) for t in self.terms)
        return Affine(terms, tuple((b, at + lo, at + hi) for b, at, _ in self.biases))


class Block(NamedTuple):
    """Rows of a group: what they compute, and the activation through which alone it is used, if there is one."""

    op: Op
    affine: Affine
    activation: Op | None


class Group:
    """The blocks of one product, in the order of its rows: into σ, into tanh, and the rest."""

    def __init__(self, blocks: list[Block]):
        rank = {"sigmoid": 0, "tanh": 1}
        self.blocks = sorted(blocks, key=lambda b: (rank[b.activation.name] if b.activation else 2, b.affine.terms[0].lo))
        self.inputs = list(dict.fromkeys(t.v for t in blocks[0].affine.terms))
        self.columns: dict[Op, tuple[int, int]] = {}  # of its weights those that multiply an input; the plan says
        self.has_bias = any(b.affine.biases for b in blocks)
        ends = [0]
        for block in self.blocks:
            ends.append(ends[-1] + block.op.shape[-1])
        self.rows = {b.op: (lo, hi) for b, lo, hi in zip(self.blocks, ends, ends[1:])}
        widths = {name: sum(b.op.shape[-1] for b in self.blocks if b.activation and b.activation.name == name) for name in rank}
        self.sigmoids, self.activated, self.height = widths["sigmoid"], widths["sigmoid"] + widths["tanh"], ends[-1]
        self.dtype = blocks[0].op.dtype


def groups_of(outputs: list[Op], everything: list[Op]) -> list[Group]:
    """The groups of the step whose forward outputs these are; `everything`: the outputs of forward and backward, to see what is used where."""
    users: dict[Op, list[Op]] = {}
    for op in used(everything):
        for a in op.args:
            users.setdefault(a, []).append(op)
    forward = used(outputs)
    forms: dict[Op, Affine] = {}
    for op in forward:
        form = _affine(op, forms, users, everything)
        if form is not None:
            forms[op] = form
    absorbed = {a for op in forms for a in op.args if a in forms and not _is_needed(a, forms, users, everything)}
    blocks: dict[tuple[Op, ...], list[Block]] = {}
    for op, form in forms.items():
        if op not in absorbed and form.terms:
            blocks.setdefault(tuple(t.v for t in form.terms), []).append(Block(op, form, _activation(op, users, everything)))
    return [Group(found) for found in blocks.values()]


def _affine(op: Op, forms: dict[Op, Affine], users: dict[Op, list[Op]], everything: list[Op]) -> Affine | None:
    """The op as an affine map, if it is one that nobody needs halfway."""
    if op.kind == "product":
        v, w = op.args
        return Affine((Term(v, w, op.params[0], 0, op.shape[-1]),), ())
    if op.kind == "part" and op.args[0] in forms and not _is_needed(op.args[0], forms, users, everything):
        return forms[op.args[0]].rows(*op.params)
    if op.kind == "map" and op.name == "add":
        parts = [_summand(a, op, forms, users, everything) for a in op.args]
        if all(parts) and any(a in forms for a in op.args):
            terms, biases = zip(*[part for part in parts if part], strict=True)
            merged = sorted((t for part in terms for t in part), key=lambda t: (_late(t.v), t.v.number))
            return Affine(tuple(merged), tuple(b for part in biases for b in part))
    return None


def _late(v: Op) -> int:
    """x before states before what is computed within the step."""
    return 0 if v.params[:1] == ("x",) else 1 if v.kind == "input" else 2


def _summand(a: Op, total: Op, forms: dict[Op, Affine], users: dict[Op, list[Op]], everything: list[Op]) -> Affine | None:
    """A summand that the sum takes up: an affine map that serves nothing else, or a static vector."""
    if a in forms:
        return forms[a] if users[a] == [total] and a not in everything else None
    static = a.kind == "input" and a.params[0] == "static" and a.shape == total.shape[-1:]
    return Affine((), ((a, 0, a.shape[0]),)) if static else None


def _is_needed(a: Op, forms: dict[Op, Affine], users: dict[Op, list[Op]], everything: list[Op]) -> bool:
    """Whether somebody needs the numbers of an affine map as a whole."""
    if a in everything:
        return True
    if all(u.kind == "part" for u in users[a]):
        return False
    return not (len(users[a]) == 1 and users[a][0] in forms)


def _activation(op: Op, users: dict[Op, list[Op]], everything: list[Op]) -> Op | None:
    """The tanh or σ that is all that the op is computed for."""
    after = users.get(op, [])
    alone = len(after) == 1 and op not in everything and after[0].kind == "map" and after[0].name in ("tanh", "sigmoid")
    return after[0] if alone else None
