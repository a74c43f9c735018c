"""Scores that are losses: the last one, the mean of the recorded ones, or how far it fell."""

from torch import Tensor
from typing_extensions import override

from lightning_alignprune.functional.alignment import mean_trajectory
from lightning_alignprune.scores.base import Gate, Meaning, Score, TrajectoryScore
from lightning_alignprune.state.trajectories import LossTrajectories, TrajectoryView


class LastLoss(Score):
    """The most recent training loss of a sample: high-loss samples are worth training on.

    The score of InfoBatch and SeTa. A pruned sample keeps its old loss. Range: that of the loss.
    NaN for a sample that was never trained. Label noise has high loss, so this score keeps it.
    """

    @override
    def compute(self, trajectories: LossTrajectories) -> Tensor:
        return trajectories.last


class LossSinceStart(Score):
    """A sample's last loss minus its first: what fell furthest has been fitted and goes first.

    The score of TailSFT. Low (far below 0) = learned since the run began, high = still to learn, or
    mislabelled. NaN for a sample that was never trained. A pruned sample keeps its old loss. Take a
    policy that keeps a share with the highest scores: ``OrderDP(pool_fraction=1.0)``.

    Note:
        Parity: the source measures the first losses with the network as it was before training,
        compares within each batch with the loss of that step, and drops half of a batch by default.
        Here the first loss is that of the first epoch, in mid-training, and whole epochs are
        selected, so that what is dropped is not forwarded; ours.

        Cost O(N) per epoch end, four bytes a sample for the first losses.
    """

    needs_first = True

    @override
    def compute(self, trajectories: LossTrajectories) -> Tensor:
        return trajectories.last - trajectories.first


class MeanLoss(TrajectoryScore):
    """The negative mean of a sample's recorded losses: samples that stay hard are pruned.

    Range: minus that of the loss; high (near 0) = learned early and well, low = probably
    mislabelled, or hard. NaN for a sample that was never seen in the window. Epochs in which a
    sample was pruned are left out of its mean. This separates wrong labels longer than a
    correlation does once the network memorises. Do not prune by it before the network has learned
    something (``PruningSchedule(start_epoch=...)``): what is hard at first is not yet wrong.

    Args:
        window: Number of last epochs averaged, at least 1; None for the whole history.
        gate: ``"reference"`` leaves out the epochs after the best reference loss so far and needs
            a reference set; ``"none"`` does not.

    Raises:
        TypeError: If a value is of the wrong kind.
        ValueError: If a value is out of range.

    Note:
        Cost O(N * window) per epoch end. ``window=None`` keeps a row of N values per epoch;
        ``dtype="float16"`` in the callback halves that.
    """

    judges_labels: Meaning | None = "comparison"

    def __init__(self, window: int | None = None, gate: Gate = "none") -> None:
        super().__init__(window, gate, 1, "Use None for the whole history.")
        self.needs_reference = gate == "reference"

    @override
    def score_losses(self, rows: list[Tensor], view: TrajectoryView) -> Tensor:
        return mean_trajectory(rows).neg_()
