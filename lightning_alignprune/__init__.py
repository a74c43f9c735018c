"""Noise-robust dynamic data pruning for PyTorch Lightning: one callback, any LightningModule."""

from importlib.metadata import version

from lightning_alignprune.callback import DynamicPruningCallback
from lightning_alignprune.functional import Selection
from lightning_alignprune.policies import (
    IES,
    UCB,
    DynamicRandom,
    EpsilonGreedy,
    InfoBatch,
    MixtureCut,
    Policy,
    SelectionContext,
    SeTa,
    StaticSubset,
)
from lightning_alignprune.reference import PseudoClean, PseudoModerate
from lightning_alignprune.schedule import PruningSchedule
from lightning_alignprune.scores import (
    DynamicAlignment,
    LastLoss,
    MeanLoss,
    ReferenceRank,
    Score,
    TrajectoryScore,
)
from lightning_alignprune.signals import (
    BatchLoss,
    CalibratedLoss,
    ReferenceSamples,
    SampleLoss,
    Signal,
)
from lightning_alignprune.state import Decision, LossTrajectories, PrunedSampler
from lightning_alignprune.tap import TappedStep, register_loss

__version__ = version("lightning-alignprune")

__all__ = [
    "IES",
    "UCB",
    "BatchLoss",
    "CalibratedLoss",
    "Decision",
    "DynamicAlignment",
    "DynamicPruningCallback",
    "DynamicRandom",
    "EpsilonGreedy",
    "InfoBatch",
    "LastLoss",
    "LossTrajectories",
    "MeanLoss",
    "MixtureCut",
    "Policy",
    "PrunedSampler",
    "PruningSchedule",
    "PseudoClean",
    "PseudoModerate",
    "ReferenceRank",
    "ReferenceSamples",
    "SampleLoss",
    "Score",
    "SeTa",
    "Selection",
    "SelectionContext",
    "Signal",
    "StaticSubset",
    "TappedStep",
    "TrajectoryScore",
    "__version__",
    "register_loss",
]
