"""Losses that resist wrong labels by their form alone."""

import torch
from torch import Tensor, nn
from typing_extensions import override

from lightning_alignprune._checks import check_choice, check_float
from lightning_alignprune.functional.robust_losses import (
    generalized_cross_entropy,
    symmetric_cross_entropy,
)
from lightning_alignprune.losses.base import REDUCTIONS, reduced
from lightning_alignprune.tap.registration import register_class_loss


@register_class_loss
def _generalized(logits: Tensor, labels: Tensor, q: float = 0.7, reduction: str = "mean") -> Tensor:
    with torch.autocast(logits.device.type, enabled=False):
        return reduced(generalized_cross_entropy(logits.float(), labels, q), reduction)


@register_class_loss
def _symmetric(
    logits: Tensor,
    labels: Tensor,
    alpha: float = 0.1,
    beta: float = 1.0,
    log_zero: float = -4.0,
    reduction: str = "mean",
) -> Tensor:
    with torch.autocast(logits.device.type, enabled=False):
        losses = symmetric_cross_entropy(logits.float(), labels, alpha, beta, log_zero)
        return reduced(losses, reduction)


class GeneralizedCrossEntropy(nn.Module):
    """``(1 - p(y)^q) / q`` (GCE): a wrong label pulls less the surer the network is of another.

    Args:
        q: In (0, 1]. Near 0 it is cross-entropy; 1 is the mean absolute error, which learns slowly.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    Raises:
        TypeError: If a value is of the wrong kind.
        ValueError: If one is out of range.

    Example:
        >>> loss = GeneralizedCrossEntropy()
        >>> loss(torch.tensor([[2.0, 1.0, 0.0]]), torch.tensor([1]))
        tensor(0.8953)

    Note:
        What the callback records is this loss; ``SampleLoss(plain=True)`` records cross-entropy.
        Source: Zhang and Sabuncu, 2018, without the truncation of their second variant.
    """

    def __init__(self, q: float = 0.7, reduction: str = "mean") -> None:
        super().__init__()
        owner, remedy = type(self).__name__, "0.7 is the paper's."
        self.q = check_float(owner, "q", q, above=0, high=1, remedy=remedy)
        self.reduction = check_choice(owner, "reduction", reduction, REDUCTIONS)

    @override
    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of logits of shape (B, C) and labels of shape (B,), int64."""
        return _generalized(logits, labels, self.q, self.reduction)


class SymmetricCrossEntropy(nn.Module):
    """Cross-entropy plus reverse cross-entropy (SCE), which is bounded and so resists wrong labels.

    Args:
        alpha: Weight of the cross-entropy, at least 0. 0.1 in the paper for CIFAR-10, 6 for
            CIFAR-100.
        beta: Weight of the reverse one, at least 0. 1 in the paper for CIFAR-10, 0.1 for CIFAR-100.
        log_zero: What stands for the logarithm of 0, below 0. -4 in the paper.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    Raises:
        TypeError: If a value is of the wrong kind.
        ValueError: If one is out of range.

    Example:
        >>> loss = SymmetricCrossEntropy(alpha=6.0, beta=0.1)
        >>> loss(torch.tensor([[2.0, 1.0, 0.0]]), torch.tensor([1]))
        tensor(8.7477)

    Note:
        Recorded as :class:`GeneralizedCrossEntropy` is. Source: Wang et al., 2019. Code that cuts
        one-hot labels off at 1e-4 has ``log_zero=-9.21``.
    """

    def __init__(
        self,
        alpha: float = 0.1,
        beta: float = 1.0,
        log_zero: float = -4.0,
        reduction: str = "mean",
    ) -> None:
        super().__init__()
        owner, remedy = type(self).__name__, "0 leaves that part out."
        self.alpha = check_float(owner, "alpha", alpha, low=0, remedy=remedy)
        self.beta = check_float(owner, "beta", beta, low=0, remedy=remedy)
        remedy = "-4 is the paper's."
        self.log_zero = check_float(owner, "log_zero", log_zero, below=0, remedy=remedy)
        self.reduction = check_choice(owner, "reduction", reduction, REDUCTIONS)

    @override
    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of logits of shape (B, C) and labels of shape (B,), int64."""
        return _symmetric(logits, labels, self.alpha, self.beta, self.log_zero, self.reduction)
