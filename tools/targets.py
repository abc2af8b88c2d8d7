"""The columns of ours in suites about time loops: one for each target of the scan compiler, and one where loops run unfolded.

It makes sure that a column is what its name says: a loop that its target does not run is missing there, with the compiler's reason.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

from bench import Missing

UNFOLDED = "unfolded"
OURS = {"tinygrad_seq numpy": "numpy", "tinygrad_seq numba": "numba"}  # name in the table -> target
COLUMNS = OURS | {UNFOLDED: UNFOLDED}


def absent() -> dict[str, str]:
    """Which of the columns cannot run here, and why."""
    if importlib.util.find_spec("numba") is None:
        return {name: "No module named 'numba'" for name, target in OURS.items() if target == "numba"}
    return {}


def mode(target: str) -> Any:
    """The mode in which time loops run on this target: a context manager and decorator."""
    import tinygrad_seq as tg

    return tg.unfolded() if target == UNFOLDED else tg.scan_target(target)


def on(target: str, call: Callable[[], Any], *loop: Any) -> Callable[[], Any]:
    """The call in the mode of the target. loop: what `tg.explain_compile` is asked, so that nothing else runs in the target's name."""
    import tinygrad_seq as tg

    if target != UNFOLDED:
        with mode(target):
            answer = tg.explain_compile(*loop)
        if not answer.compiled or answer.target != target:
            raise Missing(answer.reason or f"it runs on {answer.target}")
    return mode(target)(call)
