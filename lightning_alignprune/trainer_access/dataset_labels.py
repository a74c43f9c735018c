"""Class labels of a dataset, read without loading its samples."""

from typing import Any

import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset, Subset, TensorDataset


def labels_of(dataset: Dataset[Any], indices: Tensor) -> Tensor | None:
    """Return the class labels of some samples, on the device of the indices, as far as known."""
    labels = read_labels(dataset)
    return None if labels is None else labels.to(indices.device)[indices]


def read_labels(dataset: Dataset[Any]) -> Tensor | None:
    """Return the class labels of a dataset without loading its samples, shape (N,), or None.

    Example:
        >>> data = TensorDataset(torch.zeros(3, 2), torch.tensor([0, 2, 1]))
        >>> read_labels(Subset(data, [1, 2])).tolist()
        [2, 1]
    """
    for name in ("targets", "labels"):  # also a subset's own, such as noisy ones
        labels = _as_labels(getattr(dataset, name, None), dataset)
        if labels is not None:
            return labels
    if isinstance(dataset, Subset):
        labels = read_labels(dataset.dataset)
        indices = torch.as_tensor(dataset.indices, dtype=torch.int64)
        return None if labels is None else labels[indices]
    if isinstance(dataset, ConcatDataset):
        parts = [read_labels(part) for part in dataset.datasets]
        whole = [part for part in parts if part is not None]
        return torch.cat(whole) if len(whole) == len(parts) else None
    if isinstance(dataset, TensorDataset) and len(dataset.tensors) == 2:  # a third may be anything
        return _as_labels(dataset.tensors[1], dataset)
    return None


def _as_labels(found: Any, dataset: Any) -> Tensor | None:
    try:
        labels = torch.as_tensor(found)
    except (TypeError, ValueError, RuntimeError):
        return None
    if labels.ndim != 1 or labels.is_floating_point() or len(labels) != len(dataset):
        return None
    # As many classes as samples are not classes, but numbers of the samples.
    is_class = len(labels) < 10 or len(torch.unique(labels)) <= len(labels) // 2
    return labels.long() if is_class else None
