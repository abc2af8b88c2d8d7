"""Layers: modules that own parameters and shapes. Their formulas are in `nn.functional`."""

from . import functional as functional, init as init
from .embedding import Embedding as Embedding
from .linear import Linear as Linear
from .module import Module as Module, Parameter as Parameter
from .recurrent import RNN as RNN
