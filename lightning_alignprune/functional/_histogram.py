"""A histogram of one value a sample, over all ranks in one sum."""

import torch
from torch import Tensor

from lightning_alignprune.functional.selection import AllReduce


def histogram(
    values: Tensor, low: float, high: float, num_bins: int, all_reduce: AllReduce | None
) -> Tensor:
    """Count values in bins of one width; what lies outside counts at the ends, NaN nowhere.

    Returns:
        Shape (num_bins,), float64, on the CPU. The same on all ranks.
    """
    scaled = (values - low) * (num_bins / (high - low))
    bins = scaled[~scaled.isnan()].clamp_(0, num_bins - 1).long()
    counts = torch.bincount(bins, minlength=num_bins)
    return (all_reduce(counts) if all_reduce else counts).double().cpu()
