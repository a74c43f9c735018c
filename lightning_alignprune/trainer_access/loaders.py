"""From the train loader that Lightning ended with to a `PrunedSampler` that takes its place."""

from collections.abc import Iterator
from typing import Any

import torch
from lightning.fabric.utilities.distributed import DistributedSamplerWrapper
from lightning.pytorch.overrides.distributed import UnrepeatedDistributedSampler
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
)

from lightning_alignprune.state.pruned_batches import PrunedBatches
from lightning_alignprune.state.sampler import PrunedSampler, describe
from lightning_alignprune.trainer_access import internals as access
from lightning_alignprune.trainer_access.errors import OWNER, refusal
from lightning_alignprune.trainer_access.ranks import RankExchange

# What torch and Lightning deal out over ranks; a user's subclass may do anything.
_DEALS_OUT = (DistributedSampler, DistributedSamplerWrapper, UnrepeatedDistributedSampler)


def check_loader(loader: object, batches_are_known: bool = False) -> DataLoader[Any]:
    """Return the loader if its samples can be known and chosen.

    Args:
        loader: The train loader.
        batches_are_known: Whether each batch says which samples it holds.

    Raises:
        MisconfigurationException: With the reason and the way out, if not.
    """
    if not isinstance(loader, DataLoader):
        raise refusal("a torch DataLoader for training", type(loader).__name__, "Use a DataLoader.")
    if isinstance(loader.dataset, IterableDataset):
        raise refusal(
            "a map-style training set",
            "an IterableDataset, whose samples have no indices",
            "Give a dataset with __len__ and __getitem__.",
        )
    if any(cls.__name__ == "StatefulDataLoader" for cls in type(loader).__mro__):
        raise refusal(
            "a loader whose place this callback keeps",
            f"{type(loader).__name__}, which restores its own",
            "Use torch's DataLoader: with this callback it resumes exactly, also in mid-epoch.",
        )
    if loader.batch_size is None and loader.batch_sampler is None:
        raise refusal(
            "a DataLoader that makes batches",
            "batch_size=None, where each item is a batch of unknown samples",
            "Let the DataLoader batch single samples.",
        )
    if type(loader.batch_sampler) is not BatchSampler and not batches_are_known:
        raise refusal(
            "a plain torch BatchSampler",
            describe(loader.batch_sampler),
            "Pass batch_size, shuffle or sampler to the DataLoader instead of batch_sampler, or "
            "let the batch say which samples it holds: sample_index=.",
        )
    if not getattr(loader, "in_order", True):
        rank_zero_warn(
            f"{OWNER}: the train loader has in_order=False, but samples are known by their place "
            "in the order; its batches are taken in order."
        )
    if len(loader.dataset) == 0:  # type: ignore[arg-type]
        raise refusal("a training set with samples", "an empty one", "Check the dataset.")
    return loader


def check_length(loader: DataLoader[Any], num_samples: int) -> None:
    """Raise a ``MisconfigurationException`` if the set has another length than it had."""
    length = len(loader.dataset)  # type: ignore[arg-type]
    if length != num_samples:
        raise refusal(
            f"the training set to keep its {num_samples} samples",
            str(length),
            "Losses are remembered by index; use a new Trainer or a new callback for another set.",
        )


def check_installed(loaders: list[Any], sampler: PrunedSampler | None) -> DataLoader[Any]:
    """Return the one train loader, which draws from our sampler.

    Raises:
        MisconfigurationException: If there are several, or something replaced the loader.
    """
    if len(loaders) != 1:
        raise refusal(
            "one train loader",
            str(len(loaders)),
            "Join the sets, for instance with torch.utils.data.ConcatDataset.",
        )
    loader: DataLoader[Any] = loaders[0]
    if sampler is None or loader.sampler is not sampler:
        raise refusal(
            "to find its sampler in the train loader",
            describe(loader.sampler),
            "Something replaced the loader during setup; look for another callback that does.",
        )
    return loader


def sampler_for(loader: DataLoader[Any], seed: int, exchange: RankExchange) -> PrunedSampler:
    """Make the sampler that draws like the loader's own, for this rank.

    A random sampler becomes our epoch-seeded permutation, a sequential one stays in order, a
    user's own sampler keeps drawing in its order and pruned samples are left out of what it draws.
    One that Lightning does not deal out over the ranks, such as a subclass of DistributedSampler,
    is asked on every rank. A batch sampler of the user's own keeps making the batches.

    Raises:
        MisconfigurationException: If the samples cannot be dealt out as a fixed partition asks.
    """
    batch_sampler = loader.batch_sampler
    if type(batch_sampler) is not BatchSampler:
        return _batches_of(loader, seed, exchange)
    num_replicas, rank = 1, 0
    sampler: Any = batch_sampler.sampler
    shuffle = False
    if type(sampler) in _DEALS_OUT:
        num_replicas, rank, shuffle = sampler.num_replicas, sampler.rank, sampler.shuffle
        sampler = access.sampler_behind(sampler)
    base: Any = None
    if type(sampler) is RandomSampler and not sampler.replacement:
        num_drawn = sampler.num_samples
        if num_drawn != len(loader.dataset):  # type: ignore[arg-type]
            base = sampler
        shuffle = True
    elif type(sampler) not in (SequentialSampler, DistributedSampler):
        base = sampler
    num_samples = len(loader.dataset)  # type: ignore[arg-type]
    shard = exchange.shard(num_samples)
    if not shard.is_whole:
        _check_dealt_out(shard.num_ranks, num_replicas, base)
        num_replicas, rank = 1, 0  # the shard is this rank's part
    elif base is not None and num_replicas == 1 and exchange.num_ranks > 1:
        # Its draw is not dealt out: each rank's sampler draws what that rank is to train.
        base = _EveryRanksDraw(base, exchange)
        num_replicas, rank = exchange.num_ranks, exchange.rank
    return PrunedSampler(
        num_samples,
        shuffle=shuffle,
        seed=seed,
        batch_size=batch_sampler.batch_size,
        drop_last=batch_sampler.drop_last,
        num_replicas=num_replicas,
        rank=rank,
        base=base,
        shard=shard,
    )


