"""`DynamicAlignment` (DAS): how a sample's loss moves with that of the clean reference."""

from torch import Tensor
from typing_extensions import override

from lightning_alignprune._checks import check_choice, check_int
from lightning_alignprune.functional.alignment import (
    CORRELATIONS,
    MISSING,
    Correlation,
    Missing,
    alignment,
)
from lightning_alignprune.scores.base import Gate, TrajectoryScore
from lightning_alignprune.state.trajectories import TrajectoryView


class DynamicAlignment(TrajectoryScore):
    """Dynamic Alignment Score (DAS): how a sample's loss moves with the clean reference's.

    In [-1, 1]; high = learned like clean data, low = probably mislabelled. NaN with fewer than
    ``min_observations`` seen epochs in the window, or where a trajectory is flat. Once the network
    memorises wrong labels their losses fall too, and a short window stops telling them apart; the
    gate or the whole history helps.

    Args:
        window: Number of last epochs compared, at least ``min_observations``; None for the whole
            history. 25 in the paper (5 for runs of ten epochs).
        correlation: ``"pearson"``, or ``"cosine"``, which cannot be negative on losses.
        min_observations: Seen epochs needed for a defined score, at least 2. Two points always
            correlate perfectly; from 4 on the paper finds stable results.
        missing: ``"observed"`` compares the epochs in which the sample was seen; ``"carry"``
            repeats its last loss in the others.
        gate: ``"reference"`` leaves out the epochs after the best reference loss so far. The paper
            has no gate.

    Raises:
        TypeError: If a value is of the wrong kind.
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
        gate: Gate = "none",
    ) -> None:
        owner = "DynamicAlignment"
        remedy = "A correlation needs two points; 4 is the default."
        self.min_observations = check_int(
            owner, "min_observations", min_observations, low=2, remedy=remedy
        )
        super().__init__(
            window,
            gate,
            self.min_observations,
            "A window shorter than min_observations defines no score. "
            "Use None for the whole history.",
        )
        self.correlation = check_choice(owner, "correlation", correlation, CORRELATIONS)
        self.missing = check_choice(owner, "missing", missing, MISSING)

    @override
    def score_losses(self, rows: list[Tensor], view: TrajectoryView) -> Tensor:
        # The losses before the window are those of the training samples, not of the reference.
        is_carried = self.missing == "carry" and rows is view.rows
        return alignment(
            rows,
            view.reference,
            correlation=self.correlation,
            min_observations=self.min_observations,
            missing=self.missing,
            before=view.before if is_carried else None,
        )
