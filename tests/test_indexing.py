"""Reading, writing and sorting by position: what the op table cannot say."""

from __future__ import annotations

import gc
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import strict_cupy
from hypothesis import given, settings
from op_table import Case
from rows_indexing import reads, writes

import tinygrad_seq as tg
from tinygrad_seq import ops
from tinygrad_seq.errors import ArgumentError, AxisError, DeviceError, IndexError_, InPlaceError, ShapeError
from tinygrad_seq.testing import assert_close, check_grads

rng = np.random.default_rng(0)


def leaf(*shape: int) -> tg.Tensor:
    return tg.Tensor(rng.standard_normal(shape), requires_grad=True)


def median_time(f: Callable[[], Any], repeats: int) -> float:
    times = []
    gc.disable()  # what it costs grows with everything else that is alive
    try:
        for _ in range(repeats):
            start = time.perf_counter()
            f()
            times.append(time.perf_counter() - start)
    finally:
        gc.enable()
    return float(np.median(times))


# ---- Many slices of one array -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("create_graph", [False, True])
def test_the_gradient_of_T_slices_takes_time_linear_in_T(create_graph):
    def step(T: int, repeats: int) -> float:
        x = leaf(T, 2, 3)
        ys = [x[t] * x[t] for t in range(T)]
        y = tg.stack(ys).sum()
        return median_time(lambda: tg.grad(y, x, create_graph=create_graph), repeats) / T

    ratios = [step(4000, 3) / step(400, 15) for _ in range(3)]
    assert min(ratios) < 1.6, ratios  # a busy machine may spoil one of them; quadratic time would make each 10


def test_the_gradient_of_T_slices_takes_memory_for_one_array():
    T = 200
    x = leaf(T, 5000)
    y = tg.stack([x[t].sum() for t in range(T)]).sum()
    tg.grad(y, x)
    tracemalloc.start()
    try:
        g = tg.grad(y, x)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert_close(g, np.ones(x.shape))
    assert peak < 2 * x.nbytes


def test_recorded_slices_make_one_op_of_their_gradient():
    x = leaf(50, 2)
    y = tg.stack([x[t] ** 3 for t in range(50)]).sum()
    g = tg.grad(y, x, create_graph=True)
    assert [node.prim.name for node in tg.toposort([g]) if node.prim].count("sum_of_slices") == 1
    assert_close(tg.grad(g.sum(), x), 6 * x.numpy(), rtol=1e-12)


def test_slices_that_overlap_and_other_uses_add_up():
    def f(x: Any) -> Any:
        return (x[1:] * x[:-1]).sum() + (x[[0, 0, 2]] ** 2).sum() + (x * x).sum() + x[-1].sum() + (x[x.data > 0] ** 3).sum()

    check_grads(f, (rng.standard_normal((4, 3)),), order=3)


# ---- Every key, against loops -----------------------------------------------------------------------------------------------------


@settings(max_examples=80)
@given(reads())
def test_a_read_sends_each_gradient_back_to_the_place_it_was_read_from(case: Case):
    (x,), key = case.args, case.params["key"]
    places = np.arange(x.size).reshape(x.shape)[key]
    u = rng.standard_normal(places.shape)
    expected = np.zeros(x.shape)
    for place, each in zip(np.ravel(places), np.ravel(u), strict=True):
        expected.flat[place] += each
    leaf = tg.Tensor(x, requires_grad=True)
    assert_close(tg.grad(leaf[key], leaf, u), expected, rtol=1e-12)
    assert_close(tg.grad(leaf[key], leaf, u, create_graph=True), expected, rtol=1e-12)


@settings(max_examples=80)
@given(writes(once=False))
def test_index_add_adds_at_every_place_as_often_as_the_key_names_it(case: Case):
    x, key, v = case.args
    places = np.arange(x.size).reshape(x.shape)[key]
    values = np.broadcast_to(v, places.shape)
    expected = x.copy()
    for place, each in zip(np.ravel(places), np.ravel(values), strict=True):
        expected.flat[place] += each
    before = x.copy()
    assert_close(tg.index_add(tg.Tensor(x), key, v), expected, rtol=1e-12)
    np.testing.assert_array_equal(x, before)


@pytest.mark.parametrize(
    "key", [(slice(None), [0, 2, 0]), (slice(None), slice(None), [[1], [1]]), (slice(None), [1, 1], 0), ([1, 1], 2)]
)
def test_integers_behind_whole_axes_add_up_too(key):
    x = leaf(2, 3, 4)
    places = np.arange(24).reshape(2, 3, 4)[key]
    u = rng.standard_normal(places.shape)
    expected = np.zeros(24)
    np.add.at(expected, places, u)
    assert_close(tg.grad(x[key], x, u), expected.reshape(2, 3, 4), rtol=1e-12)
    assert_close(tg.index_add(0 * x, key, u), expected.reshape(2, 3, 4), rtol=1e-12)


