"""The simple recurrent network: its equation, its hand-derived BPTT, the tape and PyTorch all say the same."""

from __future__ import annotations

import gc

import numpy as np
import pytest

import tinygrad_seq as tg
from tinygrad_seq import backend, nn, optim
from tinygrad_seq.errors import ArgumentError, ShapeError
from tinygrad_seq.nn import functional as F
from tinygrad_seq.nn.functional import RNNGradients, rnn_bptt, rnn_step
from tinygrad_seq.ops import products as products_module
from tinygrad_seq.scan import scan

T, B, D, H = 6, 3, 4, 5
NONLINEARITIES = pytest.mark.parametrize("nonlinearity", ["tanh", "relu"])


def problem(seed: int = 0) -> tuple[list[np.ndarray], np.ndarray]:
    """xs, h0, w_ih, w_hh, b_ih, b_hh, and a weight for each state, so that the loss is L = Σ weight · hs."""
    rng = np.random.default_rng(seed)
    shapes = [(T, B, D), (B, H), (H, D), (H, H), (H,), (H,)]
    return [0.7 * rng.standard_normal(shape) for shape in shapes], rng.standard_normal((T, B, H))


def loss_by_hand(args: list[np.ndarray], weight: np.ndarray, nonlinearity: str) -> float:
    """The loss with every sum written in NumPy, independent of the package."""
    xs, h, w_ih, w_hh, b_ih, b_hh = args
    f = np.tanh if nonlinearity == "tanh" else lambda a: np.maximum(a, 0)
    loss = 0.0
    for x, w in zip(xs, weight, strict=True):
        h = f(x @ w_ih.T + b_ih + h @ w_hh.T + b_hh)
        loss += (w * h).sum()
    return loss


def gradients_of_the_tape(args: list[np.ndarray], weight: np.ndarray, nonlinearity: str) -> tuple[float, list[np.ndarray]]:
    leaves = [tg.Tensor(a, requires_grad=True) for a in args]
    xs, h0, *ws = leaves
    hs, _ = scan(lambda *a: rnn_step(*a, nonlinearity=nonlinearity), xs, h0, ws)
    loss = (hs * weight).sum()
    loss.backward()
    return loss.item(), [leaf.grad.numpy() for leaf in leaves]


@NONLINEARITIES
def test_rnn_step_is_the_equation(nonlinearity: str):
    args, weight = problem()
    loss, _ = gradients_of_the_tape(args, weight, nonlinearity)
    assert loss == pytest.approx(loss_by_hand(args, weight, nonlinearity), rel=1e-13)


@NONLINEARITIES
@pytest.mark.parametrize("name", RNNGradients._fields)
def test_bptt_by_hand_equals_the_tape(nonlinearity: str, name: str):
    args, weight = problem()
    by_hand = rnn_bptt(*args, weight, nonlinearity=nonlinearity)
    _, of_tape = gradients_of_the_tape(args, weight, nonlinearity)
    place = RNNGradients._fields.index(name)
    np.testing.assert_allclose(by_hand[place], of_tape[place], rtol=1e-12, atol=1e-12)


@NONLINEARITIES
@pytest.mark.parametrize("name", RNNGradients._fields)
def test_bptt_by_hand_equals_central_differences(nonlinearity: str, name: str):
    args, weight = problem(1)
    place, step = RNNGradients._fields.index(name), 1e-6
    direction = np.random.default_rng(2).standard_normal(args[place].shape)

    def loss(distance: float) -> float:
        moved = [a + distance * direction if i == place else a for i, a in enumerate(args)]
        return loss_by_hand(moved, weight, nonlinearity)

    slope = (loss(step) - loss(-step)) / (2 * step)
    assert (rnn_bptt(*args, weight, nonlinearity=nonlinearity)[place] * direction).sum() == pytest.approx(slope, rel=1e-7)


