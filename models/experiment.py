"""What all experiments share: seeds, training that goes on where it was killed, results beside what was to be reached, tables.

An experiment is a function of a `Run` and its settings. It trains by `run.fit` (or `run.loop`), says by `run.result` what it found, and by
`run.note` what a reader must know. Here is no model and no data.

    @experiment("T2", "Running parity", rows="E2", quick=Parity(steps=300), full=Parity(), seconds=(2, 8))
    def parity(run: Run, config: Parity) -> None:
        ...
        run.result("LSTM: right at every step, length 100", accuracy, at_least=1.0)

    def main(argv: list[str] | None = None) -> int:
        return run_experiments(__doc__, [addition, parity], argv)
"""

from __future__ import annotations

import importlib
import json
import math
import os
import re
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

import tinygrad_seq as tg
from tinygrad_seq import errors, nn, training

# ---- What an experiment is ----------------------------------------------------------------------------------------------------------------


class Experiment(NamedTuple):
    """A task of the lecture notes: its number, its title, the rows of docs/lecture-notes.md that it tests, and its settings.

    seconds: how long the quick and the full setting took when they were last measured, on one core.
    """

    task: str
    title: str
    rows: str
    quick: Any
    full: Any
    seconds: tuple[float, float]
    function: Callable[[Run, Any], None]

    @property
    def name(self) -> str:
        """The name of its function, which is that of its folder."""
        return self.function.__name__


def experiment(
    task: str, title: str, *, rows: str, quick: Any, full: Any, seconds: tuple[float, float]
) -> Callable[[Callable[[Run, Any], None]], Experiment]:
    """Make a function of a Run and its settings an Experiment. quick, full: two settings of one dataclass."""
    return lambda function: Experiment(task, title, rows, quick, full, seconds, function)


class Result(NamedTuple):
    """A number that was found, what it had to reach (neither bound: a figure to compare with), and whether it did."""

    what: str
    value: float
    at_least: float | None = None
    at_most: float | None = None

    @property
    def met(self) -> bool:
        """Whether it is within its bounds; what is no number is not."""
        if self.at_least is None and self.at_most is None:
            return True
        low, high = -math.inf if self.at_least is None else self.at_least, math.inf if self.at_most is None else self.at_most
        return low <= self.value <= high

    @property
    def acceptance(self) -> str:
        """The bounds as text."""
        low, high = (None if x is None else f"{x:g}" for x in (self.at_least, self.at_most))
        if low == high:
            return "" if low is None else f"= {low}"
        return f"≥ {low}" if high is None else f"≤ {high}" if low is None else f"{low} … {high}"


class Report(NamedTuple):
    """What an experiment found: `report["what"]` is the value of that result."""

    experiment: Experiment
    setting: str
    seed: int
    seconds: float
    results: list[Result]
    notes: list[str]

    def __getitem__(self, what: Any) -> Any:
        found = {result.what: result.value for result in self.results}
        if what not in found:
            raise KeyError(f"no result {what!r}; there are {', '.join(map(repr, found))}")
        return found[what]

    @property
    def met(self) -> bool:
        """Whether all that was to be reached was reached."""
        return all(result.met for result in self.results)

    def to_dict(self) -> dict[str, Any]:
        """All of it as what JSON takes."""
        rows = [{**result._asdict(), "acceptance": result.acceptance, "met": result.met} for result in self.results]
        kind = self.experiment
        return {
            "task": kind.task, "title": kind.title, "rows": kind.rows, "name": kind.name, "setting": self.setting, "seed": self.seed,
            "seconds": round(self.seconds, 1), "met": self.met, "results": rows, "notes": self.notes,
        }  # fmt: skip


# ---- One run of an experiment -------------------------------------------------------------------------------------------------------------


