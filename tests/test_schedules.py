"""Schedules of the learning rate: their formulas, PyTorch's numbers, and going on after a cut."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

import tinygrad_seq as tg
from tinygrad_seq import nn, optim
from tinygrad_seq.errors import ArgumentError, ShapeError
from tinygrad_seq.optim import lr_scheduler


def sgd(*rates: float, momentum: float = 0.0, library=None):
    """An optimizer with a group for each rate; PyTorch's where its module is given."""
    parameter = (lambda: nn.Parameter([1.0])) if library is None else (lambda: library.nn.Parameter(library.ones(1)))
    groups = [{"params": [parameter()], "lr": rate} for rate in rates or (0.1,)]
    return (optim if library is None else library.optim).SGD(groups, lr=0.1, momentum=momentum)


def sequence(schedulers, optimizer):
    """Warm-up, then a cosine, then falling steps."""
    parts = [
        schedulers.LinearLR(optimizer, 0.01, total_iters=10),
        schedulers.CosineAnnealingLR(optimizer, 20, eta_min=1e-3),
        schedulers.StepLR(optimizer, 7, 0.5),
    ]
    return schedulers.SequentialLR(optimizer, parts, [10, 31])


def nested(schedulers, optimizer):
    inner = schedulers.SequentialLR(
        optimizer, [schedulers.ConstantLR(optimizer, 0.3, 4), schedulers.ExponentialLR(optimizer, 0.8)], [5]
    )
    return schedulers.SequentialLR(optimizer, [inner, schedulers.LambdaLR(optimizer, lambda t: 1 / (1 + t))], [15])


FORMULAS = {
    "StepLR": lambda s, o: s.StepLR(o, 7, gamma=0.3),
    "StepLR, defaults": lambda s, o: s.StepLR(o, 30),
    "MultiStepLR": lambda s, o: s.MultiStepLR(o, [30, 5, 12, 12], gamma=0.5),
    "ConstantLR": lambda s, o: s.ConstantLR(o, factor=0.2, total_iters=9),
    "ConstantLR, defaults": lambda s, o: s.ConstantLR(o),
    "LinearLR": lambda s, o: s.LinearLR(o, 0.1, 0.7, total_iters=23),
    "LinearLR, defaults": lambda s, o: s.LinearLR(o),
    "ExponentialLR": lambda s, o: s.ExponentialLR(o, 0.93),
    "LambdaLR": lambda s, o: s.LambdaLR(o, lambda t: 0.95**t),
    "LambdaLR, one for each group": lambda s, o: s.LambdaLR(o, [lambda t: 0.95**t, lambda t: 1 / (t + 1)]),
    "CosineAnnealingLR": lambda s, o: s.CosineAnnealingLR(o, 13, eta_min=0.01),
    "CosineAnnealingLR, defaults": lambda s, o: s.CosineAnnealingLR(o, 60),
    "CosineAnnealingWarmRestarts": lambda s, o: s.CosineAnnealingWarmRestarts(o, 5, 2, eta_min=0.001),
    "CosineAnnealingWarmRestarts, defaults": lambda s, o: s.CosineAnnealingWarmRestarts(o, 8),
    "OneCycleLR": lambda s, o: s.OneCycleLR(o, 0.5, total_steps=60),
    "OneCycleLR, linear": lambda s, o: s.OneCycleLR(o, [0.5, 0.2], 60, anneal_strategy="linear", pct_start=0.4),
    "OneCycleLR, three phases": lambda s, o: s.OneCycleLR(
        o, 0.5, epochs=6, steps_per_epoch=10, three_phase=True, div_factor=10, final_div_factor=100
    ),
    "OneCycleLR, its momenta": lambda s, o: s.OneCycleLR(o, 0.5, 60, base_momentum=[0.5, 0.6], max_momentum=0.9),
    "OneCycleLR, no momentum": lambda s, o: s.OneCycleLR(o, 0.5, 60, cycle_momentum=False),
    "OneCycleLR, no rise": lambda s, o: s.OneCycleLR(o, 0.5, 60, pct_start=0.0),
    "SequentialLR": sequence,
}
each = pytest.mark.parametrize("make", FORMULAS.values(), ids=FORMULAS)

