"""Convolutions: against loops, against PyTorch, against their own differences, and against each other as adjoints."""

from __future__ import annotations

import itertools
import re
from typing import Any

import numpy as np
import pytest
import torch_peer
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygrad_seq as tg
from tinygrad_seq import backend, nn
from tinygrad_seq.errors import ArgumentError, ShapeError
from tinygrad_seq.nn import functional as F
from tinygrad_seq.nn.functional import windows
from tinygrad_seq.testing import check_grads

CONV = {1: F.conv1d, 2: F.conv2d}
TRANSPOSE = {1: F.conv_transpose1d, 2: F.conv_transpose2d}


def by_loops(x, w, b, stride, margins, dilation, groups):
    """y[n, o, i] = b[o] + Σ_c Σ_k w[o, c, k] x[n, c, s i + d k - p], every sum a loop; what lies outside x counts as 0."""
    (N, _, *size), (outputs, each, *kernel) = x.shape, w.shape
    places = [
        (n + sum(m) - d * (k - 1) - 1) // s + 1 for n, m, d, k, s in zip(size, margins, dilation, kernel, stride, strict=True)
    ]
    y = np.zeros((N, outputs, *places))
    for n, o, *i in itertools.product(*map(range, y.shape)):
        y[n, o, *i] = 0 if b is None else b[o]
        for c, *k in itertools.product(range(each), *map(range, kernel)):
            at = [s * a + d * t - m[0] for s, a, d, t, m in zip(stride, i, dilation, k, margins, strict=True)]
            if all(0 <= a < m for a, m in zip(at, size, strict=True)):
                y[n, o, *i] += w[o, c, *k] * x[n, o // (outputs // groups) * each + c, *at]
    return y


@st.composite
def problems(draw: Any, transposed: bool = False) -> tuple[int, dict[str, Any], tuple[np.ndarray, ...]]:
    """The axes of space, the settings, and x, weight, bias: small sizes in which everything that can differ does."""
    axes = draw(st.sampled_from([1, 2]))
    small = lambda low, high: tuple(draw(st.integers(low, high)) for _ in range(axes))  # noqa: E731
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    kernel, stride, dilation, padding = small(1, 3), small(1, 3), small(1, 2), small(0, 3)
    how = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    first, each = groups * draw(st.integers(1, 2)), draw(st.integers(1, 2))
    if transposed:
        how["output_padding"] = tuple(draw(st.integers(0, max(s, d) - 1)) for s, d in zip(stride, dilation, strict=True))
        least = [max(1, -(-(2 * p + 1 - r) // s) + 1) for p, r, s in zip(padding, reach, stride, strict=True)]
    else:
        least = [max(1, r - 2 * p) for r, p in zip(reach, padding, strict=True)]
    size = tuple(n + draw(st.integers(0, 4)) for n in least)
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    channels, outputs = (first, groups * each) if transposed else (groups * each, first)
    batch = draw(st.sampled_from([(), (1,), (2,)]))
    x, w = rng.standard_normal((*batch, channels, *size)), rng.standard_normal((first, each, *kernel))
    return axes, how, (x, w, rng.standard_normal(outputs) if draw(st.booleans()) else None)


# ---- The equations -------------------------------------------------------------------------------------------------------------------


@given(problems())
@settings(max_examples=60)
def test_a_convolution_is_its_sum_over_taps(problem):
    axes, how, (x, w, b) = problem
    margins = [(p, p) for p in how["padding"]]
    batch = x if x.ndim == axes + 2 else x[None]
    y = by_loops(batch, w, b, how["stride"], margins, how["dilation"], how["groups"])
    np.testing.assert_allclose(CONV[axes](x, w, b, **how), y if batch is x else y[0], rtol=1e-12, atol=1e-12)


@given(problems(transposed=True))
@settings(max_examples=60)
def test_a_transposed_convolution_lays_copies_of_its_kernel(problem):
    axes, how, (x, w, b) = problem
    y = TRANSPOSE[axes](x, w, b, **how)
    (N, inputs, *places), (_, each, *kernel) = (x if x.ndim == axes + 2 else x[None]).shape, w.shape
    expected = np.zeros((N, how["groups"] * each, *y.shape[-axes:]))
    for n, o, c, *rest in itertools.product(range(N), range(inputs), range(each), *map(range, places), *map(range, kernel)):
        i, k = rest[:axes], rest[axes:]
        at = [s * a + d * t - p for s, a, d, t, p in zip(how["stride"], i, how["dilation"], k, how["padding"], strict=True)]
        if all(0 <= a < m for a, m in zip(at, y.shape[-axes:], strict=True)):
            expected[n, o // (inputs // how["groups"]) * each + c, *at] += (x if x.ndim == axes + 2 else x[None])[n, o, *i] * w[
                o, c, *k
            ]
    expected += 0 if b is None else b.reshape(-1, *[1] * axes)
    np.testing.assert_allclose(y if x.ndim == axes + 2 else y[None], expected, rtol=1e-12, atol=1e-12)


@given(problems(transposed=True))
@settings(max_examples=60)
def test_the_transposed_convolution_is_the_adjoint(problem):
    axes, how, (x, w, _) = problem
    laid = TRANSPOSE[axes](x, w, **how)
    u = np.random.default_rng(1).standard_normal(laid.shape)
    how = {name: value for name, value in how.items() if name != "output_padding"}
    seen = CONV[axes](u, w, **how)[
        (..., *map(slice, x.shape[-axes:]))
    ]  # with dilation, output padding may make room for more places
    assert (seen * x).sum() == pytest.approx((u * laid).sum(), rel=1e-11, abs=1e-11)


def test_same_padding_keeps_the_size_and_puts_the_odd_zero_after():
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((2, 3, 7)), rng.standard_normal((4, 3, 4))
    y = F.conv1d(x, w, padding="same", dilation=3)
    np.testing.assert_allclose(y, by_loops(x, w, None, [1], [(4, 5)], [3], 1), rtol=1e-12)
    np.testing.assert_array_equal(F.conv1d(x, w, padding="valid"), F.conv1d(x, w))


def test_a_causal_convolution_answers_to_its_window_alone():
    # a time-delay network: y_t depends on x_t, x_(t-1), x_(t-2) and on nothing else
    rng = np.random.default_rng(0)
    w = rng.standard_normal((4, 2, 3))
    x = tg.tensor(rng.standard_normal((1, 2, 9)), requires_grad=True)
    y = F.conv1d(tg.pad(x, ((0, 0), (0, 0), (2, 0))), w)
    assert y.shape == (1, 4, 9)
    for t in range(9):
        reached = np.abs(tg.grad(y[0, :, t].sum(), x).numpy()).sum((0, 1)) > 0
        assert [i for i in range(9) if reached[i]] == list(range(max(0, t - 2), t + 1))


def test_the_weight_receives_the_sum_over_its_places():
    # shared over space as a recurrent weight is over time: the gradient of one weight used at L places is that of L weights, summed
    rng = np.random.default_rng(0)
    x, w, g = rng.standard_normal((1, 2, 6)), rng.standard_normal((3, 2, 2)), rng.standard_normal((1, 3, 5))
    shared = tg.tensor(w, requires_grad=True)
    (F.conv1d(x, shared) * g).sum().backward()
    alone = sum(np.einsum("o,ck->ock", g[0, :, i], x[0, :, i : i + 2]) for i in range(5))
    np.testing.assert_allclose(shared.grad.numpy(), alone, rtol=1e-12)


@pytest.mark.parametrize(("weight", "groups"), [((6, 4, 3, 3), 1), ((6, 2, 3, 3), 2), ((4, 1, 3, 3), 4)])
@pytest.mark.parametrize("stride", [1, 2])
def test_pieces_change_no_number(monkeypatch, weight, groups, stride):
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((5, 4, 9, 8)), rng.standard_normal(weight)

    def gradients(cache: int) -> list[np.ndarray]:
        monkeypatch.setitem(windows.CACHE, "cpu", cache)
        leaves = [tg.tensor(a, requires_grad=True) for a in (x, w)]
        y = F.conv2d(*leaves, stride=stride, padding=1, groups=groups)
        return [y.numpy(), *(h.numpy() for h in tg.grad((tg.sin(y) * y).sum(), leaves))]

    for whole, rows, images in zip(gradients(2**30), gradients(1), gradients(2**15), strict=True):
        np.testing.assert_allclose(rows, whole, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(images, whole, rtol=1e-12, atol=1e-12)


# ---- Derivatives ---------------------------------------------------------------------------------------------------------------------


@given(problems())
@settings(max_examples=12)
def test_derivatives_of_a_convolution_to_second_order(problem):
    axes, how, arrays = problem
    check_grads(lambda *a: CONV[axes](*a, **how), arrays, order=2)


@given(problems(transposed=True))
@settings(max_examples=12)
def test_derivatives_of_a_transposed_convolution_to_second_order(problem):
    axes, how, arrays = problem
    check_grads(lambda *a: TRANSPOSE[axes](*a, **how), arrays, order=2)


def test_third_order():
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((1, 2, 5)), rng.standard_normal((2, 2, 3))
    check_grads(lambda x, w: tg.tanh(F.conv1d(x, w, stride=2, padding=1)), [x, w], order=3)


# ---- Against PyTorch -----------------------------------------------------------------------------------------------------------------


@pytest.mark.torch
@given(problems(), st.sampled_from(["float64", "float32"]))
@settings(max_examples=50)
def test_convolutions_equal_pytorch(problem, dtype):
    torch = pytest.importorskip("torch")
    axes, how, arrays = problem
    torch_peer.agrees(CONV[axes], getattr(torch.nn.functional, f"conv{axes}d"), *arrays, dtype=dtype, call=how)


@pytest.mark.torch
@given(problems(transposed=True), st.sampled_from(["float64", "float32"]))
@settings(max_examples=80)
def test_transposed_convolutions_equal_pytorch(problem, dtype):
    torch = pytest.importorskip("torch")
    axes, how, arrays = problem
    torch_peer.agrees(TRANSPOSE[axes], getattr(torch.nn.functional, f"conv_transpose{axes}d"), *arrays, dtype=dtype, call=how)


@pytest.mark.torch
@given(problems())
@settings(max_examples=20)
def test_second_derivatives_equal_pytorch(problem):
    torch = pytest.importorskip("torch")
    axes, how, arrays = problem
    theirs_f = getattr(torch.nn.functional, f"conv{axes}d")
    ours = [None if a is None else tg.tensor(a, requires_grad=True) for a in arrays]
    theirs = [None if a is None else torch.tensor(a, requires_grad=True) for a in arrays]
    y, z = CONV[axes](*ours, **how), theirs_f(*theirs, **how)
    first = tg.grad((tg.tanh(y) * y).sum(), ours[:2], create_graph=True)
    first_theirs = torch.autograd.grad((torch.tanh(z) * z).sum(), theirs[:2], create_graph=True)
    second = tg.grad(sum((g * g).sum() for g in first), ours[:2])
    second_theirs = torch.autograd.grad(sum((g * g).sum() for g in first_theirs), theirs[:2])
    for a, b in zip([*first, *second], [*first_theirs, *second_theirs], strict=True):
        torch_peer.close(a.numpy(), b.detach().numpy(), "float64", "derivative")


LAYERS = [
    ("Conv1d", (4, 6, 3), {}),
    ("Conv1d", (4, 6, 3), {"padding": "same", "dilation": 2, "bias": False}),
    ("Conv1d", (4, 6, 4), {"padding": "same", "padding_mode": "circular"}),
    ("Conv1d", (4, 4, 5), {"padding": 2, "groups": 4, "padding_mode": "replicate"}),
    ("Conv1d", (4, 6, 3), {"stride": 2, "padding": 1, "padding_mode": "reflect"}),
    ("Conv2d", (4, 6, 3), {"padding": 1}),
    ("Conv2d", (4, 6, (3, 2)), {"stride": (2, 1), "padding": (1, 0), "dilation": (1, 2), "groups": 2}),
    ("Conv2d", (4, 6, 1), {"bias": False}),
    ("Conv2d", (4, 6, 3), {"padding": (2, 1), "padding_mode": "circular"}),
    ("Conv2d", (4, 6, 3), {"padding": "valid", "padding_mode": "reflect"}),
    ("Conv2d", (4, 6, (3, 5)), {"padding": "same", "padding_mode": "replicate"}),
    ("ConvTranspose1d", (4, 6, 3), {"stride": 2, "padding": 1, "output_padding": 1}),
    ("ConvTranspose1d", (4, 6, 3), {"dilation": 3, "output_padding": 2, "groups": 2}),
    ("ConvTranspose2d", (4, 6, 3), {"stride": (2, 3), "padding": 1, "output_padding": (1, 2)}),
    ("ConvTranspose2d", (4, 6, (2, 3)), {"groups": 2, "bias": False}),
]


@pytest.mark.torch
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(("name", "sizes", "options"), LAYERS)
def test_layers_equal_pytorch_in_numbers_names_and_print(name, sizes, options, dtype):
    torch = pytest.importorskip("torch")
    ours, theirs = getattr(nn, name)(*sizes, **options, rng=0), getattr(torch.nn, name)(*sizes, **options)
    assert repr(ours) == repr(theirs)
    x = np.random.default_rng(0).standard_normal((2, 4, 8, 7)[: 3 if "1d" in name else 4])
    for one in (x, x[0]):  # a batch, and one without its axis
        theirs.zero_grad()
        torch_peer.module_agrees(ours, theirs, one, dtype=dtype)


@pytest.mark.torch
def test_output_size_chooses_as_in_pytorch():
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(0).standard_normal((2, 3, 5, 4))
    ours, theirs = nn.ConvTranspose2d(3, 2, 3, stride=2, rng=0), torch.nn.ConvTranspose2d(3, 2, 3, stride=2)
    for output_size in [(11, 9), (12, 10), (2, 2, 11, 10)]:
        theirs.zero_grad()
        torch_peer.module_agrees(ours, theirs, x, call={"output_size": output_size})
    with pytest.raises(ShapeError, match=re.escape("from (11, 9) to (12, 10)")):
        ours(tg.tensor(x), output_size=(13, 9))


@pytest.mark.torch
@pytest.mark.parametrize(("name", "sizes", "options"), LAYERS)
def test_layers_start_in_pytorchs_range(name, sizes, options):
    torch = pytest.importorskip("torch")
    theirs = [np.abs(p.detach().numpy()).max() for _ in range(40) for p in getattr(torch.nn, name)(*sizes, **options).parameters()]
    ours = [np.abs(p.numpy()).max() for i in range(40) for p in getattr(nn, name)(*sizes, **options, rng=i).parameters()]
    assert max(ours) == pytest.approx(max(theirs), rel=0.02)


# ---- Devices, dtypes -------------------------------------------------------------------------------------------------------------------


def test_convolutions_run_on_every_array_library(xp):
    device = next(name for name, module in backend._devices.items() if module is xp)

    def results(device: str) -> list[np.ndarray]:
        found = []
        for f, shapes, how in [
            (F.conv2d, [(2, 4, 6, 5), (6, 2, 3, 2), (6,)], {"stride": 2, "padding": 1, "groups": 2}),
            (F.conv2d, [(2, 3, 6, 5), (4, 3, 3, 3), (4,)], {"padding": "same"}),
            (F.conv_transpose1d, [(2, 4, 5), (4, 3, 3), (3,)], {"stride": 2, "output_padding": 1}),
        ]:
            rng = np.random.default_rng(0)
            leaves = [tg.tensor(rng.standard_normal(s), device=device, requires_grad=True) for s in shapes]
            y = f(*leaves, **how)
            first = tg.grad((y * y * y).sum(), leaves, create_graph=True)
            second = tg.grad(sum((g * g).sum() for g in first), leaves)
            found += [t.to("cpu").numpy() for t in (y, *first, *second)]
        return found

    for a, b in zip(results(device), results("cpu"), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ["Conv1d", "Conv2d", "ConvTranspose1d", "ConvTranspose2d"])
def test_float32_stays_float32(name):
    layer = getattr(nn, name)(2, 4, 3, stride=2, rng=0)
    x = tg.tensor(np.ones((1, 2, 5, 5)[: 3 if "1d" in name else 4], np.float32), requires_grad=True)
    y = layer(x)
    (y * y).sum().backward()
    assert {t.dtype.name for t in (y, x.grad, layer.weight.grad, layer.bias.grad)} == {"float32"}


@pytest.mark.parametrize("options", [{}, {"groups": 2}, {"stride": 2}])
def test_an_empty_batch_gives_an_empty_batch(options):
    layer = nn.Conv2d(2, 2, 3, **options, rng=0)
    x = tg.tensor(np.ones((0, 2, 5, 5), np.float32), requires_grad=True)
    y = layer(x)
    y.sum().backward()
    assert y.shape[:2] == (0, 2) and x.grad.shape == (0, 2, 5, 5) and not layer.weight.grad.numpy().any()


def test_a_list_is_an_array():
    np.testing.assert_array_equal(F.conv1d([[1.0, 2.0, 3.0]], [[[1.0, -1.0]]]), [[-1, -1]])


# ---- Errors ----------------------------------------------------------------------------------------------------------------------------


def ones(*shape):
    return np.ones(shape, np.float32)


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: F.conv2d(ones(1, 2, 3, 9), ones(4, 2, 5, 5)), ShapeError, ["does not fit", "(5, 5)", "x (3, 9)", "more padding"]),
        (lambda: F.conv1d(ones(1, 2, 4), ones(4, 2, 3), dilation=2), ShapeError, ["at least (5,)", "dilation (2,)", "(4,)"]),
        (lambda: F.conv2d(ones(1, 3, 9, 9), ones(4, 2, 3, 3)), ShapeError, ["x has 3 channels", "reads 2"]),
        (lambda: F.conv2d(ones(1, 2, 9, 9), ones(4, 2, 3, 3), groups=2), ShapeError, ["x has 2 channels", "reads 4"]),
        (lambda: F.conv2d(ones(1, 2, 9, 9), ones(4, 2, 3)), ShapeError, ["weight has 3 axes", "(outputs, inputs / groups, K, L)"]),
        (lambda: F.conv2d(ones(2, 9), ones(4, 2, 3, 3)), ShapeError, ["x has 2 axes", "(N, C, H, W) or (C, H, W)"]),
        (lambda: F.conv1d(ones(2, 9), ones(4, 2, 3), ones(3)), ShapeError, ["bias float32 (3,)", "(4,)"]),
        (lambda: F.conv1d(ones(2, 9), ones(4, 2, 3), groups=3), ShapeError, ["groups = 3", "divisor of 4"]),
        (lambda: F.conv1d(ones(2, 9), ones(4, 2, 3), padding="full"), ArgumentError, ["padding = 'full'", '"same" or "valid"']),
        (lambda: F.conv1d(ones(2, 9), ones(4, 2, 3), padding="same", stride=2), ArgumentError, ["same", "stride 1"]),
        (lambda: F.conv2d(ones(2, 9, 9), ones(4, 2, 3, 3), stride=(1, 2, 3)), ArgumentError, ["stride = (1, 2, 3)", "2, one for each axis"]),
        (lambda: F.conv1d(ones(2, 9), ones(4, 2, 3), stride=0), ArgumentError, ["stride = 0", "from 1 on"]),
        (lambda: F.conv_transpose1d(ones(2, 9), ones(2, 4, 3), stride=2, output_padding=2), ShapeError, ["output_padding", "less than"]),
        (lambda: F.conv_transpose1d(ones(2, 1), ones(2, 4, 3), padding=3), ShapeError, ["nothing is left", "(-3,)", "less padding"]),
        (lambda: nn.Conv1d(3, 4, 3, groups=2), ShapeError, ["Conv1d: groups = 2", "3 inputs, 4 outputs"]),
        (lambda: nn.Conv1d(2, 4, 0), ArgumentError, ["Conv1d: kernel_size = 0"]),
        (lambda: nn.Conv1d(2, 4, 3, padding_mode="mirror"), ArgumentError, ["padding_mode = 'mirror'", "'reflect'"]),
        (lambda: nn.Conv1d(2, 4, 3, padding="sane"), ArgumentError, ["padding = 'sane'", "'same' or 'valid'"]),
        (lambda: nn.ConvTranspose1d(2, 4, 3, padding_mode="reflect"), ArgumentError, ["padding_mode", "'zeros'"]),
    ],
)  # fmt: skip
def test_wrong_calls_say_what_was_expected(call, error, says):
    with pytest.raises(error) as caught:
        call()
    for words in says:
        assert words in str(caught.value)
