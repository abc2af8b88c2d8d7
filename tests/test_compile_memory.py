"""Where values of a compiled loop lie, and which loop is remembered for whom: cells that once read the memory of another."""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable
from random import Random
from typing import Any, NamedTuple

import numpy as np
import pytest
from compiled import Run, same_as_unfolded
from random_cells import random_call, random_cell
from test_compile_cells import over_time

import tinygrad_seq as tg
from tinygrad_seq.compile.surroundings import Surroundings
from tinygrad_seq.nn import functional as F

T, B, D, H = 3, 3, 2, 4


def leaves(**shapes: tuple[int, ...]) -> dict[str, tg.Tensor]:
    """Leaves of these shapes, the same each time."""
    rng = np.random.default_rng(0)
    return {name: tg.tensor(0.5 * rng.standard_normal(shape), requires_grad=True) for name, shape in shapes.items()}


def blocks_that_share_the_second_of_two_products() -> Run:
    given = leaves(xs=(T, B, D), h=(B, H), p=(H, H), q=(2 * H, H), r=(H, H))

    def step(x, h, p, q, r):
        z = F.linear(h, q)
        return tg.tanh(F.linear(h, p) + z[:, :H]) * tg.tanh(F.linear(h, r) + z[:, H:]) + x[:, :1]

    xs, h, *weights = given.values()
    return Run({"out": tg.scan(step, xs, h, weights)}, given)


def blocks_that_share_the_second_of_two_biases() -> Run:
    given = leaves(xs=(T, B, D), h=(B, H), p=(H, D), q=(2 * H, H), r=(H, D), b=(H,), c=(H,), d=(2 * H,))

    def step(x, h, p, q, r, b, c, d):
        z = F.linear(h, q, d)
        return tg.sigmoid(F.linear(x, p, b) + z[:, :H]) * tg.sigmoid(F.linear(x, r, c) + z[:, H:])

    xs, h, *weights = given.values()
    return Run({"out": tg.scan(step, xs, h, weights)}, given)


def views_that_outlive_their_array() -> Run:
    given = leaves(xs=(T, B, H), h=(B, H), w=(H, H))

    def inner(x, h):
        return tg.tanh(h + x * h), (h * x,)

    def step(x, h, w):
        hs, last, collected = tg.scan(inner, tg.stack([x, h]), h @ w, collect=True)
        return last + hs[1], (collected[0].sum(axis=0),)

    return Run({"out": tg.scan(step, given["xs"], given["h"], (given["w"],), collect=True)}, given)


def products_of_several_widths_cut_into_blocks() -> Run:
    given = leaves(xs=(2, 64, 64), h=(64, 512), w=(512, 64), u=(512, 512))

    def step(x, h, w, u):
        return tg.tanh(0.1 * F.linear(h * tg.tanh(F.linear(x, w)), u))

    xs, h, *weights = given.values()
    return Run({"out": tg.scan(step, xs, h, weights)}, given)


@pytest.mark.parametrize(
    "run",
    [
        blocks_that_share_the_second_of_two_products,
        blocks_that_share_the_second_of_two_biases,
        views_that_outlive_their_array,
        products_of_several_widths_cut_into_blocks,
    ],
)
def test_no_value_lies_where_another_is_read(run: Callable[[], Run]):
    same_as_unfolded(run)


def test_a_loop_found_with_one_weight_twice_serves_no_two_weights():
    given = leaves(xs=(T, B, D), h=(B, H), a=(H, H), b=(H, H))

    def step(x: Any, h: Any, a: Any, b: Any) -> Any:
        return tg.tanh(F.linear(h, a) - F.linear(h * h, b) + x[:, :1])

    for names in ("aa", "aa", "ab", "ba", "bb"):
        same_as_unfolded(lambda names=names: Run({"out": tg.scan(step, given["xs"], given["h"], [given[n] for n in names])}, given))


def test_a_loop_found_with_a_weight_both_given_and_captured_serves_no_other():
    given = leaves(xs=(T, B, D), h=(B, H), a=(H, H), b=(H, H))
    captured = given["a"]

    def step(x: Any, h: Any, w: Any) -> Any:
        return tg.tanh(F.linear(h, w) + 2 * F.linear(h, captured) + x[:, :1])

    for name in "aabba":
        same_as_unfolded(lambda name=name: Run({"out": tg.scan(step, given["xs"], given["h"], (given[name],))}, given))


def masked_by_a_truth(x: Any, h: Any) -> Any:
    return tg.tanh(h + x) * (h > 0)


def times_a_whole_number(x: Any, h: Any) -> Any:
    return tg.tanh(h + x) * tg.argmax(h, axis=-1, keepdims=True)


@pytest.mark.parametrize(
    ("step", "dtype"), [(masked_by_a_truth, "float32"), (masked_by_a_truth, "float64"), (times_a_whole_number, "float64")]
)
def test_factors_that_are_no_floats(step: Any, dtype: str):
    given = {name: tg.tensor(a.numpy().astype(dtype), requires_grad=True) for name, a in leaves(xs=(T, B, H), h=(B, H)).items()}
    same_as_unfolded(lambda: Run({"out": tg.scan(step, given["xs"], given["h"])}, given), tolerance=1e-5)


def test_a_state_that_changes_its_dtype_does_so_compiled_or_not():
    given = {name: tg.tensor(a.numpy().astype("float32"), requires_grad=True) for name, a in leaves(xs=(T, B, H), h=(B, H)).items()}
    for number in (2.0, np.float64(2.0)):
        run = lambda number=number: Run({"out": tg.scan(lambda x, h: tg.tanh(h + x) * number, given["xs"], given["h"])}, given)  # noqa: E731
        same_as_unfolded(run, tolerance=1e-5, loops=None)