PLATEAUS = {
    "defaults": {},
    "quick": {"factor": 0.5, "patience": 2},
    "absolute": {"patience": 1, "threshold": 0.05, "threshold_mode": "abs"},
    "upwards": {"mode": "max", "patience": 1, "factor": 0.7},
    "upwards, absolute": {"mode": "max", "patience": 1, "threshold": 0.05, "threshold_mode": "abs"},
    "cooling": {"patience": 1, "cooldown": 3},
    "not below": {"patience": 0, "min_lr": [0.02, 0.0], "factor": 0.3},
    "no small steps": {"patience": 0, "eps": 0.01},
}


def losses(steps: int = 60) -> list[float]:
    """Falls, stays, jumps, is NaN once, and falls below zero."""
    rng = np.random.default_rng(0)
    values = np.exp(-np.arange(steps) / 10) - 0.3 + 0.05 * rng.standard_normal(steps)
    values[20:35] = values[20]
    values[40] = np.nan
    return values.tolist()


# ---- PyTorch ----------------------------------------------------------------------------------------------------------------------------


def settings_of(optimizer, name: str) -> list[float]:
    return [float(group[name]) for group in optimizer.param_groups]


def test_every_schedule_is_compared():
    kinds = {
        name for name, kind in vars(lr_scheduler).items() if isinstance(kind, type) and issubclass(kind, lr_scheduler.LRScheduler)
    }
    assert {name.partition(",")[0] for name in FORMULAS} == kinds - {
        "LRScheduler",
        "ReduceLROnPlateau",
    }  # PLATEAUS are of the latter


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore")  # PyTorch wants optimizer.step() before, and warns of its own schedules in SequentialLR
@each
def test_sixty_steps_are_pytorchs(make):
    torch = pytest.importorskip("torch", reason="compares with PyTorch")
    mine, reference = sgd(0.1, 0.03, momentum=0.7), sgd(0.1, 0.03, momentum=0.7, library=torch)
    ours, theirs = make(lr_scheduler, mine), make(torch.optim.lr_scheduler, reference)
    for t in range(60):
        for name in ("lr", "momentum"):
            got, expected = settings_of(mine, name), settings_of(reference, name)
            np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-15, err_msg=f"{name} after {t} steps")
        assert ours.get_last_lr() == pytest.approx(theirs.get_last_lr(), rel=1e-12, abs=1e-15)
        assert ours.last_epoch == theirs.last_epoch == t
        ours.step(), theirs.step()


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore")
def test_one_cycle_moves_adams_beta1_as_pytorch():
    torch = pytest.importorskip("torch", reason="compares with PyTorch")
    mine, reference = optim.Adam([nn.Parameter([1.0])]), torch.optim.Adam([torch.nn.Parameter(torch.ones(1))])
    ours, theirs = (s.OneCycleLR(o, 0.1, 50) for s, o in ((lr_scheduler, mine), (torch.optim.lr_scheduler, reference)))
    for _ in range(50):
        np.testing.assert_allclose(mine.betas, reference.param_groups[0]["betas"], rtol=1e-12)
        ours.step(), theirs.step()


