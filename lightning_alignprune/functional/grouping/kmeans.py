"""Optimal grouping of numbers: exact one-dimensional k-means, fast enough for every epoch.

Legend: ``N`` scores, ``k`` groups.
"""

import math
from typing import Literal

import torch
from torch import Tensor

from lightning_alignprune._checks import check_number
from lightning_alignprune.functional.draws import sample_keys
from lightning_alignprune.functional.grouping._cut_search import optimal_positions
from lightning_alignprune.functional.selection import Selection, draw_fixed_count


def optimal_cuts(scores: Tensor, num_groups: int) -> Tensor:
    """Find the k-means grouping of numbers with the least within-group sum of squares.

    In one dimension the optimal groups are intervals, so k - 1 values describe them: a score
    belongs to group g if g of the cuts are less than or equal to it, and group 0 is the lowest.
    The result is a global optimum, not a local one as with Lloyd's algorithm: no other grouping has
    a lower inertia, up to the rounding of float64 sums. It is deterministic; equal scores
    share a group. NaN and infinite scores are left out.

    Args:
        scores: Shape (N,), any float dtype.
        num_groups: k, at least 1.

    Returns:
        Shape (k - 1,), ascending, dtype float32 (float64 for float64 scores), on the CPU. With
        fewer distinct scores than groups each distinct score is a group and the last groups are
        empty (their cut is infinite).

    Raises:
        ValueError: If ``num_groups`` is below 1 or ``scores`` is not one-dimensional.

    Example:
        >>> optimal_cuts(torch.tensor([0.0, 9.0, 0.1, 5.0, 0.2, 9.5]), 3)
        tensor([5., 9.])

    Note:
        One sort and one pass for sums, O(N log N); extra memory is a copy of the scores. The
        search itself hardly depends on N but grows with k: meant for k up to some dozens. It runs
        on the CPU whatever the device, which keeps the result the same everywhere.
    """
    check_number(
        "optimal_cuts", "num_groups", num_groups, low=1, integer=True, remedy="One group keeps all."
    )
    if scores.ndim != 1:
        raise ValueError(
            f"optimal_cuts: expected scores of shape (N,), got {tuple(scores.shape)}. "
            "Pass one score per sample."
        )
    return _cuts_of(_as_floats(scores).clone(), num_groups)


def _as_floats(scores: Tensor) -> Tensor:
    values = scores.detach().cpu()
    return values if values.dtype == torch.float64 else values.float()


def _cuts_of(values: Tensor, num_groups: int) -> Tensor:
    """Do what :func:`optimal_cuts` does with float32 or float64 numbers that may be reordered."""
    # NumPy sorts 32-bit floats in place with vector instructions, thirty times as fast as torch,
    # and puts NaN last; minus infinity comes first.
    array = values.numpy()
    array.sort()
    infinity = array.dtype.type(math.inf)  # of the array's type: of another, all would be converted
    start, stop = array.searchsorted(-infinity, "right"), array.searchsorted(infinity)
    values, array = values[start:stop], array[start:stop]
    cuts = torch.full((num_groups - 1,), torch.inf, dtype=values.dtype)
    at = 0
    for group in range(num_groups - 1 if len(array) else 0):
        at = int(array.searchsorted(array[at], "right"))
        if at == len(array):
            return cuts
        cuts[group] = values[at]
    if num_groups == 1 or not len(array):
        return cuts
    return values[optimal_positions(values, num_groups)]


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


def sliding_window(num_groups: int, window_fraction: float, counter: int) -> range:
    """Tell which groups, counted from the easy end, SeTa trains on.

    The width is ``round(num_groups * window_fraction)``, halves to even.

    Args:
        num_groups: k.
        window_fraction: Share of the groups in the window.
        counter: 0 takes all groups; later numbers slide the window, and begin again at the end.

    Example:
        >>> [list(sliding_window(4, 0.5, counter)) for counter in range(4)]
        [[0, 1, 2, 3], [1, 2], [2, 3], [0, 1]]
    """
    if counter == 0:
        return range(num_groups)
    width = round(num_groups * window_fraction)
    start = counter % (num_groups - width + 1)
    return range(start, start + width)


def window_selection(
    scores: Tensor,
    num_groups: int,
    window: range,
    keep_fraction: float,
    indices: Tensor,
    seed: int,
    epoch: int,
    easy_end: Literal["low", "high"] = "low",
) -> Selection:
    """Draw a share of the samples, group them by score, keep the groups of a window (SeTa).

    Samples with a NaN or infinite score are kept and take no part. If all drawn scores are equal
    they are split into k chunks of equal size, in random order.

    Args:
        scores: Shape (N,).
        num_groups: k, at least 1.
        window: The groups to keep, counted from the easy end.
        keep_fraction: Share of the defined samples drawn before grouping, rounded down.
        indices: Shape (N,), int64. The samples' indices in the data set.
        seed: The run's seed.
        epoch: The epoch the selection is for.
        easy_end: ``"low"`` if low scores are easy, as with a loss; else ``"high"``.

    Returns:
        The selection, without weights.

    Example:
        >>> scores = torch.tensor([0.1, 5.0, 0.2, 9.0])
        >>> window_selection(scores, 3, range(1, 3), 1.0, torch.arange(4), 0, 1).kept.tolist()
        [False, True, False, True]

    Note:
        O(N) expected time; see :func:`optimal_cuts`.
    """
    defined = (scores - scores) == 0  # as isfinite, in half the time
    drawn = defined
    if keep_fraction < 1.0:
        count = int(keep_fraction * int(defined.sum()) + 1e-9)
        drawn = draw_fixed_count(defined, count, indices, seed, epoch)
    # NumPy gathers several times as fast as torch.
    values = _as_floats(scores).numpy().compress(drawn.cpu().numpy())
    cuts = _cuts_of(torch.from_numpy(values), num_groups)
    is_one_value = num_groups > 1 and bool(cuts[0].isinf())
    if is_one_value:
        positions = drawn.nonzero().squeeze(1)
        order = sample_keys(indices[positions], seed, epoch, stream=1).argsort()
        size = math.ceil(len(positions) / num_groups)
        kept = ~defined
        kept[positions[order[window.start * size : window.stop * size]]] = True
        return Selection(kept)
    first, stop = window.start, window.stop
    if easy_end == "high":
        first, stop = num_groups - stop, num_groups - first
    kept = drawn
    if first > 0:
        kept = kept & (scores >= float(cuts[first - 1]))
    if stop < num_groups:
        kept = kept & (scores < float(cuts[stop - 1]))
    return Selection(kept | ~defined)
