"""What is kept from epoch to epoch and goes into checkpoints?"""

from lightning_alignprune.state.decision import Decision
from lightning_alignprune.state.run_record import EpochRecord, RunRecord
from lightning_alignprune.state.sampler import PrunedSampler
from lightning_alignprune.state.shard import Shard
from lightning_alignprune.state.trajectories import LossTrajectories, StorageDtype, TrajectoryView

__all__ = [
    "Decision",
    "EpochRecord",
    "LossTrajectories",
    "PrunedSampler",
    "RunRecord",
    "Shard",
    "StorageDtype",
    "TrajectoryView",
]