@pytest.mark.torch
@pytest.mark.parametrize("settings", PLATEAUS.values(), ids=PLATEAUS)
def test_the_plateau_is_pytorchs(settings):
    torch = pytest.importorskip("torch", reason="compares with PyTorch")
    mine, reference = sgd(0.1, 0.03), sgd(0.1, 0.03, library=torch)
    ours = lr_scheduler.ReduceLROnPlateau(mine, **settings)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(reference, **settings)
    for loss in losses():
        ours.step(tg.tensor(loss, dtype="float64")), theirs.step(loss)
        assert settings_of(mine, "lr") == pytest.approx(settings_of(reference, "lr"), rel=1e-12)
        assert ours.num_bad_epochs == theirs.num_bad_epochs and ours.best == theirs.best
    assert settings_of(mine, "lr") != [0.1, 0.03]


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("t_mult", [1, 2])
def test_fractions_of_an_epoch_are_pytorchs(t_mult):
    torch = pytest.importorskip("torch", reason="compares with PyTorch")
    mine, reference = sgd(), sgd(library=torch)
    ours = lr_scheduler.CosineAnnealingWarmRestarts(mine, 3, t_mult)
    theirs = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(reference, 3, t_mult)
    for epoch in np.arange(0.25, 20, 0.25).tolist():
        ours.step(epoch), theirs.step(epoch)
        assert mine.lr == pytest.approx(
            reference.param_groups[0]["lr"], rel=1e-9, abs=1e-12
        )  # PyTorch finds the wave by a logarithm


# ---- What they are ------------------------------------------------------------------------------------------------------------------------


def test_warm_up_then_cosine_rises_and_falls():
    optimizer = sgd(1.0)
    schedule = lr_scheduler.SequentialLR(
        optimizer, [lr_scheduler.LinearLR(optimizer, 0.25, total_iters=3), lr_scheduler.CosineAnnealingLR(optimizer, 4)], [3]
    )
    rates = []
    for _ in range(8):
        rates.append(optimizer.lr)
        schedule.step()
    half = math.sqrt(0.5)
    assert rates == pytest.approx([0.25, 0.5, 0.75, 1.0, (1 + half) / 2, 0.5, (1 - half) / 2, 0.0])


def test_one_cycle_begins_and_ends_as_told():
    optimizer = sgd()
    schedule = lr_scheduler.OneCycleLR(optimizer, 0.5, 10, pct_start=0.3)
    rates = [optimizer.lr]
    for _ in range(9):
        schedule.step()
        rates.append(optimizer.lr)
    assert max(rates) == rates[2] == 0.5 and [rates[0], rates[-1]] == pytest.approx([0.5 / 25, 0.5 / 25 / 1e4])
    assert optimizer.momentum == pytest.approx(0.95)


def test_a_schedule_of_ones_own_is_a_formula():
    class InverseRoot(lr_scheduler.LRScheduler):
        def rate(self, t, base):
            return base / math.sqrt(t + 1)

    optimizer = sgd(0.1, 0.2)
    schedule = InverseRoot(optimizer)
    for _ in range(3):
        schedule.step()
    assert schedule.get_last_lr() == [0.05, 0.1]


def test_a_group_that_joins_later_follows_the_schedule():
    optimizer = sgd(0.1)
    schedule = lr_scheduler.ExponentialLR(optimizer, 0.5)
    optimizer.add_param_group({"params": [nn.Parameter([1.0])], "lr": 0.8})
    schedule.step()
    assert schedule.get_last_lr() == [0.05, 0.4]


def test_a_sequence_in_a_sequence_begins_at_its_beginning():
    """PyTorch's inner sequence begins one step late: its constructor's own step is not taken back."""
    optimizer = sgd(1.0)
    schedule, rates = nested(lr_scheduler, optimizer), []
    for _ in range(19):
        rates.append(optimizer.lr)
        schedule.step()
    assert rates == pytest.approx([0.3] * 4 + [1.0] + [0.8**t for t in range(10)] + [1, 1 / 2, 1 / 3, 1 / 4])


@pytest.mark.parametrize("make", [*FORMULAS.values(), nested], ids=[*FORMULAS, "SequentialLR in SequentialLR"])
def test_a_cut_schedule_goes_on_with_equal_bits(make, tmp_path):
    straight = sgd(0.1, 0.03, momentum=0.5)
    schedule = make(lr_scheduler, straight)
    groups = []
    for t in range(50):
        if t == 17:
            state = {"optimizer": straight.state_dict(), "schedule": schedule.state_dict()}
            assert json.loads(json.dumps(state["schedule"])) == state["schedule"]
            tg.save(state, tmp_path / "cut")
        groups.append([{**group, "params": None} for group in straight.param_groups])
        schedule.step()

    state = tg.load(tmp_path / "cut")
    for order in (("optimizer", "schedule"), ("schedule", "optimizer")):
        resumed = sgd(0.7, 0.7)
        again = make(lr_scheduler, resumed)
        for part in order:
            {"optimizer": resumed, "schedule": again}[part].load_state_dict(state[part])
        for t in range(17, 50):
            assert [{**group, "params": None} for group in resumed.param_groups] == groups[t]
            again.step()


