"""How many scores lie below a threshold, and their sums: all that the search for cuts looks at.

Legend: ``n`` scores on this rank, ``M`` thresholds.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_alignprune.functional._ordering import from_keys, kth_smallest, ordered_keys
from lightning_alignprune.functional.selection import AllReduce

Array = NDArray[Any]  # torch would spread the search over threads, slow where the cores are busy


class ScoreSums:
    """Count, sum and sum of squares of all ranks' finite scores below any threshold.

    A threshold is a *key*, an integer that sorts as the floats do. The sums run outward from the
    median, negative towards the low end: an outlier spoils the precision only of the groups that
    hold it.

    Args:
        scores: Shape (n,), this rank's share.
        all_reduce: Sums a tensor over ranks; None if one process holds all scores.

    Attributes:
        scores: This rank's finite scores, ascending, float32 or float64.
        num: How many finite scores all ranks have. With fewer than two there are no sums.
    """

    def __init__(self, scores: Tensor, all_reduce: AllReduce | None) -> None:
        self.all_reduce: Callable[[Tensor], Tensor] = all_reduce or (lambda total: total)
        self.scores = _sorted_finite(scores)
        self.num = int(self.all_reduce(torch.tensor(len(self.scores))))
        if self.num < 2:
            return
        half = self.num // 2
        if all_reduce is None:
            self.centre = float(self.scores[half - 1])
        else:
            median = kth_smallest(ordered_keys(self.scores).long(), half, all_reduce)
            self.centre = float(self.values(np.array([median]))[0])
        array = self.scores.numpy()
        middle = int(array.searchsorted(array.dtype.type(self.centre)))
        x = array - np.float64(self.centre)
        self.sums = _outward(x, middle)
        self.squares = _outward(np.square(x, out=x), middle)

    def below(self, thresholds: Array) -> Array:
        """Count, sum and sum of squares below each threshold, shape (3, M): one collective."""
        array = self.scores.numpy()
        at = array.searchsorted(self.values(thresholds).astype(array.dtype))
        here = torch.from_numpy(np.stack([at, self.sums[at], self.squares[at]]))
        return self.all_reduce(here).numpy()

    def values(self, keys: Array) -> Array:
        """Return the scores that keys stand for, as float64."""
        return from_keys(torch.from_numpy(keys), self.scores.dtype).double().numpy()

    def keys(self, values: Array) -> Array:
        """Return the keys of values, int64; -0.0 counts as 0.0."""
        rounded = torch.from_numpy(values).to(self.scores.dtype) + 0.0
        return ordered_keys(rounded).long().numpy()


def _sorted_finite(scores: Tensor) -> Tensor:
    values = scores.detach().cpu()
    # A copy, and -0.0 becomes 0.0. NumPy sorts many times as fast as torch.
    values = (values if values.dtype == torch.float64 else values.float()) + 0.0
    array = values.numpy()
    array.sort()  # NaN last
    infinity = array.dtype.type(math.inf)  # of the array's type: of another, all would be converted
    return values[array.searchsorted(-infinity, "right") : array.searchsorted(infinity)]


def _outward(x: Array, middle: int) -> Array:
    return np.concatenate([-x[:middle][::-1].cumsum()[::-1], [0.0], x[middle:].cumsum()])
