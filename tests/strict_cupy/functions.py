"""The module: CuPy's functions by name, NumPy inside. What CuPy has not is not there; what it refuses raises."""

from __future__ import annotations

import types
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from .array import StrictArray, scatter, strip, wrap
from .rules import SCALARS, SURFACE, Device, check_call, check_dtype, quiet, syncs

# First parameters of these names are one array; CuPy takes no list there (of creators it does).
ONE_ARRAY = {"a", "x", "m", "arr", "ary", "A", "x1", "x2", "b", "v", "y"}
FROM_HOST = {"array", "asarray", "asanyarray", "ascontiguousarray", "asfortranarray"}
WAITS = {"nonzero", "argwhere", "flatnonzero", "unique", "extract", "compress", "unique_all", "unique_counts", "unique_values"}
ANSWERS = {"allclose", "array_equal", "array_equiv"}  # Python booleans of NumPy, arrays without axes in CuPy
NO_NAMES = {"asnumpy", "get_array_module", "ndarray", "ufunc", "size"}


def tell(result: Any, out: Any = None) -> Any:
    """The result on the device; the array given as `out` where there is one."""
    return wrap(result) if out is None else out


class Ufunc:
    """A ufunc of CuPy: arrays and scalars only, fewer keywords, and only a few have `at`, `reduce`, `accumulate`, `reduceat`."""

    def __init__(self, name: str, function: Callable[..., Any]):
        self.name = self.__name__ = name
        self.function = function
        self.nin, self.nout = getattr(function, "nin", 1), getattr(function, "nout", 1)

    def __repr__(self) -> str:
        return f"<strict ufunc {self.name}>"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        check_call(self.name, ["*args", "out", "dtype", "casting"], args, kwargs)
        check_dtype(kwargs.get("dtype"))
        out = kwargs.get("out")
        for x in (*args, *(out if isinstance(out, tuple) else () if out is None else (out,))):
            if not isinstance(x, (StrictArray, *SCALARS)):
                raise TypeError(f"{self.name}: Unsupported type {type(x)}")
        with quiet():
            result = self.function(*strip(args, self.name), **{k: strip(v, self.name) for k, v in kwargs.items()})
        return tell(result, args[self.nin] if len(args) > self.nin else out[0] if isinstance(out, tuple) else out)

    def _known(self, method: str) -> Callable[..., Any]:
        if self.name not in SURFACE["ufunc_methods"][method]:
            raise NotImplementedError(f"`{self.name}.{method}` is not supported yet")
        return getattr(self.function, method)

    def at(self, a: StrictArray, indices: Any, b: Any = None) -> None:
        self._known("at")
        if not isinstance(a, StrictArray):
            raise TypeError(f"{self.name}.at: Unsupported type {type(a)}")
        scatter(self.function, a, indices, b)

    def outer(self, a: Any, b: Any, **kwargs: Any) -> Any:
        return self(*((x[(...,) + (None,) * b.ndim] if x is a else x) for x in (a, b)), **kwargs)

    def _along(self, method: str, parameters: list[str], args: Any, kwargs: Any) -> Any:
        run = self._known(method)
        check_call(f"{self.name}.{method}", parameters, args, kwargs)
        if not isinstance(args[0], StrictArray):
            raise TypeError(f"{self.name}.{method}: Unsupported type {type(args[0])}")
        with quiet():
            result = run(*strip(args, self.name), **{k: strip(v, self.name) for k, v in kwargs.items()})
        return tell(result, kwargs.get("out"))

    def reduce(self, *args: Any, **kwargs: Any) -> Any:
        return self._along("reduce", ["array", "axis", "dtype", "out", "keepdims"], args, kwargs)

    def accumulate(self, *args: Any, **kwargs: Any) -> Any:
        return self._along("accumulate", ["array", "axis", "dtype", "out"], args, kwargs)

    def reduceat(self, *args: Any, **kwargs: Any) -> Any:
        return self._along("reduceat", ["array", "indices", "axis", "dtype", "out"], args, kwargs)