def test_bptt_is_the_sum_of_products_over_all_pairs_of_times():
    # dL/dW_hh = Σ_t Σ_(k<=t) dL/dh_t [Π_(j=k+1..t) dh_j/dh_(j-1)] ∂h_k/∂W_hh, the Jacobians written out for one row
    (xs, h0, w_ih, w_hh, b_ih, b_hh), weight = problem(3)
    hs = [h0[0]]
    for x in xs[:, 0]:
        hs.append(np.tanh(x @ w_ih.T + b_ih + hs[-1] @ w_hh.T + b_hh))
    total = np.zeros((H, H))
    for t in range(1, T + 1):
        row = weight[t - 1, 0]  # dL/dh_t, then carried back to h_k
        for k in range(t, 0, -1):
            total += np.outer(row * (1 - hs[k] ** 2), hs[k - 1])
            row = row @ (np.diag(1 - hs[k] ** 2) @ w_hh)
    by_hand = rnn_bptt(xs[:, :1], h0[:1], w_ih, w_hh, b_ih, b_hh, weight[:, :1])
    np.testing.assert_allclose(by_hand.w_hh, total, rtol=1e-12)


def test_the_gradient_can_be_differentiated_again():
    args, weight = problem(4)
    leaves = [tg.Tensor(a, requires_grad=True) for a in args]
    xs, h0, *ws = leaves
    hs, _ = scan(rnn_step, xs, h0, ws)
    (g,) = tg.grad((hs * weight).sum(), [ws[1]], create_graph=True)
    direction = np.random.default_rng(5).standard_normal((H, H))
    second = tg.grad((g * direction).sum(), ws[1]).numpy()

    step = 1e-6
    plus, minus = (rnn_bptt(*args[:3], args[3] + s * direction, *args[4:], weight).w_hh for s in (step, -step))
    np.testing.assert_allclose(second, (plus - minus) / (2 * step), rtol=1e-6, atol=1e-7)


# ---- The gradients of the notes, each in its own letters -----------------------------------------------------------------------------


def softmax(o: np.ndarray) -> np.ndarray:
    e = np.exp(o - o.max())
    return e / e.sum()


CLASSES = 3


def classifier(seed: int) -> tuple[np.ndarray, ...]:
    """U, W, V, b, c, inputs x(1) ... x(τ) and classes y(1) ... y(τ), as CS760 has them: columns, one sequence, loss at every step."""
    rng = np.random.default_rng(seed)
    shapes = [(H, D), (H, H), (CLASSES, H), (H,), (CLASSES,), (T, D)]
    return (*(rng.standard_normal(shape) for shape in shapes), rng.integers(0, CLASSES, T))


