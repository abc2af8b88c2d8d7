"""The strict double of CuPy catches what CuPy would refuse, accepts what CuPy accepts, and knows the names of CuPy itself."""

import copy
import importlib.util
import sys
import weakref
from pathlib import Path

import numpy as np
import pytest
import strict_cupy
from strict_cupy import SURFACE, StrictArray, no_syncs, syncs, uploads, xp

ROOT = Path(__file__).parent.parent


def numbers(*shape, dtype="float32"):
    return np.random.default_rng(7).uniform(0.5, 2, shape).astype(dtype)


class World:
    """What a planted fault or a legal use works with: a module, arrays in it (x, w, i, mask) and arrays of the host (host_*)."""

    def __init__(self, module):
        self.m = module
        self.host_x, self.host_w = numbers(4, 6), numbers(6, 3)
        self.host_i = np.array([0, 2, 1])
        self.x, self.w = module.asarray(self.host_x.copy()), module.asarray(self.host_w.copy())
        self.i = module.asarray(self.host_i.copy())
        self.mask = module.asarray(self.host_x > 1)
        self.zero = module.zeros((4, 6), "float32")


# Mistakes that a test on NumPy alone lets pass. Each is a few lines of an autograd as somebody could write them.


def fault_host_noise_on_the_right(c):
    return c.x + np.random.default_rng(0).standard_normal((4, 6))


def fault_host_mask_on_the_left(c):
    return np.tril(np.ones((6, 6)))[:4] * c.x


def fault_host_array_in_a_product(c):
    return c.x @ c.host_w


def fault_host_positions_in_a_function(c):
    return c.m.add(c.x, np.arange(6))


def fault_host_array_in_a_comparison(c):
    return c.x > c.host_x


def fault_host_array_scaled_in_place(c):
    c.host_x *= c.x


def fault_device_array_changed_by_host_array(c):
    c.x -= 0.1 * c.host_x


def fault_host_0d_array_as_a_scalar(c):
    return c.x * np.array(0.5)


def fault_seed_of_the_sweep_made_on_the_host(c):
    seed = np.ones(c.x.shape, c.x.dtype)
    return seed * c.x


def fault_buffer_made_on_the_host(c):
    total = np.zeros(c.x.shape)
    total += c.x


def fault_buffer_of_the_host_filled(c):
    total = np.zeros((2, 4, 6))
    total[0] = c.x


def fault_asarray_to_be_sure(c):
    return np.asarray(c.x)


def fault_array_of_a_list_of_arrays(c):
    return np.array([c.x, c.x])


def fault_join_with_host_padding(c):
    return np.concatenate([c.x, np.zeros((1, 6), "float32")])


def fault_where_with_a_host_branch(c):
    return c.m.where(c.mask, c.x, c.host_x)


def fault_out_on_the_host(c):
    return np.tanh(c.x, out=np.empty((4, 6), "float32"))


def fault_setitem_from_the_host(c):
    c.x[0] = c.host_x[1]


def fault_setitem_from_a_list(c):
    c.x[0] = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]


def fault_host_array_indexed_by_a_device_array(c):
    return c.host_x[c.i]


def fault_scatter_of_host_gradients(c):
    np.add.at(c.x, (c.i,), c.host_x[:3])


def fault_division_with_errstate(c):
    with c.m.errstate(divide="ignore"):
        return c.x / c.zero


def fault_safe_division_by_where(c):
    return c.m.divide(c.x, c.x, where=c.mask, out=c.zero)


def fault_numpy_ufunc_with_where(c):
    return np.log(c.x, where=c.x > 1, out=c.zero)


def fault_masked_mean_by_where(c):
    return c.x.mean(where=c.mask)


def fault_max_of_nothing_by_initial(c):
    return c.m.max(c.x, axis=0, initial=0.0)


def fault_numpy_sum_with_initial(c):
    return np.sum(c.x, initial=1.0)


def fault_stable_sort(c):
    return c.m.argsort(c.x, axis=-1, stable=True)


def fault_take_with_clipping(c):
    return c.m.take(c.x, c.i, axis=0, mode="clip")


def fault_row_wise_product_by_vecdot(c):
    return c.m.vecdot(c.x, c.x)


def fault_time_steps_by_unstack(c):
    return c.m.unstack(c.x)


def fault_loop_by_nditer(c):
    return list(c.m.nditer(c.x))


def fault_contraction_order_by_einsum_path(c):
    return c.m.einsum_path("ij,jk->ik", c.x, c.w)


def fault_multi_dot(c):
    return c.m.linalg.multi_dot([c.x, c.w, c.w.T])


