"""Handwritten digits, 8x8: data of several systems, and a judge of pictures that were made up. It is no system.

1,797 pictures of the digits 0 to 9 (Alpaydin & Kaynak 1998, UCI), as scikit-learn carries them; pip install -e ".[models]".
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from models.experiment import canvas, needed


class Digits(NamedTuple):
    """Pictures (N, 8, 8) between 0 and 1 in float32, and labels (N,)."""

    images: Any
    labels: Any

    @property
    def flat(self) -> Any:
        """The pictures as rows, (N, 64)."""
        return self.images.reshape(len(self.images), 64)


def load() -> tuple[Digits, Digits]:
    """1,347 digits to learn from and 450 to test on, always the same ones, each tenth of both a digit."""
    everything = needed("sklearn.datasets", "scikit-learn").load_digits()
    train, test = needed("sklearn.model_selection", "scikit-learn").train_test_split(
        np.arange(len(everything.target)), test_size=450, random_state=0, stratify=everything.target
    )
    images, labels = (everything.images / 16).astype("float32"), everything.target.astype("int64")
    return Digits(images[train], labels[train]), Digits(images[test], labels[test])


class Judgement(NamedTuple):
    """What the judge says of pictures: `confidence`, the mean of its greatest class probability; `smallest_share` of a class among them;
    `frechet`, the distance of their pixels' mean and covariance to those of digits that nobody learned from; `nearest`, the median distance to
    the nearest digit to learn from: pictures that were learned by heart are at 0.
    """

    confidence: float
    smallest_share: float
    frechet: float
    nearest: float


class Judge:
    """Judges pictures by real digits: logistic regression (scikit-learn's) and nearest neighbours of those to learn from, moments of pixels of
    those held out: `Judge(*load())`.

    A smallest share and a Fréchet distance depend on how many pictures there are, so it judges them by 500 and returns the means.
    """

    def __init__(self, train: Digits, held_out: Digits):
        self.train, self.held_out = train.flat.astype("float64"), held_out.flat.astype("float64")
        self.classes = logistic_regression(self.train, train.labels)

    def __call__(self, pictures: Any) -> Judgement:
        """Judge pictures (N, 8, 8) or (N, 64)."""
        rows = np.asarray(pictures, dtype="float64").reshape(len(pictures), 64)
        return Judgement(*np.mean([self._judged(part) for part in np.array_split(rows, max(1, len(rows) // 500))], axis=0).tolist())

    def _judged(self, rows: Any) -> Judgement:
        p = self.classes.predict_proba(rows)
        shares = np.bincount(p.argmax(1), minlength=10) / len(rows)
        squares = (rows**2).sum(1)[:, None] - 2 * rows @ self.train.T + (self.train**2).sum(1)
        nearest = np.sqrt(np.maximum(squares.min(1), 0))
        return Judgement(float(p.max(1).mean()), float(shares.min()), frechet(rows, self.held_out), float(np.median(nearest)))


def logistic_regression(x: Any, labels: Any) -> Any:
    """scikit-learn's classifier, fitted to rows x (N, D) and their labels (N,)."""
    return needed("sklearn.linear_model", "scikit-learn").LogisticRegression(max_iter=2000).fit(x, labels)


def frechet(a: Any, b: Any) -> float:
    """Fréchet distance between normal distributions with the moments of the rows of a and b: |μ - ν|² + tr(Σ + Τ - 2 (Σ Τ)^½)."""
    mean = ((a.mean(0) - b.mean(0)) ** 2).sum()
    s, t = np.cov(a.T), np.cov(b.T)
    cross = np.sqrt(
        np.maximum(np.linalg.eigvals(s @ t).real, 0)
    ).sum()  # tr (Σ Τ)^½: the product has the eigenvalues of a positive matrix
    return float(mean + np.trace(s) + np.trace(t) - 2 * cross)


def sheet(pictures: Any, columns: int = 10) -> Any:
    """Pictures (N, 8, 8) or (N, 64) side by side on one matplotlib Figure, ink on paper."""
    images = np.asarray(pictures).reshape(-1, 8, 8)
    rows = -(-len(images) // columns)
    paper = np.zeros((rows * 9 - 1, columns * 9 - 1))
    for n, image in enumerate(images):
        y, x = n // columns * 9, n % columns * 9
        paper[y : y + 8, x : x + 8] = image
    drawn = canvas(columns * 0.45, rows * 0.45, layout=None)
    axes = drawn.add_axes((0, 0, 1, 1))
    axes.imshow(paper, cmap="gray_r", vmin=0, vmax=1, interpolation="nearest")
    axes.set_axis_off()
    return drawn
