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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .. import ops
from ..autodiff import grad
from ..backend import is_array
from ..compile import trace as tracing
from ..compile.adjoint import Step, factored
from ..compile.expressions import Op
from ..errors import ArgumentError, GraphError, message
from ..frames import enable_grad, mode
from ..graph import MultiNode, Node, Output, Value, box, leaf, raw, require_recorded, toposort, value_of
from ..nn import functional
from ..primitives import Deferred, Primitive
from .rule_examples import DATA, EXAMPLES, WRITTEN
from .rule_text import GLOSSARY, LISTED, Writer, below

LONGEST = 110  # of one line


@dataclass(frozen=True)
class Rule:
    """An op and what its derivative sends to each argument, as text.

    name: of the op. forward: the op as a formula of its arguments. gradients: for each argument that has one the formula of dL/d(argument)
    in g, the gradient that arrives, y, the output, and the arguments. where: what a formula abbreviates. shapes: of the example.
    """

    name: str
    forward: str
    gradients: dict[str, str]
    where: dict[str, str] = field(default_factory=dict)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    origin: str = "rule"  # of the text: the op's own rule, the equation of a kernel or composition, or a text written by hand

    def __str__(self) -> str:
        parts = [f"y = {self.forward}", *(f"dL/d{name} = {text}" for name, text in self.gradients.items())]
        if not self.gradients:
            parts.append("no gradient")
        parts += [f"{name} = {text}" for name, text in self.where.items()]
        line = ";  ".join(parts)
        return line if len(line) <= LONGEST else "\n".join(parts)

    def __repr__(self) -> str:
        return str(self)


def rule(op: Any) -> Rule:
    """The derivative rule of an op as text.

        rule("tanh")       rule(tg.tanh)       rule(F.softmax)       rule("linalg.inv")       rule(y), rule(y.node) of a recorded y

    ⊙ is the product element by element, a b that of matrices, ^T transposes. An op by its name is shown on a small example. A node is shown as
    it was recorded, with its own parameters; where an argument was broadcast its gradient is summed back.

    Raises ArgumentError for a name that no op has, GraphError for a constant or a leaf.
    """
    if isinstance(op, (Value, Node)):
        node = require_recorded(op, "rule") if isinstance(op, Value) else op
        if node.prim is None:
            raise GraphError(message("rule: a leaf is no op", expected="a tensor that an op made", do="rule(y) for y = f(x)"))
        arrays = [value_of(a) for a in node.args]
        return _of_primitive(node.prim, node.prim.name, arrays, node.params, _names(node.prim, len(arrays)))
    name, function = _found(op)
    if name in WRITTEN:
        forward, gradients, where = WRITTEN[name]
        return Rule(name, forward, gradients, where, origin="written")
    return _of_function(name, function)


def _found(op: Any) -> tuple[str, Callable[..., Any]]:
    """The name and the public function of an op."""
    if isinstance(op, str):
        for place in (ops, functional, ops.linalg):
            function = getattr(place, op.removeprefix("linalg.").removeprefix("F."), None) if hasattr(place, "__name__") else None
            if callable(function):
                return op.removeprefix("linalg.").removeprefix("F."), function
        raise ArgumentError(
            message(f"rule: no op is called {op!r}", expected="a name of tg, tg.linalg or nn.functional", do='rule("tanh")')
        )
    if not callable(op):
        raise ArgumentError(
            message(f"rule: {type(op).__name__} is no op", expected='a name such as "tanh", a function of tg, a Tensor or its node')
        )
    return getattr(op, "__name__", "op").lstrip("_"), op


def _names(prim: Primitive, count: int) -> list[str]:
    return [f"x{below(i)}" for i in range(1, count + 1)] if prim.arrays == math.inf else list(prim.names[:count])


# ---- Running a rule on values --------------------------------------------------------------------------------------------------------


