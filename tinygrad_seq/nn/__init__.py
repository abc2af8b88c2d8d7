"""Layers: modules that own parameters and shapes. Their formulas are in `nn.functional`."""

import sys as _sys
import typing as _typing

from .. import twins as _twins
from . import functional as functional, init as init
from .activation import (
    ELU as ELU,
    GELU as GELU,
    GLU as GLU,
    Hardsigmoid as Hardsigmoid,
    Hardswish as Hardswish,
    Hardtanh as Hardtanh,
    LeakyReLU as LeakyReLU,
    LogSigmoid as LogSigmoid,
    LogSoftmax as LogSoftmax,
    Mish as Mish,
    PReLU as PReLU,
    ReLU as ReLU,
    ReLU6 as ReLU6,
    SELU as SELU,
    SiLU as SiLU,
    Sigmoid as Sigmoid,
    Softmax as Softmax,
    Softplus as Softplus,
    Softsign as Softsign,
    Tanh as Tanh,
)
from .cells import GRUCell as GRUCell, LSTMCell as LSTMCell, RNNCell as RNNCell
from .dropout import (
    Dropout as Dropout,
    Dropout1d as Dropout1d,
    Dropout2d as Dropout2d,
    VariationalDropout as VariationalDropout,
)
from .embedding import Embedding as Embedding
from .linear import Linear as Linear
from .module import Module as Module, Parameter as Parameter
from .norm import (
    BatchNorm1d as BatchNorm1d,
    BatchNorm2d as BatchNorm2d,
    GroupNorm as GroupNorm,
    LayerNorm as LayerNorm,
    RMSNorm as RMSNorm,
)
from .recurrent import GRU as GRU, LSTM as LSTM, RNN as RNN, Recurrent as Recurrent


def __getattr__(name: str) -> _typing.NoReturn:
    _twins.no_such_layer(name, _sys.modules[__name__])
