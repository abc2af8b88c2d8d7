"""Transformers (Vaswani et al. 2017): layers of attention and a network for each position alone, each around a shortcut.

    norm_first=False:  x <- norm(x + f(x))          norm_first=True:  x <- x + f(norm(x))

Names, layouts and starting values are PyTorch's.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ..errors import ArgumentError, describe, message
from ..graph import raw
from ..random import Rng, generator
from . import functional as F
from . import init
from .attention import MultiheadAttention
from .dropout import Dropout
from .functional.attention import KeyValueCache
from .linear import Linear
from .module import Module
from .norm import LayerNorm

Activation = str | Callable[[Any], Any]
ACTIVATIONS = {"relu": F.relu, "gelu": F.gelu}


class DecoderCache(NamedTuple):
    """What generation keeps in a decoder layer: of its own past, and of the memory that it looks at (None before the first call)."""

    past: KeyValueCache
    memory: KeyValueCache | None


class TransformerEncoderLayer(Module):
    """Self-attention, then a network for each position: linear2(activation(linear1(x))).

    Used causally (is_causal=True) it is the layer of a GPT.
    """

    def __init__(
        self,
        d_model: int,
        nhead: int,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: Activation = "relu",
        layer_norm_eps: float = 1e-5,
        batch_first: bool = False,
        norm_first: bool = False,
        bias: bool = True,
        *,
        rng: Rng = None,
        dtype: Any = "float32",
    ):
        draw, own = generator(rng), None if rng is None else generator(rng)
        self.norm_first, self.activation = norm_first, _activation("TransformerEncoderLayer", activation)
        self.self_attn = MultiheadAttention(d_model, nhead, dropout, bias, batch_first=batch_first, rng=draw, dtype=dtype)
        self.self_attn.rng = own
        self.linear1 = Linear(d_model, dim_feedforward, bias, rng=draw, dtype=dtype)
        self.dropout = Dropout(dropout, rng=own)
        self.linear2 = Linear(dim_feedforward, d_model, bias, rng=draw, dtype=dtype)
        self.norm1 = LayerNorm(d_model, layer_norm_eps, bias=bias, dtype=dtype)
        self.norm2 = LayerNorm(d_model, layer_norm_eps, bias=bias, dtype=dtype)
        self.dropout1 = Dropout(dropout, rng=own)
        self.dropout2 = Dropout(dropout, rng=own)

    def forward(
        self,
        src: Any,
        src_mask: Any = None,
        src_key_padding_mask: Any = None,
        is_causal: bool = False,
        *,
        cache: KeyValueCache | None = None,
    ) -> Any:
        """src (T, B, E), (B, T, E) with batch_first, or (T, E) -> the same shape. Masks and is_causal: as in `MultiheadAttention`.

        cache: what an earlier call returned (at first `initial_cache`), for generation; then (output, cache) is returned.
        """
        after = None

        def attend(x: Any) -> Any:
            nonlocal after
            y, after = _attend(self.self_attn, x, x, src_key_padding_mask, src_mask, is_causal, cache)
            return self.dropout1(y)

        x = _around(src, attend, self.norm1, self.norm_first)
        x = _around(x, self._feed_forward, self.norm2, self.norm_first)
        return x if cache is None else (x, after)

    def _feed_forward(self, x: Any) -> Any:
        return self.dropout2(self.linear2(self.dropout(self.activation(self.linear1(x)))))

    def initial_cache(self, batch: int) -> KeyValueCache:
        """The cache of no past, for a batch of that many rows."""
        return self.self_attn.initial_cache(batch)


class TransformerDecoderLayer(Module):
    """Self-attention, attention to the memory of an encoder, then a network for each position: linear2(activation(linear1(x)))."""

    def __init__(
        self,
        d_model: int,
        nhead: int,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: Activation = "relu",
        layer_norm_eps: float = 1e-5,
        batch_first: bool = False,
        norm_first: bool = False,
        bias: bool = True,
        *,
        rng: Rng = None,
        dtype: Any = "float32",
    ):
        draw, own = generator(rng), None if rng is None else generator(rng)
        self.norm_first, self.activation = norm_first, _activation("TransformerDecoderLayer", activation)
        self.self_attn = MultiheadAttention(d_model, nhead, dropout, bias, batch_first=batch_first, rng=draw, dtype=dtype)
        self.multihead_attn = MultiheadAttention(d_model, nhead, dropout, bias, batch_first=batch_first, rng=draw, dtype=dtype)
        self.self_attn.rng = self.multihead_attn.rng = own
        self.linear1 = Linear(d_model, dim_feedforward, bias, rng=draw, dtype=dtype)
        self.dropout = Dropout(dropout, rng=own)
        self.linear2 = Linear(dim_feedforward, d_model, bias, rng=draw, dtype=dtype)
        self.norm1 = LayerNorm(d_model, layer_norm_eps, bias=bias, dtype=dtype)
        self.norm2 = LayerNorm(d_model, layer_norm_eps, bias=bias, dtype=dtype)
        self.norm3 = LayerNorm(d_model, layer_norm_eps, bias=bias, dtype=dtype)
        self.dropout1 = Dropout(dropout, rng=own)
        self.dropout2 = Dropout(dropout, rng=own)
        self.dropout3 = Dropout(dropout, rng=own)

    def forward(
        self,
        tgt: Any,
        memory: Any,
        tgt_mask: Any = None,
        memory_mask: Any = None,
        tgt_key_padding_mask: Any = None,
        memory_key_padding_mask: Any = None,
        tgt_is_causal: bool = False,
        memory_is_causal: bool = False,
        *,
        cache: DecoderCache | None = None,
    ) -> Any:
        """tgt (T, B, E), memory (S, B, E), or batch first, or without -> like tgt. Masks and is_causal: as in `MultiheadAttention`.

        cache: what an earlier call returned (at first `initial_cache`), for generation; then (output, cache) is returned. The memory
        is projected in the first call and not read again.
        """
        past = None

        def attend(x: Any) -> Any:
            nonlocal past
            own = None if cache is None else cache.past
            y, past = _attend(self.self_attn, x, x, tgt_key_padding_mask, tgt_mask, tgt_is_causal, own)
            return self.dropout1(y)

        seen = None
        if cache is not None:
            seen = self.multihead_attn.keys_and_values(memory, memory) if cache.memory is None else cache.memory

        def look(x: Any) -> Any:
            source = memory if seen is None else None
            y, _ = _attend(self.multihead_attn, x, source, memory_key_padding_mask, memory_mask, memory_is_causal, seen)
            return self.dropout2(y)

        x = _around(tgt, attend, self.norm1, self.norm_first)
        x = _around(x, look, self.norm2, self.norm_first)
        x = _around(x, self._feed_forward, self.norm3, self.norm_first)
        return x if past is None else (x, DecoderCache(past, seen))

    def _feed_forward(self, x: Any) -> Any:
        return self.dropout3(self.linear2(self.dropout(self.activation(self.linear1(x)))))

    def initial_cache(self, batch: int) -> DecoderCache:
        """The cache of no past, for a batch of that many rows."""
        return DecoderCache(self.self_attn.initial_cache(batch), None)


class TransformerEncoder(Module):
    """A stack of `num_layers` copies of a layer, which start equal, as in PyTorch; `norm` stands after the last one."""

    def __init__(self, encoder_layer: Module, num_layers: int, norm: Module | None = None):
        self.layers = _copies("TransformerEncoder", encoder_layer, num_layers)
        self.num_layers, self.norm = num_layers, norm

    def forward(
        self, src: Any, mask: Any = None, src_key_padding_mask: Any = None, is_causal: bool = False, *, cache: Any = None
    ) -> Any:
        """src -> the same shape; masks, is_causal and cache (one for each layer) go to every layer."""
        return _through(self, src, (), (mask, src_key_padding_mask, is_causal), cache)

    def initial_cache(self, batch: int) -> tuple[Any, ...]:
        """The cache of no past, for a batch of that many rows."""
        return tuple(layer.initial_cache(batch) for layer in self.layers)


class TransformerDecoder(Module):
    """A stack of `num_layers` copies of a layer, which start equal, as in PyTorch; `norm` stands after the last one."""

    def __init__(self, decoder_layer: Module, num_layers: int, norm: Module | None = None):
        self.layers = _copies("TransformerDecoder", decoder_layer, num_layers)
        self.num_layers, self.norm = num_layers, norm

    def forward(
        self,
        tgt: Any,
        memory: Any,
        tgt_mask: Any = None,
        memory_mask: Any = None,
        tgt_key_padding_mask: Any = None,
        memory_key_padding_mask: Any = None,
        tgt_is_causal: bool = False,
        memory_is_causal: bool = False,
        *,
        cache: Any = None,
    ) -> Any:
        """tgt, memory -> like tgt; masks, flags and cache (one for each layer) go to every layer."""
        masks = (tgt_mask, memory_mask, tgt_key_padding_mask, memory_key_padding_mask, tgt_is_causal, memory_is_causal)
        return _through(self, tgt, (memory,), masks, cache)

    def initial_cache(self, batch: int) -> tuple[Any, ...]:
        """The cache of no past, for a batch of that many rows."""
        return tuple(layer.initial_cache(batch) for layer in self.layers)


class Transformer(Module):
    """An encoder and a decoder that looks at what the encoder made of the source. Matrices start xavier_uniform, as in PyTorch."""

    def __init__(
        self,
        d_model: int = 512,
        nhead: int = 8,
        num_encoder_layers: int = 6,
        num_decoder_layers: int = 6,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: Activation = "relu",
        custom_encoder: Module | None = None,
        custom_decoder: Module | None = None,
        layer_norm_eps: float = 1e-5,
        batch_first: bool = False,
        norm_first: bool = False,
        bias: bool = True,
        *,
        rng: Rng = None,
        dtype: Any = "float32",
    ):
        rng = None if rng is None else generator(rng)
        sizes = (d_model, nhead, dim_feedforward, dropout, activation, layer_norm_eps, batch_first, norm_first, bias)

        def norm() -> LayerNorm:
            return LayerNorm(d_model, layer_norm_eps, bias=bias, dtype=dtype)

        self.encoder = custom_encoder or TransformerEncoder(
            TransformerEncoderLayer(*sizes, rng=rng, dtype=dtype), num_encoder_layers, norm()
        )
        self.decoder = custom_decoder or TransformerDecoder(
            TransformerDecoderLayer(*sizes, rng=rng, dtype=dtype), num_decoder_layers, norm()
        )
        for p in self.parameters():
            if p.ndim > 1:
                init.xavier_uniform_(p, rng=rng)
        self.d_model, self.nhead, self.batch_first = d_model, nhead, batch_first

    def forward(
        self,
        src: Any,
        tgt: Any,
        src_mask: Any = None,
        tgt_mask: Any = None,
        memory_mask: Any = None,
        src_key_padding_mask: Any = None,
        tgt_key_padding_mask: Any = None,
        memory_key_padding_mask: Any = None,
        src_is_causal: bool = False,
        tgt_is_causal: bool = False,
        memory_is_causal: bool = False,
    ) -> Any:
        """src (S, B, E), tgt (T, B, E), or batch first, or without -> like tgt."""
        memory = self.encoder(src, src_mask, src_key_padding_mask, src_is_causal)
        masks = (tgt_mask, memory_mask, tgt_key_padding_mask, memory_key_padding_mask, tgt_is_causal, memory_is_causal)
        return self.decoder(tgt, memory, *masks)

    @staticmethod
    def generate_square_subsequent_mask(sz: int, *, dtype: Any = "float32") -> Any:
        """The causal mask (T, T) to add to scores: 0 where a query may look, -inf where the key comes later."""
        return np.triu(np.full((sz, sz), -np.inf, dtype), 1)


# ---- What they share -------------------------------------------------------------------------------------------------------------------


def _around(x: Any, f: Callable[[Any], Any], norm: Module, norm_first: bool) -> Any:
    """The shortcut around f, and the norm before or after."""
    return x + f(norm(x)) if norm_first else norm(x + f(x))


def _attend(attention: Any, x: Any, source: Any, padding: Any, mask: Any, is_causal: bool, cache: Any) -> tuple[Any, Any]:
    """Attention from x to the source, without the weights; and the cache that comes out."""
    out = attention(x, source, source, padding, need_weights=False, attn_mask=mask, is_causal=is_causal, cache=cache)
    return out[0], None if cache is None else out[2]


def _through(stack: Any, x: Any, memory: tuple[Any, ...], masks: tuple[Any, ...], cache: Any) -> Any:
    """x through all layers, and the final norm; with a cache for each layer, (x, caches)."""
    caches = []
    for i, layer in enumerate(stack.layers):
        if cache is None:
            x = layer(x, *memory, *masks)
        else:
            x, after = layer(x, *memory, *masks, cache=cache[i])
            caches.append(after)
    x = x if stack.norm is None else stack.norm(x)
    return x if cache is None else (x, tuple(caches))


def _copies(who: str, layer: Any, count: int) -> list[Any]:
    if not isinstance(layer, Module):
        raise ArgumentError(
            message(f"{who}: {describe(raw(layer))} is no module", expected=f"a layer, for example nn.{who}Layer(64, 4)")
        )
    init.check_sizes(who, num_layers=count)
    generators = [vars(m).get("rng") for m in layer.modules()]
    shared = {id(rng): rng for rng in generators}  # copies of one would all draw the same
    return [copy.deepcopy(layer, dict(shared)) for _ in range(count)]


def _activation(who: str, activation: Any) -> Callable[[Any], Any]:
    if not callable(activation) and activation not in ACTIVATIONS:
        expected = f"{' or '.join(map(repr, ACTIVATIONS))}, or a function"
        raise ArgumentError(message(f"{who}: activation {activation!r} is not known", expected=expected))
    function: Callable[[Any], Any] = ACTIVATIONS.get(activation, activation)
    return function
