"""The cache of compiled loops: found again by the next process, never stale, never broken by what lies in it, safe for several at once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("numba", reason="numba is an extra")

from tinygrad_seq.compile import numba_cache
from tinygrad_seq.compile.numba_cache import fingerprint, load

SOURCE = """
from tinygrad_seq.compile.numba_loops import loop, pointwise
from tinygrad_seq.compile.numba_math import tanh

@pointwise
def apply(x, y):
    for k in range(x.size):
        y[k] = tanh(x[k])

@loop("void(f8[::1], f8[::1])")
def run(x, y):
    apply(x, y)
"""
PROGRAM = """
import sys
import numpy as np
from pathlib import Path
from tinygrad_seq.compile.numba_cache import load
module = load(Path(sys.argv[1]).read_text())
y = np.empty(3)
module.run(np.arange(3.0), y)
print(y.tolist(), sum(module.run.stats.cache_hits.values()))
"""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("TINYGRAD_SEQ_CACHE", str(tmp_path / "cache"))
    yield tmp_path / "cache"
    for name in [name for name in sys.modules if name.startswith("loops_")]:
        del sys.modules[name]


def started(tmp_path: Path, source: str = SOURCE) -> subprocess.Popen[str]:
    (tmp_path / "source.txt").write_text(source)
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "source.txt")]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def result_of(process: subprocess.Popen[str]) -> tuple[list[float], int]:
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    values, hits = out.rsplit(" ", 1)
    return eval(values), int(hits)


def test_the_next_process_finds_the_code(tmp_path: Path, cache: Path) -> None:
    first, second = result_of(started(tmp_path)), result_of(started(tmp_path))
    assert first == (second[0], 0) and second[1] == 1
    np.testing.assert_allclose(second[0], np.tanh(np.arange(3.0)), rtol=1e-15)


def test_processes_that_compile_at_once_do_not_disturb_each_other(tmp_path: Path, cache: Path) -> None:
    processes = [started(tmp_path) for _ in range(3)]
    assert {tuple(result_of(process)[0]) for process in processes} == {tuple(result_of(started(tmp_path))[0])}
    assert list(cache.glob("*.tmp")) == []


@pytest.mark.parametrize("damage", [b"", b"not a pickle", b"\x80\x05"])
def test_what_is_damaged_is_compiled_again(tmp_path: Path, cache: Path, damage: bytes) -> None:
    expected = result_of(started(tmp_path))
    for pattern in ("*.nbi", "*.nbc", "*.py"):
        for file in (*cache.glob(f"__pycache__/{pattern}"), *cache.glob(pattern)):
            file.write_bytes(damage)
        assert result_of(started(tmp_path))[0] == expected[0], pattern
    assert result_of(started(tmp_path))[1] == 1


def test_the_same_text_is_the_same_module(cache: Path) -> None:
    assert load("x = []").x is load("x = []").x
    assert load("x = 1").x == 1 and load("x = 2").x == 2


def test_what_the_code_calls_is_part_of_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    before = fingerprint(SOURCE)
    assert fingerprint(SOURCE) == before != fingerprint(SOURCE + " ")
    monkeypatch.setattr(numba_cache, "CALLED", numba_cache.CALLED[1:])
    assert fingerprint(SOURCE) != before


def test_an_error_in_the_text_is_raised_and_leaves_no_module(cache: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        load("1 / 0")
    assert not any(name.startswith("loops_") for name in sys.modules)


@pytest.mark.skipif(os.name == "nt", reason="a file in the way is another error there")
def test_a_place_that_cannot_be_written_gives_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("TINYGRAD_SEQ_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr(numba_cache, "user_directory", lambda: tmp_path / "file" / "too")
    assert numba_cache.directory().is_dir() and load("x = 3").x == 3