def _batches_of(loader: DataLoader[Any], seed: int, exchange: RankExchange) -> PrunedBatches:
    batch_sampler = loader.batch_sampler
    assert batch_sampler is not None  # check_loader saw it
    num_samples = len(loader.dataset)  # type: ignore[arg-type]
    if not exchange.shard(num_samples).is_whole:
        _check_dealt_out(exchange.num_ranks, exchange.num_ranks, batch_sampler)
    fewest = exchange.fewest if exchange.num_ranks > 1 else None
    return PrunedBatches(num_samples, batch_sampler, seed, fewest)


class _EveryRanksDraw:
    """What samplers that choose their rank's part by themselves draw on all ranks, taken in turn.

    Dealt out in turn it gives each rank what its own sampler drew; with pruned samples left out, it
    gives all ranks equally many. Two collectives per draw; every rank must draw alike.
    """

    def __init__(self, sampler: Any, exchange: RankExchange) -> None:
        self.sampler, self._exchange = sampler, exchange

    def __iter__(self) -> Iterator[int]:
        own = torch.tensor(list(self.sampler), dtype=torch.int64)
        drawn, turns = self._exchange.concatenated(own, torch.arange(len(own)))
        order: list[int] = drawn[turns.argsort(stable=True)].tolist()
        return iter(order)

    def set_epoch(self, epoch: int) -> None:
        """Pass the epoch on to a sampler that asks for it."""
        set_epoch = getattr(self.sampler, "set_epoch", None)
        if callable(set_epoch):
            set_epoch(epoch)


def _check_dealt_out(num_ranks: int, num_replicas: int, base: Any) -> None:
    remedy = "Use partition='replicated'."
    if base is not None:
        raise refusal(
            "no sampler of your own with partition='fixed', where a rank draws its own shard only",
            describe(base),
            remedy,
        )
    if num_replicas != num_ranks:
        raise refusal(
            f"partition='fixed' to deal the samples out over {num_ranks} ranks",
            f"use_distributed_sampler=False or a sampler of {num_replicas} replicas",
            f"Leave use_distributed_sampler at True. {remedy}",
        )


def in_index_order(loader: DataLoader[Any]) -> DataLoader[Any]:
    """Return a copy of a train loader that goes once through all samples in index order."""
    order = SequentialSampler(loader.dataset)  # type: ignore[arg-type]
    return access.with_batches(loader, list(BatchSampler(order, batch_size_of(loader), False)))


def batch_size_of(loader: DataLoader[Any]) -> int:
    """Return the batch size of a train loader; its first batch's if a batch sampler decides."""
    if isinstance(loader.sampler, PrunedBatches):
        return len(loader.sampler.batch_indices(0))
    return loader.batch_size or 1


def shard_batches(loader: Any, num_replicas: int, rank: int) -> tuple[Any, int | None]:
    """Deal the batches of a loader out over ranks.

    The batches are in the order of the dataset, shuffled or not, so that a sample is where it was
    in the pass before. A rank that is one batch short repeats its first, so that all make as many
    forward passes: a module may hold collectives. A loader whose order is not ours to know is left
    whole, which gives every rank the same mean.

    Returns:
        The loader and the number of its batches that count; None if all do.
    """
    sampler = getattr(loader, "sampler", None)
    is_plain = (
        isinstance(loader, DataLoader)
        and type(loader.batch_sampler) is BatchSampler
        and type(sampler) in (SequentialSampler, RandomSampler)
    )
    if not is_plain or (num_replicas == 1 and type(sampler) is SequentialSampler):
        return loader, None
    order = SequentialSampler(loader.dataset)
    batches = list(BatchSampler(order, loader.batch_sampler.batch_size, drop_last=False))
    if num_replicas == 1:
        return access.with_batches(loader, batches), None
    own = batches[rank::num_replicas]
    num_each = -(-len(batches) // num_replicas)
    padded = own + [(own or batches)[0]] * (num_each - len(own))
    return access.with_batches(loader, padded), len(own)
