"""Reading elements by position, and the transpose of it: adding to them.

The derivative of a slice is zero outside it. It travels as a `Deferred` and is added in place, so the gradient of T slices of one array
costs the elements that were read, not T arrays: BPTT over a sliced sequence is linear in T.

Integers outside the array are an error on the CPU; CuPy wraps them around without a word, since a look would wait for the device.
"""

from __future__ import annotations

import math
from operator import index
from typing import Any

import numpy as np

from .. import backend
from ..errors import ArgumentError, DeviceError, IndexError_, InPlaceError, ShapeError, describe, message, op_error
from ..frames import thread
from ..graph import Value, raw
from ..primitives import Deferred, backward_of, defvjp, primitive
from .broadcast import elementwise, sum_to
from .joining import as_array, place
from .piecewise import where

# ---- Keys ----------------------------------------------------------------------------------------------------------------------

_ONCE = frozenset({int, slice, type(None), type(Ellipsis)})


def _is_basic(key: Any) -> bool:
    """Whether the key is made of slices, integers, ellipsis and new axes: it reads each element once, and x[key] is a view."""
    if type(key) is not tuple:
        return type(key) in _ONCE
    for part in key:  # noqa: SIM110 (`all` of a generator takes twice as long on two slices, and slices are the hot case)
        if type(part) not in _ONCE:
            return False
    return True


def _is_mask(key: Any) -> bool:
    dtype = getattr(key, "dtype", None)
    return dtype is not None and bool(dtype.kind == "b")


def _key(x: Any, key: Any, v: Any = None) -> Any:
    """The key in terms of slices, numbers and arrays on the device of x; arrays are copied where the tape will keep them."""
    if _is_basic(key):
        return key
    if type(key) is tuple:
        return tuple([_key(x, k, v) for k in key])
    if isinstance(key, (list, range)):
        key = np.asarray(key, None if len(key) else np.intp)
    elif isinstance(key, np.integer):
        return int(key)
    array = raw(key)
    if not backend.is_array(array):
        return array
    if array.ndim == 0 and array.dtype.kind in "iu" and type(array) is np.ndarray:
        return int(array)
    kept = thread.modes.record and any(isinstance(each, Value) and each.node is not None for each in (x, v))
    module = backend.array_module(raw(x))
    if backend.array_module(array) is not module:
        if module is np:  # the other way round the key is moved: it costs no waiting
            raise DeviceError(
                message(
                    f"getitem: x {describe(raw(x))} is on cpu, its index {describe(array)} on {backend.device_of(array)}",
                    expected="an index on the device of x, or on the CPU",
                    do="x[i.to('cpu')]",
                )
            )
        return module.asarray(backend.to_numpy(array))
    return array.copy() if kept else array


# ---- Slices, and the sum of them -------------------------------------------------------------------------------------------------


@primitive(expects="slices, integers, integer arrays, boolean masks, ... and None")
def _getitem(x: Any, /, key: Any) -> Any:
    return x[key]


class Slice(Deferred):
    """The cotangent of x[key]: `g` there, zero elsewhere. A pair (key, g)."""

    __slots__ = ()

    @staticmethod
    def sum_of(parts: list[Any], like: Any) -> Any:
        """Their gradients added up in one array of zeros."""
        gs, keys = [g for _, g in parts], [key for key, _ in parts]
        add_up = _sum_of_slices if isinstance(gs[0], Value) else _sum_of_slices.primitive.function
        return add_up(*gs, keys=keys, shape=like.shape)


@primitive
def _sum_of_slices(*gs: Any, keys: list[Any], shape: tuple[int, ...]) -> Any:
    total = backend.array_module(gs[0]).zeros(shape, gs[0].dtype)
    for key, g in zip(keys, gs):
        _add_at(total, key, g)
    return total


@backward_of(_sum_of_slices)
def _(g: Any, y: Any, *gs: Any, keys: list[Any], shape: tuple[int, ...]) -> Any:
    return [_getitem(g, key) for key in keys]


def _add_at(total: Any, key: Any, v: Any) -> None:
    """total[key] += v in place, where a place that the key names twice receives both."""
    if _is_basic(key):
        part = total[key]
        if part.ndim:
            part += v  # in the view; `total[key] += v` would copy it onto itself
        else:
            total[key] += v
        return
    if _is_mask(key):
        total[key] += v
        return
    arrays = _as_integers(key, total.shape) if type(total) is np.ndarray else None
    if arrays is None:
        np.add.at(total, key, v)
        return
    lead, rest = total.shape[: len(arrays)], total.shape[len(arrays) :]
    rows = np.ravel_multi_index(arrays, lead, mode="wrap")
    width = math.prod(rest)
    v = np.broadcast_to(v, rows.shape + rest).reshape(rows.size, width)
    if v.size >= 2**14 and v.dtype == total.dtype and v.dtype.char in "fd":
        table = total.reshape(math.prod(lead), width)
        table += _scattered(rows.reshape(-1), v, len(table))
        return
    # NumPy adds four times as fast in one flat row.
    places = rows.reshape(-1, 1) * width + np.arange(width)
    np.add.at(total.reshape(-1), places.reshape(-1), v.reshape(-1))


