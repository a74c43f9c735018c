"""Where do the groups of one-dimensional numbers begin and end? Exact k-means."""

from lightning_alignprune.functional.grouping.kmeans import group_labels, optimal_cuts
from lightning_alignprune.functional.grouping.window import sliding_window, window_selection

__all__ = ["group_labels", "optimal_cuts", "sliding_window", "window_selection"]
