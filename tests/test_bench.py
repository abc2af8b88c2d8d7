"""The benchmark program: it runs on what is installed, times nothing that disagrees, and says which frameworks are missing."""

from __future__ import annotations

import importlib
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

import tinygrad_seq as tg

TOOLS = Path(__file__).resolve().parent.parent / "tools"


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bench", TOOLS / "bench.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["bench"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def options(**changed: object) -> SimpleNamespace:
    return SimpleNamespace(**({"runs": 3, "seconds": 0.0} | changed))


def test_the_eager_suite_runs_and_reports(tmp_path: Path) -> None:
    command = [
        sys.executable,
        str(TOOLS / "bench.py"),
        "eager",
        "--runs",
        "1",
        "--seconds",
        "0",
        "--cases",
        "B=4",
        "--only",
        "tinygrad_seq",
    ]
    done = subprocess.run([*command, "--json", str(tmp_path / "eager.json")], capture_output=True, text=True, check=True)
    assert "| B=4 D=8 H=16 |" in done.stdout
    report = json.loads((tmp_path / "eager.json").read_text(encoding="utf-8"))
    assert report["results"][0]["frameworks"]["tinygrad_seq"]["milliseconds"] > 0
    assert report["machine"]["threads"] == "1" and report["machine"]["blas"]


def test_the_layers_suite_compares_every_layer_and_shows_the_kernel_where_it_is_one() -> None:
    command = [sys.executable, str(TOOLS / "bench.py"), "layers", "--runs", "1", "--seconds", "0", "--cases", "T=20 "]
    command += ["--only", "unfolded,hand-written kernel"]
    rows = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    cells = {row.split("|")[1].split()[0]: row.count(" ms") for row in rows if row.startswith("| ") and "T=20" in row}
    assert cells == {"RNN": 1, "LSTM": 2, "GRU": 1}


def test_the_cells_suite_runs_every_cell_unfolded() -> None:
    command = [
        sys.executable,
        str(TOOLS / "bench.py"),
        "cells",
        "--runs",
        "1",
        "--seconds",
        "0",
        "--cases",
        "T=20 ",
        "--only",
        "unfolded",
    ]
    rows = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    cells = [row.split("|")[1].partition(" T=")[0].strip() for row in rows if row.startswith("| ") and " ms" in row]
    assert cells == ["user's LSTM", "layer-normalised LSTM", "minimal gated unit", "highway"]


def test_the_time_to_compile_is_told_for_each_cell() -> None:
    command = [sys.executable, str(TOOLS / "compile_time.py"), "--runs", "1", "--only", "cells"]
    rows = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    times = {row.split("|")[1].strip(): float(row.split("|")[3]) for row in rows if row.startswith("| ") and "median" not in row}
    assert {"RNN", "LSTM", "GRU", "LSTM with peepholes", "user's LSTM"} <= set(times) and min(times.values()) > 0


def test_a_column_holds_what_its_target_runs_and_nothing_else(bench: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(TOOLS))
    targets = importlib.import_module("targets")
    answers = {
        "loop": SimpleNamespace(compiled=True, target="numpy", reason=None),
        "sort": SimpleNamespace(compiled=False, target=None, reason="sort is not known"),
    }
    monkeypatch.setattr(tg, "scan_target", lambda target: tg.unfolded(), raising=False)
    monkeypatch.setattr(tg, "explain_compile", answers.get, raising=False)
    assert targets.on("numpy", lambda: 3, "loop")() == 3
    with pytest.raises(bench.Missing, match="it runs on numpy"):
        targets.on("numba", lambda: 3, "loop")
    with pytest.raises(bench.Missing, match="sort"):
        targets.on("numpy", lambda: 3, "sort")


def test_nothing_is_timed_where_frameworks_disagree(bench: ModuleType) -> None:
    calls = {"tinygrad_seq": lambda: [np.ones(3)], "other": lambda: [np.array([1.0, 1.0, 1.001])]}
    case = bench.Case("planted", {name: lambda call=call: call for name, call in calls.items()}, {}, tolerance=1e-4)
    with pytest.raises(SystemExit, match="other disagrees"):
        bench.measure(case, options())
    case.tolerance = 1e-2
    assert set(bench.measure(case, options())["frameworks"]) == {"tinygrad_seq", "other"}


def test_without_ours_ratios_are_about_the_first(bench: ModuleType) -> None:
    same = lambda: lambda: [np.ones(1)]  # noqa: E731
    result = bench.measure(bench.Case("planted", {"one": same, "two": same}, {}, 1e-4, group="all"), options())
    assert result["compared"] == {"one": ("two",)} and result["group"] == "all"
    assert not result["frameworks"]["one"]["ratios"] and result["frameworks"]["two"]["ratios"]["one"]["median"] > 0


def test_nan_disagrees(bench: ModuleType) -> None:
    calls = {"tinygrad_seq": lambda: [np.ones(3)], "other": lambda: [np.full(3, np.nan)]}
    case = bench.Case("planted", {name: lambda call=call: call for name, call in calls.items()}, {}, tolerance=1e-4)
    with pytest.raises(SystemExit, match="nothing timed"):
        bench.measure(case, options())


def test_ratios_are_formed_within_runs_and_missing_peers_are_named(bench: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter(
        [{"tinygrad_seq": 1.0, "other": 2.0}, *({"tinygrad_seq": t, "other": 4 * t} for t in (1.0, 5.0, 9.0))]
    )  # the first warms up
    monkeypatch.setattr(bench, "one_run", lambda *_: next(times))
    same = lambda: lambda: [np.ones(1)]  # noqa: E731
    result = bench.measure(
        bench.Case("planted", {"tinygrad_seq": same, "other": same}, {"absent": "not installed"}, 1e-4), options()
    )
    assert result["frameworks"]["other"]["ratios"]["tinygrad_seq"]["median"] == 0.25
    assert result["frameworks"]["tinygrad_seq"]["milliseconds"] == 5000
    rows = list(bench.report([result]))
    assert "absent" in rows[0] and "missing" in rows[2] and "ratio 0.25 (0.25-0.25)" in rows[2]


def test_the_mean_of_the_ratios_is_geometric_and_of_peers_that_every_case_has(bench: ModuleType) -> None:
    def case(**ratios: float) -> dict:
        return {"frameworks": {name: {"ratios": {"tinygrad_seq": {"median": ratio}}} for name, ratio in ratios.items()}}

    assert bench.mean_ratios([case(a=0.5, b=3.0), case(a=2.0)], "tinygrad_seq") == {"a": 1.0}
    assert bench.mean_ratios([case(a=0.5)], "tinygrad_seq") == {}


def several(bench: ModuleType, **frameworks: object) -> object:
    """A case with two columns of ours: `slow` is compared with all peers, `fast` with one."""
    same = lambda: lambda: [np.ones(1)]  # noqa: E731
    columns = dict.fromkeys(("slow", "fast", "peer", "other"), same) | frameworks
    return bench.Case("planted", columns, {}, 1e-4, group="all", ours={"slow": (), "fast": ("peer", "absent")})


def test_each_column_of_ours_has_its_own_table_and_means(bench: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "one_run", lambda *_: {"slow": 2.0, "fast": 1.0, "peer": 4.0, "other": 1.0})
    results = [bench.measure(several(bench), options()) for _ in range(2)]
    lines = list(bench.report(results))
    heads = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("| case")]
    assert heads == [["case", "slow", "peer", "other"], ["case", "fast", "peer"]]
    assert lines[2].count("ratio 0.50") == 1 and lines[2].count("ratio 2.00") == 1 and "ratio 0.25" in lines[7]
    means = [line.strip() for line in lines if "geometric" in line]
    assert means[-1] == "geometric mean of the ratios fast to peer, all: 0.25" and len(means) == 3


def test_what_an_adapter_cannot_set_up_is_missing_in_its_case(bench: ModuleType) -> None:
    def cannot() -> None:
        raise bench.Missing("no loop of this kind")

    result = bench.measure(several(bench, fast=cannot), options())
    assert result["missing"] == {"fast": "no loop of this kind"} and list(result["compared"]) == ["slow"]
    whole = bench.measure(several(bench), options())
    assert "missing" in next(
        row for row in bench.table([whole, result], "fast") if row.startswith("| planted") and "missing" in row
    )


def test_optional_columns_run_where_they_are_named(bench: ModuleType) -> None:
    def names(**changed: object) -> list[str]:
        case = several(bench)
        case.optional = ("other",)
        suite = SimpleNamespace(cases=lambda: [case])
        [found] = bench.chosen(suite, options(**({"only": "", "cases": "", "peak_of": None} | changed)))
        return list(found.frameworks)

    assert names() == ["slow", "fast", "peer"] and names(only="other,slow") == ["slow", "other"]
    assert names(peak_of="other", cases="planted") == ["other"]
