"""How compiled loops are compiled: `pointwise` for loops over elements, `loop` for the time loop that calls them. Needs numba.

LLVM vectorises a loop only if it knows that what it writes is not what it reads next. The arrays that a `pointwise` function is given
never overlap: it may not read and write parts of one array, but may write several parts of one, or read several. Numba has no option
for that promise, so the compiler is given it here.
"""

from __future__ import annotations

from typing import Any

from numba import njit
from numba.core.compiler import Compiler

from .numba_math import FASTMATH

OPTIONS = {"fastmath": FASTMATH, "error_model": "numpy", "boundscheck": False}


class Apart(Compiler):  # type: ignore[misc]
    """Numba's compiler, told that no two array arguments share memory."""

    def __init__(self, typingctx: Any, targetctx: Any, library: Any, args: Any, return_type: Any, flags: Any, locals: Any):
        flags.noalias = True
        super().__init__(typingctx, targetctx, library, args, return_type, flags, locals)


def pointwise(function: Any) -> Any:
    """Compile a loop over elements, all of whose arrays lie apart."""
    return njit(**OPTIONS, pipeline_class=Apart)(function)


def loop(signature: str) -> Any:
    """Compile a loop over steps at once, for arguments of these types, and keep it on disk."""
    return njit(signature, **OPTIONS, cache=True, nogil=True)
