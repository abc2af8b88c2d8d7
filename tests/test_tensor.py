"""The Tensor itself: what it tells, what it hides, its operators, its place in Python."""

from __future__ import annotations

import copy
import operator
import pickle
from typing import Any

import numpy as np
import pytest

import tinygrad_seq as tg
from tinygrad_seq.errors import ArgumentError, GraphError, InPlaceError

RNG = np.random.default_rng(0)
A = RNG.uniform(0.5, 2.0, (2, 3))
B = RNG.uniform(0.5, 2.0, (2, 3))

# ---- What it is ------------------------------------------------------------------------------------------------------------------------


def test_its_facts() -> None:
    x = tg.tensor(A, requires_grad=True, name="w")
    assert (x.shape, x.ndim, x.size, x.nbytes, x.dtype, x.device) == ((2, 3), 2, 6, 48, np.float64, "cpu")
    assert (x.is_leaf, x.op, x.requires_grad, x.name, x.grad) == (True, None, True, "w", None)
    y = x * 2
    assert (y.is_leaf, y.op, y.requires_grad, y.name) == (False, "multiply", True, None)
    z = x.detach()
    assert (z.is_leaf, z.op, z.requires_grad) == (True, None, False)


def test_what_it_shows_of_its_memory_is_read_only() -> None:
    x = tg.tensor(A)
    for view in (x.data, x.numpy(), x.detach().numpy()):
        assert np.shares_memory(view, x._data)
        with pytest.raises(ValueError, match="read-only"):
            view[0] = 1


def test_detach_shares_and_copy_does_not() -> None:
    x = tg.tensor(A, requires_grad=True)
    assert np.shares_memory(x.detach()._data, x._data)
    assert not np.shares_memory(x.copy()._data, x._data)
    x.copy().sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), np.ones((2, 3)))


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: tg.tensor(2.5), "Tensor(2.5, shape=(), dtype=float32, device=cpu)"),
        (lambda: tg.tensor([1, 2]), "Tensor([1, 2], shape=(2,), dtype=int64, device=cpu)"),
        (lambda: tg.tensor([]), "Tensor([], shape=(0,), dtype=float32, device=cpu)"),
        (lambda: tg.ones(2).requires_grad_(), "Tensor([1., 1.], shape=(2,), dtype=float32, device=cpu, requires_grad=True)"),
        (lambda: tg.ones(2, requires_grad=True).sum(), "Tensor(2., shape=(), dtype=float32, device=cpu, op=sum)"),
        (lambda: tg.tensor(True, name="m"), "Tensor(True, shape=(), dtype=bool, device=cpu, name='m')"),
        (
            lambda: tg.eye(2, requires_grad=True) @ tg.ones((2, 2)),
            "Tensor([[1., 1.],\n        [1., 1.]],\n       shape=(2, 2), dtype=float32, device=cpu, op=matmul)",
        ),
        (lambda: tg.arange(1000), "Tensor([  0,   1,   2, ..., 997, 998, 999], shape=(1000,), dtype=int64, device=cpu)"),
        (lambda: tg.nn.Parameter(np.zeros(2)), "Parameter([0., 0.], shape=(2,), dtype=float64, device=cpu, requires_grad=True)"),
    ],
)
def test_repr_tells_shape_dtype_device_and_op(make: Any, text: str) -> None:
    assert repr(make()) == text


def test_a_large_repr_stays_short() -> None:
    assert len(repr(tg.zeros((100, 100, 100)))) < 2000


def test_repr_names_the_device(device_xp: Any) -> None:
    device = "strict" if "strict" in device_xp.__name__ else "cuda"
    assert f"device={device}" in repr(tg.ones(2).to(device))


# ---- Gradients -------------------------------------------------------------------------------------------------------------------------


def test_requires_grad_turns_on_and_off_and_keeps_the_name() -> None:
    x = tg.tensor(A, name="w")
    x.requires_grad = True
    assert (x.requires_grad, x.name) == (True, "w")
    assert x.requires_grad_() is x
    x.requires_grad = False
    assert (x.requires_grad, x.name, x.grad) == (False, "w", None)
    assert not (x * 2).requires_grad
    y = tg.tensor(A, requires_grad=True) * 2
    assert y.requires_grad_() is y


