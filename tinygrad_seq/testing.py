"""Tests of derivatives: reverse mode against central differences, to any order.

For f: x -> y, a direction v of x and a weight u of y, both random, two ways to one number:

    u^T J v  =  <vjp(u), v>  =  <u, f(x + e v) - f(x - e v)> / 2e  +  O(e^2)

One difference checks every entry of the Jacobian J at once: a wrong one survives only by accident. The derivative of order k is that of
the function (x, u) -> vjp(u) of order k - 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from . import autodiff, backend
from .errors import ArgumentError, TinygradError, describe, message
from .random import generator
from .tensor import Tensor


class GradientError(TinygradError, AssertionError):
    """A derivative that differs from the function's own differences, or has the wrong shape or dtype."""


def check_grads(
    f: Callable[..., Any],
    args: Sequence[Any],
    order: int = 2,
    *,
    rng: np.random.Generator | int = 0,
    eps: float = 1e-5,
    rtol: float = 1e-5,
    atol: float = 1e-6,
) -> None:
    """Raise `GradientError` unless the derivatives of `f` at `args`, to `order`, equal central differences along random directions.

        |<vjp(u), v> - <u, f(x + eps v) - f(x - eps v)> / 2 eps|  <=  atol + rtol max(|both|)

    f: takes Tensors, returns a Tensor or a sequence of them, and must be smooth within eps of args; integer outputs are ignored.
    args: floating-point arrays, Tensors and floats are cast to float64 and differentiated; anything else (integer arrays, None,
    strings, tuples) is passed on as it is. order: 1 checks gradients, 2 also gradients of gradients, and so on.
    rng: where the directions come from; the error names the seed that repeats them.

    The gradient is computed on bare arrays and again with create_graph=True; the two must agree.
    """
    points = [_float64(a) for a in args]
    places = [i for i, x in enumerate(points) if x is not None]
    name = getattr(f, "__name__", type(f).__name__)
    if not places:
        raise ArgumentError(
            message(
                f"check_grads: nothing to differentiate {name} by",
                expected="at least one floating-point argument",
                got=", ".join(map(describe, args)) or "no arguments",
            )
        )
    seed = rng if isinstance(rng, int) else int(generator(rng).integers(2**32))

    def of_floats(*xs: Tensor) -> Any:
        whole = list(args)
        for i, x in zip(places, xs, strict=True):
            whole[i] = x
        return f(*whole)

    check = _Check(name, seed, eps, rtol, atol)
    check(of_floats, [points[i] for i in places], [f"argument {i}" for i in places], 1, order)


def assert_close(actual: Any, expected: Any, *, rtol: float = 1e-6, atol: float = 1e-8) -> None:
    """Raise `AssertionError` unless both have one shape, one dtype, and close numbers. Tensors and arrays of any device compare.

    |actual - expected| <= atol + rtol |expected|, and NaN equals NaN. A Python number or a list has no dtype to compare.
    """
    a, b = (np.asarray(backend.to_numpy(x._data if isinstance(x, Tensor) else x)) for x in (actual, expected))
    if a.shape != b.shape:
        raise AssertionError(message("assert_close: the shapes differ", expected=str(b.shape), got=str(a.shape)))
    if hasattr(actual, "dtype") and hasattr(expected, "dtype") and a.dtype != b.dtype:
        raise AssertionError(message("assert_close: the dtypes differ", expected=str(b.dtype), got=str(a.dtype)))
    np.testing.assert_allclose(a, b, rtol=rtol, atol=atol)


# ---- How ------------------------------------------------------------------------------------------------------------------------


