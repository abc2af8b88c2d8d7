"""The gradient of a weight derived as in the lecture notes: a sum of products of Jacobians, with the numbers that it has on a tape.

    dL/dW = Σ_t Σ_(k<=t) ∂L/∂h_t [Π_(j=k+1..t) dh_j/dh_(j-1)] ∂h_k/∂W

∂ takes the states of other steps as given: ∂L/∂h_t is how the loss reads h_t past all later states, ∂h_k/∂W what the use of W at step k
does. The products are computed from the Jacobians of the steps, matrix by matrix, and compared with what the reverse sweep adds up.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..autodiff import Targets, steps_of_backward, sweep
from ..backend import array_module, to_numpy
from ..errors import GraphError, describe, message
from ..graph import MultiNode, Node, Output, Value, box, leaf, node_of, require_recorded, toposort, value_of
from .derivation_step import equations
from .derivation_text import latex, text
from .jacobians import CutTape, _position
from .states import Chain, chains_of, opened_with_states
from .uses import Term, Uses, leaf_of

WHO = "explain"
LARGEST = 2**24  # numbers in all Jacobians of a loop
MOST = 2**16  # sweeps times ops, for the immediate derivatives


@dataclass(eq=False)
class Link:
    """One step of a loop in a derivation.

    time: its step. direct (B, S): ∂L/∂s_t, how the loss reads its state past all later ones. jacobian (B, S, S): ds_t/ds_(t-1), None at the
    first. arrived (B, S): dL/ds_t, the sum of products. immediate: the norm of ∂s_t/∂W. term: dL/ds_t ∂s_t/∂W, of the shape of W, by the
    products; of_tape: what the uses of W at this step add by the reverse sweep. aside: what of it does not go through the state.
    """

    time: int
    direct: Any
    jacobian: Any = None
    arrived: Any = None
    immediate: float | None = None
    term: Any = None
    of_tape: Any = None
    aside: Any = None


@dataclass(eq=False)
class Loop:
    """A loop that uses the weight: its place, the parts of its state and where they stand among its S numbers, its steps in its order.

    forward, backward: the equations of one step. inexact: why there are no Jacobians, if there are none.
    """

    place: str
    parts: dict[str, slice]
    shape: tuple[int, ...]
    links: list[Link]
    forward: list[tuple[str, str]] = field(default_factory=list)
    backward: list[tuple[str, str]] = field(default_factory=list)
    inexact: str = ""


@dataclass(eq=False, repr=False)
class Derivation:
    """What `explain` returns: a derivation to print, and its numbers.

    name, shape: of the weight. loops: those whose states carry what the weight does. rest: the terms of all other uses, such as a read-out.
    gradient: dL/dW by one reverse sweep; total: the sum of all terms, those of the loops by products of Jacobians.
    """

    name: str
    shape: tuple[int, ...]
    loops: list[Loop]
    rest: list[Term]
    gradient: Any
    total: Any

    def check(self) -> float:
        """The largest difference between the sum of products and the gradient of the reverse sweep, relative to the largest entry."""
        largest = float(np.abs(self.gradient).max(initial=0.0))
        return float(np.abs(self.total - self.gradient).max(initial=0.0)) / (largest or 1.0)

    def text(self, full: bool = False) -> str:
        """The derivation in plain text; full: every step of a long loop."""
        return text(self, full)

    def latex(self, full: bool = False) -> str:
        """The same as a LaTeX `align*`, for a document that loads amsmath."""
        return latex(self, full)

    def __str__(self) -> str:
        return self.text()

    def __repr__(self) -> str:
        times = [link.time for loop in self.loops for link in loop.links]
        return f"Derivation(dL/d{self.name or 'W'} {self.shape}, {len(times)} steps, {len(self.rest)} other uses; print it)"


def explain(loss: Value, W: Value) -> Derivation:
    """The derivation of dL/dW as the lecture notes have it, with the numbers of this graph.

        hs, _ = rnn(xs)
        loss = F.cross_entropy(out(hs[-1]), y)
        print(tg.bptt.explain(loss, rnn.weight_hh_l0))
        tg.bptt.explain(loss, rnn.weight_hh_l0).latex()

    For every loop over time whose step uses W: the equations of the step, which states carry, the sum of products with the immediate
    derivative, and each factor with its shape and norm (Frobenius, over all rows of the batch). loss: a scalar, of a compiled, an unfolded or a
    `for x in tg.steps(xs)` loop. W: a leaf that it was computed from.

    Raises GraphError where nothing was recorded or the loss does not depend on W. No `.grad` changes.
    """
    for value in (loss, W):
        require_recorded(value, WHO)
    if W.node is not None and W.node.prim is not None:
        raise GraphError(
            message(
                f"{WHO}: W was computed by {W.node.prim.name}",
                expected="a leaf",
                do="explain(loss, parameter), not a view or a state",
            )
        )
    if loss._data.size != 1:
        raise GraphError(
            message(f"{WHO}: the loss {describe(loss._data)} is no scalar", expected="a scalar", do="sum() or mean() it")
        )
    values, tape = opened_with_states([loss], WHO)
    weight = leaf_of(W, values, WHO)
    uses = Uses(values, [weight])
    targets: Targets = {weight: {0: None}}
    found = sorted(
        (term for _, term in uses.among(steps_of_backward(values, targets=targets))),
        key=lambda term: (term.node.order, term.position),
    )
    gradient = to_numpy(targets[weight][0])
    loops, rest = [], found
    for chain in chains_of(tape):
        if chain.problem is None:
            mine, others = _of_chain(chain, rest)
            if mine and (loop := _loop(chain, tape, values, uses, weight, mine)) is not None:
                loops.append(loop)
                rest = others
    total = sum(
        [*(t for loop in loops for link in loop.links for t in (link.term, link.aside) if t is not None)], np.zeros_like(gradient)
    )
    total = sum((to_numpy(term.value) for term in rest), total)
    return Derivation(W.name or "W", tuple(weight.shape), loops, rest, gradient, total)


# ---- One loop ------------------------------------------------------------------------------------------------------------------------


def _of_chain(chain: Chain, terms: Sequence[Term]) -> tuple[list[Term], list[Term]]:
    """The terms of uses within the steps of a loop, and the others."""
    first = (
        {use for use, (k, _) in chain.reads.items() if k == 0} if chain.begun else set()
    )  # what made the first state is none of the steps
    mine = [term for term in terms if chain.time_of(term.node) is not None and (term.node, term.position) not in first]
    inside = {id(term) for term in mine}
    return mine, [term for term in terms if id(term) not in inside]


def _loop(
    chain: Chain, tape: Sequence[Node], values: Sequence[Value], uses: Uses, weight: Node, terms: Sequence[Term]
) -> Loop | None:
    """The derivation along one loop; None where no state depends on the weight."""
    made = [k for k, row in enumerate(chain.states) if any(_is_made(key, chain, chain.times[k]) for key in row)]
    cut, leaves = _cut(chain, tape)
    outputs = [[_twin(cut, key) if _is_made(key, chain, chain.times[k]) else None for key in chain.states[k]] for k in made]
    if not any(weight in _below(row) for row in outputs[-2:]):
        return None
    try:
        between = CutTape(chain, tape, array_module(values[0]._data))
    except GraphError:  # a step reads more of the past than the state
        return None
    loop = Loop(chain.place, between.parts, (between.batch, between.size), [])
    direct, aside = _direct(chain, values, uses, weight, made, loop)
    loop.links = [Link(chain.times[k], direct[k]) for k in made]
    by_time = _by_time(terms, chain)
    for link in loop.links:
        link.of_tape, link.aside = _sum(by_time.get(link.time, ()), weight), aside.get(link.time)
    _arrivals(loop, between, made)
    sent = _immediate(loop, [link.arrived for link in loop.links], outputs, uses, weight, chain)
    for link in loop.links:
        link.term = _sum(sent.get(link.time, ()), weight)
    _norms(loop, outputs, uses, weight, chain)
    usual = [k for k in made if k > 0][-2:]  # the last state may lack parts that nobody reads
    if usual:
        k, forward = usual[0], chain.times[-1] >= chain.times[0]
        row, of_step = outputs[made.index(k)], lambda node: chain.time_of(node) == chain.times[k]
        loop.forward, loop.backward = equations(row, leaves[k - 1], chain.names, weight, of_step, forward)
    return loop


def _is_made(key: Any, chain: Chain, time: int) -> bool:
    """Whether a part of a state was made in the step of that time: it is no constant, and no older state that is handed on."""
    return isinstance(key, tuple) and chain.time_of(key[0]) == time


def _by_time(terms: Iterable[Term], chain: Chain) -> dict[int, list[Any]]:
    """Terms by the step of the loop in which the use is."""
    found: dict[int, list[Any]] = {}
    for term in terms:
        time = chain.time_of(term.node)
        if time is not None:
            found.setdefault(time, []).append(term.value)
    return found


def _sum(arrays: Sequence[Any], weight: Node) -> Any:
    return sum((to_numpy(a) for a in arrays), np.zeros(weight.shape, weight.dtype))


def _cut(chain: Chain, tape: Sequence[Node]) -> tuple[dict[Node, Node], list[list[Node]]]:
    """The tape once more with a leaf in place of each state that the next step reads: what stands for each node, and the leaves."""
    leaves = [[leaf(np.zeros(shape, chain.dtype)) for shape in chain.shapes] for _ in chain.states]
    for number, node in enumerate(node for row in leaves for node in row):
        node.order = -1 - number
    twins: dict[Node, Node] = {}
    for node in tape:
        args: list[Any] = []
        for position, arg in enumerate(node.args):
            read, source = chain.reads.get((node, position)), node_of(arg)
            if read is not None:
                args.append(leaves[read[0]][read[1]])
            elif source in twins:
                args.append(Output(twins[source], arg.index) if isinstance(arg, Output) else twins[source])
            else:
                args.append(arg)
        if any(a is not b for a, b in zip(args, node.args, strict=True)):
            twins[node] = twin = copy(node)
            twin.args, twin.notes = tuple(args), None
            if any((node, position) in chain.reads and node_of(a) is None for position, a in enumerate(node.args)):
                twin.raw, twin.out = tuple(value_of(x) for x in node.raw), value_of(node)
    return twins, leaves


def _twin(cut: dict[Node, Node], key: Any) -> Value:
    node = cut.get(key[0], key[0])
    return box(None, node, key[1] if isinstance(node, MultiNode) else None)  # type: ignore[no-any-return]


def _below(row: Sequence[Any]) -> set[Node]:
    """The leaves that some states of a cut tape were computed from."""
    seen: set[Node] = set()
    stack = [v.node for v in row if v is not None]
    while stack:
        node = stack.pop()
        if node not in seen:
            seen.add(node)
            stack += [n for n in map(node_of, node.args) if n is not None]
    return {node for node in seen if node.prim is None}


def _direct(
    chain: Chain, values: Sequence[Value], uses: Uses, weight: Node, made: Sequence[int], loop: Loop
) -> tuple[dict[int, Any], dict[int, Any]]:
    """How the loss reads each state past all others, and what it gets of the uses of the weight past all states: a sweep that ends at states."""
    targets: Targets = {weight: {0: None}}
    for k in made:
        for key in chain.states[k]:
            if _is_made(key, chain, chain.times[k]):
                targets.setdefault(key[0], {})[key[1]] = None
    seeds = [np.ones_like(v._data) for v in values]
    found = _by_time((term for _, term in uses.among(sweep(values, seeds, targets, through=False, watch=True))), chain)
    aside = {time: _sum(parts, weight) for time, parts in found.items()}
    B, S = loop.shape
    direct = {k: np.zeros((B, S), chain.dtype) for k in made}
    for k in made:
        for part, key in zip(loop.parts.values(), chain.states[k], strict=True):
            if _is_made(key, chain, chain.times[k]) and (g := targets[key[0]][key[1]]) is not None:
                direct[k][:, part] = to_numpy(g).reshape(B, -1)
    return direct, aside


def _arrivals(loop: Loop, between: CutTape, made: Sequence[int]) -> None:
    """dL/ds_t from the last step to the first: by the Jacobians of the steps, or by a sweep through each where they are too large."""
    B, S = loop.shape
    steps: Any = None
    if len(made) * B * S * S > LARGEST:
        loop.inexact = "The Jacobians are too large to be made"
    else:
        try:
            steps = between.jacobians(range(B))
        except GraphError:
            loop.inexact = "A row of the batch depends on another row"
    carried: Any = 0.0
    for k, link in reversed(list(zip(made, loop.links, strict=True))):
        link.arrived = link.direct + carried
        if k > 0 and steps is not None:
            link.jacobian = steps[k - 1]
            carried = (link.arrived[:, None, :] @ link.jacobian)[:, 0]
        elif k > 0:
            carried = _pulled(between, k, link.arrived)


def _pulled(between: CutTape, k: int, arrived: Any) -> Any:
    """arrived ds_t/ds_(t-1) by a sweep through one step."""
    chain, before = between.chain, between.leaves[k - 1]
    found = np.zeros_like(arrived)
    values, seeds = [], []
    for part, shape, key in zip(between.parts.values(), chain.shapes, chain.states[k], strict=True):
        same = _position(key, chain.states[k - 1])
        if same is not None:  # handed on as it is
            found[:, list(between.parts.values())[same]] += arrived[:, part]
        elif key is not None and key[0] in between.twins:
            values.append(_twin(between.twins, key))
            seeds.append(between.xp.asarray(np.ascontiguousarray(arrived[:, part]).reshape(shape)))
    deque(sweep(values, seeds), maxlen=0)
    for node, part in zip(before, between.parts.values(), strict=True):
        note = node.note()
        if note.grad is not None:
            found[:, part] += to_numpy(note.grad._data).reshape(len(found), -1)
            note.grad = None
    return found


def _norms(loop: Loop, outputs: Sequence[Any], uses: Uses, weight: Node, chain: Chain) -> None:
    """The norms of ∂s_t/∂W: a sweep for every number of the state, of all steps at once; where these are many, none."""
    B, S = loop.shape
    if B * S * _size(outputs) > MOST:
        return
    squares = dict.fromkeys((link.time for link in loop.links), 0.0)
    for i in np.ndindex(B, S):
        seed = np.zeros((B, S), chain.dtype)
        seed[i] = 1
        for time, parts in _immediate(loop, [seed] * len(loop.links), outputs, uses, weight, chain).items():
            squares[time] += float((_sum(parts, weight) ** 2).sum())
    for link in loop.links:
        link.immediate = float(np.sqrt(squares[link.time]))


def _size(outputs: Sequence[Any]) -> int:
    """How many ops some states of a cut tape were computed by."""
    return len(toposort([v for row in outputs for v in row if v is not None]))


def _immediate(
    loop: Loop, arrived: Sequence[Any], outputs: Sequence[Any], uses: Uses, weight: Node, chain: Chain
) -> dict[int, list[Any]]:
    """arrived_t ∂s_t/∂W for all steps at once, on the tape cut between them: by time."""
    values: list[Any] = []
    seeds: list[Any] = []
    xp = array_module(weight.out)
    for row, g in zip(outputs, arrived, strict=True):
        for value, part, shape in zip(row, loop.parts.values(), chain.shapes, strict=True):
            if value is not None:
                values.append(value)
                seeds.append(xp.asarray(np.ascontiguousarray(g[:, part]).reshape(shape)))
    there = Uses(values, [weight], whole=uses)
    return _by_time((term for _, term in there.among(sweep(values, seeds, {weight: {0: None}}, watch=True))), chain)
