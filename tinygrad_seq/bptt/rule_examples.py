"""Small examples on which `rules` shows an op, the texts that are written by hand, and what the words of a text mean."""

from __future__ import annotations

from typing import Any

import numpy as np

X, Y, SQUARES = (2, 3), (3, 4), (3, 3)  # a tuple among the arguments: an array of that shape; of SQUARES: a regular one
PLACES = np.array([0, 2])
CHOICES = np.array([[2, 0], [1, 1]])
MASK = np.array([[True, False, True], [False, True, True]])
CLASSES = np.array([2, 0])

# fmt: off
EXAMPLES: dict[str, tuple[list[Any], dict[str, Any]]] = {
    # shapes
    "reshape": ([X], {"shape": (3, 2)}), "ravel": ([X], {}), "swapaxes": ([X], {"axis1": 0, "axis2": 1}),
    "moveaxis": ([(2, 3, 4)], {"source": 0, "destination": 2}), "expand_dims": ([X], {"axis": 1}), "squeeze": ([(2, 1, 3)], {"axis": 1}),
    "broadcast_to": ([(3,)], {"shape": (2, 3)}), "sum_to": ([X], {"shape": (3,)}), "tile": ([X], {"reps": (2, 2)}),
    "repeat": ([X], {"repeats": 2, "axis": 1}), "flip": ([X], {"axis": 1}), "roll": ([X], {"shift": 1, "axis": 1}),
    "pad": ([X], {"pad_width": 1}), "diag": ([(3,)], {}), "diagonal": ([SQUARES], {}), "tril": ([SQUARES], {}), "triu": ([SQUARES], {}),
    "astype": ([X], {"dtype": "float32"}), "to_device": ([X], {"device": "cpu"}),
    # positions
    "getitem": ([X], {"key": (slice(None), 1)}), "take": ([X], {"indices": PLACES, "axis": 1}),
    "take_along_axis": ([X], {"indices": CHOICES, "axis": 1}), "index_put": ([X], {"key": 1, "v": (3,)}),
    "index_add": ([X], {"key": 1, "v": (3,)}), "masked_fill": ([X, MASK, 0.0], {}), "one_hot": ([CLASSES], {"num_classes": 3}),
    "topk": ([X], {"k": 2}), "sort": ([X], {"axis": 1}), "where": ([MASK, X, X], {}), "clip": ([X, 0.3, 0.6], {}),
    # joining
    "concatenate": ([X, X], {"axis": 1}), "stack": ([X, X], {"axis": 0}), "unstack": ([X], {"axis": 0}),
    "split": ([(2, 4)], {"indices_or_sections": 2, "axis": 1}), "array_split": ([(2, 5)], {"indices_or_sections": 2, "axis": 1}),
    # reductions
    "sum": ([X], {"axis": 1}), "mean": ([X], {"axis": 1}), "var": ([X], {"axis": 1}), "std": ([X], {"axis": 1}),
    "logsumexp": ([X], {"axis": 1}), "prod": ([X], {"axis": 1}), "cumsum": ([X], {"axis": 1}), "cumprod": ([X], {"axis": 1}),
    "max": ([X], {"axis": 1}), "min": ([X], {"axis": 1}), "median": ([X], {"axis": 1}), "arccosh": ([X], {}),
    # products
    "matmul": ([X, Y], {}), "dot": ([X, Y], {}), "inner": ([X, (4, 3)], {}), "outer": ([(2,), (3,)], {}), "tensordot": ([X, Y], {"axes": 1}),
    "einsum": (["nk,km->nm", X, Y], {}), "trace": ([SQUARES], {}), "inv": ([SQUARES], {}), "det": ([SQUARES], {}), "slogdet": ([SQUARES], {}),
    "cholesky": ([SQUARES], {}), "solve": ([SQUARES, Y], {}), "norm": ([X], {"axis": 1}),
    # layers
    "linear": ([X, (4, 3), (4,)], {}), "bilinear": ([X, (2, 4), (5, 3, 4)], {}), "embedding": ([CLASSES, (4, 3)], {}),
    "dropout": ([X], {"rng": 0}), "prelu": ([X, (1,)], {}), "gelu": ([X], {}), "silu": ([X], {}), "mish": ([X], {}), "selu": ([X], {}),
    "relu6": ([X], {}), "hardsigmoid": ([X], {}), "softsign": ([X], {}), "glu": ([(2, 4)], {}),
    "layer_norm": ([X, 3, (3,), (3,)], {}), "rms_norm": ([X, 3, (3,)], {}), "batch_norm": ([X, None, None], {"training": True}),
    "group_norm": ([(2, 4), 2], {}), "conv1d": ([(2, 3, 5), (4, 3, 2), (4,)], {}), "conv2d": ([(2, 3, 5, 4), (4, 3, 2, 2), (4,)], {}),
    "conv_transpose1d": ([(2, 3, 5), (3, 4, 2)], {}), "conv_transpose2d": ([(2, 3, 5, 4), (3, 4, 2, 2)], {}),
    "avg_pool1d": ([(2, 3, 6)], {"kernel_size": 2}), "avg_pool2d": ([(2, 3, 4, 6)], {"kernel_size": 2}),
    "max_pool1d": ([(2, 3, 6)], {"kernel_size": 2}), "max_pool2d": ([(2, 3, 4, 6)], {"kernel_size": 2}),
    "scaled_dot_product_attention": ([X, (4, 3), (4, 5)], {}), "rnn_step": ([X, (2, 4), (4, 3), (4, 4), (4,)], {}),
    # losses
    "cross_entropy": ([X, CLASSES], {}), "nll_loss": ([X, CLASSES], {}), "mse_loss": ([X, X], {}), "l1_loss": ([X, X], {}),
    "binary_cross_entropy": ([X, X], {}),
    "binary_cross_entropy_with_logits": ([X, X], {}), "poisson_nll_loss": ([X, X], {}),
    "ctc_loss": ([(4, 1, 3), np.array([[1, 2]])], {"input_lengths": np.array([4]), "target_lengths": np.array([2])}),
}
# fmt: on

