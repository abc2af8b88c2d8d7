"""Arrays of two libraries: whose they are, how they move, that they never mix unnoticed, and that autodiff runs on either without waiting."""

import builtins
import platform
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import strict_cupy
from strict_cupy import StrictArray, no_syncs, xp

import tinygrad_seq as tg
from tinygrad_seq import backend, nn, ops, optim
from tinygrad_seq.errors import ArgumentError, DeviceError, InPlaceError, MissingDependencyError
from tinygrad_seq.nn import functional as F


@pytest.fixture(autouse=True)
def second_device():
    with strict_cupy.installed():
        yield


def tensor(*shape, device="strict", dtype="float32", requires_grad=True, name=None, seed=0):
    numbers = np.random.default_rng(seed).standard_normal(shape).astype(dtype)
    return tg.tensor(numbers, device=device, requires_grad=requires_grad, name=name)


# ---- Whose array


def test_an_array_belongs_to_the_library_that_made_it():
    host, device = np.ones(3), xp.ones(3)
    assert backend.array_module(host) is np
    assert backend.array_module(device) is xp
    assert backend.array_module(2.0, device, host) is xp
    assert backend.array_module(2.0, None, "x") is np
    assert backend.device_of(host) == "cpu"
    assert backend.device_of(device) == "strict:0"


@pytest.mark.parametrize("x", [1, 2.0, True, None, "x", [1.0], np.float32(1), object()], ids=repr)
def test_a_number_or_a_list_is_no_array(x):
    assert not backend.is_array(x)
    assert backend.device_of(x) == "cpu"


def test_a_subclass_of_ndarray_is_an_array_of_numpy():
    masked = np.ma.masked_array([1.0])
    assert backend.is_array(masked)
    assert backend.array_module(masked) is np


def test_the_names_of_the_devices_follow_what_is_registered():
    assert backend.devices()[0] == "cpu"
    assert "strict" in backend.devices()
    backend.forget("strict")
    try:
        assert "strict" not in backend.devices()
        assert not backend.is_array(xp.ones(3))
    finally:
        strict_cupy.install()


# ---- Moving


def test_there_and_back_keeps_values_dtype_and_shape():
    for dtype in ("float64", "float32", "float16", "int64", "int8", "bool"):
        host = (np.random.default_rng(0).standard_normal((2, 3)) * 3).astype(dtype)
        there = backend.to_device(host, "strict")
        assert isinstance(there, StrictArray)
        back = backend.to_device(there, "cpu")
        assert type(back) is np.ndarray
        assert back.dtype == there.dtype == host.dtype
        np.testing.assert_array_equal(back, host)


def test_what_is_already_there_is_not_copied():
    host, device = np.ones(3), xp.ones(3)
    assert backend.to_device(host, "cpu") is host
    assert backend.to_device(device, "strict") is device
    assert backend.to_device(device, "strict:0") is device
    assert backend.to_numpy(host) is host


def test_a_number_chooses_among_several_devices():
    first = backend.to_device(np.arange(3.0), "strict:0")
    second = backend.to_device(first, "strict:1")
    assert [backend.device_of(x) for x in (first, second)] == ["strict:0", "strict:1"]
    assert backend.to_device(second, "strict") is second  # without a number: any of them
    np.testing.assert_array_equal(backend.to_device(second, "cpu"), np.arange(3.0))


def test_a_device_that_is_not_there_is_an_error_that_says_how_many_are():
    with pytest.raises(DeviceError, match=r"'strict:7'(?s:.*)below 2"):
        backend.to_device(np.ones(3), "strict:7")


@pytest.mark.parametrize(
    "device", ["gpu", "cuda:", "cuda:x", "cuda:-1", "cpu:0", "strict:1.5", "", 0, None, np.dtype("float32")], ids=repr
)
def test_what_names_no_device_is_an_error_that_lists_the_names(device):
    with pytest.raises(ArgumentError, match=r"not known(?s:.*)'cpu', 'cuda', 'cuda:N', 'strict', 'strict:N'"):
        backend.to_device(np.ones(3), device)


