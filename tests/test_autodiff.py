"""The reverse sweep: what backward and grad promise, on graphs small enough to differentiate by hand."""

import numpy as np
import pytest

import tinygrad_seq as tg
from tinygrad_seq.errors import ArgumentError, GraphError, ShapeError
from tinygrad_seq.graph import node_of
from tinygrad_seq.primitives import Deferred, defvjp, primitive
from tinygrad_seq.testing import check_grads


def leaf(*shape, seed=0):
    return tg.tensor(np.random.default_rng(seed).standard_normal(shape), requires_grad=True)


# ---- backward ------------------------------------------------------------------------------------------------------------------


def test_every_use_of_a_tensor_adds_to_its_gradient():
    x = leaf(3)
    (x * x + 3 * x).sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), 2 * x.numpy() + 3)


def test_the_same_argument_twice_is_two_edges():
    x = leaf(3)
    y = x * x
    assert [node_of(a) for a in y.node.args] == [x.node, x.node]
    steps = list(tg.steps_of_backward(y.sum()))
    (product,) = [s for s in steps if s.node is y.node]
    assert len(product.contributions) == 2


def test_a_second_backward_on_the_same_graph_adds_the_same_again():
    x = leaf(3)
    h = tg.tanh(x)
    loss = (h * h).sum()
    loss.backward()
    once = x.grad.numpy().copy()
    loss.backward()
    np.testing.assert_allclose(x.grad.numpy(), 2 * once)


def test_a_gradient_once_read_does_not_change_when_more_is_added():
    x = leaf(3)
    loss = (x * 2).sum()
    loss.backward()
    first = x.grad
    loss.backward()
    np.testing.assert_array_equal(first.numpy(), 2 * np.ones(3))
    np.testing.assert_array_equal(x.grad.numpy(), 4 * np.ones(3))


def test_two_leaves_never_share_the_array_of_their_gradients():
    a, b = leaf(3), leaf(3, seed=1)
    (a + b).sum().backward()
    assert not np.shares_memory(a.grad.numpy(), b.grad.numpy())


def test_backward_through_a_diamond_waits_for_both_branches():
    x = leaf()
    a = tg.sin(x)
    (a * tg.exp(a) + a).backward()
    s = np.sin(x.numpy())
    np.testing.assert_allclose(x.grad.numpy(), np.cos(x.numpy()) * (np.exp(s) * (1 + s) + 1))


def test_backward_of_a_non_scalar_needs_a_cotangent_of_its_shape():
    x = leaf(2, 3)
    with pytest.raises(GraphError, match="no scalar"):
        (x * 2).backward()
    with pytest.raises(ShapeError, match=r"\(3, 2\).*\n.*\(2, 3\)"):
        (x * 2).backward(np.ones((3, 2)))
    assert x.grad is None
    (x * 2).backward(np.full((2, 3), 5.0))
    np.testing.assert_array_equal(x.grad.numpy(), np.full((2, 3), 10.0))


def test_backward_from_several_outputs_at_once():
    x = leaf(3)
    tg.backward([(x * 2).sum(), x * x], [None, np.ones(3)])
    np.testing.assert_allclose(x.grad.numpy(), 2 + 2 * x.numpy())


def test_backward_of_a_constant_says_what_to_do():
    with pytest.raises(GraphError, match="requires_grad=True"):
        tg.ones(3).sum().backward()


def test_backward_of_a_leaf_is_one():
    x = leaf()
    x.backward()
    assert x.grad.item() == 1


def test_float32_stays_float32_although_a_float64_constant_is_in_the_graph():
    x = tg.tensor([1.0, 2.0], requires_grad=True)
    y = x * tg.tensor(np.array([3.0, 4.0]))
    y.sum().backward()
    assert y.dtype == np.float64 and x.grad.dtype == np.float32


# ---- Intermediate gradients and hooks ---------------------------------------------------------------------------------------------


def test_gradients_of_intermediate_tensors_on_request():
    x = leaf(3)
    h = tg.exp(x).retain_grad()
    other = tg.exp(x)
    (h * h + other).sum().backward()
    np.testing.assert_allclose(h.grad.numpy(), 2 * h.numpy())
    assert other.grad is None


