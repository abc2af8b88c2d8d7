"""What every optimizer shares: groups of parameters with their settings, the state from step to step, and saving it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np

from .. import backend, guards, twins
from ..errors import ArgumentError, ShapeError, describe, message
from ..tensor import Tensor

Params = Iterable[Tensor] | Iterable[dict[str, Any]]  # parameters, or groups of them
BLOCK = 1 << 16  # numbers that are updated at once: a few arrays of them fit a core's cache


class Optimizer:
    """Holds parameters and changes them in place, one `step` after each `backward`.

    params: Tensors, or groups of them with settings of their own: [{"params": ..., "lr": 1e-2}, {"params": ...}]. The settings stand in
    `param_groups`; as an attribute, `optimizer.lr` reads and sets that of all groups. A parameter without a gradient is passed over.

    A subclass hands its settings to `__init__`, says in `arrays` what it carries along per parameter, and in `update` what one step
    does. maximize: it steps up the gradient instead of down.
    """

    def __init__(self, params: Params, *, maximize: bool = False, **settings: Any):
        self._scratch: dict[tuple[Any, ...], Any] = {}
        self.param_groups: list[dict[str, Any]] = []
        self.state: dict[Tensor, dict[str, Any]] = {}
        self.defaults = {**settings, "maximize": maximize}
        given: list[Any] = list(params) if isinstance(params, Iterable) and not isinstance(params, Tensor) else []
        if any(isinstance(part, Mapping) for part in given):
            for group in given:
                self.add_param_group(group)
        else:
            self.add_param_group({"params": parameter_list(type(self).__name__, given or params)})

    def add_param_group(self, group: Mapping[str, Any]) -> None:
        """Optimize further parameters, with the settings in `group` and the optimizer's own for what it does not set."""
        who = type(self).__name__
        if not isinstance(group, Mapping) or "params" not in group:
            raise ArgumentError(message(f"{who}: {describe(group)} is no group", expected='{"params": [...], "lr": 1e-2}'))
        self._check_names(group)
        params = [group["params"]] if isinstance(group["params"], Tensor) else group["params"]
        full = {**self.defaults, **group, "params": parameter_list(who, params)}
        if {id(p) for p in full["params"]} & {id(p) for p in self.parameters}:
            raise ShapeError(message(f"{who}: a parameter stands in two groups", expected="each once"))
        self.check(full)
        self.param_groups.append(full)

    @property
    def parameters(self) -> list[Tensor]:
        """The parameters of all groups."""
        return [p for group in self.param_groups for p in group["params"]]

    # ---- One step ----------------------------------------------------------------------------------------------------------------

    def step(self) -> None:
        """Change every parameter that has a gradient, in place."""
        for group in self.param_groups:
            s = SimpleNamespace(**group)
            carried = self.arrays(s)
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state.setdefault(p, {"steps": 0})
                state["steps"] += 1
                for name, start in carried.items():
                    _carry(state, name, start, p._data)
                for block, g, part in _blocks(p._data, p.grad._data, state):
                    self.update(block, np.negative(g, out=self.scratch(g, "ascent")) if s.maximize else g, part, s)
                state.update({name: x for name, x in part.items() if not backend.is_array(x)})
                guards.wrote(p._data)

    def arrays(self, s: SimpleNamespace) -> dict[str, float]:
        """The arrays that a parameter carries along, and the number that fills them at first. s: the settings of its group."""
        return {}

    def update(self, p: Any, g: Any, state: dict[str, Any], s: SimpleNamespace) -> None:
        """Change the array p by its gradient g, which stays as it is. Every number for itself: a long array comes in pieces.

        state: "steps", the number of steps with this one, and the `arrays`. s: the settings of the group.
        """
        raise NotImplementedError

    def decayed(self, p: Any, g: Any, weight_decay: float) -> Any:
        """g + weight_decay p: the gradient together with that of an L2 penalty."""
        if not weight_decay:
            return g
        total = np.multiply(p, weight_decay, out=self.scratch(p, "decayed"))
        total += g
        return total

    def scratch(self, like: Any, name: str = "change") -> Any:
        """An array like `like` to compute in: made once, shared by all parameters of that shape."""
        key = (name, like.shape, like.dtype, backend.device_of(like))
        if key not in self._scratch:
            self._scratch[key] = backend.array_module(like).empty(like.shape, like.dtype)
        return self._scratch[key]

    def zero_grad(self) -> None:
        """Forget the gradients, before the next `backward` adds to them."""
        for p in self.parameters:
            if p.requires_grad:
                p.grad = None

    # ---- Settings ----------------------------------------------------------------------------------------------------------------

    def check(self, group: Mapping[str, Any]) -> None:
        """Raise unless the settings of a group make sense: numbers are finite and not negative, those of a pair (betas) below 1."""
        who = type(self).__name__
        for name, default in self.defaults.items():
            value = group[name]
            if name == "betas":
                if not isinstance(value, (tuple, list)) or len(value) != 2:
                    raise ArgumentError(message(f"{who}: {name} = {value!r}", expected="two numbers below 1"))
                check_settings(who, **{f"{name.rstrip('s')}{i}": (x, 0, 1) for i, x in enumerate(value, 1)})
            elif not isinstance(default, bool):
                check_settings(who, **{name: (value, 0, math.inf)})

    def _check_names(self, group: Mapping[str, Any]) -> None:
        known = ["params", *self.defaults, "initial_lr"]  # the last one is where a schedule began
        unknown = [repr(name) for name in group if name not in known]
        if unknown:
            raise ArgumentError(
                message(f"{type(self).__name__}: a group has no setting {', '.join(unknown)}", expected=", ".join(known))
            )

    def __getattr__(self, name: str) -> Any:
        groups = vars(self).get("param_groups", [])
        if name not in vars(self).get("defaults", ()) or not groups:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}", name=name, obj=self)
        values = [group[name] for group in groups]
        if any(value != values[0] for value in values):
            raise ArgumentError(
                message(
                    f"{type(self).__name__}: the groups differ in {name}",
                    got=", ".join(map(str, values)),
                    do=f"ask one of them: optimizer.param_groups[0][{name!r}]",
                )
            )
        return values[0]

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in vars(self).get("defaults", ()):
            return object.__setattr__(self, name, value)
        for group in self.param_groups:
            self.check({**group, name: value})
        for group in self.param_groups:
            group[name] = value
        return None

    # ---- Saving and loading ------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """A snapshot: the settings of each group with the numbers of its parameters, and for each parameter its step count and arrays.

        It holds NumPy arrays, copied, numbers and lists: `tg.save` takes it.
        """
        number = {id(p): i for i, p in enumerate(self.parameters)}
        return {
            "param_groups": [{**group, "params": [number[id(p)] for p in group["params"]]} for group in self.param_groups],
            "state": [
                {name: backend.to_numpy(x).copy() if backend.is_array(x) else x for name, x in self.state.get(p, {}).items()}
                for p in self.parameters
            ],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where the snapshot was taken, with its settings. Nothing changes unless everything fits."""
        who = type(self).__name__
        if not isinstance(state, Mapping) or not {"param_groups", "state"} <= set(state):
            raise ArgumentError(message(f"{who}: {describe(state)} is no state of an optimizer", expected="what state_dict() gave"))
        groups, entries = state["param_groups"], state["state"]
        sizes = [len(group["params"]) for group in groups], [len(group["params"]) for group in self.param_groups]
        if sizes[0] != sizes[1] or len(entries) != sum(sizes[0]):
            raise ShapeError(
                message(
                    f"{who}: the state is of groups of {sizes[0]} parameters",
                    expected=f"{sizes[1]}, as this optimizer has",
                    do="give it the parameters in the order and the groups in which they were saved",
                )
            )
        for group in groups:
            if set(self.defaults) - set(group) or set(group) - {"params", "initial_lr", *self.defaults}:
                raise ArgumentError(
                    message(
                        f"{who}: the state has the settings {', '.join(name for name in group if name != 'params')}",
                        expected=", ".join(self.defaults),
                        do="load the state of the same kind of optimizer",
                    )
                )
            self.check(group)
        for i, (p, entry) in enumerate(zip(self.parameters, entries, strict=True)):
            for name, x in entry.items():
                if backend.is_array(x) and x.shape != p.shape:
                    raise ShapeError(message(f"{who}: {name} of parameter {i} has shape {x.shape}", expected=f"{p.shape}"))
        for own, group in zip(self.param_groups, groups, strict=True):
            own |= {name: tuple(x) if isinstance(x, list) else x for name, x in group.items() if name != "params"}
        self.state = {
            p: {name: _like(x, p._data) if backend.is_array(x) else x for name, x in entry.items()}
            for p, entry in zip(self.parameters, entries, strict=True)
            if entry
        }

    def __repr__(self) -> str:
        groups = [
            f"{len(group['params'])} parameters, " + ", ".join(f"{name}={group[name]!r}" for name in self.defaults)
            for group in self.param_groups
        ]
        return f"{type(self).__name__}({'; '.join(groups)})"


