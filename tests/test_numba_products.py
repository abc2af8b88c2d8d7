"""The packed product: equal to x w^T for all shapes and strides, adds to what is there, and writes nowhere else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("numba", reason="numba is an extra")

from tinygrad_seq.compile.numba_products import BLOCK, WIDE, pack, product

SHAPES = [
    (1, 1, 1),
    (2, 3, 5),
    (3, 7, 31),
    (5, 0, 33),
    (0, 4, 4),
    (WIDE, 9, 64),
    (2 * WIDE + 11, 20, 100),
    (4, 300, 7),
    (BLOCK + 1, 8, 50),
]


@pytest.mark.parametrize(("B", "K", "M"), SHAPES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_product_equals_matmul_and_adds(B: int, K: int, M: int, dtype: Any) -> None:
    rng = np.random.default_rng(0)
    x, w, out = (rng.standard_normal(shape).astype(dtype) for shape in ((B, K), (M, K), (B, M)))
    expected = out + x @ w.T
    product(pack(w), x, out)
    np.testing.assert_allclose(out, expected, rtol=0, atol=10 * (K + 1) * np.finfo(dtype).eps)


@pytest.mark.parametrize("B", range(1, WIDE + 5))
def test_every_height_of_a_tile(B: int) -> None:
    rng = np.random.default_rng(0)
    x, w, out = rng.standard_normal((B, 6)), rng.standard_normal((40, 6)), np.zeros((B, 40))
    product(pack(w), x, out)
    np.testing.assert_allclose(out, x @ w.T, rtol=0, atol=1e-13)


def test_transposed_arguments_and_a_part_of_the_result() -> None:
    rng = np.random.default_rng(0)
    x, w, out = rng.standard_normal((9, 14)).T, rng.standard_normal((9, 21)).T, np.zeros((14, 61))
    product(pack(w), x, out[:, 20:41])
    np.testing.assert_allclose(out[:, 20:41], x @ w.T, rtol=0, atol=1e-13)
    assert not out[:, :20].any() and not out[:, 41:].any()


def test_nan_and_infinity_go_where_they_belong() -> None:
    x, w, out = np.ones((3, 2)), np.ones((5, 2)), np.zeros((3, 5))
    x[1, 0], w[2, 1] = np.nan, np.inf
    product(pack(w), x, out)
    np.testing.assert_array_equal(out, x @ w.T)
