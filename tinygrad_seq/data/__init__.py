"""Texts to learn from, vocabularies, padding and buckets, streams for truncated BPTT, a loader, and the n-gram models to beat."""

from .corpus import ngram_bits as ngram_bits, split as split, standard_library_text as standard_library_text
from .loader import Loader as Loader, collate as collate
from .padding import buckets as buckets, pad as pad, padding_share as padding_share, unpad as unpad
from .streams import Streams as Streams, batches_for_tbptt as batches_for_tbptt
from .vocabulary import Vocabulary as Vocabulary, words as words
