"""Activations that NumPy has no name for: numbers, kinks and the gradient at the kinks are PyTorch's.

Sigmoid and tanh are ops (`tg.sigmoid`, `tg.tanh`), softmax has a file of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ... import backend
from ...errors import ArgumentError, AxisError, ShapeError, describe, message
from ...fusion import fused
from ...graph import raw
from ...ops import abs, erf, exp, greater, greater_equal, less, less_equal, logical_or, minimum, sigmoid, split, tanh, where
from ...ops.broadcast import elementwise
from ...primitives import backward_of, defvjp
from .linear import single

# ---- Rectifiers --------------------------------------------------------------------------------------------------------------------


@elementwise
def relu(x: Any) -> Any:
    """Rectifier max(x, 0). At the kink x = 0 the gradient is 0."""
    return np.maximum(x, 0)


defvjp(relu, lambda g, y, x: where(less_equal(y, 0), 0, g))  # so a NaN gets its gradient, and no gradient of NaN gets through


@elementwise
def leaky_relu(x: Any, negative_slope: float = 0.01) -> Any:
    """Leaky rectifier (Maas et al. 2013): x where x > 0, else negative_slope · x."""
    return np.maximum(x, 0) + negative_slope * np.minimum(x, 0)


defvjp(leaky_relu, lambda g, y, x, negative_slope=0.01: where(greater(x, 0), g, negative_slope * g))


@elementwise
def _prelu(x: Any, weight: Any, /) -> Any:
    return np.maximum(x, 0) + weight * np.minimum(x, 0)


defvjp(
    _prelu,
    lambda g, y, x, weight: where(greater(x, 0), g, g * weight),
    lambda g, y, x, weight: g * minimum(x, 0),
)


def prelu(x: Any, weight: Any) -> Any:
    """Rectifier with a learned slope below 0 (He et al. 2015): max(x, 0) + weight · min(x, 0).

    weight (1,), or (C,) for the channels of x (B, C, ...) -> the shape of x.
    """
    for name, array in (("x", single("prelu", x)), ("weight", weight)):
        if not hasattr(array, "shape"):
            raise ArgumentError(message(f"prelu: {name} is {describe(array)}", expected="an array", do="tg.tensor(...)"))
    shape, count = raw(x).shape, math.prod(weight.shape)
    if count == 1:
        return _prelu(x, weight.reshape(()) if len(shape) == 0 else weight)
    if len(shape) < 2 or shape[1] != count:
        raise ShapeError(
            message(f"prelu: {count} slopes do not fit x {describe(raw(x))}", expected=f"x (B, {count}, ...), or one slope")
        )
    return _prelu(x, weight.reshape((count, *(1,) * (len(shape) - 2))))


@elementwise
def hardtanh(x: Any, min_val: float = -1.0, max_val: float = 1.0) -> Any:
    """The nearest number within [min_val, max_val]. Unlike `tg.clip` it has gradient 0 at the limits themselves."""
    return np.clip(x, min_val, max_val)


defvjp(
    hardtanh,
    lambda g, y, x, min_val=-1.0, max_val=1.0: where(logical_or(less_equal(x, min_val), greater_equal(x, max_val)), 0, g),
)


def relu6(x: Any) -> Any:
    """Rectifier with a ceiling, min(max(x, 0), 6)."""
    return hardtanh(x, min_val=0.0, max_val=6.0)


def hardsigmoid(x: Any) -> Any:
    """Sigmoid in three straight pieces, min(max(x + 3, 0), 6) / 6."""
    return relu6(x + 3) / 6


@elementwise
def hardswish(x: Any) -> Any:
    """SiLU with the sigmoid in three straight pieces, x min(max(x + 3, 0), 6) / 6 (Howard et al. 2019)."""
    return x * (np.clip(x + 3, 0, 6) / 6)


defvjp(hardswish, lambda g, y, x: where(less_equal(x, -3), 0, g * where(less(x, 3), x / 3 + 0.5, 1)))

# ---- Exponential pieces ------------------------------------------------------------------------------------------------------------


@elementwise
def elu(x: Any, alpha: float = 1.0) -> Any:
    """Exponential linear unit (Clevert et al. 2016): x where x > 0, else alpha (e^x - 1)."""
    return np.maximum(x, 0) + alpha * np.expm1(np.minimum(x, 0))


defvjp(elu, lambda g, y, x, alpha=1.0: g * where(greater(x, 0), 1, alpha * exp(minimum(x, 0))))

SELU_ALPHA, SELU_SCALE = 1.6732632423543772848170429916717, 1.0507009873554804934193349852946


def selu(x: Any) -> Any:
    """Self-normalising `elu` (Klambauer et al. 2017): scaled so that layers keep mean 0 and variance 1."""
    return SELU_SCALE * elu(x, alpha=SELU_ALPHA)


@elementwise
def softplus(x: Any, beta: float = 1.0, threshold: float = 20.0) -> Any:
    """Smooth rectifier log(1 + e^(beta x)) / beta; x itself where beta x > threshold."""
    z = x * beta
    return where(z > threshold, x, (np.maximum(z, 0) + np.log1p(np.exp(-np.abs(z)))) / beta)


defvjp(softplus, lambda g, y, x, beta=1.0, threshold=20.0: g * where(greater(x * beta, threshold), 1, sigmoid(x * beta)))


@elementwise
def logsigmoid(x: Any) -> Any:
    """Logarithm of the sigmoid, exact for x of any size."""
    return np.minimum(x, 0) - np.log1p(np.exp(-np.abs(x)))


defvjp(logsigmoid, lambda g, y, x: g * sigmoid(-x))

# ---- x times a gate that it opens itself ---------------------------------------------------------------------------------------------


def gelu(x: Any, approximate: str = "none") -> Any:
    """Gaussian error linear unit (Hendrycks & Gimpel 2016): x times the probability that a standard normal number is below x.

    y = x Φ(x) = x (1 + erf(x / √2)) / 2
    approximate="tanh":  y = x (1 + tanh(u)) / 2 = x σ(2u),  u = √(2/π) (x + 0.044715 x³)
    """
    if approximate not in ("none", "tanh"):
        raise ArgumentError(message(f"gelu: approximate = {approximate!r} is not known", expected="'none' or 'tanh'"))
    return _gelu(single("gelu", x)) if approximate == "none" else _gelu_tanh(single("gelu", x))


def silu(x: Any) -> Any:
    """Sigmoid linear unit, also called swish (Elfwing et al. 2018): x σ(x)."""
    return _silu(single("silu", x))


def mish(x: Any) -> Any:
    """Mish (Misra 2019): x tanh(log(1 + e^x))."""
    return _mish(single("mish", x))


def _self_gated(name: str, gate: Callable[[Any], Any], gate_and_slope: Callable[[Any], tuple[Any, Any]]) -> Callable[[Any], Any]:
    """The op y = x s(x) with dy/dx = s(x) + x s'(x), both computed in one go, block after block that fits in the cache."""

    def equation(x: Any, /) -> Any:
        return x * gate(x)

    def kernel(x: Any, /) -> Any:
        xp, flat = backend.array_module(x), x.reshape(-1)
        y, slope = xp.empty_like(flat), xp.empty_like(flat)
        block = BLOCK if xp is np else max(flat.size, 1)
        wide = np.float32 if x.dtype == np.float16 else x.dtype  # the square of a half overflows at 256
        for at in range(0, flat.size, block):
            part = flat[at : at + block].astype(wide, copy=False)
            s, ds = gate_and_slope(part)
            np.multiply(part, s, out=y[at : at + block])
            ds *= part
            np.add(s, ds, out=slope[at : at + block])
        return y.reshape(x.shape), slope.reshape(x.shape)

    kernel.__name__ = name
    op = fused(equation)(kernel)
    backward_of(op)(lambda g, y, slope, x: (g * slope,))
    return lambda x: op(x) if getattr(getattr(x, "dtype", None), "kind", "") == "f" else equation(_as_array(x))