class _Check:
    """One run of `check_grads`: its directions, step, tolerances, and the name for its errors."""

    def __init__(self, name: str, seed: int, eps: float, rtol: float, atol: float):
        self.name, self.seed, self.eps, self.rtol, self.atol = name, seed, eps, rtol, atol
        self.rng = np.random.default_rng(seed)

    def __call__(self, f: Callable[..., Any], xs: list[Any], labels: list[str], level: int, order: int) -> None:
        """Check the first derivative of f, which is the one of order `level` to the user; then the next."""
        tensors = _leaves(xs)
        ys = self.outputs(f(*tensors))
        us, vs = self.directions([y._data for y in ys]), self.directions(xs)
        gradients = [g._data for g in self.pull(ys, tensors, us, labels)]
        for label, g, h in zip(labels, gradients, self.pull(ys, tensors, us, labels, create_graph=True), strict=True):
            self.compare_modes(label, backend.to_numpy(g), h.numpy(), level)

        def differ(only: int | None = None) -> tuple[float, float]:
            """<vjp(u), v> and the difference that it should equal; along all arguments, or only one."""
            chosen = [v if only in (None, i) else 0 * v for i, v in enumerate(vs)]
            ahead, behind = (
                self.outputs(f(*_leaves([x + step * v for x, v in zip(xs, chosen, strict=True)]))) for step in (self.eps, -self.eps)
            )
            analytic = sum(float((g * v).sum()) for g, v in zip(gradients, chosen, strict=True))
            rise = sum(float((u * (a._data - b._data)).sum()) for u, a, b in zip(us, ahead, behind, strict=True))
            return analytic, rise / (2 * self.eps)

        analytic, numeric = differ()
        if not self.close(analytic, numeric):
            blamed = [(label, *differ(only=i)) for i, label in enumerate(labels)]
            wrong = next((each for each in blamed if not self.close(*each[1:])), ("all arguments together", analytic, numeric))
            raise self.error(level, wrong[0], f"{wrong[2]:.12g} by a central difference", f"{wrong[1]:.12g} by reverse mode")
        if level < order:

            def vjp(*xus: Tensor) -> Any:
                inputs, weights = xus[: len(xs)], xus[len(xs) :]
                return self.pull(self.outputs(f(*inputs)), inputs, weights, labels, create_graph=True)

            self(vjp, [*xs, *us], [*labels, *(f"cotangent of output {j}" for j in range(len(us)))], level + 1, order)

    def directions(self, arrays: Sequence[Any]) -> list[Any]:
        return [backend.array_module(x).asarray(self.rng.standard_normal(x.shape)) for x in arrays]

    def outputs(self, result: Any) -> list[Tensor]:
        """The floating-point Tensors among what f returned."""
        ys = list(result) if isinstance(result, (tuple, list)) else [result]
        for y in ys:
            if not isinstance(y, Tensor):
                raise GradientError(
                    message(f"check_grads: {self.name} returned {describe(y)}", expected="a Tensor, or a sequence of them")
                )
        ys = [y for y in ys if y.dtype.kind == "f"]
        for y in ys:
            if y.dtype != np.float64:
                raise GradientError(message(f"check_grads: {self.name} of float64 arguments is {y.dtype}", expected="float64"))
        if not ys:
            raise GradientError(
                message(f"check_grads: {self.name} has no floating-point output", expected="something to differentiate")
            )
        return ys

    def pull(
        self, ys: list[Tensor], xs: Sequence[Tensor], us: Sequence[Any], labels: list[str], *, create_graph: bool = False
    ) -> list[Tensor]:
        """The vjp, with zeros where nothing depends on an argument."""
        recorded = [(y, u) for y, u in zip(ys, us, strict=True) if y.requires_grad]
        found: Sequence[Tensor | None] = [None] * len(xs)
        if recorded:
            outs, seeds = zip(*recorded, strict=True)
            found = autodiff.grad(outs, xs, seeds, create_graph=create_graph, allow_unused=True)
        for label, x, g in zip(labels, xs, found, strict=True):
            if g is not None and (g.shape, g.dtype) != (x.shape, x.dtype):
                raise GradientError(
                    message(
                        f"check_grads: the gradient of {self.name} has the wrong shape or dtype",
                        argument=label,
                        expected=describe(x._data),
                        got=describe(g._data),
                    )
                )
        return [Tensor(0 * x._data) if g is None else g for x, g in zip(xs, found, strict=True)]

    def close(self, a: float, b: float) -> bool:
        return abs(a - b) <= self.atol + self.rtol * max(abs(a), abs(b))  # False where one is NaN

    def compare_modes(self, label: str, bare: Any, recorded: Any, level: int) -> None:
        scale = float(np.abs(bare).max(initial=1.0))
        if not np.allclose(bare, recorded, rtol=1e-9, atol=1e-12 * scale, equal_nan=True):
            worst = np.unravel_index(np.argmax(np.abs(bare - recorded)), bare.shape)
            at = f" at {tuple(map(int, worst))}" if worst else ""
            raise self.error(
                level, label, f"{bare[worst]:.12g}{at} on bare arrays", f"{recorded[worst]:.12g} with create_graph=True"
            )

    def error(self, level: int, label: str, expected: str, got: str) -> GradientError:
        return GradientError(
            message(
                f"check_grads: the derivative of {self.name} of order {level} is wrong",
                argument=label,
                expected=expected,
                got=got,
                repeat=f"rng={self.seed}",
                do="keep args away from kinks by more than eps; else a rule (defvjp) is wrong",
            )
        )


def _leaves(arrays: Sequence[Any]) -> list[Tensor]:
    return [Tensor(x, requires_grad=True) for x in arrays]


def _float64(x: Any) -> Any:
    """The argument as a float64 array to differentiate by; None for what is passed on."""
    x = x._data if isinstance(x, Tensor) else np.asarray(x) if isinstance(x, (float, np.floating)) else x
    return x.astype(np.float64) if backend.is_array(x) and x.dtype.kind == "f" else None
