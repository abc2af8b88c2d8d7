"""Back-propagation through time as four courses write it, each equation in its own letters, against the tape.

Every network is recorded op by op, in the letters of its notes: vectors are columns, one sequence, t = 1, ..., T; entry 0 of a list is the start.
The equations are NumPy and know nothing of the tape. Rows are those of docs/lecture-notes.md.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tinygrad_seq as tg
from tinygrad_seq import bptt
from tinygrad_seq.nn import functional as F

T, D, H, CLASSES = 5, 3, 4, 3
CLOSE: dict[str, Any] = {"rtol": 1e-12, "atol": 1e-14}
close = np.testing.assert_allclose


def leaf(rng: np.random.Generator, *shape: int, name: str = "", scale: float = 0.7) -> Any:
    x = tg.Tensor(scale * rng.standard_normal(shape), requires_grad=True)
    x.name = name or None
    return x


def kept(*values: Any) -> None:
    """Ask for the gradients of intermediate values."""
    for value in values:
        value.retain_grad()


def of(*leaves: Any) -> list[np.ndarray]:
    return [x.numpy() for x in leaves]


# ---- B1  CS540: a sum of products ----------------------------------------------------------------------------------------------------------


class CS540:
    """a_t = g(w_a a_(t-1) + w_x x_t + b), o = w_o a_T + b_o, or an o_t for every t; C a cost of the outputs."""

    def __init__(self, seed: int, *, output_for_each: bool = False):
        rng = np.random.default_rng(seed)
        self.w_a, self.w_x, self.b = leaf(rng, H, H, name="w_a"), leaf(rng, H, D, name="w_x"), leaf(rng, H, name="b")
        self.w_o, self.b_o = leaf(rng, CLASSES, H, name="w_o"), leaf(rng, CLASSES, name="b_o")
        self.x = [None, *rng.standard_normal((T, D))]
        self.y = rng.standard_normal((T + 1, CLASSES))
        self.a, self.o = [tg.Tensor(np.zeros(H))], [None]
        for x in tg.steps(self.x[1:]):
            self.a.append(tg.tanh(self.w_a @ self.a[-1] + self.w_x @ x + self.b))
        self.read = range(1, T + 1) if output_for_each else [T]
        for t in range(1, T + 1):
            self.o.append(self.w_o @ self.a[t] + self.b_o if t in self.read else None)
        self.C = sum(((self.o[t] - self.y[t]) ** 2).sum() for t in self.read)

    def immediate(self, k: int, w: str) -> np.ndarray:
        """∂a_k/∂w with a_(k-1) as given, (H, *w.shape): only row i of w moves entry i of a_k."""
        a, v = self.a[k].numpy(), self.a[k - 1].numpy() if w == "w_a" else self.x[k]
        found = np.zeros((H, H, len(v)))
        for i in range(H):
            found[i, i] = (1 - a[i] ** 2) * v
        return found

    def step(self, j: int) -> np.ndarray:
        """da_j/da_(j-1)."""
        return np.diag(1 - self.a[j].numpy() ** 2) @ self.w_a.numpy()

    def term(self, t: int, k: int, w: str) -> np.ndarray:
        """dC/do_t · do_t/da_t · [Π_(j=k+1..t) da_j/da_(j-1)] · ∂a_k/∂w."""
        product = 2 * (self.o[t].numpy() - self.y[t]) @ self.w_o.numpy()
        for j in range(t, k, -1):
            product = product @ self.step(j)
        return np.tensordot(product, self.immediate(k, w), 1)


@pytest.mark.parametrize("w", ["w_a", "w_x"])
@pytest.mark.parametrize("output_for_each", [False, True])
def test_b1_the_gradient_is_the_sum_of_products_of_cs540(w: str, output_for_each: bool) -> None:
    net = CS540(0, output_for_each=output_for_each)
    net.C.backward()
    total = sum(net.term(t, k, w) for t in net.read for k in range(1, t + 1))
    close(getattr(net, w).grad.numpy(), total, **CLOSE)


@pytest.mark.parametrize("w", ["w_a", "w_x"])
@pytest.mark.parametrize("output_for_each", [False, True])
def test_b1_each_summand_is_what_one_use_of_the_weight_adds(w: str, output_for_each: bool) -> None:
    net = CS540(1, output_for_each=output_for_each)
    weight = getattr(net, w)
    uses = bptt.terms(net.C, weight)[weight.node]
    by_time: dict[Any, Any] = {term.time: term.value for term in uses}
    for k in range(1, T + 1):
        by_hand = sum(net.term(t, k, w) for t in net.read if t >= k)
        close(by_time.get(k, 0 * by_hand), by_hand, **CLOSE)
    (loop,) = bptt.explain(net.C, weight).loops
    for link in loop.links:
        close(link.term, sum(net.term(t, link.time, w) for t in net.read if t >= link.time), **CLOSE)
        assert link.immediate == pytest.approx(np.linalg.norm(net.immediate(link.time, w)), rel=1e-12)


def test_b1_one_output_and_its_weight() -> None:
    net = CS540(2)
    net.C.backward()
    dC_do = 2 * (net.o[T].numpy() - net.y[T])
    close(net.w_o.grad.numpy(), np.outer(dC_do, net.a[T].numpy()), **CLOSE)  # dC/dw_o = dC/do · do/dw_o
    close(net.b_o.grad.numpy(), dC_do, **CLOSE)


def test_b1_the_product_of_steps_is_the_jacobian_over_time() -> None:
    net = CS540(3)
    J = bptt.temporal_jacobians(net.C)
    for t in range(1, T + 1):
        for k in range(1, t + 1):
            product = np.eye(H)
            for j in range(t, k, -1):
                product = product @ net.step(j)
            close(J.between(t, k)[0], product, **CLOSE)


# ---- B2, B3, B4  CS760: internal gradients, then parameters ------------------------------------------------------------------------------------


class CS760:
    """a(t) = b + W s(t-1) + U x(t), s(t) = tanh(a(t)), o(t) = c + V s(t), ŷ(t) = softmax(o(t)), L = Σ_t L(t), L(t) = -log ŷ_y(t)."""

    def __init__(self, seed: int):
        rng = np.random.default_rng(seed)
        self.U, self.W, self.V = leaf(rng, H, D), leaf(rng, H, H), leaf(rng, CLASSES, H)
        self.b, self.c = leaf(rng, H), leaf(rng, CLASSES)
        self.x, self.y = [None, *rng.standard_normal((T, D))], [None, *rng.integers(0, CLASSES, T)]
        self.a, self.s, self.o, self.Lt = [None], [tg.Tensor(np.zeros(H))], [None], [None]
        for t, x in enumerate(tg.steps(self.x[1:]), 1):
            self.a.append(self.b + self.W @ self.s[-1] + self.U @ x)
            self.s.append(tg.tanh(self.a[t]))
            self.o.append(self.c + self.V @ self.s[t])
            self.Lt.append(F.cross_entropy(self.o[t][None], [self.y[t]]))
        kept(*self.a[1:], *self.s[1:], *self.o[1:], *self.Lt[1:])
        self.L = sum(self.Lt[1:])
        self.L.backward()

    def y_hat(self, t: int) -> np.ndarray:
        e = np.exp(self.o[t].numpy())
        return e / e.sum()

    def gradients(self) -> tuple[list[Any], list[Any]]:
        """∇_o(t) L and ∇_s(t) L, rows, by the formulas, from τ = T down to 1."""
        V, W = of(self.V, self.W)
        g_o: list[Any] = [None] * (T + 1)
        g_s: list[Any] = [None] * (T + 1)
        for t in range(T, 0, -1):
            g_o[t] = self.y_hat(t) - np.eye(CLASSES)[self.y[t]]  # ŷ_i - 1[i = y]
            if t == T:
                g_s[t] = g_o[t] @ V
            else:
                g_s[t] = g_s[t + 1] @ np.diag(1 - self.s[t + 1].numpy() ** 2) @ W + g_o[t] @ V
        return g_o, g_s


@pytest.mark.parametrize("seed", range(3))
def test_b2_every_internal_gradient_is_the_formula_of_cs760(seed: int) -> None:
    net = CS760(seed)
    g_o, g_s = net.gradients()
    for t in range(1, T + 1):
        assert net.Lt[t].grad.item() == 1  # dL/dL(t)
        close(net.o[t].grad.numpy(), g_o[t], **CLOSE)
        close(net.s[t].grad.numpy(), g_s[t], **CLOSE)


def test_b2_the_jacobian_of_a_step() -> None:
    net = CS760(4)
    J = bptt.temporal_jacobians(net.L)
    for t in range(1, T):
        close(J.step(t + 1)[0], np.diag(1 - net.s[t + 1].numpy() ** 2) @ net.W.numpy(), **CLOSE)


@pytest.mark.parametrize("seed", range(3))
def test_b3_every_parameter_receives_the_sum_of_outer_products(seed: int) -> None:
    net = CS760(seed)
    g_o, g_s = net.gradients()
    s, times = [s.numpy() for s in net.s], range(1, T + 1)
    d = [None, *(g_s[t] * (1 - s[t] ** 2) for t in times)]  # before the tanh: dL/da(t)
    close(net.V.grad.numpy(), sum(np.outer(g_o[t], s[t]) for t in times), **CLOSE)
    close(net.W.grad.numpy(), sum(np.outer(d[t], s[t - 1]) for t in times), **CLOSE)
    close(net.U.grad.numpy(), sum(np.outer(d[t], net.x[t]) for t in times), **CLOSE)
    close(net.b.grad.numpy(), sum(d[t] for t in times), **CLOSE)
    close(net.c.grad.numpy(), sum(g_o[t] for t in times), **CLOSE)
    for t in times:
        close(net.a[t].grad.numpy(), d[t], **CLOSE)


def test_b3_each_summand_is_one_column_of_the_ledger() -> None:
    net = CS760(5)
    _, g_s = net.gradients()
    ledger = bptt.ledger(net.L, net.W)
    for t in range(1, T + 1):
        d = g_s[t] * (1 - net.s[t].numpy() ** 2)
        close(ledger.at(t), np.outer(d, net.s[t - 1].numpy()), **CLOSE)


@pytest.mark.parametrize("size", [1.0, 30.0, 1e3])
def test_b4_the_gradient_of_the_scores_is_prediction_minus_truth(size: float) -> None:
    rng = np.random.default_rng(0)
    for y in range(CLASSES):
        o = tg.Tensor(size * rng.standard_normal(CLASSES), requires_grad=True)
        F.cross_entropy(o[None], [y]).backward()
        e = np.exp(o.numpy() - o.numpy().max())
        close(o.grad.numpy(), e / e.sum() - np.eye(CLASSES)[y], rtol=1e-12, atol=1e-15)


def test_b4_line_by_line() -> None:
    o, y = leaf(np.random.default_rng(1), CLASSES), 1
    L = tg.log(tg.exp(o).sum() / tg.exp(o)[y])  # log(Σ_j e^(o_j) / e^(o_y))
    assert L.item() == pytest.approx(F.cross_entropy(o[None], [y]).item(), rel=1e-14)
    y_hat = (tg.exp(o) / tg.exp(o).sum()).numpy()
    second = np.exp(o.numpy()[y]) * tg.grad(1 / tg.exp(o)[y], o).numpy()  # e^(o_y) d/do_i (1/e^(o_y)) = -1[i = y]
    close(second, -np.eye(CLASSES)[y], **CLOSE)
    close(tg.grad(L, o).numpy(), y_hat + second, **CLOSE)


# ---- B5  Graves: deltas ------------------------------------------------------------------------------------------------------------------------


class Graves:
    """a_h^t = Σ_i w_ih x_i^t + Σ_h' w_h'h b_h'^(t-1), b_h^t = θ(a_h^t), a_k^t = Σ_h w_hk b_h^t; w_ij leads from i to j; O a loss of all a_k^t."""

    def __init__(self, seed: int, theta: Callable[[Any], Any] = tg.tanh):
        rng = np.random.default_rng(seed)
        self.w_ih, self.w_hh, self.w_hk = leaf(rng, D, H), leaf(rng, H, H), leaf(rng, H, CLASSES)
        self.x, self.y = [None, *rng.standard_normal((T, D))], rng.integers(0, CLASSES, T + 1)
        self.a, self.b, self.ak = [None], [tg.Tensor(np.zeros(H))], [None]
        self.O: Any = 0.0
        for t, x in enumerate(tg.steps(self.x[1:]), 1):
            self.a.append(tg.Tensor(x) @ self.w_ih + self.b[-1] @ self.w_hh)
            self.b.append(theta(self.a[t]))
            self.ak.append(self.b[t] @ self.w_hk)
            self.O = self.O + F.cross_entropy(self.ak[t][None], [self.y[t]])
        kept(*self.a[1:], *self.ak[1:])


