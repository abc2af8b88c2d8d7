"""Compiled cells: random step functions and those that people write give the values and gradients of the unfolded loop."""

from __future__ import annotations

import functools
from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np
import pytest
from compiled import NUMBA, Run, mostly_numpy, same_as_unfolded, tape, times
from hypothesis import given, settings
from random_cells import OPS, Call, Cell, arrays_of, cells_and_calls, random_call, random_cell

import tinygrad_seq as tg
from tinygrad_seq import nn
from tinygrad_seq.nn import functional as F
from tinygrad_seq.scan import scan

# ---- Random cells --------------------------------------------------------------------------------------------------------------------


def over_time(cell: Cell, call: Call) -> Run:
    """The cell run as the call says."""
    xs, states, weights = arrays_of(cell, call)
    leaves = {}

    def wanted(name: str, array: np.ndarray, wish: bool) -> Any:
        if not wish:
            return array
        leaves[name] = tg.tensor(array, requires_grad=True)
        return leaves[name]

    xs = wanted("xs", xs, call.xs_wanted)
    state = tuple(wanted(f"v{i + 1}", a, call.states_wanted) for i, a in enumerate(states))
    weights = [wanted(f"w{i}", a, call.weights_wanted) for i, a in enumerate(weights)]
    hs, last, *more = scan(
        cell,
        xs,
        state if len(state) > 1 else state[0],
        weights,
        lengths=call.lengths,
        reverse=call.reverse,
        collect=bool(cell.collected),
    )
    return Run({"hs": hs, "last": last, **({"more": more[0]} if more else {})}, leaves)


def test_200_cells_of_hypothesis_are_the_same_compiled_and_unfolded():
    seen: set[Cell] = set()

    @settings(max_examples=220)
    @given(cells_and_calls())
    def check(drawn: tuple[Cell, Call]) -> None:
        seen.add(drawn[0])
        same_as_unfolded(lambda: over_time(*drawn))

    check()
    assert len(seen) >= 200
    assert {line.op for cell in seen for line in cell.lines} == set(OPS)
    assert {len(cell.widths) for cell in seen} == {1, 2, 3}


@pytest.mark.parametrize(
    ("target", "seed"),
    [
        *(("numpy", seed) for seed in (*range(60), 1341)),
        *(pytest.param("numba", seed, marks=[*NUMBA, *[pytest.mark.slow] * (seed > 3)]) for seed in range(40)),
    ],
)
def test_cells_out_of_a_generator_are_the_same_compiled_and_unfolded(seed: int, target: str):
    rng = Random(seed)
    cell, call = random_cell(rng, rng.randint(3, 12)), random_call(rng)
    same_as_unfolded(lambda: over_time(cell, call), target)


@pytest.mark.parametrize("seed", range(12))
def test_random_cells_over_more_rows_than_are_gathered_at_once(seed: int):
    rng = Random(1000 + seed)
    cell = random_cell(rng, 8)
    lengths = tuple(rng.randint(0, 37) for _ in range(33)) if seed % 2 else None
    same_as_unfolded(lambda: over_time(cell, Call(37, 33, seed % 3 == 0, lengths, True, True, True)))


# ---- Cells that people write ---------------------------------------------------------------------------------------------------------

T, B, D, H = 5, 3, 2, 4
LENGTHS = [3, 0, 5]
CELLS: dict[str, Callable[[], Run]] = {}  # are compiled
OTHERS: dict[str, Callable[[], Run]] = {}  # may be left to the unfolded loop


def cell(f: Callable[[], Run]) -> Callable[[], Run]:
    CELLS[f.__name__.replace("_", " ")] = f
    return f


def other(f: Callable[[], Run]) -> Callable[[], Run]:
    OTHERS[f.__name__.replace("_", " ")] = f
    return f


