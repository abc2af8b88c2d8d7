"""Kill an experiment of `models` in the middle of its training, resume it, and compare with a run that was never killed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from models.experiment import Experiment, Report, Run, perform
from tinygrad_seq import training
from tinygrad_seq.training import loop


class Killed(BaseException):
    """As sudden as a kill: nothing in the package or in an experiment catches it."""


def goes_on_to_the_same_bits(kind: Experiment, config: Any, folder: Path, *, kills: int = 2) -> Report:
    """Assert it, with the kills evenly spread over the checkpoints that are written; return the report of the run that was never killed."""
    writes = 0
    last: int | None = None  # the write after which it dies
    write = training.save_checkpoint

    def counted(*args: Any, **parts: Any) -> None:
        nonlocal writes
        write(*args, **parts)
        writes += 1
        if writes == last:
            raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "save_checkpoint", counted)
        patch.setattr(loop, "save_checkpoint", counted)
        patch.setattr(Run, "figure", lambda *_: None)  # pictures take longer than all the rest
        whole = perform(kind, config, seed=3, out=folder / "whole")
        assert writes > kills, "it writes too few checkpoints for this test: more steps"
        spaced, writes = max(1, writes // (kills + 1)), 0
        for n in range(kills):
            last = writes + spaced
            with pytest.raises(Killed):
                perform(kind, config, seed=3, out=folder / "killed", resume=n > 0)
        last = None
        again = perform(kind, config, seed=3, out=folder / "killed", resume=True)
    assert again.results == whole.results
    files = sorted(path.name for path in (folder / "whole").glob("*.safetensors"))
    assert files and files == sorted(path.name for path in (folder / "killed").glob("*.safetensors"))
    for name in files:
        assert (folder / "whole" / name).read_bytes() == (folder / "killed" / name).read_bytes(), name
    return whole
