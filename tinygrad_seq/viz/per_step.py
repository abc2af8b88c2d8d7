"""What is computed for a whole sequence before or between loops, taken apart into steps: op(stack(a)) = stack(op(a_t)).

A sequence is embedded before the loop; the layers of a stack hand each other whole sequences: their states are stacked, the two directions concatenated, padding masked, some outputs
dropped. Each such op acts on every step alone, so it can be drawn in the column of the step. Here it is recorded once more, step by step.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from copy import copy
from typing import Any

import numpy as np

from ..frames import Frame, enable_grad, mode, tick
from ..graph import MultiNode, Node, Output, Value, box, node_of, raw, toposort, value_of
from ..ops import stack
from .times import times_of

LAST_AXIS = frozenset({"softmax", "log_softmax", "layer_norm", "rms_norm"})
PRODUCTS = frozenset({"matmul", "inner"})


def per_step(outputs: Sequence[Value]) -> list[Any]:
    """The same numbers on another tape, on which what is computed for steps is computed in them. The graph given stays as it was."""
    tape = toposort(outputs)
    times = times_of(tape)
    wanted = _sequences(tape, times)
    return _Apart(tape, times, wanted).of(outputs) if wanted else list(outputs)


def _sequences(tape: list[Node], times: dict[Node, int]) -> dict[Node, list[int]]:
    """The ops outside of all steps that act on every entry alone, and of which steps read single entries: which step reads which."""
    read: dict[Node, dict[int, int]] = defaultdict(dict)
    wanted: dict[Node, list[int]] = {}
    for node in reversed(tape):
        for arg in node.args:
            entry, time = arg.node if isinstance(arg, Output) else arg, times.get(node)
            if isinstance(entry, Node) and time is not None and (place := _entry(entry, arg)) is not None:
                read[place[0]].setdefault(place[1], time)
        split = _split(node) if node in read and node not in times else None
        if split is not None and set(range(node.shape[0])) == set(read[node]):
            wanted[node] = [read[node][k] for k in range(node.shape[0])]
            for source, taken in zip(map(node_of, node.args), split, strict=True):
                if source is not None and taken:
                    for k, time in read[node].items():
                        read[source].setdefault(k, time)
    return wanted


def _entry(node: Node, arg: Any) -> tuple[Node, int] | None:
    """The sequence, and which entry of it, that an argument is."""
    if node.prim is None or node.prim.name not in ("unstack", "getitem"):
        return None
    source, key = node_of(node.args[0]), node.params.get("key")
    if node.prim.name == "unstack":
        return (source, arg.index) if source is not None and node.params.get("axis", 0) == 0 and isinstance(arg, Output) else None
    return (source, key % source.shape[0]) if source is not None and type(key) is int and source.shape else None


def _split(node: Node) -> list[bool] | None:
    """For every argument of an op whether it is taken apart; None where the op does not act on every entry of the first axis alone."""
    prim = node.prim
    shapes: list[tuple[int, ...]] = [getattr(arg, "shape", ()) for arg in node.args]
    if prim is None or type(node) is MultiNode or not node.shape or any(arg is None for arg in node.args):
        return None
    count = node.shape[0]
    along = [len(shape) == len(node.shape) and shape[0] == count for shape in shapes]
    if prim.edge is not None and not node.params:
        return along if all(a or len(s) < len(node.shape) for a, s in zip(along, shapes, strict=True)) and any(along) else None
    if prim.name == "concatenate" and node.params.get("axis", 0) not in (0, -len(node.shape)):
        return along if all(along) else None
    if prim.name in PRODUCTS and len(shapes) == 2 and len(shapes[0]) > 1 and len(shapes[1]) <= 2:
        return [True, False]
    if prim.name in LAST_AXIS and len(node.shape) > 1 and node.params.get("axis", -1) in (-1, len(node.shape) - 1):
        return [True, *[False] * (len(shapes) - 1)]
    if prim.name == "take" and node.params.get("axis") == 0 and np.ndim(node.params["indices"]) > 1:  # an embedding
        return [False]
    return None


class _Apart:
    """The tape written once more, with some ops taken apart."""

    def __init__(self, tape: list[Node], times: dict[Node, int], wanted: dict[Node, list[int]]):
        self.tape, self.times, self.wanted = tape, times, wanted
        self.places: dict[Node, Any] = {}  # what stands for a node, as an argument
        self.entries: dict[Node, list[Any]] = {}  # of a sequence: the values of its steps
        self.frames: dict[tuple[Frame | None, int], Frame] = {}
        self.around = {f for node in times if node.frame is not None for f in node.frame.path()}

    def of(self, outputs: Sequence[Value]) -> list[Any]:
        """The outputs on the new tape."""
        first = min(node.order for node in self.wanted)
        for node in self.tape:
            if node in self.wanted:
                self._apart(node)
            elif node.prim is not None and node.order > first:  # all of them, so that they stay in order
                self.places[node] = self._copied(node)
        return [self._as_value(v) for v in outputs]

    def _as_value(self, value: Value) -> Value:
        if value.node not in self.places:
            return value
        moved: Value = box(value._data, self.places[value.node], value.index if type(value.node) is MultiNode else None)
        return moved

    def _copied(self, node: Node) -> Node:
        twin = copy(node)
        twin.args = tuple([self._moved(arg) for arg in node.args])
        twin.raw = tuple([raw(self._moved(x)) for x in node.raw])
        twin.order = tick()
        return twin

    def _moved(self, arg: Any) -> Any:
        node = node_of(arg)
        if node not in self.places:
            return arg
        return Output(self.places[node], arg.index) if isinstance(arg, Output) else self.places[node]

    def _apart(self, node: Node) -> None:
        """Record the op for every step, and stack what comes out."""
        prim, taken, times = node.prim, _split(node) or [], self.wanted[node]
        assert prim is not None
        several = [self._entries(arg, len(times)) if apart else None for arg, apart in zip(node.args, taken, strict=True)]
        whole = [None if apart else self._value(arg) for arg, apart in zip(node.args, taken, strict=True)]
        params = dict(node.params)
        if "indices" in params:
            several_params = [{**params, "indices": params["indices"][k]} for k in range(len(times))]
        else:
            axis = params.get("axis", -1)
            several_params = [{**params, "axis": axis if axis < 0 else axis - 1} if "axis" in params else params] * len(times)
        made = []
        for k, time in enumerate(times):
            args = [whole[i] if entries is None else entries[k] for i, entries in enumerate(several)]
            with enable_grad(), mode("frame", self._frame(node.frame, time)):
                made.append(_named(prim.call(*args, **several_params[k]), node))
        self.entries[node] = made
        with enable_grad(), mode("frame", node.frame):
            self.places[node] = stack(made).node

    def _entries(self, arg: Any, count: int) -> list[Any]:
        """The values of the steps of one argument."""
        source = node_of(arg)
        if source in self.entries:
            return self.entries[source]
        if source is not None and source.prim is not None and source.prim.name == "stack":
            return [self._value(part) for part in source.args]
        value = self._value(arg)
        with enable_grad():
            return [value[k] for k in range(count)]

    def _value(self, arg: Any) -> Any:
        """The value that an entry of `node.args` stands for."""
        if node_of(arg) is None:
            return arg
        moved = self._moved(arg)
        return box(np.asarray(value_of(arg)), node_of(moved), moved.index if isinstance(moved, Output) else None)

    def _frame(self, frame: Frame | None, time: int) -> Frame:
        """The frame of a step: around the module that computes the sequence, unless that has loops of its own."""
        if (frame, time) not in self.frames:
            inside = frame is not None and frame not in self.around and frame.owner is not None and frame.step is None
            step = Frame(frame.parent if inside and frame is not None else frame, "each", time)
            self.frames[frame, time] = Frame(step, frame.owner) if inside and frame is not None else step
        return self.frames[frame, time]


def _named(value: Any, node: Node) -> Any:
    name = node.notes_of(0).name
    if name:
        value.name = name
    return value
