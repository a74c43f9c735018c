"""What is kept from epoch to epoch and goes into checkpoints?"""

from lightning_alignprune.state.decision import Decision
from lightning_alignprune.state.sampler import PrunedSampler
from lightning_alignprune.state.shard import Shard
from lightning_alignprune.state.trajectories import LossTrajectories, StorageDtype, TrajectoryView

__all__ = [
    "Decision",
    "LossTrajectories",
    "PrunedSampler",
    "Shard",
    "StorageDtype",
    "TrajectoryView",
]