def _as_array(x: Any) -> Any:
    """A list of numbers as an array; whatever else stays as it is."""
    return np.asarray(x) if isinstance(x, (list, tuple)) else x


BLOCK = 2**14  # elements


@elementwise
def _normal_cdf(x: Any) -> Any:
    return 0.5 * (1 + erf(x * math.sqrt(0.5)))


defvjp(_normal_cdf, lambda g, y, x: g * (exp(-0.5 * x * x) * (1 / math.sqrt(2 * math.pi))))


def _normal(x: Any) -> tuple[Any, Any]:
    """Φ(x) and φ(x). In float32 on the CPU, erf is Abramowitz & Stegun 7.1.26: exact to 1.5e-7, and much shorter than scipy's."""
    density = np.exp(-0.5 * x * x)
    if x.dtype != np.float32 or backend.array_module(x) is not np:
        return _normal_cdf(x), density * (1 / math.sqrt(2 * math.pi))
    t = np.abs(x)
    t *= 0.3275911 * math.sqrt(0.5)
    t += 1
    np.divide(1, t, out=t)
    half = t * (0.5 * 1.061405429)
    for coefficient in (-1.453152027, 1.421413741, -0.284496736, 0.254829592):
        half += 0.5 * coefficient
        half *= t
    half *= density  # 1 - Φ(|x|)
    np.subtract(0.5, half, out=half)
    np.copysign(half, x, out=half)
    half += 0.5
    density *= 1 / math.sqrt(2 * math.pi)
    return half, density


def _tanh_of_softplus(x: Any) -> tuple[Any, Any]:
    """tanh(log(1 + e^x)) and its derivative."""
    s = tanh(softplus(x))
    return s, (1 - s * s) * sigmoid(x)


def _logistic(x: Any) -> tuple[Any, Any]:
    """σ(x) and σ'(x)."""
    s = sigmoid(x)
    return s, s - s * s


CUBIC, SCALE = 0.044715, math.sqrt(8 / math.pi)


def _logistic_of_cubic(x: Any) -> tuple[Any, Any]:
    """σ(2u) and its derivative by x."""
    squares = x * x
    s, ds = _logistic((squares * CUBIC + 1) * x * SCALE)
    squares *= 3 * CUBIC * SCALE
    squares += SCALE
    ds *= squares
    return s, ds


_gelu = _self_gated("gelu", _normal_cdf, _normal)
_gelu_tanh = _self_gated("gelu_tanh", lambda x: sigmoid((x * x * CUBIC + 1) * x * SCALE), _logistic_of_cubic)
_silu = _self_gated("silu", sigmoid, _logistic)
_mish = _self_gated("mish", lambda x: tanh(softplus(x)), _tanh_of_softplus)


def glu(x: Any, axis: int = -1) -> Any:
    """Gated linear unit (Dauphin et al. 2017): half of x gates the other half, a σ(b) with x = [a, b] along `axis`."""
    shape = np.shape(raw(single("glu", x)))
    if not -len(shape) <= axis < len(shape):
        raise AxisError(message(f"glu: axis {axis} is out of bounds", got=f"x {describe(raw(x))}"))
    if shape[axis] % 2:
        raise ShapeError(message(f"glu: x {describe(raw(x))} has no halves along axis {axis}", expected="an even size"))
    a, b = split(x, 2, axis=axis)
    return a * sigmoid(b)


def softsign(x: Any) -> Any:
    """x / (1 + |x|)."""
    return x / (1 + abs(x))
