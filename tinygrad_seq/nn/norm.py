"""Normalisation layers: what is learned, and the running statistics of batch normalisation. Formulas: `nn.functional.norm`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from .. import backend, guards
from ..errors import ArgumentError, ShapeError, message
from ..frames import thread
from ..graph import raw
from ..tensor import Tensor
from . import functional as F
from . import init
from .functional.norm import check_floats, sizes
from .module import Module, Parameter


class LayerNorm(Module):
    """Layer normalisation (Ba, Kiros & Hinton 2016) over the last axes, `normalized_shape`.

    weight (*normalized_shape) starts at one, bias at zero; elementwise_affine=False has neither, bias=False the weight alone.
    """

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        *,
        dtype: Any = "float32",
    ):
        self.normalized_shape, self.eps, self.elementwise_affine = _checked("LayerNorm", normalized_shape), eps, elementwise_affine
        self.weight = Parameter(np.ones(self.normalized_shape), dtype) if elementwise_affine else None
        self.bias = Parameter(np.zeros(self.normalized_shape), dtype) if elementwise_affine and bias else None

    def forward(self, x: Any) -> Any:
        """x (..., *normalized_shape) -> the same shape."""
        return F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        """The shape, and the settings that are not the usual ones."""
        return _settings(self.normalized_shape, _unless(self, eps=1e-5, elementwise_affine=True), _without_bias(self))


class RMSNorm(Module):
    """Root mean square normalisation (Zhang & Sennrich 2019) over the last axes, `normalized_shape`.

    weight (*normalized_shape) starts at one; elementwise_affine=False has none.
    """

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float | None = None,
        elementwise_affine: bool = True,
        *,
        dtype: Any = "float32",
    ):
        self.normalized_shape, self.eps, self.elementwise_affine = _checked("RMSNorm", normalized_shape), eps, elementwise_affine
        self.weight = Parameter(np.ones(self.normalized_shape), dtype) if elementwise_affine else None

    def forward(self, x: Any) -> Any:
        """x (..., *normalized_shape) -> the same shape."""
        return F.rms_norm(x, self.normalized_shape, self.weight, self.eps)

    def extra_repr(self) -> str:
        """The shape, and the settings that are not the usual ones."""
        return _settings(self.normalized_shape, _unless(self, eps=None, elementwise_affine=True))


class GroupNorm(Module):
    """Group normalisation (Wu & He 2018): over all places of each of `num_groups` groups of channels, for each example alone.

    weight (num_channels,) starts at one, bias at zero; affine=False has neither, bias=False the weight alone.
    """

    def __init__(
        self,
        num_groups: int,
        num_channels: int,
        eps: float = 1e-5,
        affine: bool = True,
        *,
        bias: bool = True,
        dtype: Any = "float32",
    ):
        init.check_sizes("GroupNorm", num_groups=num_groups, num_channels=num_channels)
        if num_channels % num_groups:
            raise ArgumentError(
                message(
                    f"GroupNorm: {num_channels} channels do not split into {num_groups} groups",
                    expected="a divisor of num_channels",
                )
            )
        self.num_groups, self.num_channels, self.eps, self.affine = num_groups, num_channels, eps, affine
        self.weight = Parameter(np.ones(num_channels), dtype) if affine else None
        self.bias = Parameter(np.zeros(num_channels), dtype) if affine and bias else None

    def forward(self, x: Any) -> Any:
        """x (B, num_channels, ...) -> the same shape."""
        check_floats("GroupNorm", x)
        if len(x.shape) < 2 or x.shape[1] != self.num_channels:
            raise ShapeError(message(f"GroupNorm: x is {tuple(x.shape)}", expected=f"x (B, {self.num_channels}, ...)"))
        return F.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        """The sizes, and the settings that are not the usual ones."""
        return _settings(self.num_groups, str(self.num_channels), _unless(self, eps=1e-5, affine=True), _without_bias(self))


class _BatchNorm(Module):
    """What batch normalisation of any number of axes shares."""

    axes: ClassVar[dict[int, str]] = {}  # how x may look, by its number of axes

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        *,
        bias: bool = True,
        dtype: Any = "float32",
    ):
        init.check_sizes(type(self).__name__, num_features=num_features)
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        self.affine, self.track_running_stats = affine, track_running_stats
        self.weight = Parameter(np.ones(num_features), dtype) if affine else None
        self.bias = Parameter(np.zeros(num_features), dtype) if affine and bias else None
        self.running_mean = Tensor(np.zeros(num_features), dtype) if track_running_stats else None
        self.running_var = Tensor(np.ones(num_features), dtype) if track_running_stats else None
        self.num_batches_tracked = Tensor(np.zeros((), np.int64)) if track_running_stats else None

    def forward(self, x: Any) -> Any:
        """x (B, num_features, ...) -> the same shape."""
        check_floats(type(self).__name__, x)
        if len(x.shape) not in self.axes:
            raise ShapeError(message(f"{type(self).__name__}: x is {tuple(x.shape)}", expected=" or ".join(self.axes.values())))
        momentum = self.momentum
        if self.training and self.num_batches_tracked is not None and not thread.modes.recomputing:
            count = raw(self.num_batches_tracked)
            count += 1
            guards.wrote(count)
            if momentum is None:  # every batch counts the same
                momentum = 1 / int(backend.to_numpy(count))
        training = self.training or not self.track_running_stats
        return F.batch_norm(
            x,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            training,
            0.0 if momentum is None else momentum,
            self.eps,
        )

    def reset_running_stats(self) -> None:
        """Forget the running statistics: mean 0, variance 1."""
        for buffer, value in ((self.running_mean, 0), (self.running_var, 1), (self.num_batches_tracked, 0)):
            if buffer is not None:
                init.constant_(buffer, value)

    def extra_repr(self) -> str:
        """The number of channels, and the settings that are not the usual ones."""
        unusual = _unless(self, eps=1e-5, momentum=0.1, affine=True, track_running_stats=True)
        return _settings(self.num_features, unusual, _without_bias(self))


class BatchNorm1d(_BatchNorm):
    """Batch normalisation (Ioffe & Szegedy 2015) of x (B, C) or (B, C, L): each channel over the batch and the length.

    weight (C,) starts at one, bias at zero; affine=False has neither, bias=False the weight alone. While training, the running statistics move towards those of the batch by `momentum`
    (None: their plain average), and in evaluation they are used; track_running_stats=False always uses the batch's.
    """

    axes: ClassVar[dict[int, str]] = {2: "x (B, C)", 3: "x (B, C, L)"}


class BatchNorm2d(_BatchNorm):
    """Batch normalisation of x (B, C, H, W): each channel over the batch and all places. Otherwise as `BatchNorm1d`."""

    axes: ClassVar[dict[int, str]] = {4: "x (B, C, H, W)"}


def _checked(who: str, normalized_shape: Any) -> tuple[int, ...]:
    shape = sizes(normalized_shape)
    init.check_sizes(who, **{f"normalized_shape[{i}]": size for i, size in enumerate(shape)})
    return shape


def _unless(module: Module, **usual: Any) -> str:
    return ", ".join(f"{name}={getattr(module, name)!r}" for name, value in usual.items() if getattr(module, name) != value)


def _without_bias(module: Any) -> str:
    return "bias=False" if module.weight is not None and module.bias is None else ""


def _settings(first: Any, *others: str) -> str:
    return ", ".join([str(first), *filter(None, others)])
