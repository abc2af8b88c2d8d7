"""The documents tell the truth: their Python runs, their links lead somewhere, their commands are what CI runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import op_table
import pytest

import tinygrad_seq as tg
from tinygrad_seq import testing
from tinygrad_seq.graph import Node

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
DIFFERENCES = ROOT / "docs" / "differences-from-pytorch.md"
each_document = pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)


def blocks(path: Path, info: str) -> list[str]:
    """The fenced blocks of a document that open with ```info."""
    return re.findall(rf"(?ms)^ *```{re.escape(info)}$\n(.*?)^ *```$", path.read_text(encoding="utf-8"))


def test_every_difference_from_pytorch_is_as_told() -> None:
    exec("\n".join(blocks(DIFFERENCES, "python")), {})


@pytest.mark.torch
def test_pytorch_is_as_told() -> None:
    torch = pytest.importorskip("torch", reason="compares with PyTorch, which is not installed: pip install torch==2.13.0")
    for block in blocks(DIFFERENCES, "python torch"):
        exec(block, {"np": np, "torch": torch, "tg": tg, "nn": tg.nn})


def test_the_example_of_the_readme_learns_adds_up_and_draws(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    known: dict[str, Any] = {}
    exec(blocks(ROOT / "README.md", "python")[0], known)
    assert known["loss"].item() < 0.1
    assert sorted(known["terms"]) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert "terms add up to dL/dW: True" in capsys.readouterr().out
    assert (tmp_path / "first_bit.svg").read_text(encoding="utf-8").lstrip().startswith("<?xml")


def test_the_loop_of_the_readme_is_drawn_with_its_gradients_and_repeats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    losses = []
    for _ in range(2):
        known: dict[str, Any] = {"tg": tg}
        exec(blocks(ROOT / "README.md", "python")[1], known)
        losses.append(known["loss"].item())
    assert losses[0] == losses[1]
    assert "t = 4" in (tmp_path / "my_rnn.svg").read_text(encoding="utf-8")


def test_the_lstm_of_the_readme_learns_and_the_cell_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    known: dict[str, Any] = {}
    training, cell = blocks(ROOT / "README.md", "python")[2:]
    exec(training, known)
    assert known["history"].losses[0] > 4.4 and np.mean(known["history"].losses[-10:]) < 3.2  # nats a character; log 95 = 4.55
    assert (tmp_path / "language.safetensors").exists()
    exec(cell, known)
    assert known["hs"].shape == (7, 4, 32) and known["h"].shape == (4, 4, 16)


def test_the_readme_counts_right() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    losses = [name for name in dir(tg.nn) if name.endswith("Loss")]
    optimizers = [x for x in vars(tg.optim).values() if isinstance(x, type) and issubclass(x, tg.optim.Optimizer)]
    schedules = [
        x
        for x in vars(tg.optim.lr_scheduler).values()
        if isinstance(x, type) and hasattr(x, "step") and x is not tg.optim.Optimizer
    ]
    assert f"| losses | {len(losses)}, " in text
    words = {7: "seven", 11: "eleven"}  # the base classes do not count
    assert f"{words[len(optimizers) - 1]} optimizers, {words[len(schedules) - 1]} schedules" in text


def test_the_op_of_contributing_is_what_its_row_says() -> None:
    known: dict[str, Any] = {"Any": Any, "np": np, "elementwise": tg.elementwise, "defvjp": tg.defvjp, "sigmoid": tg.sigmoid}
    exec(blocks(ROOT / "CONTRIBUTING.md", "python")[0], known)
    softplus = known["softplus"]
    [text] = blocks(ROOT / "CONTRIBUTING.md", "python row")
    row = eval(text.strip(), {"Row": op_table.Row, "unary": op_table.unary, "np": np})
    x = np.linspace(-800, 800, 101)
    testing.assert_close(softplus(x), row.numpy(x), rtol=1e-14)
    testing.check_grads(softplus, [x / 200], row.order)
    with pytest.raises(AttributeError, match=row.name):  # once it is there, the document needs another example
        _ = row.op


@each_document
def test_links_lead_somewhere(path: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)", path.read_text(encoding="utf-8"))
    assert [link for link in links if "://" not in link and not (path.parent / link).exists()] == []


@each_document
def test_tests_and_tools_that_are_named_exist(path: Path) -> None:
    named = re.findall(r"\b(?:tests|tools)/\w+\.py\b", path.read_text(encoding="utf-8"))
    assert [name for name in named if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("name", ["demo", "tests"])
def test_the_two_commands_stand_in_the_readme_and_ci_reads_them_there(name: str) -> None:
    [command] = blocks(ROOT / "README.md", f"sh {name}")
    assert command.count("\n") == 1
    assert f"$(readme {name})" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_every_room_of_the_package_is_in_the_design() -> None:
    design = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    rooms = {path.stem for path in (ROOT / "tinygrad_seq").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert sorted(room for room in rooms - {"__init__"} if not re.search(rf"^\|.*`{room}/?`.*\|$", design, re.M)) == []
    table = design.partition("## Rooms and arrows")[2].partition("\n## ")[0]
    told = set(re.findall(r"`(\w+)", "".join(line.split("|")[1] for line in table.splitlines() if line.startswith("| `"))))
    assert sorted(told - rooms) == []


def test_every_slot_of_a_node_is_in_the_design() -> None:
    table = (ROOT / "docs" / "design.md").read_text(encoding="utf-8").partition("## What the tape keeps")[2].partition("\n## ")[0]
    told = set(re.findall(r"`(\w+)`", "".join(line.split("|")[1] for line in table.splitlines() if line.startswith("| `"))))
    assert told == set(Node.__slots__) - {"__weakref__"}
