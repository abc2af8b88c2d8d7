"""fit against loops written out, truncated BPTT against full and fresh graphs, and runs that go on to the same bits after any end."""

from __future__ import annotations

import io
import json
import math
import os
import re
import signal
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygrad_seq as tg
from tinygrad_seq import data, nn, optim, training
from tinygrad_seq.errors import AnomalyError, ArgumentError, FileError, ShapeError
from tinygrad_seq.nn import functional as F


class Net(nn.Module):
    """A GRU with dropout from a generator of its own and one from the default generator."""

    def __init__(self, inputs=3, hidden=5, outputs=2, dtype="float64"):
        self.rnn = nn.GRU(inputs, hidden, dtype=dtype)
        self.drop = nn.Dropout(0.3, rng=7)
        self.noise = nn.Dropout(0.1)
        self.out = nn.Linear(hidden, outputs, dtype=dtype)

    def forward(self, xs, h=None):
        hs, h = self.rnn(xs, h)
        return self.out(self.noise(self.drop(hs))), h


def loss_of(model, batch):
    xs, ys = batch
    return F.mse_loss(model(xs)[0], ys)


def windowed_loss(model, window, state):
    xs, ys = window
    predicted, state = model(xs, state)
    return F.mse_loss(predicted, ys), state


def sequences(T, n, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(T, n, 3)), rng.normal(size=(T, n, 2))


def made(seed=0, **keywords):
    tg.seed(seed)
    return Net(**keywords)


def weights(model):
    return {name: array.tobytes() for name, array in model.state_dict().items()}


def gradients(model):
    return [p.grad.numpy().copy() for p in model.parameters()]


# ---- cut -----------------------------------------------------------------------------------------------------------------------------


class Pair(NamedTuple):
    h: object
    c: object


def test_cut_detaches_every_tensor_of_a_state_and_keeps_its_form():
    h = tg.ones(2, requires_grad=True) * 2
    state = training.cut({"a": Pair(h, [h, (h, None)]), "b": np.ones(2)})
    assert isinstance(state["a"], Pair)
    parts = [state["a"].h, state["a"].c[0], state["a"].c[1][0]]
    assert all(not part.requires_grad and part.tolist() == [2, 2] for part in parts)
    assert state["a"].c[1][1] is None and state["b"].tolist() == [1, 1]
    assert training.cut(None) is None and training.cut(h).requires_grad is False


# ---- Truncated BPTT ------------------------------------------------------------------------------------------------------------------


def summed_step(model):
    """A step whose loss is a sum over time, so that windows add up."""

    def step(window, state):
        xs, ys = window
        predicted, state = model(xs, state)
        return ((predicted - ys) ** 2).sum(), state

    return step


def test_through_all_steps_it_is_full_bptt():
    model, batch = made().eval(), sequences(11, 2)
    loss, _ = summed_step(model)(batch, None)
    loss.backward()
    full = gradients(model)
    for k1, k2 in ((11, None), (30, 40), (1, 11), (3, 12), (4, 100)):
        model.zero_grad()
        for part in training.tbptt(k1, k2)(summed_step(model), batch):
            part.backward()
        for ours, theirs in zip(gradients(model), full, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-12)


def test_with_equal_steps_it_is_training_on_chunks():
    xs, ys = sequences(10, 2)
    ours, by_hand = made().eval(), made().eval()
    sgd = optim.SGD(ours.parameters(), lr=0.1)
    for loss in training.tbptt(4)(summed_step(ours), (xs, ys)):
        sgd.zero_grad()
        loss.backward()
        sgd.step()
    sgd, state = optim.SGD(by_hand.parameters(), lr=0.1), None
    for t in (0, 4, 8):
        predicted, state = by_hand(xs[t : t + 4], state)
        sgd.zero_grad()
        ((predicted - ys[t : t + 4]) ** 2).sum().backward()
        sgd.step()
        state = state.detach()
    assert weights(ours) == weights(by_hand)


