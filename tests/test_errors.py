"""Wrong calls: each gives one error of ours that names the op, the shapes, and the frame and time step, and changes nothing.

`python tests/test_errors.py` prints every message, to be read aloud.
"""

from __future__ import annotations

import copy
import inspect
import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest

import tinygrad_seq as tg
from tinygrad_seq import twins
from tinygrad_seq.frames import thread

F = tg.nn.functional


class Wrong(NamedTuple):
    """A wrong call, the builtin exception that a NumPy user would catch, and what the message says."""

    call: Callable[[Any], Any]
    builtin: type[Exception]
    says: tuple[str, ...]


def world() -> SimpleNamespace:
    """The tensors that the wrong calls are made with."""
    rng = np.random.default_rng(0)
    w = SimpleNamespace(
        x=tg.tensor(rng.normal(size=(2, 3)), "float32", requires_grad=True, name="x"),
        y=tg.tensor(rng.normal(size=4), "float32"),
        sq=tg.tensor(rng.normal(size=(3, 3)), "float32", requires_grad=True),
        cube=tg.tensor(rng.normal(size=(5, 2, 3)), "float32"),
        s=tg.tensor(2.0, requires_grad=True),
        i=tg.tensor([0, 1]),
        mask=tg.tensor([[True, False, True], [False, True, False]]),
        array=rng.normal(size=(2, 3)),
        linear=tg.nn.Linear(3, 5, rng=0),
        embedding=tg.nn.Embedding(7, 3, rng=0),
        rnn=tg.nn.RNN(3, 4, rng=0),
    )
    with tg.no_grad():  # a module names its parameters when it is first called
        w.linear(w.sq), w.embedding(w.i), w.rnn(w.cube)
    w.loss = (w.x * w.x).sum()
    w.loss.backward()
    return w


def step(x: Any, h: Any) -> Any:
    return tg.tanh(x + h)


def poke(x: Any, key: Any, value: Any) -> None:
    x[key] = value


def unpack(w: Any) -> None:
    _, _ = w.s


def assign(x: Any, name: str, value: Any) -> None:
    setattr(x, name, value)


V, T, I, A, R, G = ValueError, TypeError, IndexError, AttributeError, RuntimeError, "got:"  # noqa: E741
BROADCAST, X, Y = "do not broadcast", "float32 (2, 3)", "float32 (4,)"