def deltas(net: Graves, slope: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> tuple[dict[int, Any], dict[int, Any]]:
    """δ_k^t and δ_h^t unit by unit, for t = T down to 1, δ^(T+1) = 0."""
    w_hh, w_hk = of(net.w_hh, net.w_hk)
    delta_h: dict[int, Any] = {T + 1: np.zeros(H)}
    delta_k: dict[int, Any] = {}
    for t in range(T, 0, -1):
        e = np.exp(net.ak[t].numpy())
        delta_k[t] = e / e.sum() - np.eye(CLASSES)[net.y[t]]
        rate = slope(net.a[t].numpy(), net.b[t].numpy())
        delta_h[t] = np.array(
            [
                rate[h]
                * (
                    sum(delta_k[t][k] * w_hk[h, k] for k in range(CLASSES))
                    + sum(delta_h[t + 1][after] * w_hh[h, after] for after in range(H))
                )
                for h in range(H)
            ]
        )
    return delta_k, delta_h


SLOPES = {
    "tanh": (tg.tanh, lambda a, b: 1 - b**2),
    "sigmoid": (tg.sigmoid, lambda a, b: b * (1 - b)),
    "relu": (F.relu, lambda a, b: (a > 0) * 1.0),
}


@pytest.mark.parametrize("theta", SLOPES)
def test_b5_the_deltas_of_graves_are_the_gradients_of_the_activations(theta: str) -> None:
    f, slope = SLOPES[theta]
    net = Graves(0, f)
    net.O.backward()
    delta_k, delta_h = deltas(net, slope)
    b, times = [b.numpy() for b in net.b], range(1, T + 1)
    for t in times:
        close(net.a[t].grad.numpy(), delta_h[t], **CLOSE)  # δ_j^t = dO/da_j^t
        close(net.ak[t].grad.numpy(), delta_k[t], **CLOSE)
    for i in range(H):  # dO/dw_ij = Σ_t δ_j^t b_i^t, the b_i of the unit that the weight leads from
        for j in range(H):
            assert net.w_hh.grad.numpy()[i, j] == pytest.approx(
                sum(delta_h[t][j] * b[t - 1][i] for t in times), rel=1e-11, abs=1e-14
            )
        for j in range(CLASSES):
            assert net.w_hk.grad.numpy()[i, j] == pytest.approx(sum(delta_k[t][j] * b[t][i] for t in times), rel=1e-11, abs=1e-14)
    for i in range(D):
        for j in range(H):
            assert net.w_ih.grad.numpy()[i, j] == pytest.approx(
                sum(delta_h[t][j] * net.x[t][i] for t in times), rel=1e-11, abs=1e-14
            )


def test_b5_the_deltas_come_from_the_end_to_the_beginning() -> None:
    net = Graves(1)
    places = {a.node: t for t, a in enumerate(net.a) if t}
    order = [places[step.node] for step in tg.steps_of_backward(net.O) if step.node in places]
    assert order == [*range(T, 0, -1)]


# ---- B6, B7  CMU: a chain of layers, and the Jacobian of one ------------------------------------------------------------------------------------


def diagonal(f: Callable[[Any], Any], z: np.ndarray) -> np.ndarray:
    """∇f(z) by the tape, a full matrix."""
    return tg.jacobian(f, tg.Tensor(z)).numpy()


FS = [tg.tanh, tg.sigmoid, F.relu, tg.tanh]


def test_b6_the_gradient_at_every_layer_is_the_product_of_jacobians() -> None:
    # Y = f_N(W_(N-1) f_(N-1)(... f_1(W_0 X))), Div = D(Y)
    rng, N = np.random.default_rng(0), len(FS)
    W = [leaf(rng, H, H) for _ in range(N)]
    X, goal = leaf(rng, H), rng.standard_normal(H)
    f, z = [X], [None]
    for k in range(1, N + 1):
        z.append(W[k - 1] @ f[k - 1])
        f.append(FS[k - 1](z[k]))
    kept(*f[1:])
    Div = ((f[N] - goal) ** 2).sum()
    Div.backward()
    nabla_D = 2 * (f[N].numpy() - goal)
    for k in range(N, -1, -1):
        row = nabla_D  # ∇D · ∇f_N · W_(N-1) · ∇f_(N-1) · W_(N-2) ... ∇f_(k+1) · W_k
        for layer in range(N, k, -1):
            row = row @ diagonal(FS[layer - 1], z[layer].numpy()) @ W[layer - 1].numpy()
        close(f[k].grad.numpy(), row, **CLOSE)
    for k in range(N):  # and of a weight the outer product with what it multiplies
        row = f[k + 1].grad.numpy() @ diagonal(FS[k], z[k + 1].numpy())
        close(W[k].grad.numpy(), np.outer(row, f[k].numpy()), **CLOSE)


def test_b6_of_two_layers() -> None:
    # Div(X) = D(f(W g(X))), Z = W g(X): ∇_X Div = ∇D · ∇_Z f · W · ∇_X g
    rng = np.random.default_rng(1)
    W, X = leaf(rng, H, H), leaf(rng, H)
    g, f = tg.sigmoid, tg.tanh
    Z = W @ g(X)
    Div = tg.exp(f(Z)).sum()
    close(tg.grad(Div, X).numpy(), np.exp(f(Z).numpy()) @ diagonal(f, Z.numpy()) @ W.numpy() @ diagonal(g, X.numpy()), **CLOSE)


BOUNDS = {"sigmoid": (tg.sigmoid, 0.25), "tanh": (tg.tanh, 1.0), "relu": (F.relu, 1.0)}


@pytest.mark.parametrize("name", BOUNDS)
def test_b7_the_jacobian_of_the_activations_is_diagonal_and_bounded(name: str) -> None:
    f, bound = BOUNDS[name]
    z = np.linspace(-4, 4, 41)
    J = diagonal(f, z)
    assert not (J - np.diag(np.diag(J))).any()  # exactly 0 beside the diagonal
    slopes = np.diag(J)
    assert slopes.min() >= 0 and slopes.max() == pytest.approx(bound, abs=1e-15)
    if name == "tanh":
        assert slopes[20] == 1 and (np.delete(slopes, 20) < 1).all()  # at most 1, and 1 at 0
    e = 1e-6
    away = np.abs(z) > 0.1  # from the kink
    central = (f(z[away] + e) - f(z[away] - e)) / (2 * e)
    close(slopes[away], central, rtol=1e-8, atol=1e-9)


def test_b7_of_a_recurrent_layer_it_is_the_diagonal_between_two_products() -> None:
    net = CS760(6)
    J = bptt.temporal_jacobians(net.L)
    for t in range(2, T + 1):
        close(J.step(t)[0], diagonal(tg.tanh, net.a[t].numpy()) @ net.W.numpy(), **CLOSE)
        assert np.linalg.norm(J.step(t)[0], 2) <= np.linalg.norm(net.W.numpy(), 2)  # bounded by the weights, as ∇f is by 1


# ---- B8  It is back-propagation on the unfolded graph ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "net", [lambda: CS540(0, output_for_each=True).C, lambda: CS760(0).L, lambda: Graves(0).O], ids=["CS540", "CS760", "Graves"]
)
def test_b8_internal_nodes_come_first_and_parameters_last(net: Callable[[], Any]) -> None:
    visited = [step.node.prim is None for step in tg.steps_of_backward(net())]
    assert visited == sorted(visited) and 0 < sum(visited) < len(visited)
    walk, walked = bptt.sweep(net()), []
    while (move := walk.forth()) is not None:
        walked.append(move.op == "leaf")
    assert walked == visited


