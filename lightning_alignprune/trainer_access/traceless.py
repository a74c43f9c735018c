"""Run a step that leaves no trace: what it may touch is put back afterwards.

Random states, train and eval mode, and what :class:`Snapshot` remembers; ``self.log`` is muted
meanwhile.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.seed import isolate_rng

from lightning_alignprune.trainer_access import internals as access
from lightning_alignprune.trainer_access.errors import refusal
from lightning_alignprune.trainer_access.snapshot import Snapshot

_MUTED = ("log", "log_dict")


@contextmanager
def rehearsing(trainer: Trainer, module: LightningModule) -> Iterator[None]:
    """Let steps run as in training, with gradients, and put back what they touched."""
    with ExitStack() as stack:
        stack.enter_context(isolate_rng())
        stack.enter_context(_state_put_back(trainer, module, copies_trained=True))
        stack.enter_context(trainer.precision_plugin.train_step_context())
        yield


@contextmanager
def probing(
    trainer: Trainer, module: LightningModule, is_eval: bool, *others: object
) -> Iterator[Snapshot]:
    """Let steps run without augmentation, with gradients, and put back what they touched.

    Args:
        trainer: The Trainer.
        module: Its module.
        is_eval: Whether in eval mode, where a sample's loss does not depend on chance.
        *others: Objects that are put back too.

    Yields:
        What puts everything back between two steps, and knows whether something was drawn.
    """
    with ExitStack() as stack:
        stack.enter_context(isolate_rng())
        stack.enter_context(torch.enable_grad())
        if is_eval:
            stack.enter_context(_eval_mode(module))
        snapshot = stack.enter_context(_state_put_back(trainer, module, True, *others))
        stack.enter_context(access.looking_like_validation(trainer))
        yield snapshot


@contextmanager
def evaluating(trainer: Trainer, module: LightningModule) -> Iterator[None]:
    """Let steps run in eval mode and without gradients, and put back what they touched."""
    with ExitStack() as stack:
        stack.enter_context(isolate_rng())
        stack.enter_context(torch.no_grad())
        stack.enter_context(_eval_mode(module))
        stack.enter_context(_state_put_back(trainer, module))
        stack.enter_context(access.looking_like_validation(trainer))
        yield


@contextmanager
def looking(trainer: Trainer, module: LightningModule) -> Iterator[None]:
    """Let a step look at a batch that it trains afterwards; as :func:`evaluating`, in every step.

    Parameters are only watched by their version, so that it costs little beside a forward pass.
    """
    with ExitStack() as stack:
        stack.enter_context(isolate_rng())
        stack.enter_context(torch.no_grad())
        stack.enter_context(_eval_mode(module))
        stack.enter_context(access.looking_like_validation(trainer))
        snapshot = Snapshot(module, is_quick=True)
        _mute(module)
        moved: list[str] = []
        try:
            yield
        finally:
            moved = snapshot.put_back()
    _check_not_moved(
        moved,
        "so that a batch can be looked at before it is trained",
        "or use no in_batch=",
    )


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
def _state_put_back(
    trainer: Trainer, module: LightningModule, copies_trained: bool = False, *others: object
) -> Iterator[Snapshot]:
    trained = () if copies_trained else access.trained_parameters(trainer)
    snapshot = Snapshot(module, trained, others)
    _mute(module)
    moved: list[str] = []
    try:
        yield snapshot
    finally:
        moved = snapshot.put_back()
    _check_not_moved(
        moved,
        "so that a reference pass leaves no trace",
        "keep a teacher out of training with requires_grad_(False), or use reference='validation'",
    )


def _check_not_moved(moved: list[str], purpose: str, remedy: str) -> None:
    if not moved:
        return
    names = f"{', '.join(moved[:3])}{' and others' if moved[3:] else ''}"
    raise refusal(
        f"training_step to leave the trained parameters to the optimizer, {purpose}",
        f"a step that changes {names} itself",
        f"Change them in on_train_batch_end, {remedy}.",
    )


def put_back_between(snapshot: Snapshot, module: LightningModule) -> None:
    """Put back what a step touched where another step without a trace follows."""
    snapshot.put_back()
    _mute(module)


def _mute(module: LightningModule) -> None:
    for name in _MUTED:
        module.__dict__[name] = _do_nothing


def _do_nothing(*args: Any, **kwargs: Any) -> None:
    """Stand in for ``self.log`` during the pass."""
