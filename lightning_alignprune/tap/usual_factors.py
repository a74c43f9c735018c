"""Does a sample count alike in batches of every size?

Legend: ``B`` samples in the batch, ``K`` parts of the loss.
"""

import math
from typing import Any

import torch
from torch import Tensor


class UsualFactors:
    """Make a sample's loss the same in a short batch as in a full one.

    A loss is taken for a mean over the batch, of which a sample has B times its share. If the step
    takes a sum, or divides by a number that is the same for every batch, that would make losses of
    a short batch small. Whether it does is seen from the factors in the largest batch so far:
    either those in a short batch are about the same, or they have shrunk as the batch has.
    """

    def __init__(self) -> None:
        self._num_samples = 0
        self._factors = torch.empty(0)

    def corrections(self, factors: Tensor, num_samples: int) -> Tensor | None:
        """Return what to multiply the parts of a batch by; None where all are as they should be.

        Args:
            factors: Shape (K,), what B times a sample's share is of its loss, on average. Kept if
                the batch has at least as many samples as any before.
            num_samples: B.

        Returns:
            Shape (K,).

        Example:
            >>> usual = UsualFactors()
            >>> usual.corrections(torch.tensor([1.0, 8.0]), 8)
            >>> usual.corrections(torch.tensor([1.0, 2.0]), 2)
            tensor([1., 4.])
        """
        if num_samples >= self._num_samples or factors.shape != self._factors.shape:
            self._num_samples, self._factors = num_samples, factors
            return None
        growth = self._num_samples / num_samples
        self._factors = self._factors.to(factors.device)
        change = (factors / self._factors).log()  # NaN, which is never larger, where signs differ
        has_shrunk = change.abs() > (change + math.log(growth)).abs()
        return torch.where(has_shrunk, growth, 1.0)

    def state_dict(self) -> dict[str, Any]:
        """Return the largest batch's size and factors."""
        return {"num_samples": self._num_samples, "factors": self._factors.cpu()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
        self._num_samples, self._factors = int(state["num_samples"]), state["factors"]
