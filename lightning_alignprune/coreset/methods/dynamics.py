"""Scores of the epochs of the warm-up: Forgetting, Dyn-Unc, DUAL."""

from typing import Literal, get_args

from torch import Tensor
from typing_extensions import override

from lightning_alignprune._checks import check_choice, check_float, check_int
from lightning_alignprune.coreset.evidence import Evidence
from lightning_alignprune.coreset.methods.base import ScoredMethod
from lightning_alignprune.functional.coreset import (
    beta_log_weights,
    forgetting_events,
    mean_probability,
    weighted_subset,
    window_uncertainty,
)
from lightning_alignprune.functional.coreset.dynamics import NEVER_LEARNED, NeverLearned
from lightning_alignprune.signals import LabelProbability, RightPrediction, Signal

Sampling = Literal["top", "beta"]
SAMPLINGS: tuple[Sampling, ...] = get_args(Sampling)


class Forgetting(ScoredMethod):
    """Keep the samples that were most often right and then wrong again. Toneva et al. 2018.

    Args:
        never_learned: What a sample that was never right counts: ``"zero"``, kept last, as in
            DeepCore; or ``"max"``, kept first, as in the paper. Most of those have wrong labels
            where there are any.
        balanced: Whether every class keeps its share.

    Raises:
        TypeError: If a value is of the wrong kind.
        ValueError: If the word is another.
    """

    needs_rows = True
    min_epochs = 2

    def __init__(self, never_learned: NeverLearned = "zero", balanced: bool = False) -> None:
        super().__init__(balanced)
        self.never_learned = check_choice(
            "Forgetting", "never_learned", never_learned, NEVER_LEARNED
        )

    @override
    def make_signal(self) -> Signal:
        return RightPrediction()

    @override
    def scores(self, found: Evidence) -> Tensor:
        return forgetting_events(found.rows, self.never_learned)


class DynUnc(ScoredMethod):
    """Keep the samples whose label's probability moves most. Dyn-Unc, He et al. 2024.

    Args:
        window: Epochs of a window, at least 2.
        balanced: Whether every class keeps its share.

    Raises:
        TypeError: If a value is of the wrong kind.
        ValueError: If ``window`` is out of range.
    """

    needs_rows = True
    favours_hard = False

    def __init__(self, window: int = 10, balanced: bool = False) -> None:
        super().__init__(balanced)
        owner, remedy = type(self).__name__, "Ten in the papers."
        self.window = self.min_epochs = check_int(owner, "window", window, low=2, remedy=remedy)

    @override
    def make_signal(self) -> Signal:
        return LabelProbability()

    @override
    def scores(self, found: Evidence) -> Tensor:
        return window_uncertainty(found.rows, self.window, self.favours_hard)


class DUAL(DynUnc):
    """Keep samples whose label's probability moves while it is still low. Cho et al. 2025.

    Args:
        window: Epochs of a window, at least 2.
        sampling: ``"top"`` keeps the largest scores. ``"beta"`` draws, and the more is pruned the
            more of the easy samples.
        exponent: How late that begins, with ``"beta"``: 4 for CIFAR-100, 11 for ImageNet.
        balanced: Whether every class keeps its share, with ``"top"``.

    Raises:
        TypeError: If a value is of the wrong kind.
        ValueError: If a value is out of range.

    Note:
        The paper looks at the first 30 of 200 epochs, 60 of ImageNet's.
    """

    favours_hard = True

    def __init__(
        self,
        window: int = 10,
        sampling: Sampling = "top",
        exponent: float = 4.0,
        balanced: bool = False,
    ) -> None:
        super().__init__(window, balanced)
        self.averages_scores = sampling == "top"
        self.sampling = check_choice("DUAL", "sampling", sampling, SAMPLINGS)
        remedy = "4 for CIFAR-100, 11 for ImageNet."
        self.exponent = check_float("DUAL", "exponent", exponent, above=0, remedy=remedy)
        if self.balanced and sampling == "beta":
            raise ValueError(
                "DUAL: expected balanced=False with sampling='beta', got True. "
                "Balance goes with sampling='top'."
            )

    @override
    def choose(self, found: Evidence, count: int) -> Tensor:
        if self.sampling == "top":
            return super().choose(found, count)
        means, pruned = mean_probability(found.rows), 1 - count / found.num_samples
        weights = beta_log_weights(means, self.scores(found), pruned, self.exponent)
        return weighted_subset(weights, count, found.seed)
