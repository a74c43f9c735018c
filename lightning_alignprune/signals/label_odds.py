"""`LabelOdds`: the odds that a sample's label is right, from what the network says of its like."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from lightning_alignprune._checks import check_floats
from lightning_alignprune.functional.calibration import STRENGTHS, Calibrator, held_out_logits
from lightning_alignprune.functional.label_posterior import (
    CONFIDENCE,
    class_prior,
    estimate_transition,
    label_log_odds,
    mean_predictions,
)
from lightning_alignprune.signals._seen_logits import MapInUse, seen_logits
from lightning_alignprune.signals.averages import AveragedSignal
from lightning_alignprune.signals.base import ReferenceSamples
from lightning_alignprune.tap.tapped_step import TappedStep

# Probabilities are summed up as whole multiples of this part: exact, in any order.
_UNIT = 2.0**-30
# An epoch that saw fewer of the samples says nothing about the share of wrong ones among all.
_WHOLE = 0.98


class LabelOdds(AveragedSignal):
    """Minus the log odds that each sample's label is right, averaged over epochs.

    After each epoch the training samples' mean predictions per given label are compared with the
    reference's per true label. What does not agree is wrong labels: a transition matrix Q says
    which true classes stand behind each given label. In the next epochs every prediction,
    calibrated on the reference, is weighed with it: P(right) = Q[j, j] p(j) / pi(j) over the sum of
    Q[k, j] p(k) / pi(k). The score :class:`~lightning_alignprune.LabelPosterior` reads the average.

    No losses are compared, so nothing depends on training samples being seen before or after an
    update. Samples are memorised with time and the share of wrong labels is then underestimated: of
    all epochs' estimates the one is used that stands out most, share less two standard errors.
    Nothing is recorded, and nothing is cut, before one stands out at all; on clean labels that is
    the whole run. Estimates are made only from epochs in which all samples were trained.

    Needs a reference set, and one classification loss per step. Samples of a class that the
    reference lacks count as right. Class weights and label smoothing do not enter.

    Args:
        decay: What an older epoch weighs, in (0, 1]; 1 averages all epochs alike.
        strengths: Penalties of the calibration, as in ``CalibratedLoss``.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If one is out of range.

    Attributes:
        noise_share: Share of wrong labels by the estimate in use; 0.0 before noise stands out.
        newest_share: By the newest estimate; None before the first.
        standard_error: Of the newest estimate. It covers chance, not memorisation.
        estimates_since_peak: How many estimates came after the one in use.

    Note:
        Logged as ``pruning/noise_share`` and ``pruning/newest_noise_share``. Per step one softmax,
        O(B C) and one sum by class, no host wait. Per epoch end a fit of the map and O(C^3): see
        :func:`~lightning_alignprune.functional.estimate_transition`. Two numbers a sample and
        two matrices of C by C. Source: ours, from label shift by confusion matrices (Lipton et al.,
        2018).
    """

    needs_reference = True
    needs_logits = True

    def __init__(self, decay: float = 1.0, strengths: Sequence[float] = STRENGTHS) -> None:
        super().__init__(decay)
        remedy = "1, 10 and 100 are the defaults."
        self.strengths = check_floats("LabelOdds", "strengths", strengths, above=0, remedy=remedy)
        if not self.strengths:
            raise ValueError("LabelOdds: expected strengths not to be empty, got (). Give 10.")
        self._map = MapInUse(self.strengths)
        self._transition: Tensor | None = None
        self._prior: Tensor | None = None
        self._before: Tensor | None = None
        self._sums: Tensor | None = None
        self._counts: Tensor | None = None
        self._most_counted = 0
        self._was_informed = False
        self.noise_share = 0.0
        self.newest_share: float | None = None
        self.standard_error = float("inf")
        self.estimates_since_peak = 0
        self._surest = 0.0

    # ---- the batch path ---------------------------------------------------------------------

    @override
    def values(self, step: TappedStep) -> Tensor:
        seen = seen_logits(step)
        with torch.no_grad(), torch.autocast(seen.logits.device.type, enabled=False):
            found = self._map.on(seen.logits).predictions(seen.logits)
            matrix, prior = self._judging(found)
            self._count(found, seen.labels, ~(seen.is_ignored | seen.is_bad))
            return seen.marked(-label_log_odds(found, seen.labels, matrix, prior))

    def _judging(self, like: Tensor) -> tuple[Tensor, Tensor]:
        if self._transition is None or self._prior is None:
            self._transition = torch.eye(like.shape[1])
            self._prior = torch.ones(like.shape[1]) / like.shape[1]
        if self._prior.device != like.device:  # once per epoch
            self._transition = self._transition.to(like.device)
            self._prior = self._prior.to(like.device)
        return self._transition, self._prior

    def _count(self, predictions: Tensor, labels: Tensor, is_valid: Tensor) -> None:
        if self._sums is None or self._counts is None:
            size, device = predictions.shape[1], predictions.device
            self._sums = torch.zeros(size, size, dtype=torch.int64, device=device)
            self._counts = torch.zeros(size, dtype=torch.int64, device=device)
        if self._counts.device != predictions.device:  # after a resume
            self._sums = self._sums.to(predictions.device)
            self._counts = self._counts.to(predictions.device)
        units = torch.where(is_valid.unsqueeze(1), predictions / _UNIT, 0).long()
        self._sums.index_add_(0, labels, units)
        self._counts.index_add_(0, labels, is_valid.long())

    @override
    def sums(self) -> dict[str, Tensor]:
        if self._sums is None or self._counts is None:
            return {}
        return {"predictions": self._sums, "counts": self._counts}

    @override
    def load_sums(self, sums: dict[str, Tensor]) -> None:
        self._sums, self._counts = sums.get("predictions"), sums.get("counts")

    # ---- the epoch end ----------------------------------------------------------------------

    @override
    def follow_reference(self, samples: ReferenceSamples) -> ReferenceSamples:
        old_maps = self._map.fold_maps
        found = self._map.learn(samples)
        assert samples.logits is not None, "no map without logits"
        assert samples.labels is not None, "no map without labels"
        logits, labels = samples.logits.cpu(), samples.labels.cpu()
        is_whole = self._counted_all()
        if is_whole and self._before is not None and len(self._before) == len(labels):
            # Training samples are seen between an epoch's two ends, through the map of its
            # beginning.
            after = _held_out(old_maps, logits, labels)
            self._estimate((self._before + after) / 2, labels)
        self._before = _held_out(found.fold_maps, logits, labels)
        self._prior = class_prior(labels, logits.shape[1])
        self._clear_sums()
        return samples._replace(losses=found.losses)

    def _counted_all(self) -> bool:
        num_counted = 0 if self._counts is None else int(self._counts.sum())
        self._most_counted = max(self._most_counted, num_counted)
        return num_counted > 0 and num_counted >= _WHOLE * self._most_counted

    def _estimate(self, reference: Tensor, labels: Tensor) -> None:
        assert self._sums is not None, "nothing was counted"
        assert self._counts is not None, "nothing was counted"
        sums, counts = self._sums.cpu().double() * _UNIT, self._counts.cpu()
        found = estimate_transition(reference, labels, mean_predictions(sums, counts), counts)
        self.newest_share, self.standard_error = found.noise_share, found.standard_error
        self.estimates_since_peak += 1
        surest = found.noise_share - CONFIDENCE * found.standard_error
        if found.noise_share > 0 and (self.noise_share == 0 or surest > self._surest):
            self._transition, self._surest = found.matrix.float(), surest
            self.noise_share, self.estimates_since_peak = found.noise_share, 0

    def _clear_sums(self) -> None:
        if self._sums is not None and self._counts is not None:
            self._sums.zero_()
            self._counts.zero_()

    @override
    def close_epoch(self, row: Tensor, last: Tensor) -> Tensor:
        kept = super().close_epoch(row, last)
        self._was_informed = self.noise_share > 0  # of the next row
        return kept

    @property
    @override
    def is_informative(self) -> bool:
        return self._was_informed

    @override
    def metrics(self) -> dict[str, float]:
        if self.newest_share is None:
            return {}
        return {"noise_share": self.noise_share, "newest_noise_share": self.newest_share}

    # ---- state ------------------------------------------------------------------------------

    @override
    def learned(self) -> dict[str, Any]:
        return {
            **self._map.state_dict(),
            "fold_maps": [tuple(each) for each in self._map.fold_maps],
            "transition": self._transition,
            "prior": self._prior,
            "before": self._before,
            "most_counted": self._most_counted,
            "was_informed": self._was_informed,
            "noise_share": self.noise_share,
            "newest_share": self.newest_share,
            "standard_error": self.standard_error,
            "estimates_since_peak": self.estimates_since_peak,
            "surest": self._surest,
        }

    @override
    def load_learned(self, state: dict[str, Any]) -> None:
        self._map.load_state_dict(state)
        self._map.fold_maps = tuple(Calibrator(*each) for each in state["fold_maps"])
        self._transition, self._prior = state["transition"], state["prior"]
        self._before, self._most_counted = state["before"], state["most_counted"]
        self._was_informed, self.noise_share = state["was_informed"], state["noise_share"]
        self.newest_share, self.standard_error = state["newest_share"], state["standard_error"]
        self.estimates_since_peak = state["estimates_since_peak"]
        self._surest = state["surest"]


def _held_out(maps: Sequence[Calibrator], logits: Tensor, labels: Tensor) -> Tensor:
    here = [Calibrator(*(part.cpu() for part in each)) for each in maps]
    return held_out_logits(here, logits, labels).softmax(1)