def _scattered(rows: Any, v: Any, count: int) -> Any:
    """v_j added to row rows_j of zeros, for all j in order: a product with the sparse matrix of ones at (rows_j, j). An embedding lives on
    this: it is faster than np.add.at, and gives the same bits.
    """
    from scipy.sparse import csc_array

    return csc_array((np.ones(len(rows), v.dtype), rows, np.arange(len(rows) + 1)), shape=(count, len(rows))) @ v


def _as_integers(key: Any, shape: tuple[int, ...]) -> tuple[Any, ...] | None:
    """The key as integers for the first axes, if it names whole axes and then integers; None for any other key."""
    key = key if type(key) is tuple else (key,)
    whole = 0
    while whole < len(key) and type(key[whole]) is slice and key[whole] == slice(None):
        whole += 1
    chosen = key[whole:]
    if not chosen or not all(type(k) is int or (type(k) is np.ndarray and not _is_mask(k)) for k in chosen):
        return None
    after = max(np.ndim(k) for k in chosen)
    axes = [np.arange(n).reshape(-1, *[1] * (whole - 1 - axis + after)) for axis, n in enumerate(shape[:whole])]
    return (*axes, *chosen)


defvjp(_getitem, lambda g, y, x, key: Slice((key, g)))


def getitem(x: Any, key: Any) -> Any:
    """x[key] for slices, integers, integer arrays, boolean masks, ellipsis and None, as NumPy reads them."""
    return _getitem(x, key=key if _is_basic(key) else _key(x, key))


def write(x: Any, key: Any, value: Any) -> None:
    """x[key] = value, in place in the memory of the Tensor x. Nothing is recorded."""
    array, new = x._data, raw(value)
    if isinstance(value, Value) and value.node is not None and thread.modes.record:
        raise InPlaceError(
            message(
                f"x[...] = v: v {describe(new)} has a gradient, which would be lost",
                do="y = tg.index_put(x, key, v) keeps it; x[...] = v.detach() drops it",
            )
        )
    if backend.is_array(new) and backend.array_module(new) is not backend.array_module(array):
        raise DeviceError(
            message(
                f"x[...] = v: x lives on {backend.device_of(array)}, v on {backend.device_of(new)}",
                do=f"x[...] = v.to({backend.device_of(array)!r})",
            )
        )
    if isinstance(new, (list, tuple)):
        new = backend.array_module(array).asarray(new, array.dtype)
    try:
        array[_key(array, key)] = new
    except (ValueError, TypeError, IndexError) as cause:
        raise op_error(
            "x[...] = v", ["x", "v"], [array, new], {"key": key}, cause, expects="v that broadcasts to x[key]", where=""
        ) from None


# ---- Chosen places along an axis ---------------------------------------------------------------------------------------------------


@primitive
def _take(x: Any, /, indices: Any, axis: int) -> Any:
    return np.take(x, indices, axis)


def _lead(axis: int, ndim: int) -> tuple[slice, ...]:
    return (slice(None),) * (axis % ndim)


defvjp(_take, lambda g, y, x, indices, axis: Slice(((*_lead(axis, x.ndim), indices), g)))


def take(x: Any, indices: Any, axis: int | None = None) -> Any:
    """The elements at the integer `indices` along an axis, which the axes of `indices` replace; without an axis those of x in one row."""
    x = as_array(x)
    if axis is None:
        x, axis = x.reshape(-1), 0
    return _take(x, _key(x, indices), axis)


@primitive(expects="integer indices with as many axes as x; the other axes equal, or 1")
def _take_along_axis(x: Any, /, indices: Any, axis: int) -> Any:
    return np.take_along_axis(x, indices, axis)


def _along(indices: Any, axis: int, shape: tuple[int, ...]) -> tuple[Any, ...]:
    """The key that reads x[..., indices[..., i, ...], ...], every other axis at its own place."""
    module = backend.array_module(indices)
    places = [module.arange(n).reshape([-1 if i == d else 1 for i in range(len(shape))]) for d, n in enumerate(shape)]
    places[axis] = indices
    return tuple(places)


defvjp(_take_along_axis, lambda g, y, x, indices, axis: Slice((_along(indices, axis, x.shape), g)))


def take_along_axis(x: Any, indices: Any, axis: int = -1) -> Any:
    """y[..., i, ...] = x[..., indices[..., i, ...], ...]: one choice along the axis for each place, as `argsort` returns them."""
    x = as_array(x)
    return _take_along_axis(x, _key(x, indices), axis)


# ---- A new array with other elements at some places ---------------------------------------------------------------------------------


