"""Run a step that leaves no trace: what it may touch is put back afterwards.

Buffers, random states, metric states, counters and lists on the module; ``self.log`` is muted
meanwhile.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor
from torchmetrics import Metric

from lightning_alignprune.trainer_access import internals as access

_MUTED = ("log", "log_dict")


@contextmanager
def rehearsing(trainer: Trainer, module: LightningModule) -> Iterator[None]:
    """Let steps run as in training, with gradients, and put back what they touched."""
    with ExitStack() as stack:
        stack.enter_context(isolate_rng())
        stack.enter_context(_state_put_back(module))
        stack.enter_context(trainer.precision_plugin.train_step_context())
        yield


@contextmanager
def evaluating(trainer: Trainer, module: LightningModule) -> Iterator[None]:
    """Let steps run in eval mode and without gradients, and put back what they touched."""
    with ExitStack() as stack:
        stack.enter_context(isolate_rng())
        stack.enter_context(torch.no_grad())
        stack.enter_context(_eval_mode(module))
        stack.enter_context(_state_put_back(module))
        stack.enter_context(access.looking_like_validation(trainer))
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
