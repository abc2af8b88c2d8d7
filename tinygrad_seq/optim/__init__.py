"""Optimizers, gradient clipping and schedules: from gradients to the next parameters.

In the order of understanding: `sgd`, `adagrad`, `rmsprop`, `adam`, `nadam`, `lion`; each is its equations and the same in place. What they
share stands in `optimizer`; `clip` comes before a step, `lr_scheduler` after it.
"""

import sys as _sys
import typing as _typing

from .. import twins as _twins
from . import lr_scheduler as lr_scheduler
from .adagrad import Adagrad as Adagrad
from .adam import Adam as Adam, AdamW as AdamW
from .clip import clip_grad_norm_ as clip_grad_norm_, clip_grad_value_ as clip_grad_value_
from .lion import Lion as Lion
from .nadam import NAdam as NAdam
from .optimizer import Optimizer as Optimizer
from .rmsprop import RMSprop as RMSprop
from .sgd import SGD as SGD

_twins.speak_when_made(_sys.modules[__name__])


def __getattr__(name: str) -> _typing.NoReturn:
    _twins.no_such_layer(name, _sys.modules[__name__])
