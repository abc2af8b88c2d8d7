"""The hand-written LSTM kernel against the equations on the tape, the back-propagation derived by hand, and PyTorch."""

from __future__ import annotations

import lstm_kernel
import numpy as np
import pytest

import tinygrad_seq as tg
from tinygrad_seq import nn
from tinygrad_seq.nn import functional as F
from tinygrad_seq.nn.functional.lstm import LSTMGradients

SIZES = [(1, 1, 1, 1), (7, 3, 4, 5), (9, 1, 2, 8), (5, 64, 8, 64)]  # T, B, D, H; the last one is multiplied in blocks
each_size = pytest.mark.parametrize("size", SIZES, ids=str)


def problem(size: tuple[int, ...], dtype: str = "float64") -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """What the kernel takes, and the gradients of h_1 ... h_T and of c_T."""
    T, B, D, H = size
    rng = np.random.default_rng(0)
    shapes = [(T, B, D), (B, H), (B, H), (4 * H, D), (4 * H, H), (4 * H,), (4 * H,), (T, B, H), (B, H)]
    *arguments, g_hs, g_c = (0.5 * rng.standard_normal(shape).astype(dtype) for shape in shapes)
    return arguments, g_hs, g_c


def by_kernel(arguments: list[np.ndarray], g_hs: np.ndarray, g_c: np.ndarray | None) -> list[np.ndarray]:
    hs, (h, c), saved = lstm_kernel.forward(*arguments)
    return [hs, h, c, *lstm_kernel.backward(saved, g_hs, g_c)]


def agree(ours: list[np.ndarray], theirs: list[np.ndarray], tolerance: float) -> None:
    for name, a, b in zip(("hs", "h", "c", *LSTMGradients._fields), ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * max(1, np.abs(b).max()), err_msg=name)


def module_and_state(arguments: list[np.ndarray]) -> tuple[nn.LSTM, dict[str, np.ndarray]]:
    names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
    state = dict(zip(names, arguments[3:], strict=True))
    module = nn.LSTM(arguments[0].shape[2], arguments[1].shape[1], dtype=arguments[0].dtype)
    module.load_state_dict(state)
    return module, state


@each_size
@pytest.mark.parametrize("rows, cache", [(lstm_kernel.ROWS, lstm_kernel.CACHE), (6, 240)], ids=["one go", "many chunks"])
@pytest.mark.parametrize("with_c", [True, False], ids=["loss of hs and c", "loss of hs"])
def test_the_kernel_equals_the_back_propagation_by_hand(
    size: tuple[int, ...], rows: int, cache: int, with_c: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lstm_kernel, "ROWS", rows)
    monkeypatch.setattr(lstm_kernel, "CACHE", cache)
    arguments, g_hs, g_c = problem(size)
    kernel = by_kernel(arguments, g_hs, g_c if with_c else None)
    for a, b in zip(kernel[3:], F.lstm_bptt(*arguments, g_hs, g_c if with_c else None), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-10)


@each_size
@pytest.mark.parametrize("dtype, tolerance", [("float64", 1e-10), ("float32", 1e-4)])
def test_the_kernel_equals_the_layer_on_the_tape(size: tuple[int, ...], dtype: str, tolerance: float) -> None:
    arguments, g_hs, g_c = problem(size, dtype)
    module, _ = module_and_state(arguments)
    x, h0, c0 = (tg.tensor(a, requires_grad=True) for a in (arguments[0], arguments[1][None], arguments[2][None]))
    hs, (h, c) = module(x, (h0, c0))
    ((hs * g_hs).sum() + (c[0] * g_c).sum()).backward()
    values = [hs, h[0], c[0], x.grad, h0.grad[0], c0.grad[0], *(p.grad for p in module.parameters())]
    kernel = by_kernel(arguments, g_hs, g_c)
    assert all(a.dtype == dtype for a in kernel)
    agree(kernel, [value.numpy() for value in values], tolerance)


@pytest.mark.torch
@each_size
def test_the_kernel_equals_pytorch(size: tuple[int, ...]) -> None:
    torch = pytest.importorskip("torch")
    arguments, g_hs, g_c = problem(size)
    _, state = module_and_state(arguments)
    module = torch.nn.LSTM(size[2], size[3], dtype=torch.float64)
    module.load_state_dict({name: torch.tensor(array) for name, array in state.items()})
    x, h0, c0 = (torch.tensor(a, requires_grad=True) for a in (arguments[0], arguments[1][None], arguments[2][None]))
    hs, (h, c) = module(x, (h0, c0))
    torch.autograd.backward([hs, c], [torch.tensor(g_hs), torch.tensor(g_c)[None]])
    values = [hs.detach(), h[0].detach(), c[0].detach(), x.grad, h0.grad[0], c0.grad[0], *(p.grad for p in module.parameters())]
    agree(by_kernel(arguments, g_hs, g_c), [value.numpy() for value in values], 1e-10)


@pytest.mark.parametrize("M, K, B", [(256, 97, 1), (512, 128, 16), (1024, 256, 32), (96, 96, 700), (20, 7, 10**5)])
def test_blocks_are_small_products_of_the_same_rows(M: int, K: int, B: int) -> None:
    w = np.arange(M * K, dtype=np.float32).reshape(M, K)
    for whole in (w, np.asfortranarray(w)):
        blocks = lstm_kernel.in_blocks(whole, B)
        assert np.shares_memory(blocks, whole)
        np.testing.assert_array_equal(blocks.reshape(M, K), w)
        n, rows, _ = blocks.shape
        assert n == 1 or (rows >= 16 and rows * K * B <= 10**6)