@settings(max_examples=25)
@given(st.lists(st.integers(1, 7), min_size=1, max_size=4), st.integers(1, 4), st.integers(0, 7))
def test_the_gradient_of_each_window_is_that_of_a_fresh_graph_from_the_carried_state(lengths, k1, more):
    k2, T = k1 + more, sum(lengths)
    model = made().eval()
    xs, ys = sequences(T, 2)
    states = [None]  # h_t of all t
    with tg.no_grad():
        for t in range(T):
            states.append(model(xs[t : t + 1], states[-1])[1])
    truncated = training.tbptt(k1, k2)
    begin = 0
    for length in lengths:  # batches that go on from one another
        batch = xs[begin : begin + length], ys[begin : begin + length]
        ends = [min(begin + n, begin + length) for n in range(k1, length + k1, k1)]
        chunk = begin
        for loss, end in zip(truncated(summed_step(model), batch), ends, strict=True):
            model.zero_grad()
            loss.backward()
            ours = gradients(model)
            back = max(0, chunk - more)
            model.zero_grad()
            predicted, _ = model(xs[back:end], None if states[back] is None else states[back].detach())
            expected = ((predicted[chunk - back :] - ys[chunk:end]) ** 2).sum()
            expected.backward()
            assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
            for a, b in zip(ours, gradients(model), strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)
            np.testing.assert_allclose(truncated.state.numpy(), states[end].numpy(), rtol=1e-12)
            chunk = end
        begin += length


def test_its_memory_does_not_grow_with_the_sequence():
    def peak(T, run):
        model, batch = made(hidden=64).eval(), sequences(T, 16)
        tracemalloc.start()
        run(model, batch)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    def truncated(model, batch):
        for loss in training.tbptt(10, 20)(summed_step(model), batch):
            model.zero_grad()
            loss.backward()

    def full(model, batch):
        summed_step(model)(batch, None)[0].backward()

    peak(30, truncated), peak(30, full)  # which compile the loop
    assert peak(960, truncated) < 1.2 * peak(60, truncated)
    short, long, longer = (peak(T, full) for T in (240, 480, 960))
    assert 0.8 < (longer - long) / (2 * (long - short)) < 1.25  # B9: that of full BPTT does, by as much for every step


def test_the_time_axis_may_be_the_second():
    model = nn.RNN(3, 4, batch_first=True, dtype="float64")
    xs = np.random.default_rng(0).normal(size=(2, 7, 3))
    seen = []

    def step(window, state):
        seen.append(window["x"].shape)
        hs, state = model(window["x"], state)
        return hs.sum(), state

    list(training.tbptt(3, axis=1)(step, {"x": xs, "name": "kept"}))
    assert seen == [(2, 3, 3), (2, 3, 3), (2, 1, 3)]


def test_wrong_calls_of_tbptt_say_what_to_do():
    for k1, k2 in ((0, None), (5, 3), (2.0, None)):
        with pytest.raises(ShapeError, match="1 <= k1 <= k2"):
            training.tbptt(k1, k2)
    with pytest.raises(ShapeError, match=r"axis=1\) where the batch comes first"):
        next(training.tbptt(2)(lambda window, state: (0, state), (np.ones((4, 2)), np.ones(5))))
    with pytest.raises(ArgumentError, match=r"expected: \(loss, state\)"):
        next(training.tbptt(2)(lambda window, state: window.sum(), np.ones((4, 2))))
    with pytest.raises(ArgumentError, match=r"got: +tbptt\(3, 3\)"):
        training.tbptt(2).load_state_dict(training.tbptt(3).state_dict())


# ---- fit -----------------------------------------------------------------------------------------------------------------------------


def test_fit_is_the_loop_written_out():
    xs, ys = sequences(6, 20)
    batches = [(xs[:, i : i + 5], ys[:, i : i + 5]) for i in range(0, 20, 5)]
    ours = made()
    adam = optim.Adam(ours.parameters(), lr=0.01)
    schedule = optim.lr_scheduler.CosineAnnealingLR(adam, 12)
    history = training.fit(ours, loss_of, adam, batches, epochs=3, schedule=schedule, clip_norm=0.1, progress=False)
    by_hand = made()
    adam = optim.Adam(by_hand.parameters(), lr=0.01)
    schedule, losses, norms, rates = optim.lr_scheduler.CosineAnnealingLR(adam, 12), [], [], []
    for _ in range(3):
        for batch in batches:
            loss = loss_of(by_hand, batch)
            adam.zero_grad()
            loss.backward()
            norms.append(optim.clip_grad_norm_(by_hand.parameters(), 0.1))
            rates.append(adam.lr)
            adam.step()
            schedule.step()
            losses.append(loss.item())
    assert weights(ours) == weights(by_hand)
    assert (history.losses, history.norms, history.rates) == (losses, norms, rates)
    assert history.epochs == [4, 8, 12] and history.stopped == "epochs"


