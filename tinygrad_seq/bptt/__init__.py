"""Back-propagation through time, read off the tape: what every use of a weight adds to its gradient, and when.

Readers of a recorded graph, after the fact: they touch no `.grad` and change no graph; a compiled time loop is opened into its steps.
"""

from .uses import Term as Term, place_of as place_of, tape_of as tape_of, terms as terms, time_of as time_of

__all__ = [
    "Term",
    "place_of",
    "tape_of",
    "terms",
    "time_of",
]
