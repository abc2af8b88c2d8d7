"""RNN, LSTM and GRU against PyTorch's, in every configuration that both have: outputs, last states, and the gradient of everything."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np
import pytest
import torch_peer

import tinygrad_seq as tg
from tinygrad_seq import nn

torch = pytest.importorskip("torch", reason="compares with PyTorch")
pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")]

T, B, D, H, P = 5, 4, 3, 4, 2
LENGTHS = np.array([3, 5, 1, 4])
KINDS = {
    "RNN tanh": ("RNN", {"nonlinearity": "tanh"}),
    "RNN relu": ("RNN", {"nonlinearity": "relu"}),
    "LSTM": ("LSTM", {}),
    "LSTM projected": ("LSTM", {"proj_size": P}),
    "GRU": ("GRU", {}),
}


class Config(NamedTuple):
    """One way to build and call a layer."""

    kind: str
    num_layers: int
    bidirectional: bool
    bias: bool
    batch_first: bool
    state_given: bool
    lengths_given: bool
    batched: bool

    def __str__(self) -> str:
        words = [name for name, value in zip(self._fields[2:], self[2:], strict=True) if value]
        return "-".join([self.kind, f"{self.num_layers} layers", *words])


both = [False, True]
CONFIGS = [Config(*c, True) for c in itertools.product(KINDS, [1, 2, 3], *[both] * 5)]
CONFIGS += [
    Config(kind, layers, bidirectional, bias, False, state, False, False)
    for kind, layers, bidirectional, bias, state in itertools.product(KINDS, [1, 2, 3], both, both, both)
]


def pair(config: Config, dtype: str):
    """The layer here and in PyTorch, with the same weights."""
    name, settings = KINDS[config.kind]
    settings = settings | {field: getattr(config, field) for field in ("num_layers", "bidirectional", "bias", "batch_first")}
    ours = getattr(nn, name)(D, H, **settings, rng=0, dtype=dtype)
    theirs = getattr(torch.nn, name)(D, H, **settings, dtype=getattr(torch, dtype))
    state = ours.state_dict()
    assert list(state) == list(theirs.state_dict()), "the same names in the same order"
    theirs.load_state_dict({key: torch.tensor(a) for key, a in state.items()})
    return ours, theirs


def inputs(config: Config) -> list:
    """xs, and the state if one is given."""
    rng = np.random.default_rng(1)
    rows, batch = config.num_layers * (1 + config.bidirectional), [B] * config.batched
    xs = rng.standard_normal([B, T, D] if config.batched and config.batch_first else [T, *batch, D])
    widths = {"LSTM": [H, H], "LSTM projected": [P, H]}.get(config.kind, [H])
    state = tuple(rng.standard_normal([rows, *batch, width]) for width in widths)
    return [xs, *([state if len(state) > 1 else state[0]] if config.state_given else [])]


def packing(theirs, batch_first: bool):
    """PyTorch's layer as one that takes lengths."""

    def call(xs, state=None):
        packed = torch.nn.utils.rnn.pack_padded_sequence(xs, torch.tensor(LENGTHS), batch_first, enforce_sorted=False)
        ys, last = theirs(packed, state)
        return torch.nn.utils.rnn.pad_packed_sequence(ys, batch_first, total_length=T)[0], last

    return call


def compare(config: Config, dtype: str) -> None:
    ours, theirs = pair(config, dtype)
    parameters = [(name, p, theirs.get_parameter(name)) for name, p in ours.named_parameters()]
    lengths = LENGTHS if config.lengths_given else None
    torch_peer.agrees(
        lambda xs, state=None: ours(xs, state, lengths),
        packing(theirs, config.batch_first) if config.lengths_given else theirs,
        *inputs(config),
        dtype=dtype,
        also=parameters,
    )


def test_at_least_300_different_configurations_are_compared():
    assert len(set(CONFIGS)) == len(CONFIGS) == 600
    assert {(c.kind, c.num_layers) for c in CONFIGS} == {(kind, layers) for kind in KINDS for layers in (1, 2, 3)}


@pytest.mark.parametrize("config", CONFIGS, ids=str)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_outputs_states_and_all_gradients_are_those_of_pytorch(dtype: str, config: Config):
    compare(config, dtype)


