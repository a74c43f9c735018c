"""`LabelPosterior` and `TimeAverage`: scores that a signal has averaged over epochs."""

from torch import Tensor
from typing_extensions import override

from lightning_alignprune.scores.base import End, Meaning, Score
from lightning_alignprune.signals import AveragedSignal, LabelOdds
from lightning_alignprune.state.trajectories import LossTrajectories


class LabelPosterior(Score):
    """Probability that a sample's given label is right, from log odds averaged over its epochs.

    In [0.0025, 0.9975]; high = keep. NaN, so kept, until noise has stood out in three estimates in
    a row: on clean labels to the end. Unlike a loss it has a meaning of its own: cut below 0.5 what
    is more probably wrong than right, below 0.9 where wrong labels cost more than right ones.

    Goes with the signal ``LabelOdds``, which has the method; needs a reference set.

    Note:
        Cost O(N) per epoch end.
    """

    needs_reference = True
    needs_signal = LabelOdds
    signal_remedy = 'Pass signal="LabelOdds".'
    judges_labels: Meaning | None = "probability"
    easy_end: End = "high"

    @override
    def compute(self, trajectories: LossTrajectories) -> Tensor:
        return (-trajectories.last).sigmoid()


class TimeAverage(Score):
    """What the signal has averaged for a sample over all its epochs, turned so that high = keep.

    For signals that keep averages: ``Margin``, ``WrongEvents``, ``LabelOdds``. NaN for a sample
    that was never seen.

    Note:
        Cost O(N) per epoch end; no rows are kept but the last.
    """

    needs_signal = AveragedSignal
    signal_remedy = 'Pass signal="Margin", or use MeanLoss, which averages losses.'
    judges_labels: Meaning | None = "average"
    easy_end: End = "high"

    @override
    def compute(self, trajectories: LossTrajectories) -> Tensor:
        return -trajectories.last
