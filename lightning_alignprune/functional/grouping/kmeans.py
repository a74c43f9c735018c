"""Optimal grouping of numbers: exact one-dimensional k-means, fast enough for every epoch.

Legend: ``N`` scores, ``k`` groups.
"""

import torch
from torch import Tensor

from lightning_alignprune._checks import check_int
from lightning_alignprune.functional.grouping._cut_search import optimal_thresholds
from lightning_alignprune.functional.grouping._score_sums import ScoreSums
from lightning_alignprune.functional.selection import AllReduce


def optimal_cuts(scores: Tensor, num_groups: int, all_reduce: AllReduce | None = None) -> Tensor:
    """Find the k-means grouping of numbers with the least within-group sum of squares.

    In one dimension the optimal groups are intervals, so k - 1 values describe them: a score
    belongs to group g if g of the cuts are less than or equal to it, and group 0 is the lowest.
    The result is a global optimum, not a local one as with Lloyd's algorithm: no other grouping has
    a lower inertia, up to the rounding of float64 sums. It is deterministic; equal scores
    share a group. NaN and infinite scores are left out.

    Args:
        scores: Shape (N,), any float dtype, below 1e150 in size; with ``all_reduce`` this rank's
            share.
        num_groups: k, at least 1.
        all_reduce: Sums a tensor over ranks that each hold a share of the scores; all must call
            alike, with the same dtype. None if one process holds all.

    Returns:
        Shape (k - 1,), ascending, dtype float32 (float64 for float64 scores), on the CPU, the same
        on every rank. Each is the lowest score of the group above it; with ``all_reduce`` it is
        some number between the two groups. With fewer distinct scores than groups each distinct
        score is a group and the last groups are empty (their cut is infinite).

    Raises:
        ValueError: If ``num_groups`` is below 1 or ``scores`` is not one-dimensional.

    Example:
        >>> optimal_cuts(torch.tensor([0.0, 9.0, 0.1, 5.0, 0.2, 9.5]), 3)
        tensor([5., 9.])

    Note:
        One sort, O(N log N), on the CPU whatever the device; some 30 bytes a score. The search
        hardly depends on N but grows with k: meant for k up to twenty or so. With ``all_reduce``
        some 15 to 25 collectives: five of 64 kB, the others of some kB, whatever N.
    """
    num_groups = check_int(
        "optimal_cuts", "num_groups", num_groups, low=1, remedy="One group keeps all."
    )
    if scores.ndim != 1:
        raise ValueError(
            f"optimal_cuts: expected scores of shape (N,), got {tuple(scores.shape)}. "
            "Pass one score per sample."
        )
    sums = ScoreSums(scores, all_reduce)
    cuts = torch.full((num_groups - 1,), torch.inf, dtype=sums.scores.dtype)
    if num_groups == 1 or sums.num < 2:
        return cuts
    found = torch.from_numpy(sums.values(optimal_thresholds(sums, num_groups))).to(cuts)
    if all_reduce is None:  # the lowest score of the group above
        found = sums.scores[torch.searchsorted(sums.scores, found)]
    cuts[: len(found)] = found
    return cuts


def group_labels(scores: Tensor, cuts: Tensor) -> Tensor:
    """Number the groups that :func:`optimal_cuts` found: 0 for the lowest scores.

    Args:
        scores: Shape (N,).
        cuts: Shape (k - 1,), ascending.

    Returns:
        Shape (N,), int32, in [0, k - 1]; -1 where the score is NaN or infinite.

    Example:
        >>> group_labels(torch.tensor([0.0, 9.0, torch.nan, 5.0]), torch.tensor([5.0, 9.0]))
        tensor([ 0,  2, -1,  1], dtype=torch.int32)
    """
    labels = torch.bucketize(scores, cuts.to(scores), right=True, out_int32=True)
    return labels.masked_fill_(~scores.isfinite(), -1)
