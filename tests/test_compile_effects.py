"""What a step does besides its equations is done at every step: no value, no random number, no branch of one step stands for all.

Whether such a step is compiled is free; that it does what the unfolded loop does is not.
"""

from __future__ import annotations

import functools
import itertools
import random
import types
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
from compiled import Run, agree, mostly_numpy, numbers, on, parts

import tinygrad_seq as tg
from tinygrad_seq import nn, optim
from tinygrad_seq.frames import thread
from tinygrad_seq.nn import functional as F
from tinygrad_seq.scan import scan

T, B, D, H = 5, 3, 2, 4
LENGTHS = [3, 0, 5]
Effect = Callable[["World"], "dict[str, Any] | None"]
EFFECTS: dict[str, Effect] = {}


class World:
    """Leaves, the same each time, and loops over them; what came out is kept under the number of the loop."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(0)
        self.leaves: dict[str, tg.Tensor] = {}
        self.outputs: dict[str, Any] = {}
        self.xs, self.h = self.leaf("xs", T, B, D), self.leaf("h", B, H)
        self.w, self.u = self.leaf("w", H, D), self.leaf("u", H, H)

    def leaf(self, name: str, *shape: int) -> tg.Tensor:
        self.leaves[name] = tg.tensor(0.7 * self.rng.standard_normal(shape), requires_grad=True)
        return self.leaves[name]

    def run(self, step: Any, xs: Any = None, state: Any = None, weights: Any = None, **options: Any) -> tuple[Any, ...]:
        """scan, of a simple network's arguments where none are given."""
        xs, state = self.xs if xs is None else xs, self.h if state is None else state
        out = scan(step, xs, state, (self.w, self.u) if weights is None else weights, **options)
        self.outputs[f"loop {len(self.outputs)}"] = out
        return out


def effect(f: Effect) -> Effect:
    EFFECTS[f.__name__.replace("_", " ")] = f
    return f


def observed(f: Effect) -> dict[str, np.ndarray]:
    """Everything that can be seen of an effect: outputs, gradients, what it tells, and the numbers drawn afterwards."""
    tg.seed(3)
    np.random.seed(3)
    world = World()
    told = f(world) or {}
    found = numbers(Run(world.outputs, world.leaves))
    found |= {f"{name}[{i}]": np.asarray(part) for name, value in told.items() for i, part in enumerate(parts(value))}
    return found | {"drawn afterwards": tg.random.standard_normal(2).numpy(), "drawn by NumPy": np.random.rand(2)}


def simple(x: Any, h: Any, w: Any, u: Any) -> Any:
    return tg.tanh(F.linear(x, w) + F.linear(h, u))


# ---- Chance --------------------------------------------------------------------------------------------------------------------------


@effect
def dropout_inside_the_step(world: World) -> None:
    world.run(lambda x, h, w, u: simple(x, F.dropout(h, 0.5), w, u))


@effect
def dropout_of_a_module_with_a_generator_of_its_own(world: World) -> None:
    drop = nn.Dropout(0.5, rng=np.random.default_rng(1))
    world.run(lambda x, h, w, u: drop(simple(x, h, w, u)), lengths=LENGTHS, reverse=True)
    drop.eval()
    world.run(lambda x, h, w, u: drop(simple(x, h, w, u)))


@effect
def noise_added_to_the_state(world: World) -> None:
    world.run(lambda x, h, w, u: simple(x, h, w, u) + 0.1 * tg.random.standard_normal(h.shape, dtype="float64"))


@effect
def noise_from_a_generator_of_numpy(world: World) -> dict[str, Any]:
    rng = np.random.default_rng(5)
    world.run(lambda x, h, w, u: simple(x, h, w, u) + 0.1 * rng.standard_normal(H))
    return {"next": rng.random()}


@effect
def noise_from_the_global_generator_of_numpy(world: World) -> None:
    world.run(lambda x, h, w, u: simple(x, h, w, u) * np.random.rand())


@effect
def noise_after_equations_of_which_the_first_could_be_compiled(world: World) -> dict[str, Any]:
    calls = []

    def step(x, h, w, u):
        calls.append(1)
        return F.dropout(simple(x, h, w, u), 0.3)

    world.run(step)
    return {"calls": len(calls)}


