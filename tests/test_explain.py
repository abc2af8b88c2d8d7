"""compile_scan shows a loop, explain_compile says which loops are compiled; every reason why one is not says what to do."""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from strict_cupy import installed, xp

import tinygrad_seq as tg
from tinygrad_seq import nn
from tinygrad_seq.compile import adjoint, loop, names, trace
from tinygrad_seq.nn import functional as F

T, B, D, H = 4, 2, 3, 5
RNG = np.random.default_rng(0)


def leaf(*shape: int, dtype: str = "float64") -> tg.Tensor:
    return tg.tensor(RNG.standard_normal(shape).astype(dtype), requires_grad=True)


def simple(x: Any, h: Any, w: Any, u: Any) -> Any:
    return tg.tanh(F.linear(x, w) + F.linear(h, u))


def problem() -> tuple[Any, Any, tuple[Any, Any]]:
    return leaf(B, D), leaf(B, H), (leaf(H, D), leaf(H, H))


LSTM = (4 * H, D), (4 * H, H), (4 * H,), (4 * H,)


# ---- One loop ----------------------------------------------------------------------------------------------------------------------------


def test_a_loop_is_shown_with_the_names_of_the_step() -> None:
    loop = tg.compile_scan(F.lstm_step, leaf(B, D), (leaf(B, H), leaf(B, H)), [leaf(*shape) for shape in LSTM])
    assert loop.forward.startswith("def forward(") and loop.backward.startswith("def backward(")
    assert loop.source.split() == (loop.forward + loop.backward).split()
    for name in ("w_ih", "w_hh", "b_ih", "b_hh"):
        assert name in loop.forward and f"{name} " in repr(loop)
    assert repr(loop).startswith(f"a compiled time loop: {len(loop.trace.calls)} ops a step")
    assert "weight0" not in loop.source


def test_arrays_and_tensors_are_examples_alike() -> None:
    x, h, weights = problem()
    arrays = x.numpy(), h.numpy(), [w.numpy() for w in weights]
    assert tg.compile_scan(F.rnn_step, *arrays).source == tg.compile_scan(F.rnn_step, x, h, weights).source


def test_nothing_is_looked_up_or_remembered() -> None:
    x, h, weights = problem()
    assert tg.compile_scan(F.rnn_step, x, h, weights) is not tg.compile_scan(F.rnn_step, x, h, weights)


def test_a_cell_is_a_step() -> None:
    loop = tg.compile_scan(nn.LSTMCell(D, H, rng=0), np.ones((B, D), "float32"), (np.ones((B, H), "float32"),) * 2)
    assert len(loop.names) == 4


def test_what_cannot_be_compiled_is_an_error_with_the_reason() -> None:
    x, h, weights = problem()
    with pytest.raises(tg.errors.ArgumentError, match="reads the numbers of a Tensor") as error:
        tg.compile_scan(lambda x, h, w, u: simple(x, h, w, u) * float(h.sum()), x, h, weights)
    assert "do: " in str(error.value)
    for wrong in ((3, x, h, weights), (simple, 3, h, weights), (simple, x, None, weights)):
        with pytest.raises(tg.errors.ArgumentError, match="compile_scan"):
            tg.compile_scan(*wrong)


# ---- Names ---------------------------------------------------------------------------------------------------------------------------------


def test_weights_are_called_as_the_module_calls_them() -> None:
    class Mine(nn.Module):
        def __init__(self) -> None:
            self.hidden_size, self.w, self.u = H, nn.Linear(D, H), nn.Linear(H, H, bias=False)

        def forward(self, x: Any, h: Any) -> Any:
            return tg.tanh(self.w(x) + self.u(h))

    told = tg.explain_compile(Mine())
    assert told.compiled and all(name in told.source for name in ("w_weight", "w_bias", "u_weight"))


