"""Normalisation: each layer against PyTorch, the kernels against their equations, running statistics, and what wrong calls say."""

from __future__ import annotations

import numpy as np
import pytest

import tinygrad_seq as tg
from tinygrad_seq import nn
from tinygrad_seq.errors import ArgumentError, ShapeError
from tinygrad_seq.fusion import expand
from tinygrad_seq.nn import functional as F
from tinygrad_seq.testing import check_grads

rng = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def the_same_numbers_in_every_test():
    global rng
    rng = np.random.default_rng(0)


def draw(*shape):
    return rng.standard_normal(shape)


LAYERS = {
    "LayerNorm": ((5,), {}, (3, 4, 5)),
    "LayerNorm of one row": ((5,), {}, (5,)),
    "LayerNorm of one feature": ((1,), {}, (3, 1)),
    "LayerNorm over two axes": (((4, 5),), {"eps": 0.1}, (3, 4, 5)),
    "LayerNorm without bias": ((5,), {"bias": False}, (2, 5)),
    "LayerNorm with nothing learned": (((4, 5),), {"elementwise_affine": False}, (3, 4, 5)),
    "LayerNorm of an empty batch": ((5,), {}, (0, 5)),
    "RMSNorm": ((5,), {}, (3, 4, 5)),
    "RMSNorm over two axes": (((4, 5),), {"eps": 0.1}, (3, 4, 5)),
    "RMSNorm with nothing learned": ((5,), {"elementwise_affine": False}, (3, 4, 5)),
    "GroupNorm": ((2, 6), {}, (3, 6, 4)),
    "GroupNorm of one group": ((1, 6), {"eps": 0.1}, (3, 6, 4, 2)),
    "GroupNorm of every channel alone": ((6, 6), {"affine": False}, (3, 6, 4)),
    "GroupNorm without places": ((2, 6), {}, (3, 6)),
    "GroupNorm of an empty batch": ((2, 6), {}, (0, 6, 4)),
    "BatchNorm1d": ((5,), {}, (8, 5)),
    "BatchNorm1d of sequences": ((5,), {"eps": 0.1, "momentum": 0.3}, (4, 5, 6)),
    "BatchNorm1d with the plain average": ((5,), {"momentum": None}, (4, 5, 6)),
    "BatchNorm1d with nothing learned": ((5,), {"affine": False}, (4, 5, 6)),
    "BatchNorm1d without memory": ((5,), {"track_running_stats": False}, (4, 5, 6)),
    "BatchNorm2d": ((5,), {}, (2, 5, 3, 4)),
    "BatchNorm2d without bias": ((5,), {"bias": False}, (2, 5, 3, 4)),
    "GroupNorm without bias": ((2, 6), {"bias": False}, (3, 6, 4)),
    "BatchNorm2d with momentum 1": ((5,), {"momentum": 1.0}, (2, 5, 3, 4)),
}
each_layer = pytest.mark.parametrize("name", LAYERS)


def made(name, module=nn):
    args, words, shape = LAYERS[name]
    return getattr(module, name.split()[0])(*args, **words), shape


def learned_at_random(layer):
    """The layer with parameters that are neither 0 nor 1."""
    for p in layer.parameters():
        nn.init.normal_(p, 0.5, rng=1)
    return layer


# ---- Against PyTorch -----------------------------------------------------------------------------------------------------------------


@pytest.mark.torch
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@each_layer
def test_outputs_gradients_and_running_statistics_equal_pytorchs(name, dtype):
    torch = pytest.importorskip("torch")
    from torch_peer import module_agrees

    ours, shape = made(name)
    theirs, _ = made(name, torch.nn)
    learned_at_random(ours)
    for _ in range(3):  # the statistics of three batches; then evaluation
        module_agrees(ours, theirs, 3 * draw(*shape) + 1, dtype=dtype)
        theirs.zero_grad()
    module_agrees(ours.eval(), theirs.eval(), draw(*shape), dtype=dtype)


