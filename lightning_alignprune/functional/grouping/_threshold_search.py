"""The search behind :func:`~lightning_alignprune.functional.grouping.over_ranks.cuts_over_ranks`.

Legend: ``n`` scores on this rank, ``k`` groups, ``M`` thresholds. A *key* is a float32 as an
integer of the same order; a *threshold* is a key that cuts the scores into those below it and the
others; a *block* is two thresholds between which a cut may be; a *layer* is the blocks of one cut.

It solves among some hundred thresholds, drops every block that provably cannot hold an optimal cut,
splits the others, and ends when none holds two different scores. What a threshold needs to know of
the scores below it is their count, sum and sum of squares: three numbers that add up over ranks.

Two bounds, the lower counts. Moving a cut from the inside of a block to the better of its two ends
raises the cost by at most ``2 * D * gap``, with ``D <= n_b * h / 4`` for a block of n_b scores that
spans h, and ``gap`` the distance of the two centres beside the cut (collapse the block to its mean:
the cost is then concave in the share that goes left, so an end is best). And collapsing the cut
blocks moves the data by at most sqrt(s), s their sum of squares, and the root of a k-means cost is
a distance, so it moves by no more.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from lightning_alignprune.functional._ordering import from_keys, ordered_keys

AllReduce = Callable[[Tensor], Tensor]
_LOW_BITS = 16
_BINS = 1 << 16
_FIRST = 256  # thresholds to begin with
_PARTS = 64  # parts a layer is split into per round
_ROUNDING = 1e-12
_LOOSE = 1e-3  # of the loosest block's bound


class HeldScores:
    """This rank's finite scores in order, and what all ranks together hold below a threshold.

    The sums run outward from a middle score, negative towards the low end, so that an outlier
    spoils the precision only of groups that hold it.

    Attributes:
        high: High halves of the keys that occur on any rank, ascending: one collective.
        counts: How many scores have each.
        centre: A score from the middle.
    """

    def __init__(self, scores: Tensor, all_reduce: AllReduce) -> None:
        finite = scores[scores.isfinite()].float().cpu() + 0.0  # -0.0 and 0.0 are one value
        self.keys = ordered_keys(finite).long().sort().values
        self.all_reduce: AllReduce = all_reduce
        bins = (self.keys >> _LOW_BITS) + _BINS // 2
        counts = all_reduce(torch.bincount(bins, minlength=_BINS))
        occupied = counts.nonzero().squeeze(1)
        self.high, self.counts = occupied - _BINS // 2, counts[occupied]
        below = self.counts.cumsum(0)
        self.num, self.centre = 0, 0.0
        if not len(below):
            return
        self.num = int(below[-1])
        middle = self.high[int((below < self.num // 2).sum())] << _LOW_BITS
        self.centre = float(from_keys(middle))
        x = from_keys(self.keys).double().sub_(self.centre)
        at = int(torch.searchsorted(self.keys, middle))
        count = torch.arange(len(x) + 1, dtype=torch.float64) - at
        self.prefix = torch.stack([count, _outward(x, at), _outward(x.square(), at)])

    def below(self, thresholds: Tensor) -> Tensor:
        """Count, sum and sum of squares below each threshold, shape (3, M): one collective."""
        at = torch.searchsorted(self.keys, thresholds)
        total: Tensor = self.all_reduce(self.prefix[:, at].contiguous())
        return total

    def distinct(self) -> Tensor:
        """Return the keys that occur, where they have few high halves: one collective."""
        slot = torch.searchsorted(self.high, self.keys >> _LOW_BITS)
        place = slot * _BINS + (self.keys & (_BINS - 1))
        counts = self.all_reduce(torch.bincount(place, minlength=len(self.high) * _BINS))
        found = counts.nonzero().squeeze(1)
        return (self.high[found // _BINS] << _LOW_BITS) + found % _BINS


def _outward(x: Tensor, at: int) -> Tensor:
    zero = torch.zeros(1, dtype=torch.float64)
    return torch.cat([-x[:at].flip(0).cumsum(0).flip(0), zero, x[at:].cumsum(0)])


class Solution:
    """The best cuts among thresholds, where each layer's cut may be at some of them only."""

    def __init__(self, scores: HeldScores, ends: Tensor, layers: list[Tensor]) -> None:
        self.ends, self.layers, self.centre = ends, layers, scores.centre
        self.below = scores.below(ends)
        at = [torch.searchsorted(ends, torch.unique(layer)) for layer in layers]
        self.at = at
        first, last = torch.tensor([0]), torch.tensor([len(ends) - 1])
        heads, froms = [self._cost(first, at[0])[0]], []
        for j in range(1, len(at)):
            head, arg = (self._cost(at[j - 1], at[j]) + heads[-1].unsqueeze(1)).min(0)
            heads.append(head)
            froms.append(arg)
        tails = [self._cost(at[-1], last)[:, 0]]
        for j in range(len(at) - 1, 0, -1):
            tails.append((self._cost(at[j - 1], at[j]) + tails[-1]).amin(1))
        self.through = [head + tail for head, tail in zip(heads, reversed(tails), strict=True)]
        best = int(self.through[-1].argmin())
        self.best = float(self.through[-1][best])
        cuts = [at[-1][best]]
        for j in range(len(froms) - 1, -1, -1):
            best = int(froms[j][best])
            cuts.append(at[j][best])
        self.cuts = ends[torch.stack(cuts[::-1])]

    def _cost(self, starts: Tensor, stops: Tensor) -> Tensor:
        """Sum of squares around the mean between thresholds; inf where the run is backwards."""
        sums = self.below[:, stops].unsqueeze(1) - self.below[:, starts].unsqueeze(2)
        count, first, second = sums
        cost: Tensor = (second - first.square() / count.clamp(min=1)).clamp_(min=0.0)
        cost.masked_fill_(starts.unsqueeze(1) > stops, torch.inf)
        return cost

    def _mean(self, start: int, stop: int) -> float | None:
        count, first, _ = (self.below[:, stop] - self.below[:, start]).tolist()
        return self.centre + first / count if count else None

    def _gap(self, j: int) -> float:
        """Bound the distance of the two centres beside cut j from where the cuts may be."""
        low = [0, *(int(at[0]) for at in self.at), len(self.ends) - 1]
        high = [0, *(int(at[-1]) for at in self.at), len(self.ends) - 1]
        above = self._mean(high[j + 1], high[j + 2])
        below = self._mean(low[j], low[j + 1])
        if above is None:
            above = float(from_keys(self.ends[high[j + 2]] - 1))
        if below is None:
            below = float(from_keys(self.ends[low[j]]))
        return max(0.0, above - below)

    def survivors(self) -> tuple[list[Tensor], list[Tensor]]:
        """Drop the blocks that cannot hold an optimal cut, and say which others to split.

        The loosest ones are split first: an outlier loosens the bounds of every layer, and to split
        the others meanwhile would be in vain.

        Returns:
            The blocks of each layer, shape (2, L), and a bool for each, shape (L,).
        """
        squares, rises, splittable = [], [], []
        for j, layer in enumerate(self.layers):
            at = torch.searchsorted(self.ends, layer)
            count = self.below[0][at[1]] - self.below[0][at[0]]
            spans = (from_keys(layer[1] - 1).double() - from_keys(layer[0]).double()).clamp(min=0.0)
            spans = spans.masked_fill(count < 2, 0.0)  # a single score cannot be cut
            splittable.append((count > 1) & (layer[1] - layer[0] > 1))
            rises.append(count * spans * (self._gap(j) / 2))
            squares.append(count * spans.square() / 4)
        stays = []
        for j, layer in enumerate(self.layers):
            others = [i for i in range(len(self.layers)) if i != j]
            by_rise = self.best + rises[j] + sum(float(rises[i].max()) for i in others)
            square = squares[j] + sum(float(squares[i].max()) for i in others)
            by_distance = (self.best**0.5 + square.sqrt()).square() + square
            limit = torch.minimum(by_rise, by_distance) * (1 + _ROUNDING)
            at = torch.searchsorted(self.ends[self.at[j]], layer)
            stays.append(torch.minimum(self.through[j][at[0]], self.through[j][at[1]]) <= limit)
        open_rises = [r * (s & k) for r, s, k in zip(rises, splittable, stays, strict=True)]
        loose = _LOOSE * max(float(rise.max()) for rise in open_rises)
        splits = [s & (r >= loose) for s, r in zip(splittable, rises, strict=True)]
        layers = [layer[:, kept] for layer, kept in zip(self.layers, stays, strict=True)]
        return layers, [split[kept] for split, kept in zip(splits, stays, strict=True)]


