"""Where do the groups of one-dimensional numbers begin and end? Exact k-means."""

from lightning_alignprune.functional.grouping.kmeans import (
    group_labels,
    optimal_cuts,
    sliding_window,
    window_selection,
)
from lightning_alignprune.functional.grouping.over_ranks import (
    cuts_over_ranks,
    window_selection_over_ranks,
)

__all__ = [
    "cuts_over_ranks",
    "group_labels",
    "optimal_cuts",
    "sliding_window",
    "window_selection",
    "window_selection_over_ranks",
]
