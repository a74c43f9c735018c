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

import math

import numpy as np

from lightning_alignprune.functional.grouping._score_sums import Array, ScoreSums

_PARTS = 64  # per cut and round
_LOOSE = 0.1  # of a cut's largest rise; splitting blocks of less would be in vain
_ROUNDING = 1e-12  # of a cost, relative
_HUGE = 1e140  # its square is a number, many times over: infinity could not be subtracted


def optimal_thresholds(scores: ScoreSums, num_groups: int) -> Array:
    """Return optimal cuts as keys, ascending: k - 1, or fewer where groups would be empty."""
    infinity = int(scores.keys(np.array([math.inf]))[0])
    # No block spans the zero, so that the difference of two keys cannot overflow.
    ends = np.array([1 - infinity, 0, infinity])
    at_end = np.zeros((num_groups - 1, 3), dtype=bool)
    inside = np.ones((num_groups - 1, 2), dtype=bool)
    splits = inside[0]
    while inside.any():
        kept: Array = np.any(at_end | _beside(inside), axis=0)
        kept[[0, -1]] = True
        finer = np.unique(np.concatenate([ends[kept], _inner_ends(scores, ends, inside, splits)]))
        inside = inside[:, np.searchsorted(ends, finer[:-1], side="right") - 1]
        moved = np.zeros((num_groups - 1, len(finer)), dtype=bool)
        moved[:, np.searchsorted(finer, ends[kept])] = at_end[:, kept]
        ends = finer
        current = Round(scores, ends, moved, inside)
        at_end, inside, splits = current.survivors()
    below = current.below[0, current.cuts]
    # A cut counts if there are scores between it and the one before, and some above it.
    counts = (np.diff(below, prepend=0.0) > 0) & (below < scores.num)
    found: Array = ends[current.cuts[counts]]
    return found


class Round:
    """The best cuts at some ends, and where better ones may be: one collective.

    Args:
        scores: The scores.
        ends: Shape (M,), keys, ascending; all scores are between the outer ones.
        at_end: Shape (k - 1, M), bool. At which ends each cut may be, beside those of ``inside``.
        inside: Shape (k - 1, M - 1), bool. Inside which blocks each cut may be.
    """

    def __init__(self, scores: ScoreSums, ends: Array, at_end: Array, inside: Array) -> None:
        self.below, self.centre = scores.below(ends), scores.centre
        self.low, self.high = scores.values(ends[:-1]), scores.values(ends[1:] - 1)
        self.count = np.diff(self.below[0])
        self.inside = inside & (self.count > 1) & (np.diff(ends) > 1)
        at = [row.nonzero()[0] for row in at_end | _beside(inside)]
        self.at = [np.array([0]), *at, np.array([len(ends) - 1])]
        self.costs = [self._cost(*pair) for pair in zip(self.at[:-1], self.at[1:], strict=True)]
        self.best, self.cuts = self._solve()

    def _cost(self, starts: Array, stops: Array) -> Array:
        """Sum of squares around the mean between ends; inf where it runs backwards."""
        count, first, second = self.below[:, None, stops] - self.below[:, starts, None]
        np.square(first, out=first)
        first /= np.maximum(count, 1.0, out=count)
        second -= first
        cost: Array = np.maximum(second, 0.0, out=second)
        cost[starts[:, None] > stops] = np.inf
        return cost

    def _solve(self) -> tuple[float, Array]:
        """Find the least cost at the ends, and the cuts that have it, shape (k - 1,)."""
        head, origins = self.costs[0][0], []
        for cost in self.costs[1:]:
            total = cost + head[:, None]
            origins.append(total.argmin(0))
            head = total.min(0)
        place, cuts = 0, []
        for origin, at in zip(origins[::-1], self.at[-2:0:-1], strict=True):
            place = origin[place]
            cuts.append(at[place])
        return float(head[0]), np.array(cuts[::-1])

    def survivors(self) -> tuple[Array, Array, Array]:
        """Tell at which ends and inside which blocks each cut may be, and which blocks to split."""
        rises = np.stack([self._rises(cut) for cut in range(len(self.inside))])
        bounds = self._bounds(_beside(rises))
        limit = self.best * (1 + _ROUNDING)
        inside = self.inside & (np.minimum(bounds[:, :-1], bounds[:, 1:]) - rises <= limit)
        at_end = bounds <= limit
        at_end[:, 1:] &= ~(at_end[:, :-1] & (self.count == 0))  # the same groups as one end before
        loosest = (rises * inside).max(1, keepdims=True)
        return at_end, inside, (inside & (rises >= _LOOSE * loosest)).any(0)

    def _bounds(self, rises: Array) -> Array:
        """Least cost through each end less the rises of the other cuts, (k - 1, M)."""
        before, after = [self.costs[0][0]], [self.costs[-1][:, 0]]
        for cut in range(1, len(rises)):
            less = before[-1] - rises[cut - 1, self.at[cut]]
            before.append((self.costs[cut] + less[:, None]).min(0))
            less = after[-1] - rises[-cut, self.at[-1 - cut]]
            after.append((self.costs[-1 - cut] + less).min(1))
        bounds = np.full_like(rises, np.inf)
        for row, at, head, tail in zip(bounds, self.at[1:-1], before, after[::-1], strict=True):
            row[at] = head + tail
        return bounds

    def _rises(self, cut: int) -> Array:
        """Bound what it costs to move a cut from inside each block to an end, (M - 1,)."""
        # Where nothing is between the block and the farthest end, the block itself has the mean.
        count, first, _ = self.below[:, self.at[cut + 2][-1:]] - self.below[:, 1:]
        above = np.where(count > 0, first / np.maximum(count, 1), self.high - self.centre)
        count, first, _ = self.below[:, :-1] - self.below[:, self.at[cut][:1]]
        below = np.where(count > 0, first / np.maximum(count, 1), self.low - self.centre)
        span = np.minimum(self.high - self.low, _HUGE)
        gap = np.minimum(above - below, span + 2 * np.sqrt(self.best / np.maximum(self.count, 1)))
        rises: Array = self.count * span * gap.clip(0.0, _HUGE) * self.inside[cut]
        return rises


def _beside(blocks: Array) -> Array:
    """The larger of the two blocks beside each end, from (k - 1, M - 1) to (k - 1, M)."""
    left, right = (np.pad(blocks, ((0, 0), sides)) for sides in ((1, 0), (0, 1)))
    larger: Array = np.maximum(left, right)
    return larger


def _inner_ends(scores: ScoreSums, ends: Array, inside: Array, splits: Array) -> Array:
    """Split blocks by key and by value: evenly on a logarithmic and on a linear scale."""
    low, high = ends[:-1][splits, None], ends[1:][splits, None]
    num = max(2, _PARTS * len(inside) // int(inside[:, splits].sum()))
    share = np.arange(1, num) / num
    by_key = low + ((high - low) * share).astype(np.int64)
    first, last = scores.values(low), scores.values(high - 1)
    by_value = scores.keys(first + (last - first) * share)
    return np.concatenate([by_key, by_value], 1).clip(low, high).ravel()
