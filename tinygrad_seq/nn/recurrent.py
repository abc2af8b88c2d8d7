"""Recurrent layers: one loop over layers and directions, for the cells built in and for your own. `scan` is the loop over time."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from ..errors import ArgumentError, ShapeError, describe, message
from ..graph import raw
from ..ops import concatenate, expand_dims, reshape, stack, swapaxes
from ..random import Rng, generator
from ..scan import each, scan
from . import functional as F
from . import init
from .cells import RECURRENT_INITS, GRUKind, Kind, LSTMKind, RNNKind, check_choice, checked_state, settings_of, zero_state
from .functional.dropout import check_probability
from .functional.linear import single
from .module import Module, Parameter


class Recurrent(Module):
    """A recurrent network of any cell, stacked `num_layers` high: layer l reads the states of layer l-1.

        class Mine(nn.Module):                                        # a cell: x (B, D) and the state (B, H) -> the new state
            def __init__(self, D, H):
                self.hidden_size, self.w, self.u = H, nn.Linear(D, H), nn.Linear(H, H, bias=False)

            def forward(self, x, h):
                return tg.tanh(self.w(x) + self.u(h))

        hs, h = nn.Recurrent(Mine(3, 16))(xs)                         # one layer, one direction
        net = nn.Recurrent(lambda D: Mine(D, 16), 3, num_layers=2, bidirectional=True)

    cell: a module, or a function of the input size that makes one for each layer and direction; they are in `self.cells`. A cell is called
    as cell(x, state) and returns the new state, an array or a tuple of them whose first is the output. It tells its state by one of

        hidden_size            one array (B, hidden_size)
        state_sizes            a tuple (H, K, ...): as many arrays (B, H), (B, K), ...
        initial_state(B)       a method that returns the state to start from, any arrays with B rows

    xs (T, B, D), state None or a state (L, B, H) -> all states of the top layer (T, B, H), the last state of each layer (L, B, H), each
    array of it stacked. With batch_first=True sequences are (B, T, D) and (B, T, H). bidirectional=True adds a second network that reads from
    the end: its states stand behind the first one's, (T, B, 2H), and its last states after those of the same layer, (2L, B, H). Without a
    batch, xs (T, D), all others lack that axis too. dropout: while training, the probability with which each output of a layer is zeroed
    before the next layer reads it.

    lengths: (B,) the length of each row. Past its end a row's state stands still, its outputs are zero, and its padding is never looked at.
    """

    input_size: Any  # None: a cell of one's own tells what fits

    def __init__(
        self,
        cell: Any,
        input_size: int | None = None,
        num_layers: int = 1,
        *,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        rng: Rng = None,
    ):
        self._arrange(num_layers, batch_first, dropout, bidirectional, rng)
        if isinstance(cell, Module):
            if num_layers > 1 or bidirectional:
                raise ArgumentError(
                    message(
                        f"Recurrent: one {type(cell).__name__} for {num_layers} layers in {len(self.directions)} direction(s)",
                        expected="a cell for each, with weights of its own",
                        do=f"give a function that makes them: Recurrent(lambda D: {type(cell).__name__}(D, ...), input_size, ...)",
                    )
                )
            self.input_size = getattr(cell, "input_size", None) if input_size is None else input_size
            self.cells = [checked_cell(cell)]
            return
        if input_size is None:
            raise ArgumentError(
                message("Recurrent: no input_size", expected="the width of xs, for the function that makes the cells")
            )
        init.check_sizes("Recurrent", input_size=input_size)
        self.input_size, self.cells = input_size, []
        D = input_size
        for _ in range(num_layers):
            cells = [made_cell(cell, D) for _ in self.directions]
            self.cells += cells
            D = sum(width_of(cell) for cell in cells)
        widths = sorted({width_of(cell) for cell in self.cells})
        if len(widths) > 1:
            raise ArgumentError(
                message(
                    f"Recurrent: cells of the widths {', '.join(map(str, widths))}",
                    expected="the same for all layers: their last states are stacked",
                    do="layers of their own for other widths: hs, h1 = a(xs); hs, h2 = b(hs)",
                )
            )

    def _arrange(self, num_layers: int, batch_first: bool, dropout: float, bidirectional: bool, rng: Rng) -> None:
        """Check how the layers stand to one another, and keep it."""
        who = type(self).__name__
        init.check_sizes(who, num_layers=num_layers)
        check_probability(who, dropout)
        if dropout and num_layers == 1:
            warnings.warn(
                message(
                    f"{who}: dropout={dropout} acts between layers, and there is but one",
                    do="num_layers=2, or nn.Dropout behind it",
                ),
                stacklevel=4,
            )
        self.num_layers, self.batch_first, self.dropout, self.bidirectional = num_layers, batch_first, dropout, bidirectional
        self.directions = ("", "_reverse") if bidirectional else ("",)
        self.rng = None if rng is None else generator(rng)

    # ---- The loop ------------------------------------------------------------------------------------------------------------------

    def forward(self, xs: Any, state: Any = None, lengths: Any = None, return_gates: bool = False) -> tuple[Any, ...]:
        """xs (T, B, D) -> the states of the top layer (T, B, H), the last state of each layer (L, B, H).

        return_gates: as a third item what goes on inside the cells, each field (L, T, B, H), zero past a row's end.
        """
        xs, batched = self._time_first(xs, lengths)
        before = self._states(state, xs, batched)
        last: list[Any] = []
        gates: list[Any] = []
        for layer in range(self.num_layers):
            if layer:
                xs = F.dropout(xs, self.dropout, self.training, rng=self.rng)
            outputs = []
            for direction in self.directions:
                hs, h, *more = self._run(
                    layer,
                    direction,
                    xs,
                    before[len(last)],
                    lengths=lengths,
                    reverse=bool(direction),
                    collect=return_gates,
                    name=f"layer {layer}{direction}",
                )
                outputs.append(hs)
                last.append(h)
                gates += more
            xs = concatenate(outputs, axis=-1) if self.bidirectional else outputs[0]
        return self._as_given(xs, [last, gates] if return_gates else [last], batched)

    # A subclass that keeps its weights itself states these two.

    def _run(self, layer: int, direction: str, xs: Any, state: Any, *, collect: bool, **options: Any) -> tuple[Any, ...]:
        """One layer in one direction: its states over time, the last one, and with `collect` its gates."""
        step = as_step(self._cell(layer, direction), isinstance(state, tuple), collect)
        return scan(step, xs, state, collect=collect, **options)

    def _start(self, layer: int, direction: str, batch_size: int, like: Any) -> Any:
        """The state from which one layer starts in one direction; `like` has the dtype and the device of the numbers around."""
        cell = self._cell(layer, direction)
        if tells(cell, "initial_state"):
            state = cell.initial_state(batch_size)
            return tuple(state) if isinstance(state, list) else state
        return zero_state(sizes_of(cell), (batch_size,), like)

    def _cell(self, layer: int, direction: str) -> Any:
        return self.cells[layer * len(self.directions) + self.directions.index(direction)]

    def initial_state(self, batch_size: int) -> Any:
        """The state from which the network starts where none is given: (L, B, H), or a tuple of such arrays."""
        like = next(self.parameters(), np.zeros(0, np.float32))
        starts = [self._start(layer, d, batch_size, like) for layer in range(self.num_layers) for d in self.directions]
        return each(lambda *layers: stack(layers), *starts)

    # ---- What comes in and goes out --------------------------------------------------------------------------------------------------

    def _time_first(self, xs: Any, lengths: Any) -> tuple[Any, bool]:
        """xs as (T, B, D), and whether it came with a batch."""
        who = type(self).__name__
        axes = "(B, T, D)" if self.batch_first else "(T, B, D)"
        if not hasattr(raw(single(who, xs)), "shape"):
            raise ArgumentError(message(f"{who}: xs is a {type(xs).__name__}", expected=f"an array {axes}", do="tg.tensor(xs)"))
        shape, D = tuple(xs.shape), self.input_size
        if D is None and len(shape) < 2:
            raise ShapeError(message(f"{who}: xs must be {axes.replace('D', '...')}, got {shape}"))
        if D is not None and (len(shape) not in (2, 3) or shape[-1] != D):
            raise ShapeError(
                message(f"{who}: xs must be {axes} with D = {D}, got {shape}", expected=f"{axes}, or (T, D) without a batch")
            )
        rows = shape[0] if self.batch_first else shape[1]
        if lengths is not None and (D is None or len(shape) == 3) and np.shape(raw(lengths)) != (rows,):
            raise ShapeError(
                message(
                    f"{who}: lengths {np.shape(raw(lengths))} do not fit xs {shape}", expected=f"{axes} and (B,): one for each row"
                )
            )
        if D is None or len(shape) == 3:
            return (swapaxes(xs, 0, 1) if self.batch_first else xs), True
        if lengths is not None:
            raise ShapeError(
                message(f"{who}: lengths for xs {shape} without a batch", expected=f"xs {axes}", do="xs[:length] is all there is")
            )
        return expand_dims(xs, 1), False

    def _states(self, state: Any, xs: Any, batched: bool) -> list[Any]:
        """The state of each layer and direction, each array (B, ...)."""
        places = [(layer, direction) for layer in range(self.num_layers) for direction in self.directions]
        if state is None:
            return [self._start(*place, xs.shape[1], xs) for place in places]
        if _is_of_integers(state):
            who = type(self).__name__
            raise ArgumentError(
                message(f"{who}: state is {describe(raw(state))}", expected="floating-point numbers", do=f"{who}(xs, lengths=...)")
            )
        form = self._forms(xs)
        shapes = [(len(places), *(shape if batched else shape[1:])) for shape in (form if isinstance(form, list) else [form])]
        state = checked_state(type(self).__name__, state, shapes, isinstance(form, list), "(L, B, H)" if batched else "(L, H)")
        if not batched:
            state = each(lambda a: expand_dims(a, 1), state)
        if len(places) == 1:
            return [each(lambda a: reshape(a, a.shape[1:]), state)]
        return [each(lambda a, k=k: a[k], state) for k in range(len(places))]

    def _forms(self, xs: Any) -> Any:
        """The shape of the state of one layer in one direction; of a state of several arrays a list of them."""
        start = self._start(0, self.directions[0], xs.shape[1], xs)
        return [a.shape for a in start] if isinstance(start, tuple) else start.shape

    def _as_given(self, xs: Any, seen: list[Any], batched: bool) -> tuple[Any, ...]:
        """The outputs and, stacked over layers, the last states (and the gates), with the axes that the input had."""
        last, *gates = [each(_over_layers, *layers) for layers in seen]
        if not batched:
            return xs[:, 0], each(lambda a: a[:, 0], last), *each(lambda a: a[:, :, 0], tuple(gates))
        if self.batch_first:
            return swapaxes(xs, 0, 1), last, *each(lambda a: swapaxes(a, 1, 2), tuple(gates))
        return xs, last, *gates

    def extra_repr(self) -> str:
        """The sizes, and the settings that are not the usual ones."""
        return settings_of(self)


def _over_layers(*parts: Any) -> Any:
    """(L, ...) of the L parts; of a single one without a copy."""
    return stack(parts) if len(parts) > 1 else expand_dims(parts[0], 0)


def _is_of_integers(state: Any) -> bool:
    """Whether it looks like lengths, given without their name."""
    if isinstance(state, (list, tuple)):
        return bool(state) and all(isinstance(part, (int, np.integer)) for part in state)
    return len(getattr(state, "shape", ())) == 1 and state.dtype.kind in "iu"


# ---- Cells of one's own ----------------------------------------------------------------------------------------------------------------


def made_cell(make: Callable[[int], Any], input_size: int) -> Module:
    """The cell that the function makes for this input size."""
    try:
        cell = make(input_size)
    except TypeError as cause:
        name = getattr(make, "__name__", "MyCell")
        raise ArgumentError(
            message(
                f"Recurrent: {name}({input_size}) failed: {cause}",
                expected="a cell, or a function of the input size that makes one",
                do=f"Recurrent(lambda D: {name if isinstance(make, type) else 'MyCell'}(D, 16), input_size)",
            )
        ) from cause
    return checked_cell(cell)


def checked_cell(cell: Any) -> Module:
    """The cell, if it is a module that tells its state."""
    if not isinstance(cell, Module):
        raise ArgumentError(
            message(
                f"Recurrent: the cell is a {type(cell).__name__}",
                expected="a module with forward(self, x, state) -> the new state",
                do="a plain function of x and state runs in tg.scan(step, xs, state)",
            )
        )
    if not any(tells(cell, name) for name in ("hidden_size", "state_sizes", "initial_state")):
        raise ArgumentError(
            message(
                f"Recurrent: {type(cell).__name__} does not tell its state",
                expected="an attribute hidden_size (or state_sizes, a tuple, for a state of several arrays)",
                do="self.hidden_size = ... in its __init__",
            )
        )
    return cell


def tells(cell: Any, name: str) -> bool:
    """hasattr, without the error that a Module words for those who ask for what it has not."""
    return name in cell.__dict__ or hasattr(type(cell), name)


def as_step(cell: Any, several: bool, collect: bool) -> Callable[..., Any]:
    """The cell as `scan` calls a step: the arrays of a state go in one by one, and gates come out behind them."""
    who = type(cell).__name__
    if collect and "return_gates" not in inspect.signature(cell.forward).parameters:
        raise ArgumentError(
            message(
                f"Recurrent: return_gates=True, but {who} has none to return",
                expected="forward(self, x, state, return_gates=False), which returns (state, gates) where it is True",
            )
        )
    words = {"return_gates": True} if collect else {}

    def step(x: Any, *state: Any) -> Any:
        try:
            new = cell(x, state if several else state[0], **words)
        except ValueError as cause:
            if several or "to unpack" not in str(cause):
                raise
            raise one_array(f"{who} takes its state apart, but that is one array", who) from cause
        new, *gates = new if collect else (new,)
        arrays = new if isinstance(new, (tuple, list)) else (new,)
        if len(arrays) > 1 and not several:
            raise one_array(f"{who} returned {len(arrays)} arrays", who)
        return (*arrays, *gates)

    return step


def one_array(headline: str, who: str) -> ArgumentError:
    """The error of a cell that told a state of one array and uses it as several."""
    return ArgumentError(
        message(
            f"Recurrent: {headline}",
            expected=f"{who}(x, state) -> the new state, whose first array is the output",
            do="a state of several arrays is told by self.state_sizes = (H, ...) in its __init__; an output beside it is none",
        )
    )


def sizes_of(cell: Any) -> int | tuple[int, ...]:
    """The width of the state of a cell, or of each array of it."""
    sizes = cell.state_sizes if tells(cell, "state_sizes") else cell.hidden_size
    return tuple(sizes) if isinstance(sizes, list) else sizes


def width_of(cell: Any) -> int:
    """The width of what a cell puts out, the first array of its state."""
    if tells(cell, "state_sizes") or tells(cell, "hidden_size"):
        sizes = sizes_of(cell)
        return int(sizes[0] if isinstance(sizes, tuple) else sizes)
    state = cell.initial_state(1)
    return int((state[0] if isinstance(state, (tuple, list)) else state).shape[-1])


# ---- Layers built in -------------------------------------------------------------------------------------------------------------------


class Layers(Kind, Recurrent):
    """What RNN, LSTM and GRU share: PyTorch's flat names, weight_ih_l0, weight_hh_l1_reverse, in place of cells."""

    weight_ih_l0: Parameter
    weight_hh_l0: Parameter

    def _build(self, recurrent_init: str, dtype: Any) -> None:
        """Draw the weights of every layer and direction."""
        check_choice(type(self).__name__, "recurrent_init", recurrent_init, RECURRENT_INITS)
        self.recurrent_init = recurrent_init
        rng, D = generator(self.rng), self.input_size
        for layer in range(self.num_layers):
            for direction in self.directions:
                self._make_weights(D, f"_l{layer}{direction}", recurrent_init, rng, dtype)
            D = width_of(self) * len(self.directions)

    def weights(self, layer: int, direction: str = "") -> tuple[Any, ...]:
        """The weights of one layer and direction, in the order in which the step takes them."""
        return self._weights_of(f"_l{layer}{direction}")

    def _run(self, layer: int, direction: str, xs: Any, state: Any, *, collect: bool, **options: Any) -> tuple[Any, ...]:
        return scan(self._equation(collect), xs, state, self.weights(layer, direction), collect=collect, **options)

    def _start(self, layer: int, direction: str, batch_size: int, like: Any) -> Any:
        return zero_state(self.state_sizes, (batch_size,), getattr(self, f"weight_ih_l{layer}{direction}"))

    def _forms(self, xs: Any) -> Any:
        sizes = self.state_sizes
        return [(xs.shape[1], size) for size in sizes] if isinstance(sizes, tuple) else (xs.shape[1], sizes)