def test_tensor_to_moves_and_the_gradient_comes_back():
    x = tensor(2, 3, device="cpu", name="x")
    moved = x.to("strict")
    assert (x.device, moved.device) == ("cpu", "strict:0")
    loss = (moved * moved).sum()
    loss.backward()
    assert x.grad.device == "cpu"
    np.testing.assert_allclose(x.grad.numpy(), 2 * x.numpy())


def test_tensor_to_has_a_second_derivative_across_devices():
    x = tensor(3, device="cpu", dtype="float64")
    y = (x.to("strict") ** 3).sum()
    first = tg.grad(y, x, create_graph=True)
    second = tg.grad(first.sum(), x)
    assert (first.device, second.device) == ("cpu", "cpu")
    np.testing.assert_allclose(second.numpy(), 6 * x.numpy())


def test_tensor_to_where_it_is_already_is_itself():
    x = tensor(3)
    assert x.to("strict") is x
    assert x.to("strict:0") is x


def test_a_tensor_on_a_device_reads_out_like_any_other():
    x = tensor(2, 3, device="strict", requires_grad=False)
    host = x.numpy()
    assert type(host) is np.ndarray
    assert x.tolist() == host.tolist()
    assert x[0, 0].item() == host[0, 0] == float(x[0, 0])
    assert "strict:0" in repr(x)
    assert len(list(x)) == 2
    np.testing.assert_array_equal(np.asarray(x), host)


# ---- CuPy missing, or without a device


def test_without_cupy_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(MissingDependencyError, match=r"CuPy is not installed(?s:.*)pip install 'tinygrad_seq\[cuda13\]'"):
        tg.tensor([1.0]).to("cuda")
    with pytest.raises(ImportError):
        tg.tensor([1.0], device="cuda:1")


def test_cupy_without_a_device_is_an_error_that_says_what_to_check():
    cupy = pytest.importorskip("cupy")
    if cupy.cuda.is_available():
        pytest.skip("there is a device: tests/test_gpu.py")
    with pytest.raises(DeviceError, match=r"finds no device(?s:.*)nvidia-smi"):
        tg.tensor([1.0]).to("cuda")
    assert "cuda" not in backend.devices()


def test_a_broken_cupy_is_told_apart_from_a_missing_one(monkeypatch):
    real = builtins.__import__

    def broken(name, *args, **kwargs):
        if name == "cupy":
            raise ImportError("libcublas.so.13: cannot open shared object file")
        return real(name, *args, **kwargs)

    monkeypatch.delitem(sys.modules, "cupy", raising=False)
    monkeypatch.setattr(builtins, "__import__", broken)
    with pytest.raises(MissingDependencyError, match="libcublas"):
        tg.tensor([1.0]).to("cuda")


def test_a_raw_array_of_cupy_is_recognised_once_the_user_has_made_one():
    pytest.importorskip("cupy")
    program = """
        import sys
        sys.path.insert(0, "tools")
        from tinygrad_seq import backend
        assert "cupy" not in sys.modules
        assert not backend.is_array(3.0) and "cupy" not in sys.modules
        import cupy
        from cupy_surface import hollow
        x = hollow(cupy, (2, 3), "float32")
        assert backend.is_array(x) and not backend.is_array(cupy.cuda.Device)
        assert backend.array_module(x) is cupy
        assert backend.device_of(x) == "cuda:0"
        print(backend.devices())

        import numpy
        from tinygrad_seq import errors, guards, ops
        assert guards.owner(x[1:][0]) is guards.owner(x.T) is x
        guards.wrote(x[1:])
        try:
            ops.matmul(x, numpy.ones((3, 2), "float32"))  # CuPy refuses before it asks for a device
        except errors.DeviceError as error:
            print(str(error).splitlines()[0])
    """
    root = strict_cupy.__path__[0] + "/../.."
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], cwd=root, capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines() == ["['cpu', 'cuda']", "matmul: its arguments live on different devices"], done.stderr