class Settings:
    """Answers to every name."""

    def __getattr__(self, name: str) -> None:
        return None


def test_an_object_that_has_every_attribute_stands_around_a_step():
    given, settings = leaves(xs=(T, B, H), h=(B, H)), Settings()
    step = lambda x, h: tg.tanh(h + x) * (2 if settings.gain is None else 1)  # noqa: E731
    same_as_unfolded(lambda: Run({"out": tg.scan(step, given["xs"], given["h"])}, given), loops=None)


# ---- What changes around a step -------------------------------------------------------------------------------------------------------

SLOPE = 1.0


@tg.primitive
def reversed_slope(x: Any) -> Any:
    return x * 1.0


tg.defvjp(reversed_slope, lambda g, y, x: -SLOPE * g)


def test_a_global_in_the_derivative_rule_of_an_op_is_looked_at(monkeypatch: pytest.MonkeyPatch):
    given = leaves(xs=(T, B, H), h=(B, H))
    for slope in (1.0, 0.5, 2.0):
        monkeypatch.setitem(globals(), "SLOPE", slope)
        same_as_unfolded(lambda: Run({"out": tg.scan(lambda x, h: tg.tanh(reversed_slope(h) + x), given["xs"], given["h"])}, given))


def test_a_wrapper_of_a_function_of_ours_is_not_taken_for_it():
    given, count = leaves(xs=(T, B, D), h=(B, H), w=(H, D), u=(H, H)), [0]

    @functools.wraps(F.rnn_step)
    def counted(*args: Any) -> Any:
        count[0] += 1
        return F.rnn_step(*args)

    for _ in range(2):
        count[0] = 0
        same_as_unfolded(
            lambda: Run({"out": tg.scan(counted, given["xs"], given["h"], (given["w"], given["u"]))}, given), loops=None
        )
        assert count[0] == 2 * T  # compiled or not, and unfolded


class Base:
    gain = 1.0


class Derived(Base):
    __slots__ = ("shift",)

    def __init__(self) -> None:
        self.shift = 0.0

    def __call__(self, x: Any, h: Any) -> Any:
        return tg.tanh(self.gain * h + x + self.shift)


def test_attributes_of_base_classes_and_slots_are_looked_at(monkeypatch: pytest.MonkeyPatch):
    given, step = leaves(xs=(T, B, H), h=(B, H)), Derived()
    for gain, shift in ((1.0, 0.0), (0.5, 0.0), (0.5, 0.25), (-0.0, 0.25), (0.0, 0.25)):
        monkeypatch.setattr(Base, "gain", gain)
        step.shift = shift
        same_as_unfolded(lambda: Run({"out": tg.scan(step, given["xs"], given["h"])}, given))


def test_a_counter_in_an_array_makes_every_step_run():
    given, count = leaves(xs=(T, B, H), h=(B, H)), np.zeros(1, int)

    def step(x: Any, h: Any) -> Any:
        count[0] += 1
        return tg.tanh(h + x) * (1.0 if count[0] % T < 3 else 2.0)

    def run() -> Run:
        count[0] = 0
        return Run({"out": tg.scan(step, given["xs"], given["h"])}, given)

    for _ in range(2):
        same_as_unfolded(run, loops=None)


def test_a_long_list_beside_a_cell_is_not_walked_at_every_call():
    words = [str(i) for i in range(50_000)]
    around = Surroundings(lambda x, h: tg.tanh(h + x) * (len(words) / 50_000))
    assert around.count < 50 and not around.certain


def test_what_is_not_finite_in_a_row_that_goes_on_stays_what_it_is():
    xs, h = (tg.tensor(a.numpy(), requires_grad=True) for a in leaves(xs=(T, B, H), h=(B, H)).values())
    found = []
    for unfolded in (False, True):
        with tg.unfolded() if unfolded else contextlib.nullcontext():
            hs, _ = tg.scan(lambda x, h: h + x, xs, h, lengths=[T, *[2] * (B - 1)])
            cotangent = np.ones(hs.shape)
            cotangent[1, 0] = np.inf
            found.append([g.numpy() for g in tg.grad(hs, [xs, h], cotangent)])
    for a, b in zip(*found, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("seed", range(30))
def test_products_cut_into_blocks_are_the_same(seed: int, monkeypatch: pytest.MonkeyPatch):
    from tinygrad_seq.compile import numpy_lines

    monkeypatch.setattr(numpy_lines, "SMALL", 30)  # as if the matrices were large
    monkeypatch.setattr(numpy_lines, "FEWEST", 1)
    rng = Random(seed)
    cell, call = random_cell(rng, rng.randint(3, 12)), random_call(rng)
    same_as_unfolded(lambda: over_time(cell, call))


def test_numbers_of_a_rule_leave_the_dtype_alone():
    given = {name: tg.tensor(a.numpy().astype("float32"), requires_grad=True) for name, a in leaves(xs=(T, B, H), h=(B, H)).items()}
    compiled = tg.compile_scan(lambda x, h: F.layer_norm(h + x, (H,)), given["xs"][0], given["h"])
    assert "float64" not in compiled.source


class Functions(NamedTuple):
    squash: Any


def test_a_step_that_is_given_its_functions_in_a_named_tuple_is_traced_once():
    given, calls = leaves(xs=(T, B, H), h=(B, H)), []
    step = functools.partial(lambda functions, x, h: functions.squash(h + x), Functions(tg.tanh))
    tg.scan(step, given["xs"], given["h"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules["tinygrad_seq.scan"], "run", lambda *args: calls.append(args))
        tg.scan(step, given["xs"], given["h"])
    assert not calls
