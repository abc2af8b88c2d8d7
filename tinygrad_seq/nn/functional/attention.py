"""Attention: each query looks at all positions and takes home a mean of their values, weighted by how well their keys fit.

Several heads of scaled dot products for transformers; additive and bilinear attention for a decoder that looks at an encoder.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from ... import backend
from ...errors import ShapeError, describe, message
from ...graph import raw
from ...ops import concatenate, expand_dims, matmul, moveaxis, swapaxes, tanh, transpose, where
from ...random import Rng
from ...scan_checks import present
from .dropout import dropout
from .linear import linear
from .scaled_dot_product import (
    attended,
    causal_mask,
    check_mask,
    distribution,
    floats,
    is_learned,
    joined,
    merge_heads,
    self_attention,
    split_heads,
    weights_of,
)

# ---- Several heads ----------------------------------------------------------------------------------------------------------------


class KeyValueCache(NamedTuple):
    """What generation keeps of the past: the keys and values of all heads, (B, N, S, K) each."""

    keys: Any
    values: Any


class Projections(NamedTuple):
    """The weights of multi-head attention. in_weight (3E, E) for q, k and v, or their three weights; biases may be None."""

    in_weight: Any
    in_bias: Any
    out_weight: Any
    out_bias: Any


def multi_head_attention(
    query: Any,
    key: Any,
    value: Any,
    projections: Projections,
    num_heads: int,
    mask: Any = None,
    *,
    is_causal: bool = False,
    dropout_p: float = 0.0,
    need_weights: bool = False,
    batch_first: bool = False,
    cache: KeyValueCache | None = None,
    rng: Rng = None,
) -> tuple[Any, Any, KeyValueCache | None]:
    """Multi-head attention (Vaswani et al. 2017): N attentions side by side, each in a space of its own, K = E/N wide.

        head_n = attention(query W_q,n, key W_k,n, value W_v,n)        y = [head_1 ... head_N] W_o

    query (T, B, E), key and value (S, B, E'), or batch first -> (y (T, B, E), weights (B, N, T, S) or None, cache or None).

    mask, which broadcasts to (B, N, T, S): as in `scaled_dot_product_attention`. cache: the keys and values of the past stand before the
    new ones, and those of past and present together come out; key=None adds nothing to them. With a cache, is_causal counts the
    queries as the last of all positions.
    """
    E = query.shape[-1]
    whole = not isinstance(projections.in_weight, tuple)
    if whole and query is key is value and cache is None and not (need_weights or dropout_p or is_learned(mask)):
        qkv = linear(query, projections.in_weight, projections.in_bias)  # (T, B, 3E)
        T = query.shape[1 if batch_first else 0]
        bias = joined(mask, causal_mask(T, T) if is_causal else None, like=raw(qkv))
        context = self_attention(qkv, raw(bias), heads=num_heads, batch_first=batch_first)
        return linear(context, projections.out_weight, projections.out_bias), None, None

    q = split_heads(_projected(query, projections, 0), num_heads, batch_first)  # (B, N, T, K)
    if key is None:
        assert cache is not None
        k, v = cache
    else:
        k, v = keys_and_values(key, value, projections, num_heads, batch_first=batch_first)
        if cache is not None:
            k, v = concatenate((cache.keys, k), axis=-2), concatenate((cache.values, v), axis=-2)
    T, S = q.shape[-2], k.shape[-2]
    bias = joined(mask, causal_mask(T, S, past=S - T if cache is not None else 0) if is_causal else None, like=raw(q))
    scale = 1 / math.sqrt(E // num_heads)
    if need_weights:
        weights = dropout(weights_of(q, k, bias, scale), dropout_p, rng=rng)  # (B, N, T, S)
        context = matmul(weights, v)
    else:
        weights, context = None, attended(q, k, v, bias, scale, dropout_p, rng)
    y = linear(merge_heads(context, batch_first), projections.out_weight, projections.out_bias)
    return y, weights, None if cache is None else KeyValueCache(k, v)


def keys_and_values(key: Any, value: Any, projections: Projections, num_heads: int, *, batch_first: bool = False) -> KeyValueCache:
    """The keys and values of all heads, (B, N, S, K): what `multi_head_attention` looks at."""
    k, v = _projected(key, projections, 1), _projected(value, projections, 2)
    return KeyValueCache(split_heads(k, num_heads, batch_first), split_heads(v, num_heads, batch_first))


def _projected(x: Any, projections: Projections, i: int) -> Any:
    """x as queries (i = 0), keys (1) or values (2)."""
    weight, bias = projections.in_weight, projections.in_bias
    if isinstance(weight, tuple):
        weight, E = weight[i], weight[i].shape[0]
    else:
        E = weight.shape[0] // 3
        weight = weight[i * E : (i + 1) * E]
    return linear(x, weight, None if bias is None else bias[i * E : (i + 1) * E])


# ---- Additive and bilinear -----------------------------------------------------------------------------------------------------------


def additive_attention(
    query: Any, key: Any, value: Any, w_q: Any, w_k: Any, v: Any, b: Any = None, *, mask: Any = None, lengths: Any = None
) -> tuple[Any, Any]:
    """Additive attention (Bahdanau, Cho & Bengio 2015): a small network says how well a query fits a key.

        e_ts = v · tanh(W_q q_t + W_k k_s + b)        w_ts = softmax_s(e_ts)        y_t = Σ_s w_ts value_s

    query (T, B, Q) or of one moment (B, Q), key (S, B, K), value (S, B, V), w_q (A, Q), w_k (A, K), v (A,), b (A,)
    -> the context (T, B, V) or (B, V), and the weights (T, B, S) or (B, S), whose rows sum to 1.

    w_k=None: the keys are projected already, (S, B, A). lengths (B,): how many positions of each row there are; mask, which broadcasts to the
    weights: booleans, True where a query may look, or numbers to add to e. What lies past the lengths, even NaN, changes nothing.
    """
    query, key, value = _memory("additive_attention", query, key, value, lengths)
    q, k = linear(query, w_q, b), key if w_k is None else linear(key, w_k)
    hidden = tanh(expand_dims(q, -2) + swapaxes(k, 0, 1))  # (T, B, S, A)
    return _looked_up(matmul(hidden, v), value, mask, lengths)


def bilinear_attention(
    query: Any, key: Any, value: Any, weight: Any = None, *, scale: float = 1.0, mask: Any = None, lengths: Any = None
) -> tuple[Any, Any]:
    """Bilinear attention (Luong, Pham & Manning 2015, "general"): a matrix says how well a query fits a key.

        e_ts = scale · q_t^T W k_s        w_ts = softmax_s(e_ts)        y_t = Σ_s w_ts value_s

    query (T, B, Q) or of one moment (B, Q), key (S, B, K), value (S, B, V), weight (Q, K), or None for the dot product ("dot")
    -> the context (T, B, V) or (B, V), and the weights (T, B, S) or (B, S). mask, lengths: as in `additive_attention`.
    """
    query, key, value = _memory("bilinear_attention", query, key, value, lengths)
    q = query if weight is None else matmul(query, weight)  # (T, B, K)
    q = q if scale == 1 else q * scale
    if len(q.shape) == 2:
        scores = matmul(transpose(key, (1, 0, 2)), expand_dims(q, -1))[..., 0]  # (B, S)
    else:
        scores = moveaxis(matmul(swapaxes(q, 0, 1), transpose(key, (1, 2, 0))), 1, 0)  # (T, B, S)
    return _looked_up(scores, value, mask, lengths)


def _looked_up(scores: Any, value: Any, mask: Any, lengths: Any) -> tuple[Any, Any]:
    """Context and weights for scores (T, B, S) or (B, S), and values (S, B, V)."""
    bias = joined(mask, _present(lengths, value), like=raw(scores))
    check_mask("attention: the mask", bias, tuple(scores.shape))
    weights = distribution(scores, bias)
    rows = swapaxes(value, 0, 1)  # (B, S, V)
    if len(scores.shape) == 2:
        return matmul(expand_dims(weights, 1), rows)[:, 0], weights
    return swapaxes(matmul(swapaxes(weights, 0, 1), rows), 0, 1), weights


def _memory(who: str, query: Any, key: Any, value: Any, lengths: Any) -> tuple[Any, Any, Any]:
    """Query, keys and values of shapes that fit, the padding of the last two set to 0."""
    q, k, v = (floats(who, name, x) for name, x in (("query", query), ("key", key), ("value", value)))
    fits = len(q.shape) in (2, 3) and len(k.shape) == len(v.shape) == 3
    if not fits or k.shape[:2] != v.shape[:2] or q.shape[-2] != k.shape[1]:
        got = ", ".join(f"{name} {describe(raw(x))}" for name, x in (("query", q), ("key", k), ("value", v)))
        raise ShapeError(
            message(f"{who}: the shapes do not fit", expected="query (T, B, Q) or (B, Q), key (S, B, K), value (S, B, V)", got=got)
        )
    if lengths is not None:
        there = expand_dims(swapaxes(_present(lengths, v), 0, 1), -1)  # (S, B, 1)
        k, v = where(there, k, 0), v if value is key else where(there, v, 0)
        v = k if value is key else v
    return q, k, v


def _present(lengths: Any, value: Any) -> Any:
    """(B, S): whether position s of row b is within its length."""
    if lengths is None:
        return None
    return backend.to_device(present("attention", lengths, *value.shape[:2]).T, backend.device_of(raw(value)))
