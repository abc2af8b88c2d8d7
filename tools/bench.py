"""Benchmarks against peers, all in one run: python tools/bench.py SUITE [--runs 5] [--threads 1] [--json FILE].

Every run times the frameworks in turn, round by round in a new order, so that a machine that slows down slows all of them; a run's
time is the median of its rounds, a ratio is formed within a run, and the table shows the medians over the runs. Before anything is
timed, all frameworks must agree on the result. The garbage collector stays on, as users have it. A suite is a file bench_SUITE.py
with a TITLE and `cases()`; a peer that is not installed is reported as missing. A suite may have several columns of ours: then each has
a table of its own, beside the peers that it is compared with.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import importlib
import json
import os
import platform
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from statistics import geometric_mean, median
from typing import Any

HERE = Path(__file__).resolve().parent
OURS = "tinygrad_seq"
PACKAGES = ("numpy", "numba", "torch", "jax", "autograd", "mygrad")
THREAD_VARIABLES = (
    *("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"),
    *("NUMBA_NUM_THREADS", "NPROC"),  # XLA, on which JAX runs, takes the threads of its pool from NPROC
)

Missing = NotImplementedError  # raised by an adapter that cannot set a case up, with the reason: the column is missing in this case


@dataclass
class Case:
    """One problem: how each framework is made to solve it, or why it cannot, and how far the answers may lie apart."""

    name: str
    frameworks: dict[str, Callable[[], Callable[[], Any]]]  # the name -> set up, and return what is to be timed, or raise `Missing`
    missing: dict[str, str]
    tolerance: float
    group: str = ""  # cases of one group are averaged; a group may have frameworks that others have not
    ours: dict[str, tuple[str, ...]] = field(default_factory=lambda: {OURS: ()})  # -> its peers; (): all that are not ours
    optional: tuple[str, ...] = ()  # frameworks that run only where --only names them


# ---- Before NumPy is imported -----------------------------------------------------------------------------------------------------


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    suites = sorted(path.stem.removeprefix("bench_") for path in HERE.glob("bench_*.py"))
    parser = argparse.ArgumentParser(description="Benchmarks against peers.")
    parser.add_argument("suite", choices=suites)
    parser.add_argument("--runs", type=int, default=5, help="fresh interleaved sets of measurements (default 5)")
    parser.add_argument("--seconds", type=float, default=2.0, help="time for the rounds of one run of one case (default 2)")
    parser.add_argument("--threads", type=int, default=1, help="BLAS threads (default 1)")
    parser.add_argument("--only", default="", help="only these frameworks, separated by commas")
    parser.add_argument("--cases", default="", help="only the cases whose name contains this")
    parser.add_argument("--memory", action="store_true", help="also the peak memory of one call, each in its own process (Linux)")
    parser.add_argument("--json", type=Path, help="write everything measured to this file")
    parser.add_argument("--keep-coretype", action="store_true", help="respect OPENBLAS_CORETYPE instead of unsetting it")
    parser.add_argument("--peak-of", help=argparse.SUPPRESS)  # a child of --memory: measure this framework, print bytes
    return parser.parse_args(argv)


def prepare_environment(options: argparse.Namespace) -> str | None:
    """Fix what BLAS libraries read once, when they load. Returns the OPENBLAS_CORETYPE that the shell had set."""
    assert "numpy" not in sys.modules
    for name in THREAD_VARIABLES:
        os.environ[name] = str(options.threads)
    coretype = os.environ.get("OPENBLAS_CORETYPE")
    if not options.keep_coretype:
        os.environ.pop("OPENBLAS_CORETYPE", None)
    sys.path[:0] = [str(HERE), str(HERE.parent)]
    return coretype


# ---- The machine --------------------------------------------------------------------------------------------------------------------


def processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def blas_kernels() -> list[str]:
    """The BLAS libraries that are loaded now, with their kernels and threads."""
    import numpy as np

    try:
        from threadpoolctl import threadpool_info
    except ImportError:
        blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]  # type: ignore[call-overload]
        return [f"{blas['name']} {blas['version']} as NumPy was built; pip install threadpoolctl tells the kernels in use"]
    found = []
    for library in threadpool_info():
        facts = [library["internal_api"], library.get("version"), library.get("architecture"), f"{library['num_threads']} threads"]
        found.append(", ".join(str(fact) for fact in facts if fact) + f" ({Path(library['filepath']).parent.name})")
    return sorted(found)


def machine(options: argparse.Namespace, coretype: str | None) -> dict[str, Any]:
    import numpy as np

    facts = {
        "processor": f"{processor()}, {os.cpu_count()} cores",
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        "packages": ", ".join(f"{name} {version(name)}" for name in PACKAGES),
        "threads": str(options.threads),
        "blas": blas_kernels(),
    }
    simd = np.show_config(mode="dicts").get("SIMD Extensions", {})  # type: ignore[call-overload]
    facts["numpy simd"] = ", ".join(simd.get("found", [])[-3:])
    if "torch" in sys.modules:
        import torch

        facts["torch"] = f"{torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads"
    if coretype:
        state = "respected" if options.keep_coretype else "unset for this benchmark; --keep-coretype respects it"
        facts["OPENBLAS_CORETYPE"] = f"{coretype} in this shell, {state}"
    return facts


# ---- Measuring ----------------------------------------------------------------------------------------------------------------------


def disagreement(results: dict[str, Any]) -> dict[str, float]:
    """How far each framework's arrays lie from those of the first, our own where they are there, relative to the largest element."""
    import numpy as np

    reference = next(iter(results.values()))
    apart = {}
    for name, arrays in results.items():
        assert len(arrays) == len(reference), f"{name} returned {len(arrays)} arrays, expected {len(reference)}"
        distances = [
            np.abs(np.subtract(a, b, dtype=np.float64)).max() / np.abs(b).max() for a, b in zip(arrays, reference, strict=True)
        ]
        apart[name] = float(np.max(distances))  # a NaN stays one
    return apart