def test_retain_grad_of_one_of_several_outputs():
    x = leaf(4)
    first, second = tg.split(x, 2)
    second.retain_grad()
    (first + 3 * second).sum().backward()
    np.testing.assert_array_equal(second.grad.numpy(), [3, 3])
    np.testing.assert_array_equal(x.grad.numpy(), [1, 1, 3, 3])


def test_a_hook_sees_the_complete_gradient_and_may_replace_it():
    x = leaf(3)
    h = x * 1
    seen = []
    h.register_hook(lambda g: seen.append(g.numpy().copy()))
    h.register_hook(lambda g: g * 10)
    (h + h).sum().backward()
    np.testing.assert_array_equal(seen, [2 * np.ones(3)])
    np.testing.assert_array_equal(x.grad.numpy(), 20 * np.ones(3))


def test_a_removed_hook_is_not_called():
    x = leaf(3)
    hook = x.register_hook(lambda g: g * 10)
    hook.remove()
    hook.remove()
    x.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), np.ones(3))


def test_a_hook_that_returns_the_wrong_shape_is_an_error():
    x = leaf(3)
    x.register_hook(lambda g: g.sum())
    with pytest.raises(ShapeError, match="hook"):
        x.sum().backward()


def test_a_hook_works_on_a_recorded_gradient_too():
    x = leaf(3)
    h = x * x
    h.register_hook(lambda g: g * 2)
    (g,) = tg.grad(h.sum(), [x], create_graph=True)
    (gg,) = tg.grad(g.sum(), [x])
    np.testing.assert_allclose(gg.numpy(), 4 * np.ones(3))


# ---- grad ----------------------------------------------------------------------------------------------------------------------


def test_grad_touches_no_grad_attribute():
    x = leaf(3)
    g = tg.grad((x * x).sum(), x)
    np.testing.assert_allclose(g.numpy(), 2 * x.numpy())
    assert x.grad is None


def test_grad_walks_through_one_target_to_another():
    x = leaf(3)
    h = tg.exp(x)
    k = tg.sin(h)
    gh, gx = tg.grad(k.sum(), [h, x])
    np.testing.assert_allclose(gh.numpy(), np.cos(h.numpy()))
    np.testing.assert_allclose(gx.numpy(), np.cos(h.numpy()) * h.numpy())


def test_grad_of_the_output_itself_is_its_cotangent():
    x = leaf(3)
    y = x * 2
    np.testing.assert_array_equal(tg.grad(y, y, np.arange(3.0)).numpy(), np.arange(3.0))


def test_grad_visits_only_what_lies_between():
    x, w = leaf(3), leaf(3, seed=1)
    calls = []

    @tg.primitive
    def spy(x):
        return x

    tg.defvjp(spy, lambda g, y, x: calls.append("visited") or g)
    loss = (spy(w * 2) + x).sum()
    tg.grad(loss, x)
    assert calls == []
    tg.grad(loss, w)
    assert calls == ["visited"]


def test_an_unused_input_is_an_error_or_none():
    x, w = leaf(3), leaf(3, seed=1)
    with pytest.raises(GraphError, match="do not depend on input 1"):
        tg.grad(x.sum(), [x, w])
    assert tg.grad(x.sum(), [x, w], allow_unused=True)[1] is None


def test_the_same_input_twice_gets_the_same_gradient_twice():
    x = leaf(3)
    a, b = tg.grad((x * x).sum(), [x, x])
    np.testing.assert_array_equal(a.numpy(), b.numpy())


def test_grad_of_something_else_is_explained():
    with pytest.raises(ArgumentError, match="no Tensor"):
        tg.grad(3.0, leaf(3))
    with pytest.raises(GraphError, match="constant"):
        tg.grad(leaf(3).sum(), tg.ones(3))


def test_create_graph_makes_the_gradient_a_graph():
    x = leaf(3)
    (g,) = tg.grad((x**3).sum(), [x], create_graph=True)
    (h,) = tg.grad(g.sum(), [x], create_graph=True)
    (third,) = tg.grad(h.sum(), [x])
    np.testing.assert_allclose(g.numpy(), 3 * x.numpy() ** 2)
    np.testing.assert_allclose(h.numpy(), 6 * x.numpy())
    np.testing.assert_allclose(third.numpy(), 6 * np.ones(3))
    assert third.node is None