def test_names_that_the_text_uses_itself_are_changed_and_each_stands_once() -> None:
    x, h, weights = problem()

    def step(x: Any, h: Any, T: Any, tanh: Any) -> Any:
        return simple(x, h, T, tanh)

    assert tg.compile_scan(step, x, h, weights).names == ["weight_T", "weight_tanh"]
    square = leaf(H, H)
    square.name = "u"
    assert tg.compile_scan(lambda x, h, w, u: simple(x, h, w, u) @ square, x, h, weights).names == ["w", "u", "u_b"]
    awkward = {
        "w1": "weight_w1",
        "lambda": "weight_lambda",
        "cells.0.b": "cells_0_b",
        "x_t": "weight_x_t",
        "σ": "weight",
        "": "weight",
    }
    assert {name: names.identifier(name) for name in awkward} == awkward


def test_stacks_over_time_are_called_after_their_state_unless_a_weight_is() -> None:
    x, state, weights = leaf(B, D), (leaf(B, H), leaf(B, H)), [leaf(*shape) for shape in LSTM]
    assert "cs_new" in tg.compile_scan(F.lstm_step, x, state, weights).forward

    def step(x: Any, h: Any, c: Any, cs: Any, *others: Any) -> Any:
        return F.lstm_step(x, h, c, cs, *others)

    loop = tg.compile_scan(step, x, state, weights)
    assert "cs" in loop.names and "s1_new" in loop.forward and "cs_new" not in loop.forward


def test_the_numbers_do_not_depend_on_names() -> None:
    x, h, weights = leaf(T, B, D), leaf(B, H), problem()[2]

    def step(x: Any, h: Any, saved: Any, mask: Any) -> Any:
        return simple(x, h, saved, mask) * saved.sum()

    found = tg.scan(step, x, h, weights)[0]
    with tg.unfolded():
        np.testing.assert_allclose(found.numpy(), tg.scan(step, x, h, weights)[0].numpy(), rtol=1e-12)


# ---- What is told -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("made", [nn.LSTMCell, nn.GRUCell, nn.RNNCell, nn.LSTM, nn.GRU, nn.RNN], ids=lambda made: made.__name__)
def test_of_a_layer_or_cell_it_suffices_to_ask(made: Any) -> None:
    with tg.scan_target("numpy"):
        told = tg.explain_compile(made(D, H))
        assert told.compiled and told.target == "numpy" and told.reason is None
    assert str(told).startswith(f"{made.__name__}: 1 time loop, 1 compiled\n{made.__name__}") and "def backward(" in told.source


def test_every_loop_of_a_model_is_told() -> None:
    told = tg.explain_compile(nn.LSTM(D, H, num_layers=2, bidirectional=True), np.ones((T, B, D), "float32"))
    assert [loop.name for loop in told.loops] == [f"LSTM > layer {layer}{way}" for layer in (0, 1) for way in ("", "_reverse")]
    assert str(told).startswith("LSTM: 4 time loops, 4 compiled")


def test_a_function_is_called_and_a_step_is_put_in_a_loop() -> None:
    x, h, weights = problem()
    told = [
        tg.explain_compile(lambda xs: tg.scan(simple, xs, h, weights)[0].sum(), leaf(T, B, D)),
        tg.explain_compile(simple, x, h, weights),
        tg.explain_compile(simple, x, h, weights=weights),
        tg.explain_compile(functools.partial(simple, w=weights[0], u=weights[1]), x, h),
        tg.explain_compile(nn.LSTMCell(D, H, dtype="float64"), x, (h, h)),
    ]
    assert [(t.compiled, len(t.loops), t.reason) for t in told] == [(True, 1, None)] * 5


def test_equal_lines_are_told_once() -> None:
    _, h, weights = problem()

    def step(x: Any, h: Any) -> Any:
        return simple(x, h * float(h.sum()), *weights)

    told = tg.explain_compile(lambda xs: [tg.scan(step, xs, h, name="mine") for _ in range(3)], leaf(T, B, D))
    assert "mine (3 times): runs unfolded" in str(told) and not told.compiled and told.target == "unfolded"


def test_modes_that_run_every_step_are_told() -> None:
    x, h, weights = problem()
    with tg.unfolded():
        assert "unfolded()" in str(tg.explain_compile(simple, x, h, weights).reason)
    with tg.detect_anomaly():
        assert "detect_anomaly()" in str(tg.explain_compile(simple, x, h, weights).reason)


