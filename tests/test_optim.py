"""Optimizers and clipping: PyTorch's numbers, in place, saved and resumed."""

from __future__ import annotations

import math

import numpy as np
import pytest

import tinygrad_seq as tg
from tinygrad_seq import nn, optim
from tinygrad_seq.errors import ArgumentError, ShapeError

SETTINGS = [
    (optim.SGD, {"lr": 0.1}),
    (optim.SGD, {"lr": 0.05, "momentum": 0.9, "dampening": 0.1}),
    (optim.SGD, {"lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
    (optim.Adagrad, {"lr": 0.1, "lr_decay": 0.1, "initial_accumulator_value": 0.5}),
    (optim.RMSprop, {}),
    (optim.RMSprop, {"lr": 0.02, "centered": True, "momentum": 0.5, "weight_decay": 0.01}),
    (optim.Adam, {}),
    (optim.Adam, {"lr": 0.05, "betas": (0.8, 0.95), "eps": 1e-4, "weight_decay": 0.1, "amsgrad": True}),
    (optim.AdamW, {"lr": 0.01, "weight_decay": 0.1}),
    (optim.NAdam, {"momentum_decay": 0.01}),
    (optim.Lion, {"lr": 0.01, "weight_decay": 0.1}),
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
def test_a_saved_state_goes_on_exactly_where_it_was_saved(kind, options, tmp_path):
    def grouped() -> optim.Optimizer:
        a, b = (nn.Parameter(a.astype(np.float32)) for a in start())
        return kind([{"params": [a]}, {"params": [b], "lr": 0.03}], **options)

    straight = grouped()
    run(straight, 20)

    cut = grouped()
    run(cut, 7)
    tg.save({"optimizer": cut.state_dict(), "numbers": [p.numpy() for p in cut.parameters]}, tmp_path / "cut")
    state = tg.load(tmp_path / "cut")
    again = kind([{"params": [nn.Parameter(a)]} for a in state["numbers"]])
    again.load_state_dict(state["optimizer"])
    run(again, 13)
    for a, b in zip(straight.parameters, again.parameters, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())
    assert again.param_groups[1]["lr"] == 0.03


@pytest.mark.parametrize(("before", "after"), [("float32", "float64"), ("float64", "float32")])
@each
def test_the_state_follows_the_dtype_of_the_model_and_resumes_to_equal_bits(kind, options, before, after):
    def trained(net, optimizer, steps):
        for _ in range(steps):
            net.zero_grad()
            (net(np.ones((1, 3), net.weight.dtype)) ** 2).sum().backward()
            optimizer.step()

    net = nn.Linear(3, 2, rng=0, dtype=before)
    optimizer = kind(net.parameters(), **options)
    trained(net, optimizer, 2)
    net.to(after)
    trained(net, optimizer, 2)
    assert all(x.dtype == after for state in optimizer.state.values() for x in state.values() if hasattr(x, "dtype"))
    resumed = nn.Linear(3, 2, dtype=after)
    resumed.load_state_dict(net.state_dict())
    other = kind(resumed.parameters(), **options)
    other.load_state_dict(optimizer.state_dict())
    trained(net, optimizer, 1)
    trained(resumed, other, 1)
    np.testing.assert_array_equal(net.weight.numpy(), resumed.weight.numpy())


def test_a_snapshot_stays_as_it_was():
    adam = optim.Adam([nn.Parameter(start()[0])])
    adam.parameters[0].grad = np.ones((3, 2))
    adam.step()
    state = adam.state_dict()
    before = state["state"][0]["m"].copy()
    adam.step()
    np.testing.assert_array_equal(state["state"][0]["m"], before)
    assert state["state"][0]["steps"] == 1


def test_a_state_that_does_not_fit_changes_nothing():
    p = nn.Parameter(start()[0])
    adam = optim.Adam([p])
    (p * p).sum().backward()
    adam.step()
    good = adam.state_dict()
    [group] = good["param_groups"]
    wrong = [
        ({"parameters": []}, "no state of an optimizer"),
        ({"param_groups": [], "state": []}, r"groups of \[\]"),
        ({**good, "param_groups": [{**group, "params": [0, 1]}]}, r"groups of \[2\] parameters"),
        ({**good, "param_groups": [{"lr": 1, "params": [0]}]}, "same kind"),
        ({**good, "param_groups": [{**group, "centered": True}]}, "same kind"),
        ({**good, "param_groups": [{**group, "lr": -1}]}, "lr = -1"),
        ({**good, "state": [{"steps": 1, "m": np.zeros(3), "v": np.zeros((3, 2))}]}, r"m of parameter 0 has shape \(3,\)"),
    ]
    for state, says in wrong:
        with pytest.raises((ShapeError, ArgumentError), match=says):
            adam.load_state_dict(state)
    np.testing.assert_array_equal(adam.state[p]["m"], good["state"][0]["m"])
    assert adam.lr == 1e-3


# ---- Groups and settings --------------------------------------------------------------------------------------------------------------


def test_groups_have_settings_of_their_own_and_the_optimizers_for_the_rest():
    a, b, c = (nn.Parameter([1.0]) for _ in range(3))
    sgd = optim.SGD([{"params": [a], "lr": 0.5}, {"params": b}], lr=0.25, weight_decay=0.0)
    sgd.add_param_group({"params": iter([c]), "lr": 0.125})
    for p in sgd.parameters:
        p.grad = np.ones(1, np.float32)
    sgd.step()
    assert [p.item() for p in (a, b, c)] == [0.5, 0.75, 0.875] and sgd.parameters == [a, b, c]


def test_a_setting_as_an_attribute_is_that_of_all_groups():
    a, b = nn.Parameter([1.0]), nn.Parameter([1.0])
    adam = optim.Adam([{"params": [a], "lr": 0.5}, {"params": [b]}])
    assert adam.betas == (0.9, 0.999)
    with pytest.raises(ArgumentError, match=r"differ in lr[\s\S]*0\.5, 0\.001[\s\S]*param_groups\[0\]\['lr'\]"):
        _ = adam.lr
    adam.lr = 0.1
    assert adam.lr == 0.1 and [group["lr"] for group in adam.param_groups] == [0.1, 0.1]
    with pytest.raises(ShapeError, match="Adam: lr = -1"):
        adam.lr = -1
    with pytest.raises(AttributeError, match="momentum"):
        _ = adam.momentum


def test_maximize_climbs():
    p, q = nn.Parameter([1.0]), nn.Parameter([1.0])
    p.grad = q.grad = np.ones(1, np.float32)
    optim.SGD([p], lr=0.25, maximize=True).step()
    optim.SGD([q], lr=0.25).step()
    assert p.item() == 1.25 and q.item() == 0.75 and q.grad.item() == 1


def test_lion_is_its_published_formula():
    p, m, lr, beta1, beta2, decay = start()[1], 0.0, 0.01, 0.6, 0.9, 0.1
    lion = optim.Lion([nn.Parameter(p)], lr=lr, betas=(beta1, beta2), weight_decay=decay)
    for g in np.random.default_rng(0).standard_normal((200, 4)):  # enough for signs that tell beta1 from beta2
        lion.parameters[0].grad = g.copy()
        lion.step()
        c = beta1 * m + (1 - beta1) * g
        p = p - lr * (np.sign(c) + decay * p)
        m = beta2 * m + (1 - beta2) * g
        np.testing.assert_allclose(lion.parameters[0].numpy(), p, rtol=1e-12)


@each
def test_a_long_array_is_updated_as_a_short_one(kind, options, monkeypatch):
    results = []
    for block in (1 << 16, 7):
        monkeypatch.setattr(optim.optimizer, "BLOCK", block)
        optimizer = kind([nn.Parameter(a) for a in start()] + [nn.Parameter(np.ones((5, 6)).T[1:])], **options)
        for i in range(4):
            for p in optimizer.parameters:
                p.grad = np.sin(np.arange(p.size) + i).reshape(p.shape)
            optimizer.step()
        results.append([p.numpy() for p in optimizer.parameters])
    for a, b in zip(*results, strict=True):
        np.testing.assert_array_equal(a, b)


@each
def test_every_optimizer_works_on_a_device_and_moves_with_its_model(kind, options, device_xp):
    def steps(*places) -> list[np.ndarray]:
        optimizer = kind([nn.Parameter(a) for a in start()], **options)
        for place in places:
            for p in optimizer.parameters:
                nn.module._replace_data(p, tg.backend.to_device(p._data, place))
            run(optimizer, 3)
        state = optimizer.state_dict()
        optimizer.load_state_dict(state)
        run(optimizer, 2)
        return [tg.backend.to_numpy(p._data) for p in optimizer.parameters]

    device = tg.backend.device_of(device_xp.zeros(1))
    for a, b in zip(steps("cpu", "cpu", "cpu"), steps("cpu", device, device), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)


def test_steps_allocate_nothing_after_the_first():
    import tracemalloc

    p = nn.Parameter(np.zeros(200_000))
    adam = optim.Adam([p], weight_decay=0.1, maximize=True)
    p.grad = np.ones(200_000)
    adam.step()
    tracemalloc.start()
    for _ in range(3):
        adam.step()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100_000  # one array has 1,600,000 bytes


def test_an_optimizer_of_ones_own_is_its_update():
    class SignSGD(optim.Optimizer):
        def __init__(self, params, lr=0.5):
            super().__init__(params, lr=lr)

        def update(self, p, g, state, s):
            p -= s.lr * np.sign(g)

    p, q = nn.Parameter([1.0]), nn.Parameter([1.0])
    sign = SignSGD([{"params": [p], "lr": 0.25}, {"params": [q]}])
    p.grad, q.grad = np.array([0.1], np.float32), np.array([-7.0], np.float32)
    sign.step()
    assert p.item() == 0.75 and q.item() == 1.5 and sign.state_dict()["state"] == [{"steps": 1}, {"steps": 1}]


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


def test_other_norms_are_of_all_numbers_together():
    ps = with_gradients([3.0, 0.0], [0.0, -4.0])
    assert optim.clip_grad_norm_(ps, 100, norm_type=1) == 7 and optim.clip_grad_norm_(ps, 100, norm_type=math.inf) == 4
    assert optim.clip_grad_norm_(ps[1], 2, norm_type=math.inf) == 4
    assert ps[0].grad.tolist() == [3, 0] and ps[1].grad.tolist() == pytest.approx([0, -2], rel=1e-6)


def test_clipping_by_value_limits_every_entry():
    [p] = with_gradients([-3.0, 0.2, 4.0])
    optim.clip_grad_value_(p, 0.5)
    assert p.grad.tolist() == [-0.5, 0.2, 0.5]


def test_a_norm_that_is_not_finite_is_an_error_where_asked():
    ps = with_gradients([3.0, math.inf], [1.0])
    with pytest.raises(tg.errors.AnomalyError, match="is inf[\\s\\S]*detect_anomaly"):
        optim.clip_grad_norm_(ps, 1.0, error_if_nonfinite=True)
    assert ps[1].grad.item() == 1
    assert optim.clip_grad_norm_(ps, 1.0) == math.inf and ps[1].grad.item() == 0


@pytest.mark.parametrize("norm_type", [1, 2, 3, math.inf])
def test_clipping_on_a_device_is_that_of_numpy(xp, norm_type):
    here, there = with_gradients([3.0, -1.0], [2.0]), with_gradients([3.0, -1.0], [2.0])
    for p in there:
        g = p.grad.numpy()
        p.grad = None
        nn.module._replace_data(p, xp.asarray(p._data))
        p.grad = xp.asarray(g)
    assert optim.clip_grad_norm_(here, 1.0, norm_type) == optim.clip_grad_norm_(there, 1.0, norm_type)
    optim.clip_grad_value_(there, 0.1)
    assert [round(x, 6) for p in there for x in p.grad.tolist()] == [0.1, -0.1, 0.1]


@pytest.mark.parametrize("size", [300.0, 1e-4])
def test_the_norm_of_halves_is_not_that_of_their_overflown_or_vanished_squares(size):
    p = nn.Parameter(np.zeros(2, "float16"))
    p.grad = np.array([size, size], "float16")
    norm = optim.clip_grad_norm_([p], size / 10)
    assert norm == pytest.approx(size * math.sqrt(2), rel=1e-3)
    np.testing.assert_allclose(p.grad.numpy(), [size / 10 / math.sqrt(2)] * 2, rtol=1e-2)


def test_a_norm_that_may_be_infinite_is_only_measured():
    ps = with_gradients([3.0, 0.0], [0.0, 4.0])
    assert optim.clip_grad_norm_(ps, math.inf) == 5
    assert [p.grad.tolist() for p in ps] == [[3, 0], [0, 4]]


def test_parameters_without_gradients_have_the_norm_zero():
    assert optim.clip_grad_norm_([nn.Parameter([1.0])], 1.0) == 0


# ---- Errors --------------------------------------------------------------------------------------------------------------------------------


def parameter() -> nn.Parameter:
    return nn.Parameter([1.0])


shared = parameter()


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
        (lambda: optim.Adam([parameter()], betas=0.9), ArgumentError, "betas = 0.9"),
        (lambda: optim.SGD([parameter()], nesterov=True, momentum=0.9, dampening=0.1), ArgumentError, "dampening=0"),
        (
            lambda: optim.SGD([{"params": [parameter()], "learning_rate": 1}]),
            ArgumentError,
            "no setting 'learning_rate'[\\s\\S]*lr, momentum",
        ),
        (lambda: optim.SGD([{"params": [parameter()], "lr": "fast"}]), ArgumentError, "lr = 'fast'"),
        (lambda: optim.SGD([{"params": []}]), ShapeError, "no parameters"),
        (lambda: optim.SGD([{"lr": 1}]), ArgumentError, "no group"),
        (lambda: optim.SGD([{"params": [parameter()]}, parameter()]), ArgumentError, "no group"),
        (lambda: optim.SGD([{"params": [shared]}, {"params": [shared]}]), ShapeError, "two groups"),
        (lambda: optim.SGD(nn.Linear(2, 2).named_parameters()), ArgumentError, "(?s)parameter 0 is a name.*without names"),
        (lambda: optim.SGD(nn.Linear(2, 2).state_dict()), ArgumentError, "(?s)parameter 0 is a name.*without names"),
        (lambda: optim.SGD([parameter()]).zero_grad(set_to_none=True), ArgumentError, "(?s)zero_grad: .*leave it out"),
        (
            lambda: optim.SGD([parameter()]).step(lambda: 1),
            ArgumentError,
            r"(?s)step: takes 0 arguments by position, got 1.*step\(\)",
        ),
        (lambda: optim.SGD([parameter()], lr=math.inf), ShapeError, "(?s)lr = inf.*a finite number of at least 0"),
        (lambda: optim.SGD([parameter()], learning_rate=1), ArgumentError, "SGD: no argument 'learning_rate'"),
        (lambda: optim.Adam([parameter()], foreach=True), ArgumentError, "foreach'[\\s\\S]*leave it out"),
        (lambda: optim.lr_scheduler.StepLR(), ArgumentError, r"StepLR[\s\S]*StepLR\(optimizer, step_size"),
        (lambda: optim.lr_scheduler.CyclicLR, tg.errors.UnknownNameError, "lr_scheduler has no 'CyclicLR'[\\s\\S]*LambdaLR"),
        (lambda: optim.clip_grad_norm_([parameter()], -1), ShapeError, "max_norm"),
        (lambda: optim.clip_grad_norm_([parameter()], 1, 0 * math.nan), ShapeError, "norm_type = nan"),
        (lambda: optim.clip_grad_norm_([parameter()], 1, "two"), ArgumentError, "norm_type = 'two'"),
        (lambda: optim.clip_grad_norm_(nn.Linear(2, 2), 1), ArgumentError, r"model\.parameters\(\)"),
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
