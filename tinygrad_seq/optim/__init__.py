"""Optimizers and gradient clipping: from gradients to the next parameters."""

import sys as _sys
import typing as _typing

from .. import twins as _twins
from .adam import Adam as Adam
from .clip import clip_grad_norm_ as clip_grad_norm_, clip_grad_value_ as clip_grad_value_
from .optimizer import Optimizer as Optimizer
from .sgd import SGD as SGD


def __getattr__(name: str) -> _typing.NoReturn:
    _twins.no_such_layer(name, _sys.modules[__name__])
