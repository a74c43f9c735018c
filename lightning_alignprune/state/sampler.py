"""`PrunedSampler`: the order of the kept samples, per epoch and rank, and what makes each batch.

State only: knows nothing of Lightning. Legend: ``N`` samples, ``R`` ranks, ``B`` batch size.
"""

import warnings
from collections.abc import Iterable, Iterator, Sized
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Sampler
from typing_extensions import override

from lightning_alignprune._checks import check_bool, check_int
from lightning_alignprune.functional.draws import draw_seed
from lightning_alignprune.state.shard import Shard
from lightning_alignprune.state.user_draws import draw

_ITER_CHUNK = 1 << 16


class PrunedSampler(Sampler[int]):
    """Yield the kept samples of an epoch in an order that depends on (seed, epoch, selection) only.

    With ``shuffle`` the kept samples are permuted, else they come in index order. With ``base``, a
    sampler of the user's, they come in the order in which it draws, and what is pruned is left
    out. Over ranks the one global order is made first and dealt out after: equal lengths, disjoint
    shards, and at most R - 1 samples left out, other ones each epoch. With ``shard`` the kept
    samples of that shard are drawn instead, as many of them as on every other rank.

    A full epoch too small to give every rank a batch repeats samples, as Lightning does.

    A pruned epoch never ends in a batch of a single sample, at which BatchNorm would fail: one
    sample per rank is left out instead.

    A new selection takes effect at the next :meth:`set_epoch`; until :meth:`arm` is called the
    sampler has its full length.

    Args:
        num_samples: N, the length of the data set.
        shuffle: Whether to permute.
        seed: Seed of the permutations; the same on all ranks.
        batch_size: B of the batch sampler on top; for :meth:`batch_indices` and the rule above.
        drop_last: Whether the batch sampler on top drops an incomplete batch.
        num_replicas: R.
        rank: This process's rank, in [0, R).
        base: A sampler whose draws are filtered, instead of all N samples.
        shard: The samples that this rank may draw; None for all.

    Attributes:
        num_first: Where samples are pruned, only those with smaller indices are drawn; None for
            all. For runs that train on the same first batches in every epoch.
        has_fallen_back: Whether nothing of the newest selection would be drawn, so that all is.

    Raises:
        TypeError: If a value is of the wrong kind.
        ValueError: If a number is out of range.

    Example:
        >>> sampler = PrunedSampler(6, shuffle=False, batch_size=2)
        >>> sampler.arm()
        >>> sampler.select(torch.tensor([True, False, True, True, False, True]))
        >>> sampler.set_epoch(1)
        >>> list(sampler), sampler.batch_indices(1).tolist()
        ([0, 2, 3, 5], [3, 5])
    """

    def __init__(
        self,
        num_samples: int,
        shuffle: bool = True,
        seed: int = 0,
        batch_size: int = 1,
        drop_last: bool = False,
        num_replicas: int = 1,
        rank: int = 0,
        base: Iterable[int] | None = None,
        shard: Shard | None = None,
    ) -> None:
        owner = "PrunedSampler"
        count = "Give a positive count."
        self.num_samples = check_int(owner, "num_samples", num_samples, low=1, remedy=count)
        self.shuffle = check_bool(owner, "shuffle", shuffle)
        self.seed = check_int(owner, "seed", seed, remedy="Any int will do.")
        self.batch_size = check_int(owner, "batch_size", batch_size, low=1, remedy=count)
        self.drop_last = check_bool(owner, "drop_last", drop_last)
        self.num_replicas = check_int(owner, "num_replicas", num_replicas, low=1, remedy=count)
        remedy = "Ranks count from 0."
        self.rank = check_int(owner, "rank", rank, low=0, below=self.num_replicas, remedy=remedy)
        self.base = base
        self.shard = shard or Shard(self.num_samples)
        self.epoch = 0
        self.skip_batches = 0
        self.num_first: int | None = None
        self.has_fallen_back = False
        self._armed = False
        self._pending: Tensor | None = None
        self._num_drawn: int | None = None
        self._order: Tensor | None = None
        self._drawn: tuple[tuple[int, int], Tensor] | None = None

    @property
    def order(self) -> Tensor:
        """This rank's sample indices of the current epoch, int64, on the CPU."""
        if self._order is None:
            self._order = self._dealt_out(self._global_order())
            if self._armed and self._pending is not None and len(self._order) < self._least:
                # An epoch without a batch would end the whole run.
                warnings.warn("PrunedSampler: nothing kept would be drawn; all is.", stacklevel=2)
                self._pending, self.has_fallen_back = None, True
                self._order = self._dealt_out(self._global_order())
        return self._order

    @property
    def _least(self) -> int:
        """How many samples of a rank make a batch."""
        return self.batch_size if self.drop_last else 1

    @property
    def fewest(self) -> int:
        """How many samples must be kept, of all or of each shard, for every rank to get a batch."""
        return self._least * (self.num_replicas if self.shard.is_whole else 1)

    @property
    def positions(self) -> Tensor:
        """Where the samples of :attr:`order` stand among those whose losses are kept here."""
        return self.shard.positions_of(self.order)

    def arm(self) -> None:
        """Let selections take effect from now on, starting with the current epoch's."""
        self._armed = True
        self._order = None

    def select(self, kept: Tensor | None, num_drawn: int | None = None) -> None:
        """Set the samples of the epochs to come.

        Args:
            kept: Shape (N,), or (n,) with a shard, bool; None for all.
            num_drawn: With a shard, how many of them each rank draws.

        Raises:
            ValueError: If the shape or dtype is wrong.
        """
        num_own = self.shard.num_own
        if kept is not None and (kept.shape != (num_own,) or kept.dtype != torch.bool):
            raise ValueError(
                f"PrunedSampler: expected a selection of shape ({num_own},) and dtype "
                f"bool, got {tuple(kept.shape)} and {kept.dtype}. One entry per sample."
            )
        self._pending = None if kept is None else kept.cpu()
        self.has_fallen_back = False
        self._num_drawn = num_drawn

    def set_epoch(self, epoch: int) -> None:
        """Start the order of ``epoch`` with the newest selection; all ranks must call it alike."""
        if epoch != self.epoch:
            self.skip_batches = 0
        self.epoch = epoch
        self._order = None

    def skip(self, batches: int) -> None:
        """Begin the current epoch after its first ``batches`` batches, as a resumed run must.

        Length and :meth:`batch_indices` still count from the beginning of the epoch.
        """
        self.skip_batches = batches

    def _global_order(self) -> Tensor:
        kept = self._pending if self._armed else None
        if self.base is not None:
            order = self._draw_base(self.base)
            return order if kept is None else order[kept[order]]
        if not self.shard.is_whole:
            order = self.shard.indices() if kept is None else self.shard.indices()[kept]
        elif kept is None:
            order = torch.arange(self.num_samples)
        else:
            order = kept[: self.num_first].nonzero().squeeze(1)
        if self.shuffle:
            # Shards take neighbours in turn: with one permutation for all ranks they would stand in
            # the same batch.
            seed = draw_seed(self.seed, self.epoch, self.shard.rank)
            generator = torch.Generator().manual_seed(seed)
            order = order[torch.randperm(len(order), generator=generator)]
        return order

    def _draw_base(self, base: Iterable[int]) -> Tensor:
        # Once an epoch: a sampler that keeps a state of its own would draw something else the next
        # time, and what was drawn first may be on its way through the workers.
        wanted = (self.seed, self.epoch)
        if self._drawn is None or self._drawn[0] != wanted:
            self._drawn = (wanted, draw(base, *wanted))
        return self._drawn[1]

    def _dealt_out(self, order: Tensor) -> Tensor:
        is_pruned = self._armed and self._pending is not None
        if self.shard.is_whole:
            length = len(order) // self.num_replicas
        elif is_pruned and self._num_drawn is not None:
            length = self._num_drawn
        else:
            length = self.num_samples // self.shard.num_ranks
        if not is_pruned and length < self._least and self.shard.is_whole:
            # Too few samples for a batch on every rank: some come twice, as in Lightning.
            length = -(-len(order) // self.num_replicas)
            order = order.repeat(self.num_replicas)[: length * self.num_replicas]
        ends_in_one = length > 1 and self.batch_size > 1 and length % self.batch_size == 1
        if is_pruned and not self.drop_last and ends_in_one:
            length -= 1
        num_left_out = len(order) - length * self.num_replicas
        if num_left_out:
            keep = torch.ones(len(order), dtype=torch.bool)
            keep[(self.epoch * num_left_out + torch.arange(num_left_out)) % len(order)] = False
            order = order[keep]
        return order[self.rank :: self.num_replicas].contiguous()

    def place(self, batch_idx: int) -> slice:
        """Say where the samples of batch ``batch_idx`` stand in :attr:`order`."""
        start = batch_idx * self.batch_size
        return slice(start, start + self.batch_size)

    def batch_indices(self, batch_idx: int) -> Tensor:
        """Return the samples of batch ``batch_idx`` of the current epoch, shape (B,), int64."""
        return self.order[self.place(batch_idx)]

    @override
    def __iter__(self) -> Iterator[int]:
        return _in_chunks(self.order[self.place(self.skip_batches).start :])

    def __len__(self) -> int:
        return len(self.order)


def _in_chunks(order: Tensor) -> Iterator[int]:
    # One list of a hundred million Python ints would cost gigabytes.
    for chunk in torch.split(order, _ITER_CHUNK):
        yield from chunk.tolist()


def describe(sampler: Any) -> str:
    """Name a sampler for an error message."""
    length = f" of length {len(sampler)}" if isinstance(sampler, Sized) else ""
    return f"{type(sampler).__module__}.{type(sampler).__qualname__}{length}"
