"""Attention: the claims of the lecture notes (J2-J6), PyTorch's numbers, masks of all kinds, caches, and what wrong calls say."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_seq as tg
from tinygrad_seq import nn
from tinygrad_seq.errors import ArgumentError, ShapeError
from tinygrad_seq.nn import functional as F
from tinygrad_seq.nn.functional import scaled_dot_product
from tinygrad_seq.nn.functional.attention import KeyValueCache
from tinygrad_seq.nn.functional.scaled_dot_product import causal_mask
from tinygrad_seq.testing import check_grads

rng = np.random.default_rng(0)


def draw(*shape):
    return rng.standard_normal(shape)


def by_loops(q, k, v, allowed=None):
    """Attention by one loop over queries and one over positions."""
    y = np.zeros((len(q), v.shape[1]))
    for t in range(len(q)):
        seen = [s for s in range(len(k)) if allowed is None or allowed[t, s]]
        scores = [sum(q[t, i] * k[s, i] for i in range(q.shape[1])) / math.sqrt(q.shape[1]) for s in seen]
        total = sum(math.exp(score) for score in scores)
        for s, score in zip(seen, scores, strict=True):
            y[t] += math.exp(score) / total * v[s]
    return y


# ---- The formula (J2, J3, J4) --------------------------------------------------------------------------------------------------------


def test_attention_equals_a_double_loop():
    q, k, v = draw(5, 3), draw(7, 3), draw(7, 4)
    np.testing.assert_allclose(F.scaled_dot_product_attention(q, k, v), by_loops(q, k, v), rtol=1e-12)
    mask = rng.random((5, 7)) < 0.6
    mask[:, 2] = True
    np.testing.assert_allclose(F.scaled_dot_product_attention(q, k, v, mask), by_loops(q, k, v, mask), rtol=1e-12)
    causal = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    np.testing.assert_allclose(causal, by_loops(q, k, v, np.arange(7) <= np.arange(5)[:, None]), rtol=1e-12)


def test_permuting_keys_and_values_together_changes_nothing():
    q, k, v = draw(5, 3), draw(7, 3), draw(7, 4)
    order = rng.permutation(7)
    y = F.scaled_dot_product_attention(q, k[order], v[order])
    np.testing.assert_allclose(y, F.scaled_dot_product_attention(q, k, v), rtol=1e-13)


def test_what_comes_later_changes_causal_outputs_by_exactly_nothing():
    layer = nn.MultiheadAttention(16, 4)
    xs = draw(40, 2, 16).astype("float32")
    later = xs.copy()
    later[20:] = 100 * draw(20, 2, 16)
    for need_weights in (True, False):
        ys, edited = (layer(x, x, x, need_weights=need_weights, is_causal=True)[0].numpy() for x in (xs, later))
        np.testing.assert_array_equal(ys[:20], edited[:20])
        assert not np.any(ys[20:] == edited[20:])


def test_the_notes_slip_would_mask_past_and_self():
    """The notes mask s >= t with s the query; the query at t then sees only what comes later. The correct mask is key > query."""
    seen = causal_mask(4, 4)
    np.testing.assert_array_equal(seen, np.tril(np.ones((4, 4))))
    query, key = np.arange(4)[:, None], np.arange(4)
    assert not np.any(seen & ~(query >= key)) and np.all((query >= key) == seen)


def test_a_query_that_may_look_nowhere_gets_zero_and_gives_zero():
    q, k, v = (tg.tensor(draw(2, 3, 4), requires_grad=True) for _ in range(3))
    mask = np.array([[True, True, False], [False, False, False], [True, False, False]])
    for learned in (False, True):
        bias = tg.tensor(np.where(mask, 0.0, -np.inf), requires_grad=True) if learned else mask
        y = F.scaled_dot_product_attention(q, k, v, bias)
        assert np.all(y.numpy()[:, 1] == 0) and np.all(y.numpy()[:, 0] != 0)
        gradients = tg.grad(y.sum(), [q, k, v])
        assert all(np.isfinite(g.numpy()).all() for g in gradients)
        assert np.all(gradients[0].numpy()[:, 1] == 0) and np.all(gradients[2].numpy()[:, 2] == 0)


def test_scores_of_any_size():
    for size in (1e-3, 1.0, 1e3, 1e5):
        q, k, v = (size * draw(5, 3)).astype("float32"), draw(7, 3).astype("float32"), draw(7, 4).astype("float32")
        for mask in (None, np.full((5, 7), 1e4, "float32"), np.full((5, 7), -1e4, "float32"), causal_mask(5, 7)):
            y = F.scaled_dot_product_attention(q, k, v, mask)
            scores = q.astype("float64") @ k.T.astype("float64") / math.sqrt(3)
            if mask is not None:
                scores = np.where(mask, scores, -np.inf) if mask.dtype == bool else scores + mask
            w = np.exp(scores - scores.max(-1, keepdims=True))
            np.testing.assert_allclose(y, w / w.sum(-1, keepdims=True) @ v, rtol=2e-2 if size == 1e5 else 2e-3, atol=1e-3)
            assert y.dtype == np.float32


def test_masks_may_be_tensors_arrays_and_lists():
    layer, x = nn.MultiheadAttention(4, 2, dtype="float64"), draw(3, 2, 4)
    padding, mask = np.array([[False, False, True], [False, True, True]]), np.triu(np.ones((3, 3), bool), 1)
    expected = layer(x, x, x, padding, attn_mask=mask)[0].numpy()
    for form in (tg.tensor, np.ndarray.tolist, lambda m: np.where(m, -np.inf, 0.0), lambda m: tg.tensor(np.where(m, -np.inf, 0.0))):
        np.testing.assert_allclose(layer(x, x, x, form(padding), attn_mask=form(mask))[0].numpy(), expected, rtol=1e-12)
        np.testing.assert_allclose(layer(x, x, x, padding, attn_mask=form(mask))[0].numpy(), expected, rtol=1e-12)
    np.testing.assert_array_equal(
        F.scaled_dot_product_attention(x, x, x, tg.tensor(~mask[:2, :2])), F.scaled_dot_product_attention(x, x, x, ~mask[:2, :2])
    )


def test_memory_grows_with_the_length_not_with_its_square():
    def peak(T):
        q = tg.tensor(draw(2, T, 8).astype("float32"), requires_grad=True)
        tracemalloc.start()
        F.scaled_dot_product_attention(q, q, q).sum().backward()
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size

    assert peak(2048) < 2.5 * peak(1024) and peak(2048) < 2 * 2048**2  # bytes; the weights would be 8 * 2048**2


# ---- The kernels -----------------------------------------------------------------------------------------------------------------------

CASES = {
    "no mask": (None, False),
    "causal": (None, True),
    "booleans": (np.array([[1, 1, 0, 1, 1], [0, 0, 0, 0, 0], [1, 0, 0, 0, 0], [1, 1, 1, 1, 1]], bool), False),
    "numbers": (draw(2, 1, 4, 5), False),
    "large numbers": (100 * draw(3, 4, 5), True),
}


@pytest.mark.parametrize("case", CASES)
def test_the_kernel_equals_its_equation_to_second_order(case):
    mask, causal = CASES[case]
    q, k, v = draw(2, 3, 4, 6), draw(2, 3, 5, 6), draw(2, 3, 5, 7)

    def f(q, k, v):
        return F.scaled_dot_product_attention(q, k, v, mask, is_causal=causal)

    with tg.unfolded():
        equation = f(q, k, v)
    np.testing.assert_allclose(f(q, k, v), equation, rtol=1e-12, atol=1e-13)
    check_grads(f, [q, k, v])


@pytest.mark.parametrize("batch_first", [True, False])
def test_the_kernel_of_self_attention_equals_its_equation_to_second_order(batch_first):
    layer = nn.MultiheadAttention(6, 2, batch_first=batch_first, dtype="float64")
    x, w, b = draw(3, 4, 6), draw(18, 6), draw(18)

    def f(x, w, b):
        projections = layer._projections()._replace(in_weight=w, in_bias=b)
        return F.multi_head_attention(x, x, x, projections, 2, is_causal=True, batch_first=batch_first)[0]

    fast = f(x, w, b).numpy()
    with tg.unfolded():
        np.testing.assert_allclose(f(x, w, b).numpy(), fast, rtol=1e-12, atol=1e-13)
    check_grads(f, [x, w, b])


@given(st.lists(st.integers(1, 4), max_size=3), st.integers(1, 5), st.integers(1, 5), st.integers(1, 200))
def test_parts_cover_every_score_once(shape, T, S, limit):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scaled_dot_product, "PART", limit)
        patch.setattr(scaled_dot_product, "ROWS", 1)
        q, k = np.zeros((*shape, T, 1)), np.zeros((*shape, S, 1))
        room = scaled_dot_product._scratch(q, k).size
        for stack, rows in scaled_dot_product._parts(q, k):
            q[rows] += 1
            assert q[rows].size * S <= room <= max(limit, S) and k[stack].shape[:-2] == q[rows].shape[:-2]
        assert np.all(q == 1)


def test_in_parts_as_in_one_go(monkeypatch):
    q, k, v = (tg.tensor(draw(3, 4, 5, 2), requires_grad=True) for _ in range(3))

    def run():
        y = F.scaled_dot_product_attention(q, k, v, CASES["numbers"][0][:1, :, :1], is_causal=True)
        return [y, *tg.grad((y * y).sum(), [q, k, v])]

    whole = run()
    for limit in (1, 10, 30, 60, 120):
        monkeypatch.setattr(scaled_dot_product, "PART", limit)
        monkeypatch.setattr(scaled_dot_product, "ROWS", 1)
        for a, b in zip(whole, run(), strict=True):
            np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-12, atol=1e-13)


@given(st.permutations(range(4)))
def test_gradients_do_not_depend_on_how_the_arguments_lie_in_memory(order):
    x = np.random.default_rng(1).standard_normal((2, 3, 4, 5))
    stored = np.ascontiguousarray(x.transpose(order)).transpose(np.argsort(order))
    results = []
    for array in (x, stored):
        a = tg.Tensor(array, requires_grad=True)
        a = tg.transpose(tg.transpose(a, order), tuple(int(i) for i in np.argsort(order)))
        y = F.scaled_dot_product_attention(a, a * 2, a)
        results.append([y.numpy(), tg.grad((y * y).sum(), a).numpy()])
    for one, other in zip(*results, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-13)


# ---- Against PyTorch -------------------------------------------------------------------------------------------------------------------

SHAPES = {
    "one head": ((5, 3), (7, 3), (7, 4)),
    "heads": ((2, 3, 5, 4), (2, 3, 7, 4), (2, 3, 7, 6)),
    "keys for all heads": ((2, 3, 5, 4), (2, 1, 7, 4), (2, 1, 7, 6)),
    "no query": ((2, 0, 4), (2, 7, 4), (2, 7, 4)),
}


@pytest.mark.torch
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("mask", [None, "causal", "booleans", "numbers", "scale"])
@pytest.mark.parametrize("shapes", SHAPES)
def test_scaled_dot_products_equal_pytorchs(shapes, mask, dtype):
    torch = pytest.importorskip("torch")
    from torch_peer import agrees

    q, k, v = (draw(*shape) for shape in SHAPES[shapes])
    T, S = q.shape[-2], k.shape[-2]
    words = {"scale": {"scale": 0.3}, "causal": {"is_causal": True}}.get(mask, {})
    inputs = [q, k, v]
    if mask == "booleans":
        allowed = rng.random((T, S)) < 0.5
        allowed[:, 0] = True
        inputs.append(allowed)
    elif mask == "numbers":
        inputs.append(draw(*q.shape[:-1], S))  # its gradient is compared too
    agrees(F.scaled_dot_product_attention, torch.nn.functional.scaled_dot_product_attention, *inputs, dtype=dtype, call=words)


def masks(B, N, T, S):
    """Masks of PyTorch's meaning that leave every query something to look at."""
    padding = np.arange(S) >= rng.integers(2, S + 1, B)[:, None]
    attention = rng.random((T, S)) < 0.4
    attention[:, :2] = False
    three = rng.random((B * N, T, S)) < 0.4
    three[:, :, :2] = False
    as_numbers = lambda mask: np.where(mask, -np.inf, draw(*mask.shape))  # noqa: E731
    return {
        "none": {},
        "padding": {"key_padding_mask": padding},
        "padding in numbers": {"key_padding_mask": as_numbers(padding)},
        "attention": {"attn_mask": attention},
        "attention in numbers": {"attn_mask": as_numbers(attention)},
        "per head": {"attn_mask": three},
        "both": {"attn_mask": attention, "key_padding_mask": padding},
        "both, per head, in numbers": {"attn_mask": as_numbers(three), "key_padding_mask": as_numbers(padding)},
    }


