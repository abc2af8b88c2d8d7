"""Evaluations during a run: when, how good, whether the best so far, and when to give up."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ..errors import ArgumentError, ShapeError, describe, message
from ..frames import no_grad
from ..graph import raw
from ..nn import Module
from .history import History
from .truncation import Truncation


@contextmanager
def evaluating(model: Module) -> Iterator[Module]:
    """Evaluation mode, and nothing recorded; afterwards every module is in the mode in which it was.

    with evaluating(model):
        scores = model(xs)
    """
    before = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with no_grad():
            yield model
    finally:
        for module, training in before:
            module.training = training


class Evaluation:
    """What `fit` asks of a model now and then, and what follows from the answers."""

    def __init__(
        self,
        model: Module,
        measure: Callable[[], Mapping[str, float]],
        *,
        maximize: bool,
        patience: int | None,
        restore_best: bool,
    ):
        self.model, self.measure = model, measure
        self.maximize, self.patience, self.restore_best = maximize, patience, restore_best
        self.last = -1  # the step of the last evaluation
        self.without_improvement = 0
        self.best_weights: dict[str, Any] | None = None

    def __call__(self, step: int, epoch: int, history: History) -> dict[str, float]:
        """Evaluate now, write it down, and keep the weights if they are the best so far and asked for."""
        self.last = step
        with evaluating(self.model):
            found = dict(self.measure())
        name, value = next(iter(found.items()))
        history.evaluations.append({"step": step, "epoch": epoch, **found})
        best = None if history.best is None else history.best[name]
        if (best is None or (value > best if self.maximize else value < best)) and value == value:
            history.best, self.without_improvement = history.evaluations[-1], 0
            self.best_weights = self.model.state_dict() if self.restore_best else None
        else:
            self.without_improvement += 1
        return found

    @property
    def hopeless(self) -> bool:
        """Whether so many evaluations as there is patience for have brought nothing better."""
        return self.patience is not None and self.without_improvement >= self.patience

    def state_dict(self) -> dict[str, Any]:
        """When it was asked last, for how long nothing became better, and the best weights where they are kept."""
        return {"last": self.last, "without_improvement": self.without_improvement, "best_weights": self.best_weights}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        self.last, self.without_improvement = state["last"], state["without_improvement"]
        self.best_weights = state["best_weights"]


def measure_of(
    evaluate: Any, model: Module, loss: Callable[..., Any], truncation: Truncation | None
) -> Callable[[], Mapping[str, float]]:
    """The evaluation as a function without arguments: what the user's own returns, or the mean loss of batches."""
    if not callable(evaluate):
        return lambda: {"loss": _mean_loss(evaluate, model, loss, truncation)}

    def measure() -> Mapping[str, float]:
        found = raw(evaluate(model))
        numbers = found if isinstance(found, Mapping) else {"evaluation": found}
        try:
            return {str(name): float(raw(x)) for name, x in numbers.items()} or numbers[""]
        except (TypeError, ValueError, KeyError):
            raise ArgumentError(
                message(f"fit: evaluate returned {describe(found)}", expected="a number, or a dict of numbers")
            ) from None

    return measure


def _mean_loss(batches: Iterable[Any], model: Module, loss: Callable[..., Any], truncation: Truncation | None) -> float:
    """The mean of the losses of all batches, or of all windows of k1 steps, with the state carried as in training."""
    carried = Truncation(truncation.k1, axis=truncation.axis) if truncation else None
    total, count = 0.0, 0
    for batch in batches:
        if carried is None:
            values: Iterable[Any] = [loss(model, batch)]
        else:
            if not getattr(batches, "contiguous", False):
                carried.reset()
            values = carried(lambda window, state: loss(model, window, state), batch)
        for value in values:
            total, count = total + float(raw(value)), count + 1
    if not count:
        raise ShapeError(
            message("fit: the batches of evaluate gave nothing", expected="at least one", do="a list, or a data.Loader")
        )
    return total / count
