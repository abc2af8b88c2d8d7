"""One spelling each: what a name or keyword of PyTorch is called here, said in the error that it raises.

Arrays follow NumPy (`concatenate`, `expand_dims`, `axis=`, `keepdims=`). Knows names only, no tensors.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Collection, Mapping
from functools import wraps
from typing import Any, NoReturn, TypeVar, cast

from .errors import ArgumentError, UnknownNameError, message

F = TypeVar("F", bound=Callable[..., Any])

# ---- Names of functions and methods ---------------------------------------------------------------------------------------------

_IN_PLACE = "a new tensor: {0}; inside tg.no_grad() also x[...] = {0}"

NAMES = {  # as tg.name and as x.name
    "absolute": "tg.abs(x)", "acos": "tg.arccos(x)", "acosh": "tg.arccosh(x)", "addmm": "c + a @ b", "amax": "tg.max(x, axis)",
    "amin": "tg.min(x, axis)", "asin": "tg.arcsin(x)", "asinh": "tg.arcsinh(x)", "atan": "tg.arctan(x)", "atan2": "tg.arctan2(a, b)",
    "atanh": "tg.arctanh(x)", "baddbmm": "c + a @ b", "bmm": "a @ b", "cat": "tg.concatenate(arrays, axis)",
    "cholesky": "tg.linalg.cholesky(a)", "chunk": "tg.array_split(x, sections, axis)", "clamp": "tg.clip(x, min, max)",
    "clone": "x.copy()", "concat": "tg.concatenate(arrays, axis)", "det": "tg.linalg.det(a)", "div": "a / b",
    "eq": "a == b, or tg.equal", "expand": "tg.broadcast_to(x, shape)", "expand_as": "tg.broadcast_to(x, y.shape)",
    "fix": "tg.trunc(x)", "gather": "tg.take_along_axis(x, indices, axis)", "ge": "a >= b, or tg.greater_equal",
    "ger": "tg.outer(a, b)", "gt": "a > b, or tg.greater", "index_copy": "tg.index_put(x, key, v)",
    "index_fill": "tg.index_put(x, key, v)", "index_select": "tg.take(x, indices, axis)", "inverse": "tg.linalg.inv(a)",
    "le": "a <= b, or tg.less_equal", "log_softmax": "tg.nn.functional.log_softmax(x, axis)", "lt": "a < b, or tg.less",
    "masked_select": "x[mask]", "mm": "a @ b", "movedim": "tg.moveaxis(x, source, destination)", "mul": "a * b", "mv": "a @ b",
    "narrow": "a slice: x[start:start + length]", "ne": "a != b, or tg.not_equal", "neg": "-x", "norm": "tg.linalg.norm(x)",
    "numel": "x.size", "permute": "tg.transpose(x, axes)", "permute_dims": "tg.transpose(x, axes)", "pow": "a ** b, or tg.power",
    "relu": "tg.nn.functional.relu(x), or tg.maximum(x, 0)", "remainder_": "a % b", "rsqrt": "1 / tg.sqrt(x)",
    "scatter": "tg.index_put(x, key, v)", "scatter_add": "tg.index_add(x, key, v)", "select": "an index: x[i]",
    "slogdet": "tg.linalg.slogdet(a)", "softmax": "tg.nn.functional.softmax(x, axis)", "solve": "tg.linalg.solve(a, b)",
    "sub": "a - b", "t": "x.T", "true_divide": "a / b", "unbind": "tg.unstack(x, axis)", "unflatten": "x.reshape(shape)",
    "unsqueeze": "tg.expand_dims(x, axis), or x[None]", "view": "x.reshape(shape)", "view_as": "x.reshape(y.shape)",
}  # fmt: skip

FUNCTIONS = {  # as tg.name
    "FloatTensor": "tg.tensor(data, tg.float32)", "LongTensor": "tg.tensor(data, tg.int64)", "as_tensor": "tg.asarray(data)",
    "autograd": "tg.grad(y, x), tg.defvjp", "bool": "tg.bool_", "column_stack": "tg.stack or tg.concatenate", "compile": "leave it out",
    "cuda": "x.to('cuda')", "device": "its name: x.to('cuda')", "dstack": "tg.stack or tg.concatenate", "double": "tg.float64",
    "empty": "tg.zeros(shape)", "empty_like": "tg.zeros_like(x)", "float": "tg.float32",
    "flatten": "tg.ravel(x); x.reshape(len(x), -1) keeps the first axis", "jit": "leave it out",
    "from_numpy": "tg.tensor(array)", "full_": "tg.full(shape, value)", "half": "tg.float16", "hstack": "tg.concatenate(arrays, axis=1)",
    "inference_mode": "tg.no_grad()", "int": "tg.int32", "is_tensor": "isinstance(x, tg.Tensor)",
    "long": "tg.int64", "manual_seed": "tg.seed(value)", "multinomial": "tg.random.generator().choice(n, p=weights)",
    "rand": "tg.random.uniform(size=shape)", "randint": "tg.random.integers(low, high, size)",
    "randn": "tg.random.standard_normal(size)", "randperm": "tg.random.permutation(n)",
    "set_grad_enabled": "tg.no_grad() or tg.enable_grad()", "vstack": "tg.concatenate(arrays, axis=0)",
}  # fmt: skip

METHODS = {  # as x.name
    "add": "a + b", "add_": _IN_PLACE.format("x + y"), "argsort_": "tg.argsort(x)", "bool": "x.astype(tg.bool_)",
    "byte": "x.astype('uint8')", "clamp_": _IN_PLACE.format("tg.clip(x, min, max)"), "contiguous": "leave it out, nothing here needs it",
    "copy_": "x[...] = y inside tg.no_grad()", "cpu": "x.to('cpu')", "cuda": "x.to('cuda')", "detach_": "x = x.detach()",
    "dim": "x.ndim", "div_": _IN_PLACE.format("x / y"), "double": "x.astype(tg.float64)", "exp_": _IN_PLACE.format("tg.exp(x)"),
    "fill": "tg.full_like(x, value)", "fill_": "x[...] = value", "float": "x.astype(tg.float32)", "half": "x.astype(tg.float16)",
    "index_add_": "tg.index_add(x, key, v)", "int": "x.astype(tg.int32)", "is_cuda": "x.device", "long": "x.astype(tg.int64)",
    "masked_fill_": "tg.masked_fill(x, mask, value)", "matmul": "a @ b", "mul_": _IN_PLACE.format("x * y"), "ndimension": "x.ndim",
    "nelement": "x.size", "new_ones": "tg.ones(shape)", "new_tensor": "tg.tensor(data)", "new_zeros": "tg.zeros(shape)",
    "normal_": "x[...] = tg.random.normal(mean, std, x.shape) inside tg.no_grad()", "scatter_": "tg.index_put(x, key, v)",
    "scatter_add_": "tg.index_add(x, key, v)", "short": "x.astype('int16')", "sort": "tg.sort(x, axis)",
    "squeeze_": _IN_PLACE.format("x.squeeze()"), "sub_": _IN_PLACE.format("x - y"), "type": "x.dtype, or x.astype(dtype)",
    "type_as": "x.astype(y.dtype)", "uniform_": "x[...] = tg.random.uniform(low, high, x.shape) inside tg.no_grad()",
    "unsqueeze_": _IN_PLACE.format("x[None]"), "zero_": "x[...] = 0; a gradient: x.grad = None",
}  # fmt: skip

LAYERS = {  # as tg.nn.name, tg.nn.functional.name, tg.optim.name and tg.optim.lr_scheduler.name
    "ASGD": "tg.optim.SGD(params, lr)", "Adadelta": "tg.optim.RMSprop(params, lr)", "Adamax": "tg.optim.Adam(params, lr)",
    "ChainedScheduler": "one function: tg.optim.lr_scheduler.LambdaLR(optimizer, lambda t: f(t) * g(t))",
    "CyclicLR": "tg.optim.lr_scheduler.LambdaLR(optimizer, f), tg.optim.lr_scheduler.OneCycleLR(optimizer, max_lr, total_steps)",
    "LBFGS": "tg.optim.Adam(params, lr)", "MultiplicativeLR": "tg.optim.lr_scheduler.LambdaLR(optimizer, f)",
    "PolynomialLR": "tg.optim.lr_scheduler.LambdaLR(optimizer, lambda t: (1 - min(t, n) / n) ** power)",
    "RAdam": "tg.optim.Adam(params, lr) with a tg.optim.lr_scheduler.LinearLR as warm-up", "Rprop": "tg.optim.RMSprop(params, lr)",
    "SparseAdam": "tg.optim.Adam(params, lr): gradients are arrays here",
    "BatchNorm3d": "tg.nn.functional.batch_norm(x, mean, var, weight, bias)", "EmbeddingBag": "embedding(ids).sum(axis)",
    "Hardshrink": "tg.where(tg.abs(x) > 0.5, x, 0)", "LazyLinear": "tg.nn.Linear(in_features, out_features)",
    "PositionalEncoding": "tg.nn.SinusoidalPositions(embedding_dim)", "Softmax2d": "tg.nn.Softmax(axis=1)",
    "Threshold": "tg.where(x > threshold, x, value)", "ZeroPad1d": "tg.pad(x, pad_width)", "ZeroPad2d": "tg.pad(x, pad_width)",
    "Softmin": "tg.nn.functional.softmax(-x, axis)", "Tanhshrink": "x - tg.tanh(x)", "embedding_bag": "embedding(ids, weight).sum(axis)",
    "instance_norm": "tg.nn.functional.group_norm(x, channels)", "normalize": "x / tg.linalg.norm(x, axis=axis, keepdims=True)",
    "softmin": "tg.nn.functional.softmax(-x, axis)", "swish": "tg.nn.functional.silu(x)", "tanhshrink": "x - tg.tanh(x)",
    "InstanceNorm1d": "tg.nn.GroupNorm(channels, channels)", "InstanceNorm2d": "tg.nn.GroupNorm(channels, channels)",
    "ParameterDict": "a plain dict of parameters", "ParameterList": "a plain list of parameters",
    "RNNBase": "tg.nn.Recurrent(cell, ...)", "multi_head_attention_forward": "tg.nn.functional.multi_head_attention, tg.nn.MultiheadAttention",
    "one_hot": "tg.one_hot(ids, num_classes)",
    "pad": "tg.pad(x, pad_width)", "sigmoid": "tg.sigmoid(x)", "tanh": "tg.tanh(x)",
    "utils": "tg.optim.clip_grad_norm_(parameters, max_norm), tg.data.Loader, tg.data.pad; for packed sequences rnn(xs, lengths=lengths)",
}  # fmt: skip

KIT = {  # as tg.data.name and tg.training.name
    "BatchSampler": "tg.data.buckets(lengths, batch_size)", "DataLoader": "tg.data.Loader(data, batch_size)",
    "Dataset": "a list of items, an array, or a tuple of arrays: tg.data.Loader(data, batch_size)",
    "TensorDataset": "a tuple of arrays: tg.data.Loader((xs, ys), batch_size)", "Trainer": "tg.training.fit(model, loss, optimizer, batches)",
    "Vocab": "tg.data.Vocabulary.of(text)", "build_vocab_from_iterator": "tg.data.Vocabulary.of(text)",
    "default_collate": "tg.data.collate(items)", "pack_padded_sequence": "rnn(xs, lengths=lengths)",
    "pad_packed_sequence": "rnn(xs, lengths=lengths)", "pad_sequence": "tg.data.pad(sequences)",
    "random_split": "tg.data.split(ids, held_out), or an index: xs[tg.random.permutation(n)]",
}  # fmt: skip

MODULES = {  # as module.name
    "add_module": "setattr(module, name, layer), or a list or a dict of layers as an attribute", "bfloat16": "module.to(tg.float32)",
    "compile": "leave it out", "cpu": "module.to('cpu')", "cuda": "module.to('cuda')", "double": "module.to(tg.float64)",
    "flatten_parameters": "leave it out", "float": "module.to(tg.float32)", "get_buffer": "dict(module.named_buffers())[path]", "half": "module.to(tg.float16)",
    "register_buffer": "self.name = tg.tensor(data): a Tensor as an attribute is a buffer; as self._name it is not saved",
    "register_forward_pre_hook": "a method forward of a subclass that calls super().forward", "register_module": "self.name = layer",
    "register_full_backward_hook": "a hook of a tensor: y.register_hook(f)", "register_parameter": "self.name = nn.Parameter(data)",
    "set_submodule": "an assignment to the attribute", "to_empty": "module.to(device)", "type": "module.to(dtype)",
}  # fmt: skip


def no_such_function(name: str, module: Any) -> NoReturn:
    """Raise what `tg.name` raises for a name that is not there: it tells NumPy's name where PyTorch has another."""
    _no_such_name(f"tinygrad_seq has no {name!r}", FUNCTIONS.get(name) or NAMES.get(name) or LAYERS.get(name), name, module)


