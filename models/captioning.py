"""Captioning (Vinyals et al. 2015): a convolutional net sees, a recurrent net says what.

    v   = W CNN(picture) + b                                                              the image vector         (encoder)
    d_t = GRU(y_(t-1), d_(t-1))     d_0 = v, y_0 = <start>; ends when y_t = <end>          letter by letter         (decoder)
    P(y_t | y_1 ... y_(t-1), picture) = softmax(V d_t + c)

- T20 Two handwritten digits side by side -> "seven three". The digits of the test are none of those it learned from. Two digits of which
      each is right with probability p make a caption with p².

Video to text (the same CNN at every frame of a film, an LSTM over what it saw) is not shown here: sentences such as "seven moves left" were tried
with this decoder, which learned the digit and not the way it moved.

Sources: Vinyals, Toshev, Bengio & Erhan, Show and tell, 2015; CS540, CS760 and CMU 11-785, image captioning.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import numpy as np

import tinygrad_seq as tg
from models import digits
from models.experiment import Drawn, Experiment, Run, experiment, needed, run_experiments
from tinygrad_seq import data, nn, optim, training
from tinygrad_seq.nn import functional as F

NAMES = "zero one two three four five six seven eight nine".split()
LETTERS = data.Vocabulary.of(" ".join(NAMES), padding="<pad>", start="<start>", end="<end>")
START, END = (int(i) for i in LETTERS.encode(["<start>", "<end>"]))

# ---- The model ----------------------------------------------------------------------------------------------------------------------------


class Eye(nn.Module):
    """A convolutional net: pictures (B, height, width) -> image vectors (B, H)."""

    def __init__(self, height: int, width: int, C: int, H: int, *, rng: np.random.Generator):
        self.look = nn.Sequential(
            nn.Conv2d(1, C, 3, padding=1, rng=rng), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(C, 2 * C, 3, padding=1, rng=rng), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        )  # fmt: skip
        self.vector = nn.Linear(2 * C * (height // 4) * (width // 4), H, rng=rng)

    def forward(self, pictures: Any) -> Any:
        """Two convolutions, each with pooling, and a linear layer."""
        return self.vector(self.look(pictures[:, None]))


class Captioner(nn.Module):
    """An eye, and a decoder that starts with what it saw."""

    def __init__(self, height: int, width: int, C: int, E: int, H: int, *, rng: np.random.Generator):
        self.eye = Eye(height, width, C, H, rng=rng)
        self.write, self.decoder = nn.Embedding(len(LETTERS), E, rng=rng), nn.GRU(E, H, rng=rng)
        self.score = nn.Linear(H, len(LETTERS), rng=rng)

    def encode(self, pictures: Any) -> Any:
        """The decoder's first state, (1, B, H)."""
        return self.eye(pictures)[None]

    def decode(self, ys: Any, state: Any) -> tuple[Any, Any]:
        """Letters written (T, B) -> scores of the letters that follow (T, B, V), and the state to go on from."""
        ds, state = self.decoder(self.write(ys), state)
        return self.score(ds), state

    def forward(self, pictures: Any, ys: Any) -> Any:
        """The scores of whole captions at once, each letter told what stood before it."""
        return self.decode(ys, self.encode(pictures))[0]


def caption_loss(model: Captioner, batch: Any) -> Any:
    """Cross entropy of every letter of the captions, their <end> among them."""
    pictures, ys, lengths = batch
    return F.over_time(F.cross_entropy, model(pictures, ys[:-1]), ys[1:], lengths - 1)


def captions(model: Captioner, pictures: Any, longest: int = 20) -> list[str]:
    """What the model says of each picture, always the most probable letter."""
    with training.evaluating(model):
        state = model.encode(pictures)
        ys = [np.full(state.shape[1], START)]
        while len(ys) <= longest and not (np.array(ys) == END).any(axis=0).all():
            scores, state = model.decode(ys[-1][None], state)
            ys.append(scores[0].numpy().argmax(axis=-1))
    return [LETTERS.decode(row).split("<end>")[0] for row in np.array(ys[1:]).T]


def encoded(texts: list[str]) -> Any:
    """Captions as numbers between <start> and <end>: (T, B), and their lengths."""
    return data.pad([LETTERS.encode(text, start=True, end=True) for text in texts])


def share_right(said: list[str], true: list[str]) -> float:
    """The share of captions that are right in every letter."""
    return float(np.mean([a == b for a, b in zip(said, true, strict=True)]))