WRONG = {
    # elementwise
    "add": Wrong(lambda w: w.x + w.y, V, ("add:", BROADCAST, X, Y, "'x'")),
    "add an array": Wrong(lambda w: w.y + w.array, V, ("add:", "float64 (2, 3)", Y)),
    "an array plus": Wrong(lambda w: w.array + w.y, V, ("add:", "float64 (2, 3)", Y)),
    "subtract": Wrong(lambda w: w.x - w.y, V, ("subtract:", X, Y)),
    "multiply": Wrong(lambda w: w.x * w.y, V, ("multiply:", X, Y)),
    "divide": Wrong(lambda w: w.x / w.y, V, ("divide:", X, Y)),
    "power": Wrong(lambda w: w.x**w.y, V, ("power:", X, Y)),
    "remainder": Wrong(lambda w: w.x % w.y, V, ("remainder:", X, Y)),
    "floor_divide": Wrong(lambda w: w.x // w.y, V, ("floor_divide:", X, Y)),
    "maximum": Wrong(lambda w: tg.maximum(w.x, w.y), V, ("maximum:", X, Y)),
    "where": Wrong(lambda w: tg.where(w.mask, w.x, w.y), V, ("where:", "bool (2, 3)", X, Y)),
    "clip": Wrong(lambda w: w.x.clip(w.y, 1), V, ("clip:", X, Y)),
    "clip by nothing": Wrong(lambda w: w.x.clip(), T, ("clip:", "at least one limit")),
    "less": Wrong(lambda w: w.x < w.y, V, ("less:", X, Y)),
    "equal": Wrong(lambda w: w.x == w.y, V, ("equal:", X, Y)),
    "arctan2": Wrong(lambda w: tg.arctan2(w.x, w.y), V, ("arctan2:", X, Y)),
    "logaddexp": Wrong(lambda w: tg.logaddexp(w.x, w.y), V, ("logaddexp:", X, Y)),
    "masked_fill": Wrong(lambda w: tg.masked_fill(w.y, w.mask, 0), V, ("masked_fill:", Y, "bool (2, 3)")),
    "add a string": Wrong(lambda w: w.x + "a", T, ("add:", "not defined for these types", X, "'a'")),
    "subtract booleans": Wrong(lambda w: w.mask - w.mask, T, ("subtract:", "not defined for these types", "bool (2, 3)")),
    "add None": Wrong(lambda w: w.x + None, T, ("add:", "not defined for these types", "None")),
    "add a list of strings": Wrong(lambda w: w.x * ["a"], T, ("multiply:", "not defined")),
    "exp of a string": Wrong(lambda w: tg.tanh("a"), T, ("tanh:", "not defined", "'a'")),
    "and of floats": Wrong(lambda w: w.x & w.mask, T, ("&:", X, "booleans")),
    "not of integers": Wrong(lambda w: ~w.i, T, ("~:", "int64 (2,)", "booleans")),
    "broadcast_to": Wrong(lambda w: tg.broadcast_to(w.x, (2, 4)), V, ("broadcast_to:", X, "(2, 4)")),
    # reductions
    "sum": Wrong(lambda w: w.x.sum(axis=2), V, ("sum:", "axis 2", "-2 <= axis < 2", X)),
    "mean": Wrong(lambda w: w.x.mean(axis=-3), V, ("mean:", "axis -3", "-2 <= axis < 2", X)),
    "max of two axes": Wrong(lambda w: w.x.max(axis=(0, 2)), V, ("max:", "axis 2", X)),
    "prod": Wrong(lambda w: w.x.prod(axis=2), V, ("prod:", "axis 2", X)),
    "var": Wrong(lambda w: w.x.var(axis=2), V, ("var:", "axis 2", X)),
    "std": Wrong(lambda w: w.x.std(axis=2), V, ("std:", "axis 2", X)),
    "logsumexp": Wrong(lambda w: tg.logsumexp(w.x, axis=2), V, ("logsumexp:", "axis 2", X)),
    "cumsum": Wrong(lambda w: w.x.cumsum(axis=2), V, ("cumsum:", "axis 2", X)),
    "argmax": Wrong(lambda w: w.x.argmax(axis=2), V, ("argmax:", "axis 2", X)),
    "any": Wrong(lambda w: w.mask.any(axis=2), V, ("any:", "axis 2", "bool (2, 3)")),
    "median": Wrong(lambda w: tg.median(w.x, axis=2), V, ("median:", "axis 2", X)),
    "norm": Wrong(lambda w: tg.linalg.norm(w.x, axis=2), V, ("norm", "axis 2", X)),
    "an axis by name": Wrong(lambda w: w.x.sum(axis="time"), T, ("sum:", "'time'", X)),
    "a fraction as axis": Wrong(lambda w: w.x.sum(axis=0.5), T, ("sum:", "0.5", X)),
    "max of nothing": Wrong(lambda w: tg.zeros((0, 3)).max(), V, ("max:", "(0, 3)")),
    # products
    "matmul": Wrong(lambda w: w.x @ w.x, V, ("matmul:", "inner sizes differ: 3 and 2", X)),
    "matmul with a vector": Wrong(lambda w: w.x @ w.y, V, ("matmul:", "3 and 4", X, Y)),
    "matmul of stacks": Wrong(lambda w: w.cube @ tg.ones((4, 3, 2)), V, ("matmul:", "(5, 2, 3)", "(4, 3, 2)")),
    "matmul with a scalar": Wrong(lambda w: w.x @ w.s, V, ("matmul:", "scalar", X, "float32 ()")),
    "an array matmul": Wrong(lambda w: w.array @ w.y, V, ("matmul:", "float64 (2, 3)", Y)),
    "dot": Wrong(lambda w: tg.dot(w.x, w.y), V, ("3 and 4", X, Y)),
    "tensordot": Wrong(lambda w: tg.tensordot(w.x, w.x, axes=1), V, ("tensordot:", "a (2, 3)", "b (2, 3)")),
    "tensordot over no axes": Wrong(lambda w: tg.tensordot(w.x, w.x, axes=1.5), T, ("tensordot:", "1.5", "integers")),
    "tensordot over other axes": Wrong(lambda w: tg.tensordot(w.x, w.x, axes=([2], [0])), V, ("tensordot:", "axis 2", "2 axes")),
    "tensordot over too many": Wrong(lambda w: tg.tensordot(w.x, w.x, axes=3), V, ("tensordot: no 3 axes", "a (2, 3)")),
    "trace": Wrong(lambda w: tg.trace(w.y), V, ("at least two axes", Y)),
    "einsum of other sizes": Wrong(lambda w: tg.einsum("ij,jk->ik", w.x, w.x), V, ("einsum:", "'j'", "(2, 3), (2, 3)")),
    "einsum of too few": Wrong(lambda w: tg.einsum("ij,jk->ik", w.x), V, ("einsum:",)),
    "einsum of other axes": Wrong(lambda w: tg.einsum("ijk->i", w.x), V, ("einsum:", "'ijk'", "(2, 3)")),
    "einsum into nowhere": Wrong(lambda w: tg.einsum("ij->iz", w.x), V, ("einsum:", "z")),
    "inv": Wrong(lambda w: tg.linalg.inv(w.x), V, ("inv:", X)),
    "inv of a singular one": Wrong(lambda w: tg.linalg.inv(tg.zeros((2, 2))), V, ("inv:", "ingular", "(2, 2)")),
    "det": Wrong(lambda w: tg.linalg.det(w.x), V, ("det:", X)),
    "slogdet": Wrong(lambda w: tg.linalg.slogdet(w.x), V, ("slogdet:", X)),
    "solve": Wrong(lambda w: tg.linalg.solve(w.sq, w.y), V, ("solve:", "float32 (3, 3)", Y)),
    "cholesky": Wrong(lambda w: tg.linalg.cholesky(-tg.eye(3)), V, ("cholesky:", "(3, 3)")),
    # shapes
    "reshape": Wrong(lambda w: w.x.reshape(4), V, ("reshape:", X, "(4,)")),
    "reshape with two gaps": Wrong(lambda w: w.x.reshape(-1, -1), V, ("reshape:", X, "(-1, -1)")),
    "reshape into a string": Wrong(lambda w: w.x.reshape("6"), T, ("reshape:", "'6'")),
    "transpose": Wrong(lambda w: w.x.transpose(0, 2), V, ("transpose:", X)),
    "transpose twice the same": Wrong(lambda w: w.x.transpose(0, 0), V, ("transpose:", X)),
    "swapaxes": Wrong(lambda w: w.x.swapaxes(0, 2), V, ("swapaxes:", "axis", X)),
    "moveaxis": Wrong(lambda w: tg.moveaxis(w.x, 0, 2), V, ("moveaxis:", "axis", X)),
    "squeeze": Wrong(lambda w: w.x.squeeze(0), V, ("squeeze:", X)),
    "expand_dims": Wrong(lambda w: tg.expand_dims(w.x, 4), V, ("expand_dims:", "axis 4", X)),
    "concatenate": Wrong(lambda w: tg.concatenate([w.x, w.sq], axis=1), V, ("concatenate:", X, "float32 (3, 3)")),
    "concatenate other ranks": Wrong(lambda w: tg.concatenate([w.x, w.y]), V, ("concatenate:", X, Y)),
    "concatenate nothing": Wrong(lambda w: tg.concatenate([]), V, ("concatenate:",)),
    "concatenate a Tensor": Wrong(lambda w: tg.concatenate([w.x, w.x], axis=2), V, ("concatenate:", "axis 2")),
    "stack": Wrong(lambda w: tg.stack([w.x, w.sq]), V, ("stack:", X, "float32 (3, 3)")),
    "stack nothing": Wrong(lambda w: tg.stack([]), V, ("stack:",)),
    "stack a number": Wrong(lambda w: tg.stack(3), T, ("stack:", "3", "a list")),
    "split": Wrong(lambda w: tg.split(w.x, 2, axis=1), V, ("split:", "3")),
    "split in between": Wrong(lambda w: tg.split(w.x, [0.5], axis=1), T, ("split:", "[0.5]", "integers")),
    "split into a half": Wrong(lambda w: tg.array_split(w.x, 1.5), T, ("array_split:", "1.5", "integers")),
    "split another axis": Wrong(lambda w: tg.split(w.x, 2, axis=2), V, ("split:", "axis 2")),
    "unstack": Wrong(lambda w: tg.unstack(w.x, axis=2), V, ("unstack:", "axis 2")),
    "pad": Wrong(lambda w: tg.pad(w.x, ((1, 1),) * 3), V, ("pad:", "2 axes")),
    "pad by less than nothing": Wrong(lambda w: tg.pad(w.x, -1), V, ("pad:", "-1")),
    "pad in a mode": Wrong(lambda w: tg.pad(w.x, 1, mode="mirror"), T, ("pad:", "'mirror'", "reflect")),
    "pad by a fraction": Wrong(lambda w: tg.pad(w.x, 1.5), V, ("pad:", "1.5", "integers")),
    "pad by name": Wrong(lambda w: tg.pad(w.x, {0: (1, 1)}), V, ("pad:", "{0: (1, 1)}", "integers")),
    "tile": Wrong(lambda w: tg.tile(w.x, "2"), T, ("tile:", X)),
    "repeat": Wrong(lambda w: tg.repeat(w.x, [1, 2], axis=1), V, ("repeat:", "2", "3")),
    "repeat one and a half times": Wrong(lambda w: tg.repeat(w.x, 1.5), T, ("repeat:", "1.5", "integers")),
    "roll": Wrong(lambda w: tg.roll(w.x, 1, axis=2), V, ("roll:", "axis 2", X)),
    "flip": Wrong(lambda w: tg.flip(w.x, axis=2), V, ("flip:", "axis 2", X)),
    "diagonal": Wrong(lambda w: tg.diagonal(w.y), V, ("diagonal:", Y)),
    "diag": Wrong(lambda w: tg.diag(w.cube), V, ("diag:", "3 axes")),
    "tril": Wrong(lambda w: tg.tril(w.y), V, ("tril:", Y)),
    # indices
    "an index": Wrong(lambda w: w.x[2], I, ("index 2", "size 2", X)),
    "too many indices": Wrong(lambda w: w.x[0, 0, 0], I, ("3 indices for 2 axes", X)),
    "an index of floats": Wrong(lambda w: w.x[w.y], I, (X,)),
    "an index by name": Wrong(lambda w: w.x["a"], I, (X, "'a'")),
    "a mask of another shape": Wrong(lambda w: w.cube[w.mask], I, ("(5, 2, 3)",)),
    "an index into a scalar": Wrong(lambda w: w.s[0], I, ("float32 ()",)),
    "take": Wrong(lambda w: w.x.take([5], axis=1), I, ("take:", "5", "3")),
    "take_along_axis": Wrong(lambda w: tg.take_along_axis(w.x, w.i, axis=1), V, ("take_along_axis:", X)),
    "index_put": Wrong(lambda w: tg.index_put(w.x, 0, w.y), V, ("index_put:", X, Y)),
    "index_put twice": Wrong(lambda w: tg.index_put(w.x, [0, 0], 1.0), I, ("index_put:", "twice", "index_add")),
    "index_add": Wrong(lambda w: tg.index_add(w.x, [0, 5], 1.0), I, ("index_add:", "5", X)),
    "one_hot": Wrong(lambda w: tg.one_hot(w.i, 1), I, ("one_hot:", "0 .. 0")),
    "one_hot of floats": Wrong(lambda w: tg.one_hot(w.x, 3), T, ("one_hot:", "float32")),
    "one_hot of a half": Wrong(lambda w: tg.one_hot(w.i, 2.5), T, ("one_hot:", "float")),
    "topk": Wrong(lambda w: tg.topk(w.x, 4), V, ("4", "3")),
    "sort": Wrong(lambda w: tg.sort(w.x, axis=2), V, ("sort:", "axis 2", X)),
    "a mask of integers": Wrong(lambda w: tg.masked_fill(w.x, w.i, 0), T, ("masked_fill:", "booleans")),
    # in place
    "write to a parameter": Wrong(lambda w: poke(w.x, 0, 1.0), R, ("x[...] = v", "no_grad", X)),
    "write to a result": Wrong(lambda w: poke(w.x * 2, 0, 1.0), R, ("x[...] = v", "multiply", "index_put")),
    "write a parameter": Wrong(lambda w: poke(w.y, 0, w.s), R, ("x[...] = v", "gradient", "index_put")),
    "write another shape": Wrong(lambda w: poke(w.cube, 0, w.y), V, ("x[...] = v", Y)),
    "write outside": Wrong(lambda w: poke(w.y, 4, 1.0), I, ("x[...] = v", "4")),
    # derivatives
    "backward of a matrix": Wrong(lambda w: (w.x * 2).backward(), R, ("backward:", X, "scalar", "sum()")),
    "backward of a constant": Wrong(lambda w: w.y.sum().backward(), R, ("backward:", "constant", "requires_grad=True")),
    "a gradient of another shape": Wrong(lambda w: (w.x * 2).backward(w.y), V, ("backward:", "(4,)", "(2, 3)")),
    "a cotangent too many": Wrong(lambda w: tg.grad([w.loss], w.x, [None, None]), V, ("grad:", "2 cotangents", "1 outputs")),
    "a cotangent of another shape": Wrong(lambda w: tg.grad(w.loss, w.x, w.y), V, ("grad:", "(4,)", "()")),
    "grad by a constant": Wrong(lambda w: tg.grad(w.loss, w.y), R, ("grad:", "constant", Y)),
    "grad by a stranger": Wrong(lambda w: tg.grad(w.loss, w.sq), R, ("grad:", "do not depend", "(3, 3)", "allow_unused")),
    "grad by a number": Wrong(lambda w: tg.grad(w.loss, 3.0), T, ("grad",)),
    "set a gradient": Wrong(lambda w: assign(w.x, "grad", w.y), V, ("grad:", "(4,)", "(2, 3)")),
    "set a gradient of a constant": Wrong(lambda w: assign(w.y, "grad", w.y), R, ("grad:", "constant", Y)),
    "gradient of integers": Wrong(lambda w: w.i.requires_grad_(), T, ("requires_grad:", "int64 (2,)", "astype")),
    "no gradient of a result": Wrong(lambda w: (w.x * 2).requires_grad_(False), R, ("multiply", "detach")),
    "a hook on a constant": Wrong(lambda w: w.y.register_hook(print), R, ("register_hook:", "constant")),
    "a hook that is none": Wrong(lambda w: w.x.register_hook(3), T, ("register_hook:", "3")),
    "retain_grad of a constant": Wrong(lambda w: w.y.retain_grad(), R, ("retain_grad:", "constant")),
    # conversions
    "item": Wrong(lambda w: w.x.item(), T, ("item:", "6 numbers", X)),
    "float": Wrong(lambda w: float(w.x), T, ("6 numbers", X)),
    "bool": Wrong(lambda w: bool(w.x), T, ("bool:", "6 truth values", ".any()")),
    "index with a float": Wrong(lambda w: [1, 2][w.s], T, ("index:", "float32 ()")),
    "len": Wrong(lambda w: len(w.s), T, ("len:", "scalar")),
    "iteration": Wrong(unpack, T, ("iteration:", "scalar")),
    "astype": Wrong(lambda w: w.x.astype("complex64"), T, ("astype:", "complex64")),
    "to a dtype": Wrong(lambda w: w.x.to(np.float32), T, ("to:", "astype")),
    "to nowhere": Wrong(lambda w: w.x.to("tpu"), T, ("'tpu'", "'cpu'")),
    "deepcopy of a result": Wrong(lambda w: copy.deepcopy(w.loss), R, ("deepcopy:", "sum", "detach")),
    "a name": Wrong(lambda w: assign(w.x, "name", 3), T, ("name:", "3")),
    # creation
    "ragged": Wrong(lambda w: tg.tensor([[1.0], [2.0, 3.0]]), T, ("tensor:", "differ in length", "pad")),
    "tensor of Tensors": Wrong(lambda w: tg.tensor([w.s, w.s]), T, ("tensor:", "tg.stack")),
    "tensor of a string": Wrong(lambda w: tg.tensor("abc"), T, ("tensor:", "'abc'")),
    "tensor of a masked array": Wrong(lambda w: tg.tensor(np.ma.masked_array([1.0], [True])), T, ("tensor:", "mask", "filled")),
    "tensor of complex numbers": Wrong(lambda w: tg.tensor(1j), T, ("tensor:", "1j")),
    "zeros": Wrong(lambda w: tg.zeros((2, -1)), V, ("zeros:", "negative", "(2, -1)")),
    "zeros of a dtype": Wrong(lambda w: tg.zeros(2, "float31"), T, ("zeros:", "'float31'", "tg.float32")),
    "zeros of two numbers": Wrong(lambda w: tg.zeros(2, 3), T, ("zeros:", "no dtype", "one argument")),
    "Tensor of two numbers": Wrong(lambda w: tg.Tensor(2, 3), T, ("no dtype", "tg.zeros((2, 3))")),
    "ones somewhere": Wrong(lambda w: tg.ones(2, device="tpu"), T, ("'tpu'",)),
    "arange": Wrong(lambda w: tg.arange(0, 3, 0), V, ("arange:", "step 0")),
    "linspace": Wrong(lambda w: tg.linspace(0, 1, -1), V, ("linspace:", "-1")),
    "full": Wrong(lambda w: tg.full((2, 2), w.x), T, ("full:", X, "broadcast_to")),
    "integers with a gradient": Wrong(lambda w: tg.zeros(2, "int64", requires_grad=True), T, ("requires_grad:", "int64 (2,)")),
    "normal": Wrong(lambda w: tg.random.normal(0, -1, 3), V, ("normal:", "scale", "-1")),
    "normal around a Tensor": Wrong(lambda w: tg.random.normal(w.s, 1, 3), T, ("normal:", "loc", "standard_normal")),
    "integers": Wrong(lambda w: tg.random.integers(3, 3), V, ("integers:", "3")),
    "a generator": Wrong(lambda w: tg.random.uniform(rng="seed"), T, ("rng:", "'seed'")),
    "a seed": Wrong(lambda w: tg.seed(-1), T, ("seed:", "-1")),
    # other names, other keywords
    "tg.cat": Wrong(lambda w: tg.cat([w.x]), A, ("'cat'", "tg.concatenate")),
    "tg.nothing": Wrong(lambda w: tg.nothing, A, ("'nothing'",)),
    "x.unsqueeze": Wrong(lambda w: w.x.unsqueeze(0), A, ("'unsqueeze'", "tg.expand_dims")),
    "x.view": Wrong(lambda w: w.x.view(6), A, ("'view'", "x.reshape")),
    "x.size()": Wrong(lambda w: w.x.size(1), T, ("size:", "x.shape[1]")),
    "x.add_": Wrong(lambda w: w.x.add_(1), A, ("'add_'", "x + y")),
    "dim": Wrong(lambda w: w.x.sum(dim=0), T, ("sum:", "'dim'", "axis=")),
    "keepdim": Wrong(lambda w: tg.max(w.x, keepdim=True), T, ("max:", "'keepdim'", "keepdims=")),
    "dim in a list function": Wrong(lambda w: tg.stack([w.x], dim=1), T, ("stack:", "'dim'", "axis=")),
    "dim in linalg": Wrong(lambda w: tg.linalg.norm(w.x, dim=1), T, ("norm:", "'dim'", "axis=")),
    "dim in functional": Wrong(lambda w: F.softmax(w.x, dim=1), T, ("softmax:", "'dim'", "axis=")),
    "retain_graph": Wrong(lambda w: w.loss.backward(retain_graph=True), T, ("backward:", "'retain_graph'", "leave it out")),
    "input": Wrong(lambda w: tg.sum(input=w.x), T, ("sum:", "'input'", "by position")),
    "other": Wrong(lambda w: tg.add(w.x, other=w.y), T, ("add:", "'other'", "by position")),
    "nothing at all": Wrong(lambda w: tg.tanh(), T, ("tanh:", "missing", "tanh(x)")),
    "one of two": Wrong(lambda w: tg.add(w.x), T, ("add:", X, "b nothing")),
    "out": Wrong(lambda w: tg.sum(w.x, out=w.y), T, ("sum:", "'out'", "assign")),
    "an argument too few": Wrong(lambda w: w.x.swapaxes(0), T, ("swapaxes:", "'axis2'")),
    "an argument too many": Wrong(lambda w: w.x.swapaxes(0, 1, 2), T, ("swapaxes:", "axis1, axis2")),
    "zeros of nothing": Wrong(lambda w: tg.zeros(), T, ("zeros:", "'shape'", "dtype=float32")),
    "grad by nothing": Wrong(lambda w: tg.grad(w.loss), T, ("grad:", "'inputs'")),
    "a mean for a loc": Wrong(lambda w: tg.random.normal(mean=1), T, ("normal:", "'mean'", "loc=")),
    # layers and losses
    "nn.RNNBase": Wrong(lambda w: tg.nn.RNNBase("LSTM", 3, 4), A, ("'RNNBase'", "tg.nn.Recurrent")),
    "F.one_hot": Wrong(lambda w: F.one_hot(w.i, 3), A, ("'one_hot'", "tg.one_hot(ids, num_classes)")),
    "optim.Adamax": Wrong(lambda w: tg.optim.Adamax(w.linear.parameters()), A, ("'Adamax'", "tg.optim.Adam")),
    "Linear": Wrong(lambda w: w.linear(w.y), V, (Y, "(5, 3)", "Linear")),
    "Embedding": Wrong(lambda w: w.embedding(tg.tensor([7])), I, ("7", "Embedding")),
    "Embedding of floats": Wrong(lambda w: w.embedding(w.y), T, ("float32", "Embedding")),
    "RNN": Wrong(lambda w: w.rnn(w.y), V, ("(4,)", "RNN")),
    "RNN of another width": Wrong(lambda w: w.rnn(tg.ones((2, 1, 5))), V, ("(2, 1, 5)", "RNN")),
    "RNN from another state": Wrong(lambda w: w.rnn(w.cube, tg.ones((1, 9, 4))), V, ("(1, 9, 4)", "RNN")),
    "cross_entropy": Wrong(lambda w: F.cross_entropy(w.x, tg.tensor([0, 1, 2])), V, ("cross_entropy:", "(2, 3)", "(3,)")),
    "Linear of all that an RNN returns": Wrong(lambda w: w.linear(w.rnn(w.cube)), T, ("linear:", "tuple of 2", "hs, h = rnn(xs)")),
    "RNN of all that an RNN returns": Wrong(lambda w: w.rnn(w.rnn(w.cube)), T, ("RNN:", "tuple of 2", "hs, h = rnn(xs)")),
    "RNN of a list": Wrong(lambda w: w.rnn([[[1.0, 2.0, 3.0]]]), T, ("RNN:", "list", "(T, B, D)", "tg.tensor")),
    "cross_entropy of all that an RNN returns": Wrong(
        lambda w: F.cross_entropy(w.rnn(w.cube), w.i), T, ("cross_entropy:", "hs, h")
    ),
    "an update that is recorded": Wrong(lambda w: w.linear.bias.__isub__(1.0), R, ("requires a gradient", "tg.no_grad()")),
    "cross_entropy of other classes": Wrong(lambda w: F.cross_entropy(w.x, tg.tensor([0, 3])), I, ("cross_entropy:", "3")),
    "cross_entropy of floats": Wrong(lambda w: F.cross_entropy(w.x, w.x[:, 0]), T, ("cross_entropy:", "float32")),
    "scan": Wrong(lambda w: tg.scan(step, w.cube, tg.zeros((2, 4))), V, ("add:", X, "float32 (2, 4)", "t = 1")),
    "an optimizer of nothing": Wrong(lambda w: tg.optim.SGD([], lr=0.1), V, ("SGD",)),
}


def facts(w: Any) -> list[Any]:
    """Everything that a failing call might change by mistake."""
    tensors = [v for v in vars(w).values() if isinstance(v, tg.Tensor)]
    tensors += [p for m in (w.linear, w.embedding, w.rnn) for p in m.parameters()]
    state = [(t.numpy().tolist(), t.requires_grad, t.name, None if t.grad is None else t.grad.numpy().tolist()) for t in tensors]
    modes = thread.modes
    return [
        state,
        w.array.tolist(),
        modes.record,
        modes.anomaly,
        modes.unfolded,
        modes.frame,
        {name: list(values) for name, values in modes.outer.items() if values},
        tg.random.get_state(),
    ]


def failure(wrong: Wrong, w: Any) -> Exception:
    with pytest.raises(tg.TinygradError) as caught:
        wrong.call(w)
    return caught.value


def test_there_are_many_wrong_calls() -> None:
    assert len(WRONG) > 150


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_call_says_what_and_where_and_changes_nothing(name: str) -> None:
    wrong, w = WRONG[name], world()
    before = facts(w)
    with tg.frame("decoder"), tg.frame("cell", 7):
        cause = failure(wrong, w)
    text = str(cause)
    assert facts(w) == before
    assert isinstance(cause, wrong.builtin)
    for said in wrong.says:
        assert said in text
    assert "where:" in text
    assert "decoder > cell" in text
    assert "time step t = " in text
    assert "t = 7" in text or name == "scan"
    assert len(text.splitlines()) <= 6
    assert max(map(len, text.splitlines())) <= 140
    if "decoder > cell," in text:  # the frames of layers and loops remain
        assert "  where:" not in str(failure(wrong, world()))


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda w, y: w.x + y, "add:"),
        (lambda w, y: w.x @ y.T, "matmul:"),
        (lambda w, y: tg.concatenate([w.x, y]), "concatenate:"),
        (lambda w, y: tg.index_put(w.x, 0, y[0]), "index_put:"),
        (lambda w, y: poke(w.cube, 0, y), "x[...] = v:"),
        (lambda w, y: (w.x * 2).backward(y), "backward:"),
        (lambda w, y: tg.grad(w.x * 2, w.x, y), "grad:"),
        (lambda w, y: assign(w.x, "grad", y), "grad:"),
    ],
    ids=["add", "matmul", "concatenate", "index_put", "write", "backward", "grad", "set grad"],
)
def test_devices_do_not_mix(wrong: Callable[[Any, Any], Any], says: str, device_xp: Any) -> None:
    w = world()
    y = tg.ones((2, 3)).to("strict" if "strict" in device_xp.__name__ else "cuda")
    before = facts(w)
    with pytest.raises(tg.errors.DeviceError, match=f"(?s){re.escape(says)}.*{y.device}"), tg.frame("cell", 7):
        wrong(w, y)
    assert facts(w) == before


