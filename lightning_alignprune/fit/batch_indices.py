"""`BatchIndices`: which samples the rows of a batch are, as the batch itself says.

Legend: ``R`` rows of a batch. Several rows may be of one sample, and samples may be missing.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from lightning_alignprune._checks import shape_of
from lightning_alignprune.state.shard import Shard
from lightning_alignprune.trainer_access.errors import refusal

_PUT_IT_THERE = (
    "Let the dataset return the index that its __getitem__ was called with beside the sample, and "
    "collate_fn and training_step pass it on."
)


class BatchIndices:
    """Read the indices that the user's dataset put into each batch.

    Args:
        key: Where they are: a key or attribute of the batch, or a position in it.
        shard: The samples whose losses are kept here.
    """

    def __init__(self, key: str | int, shard: Shard) -> None:
        self.key = key
        self._shard = shard

    def __str__(self) -> str:
        """Name the place, for messages."""
        return f"batch[{self.key!r}]"

    def positions(self, batch: Any, drawn: Tensor, device: torch.device, is_first: bool) -> Tensor:
        """Return where the samples of a batch's rows stand among those whose losses are kept.

        Args:
            batch: The batch, as the step gets it.
            drawn: The samples that the sampler drew for it, int64, on the CPU.
            device: Where losses are kept.
            is_first: Whether to compare with ``drawn`` even if that takes a host wait. Indices in
                host memory are always compared.

        Returns:
            Shape (R,), int64, on ``device``.

        Raises:
            MisconfigurationException: If there is nothing, no vector of integers, or a sample that
                was not drawn for this batch.
        """
        indices = self.read(batch)
        if is_first or indices.device.type == "cpu":
            self._check_drawn(indices.cpu(), drawn)
        return self._shard.positions_of(indices.to(device, torch.int64))

    def read(self, batch: Any) -> Tensor:
        """Return the indices of a batch as they are there, integers of shape (R,).

        Raises:
            MisconfigurationException: If there is nothing, or no vector of integers.
        """
        return self._indices(self._found(batch))

    def check_rows(self, batch: Any) -> None:
        """Refuse a batch whose tensors have other numbers of rows than it has indices.

        Raises:
            MisconfigurationException: With both numbers.
        """
        num_rows = len(self.read(batch))
        leaves = [leaf for leaf in tree_leaves(_parts(batch)) if isinstance(leaf, Tensor)]
        others = sorted({len(leaf) for leaf in leaves if leaf.ndim} - {num_rows})
        if others:
            raise refusal(
                f"{self} to have an index for each row of the loss",
                f"{num_rows} indices beside tensors of {' and '.join(map(str, others))} rows",
                "Repeat a sample's index for each of its rows, in the order of the rows.",
            )

    def _found(self, batch: Any) -> Any:
        key = self.key
        if isinstance(batch, Mapping):
            if key in batch:
                return batch[key]
        elif isinstance(key, int):
            is_sequence = isinstance(batch, Sequence) and not isinstance(batch, str)
            if is_sequence and -len(batch) <= key < len(batch):
                return batch[key]
        else:
            found = getattr(batch, key, None)
            if found is not None and not callable(found):  # every tuple has a method `index`
                return found
        raise refusal(
            f"the samples' indices in {self}, as sample_index={key!r} says",
            _described(batch),
            _PUT_IT_THERE,
        )

    def _indices(self, found: Any) -> Tensor:
        try:
            indices = torch.as_tensor(found)
        except (TypeError, ValueError, RuntimeError):
            indices = None
        is_integer = indices is not None and not (
            indices.is_floating_point() or indices.is_complex() or indices.dtype == torch.bool
        )
        if indices is None or not is_integer or indices.ndim != 1:
            raise refusal(
                f"{self} to be integers of shape (R,), the index of each row's sample",
                shape_of(found),
                _PUT_IT_THERE,
            )
        return indices

    def _check_drawn(self, indices: Tensor, drawn: Tensor) -> None:
        strange = set(indices.tolist()) - set(drawn.tolist())  # faster than torch.isin
        if strange:
            raise refusal(
                f"{self} to hold indices among the {len(drawn)} that the train loader's dataset "
                "was asked for in this batch",
                f"{min(strange)}, which is not one of them",
                "Where a Subset or ConcatDataset is around your dataset, its own indices are "
                "others: add the index in a dataset around all of them. A batch may hold no "
                "samples of other batches.",
            )


def _parts(batch: Any) -> Any:
    """Return a batch as something whose tensors can be listed."""
    if isinstance(batch, (Mapping, Sequence)):
        return dict(batch) if isinstance(batch, Mapping) else list(batch)
    return getattr(batch, "__dict__", batch)


def _described(batch: Any) -> str:
    """Say what a batch has, in a few words."""
    name = type(batch).__name__
    if isinstance(batch, Tensor):
        return f"one tensor of shape {tuple(batch.shape)}"
    if isinstance(batch, Mapping):
        return f"a {name} with the keys {', '.join(map(repr, list(batch)[:12])) or 'none'}"
    if isinstance(batch, Sequence) and not isinstance(batch, str):
        return f"a {name} of {len(batch)} items"
    names = [key for key in getattr(batch, "__dict__", {}) if not key.startswith("_")]
    return f"a {name} with the attributes {', '.join(names[:12]) or 'none that can be listed'}"
