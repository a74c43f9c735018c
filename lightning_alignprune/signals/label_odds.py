"""`LabelOdds`: the odds that a sample's label is right, from what the network says of its like."""

from collections.abc import Sequence
from statistics import fmean
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from lightning_alignprune.functional.calibration import (
    STRENGTHS,
    Calibrator,
    check_strengths,
    held_out_logits,
)
from lightning_alignprune.functional.label_posterior import (
    CONFIDENCE,
    candidate_weights,
    class_prior,
    estimate_transition,
    mean_predictions,
    weighed_log_odds,
)
from lightning_alignprune.signals._loss_ranks import LossRanks, RankAverages
from lightning_alignprune.signals._prediction_sums import PredictionSums
from lightning_alignprune.signals._seen_logits import MapInUse, SeenLogits, label_notes, seen_logits
from lightning_alignprune.signals.averages import AveragedSignal
from lightning_alignprune.signals.base import ReferenceSamples
from lightning_alignprune.tap.tapped_step import TappedStep

# An epoch that saw fewer of the samples says nothing about the share of wrong ones among all.
_WHOLE = 0.98
# Share of the labels that is added to each true class before one is suggested: of few samples the
# transition misses some. More does better under uniform noise, less under pairs of classes.
_ADDED = 0.05
# The largest of several estimates is too large by chance, later ones are too small as labels are
# memorised: the mean of so many was within 0.03 of the truth where the largest was off by 0.08.
# So many in a row must stand out before any is believed: of clean labels with augmented images,
# estimates between 0.07 and 0.20 come and go, those of wrong labels stay.
_NUM_ESTIMATES = 3


