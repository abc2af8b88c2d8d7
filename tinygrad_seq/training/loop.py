"""fit: the training loop that everyone writes, with what everyone forgets."""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from .. import backend
from ..data import Streams
from ..errors import AnomalyError, ArgumentError, FileError, ShapeError, TinygradError, describe, message
from ..graph import raw
from ..nn import Module, functional
from ..optim import Optimizer, clip_grad_norm_
from ..optim.lr_scheduler import ReduceLROnPlateau
from ..tensor import Tensor
from .checkpoint import restore_checkpoint, save_checkpoint
from .evaluation import Evaluation, measure_of
from .history import History
from .progress import Progress
from .truncation import Truncation


def fit(
    model: Module,
    loss: Callable[..., Any],
    optimizer: Optimizer,
    batches: Iterable[Any],
    *,
    epochs: int | None = None,
    steps: int | None = None,
    schedule: Any = None,
    schedule_per: str = "step",
    clip_norm: float | None = None,
    tbptt: Truncation | None = None,
    evaluate: Callable[[Module], Any] | Iterable[Any] | None = None,
    every: int | None = None,
    maximize: bool = False,
    patience: int | None = None,
    restore_best: bool = False,
    save: str | os.PathLike[str] | None = None,
    save_every: int | None = None,
    keep: int = 1,
    resume: bool = True,
    progress: bool = True,
    callbacks: Iterable[Callable[[Run], Any]] = (),
) -> History:
    """Train a model, and return what happened.

        for batch in batches:
            optimizer.zero_grad()
            loss(model, batch).backward()
            clip_grad_norm_(model.parameters(), clip_norm)
            optimizer.step()
            schedule.step()

    That is one epoch. The run has `epochs` of them (1 unless told), or ends after `steps` updates, whichever comes first.

    loss(model, batch) -> a scalar Tensor. With tbptt=tbptt(k1, k2): loss(model, window, state) -> (the scalar, the new state), and
    an update every k1 time steps. The state is None where a sequence begins: at every batch, or, where batches go on from one another
    (`data.Streams`, or whatever has `contiguous = True`), at every epoch.

    batches: anything that a `for` loop can go through again: a list, `data.Loader`, `data.Streams`.

    schedule: stepped after every update; schedule_per="epoch": after every epoch. ReduceLROnPlateau: with every evaluation.

    evaluate: a function of the model that returns a number or a dict of numbers, or batches, whose mean loss is taken. It runs in evaluation
    mode, unrecorded, after each `every` updates (None: each epoch) and at the end. The first number is the one that counts; lower is
    better unless `maximize`. patience: stop when so many evaluations in a row have brought nothing better. restore_best: return with the
    best weights instead of the last.

    save: a file to which everything is written, after each `save_every` updates (None: each epoch) and at the end. resume: if the file is
    there, go on from it, to the same bits as if the run had never stopped; the learning rate and whatever else was saved come from the file,
    and a run that is at its end there returns at once. resume=False begins anew. keep: how many files, see `save_checkpoint`. Batches
    without a `state_dict` are gone through again up to the place.

    callbacks: called after every update with the `Run`; `run.stop("why")` ends it. progress: a bar in a terminal, lines in a log; False for
    neither.

    A loss that is NaN or infinite is an error, before it can spoil the weights. Ctrl-C ends the run after the update at hand, saved and
    returned like any other; a second one at once. A model that is in evaluation mode is put into training mode; if only parts of
    it are, they stay so.
    """
    if evaluate is batches:
        raise ArgumentError(
            message("fit: evaluate and batches are one object", expected="batches of their own for each, with their own position")
        )
    _check_parts(model, loss, optimizer, schedule, tbptt)
    _check(epochs, steps, schedule_per, evaluate, every, patience, restore_best, save_every)
    if save is not None and not Path(save).absolute().parent.is_dir():  # now, not after the first epoch
        raise FileError(message(f"fit: there is no folder for {str(save)!r}", do=f"os.makedirs({str(Path(save).parent)!r})"))
    callbacks = tuple(callbacks)
    last_epoch = 1 if epochs is None and steps is None else epochs
    run = Run(model, optimizer, schedule, schedule_per, clip_norm)
    evaluation = None
    if evaluate is not None:
        measure = measure_of(evaluate, model, loss, tbptt)
        evaluation = Evaluation(model, measure, maximize=maximize, patience=patience, restore_best=restore_best)
    if tbptt is not None:
        tbptt.reset()
    if not model.training:
        model.train()

    parts = {"model": model, "optimizer": optimizer, "schedule": schedule, "run": run, "evaluation": evaluation, "tbptt": tbptt}
    parts |= {"batches": batches, "evaluated": evaluate}
    parts = {name: part for name, part in parts.items() if hasattr(part, "load_state_dict")}
    resumed = save if save is not None and resume and Path(save).exists() else None
    if resumed is not None:
        try:
            restore_checkpoint(resumed, **parts)
        except TinygradError as error:
            error.add_note(f"  where:  fit, about to go on from {resumed}; resume=False begins anew")
            raise
        if tbptt is not None:
            tbptt.to(next((backend.device_of(p._data) for p in model.parameters()), "cpu"))

    def finished() -> bool:
        """Whether the run is at its end; it says why."""
        if last_epoch is not None and run.epoch >= last_epoch:
            run.stop("epochs")
        if steps is not None and run.step >= steps:
            run.stop("steps")
        if evaluation is not None and evaluation.hopeless:
            run.stop("patience")
        return bool(run.stopping)

    def look() -> None:
        if evaluation is not None and evaluation.last != run.step:
            epoch = run.epoch + (run.batch > 0)  # the one it is in, or that has just ended
            found = evaluation(run.step, epoch, run.history)
            told = "  ".join(f"{name} {x:.4g}" for name, x in found.items())
            shown.line(f"step {run.step}  epoch {epoch}  training loss {run.history.mean_loss():.4g}  {told}")
            if isinstance(schedule, ReduceLROnPlateau):
                schedule.step(next(iter(found.values())))

    def write() -> None:
        if save is not None:
            save_checkpoint(save, keep=keep, **parts)

    with (
        contextlib.closing(Progress(progress, _updates(batches, last_epoch, steps, tbptt), run.step)) as shown,
        interruptible(run.interrupt),
    ):
        if resumed is not None:
            verb = "ended" if finished() else "goes on"
            shown.line(f"{resumed}: the run {verb} after step {run.step}; resume=False begins anew")
        while not finished():
            with contextlib.closing(run.losses_of_an_epoch(loss, batches, tbptt, "batches" in parts)) as losses:
                for value in losses:
                    run.update(value)
                    del value  # and its graph
                    shown.step(run.loss, run.history.rates[-1], run.epoch + 1)
                    for callback in callbacks:
                        callback(run)
                    if every is not None and run.step % every == 0:
                        look()
                    if finished():
                        break
                    if save_every is not None and run.step % save_every == 0:
                        write()
                else:
                    if every is None:
                        look()
                    run.end_epoch()
                    if save_every is None and not finished():
                        write()
        if run.stopping != "interrupted":
            look()
        run.history.stopped = run.stopping
        write()
        if run.stopping not in ("epochs", "steps"):
            shown.line(f"stopped after step {run.step}: {run.stopping}{'' if save is None else f', saved in {save}'}")
    if evaluation is not None and evaluation.best_weights is not None:
        model.load_state_dict(evaluation.best_weights)
    return run.history


