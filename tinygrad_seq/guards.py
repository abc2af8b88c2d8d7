"""What keeps the tape honest: overwritten arrays are noticed, anomalies found, and failing ops explained.

Everything here runs on slow paths only. The clock of the tape doubles as a version: memory that was overwritten after a node
was recorded is younger than the node, so the check costs one comparison per node as long as nothing was overwritten.
"""

from __future__ import annotations

import linecache
import sys
import weakref
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from . import backend, errors, twins
from .errors import AnomalyError, DeviceError, InPlaceError, ShapeError, message
from .frames import thread, tick

# ---- In-place safety ----------------------------------------------------------------------------------------------------------

_writes: dict[int, tuple[Any, int]] = {}  # id of the array that owns the memory -> (weak reference to it, when)
last_write = 0


def owner(array: Any) -> Any:
    """The array that owns the memory of a view."""
    while getattr(array, "base", None) is not None and backend.is_array(array.base):
        array = array.base
    return array


def wrote(array: Any) -> None:
    """Note that the memory of `array` was overwritten now, so that older nodes that need it refuse to differentiate."""
    global last_write
    if thread.modes.tracing is not None:
        thread.modes.tracing.refuse(
            f"it writes into an array in place, {errors.describe(array)}",
            expected="new arrays",
            do="tg.where(mask, new, old) or tg.concatenate makes one; what changes from step to step belongs into the state",
        )
    memory = owner(array)
    key = id(memory)
    known = _writes.get(key)
    last_write = tick()
    reference = known[0] if known and known[0]() is memory else weakref.ref(memory, lambda _: _writes.pop(key, None))
    _writes[key] = (reference, last_write)


def numbers_read(value: Any, *, detached: bool = False) -> None:
    """Note that the numbers of a value leave the tape: a tracer cannot follow them any further."""
    if thread.modes.tracing is not None:
        thread.modes.tracing.read(value, detached=detached)


def check_unwritten(node: Any, inputs: Sequence[Any] | None = None) -> None:
    """Raise if an array that the rules of `node` may read, or one of its `inputs`, was overwritten after the node was recorded."""
    if node.prim is None:
        return
    saved = getattr(node, "saved", None)
    arrays = [
        *zip(labels(node.prim, node.args), node.raw if inputs is None else inputs, strict=False),
        *(("its output", out) for out in (node.out if isinstance(node.out, tuple) else (node.out,))),
        *(("what it saved", part) for part in (saved if isinstance(saved, tuple) else (saved,))),
    ]
    for label, array in arrays:
        if not backend.is_array(array):
            continue
        memory = owner(array)
        reference, when = _writes.get(id(memory), (None, 0))
        if reference is not None and reference() is memory and when > node.order:
            raise InPlaceError(
                message(
                    f"{node.prim.name}: {label} {errors.describe(array)} was overwritten after it was recorded",
                    expected="the values that the forward pass saw, which the derivative needs",
                    where=str(node.frame or ""),
                    do="call backward before the change (an optimizer step is one), record the graph anew after it, "
                    "or use a copy: x.detach().copy()",
                )
            )


def check_shape(g: Any, shape: tuple[int, ...]) -> None:
    """Raise if a derivative rule returned a gradient that is not shaped like its argument."""
    if g.shape != shape:
        raise ShapeError(
            message(
                f"backward: a gradient of shape {g.shape} arrived at a tensor of shape {shape}",
                expected="from every derivative rule a cotangent of its argument's shape",
                do="tg.testing.check_grads(f, arguments) tries the rules of an op; sum_to and broadcast_to make shapes fit",
            )
        )


# ---- Anomalies ------------------------------------------------------------------------------------------------------------------


def anomaly(inputs: Iterable[Any], outputs: Iterable[Any]) -> str | None:
    """What is wrong with the outputs: 'NaN', 'infinity' where every input was finite (a causal mask is none); else None."""
    outputs = [x for x in outputs if backend.is_array(x) and x.dtype.kind == "f"]
    if any(bool(np.isnan(x).any()) for x in outputs):
        return "NaN"
    if any(bool(np.isinf(x).any()) for x in outputs):
        numbers = [np.asarray(x) if isinstance(x, float) else x for x in inputs]
        finite = all(bool(np.isfinite(x).all()) for x in numbers if backend.is_array(x) and x.dtype.kind == "f")
        return "infinity" if finite else None
    return None


