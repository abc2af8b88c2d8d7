"""Losses as modules: they hold a loss's options; weights are buffers. The formulas are in `nn.functional`."""

from __future__ import annotations

from typing import Any, ClassVar

from ..errors import ArgumentError, message
from ..tensor import Tensor
from . import functional as F
from .functional.reduction import known_reduction
from .module import Module


class _Loss(Module):
    """What all losses share: a reduction, and how they print."""

    _usual: ClassVar[dict[str, Any]] = {}  # options and their defaults: others are shown

    def __init__(self, reduction: str):
        known_reduction(type(self).__name__, reduction, *(("batchmean",) if isinstance(self, KLDivLoss) else ()))
        self.reduction = reduction

    def extra_repr(self) -> str:
        """The options that are not the usual ones."""
        usual = {**self._usual, "reduction": "mean"}
        return ", ".join(f"{name}={getattr(self, name)!r}" for name, value in usual.items() if getattr(self, name) != value)


def _buffer(weight: Any) -> Tensor | None:
    if isinstance(weight, str):
        raise ArgumentError(message(f"weight = {weight!r}", expected="numbers: how much each counts", do=f"reduction={weight!r}"))
    return None if weight is None else Tensor(weight)


# ---- Classes and answers -------------------------------------------------------------------------------------------------------------


class CrossEntropyLoss(_Loss):
    """The surprise of a classifier at the true classes, from its scores (..., C): see `nn.functional.cross_entropy`.

    Classes are the last axis; axis=1 is PyTorch's layout (N, C, ...).
    """

    _usual: ClassVar = {"ignore_index": -100, "label_smoothing": 0.0, "axis": -1}

    def __init__(
        self,
        weight: Any = None,
        *,
        ignore_index: int = -100,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
        axis: int = -1,
    ):
        super().__init__(reduction)
        self.weight, self.ignore_index, self.label_smoothing, self.axis = _buffer(weight), ignore_index, label_smoothing, axis

    def forward(self, logits: Any, targets: Any) -> Any:
        """logits (..., C), targets (...) class indices, or probabilities (..., C)."""
        return F.cross_entropy(
            logits,
            targets,
            self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            label_smoothing=self.label_smoothing,
            axis=self.axis,
        )


class NLLLoss(_Loss):
    """The negative log likelihood of the true classes, from log probabilities (..., C): see `nn.functional.nll_loss`."""

    _usual: ClassVar = {"ignore_index": -100, "axis": -1}

    def __init__(self, weight: Any = None, *, ignore_index: int = -100, reduction: str = "mean", axis: int = -1):
        super().__init__(reduction)
        self.weight, self.ignore_index, self.axis = _buffer(weight), ignore_index, axis

    def forward(self, log_probs: Any, targets: Any) -> Any:
        """log_probs (..., C), targets (...) class indices."""
        return F.nll_loss(log_probs, targets, self.weight, ignore_index=self.ignore_index, reduction=self.reduction, axis=self.axis)


class BCELoss(_Loss):
    """The surprise of a probability of yes at the answer: see `nn.functional.binary_cross_entropy`."""

    def __init__(self, weight: Any = None, *, reduction: str = "mean"):
        super().__init__(reduction)
        self.weight = _buffer(weight)

    def forward(self, p: Any, targets: Any) -> Any:
        """p, targets (...), between 0 and 1."""
        return F.binary_cross_entropy(p, targets, self.weight, reduction=self.reduction)


class BCEWithLogitsLoss(_Loss):
    """The surprise of a score of yes at the answer: see `nn.functional.binary_cross_entropy_with_logits`."""

    def __init__(self, weight: Any = None, *, reduction: str = "mean", pos_weight: Any = None):
        super().__init__(reduction)
        self.weight, self.pos_weight = _buffer(weight), _buffer(pos_weight)

    def forward(self, logits: Any, targets: Any) -> Any:
        """logits, targets (...), targets between 0 and 1."""
        return F.binary_cross_entropy_with_logits(
            logits, targets, self.weight, reduction=self.reduction, pos_weight=self.pos_weight
        )


class MultiLabelSoftMarginLoss(_Loss):
    """`BCEWithLogitsLoss` of C questions, averaged over them."""

    def __init__(self, weight: Any = None, *, reduction: str = "mean"):
        super().__init__(reduction)
        self.weight = _buffer(weight)

    def forward(self, logits: Any, targets: Any) -> Any:
        """logits, targets (..., C)."""
        return F.multilabel_soft_margin_loss(logits, targets, self.weight, reduction=self.reduction)


