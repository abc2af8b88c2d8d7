"""The equations of one step of a loop and what the step sends back, read off its ops and their rules."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from ..autodiff import Targets, sweep
from ..compile import trace as tracing
from ..compile.expressions import Op, used
from ..frames import enable_grad, mode, tick
from ..graph import MultiNode, Node, Value, box, leaf, node_of, toposort
from .notation import PLAIN, symbol
from .rule_text import Writer
from .rules import texts_of
from .uses import _is_view

Line = tuple[str, str]  # left = right

WIDEST = 900  # characters of a step; longer ones are not shown
GATES = {(2, 5): "ifgo", (2, 4): "ifgo", (1, 3): "rzn"}  # by parts of the state and activations, as they are computed
ACTIVATIONS = ("sigmoid", "tanh", "relu")


def equations(
    row: Sequence[Any],
    before: Sequence[Node],
    names: Sequence[str],
    weight: Node,
    of_step: Callable[[Node], bool],
    forward: bool = True,
) -> tuple[list[Line], list[Line]]:
    """How a step makes its state, and what it sends back to the state before and to a weight.

    row: the parts of its state on a tape that is cut between steps, None where one is missing. before: the leaves in place of the state
    before it. of_step: whether a node is of the step. forward: whether that is t-1, or t+1. Empty where the step is longer than one would read.
    """
    try:
        lines, backward = _equations(row, before, names, weight, of_step, forward)
    except tracing.Untraceable:
        return [], []
    return (lines, backward) if sum(len(a) + len(b) for a, b in [*lines, *backward]) < WIDEST else ([], [])


def _equations(
    row: Sequence[Any], before: Sequence[Node], names: Sequence[str], weight: Node, of_step: Callable[[Node], bool], forward: bool
) -> tuple[list[Line], list[Line]]:
    outs = {f"{name}_t": v for name, v in zip(names, row, strict=True) if v is not None}
    old = [_a_step_before(name, "-" if forward else "+") for name in names][: len(before)]
    make, at = Writer({}, {}), dict[Any, Any]()
    for k, (node, name) in enumerate(zip(before, old, strict=True)):
        at[node] = make.input("state", k, node)
        make.names[at[node]] = name
    _take_up([v.node for v in outs.values()], make, at, of_step)
    made = {name: make.simplified(_op_of(at, v)) for name, v in outs.items()}
    for name, op in made.items():
        make.names.setdefault(op, name)
    _name_gates(make, list(made.values()), len(names))
    free = iter(["a_t", "b_t", "e_t", "p_t", "q_t"])
    make.abbreviated(list(made.values()), lambda op: next(free, None) if len(make.text(op)) > 12 else None)
    named = sorted((op for op in make.names if op.args), key=lambda op: make.rank.get(op, op.number))
    lines = [(make.names[op], make.text(op, whole=True)) for op in named]
    ends = list(zip([(node, 0) for node in before], old, strict=True))
    if weight in at:
        ends.append(((weight, 0), make.names.get(at[weight], "W")))
    else:  # the weight made what the step is given
        given = [(place, make.names[_place(at, *place)]) for place in _given(outs.values(), at) if weight in _behind(place[0])]
        ends += sorted(given, key=lambda end: end[1])
    backward = _backward(make, at, outs, ends)
    return lines, backward


def _a_step_before(name: str, sign: str) -> str:
    """The name of a part in the state before: h_(t-1) of h, h_(t-2) of the h(t-1) that a loop with two taps hands on."""
    lag = re.fullmatch(r"(\w+)\(t-(\d+)\)", name)
    return f"{lag[1]}_(t{sign}{int(lag[2]) + 1})" if lag else f"{name}_(t{sign}1)"


def _take_up(ends: Sequence[Node], make: Writer, at: dict[Any, Any], of_step: Callable[[Node], bool]) -> None:
    """Read the ops of the step; what was made outside of it is its input."""
    inside: set[Node] = set()
    outside: dict[Node, None] = {}
    stack = list(ends)
    while stack:
        node = stack.pop()
        if node in at or node in inside or node in outside:
            continue
        if node.prim is not None and node.prim.name == "again":
            raise tracing.Untraceable("a function inside tg.recompute keeps its ops to itself")
        if node.prim is not None and (of_step(node) or (_is_view(node) and _of_leaf(node))):
            inside.add(node)
            stack += [n for n in map(node_of, node.args) if n is not None]
        else:
            outside[node] = None
    given, weights = 0, list[Op]()
    for node in outside:
        if node.prim is None and node.notes_of().name:
            at[node] = make.input("weight", len(at), node)
            make.names[at[node]] = re.sub(r"[^\w^←]", "_", symbol(node.notes_of().name or "", PLAIN))
            weights.append(at[node])
            continue
        count = len(node.shape) if isinstance(node, MultiNode) else 1
        ops = [make.op("input", (), ("given", node.order + k), *_form(node, k)) for k in range(count)]
        at[node] = ops if isinstance(node, MultiNode) else ops[0]
        leaf_name = "W" if node.prim is None and len(node.shape) == 2 else "x_t"
        make.names |= dict.fromkeys(ops, leaf_name if not given or leaf_name == "W" else f"x{given + 1}_t")
        given += leaf_name != "W"
    short = [make.names[op].partition("^")[0] for op in weights]
    if len(set(short)) == len(short):  # the heading says which layer it is
        make.names |= dict(zip(weights, short, strict=True))
    make.read(sorted(inside, key=lambda node: node.order), at)
    constants = [op for node in inside for op in used(_listed(at[node])) if op.kind == "input" and op.params[0] == "constant"]
    for op in dict.fromkeys(constants):
        given += 1
        make.names[op] = "x_t" if given == 1 else f"x{given}_t"


def _listed(ops: Any) -> list[Op]:
    return ops if isinstance(ops, list) else [ops]


def _form(node: Any, k: int) -> tuple[Any, Any]:
    return (node.shape[k], node.dtype[k]) if isinstance(node, MultiNode) else (node.shape, node.dtype)


def _of_leaf(node: Node) -> bool:
    """Whether a view is one of a leaf with a name: a weight transposed or cut."""
    while node.prim is not None and _is_view(node):
        source = node_of(node.args[0])
        if source is None:
            return False
        node = source
    return node.prim is None and bool(node.notes_of().name)


def _name_gates(make: Writer, outs: Iterable[Op], parts: int) -> None:
    activations = [op for op in used(outs) if op.kind == "map" and op.name in ACTIVATIONS and op not in make.names]
    activations.sort(key=lambda op: make.rank.get(op, op.number))
    total = len(activations) + sum(op.kind == "map" and op.name in ACTIVATIONS for op in outs)
    for op, letter in zip(activations, GATES.get((parts, total), ""), strict=False):
        make.names[op] = f"{letter}_t"


def _given(outs: Iterable[Any], at: dict[Any, Any]) -> list[tuple[Node, int]]:
    """What the step is given that ops made: nodes, and which of their outputs."""
    found: dict[tuple[Node, int], None] = {}
    seen: set[Node] = set()
    stack = [v.node for v in outs]
    while stack:
        node = stack.pop()
        for arg in node.args if node not in seen else ():
            source = node_of(arg)
            if source is not None and source in at:
                place = _place(at, source, getattr(arg, "index", 0))
                if place.kind == "input" and source.prim is not None:
                    found[source, getattr(arg, "index", 0)] = None
                elif place.kind != "input":
                    stack.append(source)
        seen.add(node)
    return list(found)


def _behind(node: Node) -> set[Node]:
    """The leaves that a node was computed from."""
    return {n for n in toposort([box(None, node, 0 if isinstance(node, MultiNode) else None)]) if n.prim is None}


def _place(at: dict[Any, Any], node: Node, index: int) -> Op:
    place = at[node]
    return place[index] if isinstance(place, list) else place  # type: ignore[no-any-return]


def _backward(make: Writer, at: dict[Any, Any], outs: dict[str, Any], ends: Sequence[tuple[tuple[Node, int], str]]) -> list[Line]:
    """The lines of the step's reverse sweep, each gradient as a formula of what arrives at the state: dh_t, dc_t."""
    start = tick()
    values, seeds, cotangents = [], [], []
    for name, v in outs.items():
        shape, dtype = _form(v.node, v.index)
        values.append(box(np.zeros(shape, dtype), v.node, v.index if isinstance(v.node, MultiNode) else None))
        seeds.append(box(np.zeros(shape, dtype), leaf(np.zeros(shape, dtype))))
        at[seeds[-1].node] = op = make.input("cotangent", len(seeds), seeds[-1]._data)
        make.names[op] = f"d{name}"
        cotangents.append(op)
    targets: Targets = {}  # the sweep ends at all that the step is given: what made it may have used the weight, too
    for node, index in [*(place for place, _ in ends), *_given(outs.values(), at)]:
        targets.setdefault(node, {})[index] = None
    with enable_grad(), mode("tracing", tracing.Tracer()), np.errstate(all="ignore"):
        deque(sweep(values, seeds, targets, through=False, create_graph=True), maxlen=0)
    arrived = (targets[node][index] for (node, index), _ in ends)
    found = [g if g is None or isinstance(g, Value) else box(g, None) for g in arrived]
    make.read([n for n in toposort([g for g in found if g is not None], after=start) if n not in at], at)
    ops = [None if g is None or g.node is None else _op_of(at, g) for g in found]
    labels = [f"to {name}" for _, name in ends]
    simple = [make.simplified(op) for op in ops if op is not None]
    joined = any(op.kind == "join" and op.linear for op in used(simple))
    linear, others = iter(["ε_t", "ζ_t", "η_t", "θ_t"] if joined else ["δ_t", "ε_t", "ζ_t"]), iter(["u_t", "v_t", "w_t"])

    def letter(op: Op) -> str | None:
        long = len(make.text(op))
        if op.linear:
            return "δ_t" if op.kind == "join" and "δ_t" not in make.names.values() else next(linear, None) if long > 6 else None
        return next(others, None) if long > 20 else None

    texts, letters = texts_of(make, ops, cotangents, labels, letter)
    pieces: dict[str, str] = {}
    blocks = next((op for op, name in make.names.items() if name == "δ_t" and op.kind == "join"), None)
    gates = [name for op, name in make.names.items() if op.args and re.fullmatch("[ifgorzn]_t", name)]
    if blocks is not None and len(blocks.args) == len(gates):
        for op, name in zip(blocks.args, gates, strict=True):
            pieces[f"δ{name}"] = make.text(op)
            make.names[op] = f"δ{name}"
        letters["δ_t"] = "(" + ", ".join(pieces) + ")"
    before_blocks = {name: text for name, text in letters.items() if name != "δ_t"} if pieces else letters
    texts = {left: re.sub(r"^sum_to\((\S+), \(\d+,\)\)$", r"Σ_rows \1", right) for left, right in texts.items()}
    return [*before_blocks.items(), *pieces.items(), *([("δ_t", letters["δ_t"])] if pieces else []), *texts.items()]


def _op_of(at: dict[Any, Any], value: Any) -> Op:
    return _place(at, value.node, value.index)
