"""The signal interface: what is recorded for a sample when its batch was trained."""

from abc import ABC, abstractmethod
from typing import Any, Literal, NamedTuple

from torch import Tensor

from lightning_alignprune.signals._loss_ranks import LossRanks
from lightning_alignprune.tap.tapped_step import TappedStep


class ReferenceSamples(NamedTuple):
    """What a reference pass saw, sample by sample, the same on every rank.

    Attributes:
        losses: Shape (n,), float32. The plain loss; after :meth:`Signal.follow_reference` in the
            unit of the recorded values.
        logits: Shape (n, C), float32, or None where no single classification loss was seen.
        labels: Shape (n,), int64, or None likewise.
    """

    losses: Tensor
    logits: Tensor | None = None
    labels: Tensor | None = None


class NoLogitsError(RuntimeError):
    """A step or a reference batch showed no logits with integer class labels."""


class Signal(ABC):
    """What a trained batch says about its samples.

    A signal has two moments: on the batch path it turns a step into one value per sample, with no
    host wait; at the epoch end it may turn the row of raw values into the row to keep.

    Attributes:
        weighting: How a policy's weights reach the gradient: ``"sample"`` multiplies each sample's
            loss inside the step, ``"batch"`` multiplies the batch loss by the mean weight.
        plain_loss: Whether losses are recorded without label smoothing.
        needs_reference: Whether a reference set must be there, for :meth:`follow_reference`.
        needs_logits: Whether it needs the reference's logits and labels.
        compares_with_reference: Whether the reference's losses are in the unit of what is recorded,
            so that samples can be ranked among those of the reference.
        estimates_since_peak: For a signal that estimates the share of wrong labels: how many
            estimates came after the largest one.
    """

    weighting: Literal["sample", "batch"] = "sample"
    plain_loss: bool = False
    needs_reference: bool = False
    needs_logits: bool = False
    compares_with_reference: bool = True
    estimates_since_peak: int | None = None

    @abstractmethod
    def values(self, step: TappedStep) -> Tensor:
        """Return the values to record, shape (B,), float32, for the samples of the batch."""

    def label_notes(self, step: TappedStep) -> Tensor | None:
        """Return what the step says of its samples' labels, for the audit, or None if nothing.

        Shape (5, B), float32: the plain loss, the given label, the likeliest other class, how
        likely it is, in [0, 1], and the loss of the calibrated prediction, NaN if there is none.
        NaN for a sample without a label.
        Asked for after :meth:`values` where the score judges labels; no host wait.
        """
        return None

    def read(self, step: TappedStep, with_notes: bool) -> tuple[Tensor, Tensor | None]:
        """Return :meth:`values` and, if asked for, :meth:`label_notes`.

        For a signal that makes both of the same predictions.
        """
        return self.values(step), self.label_notes(step) if with_notes else None

    @property
    def noise_estimate(self) -> tuple[float, float] | None:
        """Share of wrong labels and its standard error; None for a signal that estimates none."""
        return None

    def close_notes(self, calibrated_losses: Tensor) -> None:  # noqa: B027
        """Take in the epoch's calibrated losses, the last row of the notes, shape (N,).

        NaN where a sample was not seen or has none.
        """

    @property
    def loss_ranks(self) -> LossRanks | None:
        """Mean ranks of the samples' losses among the reference's; None where none are kept."""
        return None

    def close_epoch(self, row: Tensor, last: Tensor) -> Tensor:
        """Turn the epoch's raw row into the row to keep; both have shape (N,)."""
        return row

    @property
    def keeps_raw_values(self) -> bool:
        """Whether :meth:`close_epoch` is left as it is here and changes nothing."""
        return type(self).close_epoch is Signal.close_epoch

    def follow_reference(self, samples: ReferenceSamples) -> ReferenceSamples:
        """Learn from the reference pass at the epoch end; return its losses as we would record.

        Called on every rank. What rank 0 has learned then reaches the others through
        :meth:`learned` and :meth:`load_learned`, so that all go on alike.
        """
        return samples

    def sums(self) -> dict[str, Tensor]:
        """What this rank has summed up over the batches of the running epoch, whole numbers.

        At the epoch's end, before :meth:`follow_reference`, and in a checkpoint they are those of
        all ranks together. Whole numbers add up to the same in any order.
        """
        return {}

    def load_sums(self, sums: dict[str, Tensor]) -> None:  # noqa: B027
        """Take over sums."""

    def learned(self) -> dict[str, Any]:
        """What :meth:`follow_reference` sets of the state: by default the whole."""
        return self.state_dict()

    def load_learned(self, state: dict[str, Any]) -> None:
        """Take over what rank 0 has learned."""
        self.load_state_dict(state)

    def metrics(self) -> dict[str, float]:
        """Return what is worth logging about the signal, the same on every rank."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """State beyond the trajectories, tensors and primitives only."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: B027
        """Take over a saved state."""
