"""Transformers: PyTorch's numbers and names, causality to the last bit, caches for generation, stacks, and what wrong calls say."""

from __future__ import annotations

import numpy as np
import pytest

import tinygrad_seq as tg
from tinygrad_seq import nn
from tinygrad_seq.errors import ArgumentError, ShapeError
from tinygrad_seq.nn import functional as F

rng = np.random.default_rng(0)
CAUSAL = np.triu(np.ones((5, 5), bool), 1)


def draw(*shape):
    return rng.standard_normal(shape)


SETTINGS = {
    "plain": {},
    "norm_first": {"norm_first": True},
    "gelu, batch_first": {"activation": "gelu", "batch_first": True},
    "norm_first, batch_first, without bias": {"norm_first": True, "batch_first": True, "bias": False},
    "another eps": {"layer_norm_eps": 0.1},
}
MASKS = {
    "no mask": {},
    "causal": {"mask": CAUSAL, "is_causal": True},
    "numbers": {"mask": draw(5, 5)},
    "per head": {"mask": draw(6, 5, 5) > 0.5},
    "padding": {"padding": np.arange(5) >= np.array([[5], [2], [4]])},
    "both": {"mask": CAUSAL, "padding": np.arange(5) >= np.array([[5], [2], [4]])},
}
MASKS["per head"]["mask"][..., 0] = False
each_setting = pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
each_mask = pytest.mark.parametrize("masks", MASKS.values(), ids=MASKS)
each_dtype = pytest.mark.parametrize("dtype", ["float64", "float32"])


def sequence(settings, T=5, B=3):
    return draw(*((B, T) if settings.get("batch_first") else (T, B)), 8)


def randomly(layer):
    """The layer with norms and biases that are neither 0 nor 1."""
    for p in layer.parameters():
        if p.ndim == 1:
            nn.init.normal_(p, 0.5, rng=1)
    return layer


# ---- Against PyTorch -------------------------------------------------------------------------------------------------------------------


@pytest.mark.torch
@each_dtype
@each_mask
@each_setting
def test_the_encoder_layer_equals_pytorchs(settings, masks, dtype):
    torch = pytest.importorskip("torch")
    from torch_peer import module_agrees

    ours, theirs = (module.TransformerEncoderLayer(8, 2, 16, 0.0, **settings) for module in (nn, torch.nn))
    names = {"mask": "src_mask", "padding": "src_key_padding_mask"}
    call = {names.get(name, name): m for name, m in masks.items()}
    module_agrees(randomly(ours), theirs, sequence(settings), dtype=dtype, call=call)


@pytest.mark.torch
@each_dtype
@each_mask
@each_setting
def test_the_decoder_layer_equals_pytorchs(settings, masks, dtype):
    torch = pytest.importorskip("torch")
    from torch_peer import module_agrees

    ours, theirs = (module.TransformerDecoderLayer(8, 2, 16, 0.0, **settings) for module in (nn, torch.nn))
    names = {"mask": "tgt_mask", "padding": "tgt_key_padding_mask", "is_causal": "tgt_is_causal"}
    call = {names[name]: m for name, m in masks.items()}
    seen = {"memory_key_padding_mask": np.arange(7) >= np.array([[3], [7], [4]])} if "padding" in masks else {}
    module_agrees(randomly(ours), theirs, sequence(settings), sequence(settings, T=7), dtype=dtype, call=call | seen)


