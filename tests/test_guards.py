"""In-place safety and anomaly mode: nothing that a graph needs changes unnoticed, and the first NaN is found where it was made."""

import re

import numpy as np
import pytest

import tinygrad_seq as tg
from tinygrad_seq.errors import AnomalyError, ArgumentError, InPlaceError
from tinygrad_seq.graph import value_of
from tinygrad_seq.guards import wrote
from tinygrad_seq.primitives import backward_of, primitive


def leaf(*shape, name=None):
    return tg.tensor(np.random.default_rng(0).standard_normal(shape), requires_grad=True, name=name)


# ---- In-place safety -----------------------------------------------------------------------------------------------------------------


def test_overwriting_what_the_derivative_needs_is_an_error_that_names_op_and_tensor():
    w = leaf(3, name="W")
    with tg.frame("loop", step=4):
        y = (w * w).sum()
    with tg.no_grad():
        w[...] = 0.0
    with pytest.raises(InPlaceError, match=r"multiply: .*'W'.*overwritten") as error:
        y.backward()
    assert "t = 4" in str(error.value) and "do:" in str(error.value)
    assert w.grad is None


def test_overwriting_what_no_derivative_needs_is_fine():
    w, b = leaf(3), leaf(3)
    y = (w + b).sum()
    with tg.no_grad():
        b[...] = 0.0
    y.backward()
    np.testing.assert_array_equal(w.grad.numpy(), np.ones(3))


def test_training_on_is_fine_after_the_parameters_changed():
    w = leaf(3)
    for _ in range(3):
        (w * w).sum().backward()
        with tg.no_grad():
            w[...] = w - 0.1 * w.grad


def test_a_change_through_a_detached_alias_is_noticed():
    w = leaf(3)
    y = (w * w).sum()
    w.detach()[0] = 5.0
    with pytest.raises(InPlaceError):
        y.backward()


def test_a_change_of_the_whole_is_noticed_by_a_graph_that_uses_a_part():
    x = tg.tensor(np.arange(6.0).reshape(2, 3))
    w = leaf(3)
    y = (w * x[1]).sum()
    x[...] = 0.0
    with pytest.raises(InPlaceError):
        y.backward()


def test_a_change_of_another_array_disturbs_nothing():
    w, other = leaf(3), leaf(3)
    y = (w * w).sum()
    with tg.no_grad():
        other[...] = 0.0
    y.backward()
    np.testing.assert_allclose(w.grad.numpy(), 2 * w.numpy())


def test_data_and_numpy_are_read_only():
    x = leaf(3)
    for view in (x.data, x.numpy(), np.asarray(x)):
        with pytest.raises(ValueError, match="read-only"):
            view[0] = 1.0


def test_an_array_given_to_a_tensor_is_copied():
    array = np.ones(3)
    x = tg.tensor(array, requires_grad=True)
    y = (x * x).sum()
    array[:] = 7.0
    y.backward()
    np.testing.assert_array_equal(x.grad.numpy(), 2 * np.ones(3))


@pytest.mark.parametrize(
    "use",
    [
        lambda x, a: x * a,
        lambda x, a: a * x,
        lambda x, a: tg.where(a > 0, x, a) * a,
        lambda x, a: tg.einsum("i,i->i", x, a),
    ],
)
def test_a_bare_array_in_a_graph_is_as_it_was_when_recorded(use):
    x, a = leaf(3), np.array([1.0, 2.0, 3.0])
    expected = tg.grad(use(x, a.copy()).sum(), x).numpy()
    y = use(x, a).sum()
    a[:] = 100.0
    np.testing.assert_array_equal(tg.grad(y, x).numpy(), expected)
    assert tg.grad(y, x, create_graph=True).numpy().tolist() == expected.tolist()


def test_an_index_array_in_a_graph_is_as_it_was_when_recorded():
    x, key = leaf(3), np.array([0, 2])
    y = x[key].sum() + tg.take(x, key).sum()
    key[:] = 1
    np.testing.assert_array_equal(tg.grad(y, x).numpy(), [2, 0, 2])


def test_a_recorded_tensor_refuses_to_be_overwritten_and_names_index_put():
    x = leaf(3)
    for target in (x, x * 2):
        before = target.numpy().copy()
        with pytest.raises(InPlaceError, match="index_put"):
            target[0] = 1.0
        np.testing.assert_array_equal(target.numpy(), before)
    with tg.no_grad(), pytest.raises(InPlaceError):
        (leaf(3) * 1)[0] = 1.0  # made inside no_grad: a constant
        tg.enable_grad()(lambda: leaf(3) * 1)()[0] = 1.0


def test_a_write_is_forgotten_with_its_array():
    from tinygrad_seq import guards

    before = len(guards._writes)
    for _ in range(100):
        wrote(np.ones(3))
    assert len(guards._writes) == before


def test_an_augmented_assignment_makes_a_new_tensor():
    x = leaf(3)
    y = x
    y += 1
    assert y is not x and y.op == "add"


# ---- Anomalies ---------------------------------------------------------------------------------------------------------------------------


def line_of(error):
    return re.search(r"test_guards\.py:\d+: (.*)", str(error.value)).group(1)


