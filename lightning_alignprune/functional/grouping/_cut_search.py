"""The search behind :func:`~lightning_alignprune.functional.optimal_cuts`.

Legend: ``k`` groups, ``M`` thresholds, called *ends*; two neighbours enclose a *block* of scores. A
cut is at an end or inside a block.

How it works. A round finds the best cuts at some hundred ends by dynamic programming, drops each
end and block that provably has no optimal cut, and splits the other blocks. When none is left,
nothing can be better. Of the scores it needs only count, sum and sum of squares below each end:
three numbers that add up over ranks.

Why blocks can be dropped. Take optimal cuts, and one of them inside a block of n_b scores that span
h. Move it to the end with fewer scores between: at most ``n_b / 2`` scores go to the neighbouring
centre. With the centres held each costs ``2 * gap * (its distance from the middle of the two
centres)`` more, gap being the distance of the centres; the middle is inside the block, so the move
costs at most ``rise = n_b * h * gap``. Moves of several cuts add up, and keep their order. So the
cost at the ends, less the rises of the cuts moved, is a lower bound of the least cost: what even so
is above the best cost found can go. Two bounds of the gap, the lower counts:

- The mean of a group rises with its ends, and the ends where its cuts may be are known.
- Pair the scores that move with as many across the cut: the gap is at most h and the distances of a
  pair from their centres, whose squares are part of the least cost. So at most
  ``h + 2 * sqrt(cost / n_b)`` counts, which no outlier far away makes loose.
"""

import torch
from torch import Tensor

from lightning_alignprune.functional._ordering import ordered_keys
from lightning_alignprune.functional.grouping._score_sums import ScoreSums

_PARTS = 128  # per cut and round
_LOOSE = 1e-3  # of a cut's largest rise; splitting blocks of less would be in vain
_ROUNDING = 1e-12  # of a cost, relative
_HUGE = 1e300  # instead of infinity, which cannot be subtracted


def optimal_thresholds(scores: ScoreSums, num_groups: int) -> Tensor:
    """Return optimal cuts as keys, ascending: k - 1, or fewer where groups would be empty."""
    infinity = int(ordered_keys(torch.tensor(torch.inf, dtype=scores.dtype)))
    # No block spans the zero, so that the difference of two keys cannot overflow.
    ends = torch.tensor([1 - infinity, 0, infinity])
    at_end = torch.zeros(num_groups - 1, 3, dtype=torch.bool)
    inside = torch.ones(num_groups - 1, 2, dtype=torch.bool)
    splits = inside[0]
    while bool(inside.any()):
        kept = (at_end | _beside(inside)).any(0)
        kept[[0, -1]] = True
        finer = torch.unique(torch.cat([ends[kept], _inner_ends(scores, ends, inside, splits)]))
        inside = inside[:, torch.searchsorted(ends, finer[:-1], right=True) - 1]
        moved = torch.zeros(num_groups - 1, len(finer), dtype=torch.bool)
        moved[:, torch.searchsorted(finer, ends[kept])] = at_end[:, kept]
        ends = finer
        current = Round(scores, ends, moved, inside)
        at_end, inside, splits = current.survivors()
    below = current.below[0, current.cuts]
    # A cut counts if there are scores between it and the one before, and some above it.
    counts = (below.diff(prepend=below.new_zeros(1)) > 0) & (below < scores.num)
    return ends[current.cuts[counts]]


