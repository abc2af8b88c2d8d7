"""Questions about each element: comparisons, logic, classification. Their answers are booleans and have no gradient."""

from __future__ import annotations

from typing import Any

import numpy as np

from .broadcast import elementwise


@elementwise(differentiable=False)
def equal(a: Any, b: Any) -> Any:
    """Where a == b."""
    return np.equal(a, b)


@elementwise(differentiable=False)
def not_equal(a: Any, b: Any) -> Any:
    """Where a != b."""
    return np.not_equal(a, b)


@elementwise(differentiable=False)
def less(a: Any, b: Any) -> Any:
    """Where a < b."""
    return np.less(a, b)


@elementwise(differentiable=False)
def less_equal(a: Any, b: Any) -> Any:
    """Where a <= b."""
    return np.less_equal(a, b)


@elementwise(differentiable=False)
def greater(a: Any, b: Any) -> Any:
    """Where a > b."""
    return np.greater(a, b)


@elementwise(differentiable=False)
def greater_equal(a: Any, b: Any) -> Any:
    """Where a >= b."""
    return np.greater_equal(a, b)


@elementwise(differentiable=False)
def logical_and(a: Any, b: Any) -> Any:
    """Where both are true."""
    return np.logical_and(a, b)


@elementwise(differentiable=False)
def logical_or(a: Any, b: Any) -> Any:
    """Where one is true."""
    return np.logical_or(a, b)


@elementwise(differentiable=False)
def logical_xor(a: Any, b: Any) -> Any:
    """Where exactly one is true."""
    return np.logical_xor(a, b)


@elementwise(differentiable=False)
def logical_not(x: Any) -> Any:
    """Where x is false."""
    return np.logical_not(x)


@elementwise(differentiable=False)
def isnan(x: Any) -> Any:
    """Where x is not a number."""
    return np.isnan(x)


@elementwise(differentiable=False)
def isinf(x: Any) -> Any:
    """Where x is an infinity."""
    return np.isinf(x)


@elementwise(differentiable=False)
def isfinite(x: Any) -> Any:
    """Where x is a number and finite."""
    return np.isfinite(x)
