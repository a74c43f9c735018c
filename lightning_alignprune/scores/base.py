"""The score interface. High = keep; NaN = undefined, and such a sample stays."""

from abc import ABC, abstractmethod
from typing import Literal, Protocol, get_args

import torch
from torch import Tensor
from typing_extensions import override

from lightning_alignprune._checks import check_choice, check_int
from lightning_alignprune.signals import Signal
from lightning_alignprune.state.trajectories import LossTrajectories, TrajectoryView

Gate = Literal["reference", "none"]
GATES: tuple[Gate, ...] = get_args(Gate)
End = Literal["low", "high"]
Meaning = Literal["probability", "average", "comparison"]


class Score(ABC):
    """One number per sample, made from the loss trajectories.

    Subclass it for a score of your own: give :meth:`compute`, and set the attributes that differ.

    Attributes:
        needs_reference: Whether a reference set must be there.
        needs_reference_samples: Whether the losses of its samples must be, not only their mean.
        needs_first: Whether each sample's first loss must be kept, ``trajectories.first``.
        needs_signal: The kind of signal that it reads; None for any.
        signal_remedy: What to do where it is another, as a sentence.
        min_observations: How many recorded epochs it takes until a score can be defined.
        window: How many epochs of losses :meth:`compute` looks at; None for all of them.
        gate: ``"reference"`` if :meth:`compute` looks only at the epochs up to the best reference
            loss so far; their rows are then kept.
        judges_labels: What the score says of a given label, for the audit: ``"probability"`` that
            it is right; ``"average"`` of what the signal recorded, which knows where it is
            undecided; ``"comparison"`` with the reference or the other samples. None for a score
            that is low for wrong and for hard samples alike, or that forgets.
        easy_end: At which end of the score the easy samples are; SeTa begins there.
    """

    needs_reference: bool = False
    needs_reference_samples: bool = False
    needs_first: bool = False
    needs_signal: type[Signal] | None = None
    signal_remedy: str = ""
    min_observations: int = 1
    window: int | None = 1
    gate: Gate = "none"
    judges_labels: Meaning | None = None
    easy_end: End = "low"

    @abstractmethod
    def compute(self, trajectories: LossTrajectories) -> Tensor:
        """Return the scores, shape (N,), float32, high = keep, NaN = undefined."""

    def compute_reference(self, trajectories: LossTrajectories) -> Tensor | None:
        """Return the same score of the reference samples, shape (n,); None if there is none."""
        return None


class ReadsSignal(Protocol):
    """A score or a policy, in what it asks of the signal."""

    needs_signal: type[Signal] | None
    signal_remedy: str


def check_goes_with(signal: Signal, *parts: ReadsSignal) -> None:
    """Refuse a score or policy that reads something else than what is recorded.

    Raises:
        ValueError: If the signal is of another kind than one of them needs.
    """
    for part in parts:
        needed = part.needs_signal
        if needed is not None and not isinstance(signal, needed):
            raise ValueError(
                f"{type(part).__name__}: expected a signal of the kind {needed.__name__}, got "
                f"{type(signal).__name__}. {part.signal_remedy}"
            )


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
        self.window = check_int(
            owner, "window", window, low=shortest_window, optional=True, remedy=remedy
        )
        self.gate = check_choice(owner, "gate", gate, GATES)

    def view(self, trajectories: LossTrajectories) -> TrajectoryView:
        """Return the epochs that count for this score."""
        until = trajectories.best_epoch if self.gate == "reference" else None
        return trajectories.view(self.window, until)

    @override
    def compute(self, trajectories: LossTrajectories) -> Tensor:
        view = self.view(trajectories)
        if not view.rows:
            return torch.full_like(trajectories.running, torch.nan)
        return self.score_losses(view.rows, view)

    @override
    def compute_reference(self, trajectories: LossTrajectories) -> Tensor | None:
        view = self.view(trajectories)
        found = [row for row in view.reference_rows if row is not None]
        if not found or len({len(row) for row in found}) > 1:
            return None
        missing = torch.full_like(found[0], torch.nan)  # an epoch without a pass: not observed
        rows = [missing if row is None else row for row in view.reference_rows]
        return self.score_losses(rows, view)

    @abstractmethod
    def score_losses(self, rows: list[Tensor], view: TrajectoryView) -> Tensor:
        """Return the scores of samples with these losses, one row per epoch of the view."""