class Round:
    """The best cuts at some ends, and where better ones may be: one collective.

    Args:
        scores: The scores.
        ends: Shape (M,), keys, ascending; all scores are between the outer ones.
        at_end: Shape (k - 1, M), bool. At which ends each cut may be, beside those of ``inside``.
        inside: Shape (k - 1, M - 1), bool. Inside which blocks each cut may be.
    """

    def __init__(self, scores: ScoreSums, ends: Tensor, at_end: Tensor, inside: Tensor) -> None:
        self.below, self.centre = scores.below(ends), scores.centre
        self.low, self.high = scores.value(ends[:-1]).double(), scores.value(ends[1:] - 1).double()
        self.count = self.below[0].diff()
        self.inside = inside & (self.count > 1) & (ends.diff() > 1)
        outer = torch.tensor([0, len(ends) - 1])
        at = [row.nonzero().squeeze(1) for row in at_end | _beside(inside)]
        self.at = [outer[:1], *at, outer[1:]]
        self.costs = [self._cost(*pair) for pair in zip(self.at[:-1], self.at[1:], strict=True)]
        self.best, self.cuts = self._solve()

    def _cost(self, starts: Tensor, stops: Tensor) -> Tensor:
        """Sum of squares around the mean between ends; inf where it runs backwards."""
        sums = self.below[:, stops].unsqueeze(1) - self.below[:, starts].unsqueeze(2)
        count, first, second = sums
        cost: Tensor = second.sub_(first.square_().div_(count.clamp_(min=1.0))).clamp_(min=0.0)
        return cost.masked_fill_(starts.unsqueeze(1) > stops, torch.inf)

    def _solve(self) -> tuple[float, Tensor]:
        """Find the least cost at the ends, and the cuts that have it, shape (k - 1,)."""
        head, origins = self.costs[0][0], []
        for cost in self.costs[1:]:
            head, origin = (cost + head.unsqueeze(1)).min(0)
            origins.append(origin)
        place, cuts = 0, []
        for origin, at in zip(origins[::-1], self.at[-2:0:-1], strict=True):
            place = int(origin[place])
            cuts.append(at[place])
        return float(head[0]), torch.stack(cuts[::-1])

    def survivors(self) -> tuple[Tensor, Tensor, Tensor]:
        """Tell at which ends and inside which blocks each cut may be, and which blocks to split."""
        rises = torch.stack([self._rises(cut) for cut in range(len(self.inside))])
        bounds = self._bounds(_beside(rises))
        limit = self.best * (1 + _ROUNDING)
        inside = self.inside & (torch.minimum(bounds[:, :-1], bounds[:, 1:]) - rises <= limit)
        at_end = bounds <= limit
        at_end[:, 1:] &= ~(at_end[:, :-1] & (self.count == 0))  # the same groups as one end before
        loosest = (rises * inside).amax(1, keepdim=True)
        return at_end, inside, (inside & (rises >= _LOOSE * loosest)).any(0)

    def _bounds(self, rises: Tensor) -> Tensor:
        """Least cost through each end less the rises of the other cuts, (k - 1, M)."""
        before, after = [self.costs[0][0]], [self.costs[-1][:, 0]]
        for cut in range(1, len(rises)):
            less = before[-1] - rises[cut - 1, self.at[cut]]
            before.append((self.costs[cut] + less.unsqueeze(1)).amin(0))
            less = after[-1] - rises[-cut, self.at[-1 - cut]]
            after.append((self.costs[-1 - cut] + less).amin(1))
        bounds = torch.full_like(rises, torch.inf)
        for row, at, head, tail in zip(bounds, self.at[1:-1], before, after[::-1], strict=True):
            row[at] = head + tail
        return bounds

    def _rises(self, cut: int) -> Tensor:
        """Bound what it costs to move a cut from inside each block to an end, (M - 1,)."""
        # Where nothing is between the block and the farthest end, the block itself has the mean.
        count, first, _ = self.below[:, self.at[cut + 2][-1:]] - self.below[:, 1:]
        above = torch.where(count > 0, first / count, self.high - self.centre)
        count, first, _ = self.below[:, :-1] - self.below[:, self.at[cut][:1]]
        below = torch.where(count > 0, first / count, self.low - self.centre)
        span = self.high - self.low
        gap = torch.minimum(above - below, span + 2 * (self.best / self.count).sqrt())
        rises = (self.count * span * gap).clamp(min=0.0, max=_HUGE)
        return rises.masked_fill(~self.inside[cut], 0.0)


def _beside(blocks: Tensor) -> Tensor:
    """The larger of the two blocks beside each end, from (k - 1, M - 1) to (k - 1, M)."""
    zero = blocks.new_zeros(len(blocks), 1)
    return torch.maximum(torch.cat([zero, blocks], 1), torch.cat([blocks, zero], 1))


def _inner_ends(scores: ScoreSums, ends: Tensor, inside: Tensor, splits: Tensor) -> Tensor:
    """Split blocks by key and by value: evenly on a logarithmic and on a linear scale."""
    low, high = ends[:-1][splits].unsqueeze(1), ends[1:][splits].unsqueeze(1)
    num = max(2, _PARTS * len(inside) // int(inside[:, splits].sum()))
    share = torch.arange(1, num, dtype=torch.float64) / num
    by_key = low + ((high - low) * share).long()
    first, last = scores.value(low).double(), scores.value(high - 1).double()
    by_value = (first + (last - first) * share).to(scores.dtype) + 0.0
    inner = torch.cat([by_key, ordered_keys(by_value).long()], 1)
    return inner.maximum(low).minimum(high).flatten()