class Leaves(dict[str, tg.Tensor]):
    """Tensors by name that gradients are asked of, with numbers that are the same each time."""

    def __init__(self, seed: int = 0):
        self.rng = np.random.default_rng(seed)

    def __call__(self, name: str, *shape: int) -> tg.Tensor:
        self[name] = tg.tensor(0.7 * self.rng.standard_normal(shape), requires_grad=True)
        return self[name]

    def simple(self) -> tuple[tg.Tensor, tg.Tensor, tg.Tensor, tg.Tensor]:
        """xs, h, w_ih, w_hh of a simple network."""
        return self("xs", T, B, D), self("h", B, H), self("w_ih", H, D), self("w_hh", H, H)


def run(leaves: Leaves, step: Any, xs: Any, state: Any, weights: Any = (), **options: Any) -> Run:
    hs, last, *more = scan(step, xs, state, weights, **options)
    return Run({"hs": hs, "last": last, **({"more": more[0]} if more else {})}, leaves)


def simple_step(x: Any, h: Any, w: Any, u: Any) -> Any:
    return tg.tanh(F.linear(x, w) + F.linear(h, u))


@cell
def highway() -> Run:
    def step(x, h, w_x, w_h, b, u_x, u_h, c):
        gate = tg.sigmoid(F.linear(x, u_x, c) + F.linear(h, u_h))
        return gate * tg.tanh(F.linear(x, w_x, b) + F.linear(h, w_h)) + (1 - gate) * h

    a = Leaves()
    weights = [a(f"w{i}", *shape) for i, shape in enumerate([(H, D), (H, H), (H,)] * 2)]
    return run(a, step, a("xs", T, B, D), a("h", B, H), weights, lengths=LENGTHS)


@cell
def highway_of_three_layers_a_step() -> Run:
    def step(x, h, w_x, u_x, *layers):
        for depth in range(3):
            w, u, b, c = layers[4 * depth : 4 * depth + 4]
            new, gate = F.linear(h, w, b), F.linear(h, u, c)
            if depth == 0:
                new, gate = new + F.linear(x, w_x), gate + F.linear(x, u_x)
            gate = tg.sigmoid(gate)
            h = h + gate * (tg.tanh(new) - h)
        return h

    a = Leaves()
    weights = [a("w_x", H, D), a("u_x", H, D), *(a(f"w{i}", *shape) for i, shape in enumerate([(H, H), (H, H), (H,), (H,)] * 3))]
    return run(a, step, a("xs", T, B, D), a("h", B, H), weights)


@cell
def minimal_gated_unit() -> Run:
    def step(x, h, w_f, b_f, w_h, b_h):
        f = tg.sigmoid(F.linear(tg.concatenate([h, x], axis=-1), w_f, b_f))
        return (1 - f) * h + f * tg.tanh(F.linear(tg.concatenate([f * h, x], axis=-1), w_h, b_h))

    a = Leaves()
    weights = [a(f"w{i}", *shape) for i, shape in enumerate([(H, H + D), (H,)] * 2)]
    return run(a, step, a("xs", T, B, D), a("h", B, H), weights, reverse=True)


@cell
def layer_normalised_lstm() -> Run:
    def step(x, h, c, w_ih, w_hh, scale_x, scale_h, shift, scale_c, shift_c):
        z = F.layer_norm(F.linear(x, w_ih), 4 * H, scale_x) + F.layer_norm(F.linear(h, w_hh), 4 * H, scale_h, shift)
        i, f, g, o = tg.split(z, 4, axis=-1)
        c = tg.sigmoid(f) * c + tg.sigmoid(i) * tg.tanh(g)
        return tg.sigmoid(o) * tg.tanh(F.layer_norm(c, H, scale_c, shift_c)), c

    a = Leaves()
    weights = [a("w_ih", 4 * H, D), a("w_hh", 4 * H, H), a("g_x", 4 * H), a("g_h", 4 * H), a("b", 4 * H), a("g_c", H), a("b_c", H)]
    return run(a, step, a("xs", T, B, D), (a("h", B, H), a("c", B, H)), weights, lengths=LENGTHS)


@cell
def layer_normalised_rnn_written_out() -> Run:
    def step(x, h, w_ih, w_hh, scale, shift):
        a = x @ w_ih + h @ w_hh
        centred = a - a.mean(axis=-1, keepdims=True)
        return tg.tanh(centred / tg.sqrt((centred * centred).mean(axis=-1, keepdims=True) + 1e-5) * scale + shift)

    a = Leaves()
    return run(a, step, a("xs", T, B, D), a("h", B, H), [a("w", D, H), a("u", H, H), a("g", H), a("b", H)])