@effect
def variational_dropout_with_a_mask_drawn_once(world: World) -> None:
    for seed in (1, 2):
        mask = (np.random.default_rng(seed).random((B, H)) > 0.5) * 2.0
        world.run(lambda x, h, w, u, mask=mask: simple(x, h * mask, w, u))


# ---- Values that decide -----------------------------------------------------------------------------------------------------------


@effect
def branch_on_the_sign_of_the_state(world: World) -> None:
    world.run(lambda x, h, w, u: simple(x, h, w, u) if float(h.sum()) > 0 else simple(-x, h, w, u) * 0.5)


@effect
def branch_on_a_tensor_as_truth(world: World) -> None:
    world.run(lambda x, h, w, u: -simple(x, h, w, u) if (x > 0).all() or h[0, 0] > 0 else simple(x, h, w, u))


@effect
def loop_until_the_state_is_small(world: World) -> None:
    def step(x, h, w, u):
        while float(tg.abs(h).max()) > 0.5:
            h = h * 0.5
        return simple(x, h, w, u)

    world.run(step)


@effect
def largest_element_chosen_by_its_place(world: World) -> None:
    world.run(lambda x, h, w, u: simple(x, h, w, u) + h[:, int(h[0].argmax()) : int(h[0].argmax()) + 1])


@effect
def items_as_numbers(world: World) -> None:
    world.run(lambda x, h, w, u: simple(x, h, w, u) * (1 + abs(h[0, 0].item())))


@effect
def items_of_x_as_numbers(world: World) -> None:
    world.run(lambda x, h, w, u: simple(x, h, w, u) * (1 + abs(x[0, 0].item())), np.asarray(world.xs.data))


@effect
def lists_of_numbers(world: World) -> None:
    world.run(lambda x, h, w, u: simple(x, h, w, u) + np.array(h.tolist()).mean())


@effect
def printed_numbers(world: World) -> dict[str, Any]:
    lines: list[str] = []

    def step(x, h, w, u):
        lines.append(f"{h[0, 0]:.6f}")
        return simple(x, h, w, u)

    world.run(step)
    return {"lines": [np.array([float(line) for line in lines])]}


@effect
def numpy_on_the_arrays_behind(world: World) -> None:
    world.run(lambda x, h, w, u: simple(x, h, w, u) + np.sin(h.numpy()) + np.cos(h.data) + np.asarray(x).sum())


@effect
def tensors_made_of_the_arrays_behind(world: World) -> None:
    world.run(lambda x, h, w, u: simple(x, h, w, u) + tg.tensor(h.numpy() ** 2) + tg.tensor(x.data).sum())


@effect
def state_cut_off_from_its_gradient(world: World) -> None:
    world.run(lambda x, h, w, u: simple(x, 0.5 * h + 0.5 * h.detach(), w, u), lengths=LENGTHS)


@effect
def gate_computed_without_recording(world: World) -> None:
    def step(x, h, w, u):
        with tg.no_grad():
            gate = tg.sigmoid(F.linear(h, u))
        return gate * simple(x, h, w, u)

    world.run(step)


@effect
def comparisons_as_numbers(world: World) -> None:
    world.run(lambda x, h, w, u: simple(x, h, w, u) + 0.3 * (h > 0) - 0.1 * (x.sum(axis=-1, keepdims=True) > 0).astype("float64"))


@effect
def steps_of_functions_without_a_slope(world: World) -> None:
    world.run(lambda x, h, w, u: simple(x, h, w, u) + 0.1 * tg.sign(h) + 0.1 * tg.floor(3 * h) + tg.round(h))


@effect
def straight_through(world: World) -> None:
    world.run(lambda x, h, w, u: (lambda y: y + (tg.sign(y) - y).detach())(simple(x, h, w, u)))


@effect
def winner_takes_all(world: World) -> None:
    world.run(
        lambda x, h, w, u: simple(x, h, w, u) * tg.one_hot(tg.argmax(h, axis=-1), H) + tg.take_along_axis(h, tg.argsort(h), axis=-1)
    )


@effect
def change_of_dtype_and_back(world: World) -> None:
    world.run(lambda x, h, w, u: simple(x, h.astype("float32").astype("float64"), w, u))