def _of_function(name: str, function: Callable[..., Any]) -> Rule:
    """The rule of a public function, on an example: that of the one primitive that it is, or of all that it is made of."""
    arguments, params, names = _example(name, function)
    arguments = [box(a, leaf(a)) if _is_float(a) else a for a in arguments]
    params = {k: box(a, leaf(a)) if _is_float(a) else a for k, a in params.items()}
    with enable_grad():
        y = function(arguments, **params) if name in LISTED else function(*arguments, **params)
    given = [*zip(arguments, names, strict=True), *((a, k) for k, a in params.items())]
    outputs = [o for o in (y if isinstance(y, tuple) else (y,)) if isinstance(o, Value) and o.node is not None]
    if not outputs:
        shown = ", ".join([*names, *(f"{k}={v}" for k, v in params.items())])
        return Rule(name, f"{name}({shown})", {}, origin="constant")
    node = outputs[0].node
    known = {a.node: label for a, label in given if isinstance(a, Value)}
    if all(a in known or not isinstance(a, (Node, Output)) for a in node.args):
        labels = [known[a] if a in known else label for a, label in zip(node.args, _names(node.prim, len(node.args)), strict=True)]
        return _of_primitive(node.prim, name, [value_of(a) for a in node.args], node.params, labels)
    return _of_graph(name, outputs, known)


def _example(name: str, function: Callable[..., Any]) -> tuple[list[Any], dict[str, Any], list[str]]:
    """Arguments that an op takes, its parameters, and what the arguments are called."""
    rng = np.random.default_rng(0)
    prim = getattr(function, "primitive", None)
    if name in EXAMPLES:
        arrays, params = EXAMPLES[name]
        arrays = [_drawn(rng, a) if isinstance(a, tuple) else a for a in arrays]
        params = {k: _drawn(rng, a) if k == "v" else a for k, a in params.items()}
        count = len(arrays)
    elif prim is None or prim.arrays == math.inf:
        raise ArgumentError(
            message(f"rule: {name} is no op with an example", expected="an op", do="rule(y) for a recorded y = f(x)")
        )
    else:
        params, count = {}, int(prim.arrays)
        arrays = [rng.uniform(0.2, 0.8, (2, 3)) for _ in range(count)]
    if prim is not None:
        return arrays, params, _names(prim, count)
    if name in LISTED or name == "einsum":
        return arrays, params, [f"x{below(i)}" for i in range(1, count + 1)]
    return arrays, params, list(inspect.signature(function).parameters)[:count]


def _drawn(rng: np.random.Generator, shape: tuple[int, ...]) -> Any:
    """Positive numbers, and of square matrices such as are regular and symmetric."""
    x = rng.uniform(0.2, 0.8, shape)
    return (x + x.T) / 2 + 2 * np.eye(3) if shape == (3, 3) else x


def _is_float(a: Any) -> bool:
    return is_array(a) and a.dtype.kind == "f"


def _of_primitive(prim: Primitive, name: str, arrays: Sequence[Any], params: dict[str, Any], names: Sequence[str]) -> Rule:
    """The rule of one primitive, called on leaves that hold these arrays."""
    leaves = [box(a, leaf(a)) if is_array(a) else a for a in arrays]
    wanted = [_is_float(a) for a in arrays]
    shapes = {label: a.shape for label, a in zip(names, arrays, strict=True) if is_array(a)}
    make, at = Writer(params, shapes), dict[Any, Any]()
    for k, (v, label) in enumerate(zip(leaves, names, strict=True)):
        if isinstance(v, Value):
            at[v.node] = make.input("x", k, v._data)
            make.names[at[v.node]] = label
    with enable_grad(), mode("tracing", tracing.Tracer()), mode("anomaly", True), np.errstate(all="ignore"):
        called = prim.call(*leaves, **params)
        make.follow(called if prim.multiple else [called], at)
        forward = at[(called[0] if prim.multiple else called).node]
        out = [o._data for o in called] if prim.multiple else [called._data]
        made = (called[0] if prim.multiple else called).node
        ys, gs = ([box(o, leaf(o)) for o in out] for _ in range(2))
        signs = [below(i) if prim.multiple else "" for i in range(1, len(out) + 1)]
        cotangents = [make.input("cotangent", k, o) for k, o in enumerate(out)]
        for k, (y, g, sign) in enumerate(zip(ys, gs, signs, strict=True)):
            at[y.node], at[g.node] = make.input("y", k, y._data), cotangents[k]
            make.names |= {at[y.node]: f"y{sign}", cotangents[k]: f"g{sign}"}
        with mode("anomaly", False):
            found = _sent(
                prim, tuple(gs) if prim.multiple else gs[0], tuple(ys) if prim.multiple else ys[0], leaves, params, wanted
            )
        make.follow([c for c in found if isinstance(c, Value) and c.node is not None], at)
    if isinstance(forward, list):
        forward = forward[0].args[0] if forward[0].kind in ("pick", "part") else forward[0]
    gradients = [None if c is None else at[c.node] if isinstance(c, Value) and c.node else make._constant(c) for c in found]
    texts = _shortest(make, gradients, cotangents)
    written = make.text(forward) if forward.kind in ("map", "call") and name == prim.name else ""
    shown = [label if is_array(a) else repr(a) for label, a in zip(names, arrays, strict=True)]
    shown = [f"({', '.join(shown)})"] if name in LISTED else shown
    plain = f"{name}({', '.join([*shown, *(f'{k}={make._value(v)}' for k, v in params.items())])})"
    return Rule(
        name,
        written or plain,
        {label: text for label, text in zip(names, texts, strict=True) if text},
        shapes=shapes,
        origin="equation" if prim.equation is not None else "rule",
    )


