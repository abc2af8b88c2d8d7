"""How parameters start. PyTorch's distributions, so that results compare.

Numbers are drawn on the host from `rng` (a generator, a seed, or None for the default that `tg.seed` sets), in the order in which
a module makes its parameters. The functions that end in _ fill a parameter in place and return it:

    for name, p in model.named_parameters():
        if "weight_hh" in name:
            nn.init.orthogonal_(p)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from .. import backend, guards
from ..errors import ArgumentError, ShapeError, describe, message
from ..random import Rng, generator
from ..tensor import Tensor
from .module import Module, Parameter

P = TypeVar("P", bound=Tensor)


def check_sizes(who: str, **sizes: int) -> None:
    """Raise unless every size, named as its argument is, is a positive integer."""
    for name, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, (int, np.integer)) or size < 1:
            raise ArgumentError(message(f"{who}: {name} = {size!r}", expected="a positive integer"))


def uniform(shape: tuple[int, ...], bound: float, *, rng: Rng = None, dtype: Any = np.float32) -> Parameter:
    """A parameter drawn uniformly from [-bound, bound)."""
    return Parameter(generator(rng).uniform(-bound, bound, shape), dtype)


def normal(shape: tuple[int, ...], std: float = 1.0, *, rng: Rng = None, dtype: Any = np.float32) -> Parameter:
    """A parameter drawn from a normal distribution with mean 0."""
    return Parameter(generator(rng).normal(0.0, std, shape), dtype)


# ---- In place: plain distributions ---------------------------------------------------------------------------------------------------


def uniform_(p: P, a: float = 0.0, b: float = 1.0, *, rng: Rng = None) -> P:
    """Draw every entry evenly from [a, b)."""
    _check_order("uniform_", a, b)
    return _filled("uniform_", p, lambda: generator(rng).uniform(a, b, p.shape))


def normal_(p: P, mean: float = 0.0, std: float = 1.0, *, rng: Rng = None) -> P:
    """Draw every entry from the normal distribution of that mean and standard deviation."""
    if std < 0:
        raise ArgumentError(message(f"normal_: std = {std}", expected="a standard deviation, not negative"))
    return _filled("normal_", p, lambda: generator(rng).normal(mean, std, p.shape))


def trunc_normal_(p: P, mean: float = 0.0, std: float = 1.0, a: float = -2.0, b: float = 2.0, *, rng: Rng = None) -> P:
    """Draw every entry from the normal distribution of that mean and standard deviation, given that it lies in [a, b]."""
    from scipy.special import ndtr, ndtri

    _check_order("trunc_normal_", a, b)
    low, high = (a - mean) / std, (b - mean) / std
    side = -1 if low > 0 else 1  # the tail below 0 has more digits than the one above

    def draw() -> Any:
        limits = sorted((ndtr(side * low), ndtr(side * high)))
        share = generator(rng).uniform(limits[0], limits[1], p.shape)
        return np.clip(mean + std * side * ndtri(share), a, b)

    return _filled("trunc_normal_", p, draw)


def constant_(p: P, val: float) -> P:
    """Make every entry `val`."""
    return _filled("constant_", p, lambda: np.full(p.shape, val))


def zeros_(p: P) -> P:
    """Make every entry 0."""
    return _filled("zeros_", p, lambda: np.zeros(p.shape))


def ones_(p: P) -> P:
    """Make every entry 1."""
    return _filled("ones_", p, lambda: np.ones(p.shape))


def eye_(p: P) -> P:
    """Make a matrix the identity: ones on its diagonal, zeros elsewhere. (An RNN that starts by remembering: Le, Jaitly & Hinton 2015.)"""
    _check_leaf("eye_", p)
    if p.ndim != 2:
        raise ShapeError(message(f"eye_: got {describe(p)}", expected="a matrix"))
    return _filled("eye_", p, lambda: np.eye(p.shape[0], p.shape[1]))


# ---- In place: scaled to what goes in and out ------------------------------------------------------------------------------------------


def xavier_uniform_(p: P, gain: float = 1.0, *, rng: Rng = None) -> P:
    """Draw evenly within ±gain sqrt(6 / (fan_in + fan_out)) (Glorot & Bengio 2010)."""
    bound = gain * math.sqrt(6 / sum(_fans("xavier_uniform_", p)))
    return uniform_(p, -bound, bound, rng=rng)


def xavier_normal_(p: P, gain: float = 1.0, *, rng: Rng = None) -> P:
    """Draw from the normal distribution of mean 0 and standard deviation gain sqrt(2 / (fan_in + fan_out)) (Glorot & Bengio 2010)."""
    return normal_(p, 0.0, gain * math.sqrt(2 / sum(_fans("xavier_normal_", p))), rng=rng)


def kaiming_uniform_(p: P, a: float = 0.0, mode: str = "fan_in", nonlinearity: str = "leaky_relu", *, rng: Rng = None) -> P:
    """Draw evenly within ±gain sqrt(3 / fan) (He et al. 2015). a: the slope of a leaky rectifier below 0."""
    bound = calculate_gain(nonlinearity, a) * math.sqrt(3 / _fan("kaiming_uniform_", p, mode))
    return uniform_(p, -bound, bound, rng=rng)


def kaiming_normal_(p: P, a: float = 0.0, mode: str = "fan_in", nonlinearity: str = "leaky_relu", *, rng: Rng = None) -> P:
    """Draw from the normal distribution of mean 0 and standard deviation gain / sqrt(fan) (He et al. 2015)."""
    return normal_(p, 0.0, calculate_gain(nonlinearity, a) / math.sqrt(_fan("kaiming_normal_", p, mode)), rng=rng)


def orthogonal_(p: P, gain: float = 1.0, *, rng: Rng = None) -> P:
    """Make a matrix orthogonal, times `gain`: W W^T = gain² I, or W^T W where it has more rows than columns (Saxe et al. 2014).

    It is drawn evenly from all orthogonal ones: the factor Q of a normal matrix, its columns flipped so that the diagonal of R is
    positive. The axes from the second on count as columns.
    """
    _check_leaf("orthogonal_", p, axes=2)
    rows, columns = p.shape[0], math.prod(p.shape[1:])

    def draw() -> Any:
        drawn = generator(rng).standard_normal((rows, columns))
        q, r = np.linalg.qr(drawn.T if rows < columns else drawn)
        q *= np.sign(np.diag(r))
        return gain * (q.T if rows < columns else q).reshape(p.shape)

    return _filled("orthogonal_", p, draw)


def calculate_gain(nonlinearity: str, param: float | None = None) -> float:
    """The factor by which a nonlinearity shrinks the standard deviation of what passes, to make up for in its weights."""
    slope = 0.01 if param is None else param
    gains = dict.fromkeys(("linear", "conv1d", "conv2d", "conv_transpose1d", "conv_transpose2d", "sigmoid"), 1.0)
    gains |= {"tanh": 5 / 3, "relu": math.sqrt(2), "leaky_relu": math.sqrt(2 / (1 + slope**2)), "selu": 3 / 4}
    if nonlinearity not in gains:
        raise ArgumentError(message(f"calculate_gain: nonlinearity {nonlinearity!r} is not known", expected=", ".join(gains)))
    return gains[nonlinearity]


# ---- Helpers -----------------------------------------------------------------------------------------------------------------------------


def _filled(who: str, p: P, draw: Callable[[], Any]) -> P:
    """The parameter itself, with the values that `draw` makes on the host."""
    _check_leaf(who, p)
    p._data[...] = backend.array_module(p._data).asarray(np.asarray(draw(), p.dtype))
    guards.wrote(p._data)
    return p


def _check_leaf(who: str, p: Any, axes: int = 0) -> None:
    """Raise unless p is a leaf with at least so many axes."""
    if not isinstance(p, Tensor):
        do = f"{who}(module.weight)" if isinstance(p, Module) else "nn.Parameter(array)"
        raise ArgumentError(message(f"{who}: got {describe(p)}", expected="a parameter", do=do))
    if not p.is_leaf:
        raise ArgumentError(message(f"{who}: got the result of an operation", expected="a parameter, or another leaf"))
    if p.ndim < axes:
        raise ShapeError(message(f"{who}: got {describe(p)}", expected="a weight (out, in, ...)", do="init.zeros_(p) for a bias"))


def _check_order(who: str, a: float, b: float) -> None:
    if a > b:
        raise ArgumentError(message(f"{who}: a = {a}, b = {b}", expected="a <= b"))


def _fans(who: str, p: Tensor) -> tuple[int, int]:
    """How many numbers go into and come out of a unit: weight (out, in, *window)."""
    _check_leaf(who, p, axes=2)
    window = math.prod(p.shape[2:])
    return p.shape[1] * window, p.shape[0] * window


def _fan(who: str, p: Tensor, mode: str) -> int:
    if mode not in ("fan_in", "fan_out"):
        raise ArgumentError(message(f"{who}: mode {mode!r} is not known", expected="'fan_in' or 'fan_out'"))
    return _fans(who, p)[mode == "fan_out"]
