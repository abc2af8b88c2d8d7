"""models/finetune.py: what it claims, on small settings."""

from __future__ import annotations

from pathlib import Path

import killing
import numpy as np
import pytest

import tinygrad_seq as tg
from models import finetune
from tinygrad_seq import optim, training


def small() -> finetune.Reader:
    return finetune.Reader(width=8, heads=2, rng=np.random.default_rng(0))


def batch(B: int = 10) -> tuple[np.ndarray, np.ndarray]:
    return np.random.default_rng(1).random((8, B, 8)).astype("float32"), np.arange(B) % 5


@pytest.mark.parametrize("variant", finetune.FROZEN)
def test_frozen_arrays_keep_every_bit_and_get_no_gradient(variant: str) -> None:
    model = small()
    names = finetune.FROZEN[variant]
    frozen = finetune.freeze(model, names)
    assert {name.split(".")[0] for name in frozen} == set(names)
    before = {name: p.numpy().copy() for name, p in model.named_parameters()}
    adam = optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    training.fit(model, finetune.classes_loss, adam, [batch()], steps=3, progress=False)
    for name, p in model.named_parameters():
        assert (p.grad is None) == (name in frozen)
        assert np.array_equal(p.numpy(), before[name]) == (name in frozen), name


def test_the_gradients_of_free_layers_are_those_without_freezing() -> None:
    free, frozen = small(), small()
    finetune.freeze(frozen, ("embed", "position", "first"))
    for model in (free, frozen):
        finetune.classes_loss(model, batch()).backward()
    for name, p in frozen.named_parameters():
        if p.requires_grad:
            assert np.array_equal(p.grad.numpy(), free.get_parameter(name).grad.numpy())


def test_what_is_frozen_is_not_recorded() -> None:
    free, frozen = small(), small()
    finetune.freeze(frozen, ("embed", "position", "first", "second"))
    length = [sum(1 for _ in tg.steps_of_backward(finetune.classes_loss(model, batch()))) for model in (free, frozen)]
    assert length[1] < length[0] / 3


def test_it_learns_a_handful_of_digits_by_heart() -> None:
    model, few = small(), batch()
    training.fit(model, finetune.classes_loss, optim.Adam(model.parameters(), lr=1e-2), [few], steps=60, progress=False)
    assert finetune.right(model, *few) == 1


def test_few_labels_are_as_many_of_each_class_and_all_different() -> None:
    labels = np.random.default_rng(0).integers(5, size=200)
    chosen = finetune.of_each(labels, 50, np.random.default_rng(1))
    assert np.bincount(labels[chosen]).tolist() == [10] * 5
    assert len(set(chosen.tolist())) == 50


def test_the_two_tasks_have_no_digit_in_common() -> None:
    pytest.importorskip("sklearn", reason="digits: pip install -e '.[models]'")
    train, _ = finetune.digits.load()
    (old, old_labels), (new, new_labels) = (finetune.rows_of(train, np.arange(k, k + 5)) for k in (0, 5))
    assert old.shape[1] + new.shape[1] == len(train.labels)
    assert set(old_labels.tolist()) == set(new_labels.tolist()) == set(range(5))
    seven = new[:, np.flatnonzero(new_labels == 2)[0]]
    assert (train.images[train.labels == 7] == seven).all(axis=(1, 2)).any()


def test_killed_and_resumed_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    pytest.importorskip("sklearn", reason="digits: pip install -e '.[models]'")
    tiny = finetune.FineTuning(width=4, pretrain_steps=5, steps=4, batch=4, few=(10,), draws=1)
    killing.goes_on_to_the_same_bits(finetune.finetuning, tiny, tmp_path)


@pytest.mark.slow
def test_the_quick_setting_reaches_its_bounds(tmp_path: Path) -> None:
    pytest.importorskip("sklearn", reason="digits: pip install -e '.[models]'")
    assert killing.perform(finetune.finetuning, quick=True, out=tmp_path).met