class RNN(RNNKind, Layers):
    """Simple recurrent network (Elman 1990), stacked `num_layers` high: layer l reads the states of layer l-1.

        h_t = f(x_t W_ih^T + b_ih + h_(t-1) W_hh^T + b_hh)            f: tanh or relu; `F.rnn_step`

    xs (T, B, D), state (L, B, H) or None for zeros -> all states of the top layer (T, B, H), the last state of each layer (L, B, H). What
    batch_first, bidirectional, dropout, lengths and sequences without a batch do is told by `nn.Recurrent`.

    Names, layouts and starting distributions of the parameters are PyTorch's: weight_ih_l0 (H, D), weight_hh_l0 (H, H), bias_ih_l0
    and bias_hh_l0 (H,), for the reverse direction with the ending _reverse, all uniform in ±1/sqrt(H).

    taps: the last states that a step reads, h_(t-1) ... h_(t-p) (`F.taps_step`); then weight_hh_l0 is (H, pH) and a state the tuple of the
    last p states, the newest first. recurrent_init: how W_hh starts, "uniform", "orthogonal" (Saxe et al. 2014) or "identity" with biases
    of zero (Le, Jaitly & Hinton 2015: with relu, a state that stands still until an input moves it).
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        *,
        taps: int = 1,
        recurrent_init: str = "uniform",
        rng: Rng = None,
        dtype: Any = "float32",
    ):
        self._settle(input_size, hidden_size, bias, nonlinearity, taps)
        self._arrange(num_layers, batch_first, dropout, bidirectional, rng)
        self._build(recurrent_init, dtype)


class LSTM(LSTMKind, Layers):
    """Long short-term memory (Hochreiter & Schmidhuber 1997; forget gate: Gers et al. 2000), stacked `num_layers` high.

        i, f, g, o = σ, σ, tanh, σ of the four blocks of  x_t W_ih^T + b_ih + h_(t-1) W_hh^T + b_hh
        c_t = f ⊙ c_(t-1) + i ⊙ g
        h_t = o ⊙ tanh(c_t)                                           `F.lstm_step`

    xs (T, B, D), state (h, c), each (L, B, H), or None for zeros -> all h of the top layer (T, B, H), the last (h, c) of each layer. What
    batch_first, bidirectional, dropout, lengths and sequences without a batch do is told by `nn.Recurrent`. return_gates=True adds
    LSTMGates(i, f, g, o, c), each (L, T, B, H), indexed like the last states.

    Names, layouts and starting distributions of the parameters are PyTorch's: weight_ih_l0 (4H, D), weight_hh_l0 (4H, H), bias_ih_l0
    and bias_hh_l0 (4H,), blocks i f g o, all uniform in ±1/sqrt(H). With proj_size=P also weight_hr_l0 (P, H): h is (B, P), h W_hr^T of the
    above. recurrent_init as in `nn.RNN`, block by block.

    peephole: the gates see the cell (Gers & Schmidhuber 2000): i and f the old one, o the new one; "diagonal", each unit its own, with
    weight_ci_l0, weight_cf_l0, weight_co_l0 (H,), or "full" (H, H) as in the lecture notes (`F.peephole_lstm_step`). coupled: i = 1 - f, and
    blocks f g o of 3H rows (`F.coupled_lstm_step`).
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        *,
        peephole: str | None = None,
        coupled: bool = False,
        recurrent_init: str = "uniform",
        rng: Rng = None,
        dtype: Any = "float32",
    ):
        self._settle(input_size, hidden_size, bias, proj_size, peephole, coupled)
        self._arrange(num_layers, batch_first, dropout, bidirectional, rng)
        self._build(recurrent_init, dtype)