@pytest.mark.torch
@each_layer
def test_second_derivatives_equal_pytorchs(name):
    torch = pytest.importorskip("torch")
    ours, shape = made(name)
    ours = learned_at_random(ours.to(dtype="float64"))
    theirs = made(name, torch.nn)[0].double()
    theirs.load_state_dict({k: torch.tensor(a) for k, a in ours.state_dict().items()})
    x, v, w = draw(*shape), draw(*shape), draw(*shape)
    a, b = tg.tensor(x, requires_grad=True), torch.tensor(x, requires_grad=True)
    (g,) = tg.grad((ours(a) * w).sum(), [a], create_graph=True)
    (h,) = torch.autograd.grad((theirs(b) * torch.tensor(w)).sum(), [b], create_graph=True)
    mine = tg.grad((g * v).sum(), [a, *ours.parameters()], allow_unused=True)
    others = torch.autograd.grad((h * torch.tensor(v)).sum(), [b, *theirs.parameters()], allow_unused=True)
    for p, q in zip(mine, others, strict=True):
        q = np.zeros(()) if q is None else q.numpy()
        np.testing.assert_allclose(
            np.zeros(()) if p is None else p.numpy(), q, rtol=1e-9, atol=1e-9 * max(1, np.abs(q).max(initial=0))
        )


def test_a_state_dict_has_pytorchs_names():
    assert list(nn.BatchNorm1d(3).state_dict()) == ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]
    assert nn.BatchNorm1d(3).state_dict()["num_batches_tracked"].dtype == np.int64
    assert list(nn.BatchNorm2d(3, affine=False, track_running_stats=False).state_dict()) == []


# ---- The kernels ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weight", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_the_layer_norm_kernel_equals_its_equation_to_second_order(weight, bias):
    x, w, b = draw(3, 4, 6), draw(6) if weight else None, draw(6) if bias else None
    fast = F.layer_norm(x, 6, w, b)
    with tg.unfolded():
        equation = F.layer_norm(x, 6, w, b)
    np.testing.assert_allclose(fast, equation, rtol=1e-13, atol=1e-13)
    check_grads(lambda x, w, b: F.layer_norm(x, 6, w, b), [x, w, b])


@pytest.mark.parametrize("weight", [True, False])
def test_the_rms_norm_kernel_equals_its_equation_to_second_order(weight):
    x, w = draw(3, 4, 6), draw(6) if weight else None
    fast = F.rms_norm(x, 6, w, 0.1)
    with tg.unfolded():
        equation = F.rms_norm(x, 6, w, 0.1)
    np.testing.assert_allclose(fast, equation, rtol=1e-13, atol=1e-13)
    check_grads(lambda x, w: F.rms_norm(x, 6, w, 0.1), [x, w])


@pytest.mark.parametrize("shape", [(6, 3), (4, 3, 5)])
def test_batch_norm_to_second_order(shape):
    check_grads(lambda x, w, b: F.batch_norm(x, None, None, w, b, training=True), [draw(*shape), draw(3), draw(3)])


def test_group_norm_to_second_order():
    check_grads(lambda x, w, b: F.group_norm(x, 2, w, b), [draw(2, 4, 3), draw(4), draw(4)])


@pytest.mark.parametrize("weight", [True, False])
def test_a_kernel_opens_into_its_equation(weight):
    a, w = tg.tensor(draw(3, 6), requires_grad=True), nn.Parameter(draw(6)) if weight else None
    for y in (F.layer_norm(a, 6, w, w), F.rms_norm(a, 6, w), F.batch_norm(a, None, None, training=True)):
        expand(y.node)  # it refuses where kernel and equation disagree


def test_layer_norm_is_exact_far_from_zero():
    x = (1000 + draw(20, 64)).astype("float32")
    y = F.layer_norm(x, 64)
    x = x.astype("float64")
    exact = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(y, exact, atol=2e-4)
    assert y.dtype == np.float32


def test_neither_input_nor_weights_are_overwritten():
    x, w, b = draw(3, 6), draw(6), draw(6)
    kept = [a.copy() for a in (x, w, b)]
    tensors = [tg.tensor(a, requires_grad=True) for a in (x, w, b)]
    for f in (lambda x, w, b: F.layer_norm(x, 6, w, b), lambda x, w, b: F.rms_norm(x, 6, w) + b):
        f(*tensors).sum().backward()
        f(x, w, b)
    for a, t, k in zip((x, w, b), tensors, kept, strict=True):
        np.testing.assert_array_equal(a, k)
        np.testing.assert_array_equal(t.numpy(), k)