def test_grad_can_be_set_and_cleared() -> None:
    x = tg.tensor(A, requires_grad=True)
    x.grad = tg.ones((2, 3), "float64")
    x.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), np.full((2, 3), 2.0))
    x.grad = B
    np.testing.assert_array_equal(x.grad.numpy(), B)
    x.grad = None
    assert x.grad is None


def test_retain_grad_and_hooks() -> None:
    x = tg.tensor(A, requires_grad=True)
    y = (x * x).retain_grad()
    seen: list[Any] = []
    y.register_hook(seen.append)
    doubling = x.register_hook(lambda g: g * 2)
    (y * 3).sum().backward()
    np.testing.assert_array_equal(y.grad.numpy(), np.full((2, 3), 3.0))
    np.testing.assert_array_equal(seen[0].numpy(), np.full((2, 3), 3.0))
    np.testing.assert_allclose(x.grad.numpy(), 12 * A)
    doubling.remove()
    doubling.remove()
    x.grad = None
    (x * x).sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), 2 * A)


# ---- Operators and methods -------------------------------------------------------------------------------------------------------------

BINARY = [getattr(operator, name) for name in "add sub mul truediv floordiv mod pow eq ne lt le gt ge".split()]


@pytest.mark.parametrize("f", BINARY, ids=lambda f: f.__name__)
@pytest.mark.parametrize("other", [2, 1.5, B, np.float64(1.5), [[1.0, 2.0, 3.0]]], ids=["int", "float", "array", "scalar", "list"])
def test_operators_equal_numpys_both_ways(f: Any, other: Any) -> None:
    x = tg.tensor(A, requires_grad=True)
    for ours, theirs in ((f(x, other), f(A, other)), (f(other, x), f(other, A))):
        assert type(ours) is tg.Tensor
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours.numpy(), theirs)


def test_unary_operators() -> None:
    x = tg.tensor(A)
    np.testing.assert_array_equal((-x).numpy(), -A)
    np.testing.assert_array_equal(abs(-x).numpy(), A)
    np.testing.assert_array_equal(round(x).numpy(), np.round(A))
    np.testing.assert_array_equal(round(x, 1).numpy(), np.round(A, 1))
    assert +x is x
    np.testing.assert_array_equal((~(x > 1)).numpy(), ~(A > 1))


def test_logic_is_of_booleans() -> None:
    x = tg.tensor(A)
    for f in (operator.and_, operator.or_, operator.xor):
        np.testing.assert_array_equal(f(x > 1, x < 1.5).numpy(), f(A > 1, A < 1.5))
        np.testing.assert_array_equal(f(A > 1, x < 1.5).numpy(), f(A > 1, A < 1.5))
        np.testing.assert_array_equal(f(x > 1, True).numpy(), f(A > 1, True))
        np.testing.assert_array_equal(f(True, x > 1).numpy(), f(True, A > 1))
        with pytest.raises(ArgumentError):
            f(tg.tensor([6]), 3)


def test_a_python_number_is_weak() -> None:
    x = tg.ones(2)
    for y in (x + 1.5, 1.5 * x, x**2, 2**x, x / 3, x - True):
        assert y.dtype == np.float32
    assert (tg.arange(2) + 1).dtype == np.int64
    assert (tg.arange(2) / 2).dtype == np.float64


def test_augmented_assignment_makes_a_new_tensor() -> None:
    x = y = tg.tensor(A, requires_grad=True)
    y += 1
    assert y is not x
    np.testing.assert_array_equal(x.numpy(), A)
    y.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), np.ones((2, 3)))


