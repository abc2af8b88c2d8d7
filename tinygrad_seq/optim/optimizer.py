"""What every optimizer shares: its parameters, their state from step to step, and saving it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from .. import backend, guards
from ..errors import ArgumentError, ShapeError, describe, message
from ..tensor import Tensor


class Optimizer:
    """Holds parameters and changes them in place, one `step` after each `backward`.

    A subclass names its settings (`options`) and the arrays that it carries along per parameter (`slots`), and states `update`.
    A parameter without a gradient is passed over.
    """

    options: tuple[str, ...] = ("lr",)
    slots: tuple[str, ...] = ()
    lr: float

    def __init__(self, parameters: Iterable[Tensor]):
        self.parameters = parameter_list(type(self).__name__, parameters)
        self.state: list[dict[str, Any]] = [{} for _ in self.parameters]
        self._scratch: dict[tuple[Any, ...], Any] = {}

    def step(self) -> None:
        """Change every parameter that has a gradient, in place."""
        for p, state in zip(self.parameters, self.state, strict=True):
            if p.grad is None:
                continue
            if not state:
                state.update({"steps": 0} | {name: _zeros(p._data) for name in self.slots})
            for name in self.slots:
                if backend.device_of(state[name]) != p.device:  # the model was moved between two steps
                    state[name] = backend.to_device(state[name], p.device)
            state["steps"] += 1
            self.update(p._data, p.grad._data, state)
            guards.wrote(p._data)

    def update(self, p: Any, g: Any, state: dict[str, Any]) -> None:
        """Change the array p by its gradient g, which stays as it is. state: "steps", this one included, and an array per slot."""
        raise NotImplementedError

    def zero_grad(self) -> None:
        """Forget the gradients, before the next `backward` adds to them."""
        for p in self.parameters:
            if p.requires_grad:
                p.grad = None

    def scratch(self, like: Any, number: int = 0) -> Any:
        """An array like `like` to compute in: made once, shared by all parameters of that shape."""
        key = (number, like.shape, like.dtype, backend.device_of(like))
        if key not in self._scratch:
            self._scratch[key] = _zeros(like)
        return self._scratch[key]

    # ---- Saving and loading ------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """A snapshot: the settings, and for each parameter, in order, its step count and arrays (NumPy's, copied)."""
        return {
            "options": {name: getattr(self, name) for name in self.options},
            "parameters": [
                {name: backend.to_numpy(x).copy() if backend.is_array(x) else x for name, x in state.items()}
                for state in self.state
            ],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where the snapshot was taken, with its settings. Nothing changes unless everything fits."""
        saved = state["parameters"]
        if len(saved) != len(self.parameters):
            raise ShapeError(
                message(
                    f"{type(self).__name__}: the state is of {len(saved)} parameters",
                    expected=f"{len(self.parameters)}, as this optimizer has",
                    do="give it the parameters in the order in which they were saved",
                )
            )
        for i, (p, entry) in enumerate(zip(self.parameters, saved, strict=True)):
            if entry and set(entry) != {"steps", *self.slots}:
                raise ArgumentError(
                    message(
                        f"{type(self).__name__}: the state of parameter {i} has {', '.join(entry)}",
                        expected=", ".join(("steps", *self.slots)),
                        do="load the state of the same kind of optimizer",
                    )
                )
            for name in self.slots if entry else ():
                if np.shape(entry[name]) != p.shape:
                    raise ShapeError(
                        message(
                            f"{type(self).__name__}: {name} of parameter {i} has shape {np.shape(entry[name])}",
                            expected=f"{p.shape}",
                        )
                    )
        for name in self.options:
            setattr(self, name, state["options"][name])
        self.state = [
            {name: _like(x, p._data) if name in self.slots else x for name, x in entry.items()}
            for p, entry in zip(self.parameters, saved, strict=True)
        ]

    def __repr__(self) -> str:
        settings = ", ".join(f"{name}={getattr(self, name)!r}" for name in self.options)
        return f"{type(self).__name__}({len(self.parameters)} parameters, {settings})"


def parameter_list(who: str, parameters: Any) -> list[Tensor]:
    """The parameters as a list: each a Tensor and there once."""
    if isinstance(parameters, Tensor) or not isinstance(parameters, Iterable):
        raise ArgumentError(
            message(
                f"{who}: {type(parameters).__name__} is no list of parameters", expected="Tensors", do="pass model.parameters()"
            )
        )
    found = list(parameters)
    if not found:
        raise ShapeError(
            message(
                f"{who}: there are no parameters",
                expected="at least one",
                do="pass model.parameters(); a generator that was used up is empty",
            )
        )
    for i, p in enumerate(found):
        if not isinstance(p, Tensor) or not p.is_leaf:
            got = f"the result of {p.op}" if isinstance(p, Tensor) else describe(p)
            raise ArgumentError(message(f"{who}: parameter {i} is {got}", expected="a leaf Tensor, such as an nn.Parameter"))
    if len({id(p) for p in found}) < len(found):
        raise ShapeError(message(f"{who}: a parameter stands in the list twice", expected="each once"))
    return found


def check_settings(who: str, **limits: tuple[float, float, float]) -> None:
    """Raise unless each setting `name=(value, low, high)` lies in low <= value < high."""
    for name, (value, low, high) in limits.items():
        is_number = isinstance(value, (int, float, np.integer, np.floating))
        if not is_number or not low <= value < high:
            kind = ShapeError if is_number else ArgumentError
            above = "" if high == float("inf") else f" and below {high:g}"
            raise kind(message(f"{who}: {name} = {value!r}", expected=f"a number of at least {low:g}{above}"))


def _zeros(like: Any) -> Any:
    return backend.array_module(like).zeros(like.shape, like.dtype)


def _like(x: Any, data: Any) -> Any:
    return backend.array_module(data).array(x, dtype=data.dtype)
