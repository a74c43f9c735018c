"""How much a cut must leave, of all samples and of each class."""

import math

import torch
from torch import Tensor

from lightning_alignprune.policies.base import SelectionContext


def with_floors(
    cut: Tensor,
    badness: Tensor,
    context: SelectionContext,
    min_kept: float,
    min_kept_per_class: float,
) -> Tensor:
    """Take the least bad samples back until enough are left; ``cut`` is changed in place.

    Args:
        cut: Shape (N,), bool.
        badness: Shape (N,), float, minus infinity where undefined.
        context: Labels, where they can be read, and sums over ranks.
        min_kept: Smallest share of the samples that is left.
        min_kept_per_class: The same within each class; 0 asks for nothing.
    """
    if context.labels is not None and min_kept_per_class:
        # Negative labels, such as ignored ones, are a class of their own.
        classes = context.labels.clamp_min(-1) + 1
        sizes = torch.bincount(classes)
        kept = torch.bincount(classes[~cut], minlength=len(sizes))
        floors = (sizes * min_kept_per_class).ceil().long()
        for label in (kept < floors).nonzero().flatten().tolist():
            members = (classes == label).nonzero().flatten()
            cut[members[badness[members].argsort()[: int(floors[label])]]] = False
    counts = torch.stack([(~cut).sum(), torch.ones_like(cut).sum()])
    num_kept, num_all = context.total(counts).tolist()
    if num_kept < min_kept * num_all:
        # The same share of each rank's samples; for one process that is exact. 0.07 * 100 is
        # 7.000...1 in binary; the user's 7 % of 100 is 7.
        count = math.ceil(min_kept * len(cut) - 1e-9)
        cut[badness.argsort()[:count]] = False
    return cut