def fault_running_maximum_by_accumulate(c):
    return c.m.maximum.accumulate(c.x)


def fault_maximum_by_reduce(c):
    return np.maximum.reduce(c.x, axis=1)


def fault_logsumexp_by_reduce(c):
    return c.m.logaddexp.reduce(c.x, axis=0)


def fault_product_scatter(c):
    c.m.multiply.at(c.x, c.i, 2.0)


def fault_ufunc_of_a_list(c):
    return c.m.exp([0.0, 1.0])


def fault_sum_of_a_list(c):
    return c.m.sum([1.0, 2.0])


def fault_ufunc_of_a_list_of_arrays(c):
    return c.m.add([c.x, c.x], 1)


def fault_repeat_by_a_device_array(c):
    return c.m.repeat(c.x[:3], c.i, axis=0)


def fault_loop_over_a_device_scalar(c):
    return list(range(c.i[1]))


def fault_list_indexed_by_a_device_scalar(c):
    return ["a", "b", "c"][c.i[1]]


def fault_python_number_by_round(c):
    return round(c.x[0, 0], 2)


def fault_read_only_by_setflags(c):
    c.x.setflags(write=False)


def fault_read_only_by_flags(c):
    c.x.flags.writeable = False


def fault_scatter_into_integers(c):
    c.m.add.at(c.i, c.m.asarray([0, 0]), 1)


def fault_broadcast_of_matrices_to_solve(c):
    return c.m.linalg.solve(c.x[None, :, :4] + 3 * c.m.eye(4), c.x[:, :4])


def fault_quicksort(c):
    return np.sort(c.x, axis=0, kind="quicksort")


def fault_limits_by_name(c):
    return np.clip(c.x, min=0, max=1)


def fault_cast_that_is_checked(c):
    return c.x.astype("float64", casting="safe")


def fault_pointer_by_ctypes(c):
    return c.x.ctypes.data


def fault_resize_in_place(c):
    c.x.copy().resize((6, 4), refcheck=False)


def fault_item_at_a_position(c):
    return c.x.item(3)


def fault_named_tuple_of_slogdet(c):
    return c.m.linalg.slogdet(c.x[:4, :4]).logabsdet


def fault_array_of_objects(c):
    return c.m.asarray([None, c.host_x], dtype=object)


def fault_names_as_an_array(c):
    return c.m.array(["i", "f", "g", "o"])


def fault_normal_of_a_generator(c):
    return c.m.random.default_rng(0).normal(0, 1, (4, 6))


def fault_shuffle_of_a_generator(c):
    return c.m.random.default_rng(0).permutation(10)


def fault_duplicates_in_an_assignment(c):
    c.x[c.m.asarray([0, 0])] += c.x[:2]


FAULTS = [f for name, f in list(globals().items()) if name.startswith("fault_")]


def title(f):
    return f.__name__.partition("_")[2].replace("_", " ")


@pytest.mark.parametrize("fault", FAULTS, ids=title)
def test_a_planted_fault_passes_on_numpy_and_is_caught_by_the_double(fault):
    fault(World(np))
    with pytest.raises((TypeError, ValueError, AttributeError, NotImplementedError)):
        fault(World(xp))


def test_there_are_more_than_thirty_planted_faults():
    assert len(FAULTS) >= 50


# What CuPy accepts. Each must give what NumPy gives.

