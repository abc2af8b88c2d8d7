"""Checkpoints: all that a run needs to go on to the same bits, in one file that is always whole.

save_checkpoint("run.safetensors", model=model, optimizer=optimizer, batches=loader, step=step)
step = restore_checkpoint("run.safetensors", model=model, optimizer=optimizer, batches=loader)["step"]
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from .. import io
from ..errors import ArgumentError, message
from ..nn import Module
from ..random import get_state, set_state


def save_checkpoint(path: str | os.PathLike[str], *, keep: int = 1, **parts: Any) -> None:
    """Write the state of every part, and of the default random generator, to one file: the old one or the new one, never half of it.

    parts, under names of your choice: what has a `state_dict()` (of a Module also the random generators of the modules within), NumPy
    generators, and plain values that `tg.save` takes. keep: how many files to keep, the older ones as `run.1.safetensors`,
    `run.2.safetensors`, ... numbered in the order of writing; `path` is always the last one.
    """
    target = Path(path)
    state = {"parts": {name: _state_of(part) for name, part in parts.items()}, "generator": get_state()}
    if keep > 1:
        _keep_old(target)
    io.save(state, target)
    for number in _numbers(target)[: 1 - keep] if keep > 1 else ():
        _numbered(target, number).unlink(missing_ok=True)


def restore_checkpoint(path: str | os.PathLike[str], **parts: Any) -> dict[str, Any]:
    """Put every part, and the default random generator, back to where the checkpoint was written; return the plain values in it.

    Parts that it has and you do not name are returned as their states.
    """
    saved = io.load(path)
    states = saved.get("parts") if isinstance(saved, dict) else None
    if states is None or "generator" not in saved:
        raise ArgumentError(
            message(
                f"restore_checkpoint: {str(path)!r} is no checkpoint",
                expected="what save_checkpoint or fit wrote",
                do="tg.load reads other files",
            )
        )
    missing = [name for name in parts if name not in states]
    if missing:
        raise ArgumentError(
            message(
                f"restore_checkpoint: {str(path)!r} has no {', '.join(missing)}",
                expected=", ".join(states),
                do="name the parts as they were saved",
            )
        )
    for name, part in parts.items():
        _restore(part, states[name])
    set_state(saved["generator"])
    return {name: state for name, state in states.items() if name not in parts}


def generators(model: Module) -> dict[str, np.random.Generator]:
    """The random generators of their own that modules have, as `rng`, by the paths of the modules."""
    found = {path: getattr(module, "rng", None) for path, module in model.named_modules()}
    return {path: rng for path, rng in found.items() if isinstance(rng, np.random.Generator)}


def _state_of(part: Any) -> Any:
    if isinstance(part, Module):
        return {"state": part.state_dict(), "rngs": {path: get_state(rng) for path, rng in generators(part).items()}}
    if isinstance(part, np.random.Generator):
        return get_state(part)
    return part.state_dict() if hasattr(part, "state_dict") else part


def _restore(part: Any, state: Any) -> None:
    if isinstance(part, Module):
        own = generators(part)
        if set(own) != set(state["rngs"]):
            raise ArgumentError(
                message(
                    "restore_checkpoint: other modules have random generators of their own than when it was saved",
                    expected=", ".join(map(repr, state["rngs"])) or "none",
                    got=", ".join(map(repr, own)) or "none",
                    do="build the model with the same rng= arguments",
                )
            )
        part.load_state_dict(state["state"])
        for path, rng in own.items():
            set_state(state["rngs"][path], rng)
    elif isinstance(part, np.random.Generator):
        set_state(state, part)
    else:
        part.load_state_dict(state)


def _keep_old(path: Path) -> None:
    """Give the file that is there a second name, which stays when `path` is replaced."""
    numbers = _numbers(path)
    if not path.exists() or (numbers and _numbered(path, numbers[-1]).samefile(path)):
        return
    second = _numbered(path, numbers[-1] + 1 if numbers else 1)
    try:
        os.link(path, second)
    except OSError:  # a file system without links
        shutil.copyfile(path, second)


def _numbers(path: Path) -> list[int]:
    """The numbers of the older files, ascending."""
    pattern = re.compile(rf"{re.escape(path.stem)}\.(\d+){re.escape(path.suffix)}")
    names = (pattern.fullmatch(beside.name) for beside in path.parent.iterdir()) if path.parent.is_dir() else ()
    return sorted(int(found[1]) for found in names if found)


def _numbered(path: Path, number: int) -> Path:
    return path.with_name(f"{path.stem}.{number}{path.suffix}")
