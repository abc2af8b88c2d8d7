"""Every public module once: on a device as on the host, and equal to PyTorch's where PyTorch has one. None may be missing."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest

import tinygrad_seq as tg
from tinygrad_seq import backend, nn

rng = np.random.default_rng(0)


def draw(*shape: int) -> np.ndarray:
    return rng.standard_normal(shape)


class Case(NamedTuple):
    """A module as `make(nn)` or `make(torch.nn)` builds it, and what it is called with."""

    make: Callable[[Any], Any]
    inputs: tuple[Any, ...]
    where: str = "everywhere"  # "here": PyTorch has no such module


def axis(library: Any, i: int) -> dict[str, int]:
    return {"axis" if library is nn else "dim": i}


T, B, D, H, C = 5, 4, 3, 6, 7
xs, x, image = draw(T, B, D), draw(B, C), draw(2, 4, 6, 8)
line, small = image[..., 0], (draw(T, B, 8), draw(T + 1, B, 8))
p, ids = rng.uniform(0.1, 0.9, (B, C)), rng.integers(0, C, B)
signs, yes = np.where(draw(B, C) > 0, 1, -1), (draw(B, C) > 0).astype(float)
channels, log_probs = draw(B, C, T), np.log(rng.dirichlet(np.ones(C), (T, B)))
labels = np.where(np.arange(C) < rng.integers(1, C, B)[:, None], rng.permuted(np.tile(np.arange(C), (B, 1)), axis=1), -1)
query, key, value = draw(2, B, 4), draw(T, B, 5), draw(T, B, 3)

CASES = {
    # layers
    "Linear": Case(lambda m: m.Linear(D, H), (xs,)),
    "Bilinear": Case(lambda m: m.Bilinear(C, C, H), (x, draw(B, C))),
    "Embedding": Case(lambda m: m.Embedding(C, H, padding_idx=2), (ids,)),
    "Identity": Case(lambda m: m.Identity(), (x,)),
    "Flatten": Case(lambda m: m.Flatten(), (image,)),
    "Unflatten": Case(lambda m: m.Unflatten(1, (2, 2)), (image,)),
    "Sequential": Case(lambda m: m.Sequential(m.Linear(D, H), m.Tanh(), m.Linear(H, D)), (xs,)),
    # recurrent
    "RNN": Case(lambda m: m.RNN(D, H, 2, bidirectional=True), (xs,)),
    "LSTM": Case(lambda m: m.LSTM(D, H, 2, bidirectional=True), (xs,)),
    "GRU": Case(lambda m: m.GRU(D, H, 2, bidirectional=True), (xs,)),
    "RNNCell": Case(lambda m: m.RNNCell(D, H), (xs[0], draw(B, H))),
    "LSTMCell": Case(lambda m: m.LSTMCell(D, H), (xs[0], (draw(B, H), draw(B, H)))),
    "GRUCell": Case(lambda m: m.GRUCell(D, H), (xs[0], draw(B, H))),
    "NARXCell": Case(lambda m: m.NARXCell(D, H, 2, taps=2), (xs[0], (draw(B, 2), draw(B, 2))), "here"),
    "Recurrent": Case(lambda m: m.Recurrent(lambda D: m.GRUCell(D, H), D, 2, bidirectional=True), (xs,), "here"),
    # attention
    "MultiheadAttention": Case(lambda m: m.MultiheadAttention(8, 2), (small[0], small[1], small[1])),
    "AdditiveAttention": Case(lambda m: m.AdditiveAttention(4, 5, H), (query, key, value), "here"),
    "BilinearAttention": Case(lambda m: m.BilinearAttention(4, 5), (query, key, value), "here"),
    "ScaledDotProductAttention": Case(lambda m: m.ScaledDotProductAttention(), (query, key[..., :4], value), "here"),
    "SinusoidalPositions": Case(lambda m: m.SinusoidalPositions(8), (small[0],), "here"),
    "LearnedPositions": Case(lambda m: m.LearnedPositions(T, 8), (small[0],), "here"),
    "Transformer": Case(lambda m: m.Transformer(8, 2, 1, 1, 16, 0.0, batch_first=True), (draw(B, T, 8), draw(B, T + 1, 8))),
    "TransformerEncoderLayer": Case(lambda m: m.TransformerEncoderLayer(8, 2, 16, 0.0), small[:1]),
    "TransformerDecoderLayer": Case(lambda m: m.TransformerDecoderLayer(8, 2, 16, 0.0), small),
    "TransformerEncoder": Case(
        lambda m: m.TransformerEncoder(
            m.TransformerEncoderLayer(8, 2, 16, 0.0), 2, **({} if m is nn else {"enable_nested_tensor": False})
        ),
        small[:1],
    ),
    "TransformerDecoder": Case(lambda m: m.TransformerDecoder(m.TransformerDecoderLayer(8, 2, 16, 0.0), 2), small),
    # norms and dropout; what dropout draws is compared by its distribution in test_dropout.py
    "LayerNorm": Case(lambda m: m.LayerNorm(C), (x,)),
    "RMSNorm": Case(lambda m: m.RMSNorm(C, eps=1e-5), (x,)),
    "GroupNorm": Case(lambda m: m.GroupNorm(2, 4), (image,)),
    "BatchNorm1d": Case(lambda m: m.BatchNorm1d(C), (channels,)),
    "BatchNorm2d": Case(lambda m: m.BatchNorm2d(4), (image,)),
    "Dropout": Case(lambda m: m.Dropout(0.4).eval(), (x,)),
    "Dropout1d": Case(lambda m: m.Dropout1d(1.0), (channels,)),
    "Dropout2d": Case(lambda m: m.Dropout2d(1.0), (image,)),
    "VariationalDropout": Case(lambda m: m.VariationalDropout(0.4, rng=0), (xs,), "here"),
    # convolutions, pooling, upsampling
    "Conv1d": Case(lambda m: m.Conv1d(4, 6, 3, padding=1), (line,)),
    "Conv2d": Case(lambda m: m.Conv2d(4, 6, 3, stride=2, groups=2), (image,)),
    "ConvTranspose1d": Case(lambda m: m.ConvTranspose1d(4, 6, 3, stride=2), (line,)),
    "ConvTranspose2d": Case(lambda m: m.ConvTranspose2d(4, 6, 3, padding=1, groups=2), (image,)),
    "MaxPool1d": Case(lambda m: m.MaxPool1d(3, 2, 1), (line,)),
    "MaxPool2d": Case(lambda m: m.MaxPool2d(3, 2, 1), (image,)),
    "AvgPool1d": Case(lambda m: m.AvgPool1d(3, 2, 1), (line,)),
    "AvgPool2d": Case(lambda m: m.AvgPool2d(3, 2, 1, count_include_pad=False), (image,)),
    "AdaptiveAvgPool1d": Case(lambda m: m.AdaptiveAvgPool1d(4), (line,)),
    "AdaptiveAvgPool2d": Case(lambda m: m.AdaptiveAvgPool2d((4, 3)), (image,)),
    "AdaptiveMaxPool1d": Case(lambda m: m.AdaptiveMaxPool1d(4), (line,)),
    "AdaptiveMaxPool2d": Case(lambda m: m.AdaptiveMaxPool2d((4, 3)), (image,)),
    "Upsample": Case(lambda m: m.Upsample(scale_factor=2, mode="bilinear"), (image,)),
    # activations
    "PReLU": Case(lambda m: m.PReLU(C), (x,)),
    "GLU": Case(lambda m: m.GLU(), (image,)),
    "Softmax": Case(lambda m: m.Softmax(-1), (x,)),
    "LogSoftmax": Case(lambda m: m.LogSoftmax(-1), (x,)),
    # losses
    "CrossEntropyLoss": Case(lambda m: m.CrossEntropyLoss(label_smoothing=0.1), (x, ids)),
    "NLLLoss": Case(lambda m: m.NLLLoss(), (x, ids)),
    "BCELoss": Case(lambda m: m.BCELoss(), (p, yes)),
    "BCEWithLogitsLoss": Case(lambda m: m.BCEWithLogitsLoss(), (x, p)),
    "KLDivLoss": Case(lambda m: m.KLDivLoss(reduction="batchmean"), (x, p)),
    "MSELoss": Case(lambda m: m.MSELoss(), (x, p)),
    "L1Loss": Case(lambda m: m.L1Loss(), (x, p)),
    "SmoothL1Loss": Case(lambda m: m.SmoothL1Loss(), (x, p)),
    "HuberLoss": Case(lambda m: m.HuberLoss(delta=0.5), (x, p)),
    "GaussianNLLLoss": Case(lambda m: m.GaussianNLLLoss(), (x, yes, p)),
    "PoissonNLLLoss": Case(lambda m: m.PoissonNLLLoss(), (x, p)),
    "CosineSimilarity": Case(lambda m: m.CosineSimilarity(**axis(m, 1)), (x, p)),
    "CosineEmbeddingLoss": Case(lambda m: m.CosineEmbeddingLoss(0.1), (x, p, signs[:, 0])),
    "HingeEmbeddingLoss": Case(lambda m: m.HingeEmbeddingLoss(), (x, signs)),
    "MarginRankingLoss": Case(lambda m: m.MarginRankingLoss(0.5), (x, p, signs)),
    "SoftMarginLoss": Case(lambda m: m.SoftMarginLoss(), (x, signs)),
    "MultiMarginLoss": Case(lambda m: m.MultiMarginLoss(), (x, ids)),
    "MultiLabelMarginLoss": Case(lambda m: m.MultiLabelMarginLoss(), (x, labels)),
    "MultiLabelSoftMarginLoss": Case(lambda m: m.MultiLabelSoftMarginLoss(), (x, yes)),
    "TripletMarginLoss": Case(lambda m: m.TripletMarginLoss(), (x, p, yes)),
    "CTCLoss": Case(lambda m: m.CTCLoss(), (log_probs, rng.integers(1, C, (B, 2)), np.array([T, T, 4, 3]), np.array([2, 1, 2, 0]))),
}
PLAIN = [
    "ReLU", "ReLU6", "LeakyReLU", "Hardtanh", "Hardsigmoid", "Hardswish", "ELU", "SELU", "Softplus", "LogSigmoid", "GELU", "SiLU", "Mish",
    "Softsign", "Sigmoid", "Tanh",
]  # fmt: skip
CASES |= {name: Case(lambda m, name=name: getattr(m, name)(), (x,)) for name in PLAIN}
CASES |= {  # they only hold modules: they are called through one that holds them
    "ModuleList": Case(lambda m: Held(m, m.ModuleList([m.Linear(C, H), m.Linear(H, C)])), (x,)),
    "ModuleDict": Case(lambda m: Held(m, m.ModuleDict({"up": m.Linear(C, H), "down": m.Linear(H, C)})), (x,)),
}


def Held(library: Any, parts: Any) -> Any:
    """A network of the library that calls the parts one after another."""

    class Net(library.Module):
        def __init__(self):
            super().__init__()
            self.parts = parts

        def forward(self, x):
            for part in self.parts.values() if hasattr(self.parts, "values") else self.parts:
                x = part(x)
            return x

    return Net()


def flat(y: Any) -> list[Any]:
    return [part for inner in y for part in flat(inner)] if isinstance(y, (tuple, list)) else [] if y is None else [y]


def public() -> set[str]:
    return {name for name, cls in vars(nn).items() if inspect.isclass(cls) and issubclass(cls, nn.Module)} - {"Module"}


def test_no_module_is_missing() -> None:
    assert set(CASES) == public()


@pytest.mark.parametrize("name", CASES)
def test_forward_and_backward_on_a_device_are_those_of_the_host(name: str, device_xp: Any) -> None:
    def run(library: Any) -> list[np.ndarray]:
        tg.seed(0)
        module = CASES[name].make(nn).to(backend.device_of(library.zeros(1)), "float64")
        leaves: list[tg.Tensor] = list(module.parameters())

        def moved(a: Any) -> Any:
            if isinstance(a, tuple):
                return tuple(map(moved, a))
            if a.dtype.kind != "f":
                return library.asarray(a)
            leaves.append(tg.Tensor(library.asarray(a), requires_grad=True))
            return leaves[-1]

        ys = flat(module(*map(moved, CASES[name].inputs)))
        gradients = tg.grad(sum((y * y * y).sum() for y in ys), leaves, allow_unused=True)
        found = [*ys, *(g for g in gradients if g is not None), *module.buffers()]
        assert {backend.array_module(t._data) for t in found} == {library}
        return [backend.to_numpy(t._data) for t in found]

    for here, there in zip(run(np), run(device_xp), strict=True):
        np.testing.assert_allclose(there, here, rtol=1e-10, atol=1e-12)


@pytest.mark.torch
def test_what_pytorch_does_not_have_is_named() -> None:
    torch = pytest.importorskip("torch", reason="compares with PyTorch")
    assert {name for name, case in CASES.items() if case.where == "here"} == {
        name for name in public() if not hasattr(torch.nn, name)
    }


@pytest.mark.torch
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.where == "everywhere"])
def test_outputs_and_gradients_are_those_of_pytorch(name: str, dtype: str) -> None:
    torch = pytest.importorskip("torch", reason="compares with PyTorch")
    from torch_peer import agrees, module_agrees

    case = CASES[name]
    if name == "Hardsigmoid":
        dtype = "float32"  # PyTorch multiplies its gradient by a float32 number 1/6, in float64 too
    if name == "CTCLoss":  # PyTorch's gradient is that of the scores behind a log softmax
        ours, theirs = case.make(nn), case.make(torch.nn)
        pair = lambda o, *a: ours(nn.functional.log_softmax(o), *a), lambda o, *a: theirs(o.log_softmax(-1), *a)
        agrees(*pair, *case.inputs, dtype=dtype)
    else:
        module_agrees(case.make(nn), case.make(torch.nn), *case.inputs, dtype=dtype)
