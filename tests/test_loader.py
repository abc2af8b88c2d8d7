"""The loader: every item once per epoch, positions that can be found again exactly, a thread that never hangs or stays."""

from __future__ import annotations

import json
import threading
import time
import traceback
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_seq as tg
from tinygrad_seq import data
from tinygrad_seq.errors import ArgumentError, ShapeError


class Pair(NamedTuple):
    x: object
    y: object


def workers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "tinygrad_seq.data.Loader"]


sizes = {"n": st.integers(1, 23), "batch_size": st.integers(1, 9)}


@given(**sizes, shuffle=st.booleans(), drop_last=st.booleans(), prefetch=st.integers(0, 3), by_length=st.booleans())
def test_an_epoch_gives_every_item_once(n, batch_size, shuffle, drop_last, prefetch, by_length):
    lengths = np.arange(n) % 4 if by_length else None
    loader = data.Loader(np.arange(n), batch_size, shuffle=shuffle, drop_last=drop_last, prefetch=prefetch, lengths=lengths, rng=3)
    for epoch in range(3):
        assert loader.epoch == epoch
        batches = list(loader)
        assert len(batches) == len(loader)
        seen = np.concatenate([*batches, np.array([], int)]).tolist()
        assert len(set(seen)) == len(seen) == (n // batch_size * batch_size if drop_last else n)
        full = [len(batch) == batch_size for batch in batches]
        assert all(full) if drop_last else len(full) - sum(full) == (n % batch_size > 0)
        if not shuffle and not by_length:
            assert seen == sorted(seen)
    assert not workers()


@given(**sizes, stop=st.integers(0, 30), prefetch=st.integers(0, 3), later=st.integers(0, 3), by_length=st.booleans())
def test_after_loading_every_further_batch_is_the_same_wherever_the_state_was_taken(
    n, batch_size, stop, prefetch, later, by_length
):
    def made(seed, prefetch):
        lengths = np.arange(n) % 5 if by_length else None
        return data.Loader(np.arange(n), batch_size, shuffle=True, prefetch=prefetch, lengths=lengths, rng=seed)

    def run(loader, epochs):
        for _ in range(epochs):
            for batch in loader:
                yield batch.tolist(), json.dumps(loader.state_dict())
            yield "end", json.dumps(loader.state_dict())

    whole = list(run(made(0, prefetch), 5))
    stop = min(stop, len(whole) - 1)
    resumed = made(99, later)
    resumed.load_state_dict(json.loads(whole[stop][1]))
    rest = [what for what, _ in whole[stop + 1 :]]
    assert [what for what, _ in run(resumed, 5)][: len(rest)] == rest


def test_a_generator_that_others_draw_from_goes_on_where_it_stood():
    def drawn(loader, rng, skip=0):
        return [(batch.tolist(), rng.random()) for _ in range(3) for batch in loader]

    rng = np.random.default_rng(1)
    loader = data.Loader(np.arange(7), 2, shuffle=True, rng=rng)
    for i, _ in enumerate(loader):
        rng.random()
        if i == 1:
            state = loader.state_dict()
            break
    # the pass that was left goes on in a loader that loads its state
    other = np.random.default_rng(5)
    resumed = data.Loader(np.arange(7), 2, shuffle=True, rng=other)
    resumed.load_state_dict(state)
    assert other.random() == rng.random()
    first = [batch.tolist() for batch in resumed]
    assert len(first) == 2 and drawn(resumed, other) == drawn(loader, rng)


def test_a_loop_that_was_left_early_is_over_and_the_next_one_begins_an_epoch():
    loader = data.Loader(np.arange(6), 2, prefetch=2)
    assert next(iter(loader)).tolist() == [0, 1]
    assert [batch.tolist() for batch in loader] == [[0, 1], [2, 3], [4, 5]]
    assert loader.epoch == 2


def test_without_a_generator_the_order_follows_from_the_seed():
    orders = []
    for seed in (1, 1, 2):
        tg.seed(seed)
        orders.append(np.concatenate(list(data.Loader(np.arange(50), 7, shuffle=True))).tolist())
    assert orders[0] == orders[1] != orders[2]


def test_loading_a_loader_that_draws_nothing_leaves_the_default_generator_alone():
    tg.seed(0)
    loader = data.Loader(np.arange(4), 2)
    state = loader.state_dict()
    tg.random.generator().random()
    before = tg.random.get_state()
    loader.load_state_dict(state)
    assert tg.random.get_state() == before


# ---- What it loads -----------------------------------------------------------------------------------------------------------------------


def test_tuples_and_dicts_of_arrays_come_as_tuples_and_dicts():
    xs, ys = np.arange(10).reshape(5, 2), np.arange(5) * 10
    x, y = next(iter(data.Loader((xs, ys), 3)))
    assert x.tolist() == [[0, 1], [2, 3], [4, 5]] and y.tolist() == [0, 10, 20]
    named = next(iter(data.Loader(Pair(xs, ys), 3)))
    assert isinstance(named, Pair) and named.y.tolist() == y.tolist()
    batch = next(iter(data.Loader({"x": xs, "y": ys.tolist()}, 2)))
    assert batch["x"].tolist() == [[0, 1], [2, 3]] and batch["y"].tolist() == [0, 10]


def test_tensors_come_as_tensors():
    batch = next(iter(data.Loader(tg.arange(4), 3)))
    assert isinstance(batch, tg.Tensor) and batch.tolist() == [0, 1, 2]


def test_items_are_stacked_part_by_part():
    items = [({"x": [i, i], "name": f"item {i}"}, i / 2) for i in range(4)]
    features, y = next(iter(data.Loader(items, 3)))
    assert features["x"].tolist() == [[0, 0], [1, 1], [2, 2]]
    assert features["name"] == ["item 0", "item 1", "item 2"]
    assert y.tolist() == [0, 0.5, 1]


def test_sequences_of_different_lengths_are_padded_by_pad_and_otherwise_refused_with_this_advice():
    items = [np.arange(n) for n in (2, 4, 1)]
    xs, lengths = next(iter(data.Loader(items, 3, collate=data.pad)))
    assert xs.T.tolist() == [[0, 1, 0, 0], [0, 1, 2, 3], [0, 0, 0, 0]] and lengths.tolist() == [2, 4, 1]
    with pytest.raises(ShapeError, match=r"collate=data\.pad"):
        next(iter(data.Loader(items, 3)))


def test_arrays_of_a_device_stay_there(xp):
    x = xp.arange(6)
    batch = next(iter(data.Loader((x, [1, 2, 3, 4, 5, 6]), 4, shuffle=True, rng=0)))[0]
    assert type(batch) is type(x) and batch.shape == (4,)


def test_what_is_no_data_set_says_so():
    for wrong in (5, np.array(1.0), (i for i in range(3))):
        with pytest.raises(ArgumentError, match="is no data set"):
            data.Loader(wrong, 2)
    with pytest.raises(ShapeError, match="the lengths 3, 4"):
        data.Loader((np.zeros(3), np.zeros(4)), 2)
    with pytest.raises(ArgumentError, match="batch_size = 0"):
        data.Loader(np.zeros(3), 0)
    with pytest.raises(ShapeError, match="2 lengths for 3 items"):
        data.Loader(np.zeros(3), 1, lengths=[1, 2])


def test_the_state_of_another_loader_is_refused():
    state = data.Loader(np.arange(5), 2).state_dict()
    with pytest.raises(ArgumentError, match="of another loader"):
        data.Loader(np.arange(6), 2).load_state_dict(state)
    with pytest.raises(ArgumentError, match="no state of a loader"):
        data.Loader(np.arange(6), 2).load_state_dict({"epoch": 1})


# ---- The thread --------------------------------------------------------------------------------------------------------------------------


def test_the_thread_works_ahead_and_no_further():
    made = []

    def collate(items):
        made.append(items[0])
        return items

    batches = iter(data.Loader(range(10), 1, collate=collate, prefetch=3))
    assert made == []  # nothing starts before it is asked for
    next(batches)
    until = time.monotonic() + 5
    while len(made) < 3 and time.monotonic() < until:
        time.sleep(0.001)
    time.sleep(0.02)
    assert made == [0, 1, 2]  # the one in hand and two more
    batches.close()
    assert not workers()


@pytest.mark.parametrize("prefetch", [0, 1, 4])
def test_an_error_in_collate_arrives_with_the_place_where_it_was_raised(prefetch):
    def failing_collate(items):
        if 4 in items:
            raise LookupError("item 4 is damaged")
        return items

    loader = data.Loader(list(range(10)), 2, collate=failing_collate, prefetch=prefetch)
    seen = []
    with pytest.raises(LookupError, match="item 4 is damaged") as caught:
        for batch in loader:
            seen.append(batch)
    assert seen == [[0, 1], [2, 3]]
    assert "failing_collate" in "".join(traceback.format_exception(caught.value))
    assert not workers()


def test_leaving_the_loop_early_in_any_way_ends_the_thread():
    loader = data.Loader(np.arange(100), 1, prefetch=2)
    for _ in loader:
        break
    assert not workers()
    with pytest.raises(KeyError):
        for _ in loader:
            raise KeyError
    assert not workers()
    batches = iter(loader)
    next(batches)
    assert len(workers()) == 1
    del batches
    assert not workers()
