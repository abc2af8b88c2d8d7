"""Gates, open or closed, and how much each state depends on one input: after figures 4.1 and 4.3 of Graves (2012).

○  the gate lets pass: above one half on average          —  it is closed
grey = |∂h_t/∂x_1|, the Frobenius norm of the Jacobian, as a share of the largest
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..autodiff import Targets, steps_of_backward
from ..backend import to_numpy
from ..errors import ArgumentError, GraphError, message
from ..frames import enable_grad
from ..graph import MultiNode, Node, Output, Value, box, leaf, node_of, raw, toposort, value_of
from .names import below, identity
from .norms import mix, number
from .picture import LEAVES, Box, Picture, Use

OPEN, CLOSED = "○", "—"
EXACT = 64  # numbers of a state: the Jacobian of a larger one is estimated from as many directions
LETTERS = {"LSTM": "ifo", "GRU": "rz"}  # the gates of our own cells, in tape order
LIGHT, DARK = "#ffffff", "#1d2430"


def show_gates(picture: Picture) -> None:
    """Write on every sigmoid whether it is open, with its mean; on a cell, which of its gates are."""
    gates = [box for box in picture.all_boxes() if is_gate(box)]
    if not gates:
        raise GraphError(
            message(
                "draw: no gates in this graph", expected="sigmoids in the steps of a loop, as in an LSTM or a GRU", do="gates=False"
            )
        )
    for gate in gates:
        mean = float(np.mean(to_numpy(raw(value_of(gate.shows)))))
        gate.notes.append(f"{OPEN if mean > 0.5 else CLOSED} {mean:.2f}")
        gate.look |= {"fillcolor": mix(DARK, LIGHT, 0.6 + 0.4 * mean), "penwidth": 1.6 if mean > 0.5 else 1.0}
    for cell in picture.boxes.values():
        inside = [box for box in cell.inside if is_gate(box)]
        letters = next(
            (names for kind, names in LETTERS.items() if cell.label.startswith(kind) and len(names) == len(inside)), None
        )
        if inside:
            cell.notes.append("   ".join(f"{letters[k] if letters else 'σ'} {box.notes[-1]}" for k, box in enumerate(inside)))
    picture.remarks.append(f"gates: {OPEN} open, {CLOSED} closed, and the mean of their numbers")


def is_gate(box: Box) -> bool:
    """Whether a box is the gate of a step."""
    return box.column is not None and box.tape is not None and box.tape.prim is not None and box.tape.prim.name == "sigmoid"


# ---- Sensitivity -----------------------------------------------------------------------------------------------------------------------


def shade(picture: Picture, outputs: Sequence[Value], source: Any) -> None:
    """Shade the states by how much they depend on the input of a step (an int), or on a value."""
    tape = toposort(outputs)
    starts, name = _starts(picture, source)
    replay = _Replay(tape, starts)
    norms: dict[str, float] = {}
    estimated = False
    for box_ in picture.all_boxes():
        if box_.kind in ("state", "loss") and box_.tape is not None and box_.tape.prim is not None and box_.tape in replay.numbers:
            norms[box_.id], guess = replay.norm(box_.tape)
            estimated |= guess
    if not norms or not max(norms.values(), default=0.0):
        raise GraphError(message(f"draw: no state depends on {name}", expected="sensitivity= an input that the steps read"))
    boxes = {one.id: one for one in picture.all_boxes()}
    largest = max(v for v in norms.values() if np.isfinite(v))
    for id, norm in norms.items():
        _grey(boxes[id], norm / largest if largest else 0.0, number(norm))
    for box_ in picture.all_boxes():
        if box_.id not in norms and box_.kind in ("state", "input"):
            _grey(box_, 1.0 if box_.id in starts.boxes else 0.0, None)
    for cell in picture.boxes.values():
        told = [f"{one.label} {one.notes[-1]}" for one in cell.inside if one.kind == "state" and one.notes]
        cell.notes += ["   ".join(told)] if told else []
    text = f"grey: |∂·/∂{name}|, black is {number(largest)}"
    picture.remarks.append(text + (f", estimated from {EXACT} random directions" if estimated else ""))


def _grey(box: Box, share: float, note: str | None) -> None:
    box.look |= {"fillcolor": mix(LIGHT, DARK, share), "fontcolor": LIGHT if share > 0.5 else DARK, "color": DARK}
    if note is not None:
        box.notes.append(note)


class _Starts:
    """Where a sensitivity starts: the arguments that read the value, its node if it has one, its numbers, its boxes."""

    def __init__(self, uses: set[Use], node: Node | None, array: Any, boxes: set[str]):
        self.uses, self.node, self.array, self.boxes = uses, node, array, boxes


def _starts(picture: Picture, source: Any) -> tuple[_Starts, str]:
    """What a sensitivity is asked for: the input of a step, or a value."""
    boxes = picture.all_boxes()
    if isinstance(source, int):
        found = [b for b in boxes if b.kind == "input" and b.column == source]
        if not found and (written := _written(picture, source)):
            return written, "x" + below(source)
    elif isinstance(source, Value):
        found = [b for b in boxes if (b.tape is source.node if source.node is not None else _same(b, source))]
    else:
        raise ArgumentError(message(f"draw: sensitivity={source!r}", expected="the number of a step, or a Tensor that is drawn"))
    if not found:
        raise GraphError(
            message("draw: what the sensitivity is asked for is not in the picture", expected="the input of a step that is drawn")
        )
    ids = {b.id for b in found if b.label == found[0].label}
    uses = {edge.use for edge in picture.all_edges() if edge.source in ids and edge.use is not None}
    array = to_numpy(raw(value_of(found[0].shows)))
    if array.dtype.kind != "f":
        raise GraphError(
            message(
                f"draw: {found[0].label} is {array.dtype}, nothing can be differentiated by it",
                expected="sensitivity= a value of real numbers, such as the embedding of the input",
            )
        )
    node = found[0].tape if isinstance(source, Value) else None
    return _Starts(uses, node, array, ids), (source.name if isinstance(source, Value) and source.name else found[0].label)


def _same(box: Box, constant: Value) -> bool:
    return box.kind in LEAVES and identity(box.shows) == identity(constant)


def _written(picture: Picture, time: int) -> _Starts | None:
    """The input of a step that is a number, another one in every step: it is written on its op."""
    numbers: dict[tuple[str, int], dict[int | None, tuple[Box, Any]]] = {}
    seen: Counter[Any] = Counter()
    for one in picture.all_boxes():
        if one.kind == "op" and one.tape is not None and one.column is not None:
            role = one.tape.prim.name, seen[one.column, one.tape.prim.name]
            seen[one.column, one.tape.prim.name] += 1
            for position, arg in enumerate(one.tape.args):
                if node_of(arg) is None and arg is not None and np.ndim(raw(arg)) == 0:
                    numbers.setdefault((f"{role}", position), {})[one.column] = one, raw(arg)
    for (_, position), of_step in numbers.items():
        if time in of_step and len({float(value) for _, value in of_step.values()}) > 1:
            one, value = of_step[time]
            assert one.tape is not None
            return _Starts({(one.tape, position)}, None, np.asarray(value, "f8"), {one.id})
    return None


class _Replay:
    """What depends on one value, computed once more, with that value as the only leaf."""

    def __init__(self, tape: Sequence[Node], starts: _Starts):
        self.start = leaf(starts.array)
        first = box(starts.array, self.start)
        self.numbers: dict[Node, Any] = {}
        for node in tape:
            if node.prim is None or node is starts.node:
                continue
            moved: dict[int, Any] = {}
            for position, arg in enumerate(node.args):
                source = node_of(arg)
                if (node, position) in starts.uses or (source is not None and source is starts.node):
                    moved[position] = first
                elif source in self.numbers:
                    moved[position] = self.numbers[source][arg.index if isinstance(arg, Output) else 0]
            if moved:
                args = [moved[k] if k in moved else value_of(arg) for k, arg in enumerate(node.args)]
                with enable_grad():
                    outs = node.prim.call(*args, **node.params)
                self.numbers[node] = outs if type(node) is MultiNode else (outs,)

    def norm(self, node: Node) -> tuple[float, bool]:
        """The Frobenius norm of the Jacobian of a node's first output, and whether it is an estimate."""
        value = self.numbers[node][0]
        if value.node is None:
            return 0.0, False
        size, total = value._data.size, 0.0
        several = size > EXACT
        signs = np.random.default_rng(0)
        for k in range(min(size, EXACT)):
            direction = signs.choice([-1.0, 1.0], size) if several else np.eye(1, size, k)[0]
            targets: Targets = {self.start: {0: None}}
            for _ in steps_of_backward([value], [direction.reshape(value._data.shape)], targets=targets):
                pass
            found = targets[self.start][0]
            total += 0.0 if found is None else float((found.astype("f8") ** 2).sum())
        return float(np.sqrt(total / (EXACT if several else 1))), several