@effect
def gradient_taken_inside_the_step(world: World) -> None:
    def step(x, h, w, u):
        with tg.enable_grad():
            point = tg.tensor(h.numpy(), requires_grad=True)
            (slope,) = tg.grad((tg.tanh(point) ** 2).sum(), [point])
        return simple(x, h - 0.1 * slope, w, u)

    world.run(step)


@effect
def gradient_of_the_state_itself_inside_the_step(world: World) -> None:
    def step(x, h, w, u):
        return simple(x, h - 0.1 * tg.grad((tg.tanh(h) ** 2).sum(), h, create_graph=True), w, u)

    world.run(step)


# ---- xs that are bare arrays --------------------------------------------------------------------------------------------------------


@effect
def bare_x_through_functions_of_numpy(world: World) -> None:
    xs = np.asarray(world.xs.data)
    world.run(lambda x, h, w, u: simple(np.sin(x) * np.linalg.norm(x), h, w, u), xs)


@effect
def bare_x_told_apart_from_a_tensor(world: World) -> None:
    step = lambda x, h, w, u: simple(x, h, w, u) * (2 if isinstance(x, np.ndarray) else 3)  # noqa: E731
    world.run(step, np.asarray(world.xs.data))
    world.run(step)


@effect
def bare_x_that_decides(world: World) -> None:
    world.run(lambda x, h, w, u: h * 0.5 if x.sum() > 0 else simple(x, h, w, u), np.asarray(world.xs.data))


@effect
def symbols_that_are_rows_of_a_table(world: World) -> None:
    table = world.leaf("table", 6, H)
    symbols = np.random.default_rng(2).integers(0, 6, (T, B))
    world.run(lambda x, h, u: tg.tanh(F.embedding(x, table) + F.linear(h, u)), symbols, weights=(world.u,), lengths=LENGTHS)
    world.run(lambda x, h, u: tg.tanh(table[x] + F.linear(h, u)), symbols, weights=(world.u,))
    world.run(lambda x, h, u: tg.tanh(tg.one_hot(x, 6, dtype="float64") @ table + F.linear(h, u)), symbols, weights=(world.u,))


@effect
def whole_numbers_as_the_state(world: World) -> None:
    def step(x, h, n, w, u):
        return simple(x, h, w, u) / (1 + n), n + 1

    world.run(step, state=(world.h, np.zeros((B, 1), np.int64)), lengths=LENGTHS)


@effect
def whole_numbers_and_truths_collected(world: World) -> None:
    def step(x, h, w, u):
        new = simple(x, h, w, u)
        return new, (tg.argmax(new, axis=-1), new > 0)

    world.run(step, collect=True, lengths=LENGTHS)


@effect
def float32_inputs_with_float64_weights(world: World) -> None:
    xs = tg.tensor(world.xs.data.astype("float32"), requires_grad=True)
    world.leaves["xs32"] = xs
    world.run(simple, xs)
    world.run(simple, xs, tg.zeros((B, H)))  # a state of float32 that becomes float64 at t = 1
    world.run(simple, np.asarray(world.xs.data, "float32"), np.zeros((B, H), "float32"), lengths=LENGTHS)


@effect
def half_precision(world: World) -> None:
    arrays = [np.asarray(a.data, "float16") for a in (world.xs, world.h, world.w, world.u)]
    xs, h, *weights = arrays
    world.run(simple, xs, h, [tg.tensor(a, requires_grad=True) for a in weights])


# ---- The world around -------------------------------------------------------------------------------------------------------------


@effect
def counter_in_a_closure(world: World) -> dict[str, Any]:
    count = 0

    def step(x, h, w, u):
        nonlocal count
        count += 1
        return simple(x, h, w, u) * count

    world.run(step)
    world.run(step)
    return {"count": count}


@effect
def counter_that_changes_nothing(world: World) -> dict[str, Any]:
    calls = []

    def step(x, h, w, u):
        calls.append(1)
        return simple(x, h, w, u)

    world.run(step)
    return {"calls": len(calls)}


@effect
def counter_in_an_attribute(world: World) -> dict[str, Any]:
    cell = SimpleNamespace(t=0)

    def step(x, h, w, u):
        cell.t += 1
        return simple(x, h, w, u) if cell.t % 2 else h * 0.9

    world.run(step)
    return {"t": cell.t}


