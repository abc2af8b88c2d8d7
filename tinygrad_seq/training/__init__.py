"""Training: the loop that everyone writes, truncated BPTT, and checkpoints from which a run goes on to the same bits."""

import sys as _sys
import typing as _typing

from .. import twins as _twins
from ..cut import cut as cut
from .checkpoint import restore_checkpoint as restore_checkpoint, save_checkpoint as save_checkpoint
from .evaluation import evaluating as evaluating
from .history import History as History
from .loop import Run as Run, fit as fit, interruptible as interruptible
from .truncation import Truncation as Truncation, tbptt as tbptt

_twins.speak(_sys.modules[__name__])
_twins.speak_when_made(_sys.modules[__name__])


def __getattr__(name: str) -> _typing.NoReturn:
    _twins.no_such_piece(name, _sys.modules[__name__])
