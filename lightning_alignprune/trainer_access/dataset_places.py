"""Which samples stand at which places of a training set, as far as it tells."""

from hashlib import sha256
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset, Subset

from lightning_alignprune.trainer_access.errors import refusal
from lightning_alignprune.trainer_access.ranks import RankExchange

_NUM_PLACES = 1000
_MOST_BYTES = 2**24
_MOST_PARTS = 64
_DEEPEST = 4


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


def hash_of_samples(dataset: Dataset[Any]) -> str | None:
    """Hash what a data set holds for each sample, at up to 1,000 places spread over it.

    Tensors, arrays and lists of its length among its attributes and those of data sets that it is
    made of. Whole numbers, which may be labels that are corrected as the run goes, count only where
    there is nothing else, such as inputs or paths. Sets with the same samples have the same hash;
    None where nothing of the kind is found.

    Example:
        >>> from torch.utils.data import TensorDataset
        >>> one, same, other = (TensorDataset(torch.tensor(x)) for x in ([1, 2], [1, 2], [2, 1]))
        >>> hashes = [hash_of_samples(data) for data in (one, same, other)]
        >>> hashes[0] == hashes[1], hashes[0] == hashes[2]
        (True, False)

    Note:
        At most 16 MiB of each attribute are read.
    """
    found = _contents(dataset, 0)
    return sha256(b"".join(found)).hexdigest() if found else None


def _contents(dataset: Any, depth: int) -> list[bytes]:
    """Return a hash of each thing that is held for each sample."""
    try:
        length = len(dataset)
    except TypeError:
        return []
    within: list[bytes] = []
    inputs: list[bytes] = []
    whole_numbers: list[bytes] = []
    for name, value in sorted(getattr(dataset, "__dict__", {}).items()):
        parts = value if isinstance(value, (list, tuple)) and len(value) != length else [value]
        for part in parts[:_MOST_PARTS]:
            if isinstance(part, Dataset) and depth < _DEEPEST:
                within += _contents(part, depth + 1)
            elif name == "_fingerprint" and isinstance(part, str):  # of Hugging Face's data sets
                inputs.append(part.encode())
            elif _has_length(part, length) and (content := _bytes_of(part, length)) is not None:
                kind = whole_numbers if _is_whole(part) else inputs
                kind.append(sha256(name.encode() + content).digest())
    return within + (inputs or whole_numbers)


def _is_whole(values: Any) -> bool:
    if isinstance(values, Tensor):
        return values.ndim == 1 and not values.is_floating_point()
    if isinstance(values, np.ndarray):
        return values.ndim == 1 and values.dtype.kind in "iub"
    return len(values) > 0 and isinstance(values[0], (int, np.integer))


def _has_length(value: Any, length: int) -> bool:
    if isinstance(value, (Tensor, np.ndarray)):
        return bool(value.ndim) and len(value) == length
    return isinstance(value, (list, tuple, range)) and len(value) == length


def _bytes_of(value: Any, length: int) -> bytes | None:
    """Return the content of some places; None where it cannot be told from that of others."""
    places = np.unique(np.linspace(0, length - 1, _NUM_PLACES).astype(np.int64))
    if isinstance(value, (Tensor, np.ndarray)):
        row = value[0] if length else value
        size = row.nbytes if hasattr(row, "nbytes") else 8
        places = places[:: max(1, -(-size * len(places) // _MOST_BYTES))]
        rows = value[torch.from_numpy(places)] if isinstance(value, Tensor) else value[places]
        if isinstance(rows, Tensor):
            rows = rows.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        return None if rows.dtype.hasobject else rows.tobytes()
    content = [value[place] for place in places]
    return repr(content).encode() if all(map(_is_plain, content)) else None


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return isinstance(value, (str, bytes, int, float, bool, type(None), np.generic, PurePath))


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
        "others",
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
            "others",
            "Give every rank the whole set and leave its part to Lightning's sampler; choose a "
            "Subset's indices with a generator of a fixed seed.",
        )
