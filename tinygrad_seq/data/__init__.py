"""Text to learn from: a corpus that every Python carries, vocabularies, batches, and the n-gram models to beat."""

from .corpus import (
    Vocabulary as Vocabulary,
    batches_for_tbptt as batches_for_tbptt,
    ngram_bits as ngram_bits,
    split as split,
    standard_library_text as standard_library_text,
)
