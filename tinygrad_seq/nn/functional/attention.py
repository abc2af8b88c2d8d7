"""Attention: each query looks at all positions and takes home a mean of their values, weighted by how well their keys fit.

The seeds write a^q, a^k, a^v for the rows q_t, k_s, v_s. A causal mask lets the query at t see the keys s <= t; the notes' "mask when
s >= t", with s the query and t the key, would hide the past and the query itself: the entries to mask are those with key > query.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from ... import backend
from ...errors import ArgumentError, ShapeError, describe, message
from ...fusion import fused
from ...graph import Value, raw
from ...ops import concatenate, equal, expand_dims, matmul, moveaxis, reshape, swapaxes, tanh, transpose, where
from ...primitives import backward_of
from ...random import Rng
from .dropout import dropout
from .linear import linear, single
from .softmax import softmax

# ---- Scaled dot products -----------------------------------------------------------------------------------------------------------


def scaled_dot_product_attention(
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    *,
    rng: Rng = None,
) -> Any:
    """Attention by scaled dot products (Vaswani et al. 2017).

        w_ts = softmax_s(q_t · k_s / √K)        y_t = Σ_s w_ts v_s           y = softmax(q k^T / √K) v

    query (..., T, K), key (..., S, K), value (..., S, V) -> (..., T, V); `scale` stands for 1/√K.

    attn_mask, which broadcasts to (..., T, S): booleans, True where a query may look, or numbers to add to the scores. is_causal: the query
    at t looks at s <= t only. A query that may look nowhere gets 0. dropout_p: each weight is dropped with this probability, always.
    """
    q, k, v = (_floats("scaled_dot_product_attention", name, x) for name, x in (("query", query), ("key", key), ("value", value)))
    _check_products("scaled_dot_product_attention", q, k, v)
    T, S = q.shape[-2], k.shape[-2]
    bias = _joined(attn_mask, causal_mask(T, S) if is_causal else None, like=raw(q))
    _check_mask("scaled_dot_product_attention: attn_mask", bias, (*np.broadcast_shapes(q.shape[:-2], k.shape[:-2]), T, S))
    return _attended(q, k, v, bias, 1 / math.sqrt(q.shape[-1]) if scale is None else float(scale), dropout_p, rng)


def _attended(q: Any, k: Any, v: Any, bias: Any, scale: float, dropout_p: float = 0.0, rng: Rng = None) -> Any:
    """The kernel, where nothing is dropped, learned in the mask, or broadcast."""
    alike = q.shape[:-2] == k.shape[:-2] == v.shape[:-2] and q.dtype == k.dtype == v.dtype
    if dropout_p or _is_learned(bias) or not alike:
        return matmul(dropout(_weights(q, k, bias, scale), dropout_p, rng=rng), v)
    return _attention(q, k, v, raw(bias), scale=scale)


def _weights(q: Any, k: Any, bias: Any, scale: float) -> Any:
    """(..., T, S): how much each query takes of each position."""
    return distribution(matmul(q * scale, swapaxes(k, -1, -2)), bias)


def distribution(scores: Any, bias: Any = None) -> Any:
    """The softmax of the scores (..., S), to which `bias` is added; a row of which nothing remains but -inf becomes 0."""
    if bias is None:
        return softmax(scores)
    scores = scores + bias
    nowhere = equal(np.max(raw(scores), axis=-1, keepdims=True), -math.inf)
    return where(nowhere, 0, softmax(where(nowhere, 0, scores)))


def _attention_equation(q: Any, k: Any, v: Any, bias: Any, /, scale: float) -> Any:
    return matmul(_weights(q, k, bias, scale), v)


@fused(equation=_attention_equation)
def _attention(q: Any, k: Any, v: Any, bias: Any, /, scale: float) -> Any:
    y = _laid_like(q, v.shape[-1])
    return y, (y, *_attend(q, k, v, bias, scale, y))


@backward_of(_attention)
def _(g: Any, y: Any, saved: Any, q: Any, k: Any, v: Any, bias: Any, scale: float) -> Any:
    gradients = tuple(_laid_like(x, x.shape[-1]) for x in (q, k, v))
    _attend_back(g, saved, (q, k, v), scale, gradients)
    return (*gradients, None)


# Self-attention needs q, k and v of one sequence, which one product makes: (.., .., 3NK). They stay there, so do their gradients.


def _self_attention_equation(qkv: Any, bias: Any, /, heads: int, batch_first: bool) -> Any:
    q, k, v = (split_heads(part, heads, batch_first) for part in _thirds(qkv))
    return merge_heads(_attention_equation(q, k, v, bias, 1 / math.sqrt(q.shape[-1])), batch_first)


@fused(equation=_self_attention_equation)
def _self_attention(qkv: Any, bias: Any, /, heads: int, batch_first: bool) -> Any:
    q, k, v = _heads_within(qkv, 3, heads, batch_first)
    y = backend.array_module(qkv).empty((*qkv.shape[:2], qkv.shape[2] // 3), qkv.dtype)
    (context,) = _heads_within(y, 1, heads, batch_first)
    return y, (context, *_attend(q, k, v, bias, 1 / math.sqrt(q.shape[-1]), context))


@backward_of(_self_attention)
def _(g: Any, y: Any, saved: Any, qkv: Any, bias: Any, heads: int, batch_first: bool) -> Any:
    (g_context,) = _heads_within(g, 1, heads, batch_first)
    g_qkv = backend.array_module(qkv).empty(qkv.shape, qkv.dtype)
    qkv, gradients = (_heads_within(x, 3, heads, batch_first) for x in (qkv, g_qkv))
    _attend_back(g_context, saved, qkv, 1 / math.sqrt(qkv[0].shape[-1]), gradients)
    return g_qkv, None


def _heads_within(x: Any, parts: int, heads: int, batch_first: bool) -> tuple[Any, ...]:
    """Views (B, N, T, K) of the parts of (B, T, parts · N · K), or of (T, B, ...)."""
    apart = x.reshape(*x.shape[:2], parts, heads, -1)
    return tuple(apart[:, :, i].transpose((0, 2, 1, 3) if batch_first else (1, 2, 0, 3)) for i in range(parts))


# What the kernels share. With E = e^(scores - shift), a shift for each row, and r = 1/Σ_s E, the weights are w = r E and are never written out:
#   y = r (E v)     and, with g' = r g,     dL/dv = E^T g'     dL/dscores = E ⊙ (g' v^T - Σ g' ⊙ y)


def _attend(q: Any, k: Any, v: Any, bias: Any, scale: float, out: Any) -> tuple[Any, Any]:
    """Fill `out` with the context; returns E (..., T, S) and r (..., T, 1)."""
    xp = backend.array_module(q)
    T, S = q.shape[-2], k.shape[-2]
    E, r = xp.empty((*q.shape[:-1], S), q.dtype), xp.empty((*q.shape[:-1], 1), q.dtype)
    ones = xp.ones((S, 1), q.dtype)
    if bias is not None:
        bias = xp.broadcast_to(bias, E.shape)
    calm = xp is np and _all_calm(q, k, bias, scale)
    for part in _parts(E.shape[:-2], T * S) if xp is np else [()]:
        e = np.matmul(q[part] * scale, np.swapaxes(k[part], -1, -2), out=E[part])
        if bias is not None:
            e += bias[part]
        if not calm:
            largest = np.max(e, axis=-1, keepdims=True)
            e -= np.where((np.abs(largest) <= _calm(e.dtype)) | (largest == -math.inf), 0, largest)
        np.exp(e, out=e)
        total = e @ ones
        if bias is not None:
            total += total == 0  # a query that may look nowhere
        np.divide(1, total, out=r[part])
        np.matmul(e, v[part], out=out[part])
        y = out[part]
        y *= r[part]
    return E, r


def _attend_back(g: Any, saved: Any, qkv: Any, scale: float, gradients: Any) -> None:
    """Fill the gradients of q, k and v."""
    y, E, r = saved
    xp = backend.array_module(y)
    for part in _parts(E.shape[:-2], E.shape[-2] * E.shape[-1]) if xp is np else [()]:
        q, k, v = (x[part] for x in qkv)
        g_q, g_k, g_v = (x[part] for x in gradients)
        e, g_y = E[part], g[part] * r[part]
        np.matmul(np.swapaxes(e, -1, -2), g_y, out=g_v)
        g_scores = g_y @ np.swapaxes(v, -1, -2)
        g_scores -= np.sum(g_y * y[part], axis=-1, keepdims=True)
        g_scores *= e
        np.matmul(g_scores, k * scale, out=g_q)
        np.matmul(np.swapaxes(g_scores, -1, -2), q * scale, out=g_k)


def _calm(dtype: Any) -> float:
    """How large the largest score of a row may be, either way, before the row is shifted: below, e^score neither overflows nor vanishes.

    Which rows are shifted depends on nothing outside of them: what a query may not see changes not one bit of what it gets.
    """
    return 40.0 if dtype.itemsize >= 4 else 0.0


def _all_calm(q: Any, k: Any, bias: Any, scale: float) -> bool:
    """Whether no row needs a shift, as |q · k| <= |q| |k| tells without a look at the scores."""
    longest = (float(np.einsum("...i,...i->...", x, x).max(initial=0)) for x in (q, k))
    bound = abs(scale) * math.sqrt(math.prod(longest))
    if bias is not None:
        bound += float(np.max(np.abs(bias), initial=0, where=bias > -math.inf))
    return bound <= _calm(q.dtype)


def _parts(shape: tuple[int, ...], each: int, limit: int = 2**17) -> Iterator[tuple[Any, ...]]:
    """Indices that cut stacks of matrices, `each` numbers every one, into parts that stay in the processor's cache."""
    inner = each * math.prod(shape[1:])
    if not shape or shape[0] * inner <= limit:
        yield ()
        return
    step = limit // inner
    for i in range(0, shape[0], step or 1):
        if step:
            yield (slice(i, i + step),)
        else:
            yield from ((i, *rest) for rest in _parts(shape[1:], each, limit))