def function(name: str, numpys: Callable[..., Any], parameters: list[str] | None) -> Callable[..., Any]:
    """NumPy's function with CuPy's parameters and refusals."""

    def call(*args: Any, **kwargs: Any) -> Any:
        check_call(name, parameters, args, kwargs)
        for parameter, x in zip(parameters or (), args, strict=False):
            if parameter in ONE_ARRAY and isinstance(x, (list, tuple)):
                raise TypeError(f"{name}: {parameter} must be a device array, not a {type(x).__name__}")
        if name in WAITS:
            syncs.append(name)
        out = kwargs.get("out")
        with quiet():
            result = numpys(*strip(args, name), **{k: strip(v, name) for k, v in kwargs.items()})
        if name in ANSWERS:
            result = np.asarray(result)
        return tell(result, out)

    call.__name__ = name
    return call


# ---- Functions that differ from NumPy's by more than a name ---------------------------------------------


def _from_host(obj: Any, dtype: Any, order: Any, copy: bool | None) -> StrictArray:
    """An array on the device: of a device array perhaps itself, of anything else a copy."""
    check_dtype(dtype)
    if isinstance(obj, StrictArray):
        same = dtype is None or obj.dtype == dtype
        if same and not copy and order in (None, "K", "A"):
            return obj
        return wrap(np.array(strip(obj, "array"), dtype, order=order or "K"))
    if isinstance(obj, (list, tuple)) and any(isinstance(x, StrictArray) for x in obj):
        obj = strip(obj, "array")
    host = np.array(obj, dtype, order=order or "K")
    check_dtype(host.dtype)
    return wrap(host)


def array(
    obj: Any, dtype: Any = None, copy: bool = True, order: str = "K", subok: bool = False, ndmin: int = 0, *, blocking: bool = False
) -> Any:
    made = _from_host(obj, dtype, order, copy)
    return made[(None,) * (ndmin - made.ndim)] if made.ndim < ndmin else made


def asarray(a: Any, dtype: Any = None, order: Any = None, *, copy: bool | None = None, blocking: bool = False) -> Any:
    return _from_host(a, dtype, order, copy)


def ascontiguousarray(a: Any, dtype: Any = None) -> Any:
    made = _from_host(a, dtype, None, None)
    return made if made.flags.c_contiguous else wrap(np.ascontiguousarray(made._a))


def asfortranarray(a: Any, dtype: Any = None) -> Any:
    made = _from_host(a, dtype, None, None)
    return made if made.flags.f_contiguous else wrap(np.asfortranarray(made._a))


def asnumpy(a: Any, stream: Any = None, order: str = "C", out: Any = None, *, blocking: bool = True) -> np.ndarray:
    return a.get(out=out) if isinstance(a, StrictArray) else np.asarray(a)


def get_array_module(*args: Any) -> Any:
    from . import xp

    return xp if any(isinstance(x, StrictArray) for x in args) else np


def empty(shape: Any, dtype: Any = float, order: str = "C") -> Any:
    """Filled with NaN, so that reading it before writing shows."""
    check_dtype(dtype)
    made = np.empty(shape, dtype, order)
    made.fill(np.nan if made.dtype.kind in "fc" else np.iinfo(made.dtype).min if made.dtype.kind in "iu" else True)
    return wrap(made)


def empty_like(prototype: Any, dtype: Any = None, order: str = "K", subok: Any = None, shape: Any = None) -> Any:
    return empty(prototype.shape if shape is None else shape, prototype.dtype if dtype is None else dtype)


def where(condition: Any, x: Any = None, y: Any = None) -> Any:
    if x is None and y is None:
        return condition.nonzero()
    if x is None or y is None:
        raise ValueError("Must provide both 'x' and 'y' or neither.")
    for part in (condition, x, y):
        if not isinstance(part, (StrictArray, *SCALARS)):
            raise TypeError(f"where: Unsupported type {type(part)}")
    return wrap(np.where(strip(condition, "where"), strip(x, "where"), strip(y, "where")))


