"""Compiled layers: every kind with every option gives the outputs, last states, gates and gradients of the unfolded loop and of BPTT by hand."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
from compiled import (
    NUMBA,
    TOLERANCE,
    Run,
    agree,
    compiled,
    each_target,
    mostly_numpy,
    numbers,
    on,
    parts,
    same_as_unfolded,
    tape,
    times,
)

import tinygrad_seq as tg
from tinygrad_seq import nn
from tinygrad_seq.nn import functional as F
from tinygrad_seq.scan import each, scan

# name -> (layer, its options, whether it has biases to leave out, whether it has gates to return)
KINDS: dict[str, tuple[Any, dict[str, Any], bool, bool]] = {
    "RNN tanh": (nn.RNN, {}, True, False),
    "RNN relu": (nn.RNN, {"nonlinearity": "relu"}, True, False),
    "RNN of 3 taps": (nn.RNN, {"taps": 3}, True, False),
    "RNN relu of 2 taps": (nn.RNN, {"taps": 2, "nonlinearity": "relu"}, True, False),
    "LSTM": (nn.LSTM, {}, True, True),
    "LSTM projected": (nn.LSTM, {"proj_size": None}, True, True),
    "LSTM diagonal peepholes": (nn.LSTM, {"peephole": "diagonal"}, True, True),
    "LSTM full peepholes": (nn.LSTM, {"peephole": "full"}, True, True),
    "LSTM coupled": (nn.LSTM, {"coupled": True}, True, True),
    "GRU": (nn.GRU, {}, True, True),
    "GRU z weights the new": (nn.GRU, {"z_weights": "new"}, True, True),
    "GRU reset before": (nn.GRU, {"reset": "before"}, True, True),
    "GRU reset before, z weights the new": (nn.GRU, {"reset": "before", "z_weights": "new"}, True, True),
    "NARX": (nn.Recurrent, {"taps": 2}, False, False),
}
SIZES = [
    (1, 1, 1, 1),
    (4, 3, 2, 1),
    (3, 1, 4, 2),
    (5, 1, 1, 5),
    (1, 4, 3, 4),
    (5, 3, 4, 3),
    (4, 4, 4, 4),
    (6, 2, 3, 6),
    (7, 5, 2, 3),
]
both = (False, True)


class Config(NamedTuple):
    """One way to build a layer and to call it."""

    kind: str
    num_layers: int
    bidirectional: bool
    bias: bool
    lengths_given: bool
    state_given: bool
    gates: bool
    batch_first: bool
    dropout: float
    dtype: str
    T: int
    B: int
    D: int
    H: int

    def __str__(self) -> str:
        words = [
            name
            for name in ("bidirectional", "bias", "lengths_given", "state_given", "gates", "batch_first")
            if getattr(self, name)
        ]
        sizes = f"T{self.T} B{self.B} D{self.D} H{self.H}"
        return "-".join([self.kind, f"{self.num_layers} layers", *words, f"dropout {self.dropout}", self.dtype, sizes])


def configs() -> list[Config]:
    """Kinds, layers, directions, biases, lengths and states in all combinations; what else there is, and the sizes, drawn for each."""
    found, rng = [], np.random.default_rng(0)
    for kind, layers, bidirectional, bias, lengths_given, state_given in itertools.product(KINDS, (1, 2), *[both] * 4):
        _, options, has_biases, has_gates = KINDS[kind]
        T, B, D, H = SIZES[rng.integers(len(SIZES))]
        gates, batch_first, dropped = rng.integers(2, size=3).astype(bool).tolist()
        dtype = "float32" if rng.integers(4) == 0 else "float64"
        dropout = 0.4 if dropped and layers > 1 else 0.0
        width = max(H, 2) if "proj_size" in options else H
        chosen = (lengths_given, state_given, gates and has_gates, batch_first, dropout, dtype, T, B, D, width)
        if bias or has_biases:
            found.append(Config(kind, layers, bidirectional, bias, *chosen))
    return found


CONFIGS = configs()


def made(kind: str, D: int, H: int, num_layers: int = 1, *, bias: bool = True, dtype: str = "float64", **options: Any) -> Any:
    """The layer, with numbers that are the same each time."""
    layer, more, _, _ = KINDS[kind]
    if kind == "NARX":
        rng = np.random.default_rng(1)
        net = nn.Recurrent(lambda width: nn.NARXCell(width, 3, H, rng=rng, **more), D, num_layers, rng=2, **options)
        return net.to(dtype=dtype)
    if "proj_size" in more:
        more = {"proj_size": max(1, H // 2)}
    return layer(D, H, num_layers, bias=bias, rng=1, dtype=dtype, **more, **options)


def lengths_of(config: Config) -> np.ndarray | None:
    """Rows of any lengths; where there are several the first is empty."""
    if not config.lengths_given:
        return None
    lengths = np.random.default_rng(config.T + config.B).integers(0, config.T + 1, config.B)
    if config.B > 1:
        lengths[0] = 0
    return lengths


def called(config: Config) -> Run:
    """The outputs, the last state and the gates of the layer, of inputs whose padding is NaN; and all that has a gradient."""
    c, lengths = config, lengths_of(config)
    net = made(
        c.kind, c.D, c.H, c.num_layers, bias=c.bias, dtype=c.dtype,
        bidirectional=c.bidirectional, batch_first=c.batch_first, dropout=c.dropout,
    )  # fmt: skip
    rng = np.random.default_rng(3)
    x = rng.standard_normal((c.T, c.B, c.D)).astype(c.dtype)
    if lengths is not None:
        x[np.arange(c.T)[:, None] >= lengths] = np.nan
    xs = tg.tensor(x.swapaxes(0, 1) if c.batch_first else x, requires_grad=True)
    state = None
    if c.state_given:
        state = each(lambda a: tg.tensor(rng.standard_normal(a.shape).astype(c.dtype), requires_grad=True), net.initial_state(c.B))
    hs, last, *gates = net(xs, state, lengths, **({"return_gates": True} if c.gates else {}))
    states = {f"state {i}": part for i, part in enumerate(parts(state))} if state is not None else {}
    outputs = {"hs": hs, "last": last, **({"gates": gates[0]} if gates else {})}
    return Run(outputs, {"xs": xs, **states, **dict(net.named_parameters())})


def test_at_least_300_different_configurations_are_compared():
    assert len(set(CONFIGS)) == len(CONFIGS) == 432
    assert len([c for c in CONFIGS if c.dtype == "float64"]) >= 300
    switches = ("bidirectional", "bias", "lengths_given", "state_given", "gates", "batch_first")
    both_ways = {name: {False, True} for name in switches}
    for field, values in {
        "kind": set(KINDS), "dtype": {"float32", "float64"}, "dropout": {0.0, 0.4}, "T": {1, 3, 4, 5, 6, 7}, "B": {1, 2, 3, 4, 5}, **both_ways,
    }.items():  # fmt: skip
        assert {getattr(c, field) for c in CONFIGS} == values


@pytest.mark.parametrize(
    ("config", "target"),
    [
        *(pytest.param(config, "numpy", id=f"numpy-{config}") for config in CONFIGS),
        *(
            pytest.param(config, "numba", marks=[*NUMBA, *[pytest.mark.slow] * (i % 24 > 0)], id=f"numba-{config}")
            for i, config in enumerate(CONFIGS)
        ),
    ],
)
def test_outputs_states_gates_and_all_gradients_are_those_of_the_unfolded_loop(config: Config, target: str):
    loops = config.num_layers * (1 + config.bidirectional)
    found = same_as_unfolded(lambda: called(config), target, tolerance=TOLERANCE[config.dtype], loops=loops)
    lengths = lengths_of(config)
    if lengths is not None:
        padding = np.arange(config.T)[:, None] >= lengths
        padding = padding.T if config.batch_first else padding
        for name, a in found.items():
            assert np.isfinite(a).all(), name
            if name == "hs[0]" or name.endswith("/ d xs"):
                assert (a[padding] == 0).all(), f"{name} in the padding"


def test_unfolded_each_step_is_on_the_tape():
    with tg.unfolded():
        for config in CONFIGS[::7]:
            assert times(tape(called(config).outputs)) == set(range(1, config.T + 1))


@pytest.mark.parametrize("kind", KINDS)
def test_layers_are_compiled_without_asking_and_their_tape_has_no_length(kind: str):
    def run(T: int, lengths: Any) -> int:
        net = made(kind, 3, 4, 2, bidirectional=True)
        hs, last = net(tg.tensor(np.ones((T, 2, 3)), requires_grad=True), None, lengths)
        compiled(hs, last, loops=4)
        return len(tape((hs, last)))

    sizes = [{run(T, lengths) for T in (2, 9)} for lengths in (None, [2, 1])]
    assert all(len(size) == 1 for size in sizes)


@each_target
@pytest.mark.parametrize("kind", KINDS)
def test_layers_say_that_they_are_compiled_and_for_what(kind: str, target: str):
    net, xs = made(kind, 3, 4), np.ones((5, 2, 3))
    with on(target):
        told = tg.explain_compile(net, xs)
    assert told.compiled and told.reason is None and told.target == target
    assert target in str(told) and all(word in told.source for word in ("def forward(", "def backward(", "    for "))


# ---- Gradients of some and not of others ---------------------------------------------------------------------------------------------

WANTED = [
    "xs", "state", "weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0",
    "xs state", "weight_ih_l0 bias_hh_l0", "state weight_hh_l0", "",
]  # fmt: skip


@pytest.mark.parametrize("wanted", WANTED, ids=lambda wanted: wanted or "nothing")
@pytest.mark.parametrize("kind", ["RNN tanh", "LSTM", "GRU", "GRU reset before"])
@mostly_numpy
def test_only_what_needs_a_gradient_gets_one(kind: str, wanted: str, target: str):
    def run() -> Run:
        rng = np.random.default_rng(5)
        net = made(kind, 3, 4)
        for name, p in net.named_parameters():
            p.requires_grad_(name in wanted.split())
        xs = tg.tensor(rng.standard_normal((5, 2, 3)), requires_grad="xs" in wanted.split())
        state = each(
            lambda a: tg.tensor(rng.standard_normal(a.shape), requires_grad="state" in wanted.split()), net.initial_state(2)
        )
        hs, last = net(xs, state, [5, 3])
        everything = {"xs": xs, **{f"state {i}": a for i, a in enumerate(parts(state))}, **dict(net.named_parameters())}
        leaves = {name: leaf for name, leaf in everything.items() if leaf.requires_grad}
        assert {part.requires_grad for part in parts((hs, last))} == {bool(leaves)}
        return Run({"hs": hs, "last": last}, leaves)

    same_as_unfolded(run, target)


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_batch(kind: str):
    def run() -> Run:
        net = made(kind, 3, 4, 2, bidirectional=True)
        rng = np.random.default_rng(6)
        state = each(
            lambda a: tg.tensor(rng.standard_normal(a.shape), requires_grad=True), each(lambda a: a[:, 0], net.initial_state(1))
        )
        xs = tg.tensor(rng.standard_normal((5, 3)), requires_grad=True)
        hs, last = net(xs, state)
        return Run({"hs": hs, "last": last}, {"xs": xs, **{f"state {i}": a for i, a in enumerate(parts(state))}})

    same_as_unfolded(run, loops=4)


@pytest.mark.parametrize("kind", KINDS)
def test_in_evaluation_and_without_recording_the_numbers_are_the_same(kind: str):
    net, xs = made(kind, 3, 4, 2, dropout=0.5).eval(), np.random.default_rng(7).standard_normal((5, 2, 3))

    def run() -> Any:
        return net(xs, None, [5, 2])

    recorded = parts(run())
    with tg.no_grad():
        bare = parts(run())
    with tg.unfolded():
        unfolded = parts(run())
    for a, b, c in zip(recorded, bare, unfolded, strict=True):
        assert a.requires_grad and not b.requires_grad
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=0, atol=1e-13)
        np.testing.assert_allclose(a.numpy(), c.numpy(), rtol=0, atol=1e-13)


@pytest.mark.parametrize("kind", KINDS)
@mostly_numpy
def test_a_call_repeated_gives_the_same_bits(kind: str, target: str):
    def run() -> list[np.ndarray]:
        with on(target):
            found = called(Config(kind, 2, True, True, True, True, False, False, 0.0, "float32", 5, 3, 4, 6))
        return list(numbers(found).values())

    first = run()
    for _ in range(2):
        for a, b in zip(first, run(), strict=True):
            np.testing.assert_array_equal(a, b)


# ---- By hand ---------------------------------------------------------------------------------------------------------------------------

GATES = {"RNN": 1, "LSTM": 4, "GRU": 3}
# name -> (step, BPTT by hand, whose shapes its weights have, the shapes of those it has besides)
BY_HAND: dict[str, tuple[Callable[..., Any], Callable[..., Any], str, tuple[str, ...]]] = {
    "RNN tanh": (F.rnn_step, F.rnn_bptt, "RNN", ()),
    "RNN relu": (
        lambda *a: F.rnn_step(*a, nonlinearity="relu"),
        lambda *a: F.rnn_bptt(*a, nonlinearity="relu"),
        "RNN",
        (),
    ),
    "LSTM": (F.lstm_step, F.lstm_bptt, "LSTM", ()),
    "LSTM diagonal peepholes": (F.peephole_lstm_step, F.peephole_lstm_bptt, "LSTM", ("H",) * 3),
    "LSTM full peepholes": (F.peephole_lstm_step, F.peephole_lstm_bptt, "LSTM", ("HH",) * 3),
    "GRU": (F.gru_step, F.gru_bptt, "GRU", ()),
    "GRU z weights the new": (
        lambda *a: F.gru_step(*a, z_weights="new"),
        lambda *a: F.gru_bptt(*a, z_weights="new"),
        "GRU",
        (),
    ),
    "GRU reset before": (F.gru_reset_before_step, F.gru_reset_before_bptt, "GRU", ()),
    "GRU reset before, z weights the new": (
        lambda *a: F.gru_reset_before_step(*a, z_weights="new"),
        lambda *a: F.gru_reset_before_bptt(*a, z_weights="new"),
        "GRU",
        (),
    ),
}


@pytest.mark.parametrize("size", [(1, 1, 1, 1), (6, 3, 4, 5), (9, 1, 2, 8), (4, 5, 3, 5)], ids=str)
@pytest.mark.parametrize("kind", BY_HAND)
@mostly_numpy
def test_gradients_are_those_of_back_propagation_through_time_by_hand(kind: str, size: tuple[int, ...], target: str):
    step, bptt, family, more = BY_HAND[kind]
    T, B, D, H = size
    rows, states = GATES[family] * H, 2 if family == "LSTM" else 1
    shapes = [(T, B, D), *[(B, H)] * states, (rows, D), (rows, H), (rows,), (rows,), *((H,) * len(m) for m in more)]
    rng = np.random.default_rng(8)
    arrays = [0.7 * rng.standard_normal(shape) for shape in shapes]
    g_hs, g_h, g_c = rng.standard_normal((T, B, H)), rng.standard_normal((B, H)), rng.standard_normal((B, H))

    leaves = [tg.tensor(a, requires_grad=True) for a in arrays]
    with on(target):
        hs, last = scan(step, leaves[0], tuple(leaves[1 : 1 + states]) if states > 1 else leaves[1], leaves[1 + states :])
    compiled(hs)
    loss = (hs * g_hs).sum() + (parts(last)[0] * g_h).sum() + ((last[1] * g_c).sum() if states > 1 else 0)
    mine = tg.grad(loss, leaves)

    direct = g_hs.copy()
    direct[-1] += g_h
    by_hand = bptt(*arrays, direct, *([g_c] if states > 1 else []))
    names = by_hand._fields
    agree(
        {name: a.numpy() for name, a in zip(names, mine, strict=True)}, dict(zip(names, by_hand, strict=True)), TOLERANCE["float64"]
    )


# ---- Numbers that are hard on a loop ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@mostly_numpy
def test_saturated_gates_are_no_worse_than_unfolded(kind: str, target: str):
    def run() -> Run:
        net = made(kind, 3, 4)
        for p in net.parameters():
            with tg.no_grad():
                p[...] = 60 * p
        xs = tg.tensor(20 * np.random.default_rng(9).standard_normal((4, 3, 3)), requires_grad=True)
        hs, last = net(xs)
        return Run({"hs": hs, "last": last}, {"xs": xs, **dict(net.named_parameters())})

    found = same_as_unfolded(run, target, tolerance=1e-9)
    assert all(np.isfinite(a).all() for a in found.values())


@pytest.mark.parametrize("kind", ["RNN tanh", "RNN relu", "LSTM", "GRU", "GRU reset before"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@each_target
def test_what_is_no_number_stays_in_its_row_and_spreads_from_its_time_on(kind: str, bad: float, target: str):
    net, x = made(kind, 3, 4), np.random.default_rng(10).standard_normal((5, 3, 3))
    x[2, 1, 0] = bad
    with np.errstate(all="ignore"):
        with on(target):
            mine = net(x)[0].numpy()
        with tg.unfolded():
            theirs = net(x)[0].numpy()
    np.testing.assert_allclose(mine, theirs, rtol=1e-10, atol=1e-10)
    assert np.isfinite(mine[:, [0, 2]]).all() and np.isfinite(mine[:2]).all()


@pytest.mark.parametrize("size", [(40, 16, 8, 12), (3, 70, 5, 33), (130, 2, 20, 7), (70, 32, 16, 24)], ids=str)
@pytest.mark.parametrize("kind", ["RNN tanh", "LSTM", "LSTM full peepholes", "GRU", "GRU reset before"])
@mostly_numpy
def test_sizes_at_which_gradients_of_weights_are_gathered_over_many_steps(kind: str, size: tuple[int, ...], target: str):
    T, B, D, H = size
    config = Config(kind, 1, False, True, True, True, False, False, 0.0, "float64", T, B, D, H)
    same_as_unfolded(lambda: called(config), target)
