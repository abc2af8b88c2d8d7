"""Truncated back-propagation through time: the state goes on from window to window, the gradient stops behind it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from .. import backend
from ..cut import cut, each_part
from ..errors import ArgumentError, ShapeError, describe, message
from ..frames import no_grad
from ..graph import raw
from ..tensor import Tensor


def tbptt(k1: int, k2: int | None = None, *, axis: int = 0) -> Truncation:
    """Truncated BPTT: an update every k1 time steps, its gradient going back through k2 steps (as many as k1 unless told).

    With h_t = f(h_(t-1), x_t; θ) and the loss ℓ_t of step t, the n-th update, at t = n k1, follows the gradient of

        L_n = loss of the steps t - k1 + 1, ..., t          computed from  cut(h_(t-k2)), x_(t-k2+1), ..., x_t

    so ∂ℓ_s/∂θ is summed over the uses of θ at the steps t-k2+1 ... s. For k2 > k1 the k2 - k1 steps before are run again, for their
    state alone, with the present weights; h_(t-k2) stays as an earlier window computed it. A last window of fewer than k1 steps begins
    where a whole one would. So k1 = k2 cuts the sequence into chunks, and k2 >= k1 ⌈T / k1⌉ is full BPTT. Memory is that of k2 steps, however
    long the sequence. (Dropout draws anew where steps are run again.)

    This is BPTT(h; h') of Williams & Peng (1990), h = k2, h' = k1, and TBPTT(k1, k2) of Sutskever (2013). In a loop of your own:

        truncated = tbptt(20, 60)
        for loss in truncated(step, batch):              # step(window, state) -> (loss, state); state is None at first
            optimizer.zero_grad(); loss.backward(); optimizer.step()

    axis: the time axis of the arrays in a batch, 1 where the batch comes first.
    """
    return Truncation(k1, k2, axis=axis)


class Truncation:
    """The work of `tbptt`. It remembers the state, so that the next batch goes on where this one stopped; `reset()` forgets it."""

    def __init__(self, k1: int, k2: int | None = None, *, axis: int = 0):
        k2 = k1 if k2 is None else k2
        if not (isinstance(k1, int) and isinstance(k2, int) and 1 <= k1 <= k2):
            raise ShapeError(
                message(
                    f"tbptt: k1 = {k1!r}, k2 = {k2!r}",
                    expected="1 <= k1 <= k2: an update every k1 steps, a gradient through k2",
                )
            )
        self.k1, self.k2, self.axis = k1, k2, axis
        self.reset()

    def reset(self) -> None:
        """Forget what came before: the next batch begins a sequence, with the state None."""
        self._start: Any = None  # the state before the steps that are kept,
        self._kept: deque[_Piece] = deque()  # the last k2 - k1 steps, which the next window runs again
        self.rest: Any = None  # what of the batch in hand is still to come
        self._on_host = True  # whether the batches that were loaded were in the main memory

    @property
    def state(self) -> Any:
        """The last state, cut."""
        return self._kept[-1].state if self._kept else self._start

    def __call__(self, step: Callable[[Any, Any], tuple[Any, Any]], batch: Any) -> Iterator[Any]:
        """The loss of each k1 steps of the batch, with a graph through k2 steps: update, then ask for the next one.

        step(window, state) -> (loss, state). batch: an array (T, ...), or a nesting of tuples, lists and dicts of arrays of one T.
        """
        T = _steps_of(batch, self.axis)
        for begin in range(0, T, self.k1):
            end = min(begin + self.k1, T)
            self.rest = _window(batch, end, T, self.axis) if end < T else None
            yield self._advance(step, _window(batch, begin, end, self.axis), end - begin)

    def _advance(self, step: Callable[[Any, Any], tuple[Any, Any]], window: Any, steps: int) -> Any:
        state = self._start
        for i, piece in enumerate(self._kept):
            _, state = _result(step(piece.batch, state))
            self._kept[i] = piece._replace(state=cut(state))
        loss, state = _result(step(window, state))
        self._kept.append(_Piece(window, steps, cut(state)))
        self._forget(step)
        return loss

    def _forget(self, step: Callable[[Any, Any], tuple[Any, Any]]) -> None:
        """Keep the last k2 - k1 steps, and the state before them."""
        excess = sum(piece.steps for piece in self._kept) - (self.k2 - self.k1)
        while excess > 0:
            oldest = self._kept.popleft()
            if oldest.steps > excess:  # the next window begins within it: the state of that moment is to be found
                with no_grad():
                    _, state = _result(step(_window(oldest.batch, 0, excess, self.axis), self._start))
                rest = _window(oldest.batch, excess, oldest.steps, self.axis)
                self._start = cut(state)
                self._kept.appendleft(_Piece(rest, oldest.steps - excess, oldest.state))
            else:
                self._start = oldest.state
            excess -= oldest.steps

    # ---- Saving and loading ------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """What it remembers, as NumPy arrays: the state, the steps that will be run again, the rest of the batch in hand."""
        kept = [[_arrays(piece.batch), piece.steps, _arrays(piece.state)] for piece in self._kept]
        return {
            "k": [self.k1, self.k2],
            "start": _arrays(self._start),
            "kept": kept,
            "rest": _arrays(self.rest),
            "on_host": all(backend.device_of(raw(x)) == "cpu" for x in _leaves([self.rest, [p.batch for p in self._kept]])),
        }

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Go on where the snapshot was taken, in the main memory; `to` moves it to where the model is."""
        expected = {"k", "start", "kept", "rest", "on_host"}
        if not isinstance(saved, Mapping) or set(saved) != expected or list(saved["k"]) != [self.k1, self.k2]:
            theirs = f"tbptt({saved['k'][0]}, {saved['k'][1]})" if isinstance(saved, Mapping) and "k" in saved else describe(saved)
            raise ArgumentError(message("tbptt: the state is of another one", expected=f"tbptt({self.k1}, {self.k2})", got=theirs))
        self._start, self.rest, self._on_host = saved["start"], saved["rest"], saved["on_host"]
        self._kept = deque(_Piece(*piece) for piece in saved["kept"])
        self.to("cpu")

    def to(self, device: str) -> None:
        """After loading, move the states to a device, and with them the batches if they were on one."""

        def state(x: Any) -> Any:
            return Tensor(raw(x), device=device) if backend.is_array(raw(x)) else x

        def batch(x: Any) -> Any:
            return backend.to_device(raw(x), device) if backend.is_array(raw(x)) and not self._on_host else x

        self._start, self.rest = each_part(state, self._start), each_part(batch, self.rest)
        self._kept = deque(_Piece(each_part(batch, p.batch), p.steps, each_part(state, p.state)) for p in self._kept)

    def __repr__(self) -> str:
        return f"tbptt({self.k1}, {self.k2})"


class _Piece(NamedTuple):
    batch: Any
    steps: int
    state: Any  # after it


# ---- Nestings of arrays -------------------------------------------------------------------------------------------------------------


def _leaves(tree: Any) -> list[Any]:
    """The arrays and Tensors in it."""
    found: list[Any] = []
    each_part(lambda x: found.append(x) if backend.is_array(raw(x)) else None, tree)
    return found


def _arrays(tree: Any) -> Any:
    """A snapshot with NumPy arrays."""
    return each_part(lambda x: backend.to_numpy(raw(x)).copy() if backend.is_array(raw(x)) else x, tree)


def _window(batch: Any, begin: int, end: int, axis: int) -> Any:
    """The steps begin ... end - 1 of every array in the batch."""
    during = (*(slice(None),) * axis, slice(begin, end))
    return each_part(lambda x: x[during] if backend.is_array(raw(x)) else x, batch)


def _steps_of(batch: Any, axis: int) -> int:
    """T, which all arrays of the batch have in common."""
    shapes = [tuple(x.shape) for x in _leaves(batch)]
    lengths = {shape[axis] if len(shape) > axis else None for shape in shapes}
    if len(lengths) != 1 or None in lengths:
        raise ShapeError(
            message(
                "tbptt: the arrays of the batch do not have one number of time steps",
                expected=f"the same size along axis {axis}",
                got=", ".join(map(str, shapes)) or "no arrays",
                do="tbptt(k1, k2, axis=1) where the batch comes first; what has no time axis goes another way",
            )
        )
    return int(shapes[0][axis])


def _result(returned: Any) -> tuple[Any, Any]:
    if not isinstance(returned, tuple) or len(returned) != 2:
        raise ArgumentError(
            message(
                "tbptt: the function returned no pair",
                expected="(loss, state): the loss of the window, and the state behind it",
                got=f"a tuple of {len(returned)}" if isinstance(returned, tuple) else describe(raw(returned)),
            )
        )
    return returned
