"""The search behind :func:`~lightning_alignprune.functional.optimal_cuts`.

Legend: ``k`` groups, ``n`` finite scores in ascending order. A *position* p cuts the sorted scores
into [0, p) and [p, n); a *block* is a run of positions that may hold a cut.

How it works. With prefix sums the cost of any group is known in constant time, so the best cuts
among a few hundred positions come from a small dynamic programme. The search starts with coarse
positions and refines only blocks that can still hold an optimal cut. That is decided by a bound:
moving a cut from the inside of a block to the better of its two ends raises the cost by at most
``2 * D * gap``, with ``D <= n_b * h / 4`` for a block of n_b scores that spans h, and ``gap`` the
distance of the two centres beside the cut (collapse the block to its mean: the cost is then concave
in the share that goes left, so an end is best). The refinement ends when no surviving block spans
more than one value, and then nothing can be better.
"""

import torch
from torch import Tensor

_PARTS = 64  # parts a layer is split into per round: small matrices, few rounds
_MAX_MATRIX = 1 << 22
_ROUNDING = 1e-12


class Sums:
    """Cost of any run of the sorted scores in constant time.

    The sums run outward from the median, so that an outlier at either end spoils the precision only
    of groups that hold it.
    """

    def __init__(self, values: Tensor) -> None:
        self.values, self.num = values, len(values)
        middle = self.num // 2
        self.centre = float(values[middle])
        x = values.to(torch.float64, copy=True).sub_(self.centre)
        self.first = self._outward(x, middle)
        self.second = self._outward(x.square_(), middle)

    @staticmethod
    def _outward(x: Tensor, middle: int) -> Tensor:
        # Through NumPy's view of the same memory: it has negative strides, torch would copy.
        sums = torch.empty(len(x) + 1, dtype=torch.float64)
        out, numbers = sums.numpy(), x.numpy()
        out[middle] = 0.0
        numbers[middle:].cumsum(out=out[middle + 1 :])
        numbers[:middle][::-1].cumsum(out=out[:middle][::-1])
        sums[:middle].neg_()
        return sums

    def cost(self, start: Tensor, stop: Tensor) -> Tensor:
        """Sum of squares around the mean of [start, stop); inf where the run is backwards."""
        count = stop - start
        first = self.first[stop] - self.first[start]
        cost = self.second[stop] - self.second[start]
        cost.addcdiv_(first.square_(), count.clamp(min=1), value=-1.0).clamp_(min=0.0)
        return cost.masked_fill_(count < 0, torch.inf)

    def mean(self, start: int, stop: int) -> float:
        total = float(self.first[stop] - self.first[start])
        return self.centre + total / (stop - start)

    def cheapest(self, head: Tensor, starts: Tensor, stops: Tensor) -> tuple[Tensor, Tensor]:
        """Minimum and argmin over starts of ``head + cost(start, stop)``, for every stop."""
        best = torch.full(stops.shape, torch.inf, dtype=torch.float64)
        arg = torch.zeros_like(stops)
        rows = max(1, _MAX_MATRIX // len(stops))
        for at in range(0, len(starts), rows):
            part = slice(at, at + rows)
            cost = self.cost(starts[part].unsqueeze(1), stops.unsqueeze(0))
            here, where = cost.add_(head[part].unsqueeze(1)).min(0)
            arg = torch.where(here < best, where + at, arg)
            best = torch.minimum(best, here)
        return best, arg

    def cheapest_after(self, starts: Tensor, stops: Tensor, tail: Tensor) -> Tensor:
        """Minimum over stops of ``cost(start, stop) + tail``, for every start."""
        rows = max(1, _MAX_MATRIX // len(stops))
        parts = [starts[at : at + rows] for at in range(0, len(starts), rows)]
        return torch.cat(
            [(self.cost(part.unsqueeze(1), stops.unsqueeze(0)) + tail).amin(1) for part in parts]
        )


class Layer:
    """Where one of the cuts may still be: disjoint ascending blocks, and their ends."""

    def __init__(self, low: Tensor, high: Tensor) -> None:
        self.low, self.high = low, high
        self.ends: Tensor = torch.unique(torch.cat([low, high]))

    def spans(self, values: Tensor) -> Tensor:
        return (values[self.high - 1] - values[self.low]).double()

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
    """Return the k - 1 optimal positions in sorted values with more than k distinct ones."""
    sums = Sums(values)
    whole = Layer(torch.tensor([0]), torch.tensor([len(values)])).refined(values)
    layers = [whole] * (num_groups - 1)
    while True:
        through, best, positions = _solve(sums, layers)
        survivors, is_final = _surviving(sums, layers, through, best)
        if is_final:
            return positions
        layers = [layer.refined(values) for layer in survivors]


def _solve(sums: Sums, layers: list[Layer]) -> tuple[list[Tensor], float, Tensor]:
    """Give the least cost through each end of each layer, the least cost, and its positions."""
    first, last = torch.tensor([0]), torch.tensor([sums.num])
    heads = [sums.cost(first, layers[0].ends)]
    froms: list[Tensor] = []
    for following in range(1, len(layers)):
        starts, stops = layers[following - 1].ends, layers[following].ends
        head, arg = sums.cheapest(heads[-1], starts, stops)
        heads.append(head)
        froms.append(arg)
    tails = [sums.cost(layers[-1].ends, last)]
    for following in range(len(layers) - 1, 0, -1):
        starts, stops = layers[following - 1].ends, layers[following].ends
        tails.append(sums.cheapest_after(starts, stops, tails[-1]))
    through = [head + tail for head, tail in zip(heads, reversed(tails), strict=True)]
    at = int(through[-1].argmin())
    best = float(through[-1][at])
    positions = [layers[-1].ends[at]]
    for layer, arg in zip(reversed(layers[:-1]), reversed(froms), strict=True):
        at = int(arg[at])
        positions.append(layer.ends[at])
    return through, best, torch.stack(positions[::-1])


def _surviving(
    sums: Sums, layers: list[Layer], through: list[Tensor], best: float
) -> tuple[list[Layer], bool]:
    """Drop the blocks that cannot hold an optimal cut; say whether nothing is left to refine.

    Two bounds, the lower counts. One is that of the module's docstring, summed over the cuts. The
    other needs no gap: collapsing the cut blocks moves the data by at most sqrt(s), s their sum of
    squares, and the root of a k-means cost is a distance, so it moves by no more.
    """
    rises, squares = [], []
    for layer, gap in zip(layers, _gaps(sums, layers), strict=True):
        spans = layer.spans(sums.values)
        count = (layer.high - layer.low).double()
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
        limit = torch.minimum(by_rise, by_distance) * (1 + _ROUNDING)
        low = through[j][torch.searchsorted(layer.ends, layer.low)]
        high = through[j][torch.searchsorted(layer.ends, layer.high)]
        stays = torch.minimum(low, high) <= limit
        survivors.append(Layer(layer.low[stays], layer.high[stays]))
    return survivors, False


def _gaps(sums: Sums, layers: list[Layer]) -> list[float]:
    """Bound, per cut, the distance of the two centres beside it from where the cuts may be."""
    low = [0, *(int(layer.ends[0]) for layer in layers), sums.num]
    high = [0, *(int(layer.ends[-1]) for layer in layers), sums.num]
    values, gaps = sums.values, []
    for j in range(1, len(low) - 1):
        # A group's mean rises when either of its ends moves up.
        if high[j] < high[j + 1]:
            above = sums.mean(high[j], high[j + 1])
        else:
            above = float(values[high[j + 1] - 1])
        below = sums.mean(low[j - 1], low[j]) if low[j - 1] < low[j] else float(values[low[j - 1]])
        gaps.append(max(0.0, above - below))
    return gaps
