"""`Margin` and `WrongEvents`: how clearly, and how often, a network sides with a given label."""

from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from lightning_alignprune._checks import check_choice
from lightning_alignprune.functional.calibration import STRENGTHS, check_strengths
from lightning_alignprune.signals._prediction_sums import PredictionSums
from lightning_alignprune.signals._seen_logits import MapInUse, label_notes, seen_logits
from lightning_alignprune.signals.averages import AveragedSignal
from lightning_alignprune.signals.base import ReferenceSamples
from lightning_alignprune.tap.tapped_step import TappedStep

Correction = Literal["none", "class", "calibration"]
CORRECTIONS: tuple[Correction, ...] = get_args(Correction)
_LEAST = 1e-6  # probabilities below it are alike


class Margin(AveragedSignal):
    """Minus how far the given label's logit is above the largest other one, averaged over epochs.

    ``tanh(margin / 2)``, in [-1, 1], for margins without a bound would let few epochs decide.

    Args:
        correction: ``"none"`` takes the logits as they are. ``"class"`` divides each class's
            probability by its mean over the training samples of the epoch before, so that a class
            that the network favours is not held against the others (logit adjustment); no reference
            is needed. ``"calibration"`` takes the logits that a map fitted on the clean reference
            has corrected, as ``CalibratedLoss`` does, and needs a reference set: under
            class-conditional noise only this one helps.
        decay: What an older epoch weighs, in (0, 1]; 1 averages all epochs alike.
        strengths: Penalties of the calibration.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If one is out of range.

    Note:
        Needs one classification loss per step. O(B C) a step, with ``"calibration"`` O(B C^2), no
        host wait; two numbers a sample. Source: area under the margin (Pleiss et al., 2020),
        averaged as published for class-debiased margins.
    """

    def __init__(
        self,
        correction: Correction = "calibration",
        decay: float = 1.0,
        strengths: Sequence[float] = STRENGTHS,
    ) -> None:
        super().__init__(decay)
        self.correction = check_choice("Margin", "correction", correction, CORRECTIONS)
        self.strengths = check_strengths("Margin", strengths)
        self.needs_reference = self.needs_logits = self.correction == "calibration"
        self._map = MapInUse(self.strengths)
        self._sums = PredictionSums()
        self._mean: Tensor | None = None

    @override
    def values(self, step: TappedStep) -> Tensor:
        seen = seen_logits(step)
        logits = seen.logits
        with torch.no_grad(), torch.autocast(logits.device.type, enabled=False):
            if self.correction == "class":
                self._count(logits, seen.is_valid)
            logits = self._corrected(logits)
            column = seen.labels.unsqueeze(1)
            own = logits.float().gather(1, column).squeeze(1)
            others = logits.float().scatter(1, column, -torch.inf).amax(1)
            return seen.marked(-torch.tanh((own - others) / 2))

    @override
    def label_notes(self, step: TappedStep) -> Tensor:
        seen = seen_logits(step)
        with torch.no_grad(), torch.autocast(seen.logits.device.type, enabled=False):
            return label_notes(seen, self._corrected(seen.logits).float().softmax(1))

    @override
    def label_quality(self, average: Tensor) -> Tensor:
        return (1 - average) / 2

    def _corrected(self, logits: Tensor) -> Tensor:
        if self.correction == "calibration":
            return self._map.on(logits).corrected(logits)
        if self.correction == "none" or self._mean is None:
            return logits
        return self._debiased(logits, self._mean)

    def _count(self, logits: Tensor, is_valid: Tensor) -> None:
        found = logits.float().softmax(1).nan_to_num(0)
        self._sums.add(found, (~is_valid).long(), 1)  # all valid ones in one group

    def _debiased(self, logits: Tensor, mean: Tensor) -> Tensor:
        found = logits.float().softmax(1)
        if mean.device != found.device:
            self._mean = mean = mean.to(found.device)
        relative = found / mean.clamp_min(_LEAST)
        return F.normalize(relative, p=1, dim=1).clamp_min(_LEAST).log()

    @override
    def sums(self) -> dict[str, Tensor]:
        return self._sums.state()

    @override
    def load_sums(self, sums: dict[str, Tensor]) -> None:
        self._sums.load(sums)

    @override
    def close_epoch(self, row: Tensor, last: Tensor) -> Tensor:
        total = self._sums.total()
        if total is not None and bool(total.any()):
            self._mean = (total[0] / total.sum()).float()
            self._sums.clear()
        return super().close_epoch(row, last)

    @override
    def follow_reference(self, samples: ReferenceSamples) -> ReferenceSamples:
        if self.correction != "calibration":
            return samples
        return samples._replace(losses=self._map.learn(samples).losses)

    @override
    def learned(self) -> dict[str, Any]:
        return {**self._map.state_dict(), "mean": self._mean}

    @override
    def load_learned(self, state: dict[str, Any]) -> None:
        self._map.load_state_dict(state)
        self._mean = state["mean"]


class WrongEvents(AveragedSignal):
    """Share of the epochs in which the network preferred another label to the given one.

    In [0, 1]; 1 = it never agreed. What it says of a sample is counted before it learns from it.

    Args:
        decay: What an older epoch weighs, in (0, 1]; 1 counts all epochs alike.

    Raises:
        TypeError: If ``decay`` is no number.
        ValueError: If it is out of range.

    Note:
        Needs one classification loss per step; no reference. O(B C), two numbers a sample. Many
        samples share a value in the first epochs.
    """

    @override
    def values(self, step: TappedStep) -> Tensor:
        seen = seen_logits(step)
        return seen.marked((seen.logits.argmax(1) != seen.labels).float())

    @override
    def label_notes(self, step: TappedStep) -> Tensor:
        seen = seen_logits(step)
        return label_notes(seen, seen.logits.float().softmax(1))

    @override
    def label_quality(self, average: Tensor) -> Tensor:
        return 1 - average