def test_b8_one_generic_backward_on_the_unfolded_graph_is_the_compiled_loop_is_the_formula() -> None:
    net = CS760(7)
    hs, _ = tg.scan(
        F.rnn_step,
        np.stack(net.x[1:])[:, None],
        np.zeros((1, H)),
        (net.U.detach(), W := tg.Tensor(net.W.numpy(), requires_grad=True), net.b.detach()),
    )
    F.cross_entropy(F.linear(hs[:, 0], net.V.detach(), net.c.detach()), np.array(net.y[1:]), reduction="sum").backward()
    close(W.grad.numpy(), net.W.grad.numpy(), **CLOSE)


# ---- C17  The constant error carousel ---------------------------------------------------------------------------------------------------------------


def carousel(gates: np.ndarray, start: np.ndarray) -> tuple[list[Any], Any]:
    """h(t) = σ(t) ⊙ h(t-1): no weights, no nonlinearity in the path of the memory."""
    h = [tg.Tensor(start, requires_grad=True)]
    for gate in tg.steps(gates):
        h.append(gate * h[-1])
    return h, h[0]


def test_c17_with_open_gates_nothing_is_lost_exactly() -> None:
    h, start = carousel(np.ones((100, H)), np.random.default_rng(0).standard_normal(H))
    for i in range(H):
        assert (tg.grad(h[-1][i], start).numpy() == np.eye(H)[i]).all()  # dh(T)/dh(0) = 1, not nearly