METHODS: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "sum": ((0,), {"keepdims": True}), "mean": ((), {"axis": 1}), "prod": ((1,), {}), "max": ((0,), {}), "min": ((), {}),
    "var": ((), {"axis": 0, "ddof": 1}), "std": ((), {"axis": (0, 1)}), "argmax": ((1,), {}), "argmin": ((), {"axis": 0}),
    "cumsum": ((1,), {}), "cumprod": ((), {"axis": 0}), "argsort": ((), {"axis": 0}), "trace": ((), {"offset": 1}),
    "diagonal": ((1,), {}), "reshape": ((3, -1), {}), "ravel": ((), {}), "flatten": ((), {}), "transpose": ((1, 0), {}),
    "swapaxes": ((0, 1), {}), "squeeze": ((), {}), "repeat": ((2,), {"axis": 1}), "take": (([0, 1],), {"axis": 0}),
    "clip": ((0.8,), {"max": 1.5}), "round": ((1,), {}), "copy": ((), {}), "astype": (("float32",), {}), "tolist": ((), {}),
    "any": ((0,), {}), "all": ((), {"axis": 1}),
}  # fmt: skip


@pytest.mark.parametrize("name", METHODS)
def test_methods_equal_ndarrays(name: str) -> None:
    args, keywords = METHODS[name]
    ours, theirs = getattr(tg.tensor(A), name)(*args, **keywords), getattr(A, name)(*args, **keywords)
    np.testing.assert_allclose(ours, theirs, rtol=1e-14)
    assert isinstance(ours, tg.Tensor) == isinstance(theirs, (np.ndarray, np.generic))


@pytest.mark.parametrize("name", ["exp", "log", "sqrt", "square", "abs", "sin", "cos", "tanh"])
def test_elementwise_methods(name: str) -> None:
    np.testing.assert_allclose(getattr(tg.tensor(A), name)().numpy(), getattr(np, name)(A), rtol=1e-15)


def test_every_method_is_documented_or_is_an_op_of_that_name() -> None:
    for name in dir(tg.Tensor):
        member = getattr(tg.Tensor, name)
        if name[0] != "_" and callable(member):
            assert member.__doc__ or hasattr(tg, name) or hasattr(np.ndarray, name), name


def test_transposes() -> None:
    x = tg.tensor(np.arange(24).reshape(2, 3, 4))
    np.testing.assert_array_equal(x.T.numpy(), x.numpy().T)
    np.testing.assert_array_equal(x.mT.numpy(), x.numpy().mT)
    np.testing.assert_array_equal(x.transpose((1, 0, 2)).numpy(), x.numpy().transpose(1, 0, 2))
    np.testing.assert_array_equal(x.transpose().numpy(), x.numpy().T)
    np.testing.assert_array_equal(x.reshape((4, 6)).numpy(), x.reshape(4, 6).numpy())
    np.testing.assert_array_equal(x[0].dot(x[1].T).numpy(), x.numpy()[0] @ x.numpy()[1].T)


# ---- In place --------------------------------------------------------------------------------------------------------------------------


def test_constants_can_be_written() -> None:
    x = tg.tensor(A)
    x[0] = 1.0
    x[:, 1] = [5, 6]
    x[x > 5] = tg.tensor(0.0)
    expected = A.copy()
    expected[0], expected[:, 1] = 1.0, [5, 6]
    expected[expected > 5] = 0
    np.testing.assert_array_equal(x.numpy(), expected)


def test_a_leaf_is_written_inside_no_grad_only() -> None:
    x = tg.tensor(A, requires_grad=True)
    with pytest.raises(InPlaceError, match="no_grad"):
        x[0] = 1
    with tg.no_grad():
        x[0] = 1
    assert (x.numpy()[0] == 1).all()
    assert x.requires_grad


def test_a_result_is_never_written() -> None:
    y = tg.tensor(A, requires_grad=True) * 2
    for context in (tg.enable_grad(), tg.no_grad()):
        with context, pytest.raises(InPlaceError, match="index_put"):
            y[0] = 1
    np.testing.assert_array_equal(y.numpy(), 2 * A)


