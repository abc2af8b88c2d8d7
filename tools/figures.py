"""Draw the images of the documentation, each from a graph that was just recorded: python tools/figures.py [folder]."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

import tinygrad_seq as tg

IMAGES = Path(__file__).resolve().parent.parent / "docs" / "images"


def weights(rng: np.random.Generator, **shapes: tuple[int, ...]) -> list[Any]:
    return [tg.Tensor(rng.normal(size=s).astype("f4") / 2, requires_grad=True, name=name) for name, s in shapes.items()]


def rnn(T: int = 4, many: bool = True) -> Any:
    """The simple recurrent network of the lectures, with a loss at every step or at the last alone."""
    rng = np.random.default_rng(0)
    W_x, W_h, b, W_y = weights(rng, W_x=(3, 5), W_h=(5, 5), b=(5,), W_y=(5, 2))
    xs, h, losses = tg.tensor(rng.normal(size=(T, 2, 3)).astype("f4")), tg.zeros((2, 5)), []
    for x in tg.steps(xs):
        h = tg.tanh(h @ W_h + x @ W_x + b)
        if many:
            y = h @ W_y
            y.name = "y"
            losses.append((y**2).mean())
            losses[-1].name = "C"
    C = sum(losses) if many else ((h @ W_y - 1) ** 2).mean()
    C.name = "C"
    return C


def lstm(T: int = 3, H: int = 4) -> Any:
    """The LSTM with its gates, op by op."""
    rng = np.random.default_rng(0)
    W_x, W_h, b = weights(rng, W_x=(3, 4 * H), W_h=(H, 4 * H), b=(4 * H,))
    xs, h, c, losses = tg.tensor(rng.normal(size=(T, 2, 3)).astype("f4")), tg.zeros((2, H)), tg.zeros((2, H)), []
    for x in tg.steps(xs):
        z = h @ W_h + x @ W_x + b
        f, i, g, o = (tg.tanh(part) if k == 2 else tg.sigmoid(part) for k, part in enumerate(tg.split(z, 4, axis=-1)))
        for gate, name in ((f, "f"), (i, "i"), (g, "g"), (o, "o")):
            gate.name = name
        c = f * c + i * g
        h = o * tg.tanh(c)
        losses.append((h**2).mean())
        losses[-1].name = "C"
    C = sum(losses)
    C.name = "C"
    return C


def figures() -> dict[str, tg.Drawing]:
    """Every image by its name."""
    layers = tg.nn.RNN(3, 4, num_layers=2, rng=0)
    hs, _ = layers(np.random.default_rng(0).normal(size=(3, 2, 3)).astype("f4"))
    return {
        "rnn_unfolded": tg.draw(rnn()),
        "rnn_gradients": tg.draw(rnn(T=5, many=False), gradients=True),
        "rnn_long": tg.draw(rnn(T=100)),
        "rnn_two_layers": tg.draw((hs**2).mean()),
        "lstm_ops": tg.draw(lstm()),
    }


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, drawing in figures().items():
        for ending in ("svg", "png"):
            print(drawing.save(folder / f"{name}.{ending}"), drawing)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else IMAGES)
