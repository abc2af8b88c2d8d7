"""One thing of a picture lit, all else pale: a weight with the terms that its copies add to the gradient, or the paths between two values."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ..autodiff import grad
from ..backend import to_numpy
from ..bptt.norms import norm_of
from ..bptt.uses import Term, leaf_of, terms
from ..errors import GraphError, message
from ..graph import Value, node_of, raw
from .gradients import add_hidden_copies, copies_of
from .names import PRODUCTS
from .norms import mix, number
from .picture import LEAVES, Edge, Picture

LIT, DEEP, LINE, PALE, FAINT = "#fff6d8", "#ffb938", "#b07a00", "#f3f4f6", "#c3cad6"
INK, DIM = "#2b3648", "#9aa3b0"


# ---- One weight -------------------------------------------------------------------------------------------------------------------


def light_weight(picture: Picture, outputs: Sequence[Value], weight: Any) -> set[str]:
    """Light every copy of a weight and write its term beside it; in the heading the formula, and that the terms sum to the gradient.

    Returns the boxes that are lit.
    """
    leaf = leaf_of(weight, outputs, "draw")
    found = terms(list(outputs), weight)[leaf]
    copies = {edge.use: edge for edge in picture.all_edges() if edge.use is not None}
    chips, boxes = copies_of(picture), {box.id: box for box in picture.all_boxes()}
    hidden = {use: what for what, uses in picture.unseen.items() for use in uses}
    shown: dict[str, Any] = {}
    away: dict[tuple[str, int], list[Any]] = defaultdict(list)
    for term in found:
        use = term.node, term.position
        if use in copies:
            edge = copies[use]
            id = chips.get(use, edge.source if boxes[edge.source].tape is leaf else edge.target)
            shown[id] = shown[id] + term.value if id in shown else term.value
        elif use in hidden:
            away[hidden[use]].append(term.value)
    total = np.sum([to_numpy(term.value) for term in found], axis=0) if found else np.zeros(leaf.shape)
    largest = max((norm_of(value) for value in shown.values()), default=0.0)
    lit = {*shown, *(id for id, box in boxes.items() if box.tape is leaf and box.kind == "weight")}
    _dim(picture, lit, {edge.use for edge in copies.values() if edge.source in lit})
    for id in lit:
        value = shown.get(id)
        share = norm_of(value) / largest if value is not None and 0 < largest < np.inf else 0.0
        box = boxes[id]
        box.notes.append(_told(value) if value is not None else "not used")
        fill = mix(LIT, DEEP, min(share, 1.0)) if value is not None else PALE
        box.look |= {"fillcolor": fill, "color": LINE, "penwidth": f"{1 + 2 * min(share, 1.0):.1f}", "fontcolor": INK}
    rest = {what: [f"{len(values)} copies", f"Σ {_told(sum(values))}"] for what, values in away.items()}
    piled = set(add_hidden_copies(picture, rest))
    for box in picture.all_boxes():
        if box.id in piled:
            box.look |= {"fillcolor": LIT, "color": LINE}
    _heading(picture, outputs, weight, found, total, sum(map(len, away.values())))
    return lit | piled


def _told(value: Any) -> str:
    """A term: the number, or the norm of an array."""
    array = to_numpy(value)
    return signed(float(array.item())) if array.size == 1 else number(norm_of(value), 3)


def signed(x: float) -> str:
    """A number with its sign, in four digits."""
    return ("+" if x > 0 and np.isfinite(x) else "") + number(x, 4)


def _heading(picture: Picture, outputs: Sequence[Value], weight: Any, found: list[Term], total: Any, away: int) -> None:
    name, of = weight.name or "W", outputs[0].name or "loss"
    result = signed(float(total.item())) if total.size == 1 else f"an array {'×'.join(map(str, total.shape))}"
    picture.title = picture.title or f"∂{of}/∂{name} = Σₜ {_formula(picture, found)} = {result}"
    (whole,) = [to_numpy(g._data) for g in grad(list(outputs), [weight])]
    kept = None if weight.grad is None else to_numpy(weight.grad._data)
    left_out = f" ({away} of them in the steps left out)" if away else ""
    beneath = "it" if total.size == 1 else "its norm"
    told = [f"{len(found)} copies of {name}{left_out}, each adds one term: {beneath} is written beneath, the larger the darker"]
    sums = [f"norm of the sum {number(norm_of(total), 4)}"] if total.size > 1 else []
    sums.append(_compared(total, whole))
    if kept is not None:
        sums.append(f"{name}.grad {'is the same' if np.allclose(kept, whole, rtol=1e-5, atol=1e-8) else 'holds other numbers'}")
    picture.remarks += [*told, "; ".join(sums)]


def _compared(total: Any, whole: Any) -> str:
    """How close the sum of the terms is to the gradient that one backward pass finds."""
    if not np.isfinite(whole).all():
        return "the gradient is not finite"
    away = float(np.abs(total - whole).max()) / (float(np.abs(whole).max()) or 1.0)
    return "the sum is the gradient of one backward pass" + (f", to {number(away, 1)}" if away else "")


def _formula(picture: Picture, found: list[Term]) -> str:
    """What one use adds, as in δₜ xₜ, where all uses are alike; δ is the gradient that arrives at the op."""
    drawn = {box.tape for box in picture.all_boxes()}
    texts = {_of_use(picture, term) for term in [term for term in found if term.node in drawn][-3:]}
    return texts.pop() if len(texts) == 1 else "termₜ"


def _of_use(picture: Picture, term: Term) -> str:
    """The term of one use: δ beside the other argument of a product, δ alone where a weight is added."""
    node, position = term.node, term.position
    op = node.prim.name if node.prim is not None else ""
    if op in ("add", "subtract"):
        return "δₜ" if op == "add" or position == 0 else "−δₜ"
    if len(node.args) != 2 or op not in PRODUCTS | {"multiply"}:
        return "termₜ"
    other = next((e.source for e in picture.all_edges() if e.use == (node, 1 - position)), None)
    if other is None:  # a number that is written on its op
        return "δₜ xₜ" if node_of(node.args[1 - position]) is None and np.ndim(raw(node.args[1 - position])) == 0 else "termₜ"
    boxes = {one.id: one for one in picture.all_boxes()}
    box = boxes[other]
    name = box.label.rstrip("₀₁₂₃₄₅₆₇₈₉₋")
    if box.kind == "state":
        name += "ₜ" if box.column == next(one.column for one in boxes.values() if one.tape is node) else "ₜ₋₁"
    elif box.kind == "input":
        name += "ₜ"
    elif box.kind != "weight":
        return "termₜ"
    if op == "multiply":
        return f"δₜ {name}"
    return f"{name}ᵀ δₜ" if op == "matmul" and position == 1 else f"δₜᵀ {name}" if op == "inner" else f"δₜ {name}"


# ---- The paths between two values -----------------------------------------------------------------------------------------------------


def light_path(picture: Picture, start: Value, end: Value) -> None:
    """Light every box and edge on a way from one value to another.

    Raises GraphError where one of them is not drawn, or nothing leads from the first to the second.
    """
    after: dict[str, list[Edge]] = defaultdict(list)
    before: dict[str, list[Edge]] = defaultdict(list)
    for edge in picture.edges:
        after[edge.source].append(edge)
        before[edge.target].append(edge)
    below = _reached(_boxes_of(picture, start), lambda id: [e.target for e in after[id]])
    above = _reached(_boxes_of(picture, end), lambda id: [e.source for e in before[id]])
    lit = below & above
    if not lit:
        raise GraphError(
            message(
                f"draw: no path leads from {_named(start)} to {_named(end)}",
                expected="path=(a, b): a value, and another that was computed from it",
            )
        )
    _dim(picture, lit, set())
    for id in lit:
        picture.boxes[id].look |= {"penwidth": 2.4, "color": INK}
    for edge in picture.edges:
        if edge.source in lit and edge.target in lit:
            edge.look |= {"penwidth": 3.0}
    picture.remarks.append(f"lit: every way from {_called(picture, start)} to {_called(picture, end)}")


def _boxes_of(picture: Picture, value: Value) -> list[str]:
    boxes = [
        id
        for id, box in picture.boxes.items()
        if value.node is not None and any(one.tape is value.node for one in (box, *box.inside))
    ]
    if not boxes:
        raise GraphError(
            message(
                f"draw: {_named(value)} is not in the picture",
                expected="path=(a, b) of values that are drawn",
                do="full=True draws every step; a constant is no place of the tape",
            )
        )
    return boxes


def _called(picture: Picture, value: Value) -> str:
    """What a value is called in the picture: as a state, or by its name, or by its op."""
    boxes = sorted((box for box in picture.all_boxes() if box.tape is value.node), key=lambda box: box.kind != "state")
    return value.name or boxes[0].label.partition(" = ")[0]


def _reached(starts: Iterable[str], neighbours: Any) -> set[str]:
    seen: set[str] = set()
    stack = [*starts]
    while stack:
        id = stack.pop()
        if id not in seen:
            seen.add(id)
            stack.extend(neighbours(id))
    return seen


def _named(value: Value) -> str:
    if value.name:
        return value.name
    node = value.node
    return "the constant" if node is None else "the leaf" if node.prim is None else f"the result of {node.prim.name}"


def _dim(picture: Picture, lit: set[str], uses: set[Any]) -> None:
    """All boxes and edges but the lit ones in pale; what a gradient has coloured stays."""
    for box in picture.all_boxes():
        if box.id not in lit and box.kind not in ("floor", "more"):
            box.look |= {"fontcolor": DIM, "color": FAINT}
            if box.kind in LEAVES or box.kind in ("op", "term", "state"):
                box.look["fillcolor"] = PALE
    for edge in picture.edges:
        on_the_way = edge.source in lit and (edge.target in lit or (edge.use is not None and edge.use in uses))
        if not on_the_way and not edge.back:
            edge.look |= {"color": FAINT, "penwidth": 1}
