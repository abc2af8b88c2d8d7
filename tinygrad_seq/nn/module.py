"""Module: parameters, buffers and submodules, found by walking the attributes of an object.

    class Net(Module):
        def __init__(self):
            self.layers = [Linear(4, 8), Linear(8, 2)]      # lists, tuples and dicts are walked too

        def forward(self, x): ...

No base `__init__` to call, nothing registers itself: what `vars(self)` holds is what there is, in the order of assignment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from reprlib import recursive_repr
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from .. import backend, twins
from ..conversion import to_dtype
from ..errors import ArgumentError, UnknownNameError, describe, message
from ..frames import Frame, frame, thread
from ..graph import leaf
from ..tensor import Tensor
from .state import Mismatch, load

if TYPE_CHECKING:
    from .summary import Summary

M = TypeVar("M", bound="Module")


class Parameter(Tensor):
    """A Tensor that a module learns: assigned to an attribute, it is found by `parameters()`; it requires a gradient unless told."""

    __slots__ = ()

    def __init__(self, data: Any, dtype: Any = None, *, requires_grad: bool = True, name: str | None = None):
        super().__init__(data, dtype, requires_grad=requires_grad, name=name)

    def _become(self, values: Tensor) -> Parameter:
        """Take these values and stay the same object, which modules and optimizers know: p -= lr * p.grad inside tg.no_grad()."""
        self[...] = values
        return self

    # fmt: off
    def __iadd__(self, other: Any) -> Parameter: return self._become(self + other)
    def __isub__(self, other: Any) -> Parameter: return self._become(self - other)
    def __imul__(self, other: Any) -> Parameter: return self._become(self * other)
    def __itruediv__(self, other: Any) -> Parameter: return self._become(self / other)
    # fmt: on


class Module:
    """What owns parameters and has a `forward`. Calling it runs `forward` in a frame of its own on the tape.

    A Parameter among its attributes is learned; any other Tensor is a buffer, which moves and is saved with the module but is not
    learned (a leading underscore in its name keeps it from being saved); attributes may be lists, tuples and dicts of these.
    """

    training: bool = True
    _named: bool = False
    _hooks: Mapping[int, Callable[..., Any]] = MappingProxyType({})

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Compute the output. A subclass states it."""
        raise NotImplementedError(
            message(f"{type(self).__name__} has no forward", do="define forward(self, ...), then call the module")
        )

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not self._named:
            self._name_parameters()
        with frame(self):
            try:
                y = self.forward(*args, **kwargs)
            except TypeError as cause:
                if twins.is_wrong_call(cause):
                    raise twins.wrong_call(self.forward, kwargs, cause, type(self).__name__) from None
                raise
            for hook in self._hooks.values() if self._hooks else ():
                replaced = hook(self, args, y)
                y = y if replaced is None else replaced
            return y

    def _name_parameters(self) -> None:
        """On its first call from outside any module, a module names its parameters, so that errors and drawings can."""
        at: Frame | None = thread.modes.frame
        while at is not None:
            if isinstance(at.owner, Module):
                return
            at = at.parent
        self._named = True
        for name, p in self.named_parameters():
            if p.name is None:
                p.name = name

    # ---- What it holds ---------------------------------------------------------------------------------------------------------

    def named_parameters(self, *, recurse: bool = True) -> Iterator[tuple[str, Parameter]]:
        """Each parameter once, with its dotted path: "rnn.weight_hh_l0", "layers.0.bias". recurse=False: those of no module within."""
        return ((path, found) for path, found in _walk(self, deep=recurse) if isinstance(found, Parameter))

    def parameters(self, recurse: bool = True) -> Iterator[Parameter]:
        """Each parameter once; one that is used in two places is one parameter."""
        return (p for _, p in self.named_parameters(recurse=recurse))

    def named_buffers(self, *, recurse: bool = True) -> Iterator[tuple[str, Tensor]]:
        """Each Tensor that the module keeps but does not learn. Results that a module stored for a look later are no buffers."""
        return ((path, found) for path, found in _walk(self, deep=recurse) if _is_buffer(found))

    def buffers(self, recurse: bool = True) -> Iterator[Tensor]:
        """Each buffer once."""
        return (b for _, b in self.named_buffers(recurse=recurse))

    def named_modules(self) -> Iterator[tuple[str, Module]]:
        """The module itself (its path is "") and each module within, outer before inner."""
        yield "", self
        yield from ((path, found) for path, found in _walk(self) if isinstance(found, Module))

    def modules(self) -> Iterator[Module]:
        """The module itself and each module within, outer before inner."""
        return (m for _, m in self.named_modules())

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """Each module that stands directly in this one, or in a list or dict of it."""
        return ((path, found) for path, found in _walk(self, deep=False) if isinstance(found, Module))

    def children(self) -> Iterator[Module]:
        """Each module that stands directly in this one, or in a list or dict of it."""
        return (m for _, m in self.named_children())

    def get_submodule(self, path: str) -> Any:
        """The module at a dotted path such as "encoder.layers.0"; the module itself at ""."""
        return self if path == "" else self._at(path, Module)

    def get_parameter(self, path: str) -> Parameter:
        """The parameter at a dotted path such as "rnn.weight_hh_l0"."""
        found: Parameter = self._at(path, Parameter)
        return found

    def _at(self, path: str, kind: type) -> Any:
        known = {at: found for at, found in _walk(self, again=True) if isinstance(found, kind)}
        if path not in known:
            headline = f"{type(self).__name__} has no {kind.__name__.lower()} {path!r}"
            raise UnknownNameError(message(headline, do=twins.likely(path, known)), name=path, obj=self)
        return known[path]

    # ---- Saving and loading ------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, np.ndarray[Any, Any]]:
        """A snapshot of every parameter and saved buffer by its path: NumPy arrays, copied, so training on does not change them.

        A parameter that stands in two places appears under both paths as one array, as in PyTorch.
        """
        saved = list(self._saved())
        copies = {id(t): backend.to_numpy(t._data).copy() for _, t in saved}
        return {path: copies[id(t)] for path, t in saved}

    def load_state_dict(self, state: Mapping[str, Any], strict: bool = True) -> Mismatch:
        """Write the arrays of `state` (NumPy's, PyTorch's or Tensors, of any float dtype) into the parameters and buffers.

        Nothing changes unless everything fits. strict=False: names that only one side has are passed over, and returned.
        """
        return load(type(self).__name__, dict(self._saved()), state, strict)

    def _saved(self) -> Iterator[tuple[str, Tensor]]:
        for path, found in _walk(self, again=True):
            if isinstance(found, Parameter) or (_is_buffer(found) and not path.rpartition(".")[2].startswith("_")):
                yield path, found

    # ---- Changing all of it --------------------------------------------------------------------------------------------------------

    def train(self: M, mode: bool = True) -> M:
        """Set `training` here and in every module within: what behaves differently while learning (dropout) asks it."""
        for module in self.modules():
            module.training = mode
        return self

    def eval(self: M) -> M:
        """Leave training mode: `train(False)`."""
        return self.train(False)

    def requires_grad_(self: M, flag: bool = True) -> M:
        """Learn all parameters from now on, or freeze them."""
        for p in self.parameters():
            p.requires_grad_(flag)
        return self

    def zero_grad(self) -> None:
        """Forget the gradients of all parameters."""
        for p in self.parameters():
            if p.requires_grad:
                p.grad = None

    def to(self: M, device: Any = None, dtype: Any = None) -> M:
        """Move parameters and buffers to a device, or change the dtype of those that hold floating-point numbers, in place.

            model.to("cuda")      model.to("float64")      model.to("cuda", tg.float32)

        The parameters stay the same objects, so an optimizer keeps them; graphs recorded before keep the old numbers.
        """
        device, dtype = _device_and_dtype(device, dtype)
        for _, found in _walk(self):
            if isinstance(found, Parameter) or _is_buffer(found):
                array = found._data if device is None else backend.to_device(found._data, device)
                if dtype is not None and array.dtype.kind == "f":
                    array = array.astype(dtype, copy=False)
                _replace_data(found, array)
        return self

    def apply(self: M, f: Callable[[Module], Any]) -> M:
        """Call `f` with every module, inner before outer: to initialise them your way, for example."""
        if not callable(f):
            raise ArgumentError(message(f"apply: {describe(f)} is no function", expected="f(module)"))
        for module in _inner_first(self, set()):
            f(module)
        return self

    def register_forward_hook(self, hook: Callable[[Module, tuple[Any, ...], Any], Any]) -> ForwardHook:
        """Call `hook(module, arguments, output)` after every forward; what it returns, unless None, replaces the output."""
        if not callable(hook):
            raise ArgumentError(
                message(f"register_forward_hook: {describe(hook)} is no function", expected="hook(module, args, output)")
            )
        number = max(self._hooks, default=0) + 1
        self._hooks = {**self._hooks, number: hook}
        return ForwardHook(self, number)

    # ---- How it prints -------------------------------------------------------------------------------------------------------------

    def extra_repr(self) -> str:
        """What stands in the parentheses of the repr: the sizes that the module was made with."""
        return ""

    def summary(self, *inputs: Any, **keywords: Any) -> Summary:
        """A table of the modules within: what each returned for these inputs, and how many parameters it has.

        Runs forward once, in evaluation mode and unrecorded, and leaves everything as it was: flags, buffers, attributes, random
        numbers. Without inputs the table tells no shapes.
        """
        from .summary import summarize

        return summarize(self, inputs, keywords)

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            if not hasattr(type(self), name):
                twins.no_such_member(name, self)
            return object.__getattribute__(self, name)  # a property that failed: its own error

    @recursive_repr()
    def __repr__(self) -> str:
        head = f"{type(self).__name__}({self.extra_repr()}"
        lines = [f"  ({path}): {found!r}".replace("\n", "\n  ") for path, found in self.named_children()]
        return "\n".join([head, *lines, ")"]) if lines else head + ")"


