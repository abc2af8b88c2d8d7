"""State dicts: parameters and buffers by their paths, and what to say where a state does not fit."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from .. import backend, guards
from ..errors import ArgumentError, ShapeError, describe, message
from ..graph import raw
from ..tensor import Tensor


class Mismatch(NamedTuple):
    """What `load_state_dict(state, strict=False)` passed over: names that only the module has, and names that only the state has."""

    missing_keys: list[str]
    unexpected_keys: list[str]


def load(name: str, own: dict[str, Tensor], state: Mapping[str, Any], strict: bool) -> Mismatch:
    """Write the arrays of `state` into the tensors `own` of the module called `name`, all of them or none."""
    if not isinstance(state, Mapping):
        raise ArgumentError(
            message(
                f"load_state_dict: the state is {describe(state)}",
                expected="a dict of arrays by path",
                do="tg.load(path) reads one from a file" if isinstance(state, str) else "module.state_dict() makes one",
            )
        )
    for key, part in state.items():
        if isinstance(part, Mapping):
            problem = f"load_state_dict: state[{key!r}] is itself a dict"
            fits = own.keys() & part.keys()
            raise ArgumentError(
                message(problem, expected="arrays by path", do=f"module.load_state_dict(state[{key!r}])" if fits else "")
            )
    arrays = {path: _array(path, state[path]) for path in own if path in state}
    differ = [f"{path}: {own[path].shape} here, {a.shape} given" for path, a in arrays.items() if a.shape != own[path].shape]
    missing = [path for path in own if path not in state]
    unexpected = [path for path in state if path not in own]
    if differ or (strict and (missing or unexpected)):
        raise ShapeError(
            message(
                f"load_state_dict: the state does not fit {name}, nothing was loaded",
                shapes=_some(differ, "; "),
                missing=_some(missing, ", ") if strict else "",
                unexpected=_some(unexpected, ", ") if strict else "",
                do=_advice(own, missing, unexpected, bool(differ)),
            )
        )
    for path, array in arrays.items():
        data = own[path]._data
        data[...] = backend.array_module(data).asarray(array.astype(data.dtype, copy=False))
        guards.wrote(data)
    return Mismatch(missing, unexpected)


def _array(path: str, x: Any) -> Any:
    """An array of ours, PyTorch's or NumPy's as NumPy's."""
    x = raw(x)
    array = backend.to_numpy(x.detach() if hasattr(x, "detach") else x)
    if array.dtype.kind not in "fiub":
        raise ArgumentError(message(f"load_state_dict: {path} is {describe(x)}", expected="an array of numbers"))
    return array


def _some(names: list[str], comma: str, most: int = 8) -> str:
    more = f" ... {len(names) - most} more" if len(names) > most else ""
    return comma.join(names[:most]) + more


def _advice(own: Collection[str], missing: list[str], unexpected: list[str], differ: bool) -> str:
    """What to do about a state that does not fit; above all where its names have a prefix too much or too little."""
    theirs = unexpected[0] if unexpected else ""
    for ours in own if missing and theirs else ():
        extra, lacking = theirs.removesuffix(ours), ours.removesuffix(theirs)
        if extra + ours == theirs and all(name.removeprefix(extra) in own for name in unexpected):
            return f"take the prefix off: {{name.removeprefix({extra!r}): array for name, array in state.items()}}"
        if lacking + theirs == ours and lacking.endswith(".") and all(lacking + name in own for name in unexpected):
            return f"load it into the part it belongs to: get_submodule({lacking[:-1]!r}).load_state_dict(state)"
    build = "build the module with the sizes that the state was saved with"
    return build if differ else f"{build}, or pass strict=False to load what both have"
