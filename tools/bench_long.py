"""Suite `long`: the layers of suite `layers` over 100,000 time steps. With --memory it says what such a step of training takes.

Neither loop nor sweep recurses and both are linear in T, so it trains also unfolded (`--only unfolded`), on a tape of millions of nodes.
PyTorch takes half a minute for one call of its GRU: `--cases LSTM`.
"""

from __future__ import annotations

from collections.abc import Iterator

import bench_layers
from bench import Case

SIZE = (100_000, 1, 32, 32)  # T, B, D, H
TITLE = "long: RNN (tanh), LSTM, GRU, one layer, 100,000 steps, forward + backward to inputs, initial state and parameters, float32"


def cases() -> Iterator[Case]:
    """One case per layer, with every framework that is installed."""
    return bench_layers.cases([SIZE])