@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
@pytest.mark.torch
@each_dtype
@pytest.mark.parametrize("norm", [True, False])
def test_stacks_equal_pytorchs(norm, dtype):
    torch = pytest.importorskip("torch")
    from torch_peer import module_agrees

    def stacks(module):
        encoder = module.TransformerEncoderLayer(8, 2, 16, 0.0)
        decoder = module.TransformerDecoderLayer(8, 2, 16, 0.0, norm_first=True)
        return (
            module.TransformerEncoder(encoder, 2, module.LayerNorm(8) if norm else None),
            module.TransformerDecoder(decoder, 2, module.LayerNorm(8) if norm else None),
        )

    (encoder, decoder), (their_encoder, their_decoder) = stacks(nn), stacks(torch.nn)
    padding = np.arange(5) >= np.array([[5], [2], [4]])
    module_agrees(randomly(encoder), their_encoder, draw(5, 3, 8), dtype=dtype, call={"src_key_padding_mask": padding})
    module_agrees(randomly(decoder), their_decoder, draw(5, 3, 8), draw(7, 3, 8), dtype=dtype, call={"tgt_mask": CAUSAL})


@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
@pytest.mark.torch
@each_dtype
def test_the_whole_transformer_equals_pytorchs(dtype):
    torch = pytest.importorskip("torch")
    from torch_peer import module_agrees

    ours, theirs = (module.Transformer(8, 2, 2, 1, 16, 0.0, batch_first=True) for module in (nn, torch.nn))
    call = {"tgt_mask": CAUSAL, "src_key_padding_mask": np.arange(7) >= np.array([[3], [7], [4]])}
    module_agrees(randomly(ours), theirs, draw(3, 7, 8), draw(3, 5, 8), dtype=dtype, call=call)


@pytest.mark.torch
def test_an_unbatched_sequence_equals_pytorchs():
    torch = pytest.importorskip("torch")
    from torch_peer import module_agrees

    for batch_first in (True, False):
        ours, theirs = (module.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=batch_first) for module in (nn, torch.nn))
        module_agrees(ours, theirs, draw(5, 8), call={"src_mask": CAUSAL})
        ours, theirs = (module.TransformerDecoderLayer(8, 2, 16, 0.0, batch_first=batch_first) for module in (nn, torch.nn))
        module_agrees(ours, theirs, draw(5, 8), draw(7, 8), call={"tgt_mask": CAUSAL})


@pytest.mark.torch
@pytest.mark.parametrize("settings", [{}, {"activation": "gelu", "norm_first": True}])
def test_second_derivatives_equal_pytorchs(settings):
    torch = pytest.importorskip("torch")
    ours = randomly(nn.TransformerEncoderLayer(6, 2, 7, 0.0, **({"activation": "gelu"} | settings), dtype="float64"))
    theirs = torch.nn.TransformerEncoderLayer(6, 2, 7, 0.0, **({"activation": "gelu"} | settings)).double()
    theirs.load_state_dict({name: torch.tensor(a) for name, a in ours.state_dict().items()})
    x, w, v = draw(4, 2, 6), draw(4, 2, 6), draw(4, 2, 6)
    a, b = tg.tensor(x, requires_grad=True), torch.tensor(x, requires_grad=True)
    g = tg.grad((ours(a) * w).sum(), a, create_graph=True)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        (h,) = torch.autograd.grad((theirs(b) * torch.tensor(w)).sum(), b, create_graph=True)
    mine = tg.grad((g * v).sum(), [a, *ours.parameters()], allow_unused=True)
    others = torch.autograd.grad((h * torch.tensor(v)).sum(), [b, *theirs.parameters()], allow_unused=True)
    for p, q in zip(mine, others, strict=True):
        p, q = (np.zeros(1) if found is None else found.numpy() for found in (p, q))
        np.testing.assert_allclose(p, np.broadcast_to(q, p.shape), rtol=1e-8, atol=1e-9 * max(1, np.abs(q).max()))


@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
@pytest.mark.torch
def test_parameters_start_as_pytorchs_do():
    torch = pytest.importorskip("torch")
    ours, theirs = (module.Transformer(64, 4, 1, 1, 128).state_dict() for module in (nn, torch.nn))
    assert list(ours) == list(theirs)
    for name, a in ours.items():
        np.testing.assert_allclose(np.abs(a).max(), np.abs(theirs[name].numpy()).max(), rtol=0.1, err_msg=name)