def check_forward(prim: Any, args: Sequence[Any], inputs: list[Any], out: Any) -> None:
    """Raise `AnomalyError` if the op just run made the first NaN, or an infinity from finite inputs. A tracer only looks on."""
    if thread.modes.tracing is not None:
        thread.modes.tracing.saw(prim, args)
        return
    found = anomaly(inputs, out if isinstance(out, tuple) else (out,))
    if found:
        raise AnomalyError(
            message(
                f"{prim.name}: the first {found} of the forward pass",
                got=", ".join(
                    f"{name} {errors.describe(x)}{_range(x)}" for name, x in zip(labels(prim, args), inputs, strict=False)
                ),
                where=str(thread.modes.frame or ""),
                line=user_line(),
            )
        )


def check_backward(node: Any, label: str, incoming: Iterable[Any], contribution: Any) -> None:
    """Raise `AnomalyError` if a derivative rule just made the first NaN, or an infinity from finite inputs."""
    found = anomaly([*incoming, *node.raw, node.out], [contribution])
    if found:
        raise AnomalyError(
            message(
                f"{node.prim.name}: the first {found} of the backward pass, in the gradient of its argument {label}",
                got=", ".join(
                    f"{name} {errors.describe(x)}{_range(x)}"
                    for name, x in zip(labels(node.prim, node.args), node.raw, strict=False)
                ),
                where=str(node.frame or ""),
                line=getattr(node, "source", None)
                or "recorded outside detect_anomaly(); record the graph inside it to see the line",
            )
        )


def _range(x: Any) -> str:
    if not backend.is_array(x) or x.dtype.kind != "f" or x.size == 0:
        return ""
    return f" in [{float(x.min()):.3g}, {float(x.max()):.3g}]"


def user_line() -> str:
    """The innermost line of the call stack that lies outside this package; none for a tracer, which runs at every call of `scan`."""
    if thread.modes.tracing is not None:
        return ""
    at = sys._getframe(1)
    while at.f_back is not None and str(at.f_globals.get("__name__", "")).partition(".")[0] == __package__:
        at = at.f_back
    text = linecache.getline(at.f_code.co_filename, at.f_lineno).strip()
    return f"{at.f_code.co_filename}:{at.f_lineno}" + (f": {text}" if text else "")


# ---- Failing ops ----------------------------------------------------------------------------------------------------------------


def labels(prim: Any, args: Sequence[Any]) -> list[str]:
    """What to call the arguments in a message: the op's own names, with the names that the user gave to the values."""
    variadic = prim.arrays == float("inf")
    names = [f"array {i}" for i in range(len(args))] if variadic else prim.names[: len(args)]
    given = [a.notes_of().name if hasattr(a, "notes_of") else getattr(a, "name", None) for a in args]
    return [f"{n} {g!r}" if isinstance(g, str) else n for n, g in zip(names, given, strict=False)]


def foreign(prim: Any) -> bool:
    """Whether the op is the user's own, whose inner traceback helps."""
    return not str(prim.function.__module__).startswith(f"{__package__}.")


def explain(prim: Any, args: Sequence[Any], inputs: list[Any], params: dict[str, Any], cause: Exception) -> Exception:
    """The error for the user instead of NumPy's; an error that is no input's fault passes as it is."""
    if not isinstance(cause, (ValueError, TypeError, IndexError, errors.TinygradError)):
        return cause
    names, where = labels(prim, args), str(thread.modes.frame or "")
    if twins.is_wrong_call(cause):
        return twins.wrong_call(prim.function, params, cause)
    arrays = [(name, x) for name, x in zip(names, inputs, strict=False) if backend.is_array(x)]
    devices = {backend.device_of(x) for _, x in arrays}
    if len(devices) == 1 and not backend.computes(arrays[0][1]):
        (device,) = devices
        return DeviceError(
            message(
                f"{prim.name}: its arguments live on {device}, which is not the current device",
                got=", ".join(f"{name} {errors.describe(x)}" for name, x in arrays),
                where=where,
                do=f"work inside `with cupy.cuda.Device({device.partition(':')[2]}):`",
            )
        )
    if len(devices) < 2:
        return errors.op_error(prim.name, names, inputs, params, cause, expects=prim.expects, where=where)
    return DeviceError(
        message(
            f"{prim.name}: its arguments live on different devices",
            expected="all on one device",
            got=", ".join(f"{name} {errors.describe(x)} on {backend.device_of(x)}" for name, x in arrays),
            where=where,
            do=f"move one of them, for example x.to({max(devices)!r})",
        )
    )
