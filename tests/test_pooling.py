"""Pooling and upsampling: against loops, against PyTorch, and where they meet ties, NaN and edges."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch_peer
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import tinygrad_seq as tg
from tinygrad_seq import backend, nn
from tinygrad_seq.errors import ArgumentError, ShapeError
from tinygrad_seq.nn import functional as F
from tinygrad_seq.testing import check_grads

MAX, AVG = {1: F.max_pool1d, 2: F.max_pool2d}, {1: F.avg_pool1d, 2: F.avg_pool2d}
ADAPTIVE = {(1, "avg"): F.adaptive_avg_pool1d, (2, "avg"): F.adaptive_avg_pool2d, (1, "max"): F.adaptive_max_pool1d, (2, "max"): F.adaptive_max_pool2d}  # fmt: skip


@st.composite
def problems(draw: Any, dilated: bool) -> tuple[int, dict[str, Any], np.ndarray]:
    """The axes of space, the settings, and x."""
    axes = draw(st.sampled_from([1, 2]))
    several = lambda low, high: tuple(draw(st.integers(low, high)) for _ in range(axes))  # noqa: E731
    kernel, dilation = several(1, 4), several(1, 2) if dilated else (1,) * axes
    how: dict[str, Any] = {"kernel_size": kernel, "stride": draw(st.one_of(st.none(), st.just(several(1, 3))))}
    how["padding"] = tuple(draw(st.integers(0, k // 2)) for k in kernel)
    how["ceil_mode"] = draw(st.booleans())
    if dilated:
        how["dilation"] = dilation
    size = tuple(
        max(1, d * (k - 1) + 1 - 2 * p) + draw(st.integers(0, 5)) for k, d, p in zip(kernel, dilation, how["padding"], strict=True)
    )
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    x = rng.standard_normal((*draw(st.sampled_from([(), (2,)])), draw(st.integers(1, 3)), *size))
    within = lambda at: all(0 <= a < n for a, n in zip(at, size, strict=True))  # noqa: E731
    assume(all(any(map(within, seen)) for seen in windows_by_loops(x, **how).values()))  # or PyTorch's max_pool2d crashes
    return axes, how, np.round(x, 1) if draw(st.booleans()) else x  # rounded: with ties


def windows_by_loops(x, kernel_size, stride, padding, ceil_mode, dilation=None):
    """For each place of the output, the places of x that its window sees: a dict of lists."""
    axes = len(kernel_size)
    stride, dilation = stride or kernel_size, dilation or (1,) * axes
    along = []
    for n, k, s, p, d in zip(x.shape[-axes:], kernel_size, stride, padding, dilation, strict=True):
        starts = [i * s - p for i in range(n + 2 * p)]
        whole = [a for a in starts if a + d * (k - 1) < n + p]
        if ceil_mode and len(whole) < len(starts) and starts[len(whole)] < n and whole[-1] + d * (k - 1) < n + p - 1:
            whole.append(starts[len(whole)])
        along.append([[a + d * t for t in range(k)] for a in whole])
    return {
        place: list(itertools.product(*(seen[i] for seen, i in zip(along, place, strict=True))))
        for place in itertools.product(*(range(len(seen)) for seen in along))
    }


# ---- Maxima --------------------------------------------------------------------------------------------------------------------------


@given(problems(dilated=True))
@settings(max_examples=80)
def test_a_maximum_is_the_first_largest_of_its_window(problem):
    axes, how, x = problem
    y, found = MAX[axes](x, **how, return_indices=True)
    for place, seen in windows_by_loops(x, **how).items():
        inside = [at for at in seen if all(0 <= a < n for a, n in zip(at, x.shape[-axes:], strict=True))]
        for lead in itertools.product(*map(range, x.shape[:-axes])):
            first = max(inside, key=lambda at: x[lead + at])
            assert y[lead + place] == x[lead + first] and found[lead + place] == np.ravel_multi_index(first, x.shape[-axes:])


@pytest.mark.torch
@given(problems(dilated=True), st.sampled_from(["float64", "float32"]))
@settings(max_examples=80)
def test_max_pooling_equals_pytorch(problem, dtype):
    torch = pytest.importorskip("torch")
    axes, how, x = problem
    theirs = getattr(torch.nn.functional, f"max_pool{axes}d")
    torch_peer.agrees(MAX[axes], theirs, x, dtype=dtype, call=how)
    torch_peer.agrees(MAX[axes], theirs, x, dtype=dtype, call=how | {"return_indices": True})


@pytest.mark.torch
def test_the_maximum_of_nothing_but_infinities_and_of_nan_is_pytorchs():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    x = rng.choice([np.nan, -np.inf, 1.0, 2.0], (2, 3, 9, 8), p=[0.1, 0.5, 0.2, 0.2])
    x[0, 0] = -np.inf
    for how in (
        {"kernel_size": 2},
        {"kernel_size": 3, "stride": 2, "padding": 1},
        {"kernel_size": 3, "padding": 1, "dilation": 2, "stride": 1},
    ):
        ours, theirs = tg.tensor(x, requires_grad=True), torch.tensor(x, requires_grad=True)
        (y, i), (z, j) = (
            F.max_pool2d(ours, **how, return_indices=True),
            torch.nn.functional.max_pool2d(theirs, **how, return_indices=True),
        )
        np.testing.assert_array_equal(y.numpy(), z.detach().numpy())
        np.testing.assert_array_equal(i.numpy(), j.numpy())
        g = rng.standard_normal(y.shape)
        y.backward(g)
        z.backward(torch.tensor(g))
        np.testing.assert_allclose(ours.grad.numpy(), theirs.grad.numpy(), rtol=1e-12)


@given(problems(dilated=True))
@settings(max_examples=10)
def test_derivatives_of_a_maximum_to_second_order(problem):
    axes, how, x = problem
    x = np.random.default_rng(0).permutation(x.size).reshape(x.shape) / x.size  # no ties, or a difference would step over a kink
    check_grads(lambda x: tg.tanh(MAX[axes](x, **how)), [x], order=2)


# ---- Means ---------------------------------------------------------------------------------------------------------------------------


@given(problems(dilated=False), st.booleans())
@settings(max_examples=60)
def test_a_mean_is_the_sum_over_its_window(problem, with_padding):
    axes, how, x = problem
    y = AVG[axes](x, **how, count_include_pad=with_padding)
    size = x.shape[-axes:]
    for place, seen in windows_by_loops(x, **how).items():
        inside = [at for at in seen if all(0 <= a < n for a, n in zip(at, size, strict=True))]
        padded = [at for at in seen if all(a < n + p for a, n, p in zip(at, size, how["padding"], strict=True))]
        for lead in itertools.product(*map(range, x.shape[:-axes])):
            mean = sum(x[lead + at] for at in inside) / len(padded if with_padding else inside)
            assert y[lead + place] == pytest.approx(mean, rel=1e-12, abs=1e-12)


@pytest.mark.torch
@given(problems(dilated=False), st.booleans(), st.sampled_from([None, 1, -3]), st.sampled_from(["float64", "float32"]))
@settings(max_examples=80)
def test_average_pooling_equals_pytorch(problem, with_padding, divisor, dtype):
    torch = pytest.importorskip("torch")
    axes, how, x = problem
    how = how | {"count_include_pad": with_padding} | ({"divisor_override": divisor} if axes == 2 else {})
    torch_peer.agrees(AVG[axes], getattr(torch.nn.functional, f"avg_pool{axes}d"), x, dtype=dtype, call=how)


@given(problems(dilated=False))
@settings(max_examples=10)
def test_derivatives_of_a_mean_to_second_order(problem):
    axes, how, x = problem
    check_grads(lambda x: tg.tanh(AVG[axes](x, **how)), [x], order=2)


# ---- Windows that cover the axis -------------------------------------------------------------------------------------------------------


@pytest.mark.torch
@given(st.sampled_from([1, 2]), st.sampled_from(["avg", "max"]), st.data(), st.sampled_from(["float64", "float32"]), st.booleans())
@settings(max_examples=50)
def test_adaptive_pooling_equals_pytorch(axes, kind, data, dtype, batched):
    torch = pytest.importorskip("torch")
    size = [data.draw(st.integers(1, 8)) for _ in range(axes)]
    count = tuple(data.draw(st.integers(1, 10)) for _ in range(axes))
    x = np.random.default_rng(0).standard_normal((*([2] if batched else []), 3, *size))
    ours, theirs = ADAPTIVE[axes, kind], getattr(torch.nn.functional, f"adaptive_{kind}_pool{axes}d")
    torch_peer.agrees(ours, theirs, x, count if axes == 2 else count[0], dtype=dtype)
    if kind == "max":
        torch_peer.agrees(ours, theirs, x, count, dtype=dtype, call={"return_indices": True})
    if axes == 2:
        torch_peer.agrees(ours, theirs, x, (count[0], None), dtype=dtype)


@pytest.mark.parametrize(("axes", "kind"), ADAPTIVE)
def test_derivatives_of_adaptive_pooling_to_second_order(axes, kind):
    x = np.random.default_rng(0).standard_normal((1, 2, 5, 7)[: axes + 2])
    check_grads(lambda x: tg.tanh(ADAPTIVE[axes, kind](x, 3)), [x], order=2)


# ---- Upsampling ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.torch
@given(st.sampled_from([1, 2]), st.data(), st.sampled_from(["float64", "float32"]))
@settings(max_examples=150)
def test_upsampling_equals_pytorch(axes, data, dtype):
    torch = pytest.importorskip("torch")
    mode = data.draw(st.sampled_from(["nearest", "nearest-exact", "area", {1: "linear", 2: "bilinear"}[axes]]))
    call: dict[str, Any] = {"mode": mode}
    size = [data.draw(st.integers(1, 7)) for _ in range(axes)]
    if data.draw(st.booleans()):
        call["size"] = tuple(data.draw(st.integers(1, 12)) for _ in range(axes))
    else:
        call["scale_factor"] = tuple(data.draw(st.sampled_from([1.0, 2.0, 3, 1.5, 2.3, 0.7 + 0.3 * (n < 2)])) for n in size)
        call["recompute_scale_factor"] = data.draw(st.sampled_from([None, True]))
    if "linear" in mode:
        call["align_corners"] = data.draw(st.sampled_from([None, False, True]))
    x = np.random.default_rng(0).standard_normal((2, 3, *size))
    torch_peer.agrees(F.interpolate, torch.nn.functional.interpolate, x, dtype=dtype, call=call)


def test_linear_upsampling_of_a_ramp_is_a_ramp():
    x = np.arange(5.0)[None, None]
    fine = F.interpolate(x, size=9, mode="linear", align_corners=True)
    np.testing.assert_allclose(fine[0, 0], np.linspace(0, 4, 9), rtol=1e-12)
    inner = F.interpolate(x, scale_factor=2, mode="linear")[0, 0, 1:-1]
    np.testing.assert_allclose(np.diff(inner), 0.5, rtol=1e-12)


@pytest.mark.parametrize("mode", ["nearest", "bilinear", "area"])
def test_derivatives_of_upsampling_to_second_order(mode):
    x = np.random.default_rng(0).standard_normal((1, 2, 3, 4))
    check_grads(lambda x: tg.tanh(F.interpolate(x, size=(5, 7), mode=mode)), [x], order=2)


# ---- Layers ----------------------------------------------------------------------------------------------------------------------------

LAYERS = [
    ("MaxPool1d", {"kernel_size": 2}),
    ("MaxPool1d", {"kernel_size": 3, "stride": 2, "padding": 1, "return_indices": True}),
    ("MaxPool2d", {"kernel_size": (2, 3), "ceil_mode": True}),
    ("AvgPool1d", {"kernel_size": 3, "stride": 1, "padding": 1, "count_include_pad": False}),
    ("AvgPool2d", {"kernel_size": (3, 2), "divisor_override": 5}),
    ("AvgPool2d", {"kernel_size": 2, "ceil_mode": True}),
    ("AdaptiveAvgPool1d", {"output_size": 3}),
    ("AdaptiveAvgPool2d", {"output_size": (None, 3)}),
    ("AdaptiveMaxPool1d", {"output_size": 3}),
    ("AdaptiveMaxPool2d", {"output_size": (2, 3), "return_indices": True}),
    ("Upsample", {"scale_factor": 2}),
    ("Upsample", {"size": (9, 5), "mode": "bilinear", "align_corners": True}),
]


@pytest.mark.torch
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(("name", "options"), LAYERS)
def test_layers_equal_pytorch(name, options, dtype):
    torch = pytest.importorskip("torch")
    ours, theirs = getattr(nn, name)(**options), getattr(torch.nn, name)(**options)
    x = np.random.default_rng(0).standard_normal((2, 4, 8, 7)[: 3 if "1d" in name else 4])
    torch_peer.module_agrees(ours, theirs, x, dtype=dtype)
    if name not in ("AvgPool1d", "AvgPool2d") and not options.get("return_indices"):
        assert repr(ours) == repr(theirs)


def test_reprs_say_what_is_not_as_usual():
    pool = nn.AvgPool2d(2, ceil_mode=True, count_include_pad=False, divisor_override=3)
    assert (
        repr(pool) == "AvgPool2d(kernel_size=2, stride=2, padding=0, ceil_mode=True, count_include_pad=False, divisor_override=3)"
    )
    assert "return_indices=True" in repr(nn.MaxPool1d(2, return_indices=True))


# ---- Devices, dtypes -------------------------------------------------------------------------------------------------------------------

CALLS = [
    lambda x: F.max_pool2d(x, 3, 2, 1),
    lambda x: F.max_pool2d(x, 2, return_indices=True)[0],
    lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
    lambda x: F.adaptive_avg_pool2d(x, (3, 2)),
    lambda x: F.adaptive_avg_pool2d(x, (4, 3)),
    lambda x: F.adaptive_max_pool2d(x, (4, 3)),
    lambda x: F.interpolate(x, scale_factor=2),
    lambda x: F.interpolate(x, size=(7, 11)),
    lambda x: F.interpolate(x, size=(7, 11), mode="bilinear"),
]


@pytest.mark.parametrize("call", CALLS)
def test_pooling_and_upsampling_run_on_every_array_library(xp, call):
    device = next(name for name, module in backend._devices.items() if module is xp)

    def results(device: str) -> list[np.ndarray]:
        x = tg.tensor(np.random.default_rng(0).standard_normal((2, 3, 6, 8)), device=device, requires_grad=True)
        y = call(x)
        first = tg.grad((y * y * y).sum(), x, create_graph=True)
        return [t.to("cpu").numpy() for t in (y, first, tg.grad((first * first).sum(), x))]

    for a, b in zip(results(device), results("cpu"), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("call", CALLS)
def test_float32_stays_float32(call):
    x = tg.tensor(np.random.default_rng(0).standard_normal((2, 3, 6, 8)).astype(np.float32), requires_grad=True)
    y = call(x)
    y.sum().backward()
    assert y.dtype == x.grad.dtype == tg.float32


# ---- Errors ----------------------------------------------------------------------------------------------------------------------------


def ones(*shape):
    return np.ones(shape, np.float32)


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: F.max_pool2d(ones(1, 2, 3, 9), 4), ShapeError, ["max_pool2d", "does not fit", "(4, 4)", "x (3, 9)"]),
        (lambda: F.avg_pool1d(ones(2, 2), 3), ShapeError, ["avg_pool1d", "does not fit", "(3,)", "x (2,)"]),
        (lambda: F.max_pool1d(ones(1, 2, 9), 2, padding=2), ShapeError, ["padding = (2,)", "half of the kernel"]),
        (lambda: F.max_pool2d(ones(9, 9), 2), ShapeError, ["x has 2 axes", "(N, C, H, W) or (C, H, W)"]),
        (lambda: F.avg_pool2d(ones(1, 9, 9), 2, divisor_override=0), ArgumentError, ["divisor_override = 0", "other than 0"]),
        (lambda: F.max_pool2d(ones(1, 9, 9), (1, 2, 3)), ArgumentError, ["kernel_size = (1, 2, 3)", "2, one for each axis"]),
        (lambda: F.adaptive_avg_pool2d(ones(1, 9, 9), 0), ArgumentError, ["output_size", "from 1 on"]),
        (lambda: F.adaptive_max_pool1d(ones(9), 2), ShapeError, ["x has 1 axes", "(N, C, L) or (C, L)"]),
        (lambda: F.interpolate(ones(1, 1, 9)), ArgumentError, ["neither size nor scale_factor"]),
        (lambda: F.interpolate(ones(1, 1, 9), 3, 2), ArgumentError, ["both size and scale_factor"]),
        (lambda: F.interpolate(ones(1, 1, 9), 3, mode="bicubic"), ArgumentError, ["mode = 'bicubic'", "bilinear"]),
        (lambda: F.interpolate(ones(1, 1, 9), 3, mode="bilinear"), ArgumentError, ["mode 'linear' for 1 axes"]),
        (lambda: F.interpolate(ones(1, 1, 9), 3, align_corners=True), ArgumentError, ["align_corners with mode 'nearest'"]),
        (lambda: F.interpolate(ones(1, 1, 9), scale_factor=0.1), ShapeError, ["nothing is left of (9,)"]),
        (lambda: F.interpolate(ones(1, 9), 3), ShapeError, ["x has 2 axes", "(N, C, L)"]),
    ],
)  # fmt: skip
def test_wrong_calls_say_what_was_expected(call, error, says):
    with pytest.raises(error) as caught:
        call()
    for words in says:
        assert words in str(caught.value)
