"""The derivative rule of any op as text, read off what the rule itself does.

    print(rule("tanh"))            y = tanh(x);  dL/dx = g ⊙ (1 - y²)
    print(rule(loss.node))         the same for a node of a tape, with its own parameters and shapes

Rules are written in the language that arrays and Tensors share, so a rule that is called on Tensors leaves a tape of its own, and that tape is
what is printed here: a text cannot say anything else than the code does. Where a rule is a kernel, the derivative is that of the
equation which the kernel equals; the few rules that are loops in disguise are `written`, and the tests hold them to the code's numbers.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from .. import ops
from ..autodiff import grad
from ..backend import is_array
from ..compile import trace as tracing
from ..compile.adjoint import Step, factored
from ..compile.expressions import Op
from ..errors import ArgumentError, GraphError, message
from ..frames import enable_grad, mode
from ..graph import MultiNode, Node, Output, Value, box, leaf, raw, require_recorded, value_of
from ..nn import functional
from ..primitives import Deferred, Primitive
from ..scan import time_loop
from .rule_examples import DATA, EXAMPLES, WRITTEN
from .rule_text import GLOSSARY, LISTED, Writer, below, stated

LONGEST = 110  # of one line


@dataclass(frozen=True)
class Rule:
    """An op and what its derivative sends to each argument, as text.

    forward: the op as a formula of its arguments. gradients: for each argument that has one the formula of dL/d(argument) in g, the
    gradient that arrives, y, the output, and the arguments. where: what the formulas abbreviate. origin: of the texts, the op's own "rule", the
    "equation" of a kernel or composition, "written" by hand; "constant" where there is no gradient.
    """

    name: str
    forward: str
    gradients: dict[str, str]
    output: str = "y"
    where: dict[str, str] = field(default_factory=dict)
    origin: str = "rule"

    def __str__(self) -> str:
        parts = [f"{self.output} = {self.forward}", *(f"dL/d{name} = {text}" for name, text in self.gradients.items())]
        parts += [] if self.gradients else ["no gradient"]
        line = ";  ".join(parts)
        lines = [line] if len(line) <= LONGEST else parts
        width = max(map(len, self.where), default=0)
        return "\n".join([*lines, *(f"    {name:<{width}}  {text}" for name, text in self.where.items())])

    def __repr__(self) -> str:
        return str(self)


def rule(op: Any) -> Rule:
    """The derivative rule of an op as text.

        rule("tanh")       rule(tg.tanh)       rule("linalg.inv")       rule(F.softmax)       rule(y), rule(y.node) of a recorded y

    ⊙ is the product element by element, a b that of matrices, ^T exchanges the last two axes. An op by its name is shown on a small example,
    with the parameters of the example. A node is shown as it was recorded; where an argument was broadcast, its gradient is summed back.

    Raises ArgumentError for a name that no op has, GraphError for a constant or a leaf.
    """
    if isinstance(op, (Value, Node)):
        node = require_recorded(op, "rule") if isinstance(op, Value) else op
        if node.prim is None:
            raise GraphError(message("rule: a leaf is no op", expected="a tensor that an op made", do="rule(y) for y = f(x)"))
        if time_loop(node):
            raise GraphError(
                message(
                    "rule: a whole time loop is no single op",
                    expected="an op",
                    do="bptt.explain(loss, W) prints its derivation; inside tg.unfolded() every op of it is recorded",
                )
            )
        arrays = [value_of(a) for a in node.args]
        return _of_primitive(node.prim, node.prim.name, arrays, node.params, names_of(node.prim, len(arrays)))
    name, function = _found(op)
    if name in WRITTEN:
        forward, gradients, where = WRITTEN[name]
        return Rule(
            name, forward, gradients, where={**_meanings([*gradients.values(), *where.values()]), **where}, origin="written"
        )
    return _of_function(name, function)


def _found(op: Any) -> tuple[str, Callable[..., Any]]:
    """The name and the public function of an op; for one of NumPy ours of the same name."""
    if isinstance(op, str) or str(getattr(op, "__module__", "") or "numpy" * isinstance(op, np.ufunc)).startswith("numpy"):
        op = op if isinstance(op, str) else op.__name__
        name = op.rpartition(".")[2]
        for place in (ops, functional, ops.linalg):
            function = getattr(place, name, None) if name in vars(place) else None
            if callable(function):
                return name, function
        raise ArgumentError(
            message(f"rule: no op is called {op!r}", expected="a name of tg, tg.linalg or nn.functional", do='rule("tanh")')
        )
    if not callable(op) or not hasattr(op, "__name__") or isinstance(op, type):
        raise ArgumentError(
            message(f"rule: {type(op).__name__} is no op", expected='a name such as "tanh", a function of tg, a Tensor or its node')
        )
    return op.__name__.lstrip("_"), op


def names_of(prim: Primitive, count: int) -> list[str]:
    """What the arguments of a primitive are called."""
    return [f"x{below(i)}" for i in range(1, count + 1)] if prim.arrays == math.inf else list(prim.names[:count])


# ---- Examples ------------------------------------------------------------------------------------------------------------------------


class Example(NamedTuple):
    """A call of an op: its arguments and what they are called, its parameters; how it is called with them."""

    arguments: list[Any]
    names: list[str]
    params: dict[str, Any]
    listed: bool

    def call(self, function: Callable[..., Any]) -> Any:
        """The op on these arguments."""
        return function(self.arguments, **self.params) if self.listed else function(*self.arguments, **self.params)

    def given(self) -> list[tuple[str, Any]]:
        """All arrays, by name."""
        return [*zip(self.names, self.arguments, strict=True), *self.params.items()]


def example_of(name: str, function: Callable[..., Any]) -> Example:
    """A small call of an op: the one in `rule_examples`, or arrays (2, 3) for each argument of an elementwise op."""
    rng, prim = np.random.default_rng(0), getattr(function, "primitive", None)
    if name in EXAMPLES:
        shapes, params = EXAMPLES[name]
    elif prim is None or prim.arrays == math.inf:
        raise ArgumentError(
            message(
                f"rule: {name} has no rule of its own",
                expected="a single op, or a function with an example",
                do="rule(y) of a Tensor y that was recorded; tg.draw(y) shows all of its ops",
            )
        )
    else:
        shapes, params = [(2, 3)] * int(prim.arrays), {}
    arrays = [_drawn(rng, a) if isinstance(a, tuple) else a for a in shapes]
    params = {k: _drawn(rng, a) if k in DRAWN else a for k, a in params.items()}
    if prim is not None:
        names = names_of(prim, len(arrays))
    elif name in LISTED or name == "einsum":
        names = [f"x{below(i)}" for i in range(1, len(arrays) + 1)]
    else:
        names = list(inspect.signature(function).parameters)[: len(arrays)]
    return Example(arrays, names, params, name in LISTED)


DRAWN = ("v", "running_mean", "running_var")  # parameters that are arrays of numbers


def _drawn(rng: np.random.Generator, shape: tuple[int, ...]) -> Any:
    """Positive numbers; a square matrix that is symmetric and regular."""
    x = rng.uniform(0.2, 0.8, shape)
    return (x + x.T) / 2 + 2 * np.eye(3) if shape == (3, 3) else x


def _is_float(a: Any) -> bool:
    return is_array(a) and a.dtype.kind == "f"


# ---- Running a rule on values --------------------------------------------------------------------------------------------------------


def _of_function(name: str, function: Callable[..., Any]) -> Rule:
    """The rule of a public function, on an example: that of the one primitive that it is, or of all that it is made of."""
    example = example_of(name, function)
    example = example._replace(
        arguments=[box(a, leaf(a)) if _is_float(a) else a for a in example.arguments],
        params={k: box(a, leaf(a)) if _is_float(a) else a for k, a in example.params.items()},
    )
    with enable_grad(), np.errstate(all="ignore"):
        y = example.call(function)
    outputs = [o for o in (y if isinstance(y, tuple) else (y,)) if isinstance(o, Value) and o.node is not None]
    if not outputs:
        shown = [*example.names, *(f"{k}={v if isinstance(v, (int, float)) else k}" for k, v in example.params.items())]
        return Rule(name, f"{name}({', '.join(shown)})", {}, origin="constant")
    node = outputs[0].node
    assert node is not None
    known = {a.node: label for label, a in example.given() if isinstance(a, Value)}
    arrays = {label: a for label, a in example.given() if is_array(a)}
    if node.prim is not None and all(a in known for a in node.args if isinstance(a, (Node, Output))):
        own = names_of(node.prim, len(node.args))
        labels = [known.get(a, label) if isinstance(a, Node) else label for a, label in zip(node.args, own, strict=True)]
        found = _of_primitive(node.prim, name, [value_of(a) for a in node.args], node.params, labels, arrays)
        drawn = any(is_array(a) and not any(a is b for b in arrays.values()) for a in node.args)  # a mask of dropout
        return (
            found
            if hasattr(function, "primitive") or drawn or name == "getitem"
            else replace(found, forward=_called(name, example))
        )
    return _of_graph(name, outputs[0], known, arrays)


def _called(name: str, example: Example) -> str:
    """The call of a public function as text."""
    write = Writer({}, {}).value
    shown = [
        label if is_array(raw(a)) or a is None else write(a) for label, a in zip(example.names, example.arguments, strict=True)
    ]
    shown = [f"({', '.join(shown)})"] if example.listed else shown
    return f"{name}({', '.join([*shown, *(f'{k}={k if is_array(raw(a)) else write(a)}' for k, a in example.params.items())])})"


def _of_primitive(
    prim: Primitive,
    name: str,
    arrays: Sequence[Any],
    params: dict[str, Any],
    names: Sequence[str],
    known: Mapping[str, Any] | None = None,
) -> Rule:
    """The rule of one primitive, called on leaves that hold these arrays; `known`: the names of other arrays."""
    leaves = [box(a, leaf(a)) if is_array(a) else a for a in arrays]
    make, at = Writer({**(known or {}), **params}, _shapes(names, arrays)), dict[Any, Any]()
    for k, (v, label) in enumerate(zip(leaves, names, strict=True)):
        if isinstance(v, Value):
            at[v.node] = make.input("x", k, v._data)
            make.names[at[v.node]] = label
    with enable_grad(), mode("tracing", tracing.Tracer()), mode("anomaly", True), np.errstate(all="ignore"):
        called = prim.call(*leaves, **params)
        outs = list(called) if prim.multiple else [called]
        make.follow(outs, at)
        node = outs[0].node
        ys, gs = ([box(o._data, leaf(o._data)) for o in outs] for _ in range(2))
        cotangents = [make.input("cotangent", k, o._data) for k, o in enumerate(outs)]
        for k, (y, g, c) in enumerate(zip(ys, gs, cotangents, strict=True)):
            sign = below(k + 1) if prim.multiple else ""
            at[y.node], at[g.node] = make.input("y", k, y._data), c
            make.names |= {at[y.node]: f"y{sign}", c: f"g{sign}"}
        with mode("anomaly", False):
            given = (tuple(gs), tuple(ys)) if prim.multiple else (gs[0], ys[0])
            found = _sent(prim, given[0], node if node.out is None else given[1], leaves, params)
        make.follow([c for c in found if isinstance(c, Value) and c.node is not None], at)
    place = at[node]
    forward = make.text(place, whole=True) if not prim.multiple and _is_formula(place) and prim.name == name else ""
    if not forward:
        shown = [label if is_array(a) else make.value(a) for label, a in zip(names, arrays, strict=True) if a is not None]
        shown = [f"({', '.join(shown)})"] if name in LISTED else shown
        settings = [f"{k}={make.value(v)}" for k, v in stated(prim.function, params).items()]
        forward = f"{name}({', '.join([*shown, *settings])})"
    texts, letters = texts_of(make, [None if c is None else _op_of(make, at, c) for c in found], cotangents, names)
    return Rule(
        name,
        forward,
        texts,
        output=", ".join(f"y{below(i)}" for i in range(1, len(outs) + 1)) if prim.multiple else "y",
        where=letters | _meanings([forward, *texts.values(), *letters.values()], list(make.names.values())),
        origin="equation" if prim.equation is not None else "rule",
    )


def _shapes(names: Sequence[str], arrays: Sequence[Any]) -> dict[str, tuple[int, ...]]:
    return {label: a.shape for label, a in zip(names, arrays, strict=True) if is_array(a)}


def _is_formula(op: Op) -> bool:
    return op.kind in ("map", "call")


def _op_of(make: Writer, at: Mapping[Any, Any], c: Any) -> Op:
    if not isinstance(c, Value) or c.node is None:
        return make.constant(c)
    place = at[c.node]
    return place[c.index] if isinstance(place, list) else place  # type: ignore[no-any-return]


def _sent(prim: Primitive, g: Any, y: Any, leaves: Sequence[Any], params: dict[str, Any]) -> list[Any]:
    """What the rule of a primitive sends to each of its arguments, on values."""
    wanted = [isinstance(x, Value) and x._data.dtype.kind == "f" for x in leaves]
    whole = prim.recorded or prim.backward
    if whole is not None:
        saved = (prim.function(*map(raw, leaves), **params)[1],) if prim.saves else ()
        rows = list(whole(g, y, *saved, *leaves, **params))
    else:
        rules = prim.rows or (None,) * len(leaves)
        rows = [row(g, y, *leaves, **params) if row and want else None for row, want in zip(rules, wanted, strict=True)]
    found: list[Any] = []
    for c, x, want in zip(rows, leaves, wanted, strict=False):
        if c is None or not want:
            found.append(None)
            continue
        c = c.write_out(x) if isinstance(c, Deferred) else c
        found.append(prim.edge(c, x.shape) if prim.edge is not None and c.shape != x.shape else c)
    return found


def _of_graph(name: str, y: Value, known: Mapping[Any, str], arrays: Mapping[str, Any]) -> Rule:
    """The rule of a composition: the formula that it is, and its derivative by the sweep."""
    make, at = Writer(arrays, {label: n.shape for n, label in known.items()}), dict[Any, Any]()
    for k, (n, label) in enumerate(known.items()):
        at[n] = make.input("x", k, n.out)
        make.names[at[n]] = label
    wanted = {n: label for n, label in known.items() if label not in DATA}
    with enable_grad(), mode("tracing", tracing.Tracer()), np.errstate(all="ignore"):
        make.follow([y], at)
        g = box(y._data, leaf(y._data))
        at[g.node] = make.input("cotangent", 0, g._data)
        make.names[at[g.node]] = "g"
        found = grad(y, [box(n.out, n) for n in wanted], g, create_graph=True, allow_unused=True)
        make.follow([c for c in found if c is not None and c.node is not None], at)
    place = make.simplified(at[y.node][y.index] if type(y.node) is MultiNode else at[y.node])
    forward = make.text(place)
    make.names[place] = "y"
    texts, letters = texts_of(
        make, [None if c is None else _op_of(make, at, c) for c in found], [at[g.node]], list(wanted.values())
    )
    return Rule(
        name,
        forward,
        texts,
        where=letters | _meanings([forward, *texts.values(), *letters.values()], list(make.names.values())),
        origin="equation",
    )


def texts_of(
    make: Writer,
    gradients: Sequence[Op | None],
    cotangents: Sequence[Op],
    names: Sequence[str],
    letters: Callable[[Op], str | None] | None = None,
) -> tuple[dict[str, str], dict[str, str]]:
    """Gradients as text by argument, and what the texts abbreviate.

    Each as the rule has it, or as a sum of products with factors: whichever is shorter and has fewer rounded numbers. What is said twice gets
    a letter: in long texts, or wherever letters are given for it.
    """
    step = Step(make, cotangents[0], [cotangents[0]] * len(gradients), [], [], list(cotangents), None, list(gradients), [])
    chosen: dict[str, Op] = {}
    for label, plain, product in zip(names, gradients, factored(step).g_states, strict=False):
        both = [make.simplified(op) for op in (plain, product) if op is not None]
        if both:
            chosen[label] = min(both, key=lambda op: len(text := make.text(op)) + 10 * len(re.findall(r"\.\d{4}", text)))
    where: dict[str, str] = {}
    if letters or sum(len(make.text(op)) for op in chosen.values()) > LONGEST:
        where = make.abbreviated(list(chosen.values()), letters)
    return {label: make.text(op) for label, op in chosen.items()}, where


def _meanings(texts: Sequence[str], names: Sequence[str] = ()) -> dict[str, str]:
    """The words of these texts that need saying what they are."""
    whole = " ".join(texts)
    return {word: text for word, text in GLOSSARY.items() if word not in names and re.search(rf"(?<!\w){word}(?!\w)", whole)}