def test_importing_the_package_imports_no_cupy_and_no_scipy():
    program = "import sys, tinygrad_seq; print([m for m in ('cupy', 'scipy', 'matplotlib', 'pygraphviz') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "[]", done.stderr


# ---- Mixing devices

W = "'w' float32 (3, 3) on cpu"
X = "'x' float32 (3, 3) on strict:0"
MIXES = {
    "add": lambda w, x: w + x,
    "subtract": lambda w, x: x - w,
    "multiply": lambda w, x: x * w,
    "divide": lambda w, x: w / x,
    "power": lambda w, x: w**x,
    "matmul": lambda w, x: x @ w,
    "less": lambda w, x: w < x,
    "equal": lambda w, x: w == x,
    "maximum": lambda w, x: tg.maximum(w, x),
    "logaddexp": lambda w, x: tg.logaddexp(x, w),
    "where": lambda w, x: tg.where(x > 0, x, w),
    "concatenate": lambda w, x: tg.concatenate([w, x]),
    "stack": lambda w, x: tg.stack([x, w]),
    "einsum": lambda w, x: tg.einsum("ij,jk->ik", x, w),
    "solve": lambda w, x: tg.linalg.solve(w, x),
    "index_put": lambda w, x: tg.index_put(x, slice(None), w),
    "index_add": lambda w, x: tg.index_add(x, slice(None), w),
}


@pytest.mark.parametrize("op", MIXES)
def test_mixing_devices_is_an_error_that_names_the_op_and_both_tensors(op):
    w, x = tensor(3, 3, device="cpu", name="w"), tensor(3, 3, name="x")
    with pytest.raises(DeviceError) as caught:
        MIXES[op](w, x)
    text = str(caught.value)
    assert text.startswith(f"{op}: its arguments live on different devices")
    assert W in text
    assert X in text
    assert "do:" in text


RAW = {
    "tensor + host array": lambda x, host, raw: x + host,
    "host array + tensor": lambda x, host, raw: host + x,
    "host array @ tensor": lambda x, host, raw: host @ x,
    "host tensor @ device array": lambda x, host, raw: tg.tensor(host) @ raw,
    "device array @ host tensor": lambda x, host, raw: raw @ tg.tensor(host),
    "arrays alone": lambda x, host, raw: ops.add(host, raw),
    "NumPy's function": lambda x, host, raw: np.concatenate([x, host]),
    "a host scalar without axes": lambda x, host, raw: x * np.array(2.0, "float32"),
    "a cotangent": lambda x, host, raw: (x * 2).backward(host),
    "a gradient": lambda x, host, raw: setattr(x, "grad", tg.tensor(host)),
    "an assignment": lambda x, host, raw: x.detach().copy().__setitem__(0, tg.tensor(host)[0]),
}


@pytest.mark.parametrize("mix", RAW.values(), ids=RAW)
def test_raw_arrays_mix_no_better(mix):
    x = tensor(3, 3, name="x")
    with pytest.raises(DeviceError, match="cpu") as caught:
        mix(x, np.ones((3, 3), "float32"), xp.ones((3, 3), "float32"))
    assert "strict:0" in str(caught.value)
    assert x.grad is None


def test_arrays_of_two_devices_of_one_kind_mix_no_better():
    x, y = tensor(3, device="strict:0"), tensor(3, device="strict:1")
    with pytest.raises(DeviceError, match="strict:0(?s:.*)strict:1"):
        x + y


def test_work_on_a_device_that_is_not_current_is_an_error_that_says_how_to_choose_it():
    x = tensor(3, device="strict:1", name="x")
    with pytest.raises(DeviceError, match=r"multiply(?s:.*)strict:1, which is not the current(?s:.*)Device\(1\)"):
        x * x
    with xp.cuda.Device(1):
        y = (x * x).sum()
        y.backward()
    assert (y.device, x.grad.device) == ("strict:1", "strict:1")


