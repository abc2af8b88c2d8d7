"""Modules: what they find, name, save, load, move and print; Linear and Embedding."""

from __future__ import annotations

import copy

import numpy as np
import pytest

import tinygrad_seq as tg
from tinygrad_seq import nn
from tinygrad_seq.errors import ArgumentError, IndexError_, ShapeError


class Net(nn.Module):
    """Everything a module can hold, without a call of a base __init__."""

    def __init__(self):
        self.first = nn.Linear(3, 4, rng=0)
        self.rest = [nn.Linear(4, 4, rng=1), {"out": nn.Linear(4, 2, rng=2)}]
        self.scale = nn.Parameter([1.0, 2.0])
        self.mean = tg.zeros(3)  # a buffer
        self._seen = tg.zeros(1)  # one that is not saved
        self.words = ["not", "tensors"]
        self.size = 4

    def forward(self, x):
        x = self.rest[0](self.first(x - self.mean)).tanh()
        self.hidden = x  # kept for a look later: part of a graph, so neither parameter nor buffer
        return self.rest[1]["out"](x) * self.scale


PATHS = ["first.weight", "first.bias", "rest.0.weight", "rest.0.bias", "rest.1.out.weight", "rest.1.out.bias", "scale"]


# ---- What a module holds -----------------------------------------------------------------------------------------------------------


def test_parameters_are_found_in_order_through_lists_and_dicts():
    net = Net()
    assert [name for name, _ in net.named_parameters()] == PATHS
    assert all(type(p) is nn.Parameter and p.requires_grad for p in net.parameters())


def test_an_update_by_hand_keeps_the_parameter():
    layer = nn.Linear(3, 1, rng=0)
    before, weight = layer.weight.numpy().copy(), layer.weight
    layer(np.ones((2, 3), "f4")).sum().backward()
    with tg.no_grad():
        for p in layer.parameters():
            p -= 0.5 * p.grad
        layer.bias += 1
        layer.bias *= 4
        layer.bias /= 2
    np.testing.assert_array_equal(layer.weight.numpy(), before - 1)
    assert layer.weight is weight and isinstance(layer.bias, nn.Parameter) and layer.bias.is_leaf and layer.bias.requires_grad
    assert len(list(layer.parameters())) == 2


def test_tensors_that_are_no_parameters_are_buffers_and_kept_results_are_neither():
    net = Net()
    net(np.ones((5, 3), "float32"))
    assert [name for name, _ in net.named_buffers()] == ["mean", "_seen"]
    assert [name for name, _ in net.named_parameters()] == PATHS
    assert list(net.state_dict()) == [*PATHS, "mean"]


def test_modules_are_listed_outer_before_inner():
    net = Net()
    assert [name for name, _ in net.named_modules()] == ["", "first", "rest.0", "rest.1.out"]


def test_a_shared_parameter_counts_once_but_stands_in_the_state_under_every_name():
    net = Net()
    net.rest[0].bias = net.rest[1]["out"].bias = net.first.bias
    net.tied = net.first
    assert [name for name, _ in net.named_parameters()] == [name for name in PATHS if name == "first.bias" or "bias" not in name]
    assert {"first.bias", "rest.0.bias", "rest.1.out.bias", "tied.weight", "tied.bias"} < set(net.state_dict())
    assert [name for name, _ in net.named_modules()] == ["", "first", "rest.0", "rest.1.out"]


def test_a_module_that_knows_its_parent_is_walked_once():
    net = Net()
    net.first.parent = net
    assert [name for name, _ in net.named_parameters()] == PATHS


# ---- Names and frames ----------------------------------------------------------------------------------------------------------------


def test_the_first_call_names_parameters_by_their_path_so_that_errors_and_drawings_can():
    net = Net()
    net.scale.name = "mine"
    assert net.first.weight.name is None
    with pytest.raises(ShapeError, match=r"first\.weight"):
        net.first(net(np.ones((5, 3), "float32")))
    assert [p.name for p in net.parameters()] == [*PATHS[:-1], "mine"]


