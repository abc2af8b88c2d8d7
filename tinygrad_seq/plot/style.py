"""One style for all plots: readable in grey, safe for colour-blind readers, and the same whatever matplotlib is set to elsewhere.

Numbers are shown by one map of colours, from sand to ink: more is darker. It is cividis (Nuñez, Anderton, Renslow 2018) turned round, with its bright
yellow end bleached, so that what is small lies back. Its lightness falls evenly, so nothing is lost in grey, and between yellow and blue
readers with any kind of colour blindness see the same order. White is no number but paper: nothing is there. Lines differ in lightness and
in their dashes. Knows nothing of gradients, nor of pyplot, whose state stays as it is.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..errors import ArgumentError, MissingDependencyError, message

MAP = ("#ebe4cd", "#bdb17f", "#7e7c76", "#464f6c", "#00224e")  # lightness 91, 72, 52, 33, 14
TEXT, FAINT, PAPER = "#1d2430", "#8a93a0", "#ffffff"
LINES = ("#00224e", "#4d556c", "#8a8678", "#b9a64c")  # of cividis, from dark to as light as still stands out from paper
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (5, 1.5, 1.2, 1.5)))
FORMATS = ("png", "svg", "pdf")
STYLE = {
    "font.size": 9, "axes.titlesize": 9.5, "axes.titlelocation": "left", "axes.labelsize": 9, "xtick.labelsize": 8, "ytick.labelsize": 8,
    "legend.fontsize": 8, "legend.frameon": False, "legend.handlelength": 3.2, "axes.spines.top": False, "axes.spines.right": False,
    "axes.linewidth": 0.7, "axes.edgecolor": TEXT, "axes.labelcolor": TEXT, "axes.titlecolor": TEXT, "text.color": TEXT, "xtick.color": TEXT,
    "ytick.color": TEXT, "xtick.major.width": 0.7, "ytick.major.width": 0.7, "xtick.minor.size": 0, "ytick.minor.size": 0,
    "lines.linewidth": 1.6, "lines.markersize": 4, "image.interpolation": "none", "hatch.linewidth": 0.6,
    "hatch.color": TEXT, "figure.dpi": 100, "savefig.dpi": 160, "svg.hashsalt": "tinygrad_seq",
}  # fmt: skip


class Plot(NamedTuple):
    """A figure and the numbers that it shows: `figure, numbers = tg.plot.flow(loss)`. A notebook shows it by itself.

    figure: matplotlib's Figure, to be changed at will; figure.axes are its parts. numbers: arrays by name.
    """

    figure: Any
    numbers: dict[str, Any]

    def save(self, path: str | Path) -> Path:
        """Write the figure to a file, in the format that its ending names: .png, .svg or .pdf. The same figure gives the same bytes."""
        path = Path(path)
        kind = path.suffix[1:].lower()
        if kind not in FORMATS:
            raise ArgumentError(
                message(
                    f"save: {path.name!r} names no format of a plot",
                    expected="a name that ends in .png, .svg or .pdf",
                    got=path.suffix or "no ending",
                )
            )
        path.write_bytes(self._written(kind))
        return path

    def _written(self, kind: str) -> bytes:
        undated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind, {})
        file = io.BytesIO()
        with styled("save"):
            self.figure.savefig(file, format=kind, metadata=undated)
        return file.getvalue()

    def _repr_png_(self) -> bytes:
        return self._written("png")

    def __repr__(self) -> str:
        shown = ", ".join(f"{name} {np.shape(x)}" if np.ndim(x) else f"{name} {x}" for name, x in list(self.numbers.items())[:6])
        return f"<Plot of {shown}{', ...' if len(self.numbers) > 6 else ''}>"


@contextmanager
def styled(who: str) -> Iterator[Any]:
    """Matplotlib in this style, for the time being; MissingDependencyError where it is not installed."""
    try:
        import matplotlib.figure
        import matplotlib.style
    except ImportError as cause:
        raise MissingDependencyError(
            message(
                f"plot.{who}: matplotlib is not installed",
                expected="the extra `viz`, which plots are drawn with",
                do="pip install 'tinygrad_seq[viz]'",
            )
        ) from cause
    with matplotlib.style.context(["default", STYLE]):
        yield matplotlib


def sheet(library: Any, width: float, height: float) -> Any:
    """An empty figure of that size in inches."""
    return library.figure.Figure(figsize=(width, height), layout="constrained")


def panels(library: Any, count: int, size: tuple[float, float], most: int = 3, **shared: Any) -> tuple[Any, list[Any]]:
    """A figure with so many panels, at most `most` side by side, each of that size in inches; left over places stay empty."""
    columns = min(count, most)
    rows = math.ceil(count / columns)
    figure = sheet(library, size[0] * columns, size[1] * rows)
    found = figure.subplots(rows, columns, squeeze=False, **shared).ravel().tolist()
    for axes in found[count:]:
        axes.remove()
    for axes in found[max(0, count - columns) : count]:  # what stands above an empty place has its own numbers
        axes.tick_params(labelbottom=True)
    return figure, found[:count]


def outer_labels(parts: Sequence[Any], x: str, y: str | None) -> None:
    """Axis labels at the outer panels alone: those with nothing below, those with nothing on their left."""
    for k, axes in enumerate(parts):
        place = axes.get_subplotspec()
        if k + place.get_gridspec().ncols >= len(parts):
            axes.set_xlabel(x)
        if y and place.is_first_col():
            axes.set_ylabel(y)


# ---- Lines -----------------------------------------------------------------------------------------------------------------------------


def look(k: int, dashes: int | None = None) -> dict[str, Any]:
    """Colour and dashes of the k-th line: four and four, so that 16 lines differ; or of the k-th colour with the dashes that are given."""
    which = k + k // len(LINES) if dashes is None else dashes
    return {"color": LINES[k % len(LINES)], "linestyle": DASHES[which % len(DASHES)]}


def log_line(axes: Any, x: Any, y: Any, label: str, style: Mapping[str, Any]) -> set[str]:
    """A line on a logarithmic scale. What has no place on it stands at its edge: 0 and NaN below, infinity above; returned are their names."""
    y = np.asarray(y, dtype=np.float64)
    drawn = np.where(np.isfinite(y) & (y > 0), y, np.nan)
    alone = len(y) < 40
    axes.plot(x, drawn, label=label, marker="o" if alone else "", markersize=2.6, **style)
    seen = set()
    for name, (marker, height, where) in off_scale(y).items():
        if where.any():
            seen.add(name)
            at = np.asarray(x)[where]
            axes.plot(
                at,
                np.full(len(at), height),
                marker,
                color=style["color"],
                transform=axes.get_xaxis_transform(),
                clip_on=False,
            )
    return seen


def off_scale(y: Any) -> dict[str, tuple[str, float, Any]]:
    """What a logarithmic scale has no place for: by name its mark, the height at which it stands, and where it is."""
    return {"0": ("v", 0.0, y == 0), "∞": ("^", 1.0, np.isposinf(y)), "NaN": ("x", 0.0, np.isnan(y))}


def near_the_end(axes: Any) -> bool:
    """Whether the lines reach so far that a margin around them would leave all numbers."""
    drawn = [np.abs(line.get_ydata()).astype("float64") for line in axes.get_lines()]  # the bounds are none that float32 knows
    sizes = np.concatenate([np.ravel(y) for y in drawn] or [np.zeros(0)])
    sizes = sizes[np.isfinite(sizes) & (sizes > 0)]
    return bool(sizes.size) and bool(sizes.max() > 1e280 or sizes.min() < 1e-280)


def log_scale(axes: Any, seen: set[str]) -> None:
    """A logarithmic y axis with a faint grid, and what stands at its edges told."""
    if near_the_end(axes):
        axes.set_ymargin(0)
    if any(np.isfinite(line.get_ydata()).any() for line in axes.get_lines() if line.get_transform() == axes.transData):
        axes.set_yscale("log")
        axes.tick_params(axis="y", which="minor", labelsize=6.5)
    else:
        axes.set_yticks([])
    axes.grid(axis="y", color=FAINT, alpha=0.3, linewidth=0.5)
    axes.set_axisbelow(True)
    if seen:
        told = {"0": "▽ zero", "∞": "△ infinite", "NaN": "× not a number"}
        axes.annotate(", ".join(told[name] for name in told if name in seen), (1, 1), (0, 3), "axes fraction", "offset points", ha="right", fontsize=7.5)  # fmt: skip


def legend(figure: Any, axes: Sequence[Any], title: str | None = None) -> None:
    """One legend on the right for all axes: each label once; none for a single line."""
    known: dict[str, Any] = {}
    for one in axes:
        for handle, label in zip(*one.get_legend_handles_labels(), strict=True):
            known.setdefault(label, handle)
    if len(known) > 1:
        figure.legend(known.values(), known.keys(), loc="outside right upper", title=title, alignment="left")


def whole_numbers(axis: Any) -> None:
    """Ticks at whole numbers: steps, layers, units."""
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(integer=True, nbins=8, min_n_ticks=1))


# ---- Heat maps -------------------------------------------------------------------------------------------------------------------------

HATCHES = {"0": "....", "∞": "xxxx", "NaN": "////"}


def colour_map() -> Any:
    """The map of colours of all plots, as matplotlib's."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("sand to ink", MAP)


