"""The interface of a choice within batches."""

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_alignprune.functional.draws import uniform

#: Fewest samples that are chosen of a batch of more: BatchNorm fails at a batch of one.
FEWEST = 2
_STREAM = 11  # policies draw from the first few
_ROUND = 1 << 40  # above the index of any sample


class BatchLook(NamedTuple):
    """What is known of a batch before it is trained, from a forward pass in eval mode.

    Attributes:
        losses: Shape (B,), float32.
        indices: Shape (B,), int64, the samples' indices in the data set.
        seed: The run's seed.
        epoch: The epoch that the batch is of.
        logits: Shape (B, C), or None where the choice needs no features.
        labels: Shape (B,), int64, or None likewise.
        features: Shape (B, D), what the layer got that made the logits, or None likewise.
    """

    losses: Tensor
    indices: Tensor
    seed: int = 0
    epoch: int = 0
    logits: Tensor | None = None
    labels: Tensor | None = None
    features: Tensor | None = None

    def draws(self, count: int) -> Tensor:
        """Return random numbers in [0, 1), shape (count, B), that belong to sample and epoch.

        Example:
            >>> look = BatchLook(torch.zeros(2), torch.tensor([5, 3]), epoch=1)
            >>> other = BatchLook(torch.zeros(2), torch.tensor([3, 5]), epoch=1)
            >>> torch.equal(look.draws(2), other.draws(2).flip(1))
            True
        """
        rounds = torch.arange(count, device=self.indices.device).unsqueeze(1) * _ROUND
        keys = (rounds + self.indices).flatten()
        return uniform(keys, self.seed, self.epoch, _STREAM).view(count, -1)


class BatchChoice(ABC):
    """Which samples of each batch are trained, from a look at all of them.

    Attributes:
        needs_features: Whether a look must have logits, labels and features.
    """

    needs_features: bool = False

    @property
    @abstractmethod
    def description(self) -> str:
        """Name and setting, for what the run says."""

    @abstractmethod
    def choose(self, look: BatchLook) -> Tensor:
        """Return the places of the chosen samples in the batch: shape (M,), int64, ascending."""

    def follow(self, losses: Tensor) -> None:  # noqa: B027
        """Take in the losses, shape (B,), of a batch that was trained."""

    def state_dict(self) -> dict[str, Any]:
        """State, tensors and primitives only; each rank has its own."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: B027
        """Take over a saved state."""
