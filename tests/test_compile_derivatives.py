"""What a compiled loop promises as a node of the tape: derivatives of any order, hooks, anomalies, recomputation, safety, and memory of its own."""

from __future__ import annotations

import gc
import itertools
import re
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from compiled import (
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
from tinygrad_seq.errors import AnomalyError, GraphError, InPlaceError
from tinygrad_seq.fusion import expand
from tinygrad_seq.nn import functional as F
from tinygrad_seq.scan import scan
from tinygrad_seq.testing import check_grads

T, B, D, H = 4, 2, 2, 3
LENGTHS = [2, 4]


def normalised(x: Any, h: Any, w: Any, u: Any, b: Any) -> Any:
    """A cell of one's own: a norm, a gate and a product."""
    new = F.layer_norm(F.linear(x, w) + F.linear(h, u, b), H)
    gate = tg.sigmoid(new + h)
    return gate * h + (1 - gate) * tg.tanh(new)


# name -> step, number of states, rows of the weights (in units of H), biases
STEPS: dict[str, tuple[Callable[..., Any], int, int, int]] = {
    "RNN": (F.rnn_step, 1, 1, 2),
    "LSTM": (F.lstm_step, 2, 4, 2),
    "GRU": (F.gru_step, 1, 3, 2),
    "GRU reset before": (F.gru_reset_before_step, 1, 3, 2),
    "cell of one's own": (normalised, 1, 1, 1),
}
each_step = pytest.mark.parametrize("kind", STEPS)


def arrays_of(kind: str, seed: int = 0, T: int = T) -> list[np.ndarray]:
    """xs, the states and the weights."""
    _, states, rows, biases = STEPS[kind]
    rng = np.random.default_rng(seed)
    shapes = [(T, B, D), *[(B, H)] * states, (rows * H, D), (rows * H, H), *[(rows * H,)] * biases]
    return [0.6 * rng.standard_normal(shape) for shape in shapes]


def loop(kind: str, *args: Any, **options: Any) -> tuple[Any, ...]:
    """hs and the last states, of the arguments in one row."""
    step, states, _, _ = STEPS[kind]
    xs, *rest = args
    hs, last = scan(step, xs, tuple(rest[:states]) if states > 1 else rest[0], rest[states:], **options)
    return (hs, *parts(last))


def loss_of(kind: str, *args: Any, **options: Any) -> Any:
    """A scalar that bends in every output."""
    hs, *last = loop(kind, *args, **options)
    return (hs**3).sum() + sum((a**2).sum() for a in last)


def leaves_of(arrays: list[np.ndarray]) -> list[tg.Tensor]:
    return [tg.tensor(a, requires_grad=True) for a in arrays]


def arrays(values: Any) -> list[np.ndarray]:
    return [a.numpy() for a in values]


def close(mine: Any, theirs: Any, tolerance: float = 1e-10) -> None:
    agree(dict(enumerate(mine)), dict(enumerate(theirs)), tolerance)


# ---- Derivatives of any order ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"reverse": True, "lengths": LENGTHS}], ids=["plain", "reverse, lengths"])
@each_step
@each_target
def test_first_and_second_derivatives_are_central_differences(kind: str, options: dict[str, Any], target: str):
    with on(target):
        check_grads(lambda *args: loop(kind, *args, **options), arrays_of(kind), order=2)


@pytest.mark.parametrize("layer", [nn.RNN, nn.LSTM, nn.GRU])
def test_first_and_second_derivatives_of_a_layer_are_central_differences(layer: Any):
    net = layer(D, 2, 2, bidirectional=True, rng=0, dtype="float64")
    parameters = dict(net.named_parameters())

    def run(xs: Any, *weights: Any) -> Any:
        for name, w in zip(parameters, weights, strict=True):
            setattr(net, name, w)
        hs, last = net(xs, lengths=[2, 3])
        return (hs, *parts(last))

    check_grads(run, [np.random.default_rng(1).standard_normal((3, 2, D)), *(p.numpy() for p in parameters.values())], order=2)


@each_step
@mostly_numpy
def test_products_with_the_hessian_are_those_of_the_unfolded_loop(kind: str, target: str):
    given = arrays_of(kind)
    for place, a in enumerate(given):
        direction = np.random.default_rng(place).standard_normal(a.shape)

        def product(place: int = place, direction: Any = direction, a: Any = a) -> list[np.ndarray]:
            f = lambda x: loss_of(kind, *given[:place], x, *given[place + 1 :], lengths=LENGTHS)  # noqa: E731
            return [tg.hvp(f, a, direction).numpy()]

        with on(target):
            mine = product()
        with tg.unfolded():
            close(mine, product())


@each_step
def test_third_derivatives_are_those_of_the_unfolded_loop(kind: str):
    def third() -> list[np.ndarray]:
        leaves = leaves_of(arrays_of(kind, T=2))
        first = tg.grad(loss_of(kind, *leaves), leaves, create_graph=True)
        second = tg.grad(sum((g**2).sum() for g in first), leaves, create_graph=True)
        return arrays(tg.grad(sum((g**2).sum() for g in second), leaves))

    with on("numpy"):
        mine = third()
    with tg.unfolded():
        close(mine, third())


@each_step
@mostly_numpy
def test_jacobians_are_those_of_the_unfolded_loop(kind: str, target: str):
    xs, h, *rest = arrays_of(kind)

    def jacobians() -> list[np.ndarray]:
        last_by_first = tg.jacobian(lambda h: loop(kind, xs, h, *rest)[1], h)
        states_by_weight = tg.jacobian(lambda w: loop(kind, xs, h, *rest[:-1], w)[0], rest[-1])
        return arrays([last_by_first, states_by_weight, *tg.jacobian(lambda x, h: loop(kind, x, h, *rest)[0], xs, h)])

    with on(target):
        mine = jacobians()
    with tg.unfolded():
        close(mine, jacobians())
    assert (np.triu(np.ones((T, T)), 1)[:, None, None, :, None, None] * mine[2] == 0).all()  # the future changes nothing


@each_step
def test_jvp_and_a_gradient_of_a_gradient_by_an_outer_weight_reach_through_the_loop(kind: str):
    given = arrays_of(kind)

    def run() -> list[np.ndarray]:
        tangents = [np.ones_like(a) for a in given]
        y, dy = tg.jvp(lambda *args: loop(kind, *args)[0], given, tangents)
        scale = tg.tensor(np.float64(0.7), requires_grad=True)
        leaves = leaves_of(given)
        leaves_scaled = [leaf * scale for leaf in leaves]
        (g,) = tg.grad(loss_of(kind, *leaves_scaled), leaves[:1], create_graph=True)
        return arrays([y, dy, *tg.grad((g * g).sum(), [scale, *leaves])])

    with on("numpy"):
        mine = run()
    with tg.unfolded():
        close(mine, run())


def test_a_recorded_gradient_equals_the_bare_one_and_is_a_graph():
    leaves = leaves_of(arrays_of("LSTM"))
    loss = loss_of("LSTM", *leaves, lengths=LENGTHS)
    bare, recorded = tg.grad(loss, leaves), tg.grad(loss, leaves, create_graph=True)
    close(arrays(recorded), arrays(bare), 1e-12)
    assert all(g.requires_grad for g in recorded) and not any(g.requires_grad for g in bare)


# ---- One node ------------------------------------------------------------------------------------------------------------------------


def fused_nodes(*values: Any) -> list[Any]:
    return [node for node in tape(values) if node.prim is not None and node.prim.equation is not None]


@pytest.mark.parametrize("options", [{}, {"reverse": True}, {"lengths": LENGTHS}], ids=str)
@each_step
@each_target
def test_a_reader_opens_the_node_into_steps_at_their_times(kind: str, options: dict[str, Any], target: str):
    leaves = leaves_of(arrays_of(kind))
    with on(target):
        hs, *last = loop(kind, *leaves, **options)
    (node,) = fused_nodes(hs)
    inputs, outs = expand(node, rtol=1e-9, atol=1e-10)
    opened = tape(outs)
    assert times(opened) == set(range(1, T + 1))
    names = {n.prim.name for n in opened if n.prim is not None}
    assert names & {"tanh", "sigmoid"}
    assert len(inputs) == len(node.args)
    del last


@pytest.mark.parametrize("place", range(3))
def test_a_kernel_that_differs_from_its_equation_is_found_out(place: int, monkeypatch: pytest.MonkeyPatch):
    hs, _ = loop("GRU", *leaves_of(arrays_of("GRU")))
    (node,) = fused_nodes(hs)
    kernel = node.prim.function

    def wrong(out: Any) -> Any:
        """One number of the largest output is another."""
        largest = max(range(len(out)), key=lambda i: out[i].size)
        out = [a.copy() for a in out]
        out[largest].reshape(-1)[place] += 1
        return tuple(out)

    def wrong_kernel(*args: Any, **params: Any) -> Any:
        out, saved = kernel(*args, **params)
        return wrong(out), saved

    expand(node)
    monkeypatch.setattr(node.prim, "function", wrong_kernel)  # a reader that wants dropped numbers runs it again
    if node.out is not None:
        node.out = wrong(node.out)
    with pytest.raises(GraphError, match="disagree"):
        expand(node)


@each_step
def test_the_tape_has_as_many_nodes_for_two_steps_as_for_two_hundred(kind: str):
    counts = set()
    for length in (2, 200):
        hs, *last = loop(kind, *leaves_of(arrays_of(kind, T=length)), lengths=[1, length])
        compiled(hs, *last)
        counts.add(len(tape((hs, *last))))
    assert len(counts) == 1


def test_without_recording_nothing_is_recorded():
    leaves = leaves_of(arrays_of("LSTM"))
    with tg.no_grad():
        bare = loop("LSTM", *leaves)
        with tg.enable_grad():
            recorded = loop("LSTM", *leaves)
    constant = loop("LSTM", *[a.detach() for a in leaves])
    for a, b, c in zip(bare, recorded, constant, strict=True):
        assert a.node is None and c.node is None and b.requires_grad
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=0, atol=1e-14)
        np.testing.assert_allclose(a.numpy(), c.numpy(), rtol=0, atol=1e-14)


