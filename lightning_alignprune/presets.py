"""What `DynamicPruningCallback.robust` is made of."""

from typing import Any

from lightning_alignprune.policies import MixtureCut
from lightning_alignprune.reference.pseudo_clean import PseudoClean
from lightning_alignprune.schedule import PruningSchedule
from lightning_alignprune.scores import MeanLoss
from lightning_alignprune.scores.reference_rank import ReferenceRank
from lightning_alignprune.signals import SampleLoss
from lightning_alignprune.signals.calibrated_loss import CalibratedLoss

START_EPOCH = 5
START_EPOCH_WITHOUT_REFERENCE = 10


def robust_settings(reference: object) -> dict[str, Any]:
    """Return the arguments of the preset, new objects at each call.

    A reference of the training samples' own losses never turns up, so there is no sign of
    memorisation to wait for and nothing to calibrate on.
    """
    if reference == "pseudo" or isinstance(reference, PseudoClean):
        return {
            "signal": SampleLoss(),
            "score": MeanLoss(window=10),
            "policy": MixtureCut(patience=0),
            "schedule": PruningSchedule(START_EPOCH_WITHOUT_REFERENCE, finish="selected"),
        }
    return {
        "signal": CalibratedLoss(),
        "score": ReferenceRank(window=10, gate="reference"),
        "policy": MixtureCut(),
        "schedule": PruningSchedule(START_EPOCH, finish="selected"),
    }
