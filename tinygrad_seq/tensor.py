"""Tensor: an array that remembers how it was made. One table of operators and methods; every formula stands in `ops`."""

# mypy: disable-error-code="no-any-return"
# (an op returns what it was given, arrays or Tensors; here it was given a Tensor)

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from . import autodiff, backend, guards, ops, twins
from .conversion import to_array
from .errors import ArgumentError, GraphError, InPlaceError, describe, message
from .frames import thread
from .graph import Note, Value, box, leaf, raw, require_recorded
from .ops.indexing import getitem
from .ops.reduction import Axis


class Hook:
    """What `register_hook` returns: `remove()` takes the hook off again."""

    def __init__(self, note: Note, number: int):
        self._note, self._number = note, number

    def remove(self) -> None:
        """Take the hook off; a second time does nothing."""
        self._note.hooks.pop(self._number, None)


class Tensor(Value):
    """An n-dimensional array that records what is computed from it and differentiates it in reverse.

    data: a number, a (nested) list, an array or a Tensor; it is copied. Python floats become float32, an array keeps its dtype.
    requires_grad: whether `backward` computes its gradient, which then is in `.grad`.
    """

    __slots__ = ()

    def __init__(
        self,
        data: Any,
        dtype: Any = None,
        *,
        device: str | None = None,
        requires_grad: bool = False,
        name: str | None = None,
    ):
        array = to_array(data, dtype, copy=True)
        self._data = array if device is None else backend.to_device(array, device)
        self.node = None
        if requires_grad:
            self.requires_grad_()
        if name is not None:
            self.name = name

    # ---- What it is ------------------------------------------------------------------------------------------------------------

    @property
    def data(self) -> Any:
        """The numbers, as a read-only view: the tape may need them. Change them through the Tensor: `x[...] = v` in no_grad()."""
        guards.numbers_read(self)
        return _read_only(self._data)

    @property
    def shape(self) -> tuple[int, ...]:
        """The length of each axis."""
        return self._data.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of its numbers."""
        return self._data.dtype

    @property
    def ndim(self) -> int:
        """How many axes."""
        return self._data.ndim

    @property
    def size(self) -> int:
        """How many numbers."""
        return twins.Count(self._data.size)

    @property
    def nbytes(self) -> int:
        """How many bytes they take."""
        return int(self._data.nbytes)

    @property
    def device(self) -> str:
        """Where they are: 'cpu', 'cuda:0', ..."""
        return backend.device_of(self._data)

    @property
    def op(self) -> str | None:
        """The name of the op that made it; None for a leaf or a constant."""
        return self.node.prim.name if self.node is not None and self.node.prim is not None else None

    @property
    def is_leaf(self) -> bool:
        """Whether no recorded op made it."""
        return self.node is None or self.node.prim is None

    # ---- Gradients -------------------------------------------------------------------------------------------------------------

    @property
    def requires_grad(self) -> bool:
        """Whether a gradient can be asked of it: a leaf that wants one, or computed from such a leaf."""
        return self.node is not None

    @requires_grad.setter
    def requires_grad(self, flag: bool) -> None:
        self.requires_grad_(flag)

    def requires_grad_(self, flag: bool = True) -> Tensor:
        """Ask for its gradient from now on, or no longer. Only of a leaf, and only of floating-point numbers."""
        if not self.is_leaf:
            if flag:
                return self
            raise GraphError(
                message(f"requires_grad_(False): this tensor was computed by {self.op}", expected="a leaf", do="use x.detach()")
            )
        if flag and self.node is None:
            if self.dtype.kind != "f":
                raise ArgumentError(
                    message(
                        f"requires_grad: {describe(self._data)} has no gradient",
                        expected="floating-point numbers",
                        do="x.astype('float32')",
                    )
                )
            name = self.name
            self.node = leaf(self._data)
            self.name = name
        elif not flag and self.node is not None:
            name = self.name
            self.node = None
            self.name = name
        return self

    @property
    def grad(self) -> Tensor | None:
        """What `backward` has added up for it: of a leaf, or of any tensor after `retain_grad()`; None before."""
        node = self.node
        return None if node is None or node.notes is None else node.notes_of(self.index).grad

    @grad.setter
    def grad(self, value: Any) -> None:
        node = self.node or require_recorded(self, "grad")
        if value is not None:
            value = value if isinstance(value, Tensor) else Tensor(value, self.dtype)
            autodiff.check_cotangent("grad", value, self._data)
        node.note(self.index).grad = value

    def backward(self, gradient: Any = None, *, create_graph: bool = False) -> None:
        """Add the derivative of this tensor to the `.grad` of every leaf it depends on. See `autodiff.backward`."""
        autodiff.backward(self, gradient, create_graph=create_graph)

    def retain_grad(self) -> Tensor:
        """Keep the gradient of this intermediate tensor too, in its `.grad`."""
        require_recorded(self, "retain_grad").note(self.index).keep = True
        return self

    def register_hook(self, hook: Callable[[Tensor], Tensor | None]) -> Hook:
        """Call `hook` with the complete gradient of this tensor whenever it is computed; what it returns replaces it."""
        if not callable(hook):
            raise ArgumentError(message(f"register_hook: {describe(hook)} is no function", expected="a function of the gradient"))
        note = require_recorded(self, "register_hook").note(self.index)
        number = max(note.hooks, default=0) + 1
        note.hooks[number] = hook
        return Hook(note, number)

    def detach(self) -> Tensor:
        """The same numbers (shared) as a constant: no gradient flows through it."""
        guards.numbers_read(self, detached=True)
        return box(self._data, None)

    # ---- Conversions -----------------------------------------------------------------------------------------------------------

    def numpy(self) -> np.ndarray[Any, Any]:
        """The numbers as a read-only NumPy array, copied from the device where they are on one."""
        guards.numbers_read(self)
        return _read_only(backend.to_numpy(self._data))

    def item(self) -> Any:
        """The one number as a Python number."""
        if self.size != 1:
            raise ArgumentError(
                message(f"item: {describe(self._data)} has {self.size} numbers", expected="one", do="use .tolist()")
            )
        guards.numbers_read(self)
        return self._data.item()

    def tolist(self) -> Any:
        """The numbers as nested Python lists."""
        guards.numbers_read(self)
        return backend.to_numpy(self._data).tolist()

    def to(self, device: str | None = None, dtype: Any = None) -> Tensor:
        """The tensor on another device or in another dtype; gradients flow back to where it came from."""
        if device is not None and not isinstance(device, str):
            raise ArgumentError(
                message(f"to: {device!r} is no device", expected="'cpu', 'cuda', 'cuda:N'", do="dtypes: x.astype(dtype)")
            )
        moved = self if device is None else ops.to_device(self, device=device)
        return moved if dtype is None else moved.astype(dtype)

    def astype(self, dtype: Any) -> Tensor:
        """The numbers in another dtype. Between floating-point types the gradient passes; into others there is none."""
        return ops.astype(self, dtype)

    def copy(self) -> Tensor:
        """A copy in memory of its own; the gradient passes."""
        return ops.copy(self)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        array = self.numpy()
        if dtype is not None and array.dtype != dtype:
            if copy is False:
                raise ValueError(f"a Tensor of {array.dtype} cannot become an array of {dtype} without a copy")
            return array.astype(dtype)
        return array.copy() if copy else array

    def __dlpack__(self, *, copy: bool | None = None, **options: Any) -> Any:
        # A copy unless the consumer insists: not every library knows that memory can be read-only, and the tape needs ours unchanged.
        shared = self.data
        shared = shared if copy is False else shared.copy()
        return shared.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._data.__dlpack_device__()

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        from .interop import call_ufunc

        return call_ufunc(ufunc, method, inputs, options)

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        from .interop import call_function

        return call_function(function, args, kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        if not self.is_leaf:
            raise GraphError(
                message(
                    f"deepcopy: this tensor is part of a graph ({self.op})", expected="a leaf or a constant", do="x.detach().copy()"
                )
            )
        new = object.__new__(type(self))
        memo[id(self)] = new
        new._data = self._data.copy()
        new.node = None if self.node is None else leaf(new._data)
        new.name = self.name
        if self.grad is not None:
            new.grad = copy.deepcopy(self.grad, memo)
        return new

    def __copy__(self) -> Tensor:
        return self.__deepcopy__({})

    def __reduce__(self) -> Any:
        raise ArgumentError(
            message("pickle: a Tensor is never pickled", do="tg.save(x, path) writes a safetensors file, tg.load(path) reads it")
        )

    def __repr__(self) -> str:
        kind = type(self).__name__
        guards.numbers_read(self)
        numbers = np.array2string(backend.to_numpy(self._data), separator=", ", prefix=f"{kind}(", threshold=100)
        facts = f"shape={self.shape}, dtype={self.dtype}, device={self.device}"
        if self.name:
            facts += f", name={self.name!r}"
        if self.node is not None:
            facts += f", op={self.op}" if self.op else ", requires_grad=True"
        one_line = f"{kind}({numbers}, {facts})"
        if "\n" not in numbers and len(one_line) <= 120:
            return one_line
        return f"{kind}({numbers},\n{' ' * len(kind)} {facts})"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # asked by Python, NumPy, IPython, ... whether we follow some protocol
            raise AttributeError(name)
        twins.no_such_method(name, self, ops)

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if spec else repr(self)

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __index__(self) -> int:
        if self.dtype.kind not in "iu" or self.ndim:
            raise ArgumentError(message(f"index: {describe(self._data)} is no index", expected="an integer scalar"))
        return int(self.item())

    def __bool__(self) -> bool:
        if self.size != 1:
            raise ArgumentError(message(f"bool: {describe(self._data)} has {self.size} truth values", do="use .any() or .all()"))
        return bool(self.item())

    def __len__(self) -> int:
        if not self.ndim:
            raise ArgumentError(message("len: a scalar has no length", expected="at least one axis"))
        return int(self.shape[0])

    def __iter__(self) -> Iterator[Tensor]:
        if not self.ndim:
            raise ArgumentError(message("iteration: a scalar has no elements", expected="at least one axis"))
        return iter(ops.unstack(self))

    def __contains__(self, x: Any) -> bool:
        guards.numbers_read(self)
        return bool((self._data == (x._data if isinstance(x, Value) else x)).any())

    # ---- Indexing --------------------------------------------------------------------------------------------------------------

    def __getitem__(self, key: Any) -> Tensor:
        return getitem(self, key)

    def __setitem__(self, key: Any, value: Any) -> None:
        if self.node is not None and (self.node.prim is not None or thread.modes.record):
            what = f"was computed by {self.op}" if self.op else "requires a gradient"
            raise InPlaceError(
                message(
                    f"x[...] = v: this tensor {describe(self._data)} {what}; overwriting it would falsify its gradient",
                    do="y = tg.index_put(x, key, v) gives a new tensor with a gradient"
                    + ("" if self.op else "; to set a parameter, write inside tg.no_grad()"),
                )
            )
        ops.write(self, key, value)
        guards.wrote(self._data)

    # ---- Operators: one line each, the formula is in ops -----------------------------------------------------------------------

    # fmt: off
    def __neg__(self) -> Tensor: return ops.negative(self)
    def __pos__(self) -> Tensor: return self
    def __abs__(self) -> Tensor: return ops.abs(self)
    def __invert__(self) -> Tensor: return logic("~", ops.logical_not, self)
    def __round__(self, digits: int = 0) -> Tensor: return ops.round(self, digits)
    def __add__(self, other: Any) -> Tensor: return ops.add(self, other)
    def __radd__(self, other: Any) -> Tensor: return ops.add(other, self)
    def __sub__(self, other: Any) -> Tensor: return ops.subtract(self, other)
    def __rsub__(self, other: Any) -> Tensor: return ops.subtract(other, self)
    def __mul__(self, other: Any) -> Tensor: return ops.multiply(self, other)
    def __rmul__(self, other: Any) -> Tensor: return ops.multiply(other, self)
    def __truediv__(self, other: Any) -> Tensor: return ops.divide(self, other)
    def __rtruediv__(self, other: Any) -> Tensor: return ops.divide(other, self)
    def __floordiv__(self, other: Any) -> Tensor: return ops.floor_divide(self, other)
    def __rfloordiv__(self, other: Any) -> Tensor: return ops.floor_divide(other, self)
    def __mod__(self, other: Any) -> Tensor: return ops.remainder(self, other)
    def __rmod__(self, other: Any) -> Tensor: return ops.remainder(other, self)
    def __pow__(self, other: Any) -> Tensor: return ops.power(self, other)
    def __rpow__(self, other: Any) -> Tensor: return ops.power(other, self)
    def __matmul__(self, other: Any) -> Tensor: return ops.matmul(self, other)
    def __rmatmul__(self, other: Any) -> Tensor: return ops.matmul(other, self)
    def __eq__(self, other: Any) -> Tensor: return ops.equal(self, other)  # type: ignore[override]
    def __ne__(self, other: Any) -> Tensor: return ops.not_equal(self, other)  # type: ignore[override]
    def __lt__(self, other: Any) -> Tensor: return ops.less(self, other)
    def __le__(self, other: Any) -> Tensor: return ops.less_equal(self, other)
    def __gt__(self, other: Any) -> Tensor: return ops.greater(self, other)
    def __ge__(self, other: Any) -> Tensor: return ops.greater_equal(self, other)
    def __and__(self, other: Any) -> Tensor: return logic("&", ops.logical_and, self, other)
    def __rand__(self, other: Any) -> Tensor: return logic("&", ops.logical_and, other, self)
    def __or__(self, other: Any) -> Tensor: return logic("|", ops.logical_or, self, other)
    def __ror__(self, other: Any) -> Tensor: return logic("|", ops.logical_or, other, self)
    def __xor__(self, other: Any) -> Tensor: return logic("^", ops.logical_xor, self, other)
    def __rxor__(self, other: Any) -> Tensor: return logic("^", ops.logical_xor, other, self)
    __hash__ = Value.__hash__

    # ---- Methods: NumPy's names and arguments ------------------------------------------------------------------------------------

    @property
    def T(self) -> Tensor: return ops.transpose(self)
    @property
    def mT(self) -> Tensor: return ops.swapaxes(self, -1, -2)
    def sum(self, axis: Axis = None, keepdims: bool = False) -> Tensor: return ops.sum(self, axis=axis, keepdims=keepdims)
    def mean(self, axis: Axis = None, keepdims: bool = False) -> Tensor: return ops.mean(self, axis=axis, keepdims=keepdims)
    def prod(self, axis: Axis = None, keepdims: bool = False) -> Tensor: return ops.prod(self, axis=axis, keepdims=keepdims)
    def max(self, axis: Axis = None, keepdims: bool = False) -> Tensor: return ops.max(self, axis=axis, keepdims=keepdims)
    def min(self, axis: Axis = None, keepdims: bool = False) -> Tensor: return ops.min(self, axis=axis, keepdims=keepdims)
    def var(self, axis: Axis = None, ddof: int = 0, keepdims: bool = False) -> Tensor: return ops.var(self, axis=axis, ddof=ddof, keepdims=keepdims)
    def std(self, axis: Axis = None, ddof: int = 0, keepdims: bool = False) -> Tensor: return ops.std(self, axis=axis, ddof=ddof, keepdims=keepdims)
    def any(self, axis: Axis = None, keepdims: bool = False) -> Tensor: return ops.any(self, axis=axis, keepdims=keepdims)
    def all(self, axis: Axis = None, keepdims: bool = False) -> Tensor: return ops.all(self, axis=axis, keepdims=keepdims)
    def argmax(self, axis: int | None = None, keepdims: bool = False) -> Tensor: return ops.argmax(self, axis=axis, keepdims=keepdims)
    def argmin(self, axis: int | None = None, keepdims: bool = False) -> Tensor: return ops.argmin(self, axis=axis, keepdims=keepdims)
    def cumsum(self, axis: int | None = None) -> Tensor: return ops.cumsum(self, axis=axis)
    def cumprod(self, axis: int | None = None) -> Tensor: return ops.cumprod(self, axis=axis)
    def argsort(self, axis: int | None = -1) -> Tensor: return ops.argsort(self, axis=axis)
    def trace(self, offset: int = 0, axis1: int = 0, axis2: int = 1) -> Tensor: return ops.trace(self, offset=offset, axis1=axis1, axis2=axis2)
    def diagonal(self, offset: int = 0, axis1: int = 0, axis2: int = 1) -> Tensor: return ops.diagonal(self, offset=offset, axis1=axis1, axis2=axis2)
    def dot(self, other: Any) -> Tensor: return ops.dot(self, other)
    def reshape(self, *shape: Any) -> Tensor: return ops.reshape(self, shape=_one_tuple(shape))
    def ravel(self) -> Tensor: return ops.ravel(self)
    def flatten(self) -> Tensor: return ops.ravel(self)
    def transpose(self, *axes: Any) -> Tensor: return ops.transpose(self, axes=_one_tuple(axes) if axes else None)
    def swapaxes(self, axis1: int, axis2: int) -> Tensor: return ops.swapaxes(self, axis1=axis1, axis2=axis2)
    def squeeze(self, axis: Axis = None) -> Tensor: return ops.squeeze(self, axis=axis)
    def repeat(self, repeats: Any, axis: int | None = None) -> Tensor: return ops.repeat(self, repeats, axis=axis)
    def take(self, indices: Any, axis: int | None = None) -> Tensor: return ops.take(self, indices, axis=axis)
    def clip(self, min: Any = None, max: Any = None) -> Tensor: return ops.clip(self, min, max)
    def round(self, decimals: int = 0) -> Tensor: return ops.round(self, decimals=decimals)
    def exp(self) -> Tensor: return ops.exp(self)
    def log(self) -> Tensor: return ops.log(self)
    def sqrt(self) -> Tensor: return ops.sqrt(self)
    def square(self) -> Tensor: return ops.square(self)
    def abs(self) -> Tensor: return ops.abs(self)
    def sin(self) -> Tensor: return ops.sin(self)
    def cos(self) -> Tensor: return ops.cos(self)
    def tanh(self) -> Tensor: return ops.tanh(self)
    def sigmoid(self) -> Tensor: return ops.sigmoid(self)
    # fmt: on


# ---- Beside the table ----------------------------------------------------------------------------------------------------------


def _read_only(array: Any) -> Any:
    """A view that cannot be written to. CuPy's arrays cannot be protected: theirs is a plain view."""
    view = array.view()
    if isinstance(view, np.ndarray):
        view.setflags(write=False)
    return view


def logic(symbol: str, op: Callable[..., Any], *args: Any) -> Any:
    """The logical op that an operator stands for. Only of booleans: of integers NumPy's `&` would combine their bits."""
    for x in args:
        if getattr(x, "dtype", None) != np.dtype(bool) and not isinstance(x, bool):
            raise ArgumentError(
                message(f"{symbol}: {describe(raw(x))} is not boolean", expected="booleans", do="for example (x > 0) & (y > 0)")
            )
    return op(*args)


def _one_tuple(sizes: tuple[Any, ...]) -> Any:
    """x.reshape(2, 3) and x.reshape((2, 3)) mean the same."""
    return sizes[0] if len(sizes) == 1 and (sizes[0] is None or isinstance(sizes[0], (tuple, list))) else sizes


Value.boxes = Tensor

# In a loop over small arrays a call frame is a tenth of an operator's time: these operators are the ops themselves.
_hot = {"add": ops.add, "sub": ops.subtract, "mul": ops.multiply, "truediv": ops.divide, "matmul": ops.matmul, "getitem": getitem}
for _name, _op in _hot.items():
    setattr(Tensor, f"__{_name}__", _op)
for _namespace in (ops, ops.linalg, Tensor):
    twins.speak(_namespace)