def test_internal_gradients_and_those_of_the_parameters_are_the_formulas_of_cs760():
    U, W, V, b, c, x, y = classifier(0)
    s, y_hat = [np.zeros(H)], [None]
    for t in range(1, T + 1):
        s.append(np.tanh(b + W @ s[t - 1] + U @ x[t - 1]))
        y_hat.append(softmax(c + V @ s[t]))
    grad_o = [None] + [y_hat[t] - np.eye(CLASSES)[y[t - 1]] for t in range(1, T + 1)]
    grad_s = [None] * T + [grad_o[T] @ V]
    for t in range(T - 1, 0, -1):
        grad_s[t] = grad_s[t + 1] @ np.diag(1 - s[t + 1] ** 2) @ W + grad_o[t] @ V
    d = [None] + [grad_s[t] * (1 - s[t] ** 2) for t in range(1, T + 1)]
    times = range(1, T + 1)
    by_formula = {
        "U": sum(np.outer(d[t], x[t - 1]) for t in times),
        "W": sum(np.outer(d[t], s[t - 1]) for t in times),
        "V": sum(np.outer(grad_o[t], s[t]) for t in times),
        "b": sum(d[t] for t in times),
        "c": sum(grad_o[t] for t in times),
    }

    leaves = {name: tg.Tensor(a, requires_grad=True) for name, a in zip("UWVbc", (U, W, V, b, c), strict=True)}
    h, states, outputs, losses = np.zeros((1, H)), [], [], []
    for t in times:
        h = rnn_step(x[t - 1 : t], h, leaves["U"], leaves["W"], leaves["b"])
        o = F.linear(h, leaves["V"], leaves["c"])
        loss = F.cross_entropy(o, y[t - 1 : t])
        for found, value in ((states, h), (outputs, o), (losses, loss)):
            value.retain_grad()
            found.append(value)
    sum(losses).backward()
    for t in times:
        assert losses[t - 1].grad.item() == 1
        np.testing.assert_allclose(outputs[t - 1].grad.numpy()[0], grad_o[t], rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(states[t - 1].grad.numpy()[0], grad_s[t], rtol=1e-12, atol=1e-14)
    for name, leaf in leaves.items():
        np.testing.assert_allclose(leaf.grad.numpy(), by_formula[name], rtol=1e-12, atol=1e-14, err_msg=name)

    by_hand = rnn_bptt(x[:, None], np.zeros((1, H)), U, W, b, None, np.stack([g @ V for g in grad_o[1:]])[:, None])
    for name, g in (("U", by_hand.w_ih), ("W", by_hand.w_hh), ("b", by_hand.b_ih)):
        np.testing.assert_allclose(g, by_formula[name], rtol=1e-12, atol=1e-14, err_msg=name)


def test_the_deltas_of_graves_unit_by_unit():
    # no biases; w_ih[i][h] leads from unit i to unit h; δ^(T+1) = 0; O is the sum of the losses
    U, W, V, _, _, x, y = classifier(1)
    units, w_ih, w_hh, w_hk = range(H), U.T, W.T, V.T
    b = [np.zeros(H)]
    delta_k = [None]
    for t in range(1, T + 1):
        a = [
            sum(w_ih[i][h] * x[t - 1][i] for i in range(D)) + sum(w_hh[other][h] * b[t - 1][other] for other in units)
            for h in units
        ]
        b.append(np.tanh(a))
        a_k = np.array([sum(w_hk[h][k] * b[t][h] for h in units) for k in range(CLASSES)])
        delta_k.append(softmax(a_k) - np.eye(CLASSES)[y[t - 1]])
    delta = {T + 1: np.zeros(H)}
    for t in range(T, 0, -1):
        delta[t] = np.array(
            [
                (1 - b[t][h] ** 2)
                * (
                    sum(delta_k[t][k] * w_hk[h][k] for k in range(CLASSES))
                    + sum(delta[t + 1][after] * w_hh[h][after] for after in units)
                )
                for h in units
            ]
        )
    g_hs = np.stack([d @ V for d in delta_k[1:]])[:, None]
    by_hand = rnn_bptt(x[:, None], np.zeros((1, H)), U, W, None, None, g_hs)
    for i in units:
        for j in units:
            assert by_hand.w_hh[j, i] == pytest.approx(sum(delta[t][j] * b[t - 1][i] for t in range(1, T + 1)), rel=1e-12)
    for i in range(D):
        for j in units:
            assert by_hand.w_ih[j, i] == pytest.approx(sum(delta[t][j] * x[t - 1][i] for t in range(1, T + 1)), rel=1e-12)


@pytest.mark.parametrize("weight", ["w_x", "w_a"])
def test_each_term_of_the_sum_of_products_of_cs540_is_what_one_copy_of_the_weight_gets(weight: str):
    # one output at the end: dC/dw = Σ_k dC/da_T [Π_(j=k+1..T) da_j/da_(j-1)] ∂a_k/∂w, and the copies of w are used once each
    (xs, a0, w_x, w_a, b, _), direct = problem(7)
    a = [a0[0]]
    for x in xs[:, 0]:
        a.append(np.tanh(w_a @ a[-1] + w_x @ x + b))
    terms = []
    for k in range(1, T + 1):
        row = direct[0, 0]
        for j in range(T, k, -1):
            row = row @ np.diag(1 - a[j] ** 2) @ w_a
        terms.append(np.outer(row * (1 - a[k] ** 2), xs[k - 1, 0] if weight == "w_x" else a[k - 1]))

    copies = [{"w_x": tg.Tensor(w_x, requires_grad=True), "w_a": tg.Tensor(w_a, requires_grad=True)} for _ in range(T)]
    h = a0[:1]
    for x, copy in zip(xs[:, :1], copies, strict=True):
        h = rnn_step(x, h, copy["w_x"], copy["w_a"], b)
    (h * direct[0, 0]).sum().backward()
    for term, copy in zip(terms, copies, strict=True):
        np.testing.assert_allclose(copy[weight].grad.numpy(), term, rtol=1e-12, atol=1e-15)

    g_hs = np.zeros((T, 1, H))
    g_hs[-1] = direct[0, 0]
    shared = rnn_bptt(xs[:, :1], a0[:1], w_x, w_a, b, None, g_hs)
    np.testing.assert_allclose(shared.w_ih if weight == "w_x" else shared.w_hh, sum(terms), rtol=1e-12, atol=1e-14)


def test_the_gradient_of_a_deep_chain_is_the_product_of_its_jacobians_as_cmu_writes_it():
    # Y = f_N(W_(N-1) f_(N-1)(... f_1(W_0 X))),   ∇_(f_k)Div = ∇D ∇f_N W_(N-1) ∇f_(N-1) ... ∇f_(k+1) W_k:   rows
    rng = np.random.default_rng(9)
    sizes, f = [4, 5, 3, 6], [tg.tanh, tg.sigmoid, F.relu]
    W = [rng.standard_normal(shape) for shape in zip(sizes[1:], sizes, strict=False)]
    z, y = [], [tg.tensor(rng.standard_normal(4), requires_grad=True)]
    for k in range(3):
        z.append(W[k] @ y[-1])
        y.append(f[k](z[-1]))
    row = (2 * y[-1]).numpy()  # ∇D of D = Y·Y
    gradients = tg.grad((y[-1] * y[-1]).sum(), y[:-1])
    for k in (2, 1, 0):
        jacobian = tg.jacobian(f[k], z[k].detach()).numpy()
        assert (jacobian[~np.eye(len(jacobian), dtype=bool)] == 0).all()
        row = row @ jacobian @ W[k]
        np.testing.assert_allclose(gradients[k].numpy(), row, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(("f", "steepest"), [(tg.sigmoid, 0.25), (tg.tanh, 1.0), (F.relu, 1.0)], ids=["sigmoid", "tanh", "relu"])
def test_the_jacobian_of_a_nonlinearity_is_bounded_and_the_slope_of_tanh_at_0_is_1(f, steepest: float):
    xs = tg.tensor(np.linspace(-5, 5, 1001), requires_grad=True)
    slopes = tg.grad(f(xs).sum(), xs).numpy()
    assert slopes.max() == steepest and slopes.min() >= 0
    if f is not F.relu:
        assert slopes.argmax() == 500 and (np.delete(slopes, 500) < steepest).all()


def test_the_first_copy_of_the_recurrent_weight_gets_nothing_from_a_state_of_zero():
    (xs, a0, *weights), direct = problem(8)
    zero = np.zeros_like(a0)
    one_step = rnn_bptt(xs[:1], zero, *weights, direct[:1])
    assert (one_step.w_hh == 0).all() and (one_step.w_ih != 0).any()


# ---- The module --------------------------------------------------------------------------------------------------------------------


def rnn(**options) -> nn.RNN:
    return nn.RNN(D, H, rng=0, dtype="float64", **options)


def test_a_two_layer_network_is_the_explicit_double_loop():
    net, (xs, *_) = rnn(num_layers=2), problem()[0]
    out, last = net(xs)
    h = [np.zeros((B, H)), np.zeros((B, H))]
    for t in range(T):
        below = xs[t]
        for layer in range(2):
            below = h[layer] = rnn_step(below, h[layer], *(w.numpy() for w in net.weights(layer)))
        np.testing.assert_allclose(out.numpy()[t], below, rtol=1e-13)
    np.testing.assert_allclose(last.numpy(), np.stack(h), rtol=1e-13)


def test_batch_first_only_moves_axes():
    (xs, *_) = problem()[0]
    out, last = rnn()(xs)
    out_b, last_b = rnn(batch_first=True)(xs.swapaxes(0, 1))
    np.testing.assert_array_equal(out.numpy(), out_b.numpy().swapaxes(0, 1))
    np.testing.assert_array_equal(last.numpy(), last_b.numpy())


def test_carrying_the_state_over_a_cut_changes_no_output():
    net, (xs, *_) = rnn(num_layers=2), problem()[0]
    out, last = net(xs)
    first, h = net(xs[:2])
    second, h = net(xs[2:], h.detach())
    np.testing.assert_array_equal(out.numpy(), np.concatenate([first.numpy(), second.numpy()]))
    np.testing.assert_array_equal(last.numpy(), h.numpy())


def test_lengths_hold_in_every_layer_and_direction():
    net, (xs, *_) = rnn(num_layers=2, bidirectional=True), problem()[0]
    lengths = [T, 2, 0]
    out, last = net(xs, lengths=lengths)
    for b, length in enumerate(lengths):
        assert (out.numpy()[length:, b] == 0).all()
        if length:
            single, h = net(xs[:length, b : b + 1])
            np.testing.assert_allclose(out.numpy()[:length, b], single.numpy()[:, 0], rtol=1e-12)
            np.testing.assert_allclose(last.numpy()[:, b], h.numpy()[:, 0], rtol=1e-12)
        else:
            assert (last.numpy()[:, b] == 0).all()


@pytest.mark.torch
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"nonlinearity": "relu"},
        {"num_layers": 3},
        {"bias": False},
        {"batch_first": True, "num_layers": 2},
        {"bidirectional": True, "num_layers": 2},
    ],
    ids=str,
)
@pytest.mark.parametrize("with_state", [False, True])
def test_the_module_equals_pytorch_in_outputs_states_and_all_gradients(options: dict, with_state: bool):
    torch = pytest.importorskip("torch", reason="compares with PyTorch")
    ours, theirs = rnn(**options), torch.nn.RNN(D, H, dtype=torch.float64, **options)
    theirs.load_state_dict({name: torch.from_numpy(a) for name, a in ours.state_dict().items()})
    rows = options.get("num_layers", 1) * (2 if options.get("bidirectional") else 1)
    rng = np.random.default_rng(6)
    x, h = rng.standard_normal((T, B, D)), rng.standard_normal((rows, B, H))
    x = x.swapaxes(0, 1) if options.get("batch_first") else x
    a_x, a_h = tg.Tensor(x, requires_grad=True), tg.Tensor(h, requires_grad=True)
    b_x, b_h = torch.tensor(x, requires_grad=True), torch.tensor(h, requires_grad=True)

    a_out, a_last = ours(a_x, a_h) if with_state else ours(a_x)
    b_out, b_last = theirs(b_x, b_h) if with_state else theirs(b_x)
    np.testing.assert_allclose(a_out.numpy(), b_out.detach().numpy(), atol=1e-9)
    np.testing.assert_allclose(a_last.numpy(), b_last.detach().numpy(), atol=1e-9)

    weight = rng.standard_normal(a_out.shape)
    ((a_out * weight).sum() + (a_last * a_last).sum()).backward()
    ((b_out * torch.tensor(weight)).sum() + (b_last * b_last).sum()).backward()
    pairs = [(a_x, b_x)] + ([(a_h, b_h)] if with_state else [])
    for a, b in pairs + [(p, theirs.get_parameter(name)) for name, p in ours.named_parameters()]:
        np.testing.assert_allclose(a.grad.numpy(), b.grad.numpy(), rtol=1e-9, atol=1e-9)


