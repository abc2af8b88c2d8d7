"""The formulas of layers and losses by topic; modules own parameters and call these.

They take raw arrays as well as Tensors, as ops do: arrays in, array out.
"""

import sys as _sys
import typing as _typing

from ... import twins as _twins
from .activation import (
    elu as elu,
    gelu as gelu,
    glu as glu,
    hardsigmoid as hardsigmoid,
    hardswish as hardswish,
    hardtanh as hardtanh,
    leaky_relu as leaky_relu,
    logsigmoid as logsigmoid,
    mish as mish,
    prelu as prelu,
    relu as relu,
    relu6 as relu6,
    selu as selu,
    silu as silu,
    softplus as softplus,
    softsign as softsign,
)
from .conv import (
    conv1d as conv1d,
    conv2d as conv2d,
    conv_transpose1d as conv_transpose1d,
    conv_transpose2d as conv_transpose2d,
)
from .dropout import (
    dropout as dropout,
    dropout1d as dropout1d,
    dropout2d as dropout2d,
    variational_dropout as variational_dropout,
)
from .linear import bilinear as bilinear, embedding as embedding, linear as linear
from .loss import cross_entropy as cross_entropy
from .norm import batch_norm as batch_norm, group_norm as group_norm, layer_norm as layer_norm, rms_norm as rms_norm
from .pooling import (
    adaptive_avg_pool1d as adaptive_avg_pool1d,
    adaptive_avg_pool2d as adaptive_avg_pool2d,
    adaptive_max_pool1d as adaptive_max_pool1d,
    adaptive_max_pool2d as adaptive_max_pool2d,
    avg_pool1d as avg_pool1d,
    avg_pool2d as avg_pool2d,
    max_pool1d as max_pool1d,
    max_pool2d as max_pool2d,
)
from .rnn import RNNGradients as RNNGradients, rnn_bptt as rnn_bptt, rnn_step as rnn_step
from .softmax import log_softmax as log_softmax, softmax as softmax
from .upsample import interpolate as interpolate

_twins.speak(_sys.modules[__name__])


def __getattr__(name: str) -> _typing.NoReturn:
    _twins.no_such_layer(name, _sys.modules[__name__])
