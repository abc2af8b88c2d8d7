"""Pooling as layers: they have settings, and nothing to learn."""

from __future__ import annotations

from typing import Any

from . import functional as F
from .module import Module


class _MaxPool(Module):
    def __init__(
        self,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        dilation: Any = 1,
        return_indices: bool = False,
        ceil_mode: bool = False,
    ):
        self.kernel_size, self.stride = kernel_size, kernel_size if stride is None else stride
        self.padding, self.dilation, self.return_indices, self.ceil_mode = padding, dilation, return_indices, ceil_mode

    def _settings(self) -> tuple[Any, ...]:
        return self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode, self.return_indices

    def extra_repr(self) -> str:
        """The settings, as PyTorch prints them."""
        sizes = f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}, dilation={self.dilation}"
        return f"{sizes}, ceil_mode={self.ceil_mode}" + (", return_indices=True" if self.return_indices else "")


class MaxPool1d(_MaxPool):
    """The largest number in each window over one axis: `nn.functional.max_pool1d`.

    x (N, C, L) or (C, L) -> (N, C, L') or (C, L'); with return_indices=True also where the maxima stand.
    """

    def forward(self, x: Any) -> Any:
        """x (N, C, L) -> (N, C, L')."""
        return F.max_pool1d(x, *self._settings())


class MaxPool2d(_MaxPool):
    """The largest number in each window over two axes: `nn.functional.max_pool2d`.

    x (N, C, H, W) or (C, H, W) -> (N, C, H', W') or (C, H', W'); with return_indices=True also where the maxima stand.
    """

    def forward(self, x: Any) -> Any:
        """x (N, C, H, W) -> (N, C, H', W')."""
        return F.max_pool2d(x, *self._settings())


class AvgPool1d(Module):
    """The mean of each window over one axis: `nn.functional.avg_pool1d`.

    x (N, C, L) or (C, L) -> (N, C, L') or (C, L').
    """

    def __init__(
        self, kernel_size: Any, stride: Any = None, padding: Any = 0, ceil_mode: bool = False, count_include_pad: bool = True
    ):
        self.kernel_size, self.stride = kernel_size, kernel_size if stride is None else stride
        self.padding, self.ceil_mode, self.count_include_pad = padding, ceil_mode, count_include_pad

    def forward(self, x: Any) -> Any:
        """x (N, C, L) -> (N, C, L')."""
        return F.avg_pool1d(x, self.kernel_size, self.stride, self.padding, self.ceil_mode, self.count_include_pad)

    def extra_repr(self) -> str:
        """The settings, those that are not as usual among them."""
        return _settings_of_avg(self)


class AvgPool2d(Module):
    """The mean of each window over two axes, or its sum divided by `divisor_override`: `nn.functional.avg_pool2d`.

    x (N, C, H, W) or (C, H, W) -> (N, C, H', W') or (C, H', W').
    """

    def __init__(
        self,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ):
        self.kernel_size, self.stride = kernel_size, kernel_size if stride is None else stride
        self.padding, self.ceil_mode, self.count_include_pad = padding, ceil_mode, count_include_pad
        self.divisor_override = divisor_override

    def forward(self, x: Any) -> Any:
        """x (N, C, H, W) -> (N, C, H', W')."""
        sizes = self.kernel_size, self.stride, self.padding
        return F.avg_pool2d(x, *sizes, self.ceil_mode, self.count_include_pad, self.divisor_override)

    def extra_repr(self) -> str:
        """The settings, those that are not as usual among them."""
        divisor = "" if self.divisor_override is None else f", divisor_override={self.divisor_override}"
        return _settings_of_avg(self) + divisor


def _settings_of_avg(pool: AvgPool1d | AvgPool2d) -> str:
    text = f"kernel_size={pool.kernel_size}, stride={pool.stride}, padding={pool.padding}"
    return text + (", ceil_mode=True" if pool.ceil_mode else "") + ("" if pool.count_include_pad else ", count_include_pad=False")


class _Adaptive(Module):
    def __init__(self, output_size: Any):
        self.output_size = output_size

    def extra_repr(self) -> str:
        """The output size."""
        return f"output_size={self.output_size}"


class AdaptiveAvgPool1d(_Adaptive):
    """The means of `output_size` windows that cover the axis: `nn.functional.adaptive_avg_pool1d`.

    x (N, C, L) or (C, L) -> (N, C, output_size) or (C, output_size).
    """

    def forward(self, x: Any) -> Any:
        """x (N, C, L) -> (N, C, output_size)."""
        return F.adaptive_avg_pool1d(x, self.output_size)


class AdaptiveAvgPool2d(_Adaptive):
    """The means of windows that cover both axes: `nn.functional.adaptive_avg_pool2d`. An output size of None keeps that axis.

    x (N, C, H, W) or (C, H, W) -> (N, C, *output_size) or (C, *output_size).
    """

    def forward(self, x: Any) -> Any:
        """x (N, C, H, W) -> (N, C, *output_size)."""
        return F.adaptive_avg_pool2d(x, self.output_size)


class _AdaptiveMax(_Adaptive):
    def __init__(self, output_size: Any, return_indices: bool = False):
        super().__init__(output_size)
        self.return_indices = return_indices


class AdaptiveMaxPool1d(_AdaptiveMax):
    """The largest numbers of `output_size` windows that cover the axis: `nn.functional.adaptive_max_pool1d`.

    x (N, C, L) or (C, L) -> (N, C, output_size) or (C, output_size); with return_indices=True also where they stand.
    """

    def forward(self, x: Any) -> Any:
        """x (N, C, L) -> (N, C, output_size)."""
        return F.adaptive_max_pool1d(x, self.output_size, self.return_indices)


class AdaptiveMaxPool2d(_AdaptiveMax):
    """The largest numbers of windows that cover both axes: `nn.functional.adaptive_max_pool2d`. An output size of None keeps that axis.

    x (N, C, H, W) or (C, H, W) -> (N, C, *output_size) or (C, *output_size); with return_indices=True also where they stand.
    """

    def forward(self, x: Any) -> Any:
        """x (N, C, H, W) -> (N, C, *output_size)."""
        return F.adaptive_max_pool2d(x, self.output_size, self.return_indices)