def test_it_learns_to_remember_a_bit():
    """The first input, asked for after 10 steps: a network without memory is right half of the time."""
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2, 512)
    xs = rng.normal(size=(512, 10, 1)).astype("float32") * 0.5
    xs[:, 0, 0] = bits * 2 - 1

    class Memory(nn.Module):
        def __init__(self):
            self.rnn, self.out = nn.LSTM(1, 16, batch_first=True), nn.Linear(16, 2)

        def forward(self, xs):
            return self.out(self.rnn(xs)[0][:, -1])

    tg.seed(0)
    model = Memory()
    train, test = data.Loader((xs[:384], bits[:384]), 32, shuffle=True, prefetch=2), (xs[384:], bits[384:])
    history = training.fit(
        model,
        lambda model, batch: F.cross_entropy(model(batch[0]), batch[1]),
        optim.Adam(model.parameters(), lr=0.02),
        train,
        epochs=25,
        evaluate=lambda model: (model(test[0]).argmax(-1).numpy() == test[1]).mean(),
        maximize=True,
        patience=10,
        progress=False,
    )
    assert history.best["evaluation"] > 0.98


def test_windows_of_a_text_are_learned_with_the_state_carried():
    text = "abcdefgh" * 40
    vocabulary = data.Vocabulary.of(text)
    ids = vocabulary.encode(text)
    seen = []

    class Characters(nn.Module):
        def __init__(self):
            self.embed, self.rnn, self.out = nn.Embedding(8, 8), nn.RNN(8, 16), nn.Linear(16, 8)

        def forward(self, ids, h=None):
            seen.append(h)
            hs, h = self.rnn(self.embed(ids), h)
            return self.out(hs), h

    def loss(model, window, state):
        scores, state = model(window[0], state)
        return F.cross_entropy(scores, window[1]), state

    tg.seed(0)
    model = Characters()
    streams = data.Streams(ids, 4, 8)
    adam = optim.Adam(model.parameters(), lr=0.02)
    history = training.fit(
        model, loss, adam, streams, epochs=6, tbptt=training.tbptt(8), evaluate=data.Streams(ids, 4, 8), progress=False
    )
    assert history.best["loss"] < 0.2
    n = len(streams)
    assert [h is None for h in seen[:n]] == [True] + [False] * (n - 1)  # carried within an epoch
    assert seen[2 * n] is None  # each reading, and each evaluation, begins anew
    assert not any(h.requires_grad for h in seen if h is not None)


def test_batches_that_do_not_go_on_begin_without_a_state():
    seen = []

    def loss(model, window, state):
        seen.append(state is None)
        return windowed_loss(model, window, state)

    model = made()
    batches = [sequences(6, 2, seed) for seed in range(3)]
    history = training.fit(model, loss, optim.SGD(model.parameters(), lr=0.1), batches, tbptt=training.tbptt(3), progress=False)
    assert seen == [True, False] * 3 and len(history) == 6


def test_evaluation_mode_is_for_the_evaluation_alone_and_parts_may_stay_in_it():
    model = made()
    model.drop.eval()
    modes = []

    def evaluate(model):
        modes.append((model.training, model.drop.training, model.noise.training, (model.out.weight * 1).requires_grad))
        return 1.0

    optimizer = optim.SGD(model.parameters(), lr=0.1)
    training.fit(model, loss_of, optimizer, [sequences(3, 2)], evaluate=evaluate, progress=False)
    assert modes == [(False, False, False, False)]
    assert model.training and model.noise.training and not model.drop.training
    model.eval()
    training.fit(model, loss_of, optimizer, [sequences(3, 2)], progress=False)
    assert model.training and model.drop.training


def test_it_stops_when_patience_ends_and_returns_the_best_weights_if_asked():
    values = [5.0, 3.0, 4.0, math.nan, 3.5, 1.0]
    kept = {}

    def run(restore_best):
        model, found = made(), iter(values)

        def evaluate(model):
            value = next(found)
            kept[value] = weights(model)
            return {"error": value, "other": 0.0}

        history = training.fit(
            model,
            loss_of,
            optim.SGD(model.parameters(), lr=0.1),
            [sequences(3, 2)],
            epochs=20,
            evaluate=evaluate,
            patience=3,
            restore_best=restore_best,
            progress=False,
        )
        assert history.stopped == "patience" and len(history) == 5
        assert history.best == {"step": 2, "epoch": 2, "error": 3.0, "other": 0.0}
        assert history.evaluated("error")[:3] == values[:3]
        return weights(model)

    assert run(restore_best=False) == kept[3.5]
    assert run(restore_best=True) == kept[3.0]


