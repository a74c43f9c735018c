"""What is recorded for a sample when its batch was trained?"""

from lightning_alignprune.signals._loss_ranks import LossRanks
from lightning_alignprune.signals.averages import AveragedSignal
from lightning_alignprune.signals.base import NoLogitsError, ReferenceSamples, Signal
from lightning_alignprune.signals.calibrated_loss import CalibratedLoss
from lightning_alignprune.signals.label_odds import LabelOdds
from lightning_alignprune.signals.losses import BatchLoss, CenteredLoss, SampleLoss
from lightning_alignprune.signals.margins import Margin, WrongEvents
from lightning_alignprune.signals.predictions import LabelProbability, RightPrediction

_ALL: tuple[type[Signal], ...] = (
    SampleLoss,
    CenteredLoss,
    BatchLoss,
    CalibratedLoss,
    LabelOdds,
    Margin,
    WrongEvents,
    LabelProbability,
    RightPrediction,
)
#: The names by which a signal can be given.
SIGNALS: dict[str, type[Signal]] = {cls.__name__: cls for cls in _ALL}

__all__ = [
    "SIGNALS",
    "AveragedSignal",
    "BatchLoss",
    "CalibratedLoss",
    "CenteredLoss",
    "LabelOdds",
    "LabelProbability",
    "LossRanks",
    "Margin",
    "NoLogitsError",
    "ReferenceSamples",
    "RightPrediction",
    "SampleLoss",
    "Signal",
    "WrongEvents",
]