@effect
def counter_on_the_function_itself(world: World) -> dict[str, Any]:
    def step(x, h, w, u):
        step.t += 1
        return simple(x, h, w, u) if step.t % 5 != 3 else 0.5 * h

    step.t = 0
    world.run(step)
    world.run(step)
    return {"t": step.t}


@effect
def counter_on_a_class(world: World) -> dict[str, Any]:
    class Cell:
        t = 0

        def __call__(self, x, h, w, u):
            Cell.t += 1
            return simple(x, h, w, u) if Cell.t % 5 != 3 else 0.5 * h

    world.run(Cell())
    world.run(Cell())
    return {"t": Cell.t}


@effect
def states_kept_by_a_method_of_a_list(world: World) -> dict[str, Any]:
    kept: list[Any] = []
    keep = kept.append

    def step(x, h, w, u):
        keep(h)
        return simple(x, h, w, u)

    world.run(step)
    world.run(step)
    world.outputs["kept"] = tuple(kept)
    return {"count": len(kept)}


@effect
def setting_got_by_a_method_of_a_dict(world: World) -> None:
    chosen = {"gain": 1.0}
    get = chosen.get
    step = lambda x, h, w, u: get("gain") * simple(x, h, w, u)  # noqa: E731
    for chosen["gain"] in (1.0, 0.5):
        world.run(step)


@effect
def teacher_forcing_by_coins_of_the_standard_library(world: World) -> dict[str, Any]:
    own = random.Random(2)  # the first two coins are alike
    random.seed(2)
    for coin in (random.random, own.random, lambda: random.random(), lambda: own.random()):
        for _ in range(2):
            world.run(lambda x, h, w, u, coin=coin: simple(x if coin() > 0.5 else h[:, :D], h, w, u))
    return {"next": random.random(), "next of one's own": own.random()}


@effect
def teacher_forcing_by_coins_of_numpy(world: World) -> dict[str, Any]:
    rng = np.random.default_rng(4)
    coins = [np.random.rand, rng.random, lambda: tg.random.uniform().item()]
    for coin in coins:
        for _ in range(2):
            world.run(lambda x, h, w, u, coin=coin: simple(x if coin() > 0.5 else h[:, :D], h, w, u))
    return {"next": rng.random()}


@effect
def next_of_an_iterator(world: World) -> None:
    gains = itertools.cycle([0.5, 1.0, 2.0])
    world.run(lambda x, h, w, u: simple(x, h, w, u) * next(gains))


@effect
def another_weight_at_each_step(world: World) -> None:
    weights = iter([world.leaf(f"u{t}", H, H) for t in range(T)])
    world.run(lambda x, h, w, u: simple(x, h, w, u) + F.linear(h, next(weights)))


@effect
def teacher_forcing_by_a_list_of_choices(world: World) -> None:
    choices = iter([True, True, False, True, False])
    world.run(lambda x, h, w, u: simple(x if next(choices) else h[:, :D], h, w, u))


@effect
def states_kept_in_a_list(world: World) -> dict[str, Any]:
    kept: list[Any] = []

    def step(x, h, w, u):
        kept.append(h)
        return simple(x, h, w, u)

    world.run(step)
    world.outputs["kept"] = tuple(kept)
    return {"count": len(kept)}


@effect
def gates_kept_in_a_list(world: World) -> None:
    gates: list[Any] = []

    def step(x, h, w, u):
        gates.append(tg.sigmoid(F.linear(h, u)))
        return gates[-1] * tg.tanh(F.linear(x, w))

    world.run(step)
    world.outputs["gates"] = tuple(gates)


@effect
def gates_kept_in_an_attribute_of_a_module(world: World) -> None:
    class Cell(nn.Module):
        def __init__(self) -> None:
            self.hidden_size, self.w, self.u = H, nn.Linear(D, H, rng=0), nn.Linear(H, H, rng=0)
            self.seen: Any = None

        def forward(self, x, h):
            self.seen = tg.sigmoid(self.u(h))
            return self.seen * tg.tanh(self.w(x))

    cell = Cell().to(dtype="float64")
    world.leaves |= dict(cell.named_parameters())
    world.outputs["net"] = nn.Recurrent(cell)(world.xs)
    world.outputs["seen"] = cell.seen