def test_the_loop_over_steps_tells_its_time() -> None:
    w = world()
    with pytest.raises(tg.TinygradError, match="time step t = 3"):
        for t, x in enumerate(tg.steps(w.cube), 1):
            x + (w.y if t == 3 else 0)
    assert thread.modes.frame is None


def test_a_named_parameter_is_named() -> None:
    w = world()
    with pytest.raises(tg.TinygradError, match="b 'weight' float32"):
        w.x @ w.linear.weight


def test_an_error_within_an_op_of_the_user_keeps_its_cause() -> None:
    @tg.primitive
    def broken(x: Any) -> Any:
        return x.reshape(7)

    with pytest.raises(tg.TinygradError, match="broken:") as caught:
        broken(world().x)
    assert isinstance(caught.value.__cause__, ValueError)


def test_a_bug_within_a_function_is_not_taken_for_a_wrong_call() -> None:
    def hook(g: Any) -> None:
        raise TypeError("mine")

    w = world()
    w.x.register_hook(hook)
    with pytest.raises(TypeError, match="mine") as caught:
        w.loss.backward()
    assert not isinstance(caught.value, tg.TinygradError)


def test_every_error_of_ours_is_also_a_builtin() -> None:
    kinds = [kind for kind in vars(tg.errors).values() if isinstance(kind, type) and issubclass(kind, tg.TinygradError)]
    for kind in kinds[1:]:
        assert any(base.__module__ in ("builtins", "numpy.linalg") and base is not Exception for base in kind.__mro__[1:-3]), kind
    assert len(kinds) > 8


