"""A vector for each symbol of a vocabulary."""

from __future__ import annotations

from typing import Any

from ..errors import ShapeError, describe, message
from ..random import Rng
from . import functional as F
from . import init
from .functional.linear import row_of
from .module import Module, Parameter


class Embedding(Module):
    """A table of one vector per symbol: ids (...) of integers -> (..., embedding_dim).

    weight (num_embeddings, embedding_dim) starts normal(0, 1), as in PyTorch. The row `padding_idx` starts at zero and is never trained.
    An output layer shares the table by `decoder.weight = embedding.weight`: one parameter (Press & Wolf 2017).
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        *,
        rng: Rng = None,
        dtype: Any = "float32",
    ):
        init.check_sizes("Embedding", num_embeddings=num_embeddings, embedding_dim=embedding_dim)
        if padding_idx is not None:
            padding_idx = row_of("Embedding", padding_idx, num_embeddings)
        self.num_embeddings, self.embedding_dim, self.padding_idx = num_embeddings, embedding_dim, padding_idx
        self.weight = init.normal((num_embeddings, embedding_dim), rng=rng, dtype=dtype)
        if padding_idx is not None:
            self.weight._data[padding_idx] = 0

    @classmethod
    def from_pretrained(cls, embeddings: Any, freeze: bool = True, padding_idx: int | None = None) -> Embedding:
        """An embedding with this table (num_embeddings, embedding_dim), copied; it is learned further only with freeze=False."""
        weight = Parameter(embeddings, requires_grad=not freeze)
        if weight.ndim != 2:
            raise ShapeError(
                message(f"from_pretrained: got {describe(weight)}", expected="a table (num_embeddings, embedding_dim)")
            )
        layer = cls(weight.shape[0], weight.shape[1], padding_idx, rng=0)
        layer.weight = weight
        return layer

    def forward(self, ids: Any) -> Any:
        """Look up ids (...) -> (..., embedding_dim)."""
        return F.embedding(ids, self.weight, self.padding_idx)

    def extra_repr(self) -> str:
        """The sizes."""
        return f"{self.num_embeddings}, {self.embedding_dim}" + (
            "" if self.padding_idx is None else f", padding_idx={self.padding_idx}"
        )
