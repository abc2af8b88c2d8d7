"""Products, einsum and tg.linalg: what the op table cannot say."""

from __future__ import annotations

import itertools
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

import tinygrad_seq as tg
from tinygrad_seq.errors import LinearAlgebraError, ShapeError
from tinygrad_seq.testing import assert_close, check_grads

rng = np.random.default_rng(0)


def leaf(*shape: int) -> tg.Tensor:
    return tg.Tensor(rng.standard_normal(shape), requires_grad=True)


# ---- Products ------------------------------------------------------------------------------------------------------------------


def test_matmul_equals_its_sum_of_products():
    a, b = rng.standard_normal((2, 3, 4)), rng.standard_normal((4, 5))
    expected = np.zeros((2, 3, 5))
    for i, j, k, m in itertools.product(range(2), range(3), range(4), range(5)):
        expected[i, j, m] += a[i, j, k] * b[k, m]
    assert_close(tg.matmul(tg.Tensor(a), tg.Tensor(b)), expected, rtol=1e-12)


@pytest.mark.parametrize("T", [1, 5, 16, 17, 50])
def test_a_weight_used_at_every_step_receives_the_sum_of_its_uses(T):
    w, xs = leaf(3, 4), rng.standard_normal((T, 2, 3))
    us = rng.standard_normal((T, 2, 4))
    ys = [tg.Tensor(x) @ w for x in xs]
    g = tg.grad(ys, w, list(us))
    assert_close(g, np.einsum("tbi,tbo->io", xs, us), rtol=1e-10)
    g = tg.grad(ys, w, list(us), create_graph=True)
    assert_close(g, np.einsum("tbi,tbo->io", xs, us), rtol=1e-10)


def test_a_weight_met_by_products_of_different_kinds_receives_all_of_them():
    def f(w: Any, x: Any, v: Any, stack: Any) -> Any:
        return (x @ w).sum() + (v @ w).sum() * (stack @ w).sum() + (w @ v[:2]).sum() + (w * w).sum()

    check_grads(
        f, (rng.standard_normal((3, 2)), rng.standard_normal((4, 3)), rng.standard_normal(3), rng.standard_normal((2, 2, 3)))
    )


def test_matmul_names_both_shapes_when_they_do_not_fit():
    with pytest.raises(ShapeError, match=r"(?s)matmul.*\(2, 3\).*\(4, 5\)"):
        leaf(2, 3) @ leaf(4, 5)
    with pytest.raises(ShapeError, match=r"(?s)matmul.*\(2, 2, 3\).*\(4, 5\)"):
        leaf(2, 2, 3) @ leaf(4, 5)
    with pytest.raises(ShapeError, match="matmul"):
        leaf(2, 3) @ 2.0


def test_a_list_among_the_arguments_is_a_constant_array():
    a, listed = leaf(2, 2), [1.0, 2.0]
    for op, order in ((tg.matmul, 1), (tg.linalg.solve, 2), (tg.inner, 1), (tg.multiply, 1)):
        check_grads(lambda a, op=op: op(a, listed), (a,), order=order)
    y = a @ listed
    listed[:] = [0.0, 0.0]
    assert_close(tg.grad(y.sum(), a), np.array([[1.0, 2.0], [1.0, 2.0]]))


def test_tensordot_refuses_axes_of_different_sizes():
    with pytest.raises(ShapeError, match=r"(?s)do not match.*over axes \[1\]"):
        tg.tensordot(leaf(2, 3), leaf(2, 3), 1)


# ---- Einsum --------------------------------------------------------------------------------------------------------------------


@st.composite
def specifications(draw: st.DrawFn) -> tuple[str, list[np.ndarray]]:
    """One to three operands of up to three letters out of four, in any combination; some axes are 1 and broadcast."""
    size = dict(zip("abcd", (2, 3, 1, 4), strict=True))
    terms = draw(st.lists(st.text("abcd", max_size=3), min_size=1, max_size=3))
    present = sorted(set("".join(terms)))
    output = draw(
        st.one_of(st.none(), st.permutations(present).flatmap(lambda p: st.integers(0, len(p)).map(lambda n: "".join(p[:n]))))
    )
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shrunk = draw(st.sampled_from(["", *"abcd"]))
    last = len(terms) - 1 if len(terms) > 1 else -1
    operands = [
        generator.standard_normal([1 if i == last and letter == shrunk else size[letter] for letter in term])
        for i, term in enumerate(terms)
    ]
    return ",".join(terms) + ("" if output is None else f"->{output}"), operands


