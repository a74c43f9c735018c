"""`ELR`: early-learning regularisation, which holds a network to what it said before."""

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from lightning_alignprune._checks import check_float
from lightning_alignprune.functional.robust_losses import early_learning_penalty, moved_targets
from lightning_alignprune.losses.base import SampleStateLoss, check_sizes, reduced
from lightning_alignprune.tap.registration import register_class_loss
from lightning_alignprune.tap.step_samples import StepSamples


@register_class_loss(records_cross_entropy=True)
def _elr(
    logits: Tensor, labels: Tensor, targets: Tensor, strength: float, reduction: str = "mean"
) -> Tensor:
    with torch.autocast(logits.device.type, enabled=False):
        losses = F.cross_entropy(logits.float(), labels, reduction="none")
        return reduced(losses + strength * early_learning_penalty(logits, targets), reduction)


class ELR(SampleStateLoss):
    """Cross-entropy that holds each sample to an average of its own earlier predictions.

    ``t <- beta t + (1 - beta) p``, from 0, each time a sample is trained; the loss is the
    cross-entropy plus ``strength * log(1 - <t, p>)``. Early predictions are mostly right even where
    labels are wrong, and what they agree on resists what a label says later.

    Args:
        num_samples: Length of the training set.
        num_classes: Number of classes.
        beta: Share of the old targets, in [0, 1). 0.7 for CIFAR-10, 0.9 for CIFAR-100.
        strength: Lambda, at least 0. 3 for CIFAR-10, 7 for CIFAR-100.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    Raises:
        TypeError: If a value is of the wrong kind.
        ValueError: If one is out of range.

    Example:
        >>> loss = ELR(num_samples=2, num_classes=3, beta=0.5)
        >>> logits = torch.tensor([[2.0, 1.0, 0.0]], requires_grad=True)
        >>> value = loss(logits, torch.tensor([1]), indices=torch.tensor([0]))
        >>> loss.targets[0].tolist() == (logits.softmax(1)[0] / 2).tolist()
        True

    Note:
        The callback records each sample's cross-entropy, weights its whole loss, and ranks share
        the targets as :class:`SampleStateLoss` says. Memory: 4 N C bytes. Source: ELR, Liu et al.,
        2020; its second network, mixup and averaged weights (ELR+) are not here.
    """

    def __init__(
        self,
        num_samples: int,
        num_classes: int,
        beta: float = 0.7,
        strength: float = 3.0,
        reduction: str = "mean",
    ) -> None:
        sizes = check_sizes("ELR", num_samples, num_classes)
        super().__init__(*sizes, reduction, torch.zeros(sizes))
        remedy = "0 takes the newest prediction as target."
        self.beta = check_float("ELR", "beta", beta, low=0, below=1, remedy=remedy)
        remedy = "0 leaves cross-entropy."
        self.strength = check_float("ELR", "strength", strength, low=0, remedy=remedy)

    @property
    def targets(self) -> Tensor:
        """Each sample's target, shape (N, C), float32; 0 if it was never trained."""
        return self.table.rows

    @override
    def _loss(
        self, logits: Tensor, labels: Tensor, strong_logits: Tensor | None, samples: StepSamples
    ) -> Tensor:
        targets = self._moved(logits.detach(), samples)
        return _elr(logits, labels, targets, self.strength, self.reduction)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    @torch.no_grad()
    def _moved(self, logits: Tensor, samples: StepSamples) -> Tensor:
        assert samples.indices is not None
        with torch.autocast(logits.device.type, enabled=False):
            targets = moved_targets(self.table.read(samples.indices), logits, self.beta)
        self.table.write(samples.indices, targets)
        return targets