def no_such_layer(name: str, module: Any) -> NoReturn:
    """Raise what `tg.nn.name` and the like raise for a name that is not there: it tells how the same thing is written here."""
    _no_such_name(f"{module.__name__} has no {name!r}", LAYERS.get(name), name, module)


def no_such_piece(name: str, module: Any) -> NoReturn:
    """Raise what `tg.data.name` and `tg.training.name` raise for a name that is not there."""
    _no_such_name(f"{module.__name__} has no {name!r}", KIT.get(name), name, module)


def no_such_method(name: str, tensor: Any, functions: Any) -> NoReturn:
    """Raise what `x.name` raises for a name that a Tensor does not have; it may be a function, one of `functions`."""
    twin = METHODS.get(name) or NAMES.get(name)
    if twin is None and inspect.isfunction(function := getattr(functions, name, None)):
        twin = f"tg.{name}({', '.join(inspect.signature(function).parameters)})"
    _no_such_name(f"{type(tensor).__name__} has no attribute {name!r}", twin, name, tensor)


def no_such_member(name: str, module: Any) -> NoReturn:
    """Raise what `module.name` raises for a name that a Module does not have."""
    _no_such_name(f"{type(module).__name__} has no attribute {name!r}", MODULES.get(name), name, module)


def _no_such_name(headline: str, twin: str | None, name: str, owner: Any) -> NoReturn:
    raise UnknownNameError(message(headline, do=twin or ""), name=name, obj=owner)  # Python adds a likely spelling to its traceback