# ---- T20: two digits ----------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TwoDigits:
    """The settings of T20."""

    channels: int = 16  # C of the first convolution
    embed: int = 16  # E
    hidden: int = 96  # H
    steps: int = 2000
    batch: int = 64
    learning_rate: float = 5e-3
    tested: int = 1000  # pairs


def shifted(images: Any, rng: np.random.Generator) -> Any:
    """Pictures (N, 8, 8), each moved by at most one pixel each way: a digit is what it is, wherever it stands."""
    wide = np.pad(images, [(0, 0), (1, 1), (1, 1)])
    moves = rng.integers(0, 3, (len(images), 2))
    return np.stack([image[y : y + 8, x : x + 8] for image, (y, x) in zip(wide, moves, strict=True)])


def two_digits(known: digits.Digits, count: int, rng: np.random.Generator, *, shift: bool = False) -> tuple[Any, list[str]]:
    """Pairs of digits as pictures (count, 8, 16), and what they are called."""
    a, b = rng.integers(0, len(known.labels), (2, count))
    left, right = (shifted(known.images[one], rng) if shift else known.images[one] for one in (a, b))
    called = [f"{NAMES[p]} {NAMES[q]}" for p, q in zip(known.labels[a], known.labels[b], strict=True)]
    return np.concatenate([left, right], axis=2), called


@experiment(
    "T20",
    "Two digits in a picture, in words",
    rows="G5",
    quick=TwoDigits(channels=12, hidden=64, steps=450, tested=300),
    full=TwoDigits(),
    seconds=(9, 31),
)
def captioning(run: Run, config: TwoDigits) -> None:
    """A CNN, and a GRU that starts with its image vector."""
    c = config
    known, new = digits.load()
    rng = run.rng("model")
    model = Captioner(8, 16, c.channels, c.embed, c.hidden, rng=rng)
    adam = optim.Adam(model.parameters(), lr=c.learning_rate)

    def drawn(rng: np.random.Generator) -> Any:
        pictures, called = two_digits(known, c.batch, rng, shift=True)
        return pictures, *encoded(called)

    schedule = optim.lr_scheduler.OneCycleLR(adam, c.learning_rate, total_steps=c.steps)
    batches = Drawn(drawn, run.rng("pairs"))
    history = run.fit("captioner", model, caption_loss, adam, batches, steps=c.steps, schedule=schedule, clip_norm=1.0)

    pictures, called = two_digits(new, c.tested, run.rng("test"))
    said = captions(model, pictures)
    run.result(f"captions right of {c.tested} pairs of digits never seen", share_right(said, called), at_least=0.92, quick=0.3)
    places = [np.mean([a.split()[k : k + 1] == b.split()[k : k + 1] for a, b in zip(said, called, strict=True)]) for k in (0, 1)]
    run.result("the first digit", places[0])
    run.result("the second digit", places[1])
    run.result("captions that are two names of digits", np.mean([known_words(text) for text in said]), at_least=0.95, quick=0.8)
    run.write("captions.txt", "\n".join(f"{a:12} {b}" for a, b in zip(said, called, strict=True)))
    run.figure("captions.png", lambda: gallery(pictures[:12], said[:12], called[:12]))
    run.figure("training.svg", lambda: tg.plot.training(history))


def known_words(text: str) -> bool:
    """Whether a caption is two names of digits: nobody told the decoder that there are words."""
    return len(text.split()) == 2 and all(word in NAMES for word in text.split())


def gallery(pictures: Any, said: list[str], called: list[str], columns: int = 4) -> Any:
    """Pictures, each beneath what was said of it, in red where that is wrong: a matplotlib Figure."""
    needed("matplotlib", "matplotlib", "viz")
    from matplotlib.figure import Figure

    rows = -(-len(pictures) // columns)
    drawn = Figure(figsize=(2.2 * columns, 1.5 * rows), layout="constrained")
    for axes, picture, text, true in zip(drawn.subplots(rows, columns).flat, pictures, said, called, strict=False):
        axes.imshow(picture, cmap="gray_r", vmin=0, vmax=1, interpolation="nearest")
        axes.set_title(text, fontsize=10, color="black" if text == true else "crimson")
        axes.set_xticks([])
        axes.set_yticks([])
    return drawn


# ---- The command --------------------------------------------------------------------------------------------------------------------------

EXPERIMENTS: list[Experiment] = [captioning]


def main(argv: list[str] | None = None) -> int:
    """Run the experiments; `--help` names the options."""
    return run_experiments(__doc__, EXPERIMENTS, argv)


if __name__ == "__main__":
    sys.exit(main())
