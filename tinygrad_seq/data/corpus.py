"""A character corpus that every Python carries, and what language models need of a text.

Tokens are characters here, and nothing below depends on that: a Vocabulary takes words as well.
"""

from __future__ import annotations

import sysconfig
from collections.abc import Hashable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ArgumentError, MissingDependencyError, ShapeError, message

Ids = np.ndarray[Any, np.dtype[np.int64]]

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


class Vocabulary:
    """Tokens and their numbers 0 ... V-1, in a fixed order.

    unknown: the token that stands for every other one; without it, encoding another token is an error.
    """

    def __init__(self, tokens: Iterable[Hashable], unknown: Hashable | None = None):
        self.tokens: list[Any] = list(tokens)
        if unknown is not None and unknown not in self.tokens:
            self.tokens.append(unknown)
        self.unknown = unknown
        self.index = {token: i for i, token in enumerate(self.tokens)}
        if len(self.index) < len(self.tokens):
            raise ArgumentError(message("Vocabulary: a token stands in it twice", expected="each once"))

    @classmethod
    def of(cls, text: Iterable[Any], unknown: Hashable | None = None) -> Vocabulary:
        """The vocabulary of a text: the tokens that occur, sorted."""
        return cls(sorted(set(text)), unknown)

    def encode(self, text: Iterable[Hashable]) -> Ids:
        """The numbers of the tokens: (length,)."""
        if self.unknown is not None:
            get, instead = self.index.get, self.index[self.unknown]
            return np.fromiter((get(token, instead) for token in text), np.int64)
        try:
            return np.fromiter(map(self.index.__getitem__, text), np.int64)
        except KeyError as cause:
            raise ShapeError(
                message(
                    f"Vocabulary: {cause.args[0]!r} is not among its {len(self)} tokens",
                    do="build it from all of the text, or give an unknown= token",
                )
            ) from None

    def decode(self, ids: Iterable[int]) -> str:
        """The tokens of the numbers, joined into a text."""
        return "".join(str(self.tokens[int(i)]) for i in ids)

    def __len__(self) -> int:
        return len(self.tokens)

    def __contains__(self, token: Hashable) -> bool:
        return token in self.index

    def __repr__(self) -> str:
        return f"Vocabulary({len(self)} tokens)"


def split(ids: Ids, held_out: float = 0.05) -> tuple[Ids, Ids]:
    """Cut a text by position: all but the last `held_out` part to learn from, and that last part to test on."""
    if not 0 < held_out < 1:
        raise ShapeError(message(f"split: held_out = {held_out}", expected="a part between 0 and 1"))
    cut = len(ids) - round(len(ids) * held_out)
    return ids[:cut], ids[cut:]


def batches_for_tbptt(ids: Ids, batch: int, steps: int) -> Iterator[tuple[Ids, Ids]]:
    """Windows for truncated BPTT: each goes on where the one before it stopped, so the state can be carried over.

    The text is cut into `batch` equal streams, read side by side, `steps` tokens at a time. Yields (inputs, targets), both
    (T, B) with T <= steps; targets are the inputs one token later.
    """
    length = (len(ids) - 1) // batch if batch > 0 else 0
    if length < 1 or steps < 1:
        raise ShapeError(
            message(
                f"batches_for_tbptt: {len(ids)} tokens, batch = {batch}, steps = {steps}",
                expected="a text of more tokens than batch, and batch and steps of at least 1",
            )
        )
    inputs = ids[: batch * length].reshape(batch, length).T
    targets = ids[1 : batch * length + 1].reshape(batch, length).T
    for start in range(0, length, steps):
        yield inputs[start : start + steps], targets[start : start + steps]


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
