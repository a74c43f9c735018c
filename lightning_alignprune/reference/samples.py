"""`KeptSamples`: what a pass over the reference set keeps sample by sample.

Legend: ``B`` samples of a batch, ``C`` classes, ``n`` samples of the set.
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from lightning_alignprune.signals import ReferenceSamples
from lightning_alignprune.tap.tapped_step import TappedCall
from lightning_alignprune.trainer_access.ranks import RankExchange

SampleDetail = Literal["losses", "logits"]
ReferenceWeights = Literal["current", "ema"]


class BatchOfSamples(NamedTuple):
    """One batch of the reference set.

    Attributes:
        number: Shape (B,), int64. The batch's place in this rank's pass.
        losses: Shape (B,), float32. NaN where a sample is ignored.
        labels: Shape (B,), int64; empty where no classification loss was seen.
        logits: Shape (B, C), float32; C is 0 likewise.
    """

    number: Tensor
    losses: Tensor
    labels: Tensor
    logits: Tensor


class KeptSamples:
    """Collect the batches of a pass and put them together over ranks."""

    def __init__(self) -> None:
        self._batches: list[BatchOfSamples] = []

    def add(self, number: int, losses: Tensor, call: TappedCall | None) -> None:
        """Keep a batch; ``call`` is its classification loss, or None."""
        losses = losses.detach().float()
        labels = losses.new_zeros(len(losses), dtype=torch.int64)
        logits = losses.new_zeros(len(losses), 0)
        if call is not None and len(call.target) == len(losses):
            labels, logits = call.target.long(), call.logits.float()
        at = torch.full_like(labels, number)
        self._batches.append(BatchOfSamples(at, losses, labels, logits))

    def joined(self, exchange: RankExchange | None) -> ReferenceSamples | None:
        """Return the samples in the order of the batches, of all ranks if there is an exchange.

        None if there are none, a loss is not finite, or batches show different things.
        """
        num_classes = {batch.logits.shape[1] for batch in self._batches}
        if exchange is not None:
            num_classes = self._of_all_ranks(num_classes, exchange)
        if len(num_classes) != 1:
            return None
        samples: list[Tensor] = list(self._in_one(num_classes.pop()))
        if samples[-1].shape[1] == 0:
            samples = samples[:2]  # neither labels nor logits were seen
        if exchange is not None:
            samples = exchange.concatenated(*samples)
            order = samples[0].argsort(stable=True)
            samples = [values[order] for values in samples]
        observed = ~samples[1].isnan()
        losses, *seen = (values[observed] for values in samples[1:])
        if not len(losses) or not bool(losses.isfinite().all()):
            return None
        if not seen:
            return ReferenceSamples(losses)
        labels, logits = seen
        # A class masked out by a logit of -inf is no fault.
        return None if bool(logits.isnan().any()) else ReferenceSamples(losses, logits, labels)

    def _of_all_ranks(self, num_classes: set[int], exchange: RankExchange) -> set[int]:
        # A rank may have no batch of its own; -1 stands for that, as all must call alike.
        ends = [min(num_classes), max(num_classes)] if num_classes else [-1, -1]
        (every,) = exchange.concatenated(torch.tensor(ends))
        return set(every.tolist()) - {-1}

    def _in_one(self, num_classes: int) -> BatchOfSamples:
        none = torch.zeros(0, dtype=torch.int64)
        empty = BatchOfSamples(none, torch.zeros(0), none, torch.zeros(0, num_classes))
        if not self._batches:
            return empty
        return BatchOfSamples(*(torch.cat(parts) for parts in zip(*self._batches, strict=True)))
