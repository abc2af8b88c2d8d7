"""A character corpus that every Python carries, its part to test on, and the n-gram models that a network must beat."""

from __future__ import annotations

import sysconfig
from pathlib import Path

import numpy as np

from ..errors import MissingDependencyError, ShapeError, message
from .vocabulary import Ids

PRINTABLE = "\t\n" + "".join(map(chr, range(32, 127)))


def standard_library_text() -> str:
    """The source of the running Python's standard library: its top-level *.py files, sorted by name, one after the other.

    About 4.7 million characters, 97 different ones: printable ASCII, tab and newline; every other character is left out. The same
    Python gives the same text; another version another one.
    """
    folder = Path(sysconfig.get_path("stdlib"))
    files = sorted(folder.glob("*.py"), key=lambda path: path.name)
    if not files:
        raise MissingDependencyError(
            message(
                f"standard_library_text: no *.py files in {folder}",
                expected="a Python whose standard library lies there as source",
                do="use a regular Python, or train on a text of your own",
            )
        )
    text = "".join(path.read_text("utf-8", errors="ignore") for path in files)
    others = set(text).difference(PRINTABLE)
    return text.translate(dict.fromkeys(map(ord, others)))


def split(ids: Ids, held_out: float = 0.05) -> tuple[Ids, Ids]:
    """Cut a text by position: all but the last `held_out` part to learn from, and that last part to test on."""
    if not 0 < held_out < 1:
        raise ShapeError(message(f"split: held_out = {held_out}", expected="a part between 0 and 1"))
    cut = len(ids) - round(len(ids) * held_out)
    return ids[:cut], ids[cut:]


def ngram_bits(train: Ids, test: Ids, order: int, vocabulary_size: int, delta: float = 0.01) -> float:
    """Bits per token of an n-gram model on `test`: it counted on `train`, and adds `delta` to every count.

        p(x | context) = (count(context, x) + δ) / (count(context) + δ V)

    The context is the order-1 tokens before x; the first order-1 tokens of `test` have none and are not asked.
    """
    if order < 1 or min(len(train), len(test)) < order:
        raise ShapeError(
            message(
                f"ngram_bits: order {order} for texts of {len(train)} and {len(test)} tokens",
                expected="1 <= order <= their lengths",
            )
        )
    learned, asked = _ngrams(train, order, vocabulary_size), _ngrams(test, order, vocabulary_size)
    grams = np.unique(learned, return_counts=True)
    contexts = np.unique(learned // vocabulary_size, return_counts=True)
    p = (_count(asked, *grams) + delta) / (_count(asked // vocabulary_size, *contexts) + delta * vocabulary_size)
    return float(-np.log2(p).mean())


def _ngrams(ids: Ids, order: int, vocabulary_size: int) -> Ids:
    """Every run of `order` tokens as one number, read in base V."""
    codes = np.zeros(len(ids) - order + 1, np.int64)
    for i in range(order):
        codes = codes * vocabulary_size + ids[i : i + len(codes)]
    return codes


def _count(keys: Ids, seen: Ids, times: Ids) -> Ids:
    """How often each key was seen."""
    at = np.searchsorted(seen, keys).clip(max=len(seen) - 1)
    return np.where(seen[at] == keys, times[at], 0)
