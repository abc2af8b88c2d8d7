"""models/rnn.py: what it claims, on small settings."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import killing
import numpy as np
import pytest

import tinygrad_seq as tg
from models import rnn
from models.experiment import perform
from tinygrad_seq import nn, optim, training

# ---- Data ---------------------------------------------------------------------------------------------------------------------------------


def test_the_sums_are_sums() -> None:
    xs, targets = rnn.drawn_sums(70, 5, np.random.default_rng(0))
    columns = (xs[:, 3, 0], xs[:, 3, 1], targets[:, 3, 0])
    a, b, c = (sum(int(bit) << place for place, bit in enumerate(column)) for column in columns)
    assert a + b == c
    assert a.bit_length() > 64 or b.bit_length() > 64


def test_parity_is_that_of_all_bits_so_far() -> None:
    xs, targets = rnn.parities(9, 20, np.random.default_rng(0))
    for b in range(20):
        so_far = 0
        for t in range(9):
            so_far ^= int(xs[t, b, 0])
            assert targets[t, b, 0] == so_far


def test_reber_strings_are_those_of_the_grammar_and_legal_is_what_may_follow() -> None:
    inner = "B(?:TS*X(?:XT*VP)*(?:S|XT*VV)|PT*V(?:PXT*V)*(?:V|PS))E"  # Reber's automaton as a regular expression
    shape, rng = re.compile(f"B(?:T{inner}T|P{inner}P)E"), np.random.default_rng(0)
    follow: dict[str, set[str]] = {}
    drawn = [rnn.reber_string(rng) for _ in range(2000)]
    for string, legal in drawn:
        assert shape.fullmatch(string), string
        assert len(legal) == len(string) - 1
        for t, symbols in enumerate(legal, 1):
            assert string[t] in symbols
            follow.setdefault(string[:t], set()).add(string[t])
    assert all(follow[string[:t]] == legal[t - 1] for string, legal in drawn for t in range(1, 6))  # short prefixes came often
    assert len({string for string, _ in drawn}) > 200


# ---- Claims of structure --------------------------------------------------------------------------------------------------------------------


def test_networks_set_by_hand_are_exact() -> None:
    xs, targets = rnn.parities(1000, 8, np.random.default_rng(0))
    assert rnn.right(rnn.parity_by_hand(), xs, targets).all()
    table = rnn.bits(range(2**6), 6).T
    assert rnn.right(rnn.table_by_hand(6), table, table.sum(axis=1, keepdims=True) % 2).all()


def test_many_to_many_reads_every_state_and_many_to_one_the_last() -> None:
    outputs = rnn.outputs(5)
    for some, reads in ((outputs, 5), (outputs[-1:], 1)):
        loss = sum((o**2).sum() for o in some)
        uses = {step.node.frame.time for step in tg.steps_of_backward(loss) if "Linear" in str(step.node.frame)}
        assert len(uses) == reads


def test_the_number_of_parameters_does_not_know_the_length() -> None:
    model = rnn.Elman(2, 6, rng=np.random.default_rng(0))
    assert sum(p.size for p in model.parameters()) == 6 * 2 + 6 * 6 + 6 + 6 + 6 + 1
    assert [model(np.zeros((T, 1, 2), "float32")).shape for T in (1, 50)] == [(1, 1, 1), (50, 1, 1)]


def test_gradients_of_a_linear_network_fall_and_grow_as_powers() -> None:
    report = perform(rnn.gradient_flow, rnn.Flow(steps=40), seed=1)
    assert report["linear: decades that dL/dh_1 is off from s^39, at most"] < 1e-9
    assert report["tanh, s = 0.5: dL/dh_1 over dL/dh_40"] < 0.5**39


# ---- Training -------------------------------------------------------------------------------------------------------------------------------


def overfits(model: nn.Module, loss: Any, batch: Any, steps: int = 300) -> float:
    training.fit(model, loss, optim.Adam(model.parameters(), lr=3e-2), [batch], steps=steps, progress=False)
    return float(loss(model, batch))


def test_it_overfits_a_handful_of_sums_and_strings() -> None:
    rng = np.random.default_rng(0)
    assert overfits(rnn.Elman(2, 6, rng=rng), rnn.bits_loss, rnn.drawn_sums(5, 4, rng)) < 0.02
    string, model = rnn.reber_strings(1, rng), rnn.Elman(7, 12, 7, rng=rng)
    assert overfits(model, rnn.next_symbol_loss, string) < 0.02
    assert rnn.knows_the_grammar(model, string) == (0, 1)  # of one string nobody learns a grammar, but its outer symbol


def test_the_mlp_overfits_its_pairs_and_rejects_one_bit_more() -> None:
    report = perform(rnn.addition, rnn.Addition(steps=5, mlp_steps=1000, long=8))
    assert report["MLP 12-48-7: the 50 pairs of 6 bits that it learned"] == 1
    assert report["MLP: rejects 7 bits (1: it raises an error of shape)"] == 1


@pytest.mark.parametrize(
    "kind, config",
    [
        (rnn.addition, rnn.Addition(steps=30, mlp_steps=30)),
        (rnn.parity, rnn.Parity(steps=20, starts=1, mlp_steps=20, long=10)),
        (rnn.reber, rnn.Reber(steps=20, strings=8)),
    ],
    ids=lambda x: getattr(x, "task", ""),
)
def test_killed_and_resumed_it_goes_on_to_the_same_bits(kind: Any, config: Any, tmp_path: Path) -> None:
    killing.goes_on_to_the_same_bits(kind, config, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", rnn.EXPERIMENTS, ids=lambda kind: kind.task)
def test_the_quick_setting_reaches_its_bounds(kind: Any, tmp_path: Path) -> None:
    assert perform(kind, quick=True, out=tmp_path).met
