"""Composing melodies note by note: a GRU that reads the intervals so far and gives a distribution over the next.

    p(i_1, ..., i_n) = Π_t p(i_t | i_1, ..., i_(t-1))          o_t = V h_t + c,  h_t = GRU(P i_(t-1), h_(t-1))          L = -1/n Σ_t log p(i_t | ...)

- T17  Soprano lines of Bach's chorales, as intervals in semitones; a melody has an end, which is one more symbol. Beside it n-grams, which know the last
       one or two intervals alone (row F12 of the notes: a recurrent network composes). A network that hears where in its scale and phrase it is
       should be less surprised. To compose, draw an interval, feed it back, and so on until the end is drawn.

The n-grams are smoothed: what a long context has not seen, a shorter one tells (MacKay & Peto 1995),

    p_n(i | context) = (count(context, i) + κ p_(n-1)(i | shorter context)) / (count(context) + κ)          p_0 = 1 / V

with the κ that suits the test melodies best, which favours them. Of several settings of one tune (chorales share tunes) one is kept, so that none stands
in both training and test. Only pitches: no durations, no harmony, and, as intervals say nothing of the place, now and then a melody that wanders out of any soprano's
reach. The composer of the lecture (Johnson 2015) has many voices; this has one.

The chorales come with music21 (Cuthbert & Ariza 2010; pip install -e ".[music]"). Where it is not installed, melodies are made by a rule instead: a walk
on a major scale, and the note beneath the table says so.
Sources: CMU 11-785 (2017), "Recurrent Networks"; Johnson, Composing music with recurrent neural networks, hexahedria.com 2015; MacKay & Peto, A
hierarchical Dirichlet language model, 1995.
"""

from __future__ import annotations

import sys
import zipfile
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

import numpy as np

import tinygrad_seq as tg
from models.command_line import run_experiments
from models.experiment import Experiment, Run, canvas, experiment, needed
from tinygrad_seq import data, errors, nn, optim, training
from tinygrad_seq.nn import functional as F

OCTAVE = 12
V = 2 * OCTAVE + 2  # intervals from an octave down to an octave up are 0 ... 24, in semitones
END = V - 1

# ---- The data -----------------------------------------------------------------------------------------------------------------------------


def soprano(score: ElementTree.Element) -> list[int]:
    """The pitches of the first part of a score in MusicXML, as MIDI counts them: 60 is the middle c. Tied notes are one."""
    steps, pitches = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}, []
    for note in score.find("part").iter("note"):
        pitch = note.find("pitch")
        goes_on = any(tie.get("type") == "stop" for tie in note.findall("tie"))
        if pitch is not None and not goes_on and note.find("chord") is None and note.find("grace") is None:
            octave, alter = int(pitch.findtext("octave")), int(pitch.findtext("alter") or 0)
            pitches.append(12 * (octave + 1) + steps[pitch.findtext("step")] + alter)
    return pitches


def chorales() -> list[list[int]]:
    """The soprano lines of the chorales for four voices that music21 carries, one for each tune."""
    tunes: dict[tuple[int, ...], list[int]] = {}
    for path in needed("music21.corpus", "music21", "music").getComposer("bach"):
        if path.suffix == ".mxl":
            with zipfile.ZipFile(path) as file:
                name = next(name for name in file.namelist() if name.endswith("xml") and not name.startswith("META-INF"))
                score = ElementTree.fromstring(file.read(name))
            if [part.findtext("part-name") for part in score.iter("score-part")][:1] == ["Soprano"]:
                pitches = soprano(score)
                tunes.setdefault(tuple(np.diff(pitches[:7]).tolist()), pitches)  # a tune is known by its first six intervals
    return list(tunes.values())


