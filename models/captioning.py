"""Captioning (Vinyals et al. 2015): a convolutional net sees, a recurrent net says what.

    v   = W CNN(picture) + b                                                              the image vector         (encoder)
    d_t = GRU(y_(t-1), d_(t-1))     d_0 = v, y_0 = <start>; ends when y_t = <end>          letter by letter, or word by word         (decoder)
    P(y_t | y_1 ... y_(t-1), picture) = softmax(V d_t + c)

- T20 Two handwritten digits side by side -> "seven three". The digits of the test are none of those it learned from. Two digits of which
      each is right with probability p make a caption with p².

- G6  Video to text, a small demonstration: frames of a digit that moves -> "seven moves left", word by word. The same CNN looks at every frame, an
      LSTM at what it saw, in order, and the decoder starts with the LSTM's state and the mean over the frames. The mean alone knows no order:
      a film run backwards has the same one, so it cannot tell left from right, nor up from down.

Sources: Vinyals, Toshev, Bengio & Erhan, Show and tell, 2015; Venugopalan et al., Sequence to sequence: video to text, 2015; CS540, CS760 and CMU
11-785, image captioning and video.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import numpy as np

import tinygrad_seq as tg
from models import digits
from models.command_line import run_experiments
from models.experiment import Drawn, Experiment, Run, canvas, experiment
from tinygrad_seq import data, nn, optim, training
from tinygrad_seq.nn import functional as F

NAMES = "zero one two three four five six seven eight nine".split()
MOVES = {"left": (0, -1), "right": (0, 1), "up": (-1, 0), "down": (1, 0)}  # rows and columns from one frame to the next
LETTERS = data.Vocabulary.of(" ".join(NAMES), padding="<pad>", start="<start>", end="<end>")
WORDS = data.Vocabulary([*NAMES, "moves", *MOVES], padding="<pad>", start="<start>", end="<end>", kind="words")

# ---- The model ----------------------------------------------------------------------------------------------------------------------------


class Eye(nn.Module):
    """A convolutional net: pictures (B, channels, height, width) -> image vectors (B, H)."""

    def __init__(self, height: int, width: int, C: int, H: int, *, channels: int = 1, rng: np.random.Generator):
        self.look = nn.Sequential(
            nn.Conv2d(channels, C, 3, padding=1, rng=rng), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(C, 2 * C, 3, padding=1, rng=rng), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        )  # fmt: skip
        self.vector = nn.Linear(2 * C * (height // 4) * (width // 4), H, rng=rng)

    def forward(self, pictures: Any) -> Any:
        """Two convolutions, each with pooling, and a linear layer."""
        return self.vector(self.look(pictures))


class Captioner(nn.Module):
    """An eye, and a decoder that starts with what it saw and writes tokens: letters, or words."""

    def __init__(self, tokens: data.Vocabulary, size: tuple[int, int], C: int, E: int, H: int, *, rng: np.random.Generator):
        self.tokens, self.eye = tokens, Eye(*size, C, H, rng=rng)
        self.write, self.decoder = nn.Embedding(len(tokens), E, rng=rng), nn.GRU(E, H, rng=rng)
        self.score = nn.Linear(H, len(tokens), rng=rng)

    def encode(self, pictures: Any) -> Any:
        """The decoder's first state, (1, B, H)."""
        return self.eye(pictures[:, None])[None]

    def decode(self, ys: Any, state: Any) -> tuple[Any, Any]:
        """Tokens written (T, B) -> scores of the tokens that follow (T, B, V), and the state to go on from."""
        ds, state = self.decoder(self.write(ys), state)
        return self.score(ds), state

    def forward(self, pictures: Any, ys: Any) -> Any:
        """The scores of whole captions at once, each token told what stood before it."""
        return self.decode(ys, self.encode(pictures))[0]


class Narrator(Captioner):
    """The same for films (N, B, height, width): the eye sees every frame, and with `order` an LSTM reads what it saw."""

    def __init__(self, side: int, C: int, E: int, H: int, *, order: bool, rng: np.random.Generator):
        super().__init__(WORDS, (side, side), C, E, H, rng=rng)
        self.frames = nn.LSTM(H, H, rng=rng) if order else None

    def encode(self, films: Any) -> Any:
        N, B, *size = films.shape
        bright = 4 * (films.reshape(N * B, 1, *size) - 0.15)  # about mean 0 and variance 1
        seen = self.eye(bright).reshape(N, B, -1)
        mean = seen.mean(axis=0)[None]
        return mean if self.frames is None else mean + self.frames(F.relu(seen))[1][0]


def caption_loss(model: Captioner, batch: Any) -> Any:
    """Cross entropy of every token of the captions, their <end> among them."""
    pictures, ys, lengths = batch
    return F.over_time(F.cross_entropy, model(pictures, ys[:-1]), ys[1:], lengths - 1)


def trained(run: Run, name: str, model: Captioner, batches: Drawn, c: TwoDigits | Moving) -> training.History:
    """Adam, its rate rising and falling once."""
    adam = optim.Adam(model.parameters(), lr=c.learning_rate)
    schedule = optim.lr_scheduler.OneCycleLR(adam, c.learning_rate, total_steps=c.steps)
    return run.fit(name, model, caption_loss, adam, batches, steps=c.steps, schedule=schedule, clip_norm=1.0)


