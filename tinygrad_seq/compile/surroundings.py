"""What a step refers to besides its arguments: the values around a function, its globals, the attributes of a cell.

Looked at before and after a step is traced, it shows what the step changes outside itself: a counter, a list, an attribute; such a step must
run at every moment. Looked at in the next call, it shows whether the equations found before still hold, so that the step need not be traced.
"""

from __future__ import annotations

import random
import types
from collections import deque
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np

from ..graph import Value
from ..primitives import Primitive

MOST = 2000  # things that are looked at
_PLAIN = (type(None), bool, int, float, complex, str, bytes, type(Ellipsis), np.generic, np.dtype)
_PACKAGE = __package__.partition(".")[0]


class Surroundings:
    """What is around a step. `key` compares equal as long as nothing changed; `certain`, whether everything could be looked at."""

    def __init__(self, step: Callable[..., Any]):
        self.seen: dict[int, int] = {}
        self.values: list[Value] = []
        self.certain = True
        self.goes_on = False  # whether there is an iterator, which moves on without a trace
        self.key = self._of(step)

    def _of(self, x: Any) -> Any:
        """The part of the key that stands for x."""
        if isinstance(x, _PLAIN):
            return (type(x), x) if x == x else (type(x), repr(x))
        if isinstance(x, types.ModuleType):
            return (x, random.getstate()) if x is random else x
        if _is_ours(x):
            return x
        if isinstance(x, Value):
            self.values.append(x)
            return id(x), x.node is None
        if id(x) in self.seen:
            return "again", self.seen[id(x)]
        self.seen[id(x)] = len(self.seen)
        if len(self.seen) > MOST:
            self.certain = False
            return id(x)
        if isinstance(x, (tuple, list, set, frozenset)):
            return (type(x), *map(self._of, x))
        if isinstance(x, dict):
            return (dict, *((self._of(k), self._of(v)) for k, v in x.items()))
        if isinstance(x, partial):
            return (partial, self._of(x.func), self._of(x.args), self._of(x.keywords))
        if isinstance(x, types.MethodType):
            return (types.MethodType, self._of(x.__func__), self._of(x.__self__))
        if isinstance(x, types.FunctionType) and not _is_op(x):
            return self._of_function(x)
        if isinstance(x, type):
            return (x, *(self._of(a) for kind in x.__mro__ for a in _attributes(kind)))
        if isinstance(x, types.BuiltinFunctionType):
            return (x.__name__, x if isinstance(x.__self__, types.ModuleType) else self._of(x.__self__))
        if _is_op(x):
            return x, self._of(x.primitive.function)
        if isinstance(x, random.Random):
            return id(x), x.getstate()
        if type(x).__name__ == "RandomState":
            return id(x), repr(x.get_state()[1:3]), x.get_state()[1].tobytes()
        if isinstance(x, np.random.Generator):
            return id(x), repr(x.bit_generator.state)
        if hasattr(type(x), "__next__"):
            self.goes_on = True
        if isinstance(x, deque):
            return (deque, *map(self._of, x))
        if isinstance(x, np.ndarray) or not hasattr(x, "__dict__"):
            self.certain = False  # its numbers may change, and nobody would see it
            return id(x)
        attributes = ((name, self._of(a)) for name, a in vars(x).items() if name != "_named")  # a module names its weights once
        return (type(x), *attributes, *(self._of(a) for kind in type(x).__mro__ for a in _attributes(kind)))

    def _of_function(self, f: types.FunctionType) -> Any:
        around = [_content(cell) for cell in f.__closure__ or ()]
        names = _names(f.__code__)
        used = [f.__globals__[name] for name in names if name in f.__globals__]
        used += [vars(m)[name] for m in (*around, *used) if _is_foreign(m) for name in names if name in vars(m)]  # settings.GAIN
        random: Any = np.random
        drawn = random.get_state()[1:3] if "random" in _names(f.__code__) and np in f.__globals__.values() else None
        parts = (f.__defaults__, f.__kwdefaults__, f.__dict__, drawn and (drawn[0].tobytes(), drawn[1]))
        return (f.__code__, *map(self._of, around), *map(self._of, used), *map(self._of, parts))


def _is_ours(x: Any) -> bool:
    """Whether x is a function of this package or of NumPy, which do not change; one made within another may have something around it."""
    if isinstance(x, np.ufunc):
        return True
    home = (getattr(x, "__module__", None) or "").partition(".")[0]
    return isinstance(x, types.FunctionType) and home in (_PACKAGE, "numpy") and "<locals>" not in x.__qualname__


def _is_op(x: Any) -> bool:
    """Whether x is an op; an object may say yes to any name that it is asked for."""
    return isinstance(getattr(x, "primitive", None), Primitive)


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not assigned yet
        return None


@cache
def _names(code: types.CodeType) -> tuple[str, ...]:
    """The names that a function may look up among the globals, functions within it included."""
    inner = [name for c in code.co_consts if isinstance(c, types.CodeType) for name in _names(c)]
    return tuple(dict.fromkeys([*code.co_names, *inner]))


def _is_foreign(x: Any) -> bool:
    """Whether x is a module that may hold settings of the user's."""
    return isinstance(x, types.ModuleType) and x.__name__.partition(".")[0] not in (_PACKAGE, "numpy", "math")


def _attributes(kind: type) -> list[Any]:
    """What a class that its user wrote holds: methods, which may be replaced, and settings, which may change."""
    if kind.__module__.partition(".")[0] in (_PACKAGE, "builtins", "numpy"):
        return []
    return [v for name, v in vars(kind).items() if not name.startswith("__") or name == "__call__"]
