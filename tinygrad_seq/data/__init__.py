"""Texts to learn from, vocabularies, padding and buckets, streams for truncated BPTT, a loader, and the n-gram models to beat."""

import sys as _sys
import typing as _typing

from .. import twins as _twins
from .corpus import ngram_bits as ngram_bits, split as split, standard_library_text as standard_library_text
from .loader import Loader as Loader, collate as collate
from .padding import buckets as buckets, pad as pad, padding_share as padding_share, unpad as unpad
from .streams import Streams as Streams
from .vocabulary import Vocabulary as Vocabulary, words as words

_twins.speak(_sys.modules[__name__])
_twins.speak_when_made(_sys.modules[__name__])


def __getattr__(name: str) -> _typing.NoReturn:
    _twins.no_such_piece(name, _sys.modules[__name__])
