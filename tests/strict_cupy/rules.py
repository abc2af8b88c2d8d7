"""What the double knows without an array: CuPy's names, its devices, what it counts and what it refuses by name."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

SURFACE = json.loads((Path(__file__).parent / "surface.json").read_text(encoding="utf-8"))

syncs: list[str] = []  # every wait for the device that the code did not ask for by `get`: float(), bool(), a boolean mask, ...
uploads: list[str] = []  # every index that came from the host and had to be copied to the device

SCALARS = (bool, int, float, complex, np.generic)


def quiet() -> Any:
    """A device says nothing of overflow, 0 / 0 and the like."""
    return np.errstate(all="ignore")


@contextlib.contextmanager
def no_syncs() -> Iterator[None]:
    """Fail if the body waits for the device, or copies an index to it."""
    before, copied = len(syncs), len(uploads)
    yield
    assert syncs[before:] == [], f"hidden synchronisations: {syncs[before:]}"
    assert uploads[copied:] == [], f"hidden copies to the device: {uploads[copied:]}"


# ---- Devices: an array belongs to one, and only the current one computes --------------------------------


class _Current(threading.local):
    device = 0


current = _Current()


class Device:
    """`cupy.cuda.Device`: two of them here, chosen by a `with` block."""

    def __init__(self, number: int | None = None):
        self.id = current.device if number is None else int(number)
        if self.id not in (0, 1):
            raise RuntimeError("cudaErrorInvalidDevice: invalid device ordinal")
        self._outer: list[int] = []

    def __enter__(self) -> Device:
        self._outer.append(current.device)
        current.device = self.id
        return self

    def __exit__(self, *exc: object) -> None:
        current.device = self._outer.pop()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Device) and self.id == other.id

    def __hash__(self) -> int:
        return self.id

    def __repr__(self) -> str:
        return f"<strict Device {self.id}>"


# ---- Refusals by name


def check_dtype(dtype: Any) -> None:
    """Raise unless a device knows the dtype: numbers and booleans, no objects, no strings."""
    if dtype is not None and np.dtype(dtype).kind not in "biufc":
        raise ValueError(f"Unsupported dtype {np.dtype(dtype)}")


def check_call(who: str, parameters: list[str] | None, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Raise unless CuPy's function has these parameters."""
    if parameters is None:
        check_dtype(kwargs.get("dtype"))
        return
    names = [name for name in parameters if not name.startswith("*")]
    unknown = [name for name in kwargs if name not in names]
    if unknown:
        raise TypeError(f"{who}() got an unexpected keyword argument {unknown[0]!r}")
    if len(names) == len(parameters):
        if len(args) > len(names):
            raise TypeError(f"{who}() takes {len(names)} positional arguments but {len(args)} were given")
        check_dtype({**dict(zip(names, args, strict=False)), **kwargs}.get("dtype"))