class ForwardHook:
    """A registered hook: `remove()` takes it away."""

    def __init__(self, module: Module, number: int):
        self.module, self.number = module, number

    def remove(self) -> None:
        """Do not call the hook any more."""
        self.module._hooks = {n: hook for n, hook in self.module._hooks.items() if n != self.number}


def _walk(root: Module, *, again: bool = False, deep: bool = True) -> Iterator[tuple[str, Any]]:
    """Each Tensor and Module within `root` with its dotted path, in the order of assignment, an outer module before its inner ones.

    What stands in several places comes once, with again=True each time; deep=False does not enter the modules found.
    """
    return _within(root, "", {id(root)}, again, deep)


def _within(holder: Any, prefix: str, seen: set[int], again: bool, deep: bool) -> Iterator[tuple[str, Any]]:
    for key, item in _parts(holder):
        if not isinstance(item, (Tensor, Module, Mapping, list, tuple)) or id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, (Tensor, Module)):
            yield f"{prefix}{key}", item
        if deep or not isinstance(item, Module):
            yield from _within(item, f"{prefix}{key}.", seen, again, deep)
        if again:  # then only what holds the item itself counts as seen: no walk in circles
            seen.discard(id(item))


def _inner_first(module: Module, seen: set[int]) -> Iterator[Module]:
    seen.add(id(module))
    for child in module.children():
        if id(child) not in seen:
            yield from _inner_first(child, seen)
    yield module