def test_an_embedding_row_that_is_read_often_receives_all_gradients():
    table, words = leaf(7, 4), rng.integers(-7, 7, (5, 3))
    u = rng.standard_normal((5, 3, 4))
    expected = np.zeros((7, 4))
    for place in np.ndindex(5, 3):
        expected[words[place]] += u[place]
    assert_close(tg.grad(table[words], table, u), expected, rtol=1e-12)
    assert_close(tg.grad(tg.take(table, words, 0), table, u), expected, rtol=1e-12)


@pytest.mark.parametrize(
    "key",
    [
        tg.Tensor([2, 0, 0], dtype=np.int64),
        tg.Tensor(2, dtype=np.int64),
        tg.Tensor([True, False, True], dtype=bool),
        (slice(None), tg.Tensor([1, -1], dtype=np.int32)),
        np.int64(1),
        np.array(1),
        [0, 2],
        [True, False, True],
        [],
        range(1, 3),
        ([0, 1], [1, 2]),
        True,
        np.array([[0, 1], [2, 2]], dtype=np.uint8),
    ],
)
def test_keys_may_be_tensors_lists_ranges_and_numpy_numbers(key):
    def plain(k: Any) -> Any:
        return k.numpy() if isinstance(k, tg.Tensor) else list(k) if isinstance(k, range) else k

    numpy_key = tuple(map(plain, key)) if isinstance(key, tuple) else plain(key)
    numpy_key = np.array([], int) if isinstance(numpy_key, list) and not numpy_key else numpy_key
    x = leaf(3, 4)
    assert_close(x[key], np.asarray(x.numpy()[numpy_key]))
    check_grads(lambda x: x[key] ** 2, (x,))
    with strict_cupy.installed():
        check_grads(lambda x: x[key] ** 2, (strict_cupy.xp.asarray(x.numpy()),))


def test_a_key_that_changes_after_it_was_recorded_changes_nothing():
    array, words = np.array([0, 1]), tg.Tensor([0, 1], dtype=np.int64)
    mask, listed = np.array([True, True, False]), [0, 1]
    for key in (array, words, mask, listed, (slice(0, 3), np.array([0, 1]))):
        x = leaf(3, 2)
        y = x[key].sum() + tg.index_add(x, key, 0.0).sum()
        if isinstance(key, tuple):
            key[1][:] = 1
        elif key is listed:
            key[:] = [2, 2]
        else:
            key[:2] = key.dtype.type(0)
        expected = np.array([[2.0, 2], [2, 2], [2, 2]]) if isinstance(key, tuple) else np.array([[2.0, 2], [2, 2], [1, 1]])
        assert_close(tg.grad(y, x), expected)


@pytest.mark.parametrize("op", [tg.index_put, tg.index_add])
def test_the_key_of_a_recorded_value_is_kept_too(op):
    v, key = leaf(2), np.array([0, 2])
    y = op(tg.zeros(4, dtype=np.float64), key, v)
    key[:] = 1
    assert_close(tg.grad(y, v, np.array([1.0, 2, 3, 4])), np.array([1.0, 3.0]))


def test_an_empty_array_can_be_read_and_added_to():
    x = leaf(0, 3)
    for key in ([], np.zeros((0, 2), int), ([], []), slice(None), np.zeros((0, 3), bool)):
        check_grads(lambda x, key=key: x[key] ** 2, (x,))
        assert tg.index_add(x, key, 1.0).shape == (0, 3)


@pytest.mark.parametrize(
    ("key", "why"),
    [
        (3, r"(?s)getitem: index 3 is out of bounds"),
        ([0, 5], "out of bounds"),
        ((0, 0, 0), "3 indices for 2 axes|too many indices"),
        (np.array([0.5]), "integer"),
        ("a", "no index"),
        (np.array([True, False]), "boolean"),
        ((..., ...), "ellipsis"),
    ],
)
def test_a_key_that_does_not_fit_is_an_index_error(key, why):
    with pytest.raises(IndexError_, match=why):
        leaf(3, 4)[key]
    with pytest.raises(IndexError):
        tg.index_add(leaf(3, 4), key, 0.0)


def test_take_names_the_index_and_the_axis_that_do_not_exist():
    with pytest.raises(IndexError_, match="take: index 4 is out of bounds for axis 0"):
        tg.take(leaf(3, 4), [4], 0)
    with pytest.raises(AxisError, match="take: axis 2"):
        tg.take(leaf(3, 4), [0], 2)
    with pytest.raises(IndexError_, match="take_along_axis"):
        tg.take_along_axis(leaf(3, 4), np.array([[9]]), 0)