# ---- Causality, order, generation --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm_first", [True, False])
def test_what_comes_later_changes_causal_outputs_by_exactly_nothing(norm_first):
    layer = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 4, 32, 0.0, norm_first=norm_first), 2)
    xs = draw(40, 2, 16).astype("float32")
    later = xs.copy()
    later[20:] = 50 * draw(20, 2, 16)
    a, b = layer(xs, is_causal=True).numpy(), layer(later, is_causal=True).numpy()
    np.testing.assert_array_equal(a[:20], b[:20])
    assert np.any(a[20:] != b[20:])


def test_units_without_recurrence_compute_all_times_at_once():
    layer, xs = nn.TransformerEncoderLayer(8, 2, 16, 0.0, dtype="float64"), draw(5, 3, 8)
    one_by_one = np.stack([layer._feed_forward(x).numpy() for x in xs])
    np.testing.assert_allclose(layer._feed_forward(xs).numpy(), one_by_one, rtol=1e-12, atol=1e-14)


def test_an_encoder_without_positions_does_not_know_the_order():
    layer = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, 0.0, dtype="float64"), 2)
    xs, order = draw(6, 2, 8), rng.permutation(6)
    np.testing.assert_allclose(layer(xs[order]).numpy(), layer(xs).numpy()[order], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("pieces", [[1] * 6, [2, 1, 3]])
def test_an_encoder_generates_as_it_reads(batch_first, pieces):
    layer = nn.TransformerEncoderLayer(8, 2, 16, 0.0, norm_first=True, batch_first=batch_first, dtype="float64")
    stack = randomly(nn.TransformerEncoder(layer, 2, nn.LayerNorm(8, dtype="float64")))
    axis, xs = int(batch_first), draw(*((3, 6) if batch_first else (6, 3)), 8)
    ys, cache, start = [], stack.initial_cache(3), 0
    for n in pieces:
        y, cache = stack(np.take(xs, range(start, start + n), axis), is_causal=True, cache=cache)
        ys.append(y.numpy())
        start += n
    np.testing.assert_allclose(np.concatenate(ys, axis), stack(xs, is_causal=True).numpy(), rtol=1e-12, atol=1e-12)


def test_a_decoder_generates_as_it_reads():
    stack = randomly(nn.TransformerDecoder(nn.TransformerDecoderLayer(8, 2, 16, 0.0, dtype="float64"), 2))
    xs, memory = draw(6, 3, 8), draw(4, 3, 8)
    padding = np.arange(4) >= np.array([[4], [2], [3]])
    ys, cache = [], stack.initial_cache(3)
    for t in range(6):
        seen = memory if t == 0 else None  # projected once, not read again
        y, cache = stack(xs[t : t + 1], seen, tgt_is_causal=True, memory_key_padding_mask=padding, cache=cache)
        ys.append(y.numpy())
    whole = stack(xs, memory, tgt_is_causal=True, memory_key_padding_mask=padding)
    np.testing.assert_allclose(np.concatenate(ys), whole.numpy(), rtol=1e-12, atol=1e-12)


def test_padding_gets_no_gradient_and_a_batch_is_the_sum_of_its_sequences():
    layer = randomly(nn.TransformerEncoderLayer(8, 2, 16, 0.0, dtype="float64"))
    lengths, w = [5, 2, 4], draw(5, 3, 8)
    there = np.arange(5)[:, None] < lengths
    x = tg.tensor(draw(5, 3, 8), requires_grad=True)
    loss = (layer(x, src_key_padding_mask=~there.T) * w * there[..., None]).sum()
    found = tg.grad(loss, [x, *layer.parameters()])
    assert not found[0].numpy()[~there].any()
    total = [np.zeros(p.shape) for p in layer.parameters()]
    for b, n in enumerate(lengths):
        one = tg.grad((layer(x[:n, b]) * w[:n, b]).sum(), list(layer.parameters()))
        total = [t + g.numpy() for t, g in zip(total, one, strict=True)]
    for t, g in zip(total, found[1:], strict=True):
        np.testing.assert_allclose(g.numpy(), t, rtol=1e-10, atol=1e-12)


# ---- Stacks, dropout, libraries ----------------------------------------------------------------------------------------------------------


def test_layers_of_a_stack_start_equal_and_share_their_random_numbers_not_their_weights():
    stack = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, 0.5, rng=0), 2)
    first, second = stack.layers
    np.testing.assert_array_equal(first.linear1.weight.numpy(), second.linear1.weight.numpy())
    assert first.linear1.weight is not second.linear1.weight
    assert first.dropout.rng is second.dropout.rng is first.self_attn.rng and first.dropout.rng is not None
    x = np.ones((100,), "float32")
    assert np.any(np.asarray(first.dropout(x)) != np.asarray(second.dropout(x)))


