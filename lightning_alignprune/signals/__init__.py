"""What is recorded for a sample when its batch was trained?"""

from lightning_alignprune.signals.base import NoLogitsError, ReferenceSamples, Signal
from lightning_alignprune.signals.calibrated_loss import CalibratedLoss
from lightning_alignprune.signals.losses import BatchLoss, SampleLoss

_ALL: tuple[type[Signal], ...] = (SampleLoss, BatchLoss, CalibratedLoss)
#: The names by which a signal can be given.
SIGNALS: dict[str, type[Signal]] = {cls.__name__: cls for cls in _ALL}

__all__ = [
    "SIGNALS",
    "BatchLoss",
    "CalibratedLoss",
    "NoLogitsError",
    "ReferenceSamples",
    "SampleLoss",
    "Signal",
]
