"""Selective backprop: the harder a sample, the likelier its gradient (Jiang et al., 2019)."""

from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from lightning_alignprune._checks import check_float, check_int
from lightning_alignprune.functional.batch_choice import selective_probabilities
from lightning_alignprune.in_batch.base import FEWEST, BatchChoice, BatchLook


class SelectiveBackprop(BatchChoice):
    """Train a sample with a probability that rises with the rank of its loss among recent ones.

    ``max(least, F^beta)``, where F is the share of the last losses strictly below its own. Epoch 0
    trains everything.

    Args:
        beta: Above 0. 1 trains about half, 2 about a third.
        least: Smallest probability, in [0, 1]. With 0 the easiest samples are never trained.
        history: How many losses are remembered, at least 1. On each rank those of its own batches.

    Raises:
        TypeError: If a value is of the wrong kind.
        ValueError: If one is out of range.

    Note:
        Parity: 1,024 losses, ``beta=1`` and an epoch of everything first are the public code's.
        There what is chosen waits until a batch is full; here a batch is trained at once with what
        is chosen of it, two samples at least, and has the mean of their losses: as many steps as
        without. A batch costs O(B history) and a host wait, since its size is not known before.
    """

    def __init__(self, beta: float = 1.0, least: float = 0.0, history: int = 1024) -> None:
        owner = "SelectiveBackprop"
        self.beta = check_float(owner, "beta", beta, above=0, remedy="Larger ones train less.")
        remedy = "0 may leave out the easiest samples for good."
        self.least = check_float(owner, "least", least, low=0, high=1, remedy=remedy)
        remedy = "The public code remembers 1,024."
        self.history = check_int(owner, "history", history, low=1, remedy=remedy)
        self._recent = torch.full((self.history,), torch.nan)

    @property
    @override
    def description(self) -> str:
        return f"SelectiveBackprop(beta={self.beta:g}) trains the harder part of each batch"

    @override
    def choose(self, look: BatchLook) -> Tensor:
        size = len(look.losses)
        if look.epoch == 0:
            return torch.arange(size, device=look.losses.device)
        self._recent = self._recent.to(look.losses.device)
        chances = selective_probabilities(look.losses, self._recent, self.beta, self.least)
        is_chosen = look.draws(1)[0] < chances
        count = min(size, max(FEWEST, int(is_chosen.sum())))
        # The hardest ones make up for too few.
        rank = torch.where(is_chosen, torch.inf, look.losses)
        return rank.topk(count).indices.sort().values

    @override
    def follow(self, losses: Tensor) -> None:
        known = losses.where(losses.isfinite(), torch.nan)
        self._recent = torch.cat([self._recent.to(losses.device), known])[-self.history :]

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"recent": self._recent}

    @override
    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._recent = state.get("recent", self._recent)  # none of another choice
