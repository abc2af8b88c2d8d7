"""From DOT text to a picture: Graphviz on the PATH, or the one inside the pygraphviz wheel."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

from ..errors import ArgumentError, MissingDependencyError, message

FORMATS = ("svg", "png", "pdf")


class Drawing:
    """A picture of a recorded graph: `.dot` its text, `.svg` rendered, `.save("loss.pdf")`. A notebook shows it by itself."""

    def __init__(self, dot: str, counts: Counter[str], edges: int, steps: int):
        self.dot = dot
        self._counts, self._edges, self._steps = counts, edges, steps
        self._svg: str | None = None

    @property
    def svg(self) -> str:
        """The picture as SVG text."""
        if self._svg is None:
            self._svg = render(self.dot, "svg").decode()
        return self._svg

    def save(self, path: str | Path) -> Path:
        """Write the picture to a file, in the format that its ending names: .svg, .png, .pdf, or .dot for the text."""
        path = Path(path)
        kind = path.suffix[1:].lower()
        if kind not in (*FORMATS, "dot", "gv"):
            raise ArgumentError(
                message(
                    f"save: {path.name!r} names no format",
                    expected="a name that ends in .svg, .png, .pdf or .dot",
                    got=path.suffix or "no ending",
                )
            )
        if kind in ("dot", "gv"):
            path.write_text(self.dot, encoding="utf-8", newline="\n")
            return path
        try:
            data = self.svg.encode() if kind == "svg" else render(self.dot, kind)
        except MissingDependencyError as cause:
            kept = path.with_suffix(".dot")
            kept.write_text(self.dot, encoding="utf-8", newline="\n")
            raise MissingDependencyError(f"{cause}\n  kept:     the text of the picture is in {kept}") from None
        path.write_bytes(data)
        return path

    def _repr_svg_(self) -> str:
        return self.svg

    def _repr_html_(self) -> str:
        return f'<div style="overflow-x: auto">{self.svg[self.svg.index("<svg") :]}</div>'

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        try:
            return {"image/svg+xml": self._repr_svg_(), "text/html": self._repr_html_(), "text/plain": repr(self)}
        except MissingDependencyError:
            return {"text/plain": self.dot}

    def __repr__(self) -> str:
        shown = ", ".join(f"{n} {kind}{'s' * (n > 1 and kind not in ('more', 'loss'))}" for kind, n in sorted(self._counts.items()))
        steps = f" in {self._steps} steps" if self._steps else ", without steps of time: see help(tg.draw)"
        return f"<Drawing of {sum(self._counts.values())} boxes ({shown}) and {self._edges} edges{steps}>"


def render(dot: str, kind: str) -> bytes:
    """The rendered picture, by the first renderer that is installed."""
    for backend in (_by_program, _by_pygraphviz):
        data = backend(dot, kind)
        if data is not None:
            return data
    raise MissingDependencyError(
        message(
            f"draw: no renderer is installed, so the picture cannot become {kind}",
            expected="Graphviz, or the pygraphviz package, which brings its own",
            do="pip install 'tinygrad_seq[viz]', or install the system's graphviz package (apt, brew, winget); .dot needs neither",
        )
    )


def _by_program(dot: str, kind: str) -> bytes | None:
    if shutil.which("dot") is None:
        return None
    try:
        import graphviz
    except ImportError:
        return None
    data: bytes = graphviz.Source(dot).pipe(format=kind, quiet=True)
    return data


def _by_pygraphviz(dot: str, kind: str) -> bytes | None:
    try:
        import pygraphviz
    except ImportError:
        return None
    data: bytes = pygraphviz.AGraph(string=dot).draw(format=kind, prog="dot")
    return data
