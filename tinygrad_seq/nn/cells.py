"""Recurrent cells: one step with weights of its own. What a cell shares with the layer of its kind is said here once: its `Kind`."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from .. import backend
from ..creation import zeros
from ..errors import ArgumentError, ShapeError, describe, message
from ..graph import box, raw
from ..ops import expand_dims
from ..random import Rng, generator
from ..scan import each
from . import functional as F
from . import init
from .functional.linear import single
from .module import Module, Parameter

RECURRENT_INITS = ("uniform", "identity", "orthogonal")


class Kind(Module):
    """What a cell and the layer of its kind share: the weights that one step takes, the state, and the equation.

    The weights of a simple network are weight_ih (H, D), weight_hh (H, H), bias_ih and bias_hh (H,); G gates stand one above the other in
    them, (GH, D) and so on. A layer has them for every layer and direction, with a suffix: weight_ih_l0, weight_hh_l1_reverse.
    """

    gates: int = 1  # G
    input_size: Any
    hidden_size: int
    bias: bool

    @property
    def state_sizes(self) -> int | tuple[int, ...]:
        """The width of the state; where it has several arrays, the width of each."""
        return self.hidden_size

    @property
    def _fed_back(self) -> int:
        """How many numbers W_hh reads."""
        return self.hidden_size

    def _equation(self, return_gates: bool = False) -> Callable[..., Any]:
        """The step, called as _equation()(x, *state, *weights)."""
        raise NotImplementedError

    def _further_shapes(self) -> dict[str, tuple[int, ...]]:
        """The weights of this kind alone, in the order in which the step takes them after the common four."""
        return {}

    def _shapes(self, input_size: int) -> dict[str, tuple[int, ...]]:
        """The shape of every weight by its name, in the order of PyTorch's state dicts."""
        rows = self.gates * self.hidden_size
        biases = {"bias_ih": (rows,), "bias_hh": (rows,)} if self.bias else {}
        return {"weight_ih": (rows, input_size), "weight_hh": (rows, self._fed_back), **biases, **self._further_shapes()}

    def _make_weights(self, input_size: int, suffix: str, recurrent_init: str, rng: np.random.Generator, dtype: Any) -> None:
        """Draw the weights of one step: uniform in ±1/sqrt(H), as PyTorch does, W_hh as `recurrent_init` says."""
        bound = 1 / math.sqrt(self.hidden_size)
        for name, shape in self._shapes(input_size).items():
            setattr(self, name + suffix, init.uniform(shape, bound, rng=rng, dtype=dtype))
        if recurrent_init == "uniform":
            return
        fill = init.eye_ if recurrent_init == "identity" else partial(init.orthogonal_, rng=rng)
        blocks = [fill(Parameter(np.empty((self.hidden_size, self._fed_back)))).numpy() for _ in range(self.gates)]
        setattr(self, f"weight_hh{suffix}", Parameter(np.concatenate(blocks), dtype))
        if recurrent_init == "identity" and self.bias:
            for name in ("bias_ih", "bias_hh"):
                init.zeros_(getattr(self, name + suffix))

    def _weights_of(self, suffix: str = "") -> tuple[Any, ...]:
        """The weights of one step in the order in which it takes them; None for a bias that is not there."""
        biases = ("bias_ih", "bias_hh") if self.bias else (None, None)
        names = ("weight_ih", "weight_hh", *biases, *self._further_shapes())
        return tuple(name and getattr(self, name + suffix) for name in names)

    def extra_repr(self) -> str:
        """The sizes, and the settings that are not the usual ones."""
        return settings_of(self)


class RNNKind(Kind):
    """The simple network, with one tap or several."""

    def _settle(self, input_size: int, hidden_size: int, bias: bool, nonlinearity: str, taps: int) -> None:
        """Check the settings and keep them."""
        F.rnn.nonlinearity_of(nonlinearity)
        init.check_sizes(type(self).__name__, input_size=input_size, hidden_size=hidden_size, taps=taps)
        self.input_size, self.hidden_size, self.bias = input_size, hidden_size, bias
        self.nonlinearity, self.taps = nonlinearity, taps

    @property
    def state_sizes(self) -> int | tuple[int, ...]:
        """One state, or as many as there are taps."""
        return self.hidden_size if self.taps == 1 else (self.hidden_size,) * self.taps

    @property
    def _fed_back(self) -> int:
        return self.taps * self.hidden_size

    def _equation(self, return_gates: bool = False) -> Callable[..., Any]:
        if return_gates:
            raise no_gates(self)
        if self.taps == 1:
            return partial(F.rnn_step, nonlinearity=self.nonlinearity)
        return partial(F.taps_step, taps=self.taps, nonlinearity=self.nonlinearity)