@effect
def arrays_kept_in_a_list(world: World) -> dict[str, Any]:
    kept: list[Any] = []

    def step(x, h, w, u):
        kept.append(h.numpy().copy())
        return simple(x, h, w, u)

    world.run(step)
    return {"kept": kept}


@effect
def what_earlier_steps_left_behind(world: World) -> None:
    before: list[Any] = [0.0]

    def step(x, h, w, u):
        new = simple(x, h, w, u) + 0.2 * before[-1]
        before.append(new)
        return new

    world.run(step)


@effect
def array_written_to_by_the_step(world: World) -> dict[str, Any]:
    total = np.zeros((B, H))

    def step(x, h, w, u):
        total[...] += h.numpy()
        return simple(x, h, w, u) + 0.1 * total

    world.run(step)
    return {"total": total}


@effect
def running_statistics_of_a_batch_norm(world: World) -> dict[str, Any]:
    norm = nn.BatchNorm1d(H).to(dtype="float64")
    world.run(lambda x, h, w, u: simple(x, norm(h), w, u))
    trained = [a.numpy().copy() for _, a in norm.named_buffers()]
    norm.eval()
    world.run(lambda x, h, w, u: simple(x, norm(h), w, u), lengths=LENGTHS)
    return {"after training": trained, "after evaluation": [a.numpy() for _, a in norm.named_buffers()]}


@effect
def hooks_set_inside_the_step(world: World) -> None:
    def step(x, h, w, u):
        new = simple(x, h, w, u)
        if new.requires_grad:
            new.register_hook(lambda g: 0.5 * g)
        return new

    world.run(step)


@effect
def gradients_kept_inside_the_step(world: World) -> dict[str, Any]:
    kept: list[Any] = []

    def step(x, h, w, u):
        kept.append(tg.tanh(F.linear(x, w) + F.linear(h, u)).retain_grad())
        return kept[-1]

    hs, _ = world.run(step)
    hs.sum().backward()
    return {"gradients": [k.grad.numpy() for k in kept]}


@effect
def names_and_frames_given_inside_the_step(world: World) -> None:
    def step(x, h, w, u):
        with tg.frame("inner"):
            new = simple(x, h, w, u)
        new.name = "h"
        return new

    world.run(step)


@effect
def recomputed_step(world: World) -> None:
    world.run(tg.recompute(simple))


@effect
def step_with_an_op_of_the_users_own(world: World) -> None:
    @tg.primitive
    def cubed(x):
        return x**3

    tg.defvjp(cubed, lambda g, y, x: 3 * g * x * x)
    world.run(lambda x, h, w, u: simple(x, cubed(h), w, u), lengths=LENGTHS)


@effect
def step_with_an_op_that_counts_its_runs(world: World) -> None:
    runs = itertools.count(1)

    @tg.primitive
    def fading(x):
        return x / next(runs)

    tg.defvjp(fading, lambda g, y, x: g)
    world.run(lambda x, h, w, u: simple(x, fading(h), w, u))


# ---- From one call to the next -----------------------------------------------------------------------------------------------------

GAIN = 1.0


def of_the_module(x: Any, h: Any, w: Any, u: Any) -> Any:
    return GAIN * simple(x, h, w, u)


@effect
def global_that_changes(world: World) -> None:
    global GAIN
    for GAIN in (1.0, 0.5, 2):  # noqa: B007
        world.run(of_the_module)


@effect
def entry_of_a_dict_that_changes(world: World) -> None:
    chosen = {"gain": 1.0, "f": tg.tanh}
    step = lambda x, h, w, u: chosen["f"](F.linear(x, w) + F.linear(h, u)) * chosen["gain"]  # noqa: E731
    world.run(step)
    chosen["gain"] = 0.5
    world.run(step)
    chosen["f"] = tg.sigmoid
    world.run(step)


@effect
def settings_of_a_partial(world: World) -> None:
    def step(x, h, w, u, *, gain, f=tg.tanh):
        return f(gain * (F.linear(x, w) + F.linear(h, u)))

    for gain, f in ((1.0, tg.tanh), (0.5, tg.tanh), (0.5, tg.sigmoid), (1, F.relu)):
        world.run(functools.partial(step, gain=gain, f=f))


