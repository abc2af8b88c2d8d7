"""Numbers of a picture: how they are written, and shades between two colours. Knows no picture."""

from __future__ import annotations

import math
import re


def number(x: float, digits: int = 2) -> str:
    """A number in a few characters."""
    if not math.isfinite(x):
        return "NaN" if math.isnan(x) else "−∞" if x < 0 else "∞"
    if x == 0:
        return "0"
    text = f"{x:.{digits - 1}e}" if abs(x) < 1e-3 else f"{x:.{digits}g}"
    return re.sub(r"e([+-])0?(\d)", r"e\1\2", text).replace("e+", "e").replace("-", "−")


def mix(a: str, b: str, share: float) -> str:
    """The colour `share` of the way from a to b."""
    pairs = zip(bytes.fromhex(a[1:]), bytes.fromhex(b[1:]), strict=True)
    return "#" + "".join(f"{round(p + (q - p) * share):02x}" for p, q in pairs)