class LSTMKind(Kind):
    """The long short-term memory and its variants: projection, peepholes, coupled gates."""

    def _settle(self, input_size: int, hidden_size: int, bias: bool, proj_size: int, peephole: str | None, coupled: bool) -> None:
        """Check the settings and keep them."""
        who = type(self).__name__
        init.check_sizes(who, input_size=input_size, hidden_size=hidden_size)
        if proj_size:
            init.check_sizes(who, proj_size=proj_size)
        if proj_size >= hidden_size:
            raise ArgumentError(message(f"{who}: proj_size = {proj_size}", expected=f"less than hidden_size = {hidden_size}, or 0"))
        check_choice(who, "peephole", peephole, (None, "diagonal", "full"))
        variants = {"proj_size": proj_size, "peephole": peephole, "coupled": coupled}
        asked = [f"{name}={value!r}" for name, value in variants.items() if value]
        if len(asked) > 1:
            raise ArgumentError(message(f"{who}: {' with '.join(asked)}", expected="one of them: each is an equation of its own"))
        self.input_size, self.hidden_size, self.bias = input_size, hidden_size, bias
        self.proj_size, self.peephole, self.coupled = proj_size, peephole, coupled
        self.gates = 3 if coupled else 4

    @property
    def state_sizes(self) -> tuple[int, int]:
        """The width of h and that of c."""
        return self._fed_back, self.hidden_size

    @property
    def _fed_back(self) -> int:
        return self.proj_size or self.hidden_size

    def _further_shapes(self) -> dict[str, tuple[int, ...]]:
        H = self.hidden_size
        if self.proj_size:
            return {"weight_hr": (self.proj_size, H)}
        if self.peephole:
            return dict.fromkeys(("weight_ci", "weight_cf", "weight_co"), (H,) if self.peephole == "diagonal" else (H, H))
        return {}

    def _equation(self, return_gates: bool = False) -> Callable[..., Any]:
        step = F.peephole_lstm_step if self.peephole else F.coupled_lstm_step if self.coupled else F.lstm_step
        return partial(step, return_gates=return_gates)


class GRUKind(Kind):
    """The gated recurrent unit in its four conventions."""

    gates = 3

    def _settle(self, input_size: int, hidden_size: int, bias: bool, reset: str, z_weights: str) -> None:
        """Check the settings and keep them."""
        who = type(self).__name__
        init.check_sizes(who, input_size=input_size, hidden_size=hidden_size)
        check_choice(who, "reset", reset, ("after", "before"))
        check_choice(who, "z_weights", z_weights, ("old", "new"))
        self.input_size, self.hidden_size, self.bias = input_size, hidden_size, bias
        self.reset, self.z_weights = reset, z_weights

    def _equation(self, return_gates: bool = False) -> Callable[..., Any]:
        step = F.gru_step if self.reset == "after" else F.gru_reset_before_step
        return partial(step, z_weights=self.z_weights, return_gates=return_gates)


# ---- Cells ---------------------------------------------------------------------------------------------------------------------------