LAYERS = {
    "plain": ((8, 2), {}),
    "batch_first": ((8, 4), {"batch_first": True}),
    "without bias": ((8, 1), {"bias": False}),
    "kdim and vdim": ((8, 2), {"kdim": 5, "vdim": 6}),
    "vdim, batch_first, without bias": ((8, 2), {"vdim": 6, "bias": False, "batch_first": True}),
}


def sequences(words, B=3, T=4, S=5, E=8):
    shape = (lambda n, e: (B, n, e)) if words.get("batch_first") else (lambda n, e: (n, B, e))
    return draw(*shape(T, E)), draw(*shape(S, words.get("kdim", E))), draw(*shape(S, words.get("vdim", E)))


@pytest.mark.torch
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("mask", masks(1, 1, 2, 2))
@pytest.mark.parametrize("layer", LAYERS)
def test_multihead_attention_equals_pytorchs(layer, mask, dtype):
    torch = pytest.importorskip("torch")
    from torch_peer import module_agrees

    (E, N), words = LAYERS[layer]
    inputs = sequences(words)
    given_masks = masks(3, N, 4, 5)[mask]
    for more in ({}, {"average_attn_weights": False}, {"need_weights": False}):
        ours, theirs = nn.MultiheadAttention(E, N, **words), torch.nn.MultiheadAttention(E, N, **words)
        if ours.in_proj_bias is not None:
            nn.init.normal_(ours.in_proj_bias, rng=1)
        module_agrees(ours, theirs, *inputs, dtype=dtype, call=given_masks | more)


