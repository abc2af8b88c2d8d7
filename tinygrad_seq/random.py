"""Random numbers: one default generator that `seed` sets, `rng=` everywhere to use another, and Tensors of what they draw.

Numbers are drawn on the host by NumPy in float64 and then cast and moved, so a seed gives the same numbers on every device, in every
dtype, and in NumPy itself: the functions have the names and arguments of `numpy.random.Generator`.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np

from .conversion import DEFAULT_DTYPE, to_dtype
from .errors import ArgumentError, describe, message, op_error
from .frames import thread
from .tensor import Tensor

Size = int | Sequence[int] | None
if TYPE_CHECKING:
    Rng = np.random.Generator | int | None
else:
    Rng = Any  # NumPy imports its generators when they are first asked for, and so do we

_default: np.random.Generator | None = None  # made when first drawn from

# ---- Generators -------------------------------------------------------------------------------------------------------------------


def seed(value: int) -> None:
    """Start the default generator anew, so that everything drawn from it repeats: initial weights, noise, samples.

    Whoever is given an `rng` draws from that one, which a seed here does not touch; NumPy's own generators are others as well.
    """
    global _default
    if not _is_seed(value):
        raise ArgumentError(message(f"seed: {value!r} is no seed", expected="an int >= 0"))
    _default = np.random.default_rng(int(value))


def generator(rng: Rng = None) -> np.random.Generator:
    """The generator to draw from: `rng` itself, a new one seeded with an int, or the default one."""
    global _default
    if rng is None:
        _default = chosen = _default or np.random.default_rng()
    elif isinstance(rng, np.random.Generator):
        chosen = rng
    elif _is_seed(rng):
        return np.random.default_rng(int(rng))
    else:
        raise ArgumentError(
            message(f"rng: {rng!r} is no generator", expected="a numpy.random.Generator, an int seed >= 0, or None")
        )
    if thread.modes.tracing is not None:
        thread.modes.tracing.refuse(
            "it draws random numbers, new ones at every step",
            expected="the same result for the same arguments",
            do="draw before the loop: a mask for all steps goes among the weights, numbers for each step go into xs",
        )
    for watch in _thread.watches:
        if id(rng) not in watch:
            watch[id(rng)] = rng, copy.deepcopy(dict(chosen.bit_generator.state))
    return chosen


def _is_seed(value: Any) -> TypeGuard[int]:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and int(value) >= 0


def get_state(rng: np.random.Generator | None = None) -> dict[str, Any]:
    """Where the generator stands, as plain numbers and strings that JSON can hold."""
    return copy.deepcopy(dict(generator(rng).bit_generator.state))


def set_state(state: Mapping[str, Any], rng: np.random.Generator | None = None) -> None:
    """Put the generator back to where `get_state` found it: it draws the same numbers again."""
    try:
        generator(rng).bit_generator.state = copy.deepcopy(dict(state))
    except (ValueError, TypeError, KeyError) as cause:
        raise ArgumentError(
            message(f"set_state: {cause}", expected="what get_state returned for the same kind of generator")
        ) from None


# ---- Drawing the same numbers again ----------------------------------------------------------------------------------------------------


class _Thread(threading.local):
    def __init__(self) -> None:
        self.watches: list[States] = []


_thread = _Thread()
States = dict[int, tuple[np.random.Generator | None, dict[str, Any]]]  # of generators (None: the default one), where each stood


@contextmanager
def watched() -> Iterator[States]:
    """Note each generator that somebody draws from within the block, and where it stood before."""
    states: States = {}
    _thread.watches.append(states)
    try:
        yield states
    finally:
        _thread.watches.pop()


@contextmanager
def again(states: States) -> Iterator[None]:
    """Put these generators back for the block, so that they draw the same numbers again; then on to where they stand now."""
    now = [(rng, get_state(rng)) for rng, _ in states.values()]
    try:
        for rng, state in states.values():
            set_state(state, rng)
        yield
    finally:
        for rng, state in now:
            set_state(state, rng)


# ---- Tensors of random numbers ------------------------------------------------------------------------------------------------------


def standard_normal(
    size: Size = None, *, rng: Rng = None, dtype: Any = DEFAULT_DTYPE, device: str = "cpu", requires_grad: bool = False
) -> Tensor:
    """Draw from the normal distribution of mean 0 and standard deviation 1."""
    return _draw("standard_normal", rng, dtype, device, requires_grad, size=size)


def normal(
    loc: Any = 0.0,
    scale: Any = 1.0,
    size: Size = None,
    *,
    rng: Rng = None,
    dtype: Any = DEFAULT_DTYPE,
    device: str = "cpu",
    requires_grad: bool = False,
) -> Tensor:
    """Draw from the normal distribution of mean `loc` and standard deviation `scale`."""
    return _draw("normal", rng, dtype, device, requires_grad, loc=loc, scale=scale, size=size)


def uniform(
    low: Any = 0.0,
    high: Any = 1.0,
    size: Size = None,
    *,
    rng: Rng = None,
    dtype: Any = DEFAULT_DTYPE,
    device: str = "cpu",
    requires_grad: bool = False,
) -> Tensor:
    """Draw evenly from [low, high); the rounding to float32 may reach `high` itself."""
    return _draw("uniform", rng, dtype, device, requires_grad, low=low, high=high, size=size)


def integers(
    low: Any, high: Any = None, size: Size = None, *, rng: Rng = None, dtype: Any = np.int64, device: str = "cpu"
) -> Tensor:
    """Draw integers evenly from low .. high - 1; with one bound from 0 .. low - 1."""
    return _draw("integers", rng, dtype, device, False, low=low, high=high, size=size)


def permutation(n: int, *, rng: Rng = None, device: str = "cpu") -> Tensor:
    """Draw an order of 0 .. n - 1."""
    if not isinstance(n, (int, np.integer)):
        raise ArgumentError(
            message(f"permutation: {describe(n)} is no number", expected="how many", do="x[tg.random.permutation(len(x))]")
        )
    return _draw("permutation", rng, np.int64, device, False, n=n)


def _draw(name: str, rng: Rng, dtype: Any, device: str, requires_grad: bool, **params: Any) -> Tensor:
    """What the method of that name of a NumPy generator draws, as a Tensor."""
    for parameter, value in params.items():
        if isinstance(value, Tensor):
            raise ArgumentError(
                message(
                    f"{name}: {parameter} is a Tensor, whose gradient would be lost",
                    expected="numbers",
                    do="y = loc + scale * tg.random.standard_normal(size) has one",
                )
            )
    source, dtype = generator(rng), to_dtype(dtype, name)
    try:
        drawn = getattr(source, name)(*params.values())
    except (ValueError, TypeError) as cause:
        raise op_error(name, [*params], [*params.values()], {}, cause, expects="", where="") from None
    return Tensor(np.asarray(drawn, dtype), device=device, requires_grad=requires_grad)
