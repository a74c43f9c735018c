"""Losses of a module that keep something of each sample: found, checked, shared over ranks."""

from lightning.pytorch import LightningModule
from lightning.pytorch.strategies import ModelParallelStrategy

from lightning_alignprune.losses import SampleStateLoss
from lightning_alignprune.trainer_access.errors import refusal
from lightning_alignprune.trainer_access.ranks import RankExchange
from lightning_alignprune.trainer_access.running_fit import RunningFit


def sample_losses(module: LightningModule) -> list[SampleStateLoss]:
    """Return the module's losses that keep a row for each sample, in the order of its parts."""
    return [part for part in module.modules() if isinstance(part, SampleStateLoss)]


def check_sample_losses(fit: RunningFit, num_samples: int) -> None:
    """Refuse such a loss where its rows would not be those of the training set.

    Args:
        fit: The running fit.
        num_samples: N of the training set.

    Raises:
        MisconfigurationException: If a loss was made for another number of samples, or the strategy
            takes the module's state apart.
    """
    for loss in sample_losses(fit.module):
        name = type(loss).__name__
        if loss.sizes.num_samples != num_samples:
            raise refusal(
                f"{name}(num_samples={num_samples}), as many as the training set has",
                f"num_samples={loss.sizes.num_samples}",
                "It keeps a row for each sample.",
            )
        if isinstance(fit.trainer.strategy, ModelParallelStrategy):
            raise refusal(
                f"one process or DDP for {name}, which keeps a row for each sample",
                "ModelParallelStrategy",
                "Use strategy='ddp', or a loss without such rows.",
            )


def share_sample_losses(module: LightningModule, exchange: RankExchange) -> None:
    """Give each rank what the others' steps have changed; all ranks must call alike.

    Two collectives and one for the lengths for each such loss; none with one process.
    """
    for loss in sample_losses(module) if exchange.num_ranks > 1 else ():
        loss.table.agree(*exchange.concatenated(*loss.table.changes()))