class KLDivLoss(_Loss):
    """The Kullback-Leibler divergence of a prediction from the truth: see `nn.functional.kl_div`."""

    _usual: ClassVar = {"log_target": False}

    def __init__(self, *, reduction: str = "mean", log_target: bool = False):
        super().__init__(reduction)
        self.log_target = log_target

    def forward(self, log_probs: Any, targets: Any) -> Any:
        """log_probs, targets (...)."""
        return F.kl_div(log_probs, targets, reduction=self.reduction, log_target=self.log_target)


class CTCLoss(_Loss):
    """The surprise at a labelling, summed over all its alignments in time: see `nn.functional.ctc_loss`."""

    _usual: ClassVar = {"blank": 0, "zero_infinity": False}

    def __init__(self, blank: int = 0, reduction: str = "mean", zero_infinity: bool = False):
        super().__init__(reduction)
        self.blank, self.zero_infinity = blank, zero_infinity

    def forward(self, log_probs: Any, targets: Any, input_lengths: Any, target_lengths: Any) -> Any:
        """log_probs (T, B, C), targets (B, S), the lengths (B,)."""
        return F.ctc_loss(log_probs, targets, input_lengths, target_lengths, self.blank, self.reduction, self.zero_infinity)


# ---- Numbers -------------------------------------------------------------------------------------------------------------------------


class MSELoss(_Loss):
    """The squared error: see `nn.functional.mse_loss`."""

    def __init__(self, *, reduction: str = "mean"):
        super().__init__(reduction)

    def forward(self, outputs: Any, targets: Any) -> Any:
        """outputs, targets (...)."""
        return F.mse_loss(outputs, targets, reduction=self.reduction)


class L1Loss(_Loss):
    """The absolute error: see `nn.functional.l1_loss`."""

    def __init__(self, *, reduction: str = "mean"):
        super().__init__(reduction)

    def forward(self, outputs: Any, targets: Any) -> Any:
        """outputs, targets (...)."""
        return F.l1_loss(outputs, targets, reduction=self.reduction)


class SmoothL1Loss(_Loss):
    """The absolute error with its kink rounded off: see `nn.functional.smooth_l1_loss`."""

    _usual: ClassVar = {"beta": 1.0}

    def __init__(self, *, reduction: str = "mean", beta: float = 1.0):
        super().__init__(reduction)
        self.beta = beta

    def forward(self, outputs: Any, targets: Any) -> Any:
        """outputs, targets (...)."""
        return F.smooth_l1_loss(outputs, targets, reduction=self.reduction, beta=self.beta)


class HuberLoss(_Loss):
    """Half the squared error, with straight arms: see `nn.functional.huber_loss`."""

    _usual: ClassVar = {"delta": 1.0}

    def __init__(self, reduction: str = "mean", delta: float = 1.0):
        super().__init__(reduction)
        self.delta = delta

    def forward(self, outputs: Any, targets: Any) -> Any:
        """outputs, targets (...)."""
        return F.huber_loss(outputs, targets, reduction=self.reduction, delta=self.delta)


class GaussianNLLLoss(_Loss):
    """The surprise of a normal distribution whose mean and variance are predicted: see `nn.functional.gaussian_nll_loss`."""

    _usual: ClassVar = {"full": False, "eps": 1e-6}

    def __init__(self, *, full: bool = False, eps: float = 1e-6, reduction: str = "mean"):
        super().__init__(reduction)
        self.full, self.eps = full, eps

    def forward(self, outputs: Any, targets: Any, var: Any) -> Any:
        """outputs, targets (...), var a number or (...), where one axis may be 1 or the last be missing."""
        return F.gaussian_nll_loss(outputs, targets, var, full=self.full, eps=self.eps, reduction=self.reduction)


class PoissonNLLLoss(_Loss):
    """The surprise of a Poisson distribution whose mean is predicted: see `nn.functional.poisson_nll_loss`."""

    _usual: ClassVar = {"log_input": True, "full": False, "eps": 1e-8}

    def __init__(self, log_input: bool = True, full: bool = False, *, eps: float = 1e-8, reduction: str = "mean"):
        super().__init__(reduction)
        self.log_input, self.full, self.eps = log_input, full, eps

    def forward(self, outputs: Any, targets: Any) -> Any:
        """outputs, targets (...)."""
        return F.poisson_nll_loss(
            outputs, targets, log_input=self.log_input, full=self.full, eps=self.eps, reduction=self.reduction
        )


