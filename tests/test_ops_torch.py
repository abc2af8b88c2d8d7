"""Where a derivative is a matter of choice (kinks, ties, jumps, zeros), ours is PyTorch's; the exceptions stand at the end with reasons."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tinygrad_seq as tg
from tinygrad_seq.testing import assert_close

torch = pytest.importorskip("torch", reason="the comparison with PyTorch needs PyTorch")
pytestmark = pytest.mark.torch

inf, nan = math.inf, math.nan


def ours(f: Callable[..., Any], arrays: list[Any]) -> list[np.ndarray]:
    """The value, and the gradient for each argument with different weights on the elements of the value."""
    xs = [tg.Tensor(np.array(x, np.float64), requires_grad=True) for x in arrays]
    y = f(*xs)
    weights = tg.Tensor(np.arange(1.0, y.size + 1).reshape(y.shape))
    found = tg.grad(y, xs, weights, allow_unused=True) if y.requires_grad else [None] * len(xs)
    return [y.numpy(), *(np.zeros(x.shape) if g is None else g.numpy() for g, x in zip(found, xs, strict=True))]


def theirs(f: Callable[..., Any], arrays: list[Any]) -> list[np.ndarray]:
    xs = [torch.tensor(np.array(x, np.float64), requires_grad=True) for x in arrays]
    y = f(*xs)
    weights = torch.arange(1.0, y.numel() + 1, dtype=y.dtype).reshape(y.shape)
    found = torch.autograd.grad(y, xs, weights, allow_unused=True) if y.requires_grad else [None] * len(xs)
    return [y.detach().numpy(), *(np.zeros(x.shape) if g is None else g.numpy() for g, x in zip(found, xs, strict=True))]


def same(f: Callable[..., Any], g: Callable[..., Any], arrays: list[Any]) -> None:
    for a, b in zip(ours(f, arrays), theirs(g, arrays), strict=True):
        assert_close(a, b, rtol=1e-12, atol=1e-14)


STEPS = [-2.5, -1.5, -1.0, -0.5, -0.0, 0.0, 0.5, 1.0, 1.5, 2.5]
TIES = [[0.0, 1.0, 2.0, -1.0], [0.0, 2.0, 1.0, -1.0]]


@pytest.mark.parametrize("name", ["abs", "sign", "floor", "ceil", "trunc", "round"])
def test_kinks_and_jumps_of_one_argument(name: str) -> None:
    same(getattr(tg, name), getattr(torch, name), [STEPS])


@pytest.mark.parametrize("name", ["maximum", "minimum", "fmax", "fmin"])
def test_ties_of_two_arguments(name: str) -> None:
    same(getattr(tg, name), getattr(torch, name), TIES)


@pytest.mark.parametrize("name", ["fmax", "fmin"])
def test_a_number_beside_a_nan_gets_the_gradient(name: str) -> None:
    same(getattr(tg, name), getattr(torch, name), [[nan, 1.0, nan], [0.0, nan, nan]])


def test_remainder_and_its_jumps() -> None:
    same(tg.remainder, torch.remainder, [[5.0, -5.0, 1.0, 4.0, 0.0], [3.0, 3.0, 0.1, 2.0, -2.0]])


@pytest.mark.parametrize(("low", "high"), [(1, 2), (None, 2), (1, None), (2, 1)])
def test_clip_between_numbers(low: Any, high: Any) -> None:
    same(lambda x: tg.clip(x, low, high), lambda x: torch.clamp(x, low, high), [[0.0, 1.0, 1.5, 2.0, 3.0]])


def test_clip_between_arrays_that_may_cross() -> None:
    x = [0.0, 1.0, 1.5, 2.0, 3.0] * 2
    same(tg.clip, torch.clamp, [x, [1.0] * 5 + [2.0] * 5, [2.0] * 5 + [1.0] * 5])


def test_power_at_zero() -> None:
    same(tg.power, torch.pow, [[0.0, 0.0, 0.0, 2.0, 0.0, 2.0], [0.0, 1.0, 2.0, 0.0, 1.5, 3.0]])


@pytest.mark.parametrize("exponent", [0, 1, 2, 3, 0.0, 1.0, 1.5, 2.0])
def test_power_at_zero_with_a_number_as_exponent(exponent: float) -> None:
    same(lambda x: x**exponent, lambda x: x**exponent, [[0.0, 1.0, 2.0]])


@pytest.mark.parametrize("base", [0.0, 2.0])
def test_power_with_a_number_as_base(base: float) -> None:
    same(lambda x: base**x, lambda x: base**x, [[0.0, 1.0, 2.0]])


@pytest.mark.filterwarnings("ignore:divide by zero")
def test_slopes_that_are_infinite() -> None:
    same(tg.sqrt, torch.sqrt, [[0.0, 4.0]])
    same(lambda x: x**0.5, lambda x: x**0.5, [[0.0, 4.0]])
    same(tg.arcsin, torch.asin, [[-1.0, 0.5, 1.0]])


def test_where_sends_nothing_to_what_it_leaves_out() -> None:
    chosen = np.array([True, False])
    same(lambda a, b: tg.where(chosen, a, b), lambda a, b: torch.where(torch.tensor(chosen), a, b), [[1.0, inf], [nan, 2.0]])


def test_arctan2_on_the_axes_and_at_the_origin() -> None:
    same(tg.arctan2, torch.atan2, [[0.0, 3.0, 0.0, -1.0, 0.0], [0.0, 0.0, 2.0, 0.0, -2.0]])


ROWS = [[1.0, 2.0, 2.0], [3.0, 1.0, 3.0], [0.0, 0.0, 0.0]]


@pytest.mark.parametrize("axis", [0, 1, (0, 1)])
def test_equal_extremes_share_evenly(axis: Any) -> None:
    same(lambda x: tg.max(x, axis=axis), lambda x: torch.amax(x, axis), [ROWS])
    same(lambda x: tg.min(x, axis=axis), lambda x: torch.amin(x, axis), [ROWS])


def test_equal_extremes_share_evenly_over_all_axes() -> None:
    same(tg.max, torch.max, [ROWS])
    same(tg.min, torch.min, [ROWS])


def test_median_of_an_odd_count() -> None:
    same(lambda x: tg.median(x, axis=1), lambda x: torch.median(x, 1).values, [[[1.0, 5.0, 3.0], [0.0, 2.0, 4.0]]])


def test_standard_deviation_of_equal_numbers() -> None:
    same(lambda x: tg.std(x, axis=1), lambda x: torch.std(x, 1, correction=0), [ROWS])
    same(lambda x: tg.std(x, axis=1, ddof=1), lambda x: torch.std(x, 1), [ROWS])


def test_products_with_one_and_with_two_zeros() -> None:
    x = [[1.0, 2.0, 3.0, -4.0], [0.0, 2.0, 4.0, 1.0], [1.0, 0.0, 1.0, 0.0]]
    same(lambda x: tg.prod(x, axis=1), lambda x: torch.prod(x, 1), [x])
    same(tg.prod, torch.prod, [x])
    same(lambda x: tg.cumprod(x, axis=1), lambda x: torch.cumprod(x, 1), [x])
    same(lambda x: tg.cumprod(x, axis=0), lambda x: torch.cumprod(x, 0), [x])


def second_derivative(y: Any, x: Any, grad: Any) -> Any:
    return grad((grad(y, x, create_graph=True) ** 3).sum(), x)


@pytest.mark.parametrize("zeros", [(), (1,), (0, 2), (0, 1, 3)])
def test_products_with_zeros_to_second_order(zeros: tuple[int, ...]) -> None:
    numbers = np.array([1.5, -2.0, 0.5, 3.0])
    numbers[list(zeros)] = 0
    x, tx = tg.Tensor(numbers, requires_grad=True), torch.tensor(numbers, requires_grad=True)
    t_grad = lambda *args, **options: torch.autograd.grad(*args, **options)[0]  # noqa: E731
    assert_close(second_derivative(tg.prod(x), x, tg.grad), second_derivative(torch.prod(tx), tx, t_grad).numpy())
    assert_close(
        second_derivative(tg.cumprod(x, axis=0).sum(), x, tg.grad),
        second_derivative(torch.cumprod(tx, 0).sum(), tx, t_grad).numpy(),
    )


def test_logsumexp_of_huge_and_of_missing_numbers() -> None:
    same(
        lambda x: tg.logsumexp(x, axis=1),
        lambda x: torch.logsumexp(x, 1),
        [[[1e4, 1e4, -1e4], [-inf, 1.0, 2.0], [-inf, -inf, 3.0]]],
    )
    same(tg.logaddexp, torch.logaddexp, [[-inf, 3.0, 1e4], [2.0, 3.0, 1e4 + 1]])


@pytest.mark.parametrize("order", [None, 0, 1, 2, 3, 0.5, 1.5, inf, -inf])
def test_norms_of_vectors_with_zeros_and_of_zero(order: Any) -> None:
    x = [[1.0, -5.0, 3.0], [2.0, 2.0, -2.0], [0.0, 1.0, 2.0], [0.0, 0.0, 0.0]]
    same(lambda x: tg.linalg.norm(x, order, axis=1), lambda x: torch.linalg.vector_norm(x, 2 if order is None else order, 1), [x])


@pytest.mark.parametrize("order", ["fro", 1, -1, inf, -inf])
def test_norms_of_matrices_with_ties_and_zeros(order: Any) -> None:
    x = [[1.0, -2.0, 0.0], [2.0, 1.0, 3.0], [0.0, 0.0, 0.0]]
    same(lambda x: tg.linalg.norm(x, order), lambda x: torch.linalg.matrix_norm(x, order), [x])


# ---- Where PyTorch's answer is NaN or loses the gradient, ours is a number -----------------------------------------------------------


def test_the_length_zero_has_the_gradient_zero_not_nan() -> None:
    value, *gradients = ours(tg.hypot, [[0.0], [0.0]])
    assert [value, *gradients] == [0.0, 0.0, 0.0]
    assert math.isnan(theirs(torch.hypot, [[0.0], [0.0]])[1][0])


def test_the_sum_of_nothing_has_the_gradient_zero_not_nan() -> None:
    nothing = [[-inf, -inf]]
    value, gradient = ours(lambda x: tg.logsumexp(x, axis=1), [nothing])
    assert value == [-inf]
    assert_close(gradient, np.zeros((1, 2)))
    assert [float(a[0]) for a in ours(tg.logaddexp, [[-inf], [-inf]])] == [-inf, 0.0, 0.0]
    assert math.isnan(theirs(torch.logaddexp, [[-inf], [-inf]])[1][0])


def test_limits_that_are_equal_hold_the_gradient_together() -> None:
    below = [[0.0], [1.0], [1.0]]  # moved together, both limits move the result: one of them must have the gradient
    assert [float(a[0]) for a in ours(tg.clip, below)] == [1.0, 0.0, 1.0, 0.0]
    assert sum(float(a[0]) for a in theirs(torch.clamp, below)[1:]) == 0.0
