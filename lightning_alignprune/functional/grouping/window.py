"""A window of neighbouring groups that slides from easy to hard (SeTa).

Legend: ``N`` samples, ``k`` groups.
"""

import math
from typing import Literal

from torch import Tensor

from lightning_alignprune.functional.grouping.kmeans import optimal_cuts
from lightning_alignprune.functional.selection import AllReduce, Selection, draw_fixed_count


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
    all_reduce: AllReduce | None = None,
) -> Selection:
    """Draw a share of the samples, group them by score, keep the groups of a window (SeTa).

    Samples with a NaN or infinite score are kept and take no part. If all drawn scores are equal
    they are split into k chunks of equal size, in random order.

    Args:
        scores: Shape (N,); with ``all_reduce`` this rank's share.
        num_groups: k, at least 1.
        window: The groups to keep, counted from the easy end.
        keep_fraction: Share of the defined samples drawn before grouping, rounded down.
        indices: Shape (N,), int64. The samples' indices in the data set.
        seed: The run's seed.
        epoch: The epoch the selection is for.
        easy_end: ``"low"`` if low scores are easy, as with a loss; else ``"high"``.
        all_reduce: Sums a tensor over ranks that each hold a share of the samples; all must call
            alike. The selection is that of one process. None if one process holds all.

    Returns:
        The selection of these samples, without weights.

    Example:
        >>> scores = torch.tensor([0.1, 5.0, 0.2, 9.0])
        >>> window_selection(scores, 3, range(1, 3), 1.0, torch.arange(4), 0, 1).kept.tolist()
        [False, True, False, True]

    Note:
        As :func:`optimal_cuts`; with ``all_reduce`` the draw takes five collectives of 64 kB more.
    """
    defined = (scores - scores) == 0  # as isfinite, in half the time
    drawn, common = defined, (indices, seed, epoch)
    num_here = defined.sum()
    num_drawn = int(all_reduce(num_here) if all_reduce else num_here)
    if keep_fraction < 1.0:
        num_drawn = int(keep_fraction * num_drawn + 1e-9)
        drawn = draw_fixed_count(defined, num_drawn, *common, all_reduce=all_reduce)
    cuts = optimal_cuts(scores[drawn], num_groups, all_reduce)
    if num_groups > 1 and bool(cuts[0].isinf()):
        size = math.ceil(num_drawn / num_groups)
        before, until = (
            draw_fixed_count(drawn, end * size, *common, stream=1, all_reduce=all_reduce)
            for end in (window.start, window.stop)
        )
        return Selection((until & ~before) | ~defined)
    first, stop = window.start, window.stop
    if easy_end == "high":
        first, stop = num_groups - stop, num_groups - first
    kept = drawn
    if first > 0:
        kept = kept & (scores >= float(cuts[first - 1]))
    if stop < num_groups:
        kept = kept & (scores < float(cuts[stop - 1]))
    return Selection(kept | ~defined)