def log_colours(arrays: Sequence[Any]) -> Any:
    """The common logarithmic scale of all positive numbers in these arrays."""
    from matplotlib.colors import LogNorm

    every = np.concatenate([np.asarray(a, dtype=np.float64).ravel() for a in arrays])
    every = every[np.isfinite(every) & (every > 0)]
    low, high = (every.min(), every.max()) if every.size else (1.0, 1.0)
    return LogNorm(low, high) if low < high else LogNorm(low / 3, high * 3)


def linear_colours(low: float, high: float) -> Any:
    """A linear scale."""
    from matplotlib.colors import Normalize

    return Normalize(low, high if high > low else low + 1)


def heat(axes: Any, values: Any, colours: Any, blank: Any = None, write: bool | None = None) -> tuple[Any, set[str]]:
    """A matrix as squares of colour: the image, and the names of what is no colour: zeros on a logarithmic scale, infinities, NaN, blanks.

    blank: where there is no number at all. write: numbers in the squares; by default where there are few.
    """
    from matplotlib.colors import LogNorm
    from matplotlib.patches import Rectangle

    values = np.asarray(values, dtype=np.float64)
    blank = np.zeros(values.shape, bool) if blank is None else np.asarray(blank)
    kinds = {"∞": np.isinf(values) & ~blank, "NaN": np.isnan(values) & ~blank}
    if isinstance(colours, LogNorm):
        kinds["0"] = (values == 0) & ~blank
    hidden = np.logical_or.reduce([blank, *kinds.values()])
    image = axes.imshow(np.ma.array(values, mask=hidden), norm=colours, aspect="auto", cmap=colour_map())
    for name, where in kinds.items():
        for row, first, past in runs(where):
            axes.add_patch(Rectangle((first - 0.5, row - 0.5), past - first, 1, hatch=HATCHES[name], fill=False, linewidth=0))
    if write if write is not None else values.size and max(values.shape) <= 8:
        for (row, column), x in np.ndenumerate(values):
            if not hidden[row, column]:
                axes.text(column, row, f"{x:.2g}", ha="center", va="center", fontsize=7, color=ink(image.cmap(colours(x))))
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.tick_params(length=2)
    whole_numbers(axes.xaxis)
    whole_numbers(axes.yaxis)
    return image, {name for name, where in {**kinds, "blank": blank}.items() if where.any()}


