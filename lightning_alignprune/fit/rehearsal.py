"""The first step with weights, rehearsed before anything is trained."""

from typing import Any

import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.utilities.rank_zero import rank_zero_debug
from torch import Tensor
from torch.utils.checkpoint import CheckpointError

from lightning_alignprune.tap.loss_tap import LossTap
from lightning_alignprune.tap.tapped_step import TappedStep, loss_and_own
from lightning_alignprune.trainer_access.errors import OWNER, refusal
from lightning_alignprune.trainer_access.running_fit import RunningFit
from lightning_alignprune.trainer_access.traceless import rehearsing


def rehearse_weights(fit: RunningFit, indices: Tensor, args: Any, kwargs: Any) -> bool | None:
    """Run a step forwards and backwards as it will run once samples have weights.

    A loss inside a non-reentrant activation checkpoint is computed again in the backward pass, out
    of the tap's sight, which torch notices only when the two differ: at the first weight. Nothing
    is trained, and what the step touches is put back.

    Args:
        fit: The running fit.
        indices: Shape (B,), the samples of the batch.
        args: What the step is called with.
        kwargs: Likewise.

    Returns:
        Whether the loss is made of a returned ``sample_loss``, which then carries the weights; None
        where that could not be seen.

    Raises:
        MisconfigurationException: If the weighted loss has no backward pass.

    Note:
        One forward and one backward pass of one batch per fit.
    """
    if isinstance(fit.trainer.strategy, ModelParallelStrategy):
        return None  # its sharded parameters take part in real backward passes only
    parameters = [p for p in fit.module.parameters() if p.requires_grad]
    tap = LossTap(indices, torch.ones(len(indices), device=indices.device))
    try:
        with rehearsing(fit.trainer, fit.module):
            with tap:
                returned = fit.module.training_step(*args, **kwargs)
            loss, own = loss_and_own(returned)
            if isinstance(loss, Tensor) and loss.requires_grad:
                step = TappedStep(len(indices), loss, tap.calls, own)
                is_made_of_own = step.is_made_of_user_losses()
                torch.autograd.grad(loss, parameters, allow_unused=True)
                return is_made_of_own
    except CheckpointError:
        raise refusal(
            "a loss outside of activation checkpoints, to weight it",
            "one inside a checkpoint, which is computed again without the weights",
            "Checkpoint the network and compute the loss after it, or use a policy that weights "
            "nothing (rescale='none').",
        ) from None
    except Exception as error:  # whatever it is, the real step comes next and will say it
        rank_zero_debug(f"{OWNER}: the weighted step could not be rehearsed: {error!r}")
    return None