def test_loops_after_one_another_and_inside_a_loop_of_ones_own():
    def run() -> Run:
        leaves = leaves_of(arrays_of("GRU"))
        xs, h, *weights = leaves
        hs, h1 = scan(F.gru_step, xs, h, weights)
        hs2, h2 = scan(F.gru_step, hs[:, :, :D], h1, weights, reverse=True)
        for part in tg.steps([hs2, hs2 * 2]):
            _, h2 = scan(F.gru_step, part[:, :, :D], h2, weights)
        return Run({"hs": hs, "hs2": hs2, "h2": h2}, {f"leaf {i}": leaf for i, leaf in enumerate(leaves)})

    same_as_unfolded(run, loops=None)


# ---- Backward, again and in part ---------------------------------------------------------------------------------------------------


@each_step
@each_target
def test_backward_twice_adds_twice_and_changes_no_output(kind: str, target: str):
    leaves = leaves_of(arrays_of(kind))
    with on(target):
        outputs = loop(kind, *leaves, lengths=LENGTHS)
    before = [a.numpy().copy() for a in outputs]
    loss = sum((a * a).sum() for a in outputs)
    loss.backward()
    once = [leaf.grad.numpy().copy() for leaf in leaves]
    loss.backward()
    close(arrays(leaf.grad for leaf in leaves), [2 * g for g in once], 1e-12)
    for a, b in zip(outputs, before, strict=True):
        np.testing.assert_array_equal(a.numpy(), b)