class LabelOdds(AveragedSignal):
    """Minus the log odds that each sample's label is right, averaged over epochs.

    After each epoch the training samples' mean predictions per given label are compared with the
    reference's per true label. What does not agree is wrong labels: a transition matrix Q says
    which true classes stand behind each given label. In the next epochs every prediction,
    calibrated on the reference, is weighed with it: P(right) = Q[j, j] p(j) / pi(j) over the sum of
    Q[k, j] p(k) / pi(k). The score :class:`~lightning_alignprune.LabelPosterior` reads the average.

    Beside the odds, the ranks of the calibrated losses among the reference's are averaged,
    :attr:`loss_ranks`: ``PosteriorCut`` reads them where the odds say too little.

    The odds compare no losses, so nothing depends on training samples being seen before or after an
    update. Samples are memorised with time and the share of wrong labels is then underestimated: of
    all epochs' estimates the one is used that stands out most, share less two standard errors; for
    the share itself the mean of it and the two after it. No odds are given before three estimates
    in a row have stood out; on clean labels that is the whole run. What was averaged by fewer is
    dropped: a network that leaps from epoch to epoch looks now and then as if labels were wrong.
    Estimates are made only from epochs in which all samples were trained.

    Needs a reference set, and one classification loss per step. Samples of a class that the
    reference lacks count as right. Class weights and label smoothing do not enter.

    Args:
        decay: What an older epoch weighs, in (0, 1]; 1 averages all epochs alike.
        strengths: Penalties of the calibration, as in ``CalibratedLoss``.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If one is out of range.

    Attributes:
        newest_share: By the newest estimate; None before the first.
        standard_error: Of the newest estimate. It covers chance, not memorisation.
        estimates_since_peak: How many estimates came after the one in use.

    Note:
        Logged as ``pruning/noise_share`` and ``pruning/newest_noise_share``. Per step one softmax,
        O(B C) and one sum by class, no host wait. Per epoch end a fit of the map and O(C^3): see
        :func:`~lightning_alignprune.functional.estimate_transition`. Four numbers a sample and
        two matrices of C by C. Source: ours, from label shift by confusion matrices (Lipton et al.,
        2018).
    """

    needs_reference = True
    needs_logits = True

    def __init__(self, decay: float = 1.0, strengths: Sequence[float] = STRENGTHS) -> None:
        super().__init__(decay)
        self.strengths = check_strengths("LabelOdds", strengths)
        self._map = MapInUse(self.strengths)
        self._transition: Tensor | None = None
        self._prior: Tensor | None = None
        self._before: Tensor | None = None
        self._sums = PredictionSums()
        self._weights: Tensor | None = None
        self._most_counted = 0
        self._was_informed = False
        self._shares: list[float] = []  # of the estimate in use and of those after it
        self.newest_share: float | None = None
        self.standard_error = float("inf")
        self.estimates_since_peak = 0
        self._surest = 0.0
        self._num_in_a_row = 0
        self._ranks = RankAverages()

    # ---- the batch path ---------------------------------------------------------------------

    @override
    def values(self, step: TappedStep) -> Tensor:
        return self.read(step, with_notes=False)[0]

    @override
    def label_notes(self, step: TappedStep) -> Tensor:
        seen = seen_logits(step)
        with torch.no_grad(), torch.autocast(seen.logits.device.type, enabled=False):
            return self._notes(seen, *self._weighed(seen))

    @override
    def read(self, step: TappedStep, with_notes: bool) -> tuple[Tensor, Tensor | None]:
        seen = seen_logits(step)
        with torch.no_grad(), torch.autocast(seen.logits.device.type, enabled=False):
            found, weights = self._weighed(seen)
            size = found.shape[1]
            self._sums.add(found, torch.where(seen.is_valid, seen.labels, size), size)
            values = seen.marked(-weighed_log_odds(found, seen.labels, weights))
            return values, self._notes(seen, found, weights) if with_notes else None

    def _weighed(self, seen: SeenLogits) -> tuple[Tensor, Tensor]:
        """Return the calibrated predictions and what weighs for each given label, (B, C) both."""
        found = self._map.on(seen.logits).predictions(seen.logits)
        return found, self._weights_for(found).index_select(0, seen.labels)

    @staticmethod
    def _notes(seen: SeenLogits, found: Tensor, weights: Tensor) -> Tensor:
        calibrated = -found.gather(1, seen.labels.unsqueeze(1)).squeeze(1).log()
        return label_notes(seen, found * (weights + _ADDED * found.shape[1]), calibrated)

    def _weights_for(self, predictions: Tensor) -> Tensor:
        if self._weights is None:
            size = predictions.shape[1]
            if self._transition is None or self._prior is None:
                self._transition, self._prior = torch.eye(size), torch.ones(size) / size
            weights = candidate_weights(self._transition.cpu(), self._prior.cpu())
            self._weights = weights.to(predictions.device)
        return self._weights

    @override
    def sums(self) -> dict[str, Tensor]:
        return self._sums.state()

    @override
    def load_sums(self, sums: dict[str, Tensor]) -> None:
        self._sums.load(sums)

    def _by_class(self) -> tuple[Tensor, Tensor]:
        """Return sums of predictions per given label, (C, C), and how many were given, (C,)."""
        sums = self._sums.total()
        assert sums is not None, "nothing was summed up"
        return sums, sums.sum(1).round()  # a prediction adds up to 1

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
        self._ranks.follow(found.losses)
        self._prior = class_prior(labels, logits.shape[1])
        self._weights = None
        self._sums.clear()
        return samples._replace(losses=found.losses)

    def _counted_all(self) -> bool:
        num_counted = 0 if self._sums.total() is None else int(self._by_class()[1].sum())
        self._most_counted = max(self._most_counted, num_counted)
        return num_counted > 0 and num_counted >= _WHOLE * self._most_counted

    def _estimate(self, reference: Tensor, labels: Tensor) -> None:
        sums, counts = self._by_class()
        found = estimate_transition(reference, labels, mean_predictions(sums, counts), counts)
        self.newest_share, self.standard_error = found.noise_share, found.standard_error
        self.estimates_since_peak = (self.estimates_since_peak or 0) + 1
        surest = found.noise_share - CONFIDENCE * found.standard_error
        if not self._is_confirmed:
            # An epoch in which the network leaped looks like noise; real noise is seen in each.
            self._num_in_a_row = self._num_in_a_row + 1 if found.noise_share > 0 else 0
            if self._num_in_a_row == 0:
                self._shares, self._transition = [], None
                self._total = self._weight = None
        if found.noise_share > 0 and (not self._shares or surest > self._surest):
            self._transition, self._surest = found.matrix.float(), surest
            self._shares, self.estimates_since_peak = [found.noise_share], 0
        elif found.noise_share > 0 and len(self._shares) < _NUM_ESTIMATES:
            self._shares.append(found.noise_share)

    @property
    def _is_confirmed(self) -> bool:
        return self._num_in_a_row >= _NUM_ESTIMATES

    @property
    def noise_share(self) -> float:
        """Share of wrong labels, of the estimate in use and the two after it; 0.0 before one."""
        return fmean(self._shares) if self._shares else 0.0

    @override
    def close_epoch(self, row: Tensor, last: Tensor) -> Tensor:
        kept = super().close_epoch(row, last)
        self._was_informed = self.noise_share > 0  # of the next row
        return kept if self._is_confirmed else torch.full_like(row, torch.nan)

    @override
    def close_notes(self, calibrated_losses: Tensor) -> None:
        self._ranks.add(calibrated_losses)

    @property
    @override
    def loss_ranks(self) -> LossRanks | None:
        return self._ranks.means

    @property
    @override
    def is_informative(self) -> bool:
        return self._was_informed and self.noise_share > 0

    @property
    @override
    def noise_estimate(self) -> tuple[float, float] | None:
        if self.newest_share is None:
            return None
        if self.noise_share == 0:
            return 0.0, self.standard_error
        return self.noise_share, (self._shares[0] - self._surest) / CONFIDENCE

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
            "shares": list(self._shares),
            "newest_share": self.newest_share,
            "standard_error": self.standard_error,
            "estimates_since_peak": self.estimates_since_peak,
            "surest": self._surest,
            "num_in_a_row": self._num_in_a_row,
            "ranks": self._ranks.learned(),
        }

    @override
    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "ranks_of_samples": self._ranks.of_samples()}

    @override
    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self._ranks.load_of_samples(state["ranks_of_samples"])

    @override
    def load_learned(self, state: dict[str, Any]) -> None:
        self._map.load_state_dict(state)
        self._map.fold_maps = tuple(Calibrator(*each) for each in state["fold_maps"])
        self._transition, self._prior = state["transition"], state["prior"]
        self._before, self._most_counted = state["before"], state["most_counted"]
        self._was_informed, self._shares = state["was_informed"], list(state["shares"])
        self.newest_share, self.standard_error = state["newest_share"], state["standard_error"]
        self.estimates_since_peak = state["estimates_since_peak"]
        self._surest, self._num_in_a_row = state["surest"], state["num_in_a_row"]
        self._ranks.load_learned(state["ranks"])
        self._weights = None


def _held_out(maps: Sequence[Calibrator], logits: Tensor, labels: Tensor) -> Tensor:
    here = [Calibrator(*(part.cpu() for part in each)) for each in maps]
    return held_out_logits(here, logits, labels).softmax(1)
