"""What losses share that keep something of each training sample."""

from abc import abstractmethod
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from lightning_alignprune._checks import check_choice, check_int, shape_of
from lightning_alignprune.state.sample_table import SampleTable
from lightning_alignprune.tap.step_samples import StepSamples, samples_in_step

REDUCTIONS = ("mean", "sum", "none")


class Sizes(NamedTuple):
    """How many rows a loss keeps, and for how many classes."""

    num_samples: int
    num_classes: int


class SampleStateLoss(nn.Module):
    """A classification loss with a row of numbers for each training sample.

    In training it reads and changes the rows of the batch; in eval mode and without gradients, as
    in validation and reference passes, it is plain cross-entropy. The samples are those of the
    running step, as ``DynamicPruningCallback`` and ``PruningRun`` know them, or ``indices``.

    The rows are no parameters: an optimizer would move those of absent samples too, by momentum and
    weight decay, and DDP would send all of them in every step. They are part of ``state_dict``; the
    callback puts those of several ranks together at the end of an epoch and for a checkpoint.

    Args:
        num_samples: N, the length of the training set.
        num_classes: C.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.
        rows: Shape (N, W). What the rows begin with.

    Attributes:
        table: The rows.
        sizes: N and C.
    """

    def __init__(self, num_samples: int, num_classes: int, reduction: str, rows: Tensor) -> None:
        super().__init__()
        self.sizes = Sizes(num_samples, num_classes)
        self.reduction = check_choice(type(self).__name__, "reduction", reduction, REDUCTIONS)
        self.table = SampleTable(rows)

    @override
    def forward(
        self,
        logits: Tensor,
        labels: Tensor,
        strong_logits: Tensor | None = None,
        indices: Tensor | None = None,
    ) -> Tensor:
        """Return the loss of a batch.

        Args:
            logits: Shape (B, C).
            labels: Shape (B,), int64, in [0, C).
            strong_logits: Shape (B, C). Of a second, more strongly augmented view of the same
                samples, for a loss that compares two.
            indices: Shape (B,), int64. The samples' indices in the training set; None takes those
                of the running step.

        Raises:
            RuntimeError: In training, if it is not known which samples they are.
            ValueError: If shapes do not fit.
        """
        self._check(logits, labels)
        samples = self._samples(indices) if self.training and torch.is_grad_enabled() else None
        if samples is None or samples.indices is None:
            return F.cross_entropy(logits, labels, reduction=self.reduction)
        found = samples.indices.to(logits.device)
        if found.shape != labels.shape:
            raise ValueError(
                f"{type(self).__name__}: expected an index for each of the {len(labels)} rows, got "
                f"{shape_of(found)}. Pass indices= where a step's rows are not its samples."
            )
        return self._loss(logits, labels, strong_logits, samples._replace(indices=found))

    @abstractmethod
    def _loss(
        self, logits: Tensor, labels: Tensor, strong_logits: Tensor | None, samples: StepSamples
    ) -> Tensor:
        """Return the loss in training, and change the rows."""

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _samples(self, indices: Tensor | None) -> StepSamples | None:
        running = samples_in_step()
        if running is None and indices is None:
            raise RuntimeError(
                f"{type(self).__name__}: expected to know which samples are trained, got neither a "
                "running step nor indices. Train with DynamicPruningCallback or PruningRun, which "
                "know, or pass indices=."
            )
        if running is None:
            return StepSamples(indices)
        is_own = indices is None or running.indices is None
        return running if is_own else running._replace(indices=indices)

    def _check(self, logits: Tensor, labels: Tensor) -> None:
        expected = (len(labels), self.sizes.num_classes)
        if logits.shape != expected:
            raise ValueError(
                f"{type(self).__name__}: expected logits of shape {expected}, got "
                f"{shape_of(logits)}. One row for each label, one column for each class."
            )

    @override
    def get_extra_state(self) -> Tensor:
        # The rows themselves, no copy: the callback puts the ranks' together after a checkpoint has
        # asked for the module's state and before it is written.
        return self.table.rows

    @override
    def set_extra_state(self, state: Tensor) -> None:
        self.table.load(state)

    @override
    def extra_repr(self) -> str:
        return f"num_samples={self.sizes.num_samples}, num_classes={self.sizes.num_classes}"


def check_sizes(owner: str, num_samples: int, num_classes: int) -> Sizes:
    """Return both sizes.

    Raises:
        TypeError: If one is no int.
        ValueError: If ``num_samples`` is below 1 or ``num_classes`` below 2.
    """
    remedy = "It is the length of the training set."
    num_samples = check_int(owner, "num_samples", num_samples, low=1, remedy=remedy)
    remedy = "It is the number of logits."
    return Sizes(num_samples, check_int(owner, "num_classes", num_classes, low=2, remedy=remedy))


def reduced(losses: Tensor, reduction: str) -> Tensor:
    """Return the mean or the sum of losses, or the losses."""
    if reduction == "none":
        return losses
    return losses.mean() if reduction == "mean" else losses.sum()