def exchange(ours, theirs, dtype):
    import torch

    ours.to(dtype=dtype)
    theirs.to(getattr(torch, dtype)).load_state_dict({name: torch.tensor(a) for name, a in ours.state_dict().items()})


@pytest.mark.torch
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("causal", [True, False])
def test_self_attention_equals_pytorchs(dtype, batch_first, need_weights, causal):
    torch = pytest.importorskip("torch")
    from torch_peer import agrees

    ours, theirs = (module.MultiheadAttention(8, 2, batch_first=batch_first) for module in (nn, torch.nn))
    exchange(ours, theirs, dtype)
    mask = torch.nn.Transformer.generate_square_subsequent_mask(5).to(getattr(torch, dtype)) if causal else None
    x = draw(5, 5, 8)
    also = [(name, dict(ours.named_parameters())[name], p) for name, p in theirs.named_parameters()]
    agrees(
        lambda x: ours(x, x, x, need_weights=need_weights, is_causal=causal),
        lambda x: theirs(x, x, x, need_weights=need_weights, attn_mask=mask, is_causal=causal),
        x,
        dtype=dtype,
        also=also,
    )


@pytest.mark.torch
@pytest.mark.parametrize("batch_first", [True, False])
def test_unbatched_attention_equals_pytorchs(batch_first):
    torch = pytest.importorskip("torch")
    from torch_peer import module_agrees

    padding, mask = np.array([False, True, False, False, True]), rng.random((2, 4, 5)) < 0.3
    mask[..., 0] = False
    for call in ({}, {"key_padding_mask": padding}, {"attn_mask": mask}, {"need_weights": False}, {"average_attn_weights": False}):
        ours, theirs = (module.MultiheadAttention(8, 2, batch_first=batch_first) for module in (nn, torch.nn))
        module_agrees(ours, theirs, draw(4, 8), draw(5, 8), draw(5, 8), call=call)


