"""The reference pass: the module's own loss on the clean reference set, leaving no trace.

Everything the user's ``training_step`` may touch is put back: train/eval mode of every submodule,
buffers, random states, grad mode, the Trainer's stage, metric states, counters and lists on the
module; ``self.log`` is muted meanwhile.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.seed import isolate_rng
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
from torch import Tensor
from torchmetrics import Metric

from lightning_alignprune.reference.totals import ReferenceLoss
from lightning_alignprune.tap.loss_tap import LossTap
from lightning_alignprune.tap.tapped_step import is_classification
from lightning_alignprune.trainer_access import internals as access
from lightning_alignprune.trainer_access.errors import refusal

_MUTED = ("log", "log_dict")


def reference_loss(
    trainer: Trainer,
    module: LightningModule,
    loader: Iterable[Any],
    plain: bool = False,
    num_own: int | None = None,
    all_reduce: Callable[[Tensor], Tensor] | None = None,
    result: ReferenceLoss | None = None,
) -> Tensor:
    """Mean loss of the current weights on the reference set, in eval mode, without gradients.

    Runs the module's own ``training_step``, so that the loss is the one that is trained. Weights,
    buffers, metrics, logs and random states are the same before and after.

    Args:
        trainer: The running Trainer.
        module: Its module.
        loader: Batches in the form of the training batches.
        plain: Leave label smoothing out.
        num_own: Batches of the loader that count; the ones after them only keep this rank's number
            of forward passes equal to the others'.
        all_reduce: Sums the totals over ranks that each saw a share of the set.
        result: Filled on the way, for who needs more than the mean.

    Returns:
        A float32 scalar on the module's device.

    Raises:
        MisconfigurationException: If the loader is empty.
    """
    result = ReferenceLoss() if result is None else result
    for batch_idx, (tap, returned, batch) in enumerate(_steps(trainer, module, loader, plain)):
        if num_own is None or batch_idx < num_own:
            result.add(tap, returned, batch)
    if result.num_batches == 0 and num_own is None:
        raise refusal(
            "a reference set with samples",
            "an empty one",
            "Give a reference loader with at least one batch.",
        )
    totals = result.totals(module.device)
    if all_reduce is not None:
        totals = all_reduce(totals)
    return (totals[0] / totals[1]).float()


def training_logits(
    trainer: Trainer, module: LightningModule, loader: Iterable[Any]
) -> tuple[Tensor, Tensor]:
    """Return the logits of all samples of a loader, (N, C) float32 on the CPU, and their labels.

    One forward pass in eval mode; see :func:`reference_loss` for what is put back.

    Raises:
        MisconfigurationException: If a step makes no single cross-entropy call on (B, C) logits.
    """
    logits, labels = [], []
    for tap, _, _ in _steps(trainer, module, loader):
        if len(tap.calls) != 1 or not is_classification(tap.calls[0]):
            raise refusal(
                "one classification loss on logits of shape (B, C)",
                f"{len(tap.calls)} loss calls",
                "PseudoClean needs losses only.",
            )
        logits.append(tap.calls[0].logits.float().cpu())
        labels.append(tap.calls[0].target.cpu())
    return torch.cat(logits), torch.cat(labels)


def _steps(
    trainer: Trainer, module: LightningModule, loader: Iterable[Any], plain: bool = False
) -> Iterator[tuple[LossTap, Any, Any]]:
    """Run the module's training step on each batch, tapped and without a trace."""
    with _untouched(trainer, module):
        for batch_idx, raw in enumerate(loader):
            batch = access.to_device(trainer, module, raw)
            tap = LossTap(with_grad_only=False, plain=plain)
            with tap:
                returned = module.training_step(*_step_args(module, batch, batch_idx))
            yield tap, returned, batch


def _step_args(module: LightningModule, batch: Any, batch_idx: int) -> tuple[Any, ...]:
    takes_index = is_param_in_hook_signature(module.training_step, "batch_idx", min_args=2)
    return (batch, batch_idx) if takes_index else (batch,)


@contextmanager
def _untouched(trainer: Trainer, module: LightningModule) -> Iterator[None]:
    with ExitStack() as stack:
        stack.enter_context(isolate_rng())
        stack.enter_context(torch.no_grad())
        stack.enter_context(_eval_mode(module))
        stack.enter_context(_state_put_back(module))
        stack.enter_context(access.evaluating(trainer))
        yield


@contextmanager
def _eval_mode(module: LightningModule) -> Iterator[None]:
    # One flag per submodule: a BatchNorm the user froze must still be in eval mode afterwards.
    flags = {name: part.training for name, part in module.named_modules()}
    module.eval()
    try:
        yield
    finally:
        for name, part in module.named_modules():
            part.training = flags.get(name, part.training)


@contextmanager
def _state_put_back(module: LightningModule) -> Iterator[None]:
    buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
    metrics = [(m, _metric_state(m)) for m in module.modules() if isinstance(m, Metric)]
    attributes = dict(module.__dict__)
    muted = {name: attributes.pop(name) for name in _MUTED if name in attributes}
    lengths = {key: len(v) for key, v in attributes.items() if isinstance(v, list)}
    for name in _MUTED:
        module.__dict__[name] = _do_nothing
    try:
        yield
    finally:
        for name in _MUTED:
            module.__dict__.pop(name)
        module.__dict__.update(muted)
        # Counters and other plain attributes are put back; lists are cut to their old length.
        for key, value in attributes.items():
            if isinstance(value, (int, float, str, bool, type(None), Tensor)) or key in lengths:
                module.__dict__[key] = value
        for key, length in lengths.items():
            del attributes[key][length:]
        for metric, state in metrics:
            metric.__dict__.update(state)
        with torch.no_grad():
            for name, buffer in module.named_buffers():
                if name in buffers:
                    buffer.copy_(buffers[name])


def _metric_state(metric: Metric) -> dict[str, Any]:
    """Copy a metric's attributes so that updating it cannot reach the copy."""
    return {
        key: value.clone()
        if isinstance(value, Tensor)
        else list(value)
        if isinstance(value, list)
        else value
        for key, value in metric.__dict__.items()
        if not key.startswith("_modules")
    }


def _do_nothing(*args: Any, **kwargs: Any) -> None:
    """Stand in for ``self.log`` during the pass."""
