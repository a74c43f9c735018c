"""`TrajectoryView`: the recorded epochs that a score looks at. Legend: ``N``, ``n``, ``T``."""

from collections.abc import Callable, Sequence
from functools import reduce

import torch
from torch import Tensor


def later_loss(older: Tensor | None, newer: Tensor | None) -> Tensor | None:
    """Take the newer loss where there is one; the result is never a row of the bank itself."""
    if older is None or newer is None:
        return older if newer is None else newer.to(torch.float32, copy=True)
    return torch.where(newer.isnan(), older, newer.float())


class TrajectoryView:
    """The recorded epochs that a score looks at; nothing is copied.

    Attributes:
        rows: One tensor of shape (N,) per epoch, oldest first, in the storage dtype.
        epochs: The epochs of the rows.
        reference: Shape (T,), float32. Reference loss after each of these epochs; NaN if none.
        reference_rows: One tensor of shape (n,) per epoch, float32: the losses of the reference
            samples in mid-epoch; None where they were not recorded.
    """

    def __init__(
        self,
        rows: list[Tensor],
        epochs: list[int],
        reference: Tensor,
        older: Sequence[Tensor | None],
        empty: Callable[[], Tensor],
        reference_rows: Sequence[Tensor | None] = (),
    ) -> None:
        self.rows, self.epochs, self.reference = rows, epochs, reference
        self.reference_rows = list(reference_rows)
        self._older, self._empty = older, empty

    @property
    def before(self) -> Tensor:
        """Each sample's last loss before the first row, shape (N,), float32; NaN where none."""
        last = reduce(later_loss, self._older)
        return self._empty() if last is None else last