twins.speak(Optimizer, idle=True)


def _carry(state: dict[str, Any], name: str, start: float, data: Any) -> None:
    """See to it that the state has this array, of the dtype and on the device of the parameter: it may have moved between two steps."""
    if name not in state:
        state[name] = backend.array_module(data).full(data.shape, start, data.dtype)
        return
    if backend.array_module(state[name]) is not np or backend.array_module(data) is not np:
        state[name] = backend.to_device(state[name], backend.device_of(data))
    if state[name].dtype != data.dtype:
        state[name] = state[name].astype(data.dtype)


def _blocks(p: Any, g: Any, state: dict[str, Any]) -> Iterator[tuple[Any, Any, dict[str, Any]]]:
    """Parameter, gradient and state, long ones in pieces: what a step reads and writes several times stays in the cache."""
    arrays = {name: x for name, x in state.items() if backend.is_array(x)}
    pieces = [p, g, *arrays.values()]
    if p.size <= BLOCK or not all(isinstance(x, np.ndarray) and x.flags.c_contiguous for x in pieces):
        yield p, g, dict(state)
        return
    for start in range(0, p.size, BLOCK):
        p_part, g_part, *parts = (x.reshape(-1)[start : start + BLOCK] for x in pieces)
        yield p_part, g_part, {**state, **dict(zip(arrays, parts, strict=True))}