def captions(model: Captioner, pictures: Any, longest: int = 20) -> list[str]:
    """What the model says of each picture, always the most probable token."""
    start, end = model.tokens.encode([model.tokens.start, model.tokens.end])
    with training.evaluating(model):
        state = model.encode(pictures)
        ys = [np.full(state.shape[1], start)]
        while len(ys) <= longest and not (np.array(ys) == end).any(axis=0).all():
            scores, state = model.decode(ys[-1][None], state)
            ys.append(scores[0].numpy().argmax(axis=-1))
    return [model.tokens.decode(row).split("<end>")[0].strip() for row in np.array(ys[1:]).T]


def encoded(texts: list[str], tokens: data.Vocabulary) -> Any:
    """Captions as numbers between <start> and <end>: (T, B), and their lengths."""
    return data.pad([tokens.encode(text, start=True, end=True) for text in texts])


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
    model = Captioner(LETTERS, (8, 16), c.channels, c.embed, c.hidden, rng=run.rng("model"))

    def drawn(rng: np.random.Generator) -> Any:
        pictures, called = two_digits(known, c.batch, rng, shift=True)
        return pictures, *encoded(called, LETTERS)

    history = trained(run, "captioner", model, Drawn(drawn, run.rng("pairs")), c)

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
    rows, wide = -(-len(pictures) // columns), 8.8 / columns  # inches
    high = wide * pictures.shape[1] / pictures.shape[2] + 0.4
    drawn = canvas(wide * columns, high * rows)
    for axes, picture, text, true in zip(drawn.subplots(rows, columns).flat, pictures, said, called, strict=False):
        axes.imshow(picture, cmap="gray_r", vmin=0, vmax=1, interpolation="nearest")
        axes.set_title(text, fontsize=10, color="black" if text == true else "crimson")
        axes.set_xticks([])
        axes.set_yticks([])
    return drawn


# ---- G6: a digit that moves ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Moving:
    """The settings of G6."""

    channels: int = 12  # C of the first convolution
    embed: int = 16  # E
    hidden: int = 64  # H
    steps: int = 700
    batch: int = 64
    learning_rate: float = 5e-3
    frames: int = 4  # N
    side: int = 12  # of the field, in pixels
    tested: int = 500  # films


def films(known: digits.Digits, count: int, frames: int, side: int, rng: np.random.Generator) -> tuple[Any, list[str]]:
    """Digits that move over a square field, a pixel from frame to frame: (frames, count, side, side), and what happens."""
    which, ways = rng.integers(0, len(known.labels), count), rng.integers(0, 4, count)
    field = np.zeros((frames, count, side, side), "float32")
    names, path = list(MOVES), frames - 1
    for n, (k, way) in enumerate(zip(which, ways, strict=True)):
        step = np.array(MOVES[names[way]])
        first = rng.integers(np.where(step < 0, path, 0), side - 7 - np.where(step > 0, path, 0))
        for t in range(frames):
            y, x = first + t * step
            field[t, n, y : y + 8, x : x + 8] = known.images[k]
    return field, [f"{NAMES[known.labels[k]]} moves {names[way]}" for k, way in zip(which, ways, strict=True)]


@experiment(
    "G6", "Video to text: a digit that moves", rows="G6", quick=Moving(steps=300, tested=200), full=Moving(), seconds=(8, 40)
)
def video(run: Run, config: Moving) -> None:
    """The frames in order, or their mean alone: the same steps."""
    c = config
    known, new = digits.load()
    shown, happens = films(new, c.tested, c.frames, c.side, run.rng("test"))

    def drawn(rng: np.random.Generator) -> Any:
        films_shown, told = films(known, c.batch, c.frames, c.side, rng)
        return films_shown, *encoded(told, WORDS)

    def narrator(name: str, order: bool) -> Narrator:
        model = Narrator(c.side, c.channels, c.embed, c.hidden, order=order, rng=run.rng(name))
        trained(run, name, model, Drawn(drawn, run.rng("films")), c)
        return model

    def word(said: list[str], true: list[str], k: int) -> float:
        return share_right([" ".join(text.split()[k : k + 1]) for text in said], [text.split()[k] for text in true])

    in_order = narrator("in order", True)
    said = captions(in_order, shown)
    run.result(
        f"frames in order: sentences right of {c.tested} films of digits never seen",
        share_right(said, happens),
        at_least=0.9,
        quick=0.3,
    )
    run.result("frames in order: the digit", word(said, happens, 0))
    run.result("frames in order: the way", word(said, happens, 2), at_least=0.97, quick=0.5)
    other = dict(zip(MOVES, ("right", "left", "down", "up"), strict=True))
    turned = [" ".join([*text.split()[:2], other[text.split()[2]]]) for text in happens]
    run.result("films run backwards: the other way", word(captions(in_order, shown[::-1]), turned, 2), at_least=0.97, quick=0.5)
    without = captions(narrator("mean", False), shown)
    run.result("mean of the frames: the digit", word(without, happens, 0))
    run.result("mean of the frames: the way (at best the axis: 0.5)", word(without, happens, 2), at_most=0.6)
    run.write("sentences.txt", "\n".join(f"{a:20} {b}" for a, b in zip(said, happens, strict=True)))
    strips = np.concatenate(list(np.pad(shown[:, :6], [(0, 0), (0, 0), (0, 0), (0, 1)], constant_values=0.3)), axis=2)
    run.figure("films.png", lambda: gallery(strips, said[:6], happens[:6], columns=2))


# ---- The command --------------------------------------------------------------------------------------------------------------------------

EXPERIMENTS: list[Experiment] = [captioning, video]


def main(argv: list[str] | None = None) -> int:
    """Run the experiments; `--help` names the options."""
    return run_experiments(__doc__, EXPERIMENTS, argv)


if __name__ == "__main__":
    sys.exit(main())