def test_a_cut_plateau_goes_on_with_equal_bits(tmp_path):
    straight = sgd(0.1)
    schedule = lr_scheduler.ReduceLROnPlateau(straight, patience=2, cooldown=1)
    for loss in losses()[:25]:
        schedule.step(loss)
    tg.save({"optimizer": straight.state_dict(), "schedule": schedule.state_dict()}, tmp_path / "cut")
    state, resumed = tg.load(tmp_path / "cut"), sgd(0.7)
    again = lr_scheduler.ReduceLROnPlateau(resumed)
    again.load_state_dict(state["schedule"])
    resumed.load_state_dict(state["optimizer"])
    for loss in losses()[25:]:
        schedule.step(loss), again.step(loss)
        assert straight.lr == resumed.lr
    assert straight.lr < 0.1


def test_last_epoch_begins_in_the_middle():
    straight, resumed = sgd(0.1), sgd(0.1)
    schedule = lr_scheduler.StepLR(straight, 2)
    for _ in range(5):
        schedule.step()
    resumed.load_state_dict(straight.state_dict())
    assert lr_scheduler.StepLR(resumed, 2, last_epoch=schedule.last_epoch - 1).get_last_lr() == schedule.get_last_lr()


# ---- Errors ---------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: lr_scheduler.StepLR(nn.Linear(2, 2), 3), ArgumentError, "StepLR: Linear.*is no optimizer"),
        (lambda: lr_scheduler.LambdaLR(None, math.sqrt), ArgumentError, "LambdaLR: None is no optimizer"),
        (lambda: lr_scheduler.StepLR(sgd(), 0), ShapeError, "step_size = 0"),
        (lambda: lr_scheduler.CosineAnnealingLR(sgd(), "10"), ArgumentError, "T_max = '10'"),
        (lambda: lr_scheduler.CosineAnnealingWarmRestarts(sgd(), 5, 0), ShapeError, "T_mult = 0"),
        (lambda: lr_scheduler.LambdaLR(sgd(), [abs, abs]), ShapeError, "lr_lambda has 2 entries[\\s\\S]*1 groups"),
        (lambda: lr_scheduler.StepLR(sgd(), 3, last_epoch=5), ArgumentError, "no 'initial_lr'[\\s\\S]*load_state_dict"),
        (lambda: lr_scheduler.OneCycleLR(sgd(), 0.1), ArgumentError, "how many steps[\\s\\S]*total_steps"),
        (lambda: lr_scheduler.OneCycleLR(sgd(), 0.1, 10, pct_start=1.5), ShapeError, "pct_start = 1.5"),
        (lambda: lr_scheduler.OneCycleLR(sgd(), 0.1, 10, anneal_strategy="step"), ArgumentError, "'cos' or 'linear'"),
        (
            lambda: lr_scheduler.OneCycleLR(optim.Adagrad([nn.Parameter([1.0])]), 0.1, 10),
            ArgumentError,
            "Adagrad has no momentum[\\s\\S]*cycle_momentum=False",
        ),
        (lambda: lr_scheduler.OneCycleLR(sgd(), 0.1, 10).step(11), ShapeError, "step 11 of a cycle of 10"),
        (lambda: lr_scheduler.ReduceLROnPlateau(sgd(), "lowest"), ArgumentError, "mode = 'lowest'[\\s\\S]*'min' or 'max'"),
        (lambda: lr_scheduler.ReduceLROnPlateau(sgd(), factor=1.0), ShapeError, "factor = 1.0"),
        (lambda: lr_scheduler.SequentialLR(sgd(), [lr_scheduler.StepLR(sgd(), 3)], []), ArgumentError, "another optimizer"),
        (lambda: lr_scheduler.SequentialLR(sgd(), [sgd()], []), ArgumentError, "schedule 0 is SGD"),
    ],
)
def test_wrong_calls_say_what_was_expected(call, error, says):
    with pytest.raises(error, match=says):
        call()


