"""The formulas of layers and losses by topic; modules own parameters and call these.

They take raw arrays as well as Tensors, as ops do: arrays in, array out.
"""

import sys as _sys
import typing as _typing

from ... import twins as _twins
from .activation import gelu as gelu, relu as relu
from .dropout import dropout as dropout
from .linear import embedding as embedding, linear as linear
from .norm import layer_norm as layer_norm
from .loss import cross_entropy as cross_entropy
from .rnn import RNNGradients as RNNGradients, rnn_bptt as rnn_bptt, rnn_step as rnn_step
from .softmax import log_softmax as log_softmax, softmax as softmax

_twins.speak(_sys.modules[__name__])


def __getattr__(name: str) -> _typing.NoReturn:
    _twins.no_such_layer(name, _sys.modules[__name__])