@settings(max_examples=150)
@given(specifications())
def test_einsum_equals_numpys(case):
    spec, operands = case
    assert_close(tg.einsum(spec, *operands), np.asarray(np.einsum(spec, *operands)), rtol=1e-10, atol=1e-12)


@settings(max_examples=30)
@given(specifications())
def test_einsum_has_the_right_gradient(case):
    spec, operands = case
    check_grads(lambda *xs: tg.einsum(spec, *xs), operands, order=2)


def test_einsum_equals_loops_over_every_letter():
    a, b, c = rng.standard_normal((2, 3, 3)), rng.standard_normal((3, 4)), rng.standard_normal((4, 2))
    expected = np.zeros((4, 2))
    for i, j, k in itertools.product(range(2), range(3), range(4)):
        expected[k, i] += a[i, j, j] * b[j, k] * c[k, i]
    assert_close(tg.einsum("ijj,jk,ki->ki", a, b, c), expected, rtol=1e-12)


def test_the_gradient_of_einsum_is_an_einsum():
    a, b = leaf(2, 3, 4), leaf(2, 4, 5)
    g = rng.standard_normal((2, 3, 5))
    to_a, to_b = tg.grad(tg.einsum("bij,bjk->bik", a, b), [a, b], g)
    assert_close(to_a, np.einsum("bik,bjk->bij", g, b.numpy()), rtol=1e-12)
    assert_close(to_b, np.einsum("bij,bik->bjk", a.numpy(), g), rtol=1e-12)


@pytest.mark.parametrize(
    ("spec", "shapes", "why"),
    [
        ("ij,jk", [(2, 3), (4, 5)], "the letter 'j' names axes of different sizes"),
        ("ii", [(1, 3)], "the letter 'i' names axes of different sizes"),
        ("ij,ij", [(2, 3)], "2 operands, but 1 came"),
        ("i", [(2, 3)], "does not name the 2 axes of operand 0"),
        ("ijk", [(2, 3)], "does not name the 2 axes of operand 0"),
        ("ij->k", [(2, 3)], "the output 'k'"),
        ("i->ii", [(2,)], "the output 'ii' repeats a letter"),
        ("i1", [(2, 2)], "not made of letters"),
        ("i....", [(2, 2)], "not made of letters"),
        ("...i->i", [(2, 2)], "missing in the output"),
    ],
)
def test_einsum_says_what_is_wrong_with_a_specification(spec, shapes, why):
    with pytest.raises(ShapeError, match=why):
        tg.einsum(spec, *(leaf(*shape) for shape in shapes))


def test_einsum_wants_the_subscripts_first():
    with pytest.raises(ShapeError, match="subscripts come first"):
        tg.einsum(leaf(2, 3), "ij")


# ---- Square matrices ------------------------------------------------------------------------------------------------------------


def cofactors(x: np.ndarray) -> np.ndarray:
    n = x.shape[-1]
    out = np.zeros_like(x)
    for i, j in itertools.product(range(n), range(n)):
        minor = np.delete(np.delete(x, i, 0), j, 1)
        out[i, j] = (-1) ** (i + j) * (np.linalg.det(minor) if n > 1 else 1)
    return out


@pytest.mark.parametrize("rank", [0, 1, 2, 3])
def test_the_gradient_of_det_is_the_cofactors_also_of_a_singular_matrix(rank):
    x = tg.Tensor(rng.standard_normal((3, rank)) @ rng.standard_normal((rank, 3)), requires_grad=True)
    assert_close(tg.grad(tg.linalg.det(x), x), cofactors(x.numpy()), rtol=1e-9, atol=1e-12)


def test_det_differentiates_regular_and_singular_matrices_in_one_stack():
    stack = np.stack([np.eye(3), np.zeros((3, 3)), np.diag([1.0, -2.0, 0.0]), rng.standard_normal((3, 3))])
    x = tg.Tensor(stack, requires_grad=True)
    assert_close(tg.grad(tg.linalg.det(x).sum(), x), np.stack([cofactors(each) for each in stack]), atol=1e-12)


def test_det_has_a_gradient_where_its_inverse_would_overflow():
    x = tg.Tensor(np.diag([1e-200, 1e-200, 1e150]), requires_grad=True)
    assert_close(tg.grad(tg.linalg.det(x), x), np.diag([1e-50, 1e-50, 0.0]), rtol=1e-9, atol=1e-60)


def test_the_second_derivative_of_det_at_a_singular_matrix_is_refused():
    x = tg.Tensor(np.diag([1.0, 2.0, 0.0]), requires_grad=True)
    g = tg.grad(tg.linalg.det(x), x, create_graph=True)
    with pytest.raises(LinearAlgebraError, match="second derivative at a singular matrix"):
        tg.grad(g.sum(), x)