def one_run(timed: dict[str, Callable[[], Any]], rounds: int, order: random.Random) -> dict[str, float]:
    """The median time of each framework over interleaved rounds, in seconds."""
    times: dict[str, list[float]] = {name: [] for name in timed}
    names = list(timed)
    for _ in range(rounds):
        order.shuffle(names)
        for name in names:
            start = time.perf_counter()
            timed[name]()
            times[name].append(time.perf_counter() - start)
    return {name: median(values) for name, values in times.items()}


def compared(case: Case, timed: Sequence[str], missing: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Each of ours that was timed -> the peers that its ratios are about. Without ours the first is compared with all others."""
    names = [*timed, *missing]
    others = [name for name in names if name not in case.ours]
    ours = [name for name in case.ours if name in timed] or timed[:1]
    return {own: tuple(name for name in names if name in (case.ours.get(own) or others) and name != own) for own in ours}


def measure(case: Case, options: argparse.Namespace) -> dict[str, Any]:
    """Set up, check that all agree, time: what is known about one case."""
    timed, missing = {}, dict(case.missing)
    for name, set_up in case.frameworks.items():
        try:
            timed[name] = set_up()
        except Missing as why:
            missing[name] = str(why)
    ours = compared(case, list(timed), list(missing))
    result: dict[str, Any] = {"case": case.name, "group": case.group, "frameworks": {}, "missing": missing, "compared": ours}
    if not timed:
        return result
    apart = disagreement({name: call() for name, call in timed.items()})
    apart_too_far = [f"{name} disagrees by {distance:.1e}" for name, distance in apart.items() if not distance <= case.tolerance]
    if apart_too_far:
        raise SystemExit(f"{case.name}: {', '.join(apart_too_far)}, allowed {case.tolerance:.0e} (relative): nothing timed")
    order = random.Random(0)
    one_round = sum(one_run(timed, 2, order).values())  # also warms up
    result["rounds"] = max(5, round(options.seconds / one_round))
    runs = [one_run(timed, result["rounds"], order) for _ in range(options.runs)]
    for name in timed:
        facts: dict[str, Any] = {
            "milliseconds": 1e3 * median(run[name] for run in runs),
            "milliseconds of each run": [1e3 * run[name] for run in runs],
            "disagreement": apart[name],
            "ratios": {},
        }
        for own in [own for own, peers in ours.items() if name in peers]:
            ratios = sorted(run[own] / run[name] for run in runs)
            facts["ratios"][own] = {"median": median(ratios), "range": (ratios[0], ratios[-1])}
        result["frameworks"][name] = facts
    return result


# ---- Memory -------------------------------------------------------------------------------------------------------------------------


def peak_of_one_call(call: Callable[[], Any]) -> int:
    """By how many bytes one call raises the resident memory of this process at its peak. Linux only."""
    call()  # what is set up once stays out of the account

    def status(field: str) -> int:
        return next(
            int(line.split()[1]) * 1024 for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field)
        )

    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what is free goes back to the system, so that its next use counts
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew from here
    before = status("VmRSS")
    call()
    return status("VmHWM") - before


def add_peaks(result: dict[str, Any], options: argparse.Namespace) -> None:
    """Measure every framework in a process of its own, where no other has left free memory about."""
    for name, facts in result["frameworks"].items():
        command = [sys.executable, __file__, options.suite, "--cases", result["case"], "--peak-of", name]
        command += ["--threads", str(options.threads)]
        answer = subprocess.run(command, capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL)
        facts["peak bytes"] = int(answer.stdout.split()[-1])


# ---- The report ---------------------------------------------------------------------------------------------------------------------


def markdown(rows: list[list[str]]) -> Iterator[str]:
    """The rows as a Markdown table, the first as its head."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for number, row in enumerate(rows):
        yield "| " + " | ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)) + " |"
        if number == 0:
            yield "|" + "|".join("-" * (width + 2) for width in widths) + "|"


def tables(results: list[dict[str, Any]]) -> list[str]:
    """Those of ours that have a table: the first column of each."""
    return list(dict.fromkeys(own for result in results for own in result["compared"]))


def table(results: list[dict[str, Any]], own: str) -> Iterator[str]:
    """The results as the rows of a Markdown table: the time of one of ours, then each peer's and ours relative to it."""
    names = list(dict.fromkeys([own, *(peer for result in results for peer in result["compared"].get(own, ()))]))
    rows = [["case", *names]]
    for result in results:
        row = [result["case"]]
        for name in names:
            facts = result["frameworks"].get(name)
            if facts is None:
                row.append("missing" if name in result["missing"] else "")
                continue
            cell = f"{facts['milliseconds']:.2f} ms"
            if own in facts["ratios"]:
                ratio = facts["ratios"][own]
                low, high = ratio["range"]
                cell += f", ratio {ratio['median']:.2f} ({low:.2f}-{high:.2f})"
            if "peak bytes" in facts:
                cell += f", {facts['peak bytes'] / 2**20:.1f} MiB"
            row.append(cell)
        rows.append(row)
    yield from markdown(rows)


def mean_ratios(results: list[dict[str, Any]], own: str) -> dict[str, float]:
    """The geometric mean over the cases of one of ours relative to each peer, of the peers that every case has."""
    ratios: dict[str, list[float]] = {}
    for result in results:
        for name, facts in result["frameworks"].items():
            if own in facts["ratios"]:
                ratios.setdefault(name, []).append(facts["ratios"][own]["median"])
    return {name: geometric_mean(found) for name, found in ratios.items() if len(found) == len(results) > 1}


def report(results: list[dict[str, Any]]) -> Iterator[str]:
    """The tables, one for each of ours, then the means of the ratios over every group of cases."""
    owners = tables(results)
    for own in owners:
        yield from table(results, own)
        if len(owners) > 1:
            yield ""
    for group in dict.fromkeys(result["group"] for result in results):
        for own in owners:
            for name, ratio in mean_ratios([result for result in results if result["group"] == group], own).items():
                whose = f"{own} to {name}" if len(owners) > 1 else f"to {name}"
                yield f"\ngeometric mean of the ratios {whose}{group and f', {group}'}: {ratio:.2f}"


def chosen(suite: Any, options: argparse.Namespace) -> Iterator[Case]:
    only = [options.peak_of] if options.peak_of else [name.strip() for name in options.only.split(",") if name.strip()]
    for case in suite.cases():
        if case.name == options.cases or (options.cases in case.name and not options.peak_of):
            names = only or [name for name in [*case.frameworks, *case.missing] if name not in case.optional]
            case.frameworks = {name: f for name, f in case.frameworks.items() if name in names}
            case.missing = {name: why for name, why in case.missing.items() if name in names}
            yield case


def main(argv: Sequence[str] | None = None) -> None:
    options = arguments(argv)
    coretype = prepare_environment(options)
    suite = importlib.import_module(f"bench_{options.suite}")
    cases = [case for case in chosen(suite, options) if case.frameworks]
    if not cases:
        raise SystemExit(f"no case or framework left: --cases {options.cases!r} --only {options.only!r}")
    if "torch" in sys.modules:
        import torch

        torch.set_num_threads(options.threads)
    if options.peak_of:
        print(peak_of_one_call(cases[0].frameworks[options.peak_of]()))
        return
    results = []
    print(suite.TITLE)
    facts = machine(options, coretype)
    for name, fact in facts.items():
        print(f"  {name}: {'; '.join(fact) if isinstance(fact, list) else fact}")
    for name, why in cases[0].missing.items():
        print(f"  missing: {name} ({why})")
    for case in cases:
        print(f"measuring {case.name} ...", file=sys.stderr, flush=True)
        results.append(measure(case, options))
        if options.memory:
            add_peaks(results[-1], options)
        for name, why in results[-1]["missing"].items():
            if name not in case.missing:
                print(f"  missing: {name} in {case.name} ({why})")
    rounds = min((result["rounds"] for result in results if result["frameworks"]), default=0)
    print(
        f"\nmedian of {options.runs} runs of at least {rounds} interleaved rounds each; ratio = ours (or the first) / theirs, with its range over the runs\n"
    )
    for line in report(results):
        print(line)
    if options.json:
        everything = {"suite": options.suite, "title": suite.TITLE, "runs": options.runs, "machine": facts, "results": results}
        options.json.write_text(json.dumps(everything, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