@pytest.mark.torch
def test_a_state_dict_of_pytorch_loads_by_name():
    torch = pytest.importorskip("torch", reason="compares with PyTorch")
    theirs, ours = torch.nn.RNN(D, H, num_layers=2, bidirectional=True), nn.RNN(D, H, num_layers=2, bidirectional=True)
    ours.load_state_dict(theirs.state_dict())
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for name, a in theirs.state_dict().items():
        np.testing.assert_array_equal(ours.state_dict()[name], a.numpy())


def test_parameters_start_uniform_within_one_over_the_root_of_h():
    net = nn.RNN(30, 100, num_layers=2, rng=0)
    for p in net.parameters():
        a = p.numpy()
        assert np.abs(a).max() <= 0.1
        assert a.std() == pytest.approx(0.1 / np.sqrt(3), rel=0.2)
        assert a.dtype == np.float32


def test_the_same_seed_gives_the_same_network_and_its_layers_differ():
    a, b = (nn.RNN(H, H, num_layers=2, rng=7) for _ in range(2))
    for x, y in zip(a.parameters(), b.parameters(), strict=True):
        np.testing.assert_array_equal(x.numpy(), y.numpy())
    assert (a.weight_hh_l0.numpy() != a.weight_hh_l1.numpy()).any()


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: rnn()(np.zeros((T, B, D + 1))), ShapeError, r"xs must be \(T, B, D\) with D = 4, got \(6, 3, 5\)"),
        (lambda: rnn()(np.zeros((T, D + 1))), ShapeError, r"(?s)got \(6, 5\).*or \(T, D\) without a batch"),
        (lambda: rnn()(np.zeros((T, D)), lengths=[2]), ShapeError, r"(?s)without a batch.*xs\[:length\]"),
        (lambda: rnn(batch_first=True)(np.zeros((B, T, 1))), ShapeError, r"\(B, T, D\)"),
        (
            lambda: rnn()(np.zeros((T, B, D)), np.zeros((B, H))),
            ShapeError,
            r"state must be \(L, B, H\) = \(1, 3, 5\), got \(3, 5\)",
        ),
        (lambda: rnn(nonlinearity="sigmoid"), ArgumentError, "'tanh' or 'relu'"),
        (lambda: rnn()(np.zeros((T, B, D)), lengths=[1, 2]), ShapeError, "lengths"),
        (
            lambda: rnn_step(np.zeros((B, D)), np.zeros((B, H)), np.zeros((H, D)), np.zeros((H, H)), nonlinearity="x"),
            ArgumentError,
            "tanh",
        ),
    ],
)
def test_wrong_calls_say_what_was_expected(call, error, says):
    with pytest.raises(error, match=says):
        call()


