"""Optimizers and clipping against PyTorch: twenty steps, every option, several groups, both float types."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tinygrad_seq import nn, optim

torch = pytest.importorskip("torch", reason="compares with PyTorch")
pytestmark = pytest.mark.torch

OPTIONS = {
    "SGD": [
        {},
        {"lr": 0.1, "weight_decay": 0.05},
        {"lr": 0.05, "momentum": 0.9},
        {"lr": 0.05, "momentum": 0.9, "dampening": 0.3},
        {"lr": 0.05, "momentum": 0.9, "nesterov": True},
        {"lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
        {"lr": 0.01, "momentum": 0.5, "dampening": 0.5, "weight_decay": 0.1, "maximize": True},
    ],
    "Adagrad": [
        {},
        {"lr": 0.1, "lr_decay": 0.1},
        {"lr": 0.1, "weight_decay": 0.1, "initial_accumulator_value": 0.2, "eps": 1e-4},
        {"maximize": True},
    ],
    "RMSprop": [
        {},
        {"lr": 0.01, "alpha": 0.9, "eps": 1e-4, "weight_decay": 0.1},
        {"lr": 0.01, "momentum": 0.9},
        {"lr": 0.01, "centered": True},
        {"lr": 0.01, "centered": True, "momentum": 0.5, "weight_decay": 0.1, "alpha": 0.8},
        {"maximize": True, "centered": True},
    ],
    "Adam": [
        {},
        {"lr": 0.05, "betas": (0.8, 0.95), "eps": 1e-4, "weight_decay": 0.1},
        {"lr": 0.05, "amsgrad": True},
        {"lr": 0.05, "amsgrad": True, "weight_decay": 0.1, "maximize": True},
        {"betas": (0.0, 0.0)},
    ],
    "AdamW": [
        {},
        {"lr": 0.05, "betas": (0.8, 0.95), "eps": 1e-4, "weight_decay": 0.3},
        {"lr": 0.05, "amsgrad": True},
        {"maximize": True, "weight_decay": 0.0},
    ],
    "NAdam": [
        {},
        {"lr": 0.05, "betas": (0.8, 0.95), "eps": 1e-4, "weight_decay": 0.1},
        {"lr": 0.05, "momentum_decay": 0.1},
        {"lr": 0.05, "decoupled_weight_decay": True, "weight_decay": 0.2},
        {"maximize": True},
    ],
}
CASES = [(name, options) for name, several in OPTIONS.items() for options in several]
each = pytest.mark.parametrize(("name", "options"), CASES, ids=lambda v: v if isinstance(v, str) else str(v))
TOLERANCE = {"float64": {"rtol": 1e-9, "atol": 1e-12}, "float32": {"rtol": 1e-4, "atol": 1e-6}}


@pytest.fixture(autouse=True)
def double_scalars():
    """PyTorch keeps NAdam's product of μ in its default dtype; in float32 it would lose what these tests compare."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def start(dtype: str) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.standard_normal(shape).astype(dtype) for shape in [(3, 2), 4, (2, 2, 2)]]


def loss_of(a, b, c):
    """A loss that is no quadratic, in the operators that both libraries share."""
    return ((a * a * a * a).sum() + (a * 0.5).sum() + (b * b).sum() * (a * a).sum() + (c * c - c * 0.3).sum()) * 0.1


def train(optimizer, parameters, steps: int) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        loss_of(*parameters).backward()
        optimizer.step()


def twins(name: str, options: dict, dtype: str, grouped: bool = False):
    ours = [nn.Parameter(a) for a in start(dtype)]
    theirs = [torch.nn.Parameter(torch.tensor(a)) for a in start(dtype)]

    def arranged(ps):
        return [{"params": [ps[1]], "lr": 0.004, "weight_decay": 0.2}, {"params": [ps[0], ps[2]]}] if grouped else ps

    return getattr(optim, name)(arranged(ours), **options), ours, getattr(torch.optim, name)(arranged(theirs), **options), theirs


def agree(ours, theirs, dtype: str) -> None:
    for a, b in zip(ours, theirs, strict=True):
        assert a.dtype == dtype
        np.testing.assert_allclose(a.numpy(), b.detach().numpy(), **TOLERANCE[dtype])


def test_every_optimizer_is_compared_that_pytorch_has():
    ours = {name for name, kind in vars(optim).items() if isinstance(kind, type) and issubclass(kind, optim.Optimizer)}
    assert set(OPTIONS) == {name for name in ours - {"Optimizer"} if hasattr(torch.optim, name)} == ours - {"Optimizer", "Lion"}


@each
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_twenty_steps_are_pytorchs(name, options, dtype):
    mine, ours, reference, theirs = twins(name, options, dtype)
    train(mine, ours, 20)
    train(reference, theirs, 20)
    agree(ours, theirs, dtype)