def _parts(holder: Any) -> Iterable[tuple[Any, Any]]:
    if isinstance(holder, Module):
        return vars(holder).items()
    if isinstance(holder, Mapping):
        return holder.items()
    return enumerate(holder) if isinstance(holder, (list, tuple)) else ()


def _is_buffer(found: Any) -> bool:
    return isinstance(found, Tensor) and not isinstance(found, Parameter) and found.is_leaf


def _replace_data(t: Tensor, array: Any) -> None:
    """Give a leaf another array and with it a new place on the tape; name, hooks and gradient stay."""
    if array is t._data:
        return
    if t.node is not None:
        notes, t.node = t.node.notes, leaf(array)
        t.node.notes = notes
        if t.grad is not None:
            moved = backend.to_device(t.grad._data, backend.device_of(array)).astype(array.dtype, copy=False)
            t.node.note().grad = Tensor(moved)
    t._data = array


def _device_and_dtype(device: Any, dtype: Any) -> tuple[str | None, Any]:
    """What `to(device, dtype)` was given; a dtype may stand alone."""
    if device is not None and not (isinstance(device, str) and device.partition(":")[0] in {"cuda", *backend.devices()}):
        try:
            device, dtype = None, to_dtype(device, "to")
        except ArgumentError:
            expected = "'cpu', 'cuda', 'cuda:1', ..., or 'float32', tg.float64, ..."
            raise ArgumentError(message(f"to: {device!r} is neither a device nor a dtype", expected=expected)) from None
    if dtype is not None and to_dtype(dtype, "to").kind != "f":
        raise ArgumentError(message(f"to: {np.dtype(dtype)} is no dtype of a module", expected="floating-point numbers"))
    return device, dtype


twins.speak(Module, idle=True)
