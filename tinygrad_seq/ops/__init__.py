"""Every op by topic; each file states a formula and, beneath it, its derivative.

Ops take raw arrays as well as Tensors: arrays in, array out; a Tensor among them, a Tensor out.
"""

# fmt: off
from . import linalg as linalg
from .broadcast import broadcast_to as broadcast_to, sum_to as sum_to
from .comparison import (
    equal as equal, greater as greater, greater_equal as greater_equal, isfinite as isfinite, isinf as isinf, isnan as isnan,
    less as less, less_equal as less_equal, logical_and as logical_and, logical_not as logical_not, logical_or as logical_or,
    logical_xor as logical_xor, not_equal as not_equal,
)
from .einsum import einsum as einsum
from .elementwise import (
    add as add, arccos as arccos, arccosh as arccosh, arcsin as arcsin, arcsinh as arcsinh, arctan as arctan, arctan2 as arctan2,
    arctanh as arctanh, cos as cos, cosh as cosh, divide as divide, erf as erf, exp as exp, exp2 as exp2, expm1 as expm1,
    hypot as hypot, log as log, log1p as log1p, log2 as log2, log10 as log10, logaddexp as logaddexp, multiply as multiply,
    negative as negative, power as power, reciprocal as reciprocal, remainder as remainder, sigmoid as sigmoid, sin as sin,
    sinh as sinh, sqrt as sqrt, square as square, subtract as subtract, tan as tan, tanh as tanh,
)
from .indexing import (
    argsort as argsort, getitem as getitem, index_add as index_add, index_put as index_put, masked_fill as masked_fill,
    one_hot as one_hot, sort as sort, take as take, take_along_axis as take_along_axis, topk as topk, write as write,
)
from .joining import (
    array_split as array_split, concatenate as concatenate, split as split, stack as stack, unstack as unstack,
)
from .piecewise import (
    abs as abs, ceil as ceil, clip as clip, floor as floor, floor_divide as floor_divide, fmax as fmax, fmin as fmin,
    maximum as maximum, minimum as minimum, round as round, sign as sign, trunc as trunc, where as where,
)
from .products import dot as dot, inner as inner, matmul as matmul, outer as outer, tensordot as tensordot, trace as trace
from .reduction import (
    all as all, any as any, argmax as argmax, argmin as argmin, cumprod as cumprod, cumsum as cumsum, logsumexp as logsumexp,
    max as max, mean as mean, median as median, min as min, prod as prod, std as std, sum as sum, var as var,
)
from .shaping import (
    astype as astype, copy as copy, diag as diag, diagonal as diagonal, expand_dims as expand_dims, flip as flip,
    moveaxis as moveaxis, pad as pad, ravel as ravel, repeat as repeat, reshape as reshape, roll as roll, squeeze as squeeze,
    swapaxes as swapaxes, tile as tile, to_device as to_device, transpose as transpose, tril as tril, triu as triu,
)