def test_c17_with_gates_it_is_their_product_exactly() -> None:
    gates = np.random.default_rng(1).integers(1, 8, (T, H)) / 8  # products of these are exact
    h, start = carousel(gates, np.ones(H))
    assert (tg.grad(h[-1].sum(), start).numpy() == gates.prod(axis=0)).all()
    gates = np.random.default_rng(2).uniform(0.2, 1, (T, H))
    h, _ = carousel(gates, np.ones(H))
    J = bptt.temporal_jacobians(h[-1].sum())
    for k in range(1, T):  # ∇_(h(k)) Div = ∇D · σ(T) · σ(T-1) ... σ(k+1)
        close(J.between(T, k)[0], np.diag(gates[k:].prod(axis=0)), **CLOSE)


def test_c17_in_an_lstm_the_carousel_is_the_path_of_the_forget_gates() -> None:
    rng = np.random.default_rng(3)
    weights = [tg.Tensor(0.5 * rng.standard_normal(s), requires_grad=True) for s in [(4 * H, D), (4 * H, H), (4 * H,), (4 * H,)]]
    h = c = tg.Tensor(np.zeros((1, H)))
    forget = []
    for x in tg.steps(rng.standard_normal((T, 1, D))):
        h, c, gates = F.lstm_step(x, h, c, *weights, return_gates=True)
        forget.append(gates.f.numpy())
    J = bptt.temporal_jacobians((h + c).sum())
    close(J.gates["c"][-(T - 1) :], np.stack(forget)[1:], **CLOSE)
    close(J.gated_path(T).product[-T:, 0], np.cumprod([np.ones(H), *(f[0] for f in forget[:0:-1])], axis=0)[::-1], **CLOSE)