def test_evaluation_every_so_many_steps_and_once_at_the_end():
    def run(**until):
        model = made()
        sgd = optim.SGD(model.parameters(), lr=0.1)
        batches = [sequences(3, 2)] * 4
        return training.fit(model, loss_of, sgd, batches, evaluate=lambda model: 0, every=3, progress=False, **until)

    history = run(steps=7)
    assert history.evaluated("step") == [3, 6, 7] and history.evaluated("epoch") == [1, 2, 2]
    assert history.stopped == "steps"
    history = run(epochs=2)
    assert history.evaluated("step") == [3, 6, 8] and history.evaluated("epoch") == [1, 2, 2]
    assert history.stopped == "epochs"


def test_schedules_go_per_step_per_epoch_or_look_at_the_evaluations():
    def rates(**keywords):
        model = made()
        sgd = optim.SGD(model.parameters(), lr=1.0)
        schedule = keywords.pop("schedule")(sgd)
        batches = [sequences(3, 2)] * 2
        return training.fit(model, loss_of, sgd, batches, epochs=3, schedule=schedule, progress=False, **keywords).rates

    def halves(sgd):
        return optim.lr_scheduler.ExponentialLR(sgd, 0.5)

    assert rates(schedule=halves) == [1, 1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32]
    assert rates(schedule=halves, schedule_per="epoch") == [1, 1, 1 / 2, 1 / 2, 1 / 4, 1 / 4]

    def plateau(sgd):
        return optim.lr_scheduler.ReduceLROnPlateau(sgd, factor=0.5, patience=0)

    assert rates(schedule=plateau, evaluate=lambda model: 1.0) == [1, 1, 1, 1, 1 / 2, 1 / 2]


def test_a_loss_that_is_no_number_stops_before_the_weights_are_spoiled():
    model, good = made(), sequences(3, 2)
    kept = {}

    def keep(run):
        kept[run.step] = weights(model)

    bad = (good[0], good[1] * np.nan)
    with pytest.raises(AnomalyError, match=r"(?s)the loss is nan at step 3, in epoch 1.*detect_anomaly"):
        training.fit(model, loss_of, optim.SGD(model.parameters(), lr=0.1), [good, good, bad], callbacks=[keep], progress=False)
    assert weights(model) == kept[2]


def test_a_gradient_that_is_not_finite_stops_too_where_it_is_clipped():
    model = made()

    def loss(model, batch):
        return (model.out.weight * 0).sum() ** 0.5

    with pytest.raises(AnomalyError, match="the norm of the gradient is nan at step 1"):
        with np.errstate(all="ignore"):
            training.fit(model, loss, optim.SGD(model.parameters(), lr=0.1), [0], clip_norm=1.0, progress=False)


def test_callbacks_see_the_run_and_may_end_it():
    model, seen = made(), []

    def callback(run):
        seen.append((run.step, run.epoch, run.loss))
        if run.step == 3:
            run.stop("enough")

    history = training.fit(
        model, loss_of, optim.SGD(model.parameters(), lr=0.1), [sequences(3, 2)] * 2, epochs=9, callbacks=[callback], progress=False
    )
    assert seen == [(1, 0, history.losses[0]), (2, 0, history.losses[1]), (3, 1, history.losses[2])]
    assert history.stopped == "enough"


