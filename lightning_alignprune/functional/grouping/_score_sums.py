"""How many scores lie below a threshold, and their sums: all that the search for cuts looks at.

Legend: ``n`` scores on this rank, ``M`` thresholds.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from lightning_alignprune.functional._ordering import from_keys, kth_smallest, ordered_keys
from lightning_alignprune.functional.selection import AllReduce


class ScoreSums:
    """Count, sum and sum of squares of all ranks' finite scores below any threshold.

    A threshold is a *key*, an integer that sorts as the floats do. The sums run outward from the
    median, negative towards the low end: an outlier spoils the precision only of the groups that
    hold it.

    Args:
        scores: Shape (n,), this rank's share.
        all_reduce: Sums a tensor over ranks; None if one process holds all scores.

    Attributes:
        values: This rank's finite scores, ascending, float32 or float64.
        num: How many finite scores all ranks have. With fewer than two there are no sums.
    """

    def __init__(self, scores: Tensor, all_reduce: AllReduce | None) -> None:
        self.all_reduce: Callable[[Tensor], Tensor] = all_reduce or (lambda total: total)
        self.values = _sorted_finite(scores)
        self.dtype = self.values.dtype
        self.num = int(self.all_reduce(torch.tensor(len(self.values))))
        if self.num < 2:
            return
        keys = ordered_keys(self.values).long()
        median = torch.tensor(kth_smallest(keys, self.num // 2, all_reduce))
        self.centre = float(from_keys(median, self.dtype))
        middle = int(torch.searchsorted(keys, median))
        x = self.values.double() - self.centre
        self.sums = _outward(x, middle)
        self.squares = _outward(x.square_(), middle)

    def below(self, thresholds: Tensor) -> Tensor:
        """Count, sum and sum of squares below each threshold, shape (3, M): one collective."""
        at = torch.searchsorted(self.values, self.value(thresholds))
        total: Tensor = self.all_reduce(torch.stack([at.double(), self.sums[at], self.squares[at]]))
        return total

    def value(self, keys: Tensor) -> Tensor:
        """Return the scores that the keys stand for."""
        return from_keys(keys, self.dtype)


def _sorted_finite(scores: Tensor) -> Tensor:
    values = scores.detach().cpu()
    # A copy, and -0.0 becomes 0.0. NumPy sorts many times as fast as torch.
    values = (values if values.dtype == torch.float64 else values.float()) + 0.0
    array = values.numpy()
    array.sort()  # NaN last
    infinity = array.dtype.type(math.inf)  # of the array's type: of another, all would be converted
    return values[array.searchsorted(-infinity, "right") : array.searchsorted(infinity)]


def _outward(x: Tensor, middle: int) -> Tensor:
    left, right = x[:middle].flip(0).cumsum(0).flip(0).neg_(), x[middle:].cumsum(0)
    return torch.cat([left, x.new_zeros(1), right])
