"""`PassTotals`: what a pass over the reference set adds up to."""

from typing import Any

import torch
from lightning.pytorch.utilities.data import extract_batch_size
from torch import Tensor

from lightning_alignprune.reference.samples import KeptSamples, SampleDetail
from lightning_alignprune.signals import ReferenceSamples
from lightning_alignprune.tap.loss_tap import LossTap
from lightning_alignprune.tap.tapped_step import (
    TappedCall,
    TappedStep,
    UnseenLossError,
    is_classification,
    loss_and_own,
    main_call,
)
from lightning_alignprune.tap.usual_factors import UsualFactors
from lightning_alignprune.trainer_access.errors import refusal
from lightning_alignprune.trainer_access.ranks import RankExchange


class PassTotals:
    """Sum up losses over batches and give their mean as a device scalar, without a host wait.

    Args:
        detail: ``"losses"`` keeps each sample's loss, with logits and label where they are seen;
            ``"logits"`` keeps these also from a loss that has other parts; None keeps nothing.

    Attributes:
        num_batches: Batches added so far.
    """

    def __init__(self, detail: SampleDetail | None = None) -> None:
        self.num_batches = 0
        self._detail = detail
        self._kept = KeptSamples()
        self._usual = UsualFactors()
        self._sum: Tensor | float = 0.0
        self._count: Tensor | float = 0.0

    def add(self, tap: LossTap, returned: Any, batch: Any) -> None:
        """Add one batch: the module's own losses, else what is tapped, else the returned loss."""
        self.num_batches += 1
        loss, vector = loss_and_own(returned)
        call = main_call(tap.calls, loss)
        is_own = vector is not None
        if vector is None:
            vector = self._combined(tap, loss, call, batch)
        if vector is None and call is not None:
            vector = call.losses
        if self._detail is not None:
            self._keep(tap, None if call is None and not is_own else vector, call)
        if vector is not None:
            losses = vector.detach().float()
            observed = ~losses.isnan()
            self._sum = self._sum + losses.nansum()
            self._count = self._count + observed.sum()
        elif isinstance(loss, Tensor):
            size = len(tap.calls[0].losses) if tap.calls else extract_batch_size(batch)
            self._sum = self._sum + loss.detach().float() * size
            self._count = self._count + size
        else:
            raise refusal(
                "a loss on the reference batch",
                f"{type(returned).__name__} and no call of a torch loss function",
                "Return the loss from the step, or a dict with 'loss' and 'sample_loss'.",
            )

    def _combined(
        self, tap: LossTap, loss: Any, call: TappedCall | None, batch: Any
    ) -> Tensor | None:
        """Return what the step makes of elements or several losses, as it is read in training."""
        is_reduced_by_hand = call is not None and call.reduction == "none"
        is_seen = isinstance(loss, Tensor) and loss.requires_grad and not loss.ndim
        if not is_seen or not (is_reduced_by_hand or (call is None and len(tap.calls) > 1)):
            return None
        num_samples = len(tap.calls[0].losses)
        if any(len(other.losses) != num_samples for other in tap.calls):
            num_samples = extract_batch_size(batch)
        calls = [other for other in tap.calls if len(other.losses) == num_samples]
        step = TappedStep(num_samples, loss, calls, usual=self._usual)
        try:
            return step.sample_losses()
        except UnseenLossError:
            return None

    def _keep(self, tap: LossTap, losses: Tensor | None, call: TappedCall | None) -> None:
        if call is None or not is_classification(call):
            found = [other for other in tap.calls if is_classification(other)]
            call = found[0] if len(found) == 1 else None
        if losses is None and self._detail == "logits" and call is not None:
            losses = call.losses
        if losses is not None:
            self._kept.add(self.num_batches, losses, call)

    def samples(self, exchange: RankExchange | None) -> ReferenceSamples | None:
        """Return what was kept, of all ranks if there is an exchange; None if nothing was."""
        return None if self._detail is None else self._kept.joined(exchange)

    def mean(self, exchange: RankExchange, device: torch.device) -> Tensor:
        """Return the mean loss over the batches of all ranks, a float32 scalar on the device."""
        return _mean(exchange.all_reduce(self._sum_and_count(device)))

    def local_mean(self, device: torch.device) -> Tensor:
        """Return the mean loss over the batches of this process, likewise."""
        return _mean(self._sum_and_count(device))

    def _sum_and_count(self, device: torch.device) -> Tensor:
        both = [torch.as_tensor(x, device=device) for x in (self._sum, self._count)]
        return torch.stack([x.double() for x in both])


def _mean(sum_and_count: Tensor) -> Tensor:
    mean: Tensor = sum_and_count[0] / sum_and_count[1]
    return mean.float()