@effect
def functions_of_one_code_and_different_closures(world: World) -> None:
    def make(gain: float, matrix: Any) -> Any:
        return lambda x, h, w, u: gain * simple(x, h, w, u) + h @ matrix

    for gain in (0.1, 0.9):
        world.run(make(gain, np.eye(H) * gain))
    for matrix in (world.leaf("m1", H, H), world.leaf("m2", H, H)):
        world.run(make(0.5, matrix))


@effect
def attributes_and_parameters_of_a_cell_that_change(world: World) -> None:
    class Cell(nn.Module):
        def __init__(self) -> None:
            self.hidden_size, self.gain = H, 1.0
            self.w, self.u = nn.Linear(D, H, rng=0), nn.Linear(H, H, rng=0)

        def forward(self, x, h):
            new = tg.tanh(self.w(x) + self.gain * self.u(h))
            return new if self.training else 0.5 * new

    cell = Cell().to(dtype="float64")
    net = nn.Recurrent(cell)
    world.outputs["at first"] = net(world.xs)
    cell.gain = 0.3
    world.outputs["another attribute"] = net(world.xs)
    cell.u.weight = nn.Parameter(0.1 * np.eye(H))
    world.leaves["new"] = cell.u.weight
    world.outputs["another parameter"] = net(world.xs)
    cell.u.bias = None
    world.outputs["no bias"] = net(world.xs)
    net.eval()
    world.outputs["evaluation"] = net(world.xs)
    cell.forward = lambda x, h: tg.sigmoid(cell.w(x)) * h + 0.1
    world.outputs["another forward"] = net(world.xs)


@effect
def setting_of_a_module_that_changes(world: World) -> None:
    settings = types.ModuleType("settings")
    exec("gain = 1.0\ndef scaled(a): return gain * a", vars(settings))
    by_value, by_function = (
        lambda x, h, w, u: settings.gain * simple(x, h, w, u),
        lambda x, h, w, u: settings.scaled(simple(x, h, w, u)),
    )
    for settings.gain in (1.0, 0.5, 2.0):
        world.run(by_value)
        world.run(by_function)


@effect
def attribute_of_a_class_that_changes(world: World) -> None:
    class Settings:
        gain = 1.0

    for Settings.gain in (1.0, 0.5):
        world.run(lambda x, h, w, u: Settings.gain * simple(x, h, w, u))
    settings = Settings()
    step = lambda x, h, w, u: settings.gain * simple(x, h, w, u)  # noqa: E731
    for Settings.gain in (1.0, 0.5):
        world.run(step)


@effect
def object_with_slots_or_properties_that_changes(world: World) -> None:
    class Settings:
        __slots__ = ("gain",)

        @property
        def half(self) -> float:
            return self.gain / 2

    settings = Settings()
    step = lambda x, h, w, u: settings.half * simple(x, h, w, u)  # noqa: E731
    for settings.gain in (1.0, 3.0):
        world.run(step)


@effect
def method_of_a_class_that_is_replaced(world: World) -> None:
    class Cell(nn.Module):
        def __init__(self) -> None:
            self.hidden_size, self.w = H, nn.Linear(D, H, rng=0)

        def forward(self, x, h):
            return tg.tanh(self.w(x) + h)

    cell = Cell().to(dtype="float64")
    net = nn.Recurrent(cell)
    world.outputs["at first"] = net(world.xs)
    Cell.forward = lambda self, x, h: tg.sigmoid(self.w(x)) * h + 0.1
    world.outputs["another forward"] = net(world.xs)


@effect
def function_that_another_calls_is_replaced(world: World) -> None:
    around = SimpleNamespace(f=lambda a: tg.tanh(a))

    def inner(a: Any) -> Any:
        return around.f(a)

    step = lambda x, h, w, u: inner(F.linear(x, w) + F.linear(h, u))  # noqa: E731
    world.run(step)
    around.f = lambda a: tg.sigmoid(a)
    world.run(step)


@effect
def probability_of_a_dropout_that_changes(world: World) -> None:
    drop = nn.Dropout(0.0)
    step = lambda x, h, w, u: drop(simple(x, h, w, u))  # noqa: E731
    for drop.p in (0.0, 0.5, 0.0):
        world.run(step)