class GRU(GRUKind, Layers):
    """Gated recurrent unit (Cho et al. 2014), stacked `num_layers` high.

        r, z = σ of the first two blocks of  x_t W_ih^T + b_ih + h_(t-1) W_hh^T + b_hh
        n    = tanh(x_t W_in^T + b_in + r ⊙ (h_(t-1) W_hn^T + b_hn))
        h_t  = (1 - z) ⊙ n + z ⊙ h_(t-1)                              `F.gru_step`

    xs (T, B, D), state (L, B, H) or None for zeros -> all states of the top layer (T, B, H), the last state of each layer (L, B, H). What
    batch_first, bidirectional, dropout, lengths and sequences without a batch do is told by `nn.Recurrent`. return_gates=True adds
    GRUGates(r, z, n), each (L, T, B, H), indexed like the last states.

    Names, layouts and starting distributions of the parameters are PyTorch's: weight_ih_l0 (3H, D), weight_hh_l0 (3H, H), bias_ih_l0
    and bias_hh_l0 (3H,), blocks r z n, all uniform in ±1/sqrt(H). recurrent_init as in `nn.RNN`, block by block.

    reset: "after", r acts on the product as above (PyTorch), or "before", on the state: (r ⊙ h_(t-1)) W_hn^T (the paper, and the lecture
    notes; `F.gru_reset_before_step`). z_weights: whether z weights the "old" state, as above, or the "new" value n.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        *,
        reset: str = "after",
        z_weights: str = "old",
        recurrent_init: str = "uniform",
        rng: Rng = None,
        dtype: Any = "float32",
    ):
        self._settle(input_size, hidden_size, bias, reset, z_weights)
        self._arrange(num_layers, batch_first, dropout, bidirectional, rng)
        self._build(recurrent_init, dtype)