class Run:
    """Where a run stands, as callbacks see it: `step` updates, `epoch` epochs before this one, the `loss` of the last update, the `history`.

    `stop(why)` ends the run after this step.
    """

    def __init__(self, model: Module, optimizer: Optimizer, schedule: Any, schedule_per: str, clip_norm: float | None):
        self.model, self.optimizer, self.schedule = model, optimizer, schedule
        self.history = History()
        self.step = self.epoch = 0
        self.batch = 0  # batches taken in this epoch
        self.loss = math.nan
        self.stopping = ""
        self._clip_norm, self._schedule_per = clip_norm, "evaluation" if isinstance(schedule, ReduceLROnPlateau) else schedule_per

    def stop(self, why: str) -> None:
        """End the run after this step."""
        self.stopping = self.stopping or why

    def interrupt(self) -> None:
        """The same, whatever else it was about to end for: what Ctrl-C does."""
        self.stopping = "interrupted"

    def losses_of_an_epoch(
        self, loss: Callable[..., Any], batches: Iterable[Any], truncation: Truncation | None, goes_on: bool
    ) -> Generator[Any, None, None]:
        """The losses to update by, in the rest of this epoch. goes_on: the batches know by themselves where they stood."""
        resumed, contiguous = self.batch > 0, getattr(batches, "contiguous", False)
        iterator = iter(batches)
        with _closing(iterator):
            if truncation is None:
                for batch in itertools.islice(iterator, 0 if goes_on else self.batch, None):
                    self.batch += 1
                    yield loss(self.model, batch)
            else:
                step = _with_state(loss, self.model)
                if not resumed:
                    truncation.reset()
                if resumed and truncation.rest is not None:  # the run stopped within a batch
                    yield from truncation(step, truncation.rest)
                for batch in itertools.islice(iterator, 0 if goes_on else self.batch, None):
                    self.batch += 1
                    if not contiguous:
                        truncation.reset()
                    yield from truncation(step, batch)
        if self.batch == 0:
            used_up = iterator is batches
            raise ShapeError(
                message(
                    f"fit: the batches gave nothing in epoch {self.epoch + 1}",
                    expected="at least one batch",
                    do="an iterator is used up after one epoch: give a list, a data.Loader or data.Streams" if used_up else "",
                )
            )

    def update(self, loss: Any) -> None:
        """One step down the gradient of this loss."""
        if not isinstance(loss, Tensor) or loss.size != 1:
            raise ArgumentError(
                message(
                    f"fit: the loss is {describe(raw(loss))}",
                    expected="a scalar Tensor",
                    do="loss(model, batch) returns the mean; with tbptt= (the mean, the new state)",
                )
            )
        self.loss = float(loss.item())
        if not math.isfinite(self.loss):
            raise self._spoiled(f"the loss is {self.loss:g}")
        self.optimizer.zero_grad()
        loss.backward()
        if self._clip_norm is not None:
            norm = clip_grad_norm_(self.model.parameters(), self._clip_norm)
            if not math.isfinite(norm):
                raise self._spoiled(f"the norm of the gradient is {norm:g}")
            self.history.norms.append(norm)
        self.history.losses.append(self.loss)
        self.history.rates.append(float(self.optimizer.param_groups[0]["lr"]))
        self.optimizer.step()
        self.step += 1
        if self.schedule is not None and self._schedule_per == "step":
            self.schedule.step()

    def end_epoch(self) -> None:
        """Count it."""
        self.history.epochs.append(self.step)
        self.epoch, self.batch = self.epoch + 1, 0
        if self.schedule is not None and self._schedule_per == "epoch":
            self.schedule.step()

    def _spoiled(self, what: str) -> AnomalyError:
        clip = "" if self._clip_norm is not None else ", clip_norm=1.0"
        return AnomalyError(
            message(
                f"fit: {what} at step {self.step + 1}, in epoch {self.epoch + 1}",
                expected="a finite number; the weights are still those of the step before",
                do=f"a lower learning rate{clip}; `with tg.detect_anomaly():` around fit names the op that made it",
            )
        )

    def state_dict(self) -> dict[str, Any]:
        """The counts, and the history."""
        return {"step": self.step, "epoch": self.epoch, "batch": self.batch, "history": self.history.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from these counts."""
        self.step, self.epoch, self.batch = state["step"], state["epoch"], state["batch"]
        self.history.load_state_dict(state["history"])


def _closing(iterator: Any) -> contextlib.AbstractContextManager[Any]:
    return contextlib.closing(iterator) if hasattr(iterator, "close") else contextlib.nullcontext()


def _with_state(loss: Callable[..., Any], model: Module) -> Callable[[Any, Any], Any]:
    return lambda window, state: loss(model, window, state)


@contextlib.contextmanager
def interruptible(stop: Callable[[], object]) -> Iterator[None]:
    """Inside, Ctrl-C calls stop() and the work goes on to a place where it can end whole; a second Ctrl-C interrupts at once.

        pressed: list[bool] = []
        with training.interruptible(lambda: pressed.append(True)):
            while not pressed: ...

    `fit` ends so after the update at hand. In other threads, and where a program handles Ctrl-C itself, nothing changes.
    """
    pressed = False

    def interrupted(number: int, frame: Any) -> None:
        nonlocal pressed
        if pressed:
            raise KeyboardInterrupt
        pressed = True
        stop()

    ours = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if ours:
        signal.signal(signal.SIGINT, interrupted)
    try:
        yield
    finally:
        if ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def _updates(batches: Any, epochs: int | None, steps: int | None, truncation: Truncation | None) -> int | None:
    """How many updates the run will have, where that can be known."""
    if epochs is None and steps is not None:
        return steps
    if not hasattr(batches, "__len__") or (truncation is not None and not isinstance(batches, Streams)):
        return steps
    an_epoch = len(batches)
    if truncation is not None:
        windows, last = divmod(len(batches.inputs), batches.steps)
        an_epoch = windows * -(-batches.steps // truncation.k1) + -(-last // truncation.k1)
    whole = an_epoch * (epochs or 1)
    return whole if steps is None else min(steps, whole)


def _check(
    epochs: Any,
    steps: Any,
    schedule_per: Any,
    evaluate: Any,
    every: Any,
    patience: Any,
    restore_best: Any,
    save_every: Any,
) -> None:
    counts = {"epochs": epochs, "steps": steps, "every": every, "patience": patience, "save_every": save_every}
    for name, value in counts.items():
        if value is not None and (not isinstance(value, int) or value < 1):
            raise ArgumentError(message(f"fit: {name} = {value!r}", expected="an int of at least 1, or None"))
    if schedule_per not in ("step", "epoch"):
        raise ArgumentError(message(f"fit: schedule_per = {schedule_per!r}", expected="'step' or 'epoch'"))
    if evaluate is None and (patience is not None or restore_best or every is not None):
        raise ArgumentError(
            message("fit: patience, restore_best and every are about evaluations, and there are none", do="give evaluate=")
        )


def _check_parts(model: Any, loss: Any, optimizer: Any, schedule: Any, tbptt: Any) -> None:
    if not isinstance(model, Module):
        raise ArgumentError(message(f"fit: {describe(model)} is no model", expected="an nn.Module"))
    of_two_arrays = isinstance(loss, Module) or str(getattr(loss, "__module__", "")).startswith(functional.__name__)
    if not callable(loss) or of_two_arrays:
        raise ArgumentError(
            message(
                f"fit: {describe(loss)} is no loss of a model",
                expected="a function loss(model, batch)",
                do="lambda model, batch: criterion(model(batch[0]), batch[1])",
            )
        )
    if not hasattr(optimizer, "param_groups"):
        raise ArgumentError(
            message(f"fit: {describe(optimizer)} is no optimizer", expected="such as optim.Adam(model.parameters(), lr=1e-3)")
        )
    own = {id(p) for p in model.parameters()}
    if not any(id(p) in own for group in optimizer.param_groups for p in group["params"]):
        raise ArgumentError(
            message(
                "fit: the optimizer has none of the parameters of the model",
                do="make it from model.parameters(), after the model: a new model needs a new optimizer",
            )
        )
    if schedule is not None and not hasattr(schedule, "step"):
        raise ArgumentError(
            message(
                f"fit: {describe(schedule)} is no schedule",
                expected="such as optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)",
            )
        )
    if getattr(schedule, "optimizer", optimizer) is not optimizer:
        raise ArgumentError(message("fit: the schedule is of another optimizer", do="make it from this one"))
    if tbptt is not None and not isinstance(tbptt, Truncation):
        raise ArgumentError(message(f"fit: tbptt = {describe(tbptt)}", expected="such as training.tbptt(20), or tbptt(20, 60)"))