DATA = ("targets",)  # arguments that nobody differentiates by

Text = tuple[str, dict[str, str], dict[str, str]]  # of y, of each gradient, of what these abbreviate

# Rules that are kernels or loops in disguise, in the language of the others. The tests compute what they say.
WRITTEN: dict[str, Text] = {
    "logsumexp": ("log(sum(exp(x), axis=1))", {"x": "expand_dims(g, 1) ⊙ exp(x - expand_dims(y, 1))"}, {}),
    "prod": ("prod(x, axis=1)", {"x": "expand_dims(g, 1) ⊙ others(x, axis=1)"}, {}),
    "cumprod": (
        "cumprod(x, axis=1)",
        {"x": "flip(cumsum(flip(g ⊙ y, axis=1), axis=1), axis=1) ÷ x"},
        {"÷": "as /; where x is 0 the limit, which the rule computes without a division"},
    ),
    "sort": ("sort(x, axis=1)", {"x": "take_along_axis(g, argsort(p, axis=1), axis=1)"}, {"p": "argsort(x, axis=1)"}),
    "topk": (
        "take_along_axis(x, p, axis=1)",
        {"x": "add_along_axis(zeros(x.shape), p, g, axis=1)"},
        {"p": "argsort(-x, axis=1)[..., 0:2]"},
    ),
    "take_along_axis": (
        "take_along_axis(x, indices, axis=1)",
        {"x": "add_along_axis(zeros(x.shape), indices, g, axis=1)"},
        {},
    ),
    "cholesky": (
        "cholesky(x)",
        {"x": "(s + s^T) / 2"},
        {"p": "(tril(y^T g) + tril(y^T g, k=-1)) / 2", "s": "inv(y)^T p inv(y)"},
    ),
    "to_device": ("to_device(x, device)", {"x": "to_device(g, device of x)"}, {}),
    "layer_norm": (
        "n ⊙ weight + bias",
        {
            "x": "(d - mean(d, axis=-1, keepdims=True) - n ⊙ mean(d ⊙ n, axis=-1, keepdims=True)) / s",
            "weight": "sum_to(g ⊙ n, weight.shape)",
            "bias": "sum_to(g, bias.shape)",
        },
        {"s": "sqrt(var(x, axis=-1, keepdims=True) + 1e-05)", "n": "(x - mean(x, axis=-1, keepdims=True)) / s", "d": "g ⊙ weight"},
    ),
    "rms_norm": (
        "n ⊙ weight",
        {"x": "(d - n ⊙ mean(d ⊙ n, axis=-1, keepdims=True)) / s", "weight": "sum_to(g ⊙ n, weight.shape)"},
        {"s": "sqrt(mean(x², axis=-1, keepdims=True) + eps)", "n": "x / s", "d": "g ⊙ weight"},
    ),
    "batch_norm": (
        "n",
        {"x": "(g - mean(g, axis=0, keepdims=True) - n ⊙ mean(g ⊙ n, axis=0, keepdims=True)) / s"},
        {"s": "sqrt(var(x, axis=0, keepdims=True) + 1e-05)", "n": "(x - mean(x, axis=0, keepdims=True)) / s"},
    ),
    "group_norm": (
        "reshape(n, x.shape)",
        {"x": "reshape((d - mean(d, axis=2, keepdims=True) - n ⊙ mean(d ⊙ n, axis=2, keepdims=True)) / s, x.shape)"},
        {
            "r": "reshape(x, (2, 2, 2))",
            "d": "reshape(g, (2, 2, 2))",
            "s": "sqrt(var(r, axis=2, keepdims=True) + 1e-05)",
            "n": "(r - mean(r, axis=2, keepdims=True)) / s",
        },
    ),
    "scaled_dot_product_attention": (
        "p value",
        {"query": "d key / sqrt(K)", "key": "d^T query / sqrt(K)", "value": "p^T g"},
        {
            "K": "query.shape[-1]",
            "p": "softmax(query key^T / sqrt(K), axis=-1)",
            "a": "g value^T",
            "d": "p ⊙ (a - sum(a ⊙ p, axis=-1, keepdims=True))",
        },
    ),
    "cross_entropy": (
        "mean(logsumexp(logits, axis=-1) - sum(logits ⊙ t, axis=-1))",
        {"logits": "g ⊙ (softmax(logits, axis=-1) - t) / N"},
        {"t": "one_hot(targets, logits.shape[-1])", "N": "size(targets)"},
    ),
    "nll_loss": (
        "-mean(sum(log_probs ⊙ t, axis=-1))",
        {"log_probs": "-g ⊙ t / N"},
        {"t": "one_hot(targets, log_probs.shape[-1])", "N": "size(targets)"},
    ),
    "ctc_loss": (
        "-log(p) / 2",
        {"log_probs": "-g ⊙ occupancy / 2"},
        {"p": "the sum over all paths that collapse to the targets, here two symbols, of the product of their probabilities"},
    ),
    "bilinear": (
        "einsum('bi,oij,bj->bo', x1, weight, x2)",
        {
            "x1": "einsum('bo,oij,bj->bi', g, weight, x2)",
            "x2": "einsum('bo,oij,bi->bj', g, weight, x1)",
            "weight": "einsum('bo,bi,bj->oij', g, x1, x2)",
        },
        {},
    ),
}