@primitive(expects="v that broadcasts to x[key]")
def _index_put(x: Any, v: Any, /, key: Any) -> Any:
    out = _copy_for(x, key, v)
    out[key] = v
    return out


@primitive(expects="v that broadcasts to x[key]")
def _index_add(x: Any, v: Any, /, key: Any) -> Any:
    out = _copy_for(x, key, v)
    _add_at(out, key, v)
    return out


def _copy_for(x: Any, key: Any, v: Any) -> Any:
    """A copy of x to write v into at the key, once both are known to fit."""
    places, values = x[key].shape, v.shape if backend.is_array(v) else np.shape(v)
    if np.broadcast_shapes(places, values) != places:
        raise ShapeError(f"v {values} does not broadcast to the places {places}")
    return x.copy()


defvjp(_index_put, lambda g, y, x, v, key: _index_put(g, 0, key), lambda g, y, x, v, key: sum_to(_getitem(g, key), v.shape))
defvjp(_index_add, lambda g, y, x, v, key: g, lambda g, y, x, v, key: sum_to(_getitem(g, key), v.shape))


def index_put(x: Any, key: Any, v: Any) -> Any:
    """A copy of x in which x[key] is v. A key that names a place twice is refused: which v would win?"""
    x = as_array(x)
    key = _key(x, key, v)
    if not (_is_basic(key) or _is_mask(key)):
        array = raw(x)
        module = backend.array_module(array)
        places = module.arange(array.size).reshape(array.shape)[key]
        if module.unique(places).size != places.size:
            raise IndexError_(
                message(
                    "index_put: the key names a place twice",
                    expected="each place once",
                    do="tg.index_add adds up what meets in one place",
                )
            )
    return _index_put(x, v, key)


def index_add(x: Any, key: Any, v: Any) -> Any:
    """A copy of x in which v is added to x[key]; a place that the key names twice receives both."""
    x = as_array(x)
    return _index_add(x, v, _key(x, key, v))


@elementwise
def _masked_fill(x: Any, mask: Any, value: Any) -> Any:
    return backend.array_module(x, mask).where(mask, value, x)


defvjp(
    _masked_fill,
    lambda g, y, x, mask, value: where(mask, 0, g),
    None,
    lambda g, y, x, mask, value: where(mask, g, 0),
)


def masked_fill(x: Any, mask: Any, value: Any) -> Any:
    """x, but `value` where the boolean mask holds; the three broadcast against each other."""
    if not _is_mask(mask):
        raise ArgumentError(
            message(f"masked_fill: the mask is {describe(raw(mask))}", expected="booleans", do="for example mask != 0")
        )
    return _masked_fill(x, mask, value)


@primitive(differentiable=False, expects="integers from 0 to num_classes - 1")
def one_hot(indices: Any, /, num_classes: int, dtype: Any = np.float32) -> Any:
    """For each index a row of `num_classes` zeros with a one at its place."""
    indices = indices if backend.is_array(indices) else np.asarray(indices)
    if indices.dtype.kind not in "iu":
        raise ArgumentError(f"{indices.dtype} is no type of an index")
    if isinstance(indices, np.ndarray) and ((indices < 0) | (indices >= num_classes)).any():
        raise IndexError_(f"an index lies outside 0 .. {num_classes - 1}")
    return (indices[..., None] == backend.array_module(indices).arange(index(num_classes))).astype(dtype)


# ---- Order ---------------------------------------------------------------------------------------------------------------------


@primitive(differentiable=False)
def argsort(x: Any, /, axis: int = -1) -> Any:
    """The places of the elements in ascending order along an axis; equals keep their order, NaN comes last."""
    return np.argsort(x, axis, kind="stable")


@primitive(saves=True)
def sort(x: Any, /, axis: int = -1) -> Any:
    """The elements in ascending order along an axis; equals keep their order, NaN comes last."""
    x = as_array(x)
    order = np.argsort(x, axis, kind="stable")
    return np.take_along_axis(x, order, axis), order


@backward_of(sort)
def _(g: Any, y: Any, order: Any, x: Any, axis: int = -1) -> Any:
    return [_take_along_axis(g, argsort(order, axis), axis)]


@primitive(differentiable=False)
def _topk(x: Any, /, k: int, axis: int, largest: bool) -> Any:
    n = x.shape[place("topk", axis, x.ndim)]
    if not 0 <= k <= n:
        raise ShapeError(f"k = {k} of {n} elements")
    order = np.argsort(np.flip(x, axis), axis, kind="stable") if largest else np.argsort(x, axis, kind="stable")
    if largest:
        order = n - 1 - np.flip(order, axis)
    return order[(*_lead(axis, x.ndim), slice(k))]


def topk(x: Any, k: int, axis: int = -1, largest: bool = True) -> tuple[Any, Any]:
    """The k largest (or smallest) elements along an axis, best first, and their places. Of equals the first comes first."""
    x = as_array(x)
    indices = _topk(x, k, axis, largest)
    return take_along_axis(x, indices, axis), indices
