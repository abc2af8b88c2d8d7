"""What a Tensor can hold: numbers, nested lists and arrays of any library, each as one array of numbers."""

from __future__ import annotations

from typing import Any

import numpy as np

from . import backend
from .errors import ArgumentError, describe, message
from .graph import Value

DEFAULT_DTYPE = np.dtype(np.float32)  # of Python floats and lists of them; an array keeps its own
NUMBERS = "fiub"  # the kinds of dtype that a Tensor may have: no complex numbers, objects, strings or dates


def to_array(data: Any, dtype: Any = None, *, copy: bool) -> Any:
    """The array that a Tensor of `data` holds: Python floats as float32, arrays in their own dtype."""
    dtype = None if dtype is None else to_dtype(dtype, "tensor")
    if isinstance(data, Value):
        data = data._data
    if isinstance(data, np.ndarray) and type(data) is not np.ndarray:  # np.matrix, np.memmap, ...
        if hasattr(data, "mask"):
            raise ArgumentError(
                message("tensor: a masked array would lose its mask", do="data.filled(value), or keep the mask beside it")
            )
        data = np.asarray(data)
    if backend.is_array(data):
        array = data if dtype is None else data.astype(dtype, copy=False)
        array = array.copy() if copy and array is data else array
    else:
        _refuse_tensors_in(data)
        try:
            array = np.asarray(data, dtype=dtype)
        except (ValueError, TypeError, OverflowError) as cause:
            ragged = "inhomogeneous" in str(cause)
            raise ArgumentError(
                message(
                    f"tensor: {describe(data)} is no array: {'its rows differ in length' if ragged else cause}",
                    expected="a number, a nested list of equal lengths, an array or a Tensor",
                    do="pad the rows to one length" if ragged else "",
                )
            ) from None
        if dtype is None and array.dtype == np.float64 and not hasattr(data, "dtype"):
            array = array.astype(DEFAULT_DTYPE)
        elif copy and not isinstance(data, (list, tuple)):
            array = array.copy()
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if array.dtype.kind not in NUMBERS:
        raise ArgumentError(
            message(f"tensor: {describe(data)} is no array of numbers", expected="floating-point numbers, integers or booleans")
        )
    return array


def to_dtype(dtype: Any, who: str) -> np.dtype[Any]:
    """The NumPy dtype that `dtype` names, if tensors can have it."""
    try:
        found: np.dtype[Any] = np.dtype(dtype)
    except TypeError:
        found = np.dtype(object)
    if found.kind not in NUMBERS:
        raise ArgumentError(
            message(
                f"{who}: {dtype!r} is no dtype of a Tensor",
                expected="a NumPy dtype of floats, integers or booleans, such as tg.float32",
                do="write a shape as one argument: tg.zeros((2, 3))" if isinstance(dtype, int) else "",
            )
        )
    return found


def _refuse_tensors_in(data: Any) -> None:
    """Raise if a (nested) list holds a Tensor, whose gradient would be lost."""
    if isinstance(data, Value):
        raise ArgumentError(message("tensor: the list holds Tensors, whose gradients would be lost", do="tg.stack(list)"))
    if isinstance(data, (list, tuple)):
        for element in data:
            if not isinstance(element, (int, float)):
                _refuse_tensors_in(element)