def test_the_first_nan_of_the_forward_pass_is_reported_with_op_step_and_line():
    x = tg.tensor([1.0, -1.0], requires_grad=True, name="x")
    with pytest.raises(AnomalyError, match="log: the first NaN of the forward pass") as error:
        with tg.detect_anomaly(), np.errstate(invalid="ignore"), tg.frame("loop", step=3):
            tg.log(x) * 2
    assert "t = 3" in str(error.value) and "'x'" in str(error.value)
    assert line_of(error) == "tg.log(x) * 2"


def test_an_infinity_out_of_finite_numbers_is_reported():
    with pytest.raises(AnomalyError, match="divide: the first infinity"), tg.detect_anomaly(), np.errstate(divide="ignore"):
        1.0 / tg.tensor([0.0], requires_grad=True)


def test_an_infinity_out_of_infinities_is_none():
    mask = tg.tensor(np.array([0.0, -np.inf]))
    scores = leaf(2)
    with tg.detect_anomaly():
        tg.exp(scores + mask).sum().backward()


def test_an_infinity_that_came_in_is_reported_by_no_op_that_hands_it_on():
    x = tg.tensor([np.inf, 1.0], requires_grad=True)
    with tg.detect_anomaly():
        (x * 1.0 + x).sum() + x.max()


def test_the_first_nan_of_the_backward_pass_is_reported_with_the_line_that_recorded_it():
    x = tg.tensor([0.0, 1.0], requires_grad=True, name="x")
    with tg.detect_anomaly(), np.errstate(all="ignore"):
        with tg.frame("loop", step=2):
            y = tg.sqrt(x)
        loss = (y * 0).sum()
        with pytest.raises(AnomalyError, match="sqrt: the first NaN of the backward pass") as error:
            loss.backward()
    assert "t = 2" in str(error.value)
    assert line_of(error) == "y = tg.sqrt(x)"
    assert x.grad is None


def test_a_graph_recorded_outside_anomaly_mode_says_how_to_see_the_line():
    x = tg.tensor([0.0], requires_grad=True)
    with np.errstate(all="ignore"):
        loss = (tg.sqrt(x) * 0).sum()
        with pytest.raises(AnomalyError, match="record the graph inside it"), tg.detect_anomaly():
            loss.backward()


def test_anomaly_mode_changes_no_number():
    x = leaf(4)

    def gradient():
        return tg.grad((tg.tanh(x[1:] * x[:-1]) / (1 + x[0] ** 2)).sum(), x).numpy()

    plain = gradient()
    with tg.detect_anomaly():
        np.testing.assert_array_equal(gradient(), plain)


def test_anomaly_mode_is_a_decorator_and_ends():
    @tg.detect_anomaly
    def bad(x):
        return tg.log(x)

    with np.errstate(all="ignore"):
        with pytest.raises(AnomalyError):
            bad(tg.tensor([-1.0], requires_grad=True))
        assert np.isnan(tg.log(tg.tensor([-1.0])).numpy()).all()


# ---- Arrays of others ------------------------------------------------------------------------------------------------------------------


def test_a_read_only_view_of_an_array_that_changes_is_copied():
    x, row = leaf(2, 2), np.array([1.0, 2.0])
    y = (x * np.broadcast_to(row, (2, 2))).sum()
    row[:] = 99
    y.backward()
    np.testing.assert_array_equal(x.grad.numpy(), [[1, 2], [1, 2]])


def test_an_array_of_a_subclass_is_copied_and_its_result_is_a_plain_array(tmp_path):
    x = leaf(1, 2)
    numbers = np.memmap(tmp_path / "numbers", dtype="float64", mode="w+", shape=(1, 2))
    numbers[:] = 1
    y = x * numbers
    numbers[:] = 99
    y.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), [[1, 1]])
    assert type(y._data) is type((x * np.rec.array(np.ones((1, 2))))._data) is np.ndarray


def test_a_masked_array_is_refused():
    with pytest.raises(ArgumentError, match="mask"):
        leaf(2) * np.ma.array([1.0, 2.0], mask=[False, True])


def test_a_list_that_is_a_parameter_may_change_afterwards():
    x, axes = leaf(2, 3, 4), [2, 0, 1]
    y = x.transpose(axes)
    axes[:] = [0, 1, 2]
    y.sum().backward()
    assert x.grad.shape == (2, 3, 4)


def test_overwriting_what_an_op_saved_is_noticed():
    @primitive(saves=True)
    def exponential(x):
        y = np.exp(x)
        return y, y

    @backward_of(exponential)
    def _(g, y, saved, x):
        return [g * saved]

    y = exponential(leaf(3))
    y.detach()[...] = 0.0
    with pytest.raises(InPlaceError, match="exponential: what it saved"):
        y.sum().backward()


def test_a_dropped_number_is_not_computed_again_from_an_overwritten_leaf():
    w = leaf(3)
    y = tg.exp(w + 1.0)
    with tg.no_grad():
        w[...] = 0.0
    with pytest.raises(InPlaceError, match="add: a"):
        value_of(y.node.args[0])