def split_blocks(layer: Tensor, splits: Tensor) -> Tensor:
    """Split some of the blocks of a layer, shape (2, L), by key and by value."""
    if not bool(splits.any()):
        return layer
    low, high = layer[:, splits].unsqueeze(2)
    share = torch.arange(1, max(2, _PARTS // len(low)), dtype=torch.float64)
    share /= len(share) + 1
    by_key = low + ((high - low) * share).long()
    first, last = from_keys(low).double(), from_keys(high - 1).double()
    by_value = ordered_keys((first + (last - first) * share).float() + 0.0).long()
    inner = torch.cat([by_key, by_value], 1).maximum(low).minimum(high)
    ends = torch.cat([low, inner, high], 1).sort(1).values
    parts = torch.stack([ends[:, :-1].flatten(), ends[:, 1:].flatten()])
    parts = torch.cat([layer[:, ~splits], parts[:, parts[0] < parts[1]]], 1)
    return parts[:, parts[0].argsort()]


def first_blocks(high: Tensor, counts: Tensor) -> Tensor:
    """Cut the range of the scores into blocks of few scores and of short range, shape (2, L)."""
    edges = torch.cat([high, high[-1:] + 1]) << _LOW_BITS
    below = torch.cat([counts.new_zeros(1), counts.cumsum(0)]).double()
    values = from_keys(edges.minimum(edges[-1] - 1)).double()
    share = torch.arange(_FIRST // 2, dtype=torch.float64) / (_FIRST // 2)
    by_count = torch.searchsorted(below, share * below[-1])
    by_value = torch.searchsorted(values, values[0] + share * (values[-1] - values[0]))
    at = torch.cat([by_count, by_value, torch.tensor([0, len(edges) - 1])])
    ends: Tensor = torch.unique(edges[at.clamp(max=len(edges) - 1)])
    return torch.stack([ends[:-1], ends[1:]])
