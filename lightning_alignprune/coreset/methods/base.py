"""What a coreset method is: what it records, what it reads off one pass, how it chooses."""

from abc import ABC, abstractmethod

from torch import Tensor
from typing_extensions import override

from lightning_alignprune._checks import check_bool
from lightning_alignprune.coreset.evidence import Evidence, SeenBatch
from lightning_alignprune.functional.coreset import largest_subset
from lightning_alignprune.signals import SampleLoss, Signal


class CoresetMethod(ABC):
    """Choose, once, the samples that a whole run trains on.

    Subclass it, or :class:`ScoredMethod`, for a method of your own.

    Attributes:
        needs_rows: Whether it looks at what was recorded in each epoch.
        needs_pass: Whether it looks at a pass over the training samples after the warm-up.
        reads_features: Whether :meth:`values` looks at features.
        keeps_features: Whether :meth:`choose` does, which takes 4 d bytes a sample.
        needs_labels: Whether the loss must be a classification loss with integer labels.
        averages_scores: Whether it chooses by nothing but scores, which several warm-ups average.
        min_epochs: How many epochs of warm-up it takes at least.
    """

    needs_rows: bool = False
    needs_pass: bool = False
    reads_features: bool = False
    keeps_features: bool = False
    needs_labels: bool = True
    averages_scores: bool = False
    min_epochs: int = 1

    def make_signal(self) -> Signal:
        """Make the signal that is recorded during the warm-up."""
        return SampleLoss()

    def values(self, seen: SeenBatch) -> Tensor:
        """Return one number per sample of a batch of the pass, shape (B,)."""
        return seen.losses

    @abstractmethod
    def choose(self, found: Evidence, count: int) -> Tensor:
        """Return the indices of the ``count`` samples that are kept, shape (count,), int64."""


class ScoredMethod(CoresetMethod):
    """A method that keeps the samples with the largest scores.

    Args:
        balanced: Whether every class keeps its share of the whole.

    Raises:
        TypeError: If ``balanced`` is no bool.
    """

    averages_scores = True

    def __init__(self, balanced: bool = False) -> None:
        self.balanced = check_bool(type(self).__name__, "balanced", balanced)

    @abstractmethod
    def scores(self, found: Evidence) -> Tensor:
        """Return the scores, shape (N,), high = keep, NaN = keep last."""

    @override
    def choose(self, found: Evidence, count: int) -> Tensor:
        return self.choose_by(self.scores(found), found, count)

    def choose_by(self, scores: Tensor, found: Evidence, count: int) -> Tensor:
        """Return the samples with the largest scores, of each class if balanced."""
        labels = None
        if self.balanced:
            if found.labels is None:
                raise ValueError(
                    f"{type(self).__name__}: expected labels for balanced=True, got a data set "
                    "whose labels cannot be read. Give it targets, or use balanced=False."
                )
            labels = found.labels.to(scores.device)
        return largest_subset(scores, count, labels, found.seed)


class PassMethod(ScoredMethod):
    """A scored method whose score is read off the pass, batch by batch."""

    needs_pass = True

    @override
    def scores(self, found: Evidence) -> Tensor:
        assert found.values is not None
        return found.values
