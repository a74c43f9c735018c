"""`SampleTable`: a row of numbers for each training sample, which steps change and ranks share.

State only: no Trainer. Legend: ``N`` samples, ``W`` numbers each, ``B`` samples of a batch.
"""

import torch
from torch import Tensor


class SampleTable:
    """Rows of a loss that learns something of each sample.

    It notes which rows were changed. In an epoch a sample is trained by one rank, which has its
    row then: the ranks' tables are put together by the rows that each has changed.

    Args:
        rows: Shape (N, W), float32. What the rows begin with.

    Example:
        >>> table = SampleTable(torch.zeros(3, 1))
        >>> table.write(torch.tensor([2]), torch.tensor([[5.0]]))
        >>> table.changes()
        (tensor([2]), tensor([[5.]]))

    Note:
        4 N W bytes, and one for each sample. Reading and writing never waits for the device.
    """

    def __init__(self, rows: Tensor) -> None:
        self.rows = rows
        self._is_changed = torch.zeros(len(rows), dtype=torch.bool, device=rows.device)

    def read(self, indices: Tensor) -> Tensor:
        """Return the rows of a batch, shape (B, W), a copy on the device of ``indices``."""
        if self.rows.device != indices.device:  # once: the network has been moved since
            self.rows = self.rows.to(indices.device)
            self._is_changed = self._is_changed.to(indices.device)
        return self.rows[indices]

    def write(self, indices: Tensor, rows: Tensor) -> None:
        """Replace the rows of a batch after :meth:`read`; of a sample that is twice in it, one."""
        self.rows.index_copy_(0, indices, rows)
        self._is_changed.index_fill_(0, indices, True)

    def add(self, indices: Tensor, changes: Tensor) -> None:
        """Add to the rows of a batch after :meth:`read`; a sample that is twice in it gets both."""
        self.rows.index_add_(0, indices, changes)
        self._is_changed.index_fill_(0, indices, True)

    def changes(self) -> tuple[Tensor, Tensor]:
        """Return which samples' rows were changed since the ranks last agreed, and these rows."""
        indices = self._is_changed.nonzero().squeeze(1)
        return indices, self.rows[indices]

    def agree(self, indices: Tensor, rows: Tensor) -> None:
        """Take over the changes of all ranks, in place.

        Args:
            indices: Shape (K,), int64. The samples that any rank has changed.
            rows: Shape (K, W). A sample that several ranks trained, as small sets repeat some to
                give each rank as many, gets the mean of theirs.
        """
        indices, rows = indices.to(self.rows.device), rows.to(self.rows.device)
        samples, place, counts = torch.unique(indices, return_inverse=True, return_counts=True)
        totals = torch.zeros_like(self.rows[samples]).index_add_(0, place, rows)
        self.rows.index_copy_(0, samples, totals / counts.unsqueeze(1))
        self._is_changed.zero_()

    def load(self, rows: Tensor) -> None:
        """Take over saved rows, in place.

        Raises:
            ValueError: If they are of another number of samples or another width.
        """
        if rows.shape != self.rows.shape:
            raise ValueError(
                f"SampleTable: expected rows of shape {tuple(self.rows.shape)}, got "
                f"{tuple(rows.shape)}. Was it saved for another training set?"
            )
        self.rows.copy_(rows)
        self._is_changed.zero_()
