"""The operators of a strict array, and those of its methods that differ from NumPy's only by what they refuse."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .array import StrictArray, functions, strip, wrap
from .rules import SCALARS, SURFACE, check_call, quiet


def _method(name: str, parameters: list[str]) -> Callable[..., Any]:
    def call(self: StrictArray, *args: Any, **kwargs: Any) -> Any:
        check_call(name, parameters, args, kwargs)
        out = kwargs.get("out")
        with quiet():
            result = getattr(strip(self, name), name)(*strip(args, name), **{k: strip(v, name) for k, v in kwargs.items()})
        return out if out is not None else wrap(result)

    call.__name__ = name
    return call


def _operator(ufunc: str, *, swapped: bool = False, in_place: bool = False) -> Callable[..., Any]:
    def call(self: StrictArray, other: Any) -> Any:
        rival = getattr(other, "__array_ufunc__", functions)  # functions: it has none
        if not isinstance(other, StrictArray) and not isinstance(other, SCALARS) and not in_place:
            if rival is None:
                return NotImplemented
            if rival is not functions:  # a Tensor, say: NumPy's protocol decides
                return getattr(np, ufunc)(*((other, self) if swapped else (self, other)))
        f = getattr(functions(), ufunc)
        return f(self, other, out=self) if in_place else f(*((other, self) if swapped else (self, other)))

    return call


OPERATORS = {
    "add": "add", "sub": "subtract", "mul": "multiply", "truediv": "true_divide", "floordiv": "floor_divide", "mod": "remainder",
    "pow": "power", "matmul": "matmul", "divmod": "divmod", "and": "bitwise_and", "or": "bitwise_or", "xor": "bitwise_xor",
    "lshift": "left_shift", "rshift": "right_shift",
    "lt": "less", "le": "less_equal", "gt": "greater", "ge": "greater_equal", "eq": "equal", "ne": "not_equal",
}  # fmt: skip

for _name, _ufunc in OPERATORS.items():
    for _prefix, _how in (("", {}), ("r", {"swapped": True}), ("i", {"in_place": True})):
        if f"__{_prefix}{_name}__" in SURFACE["operators"]:
            setattr(StrictArray, f"__{_prefix}{_name}__", _operator(_ufunc, **_how))
for _name, _ufunc in {"neg": "negative", "pos": "positive", "abs": "absolute", "invert": "invert"}.items():
    setattr(StrictArray, f"__{_name}__", lambda x, _ufunc=_ufunc: getattr(functions(), _ufunc)(x))
for _name, _parameters in SURFACE["ndarray"].items():
    if _parameters is not None and _name not in vars(StrictArray) and hasattr(np.ndarray, _name):
        setattr(StrictArray, _name, _method(_name, _parameters))