@cell
def simple_network_with_transposed_weights() -> Run:
    a = Leaves()
    xs, h, w, u = a.simple()
    return run(a, lambda x, h, w, u: tg.tanh(x @ w.T + h @ u.T), xs, h, (w, u), lengths=LENGTHS)


@cell
def strongly_typed_gates_of_which_only_one_sees_the_state() -> Run:
    def step(x, c, w, b, v):
        new, f, r = tg.split(x @ w + b, 3, axis=-1)
        f = tg.sigmoid(f + v * c)
        return f * c + (1 - f) * new * tg.sigmoid(r)

    a = Leaves()
    return run(a, step, a("xs", T, B, D), a("c", B, H), [a("w", D, 3 * H), a("b", 3 * H), a("v", H)])


@cell
def attention_over_a_captured_memory() -> Run:
    a = Leaves()
    memory, query = a("memory", 6, B, H), a("query", H, H)  # (S, B, H)

    def step(x, h, w_ih, w_hh):
        scores = (memory * F.linear(h, query)).sum(axis=-1, keepdims=True)  # (S, B, 1)
        weights = F.softmax(scores, axis=0)
        return tg.tanh(F.linear(x, w_ih) + F.linear((weights * memory).sum(axis=0), w_hh))

    xs, h, w, u = a.simple()
    return run(a, step, xs, h, (w, u))


@cell
def attention_inside_an_lstm_with_lengths() -> Run:
    a = Leaves()
    memory = a("memory", 6, B, H)

    def step(x, h, c, w_ih, w_hh):
        context = (F.softmax((memory * h).sum(axis=-1, keepdims=True), axis=0) * memory).sum(axis=0)
        return F.lstm_step(tg.concatenate([x, context], axis=-1), h, c, w_ih, w_hh)

    weights = [a("w_ih", 4 * H, D + H), a("w_hh", 4 * H, H)]
    return run(a, step, a("xs", T, B, D), (a("h", B, H), a("c", B, H)), weights, lengths=LENGTHS)


@other
def attention_by_products_of_matrices() -> Run:
    a = Leaves()
    keys, values = a("keys", B, 6, H), a("values", B, 6, H)

    def step(x, h, w_ih, w_hh):
        scores = tg.squeeze(keys @ tg.expand_dims(h, -1), -1) / np.sqrt(H)  # (B, S)
        context = tg.squeeze(tg.expand_dims(F.softmax(scores), 1) @ values, 1)
        return tg.tanh(F.linear(x, w_ih) + F.linear(context, w_hh))

    xs, h, w, u = a.simple()
    return run(a, step, xs, h, (w, u))


@other
def attention_by_einsum() -> Run:
    a = Leaves()
    memory = a("memory", B, 6, H)

    def step(x, h, w_ih, w_hh):
        weights = F.softmax(tg.einsum("bsh,bh->bs", memory, h))
        return tg.tanh(F.linear(x, w_ih) + F.linear(tg.einsum("bs,bsh->bh", weights, memory), w_hh))

    xs, h, w, u = a.simple()
    return run(a, step, xs, h, (w, u))


@other
def attention_of_a_module_over_what_an_encoder_said() -> Run:
    a = Leaves()
    memory = tg.tanh(a("memory", 6, B, H))
    look = nn.AdditiveAttention(H, H, 3, rng=0).to(dtype="float64")
    projected = look.project(memory)

    def step(x, h, w_ih, w_hh):
        context, _ = look(h, memory, projected=projected)
        return tg.tanh(F.linear(x, w_ih) + F.linear(context, w_hh))

    xs, h, w, u = a.simple()
    a.update(look.named_parameters())
    return run(a, step, xs, h, (w, u))