@pytest.mark.torch
def test_second_derivatives_equal_pytorchs():
    torch = pytest.importorskip("torch")
    ours, theirs = nn.MultiheadAttention(6, 2), torch.nn.MultiheadAttention(6, 2)
    exchange(ours, theirs, "float64")
    x, w, v = draw(4, 2, 6), draw(4, 2, 6), draw(4, 2, 6)
    mask = np.triu(np.ones((4, 4), bool), 1)
    a, b = tg.tensor(x, requires_grad=True), torch.tensor(x, requires_grad=True)
    g = tg.grad((ours(a, a, a, need_weights=False, attn_mask=mask)[0] * w).sum(), a, create_graph=True)
    y = theirs(b, b, b, need_weights=True, attn_mask=torch.tensor(mask))[0]
    (h,) = torch.autograd.grad((y * torch.tensor(w)).sum(), b, create_graph=True)
    np.testing.assert_allclose(g.numpy(), h.detach().numpy(), rtol=1e-9, atol=1e-11)
    mine = tg.grad((g * v).sum(), [a, *ours.parameters()], allow_unused=True)
    others = torch.autograd.grad((h * torch.tensor(v)).sum(), [b, *theirs.parameters()], allow_unused=True)
    for p, q in zip(mine, others, strict=True):
        p, q = (np.zeros(()) if g is None else g.numpy() for g in (p, q))
        np.testing.assert_allclose(p, np.broadcast_to(q, p.shape), rtol=1e-9, atol=1e-9)


