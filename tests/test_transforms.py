"""vjp, jvp, Jacobians, Hessians and recomputation against NumPy, closed forms and PyTorch."""

from collections import namedtuple

import numpy as np
import pytest

import tinygrad_seq as tg
from tinygrad_seq import nn
from tinygrad_seq.errors import ArgumentError, GraphError, InPlaceError, ShapeError
from tinygrad_seq.fusion import expand, fused
from tinygrad_seq.primitives import backward_of


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def cubic(x):
    return (x * x * x).sum()


def test_vjp_pulls_a_cotangent_back(rng):
    a, b, u = rng.standard_normal((3, 4)), rng.standard_normal((4, 2)), rng.standard_normal((3, 2))
    y, pullback = tg.vjp(tg.matmul, a, b)
    da, db = pullback(u)
    np.testing.assert_allclose(y.numpy(), a @ b)
    np.testing.assert_allclose(da.numpy(), u @ b.T)
    np.testing.assert_allclose(db.numpy(), a.T @ u)


def test_vjp_of_an_unused_argument_is_zero():
    _, pullback = tg.vjp(lambda a, b: a * 2, np.ones(3), np.ones(2))
    np.testing.assert_array_equal(pullback(np.ones(3))[1].numpy(), np.zeros(2))


def test_vjp_leaves_the_arguments_gradients_alone(rng):
    x = tg.tensor(rng.standard_normal(3), requires_grad=True)
    _, pullback = tg.vjp(cubic, x)
    pullback()
    assert x.grad is None


def test_jvp_is_the_directional_derivative(rng):
    x, v = rng.standard_normal(5), rng.standard_normal(5)
    y, dy = tg.jvp(lambda x: tg.tanh(x) * x, [x], [v])
    eps = 1e-6
    central = (np.tanh(x + eps * v) * (x + eps * v) - np.tanh(x - eps * v) * (x - eps * v)) / (2 * eps)
    np.testing.assert_allclose(dy.numpy(), central, atol=1e-9)
    np.testing.assert_allclose(y.numpy(), np.tanh(x) * x)


def test_jvp_of_a_linear_and_of_a_constant_function(rng):
    m, x, v = rng.standard_normal((3, 4)), rng.standard_normal(4), rng.standard_normal(4)
    np.testing.assert_allclose(tg.jvp(lambda x: tg.matmul(m, x), [x], [v])[1].numpy(), m @ v)
    np.testing.assert_array_equal(tg.jvp(lambda x: tg.tensor(np.ones(3)), [x], [v])[1].numpy(), np.zeros(3))


def test_jacobian_of_a_linear_map_is_its_matrix(rng):
    m = rng.standard_normal((3, 4))
    np.testing.assert_allclose(tg.jacobian(lambda x: tg.matmul(m, x), rng.standard_normal(4)).numpy(), m)


def test_jacobian_has_output_axes_then_input_axes(rng):
    a, b = rng.standard_normal((2, 3)), rng.standard_normal((3, 4))
    da, db = tg.jacobian(tg.matmul, a, b)
    assert da.shape == (2, 4, 2, 3) and db.shape == (2, 4, 3, 4)
    np.testing.assert_allclose(da.numpy(), np.einsum("ik,lj->ijkl", np.eye(2), b))


def test_hessian_of_a_quadratic_form_is_its_symmetric_part(rng):
    m = rng.standard_normal((4, 4))
    h = tg.hessian(lambda x: x @ tg.tensor(m) @ x, rng.standard_normal(4))
    np.testing.assert_allclose(h.numpy(), m + m.T)


def test_hessian_of_a_linear_function_is_zero():
    np.testing.assert_array_equal(tg.hessian(lambda x: x.sum(), np.ones(3)).numpy(), np.zeros((3, 3)))


def test_hvp_equals_hessian_times_vector(rng):
    x, v = rng.standard_normal(6), rng.standard_normal(6)
    f = lambda x: (tg.tanh(x) * tg.exp(x)).sum() * x.sum()  # noqa: E731
    np.testing.assert_allclose(tg.hvp(f, x, v).numpy(), tg.hessian(f, x).numpy() @ v)


def test_third_derivative_by_nesting(rng):
    x = rng.standard_normal(3)
    third = tg.jacobian(lambda x: tg.hessian(cubic, x, create_graph=True), x)
    expected = np.zeros((3, 3, 3))
    expected[range(3), range(3), range(3)] = 6
    np.testing.assert_allclose(third.numpy(), expected)


def test_transforms_keep_the_connection_to_an_outer_graph(rng):
    x = tg.tensor(rng.standard_normal(3), requires_grad=True)
    slope = tg.jacobian(cubic, x, create_graph=True)
    slope.sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), 6 * x.numpy())


