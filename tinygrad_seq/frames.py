"""Where on the tape: the modes of this thread, and the frames (module, call, time step) that ops are recorded in.

The engine sets and keeps frames and never reads them; drawing and BPTT analysis hang on them.
"""

from __future__ import annotations

import importlib.util
import inspect
import itertools
import threading
from collections.abc import Callable, Iterable, Iterator
from functools import wraps
from typing import Any, TypeVar, cast

from . import errors

F = TypeVar("F", bound=Callable[..., Any])

tick = itertools.count(1).__next__  # the clock of the tape: nodes, frames and writes draw their order from it


# ---- Modes: what this thread is doing ---------------------------------------------------------------------------------


class Modes:
    """What one thread is doing: whether ops are recorded, checked for NaN, unfolded, run again; and the frame they are recorded in."""

    __slots__ = ("anomaly", "decisions", "frame", "outer", "recomputing", "record", "target", "tracing", "unfolded")

    def __init__(self) -> None:
        self.record, self.anomaly, self.unfolded, self.recomputing = True, False, False, False
        self.target = "auto"  # of compiled time loops
        self.tracing: Any = None  # the `compile.trace.Tracer` that wants to see every op of a step
        self.decisions: list[Any] | None = None  # what became of each time loop, for `explain_compile`; None: nobody asks
        self.frame: Frame | None = None
        self.outer: dict[str, list[Any]] = {}  # of each setting the values to return to


class _Thread(threading.local):
    def __init__(self) -> None:
        self.modes = Modes()


thread = _Thread()  # thread.modes: the modes of the thread that asks


class mode:
    """One thread-local setting for the length of a `with` block, or of a decorated function or generator."""

    def __init__(self, name: str, value: Any):
        self.name, self.value = name, value

    def __enter__(self) -> mode:
        modes = thread.modes
        modes.outer.setdefault(self.name, []).append(getattr(modes, self.name))
        setattr(modes, self.name, self.value)
        return self

    def __exit__(self, *exc: object) -> None:
        modes = thread.modes
        setattr(modes, self.name, modes.outer[self.name].pop())

    def __call__(self, f: F) -> F:
        """Decorate a function, or a generator function, to run in the mode."""
        if inspect.isgeneratorfunction(f):  # the mode holds while it runs, not while its caller does

            @wraps(f)
            def stepped(*args: Any, **kwargs: Any) -> Any:
                steps = f(*args, **kwargs)
                go_on, given = steps.send, None
                while True:
                    with self:
                        try:
                            item = go_on(given)
                        except StopIteration as stop:
                            return stop.value
                        finally:
                            given = None  # an exception that knows this frame
                    try:
                        go_on, given = steps.send, (yield item)
                    except BaseException as thrown:  # its caller's `throw` or `close`
                        go_on, given = steps.throw, thrown

            return cast(F, stepped)

        @wraps(f)
        def inside(*args: Any, **kwargs: Any) -> Any:
            with self:
                return f(*args, **kwargs)

        return cast(F, inside)


# ---- Frames: where on the tape ------------------------------------------------------------------------------------------


class Frame:
    """One coordinate of the tape: inside `parent`, a call of `owner` (a module, or a name), perhaps at time `step`.

    `call` grows with every call, so the calls of one owner within one parent are in order: the k-th of several is step k,
    and a plain `for` loop over a cell has a time axis without saying so. `backward` marks what a gradient recorded.
    """

    __slots__ = ("backward", "call", "owner", "parent", "step")

    def __init__(self, parent: Frame | None, owner: Any, step: int | None = None, backward: bool = False):
        self.parent, self.owner, self.step, self.backward = parent, owner, step, backward
        self.call = tick()

    def path(self) -> list[Frame]:
        """The frames from the outermost to this one."""
        frames: list[Frame] = []
        frame: Frame | None = self
        while frame is not None:
            frames.append(frame)
            frame = frame.parent
        return frames[::-1]

    @property
    def time(self) -> int | None:
        """The innermost time step that encloses this frame, counted from 1; None outside every loop."""
        return next((f.step for f in reversed(self.path()) if f.step is not None), None)

    def __str__(self) -> str:
        names = [f.owner if isinstance(f.owner, str) else type(f.owner).__name__ for f in self.path() if f.owner is not None]
        return " > ".join(names) + (f", time step t = {self.time}" if self.time is not None else "")

    def __repr__(self) -> str:
        return f"Frame({self})"


class frame:
    """Record the body of a `with` block in a new frame of `owner`, at time `step` where it is one step of a loop."""

    __slots__ = ("outer", "owner", "step")

    def __init__(self, owner: Any, step: int | None = None):
        self.owner, self.step = owner, step

    def __enter__(self) -> Frame:
        self.outer = thread.modes.frame
        thread.modes.frame = inner = Frame(self.outer, self.owner, self.step)
        return inner

    def __exit__(self, *exc: object) -> None:
        thread.modes.frame = self.outer


def steps(xs: Iterable[Any], start: int = 1) -> Iterator[Any]:
    """Iterate over `xs` and record the body of the loop at time steps `start`, `start + 1`, ...

        for x in tg.steps(xs):
            h = cell(x, h)

    Leaving the loop early, or by an error, leaves its frame.
    """
    if not isinstance(xs, Iterable):
        raise errors.ArgumentError(
            errors.message(f"steps: {xs!r} is no sequence", expected="one entry for each time step", do="a count goes as range(T)")
        )
    modes, inner = thread.modes, None
    outer = modes.frame
    try:
        for t, x in enumerate(xs, start):
            inner = modes.frame = Frame(outer, "steps", t)
            yield x
            modes.frame = outer
    finally:
        if modes.frame is inner:
            modes.frame = outer


errors.here = lambda: str(thread.modes.frame or "")


# ---- The modes that users set ---------------------------------------------------------------------------------------------


def no_grad(f: F | None = None) -> Any:
    """Record nothing: `with no_grad():`, or `@no_grad` on a function. Results are constants."""
    return _switch("record", False, f)


def enable_grad(f: F | None = None) -> Any:
    """Record again inside `no_grad()`."""
    return _switch("record", True, f)


def detect_anomaly(f: F | None = None) -> Any:
    """Stop at the first NaN, or infinity out of finite inputs, of the forward or backward pass, and say where it was made.

    The error names the op, its frame and time step, and the line of your code that recorded it. Slow: for debugging.
    """
    return _switch("anomaly", True, f)


def unfolded(f: F | None = None) -> Any:
    """Record every fused op as the equation that it equals, every time loop step by step: for drawing and analysis."""
    return _switch("unfolded", True, f)


TARGETS = ("auto", "numpy", "numba")


def scan_target(name: str, f: F | None = None) -> Any:
    """Compile time loops for "numpy" or "numba": `with scan_target("numpy"):`, or as a decorator.

    "numba" needs the package: pip install 'tinygrad_seq[fast]'. "auto", the default, is numba where it is installed and the cell allows it,
    and else numpy.
    """
    if name not in TARGETS:
        raise errors.ArgumentError(errors.message(f"scan_target: {name!r} is not known", expected=" or ".join(map(repr, TARGETS))))
    if name == "numba" and importlib.util.find_spec("numba") is None:
        raise errors.MissingDependencyError(
            errors.message("scan_target: Numba is not installed", expected="numba", do="pip install 'tinygrad_seq[fast]'")
        )
    return mode("target", name) if f is None else mode("target", name)(f)


def _switch(name: str, value: bool, f: F | None) -> Any:
    return mode(name, value) if f is None else mode(name, value)(f)