@each_step
@each_target
def test_two_loops_of_one_step_do_not_share_their_memory(kind: str, target: str):
    first, second = leaves_of(arrays_of(kind, 0)), leaves_of(arrays_of(kind, 1))
    with on(target):
        alone = tg.grad(loss_of(kind, *first), first)
        a = loop(kind, *first)
        kept = [x.numpy().copy() for x in a]
        b = loop(kind, *second)
        of_b = tg.grad(sum((x**3).sum() for x in b), second)
        of_a = tg.grad((a[0] ** 3).sum() + sum((x**2).sum() for x in a[1:]), first)
        again = tg.grad(sum((x**3).sum() for x in b), second)
    for x, y in zip(a, kept, strict=True):
        np.testing.assert_array_equal(x.numpy(), y)
    close(arrays(of_a), arrays(alone), 1e-14)
    close(arrays(again), arrays(of_b), 1e-14)


@each_step
@each_target
def test_gradients_and_outputs_are_arrays_of_their_own(kind: str, target: str):
    leaves = leaves_of(arrays_of(kind))
    with on(target):
        outputs = loop(kind, *leaves)
    sum(a.sum() for a in outputs).backward()
    gradients = [leaf.grad._data for leaf in leaves]
    for a, b in itertools.combinations([*gradients, *(leaf._data for leaf in leaves)], 2):
        assert not np.shares_memory(a, b)
    for g, a in itertools.product(gradients, [x._data for x in outputs]):
        assert not np.shares_memory(g, a)