def test_transforms_work_inside_no_grad():
    with tg.no_grad():
        np.testing.assert_allclose(tg.jacobian(cubic, np.ones(2)).numpy(), [3, 3])


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda: tg.jvp(cubic, [np.ones(3)], []), ArgumentError),
        (lambda: tg.jvp(cubic, [np.ones(3)], [np.ones(2)]), ShapeError),
        (lambda: tg.hessian(lambda x: x, np.ones(3)), ShapeError),
        (lambda: tg.vjp(lambda x: 3, np.ones(3)), ArgumentError),
        (lambda: tg.vjp(cubic), ArgumentError),
        (lambda: tg.vjp(tg.exp, np.ones(3))[1](), GraphError),
        (lambda: tg.vjp(tg.exp, np.ones(3))[1](np.ones(2)), ShapeError),
    ],
)
def test_wrong_calls_are_explained(call, error):
    with pytest.raises(error):
        call()


# ---- Recomputation -------------------------------------------------------------------------------------------------------------


def run(h, w, steps, step):
    for _ in range(steps):
        h = step(h, w)
    return (h * h).sum()


def step(h, w):
    return tg.tanh(h @ w)


def gradients(loss, *leaves):
    return [g.numpy() for g in tg.grad(loss, leaves)]


def test_recompute_changes_no_gradient(rng):
    h, w = (tg.tensor(rng.standard_normal(s), requires_grad=True) for s in ((2, 4), (4, 4)))
    plain = gradients(run(h, w, 5, step), h, w)
    again = gradients(run(h, w, 5, tg.recompute(step)), h, w)
    for p, a in zip(plain, again, strict=True):
        np.testing.assert_allclose(p, a, rtol=1e-12)


def test_recompute_reaches_what_the_function_closes_over(rng):
    h, w = (tg.tensor(rng.standard_normal(s), requires_grad=True) for s in ((2, 4), (4, 4)))
    v = tg.sin(w)  # an intermediate value, used inside and outside
    piece = tg.recompute(lambda h: tg.tanh(h @ v) @ w)
    plain = gradients((tg.tanh(h @ v) @ w).sum() + v.sum(), h, w, v)
    again = gradients(piece(h).sum() + v.sum(), h, w, v)
    for p, a in zip(plain, again, strict=True):
        np.testing.assert_allclose(p, a, rtol=1e-12)


def test_recompute_of_several_outputs_of_which_one_is_used(rng):
    x = tg.tensor(rng.standard_normal(3), requires_grad=True)
    _, second = tg.recompute(lambda x: (tg.exp(x), tg.sin(x)))(x)
    np.testing.assert_allclose(gradients(second.sum(), x)[0], np.cos(x.numpy()))


def test_recompute_to_second_order(rng):
    x = tg.tensor(rng.standard_normal(3), requires_grad=True)
    y = tg.recompute(lambda x: tg.exp(2 * x))(x).sum()
    (g,) = tg.grad(y, [x], create_graph=True)
    np.testing.assert_allclose(gradients(g.sum(), x)[0], 4 * np.exp(2 * x.numpy()))


def test_recompute_draws_the_same_random_numbers_again():
    tg.random.seed(3)
    x = tg.tensor(np.ones(1000), requires_grad=True)
    y = tg.recompute(lambda x: x * tg.random.uniform(size=1000))(x)
    state = tg.random.get_state()
    y.sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), y.numpy(), rtol=1e-6)
    assert tg.random.get_state() == state


@pytest.mark.parametrize("nested", [False, True])
def test_recompute_draws_the_same_numbers_from_every_generator_and_leaves_it_where_it_was(nested):
    own, other = np.random.default_rng(1), np.random.default_rng(2)
    net = nn.Sequential(nn.Dropout(0.5, rng=own), nn.Dropout(0.4, rng=other), nn.Dropout(0.3))
    x = tg.tensor(np.ones(1000), requires_grad=True)
    y = tg.recompute(tg.recompute(net) if nested else net)(x)
    tg.seed(9)
    expected = [tg.random.get_state(g) for g in (own, other, None)]
    y.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), y.numpy())
    assert [tg.random.get_state(g) for g in (own, other, None)] == expected


def test_recompute_of_a_layer_with_dropout_between_layers_changes_no_gradient():
    found = []
    for wrapped in (lambda f: f, tg.recompute):
        net = nn.GRU(3, 4, num_layers=3, dropout=0.5, rng=0, dtype="float64")
        wrapped(lambda xs, net=net: net(xs)[0])(np.ones((5, 2, 3))).sum().backward()
        found.append([p.grad.numpy() for p in net.parameters()])
    for plain, again in zip(*found, strict=True):
        np.testing.assert_array_equal(plain, again)


