"""Modules seen from outside: children and paths, hooks, moving, states that do not fit, the summary, and what wrong calls say."""

from __future__ import annotations

import copy
import gc
import re

import numpy as np
import pytest

import tinygrad_seq as tg
from tinygrad_seq import nn, twins
from tinygrad_seq.errors import ArgumentError, ShapeError, UnknownNameError


class Net(nn.Module):
    def __init__(self):
        self.encoder = nn.Sequential(nn.Linear(3, 4, rng=0), nn.ReLU())
        self.heads = [nn.Linear(4, 2, rng=1), nn.Linear(4, 1, rng=2)]
        self.count = tg.zeros(1)
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        self.hidden = self.encoder(x) + tg.random.standard_normal(4)
        with tg.no_grad():
            self.count += 1
        return [head(self.hidden) for head in self.heads]


x = np.ones((5, 3), "float32")


# ---- Children and paths ----------------------------------------------------------------------------------------------------------------


def test_children_stand_directly_in_a_module_or_in_its_lists():
    assert [name for name, _ in Net().named_children()] == ["encoder", "heads.0", "heads.1"]
    net = Net()
    assert list(net.children()) == [net.encoder, *net.heads]


def test_not_recursing_leaves_out_what_modules_within_hold():
    net = Net()
    net.scale = nn.Parameter([1.0])
    assert [name for name, _ in net.named_parameters(recurse=False)] == ["scale"]
    assert list(net.parameters(recurse=False)) == [net.scale]
    assert [name for name, _ in net.named_buffers(recurse=False)] == ["count"]
    assert list(net.encoder.buffers(recurse=False)) == []


def test_modules_and_parameters_are_found_by_their_path_under_every_name():
    net = Net()
    net.tied = net.heads[0]
    assert net.get_submodule("") is net
    assert net.get_submodule("encoder.0") is net.encoder[0]
    assert net.get_submodule("tied") is net.get_submodule("heads.0") is net.heads[0]
    assert net.get_parameter("tied.weight") is net.heads[0].weight
    with pytest.raises(UnknownNameError, match=r"(?s)Net has no module 'encodr\.0'.*did you mean 'encoder\.0'"):
        net.get_submodule("encodr.0")
    with pytest.raises(AttributeError, match="no parameter 'encoder'"):
        net.get_parameter("encoder")


def test_freezing_a_part_leaves_the_rest_learning():
    net = Net()
    assert net.encoder.requires_grad_(False) is net.encoder
    sum(y.sum() for y in net(x)).backward()
    assert [name for name, p in net.named_parameters() if p.grad is not None] == [
        f"heads.{i}.{part}" for i in (0, 1) for part in ("weight", "bias")
    ]


def test_a_module_that_knows_its_parent_still_prints():
    net = Net()
    net.encoder.parent = net
    assert "(parent): ..." in repr(net)


# ---- Hooks -------------------------------------------------------------------------------------------------------------------------------


def test_a_forward_hook_sees_every_call_may_replace_its_output_and_can_be_removed():
    layer, seen = nn.Linear(3, 4, rng=0), []
    watch = layer.register_forward_hook(lambda module, args, y: seen.append((module, args, y)))
    y = layer(x)
    assert seen[0][0] is layer and seen[0][1][0] is x and seen[0][2] is y
    double = layer.register_forward_hook(lambda module, args, y: 2 * y)
    np.testing.assert_array_equal(layer(x).numpy(), 2 * y.numpy())
    watch.remove()
    double.remove()
    np.testing.assert_array_equal(layer(x).numpy(), y.numpy())
    assert len(seen) == 2
    with pytest.raises(ArgumentError, match="3 is no function"):
        layer.register_forward_hook(3)


# ---- Moving --------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [("float64",), (tg.float64,), (np.dtype("float64"),), ("cpu", "float64"), (None, tg.float64)])
def test_to_takes_a_device_a_dtype_or_both(given):
    assert {p.dtype.name for p in Net().to(*given).parameters()} == {"float64"}


def test_to_a_device_moves_parameters_and_buffers(device_xp):
    net = Net().to(device=tg.backend.devices()[-1])
    tensors = [*net.parameters(), *net.buffers()]
    assert {tg.backend.array_module(t._data) for t in tensors} == {device_xp}
    net.to("cpu", "float64")
    assert {type(t._data) for t in tensors} == {np.ndarray} and net.count.dtype == np.float64


@pytest.mark.parametrize("given", ["gpu", "int32", "flaot32", 3])
def test_to_neither_says_what_there_is(given):
    with pytest.raises(ArgumentError, match=r"(?s)to: .*expected: .*float"):
        Net().to(given)


