"""How a run shows itself: a bar in a terminal or notebook, a line now and then in a log, or nothing."""

from __future__ import annotations

import sys
from typing import Any


class Progress:
    """Shows steps, the loss and the learning rate. progress=True chooses: a bar where someone is looking, else plain lines."""

    def __init__(self, progress: bool, total: int | None, step: int):
        self.shown, self.average = progress, float("nan")
        self.bar: Any = None
        if progress and (sys.stderr.isatty() or "ipykernel" in sys.modules):
            from tqdm.auto import tqdm

            self.bar = tqdm(total=total, initial=step, unit=" steps", dynamic_ncols=True)

    def step(self, loss: float, rate: float, epoch: int) -> None:
        """One more step, with its loss."""
        self.average = loss if self.average != self.average else 0.95 * self.average + 0.05 * loss
        if self.bar is not None:
            self.bar.set_postfix_str(f"epoch {epoch}, loss {self.average:.4g}, lr {rate:.3g}", refresh=False)
            self.bar.update()

    def line(self, text: str) -> None:
        """A line that stays: what an evaluation found, why the run ended."""
        if self.bar is not None:
            self.bar.write(text, file=sys.stderr)
        elif self.shown:
            print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Leave the bar as it is."""
        if self.bar is not None:
            self.bar.close()