@pytest.mark.torch
def test_parameters_start_as_pytorchs_do():
    torch = pytest.importorskip("torch")
    for words in ({}, {"kdim": 16, "vdim": 32}):
        ours, theirs = (module.MultiheadAttention(64, 4, **words).state_dict() for module in (nn, torch.nn))
        assert list(ours) == list(theirs)
        for name, a in ours.items():
            np.testing.assert_allclose(np.abs(a).max(), np.abs(theirs[name].numpy()).max(), rtol=0.02, err_msg=name)


# ---- Heads (J5, J6) ----------------------------------------------------------------------------------------------------------------------


def test_several_heads_are_single_heads_side_by_side():
    E, N = 12, 3
    K = E // N
    layer = nn.MultiheadAttention(E, N, dtype="float64")
    nn.init.normal_(layer.in_proj_bias, rng=0)
    x = draw(5, 2, E)
    y, weights = layer(x, x, x, average_attn_weights=False)
    w, b = layer.in_proj_weight.numpy(), layer.in_proj_bias.numpy()
    heads = []
    for n in range(N):
        q, k, v = (
            F.linear(x, w[i * E + n * K : i * E + (n + 1) * K], b[i * E + n * K : i * E + (n + 1) * K]).swapaxes(0, 1)
            for i in range(3)
        )
        heads.append(F.scaled_dot_product_attention(q, k, v).swapaxes(0, 1))
        scores = q @ k.swapaxes(-1, -2) / math.sqrt(K)
        np.testing.assert_allclose(weights.numpy()[:, n], F.softmax(scores), rtol=1e-12)
    together = F.linear(np.concatenate(heads, axis=-1), layer.out_proj.weight.numpy(), layer.out_proj.bias.numpy())
    np.testing.assert_allclose(y.numpy(), together, rtol=1e-11, atol=1e-13)


def test_without_positions_attention_does_not_know_the_order_and_with_them_it_does():
    layer = nn.MultiheadAttention(8, 2, dtype="float64")
    x, order = draw(6, 2, 8), rng.permutation(6)
    attend = lambda x: layer(x, x, x, need_weights=False)[0].numpy()  # noqa: E731
    np.testing.assert_allclose(attend(x[order]), attend(x)[order], rtol=1e-12, atol=1e-13)
    positions = nn.SinusoidalPositions(8)
    assert np.abs(attend(positions(x[order])) - attend(positions(x))[order]).max() > 0.01


def test_rows_of_weights_sum_to_one():
    layer = nn.MultiheadAttention(8, 2)
    x = draw(6, 3, 8).astype("float32")
    for average in (True, False):
        _, weights = layer(x, x, x, average_attn_weights=average, is_causal=True)
        np.testing.assert_allclose(weights.numpy().sum(axis=-1), 1, rtol=1e-6)
        assert np.all(np.triu(weights.numpy(), 1) == 0)


# ---- The cache ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [{}, {"batch_first": True}, {"kdim": 8, "vdim": 6}])
@pytest.mark.parametrize("pieces", [[1] * 7, [3, 1, 2, 1], [7]])
def test_generation_step_by_step_equals_the_causal_pass(words, pieces):
    layer = nn.MultiheadAttention(8, 2, dtype="float64", **words)
    axis = 1 if layer.batch_first else 0
    xs, _, vs = sequences(words, T=7, S=7)
    ks = xs if layer.kdim == 8 else None
    whole, _ = layer(xs, ks, vs if layer.vdim != 8 else xs, is_causal=True)
    cache, ys, start = layer.initial_cache(3), [], 0
    for n in pieces:
        part = [np.take(x, range(start, start + n), axis) for x in (xs, ks, vs if layer.vdim != 8 else xs)]
        for need_weights in (True, False):
            y, _, after = layer(*part, is_causal=True, cache=cache, need_weights=need_weights)
        ys.append(y.numpy())
        cache, start = after, start + n
    np.testing.assert_allclose(np.concatenate(ys, axis), whole.numpy(), rtol=1e-12, atol=1e-12)
    assert isinstance(cache, KeyValueCache) and cache.keys.shape == (3, 2, 7, 4)


def test_what_generation_puts_out_has_gradients_through_the_cache():
    layer = nn.MultiheadAttention(8, 2, dtype="float64")
    x = tg.tensor(draw(4, 2, 8), requires_grad=True)
    ys, cache = [], layer.initial_cache(2)
    for t in range(4):
        y, _, cache = layer(x[t : t + 1], x[t : t + 1], x[t : t + 1], cache=cache, need_weights=False)
        ys.append(y)
    stepped = tg.grad((tg.concatenate(ys) ** 2).sum(), [x, *layer.parameters()])
    whole = tg.grad((layer(x, x, x, is_causal=True)[0] ** 2).sum(), [x, *layer.parameters()])
    for a, b in zip(stepped, whole, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-10, atol=1e-12)