LEGAL = {
    "scalars of Python": lambda c: 2 * c.x + 1 - c.x / 3,
    "scalars of NumPy": lambda c: np.float32(2) * c.x + np.float32(1),
    "scalars without axes": lambda c: c.x * c.x.sum(),
    "product and tanh": lambda c: c.m.tanh(c.x @ c.w),
    "NumPy's ufunc": lambda c: np.tanh(c.x),
    "NumPy's ufunc with two arguments": lambda c: np.maximum(c.x, 1.0),
    "NumPy's matmul": lambda c: np.matmul(c.x, c.w),
    "NumPy's reduction": lambda c: np.sum(c.x, axis=1, keepdims=True),
    "NumPy's concatenate": lambda c: np.concatenate([c.x, c.x], 1),
    "NumPy's stack": lambda c: np.stack([c.x, c.x], axis=-1),
    "NumPy's reshape": lambda c: np.reshape(c.x, (6, 4)),
    "NumPy's broadcast": lambda c: np.broadcast_to(c.x, (2, 4, 6)),
    "NumPy's where": lambda c: np.where(c.mask, c.x, 0),
    "NumPy's ones_like": lambda c: np.ones_like(c.x),
    "NumPy's linalg": lambda c: np.linalg.inv(c.x[:, :4] + 3 * c.m.eye(4, dtype="float32")),
    "einsum": lambda c: c.m.einsum("ij,jk->ik", c.x, c.w),
    "tensordot": lambda c: c.m.tensordot(c.x, c.w, axes=1),
    "reductions by method": lambda c: c.x.sum(axis=(0, 1)) + c.x.mean() + c.x.var(ddof=1) + c.x.max() + c.x.prod(),
    "argmax": lambda c: c.x.argmax(axis=1),
    "cumsum": lambda c: c.m.cumsum(c.x, axis=1),
    "add.accumulate": lambda c: c.m.add.accumulate(c.x, axis=1),
    "out": lambda c: c.m.add(c.x, c.x, out=c.zero),
    "in place": lambda c: in_place(c),
    "slices and new axes": lambda c: c.x[1:, None, ::-1, ...],
    "an index array": lambda c: c.x[c.i],
    "two index arrays": lambda c: c.x[c.i, c.i],
    "assignment to a slice": lambda c: assigned(c, (slice(1, 3),), c.x[:2] * 2),
    "assignment of a number": lambda c: assigned(c, (0,), 5.0),
    "assignment to an index array": lambda c: assigned(c, (c.i,), c.x[:3]),
    "scatter add": lambda c: scattered(c),
    "take_along_axis": lambda c: c.m.take_along_axis(c.x, c.m.argsort(c.x, axis=1), axis=1),
    "sort": lambda c: c.m.sort(c.x, axis=0),
    "split": lambda c: c.m.split(c.x, 2, axis=1)[1],
    "swapaxes and T": lambda c: c.x.swapaxes(0, 1) + c.x.T,
    "expand_dims with two axes": lambda c: c.m.expand_dims(c.x, (0, 2)),
    "pad": lambda c: c.m.pad(c.x, ((1, 0), (0, 2))),
    "clip with one limit": lambda c: np.clip(c.x, 1, None),
    "astype": lambda c: c.x.astype("float64", copy=False).astype("int32"),
    "comparison and logic": lambda c: (c.x > 1) & ~(c.x < 0.7),
    "creation": lambda c: c.m.zeros((2, 3)) + c.m.ones(3) + c.m.full((2, 3), 2.0) + c.m.arange(3) + c.m.linspace(0, 1, 3),
    "sliding windows": lambda c: c.m.lib.stride_tricks.sliding_window_view(c.x, 3, axis=1),
    "a copy": lambda c: copy.deepcopy(c.x),
    "several outputs": lambda c: c.m.linalg.slogdet(c.x[:, :4] + 3 * c.m.eye(4, dtype="float32"))[1],
}


def in_place(c):
    c.x += 1
    c.x *= c.x
    c.x -= c.x[0]
    return c.x


def assigned(c, key, value):
    c.x[key] = value
    return c.x


def scattered(c):
    np.add.at(c.zero, (c.m.asarray([0, 0, 3]),), c.x[:3])
    return c.zero


@pytest.mark.parametrize("use", LEGAL.values(), ids=LEGAL)
def test_a_legal_use_gives_what_numpy_gives_and_never_waits(use):
    expected = use(World(np))
    world = World(xp)
    uploads.clear()
    with no_syncs():
        found = use(world)
    assert isinstance(found, StrictArray)
    np.testing.assert_array_equal(found.get(), expected)
    assert found.dtype == expected.dtype


# What it counts


@pytest.mark.parametrize(
    ("kind", "wait"),
    {
        "float": lambda x: float(x.sum()),
        "int": lambda x: int(x.sum()),
        "bool": lambda x: x.sum() > 0 and 1,
        "item": lambda x: x.sum().item(),
        "tolist": lambda x: x.tolist(),
        "mask": lambda x: x[x > 1],
        "mask ": lambda x: x.__setitem__(x > 1, 0.0),
        "nonzero": lambda x: xp.where(x > 1),
        "argwhere": lambda x: np.argwhere(x > 1),
        "unique": lambda x: xp.unique(x),
    }.items(),
    ids=lambda part: part if isinstance(part, str) else "",
)
def test_hidden_waits_for_the_device_are_counted(kind, wait):
    x = xp.asarray(numbers(3))
    before = len(syncs)
    wait(x)
    assert syncs[before:] == [kind.strip()]
    with pytest.raises(AssertionError, match=kind.strip()), no_syncs():
        wait(x)


def test_membership_compares_element_by_element_and_waits_for_each():
    x = xp.arange(5)
    before = len(syncs)
    assert not hasattr(x, "__contains__")
    assert 3 in x
    assert syncs[before:] == ["bool"] * 4


