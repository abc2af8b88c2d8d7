"""What a step refers to besides its arguments: the values around a function, its globals, the attributes of a cell.

Looked at before and after a step is traced, it shows what the step changes outside itself: a counter, a list, an attribute; such a step must
run at every moment. Looked at in the next call, it shows whether the equations found before still hold, so that the step need not be traced.
"""

from __future__ import annotations

import random
import types
from collections import deque, namedtuple
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np

from ..graph import Value
from ..primitives import Primitive

MOST = 2000  # things that are looked at
_PLAIN = (type(None), bool, int, float, complex, str, bytes, type(Ellipsis), np.generic, np.dtype)
_COMPARED = frozenset((type(None), bool, int, str, bytes))  # equal if they are the same
_CONTAINERS = (tuple, list, set, frozenset, dict, deque)
_DESCRIPTORS = (type(vars(namedtuple("_", "a"))["a"]), types.MemberDescriptorType, types.GetSetDescriptorType)
_PACKAGE = __package__.partition(".")[0]


class Surroundings:
    """What is around a step. `key` compares equal as long as nothing changed; `certain`, whether everything could be looked at."""

    def __init__(self, step: Callable[..., Any]):
        self.seen: dict[int, int] = {}
        self.count = 0
        self.values: list[Value] = []
        self.certain = True
        self.goes_on = False  # whether there is an iterator, which moves on without a trace
        try:
            self.key = self._of(step)
        except RecursionError:  # something makes up whatever it is asked for
            self.key, self.certain = id(step), False

    def _of(self, x: Any) -> Any:
        """The part of the key that stands for x."""
        self.count += 1
        kind = type(x)
        if kind in _COMPARED:
            return kind, x
        if isinstance(x, Value):
            self.values.append(x)
            return id(x), x.node is None, x._data.shape, x._data.dtype
        if isinstance(x, _PLAIN):
            return plain_key(x)
        if isinstance(x, types.ModuleType):
            return (x, random.getstate()) if x is random else x
        if _is_ours(x):
            return x
        if id(x) in self.seen:
            return "again", self.seen[id(x)]
        self.seen[id(x)] = len(self.seen)
        if self.count > MOST or (isinstance(x, _CONTAINERS) and len(x) > MOST):
            self.certain = False
            return id(x), len(x) if isinstance(x, _CONTAINERS) else 0
        if isinstance(x, _CONTAINERS):
            own = self._of_object(x) if type(x) not in _CONTAINERS else ()
            if isinstance(x, dict):
                return (own, *((self._of(k), self._of(v)) for k, v in x.items()))
            return (type(x), own, *map(self._of, x))
        if isinstance(x, partial):
            return (partial, self._of(x.func), self._of(x.args), self._of(x.keywords))
        if isinstance(x, types.MethodType):
            return (types.MethodType, self._of(x.__func__), self._of(x.__self__))
        if isinstance(x, types.FunctionType) and not _is_op(x):
            return self._of_function(x)
        if isinstance(x, type):
            return (x, *((name, self._of(a)) for kind in x.__mro__ for name, a in _attributes(kind)))
        if isinstance(x, types.BuiltinFunctionType):
            return (x.__name__, x if isinstance(x.__self__, types.ModuleType) else self._of(x.__self__))
        if _is_op(x):
            return x, *map(self._of, (x.primitive.function, *rules_of(x.primitive)))
        if isinstance(x, random.Random):
            return id(x), x.getstate()
        if type(x).__name__ == "RandomState":
            return id(x), repr(x.get_state()[1:3]), x.get_state()[1].tobytes()
        if isinstance(x, np.random.Generator):
            return id(x), repr(x.bit_generator.state)
        if hasattr(type(x), "__next__"):
            self.goes_on = True
        if isinstance(x, (staticmethod, classmethod)):
            return type(x), self._of(x.__func__)
        if isinstance(x, property):
            return property, *map(self._of, (x.fget, x.fset))
        if isinstance(x, _DESCRIPTORS):  # of named tuples and slots
            return type(x)
        if isinstance(x, np.ndarray):
            self.certain = False  # its numbers may change, which only a second look shows
            return id(x), x.shape, x.tobytes() if x.nbytes <= 2**16 and x.dtype.kind != "O" else None
        if not hasattr(x, "__dict__") and not any(hasattr(kind, "__slots__") for kind in type(x).__mro__):
            self.certain = False
            return id(x)
        return self._of_object(x)

    def _of_object(self, x: Any) -> Any:
        """The attributes of an object and of its class."""
        slots = [name for kind in type(x).__mro__ for name in _slots(kind) if hasattr(x, name)]
        attributes = [
            (name, a) for name, a in getattr(x, "__dict__", {}).items() if name != "_named"
        ]  # a module names its weights once
        attributes += [(name, getattr(x, name)) for name in slots]
        attributes += [pair for kind in type(x).__mro__ for pair in _attributes(kind)]
        return (type(x), *((name, self._of(a)) for name, a in attributes))

    def _of_function(self, f: types.FunctionType) -> Any:
        around = [_content(cell) for cell in f.__closure__ or ()]
        names, home = _names(f.__code__), f.__globals__
        used = [home[name] for name in names if name in home]
        for _ in range(2):  # settings.GAIN, package.settings.GAIN
            foreign = [vars(m) for m in (*around, *used) if isinstance(m, types.ModuleType) and _is_foreign(m)]
            if foreign:
                used += [m[name] for m in foreign for name in names if name in m]
        random: Any = np.random
        drawn = random.get_state()[1:3] if "random" in names and np in home.values() else None
        parts = (f.__defaults__, f.__kwdefaults__, f.__dict__, drawn and (drawn[0].tobytes(), drawn[1]))
        return (f.__code__, *map(self._of, (*around, *used, *parts)))


