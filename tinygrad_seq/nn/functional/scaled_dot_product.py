"""Attention by scaled dot products (Vaswani et al. 2017): the equation, its masks and heads, and kernels that equal it.

The lecture notes write a^q, a^k, a^v for the rows q_t, k_s, v_s. A causal mask lets the query at t see the keys s <= t; their "mask when
s >= t", with s the query and t the key, would hide the past and the query itself: what is masked is key > query.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from ... import backend
from ...errors import ArgumentError, ShapeError, describe, message
from ...fusion import fused
from ...graph import Value, raw
from ...ops import equal, matmul, reshape, swapaxes, transpose, where
from ...primitives import backward_of
from ...random import Rng
from .dropout import dropout
from .linear import single
from .softmax import softmax

# ---- The formula ------------------------------------------------------------------------------------------------------------------


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
    q, k, v = (floats("scaled_dot_product_attention", name, x) for name, x in (("query", query), ("key", key), ("value", value)))
    _check_products("scaled_dot_product_attention", q, k, v)
    T, S = q.shape[-2], k.shape[-2]
    bias = joined(attn_mask, causal_mask(T, S) if is_causal else None, like=raw(q))
    check_mask("scaled_dot_product_attention: attn_mask", bias, (*np.broadcast_shapes(q.shape[:-2], k.shape[:-2]), T, S))
    return attended(q, k, v, bias, 1 / math.sqrt(q.shape[-1]) if scale is None else float(scale), dropout_p, rng)


def attended(q: Any, k: Any, v: Any, bias: Any, scale: float, dropout_p: float = 0.0, rng: Rng = None) -> Any:
    """The kernel, where nothing is dropped, learned in the mask, or broadcast."""
    alike = q.shape[:-2] == k.shape[:-2] == v.shape[:-2] and q.dtype == k.dtype == v.dtype
    if dropout_p or is_learned(bias) or not alike:
        return matmul(dropout(weights_of(q, k, bias, scale), dropout_p, rng=rng), v)
    return _attention(q, k, v, raw(bias), scale=scale)


def weights_of(q: Any, k: Any, bias: Any, scale: float) -> Any:
    """(..., T, S): how much each query takes of each position."""
    return distribution(matmul(q * scale, swapaxes(k, -1, -2)), bias)


def distribution(scores: Any, bias: Any = None) -> Any:
    """The softmax of the scores (..., S), to which `bias` is added; a row of which nothing remains but -inf becomes 0."""
    if bias is None:
        return softmax(scores)
    scores = scores + bias
    nowhere = equal(np.max(raw(scores), axis=-1, keepdims=True), -math.inf)
    return where(nowhere, 0, softmax(where(nowhere, 0, scores)))


# ---- Heads and masks --------------------------------------------------------------------------------------------------------------


def split_heads(x: Any, num_heads: int, batch_first: bool = False) -> Any:
    """(T, B, N·K), or (B, T, N·K) -> (B, N, T, K)."""
    apart = reshape(x, (*x.shape[:2], num_heads, x.shape[2] // num_heads))
    return transpose(apart, (0, 2, 1, 3) if batch_first else (1, 2, 0, 3))


def merge_heads(x: Any, batch_first: bool = False) -> Any:
    """(B, N, T, K) -> (T, B, N·K), or (B, T, N·K)."""
    together = transpose(x, (0, 2, 1, 3) if batch_first else (2, 0, 1, 3))
    return reshape(together, (*together.shape[:2], together.shape[2] * together.shape[3]))


def _thirds(x: Any) -> tuple[Any, ...]:
    E = x.shape[-1] // 3
    return tuple(x[..., i * E : (i + 1) * E] for i in range(3))


def causal_mask(T: int, S: int, past: int = 0) -> Any:
    """Booleans (T, S), True where the query at t may look at s: s <= t, and t counts from `past`."""
    return np.arange(S) <= np.arange(past, past + T)[:, None]


def joined(*masks: Any, like: Any) -> Any:
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
    if is_learned(mask):
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


def is_learned(mask: Any) -> bool:
    """Whether a mask of numbers has a gradient."""
    return isinstance(mask, Value) and mask.node is not None


# ---- The kernels ------------------------------------------------------------------------------------------------------------------


def _attention_equation(q: Any, k: Any, v: Any, bias: Any, /, scale: float) -> Any:
    return matmul(weights_of(q, k, bias, scale), v)


@fused(equation=_attention_equation)
def _attention(q: Any, k: Any, v: Any, bias: Any, /, scale: float) -> Any:
    y = _laid_like(q, v.shape[-1])
    return y, _attend(q, k, v, bias, scale, y)


@backward_of(_attention)
def _(g: Any, y: Any, saved: Any, q: Any, k: Any, v: Any, bias: Any, scale: float) -> Any:
    gradients = tuple(_laid_like(x, x.shape[-1]) for x in (q, k, v))
    _attend_back(g, saved, (q, k, v), bias, scale, gradients)
    return (*gradients, None)


# Self-attention needs q, k and v of one sequence, which one product makes: (.., .., 3NK). They stay there, so do their gradients.


def _self_attention_equation(qkv: Any, bias: Any, /, heads: int, batch_first: bool) -> Any:
    q, k, v = (split_heads(part, heads, batch_first) for part in _thirds(qkv))
    return merge_heads(_attention_equation(q, k, v, bias, 1 / math.sqrt(q.shape[-1])), batch_first)


@fused(equation=_self_attention_equation)
def self_attention(qkv: Any, bias: Any, /, heads: int, batch_first: bool) -> Any:
    """The context (T, B, NK) of a sequence that looks at itself, from its queries, keys and values side by side, (T, B, 3NK)."""
    q, k, v = _heads_within(qkv, 3, heads, batch_first)
    y = backend.array_module(qkv).empty((*qkv.shape[:2], qkv.shape[2] // 3), qkv.dtype)
    (context,) = _heads_within(y, 1, heads, batch_first)
    return y, _attend(q, k, v, bias, 1 / math.sqrt(q.shape[-1]), context)


@backward_of(self_attention)
def _(g: Any, y: Any, saved: Any, qkv: Any, bias: Any, heads: int, batch_first: bool) -> Any:
    (g_context,) = _heads_within(g, 1, heads, batch_first)
    g_qkv = backend.array_module(qkv).empty(qkv.shape, qkv.dtype)
    qkv, gradients = (_heads_within(x, 3, heads, batch_first) for x in (qkv, g_qkv))
    _attend_back(g_context, saved, qkv, bias, 1 / math.sqrt(qkv[0].shape[-1]), gradients)
    return g_qkv, None


def _heads_within(x: Any, parts: int, heads: int, batch_first: bool) -> tuple[Any, ...]:
    """Views (B, N, T, K) of the parts of (B, T, parts · N · K), or of (T, B, ...)."""
    apart = x.reshape(*x.shape[:2], parts, heads, -1)
    return tuple(apart[:, :, i].transpose((0, 2, 1, 3) if batch_first else (1, 2, 0, 3)) for i in range(parts))


def _laid_like(x: Any, width: int) -> Any:
    """A new array (*x.shape[:-1], width) whose axes stand in memory as those of x do, so that heads merge without a copy."""
    order = sorted(range(x.ndim), key=lambda axis: -x.strides[axis])
    shape = (*x.shape[:-1], width)
    new = backend.array_module(x).empty([shape[axis] for axis in order], x.dtype)
    return new.transpose(sorted(range(x.ndim), key=order.__getitem__))


# ---- What the kernels share ----------------------------------------------------------------------------------------------------------
#
# With E = e^(scores - shift), a shift for each row, and r = 1/Σ_s E, the weights are w = r E, and with g' = r g
#
#     y = r (E v)      dL/dv = E^T g'      dL/dscores = E ⊙ (g' v^T - Σ g' ⊙ y)
#
# E is made again for the derivative, part by part in one small array, so memory grows with T, not with T² (as in FlashAttention, Dao et
# al. 2022).

PART = 2**17  # numbers: what stays in the processor's cache
ROWS = 128  # of queries at least, for fewer of them the products would be slow


def _attend(q: Any, k: Any, v: Any, bias: Any, scale: float, out: Any) -> tuple[Any, Any, Any]:
    """Fill `out` with the context y; returns y, r (..., T, 1), and the shift (..., T, 1), None where no row needs one."""
    xp = backend.array_module(q)
    r = xp.empty((*q.shape[:-1], 1), q.dtype)
    calm = xp is np and _all_calm(q, k, bias, scale)
    shift = None if calm else xp.empty(r.shape, r.dtype)
    ones, scratch = xp.ones((k.shape[-2], 1), q.dtype), _scratch(q, k)
    bias = _for_each(bias, q, k)
    for stack, rows in _parts(q, k):
        e = _scores(q[rows] * scale, k[stack], bias, rows, scratch)
        if shift is not None:
            largest = np.max(e, axis=-1, keepdims=True)
            shift[rows] = np.where((np.abs(largest) <= _calm(e.dtype)) | (largest == -math.inf), 0, largest)
            e -= shift[rows]
        np.exp(e, out=e)
        total = e @ ones
        total += total == 0  # a query that may look nowhere
        np.divide(1, total, out=r[rows])
        y = np.matmul(e, v[stack], out=out[rows])
        y *= r[rows]
    return out, r, shift


def _attend_back(g: Any, saved: Any, qkv: Any, bias: Any, scale: float, gradients: Any) -> None:
    """Fill the gradients of q, k and v."""
    (q, k, v), (g_q, g_k, g_v), (y, r, shift) = qkv, gradients, saved
    first, second = _scratch(q, k), _scratch(q, k)
    bias, before = _for_each(bias, q, k), None
    for stack, rows in _parts(q, k):
        q_rows, g_rows = q[rows] * scale, g[rows] * r[rows]
        e = _scores(q_rows, k[stack], bias, rows, first)
        if shift is not None:
            e -= shift[rows]
        np.exp(e, out=e)
        g_e = np.matmul(g_rows, np.swapaxes(v[stack], -1, -2), out=_shaped(second, e.shape))
        g_e -= np.einsum("...i,...i->...", g_rows, y[rows])[..., None]
        g_e *= e
        np.matmul(g_e, k[stack] * scale, out=g_q[rows])
        for g_x, weights, x in ((g_v, e, g_rows), (g_k, g_e, q_rows)):
            if stack != before:
                np.matmul(np.swapaxes(weights, -1, -2), x, out=g_x[stack])
            else:  # more rows of the same stack
                total = g_x[stack]
                total += np.swapaxes(weights, -1, -2) @ x
        before = stack


def _scores(q: Any, k: Any, bias: Any, rows: Any, scratch: Any) -> Any:
    e = np.matmul(q, np.swapaxes(k, -1, -2), out=_shaped(scratch, (*q.shape[:-1], k.shape[-2])))
    if bias is not None:
        e += bias[rows]
    return e


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


def _parts(q: Any, k: Any) -> Iterator[tuple[Any, Any]]:
    """Indices that cut the work into parts of about PART scores: of a stack of keys, and of rows of its queries. A device gets it all."""
    (*lead, T, _), S = q.shape, k.shape[-2]
    if type(q) is not np.ndarray:
        yield (), ()
        return
    step = max(ROWS, PART // max(S, 1))
    for stack in _stacks(tuple(lead), T * S):
        for t in range(0, max(T, 1), step):
            yield stack, (*stack, ..., slice(t, t + step), slice(None))


def _stacks(shape: tuple[int, ...], each: int) -> Iterator[tuple[Any, ...]]:
    """Indices that cut stacks of matrices, `each` numbers every one, into parts of at most PART numbers, or single matrices."""
    inner = each * math.prod(shape[1:])
    if not shape or shape[0] * inner <= PART:
        yield ()
        return
    step = PART // inner
    for i in range(0, shape[0], step or 1):
        if step:
            yield (slice(i, i + step),)
        else:
            yield from ((i, *rest) for rest in _stacks(shape[1:], each))


def _scratch(q: Any, k: Any) -> Any:
    """Room for the scores of any part."""
    scores = math.prod(q.shape[:-1]) * k.shape[-2]
    size = min(scores, max(PART, ROWS * k.shape[-2])) if type(q) is np.ndarray else scores
    return backend.array_module(q).empty(size, q.dtype)


def _shaped(scratch: Any, shape: tuple[int, ...]) -> Any:
    return scratch[: math.prod(shape)].reshape(shape)


def _for_each(bias: Any, q: Any, k: Any) -> Any:
    """The bias stretched to the shape of the scores."""
    return None if bias is None else backend.array_module(q).broadcast_to(bias, (*q.shape[:-1], k.shape[-2]))


# ---- Arguments that do not fit -------------------------------------------------------------------------------------------------------


def floats(who: str, name: str, x: Any) -> Any:
    """x, which must be an array of floating-point numbers."""
    if not hasattr(single(who, x), "shape") or np.dtype(x.dtype).kind != "f":
        raise ArgumentError(message(f"{who}: {name} is {describe(raw(x))}", expected="an array of floating-point numbers"))
    return x


def _check_products(who: str, q: Any, k: Any, v: Any) -> None:
    if min(len(x.shape) for x in (q, k, v)) < 2 or q.shape[-1] != k.shape[-1] or k.shape[-2] != v.shape[-2]:
        got = ", ".join(f"{name} {describe(raw(x))}" for name, x in (("query", q), ("key", k), ("value", v)))
        raise ShapeError(
            message(f"{who}: the shapes do not fit", expected="query (..., T, K), key (..., S, K), value (..., S, V)", got=got)
        )


def check_mask(who: str, bias: Any, shape: tuple[int, ...]) -> None:
    """Raise unless the mask broadcasts to the shape of the scores."""
    if bias is None:
        return
    own = tuple(bias.shape)
    if len(own) > len(shape) or any(n not in (1, m) for n, m in zip(reversed(own), reversed(shape), strict=False)):
        raise ShapeError(
            message(f"{who} {own} does not fit", expected=f"a shape that broadcasts to {shape}, (..., queries, positions)")
        )
