"""Starting values: the moments and bounds of each distribution, what is exact, equality with PyTorch, and what wrong calls say."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats

import tinygrad_seq as tg
from tinygrad_seq import nn
from tinygrad_seq.errors import ArgumentError, ShapeError
from tinygrad_seq.nn import init

SHAPE = (300, 200)
normal, uniform = scipy.stats.norm, scipy.stats.uniform


def between(bound):
    return uniform(-bound, 2 * bound)


DRAWN = {  # what each draws, as a distribution of scipy
    "uniform_": (lambda p: init.uniform_(p, -2, 3, rng=0), uniform(-2, 5)),
    "normal_": (lambda p: init.normal_(p, 1, 2, rng=0), normal(1, 2)),
    "trunc_normal_": (lambda p: init.trunc_normal_(p, 0.5, 2, -1, 1.5, rng=0), scipy.stats.truncnorm(-0.75, 0.5, 0.5, 2)),
    "trunc_normal_ of a tail": (lambda p: init.trunc_normal_(p, 0, 1, 2, 9, rng=0), scipy.stats.truncnorm(2, 9)),
    "xavier_uniform_": (lambda p: init.xavier_uniform_(p, 3, rng=0), between(3 * math.sqrt(6 / 500))),
    "xavier_normal_": (lambda p: init.xavier_normal_(p, 3, rng=0), normal(0, 3 * math.sqrt(2 / 500))),
    "kaiming_uniform_": (lambda p: init.kaiming_uniform_(p, nonlinearity="relu", rng=0), between(math.sqrt(6 / 200))),
    "kaiming_uniform_ leaky": (lambda p: init.kaiming_uniform_(p, math.sqrt(5), rng=0), between(math.sqrt(1 / 200))),
    "kaiming_normal_": (
        lambda p: init.kaiming_normal_(p, mode="fan_out", nonlinearity="tanh", rng=0),
        normal(0, 5 / 3 / math.sqrt(300)),
    ),
}


@pytest.mark.parametrize("name", DRAWN)
def test_entries_follow_the_distribution(name):
    fill, distribution = DRAWN[name]
    p = fill(nn.Parameter(np.zeros(SHAPE, "float64")))
    assert scipy.stats.kstest(p.numpy().ravel(), distribution.cdf).pvalue > 1e-3


@pytest.mark.torch
@pytest.mark.parametrize("shape", [(30, 20), (30, 20, 3), (8, 4, 3, 5)])
@pytest.mark.parametrize("name", ["xavier_uniform_", "xavier_normal_", "kaiming_uniform_", "kaiming_normal_"])
def test_the_scale_is_pytorchs(name, shape):
    torch = pytest.importorskip("torch")
    ours = getattr(init, name)(nn.Parameter(np.zeros(shape, "float64")), rng=0).numpy()
    theirs = torch.zeros(shape, dtype=torch.float64)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        getattr(torch.nn.init, name)(theirs)
    assert ours.std() == pytest.approx(theirs.numpy().std(), rel=5 / math.sqrt(ours.size))
    if "uniform" in name:
        assert np.abs(ours).max() == pytest.approx(theirs.abs().max().item(), rel=0.02)


@pytest.mark.torch
@pytest.mark.parametrize(
    "settings", [(), ("relu",), ("tanh",), ("selu",), ("linear",), ("leaky_relu", 0.3), ("sigmoid",), ("conv2d",)]
)
def test_gains_are_pytorchs(settings):
    torch = pytest.importorskip("torch")
    settings = settings or ("leaky_relu",)
    assert init.calculate_gain(*settings) == torch.nn.init.calculate_gain(*settings)


@pytest.mark.parametrize("shape", [(6, 6), (4, 7), (7, 4), (6, 2, 3), (3, 2, 4)])
@pytest.mark.parametrize("gain", [1.0, 2.5])
def test_an_orthogonal_matrix_is_orthogonal(shape, gain):
    w = init.orthogonal_(nn.Parameter(np.zeros(shape, "float64")), gain, rng=0).numpy().reshape(shape[0], -1)
    small = w @ w.T if w.shape[0] <= w.shape[1] else w.T @ w
    np.testing.assert_allclose(small, gain**2 * np.eye(len(small)), atol=1e-12)


def test_orthogonal_matrices_are_drawn_evenly():
    ws = [init.orthogonal_(nn.Parameter(np.zeros((3, 3), "float64")), rng=i).numpy() for i in range(2000)]
    np.testing.assert_allclose(np.mean(ws, axis=0), 0, atol=5 / math.sqrt(3 * 2000))
    assert abs(np.mean([np.linalg.det(w) for w in ws])) < 0.1, "rotations and reflections alike"


def test_constants_and_the_identity():
    p = nn.Parameter(np.full((2, 3), 9.0))
    assert init.zeros_(p).tolist() == [[0, 0, 0]] * 2
    assert init.ones_(p).tolist() == [[1, 1, 1]] * 2
    assert init.constant_(p, 0.5).tolist() == [[0.5] * 3] * 2
    assert init.eye_(p).tolist() == [[1, 0, 0], [0, 1, 0]]


@pytest.mark.parametrize("name", [name for name in dir(init) if name.endswith("_") and not name.startswith("_")])
def test_a_parameter_is_filled_in_place_and_returned(name):
    p = nn.Parameter(np.full((4, 4), 7.0), "float32")
    data, arguments = p._data, (0.5,) if name == "constant_" else ()
    assert getattr(init, name)(p, *arguments) is p
    assert p._data is data and p.dtype == np.float32 and p.requires_grad and (p.numpy() != 7).all()


def test_the_rng_decides_and_the_seed_does_without_one():
    p, q = nn.Parameter(np.zeros((4, 4))), nn.Parameter(np.zeros((4, 4)))
    np.testing.assert_array_equal(init.orthogonal_(p, rng=3).numpy(), init.orthogonal_(q, rng=3).numpy())
    tg.seed(1)
    init.xavier_uniform_(p)
    tg.seed(1)
    np.testing.assert_array_equal(init.xavier_uniform_(q).numpy(), p.numpy())


def test_a_graph_that_needs_the_old_numbers_notices():
    p = nn.Parameter([[1.0, 2.0], [3.0, 4.0]])
    y = (p * p).sum()
    init.eye_(p)
    with pytest.raises(tg.errors.InPlaceError):
        y.backward()


def test_parameters_on_a_device_are_filled_there_with_the_same_numbers(xp):
    p = nn.Parameter(xp.zeros((4, 4), "float32"))
    data = p._data
    expected = init.orthogonal_(nn.Parameter(np.zeros((4, 4), "float32")), rng=0).numpy()
    np.testing.assert_array_equal(init.orthogonal_(p, rng=0).numpy(), expected)
    assert p._data is data


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: init.eye_(nn.Parameter([1.0])), ShapeError, "eye_: got float32 .*a matrix"),
        (lambda: init.orthogonal_(nn.Parameter([1.0])), ShapeError, r"a weight \(out, in.*zeros_"),
        (lambda: init.xavier_normal_(nn.Linear(2, 3)), ArgumentError, r"xavier_normal_\(module.weight\)"),
        (lambda: init.eye_(np.eye(2)), ArgumentError, r"eye_: got float64 \(2, 2\).*nn.Parameter"),
        (lambda: init.xavier_uniform_(nn.Parameter([1.0])), ShapeError, r"weight \(out, in, \.\.\.\).*zeros_"),
        (lambda: init.kaiming_normal_(nn.Parameter([[1.0]]), mode="in"), ArgumentError, "'fan_in' or 'fan_out'"),
        (lambda: init.calculate_gain("gelu"), ArgumentError, "'gelu' is not known.*linear, "),
        (lambda: init.zeros_(nn.Parameter([1.0]) * 2), ArgumentError, "result of an operation"),
        (lambda: init.zeros_(np.ones(3)), ArgumentError, r"zeros_: got float64 \(3,\).*nn.Parameter"),
        (lambda: init.uniform_(nn.Parameter([1.0]), 2, 1), ArgumentError, "a = 2, b = 1"),
        (lambda: init.normal_(nn.Parameter([1.0]), std=-1), ArgumentError, "std = -1"),
        (lambda: init.normal_(nn.Parameter([1.0]), generator=3), ArgumentError, "generator= is called rng= here"),
        (lambda: init.trunc_normal_(nn.Parameter([1.0]), a=2, b=1), ArgumentError, "a = 2, b = 1"),
    ],
)
def test_wrong_calls_say_what_to_do(call, error, says):
    with pytest.raises(error, match=f"(?s){says}"):
        call()
