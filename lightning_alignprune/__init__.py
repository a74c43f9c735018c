"""Noise-robust dynamic data pruning for PyTorch Lightning: one callback, any LightningModule."""

from importlib.metadata import version

from lightning_alignprune.callback import DynamicPruningCallback
from lightning_alignprune.functional import Selection
from lightning_alignprune.policies import InfoBatch, Policy, SelectionContext
from lightning_alignprune.sampler import PrunedSampler
from lightning_alignprune.schedule import PruningSchedule
from lightning_alignprune.scores import DynamicAlignment, LastLoss, Score
from lightning_alignprune.signals import BatchLoss, SampleLoss, Signal
from lightning_alignprune.trajectories import LossTrajectories

__version__ = version("lightning-alignprune")

__all__ = [
    "BatchLoss",
    "DynamicAlignment",
    "DynamicPruningCallback",
    "InfoBatch",
    "LastLoss",
    "LossTrajectories",
    "Policy",
    "PrunedSampler",
    "PruningSchedule",
    "SampleLoss",
    "Score",
    "Selection",
    "SelectionContext",
    "Signal",
    "__version__",
]
