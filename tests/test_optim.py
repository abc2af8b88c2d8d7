"""Optimizers and clipping: PyTorch's numbers, in place, saved and resumed."""

from __future__ import annotations

import numpy as np
import pytest

import tinygrad_seq as tg
from tinygrad_seq import nn, optim
from tinygrad_seq.errors import ArgumentError, ShapeError

SETTINGS = [
    (optim.SGD, {"lr": 0.1}),
    (optim.SGD, {"lr": 0.1, "weight_decay": 0.05}),
    (optim.SGD, {"lr": 0.05, "momentum": 0.9}),
    (optim.SGD, {"lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
    (optim.Adam, {}),
    (optim.Adam, {"lr": 0.05, "betas": (0.8, 0.95), "eps": 1e-4, "weight_decay": 0.1}),
]
each = pytest.mark.parametrize(("kind", "options"), SETTINGS, ids=lambda v: v.__name__ if isinstance(v, type) else str(v))


def start() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.standard_normal((3, 2)), rng.standard_normal(4)]


def loss_of(parameters):
    """A loss that is no quadratic, in the operators that both libraries share."""
    a, b = parameters
    return ((a * a * a * a).sum() + (a * 0.5).sum() + (b * b).sum() * (a * a).sum()) * 0.1


def run(optimizer: optim.Optimizer, steps: int) -> list[float]:
    losses = []
    for _ in range(steps):
        loss = loss_of(optimizer.parameters)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.torch
@each
def test_twenty_steps_are_pytorchs(kind, options):
    torch = pytest.importorskip("torch", reason="compares with PyTorch")
    ours, theirs = [nn.Parameter(a) for a in start()], [torch.nn.Parameter(torch.tensor(a)) for a in start()]
    reference = getattr(torch.optim, kind.__name__)(theirs, **options)
    run(kind(ours, **options), 20)
    for _ in range(20):
        reference.zero_grad()
        loss_of(theirs).backward()
        reference.step()
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a.numpy(), b.detach().numpy(), rtol=1e-9, atol=1e-12)


@each
def test_every_optimizer_descends(kind, options):
    losses = run(kind([nn.Parameter(a) for a in start()], **options), 50)
    assert losses[-1] < losses[0]


def test_sgd_is_one_step_down_the_gradient():
    p = nn.Parameter([1.0, 2.0])
    (p * tg.tensor([3.0, -4.0])).sum().backward()
    optim.SGD([p], lr=0.1).step()
    np.testing.assert_allclose(p.numpy(), [0.7, 2.4], rtol=1e-6)


def test_the_first_step_of_adam_has_length_lr_in_every_coordinate():
    p = nn.Parameter([1.0, 2.0], "float64")
    (p * tg.tensor([1e-3, -1e3], dtype="float64")).sum().backward()
    optim.Adam([p], lr=0.1).step()
    np.testing.assert_allclose(p.numpy(), [0.9, 2.1], rtol=1e-5)


@each
def test_a_step_writes_in_place_and_leaves_the_gradient_alone(kind, options):
    p = nn.Parameter(start()[0])
    array, optimizer = p._data, kind([p], **options)
    for _ in range(3):
        (p * p).sum().backward()
        before = p.grad.numpy().copy()
        optimizer.step()
        np.testing.assert_array_equal(p.grad.numpy(), before)
    assert p._data is array


def test_a_graph_from_before_the_step_refuses_to_differentiate():
    p = nn.Parameter([1.0, 2.0])
    loss = (p * p).sum()
    loss.backward()
    optim.SGD([p], lr=0.1).step()
    with pytest.raises(tg.errors.InPlaceError, match="overwritten"):
        loss.backward()


@each
def test_a_parameter_without_a_gradient_is_passed_over(kind, options):
    p, idle, frozen = nn.Parameter([1.0]), nn.Parameter([1.0]), nn.Parameter([1.0], requires_grad=False)
    optimizer = kind([p, idle, frozen], **options)
    (p * p).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    assert p.item() != 1 and idle.item() == frozen.item() == 1 and p.grad is None