class Count(int):
    """How many: an int that also says what to do when it is called like PyTorch's `x.size(0)`."""

    __slots__ = ()

    def __call__(self, axis: Any = None) -> NoReturn:
        """Raise an error that names NumPy's spelling."""
        raise ArgumentError(
            message(f"size: it is a number here, {int(self)}, not a method", do="x.shape" if axis is None else f"x.shape[{axis}]")
        )


# ---- Keywords -------------------------------------------------------------------------------------------------------------------

KEYWORDS = {
    "dim": "axis", "dims": "axis", "keepdim": "keepdims", "dim0": "axis1", "dim1": "axis2", "tensors": "arrays", "unbiased": "ddof",
    "correction": "ddof", "index": "indices", "generator": "rng", "std": "scale", "mean": "loc",
}  # fmt: skip

LAYER_KEYWORDS = {  # of constructors and of what serves training
    "dim": "axis", "start_dim": "start_axis", "end_dim": "end_axis", "generator": "rng", "learning_rate": "lr",
    "batch_size": "batch", "bptt": "steps", "collate_fn": "collate", "num_workers": "prefetch", "padding_value": "value",
}  # fmt: skip

KEYWORD_ADVICE = {
    "hx": "state= is what it is called here, the second argument", "h0": "state= is what it is called here, the second argument",
    "out": "assign the result: y = ...", "where": "tg.where(mask, x, fill) first, then the op", "initial": "combine the result with it",
    "dtype": "x.astype(dtype) first", "input": "pass the arrays by position", "other": "pass the arrays by position",
    "assign": "leave it out: module.to(dtype) first where the dtypes differ", "non_blocking": "leave it out",
    "prefix": "{prefix + name: array for name, array in module.state_dict().items()}",
    "retain_graph": "leave it out: a graph lives as long as something refers to it",
    "device": "leave it out, then .to(device)", "enable_nested_tensor": "leave it out", "inplace": "leave it out: a result is a new array here",
    "max_norm": "scale the rows after a step: inside tg.no_grad() weight[...] = ...", "set_to_none": "leave it out: gradients become None",
    "pin_memory": "leave it out", "persistent_workers": "leave it out", "sparse": "leave it out: gradients are arrays", "foreach": "leave it out", "fused": "leave it out", "capturable": "leave it out",
    "scale_grad_by_freq": "scale weight.grad before a step", "remove_duplicate": "leave it out: each comes once",
}  # fmt: skip

