"""Loader: batches of a data set, shuffled, prepared ahead in a thread, from a position that can be saved and found again exactly."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any

import numpy as np

from .. import backend
from ..errors import ArgumentError, ShapeError, describe, message
from ..graph import raw
from ..random import Rng, generator, get_state, set_state
from ..tensor import Tensor
from .padding import buckets, check_size
from .vocabulary import Ids


class Loader:
    """Goes through a data set in batches; a `for` loop is one epoch.

    data: an array (N, ...); a tuple or dict of arrays or lists of one length N, whose batches are tuples or dicts; or any sequence of N
    items. Arrays give batches (batch_size, ...). Items are put together by `collate(items)`; by default arrays and numbers are stacked,
    in tuples and dicts part by part, and strings stay a list. With `collate`, data of any kind arrive as a list of items: `data.pad` puts
    sequences of different lengths side by side.

    shuffle: a new order in every epoch, from `rng` (a generator or a seed; without it one that the default generator seeds).
    lengths (N,): batches of items of similar length (`data.buckets`). drop_last: no last batch that is smaller.
    prefetch: how many batches a thread prepares ahead; 0 for none. Errors in the thread arrive in the loop with their traceback.

    `state_dict()`, asked inside the loop, is the position behind the batch in hand. After `load_state_dict` the next loop goes on there, and
    it and all later epochs give the same batches, prefetched or not. `collate` must draw no random numbers then: augment in the loop.
    """

    contiguous = False

    def __init__(
        self,
        data: Any,
        batch_size: int,
        *,
        shuffle: bool = False,
        drop_last: bool = False,
        collate: Callable[[list[Any]], Any] | None = None,
        prefetch: int = 0,
        lengths: Any = None,
        rng: Rng = None,
    ):
        check_size("Loader", "batch_size", batch_size)
        check_size("Loader", "prefetch", prefetch, least=0)
        self.data, self.items = data, _length_of(data)
        if lengths is not None and len(lengths) != self.items:
            raise ShapeError(message(f"Loader: {len(lengths)} lengths for {self.items} items", expected="one for each"))
        self.batch_size, self.shuffle, self.drop_last = batch_size, shuffle, drop_last
        self.collate, self.prefetch, self.lengths = collate, prefetch, lengths
        if rng is None:  # one of its own, so that what else is drawn does not depend on the batches
            rng = int(generator().integers(2**63)) if shuffle else 0
        self.rng = generator(rng)
        self.epoch = self.position = 0  # epochs before this one; batches of this one that were given out
        self._plan: list[Ids] | None = None  # the batches of this epoch, while it runs
        self._before: dict[str, Any] = {}  # the generator before they were drawn
        self._go_on = False

    def __len__(self) -> int:
        whole, rest = divmod(self.items, self.batch_size)
        return whole + (rest > 0 and not self.drop_last)

    def __iter__(self) -> Iterator[Any]:
        if not self._go_on:
            if self._plan is not None:  # an epoch that was left early is over
                self.epoch += 1
            self._begin()
        self._go_on = False
        assert self._plan is not None
        return self._pass(self._plan, self.position)

    def _begin(self) -> None:
        """Draw the batches of an epoch."""
        self._before = get_state(self.rng)
        self.position = 0
        if self.lengths is not None:
            self._plan = buckets(self.lengths, self.batch_size, shuffle=self.shuffle, drop_last=self.drop_last, rng=self.rng)
            return
        order = self.rng.permutation(self.items) if self.shuffle else np.arange(self.items)
        self._plan = [order[i * self.batch_size : (i + 1) * self.batch_size] for i in range(len(self))]

    def _pass(self, plan: list[Ids], begin: int) -> Generator[Any, None, None]:
        """The batches from number `begin` on. The position stands behind a batch when it is given out."""
        batches = ahead(self._batch, plan[begin:], self.prefetch) if self.prefetch else (self._batch(ids) for ids in plan[begin:])
        with closing(batches):
            for number, batch in enumerate(batches, begin + 1):
                if self._plan is plan:  # no other loop has begun
                    self.position = number
                yield batch
        if self._plan is plan:
            self.epoch, self.position, self._plan = self.epoch + 1, 0, None

    def _batch(self, ids: Ids) -> Any:
        if self.collate is not None:
            return self.collate([_item(self.data, int(i)) for i in ids])
        return _taken(self.data, ids)

    # ---- Saving and loading ------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The position: epoch, batches given out in it, and where the generator stood before the epoch and stands now."""
        now = get_state(self.rng)
        return {
            "epoch": self.epoch,
            "position": self.position,
            "before": now if self._plan is None else self._before,
            "now": now,
            "began": self._plan is not None,
            "made_for": [self.items, self.batch_size, self.shuffle, self.drop_last],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Let the next loop go on behind that position. The loader must have the same data and settings; prefetch may differ."""
        made_for = [self.items, self.batch_size, self.shuffle, self.drop_last]
        expected = {"epoch", "position", "before", "now", "began", "made_for"}
        if not isinstance(state, Mapping) or set(state) != expected or list(state["made_for"]) != made_for:
            names = ("items", "batch_size", "shuffle", "drop_last")
            theirs = state.get("made_for", ()) if isinstance(state, Mapping) else ()
            raise ArgumentError(
                message(
                    f"Loader: {'the state is of another loader' if theirs else describe(state) + ' is no state of a loader'}",
                    expected=", ".join(f"{name}={value}" for name, value in zip(names, made_for, strict=True)),
                    got=", ".join(f"{name}={value}" for name, value in zip(names, theirs, strict=False)),
                )
            )
        self.epoch, self._plan, self.position = state["epoch"], None, 0
        if state["began"]:
            set_state(state["before"], self.rng)
            self._begin()
            self.position = state["position"]
        self._go_on = bool(state["began"])
        set_state(state["now"], self.rng)

    def __repr__(self) -> str:
        on = [name for name in ("shuffle", "drop_last") if getattr(self, name)]
        settings = "".join(f", {name}=True" for name in on) + (f", prefetch={self.prefetch}" if self.prefetch else "")
        return f"Loader({self.items} items, batch_size={self.batch_size}{settings})"


# ---- Batches of data --------------------------------------------------------------------------------------------------------------


def collate(items: list[Any]) -> Any:
    """Items as one batch: arrays and numbers stacked (B, ...), tuples and dicts part by part, anything else as a list."""
    first = items[0]
    if isinstance(first, Mapping):
        return {key: collate([item[key] for item in items]) for key in first}
    if isinstance(first, tuple):
        parts = [collate(list(part)) for part in zip(*items, strict=True)]
        return type(first)(*parts) if hasattr(first, "_fields") else tuple(parts)
    arrays = [raw(item) for item in items]
    if not all(backend.is_array(a) or isinstance(a, (int, float, list, np.generic)) for a in arrays):
        return items
    xp = backend.array_module(*(a for a in arrays if backend.is_array(a)))
    if len({np.shape(a) if not isinstance(a, list) else (len(a),) for a in arrays}) > 1:
        raise ShapeError(
            message(
                "collate: the items differ in shape",
                expected="one shape, to be stacked",
                got=", ".join(str(tuple(np.shape(a))) for a in arrays[:8]),
                do="Loader(..., collate=data.pad) fills sequences up and returns their lengths too",
            )
        )
    stacked = xp.stack([xp.asarray(a) for a in arrays])
    return Tensor(stacked) if isinstance(first, Tensor) else stacked


def _length_of(data: Any) -> int:
    """The number of items N."""
    if isinstance(data, (tuple, Mapping)):
        parts = list(data.values() if isinstance(data, Mapping) else data)
        lengths = [_length_of(part) for part in parts]
        if not lengths or len(set(lengths)) > 1:
            raise ShapeError(
                message(
                    f"Loader: the parts of the data have the lengths {', '.join(map(str, lengths)) or '(there are none)'}",
                    expected="one length",
                    do="a sequence of items goes as a list",
                )
            )
        return lengths[0]
    if (
        not (hasattr(data, "__len__") and hasattr(data, "__getitem__"))
        or np.shape(raw(data) if backend.is_array(raw(data)) else [0]) == ()
    ):
        raise ArgumentError(
            message(
                f"Loader: {describe(data)} is no data set",
                expected="an array, a tuple or dict of arrays, or a sequence of items",
                do="list(data), if it ends" if isinstance(data, Iterable) else "",
            )
        )
    return len(data)


def _item(data: Any, i: int) -> Any:
    """Item i."""
    if isinstance(data, Mapping):
        return {key: _item(part, i) for key, part in data.items()}
    if isinstance(data, tuple):
        return _like(data, [_item(part, i) for part in data])
    return data[i]


def _taken(data: Any, ids: Ids) -> Any:
    """The items of these numbers as one batch."""
    if isinstance(data, Mapping):
        return {key: _taken(part, ids) for key, part in data.items()}
    if isinstance(data, tuple):
        return _like(data, [_taken(part, ids) for part in data])
    array = raw(data)
    if not backend.is_array(array):
        return collate([data[int(i)] for i in ids])
    batch = array[backend.to_device(ids, backend.device_of(array))]
    return Tensor(batch) if isinstance(data, Tensor) else batch


def _like(form: tuple[Any, ...], parts: list[Any]) -> Any:
    return type(form)(*parts) if hasattr(form, "_fields") else tuple(parts)


# ---- A thread that works ahead ------------------------------------------------------------------------------------------------------


def ahead(make: Callable[[Any], Any], plan: Sequence[Any], most: int) -> Generator[Any, None, None]:
    """make(x) for every x of the plan, in order, made by a thread that is at most `most` results ahead.

    An error in the thread is raised here, with its traceback. When the generator ends, is closed or dropped, the thread has ended too.
    """
    done: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
    room = threading.Semaphore(most)
    stopped = threading.Event()

    def work() -> None:
        try:
            for x in plan:
                room.acquire()
                if stopped.is_set():
                    return
                done.put(("made", make(x)))
            done.put(("end", None))
        except BaseException as error:  # whatever it is, it belongs to the loop
            done.put(("failed", error))

    worker = threading.Thread(target=work, name="tinygrad_seq.data.Loader", daemon=True)
    worker.start()
    try:
        while True:
            what, result = done.get()
            if what == "end":
                return
            if what == "failed":
                raise result
            yield result
            del result  # a batch lives as long as the loop needs it
            room.release()
    finally:
        stopped.set()
        room.release()
        worker.join()
