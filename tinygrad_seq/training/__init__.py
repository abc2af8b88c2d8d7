"""Training: the loop that everyone writes, truncated BPTT, and checkpoints from which a run goes on to the same bits."""

from .checkpoint import restore_checkpoint as restore_checkpoint, save_checkpoint as save_checkpoint
from .evaluation import evaluating as evaluating
from .history import History as History
from .loop import Run as Run, fit as fit
from .truncation import Truncation as Truncation, cut as cut, tbptt as tbptt