def test_backward_with_create_graph_leaves_differentiable_gradients():
    x = leaf(3)
    (x**3).sum().backward(create_graph=True)
    penalty = (x.grad * x.grad).sum()
    np.testing.assert_allclose(tg.grad(penalty, x).numpy(), 36 * x.numpy() ** 3)


def test_a_recorded_gradient_stands_in_the_frame_of_its_forward_node_marked_backward():
    x = leaf(3)
    with tg.frame("loop", step=7):
        y = tg.tanh(x)
    (g,) = tg.grad(y.sum(), [x], create_graph=True)
    recorded = [n for n in tg.toposort([g]) if n.frame is not None and n.frame.backward and n.frame.time == 7]
    assert recorded


# ---- Several outputs, slices, products ---------------------------------------------------------------------------------------------


def test_outputs_that_are_not_used_send_nothing():
    x = leaf(6)
    _, second, _ = tg.split(x, 3)
    (second * second).sum().backward()
    expected = np.zeros(6)
    expected[2:4] = 2 * x.numpy()[2:4]
    np.testing.assert_allclose(x.grad.numpy(), expected)


def test_slices_and_whole_uses_of_one_array_add_up():
    x = leaf(5, 2)
    (x[1] * 2 + x[-1] * 3 + x.sum() + x[1:3].sum() + x[1]).sum().backward()
    expected = np.full((5, 2), 2.0)
    expected[1] += 3
    expected[-1] += 3
    expected[1:3] += 2
    np.testing.assert_allclose(x.grad.numpy(), expected)


def test_slices_of_an_output_of_split():
    x = leaf(6)
    a, b = tg.split(x, 2)
    (a[0] * 2 + a[1:].sum() + b[2]).backward()
    np.testing.assert_array_equal(x.grad.numpy(), [2, 1, 1, 0, 0, 1])


def test_a_weight_used_at_many_steps_sums_its_products_as_one_by_one():
    rng = np.random.default_rng(0)
    w = tg.tensor(rng.standard_normal((4, 4)), requires_grad=True)
    h = tg.tensor(rng.standard_normal((3, 4)))
    for _ in range(50):
        h = tg.tanh(h @ w)
    loss = (h * h).sum()
    loss.backward()
    terms = [
        c
        for s in tg.steps_of_backward(loss, targets={w.node: {0: None}})
        for a, c in zip(s.node.args, s.contributions, strict=True)
        if a is w.node
    ]
    assert len(terms) == 50 and not any(isinstance(c, Deferred) for c in terms)
    np.testing.assert_allclose(sum(terms), w.grad.numpy(), rtol=1e-12)


def test_slices_and_products_mix_with_recorded_gradients():
    rng = np.random.default_rng(0)
    xs, w = (tg.tensor(rng.standard_normal(s), requires_grad=True) for s in ((4, 2, 3), (3, 3)))

    def loss(xs, w):
        h = xs[0]
        for t in range(1, 4):
            h = tg.tanh(h @ w + xs[t])
        return (h * h).sum()

    check_grads(loss, (xs.numpy(), w.numpy()), order=2)


# ---- The sweep as an iterator --------------------------------------------------------------------------------------------------------


def test_steps_of_backward_stream_node_gradient_and_contributions():
    x, w = leaf(3), leaf(3, seed=1)
    loss = (x * w).sum()
    steps = list(tg.steps_of_backward(loss))
    assert [s.node.prim.name if s.node.prim else "leaf" for s in steps] == ["sum", "multiply", "leaf", "leaf"]
    _, product, *_ = steps
    np.testing.assert_array_equal(product.gradient, np.ones(3))
    np.testing.assert_array_equal(product.contributions[0], w.numpy())
    np.testing.assert_array_equal(product.contributions[1], x.numpy())