def changed(step: Any, before: Any, after: Any) -> str:
    """What differs between the keys of two looks at a step, by its name: a global, a variable around it, an attribute. "" if it has none."""
    if type(before) is not tuple or type(after) is not tuple or before == after:
        return ""
    if isinstance(step, partial):
        return changed(step.func, before[1], after[1])
    if isinstance(step, types.MethodType):
        return changed(step.__func__, before[1], after[1]) or changed(step.__self__, before[2], after[2])
    if isinstance(step, types.FunctionType):
        around = list(zip(step.__code__.co_freevars, map(_content, step.__closure__ or ()), strict=True))
        around += [(name, step.__globals__[name]) for name in _names(step.__code__) if name in step.__globals__]
        found = next(((name, x, a, b) for (name, x), a, b in zip(around, before[1:], after[1:]) if a != b), None)
        return found[0] + changed(*found[1:]).removeprefix("self") if found else ""
    if isinstance(step, _CONTAINERS) or not hasattr(step, "__dict__"):
        return ""
    then, now = (dict(pair for pair in key[1:] if type(pair) is tuple and len(pair) == 2) for key in (before, after))
    return next((f"self.{name}" for name in now if then.get(name) != now[name]), "")


def _is_ours(x: Any) -> bool:
    """Whether x is a function of this package or of NumPy, which do not change; one made within another may have something around it."""
    if isinstance(x, np.ufunc):
        return True
    if not isinstance(x, types.FunctionType):
        return False
    home = str(x.__globals__.get("__name__", "")).partition(".")[0]  # x.__module__ may be copied from what x wraps
    return home in (_PACKAGE, "numpy") and (x.__closure__ is None or _is_ours(getattr(x, "__wrapped__", None)))


def _is_op(x: Any) -> bool:
    """Whether x is an op. It is not asked for the name: an object may say yes to any, or take long to say no."""
    own = getattr(x, "__dict__", None)
    return type(own) is dict and isinstance(own.get("primitive"), Primitive)


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


def _is_foreign(module: types.ModuleType) -> bool:
    """Whether a module may hold settings of the user's."""
    return module.__name__.partition(".")[0] not in (_PACKAGE, "numpy", "math")


def _attributes(kind: type) -> list[tuple[str, Any]]:
    """What a class that its user wrote holds: methods, which may be replaced, and settings, which may change."""
    if kind.__module__.partition(".")[0] in (_PACKAGE, "builtins", "numpy", "collections", "abc", "typing"):
        return []
    return [(name, v) for name, v in vars(kind).items() if not name.startswith("__") or isinstance(v, types.FunctionType)]


def _slots(kind: type) -> tuple[str, ...]:
    slots = vars(kind).get("__slots__", ())
    return (slots,) if isinstance(slots, str) else tuple(slots)


def plain_key(x: Any) -> Any:
    """A number, a string or the like, so that only what is the same compares equal: not 1 and 1.0, not 0.0 and -0.0."""
    return (type(x), repr(x)) if isinstance(x, (float, complex, np.generic)) else (type(x), x)


def rules_of(prim: Primitive) -> tuple[Any, ...]:
    """The derivative rules of an op."""
    return (*prim.rows, prim.backward, prim.equation)


def rules_key(prim: Primitive) -> Any:
    """What the derivative of an op hangs on: nothing that changes, for an op of this package."""
    if str(prim.function.__globals__.get("__name__", "")).partition(".")[0] == _PACKAGE:
        return ()
    return tuple(Surroundings(rule).key for rule in rules_of(prim) if rule is not None)
