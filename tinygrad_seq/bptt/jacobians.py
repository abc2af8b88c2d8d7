"""Temporal Jacobians dh_t/dh_s of any recorded recurrence: how a change of the state at time s moves the state at time t.

    dh_t/dh_s = J_t J_(t-1) ... J_(s+1)            J_t = dh_t/dh_(t-1), the Jacobian of one step

All J_t come out of as many reverse sweeps as the state has numbers: the tape is cut before every step, so that one sweep goes back one step
from all times at once, and each row of a batch on its own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from copy import copy
from typing import Any

import numpy as np

from ..autodiff import sweep
from ..backend import array_module, to_numpy
from ..errors import ArgumentError, GraphError, describe, message
from ..graph import MultiNode, Node, Output, Value, box, leaf, node_of, raw, value_of
from ..ops import add, multiply, negative, subtract, where
from .chains import OF_A_LAYER, Chain, chosen, listed, renamed
from .spectra import TemporalJacobians
from .states import chains_of, opened_with_states

WHO = "temporal_jacobians"
MOST = 4 * 2**30  # bytes of all step Jacobians


def temporal_jacobians(
    of: Any,
    loop: str | None = None,
    *,
    rows: Sequence[int] | int | None = None,
    names: Sequence[str] | Mapping[str, str] | None = None,
) -> TemporalJacobians:
    """The Jacobians of a recurrence from step to step, read off its tape.

        hs, _ = nn.LSTM(3, 8)(xs)                      # or a loop over a cell, or over tg.steps(xs)
        J = tg.bptt.temporal_jacobians(hs)
        J.between(9, 4)                                # dh_9/dh_4 (B, H, H), along all paths, those through the cell too
        J.between(9, 4, "c")                           # dc_9/dc_4; J.between(9, 4, "h", "c"): dh_9/dc_4
        J.steps                                        # dstate_t/dstate_(t-1) of all steps (T, B, S, S), S = 2H
        J.norms(), J.singular_values(), J.spectral_radius(), J.lyapunov_exponents(), J.gated_path()

    of: a tensor that a loop led to, such as hs or a loss; then the state is whatever the loop hands from one step to the next, found on the
    tape: of an LSTM h and c. Or a list of states [h_1, ..., h_T] or [(h_1, c_1), ...], the tensors that any `for` loop carried; with
    h_0 in front if it requires a gradient. loop: which one, where several stand on the tape, as in "layer 1"; the error names them all.

    The first time is 0 where the ops of the first step show what it read as h_0, a constant too, and else 1; with p taps it is p.

    A state (B, ...) has a Jacobian for each row of the batch; without a batch, (H,), it counts as one row. rows: which of them to keep.
    names: of the parts of the state, in place of h, c.

    Raises GraphError where the tape holds no such loop, where a step reads more of the past than the state that it was given, or where one row
    of the batch acts on another.
    """
    if isinstance(of, (list, tuple)):
        if loop is not None:
            raise ArgumentError(
                message(f"{WHO}: loop={loop!r} with a list of states", expected="one of them: a list is a loop of its own")
            )
        chain, tape = listed(of, WHO)
    else:
        if not isinstance(of, Value):
            raise ArgumentError(
                message(
                    f"{WHO}: {describe(of)} is no Tensor",
                    expected="a tensor that a loop led to, or a list of states",
                    do=OF_A_LAYER,
                )
            )
        _, tape = opened_with_states([of], WHO)
        chain = chosen(chains_of(tape), loop, WHO)
    renamed(chain, names, WHO)
    xp = array_module(*(raw(v) for v in _flat(of)))
    cut = CutTape(chain, tape, xp)
    kept = _rows(rows, cut.batch)
    size = (len(chain.states) - 1) * len(kept) * cut.size**2 * np.dtype(chain.dtype).itemsize
    if size > MOST:
        raise ArgumentError(
            message(
                f"{WHO}: {len(chain.states) - 1} Jacobians ({cut.size}, {cut.size}) of {len(kept)} rows take {size / 2**30:.0f} GiB",
                expected=f"at most {MOST // 2**30} GiB",
                do="rows=[0] keeps the first row of the batch alone; or run the loop on a shorter stretch",
            )
        )
    steps = cut.jacobians(kept)
    carry = CutTape(chain, tape, xp, linear=True).gates(kept)
    return TemporalJacobians(chain.place, np.array(chain.times), cut.parts, steps, carry)


def _flat(of: Any) -> list[Any]:
    return [x for part in of for x in _flat(part)] if isinstance(of, (list, tuple)) else [of]


def _rows(rows: Any, B: int) -> list[int]:
    asked: list[Any] = list(range(B)) if rows is None else [rows] if isinstance(rows, (int, np.integer)) else list(rows)
    if not asked or not all(-B <= row < B for row in asked):
        raise ArgumentError(message(f"{WHO}: rows={rows!r}", expected=f"rows of a batch of {B}"))
    return asked


class CutTape:
    """A tape cut before every step: the ops between one state and the next, copied, and in place of each state that a step reads a leaf.

    xp: the array library that the tape was recorded with. linear: only the ops that pass a state on as it is, times something: sums, differences, products with what does not depend on it.
    """

    def __init__(self, chain: Chain, tape: Sequence[Node], xp: Any, linear: bool = False):
        self.chain, self.xp, self.linear = chain, xp, linear
        rows = {shape[0] if len(shape) > 1 else 1 for shape in chain.shapes}
        self.batch = rows.pop() if len(rows) == 1 else 1
        sizes = [int(np.prod(shape)) // self.batch for shape in chain.shapes]
        ends = np.cumsum([0, *sizes])
        self.size = int(ends[-1])
        self.parts = {name: slice(int(a), int(b)) for name, a, b in zip(chain.names, ends[:-1], ends[1:], strict=True)}
        self.leaves = [[self._leaf(k, j) for j in range(len(row))] for k, row in enumerate(chain.states[:-1])]
        self.twins: dict[Node, Node] = {}
        self.span: dict[Node, tuple[int, int]] = {}  # the oldest and the youngest state that a twin depends on
        for node in tape:
            if node.prim is not None and node.prim.differentiable:
                self._copy(node)
        self._check_span()

    def _leaf(self, k: int, j: int) -> Node:
        node = leaf(np.broadcast_to(np.zeros((), self.chain.dtype), self.chain.shapes[j]))
        node.order = -1 - k * len(self.chain.names) - j  # older than everything on a tape
        return node

    def _copy(self, node: Node) -> None:
        args: list[Any] = []
        spans: list[tuple[int, int]] = []
        constant = False
        for position, arg in enumerate(node.args):
            use, source = self.chain.reads.get((node, position)), node_of(arg)
            if use is not None:
                args.append(self.leaves[use[0]][use[1]])
                spans.append((use[0], use[0]))
                constant = constant or source is None
            elif source in self.twins:
                twin = self.twins[source]
                args.append(Output(twin, arg.index) if isinstance(arg, Output) else twin)
                spans.append(self.span[source])
            else:
                args.append(None)
        if not spans or (self.linear and not _passes_on(node, args)):
            return
        twin = copy(node)
        twin.args, twin.notes = tuple(args), None
        if constant:  # its rule was not expected to be asked for this argument: it may need more than was kept
            twin.raw = tuple(value_of(x) for x in node.raw)
            twin.out = value_of(node)
        self.twins[node] = twin
        self.span[node] = min(a for a, _ in spans), max(b for _, b in spans)

    def _check_span(self) -> None:
        for k, row in enumerate(self.chain.states[1:]):
            for name, key in zip(self.chain.names, row, strict=True):
                if key is not None and _position(key, self.chain.states[k]) is None and self.span.get(key[0], (k, k))[0] < k:
                    past = self.chain.times[self.span[key[0]][0]]
                    raise GraphError(
                        message(
                            f"{WHO}: {name} at t = {self.chain.times[k + 1]} was not computed from the state before alone: it also reads"
                            f" what was made at t = {past}",
                            expected="the whole state, all that a step reads of the past",
                            do="give its parts together, [(h_1, c_1), (h_2, c_2), ...], or record the loop over tg.steps(xs) and give a tensor",
                        )
                    )

    # ---- Sweeps ------------------------------------------------------------------------------------------------------------------

    def _back(self, j: int, seed: Any) -> list[list[Any]]:
        """What one sweep brings to the leaves when the cotangent of part j of every state is `seed`; None where nothing arrives."""
        outputs: list[Value] = []
        found: list[list[Any]] = [[None] * len(row) for row in self.leaves]
        for k, row in enumerate(self.chain.states[1:]):
            key = row[j]
            before = _position(key, self.chain.states[k])
            if before is not None:
                found[k][before] = seed  # handed on as it is
            elif key is not None and key[0] in self.twins:
                twin = self.twins[key[0]]
                outputs.append(box(None, twin, key[1] if isinstance(twin, MultiNode) else None))
        deque(sweep(outputs, [seed] * len(outputs)), maxlen=0)
        for leaves, row in zip(self.leaves, found, strict=True):
            for i, node in enumerate(leaves):
                note = node.note()
                if note.grad is not None:
                    row[i] = note.grad._data if row[i] is None else row[i] + note.grad._data
                    note.grad = None
        return found

    def jacobians(self, rows: Sequence[int]) -> Any:
        """The Jacobian of every step for some rows of the batch, (T, B, S, S)."""
        chain, B = self.chain, self.batch
        steps = np.zeros((len(chain.states) - 1, len(rows), self.size, self.size), chain.dtype)
        for j, name in enumerate(chain.names):
            if B > 1:
                self._check_rows(j)
            seed = self.xp.zeros(chain.shapes[j], chain.dtype)
            flat = seed.reshape(B, -1)
            for i in range(flat.shape[1]):
                flat[:, i] = 1
                for k, row in enumerate(self._back(j, seed)):
                    for part, g in zip(self.parts.values(), row, strict=True):
                        if g is not None:
                            steps[k, :, self.parts[name].start + i, part] = to_numpy(g).reshape(B, -1)[rows]
                flat[:, i] = 0
            for k, state in enumerate(chain.states[1:]):
                if state[j] is None:
                    steps[k, :, self.parts[name]] = np.nan  # not on the tape: nobody knows
        return steps

    def _check_rows(self, j: int) -> None:
        """Raise where a row of the batch depends on another one: two rows differ in a bit of their numbers."""
        rng, rows = np.random.default_rng(0), np.arange(self.batch)
        halves = [rows >> bit & 1 == value for bit in range((self.batch - 1).bit_length()) for value in (0, 1)]
        for half in halves:
            mine = np.zeros((self.batch, *self.chain.shapes[j][1:]), self.chain.dtype)
            mine[half] = rng.standard_normal(mine[half].shape)
            for row in self._back(j, self.xp.asarray(mine)):
                for g in row:
                    if g is not None and np.nan_to_num(to_numpy(g)[~half]).any():
                        raise GraphError(
                            message(
                                f"{WHO}: a row of the batch depends on another row",
                                expected="steps that treat each row by itself, so that each has its own Jacobian",
                                do="give a batch of one row, or put norms over the batch into eval()",
                            )
                        )

    def gates(self, rows: Sequence[int]) -> dict[str, Any]:
        """For every part that a step hands on times a gate, that gate at every step, (T, B, S): ones where it is handed on as it is."""
        found = {}
        for j, name in enumerate(self.chain.names):
            seed = self.xp.ones(self.chain.shapes[j], self.chain.dtype)
            arrived = [row[j] for row in self._back(j, seed)]
            if all(g is not None for g in arrived):
                found[name] = np.stack([to_numpy(g).reshape(self.batch, -1)[rows] for g in arrived])
        return found


_CARRYING = {f.primitive: positions for f, positions in [(add, (0, 1)), (subtract, (0, 1)), (negative, (0,)), (where, (1, 2))]}


def _passes_on(node: Node, args: Sequence[Any]) -> bool:
    """Whether an op hands the state on as it is or times something that does not depend on it."""
    given = [i for i, a in enumerate(args) if a is not None]
    if any(tuple(a.shape) != tuple(node.shape) for a in args if a is not None):
        return False
    if node.prim is multiply.primitive:
        return len(given) == 1
    return all(i in _CARRYING.get(node.prim, ()) for i in given)


def _position(key: Any, state: Sequence[Any]) -> int | None:
    """Which part of a state a value is; None for none."""
    return next((i for i, other in enumerate(state) if isinstance(other, tuple) and other == key), None)
