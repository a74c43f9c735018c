"""Optimal grouping when each rank holds a share of the scores: counts and sums travel, not scores.

Legend: ``n`` scores on this rank, ``k`` groups.
"""

import math
from typing import Literal

import torch
from torch import Tensor

from lightning_alignprune.functional._ordering import from_keys
from lightning_alignprune.functional.grouping._threshold_search import (
    AllReduce,
    HeldScores,
    Solution,
    first_blocks,
    split_blocks,
)
from lightning_alignprune.functional.selection import Selection, draw_fixed_count


def cuts_over_ranks(scores: Tensor, num_groups: int, all_reduce: AllReduce) -> Tensor:
    """Find the optimal k-means grouping of the scores of all ranks.

    The groups are those of :func:`~lightning_alignprune.functional.optimal_cuts` on the scores of
    all ranks in one place, up to the rounding of float64 sums. A cut is some number between two
    neighbouring groups, not always a score. NaN and infinite scores are left out.

    Args:
        scores: Shape (n,), this rank's share; taken as float32.
        num_groups: k, at least 1.
        all_reduce: Sums a tensor over ranks; all ranks must call alike.

    Returns:
        Shape (k - 1,), ascending, float32, on the CPU, the same on every rank; infinite where
        there are fewer distinct scores than groups.

    Example:
        >>> cuts = cuts_over_ranks(torch.tensor([0.0, 9.0, 0.1, 5.0]), 3, all_reduce=lambda x: x)
        >>> torch.bucketize(torch.tensor([0.0, 9.0, 0.1, 5.0]), cuts, right=True).tolist()
        [0, 2, 0, 1]

    Note:
        A sort of the n scores on the CPU and 32 bytes a score. About eight collectives: one of
        0.5 MB, the others of some kB to 0.1 MB, whatever n. If few numbers occur, or all
        are nearly the same, one more of at most ``0.5 * k`` MB.
    """
    cuts = torch.full((num_groups - 1,), torch.inf)
    held = HeldScores(scores.detach(), all_reduce)
    if num_groups == 1 or held.num == 0:
        return cuts
    if len(held.high) <= num_groups:
        distinct = held.distinct()
        if len(distinct) <= num_groups:
            cuts[: len(distinct) - 1] = from_keys(distinct[1:])
            return cuts
    whole = first_blocks(held.high, held.counts)
    outer = torch.stack([whole[0, 0], whole[1, -1]])
    layers = [whole] * (num_groups - 1)
    while True:
        ends: Tensor = torch.unique(torch.cat([outer, *(layer.flatten() for layer in layers)]))
        solution = Solution(held, ends, layers)
        blocks, splits = solution.survivors()
        if not any(bool(split.any()) for split in splits):
            return from_keys(solution.cuts)
        layers = [split_blocks(*item) for item in zip(blocks, splits, strict=True)]


def window_selection_over_ranks(
    scores: Tensor,
    num_groups: int,
    window: range,
    keep_fraction: float,
    indices: Tensor,
    seed: int,
    epoch: int,
    all_reduce: AllReduce,
    easy_end: Literal["low", "high"] = "low",
) -> Selection:
    """Select as :func:`~lightning_alignprune.functional.window_selection`, each rank its share.

    Args:
        scores: Shape (n,), this rank's share.
        num_groups: k, at least 1.
        window: The groups to keep, counted from the easy end.
        keep_fraction: Share of the defined samples drawn before grouping, rounded down.
        indices: Shape (n,), int64. The samples' indices in the data set.
        seed: The run's seed.
        epoch: The epoch the selection is for.
        all_reduce: Sums a tensor over ranks; all ranks must call alike.
        easy_end: ``"low"`` if low scores are easy, as with a loss; else ``"high"``.

    Returns:
        The selection of this rank's samples, without weights.

    Note:
        See :func:`cuts_over_ranks`; the draw before it takes five collectives of 64 kB.
    """
    defined = scores.isfinite()
    drawn, common = defined, (indices, seed, epoch)
    num_drawn = int(all_reduce(defined.sum()))
    if keep_fraction < 1.0:
        num_drawn = int(keep_fraction * num_drawn + 1e-9)
        drawn = draw_fixed_count(defined, num_drawn, *common, all_reduce=all_reduce)
    cuts = cuts_over_ranks(torch.where(drawn, scores, torch.inf), num_groups, all_reduce)
    if num_groups > 1 and bool(cuts[0].isinf()):
        size = math.ceil(num_drawn / num_groups)
        first, stop = (
            draw_fixed_count(drawn, end * size, *common, stream=1, all_reduce=all_reduce)
            for end in (window.start, window.stop)
        )
        return Selection((stop & ~first) | ~defined)
    start, end = window.start, window.stop
    if easy_end == "high":
        start, end = num_groups - end, num_groups - start
    kept = drawn
    if start > 0:
        kept = kept & (scores >= float(cuts[start - 1]))
    if end < num_groups:
        kept = kept & (scores < float(cuts[end - 1]))
    return Selection(kept | ~defined)
