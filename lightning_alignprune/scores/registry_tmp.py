"""The names by which scores and signals can be given; policies have theirs in `policies`."""

from lightning_alignprune.calibrated_loss import CalibratedLoss
from lightning_alignprune.reference_rank import ReferenceRank
from lightning_alignprune.scores import DynamicAlignment, LastLoss, MeanLoss, Score
from lightning_alignprune.signals import BatchLoss, SampleLoss, Signal

SIGNALS: dict[str, type[Signal]] = {
    cls.__name__: cls for cls in (SampleLoss, BatchLoss, CalibratedLoss)
}

SCORES: dict[str, type[Score]] = {
    "LastLoss": LastLoss,
    "loss": LastLoss,
    "MeanLoss": MeanLoss,
    "ReferenceRank": ReferenceRank,
    "DynamicAlignment": DynamicAlignment,
    "alignment": DynamicAlignment,
    "das": DynamicAlignment,
}