# ---- D3  CMU: LSTM with peepholes, backward ----------------------------------------------------------------------------------------------------------


class Peepholes:
    """The memory cell of CMU 11-785 with full peephole matrices, recorded op by op; z_t = W_hz h_t is what the layer above receives."""

    GATES = "fico"  # forget, input, pattern C~, output

    def __init__(self, seed: int):
        rng = np.random.default_rng(seed)
        self.w = {f"W_x{q}": leaf(rng, H, D) for q in self.GATES} | {f"W_h{q}": leaf(rng, H, H) for q in self.GATES}
        self.w |= {f"W_c{q}": leaf(rng, H, H) for q in "fio"} | {f"b_{q}": leaf(rng, H) for q in self.GATES}
        self.W_hz = rng.standard_normal((CLASSES, H))
        self.goal = rng.standard_normal((T + 1, CLASSES))
        self.x = [None, *rng.standard_normal((T, D))]
        zero = tg.Tensor(np.zeros(H))
        self.h, self.C, self.f, self.i, self.pattern, self.o, self.z = [zero], [zero], [None], [None], [None], [None], [None]
        w, h, C = self.w, self.h, self.C
        for t, x in enumerate(tg.steps(self.x[1:]), 1):
            self.f.append(tg.sigmoid(w["W_xf"] @ x + w["W_hf"] @ h[t - 1] + w["W_cf"] @ C[t - 1] + w["b_f"]))
            self.i.append(tg.sigmoid(w["W_xi"] @ x + w["W_hi"] @ h[t - 1] + w["W_ci"] @ C[t - 1] + w["b_i"]))
            self.pattern.append(tg.tanh(w["W_xc"] @ x + w["W_hc"] @ h[t - 1] + w["b_c"]))
            C.append(self.f[t] * C[t - 1] + self.i[t] * self.pattern[t])
            self.o.append(tg.sigmoid(w["W_xo"] @ x + w["W_ho"] @ h[t - 1] + w["W_co"] @ C[t] + w["b_o"]))  # peeks at the new cell
            h.append(self.o[t] * tg.tanh(C[t]))
            self.z.append(self.W_hz @ h[t])
        kept(*h[1:], *C[1:])
        self.Div = sum(((self.z[t] - self.goal[t]) ** 2).sum() for t in range(1, T + 1))
        self.Div.backward()

    def by_hand(self) -> tuple[dict[int, Any], dict[int, Any], dict[str, Any]]:
        """dh_t, dC_t for t = T down to 1, everything at T+1 is 0; and the gradients of the parameters."""
        W = {name: p.numpy() for name, p in self.w.items()}
        x, (h, C) = self.x, ([v.numpy() for v in vs] for vs in (self.h, self.C))
        f, i, pattern, o = ([None, *(v.numpy() for v in vs[1:]), np.zeros(H)] for vs in (self.f, self.i, self.pattern, self.o))
        zero = np.zeros(H)
        df, di, dg, do, dC, dh = ({T + 1: zero} for _ in range(6))
        for t in range(T, 0, -1):
            dDiv_dz = 2 * (self.z[t].numpy() - self.goal[t])
            dh[t] = (
                self.W_hz.T @ dDiv_dz
                + W["W_hf"].T @ df[t + 1]
                + W["W_hi"].T @ di[t + 1]
                + W["W_hc"].T @ dg[t + 1]
                + W["W_ho"].T @ do[t + 1]
            )
            do[t] = dh[t] * np.tanh(C[t]) * o[t] * (1 - o[t])
            dC[t] = dh[t] * o[t] * (1 - np.tanh(C[t]) ** 2) + W["W_co"].T @ do[t]
            dC[t] = dC[t] + dC[t + 1] * f[t + 1] + W["W_cf"].T @ df[t + 1] + W["W_ci"].T @ di[t + 1]
            df[t] = dC[t] * C[t - 1] * f[t] * (1 - f[t])
            di[t] = dC[t] * pattern[t] * i[t] * (1 - i[t])
            dg[t] = dC[t] * i[t] * (1 - pattern[t] ** 2)
        times, d = range(1, T + 1), {"f": df, "i": di, "c": dg, "o": do}
        sums = {f"W_x{q}": sum(np.outer(d[q][t], x[t]) for t in times) for q in self.GATES}
        sums |= {f"W_h{q}": sum(np.outer(d[q][t], h[t - 1]) for t in times) for q in self.GATES}
        sums |= {f"b_{q}": sum(d[q][t] for t in times) for q in self.GATES}
        sums |= {f"W_c{q}": sum(np.outer(d[q][t], C[t - 1]) for t in times) for q in "fi"}
        sums["W_co"] = sum(np.outer(do[t], C[t]) for t in times)
        return dh, dC, sums


