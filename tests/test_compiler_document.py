"""docs/compiler.md shows what the compiler prints today; and what it reads a loop with, `compile.show`, tells the truth."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import tinygrad_seq as tg
from tinygrad_seq.compile.show import Reading
from tinygrad_seq.nn import functional as F

ROOT = Path(__file__).resolve().parent.parent
DOCUMENT = ROOT / "docs" / "compiler.md"
COMMAND = "python tools/printed.py docs/compiler.md"
B, D, H = 2, 3, 4


@pytest.fixture(scope="module")
def printed() -> ModuleType:
    spec = importlib.util.spec_from_file_location("printed", ROOT / "tools" / "printed.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def loop_of(step: Any, states: int, gates: int) -> Any:
    shapes = [(B, D), *[(B, H)] * states, (gates * H, D), (gates * H, H), (gates * H,), (gates * H,)]
    x, *others = (np.full(shape, 0.1) for shape in shapes)
    with tg.scan_target("numpy"):
        return tg.compile_scan(step, x, tuple(others[:states]), others[states:])


LSTM = {"states": "hc", "gates": ["i_t", "f_t", "g_t", "o_t"], "arriving": ["dh_t", "carried"], "shared": ["dc_t"]}


def test_the_document_shows_what_its_examples_print(printed: ModuleType) -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    assert COMMAND in text
    now = printed.refreshed(text)
    differ = [f"{a}\n  now: {b}" for a, b in zip(text.splitlines(), now.splitlines(), strict=False) if a != b]
    assert now == text, f"{COMMAND} writes it anew; the first line that differs: {differ[:1] or 'the end'}"


def test_blocks_share_names_and_get_what_they_print(printed: ModuleType) -> None:
    text = "a\n\n```python\nx = 1\n```\n\nb\n\n```python\nprint(x)\nprint()\nprint(2)\n```\n\n```text\nold\n```\n\nc\n"
    now = printed.refreshed(text)
    assert now == text.replace("old", "1\n\n2") and printed.refreshed(now) == now
    assert printed.refreshed("```python\nprint(3)\n```\n") == "```python\nprint(3)\n```\n\n```text\n3\n```\n"


def test_every_pass_has_its_file_in_the_document() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    named = set(re.findall(r"`(\w+\.py)`", text))
    assert all((ROOT / "tinygrad_seq" / "compile" / name).exists() for name in named)
    passes = {
        path.name
        for path in (ROOT / "tinygrad_seq" / "compile").glob("*.py")
        if path.read_text(encoding="utf-8").startswith('"""Pass')
    }
    assert passes <= named


@pytest.mark.parametrize(
    ("step", "states", "gates", "notes", "letters"),
    [
        (F.lstm_step, 2, 4, F.lstm_bptt, LSTM),
        (F.rnn_step, 1, 1, F.rnn_bptt, {"states": "h", "arriving": ["ε_t"]}),
    ],
    ids=["LSTM", "RNN"],
)
def test_each_line_by_hand_stands_beside_one_derived_and_the_text(
    step: Any, states: int, gates: int, notes: Any, letters: Any
) -> None:
    told = Reading(loop_of(step, states, gates), **letters).beside(notes.__doc__).split("\n\n")
    both = [block for block in told if not block.splitlines()[1].startswith(" ")]
    assert len(both) == (6 if states == 2 else 2)
    for block in told:
        assert any(line.startswith("    ") for line in block.splitlines()), block
    assert [block.split()[0] for block in told[-4:]] == ["dL/dw_ih", "dL/dw_hh", "dL/db_ih", "dL/db_hh"]


def evaluated(text: str, values: dict[str, Any]) -> dict[str, Any]:
    """The values of lines `name = formula`, read as NumPy."""
    known = {**values, "σ": tg.sigmoid, "tanh": np.tanh, "join": lambda *parts: np.concatenate(parts, -1), "Σ": lambda a: a.sum(0)}
    for line in text.replace("_(t-1)", "_old").splitlines():
        name, formula = re.split(r"\s+= ", line, maxsplit=1)
        formula = re.sub(r"\[([^\]]* \| [^\]]*)\]", lambda m: f"join({m[1].replace(' | ', ', ')})", formula)
        formula = re.sub(r"\[(\d+:\d+)\]", r"[..., \1]", formula).replace(" ⊙ ", " * ").replace("²", "**2")
        formula = re.sub(r"Σ (\w+)", r"Σ(\1)", re.sub(r"(\w+)(\^T)? (\w+)(\^T)?", _product, formula))
        known[name] = eval(formula, {}, known)
    return known


def _product(found: re.Match[str]) -> str:
    left, right = f"{found[1]}{'.T' if found[2] else ''}", f"{found[3]}{'.T' if found[4] else ''}"
    return f"({left} @ {right})" if found[1] != "Σ" else found[0]


def test_the_formulas_are_the_step_and_its_gradients() -> None:
    """What is printed is computed, and compared with the tape."""
    reading = Reading(loop_of(F.lstm_step, 2, 4), **LSTM)
    rng = np.random.default_rng(0)
    names = ["x_t", "h_old", "c_old", "w_ih", "w_hh", "b_ih", "b_hh"]
    shapes = [(B, D), (B, H), (B, H), (4 * H, D), (4 * H, H), (4 * H,), (4 * H,)]
    values = {name: rng.standard_normal(shape) for name, shape in zip(names, shapes, strict=True)}
    values |= {"dh_t": rng.standard_normal((B, H)), "carried": rng.standard_normal((B, H))}
    tensors = {name: tg.tensor(values[name], requires_grad=True) for name in names}
    x, h, c, w_ih, w_hh, b_ih, b_hh = tensors.values()
    h_t, c_t = F.lstm_step(x, h, c, w_ih, w_hh, b_ih, b_hh)
    expected = tg.grad((h_t * values["dh_t"]).sum() + (c_t * values["carried"]).sum(), list(tensors.values()))
    for adjoint in (reading.swept(), reading.factored()):
        found = evaluated(reading.equations() + "\n" + adjoint, values)
        np.testing.assert_allclose(found["h_t"], h_t.numpy(), rtol=1e-12)
        for name, g in zip(names, expected, strict=True):
            np.testing.assert_allclose(found[f"to {name}"], g.numpy(), rtol=1e-10, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("step", [F.gru_step, F.gru_reset_before_step], ids=lambda step: step.__name__)
def test_other_cells_are_told_too(step: Any) -> None:
    reading = Reading(loop_of(step, 1, 3), "h", gates=["r_t", "z_t", "n_t"])
    for told in (
        reading.traced,
        reading.equations,
        reading.swept,
        reading.factored,
        reading.grouped,
        reading.kept,
        reading.deferred,
    ):
        assert told().strip()
    assert "r_t = σ(" in reading.equations() and "n_t = tanh(" in reading.equations()
