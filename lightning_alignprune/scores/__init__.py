"""How good is a sample now? High = keep."""

from lightning_alignprune.scores.alignment import DynamicAlignment
from lightning_alignprune.scores.base import End, Gate, Score, TrajectoryScore
from lightning_alignprune.scores.label_posterior import LabelPosterior, TimeAverage
from lightning_alignprune.scores.losses import LastLoss, LossSinceStart, MeanLoss
from lightning_alignprune.scores.reference_rank import ReferenceRank

#: The names by which a score can be given.
SCORES: dict[str, type[Score]] = {
    "LastLoss": LastLoss,
    "loss": LastLoss,
    "LossSinceStart": LossSinceStart,
    "MeanLoss": MeanLoss,
    "LabelPosterior": LabelPosterior,
    "TimeAverage": TimeAverage,
    "ReferenceRank": ReferenceRank,
    "DynamicAlignment": DynamicAlignment,
    "alignment": DynamicAlignment,
    "das": DynamicAlignment,
}

__all__ = [
    "SCORES",
    "DynamicAlignment",
    "End",
    "Gate",
    "LabelPosterior",
    "LastLoss",
    "LossSinceStart",
    "MeanLoss",
    "ReferenceRank",
    "Score",
    "TimeAverage",
    "TrajectoryScore",
]
