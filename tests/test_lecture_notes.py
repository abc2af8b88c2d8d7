"""The index of the lecture notes: every row is there, and what it names exists."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import tinygrad_seq as tg
from models.__main__ import systems as models_by_name
from tinygrad_seq import nn
from tinygrad_seq.nn import functional as F

ROOT = Path(__file__).resolve().parent.parent
TEXT, _, SLIPS = (ROOT / "docs" / "lecture-notes.md").read_text(encoding="utf-8").partition("## Where the notes slip")
ROWS = {cells[0]: cells[1:] for cells in re.findall(r"(?m)^\| ([A-J]\d+) \| (.+?) \| (.+?) \|(.*)\|$", TEXT)}
COUNTS = {"A": 16, "B": 10, "C": 20, "D": 12, "E": 17, "F": 12, "G": 8, "H": 3, "I": 5, "J": 14}
EVERY = [f"{letter}{number}" for letter, count in COUNTS.items() for number in range(1, count + 1)]
ROOTS = {"tg": tg, "nn": nn, "F": F, "dynamics": F.dynamics}
KINDS = models_by_name()
each_row = pytest.mark.parametrize("row", EVERY)


def found(name: str) -> Any:
    """What a dotted name of the document stands for."""
    root, *rest = name.split(".")
    place: Any = ROOTS[root]
    for part in rest:
        place = getattr(place, part)
    return place


def names(text: str) -> list[str]:
    return re.findall(rf"`((?:{'|'.join(ROOTS)})\.[\w.]+)`", text)


def systems(text: str) -> list[tuple[str, str]]:
    """The systems that a row names, with the experiments behind each: `models/memory.py --only T4,T6`."""
    return re.findall(r"`models/(\w+)\.py(?: --only ([\w,-]+))?`", text)


def test_every_row_of_the_notes_is_there_once_and_in_order() -> None:
    assert re.findall(r"(?m)^\| ([A-J]\d+) \|", TEXT) == EVERY == list(ROWS)


@each_row
def test_a_row_names_what_exists_or_says_why_it_cannot_be_here(row: str) -> None:
    _, here, _ = ROWS[row]
    assert names(here) or systems(here) or "cannot be shown here" in here
    for name in names(here):
        assert found(name) is not None
    for system, tasks in systems(here):
        assert (ROOT / "models" / f"{system}.py").exists(), system
        assert set(tasks.split(",") if tasks else []) <= {kind.task for kind in KINDS[system]}, (system, tasks)


@each_row
def test_a_row_names_tests_that_exist(row: str) -> None:
    _, here, tests = ROWS[row]
    files = re.findall(r"test_\w+\.py", tests)
    assert files or "cannot be shown here" in here
    assert [file for file in files if not (ROOT / "tests" / file).exists()] == []
    assert {f"test_models_{system}.py" for system, _ in systems(here)} <= set(files), "a system stands beside its tests"


@pytest.mark.parametrize("task", [kind.task for kinds in KINDS.values() for kind in kinds])
def test_an_experiment_stands_in_rows_that_exist(task: str) -> None:
    (kind,) = (kind for kinds in KINDS.values() for kind in kinds if kind.task == task)
    assert set(kind.rows.split(", ")) <= set(EVERY)


def test_the_python_of_the_document_runs() -> None:
    block = "".join(re.findall(r"(?ms)^```python$\n(.*?)^```$", TEXT))
    known: dict[str, Any] = {}
    exec(block, known)
    assert {name: known[name] for name in ROOTS} == ROOTS


def test_the_slips_stand_beside_rows_that_exist() -> None:
    told = {row for cell in re.findall(r"(?m)^\| ([A-J]\d+(?:, [A-J]\d+)*) \|", SLIPS) for row in cell.split(", ")}
    assert told <= set(EVERY) and len(told) > 12


def test_a_name_that_does_not_exist_is_found() -> None:
    assert names("see `F.no_such_step`, and F.lstm_step without ticks") == ["F.no_such_step"]
    with pytest.raises(AttributeError):
        found("F.no_such_step")
