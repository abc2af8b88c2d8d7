"""A user's own network: `module:function` or `path/to/file.py:function`, called without arguments; what it returns was recorded."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import os
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from ..errors import ArgumentError, GraphError, MissingFileError, TinygradError, message
from ..graph import Value


def outputs_of(target: str) -> list[Any]:
    """What the function that `target` names returned: Tensors, as a list."""
    where, _, name = target.rpartition(":")
    if not where or not name:
        raise ArgumentError(message(f"{target!r} names no function", expected="module:function, such as model:loss"))
    module = _module(where, target)
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            raise _no_such(module, name, where)
        found = getattr(found, part)
    values = _tensors(_called(found, target) if callable(found) and not isinstance(found, Value) else found, target)
    if all(value.node is None for value in values):
        raise GraphError(
            message(
                f"{target}: it returned constants: nothing was recorded",
                expected="what was computed from a Tensor with requires_grad=True, or from a module's parameters",
                do="leave out tg.no_grad() and arrays such as tensor.numpy() on the way",
            )
        )
    return [value for value in values if value.node is not None]


def _module(where: str, target: str) -> ModuleType:
    """The module of that name or path; where the command was called comes first."""
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    if where.endswith(".py"):
        path = Path(where)
        if not path.is_file():
            raise MissingFileError(
                message(f"{target}: there is no file {where}", expected="the path of a Python file", got=f"the folder is {here}")
            )
        sys.path.insert(0, str(path.resolve().parent))
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None and spec.loader is not None
        module = sys.modules[path.stem] = importlib.util.module_from_spec(spec)
        execute = spec.loader.exec_module
        _guarded(lambda: execute(module), target, "cannot be imported")
        return module
    try:
        missing = importlib.util.find_spec(where) is None
    except (ModuleNotFoundError, ValueError):
        missing = True
    if missing:
        raise ArgumentError(
            message(
                f"{target}: there is no module {where!r}",
                expected=f"{where.replace('.', '/')}.py in {here}, or an installed module",
                do=f"go to the folder that holds it, or give the path: path/to/{where.replace('.', '/')}.py:{target.rpartition(':')[2]}",
            )
        )
    found: ModuleType = _guarded(lambda: importlib.import_module(where), target, "cannot be imported")
    return found


def _no_such(module: ModuleType, name: str, where: str) -> TinygradError:
    there = [key for key, x in vars(module).items() if inspect.isfunction(x) and x.__module__ == module.__name__ and key[0] != "_"]
    near = difflib.get_close_matches(name, there, 1)
    return ArgumentError(
        message(
            f"{where} has no {name!r}",
            expected=f"one of its functions: {', '.join(there)}" if there else "a function in it",
            do=f"{where}:{near[0]}" if near else "",
        )
    )


def _called(function: Any, target: str) -> Any:
    try:
        inspect.signature(function).bind()
    except TypeError:
        needed = [
            p.name
            for p in inspect.signature(function).parameters.values()
            if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
        ]
        raise ArgumentError(
            message(
                f"{target}: the function wants {', '.join(needed)}",
                expected="a function without arguments, or with defaults for all",
                do=f"def for_drawing(): return {target.rpartition(':')[2]}(...), and give its name",
            )
        ) from None
    except ValueError:  # without a signature
        pass
    return _guarded(function, target, "failed")


def _guarded(f: Any, target: str, what: str) -> Any:
    """Run a user's code; an error in it is shown as Python shows it, without the frames of this command."""
    try:
        return f()
    except Exception as cause:
        trace = cause.__traceback__
        while trace is not None and _ours(trace.tb_frame.f_code.co_filename):
            trace = trace.tb_next
        traceback.print_exception(type(cause), cause, trace)
        raise GraphError(message(f"{target} {what}: {type(cause).__name__}", do="the lines above say where")) from cause


def _ours(file: str) -> bool:
    return Path(file).parent == Path(__file__).parent or "importlib" in file


def _tensors(returned: Any, target: str) -> list[Any]:
    several = list(returned.values()) if isinstance(returned, Mapping) else returned
    values = [several] if isinstance(several, Value) or not isinstance(several, (list, tuple)) else list(several)
    strange = next((value for value in values if not isinstance(value, Value)), None if values else "nothing")
    if strange is not None or not values or not all(isinstance(value, Value) for value in values):
        raise ArgumentError(
            message(
                f"{target}: it returned {'nothing' if returned is None else f'a {type(returned).__name__}'}"
                + ("" if returned is several and not isinstance(returned, (list, tuple)) else f" with a {type(strange).__name__}"),
                expected="a Tensor, or a list, tuple or dictionary of them",
                do="return loss",
            )
        )
    return values