# ---- States that do not fit ----------------------------------------------------------------------------------------------------------------


def test_loading_tells_what_it_passed_over():
    layer = nn.Linear(2, 1)
    found = layer.load_state_dict({"weight": np.ones((1, 2)), "more": np.ones(1)}, strict=False)
    assert found.missing_keys == ["bias"] and found.unexpected_keys == ["more"]
    assert layer.load_state_dict(layer.state_dict()) == ([], [])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda net, s: {f"module.{k}": v for k, v in s.items()}, r"name.removeprefix\('module.'\)"),
        (lambda net, s: net.encoder.state_dict(), r"get_submodule\('encoder'\).load_state_dict\(state\)"),
        (lambda net, s: {"model": s, "epoch": 3}, r"load_state_dict\(state\['model'\]\)"),
        (lambda net, s: "model.pt", r"tg.load\(path\)"),
        (lambda net, s: net, r"state_dict\(\)"),
        (lambda net, s: {**s, "count": np.array(["a"])}, "count is"),
        (lambda net, s: {}, "missing: +encoder.0.weight.*strict=False"),
        (lambda net, s: {**s, "count": np.zeros(2)}, r"shapes: +count: \(1,\) here, \(2,\) given"),
        (lambda net, s: {**s, **{f"other{i}": v for i, v in enumerate([*s.values()] * 3)}}, r"other7 \.\.\. 13 more"),
    ],
)
def test_a_state_that_does_not_fit_says_what_to_do_and_changes_nothing(change, says):
    net = Net()
    before = net.state_dict()
    with pytest.raises((ShapeError, ArgumentError), match=f"(?s){says}"):
        net.load_state_dict(change(net, before))
    for name, array in net.state_dict().items():
        np.testing.assert_array_equal(array, before[name])


@pytest.mark.torch
def test_a_state_of_pytorch_loads_even_with_parameters_that_require_gradients():
    torch = pytest.importorskip("torch")
    theirs, ours = torch.nn.Linear(3, 2), nn.Linear(3, 2)
    ours.load_state_dict(dict(theirs.named_parameters()))
    np.testing.assert_array_equal(ours.weight.numpy(), theirs.weight.detach().numpy())


class Tied(nn.Module):
    def __init__(self):
        self.embedding = nn.Embedding(7, 4, rng=0)
        self.decoder = nn.Linear(4, 7, bias=False, rng=1)
        self.decoder.weight = self.embedding.weight

    def forward(self, ids):
        return self.decoder(self.embedding(ids))


def test_tied_weights_are_one_parameter_that_gets_both_gradients_and_loads_back():
    net = Tied()
    assert [name for name, _ in net.named_parameters()] == ["embedding.weight"]
    net(np.array([1, 2])).sum().backward()
    w = net.embedding.weight.numpy()
    expected = np.tile(w[[1, 2]].sum(0), (7, 1))  # through the decoder, and through the rows that were looked up
    expected[[1, 2]] += w.sum(0)
    np.testing.assert_allclose(net.embedding.weight.grad.numpy(), expected, rtol=1e-5)
    other = Tied()
    other.load_state_dict({name: a + 1 for name, a in net.state_dict().items()})
    assert other.decoder.weight is other.embedding.weight
    np.testing.assert_array_equal(other.embedding.weight.numpy(), w + 1)


@pytest.mark.torch
def test_a_tied_state_goes_to_pytorch_and_back():
    torch = pytest.importorskip("torch")
    net, theirs = Tied(), torch.nn.ModuleDict({"embedding": torch.nn.Embedding(7, 4), "decoder": torch.nn.Linear(4, 7, bias=False)})
    theirs["decoder"].weight = theirs["embedding"].weight
    theirs.load_state_dict({name: torch.tensor(array) for name, array in net.state_dict().items()})
    assert list(theirs.state_dict()) == list(net.state_dict())
    other = Tied()
    other.load_state_dict(theirs.state_dict())
    np.testing.assert_array_equal(other.decoder.weight.numpy(), net.decoder.weight.numpy())


# ---- Summary ---------------------------------------------------------------------------------------------------------------------------------


def test_the_summary_is_a_table():
    net = nn.Sequential({"first": nn.Linear(3, 4), "norm": nn.BatchNorm1d(4), "rest": nn.Sequential(nn.ReLU(), nn.Linear(4, 2))})
    net.norm.requires_grad_(False)
    assert str(net.summary(x)).splitlines() == [
        "layer                output  parameters",
        "───────────────────────────────────────",
        "Sequential           (5, 2)",
        "  first: Linear      (5, 4)  16",
        "  norm: BatchNorm1d  (5, 4)  8 frozen",
        "  rest: Sequential   (5, 2)",
        "    rest.0: ReLU     (5, 4)",
        "    rest.1: Linear   (5, 2)  10",
        "───────────────────────────────────────",
        "34 parameters: 26 trainable, 8 frozen; 136 bytes, buffers 40 bytes",
    ]


