"""Derivative rules as text: what a text says is computed, and compared with what the code does."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.special
from hypothesis import HealthCheck, Phase, given, settings
from op_table import Case, Row, rows

import tinygrad_seq as tg
from tinygrad_seq import ops
from tinygrad_seq.bptt import rule
from tinygrad_seq.bptt.rule_examples import DATA, EXAMPLES, WRITTEN
from tinygrad_seq.bptt.rules import Example, example_of
from tinygrad_seq.errors import ArgumentError, GraphError
from tinygrad_seq.nn import functional as F
from tinygrad_seq.primitives import Primitive

# ---- Reading a text: what it says, in NumPy --------------------------------------------------------------------------------------------

SIGNS = [
    ("⊙", "*"), ("²", "**2"), ("^T", ".mT"), ("^", "**"), ("σ(", "expit("), ("≤", "<="), ("≥", ">="), ("≠", "!="), (" = ", " == "), (" and ", " & "),
    (" or ", " | "), ("1/√(2π)", repr(float(1 / np.sqrt(2 * np.pi)))), ("2/√π", repr(float(2 / np.sqrt(np.pi)))), ("÷", "/safe/"), (", [", ", s_["),
    *((low, str(digit)) for digit, low in enumerate("₀₁₂₃₄₅₆₇₈₉")),
]  # fmt: skip


def python_of(text: str) -> str:
    """The text of a rule as an expression of Python. A product of matrices, `a b`, binds tighter than ⊙: not so @."""
    for sign, other in SIGNS:
        text = text.replace(sign, other)
    text = re.sub(r"(?<![\w.])1\[", "one[", text)
    text = re.sub(r"(?<=[\w)\]]) (?=[\w(])", " @ ", text)
    flat = text.replace("**", "^")
    while "(" in flat:
        flat = re.sub(r"\([^()]*\)", "", flat)
    assert not re.search(r"\*[^-+*/,]*@", flat), text
    return text


class Safe:
    """a /safe/ b: the quotient, and 0 where b is 0."""

    __array_ufunc__ = None

    def __init__(self, a: Any = None):
        self.a = a

    def __rtruediv__(self, a: Any) -> Safe:
        return Safe(a)

    def __truediv__(self, b: Any) -> Any:
        return np.where(b == 0, 0, self.a / np.where(b == 0, 1, b))


class One:
    """1[condition]."""

    def __getitem__(self, condition: Any) -> Any:
        return condition.astype(float)


def add_at(x: Any, key: Any, v: Any) -> Any:
    np.add.at(x, key, v)
    return x


def sum_to(x: Any, shape: tuple[int, ...]) -> Any:
    """By the definition: the transpose of broadcasting."""
    out = np.zeros(shape)
    where = np.broadcast_to(np.arange(out.size).reshape(shape), x.shape)
    np.add.at(out.reshape(-1), where.reshape(-1), x.reshape(-1))
    return out


def add_along_axis(x: Any, indices: Any, v: Any, axis: int) -> Any:
    for place in np.ndindex(indices.shape):
        at = list(place)
        at[axis] = indices[place]
        x[tuple(at)] += v[place]
    return x


def on_diagonal(v: Any, shape: tuple[int, ...]) -> Any:
    return np.diag(v)


def middle(x: Any, axis: int) -> Any:
    order = x.argsort(axis).argsort(axis)
    n = x.shape[axis]
    return 0.5 * ((order == (n - 1) // 2) * 1.0 + (order == n // 2))


def others(x: Any, axis: int) -> Any:
    return np.stack([np.delete(x, k, axis).prod(axis) for k in range(x.shape[axis])], axis)


def cofactors(x: Any) -> Any:
    n = len(x)
    minor = [[np.linalg.det(np.delete(np.delete(x, i, 0), j, 1)) for j in range(n)] for i in range(n)]
    return np.array([[(-1) ** (i + j) * minor[i][j] for j in range(n)] for i in range(n)])


def windows(size: tuple[int, ...], kernel: tuple[int, ...], stride: tuple[int, ...]) -> Any:
    """For each place of a window its indices in the array."""
    counts = [(n - k) // s + 1 for n, k, s in zip(size, kernel, stride, strict=True)]
    for place in itertools.product(*map(range, counts)):
        yield place, tuple(slice(p * s, p * s + k) for p, s, k in zip(place, stride, kernel, strict=True))


def conv(x: Any, w: Any, b: Any) -> Any:
    y = np.zeros((len(x), len(w), *(n - k + 1 for n, k in zip(x.shape[2:], w.shape[2:], strict=True))))
    for place, window in windows(x.shape[2:], w.shape[2:], (1,) * (w.ndim - 2)):
        y[:, :, *place] = np.tensordot(x[:, :, *window], w, (range(1, w.ndim), range(1, w.ndim)))
    return y if b is None else y + b.reshape(-1, *[1] * (w.ndim - 2))


def conv_transpose(g: Any, w: Any, size: tuple[int, ...]) -> Any:
    x = np.zeros((len(g), w.shape[1], *size))
    for place, window in windows(size, w.shape[2:], (1,) * (w.ndim - 2)):
        x[:, :, *window] += np.tensordot(g[:, :, *place], w, (1, 0))
    return x


def conv_weight(x: Any, g: Any, kernel: tuple[int, ...]) -> Any:
    w = np.zeros((g.shape[1], x.shape[1], *kernel))
    for place, window in windows(x.shape[2:], kernel, (1,) * len(kernel)):
        w += np.tensordot(g[:, :, *place], x[:, :, *window], (0, 0))
    return w


def window_sum(x: Any, kernel: tuple[int, ...], stride: tuple[int, ...]) -> Any:
    y = np.zeros((*x.shape[:2], *((n - k) // s + 1 for n, k, s in zip(x.shape[2:], kernel, stride, strict=True))))
    for place, window in windows(x.shape[2:], kernel, stride):
        y[:, :, *place] = x[:, :, *window].sum(axis=tuple(range(2, x.ndim)))
    return y


def window_spread(g: Any, size: tuple[int, ...], kernel: tuple[int, ...], stride: tuple[int, ...]) -> Any:
    x = np.zeros((*g.shape[:2], *size))
    for place, window in windows(size, kernel, stride):
        x[:, :, *window] += g[:, :, *place][(..., *[None] * len(size))]
    return x


def max_pool(x: Any, kernel: tuple[int, ...], stride: tuple[int, ...]) -> Any:
    y = np.zeros((*x.shape[:2], *((n - k) // s + 1 for n, k, s in zip(x.shape[2:], kernel, stride, strict=True))))
    for place, window in windows(x.shape[2:], kernel, stride):
        y[:, :, *place] = x[:, :, *window].max(axis=tuple(range(2, x.ndim)))
    return y


def unpool_into(x: Any) -> Callable[..., Any]:
    def unpool(g: Any, winner: Any, size: tuple[int, ...], kernel: tuple[int, ...], stride: tuple[int, ...]) -> Any:
        out = np.zeros_like(x)
        for place, window in windows(size, kernel, stride):
            for n, c in np.ndindex(x.shape[:2]):
                seen = x[n, c][window]
                at = np.unravel_index(seen.argmax(), seen.shape)
                out[n, c][window][at] += g[n, c][place]
        return out

    return unpool


def occupancy(log_probs: Any, targets: Any) -> tuple[Any, Any]:
    """By counting all paths: which share of them goes through (time, symbol), and the probability of all."""
    T, _, C = log_probs.shape
    share, total = np.zeros(log_probs.shape), 0.0
    for path in itertools.product(range(C), repeat=T):
        if [k for k, _ in itertools.groupby(path) if k != 0] == targets[0].tolist():
            p = np.exp(sum(log_probs[t, 0, k] for t, k in enumerate(path)))
            total += p
            for t, k in enumerate(path):
                share[t, 0, k] += p
    return share / total, total


def index_put(x: Any, v: Any, key: Any) -> Any:
    x = x.copy()
    x[key] = v
    return x


def index_add(x: Any, v: Any, key: Any) -> Any:
    x = x.copy()
    x[key] += v
    return x


WORDS: dict[str, Any] = {
    **{name: getattr(np, name) for name in dir(np) if not name.startswith("_")},
    **{f.__name__: f for f in (add_at, sum_to, add_along_axis, on_diagonal, middle, others, cofactors, conv_transpose, conv_weight)},
    **{f.__name__: f for f in (window_sum, window_spread, index_put, index_add)},
    **{name: getattr(np.linalg, name) for name in ("inv", "det", "slogdet", "solve", "cholesky")},
    **{name: getattr(scipy.special, name) for name in ("expit", "erf", "logsumexp")},
    "softmax": lambda x, axis=-1: scipy.special.softmax(x, axis), "log_softmax": lambda x, axis=-1: scipy.special.log_softmax(x, axis),
    "safe": Safe(), "one": One(), "s_": np.s_, "conv": conv, "conv1d": conv, "conv2d": conv, "max_pool1d": lambda x, kernel_size: max_pool(x, (kernel_size,), (kernel_size,)),
    "max_pool2d": lambda x, kernel_size: max_pool(x, (kernel_size,) * 2, (kernel_size,) * 2),
    "abs": np.abs, "sum": np.sum, "max": np.max, "min": np.min, "all": np.all, "any": np.any, "round": np.round, "pow": np.power,
    "norm": np.linalg.norm, "astype": lambda x, dtype: x.astype(dtype), "float64": float,
    "unstack": lambda x: tuple(x), "masked_fill": lambda x, m, v: np.where(m, v, x), "embedding": lambda ids, w: w[ids],
    "dropout": np.multiply, "sum_over_places": lambda g: g.sum(axis=(0, *range(2, g.ndim))), "one_hot": lambda i, n: np.eye(n)[i],
    "conv_transpose1d": lambda x, w: conv_transpose(x, w, (x.shape[2] + w.shape[2] - 1,)),
    "conv_transpose2d": lambda x, w: conv_transpose(x, w, (x.shape[2] + w.shape[2] - 1, x.shape[3] + w.shape[3] - 1)),
    "normal_cdf": scipy.special.ndtr, "gelu": lambda x: x * scipy.special.ndtr(x), "silu": lambda x: x * scipy.special.expit(x),
    "softplus": lambda x: np.log1p(np.exp(x)), "mish": lambda x: x * np.tanh(np.log1p(np.exp(x))), "relu": lambda x: np.maximum(x, 0),
    "leaky_relu": lambda x: np.where(x > 0, x, 0.01 * x), "prelu": lambda x, w: np.where(x > 0, x, w * x),
    "elu": lambda x, alpha=1.0: np.where(x > 0, x, alpha * np.expm1(x)), "logsigmoid": lambda x: np.log(scipy.special.expit(x)),
    "hardtanh": lambda x, min_val=-1.0, max_val=1.0: np.clip(x, min_val, max_val), "hardswish": lambda x: x * np.clip(x + 3, 0, 6) / 6,
    "relu6": lambda x: np.clip(x, 0, 6),
    "binary_surprise": lambda p, t: -(t * np.log(p) + (1 - t) * np.log(1 - p)),
}  # fmt: skip


def say(text: str, names: dict[str, Any]) -> Any:
    """What a text says, computed."""
    return eval(python_of(text), {**WORDS, **names})


# ---- Every op -----------------------------------------------------------------------------------------------------------------------------

NOT_OPS = {"write"}  # in place, nothing is recorded
POSITIVE = {
    "log",
    "log2",
    "log10",
    "log1p",
    "sqrt",
    "power",
    "reciprocal",
    "binary_cross_entropy",
    "prod",
    "arctanh",
    "arcsin",
    "arccos",
}
SPECIAL = {"to_device"}


def public_ops() -> list[str]:
    of_ops = [name for name, f in vars(ops).items() if callable(f) and not name.startswith("_") and not isinstance(f, type)]
    of_linalg = ["linalg." + name for name in ("inv", "det", "slogdet", "solve", "cholesky", "norm")]
    return sorted({*of_ops, *of_linalg} - NOT_OPS)


def functional_ops() -> list[str]:
    """The functions of nn.functional that are primitives, and all that have an example."""
    of_primitives = [name for name, f in vars(F).items() if isinstance(getattr(f, "primitive", None), Primitive)]
    return sorted({*of_primitives, *(name for name in EXAMPLES if callable(vars(F).get(name)))})


EVERY = [*public_ops(), *("F." + name for name in functional_ops())]


def function_of(name: str) -> Callable[..., Any]:
    *place, name = name.split(".")
    return getattr({"linalg": ops.linalg, "F": F}[place[0]] if place else ops, name)


def other_numbers(name: str, example: Example, rng: np.random.Generator) -> Example:
    """The same call with other numbers than those that the text was read off."""
    name = name.rpartition(".")[2]

    def drawn(a: Any) -> Any:
        if not isinstance(a, np.ndarray) or a.dtype.kind != "f":
            return a
        if a.shape == (3, 3):
            return a + 0.05 * (b := rng.standard_normal(a.shape)) + 0.05 * b.T
        if name == "arccosh":
            return rng.uniform(1.2, 2, a.shape)
        if name == "ctc_loss":
            return np.log(rng.dirichlet(np.ones(a.shape[-1]), a.shape[:-1]))
        return rng.uniform(0.1, 0.9, a.shape) * (1 if name in POSITIVE else rng.choice([-1, 1], a.shape))

    return example._replace(
        arguments=[drawn(a) for a in example.arguments], params={k: drawn(a) for k, a in example.params.items()}
    )


def of_the_code(
    function: Callable[..., Any], example: Example, data: tuple[str, ...], seed: int
) -> tuple[Any, Any, dict[str, Any]]:
    """y, a cotangent for it and the gradient of every argument, as the tape has them."""
    leaves = {
        label: tg.Tensor(a, requires_grad=label not in data, dtype="float64")
        for label, a in example.given()
        if isinstance(a, np.ndarray) and a.dtype.kind == "f"
    }
    call = example._replace(
        arguments=[leaves.get(label, a) for label, a in zip(example.names, example.arguments, strict=True)],
        params={k: leaves.get(k, a) for k, a in example.params.items()},
    )
    y = call.call(function)
    outs = [o for o in (y if isinstance(y, tuple) else (y,)) if isinstance(o, tg.Tensor) and o.node is not None]
    if not outs:
        return y, None, {}
    gs = [np.random.default_rng(seed).standard_normal(o.shape).astype(o.dtype) for o in outs]
    wanted = {label: x for label, x in leaves.items() if x.requires_grad}
    found = tg.grad(outs, list(wanted.values()), gs, allow_unused=True)
    return y, gs, {label: g.numpy() for label, g in zip(wanted, found, strict=True) if g is not None}


def spoken(name: str, example: Example, y: Any, gs: Any) -> dict[str, Any]:
    """What the letters of a text stand for."""
    letters: dict[str, Any] = {label.translate(str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")): a for label, a in example.given()}
    ys = [np.asarray(o) for o in y] if isinstance(y, tuple) else [y.numpy()]
    letters |= {"y": ys[0], "g": gs[0], "eps": np.finfo(float).eps}
    letters |= {f"y{k}": o for k, o in enumerate(ys, 1)} | {f"g{k}": g for k, g in enumerate(gs, 1)}
    if name == "ctc_loss":
        letters["occupancy"], letters["p"] = occupancy(letters["log_probs"], letters["targets"])
    if name.startswith("max_pool"):
        letters |= {"winner": None, "unpool": unpool_into(letters["x"])}
    if name == "dropout":
        letters["mask"] = np.where(ys[0] == 0, 0, ys[0] / np.where(ys[0] == 0, 1, letters["x"]))
    return letters


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("seed", [1, 2])
def test_what_the_text_of_a_rule_says_is_what_the_code_does(name: str, seed: int) -> None:
    function, short = function_of(name), name.rpartition(".")[2]
    told = rule(name)
    if short in SPECIAL:
        assert told.gradients == {"x": "to_device(g, device of x)"}
        return
    example = other_numbers(name, example_of(short, function), np.random.default_rng(seed))
    data = tuple(label for label in DATA if label in example.names and label not in told.gradients)
    y, gs, gradients = of_the_code(function, example, data, seed)
    assert set(told.gradients) == set(gradients), "every argument with a gradient has its line, and no other"
    if not gradients:
        assert str(told).endswith("no gradient")
        return
    letters = spoken(short, example, y, gs)
    for word, text in told.where.items():
        if short in WRITTEN and word in WRITTEN[short][2] and word not in letters and word != "÷":
            letters[word] = say(text, letters)
    if short in ("topk",):
        y = y[0]
    said = say(told.forward, letters)
    for mine, theirs in zip(said if isinstance(y, tuple) else [said], y if isinstance(y, tuple) else [y], strict=True):
        np.testing.assert_allclose(mine, theirs.numpy(), rtol=1e-5, atol=1e-7)
    for label, text in told.gradients.items():
        exact = np.broadcast_to(say(text, letters), gradients[label].shape)
        np.testing.assert_allclose(exact, gradients[label], rtol=2e-5, atol=1e-6, err_msg=f"dL/d{label} = {text}")


def test_every_op_of_the_package_is_among_them() -> None:
    assert len(EVERY) > 150
    assert {"tanh", "einsum", "getitem", "linalg.cholesky", "F.softmax", "F.gelu", "F.layer_norm", "F.cross_entropy"} <= set(EVERY)


# ---- Nodes of a tape, ops of one's own, what is no op --------------------------------------------------------------------------------------


def test_a_node_is_shown_with_its_own_parameters_and_broadcasting() -> None:
    x, b = tg.tensor([[1.0, 2.0, 3.0]] * 2, requires_grad=True), tg.tensor([1.0, 2.0, 3.0], requires_grad=True)
    assert rule(x + b).gradients == {"a": "g", "b": "sum_to(g, b.shape)"}
    assert rule(x**3).gradients == {"a": "g ⊙ (3 ⊙ a²)"}
    assert rule(F.softmax(x, axis=0)).forward == "softmax(x, axis=0)"
    assert rule(x[:, 1:].node).gradients == {"x": "add_at(zeros(x.shape), [:, 1:], g)"}


@pytest.mark.parametrize("f", [
    lambda x: F.layer_norm(x, 4), lambda x: tg.logsumexp(x, axis=0), lambda x: x[1:, ::2], lambda x: tg.var(x, axis=0), lambda x: x**2.5,
    lambda x: tg.maximum(x, 1.0), lambda x: tg.stack([x, x])[1], lambda x: F.scaled_dot_product_attention(x, x, x), lambda x: x / x[:1],
    lambda x: tg.std(x), lambda x: tg.max(x, axis=0), lambda x: tg.linalg.norm(x), lambda x: tg.pad(x, 2),
], ids=str)  # fmt: skip
def test_the_text_of_a_node_says_what_its_rule_sends(f: Callable[..., Any]) -> None:
    rng = np.random.default_rng(3)
    y = f(tg.Tensor(rng.uniform(0.5, 2, (3, 4)), requires_grad=True))
    told, g = rule(y), rng.standard_normal(y.shape)
    arrays = [tg.graph.value_of(a) for a in y.node.args]
    labels = y.node.prim.names if y.node.prim.arrays < 9 else [f"x{k}" for k in range(1, len(arrays) + 1)]
    leaves = [tg.Tensor(a, requires_grad=True) if isinstance(a, np.ndarray) else a for a in arrays]
    again = y.node.prim.call(*leaves, **y.node.params)
    sent = tg.grad(again, [x for x in leaves if isinstance(x, tg.Tensor)], g)
    letters = {**dict(zip(labels, arrays, strict=False)), "y": y.numpy(), "g": g}
    for letter, text in told.where.items():
        letters |= {letter: say(text, letters)} if len(letter) == 1 and letter.isalpha() else {}
    for text, theirs in zip(told.gradients.values(), sent, strict=True):
        np.testing.assert_allclose(np.broadcast_to(say(text, letters), theirs.shape), theirs.numpy(), rtol=2e-5, atol=1e-6)


def test_the_text_is_read_off_the_code_also_where_the_code_is_wrong() -> None:
    @tg.primitive
    def cube(x: Any) -> Any:
        return x * x * x

    tg.defvjp(cube, lambda g, y, x: 2 * g * x * x)
    assert str(rule(cube)) == "y = cube(x);  dL/dx = 2 ⊙ g ⊙ x ⊙ x"
    tg.defvjp(cube, lambda g, y, x: 3 * g * x * x)
    assert rule(cube).gradients == {"x": "3 ⊙ g ⊙ x ⊙ x"}


def test_the_rules_of_the_notes_read_as_the_notes_have_them() -> None:
    assert str(rule("tanh")) == "y = tanh(x);  dL/dx = g ⊙ (1 - y²)"
    assert rule("sigmoid").gradients == {"x": "g ⊙ (y - y²)"}
    assert str(rule(np.tanh)) == str(rule("tanh")) and str(rule(np.linalg.inv)) == str(rule("linalg.inv"))
    assert rule(tg.matmul).gradients == {"a": "g b^T", "b": "a^T g"}
    assert rule(F.rnn_step).gradients["w_hh"] == "(g ⊙ (1 - y²))^T h"
    assert rule("cross_entropy").gradients == {"logits": "g ⊙ (softmax(logits, axis=-1) - t) / N"}


@pytest.mark.parametrize(("op", "kind", "says"), [
    ("tanhh", ArgumentError, "no op is called"), (3, ArgumentError, "int is no op"), ("write", ArgumentError, "no rule of its own"),
    ("lstm_step", ArgumentError, "rule(y)"), (tg.tensor(1.0), GraphError, "constant"),
    (tg.tensor(1.0, requires_grad=True), GraphError, "a leaf is no op"),
    (tg.nn.RNN(2, 3)(np.zeros((4, 1, 2), "float32"))[0], GraphError, "explain(loss, W)"),
])  # fmt: skip
def test_what_is_no_op_is_refused_with_what_to_do(op: Any, kind: type[Exception], says: str) -> None:
    with pytest.raises(kind, match=re.escape(says)):
        rule(op)


@pytest.mark.slow
@pytest.mark.parametrize("row", rows(), ids=str)
def test_the_nodes_of_every_row_of_the_op_table_have_a_text(row: Row) -> None:
    @settings(max_examples=5, phases=[Phase.generate], deadline=None, suppress_health_check=list(HealthCheck))
    @given(row.cases)
    def tell(case: Case) -> None:
        args = [tg.Tensor(a, requires_grad=True) if isinstance(a, np.ndarray) and a.dtype == float else a for a in case.args]
        with np.errstate(all="ignore"):
            y = row.call(row.op, case._replace(args=tuple(args)))
        y = y[0] if isinstance(y, tuple) else y
        if isinstance(y, tg.Tensor) and y.node is not None and y.node.prim is not None:
            told = rule(y)
            assert told.gradients and str(told).startswith(told.output)

    tell()
