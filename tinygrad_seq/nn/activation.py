"""Activations as layers, to stand in a `Sequential`. Each is one call; the formulas are in `nn.functional` and `ops`."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import ops
from . import functional as F
from .init import check_sizes
from .module import Module, Parameter


class _Activation(Module):
    """A function of each element; the repr shows the settings that are not the usual ones."""

    def extra_repr(self) -> str:
        """The settings."""
        return ", ".join(f"{name}={value!r}" for name, value in vars(self).items() if name[0] != "_" and name != "training")


class ReLU(_Activation):
    """Rectifier max(x, 0)."""

    def forward(self, x: Any) -> Any:
        """x of any shape -> the same."""
        return F.relu(x)


class ReLU6(_Activation):
    """Rectifier with a ceiling, min(max(x, 0), 6)."""

    def forward(self, x: Any) -> Any:
        """x of any shape -> the same."""
        return F.relu6(x)


class LeakyReLU(_Activation):
    """Leaky rectifier (Maas et al. 2013): x where x > 0, else negative_slope · x."""

    def __init__(self, negative_slope: float = 0.01):
        self.negative_slope = negative_slope

    def forward(self, x: Any) -> Any:
        """x of any shape -> the same."""
        return F.leaky_relu(x, self.negative_slope)


class PReLU(_Activation):
    """Rectifier with a learned slope below 0 (He et al. 2015), one for all or one for each of `num_parameters` channels.

    weight (num_parameters,) starts at `init`.
    """

    def __init__(self, num_parameters: int = 1, init: float = 0.25, *, dtype: Any = "float32"):
        check_sizes("PReLU", num_parameters=num_parameters)
        self.weight = Parameter(np.full(num_parameters, init), dtype)

    def forward(self, x: Any) -> Any:
        """x of any shape, or (B, num_parameters, ...) -> the same."""
        return F.prelu(x, self.weight)

    def extra_repr(self) -> str:
        """The number of slopes."""
        return f"num_parameters={self.weight.size}"


class Hardtanh(_Activation):
    """The nearest number within [min_val, max_val]."""

    def __init__(self, min_val: float = -1.0, max_val: float = 1.0):
        self.min_val, self.max_val = min_val, max_val

    def forward(self, x: Any) -> Any:
        """x of any shape -> the same."""
        return F.hardtanh(x, self.min_val, self.max_val)


class Hardsigmoid(_Activation):
    """Sigmoid in three straight pieces, min(max(x + 3, 0), 6) / 6."""

    def forward(self, x: Any) -> Any:
        """x of any shape -> the same."""
        return F.hardsigmoid(x)


class Hardswish(_Activation):
    """SiLU with the sigmoid in three straight pieces (Howard et al. 2019)."""

    def forward(self, x: Any) -> Any:
        """x of any shape -> the same."""
        return F.hardswish(x)


class ELU(_Activation):
    """Exponential linear unit (Clevert et al. 2016): x where x > 0, else alpha (e^x - 1)."""

    def __init__(self, alpha: float = 1.0):
        self.alpha = alpha

    def forward(self, x: Any) -> Any:
        """x of any shape -> the same."""
        return F.elu(x, self.alpha)


class SELU(_Activation):
    """Self-normalising exponential linear unit (Klambauer et al. 2017)."""

    def forward(self, x: Any) -> Any:
        """x of any shape -> the same."""
        return F.selu(x)


class Softplus(_Activation):
    """Smooth rectifier log(1 + e^(beta x)) / beta; x itself where beta x > threshold."""

    def __init__(self, beta: float = 1.0, threshold: float = 20.0):
        self.beta, self.threshold = beta, threshold

    def forward(self, x: Any) -> Any:
        """x of any shape -> the same."""
        return F.softplus(x, self.beta, self.threshold)


class LogSigmoid(_Activation):
    """Logarithm of the sigmoid."""

    def forward(self, x: Any) -> Any:
        """x of any shape -> the same."""
        return F.logsigmoid(x)


class GELU(_Activation):
    """Gaussian error linear unit (Hendrycks & Gimpel 2016): x Φ(x); approximate="tanh" replaces Φ by a sigmoid."""

    def __init__(self, approximate: str = "none"):
        self.approximate = approximate

    def forward(self, x: Any) -> Any:
        """x of any shape -> the same."""
        return F.gelu(x, self.approximate)


class SiLU(_Activation):
    """Sigmoid linear unit, also called swish: x σ(x)."""

    def forward(self, x: Any) -> Any:
        """x of any shape -> the same."""
        return F.silu(x)


class Mish(_Activation):
    """Mish (Misra 2019): x tanh(log(1 + e^x))."""

    def forward(self, x: Any) -> Any:
        """x of any shape -> the same."""
        return F.mish(x)


class GLU(_Activation):
    """Gated linear unit (Dauphin et al. 2017): a σ(b), where a and b are the halves of x along `axis`."""

    def __init__(self, axis: int = -1):
        self.axis = axis

    def forward(self, x: Any) -> Any:
        """x (..., 2H) -> (..., H)."""
        return F.glu(x, self.axis)


class Softsign(_Activation):
    """x / (1 + |x|)."""

    def forward(self, x: Any) -> Any:
        """x of any shape -> the same."""
        return F.softsign(x)


class Sigmoid(_Activation):
    """Logistic function 1 / (1 + e^-x)."""

    def forward(self, x: Any) -> Any:
        """x of any shape -> the same."""
        return ops.sigmoid(x)


class Tanh(_Activation):
    """Hyperbolic tangent."""

    def forward(self, x: Any) -> Any:
        """x of any shape -> the same."""
        return ops.tanh(x)


class Softmax(_Activation):
    """The distribution e^(x_i) / sum_j e^(x_j) along `axis`."""

    def __init__(self, axis: int = -1):
        self.axis = axis

    def forward(self, x: Any) -> Any:
        """x of any shape -> the same."""
        return F.softmax(x, self.axis)


class LogSoftmax(_Activation):
    """Logarithm of the softmax along `axis`."""

    def __init__(self, axis: int = -1):
        self.axis = axis

    def forward(self, x: Any) -> Any:
        """x of any shape -> the same."""
        return F.log_softmax(x, self.axis)
