"""Recurrent layers: they own the weights of every layer and direction; the time loop is `scan`, the equations are in `functional`."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

from ..backend import array_module
from ..errors import ArgumentError, ShapeError, message
from ..graph import raw
from ..ops import concatenate, stack, swapaxes
from ..random import Rng, generator
from ..scan import scan
from . import functional as F
from . import init
from .functional.linear import single
from .module import Module, Parameter


class RNN(Module):
    """Simple recurrent network, stacked `num_layers` high: layer l reads the states of layer l-1.

        h_t = f(x_t W_ih^T + b_ih + h_(t-1) W_hh^T + b_hh)

    xs (T, B, D), h0 (L, B, H) or None for zeros -> all states of the top layer (T, B, H), the last state of each layer (L, B, H). With
    batch_first=True sequences are (B, T, D) and (B, T, H). bidirectional=True adds a second network that reads from the end: its states
    stand behind the first one's, (T, B, 2H), and its last states after those of the same layer, (2L, B, H).

    lengths: (B,) the length of each row. Past its end a row's state stands still, its outputs are zero, and its padding is never looked at.

    Names, layouts and starting distributions of the parameters are PyTorch's: weight_ih_l0 (H, D), weight_hh_l0 (H, H), bias_ih_l0
    and bias_hh_l0 (H,), for the reverse direction with the ending _reverse, all uniform in ±1/sqrt(H).
    """

    weight_ih_l0: Parameter
    weight_hh_l0: Parameter

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        bidirectional: bool = False,
        *,
        rng: Rng = None,
        dtype: Any = "float32",
    ):
        F.rnn.nonlinearity_of(nonlinearity)
        init.check_sizes("RNN", input_size=input_size, hidden_size=hidden_size, num_layers=num_layers)
        rng = generator(rng)
        self.input_size, self.hidden_size, self.num_layers = input_size, hidden_size, num_layers
        self.nonlinearity, self.bias, self.batch_first, self.bidirectional = nonlinearity, bias, batch_first, bidirectional
        self.directions = ("", "_reverse") if bidirectional else ("",)
        H, bound = hidden_size, 1 / math.sqrt(hidden_size)
        for layer in range(num_layers):
            D = H * len(self.directions) if layer else input_size
            for direction in self.directions:
                shapes = {"weight_ih": (H, D), "weight_hh": (H, H)} | ({"bias_ih": (H,), "bias_hh": (H,)} if bias else {})
                for name, shape in shapes.items():
                    setattr(self, f"{name}_l{layer}{direction}", init.uniform(shape, bound, rng=rng, dtype=dtype))

    def weights(self, layer: int, direction: str = "") -> tuple[Any, ...]:
        """The weights of one layer and direction, in the order in which the step takes them."""
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")[: 4 if self.bias else 2]
        return tuple(getattr(self, f"{name}_l{layer}{direction}") for name in names)

    def forward(self, xs: Any, h0: Any = None, lengths: Any = None) -> tuple[Any, Any]:
        """xs (T, B, D) -> the states of the top layer (T, B, H), the last state of each layer (L, B, H)."""
        xs = self._time_first(xs)
        h0 = self.initial_state(xs) if h0 is None else self._checked_state(h0, xs)
        step = partial(F.rnn_step, nonlinearity=self.nonlinearity)
        last: list[Any] = []
        for layer in range(self.num_layers):
            outputs = []
            for direction in self.directions:
                weights, h = self.weights(layer, direction), h0[len(last)]
                hs, h = scan(step, xs, h, weights, lengths=lengths, reverse=bool(direction), name=f"layer {layer}{direction}")
                outputs.append(hs)
                last.append(h)
            xs = concatenate(outputs, axis=-1) if self.bidirectional else outputs[0]
        return (swapaxes(xs, 0, 1) if self.batch_first else xs), stack(last)

    def initial_state(self, xs: Any) -> Any:
        """A state of zeros for the sequences xs (T, B, D): (L, B, H)."""
        like = raw(self.weights(0)[0])
        return array_module(like).zeros((self.num_layers * len(self.directions), xs.shape[1], self.hidden_size), like.dtype)

    def _time_first(self, xs: Any) -> Any:
        axes = "(B, T, D)" if self.batch_first else "(T, B, D)"
        if not hasattr(single("RNN", xs), "shape"):
            raise ArgumentError(message(f"RNN: xs is a {type(xs).__name__}", expected=f"an array {axes}", do="tg.tensor(xs)"))
        if len(xs.shape) != 3 or xs.shape[2] != self.input_size:
            raise ShapeError(
                message(
                    f"RNN: xs must be {axes} with D = {self.input_size}, got {tuple(xs.shape)}",
                    do="add the batch axis: xs[:, None], or xs[None] with batch_first=True" if len(xs.shape) == 2 else "",
                )
            )
        return swapaxes(xs, 0, 1) if self.batch_first else xs

    def _checked_state(self, h0: Any, xs: Any) -> Any:
        expected = (self.num_layers * len(self.directions), xs.shape[1], self.hidden_size)
        if tuple(h0.shape) != expected:
            raise ShapeError(message(f"RNN: h0 must be (L, B, H) = {expected}, got {tuple(h0.shape)}"))
        return h0

    def extra_repr(self) -> str:
        """The sizes, and the settings that are not the usual ones."""
        defaults = {"num_layers": 1, "nonlinearity": "tanh", "bias": True, "batch_first": False, "bidirectional": False}
        changed = [f"{name}={getattr(self, name)!r}" for name, default in defaults.items() if getattr(self, name) != default]
        return ", ".join([str(self.input_size), str(self.hidden_size), *changed])