def _sent(prim: Primitive, g: Any, y: Any, leaves: Sequence[Any], params: dict[str, Any], wanted: Sequence[bool]) -> list[Any]:
    """What the rule of a primitive sends to each of its arguments, on values."""
    whole = prim.recorded or prim.backward
    if whole is not None:
        saved = (prim.function(*map(raw, leaves), **params)[1],) if prim.saves else ()
        rows: list[Any] = list(whole(g, y, *saved, *leaves, **params))
    else:
        rows = [
            row(g, y, *leaves, **params) if row and want else None for row, want in zip(prim.rows or [None] * len(leaves), wanted)
        ]
    found = []
    for c, x, want in zip(rows, leaves, wanted, strict=False):
        if c is None or not want:
            found.append(None)
            continue
        c = c.write_out(x) if isinstance(c, Deferred) else c
        found.append(prim.edge(c, x.shape) if prim.edge is not None and c.shape != x.shape else c)
    return found


def _of_graph(name: str, outputs: Sequence[Value], known: Mapping[Any, str]) -> Rule:
    """The rule of a composition: the formula that it is, and its derivative by the sweep."""
    shapes = {label: n.shape for n, label in known.items()}
    make, at = Writer({}, shapes), dict[Any, Any]()
    for k, (n, label) in enumerate(known.items()):
        at[n] = make.input("x", k, n.out)
        make.names[at[n]] = label
    y = outputs[0]
    targets = [box(n.out, n) for n in known]
    with enable_grad(), mode("tracing", tracing.Tracer()), np.errstate(all="ignore"):
        make.follow([y], at)
        g = box(y._data, leaf(y._data))
        at[g.node] = make.input("cotangent", 0, g._data)
        make.names[at[g.node]] = "g"
        found = grad(y, targets, g, create_graph=True, allow_unused=True)
        make.follow([c for c in found if c is not None and c.node is not None], at)
    forward = at[y.node][y.index] if type(y.node) is MultiNode else at[y.node]
    written = make.text(forward)
    make.names[forward] = "y"
    gradients = [None if c is None or c.node is None else at[c.node] for c in found]
    texts = _shortest(make, gradients, [at[g.node]])
    gradients_of = {label: text for label, text in zip(known.values(), texts, strict=True) if text}
    return Rule(name, written, gradients_of, shapes=shapes, origin="equation")


def _shortest(make: Writer, gradients: Sequence[Op | None], cotangents: Sequence[Op]) -> list[str]:
    """Each gradient as the rule has it, or as a sum of products with factors, whichever is shorter."""
    step = Step(make, cotangents[0], [], [], [], list(cotangents), None, list(gradients), [])
    step = step._replace(states=[cotangents[0]] * len(gradients))
    texts = []
    for plain, short in zip(gradients, factored(step).g_states, strict=True):
        both = [make.text(op, whole=False) for op in (plain, short) if op is not None]
        texts.append(min(both, key=len, default=""))
    return texts
