"""What the presets need beside the callback: names, types of settings, parts of the robust one.

The presets themselves are classmethods of `DynamicPruningCallback`.
"""

from collections.abc import Sequence
from typing import Any, Literal, TypedDict

from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lightning_alignprune.in_batch import BatchChoice
from lightning_alignprune.policies import MixtureCut, PosteriorCut
from lightning_alignprune.pruner import Parts
from lightning_alignprune.reference import PseudoClean, ReferenceWeights, is_pseudo
from lightning_alignprune.schedule import PruningSchedule
from lightning_alignprune.scores import LabelPosterior, MeanLoss
from lightning_alignprune.signals import LabelOdds, SampleLoss
from lightning_alignprune.state import StorageDtype
from lightning_alignprune.trainer_access.ranks import Partition

ReferenceSource = (
    DataLoader[Any] | Dataset[Any] | PseudoClean | Literal["validation", "pseudo"] | None
)
"""What can be given as a reference."""
TrustedSource = Sequence[int] | Sequence[bool] | Tensor | None
"""Training samples whose labels are known to be right: indices, or a mask."""
TrajectoryDevice = Literal["auto", "cpu"]
OnNonfiniteLoss = Literal["raise", "skip"]

START_EPOCH = 2  # the first epoch that an estimate can be there for
START_EPOCH_WITHOUT_CLEAN_LABELS = 10


class RunSettings(TypedDict, total=False):
    """The callback's arguments that no preset decides; see there."""

    seed: int | None
    device: TrajectoryDevice
    dtype: StorageDtype
    keep_history: bool
    on_nonfinite_loss: OnNonfiniteLoss
    align_lr_schedules: bool
    restore_rng: bool
    partition: Partition
    self_check: bool
    sample_index: int | str | None
    trusted: TrustedSource
    reference_weights: ReferenceWeights
    in_batch: BatchChoice | str | None
    verbose: bool


def robust_parts(reference: object) -> Parts:
    """Return the parts of the preset for wrong labels, new objects in each call.

    A reference of the training samples' own losses never turns up, so there is no sign of
    memorisation to wait for and nothing to calibrate on.
    """
    if is_pseudo(reference):
        return Parts(
            SampleLoss(),
            MeanLoss(window=10),
            MixtureCut(patience=0),
            PruningSchedule(START_EPOCH_WITHOUT_CLEAN_LABELS, finish="selected"),
        )
    return Parts(
        LabelOdds(decay=0.9),
        LabelPosterior(),
        PosteriorCut(),
        PruningSchedule(START_EPOCH, finish="selected"),
    )


#: The presets' names, as classmethods of the callback and as words of ``--pruning``.
PRESETS = ("infobatch", "seta", "bls", "alignprune", "robust")
