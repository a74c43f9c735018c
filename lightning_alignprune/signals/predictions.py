"""What a prediction says of the given label, epoch by epoch: the raw material of coreset scores."""

from abc import abstractmethod

import torch
from torch import Tensor
from typing_extensions import override

from lightning_alignprune.signals._seen_logits import SeenLogits, label_notes, seen_logits
from lightning_alignprune.signals.base import Signal
from lightning_alignprune.tap.tapped_step import TappedStep


class _OfPrediction(Signal):
    """A number in each epoch for how the prediction and the given label go together.

    Before the sample is trained on in that epoch. Needs one classification loss per step; no
    reference. O(B C), no host wait.
    """

    compares_with_reference = False

    @override
    def values(self, step: TappedStep) -> Tensor:
        seen = seen_logits(step)
        with torch.no_grad(), torch.autocast(seen.logits.device.type, enabled=False):
            return seen.marked(self.of(seen))

    @abstractmethod
    def of(self, seen: SeenLogits) -> Tensor:
        """Return the number of each sample, shape (B,), float32."""

    @override
    def label_notes(self, step: TappedStep) -> Tensor:
        seen = seen_logits(step)
        return label_notes(seen, seen.logits.float().softmax(1))


class LabelProbability(_OfPrediction):
    """Probability of the given label, in [0, 1], as Dyn-Unc and DUAL follow it over epochs.

    Note:
        Of the train-mode, augmented forward pass, before the optimizer step.
    """

    @override
    def of(self, seen: SeenLogits) -> Tensor:
        probabilities = seen.logits.float().softmax(1)
        return probabilities.gather(1, seen.labels.unsqueeze(1)).squeeze(1)


class RightPrediction(_OfPrediction):
    """1 where the network preferred the given label, 0 where another; forgetting counts these.

    :class:`WrongEvents` averages over epochs; here every epoch stands for itself.
    """

    @override
    def of(self, seen: SeenLogits) -> Tensor:
        return (seen.logits.argmax(1) == seen.labels).float()