# ---- On the tape ---------------------------------------------------------------------------------------------------------------------


@tg.unfolded
def test_every_layer_has_its_own_times_on_the_tape():
    net = rnn(num_layers=2, bidirectional=True)
    out, _ = net(problem()[0][0])
    found = {}
    for node in tg.toposort([out]):
        if node.prim is not None and node.prim.name == "tanh":
            found.setdefault(node.frame.parent.owner, []).append(node.frame.time)
            assert node.frame.path()[0].owner is net
    up, down = list(range(1, T + 1)), list(range(T, 0, -1))
    assert found == {"layer 0": up, "layer 0_reverse": down, "layer 1": up, "layer 1_reverse": down}


@tg.unfolded
def test_the_terms_of_one_weight_by_time_add_up_to_its_gradient():
    net, (args, weight) = rnn(), problem()
    out, _ = net(args[0])
    loss = (out * weight).sum()
    w = net.weight_hh_l0
    terms = {}
    for node, _, contributions in tg.steps_of_backward(loss, targets={w.node: {0: None}}):
        for argument, term in zip(node.args, contributions, strict=False):
            if argument is w.node:
                assert node.frame.time not in terms
                terms[node.frame.time] = term
    assert sorted(terms) == list(range(1, T + 1))
    assert (terms[1] == 0).all()  # h_0 = 0
    loss.backward()
    np.testing.assert_allclose(sum(terms.values()), w.grad.numpy(), rtol=1e-12, atol=1e-14)


