"""Convolutions, and transposed ones, as layers."""

from __future__ import annotations

import math
from typing import Any

from ..errors import ArgumentError, ShapeError, message
from ..ops import pad
from ..random import Rng, generator
from . import functional as F
from . import init
from .functional.windows import Sizes, per_axis
from .module import Module

PADDING_MODES = {
    "zeros": "constant",
    "reflect": "reflect",
    "replicate": "edge",
    "circular": "wrap",
}  # PyTorch's names, and those of `pad`


class _Convolution(Module):
    """What the four have in common: sizes, parameters and the way they print.

    weight and bias start uniform in ±1/sqrt(fan), fan = inputs of one output, as in PyTorch.
    """

    axes: int  # of space
    transposed = False

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any,
        padding: Any,
        dilation: Any,
        groups: int,
        bias: bool,
        padding_mode: str,
        output_padding: Any,
        rng: Rng,
        dtype: Any,
    ):
        who = type(self).__name__
        init.check_sizes(who, in_channels=in_channels, out_channels=out_channels, groups=groups)
        if in_channels % groups or out_channels % groups:
            raise ShapeError(
                message(
                    f"{who}: groups = {groups}", expected="a divisor of both", got=f"{in_channels} inputs, {out_channels} outputs"
                )
            )
        if padding_mode not in PADDING_MODES or (self.transposed and padding_mode != "zeros"):
            expected = "'zeros'" if self.transposed else ", ".join(map(repr, PADDING_MODES))
            raise ArgumentError(message(f"{who}: padding_mode = {padding_mode!r}", expected=expected))
        if isinstance(padding, str) and (self.transposed or padding not in ("same", "valid")):
            expected = "integers" if self.transposed else "integers, 'same' or 'valid'"
            raise ArgumentError(message(f"{who}: padding = {padding!r}", expected=expected))
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size = per_axis(who, "kernel_size", kernel_size, self.axes)
        self.stride = per_axis(who, "stride", stride, self.axes)
        self.padding: Any = padding if isinstance(padding, str) else per_axis(who, "padding", padding, self.axes, 0)
        self.dilation = per_axis(who, "dilation", dilation, self.axes)
        self.output_padding = per_axis(who, "output_padding", output_padding, self.axes, 0)
        self.padding_mode = padding_mode
        first, second = (in_channels, out_channels) if self.transposed else (out_channels, in_channels)
        shape = (first, second // groups, *self.kernel_size)
        bound, rng = 1 / math.sqrt(math.prod(shape[1:])), generator(rng)
        self.weight = init.uniform(shape, bound, rng=rng, dtype=dtype)
        self.bias = init.uniform((out_channels,), bound, rng=rng, dtype=dtype) if bias else None

    def extra_repr(self) -> str:
        """The sizes, and what is not as usual."""
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        usual = {"padding": 0, "dilation": 1, "output_padding": 0}
        for name, number in usual.items():
            value = getattr(self, name)
            if value != (number,) * self.axes:
                text += f", {name}={value}"
        if self.groups != 1:
            text += f", groups={self.groups}"
        if self.bias is None:
            text += ", bias=False"
        return text if self.padding_mode == "zeros" else f"{text}, padding_mode={self.padding_mode}"


class _Conv(_Convolution):
    """A convolution: adds the margins that `padding_mode` names, where those are not zeros."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        *,
        rng: Rng = None,
        dtype: Any = "float32",
    ):
        sizes = in_channels, out_channels, kernel_size, stride, padding, dilation
        super().__init__(*sizes, groups, bias, padding_mode, 0, rng, dtype)

    def _with_margins(self, x: Any) -> tuple[Any, Any]:
        """x and the zeros still to add; other margins are part of x now."""
        if self.padding_mode == "zeros":
            return x, self.padding
        whole = [d * (k - 1) for d, k in zip(self.dilation, self.kernel_size, strict=True)]
        if self.padding == "same":
            margins = [(n // 2, n - n // 2) for n in whole]
        else:
            margins = [(p, p) for p in ((0,) * self.axes if self.padding == "valid" else self.padding)]
        return pad(x, ((0, 0),) * (x.ndim - self.axes) + tuple(margins), mode=PADDING_MODES[self.padding_mode]), 0


class _ConvTranspose(_Convolution):
    """A transposed convolution, which may be asked for an output size instead of an output padding."""

    transposed = True

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        output_padding: Any = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Any = 1,
        padding_mode: str = "zeros",
        *,
        rng: Rng = None,
        dtype: Any = "float32",
    ):
        sizes = in_channels, out_channels, kernel_size, stride, padding, dilation
        super().__init__(*sizes, groups, bias, padding_mode, output_padding, rng, dtype)

    def _output_padding(self, x: Any, output_size: Any) -> Sizes:
        """The output padding that makes an output of `output_size`."""
        if output_size is None:
            return self.output_padding
        who = type(self).__name__
        wanted = per_axis(
            who,
            "output_size",
            tuple(output_size)[-self.axes :] if isinstance(output_size, (tuple, list)) else output_size,
            self.axes,
        )
        least = tuple(
            (n - 1) * s - 2 * p + d * (k - 1) + 1
            for n, s, p, d, k in zip(x.shape[-self.axes :], self.stride, self.padding, self.dilation, self.kernel_size, strict=True)
        )
        extra = tuple(m - n for m, n in zip(wanted, least, strict=True))
        if any(not 0 <= e < s for e, s in zip(extra, self.stride, strict=True)):
            most = tuple(n + s - 1 for n, s in zip(least, self.stride, strict=True))
            raise ShapeError(
                message(f"{who}: output_size = {wanted}", expected=f"from {least} to {most}", got=f"x {tuple(x.shape)}")
            )
        return extra


class Conv1d(_Conv):
    """A convolution over one axis: `nn.functional.conv1d` with a weight and a bias of its own.

    x (N, C, L) or (C, L) -> (N, out_channels, L') or (out_channels, L'). weight (out_channels, in_channels/groups, K). padding: a number,
    "same" or "valid"; padding_mode: "zeros", or what x itself continues with: "reflect", "replicate", "circular".
    """

    axes = 1

    def forward(self, x: Any) -> Any:
        """x (N, C, L) -> (N, out_channels, L')."""
        x, padding = self._with_margins(x)
        return F.conv1d(x, self.weight, self.bias, self.stride, padding, self.dilation, self.groups)


class Conv2d(_Conv):
    """A convolution over two axes: `nn.functional.conv2d` with a weight and a bias of its own.

    x (N, C, H, W) or (C, H, W) -> (N, out_channels, H', W'). weight (out_channels, in_channels/groups, K, L); sizes are one number or
    two; the rest as in `Conv1d`.
    """

    axes = 2

    def forward(self, x: Any) -> Any:
        """x (N, C, H, W) -> (N, out_channels, H', W')."""
        x, padding = self._with_margins(x)
        return F.conv2d(x, self.weight, self.bias, self.stride, padding, self.dilation, self.groups)


class ConvTranspose1d(_ConvTranspose):
    """A transposed convolution over one axis: `nn.functional.conv_transpose1d` with a weight and a bias of its own.

    x (N, C, L) or (C, L) -> (N, out_channels, L') or (out_channels, L'). weight (in_channels, out_channels/groups, K).
    """

    axes = 1

    def forward(self, x: Any, output_size: Any = None) -> Any:
        """x (N, C, L) -> (N, out_channels, L'); output_size: the L' wanted, where the stride leaves a choice."""
        extra = self._output_padding(x, output_size)
        return F.conv_transpose1d(x, self.weight, self.bias, self.stride, self.padding, extra, self.groups, self.dilation)


class ConvTranspose2d(_ConvTranspose):
    """A transposed convolution over two axes: `nn.functional.conv_transpose2d` with a weight and a bias of its own.

    x (N, C, H, W) or (C, H, W) -> (N, out_channels, H', W'). weight (in_channels, out_channels/groups, K, L).
    """

    axes = 2

    def forward(self, x: Any, output_size: Any = None) -> Any:
        """x (N, C, H, W) -> (N, out_channels, H', W'); output_size: the (H', W') wanted, where the stride leaves a choice."""
        extra = self._output_padding(x, output_size)
        return F.conv_transpose2d(x, self.weight, self.bias, self.stride, self.padding, extra, self.groups, self.dilation)
