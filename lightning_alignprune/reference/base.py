"""`Reference`: the one interface of the three sources of reference losses."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_alignprune.reference.samples import SampleDetail
from lightning_alignprune.signals import ReferenceSamples
from lightning_alignprune.state.trajectories import LossTrajectories
from lightning_alignprune.trainer_access.errors import refusal
from lightning_alignprune.trainer_access.running_fit import RunningFit


class Reference(ABC):
    """Give the reference loss of an epoch.

    At an epoch's end :meth:`measure` comes first; where it gives None, :meth:`follow` may make the
    reference out of the epoch that was closed meanwhile.

    Args:
        fit: The fit that it is the reference of.
        plain: Leave label smoothing out of the loss.
        detail: What a pass keeps sample by sample in :attr:`samples`; None keeps nothing.

    Attributes:
        samples: What the last pass saw sample by sample, if that is kept.
    """

    def __init__(
        self, fit: RunningFit, plain: bool = False, detail: SampleDetail | None = None
    ) -> None:
        self.fit = fit
        self.plain = plain
        self.detail = detail
        self.samples: ReferenceSamples | None = None
        self._samples_before: ReferenceSamples | None = None

    @property
    @abstractmethod
    def description(self) -> str:
        """What it is, in a few words; after :meth:`prepare`."""

    @abstractmethod
    def prepare(self, train_loader: DataLoader[Any]) -> None:
        """Get ready, now that the data are there.

        Raises:
            MisconfigurationException: If no reference loss can come from it.
        """

    @abstractmethod
    def measure(self) -> Tensor | None:
        """Return the reference loss of the epoch that ends, a device scalar; None if unknown."""

    def follow(self, trajectories: LossTrajectories) -> Tensor | None:
        """Make the reference of all recorded epochs anew, if it is made of the training losses.

        Returns:
            The newest value; None for a reference that is measured.
        """
        return None

    def before_batch(self, batch_idx: int) -> None:  # noqa: B027
        """Called when a batch begins."""

    def after_batch(self) -> None:  # noqa: B027
        """Called when a batch is done."""

    def start_validation(self) -> None:  # noqa: B027
        """Called when a validation pass begins."""

    def end_validation(self) -> None:  # noqa: B027
        """Called when it has ended."""

    @property
    def around_validation_step(self) -> Callable[..., Any] | None:
        """What runs validation steps in place of the strategy, or None if nothing needs to."""
        return None

    def take_samples(self) -> ReferenceSamples | None:
        """Return :attr:`samples` once; an epoch without a pass has none."""
        samples, self.samples = self.samples, None
        return samples

    def keep_samples(self, samples: ReferenceSamples | None) -> None:
        """Keep what a pass saw sample by sample.

        Raises:
            MisconfigurationException: If they are in another order than in the pass before. Their
                losses are averaged over epochs, each sample with itself.
        """
        before, self._samples_before, self.samples = self._samples_before, samples, samples
        if before is None or samples is None or before.labels is None or samples.labels is None:
            return
        if not torch.equal(before.labels, samples.labels):
            raise refusal(
                "the reference samples in the same order in every pass",
                "labels in another order than in the pass before",
                "Use shuffle=False and a sampler without randomness.",
            )

    def state_dict(self) -> dict[str, Any]:
        """What an epoch's end may still need, and what was chosen once."""
        return {"samples": None if self.samples is None else tuple(self.samples)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a saved state."""
        samples = state.get("samples")  # older checkpoints have none
        self.samples = None if samples is None else ReferenceSamples(*samples)