def _like(x: Any, data: Any) -> Any:
    return backend.array_module(data).array(x, dtype=data.dtype, order="C")


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
            named = isinstance(p, str) or (isinstance(p, tuple) and len(p) == 2 and isinstance(p[0], str))
            got = f"the result of {p.op}" if isinstance(p, Tensor) else "a name" if named else describe(p)
            raise ArgumentError(
                message(
                    f"{who}: parameter {i} is {got}",
                    expected="a leaf Tensor, such as an nn.Parameter",
                    do="pass model.parameters(), which come without names" if named else "",
                )
            )
    if len({id(p) for p in found}) < len(found):
        raise ShapeError(message(f"{who}: a parameter stands in the list twice", expected="each once"))
    return found


def check_settings(who: str, **limits: tuple[float, float, float]) -> None:
    """Raise unless each setting `name=(value, low, high)` lies in low <= value < high."""
    for name, (value, low, high) in limits.items():
        is_number = isinstance(value, (int, float, np.integer, np.floating))
        if not is_number or not low <= value < high:
            kind = ShapeError if is_number else ArgumentError
            number, above = ("a finite number", "") if high == math.inf else ("a number", f" and below {high:g}")
            raise kind(message(f"{who}: {name} = {value!r}", expected=f"{number} of at least {low:g}{above}"))