@pytest.mark.parametrize("momentum", [0.1, None])
def test_recompute_updates_running_statistics_once(momentum, rng):
    x, states = rng.standard_normal((8, 3)), []
    for wrapped in (lambda f: f, tg.recompute):
        layer = nn.BatchNorm1d(3, momentum=momentum, dtype="float64")
        a = tg.tensor(x, requires_grad=True)
        (wrapped(layer)(a) ** 3).sum().backward()
        states.append([*layer.state_dict().values(), a.grad.numpy()])
    for plain, again in zip(*states, strict=True):
        np.testing.assert_array_equal(plain, again)


def test_recompute_notices_an_overwritten_parameter(rng):
    w = tg.tensor(rng.standard_normal((4, 4)), requires_grad=True)
    y = tg.recompute(lambda h: tg.tanh(h @ w))(tg.ones((2, 4), dtype="float64")).sum()
    with tg.no_grad():
        w[...] = 0.0
    with pytest.raises(InPlaceError, match="overwritten"):
        y.backward()


def test_recompute_calls_a_hook_once_with_the_whole_gradient(rng):
    w = tg.tensor(rng.standard_normal((3, 3)), requires_grad=True)
    seen = []
    w.register_hook(lambda g: seen.append(g.numpy().copy()))
    h = tg.ones((1, 3), dtype="float64")
    loss = run(h, w, 4, tg.recompute(step))
    loss.backward()
    assert len(seen) == 1
    np.testing.assert_array_equal(seen[0], w.grad.numpy())


def test_recompute_takes_results_and_arguments_apart(rng):
    Pair = namedtuple("Pair", "left right")
    x = tg.tensor(rng.standard_normal(3), requires_grad=True)
    pair = tg.recompute(lambda inputs: Pair({"double": 2 * inputs["x"]}, (inputs["x"] * 3, "three")))({"x": x})
    assert type(pair) is Pair and pair.right[1] == "three"
    assert pair.left["double"].node is pair.right[0].node  # one node for all that f computed
    (pair.left["double"] * pair.right[0]).sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), 12 * x.numpy())


def test_recompute_copies_the_bare_arrays_among_its_arguments(rng):
    x, w = tg.tensor(rng.standard_normal(3), requires_grad=True), np.ones(3)
    y = tg.recompute(lambda x, weights: x * x * weights[0])(x, [w])
    w[:] = 99
    y.sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), 2 * x.numpy())


def test_recompute_holds_less_memory(rng):
    import tracemalloc

    w = tg.tensor(rng.standard_normal((8, 8)), requires_grad=True)
    h = tg.tensor(rng.standard_normal((512, 8)), requires_grad=True)

    def held(piece):
        tracemalloc.start()
        state = h
        for _ in range(8):
            state = piece(state)
        size = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        return size

    def piece(state):
        for _ in range(8):
            state = tg.tanh(state @ w)
        return state

    assert held(tg.recompute(piece)) < held(piece) / 6


# ---- Fused ops -------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def softplus():
    def equation(x):
        return tg.log1p(tg.exp(x))

    @fused(equation=equation)
    def kernel(x):
        e = np.exp(x)
        return np.log1p(e), e / (1 + e)

    @backward_of(kernel)
    def _(g, y, slope, x):
        return [g * slope]

    return kernel, equation


def test_a_fused_op_equals_its_equation_to_third_order(rng, softplus):
    kernel, equation = softplus
    x = rng.standard_normal(3)
    for transform in (tg.jacobian, lambda f, x: tg.hessian(lambda x: f(x).sum(), x)):
        np.testing.assert_allclose(transform(kernel, x).numpy(), transform(equation, x).numpy(), rtol=1e-12)
    third = [tg.jacobian(lambda x, f=f: tg.hessian(lambda x: f(x).sum(), x, create_graph=True), x).numpy() for f in softplus]
    np.testing.assert_allclose(*third, rtol=1e-12)


def test_unfolded_records_the_equation(softplus):
    kernel, _ = softplus
    x = tg.tensor([0.5], requires_grad=True)
    assert kernel(x).op == "kernel"
    with tg.unfolded():
        assert kernel(x).op == "log1p"


def test_a_fused_node_opens_into_its_equation(softplus):
    kernel, _ = softplus
    y = kernel(tg.tensor([0.5, -2.0], requires_grad=True))
    (x,), opened = expand(y.node)
    assert opened.op == "log1p"
    np.testing.assert_allclose(tg.grad(opened.sum(), [x])[0].numpy(), 1 / (1 + np.exp(-x.numpy())), rtol=1e-6)


def test_a_kernel_that_differs_from_its_equation_is_found_out():
    @fused(equation=lambda x: x * 2)
    def wrong(x):
        return x * 3, None

    y = wrong(tg.tensor([1.0], requires_grad=True))
    with pytest.raises(GraphError, match="disagree"):
        expand(y.node)
