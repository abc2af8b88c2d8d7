"""check_grads and assert_close: right derivatives pass, every kind of wrong one is found and named."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tinygrad_seq as tg
from tinygrad_seq.errors import ArgumentError
from tinygrad_seq.testing import GradientError, assert_close, check_grads

X = np.array([[0.3, -1.2, 0.7], [1.1, 0.4, -0.5]])
ROW = np.array([0.9, -0.2, 0.6])


def scaled(rule_of_b: Any, rule_of_a: Any = lambda g, y, a, b: g * b) -> Any:
    """A product whose derivative rules the test chooses."""

    @tg.primitive
    def scale(a: Any, b: Any) -> Any:
        return a * b

    tg.defvjp(scale, rule_of_a, rule_of_b)
    return scale


# ---- What passes ------------------------------------------------------------------------------------------------------------------


def test_right_derivatives_pass_to_third_order() -> None:
    check_grads(tg.tanh, [X], order=3)
    check_grads(lambda x, w: tg.exp(x * w).sum(axis=0), [X, ROW], order=3)


def test_several_outputs_are_checked_together() -> None:
    check_grads(lambda x: (x.sum(), tg.sin(x), x * ROW), [X])


def test_integers_and_parameters_are_passed_on_and_integer_outputs_ignored() -> None:
    seen: list[Any] = []

    def f(x: tg.Tensor, rows: Any, axis: Any, mode: Any) -> Any:
        seen.append((rows.dtype, axis, mode))
        return tg.take(x, rows, axis=axis) ** 2, tg.argsort(x)

    check_grads(f, [X, np.array([1, 0, 1]), 0, None])
    assert set(seen) == {(np.dtype(np.int64), 0, None)}


def test_float32_tensors_and_python_floats_are_cast_to_float64() -> None:
    def f(x: tg.Tensor, scale: tg.Tensor) -> tg.Tensor:
        assert x.dtype == scale.dtype == np.float64
        return x * scale

    check_grads(f, [tg.Tensor(X.astype(np.float32)), 2.5])


def test_an_argument_without_influence_has_the_gradient_zero() -> None:
    check_grads(lambda x, unused: x * 2, [X, ROW])
    check_grads(tg.sign, [X])


def test_arrays_of_every_back_end_are_checked_where_they_are(xp: Any) -> None:
    check_grads(lambda x, w: tg.logsumexp(x * w, axis=1), [xp.asarray(X), tg.Tensor(xp.asarray(ROW))])


def test_the_callers_arrays_stay_as_they_are() -> None:
    before = X.copy()
    check_grads(tg.exp, [X])
    np.testing.assert_array_equal(X, before)


def test_a_scalar_without_axes_and_an_empty_array_pass() -> None:
    check_grads(tg.exp, [np.array(0.3)])
    check_grads(tg.exp, [np.zeros((0, 3))])


# ---- What is found ----------------------------------------------------------------------------------------------------------------


def test_a_rule_that_is_off_by_a_thousandth_is_named_with_both_numbers_argument_and_seed() -> None:
    wrong = scaled(lambda g, y, a, b: g * a * 1.001)
    with pytest.raises(
        GradientError, match=r"(?s)of scale of order 1.*argument 1.*central difference.*reverse mode.*rng=5"
    ) as caught:
        check_grads(wrong, [X, X + 1], rng=5)
    numbers = [float(line.split()[1]) for line in str(caught.value).splitlines() if "by a central" in line or "by reverse" in line]
    assert numbers[1] == pytest.approx(1.001 * numbers[0])


def test_the_seed_in_the_error_repeats_it() -> None:
    wrong = scaled(lambda g, y, a, b: g * a * 1.001)

    def error(rng: Any) -> str:
        with pytest.raises(GradientError) as caught:
            check_grads(wrong, [X, X + 1], rng=rng)
        return str(caught.value)

    first = error(np.random.default_rng(3))
    seed = int(first.partition("rng=")[2].split()[0])
    assert error(seed) == first != error(seed + 1)


def test_a_wrong_sign_in_one_element_is_found() -> None:
    flipped = np.ones_like(X)
    flipped[1, 2] = -1
    with pytest.raises(GradientError, match="argument 1"):
        check_grads(scaled(lambda g, y, a, b: g * a * flipped), [X, X])


def test_a_second_derivative_that_is_cut_is_found_at_order_2_only() -> None:
    cut = scaled(lambda g, y, a, b: g * (a.detach() if isinstance(a, tg.Tensor) else a))
    check_grads(cut, [X, X], order=1)
    with pytest.raises(GradientError, match=r"(?s)order 2.*argument: *argument 0"):
        check_grads(cut, [X, X])


def test_a_forgotten_cotangent_is_found() -> None:
    with pytest.raises(GradientError, match="order 1"):
        check_grads(scaled(lambda g, y, a, b: a * 1.0), [X, X])


def test_a_rule_that_differs_between_arrays_and_tensors_is_found() -> None:
    torn = scaled(lambda g, y, a, b: g * a if isinstance(g, np.ndarray) else g * a * 1.5)
    with pytest.raises(GradientError, match=r"(?s)bare arrays.*create_graph=True"):
        check_grads(torn, [X, X], order=1)


def test_a_gradient_of_the_wrong_shape_is_found() -> None:
    with pytest.raises(GradientError, match=r"(?s)wrong shape.*argument 1.*expected: *float64 \(3,\).*got: *float64 \(2, 3\)"):
        check_grads(scaled(lambda g, y, a, b: g * a), [X, ROW])


def test_a_recording_that_is_interrupted_is_found() -> None:
    with pytest.raises(GradientError, match="0 by reverse mode"):
        check_grads(lambda x: x.detach() * 2, [X])


def test_a_function_that_is_not_finite_is_found() -> None:
    with np.errstate(invalid="ignore"), pytest.raises(GradientError, match="nan by a central difference"):
        check_grads(tg.sqrt, [np.array([-1.0])], order=1)


def test_float32_inside_a_float64_function_is_found() -> None:
    with pytest.raises(GradientError, match=r"(?s)is float32.*expected: *float64"):
        check_grads(lambda x: x.astype("float32"), [X])


def test_what_is_no_tensor_or_has_nothing_to_differentiate_is_said() -> None:
    with pytest.raises(GradientError, match="returned float64"):
        check_grads(lambda x: x.numpy(), [X])
    with pytest.raises(GradientError, match="no floating-point output"):
        check_grads(tg.isnan, [X])
    with pytest.raises(ArgumentError, match=r"(?s)nothing to differentiate.*at least one floating-point argument"):
        check_grads(tg.exp, [np.arange(3)])


# ---- assert_close -----------------------------------------------------------------------------------------------------------------


def test_close_numbers_of_tensors_arrays_and_lists_pass() -> None:
    assert_close(tg.Tensor(X), X + 1e-9)
    assert_close(X, tg.Tensor(X))
    assert_close(tg.tensor([1.0, np.nan]), [1.0, np.nan])


def test_every_back_end_compares(xp: Any) -> None:
    assert_close(xp.asarray(X), X)
    assert_close(tg.Tensor(xp.asarray(X)), xp.asarray(X))
    with pytest.raises(AssertionError):
        assert_close(tg.Tensor(xp.asarray(X)), X + 1)


def test_a_difference_in_numbers_shape_or_dtype_raises() -> None:
    with pytest.raises(AssertionError, match="Mismatched elements"):
        assert_close(X, X + 1e-4)
    with pytest.raises(AssertionError, match="shapes differ"):
        assert_close(np.zeros((1, 3)), np.zeros(3))
    with pytest.raises(AssertionError, match="dtypes differ"):
        assert_close(tg.tensor([1.0]), np.array([1.0]))