def test_the_norm_of_a_transposed_or_stretched_input():
    x = draw(6, 4)
    np.testing.assert_allclose(F.layer_norm(x.T, 6), F.layer_norm(x.T.copy(), 6), rtol=1e-14)
    a = tg.tensor(x, requires_grad=True)
    F.layer_norm(a, 4).mean(axis=0).sum().backward()  # the gradient that arrives is stretched, with strides of 0
    np.testing.assert_allclose(a.grad.numpy(), 0, atol=1e-12)


@each_layer
def test_every_layer_on_every_library(name, xp):
    layer, shape = made(name)
    x = draw(*shape).astype("float32")
    results = []
    for array in (x, xp.asarray(x)):
        layer = learned_at_random(made(name)[0])
        layer.to(tg.backend.device_of(array))
        a = tg.Tensor(array, requires_grad=True)
        y = layer(a)
        (y * y * y).sum().backward()
        assert y.dtype == a.grad.dtype == np.float32
        tensors = [y, a.grad, *(p.grad for p in layer.parameters()), *layer.buffers()]
        results.append([tg.backend.to_numpy(t._data) for t in [*tensors, layer.eval()(a)]])
    for one, other in zip(*results, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


# ---- Running statistics ----------------------------------------------------------------------------------------------------------------


def test_evaluation_uses_the_running_statistics_and_leaves_them():
    layer = nn.BatchNorm1d(2, affine=False).eval()
    layer.running_mean[...] = [1, 2]
    layer.running_var[...] = [4, 9]
    before = layer.state_dict()
    y = layer(np.array([[3.0, 5.0]], "float32"))
    np.testing.assert_allclose(y.numpy() if hasattr(y, "numpy") else y, [[1, 1]], rtol=1e-4)
    for name, a in layer.state_dict().items():
        np.testing.assert_array_equal(a, before[name])


def test_a_second_batch_does_not_spoil_the_graph_of_the_first():
    layer = nn.BatchNorm1d(3, dtype="float64")
    xs = [tg.tensor(draw(4, 3), requires_grad=True) for _ in range(2)]
    alone = tg.grad((layer(xs[0]) ** 3).sum(), [xs[0]])[0].numpy()
    ys = [layer(x) for x in xs]
    np.testing.assert_allclose(tg.grad((ys[0] ** 3).sum(), [xs[0]])[0].numpy(), alone, rtol=1e-12)


def test_a_graph_of_evaluation_notices_that_the_statistics_moved_not():
    layer = nn.BatchNorm1d(3, dtype="float64").eval()
    x = tg.tensor(draw(4, 3), requires_grad=True)
    y = layer(x)
    layer.train()(x)
    y.sum().backward()  # it kept the numbers that it used
    np.testing.assert_allclose(x.grad.numpy(), 1 / np.sqrt(1 + 1e-5), rtol=1e-12)


@pytest.mark.torch
@pytest.mark.parametrize(
    "name", ["LayerNorm", "RMSNorm", "RMSNorm with nothing learned", "GroupNorm", "BatchNorm1d", "BatchNorm1d of sequences"]
)
def test_halves_are_normalised_as_exactly_as_pytorch_does(name):
    torch = pytest.importorskip("torch")
    ours, shape = made(name)
    theirs, _ = made(name, torch.nn)
    ours.to("float16"), theirs.half()
    x = (300 * draw(*shape)).astype("float16")  # whose squares are no halves
    a, b = tg.tensor(x, requires_grad=True), torch.tensor(x, requires_grad=True)
    y, z = ours(a), theirs(b)
    np.testing.assert_allclose(y.numpy(), z.detach().numpy(), rtol=2e-3, atol=2e-3)
    (y * y * y).sum().backward()
    (z * z * z).sum().backward()
    assert y.dtype == a.grad.dtype == np.float16
    np.testing.assert_allclose(a.grad.numpy(), b.grad.numpy(), rtol=1e-2, atol=1e-3)
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert p.grad.dtype == np.float16
        largest = float(q.grad.abs().max())  # the sum's terms cancel, so it is as exact as its largest entry
        np.testing.assert_allclose(p.grad.numpy(), q.grad.numpy(), rtol=1e-2, atol=max(1e-2, 5e-3 * largest))


def test_resetting_forgets():
    layer = nn.BatchNorm1d(3)
    fresh = layer.state_dict()
    layer(draw(4, 3).astype("float32"))
    assert layer.num_batches_tracked.item() == 1
    layer.reset_running_stats()
    for name, a in layer.state_dict().items():
        np.testing.assert_array_equal(a, fresh[name])


# ---- What wrong calls say ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: nn.LayerNorm(5)(draw(3, 4)), ShapeError, r"(?s)float64 \(3, 4\) does not end in \(5,\).*x \(\.\.\., 5\)"),
        (lambda: nn.LayerNorm((4, 5))(draw(5)), ShapeError, r"does not end in \(4, 5\)"),
        (lambda: nn.LayerNorm(5)(np.arange(5)), ArgumentError, "x is int64"),
        (lambda: F.layer_norm(draw(2, 5), 5, draw(4)), ShapeError, r"weight float64 \(4,\) does not fit"),
        (lambda: nn.LayerNorm(0), ArgumentError, r"normalized_shape\[0\] = 0"),
        (lambda: nn.BatchNorm1d(5)(draw(3, 4, 2, 2)), ShapeError, r"BatchNorm1d: x is \(3, 4, 2, 2\)"),
        (lambda: nn.BatchNorm2d(5)(draw(3, 5)), ShapeError, r"(?s)BatchNorm2d: x is \(3, 5\).*x \(B, C, H, W\)"),
        (lambda: nn.BatchNorm1d(5)(draw(3, 4)), ShapeError, "has 4 channels"),
        (lambda: nn.BatchNorm1d(5)(draw(3, 4, 5)), ShapeError, r"swapaxes\(x, 1, -1\)"),
        (lambda: nn.BatchNorm1d(5)(draw(1, 5)), ShapeError, "1 value per channel"),
        (lambda: F.batch_norm(draw(3, 5), None, None), ArgumentError, "training=True"),
        (lambda: nn.GroupNorm(4, 6), ArgumentError, "6 channels do not split into 4 groups"),
        (lambda: nn.GroupNorm(2, 6)(draw(3, 4)), ShapeError, r"x \(B, 6, \.\.\.\)"),
        (lambda: nn.GroupNorm(2, 6)([1.0]), ArgumentError, r"(?s)GroupNorm: x is \[1.0\].*tg.tensor"),
        (lambda: nn.BatchNorm1d(5)((draw(3, 5), None)), ArgumentError, "(?s)BatchNorm1d: got a tuple.*hs, h = rnn"),
        (lambda: nn.BatchNorm1d(5)([[1.0]]), ArgumentError, "(?s)BatchNorm1d: x is .*tg.tensor"),
        (lambda: nn.LayerNorm(5.0), ArgumentError, r"normalized_shape\[0\] = 5.0"),
        (lambda: F.group_norm(draw(2, 4), 0), ShapeError, "into 0 groups"),
        (lambda: F.rms_norm([1.0, 2.0], 2), ArgumentError, r"rms_norm: x is \[1.0, 2.0\]"),
    ],
)
def test_wrong_calls_say_what_was_expected(call, error, says):
    with pytest.raises(error, match=says):
        call()


def test_layers_print_their_settings():
    assert repr(nn.LayerNorm((4, 5), eps=0.1, bias=False)) == "LayerNorm((4, 5), eps=0.1, bias=False)"
    assert repr(nn.RMSNorm(4)) == "RMSNorm((4,))"
    assert repr(nn.BatchNorm1d(4, momentum=None)) == "BatchNorm1d(4, momentum=None)"
    assert repr(nn.GroupNorm(2, 4, affine=False)) == "GroupNorm(2, 4, affine=False)"
    assert repr(nn.BatchNorm2d(4, bias=False)) == "BatchNorm2d(4, bias=False)"