def test_without_a_loop_there_is_nothing_to_tell() -> None:
    told = tg.explain_compile(nn.Linear(D, H), np.ones((B, D), "float32"))
    assert not told.compiled and "no time loop ran" in str(told) and told.reason in str(told)


@pytest.mark.parametrize("what", [3, F.rnn_step, nn.Linear(D, H)], ids=["number", "function", "layer"])
def test_what_cannot_be_answered_is_asked_for(what: Any) -> None:
    with pytest.raises(tg.errors.ArgumentError, match="explain_compile") as error:
        tg.explain_compile(what)
    assert "expected:" in str(error.value)


def test_an_error_of_the_step_is_its_own() -> None:
    x, h, (w, _) = problem()
    with pytest.raises(tg.errors.ShapeError, match="linear"):
        tg.explain_compile(simple, x, h, (w, w))
    with pytest.raises(ZeroDivisionError):
        tg.explain_compile(lambda a, b, c, d: 1 / 0, 1, 2, 3, 4)


# ---- Why not -------------------------------------------------------------------------------------------------------------------------------

Why = Callable[[], Any]
REASONS: dict[str, tuple[str, Why]] = {}


def reason(text: str) -> Callable[[Why], Why]:
    """The explanation that the function asks for has this in it."""

    def note(f: Why) -> Why:
        REASONS[f.__name__.replace("_", " ")] = text, f
        return f

    return note


def asked(step: Any) -> Any:
    return tg.explain_compile(step, *problem())


@reason("it draws random numbers, new ones at every step")
def random_numbers() -> Any:
    return asked(lambda x, h, w, u: simple(x, F.dropout(h, 0.5), w, u))


@reason("it reads the numbers of a Tensor")
def numbers_read() -> Any:
    return asked(lambda x, h, w, u: simple(x, h, w, u) if float(h.sum()) > 0 else simple(x, -h, w, u))


@reason("it writes into an array in place, float64 (5,)")
def written_in_place() -> Any:
    mean = tg.zeros(H, "float64")

    def step(x: Any, h: Any, w: Any, u: Any) -> Any:
        with tg.no_grad():
            mean[...] = 0.5
        return simple(x, h, w, u) - mean

    return asked(step)


@reason("it changes something outside itself")
def random_numbers_of_numpy() -> Any:
    return asked(lambda x, h, w, u: simple(x, h, w, u) + np.random.rand(H))


class Counting:
    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, x: Any, h: Any, w: Any, u: Any) -> Any:
        self.calls += 1
        return simple(x, h, w, u)


@reason("it changes `self.calls` outside itself")
def counted_by_an_object() -> Any:
    return asked(Counting())


@reason("it changes `count.calls` outside itself")
def counted_by_an_object_that_the_step_calls() -> Any:
    count = Counting()
    return asked(lambda x, h, w, u: count(x, h, w, u))


@reason("it changes `states` outside itself")
def kept_outside() -> Any:
    states: list[Any] = []

    def step(x: Any, h: Any, w: Any, u: Any) -> Any:
        states.append(h)
        return simple(x, h, w, u)

    return asked(step)


@reason("its arrays are of several dtypes: the state is float64 (2, 5), x float32 (2, 3)")
def dtypes_of_x_and_state() -> Any:
    x, h, weights = problem()
    return tg.explain_compile(simple, x.astype("float32"), h, weights)


@reason("its arrays are of several dtypes: the state is float32 (2, 5), a weight float64 (5, 3)")
def dtypes_of_weights_and_state() -> Any:
    x, h, weights = problem()
    step = lambda x, h, w, u: simple(x, h, w, u).astype("float32")  # noqa: E731
    return tg.explain_compile(step, x.astype("float32"), h.astype("float32"), weights)


@reason("x is int64 (2,)")
def integers() -> Any:
    _, h, (_, u) = problem()
    return tg.explain_compile(
        lambda x, h, table, u: tg.tanh(F.embedding(x, table) + F.linear(h, u)), np.array([0, 1]), h, (leaf(7, H), u)
    )