class Cell(Kind):
    """What the cells share: x (B, D) and a state go in, the new state comes out. Without a state it starts from zeros."""

    def _build(self, recurrent_init: str, rng: Rng, dtype: Any) -> None:
        """Draw the weights."""
        check_choice(type(self).__name__, "recurrent_init", recurrent_init, RECURRENT_INITS)
        self.recurrent_init = recurrent_init
        self._make_weights(self.input_size, "", recurrent_init, generator(rng), dtype)

    def initial_state(self, batch_size: int) -> Any:
        """Zeros, in the form in which the cell takes and returns its state."""
        return zero_state(self.state_sizes, (batch_size,), self._weights_of()[0])

    def forward(self, x: Any, state: Any = None, return_gates: bool = False) -> Any:
        """x (B, D), or (D,) with states (H,) -> the new state; with return_gates a pair, the new state and the gates."""
        lead, sizes = self._checked(x), self.state_sizes
        if state is None:
            state = zero_state(sizes, lead, self._weights_of()[0])
        else:
            several = isinstance(sizes, tuple)
            shapes = [(*lead, size) for size in (sizes if isinstance(sizes, tuple) else (sizes,))]
            state = checked_state(type(self).__name__, state, shapes, several, "(B, H)" if lead else "(H,)")
        if not lead:
            x, state = each(lambda a: expand_dims(a, 0), (x, state))
        new = self._equation(return_gates)(x, *(state if isinstance(state, tuple) else (state,)), *self._weights_of())
        if return_gates:
            new = (new[:-1] if isinstance(state, tuple) else new[0], new[-1])
        return new if lead else each(lambda a: a[0], new)

    def _checked(self, x: Any) -> tuple[int, ...]:
        """The axes of x before the last: the batch, or none."""
        who = type(self).__name__
        if not hasattr(single(who, x), "shape"):
            raise ArgumentError(message(f"{who}: x is a {type(x).__name__}", expected="an array (B, D)", do="tg.tensor(x)"))
        if x.ndim not in (1, 2) or x.shape[-1] != self.input_size:
            raise ShapeError(message(f"{who}: x must be (B, D) or (D,) with D = {self.input_size}, got {tuple(x.shape)}"))
        return tuple(x.shape[:-1])


class RNNCell(RNNKind, Cell):
    """One step of a simple recurrent network (Elman 1990), `F.rnn_step`, with its own weights.

        h' = f(x W_ih^T + b_ih + h W_hh^T + b_hh)

    x (B, D), h (B, H) or None for zeros -> h' (B, H); also without the batch axis. With several taps the state is the tuple of the last
    states, the newest first (`F.taps_step`). nonlinearity: "tanh" or "relu". The parameters start uniform in ±1/sqrt(H), as PyTorch's do.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: str = "tanh",
        *,
        taps: int = 1,
        recurrent_init: str = "uniform",
        rng: Rng = None,
        dtype: Any = "float32",
    ):
        self._settle(input_size, hidden_size, bias, nonlinearity, taps)
        self._build(recurrent_init, rng, dtype)


class LSTMCell(LSTMKind, Cell):
    """One step of a long short-term memory (Hochreiter & Schmidhuber 1997), `F.lstm_step`, with its own weights.

    x (B, D), state (h, c), each (B, H), or None for zeros -> the new (h, c); also without the batch axis. The options are those of
    `nn.LSTM`. The parameters start uniform in ±1/sqrt(H), as PyTorch's do.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        *,
        proj_size: int = 0,
        peephole: str | None = None,
        coupled: bool = False,
        recurrent_init: str = "uniform",
        rng: Rng = None,
        dtype: Any = "float32",
    ):
        self._settle(input_size, hidden_size, bias, proj_size, peephole, coupled)
        self._build(recurrent_init, rng, dtype)


class GRUCell(GRUKind, Cell):
    """One step of a gated recurrent unit (Cho et al. 2014), `F.gru_step`, with its own weights.

    x (B, D), h (B, H) or None for zeros -> the new h (B, H); also without the batch axis. The options are those of `nn.GRU`. The
    parameters start uniform in ±1/sqrt(H), as PyTorch's do.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        *,
        reset: str = "after",
        z_weights: str = "old",
        recurrent_init: str = "uniform",
        rng: Rng = None,
        dtype: Any = "float32",
    ):
        self._settle(input_size, hidden_size, bias, reset, z_weights)
        self._build(recurrent_init, rng, dtype)


class NARXCell(Cell):
    """One step of a recursion through the output, with several taps (Lin et al. 1996), `F.narx_step`, with its own weights.

        k_t = f(x W_ih^T + Σ_j y_(t-j) W_yh,j^T + b_h)                hidden units; j = 1, ..., taps
        y_t = k_t W_ho^T + b_o

    x (B, D), state the tuple (y_(t-1), ..., y_(t-p)), each (B, O), or None for zeros -> the new one (y_t, ...); also without the batch axis.
    weight_ih (H, D), weight_yh (H, pO), bias_h (H,), weight_ho (O, H), bias_o (O,) start uniform in ±1/sqrt(H). nonlinearity: "sigmoid",
    "tanh" or "relu". A network of it: nn.Recurrent(nn.NARXCell(D, H, O, taps)).
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        output_size: int,
        taps: int = 1,
        nonlinearity: str = "sigmoid",
        *,
        rng: Rng = None,
        dtype: Any = "float32",
    ):
        sizes = {"input_size": input_size, "hidden_size": hidden_size, "output_size": output_size, "taps": taps}
        init.check_sizes("NARXCell", **sizes)
        check_choice("NARXCell", "nonlinearity", nonlinearity, ("sigmoid", "tanh", "relu"))
        self.input_size, self.hidden_size, self.output_size = input_size, hidden_size, output_size
        self.taps, self.nonlinearity = taps, nonlinearity
        self._build("uniform", rng, dtype)

    @property
    def state_sizes(self) -> tuple[int, ...]:
        """The width of the output, once for each tap."""
        return (self.output_size,) * self.taps

    def _shapes(self, input_size: int) -> dict[str, tuple[int, ...]]:
        H, outputs = self.hidden_size, self.output_size
        fed = {"weight_ih": (H, input_size), "weight_yh": (H, self.taps * outputs), "bias_h": (H,)}
        return {**fed, "weight_ho": (outputs, H), "bias_o": (outputs,)}

    def _weights_of(self, suffix: str = "") -> tuple[Any, ...]:
        return tuple(getattr(self, name + suffix) for name in self._shapes(self.input_size))

    def _equation(self, return_gates: bool = False) -> Callable[..., Any]:
        if return_gates:
            raise no_gates(self)
        return partial(F.narx_step, taps=self.taps, nonlinearity=self.nonlinearity)


