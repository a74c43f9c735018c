"""The search behind :func:`~lightning_alignprune.functional.optimal_cuts`.

Legend: ``k`` groups, ``n`` finite scores in ascending order. A *position* p cuts the sorted scores
into [0, p) and [p, n); a *block* is a run of positions that may hold a cut.

How it works. With prefix sums the cost of any group is known in constant time, so the best cuts
among a few hundred positions come from a small dynamic programme. The search starts with coarse
positions and then looks only where an optimal cut can still be. Two arguments exclude the rest:

- A bound. Moving a cut from the inside of a block to the better of its two ends raises the cost by
  at most ``2 * D * gap``, with ``D <= n_b * h / 4`` for a block of n_b scores that spans h, and
  ``gap`` the distance of the two centres beside the cut (collapse the block to its mean: the cost
  is then concave in the share that goes left, so an end is best).
- A squeeze. An optimal cut separates the scores below the midpoint of the two means beside it from
  those above. If the cuts are known to be at or above some positions, then the means and the
  midpoints are at or above those of the positions, which may exclude more; the same from above.

The refinement ends when no surviving block spans more than one value, and then nothing can be
better.
"""

import math

import torch
from torch import Tensor

from lightning_alignprune.functional.grouping._sorted_sums import ROUNDING, Bounds, Sums

_PARTS = 64  # parts a layer is split into per round: small matrices, few rounds
_TOO_SLOW = 0.995  # a squeeze that leaves a larger share gains less than a round of the search


class Layer:
    """Where one of the cuts may still be: disjoint ascending blocks, and their ends."""

    def __init__(self, low: Tensor, high: Tensor) -> None:
        self.low, self.high = low, high
        self.ends: Tensor = torch.unique(torch.cat([low, high]))

    def spans(self, values: Tensor) -> Tensor:
        return values[self.high - 1].double() - values[self.low].double()

    def within(self, low: int, high: int) -> "Layer":
        """Cut off what is below one position or above another."""
        stays = (self.high >= low) & (self.low <= high)
        return Layer(self.low[stays].clamp(min=low), self.high[stays].clamp(max=high))

    def refined(self, values: Tensor) -> "Layer":
        """Split each block that spans more than one value, by count and by value."""
        spans = self.spans(values)
        splits = spans > 0
        if not bool(splits.any()):
            return self
        low, high, spans = self.low[splits], self.high[splits], spans[splits]
        num = max(2, _PARTS // len(low))
        share = torch.arange(1, num, dtype=torch.float64) / num
        by_count = low.unsqueeze(1) + ((high - low).unsqueeze(1) * share).long()
        by_value = values[low].unsqueeze(1) + spans.unsqueeze(1) * share
        by_value = torch.searchsorted(values, by_value.flatten().to(values.dtype))
        ends: Tensor = torch.unique(torch.cat([self.ends, by_count.flatten(), by_value]))
        # Two neighbouring ends make a block only inside a block of before.
        parent = torch.searchsorted(self.low, ends[:-1], right=True) - 1
        is_block = (parent >= 0) & (ends[:-1] < self.high[parent])
        return Layer(ends[:-1][is_block], ends[1:][is_block])


def optimal_positions(values: Tensor, num_groups: int) -> Tensor:
    """Return the k - 1 optimal positions in sorted values with at least k distinct ones."""
    sums = Sums(values)
    whole = Layer(torch.tensor([0]), torch.tensor([len(values)])).refined(values)
    layers = [whole] * (num_groups - 1)
    while True:
        through, best, positions = _solve(sums, layers)
        survivors, is_final = _surviving(sums, layers, through, best)
        if is_final:
            return positions
        layers = [layer.refined(values) for layer in _squeezed(sums, survivors)]


def _solve(sums: Sums, layers: list[Layer]) -> tuple[list[Tensor], float, Tensor]:
    """Give the least cost through each end of each layer, the least cost, and its positions."""
    marks = [sums.at(layer.ends) for layer in layers]
    first, last = sums.at(torch.tensor([0])), sums.at(torch.tensor([sums.num]))
    heads = [first.cost(marks[0])[0]]
    for j in range(1, len(marks)):
        heads.append(marks[j - 1].cheapest(marks[j], heads[-1]))
    tails = [marks[-1].cost(last)[:, 0]]
    for j in range(len(marks) - 1, 0, -1):
        tails.append(marks[j - 1].cheapest_after(marks[j], tails[-1]))
    through = [head + tail for head, tail in zip(heads, reversed(tails), strict=True)]
    chosen = last
    positions = []
    for head, starts in zip(reversed(heads), reversed(marks), strict=True):
        at = int((head + starts.cost(chosen)[:, 0]).argmin())
        chosen = starts.part(slice(at, at + 1))
        positions.append(chosen.position)
    return through, float(through[-1].min()), torch.cat(positions[::-1])


def _surviving(
    sums: Sums, layers: list[Layer], through: list[Tensor], best: float
) -> tuple[list[Layer], bool]:
    """Drop the blocks that cannot hold an optimal cut; say whether nothing is left to refine.

    Two bounds, the lower counts. One is that of the module's docstring, summed over the cuts. The
    other needs no gap: collapsing the cut blocks moves the data by at most sqrt(s), s their sum of
    squares, and the root of a k-means cost is a distance, so it moves by no more.
    """
    below, above = _hull(sums, layers)
    rises, squares = [], []
    for j, layer in enumerate(layers):
        gap = max(0.0, above.mean(j + 1) - below.mean(j))
        spans, count = layer.spans(sums.values), layer.high - layer.low
        rises.append(count * spans * (gap / 2))
        squares.append(count * spans.square() / 4)
    most_rise = [float(rise.max()) for rise in rises]
    most_square = [float(square.max()) for square in squares]
    if not any(most_square):
        return layers, True
    survivors = []
    for j, layer in enumerate(layers):
        by_rise = best + (sum(most_rise) - most_rise[j]) + rises[j]
        square = (sum(most_square) - most_square[j]) + squares[j]
        by_distance = (best**0.5 + square.sqrt()).square() + square
        limit = torch.minimum(by_rise, by_distance) * (1 + ROUNDING)
        low = through[j][torch.searchsorted(layer.ends, layer.low)]
        high = through[j][torch.searchsorted(layer.ends, layer.high)]
        stays = torch.minimum(low, high) <= limit
        survivors.append(Layer(layer.low[stays], layer.high[stays]))
    return survivors, False


def _hull(sums: Sums, layers: list[Layer]) -> tuple[Bounds, Bounds]:
    low = Bounds(sums, [int(layer.ends[0]) for layer in layers], -1)
    return low, Bounds(sums, [int(layer.ends[-1]) for layer in layers], 1)


def _squeezed(sums: Sums, layers: list[Layer]) -> list[Layer]:
    """Narrow the layers to what the bounds of the midpoints leave, for as long as that pays."""
    low, high = _hull(sums, layers)
    width, left = math.inf, sum(high.ends) - sum(low.ends)
    while 0 < left <= _TOO_SLOW * width:
        low.tighten(high)
        high.tighten(low)
        width, left = left, sum(high.ends) - sum(low.ends)
    narrowed = [
        layer.within(start, stop)
        for layer, start, stop in zip(layers, low.ends[1:-1], high.ends[1:-1], strict=True)
    ]
    return narrowed if all(len(layer.low) for layer in narrowed) else layers
