"""Scores: how good a sample is now. High = keep; NaN = undefined, and such a sample stays."""

from abc import ABC, abstractmethod
from typing import Literal

import torch
from torch import Tensor
from typing_extensions import override

from lightning_alignprune._checks import check_choice, check_number
from lightning_alignprune.functional.alignment import (
    Correlation,
    Missing,
    alignment,
    mean_trajectory,
)
from lightning_alignprune.trajectories import LossTrajectories
from lightning_alignprune.trajectory_view import TrajectoryView

Gate = Literal["reference", "none"]
End = Literal["low", "high"]


class Score(ABC):
    """One number per sample, made from the loss trajectories.

    Subclass it for a score of your own: give :meth:`compute`, and set the attributes that differ.

    Attributes:
        needs_reference: Whether a reference set must be there.
        needs_reference_samples: Whether the losses of its samples must be, not only their mean.
        window: How many epochs of losses :meth:`compute` looks at; None for all of them.
        gate: ``"reference"`` if :meth:`compute` looks only at the epochs up to the best reference
            loss so far; their rows are then kept.
        easy_end: At which end of the score the easy samples are; SeTa begins there.
    """

    needs_reference: bool = False
    needs_reference_samples: bool = False
    window: int | None = 1
    gate: Gate = "none"
    easy_end: End = "low"

    @abstractmethod
    def compute(self, trajectories: LossTrajectories) -> Tensor:
        """Return the scores, shape (N,), float32, high = keep, NaN = undefined."""

    def compute_reference(self, trajectories: LossTrajectories) -> Tensor | None:
        """Return the same score of the reference samples, shape (n,); None if there is none."""
        return None


class LastLoss(Score):
    """The most recent training loss of a sample: high-loss samples are worth training on.

    The score of InfoBatch and SeTa. A pruned sample keeps its old loss. Range: that of the loss.
    NaN for a sample that was never trained. Label noise has high loss, so this score keeps it.
    """

    @override
    def compute(self, trajectories: LossTrajectories) -> Tensor:
        return trajectories.last


class TrajectoryScore(Score):
    """A score that looks at several epochs, with the early-learning gate.

    With ``gate="reference"`` it looks only at the epochs up to the one with the lowest reference
    loss so far. While the reference still improves, nothing changes. Once it turns up, the network
    has begun to memorise wrong labels and their losses fall too: the gate keeps what the losses
    said before that. When the reference improves again, the gate moves on.
    """

    easy_end: End = "high"

    def __init__(self, window: int | None, gate: Gate, shortest_window: int, remedy: str) -> None:
        owner = type(self).__name__
        if window is not None:
            check_number(owner, "window", window, low=shortest_window, integer=True, remedy=remedy)
        check_choice(owner, "gate", gate, ("reference", "none"))
        self.window = window
        self.gate: Gate = gate

    def view(self, trajectories: LossTrajectories) -> TrajectoryView:
        """Return the epochs that count for this score."""
        until = trajectories.best_epoch if self.gate == "reference" else None
        return trajectories.view(self.window, until)

    @override
    def compute(self, trajectories: LossTrajectories) -> Tensor:
        view = self.view(trajectories)
        if not view.rows:
            return torch.full_like(trajectories.running, torch.nan)
        return self.of_rows(view.rows, view)

    @override
    def compute_reference(self, trajectories: LossTrajectories) -> Tensor | None:
        view = self.view(trajectories)
        found = [row for row in view.reference_rows if row is not None]
        if not found or len({len(row) for row in found}) > 1:
            return None
        missing = torch.full_like(found[0], torch.nan)  # an epoch without a pass: not observed
        rows = [missing if row is None else row for row in view.reference_rows]
        return self.of_rows(rows, view)

    @abstractmethod
    def of_rows(self, rows: list[Tensor], view: TrajectoryView) -> Tensor:
        """Return the scores of samples with these losses, one row per epoch of the view."""


class MeanLoss(TrajectoryScore):
    """The negative mean of a sample's recorded losses: samples that stay hard are pruned.

    Range: minus that of the loss; high (near 0) = learned early and well, low = probably
    mislabelled, or hard. NaN for a sample that was never seen in the window. Epochs in which a
    sample was pruned are left out of its mean. This separates wrong labels longer than a
    correlation does once the network memorises. Do not prune by it before the network has learned
    something (``PruningSchedule(start_epoch=...)``): what is hard at first is not yet wrong.

    Args:
        window: Number of last epochs averaged, at least 1; None for the whole history.
        gate: ``"reference"`` leaves out the epochs after the best reference loss so far and needs
            a reference set; ``"none"`` does not.

    Raises:
        ValueError: If a value is out of range.

    Note:
        Cost O(N * window) per epoch end. ``window=None`` keeps a row of N values per epoch;
        ``dtype="float16"`` in the callback halves that.
    """

    def __init__(self, window: int | None = None, gate: Gate = "none") -> None:
        super().__init__(window, gate, 1, "Use None for the whole history.")
        self.needs_reference = gate == "reference"

    @override
    def of_rows(self, rows: list[Tensor], view: TrajectoryView) -> Tensor:
        return mean_trajectory(rows).neg_()


class DynamicAlignment(TrajectoryScore):
    """Dynamic Alignment Score (DAS): how a sample's loss moves with the clean reference's.

    In [-1, 1]; high = learned like clean data, low = probably mislabelled. NaN with fewer than
    ``min_observations`` seen epochs in the window, or where a trajectory is flat. Once the network
    memorises wrong labels their losses fall too, and a short window stops telling them apart; the
    gate or the whole history helps.

    Args:
        window: Number of last epochs compared, at least ``min_observations``; None for the whole
            history. 25 in the paper (5 for runs of ten epochs).
        correlation: ``"pearson"``, or ``"cosine"``, which cannot be negative on losses.
        min_observations: Seen epochs needed for a defined score, at least 2. Two points always
            correlate perfectly; from 4 on the paper finds stable results.
        missing: ``"observed"`` compares the epochs in which the sample was seen; ``"carry"``
            repeats its last loss in the others.
        gate: ``"reference"`` leaves out the epochs after the best reference loss so far. The paper
            has no gate.

    Raises:
        ValueError: If a value is out of range.

    Note:
        Source: AlignPrune. Cost O(N * window) per epoch end, on the device of the trajectories.
    """

    needs_reference = True

    def __init__(
        self,
        window: int | None = 25,
        correlation: Correlation = "pearson",
        min_observations: int = 4,
        missing: Missing = "observed",
        gate: Gate = "none",
    ) -> None:
        owner = "DynamicAlignment"
        check_number(
            owner,
            "min_observations",
            min_observations,
            low=2,
            integer=True,
            remedy="A correlation needs two points; 4 is the default.",
        )
        super().__init__(
            window,
            gate,
            min_observations,
            "A window shorter than min_observations defines no score. "
            "Use None for the whole history.",
        )
        check_choice(owner, "correlation", correlation, ("pearson", "cosine"))
        check_choice(owner, "missing", missing, ("observed", "carry"))
        self.correlation: Correlation = correlation
        self.min_observations = min_observations
        self.missing: Missing = missing

    @override
    def of_rows(self, rows: list[Tensor], view: TrajectoryView) -> Tensor:
        is_carried = self.missing == "carry" and rows is view.rows
        return alignment(
            rows,
            view.reference,
            correlation=self.correlation,
            min_observations=self.min_observations,
            missing=self.missing,
            before=view.before if is_carried else None,
        )
