"""The items that a train loader makes its batches of, before its ``collate_fn``."""

import copy
from collections import UserDict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader

from lightning_alignprune.state.sampler import PrunedSampler
from lightning_alignprune.trainer_access import internals as access


class KeptItems:
    """A ``collate_fn`` that keeps the items of a few batches on their way through.

    For loaders without workers, whose data set would otherwise be asked again: its items may be
    drawn at random from generators of its own.

    Args:
        collate_fn: The loader's own.

    Attributes:
        num_wanted: How many batches to keep, the next ones; 0 lets all pass.
    """

    def __init__(self, collate_fn: Callable[[list[Any]], Any]) -> None:
        self.collate_fn = collate_fn
        self.num_wanted = 0
        self._kept: list[list[Any]] = []

    def __call__(self, items: Any) -> Any:
        """Collate, after a look at the items."""
        if self.num_wanted and isinstance(items, list):
            self.num_wanted -= 1
            self._kept.append(fresh(items))
        return self.collate_fn(items)

    def __getattr__(self, name: str) -> Any:
        if name in ("collate_fn", "num_wanted", "_kept"):  # a copy in the making has none yet
            raise AttributeError(name)
        return getattr(self.collate_fn, name)

    def take(self) -> list[list[Any]]:
        """Return the items kept so far, batch by batch, and keep no more."""
        kept, self._kept, self.num_wanted = self._kept, [], 0
        return kept


def fresh(items: list[Any]) -> list[Any]:
    """Return the items in containers of their own; collate functions take keys out of them."""
    containers = (dict, list, UserDict)
    return [copy.copy(item) if isinstance(item, containers) else item for item in items]


class TrainItems:
    """Items of the train loader's batches, to make batches of that are not trained.

    A loader without workers has its items kept on their way to ``collate_fn``. With workers they
    are fetched in a worker of its own: a file that the data set opens in this process would be
    shared by the workers of the next epoch.

    Args:
        loader: The loader in use; without workers its ``collate_fn`` is wrapped.
        sampler: What it draws from.

    Attributes:
        collate_fn: The user's.
    """

    def __init__(self, loader: DataLoader[Any], sampler: PrunedSampler) -> None:
        self.collate_fn = loader.collate_fn
        self._loader, self._sampler = loader, sampler
        self._keeper: KeptItems | None = None
        if loader.num_workers == 0:
            self._keeper = KeptItems(loader.collate_fn)
            loader.__dict__["collate_fn"] = self._keeper

    def want(self) -> None:
        """Have items at hand in the next steps."""
        if self._keeper is not None:
            self._keeper.num_wanted = 2

    def take(self) -> list[Any] | None:
        """Return as many items as a batch has, other ones than those of its first; None so far."""
        if self._keeper is not None:
            return _other_than_first(self._keeper.take())
        order, place = self._sampler.order, self._sampler.place
        parts = [order[place(0)].tolist(), order[place(1)].tolist()]
        indices = _other_than_first([part for part in parts if part])
        return None if indices is None else fetched(self._loader, indices)


def _other_than_first(batches: list[list[Any]]) -> list[Any] | None:
    if not batches:
        return None
    first, size = batches[0], len(batches[0])
    if len(batches) > 1:
        return (batches[1] + first)[:size]
    # Half of them twice: other means, and as many rows.
    return first if size < 4 else (first[: -(-size // 2)] * 2)[:size]


def fetched(loader: DataLoader[Any], indices: list[int], timeout: float = 0) -> list[Any]:
    """Read items in a worker process, in which what they are read from may change.

    Args:
        loader: Whose data set is asked.
        indices: Which items, of which the same may be asked again.
        timeout: Seconds after which to give up with an error; 0 waits.
    """
    single = access.with_batches(loader, [indices])
    single.__dict__.update(
        collate_fn=_as_they_are,
        num_workers=1,
        prefetch_factor=loader.prefetch_factor or 2,  # None without workers
        persistent_workers=False,
        pin_memory=False,
        timeout=timeout,
        generator=torch.Generator(),
    )
    (items,) = single
    return list(items)


def _as_they_are(items: list[Any]) -> list[Any]:
    return items


def keeps_order(batch: Any, moved: Any, num_items: int, order: Tensor) -> bool | None:
    """Say whether a batch of some of the same items in another order has its rows in that order.

    Args:
        batch: What ``collate_fn`` made of the items.
        moved: What it made of them, or of a part, in another order.
        num_items: B.
        order: Shape (B',), int64: item ``order[i]`` came i-th.

    Returns:
        None where no tensor has B rows that differ.
    """
    verdicts = []
    for rows, moved_rows in zip(_tensors(batch), _tensors(moved), strict=False):
        if len(rows) != num_items or len(moved_rows) != len(order):
            continue
        expected = rows[order]
        if expected.shape == moved_rows.shape and not torch.equal(rows[: len(order)], expected):
            verdicts.append(torch.equal(expected, moved_rows))
    return any(verdicts) if verdicts else None


def widths(batch: Any) -> list[torch.Size]:
    """Return the shapes of a batch's tensors without their first dimension."""
    return [tensor.shape[1:] for tensor in _tensors(batch)]


def _tensors(batch: Any) -> list[Tensor]:
    leaves = tree_leaves(batch.data if isinstance(batch, UserDict) else batch)
    return [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.ndim]