def test_a_module_inside_another_does_not_name_itself_shorter():
    net = Net()
    net(np.ones((5, 3), "float32"))
    net.first(np.ones((5, 3), "float32"))
    assert net.first.weight.name == "first.weight"


def test_calling_records_in_the_frames_of_the_modules():
    net = Net()
    y = net(np.ones((5, 3), "float32"))
    frames = {node.prim.name: node.frame for node in tg.toposort([y]) if node.prim is not None}
    assert [f.owner for f in frames["tanh"].path()] == [net]
    inner = [node.frame.path() for node in tg.toposort([y]) if node.prim is not None and node.prim.name == "inner"]
    assert [[f.owner for f in path] for path in inner] == [[net, net.first], [net, net.rest[0]], [net, net.rest[1]["out"]]]


def test_an_error_inside_says_which_modules_it_came_from():
    with pytest.raises(ShapeError, match=r"Net > Linear"):
        net = Net()
        net.rest[0] = nn.Linear(5, 4, rng=0)
        net(np.ones((5, 3), "float32"))


# ---- State -----------------------------------------------------------------------------------------------------------------------------


def test_a_state_dict_is_a_snapshot_that_loads_back():
    net, other = Net(), Net()
    state = net.state_dict()
    for p in net.parameters():
        with tg.no_grad():
            p[...] = 7
    assert state["scale"].tolist() == [1, 2]
    other.load_state_dict(net.state_dict())
    assert all((p.numpy() == 7).all() for p in other.parameters())


def test_loading_writes_into_the_same_parameters_and_casts():
    net = Net()
    before = list(net.parameters())
    net.load_state_dict({name: a.astype("float64") + 1 for name, a in Net().state_dict().items()})
    assert all(a is b and a.dtype == np.float32 for a, b in zip(before, net.parameters(), strict=True))
    np.testing.assert_array_equal(net.scale.numpy(), [2, 3])


def test_a_graph_recorded_before_loading_refuses_to_differentiate():
    net = Net()
    loss = net(np.ones((5, 3), "float32")).sum()
    net.load_state_dict(net.state_dict())
    with pytest.raises(tg.errors.InPlaceError):
        loss.backward()


def test_a_state_that_does_not_fit_is_explained_and_nothing_is_loaded():
    net = Net()
    state = {name: a + 1 for name, a in net.state_dict().items()}
    state["first.weight"] = np.zeros((4, 9))
    state["extra"] = state.pop("scale")
    before = net.state_dict()
    with pytest.raises(ShapeError) as caught:
        net.load_state_dict(state)
    for words in ("first.weight: (4, 3) here, (4, 9) given", "missing:    scale", "unexpected: extra"):
        assert words in str(caught.value)
    for name, a in net.state_dict().items():
        np.testing.assert_array_equal(a, before[name])


def test_not_strict_loads_what_both_have_but_never_a_wrong_shape():
    net = Net()
    net.load_state_dict({"scale": np.array([5, 6]), "extra": np.zeros(1)}, strict=False)
    np.testing.assert_array_equal(net.scale.numpy(), [5, 6])
    with pytest.raises(ShapeError, match=r"scale: \(2,\) here, \(3,\) given"):
        net.load_state_dict({"scale": np.zeros(3)}, strict=False)


def test_a_deep_copy_is_separate_and_keeps_ties_and_names():
    net = Net()
    net.tied = net.first
    net(np.ones((5, 3), "float32"))
    del net.hidden
    other = copy.deepcopy(net)
    assert other.tied is other.first is not net.first
    assert type(other.scale) is nn.Parameter and other.scale.requires_grad and other.scale.name == "scale"
    with tg.no_grad():
        other.scale[...] = 9
    np.testing.assert_array_equal(net.scale.numpy(), [1, 2])


# ---- Changing all of it ----------------------------------------------------------------------------------------------------------------


def test_training_mode_reaches_every_module_and_needs_no_init():
    net = Net()
    assert net.training and net.rest[1]["out"].training
    assert net.eval() is net
    assert not any(m.training for m in net.modules())
    net.train()
    assert all(m.training for m in net.modules())


