"""Dates as people write them in English, and as ISO 8601 does: data of several systems. It is no system.

    "Thursday, 12 March 1998" -> "1998-03-12"

The formats come from the Unicode Common Locale Data Repository by way of babel; pip install -e ".[models]".
"""

from __future__ import annotations

import datetime
from typing import NamedTuple

import numpy as np

from models.experiment import needed

# The eleven ways in which babel writes dates in English that are told here: four lengths, and seven patterns of parts.
FORMATS = (
    "short",
    "medium",
    "long",
    "full",
    "d MMM yyyy",
    "d MMMM yyyy",
    "dd.MM.yyyy",
    "EEE d MMM yyyy",
    "EEEE, d MMMM yyyy",
    "MMMM d yyyy",
    "yyyy, d MMM",
)


class Dates(NamedTuple):
    """Dates as written, in lower case, and the same as ISO writes them."""

    written: list[str]
    iso: list[str]


def written(day: datetime.date, kind: str) -> str:
    """A date in one of the formats, in lower case."""
    told: str = needed("babel.dates", "babel").format_date(day, format=kind, locale="en_US")
    return told.lower().replace("\u202f", " ")


def load(number: int, rng: np.random.Generator) -> Dates:
    """So many dates between 1970 and 2025, each in one of the eleven formats, all pairs different."""
    first, last = datetime.date(1970, 1, 1).toordinal(), datetime.date(2025, 12, 31).toordinal()
    pairs: dict[tuple[str, str], None] = {}
    while len(pairs) < number:
        day = datetime.date.fromordinal(int(rng.integers(first, last + 1)))
        kind = FORMATS[int(rng.integers(len(FORMATS)))]
        pairs[written(day, kind), day.isoformat()] = None
    return Dates([line for line, _ in pairs], [iso for _, iso in pairs])
