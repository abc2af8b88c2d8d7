"""Containers: order, names in the state dict, a list's and a dict's methods; Flatten and its reverse; Bilinear; wrong calls."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import pytest

import tinygrad_seq as tg
from tinygrad_seq import nn
from tinygrad_seq.errors import ArgumentError, IndexError_, ShapeError
from tinygrad_seq.nn import functional as F
from tinygrad_seq.testing import check_grads

rng = np.random.default_rng(0)
x = rng.standard_normal((5, 3)).astype("float32")


def layers():
    return [nn.Linear(3, 4, rng=0), nn.ReLU(), nn.Linear(4, 2, rng=1)]


# ---- Sequential ----------------------------------------------------------------------------------------------------------------------------


def test_a_sequential_is_one_module_after_the_other():
    parts = layers()
    expected = parts[2](parts[1](parts[0](x))).numpy()
    np.testing.assert_array_equal(nn.Sequential(*parts)(x).numpy(), expected)
    assert nn.Sequential()(x) is x


@pytest.mark.torch
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_sequential_equals_pytorchs_and_its_state_has_the_same_names(dtype):
    torch = pytest.importorskip("torch")
    from torch_peer import module_agrees

    def net(module):
        named = OrderedDict(up=module.Linear(4, 6), middle=module.Sequential(module.Tanh(), module.LayerNorm(6)))
        return module.Sequential(module.Embedding(7, 4), module.Sequential(named), module.Flatten(), module.Linear(18, 2))

    module_agrees(net(nn), net(torch.nn), rng.integers(0, 7, (5, 3)), dtype=dtype)
    assert list(net(nn).state_dict())[1:3] == ["1.up.weight", "1.up.bias"]


def test_a_sequential_by_name_from_any_dict():
    for kind in (dict, OrderedDict):
        net = nn.Sequential(kind(first=nn.Linear(3, 4), last=nn.Linear(4, 2)))
        assert list(net.state_dict()) == ["first.weight", "first.bias", "last.weight", "last.bias"]
        assert net.first is net[0] and net[-1] is net.last
        assert net[1:].last is net.last, "a slice keeps the names"


def test_a_sequential_is_a_sequence():
    parts = layers()
    net = nn.Sequential(*parts)
    assert len(net) == 3 and list(net) == parts and net[0] is parts[0] and net[-1] is parts[2]
    assert isinstance(net[:2], nn.Sequential) and list(net[:2]) == parts[:2] and list(net[::2]) == parts[::2]
    assert net.append(nn.Tanh()) is net and repr(net[3]) == "Tanh()"
    net.insert(0, nn.Identity())
    assert repr(net[0]) == "Identity()" and list(net)[1:4] == parts
    net.extend([nn.ReLU(), nn.ReLU6()])
    assert repr(net.pop()) == "ReLU6()" and len(net) == 6
    del net[0]
    net[1] = nn.SiLU()
    assert [name for name, _ in net.named_children()] == list("01234") and repr(net[1]) == "SiLU()"
    del net[1:]
    assert list(net) == parts[:1] and list(net.state_dict()) == ["0.weight", "0.bias"]


def test_a_module_that_stands_twice_is_one_module_under_two_names():
    layer = nn.Linear(3, 3)
    net = nn.Sequential(layer, nn.ReLU(), layer)
    assert len(list(net.parameters())) == 2 and len(net.state_dict()) == 4
    np.testing.assert_array_equal(net(x).numpy(), layer(F.relu(layer(x))).numpy())


def test_training_mode_dtype_and_printing_reach_within():
    net = nn.Sequential(nn.Linear(3, 4), nn.Sequential(nn.Dropout(0.3))).eval().to("float64")
    assert not net[1][0].training and net[0].weight.dtype == np.float64
    assert repr(net) == "Sequential(\n  (0): Linear(3, 4)\n  (1): Sequential(\n    (0): Dropout(0.3)\n  )\n)"


# ---- ModuleList and ModuleDict ---------------------------------------------------------------------------------------------------------------


def test_a_module_list_is_a_list_whose_parameters_are_found():
    parts = layers()
    held = nn.ModuleList(parts[:2])
    assert held.append(parts[2]) is held and list(held) == parts and held[0] is parts[0]
    assert list(held.state_dict()) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert isinstance(held[1:], nn.ModuleList) and [name for name, _ in held[1:].named_children()] == ["0", "1"]
    with pytest.raises(NotImplementedError, match="ModuleList has no forward"):
        held(x)


def test_a_module_list_as_attribute_gives_the_names_of_a_plain_list():
    class Net(nn.Module):
        def __init__(self, kind):
            self.layers = kind(layers())

    assert list(Net(nn.ModuleList).state_dict()) == list(Net(list).state_dict())


def test_a_module_dict_is_a_dict_whose_parameters_are_found():
    held = nn.ModuleDict({"a": nn.Linear(3, 2), "b": nn.ReLU()})
    held["c"] = nn.Linear(2, 1)
    assert list(held) == ["a", "b", "c"] == list(held.keys()) and len(held) == 3 and "a" in held and "d" not in held
    assert list(held.state_dict()) == ["a.weight", "a.bias", "c.weight", "c.bias"]
    assert dict(held.items())["a"] is held["a"] is held.a and list(held.values())[1] is held["b"]
    held.update([("a", nn.Tanh())])
    assert repr(held.pop("a")) == "Tanh()"
    del held["b"]
    assert list(nn.ModuleDict(held)) == ["c"]
    held.clear()
    assert list(held) == []


# ---- Flatten, Unflatten, Identity, Bilinear ----------------------------------------------------------------------------------------------------


@pytest.mark.torch
@pytest.mark.parametrize("axes", [(), (0,), (1, 2), (-2, -1), (2, 2)])
def test_flatten_and_unflatten_equal_pytorchs(axes):
    torch = pytest.importorskip("torch")
    from torch_peer import module_agrees

    a = rng.standard_normal((2, 3, 4, 5))
    module_agrees(nn.Flatten(*axes), torch.nn.Flatten(*axes), a)
    module_agrees(nn.Unflatten(2, (2, -1)), torch.nn.Unflatten(2, (2, -1)), a)


def test_identity_takes_and_ignores_anything():
    assert nn.Identity(54, unused=0.1)(x) is x


@pytest.mark.torch
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(), (5,), (2, 5)])
def test_bilinear_equals_pytorchs(shape, bias, dtype):
    torch = pytest.importorskip("torch")
    from torch_peer import module_agrees

    a, b = rng.standard_normal((*shape, 3)), rng.standard_normal((*shape, 4))
    module_agrees(nn.Bilinear(3, 4, 5, bias), torch.nn.Bilinear(3, 4, 5, bias), a, b, dtype=dtype)


def test_bilinear_is_its_equation_to_second_order_and_starts_as_pytorch_does():
    a, b, w, c = (rng.standard_normal(shape) for shape in ((6, 3), (6, 4), (5, 3, 4), (5,)))
    np.testing.assert_allclose(F.bilinear(a, b, w, c), np.einsum("ni,kij,nj->nk", a, w, b) + c, rtol=1e-12, atol=1e-12)
    check_grads(F.bilinear, [a, b, w, c])
    layer = nn.Bilinear(100, 4, 50, rng=0)
    assert all(np.abs(p.numpy()).max() <= 0.1 for p in layer.parameters())


def test_containers_on_every_library(xp):
    net = nn.Sequential(nn.Linear(3, 4, rng=0), nn.Unflatten(-1, (2, 2)), nn.Flatten(), nn.Identity())
    pair, expected = nn.Bilinear(4, 3, 2, rng=0), net(x)
    expected = pair(expected, x).numpy()
    a = tg.Tensor(xp.asarray(x), requires_grad=True)
    for module in (net, pair):
        module.to(a.device)
    y = pair(net(a), a)
    y.sum().backward()
    assert y.dtype == a.grad.dtype == np.float32
    np.testing.assert_allclose(y.to("cpu").numpy(), expected, rtol=1e-5, atol=1e-6)


# ---- Embedding -----------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.torch
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("padding_idx", [None, 0, -2])
def test_an_embedding_equals_pytorchs(padding_idx, dtype):
    torch = pytest.importorskip("torch")
    from torch_peer import module_agrees

    ids = np.array([[0, 5, 5], [1, 4, 0]])
    module_agrees(nn.Embedding(6, 3, padding_idx), torch.nn.Embedding(6, 3, padding_idx), ids, dtype=dtype)


def test_a_padding_row_learns_nothing_even_from_a_gradient_that_is_none():
    layer = nn.Embedding(6, 3, padding_idx=0, dtype="float64")
    g = np.where(np.arange(2)[:, None] == 0, np.nan, np.ones(3))
    layer([0, 2]).backward(g)
    assert layer.weight.grad.numpy().sum(axis=1).tolist() == [0, 0, 3, 0, 0, 0]
    check_grads(lambda w: F.embedding([0, 2, 2], w, 0) ** 3, [layer.weight.numpy()], order=1)


def test_an_embedding_from_a_table_is_frozen_unless_told_and_draws_nothing():
    table = rng.standard_normal((6, 3)).astype("float32")
    tg.seed(0)
    layer = nn.Embedding.from_pretrained(table, padding_idx=1)
    free = nn.Embedding.from_pretrained(table, freeze=False)
    assert tg.random.uniform().item() == (tg.seed(0), tg.random.uniform().item())[1]
    np.testing.assert_array_equal(layer([1, 5]).numpy(), table[[1, 5]])
    assert not layer.weight.requires_grad and free.weight.requires_grad and layer.padding_idx == 1
    with pytest.raises(ShapeError, match=r"(?s)float32 \(3,\).*\(num_embeddings, embedding_dim\)"):
        nn.Embedding.from_pretrained(table[0])


# ---- What wrong calls say --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.torch
@pytest.mark.parametrize("name", ["Sequential", "ModuleList"])
def test_containers_are_added_as_in_pytorch(name):
    torch = pytest.importorskip("torch")
    seen = []
    for kit in (nn, torch.nn):
        kind = getattr(kit, name)
        first, second = (
            kind(*given) if name == "Sequential" else kind(given) for given in ([kit.ReLU()], [kit.Tanh(), kit.GELU()])
        )
        both = first + second
        first += second
        seen.append([[(key, type(m).__name__) for key, m in c.named_children()] for c in (both, first, second)])
        assert both[0] is first[0] and type(both) is kind
    assert seen[0] == seen[1]


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: nn.Sequential(layers()), ArgumentError, r"is no module.*Sequential\(\*layers\)"),
        (lambda: nn.Sequential(tg.tanh), ArgumentError, "tanh.* is no module.*forward calls the function"),
        (lambda: nn.Sequential(nn.ReLU), ArgumentError, "ReLU.*is no module.*make one"),
        (lambda: nn.ModuleList([3]), ArgumentError, "ModuleList: 3 is no module"),
        (lambda: nn.Sequential(*layers())[3], IndexError_, "index 3 is out of range.*3 modules"),
        (lambda: nn.Sequential(*layers())["0"], ArgumentError, "index '0'.*an integer or a slice"),
        (lambda: nn.Sequential({"a.b": nn.ReLU()}), ArgumentError, "'a.b' can be no name"),
        (lambda: nn.ModuleDict({"keys": nn.ReLU()}), ArgumentError, "'keys' is the name of a method"),
        (lambda: nn.ModuleDict({"first": nn.ReLU()})["frist"], KeyError, "no module 'frist'.*did you mean 'first'"),
        (lambda: nn.Flatten(2, 1)(np.ones((2, 3, 4))), ShapeError, "axis 2 comes after axis 1"),
        (lambda: nn.Flatten(3)(np.ones((2, 3))), ShapeError, "Flatten: axis 3 is out of bounds"),
        (lambda: nn.Bilinear(3, 4, 5)(np.ones((2, 4)), np.ones((2, 4))), ShapeError, r"x1 is \(2, 4\).*x1 \(\.\.\., 3\)"),
        (lambda: nn.Bilinear(3, 4, 5)(np.ones((2, 3)), np.ones((1, 4))), ShapeError, "differ in more than the last axis"),
        (lambda: nn.Bilinear(0, 4, 5), ArgumentError, "in1_features = 0"),
        (lambda: nn.Sequential(nn.RNN(3, 4), nn.Linear(4, 2))(np.ones((6, 2, 3), "f4")), ArgumentError, "returns two things"),
        (lambda: nn.ModuleList([nn.ReLU()])(1), NotImplementedError, r"ModuleList has no forward: it only holds.*nn.Sequential"),
        (lambda: nn.ModuleDict({"a": nn.ReLU()})(1), NotImplementedError, r"ModuleDict has no forward.*modules\[key\]\(x\)"),
        (lambda: nn.Flatten()([1.0]), ArgumentError, r"Flatten: x is \[1.0\].*tg.tensor"),
        (lambda: nn.Unflatten(0, (1,))((np.ones(1), np.ones(1))), ArgumentError, "Unflatten: got a tuple.*hs, h = rnn"),
    ],
)
def test_wrong_calls_say_what_to_do(call, error, says):
    with pytest.raises(error, match=f"(?s){says}"):
        call()


def test_a_refused_module_leaves_the_container_as_it_was():
    net = nn.Sequential(*layers())
    for change in (lambda: net.append(3), lambda: net.insert(0, 3), lambda: net.__setitem__(0, 3), lambda: net.extend([3])):
        with pytest.raises(ArgumentError):
            change()
    assert len(net) == 3 and net(x).shape == (5, 2)