class Run:
    """One run of an experiment: its seed, its folder, and what it found so far.

    Every part of an experiment draws from a generator of its own, `run.rng("name")`, so what one part draws does not depend on what another did, nor
    on whether it was resumed. quick: whether the quick setting runs.
    """

    def __init__(
        self,
        seed: int = 0,
        out: str | os.PathLike[str] | None = None,
        *,
        quick: bool = False,
        resume: bool = False,
        progress: bool = False,
    ):
        self.seed, self.quick, self.resume, self.progress = seed, quick, resume, progress
        self.out = None if out is None else Path(out)
        self.results: list[Result] = []
        self.notes: list[str] = []
        if self.out is not None:
            self.out.mkdir(parents=True, exist_ok=True)

    def rng(self, name: str) -> np.random.Generator:
        """The generator of the part of that name: the same seed and name give the same numbers."""
        return np.random.default_rng([self.seed, zlib.crc32(name.encode())])

    # ---- Training -------------------------------------------------------------------------------------------------------------------------

    def fit(
        self, name: str, model: nn.Module, loss: Callable[..., Any], optimizer: Any, batches: Any, *, steps: int, **options: Any
    ) -> training.History:
        """`training.fit`, saved to NAME.safetensors in the folder of the run; with --resume it goes on from there, to the same bits.

        Dropout without an rng of its own draws from the default generator, which is seeded by the name. Ctrl-C ends it after the step at hand,
        saved, and with it the experiment: a model that is half trained is not judged.
        """
        self._say(f"{name}: {sum(p.size for p in model.parameters()):,} parameters, {steps} steps")
        tg.seed(int(self.rng(f"{name}: default").integers(2**31)))
        options.setdefault("save_every", max(1, steps // 10))
        history = training.fit(
            model,
            loss,
            optimizer,
            batches,
            steps=steps,
            save=self._file(name),
            resume=self.resume,
            progress=self.progress,
            **options,
        )
        if history.stopped == "interrupted":
            raise KeyboardInterrupt
        return history

    def loop(self, name: str, step: Callable[[int], Mapping[str, float]], *, steps: int, **parts: Any) -> list[dict[str, float]]:
        """A training loop of one's own: step(n) for n = 0, 1, ..., which does one update and returns numbers to be shown and kept.

        parts: all that a step changes (models, optimizers, generators, or what has a `state_dict`), saved and resumed as by `fit`.
        Returns the numbers of every step. Ctrl-C as for `fit`.
        """
        self._say(f"{name}: {steps} steps")
        tg.seed(int(self.rng(f"{name}: default").integers(2**31)))
        path, kept = self._file(name), _Numbers()
        if path is not None and self.resume and path.exists():
            training.restore_checkpoint(path, kept=kept, **parts)
            self._say(f"{path}: goes on after step {len(kept)}")
        every = max(1, steps // 10)
        interrupted: list[bool] = []
        with _bar(self.progress, steps, len(kept)) as bar, training.interruptible(lambda: interrupted.append(True)):
            for n in range(len(kept), steps):
                found = {key: float(x) for key, x in step(n).items()}
                kept.add(found)
                bar.set_postfix_str("  ".join(f"{key} {x:.4g}" for key, x in found.items()), refresh=False)
                bar.update()
                if path is not None and ((n + 1) % every == 0 or n + 1 == steps or interrupted):
                    training.save_checkpoint(path, kept=kept, **parts)
                if interrupted:
                    raise KeyboardInterrupt
        return kept.rows()

    def _file(self, name: str) -> Path | None:
        return None if self.out is None else self.out / f"{re.sub(r'[^A-Za-z0-9_.-]+', '_', name)}.safetensors"

    # ---- What was found -------------------------------------------------------------------------------------------------------------------

    def result(
        self,
        what: str,
        value: Any,
        *,
        at_least: float | None = None,
        at_most: float | None = None,
        quick: float | bool | None = None,
    ) -> float:
        """Write down a figure, and what it has to reach. Without bounds it is a baseline, to be compared with.

        quick: the bound in the quick setting, where it is another one; False: no bound there.
        """
        if quick is not None and at_least is not None and at_most is not None:
            raise ValueError(f"{what}: quick={quick} for two bounds; expected one of at_least and at_most with it")
        if any(result.what == what for result in self.results):
            raise ValueError(f"{what}: a result of that name stands there already; expected each name once")
        if self.quick and quick is not None:
            bound = None if quick is False else float(quick)
            at_least, at_most = (bound if at_least is not None else None), (bound if at_most is not None else None)
        result = Result(what, float(value), at_least, at_most)
        self.results.append(result)
        mark = "" if not result.acceptance else "  reached" if result.met else "  NOT REACHED"
        self._say(f"  {what}: {figure(result.value)}{f'  ({result.acceptance})' if result.acceptance else ''}{mark}")
        return result.value

    def note(self, text: str) -> None:
        """A sentence beneath the table: what was expected and did not happen, what a figure must not be compared with."""
        self.notes.append(text)
        self._say(f"  {text}")

    def show(self, text: str) -> None:
        """Print something to be read now, such as a sample."""
        self._say(text)

    # ---- Files ----------------------------------------------------------------------------------------------------------------------------

    def figure(self, name: str, draw: Callable[[], Any]) -> None:
        """Save a picture in the folder of the run: NAME, ending in .svg or .png, of what draw() returns: a tg.plot.Plot, a tg.draw Picture or a
        matplotlib Figure. Without a folder, or without what it is drawn with, nothing is drawn.
        """
        if self.out is None:
            return
        try:
            drawn = draw()
            (drawn if hasattr(drawn, "save") else tg.plot.Plot(drawn, {})).save(self.out / name)
        except errors.MissingDependencyError as missing:
            self._say(f"  no {name}: {str(missing).splitlines()[0]}")
        else:
            self._say(f"  {self.out / name}")

    def write(self, name: str, text: str) -> None:
        """Save a text, such as a sample, in the folder of the run."""
        if self.out is not None:
            (self.out / name).write_text(text, encoding="utf-8")
            self._say(f"  {self.out / name}")

    def _say(self, text: str) -> None:
        if self.progress:
            print(text, file=sys.stderr, flush=True)


def perform(
    kind: Experiment,
    config: Any = None,
    *,
    seed: int = 0,
    out: str | os.PathLike[str] | None = None,
    quick: bool = True,
    resume: bool = False,
    progress: bool = False,
) -> Report:
    """Run an experiment, and return what it found. config: its settings, by default its quick or full ones.

    out: its folder. What an earlier run left there to go on from is removed; resume: gone on from, if it had the same seed and settings.
    """
    run = Run(seed, out, quick=quick, resume=resume, progress=progress)
    config = config if config is not None else kind.quick if quick else kind.full
    run._say(f"\n{kind.task}  {kind.title}")
    if run.out is not None:
        _begin(
            run, run.out, {"task": kind.task, "setting": "quick" if quick else "full", "seed": seed, "config": repr(config)}, resume
        )
    begin = time.perf_counter()
    kind.function(run, config)
    report = Report(kind, "quick" if quick else "full", seed, time.perf_counter() - begin, run.results, run.notes)
    if run.out is not None:
        _write_json(run.out / "results.json", report.to_dict())
    return report


def _begin(run: Run, out: Path, settings: dict[str, Any], resume: bool) -> None:
    """Begin a run in a folder: anew, or where one of the same settings was stopped. Steps of another run would not be the same bits."""
    written = out / "settings.json"
    before = json.loads(written.read_text(encoding="utf-8")) if written.exists() else None
    if not resume or before is None:
        stale = [path for path in (*out.glob("*.safetensors"), out / "results.json") if path.exists()]
        if stale:
            run._say(f"{out}: begins anew, without what an earlier run left there; with --resume it would go on from that")
        for path in stale:
            path.unlink()
        _write_json(written, settings)
    elif before != settings:
        changed = [key for key in settings if settings[key] != before.get(key)]
        raise errors.ArgumentError(
            f"--resume: {out} holds another run\n  expected:  "
            + ", ".join(f"{key} {before.get(key)}" for key in changed)
            + "\n  got:  " + ", ".join(f"{key} {settings[key]}" for key in changed)
            + "\n  do:  the same seed and settings as then; or no --resume, to begin anew; or another --out"
        )  # fmt: skip


def _write_json(path: Path, content: Any) -> None:
    """Whole or not at all."""
    new = path.with_suffix(".new")
    new.write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")
    os.replace(new, path)


# ---- Pieces for experiments ---------------------------------------------------------------------------------------------------------------


class Drawn:
    """Batches without end: each is draw(rng), drawn anew. It knows where it stands, so a run that was killed goes on with the same batches."""

    def __init__(self, draw: Callable[[np.random.Generator], Any], rng: np.random.Generator):
        self.draw, self.rng = draw, rng

    def __iter__(self) -> Iterator[Any]:
        while True:
            yield self.draw(self.rng)

    def state_dict(self) -> dict[str, Any]:
        """The state of its generator."""
        return dict(tg.random.get_state(self.rng))

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        tg.random.set_state(state, self.rng)


def needed(module: str, package: str, extra: str = "models") -> ModuleType:
    """Import a module that only some experiments need, or say how to get it."""
    try:
        return importlib.import_module(module)
    except ImportError as missing:
        raise errors.MissingDependencyError(
            f'{module} is not installed\n  expected:  the package {package}, whose data this experiment uses\n  do:  pip install -e ".[{extra}]"'
        ) from missing


def canvas(width: float, height: float, layout: str | None = "constrained") -> Any:
    """An empty matplotlib Figure of that size in inches; pyplot is left alone."""
    return needed("matplotlib.figure", "matplotlib", "viz").Figure(figsize=(width, height), layout=layout)


class _Numbers:
    """The numbers that the steps of a loop returned, as arrays in a checkpoint."""

    def __init__(self) -> None:
        self.columns: dict[str, list[float]] = {}
        self.length = 0

    def __len__(self) -> int:
        return self.length

    def add(self, found: Mapping[str, float]) -> None:
        for key, x in found.items():
            self.columns.setdefault(key, [math.nan] * self.length).append(x)
        self.length += 1
        for column in self.columns.values():
            column.extend([math.nan] * (self.length - len(column)))

    def rows(self) -> list[dict[str, float]]:
        return [{key: column[n] for key, column in self.columns.items()} for n in range(self.length)]

    def state_dict(self) -> dict[str, Any]:
        return {"length": self.length, "columns": {key: np.array(column) for key, column in self.columns.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.length, self.columns = state["length"], {key: column.tolist() for key, column in state["columns"].items()}


def _bar(shown: bool, total: int, done: int) -> Any:
    from tqdm.auto import tqdm

    return tqdm(total=total, initial=done, unit=" steps", dynamic_ncols=True, disable=not (shown and sys.stderr.isatty()))


# ---- Tables -------------------------------------------------------------------------------------------------------------------------------


def figure(x: float) -> str:
    """A number in four digits; whole numbers as they are."""
    if not math.isfinite(x):
        return str(x)
    return f"{x:g}" if x == round(x) and abs(x) < 1e6 else f"{x:.4g}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown whose columns are aligned, so that it reads as well in a terminal."""
    head, *rows = [[cell.replace("|", "\\|") for cell in row] for row in (head, *rows)]
    widths = [max(len(row[k]) for row in [head, *rows]) for k in range(len(head))]
    lines = [head, ["-" * width for width in widths], *rows]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    )


def results_table(reports: Sequence[Mapping[str, Any]]) -> str:
    """The results of several reports (as `to_dict` gives them), those to be reached and those to compare with, and their notes."""
    rows = []
    for report in reports:
        for n, result in enumerate(report["results"]):
            reached = "" if not result["acceptance"] else "yes" if result["met"] else "NO"
            rows.append([report["task"] if n == 0 else "", result["what"], figure(result["value"]), result["acceptance"], reached])
    text = table(["task", "what", "measured", "to reach", "reached"], rows)
    notes = [f"- {report['task']}: {note}" for report in reports for note in report["notes"]]
    return "\n".join([text, *([""] if notes else []), *notes])
