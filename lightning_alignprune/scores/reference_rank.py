"""`ReferenceRank`: where a sample's losses lie among those of the clean reference."""

import torch
from torch import Tensor
from typing_extensions import override

from lightning_alignprune.functional.mixture import reference_rank
from lightning_alignprune.scores.base import Gate, Meaning, TrajectoryScore
from lightning_alignprune.state.trajectories import LossTrajectories, TrajectoryView


class ReferenceRank(TrajectoryScore):
    """Where a sample's losses lie among those of the reference set, averaged over epochs.

    In each epoch the loss is replaced by its rank among the reference's losses of that epoch, from
    0 (below all) to 1 (above all). Ranks of different epochs can be compared although the losses
    fall, so that a sample last seen long ago is not taken for a bad one. The score is minus the
    mean rank, in [-1, 0]; high = keep. NaN for a sample that was not seen in the window.

    Needs the reference's losses sample by sample, so a reference set with a pass of its own or the
    validation set, not ``"pseudo"``.

    Args:
        window: Number of last epochs averaged, at least 1; None for the whole history.
        gate: ``"reference"`` leaves out the epochs after the best reference loss so far.

    Raises:
        TypeError: If a value is of the wrong kind.
        ValueError: If a value is out of range.

    Note:
        Cost O(N * window * log n) per epoch end for a reference of n samples. Source: ours.
    """

    needs_reference = True
    needs_reference_samples = True
    judges_labels: Meaning | None = "comparison"

    def __init__(self, window: int | None = 10, gate: Gate = "reference") -> None:
        super().__init__(window, gate, 1, "Use None for the whole history.")

    @override
    def compute_reference(self, trajectories: LossTrajectories) -> Tensor | None:
        # An epoch without reference losses counts for the samples as little as for the reference.
        rows = [row for row in self.view(trajectories).reference_rows if row is not None]
        if not rows or len({len(row) for row in rows}) > 1:
            return None
        return -torch.stack([reference_rank(row, row) for row in rows]).mean(0)

    @override
    def score_losses(self, rows: list[Tensor], view: TrajectoryView) -> Tensor:
        references = view.reference_rows
        total = torch.zeros(len(rows[0]), device=rows[0].device)
        count = torch.zeros_like(total)
        for row, reference in zip(rows, references, strict=True):
            if reference is None:
                continue
            rank = reference_rank(row, reference.to(row.device))
            total += rank.nan_to_num(nan=0.0)
            count += ~rank.isnan()
        return -total / count
