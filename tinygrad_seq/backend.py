"""NumPy or CuPy: whose array is this, how does it move, who creates new ones. The only place that imports cupy.

An op writes `np.tanh(x)` and a CuPy array redirects it by itself; what has no array to redirect (creation) or no NumPy
twin asks `array_module(x)`. A further array library (a test double, say) joins by `register`.

With several GPUs CuPy computes on its current device: work on the arrays of 'cuda:1' inside `with cupy.cuda.Device(1):`.
"""

from __future__ import annotations

import sys
from functools import cache
from typing import Any

import numpy as np

from .errors import ArgumentError, DeviceError, MissingDependencyError, message

Array = Any  # numpy.ndarray or cupy.ndarray: the two share one interface, not one type

array_types: dict[type, Any] = {np.ndarray: np}  # and the library of each
_devices: dict[str, Any] = {"cpu": np}


def register(array_type: type, module: Any, device: str) -> None:
    """Make `array_type`, whose functions live in `module`, known as the arrays of `device`."""
    array_types[array_type] = module
    _devices[device] = module


def forget(device: str) -> None:
    """Undo `register`: the arrays of `device` are no arrays any more."""
    module = _devices.pop(device)
    for array_type in [kind for kind, known in array_types.items() if known is module]:
        del array_types[array_type]


def devices() -> list[str]:
    """The names of the devices in use so far."""
    return list(_devices)


def _load_cupy() -> Any:
    """Import CuPy and register it; an error that says what to do where it, or a device, is missing."""
    try:
        import cupy
    except ImportError as cause:
        absent = isinstance(cause, ModuleNotFoundError) and cause.name == "cupy"
        raise MissingDependencyError(
            message(
                "device 'cuda': CuPy " + ("is not installed" if absent else f"cannot be imported: {cause}"),
                expected="an NVIDIA device, its driver and CuPy",
                do="pip install 'tinygrad_seq[cuda13]' (or [cuda12]), or stay on device 'cpu'",
            )
        ) from cause
    if not cupy.cuda.is_available():
        raise DeviceError(
            message(
                "device 'cuda': CuPy is installed but finds no device",
                expected="an NVIDIA device with its driver",
                do="check `nvidia-smi`, or stay on device 'cpu'",
            )
        )
    register(cupy.ndarray, cupy, "cuda")
    return cupy


# ---- Whose array -----------------------------------------------------------------------------------------------------------------


def is_array(x: Any) -> bool:
    """Whether `x` is an array of a known library (NumPy scalars and Python numbers are not)."""
    kind = type(x)
    if kind in array_types or isinstance(x, np.ndarray):
        return True
    if kind.__module__.partition(".")[0] != "cupy":
        return False
    cupy = sys.modules.get("cupy")  # whoever holds an array of CuPy has imported it
    if cupy is None or not isinstance(x, cupy.ndarray):
        return False
    register(kind, cupy, "cuda")
    return True


def array_module(*arrays: Any) -> Any:
    """The library (numpy, cupy) that owns the first known array among the arguments; numpy for plain numbers."""
    for x in arrays:
        module = array_types.get(type(x))
        if module is not None:
            return module
        if is_array(x):
            return array_types.get(type(x), np)
    return np


def module_of_device(device: str) -> Any:
    """The array library of a device name: 'cpu', 'cuda' or 'cuda:N'."""
    name, _ = _parsed(device)
    return _devices[name] if name in _devices else _load_cupy()


def device_of(x: Any) -> str:
    """The name of the device that holds the array: 'cpu', 'cuda:0', ..."""
    module = array_module(x)
    if module is np:
        return "cpu"
    name = next(name for name, known in _devices.items() if known is module)
    return f"{name}:{x.device.id}"


def computes(x: Array) -> bool:
    """Whether the device of the array is the one that computes now; CuPy has a current device, NumPy but one."""
    module = array_module(x)
    return module is np or bool(module.cuda.Device().id == x.device.id)


def _parsed(device: Any) -> tuple[str, int | None]:
    """'cuda:1' -> ('cuda', 1); an error for what names no device."""
    if isinstance(device, str):
        name, colon, number = device.partition(":")
        if (name in _devices or name == "cuda") and (not colon or (number.isdecimal() and name != "cpu")):
            return name, int(number) if colon else None
    known = [
        "'cpu'",
        *(f"'{name}', '{name}:N'" for name in dict.fromkeys(["cuda", *_devices]) if name != "cpu"),
    ]
    raise ArgumentError(message(f"device {device!r} is not known", expected=", ".join(known)))


@cache
def keep_freed_memory() -> None:
    """Teach the C library to keep what a step frees for the next one, up to 62 MiB, instead of asking the system for it page by page.

    GNU's malloc grows its limits to the largest block that it has seen freed, so one block is allocated and freed, never touched.
    """
    np.empty(31 * 2**20, np.uint8)  # it learns from blocks up to 32 MiB


# ---- Moving ------------------------------------------------------------------------------------------------------------------------


def to_device(x: Array, device: str) -> Array:
    """The array on `device`: itself where it already is there, else a copy. 'cuda' is the GPU that is current, 'cuda:N' the N-th."""
    module, (_, number) = module_of_device(device), _parsed(device)
    here = array_module(x)
    if here is module and (number is None or number == x.device.id):
        return x
    if module is np:
        return to_numpy(x)
    if number is None:
        return module.asarray(to_numpy(x))
    if number >= module.cuda.runtime.getDeviceCount():
        raise DeviceError(
            message(
                f"device {device!r}: there is no such device",
                expected=f"a number below {module.cuda.runtime.getDeviceCount()}",
                do="nvidia-smi lists the devices",
            )
        )
    with module.cuda.Device(number):
        return module.asarray(to_numpy(x))


def to_numpy(x: Any) -> np.ndarray[Any, Any]:
    """The values as a NumPy array: itself, or a copy from its device."""
    return np.asarray(x) if array_module(x) is np else x.get()


_halves = {np.dtype(name): np.array(0.5, name) for name in ("float16", "float32", "float64")}


def half(like: Any) -> Any:
    """The number 1/2 in the form that multiplies `like` fastest: NumPy converts a bare number anew at each use."""
    return _halves.get(like.dtype, 0.5) if type(like) is np.ndarray else 0.5


def special(x: Any) -> Any:
    """The special functions that the array's library has no name for itself: scipy.special or its CuPy twin."""
    module = array_module(x)
    if module is np:
        import scipy.special

        return scipy.special
    if module.__name__ == "cupy":
        import cupyx.scipy.special

        return cupyx.scipy.special
    return module.special