def test_keys_and_values_made_once_serve_every_step():
    layer = nn.MultiheadAttention(8, 2, kdim=5, vdim=6, dtype="float64")
    query, key, value = draw(3, 2, 8), draw(4, 2, 5), draw(4, 2, 6)
    cache = layer.keys_and_values(key, value)
    y, _, after = layer(query, None, None, cache=cache)
    np.testing.assert_allclose(y.numpy(), layer(query, key, value)[0].numpy(), rtol=1e-13)
    assert after.keys is cache.keys


# ---- Dropout -----------------------------------------------------------------------------------------------------------------------------


def test_dropout_of_weights_keeps_their_mean_and_ends_with_training():
    q, k, v = draw(4, 6), draw(5, 6), draw(5, 3)
    mean = np.mean([F.scaled_dot_product_attention(q, k, v, dropout_p=0.3, rng=seed) for seed in range(2000)], axis=0)
    np.testing.assert_allclose(mean, F.scaled_dot_product_attention(q, k, v), atol=0.08)
    layer = nn.MultiheadAttention(8, 2, dropout=0.5, rng=0)
    x = draw(4, 2, 8).astype("float32")
    one, other = (layer(x, x, x, need_weights=False)[0].numpy() for _ in range(2))
    assert np.any(one != other)
    layer.eval()
    one, other = (layer(x, x, x, need_weights=False)[0].numpy() for _ in range(2))
    np.testing.assert_array_equal(one, other)


# ---- Additive and bilinear (encoder and decoder) -----------------------------------------------------------------------------------------

KINDS = {
    "additive": lambda **words: nn.AdditiveAttention(4, 5, 6, **words),
    "additive without bias": lambda **words: nn.AdditiveAttention(4, 5, 6, bias=False, **words),
    "bilinear": lambda **words: nn.BilinearAttention(4, 5, **words),
    "scaled dot product": lambda **words: nn.ScaledDotProductAttention(),
}
each_kind = pytest.mark.parametrize("kind", KINDS)


def made(kind, T=2, B=3, S=7):
    K = 4 if kind == "scaled dot product" else 5
    return KINDS[kind](dtype="float64", rng=0), draw(T, B, 4), draw(S, B, K), draw(S, B, 2)


def score(layer, q, k):
    """How well one query fits one key."""
    if isinstance(layer, nn.AdditiveAttention):
        b = 0 if layer.bias is None else layer.bias.numpy()
        return layer.v.numpy() @ np.tanh(layer.query_weight.numpy() @ q + layer.key_weight.numpy() @ k + b)
    return q @ layer.weight.numpy() @ k if isinstance(layer, nn.BilinearAttention) else q @ k / math.sqrt(len(k))


@each_kind
def test_a_look_at_the_encoder_equals_loops(kind):
    layer, query, key, value = made(kind)
    lengths = np.array([7, 1, 4])
    context, weights = layer(query, key, value, lengths=lengths)
    assert context.shape == (2, 3, 2) and weights.shape == (2, 3, 7)
    context, weights = np.asarray(context), np.asarray(weights)
    for t in range(2):
        for b in range(3):
            e = np.array([score(layer, query[t, b], key[s, b]) for s in range(lengths[b])])
            w = np.exp(e) / np.exp(e).sum()
            np.testing.assert_allclose(weights[t, b, : lengths[b]], w, rtol=1e-12)
            np.testing.assert_allclose(context[t, b], w @ value[: lengths[b], b], rtol=1e-11, atol=1e-13)
            assert np.all(weights[t, b, lengths[b] :] == 0)


@each_kind
def test_one_moment_equals_its_place_in_many(kind):
    layer, query, key, value = made(kind)
    mask = rng.random((3, 7)) < 0.7
    for words in ({}, {"mask": mask}, {"mask": draw(7)}, {"lengths": [7, 0, 3]}):
        context, weights = layer(query, key, value, **words)
        for t in range(2):
            one, w = layer(query[t], key, value, **words)
            np.testing.assert_allclose(np.asarray(one), np.asarray(context)[t], rtol=1e-11, atol=1e-13)
            np.testing.assert_allclose(np.asarray(w), np.asarray(weights)[t], rtol=1e-12, atol=1e-14)