def test_ctrl_c_ends_the_run_after_the_update_saved_and_returned(tmp_path):
    model, batches = made(), [sequences(3, 2, seed) for seed in range(5)]

    def run(steps, signals=0):
        def interrupt(run):
            if run.step == 3:
                for _ in range(signals):
                    signal.raise_signal(signal.SIGINT)

        return training.fit(
            model,
            loss_of,
            sgd,
            batches,
            steps=steps,
            save=tmp_path / "run.safetensors",
            callbacks=[interrupt],
            progress=False,
        )

    sgd = optim.SGD(model.parameters(), lr=0.1)
    history = run(9, signals=1)
    assert history.stopped == "interrupted" and len(history) == 3
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert len(run(9)) == 9
    whole = made()
    training.fit(whole, loss_of, optim.SGD(whole.parameters(), lr=0.1), batches, steps=9, progress=False)
    assert weights(model) == weights(whole)
    (tmp_path / "run.safetensors").unlink()
    with pytest.raises(KeyboardInterrupt):
        run(9, signals=2)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_wrong_calls_of_fit_say_what_to_do():
    model, batch = made(), sequences(3, 2)
    sgd = optim.SGD(model.parameters(), lr=0.1)

    def fit(loss=loss_of, batches=(batch,), model=model, **keywords):
        return training.fit(model, loss, sgd, batches, progress=False, **keywords)

    with pytest.raises(ArgumentError, match="a scalar Tensor"):
        fit(loss=lambda model, batch: model(batch[0])[0])
    with pytest.raises(ArgumentError, match="a scalar Tensor"):
        fit(loss=lambda model, batch: 1.0)
    with pytest.raises(ArgumentError, match="criterion"):
        fit(loss=nn.MSELoss())
    with pytest.raises(ArgumentError, match="(?s)mse_loss.*criterion"):
        fit(loss=F.mse_loss)
    with pytest.raises(ArgumentError, match="is no model"):
        fit(model=3)
    with pytest.raises(ArgumentError, match="a new model needs a new optimizer"):
        fit(model=made())
    with pytest.raises(ArgumentError, match="(?s)'sgd' is no optimizer.*optim.Adam"):
        training.fit(model, loss_of, "sgd", [batch])
    with pytest.raises(ArgumentError, match="(?s)'cosine' is no schedule.*CosineAnnealingLR"):
        fit(schedule="cosine")
    with pytest.raises(ArgumentError, match="of another optimizer"):
        fit(schedule=optim.lr_scheduler.StepLR(optim.SGD(model.parameters(), lr=0.1), 3))
    with pytest.raises(ArgumentError, match=r"training.tbptt\(20\)"):
        fit(tbptt=(20, 60))
    with pytest.raises(ShapeError, match="gave nothing in epoch 1"):
        fit(batches=[])
    with pytest.raises(ShapeError, match="used up after one epoch"):
        fit(batches=iter([batch]), epochs=2)
    with pytest.raises(ArgumentError, match="epochs = 0"):
        fit(epochs=0)
    with pytest.raises(ArgumentError, match="give evaluate="):
        fit(patience=3)
    with pytest.raises(ArgumentError, match="a number, or a dict of numbers"):
        fit(evaluate=lambda model: "good")
    with pytest.raises(ArgumentError, match="'step' or 'epoch'"):
        fit(schedule_per="batch")
    with pytest.raises(ArgumentError, match="batches of their own"):
        loader = data.Loader(batch[0], 2)
        fit(batches=loader, evaluate=loader)
    with pytest.raises(FileError, match=r"os\.makedirs\('no/such'\)"):
        fit(save="no/such/run.safetensors")


# ---- What it shows -------------------------------------------------------------------------------------------------------------------


def shown(monkeypatch, terminal, **keywords):
    stream = io.StringIO()
    stream.isatty = lambda: terminal
    monkeypatch.setattr(sys, "stderr", stream)
    model = made()
    training.fit(
        model,
        loss_of,
        optim.SGD(model.parameters(), lr=0.1),
        [sequences(3, 2)] * 2,
        epochs=2,
        evaluate=lambda model: 0.25,
        **keywords,
    )
    return stream.getvalue()


def test_a_log_gets_a_line_for_each_evaluation_and_no_bar(monkeypatch):
    lines = shown(monkeypatch, terminal=False).splitlines()
    assert len(lines) == 2 and lines[1].startswith("step 4  epoch 2  training loss ") and lines[1].endswith("evaluation 0.25")
    assert shown(monkeypatch, terminal=False, progress=False) == ""
    assert shown(monkeypatch, terminal=True, progress=False) == ""


def test_a_terminal_gets_a_bar_with_loss_and_rate(monkeypatch):
    printed = shown(monkeypatch, terminal=True)
    assert "\r" in printed and "4/4" in printed and "loss " in printed and "lr 0.1" in printed and "evaluation 0.25" in printed


def test_a_run_that_goes_on_or_is_at_its_end_says_so_and_how_to_begin_anew(monkeypatch, tmp_path):
    path = tmp_path / "run.safetensors"
    assert "run.safetensors" not in shown(monkeypatch, terminal=False, save=path, steps=3)
    lines = shown(monkeypatch, terminal=False, save=path).splitlines()
    assert lines[0] == f"{path}: the run goes on after step 3; resume=False begins anew" and len(lines) == 2
    assert shown(monkeypatch, terminal=False, save=path) == f"{path}: the run ended after step 4; resume=False begins anew\n"
    assert "run.safetensors" not in shown(monkeypatch, terminal=False, save=path, resume=False)


def test_a_file_of_another_run_is_refused_with_the_way_out(tmp_path):
    path, (xs, ys) = tmp_path / "run.safetensors", sequences(24, 1)

    def run(batch):
        model = made()
        streams = data.Streams(xs[:, 0], batch, 4, targets=ys[:, 0])
        tbptt = training.tbptt(4)
        training.fit(model, windowed_loss, optim.SGD(model.parameters()), streams, tbptt=tbptt, save=path, steps=2, progress=False)

    run(2)
    with pytest.raises(ArgumentError, match=r"(?s)other streams.*batch=3.*batch=2") as caught:
        run(3)
    assert caught.value.__notes__ == [f"  where:  fit, about to go on from {path}; resume=False begins anew"]


