"""Scores: how good a sample is now. High = keep; NaN = undefined, and such a sample stays."""

from abc import ABC, abstractmethod

from torch import Tensor
from typing_extensions import override

from lightning_alignprune._checks import check_choice, check_number
from lightning_alignprune.functional.alignment import Correlation, Missing, alignment
from lightning_alignprune.trajectories import LossTrajectories


class Score(ABC):
    """One number per sample, made from the loss trajectories.

    Subclass it for a score of your own: give :meth:`compute`, and set the two attributes.

    Attributes:
        needs_reference: Whether a reference set must be there.
        window: How many epochs of losses :meth:`compute` looks at; None for all of them.
    """

    needs_reference: bool = False
    window: int | None = 1

    @abstractmethod
    def compute(self, trajectories: LossTrajectories) -> Tensor:
        """Return the scores, shape (N,), float32, high = keep, NaN = undefined."""


class LastLoss(Score):
    """The most recent training loss of a sample: high-loss samples are worth training on.

    The score of InfoBatch and SeTa. A pruned sample keeps its old loss. Range: that of the loss.
    NaN for a sample that was never trained. Label noise has high loss, so this score keeps it.
    """

    @override
    def compute(self, trajectories: LossTrajectories) -> Tensor:
        return trajectories.last


class DynamicAlignment(Score):
    """Dynamic Alignment Score (DAS): how a sample's loss moves with the clean reference's.

    In [-1, 1]; high = learned like clean data, low = probably mislabelled. NaN with fewer than
    ``min_observations`` seen epochs in the window, or where a trajectory is flat. Once the network
    memorises wrong labels their losses fall too, and a short window stops telling them apart.

    Args:
        window: Number of last epochs compared, at least ``min_observations``; None for the whole
            history. 25 in the paper (5 for runs of ten epochs).
        correlation: ``"pearson"``, or ``"cosine"``, which cannot be negative on losses.
        min_observations: Seen epochs needed for a defined score, at least 2. Two points always
            correlate perfectly; from 4 on the paper finds stable results.
        missing: ``"observed"`` compares the epochs in which the sample was seen; ``"carry"``
            repeats its last loss in the others.

    Raises:
        ValueError: If a value is out of range.

    Note:
        Source: AlignPrune. Cost O(N * window) per epoch end, on the device of the trajectories.
    """

    needs_reference = True

    def __init__(
        self,
        window: int | None = 25,
        correlation: Correlation = "pearson",
        min_observations: int = 4,
        missing: Missing = "observed",
    ) -> None:
        owner = "DynamicAlignment"
        check_number(
            owner,
            "min_observations",
            min_observations,
            low=2,
            integer=True,
            remedy="A correlation needs two points; 4 is the default.",
        )
        if window is not None:
            check_number(
                owner,
                "window",
                window,
                low=min_observations,
                integer=True,
                remedy="A window shorter than min_observations defines no score. "
                "Use None for the whole history.",
            )
        check_choice(owner, "correlation", correlation, ("pearson", "cosine"))
        check_choice(owner, "missing", missing, ("observed", "carry"))
        self.window = window
        self.correlation: Correlation = correlation
        self.min_observations = min_observations
        self.missing: Missing = missing

    @override
    def compute(self, trajectories: LossTrajectories) -> Tensor:
        return alignment(
            trajectories.rows,
            trajectories.reference,
            correlation=self.correlation,
            min_observations=self.min_observations,
            missing=self.missing,
            before=trajectories.before,
        )


SCORES: dict[str, type[Score]] = {
    "LastLoss": LastLoss,
    "loss": LastLoss,
    "DynamicAlignment": DynamicAlignment,
    "alignment": DynamicAlignment,
    "das": DynamicAlignment,
}