def test_to_changes_the_dtype_in_place_and_keeps_objects_names_and_gradients():
    net = Net()
    net.ids = tg.tensor([1, 2])
    net(np.ones((5, 3), "float32")).sum().backward()
    before, gradients = list(net.parameters()), [p.grad.numpy() for p in net.parameters()]
    assert net.to(dtype="float64") is net
    for p, old, g in zip(net.parameters(), before, gradients, strict=True):
        assert p is old and p.dtype == p.grad.dtype == np.float64 and p.name
        np.testing.assert_array_equal(p.grad.numpy(), g.astype("float64"))
    assert net.mean.dtype == np.float64 and net.ids.dtype == np.int64
    net.zero_grad()
    net(np.ones((5, 3))).sum().backward()
    assert net.scale.grad.dtype == np.float64


def test_zero_grad_forgets_and_freezing_stops_gradients():
    net = Net()
    net.first.requires_grad_(False)
    net(np.ones((5, 3), "float32")).sum().backward()
    assert net.first.weight.grad is None and net.scale.grad is not None
    net.zero_grad()
    assert net.scale.grad is None
    net.requires_grad_()
    net(np.ones((5, 3), "float32")).sum().backward()
    assert net.first.weight.grad is not None


def test_apply_reaches_every_module_inner_before_outer():
    visited = []
    net = Net()
    net.apply(visited.append)
    assert visited[-1] is net and len(visited) == 4


def test_the_repr_is_a_tree():
    class Two(nn.Module):
        def __init__(self):
            self.net = [nn.RNN(3, 4, num_layers=2), nn.Embedding(5, 2, padding_idx=0)]

    class Top(nn.Module):
        def __init__(self):
            self.two, self.out = Two(), nn.Linear(4, 1, bias=False)

    assert repr(Top()) == (
        "Top(\n"
        "  (two): Two(\n"
        "    (net.0): RNN(3, 4, num_layers=2)\n"
        "    (net.1): Embedding(5, 2, padding_idx=0)\n"
        "  )\n"
        "  (out): Linear(4, 1, bias=False)\n"
        ")"
    )


def test_a_module_without_forward_says_so():
    with pytest.raises(NotImplementedError, match="Module has no forward"):
        nn.Module()(1)


# ---- Linear and Embedding ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(3,), (5, 3), (2, 5, 3)])
@pytest.mark.parametrize("bias", [True, False])
def test_linear_is_x_w_transposed_plus_b_over_any_leading_axes(shape, bias):
    layer = nn.Linear(3, 4, bias=bias, rng=0, dtype="float64")
    x = np.random.default_rng(0).standard_normal(shape)
    expected = np.einsum("...d,kd->...k", x, layer.weight.numpy()) + (layer.bias.numpy() if bias else 0)
    np.testing.assert_allclose(layer(x).numpy(), expected, rtol=1e-13)


@pytest.mark.torch
@pytest.mark.parametrize("shape", [(3,), (5, 3), (2, 5, 3)])
def test_linear_equals_pytorch_in_value_and_gradients(shape):
    torch = pytest.importorskip("torch", reason="compares with PyTorch")
    ours, theirs = nn.Linear(3, 4, rng=0, dtype="float64"), torch.nn.Linear(3, 4, dtype=torch.float64)
    ours.load_state_dict(theirs.state_dict())
    x = np.random.default_rng(0).standard_normal(shape)
    a, b = tg.Tensor(x, requires_grad=True), torch.tensor(x, requires_grad=True)
    (ours(a) ** 2).sum().backward()
    (theirs(b) ** 2).sum().backward()
    for p, q in [(a, b), (ours.weight, theirs.weight), (ours.bias, theirs.bias)]:
        np.testing.assert_allclose(p.grad.numpy(), q.grad.numpy(), rtol=1e-12)


def test_linear_starts_uniform_within_one_over_the_root_of_its_inputs():
    layer = nn.Linear(100, 200, rng=0)
    for p in layer.parameters():
        assert np.abs(p.numpy()).max() <= 0.1
        assert p.numpy().std() == pytest.approx(0.1 / np.sqrt(3), rel=0.1)