def test_a_run_that_ends_early_says_why(monkeypatch, tmp_path):
    assert shown(monkeypatch, terminal=False, callbacks=[lambda run: run.stop("enough")]).endswith("stopped after step 1: enough\n")
    path = tmp_path / "run.safetensors"
    printed = shown(monkeypatch, terminal=False, save=path, callbacks=[lambda run: run.stop("enough")])
    assert printed.endswith(f"stopped after step 1: enough, saved in {path}\n")


@pytest.mark.parametrize("k1", [1, 2, 3, 4, 9])
def test_the_bar_knows_the_number_of_updates_of_truncated_bptt(monkeypatch, k1):
    xs, ys = sequences(23, 1)
    model = made()
    stream = io.StringIO()
    stream.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", stream)
    history = training.fit(
        model,
        windowed_loss,
        optim.SGD(model.parameters(), lr=0.01),
        data.Streams(xs[:, 0], 2, 4, targets=ys[:, 0]),
        epochs=2,
        tbptt=training.tbptt(k1),
    )
    assert f"{len(history)}/{len(history)}" in stream.getvalue()


def test_a_history_is_json_and_prints_as_a_table():
    model = made()
    values = iter([3.0, 1.0, 2.0])
    history = training.fit(
        model,
        loss_of,
        optim.SGD(model.parameters(), lr=0.1),
        [sequences(3, 2)],
        epochs=3,
        evaluate=lambda model: {"error": next(values)},
        progress=False,
    )
    assert json.loads(json.dumps(history.to_dict()))["losses"] == history.losses
    lines = repr(history).splitlines()
    assert lines[0] == "History(3 steps, 3 epochs, stopped: epochs)"
    assert lines[1].split() == ["step", "epoch", "training", "error"]
    assert [line.endswith("best") for line in lines[2:]] == [False, True, False]
    long = training.History()
    long.load_state_dict({**history.state_dict(), "evaluations": [{"step": n, "epoch": n, "error": 1.0} for n in range(1, 12)]})
    assert [line.split()[0] for line in repr(long).splitlines()[1:]] == ["step", "...", *map(str, range(2, 12))]
    again = training.History()
    again.load_state_dict(history.state_dict())
    assert again.to_dict() == history.to_dict()


# ---- Going on to the same bits -------------------------------------------------------------------------------------------------------


def long_run(path, steps, **keywords):
    """What a run leaves that has everything in it, its batches shuffled and prefetched: weights, history, random numbers."""
    model = made()
    adam = optim.AdamW(model.parameters(), lr=0.01)
    loader = data.Loader(
        [(x, y) for x, y in zip(*(part.swapaxes(0, 1) for part in sequences(5, 11)), strict=True)],
        4,
        shuffle=True,
        prefetch=2,
        collate=lambda items: tuple(np.stack(part, axis=1) for part in zip(*items, strict=True)),
    )
    held_out = sequences(5, 3, seed=1)
    history = training.fit(
        model,
        keywords.pop("loss", loss_of),
        adam,
        keywords.pop("batches", loader),
        steps=steps,
        schedule=optim.lr_scheduler.CosineAnnealingLR(adam, 14),
        clip_norm=1.0,
        evaluate=lambda model: F.mse_loss(model(held_out[0])[0], held_out[1]),
        every=2,
        restore_best=True,
        save=path,
        progress=False,
        **keywords,
    )
    return weights(model), history.to_dict(), tg.random.get_state()


def test_a_run_that_is_stopped_after_any_step_goes_on_to_the_same_bits(tmp_path):
    whole = long_run(tmp_path / "whole.safetensors", 14)
    for stop in range(2, 14, 2):
        path = tmp_path / f"{stop}.safetensors"
        long_run(path, stop)
        assert long_run(path, 14) == whole
    one_by_one = tmp_path / "one.safetensors"
    for step in range(2, 14, 2):
        long_run(one_by_one, step)
    assert long_run(one_by_one, 14) == whole


