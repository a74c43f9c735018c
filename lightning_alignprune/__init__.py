"""Noise-robust dynamic data pruning for PyTorch Lightning: one callback, any LightningModule."""

from importlib.metadata import version

from lightning_alignprune.audit import LabelIssues
from lightning_alignprune.callback import DynamicPruningCallback
from lightning_alignprune.coreset import CoresetRun, CoresetWarmup
from lightning_alignprune.functional import Selection
from lightning_alignprune.in_batch import BatchChoice, BatchLook, DivBS, SelectiveBackprop
from lightning_alignprune.losses import (
    ELR,
    SOP,
    GeneralizedCrossEntropy,
    SampleStateLoss,
    SymmetricCrossEntropy,
)
from lightning_alignprune.plain_loop import PruningRun
from lightning_alignprune.policies import (
    IES,
    RS2,
    UCB,
    DynamicRandom,
    EpsilonGreedy,
    InfoBatch,
    MixtureCut,
    OrderDP,
    Policy,
    PosteriorCut,
    RePB,
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
    LossSinceStart,
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
    CenteredLoss,
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
from lightning_alignprune.tap import StepSamples, TappedStep, register_loss, samples_in_step

__version__ = version("lightning-alignprune")

__all__ = [
    "ELR",
    "IES",
    "RS2",
    "SOP",
    "UCB",
    "AveragedSignal",
    "BatchChoice",
    "BatchLook",
    "BatchLoss",
    "CalibratedLoss",
    "CenteredLoss",
    "CoresetRun",
    "CoresetWarmup",
    "Decision",
    "DivBS",
    "DynamicAlignment",
    "DynamicPruningCallback",
    "DynamicRandom",
    "EpsilonGreedy",
    "GeneralizedCrossEntropy",
    "InfoBatch",
    "LabelIssues",
    "LabelOdds",
    "LabelPosterior",
    "LabelProbability",
    "LastLoss",
    "LossSinceStart",
    "LossTrajectories",
    "Margin",
    "MeanLoss",
    "MixtureCut",
    "OrderDP",
    "Policy",
    "PosteriorCut",
    "PrunedSampler",
    "PruningRun",
    "PruningSchedule",
    "PseudoClean",
    "PseudoModerate",
    "RePB",
    "ReferenceRank",
    "ReferenceSamples",
    "RightPrediction",
    "SampleLoss",
    "SampleStateLoss",
    "Score",
    "SeTa",
    "Selection",
    "SelectionContext",
    "SelectiveBackprop",
    "Signal",
    "StaticSubset",
    "StepSamples",
    "SymmetricCrossEntropy",
    "TappedStep",
    "TimeAverage",
    "TrajectoryScore",
    "WrongEvents",
    "__version__",
    "register_loss",
    "samples_in_step",
]