# ---- Writing ----------------------------------------------------------------------------------------------------------------------


def test_a_write_changes_the_tensor_and_nothing_else():
    source = np.zeros((2, 3))
    x = tg.Tensor(source)
    x[0] = tg.Tensor([1.0, 2.0, 3.0])
    x[1, 1:] = [4, 5]
    x[:, 0] = np.array([7, 8])
    x[tg.Tensor([1], dtype=np.int64), 2] = 9
    assert x.tolist() == [[7, 2, 3], [8, 4, 9]]
    assert not source.any()


def test_a_write_that_would_lose_a_gradient_is_refused():
    x, v = tg.zeros(3), leaf()
    with pytest.raises(InPlaceError, match=r"(?s)has a gradient, which would be lost.*index_put.*detach"):
        x[0] = v
    with tg.no_grad():
        x[0] = v
    x[1] = v.detach()
    assert x[0].item() == x[1].item() == np.float32(v.item())


def test_a_write_that_does_not_fit_says_so():
    x = tg.zeros((2, 3))
    with pytest.raises(ShapeError, match=r"(?s)x\[\.\.\.\] = v.*broadcasts.*\(4,\)"):
        x[0] = np.ones(4)
    with pytest.raises(IndexError_, match="out of bounds"):
        x[2] = 0.0
    with pytest.raises(ArgumentError, match=r"x\[\.\.\.\] = v"):
        x[0] = object()


def test_a_write_across_devices_is_refused():
    with strict_cupy.installed():
        xp = strict_cupy.xp
        x = tg.Tensor(xp.asarray([1.0, 2.0, 3.0]))
        for target, value in ((x, np.zeros(3)), (tg.zeros(3), xp.asarray([1.0]))):
            with pytest.raises(DeviceError, match=r"x\[\.\.\.\] = v"):
                target[:] = value
        x[[0, 2]] = 5.0
        x[1] = xp.asarray(7.0)
        x[:2] = [8, 9]
        assert x.tolist() == [8, 9, 5]


def test_a_write_into_what_the_tape_needs_is_noticed():
    w, x = leaf(2), tg.Tensor([1.0, 2.0])
    y = (w * x).sum()
    x[0] = 5.0
    with pytest.raises(InPlaceError):
        y.backward()


# ---- New arrays -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [[0, 0], [1, -2], ([0, 0], [1, -2]), np.array([[0], [0]])])
def test_index_put_refuses_a_place_named_twice(key):
    with pytest.raises(IndexError_, match=r"(?s)names a place twice.*index_add"):
        tg.index_put(leaf(3, 3), key, 1.0)


def test_index_put_and_its_gradients():
    x, v = leaf(3, 2), leaf(2)
    y = tg.index_put(x, [2, 0], v)
    assert_close(y, np.stack([v.numpy(), x.numpy()[1], v.numpy()]))
    u = rng.standard_normal((3, 2))
    to_x, to_v = tg.grad(y, [x, v], u)
    assert_close(to_x, u * [[0], [1], [0]])
    assert_close(to_v, u[0] + u[2])
    for op in (tg.index_put, tg.index_add):  # a list of values is an array
        assert_close(tg.grad(op(x, 0, [5.0, 6.0]), x, u), u * ([[0], [1], [1]] if op is tg.index_put else 1))


@pytest.mark.parametrize("op", [tg.index_put, tg.index_add])
def test_values_that_do_not_broadcast_to_the_places_are_refused(op):
    for v in (np.ones(3), np.ones((1, 2, 2)), np.ones((3, 2))):
        with pytest.raises(ShapeError, match="broadcast"):
            op(leaf(4, 2), [0, 1], v)


def test_masked_fill_wants_a_boolean_mask():
    with pytest.raises(ArgumentError, match=r"(?s)masked_fill.*float64.*booleans"):
        tg.masked_fill(leaf(2), np.ones(2), 0.0)
    y = tg.masked_fill(leaf(2, 2), leaf(2).data > 0, -np.inf)
    assert y.shape == (2, 2)


def test_one_hot_refuses_what_is_no_class():
    assert tg.one_hot([0, 2], 3).dtype == np.float32
    assert tg.one_hot(tg.Tensor(1, dtype=np.int64), 2, dtype=bool).tolist() == [False, True]
    for wrong in ([3], [-1]):
        with pytest.raises(IndexError_, match=r"one_hot.*0 \.\. 2"):
            tg.one_hot(wrong, 3)
    with pytest.raises(ArgumentError, match="one_hot"):
        tg.one_hot(np.array([0.5]), 3)


