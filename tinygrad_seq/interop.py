"""NumPy's functions called on Tensors: each runs our op of the same meaning, or says what to write instead.

None silently returns an ndarray: that would drop the gradient. Plain facts (`np.shape`, `np.allclose`) are answered as they are.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from . import creation, ops, twins
from .errors import ArgumentError, InPlaceError, describe, message
from .graph import box, raw
from .tensor import Tensor, logic

# NumPy's name of a function or ufunc -> the op, where it is not found in `ops` under the same name
FUNCTIONS: dict[str, Callable[..., Any]] = {
    "absolute": ops.abs,
    "amax": ops.max,
    "amin": ops.min,
    "around": ops.round,
    "bitwise_and": lambda a, b: logic("&", ops.logical_and, a, b),
    "bitwise_or": lambda a, b: logic("|", ops.logical_or, a, b),
    "bitwise_xor": lambda a, b: logic("^", ops.logical_xor, a, b),
    "fabs": ops.abs,
    "full_like": creation.full_like,
    "invert": lambda x: logic("~", ops.logical_not, x),
    "matrix_transpose": lambda x: ops.swapaxes(x, -1, -2),
    "ones_like": creation.ones_like,
    "positive": lambda x: x,
    "zeros_like": creation.zeros_like,
}  # fmt: skip
LINALG = ("cholesky", "det", "inv", "matmul", "norm", "slogdet", "solve", "tensordot")  # the others differ, or we have none
FACTS = frozenset(
    "allclose array2string array_equal array_equiv array_repr array_str can_cast common_type iscomplexobj isclose isrealobj "
    "may_share_memory min_scalar_type ndim result_type shape shares_memory size".split()
)  # about the numbers; nothing that has a gradient
RENAMED = {"a_min": "min", "a_max": "max"}
HARMLESS = ("optimize", "subok")  # change how, not what

METHODS = {  # np.add.reduce and the like
    "reduce": "tg.sum, prod, max, min, all, any or logsumexp (x, axis)",
    "accumulate": "tg.cumsum(x, axis) or tg.cumprod(x, axis)",
    "at": "tg.index_add(x, key, v) or tg.index_put(x, key, v)",
    "outer": "broadcasting: a[:, None] against b",
    "reduceat": "the reduction of each slice",
}


def op_for(function: Any) -> Callable[..., Any] | None:
    """Our op of the same meaning as a NumPy function or ufunc; None where there is none."""
    name, module = function.__name__, getattr(function, "__module__", None) or "numpy"
    if module == "numpy.linalg":
        return getattr(ops.linalg, name) if name in LINALG else None
    found = (FUNCTIONS.get(name) or getattr(ops, name, None)) if module == "numpy" else None
    return found if callable(found) else None


def call_ufunc(ufunc: Any, method: str, inputs: Sequence[Any], options: Mapping[str, Any]) -> Any:
    """What `np.add(a, t)`, and with it `ndarray + t`, runs."""
    if any(not isinstance(x, Tensor) for x in options.get("out", ())):
        raise InPlaceError(
            message(
                f"np.{ufunc.__name__}: the result of a Tensor cannot be written into {describe(options['out'][0])}",
                do="a += t on an ndarray drops the gradient: write a = a + t, or a += t.numpy()",
            )
        )
    if method != "__call__":
        raise ArgumentError(message(f"np.{ufunc.__name__}.{method}: not for Tensors", do=METHODS[method]))
    op = op_for(ufunc) or _no_op(ufunc)
    for keyword in options:
        _refuse(f"np.{ufunc.__name__}", keyword)
    return op(*inputs)


def call_function(function: Any, args: Sequence[Any], keywords: Mapping[str, Any]) -> Any:
    """What `np.sum(t, axis=0)` runs: our op, its arguments told apart by NumPy's names of them."""
    name = function.__name__
    if name in FACTS:
        fact = function(*map(raw, args), **{k: raw(v) for k, v in keywords.items()})
        return box(fact, None) if name == "isclose" else fact
    op = op_for(function) or _no_op(function)
    theirs = inspect.signature(function)
    given = theirs.bind(*args, **keywords).arguments
    ours = inspect.signature(op).parameters
    arrays = [p.name for p in ours.values() if p.default is p.empty and p.kind is not p.VAR_POSITIONAL]
    positional: list[Any] = []
    options: dict[str, Any] = {}
    for place, parameter in enumerate(theirs.parameters.values()):
        if parameter.name not in given:
            continue
        value = given[parameter.name]
        if parameter.kind is parameter.VAR_POSITIONAL:
            positional.extend(value)
        elif parameter.kind is parameter.VAR_KEYWORD:
            options.update(value)
        elif place < len(arrays):
            positional.append(value)
        elif value is not parameter.default and parameter.name not in HARMLESS:
            options[RENAMED.get(parameter.name, parameter.name)] = value
    for keyword in options:
        if keyword not in ours:
            _refuse(f"np.{name}", keyword)
    return op(*positional, **options)


def _refuse(who: str, keyword: str) -> NoReturn:
    do = twins.advice(keyword) or "leave it out"
    raise ArgumentError(message(f"{who}: {keyword}= is not for Tensors", do=do))


def _no_op(function: Any) -> NoReturn:
    module, name = getattr(function, "__module__", None) or "numpy", function.__name__
    full = f"{module.replace('numpy', 'np', 1)}.{name}"
    twin = f"tg.{name}" if hasattr(creation, name) else twins.FUNCTIONS.get(name) or twins.NAMES.get(name)
    otherwise = f"compose it from ops; or {full}(x.numpy(), ...), which has no gradient"
    raise ArgumentError(message(f"{full}: there is no op of this meaning for Tensors", do=twin or otherwise))
