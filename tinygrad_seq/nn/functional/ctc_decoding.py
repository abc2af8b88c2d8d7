"""From the outputs of a network trained with CTC to labellings, and how many errors are in them. Nothing here is differentiated."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ... import backend
from ...errors import ArgumentError, ShapeError, message
from ...graph import raw


def ctc_greedy_decode(log_probs: Any, input_lengths: Any = None, blank: int = 0) -> list[list[int]]:
    """What the most probable path of each row reads as: repeats merged, then blanks dropped. (Not always the most probable labelling.)

    log_probs (T, B, C), or any scores in the same order; input_lengths (B,) -> B lists of symbols.
    """
    scores, lengths = _on_the_host("ctc_greedy_decode", log_probs, input_lengths)
    best = scores.argmax(axis=-1)
    return [collapse(best[:n, b], blank) for b, n in enumerate(lengths)]


def collapse(path: Any, blank: int = 0) -> list[int]:
    """The labelling that a path reads as: repeats merged, then blanks dropped. [a, a, ∅, a, b] -> [a, a, b]."""
    symbols = [int(k) for k in path]
    return [k for k, before in zip(symbols, [blank, *symbols]) if k != blank and k != before]


def ctc_beam_search(
    log_probs: Any, input_lengths: Any = None, blank: int = 0, beam_width: int = 16
) -> list[list[tuple[list[int], float]]]:
    """The most probable labellings of each row, best first, each with its log probability summed over paths.

    Prefix beam search (Graves & Jaitly 2014; Hannun et al. 2014): of each beginning of a labelling two sums are kept, over the paths that
    end in a blank and those that end in its last symbol; at each moment the `beam_width` most probable beginnings go on. A beam as wide as
    there are labellings is exact.

    log_probs (T, B, C), input_lengths (B,) -> B lists of (symbols, log probability).
    """
    if beam_width < 1:
        raise ArgumentError(message(f"ctc_beam_search: beam_width = {beam_width}", expected="at least 1"))
    log_y, lengths = _on_the_host("ctc_beam_search", log_probs, input_lengths)
    return [_search(log_y[:n, b], blank, beam_width) for b, n in enumerate(lengths)]


def _search(log_y: Any, blank: int, beam_width: int) -> list[tuple[list[int], float]]:
    beam: dict[tuple[int, ...], tuple[float, float]] = {
        (): (0.0, -math.inf)
    }  # labelling: paths that end in a blank, in its last symbol
    for moment in log_y.tolist():
        grown: dict[tuple[int, ...], tuple[float, float]] = {}

        def add(labelling: tuple[int, ...], in_blank: float, in_symbol: float, to: dict[Any, Any] = grown) -> None:
            a, b = to.get(labelling, (-math.inf, -math.inf))
            to[labelling] = float(np.logaddexp(a, in_blank)), float(np.logaddexp(b, in_symbol))

        for labelling, (in_blank, in_symbol) in beam.items():
            either = float(np.logaddexp(in_blank, in_symbol))
            add(labelling, either + moment[blank], -math.inf)
            for k, log_p in enumerate(moment):
                if k == blank:
                    continue
                if labelling and k == labelling[-1]:  # without a blank between it is the same symbol, held
                    add(labelling, -math.inf, in_symbol + log_p)
                    add((*labelling, k), -math.inf, in_blank + log_p)
                else:
                    add((*labelling, k), -math.inf, either + log_p)
        beam = dict(sorted(grown.items(), key=lambda item: -np.logaddexp(*item[1]))[:beam_width])
    return [(list(labelling), float(np.logaddexp(*sums))) for labelling, sums in beam.items()]


def edit_distance(a: Sequence[Any], b: Sequence[Any]) -> int:
    """How many symbols must be inserted, deleted or replaced to make one sequence of the other (Levenshtein 1966)."""
    row = list(range(len(b) + 1))  # the distances of a beginning of a to every beginning of b
    for i, x in enumerate(a, 1):
        diagonal, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (x != y))
    return row[-1]


def label_error_rate(predictions: Sequence[Sequence[Any]], targets: Sequence[Sequence[Any]]) -> float:
    """The edit distances of all rows, divided by the number of symbols in the targets."""
    if len(predictions) != len(targets):
        raise ShapeError(message(f"label_error_rate: {len(predictions)} predictions, {len(targets)} targets", expected="as many"))
    symbols = sum(len(t) for t in targets)
    if not symbols:
        raise ShapeError(message("label_error_rate: there are no symbols in the targets", expected="at least one"))
    return sum(edit_distance(p, t) for p, t in zip(predictions, targets, strict=True)) / symbols


def _on_the_host(who: str, log_probs: Any, input_lengths: Any) -> tuple[Any, Any]:
    scores = np.asarray(backend.to_numpy(raw(log_probs)))
    if scores.ndim != 3:
        raise ShapeError(message(f"{who}: log_probs {scores.shape}", expected="(T, B, C); log_probs[:, None] for a single row"))
    T, B = scores.shape[:2]
    lengths = np.full(B, T) if input_lengths is None else np.asarray(backend.to_numpy(raw(input_lengths)))
    if lengths.shape != (B,) or (B and not (lengths.min() >= 0 and lengths.max() <= T)):
        raise ShapeError(message(f"{who}: input_lengths {lengths.tolist()} do not fit", expected=f"({B},), from 0 to T = {T}"))
    return scores, lengths