CALL_ADVICE = {"flatten": "x.reshape(len(x), -1) keeps the first axis"}  # where a method of PyTorch takes more arguments


def advice(keyword: str, among: Collection[str] = KEYWORDS.values()) -> str:
    """What to write in place of a keyword that does not exist, `among` those that do; nothing where there is nothing to say."""
    ours = LAYER_KEYWORDS.get(keyword) or KEYWORDS.get(keyword)
    return KEYWORD_ADVICE.get(keyword) or (f"{keyword}= is called {ours}= here" if ours in among else "")


def likely(name: str, among: Collection[str]) -> str:
    """The one of the names that this one may be a misspelling of, as advice; nothing where none is near."""
    from difflib import get_close_matches

    return "".join(f"did you mean {near!r}?" for near in get_close_matches(name, among, 1, 0.75))


def wrong_call(f: Callable[..., Any], keywords: Mapping[str, Any], cause: Exception, name: str = "") -> ArgumentError:
    """The error for a call that does not fit the signature of `f`, which the user knows as `name`."""
    name = name or f.__name__.lstrip("_")
    parameters = inspect.signature(f).parameters
    unknown = [k for k in keywords if k not in parameters]
    problem = f"no argument {unknown[0]!r}" if unknown else str(cause).rpartition("()")[2].strip()
    if ("self" in parameters or f.__name__ in ("__init__", "forward")) and " but " in problem and not unknown:
        takes, _, came = problem.partition(" but ")
        limits, got = (" to ".join(str(int(n) - 1) for n in re.findall(r"\d+", text)) for text in (takes, came.partition("(")[0]))
        problem = f"takes {limits} arguments by position, got {got}"  # Python counts self
    names = ", ".join(_as_written(p) for p in parameters.values() if p.name != "self")
    do = advice(unknown[0], parameters) or likely(unknown[0], parameters) if unknown else CALL_ADVICE.get(name, "")
    return ArgumentError(message(f"{name}: {problem}", expected=f"{name}({names})", do=do))


