"""Errors that say what was expected, what came, where, and what to do.

Every error of the package is a `TinygradError` and also the builtin that a NumPy user would catch (`ValueError`, `TypeError`,
`IndexError`, ...). Knows nothing of tensors or graphs: callers hand it names, shapes and places.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np


class TinygradError(Exception):
    """The base of every error that this package raises on purpose."""


class ShapeError(TinygradError, ValueError):
    """Shapes or values that do not fit the operation."""


class ArgumentError(TinygradError, TypeError):
    """An argument of the wrong type, dtype or name."""


class UnknownNameError(TinygradError, AttributeError):
    """A name that does not exist here; where PyTorch has it, the message says what it is called."""


class IndexError_(TinygradError, IndexError):
    """An index outside the array."""


class AxisError(TinygradError, ValueError, IndexError):
    """An axis that the array does not have."""


class LinearAlgebraError(TinygradError, np.linalg.LinAlgError):
    """A matrix without the property that the operation needs (it is singular, or not positive definite)."""


class DeviceError(TinygradError, TypeError):
    """Arrays of different devices in one operation, or a device that is not there."""


class GraphError(TinygradError, RuntimeError):
    """A question that the recorded graph cannot answer (a non-scalar backward, an unused input, ...)."""


class InPlaceError(GraphError):
    """An array that a recorded graph still needs was overwritten."""


class AnomalyError(TinygradError, FloatingPointError):
    """The first NaN, or infinity out of finite inputs, found by `detect_anomaly`."""


class MissingDependencyError(TinygradError, ImportError):
    """A package or program that this feature needs is not installed."""


class FileError(TinygradError, OSError):
    """A file that cannot be written, or is not what it should be: damaged, of another kind, or not there."""


class MissingFileError(FileError, FileNotFoundError):
    """A file that is not there."""


# The builtin that NumPy raised decides which of ours the caller sees; subclasses stand before their bases.
_TWINS: tuple[tuple[type[Exception], type[TinygradError]], ...] = (
    (np.linalg.LinAlgError, LinearAlgebraError),
    (np.exceptions.AxisError, AxisError),
    (IndexError, IndexError_),
    (ValueError, ShapeError),
    (TypeError, ArgumentError),
)


class _Nothing:
    def __repr__(self) -> str:
        return "nothing"


NOTHING = _Nothing()  # stands for an argument that the caller forgot, until the op's own error shows it


def describe(value: Any) -> str:
    """One argument in a few words: `float32 (3, 4)` for an array, its repr for anything short."""
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if shape is not None and dtype is not None:
        return f"{dtype} {tuple(shape)}"
    text = repr(value)
    return text if len(text) <= 60 else f"{type(value).__name__} {text[:50]}..."


def nowhere() -> str:
    """Outside every frame."""
    return ""


here: Callable[[], str] = nowhere  # where on the tape this thread is; `frames` puts its knowledge in


def message(headline: str, **lines: str) -> str:
    """A headline and, beneath it, the aligned lines that are not empty: expected, got, where (this thread is, unless told), do."""
    lines.setdefault("where", here())
    lines["do"] = lines.pop("do", "")  # the advice stands last
    width = max((len(name) for name, text in lines.items() if text), default=0) + 1
    return "\n".join([headline, *(f"  {name + ':':<{width}} {text}" for name, text in lines.items() if text)])


_WRONG_TYPES = "not defined for these types"
_NO_BROADCAST = "the shapes do not broadcast against each other"
_PLAIN = {  # what NumPy says of its own insides, and what it means to whoever called the op
    r"operands could not be broadcast .*|shape mismatch: .*|non-broadcastable .*|could not broadcast .*": _NO_BROADCAST,
    r".*mismatch in its core dimension.*\(size (\d+) is different from (\d+)\)": r"the inner sizes differ: \2 and \1",
    r"shapes .* not aligned: (\d+) \(dim \d+\) != (\d+) \(dim \d+\)": r"the inner sizes differ: \1 and \2",
    r".*does not have enough dimensions.*": "a scalar has no rows or columns to multiply",
    r"ufunc .*|unsupported operand type.*|bad operand type.*|.*numpy boolean .*": _WRONG_TYPES,
    r"'(\w+)' object cannot be interpreted as an integer": r"a \1 where an integer belongs",
    r"zero-size array to reduction.*": "an empty array has none",
    r"diag requires an array of at least two dimensions": "too few axes",
    r"Last 2 dimensions of the array must be square": "the matrices are not square",
    r"cannot select an axis to squeeze out.*": "only an axis of size 1 can be removed",
    r"can only specify one unknown dimension": "only one size can be -1",
    r"all the input arrays must have same number .* index (\d+) has (\d+) .* index (\d+) has (\d+) .*": r"array \1 has \2 axes, array \3 has \4",
    r"all the input array dimensions.* dimension (\d+),.* index (\d+) has size (\d+) and .* index (\d+) has size (\d+)": (
        r"along axis \1 array \2 has size \3, array \4 has \5"
    ),
    r"too many indices for array: array is (\d+)-dimensional, but (\d+) were indexed": r"\2 indices for \1 axes",
    r"boolean index did not match.* axis (\d+); size of axis is (\d+) .* axis is (\d+)": r"the mask has size \3 along axis \1, the array \2",
    r"only integers, slices .* are valid indices": "this is no index",
}


def _plainly(reason: str) -> str:
    for pattern, plain in _PLAIN.items():
        if re.fullmatch(pattern, reason, re.DOTALL):
            return re.sub(pattern, plain, reason, flags=re.DOTALL)
    return reason


def op_error(
    op: str, names: Sequence[str], args: Sequence[Any], params: Mapping[str, Any], cause: Exception, *, expects: str, where: str
) -> TinygradError:
    """What an op raises in place of `cause`: its name, what it expects, every argument it got, and the frame."""
    if isinstance(cause, TinygradError) and (str(cause).startswith(f"{op}:") or "\n" in str(cause)):
        return cause  # it says it all
    shown = [f"{name} {describe(value)}" for name, value in zip(names, args, strict=False)][:6]
    if len(args) > 6:
        shown.append(f"... {len(args)} arguments in all")
    shown += [f"{name}={describe(value)}" for name, value in params.items()]
    kind = next((ours for theirs, ours in _TWINS if isinstance(cause, theirs)), ShapeError)
    if isinstance(cause, TinygradError):
        kind = type(cause)
    if isinstance(cause, np.exceptions.AxisError) and getattr(cause, "ndim", None) is not None:
        cause, expects = np.exceptions.AxisError(f"axis {cause.axis} is out of bounds"), f"-{cause.ndim} <= axis < {cause.ndim}"
    reason = _plainly(str(cause).strip()) or type(cause).__name__
    expects = "Tensors, arrays or numbers" if reason == _WRONG_TYPES else expects
    return kind(message(f"{op}: {reason}", expected=expects, got=", ".join(shown), where=where or here()))
