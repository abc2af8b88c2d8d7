"""The same promises on a real GPU: `pytest -m gpu`. Elsewhere the strict double stands in for it (test_backend.py, test_strict_cupy.py)."""

import contextlib
import warnings

import numpy as np
import pytest
from test_backend import rnn_loss, train, weights
from test_strict_cupy import FAULTS, LEGAL, World, title

import tinygrad_seq as tg
from tinygrad_seq import backend
from tinygrad_seq.errors import DeviceError, InPlaceError

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def cupy():
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
    if not cupy.cuda.is_available():
        pytest.skip("CuPy finds no device")
    return cupy


@pytest.fixture
def no_waiting(cupy):
    """CuPy's own watch: a wait for the device raises inside the block."""
    import cupyx

    @contextlib.contextmanager
    def watched():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            with cupyx.allow_synchronize(False):
                yield

    return watched


# ---- The double tells the truth

STRICTER = {  # what the double refuses and CuPy does, silently and wrong or slowly
    "duplicates in an assignment",
    "scatter of host gradients",
    "read only by flags",
}


@pytest.mark.parametrize("use", LEGAL.values(), ids=LEGAL)
def test_cupy_accepts_what_the_double_accepts(use, cupy):
    expected, found = use(World(np)), use(World(cupy))
    assert found.dtype == expected.dtype
    np.testing.assert_allclose(found.get(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("fault", [f for f in FAULTS if title(f) not in STRICTER], ids=title)
def test_cupy_refuses_what_the_double_refuses(fault, cupy):
    with pytest.raises((TypeError, ValueError, AttributeError, NotImplementedError)):
        fault(World(cupy))


# ---- Arrays and tensors


def test_tensors_move_to_the_gpu_and_back_with_their_gradient(cupy):
    x = tg.tensor(np.arange(6.0).reshape(2, 3), requires_grad=True)
    moved = x.to("cuda")
    assert isinstance(moved._data, cupy.ndarray)
    assert moved.device == moved.to("cuda:0").device == "cuda:0"
    assert moved.to("cuda") is moved
    (moved * moved).sum().backward()
    assert x.grad.device == "cpu"
    np.testing.assert_array_equal(x.grad.numpy(), 2 * x.numpy())
    np.testing.assert_array_equal(moved.numpy(), x.numpy())


def test_a_raw_array_of_cupy_becomes_a_tensor_where_it_is(cupy):
    x = tg.tensor(cupy.arange(3, dtype="float32"), requires_grad=True)
    assert x.device == "cuda:0"
    for y in (x * cupy.ones(3, "float32"), cupy.ones(3, "float32") * x, np.float32(1) * x):
        assert isinstance(y, tg.Tensor)
        assert y.device == "cuda:0"
    assert backend.to_numpy(x._data).dtype == np.float32


def test_a_device_that_is_not_there_is_an_error(cupy):
    with pytest.raises(DeviceError, match=f"below {cupy.cuda.runtime.getDeviceCount()}"):
        tg.tensor([1.0]).to("cuda:99")


def test_mixing_the_gpu_with_the_host_names_both_tensors(cupy):
    w, x = tg.tensor([[1.0]], name="w"), tg.tensor([[1.0]], device="cuda", name="x")
    for mix in (lambda: w + x, lambda: x @ w, lambda: tg.concatenate([w, x]), lambda: tg.where(x > 0, x, w), lambda: x * w.numpy()):
        with pytest.raises(DeviceError, match=r"float32 \(1, 1\) on (cpu|cuda:0)(?s:.*)on (cpu|cuda:0)"):
            mix()


def test_an_overwritten_array_is_noticed_through_a_view(cupy):
    x = tg.tensor(np.ones((3, 2)), device="cuda", requires_grad=True)
    y = (x * x).sum()
    with tg.no_grad():
        x[1:][0] = 5.0
        x[0] = 5.0
    with pytest.raises(InPlaceError):
        y.backward()


# ---- Autodiff


@pytest.mark.parametrize(("dtype", "rtol"), [("float64", 1e-9), ("float32", 2e-3)])
def test_an_rnn_has_the_gradients_of_the_host_without_waiting(dtype, rtol, cupy, no_waiting):
    found = []
    for device in ("cuda", "cpu"):
        values = weights(device, dtype)
        if device == "cuda":
            rnn_loss(*values).backward()  # compiles its kernels, which may wait
            values = weights(device, dtype)
            with no_waiting():
                rnn_loss(*values).backward()
        else:
            rnn_loss(*values).backward()
        found.append([x.grad.numpy() for x in values])
    for x, y in zip(*found, strict=True):
        np.testing.assert_allclose(x, y, rtol=rtol, atol=rtol)


def test_its_second_derivative_too(cupy):
    found = []
    for device in ("cuda", "cpu"):
        values = weights(device)
        first = tg.grad(rnn_loss(*values), values, create_graph=True)
        second = tg.grad(sum((g * g).sum() for g in first), values)
        found.append([g.numpy() for g in (*first, *second)])
    for x, y in zip(*found, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-8, atol=1e-8)


def test_training_on_the_gpu_takes_the_steps_of_the_host(cupy):
    (losses, parameters), (expected_losses, expected_parameters) = train("cuda"), train("cpu")
    np.testing.assert_allclose([x.item() for x in losses], [x.item() for x in expected_losses], rtol=1e-4)
    for x, y in zip(parameters, expected_parameters, strict=True):
        np.testing.assert_allclose(x.numpy(), y.numpy(), rtol=1e-2, atol=1e-4)