@cell
def zoneout_with_masks_drawn_before() -> Run:
    a = Leaves()
    keep = np.random.default_rng(1).random((B, H)) < 0.4

    def step(x, h, w, u):
        return tg.where(keep, h, tg.tanh(F.linear(x, w) + F.linear(h, u)))

    xs, h, w, u = a.simple()
    return run(a, step, xs, h, (w, u))


@cell
def zoneout_with_a_mask_for_every_step_in_xs() -> Run:
    a = Leaves()
    masks = (np.random.default_rng(1).random((T, B, H)) < 0.4).astype(float)

    def step(x, h, w, u):
        x, mask = x[:, :D], x[:, D:]
        return mask * h + (1 - mask) * tg.tanh(F.linear(x, w) + F.linear(h, u))

    xs, h, w, u = a.simple()
    return run(a, step, tg.concatenate([xs, masks], axis=-1), h, (w, u))


@cell
def captured_array_and_captured_tensor_without_a_gradient() -> Run:
    a = Leaves()
    scale, shift = a.rng.standard_normal(H), tg.tensor(a.rng.standard_normal((B, H)))
    xs, h, w, u = a.simple()
    return run(a, lambda x, h, w, u: tg.tanh(F.linear(x, w) * scale + F.linear(h, u) + shift), xs, h, (w, u), lengths=LENGTHS)


@cell
def captured_tensor_that_was_computed() -> Run:
    a = Leaves()
    v = a("v", H, H)
    u = 0.5 * tg.tanh(v)  # no leaf: its gradient goes on to v
    bias = v.sum(axis=0)
    return run(a, lambda x, h, w: tg.tanh(F.linear(x, w, bias) + F.linear(h, u)), a("xs", T, B, D), a("h", B, H), [a("w", H, D)])


@cell
def weights_computed_from_leaves() -> Run:
    a = Leaves()
    xs, h, w, u = a.simple()
    return run(a, F.rnn_step, tg.tanh(xs), h * 0.5, (w * 2, (u - u.T) / 2))


@cell
def one_tensor_in_several_places() -> Run:
    a = Leaves()
    h, w = a("h", B, H), a("w", H, H)

    def step(x, h, c, w, u):
        return tg.tanh(F.linear(x, w) + F.linear(h, u)) * tg.sigmoid(c), F.linear(c, w)

    return run(a, step, a("xs", T, B, H), (h, h), (w, w), lengths=LENGTHS)


@cell
def weight_given_and_captured() -> Run:
    a = Leaves()
    xs, h, w, u = a.simple()
    return run(a, lambda x, h, w, v: tg.tanh(F.linear(x, w) + F.linear(h, v) + 0.1 * F.linear(h, u)), xs, h, (w, u))


@cell
def states_changing_places_and_a_counter_that_only_counts() -> Run:
    a = Leaves()

    def step(x, h, c, n, w):
        return tg.tanh(F.linear(x, w) + c), h, n + 1

    return run(a, step, a("xs", T, B, D), (a("h", B, H), a("c", B, H), a("n", B, 1)), [a("w", H, D)], lengths=LENGTHS)


@cell
def state_that_never_changes() -> Run:
    a = Leaves()
    return run(
        a, lambda x, h, m, w: (tg.tanh(F.linear(x, w) + h * m), m), a("xs", T, B, D), (a("h", B, H), a("m", B, H)), [a("w", H, D)]
    )


@cell
def three_states_that_rotate() -> Run:
    a = Leaves()
    states = tuple(a(name, B, H) for name in "hcm")
    return run(a, lambda x, h, c, m, w: (c, m, h + F.linear(x, w)), a("xs", T, B, D), states, [a("w", H, D)], lengths=LENGTHS)


@cell
def state_that_is_a_part_of_another() -> Run:
    a = Leaves()
    states = a("h", B, D), a("c", B, 1), a("m", B, 1)
    return run(a, lambda x, h, c, m: (x, h[:, 1:2], c), a("xs", T, B, D), states)


