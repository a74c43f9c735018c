"""What ranks tell each other: at the epoch end, never per step.

Legend: ``R`` ranks, ``L`` samples per rank and epoch, ``N`` samples.
"""

from typing import Any, Literal, get_args

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor

from lightning_alignprune.state.row_means import RowMeans
from lightning_alignprune.state.sampler import PrunedSampler
from lightning_alignprune.state.shard import Shard
from lightning_alignprune.trainer_access.errors import OWNER, refusal

Partition = Literal["replicated", "fixed"]
PARTITIONS: tuple[Partition, ...] = get_args(Partition)


class RankExchange:
    """Merge over ranks through the Trainer's own collectives; every rank must call alike.

    Args:
        trainer: The running Trainer; with one process nothing is exchanged.
        partition: ``"replicated"``: every rank keeps the losses of all samples and they travel once
            per epoch. ``"fixed"``: each rank keeps those of its shard, and no losses travel.

    Attributes:
        num_ranks: R.
        rank: This process's rank, in [0, R).
        has_news: Whether something was recorded since the last exchange.
    """

    def __init__(self, trainer: Trainer, partition: Partition = "replicated") -> None:
        self._strategy = trainer.strategy
        self.num_ranks, self.rank = trainer.world_size, trainer.global_rank
        self._is_fixed = partition == "fixed" and self.num_ranks > 1
        self.has_news = False

    def shard(self, num_samples: int) -> Shard:
        """Return the samples that this rank keeps losses of.

        Raises:
            MisconfigurationException: If a rank would have none.
        """
        if not self._is_fixed:
            return Shard(num_samples)
        if num_samples < self.num_ranks:
            raise refusal(
                "a sample for every rank",
                f"{num_samples} on {self.num_ranks} ranks",
                "Use partition='replicated'.",
            )
        return Shard(num_samples, self.num_ranks, self.rank, self.all_reduce)

    def all_reduce(self, value: Tensor) -> Tensor:
        """Sum a tensor over ranks: one collective, none with one process."""
        if self.num_ranks == 1:
            return value
        sent = value.to(self._strategy.root_device, copy=True)
        total = self._strategy.reduce(sent, reduce_op="sum")
        assert isinstance(total, Tensor)
        return total.to(value.device)

    def concatenated(self, *tensors: Tensor) -> list[Tensor]:
        """Put tensors with an entry per sample, all of one length here, together over ranks.

        One collective for the lengths and one for each tensor; none with one process.
        """
        if self.num_ranks == 1:
            return list(tensors)
        device, length = self._strategy.root_device, len(tensors[0])
        lengths = torch.zeros(self.num_ranks, dtype=torch.int64, device=device)
        lengths[self.rank] = length
        each: list[int] = self.all_reduce(lengths).tolist()
        joined = []
        for values in tensors:
            padded = values.new_zeros(max(each), *values.shape[1:], device=device)
            padded[:length] = values
            every = self._strategy.all_gather(padded)
            parts = [every[rank, :count] for rank, count in enumerate(each)]
            joined.append(torch.cat(parts).to(values.device))
        return joined

    def fewest(self, count: int) -> int:
        """Return the smallest count of any rank: two collectives, none with one process."""
        (counts,) = self.concatenated(torch.tensor([count]))
        return int(counts.min())

    def row_means(self, means: RowMeans) -> RowMeans:
        """Return the rows of all ranks where there are new ones: two collectives."""
        if self.num_ranks == 1 or self._is_fixed or not self.has_news:
            return means
        return means.merged(self.all_reduce)

    def from_rank_zero(self, value: Any) -> Any:
        """Return rank 0's value, an object that can be pickled, on every rank."""
        return value if self.num_ranks == 1 else self._strategy.broadcast(value)

    def united(self, by_rank: dict[int, Any]) -> dict[int, Any]:
        """Return the entries of all ranks, objects that can be pickled: one collective."""
        if self.num_ranks == 1:
            return by_rank
        every: list[Any] = [None] * self.num_ranks
        torch.distributed.all_gather_object(every, by_rank)
        return {rank: value for entries in every for rank, value in entries.items()}

    def running(
        self, losses: Tensor, notes: Tensor | None, sampler: PrunedSampler | None
    ) -> tuple[Tensor, Tensor | None]:
        """Return the running rows as they are to be kept here: merged, unless shards are fixed."""
        # Every rank has recorded something or none has, so all skip the collectives alike.
        if self.num_ranks == 1 or self._is_fixed or not self.has_news or sampler is None:
            return losses, notes
        return self.merged(losses, sampler.order, sampler.num_replicas > 1, notes)

    def merged(
        self, losses: Tensor, order: Tensor, is_sharded: bool, notes: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Return the running rows with what all ranks have recorded: two collectives.

        Indices travel as int64: in a float tensor they would round above 2**24.

        Args:
            losses: Shape (N,), this rank's losses, NaN where not seen.
            order: Shape (L,), int64, the samples of this rank's epoch; L is the same on all ranks.
            is_sharded: Whether each rank trains its own shard. Without sharding all train the same
                samples; their losses are averaged and the first rank's notes taken, so that all
                decide the same.
            notes: Shape (K, N), float32, this rank's notes, likewise, or None.

        Returns:
            Both, on the device of the losses.
        """
        device = self._strategy.root_device
        indices = order.to(losses.device)
        own = losses[indices].unsqueeze(0)
        if notes is not None:
            own = torch.cat([own, notes[:, indices]])
        every = self._strategy.all_gather(own.to(device)).to(losses.device)  # (R, 1 + K, L)
        every_index = self._strategy.all_gather(indices.to(device)).to(losses.device)
        if is_sharded:
            every, index = every.movedim(1, 0).flatten(1), every_index.flatten()
        else:
            every, index = torch.cat([every[:, :1].nanmean(0), every[0, 1:]]), indices
        rows = [losses.clone(), *([] if notes is None else notes.clone())]
        for row, values in zip(rows, every, strict=True):
            observed = ~values.isnan()
            row[index[observed]] = values[observed]
        return rows[0], None if notes is None else torch.stack(rows[1:])

    def layout(self) -> dict[str, Any]:
        """Say how the samples are dealt out, for the checkpoint."""
        return {
            "world_size": self.num_ranks,
            "partition": "fixed" if self._is_fixed else "replicated",
        }

    def warn_of_other_layout(self, state: dict[str, Any]) -> None:
        """Warn if a run goes on in mid-epoch with another layout than it was saved with."""
        now, change = self.layout(), None
        before = state.get("world_size", 1)
        if before != now["world_size"]:
            change = f"on {now['world_size']} instead of {before} processes"
        elif state.get("partition", "replicated") != now["partition"]:
            change = f"with partition={now['partition']!r}, which it was not saved with"
        if change is not None:
            rank_zero_warn(
                f"{OWNER}: resumed in mid-epoch {change}; some samples of this "
                "epoch train twice or not at all. The next epoch is whole again."
            )