# ---- States and settings ---------------------------------------------------------------------------------------------------------------


def zero_state(sizes: int | tuple[int, ...], lead: tuple[int, ...], like: Any) -> Any:
    """Zeros (*lead, size) for each of the sizes, on the device of `like` and of its dtype, float32 if that counts or chooses."""
    array = raw(like)
    dtype = array.dtype if array.dtype.kind == "f" else np.dtype("float32")
    if type(array) is np.ndarray:
        return each(lambda size: box(np.zeros((*lead, size), dtype), None), sizes)
    return each(lambda size: zeros((*lead, size), dtype, device=backend.device_of(array)), sizes)


def checked_state(who: str, state: Any, shapes: list[tuple[int, ...]], several: bool, axes: str) -> Any:
    """The state, one array or a tuple of them, if it has these shapes."""
    given = tuple(state) if isinstance(state, (tuple, list)) else (state,)
    if isinstance(state, (tuple, list)) != several or len(given) != len(shapes):
        kind = f"a {type(state).__name__} of {len(given)}" if isinstance(state, (tuple, list)) else f"one {type(state).__name__}"
        forms = ", ".join(map(str, shapes))
        raise ArgumentError(
            message(
                f"{who}: state is {kind}",
                expected=f"a tuple of {len(shapes)} arrays {axes} = {forms}" if several else f"an array {axes} = {forms}",
            )
        )
    for i, (array, shape) in enumerate(zip(given, shapes, strict=True)):
        name = f"state[{i}]" if several else "state"
        if not hasattr(raw(array), "shape"):
            raise ArgumentError(message(f"{who}: {name} is {describe(array)}", expected=f"an array {axes} = {shape}"))
        if tuple(array.shape) != shape:
            raise ShapeError(message(f"{who}: {name} must be {axes} = {shape}, got {tuple(array.shape)}"))
    return given if several else state


def no_gates(kind: Kind) -> ArgumentError:
    """The error for a question about gates to a kind that has none."""
    who = type(kind).__name__
    do = "read its states at all times from hs, or take nn.LSTM or nn.GRU"
    return ArgumentError(message(f"{who}: return_gates=True, but a network without gates has none to return", do=do))


def check_choice(who: str, name: str, value: Any, among: tuple[Any, ...]) -> None:
    """Raise unless the value is one of these."""
    if value not in among:
        raise ArgumentError(message(f"{who}: {name} = {value!r} is not known", expected=" or ".join(map(repr, among))))


def settings_of(module: Module) -> str:
    """The arguments that the module was made with, as far as it kept them: those without a default, and those that differ from theirs."""
    shown = []
    for name, parameter in inspect.signature(type(module).__init__).parameters.items():
        value = getattr(module, name, None)
        if not isinstance(value, (bool, int, float, str)) or value == parameter.default:
            continue
        shown.append(f"{value}" if parameter.default is parameter.empty else f"{name}={value!r}")
    return ", ".join(shown)
