"""Which samples stand at which places of a training set, as far as it tells."""

from hashlib import sha256
from typing import Any

import numpy as np
from torch.utils.data import ConcatDataset, Dataset, Subset

from lightning_alignprune.trainer_access.errors import refusal
from lightning_alignprune.trainer_access.ranks import RankExchange


def hash_of_places(dataset: Dataset[Any]) -> str | None:
    """Hash the indices of a ``Subset``, also one in a ``Subset`` or ``ConcatDataset``.

    Two sets with the same samples at the same places have the same one. Any other data set
    knows alone what its places hold: None.

    Example:
        >>> data = list(range(5))
        >>> one, same, other = (hash_of_places(Subset(data, i)) for i in ([3, 1], (3, 1), [1, 3]))
        >>> one == same, one == other, hash_of_places(data)
        (True, False, None)

    Note:
        O(N) per call, when a loader is taken.
    """
    parts = _indices_within(dataset)
    digest = sha256()
    for indices in parts:
        digest.update(np.int64(len(indices)).tobytes())
        digest.update(indices.tobytes())
    return digest.hexdigest() if parts else None


def _indices_within(dataset: Any) -> list[np.ndarray[Any, np.dtype[np.int64]]]:
    if isinstance(dataset, Subset):
        indices = np.asarray(dataset.indices)
        if indices.dtype.kind not in "iu":  # keys of a data set that is no sequence
            return []
        return [indices.astype(np.int64), *_indices_within(dataset.dataset)]
    if not isinstance(dataset, ConcatDataset):
        return []
    parts = [_indices_within(part) for part in dataset.datasets]
    if not any(parts):
        return []
    # Where each part begins, so that what stands in one is not taken for what stands in another.
    return [np.asarray(dataset.cumulative_sizes, np.int64), *(i for part in parts for i in part)]


def check_same_places(now: str | None, before: str | None, when: str) -> None:
    """Refuse a training set whose places hold other samples than before, as far as both tell.

    Args:
        now: Hash of its places.
        before: That of the set whose losses are kept.
        when: In which epochs or runs that was, to say it in the error.

    Raises:
        MisconfigurationException: If they differ.
    """
    if now is None or before is None or now == before:
        return
    raise refusal(
        f"the samples at the places where they were {when}",
        "a Subset with other indices",
        "Losses are remembered by index: choose the indices once, for instance in the "
        "DataModule's __init__ with a generator of a fixed seed, or give the whole set and a "
        "sampler that draws a part of it, such as RandomSampler(data, num_samples=...).",
    )


def check_same_on_ranks(now: str | None, exchange: RankExchange) -> None:
    """Refuse ranks whose training sets hold other samples; one collective over several ranks.

    Raises:
        MisconfigurationException: On every rank.
    """
    if len(set(exchange.united({exchange.rank: now}).values())) > 1:
        raise refusal(
            "the same samples at the same places on every rank",
            "Subsets with other indices",
            "Give every rank the whole set and leave its part to Lightning's sampler; choose a "
            "Subset's indices with a generator of a fixed seed.",
        )
