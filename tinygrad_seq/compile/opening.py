"""The equations of a step, run again as the unfolded loop would: in its frames, and with what was computed before the loop at every step.

For readers, which ask what happened at which time. Knows nothing of loops.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..frames import Frame, thread
from ..graph import Output, Value, box, node_of, value_of
from .trace import Call, Place, Trace


class Origins:
    """What the statics of a loop were computed from, read off the tape behind them: `known` values by place, and the `calls` between them.

    Behind a static that is a leaf, or has gone through another op since, nothing is found: it is known itself.
    """

    def __init__(self, trace: Trace, statics: Sequence[Any]):
        self.trace = trace
        self.known: dict[Place, Any] = {}
        found: set[int] = set()
        stack = list(zip(trace.hoisted, statics, strict=True))
        while stack:
            place, value = stack.pop()
            node = value.node if isinstance(value, Value) else None
            if place[0] == "static call" and node is not None and node.prim is trace.statics[place[1]].prim:
                if place[1] not in found:
                    found.add(place[1])
                    stack += [(p, _value(a)) for p, a in zip(trace.statics[place[1]].args, node.args, strict=True)]
            else:
                self.known.setdefault(place, value)
        self.calls = sorted(found)


def _value(arg: Any) -> Any:
    """The value behind an entry of `node.args`."""
    node = node_of(arg)
    return arg if node is None else box(value_of(arg), node, arg.index if isinstance(arg, Output) else None)


class Step:
    """One run of the equations: the outputs of the step, its ops in frames of their own."""

    def __init__(self, origins: Origins, x: Any, states: Sequence[Any]):
        self.trace, self.known, self.waiting = origins.trace, origins.known, origins.calls
        self.inputs = {"x": (x,), "state": states}
        self.results: list[Any] = []
        self.statics: dict[int, Any] = {}
        self.top, self.frames = thread.modes.frame, dict[Frame, Frame]()

    def run(self) -> list[Any]:
        """All outputs."""
        try:
            for call in self.trace.calls:
                self.results.append(self._made(call, [self._at(place) for place in call.args]))
            return [self._at(place) for place in self.trace.outputs]
        finally:
            thread.modes.frame = self.top

    def _at(self, place: Place) -> Any:
        kind, k, *output = place
        if kind == "call":
            return _output(self.results[k], output[0])
        if kind == "static":
            return self._static(self.trace.hoisted[k])
        return k if kind == "number" else self.inputs[kind][k]

    def _static(self, place: Place) -> Any:
        """What was computed before the loop, once more if the tape shows how: just before it is first needed."""
        if place in self.known:
            return self.known[place]
        if place[0] == "number":
            return place[1]
        for k in self.waiting:  # in tape order
            if k <= place[1] and k not in self.statics:
                call = self.trace.statics[k]
                self.statics[k] = self._made(call, [self._static(p) for p in call.args])
        return _output(self.statics[place[1]], place[2])

    def _made(self, call: Call, args: list[Any]) -> Any:
        """The result of an op, in the frame that it had within its step, under the name that the step gave it."""
        inner = self.top
        for frame in call.frame:
            inner = (
                self.frames.setdefault(frame, Frame(inner, frame.owner, frame.step))
                if frame not in self.frames
                else self.frames[frame]
            )
        thread.modes.frame = inner
        result = call.prim.call(*args, **call.params)
        for index, name in call.names:
            value = _output(result, index)
            if isinstance(value, Value):
                value.name = name
        return result


def _output(result: Any, index: int) -> Any:
    return result[index] if isinstance(result, tuple) else result
