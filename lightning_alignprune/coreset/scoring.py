"""The pass over all training samples when the warm-up is over, which leaves no trace."""

from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_alignprune.coreset.evidence import SeenBatch
from lightning_alignprune.coreset.features import FeatureHook
from lightning_alignprune.coreset.methods.base import CoresetMethod
from lightning_alignprune.reference.evaluation import EvaluatedBatch, evaluated_batches
from lightning_alignprune.tap.tapped_step import is_classification, loss_and_own
from lightning_alignprune.trainer_access.dataset_labels import read_labels
from lightning_alignprune.trainer_access.errors import refusal
from lightning_alignprune.trainer_access.loaders import in_index_order
from lightning_alignprune.trainer_access.running_fit import RunningFit

SCORING_HOOK = "scoring_dataloader"


class ScoredPass(NamedTuple):
    """What a pass saw of all N samples, on the CPU; see `Evidence`."""

    values: Tensor
    labels: Tensor | None
    features: Tensor | None


def scoring_loader(fit: RunningFit, train_loader: DataLoader[Any]) -> Any:
    """Return a loader of all training samples in order.

    The samples of a ``scoring_dataloader`` hook on the DataModule or the module, where they can be
    seen without augmentation; else those of the train loader, as training sees them.

    Raises:
        MisconfigurationException: If the hook gives no loader, or one of other samples.
    """
    trainer: Any = fit.trainer
    for owner in (trainer.datamodule, fit.module):
        hook = getattr(owner, SCORING_HOOK, None)
        if not callable(hook):
            continue
        loader = hook()
        other = _difference(loader, train_loader)
        if other is not None:
            num_samples = len(train_loader.dataset)  # type: ignore[arg-type]
            raise refusal(
                f"{SCORING_HOOK} to give a DataLoader of the {num_samples} training samples",
                other,
                "Change the transform only.",
            )
        return in_index_order(loader)
    return in_index_order(train_loader)


def _difference(loader: Any, train_loader: DataLoader[Any]) -> str | None:
    """Say in what a loader differs from that of the training samples; None if not to be seen."""
    if not isinstance(loader, DataLoader):
        return type(loader).__name__
    given, wanted = loader.dataset, train_loader.dataset
    if len(given) != len(wanted):  # type: ignore[arg-type]
        return f"{len(given)} samples"  # type: ignore[arg-type]
    labels, true_labels = read_labels(given), read_labels(wanted)
    if labels is None or true_labels is None or torch.equal(labels, true_labels):
        return None
    return "samples with other labels"


def scoring_pass(
    fit: RunningFit, loader: Any, method: CoresetMethod, layer: str | None
) -> ScoredPass:
    """Let a method read off every sample what it needs: one forward pass without gradients.

    Args:
        fit: The running fit.
        loader: All training samples, in order.
        method: Says what to read and what to keep.
        layer: The layer whose output the features are; see `FeatureHook`.

    Raises:
        MisconfigurationException: If the step does not show what the method needs.
    """
    values, labels, features = [], [], []
    hook = FeatureHook(fit.module, layer) if method.reads_features else None
    with torch.compiler.set_stance("force_eager"), hook or nullcontext():
        for evaluated in evaluated_batches(fit, loader, plain=True):
            seen = _seen(evaluated, method, hook)
            found = method.values(seen).float()
            values.append(torch.where(seen.losses.isnan(), torch.nan, found).cpu())
            if seen.labels is not None:
                labels.append(seen.labels.cpu())
            if method.keeps_features and seen.features is not None:
                features.append(seen.features.cpu())
            if hook is not None:
                hook.clear()
    return ScoredPass(
        torch.cat(values),
        torch.cat(labels) if labels else None,
        torch.cat(features) if features else None,
    )


def _seen(evaluated: EvaluatedBatch, method: CoresetMethod, hook: FeatureHook | None) -> SeenBatch:
    tap, returned, _ = evaluated
    _, own = loss_and_own(returned)
    if own is not None and not method.needs_labels:
        return SeenBatch(own.detach().float())
    name = type(method).__name__
    if len(tap.calls) != 1:
        raise refusal(
            f"one loss call in a step for {name}", f"{len(tap.calls)}", "Compute one loss."
        )
    (call,) = tap.calls
    if not is_classification(call):
        if method.needs_labels:
            raise refusal(
                f"one classification loss on logits of shape (B, C) with integer labels for {name}",
                f"{call.func.__name__} on {tuple(call.logits.shape)}",
                "SmallLoss works with any loss.",
            )
        return SeenBatch(call.losses)
    features = None if hook is None else hook.features(call.logits)
    has_bias = hook is None or hook.has_bias
    labels = torch.where(call.losses.isnan(), 0, call.target)  # such as -100
    return SeenBatch(call.losses, call.logits.float().softmax(1), labels, features, has_bias)
