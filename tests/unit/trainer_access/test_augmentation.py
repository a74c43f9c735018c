"""`is_augmented`: does a data set give other inputs each time, and does asking leave no trace?"""

import random

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from lightning_alignprune.trainer_access.augmentation import is_augmented

X, Y = torch.arange(24.0).view(12, 2), torch.arange(12) % 3


class Read(Dataset):
    """Change each sample by a function when it is read; count the readings."""

    def __init__(self, change):
        self.change, self.num_read = change, 0

    def __len__(self):
        return len(X)

    def __getitem__(self, index):
        self.num_read += 1
        return self.change(X[index]), int(Y[index])


def flipped(x):
    return x.flip(0) if torch.rand(()) < 0.5 else x


def jittered(x):
    return x + random.gauss(0, 1)


def noisy(x):
    return x.numpy() + np.random.default_rng().normal(size=2)


def unreadable(x):
    raise OSError("no such file")


class Whole(TensorDataset):
    """Give whole batches instead of items."""

    def __getitems__(self, indices):
        return [tensor[indices] for tensor in self.tensors]


class Stream(IterableDataset):
    def __iter__(self):
        return iter(X)


def nested(x):
    return {"image": x, "text": "of words", "boxes": [torch.full((2,), torch.nan)]}


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize(
    ("dataset", "expected"),
    [
        (TensorDataset(X, Y), False),
        (Read(lambda x: x.numpy()), False),
        (Read(nested), False),
        (Read(lambda x: nested(jittered(x))), True),
        (Read(flipped), True),
        (Read(jittered), True),
        (Read(noisy), True),
        (Read(lambda x: str(torch.rand(()))), False),
        (Read(unreadable), None),
        (Whole(X, Y), None),
        (Stream(), None),
    ],
)
def test_samples_that_change_from_one_reading_to_the_next_are_augmented(
    dataset, expected, num_workers
):
    assert is_augmented(DataLoader(dataset, 4, num_workers=num_workers)) is expected


def test_what_is_no_loader_of_indexed_samples_tells_nothing():
    assert is_augmented([(X, Y)]) is None


def test_asking_leaves_no_trace():
    generator = torch.Generator().manual_seed(3)
    dataset = Read(lambda x: x + torch.rand((), generator=generator))
    loader = DataLoader(dataset, 4, shuffle=True, generator=generator)
    before = generator.get_state(), torch.get_rng_state(), random.getstate(), np.random.get_state()
    assert is_augmented(loader) is True
    after = generator.get_state(), torch.get_rng_state(), random.getstate(), np.random.get_state()
    assert torch.equal(before[0], after[0])
    assert torch.equal(before[1], after[1])
    assert before[2] == after[2]
    assert all(np.array_equal(*both) for both in zip(before[3], after[3], strict=True))
    assert dataset.num_read == 0
    assert len(list(loader)) == 3
