"""The strict array: a NumPy array inside, the methods and refusals of `cupy.ndarray` outside.

A wrapper and not a subclass, so nothing of NumPy shows through: what CuPy has not, `hasattr` does not find.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any
from weakref import WeakValueDictionary

import numpy as np

from .rules import SCALARS, Device, check_dtype, current, quiet, syncs, uploads

# ---- In and out of the wrapper --------------------------------------------------------------------------

_owners: WeakValueDictionary[int, StrictArray] = WeakValueDictionary()  # by the id of the NumPy array that owns the memory


def wrap(x: Any) -> Any:
    """What NumPy returned, on the device: arrays, and scalars as arrays without axes; also inside tuples and lists."""
    if isinstance(x, np.generic):
        x = np.asarray(x)
    if isinstance(x, np.ndarray):
        root = x
        while isinstance(root.base, np.ndarray):
            root = root.base
        if root is x and id(x) in _owners:
            return _owners[id(x)]
        array = object.__new__(StrictArray)
        array._a = x
        if root is x:
            array._owner, array._number = None, current.device
            _owners[id(x)] = array
        else:
            owner = _owners.get(id(root))
            array._owner = wrap(root) if owner is None else owner
            array._number = array._owner._number
        return array
    if isinstance(x, (tuple, list)):
        return type(x)(map(wrap, x)) if type(x) in (tuple, list) else tuple(map(wrap, x))  # no named tuples in CuPy
    return x


def strip(x: Any, who: str) -> Any:
    """What CuPy takes as NumPy takes it; a host array, a string or an array of another device is refused."""
    if isinstance(x, StrictArray):
        if x._number != current.device:
            raise ValueError(
                f"{who}: Array device must be same as the current device: {x._number} while current = {current.device}"
            )
        return x._a
    if isinstance(x, np.ndarray):
        raise TypeError(f"{who}: Unsupported type {type(x)}")
    if isinstance(x, (tuple, list)):
        return type(x)(strip(item, who) for item in x)
    return x


def index(key: Any) -> Any:
    """A key as NumPy reads it. CuPy takes lists and host arrays too, and copies them to the device without a word."""
    if isinstance(key, tuple):
        return tuple(map(index, key))
    if isinstance(key, StrictArray):
        syncs.extend(["mask"] * (key.dtype.kind == "b"))  # how many elements it holds must be known
        return strip(key, "index")
    if isinstance(key, (list, np.ndarray)):
        uploads.append("index")
        return np.asarray(key) if len(key) else np.asarray(key, np.intp)
    return key


# ---- The array ------------------------------------------------------------------------------------------


class StrictArray:
    """`cupy.ndarray`, as far as it refuses and counts."""

    __slots__ = ("__weakref__", "_a", "_number", "_owner")
    __hash__ = None  # type: ignore[assignment]
    __array_priority__ = 100

    _a: np.ndarray
    _owner: StrictArray | None
    _number: int

    # What it is

    shape = property(lambda x: x._a.shape, lambda x, shape: setattr(x._a, "shape", shape))
    dtype = property(lambda x: x._a.dtype)
    ndim = property(lambda x: x._a.ndim)
    size = property(lambda x: x._a.size)
    itemsize = property(lambda x: x._a.itemsize)
    nbytes = property(lambda x: x._a.nbytes)
    strides = property(lambda x: x._a.strides)
    base = property(lambda x: x._owner)
    device = property(lambda x: Device(x._number))
    data = property(lambda x: Pointer(x._a))
    flags = property(lambda x: Flags(x._a, x._owner))
    T = property(lambda x: wrap(x._a.T))
    mT = property(lambda x: wrap(x._a.mT))
    real = property(lambda x: wrap(x._a.real))
    imag = property(lambda x: wrap(x._a.imag))

    def __len__(self) -> int:
        return len(self._a)

    def __iter__(self) -> Iterator[StrictArray]:
        if not self.ndim:
            raise TypeError("iteration over a 0-d array")
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:  # not counted: a debugger may look
        return f"strict{self._a!r}"

    # To the host: by `get`, which is meant; or by the way, which is counted

    def get(self, stream: Any = None, order: str = "C", out: Any = None, blocking: bool = True) -> np.ndarray:
        if out is None:
            return self._a.copy()
        out[...] = self._a
        return out

    def set(self, arr: np.ndarray, stream: Any = None) -> None:
        if not isinstance(arr, np.ndarray) or arr.dtype != self.dtype or arr.shape != self.shape:
            raise TypeError("set: needs a host array of the same dtype and shape")
        self._a[...] = arr

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()`")

    def __float__(self) -> float:
        syncs.append("float")
        return float(self._a)

    def __int__(self) -> int:
        syncs.append("int")
        return int(self._a)

    def __complex__(self) -> complex:
        syncs.append("complex")
        return complex(self._a)

    def __bool__(self) -> bool:
        syncs.append("bool")
        return bool(self._a)

    def item(self) -> Any:
        syncs.append("item")
        return self._a.item()

    def tolist(self) -> Any:
        syncs.append("tolist")
        return self._a.tolist()

    def tobytes(self, order: str = "C") -> bytes:
        syncs.append("tobytes")
        return self._a.tobytes(order)

    def nonzero(self) -> Any:
        syncs.append("nonzero")
        return wrap(self._a.nonzero())

    def __reduce__(self) -> Any:
        syncs.append("pickle")
        return _on_device, (self._a.copy(),)

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, self._number

    def __dlpack__(self, **options: Any) -> Any:
        raise BufferError("the memory is on the device")

    # Copies and views

    def __copy__(self) -> StrictArray:
        return self.copy()

    def __deepcopy__(self, memo: dict[int, Any]) -> StrictArray:
        return self.copy()

    def astype(self, dtype: Any, order: str = "K", casting: str | None = None, subok: Any = None, copy: bool = True) -> StrictArray:
        for name, setting in (("casting", casting), ("subok", subok)):
            if setting is not None:
                raise TypeError(f"{name} is not supported yet")
        check_dtype(dtype)
        with quiet():
            changed = self._a.astype(dtype, order=order, copy=bool(copy))
        return self if changed is self._a else wrap(changed)

    def view(self, dtype: Any = None, type: Any = None) -> StrictArray:
        if type is not None or (inspect.isclass(dtype) and issubclass(dtype, np.ndarray)):
            raise TypeError("view: the class of a device array cannot be changed")
        check_dtype(dtype)
        return wrap(self._a.view() if dtype is None else self._a.view(dtype))

    def fill(self, value: Any) -> None:
        self[...] = value

    # Indexing

    def __getitem__(self, key: Any) -> StrictArray:
        return wrap(self._a[index(key)])

    def __setitem__(self, key: Any, value: Any) -> None:
        key = index(key)
        if isinstance(value, StrictArray):
            self._check_once(key)
        elif not isinstance(value, SCALARS) and getattr(value, "shape", None) != ():
            raise ValueError(f"non-scalar {type(value)} cannot be used for fill")
        with quiet():
            self._a[key] = strip(value, "setitem") if isinstance(value, StrictArray) else value

    def _check_once(self, key: Any) -> None:
        """Refuse an assignment that names an element twice: NumPy keeps the last value, a device any of them."""
        parts = key if isinstance(key, tuple) else (key,)
        if any(isinstance(part, np.ndarray) and part.dtype.kind in "iu" for part in parts):
            where = np.arange(self.size).reshape(self.shape)[key]
            if np.unique(where).size < where.size:
                raise ValueError("setitem: an element is assigned twice; which value stays is undefined on a device")

    def scatter_add(self, slices: Any, value: Any) -> None:
        scatter(np.add, self, slices, value)

    def scatter_max(self, slices: Any, value: Any) -> None:
        scatter(np.maximum, self, slices, value)

    def scatter_min(self, slices: Any, value: Any) -> None:
        scatter(np.minimum, self, slices, value)

    def sort(self, axis: int = -1, kind: str | None = None) -> None:
        check_sort(self, kind)
        self._a.sort(axis)

    def argsort(self, axis: int | None = -1, kind: str | None = None) -> StrictArray:
        check_sort(self, kind)
        return wrap(self._a.argsort(axis, kind="stable"))

    # NumPy's functions called on a device array are passed on to the twin, where there is one

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        twin = getattr(functions(), ufunc.__name__, None)
        if twin is None or any(
            hasattr(x, "__array_ufunc__") and not isinstance(x, (StrictArray, np.ndarray, *SCALARS)) for x in inputs
        ):
            return NotImplemented
        if "out" in options:
            if len(options["out"]) != 1:
                raise ValueError("The 'out' parameter must have exactly one array value")
            options["out"] = options["out"][0]
        return (twin if method == "__call__" else getattr(twin, method))(*inputs, **options)

    def __array_function__(self, function: Callable[..., Any], types: Any, args: Any, kwargs: Any) -> Any:
        if not all(issubclass(kind, (StrictArray, np.ndarray)) for kind in types):
            return NotImplemented
        twin: Any = functions()
        for name in [*function.__module__.split(".")[1:], function.__name__]:
            twin = getattr(twin, name, None)
        return NotImplemented if twin is None else twin(*args, **kwargs)


class Pointer:
    """`a.data`: an address, not a buffer."""

    def __init__(self, a: np.ndarray):
        self.ptr = a.__array_interface__["data"][0]


class Flags:
    """`a.flags`: CuPy knows three; nothing is ever read-only on a device."""

    __slots__ = ("c_contiguous", "f_contiguous", "owndata")

    def __init__(self, a: np.ndarray, owner: StrictArray | None):
        self.c_contiguous, self.f_contiguous, self.owndata = (a.flags.c_contiguous, a.flags.f_contiguous, owner is None)

    def __getitem__(self, name: str) -> bool:
        return getattr(self, name.lower())


def check_sort(x: StrictArray, kind: str | None) -> None:
    """Raise for what CuPy does not sort."""
    if kind not in (None, "stable"):
        raise ValueError("kind can only be None or 'stable'")
    if not x.ndim:
        raise np.exceptions.AxisError("Sorting arrays with the rank of zero is not supported")


SCATTERED = {"add": ("int32", "uint32", "uint64", "float16", "float32", "float64", "complex64", "complex128")}
SCATTERED["maximum"] = SCATTERED["minimum"] = ("int32", "uint32", "uint64", "float32", "float64")


def scatter(ufunc: np.ufunc, x: StrictArray, key: Any, value: Any) -> None:
    """`ufunc.at`, which on a device is made of atomic operations; not every dtype has them."""
    parts = key if isinstance(key, tuple) else (key,)
    by_array = any(isinstance(part, (StrictArray, np.ndarray, list)) for part in parts)
    if by_array and x.dtype.name not in SCATTERED.get(ufunc.__name__, (x.dtype.name,)):
        raise TypeError(f"scatter_{ufunc.__name__} only supports {', '.join(SCATTERED[ufunc.__name__])}")
    if not isinstance(value, (StrictArray, *SCALARS)):
        raise TypeError(f"{ufunc.__name__}.at: Unsupported type {type(value)}")
    with quiet():
        ufunc.at(strip(x, ufunc.__name__), index(key), strip(value, ufunc.__name__))


def _on_device(a: np.ndarray) -> StrictArray:
    return wrap(a)


def functions() -> Any:
    from . import xp

    return xp
