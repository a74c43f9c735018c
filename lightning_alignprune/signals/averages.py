"""`AveragedSignal`: what is kept for a sample is an average over the epochs that saw it."""

from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from lightning_alignprune._checks import check_float
from lightning_alignprune.signals.base import Signal


class AveragedSignal(Signal):
    """A signal that keeps each sample's running average, two numbers a sample.

    An average over all epochs needs no gate: what a network memorises late weighs no more than what
    it said early. Low = right; the score :class:`~lightning_alignprune.TimeAverage` turns that
    round. A sample that is not seen keeps its average.

    Args:
        decay: What an older epoch weighs against the next one that saw the sample, in (0, 1]; 1
            averages all alike, 0.8 about the last five.

    Raises:
        TypeError: If ``decay`` is no number.
        ValueError: If it is out of range.
    """

    compares_with_reference = False

    def __init__(self, decay: float = 1.0) -> None:
        self.decay = check_float(
            type(self).__name__, "decay", decay, above=0, high=1, remedy="1 averages all epochs."
        )
        self._total: Tensor | None = None
        self._weight: Tensor | None = None

    def label_quality(self, average: Tensor) -> Tensor:
        """Turn averages into how right the labels look, in [0, 1]; 0.5 is undecided."""
        return (-average).sigmoid()

    @property
    def is_informative(self) -> bool:
        """Whether what was recorded in the epoch that ends says anything."""
        return True

    @override
    def close_epoch(self, row: Tensor, last: Tensor) -> Tensor:
        if not self.is_informative:
            return torch.full_like(row, torch.nan)
        if self._total is None or self._weight is None:
            self._total, self._weight = torch.zeros_like(row), torch.zeros_like(row)
        seen = ~row.isnan()
        total, weight = self._total.to(row.device), self._weight.to(row.device)
        self._total = torch.where(seen, self.decay * total + row, total)
        self._weight = torch.where(seen, self.decay * weight + 1, weight)
        return torch.where(seen, self._total / self._weight, torch.nan)

    @override
    def state_dict(self) -> dict[str, Any]:
        return {**self.learned(), "total": self._total, "weight": self._weight}

    @override
    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.load_learned(state)
        self._total, self._weight = state["total"], state["weight"]

    @override
    def learned(self) -> dict[str, Any]:
        return {}

    @override
    def load_learned(self, state: dict[str, Any]) -> None:
        pass
