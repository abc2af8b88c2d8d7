"""Schedules of the learning rate, from the simplest to those that change the momentum too, or look at the loss.

    schedule = lr_scheduler.SequentialLR(
        optimizer, [lr_scheduler.LinearLR(optimizer, 0.01, total_iters=100), lr_scheduler.CosineAnnealingLR(optimizer, 900)], [100]
    )
    for x, y in batches:
        ...
        optimizer.step()
        schedule.step()

A schedule is a formula: the rate of a group is `rate(t, base)`, where t counts the steps of the schedule and base is the rate that the
group had before its first schedule. So nothing piles up from step to step, and t says all that is to be saved. Two schedules do not
multiply: the one that steps last sets the rate. (ReduceLROnPlateau alone is no formula of t.)
"""

from __future__ import annotations

import math
import sys
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from numbers import Real
from typing import Any, NoReturn

from .. import twins
from ..errors import ArgumentError, ShapeError, describe, message
from .optimizer import Optimizer, check_settings


class LRScheduler:
    """Sets the learning rate of every group of an optimizer, now and at every `step`.

    A subclass states `rate`. last_epoch: the number of steps taken so far (PyTorch's name for t); as an argument, one less.
    """

    not_saved: tuple[str, ...] = ("optimizer",)

    def __init__(self, optimizer: Optimizer, last_epoch: int = -1):
        self.optimizer = _checked_optimizer(type(self).__name__, optimizer)
        self.last_epoch: float = last_epoch + 1
        for group in optimizer.param_groups:
            if last_epoch >= 0 and "initial_lr" not in group:
                raise ArgumentError(
                    message(
                        f"{type(self).__name__}: last_epoch={last_epoch}, but a group has no 'initial_lr'",
                        expected="an optimizer that a schedule changed before",
                        do="load the states of optimizer and schedule instead: optimizer.load_state_dict, schedule.load_state_dict",
                    )
                )
        self.apply()

    def rate(self, t: float, base: float) -> float:
        """The learning rate after t steps of a group that began with `base`."""
        raise NotImplementedError

    def rates(self, t: float) -> list[float]:
        """The learning rate of each group after t steps."""
        return [self.rate(t, base) for base in self.base_lrs]

    def step(self, epoch: float | None = None) -> None:
        """Go to the next rate; or to that of `epoch`, which may be a fraction: epoch + batch / batches."""
        if epoch is not None and not isinstance(epoch, Real):
            who = type(self).__name__
            raise ArgumentError(
                message(f"{who}: step to {describe(epoch)}", do="schedule.step(); only ReduceLROnPlateau looks at a loss")
            )
        self.last_epoch = self.last_epoch + 1 if epoch is None else epoch
        self.apply()

    def apply(self) -> None:
        """Set the rates of the present t."""
        for group, rate in self.by_group(self.rates(self.last_epoch)):
            group["lr"] = rate

    def by_group(self, values: Sequence[Any]) -> Iterator[tuple[dict[str, Any], Any]]:
        """Each group of the optimizer with its value, of which there is one for each group that there was at the beginning."""
        groups = self.optimizer.param_groups
        if len(groups) != len(values):
            raise ShapeError(
                message(
                    f"{type(self).__name__}: made for {len(values)} group(s), but the optimizer has {len(groups)} now",
                    do="make the schedule after the last add_param_group",
                )
            )
        return zip(groups, values, strict=True)

    @property
    def base_lrs(self) -> list[float]:
        """The rate that each group had before its first schedule."""
        return [group.setdefault("initial_lr", group["lr"]) for group in self.optimizer.param_groups]

    def get_last_lr(self) -> list[float]:
        """The learning rate of each group now."""
        return [group["lr"] for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """Numbers and lists: t, the settings, and the rates at the beginning. `tg.save` takes it."""
        own = {name: value for name, value in vars(self).items() if name not in self.not_saved}
        return own | {"base_lrs": self.base_lrs}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where the snapshot was taken, with its settings; the optimizer gets the rates of that time. Nothing changes unless it fits."""
        self.check_state(state)
        self.take(state)

    def take(self, state: Mapping[str, Any]) -> None:
        """Go on from a state that was checked."""
        for group, base in zip(self.optimizer.param_groups, state["base_lrs"], strict=True):
            group["initial_lr"] = base
        vars(self).update({name: value for name, value in state.items() if name != "base_lrs"})
        self.apply()

    def check_state(self, state: Any) -> None:
        """Raise unless this is the state of a schedule of this kind."""
        own = self.state_dict()
        groups = len(self.optimizer.param_groups)
        if not isinstance(state, Mapping) or set(state) != set(own) or len(state["base_lrs"]) != groups:
            raise ArgumentError(
                message(
                    f"{type(self).__name__}: this is the state of another schedule, or of one with other groups",
                    expected=f"{', '.join(own)}, of {groups} groups",
                    got=", ".join(state) if isinstance(state, Mapping) else describe(state),
                )
            )

    def __repr__(self) -> str:
        settings = ", ".join(f"{name}={value!r}" for name, value in vars(self).items() if name not in self.not_saved)
        return f"{type(self).__name__}({settings})"


# ---- Steps and slopes ---------------------------------------------------------------------------------------------------------------


class StepLR(LRScheduler):
    """base gamma^floor(t / step_size): falls by the same factor, again and again."""

    def __init__(self, optimizer: Optimizer, step_size: int, gamma: float = 0.1, last_epoch: int = -1):
        check_settings("StepLR", step_size=(step_size, 1, math.inf), gamma=(gamma, 0, math.inf))
        self.step_size, self.gamma = step_size, gamma
        super().__init__(optimizer, last_epoch)

    def rate(self, t: float, base: float) -> float:
        return float(base * self.gamma ** (t // self.step_size))


class MultiStepLR(LRScheduler):
    """base gamma^(milestones passed): falls at the steps that you name."""

    def __init__(self, optimizer: Optimizer, milestones: Sequence[int], gamma: float = 0.1, last_epoch: int = -1):
        check_settings("MultiStepLR", gamma=(gamma, 0, math.inf))
        if isinstance(milestones, (int, float)):
            raise ArgumentError(
                message(f"MultiStepLR: milestones = {milestones}", expected="a list of steps", do="StepLR falls every n steps")
            )
        self.milestones, self.gamma = sorted(milestones), gamma
        super().__init__(optimizer, last_epoch)

    def rate(self, t: float, base: float) -> float:
        return base * self.gamma ** bisect_right(self.milestones, t)


class ConstantLR(LRScheduler):
    """factor base for the first total_iters steps, then base."""

    def __init__(self, optimizer: Optimizer, factor: float = 1 / 3, total_iters: int = 5, last_epoch: int = -1):
        check_settings("ConstantLR", factor=(factor, 0, math.inf), total_iters=(total_iters, 0, math.inf))
        self.factor, self.total_iters = factor, total_iters
        super().__init__(optimizer, last_epoch)

    def rate(self, t: float, base: float) -> float:
        return base * self.factor if t < self.total_iters else base


class LinearLR(LRScheduler):
    """A straight line from start_factor base to end_factor base in total_iters steps; with its defaults, a warm-up."""

    def __init__(
        self,
        optimizer: Optimizer,
        start_factor: float = 1 / 3,
        end_factor: float = 1.0,
        total_iters: int = 5,
        last_epoch: int = -1,
    ):
        limits = {"start_factor": (start_factor, 0, math.inf), "end_factor": (end_factor, 0, math.inf)}
        check_settings("LinearLR", **limits, total_iters=(total_iters, 1, math.inf))
        self.start_factor, self.end_factor, self.total_iters = start_factor, end_factor, total_iters
        super().__init__(optimizer, last_epoch)

    def rate(self, t: float, base: float) -> float:
        done = min(t, self.total_iters) / self.total_iters
        return base * (self.start_factor + (self.end_factor - self.start_factor) * done)


class ExponentialLR(LRScheduler):
    """base gamma^t."""

    def __init__(self, optimizer: Optimizer, gamma: float, last_epoch: int = -1):
        check_settings("ExponentialLR", gamma=(gamma, 0, math.inf))
        self.gamma = gamma
        super().__init__(optimizer, last_epoch)

    def rate(self, t: float, base: float) -> float:
        return float(base * self.gamma**t)


class LambdaLR(LRScheduler):
    """base f(t), with a function of your own; or a list with one for each group. The functions are not saved with the state."""

    not_saved = ("optimizer", "lr_lambdas")

    def __init__(
        self,
        optimizer: Optimizer,
        lr_lambda: Callable[[float], float] | Sequence[Callable[[float], float]],
        last_epoch: int = -1,
    ):
        groups = len(_checked_optimizer("LambdaLR", optimizer).param_groups)
        self.lr_lambdas = _per_group("LambdaLR", "lr_lambda", lr_lambda, groups)
        for f in self.lr_lambdas:
            if not callable(f):
                raise ArgumentError(
                    message(f"LambdaLR: lr_lambda is {describe(f)}", expected="a function of t", do="lambda t: ...")
                )
        super().__init__(optimizer, last_epoch)

    def rates(self, t: float) -> list[float]:
        return [base * f(t) for base, (_, f) in zip(self.base_lrs, self.by_group(self.lr_lambdas), strict=True)]


# ---- Cosines (Loshchilov, Hutter 2017) -------------------------------------------------------------------------------------------------


class CosineAnnealingLR(LRScheduler):
    """eta_min + (base - eta_min) (1 + cos(π t / T_max)) / 2: half a wave down in T_max steps, and up again if it goes on."""

    def __init__(self, optimizer: Optimizer, T_max: int, eta_min: float = 0.0, last_epoch: int = -1):
        check_settings("CosineAnnealingLR", T_max=(T_max, 1, math.inf), eta_min=(eta_min, 0, math.inf))
        self.T_max, self.eta_min = T_max, eta_min
        super().__init__(optimizer, last_epoch)

    def rate(self, t: float, base: float) -> float:
        return _cosine(base, self.eta_min, t / self.T_max)


class CosineAnnealingWarmRestarts(LRScheduler):
    """Half a wave down in T_0 steps, then from the top again; each wave T_mult times as long as the one before."""

    def __init__(self, optimizer: Optimizer, T_0: int, T_mult: int = 1, eta_min: float = 0.0, last_epoch: int = -1):
        limits = {"T_0": (T_0, 1, math.inf), "T_mult": (T_mult, 1, math.inf), "eta_min": (eta_min, 0, math.inf)}
        check_settings("CosineAnnealingWarmRestarts", **limits)
        self.T_0, self.T_mult, self.eta_min = T_0, T_mult, eta_min
        super().__init__(optimizer, last_epoch)

    def rate(self, t: float, base: float) -> float:
        wave: float = self.T_0
        if self.T_mult == 1:
            t %= wave
        while t >= wave:
            t, wave = t - wave, wave * self.T_mult
        return _cosine(base, self.eta_min, t / wave)


class OneCycleLR(LRScheduler):
    """Up to max_lr and down to almost nothing in total_steps, while the momentum goes the other way (Smith, Topin 2018).

        max_lr / div_factor -> max_lr                         in the first pct_start of the steps; momentum max -> base
        max_lr -> max_lr / div_factor / final_div_factor      in the rest; momentum base -> max

    three_phase: from max_lr back to where it began in as many steps as it rose, then down. anneal_strategy: "cos" or "linear". max_lr and
    the momenta may be lists, one number for each group. Adam's momentum is its beta1.
    """

    PHASES = (  # of two, and of three phases: rates and momenta, from which to which
        ((("start", "max_lr"), ("max", "base")), (("max_lr", "end"), ("base", "max"))),
        ((("start", "max_lr"), ("max", "base")), (("max_lr", "start"), ("base", "max")), (("start", "end"), ("max", "max"))),
    )

    def __init__(
        self,
        optimizer: Optimizer,
        max_lr: float | Sequence[float],
        total_steps: int | None = None,
        epochs: int | None = None,
        steps_per_epoch: int | None = None,
        pct_start: float = 0.3,
        anneal_strategy: str = "cos",
        cycle_momentum: bool = True,
        base_momentum: float | Sequence[float] = 0.85,
        max_momentum: float | Sequence[float] = 0.95,
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
        three_phase: bool = False,
        last_epoch: int = -1,
    ):
        _checked_optimizer("OneCycleLR", optimizer)
        if total_steps is None:
            if epochs is None or steps_per_epoch is None:
                raise ArgumentError(message("OneCycleLR: how many steps?", do="give total_steps, or epochs and steps_per_epoch"))
            total_steps = epochs * steps_per_epoch
        check_settings("OneCycleLR", total_steps=(total_steps, 1, math.inf), pct_start=(pct_start, 0, math.nextafter(1, 2)))
        if anneal_strategy not in ("cos", "linear"):
            raise ArgumentError(message(f"OneCycleLR: anneal_strategy = {anneal_strategy!r}", expected="'cos' or 'linear'"))
        if cycle_momentum and not {"momentum", "betas"} & set(optimizer.defaults):
            raise ArgumentError(message(f"OneCycleLR: {type(optimizer).__name__} has no momentum", do="cycle_momentum=False"))
        groups = len(optimizer.param_groups)
        self.max_lr = _per_group("OneCycleLR", "max_lr", max_lr, groups)
        self.base_momentum = _per_group("OneCycleLR", "base_momentum", base_momentum, groups)
        self.max_momentum = _per_group("OneCycleLR", "max_momentum", max_momentum, groups)
        self.total_steps, self.pct_start, self.anneal_strategy = total_steps, pct_start, anneal_strategy
        self.cycle_momentum, self.three_phase = cycle_momentum, three_phase
        self.div_factor, self.final_div_factor = div_factor, final_div_factor
        if last_epoch == -1:
            for group, highest in zip(optimizer.param_groups, self.max_lr, strict=True):
                group["initial_lr"] = highest / div_factor
        super().__init__(optimizer, last_epoch)

    def apply(self) -> None:
        """Set the rates, and the momenta, of the present t."""
        t = self.last_epoch
        if t > self.total_steps:
            raise ShapeError(
                message(
                    f"OneCycleLR: step {t} of a cycle of {self.total_steps}",
                    do="give total_steps the number of optimizer steps in the whole training",
                )
            )
        (a, b), (c, d), done = self._phase(t)
        between = _cosine if self.anneal_strategy == "cos" else _line
        for i, ((group, highest), start) in enumerate(zip(self.by_group(self.max_lr), self.base_lrs, strict=True)):
            rates = {"start": start, "max_lr": highest, "end": start / self.final_div_factor}
            group["lr"] = between(rates[a], rates[b], done)
            if self.cycle_momentum:
                momenta = {"max": self.max_momentum[i], "base": self.base_momentum[i]}
                momentum = between(momenta[c], momenta[d], done)
                group |= {"betas": (momentum, *group["betas"][1:])} if "betas" in group else {"momentum": momentum}

    def _phase(self, t: float) -> tuple[tuple[str, str], tuple[str, str], float]:
        """The phase that t lies in, rates and momenta, and how much of it is done."""
        risen = self.pct_start * self.total_steps - 1
        ends = [risen, 2 * risen, self.total_steps - 1] if self.three_phase else [risen, self.total_steps - 1]
        begins = [0.0, *ends]
        i = next((i for i, end in enumerate(ends[:-1]) if t <= end), len(ends) - 1)
        rates, momenta = self.PHASES[self.three_phase][i]
        return rates, momenta, (t - begins[i]) / (ends[i] - begins[i]) if ends[i] != begins[i] else 1.0


# ---- Schedules of schedules, and one that looks at the loss -----------------------------------------------------------------------------


class SequentialLR(LRScheduler):
    """One schedule after another: the next one begins, with its own t = 0, at each milestone. Warm-up then cosine, for example."""

    not_saved = ("optimizer", "schedulers")

    def __init__(self, optimizer: Optimizer, schedulers: Sequence[LRScheduler], milestones: Sequence[int], last_epoch: int = -1):
        for i, schedule in enumerate(schedulers):
            if not isinstance(schedule, LRScheduler) or isinstance(schedule, ReduceLROnPlateau):
                raise ArgumentError(
                    message(f"SequentialLR: schedule {i} is {describe(schedule)}", expected="schedules that are formulas of t")
                )
            if schedule.optimizer is not optimizer:
                raise ArgumentError(message(f"SequentialLR: schedule {i} is of another optimizer", expected="all of this one"))
        if len(milestones) != len(schedulers) - 1 or sorted(milestones) != list(milestones):
            raise ShapeError(
                message(
                    f"SequentialLR: {len(schedulers)} schedules and the milestones {list(milestones)}",
                    expected="one milestone between each two schedules, in ascending order",
                )
            )
        self.schedulers, self.milestones = list(schedulers), list(milestones)
        super().__init__(optimizer, last_epoch)

    def apply(self) -> None:
        """Let the schedule in whose part the present t lies set the rates."""
        i = bisect_right(self.milestones, self.last_epoch)
        self.schedulers[i].step(self.last_epoch - ([0, *self.milestones][i]))

    def state_dict(self) -> dict[str, Any]:
        """As of every schedule, with the states of those within."""
        return super().state_dict() | {"schedulers": [schedule.state_dict() for schedule in self.schedulers]}

    def take(self, state: Mapping[str, Any]) -> None:
        """Go on from a state that was checked, with the schedules within."""
        for schedule, inner in zip(self.schedulers, state["schedulers"], strict=True):
            schedule.take(inner)
        super().take({name: value for name, value in state.items() if name != "schedulers"})

    def check_state(self, state: Any) -> None:
        """Raise unless this is the state of such a sequence, of the same kinds of schedules."""
        super().check_state(state)
        own, states = self.schedulers, state["schedulers"]
        if len(states) != len(own):
            raise ArgumentError(message(f"SequentialLR: the state is of {len(states)} schedules", expected=f"{len(own)}"))
        for schedule, inner in zip(own, states, strict=True):
            schedule.check_state(inner)


class ReduceLROnPlateau(LRScheduler):
    """Multiplies the rates by `factor` when the loss has not become better for more than `patience` steps.

    `step(loss)` after each evaluation. Better: below the best so far by more than `threshold`, a share of it ("rel") or a number ("abs");
    mode="max": above. cooldown: steps after a reduction in which nothing is counted. min_lr: where it ends, also one for each group;
    eps: a reduction smaller than this is left out.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        mode: str = "min",
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        threshold_mode: str = "rel",
        cooldown: int = 0,
        min_lr: float | Sequence[float] = 0.0,
        eps: float = 1e-8,
    ):
        who = "ReduceLROnPlateau"
        groups = len(_checked_optimizer(who, optimizer).param_groups)
        for name, value, known in (("mode", mode, ("min", "max")), ("threshold_mode", threshold_mode, ("rel", "abs"))):
            if value not in known:
                raise ArgumentError(message(f"{who}: {name} = {value!r}", expected=" or ".join(map(repr, known))))
        check_settings(who, factor=(factor, 0, 1), patience=(patience, 0, math.inf), cooldown=(cooldown, 0, math.inf))
        self.mode, self.factor, self.patience, self.threshold = mode, factor, patience, threshold
        self.threshold_mode, self.cooldown, self.eps = threshold_mode, cooldown, eps
        self.min_lrs = _per_group(who, "min_lr", min_lr, groups)
        self.best = math.inf if mode == "min" else -math.inf
        self.num_bad_epochs = self.cooldown_counter = 0
        super().__init__(optimizer)

    def step(self, metrics: Any) -> None:  # type: ignore[override]
        """Look at the loss of this step, a number or a Tensor of one, and reduce the rates if it is time."""
        self.last_epoch += 1
        loss = float(metrics)
        if self._is_better(loss):
            self.best, self.num_bad_epochs = loss, 0
        else:
            self.num_bad_epochs += 1
        if self.cooldown_counter > 0:
            self.cooldown_counter -= 1
            self.num_bad_epochs = 0
        if self.num_bad_epochs > self.patience:
            self.cooldown_counter, self.num_bad_epochs = self.cooldown, 0
            for group, lowest in self.by_group(self.min_lrs):
                reduced = max(group["lr"] * self.factor, lowest)
                if group["lr"] - reduced > self.eps:
                    group["lr"] = reduced

    def _is_better(self, loss: float) -> bool:
        margin = self.threshold if self.mode == "max" else -self.threshold
        goal = self.best * (1 + margin) if self.threshold_mode == "rel" else self.best + margin
        return loss > goal if self.mode == "max" else loss < goal

    def apply(self) -> None:
        """Nothing: the rates are those of the optimizer, whose state has them."""


# ---- What they share --------------------------------------------------------------------------------------------------------------------


def _cosine(start: float, end: float, done: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * done)) / 2


def _line(start: float, end: float, done: float) -> float:
    return start + (end - start) * done


def _per_group(who: str, name: str, value: Any, groups: int) -> list[Any]:
    values = list(value) if isinstance(value, (list, tuple)) else [value] * groups
    if len(values) != groups:
        raise ShapeError(message(f"{who}: {name} has {len(values)} entries", expected=f"one, or one for each of {groups} groups"))
    return values


def _checked_optimizer(who: str, optimizer: Any) -> Optimizer:
    """The optimizer, or an error that says what it is instead."""
    if not isinstance(optimizer, Optimizer):
        raise ArgumentError(message(f"{who}: {describe(optimizer)} is no optimizer", expected="for example tg.optim.Adam(...)"))
    return optimizer


twins.speak_when_made(sys.modules[__name__])
twins.speak(LRScheduler, idle=True)
twins.speak(ReduceLROnPlateau)


def __getattr__(name: str) -> NoReturn:
    twins.no_such_layer(name, sys.modules[__name__])