@each_kind
def test_padding_changes_nothing_and_gets_no_gradient(kind):
    layer, query, key, value = made(kind)
    lengths = np.array([7, 0, 4])
    key, value = key.copy(), value.copy()
    for b, n in enumerate(lengths):
        key[n:, b], value[n:, b] = np.nan, np.inf
    k, v = tg.tensor(key, requires_grad=True), tg.tensor(value, requires_grad=True)
    context, weights = layer(query, k, v, lengths=lengths)
    assert np.all(context.numpy()[:, 1] == 0) and np.all(weights.numpy()[:, 1] == 0)
    for g in tg.grad((context * context).sum(), [k, v]):
        past = np.arange(7)[:, None] >= lengths
        assert np.all(g.numpy()[past] == 0) and np.all(np.isfinite(g.numpy())) and np.any(g.numpy())


@each_kind
def test_looks_have_gradients_of_any_order(kind):
    layer, query, key, value = made(kind, S=4)
    check_grads(lambda q, k, v: layer(q, k, v, lengths=[4, 2, 3])[0], [query, key, value])
    check_grads(lambda q, k: layer(q[0], k)[0], [query, key])


def test_projected_keys_serve_every_step():
    layer, query, key, value = made("additive")
    whole = layer(query, key, value)
    once = layer.project(key)
    for t in range(2):
        for a, b in zip(layer(query[t], key, value, projected=once), whole, strict=True):
            np.testing.assert_allclose(a.numpy(), b.numpy()[t], rtol=1e-11, atol=1e-13)


# ---- On every library --------------------------------------------------------------------------------------------------------------------


def on(xp, f, *arrays):
    """The results and gradients of f on arrays of a library, as NumPy arrays."""
    xs = [tg.Tensor(xp.asarray(a.astype("float32")), requires_grad=True) for a in arrays]
    ys = [y for y in f(*xs) if y is not None]
    sum((y * y).sum() for y in ys).backward()
    assert all(y.dtype == np.float32 for y in ys) and all(x.grad.dtype == np.float32 for x in xs)
    return [tg.backend.to_numpy(t._data) for t in (*ys, *(x.grad for x in xs))]


def test_attention_on_every_library(xp):
    x, key = draw(5, 2, 8), draw(3, 2, 8)
    padding = np.array([[False, False, True], [False, True, True]])
    runs = {
        "self": lambda layer, x, key: layer(x, x, x, need_weights=False),
        "causal, with weights": lambda layer, x, key: layer(x, x, x, is_causal=True),
        "cross": lambda layer, x, key: layer(x, key, key, key_padding_mask=padding, need_weights=False),
        "both masks": lambda layer, x, key: layer(x, key, key, padding, attn_mask=np.zeros((5, 3)), need_weights=False),
        "cached": lambda layer, x, key: layer(x, x, x, is_causal=True, cache=layer.initial_cache(2))[:1],
    }
    for name, run in runs.items():
        results = []
        for library in (np, xp):
            layer = nn.MultiheadAttention(8, 2, rng=0)
            layer.to(tg.backend.device_of(library.zeros(1)))
            results.append(on(library, lambda x, key, layer=layer, run=run: (*run(layer, x, key), (key * key).sum()), x, key))
        for a, b in zip(*results, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5, err_msg=name)


@each_kind
def test_looks_on_every_library(kind, xp):
    _, query, key, value = made(kind)
    results = []
    for library in (np, xp):
        layer = KINDS[kind](rng=0)
        layer.to(tg.backend.device_of(library.zeros(1)))
        results.append(
            on(
                library,
                lambda q, k, v, layer=layer: layer(q, k, v, lengths=[7, 0, 4], mask=np.zeros(7, "float32")),
                query,
                key,
                value,
            )
        )
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


# ---- Softmax -----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_softmax_to_second_order(axis):
    x = draw(3, 4, 5)
    check_grads(lambda x: F.softmax(x, axis), [x])
    check_grads(lambda x: F.log_softmax(x, axis=axis), [x])


@pytest.mark.torch
@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_softmax_equals_pytorchs(name):
    torch = pytest.importorskip("torch")
    from torch_peer import agrees

    masked = draw(4, 5)
    masked[1, 2:], masked[2, 0] = -np.inf, -np.inf
    for dtype in ("float64", "float32"):
        for x, axis in ((draw(3, 4, 5), 1), (draw(7), 0), (1e4 * draw(3, 4), -1)):
            agrees(
                lambda x, axis=axis: getattr(F, name)(x, axis), lambda x, axis=axis: getattr(torch, name)(x, axis), x, dtype=dtype
            )
        x = masked.astype(dtype)
        np.testing.assert_allclose(getattr(F, name)(x), getattr(torch, name)(torch.tensor(x), -1).numpy(), rtol=1e-6)
        assert np.isnan(getattr(F, name)(np.full((2, 3), -np.inf, dtype))).all()