# ---- One spelling each -----------------------------------------------------------------------------------------------------------------

TABLES = {"NAMES": twins.NAMES, "FUNCTIONS": twins.FUNCTIONS, "METHODS": twins.METHODS, "LAYERS": twins.LAYERS, "KIT": twins.KIT}
OWNERS = {
    tg: ("NAMES", "FUNCTIONS"),
    tg.nn: ("LAYERS",),
    F: ("LAYERS",),
    tg.optim: ("LAYERS",),
    tg.data: ("KIT",),
    tg.training: ("KIT",),
}
TWINS = [(table, name, twin) for table, names in TABLES.items() for name, twin in names.items()]


@pytest.mark.parametrize(("table", "name", "twin"), TWINS, ids=lambda part: str(part)[:20])
def test_a_name_of_pytorch_is_not_there_and_its_twin_is(table: str, name: str, twin: str) -> None:
    x = tg.ones(3)
    for owner, tables in (*OWNERS.items(), (x, ("NAMES", "METHODS"))):
        if table in tables:
            with pytest.raises(tg.errors.UnknownNameError, match=re.escape(twin)):
                getattr(owner, name)
    for path in re.findall(r"\btg\.([\w.]+)", twin):
        attribute: Any = tg
        for part in path.rstrip(".").split("."):
            attribute = getattr(attribute, part)
    for part in re.findall(r"\bx\.(\w+)", twin):
        assert hasattr(x, part)


