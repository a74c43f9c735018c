"""`SOP`: sparse over-parameterisation, which learns of each label how wrong it is."""

import torch
from torch import Tensor
from typing_extensions import override

from lightning_alignprune._checks import check_float, check_int
from lightning_alignprune.functional.robust_losses import (
    sparse_overparam_losses,
    view_consistency,
)
from lightning_alignprune.losses.base import SampleStateLoss, check_sizes, reduced
from lightning_alignprune.tap.registration import register_class_loss
from lightning_alignprune.tap.step_samples import StepSamples

_SPREAD = 1e-8  # of the first u and v, in the public code


@register_class_loss(records_cross_entropy=True)
def _sop(
    logits: Tensor,
    labels: Tensor,
    rows: Tensor,
    strong_logits: Tensor | None,
    balance: float,
    consistency: float,
    reduction: str = "mean",
) -> Tensor:
    with torch.autocast(logits.device.type, enabled=False):
        losses = sparse_overparam_losses(logits, labels, rows[:, :1], rows[:, 1:], balance)
        if strong_logits is not None and consistency:
            losses = losses + consistency * view_consistency(logits, strong_logits)
        return reduced(losses, reduction)


class SOP(SampleStateLoss):
    """Cross-entropy with a model of each label's noise: numbers u and v of each sample take it up.

    The formula is that of :func:`~lightning_alignprune.functional.sparse_overparam_losses`. u, one
    number, and v, one for each class, are learned by plain gradient descent on the samples of each
    batch, while the network is trained by your optimizer. With ``balance`` and ``consistency`` it
    is SOP+: ``loss(net(weak), labels, net(strong))``.

    Args:
        num_samples: N, length of the training set.
        num_classes: C.
        lr_u: Learning rate of u, at least 0. 1 for symmetric noise on CIFAR-100, 0.1 for
            asymmetric, 10 for CIFAR-10N.
        lr_v: Learning rate of v, at least 0. 10, 100 and 100 there.
        balance: Weight of the term that keeps all classes in use, at least 0. 0.1 in SOP+.
        consistency: Weight of the divergence of two views, at least 0. 0.9 in SOP+.
        seed: Seed of the first u and v, normal with a spread of 1e-8.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    Raises:
        TypeError: If a value is of the wrong kind.
        ValueError: If one is out of range.

    Example:
        >>> loss = SOP(num_samples=2, num_classes=3)
        >>> logits = torch.tensor([[2.0, 1.0, 0.0]], requires_grad=True)
        >>> loss(logits, torch.tensor([1]), indices=torch.tensor([0])).detach()
        tensor(3.4076)

    Note:
        The callback records each sample's cross-entropy. What a policy lets a sample weigh
        multiplies its loss, and its part in the steps of u and v; ``balance``, one number for a
        batch, is multiplied by the batch's mean weight. u and v of absent samples stay. The steps
        are made with the mean over the batches of all ranks, and in the forward pass, so that
        neither accumulation nor a loss scale reaches them. Ranks share u and v as
        :class:`SampleStateLoss` says. Memory: 4 N (C + 1) bytes. Source: SOP, Liu et al., 2022.
    """

    def __init__(
        self,
        num_samples: int,
        num_classes: int,
        lr_u: float = 1.0,
        lr_v: float = 10.0,
        balance: float = 0.0,
        consistency: float = 0.0,
        seed: int = 0,
        reduction: str = "mean",
    ) -> None:
        sizes = check_sizes("SOP", num_samples, num_classes)
        seed = check_int("SOP", "seed", seed, low=0, remedy="Any count will do.")
        # A generator of its own: the ranks begin alike whatever they have drawn.
        generator = torch.Generator().manual_seed(seed)
        shape = sizes.num_samples, 1 + sizes.num_classes
        super().__init__(*sizes, reduction, _SPREAD * torch.randn(shape, generator=generator))
        remedy = "0 leaves it where it is."
        self.lr_u = check_float("SOP", "lr_u", lr_u, low=0, remedy=remedy)
        self.lr_v = check_float("SOP", "lr_v", lr_v, low=0, remedy=remedy)
        remedy = "0 leaves it out."
        self.balance = check_float("SOP", "balance", balance, low=0, remedy=remedy)
        self.consistency = check_float("SOP", "consistency", consistency, low=0, remedy=remedy)

    @property
    def u(self) -> Tensor:
        """How much of each label was taken to be wrong, as a root: shape (N,), float32."""
        return self.table.rows[:, 0]

    @property
    def v(self) -> Tensor:
        """How much of each other class was taken to be meant, as a root: shape (N, C), float32."""
        return self.table.rows[:, 1:]

    @override
    def _loss(
        self, logits: Tensor, labels: Tensor, strong_logits: Tensor | None, samples: StepSamples
    ) -> Tensor:
        if self.consistency and strong_logits is None:
            raise ValueError(
                "SOP: expected the logits of two views for consistency="
                f"{self.consistency:g}, got those of one. Call loss(net(weak), labels, "
                "net(strong)), or leave consistency out."
            )
        rows = self._learned(logits.detach(), labels, samples)
        ratios = self.balance, self.consistency
        return _sop(logits, labels, rows, strong_logits, *ratios, self.reduction)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _learned(self, logits: Tensor, labels: Tensor, samples: StepSamples) -> Tensor:
        """Return the rows of the batch, and make a step of gradient descent on them."""
        assert samples.indices is not None
        rows = self.table.read(samples.indices)
        with torch.enable_grad(), torch.autocast(logits.device.type, enabled=False):
            leaf = rows.clone().requires_grad_()
            losses = sparse_overparam_losses(logits, labels, leaf[:, :1], leaf[:, 1:], self.balance)
            if samples.weights is not None:
                losses = losses * samples.weights.to(losses)
            (grad,) = torch.autograd.grad(losses.sum() / (len(losses) * _num_ranks()), leaf)
        grad[:, 0] *= self.lr_u
        grad[:, 1:] *= self.lr_v
        self.table.add(samples.indices, -grad)
        return rows


def _num_ranks() -> int:
    is_distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_world_size() if is_distributed else 1