def _as_written(p: inspect.Parameter) -> str:
    stars = "*" if p.kind is p.VAR_POSITIONAL else "**" if p.kind is p.VAR_KEYWORD else ""
    default = "" if p.default is p.empty else f"={p.default!r}" if isinstance(p.default, str) else f"={p.default}"
    return stars + p.name + default


def is_wrong_call(cause: Exception) -> bool:
    """Whether the call did not fit the signature: the error arose in the frame that made it, which now handles it."""
    return type(cause) is TypeError and cause.__traceback__ is not None and cause.__traceback__.tb_next is None


def speak(namespace: Any, *, idle: bool = False) -> None:
    """Make wrong calls of the public functions of a module, or methods of a class, raise our error instead of Python's.

    A primitive explains its own wrong calls, and who takes nothing needs no explanation; with `idle` it gets one nevertheless.
    """
    for name, f in list(vars(namespace).items()):
        if not inspect.isfunction(f) or name[0] == "_" or not f.__module__.startswith(__package__):
            continue
        takes = idle or name in CALL_ADVICE or f.__code__.co_argcount + f.__code__.co_kwonlyargcount > inspect.isclass(namespace)
        if takes and not hasattr(f, "primitive") and not hasattr(f, "__wrapped__"):
            setattr(namespace, name, _spoken(f))


def speak_when_made(namespace: Any) -> None:
    """Make wrong calls of the constructors of a module's public classes raise our error instead of Python's."""
    for name, cls in list(vars(namespace).items()):
        if (
            name[0] == "_"
            or not inspect.isclass(cls)
            or not cls.__module__.startswith(__package__)
            or cls.__new__ is not object.__new__
        ):
            continue
        home = next(c for c in cls.__mro__ if "__init__" in vars(c))
        if home is object and len(cls.__mro__) > 2:  # a base of all, which others may stand beside, takes what they take
            type.__setattr__(cls, "__init__", _spoken_constructor(_nothing_to_do))
        elif home.__module__.startswith(__package__) and not hasattr(vars(home)["__init__"], "__wrapped__"):
            type.__setattr__(home, "__init__", _spoken_constructor(vars(home)["__init__"]))


def _nothing_to_do(self: Any) -> None:
    """Construct what takes no arguments."""


_nothing_to_do.__name__ = "__init__"


def _spoken_constructor(f: F) -> F:
    @wraps(f)
    def call(self: Any, *args: Any, **keywords: Any) -> None:
        try:
            f(self, *args, **keywords)
        except TypeError as cause:
            if is_wrong_call(cause):
                own = type(self).__init__ is call or f is _nothing_to_do
                raise wrong_call(f, keywords, cause, type(self).__name__ if own else f.__qualname__.rpartition(".")[0]) from None
            raise

    return cast(F, call)


def _spoken(f: F) -> F:
    @wraps(f)
    def call(*args: Any, **keywords: Any) -> Any:
        try:
            return f(*args, **keywords)
        except TypeError as cause:
            if is_wrong_call(cause):
                raise wrong_call(f, keywords, cause) from None
            raise

    return cast(F, call)
