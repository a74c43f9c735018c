"""A score and a policy as a user would write them; docs/extending.md shows this file."""

import torch
from torch import Tensor

from lightning_alignprune import LossTrajectories, Policy, Score, Selection, SelectionContext


class LossDrop(Score):
    """How far a sample's loss fell since it was first seen in the window; high = keep."""

    def __init__(self, window: int = 5) -> None:
        self.window = window

    def compute(self, trajectories: LossTrajectories) -> Tensor:
        rows = torch.stack(trajectories.view(self.window).rows).float()
        return rows[0] - rows[-1]  # NaN where it was not seen: such samples stay


class KeepTop(Policy):
    """Keep the given share of samples with the highest scores."""

    def __init__(self, keep_fraction: float = 0.5) -> None:
        self.keep_fraction = keep_fraction

    def select(self, scores: Tensor, context: SelectionContext) -> Selection:
        threshold = scores.nanquantile(1 - self.keep_fraction)
        return Selection(kept=~(scores < threshold))
