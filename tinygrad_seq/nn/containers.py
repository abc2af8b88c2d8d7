"""Modules that hold modules, and those that only move axes. Plain lists and dicts of modules serve as attributes too.

A container keeps what it holds as attributes named "0", "1", ... or by their keys, so a state dict has PyTorch's names: "0.weight".
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ..errors import ArgumentError, IndexError_, ShapeError, UnknownNameError, describe, message
from ..twins import likely
from .functional.linear import single
from .module import Module


class Identity(Module):
    """A layer that returns what it is given: for the place of one that is left out. Whatever it is made with is ignored."""

    def __init__(self, *args: Any, **keywords: Any):
        pass

    def forward(self, x: Any) -> Any:
        """x -> x."""
        return x


class Flatten(Module):
    """Axes start_axis ... end_axis joined into one: x (B, C, L) -> (B, C L)."""

    def __init__(self, start_axis: int = 1, end_axis: int = -1):
        self.start_axis, self.end_axis = start_axis, end_axis

    def forward(self, x: Any) -> Any:
        """x (..., *joined, ...) -> (..., their product, ...)."""
        shape = _shape("Flatten", x)
        start, end = (_axis("Flatten", axis, shape) for axis in (self.start_axis, self.end_axis))
        if start > end:
            raise ShapeError(message(f"Flatten: axis {self.start_axis} comes after axis {self.end_axis}", got=describe(x)))
        size = 1
        for n in shape[start : end + 1]:
            size *= n
        return x.reshape((*shape[:start], size, *shape[end + 1 :]))

    def extra_repr(self) -> str:
        """The axes."""
        return f"start_axis={self.start_axis}, end_axis={self.end_axis}"


class Unflatten(Module):
    """One axis cut into several: the reverse of `Flatten`. One of the sizes may be -1."""

    def __init__(self, axis: int, unflattened_size: Iterable[int]):
        self.axis, self.unflattened_size = axis, tuple(unflattened_size)

    def forward(self, x: Any) -> Any:
        """x (..., product, ...) -> (..., *unflattened_size, ...)."""
        shape = _shape("Unflatten", x)
        axis = _axis("Unflatten", self.axis, shape)
        return x.reshape((*shape[:axis], *self.unflattened_size, *shape[axis + 1 :]))

    def extra_repr(self) -> str:
        """The axis and its sizes."""
        return f"axis={self.axis}, unflattened_size={self.unflattened_size}"


def _shape(who: str, x: Any) -> tuple[int, ...]:
    if not hasattr(single(who, x), "shape"):
        raise ArgumentError(message(f"{who}: x is {describe(x)}", expected="an array", do="tg.tensor(x)"))
    return tuple(x.shape)


def _axis(who: str, axis: int, shape: tuple[int, ...]) -> int:
    if not -len(shape) <= axis < len(shape):
        raise ShapeError(message(f"{who}: axis {axis} is out of bounds", got=f"x of shape {shape}"))
    return axis % len(shape)


# ---- Lists and dicts -------------------------------------------------------------------------------------------------------------------


class _Sequence(Module):
    """What `Sequential` and `ModuleList` share: modules in an order, the n-th under the name "n"."""

    def _put(self, modules: Iterable[Module]) -> None:
        """Hold these modules, numbered anew, and no others."""
        modules = list(modules)
        for module in modules:
            _check(self, module)
        for name in self._modules():
            delattr(self, name)
        for number, module in enumerate(modules):
            setattr(self, str(number), module)

    def _modules(self) -> dict[str, Module]:
        return {name: module for name, module in vars(self).items() if isinstance(module, Module)}

    def __len__(self) -> int:
        return len(self._modules())

    def __iter__(self) -> Iterator[Module]:
        return iter(self._modules().values())

    def _name(self, index: int) -> str:
        names = list(self._modules())
        if isinstance(index, bool) or not hasattr(index, "__index__"):
            raise ArgumentError(message(f"{type(self).__name__}: index {index!r}", expected="an integer or a slice"))
        if not -len(names) <= index < len(names):
            raise IndexError_(message(f"{type(self).__name__}: index {index} is out of range", got=f"{len(names)} modules"))
        return names[index]

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return self._of(dict(list(self._modules().items())[index]))
        return self._modules()[self._name(index)]

    def _of(self, modules: dict[str, Module]) -> Any:
        """One of the same kind that holds these."""
        raise NotImplementedError

    def __setitem__(self, index: int, module: Module) -> None:
        _check(self, module)
        setattr(self, self._name(index), module)

    def __delitem__(self, index: Any) -> None:
        kept = list(self)
        del kept[index]
        self._put(kept)

    def __add__(self, modules: Iterable[Module]) -> Any:
        together = [*self, *modules]
        return self._of({str(number): module for number, module in enumerate(together)})

    def __iadd__(self, modules: Iterable[Module]) -> Any:
        return self.extend(modules)

    def append(self, module: Module) -> Any:
        """Add a module at the end; returns the container."""
        return self.extend([module])

    def extend(self, modules: Iterable[Module]) -> Any:
        """Add modules at the end; returns the container."""
        for module in list(modules):
            _check(self, module)
            setattr(self, str(len(self)), module)
        return self

    def insert(self, index: int, module: Module) -> Any:
        """Put a module before the one at `index`; returns the container."""
        modules = list(self)
        modules.insert(index, module)
        self._put(modules)
        return self

    def pop(self, index: int = -1) -> Module:
        """Take out the module at `index` and return it."""
        module: Module = self[index]
        del self[index]
        return module


class Sequential(_Sequence):
    """Modules one after the other: each gets what the one before it returned.

        Sequential(Linear(4, 8), ReLU(), Linear(8, 2))
        Sequential({"hidden": Linear(4, 8), "out": Linear(8, 2)})       # by name: model.hidden, "hidden.weight"

    Also a sequence: an index gives a module, a slice a Sequential of the same modules.
    """

    def __init__(self, *modules: Module | Mapping[str, Module]):
        if len(modules) == 1 and isinstance(modules[0], Mapping):
            for name, module in modules[0].items():
                _check(self, module, name)
                setattr(self, name, module)
        else:
            self._put(modules)  # type: ignore[arg-type]

    def forward(self, x: Any) -> Any:
        """What the last module returns for x."""
        for module in self:
            x = module(x)
        return x

    def _of(self, modules: dict[str, Module]) -> Sequential:
        return Sequential(modules)


class ModuleList(_Sequence):
    """A list of modules. As an attribute a plain list does as well; this one is a module itself, and has a list's methods."""

    def __init__(self, modules: Iterable[Module] = ()):
        self._put(modules)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """None: a list does not say how its modules follow one another."""
        raise _no_forward(self, "for module in modules: x = module(x), or nn.Sequential(*modules)")

    def _of(self, modules: dict[str, Module]) -> ModuleList:
        return ModuleList(modules.values())


