"""A long sequence as streams side by side, in windows that go on where the one before stopped: batches for truncated BPTT."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ..errors import ArgumentError, ShapeError, describe, message


class Streams:
    """Windows of a long sequence, read as `batch` streams side by side, `steps` moments at a time.

    data (N, ...) -> windows (inputs, targets), both (T, B, ...) with T <= steps. Each column goes on in the next window, so the state of
    a network is carried over (`training.tbptt` does); a new pass begins at the front. Without `targets` they are the inputs one moment
    later: the next token. With `targets` (N, ...), those of the same moments.

    A `for` loop is one pass. `state_dict()`, asked inside the loop, is the position behind the window in hand.
    """

    contiguous = True  # a batch goes on where the one before stopped

    def __init__(self, data: Any, batch: int, steps: int, *, targets: Any = None):
        if isinstance(data, str):
            raise ArgumentError(message("Streams: data is a text", expected="numbers", do="vocabulary.encode(text)"))
        data, targets = (x if x is None or hasattr(x, "shape") else np.asarray(x) for x in (data, targets))
        if targets is not None and len(targets) != len(data):
            raise ShapeError(message(f"Streams: {len(data)} moments and {len(targets)} targets", expected="one for each"))
        length = (len(data) - (targets is None)) // batch if batch > 0 else 0
        if length < 1 or steps < 1:
            raise ShapeError(
                message(
                    f"Streams: {len(data)} tokens, batch = {batch}, steps = {steps}",
                    expected="a text of more tokens than batch, and batch and steps of at least 1",
                )
            )
        after = data[1 : batch * length + 1] if targets is None else targets[: batch * length]
        self.inputs = _side_by_side(data[: batch * length], batch)
        self.targets = _side_by_side(after, batch)
        self.steps = steps
        self.epoch = self.position = 0
        self._go_on = False

    def __len__(self) -> int:
        return -(-len(self.inputs) // self.steps)

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        if self._go_on:
            self._go_on = False
        elif self.position:  # a pass that was left early is over
            self.epoch, self.position = self.epoch + 1, 0
        return self._pass(self.position)

    def _pass(self, begin: int) -> Iterator[tuple[Any, Any]]:
        for i in range(begin, len(self)):
            self.position = i + 1
            window = slice(i * self.steps, (i + 1) * self.steps)
            yield self.inputs[window], self.targets[window]
        self.epoch, self.position = self.epoch + 1, 0

    def state_dict(self) -> dict[str, Any]:
        """The position: the pass, and the number of windows that were given out in it."""
        return {"epoch": self.epoch, "position": self.position, "made_for": self._made_for()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Let the next `for` loop go on behind that position, and the one after it begin a new pass."""
        if not isinstance(state, Mapping) or set(state) != {"epoch", "position", "made_for"}:
            raise ArgumentError(message(f"Streams: {describe(state)} is no position", expected="what state_dict() gave"))
        if list(state["made_for"]) != self._made_for() or not 0 <= state["position"] <= len(self):
            names = ("batch", "length", "steps")
            expected, got = (", ".join(map("{}={}".format, names, made)) for made in (self._made_for(), state["made_for"]))
            raise ArgumentError(message("Streams: the position is of other streams", expected=expected, got=got))
        self.epoch, self.position, self._go_on = state["epoch"], state["position"], True

    def _made_for(self) -> list[int]:
        length, batch = self.inputs.shape[:2]
        return [batch, length, self.steps]

    def __repr__(self) -> str:
        length, batch = self.inputs.shape[:2]
        return f"Streams({batch} of {length}, {len(self)} windows of {min(self.steps, length)})"


def _side_by_side(data: Any, batch: int) -> Any:
    """(B length, ...) -> (length, B, ...), a view."""
    return data.reshape(batch, len(data) // batch, *data.shape[1:]).swapaxes(0, 1)
