"""Positions: what tells attention, which sees a set, in which order its elements came."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...errors import ArgumentError, message


def sinusoidal_positions(T: int, E: int, *, start: int = 0, dtype: Any = "float32") -> Any:
    """One vector for each position, of waves of all lengths (Vaswani et al. 2017).

        PE(t, 2i) = sin(t ω_i)      PE(t, 2i + 1) = cos(t ω_i)      ω_i = 10000^(-2i/E)

    PE(t + k) is a rotation of PE(t), each pair by k ω_i: the same for all t. Positions start ... start + T - 1 -> (T, E).
    """
    if T < 0 or E < 1:
        raise ArgumentError(message(f"sinusoidal_positions: T = {T}, E = {E}", expected="T >= 0 and E >= 1"))
    angles = np.arange(start, start + T)[:, None] * 10000.0 ** (-np.arange(0, E, 2) / E)  # (T, E/2)
    waves = np.stack([np.sin(angles), np.cos(angles)], axis=-1).reshape(T, -1)
    return waves[:, :E].astype(dtype)  # an odd E has no room for the last cosine