# ---- Comparisons ---------------------------------------------------------------------------------------------------------------------


class CosineSimilarity(Module):
    """The cosine of the angle between vectors along an axis: see `nn.functional.cosine_similarity`."""

    def __init__(self, axis: int = 1, eps: float = 1e-8):
        self.axis, self.eps = axis, eps

    def forward(self, a: Any, b: Any) -> Any:
        """a, b (..., D, ...) -> without the axis."""
        return F.cosine_similarity(a, b, self.axis, self.eps)


class CosineEmbeddingLoss(_Loss):
    """Like vectors should point the same way, unlike ones apart: see `nn.functional.cosine_embedding_loss`."""

    _usual: ClassVar = {"margin": 0.0}

    def __init__(self, margin: float = 0.0, *, reduction: str = "mean"):
        super().__init__(reduction)
        self.margin = margin

    def forward(self, a: Any, b: Any, targets: Any) -> Any:
        """a, b (..., D), targets (...), 1 or -1."""
        return F.cosine_embedding_loss(a, b, targets, self.margin, reduction=self.reduction)


class HingeEmbeddingLoss(_Loss):
    """A distance should be small for like things, at least the margin for unlike ones: see `nn.functional.hinge_embedding_loss`."""

    _usual: ClassVar = {"margin": 1.0}

    def __init__(self, margin: float = 1.0, *, reduction: str = "mean"):
        super().__init__(reduction)
        self.margin = margin

    def forward(self, x: Any, targets: Any) -> Any:
        """x (...), targets (...), 1 or -1."""
        return F.hinge_embedding_loss(x, targets, self.margin, reduction=self.reduction)


class MarginRankingLoss(_Loss):
    """One score should be above the other by a margin: see `nn.functional.margin_ranking_loss`."""

    _usual: ClassVar = {"margin": 0.0}

    def __init__(self, margin: float = 0.0, *, reduction: str = "mean"):
        super().__init__(reduction)
        self.margin = margin

    def forward(self, a: Any, b: Any, targets: Any) -> Any:
        """a, b (...), targets (...), 1 or -1."""
        return F.margin_ranking_loss(a, b, targets, self.margin, reduction=self.reduction)


class SoftMarginLoss(_Loss):
    """The surprise of a score at a sign: see `nn.functional.soft_margin_loss`."""

    def __init__(self, *, reduction: str = "mean"):
        super().__init__(reduction)

    def forward(self, x: Any, targets: Any) -> Any:
        """x (...), targets (...), 1 or -1."""
        return F.soft_margin_loss(x, targets, reduction=self.reduction)


class MultiMarginLoss(_Loss):
    """The score of the true class should be above every other by a margin: see `nn.functional.multi_margin_loss`."""

    _usual: ClassVar = {"p": 1, "margin": 1.0}

    def __init__(self, p: int = 1, margin: float = 1.0, weight: Any = None, *, reduction: str = "mean"):
        super().__init__(reduction)
        self.p, self.margin, self.weight = p, margin, _buffer(weight)

    def forward(self, scores: Any, targets: Any) -> Any:
        """scores (..., C), targets (...) class indices."""
        return F.multi_margin_loss(scores, targets, self.p, self.margin, self.weight, reduction=self.reduction)


class MultiLabelMarginLoss(_Loss):
    """The score of every true class should be above that of every other by 1: see `nn.functional.multilabel_margin_loss`."""

    def __init__(self, *, reduction: str = "mean"):
        super().__init__(reduction)

    def forward(self, scores: Any, targets: Any) -> Any:
        """scores (..., C), targets (..., C) class indices, of which those before the first -1 count."""
        return F.multilabel_margin_loss(scores, targets, reduction=self.reduction)


class TripletMarginLoss(_Loss):
    """An anchor should be nearer to what is like it than to what is not: see `nn.functional.triplet_margin_loss`."""

    _usual: ClassVar = {"margin": 1.0, "p": 2.0, "eps": 1e-6, "swap": False}

    def __init__(self, margin: float = 1.0, p: float = 2.0, eps: float = 1e-6, swap: bool = False, *, reduction: str = "mean"):
        super().__init__(reduction)
        self.margin, self.p, self.eps, self.swap = margin, p, eps, swap

    def forward(self, anchor: Any, positive: Any, negative: Any) -> Any:
        """anchor, positive, negative (..., D)."""
        return F.triplet_margin_loss(anchor, positive, negative, self.margin, self.p, self.eps, self.swap, reduction=self.reduction)
