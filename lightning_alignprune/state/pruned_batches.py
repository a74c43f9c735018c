"""`PrunedBatches`: a user's batches without the pruned samples, joined where they got small.

State only: knows nothing of Lightning.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate

import torch
from torch import Tensor
from torch.utils.data import Sampler
from typing_extensions import override

from lightning_alignprune.state.sampler import PrunedSampler
from lightning_alignprune.state.user_draws import draw_batches


def joined_sizes(sizes: Iterable[int], num_kept: Iterable[int]) -> list[int]:
    """Say how the kept samples of consecutive batches are put into batches again.

    What is left of a batch is filled up from the ones that follow, in their order. A new batch is
    never larger than the smallest one that it takes samples from: where a sampler makes batches of
    long samples small to save memory, they stay small.

    Args:
        sizes: How many samples each batch had, K numbers.
        num_kept: How many of them are kept, K numbers.

    Returns:
        Sizes of the new batches, which add up to the kept samples. A batch of which nothing was
        pruned stays as it is if nothing is left over from the one before.

    Example:
        >>> joined_sizes([4, 4, 4, 2], [2, 3, 4, 1])
        [4, 4, 2]
    """
    joined: list[int] = []
    pending, limit = 0, 0
    for size, left in zip(sizes, num_kept, strict=True):
        num_left = left
        while num_left:
            limit = min(limit, size) if pending else size
            taken = min(num_left, max(0, limit - pending))
            pending, num_left = pending + taken, num_left - taken
            if pending >= limit:
                joined.append(pending)
                pending = 0
    return [*joined, pending] if pending else joined


class PrunedBatches(PrunedSampler):
    """Draw the batches of a user's batch sampler and leave out what is pruned.

    Selections, epochs and resumes are those of :class:`PrunedSampler`; what is left of the batches
    is joined as :func:`joined_sizes` says. An epoch of which nothing is pruned has the user's own
    batches. A pruned one does not end in a batch of a single sample.

    Args:
        num_samples: N, the length of the data set.
        batch_sampler: Yields lists of indices; drawn once per epoch.
        seed: Seed of its draws.
        fewest_of_ranks: Turns this rank's number of batches into the smallest of any rank, which is
            what all draw; needed with several ranks, whose batch samplers deal out the data.

    Example:
        >>> sampler = PrunedBatches(4, [[3, 0], [1, 2]])
        >>> sampler.arm()
        >>> sampler.select(torch.tensor([True, True, True, False]))
        >>> sampler.set_epoch(1)
        >>> list(sampler.batches), len(sampler.batches)
        ([[0, 1]], 1)
    """

    def __init__(
        self,
        num_samples: int,
        batch_sampler: Iterable[list[int]],
        seed: int = 0,
        fewest_of_ranks: Callable[[int], int] | None = None,
    ) -> None:
        super().__init__(num_samples, seed=seed, base=())
        self._batch_sampler = batch_sampler
        self._fewest_of_ranks = fewest_of_ranks
        self._sizes = torch.zeros(0, dtype=torch.int64)
        self._ends = [0]
        self.batches: Sampler[list[int]] = _Batches(self)

    @property
    def num_batches(self) -> int:
        """How many batches the current epoch has."""
        assert self.order is not None  # which works them out
        return len(self._ends) - 1

    @override
    def place(self, batch_idx: int) -> slice:
        assert self.order is not None
        last = len(self._ends) - 1
        return slice(self._ends[min(batch_idx, last)], self._ends[min(batch_idx + 1, last)])

    @override
    def _draw_base(self, base: Iterable[int]) -> Tensor:
        wanted = (self.seed, self.epoch)
        if self._drawn is None or self._drawn[0] != wanted:
            batches = draw_batches(self._batch_sampler, *wanted)
            self._sizes = torch.tensor([len(batch) for batch in batches], dtype=torch.int64)
            flat = [index for batch in batches for index in batch]
            self._drawn = (wanted, torch.tensor(flat, dtype=torch.int64))
        return self._drawn[1]

    @override
    def _global_order(self) -> Tensor:
        drawn = self._draw_base(())
        kept = self._pending if self._armed else None
        keeps = torch.ones_like(drawn, dtype=torch.bool) if kept is None else kept[drawn]
        before = torch.cat([torch.zeros(1, dtype=torch.int64), keeps.cumsum(0)])
        num_kept = before[torch.tensor([0, *self._sizes.cumsum(0).tolist()])].diff()
        sizes = joined_sizes(self._sizes.tolist(), num_kept.tolist())
        if kept is not None and len(sizes) > 1 and sizes[-1] == 1 and max(sizes) > 1:
            del sizes[-1]  # BatchNorm would fail
        if self._fewest_of_ranks is not None:
            del sizes[self._fewest_of_ranks(len(sizes)) :]
        self._ends = list(accumulate(sizes, initial=0))
        return drawn[keeps]

    @override
    def _dealt_out(self, order: Tensor) -> Tensor:
        return order[: self._ends[-1]]


class _Batches(Sampler[list[int]]):
    """The batch sampler of a loader: the batches of the current epoch as lists."""

    def __init__(self, sampler: PrunedBatches) -> None:
        self.sampler = sampler

    @override
    def __iter__(self) -> Iterator[list[int]]:
        sampler = self.sampler
        for batch_idx in range(sampler.skip_batches, sampler.num_batches):
            yield sampler.batch_indices(batch_idx).tolist()

    def __len__(self) -> int:
        return self.sampler.num_batches
