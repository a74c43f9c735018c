"""Where each sample's loss lies among the reference's, averaged over the epochs that count."""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_alignprune.functional.mixture import reference_rank

# What an older epoch weighs against the next one: about the last ten count.
_DECAY = 0.9


class LossRanks(NamedTuple):
    """Mean ranks of losses among the reference's, in [0, 1]; high = looks wrong.

    Attributes:
        samples: Shape (N,), float32; NaN for a sample that was not seen.
        reference: Shape (n,), float32. The same of the reference's own samples.
    """

    samples: Tensor
    reference: Tensor


class _Average:
    """A decayed mean of each entry, over the rows in which it is not NaN."""

    def __init__(self, total: Tensor, weight: Tensor) -> None:
        self.total, self.weight = total, weight

    def add(self, row: Tensor) -> None:
        total, weight, seen = self.total.to(row.device), self.weight.to(row.device), ~row.isnan()
        self.total = torch.where(seen, _DECAY * total + row, total)
        self.weight = torch.where(seen, _DECAY * weight + 1, weight)


class RankAverages:
    """Average the ranks of losses over the epochs that brought the reference's loss down.

    An epoch after which the reference is worse than before says more of what was memorised than of
    labels: it does not count.
    """

    def __init__(self) -> None:
        self._lowest = math.inf
        self._newest: Tensor | None = None  # the reference's losses, of an epoch that counts
        self._samples: _Average | None = None
        self._reference: _Average | None = None

    @property
    def means(self) -> LossRanks | None:
        """What was averaged so far; None before the first epoch that counts."""
        if self._samples is None or self._reference is None:
            return None
        samples, reference = self._samples, self._reference
        return LossRanks(samples.total / samples.weight, reference.total / reference.weight)

    def follow(self, reference: Tensor) -> None:
        """Take the losses of the reference after an epoch, shape (n,)."""
        losses, mean = reference.float().cpu(), float(reference.mean())
        is_known = self._reference is None or len(self._reference.total) == len(losses)
        self._newest = losses if mean < self._lowest and is_known else None
        if self._newest is not None:
            self._lowest = mean
            self._reference = _added(self._reference, reference_rank(losses, losses))

    def add(self, losses: Tensor) -> None:
        """Take the losses of the samples in the epoch followed last, shape (N,); NaN = unseen."""
        if self._newest is not None:
            ranks = reference_rank(losses, self._newest.to(losses.device))
            self._samples = _added(self._samples, ranks)
            self._newest = None

    def learned(self) -> dict[str, Any]:
        """Return what :meth:`follow` sets: primitives, and tensors of more than one dimension.

        A tensor of shape (N,) in a state is taken for one value a sample.
        """
        average, newest = self._reference, self._newest
        parts = None if average is None else torch.stack([average.total, average.weight])
        return {
            "lowest": self._lowest,
            "newest": None if newest is None else newest.unsqueeze(0),
            "reference": parts,
        }

    def load_learned(self, state: dict[str, Any]) -> None:
        """Take over what another rank has followed."""
        self._lowest = state["lowest"]
        self._newest = None if state["newest"] is None else state["newest"][0]
        self._reference = None if state["reference"] is None else _Average(*state["reference"])

    def of_samples(self) -> list[Tensor] | None:
        """Return sums and weights of the samples, each of shape (N,)."""
        average = self._samples
        return None if average is None else [average.total, average.weight]

    def load_of_samples(self, parts: list[Tensor] | None) -> None:
        """Take over what :meth:`of_samples` gave."""
        self._samples = None if parts is None else _Average(*parts)


def _added(average: _Average | None, row: Tensor) -> _Average:
    made = average or _Average(torch.zeros_like(row), torch.zeros_like(row))
    made.add(row)
    return made
