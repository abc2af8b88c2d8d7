"""Creation and random functions: NumPy's names, arguments and values, in float32 unless told otherwise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_seq as tg
from tinygrad_seq.errors import ArgumentError


@pytest.mark.parametrize(
    ("data", "dtype"),
    [
        (1.5, np.float32),
        (3, np.int64),
        (True, np.bool_),
        ([], np.float32),
        ([1, 2.5], np.float32),
        ([[1, 2], [3, 4]], np.int64),
        ([True, False], np.bool_),
        (np.float64(1.5), np.float64),
        (np.ones(2), np.float64),
        (np.ones(2, np.float16), np.float16),
        (np.ones(2, np.uint8), np.uint8),
        (np.ones(2, ">f4"), np.float32),
        (range(3), np.int64),
    ],
)
def test_python_numbers_become_float32_and_arrays_keep_their_dtype(data: Any, dtype: Any) -> None:
    x = tg.tensor(data)
    assert type(x) is tg.Tensor
    assert x.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(x.numpy(), np.asarray(data))


def test_tensor_copies_what_it_is_given() -> None:
    source = np.ones(3)
    x, y = tg.tensor(source), tg.tensor(source.data)
    z = tg.tensor(x)
    source[0] = 7
    for t in (x, y, z):
        np.testing.assert_array_equal(t.numpy(), np.ones(3))
    assert not np.shares_memory(x._data, z._data)


def test_tensor_takes_its_options() -> None:
    x = tg.tensor([1, 2], "float64", requires_grad=True, name="w")
    assert (x.dtype, x.requires_grad, x.name, x.device) == (np.float64, True, "w", "cpu")


def test_asarray_returns_a_tensor_as_it_is_and_keeps_its_gradient() -> None:
    x = tg.tensor([1.0, 2.0], requires_grad=True)
    assert tg.asarray(x) is x
    y = tg.asarray(x, "float64")
    assert y.dtype == np.float64
    y.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), [1, 1])
    assert tg.asarray(np.ones(2)).dtype == np.float64


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (lambda: tg.zeros((2, 3)), np.zeros((2, 3), np.float32)),
        (lambda: tg.zeros(4, "int64"), np.zeros(4, np.int64)),
        (lambda: tg.ones((2, 0)), np.ones((2, 0), np.float32)),
        (lambda: tg.ones((), bool), np.ones((), bool)),
        (lambda: tg.full((2, 2), 1.5), np.full((2, 2), 1.5, np.float32)),
        (lambda: tg.full(3, 2), np.full(3, 2)),
        (lambda: tg.full(3, True), np.full(3, True)),
        (lambda: tg.full(3, 2, tg.float64), np.full(3, 2.0)),
        (lambda: tg.eye(3), np.eye(3, dtype=np.float32)),
        (lambda: tg.eye(2, 3, k=1, dtype="int64"), np.eye(2, 3, 1, np.int64)),
        (lambda: tg.arange(5), np.arange(5)),
        (lambda: tg.arange(2, 8, 3), np.arange(2, 8, 3)),
        (lambda: tg.arange(3, 0, -1), np.arange(3, 0, -1)),
        (lambda: tg.arange(0, 1, 0.1), np.arange(0, 1, 0.1).astype(np.float32)),
        (lambda: tg.arange(3.0), np.arange(3, dtype=np.float32)),
        (lambda: tg.arange(3, dtype="float64"), np.arange(3.0)),
        (lambda: tg.linspace(0, 1, 5), np.linspace(0, 1, 5, dtype=np.float32)),
        (lambda: tg.linspace(1, 0, num=4, endpoint=False, dtype="float64"), np.linspace(1, 0, 4, False)),
        (lambda: tg.zeros_like(np.ones((2, 3), np.float16)), np.zeros((2, 3), np.float16)),
        (lambda: tg.ones_like(tg.zeros((2, 3), "int64")), np.ones((2, 3), np.int64)),
        (lambda: tg.ones_like([1.0, 2.0], dtype="float64"), np.ones(2)),
        (lambda: tg.full_like(tg.zeros(3), 7), np.full(3, 7, np.float32)),
    ],
)
def test_creation_equals_numpy_in_values_and_dtype(ours: Callable[[], Any], theirs: Any) -> None:
    x = ours()
    assert type(x) is tg.Tensor
    assert x.dtype == theirs.dtype
    assert not x.requires_grad
    np.testing.assert_array_equal(x.numpy(), theirs)


@given(st.floats(-5, 5), st.floats(-5, 5), st.sampled_from([0.1, 0.25, -0.3, 1.0]))
def test_arange_never_drifts(start: float, stop: float, step: float) -> None:
    expected = np.arange(start, stop, step)
    np.testing.assert_array_equal(tg.arange(start, stop, step).numpy(), expected.astype(np.float32))


@pytest.mark.parametrize("make", [tg.zeros, tg.ones, tg.random.standard_normal, lambda n, **k: tg.full(n, 1.0, **k), tg.eye])
def test_what_is_created_can_ask_for_a_gradient(make: Callable[..., Any]) -> None:
    x = make(3, requires_grad=True)
    (x * x).sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), 2 * x.numpy())


def test_creation_on_a_device(device_xp: Any) -> None:
    device = "strict" if "strict" in device_xp.__name__ else "cuda"
    for x in (
        tg.zeros((2, 3), device=device),
        tg.full((2, 3), 2.0, device=device),
        tg.arange(6, device=device),
        tg.linspace(0, 1, 6, device=device),
        tg.eye(2, device=device),
        tg.tensor([1.0, 2.0], device=device),
        tg.random.normal(size=(2, 3), rng=0, device=device),
        tg.zeros_like(tg.ones(3, device=device)),
    ):
        assert x.device.partition(":")[0] == device
        assert isinstance(x.numpy(), np.ndarray)
    on_host = tg.random.normal(size=(2, 3), rng=0).numpy()
    np.testing.assert_array_equal(tg.random.normal(size=(2, 3), rng=0, device=device).numpy(), on_host)


# ---- Random numbers ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (lambda r: tg.random.standard_normal((2, 3), rng=r), lambda g: g.standard_normal((2, 3))),
        (lambda r: tg.random.normal(1.0, 2.0, (2, 3), rng=r), lambda g: g.normal(1.0, 2.0, (2, 3))),
        (lambda r: tg.random.normal(rng=r), lambda g: g.normal()),
        (lambda r: tg.random.uniform(-1, 1, 5, rng=r), lambda g: g.uniform(-1, 1, 5)),
        (lambda r: tg.random.integers(10, size=5, rng=r), lambda g: g.integers(10, size=5)),
        (lambda r: tg.random.integers(-3, 3, (2, 2), rng=r), lambda g: g.integers(-3, 3, (2, 2))),
        (lambda r: tg.random.permutation(6, rng=r), lambda g: g.permutation(6)),
    ],
)
def test_random_tensors_hold_what_numpys_generator_draws(ours: Callable[[Any], Any], theirs: Callable[[Any], Any]) -> None:
    expected = np.asarray(theirs(np.random.default_rng(3)))
    kept = expected.astype(np.float32) if expected.dtype == np.float64 else expected
    for rng in (3, np.random.default_rng(3)):
        x = ours(rng)
        assert x.dtype == kept.dtype
        np.testing.assert_array_equal(x.numpy(), kept)
    tg.seed(3)
    np.testing.assert_array_equal(ours(None).numpy(), kept)


def test_float64_draws_the_same_numbers() -> None:
    exact = tg.random.normal(size=100, rng=0, dtype="float64")
    np.testing.assert_array_equal(tg.random.normal(size=100, rng=0).numpy(), exact.numpy().astype(np.float32))


def test_the_state_of_the_generator_is_plain_and_returns() -> None:
    import json

    tg.random.seed(1)
    tg.random.normal(size=3)
    state = json.loads(json.dumps(tg.random.get_state()))
    first = tg.random.normal(size=5).numpy()
    tg.random.set_state(state)
    np.testing.assert_array_equal(tg.random.normal(size=5).numpy(), first)
    rng = np.random.default_rng(5)
    state = tg.random.get_state(rng)
    drawn = rng.random()
    tg.random.set_state(state, rng)
    assert rng.random() == drawn


def test_a_generator_of_ones_own_leaves_the_default_alone() -> None:
    before = tg.random.get_state()
    tg.random.normal(size=3, rng=np.random.default_rng(0))
    tg.random.uniform(size=3, rng=7)
    assert tg.random.get_state() == before


def test_a_wrong_state_is_refused_and_changes_nothing() -> None:
    before = tg.random.get_state()
    for wrong in ({}, {"bit_generator": "MT19937"}, {"bit_generator": "PCG64"}):
        with pytest.raises(ArgumentError, match="set_state"):
            tg.random.set_state(wrong)
    assert tg.random.get_state() == before


@pytest.mark.parametrize("seed", [None, "a", 1.5, True, -1])
def test_a_seed_is_an_int(seed: Any) -> None:
    with pytest.raises(ArgumentError):
        tg.random.seed(seed)
