"""Errors that say what was expected, what came, where, and what to do.

Every error of the package is a `TinygradError` and also the builtin that a NumPy user would catch (`ValueError`, `TypeError`,
`IndexError`, ...). Knows nothing of tensors or graphs: callers hand it names, shapes and places.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
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


# The builtin that NumPy raised decides which of ours the caller sees; subclasses stand before their bases.
_TWINS: tuple[tuple[type[Exception], type[TinygradError]], ...] = (
    (np.linalg.LinAlgError, LinearAlgebraError),
    (np.exceptions.AxisError, AxisError),
    (IndexError, IndexError_),
    (ValueError, ShapeError),
    (TypeError, ArgumentError),
)


def describe(value: Any) -> str:
    """One argument in a few words: `float32 (3, 4)` for an array, its repr for anything short."""
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if shape is not None and dtype is not None:
        return f"{dtype} {tuple(shape)}"
    text = repr(value)
    return text if len(text) <= 60 else f"{type(value).__name__} {text[:50]}..."


def message(headline: str, **lines: str) -> str:
    """A headline and, beneath it, the aligned lines that are not empty (expected, got, where, do)."""
    width = max((len(name) for name, text in lines.items() if text), default=0) + 1
    return "\n".join([headline, *(f"  {name + ':':<{width}} {text}" for name, text in lines.items() if text)])


_WRONG_TYPES = "not defined for these types"
# What NumPy says of its own insides, and what it means to whoever called the op.
_PLAIN = (
    (r"operands could not be broadcast together with (remapped )?shapes.*", "the shapes do not broadcast against each other"),
    (r"shape mismatch: objects cannot be broadcast.*", "the shapes do not broadcast against each other"),
    (r".*has a mismatch in its core dimension.*\(size (\d+) is different from (\d+)\)", r"the inner sizes differ: \2 and \1"),
    (r".*does not have enough dimensions.*", "a scalar has no rows or columns to multiply"),
    (r"ufunc .*|unsupported operand type.*|bad operand type.*|The .* operator, .*", _WRONG_TYPES),
    (r"non-broadcastable output operand.*|could not broadcast input array.*", "the shapes do not broadcast against each other"),
)


def _plainly(reason: str) -> str:
    for pattern, plain in _PLAIN:
        if re.fullmatch(pattern, reason, re.DOTALL):
            return re.sub(pattern, plain, reason, flags=re.DOTALL)
    return reason


def op_error(
    op: str, names: Sequence[str], args: Sequence[Any], params: Mapping[str, Any], cause: Exception, *, expects: str, where: str
) -> TinygradError:
    """What an op raises in place of `cause`: its name, what it expects, every argument it got, and the frame."""
    if isinstance(cause, TinygradError) and str(cause).startswith(f"{op}:"):
        return cause
    shown = [f"{name} {describe(value)}" for name, value in zip(names, args, strict=False)][:6]
    if len(args) > 6:
        shown.append(f"... {len(args)} arguments in all")
    shown += [f"{name}={describe(value)}" for name, value in params.items()]
    kind = next((ours for theirs, ours in _TWINS if isinstance(cause, theirs)), ShapeError)
    if isinstance(cause, TinygradError):
        kind = type(cause)
    reason = _plainly(str(cause).strip()) or type(cause).__name__
    expects = "Tensors, arrays or numbers" if reason == _WRONG_TYPES else expects
    return kind(message(f"{op}: {reason}", expected=expects, got=", ".join(shown), where=where))
