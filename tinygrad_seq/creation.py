"""Tensors out of nothing: NumPy's creation functions, in float32 unless told otherwise, on any device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from . import backend
from .conversion import DEFAULT_DTYPE, to_array, to_dtype
from .errors import ArgumentError, describe, message, op_error
from .graph import box
from .tensor import Tensor

Shape = int | Sequence[int]


def tensor(
    data: Any, dtype: Any = None, *, device: str | None = None, requires_grad: bool = False, name: str | None = None
) -> Tensor:
    """A Tensor of a number, a nested list, an array or a Tensor, which is copied. Python floats become float32, arrays keep their dtype."""
    return Tensor(data, dtype, device=device, requires_grad=requires_grad, name=name)


def asarray(data: Any, dtype: Any = None, *, device: str | None = None) -> Tensor:
    """`data` itself where it is a Tensor of that dtype on that device, so that gradients pass; else a Tensor of it."""
    return data.to(device, dtype) if isinstance(data, Tensor) else Tensor(data, dtype, device=device)


def from_dlpack(x: Any, *, requires_grad: bool = False) -> Tensor:
    """A Tensor of the array of another library that speaks DLPack (PyTorch, JAX, ...), copied, on its device."""
    try:
        on_host = x.__dlpack_device__()[0] == 1
        array = backend.module_of_device("cpu" if on_host else "cuda").from_dlpack(x)
    except (AttributeError, BufferError, RuntimeError) as cause:
        raise ArgumentError(
            message(
                f"from_dlpack: {type(x).__name__} cannot be exported: {cause}",
                expected="an array that speaks DLPack",
                do="x.detach() first, for a PyTorch tensor that requires a gradient",
            )
        ) from None
    return Tensor(array, requires_grad=requires_grad)


# ---- Of a shape -------------------------------------------------------------------------------------------------------------------


def zeros(shape: Shape, dtype: Any = DEFAULT_DTYPE, *, device: str = "cpu", requires_grad: bool = False) -> Tensor:
    """Zeros in an array of `shape`."""
    return _create("zeros", device, requires_grad, dtype, shape=shape)


def ones(shape: Shape, dtype: Any = DEFAULT_DTYPE, *, device: str = "cpu", requires_grad: bool = False) -> Tensor:
    """Ones in an array of `shape`."""
    return _create("ones", device, requires_grad, dtype, shape=shape)


def full(shape: Shape, fill_value: Any, dtype: Any = None, *, device: str = "cpu", requires_grad: bool = False) -> Tensor:
    """The number `fill_value` throughout an array of `shape`, in its dtype unless told."""
    fill = to_array(fill_value, dtype, copy=False)
    if fill.ndim or getattr(fill_value, "node", None) is not None:
        raise ArgumentError(
            message(
                f"full: fill_value is {describe(fill_value)}", expected="a plain number", do="tg.broadcast_to(fill_value, shape)"
            )
        )
    return _create("full", device, requires_grad, fill.dtype, shape=shape, fill_value=fill.item())


def eye(
    N: int, M: int | None = None, k: int = 0, dtype: Any = DEFAULT_DTYPE, *, device: str = "cpu", requires_grad: bool = False
) -> Tensor:
    """Ones on the k-th diagonal of an (N, M) matrix of zeros: the identity where M and k are left out."""
    return _create("eye", device, requires_grad, dtype, N=N, M=M, k=k)


def zeros_like(x: Any, dtype: Any = None, *, requires_grad: bool = False) -> Tensor:
    """Zeros of the shape of `x`, in its dtype unless told, on its device."""
    return full_like(x, 0, dtype, requires_grad=requires_grad)


def ones_like(x: Any, dtype: Any = None, *, requires_grad: bool = False) -> Tensor:
    """Ones of the shape of `x`, in its dtype unless told, on its device."""
    return full_like(x, 1, dtype, requires_grad=requires_grad)


def full_like(x: Any, fill_value: Any, dtype: Any = None, *, requires_grad: bool = False) -> Tensor:
    """The number `fill_value` throughout an array of the shape of `x`, in its dtype unless told, on its device."""
    like = to_array(x, copy=False)
    return full(
        like.shape, fill_value, like.dtype if dtype is None else dtype, device=backend.device_of(like), requires_grad=requires_grad
    )


# ---- Of a range -------------------------------------------------------------------------------------------------------------------


def arange(
    start: Any, stop: Any = None, step: Any = 1, dtype: Any = None, *, device: str = "cpu", requires_grad: bool = False
) -> Tensor:
    """Count from `start` in steps up to but without `stop`; with one argument from 0. Integers unless a float is among them."""
    start, stop = (0, start) if stop is None else (start, stop)
    if dtype is None:
        dtype = DEFAULT_DTYPE if any(isinstance(x, float) for x in (start, stop, step)) else np.int64
    return _create("arange", device, requires_grad, dtype, start=start, stop=stop, step=step)


def linspace(
    start: Any,
    stop: Any,
    num: int = 50,
    endpoint: bool = True,
    dtype: Any = DEFAULT_DTYPE,
    *,
    device: str = "cpu",
    requires_grad: bool = False,
) -> Tensor:
    """`num` numbers at equal distances from `start` to `stop`, which is the last one unless endpoint=False."""
    return _create("linspace", device, requires_grad, dtype, start=start, stop=stop, num=num, endpoint=endpoint)


def _create(name: str, device: str, requires_grad: bool, dtype: Any, **params: Any) -> Tensor:
    """The NumPy function of that name, or its CuPy twin, run on `device`; its errors speak for the caller."""
    dtype = to_dtype(dtype, name)
    exact = np.float64 if name == "arange" and dtype.kind == "f" else dtype  # in float32 the steps would drift
    library = backend.module_of_device(device)
    try:
        array = getattr(library, name)(*params.values(), dtype=exact).astype(dtype, copy=False)
    except (ValueError, TypeError, OverflowError, ZeroDivisionError) as cause:
        raise op_error(name, [*params], [*params.values()], {}, cause, expects="", where="") from None
    made: Tensor = box(backend.to_device(array, device), None)
    return made.requires_grad_() if requires_grad else made
