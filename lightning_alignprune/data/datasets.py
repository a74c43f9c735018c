"""Datasets that know their labels: what is trained on, what is true, and which of them differ.

Legend: ``N`` samples of this dataset, ``M`` samples of the official part it was taken from.
"""

import copy
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from typing_extensions import override

from lightning_alignprune._checks import check_bool, check_callable

Transform = Callable[[Any], Any]


class LabelledDataset(Dataset[tuple[Any, int]], ABC):
    """Samples of an official part of a data set, in its order, with their labels.

    Args:
        labels: Shape (M,), int64, the labels to train on, of the whole official part.
        indices: Shape (N,), int64, which of its samples belong here; None for all.
        clean_labels: Shape (M,), int64, the true labels; None where they are not known.

    Attributes:
        indices: Shape (N,), int64: the place of each sample in the official order.
        labels: Shape (N,), int64: what is trained on.
        clean_labels: Shape (N,), int64, or None.
        noise_mask: Shape (N,), bool, true where the label is wrong, or None.
    """

    def __init__(
        self, labels: Tensor, indices: Tensor | None = None, clean_labels: Tensor | None = None
    ) -> None:
        self.indices = torch.arange(len(labels)) if indices is None else indices
        self.labels = labels[self.indices]
        self.clean_labels = None if clean_labels is None else clean_labels[self.indices]
        self.noise_mask = None if self.clean_labels is None else self.labels != self.clean_labels

    @property
    def targets(self) -> Tensor:
        """The same as ``labels``, under torchvision's name."""
        return self.labels

    def __len__(self) -> int:
        return len(self.indices)

    @abstractmethod
    def __getitem__(self, index: int) -> tuple[Any, int]: ...

    def seen_as(self, other: "LabelledDataset") -> "LabelledDataset":
        """Return these samples and labels with the transform of another part."""
        new = copy.copy(self)
        for name in ("transform", "per_sample"):
            if hasattr(new, name) and hasattr(other, name):
                setattr(new, name, getattr(other, name))
        return new


class InMemoryDataset(LabelledDataset):
    """Samples that are rows of one tensor; a batch is read and transformed in one go.

    Args:
        inputs: Shape (M, ...), shared by the parts of a data set, not copied.
        labels: Shape (M,), int64.
        indices: Shape (N,), int64; None for all.
        clean_labels: Shape (M,), int64, or None.
        transform: Applied to what is read.
        per_sample: Whether ``transform`` takes one sample. Else it takes a batch (B, ...) and must
            treat each row on its own, as random transforms of torchvision do not.

    Raises:
        TypeError: If ``transform`` cannot be called or ``per_sample`` is no bool.

    Example:
        >>> data = InMemoryDataset(torch.arange(6.0), torch.tensor([0, 1, 0, 1, 0, 1]))
        >>> data[3], data.__getitems__([0, 5])
        ((tensor(3.), 1), [(tensor(0.), 0), (tensor(5.), 1)])
    """

    def __init__(
        self,
        inputs: Tensor,
        labels: Tensor,
        indices: Tensor | None = None,
        clean_labels: Tensor | None = None,
        transform: Transform | None = None,
        per_sample: bool = False,
    ) -> None:
        super().__init__(labels, indices, clean_labels)
        self.inputs = inputs
        remedy = "Pass a function or a module."
        self.transform = check_callable("InMemoryDataset", "transform", transform, remedy=remedy)
        self.per_sample = check_bool("InMemoryDataset", "per_sample", per_sample)

    @override
    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"expected an index below {len(self)}, got {index}")
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Tensor, int]]:
        """Read a whole batch; the DataLoader calls this where it exists."""
        chosen = torch.as_tensor(indices)
        batch = self.inputs[self.indices[chosen]]
        if self.transform is not None and self.per_sample:
            batch = torch.stack([self.transform(sample) for sample in batch])
        elif self.transform is not None:
            batch = self.transform(batch)
        return list(zip(batch.unbind(), self.labels[chosen].tolist(), strict=True))


class ImageFileDataset(LabelledDataset):
    """Image files, read and decoded when asked for: by the workers of the DataLoader.

    Args:
        root: Folder the paths are relative to.
        paths: M paths.
        labels: Shape (M,), int64.
        indices: Shape (N,), int64; None for all.
        clean_labels: Shape (M,), int64, or None.
        transform: Takes a PIL image in RGB.

    Raises:
        TypeError: If ``transform`` cannot be called.
    """

    def __init__(
        self,
        root: str | Path,
        paths: "Sequence[str] | np.ndarray[Any, Any]",
        labels: Tensor,
        indices: Tensor | None = None,
        clean_labels: Tensor | None = None,
        transform: Transform | None = None,
    ) -> None:
        super().__init__(labels, indices, clean_labels)
        self.root = Path(root)
        self.paths = packed_paths(paths) if not isinstance(paths, np.ndarray) else paths
        remedy = "Pass a function or a module."
        self.transform = check_callable("ImageFileDataset", "transform", transform, remedy=remedy)

    def path(self, index: int) -> Path:
        """Return where the image of a sample lies."""
        return self.root / os.fsdecode(self.paths[int(self.indices[index])])

    @override
    def __getitem__(self, index: int) -> tuple[Any, int]:
        from torchvision.datasets.folder import default_loader

        image = default_loader(str(self.path(index)))
        return (
            image if self.transform is None else self.transform(image),
            int(self.labels[index]),
        )


def packed_paths(paths: Sequence[str]) -> "np.ndarray[Any, Any]":
    """Pack paths into one array.

    A list of a million strings is copied, page by page, into every forked worker as its reference
    counts are touched; one array is shared.
    """
    return np.array([os.fsencode(path) for path in paths], dtype=np.bytes_)