@tg.unfolded
def test_the_gradient_of_a_weight_over_time_is_multiplied_in_few_products(monkeypatch):
    # x @ W.T makes a transposed weight and a product of its own at every step; `linear` leaves the products to be done together
    rng = np.random.default_rng(0)
    xs, h0 = rng.standard_normal((200, 16, 3)), np.zeros((16, 4))
    ws = [tg.Tensor(0.1 * rng.standard_normal(shape), requires_grad=True) for shape in [(4, 3), (4, 4), (4,), (4,)]]
    multiply, products = products_module._Product.sum_of, []
    monkeypatch.setattr(products_module._Product, "sum_of", lambda parts, like: products.append(parts) or multiply(parts, like))

    def transposing(x, h, w_ih, w_hh, b_ih, b_hh):
        return tg.tanh(x @ w_ih.T + b_ih + h @ w_hh.T + b_hh)

    def gradients(step):
        products.clear()
        found = tg.grad(scan(step, xs, h0, ws)[1].sum(), ws)
        return [g.numpy() for g in found], len(products)

    together, few = gradients(rnn_step)
    each, many = gradients(transposing)
    assert (few, many) == (2 * 4, 2 * 200)  # two weights; a thousand rows at a time: 61 steps of 16
    for g, expected in zip(together, each, strict=True):
        np.testing.assert_allclose(g, expected, rtol=1e-10, atol=1e-12)