@each
def test_a_loaded_state_goes_on_exactly_where_it_was_saved(kind, options):
    straight = [nn.Parameter(a) for a in start()]
    run(kind(straight, **options), 20)

    cut = [nn.Parameter(a) for a in start()]
    optimizer = kind(cut, **options)
    run(optimizer, 7)
    state, numbers = optimizer.state_dict(), [p.numpy().copy() for p in cut]
    run(optimizer, 3)  # what happens after the snapshot does not reach it
    resumed = [nn.Parameter(a) for a in numbers]
    again = kind(resumed, lr=123.0, **{name: v for name, v in options.items() if name in ("momentum", "nesterov")})
    again.load_state_dict(state)
    run(again, 13)
    for a, b in zip(straight, resumed, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


def test_a_state_that_does_not_fit_changes_nothing():
    p = nn.Parameter(start()[0])
    adam = optim.Adam([p])
    (p * p).sum().backward()
    adam.step()
    good = adam.state_dict()
    wrong = [
        ({**good, "parameters": []}, "0 parameters"),
        ({**good, "parameters": [{"steps": 1, "v": np.zeros((3, 2))}]}, "same kind"),
        ({**good, "parameters": [{"steps": 1, "m": np.zeros(3), "v": np.zeros((3, 2))}]}, r"shape \(3,\)"),
    ]
    for state, says in wrong:
        with pytest.raises((ShapeError, ArgumentError), match=says):
            adam.load_state_dict(state)
    np.testing.assert_array_equal(adam.state[0]["m"], good["parameters"][0]["m"])


def test_steps_allocate_nothing_after_the_first():
    import tracemalloc

    p = nn.Parameter(np.zeros(200_000))
    adam = optim.Adam([p], weight_decay=0.1)
    p.grad = np.ones(200_000)
    adam.step()
    tracemalloc.start()
    for _ in range(3):
        adam.step()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100_000  # one array has 1,600,000 bytes


# ---- Clipping ----------------------------------------------------------------------------------------------------------------------------


def with_gradients(*gradients) -> list[nn.Parameter]:
    parameters = [nn.Parameter(np.zeros(len(g))) for g in gradients]
    for p, g in zip(parameters, gradients, strict=True):
        p.grad = np.array(g)
    return parameters


def test_clipping_by_norm_scales_all_gradients_together_and_returns_the_norm():
    ps = with_gradients([3.0, 0.0], [0.0, 4.0])
    assert optim.clip_grad_norm_(ps, 1.0) == 5.0
    np.testing.assert_allclose([p.grad.tolist() for p in ps], [[0.6, 0], [0, 0.8]], rtol=1e-6)


def test_small_gradients_are_not_scaled():
    ps = with_gradients([0.3], [0.4])
    assert optim.clip_grad_norm_(ps, 1.0) == pytest.approx(0.5)
    assert [p.grad.item() for p in ps] == [0.3, 0.4]


@pytest.mark.torch
def test_clipping_equals_pytorch():
    torch = pytest.importorskip("torch", reason="compares with PyTorch")
    rng = np.random.default_rng(1)
    gradients = [3 * rng.standard_normal(5), 3 * rng.standard_normal(7)]
    ours, theirs = with_gradients(*gradients), [torch.nn.Parameter(torch.zeros(len(g), dtype=torch.float64)) for g in gradients]
    for p, g in zip(theirs, gradients, strict=True):
        p.grad = torch.tensor(g)
    assert optim.clip_grad_norm_(ours, 2.0) == pytest.approx(torch.nn.utils.clip_grad_norm_(theirs, 2.0).item(), rel=1e-12)
    optim.clip_grad_value_(ours, 0.3)
    torch.nn.utils.clip_grad_value_(theirs, 0.3)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a.grad.numpy(), b.grad.numpy(), rtol=1e-12)


# ---- Errors --------------------------------------------------------------------------------------------------------------------------------


def parameter() -> nn.Parameter:
    return nn.Parameter([1.0])


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: optim.SGD([]), ShapeError, "no parameters"),
        (lambda: optim.Adam(nn.Linear(2, 2)), ArgumentError, r"model\.parameters\(\)"),
        (lambda: optim.Adam(parameter()), ArgumentError, r"model\.parameters\(\)"),
        (lambda: optim.Adam([parameter() * 2]), ArgumentError, "the result of multiply"),
        (lambda: optim.Adam([np.zeros(3)]), ArgumentError, "parameter 0"),
        (lambda: optim.SGD([parameter()] * 2), ShapeError, "twice"),
        (lambda: optim.SGD([parameter()], lr=-1), ShapeError, "lr = -1"),
        (lambda: optim.SGD([parameter()], lr=float("nan")), ShapeError, "lr = nan"),
        (lambda: optim.SGD([parameter()], nesterov=True), ArgumentError, "without momentum"),
        (lambda: optim.Adam([parameter()], betas=(0.9, 1.0)), ShapeError, "beta2 = 1.0"),
        (lambda: optim.clip_grad_norm_([parameter()], -1), ShapeError, "max_norm"),
    ],
)
def test_wrong_calls_say_what_was_expected(call, error, says):
    with pytest.raises(error, match=says):
        call()


def test_a_setting_that_is_no_number_says_so():
    p = nn.Parameter([1.0])
    with pytest.raises(ArgumentError, match="SGD: lr = '0.1'"):
        optim.SGD([p], lr="0.1")
    with pytest.raises(ArgumentError, match="clip_grad_norm_: max_norm = None"):
        optim.clip_grad_norm_([p], None)
