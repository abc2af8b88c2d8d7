"""models/rlhf.py: what it claims, on small settings."""

from __future__ import annotations

import itertools
from pathlib import Path

import killing
import numpy as np
import pytest

import tinygrad_seq as tg
from models import rlhf
from tinygrad_seq import nn, optim, training

TINY = rlhf.Feedback(length=6, pairs=20, width=4, reward_steps=10, reward_batch=8, steps=10, batch=8)


def all_strings(length: int) -> np.ndarray:
    return np.array(list(itertools.product(range(4), repeat=length))).T


def test_the_rule_counts_what_str_count_counts() -> None:
    strings = np.random.default_rng(0).integers(4, size=(12, 300))
    written = ["".join(rlhf.LETTERS[i] for i in column) for column in strings.T]
    assert rlhf.rule(strings).tolist() == [text.count("ab") for text in written]


@pytest.mark.parametrize("strength", [0.0, 1.3, 4.0])
def test_the_frontier_equals_a_sum_over_all_strings(strength: float) -> None:
    counts = rlhf.rule(all_strings(6))
    p = np.exp(strength * counts) / np.exp(strength * counts).sum()
    (mean,), (kl,) = rlhf.frontier(6, [strength])
    assert mean == pytest.approx((p * counts).sum(), rel=1e-12)
    assert kl == pytest.approx((p * np.log(p * len(p))).sum(), abs=1e-12)


def test_no_distribution_lies_above_the_frontier() -> None:
    counts, rng = rlhf.rule(all_strings(5)), np.random.default_rng(0)
    means, costs = rlhf.frontier(5, np.linspace(0, 12, 400))
    for scale in (0.1, 1, 3):
        p = np.exp(scale * (rng.normal(size=len(counts)) + counts))
        p /= p.sum()
        assert (p * counts).sum() <= np.interp((p * np.log(p * len(p))).sum(), costs, means) + 1e-3


def test_a_policy_begins_uniform_and_is_a_distribution_over_strings_after_any_change() -> None:
    policy = rlhf.Policy(4, rng=np.random.default_rng(0))
    strings = all_strings(4)
    assert np.allclose(rlhf.log_probability(policy, strings), -4 * np.log(4), atol=1e-6)
    nn.init.normal_(policy.score.weight, rng=0)
    assert np.exp(rlhf.log_probability(policy, strings).astype("float64")).sum() == pytest.approx(1, abs=1e-5)


def test_drawn_strings_have_the_probabilities_that_the_policy_says() -> None:
    policy = rlhf.Policy(4, rng=np.random.default_rng(0))
    nn.init.normal_(policy.score.weight, rng=0)
    drawn = policy.draw(2, 40_000, np.random.default_rng(1))
    shares = np.bincount(drawn[0] * 4 + drawn[1], minlength=16) / 40_000
    assert np.abs(shares - np.exp(rlhf.log_probability(policy, all_strings(2)))).max() < 0.01


def test_reinforce_is_the_gradient_of_the_expected_reward() -> None:
    policy, worth = rlhf.Policy(3, rng=np.random.default_rng(0)).to(dtype="float64"), np.random.default_rng(1).normal(size=64)
    nn.init.normal_(policy.score.weight, rng=0)
    strings = all_strings(3)
    p = tg.exp(policy(strings))
    exact = tg.grad((p * worth).sum(), policy.score.weight)
    weighted = (p.detach() * (worth - worth.mean()) * policy(strings)).sum()  # E (R - b) log π, its gradient
    assert np.allclose(tg.grad(weighted, policy.score.weight), exact, atol=1e-12)


def test_the_preference_loss_is_bradley_and_terrys() -> None:
    reward = rlhf.Reward(4, rng=np.random.default_rng(0))
    preferred, other = rlhf.preferences(6, 10, np.random.default_rng(1))
    assert (rlhf.rule(preferred) > rlhf.rule(other)).all()
    with training.evaluating(reward):
        gap = reward(preferred).numpy() - reward(other).numpy()
        loss = float(rlhf.preference_loss(reward, (preferred, other)))
    assert loss == pytest.approx(-np.log(1 / (1 + np.exp(-gap))).mean(), rel=1e-5)


def test_a_reward_model_learns_a_handful_of_pairs_by_heart() -> None:
    reward = rlhf.Reward(8, rng=np.random.default_rng(0))
    pair = rlhf.preferences(6, 6, np.random.default_rng(1))
    adam = optim.Adam(reward.parameters(), lr=2e-2)
    training.fit(reward, rlhf.preference_loss, adam, [pair], steps=80, progress=False)
    assert float(rlhf.preference_loss(reward, pair)) < 0.02


def test_killed_and_resumed_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    killing.goes_on_to_the_same_bits(rlhf.feedback, TINY, tmp_path)


@pytest.mark.slow
def test_the_quick_setting_reaches_its_bounds(tmp_path: Path) -> None:
    report = killing.perform(rlhf.feedback, quick=True, out=tmp_path)
    assert report.met
    assert report["KL weighs 0.3: KL, nats"] < report["KL weighs nothing: KL, nats"]
