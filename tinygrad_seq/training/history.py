"""What happened in a training run, as lists that matplotlib and JSON take."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np


class History:
    """The losses of every step, and what was evaluated when.

        plt.plot(history.losses)
        plt.plot(history.evaluated("step"), history.evaluated("loss"))

    losses, rates, norms: for each step its loss, learning rate, and norm of the gradient (where it was clipped).
    evaluations: dicts with "step", "epoch" and the numbers found. epochs: the step at which each epoch ended. best: the best evaluation so
    far. stopped: why the run ended: "epochs", "steps", "patience", "interrupted", or what a callback said; "" while it runs.
    """

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.rates: list[float] = []
        self.norms: list[float] = []
        self.epochs: list[int] = []
        self.evaluations: list[dict[str, float]] = []
        self.best: dict[str, float] | None = None
        self.stopped = ""

    def __len__(self) -> int:
        return len(self.losses)

    def evaluated(self, name: str) -> list[float]:
        """One column of the evaluations."""
        return [found[name] for found in self.evaluations]

    def to_dict(self) -> dict[str, Any]:
        """All of it as lists, numbers and strings, which JSON takes."""
        return {name: list(value) if isinstance(value, list) else value for name, value in vars(self).items()}

    def state_dict(self) -> dict[str, Any]:
        """The same, long lists as arrays."""
        return {name: np.array(x) if name in ("losses", "rates", "norms") else x for name, x in self.to_dict().items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with this history."""
        vars(self).update({name: x.tolist() if isinstance(x, np.ndarray) else x for name, x in state.items()})

    def __repr__(self) -> str:
        """A table of the last evaluations, or of the last epochs where nothing was evaluated; training: the mean loss of the steps before."""
        steps, epochs = len(self.losses), len(self.epochs)
        head = f"History({steps} steps, {epochs} epochs{f', stopped: {self.stopped}' if self.stopped else ''})"
        rows = self.evaluations or [{"step": step, "epoch": n} for n, step in enumerate(self.epochs, 1)]
        if not rows:
            return head
        names = [name for name in rows[0] if name not in ("step", "epoch")]
        lines = [f"{'step':>8} {'epoch':>6} {'training':>10}" + "".join(f" {name:>10}" for name in names)]
        if len(rows) > 10:
            lines.append(f"{'...':>8}")
        for row in rows[-10:]:
            mark = "  best" if row is self.best or (self.best is not None and row == self.best) else ""
            training = self.mean_loss(before=int(row["step"]))
            found = "".join(f" {row[name]:>10.4g}" for name in names)
            lines.append(f"{row['step']:>8} {row['epoch']:>6} {training:>10.4g}{found}{mark}")
        return "\n".join([head, *lines])

    def mean_loss(self, before: int | None = None, steps: int = 50) -> float:
        """The mean loss of the last steps, of all or of those before a step."""
        last = self.losses[:before][-steps:]
        return sum(last) / len(last) if last else float("nan")
