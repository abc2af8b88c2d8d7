"""models/transformer.py: what it claims, on small settings."""

from __future__ import annotations

from pathlib import Path

import killing
import numpy as np
import pytest

import tinygrad_seq as tg
from models import transformer
from tinygrad_seq import nn, optim, training
from tinygrad_seq.nn import functional as F


def small(source_positions: bool = True) -> transformer.Transformer:
    return transformer.Transformer(11, width=8, layers=2, heads=2, source_positions=source_positions, rng=np.random.default_rng(0))


def test_every_structural_claim_holds() -> None:
    for seed in range(3):
        report = killing.perform(transformer.structure, seed=seed)
        assert report.met
        assert report["J4  inputs from 20 on edited: change of outputs before"] == 0


def test_the_double_loop_is_the_attention_of_the_package_and_its_gradients_are_right() -> None:
    rng = np.random.default_rng(0)
    xs, w_q, w_k, w_v = rng.normal(size=(6, 4)), *rng.normal(size=(3, 3, 4))
    by_hand = transformer.attention_by_hand(xs, w_q, w_k, w_v)

    def attention(*args: object) -> object:
        xs, w_q, w_k, w_v = args
        return F.scaled_dot_product_attention(xs @ w_q.T, xs @ w_k.T, xs @ w_v.T)

    assert np.allclose(attention(xs, w_q, w_k, w_v), by_hand, atol=1e-14)
    tg.testing.check_grads(attention, (xs, w_q, w_k, w_v))


def test_gradients_of_layer_norm_are_right() -> None:
    rng = np.random.default_rng(0)
    tg.testing.check_grads(lambda x, w, b: F.layer_norm(x, (5,), w, b), tuple(rng.normal(size=s) for s in ((3, 5), 5, 5)))


def test_a_dot_product_is_a_cosine_for_vectors_of_length_1_alone() -> None:
    q, k = np.random.default_rng(0).normal(size=(2, 5))
    angle = 2 * np.arctan2(
        np.linalg.norm(q / np.linalg.norm(q) - k / np.linalg.norm(k)), np.linalg.norm(q / np.linalg.norm(q) + k / np.linalg.norm(k))
    )
    assert q / np.linalg.norm(q) @ (k / np.linalg.norm(k)) == pytest.approx(np.cos(angle))
    assert abs(q @ k - np.cos(angle)) > 0.1


def test_the_encoder_without_positions_sees_a_bag() -> None:
    rng = np.random.default_rng(0)
    source, written = transformer.digits(8, 3, rng), transformer.digits(8, 3, rng)
    for positions in (False, True):
        model = small(positions).to(dtype="float64")
        with training.evaluating(model):
            one, other = (model(each, written).numpy() for each in (source, source[rng.permutation(8)]))
        assert (np.abs(one - other).max() < 1e-12) == (not positions)


def test_what_comes_later_in_the_target_changes_nothing_before() -> None:
    rng = np.random.default_rng(0)
    model, source, written = small().to(dtype="float64"), transformer.digits(5, 2, rng), transformer.digits(8, 2, rng)
    others = np.concatenate([written[:4], (written[4:] + 1) % 10])
    with training.evaluating(model):
        one, other = model(source, written).numpy(), model(source, others).numpy()
    assert np.array_equal(one[:4], other[:4])
    assert not np.array_equal(one[4:], other[4:])


def test_it_writes_with_the_cache_what_it_says_when_all_is_read_at_once() -> None:
    model, source = small(), transformer.digits(6, 5, np.random.default_rng(0))
    written = model.write(source, transformer.START, 6)
    with training.evaluating(model):
        assert np.array_equal(model(source, transformer.shifted(written)).numpy().argmax(-1), written)


def test_weights_of_a_figure_are_those_that_the_last_layer_uses() -> None:
    model, source = small().to(dtype="float64"), transformer.digits(6, 1, np.random.default_rng(0))
    last, seen = model.body.decoder.layers[-1].multihead_attn, []
    hook = last.register_forward_hook(lambda module, inputs, output: seen.append((inputs, output[0].numpy())))
    with training.evaluating(model):
        model(source, source)
    hook.remove()
    (inputs, y), weights = seen[0], model.looks(source, source)[0]
    assert np.allclose(weights.sum(-1), 1, atol=1e-12)
    values = F.linear(inputs[2][:, 0], last.in_proj_weight[16:], last.in_proj_bias[16:]).reshape(6, 2, 4)  # (S, N, K)
    heads = np.einsum("nts,snk->tnk", weights, values.numpy()).reshape(6, 8)
    assert np.allclose(F.linear(heads, last.out_proj.weight, last.out_proj.bias).numpy(), y[:, 0], atol=1e-12)


def test_it_learns_a_handful_of_rows_by_heart() -> None:
    model, source = small(), transformer.digits(5, 6, np.random.default_rng(0))
    target = np.sort(source, axis=0)

    def loss(model: nn.Module, source: np.ndarray) -> tg.Tensor:
        return F.cross_entropy(model(source, transformer.shifted(target)), target)

    training.fit(model, loss, optim.AdamW(model.parameters(), lr=1e-2), [source], steps=60, progress=False)
    assert np.array_equal(model.write(source, transformer.START, 5), target)


def test_killed_and_resumed_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    killing.goes_on_to_the_same_bits(transformer.sorting, transformer.Sorting(digits=3, width=8, steps=10, batch=4), tmp_path)


@pytest.mark.slow
def test_the_quick_setting_reaches_its_bounds(tmp_path: Path) -> None:
    assert killing.perform(transformer.sorting, quick=True, out=tmp_path).met
