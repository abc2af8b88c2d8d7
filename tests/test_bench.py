"""The benchmark program: it runs on what is installed, times nothing that disagrees, and says which frameworks are missing."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

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
    command += ["--only", "tinygrad_seq,hand-written kernel"]
    rows = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    cells = {row.split("|")[1].split()[0]: row.count(" ms") for row in rows if row.startswith("| ") and "T=20" in row}
    assert cells == {"RNN": 1, "LSTM": 2, "GRU": 1}


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
    assert "ratio" not in result["frameworks"]["one"] and result["frameworks"]["two"]["ratio"] > 0
    assert result["group"] == "all"


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
    assert result["frameworks"]["other"]["ratio"] == 0.25
    assert result["frameworks"]["tinygrad_seq"]["milliseconds"] == 5000
    rows = list(bench.table([result]))
    assert "absent" in rows[0] and "missing" in rows[2] and "ratio 0.25 (0.25-0.25)" in rows[2]


def test_the_mean_of_the_ratios_is_geometric_and_of_peers_that_every_case_has(bench: ModuleType) -> None:
    def case(**ratios: float) -> dict:
        return {"frameworks": {"tinygrad_seq": {}, **{name: {"ratio": ratio} for name, ratio in ratios.items()}}}

    assert bench.mean_ratios([case(a=0.5, b=3.0), case(a=2.0)]) == {"a": 1.0}
    assert bench.mean_ratios([case(a=0.5)]) == {}