# ---- On a device -----------------------------------------------------------------------------------------------------------------------


def test_training_on_a_device_gives_the_numbers_of_the_host(device_xp):
    class Model(nn.Module):
        def __init__(self):
            self.embed, self.rnn, self.score = nn.Embedding(7, D, rng=0), nn.RNN(D, H, num_layers=2, rng=1), nn.Linear(H, 7, rng=2)

        def forward(self, ids, lengths):
            hs, _ = self.rnn(self.embed(ids), lengths=lengths)
            return self.score(hs)

    def train(device: str) -> list[np.ndarray]:
        model = Model().to(device=device, dtype="float64")
        assert {p.device.partition(":")[0] for p in model.parameters()} == {device}
        adam = optim.Adam(model.parameters(), lr=0.1)
        rng = np.random.default_rng(3)
        for _ in range(3):
            ids = rng.integers(0, 7, (T + 1, B))
            loss = F.cross_entropy(model(ids[:-1], [T, 2, 0]), ids[1:])
            adam.zero_grad()
            loss.backward()
            optim.clip_grad_norm_(model.parameters(), 0.5)
            optim.clip_grad_value_(model.parameters(), 0.2)
            adam.step()
        return list(model.state_dict().values())

    device = next(name for name, module in backend._devices.items() if module is device_xp)
    for a, b in zip(train("cpu"), train(device), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14)


def test_bptt_by_hand_reads_the_arrays_of_tensors():
    args, weight = problem()
    of_tensors = rnn_bptt(*(tg.Tensor(a, requires_grad=True) for a in (*args, weight)))
    for a, b in zip(rnn_bptt(*args, weight), of_tensors, strict=True):
        assert type(b) is np.ndarray and (a == b).all()


def test_bptt_by_hand_runs_on_a_device(device_xp):
    args, weight = problem()
    on_host = rnn_bptt(*args, weight)
    on_device = rnn_bptt(*(device_xp.asarray(a) for a in args), device_xp.asarray(weight))
    for a, b in zip(on_host, on_device, strict=True):
        np.testing.assert_allclose(a, b.get(), rtol=1e-12, atol=1e-14)


# ---- Long sequences, many steps --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_hundred_thousand_steps_differentiate_as_by_hand_and_are_freed_without_the_garbage_collector():
    rng = np.random.default_rng(4)
    net = nn.RNN(2, 3, rng=0, dtype="float64")
    xs = rng.standard_normal((100_000, 1, 2))
    net(xs[:3])[0].mean().backward()  # the first use of a rule reads its code
    net.zero_grad()
    gc.collect()
    gc.disable()
    try:
        hs, _ = net(xs)
        hs.mean().backward()
        ws = [w.numpy() for w in net.weights(0)]
        by_hand = rnn_bptt(xs, np.zeros((1, 3)), *ws, np.full(hs.shape, 1 / hs.size))
        del hs
        assert gc.collect() == 0
    finally:
        gc.enable()
    for p, g in zip(net.weights(0), by_hand[2:], strict=True):
        np.testing.assert_allclose(p.grad.numpy(), g, rtol=1e-9, atol=1e-12)


def test_training_leaves_nothing_for_the_garbage_collector():
    net, score = nn.RNN(D, H, num_layers=2, rng=0), nn.Linear(H, 7, rng=1)
    adam = optim.Adam([*net.parameters(), *score.parameters()])
    rng, h = np.random.default_rng(5), None

    def step(h):
        hs, h = net(rng.standard_normal((T, B, D)).astype("float32"), h)
        adam.zero_grad()
        F.cross_entropy(score(hs), rng.integers(0, 7, (T, B))).backward()
        optim.clip_grad_norm_(adam.parameters, 0.1)
        adam.step()
        return h.detach()

    h = step(h)
    gc.collect()
    gc.disable()
    try:
        for _ in range(20):
            h = step(h)
        assert gc.collect() == 0
    finally:
        gc.enable()