def test_a_device_index_into_a_host_tensor_is_an_error_and_a_host_index_is_moved():
    w, x = tensor(3, 3, device="cpu"), tensor(3, 3)
    positions = np.array([2, 0])
    with pytest.raises(DeviceError, match="cpu(?s:.*)strict:0"):
        w[tg.tensor(positions, device="strict")]
    np.testing.assert_array_equal(x[tg.tensor(positions)].numpy(), x.numpy()[positions])
    np.testing.assert_array_equal(x[tg.tensor(positions, device="strict")].numpy(), x.numpy()[positions])


def test_numbers_and_device_scalars_fit_everywhere():
    x, two = tensor(3, 3), tg.tensor(2.0, device="strict")
    for y in (
        x * 2,
        2 * x,
        x * 2.0,
        x * np.float32(2),
        np.float32(2) * x,
        x * two,
        two * x,
        x * True + x,
        x / 0.5,
        tg.where(x > 0, x, x) * two,
    ):
        assert y.device == "strict:0"
        assert y.dtype == np.float32
        np.testing.assert_array_equal(y.numpy(), 2 * x.numpy())
    assert tg.maximum(x, 0.0).device == tg.where(x > 0, x, 0.0).device == tg.clip(x, -1, 1).device == "strict:0"


# ---- Autodiff on the device: same numbers, and no waiting


def rnn_loss(xs, w, u, b):
    """h' = tanh(x W + h U + b), gated by its own sigmoid; the sum of squares over all time."""
    h, total = xs[0, :, :1] @ (w[:1] * 0), 0.0
    for x in xs:
        h = ops.tanh(x @ w + h @ u + b)
        h = h * ops.sigmoid(h)
        total = total + (h * h).sum()
    return total


def weights(device, dtype="float64"):
    return [tensor(*s, device=device, dtype=dtype, seed=i) for i, s in enumerate([(5, 3, 4), (4, 6), (6, 6), (6,)])]


def test_an_rnn_differentiates_on_the_device_to_the_numbers_of_numpy_without_waiting():
    ours, theirs = weights("strict"), weights("cpu")
    with no_syncs():
        loss = rnn_loss(*ours)
        loss.backward()
    expected = rnn_loss(*theirs)
    expected.backward()
    assert loss.item() == expected.item()
    for x, y in zip(ours, theirs, strict=True):
        assert x.grad.device == "strict:0"
        np.testing.assert_array_equal(x.grad.numpy(), y.grad.numpy())


def test_its_second_derivative_too():
    results = []
    for device in ("strict", "cpu"):
        values = weights(device)
        with no_syncs():
            first = tg.grad(rnn_loss(*values), values, create_graph=True)
            norm = sum((g * g).sum() for g in first)
            second = tg.grad(norm, values)
        results.append([g.numpy() for g in (*first, *second)])
    for x, y in zip(*results, strict=True):
        np.testing.assert_array_equal(x, y)


def test_hooks_retained_gradients_and_accumulation_do_not_wait():
    x = tensor(3, 3)
    with no_syncs():
        y = ops.tanh(x).retain_grad()
        y.register_hook(lambda g: g * 2)
        for _ in range(2):
            y.sum().backward()
    np.testing.assert_allclose(y.grad.numpy(), np.full((3, 3), 4.0))
    np.testing.assert_allclose(x.grad.numpy(), 4 * (1 - y.numpy() ** 2), rtol=1e-6)


def test_anomaly_mode_finds_a_nan_on_the_device():
    x = tensor(3)
    with tg.detect_anomaly(), pytest.raises(tg.errors.AnomalyError, match=r"log: the first NaN"):
        ops.log(ops.abs(x) * -1.0)


def test_an_overwritten_device_array_is_noticed_through_a_view():
    x = tensor(4, 3)
    y = (x * x).sum()
    with tg.no_grad():
        x[1:, 0] = 5.0
    with pytest.raises(InPlaceError, match="overwritten"):
        y.backward()


