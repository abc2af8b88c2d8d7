"""Activations: numbers and gradients, at the kinks too, against PyTorch; derivatives to second order; dtypes and libraries."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

import tinygrad_seq as tg
from tinygrad_seq import nn
from tinygrad_seq.errors import ArgumentError, AxisError, ShapeError
from tinygrad_seq.nn import functional as F
from tinygrad_seq.nn.functional.activation import BLOCK
from tinygrad_seq.testing import check_grads

LAYERS = {  # ours, PyTorch's where the settings are called otherwise
    "ReLU": (),
    "ReLU6": (),
    "LeakyReLU": (),
    "LeakyReLU of slope 1.5": (1.5,),
    "PReLU": (),
    "PReLU of channels": (4,),
    "Hardtanh": (),
    "Hardtanh with limits": (-0.5, 2.0),
    "Hardsigmoid": (),
    "Hardswish": (),
    "ELU": (),
    "ELU of alpha 0.5": (0.5,),
    "SELU": (),
    "Softplus": (),
    "Softplus with settings": (2.0, 3.0),
    "LogSigmoid": (),
    "GELU": (),
    "GELU by tanh": ("tanh",),
    "SiLU": (),
    "Mish": (),
    "GLU": (),
    "GLU over time": (0,),
    "Softsign": (),
    "Sigmoid": (),
    "Tanh": (),
    "Softmax": (-1,),
    "Softmax over time": (0,),
    "LogSoftmax": (-1,),
}
KINKS = np.array([-3.0, -1.0, -0.5, 0.0, 1.0, 2.0, 3.0, 6.0])
each_layer = pytest.mark.parametrize("name", LAYERS)


def made(name, module=nn):
    words = {"approximate": LAYERS[name][0]} if "GELU by" in name and module is not nn else {}
    return getattr(module, name.split()[0])(*(() if words else LAYERS[name]), **words)


def exact_in(name, dtype):
    """The dtype to compare in: PyTorch multiplies by a float32 number 1/6 in the gradient of Hardsigmoid, even in float64."""
    return "float32" if name == "Hardsigmoid" else dtype


def inputs():
    x = np.random.default_rng(0).standard_normal((2, 4, 6)) * 3
    return np.where(np.abs(x[..., None] - KINKS).min(-1) < 0.05, x + 0.1, x)  # smooth where it is probed


@pytest.mark.torch
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@each_layer
def test_numbers_and_gradients_equal_pytorchs(name, dtype):
    torch = pytest.importorskip("torch")
    from torch_peer import module_agrees

    module_agrees(made(name), made(name, torch.nn), inputs(), dtype=exact_in(name, dtype))


@pytest.mark.torch
@each_layer
def test_at_the_kinks_too_and_far_out(name):
    torch = pytest.importorskip("torch")
    from torch_peer import module_agrees

    far = np.array([-1000.0, -50.0, -20.0, 20.0, 21.0, 50.0, 1000.0, 0.0])
    x = np.stack([KINKS, -KINKS, far, np.nextafter(KINKS, 9)])[None]
    module_agrees(made(name), made(name, torch.nn), np.concatenate([x, x]), dtype=exact_in(name, "float64"))


@pytest.mark.torch
@pytest.mark.parametrize("name", ["ReLU", "ReLU6", "Hardtanh", "Hardswish", "LeakyReLU", "Mish"])
@pytest.mark.parametrize("copies", [1, 1000])
@pytest.mark.parametrize("arriving", [np.nan, np.inf])
def test_a_gradient_of_nan_or_infinity_goes_no_further_than_in_pytorch(name, copies, arriving):
    torch = pytest.importorskip("torch")
    x = np.tile(np.float32([-8, -4, -1, 0.5, 2, 7]), copies)
    ours, theirs = tg.tensor(x, requires_grad=True), torch.tensor(x, requires_grad=True)
    made(name)(ours).backward(tg.full(x.shape, arriving))
    made(name, torch.nn)(theirs).backward(torch.full(x.shape, arriving))
    np.testing.assert_array_equal(ours.grad.numpy(), theirs.grad.numpy())


@pytest.mark.parametrize("f", [F.relu, F.hardtanh, F.relu6])
def test_what_is_not_a_number_is_not_hidden_from_the_gradient(f):
    x = tg.tensor([np.nan, -1.0], requires_grad=True)
    y = f(x)
    y.backward(tg.tensor([np.nan, 1.0]))
    assert np.isnan(y.numpy()[0]) and np.isnan(x.grad.numpy()[0])


@pytest.mark.torch
@pytest.mark.parametrize("name", ["GELU", "GELU by tanh", "SiLU", "Mish"])
def test_halves_whose_squares_are_too_large_have_pytorchs_gradient(name):
    torch = pytest.importorskip("torch")
    x = np.array([-400.0, -300.0, -3.0, 2.0, 300.0, 400.0], "float16")
    ours, theirs = tg.tensor(x, requires_grad=True), torch.tensor(x, requires_grad=True)
    y, z = made(name)(ours), made(name, torch.nn)(theirs)
    y.backward(tg.ones_like(y))
    z.backward(torch.ones_like(z))
    assert y.dtype == ours.grad.dtype == np.float16
    np.testing.assert_allclose(y.numpy(), z.detach().numpy(), rtol=2e-3, atol=2e-4)
    np.testing.assert_allclose(ours.grad.numpy(), theirs.grad.numpy(), rtol=2e-3, atol=2e-4)


@each_layer
def test_derivatives_to_second_order(name):
    layer = made(name)
    check_grads(layer.to(dtype="float64"), [inputs()])


@each_layer
def test_the_dtype_stays_on_every_library(name, xp):
    layer = made(name)
    x = inputs().astype("float32")
    expected = layer(x)
    layer.to(tg.backend.device_of(xp.asarray(x)))
    a = tg.Tensor(xp.asarray(x), requires_grad=True)
    y = layer(a)
    y.sum().backward()
    assert y.dtype == a.grad.dtype == np.float32
    np.testing.assert_allclose(tg.backend.to_numpy(y._data), getattr(expected, "_data", expected), rtol=1e-6, atol=1e-6)


@each_layer
def test_arrays_in_array_out(name):
    layer = made(name)
    if not list(layer.parameters()):
        assert type(layer(inputs())) is np.ndarray


def test_gelu_is_exact_to_the_last_digits_of_float32():
    x = np.linspace(-9, 9, 100_001)
    y = F.gelu(x.astype("float32"))
    np.testing.assert_allclose(y, x * scipy.stats.norm.cdf(x), rtol=4e-7, atol=4e-7)
    a = tg.tensor(x, tg.float32, requires_grad=True)
    F.gelu(a).sum().backward()
    np.testing.assert_allclose(a.grad.numpy(), scipy.stats.norm.cdf(x) + x * scipy.stats.norm.pdf(x), rtol=4e-7, atol=4e-7)


@pytest.mark.parametrize("f", [F.gelu, lambda x: F.gelu(x, "tanh"), F.silu])
def test_a_self_gated_activation_is_computed_in_blocks_that_fit(f):
    x = np.random.default_rng(0).standard_normal((3, 2 * BLOCK + 5))
    with tg.unfolded():
        expected = f(tg.tensor(x)).numpy()
    for a in (x, x.T.copy().T, x[:, ::-1][:, ::-1]):
        np.testing.assert_allclose(f(a), expected, rtol=1e-13, atol=1e-15)
    assert f(x[:0]).shape == (0, 2 * BLOCK + 5)
    assert f(2.0) == pytest.approx(float(f(np.array([2.0]))[0]))
    assert f(np.arange(3)).dtype == np.float64
    np.testing.assert_array_equal(f([2.0, -1.0]), f(np.array([2.0, -1.0])))


def test_relu_has_no_slope_at_its_kink():
    x = tg.Tensor([-1.0, 0.0, 2.0], requires_grad=True)
    y = F.relu(x)
    y.sum().backward()
    assert y.tolist() == [0, 0, 2] and x.grad.tolist() == [0, 0, 1]


def test_the_learned_slopes_of_prelu_belong_to_channels():
    layer = nn.PReLU(3, init=0.5, dtype="float64")
    x = np.random.default_rng(0).standard_normal((4, 3, 5))
    layer(x).sum().backward()
    np.testing.assert_allclose(layer.weight.grad.numpy(), np.minimum(x, 0).sum(axis=(0, 2)), rtol=1e-12)


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: F.gelu(np.ones(3), "exact"), ArgumentError, "(?s)'exact' is not known.*'none' or 'tanh'"),
        (lambda: F.glu(np.ones((2, 3))), ShapeError, r"(?s)float64 \(2, 3\) has no halves along axis -1.*even"),
        (lambda: nn.PReLU(3)(np.ones((2, 4))), ShapeError, r"3 slopes do not fit x float64 \(2, 4\)"),
        (lambda: nn.PReLU(0), ArgumentError, "num_parameters = 0"),
        (lambda: F.glu(np.ones((2, 4)), 2), AxisError, r"(?s)glu: axis 2 is out of bounds.*float64 \(2, 4\)"),
        (lambda: F.glu(np.float64(1)), AxisError, "glu: axis -1"),
        (lambda: F.prelu(np.ones((2, 3)), 0.25), ArgumentError, "prelu: weight is 0.25"),
        (lambda: F.prelu([1.0], np.ones(1)), ArgumentError, r"prelu: x is \[1.0\]"),
    ],
)
def test_wrong_calls_say_what_was_expected(call, error, says):
    with pytest.raises(error, match=says):
        call()


def test_layers_print_their_settings():
    assert repr(nn.ReLU().eval()) == "ReLU()"
    assert repr(nn.LeakyReLU(0.2)) == "LeakyReLU(negative_slope=0.2)"
    assert repr(nn.PReLU()) == "PReLU(num_parameters=1)"
    assert repr(nn.GELU("tanh")) == "GELU(approximate='tanh')"