def runs(where: Any) -> Iterator[tuple[int, int, int]]:
    """Row, first column and the one past the last of every stretch of True."""
    for row, line in enumerate(where):
        edges = np.flatnonzero(np.diff(np.concatenate([[0], line.astype(int), [0]])))
        for first, past in zip(edges[::2], edges[1::2], strict=True):
            yield row, int(first), int(past)


def ink(colour: Sequence[float]) -> str:
    """The colour of text on a square: dark on light, light on dark."""
    return TEXT if lightness(colour) > 55 else PAPER


def lightness(colour: Sequence[float]) -> float:
    """L* of an sRGB colour, from 0, black, to 100, white: what is left of it in grey (CIE 1976)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour[:3]]
    y = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return 116 * (y ** (1 / 3) if y > 216 / 24389 else (24389 / 27 * y + 16) / 116) - 16


def key(figure: Any, seen: set[str], blank: str = "nothing arrives") -> None:
    """Beneath the figure: what squares mean that are no colour of the scale. blank: what white means."""
    from matplotlib.patches import Patch

    meanings = {"0": "zero", "∞": "infinite", "NaN": "not a number", "blank": blank}
    names = [name for name in meanings if name in seen]
    squares = [Patch(facecolor=PAPER, edgecolor=TEXT, hatch=HATCHES.get(name), linewidth=0.5) for name in names]
    if names:
        figure.legend(squares, [meanings[name] for name in names], loc="outside lower center", ncols=len(names))


def bar(figure: Any, image: Any, axes: Any, label: str) -> None:
    """The scale of colours, on the right of these axes."""
    scale = figure.colorbar(image, ax=axes, shrink=0.9, pad=0.02, aspect=30)
    scale.ax.tick_params(which="minor", labelsize=7)
    scale.outline.set_visible(False)
    scale.set_label(label)


def ticks(axis: Any, labels: Sequence[Any]) -> None:
    """Under or beside an image: what each column or row is; of more than can be read every so many-th."""
    from matplotlib.ticker import FixedFormatter, FixedLocator

    most = 48 if any(isinstance(x, str) and len(x) > 0 for x in labels) else 16
    shown = range(0, len(labels), 1 if len(labels) <= most else math.ceil(len(labels) / 12))
    axis.set_major_locator(FixedLocator(list(shown)))
    axis.set_major_formatter(FixedFormatter([str(labels[k]) for k in shown]))


def named(given: Any, kinds: str) -> dict[str, Any]:
    """What was given by name; a single thing has the name ""."""
    if not isinstance(given, Mapping):
        return {"": given}
    if not given:
        raise ArgumentError(message("plot: an empty dictionary", expected=f"{kinds} by name"))
    return {str(name): one for name, one in given.items()}