def by_rule(number: int, rng: np.random.Generator) -> list[list[int]]:
    """Melodies without music21: a walk in small steps on a major scale, until it is on the tonic after 30 notes or more."""
    scale, melodies = (0, 2, 4, 5, 7, 9, 11), []
    for _ in range(number):
        degree, pitches = int(rng.choice([0, 2, 4])), []
        while len(pitches) < 30 or pitches[-1] % 12 != 0:
            pitches.append(60 + 12 * (degree // 7) + scale[degree % 7])
            degree = int(np.clip(degree + rng.choice([-2, -1, -1, -1, 0, 1, 1, 1, 2]), -3, 9))
        melodies.append(pitches)
    return melodies


def encoded(pitches: list[int]) -> Any:
    """The symbols of a melody: its intervals, greater ones as an octave, and its end."""
    return np.append(np.clip(np.diff(pitches), -OCTAVE, OCTAVE) + OCTAVE, END)


# ---- The models ---------------------------------------------------------------------------------------------------------------------------


class Composer(nn.Module):
    """A GRU over intervals: ids (T, B) -> scores of the next ones (T, B, V), and the state to go on from."""

    def __init__(self, H: int, E: int, *, dropout: float, rng: np.random.Generator):
        self.embed = nn.Embedding(V, E, rng=rng)
        self.gru = nn.GRU(E, H, rng=rng)
        self.drop = nn.Dropout(dropout, rng=rng)
        self.score = nn.Linear(H, V, rng=rng)

    def forward(self, ids: Any, h: Any = None, lengths: Any = None) -> tuple[Any, Any]:
        hs, h = self.gru(self.drop(self.embed(ids)), h, lengths=lengths)
        return self.score(self.drop(hs)), h


def nats(model: nn.Module, batch: tuple[Any, Any]) -> Any:
    """The mean surprise at the symbols of melodies, ids (T, B) of so many symbols each. Before the first stands the end of another one."""
    ids, lengths = batch
    before = np.concatenate([np.full_like(ids[:1], END), ids[:-1]])
    return F.over_time(F.cross_entropy, model(before, lengths=lengths)[0], ids, lengths)


def ngram_nats(train: list[Any], test: list[Any], order: int, kappa: float) -> float:
    """The same of a smoothed n-gram model that has counted in `train`."""
    p = np.full(V, 1 / V)  # p_0
    for n in range(1, order + 1):
        counts = np.zeros((V,) * n)
        for context in _contexts(train, n):
            counts[context] += 1
        p = (counts + kappa * p) / (counts.sum(axis=-1, keepdims=True) + kappa)
    return -float(np.mean([np.log(p[context]) for context in _contexts(test, order)]))


def _contexts(melodies: list[Any], n: int) -> Any:
    """Every symbol with the n-1 before it; before a melody stand ends."""
    for melody in melodies:
        padded = [END] * (n - 1) + melody.tolist()
        yield from (tuple(padded[t : t + n]) for t in range(len(melody)))


def compose(model: nn.Module, rng: np.random.Generator, temperature: float, start: int = 67, longest: int = 120) -> list[int]:
    """Draw a melody: p(i)^(1/temperature), interval by interval, until the end is drawn. It begins on the g above the middle c."""
    pitches, drawn, h = [start], END, None
    with training.evaluating(model):
        while len(pitches) < longest:
            scores, h = model(np.array([[drawn]]), h)
            drawn = int(rng.choice(V, p=F.softmax(scores.numpy()[0, 0].astype("float64") / temperature)))
            if drawn == END:
                break
            pitches.append(pitches[-1] + drawn - OCTAVE)
    return pitches


def abc(title: str, pitches: list[int]) -> str:
    """A melody in ABC notation, in quarter notes: any abc player reads it. Without bars a sharp holds to the end, so what follows it says "natural"."""
    names, sharp, notes = "C ^C D ^D E F ^F G ^G A ^A B".split(), set(), []
    for p in pitches:
        name = names[p % 12]
        if name[0] == "^":
            sharp.add(name[-1])
        elif name in sharp:
            name = f"={name}"
        notes.append(name + ("'" * (p // 12 - 5) if p >= 60 else "," * (5 - p // 12)))
    lines = [" ".join(notes[i : i + 16]) for i in range(0, len(notes), 16)]
    return "\n".join(["X:1", f"T:{title}", "M:none", "L:1/4", "K:C", *lines, ""])


# ---- T17 ----------------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Music:
    """The settings of T17."""

    hidden: int = 64
    embed: int = 24
    dropout: float = 0.3
    steps: int = 600
    batch: int = 32
    learning_rate: float = 5e-3
    held_out: float = 0.2  # of the melodies to test on, and half as many to choose the best weights by
    temperature: float = 0.9


@experiment(
    "T17", "Melodies: a recurrent network against n-grams", rows="F12", quick=Music(steps=200), full=Music(), seconds=(7, 12)
)
def melodies(run: Run, config: Music) -> None:
    """A GRU is less surprised by the sopranos of unknown chorales than a trigram."""
    c = config
    try:
        found = chorales()
    except errors.MissingDependencyError:
        found = by_rule(220, run.rng("melodies"))
        run.note('music21 is not installed: these melodies were made by a rule. For the chorales: pip install -e ".[music]".')
    songs = [found[k] for k in run.rng("split").permutation(len(found))]
    n = round(c.held_out * len(songs))
    unknown, (test, valid, train) = (
        songs[:n],
        ([encoded(song) for song in part] for part in (songs[:n], songs[n : n + n // 2], songs[n + n // 2 :])),
    )
    run.note(
        f"{len(train)} melodies to learn from, {len(valid)} to choose weights by, {len(test)} to test on, of {np.mean([len(x) for x in test]):.0f} intervals."
    )

    rng = run.rng("composer")
    composer = Composer(c.hidden, c.embed, dropout=c.dropout, rng=rng)
    adam = optim.AdamW(composer.parameters(), lr=c.learning_rate, weight_decay=0.01)
    lengths = [len(song) for song in train]
    batches = data.Loader(train, c.batch, shuffle=True, lengths=lengths, collate=data.pad, rng=run.rng("batches"))
    history = run.fit(
        "composer", composer, nats, adam, batches, steps=c.steps, clip_norm=1.0,
        schedule=optim.lr_scheduler.CosineAnnealingLR(adam, c.steps), evaluate=[data.pad(valid)], every=max(1, c.steps // 20), restore_best=True,
    )  # fmt: skip

    grams = {}
    for order, name in enumerate(("unigram", "bigram", "trigram", "4-gram"), 1):
        grams[name] = min(ngram_nats(train, test, order, kappa) for kappa in (1, 2, 5, 10, 20, 50))
        run.result(f"{name}: nats per interval", grams[name])
    with training.evaluating(composer):
        surprise = float(nats(composer, data.pad(test)))
    run.result(
        f"GRU-{c.hidden}: nats per interval, below the 4-gram (--quick: the trigram)",
        surprise,
        at_most=grams["4-gram"],
        quick=grams["trigram"],
    )

    song = compose(composer, run.rng("sample"), c.temperature)
    run.write("composed.abc", abc(f"Composed, seed {run.seed}", song))
    run.show(abc("composed", song))
    run.figure("training.svg", lambda: tg.plot.training(history))
    run.figure("melodies.svg", lambda: score({"a melody to test on": unknown[0], "composed": song}))


def score(songs: dict[str, list[int]]) -> Any:
    """Melodies as steps of pitch over time."""
    drawn = canvas(8, 1.8 * len(songs))
    for axes, (title, pitches) in zip(drawn.subplots(len(songs), 1, sharex=True), songs.items(), strict=True):
        axes.hlines(pitches, np.arange(len(pitches)), np.arange(1, len(pitches) + 1), color="#00224e", linewidth=3)
        axes.set_title(title, loc="left")
        axes.set_yticks([p for p in range(36, 100) if p % 12 in (0, 7) and min(pitches) - 3 <= p <= max(pitches) + 3])
        axes.set_yticklabels([f"{'c' if p % 12 == 0 else 'g'}{p // 12 - 1}" for p in axes.get_yticks()])
        axes.grid(axis="y", color="0.85")
    axes.set_xlabel("note")
    return drawn


# ---- The command --------------------------------------------------------------------------------------------------------------------------

EXPERIMENTS: list[Experiment] = [melodies]


def main(argv: list[str] | None = None) -> int:
    """Run the experiments; `--help` names the options."""
    return run_experiments(__doc__, EXPERIMENTS, argv)


if __name__ == "__main__":
    sys.exit(main())
