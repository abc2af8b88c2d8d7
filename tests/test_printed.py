"""docs/bptt.md shows what its examples print today, but for the last digits, which are the machine's."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
DOCUMENT = ROOT / "docs" / "bptt.md"
COMMAND = "python tools/printed.py docs/bptt.md"
NUMBER = re.compile(r"(?<![\w.])-?\d+\.?\d*(?:e[-+]\d+)?(?![\w])")


def numbers_in(text: str) -> tuple[str, list[float]]:
    """The text without its numbers, in which spaces count as one, and the numbers."""
    return re.sub(r"\s+", " ", NUMBER.sub("#", text)), [float(n) for n in NUMBER.findall(text)]


def test_the_document_shows_what_its_examples_print() -> None:
    spec = importlib.util.spec_from_file_location("printed", ROOT / "tools" / "printed.py")
    assert spec is not None and spec.loader is not None
    printed = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(printed)
    text = DOCUMENT.read_text(encoding="utf-8")
    assert COMMAND in text
    (words, numbers), (words_now, numbers_now) = numbers_in(text), numbers_in(printed.refreshed(text))
    assert words == words_now, f"{COMMAND} writes it anew"
    assert len(numbers) > 300
    np.testing.assert_allclose(numbers_now, numbers, rtol=1e-3, atol=1e-12)


def test_a_number_that_moved_is_seen() -> None:
    assert numbers_in("‖·‖ = 0.625676 at t = 3") != numbers_in("‖·‖ = 0.625 at t = 3")
    assert numbers_in("2.1e-16 of W_hh")[1] == [2.1e-16]