@pytest.mark.parametrize("through", ["constant", "detached", "leaf"])
def test_what_the_tape_needs_cannot_change_unnoticed(through: str) -> None:
    x, c = tg.tensor(A, requires_grad=True), tg.tensor(B)
    loss = (x * x * c).sum()
    with tg.no_grad():
        {"constant": c, "detached": x.detach(), "leaf": x}[through][0] = 7.0
    with pytest.raises(InPlaceError, match="multiply"):
        loss.backward()
    assert x.grad is None


# ---- Its place in Python ------------------------------------------------------------------------------------------------------------------


def test_conversions_to_python() -> None:
    x = tg.tensor([2.5])
    assert (float(x), int(x), bool(x), x.item(), x.tolist()) == (2.5, 2, True, 2.5, [2.5])
    assert [10, 20, 30][tg.tensor(1)] == 20
    assert f"{tg.tensor(2.0):.3f}" == "2.000"
    assert f"{tg.tensor(2.0)}" == "Tensor(2., shape=(), dtype=float32, device=cpu)"
    assert type(tg.tensor(3).item()) is int


def test_as_a_sequence() -> None:
    x = tg.tensor(A, requires_grad=True)
    assert len(x) == 2
    rows = list(x)
    first, second = x
    np.testing.assert_array_equal(first.numpy(), A[0])
    np.testing.assert_array_equal([r.numpy() for r in reversed(x)], A[::-1])
    assert all(r.requires_grad for r in rows)
    (rows[0] * 2 + second).sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), [[2, 2, 2], [1, 1, 1]])
    assert A[0, 0] in x
    assert -1.0 not in x


def test_hash_is_identity() -> None:
    x, y = tg.tensor(A), tg.tensor(A)
    assert len({x, y, x}) == 2
    assert {x: 1}[x] == 1


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
def test_copies_of_a_leaf_stand_alone(copied: Any) -> None:
    x = tg.tensor(A, requires_grad=True, name="w")
    (x * x).sum().backward()
    y = copied(x)
    assert (type(y), y.requires_grad, y.name) == (tg.Tensor, True, "w")
    np.testing.assert_array_equal(y.grad.numpy(), x.grad.numpy())
    assert y.grad is not x.grad
    (y * 3).sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), 2 * A)
    assert not np.shares_memory(x._data, y._data)


def test_deepcopy_keeps_what_is_shared_shared() -> None:
    x = tg.tensor(A)
    a, b = copy.deepcopy([x, x])
    assert a is b
    assert a is not x


def test_deepcopy_of_a_result_and_pickle_are_refused() -> None:
    x = tg.tensor(A, requires_grad=True)
    with pytest.raises(GraphError, match="detach"):
        copy.deepcopy(x * 2)
    with pytest.raises(ArgumentError, match="safetensors"):
        pickle.dumps(x)


def test_missing_names_are_attribute_errors() -> None:
    x = tg.tensor(A)
    assert not hasattr(x, "unsqueeze")
    assert getattr(x, "nothing", 3) == 3
    assert not hasattr(x, "__array_interface__")
    assert not hasattr(x, "_repr_html_")
    with pytest.raises(AttributeError) as caught:
        x.rehsape(6)
    assert (caught.value.name, caught.value.obj) == ("rehsape", x)
    with pytest.raises(AttributeError):
        x.nothing = 3


def test_size_is_a_number() -> None:
    size = tg.tensor(A).size
    assert size == 6
    assert f"{size}" == "6"
    assert size + 1 == 7
    assert isinstance(size, int)


def test_to_moves_and_casts() -> None:
    x = tg.tensor(A, requires_grad=True)
    assert x.to("cpu") is x
    y = x.to("cpu", "float32")
    assert y.dtype == np.float32
    y.sum().backward()
    assert x.grad.dtype == np.float64


def test_to_a_device_and_back(device_xp: Any) -> None:
    device = "strict" if "strict" in device_xp.__name__ else "cuda"
    x = tg.tensor(A, requires_grad=True)
    y = (x.to(device) * 2).to("cpu")
    assert y.device == "cpu"
    y.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), np.full((2, 3), 2.0))