def test_the_summary_counts_shared_parameters_once_and_tells_shapes_of_several_outputs():
    found = Tied().summary(np.array([1, 2]))
    assert (found.parameters, found.trainable, found.frozen, found.nbytes) == (28, 28, 0, 112)
    assert [(row.path, row.parameters, row.shape) for row in found.rows] == [
        ("", 0, "(2, 7)"),
        ("embedding", 28, "(2, 4)"),
        ("decoder", 0, "(2, 7)"),
    ]
    assert [row.tied for row in found.rows] == [0, 0, 28] and str(found).splitlines()[4].endswith("(2, 7)  28 tied")
    assert nn.RNN(3, 4).summary(np.zeros((6, 2, 3), "float32")).rows[0].shape == "(6, 2, 4), (1, 2, 4)"


def test_without_inputs_the_summary_lists_parameters_alone():
    text = str(Net().summary())
    assert "output" not in text and "encoder.0: Linear" in text and "31 parameters" in text


def test_the_summary_leaves_everything_as_it_was():
    net = Net()
    net.extra = nn.Dropout(rng=3)
    net.norm = nn.BatchNorm1d(3)
    net.encoder.eval()
    tg.seed(4)
    expected = tg.random.standard_normal(3).numpy()
    tg.seed(4)
    before, attributes = net.state_dict(), [list(vars(m)) for m in net.modules()]
    drawn = copy.deepcopy(net.extra.rng).random()
    assert net.summary(x).rows[0].shape == "(5, 2), (5, 1)"
    for name, array in net.state_dict().items():
        np.testing.assert_array_equal(array, before[name])
    assert [list(vars(m)) for m in net.modules()] == attributes
    assert net.calls == 0 and not hasattr(net, "hidden")
    assert net.training and not net.encoder.training and net.norm.training
    np.testing.assert_array_equal(tg.random.standard_normal(3).numpy(), expected)
    assert net.extra.rng.random() == drawn
    assert net.heads[0].weight.name is None


def test_a_summary_that_fails_leaves_everything_as_it_was():
    net = Net()
    with pytest.raises(ShapeError):
        net.summary(np.ones((5, 2), "float32"))
    assert net.training and net.calls == 0 and not net._hooks
    net(x)


def test_a_summary_does_not_disturb_a_graph_recorded_before():
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    loss = (net(x * np.arange(5, dtype="float32")[:, None]) ** 2).sum()
    net.summary(x)
    loss.backward()


def test_a_notebook_shows_the_summary_as_a_table_without_letting_names_through():
    page = nn.Sequential({"a<b": nn.ReLU()}).summary(x)._repr_html_()
    assert page.startswith("<table>") and "a&lt;b: ReLU" in page and "a<b" not in page


# ---- What wrong calls say ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (
            lambda: nn.Linear(3, 4, device="cpu"),
            ArgumentError,
            r"Linear: no argument 'device'.*Linear\(in_features, .*\.to\(device\)",
        ),
        (lambda: nn.Linear(in_dim=3), ArgumentError, r"no argument 'in_dim'.*expected: Linear\(in_features"),
        (lambda: nn.Linear(in_featurs=3, out_features=4), ArgumentError, "did you mean 'in_features'"),
        (lambda: nn.Linear(3), ArgumentError, "missing 1 required positional argument: 'out_features'"),
        (lambda: nn.Linear(3, 4, True, 5), ArgumentError, "takes 2 to 3 arguments by position, got 4"),
        (lambda: nn.ReLU(inplace=True), ArgumentError, r"ReLU: no argument 'inplace'.*leave it out"),
        (lambda: nn.ReLU(True), ArgumentError, "ReLU: takes 0 arguments by position, got 1"),
        (lambda: nn.Dropout(p=0.1, inplace=True), ArgumentError, "Dropout: no argument 'inplace'"),
        (lambda: nn.BatchNorm2d(num_channels=3), ArgumentError, r"BatchNorm2d: no argument 'num_channels'.*num_features"),
        (lambda: nn.Softmax(dim=1), ArgumentError, "dim= is called axis= here"),
        (lambda: tg.optim.SGD([nn.Parameter([1.0])], learning_rate=1), ArgumentError, "learning_rate= is called lr= here"),
        (lambda: nn.Linear(3, 4)(x, x), ArgumentError, r"Linear: takes 1 arguments by position, got 2.*Linear\(x\)"),
        (lambda: nn.Linear(3, 4)(y=x), ArgumentError, "Linear: no argument 'y'"),
        (lambda: nn.Linear(3, 4).cuda(), UnknownNameError, r"module.to\('cuda'\)"),
        (lambda: nn.Linear(3, 4).double(), AttributeError, r"module.to\(tg.float64\)"),
        (lambda: nn.Linear(3, 4).register_buffer("b", x), AttributeError, r"self.name = tg.tensor\(data\)"),
        (lambda: nn.Linear(3, 4).no_such_thing, AttributeError, "Linear has no attribute 'no_such_thing'"),
        (lambda: nn.InstanceNorm1d(3), AttributeError, "GroupNorm"),
    ],
)
def test_wrong_calls_say_what_to_write(call, error, says):
    with pytest.raises(error, match=f"(?s){says}"):
        call()


