"""RS2: random subsets that come back only when all have been (Okanovic et al., ICLR 2024)."""

from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from lightning_alignprune.functional.selection import Selection, next_subset
from lightning_alignprune.policies._fractions import check_prune_fraction
from lightning_alignprune.policies.base import Policy, SelectionContext


class RS2(Policy):
    """Train each epoch on a random subset, and on every sample once before any comes again.

    As :class:`DynamicRandom`, without replacement over epochs: with half of the samples in an
    epoch, two epochs see them all. The scores are not used.

    Args:
        prune_fraction: Share of samples left out of each epoch, in [0, 1); exactly
            ``round((1 - prune_fraction) * N)`` are kept, with weight 1.

    Raises:
        TypeError: If ``prune_fraction`` is no number.
        ValueError: If it is out of range.

    Note:
        It goes on to the end of the run. Epoch 0 trains everything, as with all policies; the first
        round begins after it. Where a round does not divide into whole epochs, one epoch ends it
        and begins the next; the source leaves that open.
    """

    finish = "selected"
    works_on_shares = True

    def __init__(self, prune_fraction: float = 0.5) -> None:
        self.prune_fraction = check_prune_fraction("RS2", prune_fraction)
        self.keep_fraction = 1.0 - self.prune_fraction
        self._used: Tensor | None = None

    @override
    def select(self, scores: Tensor, context: SelectionContext) -> Selection:
        if self._used is None:
            self._used = torch.zeros_like(context.indices, dtype=torch.bool)
        used = self._used.to(context.indices.device)
        count = round(self.keep_fraction * int(context.total(torch.ones_like(used).sum())))
        drawn, self._used = next_subset(
            used, count, context.indices, context.seed, context.epoch, context.all_reduce
        )
        return Selection(drawn)

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"used": self._used}

    @override
    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._used = state["used"]