# ---- Cells ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batched", both)
@pytest.mark.parametrize("state_given", both)
@pytest.mark.parametrize("bias", both)
@pytest.mark.parametrize(
    ("name", "options"), [("RNNCell", {}), ("RNNCell", {"nonlinearity": "relu"}), ("LSTMCell", {}), ("GRUCell", {})], ids=str
)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_cells_are_those_of_pytorch(dtype: str, name: str, options: dict, bias: bool, state_given: bool, batched: bool):
    ours, theirs = (getattr(library, name)(D, H, bias, **options) for library in (nn, torch.nn))
    rng = np.random.default_rng(2)
    x, *state = (rng.standard_normal([*[B] * batched, width]) for width in (D, *[H] * (2 if name == "LSTMCell" else 1)))
    given = [tuple(state) if name == "LSTMCell" else state[0]] if state_given else []
    torch_peer.module_agrees(ours, theirs, x, *given, dtype=dtype)


# ---- Second derivatives ----------------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:TF32 acceleration")  # `mkldnn.flags` warns of hardware that is not there
@pytest.mark.parametrize("bidirectional", both)
@pytest.mark.parametrize("kind", KINDS)
def test_a_product_with_the_hessian_of_a_whole_network_is_that_of_pytorch(kind: str, bidirectional: bool):
    # v -> d/dw (dL/dw · v), for all parameters, the inputs and the initial states at once. PyTorch's oneDNN kernel has no second
    # derivative, so it is told to leave it out; its own path is unfused for float64 on the CPU.
    config = Config(kind, 2, bidirectional, True, False, True, False, True)
    ours, theirs = pair(config, "float64")
    xs, state = inputs(config)
    rng = np.random.default_rng(3)
    arrays = [xs, *(state if isinstance(state, tuple) else [state])]

    def loss_of(net, leaves):
        hs, last = net(leaves[0], tuple(leaves[1:]) if isinstance(state, tuple) else leaves[1])
        return (hs**3).sum() + sum((a**2).sum() for a in (last if isinstance(last, tuple) else [last]))

    mine = [tg.Tensor(a, requires_grad=True) for a in arrays]
    others = [torch.tensor(a, requires_grad=True) for a in arrays]
    mine_wanted = [*mine, *ours.parameters()]
    others_wanted = [*others, *(theirs.get_parameter(name) for name, _ in ours.named_parameters())]
    directions = [rng.standard_normal(p.shape) for p in mine_wanted]

    first = tg.grad(loss_of(ours, mine), mine_wanted, create_graph=True)
    second = tg.grad(sum((g * v).sum() for g, v in zip(first, directions, strict=True)), mine_wanted)
    with torch.backends.mkldnn.flags(enabled=False):
        first_there = torch.autograd.grad(loss_of(theirs, others), others_wanted, create_graph=True)
        along = sum((g * torch.tensor(v)).sum() for g, v in zip(first_there, directions, strict=True))
        second_there = torch.autograd.grad(along, others_wanted)
    for p, a, b in zip(ours.named_parameters(), second[len(mine) :], second_there[len(mine) :], strict=True):
        torch_peer.close(a.numpy(), b.numpy(), "float64", p[0])
    for a, b in zip(second, second_there, strict=True):
        torch_peer.close(a.numpy(), b.numpy(), "float64", "an input")
        assert np.abs(a.numpy()).max() > 1e-3


# ---- Numbers that move from one to the other ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_state_dicts_go_both_ways(kind: str):
    config = Config(kind, 2, True, True, False, False, False, True)
    ours, theirs = pair(config, "float32")
    for p in theirs.parameters():
        torch.nn.init.normal_(p)
    ours.load_state_dict(theirs.state_dict())
    for name, a in theirs.state_dict().items():
        np.testing.assert_array_equal(ours.state_dict()[name], a.numpy())


def test_constructors_take_pytorchs_arguments_in_its_order():
    import inspect

    for name in ("RNNCell", "LSTMCell", "GRUCell"):
        theirs = list(inspect.signature(getattr(torch.nn, name)).parameters)[:-2]  # without device and dtype
        assert list(inspect.signature(getattr(nn, name)).parameters)[: len(theirs)] == theirs
    for name, positional in {
        "RNN": (D, H, 2, "relu", False, True, 0.0, True),
        "LSTM": (D, H, 2, False, True, 0.0, True, P),
        "GRU": (D, H, 2, False, True, 0.0, True),
    }.items():
        ours, theirs = getattr(nn, name)(*positional), getattr(torch.nn, name)(*positional)
        shapes = [(key, a.shape) for key, a in ours.state_dict().items()]
        assert shapes == [(key, tuple(a.shape)) for key, a in theirs.state_dict().items()]
        assert ours.batch_first and theirs.batch_first and ours(np.zeros((2, 3, D), "float32"))[0].shape[:2] == (2, 3)