@pytest.mark.parametrize("name", twins.MODULES)
def test_a_method_of_pytorchs_modules_is_not_there_and_what_to_write_is(name):
    with pytest.raises(UnknownNameError) as caught:
        getattr(nn.Linear(3, 4), name)
    assert twins.MODULES[name] in str(caught.value)
    for method in re.findall(r"module\.(\w+)", twins.MODULES[name]):
        assert callable(getattr(nn.Module, method))


def test_a_users_own_module_keeps_pythons_words_for_its_constructor_and_gets_ours_for_its_parts():
    class Mine(nn.Linear):
        def __init__(self, size):
            super().__init__(size, size, widht=3)

    class Empty(nn.Module):
        pass

    class Small(nn.Linear):
        pass

    with pytest.raises(TypeError, match="unexpected keyword argument 'wide'"):
        Mine(wide=3)
    with pytest.raises(ArgumentError, match="Linear: no argument 'widht'"):
        Mine(3)
    with pytest.raises(ArgumentError, match="Small: no argument 'widht'"):
        Small(widht=3)
    with pytest.raises(TypeError, match="takes no arguments"):
        Empty(3)


def test_a_base_beside_module_gets_its_arguments():
    class Named:
        def __init__(self, called):
            self.called = called

    class Net(nn.Module, Named):
        def __init__(self):
            super().__init__("net")

    assert Net().called == "net"


def test_a_property_that_fails_shows_its_own_error():
    class Net(nn.Module):
        @property
        def width(self):
            return self.weight.shape

    with pytest.raises(AttributeError, match="Net has no attribute 'weight'"):
        Net().width
    assert not hasattr(Net(), "width")


def test_an_error_inside_forward_is_not_taken_for_a_wrong_call():
    class Wrong(nn.Module):
        def forward(self, x):
            return len(3)

    with pytest.raises(TypeError, match="has no len"):
        Wrong()(x)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda net: net.zero_grad(set_to_none=True), "(?s)zero_grad: no argument 'set_to_none'.*leave it out"),
        (lambda net: net.eval(False), "eval: takes 0 arguments by position, got 1"),
        (lambda net: net.state_dict(prefix="net."), "(?s)state_dict: no argument 'prefix'.*prefix \\+ name"),
        (lambda net: net.load_state_dict({}, assign=True), "(?s)load_state_dict: no argument 'assign'.*leave it out"),
        (lambda net: net.apply(None), "(?s)apply: None is no function"),
    ],
)
def test_arguments_of_pytorchs_methods_are_told(call, says):
    with pytest.raises(ArgumentError, match=says):
        call(nn.Linear(2, 2))


@pytest.mark.torch
def test_apply_goes_through_the_modules_in_pytorchs_order():
    torch = pytest.importorskip("torch")
    seen = []
    for kit in (nn, torch.nn):
        net = kit.Sequential(kit.Linear(2, 3), kit.Sequential(kit.ReLU(), kit.Linear(3, 3)), kit.Tanh())
        order = []
        net.apply(lambda module, order=order: order.append(type(module).__name__))
        seen.append(order)
    assert seen[0] == seen[1]


def test_signatures_stay_readable():
    import inspect

    assert list(inspect.signature(nn.Linear).parameters) == ["in_features", "out_features", "bias", "rng", "dtype"]
    assert list(inspect.signature(nn.ReLU).parameters) == []


def test_walking_a_module_leaves_nothing_for_the_garbage_collector() -> None:
    net = nn.LSTM(3, 4, num_layers=2)
    gc.collect()
    gc.disable()
    try:
        for _ in range(10):
            net.zero_grad()
            list(net.named_modules())
        assert gc.collect() == 0
    finally:
        gc.enable()
