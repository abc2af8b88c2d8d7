"""Ops that move, join and cut: what the op table cannot say."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import strict_cupy

import tinygrad_seq as tg
from tinygrad_seq import ops
from tinygrad_seq.errors import ArgumentError, AxisError, ShapeError
from tinygrad_seq.testing import assert_close

rng = np.random.default_rng(0)


def leaf(*shape: int, dtype: Any = np.float64) -> tg.Tensor:
    return tg.Tensor(rng.standard_normal(shape).astype(dtype), requires_grad=True)


def fastest(f: Callable[[], Any], repeats: int = 3) -> float:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        f()
        times.append(time.perf_counter() - start)
    return min(times)


# ---- Joining and cutting ----------------------------------------------------------------------------------------------------------


def test_stack_of_100000_tensors_and_its_derivative_take_linear_time():
    def each(T: int) -> float:
        xs = [leaf(2) for _ in range(T)]
        return fastest(lambda: tg.grad(tg.stack(xs).sum(), xs), 3 if T < 50_000 else 2) / T

    few, many = each(5_000), each(100_000)
    assert many < 4 * few  # quadratic time would make it 20 times


def test_unstack_and_its_derivative_take_linear_time():
    def each(T: int) -> float:
        x = leaf(T, 2)
        return fastest(lambda: tg.grad(tg.concatenate(tg.unstack(x)).sum(), x)) / T

    few, many = each(2_000), each(40_000)
    assert many < 4 * few


@pytest.mark.parametrize("join", [tg.stack, tg.concatenate])
def test_the_derivative_of_joining_hands_out_views(join):
    xs = [leaf(3, 2) for _ in range(4)]
    g = rng.standard_normal(join(xs).shape)
    handed = next(tg.steps_of_backward(join(xs), g)).contributions
    assert len(handed) == 4 and all(np.shares_memory(each, g) for each in handed)


def test_cutting_is_one_op_of_views_however_many_pieces():
    x = leaf(100, 3)
    for pieces in (tg.unstack(x), tg.split(x, 50), tg.array_split(x, 7)):
        assert {piece.node for piece in pieces} == {pieces[0].node}
        assert all(np.shares_memory(piece.data, x.data) for piece in pieces)


@pytest.mark.parametrize(
    "cut", [lambda x: tg.unstack(x, 1), lambda x: tg.split(x, [1, 1, 3], 1), lambda x: tg.array_split(x, 3, 1)]
)
@pytest.mark.parametrize("create_graph", [False, True])
def test_pieces_that_nobody_uses_receive_zero(cut, create_graph):
    x = leaf(2, 5)
    used = cut(x)[2]
    g = tg.grad((used * used).sum(), x, create_graph=create_graph).numpy()
    expected = np.zeros((2, 5))
    places = cut(np.arange(10).reshape(2, 5))[2]
    for place in np.ravel(places):
        expected.flat[place] = 2 * x.numpy().flat[place]
    assert_close(g, expected)


def test_joining_promotes_dtypes_and_each_gradient_keeps_its_own():
    a, b = leaf(2, dtype=np.float32), leaf(2)
    for join in (tg.stack, tg.concatenate):
        y = join([a, b])
        assert y.dtype == np.float64
        assert [g.dtype for g in tg.grad(y.sum(), [a, b])] == [np.float32, np.float64]


def test_joining_takes_any_iterable_and_constants_among_the_arrays():
    a = leaf(2)
    y = tg.stack(x for x in (a, np.ones(2), a))
    assert_close(tg.grad(y, a, np.array([[1.0, 2], [3, 4], [5, 6]])), np.array([6.0, 8.0]))


@pytest.mark.parametrize("join", [tg.stack, tg.concatenate])
def test_joining_nothing_is_an_error(join):
    with pytest.raises(ShapeError, match="no arrays"):
        join([])


def test_errors_of_cutting_and_joining_say_what_to_do():
    x = leaf(5, 2)
    with pytest.raises(ShapeError, match=r"(?s)size 5 does not divide into 2 equal sections.*array_split"):
        tg.split(x, 2)
    with pytest.raises(ShapeError, match="do not ascend"):
        tg.split(x, [3, 1])
    with pytest.raises(ShapeError, match="0 sections"):
        tg.array_split(x, 0)
    with pytest.raises(AxisError, match="split: axis 2 is out of bounds"):
        tg.split(x, 1, axis=2)
    with pytest.raises(AxisError, match="unstack"):
        tg.unstack(x, 2)
    with pytest.raises(ShapeError, match=r"(?s)stack.*\(5, 2\).*\(2,\)"):
        tg.stack([x, leaf(2)])
    with pytest.raises(ShapeError, match=r"(?s)concatenate.*\(5, 2\).*\(5, 2, 1\)"):
        tg.concatenate([x, leaf(5, 2, 1)])


# ---- Axes, repeats, padding, diagonals ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "call",
    [
        lambda x: tg.swapaxes(x, 0, 2),
        lambda x: tg.moveaxis(x, 0, 5),
        lambda x: tg.expand_dims(x, 7),
        lambda x: tg.squeeze(x, 3),
        lambda x: tg.flip(x, 2),
        lambda x: tg.roll(x, 1, 2),
        lambda x: tg.repeat(x, [1, 2], 2),
        lambda x: tg.transpose(x, (0, 2)),
        lambda x: tg.diagonal(x, 0, 0, 2),
    ],
)
def test_an_axis_that_is_not_there_is_an_axis_error(call):
    with pytest.raises(AxisError, match="out of bounds"):
        call(leaf(2, 3))


@pytest.mark.parametrize(
    ("call", "why"),
    [
        (lambda x: tg.reshape(x, (4,)), r"(?s)reshape.*\(2, 3\)"),
        (lambda x: tg.reshape(x, (-1, -1)), "reshape"),
        (lambda x: tg.transpose(x, (0, 0)), "transpose"),
        (lambda x: tg.transpose(x, (0,)), "transpose"),
        (lambda x: tg.squeeze(x, 1), "squeeze"),
        (lambda x: tg.repeat(x, [1, 2, 3], 0), r"(?s)3 numbers of repeats.*or 2"),
        (lambda x: tg.pad(x, -1), r"pad_width -1"),
        (lambda x: tg.pad(x, [(1, 1)] * 3), r"does not fit an array of 2 axes"),
        (lambda x: tg.diag(tg.stack([x])), r"(?s)3 axes.*diagonal"),
        (lambda x: tg.tril(x[0]), "(?s)tril.*two axes"),
        (lambda x: tg.triu(x[0]), "(?s)triu.*two axes"),
        (lambda x: tg.diagonal(x[0]), "(?s)diagonal.*two axes"),
    ],
)
def test_what_does_not_fit_is_a_shape_error(call, why):
    with pytest.raises(ShapeError, match=why):
        call(leaf(2, 3))


def test_pad_refuses_modes_that_it_cannot_differentiate_and_recorded_values():
    with pytest.raises(ArgumentError, match=r"(?s)linear_ramp.*reflect"):
        tg.pad(leaf(3), 1, "linear_ramp")
    with pytest.raises(ArgumentError, match="constant_values is a Tensor"):
        tg.pad(leaf(3), 1, constant_values=leaf())


@pytest.mark.parametrize("mode", ["edge", "reflect", "symmetric", "wrap"])
def test_padding_adds_up_what_comes_back_from_every_copy(mode):
    x = leaf(2, 3)
    widths = ((2, 1), (4, 5))
    g = rng.standard_normal((5, 12))
    expected = np.zeros((2, 3))
    sources = np.pad(np.arange(6).reshape(2, 3), widths, mode=mode)
    for source, each in zip(sources.flat, g.flat, strict=True):
        expected.flat[source] += each
    assert_close(tg.grad(tg.pad(x, widths, mode), x, g), expected, rtol=1e-12)


@pytest.mark.torch
@pytest.mark.parametrize(("mode", "theirs"), [("edge", "replicate"), ("reflect", "reflect"), ("wrap", "circular")])
def test_padding_equals_pytorch(mode, theirs):
    torch = pytest.importorskip("torch")
    x, g = leaf(1, 2, 5), rng.standard_normal((1, 2, 10))
    t = torch.tensor(x.numpy().copy(), requires_grad=True)
    y = torch.nn.functional.pad(t, (2, 3), mode=theirs)
    ours = tg.pad(x, ((0, 0), (0, 0), (2, 3)), mode)
    assert_close(ours, y.detach().numpy())
    assert_close(tg.grad(ours, x, g), torch.autograd.grad(y, t, torch.tensor(g))[0].numpy())


def test_repeats_may_be_a_tensor():
    x = leaf(3)
    assert_close(tg.repeat(x, tg.Tensor([2, 0, 1], dtype=np.int64)), np.repeat(x.numpy(), [2, 0, 1]))


# ---- dtype, memory, device ----------------------------------------------------------------------------------------------------------


def test_astype_sends_the_gradient_back_in_the_dtype_it_came_from():
    x = leaf(3, dtype=np.float16)
    y = x.astype(np.float64)
    (g,) = tg.grad((y * y).sum(), [x], create_graph=True)
    assert (y.dtype, g.dtype) == (np.float64, np.float16)
    assert tg.grad(g.sum(), x).dtype == np.float16


@pytest.mark.parametrize("dtype", ["int64", "uint8", bool])
def test_astype_to_integers_or_booleans_gives_a_constant(dtype):
    y = leaf(3).astype(dtype)
    assert y.dtype == np.dtype(dtype)
    assert not y.requires_grad


@pytest.mark.parametrize("dtype", ["complex64", "U3", object, "no dtype at all", 3.5])
def test_astype_refuses_what_a_tensor_cannot_hold(dtype):
    with pytest.raises(ArgumentError, match="astype"):
        leaf(3).astype(dtype)


def test_copy_has_memory_of_its_own():
    x = tg.Tensor([1.0, 2.0])
    y = tg.copy(x)
    y[0] = 5.0
    assert x.tolist() == [1.0, 2.0]
    assert not np.shares_memory(x.data, y.data)


def test_the_gradient_travels_back_to_the_device_it_came_from():
    with strict_cupy.installed():
        x = leaf(3)
        y = ops.to_device(x, "strict")
        assert y.device.startswith("strict")
        g = tg.grad((y * y).sum(), x, create_graph=True)
        assert g.device == "cpu"
        assert_close(g, 2 * x.numpy())
        assert_close(tg.grad(g.sum(), x), np.full(3, 2.0))
        assert ops.to_device(x, "cpu") is x
        assert ops.to_device(y, y.device) is y


def test_float32_stays_float32():
    x = leaf(2, 3, dtype=np.float32)
    calls: list[Callable[[Any], Any]] = [
        lambda x: tg.pad(x, 1), lambda x: tg.pad(x, 1, constant_values=2.5), lambda x: tg.pad(x, 1, "edge"), lambda x: tg.tile(x, 2),
        lambda x: tg.repeat(x, 2, 0), lambda x: tg.repeat(x, [1, 2], 0), tg.tril, tg.diagonal, tg.diag, lambda x: tg.unstack(x)[0],
        lambda x: tg.stack([x, x]), lambda x: x[[0, 0]], lambda x: tg.index_add(x, 0, np.ones(3)), lambda x: tg.index_put(x, 0, 1.5),
        lambda x: tg.masked_fill(x, np.array([True, False, True]), -np.inf), tg.sort, lambda x: tg.topk(x, 1)[0], ops.trace,
    ]  # fmt: skip
    for call in calls:
        y = call(x)
        assert y.dtype == np.float32
        assert tg.grad(y[np.isfinite(y.numpy())].sum(), x).dtype == np.float32


def test_numbers_and_nested_lists_are_arrays_as_in_numpy():
    rows, vector = [[3.0, 1.0], [2.0, 5.0]], [2.0, 1.0]
    for name, *args in [
        ("swapaxes", rows, 0, 1), ("repeat", rows, [1, 2], 0), ("pad", vector, 1), ("diag", vector), ("diagonal", rows), ("tril", rows),
        ("copy", rows), ("take", rows, [1]), ("sort", vector), ("argsort", vector), ("flip", vector), ("tile", vector, 2),
        ("matmul", rows, rows), ("inner", rows, rows), ("dot", rows, vector), ("tensordot", rows, rows), ("outer", vector, vector),
        ("einsum", "ij,j->i", rows, vector), ("trace", rows), ("concatenate", [vector, vector]), ("stack", [vector, vector]),
    ]:  # fmt: skip
        assert_close(getattr(ops, name)(*args), np.asarray(getattr(np, name)(*args)))
    x = leaf(2)
    assert_close(tg.grad(tg.concatenate([vector, x, [1.0]]).sum(), x), np.ones(2))
    assert [piece.tolist() for piece in tg.split(vector, 2)] == [[2.0], [1.0]]
