"""How formulas are written, in the notation of the lecture notes: plain, or in LaTeX."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Writing(NamedTuple):
    """How a formula is written: plain, or in LaTeX."""

    latex: bool

    def sum(self, index: str, first: str, last: str) -> str:
        """Σ over a range."""
        return rf"\sum_{{{index}={first}}}^{{{last}}} " if self.latex else f"Σ_({index}={first}..{last}) "

    def sum_over(self, index: str, members: Sequence[str]) -> str:
        """Σ over a set."""
        if len(members) > 6:
            members = [*members[:3], r"\dots" if self.latex else "...", members[-1]]
        listed = ", ".join(members)
        return rf"\sum_{{{index} \in \{{{listed}\}}}} " if self.latex else f"Σ_({index} in {{{listed}}}) "

    def ratio(self, of: str, by: str, partial: bool = False) -> str:
        """A derivative."""
        if self.latex:
            d = r"\partial " if partial else "d"
            return rf"\frac{{{d}{of}}}{{{d}{by}}}"
        return f"∂{of}/∂{bracketed(by)}" if partial else f"d{of}/d{bracketed(by)}"

    def delta(self, k: str, losses: bool) -> str:
        """What arrives before the nonlinearity, at step k if it has one; of the loss t."""
        return (r"\delta" if self.latex else "δ") + (f"_{k}" if k else "") + ("^t" if losses else "")

    def norm(self, of: str) -> str:
        """A norm."""
        return rf"\lVert {of} \rVert" if self.latex else f"‖{of}‖"

    def number(self, x: float) -> str:
        """A number of three digits."""
        if self.latex and not np.isfinite(x):
            return r"\text{nan}" if np.isnan(x) else r"\infty"
        mantissa, _, exponent = f"{x:.3g}".partition("e")
        return rf"{mantissa} \cdot 10^{{{int(exponent)}}}" if exponent and self.latex else f"{x:.3g}"


PLAIN, LATEX = Writing(latex=False), Writing(latex=True)


_PYTORCH = re.compile(r"(weight|bias)_([a-z]+)(?:_l(\d+))?(_reverse)?$")


def symbol(name: str, w: Writing) -> str:
    """How a weight is written: weight_hh_l0 is W_hh, weight_hh_l1_reverse W_hh of layer 1, backwards; other names as they are."""
    if name in ("", "weight", "bias"):
        return "b" if name == "bias" else "W"
    last = name.rpartition(".")[2]
    match = _PYTORCH.search(last)
    if match:
        kind, which, layer, reverse = match.groups()
        letter, above = (
            "W" if kind == "weight" else "b",
            (f"l{layer}" if layer not in (None, "0") else "") + ("←" if reverse else ""),
        )
        if w.latex:
            above = above.replace("←", r"\leftarrow")
            return f"{letter}_{{{which}}}" + (f"^{{{above}}}" if above else "")
        return f"{letter}_{which}" + (f"^{above}" if above else "")
    if not w.latex:
        return last if last not in ("weight", "bias") else name
    simple = re.fullmatch(r"([A-Za-z])_?([A-Za-z0-9]+)?", last)
    if simple and last not in ("weight", "bias"):
        return simple[1] + (f"_{{{simple[2]}}}" if simple[2] else "")
    return rf"\mathtt{{{escaped(last if last not in ('weight', 'bias') else name)}}}"


def bracketed(name: str) -> str:
    """A name of several words in brackets, so that it reads as one."""
    return name if re.fullmatch(r"[\w^←]+", name) else f"({name})"


def escaped(text: str) -> str:
    """Text for LaTeX."""
    special = {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
    }
    return "".join(special.get(c, f"\\{c}" if c in "#$%&_{}" else c) for c in text)