def test_a_singular_matrix_has_no_inverse_and_no_logarithm_to_differentiate():
    x = tg.Tensor(np.ones((2, 2)), requires_grad=True)
    with pytest.raises(LinearAlgebraError, match=r"(?s)inv.*[Ss]ingular"):
        tg.linalg.inv(x)
    with pytest.raises(np.linalg.LinAlgError, match="solve"):
        tg.linalg.solve(x, np.ones(2))
    sign, logarithm = tg.linalg.slogdet(x)
    assert (sign.item(), logarithm.item()) == (0, -np.inf)
    with pytest.raises(LinearAlgebraError, match=r"[Ss]ingular"):
        tg.grad(logarithm, x)


def test_the_sign_of_a_determinant_has_gradient_zero():
    x = leaf(2, 3, 3)
    sign, _ = tg.linalg.slogdet(x)
    assert_close(tg.grad(sign.sum(), x), np.zeros((2, 3, 3)))


def test_solve_reads_b_as_a_vector_only_if_it_has_one_axis():
    a = leaf(3, 3)
    b = rng.standard_normal((2, 3, 1))
    assert tg.linalg.solve(a, b).shape == (2, 3, 1)
    assert tg.linalg.solve(leaf(2, 3, 3), np.ones(3)).shape == (2, 3)
    with pytest.raises(ShapeError, match="solve"):
        tg.linalg.solve(leaf(2, 3, 3), np.ones((2, 3)))


def positive(x: Any) -> Any:
    return x @ tg.swapaxes(x, -1, -2) + 0.5 * np.eye(x.shape[-1])


def test_cholesky_to_second_order():
    check_grads(lambda x: tg.linalg.cholesky(positive(x)), (rng.standard_normal((2, 3, 3)),), order=2)
    x = positive(rng.standard_normal((2, 4, 4)))
    assert_close(tg.linalg.cholesky(x), np.linalg.cholesky(x))


def test_the_gradient_of_cholesky_is_symmetric():
    x = tg.Tensor(positive(rng.standard_normal((4, 4))), requires_grad=True)
    g = tg.grad(tg.linalg.cholesky(x), x, rng.standard_normal((4, 4))).numpy()
    assert_close(g, g.T, rtol=1e-12)


def test_cholesky_refuses_a_matrix_that_is_not_positive_definite():
    with pytest.raises(LinearAlgebraError, match=r"(?s)cholesky.*positive definite"):
        tg.linalg.cholesky(tg.Tensor(-np.eye(2)))


@pytest.mark.parametrize("op", ["inv", "det", "slogdet", "cholesky"])
def test_linalg_wants_square_matrices(op):
    with pytest.raises(LinearAlgebraError, match=rf"(?s){op}.*square.*\(2, 3\)"):
        getattr(tg.linalg, op)(leaf(2, 3))


@pytest.mark.parametrize("op", ["inv", "det", "cholesky", "norm"])
def test_linalg_keeps_float32(op):
    x = tg.Tensor(positive(rng.standard_normal((3, 3))).astype(np.float32), requires_grad=True)
    y = getattr(tg.linalg, op)(x)
    assert y.dtype == np.float32
    g = tg.grad(y.sum(), x, create_graph=True)
    assert g.dtype == np.float32
    assert tg.grad((g * g).sum(), x).dtype == np.float32


@pytest.mark.torch
@pytest.mark.parametrize("op", ["inv", "det", "slogdet", "cholesky", "solve"])
def test_linalg_equals_pytorch_to_second_order(op):
    torch = pytest.importorskip("torch")
    x0, b0 = positive(rng.standard_normal((2, 4, 4))), rng.standard_normal((2, 4, 3))

    def run(module: Any, linalg: Any, x: Any, b: Any, grad: Any) -> Any:
        args = (x, b) if op == "solve" else (x,)
        y = getattr(linalg, op)(*args)
        y = y[1] if op == "slogdet" else y
        first = grad((y * y * y).sum(), args, create_graph=True)
        return [y, *first, *grad(sum((g * g).sum() for g in first), args)]

    ours = run(tg, tg.linalg, tg.Tensor(x0, requires_grad=True), tg.Tensor(b0, requires_grad=True), tg.grad)
    theirs = run(
        torch, torch.linalg, torch.tensor(x0, requires_grad=True), torch.tensor(b0, requires_grad=True), torch.autograd.grad
    )
    for a, b in zip(ours, theirs, strict=True):
        b = b.detach().numpy()
        np.testing.assert_allclose(a.numpy(), b, rtol=1e-7, atol=1e-8 * np.abs(b).max())