# ---- Order ------------------------------------------------------------------------------------------------------------------------


def test_equals_keep_their_order_and_nan_comes_last():
    x = tg.Tensor([2.0, np.nan, 1.0, 2.0, 1.0], requires_grad=True)
    assert tg.argsort(x).tolist() == [2, 4, 0, 3, 1]
    y = tg.sort(x)
    np.testing.assert_array_equal(y.numpy(), [1, 1, 2, 2, np.nan])
    assert_close(tg.grad(y, x, np.arange(5, dtype=np.float32)), np.array([2, 4, 0, 3, 1], np.float32))


@pytest.mark.parametrize("dtype", [np.float32, np.int64, np.uint8, bool])
def test_topk_takes_the_first_of_equals_in_every_dtype(dtype):
    x = np.array([1, 0, 1, 0, 1], dtype)
    values, indices = tg.topk(x, 2)
    assert (values.tolist(), indices.tolist()) == ([1, 1], [0, 2])
    values, indices = tg.topk(x, 2, largest=False)
    assert (values.tolist(), indices.tolist()) == ([0, 0], [1, 3])
    assert values.dtype == dtype


def test_topk_sends_the_gradient_to_the_chosen():
    x = tg.Tensor([[3.0, 1.0, 2.0], [0.0, 5.0, 4.0]], requires_grad=True)
    values, indices = tg.topk(x, 2)
    assert not indices.requires_grad
    g = tg.grad(values, x, np.array([[1, 2], [3, 4]], np.float32))
    assert g.tolist() == [[1, 0, 2], [0, 3, 4]]
    with pytest.raises(ShapeError, match=r"(?s)topk.*k = 4 of 3"):
        tg.topk(x, 4)
    with pytest.raises(AxisError, match="topk"):
        tg.topk(x, 1, axis=2)


@pytest.mark.torch
def test_order_and_choice_equal_pytorch():
    torch = pytest.importorskip("torch")
    numbers, u = rng.permutation(24).reshape(2, 3, 4) / 7, rng.standard_normal((2, 3, 4))
    x, t = tg.Tensor(numbers, requires_grad=True), torch.tensor(numbers, requires_grad=True)
    order = np.argsort(u, 1)
    pairs = [
        (tg.sort(x, 1), torch.sort(t, 1)[0]),
        (tg.topk(x, 2, 2)[0], torch.topk(t, 2, 2)[0]),
        (tg.topk(x, 1, 0, largest=False)[0], torch.topk(t, 1, 0, largest=False)[0]),
        (tg.take_along_axis(x, order, 1), torch.gather(t, 1, torch.tensor(order))),
        (tg.index_add(x, [1, 1], u[:1]), t.index_put((torch.tensor([1, 1]),), torch.tensor(u[:1]), accumulate=True)),
        (tg.masked_fill(x, u > 0, 3.0), t.masked_fill(torch.tensor(u > 0), 3.0)),
    ]
    for ours, theirs in pairs:
        assert_close(ours, theirs.detach().numpy())
        g = np.arange(ours.size, dtype=float).reshape(ours.shape)
        assert_close(tg.grad(ours, x, g), torch.autograd.grad(theirs, t, torch.tensor(g))[0].numpy())


def test_sort_reads_back_without_scattering_on_a_device():
    with strict_cupy.installed():
        x = strict_cupy.xp.asarray(rng.permutation(12).reshape(3, 4) / 5)
        check_grads(lambda x: tg.sort(x, 0) ** 2, (x,))
        check_grads(lambda x: tg.topk(x, 2, 1)[0] ** 2, (x,))
        assert ops.argsort(x, 1).shape == (3, 4)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("key", ["rows", "rows and columns", "negative"])
def test_many_vectors_are_added_up_to_the_same_bits_as_numpy_adds_them(key: str, dtype: str):
    rng = np.random.default_rng(0)
    shape = (13, 5, 40) if key == "rows and columns" else (13, 40)
    rows = rng.integers(-13 if key == "negative" else 0, 13, (25, 30))
    places = (rows, rng.integers(0, 5, 30)) if key == "rows and columns" else (rows,)
    g = rng.standard_normal((25, 30, 40)).astype(dtype)
    x = tg.tensor(np.zeros(shape, dtype), requires_grad=True)
    (x[places] * g).sum().backward()
    expected = np.zeros(shape, dtype)
    np.add.at(expected, places, g)
    np.testing.assert_array_equal(x.grad.numpy(), expected)
    assert x.grad.dtype == dtype