def test_a_write_through_a_view_stamps_the_owner():
    from tinygrad_seq import guards

    x = xp.ones((4, 3), "float32")
    view = x[1:][0]
    guards.wrote(view)
    assert guards.owner(view) is x
    assert guards.owner(x.T) is x
    leaf = tg.tensor(x)
    assert guards.owner(leaf._data) is not x


def test_a_raw_device_array_beside_tensors_is_kept_as_it_was():
    """A host array is copied when it is recorded; a device array must be, too, or its owner could falsify the gradient."""
    x, raw = tensor(3, dtype="float64"), xp.asarray(np.array([1.0, 2.0, 3.0]))
    y = (x * raw).sum()
    raw[...] = 0.0
    y.backward()
    np.testing.assert_array_equal(x.grad.numpy(), [1.0, 2.0, 3.0])


def train(device, steps=3, clip=True):
    """A character model in miniature: embedding, RNN, logits; the losses and the weights after some steps of Adam."""
    rng = np.random.default_rng(0)
    embed, rnn, out = nn.Embedding(11, 8, rng=1), nn.RNN(8, 16, rng=2), nn.Linear(16, 11, rng=3)
    parts = [m.to(device) for m in (embed, rnn, out)]
    parameters = [p for m in parts for p in m.parameters()]
    adam = optim.Adam(parameters, lr=0.01)
    text = tg.tensor(rng.integers(0, 11, (8, 4)), device=device)
    losses = []
    for _ in range(steps):
        hs, _ = rnn(embed(text[:-1]))
        loss = F.cross_entropy(out(hs), text[1:])
        adam.zero_grad()
        loss.backward()
        if clip:
            optim.clip_grad_norm_(parameters, 0.5)
        adam.step()
        losses.append(loss)
    return losses, parameters


@tg.unfolded  # the host's time loops would be compiled, those of a device run step by step
def test_training_on_the_device_takes_the_steps_of_the_host_exactly():
    (losses, parameters), (expected_losses, expected_parameters) = train("strict"), train("cpu")
    assert [x.item() for x in losses] == [x.item() for x in expected_losses]
    assert losses[-1].item() < losses[0].item()
    for x, y in zip(parameters, expected_parameters, strict=True):
        np.testing.assert_array_equal(x.numpy(), y.numpy())


def test_training_waits_only_for_the_norm_of_the_gradient_once_a_step():
    with no_syncs():
        train("strict", clip=False)
    before = len(strict_cupy.syncs)
    train("strict", steps=4)
    assert strict_cupy.syncs[before:] == ["float"] * 4


def test_an_optimizer_step_on_the_device_is_noticed_by_an_older_graph():
    w = tensor(3, 3)
    loss = (w * w).sum()
    loss.backward()
    optim.SGD([w], lr=0.1).step()
    with pytest.raises(InPlaceError, match="multiply(?s:.*)overwritten"):
        loss.backward()


def test_a_model_that_moves_between_two_steps_takes_its_optimizer_along():
    results = []
    for devices in (["cpu"] * 4, ["cpu", "strict", "strict", "cpu"]):
        model = nn.Linear(3, 2, rng=0)
        adam = optim.Adam(list(model.parameters()), lr=0.1)
        for device in devices:
            model.to(device)
            adam.zero_grad()
            (model(tensor(4, 3, device=device)) ** 2).sum().backward()
            adam.step()
        results.append(model.weight.numpy())
    np.testing.assert_array_equal(*results)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it teaches GNU's malloc, others keep memory in their own ways")
def test_what_a_step_frees_is_kept_for_the_next() -> None:
    program = """
        import resource
        import tinygrad_seq as tg
        w = tg.random.standard_normal((256, 1024), requires_grad=True)
        def step():
            y = tg.random.standard_normal((512, 256)) @ w  # 2 MiB, far above what malloc keeps at first
            (tg.tanh(y) * y).sum().backward()
            w.grad = None
        for _ in range(3):
            step()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(5):
            step()
        print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) // 5)
    """
    result = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=True)
    assert int(result.stdout) < 100, "page faults of a step; a MiB has 256 pages"
