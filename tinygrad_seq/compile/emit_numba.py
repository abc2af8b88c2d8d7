"""Pass 7, emit, for Numba: the step as loops over elements, the time loops around them, and the functions that call these.

Values lie batch-major, (T, B, width), as they come in and go out, so nothing is ever transposed or gathered. All time loops run in the
order of memory: m is a row of xs, and of everything that is kept; where a sequence runs backwards (back = 1) the state before the step lies
behind it. Weights come packed. What x alone contributes is multiplied for some steps at once, and so are the gradients of weights.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from . import numba_runtime
from .emit_numba_backward import Backward
from .emit_numba_forward import Forward
from .emit_numba_maps import Simpler
from .plan import Plan
from .trace import Untraceable, why


def _check(plan: Plan) -> None:
    """Everything that moves is (B, width)."""
    step = plan.step
    B = step.states[0].shape[0] if step.states[0].ndim else 0
    for what, op in [("x", step.x), *(("a state", s) for s in step.states)]:
        if op.ndim != 2 or op.shape[0] != B:
            raise Untraceable(why(f"{what} is {op.shape}", expected="x (B, D) and states (B, H) for Numba"))


class Texts(NamedTuple):
    """What is written for Numba: loops, forward and backward, the functions that call them, and what these call of the step's own."""

    loops: list[str]
    drivers: list[str]
    rules: dict[str, Any]


def texts_of(plan: Plan, weights: list[str]) -> Texts:
    """The texts, which need no Numba. Raises Untraceable for what only the loop for NumPy can do."""
    _check(plan)
    see = Simpler(plan.step.make, plan.step.states[0].shape[0], plan.step.states[0].dtype)
    forward = Forward(plan, weights, see)
    backward = Backward(plan, weights, see, forward)
    return Texts([forward.loops(), backward.loops()], [forward.driver(), backward.driver()], backward.rules)


def emit(plan: Plan, weights: list[str]) -> tuple[Any, Any, str]:
    """The functions forward and backward, and their text. Raises Untraceable for what only the loop for NumPy can do."""
    loops, drivers, rules = texts_of(plan, weights)
    environment = numba_runtime.environment(loops) | rules
    for driver in drivers:
        exec(compile(driver, "<scan>", "exec"), environment)
    text = "\n\n".join(t for pair in zip(drivers, loops, strict=True) for t in pair)
    return environment["forward"], environment["backward"], text
