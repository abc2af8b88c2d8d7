"""A derivation as text: the equations of a step, the sum of products, its factors and its terms. Plain, and in LaTeX."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..compile.show import table
from ..graph import Node
from .ledger_text import ranges
from .notation import LATEX, PLAIN, Writing, symbol
from .rules import names_of, rule

if TYPE_CHECKING:
    from .derivation import Derivation, Loop

ENDS, SHORT, SPELLED = 3, 8, 4  # a loop longer than SHORT shows ENDS steps at each end; a product longer than SPELLED is elided


def shown(count: int, full: bool) -> list[int | None]:
    """Which of so many steps are printed; None stands for those between."""
    if full or count <= SHORT:
        return list(range(count))
    return [*range(ENDS), None, *range(count - ENDS, count)]


# ---- The sum of products ------------------------------------------------------------------------------------------------------------------


class Letters:
    """How the factors of a loop are written."""

    def __init__(self, der: Derivation, loop: Loop, w: Writing):
        self.w, self.loop, self.W = w, loop, symbol(der.name, w)
        self.parts = list(loop.parts)
        self.s = self.parts[0] if len(self.parts) == 1 else "s"
        self.last = [link.time for link in loop.links if np.any(link.direct)]

    def at(self, t: Any) -> str:
        """The state at a time."""
        return f"{self.s}_{{{t}}}" if self.w.latex else f"{self.s}_{t}" if str(t).isalnum() else f"{self.s}_({t})"

    def direct(self, t: Any) -> str:
        """How the loss reads the state."""
        return self.w.ratio("L", self.at(t), partial=True)

    def jump(self, t: Any, s: Any) -> str:
        """The Jacobian of one step."""
        return self.w.ratio(self.at(t), self.at(s)) if self.w.latex else f"d{self.at(t)}/d{self.at(s)}"

    def immediate(self, t: Any) -> str:
        """The immediate derivative."""
        return self.w.ratio(self.at(t), self.W, partial=True)

    def sum(self) -> str:
        """The gradient as a sum of products."""
        times, w = [link.time for link in self.loop.links], self.w
        forward, first, last = times[-1] >= times[0], str(min(times)), str(max(times))
        t = str(self.last[0]) if len(self.last) == 1 else "t"
        from_j, to_j = ("k+1", t) if forward else (t, "k-1")
        jump = self.jump("j", "j-1" if forward else "j+1")
        product = rf"\Bigl[\prod_{{j={from_j}}}^{{{to_j}}} {jump}\Bigr]" if w.latex else f"[Π_(j={from_j}..{to_j}) {jump}]"
        outer = w.sum("t", first, last) if t == "t" else ""
        return outer + w.sum("k", *((first, t) if forward else (t, last))) + f"{self.direct(t)} {product} {self.immediate('k')}"

    def term(self, k: int) -> str:
        """The k-th term written out: every way on which the loss depends on that step, or the first few."""
        links = self.loop.links
        ways = [i for i in range(k, len(links)) if np.any(links[i].direct)]
        if not ways:
            return "0"
        several = ways if len(ways) < SPELLED else [*ways[:2], None, ways[-1]]
        dots = r"\cdots" if self.w.latex else "⋯"
        products = [dots if i is None else self.product(i, k) for i in several]
        text = " + ".join(products)
        if len(products) > 1:
            text = rf"\Bigl({text}\Bigr)" if self.w.latex else f"({text})"
        return f"{text} {self.immediate(links[k].time)}"

    def product(self, i: int, k: int) -> str:
        """∂L/∂h_i dh_i/dh_(i-1) ... dh_(k+1)/dh_k."""
        times = [link.time for link in self.loop.links]
        jumps = [self.jump(times[j], times[j - 1]) for j in range(i, k, -1)]
        if len(jumps) > SPELLED:
            jumps = [jumps[0], r"\cdots" if self.w.latex else "⋯", jumps[-1]]
        return " ".join([self.direct(times[i]), *jumps])


# ---- Plain -------------------------------------------------------------------------------------------------------------------------------


def text(der: Derivation, full: bool = False) -> str:
    """The derivation in plain text."""
    W = symbol(der.name, PLAIN)
    aka = f", {der.name}" if der.name != W else ""
    lines = [f"The gradient of {W}{aka} {der.shape}", ""]
    for loop in der.loops:
        lines += [*_loop(der, loop, full), ""]
    if der.rest:
        lines += [*_rest(der, full), ""]
    norms = [("sum of all terms", _norm(der.total)), (f"dL/d{W}, one reverse sweep", _norm(der.gradient))]
    rows = table([(a, f"‖·‖ = {b}") for a, b in norms], " ").split("\n")
    lines += rows
    lines += [f"largest difference of any entry, relative to the largest: {der.check():.1e}"]
    return "\n".join(line.rstrip() for line in lines)


def _loop(der: Derivation, loop: Loop, full: bool) -> list[str]:
    letters, W, times = Letters(der, loop, PLAIN), symbol(der.name, PLAIN), [link.time for link in loop.links]
    span = ranges(times) if times[-1] >= times[0] else f"{times[0]}..{times[-1]}, backwards"
    lines = [f"{loop.place}, t = {span}".center(0), ""]
    B, S = loop.shape
    before = "t-1" if times[-1] >= times[0] else "t+1"
    names = [f"{p}_t" if "(" not in p else p.replace("(", "_(") for p in letters.parts]
    made = [p for p in letters.parts if "(" not in p]
    if len(names) > 1:
        sizes = ", ".join(f"{name} {p.stop - p.start}" for name, p in loop.parts.items())
        lines += [f"    s_t = ({', '.join(names)}) carries from step to step ({sizes} numbers in each of {B} rows)."]
    else:
        lines += [f"    {letters.s}_t carries from step to step ({S} numbers in each of {B} rows)."]
    if loop.forward:
        lines += ["", "One step:", "", *_indented(table(loop.forward))]
    if loop.backward:
        told = f"What it sends back of {', '.join(f'd{p}_t' for p in made)}, what arrives at {', '.join(f'{p}_t' for p in made)} from outside the step:"
        lines += ["", told, "", *_indented(table(loop.backward))]
        jump = _jacobian_of(loop, letters, before)
        lines += ["", f"    so {jump}"] if jump else []
    lines += ["", "The sum of products:", "", f"    dL/d{W} = {letters.sum()}", ""]
    lines += [
        f"    {letters.direct('t')}: how L reads {letters.at('t')} past all later states",
        f"    {letters.jump('t', before)}: what one step makes of the state before, all paths within the step",
        f"    {letters.immediate('t')}: immediate, {letters.at(before)} taken as given",
    ]
    lines += ["", "Its factors, with their shapes and norms:", "", *_factors(loop, letters, full)]
    lines += ["", "Its terms:", "", *_terms(loop, letters, full)]
    return lines


def _jacobian_of(loop: Loop, letters: Letters, before: str) -> str:
    """diag(f') W, where a step sends back (dh_t ⊙ f') W."""
    known = dict(loop.backward)
    back = re.fullmatch(r"δ_t (\w+)", known.get(f"to {letters.s}_({before})", ""))
    inside = re.fullmatch(r"d\w+_t ⊙ (\([^()]*\)|[^ ]+)", known.get("δ_t", ""))
    if len(letters.parts) != 1 or not back or not inside:
        return ""
    factor = inside[1][1:-1] if inside[1].startswith("(") else inside[1]
    return f"{letters.jump('t', before)} = diag({factor}) {back[1]}"


def _factors(loop: Loop, letters: Letters, full: bool) -> list[str]:
    B, S = loop.shape
    before = "t-1" if len(loop.links) < 2 or loop.links[1].time > loop.links[0].time else "t+1"
    head = ["t", letters.direct("t"), letters.jump("t", before), f"dL/d{letters.at('t')}", letters.immediate("t")]
    shapes = ["", f"({B}, {S})", f"({B}, {S}, {S})", f"({B}, {S})", ""]
    weight = next((link.of_tape.shape for link in loop.links if link.of_tape is not None), ())
    shapes[4] = str((B, S, *weight))
    rows = [head, shapes]
    for k in shown(len(loop.links), full):
        if k is None:
            rows.append(["⋯"] + [""] * 4)
            continue
        link = loop.links[k]
        cells = [link.direct, link.jacobian, link.arrived]
        rows.append([str(link.time), *("·" if c is None else _norm(c) for c in cells), _or_dot(link.immediate)])
    keep = [i for i in range(5) if any(row[i] not in ("·", "") for row in rows[2:])]
    lines = _aligned([[row[i] for i in keep] for row in rows])
    if loop.inexact:
        lines += ["", f"    {loop.inexact}: dL/d{letters.at('t')} was pulled back step by step instead."]
    if any(link.immediate is None for link in loop.links):
        lines += ["", f"    {letters.immediate('t')} has {S * B} rows for every step, too many to be made one by one."]
    return lines


def _terms(loop: Loop, letters: Letters, full: bool) -> list[str]:
    rows = [["k", "", "norm", "of the sweep"]]
    for k in reversed(shown(len(loop.links), full)):
        if k is None:
            rows.append(["⋯", "", "", ""])
            continue
        link = loop.links[k]
        rows.append([str(link.time), letters.term(k), _norm(link.term), _norm(_sum([link.of_tape, _minus(link.aside)]))])
        if link.aside is not None and np.any(link.aside):
            rows.append(["", "past the state", _norm(link.aside), _norm(link.aside)])
    rows.append(
        [
            "",
            "sum",
            *(_norm(_sum(xs)) for xs in ([t for x in loop.links for t in (x.term, x.aside)], [x.of_tape for x in loop.links])),
        ]
    )
    return _aligned(rows, left=1)


def _rest(der: Derivation, full: bool) -> list[str]:
    W = symbol(der.name, PLAIN)
    rows = [["t", "op", "place", "norm"]]
    for k in shown(len(der.rest), full):
        if k is None:
            rows.append(["⋯", "", "", ""])
            continue
        term = der.rest[k]
        rows.append(
            [
                "-" if term.time is None else str(term.time),
                term.node.prim.name,
                term.path or "outside every module",
                _norm(term.value),
            ]
        )
    each = f"δ ∂a/∂{W}, δ = dL/da, a what the op makes"
    if der.loops:
        told = f"Uses of {W} that no state carries; each adds {each}"
    else:
        told = f"No step of a loop puts {W} into its state. dL/d{W} is the sum over the uses of {each}"
    if all(term.time is None for term in der.rest) and len(der.rest) > 1:
        told += ".\nNo step was recorded: in a loop of your own tg.steps tells them, `for x in tg.steps(xs)`"
    said = dict.fromkeys(_sent(term.node, term.position) for term in der.rest)
    return [told + ".", "", *_aligned(rows, left=(1, 2)), "", *(f"    {line}" for line in said if line)]


def _sent(node: Node, position: int) -> str:
    """What the rule of an op sends to one of its arguments, as text."""
    told, name = rule(node), names_of(node.prim, len(node.args))[position]
    return f"y = {told.forward}, {name} the weight: dL/d{name} = {told.gradients[name]}" if name in told.gradients else ""


def _minus(x: Any) -> Any:
    return None if x is None else -x


def _sum(arrays: Sequence[Any]) -> Any:
    return sum(a for a in arrays if a is not None)


def _norm(x: Any) -> str:
    return f"{float(np.linalg.norm(np.asarray(x).ravel())):.6g}"


def _or_dot(x: float | None) -> str:
    return "·" if x is None else f"{x:.6g}"


def _indented(text: str) -> list[str]:
    return [f"    {line}" for line in text.split("\n")]


def _aligned(rows: Sequence[Sequence[str]], left: int | tuple[int, ...] = ()) -> list[str]:
    """Rows in columns; those in `left` begin in line, the others end in line."""
    lefts = (left,) if isinstance(left, int) else left
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "    " + "   ".join(f"{c:<{w}}" if i in lefts else f"{c:>{w}}" for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        for row in rows
    ]


# ---- LaTeX -------------------------------------------------------------------------------------------------------------------------------


def latex(der: Derivation, full: bool = False) -> str:
    """The derivation as a LaTeX align*."""
    W, lines = symbol(der.name, LATEX), []
    left = LATEX.ratio("L", W)
    for loop in der.loops:
        letters = Letters(der, loop, LATEX)
        for a, b in (*loop.forward, *((a, b) for a, b in loop.backward if not a.startswith("to "))):
            lines.append(rf"{_formula(a)} &= {_formula(b)}")
        lines.append(rf"{left} &= {letters.sum()}")
        for k in reversed(shown(len(loop.links), full)):
            if k is None:
                lines.append(r"&\;\;\vdots")
                continue
            norm = LATEX.number(float(np.linalg.norm(loop.links[k].term)))
            lines.append(rf"k = {loop.links[k].time}:\quad & {letters.term(k)} && \lVert \cdot \rVert = {norm}")
    if der.rest:
        norm = LATEX.number(float(np.linalg.norm(_sum([np.asarray(t.value) for t in der.rest]))))
        lines.append(
            rf"\text{{other uses:}}\quad & \sum \delta \, \frac{{\partial a}}{{\partial {W}}} && \lVert \cdot \rVert = {norm}"
        )
    lines.append(rf"\Bigl\lVert {left} \Bigr\rVert &= {LATEX.number(float(np.linalg.norm(der.gradient)))}")
    return "\\begin{align*}\n" + " \\\\\n".join(lines) + "\n\\end{align*}"


_GREEK = {
    "σ": r"\sigma",
    "δ": r"\delta",
    "ε": r"\varepsilon",
    "ζ": r"\zeta",
    "η": r"\eta",
    "θ": r"\theta",
    "⊙": r"\odot",
    "²": "^2",
}
_SIGNS = {"≤": r"\le", "≥": r"\ge", "≠": r"\ne", "÷": r"\div"}


def _above(found: re.Match[str]) -> str:
    """The layer and direction of a weight, W_hh^l1←."""
    layer, back = found[1] or "", r"\leftarrow" if found[2] else ""
    return f"^{{{layer}{back}}}" if layer or back else found[0]


def _formula(text: str) -> str:
    """A formula of the plain text in LaTeX."""
    text = re.sub(r"_\(([^()]*)\)", r"_{\1}", text)
    text = re.sub(r"(?<!\^)[A-Za-zδεζηθ][A-Za-z0-9_]*(?=(.?))", _name, text)
    text = text.replace("^T", r"^{\top}")
    for sign, other in {**_GREEK, **_SIGNS}.items():
        text = re.sub(f"{sign}(?=[A-Za-z])", other.replace("\\", r"\\") + " ", text).replace(sign, other)
    text = re.sub(r"\^(l\d+)?(←)?(?=[\s^,)]|$)", _above, text)
    text = re.sub(r"([A-Za-z]_\{\w+\}\^\{[^{}]*\})(?=\^)", r"{\1}", text)
    return text.replace("...", r"\dots")


def _name(found: re.Match[str]) -> str:
    """A name in LaTeX: h_t with a subscript, tanh( as a function, words as they are typed."""
    name, after = found[0], found[1]
    if after == "(":
        return rf"\operatorname{{{name}}}"
    if after == "{" or len(name) == 1:
        return name
    letter = re.fullmatch(r"(d?[A-Za-z]\d*|[δεζηθ][a-z]?)_([A-Za-z0-9]+)", name)
    return f"{letter[1]}_{{{letter[2]}}}" if letter else r"\mathtt{" + name.replace("_", r"\_") + "}"