def test_patience_goes_on_where_it_stood(tmp_path):
    values = [3.0, 2.0, 2.5, 2.2, 2.1, 2.4, 1.0]

    def run(path, steps=None):
        model, at = made(), {}
        return training.fit(
            model,
            loss_of,
            optim.SGD(model.parameters(), lr=0.1),
            [sequences(3, 2)],
            epochs=7,
            steps=steps,
            evaluate=lambda model: values[at["step"] - 1],
            patience=3,
            save=path,
            callbacks=[lambda run: at.update(step=run.step)],
            progress=False,
        )

    whole = run(tmp_path / "whole.safetensors")
    assert whole.stopped == "patience" and whole.evaluated("evaluation") == values[:5]
    for stop in (3, 4):
        path = tmp_path / f"{stop}.safetensors"
        run(path, stop)
        assert run(path).to_dict() == whole.to_dict()


@pytest.mark.parametrize(("k1", "k2"), [(2, None), (2, 4), (2, 3), (3, 7)])
@pytest.mark.parametrize("contiguous", [False, True])
def test_so_does_one_with_truncated_bptt_stopped_within_a_batch(tmp_path, k1, k2, contiguous):
    xs, ys = sequences(60, 1)
    items = xs[:, 0].reshape(12, 5, 3), ys[:, 0].reshape(12, 5, 2)

    def run(path, steps):
        batches = data.Streams(xs[:, 0], 2, 7, targets=ys[:, 0]) if contiguous else data.Loader(items, 4, shuffle=True, rng=0)
        axis = 0 if contiguous else 1

        def loss(model, window, state):
            x, y = window if contiguous else (part.swapaxes(0, 1) for part in window)
            return windowed_loss(model, (x, y), state)

        truncated = training.tbptt(k1, k2, axis=axis)
        return long_run(path, steps, batches=batches, loss=loss, tbptt=truncated)

    whole = run(tmp_path / "whole.safetensors", 20)
    path = tmp_path / "stopped.safetensors"
    for steps in (2, 4, 8, 10, 14, 18):
        run(path, steps)
    assert run(path, 20) == whole


def test_a_run_on_a_device_goes_on_there(tmp_path, device_xp):
    device = tg.backend.device_of(device_xp.zeros(1))
    xs, ys = (device_xp.asarray(part[:, 0]) for part in sequences(24, 1))

    def run(path, steps):
        model = made().to(device)
        history = training.fit(
            model,
            windowed_loss,
            optim.Adam(model.parameters(), lr=0.01),
            data.Streams(xs, 2, 4, targets=ys),
            steps=steps,
            tbptt=training.tbptt(2, 5),
            clip_norm=1.0,
            evaluate=data.Streams(xs, 2, 4, targets=ys),
            save=path,
            progress=False,
        )
        assert tg.backend.device_of(model.out.weight.data) == device
        return weights(model), history.losses

    whole = run(tmp_path / "whole.safetensors", 8)
    run(tmp_path / "run.safetensors", 3)  # within a window of four
    assert run(tmp_path / "run.safetensors", 8) == whole


def test_batches_without_a_state_are_gone_through_again_up_to_the_place(tmp_path):
    batches = [sequences(5, 3, seed) for seed in range(5)]
    whole = long_run(tmp_path / "whole.safetensors", 14, batches=batches)
    path = tmp_path / "run.safetensors"
    for step in (2, 6, 8, 10):
        long_run(path, step, batches=batches)
    assert long_run(path, 14, batches=batches) == whole


def test_a_finished_run_returns_at_once_and_can_be_made_longer(tmp_path):
    path = tmp_path / "run.safetensors"
    first = long_run(path, 4)
    assert long_run(path, 4) == first
    assert long_run(path, 6) != first
    assert len(long_run(path, 3, resume=False)[1]["losses"]) == 3


KILLED = """
import sys
sys.path.insert(0, {tests!r})
import test_training as t
def tell(run):
    print(run.step, flush=True)
print("begins", flush=True)
weights, history, state = t.long_run({path!r}, {steps}, save_every=3, keep=2, callbacks=[tell])
import hashlib
print("done", hashlib.sha256(repr((weights, history, state)).encode()).hexdigest(), flush=True)
"""


