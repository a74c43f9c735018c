"""Small data for the clients: scikit-learn's handwritten digits, and what is made of them."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

NUM_SAMPLES = 96
BATCH_SIZE = 8


def digits(size: int = 8, channels: int = 1, num: int = NUM_SAMPLES) -> tuple[Tensor, Tensor]:
    """Return images, shape (num, channels, size, size) in [0, 1], and their classes."""
    x, y = load_digits(return_X_y=True)
    images = torch.from_numpy(x[:num]).float().div(16).view(-1, 1, 8, 8)
    if size != 8:
        images = torch.nn.functional.interpolate(images, size, mode="bilinear")
    return images.repeat(1, channels, 1, 1), torch.from_numpy(y[:num])


def sentences(vocabulary: int = 50, shortest: int = 4, longest: int = 12) -> list[Tensor]:
    """Return sentences of unequal lengths; words 0 to 3 are left for special ones."""
    rng = torch.Generator().manual_seed(0)
    lengths = torch.randint(shortest, longest + 1, (NUM_SAMPLES,), generator=rng).tolist()
    return [torch.randint(4, vocabulary, (length,), generator=rng) for length in lengths]


class Items(Dataset[Any]):
    """A map-style data set whose items a function makes, the same at every call."""

    def __init__(self, make: Callable[[int], Any], num: int = NUM_SAMPLES) -> None:
        self.make, self.num = make, num

    def __len__(self) -> int:
        return self.num

    def __getitem__(self, index: int) -> Any:
        if not 0 <= index < self.num:
            raise IndexError(index)
        with torch.random.fork_rng():
            torch.manual_seed(index)
            return self.make(index)


def loader(
    data: Dataset[Any] | Sequence[Any], batch_size: int = BATCH_SIZE, **settings: Any
) -> DataLoader[Any]:
    return DataLoader(data, batch_size, shuffle=True, **settings)
