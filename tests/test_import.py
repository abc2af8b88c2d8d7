"""What `import tinygrad_seq` costs, brings and shows."""

from __future__ import annotations

import ast
import inspect
import os
import statistics
import subprocess
import sys
import types
from pathlib import Path

import pytest

import tinygrad_seq as tg
from tinygrad_seq import ops

HEAVY = "scipy pygraphviz matplotlib cupy tqdm numba safetensors hypothesis torch IPython".split()
PACKAGE = Path(tg.__file__).parent


def run(program: str, **variables: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(PACKAGE.parent)} | variables
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment).stdout


def seconds_to_import(module: str, compiled: Path) -> float:
    program = f"import time; start = time.perf_counter(); import {module}; print(time.perf_counter() - start)"
    return float(run(program, PYTHONPYCACHEPREFIX=str(compiled), PYTHONDONTWRITEBYTECODE=""))


def test_import_takes_at_most_one_and_a_half_times_numpys_time(tmp_path: Path) -> None:
    seconds_to_import("tinygrad_seq", tmp_path)  # compiles both
    ratio = float("inf")
    for _ in range(5):  # a busy machine may need several attempts; a heavy import fails them all
        pairs = [(seconds_to_import("numpy", tmp_path), seconds_to_import("tinygrad_seq", tmp_path)) for _ in range(7)]
        numpy, ours = zip(*pairs, strict=True)
        ratio = min(ratio, statistics.median(ours) / statistics.median(numpy))
        if ratio <= 1.5:
            break
    assert ratio <= 1.5


def test_import_brings_neither_heavy_packages_nor_layers_nor_readers() -> None:
    loaded = set(run("import sys, tinygrad_seq; print(*sys.modules)").split())
    assert loaded.isdisjoint(HEAVY)
    assert loaded.isdisjoint(f"tinygrad_seq.{name}" for name in ("nn", "optim", "data", "viz", "bptt", "plot", "cli", "testing"))


@pytest.mark.parametrize("name", sorted(tg._LAZY))
def test_what_is_lazy_comes_when_it_is_asked_for(name: str) -> None:
    assert run(f"import tinygrad_seq as tg; print(tg.{name} is tg.{name} and tg.{name} is not None)").strip() == "True"


def test_star_import_of_a_lazy_name() -> None:
    assert run("from tinygrad_seq import nn, no_grad, Tensor; print(nn.Linear.__name__)").strip() == "Linear"


# ---- The public names -------------------------------------------------------------------------------------------------------------------


def test_dir_is_tidy() -> None:
    names = dir(tg)
    assert names == sorted(set(names))
    modules = {name for name in names if isinstance(getattr(tg, name), types.ModuleType)}
    assert modules == {"errors", "linalg", "random", "bptt", "data", "io", "nn", "optim", "plot", "testing", "training", "viz"}
    assert [name for name in names if name[0] == "_"] == ["__version__"]
    assert not {"Any", "TYPE_CHECKING", "annotations", "np", "sys"} & set(names)


def test_every_op_is_public() -> None:
    exported = {
        alias.asname
        for statement in ast.parse(Path(ops.__file__).read_text(encoding="utf-8")).body
        if isinstance(statement, ast.ImportFrom) and statement.module
        for alias in statement.names
    }
    assert exported - set(dir(tg)) == {
        "getitem",
        "write",
        "to_device",
        "sum_to",
    }  # x[key], x[key] = v, x.to, and the transpose of broadcasting


@pytest.mark.parametrize(
    "name", [name for name in dir(tg) if callable(getattr(tg, name)) and not name.startswith(("float", "int", "uint", "bool_"))]
)
def test_every_public_name_is_documented(name: str) -> None:
    doc = inspect.getdoc(getattr(tg, name))
    assert doc
    assert doc.splitlines()[0].rstrip()[-1] in ".:?=" or "=" in doc.splitlines()[0]


@pytest.mark.parametrize("namespace", [tg.random, tg.linalg, tg.errors])
def test_the_namespaces_are_documented(namespace: types.ModuleType) -> None:
    assert namespace.__doc__
    for name, value in vars(namespace).items():
        if name[0] != "_" and inspect.isfunction(value) and value.__module__ == namespace.__name__:
            assert value.__doc__, name


def test_the_version_is_that_of_the_package() -> None:
    assert tg.__version__.count(".") == 2
