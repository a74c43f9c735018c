"""Whether a loader's data set augments: gives other inputs each time it is asked for a sample."""

import multiprocessing
from typing import Any

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_debug
from torch import Tensor
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader, IterableDataset

from lightning_alignprune.trainer_access.batch_items import fetched
from lightning_alignprune.trainer_access.errors import OWNER

_NUM_READINGS = 4
_TIMEOUT = 30.0


def is_augmented(loader: Any) -> bool | None:
    """Say whether samples differ from one reading to the next; None where it cannot tell.

    The first sample and the middle one are read four times each, in a worker process, so that
    files and generators of the data set in this one stay as they are.

    Args:
        loader: Any loader; only a ``DataLoader`` of indexed samples can be asked.

    Note:
        Four readings of two samples miss an augmentation that changes half of the samples for one
        data set in 64. What ``collate_fn`` or the module does to a batch is not seen.
    """
    if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
        return None
    # A worker that is not forked imports the user's script again.
    if loader.num_workers == 0 and multiprocessing.get_start_method() != "fork":
        return None
    try:
        places = sorted({0, len(loader.dataset) // 2})  # type: ignore[arg-type]
        indices = [place for place in places for _ in range(_NUM_READINGS)]
        items = fetched(loader, indices, _TIMEOUT)
        if len(items) != len(indices):
            return None  # a data set that makes whole batches
        readings = [items[i : i + _NUM_READINGS] for i in range(0, len(items), _NUM_READINGS)]
        return any(not _equal(first, other) for first, *others in readings for other in others)
    except Exception as error:
        rank_zero_debug(f"{OWNER}: it cannot be told whether samples are augmented: {error}")
        return None


def _equal(item: Any, other: Any) -> bool:
    leaves, others = tree_leaves(item), tree_leaves(other)
    return len(leaves) == len(others) and all(map(_equal_leaf, leaves, others))


def _equal_leaf(leaf: Any, other: Any) -> bool:
    try:
        one, two = (torch.as_tensor(part) for part in (leaf, other))
    except (TypeError, ValueError, RuntimeError):
        return True  # nothing to compare: texts, pictures that collate_fn turns into tensors
    return one.shape == two.shape and bool((one == two).logical_or(_both_nan(one, two)).all())


def _both_nan(one: Tensor, two: Tensor) -> Tensor:
    return one.isnan().logical_and(two.isnan())