def test_clipping_in_place_scales_each_gradient_once():
    net = nn.LSTM(D, H, rng=0, dtype="float64")
    (net(np.ones((T, B, D)))[0] ** 2).sum().backward()
    before = [p.grad.numpy().copy() for p in net.parameters()]
    norm = np.sqrt(sum((g**2).sum() for g in before))
    tg.optim.clip_grad_norm_(net.parameters(), 0.1 * norm)
    close(arrays(p.grad for p in net.parameters()), [0.1 * g for g in before], 1e-7)


def test_arguments_used_elsewhere_too_receive_the_sum_and_no_neighbour_does():
    def run() -> Run:
        leaves = leaves_of(arrays_of("LSTM"))
        xs, h, c, w_ih, w_hh, b_ih, b_hh = leaves
        hs, (_, last) = scan(F.lstm_step, xs, (h, c), (w_ih, w_hh, b_ih, b_hh))
        more = 2 * b_ih.sum() + (w_hh**2).sum() + (xs * 3).sum() + (c * h).sum() + (hs[1] * last).sum()
        return Run({"hs": hs, "more": more, "later": (b_ih**2).sum()}, {f"leaf {i}": leaf for i, leaf in enumerate(leaves)})

    same_as_unfolded(run)


@pytest.mark.parametrize(
    "look",
    [
        lambda hs: hs.sum(),
        lambda hs: hs[::-1].sum() + hs[::2].sum(),
        lambda hs: (hs.swapaxes(0, 1) * np.arange(B * T * H).reshape(B, T, H)).sum(),
        lambda hs: (hs.T * np.arange(T * B * H).reshape(H, B, T)).sum(),
        lambda hs: hs[2].sum(),
        lambda hs: hs[-1, 0, 1],
        lambda hs: tg.broadcast_to(hs[:, :1], hs.shape).sum(),
        lambda hs: hs.mean(axis=0).max(),
        lambda hs: (hs.astype("float32") ** 2).sum(),
        lambda hs: hs.sum() * 0,
    ],
)
@each_target
def test_a_gradient_may_arrive_in_any_layout(look: Callable[[Any], Any], target: str):
    def run() -> Run:
        leaves = leaves_of(arrays_of("LSTM"))
        hs, *_ = loop("LSTM", *leaves)
        return Run({"look": look(hs)}, {f"leaf {i}": leaf for i, leaf in enumerate(leaves)})

    same_as_unfolded(run, target, tolerance=1e-6 if "float32" in str(look.__code__.co_consts) else 1e-10)


@each_target
def test_a_gradient_that_is_given_is_left_as_it_was(target: str):
    leaves = leaves_of(arrays_of("GRU"))
    with on(target):
        hs, _ = loop("GRU", *leaves, lengths=LENGTHS)
    g = np.random.default_rng(2).standard_normal(hs.shape)
    g.flags.writeable = False
    hs.backward(g)
    hs.backward(tg.tensor(g))
    expected = leaves_of(arrays_of("GRU"))
    with tg.unfolded():
        loop("GRU", *expected, lengths=LENGTHS)[0].backward(2 * g)
    close(arrays(leaf.grad for leaf in leaves), arrays(leaf.grad for leaf in expected))


# ---- Hooks --------------------------------------------------------------------------------------------------------------------------------


