"""The states of a loop as a chain on the tape: found there (`states`), or given one by one; and which loop a caller means."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import ArgumentError, GraphError, ShapeError, describe, message
from ..frames import Frame
from ..graph import MultiNode, Node, Output, Value, raw, toposort
from .uses import tape_of

OF_A_LAYER = "of a layer give its whole output: hs, _ = lstm(xs); temporal_jacobians(hs)"
Key = tuple[Node, int]  # a value on the tape: which output of which node


@dataclass
class Chain:
    """The states of one loop, in the order in which it runs.

    place: the modules and loops around it. times: the time of each state. names: of the parts of a state, h first. states[k][j]: part j of
    the state at times[k]; None where it is not on the tape, an array where it is a constant. reads: for each use of a state by the step
    after it, an op and the position of the argument, which state and part that is. begun: the first state is what the first step began with.
    frames, between: the times of the frames of its steps, and (by their order) of the nodes that stand between calls, without a frame.
    """

    place: str
    times: list[int]
    names: list[str]
    states: list[list[Any]]
    shapes: list[tuple[int, ...]]
    dtype: Any
    reads: dict[tuple[Node, int], tuple[int, int]] = field(default_factory=dict)
    begun: bool = False
    frames: dict[Frame, int] = field(default_factory=dict)
    between: dict[int, int] = field(default_factory=dict)
    problem: GraphError | None = None  # why the loop has no states of one form

    def time_of(self, node: Node) -> int | None:
        """The time of the step that a node, or a copy of it, belongs to; None outside of the steps of this loop."""
        if node.order in self.between:
            return self.between[node.order]
        frame = node.frame
        while frame is not None and frame not in self.frames:
            frame = frame.parent
        return None if frame is None else self.frames[frame]

    @property
    def own(self) -> list[str]:
        """The parts that are no older than their state: without the h_(t-1) that a loop with two taps carries beside h_t."""
        return [name for name in self.names if "(t-" not in name]


def key_of(arg: Any) -> Key | None:
    """An entry of `node.args` as a key; None for a constant."""
    return (arg, 0) if isinstance(arg, Node) else (arg.node, arg.index) if isinstance(arg, Output) else None


def shape_of(key: Key) -> tuple[int, ...]:
    """The shape of a value on the tape."""
    return tuple(key[0].shape[key[1]] if _several(key[0]) else key[0].shape)


def _several(node: Node) -> bool:
    return isinstance(node, MultiNode)


def dtype_of(key: Key) -> Any:
    """The dtype of a value on the tape."""
    return key[0].dtype[key[1]] if _several(key[0]) else key[0].dtype


# ---- Loops described by their states ---------------------------------------------------------------------------------------------------


def listed(states: Sequence[Any], who: str, names: Sequence[str] | None = None) -> tuple[Chain, list[Node]]:
    """The chain of states given one by one, h_1 ... h_T or tuples of their parts, and the tape that they stand on."""
    rows = [tuple(s) if isinstance(s, (tuple, list)) else (s,) for s in states]
    if len(rows) < 2 or len({len(row) for row in rows}) > 1:
        raise ArgumentError(
            message(
                f"{who}: a list of {len(rows)} state{'s' * (len(rows) != 1)}" + (" of different lengths" if len(rows) > 1 else ""),
                expected="at least two, in the order of time: [h_1, h_2, ...] or [(h_1, c_1), (h_2, c_2), ...]",
                do=OF_A_LAYER,
            )
        )
    for k, row in enumerate(rows):
        for x in row:
            if isinstance(x, Value) and x.node is None:
                raise GraphError(
                    message(
                        f"{who}: state {k} {describe(raw(x))} is a constant, nothing was recorded",
                        expected="states that were computed from weights, or that require a gradient",
                        do="h0.requires_grad_() before the loop, or leave it out" if k == 0 else "run the loop outside no_grad()",
                    )
                )
    values = tape_of([x for row in rows for x in row], who)
    places = iter([(v.node, v.index) for v in values])
    keys: list[list[Any]] = [[next(places) for _ in row] for row in rows]
    forms = [tuple(map(shape_of, row)) for row in keys]
    if len(set(forms)) > 1:
        k = next(k for k, form in enumerate(forms) if form != forms[0])
        raise ShapeError(
            message(
                f"{who}: state {k} has the shapes {forms[k]}", expected=f"{forms[0]}, those of the first", do="one layer at a time"
            )
        )
    start = 0 if all(node.prim is None for node, _ in keys[0]) else 1
    known = list(names) if names else ["h", "c"] if len(keys[0]) == 2 else ["h", *(f"s{i}" for i in range(1, len(keys[0])))]
    times = list(range(start, start + len(keys)))
    chain = Chain("", times, known, keys, list(forms[0]), dtype_of(keys[0][0]))
    tape = toposort(values)
    ends = [max(node.order for node, _ in row) for row in keys]
    parts = [{key: j for j, key in enumerate(row)} for row in keys]
    for node in tape:
        k = bisect_left(ends, node.order) - 1  # the state that is there when the node is made
        if 0 <= k < len(keys) - 1:
            for position, arg in enumerate(node.args):
                j = parts[k].get(key_of(arg))
                if j is not None:
                    chain.reads[node, position] = k, j
    if not chain.reads:
        raise GraphError(
            message(
                f"{who}: no state was computed from the one before",
                expected="the very tensors that the loop carried from step to step, in that order",
                do=f"{OF_A_LAYER}; its slices hs[t] are copies made behind the loop",
            )
        )
    return chain, tape


# ---- What a caller means ---------------------------------------------------------------------------------------------------------------


def no_loop(who: str) -> GraphError:
    """The error of a tape without states."""
    return GraphError(
        message(
            f"{who}: no loop with a state stands on the tape",
            expected="a tensor that a layer of nn, tg.scan, a loop over a cell or over tg.steps(xs) led to, of two steps at least",
            do="for x in tg.steps(xs): ...; or give the states themselves as a list [h_1, h_2, ...]",
        )
    )


def chosen(chains: Sequence[Chain], loop: str | None, who: str) -> Chain:
    """The chain of the loop whose place ends with `loop`; the only one where none is named."""
    if not chains:
        raise no_loop(who)
    if loop is not None and not isinstance(loop, str):
        raise ArgumentError(
            message(f"{who}: loop={loop!r}", expected="a name, the end of one of " + ", ".join(repr(c.place) for c in chains))
        )
    fitting = [c for c in chains if loop is None or c.place == loop] or [
        c for c in chains if loop is not None and c.place.endswith(loop)
    ]
    if len(fitting) == 1:
        if fitting[0].problem:
            raise fitting[0].problem
        return fitting[0]
    names = ", ".join(repr(c.place) for c in chains)
    if loop is None:
        raise ArgumentError(message(f"{who}: {len(chains)} loops stand on the tape", expected=f"loop= one of {names}"))
    raise ArgumentError(
        message(
            f"{who}: {len(fitting) or 'no'} loop{'s are' * (len(fitting) > 1)}{' is' * (not fitting)} called {loop!r}",
            expected=f"one of {names}",
        )
    )


def renamed(chain: Chain, names: Sequence[str] | Mapping[str, str] | None, who: str) -> Chain:
    """The chain with other names for its parts."""
    if names is None:
        return chain
    new = [names.get(n, n) for n in chain.names] if isinstance(names, Mapping) else list(names)
    if len(new) != len(chain.names) or len(set(new)) < len(new):
        raise ArgumentError(
            message(f"{who}: names {new}", expected=f"{len(chain.names)} different ones, for the parts {chain.names}")
        )
    chain.names = new
    return chain