@pytest.mark.parametrize(
    "make",
    [
        lambda optimizer: lr_scheduler.LambdaLR(optimizer, lambda t: 0.5**t),
        lambda optimizer: lr_scheduler.OneCycleLR(optimizer, 1.0, 10),
        lambda optimizer: lr_scheduler.ReduceLROnPlateau(optimizer, patience=0),
    ],
    ids=["LambdaLR", "OneCycleLR", "ReduceLROnPlateau"],
)
def test_a_schedule_with_settings_for_each_group_says_where_a_new_group_belongs(make):
    optimizer = optim.SGD([nn.Parameter([1.0])], lr=0.1, momentum=0.9)
    schedule = make(optimizer)
    optimizer.add_param_group({"params": nn.Parameter([2.0])})
    with pytest.raises(
        ShapeError, match="(?s)made for 1 group\\(s\\), but the optimizer has 2 now.*after the last add_param_group"
    ):
        for loss in ([1.0], [1.0]) if isinstance(schedule, lr_scheduler.ReduceLROnPlateau) else ([],):
            schedule.step(*loss)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda o: lr_scheduler.LambdaLR(o, 0.5), "LambdaLR: lr_lambda is 0.5"),
        (lambda o: lr_scheduler.MultiStepLR(o, 3), "(?s)MultiStepLR: milestones = 3.*StepLR"),
        (lambda o: lr_scheduler.StepLR(o, 3).step(tg.tensor(0.5)), "(?s)StepLR: step to .*ReduceLROnPlateau looks at a loss"),
        (lambda o: lr_scheduler.ReduceLROnPlateau(o).step(), r"(?s)step: missing.*step\(metrics\)"),
        (lambda o: lr_scheduler.StepLR(o, 3).get_last_lr(0), "get_last_lr: takes 0 arguments by position, got 1"),
    ],
)
def test_wrong_arguments_say_what_was_expected(call, says):
    with pytest.raises(ArgumentError, match=says):
        call(optim.SGD([nn.Parameter([1.0])], lr=0.1))


def test_milestones_lie_between_schedules():
    optimizer = sgd()
    parts = [lr_scheduler.ConstantLR(optimizer) for _ in range(3)]
    for milestones in ([5], [9, 5]):
        with pytest.raises(ShapeError, match="one milestone between"):
            lr_scheduler.SequentialLR(optimizer, parts, milestones)


def test_the_state_of_another_schedule_is_refused_and_changes_nothing():
    optimizer = sgd()
    schedule = lr_scheduler.StepLR(optimizer, 3)
    for state in (lr_scheduler.ExponentialLR(sgd(), 0.9).state_dict(), lr_scheduler.StepLR(sgd(1.0, 2.0), 3).state_dict(), 3, {}):
        with pytest.raises(ArgumentError, match="another schedule"):
            schedule.load_state_dict(state)
    assert optimizer.lr == 0.1 and schedule.base_lrs == [0.1]


def test_a_sequence_of_which_one_state_does_not_fit_changes_nothing():
    schedule = sequence(lr_scheduler, optimizer := sgd())
    before, rate = schedule.state_dict(), optimizer.lr
    other = sequence(lr_scheduler, sgd())
    other.step()
    states = other.state_dict()["schedulers"]
    for wrong in ([], [*states[:-1], {}], [*states, {}]):
        with pytest.raises(ArgumentError, match="another schedule|schedules"):
            schedule.load_state_dict({**other.state_dict(), "schedulers": wrong})
        assert schedule.state_dict() == before and optimizer.lr == rate