@each_step
@each_target
def test_hooks_see_the_complete_gradient_once_and_may_replace_it(kind: str, target: str):
    def run() -> list[np.ndarray]:
        leaves = leaves_of(arrays_of(kind))
        middle = [leaf * 1.5 for leaf in leaves]
        seen: list[list[np.ndarray]] = [[] for _ in (*leaves, *middle)]
        for value, calls in zip((*leaves, *middle), seen, strict=True):
            value.register_hook(lambda g, calls=calls: calls.append(g.numpy().copy()))
        middle[0].register_hook(lambda g: 2 * g)
        outputs = loop(kind, *middle, lengths=LENGTHS)
        hs = outputs[0].retain_grad()
        hs.register_hook(lambda g: g * 0.5)
        removed = outputs[-1].register_hook(lambda g: g * np.nan)
        removed.remove()
        sum((a * a).sum() for a in outputs).backward()
        assert [len(calls) for calls in seen] == [1] * len(seen)
        return [*(calls[0] for calls in seen), *(leaf.grad.numpy() for leaf in leaves), hs.grad.numpy()]

    with on(target):
        mine = run()
    with tg.unfolded():
        theirs = run()
    close(mine, theirs)


# ---- Anomalies ------------------------------------------------------------------------------------------------------------------------


def rooted(x: Any, h: Any, w: Any) -> Any:
    return tg.sqrt(x + h * w)


@pytest.mark.parametrize("reverse", [False, True])
@each_target
def test_anomaly_mode_names_op_and_time_step_of_the_first_nan(reverse: bool, target: str):
    xs = np.ones((5, 2))
    xs[2, 1] = -50
    w = tg.tensor(np.ones(2), requires_grad=True, name="W")

    def told() -> str:
        with pytest.raises(AnomalyError) as error, tg.detect_anomaly(), np.errstate(all="ignore"):
            scan(rooted, xs, np.ones(2), [w], reverse=reverse)
        return str(error.value)

    with on(target):
        mine = told()
    assert "sqrt: the first NaN of the forward pass" in mine and "time step t = 3" in mine
    with tg.unfolded():
        assert re.sub(r":\d+", "", told()) == re.sub(r":\d+", "", mine)


@each_target
def test_anomaly_mode_names_op_and_time_step_of_the_first_infinite_gradient(target: str):
    def told(recorded_inside: bool) -> str:
        xs, w = np.ones((5, 2)), tg.tensor(np.zeros(2), requires_grad=True)
        xs[2, 1] = 0
        with on(target), np.errstate(all="ignore"):
            if recorded_inside:
                with pytest.raises(AnomalyError) as error, tg.detect_anomaly():
                    scan(rooted, xs, np.zeros(2), [w])[0].sum().backward()
            else:
                hs, _ = scan(rooted, xs, np.zeros(2), [w])
                with pytest.raises(AnomalyError) as error, tg.detect_anomaly():
                    hs.sum().backward()
        return str(error.value)

    assert "sqrt" in told(True) and "time step t = 3" in told(True)
    assert "backward pass" in told(False)


def test_anomaly_mode_changes_no_number():
    def run() -> Run:
        leaves = leaves_of(arrays_of("LSTM"))
        return Run({"all": loop("LSTM", *leaves, lengths=LENGTHS)}, {f"leaf {i}": leaf for i, leaf in enumerate(leaves)})

    with tg.detect_anomaly():
        mine = numbers(run())
    agree(mine, numbers(run()), 1e-10)


# ---- Recomputation --------------------------------------------------------------------------------------------------------------------


@each_step
@each_target
def test_recomputation_around_a_loop_changes_no_gradient(kind: str, target: str):
    leaves = leaves_of(arrays_of(kind))
    with on(target):
        plain = tg.grad(loss_of(kind, *leaves), leaves)
        again = tg.grad(tg.recompute(lambda *args: loss_of(kind, *args))(*leaves), leaves)
        recorded = tg.grad(tg.recompute(lambda *args: loss_of(kind, *args))(*leaves), leaves, create_graph=True)
        first = tg.grad(loss_of(kind, *leaves), leaves, create_graph=True)
        second = [tg.grad(sum((g * g).sum() for g in gs), leaves) for gs in (first, recorded)]
    close(arrays(again), arrays(plain), 1e-12)
    close(arrays(second[1]), arrays(second[0]), 1e-9)


