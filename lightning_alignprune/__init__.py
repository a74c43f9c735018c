"""Noise-robust dynamic data pruning for PyTorch Lightning: one callback, any LightningModule."""

from importlib.metadata import version

from lightning_alignprune.audit import LabelIssues
from lightning_alignprune.callback import DynamicPruningCallback
from lightning_alignprune.coreset import CoresetRun, CoresetWarmup
from lightning_alignprune.functional import Selection
from lightning_alignprune.plain_loop import PruningRun
from lightning_alignprune.policies import (
    IES,
    UCB,
    DynamicRandom,
    EpsilonGreedy,
    InfoBatch,
    MixtureCut,
    Policy,
    PosteriorCut,
    SelectionContext,
    SeTa,
    StaticSubset,
)
from lightning_alignprune.reference import PseudoClean, PseudoModerate
from lightning_alignprune.schedule import PruningSchedule
from lightning_alignprune.scores import (
    DynamicAlignment,
    LabelPosterior,
    LastLoss,
    MeanLoss,
    ReferenceRank,
    Score,
    TimeAverage,
    TrajectoryScore,
)
from lightning_alignprune.signals import (
    AveragedSignal,
    BatchLoss,
    CalibratedLoss,
    LabelOdds,
    LabelProbability,
    Margin,
    ReferenceSamples,
    RightPrediction,
    SampleLoss,
    Signal,
    WrongEvents,
)
from lightning_alignprune.state import Decision, LossTrajectories, PrunedSampler
from lightning_alignprune.tap import TappedStep, register_loss

__version__ = version("lightning-alignprune")

__all__ = [
    "IES",
    "UCB",
    "AveragedSignal",
    "BatchLoss",
    "CalibratedLoss",
    "CoresetRun",
    "CoresetWarmup",
    "Decision",
    "DynamicAlignment",
    "DynamicPruningCallback",
    "DynamicRandom",
    "EpsilonGreedy",
    "InfoBatch",
    "LabelIssues",
    "LabelOdds",
    "LabelPosterior",
    "LabelProbability",
    "LastLoss",
    "LossTrajectories",
    "Margin",
    "MeanLoss",
    "MixtureCut",
    "Policy",
    "PosteriorCut",
    "PrunedSampler",
    "PruningRun",
    "PruningSchedule",
    "PseudoClean",
    "PseudoModerate",
    "ReferenceRank",
    "ReferenceSamples",
    "RightPrediction",
    "SampleLoss",
    "Score",
    "SeTa",
    "Selection",
    "SelectionContext",
    "Signal",
    "StaticSubset",
    "TappedStep",
    "TimeAverage",
    "TrajectoryScore",
    "WrongEvents",
    "__version__",
    "register_loss",
]
