"""Optimizers and gradient clipping: from gradients to the next parameters."""

from .adam import Adam as Adam
from .clip import clip_grad_norm_ as clip_grad_norm_, clip_grad_value_ as clip_grad_value_
from .optimizer import Optimizer as Optimizer
from .sgd import SGD as SGD