class ModuleDict(Module):
    """A dict of modules. As an attribute a plain dict does as well; this one is a module itself, and has a dict's methods."""

    def __init__(self, modules: Mapping[str, Module] | Iterable[tuple[str, Module]] = ()):
        self.update(modules)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """None: a dict does not say how its modules follow one another."""
        raise _no_forward(self, "modules[key](x)")

    def _modules(self) -> dict[str, Module]:
        return {name: module for name, module in vars(self).items() if isinstance(module, Module)}

    def __getitem__(self, key: str) -> Any:
        if key not in self:
            raise UnknownKeyError(
                message(f"ModuleDict: no module {key!r}", got=", ".join(map(repr, self)), do=likely(key, self._modules()))
            )
        return self._modules()[key]

    def __setitem__(self, key: str, module: Module) -> None:
        _check(self, module, key)
        setattr(self, key, module)

    def __delitem__(self, key: str) -> None:
        self.pop(key)

    def __len__(self) -> int:
        return len(self._modules())

    def __iter__(self) -> Iterator[str]:
        return iter(self._modules())

    def __contains__(self, key: object) -> bool:
        return key in self._modules()

    def keys(self) -> Iterable[str]:
        """The names."""
        return self._modules().keys()

    def values(self) -> Iterable[Module]:
        """The modules."""
        return self._modules().values()

    def items(self) -> Iterable[tuple[str, Module]]:
        """Names with their modules."""
        return self._modules().items()

    def update(self, modules: Mapping[str, Module] | Iterable[tuple[str, Module]]) -> None:
        """Add modules, in the place of those that have the same name."""
        for key, module in modules.items() if isinstance(modules, (Mapping, ModuleDict)) else modules:
            self[key] = module

    def pop(self, key: str) -> Module:
        """Take out the module of that name and return it."""
        module: Module = self[key]
        delattr(self, key)
        return module

    def clear(self) -> None:
        """Take out all modules."""
        for key in list(self):
            delattr(self, key)


class UnknownKeyError(UnknownNameError, KeyError):
    """A key that a `ModuleDict` does not have."""

    __str__ = Exception.__str__  # a KeyError shows the repr


def _no_forward(container: Module, do: str) -> NotImplementedError:
    return NotImplementedError(message(f"{type(container).__name__} has no forward: it only holds modules", do=do))


def _check(container: Module, module: Any, name: str = "0") -> None:
    """Raise unless `module` is a module and `name` one that an attribute of the container can have."""
    who = type(container).__name__
    if not isinstance(module, Module):
        raise ArgumentError(message(f"{who}: {describe(module)} is no module", expected="modules", do=_instead_of(module)))
    taken = isinstance(name, str) and name not in vars(container) and hasattr(container, name)
    if not isinstance(name, str) or not name or "." in name or taken:
        reason = "is the name of a method or attribute" if taken else "can be no name"
        raise ArgumentError(message(f"{who}: {name!r} {reason}", expected="a name without dots, other than those of a Module"))


def _instead_of(found: Any) -> str:
    """What to write in place of what is no module."""
    if isinstance(found, type):
        return "make one of the class: Linear(...)"
    if isinstance(found, (list, tuple)):
        return "Sequential(*layers), ModuleList(layers)"
    return "a Module whose forward calls the function" if callable(found) else ""