def test_an_index_from_the_host_is_counted_as_a_copy():
    x = xp.asarray(numbers(3))
    with pytest.raises(AssertionError, match="copies"), no_syncs():
        x[np.array([0, 1])]
    with pytest.raises(AssertionError, match="copies"), no_syncs():
        x[[0, 1]]


def test_get_is_an_explicit_copy_and_not_counted():
    x = xp.asarray(numbers(3))
    with no_syncs():
        host = x.get()
    host[0] = -1
    assert x.get()[0] != -1


# Where CuPy is silent


def test_an_index_outside_the_array_raises_where_cupy_wraps():
    x = xp.arange(5)
    with pytest.raises(IndexError):
        x[xp.asarray([7])]
    with pytest.raises(IndexError):
        xp.take(x, xp.asarray([-6]))


def test_uninitialised_memory_is_full_of_nan():
    assert np.isnan(xp.empty(3).get()).all()


# What an array is


def test_a_reduction_stays_on_the_device_as_an_array_without_axes():
    total = xp.asarray(numbers(3)).sum()
    assert isinstance(total, StrictArray)
    assert total.shape == ()
    assert isinstance(xp.asarray(numbers(3))[0], StrictArray)
    assert isinstance(xp.allclose(total, total), StrictArray)


def test_views_name_the_array_that_owns_their_memory():
    x = xp.asarray(numbers(4, 6))
    row = x[1:]
    views = (row, row[0], x.T, x.reshape(6, 4), np.broadcast_to(x, (2, 4, 6)), xp.split(x, 2)[1], x.view(), x[None])
    assert x.base is None
    assert x.flags.owndata
    for view in views:
        assert view.base is x
        assert not view.flags.owndata
    assert (x + 1).base is None
    assert x[xp.asarray([0, 1])].base is None


def test_the_owner_lives_as_long_as_a_view_and_no_longer():
    x = xp.asarray(numbers(4, 6))
    alive, view = weakref.ref(x), x[0]
    del x
    assert alive() is view.base
    del view
    assert alive() is None


def test_one_memory_has_one_owner():
    x = xp.asarray(numbers(3))
    assert np.real(x) is x or np.real(x).base is x
    assert xp.asarray(x) is x
    assert x.real[1:].base is x


def test_what_is_put_on_the_device_is_a_copy():
    host = numbers(3)
    x = xp.asarray(host)
    host[0] = -1
    assert x.get()[0] != -1
    assert xp.asarray(x) is x
    assert xp.array(x) is not x


def test_a_device_says_nothing_of_overflow_and_division_by_zero():
    x = xp.zeros(3)
    assert np.isnan((x / x).get()).all()  # filterwarnings = error: NumPy alone would raise
    assert np.isinf(np.exp(x + 1000).get()).all()


def test_arrays_of_two_devices_do_not_mix():
    x = xp.asarray(numbers(3))
    with xp.cuda.Device(1):
        y = xp.asarray(numbers(3))
        assert (y + y).device.id == 1
        with pytest.raises(ValueError, match="current device"):
            x + y
    assert y.device.id == 1
    with pytest.raises(ValueError, match="current device"):
        y + y


def test_an_operator_defers_to_whoever_takes_part_in_numpys_protocol():
    class Guest:
        def __array_ufunc__(self, ufunc, method, *inputs, **options):
            return ufunc.__name__, method, len(inputs)

    x = xp.asarray(numbers(3))
    assert x * Guest() == ("multiply", "__call__", 2)
    assert x @ Guest() == ("matmul", "__call__", 2)
    with pytest.raises(TypeError):
        xp.multiply(x, Guest())


def test_numpys_function_without_a_twin_raises():
    with pytest.raises(TypeError):
        np.einsum_path("i,i", xp.arange(3), xp.arange(3))
    with pytest.raises(TypeError):
        np.heaviside.reduce(xp.arange(3.0)) if not hasattr(xp, "heaviside") else np.spacing(xp.arange(3.0))


def test_special_functions_are_those_of_cupyx():
    scipy_special = pytest.importorskip("scipy.special")
    x = xp.asarray(numbers(5))
    np.testing.assert_array_equal(xp.special.erf(x).get(), scipy_special.erf(x.get()))
    assert not hasattr(xp.special, "voigt_profile")
    with pytest.raises(TypeError):
        scipy_special.erf(x)


