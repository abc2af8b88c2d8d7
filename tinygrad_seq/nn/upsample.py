"""Upsampling as a layer."""

from __future__ import annotations

from typing import Any

from . import functional as F
from .module import Module


class Upsample(Module):
    """The input read at finer places: of `size`, or `scale_factor` times as many along each axis of space: `nn.functional.interpolate`.

    x (N, C, L) -> (N, C, L') or (N, C, H, W) -> (N, C, H', W').
    """

    def __init__(
        self,
        size: Any = None,
        scale_factor: Any = None,
        mode: str = "nearest",
        align_corners: bool | None = None,
        recompute_scale_factor: bool | None = None,
    ):
        self.size, self.mode, self.align_corners, self.recompute_scale_factor = size, mode, align_corners, recompute_scale_factor
        several = isinstance(scale_factor, (tuple, list))
        self.scale_factor = tuple(map(float, scale_factor)) if several else None if scale_factor is None else float(scale_factor)

    def forward(self, x: Any) -> Any:
        """x (N, C, *S) -> (N, C, *size)."""
        return F.interpolate(x, self.size, self.scale_factor, self.mode, self.align_corners, self.recompute_scale_factor)

    def extra_repr(self) -> str:
        """The size or the factor, and the mode."""
        how = f"size={self.size}" if self.scale_factor is None else f"scale_factor={self.scale_factor}"
        return f"{how}, mode={self.mode!r}"
