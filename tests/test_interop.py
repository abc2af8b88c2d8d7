"""NumPy's functions on Tensors: every one that dispatches records our op with NumPy's value, or raises an error that says what to do."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.testing import overrides

import tinygrad_seq as tg
from tinygrad_seq.errors import ArgumentError, DeviceError, InPlaceError, TinygradError
from tinygrad_seq.interop import FACTS, op_for

RNG = np.random.default_rng(0)
A = RNG.uniform(0.1, 0.9, (3, 3))
B = RNG.uniform(0.1, 0.9, (3, 3))
SQUARE = A @ A.T + np.eye(3)
MASK = A > 0.5

# How each function is called: an array goes in, and a Tensor of the same numbers. What is not here is called with arrays alone.
CALLS: dict[str, Callable[[Any, Any], Any]] = {
    "all": lambda f, x: f(x > 0.5, axis=1),
    "any": lambda f, x: f(x > 0.5, axis=1, keepdims=True),
    "amax": lambda f, x: f(x, 1),
    "array_split": lambda f, x: f(x, 2, 1),
    "astype": lambda f, x: f(x, np.float32),
    "broadcast_to": lambda f, x: f(x, (2, 3, 3)),
    "clip": lambda f, x: f(x, 0.3, a_max=0.6),
    "concatenate": lambda f, x: f([x, A], axis=-1),
    "cumprod": lambda f, x: f(x, axis=1),
    "cumsum": lambda f, x: f(x, 0),
    "diag": lambda f, x: f(x, k=1),
    "diagonal": lambda f, x: f(x, 1, axis1=1, axis2=0),
    "einsum": lambda f, x: f("ij,kj->ik", x, A, optimize=True),
    "expand_dims": lambda f, x: f(x, 1),
    "flip": lambda f, x: f(x, axis=0),
    "full_like": lambda f, x: f(x, 3.0),
    "logaddexp": lambda f, x: f(A, x),
    "max": lambda f, x: f(x, axis=(0, 1)),
    "mean": lambda f, x: f(a=x, axis=1, keepdims=True),
    "moveaxis": lambda f, x: f(x, 0, 1),
    "pad": lambda f, x: f(x, ((1, 0), (0, 2)), constant_values=2.0),
    "repeat": lambda f, x: f(x, 2, axis=1),
    "reshape": lambda f, x: f(x, (1, -1)),
    "roll": lambda f, x: f(x, 1, axis=0),
    "sort": lambda f, x: f(x, axis=0),
    "split": lambda f, x: f(x, [1], axis=1),
    "squeeze": lambda f, x: f(x[None], axis=0),
    "stack": lambda f, x: f([A, x], axis=1),
    "std": lambda f, x: f(x, axis=0, ddof=1),
    "sum": lambda f, x: f(x, 0, None, None, True),
    "swapaxes": lambda f, x: f(x, 0, 1),
    "take": lambda f, x: f(x, [2, 0], axis=1),
    "take_along_axis": lambda f, x: f(x, np.argsort(A, axis=1), axis=1),
    "tensordot": lambda f, x: f(x, A, axes=1),
    "tile": lambda f, x: f(x, (2, 1)),
    "transpose": lambda f, x: f(x, axes=(1, 0)),
    "tril": lambda f, x: f(x, k=-1),
    "unstack": lambda f, x: f(x, axis=1),
    "var": lambda f, x: f(x, ddof=1, axis=0),
    "where": lambda f, x: f(MASK, x, 0.0),
    "arccosh": lambda f, x: f(x + 1),
    "bitwise_and": lambda f, x: f(MASK, x > 0.3),
    "bitwise_or": lambda f, x: f(x > 0.3, MASK),
    "bitwise_xor": lambda f, x: f(x > 0.3, MASK),
    "invert": lambda f, x: f(x > 0.3),
    "cholesky": lambda f, x: f(x + SQUARE),
    "solve": lambda f, x: f(x, B),
    "norm": lambda f, x: f(x, axis=1),
}
NO_GRADIENT = {
    *(
        "all",
        "any",
        "argmax",
        "argmin",
        "argsort",
        "zeros_like",
        "ones_like",
        "full_like",
        "isnan",
        "isinf",
        "isfinite",
        "floor_divide",
    ),
    *(
        "equal",
        "not_equal",
        "less",
        "less_equal",
        "greater",
        "greater_equal",
        "logical_and",
        "logical_or",
        "logical_xor",
        "logical_not",
    ),
    *("bitwise_and", "bitwise_or", "bitwise_xor", "invert"),
}


def full_name(f: Any) -> str:
    return f"{getattr(f, '__module__', None) or 'numpy'}.{f.__name__}"


FUNCTIONS = sorted(overrides.get_overridable_numpy_array_functions(), key=full_name)
UFUNCS = sorted(overrides.get_overridable_numpy_ufuncs(), key=full_name)
MAKERS = [f for f in FUNCTIONS if inspect.isbuiltin(f) or "like" in inspect.signature(f).parameters]  # they look at `like=` alone
OURS = [f for f in [*FUNCTIONS, *UFUNCS] if op_for(f) is not None]
OTHERS = [f for f in [*FUNCTIONS, *UFUNCS] if op_for(f) is None and f.__name__ not in FACTS and f not in MAKERS]


def call(f: Any, x: Any) -> Any:
    if getattr(f, "nin", 0) == 3:  # np.clip has a ufunc of its own
        return f(x, 0.3, 0.6)
    if f.__name__ in CALLS:
        return CALLS[f.__name__](f, x)
    return f(x, B) if required(f) == 2 else f(x)


def required(f: Any) -> int:
    if isinstance(f, np.ufunc):
        return f.nin
    if inspect.isbuiltin(f):  # np.array, np.zeros, ...
        return 1
    parameters = inspect.signature(f).parameters.values()
    return sum(p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters)


def test_numpy_is_covered_at_all() -> None:
    assert len(FUNCTIONS) > 250
    assert len(UFUNCS) > 80
    assert len(OURS) > 100


@pytest.mark.parametrize("f", OURS, ids=full_name)
def test_our_op_runs_with_numpys_value(f: Any) -> None:
    x = tg.tensor(A, requires_grad=True)
    ours, theirs = call(f, x), call(f, A)
    if not isinstance(theirs, (tuple, list)):
        ours, theirs = [ours], [theirs]
    assert len(ours) == len(theirs)
    for y, expected in zip(ours, theirs, strict=True):
        assert type(y) is tg.Tensor
        assert (y.node is None) == (f.__name__ in NO_GRADIENT)
        assert y.dtype == np.asarray(expected).dtype
        np.testing.assert_allclose(y.numpy(), expected, rtol=1e-13)


@pytest.mark.parametrize("f", OTHERS, ids=full_name)
def test_any_other_function_raises_and_says_what_to_do(f: Any) -> None:
    x = tg.tensor(A, requires_grad=True)
    args: tuple[Any, ...] = (x,) * max(required(f), 1)
    if f.__name__ in ("choose", "column_stack", "dstack", "hstack", "vstack", "lexsort", "multi_dot", "select"):
        args = ((x, x),) * required(f)
    elif f.__name__ == "block":
        args = ([x, x],)
    elif f.__name__ in ("einsum_path", "savez", "savez_compressed"):
        args = ("ij->i", x)
    with pytest.raises(TinygradError, match=r"do: +\S"):
        f(*args)


@pytest.mark.parametrize("f", [f for f in MAKERS if getattr(np, f.__name__) is f], ids=full_name)
def test_numpy_makes_no_arrays_like_a_tensor(f: Any) -> None:
    args: tuple[Any, ...] = (b"3", np.int8) if f.__name__ in ("fromiter", "fromstring") else (3,) * required(f)
    with pytest.raises(TinygradError, match=r"do: +\S"):
        f(*args, like=tg.ones(3))


@pytest.mark.parametrize("name", sorted(FACTS))
def test_facts_are_answered_without_tensors(name: str) -> None:
    x = tg.tensor(A, requires_grad=True)
    f = getattr(np, name)
    args, plain = (
        ((x, A), (A, A))
        if name in ("allclose", "array_equal", "array_equiv", "isclose", "may_share_memory", "shares_memory")
        else ((x,), (A,))
    )
    if name == "can_cast":
        args, plain = (x.dtype, "float32"), (A.dtype, "float32")
    if name in ("may_share_memory", "shares_memory"):
        assert f(*args) is False
        return
    answer = f(*args)
    if name == "isclose":
        assert type(answer) is tg.Tensor
        assert answer.numpy().all()
        return
    assert not isinstance(answer, (tg.Tensor, np.ndarray))
    assert answer == f(*plain)


# ---- Keywords, methods, operators ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        lambda x: np.sum(x, out=np.zeros(())),
        lambda x: np.sum(x, dtype=np.float32),
        lambda x: np.sum(x, 0, np.float32),
        lambda x: np.sum(x, initial=1.0),
        lambda x: np.sum(x, where=MASK),
        lambda x: np.exp(x, where=MASK),
        lambda x: np.exp(x, dtype=np.float32),
        lambda x: np.add(x, x, casting="unsafe"),
        lambda x: np.matmul(x, x, axes=[(0, 1), (0, 1), (0, 1)]),
        lambda x: np.add.reduce(x),
        lambda x: np.multiply.accumulate(x),
        lambda x: np.add.at(np.zeros(3), 0, x[0]),
        lambda x: np.subtract.outer(x, x),
        lambda x: np.add.reduceat(x, [0, 1]),
        lambda x: np.reshape(x, -1, order="F"),
        lambda x: np.argsort(x, kind="heapsort"),
        lambda x: np.take(x, [0], mode="wrap"),
        lambda x: np.linspace(x, 1, 3),
        lambda x: np.copyto(np.zeros((3, 3)), x),
    ],
)
def test_what_our_ops_do_not_take_is_refused(wrong: Callable[[Any], Any]) -> None:
    with pytest.raises(TinygradError, match=r"do: +\S"):
        wrong(tg.tensor(A, requires_grad=True))


@pytest.mark.parametrize("symbol", ["+", "-", "*", "/", "//", "%", "**", "@", "==", "!=", "<", "<=", ">", ">="])
def test_an_array_and_a_tensor_combine_in_both_orders(symbol: str) -> None:
    x = tg.tensor(B, requires_grad=True)
    for left, right in ((A, x), (x, A), (np.float64(0.5), x), (x, np.float64(0.5))):
        if symbol == "@" and (np.ndim(left) == 0 or np.ndim(right) == 0):
            continue
        result = eval(f"left {symbol} right")
        assert type(result) is tg.Tensor
        left, right = (y.numpy() if isinstance(y, tg.Tensor) else y for y in (left, right))
        np.testing.assert_array_equal(result.numpy(), eval(f"left {symbol} right"))


def test_an_array_receives_no_tensor_in_place() -> None:
    a, before = A.copy(), A.copy()
    with pytest.raises(InPlaceError, match=r"a = a \+ t"):
        a += tg.tensor(B)
    np.testing.assert_array_equal(a, before)


def test_gradients_pass_through_numpys_functions() -> None:
    x = tg.tensor(A, requires_grad=True)
    np.sum(np.tanh(np.concatenate([x, A])) * np.where(MASK, x, 0.0)[[0, 1, 2, 0, 1, 2]]).backward()
    t = np.tanh(A)
    w = np.where(MASK, A, 0.0)
    np.testing.assert_allclose(x.grad.numpy(), (1 - t * t) * w + 2 * MASK * t, rtol=1e-13)


def test_numpys_assertions_read_tensors() -> None:
    x = tg.tensor(A, requires_grad=True)
    np.testing.assert_allclose(x, A)
    np.testing.assert_array_equal(x, A)
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(x, B)


# ---- Conversions -------------------------------------------------------------------------------------------------------------------


def test_asarray_shares_and_cannot_write() -> None:
    x = tg.tensor(A)
    seen = np.asarray(x)
    assert np.shares_memory(seen, x._data)
    with pytest.raises(ValueError, match="read-only"):
        seen[0] = 1


def test_array_copies_where_it_is_asked_to() -> None:
    x = tg.tensor(A)
    copied = np.array(x)
    copied[0] = 7
    np.testing.assert_array_equal(x.numpy(), A)
    assert np.asarray(x, np.float32).dtype == np.float32
    assert np.array(x, copy=False).base is not None
    with pytest.raises(ValueError, match="without a copy"):
        np.array(x, np.float32, copy=False)


def test_numpys_functions_run_on_the_device(device_xp: Any) -> None:
    x = tg.tensor(A).to("strict" if "strict" in device_xp.__name__ else "cuda")
    assert np.sum(x, axis=0).device == x.device
    with pytest.raises(DeviceError, match="different devices"):
        np.add(A, x)
    np.testing.assert_array_equal(np.sum(x, axis=0).numpy(), A.sum(axis=0))


def test_dlpack_exports_what_cannot_reach_the_tape() -> None:
    x = tg.tensor(A, requires_grad=True)
    y = (x * x).sum()
    taken = np.from_dlpack(x)
    np.testing.assert_array_equal(taken, A)
    if taken.flags.writeable:
        taken[:] = 0
    y.backward()
    np.testing.assert_array_equal(x.grad.numpy(), 2 * A)


def test_dlpack_goes_both_ways() -> None:
    x = tg.tensor(A, requires_grad=True)
    back = tg.from_dlpack(x)
    assert (back.requires_grad, back.dtype, back.device) == (False, x.dtype, "cpu")
    np.testing.assert_array_equal(back.numpy(), A)
    assert not np.shares_memory(back._data, x._data)
    source = np.arange(3.0)
    y = tg.from_dlpack(source, requires_grad=True)
    source[:] = 7
    (y * y).sum().backward()
    np.testing.assert_array_equal(y.grad.numpy(), [0, 2, 4])
    shared = np.from_dlpack(x, copy=False)
    assert np.shares_memory(shared, x._data) and not shared.flags.writeable


def test_torch_takes_a_copy_and_gives_one() -> None:
    torch = pytest.importorskip("torch", reason="exchanges arrays with PyTorch where it is installed")
    x = tg.tensor(A, requires_grad=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        taken = torch.from_dlpack(x)
    taken.zero_()
    np.testing.assert_array_equal(x.numpy(), A)
    source = torch.ones(2, 3, dtype=torch.float64)
    back = tg.from_dlpack(source)
    source.zero_()
    assert back.dtype == np.float64
    np.testing.assert_array_equal(back.numpy(), np.ones((2, 3)))
    assert tg.tensor(torch.ones(2, dtype=torch.float64)).dtype == np.float64
    with pytest.raises(ArgumentError, match="detach"):
        tg.from_dlpack(torch.ones(2, requires_grad=True))
    with pytest.raises(ArgumentError, match="DLPack"):
        tg.from_dlpack([1.0])