def test_embedding_is_one_hot_times_the_table_in_value_and_gradient():
    layer = nn.Embedding(6, 3, rng=0, dtype="float64")
    ids = np.array([[1, 5, 1], [0, 1, 2]])
    one_hot, g = np.eye(6)[ids], np.random.default_rng(0).standard_normal((2, 3, 3))
    out = layer(ids)
    np.testing.assert_array_equal(out.numpy(), one_hot @ layer.weight.numpy())
    out.backward(g)
    np.testing.assert_allclose(layer.weight.grad.numpy(), np.einsum("btv,bte->ve", one_hot, g), rtol=1e-14)


def test_the_padding_row_is_zero_and_learns_nothing():
    layer = nn.Embedding(6, 3, padding_idx=-1, rng=0)
    assert layer.padding_idx == 5 and (layer.weight.numpy()[5] == 0).all()
    layer([1, 5, 5, 2]).sum().backward()
    assert layer.weight.grad.numpy().sum(axis=1).tolist() == [0, 3, 3, 0, 0, 0]


def test_the_padding_row_may_count_from_the_end_in_the_function_too():
    table = tg.ones((6, 3), requires_grad=True)
    nn.functional.embedding([1, 5, 5, 2], table, padding_idx=-1).sum().backward()
    assert table.grad.numpy().sum(axis=1).tolist() == [0, 3, 3, 0, 0, 0]


def test_no_ids_give_no_vectors():
    assert nn.Embedding(6, 3)([]).shape == (0, 3)
    assert nn.Embedding(6, 3)([[], []]).shape == (2, 0, 3)


def test_ids_on_the_tape_are_the_ids_of_the_call():
    layer, ids = nn.Embedding(6, 3, rng=0), np.array([1, 2])
    out = layer(ids)
    ids[:] = 0
    out.sum().backward()
    assert layer.weight.grad.numpy().sum(axis=1).tolist() == [0, 3, 3, 0, 0, 0]


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: nn.Embedding(6, 3)([1, 6]), IndexError_, "6 is out of range"),
        (lambda: nn.Embedding(6, 3)([-1]), IndexError_, "-1 is out of range"),
        (lambda: nn.Embedding(6, 3)([0.5]), TypeError, "must be integers"),
        (lambda: nn.Embedding(6, 3, padding_idx=6), IndexError_, "padding_idx 6"),
        (lambda: nn.Embedding(6, 3, padding_idx=1.0), ArgumentError, "padding_idx = 1.0"),
        (lambda: nn.functional.embedding([1], np.ones((6, 3)), -7), IndexError_, "embedding: padding_idx -7"),
        (lambda: nn.Linear(4, 4)(3.0), ShapeError, r"(?s)linear: x 3.0 has no features.*x \(\.\.\., 4\)"),
        (lambda: nn.Linear(4, 4, bias=False)(np.float32(3)), ShapeError, "linear: x .*has no features"),
        (lambda: nn.Linear(4, 4)(tg.tensor(3.0)), ShapeError, "float32 .* has no features"),
        (lambda: nn.Linear(3, 4)(np.zeros((5, 2), "float32")), ShapeError, r"(?s)linear: x float32 \(5, 2\).*\(\.\.\., 3\)"),
        (lambda: nn.Linear(-1, 3), ArgumentError, "Linear: in_features = -1"),
        (lambda: nn.Linear(2.5, 3), ArgumentError, "Linear: in_features = 2.5"),
        (lambda: nn.Embedding(5, 0), ArgumentError, "Embedding: embedding_dim = 0"),
        (lambda: nn.RNN("a", 3), ArgumentError, "RNN: input_size = 'a'"),
    ],
)
def test_wrong_calls_say_what_was_expected(call, error, says):
    with pytest.raises(error, match=says):
        call()


@pytest.mark.parametrize("layer", [lambda x: nn.Linear(3, 2)(x), lambda x: nn.LSTM(3, 2)(x), lambda x: nn.GRUCell(3, 2)(x[0])])
def test_integers_are_no_input_of_a_layer(layer):
    with pytest.raises(ArgumentError, match=r"(?s)int64.*floating-point.*astype\('float32'\).*Embedding"):
        layer(np.ones((4, 2, 3), int))