@effect
def captured_weight_frozen_and_thawed(world: World) -> None:
    weight = world.leaf("weight", H, H)
    step = lambda x, h, w, u: simple(x, h, w, u) + F.linear(h, weight)  # noqa: E731
    world.run(step)
    weight.requires_grad_(False)
    world.run(step)
    weight.requires_grad_(True)
    world.leaves["weight"] = weight
    del world.leaves["weight"]
    world.run(step)


@effect
def captured_tensor_overwritten_between_calls(world: World) -> None:
    mask = tg.tensor(np.ones((B, H)))
    step = lambda x, h, w, u: simple(x, h * mask, w, u)  # noqa: E731
    world.outputs["before"] = tuple(a.detach() for a in world.run(step))
    world.outputs.pop("loop 0")
    mask[:, ::2] = 0.0
    world.run(step)


@effect
def captured_array_overwritten_between_calls(world: World) -> None:
    mask = np.ones((B, H))
    step = lambda x, h, w, u: simple(x, h * mask, w, u)  # noqa: E731
    world.run(step)
    mask[:, ::2] = 0
    world.run(step)


@effect
def parameters_moved_by_an_optimizer(world: World) -> dict[str, Any]:
    net = nn.Recurrent(nn.GRUCell(D, H, rng=0)).to(dtype="float64")
    layer, losses = nn.LSTM(D, H, rng=0, dtype="float64"), []
    for model in (net, layer):
        steps = optim.SGD(model.parameters(), lr=0.5)
        for _ in range(4):
            steps.zero_grad()
            loss = (model(world.xs.detach())[0] ** 2).sum()
            loss.backward()
            steps.step()
            losses.append(loss.item())
    return {"losses": losses, "parameters": [p.numpy() for p in (*net.parameters(), *layer.parameters())]}


@effect
def shapes_dtypes_and_wishes_that_change(world: World) -> None:
    rng = np.random.default_rng(4)
    for t, b, dtype in (
        (5, 3, "float64"),
        (2, 3, "float64"),
        (5, 1, "float64"),
        (5, 3, "float32"),
        (1, 4, "float64"),
        (5, 3, "float64"),
    ):
        for wanted in (True, False):
            xs = tg.tensor(rng.standard_normal((t, b, D)).astype(dtype), requires_grad=wanted)
            h = tg.tensor(rng.standard_normal((b, H)).astype(dtype), requires_grad=not wanted)
            w, u = (tg.tensor(a.data.astype(dtype), requires_grad=wanted) for a in (world.w, world.u))
            key = f"{t} {b} {dtype} {wanted} {len(world.outputs)}"
            world.leaves |= {f"{name} {key}": a for name, a in zip("xhwu", (xs, h, w, u), strict=True) if a.requires_grad}
            world.run(simple, xs, h, (w, u))


@effect
def other_widths_with_the_same_step(world: World) -> None:
    rng = np.random.default_rng(4)
    for d, h in ((2, 4), (4, 2), (1, 1), (3, 3)):
        world.run(
            simple,
            *(rng.standard_normal(shape) for shape in ((T, B, d), (B, h))),
            [rng.standard_normal((h, d)), rng.standard_normal((h, h))],
        )


@effect
def bias_there_and_not(world: World) -> None:
    b = world.leaf("b", H)
    for biases in ((), (b,), (None, b), (b, b), (None, None)):
        world.run(F.rnn_step, weights=(world.w, world.u, *biases))


@effect
def number_of_weights_that_changes(world: World) -> None:
    def step(x, h, *layers):
        for u in layers:
            h = tg.tanh(F.linear(h, u)) + tg.concatenate([x, x], axis=-1)
        return h

    more = [world.leaf(f"u{i}", H, H) for i in range(3)]
    for count in (1, 3, 0, 2):
        world.run(step, weights=more[:count])


@mostly_numpy
@pytest.mark.parametrize("name", EFFECTS)
def test_what_a_step_does_it_does_at_every_step(name: str, target: str):
    tolerance = 1e-2 if "half" in name else 1e-5 if "float32" in name or "dtypes" in name else 1e-10
    with tg.unfolded():
        expected = observed(EFFECTS[name])
    with on(target):
        for _ in range(2):  # the second time much is remembered
            agree(observed(EFFECTS[name]), expected, tolerance)


# ---- Errors -----------------------------------------------------------------------------------------------------------------------------


