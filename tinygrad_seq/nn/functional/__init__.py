"""The formulas of layers and losses by topic; modules own parameters and call these.

They take raw arrays as well as Tensors, as ops do: arrays in, array out.
"""

import sys as _sys
import typing as _typing

from ... import twins as _twins
from . import dynamics as dynamics
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
from .adaptive import (
    adaptive_avg_pool1d as adaptive_avg_pool1d,
    adaptive_avg_pool2d as adaptive_avg_pool2d,
    adaptive_max_pool1d as adaptive_max_pool1d,
    adaptive_max_pool2d as adaptive_max_pool2d,
)
from .attention import (
    additive_attention as additive_attention,
    bilinear_attention as bilinear_attention,
    multi_head_attention as multi_head_attention,
)
from .binary import (
    binary_cross_entropy as binary_cross_entropy,
    binary_cross_entropy_with_logits as binary_cross_entropy_with_logits,
    multilabel_soft_margin_loss as multilabel_soft_margin_loss,
)
from .conv import (
    conv1d as conv1d,
    conv2d as conv2d,
    conv_transpose1d as conv_transpose1d,
    conv_transpose2d as conv_transpose2d,
)
from .ctc import ctc_loss as ctc_loss
from .ctc_decoding import (
    collapse as collapse,
    ctc_beam_search as ctc_beam_search,
    ctc_greedy_decode as ctc_greedy_decode,
    edit_distance as edit_distance,
    label_error_rate as label_error_rate,
)
from .dropout import (
    dropout as dropout,
    dropout1d as dropout1d,
    dropout2d as dropout2d,
    variational_dropout as variational_dropout,
)
from .linear import bilinear as bilinear, embedding as embedding, linear as linear
from .loss import cross_entropy as cross_entropy, kl_div as kl_div, nll_loss as nll_loss
from .norm import batch_norm as batch_norm, group_norm as group_norm, layer_norm as layer_norm, rms_norm as rms_norm
from .over_time import over_time as over_time
from .pooling import (
    avg_pool1d as avg_pool1d,
    avg_pool2d as avg_pool2d,
    max_pool1d as max_pool1d,
    max_pool2d as max_pool2d,
)
from .regression import (
    gaussian_nll_loss as gaussian_nll_loss,
    huber_loss as huber_loss,
    l1_loss as l1_loss,
    mse_loss as mse_loss,
    poisson_nll_loss as poisson_nll_loss,
    smooth_l1_loss as smooth_l1_loss,
)
from .position import sinusoidal_positions as sinusoidal_positions
from .lstm import (
    LSTMGates as LSTMGates, LSTMGradients as LSTMGradients, PeepholeLSTMGradients as PeepholeLSTMGradients,
    coupled_lstm_step as coupled_lstm_step, lstm_bptt as lstm_bptt, lstm_step as lstm_step, peephole_lstm_bptt as peephole_lstm_bptt,
    peephole_lstm_step as peephole_lstm_step,
)  # fmt: skip
from .gru import (
    GRUGates as GRUGates, GRUGradients as GRUGradients, gru_bptt as gru_bptt, gru_reset_before_bptt as gru_reset_before_bptt,
    gru_reset_before_step as gru_reset_before_step, gru_step as gru_step,
)  # fmt: skip
from .taps import narx_step as narx_step, taps_step as taps_step
from .rnn import RNNGradients as RNNGradients, rnn_bptt as rnn_bptt, rnn_step as rnn_step
from .scaled_dot_product import scaled_dot_product_attention as scaled_dot_product_attention
from .similarity import (
    cosine_embedding_loss as cosine_embedding_loss,
    cosine_similarity as cosine_similarity,
    hinge_embedding_loss as hinge_embedding_loss,
    margin_ranking_loss as margin_ranking_loss,
    multi_margin_loss as multi_margin_loss,
    multilabel_margin_loss as multilabel_margin_loss,
    soft_margin_loss as soft_margin_loss,
    triplet_margin_loss as triplet_margin_loss,
)
from .softmax import log_softmax as log_softmax, softmax as softmax
from .upsample import interpolate as interpolate

_twins.speak(_sys.modules[__name__])
_twins.speak(dynamics)


def __getattr__(name: str) -> _typing.NoReturn:
    _twins.no_such_layer(name, _sys.modules[__name__])