def _laid_like(x: Any, width: int) -> Any:
    """A new array (*x.shape[:-1], width) whose axes stand in memory as those of x do, so that heads merge without a copy."""
    order = sorted(range(x.ndim), key=lambda axis: -x.strides[axis])
    shape = (*x.shape[:-1], width)
    new = backend.array_module(x).empty([shape[axis] for axis in order], x.dtype)
    return new.transpose(sorted(range(x.ndim), key=order.__getitem__))


# ---- Several heads -----------------------------------------------------------------------------------------------------------------


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
    if whole and query is key is value and cache is None and not (need_weights or dropout_p or _is_learned(mask)):
        qkv = linear(query, projections.in_weight, projections.in_bias)  # (T, B, 3E)
        T = query.shape[1 if batch_first else 0]
        bias = _joined(mask, causal_mask(T, T) if is_causal else None, like=raw(qkv))
        context = _self_attention(qkv, raw(bias), heads=num_heads, batch_first=batch_first)
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
    bias = _joined(mask, causal_mask(T, S, past=S - T if cache is not None else 0) if is_causal else None, like=raw(q))
    scale = 1 / math.sqrt(E // num_heads)
    if need_weights:
        weights = dropout(_weights(q, k, bias, scale), dropout_p, rng=rng)  # (B, N, T, S)
        context = matmul(weights, v)
    else:
        weights, context = None, _attended(q, k, v, bias, scale, dropout_p, rng)
    y = linear(merge_heads(context, batch_first), projections.out_weight, projections.out_bias)
    return y, weights, None if cache is None else KeyValueCache(k, v)


def keys_and_values(key: Any, value: Any, projections: Projections, num_heads: int, *, batch_first: bool = False) -> KeyValueCache:
    """The keys and values of all heads, (B, N, S, K): what `multi_head_attention` looks at."""
    k, v = _projected(key, projections, 1), _projected(value, projections, 2)
    return KeyValueCache(split_heads(k, num_heads, batch_first), split_heads(v, num_heads, batch_first))


def split_heads(x: Any, num_heads: int, batch_first: bool = False) -> Any:
    """(T, B, N·K), or (B, T, N·K) -> (B, N, T, K)."""
    apart = reshape(x, (*x.shape[:2], num_heads, x.shape[2] // num_heads))
    return transpose(apart, (0, 2, 1, 3) if batch_first else (1, 2, 0, 3))


def merge_heads(x: Any, batch_first: bool = False) -> Any:
    """(B, N, T, K) -> (T, B, N·K), or (B, T, N·K)."""
    together = transpose(x, (0, 2, 1, 3) if batch_first else (2, 0, 1, 3))
    return reshape(together, (*together.shape[:2], together.shape[2] * together.shape[3]))


def causal_mask(T: int, S: int, past: int = 0) -> Any:
    """Booleans (T, S), True where the query at t may look at s: s <= t, and t counts from `past`."""
    return np.arange(S) <= np.arange(past, past + T)[:, None]


def _projected(x: Any, projections: Projections, i: int) -> Any:
    """x as queries (i = 0), keys (1) or values (2)."""
    weight, bias = projections.in_weight, projections.in_bias
    if isinstance(weight, tuple):
        weight, E = weight[i], weight[i].shape[0]
    else:
        E = weight.shape[0] // 3
        weight = weight[i * E : (i + 1) * E]
    return linear(x, weight, None if bias is None else bias[i * E : (i + 1) * E])


def _thirds(x: Any) -> tuple[Any, ...]:
    E = x.shape[-1] // 3
    return tuple(x[..., i * E : (i + 1) * E] for i in range(3))


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
    bias = _joined(mask, _present(lengths, value), like=raw(scores))
    _check_mask("attention: the mask", bias, tuple(scores.shape))
    weights = distribution(scores, bias)
    rows = swapaxes(value, 0, 1)  # (B, S, V)
    if len(scores.shape) == 2:
        return matmul(expand_dims(weights, 1), rows)[:, 0], weights
    return swapaxes(matmul(swapaxes(weights, 0, 1), rows), 0, 1), weights


def _memory(who: str, query: Any, key: Any, value: Any, lengths: Any) -> tuple[Any, Any, Any]:
    """Query, keys and values of shapes that fit, the padding of the last two set to 0."""
    q, k, v = (_floats(who, name, x) for name, x in (("query", query), ("key", key), ("value", value)))
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


# ---- Masks ---------------------------------------------------------------------------------------------------------------------------


def _present(lengths: Any, value: Any) -> Any:
    """(B, S): whether position s of row b is within its length."""
    if lengths is None:
        return None
    S, B = value.shape[:2]
    given = np.asarray(backend.to_numpy(raw(lengths)))
    if given.shape != (B,) or given.dtype.kind not in "iu" or (B and not (given.min() >= 0 and given.max() <= S)):
        raise ShapeError(
            message(f"attention: lengths {describe(lengths)}", expected=f"{B} integers in 0 ... {S}, one for each row")
        )
    return backend.to_device(np.arange(S) < given[:, None], backend.device_of(raw(value)))


def _joined(*masks: Any, like: Any) -> Any:
    """All masks as one array to add to the scores (0 where a query may look, -inf where not), or None."""
    bias: Any = None
    for mask in masks:
        if mask is not None:
            part = to_add(mask, like)
            bias = part if bias is None else bias + part
    if isinstance(bias, np.ndarray):
        bias.flags.writeable = False  # it is new, and the tape keeps it without a copy
    return bias


def to_add(mask: Any, like: Any) -> Any:
    """One mask as numbers to add to the scores, where the array `like` is and of its dtype."""
    if isinstance(mask, Value) and mask.node is not None:
        return mask
    array = mask if backend.is_array(mask) else np.asarray(raw(mask))
    if array.dtype.kind not in "bf":
        raise ArgumentError(
            message(
                f"attention: the mask is {describe(array)}", expected="booleans, or numbers to add to the scores", do="mask != 0"
            )
        )
    array = backend.to_device(array, backend.device_of(like))
    if array.dtype.kind == "f":
        return array.astype(like.dtype)
    return np.where(array, *backend.array_module(like).asarray([0, -math.inf], like.dtype))


def _is_learned(mask: Any) -> bool:
    return isinstance(mask, Value) and mask.node is not None


# ---- Arguments that do not fit -------------------------------------------------------------------------------------------------------


def _floats(who: str, name: str, x: Any) -> Any:
    if not hasattr(single(who, x), "shape") or np.dtype(x.dtype).kind != "f":
        raise ArgumentError(message(f"{who}: {name} is {describe(raw(x))}", expected="an array of floating-point numbers"))
    return x


def _check_products(who: str, q: Any, k: Any, v: Any) -> None:
    if min(len(x.shape) for x in (q, k, v)) < 2 or q.shape[-1] != k.shape[-1] or k.shape[-2] != v.shape[-2]:
        got = ", ".join(f"{name} {describe(raw(x))}" for name, x in (("query", q), ("key", k), ("value", v)))
        raise ShapeError(
            message(f"{who}: the shapes do not fit", expected="query (..., T, K), key (..., S, K), value (..., S, V)", got=got)
        )


def _check_mask(who: str, bias: Any, shape: tuple[int, ...]) -> None:
    if bias is None:
        return
    own = tuple(bias.shape)
    if len(own) > len(shape) or any(n not in (1, m) for n, m in zip(reversed(own), reversed(shape), strict=False)):
        raise ShapeError(
            message(f"{who} {own} does not fit", expected=f"a shape that broadcasts to {shape}, (..., queries, positions)")
        )
