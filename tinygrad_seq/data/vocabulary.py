"""Vocabularies: tokens, characters or words, and their numbers."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping
from typing import Any

import numpy as np

from ..errors import ArgumentError, ShapeError, describe, message

Ids = np.ndarray[Any, np.dtype[np.int64]]

_WORD = re.compile(r"\w+(?:['’-]\w+)*|[^\w\s]")


def words(text: str) -> list[str]:
    """The words of a text and its punctuation marks, each a token; spaces only separate.

    words("It's late, isn't it?") = ["It's", "late", ",", "isn't", "it", "?"]
    """
    return _WORD.findall(text)


KINDS: dict[str, tuple[Any, str]] = {  # what cuts a text into tokens, and what stands between them when it is joined again
    "characters": (iter, ""),
    "words": (words, " "),
}


class Vocabulary:
    """Tokens and their numbers 0 ... V-1, in a fixed order.

    kind: what a text is cut into, "characters" or "words". Anything else that is encoded is taken for a sequence of tokens.

    Special tokens, where they are given: padding, start and end come first, in this order (so padding is 0, as in `data.pad`), and
    unknown, which stands for every other token, last. Without `unknown`, encoding another token is an error. counts: how often each token
    was seen.
    """

    def __init__(
        self,
        tokens: Iterable[Hashable],
        unknown: Hashable | None = None,
        *,
        padding: Hashable | None = None,
        start: Hashable | None = None,
        end: Hashable | None = None,
        kind: str = "characters",
        counts: Mapping[Any, int] | None = None,
    ):
        if kind not in KINDS:
            raise ArgumentError(message(f"Vocabulary: kind = {kind!r}", expected=" or ".join(map(repr, KINDS))))
        given = list(tokens)
        present = set(given)
        first = [special for special in (padding, start, end) if special is not None and special not in present]
        last = [unknown] if unknown is not None and unknown not in present else []
        self.tokens: list[Any] = first + given + last
        self.unknown, self.padding, self.start, self.end, self.kind = unknown, padding, start, end, kind
        self.index = {token: i for i, token in enumerate(self.tokens)}
        self.counts = {token: int((counts or {}).get(token, 0)) for token in self.tokens}
        if len(self.index) < len(self.tokens):
            twice = Counter(self.tokens).most_common(1)[0][0]
            raise ArgumentError(message(f"Vocabulary: a token stands in it twice: {twice!r}", expected="each once"))

    @classmethod
    def of(
        cls,
        text: Iterable[Any],
        unknown: Hashable | None = None,
        *,
        kind: str = "characters",
        min_count: int = 1,
        max_size: int | None = None,
        padding: Hashable | None = None,
        start: Hashable | None = None,
        end: Hashable | None = None,
    ) -> Vocabulary:
        """The vocabulary of a text: the tokens that occur, sorted.

        Only those that occur `min_count` times, and of these the most frequent, so that there are at most `max_size` with the special
        ones. What is left out counts for the unknown token.
        """
        if kind not in KINDS:
            raise ArgumentError(message(f"Vocabulary: kind = {kind!r}", expected=" or ".join(map(repr, KINDS))))
        seen = Counter(KINDS[kind][0](text) if isinstance(text, str) else text)
        special = [token for token in (padding, start, end, unknown) if token is not None]
        kept = sorted(token for token, times in seen.items() if times >= min_count and token not in special)
        if max_size is not None:
            room = max_size - len(special)
            if room < 0:
                raise ShapeError(
                    message(f"Vocabulary: max_size = {max_size}", expected=f"room for the {len(special)} special tokens")
                )
            kept = sorted(sorted(kept, key=lambda token: -seen[token])[:room])
        if unknown is not None:
            seen[unknown] += sum(seen.values()) - sum(seen[token] for token in {*kept, *special})
        return cls(kept, unknown, padding=padding, start=start, end=end, kind=kind, counts=seen)

    def encode(self, text: Iterable[Hashable], *, start: bool = False, end: bool = False) -> Ids:
        """The numbers of the tokens of a text, or of a sequence of tokens: (length,). start, end: with these tokens around it."""
        tokens = KINDS[self.kind][0](text) if isinstance(text, str) else text
        before = [self._number_of("start")] if start else []
        after = [self._number_of("end")] if end else []
        if self.unknown is not None:
            get, instead = self.index.get, self.index[self.unknown]
            ids = np.fromiter((get(token, instead) for token in tokens), np.int64)
        else:
            try:
                ids = np.fromiter(map(self.index.__getitem__, tokens), np.int64)
            except KeyError as cause:
                raise ShapeError(
                    message(
                        f"Vocabulary: {cause.args[0]!r} is not among its {len(self)} tokens",
                        do="build it from all of the text, or give an unknown= token",
                    )
                ) from None
        return np.concatenate([np.array(before, np.int64), ids, np.array(after, np.int64)]) if before or after else ids

    def decode(self, ids: Iterable[int], *, specials: bool = True) -> str:
        """The tokens of the numbers, joined into a text: characters as they are, words with spaces between them.

        specials=False leaves padding, start and end out.
        """
        left_out = set() if specials else {self.index[t] for t in (self.padding, self.start, self.end) if t is not None}
        numbers = [int(i) for i in ids]
        wrong = next((i for i in numbers if not 0 <= i < len(self)), None)
        if wrong is not None:
            raise ShapeError(message(f"Vocabulary: there is no token {wrong}", expected=f"numbers 0 ... {len(self) - 1}"))
        return KINDS[self.kind][1].join(str(self.tokens[i]) for i in numbers if i not in left_out)

    def to_dict(self) -> dict[str, Any]:
        """All of it as lists, strings and numbers, which `tg.save` and JSON take if the tokens are strings or numbers."""
        return {
            "tokens": list(self.tokens),
            "counts": [self.counts[token] for token in self.tokens],
            **{name: getattr(self, name) for name in ("unknown", "padding", "start", "end", "kind")},
        }

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> Vocabulary:
        """The vocabulary that `to_dict` described."""
        expected = {"tokens", "counts", "unknown", "padding", "start", "end", "kind"}
        if not isinstance(saved, Mapping) or set(saved) != expected or len(saved["tokens"]) != len(saved["counts"]):
            raise ArgumentError(message(f"Vocabulary: {describe(saved)} is none", expected="what to_dict() gave"))
        settings = {name: saved[name] for name in expected - {"tokens", "counts"}}
        return cls(saved["tokens"], counts=dict(zip(saved["tokens"], saved["counts"], strict=True)), **settings)

    def _number_of(self, special: str) -> int:
        token = getattr(self, special)
        if token is None:
            raise ArgumentError(message(f"Vocabulary: it has no {special} token", do=f'build it with {special}="<{special}>"'))
        return self.index[token]

    def __len__(self) -> int:
        return len(self.tokens)

    def __contains__(self, token: Hashable) -> bool:
        return token in self.index

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vocabulary) and self.to_dict() == other.to_dict()

    __hash__ = None  # type: ignore[assignment]  # compared by what it holds

    def __repr__(self) -> str:
        return f"Vocabulary({len(self)} {self.kind if self.kind != 'characters' else 'tokens'})"
