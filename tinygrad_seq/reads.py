"""What a derivative rule reads: found in its own code, so that the tape keeps those arrays and drops the others.

PyTorch's code generator finds it in the formulas of its own ops; here any rule, a user's too, says it itself. `x.shape`, `x.ndim` and `x.dtype` are no reads, the tape
knows them without the array.
"""

from __future__ import annotations

import dis
import inspect
from collections.abc import Callable
from typing import Any

_SHAPE = ("shape", "ndim", "dtype")


def reads(rule: Callable[..., Any], *, saves: bool) -> set[Any]:
    """The positions of the array arguments whose values the rule `(g, y, [saved], *args, **params)` reads, and "y", and "*" for all.

    Of what is no plain function (a partial, a method, a callable object) the code says too little: it counts as reading everything.
    """
    if not inspect.isfunction(rule):
        return {"y", "*"}
    code = rule.__code__
    count = code.co_argcount
    found: set[str] = set()
    instructions = [i for i in dis.get_instructions(rule) if i.opname not in ("CACHE", "NOP")]
    for here, after in zip(instructions, [*instructions[1:], None], strict=True):
        if "FAST" in here.opname or "DEREF" in here.opname or "CLOSURE" in here.opname:
            names = here.argval if isinstance(here.argval, tuple) else (here.argval,)
            only_shape = after is not None and after.opname in ("LOAD_ATTR", "LOAD_METHOD") and after.argval in _SHAPE
            found.update(names[:-1] if only_shape else names)
    first = 3 if saves else 2
    positions: set[Any] = {i - first for i in range(first, count) if code.co_varnames[i] in found}
    if code.co_flags & 0x04 and code.co_varnames[count + code.co_kwonlyargcount] in found:  # *args, and perhaps y among them
        positions.update("*" if count > 1 else ("*", "y"))
    if count > 1 and code.co_varnames[1] in found:
        positions.add("y")
    return positions
