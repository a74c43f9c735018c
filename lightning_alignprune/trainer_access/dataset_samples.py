"""Which samples stand at which places of a training set, as far as it tells."""

from hashlib import sha256
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from lightning_alignprune.trainer_access.errors import refusal
from lightning_alignprune.trainer_access.ranks import RankExchange

_NUM_PLACES = 1000
_MOST_BYTES = 2**24
_MOST_PARTS = 64
_DEEPEST = 4


def hash_of_samples(dataset: Dataset[Any], in_process: bool = True) -> str | None:
    """Hash what a data set holds for each sample, at up to 1,000 places spread over it.

    Tensors, arrays and lists of its length among its attributes and those of data sets that it is
    made of, and where these begin in it. Sets with the same samples at the same places have the
    same hash; None where nothing of the kind is found.

    Args:
        dataset: The data set.
        in_process: Whether it is compared with one of this process. Then whole numbers, which may
            be labels that are corrected as the run goes, count only where a set holds nothing
            else. With one of another process or run, they count, and fractions do not, which
            another machine may have computed otherwise in the last digit.

    Example:
        >>> from torch.utils.data import TensorDataset
        >>> one, same, other = (TensorDataset(torch.tensor(x)) for x in ([1, 2], [1, 2], [2, 1]))
        >>> hashes = [hash_of_samples(data) for data in (one, same, other)]
        >>> hashes[0] == hashes[1], hashes[0] == hashes[2]
        (True, False)

    Note:
        At most 16 MiB of each attribute are read.
    """
    found = _contents(dataset, in_process, 0)
    return sha256(b"".join(found)).hexdigest() if found else None


def _contents(dataset: Any, in_process: bool, depth: int) -> list[bytes]:
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
                within += _contents(part, in_process, depth + 1)
            elif name == "_fingerprint" and isinstance(part, str) and in_process:
                inputs.append(part.encode())  # of Hugging Face's data sets; may be drawn at random
            elif _has_length(part, length) and (content := _bytes_of(part, length)) is not None:
                kind = whole_numbers if _is_whole(part) else inputs
                if in_process or not _is_fractional(part):
                    kind.append(sha256(name.encode() + content).digest())
    if within and isinstance(sizes := getattr(dataset, "cumulative_sizes", None), list):
        within.append(repr(sizes).encode())  # where the parts of a ConcatDataset begin
    return within + (inputs or whole_numbers if in_process else inputs + whole_numbers)


def _is_whole(values: Any) -> bool:
    if isinstance(values, Tensor):
        return values.ndim == 1 and not values.is_floating_point()
    if isinstance(values, np.ndarray):
        return values.ndim == 1 and values.dtype.kind in "iub"
    return len(values) > 0 and isinstance(values[0], (int, np.integer))


def _is_fractional(values: Any) -> bool:
    if isinstance(values, Tensor):
        return values.is_floating_point() or values.is_complex()
    if isinstance(values, np.ndarray):
        return values.dtype.kind in "fc"
    return len(values) > 0 and isinstance(values[0], (float, np.floating))


def _has_length(value: Any, length: int) -> bool:
    if isinstance(value, (Tensor, np.ndarray)):
        return bool(value.ndim) and len(value) == length
    return isinstance(value, (list, tuple, range)) and len(value) == length


def _bytes_of(value: Any, length: int) -> bytes | None:
    """Return the content of some places; None where it cannot be told from that of others."""
    places = np.unique(np.linspace(0, length - 1, _NUM_PLACES).astype(np.int64))
    if isinstance(value, (list, tuple, range)):
        content = [value[place] for place in places]
        if not _is_whole(content):
            return repr(content).encode() if all(map(_is_plain, content)) else None
        value, places = np.asarray(content), np.arange(len(content))
    if _is_whole(value):
        numbers = value.cpu().numpy() if isinstance(value, Tensor) else value
        return np.asarray(numbers)[places].astype(np.int64).tobytes()
    size = value[0].nbytes if length else 1
    places = places[:: max(1, -(-size * len(places) // _MOST_BYTES))]
    rows = value[torch.from_numpy(places)] if isinstance(value, Tensor) else value[places]
    if isinstance(rows, Tensor):
        rows = rows.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return None if rows.dtype.hasobject else rows.tobytes()


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return isinstance(value, (str, bytes, int, float, bool, type(None), np.generic, PurePath))


def check_same_samples(now: str | None, before: str | None, when: str) -> None:
    """Refuse a training set whose places hold other samples than before, as far as both tell.

    Args:
        now: Hash of its samples.
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
