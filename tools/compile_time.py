"""How long a time loop takes to be compiled: python tools/compile_time.py [--runs 9] [--only cells].

`cells`: one step of each cell is traced, goes through all passes and comes out as NumPy source, forward and backward. Each run has another
batch size and another function, so nothing is found from before; the first run also imports what the compiler needs.

`starts`: a fresh process imports the package and runs LSTM forward and backward twice; "first" with an empty TINYGRAD_SEQ_CACHE, "second"
with what the first left there. Whole: from the start of the process to its end, the interpreter's own start included.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from bench import THREAD_VARIABLES, markdown, processor, version

HERE = Path(__file__).resolve().parent
D, H = 64, 128
LAYER = (50, 16, D, H)  # T, B, D, H of the layer that a fresh process runs


def cells() -> dict[str, tuple[Callable[..., Any], int, list[tuple[int, ...]]]]:
    """The name of a cell -> its step, how many arrays its state is, the shapes of its weights."""
    import bench_cells

    from tinygrad_seq.nn import functional as F

    def shapes(gates: int) -> list[tuple[int, ...]]:
        return [(gates * H, D), (gates * H, H), (gates * H,), (gates * H,)]

    found = {
        "RNN": (F.rnn_step, 1, shapes(1)),
        "LSTM": (F.lstm_step, 2, shapes(4)),
        "GRU": (F.gru_step, 1, shapes(3)),
        "LSTM with peepholes": (F.peephole_lstm_step, 2, shapes(4) + 3 * [(H,)]),
    }
    for name, cell in bench_cells.CELLS.items():
        weights = bench_cells.problem(name, (1, 1, D, H)).weights
        found[name] = (partial(cell.step, bench_cells.our_ops()), cell.states, [w.shape for w in weights])
    return found


def compile_times(step: Callable[..., Any], states: int, weights: Sequence[tuple[int, ...]], runs: int) -> list[float]:
    """The milliseconds that each of the runs takes."""
    import numpy as np

    import tinygrad_seq as tg

    rng, times = np.random.default_rng(0), []
    for run in range(runs):
        shapes = [(2 + run, D), *[(2 + run, H)] * states, *weights]
        x, *rest = (tg.tensor(0.1 * rng.standard_normal(shape, np.float32), requires_grad=True) for shape in shapes)
        state = tuple(rest[:states]) if states > 1 else rest[0]
        start = time.perf_counter()
        with tg.scan_target("numpy"):
            text = tg.compile_scan(lambda *args: step(*args), x, state, rest[states:]).source
        times.append(1e3 * (time.perf_counter() - start))
        assert "def " in text
    return times


def cell_rows(runs: int) -> Iterator[list[str]]:
    yield ["cell", "first, ms", "median, ms", "longest but the first, ms"]
    for name, cell in cells().items():
        first, *others = compile_times(*cell, 1 + runs)
        yield [name, f"{first:.1f}", f"{median(others):.1f}", f"{max(others):.1f}"]


# ---- Fresh processes ------------------------------------------------------------------------------------------------------------------


def start(target: str) -> dict[str, float]:
    """In a fresh process: the seconds that it takes to import the package, and each of two times to run the layer."""
    seconds, before = {}, time.perf_counter()
    import numpy as np

    import tinygrad_seq as tg
    from tinygrad_seq import nn

    seconds["import"] = time.perf_counter() - before
    T, B, D, H = LAYER
    module, xs = nn.LSTM(D, H, rng=0), np.ones((T, B, D), np.float32)
    with tg.scan_target(target):
        for call in ("first call", "second call"):
            before = time.perf_counter()
            module(xs)[0].sum().backward()
            seconds[call] = time.perf_counter() - before
        answer = tg.explain_compile(module, xs)
    if answer.target != target:
        raise SystemExit(f"not compiled for {target}: {answer.reason or answer.target}")
    return seconds


def seconds_of_start(target: str, cache: str) -> dict[str, float]:
    """What `start` says in a process of its own, and the whole time of that process."""
    before = time.perf_counter()
    command = [sys.executable, __file__, "--start", target]
    environment = os.environ | {"TINYGRAD_SEQ_CACHE": cache}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout) | {"whole": time.perf_counter() - before}


def start_rows(runs: int) -> Iterator[list[str]]:
    parts = ("import", "first call", "second call", "whole")
    yield ["target", "start", *(f"{part}, s" for part in parts)]
    for target in ("numpy", "numba"):
        if target == "numba" and importlib.util.find_spec("numba") is None:
            yield [target, "missing", *("" for _ in parts)]
            continue
        starts: dict[str, list[dict[str, float]]] = {"first": [], "second": []}
        for _ in range(runs):
            with tempfile.TemporaryDirectory() as cache:
                for found in starts.values():
                    found.append(seconds_of_start(target, cache))
        for name, found in starts.items():
            yield [target, name, *(f"{median(seconds[part] for seconds in found):.3f}" for part in parts)]


# ---- The report -----------------------------------------------------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="How long a time loop takes to be compiled.")
    parser.add_argument(
        "--runs", type=int, default=9, help="how often each cell is compiled; a third of it: fresh processes (default 9)"
    )
    parser.add_argument("--only", choices=("cells", "starts"), help="one of the two tables")
    parser.add_argument("--start", help=argparse.SUPPRESS)  # a fresh process: this target
    options = parser.parse_args(argv)
    for variable in THREAD_VARIABLES:
        os.environ[variable] = "1"
    sys.path.insert(0, str(HERE.parent))
    if options.start:
        print(json.dumps(start(options.start)))
        return

    print(
        f"{processor()}, Python {platform.python_version()}, " + ", ".join(f"{name} {version(name)}" for name in ("numpy", "numba"))
    )
    if options.only != "starts":
        print(f"\nto compile one cell, D={D}, H={H}, float32, target NumPy, over {options.runs} runs\n")
        print(*markdown(list(cell_rows(options.runs))), sep="\n")
    if options.only != "cells":
        runs = max(1, options.runs // 3)
        print("\nLSTM, T={} B={} D={} H={}, forward + backward in a fresh process".format(*LAYER) + f", medians of {runs}\n")
        print(*markdown(list(start_rows(runs))), sep="\n")


if __name__ == "__main__":
    main()
