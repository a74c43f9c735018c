"""`ReferenceLoss`: what a pass over the reference set adds up to."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from lightning.pytorch.utilities.data import extract_batch_size
from torch import Tensor

from lightning_alignprune.signals import ReferenceSamples
from lightning_alignprune.tap.loss_tap import LossTap
from lightning_alignprune.tap.tapped_step import TappedCall, is_classification, main_call
from lightning_alignprune.trainer_access.errors import refusal

Keeps = Literal["losses", "logits"] | None


@dataclass
class ReferenceLoss:
    """Sum up losses over batches and give their mean as a device scalar, without a host wait.

    Attributes:
        keeps: ``"losses"`` keeps each sample's loss, with logits and label where they are seen;
            ``"logits"`` keeps these also from a loss that has other parts; None keeps nothing.
    """

    keeps: Keeps = None
    total: Tensor | float = 0.0
    count: Tensor | float = 0.0
    num_batches: int = 0
    kept: list[Tensor] = field(default_factory=list)

    def add(self, tap: LossTap, returned: Any, batch: Any) -> None:
        """Add one batch: the tapped vector, else the module's own, else the returned loss."""
        self.num_batches += 1
        loss = returned.get("loss") if isinstance(returned, dict) else returned
        vector = returned.get("sample_loss") if isinstance(returned, dict) else None
        call = main_call(tap.calls, loss)
        if vector is None and call is not None:
            vector = call.losses
        if self.keeps:
            self._keep(tap, vector, call)
        if vector is not None:
            losses = vector.detach().float()
            observed = ~losses.isnan()
            self.total = self.total + losses.nansum()
            self.count = self.count + observed.sum()
        elif isinstance(loss, Tensor):
            size = len(tap.calls[0].losses) if tap.calls else extract_batch_size(batch)
            self.total = self.total + loss.detach().float() * size
            self.count = self.count + size
        else:
            raise refusal(
                "a loss on the reference batch",
                f"{type(returned).__name__} and no call of a torch loss function",
                "Return the loss from the step, or a dict with 'loss' and 'sample_loss'.",
            )

    def _keep(self, tap: LossTap, losses: Tensor | None, call: TappedCall | None) -> None:
        if call is None or not is_classification(call):
            calls = [call for call in tap.calls if is_classification(call)]
            call = calls[0] if len(calls) == 1 else None
        if losses is None and self.keeps == "logits" and call is not None:
            losses = call.losses
        if losses is None:
            return
        losses = losses.detach().float()
        columns = [torch.full_like(losses, self.num_batches), losses]
        if call is not None and len(call.target) == len(losses):
            columns += [call.target.float(), *call.logits.float().unbind(1)]
        self.kept.append(torch.stack(columns, 1))

    def samples(self, gather: Callable[[Tensor], Tensor] | None) -> ReferenceSamples | None:
        """Return the samples in the order of the batches, of all ranks if ``gather`` is given.

        None if there are none or a loss is not finite.
        """
        widths = {part.shape[1] for part in self.kept}
        if gather is not None:
            # A rank may have no batch of its own; all must call alike.
            mine = torch.zeros(1, 2)
            if widths:
                mine = torch.tensor([[min(widths), max(widths)]])
            widths = {int(width) for width in gather(mine.double()).flatten().tolist()} - {0}
        if len(widths) != 1:
            return None
        rows = torch.cat(self.kept) if self.kept else torch.empty(0, *widths)
        if gather is not None:
            rows = gather(rows)
            rows = rows[rows[:, 0].argsort(stable=True)]
        rows = rows[~rows[:, 1].isnan()]
        # A class masked out by a logit of -inf is no fault.
        if not len(rows) or not bool(rows[:, 1].isfinite().all()) or bool(rows.isnan().any()):
            return None
        if rows.shape[1] == 2:
            return ReferenceSamples(rows[:, 1])
        return ReferenceSamples(rows[:, 1], rows[:, 3:].contiguous(), rows[:, 2].long())

    def totals(self, device: torch.device) -> Tensor:
        """Sum and count, shape (2,), float64."""
        both = [torch.as_tensor(x, device=device) for x in (self.total, self.count)]
        return torch.stack([x.double() for x in both])