def test_softmax_of_masked_scores_has_a_gradient():
    x = np.array([[1.0, -np.inf, 2.0], [0.0, -np.inf, -np.inf]])
    a = tg.tensor(x, requires_grad=True)
    g = tg.grad((F.softmax(a) * np.array([1.0, 2.0, 3.0])).sum(), a).numpy()
    assert np.isfinite(g).all() and np.all(g[:, 1] == 0) and np.all(g[1] == 0)


# ---- What wrong calls say ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: F.scaled_dot_product_attention(draw(2, 3), draw(4, 5), draw(4, 5)), ShapeError, r"key \(\.\.\., S, K\)"),
        (
            lambda: F.scaled_dot_product_attention(np.arange(6).reshape(2, 3), draw(2, 3), draw(2, 3)),
            ArgumentError,
            "query is int64",
        ),
        (
            lambda: F.scaled_dot_product_attention(draw(2, 3), draw(4, 3), draw(4, 3), np.ones((4, 2), bool)),
            ShapeError,
            r"\(2, 4\)",
        ),
        (
            lambda: F.scaled_dot_product_attention(draw(2, 3), draw(4, 3), draw(4, 3), np.ones((2, 4), int)),
            ArgumentError,
            "mask != 0",
        ),
        (lambda: nn.MultiheadAttention(6, 4), ArgumentError, "does not split into 4 heads"),
        (lambda: nn.MultiheadAttention(6, 2, add_zero_attn=True), ArgumentError, "not built"),
        (lambda: nn.MultiheadAttention(6, 2, dropout=2.0), ArgumentError, "probability"),
        (lambda: nn.MultiheadAttention(6, 2)(draw(4, 2, 6), draw(4, 2, 5), draw(4, 2, 6)), ShapeError, r"key \(T, B, 6\)"),
        (lambda: nn.MultiheadAttention(6, 2)(draw(4, 2, 6), draw(4, 3, 6), draw(4, 3, 6)), ShapeError, "batch_first"),
        (lambda: nn.MultiheadAttention(6, 2)(draw(4, 2, 6), None, None), ArgumentError, "cache="),
        (
            lambda: nn.MultiheadAttention(6, 2)(*[draw(4, 2, 6)] * 3, np.ones((4, 2), bool)),
            ShapeError,
            r"(?s)key_padding_mask.*\(2, 4\).*mask\.T",
        ),
        (
            lambda: nn.MultiheadAttention(6, 2)(*[draw(4, 3, 6)] * 3, cache=nn.MultiheadAttention(6, 2).initial_cache(1)),
            ShapeError,
            r"(?s)\(3, 2, S, 3\).*keys float32 \(1, 2, 0, 3\).*initial_cache\(3\)",
        ),
        (lambda: nn.MultiheadAttention(6, 2)(*[draw(4, 6)] * 3, cache="none"), ShapeError, r"(?s)a str.*initial_cache\(1\)"),
        (
            lambda: nn.MultiheadAttention(6, 2)(*[draw(4, 2, 6)] * 3, attn_mask=np.ones((2, 4, 4))),
            ShapeError,
            r"\(4, 4\) or \(4, 4, 4\)",
        ),
        (
            lambda: nn.MultiheadAttention(6, 2)(*[draw(4, 2, 6)] * 3, attn_mask=np.ones((4, 4), int)),
            ArgumentError,
            "True where one must not",
        ),
        (lambda: nn.BilinearAttention(4, 5)(draw(2, 3, 4), draw(7, 2, 5)), ShapeError, r"query \(T, B, Q\)"),
        (lambda: nn.BilinearAttention(4, 5)(draw(3, 4), draw(7, 3, 5), lengths=[7, 8, 1]), ShapeError, r"0 \.\.\. T = 7"),
    ],
)
def test_wrong_calls_say_what_was_expected(call, error, says):
    with pytest.raises(error, match=says):
        call()


def test_layers_print_their_settings():
    assert repr(nn.AdditiveAttention(4, 5, 6, bias=False)) == "AdditiveAttention(4, 5, 6, bias=False)"
    assert repr(nn.BilinearAttention(4, 5)) == "BilinearAttention(4, 5)"
    assert repr(nn.MultiheadAttention(4, 2, 0.1, kdim=3)).startswith("MultiheadAttention(4, 2, dropout=0.1, kdim=3")
