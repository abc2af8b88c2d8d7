"""What CuPy offers: its names, their parameters and its ufuncs' methods, read from an installed CuPy without a device.

    python tools/cupy_surface.py            write tests/strict_cupy/surface.json
    python tools/cupy_surface.py --check    say whether the file agrees with the installed CuPy

The strict test double is built from this file, so tests need no CuPy. Compiled functions carry no signature for `inspect`, but
their docstrings begin with one.
"""

from __future__ import annotations

import argparse
import ctypes
import inspect
import json
import re
import sys
import warnings
from pathlib import Path
from typing import Any

PATH = Path(__file__).resolve().parent.parent / "tests" / "strict_cupy" / "surface.json"
MODULES = ("fft", "lib", "linalg", "random", "stride_tricks")
UFUNC_METHODS = ("accumulate", "at", "outer", "reduce", "reduceat")


def parameters(f: Any) -> list[str] | None:
    """The parameter names of a function; None where it takes any keyword, does not say, or is NumPy's own."""
    if (getattr(f, "__module__", None) or "").partition(".")[0] == "numpy":
        return None
    try:
        given = inspect.signature(f).parameters.values()
    except (ValueError, TypeError):
        return _from_docstring(f)
    if any(p.kind is p.VAR_KEYWORD for p in given):
        return None
    return [("*" if p.kind is p.VAR_POSITIONAL else "") + p.name for p in given]


def _from_docstring(f: Any) -> list[str] | None:
    """`_ndarray_base.sort(self, int axis=-1, kind=None)` -> ["self", "axis", "kind"]."""
    found = re.match(r"[\w.]+\((.*?)\)(?: ->.*)?$", (f.__doc__ or "").partition("\n")[0])
    if found is None or "**" in found[1]:
        return None
    names = [part.partition("=")[0].split()[-1] for part in found[1].split(",") if part.strip()]
    return [name for name in names if name not in ("*", "/")]


def names_of(module: Any, ufunc: type, depth: int = 0) -> dict[str, Any]:
    """Each public name of a module: "ufunc", a list of parameters, null where unknown, or the names of a module inside."""
    found: dict[str, Any] = {}
    for name in dir(module):
        value = None if name.startswith("_") else getattr(module, name, None)
        if value is None and name != "newaxis":
            continue
        if isinstance(value, ufunc):
            found[name] = "ufunc"
        elif inspect.ismodule(value):
            if depth < 2 and name in MODULES:
                found[name] = names_of(value, ufunc, depth + 1)
        else:
            found[name] = parameters(value) if callable(value) and not isinstance(value, type) else None
    return found


def methods_of(kind: type) -> dict[str, list[str] | None]:
    """The public methods of a class with their parameters; null marks an attribute."""
    found = {name: getattr(kind, name) for name in dir(kind) if not name.startswith("_")}
    listed = {name: parameters(value) if callable(value) else None for name, value in found.items()}
    return {name: None if names is None else [n for n in names if n != "self"] for name, names in listed.items()}


def hollow(cupy: Any, shape: tuple[int, ...], dtype: str) -> Any:
    """An array to ask questions of: with a device a real one, else one whose memory lies on the host and is never touched."""
    if cupy.cuda.is_available():
        return cupy.zeros(shape, dtype)
    size = 4096
    memory = ctypes.create_string_buffer(size)
    pointer = cupy.cuda.MemoryPointer(cupy.cuda.UnownedMemory(ctypes.addressof(memory), size, memory, 0), 0)
    return cupy.ndarray(shape, dtype, pointer)


def methods_of_ufuncs(cupy: Any, ufuncs: list[str]) -> dict[str, list[str]]:
    """For each method of a ufunc, the ufuncs that have it. Asked by calling: the others say that it is not supported."""
    x, at = hollow(cupy, (2,), "int32"), hollow(cupy, (2,), "int64")
    arguments = {"at": (x, at, 1), "reduceat": (x, at), "outer": (x, x), "reduce": (x,), "accumulate": (x,)}
    found: dict[str, list[str]] = {method: [] for method in UFUNC_METHODS}
    for name in ufuncs:
        f = getattr(cupy, name)
        for method in UFUNC_METHODS:
            try:
                getattr(f, method)(*arguments[method])
            except (NotImplementedError, AttributeError, ValueError, TypeError):
                continue
            except Exception:  # it is supported, only the device is missing
                pass
            found[method].append(name)
    return found


def surface() -> dict[str, Any]:
    """Everything that the double needs to know of the installed CuPy."""
    import cupy
    import cupyx.scipy.special

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        names = names_of(cupy, cupy.ufunc)
        return {
            "cupy": cupy.__version__,
            "names": names,
            "ndarray": methods_of(cupy.ndarray),
            "operators": [name for name in dir(cupy.ndarray) if name.startswith("__")],
            "generator": [name for name in dir(cupy.random.Generator) if not name.startswith("_")],
            "special": names_of(cupyx.scipy.special, cupy.ufunc),
            "ufunc_methods": methods_of_ufuncs(cupy, [name for name, kind in names.items() if kind == "ufunc"]),
        }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="compare instead of writing; exit 1 where they differ")
    if parser.parse_args().check:
        known, found = json.loads(PATH.read_text(encoding="utf-8")), surface()
        differing = [part for part in found if found[part] != known.get(part)]
        print(f"differs in: {', '.join(differing)}" if differing else f"agrees with CuPy {found['cupy']}")
        return bool(differing)
    PATH.write_text(json.dumps(surface(), indent=0, sort_keys=True) + "\n", encoding="utf-8", newline="\n")
    print(f"wrote {PATH.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
