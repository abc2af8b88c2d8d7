"""Every public op against its row in the op table: value, dtype, gradients of order 1 and 2, on every back-end.

Shapes, axes and parameters are drawn by hypothesis, the same ones in every run; `-m slow` draws many more.
"""

from __future__ import annotations

import contextlib
import inspect
import sys
from collections.abc import Callable
from typing import Any

import hypothesis
import numpy as np
import pytest
import rows_elementwise
from op_table import Case, Row, rows

import tinygrad_seq as tg
from tinygrad_seq import ops
from tinygrad_seq.testing import assert_close, check_grads

NO_ROW = {"write": "changes a Tensor in place and returns nothing: test_indexing.py"}

ROWS = rows()
every_row = pytest.mark.parametrize("row", ROWS, ids=str)
every_differentiable_row = pytest.mark.parametrize("row", [row for row in ROWS if row.order], ids=str)
few_and_many = pytest.mark.parametrize("examples", [6, pytest.param(40, marks=pytest.mark.slow)])


def for_cases(row: Row, examples: int, check: Callable[[Case], None]) -> None:
    """Run the check on that many cases drawn from the row."""
    hypothesis.settings(max_examples=examples)(hypothesis.given(row.cases)(lambda case: check(case)))()


def is_float(x: Any) -> bool:
    return isinstance(x, np.ndarray) and x.dtype.kind == "f"


def mapped(case: Case, f: Callable[[np.ndarray], Any], only: Callable[[Any], bool] = lambda x: isinstance(x, np.ndarray)) -> Case:
    """The case with f of its arrays in their place."""
    return case._replace(args=tuple(f(x) if only(x) else x for x in case.args))


def leaves(case: Case, xp: Any) -> tuple[list[tg.Tensor], Case]:
    """The float arrays of the case as leaves on the back-end, and the case with them and all other arrays in their places."""
    xs: list[tg.Tensor] = []

    def leaf(x: np.ndarray) -> tg.Tensor:
        xs.append(tg.Tensor(xp.asarray(x), requires_grad=True))
        return xs[-1]

    placed = mapped(mapped(case, leaf, is_float), xp.asarray)
    return xs, placed


def outputs(result: Any) -> list[Any]:
    return list(result) if isinstance(result, (tuple, list)) else [result]


# ---- Values and dtypes ------------------------------------------------------------------------------------------------------------


@few_and_many
@every_row
def test_value_equals_numpy_and_arrays_in_give_arrays_out(row: Row, xp: Any, examples: int) -> None:
    array_type = (np.ndarray, np.generic) if xp is np or row.name == "to_device" else xp.ndarray

    def check(case: Case) -> None:
        expected = outputs(row.call(row.numpy, case))
        bare = outputs(row.call(row.op, mapped(case, xp.asarray)))
        tensors = outputs(row.call(row.op, mapped(case, lambda x: tg.Tensor(xp.asarray(x)))))
        assert len(expected) == len(bare) == len(tensors)
        for e, b, t in zip(expected, bare, tensors, strict=True):
            assert isinstance(b, array_type)
            assert isinstance(t, tg.Tensor)
            assert_close(b, e, rtol=1e-9, atol=1e-12)
            assert_close(t, e, rtol=1e-9, atol=1e-12)

    for_cases(row, examples, check)


@few_and_many
@every_row
def test_float32_stays_float32_and_so_does_its_gradient(row: Row, xp: Any, examples: int) -> None:
    def check(case: Case) -> None:
        case = mapped(case, lambda x: x.astype(np.float32), is_float)
        xs, placed = leaves(case, xp)
        ys = outputs(row.call(row.op, placed))
        for y, e in zip(ys, outputs(row.call(row.numpy, case)), strict=True):
            assert_close(y, e, rtol=1e-4, atol=1e-5)
        for y in ys:
            if isinstance(y, tg.Tensor) and y.requires_grad:
                found = tg.grad(y, xs, tg.ones_like(y), allow_unused=True)
                assert all(g is None or (g.dtype, g.shape) == (np.float32, x.shape) for g, x in zip(found, xs, strict=True))

    for_cases(row, examples, check)


SPECIAL = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 0.5, -0.5, 1.0, -1.0, 3.0, 1e300, -1e300, 1e-300])


@pytest.mark.parametrize("row", [row for row in rows_elementwise.ROWS if hasattr(row.op, "primitive") and not row.label], ids=str)
def test_special_numbers_give_what_numpy_gives(row: Row) -> None:
    grid = np.meshgrid(*[SPECIAL] * int(row.op.primitive.arrays))
    with np.errstate(all="ignore"):
        assert_close(row.op(*grid), row.numpy(*grid), rtol=1e-12, atol=1e-300)


# ---- Gradients --------------------------------------------------------------------------------------------------------------------


@few_and_many
@every_differentiable_row
def test_gradients_of_order_1_and_2_equal_central_differences(row: Row, examples: int) -> None:
    def check(case: Case) -> None:
        places = [i for i, x in enumerate(case.args) if is_float(x)]

        def f(*xs: tg.Tensor) -> Any:
            args = list(case.args)
            for i, x in zip(places, xs, strict=True):
                args[i] = x
            return row.call(row.op, case._replace(args=tuple(args)))

        f.__name__ = row.name
        if places:
            check_grads(f, [case.args[i] for i in places], row.order)

    for_cases(row, examples, check)