@reason("its arrays are strict_cupy's, float64 (2, 3)")
def arrays_of_a_device() -> Any:
    x, h, weights = problem()
    move = lambda a: xp.asarray(a.numpy())  # noqa: E731
    with installed():
        return tg.explain_compile(simple, move(x), move(h), tuple(map(move, weights)))


@reason("ops long")
def too_many_ops() -> Any:
    def step(x: Any, h: Any, w: Any, u: Any) -> Any:
        h = simple(x, h, w, u)
        for _ in range(trace.MOST):
            h = h * 0.999
        return h

    return asked(step)


@reason("float64 (2, 5), which does not come out of its arguments")
def nothing_of_its_arguments() -> Any:
    return asked(lambda x, h, w, u: tg.tensor(np.ones((B, H))))


@reason("its op getitem has int64 (5000,) as a parameter")
def parameter_too_large() -> Any:
    places = np.arange(5000) % H
    return asked(lambda x, h, w, u: simple(x, h, w, u) + h[:, places].sum(axis=1, keepdims=True))


@reason("its op double has an object of the type Odd as a parameter")
def parameter_of_any_kind() -> Any:
    @tg.primitive
    def double(a: Any, /, *, of: Any = None) -> Any:
        return 2 * a

    tg.defvjp(double, lambda g, y, a, of: 2 * g)
    return asked(lambda x, h, w, u: double(simple(x, h, w, u), of=type("Odd", (), {"__hash__": None})()))


@reason("whose numbers are others at its second step")
def other_numbers_at_each_step() -> Any:
    return asked(lambda x, h, w, u: simple(x, h, w, u) + np.full(H, time.perf_counter()))


@reason("it refers to an iterator, which gives something else at every step")
def iterator() -> Any:
    counter = itertools.count()
    return asked(lambda x, h, w, u: simple(x, h, w, u) * next(counter))


@reason("the equations of its second step are others: multiply(")
def other_equations_at_each_step() -> Any:
    return asked(lambda x, h, w, u: simple(x, h, w, u) * time.perf_counter())


@reason("it was given arrays, and cannot do with Tensors")
def only_arrays() -> Any:
    x, h, weights = problem()
    step = lambda x, h, w, u: np.tanh(x @ w.T + h.dot(u.T)) + 0 * h.strides[0]  # noqa: E731
    return tg.explain_compile(step, x.numpy(), h.numpy(), [w.numpy() for w in weights])


@reason("(0, 3) is empty")
def no_rows() -> Any:
    return tg.explain_compile(simple, np.ones((0, D)), np.ones((0, H)), problem()[2])


@pytest.mark.parametrize("name", REASONS)
def test_every_reason_says_what_was_expected_what_came_and_what_to_do(name: str) -> None:
    text, ask = REASONS[name]
    for _ in range(2):  # the second time as the first
        told = ask()
        assert not told.compiled and told.target == "unfolded" and told.source == ""
        assert text in told.reason and told.reason in str(told)
        assert "  expected:" in told.reason and ("  do:" in told.reason or name == "no rows")


def test_the_line_of_the_step_is_told() -> None:
    text = str(REASONS["numbers read"][1]())
    assert "test_explain.py:" in text and "if float(h.sum()) > 0" in text
    assert "test_explain.py:" not in str(tg.explain_compile(nn.Recurrent(nn.GRUCell(D, H)), np.ones((T, B, D))))


def test_what_returns_no_array_is_an_error_of_scan_and_of_compile_scan() -> None:
    for ask in (tg.explain_compile, tg.compile_scan):
        with pytest.raises(tg.errors.ArgumentError, match="return.* 'text'"):
            ask(lambda x, h, w, u: "text", *problem())


def test_a_failure_of_the_compiler_is_told_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("planted")

    monkeypatch.setattr(adjoint, "derive", broken)
    monkeypatch.setattr(loop, "strict", False)
    told = asked(lambda x, h, w, u: simple(x, h, w, u) * 0.123)
    assert "the compiler failed: RuntimeError: planted" in told.reason
