"""What becomes of a time loop: `compile_scan` derives one and shows its text, `explain_compile` tells which loops are compiled and why not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .compile.loop import Compiled, Decision, Unfit, compile_step
from .errors import ArgumentError, TinygradError, describe, message
from .frames import mode, thread
from .graph import raw
from .nn.module import Module
from .nn.recurrent import Recurrent, as_step
from .ops import stack
from .scan import scan

T, B = 3, 2  # of inputs that are made up


# ---- One loop --------------------------------------------------------------------------------------------------------------------------


def compile_scan(step: Callable[..., Any], x: Any, state: Any, weights: Sequence[Any] = ()) -> Compiled:
    """Derive the loop of a step, forward and back through time with every gradient, without running it.

        loop = tg.compile_scan(F.lstm_step, x, (h, c), (w_ih, w_hh, b_ih, b_hh))
        print(loop.forward)                                           # .backward; .source is both

    step(x, *state, *weights) is called once or twice on these example arrays, x (B, D) of one moment. The loop holds for arrays of their shapes
    and dtypes. `scan` does this by itself and remembers the loop; here nothing is looked up or remembered. Raises ArgumentError with the
    reason where the step cannot be compiled.
    """
    if not callable(step):
        raise ArgumentError(
            message(f"compile_scan: the step {describe(step)} is no function", expected="step(x, *state, *weights)")
        )
    states = tuple(state) if isinstance(state, (tuple, list)) else (state,)
    if isinstance(step, Module):
        step = as_step(step, isinstance(state, (tuple, list)), False)
    for what, a in [("x", x), *(("the state", s) for s in states)]:
        if not hasattr(raw(a), "shape"):
            raise ArgumentError(message(f"compile_scan: {what} is {describe(a)}", expected="an array: x (B, D), a state (B, H)"))
    try:
        return compile_step(step, x, states, weights)
    except Unfit as why:
        raise ArgumentError(f"compile_scan: the step cannot be compiled: {why}") from None


# ---- All loops of a function ---------------------------------------------------------------------------------------------------------------


class Explanation:
    """What became of the time loops of a call. Printed, it tells it; the loops one by one are in `loops`."""

    def __init__(self, what: str, decisions: Sequence[Decision]):
        self.what, self.loops = what, tuple(decisions)

    @property
    def compiled(self) -> bool:
        """Whether all loops are compiled."""
        return bool(self.loops) and all(loop.compiled is not None for loop in self.loops)

    @property
    def target(self) -> str:
        """What they run on: "numpy", "numba", or "unfolded"; several where loops differ, with commas between."""
        return ", ".join(dict.fromkeys(_target(loop) for loop in self.loops)) or "unfolded"

    @property
    def reason(self) -> str | None:
        """Why the first loop that is not compiled is not, or not for the target that `scan_target` asked for; None where all are."""
        if not self.loops:
            return why_no_loop(self.what)
        asked = thread.modes.target
        reasons = [loop.reason or (loop.variant.instead if loop.variant and asked != "auto" else "") for loop in self.loops]
        return next((reason for reason in reasons if reason), None)

    @property
    def source(self) -> str:
        """The text of all compiled loops, each once."""
        texts = {
            (loop.variant.source if loop.variant and any(loop.variant.wanted) else loop.compiled.source): loop.name
            for loop in self.loops
            if loop.compiled
        }
        return "\n\n".join(f"# {name}\n{text}" for text, name in texts.items())

    def __repr__(self) -> str:
        if not self.loops:
            return str(self.reason)
        count = sum(loop.compiled is not None for loop in self.loops)
        number = "1 time loop" if len(self.loops) == 1 else f"{len(self.loops)} time loops"
        lines = [f"{self.what}: {number}, {count} compiled"]
        for text, times in Counter(map(_told, self.loops)).items():
            lines.append(text if times == 1 else text.replace(":", f" ({times} times):", 1))
        return "\n".join(lines)


def _target(loop: Decision) -> str:
    return loop.variant.target if loop.variant else "unfolded"


def _told(loop: Decision) -> str:
    """One loop in a line, with its reason beneath."""
    if loop.compiled is None or loop.variant is None:
        return f"{loop.name}: runs unfolded, step by step, because {loop.reason}"
    ops = f"{loop.name}: compiled for {loop.variant.target}, {len(loop.compiled.trace.calls)} ops a step"
    return f"{ops}; {loop.variant.instead}" if loop.variant.instead else ops


def why_no_loop(what: str) -> str:
    """What is said where nothing was to be compiled."""
    return message(
        f"{what}: no time loop ran",
        expected="tg.scan, nn.RNN, nn.LSTM, nn.GRU or nn.Recurrent somewhere in it",
        do="a Python loop over the steps is recorded op by op: write it as scan(step, xs, state, weights)",
        where="",
    )


def explain_compile(what: Any, *args: Any, **kwargs: Any) -> Explanation:
    """Tell how time loops run: which are compiled and for what, and for the others which op stopped the compiler, where and why.

        print(tg.explain_compile(model, xs))                          # a module or function: it is called, and every loop inside is told
        print(tg.explain_compile(step, x, state, weights))            # a step, as `scan` takes it, on arrays of one moment
        print(tg.explain_compile(nn.LSTM(3, 4)))                      # a layer, or a cell: example inputs are made up

    The modes hold as usual: ask inside tg.scan_target("numba") about Numba.
    """
    if not callable(what):
        raise ArgumentError(
            message(f"explain_compile: {describe(what)} cannot be called", expected="a module, a cell, a step or a function")
        )
    name = type(what).__name__ if isinstance(what, Module) else str(getattr(what, "__name__", type(what).__name__))
    if not args and not kwargs and isinstance(what, Module):
        return Explanation(name, _with_inputs(what))
    if not args and not kwargs:
        raise ArgumentError(
            message(
                f"explain_compile: {name} needs arguments",
                expected="those of one call; for a step x, its state and its weights",
                do="explain_compile(step, x, state, weights), x (B, D) and a state (B, H) of one moment",
            )
        )
    form = _as_step(args, kwargs)
    decisions: list[Decision] = []
    try:
        with mode("decisions", decisions):
            what(*args, **kwargs)
        if decisions or form is None:
            return Explanation(name, decisions)
    except Exception:
        if form is None:
            raise
    assert form is not None  # it is no function around a loop: it is a step
    return Explanation(name, _of_step(what, *form))


def _as_step(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any, Sequence[Any]] | None:
    """The arguments as x, state and weights, if they can be those."""
    if set(kwargs) - {"x", "state", "weights"} or len(args) > 3 or not (args or kwargs):
        return None
    given = {**dict(zip(("x", "state", "weights"), args, strict=False)), **kwargs}
    state, weights = given.get("state"), given.get("weights", ())
    arrays = [given.get("x"), *(state if isinstance(state, (tuple, list)) else (state,))]
    if not isinstance(weights, (tuple, list)) or not all(hasattr(raw(a), "shape") for a in arrays):
        return None
    return given["x"], tuple(state) if isinstance(state, list) else state, weights


def _of_step(step: Any, x: Any, state: Any, weights: Sequence[Any]) -> list[Decision]:
    """What becomes of a step in a loop over twice the same moment."""
    decisions: list[Decision] = []
    if isinstance(step, Module):
        step = as_step(step, isinstance(state, tuple), False)
    with mode("decisions", decisions):
        scan(step, stack([x, x]), state, weights)
    return decisions[-1:]  # others are of loops inside the step


# ---- Inputs that are made up ---------------------------------------------------------------------------------------------------------------


def _with_inputs(module: Module) -> list[Decision]:
    """What becomes of the loops of a layer, or of a cell in one."""
    who = type(module).__name__
    cell = not isinstance(module, Recurrent)
    if cell and not any(hasattr(module, name) for name in ("hidden_size", "state_sizes", "initial_state")):
        raise ArgumentError(
            message(
                f"explain_compile: {who} is no recurrent layer or cell, so its inputs are not known",
                expected="a layer such as nn.LSTM(3, 4), or a cell with hidden_size, state_sizes or initial_state",
                do=f"explain_compile(module, xs) with the arguments of a call of {who}",
            )
        )
    for path, p in module.named_parameters() if cell else ():  # its own names, not those that it has within the layer
        p.name = p.name or path
    layer = Recurrent(module) if cell else module
    known = getattr(layer, "input_size", None)
    matrices = [p for p in module.parameters() if p.ndim == 2]
    sizes = [size for p in matrices for size in p.shape[::-1]]
    H = getattr(layer, "hidden_size", None) or getattr(module, "hidden_size", 0)
    sizes += [size - H for size in sizes if isinstance(H, int) and size > H]  # a matrix may multiply [x, h]
    widths = [known] if known is not None else dict.fromkeys(sizes)
    dtype = next((p.dtype for p in module.parameters() if p.dtype.kind == "f"), np.dtype("float32"))
    for D in widths:  # the first that fits
        decisions: list[Decision] = []
        try:
            with mode("decisions", decisions):
                layer(np.random.default_rng(0).standard_normal((T, B, D)).astype(dtype))
        except TinygradError:
            if known is not None:
                raise
        else:
            return (
                [loop._replace(name=loop.name.replace("Recurrent > layer 0", who, 1)) for loop in decisions] if cell else decisions
            )
    raise ArgumentError(
        message(
            f"explain_compile: which width the input of {who} has is not known",
            expected="an attribute input_size",
            do="self.input_size = D in its __init__, or explain_compile(nn.Recurrent(cell), xs) with xs (T, B, D)",
        )
    )