def raising(x: Any, h: Any, w: Any, u: Any) -> Any:
    raise RuntimeError("the step says so")


class At(NamedTuple):
    """A step that fails at one of its calls, counted from 1."""

    call: int
    calls: list[int]

    def __call__(self, x: Any, h: Any, w: Any, u: Any) -> Any:
        self.calls.append(1)
        if len(self.calls) == self.call:
            return F.linear(h, w)  # shapes that do not fit
        return simple(x, h, w, u)


WRONG: dict[str, Callable[[], Any]] = {
    "raises": lambda: raising,
    "shapes that do not fit at t = 1": lambda: At(1, []),
    "shapes that do not fit at t = 3": lambda: At(3, []),
    "an op of wrong shapes": lambda: lambda x, h, w, u: tg.tanh(x + h @ w),
    "wrong keyword": lambda: lambda x, h, w, u: tg.sum(h, dim=1),
    "name of another framework": lambda: lambda x, h, w, u: tg.cat([x, h]),
    "too few arguments": lambda: lambda x, h: h,
    "three states": lambda: lambda x, h, w, u: (h, h, h),
    "no state": lambda: lambda x, h, w, u: None,
    "a number": lambda: lambda x, h, w, u: 1.0,
    "another shape": lambda: lambda x, h, w, u: h[:, 1:],
    "another shape of one row": lambda: lambda x, h, w, u: simple(x, h, w, u).sum(axis=0),
    "a dict": lambda: lambda x, h, w, u: {"h": h},
    "a generator": lambda: lambda x, h, w, u: (part for part in (h,)),
    "no function": lambda: 3,
    "index out of range": lambda: lambda x, h, w, u: h[:, H + 1],
    "division by a Python zero": lambda: lambda x, h, w, u: h / (1 // 0),
    "an attribute that is not there": lambda: lambda x, h, w, u: h.cuda(),
}


@pytest.mark.parametrize("options", [{}, {"reverse": True}, {"lengths": LENGTHS}, {"collect": True}], ids=str)
@pytest.mark.parametrize("name", WRONG)
def test_errors_are_those_of_the_unfolded_loop_and_name_its_time_step(name: str, options: dict[str, Any]):
    def failure() -> tuple[type, str]:
        world = World()
        with pytest.raises(Exception) as error:
            world.run(WRONG[name](), **options)
        return type(error.value), str(error.value)

    with on("numpy"):
        mine = failure()
    with tg.unfolded():
        theirs = failure()
    assert mine == theirs


def test_after_an_error_the_next_loop_is_as_ever():
    world = World()
    with pytest.raises(RuntimeError, match="the step says so"):
        world.run(raising)
    assert thread.modes.frame is None and thread.modes.record and not thread.modes.unfolded and not thread.modes.anomaly
    hs, _ = world.run(simple)
    assert hs.requires_grad


@pytest.mark.parametrize("stop", [KeyboardInterrupt, StopIteration, GeneratorExit, SystemExit])
def test_an_interruption_passes_through_a_step(stop: type):
    def step(x, h, w, u):
        raise stop

    with pytest.raises(stop):
        World().run(step)


def test_a_step_that_catches_errors_of_its_ops_is_run_as_it_is():
    def step(x, h, w, u):
        try:
            if float(h.sum()) > 1e9:
                return h
        except Exception:
            return h * 0  # would be wrong
        return simple(x, h, w, u)

    world = World()
    mine = world.run(step)[0].numpy()
    with tg.unfolded():
        np.testing.assert_array_equal(mine, world.run(step)[0].numpy())


def test_a_tuple_a_list_and_a_named_tuple_are_states_alike():
    class State(NamedTuple):
        h: Any
        c: Any

    world = World()

    def step(form: Callable[..., Any]) -> Any:
        return lambda x, h, c, w, u: form(simple(x, h, w, u), 0.5 * c + h)

    results = [
        scan(step(form), world.xs, given, (world.w, world.u))
        for form in (lambda *a: a, lambda *a: list(a), State)
        for given in ((world.h, world.h), [world.h, world.h], State(world.h, world.h))
    ]
    for hs, last in results:
        assert type(last) is tuple and len(last) == 2
        np.testing.assert_array_equal(hs.numpy(), results[0][0].numpy())
