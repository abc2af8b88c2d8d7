"""Back-propagation through time, read off the tape: what every use of a weight adds to its gradient, and when.

Readers of a recorded graph, after the fact: they touch no `.grad` and change no graph; a compiled time loop is opened into its steps.
"""

from .ledger import Ledger as Ledger, Use as Use, copies as copies, ledger as ledger
from .rules import Rule as Rule, rule as rule
from .truncation import Bias as Bias, Cut as Cut, Truncation as Truncation, truncate as truncate
from .uses import Term as Term, place_of as place_of, tape_of as tape_of, terms as terms, time_of as time_of

__all__ = [
    "Bias",
    "Cut",
    "Ledger",
    "Rule",
    "Term",
    "Truncation",
    "Use",
    "copies",
    "ledger",
    "place_of",
    "rule",
    "tape_of",
    "terms",
    "time_of",
    "truncate",
]
