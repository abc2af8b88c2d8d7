"""Plots of numbers, by matplotlib (`pip install 'tinygrad_seq[viz]'`): each returns its figure and the numbers that it shows.

    figure, numbers = tg.plot.flow({"tanh": loss_1, "relu": loss_2})
    tg.plot.ledger(tg.bptt.ledger(loss, W, losses=losses)).save("ledger.svg")

No display is needed, and matplotlib.pyplot is left alone. Readable in grey and safe for colour-blind readers: see `style`.
"""

from .gradients import depth as depth, flow as flow, gated_path as gated_path, jacobians as jacobians, ledger as ledger
from .inside import attention as attention, gates as gates, training as training
from .style import Plot as Plot
from .systems import growth as growth, spectrum as spectrum, taps as taps, trajectories as trajectories

__all__ = [
    "Plot",
    "attention",
    "depth",
    "flow",
    "gated_path",
    "gates",
    "growth",
    "jacobians",
    "ledger",
    "spectrum",
    "taps",
    "training",
    "trajectories",
]