def repeat(a: Any, repeats: Any, axis: int | None = None) -> Any:
    if isinstance(repeats, StrictArray):
        raise ValueError("cupy.ndarray cannot be specified as `repeats` argument.")
    return wrap(np.repeat(strip(a, "repeat"), strip(repeats, "repeat"), axis))


def matmul(*args: Any, **kwargs: Any) -> Any:
    for x in args:
        if not isinstance(x, StrictArray):
            raise TypeError(f"matmul: Argument has incorrect type (expected ndarray, got {type(x).__name__})")
    return function("matmul", np.matmul, SURFACE["names"]["matmul"])(*args, **kwargs)


def sort(a: Any, axis: int | None = -1, kind: str | None = None) -> Any:
    made = a.ravel() if axis is None else a.copy()
    made.sort(-1 if axis is None else axis, kind)
    return made


def argsort(a: Any, axis: int | None = -1, kind: str | None = None) -> Any:
    return a.argsort(axis, kind)


def solve(a: Any, b: Any) -> Any:
    if b.ndim > 1 and a.shape[:-1] != b.shape[:-1]:
        raise ValueError("a must have (..., M, M) shape and b must have (..., M, K)")
    return function("solve", np.linalg.solve, ["a", "b"])(a, b)


def put_along_axis(arr: Any, indices: Any, values: Any, axis: int | None) -> None:
    np.put_along_axis(strip(arr, "put_along_axis"), strip(indices, "put_along_axis"), strip(values, "put_along_axis"), axis)


class Generator:
    """`cupy.random.Generator`: no normal, permutation, shuffle, choice, multinomial."""

    def __init__(self, seed: Any):
        self._host = np.random.default_rng(seed)

    def __getattr__(self, name: str) -> Any:
        if name not in SURFACE["generator"]:
            raise AttributeError(f"'Generator' object has no attribute {name!r}")
        return function(f"Generator.{name}", getattr(self._host, name), None)


def default_rng(seed: Any = None) -> Generator:
    return Generator(seed)


# ---- The namespace --------------------------------------------------------------------------------------


class Namespace(types.ModuleType):
    """A module that knows CuPy's names and no other."""

    def __getattr__(self, name: str) -> Any:
        if name == "special" and self.__name__ == "strict_cupy":
            import scipy.special

            made = build("strict_cupy.special", scipy.special, SURFACE["special"])
            setattr(self, name, made)
            return made
        raise AttributeError(f"module {self.__name__!r} (CuPy {SURFACE['cupy']}) has no attribute {name!r}")


def build(name: str, numpys: Any, names: dict[str, Any]) -> Namespace:
    """The namespace of a module of CuPy, with NumPy's functions of the same names inside."""
    module = Namespace(name)
    for key, kind in names.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of names that NumPy is about to drop
            value = getattr(numpys, key, None)
        if value is None:
            if key == "newaxis":
                module.newaxis = None  # type: ignore[attr-defined]
        elif isinstance(kind, dict):
            setattr(module, key, build(f"{name}.{key}", value, kind))
        elif kind == "ufunc":
            setattr(module, key, Ufunc(key, value))
        elif isinstance(value, type) or not callable(value):
            setattr(module, key, value)
        else:
            setattr(module, key, function(key, value, kind))
    return module


_OWN = (
    array, asarray, ascontiguousarray, asfortranarray, asnumpy, argsort, empty, empty_like, get_array_module, matmul,
    put_along_axis, repeat, sort, where,
)  # fmt: skip

xp: Any = build("strict_cupy", np, SURFACE["names"])
for _function in _OWN:
    setattr(xp, _function.__name__, _function)
xp.random.default_rng, xp.linalg.solve = default_rng, solve
xp.asanyarray, xp.linalg.matmul, xp.ndarray, xp.ufunc, xp.random.Generator = (asarray, matmul, StrictArray, Ufunc, Generator)
xp.cuda = types.SimpleNamespace(Device=Device, is_available=lambda: True, runtime=types.SimpleNamespace(getDeviceCount=lambda: 2))