def test_dropout_is_repeatable_and_ends_with_training():
    x = draw(5, 3, 8).astype("float32")
    one, other = (nn.TransformerEncoderLayer(8, 2, 16, 0.3, rng=7) for _ in range(2))
    np.testing.assert_array_equal(one(x).numpy(), other(x).numpy())
    assert np.any(one(x).numpy() != one(x).numpy())
    one.eval()
    np.testing.assert_array_equal(one(x).numpy(), one(x).numpy())


def test_transformers_on_every_library(xp):
    results = []
    for library in (np, xp):
        model = nn.Transformer(8, 2, 1, 1, 16, 0.1, rng=0)
        model.to(tg.backend.device_of(library.zeros(1)))
        draws = np.random.default_rng(3)
        src, tgt = (
            tg.Tensor(library.asarray(draws.standard_normal((n, 2, 8)).astype("float32")), requires_grad=True) for n in (4, 5)
        )
        y = model(src, tgt, tgt_is_causal=True, src_key_padding_mask=np.array([[False] * 4, [False, False, True, True]]))
        (y * y * y).sum().backward()
        assert y.dtype == src.grad.dtype == np.float32
        results.append([tg.backend.to_numpy(t._data) for t in (y, src.grad, tgt.grad, *(p.grad for p in model.parameters()))])
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


def test_the_square_mask_is_the_causal_one():
    mask = nn.Transformer.generate_square_subsequent_mask(4)
    np.testing.assert_array_equal(mask == 0, np.tril(np.ones((4, 4), bool)))
    layer, x = nn.TransformerEncoderLayer(8, 2, 16, 0.0), draw(4, 2, 8).astype("float32")
    np.testing.assert_array_equal(layer(x, mask).numpy(), layer(x, is_causal=True).numpy())


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: nn.TransformerEncoderLayer(8, 3), ArgumentError, "does not split into 3 heads"),
        (lambda: nn.TransformerEncoderLayer(8, 2, activation="swish"), ArgumentError, "'relu' or 'gelu', or a function"),
        (lambda: nn.TransformerEncoder("layer", 2), ArgumentError, r"nn\.TransformerEncoderLayer"),
        (lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2), 0), ArgumentError, "num_layers = 0"),
        (lambda: nn.TransformerEncoderLayer(8, 2)(draw(4, 2, 7)), ShapeError, r"query \(T, B, 8\)"),
    ],
)
def test_wrong_calls_say_what_was_expected(call, error, says):
    with pytest.raises(error, match=says):
        call()


def test_any_function_serves_as_activation():
    layer = nn.TransformerEncoderLayer(8, 2, 16, 0.0, activation=tg.tanh)
    x = draw(4, 2, 8).astype("float32")
    hidden = F.linear(x, layer.linear1.weight, layer.linear1.bias)
    np.testing.assert_array_equal(layer._feed_forward(x).numpy(), layer.linear2(tg.tanh(hidden)).numpy())