def test_the_contributions_to_a_node_add_up_to_the_gradient_that_arrives_there():
    x = leaf(2, 3)
    h = tg.tanh(x)
    loss = (h[0] * h[1] + h.sum(axis=0) + h[1]).sum()
    sent, arrived = {}, {}
    for step in tg.steps_of_backward(loss):
        arrived[step.node] = step.gradient
        for a, c in zip(step.node.args, step.contributions, strict=True):
            if c is not None:
                sent[node_of(a)] = sent.get(node_of(a), 0) + c
    for node, total in sent.items():
        np.testing.assert_allclose(total, arrived[node])


def test_between_two_steps_of_the_sweep_the_readers_own_ops_are_recorded():
    x = leaf(3)
    for _ in tg.steps_of_backward((x * x).sum()):
        assert (x * 2).requires_grad


def test_a_sweep_that_was_left_early_changes_no_mode_when_it_is_dropped():
    x = leaf(3)
    sweep = tg.steps_of_backward((x * x).sum())
    next(sweep)
    with tg.no_grad():
        del sweep
        assert (x * 2).node is None
    assert (x * 2).node is not None


def test_an_op_without_a_derivative_is_an_error_that_says_how_to_state_one():
    @tg.primitive
    def mystery(x):
        return x

    with pytest.raises(GraphError, match=r"mystery: no derivative.*\n.*defvjp\(mystery"):
        mystery(leaf(3)).sum().backward()


# ---- Whose memory --------------------------------------------------------------------------------------------------------------


def test_a_gradient_shares_no_memory_with_the_cotangent_that_it_came_from():
    x, u = leaf(3), np.ones(3)
    g = tg.grad(x + 1.0, x, u)
    u[:] = 9
    np.testing.assert_array_equal(g.numpy(), np.ones(3))


@pytest.mark.parametrize("create_graph", [False, True])
def test_two_gradients_of_one_sweep_share_no_memory(create_graph):
    a, b = leaf(3), leaf(3)
    found = tg.grad((a + b).sum(), [a, b], create_graph=create_graph)
    (a + b).sum().backward(create_graph=create_graph)
    arrays = [g._data for g in (*found, a.grad, b.grad)]
    assert not any(np.shares_memory(p, q) for i, p in enumerate(arrays) for q in arrays[:i])


def test_clipping_recorded_gradients_scales_each_once():
    a, b = leaf(1), leaf(1)
    (a + b).sum().backward(create_graph=True)
    tg.optim.clip_grad_value_([a, b], 0.5)
    a.grad._data *= 2
    np.testing.assert_array_equal(b.grad.numpy(), [0.5])


def test_what_a_hook_does_to_the_memory_of_its_gradient_reaches_nobody_else():
    a, b, kept = leaf(3), leaf(3), []

    def hook(g):
        g[...] = 0
        kept.append(g)

    h = a * 1
    h.register_hook(hook)
    a.register_hook(kept.append)
    (h + b).backward(np.ones(3))
    a.grad[...] = 7
    np.testing.assert_array_equal(b.grad.numpy(), np.ones(3))
    np.testing.assert_array_equal(kept[1].numpy(), np.ones(3))


def test_what_a_hook_returns_is_copied_and_has_the_dtype_of_the_tensor():
    x = tg.tensor([1.0, 2.0], requires_grad=True)
    buffer = np.empty(2)  # one for both hooks, in float64

    def double(g):
        buffer[:] = 2 * g.numpy()
        return buffer

    a, b = x * 1, x * 3
    a.register_hook(double)
    b.register_hook(double)
    (a + b).sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), [8, 8])
    assert x.grad.dtype == np.float32


def test_a_rule_that_returns_a_wrong_shape_is_an_error():
    @primitive
    def total(x):
        return x.sum()

    defvjp(total, lambda g, y, x: g)
    x = leaf(3)
    with pytest.raises(ShapeError, match=r"shape \(\) arrived at a tensor of shape \(3,\)"):
        total(x).backward()


def test_a_sweep_read_in_other_modes_leaves_each_as_it_found_them():
    x = leaf(3)
    steps = tg.steps_of_backward((x * x).sum())
    with tg.no_grad():
        next(steps)
        assert not (x * 2).requires_grad
    next(steps)
    assert (x * 2).requires_grad
    with tg.no_grad():
        assert len(list(steps)) == 1
        assert not (x * 2).requires_grad
    assert (x * 2).requires_grad
