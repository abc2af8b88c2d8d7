"""Attention layers: they own projections; the formulas are in `nn.functional.attention`."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .. import backend
from ..errors import ArgumentError, ShapeError, describe, message
from ..graph import raw
from ..ops import expand_dims, logical_not, mean
from ..random import Rng, generator
from . import functional as F
from . import init
from .functional.attention import KeyValueCache, Projections, keys_and_values
from .functional.dropout import check_probability
from .functional.scaled_dot_product import to_add
from .linear import Linear
from .module import Module, Parameter


class MultiheadAttention(Module):
    """Multi-head attention (Vaswani et al. 2017): `num_heads` attentions side by side, each `embed_dim / num_heads` wide.

        head_n = softmax(query W_q,n (key W_k,n)^T / √K) value W_v,n        y = [head_1 ... head_N] W_o

    Names, layouts and starting values are PyTorch's: in_proj_weight (3E, E) stacks W_q, W_k, W_v; where kdim or vdim differ from E, they
    are q_proj_weight (E, E), k_proj_weight (E, kdim) and v_proj_weight (E, vdim); then in_proj_bias (3E,) and out_proj.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        add_bias_kv: bool = False,
        add_zero_attn: bool = False,
        kdim: int | None = None,
        vdim: int | None = None,
        batch_first: bool = False,
        *,
        rng: Rng = None,
        dtype: Any = "float32",
    ):
        kdim, vdim = embed_dim if kdim is None else kdim, embed_dim if vdim is None else vdim
        init.check_sizes("MultiheadAttention", embed_dim=embed_dim, num_heads=num_heads, kdim=kdim, vdim=vdim)
        if embed_dim % num_heads:
            raise ArgumentError(
                message(
                    f"MultiheadAttention: embed_dim {embed_dim} does not split into {num_heads} heads",
                    expected="a num_heads that divides embed_dim",
                )
            )
        if add_bias_kv or add_zero_attn:
            raise ArgumentError(
                message(
                    "MultiheadAttention: add_bias_kv and add_zero_attn are not built",
                    do="concatenate a learned (or zero) position to key and value before the call",
                )
            )
        check_probability("MultiheadAttention: dropout", dropout)
        self.embed_dim, self.num_heads, self.dropout, self.kdim, self.vdim = embed_dim, num_heads, dropout, kdim, vdim
        self.batch_first = batch_first
        self.rng = None if rng is None else generator(rng)
        E, draw = embed_dim, generator(rng)

        def weight(rows: int, columns: int) -> Parameter:
            return init.xavier_uniform_(Parameter(np.zeros((rows, columns)), dtype), rng=draw)

        if kdim == vdim == E:
            self.in_proj_weight = weight(3 * E, E)
        else:
            self.q_proj_weight, self.k_proj_weight, self.v_proj_weight = weight(E, E), weight(E, kdim), weight(E, vdim)
        self.in_proj_bias = Parameter(np.zeros(3 * E), dtype) if bias else None
        self.out_proj = Linear(E, E, bias, rng=draw, dtype=dtype)
        if self.out_proj.bias is not None:
            init.zeros_(self.out_proj.bias)

    def forward(
        self,
        query: Any,
        key: Any,
        value: Any,
        key_padding_mask: Any = None,
        need_weights: bool = True,
        attn_mask: Any = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
        *,
        cache: KeyValueCache | None = None,
    ) -> tuple[Any, ...]:
        """query (T, B, E), key (S, B, kdim), value (S, B, vdim), or with the batch first, or without -> (y like query, weights).

        The weights are (B, T, S), the mean over the heads; (B, N, T, S) with average_attn_weights=False; None with need_weights=False.

        Masks are PyTorch's: True where one must *not* look, or numbers to add to the scores. key_padding_mask (B, S), attn_mask (T, S) or
        (B·N, T, S). is_causal: a query at t looks at s <= t only; no attn_mask is needed. A query that may look nowhere gets weights 0.

        cache: what an earlier call returned (at first `initial_cache`). Its keys and values stand before the new ones, and the call returns
        (y, weights, cache). With key=None and value=None the query looks at the cache alone, as `keys_and_values` made it.
        """
        self._check(query, key, value, cache)
        batched = len(query.shape) == 3
        if not batched:
            axis = 0 if self.batch_first else 1
            query, key, value = _each_once((query, key, value), lambda x: expand_dims(x, axis))
        y, weights, cache = F.multi_head_attention(
            query,
            key,
            value,
            self._projections(),
            self.num_heads,
            self._mask(query, key, key_padding_mask, attn_mask, cache),
            is_causal=is_causal,
            dropout_p=self.dropout if self.training else 0.0,
            need_weights=need_weights,
            batch_first=self.batch_first,
            cache=cache,
            rng=self.rng,
        )
        if weights is not None and average_attn_weights:
            weights = mean(weights, axis=1)
        if not batched:
            y, weights = y[0] if self.batch_first else y[:, 0], None if weights is None else weights[0]
        return (y, weights) if cache is None else (y, weights, cache)

    def initial_cache(self, batch: int) -> KeyValueCache:
        """The cache of no past, for a batch of that many rows."""
        weight = self.out_proj.weight._data
        shape = (batch, self.num_heads, 0, self.embed_dim // self.num_heads)
        return KeyValueCache(*(backend.array_module(weight).zeros(shape, weight.dtype) for _ in range(2)))

    def keys_and_values(self, key: Any, value: Any) -> KeyValueCache:
        """A cache of these alone: made once, asked at every step with key=None and value=None."""
        return keys_and_values(key, value, self._projections(), self.num_heads, batch_first=self.batch_first)

    def _projections(self) -> Projections:
        weight: Any
        if "in_proj_weight" in vars(self):
            weight = self.in_proj_weight
        else:
            weight = (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
        return Projections(weight, self.in_proj_bias, self.out_proj.weight, self.out_proj.bias)

    def _mask(self, query: Any, key: Any, key_padding_mask: Any, attn_mask: Any, cache: KeyValueCache | None) -> Any:
        """Both masks as one that broadcasts to (B, N, T, S), in the meaning of `nn.functional`."""
        T, B = (query.shape[1], query.shape[0]) if self.batch_first else query.shape[:2]
        S = 0 if cache is None else cache.keys.shape[2]
        S += 0 if key is None else key.shape[1 if self.batch_first else 0]
        N, masks = self.num_heads, []
        if key_padding_mask is not None:
            mask = _told("key_padding_mask", key_padding_mask, ((B, S), (S,)) if B == 1 else ((B, S),))
            masks.append(mask.reshape((B, 1, 1, S)))
        if attn_mask is not None:
            mask = _told("attn_mask", attn_mask, ((T, S), (B * N, T, S)))
            masks.append(mask if len(mask.shape) == 2 else mask.reshape((B, N, T, S)))
        if len(masks) < 2:
            return masks[0] if masks else None
        return sum(to_add(mask, raw(query)) for mask in masks)

    def _check(self, query: Any, key: Any, value: Any, cache: KeyValueCache | None) -> None:
        if (key is None or value is None) and not (key is value is None and cache is not None):
            raise ArgumentError(
                message("MultiheadAttention: key and value are missing", do="to look at a cache alone, pass cache=")
            )
        given = [("query", query, self.embed_dim), ("key", key, self.kdim), ("value", value, self.vdim)]
        given = [(name, x, width) for name, x, width in given if x is not None]
        axes = len(getattr(query, "shape", ()))
        if axes not in (2, 3) or any(len(x.shape) != axes or x.shape[-1] != width for _, x, width in given):
            names = "(B, T, {})" if self.batch_first else "(T, B, {})"
            raise ShapeError(
                message(
                    "MultiheadAttention: the shapes do not fit",
                    expected=", ".join(f"{name} {names.format(width)}" for name, _, width in given) + ", or all without B",
                    got=", ".join(f"{name} {describe(raw(x))}" for name, x, _ in given),
                )
            )
        if axes == 3:
            batch = 0 if self.batch_first else 1
            same_length = key is None or key.shape[:2] == value.shape[:2]
            if not same_length or any(x.shape[batch] != query.shape[batch] for _, x, _ in given):
                raise ShapeError(
                    message(
                        "MultiheadAttention: query, key and value are of different batches, or key and value of different lengths",
                        expected="query (T, B, E), key and value (S, B, E); with batch_first=True (B, T, E) and (B, S, E)",
                        got=", ".join(f"{name} {describe(raw(x))}" for name, x, _ in given),
                    )
                )
        if cache is not None:
            _check_cache(cache, 1 if axes == 2 else query.shape[batch], self.num_heads, self.embed_dim // self.num_heads)

    def extra_repr(self) -> str:
        """The sizes, and the settings that are not the usual ones."""
        words = [f"{self.embed_dim}, {self.num_heads}"]
        words += [f"dropout={self.dropout}"] if self.dropout else []
        words += ["bias=False"] if self.in_proj_bias is None else []
        words += [f"{name}={getattr(self, name)}" for name in ("kdim", "vdim") if getattr(self, name) != self.embed_dim]
        words += ["batch_first=True"] if self.batch_first else []
        return ", ".join(words)


def _each_once(values: tuple[Any, ...], f: Any) -> tuple[Any, ...]:
    """f of each value; values that are one and the same remain so."""
    known: dict[int, Any] = {id(x): None if x is None else f(x) for x in values}
    return tuple(known[id(x)] for x in values)


def _check_cache(cache: Any, B: int, N: int, K: int) -> None:
    keys = cache.keys if isinstance(cache, KeyValueCache) else None
    if keys is None or (*keys.shape[:2], *keys.shape[3:]) != (B, N, K):
        raise ShapeError(
            message(
                "MultiheadAttention: the cache does not fit",
                expected=f"keys and values (B, N, S, K) = ({B}, {N}, S, {K})",
                got=f"a {type(cache).__name__}" if keys is None else f"keys {describe(raw(keys))}",
                do=f"initial_cache({B}) at first, then what the call before returned",
            )
        )


def _told(name: str, mask: Any, shapes: tuple[tuple[int, ...], ...]) -> Any:
    """A mask of PyTorch's meaning, True where one must not look, in the other: True where one may. Numbers remain."""
    mask = mask if hasattr(mask, "shape") else np.asarray(mask)
    if tuple(mask.shape) not in shapes:
        expected = " or ".join(map(str, shapes))
        turned = "mask.T" if tuple(mask.shape[::-1]) in shapes else ""
        raise ShapeError(message(f"MultiheadAttention: {name} {describe(raw(mask))} does not fit", expected=expected, do=turned))
    if np.dtype(mask.dtype).kind not in "bf":
        raise ArgumentError(
            message(
                f"MultiheadAttention: {name} is {describe(raw(mask))}",
                expected="booleans, True where one must not look, or numbers to add to the scores",
                do="mask != 0",
            )
        )
    return logical_not(mask) if np.dtype(mask.dtype).kind == "b" else mask


# ---- For encoders and decoders ---------------------------------------------------------------------------------------------------------


class ScaledDotProductAttention(Module):
    """A decoder's look at an encoder: w_ts = softmax_s(q_t · k_s / √K), nothing learned (Vaswani et al. 2017)."""

    def forward(self, query: Any, key: Any, value: Any = None, *, mask: Any = None, lengths: Any = None) -> tuple[Any, Any]:
        """query (T, B, K) or of one moment (B, K), key (S, B, K), value (S, B, V) (None: the keys) -> (context, weights (..., B, S)).

        lengths (B,): how many positions of each row there are; mask: booleans, True where a query may look, or numbers to add.
        """
        value = key if value is None else value
        return F.bilinear_attention(query, key, value, scale=1 / math.sqrt(key.shape[-1]), mask=mask, lengths=lengths)


class BilinearAttention(Module):
    """A decoder's look at an encoder: w_ts = softmax_s(q_t^T W k_s) (Luong, Pham & Manning 2015, "general").

    weight (query_dim, key_dim) starts uniform in ±1/sqrt(key_dim).
    """

    def __init__(self, query_dim: int, key_dim: int, *, rng: Rng = None, dtype: Any = "float32"):
        init.check_sizes("BilinearAttention", query_dim=query_dim, key_dim=key_dim)
        self.query_dim, self.key_dim = query_dim, key_dim
        self.weight = init.uniform((query_dim, key_dim), 1 / math.sqrt(key_dim), rng=rng, dtype=dtype)

    def forward(self, query: Any, key: Any, value: Any = None, *, mask: Any = None, lengths: Any = None) -> tuple[Any, Any]:
        """query (T, B, query_dim) or of one moment (B, query_dim), key (S, B, key_dim), value (S, B, V) (None: the keys)
        -> (context, weights (..., B, S)). mask, lengths: as in `ScaledDotProductAttention`.
        """
        return F.bilinear_attention(query, key, key if value is None else value, self.weight, mask=mask, lengths=lengths)

    def extra_repr(self) -> str:
        """The sizes."""
        return f"{self.query_dim}, {self.key_dim}"


class AdditiveAttention(Module):
    """A decoder's look at an encoder: w_ts = softmax_s(v · tanh(W_q q_t + W_k k_s + b)) (Bahdanau, Cho & Bengio 2015).

    query_weight (A, query_dim), key_weight (A, key_dim), bias (A,) and v (A,) start uniform in ±1/sqrt of the size they sum over.
    """

    def __init__(
        self, query_dim: int, key_dim: int, attention_dim: int, bias: bool = True, *, rng: Rng = None, dtype: Any = "float32"
    ):
        init.check_sizes("AdditiveAttention", query_dim=query_dim, key_dim=key_dim, attention_dim=attention_dim)
        self.query_dim, self.key_dim, self.attention_dim = query_dim, key_dim, attention_dim
        draw = generator(rng)
        self.query_weight = init.uniform((attention_dim, query_dim), 1 / math.sqrt(query_dim), rng=draw, dtype=dtype)
        self.key_weight = init.uniform((attention_dim, key_dim), 1 / math.sqrt(key_dim), rng=draw, dtype=dtype)
        self.bias = init.uniform((attention_dim,), 1 / math.sqrt(query_dim), rng=draw, dtype=dtype) if bias else None
        self.v = init.uniform((attention_dim,), 1 / math.sqrt(attention_dim), rng=draw, dtype=dtype)

    def forward(
        self, query: Any, key: Any, value: Any = None, *, mask: Any = None, lengths: Any = None, projected: Any = None
    ) -> tuple[Any, Any]:
        """query (T, B, query_dim) or of one moment (B, query_dim), key (S, B, key_dim), value (S, B, V) (None: the keys)
        -> (context, weights (..., B, S)). mask, lengths: as in `ScaledDotProductAttention`.

        projected: `project(key)`, which a decoder makes once for all its moments.
        """
        value = key if value is None else value
        w_k, key = (self.key_weight, key) if projected is None else (None, projected)
        return F.additive_attention(query, key, value, self.query_weight, w_k, self.v, self.bias, mask=mask, lengths=lengths)

    def project(self, key: Any) -> Any:
        """W_k k_s: key (S, B, key_dim) -> (S, B, attention_dim)."""
        return F.linear(key, self.key_weight)

    def extra_repr(self) -> str:
        """The sizes."""
        return f"{self.query_dim}, {self.key_dim}, {self.attention_dim}" + ("" if self.bias is not None else ", bias=False")