def test_a_long_loop_recomputed_in_pieces_changes_no_gradient():
    given = arrays_of("GRU", T=60)

    def run(wrap: Callable[..., Any]) -> list[np.ndarray]:
        xs, h, *weights = leaves = leaves_of(given)
        loss = 0.0
        piece = wrap(lambda part, h: scan(F.gru_step, part, h, weights))
        for first in range(0, 60, 20):
            hs, h = piece(xs[first : first + 20], h)
            loss = loss + (hs * hs).sum()
        return arrays(tg.grad(loss, leaves))

    close(run(tg.recompute), run(lambda f: f), 1e-12)


# ---- In-place safety --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", [0, 1, 2, 3], ids=["xs", "h", "w_ih", "w_hh"])
@pytest.mark.parametrize("kind", ["RNN", "GRU", "cell of one's own"])
def test_overwriting_what_the_derivative_needs_is_an_error(kind: str, place: int):
    leaves = leaves_of(arrays_of(kind))
    loss = loss_of(kind, *leaves)
    with tg.no_grad():
        leaves[place][...] = 0.0
    for create_graph in (False, True):
        with pytest.raises(InPlaceError, match="overwritten"):
            tg.grad(loss, leaves, create_graph=create_graph)


def test_overwriting_a_captured_weight_is_an_error():
    xs, h, w, u, b = leaves_of(arrays_of("cell of one's own"))
    hs, _ = scan(lambda x, h: normalised(x, h, w, u, b), xs, h)
    with tg.no_grad():
        u[...] = 0.0
    with pytest.raises(InPlaceError, match="overwritten"):
        hs.sum().backward()


def test_an_optimizer_step_between_forward_and_backward_is_an_error():
    net = nn.LSTM(D, H, rng=0)
    optimizer = tg.optim.SGD(net.parameters(), lr=0.1)
    (net(np.ones((T, B, D), "float32"))[0] ** 2).sum().backward()
    loss = (net(np.ones((T, B, D), "float32"))[0] ** 2).sum()
    optimizer.step()
    with pytest.raises(InPlaceError):
        loss.backward()


def test_outputs_refuse_to_be_overwritten():
    hs, h, c = loop("LSTM", *leaves_of(arrays_of("LSTM")))
    for value in (hs, h, c):
        with pytest.raises(tg.TinygradError):
            value[...] = 0.0
        with pytest.raises(ValueError, match="read-only"):
            value.numpy()[...] = 0.0


@each_target
def test_bare_arrays_may_be_overwritten_by_their_owner_afterwards(target: str):
    given = arrays_of("GRU")
    scale = np.full(H, 0.5)

    def run(spoil: bool) -> list[np.ndarray]:
        xs, h, w_ih, w_hh, *biases = [a.copy() for a in given]
        factor = scale.copy()
        weight = tg.tensor(w_hh, requires_grad=True)
        hs, last = scan(lambda x, h, *w: factor * F.gru_step(x, h, *w), xs, h, (w_ih, weight, *biases))
        if spoil:
            for array in (xs, h, w_ih, *biases, factor):
                array[...] = np.nan
        first = tg.grad((hs**2).sum() + last.sum(), weight)
        (second,) = tg.grad((hs**2).sum() + last.sum(), [weight], create_graph=True)
        return arrays([hs, last, first, second])

    with on(target):
        close(run(True), run(False), 1e-12)


def test_bare_results_belong_to_the_caller():
    xs, h, *weights = arrays_of("GRU")
    hs, last = scan(F.gru_step, xs, h, weights)
    kept = hs.copy(), last.copy()
    scan(F.gru_step, 2 * xs, h, weights)
    np.testing.assert_array_equal(hs, kept[0])
    np.testing.assert_array_equal(last, kept[1])
    hs[...] = 0  # and may be written to
    np.testing.assert_array_equal(last, kept[1])


def test_initial_states_and_inputs_are_left_as_they_were():
    for kind in STEPS:
        given = arrays_of(kind)
        kept = [a.copy() for a in given]
        leaves = leaves_of(given)
        loss_of(kind, *given, lengths=LENGTHS)
        loss_of(kind, *leaves, lengths=LENGTHS, reverse=True).backward()
        for a, leaf, b in zip(given, leaves, kept, strict=True):
            np.testing.assert_array_equal(a, b)
            np.testing.assert_array_equal(leaf.numpy(), b)


# ---- Layouts ------------------------------------------------------------------------------------------------------------------------------


