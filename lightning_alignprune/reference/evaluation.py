"""The reference pass: the module's own loss on clean samples, leaving no trace."""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
from torch import Tensor

from lightning_alignprune.tap.loss_tap import LossTap
from lightning_alignprune.tap.tapped_step import is_classification
from lightning_alignprune.trainer_access import internals as access
from lightning_alignprune.trainer_access.errors import refusal
from lightning_alignprune.trainer_access.running_fit import RunningFit
from lightning_alignprune.trainer_access.traceless import evaluating


class EvaluatedBatch(NamedTuple):
    """One batch of a pass: what the tap saw, what the step returned, and the batch itself."""

    tap: LossTap
    returned: Any
    batch: Any


def evaluated_batches(
    fit: RunningFit, loader: Iterable[Any], plain: bool = False, opens_graph: bool = False
) -> Iterator[EvaluatedBatch]:
    """Run the module's own ``training_step`` on each batch, tapped and without a trace.

    In eval mode and without gradients, so that the loss is the one that is trained. Weights,
    buffers, metrics, logs and random states are the same before and after.

    Args:
        fit: The running fit.
        loader: Batches in the form of the training batches.
        plain: Leave label smoothing out.
        opens_graph: Have gradients from the first loss on, see :class:`LossTap`.
    """
    module = fit.module
    with evaluating(fit.trainer, module):
        for batch_idx, raw in enumerate(loader):
            batch = access.to_device(fit.trainer, module, raw)
            tap = LossTap(with_grad_only=False, plain=plain, opens_graph=opens_graph)
            with torch.no_grad(), tap:
                returned = module.training_step(*_step_args(module, batch, batch_idx))
            yield EvaluatedBatch(tap, returned, batch)


def training_logits(fit: RunningFit, loader: Iterable[Any]) -> tuple[Tensor, Tensor]:
    """Return the logits of all samples of a loader, (N, C) float32 on the CPU, and their labels.

    One forward pass, see :func:`evaluated_batches`.

    Raises:
        MisconfigurationException: If a step makes no single cross-entropy call on (B, C) logits.
    """
    logits, labels = [], []
    for tap, _, _ in evaluated_batches(fit, loader):
        if len(tap.calls) != 1 or not is_classification(tap.calls[0]):
            raise refusal(
                "one classification loss on logits of shape (B, C)",
                f"{len(tap.calls)} loss calls",
                "PseudoClean needs losses only.",
            )
        logits.append(tap.calls[0].logits.float().cpu())
        labels.append(tap.calls[0].target.cpu())
    return torch.cat(logits), torch.cat(labels)


def _step_args(module: LightningModule, batch: Any, batch_idx: int) -> tuple[Any, ...]:
    takes_index = is_param_in_hook_signature(module.training_step, "batch_idx", min_args=2)
    return (batch, batch_idx) if takes_index else (batch,)
