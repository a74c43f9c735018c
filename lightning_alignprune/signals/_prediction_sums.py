"""Sums of predictions over an epoch that are the same in any order of batches and ranks."""

import torch
from torch import Tensor

# Probabilities are added up as whole multiples of this part: exact.
_UNIT = 2.0**-30


class PredictionSums:
    """Add up predicted distributions in groups, on the device where they are made.

    Legend: ``B`` samples of a batch, ``C`` classes, ``G`` groups.
    """

    def __init__(self) -> None:
        self._sums: Tensor | None = None

    def add(self, predictions: Tensor, groups: Tensor, num_groups: int) -> None:
        """Take in a batch; no host wait.

        Args:
            predictions: Shape (B, C), float, rows that add up to 1.
            groups: Shape (B,), int64, in [0, G]; G for samples that do not count.
            num_groups: G.
        """
        if self._sums is None:
            shape = num_groups + 1, predictions.shape[1]
            self._sums = torch.zeros(shape, dtype=torch.int64, device=predictions.device)
        if self._sums.device != predictions.device:  # after a resume
            self._sums = self._sums.to(predictions.device)
        self._sums.index_add_(0, groups, (predictions / _UNIT).long())

    def total(self) -> Tensor | None:
        """Return the sums of each group, (G, C), float64, on the CPU; None before the first."""
        return None if self._sums is None else self._sums[:-1].cpu().double() * _UNIT

    def clear(self) -> None:
        """Begin anew."""
        if self._sums is not None:
            self._sums = torch.zeros_like(self._sums)

    def state(self) -> dict[str, Tensor]:
        """Return what is added up over ranks, for :meth:`Signal.sums`."""
        return {} if self._sums is None else {"predictions": self._sums}

    def load(self, state: dict[str, Tensor]) -> None:
        """Take over what :meth:`state` gave."""
        self._sums = state.get("predictions")
