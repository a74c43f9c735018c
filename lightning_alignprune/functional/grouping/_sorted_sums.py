"""Sums, costs and means of runs of sorted scores, for the search in ``_cut_search``.

A *position* p cuts the sorted scores into [0, p) and [p, n).
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

_MAX_MATRIX = 1 << 22
_RUN = 64  # scores between two stored prefix sums
_CHUNK_RUNS = 1 << 8  # temporaries stay in the cache, and below what torch hands to threads
ROUNDING = 1e-12  # of a sum, relative


class Marks(NamedTuple):
    """Positions, and the sums of the scores (less a constant) and of their squares before them."""

    position: Tensor
    first: Tensor
    second: Tensor

    def part(self, part: slice) -> "Marks":
        return Marks(self.position[part], self.first[part], self.second[part])

    def cost(self, stop: "Marks") -> Tensor:
        """Sum of squares around the mean of each [start, stop); inf where it runs backwards."""
        count = stop.position - self.position.unsqueeze(1)
        first = stop.first - self.first.unsqueeze(1)
        cost = stop.second - self.second.unsqueeze(1)
        cost.addcdiv_(first.square_(), count.clamp(min=1), value=-1.0).clamp_(min=0.0)
        return cost.masked_fill_(count < 0, torch.inf)

    def cheapest(self, stops: "Marks", heads: Tensor) -> Tensor:
        """Minimum over starts of ``head + cost(start, stop)``, for every stop."""
        rows = max(1, _MAX_MATRIX // len(stops.first))
        best = torch.full_like(stops.first, torch.inf)
        for at in range(0, len(heads), rows):
            part = slice(at, at + rows)
            cost = self.part(part).cost(stops).add_(heads[part].unsqueeze(1))
            best = torch.minimum(best, cost.amin(0))
        return best

    def cheapest_after(self, stops: "Marks", tails: Tensor) -> Tensor:
        """Minimum over stops of ``cost(start, stop) + tail``, for every start."""
        rows = max(1, _MAX_MATRIX // len(tails))
        parts = [slice(at, at + rows) for at in range(0, len(self.first), rows)]
        return torch.cat([self.part(part).cost(stops).add_(tails).amin(1) for part in parts])


class Sums:
    """Sums over any run of the sorted scores: stored at every 64th position, completed on demand.

    The sums run outward from the median, so that an outlier at either end spoils the precision only
    of groups that hold it.
    """

    def __init__(self, values: Tensor) -> None:
        self.values, self.num = values, len(values)
        self.run = _RUN if self.num >= _RUN**2 else 1
        self.centre = float(values[self.num // 2])
        num_runs = self.num // self.run
        self.middle = num_runs // 2 * self.run
        first = torch.empty(num_runs, dtype=torch.float64)
        second = torch.empty_like(first)
        for at in range(0, num_runs, _CHUNK_RUNS):
            stop = min(at + _CHUNK_RUNS, num_runs)
            x = values[at * self.run : stop * self.run].to(torch.float64, copy=True)
            x = x.sub_(self.centre).view(-1, self.run)
            first[at:stop] = x.sum(1)
            second[at:stop] = x.square_().sum(1)
        self.first, self.second = self._outward(first), self._outward(second)
        # For single numbers: many times as fast as indexing a tensor, and as Python floats.
        self._scores, self._sums = values.numpy().data, self.first.numpy().data

    @staticmethod
    def _outward(x: Tensor) -> Tensor:
        middle = len(x) // 2
        left = x[:middle].flip(0).cumsum(0).flip(0).neg_()
        return torch.cat([left, x.new_zeros(1), x[middle:].cumsum(0)])

    def at(self, positions: Tensor) -> Marks:
        """Add the scores between each position and the next stored sum towards the median."""
        is_right = positions >= self.middle
        stored = torch.where(is_right, positions, positions + (self.run - 1)) // self.run
        edge = stored * self.run
        columns = torch.minimum(positions, edge).unsqueeze(1) + torch.arange(self.run)
        # NumPy's gather: torch would hand so few numbers to its threads, at many times the cost.
        taken = torch.from_numpy(self.values.numpy().take(columns.numpy(), mode="clip"))
        x = taken.to(torch.float64, copy=True).sub_(self.centre)
        x.masked_fill_(columns >= torch.maximum(positions, edge).unsqueeze(1), 0.0)
        sign = is_right.double().mul_(2.0).sub_(1.0)
        first = self.first[stored] + sign * x.sum(1)
        return Marks(positions, first, self.second[stored] + sign * x.square_().sum(1))

    def before(self, position: int) -> float:
        """Do what ``at`` does, for one position and its first sum only."""
        if position >= self.middle:
            stored = position // self.run
            rest = self._scores[stored * self.run : position]
            return self._sums[stored] + sum([x - self.centre for x in rest])
        stored = -(-position // self.run)
        rest = self._scores[position : stored * self.run]
        return self._sums[stored] - sum([x - self.centre for x in rest])

    def position(self, value: float, start: int, stop: int) -> int:
        """Count the scores below a value, of which at least start and at most stop are."""
        while start < stop:
            middle = (start + stop) // 2
            if self._scores[middle] < value:
                start = middle + 1
            else:
                stop = middle
        return start


class Bounds:
    """Bounds of the cuts from one side, and the bounds of the groups' means that follow.

    A group's mean rises when either of its ends moves up.

    Args:
        sums: The sums.
        cuts: The lowest, or the highest, position of each cut.
        sign: -1 for the lowest positions, 1 for the highest.
    """

    def __init__(self, sums: Sums, cuts: list[int], sign: int) -> None:
        self.sums, self.sign = sums, sign
        self.ends = [0, *cuts, sums.num]
        self.before = [sums.before(end) for end in self.ends]

    def mean(self, group: int) -> float:
        """Bound the mean of a group, less the centre."""
        count = self.ends[group + 1] - self.ends[group]
        if count <= 0:  # the score beside the ends is a bound
            beside = self.ends[group + 1] - 1 if self.sign > 0 else self.ends[group]
            return (
                self.sums.values[min(max(beside, 0), self.sums.num - 1)].item() - self.sums.centre
            )
        first, second = self.before[group], self.before[group + 1]
        return (second - first + self.sign * ROUNDING * (abs(first) + abs(second))) / count

    def tighten(self, others: "Bounds") -> None:
        """Move each cut's bound to the midpoint of the bounds of the means beside it."""
        for cut in range(1, len(self.ends) - 1):
            middle = (self.mean(cut - 1) + self.mean(cut)) / 2 + self.sums.centre
            value = math.nextafter(middle, self.sign * math.inf)
            start, stop = sorted((self.ends[cut], others.ends[cut]))
            self.ends[cut] = self.sums.position(value, start, stop)
            self.before[cut] = self.sums.before(self.ends[cut])