def read_only(a: np.ndarray) -> np.ndarray:
    a = a.copy()
    a.flags.writeable = False
    return a


def spread(a: np.ndarray) -> np.ndarray:
    """The same numbers with gaps between them."""
    wide = np.full(tuple(2 * n for n in a.shape), np.nan)
    view = wide[tuple(slice(None, None, 2) for _ in a.shape)]
    view[...] = a
    return view


LAYOUTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "columns first": np.asfortranarray,
    "with gaps": spread,
    "backwards": lambda a: a[::-1].copy()[::-1],
    "backwards in the last axis": lambda a: a[..., ::-1].copy()[..., ::-1],
    "transposed": lambda a: np.ascontiguousarray(a.T).T,
    "batch first": lambda a: a.swapaxes(0, 1).copy().swapaxes(0, 1) if a.ndim > 1 else a,
    "read-only": read_only,
    "one row for all": lambda a: np.broadcast_to(a[:1], a.shape),
    "not aligned": lambda a: np.frombuffer(b"\0" + a.tobytes(), offset=1, dtype=a.dtype).reshape(a.shape),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU reset before"])
@each_target
def test_arrays_may_lie_in_memory_as_they_like(kind: str, layout: str, target: str):
    lay = LAYOUTS[layout]

    def run() -> Run:
        bare: list[Any] = [lay(a) for a in arrays_of(kind)]
        w_hh = tg.tensor(bare[-3], requires_grad=True)
        return Run({"all": loop(kind, *bare[:-3], w_hh, *bare[-2:], lengths=LENGTHS)}, {"w_hh": w_hh})

    same_as_unfolded(run, target)


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU reset before"])
@each_target
def test_tensors_may_be_views_of_others(kind: str, target: str):
    def run() -> Run:
        leaves = leaves_of(arrays_of(kind))
        views = [leaf[::-1].T.T * 1 if leaf.ndim == 1 else leaf.swapaxes(0, 1).swapaxes(0, 1)[::-1] for leaf in leaves]
        return Run({"all": loop(kind, *views)}, {f"leaf {i}": leaf for i, leaf in enumerate(leaves)})

    same_as_unfolded(run, target)


def test_batch_first_reads_a_swapped_view_and_gives_one():
    net = nn.GRU(D, H, batch_first=True, rng=0, dtype="float64")
    x = np.random.default_rng(0).standard_normal((B, T, D))
    for xs in (x, np.asfortranarray(x), x[::-1], x.swapaxes(0, 1).copy().swapaxes(0, 1)):
        hs, _ = net(xs)
        with tg.unfolded():
            np.testing.assert_allclose(hs.numpy(), net(xs)[0].numpy(), rtol=1e-12, atol=1e-12)


# ---- Lifetimes and threads ----------------------------------------------------------------------------------------------------------


@each_step
def test_the_graph_of_a_loop_dies_with_its_last_tensor_without_the_garbage_collector(kind: str):
    loss_of(kind, *leaves_of(arrays_of(kind))).backward()  # what is made once for all loops is made
    gc.collect()
    gc.disable()
    try:
        leaves = leaves_of(arrays_of(kind))
        hs, *last = loop(kind, *leaves)
        node, array = weakref.ref(hs.node), weakref.ref(hs._data)
        (hs.sum() + last[0].sum()).backward()
        del hs, last
        assert node() is None and array() is None
    finally:
        gc.enable()


def test_a_step_and_what_it_holds_are_freed_with_their_last_reference():
    def run() -> list[weakref.ref[Any]]:
        net = nn.Recurrent(nn.GRUCell(D, H, rng=0)).to(dtype="float64")
        captured = np.ones((B, H))
        weight = tg.tensor(np.eye(H), requires_grad=True)

        def step(x, h):
            return tg.tanh(F.linear(h, weight) * captured + x)

        scan(step, np.ones((T, B, H)), np.zeros((B, H)))[0].sum().backward()
        net(np.ones((T, B, D)))[0].sum().backward()
        return [weakref.ref(x) for x in (step, net, net.cells[0], captured, weight)]

    held = run()
    gc.collect()
    assert [reference() for reference in held] == [None] * 5


