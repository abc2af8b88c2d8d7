"""tinygrad_seq: sequence models whose computational graph has time in it, differentiated and drawn unfolded.

    import tinygrad_seq as tg

Arrays and their ops follow NumPy's names (`tg.concatenate`, `axis=`, `keepdims=`), layers and optimizers PyTorch's (`tg.nn.Linear`,
`tg.optim.Adam`). Ops take bare arrays as well as Tensors: arrays in, array out; a Tensor among them, a Tensor out.
"""

import importlib as _importlib
import sys as _sys
import types as _types
import typing as _typing

from numpy import (
    bool_ as bool_, float16 as float16, float32 as float32, float64 as float64, inf as inf, int8 as int8, int16 as int16, int32 as int32,
    int64 as int64, nan as nan, newaxis as newaxis, pi as pi, uint8 as uint8,
)  # fmt: skip

# Nothing is imported here that `import numpy` does not pay for already: the layers and the readers come when they are first asked for.
from . import errors as errors, twins as _twins
from .tensor import Tensor as Tensor  # first: it teaches the ops to explain wrong calls
from .autodiff import Step as Step, backward as backward, grad as grad, steps_of_backward as steps_of_backward
from .errors import TinygradError as TinygradError
from .frames import (
    Frame as Frame, detect_anomaly as detect_anomaly, enable_grad as enable_grad, frame as frame, no_grad as no_grad, scan_target as scan_target,
    steps as steps, unfolded as unfolded,
)  # fmt: skip
from .graph import toposort as toposort
from .primitives import backward_of as backward_of, defvjp as defvjp, primitive as primitive
from .ops import (
    abs as abs, add as add, all as all, any as any, arccos as arccos, arccosh as arccosh, arcsin as arcsin, arcsinh as arcsinh,
    arctan as arctan, arctan2 as arctan2, arctanh as arctanh, argmax as argmax, argmin as argmin, argsort as argsort,
    array_split as array_split, astype as astype, broadcast_to as broadcast_to, ceil as ceil, clip as clip,
    concatenate as concatenate, copy as copy, cos as cos, cosh as cosh, cumprod as cumprod, cumsum as cumsum, diag as diag,
    diagonal as diagonal, divide as divide, dot as dot, einsum as einsum, equal as equal, erf as erf, exp as exp, exp2 as exp2,
    expand_dims as expand_dims, expm1 as expm1, flip as flip, floor as floor, floor_divide as floor_divide, fmax as fmax,
    fmin as fmin, greater as greater, greater_equal as greater_equal, hypot as hypot, index_add as index_add,
    index_put as index_put, inner as inner, isfinite as isfinite, isinf as isinf, isnan as isnan, less as less,
    less_equal as less_equal, log as log, log10 as log10, log1p as log1p, log2 as log2, logaddexp as logaddexp,
    logical_and as logical_and, logical_not as logical_not, logical_or as logical_or, logical_xor as logical_xor,
    logsumexp as logsumexp, masked_fill as masked_fill, matmul as matmul, max as max, maximum as maximum, mean as mean,
    median as median, min as min, minimum as minimum, moveaxis as moveaxis, multiply as multiply, negative as negative,
    not_equal as not_equal, one_hot as one_hot, outer as outer, pad as pad, power as power, prod as prod, ravel as ravel,
    reciprocal as reciprocal, remainder as remainder, repeat as repeat, reshape as reshape, roll as roll, round as round,
    sigmoid as sigmoid, sign as sign, sin as sin, sinh as sinh, sort as sort, split as split, sqrt as sqrt, square as square,
    squeeze as squeeze, stack as stack, std as std, subtract as subtract, sum as sum, swapaxes as swapaxes, take as take,
    take_along_axis as take_along_axis, tan as tan, tanh as tanh, tensordot as tensordot, tile as tile, topk as topk,
    trace as trace, transpose as transpose, tril as tril, triu as triu, trunc as trunc, unstack as unstack, var as var,
    where as where,
)  # fmt: skip
from .ops import linalg as linalg
from .ops.broadcast import elementwise as elementwise
from . import random as random
from .random import seed as seed
from .creation import (
    arange as arange, asarray as asarray, eye as eye, from_dlpack as from_dlpack, full as full, full_like as full_like,
    linspace as linspace, ones as ones, ones_like as ones_like, tensor as tensor, zeros as zeros, zeros_like as zeros_like,
)  # fmt: skip
from .transforms import (
    hessian as hessian, hvp as hvp, jacobian as jacobian, jvp as jvp, vjp as vjp,
)  # fmt: skip
from .fusion import fused as fused
from .recomputation import recompute as recompute
from .scan import scan as scan

del globals()["compile"]  # the passes are for reading; who asks for tg.compile is told that time loops are compiled without asking

__version__ = "0.1.0"

if _typing.TYPE_CHECKING:
    from . import bptt as bptt, data as data, io as io, nn as nn, optim as optim, testing as testing, training as training
    from . import plot as plot, viz as viz
    from .explain import compile_scan as compile_scan, explain_compile as explain_compile
    from .io import load as load, save as save
    from .viz import draw as draw

_LAZY = {  # name -> its module
    "bptt": "bptt", "compile_scan": "explain", "data": "data", "draw": "viz", "explain_compile": "explain", "io": "io", "load": "io",
    "nn": "nn", "optim": "optim", "plot": "plot", "save": "io", "testing": "testing", "training": "training", "viz": "viz",
}  # fmt: skip
_NAMESPACES = ("errors", "linalg", "random")  # modules that users call into; the others are for reading


def __getattr__(name: str) -> _typing.Any:
    home = _LAZY.get(name)
    if home is None:
        _twins.no_such_function(name, _sys.modules[__name__])
    module = _importlib.import_module(f"{__name__}.{home}")
    globals()[name] = found = module if name == home else getattr(module, name)
    return found


def __dir__() -> list[str]:
    public = {name for name, value in globals().items() if name[0] != "_" and not isinstance(value, _types.ModuleType)}
    return sorted({*public, *_NAMESPACES, *_LAZY, "__version__"})


for _module in (_sys.modules[__name__], random):
    _twins.speak(_module)