@cell
def states_that_are_halves_of_one_another() -> Run:
    def step(x, h, c, w):
        low, high = tg.split(h, 2, axis=-1)
        return tg.concatenate([F.linear(x, w), c], axis=-1), tg.tanh(low) + high

    a = Leaves()
    return run(a, step, a("xs", T, B, D), (a("h", B, H), a("c", B, H // 2)), [a("w", H // 2, D)], lengths=LENGTHS)


@cell
def half_of_the_state_is_never_read() -> Run:
    a = Leaves()
    return run(a, lambda x, h, w: F.linear(tg.split(h, 2, axis=-1)[0] + x, w), a("xs", T, B, D), a("h", B, H), [a("w", H, H // 2)])


@cell
def one_gate_of_four_is_never_read() -> Run:
    def step(x, h, w, u):
        i, _, g, o = tg.split(F.linear(x, w) + F.linear(h, u), 4, axis=-1)
        return tg.sigmoid(o) * tg.tanh(tg.sigmoid(i) * g)

    a = Leaves()
    return run(a, step, a("xs", T, B, D), a("h", B, H), [a("w", 4 * H, D), a("u", 4 * H, H)], lengths=LENGTHS)


@cell
def output_that_is_x_and_a_state_behind_it() -> Run:
    a = Leaves()
    return run(
        a,
        lambda x, y, h, w, u: (x, simple_step(x, h, w, u)),
        a("xs", T, B, D),
        (a("y", B, D), a("h", B, H)),
        [a("w", H, D), a("u", H, H)],
    )


@cell
def largest_of_each_row() -> Run:
    def step(x, h, c):
        return tg.max(tg.concatenate([h, x], axis=-1), axis=-1, keepdims=True), c - tg.max(c, axis=-1, keepdims=True) + h

    a = Leaves()
    return run(a, step, a("xs", T, B, D), (a("h", B, 1), a("c", B, H)), lengths=LENGTHS)


@cell
def quotients_and_roots_that_only_rows_in_motion_can_take() -> Run:
    def step(x, h, w):
        return tg.tanh(F.linear(x, w)) / tg.sqrt(h * h) + tg.log(h * h) * 0.1 + 1 / h

    a = Leaves()
    return run(a, step, a("xs", T, B, D), a("h", B, H), [a("w", H, D)], lengths=LENGTHS)


@cell
def number_out_of_numpy_in_an_equation() -> Run:
    a = Leaves()
    xs, h, w, u = a.simple()
    return run(a, lambda x, h, w, u: tg.tanh(F.linear(x, w) / np.sqrt(D) + np.float64(0.3) * F.linear(h, u)), xs, h, (w, u))


@cell
def state_that_forgets_and_a_weight_without_use() -> Run:
    a = Leaves()
    return run(a, lambda x, h, w, u: tg.tanh(F.linear(x, w)), a("xs", T, B, D), a("h", B, H), [a("w", H, D), a("u", 2, 2)])


@cell
def no_look_at_x() -> Run:
    a = Leaves()
    return run(a, lambda x, h, w: tg.tanh(F.linear(h, w)), a("xs", T, B, D), a("h", B, H), [a("w", H, H)], lengths=LENGTHS)


@cell
def sum_over_time() -> Run:
    a = Leaves()
    return run(a, lambda x, h: h + x, a("xs", T, B, H), a("h", B, H), lengths=LENGTHS, reverse=True)


@cell
def weights_that_are_numbers_or_left_out() -> Run:
    a = Leaves()
    xs, h, w, u = a.simple()

    def step(x, h, w, u, bias, gain):
        return tg.tanh(gain * F.linear(x, w, bias) + F.linear(h, u))

    return run(a, step, xs, h, (w, u, None, 0.5))


@cell
def operators_and_functions_of_numpy_on_tensors() -> Run:
    a = Leaves()
    xs, h, w, u = a.simple()
    return run(a, lambda x, h, w, u: np.tanh(x @ w.T + np.matmul(h, u.T)) / (2 + np.abs(h)) ** 2, xs, h, (w, u))


@cell
def what_is_collected_of_a_step() -> Run:
    a = Leaves()
    xs, h, w, u = a.simple()

    def step(x, h, w, u):
        new = F.linear(x, w) + F.linear(h, u)
        return tg.tanh(new), {"before": h, "sum": new}["sum"], h

    def collecting(x, h, w, u):
        new, total, before = step(x, h, w, u)
        return new, (total, before, x, new * 2)

    return run(a, collecting, xs, h, (w, u), collect=True, lengths=LENGTHS)


@cell
def sequence_of_numbers_and_states_without_a_batch() -> Run:
    a = Leaves()
    return run(
        a, lambda x, h, w, u, b: tg.tanh(w @ x + u @ h + b), a("xs", T, D), a("h", H), [a("w", H, D), a("u", H, H), a("b", H)]
    )


@cell
def sequence_of_one_number_for_each_row() -> Run:
    a = Leaves()
    return run(a, lambda x, h, w: tg.sigmoid(w * h + x), a("xs", T, B), a("h", B), [a("w")], lengths=LENGTHS)


@other
def sequence_of_numbers_and_a_state_that_is_one() -> Run:
    a = Leaves()
    return run(a, lambda x, h, w: tg.tanh(w * h + x), a("xs", T), a("h"), [a("w")])


@other
def sequence_of_pictures() -> Run:
    a = Leaves()

    def step(x, h, w, u):
        return tg.tanh(x @ w + tg.expand_dims(h.mean(axis=1), 1) @ u)  # (B, C, H)

    return run(a, step, a("xs", T, B, 3, D), a("h", B, 3, H), [a("w", D, H), a("u", H, H)], lengths=LENGTHS)


@other
def convolution_over_each_step() -> Run:
    a = Leaves()

    def step(x, h, w, u):
        return tg.tanh(F.conv1d(x, w, padding=1) + F.conv1d(h, u, padding=1))

    return run(a, step, a("xs", T, B, 2, 6), a("h", B, 3, 6), [a("w", 3, 2, 3), a("u", 3, 3, 3)])


@other
def loop_inside_a_step() -> Run:
    a = Leaves()

    def step(x, h, w, u):
        _, h = scan(lambda part, h, u: tg.tanh(F.linear(h, u) + part), tg.stack([F.linear(x, w), x @ w.T]), h, (u,))
        return h

    xs, h, w, u = a.simple()
    return run(a, step, xs, h, (w, u))


@other
def symbols_looked_up_inside_the_step() -> Run:
    a = Leaves()
    symbols = np.array([[0, 3, 1], [2, 2, 0], [1, 0, 0], [3, 1, 2], [0, 0, 0]])
    return run(
        a,
        lambda x, h, table, u: tg.tanh(F.embedding(x, table) + F.linear(h, u)),
        symbols,
        a("h", B, H),
        [a("E", 4, H), a("u", H, H)],
    )


@other
def every_second_row_and_what_stands_at_places() -> Run:
    a = Leaves()
    xs, h, w, u = a.simple()

    def step(x, h, w, u):
        h = tg.tanh(F.linear(x, w) + F.linear(h, u))
        return tg.concatenate([h[:, ::2], h[:, [1, 3]]], axis=-1) + h[::-1] * 0.1

    return run(a, step, xs, h, (w, u))


@other
def sorted_summed_up_and_rolled() -> Run:
    a = Leaves()
    xs, h, w, u = a.simple()
    return run(a, lambda x, h, w, u: tg.tanh(tg.cumsum(F.linear(x, w), axis=-1) + tg.roll(tg.sort(h), 1, axis=-1)), xs, h, (w, u))


class Attributes:
    """Steps as people keep them: a method, an object that is called."""

    def __init__(self, w: Any, u: Any):
        self.w, self.u = w, u

    def step(self, x, h):
        return tg.tanh(F.linear(x, self.w) + F.linear(h, self.u))

    __call__ = step


def scaled(x: Any, h: Any, w: Any, u: Any, *, gain: float) -> Any:
    return tg.tanh(gain * F.linear(x, w) + F.linear(h, u))


@cell
def bound_method() -> Run:
    a = Leaves()
    xs, h, w, u = a.simple()
    return run(a, Attributes(w, u).step, xs, h)


@cell
def object_that_is_called() -> Run:
    a = Leaves()
    xs, h, w, u = a.simple()
    return run(a, Attributes(w, u), xs, h)


@cell
def partial_of_a_function() -> Run:
    a = Leaves()
    xs, h, w, u = a.simple()
    return run(a, functools.partial(scaled, gain=0.3), xs, h, (w, u))


@cell
def partial_that_holds_weights() -> Run:
    a = Leaves()
    xs, h, w, u = a.simple()
    return run(a, functools.partial(scaled, w=w, u=u, gain=0.3), xs, h)


@cell
def default_argument_that_is_a_tensor() -> Run:
    a = Leaves()
    xs, h, w, u = a.simple()
    return run(a, lambda x, h, w=w, u=u: tg.tanh(F.linear(x, w) + F.linear(h, u)), xs, h)


@cell
def decorated_function() -> Run:
    def twice(f):
        @functools.wraps(f)
        def inside(*args):
            return 0.5 * f(*args) + 0.5 * f(*args)

        return inside

    a = Leaves()
    xs, h, w, u = a.simple()
    return run(a, twice(F.rnn_step), xs, h, (w, u))


def _by_slices(order: tuple[int, ...]) -> Run:
    """An LSTM whose gates are slices of one product, the blocks in some order."""
    a = Leaves()
    xs, h, c, w, u = a("xs", T, B, D), a("h", B, H), a("c", B, H), a("w", 4 * H, D), a("u", 4 * H, H)

    def step(x, h, c, w, u):
        z = F.linear(x, w) + F.linear(h, u)
        i, f, g, o = (z[:, k * H : (k + 1) * H] for k in order)
        c = tg.sigmoid(f) * c + tg.sigmoid(i) * tg.tanh(g)
        return tg.sigmoid(o) * tg.tanh(c), c

    return run(a, step, xs, (h, c), (w, u))


@cell
def gates_as_slices_of_one_product() -> Run:
    return _by_slices((0, 1, 2, 3))


@cell
def gates_as_slices_in_another_order() -> Run:
    return _by_slices((3, 1, 0, 2))


@cell
def slices_that_overlap_or_leave_something_out() -> Run:
    a = Leaves()
    xs, h, w, u = a.simple()

    def step(x, h, w, u):
        z = F.linear(x, w) + F.linear(h, u)
        return tg.tanh(tg.concatenate([z[:, : H - 1] * z[:, 1:], z[:, 1:2]], axis=-1))

    return run(a, step, xs, h, (w, u))


@cell
def gelu_in_a_highway_network() -> Run:
    a = Leaves()
    xs, h, w, u = a.simple()

    def step(x, h, w, u):
        t = tg.sigmoid(F.linear(h, u))
        return t * F.gelu(F.linear(x, w) + h) + (1 - t) * h

    return run(a, step, xs, h, (w, u))


@mostly_numpy
@pytest.mark.parametrize("name", CELLS)
def test_cells_that_people_write_are_compiled(name: str, target: str):
    same_as_unfolded(CELLS[name], target)


@mostly_numpy
@pytest.mark.parametrize("name", OTHERS)
def test_other_steps_give_the_same_compiled_or_not(name: str, target: str):
    same_as_unfolded(OTHERS[name], target, loops=None)


# ---- Modules ---------------------------------------------------------------------------------------------------------------------------


class Simple(nn.Module):
    """A simple network, as a student writes it."""

    def __init__(self, D: int, rng: Any):
        self.hidden_size, self.w, self.u = H, nn.Linear(D, H, rng=rng), nn.Linear(H, H, rng=rng)

    def forward(self, x, h):
        return tg.tanh(self.w(x) + self.u(h))


class Gated(nn.Module):
    """A cell with a norm, two states of different widths, and a gate to show."""

    def __init__(self, D: int, rng: Any):
        self.state_sizes = (H, 2)
        self.w, self.u = nn.Linear(D + 2, H, rng=rng), nn.Linear(H, 2, rng=rng)
        self.norm, self.scale = nn.LayerNorm(H), nn.Parameter(np.full(H, 0.7))

    def forward(self, x, state, return_gates=False):
        h, m = state
        h = tg.tanh(self.norm(self.w(tg.concatenate([x, m], axis=-1)))) * self.scale + 0.5 * h
        gate = tg.sigmoid(self.u(h))
        new = h, gate * m + 1
        return (new, gate) if return_gates else new


class Stacked(nn.Module):
    """A cell made of cells."""

    def __init__(self, D: int, rng: Any):
        self.state_sizes = (H, H, H)
        self.below, self.above = nn.GRUCell(D, H, rng=rng), nn.LSTMCell(H, H, rng=rng)

    def forward(self, x, state):
        h, c, below = state
        below = self.below(x, below)
        return *self.above(below, (h, c)), below


MODULES: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "simple": (Simple, {}),
    "gated": (Gated, {}),
    "gated, gates shown": (Gated, {"return_gates": True}),
    "stacked": (Stacked, {}),
    "nn.RNNCell": (lambda D, rng: nn.RNNCell(D, H, nonlinearity="relu", rng=rng), {}),
    "nn.RNNCell of 3 taps": (lambda D, rng: nn.RNNCell(D, H, taps=3, rng=rng), {}),
    "nn.LSTMCell": (lambda D, rng: nn.LSTMCell(D, H, rng=rng), {"return_gates": True}),
    "nn.LSTMCell projected": (lambda D, rng: nn.LSTMCell(D, H, proj_size=2, rng=rng), {}),
    "nn.LSTMCell with peepholes": (lambda D, rng: nn.LSTMCell(D, H, peephole="full", rng=rng), {}),
    "nn.GRUCell": (lambda D, rng: nn.GRUCell(D, H, rng=rng), {"return_gates": True}),
    "nn.NARXCell": (lambda D, rng: nn.NARXCell(D, 3, H, 2, rng=rng), {}),
}


@mostly_numpy
@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["full", "lengths"])
@pytest.mark.parametrize("name", MODULES)
def test_modules_as_cells_are_compiled_in_every_layer_and_direction(name: str, lengths: Any, target: str):
    make, options = MODULES[name]

    def run() -> Run:
        rng = np.random.default_rng(2)
        net = nn.Recurrent(lambda width: make(width, rng), D, 2, bidirectional=True).to(dtype="float64")
        xs = tg.tensor(rng.standard_normal((T, B, D)), requires_grad=True)
        hs, last, *more = net(xs, None, lengths, **options)
        return Run({"hs": hs, "last": last, **({"more": more[0]} if more else {})}, {"xs": xs, **dict(net.named_parameters())})

    same_as_unfolded(run, target, loops=4)


@pytest.mark.parametrize("name", ["simple", "gated", "stacked", "nn.LSTMCell"])
def test_what_is_said_of_a_module_is_what_happens(name: str):
    net = nn.Recurrent(lambda width: MODULES[name][0](width, 0), D).to(dtype="float64")
    told = tg.explain_compile(net, np.zeros((T, B, D)))
    assert told.compiled and told.reason is None and told.source


@pytest.mark.parametrize("name", [name for name in (*CELLS, *OTHERS) if name != "loop inside a step"])
def test_what_is_said_of_a_step_is_what_happens(name: str, monkeypatch: pytest.MonkeyPatch):
    said: list[Any] = []

    def explaining(step: Any, xs: Any, state: Any, weights: Any = (), **options: Any) -> Any:
        said.append(tg.explain_compile(step, xs[0], state, weights) if not options.get("collect") else None)
        return tg.scan(step, xs, state, weights, **options)

    monkeypatch.setitem(globals(), "scan", explaining)
    outputs = {**CELLS, **OTHERS}[name]().outputs
    told = said[-1]
    if told is not None:
        assert told.compiled == (not times(tape(outputs)))
        assert told.compiled == (told.reason is None)
        assert told.compiled or told.reason in str(told)


def test_arrays_in_arrays_out():
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(shape) for shape in [(T, B, D), (B, H), (H, D), (H, H)]]
    with tg.unfolded():
        expected = scan(F.rnn_step, *arrays[:2], arrays[2:], lengths=LENGTHS)
    for a, b in zip(scan(F.rnn_step, *arrays[:2], arrays[2:], lengths=LENGTHS), expected, strict=True):
        assert type(a) is np.ndarray
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)
