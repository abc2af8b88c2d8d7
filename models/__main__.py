"""The table of all systems: `python -m models` lists them, `python -m models all --quick` or `--full` runs them and prints what they reach.

    python -m models                         the table of all systems
    python -m models all --quick             each in seconds, with bounds of its own
    python -m models all --full              the table of docs/models.md
    python -m models all --full --only T1,T14
    python -m models seeds                   the core ones, on three seeds that nobody picked

Each experiment runs in a process of its own with one BLAS thread, `--jobs` of them side by side; its figures, samples, checkpoints and results are in
OUT/SETTING/seed-SEED/SYSTEM/EXPERIMENT. Ctrl-C ends them, saved, and the same command with --resume goes on: what is done is not done again.
The exit status is 0 if all was reached, 1 if something was not or did not run, 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import json
import os
import pkgutil
import re
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import models
from models.command_line import add_options, seed_of, tasks
from models.experiment import Experiment, Report, figure, results_table, table

CORE = ("T1", "T2", "T4", "T7", "T16", "T18", "T22")  # those that must hold on seeds that nobody picked


def systems() -> dict[str, list[Experiment]]:
    """The experiments of every module of this package, by its name."""
    names = [info.name for info in pkgutil.iter_modules(models.__path__) if not info.name.startswith("__")]
    found = {name: getattr(importlib.import_module(f"models.{name}"), "EXPERIMENTS", []) for name in names}
    return {name: kinds for name, kinds in found.items() if kinds}


def listing(wanted: Sequence[str]) -> str:
    """The systems of these tasks: what each is, its rows in the notes, its command and its time."""
    rows = []
    for name, kinds in systems().items():
        for kind in (kind for kind in kinds if kind.task in wanted):
            command = f"python -m models.{name}{f' --only {kind.task}' if len(kinds) > 1 else ''}"
            rows.append([kind.task, kind.title, kind.rows, command, f"{kind.seconds[0]:g} s", f"{kind.seconds[1]:g} s"])
    rows.sort(key=lambda row: _number(row[0]))
    return table(["task", "what is tested", "rows", "command", "--quick", "full"], rows)


def _number(task: str) -> tuple[bool, str, int, str]:
    """T7 before T7b before T10; rows of the notes that are no task of the table last."""
    return (task[:1] != "T", task[:1], int(re.search(r"\d+|$", task)[0] or 0), task)


def run_all(wanted: Sequence[str], seeds: Sequence[int], options: Any) -> list[dict[str, Any]]:
    """Run the experiments of these tasks with each seed, and return their reports in the order of the tasks."""
    work = [(name, kind, seed) for name, kinds in systems().items() for kind in kinds for seed in seeds if kind.task in wanted]
    work.sort(key=lambda piece: -piece[1].seconds[0 if options.quick else 1])  # the longest first: they end together
    done = itertools.count(1)

    def run(piece: tuple[str, Experiment, int]) -> dict[str, Any]:
        report = _run(*piece, options)
        reached = "reached" if report["met"] else "NOT REACHED" if report["results"] else "FAILED"
        if not options.silent:
            line = f"[{next(done)}/{len(work)}] {report['task']:<5} seed {report['seed']}: {reached} in {report['seconds']:.0f} s"
            print(line, file=sys.stderr, flush=True)
        return report

    pool = ThreadPoolExecutor(options.jobs)
    try:
        reports = list(pool.map(run, work))
    finally:
        pool.shutdown(cancel_futures=True)  # after Ctrl-C nothing new begins
    return sorted(reports, key=lambda report: (_number(report["task"]), report["seed"]))


def _run(name: str, kind: Experiment, seed: int, options: Any) -> dict[str, Any]:
    setting = "quick" if options.quick else "full"
    out = options.out / setting / f"seed-{seed}"
    report = out / name / kind.name / "results.json"
    if not (options.resume and report.exists()):
        report.unlink(missing_ok=True)
        command = [sys.executable, "-m", f"models.{name}", "--only", kind.task, f"--{setting}"]
        command += ["--seed", str(seed), "--out", str(out), "--silent", *(["--resume"] if options.resume else [])]
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        begin = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", env=environment)
        if not report.exists():
            if done.returncode in (130, -signal.SIGINT):
                raise KeyboardInterrupt
            print(f"{kind.task} seed {seed}: FAILED, exit status {done.returncode}\n{done.stderr}", file=sys.stderr, flush=True)
            lines = [line.strip() for line in done.stderr.strip().splitlines()] or [f"exit status {done.returncode}, no message"]
            why = "; ".join(lines) if done.returncode == 2 else lines[-1]  # of a traceback what it ends with
            return _of_none(kind, setting, seed, time.perf_counter() - begin, f"did not run: {why}")
    found: dict[str, Any] = json.loads(report.read_text(encoding="utf-8"))
    return found


def _of_none(kind: Experiment, setting: str, seed: int, seconds: float, why: str) -> dict[str, Any]:
    """The report of an experiment that broke off."""
    return {**Report(kind, setting, seed, seconds, [], [why]).to_dict(), "met": False}


def seeds_table(reports: Sequence[dict[str, Any]]) -> str:
    """What was to be reached, for every seed a column."""
    seeds = sorted({report["seed"] for report in reports})
    rows: dict[tuple[str, str, str], dict[int, str]] = {}
    for report in reports:
        for result in report["results"]:
            if result["acceptance"]:
                row = rows.setdefault((report["task"], result["what"], result["acceptance"]), {})
                row[report["seed"]] = figure(result["value"]) + ("" if result["met"] else " NO")
    return table(
        ["task", "what", "to reach", *(f"seed {seed}" for seed in seeds)],
        [[*key, *(row.get(seed, "") for seed in seeds)] for key, row in rows.items()],
    )


def main(argv: Sequence[str] | None = None) -> int:
    """The command: list, or run all."""
    parser = argparse.ArgumentParser(
        prog="python -m models", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "command",
        nargs="?",
        choices=["list", "all", "seeds"],
        default="list",
        help="list (the default): every system, its command and its time; all: run them; seeds: run the core ones on new seeds",
    )
    add_options(parser)
    parser.add_argument("--only", metavar="TASKS", help="these tasks, separated by commas")
    parser.add_argument(
        "--jobs", type=int, default=max(1, (os.cpu_count() or 1) // 2), help="processes side by side (default: half the cores)"
    )
    parser.add_argument("--seeds", help="for `seeds`: these, separated by commas, instead of three that the operating system draws")
    options = parser.parse_args(argv)
    known = sorted({kind.task for kinds in systems().values() for kind in kinds}, key=_number)
    try:
        wanted = [t for t in CORE if t in known] if options.command == "seeds" and not options.only else tasks(options.only, known)
        seeds = list(_seeds(options)) if options.command == "seeds" else [options.seed]
    except (ValueError, argparse.ArgumentTypeError) as wrong:
        parser.error(str(wrong))
    if options.command == "list":
        print(listing(wanted))
        return 0
    if options.jobs < 1:
        parser.error(f"--jobs {options.jobs}: expected at least 1")
    try:
        reports = run_all(wanted, seeds, options)
    except KeyboardInterrupt:
        print("\nstopped; what was done is saved: the same command with --resume goes on", file=sys.stderr)
        if options.command == "seeds":
            print(f"with --seeds {','.join(map(str, seeds))}", file=sys.stderr)
        return 130
    print(seeds_table(reports) if len(seeds) > 1 else results_table(reports))
    if len(seeds) > 1:
        for report in reports:
            if not report["results"]:
                print(f"- {report['task']} seed {report['seed']}: {' '.join(report['notes'])}")
    met = sum(report["met"] for report in reports)
    setting = options.out / ("quick" if options.quick else "full")
    print(f"\n{met} of {len(reports)} reach what they had to reach; {sum(report['seconds'] for report in reports):.0f} s of work")
    print(f"figures, samples and results: {setting}")
    return 0 if met == len(reports) else 1


def _seeds(options: Any) -> Iterator[int]:
    """The seeds that are named, or three that nobody picked."""
    if options.seeds is None:
        yield from (secrets.randbelow(10**6) for _ in range(3))
    else:
        yield from map(seed_of, options.seeds.split(","))


if __name__ == "__main__":
    sys.exit(main())