def test_installing_makes_a_back_end_and_uninstalling_takes_it_out():
    from tinygrad_seq import backend

    was = strict_cupy.DEVICE in backend.devices()
    with strict_cupy.installed():
        assert backend.is_array(xp.arange(3))
        assert backend.array_module(xp.arange(3)) is xp
    assert (strict_cupy.DEVICE in backend.devices()) == was
    if not was:
        assert not backend.is_array(xp.arange(3))


# Against CuPy itself


@pytest.fixture(scope="module")
def tool():
    pytest.importorskip("cupy", reason="the wheel of CuPy is not installed; surface.json speaks for it")
    spec = importlib.util.spec_from_file_location("cupy_surface", ROOT / "tools" / "cupy_surface.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_the_surface_agrees_with_the_installed_cupy(tool):
    import cupy

    if cupy.__version__ != SURFACE["cupy"]:
        pytest.skip(f"surface.json speaks of CuPy {SURFACE['cupy']}, installed is {cupy.__version__}: run tools/cupy_surface.py")
    found = tool.surface()
    for part in ("ndarray", "operators", "generator", "special", "names", "ufunc_methods"):
        assert found[part] == SURFACE[part], part


def test_cupys_compiled_methods_take_the_parameters_of_their_docstrings_and_no_others(tool):
    import cupy

    x = tool.hollow(cupy, (2, 3), "float32")
    asked = {
        "where",
        "initial",
        "stable",
        "mode",
        "ddof",
        "keepdims",
        "axis",
        "out",
        "dtype",
        "order",
        "kind",
        "copy",
        "correction",
        "descending",
    }
    for name in (
        "sum",
        "mean",
        "max",
        "min",
        "prod",
        "var",
        "std",
        "any",
        "all",
        "argmax",
        "cumsum",
        "sort",
        "argsort",
        "take",
        "astype",
    ):
        required = {"take": (0,), "astype": ("float64",)}.get(name, ())
        for parameter in sorted(asked - set(SURFACE["ndarray"][name])):
            with pytest.raises(TypeError, match="unexpected keyword"):
                getattr(x, name)(*required, **{parameter: None})


def test_cupy_refuses_the_same_operands_before_it_asks_the_device(tool):
    """Where CuPy raises without a device, the double raises the same kind of error."""
    import cupy

    theirs, ours = tool.hollow(cupy, (2, 3), "float32"), xp.zeros((2, 3), "float32")
    host = np.ones((2, 3), "float32")
    for use in (
        lambda x, m: np.asarray(x),
        lambda x, m: x @ host.T,
        lambda x, m: host.T @ x,
        lambda x, m: host[x.astype("int64") if m is xp else tool.hollow(cupy, (1,), "int64")],
        lambda x, m: m.maximum.reduce(x),
        lambda x, m: m.multiply.at(x, 0, 1),
        lambda x, m: m.subtract.accumulate(x),
        lambda x, m: np.sum(x, where=True),
        lambda x, m: x.sum(initial=0),
        lambda x, m: x.astype(object),
        lambda x, m: m.zeros(3, dtype=object),
        lambda x, m: x.__setitem__(0, host[0]),
        lambda x, m: x.__setitem__(0, [1, 2, 3]),
        lambda x, m: x.ctypes,
        lambda x, m: hash(x),
        lambda x, m: round(x),
        lambda x, m: x[5],
        lambda x, m: m.errstate,
        lambda x, m: m.sum([1.0]),
        lambda x, m: m.random.Generator.normal,
        lambda x, m: x.sort(kind="quicksort"),
        lambda x, m: np.argsort(x, kind="mergesort"),
        lambda x, m: x.sum().sort() if m is xp else tool.hollow(cupy, (), "float32").sort(),
        lambda x, m: x.astype("int32", casting="same_kind"),
        lambda x, m: x.astype("int32", subok=True),
        lambda x, m: x.dot(host[0]),
        lambda x, m: m.tensordot(x, host[0], 1),
        lambda x, m: m.where(x, None, x),
        lambda x, m: np.clip(x, min=0),
        lambda x, m: np.var(x, mean=0),
        lambda x, m: x.flags.writeable,
    ):
        errors = []
        for x, m in ((theirs, cupy), (ours, xp)):
            with pytest.raises((TypeError, ValueError, IndexError, AttributeError, NotImplementedError)) as caught:
                use(x, m)
            errors.append(caught.type)
        assert errors[0] is errors[1] or {*errors} == {AttributeError, TypeError}


def test_every_operator_of_the_double_is_one_of_cupys():
    ours = {name for name in vars(StrictArray) if name.startswith("__") and callable(vars(StrictArray)[name])}
    assert ours - set(SURFACE["operators"]) <= {"__module__"}