def test_a_method_that_is_a_function_here_is_written_out() -> None:
    with pytest.raises(tg.errors.UnknownNameError, match=r"do: tg.topk\(x, k, axis, largest\)"):
        tg.ones(3).topk(2)
    with pytest.raises(tg.errors.UnknownNameError) as caught:  # a module of the package is no function
        _ = tg.ones(3).indexing
    assert "do:" not in str(caught.value)
    with pytest.raises(
        tg.errors.ArgumentError, match=r"(?s)flatten: takes 0 arguments by position, got 1.*x.reshape\(len\(x\), -1\)"
    ):
        tg.ones((2, 3, 4)).flatten(1)


@pytest.mark.parametrize(("theirs", "ours"), twins.KEYWORDS.items())
def test_a_keyword_of_pytorch_is_explained(theirs: str, ours: str) -> None:
    functions = (tg.sum, tg.swapaxes, tg.concatenate, tg.var, tg.take, tg.random.normal)
    function: Any = next(f for f in functions if ours in inspect.signature(f).parameters)
    with pytest.raises(tg.errors.ArgumentError, match=f"{theirs}= is called {ours}= here"):
        function(tg.ones(3), **{theirs: 0})


def test_no_keyword_is_recommended_that_the_function_does_not_have() -> None:
    with pytest.raises(tg.errors.ArgumentError) as caught:
        F.embedding(np.array([0, 1]), tg.ones((2, 3)), dim=1)
    assert "'dim'" in str(caught.value) and "axis" not in str(caught.value)


if __name__ == "__main__":
    for name, wrong in WRONG.items():
        try:
            with tg.frame("cell", 7):
                result: Any = wrong.call(world())
        except Exception as cause:
            result = f"{type(cause).__name__}: {cause}"
        print(f"--- {name}\n{result}")