@pytest.mark.parametrize("seed", range(3))
def test_d3_the_clean_backward_pass_with_peepholes_is_that_of_the_tape(seed: int) -> None:
    net = Peepholes(seed)
    dh, dC, sums = net.by_hand()
    for t in range(1, T + 1):
        close(net.h[t].grad.numpy(), dh[t], **CLOSE)
        close(net.C[t].grad.numpy(), dC[t], **CLOSE)
    assert set(sums) == set(net.w) and len(sums) == 15
    for name, p in net.w.items():
        close(p.grad.numpy(), sums[name], **CLOSE, err_msg=name)


def test_d3_the_last_slide_as_it_stands_is_not() -> None:
    # it has the gradient of C_(t+1) by h_t where that of Div by C_(t+1) belongs, and o_(t+1), W_hi where i_(t+1), W_hC belong
    net = Peepholes(0)
    dh, _, _ = net.by_hand()
    W = {name: p.numpy() for name, p in net.w.items()}
    t = T - 1
    o, i, pattern = (v[t + 1].numpy() for v in (net.o, net.i, net.pattern))
    right = W["W_hc"].T @ (net.C[t + 1].grad.numpy() * i * (1 - pattern**2))
    as_printed = W["W_hi"].T @ (net.C[t + 1].grad.numpy() * o * (1 - pattern**2))
    assert np.abs(right - as_printed).max() > 0.05
    close(net.h[t].grad.numpy(), dh[t], **CLOSE)


def test_d3_explained_both_states_carry() -> None:
    net = Peepholes(1)
    net.w["W_hf"].name = "W_hf"
    derivation = bptt.explain(net.Div, net.w["W_hf"])
    (loop,) = derivation.loops
    assert list(loop.parts) == ["h", "c"] and derivation.check() < 1e-12
    dh, _, _ = net.by_hand()
    for link in loop.links:  # what arrives at h_t; at C_t all but what goes through h_t
        close(link.arrived[0, loop.parts["h"]], dh[link.time], **CLOSE)