@each
def test_twenty_steps_with_groups_are_pytorchs(name, options):
    mine, ours, reference, theirs = twins(name, options, "float64", grouped=True)
    train(mine, ours, 10)
    train(reference, theirs, 10)
    for optimizer, ps, more in ((mine, ours, nn.Parameter([0.5], "float64")), (reference, theirs, None)):
        more = torch.nn.Parameter(torch.tensor([0.5], dtype=torch.float64)) if more is None else more
        optimizer.add_param_group({"params": [more], "lr": 0.02})
        for _ in range(10):
            optimizer.zero_grad()
            (loss_of(*ps) + (more * more).sum()).backward()
            optimizer.step()
        ps.append(more)
    agree(ours, theirs, "float64")


@each
def test_defaults_and_settings_have_pytorchs_names_and_values(name, options):
    mine, _, reference, _ = twins(name, options, "float64")
    for setting, value in mine.defaults.items():
        assert reference.defaults[setting] == value, setting
    left_out = {
        "foreach",
        "capturable",
        "differentiable",
        "fused",
        "decoupled_weight_decay",
    }  # how PyTorch computes; AdamW is a class
    assert set(reference.defaults) - left_out <= set(mine.defaults)


@pytest.mark.parametrize("name", OPTIONS)
def test_a_changed_rate_takes_effect_as_in_pytorch(name):
    mine, ours, reference, theirs = twins(name, {"lr": 0.01}, "float64")
    for lr in (0.01, 0.03, 0.0, 0.002):
        for optimizer, ps in ((mine, ours), (reference, theirs)):
            for group in optimizer.param_groups:
                group["lr"] = lr
            train(optimizer, ps, 5)
    agree(ours, theirs, "float64")


# ---- Clipping ---------------------------------------------------------------------------------------------------------------------------


def with_gradients(dtype: str, scale: float = 3.0):
    rng = np.random.default_rng(1)
    gradients = [(scale * rng.standard_normal(shape)).astype(dtype) for shape in [5, (2, 3)]]
    ours, theirs = (
        [nn.Parameter(np.zeros_like(g)) for g in gradients],
        [torch.nn.Parameter(torch.zeros(g.shape)) for g in gradients],
    )
    theirs = [torch.nn.Parameter(p.detach().to(getattr(torch, dtype))) for p in theirs]
    for a, b, g in zip(ours, theirs, gradients, strict=True):
        a.grad, b.grad = g.copy(), torch.tensor(g)
    return ours, theirs


@pytest.mark.parametrize("norm_type", [2.0, 1.0, 3.0, 0.5, math.inf])
@pytest.mark.parametrize(("scale", "max_norm"), [(3.0, 2.0), (0.01, 2.0), (0.0, 1.0)])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_clipping_by_norm_is_pytorchs(norm_type, scale, max_norm, dtype):
    ours, theirs = with_gradients(dtype, scale)
    norm = optim.clip_grad_norm_(ours, max_norm, norm_type)
    expected = torch.nn.utils.clip_grad_norm_(theirs, max_norm, norm_type).item()
    rtol = 1e-12 if dtype == "float64" else 1e-5
    assert norm == pytest.approx(expected, rel=rtol)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a.grad.numpy(), b.grad.numpy(), rtol=rtol)


@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_clipping_a_norm_that_is_not_finite_is_pytorchs(bad):
    ours, theirs = with_gradients("float64")
    for p in (ours[0], theirs[0]):
        p.grad[0] = bad if isinstance(p, torch.Tensor) else p.grad[0]
    ours[0].grad = theirs[0].grad.numpy().copy()
    optim.clip_grad_norm_(ours, 1.0)
    torch.nn.utils.clip_grad_norm_(theirs, 1.0)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a.grad.numpy(), b.grad.numpy())


def test_clipping_by_value_is_pytorchs():
    ours, theirs = with_gradients("float64")
    optim.clip_grad_value_(ours, 0.3)
    torch.nn.utils.clip_grad_value_(theirs, 0.3)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a.grad.numpy(), b.grad.numpy())


def test_momentum_that_sets_in_later_begins_with_the_whole_gradient():
    ours, theirs = nn.Parameter(np.ones(2)), torch.nn.Parameter(torch.ones(2, dtype=torch.float64))
    mine, others = optim.SGD([ours], 0.1), torch.optim.SGD([theirs], 0.1)
    for t in range(6):
        if t == 2:
            mine.param_groups[0] |= {"momentum": 0.9, "dampening": 0.5}
            others.param_groups[0] |= {"momentum": 0.9, "dampening": 0.5}
        ours.grad, theirs.grad = np.array([1.0, t]), torch.tensor([1.0, t], dtype=torch.float64)
        mine.step()
        others.step()
    np.testing.assert_allclose(ours.numpy(), theirs.detach().numpy(), rtol=1e-12)
