"""Dynamic systems: unfolded, in closed form, by eigenvalues, by poles, by energy; and the numbers that the notes let one expect."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_seq as tg
from tinygrad_seq import testing
from tinygrad_seq.errors import ArgumentError, ShapeError
from tinygrad_seq.nn import functional as F
from tinygrad_seq.nn.functional import dynamics as dy

T, B, D, H = 9, 2, 3, 4
FIVE = {1: 0.5, 5: 0.25}
EIGHT = {1: 0.5, 5: 0.25, 8: 0.1}
each_taps = pytest.mark.parametrize("taps", [FIVE, EIGHT], ids=["lags 1 5", "lags 1 5 8"])


def draw(*shapes: tuple[int, ...], seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape) for shape in shapes]


def with_radius(w: np.ndarray, radius: float) -> np.ndarray:
    return w * (radius / np.abs(np.linalg.eigvals(w)).max())


# ---- Dynamic systems -------------------------------------------------------------------------------------------------------------------


@given(st.integers(1, 12), st.floats(-2, 2), st.floats(-3, 3))
def test_unfolding_an_autonomous_system_is_applying_f_again_and_again(steps: int, theta: float, start: float) -> None:
    def f(s, theta):
        return np.sin(theta * s) + 0.1

    states = dy.unfold(f, np.array(start), theta=(np.array(theta),), steps=steps)
    s = np.array(start)
    for state in states:
        s = f(s, theta)
        assert state == s
    assert len(states) == steps


def test_a_driven_system_sees_one_input_in_each_step_and_a_read_out_looks_at_all_states_at_once() -> None:
    xs, s0, w = draw((T, B, D), (B, D), (D, D))
    states = dy.unfold(lambda s, x, w: np.tanh(s @ w) * x, s0, xs, (w,))
    read_out = np.exp(states).sum(axis=-1)
    s = s0
    for t in range(T):
        s = np.tanh(s @ w) * xs[t]
        np.testing.assert_array_equal(states[t], s)
        np.testing.assert_allclose(read_out[t], np.exp(s).sum(axis=-1), rtol=1e-15)


@pytest.mark.parametrize("steps", [1, 2, 7])
@tg.unfolded
def test_the_unfolded_graph_has_a_copy_of_f_per_step_and_one_theta_with_an_edge_to_each(steps: int) -> None:
    theta, s0 = (tg.tensor(a, requires_grad=True) for a in draw((D, D), (B, D)))
    states = dy.unfold(lambda s, theta: tg.tanh(s @ theta), s0, theta=(theta,), steps=steps)
    nodes = list(tg.toposort([states]))
    copies = [node for node in nodes if node.prim is not None and node.prim.name == "tanh"]
    assert [node.frame.time for node in copies] == list(range(1, steps + 1))
    assert sum(node is theta.node for node in nodes) == 1
    assert sum(argument is theta.node for node in nodes for argument in node.args) == steps


def test_the_gradient_of_theta_is_the_sum_over_its_uses() -> None:
    theta, s0 = (tg.tensor(a, requires_grad=True) for a in draw((D, D), (B, D)))
    copies = [tg.tensor(theta.numpy(), requires_grad=True) for _ in range(4)]
    shared = tg.grad(dy.unfold(lambda s, w: tg.tanh(s @ w), s0, theta=(theta,), steps=4)[-1].sum(), theta)
    s = s0
    for w in copies:
        s = tg.tanh(s @ w)
    np.testing.assert_allclose(shared.numpy(), sum(g.numpy() for g in tg.grad(s.sum(), copies)), rtol=1e-13)


@pytest.mark.parametrize("given", [{}, {"xs": np.zeros(3), "steps": 3}])
def test_a_system_has_inputs_or_a_number_of_steps(given: dict) -> None:
    with pytest.raises(ArgumentError, match=r"(?s)unfold: (neither xs nor|xs and) steps.*without inputs, steps=T"):
        dy.unfold(np.tanh, np.zeros(2), **given)
    with pytest.raises(ShapeError, match="T >= 1"):
        dy.unfold(np.tanh, np.zeros(2), steps=0)
    with pytest.raises(ArgumentError, match=r"(?s)one array.*tg\.scan"):
        dy.unfold(np.tanh, (np.zeros(2), np.zeros(2)), steps=3)
    with pytest.raises(ArgumentError, match=r"(?s)unfold: no argument 'T'.*steps=None"):
        dy.unfold(np.tanh, np.zeros(2), T=3)


# ---- Linear recursions -----------------------------------------------------------------------------------------------------------------


def test_a_linear_recursion_is_the_superposition_of_its_impulse_responses() -> None:
    problem = draw((T, B, D), (B, H), (H, D), (H, H))
    np.testing.assert_allclose(dy.superposition(*problem), dy.linear_recursion(*problem), rtol=1e-12, atol=1e-12)


def test_an_impulse_response_is_what_the_recursion_answers_to_one_unit_input() -> None:
    w_ih, w_hh = draw((H, D), (H, H), seed=1)
    responses = dy.impulse_responses(w_ih, w_hh, T)
    for d in range(D):
        impulse = np.zeros((T, 1, D))
        impulse[0, 0, d] = 1
        np.testing.assert_allclose(dy.linear_recursion(impulse, np.zeros((1, H)), w_ih, w_hh)[:, 0], responses[:, :, d], rtol=1e-13)


def test_the_closed_form_has_the_gradients_of_the_recursion() -> None:
    problem = draw((T, B, D), (B, H), (H, D), (H, H), seed=2)
    weight = np.random.default_rng(3).standard_normal((T, B, H))
    found = []
    for f in (dy.linear_recursion, dy.superposition):
        leaves = [tg.tensor(a, requires_grad=True) for a in problem]
        found.append(tg.grad((f(*leaves) * weight).sum(), leaves))
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-11, atol=1e-10)


def test_a_state_along_the_eigenvectors_is_the_power_of_the_matrix() -> None:
    w, h0 = draw((H, H), (H,), seed=4)
    found = dy.modes(w, h0)
    assert np.iscomplexobj(found.eigenvalues), "a case with a rotation"
    assert (np.diff(np.abs(found.eigenvalues)) <= 1e-12).all()
    for t in (0, 1, 2, 7, 30):
        np.testing.assert_allclose(found.after(t), np.linalg.matrix_power(w, t) @ h0, rtol=1e-9)


@pytest.mark.parametrize("radius", [0.9, 1.0, 1.1])
def test_the_length_of_a_state_changes_as_the_power_of_the_largest_modulus(radius: float) -> None:
    symmetric, h0 = draw((16, 16), (16,), seed=5)
    w = with_radius(symmetric + symmetric.T, radius)
    found, ts = dy.modes(w, h0), np.array([150, 250])
    slope = np.diff([np.log(np.linalg.norm(found.after(t))) for t in ts])[0] / np.diff(ts)[0]
    assert slope == pytest.approx(np.log(radius), rel=0.01, abs=1e-4) and dy.spectral_radius(w) == pytest.approx(radius)
    second = found.vectors[:, 1]  # a start with nothing along the first eigenvector
    states = dy.unfold(lambda h, w: h @ w.T, second[None], theta=(w,), steps=20)
    slope = np.log(np.linalg.norm(states[-1]) / np.linalg.norm(second)) / 20
    assert slope == pytest.approx(np.log(np.abs(found.eigenvalues[1])), rel=0.01)


def rotation(eigenvalue: complex) -> np.ndarray:
    return np.array([[eigenvalue.real, -eigenvalue.imag], [eigenvalue.imag, eigenvalue.real]])


@pytest.mark.parametrize(("eigenvalue", "length"), [(0.9 + 0.9j, 1.7e5), (1.05j, 11.5)])
def test_the_modulus_of_an_eigenvalue_decides_and_not_its_real_part(eigenvalue: complex, length: float) -> None:
    w = rotation(eigenvalue)
    assert max(np.linalg.eigvals(w).real) < 1 < dy.spectral_radius(w)
    assert np.linalg.norm(dy.modes(w, np.array([1.0, 0.0])).after(50)) == pytest.approx(length, rel=0.05)


def test_complex_eigenvalues_oscillate_and_those_of_a_symmetric_matrix_do_not() -> None:
    states = dy.unfold(lambda h, w: h @ w.T, np.array([[1.0, 0.0]]), theta=(rotation(0.9 * np.exp(0.5j)),), steps=40)
    assert (np.diff(np.sign(states[:, 0, 0])) != 0).sum() == pytest.approx(40 * 0.5 / np.pi, abs=1)
    (w,) = draw((H, H), seed=6)
    assert np.isrealobj(dy.modes(w + w.T, np.ones(H)).eigenvalues)


def test_a_matrix_without_a_basis_of_eigenvectors_is_told() -> None:
    with pytest.raises(ArgumentError, match=r"(?s)no basis of eigenvectors.*spectral_radius"):
        dy.modes(np.array([[0.5, 1.0], [0.0, 0.5]]), np.ones(2))


def test_the_energy_falls_by_the_squared_length_of_the_state_at_every_step() -> None:
    w, h = draw((H, H), (H,), seed=7)
    for radius in (0.3, 0.9, 0.999):
        a = with_radius(w, radius)
        p = dy.lyapunov(a)
        np.testing.assert_allclose(a.T @ p @ a - p, -np.eye(H), atol=1e-12 * np.abs(p).max())
        np.testing.assert_allclose(p, p.T, rtol=1e-10)
        state = h
        for _ in range(50):
            new = a @ state
            assert new @ p @ new - state @ p @ state == pytest.approx(-state @ state, rel=1e-6, abs=1e-10 * (h @ p @ h))
            state = new


def test_the_energy_is_that_of_scipy_and_has_a_gradient() -> None:
    linalg = pytest.importorskip("scipy.linalg")
    w = with_radius(draw((H, H), seed=8)[0], 0.8)
    np.testing.assert_allclose(dy.lyapunov(w), linalg.solve_discrete_lyapunov(w.T, np.eye(H)), rtol=1e-11)
    testing.check_grads(dy.lyapunov, [w], order=2)


@pytest.mark.parametrize("radius", [1.0, 1.5])
def test_a_system_that_is_not_stable_has_no_energy_that_falls(radius: float) -> None:
    with pytest.raises(ArgumentError, match=r"(?s)not stable.*spectral_radius\(W\) < 1"):
        dy.lyapunov(radius * np.eye(2))


# ---- Bounded input, bounded output -------------------------------------------------------------------------------------------------------


def test_a_finite_response_is_a_weighted_window_and_is_bounded_whatever_its_weights() -> None:
    (xs,) = draw((30, B))
    taps = {0: 3.0, 1: -2.0, 4: 5.0}
    ys = dy.finite_response(xs, taps)
    for t in range(30):
        expected = sum((a * xs[t - k] for k, a in taps.items() if t >= k), np.zeros(B))
        np.testing.assert_allclose(ys[t], expected, rtol=1e-13)
    assert np.abs(ys).max() <= 10 * np.abs(xs).max()


def test_what_lies_outside_its_window_changes_nothing_in_a_time_delay_net_and_something_in_a_recursion() -> None:
    (xs,) = draw((30, B))
    moved = xs.copy()
    moved[10] += 1
    change = dy.finite_response(moved, {0: 1.0, 5: 1.0}) - dy.finite_response(xs, {0: 1.0, 5: 1.0})
    assert set(np.flatnonzero(change.any(axis=1))) == {10, 15}
    change = dy.tapped_recursion(moved, FIVE) - dy.tapped_recursion(xs, FIVE)
    assert set(np.flatnonzero(change.any(axis=1))) == set(range(10, 30))


def test_a_linear_recursion_with_a_modulus_above_1_passes_a_million_and_a_tanh_never_leaves_its_bounds() -> None:
    xs = np.random.default_rng(9).uniform(-1, 1, (200, 1, 1))
    w = np.full((1, 1), 1.1)
    states = np.abs(dy.linear_recursion(xs, np.ones((1, 1)), np.ones((1, 1)), w))
    assert states[149] > 1e6 > states[99]
    squashed = dy.unfold(lambda h, x: np.tanh(w * h + x), np.ones((1, 1)), xs)
    assert np.abs(squashed).max() <= 1


# ---- Saturation ----------------------------------------------------------------------------------------------------------------------------

SCALARS = {"sigmoid": lambda a: 1 / (1 + np.exp(-a)), "tanh": np.tanh, "relu": lambda a: np.maximum(a, 0)}
STARTS = np.array([0.1, -0.1, 1.0, -1.0])


def settling(name: str, w: float) -> np.ndarray:
    """For each start of h_t = f(w h_(t-1)) the steps after which it stays within 1/1000 of where it ends."""
    states = np.concatenate([STARTS[None], dy.unfold(lambda h: SCALARS[name](w * h), STARTS, steps=400)])
    far = np.abs(states - states[-1]) > 1e-3
    return len(states) - far[::-1].argmax(axis=0)


@pytest.mark.parametrize(
    ("name", "w", "fewest", "most"),
    [
        *(("sigmoid", w, 3, 7) for w in (0.5, 0.9, 1.0, 1.1, 2.0, -0.9)),
        ("tanh", 0.5, 7, 10),
        ("tanh", 0.9, 44, 60),
        ("tanh", 1.0, 380, 401),
        ("tanh", 1.1, 27, 45),
        ("tanh", 2.0, 3, 7),
    ],
)
def test_a_sigmoid_forgets_its_start_in_a_few_steps_and_a_tanh_by_its_weight(name: str, w: float, fewest: int, most: int) -> None:
    steps = settling(name, w)
    assert fewest <= steps.min() and steps.max() <= most, steps


@pytest.mark.parametrize("w", [1.1, 2.0])
def test_a_relu_blows_up_from_a_positive_start_and_is_silent_after_a_negative_one(w: float) -> None:
    with np.errstate(over="ignore"):
        states = dy.unfold(lambda h: SCALARS["relu"](w * h), STARTS, steps=400)
    assert (states[-1][STARTS > 0] > 1e15).all() and (states[:, STARTS < 0] == 0).all()


def vectors_of_relus(mean: float, start: float) -> np.ndarray:
    """norm(h_200) for 20 draws of W: N = 64, abs(λ_1) = 1.1, its entries normal with that mean and deviation 1 before scaling."""
    rng, N = np.random.default_rng(10), 64
    draws = [with_radius(rng.standard_normal((N, N)) + mean, 1.1) for _ in range(20)]
    return np.array(
        [np.linalg.norm(dy.unfold(lambda h, w=w: np.maximum(w @ h, 0), np.full(N, start / 8), steps=200)[-1]) for w in draws]
    )


@pytest.mark.parametrize(("mean", "fewest", "most"), [(0.0, 0, 0), (0.05, 0, 5), (0.1, 6, 18), (0.2, 20, 20)])
def test_a_vector_of_relus_blows_up_only_if_the_weights_have_enough_of_a_positive_mean(mean: float, fewest: int, most: int) -> None:
    # why ReLUs are "more prone to blowing up": on vectors without a negative entry they are the identity
    assert fewest <= (vectors_of_relus(mean, 1.0) > 100).sum() <= most


def test_a_vector_of_relus_is_silent_after_a_negative_start_if_the_weights_are_mostly_positive() -> None:
    assert (vectors_of_relus(1.0, -1.0) == 0).all() and (vectors_of_relus(0.2, -1.0) > 0).any()


def apart(name: str, radius: float) -> np.ndarray:
    """The distance of two runs of one network, N = 32, from different starts: what h_t still knows of h_0, at t = 10, 50 and 100."""
    w, a, b = draw((32, 32), (32,), (32,), seed=15)
    w = with_radius(w, radius)
    first, second = (dy.unfold(lambda h: SCALARS[name](w @ h), start, steps=100) for start in (a, b))
    return np.linalg.norm(first - second, axis=1)[[9, 49, 99]]


def test_a_sigmoid_knows_nothing_of_its_start_after_ten_steps_and_a_tanh_as_long_as_its_eigenvalues_let_it() -> None:
    assert (apart("sigmoid", 0.9) < [1e-4, 1e-15, 1e-15]).all()
    near, below, above = apart("tanh", 0.7), apart("tanh", 0.9), apart("tanh", 1.1)
    assert (near < below).all() and (below < above).all() and below[2] < 1e-2 < 1e-1 < above[2]


# ---- Vanishing and exploding --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [0.5, 1.0, 1.5])
def test_gradients_of_a_linear_network_change_by_the_same_factor_in_every_step(scale: float) -> None:
    w = scale * np.linalg.qr(draw((32, 32), seed=11)[0])[0]
    h0 = tg.tensor(draw((1, 32), seed=12)[0], requires_grad=True)
    last = dy.unfold(lambda h, w: h @ w.T, h0, theta=(w,), steps=100)[-1]
    g = draw((1, 32), seed=13)[0]
    assert np.linalg.norm(tg.grad((last * g).sum(), h0).numpy()) == pytest.approx(scale**100 * np.linalg.norm(g), rel=1e-9)


def test_the_tanh_makes_gradients_vanish_and_hides_that_they_explode() -> None:
    def of_the_start(scale: float) -> float:
        """What of norm(dL/dh_T) arrives at h_0 over 100 steps of a tanh network with inputs."""
        xs, h0, g, w = draw((100, 1, 32), (1, 32), (1, 32), (32, 32), seed=14)
        w_hh, g_hs = scale * np.linalg.qr(w)[0], np.zeros((100, 1, 32))
        g_hs[-1] = g
        back = F.rnn_bptt(xs, h0, np.eye(32) * 0.5, w_hh, None, None, g_hs).h0
        return float(np.linalg.norm(back) / np.linalg.norm(g))

    assert of_the_start(0.5) < 1e-30 and of_the_start(1.0) < 1e-3 and of_the_start(1.5) < 100 < 1.5**100


def test_the_sensitivity_to_the_first_input_decays_as_new_ones_overwrite_it() -> None:
    # Graves draws it as the shade of seven nodes: ∂h_t/∂x_1 = (1 - h_1²) Π_(j=2..t) w (1 - h_j²)
    (inputs,) = draw((7,), seed=16)
    xs = tg.tensor(inputs, requires_grad=True)
    hs = dy.unfold(lambda h, x: tg.tanh(0.8 * h + x), np.zeros(()), xs)
    shades = [abs(tg.grad(h, xs).numpy()[0]) for h in hs]
    h = hs.numpy()
    np.testing.assert_allclose(shades, np.cumprod(np.r_[1, [0.8] * 6] * (1 - h * h)), rtol=1e-13)
    assert (np.diff(shades) < 0).all()


# ---- Several taps ------------------------------------------------------------------------------------------------------------------------


@each_taps
def test_a_recursion_with_taps_is_its_sum_written_out(taps: dict) -> None:
    (xs,) = draw((20, B))
    hs = dy.tapped_recursion(xs, taps)
    h = np.zeros((20, B))
    for t in range(20):
        h[t] = xs[t] + sum(a * h[t - k] for k, a in taps.items() if t >= k)
    np.testing.assert_allclose(hs, h, rtol=1e-13)


@pytest.mark.parametrize(("taps", "slowest", "total", "at_20"), [(FIVE, 0.8930, 4.0, 0.0354), (EIGHT, 0.9500, 6.667, 0.1060)])
def test_poles_and_impulse_responses_of_the_examples(taps: dict, slowest: float, total: float, at_20: float) -> None:
    found = dy.poles(taps)
    assert abs(found[0]) == pytest.approx(slowest, abs=5e-5)
    p = max(taps)
    for z in found:
        assert abs(z**p - sum(a * z ** (p - k) for k, a in taps.items())) < 1e-12
    impulse = np.zeros(600)
    impulse[0] = 1
    h = dy.tapped_recursion(impulse, taps)
    assert h.sum() == pytest.approx(total, abs=5e-4) and h.sum() == pytest.approx(1 / (1 - sum(taps.values())), rel=1e-10)
    assert h[20] == pytest.approx(at_20, abs=5e-5) and h[20] > 1e4 * 0.5**20  # what one tap of 1/2 leaves: 9.5e-7
    assert (h[400] / h[300]) ** 0.01 == pytest.approx(abs(found[0]), rel=1e-6)


@each_taps
def test_a_recursion_with_taps_is_a_linear_recursion_of_its_companion_matrix(taps: dict) -> None:
    (xs,) = draw((20, B, 1))
    c = dy.companion(taps)
    p = len(c)
    first = np.eye(p)[:, :1]
    states = dy.linear_recursion(xs, np.zeros((B, p)), first, c)
    np.testing.assert_allclose(states[:, :, 0], dy.tapped_recursion(xs[:, :, 0], taps), rtol=1e-12)
    assert dy.spectral_radius(c) == pytest.approx(abs(dy.poles(taps)[0]))


def test_gradients_reach_inputs_and_weights_of_the_taps() -> None:
    (xs,) = draw((6, B))
    testing.check_grads(lambda xs, a, b: dy.tapped_recursion(xs, {1: a, 3: b}), [xs, 0.5, 0.25])
    testing.check_grads(lambda xs, a, b: dy.finite_response(xs, {0: a, 2: b}), [xs, 0.5, 0.25])


@pytest.mark.parametrize("taps", [{}, {0: 1.0}, {-1: 1.0}, {1.5: 1.0}, [0.5, 0.25]], ids=str)
def test_wrong_taps_say_how_they_are_written(taps: object) -> None:
    for f in (lambda: dy.tapped_recursion(np.zeros(3), taps), lambda: dy.poles(taps)):
        with pytest.raises(ArgumentError, match=r"(?s)lags k >= 1 to weights, like \{1: 0.5, 5: 0.25\}"):
            f()


# ---- Gates in place of weights -----------------------------------------------------------------------------------------------------------


def test_the_carousel_hands_back_the_product_of_its_gates_exactly() -> None:
    fs, vs, c0 = draw((T, B), (T, B), (B,))
    fs = 1 / (1 + np.exp(-fs))
    start = tg.tensor(c0, requires_grad=True)
    gradients = dy.carousel_gradient(fs)
    cs = dy.carousel(fs, vs, start)
    assert (tg.grad(cs[-1].sum(), start).numpy() == gradients[0]).all()
    for t in range(T + 1):
        np.testing.assert_allclose(gradients[t], np.prod(fs[t:], axis=0), rtol=1e-14)
    np.testing.assert_allclose(cs.numpy()[-1], gradients[0] * c0 + (gradients[1:] * vs).sum(axis=0), rtol=1e-12)


def test_open_gates_hold_the_memory_and_its_gradient_exactly() -> None:
    (c0,) = draw((B,))
    start = tg.tensor(c0, requires_grad=True)
    cs = dy.carousel(np.ones((1000, B)), np.zeros((1000, B)), start)
    assert (cs.numpy()[-1] == c0).all() and (tg.grad(cs[-1].sum(), start).numpy() == 1).all()
    assert (dy.carousel_gradient(np.ones((1000, B))) == 1).all()


def test_the_cell_of_an_lstm_with_its_gates_taken_as_given_is_the_carousel() -> None:
    xs, h, c0, w_ih, w_hh, b = draw((T, B, D), (B, H), (B, H), (4 * H, D), (4 * H, H), (4 * H,))
    step = partial(F.lstm_step, return_gates=True)
    _, _, gates = tg.scan(step, xs, (h, c0), (w_ih, w_hh, b), collect=True)
    np.testing.assert_allclose(dy.carousel(gates.f, gates.i * gates.g, c0), gates.c, rtol=1e-13)


# ---- Types and devices ---------------------------------------------------------------------------------------------------------------------


def test_float32_stays_float32() -> None:
    xs, h0, w_ih, w_hh = (a.astype(np.float32) for a in draw((T, B, D), (B, H), (H, D), (H, H)))
    stable = with_radius(w_hh, 0.5).astype(np.float32)
    results = [
        dy.linear_recursion(xs, h0, w_ih, w_hh),
        dy.superposition(xs, h0, w_ih, w_hh),
        dy.lyapunov(stable),
        dy.tapped_recursion(xs, FIVE),
        dy.finite_response(xs, FIVE),
        dy.carousel(xs, xs, xs[0]),
        dy.carousel_gradient(xs),
        dy.unfold(lambda s: 0.5 * s, h0, steps=2),
    ]
    assert [a.dtype for a in results] == [np.float32] * len(results)


def test_forward_and_backward_on_a_device_are_those_of_the_host(device_xp) -> None:
    xs, h0, w_ih, w_hh = draw((T, B, D), (B, H), (H, D), (H, H))
    w_hh = with_radius(w_hh, 0.9)
    calls = {
        "recursion": (dy.linear_recursion, (xs, h0, w_ih, w_hh)),
        "superposition": (dy.superposition, (xs, h0, w_ih, w_hh)),
        "lyapunov": (dy.lyapunov, (w_hh,)),
        "autonomous": (lambda s: dy.unfold(tg.tanh, s, steps=3), (h0,)),
        "taps": (lambda x: dy.tapped_recursion(x, FIVE), (xs,)),
        "window": (lambda x: dy.finite_response(x, FIVE), (xs,)),
        "carousel": (dy.carousel, (xs, xs, xs[0])),
        "carried": (dy.carousel_gradient, (xs,)),
    }
    for name, (f, arrays) in calls.items():
        found = []
        for library in (np, device_xp):
            leaves = [tg.Tensor(library.asarray(a), requires_grad=True) for a in arrays]
            y = f(*leaves)
            gradients = tg.grad((y * y).sum(), leaves)
            found.append([a.numpy() for a in (y, *gradients)])
        for a, b in zip(*found, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12, err_msg=name)
    assert dy.spectral_radius(device_xp.asarray(w_hh)) == pytest.approx(0.9)
