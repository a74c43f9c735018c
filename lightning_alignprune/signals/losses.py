"""Signals that are losses: each sample's own, plain or centred, or an EMA of its batches'."""

from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from lightning_alignprune._checks import check_bool, check_float
from lightning_alignprune.signals._seen_logits import label_notes, seen_logits
from lightning_alignprune.signals.base import NoLogitsError, Signal
from lightning_alignprune.tap.tapped_step import TappedStep


class SampleLoss(Signal):
    """Each sample's own training loss, as the loss function gave it (InfoBatch, SeTa, AlignPrune).

    Args:
        plain: Record cross-entropy without label smoothing even where training uses it. The loss
            that is trained does not change.

    Raises:
        TypeError: If ``plain`` is no bool.

    Note:
        The loss of the train-mode, augmented forward pass, before the optimizer step.
    """

    def __init__(self, plain: bool = False) -> None:
        self.plain_loss = check_bool("SampleLoss", "plain", plain)

    @override
    def values(self, step: TappedStep) -> Tensor:
        return step.sample_losses()

    @override
    def label_notes(self, step: TappedStep) -> Tensor | None:
        try:
            seen = seen_logits(step)
        except NoLogitsError:  # a loss of another kind says nothing of labels
            return None
        return label_notes(seen, seen.logits.float().softmax(1))


class CenteredLoss(SampleLoss):
    """Each sample's loss minus the mean of its batch, so that steps of one epoch can be compared.

    The network changes while an epoch runs, and with it the size of all losses: of two samples the
    one that came later looks easier. Within a batch all are measured with the same weights. Below
    0 = easier than the batch it was in. The policy ``RePB`` reads it.

    Args:
        plain: As in :class:`SampleLoss`.

    Raises:
        TypeError: If ``plain`` is no bool.

    Note:
        The mean is that of the samples which count and have a finite loss; over several ranks, that
        of a rank's own batch. Source: RePB with a window of one batch.
    """

    compares_with_reference = False

    def __init__(self, plain: bool = False) -> None:
        self.plain_loss = check_bool("CenteredLoss", "plain", plain)

    @override
    def values(self, step: TappedStep) -> Tensor:
        losses = step.sample_losses()
        is_finite = losses.isfinite()
        total = torch.where(is_finite, losses, 0.0).sum()
        return losses - total / is_finite.sum().clamp(min=1)


class BatchLoss(Signal):
    r"""Batch Loss Score: an EMA, per sample, of the mean losses of the batches it was in (BLS).

    :math:`s_i \leftarrow \alpha s_i + (1 - \alpha) L_B`, from 0, once for each epoch in which the
    sample was trained. Needs no per-sample loss at all, so it works with any ``training_step``.

    Args:
        alpha: Share of the old value, in [0, 1). 0.9 in the public code.
        bias_correction: Divide by ``1 - alpha**n`` after n visits. Without it a seldom-visited
            sample has a small score only because it starts at 0, looks easy, and is pruned again.

    Raises:
        TypeError: If a value is of the wrong kind.
        ValueError: If ``alpha`` is outside [0, 1).

    Note:
        Parity: the weights of a selection multiply the batch loss by their mean, as in the public
        code. That is not the mean of the weighted losses: with InfoBatch's weights it is biased
        wherever weights and losses correlate. If a sampler draws a sample twice in an epoch, the
        later batch counts, or with ``sample_index`` the mean.
    """

    weighting = "batch"
    compares_with_reference = False

    def __init__(self, alpha: float = 0.9, bias_correction: bool = False) -> None:
        remedy = "0 records the batch loss itself."
        self.alpha = check_float("BatchLoss", "alpha", alpha, low=0, below=1, remedy=remedy)
        self.bias_correction = check_bool("BatchLoss", "bias_correction", bias_correction)
        self._ema: Tensor | None = None
        self._num_visits: Tensor | None = None

    @override
    def values(self, step: TappedStep) -> Tensor:
        return step.batch_loss().expand(step.num_samples)

    @override
    def close_epoch(self, row: Tensor, last: Tensor) -> Tensor:
        if self._ema is None or self._num_visits is None:
            self._ema = torch.zeros_like(row)
            self._num_visits = torch.zeros_like(row, dtype=torch.int32)
        seen = ~row.isnan()
        ema = self._ema.to(row.device)
        self._ema = torch.where(seen, self.alpha * ema + (1 - self.alpha) * row, ema)
        self._num_visits = self._num_visits.to(row.device) + seen
        value = self._ema
        if self.bias_correction:
            value = value / (1 - self.alpha ** self._num_visits.float())
        return torch.where(seen, value, torch.nan)

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"ema": self._ema, "num_visits": self._num_visits}

    @override
    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._ema, self._num_visits = state["ema"], state["num_visits"]
