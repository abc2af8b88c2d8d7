"""NumPy or CuPy: whose array is this, how does it move, who creates new ones. The only place that imports cupy.

An op writes `np.tanh(x)` and a CuPy array redirects it by itself; what has no array to redirect (creation) or no NumPy
twin asks `array_module(x)`. A further array library (a test double, say) joins by `register`.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import numpy as np

from .errors import ArgumentError, DeviceError, MissingDependencyError, message

Array = Any  # numpy.ndarray or cupy.ndarray: the two share one interface, not one type

_modules: dict[type, Any] = {np.ndarray: np}
_devices: dict[str, Any] = {"cpu": np}


def register(array_type: type, module: Any, device: str) -> None:
    """Make `array_type`, whose functions live in `module`, known as the arrays of `device`."""
    _modules[array_type] = module
    _devices[device] = module


def _load_cupy() -> Any:
    """Import CuPy and register it; an error that says what to do where it, or a device, is missing."""
    try:
        import cupy
    except ImportError as cause:
        raise MissingDependencyError(
            message(
                "device 'cuda': CuPy is not installed",
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


def is_array(x: Any) -> bool:
    """Whether `x` is an array of a known library (NumPy scalars and Python numbers are not)."""
    if type(x) in _modules:
        return True
    if isinstance(x, np.ndarray):
        return True
    if type(x).__module__.startswith("cupy") and "cupy" in sys.modules and hasattr(x, "__cuda_array_interface__"):
        _load_cupy()
        return type(x) in _modules
    return False


def array_module(*arrays: Any) -> Any:
    """The library (numpy, cupy) that owns the first known array among the arguments; numpy for plain numbers."""
    for x in arrays:
        module = _modules.get(type(x))
        if module is not None:
            return module
        if is_array(x):
            return _modules.get(type(x), np)
    return np


def module_of_device(device: str) -> Any:
    """The array library of a device name: 'cpu', 'cuda' or 'cuda:N'."""
    name = device.partition(":")[0] if isinstance(device, str) else device
    if name in _devices:
        return _devices[name]
    if name == "cuda":
        return _load_cupy()
    raise ArgumentError(message(f"device {device!r} is not known", expected=f"one of {[*_devices, 'cuda', 'cuda:N']}"))


def device_of(x: Any) -> str:
    """The name of the device that holds the array: 'cpu', 'cuda:0', ..."""
    module = array_module(x)
    if module is np:
        return "cpu"
    name = next(name for name, known in _devices.items() if known is module)
    number = getattr(getattr(x, "device", None), "id", None)
    return name if number is None else f"{name}:{number}"


def to_device(x: Array, device: str) -> Array:
    """The array on `device`: itself where it already is there, else a copy."""
    module = module_of_device(device)
    if array_module(x) is module and device in (device_of(x), device_of(x).partition(":")[0]):
        return x
    host = to_numpy(x)
    if module is np:
        return host
    _, _, number = device.partition(":")
    if number:
        with module.cuda.Device(int(number)):
            return module.asarray(host)
    return module.asarray(host)


def to_numpy(x: Any) -> np.ndarray[Any, Any]:
    """The values as a NumPy array: itself, or a copy from its device."""
    return np.asarray(x) if array_module(x) is np else x.get()


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


def modules() -> list[ModuleType]:
    """Every array library in use so far."""
    return list(_devices.values())
