"""The table of all systems: `python -m models` lists them, `python -m models all --quick` or `--full` runs them and prints what they reach.

Each system runs in a process of its own with one BLAS thread, `--jobs` of them side by side.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import pkgutil
import secrets
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import models
from models.experiment import Experiment, Report, add_options, figure, results_table, table

CORE = ("T1", "T2", "T4", "T7", "T16", "T18", "T22")  # those that must hold on seeds that nobody picked


def systems() -> dict[str, list[Experiment]]:
    """The experiments of every module of this package, by its name."""
    found = {}
    for info in pkgutil.iter_modules(models.__path__):
        if not info.name.startswith("__"):
            module = importlib.import_module(f"models.{info.name}")
            kinds = [kind for kind in vars(module).values() if isinstance(kind, Experiment)]
            if kinds:
                found[info.name] = kinds
    return found


def listing() -> str:
    """Every system: what it is, its rows in the notes, its command and its time."""
    rows = []
    for name, kinds in systems().items():
        for kind in kinds:
            command = f"python -m models.{name}{f' --only {kind.task}' if len(kinds) > 1 else ''}"
            rows.append([kind.task, kind.title, kind.rows, command, f"{kind.seconds[0]:g} s", f"{kind.seconds[1]:g} s"])
    rows.sort(key=lambda row: _number(row[0]))
    return table(["task", "what is tested", "rows", "command", "--quick", "full"], rows)


def _number(task: str) -> tuple[int, str]:
    """T7 before T7b before T10; what has another letter last."""
    digits = "".join(c for c in task if c.isdigit())
    return (int(digits or 0) + 1000 * (task[:1] != "T"), task)


def run_all(wanted: Sequence[str] | None, seeds: Sequence[int], options: Any) -> list[dict[str, Any]]:
    """Run the experiments of these tasks with each seed, and return their reports in the order of the tasks."""
    work = [
        (name, kind, seed)
        for name, kinds in systems().items()
        for kind in kinds
        for seed in seeds
        if wanted is None or kind.task in wanted
    ]
    setting = "quick" if options.quick else "full"
    work.sort(key=lambda piece: -piece[1].seconds[0 if options.quick else 1])  # the longest first: they end together
    with ThreadPoolExecutor(options.jobs) as pool:
        reports = list(pool.map(lambda piece: _run(*piece, setting, options), work))
    return sorted((report for report in reports if report), key=lambda report: (_number(report["task"]), report["seed"]))


def _run(name: str, kind: Experiment, seed: int, setting: str, options: Any) -> dict[str, Any] | None:
    out = options.out / setting / f"seed {seed}"
    command = [
        sys.executable,
        "-m",
        f"models.{name}",
        "--only",
        kind.task,
        f"--{setting}",
        "--seed",
        str(seed),
        "--out",
        str(out),
        "--silent",
    ]
    report = out / name / kind.name / "results.json"
    if not options.resume:
        report.unlink(missing_ok=True)
    begin = time.perf_counter()
    if not (options.resume and report.exists()):
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [*command, *(["--resume"] if options.resume else [])], capture_output=True, text=True, env=environment
        )
        if done.returncode not in (0, 1) or not report.exists():
            print(f"{kind.task:<5} seed {seed}: FAILED\n{done.stderr}", file=sys.stderr, flush=True)
            why = (done.stderr.strip().splitlines() or ["no message"])[-1]
            return _of_none(kind, setting, seed, time.perf_counter() - begin, f"did not run: {why}")
    found: dict[str, Any] = json.loads(report.read_text(encoding="utf-8"))
    print(
        f"{kind.task:<5} seed {seed}: {'reached' if found['met'] else 'NOT REACHED'} in {found['seconds']:.0f} s",
        file=sys.stderr,
        flush=True,
    )
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
        help="list them; run all; the core ones on new seeds",
    )
    add_options(parser)
    parser.add_argument("--only", metavar="TASKS", help="these tasks, separated by commas")
    parser.add_argument(
        "--jobs", type=int, default=max(1, (os.cpu_count() or 1) // 2), help="processes side by side (default: half the cores)"
    )
    parser.add_argument("--seeds", help="for `seeds`: these, separated by commas, instead of three that the operating system draws")
    options = parser.parse_args(argv)
    if options.command == "list":
        print(listing())
        return 0
    wanted = options.only.split(",") if options.only else CORE if options.command == "seeds" else None
    seeds = [options.seed]
    if options.command == "seeds":
        seeds = [int(seed) for seed in options.seeds.split(",")] if options.seeds else [secrets.randbelow(10**6) for _ in range(3)]
    reports = run_all(wanted, seeds, options)
    print(seeds_table(reports) if len(seeds) > 1 else results_table(reports))
    print(
        f"\n{sum(report['met'] for report in reports)} of {len(reports)} reach what they had to reach; {sum(r['seconds'] for r in reports):.0f} s of work"
    )
    return 0 if all(report["met"] for report in reports) else 1


if __name__ == "__main__":
    sys.exit(main())
