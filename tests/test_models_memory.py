"""models/memory.py: what the tasks ask, and that networks learn it, on small settings."""

from __future__ import annotations

import math
from pathlib import Path

import killing
import numpy as np
import pytest

import tinygrad_seq as tg
from models import memory
from models.experiment import Run
from tinygrad_seq import nn, optim
from tinygrad_seq.nn import functional as F


@pytest.fixture(autouse=True)
def no_figures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "slow" not in request.keywords:
        monkeypatch.setattr(Run, "figure", lambda run, name, draw: None)


# ---- What the tasks ask -------------------------------------------------------------------------------------------------------------------


def test_the_answer_is_the_sum_of_the_two_marked_numbers() -> None:
    xs, sums = memory.adding(20, 300, np.random.default_rng(0))
    assert xs.shape == (20, 300, 2) and sums.shape == (300, 1) and xs.dtype == np.float32
    for b in range(300):
        marked = np.flatnonzero(xs[:, b, 1])
        assert len(marked) == 2 and marked[0] < 10 <= marked[1]
        assert sums[b, 0] == pytest.approx(xs[marked, b, 0].sum())
    many = memory.adding(50, 20_000, np.random.default_rng(1))[1]
    assert ((many - 1) ** 2).mean() == pytest.approx(1 / 6, rel=0.03)


def test_the_answer_is_which_two_symbols_came_and_in_which_order() -> None:
    xs, classes = memory.order(50, 300, np.random.default_rng(0))
    assert (xs.sum(axis=-1) == 1).all()
    for b in range(300):
        letters = "".join(memory.SYMBOLS[k] for k in xs[:, b].argmax(axis=-1))
        places = [t for t, letter in enumerate(letters) if letter in "XY"]
        assert letters[0] == "B" and letters[-1] == "E" and len(places) == 2
        assert 5 <= places[0] < 10 and 25 <= places[1] < 30
        assert ["XX", "XY", "YX", "YY"][classes[b]] == letters[places[0]] + letters[places[1]]


def test_the_symbols_are_to_be_said_after_the_signal() -> None:
    c = memory.Copying()
    xs, say = memory.copying(c, 100, np.random.default_rng(0))
    read = xs.argmax(axis=-1)
    assert xs.shape == (30, 100, 10) and (xs.sum(axis=-1) == 1).all()
    assert (read[:5] == say[25:]).all() and (read[:5] < 8).all()
    assert (read[24] == 9).all() and (np.delete(read[5:], 19, axis=0) == 8).all() and (say[:25] == 8).all()
    knows_when = np.full((30, 100, 10), -30.0)  # without memory: blank, then each symbol alike
    knows_when[:25, :, 8] = knows_when[25:, :, :8] = 0
    assert F.cross_entropy(knows_when, say) == pytest.approx(5 * math.log(8) / 30, rel=1e-6)


def test_two_spikes_stand_F_or_one_less_apart_and_nothing_else_tells_which() -> None:
    xs, far = memory.spikes(15, 400, np.random.default_rng(0))
    assert xs.shape == (30, 400, 1) and (xs.sum(axis=0) == 2).all()
    starts = xs[..., 0].argmax(axis=0)
    for b in range(400):
        first, second = np.flatnonzero(xs[:, b, 0])
        assert second - first == (15 if far[b] else 14)
    assert (starts[far == 1] == starts[far == 0]).all() and set(starts) == set(range(15))


# ---- Networks -----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_it_begins_by_keeping_all_but_one_part_in_so_many(kind: type) -> None:
    layer = kind(1, 4, rng=0)
    with tg.no_grad():
        layer.bias_hh_l0[...] = layer.weight_hh_l0[...] = layer.weight_ih_l0[...] = 0
    _, _, gates = memory.remembering(layer, 49)(np.zeros((1, 1, 1), "float32"), return_gates=True)
    kept, written = (gates.f, gates.i) if kind is nn.LSTM else (gates.z, 1 - gates.z)
    np.testing.assert_allclose(kept.numpy(), 49 / 50, rtol=1e-6)
    np.testing.assert_allclose(written.numpy(), 1 / 50, rtol=1e-5)


def test_the_deep_network_is_its_layers() -> None:
    deep = memory.Deep(3, 4, 5, rng=np.random.default_rng(0))
    xs = np.random.default_rng(1).standard_normal((6, 2, 3)).astype("float32")
    between = np.tanh(deep.lower(xs)[0].numpy() @ deep.between.weight.numpy().T + deep.between.bias.numpy())
    np.testing.assert_allclose(deep(xs)[0].numpy(), deep.upper(between)[0].numpy(), rtol=1e-5)


NETWORKS = {
    "LSTM": lambda rng: memory.remembering(nn.LSTM(8, 12, rng=rng), 12),
    "GRU": lambda rng: memory.remembering(nn.GRU(8, 12, rng=rng), 12),
    "peephole LSTM": lambda rng: memory.remembering(nn.LSTM(8, 12, peephole="diagonal", rng=rng), 12),
    "deep LSTM": lambda rng: memory.Deep(8, 12, 12, rng=rng),
    "tanh RNN": lambda rng: nn.RNN(8, 12, recurrent_init="orthogonal", rng=rng),
    "IRNN": lambda rng: nn.RNN(8, 12, nonlinearity="relu", recurrent_init="identity", rng=rng),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_each_network_overfits_eight_sequences(name: str) -> None:
    rng = np.random.default_rng(0)
    model = memory.Reader(NETWORKS[name](rng), 12, 4, rng=rng)
    xs, classes = memory.order(12, 8, np.random.default_rng(3))
    adam = optim.Adam(model.parameters(), lr=2e-2)
    for _ in range(80):
        loss = F.cross_entropy(model(xs), classes)
        adam.zero_grad()
        loss.backward()
        optim.clip_grad_norm_(model.parameters(), 1.0)
        adam.step()
    assert (memory.said(model, xs).argmax(axis=-1) == classes).all()


# ---- Runs ---------------------------------------------------------------------------------------------------------------------------------

TINY = {
    "T4": memory.Adding(length=6, steps=4, batch=4, gated=3, plain=3),
    "T5": memory.Order(length=10, hidden=3, steps=4, batch=4),
    "T6": memory.Copying(symbols=3, count=2, delay=3, hidden=3, steps=4, batch=4),
    "T8": memory.Spikes(apart=4, hidden=2, steps=4, batch=4),
}


@pytest.mark.parametrize("kind", memory.EXPERIMENTS, ids=lambda kind: kind.name)
def test_killed_and_resumed_it_goes_on_to_the_same_bits(kind: memory.Experiment, tmp_path: Path) -> None:
    killing.goes_on_to_the_same_bits(kind, TINY[kind.task], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", memory.EXPERIMENTS, ids=lambda kind: kind.name)
def test_the_quick_setting_reaches_its_bounds(kind: memory.Experiment, tmp_path: Path) -> None:
    report = killing.perform(kind, quick=True, out=tmp_path)
    assert report.met, report.results
