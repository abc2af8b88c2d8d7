"""From DOT text to a picture: Graphviz on the PATH, or the one inside the pygraphviz wheel."""

from __future__ import annotations

import re
import shutil
import subprocess
import warnings
from pathlib import Path
from typing import Any

from ..errors import ArgumentError, GraphError, MissingDependencyError, message
from .dot import dot_text, placed_text
from .grid import fits, grid
from .picture import Picture
from .stamp import placed

FORMATS = ("svg", "png", "pdf")
PATIENCE = 60.0  # seconds: where dot finds no layout by then, it seldom finds one at all


class Drawing:
    """A picture of a recorded graph: `.dot` its text, `.svg` rendered, `.save("loss.pdf")`. A notebook shows it by itself."""

    def __init__(self, picture: Picture, steps: int):
        self._picture, self._steps = picture, steps
        self._counts, self._edges = picture.counts(), len(picture.edges)
        self._source: tuple[str, str] | None = None  # what is rendered: a text, and the engine
        self._dot: str | None = None
        self._svg: str | None = None

    @property
    def dot(self) -> str:
        """The picture as DOT text, the same for the same graph."""
        if self._dot is None:
            self._dot = placed_text(self._picture, grid(self._picture)) if fits(self._picture) else dot_text(self._picture)
        return self._dot

    def _render(self, kind: str) -> bytes:
        """The picture in a format; a long one is laid out in part, see `stamp`."""
        if self._source is None:
            if fits(self._picture):
                self._source = self.dot, "nop2"
                return render(self.dot, kind, "nop2")
            places = placed(self._picture, lambda short: render(dot_text(short, numbered=True), "json0").decode())
            self._source = (self.dot, "dot") if places is None else (placed_text(self._picture, places), "nop2")
        return render(self._source[0], kind, self._source[1])

    @property
    def svg(self) -> str:
        """The picture as SVG text."""
        if self._svg is None:
            self._svg = self._render("svg").decode()
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
            data = self.svg.encode() if kind == "svg" else self._render(kind)
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


def render(dot: str, kind: str, engine: str = "dot") -> bytes:
    """The rendered picture, by the first renderer that is installed. engine: dot lays out, nop2 draws what has its place."""
    for backend in (_by_program, _by_pygraphviz):
        data = backend(dot, kind, engine)
        if data is not None:
            return data
    raise MissingDependencyError(
        message(
            f"draw: no renderer is installed, so the picture cannot become {kind}",
            expected="Graphviz, or the pygraphviz package, which brings its own",
            do="pip install 'tinygrad_seq[viz]', or install the system's graphviz package (apt, brew, winget); .dot needs neither",
        )
    )


def _by_program(dot: str, kind: str, engine: str) -> bytes | None:
    program = shutil.which("dot")
    if program is None:
        return None
    for straight in ([], ["-Gsplines=line"]):  # where Graphviz finds no way for a curve, lines will do
        command = [program, f"-K{engine}", f"-T{kind}", *straight]
        try:
            done = subprocess.run(command, input=dot.encode(), capture_output=True, check=False, timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            raise GraphError(
                message(
                    f"draw: Graphviz has found no layout within {PATIENCE:g} seconds and was stopped",
                    got=f"a picture of {dot.count(' -> ')} edges",
                    do="level='cells' needs no layout; full=False leaves steps out; collapse=... makes modules one box; .dot is the text",
                )
            ) from None
        lost = re.findall(r"lost (\S+) (\S+) edge", done.stderr.decode(errors="replace"))
        unseen = bool(lost) and not any(f'\n  "{a}" -> "{b}"' in dot or f'\n  "{b}" -> "{a}"' in dot for a, b in lost)
        if done.returncode == 0 or (done.stdout and unseen):  # it lost invisible edges only, which have done their work
            break
    else:
        raise GraphError(message("draw: Graphviz failed", got=done.stderr.decode(errors="replace").strip()[-500:]))
    if b"too large" in done.stderr:
        warnings.warn(f"the picture is too wide for {kind} and was made smaller; .svg and .pdf have no such limit", stacklevel=5)
    return done.stdout


def _by_pygraphviz(dot: str, kind: str, engine: str) -> bytes | None:
    try:
        import pygraphviz
    except ImportError:
        return None
    data: bytes = pygraphviz.AGraph(string=dot).draw(format=kind, prog=engine)
    return data
