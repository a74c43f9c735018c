"""`RowMeans`: each sample's mean over the rows that it had in the running epoch.

State only: knows nothing of Lightning. Legend: ``N`` samples, ``R`` rows.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from typing_extensions import Self


class RowMeans:
    """Add up the losses of each sample's rows: several crops, or one drawn several times.

    Sums of float32 losses are kept in float64 (in float32 where the device has none), so that the
    order in which rows and ranks are added does not show.

    Args:
        num_samples: N.
        device: Where the sums live.

    Attributes:
        sums: Shape (N,). Infinite where a loss was NaN or infinite.
        counts: Shape (N,), float32. Rows that were observed.

    Example:
        >>> means = RowMeans(num_samples=3)
        >>> means.add(torch.tensor([0, 2, 0]), torch.tensor([1.0, 5.0, 2.0])).tolist()
        [1.5, 5.0, 1.5]
        >>> means.values().tolist()
        [1.5, nan, 5.0]

    Note:
        Memory: 12 bytes per sample. No host wait.
    """

    def __init__(self, num_samples: int, device: torch.device | str = "cpu") -> None:
        dtype = torch.float32 if torch.device(device).type == "mps" else torch.float64
        self.sums = torch.zeros(num_samples, dtype=dtype, device=device)
        self.counts = torch.zeros(num_samples, device=device)

    def add(self, indices: Tensor, losses: Tensor) -> Tensor:
        """Take in rows; return the means so far of their samples.

        Args:
            indices: Shape (R,), int64, in any order, with repetitions.
            losses: Shape (R,), float32. NaN means "not observed".

        Returns:
            Shape (R,), float32. NaN for a sample of which no row was observed.
        """
        seen = losses == losses  # noqa: PLR0124  # one kernel less than ~isnan
        added = losses.nan_to_num(0.0, torch.inf, torch.inf)  # inf - inf would say nothing
        self.sums.index_add_(0, indices, added.to(self.sums.dtype))
        self.counts.index_add_(0, indices, seen.to(self.counts.dtype))
        return self._means(self.sums.index_select(0, indices), self.counts.index_select(0, indices))

    def values(self) -> Tensor:
        """Return every sample's mean, shape (N,), float32; NaN where no row was observed."""
        return self._means(self.sums, self.counts)

    @staticmethod
    def _means(sums: Tensor, counts: Tensor) -> Tensor:
        return (sums / counts).float()  # 0 / 0 is NaN

    def clear(self) -> None:
        """Forget the rows of an epoch."""
        self.sums.zero_()
        self.counts.zero_()

    def merged(self, all_reduce: Callable[[Tensor], Tensor]) -> Self:
        """Return the sums of all ranks: two collectives."""
        new = type(self)(0, self.sums.device)
        new.sums, new.counts = all_reduce(self.sums), all_reduce(self.counts)
        return new

    def state_dict(self) -> dict[str, Any]:
        """Return copies of both tensors."""
        return {"sums": self.sums.clone(), "counts": self.counts.clone()}

    def load_state_dict(self, state: dict[str, Any] | None, running: Tensor) -> None:
        """Take over a saved state; without one, count each loss of a running row as one row."""
        if state is None:
            seen = ~running.isnan()
            state = {"sums": running.masked_fill(~seen, 0), "counts": seen}
        self.sums.copy_(state["sums"])
        self.counts.copy_(state["counts"])