def test_fresh_functions_at_every_call_do_not_pile_up():
    def once() -> None:
        scan(lambda x, h: tg.tanh(x + h), np.ones((T, B, H)), tg.tensor(np.ones((B, H)), requires_grad=True))[0].sum().backward()

    for _ in range(5):
        once()
    gc.collect()
    before = len(gc.get_objects())
    for _ in range(60):
        once()
    gc.collect()
    assert len(gc.get_objects()) - before < 60


@each_target
def test_threads_run_the_same_step_at_the_same_time(target: str):
    steps, results, errors = 25, {}, []
    expected = {seed: arrays(tg.grad(loss_of("LSTM", *(ls := leaves_of(arrays_of("LSTM", seed, 30)))), ls)) for seed in range(4)}
    start = threading.Barrier(4)

    def work(seed: int) -> None:
        try:
            leaves = leaves_of(arrays_of("LSTM", seed, 30))
            start.wait()
            with on(target):
                for _ in range(steps):
                    results[seed] = arrays(tg.grad(loss_of("LSTM", *leaves), leaves))
                    close(results[seed], expected[seed], 1e-10)
        except BaseException as error:  # told by the main thread
            errors.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors and set(results) == set(range(4))


def test_a_target_belongs_to_its_thread_and_its_block():
    seen: list[str] = []
    x, h = np.ones((B, D)), np.zeros((B, H))
    weights = arrays_of("RNN")[2:4]

    def told() -> str:
        return tg.explain_compile(F.rnn_step, x, h, weights).target

    with tg.scan_target("auto"):
        usual = told()
    with tg.scan_target("numpy"):
        thread = threading.Thread(target=lambda: seen.append(told()))
        thread.start()
        thread.join()
        assert told() == "numpy"
    assert seen == [usual]  # a thread of its own begins with the usual one


# ---- Long sequences ------------------------------------------------------------------------------------------------------------------


def trains(length: int, target: str) -> list[float]:
    """The losses of a few steps of gradient descent at (B, H) = (1, 32)."""
    rng = np.random.default_rng(0)
    net = nn.LSTM(4, 32, rng=0)
    xs = rng.standard_normal((length, 1, 4)).astype("float32")
    wanted = np.cumsum(xs[..., :1], axis=0) / np.sqrt(length)
    optimizer, losses = tg.optim.SGD(net.parameters(), lr=0.5), []
    for _ in range(3):
        with on(target):
            hs, _ = net(xs)
        compiled(hs)
        loss = ((hs[..., :1] - wanted) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@each_target
def test_twenty_thousand_steps_train(target: str):
    losses = trains(20_000, target)
    assert losses[2] < losses[1] < losses[0]


@pytest.mark.slow
@each_target
def test_a_hundred_thousand_steps_train(target: str):
    losses = trains(100_000, target)
    assert losses[2] < losses[1] < losses[0]


@pytest.mark.slow
@each_target
def test_time_per_step_does_not_grow_with_the_length(target: str):
    net = nn.LSTM(4, 32, rng=0)
    best = dict.fromkeys((500, 10_000), np.inf)
    with on(target):
        for _ in range(7):
            for length in best:
                xs = np.ones((length, 1, 4), "float32")
                start = time.perf_counter()
                (net(xs)[0] ** 2).sum().backward()
                best[length] = min(best[length], (time.perf_counter() - start) / length)
    assert best[10_000] < 1.3 * best[500]


@each_target
def test_over_thousands_of_steps_gradients_are_those_of_the_unfolded_loop(target: str):
    # h' = a h + x: dh_T/da = Σ_t a^(T-t) h_(t-1), so rounding that piles up would show
    length = 3000
    xs = tg.tensor(np.random.default_rng(13).standard_normal((length, 1)), requires_grad=True)
    a = tg.tensor(np.float64(0.999), requires_grad=True)
    with on(target):
        hs, last = scan(lambda x, h, a: a * h + x, xs, np.zeros(1), [a])
    g_xs, g_a = tg.grad(last.sum(), [xs, a])
    powers = 0.999 ** np.arange(length - 1, -1, -1.0)
    before = np.concatenate([[0.0], hs.numpy()[:-1, 0]])
    np.testing.assert_allclose(g_xs.numpy()[:, 0], powers, rtol=1e-9)
    np.testing.assert_allclose(g_a.item(), powers @ before, rtol=1e-9)
