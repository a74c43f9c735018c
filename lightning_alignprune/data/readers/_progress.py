"""A progress bar that appears only when something takes longer than two seconds."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

from lightning.pytorch.utilities.rank_zero import rank_zero_only
from tqdm import tqdm  # type: ignore[import-untyped]

T = TypeVar("T")


def progress(items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Iterate with a bar on stderr, on the first rank only.

    Example:
        >>> list(progress("ab", "reading"))
        ['a', 'b']
    """
    is_quiet = getattr(rank_zero_only, "rank", 0) != 0
    yield from tqdm(items, description, total, delay=2.0, disable=is_quiet, leave=False)
