"""Layers: modules that own parameters and shapes. Their formulas are in `nn.functional`."""

import sys as _sys
import typing as _typing

from .. import twins as _twins
from . import functional as functional, init as init
from .dropout import Dropout as Dropout
from .embedding import Embedding as Embedding
from .linear import Linear as Linear
from .module import Module as Module, Parameter as Parameter
from .norm import LayerNorm as LayerNorm
from .recurrent import RNN as RNN


def __getattr__(name: str) -> _typing.NoReturn:
    _twins.no_such_layer(name, _sys.modules[__name__])
