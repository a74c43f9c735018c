"""What ranks tell each other: once per epoch, never per step.

Legend: ``R`` ranks, ``L`` samples per rank and epoch, ``N`` samples.
"""

from lightning.pytorch import Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor


class RankExchange:
    """Merge over ranks through the Trainer's own collectives; every rank must call alike.

    Args:
        trainer: The running Trainer.
    """

    def __init__(self, trainer: Trainer) -> None:
        self._strategy = trainer.strategy

    def sum(self, value: Tensor) -> Tensor:
        """Sum a tensor over ranks: one collective."""
        total = self._strategy.reduce(value.to(self._strategy.root_device), reduce_op="sum")
        assert isinstance(total, Tensor)
        return total.to(value.device)

    def merged(self, running: Tensor, order: Tensor, is_sharded: bool) -> Tensor:
        """Return the running row with the losses of all ranks: two collectives.

        Indices travel as int64: in a float tensor they would round above 2**24.

        Args:
            running: Shape (N,), this rank's losses, NaN where not seen.
            order: Shape (L,), int64, the samples of this rank's epoch; L is the same on all ranks.
            is_sharded: Whether each rank trains its own shard. Without sharding all train the same
                samples, and their losses are averaged so that all decide the same.

        Returns:
            Shape (N,), on the device of ``running``.
        """
        device = self._strategy.root_device
        indices = order.to(running.device)
        losses = running[indices]
        every_loss = self._strategy.all_gather(losses.to(device)).to(running.device)
        every_index = self._strategy.all_gather(indices.to(device)).to(running.device)
        if not is_sharded:
            every_loss, every_index = every_loss.nanmean(0), indices
        every_loss, every_index = every_loss.flatten(), every_index.flatten()
        observed = ~every_loss.isnan()
        merged = running.clone()
        merged[every_index[observed]] = every_loss[observed]
        return merged


def warn_of_other_world_size(saved: int, now: int) -> None:
    """Warn if a run goes on in mid-epoch on another number of processes than it was saved on."""
    if saved != now:
        rank_zero_warn(
            f"DynamicPruningCallback: resumed in mid-epoch on {now} instead of {saved} processes; "
            "some samples of this epoch train twice or not at all. The next epoch is whole again."
        )