def gradients(row: Row, case: Case, xp: Any) -> list[np.ndarray | None]:
    """Of order 1 on bare arrays, of order 1 recorded, and of order 2; weighted by numbers that do not depend on the back-end."""
    xs, case = leaves(case, xp)

    def weights(ys: list[Any]) -> list[Any]:
        return [tg.Tensor(np.random.default_rng(i).standard_normal(y.shape)).to(y.device) for i, y in enumerate(ys)]

    syncs = contextlib.nullcontext() if row.waits or xp.__name__ != "strict_cupy" else sys.modules["strict_cupy"].no_syncs()
    with syncs:
        ys = [y for y in outputs(row.call(row.op, case)) if isinstance(y, tg.Tensor) and y.requires_grad]
        if not ys:
            return []
        bare = tg.grad(ys, xs, weights(ys), allow_unused=True)
        recorded = tg.grad(ys, xs, weights(ys), create_graph=True, allow_unused=True)
        again = [g for g in recorded if g is not None and g.requires_grad]
        second = tg.grad(again, xs, weights(again), allow_unused=True) if again and row.order > 1 else ()
    return [g if g is None else g.numpy() for g in (*bare, *recorded, *second)]


@few_and_many
@every_differentiable_row
def test_gradients_on_a_device_equal_those_on_the_host(row: Row, device_xp: Any, examples: int) -> None:
    def check(case: Case) -> None:
        there, here = gradients(row, case, device_xp), gradients(row, case, np)
        assert len(there) == len(here)
        for t, h in zip(there, here, strict=True):
            assert (t is None) == (h is None)
            if t is not None:
                assert_close(t, h, rtol=1e-8, atol=1e-10)

    for_cases(row, examples, check)


@pytest.mark.parametrize("row", [row for row in ROWS if not row.order], ids=str)
def test_what_has_no_gradient_is_a_constant(row: Row) -> None:
    def check(case: Case) -> None:
        _, placed = leaves(case, np)
        for y in outputs(row.call(row.op, mapped(placed, tg.Tensor))):
            assert isinstance(y, tg.Tensor)
            assert not y.requires_grad

    for_cases(row, 3, check)


# ---- Rules that keep their digits where the plain formula loses them --------------------------------------------------------------------


def gradient(f: Callable[..., Any], *xs: Any) -> list[np.ndarray]:
    tensors = [tg.Tensor(x, requires_grad=True) for x in xs]
    return [g.numpy() for g in tg.grad(f(*tensors).sum(), tensors)]


def test_the_gradient_of_logsumexp_is_exact_in_float32_where_its_value_is_rounded() -> None:
    x = np.array([1000.0, 1000.7, 999.1, 998.6], np.float32)
    exact = np.exp(x.astype(np.float64) - 1000)
    assert_close(gradient(tg.logsumexp, x)[0], (exact / exact.sum()).astype(np.float32), rtol=3e-7)


def test_the_gradient_of_expm1_keeps_its_digits_far_below_zero() -> None:
    assert_close(gradient(tg.expm1, np.array([-30.0]))[0], np.exp([-30.0]), rtol=1e-14)


def test_the_gradient_of_arcsin_keeps_its_digits_near_one() -> None:
    below = 2.0**-40  # of 1; the exact slope is 1 / sqrt(below (2 - below))
    assert_close(gradient(tg.arcsin, np.array([1 - below]))[0], [1 / np.sqrt(below * (2 - below))], rtol=1e-14)


@pytest.mark.parametrize("size", [1e-200, 1e200])
def test_lengths_and_angles_neither_overflow_nor_vanish_on_the_way(size: float) -> None:
    legs = np.array([3.0]) * size, np.array([4.0]) * size
    for g, exact in zip(gradient(tg.hypot, *legs), (0.6, 0.8), strict=True):
        assert_close(g, [exact], rtol=1e-14)
    for g, exact in zip(gradient(tg.arctan2, *legs), (0.16 / size, -0.12 / size), strict=True):
        assert_close(g, [exact], rtol=1e-14, atol=0)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize(
    "arranged", [np.ascontiguousarray, np.transpose, lambda x: x[::-1, ::2], lambda x: np.broadcast_to(x[:1], x.shape)]
)
def test_many_numbers_or_zero_are_those_of_numpy_bit_for_bit(arranged: Callable[..., Any], dtype: str) -> None:
    rng = np.random.default_rng(0)
    x = arranged(rng.choice(np.array([np.nan, np.inf, -np.inf, -0.0, 1.5], dtype), (80, 70)))
    chosen = rng.random(x.shape) > 0.5
    for ours, numpys in ((tg.where(chosen, x, 0), np.where(chosen, x, 0)), (tg.where(chosen, 0, x), np.where(chosen, 0, x))):
        assert ours.dtype == dtype
        assert ours.tobytes() == numpys.tobytes()


# ---- The table --------------------------------------------------------------------------------------------------------------------


def public_ops() -> dict[str, Any]:
    """Every public function of `ops`, and of `ops.linalg` what is defined there or has its name from numpy.linalg."""
    found = {name: inspect.unwrap(f) for name, f in vars(ops).items() if name[0] != "_" and inspect.isfunction(f)}
    inner = {name: inspect.unwrap(f) for name, f in vars(ops.linalg).items() if name[0] != "_" and inspect.isfunction(f)}
    own = {name: f for name, f in inner.items() if f.__module__ == ops.linalg.__name__ or hasattr(np.linalg, name)}
    return found | {f"linalg.{name}": f for name, f in own.items() if f not in found.values()}


def without_row(public: dict[str, Any], table: list[Row]) -> set[str]:
    described = {inspect.unwrap(row.op) for row in table}
    return {name for name, f in public.items() if f not in described}


def test_every_public_op_has_a_row() -> None:
    assert without_row(public_ops(), ROWS) == set(NO_ROW)


def test_an_op_without_a_row_is_found() -> None:
    forgotten = {"tanh", "sum", "linalg.norm"}
    assert without_row(public_ops(), [row for row in ROWS if row.name not in forgotten]) == {*NO_ROW, *forgotten}