def run_killed(path, steps, kills, rng):
    """Run it in a process of its own, kill it at random moments, and go on, until it is done; what it found, and the kills."""
    program = KILLED.format(tests=str(Path(__file__).parent), path=str(path), steps=steps)
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    killed = 0
    while True:
        process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env=environment)
        target, seen = int(rng.integers(1, 18)), 0
        try:
            for line in process.stdout:
                if line.startswith("done"):
                    return line.split()[1], killed
                seen += line.strip().isdecimal()
                if killed < kills and seen >= target:
                    try:
                        process.wait(timeout=rng.uniform(0, 0.01))
                    except subprocess.TimeoutExpired:
                        process.send_signal(signal.SIGKILL)
                        killed += 1
                        break
        finally:
            process.kill()
            process.wait()
            process.stdout.close()
        assert killed or process.returncode == 0


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
@pytest.mark.parametrize("kills", [3, pytest.param(25, marks=pytest.mark.slow)])
def test_a_run_that_is_killed_at_any_moment_goes_on_to_the_same_bits(tmp_path, kills):
    rng = np.random.default_rng(kills)
    steps = 30 * kills
    whole, _ = run_killed(tmp_path / "whole.safetensors", steps, 0, rng)
    found, killed = run_killed(tmp_path / "killed.safetensors", steps, kills, rng)
    assert killed == kills and found == whole
    assert (
        sorted(path.name for path in tmp_path.glob("killed*"))
        == [
            *(name for name in ["killed.safetensors"]),
        ]
        or len(list(tmp_path.glob("killed.*.safetensors"))) == 1
    )


# ---- Checkpoints for a loop of one's own -----------------------------------------------------------------------------------------------


def test_a_checkpoint_puts_every_part_back(tmp_path):
    path = tmp_path / "run.safetensors"
    model, rng = made(), np.random.default_rng(3)
    adam = optim.Adam(model.parameters())
    loader = data.Loader(np.arange(9), 2, shuffle=True, rng=1)
    next(batches := iter(loader))
    xs, ys = sequences(3, 2)

    def go_on(model, adam, loader, rng):
        adam.zero_grad()
        loss_of(model, (xs, ys)).backward()
        adam.step()
        return weights(model), [b.tolist() for b in loader], rng.random(), tg.random.standard_normal(2).tolist()

    go_on(model, adam, [], rng)
    training.save_checkpoint(path, model=model, optimizer=adam, batches=loader, mine=rng, step=5, notes=["a", 1.5])
    batches.close()
    first = go_on(model, adam, [], rng)
    other = made(seed=1)
    parts = {
        "model": other,
        "optimizer": optim.Adam(other.parameters()),
        "batches": data.Loader(np.arange(9), 2, shuffle=True, rng=8),
        "mine": np.random.default_rng(9),
    }
    assert training.restore_checkpoint(path, **parts) == {"step": 5, "notes": ["a", 1.5]}
    again = go_on(other, parts["optimizer"], [], parts["mine"])
    assert again == first
    assert len(list(parts["batches"])) == 4  # the one in hand was given out


def test_some_older_checkpoints_are_kept(tmp_path):
    path = tmp_path / "run.safetensors"
    for step in range(6):
        training.save_checkpoint(path, keep=3, step=step)
    names = sorted(file.name for file in tmp_path.iterdir())
    assert names == ["run.4.safetensors", "run.5.safetensors", "run.safetensors"]
    assert [training.restore_checkpoint(tmp_path / name)["step"] for name in names] == [3, 4, 5]


def test_checkpoints_that_do_not_fit_say_so(tmp_path):
    path = tmp_path / "run.safetensors"
    tg.save({"a": 1}, path)
    with pytest.raises(ArgumentError, match="is no checkpoint"):
        training.restore_checkpoint(path)
    training.save_checkpoint(path, model=made(), step=1)
    with pytest.raises(ArgumentError, match=r"has no optimizer(?s:.*)model, step"):
        training.restore_checkpoint(path, optimizer=optim.SGD(made().parameters(), lr=1))
    other = made()
    other.drop = nn.Dropout(0.3)
    with pytest.raises(ArgumentError, match="same rng= arguments"):
        training.restore_checkpoint(path, model=other)
    with pytest.raises(FileError):
        training.restore_checkpoint(tmp_path / "none.safetensors")


# ---- The document ----------------------------------------------------------------------------------------------------------------------


def test_the_examples_of_the_document_train_write_and_go_on(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    document = Path(__file__).parent.parent / "docs" / "training.md"
    first, *others = re.findall(r"(?ms)^```python$\n(.*?)^```$", document.read_text(encoding="utf-8"))
    known = {}
    exec(first, known)
    steps, best, final = len(known["history"]), known["history"].best["loss"], weights(known["model"])
    assert len(known["train"]) // 8 // 16 + 1 == 15 and steps == 8 * 15 and best < 0.3
    exec(first, known)
    assert len(known["history"]) == steps and weights(known["model"]) == final
    for block in others:
        exec(block, known)
    assert known["written"] == "she sells sea shells by "
    assert known["vocabulary"].decode(known["ids"]) == "she sells sea shells by "
    assert known["rest"] == {"note": "mine"}
