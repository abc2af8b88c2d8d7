"""What a compiled loop calls its arrays: as the step's own parameters are called, or as the module calls its weights."""

from __future__ import annotations

import inspect
import keyword
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ..graph import Value
from . import runtime
from .trace import Trace

if TYPE_CHECKING:
    from .plan import Plan

# What the emitted text uses itself: names with a number or an index behind them (w1, x_t), and these words.
_TAKEN = re.compile(r"[A-Za-z]+\d+(_.*)?|.*_(t|new|total|blocks|columns|\d+)|_.*")
_WORDS = frozenset(
    """T B f half xs hs states weights masks mask saved lo hi first last chunk ahead forward backward g_hs g_last g_more g_xs reshape out axis where
    sizes still back new loop pointwise hold park release largest smallest total product zero one spans in_memory runs_back rows_still g_all
    room_for put_back add_product sum_of_rows""".split()
)


def static_names(step: Callable[..., Any], trace: Trace, given: Sequence[Any], states: int, weights: Sequence[Any]) -> list[str]:
    """A name for each static of a trace, an identifier that stands in no other's way."""
    wanted = parameters_of(step)[1 + states :]
    places = {id(w): i for i, w in enumerate(weights)}
    names: list[str] = []

    def name_of_given(k: int) -> str:
        value = given[k]
        at = places.get(id(value))
        if at is not None and at < len(wanted):
            return wanted[at]
        own = value.name if isinstance(value, Value) else None
        return own or ("constant" if at is None and not isinstance(value, Value) else "weight")

    def name_of(place: tuple[Any, ...]) -> str:
        kind, k, *_ = place
        if kind == "given":
            return name_of_given(k)
        if kind != "static call":
            return "number"
        call = trace.statics[k]
        parts = [name_of(p) for p in call.args if p[0] != "number"]
        whole = "_".join([call.prim.name, *parts])
        return whole if len(whole) < 30 else call.prim.name

    for place in trace.hoisted:
        names.append(unique(identifier(name_of(place)), names))
    return names


def name_buffers(plan: Plan, states: Sequence[str], statics: Sequence[str]) -> None:
    """Call the arrays of a plan after what they hold: cs the stack of a state c over time, kept1 what is kept, joined1 values side by side."""
    for letter, homes in zip(states, plan.forward.homes, strict=False):
        stack, name = homes[0].buffer, f"{letter}s"
        if stack.time == "t+1" and name not in statics and identifier(name) == name:
            stack.name = name
    buffers = [*plan.forward.body.buffers, *plan.backward.ahead.buffers, *plan.backward.body.buffers]
    for pattern, name in ((r"[rfq]s\d+", "joined"), (r"v\d+", "kept")):
        for k, buffer in enumerate((b for b in buffers if re.fullmatch(pattern, b.name)), 1):
            buffer.name = f"{name}{k}"


def parameters_of(step: Callable[..., Any]) -> list[str]:
    """The names of the arguments that the step takes by position."""
    try:
        parameters = inspect.signature(step).parameters.values()
    except (TypeError, ValueError):  # written in C
        return []
    return [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]


def identifier(name: str) -> str:
    """The name as an identifier that the emitted text does not use itself: layers.0.bias as layers_0_bias, w1 as weight_w1."""
    word = re.sub(r"\W+", "_", name, flags=re.ASCII).strip("_") or "weight"
    clash = keyword.iskeyword(word) or word in _WORDS or _TAKEN.fullmatch(word) or not word[0].isalpha() or _is_numpy(word)
    return f"weight_{word}" if clash else word


def _is_numpy(word: str) -> bool:
    """Whether NumPy has a function of that name, or Python, or the loops' own helpers: the text may call it."""
    import builtins

    import numpy as np

    return hasattr(np, word) or hasattr(builtins, word) or hasattr(runtime, word)


def unique(name: str, taken: Sequence[str]) -> str:
    """The name; if it is taken, with a letter behind it."""
    found, letter = name, "a"
    while found in taken:
        letter = chr(ord(letter) + 1)
        found = f"{name}_{letter}"
    return found
